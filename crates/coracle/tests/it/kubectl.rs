//! What people type: an unmodified kubectl, and what it prints.

use crate::cluster::Cluster;
use serde_json::Value;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: 'nginx:1.27', ports: [{containerPort: 80}], resources: {requests: {cpu: 500m, memory: 256Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

/// Replaces what differs from run to run.
fn settle(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<String> = line
            .split_whitespace()
            .map(|w| {
                let age = w.len() <= 5
                    && w.ends_with('s')
                    && w[..w.len() - 1].bytes().all(|b| b.is_ascii_digit());
                let name =
                    w.rsplit_once('-').is_some_and(|(a, b)| a.contains("web-") && b.len() == 5);
                if age {
                    "AGE".into()
                } else if name {
                    format!("{}-XXXXX", w.rsplit_once('-').unwrap().0)
                } else {
                    w.to_owned()
                }
            })
            .collect();
        out += words.join(" ").as_str();
        out.push('\n');
    }
    out
}

#[test]
fn the_usual_commands() {
    let c = Cluster::start(&["--cloud", "simulated:speed=4"]);
    assert_eq!(c.apply(WEB), "deployment.apps/web created\nservice/web created\n");
    assert_eq!(c.apply(WEB), "deployment.apps/web unchanged\nservice/web unchanged\n");
    assert!(
        c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])
            .contains("successfully rolled out")
    );
    c.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    c.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=60s"]);
    let hash =
        c.kubectl(&["get", "rs", "-o", "jsonpath={.items[0].metadata.labels.pod-template-hash}"]);

    assert_eq!(
        settle(&c.kubectl(&["get", "deployments", "-o", "wide"])),
        "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR\nweb 2/2 2 2 AGE web nginx:1.27 app=web\n"
    );
    assert_eq!(
        settle(&c.kubectl(&["get", "pods"])),
        format!(
            "NAME READY STATUS RESTARTS AGE\nweb-{hash}-XXXXX 1/1 Running 0 AGE\nweb-{hash}-XXXXX 1/1 Running 0 AGE\n"
        )
    );
    assert_eq!(
        settle(&c.kubectl(&["get", "rs"])),
        format!("NAME DESIRED CURRENT READY AGE\nweb-{hash} 2 2 2 AGE\n")
    );
    assert_eq!(
        settle(&c.kubectl(&["get", "namespaces", "--sort-by=.metadata.name"])),
        "NAME STATUS AGE\ndefault Active AGE\nkube-node-lease Active AGE\nkube-public Active AGE\nkube-system Active AGE\n"
    );
    assert!(
        settle(&c.kubectl(&["get", "service", "web"]))
            .starts_with("NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE\nweb ClusterIP 10.96.")
    );
    assert!(
        c.kubectl(&["get", "pods", "-A", "--field-selector", "status.phase=Running", "-o", "name"])
            .starts_with("pod/web-")
    );
    assert_eq!(c.kubectl(&["get", "pods", "-l", "app=other"]), "");
    assert_eq!(
        c.kubectl(&[
            "get",
            "deploy",
            "web",
            "-o",
            "custom-columns=N:.metadata.name,R:.spec.replicas"
        ]),
        "N     R\nweb   2\n"
    );
    assert!(c.kubectl(&["get", "all", "--chunk-size=1"]).contains("replicaset.apps/web-"));

    let described = c.kubectl(&["describe", "deployment", "web"]);
    for line in [
        "Replicas:               2 desired | 2 updated | 2 total | 2 available | 0 unavailable",
        "RollingUpdateStrategy:  25% max unavailable, 25% max surge",
        "Normal  ScalingReplicaSet",
    ] {
        assert!(described.contains(line), "{described}");
    }
    let pod = c.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    let described = settle(&c.kubectl(&["describe", "pod", &pod]));
    for line in [
        "Status: Running",
        "QoS Class: Burstable",
        "Controlled By: ReplicaSet/web-",
        "Scheduled",
        "PodScheduled True",
        "Started container web",
    ] {
        assert!(described.contains(line), "{line}\n{described}");
    }
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let described = c.kubectl(&["describe", "node", &node]);
    for line in [
        "karpenter.sh/nodepool=default",
        "Non-terminated Pods:",
        "Allocated resources:",
        "KubeletReady",
    ] {
        assert!(described.contains(line), "{line}\n{described}");
    }
    changes(&c);
    answers(&c);
}

fn changes(c: &Cluster) {
    c.kubectl(&["label", "deployment", "web", "team=a"]);
    c.kubectl(&["annotate", "deployment", "web", "note=b"]);
    assert_eq!(
        c.kubectl(&["get", "deploy", "-l", "team=a", "-o", "name"]),
        "deployment.apps/web\n"
    );
    assert!(c.kubectl(&["patch", "deployment", "web", "-p", "{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"web\",\"env\":[{\"name\":\"A\",\"value\":\"1\"}]}]}}}}"]).contains("patched"));
    let v = c.json(&["get", "deployment", "web"]);
    let container = &v["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (container["image"].as_str(), container["env"][0]["name"].as_str()),
        (Some("nginx:1.27"), Some("A"))
    );
    assert!(
        c.kubectl(&[
            "patch",
            "deployment",
            "web",
            "--type=json",
            "-p",
            "[{\"op\":\"remove\",\"path\":\"/spec/template/spec/containers/0/env\"}]"
        ])
        .contains("patched")
    );
    c.kubectl(&["set", "image", "deployment/web", "web=nginx:1.28"]);
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let history = c.kubectl(&["rollout", "history", "deployment/web"]);
    assert!(history.lines().count() >= 4, "{history}");
    assert!(
        c.kubectl(&["rollout", "undo", "deployment/web", "--to-revision=3"])
            .contains("rolled back")
    );
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(
        c.kubectl(&[
            "get",
            "deploy",
            "web",
            "-o",
            "jsonpath={.spec.template.spec.containers[0].image}"
        ]),
        "nginx:1.27"
    );
    c.kubectl(&["rollout", "restart", "deployment/web"]);
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    c.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let edited = std::process::Command::new("kubectl")
        .env("KUBECONFIG", c.kubeconfig())
        .env("KUBE_EDITOR", "sed -i s/note:.b/note:\\ edited/")
        .args(["edit", "deployment", "web"])
        .output()
        .unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(
        c.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.metadata.annotations.note}"]),
        "edited"
    );
    if c.kubectl_has(27, "dry run by OpenAPI v3") {
        dry_run(c);
    }
    assert!(
        c.kubectl(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"])
            .contains("deleted")
    );
    c.eventually("all pods are gone", || {
        c.kubectl(&["get", "pods", "-o", "name"]).is_empty().then_some(())
    });
    c.kubectl(&["create", "namespace", "short"]);
    c.kubectl(&["-n", "short", "create", "configmap", "x", "--from-literal=a=b"]);
    c.kubectl(&["delete", "namespace", "short", "--timeout=60s"]);
    assert!(
        c.kubectl_error(&["get", "namespace", "short"]).contains("namespaces \"short\" not found")
    );
}

/// The Deployment's controller may still write its status, so the spec's generation tells there
/// whether anything was written; nobody else writes the ConfigMap.
fn dry_run(c: &Cluster) {
    c.kubectl(&["create", "configmap", "still", "--from-literal=a=b"]);
    let stamps = || {
        let map = c.json(&["get", "configmap", "still"])["metadata"]["resourceVersion"].clone();
        let web = c.json(&["get", "deploy", "web"])["metadata"].clone();
        (map, web["uid"].clone(), web["generation"].clone())
    };
    let before = stamps();
    assert!(
        c.kubectl(&["delete", "deployment/web", "configmap/still", "--dry-run=server"])
            .contains("deleted (server dry run)")
    );
    assert!(
        c.kubectl(&["scale", "deploy", "web", "--replicas=9", "--dry-run=server"])
            .contains("scaled")
    );
    assert!(
        c.kubectl(&["annotate", "configmap", "still", "a=b", "--dry-run=server"])
            .contains("annotated")
    );
    assert_eq!(c.json(&["get", "deploy", "web"])["spec"]["replicas"], 3);
    assert_eq!(before, stamps(), "a dry run writes nothing");
}

fn answers(c: &Cluster) {
    let old = c.try_kubectl(&["get", "componentstatuses"]);
    let warning = String::from_utf8(old.stderr).unwrap();
    assert!(warning.contains("Warning: v1 ComponentStatus is deprecated in v1.19+"), "{warning}");
    if c.kubectl_has(27, "explain by OpenAPI v3") {
        explains(c);
    }
    let resources = c.kubectl(&["api-resources", "--sort-by=name"]);
    for word in ["deploy", "nodeclaims", "poddisruptionbudgets", "karpenter.sh/v1"] {
        assert!(resources.contains(word), "{word}");
    }
    assert_eq!(c.kubectl(&["auth", "can-i", "delete", "nodes"]), "yes\n");
    let no = c.try_kubectl(&["auth", "can-i", "delete", "nodes", "--as=bob"]);
    assert!(!no.status.success() && no.stdout == b"no\n");
    for raw in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(c.kubectl(&["get", "--raw", raw]), "ok");
    }
    // What kubernetes-mixin's alerts and dashboards ask for.
    let metrics = c.kubectl(&["get", "--raw", "/metrics"]);
    for series in [
        r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"}"#,
        r#"apiserver_request_sli_duration_seconds_bucket{component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1",le="1"}"#,
        r#"apiserver_current_inflight_requests{request_kind="mutating"}"#,
        r#"apiserver_resource_objects{group="",resource="namespaces"} 4"#,
        r#"kubernetes_build_info{git_version="v1.37"#,
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    let v: Value = serde_json::from_str(&c.kubectl(&["get", "--raw", "/openapi/v3"])).unwrap();
    assert!(v["paths"]["apis/apps/v1"]["serverRelativeURL"].is_string());
}

fn explains(c: &Cluster) {
    let explained = c.kubectl(&["explain", "deployment.spec.strategy"]);
    for line in [
        "GROUP:      apps",
        "KIND:       Deployment",
        "rollingUpdate\t<RollingUpdateDeployment>",
        "type\t<string>",
    ] {
        assert!(explained.contains(line), "{explained}");
    }
    assert!(c.kubectl(&["explain", "nodepool.spec.disruption"]).contains("consolidateAfter"));
}

#[test]
fn custom_resources_are_served_at_once() {
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    c.apply("
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.oars, statusReplicasPath: .status.oars}}
    additionalPrinterColumns: [{name: Oars, type: integer, jsonPath: .spec.oars}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [name]
            properties: {name: {type: string, maxLength: 5}, oars: {type: integer, default: 2, minimum: 0}}
          status: {type: object, properties: {oars: {type: integer}}}
");
    c.kubectl(&["wait", "--for=condition=Established", "crd/boats.example.com", "--timeout=10s"]);
    c.apply("apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: a}\nspec: {name: Tub}\n");
    assert_eq!(settle(&c.kubectl(&["get", "bt"])), "NAME OARS\na 2\n");
    c.kubectl(&["scale", "boat/a", "--replicas=6"]);
    assert_eq!(c.kubectl(&["get", "boat", "a", "-o", "jsonpath={.spec.oars}"]), "6");
    if c.kubectl_has(27, "validation by the server and explain by OpenAPI v3") {
        faults(&c);
    }
    c.kubectl(&["delete", "crd", "boats.example.com", "--timeout=30s"]);
    let gone = c.kubectl_error(&["get", "boats"]);
    // kubectl may still have the kind in its cache.
    assert!(
        gone.contains("the server doesn't have a resource type")
            || gone.contains("the server could not find the requested resource"),
        "{gone}"
    );
}

fn faults(c: &Cluster) {
    let file = c.directory.path().join("bad.yaml");
    std::fs::write(&file, "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: b}\nspec: {name: Unsinkable, oars: -1}\n").unwrap();
    let e = c.kubectl_error(&["apply", "-f", file.to_str().unwrap()]);
    assert!(e.contains("spec.name: Too long") && e.contains("spec.oars: Invalid value: -1: spec.oars in body should be greater than or equal to 0"), "{e}");
    std::fs::write(&file, "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: b}\nspec: {name: Tub, sail: true}\n").unwrap();
    assert!(
        c.kubectl_error(&["apply", "-f", file.to_str().unwrap()])
            .contains("unknown field \"spec.sail\"")
    );
    assert!(c.kubectl(&["explain", "boat.spec"]).contains("oars"));
}
