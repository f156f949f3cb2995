//! Nodes that were bought, the pods that are bound to them in turn under the scheduler's own rules,
//! and at the end the choice of each node's type for what is really on it.

use super::{
    NewNode, Plan,
    market::{Lot, Market},
    variety,
};
use crate::offering::{CAPACITY_TYPE, Offering, PoolType, RESERVED, ZONE};
use coracle_scheduling::{PodSpec, Profile, Requirements, Resources, Snapshot, pod::PodKey};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Most types that a new node names as alternatives, as Karpenter's provider.
const MAX_TYPES: usize = 60;

/// Alternatives that a new node tells of.
const ALTERNATIVES: usize = 5;

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
    /// Whether it has a pod whose rules look at where it is.
    in_zone: bool,
    /// The reservation that it uses up.
    reservation: Option<Arc<str>>,
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
            in_zone: false,
            reservation: None,
        });
        self.nodes.len() - 1
    }

    /// The newest node uses up a reservation.
    pub(super) fn reserve(&mut self, at: usize, reservation: Arc<str>) {
        self.nodes[at].reservation = Some(reservation);
    }

    /// The newest node did not do.
    pub(super) fn close(&mut self, snapshot: &mut Snapshot, at: usize) {
        let node = self.nodes.remove(at);
        self.by_name.remove(&node.name);
        snapshot.remove_node(&node.name);
    }

    /// Notes what a node must be for a pod; not if that leaves types which are too much alike.
    fn wish(
        &mut self,
        market: &Market<'_>,
        pod: &PodSpec,
        alternatives: Arc<Vec<Requirements>>,
        at: usize,
    ) -> bool {
        let next = self.wishes.len();
        let id = *self.wishes.entry(alternatives.clone()).or_insert(next);
        let node = &mut self.nodes[at];
        let binds = pod.is_topology_bound() && !node.in_zone;
        if (node.wishes.contains_key(&id) && !binds) || node.reservation.is_some() {
            node.wishes.entry(id).or_insert(alternatives);
            node.in_zone |= binds;
            return true;
        }
        let zones = if binds || node.in_zone { node.zones } else { u64::MAX };
        let suits = |ty: &usize| {
            let t = &market.pools[node.lot.pool].types[*ty];
            let wishes = || node.wishes.values().chain([&alternatives]);
            t.offerings.iter().any(|o| {
                let place = (node.lot.pool, t, o);
                zones & market.zone_bit(&o.zone) != 0 && wishes().all(|w| accepts(market, w, place))
            })
        };
        if !market.is_varied(node.lot.pool, node.lot.ty, suits) {
            return false;
        }
        node.wishes.insert(id, alternatives);
        node.in_zone |= binds;
        true
    }

    /// Binds a pod, whose node must be one of `alternatives`, to a node if its rules and those of the
    /// pool let it.
    pub(super) fn bind(
        &mut self,
        snapshot: &mut Snapshot,
        market: &Market<'_>,
        pod: &Arc<PodSpec>,
        alternatives: Arc<Vec<Requirements>>,
        at: usize,
    ) -> bool {
        if snapshot.fits(pod, &self.nodes[at].name).is_err()
            || !self.wish(market, pod, alternatives, at)
        {
            return false;
        }
        self.take(pod, at);
        snapshot.add_pod(pod.clone(), &self.nodes[at].name);
        true
    }

    fn take(&mut self, pod: &PodSpec, at: usize) {
        let node = &mut self.nodes[at];
        node.asked.add(&pod.requests, 1);
        node.pods += 1;
        self.order.push((pod.key.clone(), Some(at)));
    }

    pub(super) fn bind_anywhere(
        &mut self,
        snapshot: &mut Snapshot,
        market: &Market<'_>,
        pod: &Arc<PodSpec>,
    ) -> bool {
        let Ok(name) = snapshot.schedule(pod, Profile::Pack) else { return false };
        match self.by_name.get(&name).copied() {
            Some(at) => {
                if !self.wish(market, pod, Arc::new(pod.node_requirements()), at) {
                    return false;
                }
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
    pub(super) fn finish(self, snapshot: &mut Snapshot, market: &mut Market<'_>, plan: &mut Plan) {
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
            let zones = if node.in_zone { node.zones } else { u64::MAX };
            let key = (node.lot.pool, node.wishes.keys().copied().collect(), zones);
            let shelf = shelves
                .entry(key)
                .or_insert_with(|| shelf(market, node.lot.pool, &node.wishes, zones));
            number[at] = plan.new_nodes.len();
            let (new, largest) = name_types(market, node, shelf, std::mem::take(&mut pods[at]));
            plan.new_nodes.push(new);
            if let Some(largest) = largest {
                let pool = &mut market.pools[node.lot.pool];
                let types = pool.types.clone();
                let of = (&types[node.lot.ty].capacity, node.lot.usd_per_hour);
                pool.take_room_instead(of, (&largest.0, largest.1));
            }
        }
        plan.existing.extend(self.existing);
        plan.order.extend(self.order.into_iter().map(|(k, at)| (k, at.map(|at| number[at]))));
    }
}

/// Whether one of some alternatives leaves an offering of a type of a pool.
fn accepts(
    market: &Market<'_>,
    alternatives: &[Requirements],
    (pool, t, o): (usize, &PoolType, &Offering),
) -> bool {
    alternatives.iter().any(|r| {
        r.get(ZONE).is_none_or(|v| v.accepts(Some(&o.zone)))
            && r.get(CAPACITY_TYPE).is_none_or(|v| v.accepts(Some(o.capacity_type)))
            && market.type_accepted(pool, t, r)
    })
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
                && wishes.values().all(|w| accepts(market, w, (pool, t, o)))
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
/// Returns the most that one of them needs as well, where the pool has limits.
fn name_types(
    market: &Market<'_>,
    node: &Node,
    shelf: &[Shelf],
    pods: Vec<PodKey>,
) -> (NewNode, Option<(Resources, f64)>) {
    if let Some(id) = &node.reservation {
        return (planned_with(market, node, pods, Some(id.clone())), None);
    }
    let pool = &market.pools[node.lot.pool];
    let lot = (&pool.types[node.lot.ty].capacity, node.lot.usd_per_hour);
    let limited = pool.is_limited();
    let fits = |s: &&Shelf| {
        let t = &pool.types[s.ty];
        let within = !limited || pool.has_room_instead(lot, (&t.capacity, s.offering.usd_per_hour));
        s.ty == node.lot.ty
            || (within && node.asked.fits(market.overhead_of(node.lot.pool, s.ty), &t.allocatable))
    };
    let all: Vec<&Shelf> = shelf.iter().filter(fits).collect();
    let types: Vec<&PoolType> = all.iter().map(|s| &pool.types[s.ty]).collect();
    let chosen = variety::choose(pool, &types, MAX_TYPES);
    let lacking = {
        let types: Vec<_> = chosen.iter().map(|i| types[*i]).collect();
        variety::lacking(pool, &types)
    };
    let options: Vec<&Shelf> = chosen.iter().map(|i| all[*i]).collect();
    let Some(first) = options.first() else {
        return (planned_with(market, node, pods, None), None);
    };
    let mut requests = node.asked.clone();
    let t = &pool.types[first.ty];
    requests.add(market.overhead_of(node.lot.pool, first.ty), 1);
    let next = options.iter().find(|s| s.offering.usd_per_hour > first.offering.usd_per_hour);
    let why = format!(
        "{} for ${:.4}/h is the cheapest that holds {} pods: {}{}",
        t.name,
        first.offering.usd_per_hour,
        pods.len(),
        asked_for(&requests, &t.allocatable),
        next.map_or_else(String::new, |n| format!(
            "; next is {} for ${:.4}/h",
            pool.types[n.ty].name, n.offering.usd_per_hour
        )),
    );
    let name = |s: &&Shelf| pool.types[s.ty].name.clone();
    let mut largest = (Resources::default(), 0.0_f64);
    for s in &options {
        largest.0.raise_to(&pool.types[s.ty].capacity);
        largest.1 = largest.1.max(s.offering.usd_per_hour);
    }
    let new = NewNode {
        pool: pool.name.clone(),
        types: options.iter().map(name).collect(),
        zones: options.iter().flat_map(|s| s.zones.iter().cloned()).collect(),
        capacity_types: options.iter().flat_map(|s| s.capacity_types.iter().copied()).collect(),
        offering: first.offering.clone(),
        pods,
        requests,
        reservation: None,
        min_values_relaxed: lacking.is_some(),
        alternatives: options
            .iter()
            .skip(1)
            .take(ALTERNATIVES)
            .map(|s| (name(s), s.offering.usd_per_hour))
            .collect(),
        why,
        // Below a limit on the price nothing dearer than what was counted with is launched.
        max_usd_per_hour: pool.usd_left.map(|_| largest.1),
    };
    (new, limited.then_some(largest))
}

/// The cheapest node of the only pool of a market, whatever it is for.
pub(super) fn without_pods(market: &Market<'_>) -> Option<NewNode> {
    let pool = market.pools.first()?;
    let can_be = |ty: &usize| {
        let t = &pool.types[*ty];
        let daemons = market.overhead_of(0, *ty);
        pool.has_room(&t.capacity, t.usd_per_hour())
            && daemons.fits(&Resources::default(), &t.allocatable)
            && t.usd_per_hour().is_finite()
    };
    let ty = (0..pool.types.len())
        .filter(can_be)
        .min_by(|a, b| pool.types[*a].usd_per_hour().total_cmp(&pool.types[*b].usd_per_hour()))?;
    let t = &pool.types[ty];
    let reserved = t.reservations.iter().find(|r| r.left > 0);
    let lot = match (reserved, t.offerings.first()) {
        (Some(r), _) => market.reserved_lot(0, ty, r),
        (None, Some(o)) => Lot {
            pool: 0,
            ty,
            capacity_type: "",
            usd_per_hour: o.usd_per_hour,
            zones: u64::MAX,
            overhead: market.overhead_of(0, ty).clone(),
        },
        (None, None) => return None,
    };
    let node = Node {
        name: String::new(),
        pods: 0,
        asked: Resources::default(),
        wishes: BTreeMap::new(),
        zones: lot.zones,
        in_zone: false,
        reservation: reserved.map(|r| r.id.clone()),
        lot,
    };
    Some(name_types(market, &node, &shelf(market, 0, &BTreeMap::new(), u64::MAX), Vec::new()).0)
}

fn asked_for(requests: &Resources, allocatable: &Resources) -> String {
    let share = |part: i64, whole: i64| 100.0 * part as f64 / whole.max(1) as f64;
    format!(
        "{:.0} % of its processors and {:.0} % of its memory are asked for",
        share(requests.cpu_milli, allocatable.cpu_milli),
        share(requests.memory_bytes, allocatable.memory_bytes),
    )
}

/// The offering that was planned with and no other: a machine of a reservation, or a type that no wish
/// list has, and that holds the pods all the same.
fn planned_with(
    market: &Market<'_>,
    node: &Node,
    pods: Vec<PodKey>,
    reservation: Option<Arc<str>>,
) -> NewNode {
    let t = market.ty(&node.lot);
    let mut requests = node.asked.clone();
    requests.add(&node.lot.overhead, 1);
    let zone = market.zones.iter().find(|z| market.zone_bit(z) & node.zones != 0);
    let (offering, why) = match &reservation {
        Some(id) => {
            let o = Offering {
                zone: zone.cloned().unwrap_or_default(),
                capacity_type: RESERVED,
                usd_per_hour: node.lot.usd_per_hour,
            };
            let why = format!(
                "{} of reservation {id} is paid for already and holds {} pods: {}",
                t.name,
                pods.len(),
                asked_for(&requests, &t.allocatable)
            );
            (o, why)
        }
        None => {
            let sold = market.offering(&node.lot, node.zones).or_else(|| t.offerings.first());
            let o = sold.cloned().unwrap_or(Offering {
                zone: "".into(),
                capacity_type: "on-demand",
                usd_per_hour: node.lot.usd_per_hour,
            });
            let why = format!("{} for ${:.4}/h", t.name, o.usd_per_hour);
            (o, why)
        }
    };
    NewNode {
        pool: market.pools[node.lot.pool].name.clone(),
        types: vec![t.name.clone()],
        zones: BTreeSet::from([offering.zone.clone()]),
        capacity_types: BTreeSet::from([offering.capacity_type]),
        why,
        offering,
        pods,
        requests,
        reservation,
        min_values_relaxed: false,
        max_usd_per_hour: None,
        alternatives: Vec::new(),
    }
}
