//! StatefulSet: pods with ordinals, names and volumes of their own, made and replaced in order.

use crate::{
    Action, Decision, PodView,
    action::{CLAIMS, PODS, STATEFUL_SETS, status_patch, to_value},
    pod, revision,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec},
    core::v1::Volume,
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// What is observed beside the set itself.
#[derive(Debug, Default)]
pub struct Observed<'a> {
    /// Pods that the set controls.
    pub pods: &'a [Arc<PodView>],
    /// Revisions that the set controls.
    pub revisions: &'a [Arc<ControllerRevision>],
    /// Names of the claims in its namespace.
    pub claims: &'a [String],
}

fn ordinal(pod: &PodView, set: &str) -> Option<i32> {
    pod.metadata.name.as_deref()?.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

fn pod_revision(p: &PodView) -> &str {
    p.labels().get(revision::LABEL).map_or("", String::as_str)
}

/// Decides for one StatefulSet.
pub fn decide(set: &StatefulSet, o: &Observed<'_>, now: Timestamp) -> Decision {
    let spec = &set.spec;
    let name = set.metadata.name.clone().unwrap_or_default();
    let used: Vec<String> = o.pods.iter().map(|p| pod_revision(p).to_owned()).collect();
    let history = revision::sync(
        STATEFUL_SETS,
        &set.metadata,
        &spec.template,
        o.revisions,
        spec.revision_history_limit.unwrap_or(10),
        &used,
    );
    let mut decision = Decision::of(history.actions.clone());
    let mut by_ordinal: BTreeMap<i32, &Arc<PodView>> = BTreeMap::new();
    for p in o.pods {
        if let Some(n) = ordinal(p, &name) {
            by_ordinal.insert(n, p);
        }
    }
    let start = spec.ordinals.as_ref().and_then(|x| x.start).unwrap_or(0);
    let wanted = start..start + spec.replicas.unwrap_or(1);
    let old_status = set.status.clone().unwrap_or_default();
    // Until the first rollout ends there is only one revision.
    let current = old_status
        .current_revision
        .clone()
        .filter(|r| !r.is_empty())
        .unwrap_or_else(|| history.wanted.clone());
    let current_hash = current.strip_prefix(&format!("{name}-")).unwrap_or(&current).to_owned();
    if !pod::is_deleting(&set.metadata) {
        let mut step = Step {
            set,
            spec,
            o,
            by_ordinal: &by_ordinal,
            hash: &history.hash,
            current_hash: &current_hash,
            now,
            decision: &mut decision,
        };
        step.run(&name, wanted.clone());
    }
    status(set, spec, &by_ordinal, &history, &current, &current_hash, now, &mut decision);
    decision
}

struct Step<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    o: &'a Observed<'a>,
    by_ordinal: &'a BTreeMap<i32, &'a Arc<PodView>>,
    hash: &'a str,
    current_hash: &'a str,
    now: Timestamp,
    decision: &'a mut Decision,
}

impl Step<'_> {
    fn is_available(&mut self, p: &PodView) -> bool {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        if pod::is_ready(p) && !pod::is_available(p, min_ready, self.now) {
            self.decision.look_again(
                pod::available_in(p, min_ready, self.now).unwrap_or(Duration::from_secs(1)),
            );
        }
        pod::is_available(p, min_ready, self.now)
    }

    fn run(&mut self, name: &str, wanted: std::ops::Range<i32>) {
        let ordered = self.spec.pod_management_policy.as_deref() != Some("Parallel");
        let partition = self.partition();
        for n in wanted.clone() {
            match self.by_ordinal.get(&n).copied() {
                None => {
                    let hash = if n < partition + wanted.start {
                        self.current_hash.to_owned()
                    } else {
                        self.hash.to_owned()
                    };
                    self.create(name, n, &hash);
                    if ordered {
                        return;
                    }
                }
                // A pod that ended is replaced once it is gone.
                Some(p) if pod::is_finished(p) && !pod::is_deleting(&p.metadata) => {
                    self.decision.actions.push(Action::delete(PODS, &p.metadata));
                    if ordered {
                        return;
                    }
                }
                Some(p) if ordered && (pod::is_deleting(&p.metadata) || !self.is_available(p)) => {
                    return self.break_stuck(p, partition, &wanted);
                }
                Some(_) => {}
            }
        }
        // Scale down, the highest ordinal first.
        for (_, p) in self.by_ordinal.iter().rev().filter(|(n, _)| !wanted.contains(n)) {
            if pod::is_deleting(&p.metadata) {
                if ordered {
                    return;
                }
                continue;
            }
            self.decision.actions.push(Action::delete(PODS, &p.metadata));
            if ordered {
                return;
            }
        }
        self.update(&wanted, partition);
    }

    fn partition(&self) -> i32 {
        self.spec
            .update_strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref())
            .and_then(|r| r.partition)
            .unwrap_or(0)
    }

    fn rolls(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    /// A pod of an old revision that never became ready must not block its own repair.
    fn break_stuck(&mut self, p: &PodView, partition: i32, wanted: &std::ops::Range<i32>) {
        let outdated = pod_revision(p) != self.hash
            && ordinal(p, self.set.metadata.name.as_deref().unwrap_or(""))
                .is_some_and(|n| n >= wanted.start + partition);
        if self.rolls() && outdated && !pod::is_deleting(&p.metadata) && !pod::is_ready(p) {
            self.decision.actions.push(Action::delete(PODS, &p.metadata));
        }
    }

    /// Replaces pods of old revisions, the highest ordinal first, one at a time.
    fn update(&mut self, wanted: &std::ops::Range<i32>, partition: i32) {
        if !self.rolls() {
            return;
        }
        for n in (wanted.start + partition..wanted.end).rev() {
            let Some(p) = self.by_ordinal.get(&n).copied() else { return };
            if pod::is_deleting(&p.metadata) {
                return;
            }
            if pod_revision(p) != self.hash {
                return self.decision.actions.push(Action::delete(PODS, &p.metadata));
            }
            if !self.is_available(p) {
                return;
            }
        }
    }

    fn create(&mut self, name: &str, n: i32, hash: &str) {
        let pod_name = format!("{name}-{n}");
        // A pod below the partition gets the template of its revision, as far as it is known.
        let template = (hash != self.hash)
            .then(|| {
                self.o.revisions.iter().find(|r| {
                    r.metadata
                        .labels
                        .as_ref()
                        .and_then(|l| l.get(revision::LABEL))
                        .is_some_and(|h| h == hash)
                })
            })
            .flatten()
            .and_then(|r| serde_json::from_value(r.data.0["spec"]["template"].clone()).ok())
            .unwrap_or_else(|| self.spec.template.clone());
        let mut p = pod::from_template(&template, STATEFUL_SETS, &self.set.metadata);
        p.metadata.generate_name = None;
        p.metadata.name = Some(pod_name.clone());
        let mut labels = pod::with_label(p.metadata.labels.as_ref(), revision::LABEL, hash);
        labels.insert("statefulset.kubernetes.io/pod-name".into(), pod_name.clone());
        labels.insert("apps.kubernetes.io/pod-index".into(), n.to_string());
        p.metadata.labels = Some(labels);
        let namespace = self.set.metadata.namespace.clone().unwrap_or_default();
        if let Some(spec) = &mut p.spec {
            spec.hostname = Some(pod_name.clone());
            spec.subdomain = self.spec.service_name.clone().filter(|s| !s.is_empty());
            for claim in self.spec.volume_claim_templates.iter().flatten() {
                let volume = claim.metadata.name.clone().unwrap_or_default();
                let claim_name = format!("{volume}-{pod_name}");
                if !self.o.claims.contains(&claim_name) {
                    let mut object = claim.clone();
                    object.metadata.name = Some(claim_name.clone());
                    object.metadata.namespace = Some(namespace.clone());
                    object.metadata.labels = self.spec.selector.match_labels.clone();
                    object.status = None;
                    self.decision.actions.push(Action::create(CLAIMS, &namespace, &object));
                }
                let source =
                    json!({"name": volume, "persistentVolumeClaim": {"claimName": claim_name}});
                if let Ok(v) = serde_json::from_value::<Volume>(source) {
                    let volumes = spec.volumes.get_or_insert_default();
                    volumes.retain(|x| x.name != v.name);
                    volumes.push(v);
                }
            }
        }
        self.decision.actions.push(Action::create(PODS, &namespace, &p));
        self.decision.actions.push(Action::normal(
            "SuccessfulCreate",
            format!("create Pod {pod_name} in StatefulSet {name} successful"),
        ));
    }
}

fn status(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    pods: &BTreeMap<i32, &Arc<PodView>>,
    history: &revision::History,
    current: &str,
    current_hash: &str,
    now: Timestamp,
    decision: &mut Decision,
) {
    let live: Vec<&PodView> =
        pods.values().map(|p| &***p).filter(|p| !pod::is_finished(p)).collect();
    let count = |f: &dyn Fn(&PodView) -> bool| live.iter().filter(|p| f(p)).count();
    let updated = count(&|p| pod_revision(p) == history.hash && !pod::is_deleting(&p.metadata));
    let ready = count(&|p| pod::is_ready(p));
    let replicas = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    // The rollout is over when every pod has the wanted revision and is ready.
    let done = updated == replicas && live.len() == replicas && ready == replicas;
    let settled = if done { history.wanted.as_str() } else { current };
    let on_current = if done { updated } else { count(&|p| pod_revision(p) == current_hash) };
    let some = |n: usize| if n == 0 { json!(null) } else { json!(n) };
    let new = json!({
        "replicas": live.len(), "readyReplicas": some(ready),
        "availableReplicas": count(&|p| pod::is_available(p, spec.min_ready_seconds.unwrap_or(0), now)),
        "currentReplicas": some(on_current), "updatedReplicas": some(updated),
        "currentRevision": settled, "updateRevision": history.wanted,
        "collisionCount": 0, "observedGeneration": set.metadata.generation,
    });
    let old = to_value(&set.status.clone().unwrap_or_default());
    decision.actions.extend(status_patch(STATEFUL_SETS, &set.metadata, &old, &new));
}
