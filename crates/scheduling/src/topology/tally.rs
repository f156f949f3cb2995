//! One counted rule: which pods it selects, which nodes count, and how many there are of both at
//! each value of a node label.

use crate::{
    Node, PodSpec, Requirements,
    pod::{Affinity, Namespaces, PodSelection, Spread, Toleration},
    predicates,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What is counted: pods that all selections select, by the value of a label of their nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) key: Arc<str>,
    pub(super) pods: Vec<PodSelection>,
    nodes: NodeFilter,
}

/// Which nodes count. The default is all that have the label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct NodeFilter {
    /// Labels that must be present.
    keys: Vec<Arc<str>>,
    /// `nodeAffinityPolicy: Honor` (KEP-3094): what the pod's selector and affinity accept.
    affinity: Option<(BTreeMap<String, String>, Vec<(Requirements, Option<String>)>)>,
    /// `nodeTaintsPolicy: Honor`: what the pod tolerates.
    tolerations: Option<Vec<Toleration>>,
}

impl NodeFilter {
    fn counts(&self, node: &Node) -> bool {
        self.keys.iter().all(|k| node.labels.contains_key(&**k))
            && self
                .affinity
                .as_ref()
                .is_none_or(|(selector, terms)| predicates::accepts(selector, terms, node))
            && self.tolerations.as_ref().is_none_or(|t| predicates::untolerated(t, node).is_none())
    }
}

impl Group {
    /// Pods of one term.
    pub(super) fn of(a: &Affinity) -> Self {
        Self { key: a.key.clone(), pods: vec![a.pods.clone()], nodes: NodeFilter::default() }
    }

    /// Pods near which a pod must be: upstream counts only those that all its terms select.
    pub(super) fn of_near(pod: &PodSpec, term: &Affinity) -> Self {
        let pods = pod.affinity.iter().map(|a| a.pods.clone()).collect();
        Self { key: term.key.clone(), pods, nodes: NodeFilter::default() }
    }

    /// Pods over which a pod spreads.
    pub(super) fn of_spread(pod: &PodSpec, s: &Spread) -> Self {
        let together = pod.spread.iter().filter(|o| o.required == s.required);
        let affinity = (pod.node_selector.clone(), pod.node_terms.clone());
        let asks = !affinity.0.is_empty() || !affinity.1.is_empty();
        let nodes = NodeFilter {
            keys: together.map(|o| o.key.clone()).filter(|k| *k != s.key).collect(),
            affinity: (s.honor_affinity && asks).then_some(affinity),
            tolerations: s.honor_taints.then(|| pod.tolerations.clone()),
        };
        Self { key: s.key.clone(), pods: vec![s.pods.clone()], nodes }
    }

    pub(super) fn selects(&self, pod: &PodSpec, namespaces: &Namespaces) -> bool {
        self.pods.iter().all(|s| s.selects(pod, namespaces))
    }

    /// A label and value that every selected pod has, if there is one.
    pub(super) fn equality(&self) -> Option<(&str, &str)> {
        self.pods.iter().find_map(|s| s.selector.equality())
    }

    /// The value at which a node counts.
    pub(super) fn domain<'n>(&self, node: &'n Node) -> Option<&'n str> {
        node.labels.get(&*self.key).filter(|_| self.nodes.counts(node)).map(String::as_str)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    nodes: i64,
    pods: i64,
}

/// A group with its counts.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) group: Group,
    by_value: HashMap<Arc<str>, Count>,
    /// How many values that have nodes have so many pods: the least is the first.
    levels: BTreeMap<i64, usize>,
}

impl Tally {
    pub(super) fn new(group: Group) -> Self {
        Self { group, by_value: HashMap::new(), levels: BTreeMap::new() }
    }

    pub(super) fn of_all(group: Group, nodes: &[Arc<Node>], namespaces: &Namespaces) -> Self {
        let mut tally = Self::new(group);
        for node in nodes {
            let Some(value) = tally.group.domain(node) else { continue };
            let pods = node.pods.values().filter(|p| tally.group.selects(p, namespaces)).count();
            tally.add(value, 1, i64::try_from(pods).unwrap_or(i64::MAX));
        }
        tally
    }

    /// Nodes and pods came to a value, or left it.
    pub(super) fn add(&mut self, value: &str, nodes: i64, pods: i64) {
        let count = match self.by_value.get_mut(value) {
            Some(count) => count,
            None => self.by_value.entry(value.into()).or_default(),
        };
        let before = *count;
        count.nodes += nodes;
        count.pods += pods;
        let after = *count;
        if before.nodes > 0 {
            if let Some(n) = self.levels.get_mut(&before.pods) {
                *n -= 1;
                if *n == 0 {
                    self.levels.remove(&before.pods);
                }
            }
        }
        if after.nodes > 0 {
            *self.levels.entry(after.pods).or_default() += 1;
        } else if after.pods == 0 {
            self.by_value.remove(value);
        }
    }

    /// Pods at the value that a node has, 0 for a node without the label.
    pub(super) fn at(&self, node: &Node) -> i64 {
        node.labels
            .get(&*self.group.key)
            .map_or(0, |v| self.by_value.get(&**v).map_or(0, |c| c.pods))
    }

    pub(super) fn has_nodes(&self, value: &str) -> bool {
        self.by_value.get(value).is_some_and(|c| c.nodes > 0)
    }

    /// The least count over values that have nodes.
    pub(super) fn least(&self) -> Option<i64> {
        self.levels.first_key_value().map(|(n, _)| *n)
    }

    /// How many values have nodes.
    pub(super) fn domains(&self) -> usize {
        self.levels.values().sum()
    }

    /// Whether no pod is counted anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.by_value.values().all(|c| c.pods == 0)
    }
}
