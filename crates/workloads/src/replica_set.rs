//! ReplicaSet: keep a number of pods.

use crate::{
    Action, Decision, PodView,
    action::{PODS, REPLICA_SETS, status_patch},
    pod,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Most pods created or deleted at once; the rest follows when these are seen.
pub const BURST: usize = 500;

/// Decides for one ReplicaSet. `pods` are those in its namespace that it controls or that have no
/// controller.
pub fn decide(rs: &ReplicaSet, pods: &[Arc<PodView>], now: Timestamp) -> Decision {
    let spec = &rs.spec;
    let Some(uid) = &rs.metadata.uid else { return Decision::default() };
    let Some(selector) = pod::selector(&spec.selector) else { return Decision::default() };
    let mut decision = Decision::default();
    let deleting = pod::is_deleting(&rs.metadata);
    let mut owned = Vec::new();
    for p in pods {
        let matches = selector.matches_map(Some(p.labels()));
        match pod::controller_uid(&p.metadata) {
            Some(u) if u == uid && matches => owned.push(p.clone()),
            Some(u) if u == uid && !deleting => decision.actions.push(release(p, uid)),
            None if matches && pod::is_active(p) && !deleting => {
                decision.actions.push(adopt(p, rs));
                owned.push(p.clone());
            }
            _ => {}
        }
    }
    let mut active: Vec<&Arc<PodView>> = owned.iter().filter(|p| pod::is_active(p)).collect();
    let want = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !deleting {
        if let Some(missing) = want.checked_sub(active.len()).filter(|n| *n > 0) {
            let template = spec.template.clone().unwrap_or_default();
            let new = Action::create(
                PODS,
                &namespace(rs),
                &pod::from_template(&template, REPLICA_SETS, &rs.metadata),
            );
            decision.actions.extend(std::iter::repeat_n(new, missing.min(BURST)));
        } else if active.len() > want {
            active.sort_by_cached_key(|p| pod::deletion_order(p));
            let excess = (active.len() - want).min(BURST);
            decision
                .actions
                .extend(active[..excess].iter().map(|p| Action::delete(PODS, &p.metadata)));
        }
    }
    status(rs, &owned, now, &mut decision);
    decision
}

fn namespace(rs: &ReplicaSet) -> String {
    rs.metadata.namespace.clone().unwrap_or_default()
}

fn adopt(p: &PodView, rs: &ReplicaSet) -> Action {
    let mut owners = p.metadata.owner_references.clone().unwrap_or_default();
    owners.push(crate::action::controller_ref(REPLICA_SETS, &rs.metadata));
    Action::patch(
        PODS,
        &p.metadata,
        "",
        json!({"metadata": {"uid": p.metadata.uid, "ownerReferences": owners}}),
    )
}

fn release(p: &PodView, uid: &str) -> Action {
    let mut owners = p.metadata.owner_references.clone().unwrap_or_default();
    owners.retain(|o| o.uid != uid);
    Action::patch(
        PODS,
        &p.metadata,
        "",
        json!({"metadata": {"uid": p.metadata.uid, "ownerReferences": owners}}),
    )
}

fn status(rs: &ReplicaSet, owned: &[Arc<PodView>], now: Timestamp, decision: &mut Decision) {
    let spec = &rs.spec;
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels = spec
        .template
        .as_ref()
        .and_then(|t| t.metadata.as_ref())
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    let active: Vec<_> = owned.iter().filter(|p| pod::is_active(p)).collect();
    let labelled = |p: &PodView| template_labels.iter().all(|(k, v)| p.labels().get(k) == Some(v));
    let ready = active.iter().filter(|p| pod::is_ready(p)).count();
    let available = active.iter().filter(|p| pod::is_available(p, min_ready, now)).count();
    if available < ready {
        let soonest = active
            .iter()
            .filter_map(|p| pod::available_in(p, min_ready, now))
            .filter(|d| !d.is_zero())
            .min();
        decision.look_again(soonest.unwrap_or(Duration::from_secs(1)));
    }
    let count = |n: usize| if n == 0 { json!(null) } else { json!(n) };
    let terminating =
        owned.iter().filter(|p| pod::is_deleting(&p.metadata) && !pod::is_finished(p)).count();
    let new = json!({
        "replicas": active.len(),
        "fullyLabeledReplicas": count(active.iter().filter(|p| labelled(p)).count()),
        "readyReplicas": count(ready),
        "availableReplicas": count(available),
        "terminatingReplicas": count(terminating),
        "observedGeneration": rs.metadata.generation,
    });
    let old = rs.status.clone().unwrap_or_default();
    decision.actions.extend(status_patch(REPLICA_SETS, &rs.metadata, &old, &new));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "rs", "namespace": "n", "uid": "u"}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}}})).unwrap()
    }

    fn pods(n: usize, ready: usize) -> Vec<Arc<PodView>> {
        let one = |i: usize| {
            json!({"metadata": {"name": format!("p{i}"), "namespace": "n", "labels": {"a": "b"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true}]},
            "spec": {"nodeName": "x", "containers": []}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if i < ready { "True" } else { "False" },
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
        };
        (0..n).map(|i| Arc::new(serde_json::from_value(one(i)).unwrap())).collect()
    }

    fn names(d: &Decision) -> (usize, Vec<String>) {
        let created = d.actions.iter().filter(|a| matches!(a, Action::Create { .. })).count();
        let deleted = d
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::Delete { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        (created, deleted)
    }

    #[test]
    fn scales_both_ways_and_gives_up_unready_pods_first() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(names(&decide(&set(5), &pods(2, 2), now)), (3, vec![]));
        assert_eq!(
            names(&decide(&set(2), &pods(4, 2), now)),
            (0, vec!["p2".to_owned(), "p3".to_owned()])
        );
        let d = decide(&set(3), &pods(3, 2), now);
        assert_eq!(names(&d), (0, vec![]));
        let Action::Patch { patch, .. } = &d.actions[0] else { panic!() };
        assert_eq!(
            (&patch["status"]["replicas"], &patch["status"]["readyReplicas"]),
            (&json!(3), &json!(2))
        );
    }

    #[test]
    fn adopts_orphans_and_releases_strangers() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut all = pods(2, 2);
        let mut orphan = PodView::clone(&all[0]);
        orphan.metadata.owner_references = None;
        let mut stranger = PodView::clone(&all[1]);
        Arc::make_mut(&mut Arc::make_mut(&mut stranger.asks).class).labels.clear();
        all = vec![Arc::new(orphan), Arc::new(stranger)];
        let d = decide(&set(1), &all, now);
        assert_eq!(
            d.actions.iter().filter(|a| matches!(a, Action::Patch { subresource: "", .. })).count(),
            2
        );
        assert_eq!(names(&d), (0, vec![]));
    }
}
