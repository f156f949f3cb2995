//! PodDisruptionBudget: how many pods may be disturbed now.

use crate::{
    Decision, PodView,
    action::{BUDGETS, status_patch, to_value},
    deployment::resolve,
    pod,
};
use coracle_meta::time::{parse_rfc3339, rfc3339};
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// An eviction that was allowed but did not delete its pod within this time does not count.
const EVICTION_TIMEOUT_SECONDS: i64 = 120;

/// Decides for one budget. `pods` are those in its namespace; `scales` tells the desired replicas
/// of controllers by UID.
pub fn decide(
    pdb: &PodDisruptionBudget,
    pods: &[Arc<PodView>],
    scales: &BTreeMap<String, i32>,
    now: Timestamp,
) -> Decision {
    let Some(spec) = &pdb.spec else { return Decision::default() };
    let selector = spec.selector.as_ref().and_then(pod::selector);
    let selected: Vec<&Arc<PodView>> = pods
        .iter()
        .filter(|p| {
            !pod::is_finished(p)
                && selector.as_ref().is_some_and(|s| s.matches_map(Some(p.labels())))
        })
        .collect();
    let count = i32::try_from(selected.len()).unwrap_or(i32::MAX);
    let (expected, desired) = if let Some(max) = &spec.max_unavailable {
        let expected = expected(&selected, scales);
        (expected, (expected - resolve(Some(max), expected, true)).max(0))
    } else {
        match &spec.min_available {
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(n)) => (count, *n),
            Some(percent) => {
                let expected = expected(&selected, scales);
                (expected, resolve(Some(percent), expected, true))
            }
            None => (count, 1),
        }
    };
    let mut decision = Decision::default();
    let old = pdb.status.clone().unwrap_or_default();
    // Evictions that were allowed and not seen through yet are as good as done.
    let mut pending: BTreeMap<String, String> = BTreeMap::new();
    for (name, t) in old.disrupted_pods.iter().flatten() {
        let there = selected
            .iter()
            .any(|p| p.metadata.name.as_ref() == Some(name) && !pod::is_deleting(&p.metadata));
        let age = now.as_second() - t.0.as_second();
        if there && age < EVICTION_TIMEOUT_SECONDS {
            pending.insert(name.clone(), rfc3339(t.0));
            decision.look_again(Duration::from_secs(
                u64::try_from(EVICTION_TIMEOUT_SECONDS - age).unwrap_or(1),
            ));
        }
    }
    let healthy = selected
        .iter()
        .filter(|p| {
            !pod::is_deleting(&p.metadata)
                && pod::is_ready(p)
                && !pending.contains_key(p.metadata.name.as_deref().unwrap_or(""))
        })
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = old
        .conditions
        .as_ref()
        .map(to_value)
        .and_then(|v| v.as_array().cloned())
        .unwrap_or_default();
    let same =
        conditions.iter().find(|c| c["type"] == "DisruptionAllowed" && c["status"] == status);
    let since =
        same.and_then(|c| c["lastTransitionTime"].as_str().and_then(parse_rfc3339)).unwrap_or(now);
    conditions.retain(|c| c["type"] != "DisruptionAllowed");
    conditions.push(
        json!({"type": "DisruptionAllowed", "status": status, "reason": reason, "message": "",
        "lastTransitionTime": rfc3339(since), "observedGeneration": pdb.metadata.generation}),
    );
    let new = json!({
        "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected, "disruptionsAllowed": allowed,
        "disruptedPods": if pending.is_empty() { Value::Null } else { removals(old.disrupted_pods.as_ref().map(|m| m.keys()), pending) },
        "observedGeneration": pdb.metadata.generation, "conditions": conditions,
    });
    let patch = status_patch(BUDGETS, &pdb.metadata, &old, &new);
    // The eviction subresource counts down in the same status: do not undo what it did meanwhile.
    decision.actions.extend(patch.map(|mut a| {
        if let crate::Action::Patch { patch, .. } = &mut a {
            patch["metadata"] = json!({"resourceVersion": pdb.metadata.resource_version});
        }
        a
    }));
    decision
}

/// A merge patch of a map: what is gone becomes null.
fn removals<'k>(
    old: Option<impl Iterator<Item = &'k String>>,
    new: BTreeMap<String, String>,
) -> Value {
    let mut v = json!(new);
    for k in old.into_iter().flatten().filter(|k| !new.contains_key(*k)) {
        v[k] = Value::Null;
    }
    v
}

/// How many pods the controllers of these pods want to have.
fn expected(selected: &[&Arc<PodView>], scales: &BTreeMap<String, i32>) -> i32 {
    let mut controllers: BTreeMap<&str, i32> = BTreeMap::new();
    let mut lone = 0;
    for p in selected {
        match pod::controller_uid(&p.metadata).and_then(|u| Some((u, *scales.get(u)?))) {
            Some((uid, n)) => drop(controllers.insert(uid, n)),
            None => lone += 1,
        }
    }
    controllers.values().sum::<i32>() + lone
}
