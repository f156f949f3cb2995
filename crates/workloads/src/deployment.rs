//! Deployment: roll pods from one template to the next through ReplicaSets.

use crate::{
    Action, Decision,
    action::{DEPLOYMENTS, REPLICA_SETS, controller_ref, status_patch, to_value},
    pod,
};
use coracle_meta::time::rfc3339;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that belong to the Deployment itself and are not copied to its ReplicaSets.
const OWN_ANNOTATIONS: [&str; 5] = [
    REVISION,
    DESIRED,
    MAX,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
];

/// Absolute number of a share of replicas.
pub fn resolve(v: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match v {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(s)) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            let scaled = percent * i64::from(total);
            let n = if up { (scaled + 99) / 100 } else { scaled / 100 };
            i32::try_from(n).unwrap_or(i32::MAX)
        }
    }
}

struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    want: i32,
    max_surge: i32,
    max_unavailable: i32,
    actions: Vec<Action>,
}

fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.replicas.unwrap_or(0)
}

fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

fn revision(meta: &ObjectMeta) -> i64 {
    meta.annotations
        .as_ref()
        .and_then(|a| a.get(REVISION))
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

/// The template without the label that tells ReplicaSets apart.
fn bare_template(t: Option<&PodTemplateSpec>) -> Value {
    let mut v = to_value(&t);
    if let Some(labels) = v["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    v
}

/// Decides for one Deployment. `sets` are the ReplicaSets that it controls.
pub fn decide(d: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Decision {
    let spec = &d.spec;
    let wanted = bare_template(Some(&spec.template));
    let mut sets: Vec<_> = sets.to_vec();
    sets.sort_by_key(|r| {
        (r.metadata.creation_timestamp.as_ref().map(|t| t.0), r.metadata.name.clone())
    });
    let new = sets.iter().find(|r| bare_template(r.spec.template.as_ref()) == wanted).cloned();
    let old = sets
        .iter()
        .filter(|r| new.as_ref().is_none_or(|n| n.metadata.uid != r.metadata.uid))
        .cloned()
        .collect();
    let want = spec.replicas.unwrap_or(1);
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let max_surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), want, true);
    let mut max_unavailable =
        resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), want, false);
    if max_surge == 0 && max_unavailable == 0 {
        max_unavailable = 1;
    }
    let mut r = Rollout {
        deployment: d,
        spec,
        new,
        old,
        want,
        max_surge,
        max_unavailable,
        actions: vec![],
    };
    if !pod::is_deleting(&d.metadata) {
        if spec.paused == Some(true) || r.is_scaling() {
            r.sync_revision();
            r.scale_proportionally();
        } else if spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            r.recreate();
        } else {
            r.roll();
        }
        r.clean_up();
    }
    let mut decision = Decision::of(std::mem::take(&mut r.actions));
    r.status(now, &mut decision);
    decision
}

impl Rollout<'_> {
    fn scale(&mut self, rs: &ReplicaSet, to: i32) {
        let from = replicas(rs);
        let annotations =
            json!({DESIRED: self.want.to_string(), MAX: (self.want + self.max_surge).to_string()});
        let have = |k: &str| {
            rs.metadata.annotations.as_ref().and_then(|a| a.get(k)).cloned().unwrap_or_default()
        };
        if from == to
            && have(DESIRED) == annotations[DESIRED].as_str().unwrap_or("")
            && have(MAX) == annotations[MAX].as_str().unwrap_or("")
        {
            return;
        }
        let patch = json!({"metadata": {"annotations": annotations, "resourceVersion": rs.metadata.resource_version}, "spec": {"replicas": to}});
        self.actions.push(Action::patch(REPLICA_SETS, &rs.metadata, "", patch));
        if from != to {
            let direction = if to > from { "up" } else { "down" };
            let name = rs.metadata.name.as_deref().unwrap_or_default();
            self.actions.push(Action::normal(
                "ScalingReplicaSet",
                format!("Scaled {direction} replica set {name} from {from} to {to}"),
            ));
        }
    }

    fn old_replicas(&self) -> i32 {
        self.old.iter().map(|r| replicas(r)).sum()
    }

    /// Whether the number of replicas changed since the ReplicaSets were last scaled.
    fn is_scaling(&self) -> bool {
        let active = self.new.iter().chain(&self.old).filter(|r| replicas(r) > 0);
        active.into_iter().any(|r| {
            let desired = r
                .metadata
                .annotations
                .as_ref()
                .and_then(|a| a.get(DESIRED))
                .and_then(|d| d.parse::<i32>().ok());
            desired.is_some_and(|d| d != self.want)
        })
    }

    /// Spreads a change of the number of replicas over the ReplicaSets of a rollout.
    fn scale_proportionally(&mut self) {
        let active: Vec<_> =
            self.new.iter().chain(&self.old).filter(|r| replicas(r) > 0).cloned().collect();
        if active.len() <= 1 {
            let only = active.first().or(self.new.as_ref()).cloned();
            if let Some(rs) = only {
                self.scale(&rs, self.want);
            }
            return;
        }
        let new_is_full = self
            .new
            .as_ref()
            .is_some_and(|n| replicas(n) == self.want && available(n) == self.want);
        if new_is_full {
            for rs in self.old.clone() {
                self.scale(&rs, 0);
            }
            return;
        }
        let total: i32 = active.iter().map(|r| replicas(r)).sum();
        let surge = if self.want > 0 { self.max_surge } else { 0 };
        let mut to_add = self.want + surge - total;
        let mut order = active;
        // Larger sets first; of equals, the newer one when growing and the older one when shrinking.
        order.sort_by_key(|r| {
            (
                std::cmp::Reverse(replicas(r)),
                if to_add > 0 { -revision(&r.metadata) } else { revision(&r.metadata) },
            )
        });
        let mut targets: Vec<(Arc<ReplicaSet>, i32)> = Vec::new();
        let whole = to_add;
        for rs in order {
            let share = (f64::from(replicas(&rs)) * f64::from(whole) / f64::from(total.max(1)))
                .round() as i32;
            let share = if whole > 0 { share.min(to_add) } else { share.max(to_add) };
            to_add -= share;
            targets.push((rs.clone(), replicas(&rs) + share));
        }
        if let Some(first) = targets.first_mut() {
            first.1 = (first.1 + to_add).max(0);
        }
        for (rs, to) in targets {
            self.scale(&rs, to);
        }
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|r| revision(&r.metadata)).max().unwrap_or(0) + 1
    }

    /// The Deployment's annotations that its ReplicaSets carry too.
    fn shared_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = self.deployment.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|k, _| !OWN_ANNOTATIONS.contains(&k.as_str()));
        annotations
    }

    /// Keeps the newest revision number on the current ReplicaSet and on the Deployment, and the
    /// Deployment's annotations on the ReplicaSet.
    fn sync_revision(&mut self) {
        let Some(new) = self.new.clone() else { return };
        let number = self.next_revision().max(revision(&new.metadata));
        let mut wanted = self.shared_annotations();
        wanted.insert(REVISION.into(), number.to_string());
        wanted.retain(|k, v| new.metadata.annotations.as_ref().and_then(|a| a.get(k)) != Some(v));
        if !wanted.is_empty() {
            let patch = json!({"metadata": {"annotations": wanted}});
            self.actions.push(Action::patch(REPLICA_SETS, &new.metadata, "", patch));
        }
        self.own_revision(number);
    }

    fn own_revision(&mut self, number: i64) {
        if revision(&self.deployment.metadata) != number {
            let patch = json!({"metadata": {"annotations": {REVISION: number.to_string()}}});
            self.actions.push(Action::patch(DEPLOYMENTS, &self.deployment.metadata, "", patch));
        }
    }

    /// Creates the ReplicaSet of the current template, or keeps its revision newest.
    fn ensure_new(&mut self, initial: i32) {
        if self.new.is_some() {
            return self.sync_revision();
        }
        let number = self.next_revision();
        let meta = &self.deployment.metadata;
        let collisions =
            self.deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let hash = pod::template_hash(&self.spec.template, collisions);
        let mut template = self.spec.template.clone();
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
        let labels = pod::with_label(labels.as_ref(), HASH, &hash);
        template.metadata.get_or_insert_default().labels = Some(labels.clone());
        let mut selector = self.spec.selector.clone();
        selector.match_labels = Some(pod::with_label(selector.match_labels.as_ref(), HASH, &hash));
        let mut annotations = self.shared_annotations();
        annotations.insert(REVISION.into(), number.to_string());
        annotations.insert(DESIRED.into(), self.want.to_string());
        annotations.insert(MAX.into(), (self.want + self.max_surge).to_string());
        let name = format!("{}-{hash}", meta.name.clone().unwrap_or_default());
        let rs = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: meta.namespace.clone(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![controller_ref(DEPLOYMENTS, meta)]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(initial),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        };
        self.actions.push(Action::create(
            REPLICA_SETS,
            meta.namespace.as_deref().unwrap_or_default(),
            &rs,
        ));
        if initial > 0 {
            self.actions.push(Action::normal(
                "ScalingReplicaSet",
                format!("Scaled up replica set {name} from 0 to {initial}"),
            ));
        }
        self.own_revision(number);
    }

    fn recreate(&mut self) {
        for rs in self.old.clone().iter().filter(|r| replicas(r) > 0) {
            self.scale(rs, 0);
        }
        // Pods of the old template must be gone before the first new one starts.
        if self.old.iter().any(|r| replicas(r) > 0 || actual(r) > 0) {
            return;
        }
        self.ensure_new(self.want);
        if let Some(new) = self.new.clone() {
            self.scale(&new, self.want);
        }
    }

    fn roll(&mut self) {
        let room = (self.want + self.max_surge - self.old_replicas()).clamp(0, self.want);
        self.ensure_new(room);
        let Some(new) = self.new.clone() else { return };
        let current = self.old_replicas() + replicas(&new);
        if replicas(&new) != self.want {
            let to = if replicas(&new) > self.want {
                self.want
            } else {
                let more = (self.want + self.max_surge - current).max(0);
                replicas(&new) + more.min(self.want - replicas(&new))
            };
            if to != replicas(&new) {
                return self.scale(&new, to);
            }
        } else {
            self.scale(&new, self.want);
        }
        self.shrink_old(&new, current);
    }

    fn shrink_old(&mut self, new: &ReplicaSet, current: i32) {
        let min_available = self.want - self.max_unavailable;
        let new_unavailable = replicas(new) - available(new);
        let mut budget = current - min_available - new_unavailable;
        let mut old: Vec<Arc<ReplicaSet>> =
            self.old.iter().filter(|r| replicas(r) > 0).cloned().collect();
        let mut targets: Vec<i32> = old.iter().map(|r| replicas(r)).collect();
        // Unhealthy replicas go first: they cost no availability.
        for (rs, target) in old.iter().zip(&mut targets) {
            let unhealthy = (replicas(rs) - available(rs)).min(budget).max(0);
            *target -= unhealthy;
            budget -= unhealthy;
        }
        let total_available: i32 = available(new) + old.iter().map(|r| available(r)).sum::<i32>();
        let mut spare = total_available - min_available;
        for (rs, target) in old.iter().zip(&mut targets) {
            let down = (*target).min(spare).min(budget.max(0)).min(available(rs)).max(0);
            *target -= down;
            spare -= down;
            budget -= down;
        }
        for (rs, target) in old.drain(..).zip(targets) {
            if target != replicas(&rs) {
                self.scale(&rs, target);
            }
        }
    }

    /// Deletes old ReplicaSets beyond the history limit, once the rollout is done.
    fn clean_up(&mut self) {
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut empty: Vec<_> = self
            .old
            .iter()
            .filter(|r| replicas(r) == 0 && actual(r) == 0 && !pod::is_deleting(&r.metadata))
            .cloned()
            .collect();
        empty.sort_by_key(|r| revision(&r.metadata));
        let excess = empty.len().saturating_sub(limit);
        self.actions
            .extend(empty[..excess].iter().map(|r| Action::delete(REPLICA_SETS, &r.metadata)));
    }

    fn status(&self, now: Timestamp, decision: &mut Decision) {
        let all: Vec<&ReplicaSet> = self.new.iter().chain(&self.old).map(|r| &**r).collect();
        let sum = |f: fn(&ReplicaSet) -> i32| all.iter().map(|r| f(r)).sum::<i32>();
        let total = sum(actual);
        let ready = sum(|r| r.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0));
        let terminating =
            sum(|r| r.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0));
        let avail = sum(available);
        let updated = self.new.as_deref().map_or(0, actual);
        let wanted_total = self.old_replicas() + self.new.as_deref().map_or(0, replicas);
        let count = |n: i32| if n == 0 { json!(null) } else { json!(n) };
        let old = self.deployment.status.clone().unwrap_or_default();
        let mut conditions = old
            .conditions
            .as_ref()
            .map(to_value)
            .and_then(|v| v.as_array().cloned())
            .unwrap_or_default();
        let minimum = avail >= self.want - self.max_unavailable;
        set_condition(
            &mut conditions,
            "Available",
            minimum,
            if minimum { "MinimumReplicasAvailable" } else { "MinimumReplicasUnavailable" },
            if minimum {
                "Deployment has minimum availability."
            } else {
                "Deployment does not have minimum availability."
            },
            now,
            false,
        );
        let complete =
            updated == self.want && total == self.want && avail == self.want && self.new.is_some();
        let progressed = updated > old.updated_replicas.unwrap_or(0)
            || total - updated < old.replicas.unwrap_or(0) - old.updated_replicas.unwrap_or(0)
            || ready > old.ready_replicas.unwrap_or(0)
            || avail > old.available_replicas.unwrap_or(0);
        let name = self.new.as_ref().and_then(|r| r.metadata.name.clone());
        if let Some(name) = name {
            self.progress(&mut conditions, &name, complete, progressed, now, decision);
        }
        let new = json!({
            "replicas": count(total), "updatedReplicas": count(updated), "readyReplicas": count(ready), "availableReplicas": count(avail),
            "unavailableReplicas": count((wanted_total - avail).max(0)), "terminatingReplicas": count(terminating),
            "observedGeneration": self.deployment.metadata.generation, "conditions": conditions,
        });
        decision.actions.extend(status_patch(DEPLOYMENTS, &self.deployment.metadata, &old, &new));
    }

    fn progress(
        &self,
        conditions: &mut Vec<Value>,
        name: &str,
        complete: bool,
        progressed: bool,
        now: Timestamp,
        decision: &mut Decision,
    ) {
        let Some(deadline) = self.spec.progress_deadline_seconds.filter(|d| *d < i32::MAX) else {
            return;
        };
        let current = conditions.iter().find(|c| c["type"] == "Progressing").cloned();
        let reason =
            current.as_ref().and_then(|c| c["reason"].as_str()).unwrap_or_default().to_owned();
        if complete {
            if reason != "NewReplicaSetAvailable" || progressed {
                set_condition(
                    conditions,
                    "Progressing",
                    true,
                    "NewReplicaSetAvailable",
                    &format!("ReplicaSet {name:?} has successfully progressed."),
                    now,
                    reason != "NewReplicaSetAvailable",
                );
            }
            return;
        }
        if self.spec.paused == Some(true) {
            return;
        }
        // A deployment that had arrived and only lost replicas is not rolling out again.
        let new_rollout = reason.is_empty()
            || (reason == "NewReplicaSetAvailable"
                && !current
                    .as_ref()
                    .is_some_and(|c| c["message"].as_str().unwrap_or("").contains(name)));
        if new_rollout {
            return set_condition(
                conditions,
                "Progressing",
                true,
                "NewReplicaSetCreated",
                &format!("Created new replica set {name:?}"),
                now,
                true,
            );
        }
        if progressed {
            return set_condition(
                conditions,
                "Progressing",
                true,
                "ReplicaSetUpdated",
                &format!("ReplicaSet {name:?} is progressing."),
                now,
                true,
            );
        }
        let since = current
            .as_ref()
            .and_then(|c| c["lastUpdateTime"].as_str())
            .and_then(coracle_meta::time::parse_rfc3339);
        let left = since.map_or(0, |s| s.as_second() + i64::from(deadline) - now.as_second());
        if reason == "NewReplicaSetAvailable" || reason == "ProgressDeadlineExceeded" {
        } else if left <= 0 {
            set_condition(
                conditions,
                "Progressing",
                false,
                "ProgressDeadlineExceeded",
                &format!("ReplicaSet {name:?} has timed out progressing."),
                now,
                true,
            );
        } else {
            decision.look_again(Duration::from_secs(u64::try_from(left).unwrap_or(1)));
        }
    }
}

fn set_condition(
    conditions: &mut Vec<Value>,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
    touch: bool,
) {
    let text = if status { "True" } else { "False" };
    let now = rfc3339(now);
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(c) => {
            let same_status = c["status"] == text;
            if same_status && c["reason"] == reason && !touch {
                return;
            }
            if !same_status {
                c["lastTransitionTime"] = json!(now);
            }
            c["status"] = json!(text);
            c["reason"] = json!(reason);
            c["message"] = json!(message);
            c["lastUpdateTime"] = json!(now);
        }
        None => conditions.push(json!({"type": kind, "status": text, "reason": reason, "message": message, "lastUpdateTime": now, "lastTransitionTime": now})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deployment(replicas: i32, image: &str, surge: &str, unavailable: &str) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"a": "b"}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})).unwrap()
    }

    /// Applies actions to a little world in which pods become ready at once.
    fn step(d: &mut Deployment, sets: &mut Vec<ReplicaSet>, now: Timestamp) -> usize {
        let arcs: Vec<Arc<ReplicaSet>> = sets.iter().cloned().map(Arc::new).collect();
        let decision = decide(d, &arcs, now);
        let mut changes = 0;
        for a in &decision.actions {
            match a {
                Action::Create { object, .. } => {
                    let mut rs: ReplicaSet = serde_json::from_value(object.clone()).unwrap();
                    rs.metadata.uid = rs.metadata.name.clone();
                    sets.push(rs);
                    changes += 1;
                }
                Action::Patch { resource, name, patch, .. } if *resource == REPLICA_SETS => {
                    let rs =
                        sets.iter_mut().find(|r| r.metadata.name.as_ref() == Some(name)).unwrap();
                    let mut v = to_value(rs);
                    merge(&mut v, patch);
                    *rs = serde_json::from_value(v).unwrap();
                    changes += 1;
                }
                Action::Patch { patch, .. } => {
                    let mut v = to_value(d);
                    merge(&mut v, patch);
                    *d = serde_json::from_value(v).unwrap();
                }
                Action::Delete { name, .. } => {
                    sets.retain(|r| r.metadata.name.as_ref() != Some(name))
                }
                Action::Event { .. } => {}
            }
        }
        for rs in sets.iter_mut() {
            let n = replicas(rs);
            let s = rs.status.get_or_insert_default();
            (s.replicas, s.ready_replicas, s.available_replicas) = (n, Some(n), Some(n));
        }
        changes
    }

    fn merge(v: &mut Value, p: &Value) {
        match (v, p) {
            (Value::Object(v), Value::Object(p)) => {
                for (k, x) in p {
                    if x.is_null() {
                        v.remove(k);
                    } else {
                        merge(v.entry(k).or_insert(Value::Null), x);
                    }
                }
            }
            (v, p) => *v = p.clone(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn rollouts_end_within_their_limits(n in 1i32..12, m in 1i32..12, surge in 0i32..4, unavailable in 0i32..4) {
            let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let (s, u) = (format!("{}%", surge * 25), format!("{}%", unavailable * 25));
            let mut d = deployment(n, "a", &s, &u);
            let mut sets = Vec::new();
            for _ in 0..20 { step(&mut d, &mut sets, now); }
            prop_assert_eq!(sets.iter().map(replicas).sum::<i32>(), n);
            d.spec.template.spec.as_mut().unwrap().containers[0].image = Some("b".into());
            let surge = resolve(Some(&IntOrString::String(s)), n, true);
            let mut unavailable = resolve(Some(&IntOrString::String(u)), n, false);
            if surge == 0 && unavailable == 0 { unavailable = 1; }
            for _ in 0..60 {
                step(&mut d, &mut sets, now);
                let total: i32 = sets.iter().map(replicas).sum();
                prop_assert!(total <= n + surge && total >= n - unavailable, "{} of {}", total, n);
            }
            prop_assert_eq!(sets.iter().filter(|r| replicas(r) > 0).count(), 1);
            prop_assert_eq!(sets.iter().map(replicas).sum::<i32>(), n);
            d.spec.replicas = Some(m);
            for _ in 0..10 { step(&mut d, &mut sets, now); }
            prop_assert_eq!(sets.iter().map(replicas).sum::<i32>(), m);
            prop_assert_eq!(step(&mut d, &mut sets, now), 0);
        }
    }
}
