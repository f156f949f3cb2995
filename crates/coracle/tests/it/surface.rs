//! What NodePools, overlays and buffers can say beside the usual: each is said as a user would say it,
//! and looked for in what is bought.

use crate::cluster::{BINARY, Cluster};
use serde_json::{Value, json};
use std::process::Command;

fn web(name: &str, replicas: u32, extra: &Value) -> String {
    let mut spec = json!({"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]});
    let more = extra.as_object().cloned().unwrap_or_default();
    spec.as_object_mut().unwrap().extend(more);
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": spec}}})
    .to_string()
}

fn pool(name: &str, extra: &Value, requirements: &Value) -> String {
    let mut spec = json!({"template": {"spec": {
        "nodeClassRef": {"group": "coracle.dev", "kind": "SimulatedNodeClass", "name": "default"},
        "requirements": requirements}}});
    spec.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
    json!({"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn claims(c: &Cluster) -> Vec<Value> {
    let all = c.json(&["get", "nodeclaims"])["items"].as_array().unwrap().clone();
    all.into_iter().filter(|o| o["metadata"]["deletionTimestamp"].is_null()).collect()
}

fn label<'o>(o: &'o Value, key: &str) -> &'o str {
    o["metadata"]["labels"][key].as_str().unwrap_or_default()
}

fn runs(c: &Cluster, n: u64) -> Option<Vec<Value>> {
    let v = c.nodes();
    (v["pods"]["running"] == n && v["pods"]["total"] == n).then(|| claims(c))
}

fn condition(o: &Value, kind: &str) -> Value {
    let all = o["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
}

const TYPE: &str = "node.kubernetes.io/instance-type";
const CAPACITY: &str = "karpenter.sh/capacity-type";

#[test]
fn overlays_change_prices_and_add_devices() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    // A commitment that makes one family nearly free decides what is bought.
    let overlay = |name: &str, weight: u32, spec: Value| {
        let mut o = json!({"apiVersion": "karpenter.sh/v1alpha1", "kind": "NodeOverlay", "metadata": {"name": name}, "spec": {"weight": weight}});
        o["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        o.to_string()
    };
    let of = |key: &str, value: &str| json!([{"key": key, "operator": "In", "values": [value]}]);
    let family = "karpenter.k8s.aws/instance-family";
    c.apply(&overlay(
        "commitment",
        10,
        json!({"requirements": of(family, "m5"), "priceAdjustment": "-99%"}),
    ));
    c.apply(&overlay("rival", 10, json!({"requirements": of(TYPE, "m5.large"), "price": "7"})));
    c.eventually("a contradiction is said", || {
        let o = c.json(&["get", "nodeoverlay", "rival"]);
        let said = condition(&o, "Ready");
        (said["status"] == "False" && said["message"].as_str()?.contains("commitment"))
            .then_some(())
    });
    c.apply(&web("web", 3, &json!({})));
    let bought = c.eventually("pods run", || runs(&c, 3));
    assert!(bought.iter().all(|o| label(o, TYPE).starts_with("m5.")), "{bought:?}");
    // Devices that only the overlay knows of.
    c.apply(&overlay(
        "slices",
        1,
        json!({"requirements": of(family, "c6a"), "capacity": {"example.com/slice": 4}}),
    ));
    c.apply(&web("sliced", 1, &json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"example.com/slice": "2"}}}]})));
    let bought = c.eventually("the pod with devices runs", || runs(&c, 4));
    assert!(bought.iter().any(|o| label(o, TYPE).starts_with("c6a.")), "{bought:?}");
    let bad = overlay("bad", 1, json!({"requirements": [], "capacity": {"cpu": 4}}));
    let file = c.directory.path().join("bad.json");
    std::fs::write(&file, bad).unwrap();
    assert!(
        c.kubectl_error(&["apply", "-f", file.to_str().unwrap()]).contains("cannot be overlaid")
    );
}

#[test]
fn reservations_are_used_before_anything_is_bought() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    let reservations = json!({"spec": {"capacityReservations": [{"id": "cr-1", "instanceType": "c6a.large", "zone": "us-east-1b", "count": 2}]}});
    c.kubectl(&[
        "patch",
        "simulatednodeclass",
        "default",
        "--type=merge",
        "-p",
        &reservations.to_string(),
    ]);
    c.kubectl(&["delete", "nodepool", "default"]);
    let kinds = json!([{"key": CAPACITY, "operator": "In", "values": ["reserved", "on-demand"]},
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}]);
    c.apply(&pool("default", &json!({}), &kinds));
    c.apply(&web("web", 4, &json!({})));
    let bought = c.eventually("pods run", || runs(&c, 4));
    let reserved: Vec<_> = bought.iter().filter(|o| label(o, CAPACITY) == "reserved").collect();
    assert_eq!(reserved.len(), 2, "{bought:?}");
    for o in reserved {
        assert_eq!(
            (label(o, TYPE), label(o, "coracle.dev/capacity-reservation-id")),
            ("c6a.large", "cr-1")
        );
    }
    assert!(bought.len() > 2);
}

#[test]
fn min_values_keep_claims_flexible() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    c.kubectl(&["delete", "nodepool", "default"]);
    let family = "karpenter.k8s.aws/instance-family";
    c.apply(&pool(
        "default",
        &json!({}),
        &json!([
        {"key": family, "operator": "In", "values": ["c5", "c6a", "m5", "r5"], "minValues": 3},
        {"key": CAPACITY, "operator": "In", "values": ["spot"]}]),
    ));
    c.apply(&web("web", 2, &json!({})));
    let bought = c.eventually("pods run", || runs(&c, 2));
    let requirement = |o: &Value, key: &str| {
        o["spec"]["requirements"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["key"] == key)
            .cloned()
            .unwrap()
    };
    for o in &bought {
        let types = requirement(o, TYPE);
        let families: std::collections::BTreeSet<String> = types["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_str().unwrap().split('.').next().unwrap().to_owned())
            .collect();
        assert!(families.len() >= 3, "{families:?}");
        assert_eq!(requirement(o, family)["minValues"], 3);
    }
    // What leaves no choice waits, and says why.
    c.apply(&web("picky", 1, &json!({"nodeSelector": {family: "c5"}})));
    c.eventually("the event says so", || {
        c.kubectl(&["get", "events"])
            .contains("minValues of karpenter.k8s.aws/instance-family asks for 3 different values")
            .then_some(())
    });
}

#[test]
fn static_pools_keep_their_size() {
    let c =
        Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory", "--no-default-nodepool"]);
    c.apply(&json!({"apiVersion": "coracle.dev/v1", "kind": "SimulatedNodeClass", "metadata": {"name": "default"}, "spec": {}}).to_string());
    let kinds =
        json!([{"key": "karpenter.k8s.aws/instance-family", "operator": "In", "values": ["c6a"]}]);
    c.apply(&pool("fixed", &json!({"replicas": 3}), &kinds));
    let ready = |n: usize| {
        let all = claims(&c);
        (all.len() == n && all.iter().all(|o| condition(o, "Ready")["status"] == "True"))
            .then_some(all)
    };
    let first = c.eventually("three nodes are there without a pod", || ready(3));
    // As `kubectl scale` does it, through the subresource.
    c.kubectl(&["scale", "nodepool/fixed", "--replicas=4"]);
    c.eventually("there are four", || ready(4));
    c.kubectl(&["scale", "nodepool/fixed", "--replicas=2"]);
    c.eventually("there are two", || ready(2));
    // They are replaced one for one, and never are fewer.
    c.kubectl(&[
        "patch",
        "nodepool",
        "fixed",
        "--type=merge",
        "-p",
        "{\"spec\":{\"template\":{\"metadata\":{\"labels\":{\"team\":\"a\"}}}}}",
    ]);
    let mut least = usize::MAX;
    let last = c.eventually("both follow the template", || {
        least = least.min(claims(&c).len());
        ready(2).filter(|all| all.iter().all(|o| label(o, "team") == "a"))
    });
    assert!(least >= 2, "{least}");
    assert!(
        last.iter().all(|o| first.iter().all(|f| f["metadata"]["name"] != o["metadata"]["name"]))
    );
    for (patch, words) in [
        ("{\"spec\":{\"replicas\":null}}", "Cannot transition NodePool between static"),
        ("{\"spec\":{\"weight\":5}}", "'weight' is not supported on static NodePools"),
        (
            "{\"spec\":{\"limits\":{\"cpu\":5}}}",
            "only 'limits.nodes' is supported on static NodePools",
        ),
    ] {
        let said = c.kubectl_error(&["patch", "nodepool", "fixed", "--type=merge", "-p", patch]);
        assert!(said.contains(words), "{said}");
    }
    c.kubectl(&["delete", "nodepool", "fixed"]);
    c.eventually("all go with it", || claims(&c).is_empty().then_some(()));
}

#[test]
fn buffers_keep_room() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    c.apply(&web("web", 4, &json!({})));
    c.eventually("pods run", || runs(&c, 4));
    c.apply(&json!({"apiVersion": "autoscaling.x-k8s.io/v1beta1", "kind": "CapacityBuffer", "metadata": {"name": "room", "namespace": "default"},
        "spec": {"scalableRef": {"apiGroup": "apps", "kind": "Deployment", "name": "web"}, "percentage": 150}}).to_string());
    let free = || {
        let v = c.nodes();
        let nodes = v["nodes"].as_array().cloned().unwrap_or_default();
        let ready = claims(&c).iter().all(|o| condition(o, "Ready")["status"] == "True");
        let millis = |n: &Value, f: &str| {
            let text = n[f]["cpu"].as_str().unwrap_or("0");
            let whole = |t: &str| t.parse::<i64>().unwrap();
            text.strip_suffix('m').map_or_else(|| whole(text) * 1000, whole)
        };
        let room = |n: &Value| (millis(n, "allocatable") - millis(n, "used")) / 1000;
        (ready && !nodes.is_empty()).then(|| nodes.iter().map(room).sum::<i64>())
    };
    c.eventually("room for six more is there", || free().filter(|f| *f >= 6));
    let o = c.json(&["get", "capacitybuffer", "room"]);
    assert_eq!(
        (&o["status"]["replicas"], &condition(&o, "ReadyForProvisioning")["status"]),
        (&json!(6), &json!("True"))
    );
    // It stays, and pods that come use it at once: nothing is bought for them first.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(free().is_some_and(|f| f >= 6), "{}", c.nodes());
    let before: Vec<Value> = claims(&c).iter().map(|o| o["metadata"]["name"].clone()).collect();
    c.kubectl(&["scale", "deployment/web", "--replicas=7"]);
    let after = c.eventually("they run", || runs(&c, 7));
    let on = c.json(&["get", "pods"]);
    let on: Vec<&Value> =
        on["items"].as_array().unwrap().iter().map(|p| &p["spec"]["nodeName"]).collect();
    assert!(on.iter().filter(|n| before.contains(n)).count() >= 4, "{on:?} {before:?} {after:?}");
    c.kubectl(&["delete", "capacitybuffer", "room"]);
    c.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    c.eventually("nothing is left", || claims(&c).is_empty().then_some(()));
    c.apply(&json!({"apiVersion": "autoscaling.x-k8s.io/v1beta1", "kind": "CapacityBuffer", "metadata": {"name": "lost", "namespace": "default"},
        "spec": {"podTemplateRef": {"name": "nowhere"}, "replicas": 1}}).to_string());
    c.eventually("what is missing is said", || {
        let o = c.json(&["get", "capacitybuffer", "lost"]);
        condition(&o, "ReadyForProvisioning")["message"]
            .as_str()?
            .contains("podtemplates \"nowhere\" not found")
            .then_some(())
    });
}

#[test]
fn broken_nodes_are_replaced_and_deadlines_end_drains() {
    // Half an hour is nine seconds.
    let c = Cluster::start(&["--cloud", "simulated:speed=200", "--in-memory", "--node-repair"]);
    c.apply(&web("web", 1, &json!({})));
    let first = c.eventually("the pod runs", || runs(&c, 1));
    let name = first[0]["metadata"]["name"].as_str().unwrap().to_owned();
    c.kubectl(&["annotate", "node", &name, "coracle.dev/fail=true"]);
    c.eventually("the pod runs elsewhere", || {
        runs(&c, 1).filter(|all| all.len() == 1 && all[0]["metadata"]["name"] != name.as_str())
    });
    let events = c.kubectl(&["get", "events", "-A"]);
    assert!(events.contains("NodeUnhealthy"), "{events}");
    // A pod that nobody may disturb holds up a drain until its deadline.
    c.kubectl(&[
        "patch",
        "nodepool",
        "default",
        "--type=merge",
        "-p",
        &json!({"spec": {"template": {"spec": {"terminationGracePeriod": "40m"}}}}).to_string(),
    ]);
    let kept = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kept", "annotations": {"karpenter.sh/do-not-disrupt": "true"}},
        "spec": {"nodeSelector": {TYPE: "c6a.2xlarge"}, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]}});
    c.apply(&kept.to_string());
    let node = c.eventually("it runs", || {
        let p = c.json(&["get", "pod", "kept"]);
        (p["status"]["phase"] == "Running")
            .then(|| p["spec"]["nodeName"].as_str().unwrap().to_owned())
    });
    c.kubectl(&["delete", "nodeclaim", &node, "--wait=false"]);
    c.eventually("the deadline is written down", || {
        let o = c.json(&["get", "nodeclaim", &node]);
        o["metadata"]["annotations"]["karpenter.sh/nodeclaim-termination-timestamp"]
            .is_string()
            .then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(c.json(&["get", "pod", "kept"])["status"]["phase"], "Running");
    c.eventually("the deadline ends it", || {
        let gone = c.try_kubectl(&["get", "nodeclaim", &node]);
        (!gone.status.success()).then_some(())
    });
    assert!(!c.try_kubectl(&["get", "pod", "kept"]).status.success());
}

#[test]
fn options_are_said() {
    let out = Command::new(BINARY).args(["up", "--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&out.stdout).into_owned();
    for word in ["--min-values-policy", "BestEffort", "--preference-policy", "--node-repair"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
}

#[test]
fn policies_put_pools_to_sleep_and_cap_their_price() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    let policy = |spec: Value| {
        c.apply(&json!({"apiVersion": "coracle.dev/v1", "kind": "ProvisioningPolicy", "metadata": {"name": "p"}, "spec": spec}).to_string());
    };
    policy(json!({"nodePools": ["default"], "maxUSDPerHour": 0.05}));
    c.apply(&web("web", 20, &json!({})));
    c.eventually("the limit is said", || {
        c.kubectl(&["get", "events"]).contains("its limits are reached").then_some(())
    });
    let paid = c.nodes()["usdPerHour"].as_f64().unwrap();
    assert!(paid > 0.0 && paid <= 0.05, "{paid}");
    policy(json!({"nodePools": ["other"], "maxUSDPerHour": 0.05}));
    c.eventually("pods run", || runs(&c, 20));
    // Always: the window begins each minute and stays for two.
    policy(json!({"hibernate": [{"schedule": "* * * * *", "duration": "2m"}]}));
    c.eventually("the pool sleeps", || {
        c.kubectl(&["get", "nodeclaims,nodes", "-o", "name"]).is_empty().then_some(())
    });
    let o = c.json(&["get", "nodepool", "default"]);
    assert_eq!(condition(&o, "Ready")["reason"], "Hibernating");
    assert!(c.kubectl(&["get", "decisions"]).contains("hibernates"));
    // A window that is not now: nothing may be disturbed, and the pool wakes.
    policy(
        json!({"hibernate": [], "disruptWithin": [{"schedule": "0 0 1 1 *", "duration": "1m"}]}),
    );
    let before = c.eventually("it is awake", || runs(&c, 20));
    c.kubectl(&["scale", "deployment/web", "--replicas=1"]);
    c.eventually("pods are gone", || runs(&c, 1));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(claims(&c).len(), before.len(), "nodes stay outside of the window");
    c.kubectl(&["delete", "provisioningpolicy", "p"]);
    c.eventually("they go", || (claims(&c).len() < before.len()).then_some(()));
    let file = c.directory.path().join("bad.json");
    std::fs::write(&file, "{\"apiVersion\":\"coracle.dev/v1\",\"kind\":\"ProvisioningPolicy\",\"metadata\":{\"name\":\"bad\"},\"spec\":{\"hibernate\":[{\"schedule\":\"often\",\"duration\":\"1m\"}]}}").unwrap();
    assert!(
        c.kubectl_error(&["apply", "-f", file.to_str().unwrap()])
            .contains("spec.hibernate[0].schedule")
    );
}

#[test]
fn metrics_have_karpenters_names() {
    use std::io::{Read, Write};
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = free.to_string();
    let c =
        Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory", "--metrics-listen", &at]);
    c.apply(&web("web", 2, &json!({})));
    c.eventually("pods run", || runs(&c, 2));
    let scrape = |path: &str| {
        let mut socket = std::net::TcpStream::connect(free).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    };
    c.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    c.eventually("nothing is left", || claims(&c).is_empty().then_some(()));
    let lines = [
        "karpenter_nodes_terminated_total{nodepool=\"default\"} ",
        "karpenter_nodeclaims_created_total{nodepool=\"default\",reason=\"provisioned\"} ",
        "karpenter_nodes_created_total{nodepool=\"default\"} ",
        "karpenter_nodeclaims_disrupted_total{nodepool=\"default\",reason=\"empty\"} ",
        "karpenter_voluntary_disruption_decisions_total{decision=\"delete\",reason=\"empty\"} ",
        "karpenter_scheduler_scheduling_duration_seconds_count ",
        "karpenter_nodepools_usage{nodepool=\"default\",resource_type=\"cpu\"} 0",
        "karpenter_nodepools_allowed_disruptions{nodepool=\"default\",reason=\"drifted\"} 0",
        "karpenter_cluster_state_node_count{} 0",
    ];
    c.eventually("all of it is counted", || {
        let text = scrape("/metrics");
        let missing = lines.iter().find(|l| !text.contains(**l));
        missing.inspect(|l| println!("{l} is not in\n{text}")).is_none().then_some(())
    });
    assert!(scrape("/nothing").starts_with("HTTP/1.1 404"));
}
