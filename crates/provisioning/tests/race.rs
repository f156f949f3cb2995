//! Karpenter's own benchmark as a test: the plan breaks no rule and costs little more than the
//! volume must. Its draws are read from the shared data; where they are absent the test says so.

#[path = "../benches/race/workload.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod workload;

use coracle_provisioning::{Place, checker::Checker, offering::HOSTNAME, pack::pack};
use coracle_scheduling::Snapshot;
use serde_json::{Value, json};
use std::{collections::HashMap, path::PathBuf};

#[test]
fn karpenters_benchmark_is_packed_closely_and_by_the_rules() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let file = root.join("karpenter-benchmark/diverse_pods_1000.csv");
    if !file.exists() {
        println!("not run: {} is absent", file.display());
        return;
    }
    let w = workload::diverse(&file).unwrap();
    let pool = workload::pool();
    let plan = pack(&mut Snapshot::default(), &w.pods, std::slice::from_ref(&pool), &[]);
    let node = |(i, n): (usize, &coracle_provisioning::NewNode)| {
        let t = pool.types.iter().find(|t| t.name == n.types[0]).unwrap();
        let mut labels = (*t.labels).clone();
        labels.insert(HOSTNAME.into(), format!("n{i}"));
        labels.insert("topology.kubernetes.io/zone".into(), n.offering.zone.to_string());
        json!({"metadata": {"name": format!("n{i}"), "labels": labels}, "status": {"allocatable": t.allocatable.to_list()}})
    };
    let mut checker = Checker::new(plan.new_nodes.iter().enumerate().map(node).collect(), &[]);
    let objects: HashMap<&str, &Value> =
        w.objects.iter().map(|o| (o["metadata"]["name"].as_str().unwrap(), o)).collect();
    let mut broken = Vec::new();
    for (pod, place) in plan.bindings() {
        let Place::New(i) = place else { panic!("there are no nodes") };
        broken.extend(checker.bind(objects[pod.name.as_str()].clone(), &format!("n{i}")));
    }
    assert_eq!((broken, plan.bindings().count()), (vec![], 1000));
    let bound = w.volume_bound_usd_per_hour.unwrap();
    assert!(plan.usd_per_hour < bound * 1.06, "{} over {bound}", plan.usd_per_hour);
    assert!(plan.usd_per_hour >= bound && plan.lower_bound_usd_per_hour <= plan.usd_per_hour);
}
