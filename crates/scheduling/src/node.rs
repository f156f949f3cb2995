//! What a node offers, and what runs on it.

use crate::{PodSpec, Resources, pod::PodKey};
use k8s_openapi::api::core::v1::Node as ApiNode;
use std::{collections::BTreeMap, sync::Arc};

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, or empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A node and its pods. Real nodes and nodes that are only planned look alike.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// What pods use.
    pub used: Resources,
    /// Pods on it.
    pub pods: BTreeMap<PodKey, Arc<PodSpec>>,
    /// How many of its pods have anti-affinity: most nodes need no look at theirs.
    pub anti_affine: usize,
}

impl Node {
    /// Reads a node, without pods.
    pub fn from_node(node: &ApiNode) -> Self {
        let spec = node.spec.as_ref();
        let taint = |t: &k8s_openapi::api::core::v1::Taint| Taint {
            key: t.key.clone(),
            value: t.value.clone().unwrap_or_default(),
            effect: t.effect.clone(),
        };
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut labels = node.metadata.labels.clone().unwrap_or_default();
        labels.entry("kubernetes.io/hostname".into()).or_insert_with(|| name.clone());
        Self {
            name,
            labels,
            taints: spec.and_then(|s| s.taints.as_ref()).into_iter().flatten().map(taint).collect(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: Resources::from_list(
                node.status.as_ref().and_then(|s| s.allocatable.as_ref()),
            ),
            ..Self::default()
        }
    }

    /// Takes over what another version of the same node says of itself, keeping the pods.
    pub fn update_from(&mut self, other: Self) {
        let (used, pods, anti_affine) =
            (std::mem::take(&mut self.used), std::mem::take(&mut self.pods), self.anti_affine);
        *self = Self { used, pods, anti_affine, ..other };
    }

    pub(crate) fn add(&mut self, pod: Arc<PodSpec>) {
        self.used.add(&pod.requests, 1);
        self.anti_affine += usize::from(!pod.anti_affinity.is_empty());
        self.pods.insert(pod.key.clone(), pod);
    }

    pub(crate) fn remove(&mut self, key: &PodKey) -> Option<Arc<PodSpec>> {
        let pod = self.pods.remove(key)?;
        self.used.add(&pod.requests, -1);
        self.anti_affine -= usize::from(!pod.anti_affinity.is_empty());
        Some(pod)
    }

    /// The share of the fuller of processor and memory that is used, 0 to 1.
    pub fn fill(&self) -> f64 {
        let share = |u: i64, t: i64| if t > 0 { u as f64 / t as f64 } else { 0.0 };
        share(self.used.cpu_milli, self.allocatable.cpu_milli)
            .max(share(self.used.memory_bytes, self.allocatable.memory_bytes))
    }
}
