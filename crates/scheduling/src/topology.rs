//! Rules that depend on where other pods run: spread, affinity, anti-affinity. Counts are kept for
//! each distinct rule and updated pod by pod.

use crate::{
    Node, PodSpec,
    pod::{Affinity, Spread},
    predicates::{self, Reason},
};
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};

/// What is counted: pods that a rule selects, by the value of a label of their nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    key: Arc<str>,
    selector: coracle_meta::LabelSelector,
    namespaces: Vec<String>,
}

impl Group {
    fn of(a: &Affinity) -> Self {
        Self { key: a.key.clone(), selector: a.selector.clone(), namespaces: a.namespaces.clone() }
    }

    fn of_spread(s: &Spread, namespace: &str) -> Self {
        Self {
            key: s.key.clone(),
            selector: s.selector.clone(),
            namespaces: vec![namespace.to_owned()],
        }
    }

    fn selects(&self, pod: &PodSpec) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&pod.key.namespace))
            && self.selector.matches_map(Some(&pod.labels))
    }
}

type Counts = HashMap<Arc<str>, i64>;

/// Counts of all rules that were asked for so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    groups: HashMap<Group, Counts>,
    /// Anti-affinity of running pods, by rule: how many have it at each value.
    repelling: HashMap<Group, Counts>,
}

fn bump(counts: &mut Counts, value: &str, by: i64) {
    match counts.get_mut(value) {
        Some(n) => *n += by,
        None => drop(counts.insert(value.into(), by)),
    }
}

impl Topology {
    /// A pod came to a node (`by` 1) or left it (-1).
    pub(crate) fn update(&mut self, pod: &PodSpec, node: &Node, by: i64) {
        for (group, counts) in &mut self.groups {
            if let Some(value) = node.labels.get(&*group.key) {
                if group.selects(pod) {
                    bump(counts, value, by);
                }
            }
        }
        for a in &pod.anti_affinity {
            if let Some(value) = node.labels.get(&*a.key) {
                bump(self.repelling.entry(Group::of(a)).or_default(), value, by);
            }
        }
    }

    fn count_all<'n>(group: &Group, nodes: impl Iterator<Item = &'n Node>) -> Counts {
        let mut counts = Counts::new();
        for node in nodes {
            if let Some(value) = node.labels.get(&*group.key) {
                let n = node.pods.values().filter(|p| group.selects(p)).count();
                bump(&mut counts, value, i64::try_from(n).unwrap_or(0));
            }
        }
        counts
    }

    /// Makes sure that the pod's rules are counted.
    pub(crate) fn prepare<'n>(
        &mut self,
        pod: &PodSpec,
        nodes: impl Iterator<Item = &'n Node> + Clone,
    ) {
        let spread = pod.spread.iter().map(|s| Group::of_spread(s, &pod.key.namespace));
        let others = pod
            .affinity
            .iter()
            .chain(&pod.anti_affinity)
            .chain(pod.preferred_pods.iter().map(|(_, a)| a))
            .map(Group::of);
        for group in spread.chain(others) {
            if let Entry::Vacant(vacant) = self.groups.entry(group) {
                let counts = Self::count_all(vacant.key(), nodes.clone());
                vacant.insert(counts);
            }
        }
    }

    fn counts(&self, group: &Group) -> Option<&Counts> {
        self.groups.get(group)
    }

    /// Whether the pod's rules, and those of the pods that run, let it run on the node.
    pub(crate) fn check(
        &self,
        pod: &PodSpec,
        node: &Node,
        minimums: &Minimums,
    ) -> Result<(), Reason> {
        for (i, s) in pod.spread.iter().enumerate().filter(|(_, s)| s.required) {
            let Some(value) = node.labels.get(&*s.key) else {
                return Err(
                    "node(s) didn't match pod topology spread constraints (missing required label)"
                        .into(),
                );
            };
            let group = Group::of_spread(s, &pod.key.namespace);
            let here = self.counts(&group).and_then(|c| c.get(&**value)).copied().unwrap_or(0);
            let own = i64::from(s.selector.matches_map(Some(&pod.labels)));
            if here + own - minimums.0.get(&i).copied().unwrap_or(0) > s.max_skew {
                return Err("node(s) didn't match pod topology spread constraints".into());
            }
        }
        let at = |a: &Affinity| {
            node.labels
                .get(&*a.key)
                .and_then(|v| self.counts(&Group::of(a))?.get(&**v))
                .copied()
                .unwrap_or(0)
        };
        for a in &pod.affinity {
            if !node.labels.contains_key(&*a.key) || (at(a) == 0 && !self.may_begin(pod, a)) {
                return Err("node(s) didn't match pod affinity rules".into());
            }
        }
        if pod.anti_affinity.iter().any(|a| at(a) > 0) {
            return Err("node(s) didn't match pod anti-affinity rules".into());
        }
        let repelled = self.repelling.iter().any(|(g, counts)| {
            node.labels.get(&*g.key).and_then(|v| counts.get(&**v)).is_some_and(|n| *n > 0)
                && g.selects(pod)
        });
        if repelled {
            return Err("node(s) didn't satisfy existing pods anti-affinity rules".into());
        }
        Ok(())
    }

    /// The first pod of a group that wants to be near itself may run anywhere.
    fn may_begin(&self, pod: &PodSpec, a: &Affinity) -> bool {
        let none = self.counts(&Group::of(a)).is_none_or(|c| c.values().all(|n| *n == 0));
        none && a.selects(&pod.key.namespace, &pod.labels)
    }

    /// The least count of each spread rule, over the values that count for the pod.
    pub(crate) fn minimums<'n>(
        &self,
        pod: &PodSpec,
        nodes: impl Iterator<Item = &'n Node> + Clone,
        domains: &Domains,
    ) -> Minimums {
        let mut minimums = BTreeMap::new();
        for (i, s) in pod.spread.iter().enumerate().filter(|(_, s)| s.required) {
            let group = Group::of_spread(s, &pod.key.namespace);
            let counts = self.counts(&group);
            let mut values: BTreeMap<&str, i64> = BTreeMap::new();
            let count = |v: &str| counts.and_then(|c| c.get(v)).copied().unwrap_or(0);
            for node in nodes.clone() {
                let eligible = (!s.honor_affinity || predicates::accepts(pod, node))
                    && (!s.honor_taints || predicates::taints(pod, node).is_ok());
                if let (true, Some(v)) = (eligible, node.labels.get(&*s.key)) {
                    values.insert(v, count(v));
                }
            }
            // Values that nodes could be bought in count too, when the caller can buy nodes.
            for v in domains.get(&*s.key).into_iter().flatten() {
                let asks = |v: &str| {
                    pod.node_requirements()
                        .iter()
                        .any(|r| r.get(&s.key).is_none_or(|x| x.accepts(Some(v))))
                };
                if !s.honor_affinity || asks(v) {
                    values.entry(v).or_insert_with(|| count(v));
                }
            }
            let enough = i64::try_from(values.len()).unwrap_or(0) >= s.min_domains;
            // A new node is a new value of its name: the least count is 0 wherever nodes are bought.
            let new_hosts = &*s.key == "kubernetes.io/hostname" && !domains.is_empty();
            let least =
                if enough && !new_hosts { values.values().copied().min().unwrap_or(0) } else { 0 };
            minimums.insert(i, least);
        }
        Minimums(minimums)
    }

    /// How much the pod's preferences about other pods like a node.
    pub(crate) fn score(&self, pod: &PodSpec, node: &Node) -> i64 {
        let at = |g: &Group| {
            node.labels.get(&*g.key).and_then(|v| self.counts(g)?.get(&**v)).copied().unwrap_or(0)
        };
        let near: i64 = pod.preferred_pods.iter().map(|(w, a)| w * at(&Group::of(a)).min(1)).sum();
        let soft = pod.spread.iter().filter(|s| !s.required);
        let crowding: i64 = soft.map(|s| at(&Group::of_spread(s, &pod.key.namespace)) * 10).sum();
        near - crowding
    }
}

/// The least count of each required spread rule of a pod, by its index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Minimums(BTreeMap<usize, i64>);

/// Values of labels that nodes could be bought with. Empty when no nodes can be bought.
pub type Domains = BTreeMap<Arc<str>, Vec<Arc<str>>>;
