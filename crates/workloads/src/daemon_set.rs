//! DaemonSet: one pod on every node that takes it.

use crate::{
    Action, Decision, PodView,
    action::{DAEMON_SETS, PODS, status_patch},
    deployment::resolve,
    pod, revision,
};
use coracle_scheduling::{Node as ModelNode, PodSpec, predicates};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::{Node, Pod, Toleration},
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

/// Taints that daemons always live with.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The pod of a DaemonSet for a node.
pub fn daemon_pod(ds: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = ds.spec.template.clone();
    let mut p = pod::from_template(&template, DAEMON_SETS, &ds.metadata);
    p.metadata.labels = Some(pod::with_label(p.metadata.labels.as_ref(), revision::LABEL, hash));
    if let Some(spec) = &mut p.spec {
        let tolerations = spec.tolerations.get_or_insert_default();
        for (key, effect) in TOLERATED {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some(effect.into()),
                ..Toleration::default()
            });
        }
        // The scheduler binds it; this pins it to its node.
        let term =
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
        let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
        let required =
            affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
        if required.node_selector_terms.is_empty() {
            required.node_selector_terms =
                serde_json::from_value(json!([term])).unwrap_or_default();
        } else {
            for t in &mut required.node_selector_terms {
                t.match_fields = serde_json::from_value(term["matchFields"].clone()).ok();
            }
        }
    }
    p
}

/// Whether a node takes the daemon: (a pod is made, a running one may stay).
fn wanted(daemon: &PodSpec, node: &Node) -> (bool, bool) {
    let model = ModelNode::from_node(node);
    let fits = predicates::node_affinity(daemon, &model).is_ok();
    let evicts = model
        .taints
        .iter()
        .any(|t| t.effect == "NoExecute" && !daemon.tolerates(&t.key, &t.value, &t.effect));
    (fits && predicates::taints(daemon, &model).is_ok(), fits && !evicts)
}

/// Decides for one DaemonSet. `pods` and `revisions` are those that it controls.
pub fn decide(
    ds: &DaemonSet,
    pods: &[Arc<PodView>],
    nodes: &[Arc<Node>],
    revisions: &[Arc<ControllerRevision>],
    now: Timestamp,
) -> Decision {
    let spec = &ds.spec;
    let of = |p: &PodView| p.labels().get(revision::LABEL).cloned().unwrap_or_default();
    let used: Vec<String> = pods.iter().map(|p| of(p)).collect();
    let history = revision::sync(
        DAEMON_SETS,
        &ds.metadata,
        &spec.template,
        revisions,
        spec.revision_history_limit.unwrap_or(10),
        &used,
    );
    let mut decision = Decision::of(history.actions);
    let mut by_node: BTreeMap<String, Vec<&Arc<PodView>>> = BTreeMap::new();
    for p in pods {
        by_node.entry(target(p)).or_default().push(p);
    }
    let namespace = ds.metadata.namespace.clone().unwrap_or_default();
    let deleting = pod::is_deleting(&ds.metadata);
    let (mut desired, mut current, mut misscheduled, mut ready, mut available, mut updated) =
        (0, 0, 0, 0, 0, 0);
    let mut outdated = Vec::new();
    for node in nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let (should, may_stay) =
            wanted(&PodSpec::from_pod(&daemon_pod(ds, &name, &history.hash)), node);
        let here = by_node.remove(&name).unwrap_or_default();
        let live: Vec<_> = here.iter().filter(|p| !pod::is_finished(p)).copied().collect();
        desired += i32::from(should);
        current += i32::from(should && !live.is_empty());
        misscheduled += i32::from(!should && !live.is_empty());
        if deleting {
            continue;
        }
        let ended = here.iter().filter(|p| pod::is_finished(p) && !pod::is_deleting(&p.metadata));
        decision.actions.extend(ended.map(|p| Action::delete(PODS, &p.metadata)));
        if should && live.is_empty() && here.is_empty() {
            decision.actions.push(Action::create(
                PODS,
                &namespace,
                &daemon_pod(ds, &name, &history.hash),
            ));
        }
        if !may_stay {
            decision.actions.extend(
                live.iter()
                    .filter(|p| !pod::is_deleting(&p.metadata))
                    .map(|p| Action::delete(PODS, &p.metadata)),
            );
            continue;
        }
        // Of several, the oldest stays.
        let mut sorted = live.clone();
        sorted.sort_by_key(|p| {
            (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.name.clone())
        });
        decision.actions.extend(
            sorted
                .iter()
                .skip(1)
                .filter(|p| !pod::is_deleting(&p.metadata))
                .map(|p| Action::delete(PODS, &p.metadata)),
        );
        if let Some(p) = sorted.first().filter(|_| should) {
            ready += i32::from(pod::is_ready(p));
            available += i32::from(pod::is_available(p, spec.min_ready_seconds.unwrap_or(0), now));
            if of(p) == history.hash {
                updated += 1;
            } else if !pod::is_deleting(&p.metadata) {
                outdated.push(*p);
            }
        }
    }
    // Pods of nodes that are gone.
    decision.actions.extend(
        by_node
            .values()
            .flatten()
            .filter(|p| !pod::is_deleting(&p.metadata))
            .map(|p| Action::delete(PODS, &p.metadata)),
    );
    if !deleting
        && spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    {
        let rolling = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let unavailable =
            resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), desired, true).max(1);
        let budget = usize::try_from(unavailable - (desired - available)).unwrap_or(0);
        // Pods that do not work cost nothing to replace.
        let (broken, working): (Vec<_>, Vec<_>) =
            outdated.into_iter().partition(|p| !pod::is_ready(p));
        let replaced = broken.into_iter().chain(working.into_iter().take(budget));
        decision.actions.extend(replaced.map(|p| Action::delete(PODS, &p.metadata)));
    }
    let some = |n: i32| if n == 0 { json!(null) } else { json!(n) };
    let new = json!({
        "desiredNumberScheduled": desired, "currentNumberScheduled": current, "numberMisscheduled": misscheduled,
        "numberReady": ready, "numberAvailable": some(available), "numberUnavailable": some(desired - available),
        "updatedNumberScheduled": some(updated), "observedGeneration": ds.metadata.generation,
    });
    decision.actions.extend(status_patch(
        DAEMON_SETS,
        &ds.metadata,
        &ds.status.clone().unwrap_or_default(),
        &new,
    ));
    decision
}

/// The node that a daemon's pod is on or meant for.
fn target(p: &PodView) -> String {
    if !p.node_name.is_empty() {
        return p.node_name.clone();
    }
    p.asks.node_terms.iter().find_map(|(_, n)| n.clone()).unwrap_or_default()
}
