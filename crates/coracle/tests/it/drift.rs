//! Drift: nodes follow their NodePool, in waves that its budgets allow.

use crate::cluster::Cluster;
use serde_json::{Value, json};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}]}}
      containers: [{name: c, image: i, resources: {requests: {cpu: '1', memory: 1Gi}}}]
";

fn patch(c: &Cluster, v: &Value) {
    c.kubectl(&["patch", "nodepool", "default", "--type=merge", "-p", &v.to_string()]);
}

/// Names of claims with a label, when all six have it and all pods run.
fn settled(c: &Cluster, key: &str, value: &str) -> Option<Vec<String>> {
    let claims = c.json(&["get", "nodeclaims"]);
    let all = claims["items"].as_array()?;
    let fits = |o: &Value| {
        o["metadata"]["labels"][key] == value && o["metadata"]["deletionTimestamp"].is_null()
    };
    let running = c.nodes()["pods"]["running"] == 6;
    let names = all.iter().map(|o| o["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    (running && all.len() == 6 && all.iter().all(fits)).then(|| names.collect())
}

#[test]
fn nodes_follow_their_pool_in_waves() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    // Two at once, and only because they have drifted.
    patch(
        &c,
        &json!({"spec": {"disruption": {"consolidationPolicy": "WhenEmpty", "budgets": [{"nodes": "2"}]}}}),
    );
    c.apply(WEB);
    let first = c.eventually("pods run", || settled(&c, "karpenter.sh/nodepool", "default"));
    let hash = |o: &Value| o["metadata"]["annotations"]["karpenter.sh/nodepool-hash"].clone();
    let before = hash(&c.json(&["get", "nodepool", "default"]));
    assert!(before.is_string());

    patch(&c, &json!({"spec": {"template": {"metadata": {"labels": {"team": "a"}}}}}));
    let mut most = 0;
    let second = c.eventually("all nodes have the label", || {
        let claims = c.json(&["get", "nodeclaims"]);
        let going = claims["items"].as_array()?.iter();
        most = most.max(going.filter(|o| o["metadata"]["deletionTimestamp"].is_string()).count());
        settled(&c, "team", "a")
    });
    assert!(second.iter().all(|n| !first.contains(n)), "{first:?} {second:?}");
    assert!(most <= 2, "{most} nodes went at once");
    let pool = c.json(&["get", "nodepool", "default"]);
    assert_ne!(hash(&pool), before);
    let claims = c.json(&["get", "nodeclaims"]);
    assert!(claims["items"].as_array().unwrap().iter().all(|o| hash(o) == hash(&pool)));

    // Requirements are judged by what nodes are.
    patch(
        &c,
        &json!({"spec": {"template": {"spec": {"requirements": [
        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}]}}}}),
    );
    c.eventually("all nodes are on-demand", || {
        settled(&c, "karpenter.sh/capacity-type", "on-demand")
    });
    // Nothing more is done.
    let names = || c.kubectl(&["get", "nodeclaims", "-o", "name"]);
    let now = names();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(names(), now);
}
