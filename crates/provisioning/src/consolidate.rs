//! Consolidation: could the pods of some nodes run on fewer or cheaper ones?
//!
//! Two kinds of moves are looked for. Nodes are given up one after the other whose pods fit into the
//! room of those that stay: any subset, not only the first of a list. And sets of the most wasteful
//! nodes, from all to one, are taken out of a clone of the cluster and their pods packed again, so
//! that any number of nodes may take the place of any other. The move that is worth most after what
//! it disturbs is charged for wins, if the pools' terms let it.

use crate::{
    offering::Pool,
    pack::{Plan, pack},
};
use coracle_scheduling::{PodSpec, Profile, Snapshot, pod::PodKey};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// A replacement must save at least this share of the price of what it replaces, unless a pool says more.
pub const MIN_SAVINGS: f64 = 0.05;
/// Single nodes that one search looks at.
const MAX_SINGLES: usize = 100;
/// What an eviction of a usual pod is charged with, in US dollars, unless a pool says otherwise: a move
/// should earn this in an hour.
pub const USD_PER_EVICTION: f64 = 0.001;
/// A balanced pool disturbs at most twice the share that it saves (Karpenter's k of 2).
const BALANCE: f64 = 0.5;

/// A node that may be given up.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Name of the node.
    pub node: String,
    /// Pool that it belongs to.
    pub pool: String,
    /// Price.
    pub usd_per_hour: f64,
    /// Pods that would have to move. Daemons are not among them.
    pub pods: Vec<Arc<PodSpec>>,
    /// What evicting them counts for: the sum of their [`eviction_cost`]s that are above 0.
    pub disruption: f64,
}

/// What evicting a pod counts for, 1 for a usual one, by its priority and its annotation
/// `controller.kubernetes.io/pod-deletion-cost`; from -10 to 10, as Karpenter counts.
pub fn eviction_cost(priority: i32, deletion_cost: i32) -> f64 {
    let cost = 1.0 + f64::from(deletion_cost) / 2f64.powi(27) + f64::from(priority) / 2f64.powi(25);
    cost.clamp(-10.0, 10.0)
}

/// What a pool lets consolidation do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Most of its nodes that may go.
    pub budget: usize,
    /// For a balanced pool (`consolidationPolicy: Balanced`) what all of its nodes cost, in US dollars
    /// an hour, and what evicting all of their pods would count for.
    pub balance: Option<(f64, f64)>,
    /// Least share of the price that a move must save.
    pub min_savings: f64,
    /// What an eviction of a usual pod is charged with, in US dollars.
    pub usd_per_eviction: f64,
}

impl Default for Terms {
    fn default() -> Self {
        let (min_savings, usd_per_eviction) = (MIN_SAVINGS, USD_PER_EVICTION);
        Self { budget: 0, balance: None, min_savings, usd_per_eviction }
    }
}

/// The terms of pools, by name; of one that is not known, the usual.
type Known<'k> = BTreeMap<&'k str, Terms>;

fn terms_of(known: &Known<'_>, c: &Candidate) -> Terms {
    known.get(c.pool.as_str()).copied().unwrap_or_default()
}

/// What evicting the pods of some nodes is charged with.
fn charge(set: &[&Candidate], known: &Known<'_>) -> f64 {
    set.iter().map(|c| c.disruption * terms_of(known, c).usd_per_eviction).sum()
}

/// Nodes to give up, and what to buy instead.
#[derive(Clone, Debug)]
pub struct Command {
    /// Nodes to give up.
    pub remove: Vec<String>,
    /// Where their pods go.
    pub plan: Plan,
    /// What it saves.
    pub saves_usd_per_hour: f64,
    /// What its evictions count for.
    pub disruption: f64,
    /// What they are charged with.
    pub charge_usd: f64,
    /// Why, in a sentence.
    pub why: String,
}

impl Command {
    /// What it is worth in an hour, after what it disturbs.
    fn worth(&self) -> f64 {
        self.saves_usd_per_hour - self.charge_usd
    }
}

/// Nodes without pods, as many as their pools' budgets allow.
pub fn empty(candidates: &[Candidate], mut budget: impl FnMut(&str) -> usize) -> Vec<String> {
    let mut taken = std::collections::BTreeMap::<&str, usize>::new();
    let mut names = Vec::new();
    for c in candidates.iter().filter(|c| c.pods.is_empty()) {
        let n = taken.entry(&c.pool).or_default();
        if *n < budget(&c.pool) {
            *n += 1;
            names.push(c.node.clone());
        }
    }
    names
}

/// The move that is worth most. `terms` tells what a pool lets it do.
pub fn search(
    snapshot: &Snapshot,
    candidates: &[Candidate],
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
    mut terms: impl FnMut(&str) -> Terms,
) -> Option<Command> {
    let mut known: Known<'_> = BTreeMap::new();
    for c in candidates {
        known.entry(&c.pool).or_insert_with(|| terms(&c.pool));
    }
    let mut order: Vec<&Candidate> = candidates.iter().filter(|c| !c.pods.is_empty()).collect();
    let fill = |c: &Candidate| snapshot.node(&c.node).map_or(0.0, coracle_scheduling::Node::fill);
    order.sort_by(|a, b| {
        (a.usd_per_hour * (1.0 - fill(a)))
            .total_cmp(&(b.usd_per_hour * (1.0 - fill(b))))
            .reverse()
            .then_with(|| a.node.cmp(&b.node))
    });
    let mut best = give_up(snapshot, &order, &known);
    let mut taken = BTreeMap::<&str, usize>::new();
    order.retain(|c| {
        let n = taken.entry(&c.pool).or_default();
        *n += 1;
        *n <= known[c.pool.as_str()].budget
    });
    let mut sets: Vec<Vec<&Candidate>> = Vec::new();
    let mut size = order.len();
    while size > 1 {
        sets.push(order[..size].to_vec());
        size = if size > 8 { size / 2 } else { size - 1 };
    }
    sets.extend(order.iter().take(MAX_SINGLES).map(|c| vec![*c]));
    for set in sets {
        let Some(command) = what_if(snapshot, &set, pools, daemons, &known, true) else { continue };
        let better = best.as_ref().is_none_or(|b| command.worth() > b.worth() + 1e-9);
        if better && acceptable(&command, &set, &known) {
            best = Some(command);
        }
    }
    best
}

/// What giving up one node would come to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The move, if its pods fit elsewhere at all.
    pub command: Option<Command>,
    /// Why it is not made; `None` if it is worth it.
    pub against: Option<String>,
}

/// What the search makes of one node, for who asks why it stays.
pub fn verdict(
    snapshot: &Snapshot,
    candidate: &Candidate,
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
    terms: Terms,
) -> Verdict {
    let known = BTreeMap::from([(candidate.pool.as_str(), terms)]);
    let Some(command) = what_if(snapshot, &[candidate], pools, daemons, &known, true) else {
        let against = Some("its pods fit on no other nodes, there or new".to_owned());
        return Verdict { command: None, against };
    };
    let (price, saves) = (candidate.usd_per_hour, command.saves_usd_per_hour);
    let charge = command.charge_usd;
    let against = if saves <= 1e-9 {
        Some(format!(
            "the cheapest other way costs ${:.4}/h, and this node ${price:.4}/h",
            price - saves
        ))
    } else if saves < price * terms.min_savings {
        Some(format!(
            "another way saves ${saves:.4}/h, less than {:.0} % of its price",
            terms.min_savings * 100.0
        ))
    } else if command.worth() <= 0.0 {
        Some(format!(
            "another way saves ${saves:.4}/h, and moving its pods is charged with ${charge:.4}"
        ))
    } else if !acceptable(&command, &[candidate], &known) {
        Some("its NodePool is Balanced, and moving its pods disturbs more than twice the share that it saves".to_owned())
    } else {
        None
    };
    Verdict { command: Some(command), against }
}

/// Whether a move is worth what it disturbs, to itself and to the pools that it touches.
fn acceptable(command: &Command, set: &[&Candidate], terms: &Known<'_>) -> bool {
    let least: f64 = set.iter().map(|c| c.usd_per_hour * terms_of(terms, c).min_savings).sum();
    let saves = command.saves_usd_per_hour;
    if saves <= 0.0 || saves < least || command.worth() <= 0.0 {
        return false;
    }
    let pools: HashSet<&str> = set.iter().map(|c| c.pool.as_str()).collect();
    pools.into_iter().filter_map(|p| terms[p].balance).all(|(cost, disruption)| {
        let (saved, disturbed) =
            (saves / cost.max(1e-9), command.disruption / disruption.max(1e-9));
        saved >= BALANCE * disturbed
    })
}

/// Gives up nodes whose pods fit into the room of others, those first that disturb least for what
/// they cost. A node that took pods in stays.
fn give_up(snapshot: &Snapshot, candidates: &[&Candidate], terms: &Known<'_>) -> Option<Command> {
    let mut order = candidates.to_vec();
    let rate = |c: &Candidate| c.disruption / c.usd_per_hour.max(1e-9);
    order.sort_by(|a, b| rate(a).total_cmp(&rate(b)).then_with(|| a.node.cmp(&b.node)));
    let mut after = snapshot.clone();
    let mut taken = BTreeMap::<&str, usize>::new();
    let mut gone: Vec<&Candidate> = Vec::new();
    let mut moves: Vec<(PodKey, String)> = Vec::new();
    let mut hosts: HashSet<String> = HashSet::new();
    for c in order {
        let Terms { budget, usd_per_eviction, .. } = terms_of(terms, c);
        if hosts.contains(&c.node) || taken.get(c.pool.as_str()).is_some_and(|n| *n >= budget) {
            continue;
        }
        if budget == 0 || c.usd_per_hour <= usd_per_eviction * c.disruption {
            continue;
        }
        let Some(moved) = moved(&mut after, c) else { continue };
        hosts.extend(moved.iter().map(|(_, n)| n.clone()));
        moves.extend(moved);
        gone.push(c);
        *taken.entry(&c.pool).or_default() += 1;
    }
    if gone.is_empty() {
        return None;
    }
    let saves: f64 = gone.iter().map(|c| c.usd_per_hour).sum();
    let command = Command {
        remove: gone.iter().map(|c| c.node.clone()).collect(),
        plan: Plan::onto_nodes(moves),
        saves_usd_per_hour: saves,
        disruption: gone.iter().map(|c| c.disruption).sum(),
        charge_usd: charge(&gone, terms),
        why: format!("the pods of {} node(s) fit on others, saving ${saves:.4}/h", gone.len()),
    };
    acceptable(&command, &gone, terms).then_some(command)
}

/// Takes a node away and puts its pods onto others; leaves everything as it was if one finds no place.
fn moved(after: &mut Snapshot, c: &Candidate) -> Option<Vec<(PodKey, String)>> {
    let node = after.remove_node(&c.node)?;
    let mut placed: Vec<(PodKey, String)> = Vec::new();
    for pod in &c.pods {
        match after.schedule(pod, Profile::Pack) {
            Ok(name) => {
                after.add_pod(pod.clone(), &name);
                placed.push((pod.key.clone(), name));
            }
            Err(_) => {
                placed.iter().for_each(|(key, _)| drop(after.remove_pod(key)));
                let mut empty = (*node).clone();
                let pods = std::mem::take(&mut empty.pods);
                (empty.used, empty.anti_affine) = (coracle_scheduling::Resources::default(), 0);
                after.set_node(empty);
                pods.into_values().for_each(|p| after.add_pod(p, &c.node));
                return None;
            }
        }
    }
    Some(placed)
}

/// A replacement for nodes that have to go, whatever it costs: of all of them, or of the first whose
/// pods find a place. Nodes of `avoid` take no pods in.
pub fn replace(
    snapshot: &Snapshot,
    candidates: &[Candidate],
    avoid: &[String],
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
) -> Option<Command> {
    let mut without = snapshot.clone();
    for name in avoid {
        if let Some(node) = without.node(name).cloned() {
            without.set_node(coracle_scheduling::Node { unschedulable: true, ..node });
        }
    }
    let all: Vec<&Candidate> = candidates.iter().collect();
    // They go in any case: what that is charged with is nobody's question.
    let usual = Known::new();
    what_if(&without, &all, pools, daemons, &usual, false)
        .or_else(|| all.iter().find_map(|c| what_if(&without, &[c], pools, daemons, &usual, false)))
}

/// What replacing a set of nodes would save, if their pods fit elsewhere.
fn what_if(
    snapshot: &Snapshot,
    set: &[&Candidate],
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
    known: &Known<'_>,
    cheaper: bool,
) -> Option<Command> {
    let mut without = snapshot.clone();
    let mut pools = pools.to_vec();
    for c in set {
        let node = without.remove_node(&c.node)?;
        if let Some(pool) = pools.iter_mut().find(|p| p.name == c.pool) {
            // What goes away makes room below the limits.
            pool.usd_left.iter_mut().for_each(|left| *left += c.usd_per_hour);
            let mut freed = node.allocatable.clone();
            freed.cpu_milli = -freed.cpu_milli;
            freed.memory_bytes = -freed.memory_bytes;
            for (name, left) in &mut pool.room {
                *left -= match name.as_str() {
                    "cpu" => freed.cpu_milli,
                    "memory" => freed.memory_bytes,
                    "nodes" => -1,
                    _ => 0,
                };
            }
        }
    }
    let pods: Vec<Arc<PodSpec>> = set.iter().flat_map(|c| c.pods.iter().cloned()).collect();
    let mut plan = pack(&mut without, &pods, &pools, daemons);
    if !plan.unschedulable.is_empty() {
        return None;
    }
    let price: f64 = set.iter().map(|c| c.usd_per_hour).sum();
    // What cannot be had for so much less than what is there is not worth a move.
    let least: f64 = set.iter().map(|c| c.usd_per_hour * terms_of(known, c).min_savings).sum();
    let room = (price - least.max(charge(set, known))) / plan.usd_per_hour.max(1e-12);
    for n in plan.new_nodes.iter_mut().filter(|_| cheaper) {
        let most = n.offering.usd_per_hour * room;
        n.max_usd_per_hour = Some(n.max_usd_per_hour.map_or(most, |m| m.min(most)));
    }
    let saves = price - plan.usd_per_hour;
    let bought: Vec<&str> =
        plan.new_nodes.iter().filter_map(|n| n.types.first().map(|t| &**t)).collect();
    let why = if bought.is_empty() {
        format!("the pods of {} node(s) fit on others, saving ${saves:.4}/h", set.len())
    } else {
        format!(
            "{} node(s) at ${price:.4}/h are replaced by {} at ${:.4}/h, saving ${saves:.4}/h",
            set.len(),
            bought.join(", "),
            plan.usd_per_hour
        )
    };
    Some(Command {
        remove: set.iter().map(|c| c.node.clone()).collect(),
        plan,
        saves_usd_per_hour: saves,
        disruption: set.iter().map(|c| c.disruption).sum(),
        charge_usd: charge(set, known),
        why,
    })
}

#[cfg(test)]
mod tests;
