//! Predicates on pods that all controllers share.

use crate::pod_view::{PodView, Readiness};
use coracle_meta::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector as TypedSelector, ObjectMeta},
};
use std::{collections::BTreeMap, time::Duration};

/// Whether it is being deleted.
pub fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// Whether its containers have ended for good.
pub fn is_finished(pod: &PodView) -> bool {
    matches!(pod.phase.as_str(), "Succeeded" | "Failed")
}

/// Whether it counts as a replica: not ended and not being deleted.
pub fn is_active(pod: &PodView) -> bool {
    !is_finished(pod) && !is_deleting(&pod.metadata)
}

/// Whether it is ready.
pub fn is_ready(pod: &PodView) -> bool {
    pod.ready != Readiness::No
}

/// Whether it has been ready for some time.
pub fn is_available(pod: &PodView, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod) && available_in(pod, min_ready_seconds, now).is_none_or(|d| d.is_zero())
}

/// How long until a ready pod is available; `None` when it is not ready, or since an unknown time.
pub fn available_in(pod: &PodView, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let Readiness::Since(Some(since)) = pod.ready else { return None };
    let left = i64::from(min_ready_seconds) - (now.as_second() - since.as_second());
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// The UID of the object that controls it.
pub fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    meta.owner_references
        .as_ref()?
        .iter()
        .find(|r| r.controller == Some(true))
        .map(|r| r.uid.as_str())
}

/// A typed selector as one that matches.
pub fn selector(s: &TypedSelector) -> Option<LabelSelector> {
    LabelSelector::from_object(&crate::action::to_value(s)).ok()
}

/// Order in which pods are given up: unassigned first, then pending, not ready, ready for the
/// shortest time, restarted most, newest (upstream's `ActivePodsWithRanks`, without ranks).
pub fn deletion_order(pod: &PodView) -> (u8, u8, u8, i64, std::cmp::Reverse<i64>, i64, String) {
    let assigned = u8::from(!pod.node_name.is_empty());
    let phase = match pod.phase.as_str() {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    let cost: i64 = cost.and_then(|c| c.parse().ok()).unwrap_or(0);
    let ready_since = match pod.ready {
        Readiness::Since(t) => t,
        Readiness::No => None,
    };
    let newest = |t: i64| -t;
    (
        assigned,
        phase,
        u8::from(is_ready(pod)),
        cost,
        std::cmp::Reverse(i64::from(pod.restarts)),
        newest(
            ready_since
                .or(pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
                .map_or(0, |t| t.as_second()),
        ),
        pod.metadata.name.clone().unwrap_or_default(),
    )
}

/// A pod from a template, controlled by an object.
pub fn from_template(
    template: &PodTemplateSpec,
    resource: crate::Resource,
    owner: &ObjectMeta,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name.clone().unwrap_or_default())),
            namespace: owner.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![crate::action::controller_ref(resource, owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// A short stable hash of anything that serialises, in the alphabet of generated names.
pub fn template_hash(v: &impl serde::Serialize, collisions: i32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = crate::action::to_value(v).to_string();
    // FNV-1a: the same on every machine and in every version.
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for b in text.bytes().chain(collisions.to_le_bytes()) {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut out = String::new();
    for _ in 0..10 {
        out.push(LETTERS[(h % LETTERS.len() as u64) as usize] as char);
        h /= LETTERS.len() as u64;
    }
    out
}

/// Labels with one more.
pub fn with_label(
    labels: Option<&BTreeMap<String, String>>,
    key: &str,
    value: &str,
) -> BTreeMap<String, String> {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(key.into(), value.into());
    labels
}
