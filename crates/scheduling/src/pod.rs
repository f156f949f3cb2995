//! What a pod asks of a node, read once from the API object.

use crate::{Requirements, Resources, Values};
use coracle_meta::LabelSelector;
use k8s_openapi::{
    api::core::v1::{
        Container, Pod, PodAffinityTerm, PodSpec as ApiSpec, TopologySpreadConstraint,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector as ApiSelector, ObjectMeta},
};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// A toleration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// Taint key; `None` for all.
    pub key: Option<String>,
    /// Taint value; `None` for all (operator Exists).
    pub value: Option<String>,
    /// Taint effect; `None` for all.
    pub effect: Option<String>,
}

impl Toleration {
    /// Whether a taint is tolerated.
    pub fn tolerates(&self, key: &str, value: &str, effect: &str) -> bool {
        self.key.as_deref().is_none_or(|k| k == key)
            && self.value.as_deref().is_none_or(|v| v == value)
            && self.effect.as_deref().is_none_or(|e| e == effect)
    }
}

/// A rule about how pods spread over the values of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// Label of nodes.
    pub key: Arc<str>,
    /// Most difference between values.
    pub max_skew: i64,
    /// Must hold (`DoNotSchedule`) or should (`ScheduleAnyway`).
    pub required: bool,
    /// Pods that count.
    pub pods: PodSelection,
    /// Fewest values that must exist, else the least count is 0.
    pub min_domains: i64,
    /// Only nodes that the pod's own selector accepts count.
    pub honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates count.
    pub honor_taints: bool,
}

/// Labels of namespaces, by name.
pub type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// Which pods a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSelection {
    /// By their labels.
    pub selector: LabelSelector,
    /// In these namespaces,
    pub namespaces: Vec<String>,
    /// and in those with such labels.
    pub namespace_selector: Option<LabelSelector>,
    /// Whether pods that are being deleted count.
    pub terminating: bool,
}

impl PodSelection {
    /// Whether a pod is meant. A namespace whose labels are unknown has none.
    pub fn selects(&self, pod: &PodSpec, namespaces: &Namespaces) -> bool {
        let own = &pod.key.namespace;
        let here = self.namespaces.contains(own)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| s.is_empty() || s.matches_map(namespaces.get(own)));
        here && (self.terminating || !pod.terminating)
            && self.selector.matches_map(Some(&pod.labels))
    }
}

/// A rule about being near or far from other pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// Label of nodes: what "near" means.
    pub key: Arc<str>,
    /// Which pods.
    pub pods: PodSelection,
}

/// Which pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A pod: which it is, and what it asks for.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// Which pod.
    pub key: PodKey,
    /// UID.
    pub uid: String,
    /// Being deleted.
    pub terminating: bool,
    /// Creation, Unix seconds.
    pub created_seconds: i64,
    /// What it asks for, shared among the pods of its class.
    pub class: Arc<PodClass>,
}

/// A pod's class is read as if it were the pod's own.
impl std::ops::Deref for PodSpec {
    type Target = PodClass;
    fn deref(&self) -> &PodClass {
        &self.class
    }
}

/// What pods of one namespace and template ask for alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodClass {
    /// Hash of all that follows, and of the namespace.
    pub class_id: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Priority.
    pub priority: i32,
    /// Resources, with one pod.
    pub requests: Resources,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// At least one of these must be met; empty for no condition.
    pub node_terms: Vec<(Requirements, Option<String>)>,
    /// Weighted preferences for nodes.
    pub preferred_nodes: Vec<(i64, Requirements)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Spread rules.
    pub spread: Vec<Spread>,
    /// Must be near such pods.
    pub affinity: Vec<Affinity>,
    /// Must be far from such pods.
    pub anti_affinity: Vec<Affinity>,
    /// Weighted preferences: near (positive) or far (negative).
    pub preferred_pods: Vec<(i64, Affinity)>,
    /// Ports of the host: protocol, address, port.
    pub host_ports: Vec<(String, String, i32)>,
}

impl PodSpec {
    /// Reads a pod.
    pub fn from_pod(pod: &Pod) -> Self {
        let empty = ApiSpec::default();
        Self::read(&pod.metadata, pod.spec.as_ref().unwrap_or(&empty))
    }

    /// Reads a pod's parts.
    pub fn read(meta: &ObjectMeta, spec: &ApiSpec) -> Self {
        let key = PodKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let class = Arc::new(PodClass::read(&key.namespace, meta.labels.as_ref(), spec));
        Self {
            key,
            uid: meta.uid.clone().unwrap_or_default(),
            terminating: meta.deletion_timestamp.is_some(),
            created_seconds: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            class,
        }
    }
}

impl PodClass {
    fn read(namespace: &str, labels: Option<&BTreeMap<String, String>>, spec: &ApiSpec) -> Self {
        let labels = labels.cloned().unwrap_or_default();
        let affinity = spec.affinity.as_ref();
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let terms = |t: Option<&Vec<PodAffinityTerm>>| {
            t.into_iter().flatten().map(|t| affinity_term(t, namespace, &labels)).collect()
        };
        let preferred_near =
            near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let preferred_far =
            far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let preferred_pods = preferred_near
            .into_iter()
            .flatten()
            .map(|w| (i64::from(w.weight), &w.pod_affinity_term))
            .chain(
                preferred_far
                    .into_iter()
                    .flatten()
                    .map(|w| (-i64::from(w.weight), &w.pod_affinity_term)),
            )
            .map(|(w, t)| (w, affinity_term(t, namespace, &labels)))
            .collect();
        let mut p = Self {
            priority: spec.priority.unwrap_or(0),
            requests: requests(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_terms: node_terms(spec),
            preferred_nodes: preferred_nodes(spec),
            tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|t| spread(t, namespace, &labels))
                .collect(),
            affinity: terms(
                near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            anti_affinity: terms(
                far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_pods,
            host_ports: host_ports(spec),
            labels,
            class_id: 0,
        };
        p.classify(namespace);
        p
    }

    /// Derives the class anew: call it after a change.
    pub fn classify(&mut self, namespace: &str) {
        let mut h = DefaultHasher::new();
        (namespace, &self.labels, self.priority, &self.requests, &self.node_selector).hash(&mut h);
        (&self.node_terms, &self.preferred_nodes, &self.tolerations, &self.spread).hash(&mut h);
        (&self.affinity, &self.anti_affinity, &self.preferred_pods, &self.host_ports).hash(&mut h);
        self.class_id = h.finish();
    }

    /// Whether where other pods run matters to it.
    pub fn is_topology_bound(&self) -> bool {
        !self.spread.is_empty()
            || !self.affinity.is_empty()
            || !self.anti_affinity.is_empty()
            || !self.preferred_pods.is_empty()
    }

    /// Everything that its node selector and affinity ask for, one set of requirements for each
    /// alternative.
    pub fn node_requirements(&self) -> Vec<Requirements> {
        let mut base = Requirements::default();
        for (k, v) in &self.node_selector {
            base.add(k, Values::of([v.as_str()]));
        }
        if self.node_terms.is_empty() {
            return vec![base];
        }
        let with = |(term, _): &(Requirements, Option<String>)| {
            let mut r = base.clone();
            r.narrow(term);
            r
        };
        self.node_terms.iter().map(with).collect()
    }

    /// Whether it tolerates a taint.
    pub fn tolerates(&self, key: &str, value: &str, effect: &str) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(key, value, effect))
    }
}

fn container_requests(c: &Container) -> Resources {
    Resources::from_list(c.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// Requests of a pod: the sum of its containers and sidecars, or the largest moment of its init
/// containers, and its overhead (KEP-753); pod-level requests win (KEP-2837).
pub fn requests(spec: &ApiSpec) -> Resources {
    let mut total = Resources::default();
    for c in &spec.containers {
        total.add(&container_requests(c), 1);
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for c in spec.init_containers.iter().flatten() {
        let own = container_requests(c);
        if c.restart_policy.as_deref() == Some("Always") {
            total.add(&own, 1);
            sidecars.add(&own, 1);
            peak.raise_to(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&own, 1);
            peak.raise_to(&moment);
        }
    }
    total.raise_to(&peak);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let own = Resources::from_list(Some(list));
        if list.contains_key("cpu") {
            total.cpu_milli = own.cpu_milli;
        }
        if list.contains_key("memory") {
            total.memory_bytes = own.memory_bytes;
        }
    }
    total.add(&Resources::from_list(spec.overhead.as_ref()), 1);
    total.pods = 1;
    total
}

fn node_terms(spec: &ApiSpec) -> Vec<(Requirements, Option<String>)> {
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return vec![] };
    let read = |t: &k8s_openapi::api::core::v1::NodeSelectorTerm| {
        let fields = t.match_fields.iter().flatten().find(|f| f.key == "metadata.name");
        let name = fields.and_then(|f| f.values.as_ref()?.first().cloned());
        if t.match_expressions.is_none() && name.is_none() {
            return None; // An empty term matches nothing.
        }
        Some((Requirements::from_term(t.match_expressions.as_deref().unwrap_or_default())?, name))
    };
    let terms: Vec<_> = required.node_selector_terms.iter().filter_map(read).collect();
    if terms.is_empty() {
        // Terms that can never match leave one that nothing meets.
        let mut never = Requirements::default();
        never.add("kubernetes.io/hostname", Values::of(Vec::<String>::new()));
        return vec![(never, None)];
    }
    terms
}

fn preferred_nodes(spec: &ApiSpec) -> Vec<(i64, Requirements)> {
    let preferred = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| n.preferred_during_scheduling_ignored_during_execution.as_ref());
    let read = |t: &k8s_openapi::api::core::v1::PreferredSchedulingTerm| {
        Some((
            i64::from(t.weight),
            Requirements::from_term(t.preference.match_expressions.as_deref().unwrap_or_default())?,
        ))
    };
    preferred.into_iter().flatten().filter_map(read).collect()
}

fn toleration(t: &k8s_openapi::api::core::v1::Toleration) -> Toleration {
    let exists = t.operator.as_deref() == Some("Exists");
    let some = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    Toleration {
        key: some(&t.key),
        value: if exists { None } else { Some(t.value.clone().unwrap_or_default()) },
        effect: some(&t.effect),
    }
}

fn label_selector(s: Option<&ApiSelector>) -> Option<LabelSelector> {
    LabelSelector::from_object(&serde_json::to_value(s?).ok()?).ok()
}

/// Adds the pod's own values of labels to a selector (`matchLabelKeys`).
fn with_own(
    mut s: LabelSelector,
    keys: Option<&Vec<String>>,
    labels: &BTreeMap<String, String>,
    differ: bool,
) -> LabelSelector {
    for k in keys.into_iter().flatten() {
        if let Some(v) = labels.get(k) {
            let operator = if differ {
                coracle_meta::selector::Operator::NotIn
            } else {
                coracle_meta::selector::Operator::In
            };
            s.requirements.push(coracle_meta::Requirement {
                key: k.clone(),
                operator,
                values: vec![v.clone()],
            });
        }
    }
    s
}

fn spread(
    t: &TopologySpreadConstraint,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Spread {
    let selector = label_selector(t.label_selector.as_ref()).unwrap_or_else(nothing);
    Spread {
        key: t.topology_key.as_str().into(),
        max_skew: i64::from(t.max_skew),
        required: t.when_unsatisfiable == "DoNotSchedule",
        pods: PodSelection {
            selector: with_own(selector, t.match_label_keys.as_ref(), labels, false),
            namespaces: vec![namespace.to_owned()],
            namespace_selector: None,
            terminating: false,
        },
        min_domains: i64::from(t.min_domains.unwrap_or(1)),
        honor_affinity: t.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: t.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// A selector that no pod meets: what an absent selector means.
fn nothing() -> LabelSelector {
    let never = coracle_meta::Requirement {
        key: "none".into(),
        operator: coracle_meta::selector::Operator::In,
        values: vec![],
    };
    LabelSelector { requirements: vec![never] }
}

fn affinity_term(
    t: &PodAffinityTerm,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Affinity {
    let selector = label_selector(t.label_selector.as_ref()).unwrap_or_else(nothing);
    let selector = with_own(selector, t.match_label_keys.as_ref(), labels, false);
    let selector = with_own(selector, t.mismatch_label_keys.as_ref(), labels, true);
    // Named namespaces and selected ones add up (KEP-2249); without either it is the pod's own.
    let namespace_selector =
        t.namespace_selector.as_ref().map(|s| label_selector(Some(s)).unwrap_or_else(nothing));
    let mut namespaces = t.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && namespace_selector.is_none() {
        namespaces.push(namespace.to_owned());
    }
    let pods = PodSelection { selector, namespaces, namespace_selector, terminating: true };
    Affinity { key: t.topology_key.as_str().into(), pods }
}

fn host_ports(spec: &ApiSpec) -> Vec<(String, String, i32)> {
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let ip =
                p.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((p.protocol.clone().unwrap_or_else(|| "TCP".into()), ip, port))
        })
        .collect()
}
