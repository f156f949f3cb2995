//! Nodes that were bought, the pods that are bound to them in turn under the scheduler's own rules,
//! and at the end the choice of each node's type for what is really on it.

use super::{
    NewNode, Plan,
    market::{Lot, Market},
};
use crate::offering::{CAPACITY_TYPE, Offering, ZONE};
use coracle_scheduling::{PodSpec, Profile, Requirements, Resources, Snapshot, pod::PodKey};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Most types that a new node names as alternatives, as Karpenter's provider.
const MAX_TYPES: usize = 60;

/// Nodes that were bought so far.
#[derive(Default)]
pub(super) struct Bought {
    nodes: Vec<Node>,
    by_name: HashMap<String, usize>,
    order: Vec<(PodKey, Option<usize>)>,
    existing: BTreeMap<PodKey, String>,
    /// Distinct wishes of pods about their nodes.
    wishes: HashMap<Arc<Vec<Requirements>>, usize>,
}

struct Node {
    name: String,
    lot: Lot,
    pods: usize,
    asked: Resources,
    wishes: BTreeMap<usize, Arc<Vec<Requirements>>>,
    /// Zones that it may be in.
    zones: u64,
}

impl Bought {
    pub(super) fn open(
        &mut self,
        snapshot: &mut Snapshot,
        market: &Market<'_>,
        lot: &Lot,
        offering: &Offering,
    ) -> usize {
        let name = format!("new-{}", self.nodes.len() + 1);
        let mut node = market.node(lot.pool, market.ty(lot), Some(offering), &name);
        node.used = lot.overhead.clone();
        snapshot.set_node(node);
        self.by_name.insert(name.clone(), self.nodes.len());
        self.nodes.push(Node {
            name,
            lot: lot.clone(),
            pods: 0,
            asked: Resources::default(),
            wishes: BTreeMap::new(),
            zones: market.zone_bit(&offering.zone),
        });
        self.nodes.len() - 1
    }

    /// The newest node did not do.
    pub(super) fn close(&mut self, snapshot: &mut Snapshot, at: usize) {
        let node = self.nodes.remove(at);
        self.by_name.remove(&node.name);
        snapshot.remove_node(&node.name);
    }

    pub(super) fn wish(&mut self, at: usize, alternatives: Arc<Vec<Requirements>>) {
        let next = self.wishes.len();
        let id = *self.wishes.entry(alternatives.clone()).or_insert(next);
        self.nodes[at].wishes.entry(id).or_insert(alternatives);
    }

    pub(super) fn bind(&mut self, snapshot: &mut Snapshot, pod: Arc<PodSpec>, at: usize) -> bool {
        if snapshot.fits(&pod, &self.nodes[at].name).is_err() {
            return false;
        }
        self.take(&pod, at);
        snapshot.add_pod(pod, &self.nodes[at].name);
        true
    }

    fn take(&mut self, pod: &PodSpec, at: usize) {
        let node = &mut self.nodes[at];
        node.asked.add(&pod.requests, 1);
        node.pods += 1;
        self.order.push((pod.key.clone(), Some(at)));
    }

    pub(super) fn bind_anywhere(&mut self, snapshot: &mut Snapshot, pod: &Arc<PodSpec>) -> bool {
        let Ok(name) = snapshot.schedule(pod, Profile::Pack) else { return false };
        match self.by_name.get(&name).copied() {
            Some(at) => {
                self.wish(at, Arc::new(pod.node_requirements()));
                self.take(pod, at);
            }
            None => {
                self.order.push((pod.key.clone(), None));
                self.existing.insert(pod.key.clone(), name.clone());
            }
        }
        snapshot.add_pod(pod.clone(), &name);
        true
    }

    /// Chooses the type of each node for what is on it, and tells the plan.
    pub(super) fn finish(self, snapshot: &mut Snapshot, market: &Market<'_>, plan: &mut Plan) {
        let mut number = vec![usize::MAX; self.nodes.len()];
        let mut pods: Vec<Vec<PodKey>> = vec![Vec::new(); self.nodes.len()];
        for (key, at) in &self.order {
            if let Some(at) = at {
                pods[*at].push(key.clone());
            }
        }
        let mut shelves: HashMap<(usize, Vec<usize>, u64), Vec<Shelf>> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if node.pods == 0 {
                snapshot.remove_node(&node.name);
                continue;
            }
            let bound = snapshot
                .node(&node.name)
                .is_some_and(|n| n.pods.values().any(|p| p.is_topology_bound()));
            let zones = if bound { node.zones } else { u64::MAX };
            let key = (node.lot.pool, node.wishes.keys().copied().collect(), zones);
            let shelf = shelves
                .entry(key)
                .or_insert_with(|| shelf(market, node.lot.pool, &node.wishes, zones));
            number[at] = plan.new_nodes.len();
            let new = name_types(market, node, shelf, std::mem::take(&mut pods[at]));
            plan.new_nodes.push(new);
        }
        plan.existing.extend(self.existing);
        plan.order.extend(self.order.into_iter().map(|(k, at)| (k, at.map(|at| number[at]))));
    }
}

/// A type with its cheapest offering that suits some pods.
struct Shelf {
    ty: usize,
    offering: Offering,
    zones: BTreeSet<Arc<str>>,
    capacity_types: BTreeSet<&'static str>,
}

/// Types of a pool that all wishes accept, cheapest first.
fn shelf(
    market: &Market<'_>,
    pool: usize,
    wishes: &BTreeMap<usize, Arc<Vec<Requirements>>>,
    zones: u64,
) -> Vec<Shelf> {
    let mut out = Vec::new();
    for (ty, t) in market.pools[pool].types.iter().enumerate() {
        let suits = |o: &&Offering| {
            zones & market.zone_bit(&o.zone) != 0
                && wishes.values().all(|w| {
                    w.iter().any(|r| {
                        r.get(ZONE).is_none_or(|v| v.accepts(Some(&o.zone)))
                            && r.get(CAPACITY_TYPE).is_none_or(|v| v.accepts(Some(o.capacity_type)))
                            && market.type_accepted(pool, t, r)
                    })
                })
        };
        let all: Vec<&Offering> = t.offerings.iter().filter(suits).collect();
        let cheapest = all.iter().min_by(|a, b| a.usd_per_hour.total_cmp(&b.usd_per_hour));
        let Some(offering) = cheapest.map(|o| (**o).clone()) else { continue };
        out.push(Shelf {
            ty,
            offering,
            zones: all.iter().map(|o| o.zone.clone()).collect(),
            capacity_types: all.iter().map(|o| o.capacity_type).collect(),
        });
    }
    let name = |s: &Shelf| market.pools[pool].types[s.ty].name.clone();
    out.sort_by(|a, b| {
        let by_price = a.offering.usd_per_hour.total_cmp(&b.offering.usd_per_hour);
        by_price.then_with(|| name(a).cmp(&name(b)))
    });
    out
}

/// Names the types, zones and capacity types that would do as well, cheapest first.
fn name_types(market: &Market<'_>, node: &Node, shelf: &[Shelf], pods: Vec<PodKey>) -> NewNode {
    let pool = &market.pools[node.lot.pool];
    let fits = |s: &&Shelf| {
        let t = &pool.types[s.ty];
        s.ty == node.lot.ty
            || node.asked.fits(market.overhead_of(node.lot.pool, s.ty), &t.allocatable)
    };
    let options: Vec<&Shelf> = shelf.iter().filter(fits).take(MAX_TYPES).collect();
    let mut requests = node.asked.clone();
    let Some(first) = options.first() else {
        requests.add(&node.lot.overhead, 1);
        return fallback(market, node, pods, requests);
    };
    let t = &pool.types[first.ty];
    requests.add(market.overhead_of(node.lot.pool, first.ty), 1);
    let share = |part: i64, whole: i64| 100.0 * part as f64 / whole.max(1) as f64;
    let next = options.iter().find(|s| s.offering.usd_per_hour > first.offering.usd_per_hour);
    let why = format!(
        "{} for ${:.4}/h is the cheapest that holds {} pods: {:.0} % of its processors and {:.0} % of its memory are asked for{}",
        t.name,
        first.offering.usd_per_hour,
        pods.len(),
        share(requests.cpu_milli, t.allocatable.cpu_milli),
        share(requests.memory_bytes, t.allocatable.memory_bytes),
        next.map_or_else(String::new, |n| format!(
            "; next is {} for ${:.4}/h",
            pool.types[n.ty].name, n.offering.usd_per_hour
        )),
    );
    NewNode {
        pool: pool.name.clone(),
        types: options.iter().map(|s| pool.types[s.ty].name.clone()).collect(),
        zones: options.iter().flat_map(|s| s.zones.iter().cloned()).collect(),
        capacity_types: options.iter().flat_map(|s| s.capacity_types.iter().copied()).collect(),
        offering: first.offering.clone(),
        pods,
        requests,
        why,
    }
}

/// The type that was planned with, where no wish list has it: it holds the pods all the same.
fn fallback(market: &Market<'_>, node: &Node, pods: Vec<PodKey>, requests: Resources) -> NewNode {
    let t = market.ty(&node.lot);
    let offering = market.offering(&node.lot, node.zones).or_else(|| t.offerings.first());
    let offering = offering.cloned().unwrap_or(Offering {
        zone: "".into(),
        capacity_type: "on-demand",
        usd_per_hour: node.lot.usd_per_hour,
    });
    NewNode {
        pool: market.pools[node.lot.pool].name.clone(),
        types: vec![t.name.clone()],
        zones: BTreeSet::from([offering.zone.clone()]),
        capacity_types: BTreeSet::from([offering.capacity_type]),
        why: format!("{} for ${:.4}/h", t.name, offering.usd_per_hour),
        offering,
        pods,
        requests,
    }
}
