//! Packing: the cheapest set of nodes that fits the pods.
//!
//! Pods go to existing nodes first. The rest is grouped into classes of equal pods, and zones are
//! given to those whose rules ask for it ([`demand`]). Types that can be bought are bins
//! ([`market`]); which bins, filled how, cost least is a problem of numbers alone ([`cover`]). Then
//! nodes and pods are given to the fillings ([`realize`], [`stock`]), bound one by one under the
//! scheduler's own rules, and what a rule refused is planned again ([`bought`]).

mod bought;
mod cover;
mod demand;
mod market;
mod realize;
mod reserved;
mod stock;
mod variety;

use crate::offering::{Offering, Pool, ZONE};
use bought::Bought;
use coracle_scheduling::{PodSpec, Profile, Requirements, Resources, Snapshot, pod::PodKey};
use demand::Class;
use market::Market;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// Bytes of memory that cost about as much as a processor.
const BYTES_PER_CPU: f64 = 10.0 * (1u64 << 30) as f64;
/// A unit of an extended resource (a GPU) in processors: it decides the price of its machine.
const CPUS_PER_EXTENDED: f64 = 30.0;
/// What a pod that asks for nothing counts as, in processors.
const MIN_VALUE: f64 = 0.01;
/// Rounds of planning what rules between pods refused before.
const ROUNDS: usize = 3;

/// A node to buy.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Pool that buys it.
    pub pool: String,
    /// Acceptable types, cheapest first; the first is what the plan counts with.
    pub types: Vec<Arc<str>>,
    /// Acceptable zones.
    pub zones: BTreeSet<Arc<str>>,
    /// Acceptable capacity types.
    pub capacity_types: BTreeSet<&'static str>,
    /// The offering that the plan counts with.
    pub offering: Offering,
    /// Pods for it.
    pub pods: Vec<PodKey>,
    /// What its pods and daemons ask for.
    pub requests: Resources,
    /// Most that it may cost when it is launched, where that matters.
    pub max_usd_per_hour: Option<f64>,
    /// The reservation that it uses up.
    pub reservation: Option<Arc<str>>,
    /// Its types differ less than the pool wants, and the pool lets that pass.
    pub min_values_relaxed: bool,
    /// What else would have done, cheapest first: type and price.
    pub alternatives: Vec<(Arc<str>, f64)>,
    /// Why this one: the runner-up and what it would have cost.
    pub why: String,
}

/// What to buy and what goes where.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Nodes to buy.
    pub new_nodes: Vec<NewNode>,
    /// Pods that fit on nodes that are there.
    pub existing: BTreeMap<PodKey, String>,
    /// Pods that nothing fits, and why.
    pub unschedulable: BTreeMap<PodKey, String>,
    /// Price of the new nodes.
    pub usd_per_hour: f64,
    /// No set of nodes for the same pods can cost less.
    pub lower_bound_usd_per_hour: f64,
    /// Pods in the order of their binding, with the index of their new node.
    order: Vec<(PodKey, Option<usize>)>,
}

/// Where a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'p> {
    /// To a node that is there, by its name.
    Existing(&'p str),
    /// To a new node, by its index.
    New(usize),
}

impl Plan {
    /// A plan that buys nothing: pods with the nodes that they go to, in the order of their binding.
    pub(crate) fn onto_nodes(moves: Vec<(PodKey, String)>) -> Self {
        let order = moves.iter().map(|(key, _)| (key.clone(), None)).collect();
        Self { existing: moves.into_iter().collect(), order, ..Self::default() }
    }

    /// A plan that only buys nodes.
    pub fn of_nodes(new_nodes: Vec<NewNode>) -> Self {
        let usd_per_hour = new_nodes.iter().map(|n| n.offering.usd_per_hour).sum();
        Self { new_nodes, usd_per_hour, ..Self::default() }
    }

    /// All pods that have a place, in an order in which each fits when it is bound.
    pub fn bindings(&self) -> impl Iterator<Item = (&PodKey, Place<'_>)> {
        self.order.iter().filter_map(|(key, new)| {
            let place = match new {
                Some(i) => Place::New(*i),
                None => Place::Existing(self.existing.get(key)?),
            };
            Some((key, place))
        })
    }
}

/// The cheapest node of a pool, without pods, if its limits have room for one; they have less then, and
/// so have reservations.
pub fn any_node(pool: &mut Pool, daemons: &[Arc<PodSpec>]) -> Option<NewNode> {
    let pools = [pool.clone()];
    let market = Market::new(&pools, daemons);
    let node = bought::without_pods(&market)?;
    let types = Arc::make_mut(&mut pool.types);
    let used = types.iter_mut().find(|t| t.name == node.types[0])?;
    let capacity = used.capacity.clone();
    if let Some(id) = &node.reservation {
        used.reservations
            .iter_mut()
            .filter(|r| r.id == *id && r.zone == node.offering.zone)
            .for_each(|r| r.left = r.left.saturating_sub(1));
    }
    pool.take_room(&capacity, node.offering.usd_per_hour);
    Some(node)
}

fn value(r: &Resources) -> f64 {
    let extended: i64 = r.extended.iter().map(|(_, n)| n).sum();
    let size = r.cpu_milli as f64 / 1000.0
        + r.memory_bytes as f64 / BYTES_PER_CPU
        + extended as f64 * CPUS_PER_EXTENDED;
    // A pod that asks for nothing still wants a place.
    size.max(MIN_VALUE * r.pods.max(0) as f64)
}

/// Plans for pending pods. `daemons` are pods that every new node runs if it takes them.
pub fn pack(
    snapshot: &mut Snapshot,
    pods: &[Arc<PodSpec>],
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
) -> Plan {
    let mut plan = Plan::default();
    let mut market = Market::new(pools, daemons);
    // Nodes could be bought in all zones: spread counts them too.
    snapshot.know_domains(ZONE, &market.zones);
    let rest = onto_existing(snapshot, pods, &mut plan);
    if rest.is_empty() {
        return plan;
    }
    let mut weights: Vec<i32> = pools.iter().map(|p| p.weight).collect();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    weights.dedup();
    let (mut left, mut proven) = (Vec::new(), 0.0);
    let mut bought = Bought::default();
    for mut tier in tiers(pools, &rest) {
        for weight in &weights {
            reserved::use_up(snapshot, &mut market, *weight, &mut tier, &mut bought);
            for round in 0..ROUNDS {
                if tier.is_empty() {
                    break;
                }
                let before = tier.len();
                let classes = demand::classes(snapshot, &market, &tier);
                let bound = realize::buy(
                    snapshot,
                    &mut market,
                    *weight,
                    classes,
                    round == 0,
                    &mut tier,
                    &mut bought,
                );
                if before == rest.len() && weights.len() == 1 {
                    proven = bound;
                }
                if tier.len() == before {
                    break;
                }
            }
            tier.retain(|p| !realize::buy_one(snapshot, &mut market, *weight, p, &mut bought));
        }
        left.extend(tier);
    }
    for class in demand::classes(snapshot, &market, &left) {
        let why = explain(&market, &class);
        plan.unschedulable.extend(class.pods.iter().map(|(_, p)| (p.key.clone(), why.clone())));
    }
    bought.finish(snapshot, &mut market, &mut plan);
    // A sum of nothing is -0.
    plan.usd_per_hour = plan.new_nodes.iter().map(|n| n.offering.usd_per_hour).sum::<f64>() + 0.0;
    let placed: HashSet<&PodKey> = plan.new_nodes.iter().flat_map(|n| &n.pods).collect();
    let bought: Vec<&PodSpec> =
        rest.iter().filter(|p| placed.contains(&p.key)).map(|p| &**p).collect();
    plan.lower_bound_usd_per_hour = volume_bound(pools, &bought);
    // What the program proved is about all pods that it was given.
    if bought.len() == rest.len() {
        plan.lower_bound_usd_per_hour = plan.lower_bound_usd_per_hour.max(proven);
    }
    plan
}

/// Pods that are planned together: all of them, but where limits may not do for all, those of higher
/// priority first.
fn tiers(pools: &[Pool], pods: &[Arc<PodSpec>]) -> Vec<Vec<Arc<PodSpec>>> {
    if !pools.iter().any(Pool::is_limited) {
        return vec![pods.to_vec()];
    }
    let mut tiers: BTreeMap<std::cmp::Reverse<i32>, Vec<Arc<PodSpec>>> = BTreeMap::new();
    for p in pods {
        tiers.entry(std::cmp::Reverse(p.priority)).or_default().push(p.clone());
    }
    tiers.into_values().collect()
}

/// Puts pods onto nodes that are there, the important and large ones first. Returns the others.
fn onto_existing(
    snapshot: &mut Snapshot,
    pods: &[Arc<PodSpec>],
    plan: &mut Plan,
) -> Vec<Arc<PodSpec>> {
    let mut sorted: Vec<Arc<PodSpec>> = pods.to_vec();
    sorted.sort_by_cached_key(|p| {
        // Amounts are no more than 2^63: their order as integers is that of the values.
        let size = (value(&p.requests) * 1e6) as i64;
        (std::cmp::Reverse((p.priority, size)), p.class_id, p.key.clone())
    });
    if snapshot.is_empty() {
        return sorted;
    }
    let mut refused: HashSet<u64> = HashSet::new();
    let mut rest = Vec::new();
    for pod in sorted {
        // What refused one pod refuses its equals, unless it matters where the others went.
        let known = refused.contains(&pod.class_id) && !pod.is_topology_bound();
        match if known { None } else { snapshot.schedule(&pod, Profile::Pack).ok() } {
            Some(node) => {
                snapshot.add_pod(pod.clone(), &node);
                plan.order.push((pod.key.clone(), None));
                plan.existing.insert(pod.key.clone(), node);
            }
            None => {
                refused.insert(pod.class_id);
                rest.push(pod);
            }
        }
    }
    rest
}

/// No nodes for some pods cost less: every offering's price for a processor's worth, times all the worth that what
/// is paid for already does not hold.
pub fn volume_bound(pools: &[Pool], pods: &[&PodSpec]) -> f64 {
    let worth: f64 = pods.iter().map(|p| value(&p.requests)).sum();
    let all = || pools.iter().flat_map(|p| p.types.iter());
    let rate = all()
        .filter_map(|t| Some(t.offerings.first()?.usd_per_hour / value(&t.allocatable)))
        .fold(f64::INFINITY, f64::min);
    let reserved: BTreeMap<&str, f64> = all()
        .flat_map(|t| t.reservations.iter().map(move |r| (t, r)))
        .map(|(t, r)| (&*r.id, value(&t.allocatable) * r.left as f64))
        .collect();
    let rest = (worth - reserved.values().sum::<f64>()).max(0.0);
    if rate.is_finite() { rest * rate } else { 0.0 }
}

/// Why nothing fits a class.
fn explain(market: &Market<'_>, class: &Class) -> String {
    if market.pools.is_empty() {
        return "no NodePool is ready".into();
    }
    let mut reasons = Vec::new();
    for (i, pool) in market.pools.iter().enumerate() {
        let accepts =
            |t: &&crate::PoolType| class.alternatives.iter().any(|r| market.type_accepted(i, t, r));
        let fits =
            |t: &&crate::PoolType| class.spec.requests.fits(&Resources::default(), &t.allocatable);
        let reason = if !market::tolerates(&class.spec, pool) {
            "its taints are not tolerated".to_owned()
        } else if pool.types.is_empty() {
            "no instance type meets its requirements".to_owned()
        } else if !pool.types.iter().any(|t| accepts(&t)) {
            format!(
                "no instance type meets the pod's node selector and affinity ({})",
                excluded(market, i, class)
            )
        } else if !pool.types.iter().any(|t| accepts(&t) && fits(&t)) {
            let accepted = pool.types.iter().filter(|t| accepts(t));
            format!("no instance type is large enough ({})", lacking(&class.spec, accepted))
        } else if let Some(why) = alike(market, i, class) {
            why
        } else if !pool.types.iter().any(|t| pool.has_room(&t.capacity, t.usd_per_hour())) {
            "its limits are reached".to_owned()
        } else {
            "no offering meets all of the pod's rules".to_owned()
        };
        reasons.push(format!("NodePool {}: {reason}", pool.name));
    }
    reasons.join("; ")
}

/// That the types which would hold a pod differ too little for the pool.
fn alike(market: &Market<'_>, pool: usize, class: &Class) -> Option<String> {
    let p = &market.pools[pool];
    let holds = |t: &&crate::PoolType| {
        class.alternatives.iter().any(|r| market.type_accepted(pool, t, r))
            && class.spec.requests.fits(&Resources::default(), &t.allocatable)
    };
    let types: Vec<&crate::PoolType> = p.types.iter().filter(holds).collect();
    let (m, have) = variety::lacking(p, &types).filter(|_| !p.relax_min_values)?;
    Some(format!(
        "minValues of {} asks for {} different values, and the types that fit have {have}",
        m.key, m.values
    ))
}

/// How many of a pool's types each label that the pod asks for excludes.
fn excluded(market: &Market<'_>, pool: usize, class: &Class) -> String {
    let types = &market.pools[pool].types;
    let mut words = Vec::new();
    for r in class.alternatives.iter() {
        for (key, values) in &r.0 {
            let one = Requirements([(key.clone(), values.clone())].into());
            let out = types.iter().filter(|t| !market.type_accepted(pool, t, &one)).count();
            if out > 0 {
                words.push(format!("{key} excludes {out} of {}", types.len()));
            }
        }
    }
    words.dedup();
    words.join(", ")
}

/// What a pod asks for more of than any of some types offers, with the most that one does.
fn lacking<'t>(pod: &PodSpec, types: impl Iterator<Item = &'t crate::PoolType>) -> String {
    let mut most = Resources::default();
    types.for_each(|t| most.raise_to(&t.allocatable));
    let short = pod.requests.lacking(&Resources::default(), &most);
    let (asked, offered) = (pod.requests.to_list(), most.to_list());
    let words: Vec<String> = asked
        .iter()
        .filter(|(name, _)| short.iter().any(|s| s.ends_with(&format!(" {name}"))))
        .map(|(name, q)| {
            let largest = offered.get(name).map_or("none", String::as_str);
            format!("{q} of {name} are asked for, the largest offers {largest}")
        })
        .collect();
    if words.is_empty() {
        return "each has too little of something".into();
    }
    words.join(", ")
}

#[cfg(test)]
mod tests;
