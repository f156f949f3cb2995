//! Plans are held against a checker that reads the API objects and shares no code with the packer.

use super::*;
use crate::{
    PoolType,
    consolidate::{self, Candidate},
    offering::{HOSTNAME, ZONE},
};
use coracle_scheduling::{Node, Requirements};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

fn pool(name: &str, sizes: &[(i64, f64)], zones: &[&str]) -> Pool {
    let types = sizes
        .iter()
        .flat_map(|(cpu, price)| {
            [("c", 2), ("m", 4), ("r", 8)].map(|(family, ratio)| {
                let r = Resources {
                    cpu_milli: cpu * 1000,
                    memory_bytes: (cpu * ratio) << 30,
                    ephemeral_bytes: 20 << 30,
                    pods: 58,
                    extended: vec![],
                };
                let price = price * (1.0 + 0.15 * (ratio as f64 / 2.0 - 1.0));
                let offerings = zones.iter().flat_map(|z| {
                    [("spot", 0.4), ("on-demand", 1.0)].map(|(c, f)| Offering {
                        zone: (*z).into(),
                        capacity_type: c,
                        usd_per_hour: price * f,
                    })
                });
                let mut offerings: Vec<Offering> = offerings.collect();
                offerings.sort_by(|a, b| a.usd_per_hour.total_cmp(&b.usd_per_hour));
                let labels = BTreeMap::from([
                    ("family".to_owned(), family.to_owned()),
                    ("kubernetes.io/arch".into(), "amd64".into()),
                ]);
                PoolType {
                    name: format!("{family}{cpu}").into(),
                    labels: Arc::new(labels),
                    allocatable: r.clone(),
                    capacity: r,
                    offerings,
                }
            })
        })
        .collect();
    Pool {
        name: name.into(),
        weight: 0,
        requirements: Requirements::default(),
        labels: BTreeMap::new(),
        taints: vec![],
        room: BTreeMap::new(),
        types: Arc::new(types),
    }
}

const SIZES: [(i64, f64); 5] = [(1, 0.05), (2, 0.1), (4, 0.2), (8, 0.4), (16, 0.8)];
const ZONES: [&str; 3] = ["z1", "z2", "z3"];

fn pod(name: &str, cpu: i64, memory_mib: i64, extra: &Value) -> (Value, Arc<PodSpec>) {
    let mut v = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory_mib}Mi")}}}]}});
    merge(&mut v, extra);
    let p = Arc::new(PodSpec::from_pod(&serde_json::from_value::<Pod>(v.clone()).unwrap()));
    (v, p)
}

fn merge(v: &mut Value, p: &Value) {
    match (v, p) {
        (Value::Object(v), Value::Object(p)) => {
            p.iter().for_each(|(k, x)| merge(v.entry(k).or_insert(Value::Null), x))
        }
        (v, p) => *v = p.clone(),
    }
}

#[test]
fn one_type_gives_as_many_nodes_as_are_needed() {
    let pods: Vec<_> = (0..50).map(|i| pod(&format!("p{i}"), 3000, 1024, &json!({})).1).collect();
    let mut p = pool("p", &[(32, 1.2)], &ZONES);
    Arc::make_mut(&mut p.types).retain(|t| &*t.name == "c32");
    let plan = pack(&mut Snapshot::default(), &pods, &[p], &[]);
    assert_eq!((plan.new_nodes.len(), plan.unschedulable.len()), (5, 0));
    assert!(plan.usd_per_hour + 1e-9 >= plan.lower_bound_usd_per_hour);
}

#[test]
fn shape_decides_the_family() {
    let lean: Vec<_> = (0..8).map(|i| pod(&format!("p{i}"), 1000, 1024, &json!({})).1).collect();
    let plan = pack(&mut Snapshot::default(), &lean, &[pool("p", &SIZES, &ZONES)], &[]);
    assert!(plan.new_nodes.iter().all(|n| n.types[0].starts_with('c')), "{plan:?}");
    let fat: Vec<_> = (0..8).map(|i| pod(&format!("p{i}"), 1000, 7 * 1024, &json!({})).1).collect();
    let plan = pack(&mut Snapshot::default(), &fat, &[pool("p", &SIZES, &ZONES)], &[]);
    assert!(plan.new_nodes.iter().all(|n| n.types[0].starts_with('r')), "{plan:?}");
}

#[test]
fn limits_weights_and_reasons() {
    let pods: Vec<_> = (0..4).map(|i| pod(&format!("p{i}"), 1000, 512, &json!({})).1).collect();
    let mut first = pool("first", &[(1, 9.0)], &ZONES);
    first.weight = 10;
    first.room = BTreeMap::from([("cpu".to_owned(), 2000)]);
    let plan = pack(&mut Snapshot::default(), &pods, &[pool("second", &SIZES, &ZONES), first], &[]);
    let of = |n: &str| {
        plan.new_nodes.iter().filter(|x| x.pool == n).map(|x| x.pods.len()).sum::<usize>()
    };
    assert_eq!((of("first"), of("second")), (2, 2));
    let (_, big) = pod("big", 64_000, 1, &json!({}));
    let plan = pack(
        &mut Snapshot::default(),
        std::slice::from_ref(&big),
        &[pool("p", &SIZES, &ZONES)],
        &[],
    );
    assert_eq!(plan.unschedulable[&big.key], "NodePool p: no instance type is large enough");
}

#[test]
fn many_nodes_become_few_and_a_good_cluster_stays() {
    let pools = [pool("p", &SIZES, &ZONES)];
    let mut snapshot = Snapshot::default();
    let mut candidates = Vec::new();
    for i in 0..4 {
        let t = pools[0].types.iter().find(|t| &*t.name == "c8").unwrap();
        let name = format!("n{i}");
        let labels =
            BTreeMap::from([(ZONE.to_owned(), "z1".to_owned()), (HOSTNAME.into(), name.clone())]);
        snapshot.set_node(Node {
            name: name.clone(),
            labels,
            allocatable: t.allocatable.clone(),
            ..Node::default()
        });
        let (_, p) = pod(&format!("p{i}"), 2000, 1024, &json!({}));
        snapshot.add_pod(p.clone(), &name);
        candidates.push(Candidate {
            node: name,
            pool: "p".into(),
            usd_per_hour: 0.16,
            pods: vec![p],
        });
    }
    let command = consolidate::search(&snapshot, &candidates, &pools, &[], |_| 4).unwrap();
    assert!(command.saves_usd_per_hour >= 0.64 - 0.16 - 1e-9, "{command:?}");
    assert!(consolidate::search(&snapshot, &candidates, &pools, &[], |_| 0).is_none());
    // A lone node at the lowest price that its pod can have stays where it is.
    for n in ["n1", "n2", "n3"] {
        snapshot.remove_node(n);
    }
    let settled = Candidate { usd_per_hour: 0.04, ..candidates[0].clone() };
    assert!(consolidate::search(&snapshot, &[settled], &pools, &[], |_| 4).is_none());
}

/// Reads the plan against the API objects alone.
fn violations(pods: &[Value], plan: &Plan, types: &[PoolType]) -> Vec<String> {
    let mut out = Vec::new();
    let find = |k: &PodKey| pods.iter().find(|p| p["metadata"]["name"] == k.name.as_str()).unwrap();
    let number = |v: &Value, unit: &str| {
        v.as_str().unwrap().strip_suffix(unit).unwrap().parse::<i64>().unwrap()
    };
    let mut zones: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (i, n) in plan.new_nodes.iter().enumerate() {
        let here: Vec<&Value> = n.pods.iter().map(find).collect();
        seen.extend(n.pods.iter().map(|k| k.name.clone()));
        for name in &n.types {
            let t = types.iter().find(|t| t.name == *name).unwrap();
            let requests = |p: &&Value| p["spec"]["containers"][0]["resources"]["requests"].clone();
            let cpu: i64 = here.iter().map(|p| number(&requests(p)["cpu"], "m")).sum();
            let memory: i64 = here.iter().map(|p| number(&requests(p)["memory"], "Mi") << 20).sum();
            if cpu > t.allocatable.cpu_milli
                || memory > t.allocatable.memory_bytes
                || here.len() as i64 > t.allocatable.pods
            {
                out.push(format!("node {i} is over as {name}"));
            }
            for p in &here {
                if let Some(f) = p["spec"]["nodeSelector"]["family"].as_str() {
                    if t.labels["family"] != f {
                        out.push(format!(
                            "node {i} of family {} has a pod for {f}",
                            t.labels["family"]
                        ));
                    }
                }
            }
        }
        for p in &here {
            let app = p["metadata"]["labels"]["app"].as_str().unwrap();
            if let Some(z) = p["spec"]["nodeSelector"][ZONE].as_str() {
                if n.zones.iter().any(|x| **x != *z) {
                    out.push(format!("node {i} may be outside {z}"));
                }
            }
            let apart = p["spec"]["affinity"]["podAntiAffinity"].is_object();
            if apart && here.iter().filter(|q| q["metadata"]["labels"]["app"] == app).count() > 1 {
                out.push(format!("node {i} has two of {app} that repel each other"));
            }
            if p["spec"]["topologySpreadConstraints"].is_array() {
                if n.zones.len() != 1 {
                    out.push(format!("node {i} spreads over unknown zones"));
                }
                *zones
                    .entry(app.to_owned())
                    .or_default()
                    .entry(n.zones.first().unwrap().to_string())
                    .or_default() += 1;
            }
        }
    }
    for (app, counts) in zones {
        let all: Vec<i64> = ZONES.iter().map(|z| counts.get(*z).copied().unwrap_or(0)).collect();
        if all.iter().max().unwrap() - all.iter().min().unwrap() > 1 {
            out.push(format!("{app} is skewed: {all:?}"));
        }
    }
    if seen.len() + plan.unschedulable.len() != pods.len() {
        out.push("pods were lost or placed twice".into());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_plan_breaks_a_rule(shapes in proptest::collection::vec((1i64..40, 1i64..40, 0u8..5, 1usize..9), 1..8)) {
        let pools = [pool("p", &SIZES, &ZONES)];
        let mut values = Vec::new();
        let mut specs = Vec::new();
        for (g, (cpu, memory, kind, n)) in shapes.iter().enumerate() {
            let app = format!("app{g}");
            let mut extra = json!({"metadata": {"labels": {"app": app}}});
            let selector = json!({"matchLabels": {"app": app}});
            match kind {
                1 => extra["spec"]["nodeSelector"] = json!({"family": "m"}),
                2 => extra["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]),
                3 => extra["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([{"topologyKey": HOSTNAME, "labelSelector": selector}]),
                4 => extra["spec"]["nodeSelector"] = json!({ZONE: "z2"}),
                _ => {}
            }
            for i in 0..*n {
                let (v, p) = pod(&format!("p{g}-{i}"), cpu * 100, memory * 128, &extra);
                values.push(v);
                specs.push(p);
            }
        }
        let plan = pack(&mut Snapshot::default(), &specs, &pools, &[]);
        prop_assert_eq!(violations(&values, &plan, &pools[0].types), Vec::<String>::new());
        prop_assert!(plan.unschedulable.is_empty(), "{:?}", plan.unschedulable);
        let again = pack(&mut Snapshot::default(), &specs, &pools, &[]);
        prop_assert_eq!(format!("{plan:?}"), format!("{again:?}"));
    }
}
