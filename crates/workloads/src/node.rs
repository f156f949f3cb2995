//! Nodes' health: taints from conditions and leases, eviction of pods from tainted nodes, and
//! removal of pods that nothing looks after any more.

use crate::{
    Action, Decision, PodView,
    action::{NODES, PODS, to_value},
    pod,
};
use coracle_meta::time::rfc3339;
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Taint},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// A node that says nothing for this long is unreachable (upstream's node-monitor-grace-period).
const GRACE_SECONDS: i64 = 40;
/// Ended pods beyond this number are removed, oldest first.
const TERMINATED_PODS: usize = 12_500;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

fn condition<'n>(node: &'n Node, kind: &str) -> Option<&'n str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str())
}

/// Decides for one node: its Ready condition when it is silent, and its taints.
pub fn decide(node: &Node, lease: Option<&Lease>, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|t| t.0);
    let heard =
        renewed.or_else(|| node.metadata.creation_timestamp.as_ref().map(|t| t.0)).unwrap_or(now);
    let silent = now.as_second() - heard.as_second();
    let mut ready = condition(node, "Ready").unwrap_or("Unknown");
    if silent > GRACE_SECONDS {
        if ready != "Unknown" {
            decision.actions.push(silence(node, now));
        }
        ready = "Unknown";
    } else {
        decision.look_again(Duration::from_secs(
            u64::try_from(GRACE_SECONDS - silent + 1).unwrap_or(1),
        ));
    }
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        "True" => {}
        "False" => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted.extend(
        PRESSURES
            .iter()
            .filter(|(c, _)| condition(node, c) == Some("True"))
            .map(|(_, t)| (*t, "NoSchedule")),
    );
    decision.actions.extend(taints(node, &wanted, now));
    decision
}

/// Sets the taints that this controller owns, leaving the others.
fn taints(node: &Node, wanted: &[(&str, &str)], now: Timestamp) -> Option<Action> {
    let have: Vec<Taint> = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let ours = |t: &Taint| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&t.key.as_str())
            || PRESSURES.iter().any(|(_, k)| *k == t.key)
    };
    let mut new: Vec<Value> = have
        .iter()
        .filter(|t| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .map(to_value)
        .collect();
    for (key, effect) in wanted {
        if !have.iter().any(|t| t.key == *key && t.effect == *effect) {
            let mut taint = json!({"key": key, "effect": effect});
            if *effect == "NoExecute" {
                taint["timeAdded"] = json!(rfc3339(now));
            }
            new.push(taint);
        }
    }
    let same = have.len() == new.len() && have.iter().map(to_value).all(|t| new.contains(&t));
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": new}});
    (!same).then(|| Action::patch(NODES, &node.metadata, "", patch))
}

fn silence(node: &Node, now: Timestamp) -> Action {
    let mut conditions: Vec<Value> = node
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .map(to_value)
        .collect();
    conditions.retain(|c| c["type"] != "Ready");
    conditions.push(json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
        "lastHeartbeatTime": rfc3339(now), "lastTransitionTime": rfc3339(now)}));
    Action::patch(NODES, &node.metadata, "status", json!({"status": {"conditions": conditions}}))
}

/// Deletes a pod whose node has a `NoExecute` taint that it does not tolerate (any more).
pub fn evict_tainted(p: &PodView, node: &Node, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if pod::is_deleting(&p.metadata) || pod::is_finished(p) {
        return decision;
    }
    let tolerations = p.spec.tolerations.as_deref().unwrap_or_default();
    let mut leave_at: Option<i64> = None;
    for t in node
        .spec
        .as_ref()
        .and_then(|s| s.taints.as_ref())
        .into_iter()
        .flatten()
        .filter(|t| t.effect == "NoExecute")
    {
        let matching: Vec<_> = tolerations
            .iter()
            .filter(|x| {
                let key = x.key.as_deref().filter(|k| !k.is_empty());
                let effect = x.effect.as_deref().filter(|e| !e.is_empty());
                let exists = x.operator.as_deref() == Some("Exists");
                key.is_none_or(|k| k == t.key)
                    && effect.is_none_or(|e| e == "NoExecute")
                    && (exists
                        || x.value.as_deref().unwrap_or("") == t.value.as_deref().unwrap_or(""))
            })
            .collect();
        let until = if matching.is_empty() {
            Some(0)
        } else {
            matching.iter().filter_map(|x| x.toleration_seconds).min()
        };
        if let Some(seconds) = until {
            let since = t.time_added.as_ref().map_or(now.as_second(), |x| x.0.as_second());
            let at = since + seconds.max(0);
            leave_at = Some(leave_at.map_or(at, |l| l.min(at)));
        }
    }
    match leave_at {
        Some(at) if at <= now.as_second() => {
            decision.actions.push(Action::normal(
                "TaintManagerEviction",
                format!(
                    "Marking for deletion Pod {}/{}",
                    p.metadata.namespace.as_deref().unwrap_or(""),
                    p.metadata.name.as_deref().unwrap_or("")
                ),
            ));
            decision.actions.push(Action::delete(PODS, &p.metadata));
        }
        Some(at) => decision
            .look_again(Duration::from_secs(u64::try_from(at - now.as_second()).unwrap_or(1))),
        None => {}
    }
    decision
}

/// Pods to remove: bound to nodes that are gone, terminating without ever having had a node, and
/// ended ones beyond the limit.
pub fn collect_pods(pods: &[Arc<PodView>], node_exists: impl Fn(&str) -> bool) -> Vec<Action> {
    let force = |p: &PodView| {
        let mut a = Action::delete(PODS, &p.metadata);
        if let Action::Delete { grace_seconds, .. } = &mut a {
            *grace_seconds = Some(0);
        }
        a
    };
    let lost = |p: &PodView| !p.node_name.is_empty() && !node_exists(&p.node_name);
    let unbound = |p: &PodView| pod::is_deleting(&p.metadata) && p.node_name.is_empty();
    let mut actions: Vec<Action> =
        pods.iter().filter(|p| lost(p) || unbound(p)).map(|p| force(p)).collect();
    let mut ended: Vec<&Arc<PodView>> =
        pods.iter().filter(|p| pod::is_finished(p) && !pod::is_deleting(&p.metadata)).collect();
    if ended.len() > TERMINATED_PODS {
        ended.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        actions.extend(ended[..ended.len() - TERMINATED_PODS].iter().map(|p| force(p)));
    }
    actions
}
