//! A consolidation benchmark of our own, since upstream has none. What it is, so that others can run
//! it:
//!
//! Types are those of Karpenter's benchmark with 2, 4, 8, 16, 32 and 64 processors. N nodes of 8, 16
//! or 32 processors, drawn evenly, in turn in the three zones, all on-demand. 20 N pods without rules
//! whose processor and memory are drawn as Karpenter's benchmark draws them (100, 250, 500, 1000 or
//! 1500 thousandths; 100, 256, 512, 1024, 2048 or 4096 MiB), each put on the emptiest of four nodes
//! drawn at random that have room. The numbers are of the generator and seed below. Every node may be
//! given up, every pod may move. One search: its time, what it saves, what it disturbs.

use super::{draws::Draws, workload};
use coracle_provisioning::{
    Candidate, Place, Pool, Terms,
    checker::Checker,
    consolidate,
    offering::{HOSTNAME, ZONE},
};
use coracle_scheduling::{Node, PodSpec, Snapshot};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

struct Cluster {
    snapshot: Snapshot,
    candidates: Vec<Candidate>,
    nodes: Vec<Value>,
    pods: HashMap<String, (Value, String)>,
    pool: Pool,
}

fn cluster(count: usize) -> Cluster {
    let mut pool = workload::pool();
    let sizes = ["2", "4", "8", "16", "32", "64"];
    Arc::make_mut(&mut pool.types).retain(|t| sizes.contains(&t.labels["integer"].as_str()));
    let mut draws = Draws(7);
    let (mut snapshot, mut nodes, mut names) = (Snapshot::default(), Vec::new(), Vec::new());
    let mut prices = BTreeMap::new();
    for i in 0..count {
        let size = draws.one_of(&["8", "16", "32"]);
        let t = pool.types.iter().find(|t| t.labels["integer"] == *size).expect("a type");
        let name = format!("node{i}");
        let mut labels = (*t.labels).clone();
        labels.insert(HOSTNAME.into(), name.clone());
        labels.insert(ZONE.into(), format!("test-zone-{}", i % 3 + 1));
        let node = json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": t.allocatable.to_list()}});
        snapshot.set_node(Node::from_node(&serde_json::from_value(node.clone()).expect("a node")));
        prices.insert(name.clone(), t.offerings[0].usd_per_hour);
        nodes.push(node);
        names.push(name);
    }
    let mut pods = HashMap::new();
    for i in 0..20 * count {
        let (cpu, memory) = (
            draws.one_of(&[100, 250, 500, 1000, 1500]),
            draws.one_of(&[100, 256, 512, 1024, 2048, 4096]),
        );
        let v = json!({"metadata": {"name": format!("p{i}"), "namespace": "default", "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}}]}});
        let pod: Pod = serde_json::from_value(v.clone()).expect("a pod");
        let spec = Arc::new(PodSpec::from_pod(&pod));
        let drawn: Vec<&String> = (0..4).map(|_| draws.one_of(&names)).collect();
        let room = drawn
            .into_iter()
            .filter(|n| snapshot.fits(&spec, n).is_ok())
            .cloned()
            .collect::<Vec<_>>();
        let fill = |n: &String| snapshot.node(n).map_or(1.0, Node::fill);
        let Some(node) = room.into_iter().min_by(|a, b| fill(a).total_cmp(&fill(b))) else {
            continue;
        };
        snapshot.add_pod(spec, &node);
        pods.insert(format!("p{i}"), (v, node));
    }
    let candidates = names
        .iter()
        .map(|n| Candidate {
            node: n.clone(),
            pool: pool.name.clone(),
            usd_per_hour: prices[n],
            pods: snapshot.node(n).map(|n| n.pods.values().cloned().collect()).unwrap_or_default(),
            disruption: snapshot.node(n).map_or(0.0, |n| n.pods.len() as f64),
        })
        .collect();
    Cluster { snapshot, candidates, nodes, pods, pool }
}

/// One search over so many nodes, of which a share may go at once.
pub(crate) fn race(count: usize, percent: usize) -> Value {
    let c = cluster(count);
    let name = format!("{count} nodes, {percent} % may go");
    let before: f64 = c.candidates.iter().map(|c| c.usd_per_hour).sum();
    let pools = [c.pool.clone()];
    let terms = Terms { budget: count * percent / 100, balance: None, ..Terms::default() };
    let (wall, cpu) = (Instant::now(), super::cpu_seconds());
    let found = consolidate::search(&c.snapshot, &c.candidates, &pools, &[], |_| terms);
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), super::cpu_seconds() - cpu);
    let Some(command) = found else {
        return json!({"workload": name, "wallSeconds": wall, "cpuSeconds": cpu, "saves": 0.0});
    };
    json!({
        "workload": name,
        "pods": c.pods.len(),
        "wallSeconds": wall,
        "cpuSeconds": cpu,
        "usdPerHourBefore": before,
        "usdPerHourAfter": before - command.saves_usd_per_hour,
        "nodesRemoved": command.remove.len(),
        "nodesBought": command.plan.new_nodes.len(),
        "podsMoved": command.plan.bindings().count(),
        "violations": check(&c, &command),
    })
}

/// Takes the nodes away, launches the new ones, and binds what has to move in the plan's order.
fn check(c: &Cluster, command: &coracle_provisioning::Command) -> Vec<String> {
    let gone = |n: &str| command.remove.iter().any(|r| r == n);
    let mut nodes: Vec<Value> = c
        .nodes
        .iter()
        .filter(|n| !gone(n["metadata"]["name"].as_str().unwrap_or_default()))
        .cloned()
        .collect();
    for (i, n) in command.plan.new_nodes.iter().enumerate() {
        let t = c.pool.types.iter().find(|t| t.name == n.types[0]).expect("a type");
        let mut labels = (*t.labels).clone();
        labels.insert(HOSTNAME.into(), format!("n{i}"));
        labels.insert(ZONE.into(), n.offering.zone.to_string());
        nodes.push(json!({"metadata": {"name": format!("n{i}"), "labels": labels}, "status": {"allocatable": t.allocatable.to_list()}}));
    }
    let mut checker = Checker::new(nodes, &[]);
    let mut moving = 0;
    for (v, node) in c.pods.values() {
        if gone(node) {
            moving += 1;
        } else {
            checker.place(v.clone(), node);
        }
    }
    let mut broken = Vec::new();
    for (key, place) in command.plan.bindings() {
        let node = match place {
            Place::Existing(n) => n.to_owned(),
            Place::New(i) => format!("n{i}"),
        };
        moving -= 1;
        broken.extend(checker.bind(c.pods[&key.name].0.clone(), &node));
    }
    if moving != 0 {
        broken.push(format!("{moving} pods are without a place"));
    }
    broken.truncate(20);
    broken
}
