//! Plans are held against a checker that reads the API objects and shares no code with the packer.

use super::*;
use crate::{
    PoolType,
    checker::Checker,
    consolidate::{self, Candidate, Terms},
    offering::{HOSTNAME, ZONE},
};
use coracle_scheduling::Node;
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
                    ..PoolType::default()
                }
            })
        })
        .collect();
    Pool { name: name.into(), types: Arc::new(types), ..Pool::default() }
}

mod offers;

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
    assert_eq!(
        plan.unschedulable[&big.key],
        "NodePool p: no instance type is large enough (64 of cpu are asked for, the largest offers 16)"
    );
    let (_, picky) = pod("picky", 100, 1, &json!({"spec": {"nodeSelector": {"family": "x"}}}));
    let pools = [pool("p", &SIZES, &ZONES)];
    let plan = pack(&mut Snapshot::default(), std::slice::from_ref(&picky), &pools, &[]);
    assert_eq!(
        plan.unschedulable[&picky.key],
        "NodePool p: no instance type meets the pod's node selector and affinity (family excludes 15 of 15)"
    );
}

#[test]
fn the_important_come_first_where_limits_do_not_do_for_all() {
    let of = |name: &str, priority: i32| {
        pod(name, 1000, 512, &json!({"spec": {"priority": priority}})).1
    };
    let pods: Vec<_> =
        (0..4).flat_map(|i| [of(&format!("low{i}"), 0), of(&format!("high{i}"), 10)]).collect();
    let mut p = pool("p", &[(1, 0.1), (2, 0.2), (4, 0.4)], &ZONES);
    p.room = BTreeMap::from([("cpu".to_owned(), 4000)]);
    let plan = pack(&mut Snapshot::default(), &pods, &[p], &[]);
    let placed: BTreeSet<&str> = plan.bindings().map(|(k, _)| k.name.as_str()).collect();
    assert_eq!(placed, BTreeSet::from(["high0", "high1", "high2", "high3"]));
    assert!(plan.unschedulable.values().all(|w| w == "NodePool p: its limits are reached"));
}

fn terms(budget: usize) -> Terms {
    Terms { budget, balance: None, ..Terms::default() }
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
            disruption: 1.0,
        });
    }
    let command = consolidate::search(&snapshot, &candidates, &pools, &[], |_| terms(4)).unwrap();
    assert!(command.saves_usd_per_hour >= 0.64 - 0.16 - 1e-9, "{command:?}");
    assert!(consolidate::search(&snapshot, &candidates, &pools, &[], |_| terms(0)).is_none());
    // A lone node at the lowest price that its pod can have stays where it is.
    for n in ["n1", "n2", "n3"] {
        snapshot.remove_node(n);
    }
    let settled = Candidate { usd_per_hour: 0.04, ..candidates[0].clone() };
    assert!(consolidate::search(&snapshot, &[settled], &pools, &[], |_| terms(4)).is_none());
}

/// Launches every type that a plan's node may become, and binds all pods in the plan's order.
fn violations(
    nodes: &[Value],
    pods: &[Value],
    daemons: &[Value],
    plan: &Plan,
    pools: &[Pool],
) -> Vec<String> {
    let mut out = Vec::new();
    let most = plan.new_nodes.iter().map(|n| n.types.len()).max().unwrap_or(1);
    // The cheapest of all nodes together, the next, and so on: each node ends with its last type.
    for choice in [0, 1, most / 2, most] {
        let launched: Vec<Value> =
            plan.new_nodes.iter().enumerate().map(|(i, n)| launch(i, n, choice, pools)).collect();
        let all: Vec<Value> = nodes.iter().chain(&launched).cloned().collect();
        let mut checker = Checker::new(all, &[]);
        for node in &launched {
            let name = node["metadata"]["name"].as_str().unwrap();
            daemons.iter().for_each(|d| checker.place(d.clone(), name));
        }
        let find = |k: &PodKey| pods.iter().find(|p| p["metadata"]["name"] == k.name.as_str());
        for (key, place) in plan.bindings() {
            let node = match place {
                Place::Existing(name) => name.to_owned(),
                Place::New(i) => format!("n{i}"),
            };
            out.extend(checker.bind(find(key).unwrap().clone(), &node));
        }
    }
    let placed = plan.bindings().count() + plan.unschedulable.len();
    if placed != pods.len() {
        out.push(format!("{placed} of {} pods are accounted for", pods.len()));
    }
    out
}

fn launch(i: usize, n: &NewNode, choice: usize, pools: &[Pool]) -> Value {
    let pool = pools.iter().find(|p| p.name == n.pool).unwrap();
    let ty = &n.types[choice.min(n.types.len() - 1)];
    let t = pool.types.iter().find(|t| t.name == *ty).unwrap();
    let sold =
        |o: &&Offering| n.zones.contains(&o.zone) && n.capacity_types.contains(o.capacity_type);
    let o = t.offerings.iter().find(sold).unwrap_or(&n.offering);
    let mut labels = (*t.labels).clone();
    labels.extend(pool.labels.clone());
    labels.insert(HOSTNAME.into(), format!("n{i}"));
    labels.insert(ZONE.into(), o.zone.to_string());
    labels.insert("karpenter.sh/capacity-type".into(), o.capacity_type.into());
    let taints: Vec<Value> = pool
        .taints
        .iter()
        .map(|t| json!({"key": t.key, "value": t.value, "effect": t.effect}))
        .collect();
    json!({"metadata": {"name": format!("n{i}"), "labels": labels}, "spec": {"taints": taints},
        "status": {"allocatable": t.allocatable.to_list()}})
}

/// What makes pods of a group special.
fn special(kind: u8, app: &str) -> Value {
    let selector = json!({"matchLabels": {"app": app}});
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let spread = |key: &str, more: Value| {
        let mut c = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector});
        c.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"topologySpreadConstraints": [c]})
    };
    let term = |key: &str| json!({required: [{"topologyKey": key, "labelSelector": selector}]});
    let node = |key: &str, operator: &str, values: Value| {
        json!({"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
    };
    match kind {
        1 => json!({"nodeSelector": {"family": "m"}}),
        2 => spread(ZONE, json!({})),
        3 => json!({"affinity": {"podAntiAffinity": term(HOSTNAME)}}),
        4 => json!({"nodeSelector": {ZONE: "z2"}}),
        5 => spread(HOSTNAME, json!({"maxSkew": 2})),
        6 => json!({"affinity": {"podAffinity": term(ZONE)}}),
        7 => json!({"affinity": {"podAntiAffinity": term(ZONE)}}),
        8 => json!({"tolerations": [{"key": "special", "operator": "Exists"}]}),
        9 => node("karpenter.sh/capacity-type", "In", json!(["on-demand"])),
        10 => node(ZONE, "NotIn", json!(["z1"])),
        11 => spread(ZONE, json!({"minDomains": 3})),
        12 => {
            json!({"containers": [{"name": "c", "ports": [{"hostPort": 80, "containerPort": 80}]}]})
        }
        // Others' pods are counted and repelled too.
        13 => json!({"affinity": {"podAntiAffinity": {required: [
            {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": {"app": "app0"}}}]}}}),
        14 => {
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "app0"}}}]})
        }
        15 => json!({"affinity": {"podAffinity": term(HOSTNAME)}}),
        _ => json!({}),
    }
}

fn existing(i: usize) -> (Value, Node) {
    let zone = ["z1", "z2", "z3"][i % 3];
    let v = json!({"metadata": {"name": format!("old{i}"), "labels": {HOSTNAME: format!("old{i}"), ZONE: zone, "family": "c"}},
        "spec": {}, "status": {"allocatable": {"cpu": "3", "memory": "4Gi", "pods": "10"}}});
    (v.clone(), Node::from_node(&serde_json::from_value(v).unwrap()))
}

/// The least that first fit, largest first, costs with nodes of one type.
fn one_type_first_fit(pods: &[Arc<PodSpec>], pool: &Pool) -> f64 {
    let mut sorted = pods.to_vec();
    sorted.sort_by_key(|p| std::cmp::Reverse((p.requests.cpu_milli, p.requests.memory_bytes)));
    let with = |t: &PoolType| {
        let mut nodes: Vec<Resources> = Vec::new();
        for p in &sorted {
            if !p.requests.fits(&Resources::default(), &t.allocatable) {
                return f64::INFINITY;
            }
            match nodes.iter_mut().find(|used| p.requests.fits(used, &t.allocatable)) {
                Some(used) => used.add(&p.requests, 1),
                None => nodes.push(p.requests.clone()),
            }
        }
        nodes.len() as f64 * t.offerings[0].usd_per_hour
    };
    pool.types.iter().map(with).fold(f64::INFINITY, f64::min)
}

/// Covers of several zones are put one after the other: each has a worth for each of its items.
#[test]
fn what_fits_nothing_is_worth_nothing() {
    let items = [cover::Item { need: vec![9], count: 2, per_bin: 1, apart: None, set: 0 }];
    let bins = [cover::Bin { room: vec![1], price: 1.0 }];
    let covered = cover::cover(cover::Problem { items: &items, bins: &bins, sets: &[vec![true]] });
    assert_eq!((covered.worth, covered.counts), (vec![0.0], vec![0]));
    assert!(covered.filled.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_plan_breaks_a_rule(
        shapes in proptest::collection::vec((1i64..40, 1i64..40, 0u8..17, 1usize..12), 1..8),
        old in 0usize..4,
        with_daemon in proptest::bool::ANY,
        reserved in 0usize..4,
        families in 1usize..3,
    ) {
        let mut tainted = pool("special", &SIZES, &["z1", "z3"]);
        tainted.weight = 5;
        tainted.taints = vec![coracle_scheduling::node::Taint {
            key: "special".into(), value: String::new(), effect: "NoSchedule".into() }];
        let mut pools = [offers::reserve(pool("p", &SIZES, &ZONES), "m4", "z2", reserved), tainted];
        pools[0].min_values = vec![crate::MinValues { key: "family".into(), values: families }];
        let (mut values, mut specs) = (Vec::new(), Vec::new());
        for (g, (cpu, memory, kind, n)) in shapes.iter().enumerate() {
            let app = format!("app{g}");
            let extra = json!({"metadata": {"labels": {"app": app}}, "spec": special(*kind, &app)});
            for i in 0..*n {
                let (v, p) = pod(&format!("p{g}-{i}"), cpu * 100, memory * 128, &extra);
                values.push(v);
                specs.push(p);
            }
        }
        let daemon = pod("daemon", 200, 128, &json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
        let daemons = if with_daemon { vec![daemon.1] } else { vec![] };
        let mut snapshot = Snapshot::default();
        let nodes: Vec<Value> = (0..old).map(|i| {
            let (v, n) = existing(i);
            snapshot.set_node(n);
            v
        }).collect();
        let plan = pack(&mut snapshot.clone(), &specs, &pools, &daemons);
        let objects = if with_daemon { vec![daemon.0] } else { vec![] };
        prop_assert_eq!(violations(&nodes, &values, &objects, &plan, &pools), Vec::<String>::new());
        prop_assert!(plan.usd_per_hour + 1e-9 >= plan.lower_bound_usd_per_hour);
        prop_assert!(offers::reserved(&plan) <= reserved);
        let varied = |n: &NewNode| {
            let all: BTreeSet<&str> = n.types.iter().map(|t| &t[..1]).collect();
            n.pool != "p" || n.reservation.is_some() || all.len() >= families
        };
        prop_assert!(plan.new_nodes.iter().all(varied), "{:?}", plan.new_nodes);
        // What can go nowhere is refused by a rule that nothing can meet.
        let apart = shapes.iter().any(|(.., kind, _)| matches!(kind, 7 | 13 | 14 | 15));
        let alike = |why: &String| families > 1 && why.contains("minValues of family");
        prop_assert!(apart || plan.unschedulable.values().all(alike), "{:?}", plan.unschedulable);
        let again = pack(&mut snapshot, &specs, &pools, &daemons);
        prop_assert_eq!(format!("{plan:?}"), format!("{again:?}"));
    }

    /// No cover costs less than the bound, whatever the items are worth.
    #[test]
    fn bounds_hold(shapes in proptest::collection::vec((1i64..60, 1i64..60, 1usize..30), 1..12)) {
        let pools = [pool("p", &SIZES, &ZONES)];
        let specs: Vec<_> = shapes.iter().enumerate().flat_map(|(g, (cpu, memory, n))| {
            (0..*n).map(move |i| pod(&format!("p{g}-{i}"), cpu * 100, memory * 128, &json!({})).1)
        }).collect();
        let plan = pack(&mut Snapshot::default(), &specs, &pools, &[]);
        prop_assert!(plan.unschedulable.is_empty());
        prop_assert!(plan.lower_bound_usd_per_hour > 0.0);
        prop_assert!(plan.usd_per_hour + 1e-9 >= plan.lower_bound_usd_per_hour);
        let simple = one_type_first_fit(&specs, &pools[0]);
        prop_assert!(plan.usd_per_hour <= simple + 1e-9, "{} and simply {simple}", plan.usd_per_hour);
    }
}
