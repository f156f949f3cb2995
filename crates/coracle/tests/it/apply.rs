//! Server-side apply as its users meet it: kubectl, and a controller that applies with kube-rs.

use crate::{cluster::Cluster, durability::client};
use k8s_openapi::{
    ByteString,
    api::{apps::v1::Deployment, certificates::v1::CertificateSigningRequest, core::v1::ConfigMap},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

fn deployment(image: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web, image: '{image}', ports: [{{containerPort: 80}}]}}]}}
"
    )
}

/// Writes a file and gives its path.
fn file(c: &Cluster, text: &str) -> String {
    let path = c.directory.path().join("object.yaml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Manager, operation and subresource of each entry.
fn managers(v: &Value) -> Vec<String> {
    let entries = v["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |e: &Value, f: &str| e[f].as_str().unwrap_or("-").to_owned();
    entries
        .iter()
        .map(|e| [text(e, "manager"), text(e, "operation"), text(e, "subresource")].join(" "))
        .collect()
}

#[test]
fn kubectl_applies_on_the_server() {
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    if !c.kubectl_has(29, "complete server-side apply") {
        return;
    }
    let f = file(&c, &deployment("nginx:1.27", 2));
    let apply = ["apply", "--server-side", "-f", &f];
    let show = || c.json(&["get", "deployment", "web", "--show-managed-fields"]);
    assert_eq!(c.kubectl(&apply), "deployment.apps/web serverside-applied\n");
    assert_eq!(managers(&show())[0], "kubectl Apply -");
    c.eventually("the controller has written the status", || {
        managers(&show()).contains(&"kube-controller-manager Update status".into()).then_some(())
    });
    let before = c.eventually("the deployment is still", || {
        let a = show();
        std::thread::sleep(std::time::Duration::from_millis(300));
        (a == show()).then_some(a)
    });
    c.kubectl(&apply);
    assert_eq!(show(), before, "an apply of the same writes nothing");

    // Somebody scales: the field is theirs, and the next apply says so.
    c.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    file(&c, &deployment("nginx:1.27", 4));
    let e = c.kubectl_error(&apply);
    assert!(
        e.contains("Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{e}"
    );
    c.kubectl(&[&apply[..], &["--force-conflicts"]].concat());
    assert_eq!(show()["spec"]["replicas"], 4);
    assert!(!managers(&show()).contains(&"kubectl Update scale".into()));

    // A difference is shown without writing it; exit 1 means that there is one.
    file(&c, &deployment("nginx:1.28", 4));
    let diff = c.try_kubectl(&["diff", "--server-side", "-f", &f]);
    let text = String::from_utf8(diff.stdout).unwrap();
    assert_eq!(diff.status.code(), Some(1), "{text}");
    assert!(text.contains("+      - image: nginx:1.28"), "{text}");
    c.kubectl(&apply);
    // (The rollout is under way: its status may change between the two that are compared.)
    c.eventually("no difference", || {
        let diff = c.try_kubectl(&["diff", "--server-side", "-f", &f]);
        (diff.status.code() == Some(0)).then_some(())
    });

    // What the configuration stops saying goes; defaults stay.
    file(&c, &deployment("nginx:1.28", 4).replace(", ports: [{containerPort: 80}]", ""));
    c.kubectl(&apply);
    let container = &show()["spec"]["template"]["spec"]["containers"][0];
    assert!(container["ports"].is_null(), "{container}");
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");

    file(&c, &deployment("nginx:1.28", 4).replace("replicas:", "replica:"));
    let e = c.kubectl_error(&apply);
    assert!(
        e.contains("failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema"),
        "{e}"
    );
    from_the_client_to_the_server(&c);
    refusals(&c);
}

fn from_the_client_to_the_server(c: &Cluster) {
    let map = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {data}\n")
    };
    c.apply(&map("{a: '1', b: '2'}"));
    let f = file(c, &map("{a: '1', c: '3'}"));
    c.kubectl(&["apply", "--server-side", "-f", &f]);
    let m = c.json(&["get", "configmap", "m", "--show-managed-fields"]);
    assert_eq!(m["data"], json!({"a": "1", "c": "3"}), "what was applied before is pruned");
    assert!(!managers(&m).iter().any(|e| e.starts_with("kubectl-client-side-apply")));
    let last = c.kubectl(&["apply", "view-last-applied", "configmap", "m", "-o", "json"]);
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["data"], json!({"a": "1", "c": "3"}));
    // And back: client-side apply goes on where server-side apply left.
    c.apply(&map("{a: '1'}"));
    assert_eq!(c.json(&["get", "configmap", "m"])["data"], json!({"a": "1"}));
    // One empty entry forgets all owners.
    c.kubectl(&[
        "patch",
        "configmap",
        "m",
        "--type=merge",
        "-p",
        "{\"metadata\":{\"managedFields\":[{}]}}",
    ]);
    let m = c.json(&["get", "configmap", "m", "--show-managed-fields"]);
    assert_eq!(managers(&m), Vec::<String>::new());
}

fn refusals(c: &Cluster) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client(&c.kubeconfig()).await);
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "r"}, "data": {"a": "1"}});
        let status = |e: kube::Error| match e {
            kube::Error::Api(s) => (s.code, s.message),
            other => panic!("{other}"),
        };
        let me = PatchParams::apply("me");
        let other_name = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}}));
        let (code, message) = status(api.patch("r", &me, &other_name).await.unwrap_err());
        assert_eq!(code, 400, "{message}");
        let nobody = PatchParams { field_manager: None, ..PatchParams::default() };
        let (code, message) =
            status(api.patch("r", &nobody, &Patch::Apply(&config)).await.unwrap_err());
        assert_eq!(code, 422);
        assert!(message.contains("fieldManager: Required value: is required for apply patch"), "{message}");
        let owned = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "r", "managedFields": [{"manager": "x"}]}}));
        let (code, message) = status(api.patch("r", &me, &owned).await.unwrap_err());
        assert_eq!((code, message.as_str()), (400, "metadata.managedFields must be nil"));
        let bare = Patch::Apply(json!({"metadata": {"name": "r"}}));
        assert_eq!(status(api.patch("r", &me, &bare).await.unwrap_err()).0, 400);
        let (_, message) = status(api.patch("r", &me.clone().dry_run(), &Patch::Apply(&config)).await.map(|_| ()).err().unwrap_or_else(|| {
            kube::Error::Api(Box::new(kube::core::Status::failure("fine", "")))
        }));
        assert_eq!(message, "fine");
        assert!(api.get_opt("r").await.unwrap().is_none(), "a dry run stores nothing");
        // A conflict has a cause for each field and manager.
        api.patch("r", &me, &Patch::Apply(&config)).await.unwrap();
        let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "r"}, "data": {"a": "2"}});
        let kube::Error::Api(s) =
            api.patch("r", &PatchParams::apply("you"), &Patch::Apply(theirs)).await.unwrap_err()
        else {
            panic!("no status");
        };
        let causes = s.details.unwrap().causes;
        assert_eq!((s.code, causes.len()), (409, 1));
        assert_eq!(causes[0].reason, "FieldManagerConflict");
        assert_eq!((causes[0].message.as_str(), causes[0].field.as_str()), ("conflict with \"me\"", ".data.a"));
    });
}

/// Three controllers apply their parts of one object over and over: nothing is lost, and once all
/// agree nothing is written any more.
#[test]
fn controllers_share_an_object_by_applying() {
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let api: Api<Deployment> = Api::default_namespaced(client(&c.kubeconfig()).await);
        let object = |spec: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shared"}, "spec": spec});
        let base = object(json!({"selector": {"matchLabels": {"a": "b"}}, "paused": true, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "main", "image": "main:1"}]}}}));
        api.patch("shared", &PatchParams::apply("owner"), &Patch::Apply(&base)).await.unwrap();
        let loops = (0..3).map(|i| {
            let api = api.clone();
            async move {
                let name = format!("side-{i}");
                for round in 0..20 {
                    let mine = object(json!({"template": {"spec": {"containers": [
                        {"name": name, "image": format!("side:{}", round.min(10)), "env": [{"name": "ROUND", "value": round.min(10).to_string()}]}]}}}));
                    api.patch("shared", &PatchParams::apply(&name), &Patch::Apply(mine)).await.unwrap();
                }
            }
        });
        futures::future::join_all(loops).await;
        let d = api.get("shared").await.unwrap();
        let template = d.spec.template.spec.as_ref().unwrap();
        let mut names: Vec<(&str, &str)> = template
            .containers
            .iter()
            .map(|c| (c.name.as_str(), c.image.as_deref().unwrap()))
            .collect();
        names.sort_unstable();
        assert_eq!(names, [("main", "main:1"), ("side-0", "side:10"), ("side-1", "side:10"), ("side-2", "side:10")]);
        let last = object(json!({"template": {"spec": {"containers": [{"name": "side-0", "image": "side:10", "env": [{"name": "ROUND", "value": "10"}]}]}}}));
        let again = api.patch("shared", &PatchParams::apply("side-0"), &Patch::Apply(last)).await.unwrap();
        assert_eq!(
            again.metadata.managed_fields.as_ref().map(Vec::len),
            d.metadata.managed_fields.as_ref().map(Vec::len)
        );
        // One gives up its part: only that goes.
        api.patch("shared", &PatchParams::apply("side-1"), &Patch::Apply(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shared"}}))).await.unwrap();
        let d = api.get("shared").await.unwrap();
        let left = d.spec.template.spec.unwrap().containers;
        assert_eq!(left.iter().map(|c| c.name.as_str()).filter(|n| n.starts_with("side")).count(), 2);
        assert!(d.metadata.managed_fields.unwrap().iter().all(|m| m.manager.as_deref() != Some("side-1")));
        assert_eq!(d.metadata.name.as_deref(), Some("shared"));
        // A status is owned apart from the rest.
        let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shared"}, "status": {"conditions": [{"type": "Mine", "status": "True"}]}, "spec": {"replicas": 7}});
        let d = api.patch_status("shared", &PatchParams::apply("watcher"), &Patch::Apply(status)).await.unwrap();
        assert_ne!(d.spec.replicas, Some(7), "a status write touches no spec");
        let mine = d.metadata.managed_fields.unwrap().into_iter().find(|m| m.manager.as_deref() == Some("watcher")).unwrap();
        assert_eq!(mine.subresource.as_deref(), Some("status"));
        assert!(!serde_json::to_string(&mine.fields_v1).unwrap().contains("f:spec"));
        assert_eq!(d.metadata.name.unwrap(), "shared".to_owned());
    });
}

/// Approvers trust what a request for a certificate says of its sender.
#[test]
fn nobody_asks_for_a_certificate_as_another() {
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let c = client(&c.kubeconfig()).await;
        let api: Api<CertificateSigningRequest> = Api::all(c);
        let pem = include_str!("../clients/request.pem");
        let request = |user: &str| {
            let spec = json!({"request": ByteString(pem.into()), "username": user,
                "groups": ["system:masters"], "signerName": "example.com/signer", "usages": ["client auth"]});
            json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"name": "a"}, "spec": spec})
        };
        let apply = PatchParams::apply("somebody").force();
        for user in ["system:admin", "system:other"] {
            let made = api.patch("a", &apply, &Patch::Apply(request(user))).await.unwrap();
            assert_eq!(made.spec.username.as_deref(), Some("kubernetes-admin"));
        }
    });
}
