//! A second workload: a real catalogue and a cluster as companies have them. Everything that is not
//! read from the catalogue follows from a seed, and is said here so that others can run it.
//!
//! Types are those of the file that are no bare metal (on-demand prices are the file's), in three
//! zones. Where spot is sold it costs 28 to 45 % of on-demand, drawn for each type and zone. Of a
//! node's processor 100m are reserved, of its memory 255 MiB and 11 MiB for each of its pods, of
//! which there are as many as addresses (110 below 30 processors, else 250 at most). Two daemons
//! (100m, 128 MiB) run everywhere.
//!
//! Pods come in deployments of 1 to 60 replicas: processor from 100m to 8, memory 0.5, 2, 4 or 8 GiB
//! for each. Of the deployments 30 % want amd64, 10 % arm64, 15 % on-demand, 25 % spread over zones,
//! 10 % keep their pods on different nodes, and 2 % want a GPU.

use super::{draws::Draws, workload::Workload};
use coracle_provisioning::{Offering, Pool, PoolType, offering::HOSTNAME};
use coracle_scheduling::{PodSpec, resources::Resources};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, sync::Arc};

const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];
const SEED: u64 = 20_261_124;

/// Types of a file with the columns of `ec2-us-east-1.csv`.
pub(crate) fn pool(file: &Path) -> Result<Pool, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut draws = Draws(SEED);
    let mut types = Vec::new();
    for (n, line) in text.lines().enumerate().skip(1) {
        let f: Vec<&str> = line.split(',').collect();
        let [name, vcpu, mib, arch, gpus, _, spot, metal, _, enis, ips, price] = f[..] else {
            return Err(format!("{}: line {} has not twelve fields", file.display(), n + 1));
        };
        let number = |s: &str| s.parse::<i64>().unwrap_or(0);
        let Ok(price) = price.parse::<f64>() else { continue };
        if metal == "yes" || price <= 0.0 {
            continue;
        }
        let addresses = number(enis) * (number(ips) - 1) + 2;
        let pods = addresses.min(if number(vcpu) < 30 { 110 } else { 250 });
        let extended =
            if number(gpus) > 0 { vec![("nvidia.com/gpu".into(), number(gpus))] } else { vec![] };
        let capacity = Resources {
            cpu_milli: number(vcpu) * 1000,
            memory_bytes: number(mib) << 20,
            ephemeral_bytes: 20 << 30,
            pods,
            extended,
        };
        let allocatable = Resources {
            cpu_milli: capacity.cpu_milli - 100,
            memory_bytes: capacity.memory_bytes - ((255 + 11 * pods) << 20),
            ..capacity.clone()
        };
        if allocatable.memory_bytes <= 0 {
            continue;
        }
        let mut offerings = Vec::new();
        for zone in ZONES {
            let sold = |capacity_type, usd_per_hour| Offering {
                zone: zone.into(),
                capacity_type,
                usd_per_hour,
            };
            offerings.push(sold("on-demand", price));
            if spot == "yes" {
                offerings.push(sold("spot", price * (0.28 + draws.below(171) as f64 / 1000.0)));
            }
        }
        offerings.sort_by(|a, b| a.usd_per_hour.total_cmp(&b.usd_per_hour));
        let arch = if arch == "arm64" { "arm64" } else { "amd64" };
        let labels = BTreeMap::from([("kubernetes.io/arch".to_owned(), arch.to_owned())]);
        types.push(PoolType {
            name: name.into(),
            labels: Arc::new(labels),
            allocatable,
            capacity,
            offerings,
            ..PoolType::default()
        });
    }
    types.sort_by(|a, b| a.offerings[0].usd_per_hour.total_cmp(&b.offerings[0].usd_per_hour));
    Ok(Pool { name: "default".into(), types: Arc::new(types), ..Pool::default() })
}

fn deployment(draws: &mut Draws, name: &str) -> Value {
    let cpu =
        [100, 100, 250, 250, 500, 500, 1000, 1000, 2000, 4000, 8000][draws.below(11) as usize];
    let per_cpu = [512, 2048, 2048, 4096, 4096, 8192][draws.below(6) as usize];
    let mut requests = json!({"cpu": format!("{cpu}m"), "memory": format!("{}Mi", (cpu * per_cpu / 1000).max(64))});
    let mut spec = json!({});
    match draws.below(100) {
        0..30 => spec["nodeSelector"] = json!({"kubernetes.io/arch": "amd64"}),
        30..40 => spec["nodeSelector"] = json!({"kubernetes.io/arch": "arm64"}),
        40..55 => spec["nodeSelector"] = json!({"karpenter.sh/capacity-type": "on-demand"}),
        _ => {}
    }
    let selector = json!({"matchLabels": {"app": name}});
    match draws.below(100) {
        0..25 => {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
        }
        25..35 => {
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": HOSTNAME, "labelSelector": selector}]}});
        }
        35..37 => requests["nvidia.com/gpu"] = json!("1"),
        _ => {}
    }
    spec["containers"] = json!([{"name": "c", "image": "i", "resources": {"requests": requests}}]);
    spec
}

/// About so many pods in deployments.
pub(crate) fn pods(count: usize) -> Workload {
    let mut draws = Draws(SEED);
    let mut objects = Vec::new();
    while objects.len() < count {
        let app = format!("app{}", objects.len());
        let spec = deployment(&mut draws, &app);
        let replicas = 1 + draws.below(20) * draws.below(4);
        for i in 0..replicas {
            objects.push(json!({"metadata": {"name": format!("{app}-{i}"), "namespace": "default", "labels": {"app": app}}, "spec": spec}));
        }
    }
    let parse = |v: &Value| {
        let pod: Pod = serde_json::from_value(v.clone()).expect("a pod");
        Arc::new(PodSpec::from_pod(&pod))
    };
    let pods = objects.iter().map(parse).collect();
    Workload {
        name: format!("catalogue {}", objects.len()),
        pods,
        objects,
        volume_bound_usd_per_hour: None,
    }
}

/// What runs on every node.
pub(crate) fn daemons() -> Vec<Value> {
    let one = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "kube-system"}, "spec": {"tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}})
    };
    vec![one("proxy"), one("logs")]
}
