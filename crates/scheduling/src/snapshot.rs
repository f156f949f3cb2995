//! Nodes and pods at a moment, and where the next pod goes.

use crate::{
    Node, PodSpec,
    pod::PodKey,
    predicates::{self, Reason},
    topology::{Domains, Minimums, Topology},
};
use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

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
    by_name: HashMap<String, usize>,
    by_pod: HashMap<PodKey, usize>,
    topology: Topology,
    domains: Domains,
    next: usize,
}

impl Snapshot {
    /// Label values that nodes could be bought with: spread counts them too.
    pub fn set_domains(&mut self, domains: Domains) {
        self.domains = domains;
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
        self.by_name.get(name).map(|i| &*self.nodes[*i])
    }

    /// The node that a pod is on.
    pub fn node_of(&self, pod: &PodKey) -> Option<&Node> {
        self.by_pod.get(pod).map(|i| &*self.nodes[*i])
    }

    /// Adds a node, or takes over what changed about it.
    pub fn set_node(&mut self, node: Node) {
        match self.by_name.get(&node.name) {
            Some(i) => {
                let i = *i;
                let relabelled = self.nodes[i].labels != node.labels;
                Arc::make_mut(&mut self.nodes[i]).update_from(node);
                if relabelled {
                    // Counts by label value are no longer right; they are made anew on demand.
                    self.recount();
                }
            }
            None => {
                self.by_name.insert(node.name.clone(), self.nodes.len());
                self.nodes.push(Arc::new(node));
            }
        }
    }

    fn recount(&mut self) {
        self.topology = Topology::default();
        for node in self.nodes.clone() {
            for pod in node.pods.values().filter(|p| !p.anti_affinity.is_empty()) {
                self.topology.update(pod, &node, 1);
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
        for (key, pod) in &node.pods {
            self.by_pod.remove(key);
            self.topology.update(pod, &node, -1);
        }
        Some(node)
    }

    /// Puts a pod on a node, whether it fits or not. Does nothing when the node is unknown.
    pub fn add_pod(&mut self, pod: Arc<PodSpec>, node: &str) {
        self.remove_pod(&pod.key);
        if let Some(i) = self.by_name.get(node) {
            self.place(pod, *i);
        }
    }

    fn place(&mut self, pod: Arc<PodSpec>, i: usize) {
        self.by_pod.insert(pod.key.clone(), i);
        self.topology.update(&pod, &self.nodes[i], 1);
        Arc::make_mut(&mut self.nodes[i]).add(pod);
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, key: &PodKey) -> Option<Arc<PodSpec>> {
        let i = self.by_pod.remove(key)?;
        let pod = Arc::make_mut(&mut self.nodes[i]).remove(key)?;
        self.topology.update(&pod, &self.nodes[i], -1);
        Some(pod)
    }

    /// Prepares counts for a pod's rules.
    fn prepare(&mut self, pod: &PodSpec) -> Minimums {
        if pod.is_topology_bound() {
            let nodes = self.nodes.clone();
            self.topology.prepare(pod, nodes.iter().map(|n| &**n));
        }
        if pod.spread.iter().any(|s| s.required) {
            return self.topology.minimums(pod, self.nodes(), &self.domains);
        }
        Minimums::default()
    }

    fn check(&self, pod: &PodSpec, node: &Node, minimums: &Minimums) -> Result<(), Reason> {
        predicates::check(pod, node)?;
        self.topology.check(pod, node, minimums)
    }

    /// Whether a pod fits on one node now.
    ///
    /// # Errors
    /// Why it does not.
    pub fn fits(&mut self, pod: &PodSpec, node: &str) -> Result<(), Reason> {
        let minimums = self.prepare(pod);
        match self.node(node) {
            Some(n) => self.check(pod, n, &minimums),
            None => Err("node(s) were not found".into()),
        }
    }

    /// The best node for a pod. Nothing is changed: [`Snapshot::add_pod`] takes the answer.
    ///
    /// # Errors
    /// Why no node fits.
    pub fn schedule(&mut self, pod: &PodSpec, profile: Profile) -> Result<String, FitError> {
        let minimums = self.prepare(pod);
        let (mut best, mut found): (Option<(i64, usize)>, usize) = (None, 0);
        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        let count = self.nodes.len();
        let first = if count > ENOUGH_NODES { self.next % count } else { 0 };
        let mut looked = 0;
        for step in 0..count {
            let i = (first + step) % count;
            looked += 1;
            let node = &self.nodes[i];
            match self.check(pod, node, &minimums) {
                Err(reason) => *reasons.entry(reason).or_default() += 1,
                Ok(()) => {
                    let score = self.score(pod, node, profile);
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

    /// Sum of what upstream's default plugins look at, each 0 to 100 times its weight.
    fn score(&self, pod: &PodSpec, node: &Node, profile: Profile) -> i64 {
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
            .filter(|t| {
                t.effect == "PreferNoSchedule" && !pod.tolerates(&t.key, &t.value, &t.effect)
            })
            .count();
        let wanted: i64 = pod
            .preferred_nodes
            .iter()
            .filter(|(_, r)| r.accepts(&node.labels))
            .map(|(w, _)| w)
            .sum();
        let weight_sum: i64 = pod.preferred_nodes.iter().map(|(w, _)| w).sum::<i64>().max(1);
        let topology = if pod.is_topology_bound() { self.topology.score(pod, node) } else { 0 };
        fill + balance + 2 * (wanted * 100 / weight_sum) + 2 * topology
            - 300 * i64::try_from(soft_taints).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
