//! Rules that depend on where other pods run: spread, affinity, anti-affinity. Each distinct rule
//! is counted once, from when a pod first has it, and updated pod by pod and node by node.

mod tally;

use crate::{
    Node, PodSpec,
    pod::{Namespaces, PodSelection, Spread},
    predicates::Reason,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tally::{Group, Tally};

/// With more rules than this all counts are dropped and made anew on demand: rules of pods that
/// are long gone would be counted for ever.
const MAX_RULES: usize = 4096;

/// Values of labels that nodes could be bought with. Empty when no nodes can be bought.
pub type Domains = BTreeMap<Arc<str>, Vec<Arc<str>>>;

/// Counts of all rules that were asked for so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    namespaces: Arc<Namespaces>,
    tallies: Vec<Arc<Tally>>,
    index: Arc<Index>,
    /// Anti-affinity of running pods: how many have the rule at each value.
    repelling: HashMap<Arc<Group>, Arc<Tally>>,
}

/// Where tallies are found.
#[derive(Clone, Debug, Default)]
struct Index {
    by_group: HashMap<Arc<Group>, usize>,
    /// Rules of a class of pods, in the order of [`groups`].
    by_class: HashMap<u64, Arc<[usize]>>,
    /// By a label and value that the selected pods must have.
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    /// Selectors without such a label.
    rest: Vec<usize>,
}

/// All rules of a pod: spread, near, far, preferred.
fn groups(pod: &PodSpec) -> impl Iterator<Item = Group> + '_ {
    let spread = pod.spread.iter().map(|s| Group::of_spread(pod, s));
    let near = pod.affinity.iter().map(|a| Group::of_near(pod, a));
    let others = pod.anti_affinity.iter().chain(pod.preferred_pods.iter().map(|(_, a)| a));
    spread.chain(near).chain(others.map(Group::of))
}

impl Topology {
    /// Takes over a namespace's labels; `None` when it is gone.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match labels {
            Some(labels) => drop(namespaces.insert(name.to_owned(), labels)),
            None => drop(namespaces.remove(name)),
        }
        let by_labels = |s: &PodSelection| s.namespace_selector.is_some();
        if self.tallies.iter().any(|t| t.group.pods.iter().any(by_labels)) {
            self.forget();
        }
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    fn forget(&mut self) {
        self.tallies.clear();
        self.index = Arc::default();
    }

    /// A pod came to a node (`by` 1) or left it (-1).
    pub(crate) fn pod(&mut self, pod: &PodSpec, node: &Node, by: i64) {
        let index = self.index.clone();
        let named = pod.labels.iter().filter_map(|(k, v)| index.by_label.get(k)?.get(v)).flatten();
        for i in index.rest.iter().chain(named) {
            let tally = &mut self.tallies[*i];
            if let Some(value) = tally.group.domain(node) {
                if tally.group.selects(pod, &self.namespaces) {
                    Arc::make_mut(tally).add(value, 0, by);
                }
            }
        }
        for a in &pod.anti_affinity {
            let group = Group::of(a);
            let Some(value) = group.domain(node) else { continue };
            let tally = match self.repelling.get_mut(&group) {
                Some(tally) => tally,
                None => {
                    let tally = Arc::new(Tally::new(group.clone()));
                    self.repelling.entry(Arc::new(group.clone())).or_insert(tally)
                }
            };
            Arc::make_mut(tally).add(value, 0, by);
            if by < 0 && tally.is_empty() {
                self.repelling.remove(&group);
            }
        }
    }

    /// A node came with its pods (`by` 1) or left with them (-1).
    pub(crate) fn node(&mut self, node: &Node, by: i64) {
        for tally in &mut self.tallies {
            if let Some(value) = tally.group.domain(node) {
                Arc::make_mut(tally).add(value, by, 0);
            }
        }
        for pod in node.pods.values() {
            self.pod(pod, node, by);
        }
    }

    /// Counts a pod's rules, if they are not counted yet.
    fn rules(&mut self, pod: &PodSpec, nodes: &[Arc<Node>]) -> Arc<[usize]> {
        if let Some(rules) = self.index.by_class.get(&pod.class_id) {
            return rules.clone();
        }
        if self.tallies.len() > MAX_RULES || self.index.by_class.len() > MAX_RULES {
            self.forget();
        }
        let index = Arc::make_mut(&mut self.index);
        let mut rules = Vec::new();
        for group in groups(pod) {
            let i = self.tallies.len();
            if let Some(known) = index.by_group.get(&group) {
                rules.push(*known);
                continue;
            }
            index.by_group.insert(Arc::new(group.clone()), i);
            match group.equality() {
                Some((k, v)) => {
                    let values = index.by_label.entry(k.to_owned()).or_default();
                    values.entry(v.to_owned()).or_default().push(i);
                }
                None => index.rest.push(i),
            }
            self.tallies.push(Arc::new(Tally::of_all(group, nodes, &self.namespaces)));
            rules.push(i);
        }
        let rules: Arc<[usize]> = rules.into();
        index.by_class.insert(pod.class_id, rules.clone());
        rules
    }

    /// What [`Bound::check`] needs to know for one pod, whatever the node.
    pub(crate) fn bind(&mut self, pod: &PodSpec, nodes: &[Arc<Node>], domains: &Domains) -> Bound {
        let repelling =
            self.repelling.values().filter(|t| t.group.selects(pod, &self.namespaces)).cloned();
        let mut bound = Bound { repelling: repelling.collect(), ..Bound::default() };
        if !pod.is_topology_bound() {
            return bound;
        }
        let rules = self.rules(pod, nodes);
        let mut tallies = rules.iter().map(|i| self.tallies[*i].clone());
        let mut take = |n: usize| tallies.by_ref().take(n).collect::<Vec<_>>();
        let spread = take(pod.spread.len());
        bound.near = take(pod.affinity.len());
        bound.far = take(pod.anti_affinity.len());
        bound.preferred = take(pod.preferred_pods.len());
        bound.spread = spread
            .into_iter()
            .zip(&pod.spread)
            .map(|(t, s)| {
                let room = s.max_skew + least(pod, s, &t, domains)
                    - i64::from(s.pods.selects(pod, &self.namespaces));
                (t, room)
            })
            .collect();
        // The first pod of a group that wants to be near itself may run anywhere.
        bound.may_begin = bound.near.iter().all(|t| t.is_empty())
            && pod.affinity.iter().all(|a| a.pods.selects(pod, &self.namespaces));
        bound
    }
}

/// The least count of a spread rule over the values that count for the pod: those that have
/// nodes, and those that nodes could be bought in.
fn least(pod: &PodSpec, s: &Spread, tally: &Tally, domains: &Domains) -> i64 {
    // A new node is a new value of its name.
    let new_hosts = &*s.key == "kubernetes.io/hostname" && !domains.is_empty();
    let asks = |v: &str| {
        !s.honor_affinity
            || pod
                .node_requirements()
                .iter()
                .any(|r| r.get(&s.key).is_none_or(|x| x.accepts(Some(v))))
    };
    let buyable = domains.get(&*s.key).into_iter().flatten();
    let buyable = buyable.filter(|v| !tally.has_nodes(v) && asks(v)).count();
    let enough = i64::try_from(tally.domains() + buyable).unwrap_or(i64::MAX) >= s.min_domains;
    if !enough || new_hosts || buyable > 0 { 0 } else { tally.least().unwrap_or(0) }
}

/// A pod's rules, and those of running pods that concern it, with their counts at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bound {
    /// With the most pods that a value may have before this one comes.
    spread: Vec<(Arc<Tally>, i64)>,
    near: Vec<Arc<Tally>>,
    may_begin: bool,
    far: Vec<Arc<Tally>>,
    preferred: Vec<Arc<Tally>>,
    repelling: Vec<Arc<Tally>>,
}

impl Bound {
    /// Whether the pod's rules, and those of the pods that run, let it run on the node.
    pub(crate) fn check(&self, pod: &PodSpec, node: &Node) -> Result<(), Reason> {
        let required = self.spread.iter().zip(&pod.spread).filter(|(_, s)| s.required);
        for ((tally, room), s) in required {
            if !node.labels.contains_key(&*s.key) {
                return Err(
                    "node(s) didn't match pod topology spread constraints (missing required label)"
                        .into(),
                );
            }
            if tally.at(node) > *room {
                return Err("node(s) didn't match pod topology spread constraints".into());
            }
        }
        for tally in &self.near {
            let labelled = node.labels.contains_key(&*tally.group.key);
            if !labelled || (tally.at(node) <= 0 && !self.may_begin) {
                return Err("node(s) didn't match pod affinity rules".into());
            }
        }
        if self.far.iter().any(|t| t.at(node) > 0) {
            return Err("node(s) didn't match pod anti-affinity rules".into());
        }
        if self.repelling.iter().any(|t| t.at(node) > 0) {
            return Err("node(s) didn't satisfy existing pods anti-affinity rules".into());
        }
        Ok(())
    }

    /// How much the pod's preferences about other pods like a node.
    pub(crate) fn score(&self, pod: &PodSpec, node: &Node) -> i64 {
        let preferred = self.preferred.iter().zip(&pod.preferred_pods);
        let near: i64 = preferred.map(|(t, (weight, _))| weight * t.at(node).min(1)).sum();
        let soft = self.spread.iter().zip(&pod.spread).filter(|(_, s)| !s.required);
        let crowding: i64 = soft.map(|((t, _), _)| t.at(node) * 10).sum();
        near - crowding
    }
}
