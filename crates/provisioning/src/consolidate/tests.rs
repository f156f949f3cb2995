//! Searches over random clusters: each move is bound by the checker, and a cluster comes to rest.

use super::*;
use crate::{Offering, Place, PoolType, checker::Checker, offering::HOSTNAME};
use coracle_scheduling::{Node, Resources};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;

const USD_PER_CPU: f64 = 0.05;

fn pool() -> Pool {
    let one = |cpus: i64| {
        let capacity = Resources {
            cpu_milli: cpus * 1000,
            memory_bytes: (cpus * 4) << 30,
            ephemeral_bytes: 0,
            pods: 30,
            extended: vec![],
        };
        let usd_per_hour = cpus as f64 * USD_PER_CPU;
        let offering = Offering { zone: "z".into(), capacity_type: "on-demand", usd_per_hour };
        PoolType {
            name: format!("c{cpus}").into(),
            labels: Arc::new(BTreeMap::new()),
            allocatable: capacity.clone(),
            capacity,
            offerings: vec![offering],
            ..PoolType::default()
        }
    };
    Pool { name: "p".into(), types: Arc::new([1, 2, 4, 8, 16].map(one).into()), ..Pool::default() }
}

fn node(name: &str, cpus: i64) -> Value {
    json!({"metadata": {"name": name, "labels": {HOSTNAME: name, "topology.kubernetes.io/zone": "z"}},
        "status": {"allocatable": {"cpu": cpus.to_string(), "memory": format!("{}Gi", cpus * 4), "pods": "30"}}})
}

/// A cluster that can be changed by commands.
struct Cluster {
    snapshot: Snapshot,
    nodes: BTreeMap<String, (Value, f64)>,
    pods: BTreeMap<String, (Value, Arc<PodSpec>, String)>,
    bought: usize,
}

impl Cluster {
    fn new(sizes: &[u32], pods: &[(i64, i64, usize)]) -> Self {
        let mut c = Self {
            snapshot: Snapshot::default(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            bought: 0,
        };
        for (i, size) in sizes.iter().enumerate() {
            c.add_node(&format!("n{i}"), 1 << size);
        }
        for (i, (cpu, memory, at)) in pods.iter().enumerate() {
            let v = json!({"metadata": {"name": format!("p{i}"), "namespace": "default", "labels": {"app": format!("a{}", i % 3)}},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{}m", cpu * 100), "memory": format!("{}Mi", memory * 100)}}}]}});
            let spec = Arc::new(PodSpec::from_pod(&serde_json::from_value(v.clone()).unwrap()));
            let name = format!("n{}", at % sizes.len());
            if c.snapshot.fits(&spec, &name).is_ok() {
                c.snapshot.add_pod(spec.clone(), &name);
                c.pods.insert(format!("p{i}"), (v, spec, name));
            }
        }
        c
    }

    fn add_node(&mut self, name: &str, cpus: i64) {
        let v = node(name, cpus);
        self.snapshot.set_node(Node::from_node(&serde_json::from_value(v.clone()).unwrap()));
        self.nodes.insert(name.to_owned(), (v, cpus as f64 * USD_PER_CPU));
    }

    fn candidates(&self) -> Vec<Candidate> {
        let pods = |n: &str| self.pods.values().filter(|p| p.2 == n).map(|p| p.1.clone()).collect();
        let one = |(name, (_, price)): (&String, &(Value, f64))| {
            let pods: Vec<Arc<PodSpec>> = pods(name);
            let disruption = pods.len() as f64;
            Candidate {
                node: name.clone(),
                pool: "p".into(),
                usd_per_hour: *price,
                pods,
                disruption,
            }
        };
        self.nodes.iter().map(one).collect()
    }

    fn price(&self) -> f64 {
        self.nodes.values().map(|(_, p)| p).sum()
    }

    /// Does as a command says. Returns the rules that it broke.
    fn apply(&mut self, command: &Command) -> Vec<String> {
        let mut names = Vec::new();
        for n in &command.plan.new_nodes {
            self.bought += 1;
            let name = format!("b{}", self.bought);
            self.add_node(&name, n.types[0][1..].parse().unwrap());
            names.push(name);
        }
        for n in &command.remove {
            self.nodes.remove(n);
            self.snapshot.remove_node(n);
        }
        let mut checker = Checker::new(self.nodes.values().map(|(v, _)| v.clone()).collect(), &[]);
        for (v, _, at) in self.pods.values().filter(|p| !command.remove.contains(&p.2)) {
            checker.place(v.clone(), at);
        }
        let mut targets: HashMap<String, String> = HashMap::new();
        let mut broken = Vec::new();
        for (key, place) in command.plan.bindings() {
            let to = match place {
                Place::Existing(n) => n.to_owned(),
                Place::New(i) => names[i].clone(),
            };
            broken.extend(checker.bind(self.pods[&key.name].0.clone(), &to));
            targets.insert(key.name.clone(), to);
        }
        for (name, (_, spec, at)) in &mut self.pods {
            if command.remove.contains(at) {
                let Some(to) = targets.get(name) else {
                    broken.push(format!("{name} is left without a node"));
                    continue;
                };
                at.clone_from(to);
                self.snapshot.add_pod(spec.clone(), to);
            }
        }
        broken
    }
}

fn all(_: &str) -> Terms {
    Terms { budget: usize::MAX, balance: None, ..Terms::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_cluster_gets_cheaper_by_the_rules_and_comes_to_rest(
        sizes in proptest::collection::vec(0u32..5, 1..14),
        pods in proptest::collection::vec((1i64..30, 1i64..90, 0usize..14), 0..60),
    ) {
        let mut c = Cluster::new(&sizes, &pods);
        let pools = [pool()];
        let mut steps = 0;
        loop {
            let mut candidates = c.candidates();
            for name in empty(&candidates, |_| usize::MAX) {
                c.nodes.remove(&name);
                c.snapshot.remove_node(&name);
            }
            candidates.retain(|x| !x.pods.is_empty());
            let Some(command) = search(&c.snapshot, &candidates, &pools, &[], all) else { break };
            let before = c.price();
            prop_assert!(command.saves_usd_per_hour > USD_PER_EVICTION * command.disruption);
            prop_assert_eq!(c.apply(&command), Vec::<String>::new());
            prop_assert!((before - c.price() - command.saves_usd_per_hour).abs() < 1e-6, "{}", command.why);
            steps += 1;
            prop_assert!(steps < 20, "it never rests");
        }
        // Where nothing is worth while nothing is done, however often it is asked.
        let candidates: Vec<Candidate> =
            c.candidates().into_iter().filter(|x| !x.pods.is_empty()).collect();
        prop_assert!(search(&c.snapshot, &candidates, &pools, &[], all).is_none());
    }
}

#[test]
fn budgets_and_balance_hold() {
    // Four nodes of 8 with one small pod each, and one that is half full.
    let pods: Vec<(i64, i64, usize)> =
        (0..4).map(|n| (5, 5, n)).chain((0..8).map(|_| (5, 5, 4))).collect();
    let c = Cluster::new(&[3, 3, 3, 3, 3], &pods);
    let (candidates, pools) = (c.candidates(), [pool()]);
    for budget in [0, 1, 2] {
        let found = search(&c.snapshot, &candidates, &pools, &[], |_| Terms {
            budget,
            balance: None,
            ..Terms::default()
        });
        assert_eq!(found.map_or(0, |f| f.remove.len()), budget);
    }
    // One node of five is a fifth of the price and a twelfth of the pods.
    let balanced = |disruption: f64| {
        let balance = Some((5.0 * 8.0 * USD_PER_CPU, disruption));
        search(&c.snapshot, &candidates, &pools, &[], |_| Terms {
            budget: 1,
            balance,
            ..Terms::default()
        })
    };
    assert!(balanced(12.0).is_some());
    // If its pod were all that the pool has, a fifth of the price would not be worth it.
    assert!(balanced(1.0).is_none());
}

#[test]
fn evictions_cost_as_karpenter_counts() {
    assert_eq!(eviction_cost(0, 0), 1.0);
    assert_eq!(eviction_cost(0, 1 << 27), 2.0);
    assert_eq!(eviction_cost(1 << 25, 0), 2.0);
    assert_eq!((eviction_cost(2_000_000_000, 0), eviction_cost(0, i32::MIN)), (10.0, -10.0));
}
