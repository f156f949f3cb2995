//! `cargo bench -p coracle-provisioning`: plans for growing numbers of pending pods, over a
//! catalogue of 60 types in three zones, spot and on-demand.

use coracle_provisioning::{Offering, Pool, PoolType, pack::pack};
use coracle_scheduling::{PodSpec, Snapshot, resources::Resources};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

fn main() {
    divan::main();
}

fn offerings(usd_per_hour: f64) -> Vec<Offering> {
    [("spot", 0.4), ("on-demand", 1.0)]
        .into_iter()
        .flat_map(|(capacity_type, share)| {
            ["z1", "z2", "z3"].map(|zone| Offering {
                zone: zone.into(),
                capacity_type,
                usd_per_hour: usd_per_hour * share,
            })
        })
        .collect()
}

/// Three families in 20 sizes.
fn pool() -> Pool {
    let mut types = Vec::new();
    for (family, gib_per_cpu) in [("c", 2), ("m", 4), ("r", 8)] {
        for size in 1..=20_i64 {
            let cpus = size * 2;
            let capacity = Resources {
                cpu_milli: cpus * 1000,
                memory_bytes: (cpus * gib_per_cpu) << 30,
                ephemeral_bytes: 20 << 30,
                pods: 110,
                extended: vec![],
            };
            types.push(PoolType {
                name: format!("{family}{cpus}").into(),
                labels: Arc::new(BTreeMap::from([("family".to_owned(), family.to_owned())])),
                allocatable: capacity.clone(),
                capacity,
                offerings: offerings(cpus as f64 * (0.035 + 0.003 * gib_per_cpu as f64)),
                ..PoolType::default()
            });
        }
    }
    Pool { name: "default".into(), types: Arc::new(types), ..Pool::default() }
}

/// Pods of 40 sizes.
fn pods(count: usize) -> Vec<Arc<PodSpec>> {
    let one = |i: usize| {
        let (cpu, memory) = (100 + 150 * (i % 8), 128 + 512 * (i % 5));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("p{i}"), "namespace": "default"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {
                "cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}}]}}))
        .expect("a pod");
        Arc::new(PodSpec::from_pod(&pod))
    };
    (0..count).map(one).collect()
}

#[divan::bench(args = [100, 1000, 10_000], sample_count = 10)]
fn pending_pods(bencher: divan::Bencher<'_, '_>, count: usize) {
    let (pods, pools) = (pods(count), [pool()]);
    bencher
        .counter(divan::counter::ItemsCount::new(count))
        .bench_local(|| pack(&mut Snapshot::default(), &pods, &pools, &[]));
}
