//! `cargo bench -p coracle-scheduling`: one pod onto clusters of growing size.

use coracle_scheduling::{Node, PodSpec, Profile, Snapshot};
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

const SIZES: [usize; 3] = [100, 1000, 5000];

fn main() {
    divan::main();
}

fn cluster(nodes: usize) -> Snapshot {
    let mut s = Snapshot::default();
    for i in 0..nodes {
        let node: ApiNode = serde_json::from_value(json!({
            "metadata": {"name": format!("n{i}"), "labels": {
                "topology.kubernetes.io/zone": format!("z{}", i % 3),
                "kubernetes.io/hostname": format!("n{i}")}},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}}}))
        .expect("a node");
        s.set_node(Node::from_node(&node));
    }
    s
}

fn pod(name: &str, spread: &Value) -> Arc<PodSpec> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "a"}},
        "spec": {"topologySpreadConstraints": spread, "containers": [{"name": "c", "resources": {
            "requests": {"cpu": "100m", "memory": "100Mi"}}}]}}))
    .expect("a pod");
    Arc::new(PodSpec::from_pod(&pod))
}

/// Schedules a pod, notes it, and takes it away again.
fn once(bencher: divan::Bencher<'_, '_>, nodes: usize, profile: Profile, spread: &Value) {
    let (mut s, p) = (cluster(nodes), pod("p", spread));
    bencher.counter(divan::counter::ItemsCount::new(1usize)).bench_local(|| {
        let node = s.schedule(&p, profile).expect("room");
        s.add_pod(p.clone(), &node);
        s.remove_pod(&p.key);
    });
}

#[divan::bench(args = SIZES)]
fn plain_spread_profile(bencher: divan::Bencher<'_, '_>, nodes: usize) {
    once(bencher, nodes, Profile::Spread, &json!([]));
}

#[divan::bench(args = SIZES)]
fn plain_pack_profile(bencher: divan::Bencher<'_, '_>, nodes: usize) {
    once(bencher, nodes, Profile::Pack, &json!([]));
}

#[divan::bench(args = SIZES)]
fn zone_spread(bencher: divan::Bencher<'_, '_>, nodes: usize) {
    let spread = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]);
    once(bencher, nodes, Profile::Spread, &spread);
}
