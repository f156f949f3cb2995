//! Cases worded as in the documentation.

use super::*;
use serde_json::json;

fn node(name: &str, zone: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": zone}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}})
}

fn pod(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "a"}}, "spec": spec})
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]})
}

fn cluster() -> Checker {
    Checker::new(vec![node("n1", "z1"), node("n2", "z2"), node("n3", "z2")], &[])
}

#[test]
fn requests_count_sidecars_init_containers_and_overhead() {
    let mut c = cluster();
    assert!(c.bind(pod("a", asks("1500m")), "n1").is_empty());
    assert_eq!(c.bind(pod("b", asks("501m")), "n1").len(), 1);
    let spec = json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}], "overhead": {"cpu": "100m"},
        "initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
            {"resources": {"requests": {"cpu": "1400m"}}}]});
    // The init container beside its sidecar is the largest moment: 1.9, and 0.1 of overhead.
    assert!(c.bind(pod("c", spec.clone()), "n2").is_empty());
    assert_eq!(c.bind(pod("d", asks("1m")), "n2").len(), 1);
    for (i, n) in [("e", 0), ("f", 0), ("g", 0), ("h", 1)] {
        assert_eq!(c.bind(pod(i, asks("0")), "n3").len(), n, "{i}");
    }
}

#[test]
fn taints_cordons_selectors_and_ports() {
    let mut tainted = node("n1", "z1");
    tainted["spec"] = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let mut cordoned = node("n2", "z1");
    cordoned["spec"] = json!({"unschedulable": true});
    let mut c = Checker::new(vec![tainted, cordoned, node("n3", "z2")], &[]);
    assert_eq!(c.bind(pod("a", asks("1m")), "n1").len(), 1);
    assert_eq!(c.bind(pod("b", asks("1m")), "n2").len(), 1);
    let mut p = pod("c", asks("1m"));
    p["spec"]["tolerations"] = json!([{"key": "k", "operator": "Equal", "value": "v"}]);
    p["spec"]["nodeSelector"] = json!({"zone": "z1"});
    assert!(c.bind(p.clone(), "n1").is_empty());
    assert_eq!(c.bind(p, "n3").len(), 1);
    let port = |name: &str, ip: Value| {
        pod(name, json!({"containers": [{"ports": [{"hostPort": 80, "hostIP": ip}]}]}))
    };
    assert!(c.bind(port("d", json!("10.0.0.1")), "n3").is_empty());
    assert_eq!(c.bind(port("e", Value::Null), "n3").len(), 1);
}

#[test]
fn affinity_lets_the_first_in_and_repels_both_ways() {
    let near = json!({"containers": [], "affinity": {"podAffinity": {REQUIRED: [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}]}}});
    let mut c = cluster();
    assert!(c.bind(pod("a", near.clone()), "n2").is_empty());
    assert!(c.bind(pod("b", near.clone()), "n3").is_empty());
    assert_eq!(c.bind(pod("c", near), "n1").len(), 1);
    let far = json!({"containers": [], "affinity": {"podAntiAffinity": {REQUIRED: [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}]}}});
    let mut c = cluster();
    assert!(c.bind(pod("a", far.clone()), "n2").is_empty());
    assert_eq!(c.bind(pod("b", asks("0")), "n3").len(), 1);
    assert!(c.bind(pod("c", asks("0")), "n1").is_empty());
    assert_eq!(c.bind(pod("d", far), "n1").len(), 1);
}

#[test]
fn spread_counts_domains_with_its_policies() {
    let spread = |more: Value| {
        let mut c = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "a"}}});
        c.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"containers": [], "topologySpreadConstraints": [c]})
    };
    let mut c = cluster();
    assert!(c.bind(pod("a", spread(json!({}))), "n2").is_empty());
    assert_eq!(c.bind(pod("b", spread(json!({}))), "n3").len(), 1);
    let mut c = cluster();
    assert!(c.bind(pod("a", spread(json!({}))), "n1").is_empty());
    assert!(c.bind(pod("b", spread(json!({}))), "n2").is_empty());
    // Two domains are fewer than three: the least counts as none.
    assert_eq!(c.bind(pod("c", spread(json!({"minDomains": 3}))), "n2").len(), 1);
    // Only z2 counts for a pod that must be there.
    let mut c = cluster();
    let mut here = spread(json!({}));
    here["nodeSelector"] = json!({"zone": "z2"});
    assert!(c.bind(pod("a", here.clone()), "n2").is_empty());
    assert!(c.bind(pod("b", here.clone()), "n3").is_empty());
    here["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
    assert_eq!(c.bind(pod("c", here), "n3").len(), 1);
}
