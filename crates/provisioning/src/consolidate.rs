//! Consolidation: could the pods of some nodes run on fewer or cheaper ones?
//!
//! Candidates are ordered by what they pay for the value of what runs on them. Sets of them, from
//! all to one, are taken out of a clone of the cluster and their pods packed again; the set that
//! saves most wins, if it saves enough to be worth the disturbance.

use crate::{
    offering::Pool,
    pack::{Plan, pack},
};
use coracle_scheduling::{PodSpec, Snapshot};
use std::sync::Arc;

/// A replacement must save at least this share of the price of what it replaces.
const MIN_SAVINGS: f64 = 0.05;
/// Single nodes that one search looks at.
const MAX_SINGLES: usize = 100;

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
    /// Why, in a sentence.
    pub why: String,
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

/// The set of candidates whose replacement saves most. `budget` tells how many nodes of a pool may
/// go.
pub fn search(
    snapshot: &Snapshot,
    candidates: &[Candidate],
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
    mut budget: impl FnMut(&str) -> usize,
) -> Option<Command> {
    let mut order: Vec<&Candidate> = candidates.iter().filter(|c| !c.pods.is_empty()).collect();
    let fill = |c: &Candidate| snapshot.node(&c.node).map_or(0.0, coracle_scheduling::Node::fill);
    order.sort_by(|a, b| {
        (a.usd_per_hour * (1.0 - fill(a)))
            .total_cmp(&(b.usd_per_hour * (1.0 - fill(b))))
            .reverse()
            .then_with(|| a.node.cmp(&b.node))
    });
    let mut taken = std::collections::BTreeMap::<String, usize>::new();
    order.retain(|c| {
        let n = taken.entry(c.pool.clone()).or_default();
        *n += 1;
        *n <= budget(&c.pool)
    });
    let mut sets: Vec<Vec<&Candidate>> = Vec::new();
    let mut size = order.len();
    while size > 1 {
        sets.push(order[..size].to_vec());
        size = if size > 8 { size / 2 } else { size - 1 };
    }
    sets.extend(order.iter().take(MAX_SINGLES).map(|c| vec![*c]));
    let mut best: Option<Command> = None;
    for set in sets {
        let Some(command) = what_if(snapshot, &set, pools, daemons) else { continue };
        if best.as_ref().is_none_or(|b| command.saves_usd_per_hour > b.saves_usd_per_hour * 1.001) {
            best = Some(command);
        }
    }
    best
}

/// What replacing a set of nodes would save, if their pods fit elsewhere.
fn what_if(
    snapshot: &Snapshot,
    set: &[&Candidate],
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
) -> Option<Command> {
    let mut without = snapshot.clone();
    let mut pools = pools.to_vec();
    for c in set {
        let node = without.remove_node(&c.node)?;
        if let Some(pool) = pools.iter_mut().find(|p| p.name == c.pool) {
            // What goes away makes room below the limits.
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
    let plan = pack(&mut without, &pods, &pools, daemons);
    if !plan.unschedulable.is_empty() {
        return None;
    }
    let price: f64 = set.iter().map(|c| c.usd_per_hour).sum();
    let saves = price - plan.usd_per_hour;
    if saves < price * MIN_SAVINGS || saves <= 0.0 {
        return None;
    }
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
        why,
    })
}
