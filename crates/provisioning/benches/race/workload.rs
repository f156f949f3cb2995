//! Karpenter's own scheduling benchmark, from its definition: pods drawn by its generator (read
//! from a file), 400 types by formula, one pool.

use coracle_provisioning::{Offering, Pool, PoolType};
use coracle_scheduling::{PodSpec, resources::Resources};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Types of the benchmark.
pub(crate) const TYPES: i64 = 400;
/// What a node keeps for itself: thousandths of a processor, bytes of memory.
const RESERVED: (i64, i64) = (100, 10 << 20);
/// Price of a processor with its two GiB, US dollars an hour: 0.1 for each processor and for each
/// billion bytes.
const USD_PER_CPU: f64 = 0.1 + 0.1 * 2.0 * ((1u64 << 30) as f64) / 1e9;

/// Pods with the JSON that the checker reads.
pub(crate) struct Workload {
    /// What it is called.
    pub(crate) name: String,
    /// As the planner reads them.
    pub(crate) pods: Vec<Arc<PodSpec>>,
    /// As the checker reads them.
    pub(crate) objects: Vec<Value>,
    /// The least that nodes can cost by volume alone: all requests and the reserved part of as many
    /// nodes as must differ, at the price of a processor or of its memory.
    pub(crate) volume_bound_usd_per_hour: Option<f64>,
}

fn workload(name: String, objects: Vec<Value>, apart: usize) -> Workload {
    let parse = |v: &Value| {
        let pod: Pod = serde_json::from_value(v.clone()).expect("a pod");
        Arc::new(PodSpec::from_pod(&pod))
    };
    let pods: Vec<Arc<PodSpec>> = objects.iter().map(parse).collect();
    let nodes = apart as f64;
    let cpu: f64 = pods.iter().map(|p| p.requests.cpu_milli as f64).sum();
    let memory: f64 = pods.iter().map(|p| p.requests.memory_bytes as f64).sum();
    let cpus = (cpu + nodes * RESERVED.0 as f64) / 1000.0;
    let by_memory = (memory + nodes * RESERVED.1 as f64) / (2.0 * (1u64 << 30) as f64);
    Workload {
        name,
        pods,
        objects,
        volume_bound_usd_per_hour: Some(cpus.max(by_memory) * USD_PER_CPU),
    }
}

fn pair(text: &str) -> Value {
    let (k, v) = text.split_once('=').unwrap_or((text, ""));
    json!({k: v})
}

/// The diverse pods of a file with the columns idx, kind, label, selector, cpu_m, mem_mi.
pub(crate) fn diverse(file: &Path) -> Result<Workload, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut objects = Vec::new();
    let mut apart = 0;
    for (n, line) in text.lines().enumerate().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [idx, kind, label, selector, cpu, memory] = fields[..] else {
            return Err(format!("{}: line {} has not six fields", file.display(), n + 1));
        };
        let mut labels = pair(label);
        labels["testing/cluster"] = json!("unspecified");
        let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources": {
            "requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}}]});
        let selects = |s: &str| json!({"matchLabels": pair(s)});
        let spread = |key: &str| {
            json!([{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selects(selector)}])
        };
        let near = |key: &str, s: &str| {
            json!({"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": key, "labelSelector": selects(s)}]})
        };
        match kind {
            "generic" => {}
            "zone-spread" => {
                spec["topologySpreadConstraints"] = spread("topology.kubernetes.io/zone")
            }
            "hostname-spread" => {
                spec["topologySpreadConstraints"] = spread("kubernetes.io/hostname")
            }
            "zone-affinity" => {
                let own = if selector.is_empty() { label } else { selector };
                spec["affinity"] = json!({"podAffinity": near("topology.kubernetes.io/zone", own)});
            }
            "hostname-antiaffinity" => {
                apart += 1;
                let own = if selector.is_empty() { label } else { selector };
                spec["affinity"] = json!({"podAntiAffinity": near("kubernetes.io/hostname", own)});
            }
            other => return Err(format!("line {}: kind {other} is not known", n + 1)),
        }
        objects.push(json!({"metadata": {"name": format!("p{idx}"), "namespace": "default", "labels": labels}, "spec": spec}));
    }
    Ok(workload(format!("diverse {}", objects.len()), objects, apart))
}

/// 4,000 equal pods with preferences, one of which cannot be met; `ignore` leaves them out.
pub(crate) fn preferences(ignore: bool) -> Workload {
    let apart = |key: &str, weight: i64| {
        json!({"weight": weight, "podAffinityTerm": {"topologyKey": key,
            "labelSelector": {"matchLabels": {"app": "nginx"}}}})
    };
    let affinity = json!({
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {
            "matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["test-zone-1"]}]}}]},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            apart("topology.kubernetes.io/zone", 10), apart("kubernetes.io/hostname", 1)]},
    });
    let one = |i: usize| {
        let mut v = json!({"metadata": {"name": format!("p{i}"), "namespace": "default", "labels": {"app": "nginx"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "4096Mi"}}}]}});
        if !ignore {
            v["spec"]["affinity"] = affinity.clone();
        }
        v
    };
    let name = if ignore { "preferences ignored 4000" } else { "preferences respected 4000" };
    workload(name.into(), (0..4000).map(one).collect(), 0)
}

/// The pool: type `fake-it-I` has I+1 processors, twice as many GiB, room for ten pods each.
pub(crate) fn pool() -> Pool {
    let offerings = |usd_per_hour: f64| {
        let at = |capacity_type, zone: &str| Offering {
            zone: format!("test-zone-{zone}").as_str().into(),
            capacity_type,
            usd_per_hour,
        };
        vec![
            at("spot", "1"),
            at("spot", "2"),
            at("on-demand", "1"),
            at("on-demand", "2"),
            at("on-demand", "3"),
        ]
    };
    let one = |i: i64| {
        let cpus = i + 1;
        let capacity = Resources {
            cpu_milli: cpus * 1000,
            memory_bytes: (2 * cpus) << 30,
            ephemeral_bytes: 0,
            pods: 10 * cpus,
            extended: vec![],
        };
        let allocatable = Resources {
            cpu_milli: capacity.cpu_milli - RESERVED.0,
            memory_bytes: capacity.memory_bytes - RESERVED.1,
            ..capacity.clone()
        };
        let large = cpus > 4 && 2 * cpus > 8;
        let mut labels = BTreeMap::from([
            ("kubernetes.io/arch".to_owned(), "amd64".to_owned()),
            ("kubernetes.io/os".into(), "linux".into()),
            ("integer".into(), cpus.to_string()),
            ("size".into(), if large { "large" } else { "small" }.into()),
        ]);
        if large {
            labels.insert("special".into(), "optional".into());
        }
        PoolType {
            name: format!("fake-it-{i}").into(),
            labels: Arc::new(labels),
            allocatable,
            capacity,
            offerings: offerings(cpus as f64 * USD_PER_CPU),
            ..PoolType::default()
        }
    };
    Pool {
        name: "default".into(),
        types: Arc::new((0..TYPES).map(one).collect()),
        ..Pool::default()
    }
}
