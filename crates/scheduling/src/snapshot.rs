//! Nodes and pods at a moment, and where the next pod goes.

use crate::{
    Node, PodSpec,
    pod::{PodKey, PodSelection},
    predicates::{self, Reason},
    topology::{Bound, Domains, Topology},
};
use layered::Layered;
use std::{collections::BTreeMap, sync::Arc};

mod layered;

/// How nodes that fit are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Emptier nodes first (upstream's default, LeastAllocated).
    #[default]
    Spread,
    /// Fuller nodes first (MostAllocated).
    Pack,
}

/// Upstream looks at no more nodes than this many that fit, once a cluster is large.
const ENOUGH_NODES: usize = 100;

/// Why no node fits, with upstream's counts of reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes were refused for each reason.
    pub reasons: BTreeMap<String, usize>,
}

impl std::fmt::Display for FitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0/{} nodes are available", self.nodes)?;
        if self.nodes == 0 {
            return f.write_str(": no nodes available to schedule pods.");
        }
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
        reasons.sort();
        write!(f, ": {}.", reasons.join(", "))
    }
}

/// Nodes with their pods. Cloning shares the nodes, so a what-if costs little until it changes
/// something.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<Node>>,
    by_name: Layered<String>,
    by_pod: Layered<PodKey>,
    topology: Topology,
    domains: Domains,
    next: usize,
}

impl Snapshot {
    /// Label values that nodes could be bought with: spread counts them too.
    pub fn set_domains(&mut self, domains: Domains) {
        self.domains = domains;
    }

    /// The same for one label, unless its values are known already.
    pub fn know_domains(&mut self, key: &str, values: &[Arc<str>]) {
        if !self.domains.contains_key(key) {
            self.domains.insert(key.into(), values.to_vec());
        }
    }

    /// Takes over a namespace's labels, which pod affinity may select by; `None` when it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        self.topology.set_namespace(name, labels);
    }

    /// Whether a rule is about a pod.
    pub fn selects(&self, selection: &PodSelection, pod: &PodSpec) -> bool {
        selection.selects(pod, self.topology.namespaces())
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> + Clone {
        self.nodes.iter().map(|n| &**n)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.by_name.get(name).map(|i| &*self.nodes[i])
    }

    /// The node that a pod is on.
    pub fn node_of(&self, pod: &PodKey) -> Option<&Node> {
        self.by_pod.get(pod).map(|i| &*self.nodes[i])
    }

    /// Adds a node, or takes over what changed about it.
    pub fn set_node(&mut self, node: Node) {
        match self.by_name.get(&node.name) {
            Some(i) => {
                let counted =
                    self.nodes[i].labels == node.labels && self.nodes[i].taints == node.taints;
                if !counted {
                    self.topology.node(&self.nodes[i], -1);
                }
                Arc::make_mut(&mut self.nodes[i]).update_from(node);
                if !counted {
                    self.topology.node(&self.nodes[i], 1);
                }
            }
            None => {
                self.by_name.insert(node.name.clone(), self.nodes.len());
                self.topology.node(&node, 1);
                self.nodes.push(Arc::new(node));
            }
        }
    }

    /// Removes a node and the pods on it.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<Node>> {
        let i = self.by_name.remove(name)?;
        let node = self.nodes.swap_remove(i);
        if let Some(moved) = self.nodes.get(i) {
            self.by_name.insert(moved.name.clone(), i);
            for key in moved.pods.keys() {
                self.by_pod.insert(key.clone(), i);
            }
        }
        self.topology.node(&node, -1);
        for key in node.pods.keys() {
            self.by_pod.remove(key);
        }
        Some(node)
    }

    /// Puts a pod on a node, whether it fits or not. Does nothing when the node is unknown.
    pub fn add_pod(&mut self, pod: Arc<PodSpec>, node: &str) {
        self.remove_pod(&pod.key);
        if let Some(i) = self.by_name.get(node) {
            self.place(pod, i);
        }
    }

    fn place(&mut self, pod: Arc<PodSpec>, i: usize) {
        self.by_pod.insert(pod.key.clone(), i);
        self.topology.pod(&pod, &self.nodes[i], 1);
        Arc::make_mut(&mut self.nodes[i]).add(pod);
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, key: &PodKey) -> Option<Arc<PodSpec>> {
        let i = self.by_pod.remove(key)?;
        let pod = Arc::make_mut(&mut self.nodes[i]).remove(key)?;
        self.topology.pod(&pod, &self.nodes[i], -1);
        Some(pod)
    }

    fn bind(&mut self, pod: &PodSpec) -> Bound {
        self.topology.bind(pod, &self.nodes, &self.domains)
    }

    /// Whether a pod fits on one node now.
    ///
    /// # Errors
    /// Why it does not.
    pub fn fits(&mut self, pod: &PodSpec, node: &str) -> Result<(), Reason> {
        let bound = self.bind(pod);
        match self.node(node) {
            Some(n) => check(pod, n, &bound),
            None => Err("node(s) were not found".into()),
        }
    }

    /// The best node for a pod. Nothing is changed: [`Snapshot::add_pod`] takes the answer.
    ///
    /// # Errors
    /// Why no node fits.
    pub fn schedule(&mut self, pod: &PodSpec, profile: Profile) -> Result<String, FitError> {
        let bound = self.bind(pod);
        let (mut best, mut found): (Option<(i64, usize)>, usize) = (None, 0);
        // There are few different ones.
        let mut reasons: Vec<(Reason, usize)> = Vec::new();
        let count = self.nodes.len();
        let first = if count > ENOUGH_NODES { self.next % count } else { 0 };
        let mut looked = 0;
        for step in 0..count {
            let i = (first + step) % count;
            looked += 1;
            let node = &self.nodes[i];
            match check(pod, node, &bound) {
                Err(reason) => match reasons.iter_mut().find(|(r, _)| *r == reason) {
                    Some((_, n)) => *n += 1,
                    None => reasons.push((reason, 1)),
                },
                Ok(()) => {
                    let score = score(pod, node, &bound, profile);
                    let better = best.is_none_or(|(s, b)| {
                        score > s || (score == s && node.name < self.nodes[b].name)
                    });
                    if better {
                        best = Some((score, i));
                    }
                    found += 1;
                    if found >= ENOUGH_NODES {
                        break;
                    }
                }
            }
        }
        self.next = first + looked;
        match best {
            Some((_, i)) => Ok(self.nodes[i].name.clone()),
            None => {
                let mut all: BTreeMap<String, usize> = BTreeMap::new();
                for (reason, n) in reasons {
                    for part in reason.split(", ") {
                        *all.entry(part.into()).or_default() += n;
                    }
                }
                Err(FitError { nodes: count, reasons: all })
            }
        }
    }
}

fn check(pod: &PodSpec, node: &Node, bound: &Bound) -> Result<(), Reason> {
    predicates::check(pod, node)?;
    bound.check(pod, node)
}

/// Sum of what upstream's default plugins look at, each 0 to 100 times its weight.
fn score(pod: &PodSpec, node: &Node, bound: &Bound, profile: Profile) -> i64 {
    let share = |need: i64, used: i64, total: i64| {
        if total > 0 { (used + need) * 100 / total } else { 100 }
    };
    let cpu = share(pod.requests.cpu_milli, node.used.cpu_milli, node.allocatable.cpu_milli);
    let memory =
        share(pod.requests.memory_bytes, node.used.memory_bytes, node.allocatable.memory_bytes);
    let full = (cpu + memory) / 2;
    let fill = match profile {
        Profile::Pack => full,
        Profile::Spread => 100 - full,
    };
    // Balance pulls towards empty nodes, which is not what packing wants.
    let balance = if profile == Profile::Spread { 100 - (cpu - memory).abs() } else { 0 };
    let soft_taints = node
        .taints
        .iter()
        .filter(|t| t.effect == "PreferNoSchedule" && !pod.tolerates(&t.key, &t.value, &t.effect))
        .count();
    let wanted: i64 =
        pod.preferred_nodes.iter().filter(|(_, r)| r.accepts(&node.labels)).map(|(w, _)| w).sum();
    let weight_sum: i64 = pod.preferred_nodes.iter().map(|(w, _)| w).sum::<i64>().max(1);
    let topology = bound.score(pod, node);
    fill + balance + 2 * (wanted * 100 / weight_sum) + 2 * topology
        - 300 * i64::try_from(soft_taints).unwrap_or(0)
}

#[cfg(test)]
mod tests;
