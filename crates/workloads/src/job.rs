//! Job: run pods to completion, with parallelism, indexes, back-off, suspension and a time to live.

use crate::{
    Action, Decision, PodView,
    action::{JOBS, PODS, status_patch, to_value},
    pod,
};
use coracle_meta::time::{parse_rfc3339, rfc3339};
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec},
    core::v1::EnvVar,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Waits after failures: 10 s doubled each time, ten minutes at most.
const BACKOFF: (i64, i64) = (10, 600);

fn index(p: &PodView) -> Option<i32> {
    p.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// Sorted numbers as upstream prints them: `1,3-5`.
pub fn ranges(set: &BTreeSet<i32>) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut items = set.iter().copied().peekable();
    while let Some(start) = items.next() {
        let mut end = start;
        while items.next_if_eq(&(end + 1)).is_some() {
            end += 1;
        }
        out.push(match end - start {
            0 => start.to_string(),
            1 => format!("{start},{end}"),
            _ => format!("{start}-{end}"),
        });
    }
    out.join(",")
}

fn parse_ranges(text: &str) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(a), Ok(b)) = (a.parse::<i32>(), b.parse::<i32>()) {
            set.extend(a..=b);
        }
    }
    set
}

struct Run<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    conditions: Vec<Value>,
    actions: Vec<Action>,
    now: Timestamp,
}

/// Decides for one Job. `pods` are those that it controls. Ended pods are counted while they are
/// there and stay until the Job goes, so no tracking finalizer is needed.
pub fn decide(job: &Job, pods: &[Arc<PodView>], now: Timestamp) -> Decision {
    let Some(spec) = &job.spec else { return Decision::default() };
    let old = job.status.clone().unwrap_or_default();
    let conditions = old
        .conditions
        .as_ref()
        .map(to_value)
        .and_then(|v| v.as_array().cloned())
        .unwrap_or_default();
    let mut r = Run { job, spec, conditions, actions: vec![], now };
    if let Some(done) = r.finished() {
        return r.expire(done, pods);
    }
    let mut decision = r.step(pods);
    decision.actions.splice(0..0, std::mem::take(&mut r.actions));
    decision
}

impl Run<'_> {
    fn has(&self, kind: &str) -> bool {
        self.conditions.iter().any(|c| c["type"] == kind && c["status"] == "True")
    }

    fn finished(&self) -> Option<Timestamp> {
        let c = self.conditions.iter().find(|c| {
            ["Complete", "Failed"].iter().any(|k| c["type"] == *k) && c["status"] == "True"
        })?;
        c["lastTransitionTime"].as_str().and_then(parse_rfc3339)
    }

    /// Deletes the Job when its time to live after the end is over.
    fn expire(&self, done: Timestamp, pods: &[Arc<PodView>]) -> Decision {
        let mut decision = Decision::default();
        decision.actions.extend(
            pods.iter().filter(|p| pod::is_active(p)).map(|p| Action::delete(PODS, &p.metadata)),
        );
        let Some(ttl) =
            self.spec.ttl_seconds_after_finished.filter(|_| !pod::is_deleting(&self.job.metadata))
        else {
            return decision;
        };
        let left = done.as_second() + i64::from(ttl) - self.now.as_second();
        if left <= 0 {
            let mut delete = Action::delete(JOBS, &self.job.metadata);
            if let Action::Delete { propagation, .. } = &mut delete {
                *propagation = "Foreground";
            }
            decision.actions.push(delete);
        } else {
            decision.look_again(Duration::from_secs(u64::try_from(left).unwrap_or(1)));
        }
        decision
    }

    fn set(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        let text = if status { "True" } else { "False" };
        if self.conditions.iter().any(|c| c["type"] == kind && c["status"] == text) {
            return;
        }
        self.conditions.retain(|c| c["type"] != kind);
        let now = rfc3339(self.now);
        self.conditions.push(json!({"type": kind, "status": text, "reason": reason, "message": message, "lastProbeTime": now, "lastTransitionTime": now}));
    }

    fn step(&mut self, pods: &[Arc<PodView>]) -> Decision {
        let mut decision = Decision::default();
        let (spec, old) = (self.spec, self.job.status.clone().unwrap_or_default());
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let active: Vec<&Arc<PodView>> = pods.iter().filter(|p| pod::is_active(p)).collect();
        let failed_pods: Vec<&Arc<PodView>> = pods.iter().filter(|p| p.phase == "Failed").collect();
        let mut completed = parse_ranges(old.completed_indexes.as_deref().unwrap_or_default());
        completed.extend(pods.iter().filter(|p| p.phase == "Succeeded").filter_map(|p| index(p)));
        let succeeded = if indexed {
            i32::try_from(completed.len()).unwrap_or(i32::MAX)
        } else {
            i32::try_from(pods.iter().filter(|p| p.phase == "Succeeded").count())
                .unwrap_or(i32::MAX)
                .max(old.succeeded.unwrap_or(0))
        };
        let failed =
            i32::try_from(failed_pods.len()).unwrap_or(i32::MAX).max(old.failed.unwrap_or(0));
        let suspended = spec.suspend == Some(true);
        let mut start = old.start_time.as_ref().map(|t| t.0);
        let mut terminate = false;
        if let Some((reason, message)) = self.failure(failed, start) {
            self.set("FailureTarget", true, reason, &message);
            self.set("Failed", true, reason, &message);
            self.actions.push(Action::warning(reason, message));
            terminate = true;
        } else if self.is_complete(succeeded, active.len()) {
            self.set(
                "SuccessCriteriaMet",
                true,
                "CompletionsReached",
                "Reached expected number of succeeded pods",
            );
            self.set(
                "Complete",
                true,
                "CompletionsReached",
                "Reached expected number of succeeded pods",
            );
            self.actions.push(Action::normal("Completed", "Job completed"));
            terminate = true;
        } else if suspended {
            if !self.has("Suspended") {
                self.set("Suspended", true, "JobSuspended", "Job suspended");
                self.actions.push(Action::normal("Suspended", "Job suspended"));
            }
            start = None;
            terminate = true;
        } else {
            if self.has("Suspended") {
                self.set("Suspended", false, "JobResumed", "Job resumed");
                self.actions.push(Action::normal("Resumed", "Job resumed"));
            }
            start = start.or(Some(self.now));
        }
        if let (Some(deadline), Some(start), false) =
            (spec.active_deadline_seconds, start, terminate)
        {
            let left = start.as_second() + deadline - self.now.as_second();
            decision.look_again(Duration::from_secs(u64::try_from(left.max(1)).unwrap_or(1)));
        }
        if terminate {
            self.actions.extend(active.iter().map(|p| Action::delete(PODS, &p.metadata)));
        } else if !pod::is_deleting(&self.job.metadata) {
            self.run_pods(&active, &failed_pods, succeeded, &completed, indexed, &mut decision);
        }
        let done = self.has("Complete");
        let some = |n: usize| if n == 0 { json!(null) } else { json!(n) };
        let left_active = if terminate { 0 } else { active.len() };
        let new = json!({
            "active": some(left_active), "ready": active.iter().filter(|p| pod::is_ready(p)).count(),
            "succeeded": some(usize::try_from(succeeded).unwrap_or(0)), "failed": some(usize::try_from(failed).unwrap_or(0)),
            "terminating": pods.iter().filter(|p| pod::is_deleting(&p.metadata) && !pod::is_finished(p)).count(),
            "completedIndexes": if indexed && !completed.is_empty() { json!(ranges(&completed)) } else { Value::Null },
            "startTime": start.map(rfc3339), "completionTime": done.then(|| rfc3339(self.now)),
            "conditions": if self.conditions.is_empty() { Value::Null } else { json!(self.conditions) },
        });
        decision.actions.extend(status_patch(JOBS, &self.job.metadata, &old, &new));
        decision
    }

    fn failure(&self, failed: i32, start: Option<Timestamp>) -> Option<(&'static str, String)> {
        if failed > self.spec.backoff_limit.unwrap_or(6) {
            return Some((
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit".into(),
            ));
        }
        let deadline = self.spec.active_deadline_seconds?;
        let over = self.spec.suspend != Some(true)
            && start.is_some_and(|s| s.as_second() + deadline <= self.now.as_second());
        over.then(|| ("DeadlineExceeded", "Job was active longer than specified deadline".into()))
    }

    fn is_complete(&self, succeeded: i32, active: usize) -> bool {
        match self.spec.completions {
            Some(n) => succeeded >= n,
            // A work queue is empty when one pod ended well and none is left.
            None => succeeded > 0 && active == 0,
        }
    }

    fn run_pods(
        &mut self,
        active: &[&Arc<PodView>],
        failed: &[&Arc<PodView>],
        succeeded: i32,
        completed: &BTreeSet<i32>,
        indexed: bool,
        decision: &mut Decision,
    ) {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            Some(n) => parallelism.min(n - succeeded),
            None if succeeded > 0 => i32::try_from(active.len()).unwrap_or(0).min(parallelism),
            None => parallelism,
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        if active.len() > wanted {
            let mut order: Vec<_> = active.to_vec();
            order.sort_by_cached_key(|p| pod::deletion_order(p));
            self.actions.extend(
                order[..active.len() - wanted].iter().map(|p| Action::delete(PODS, &p.metadata)),
            );
            return;
        }
        let missing = wanted - active.len();
        if missing == 0 {
            return;
        }
        let wait = self.backoff(failed);
        if wait > 0 {
            return decision.look_again(Duration::from_secs(u64::try_from(wait).unwrap_or(1)));
        }
        if indexed {
            let taken: BTreeSet<i32> = active.iter().filter_map(|p| index(p)).collect();
            let free = (0..self.spec.completions.unwrap_or(0))
                .filter(|i| !taken.contains(i) && !completed.contains(i));
            let new: Vec<Action> = free.take(missing).map(|i| self.create(Some(i))).collect();
            self.actions.extend(new);
        } else {
            let new = self.create(None);
            self.actions.extend(std::iter::repeat_n(new, missing.min(500)));
        }
    }

    /// Seconds to wait before the next try.
    fn backoff(&self, failed: &[&Arc<PodView>]) -> i64 {
        let Some(last) = failed.iter().filter_map(|p| ended(p)).max() else { return 0 };
        let times = u32::try_from(failed.len()).unwrap_or(1).saturating_sub(1).min(10);
        let delay = (BACKOFF.0 << times).min(BACKOFF.1);
        last.as_second() + delay - self.now.as_second()
    }

    fn create(&self, i: Option<i32>) -> Action {
        let mut p = pod::from_template(&self.spec.template, JOBS, &self.job.metadata);
        if let Some(i) = i {
            let name = self.job.metadata.name.clone().unwrap_or_default();
            p.metadata.generate_name = Some(format!("{name}-{i}-"));
            p.metadata.annotations.get_or_insert_default().insert(INDEX.into(), i.to_string());
            p.metadata.labels =
                Some(pod::with_label(p.metadata.labels.as_ref(), INDEX, &i.to_string()));
            if let Some(spec) = &mut p.spec {
                spec.hostname = Some(format!("{name}-{i}"));
                for c in &mut spec.containers {
                    let var = EnvVar {
                        name: "JOB_COMPLETION_INDEX".into(),
                        value: Some(i.to_string()),
                        value_from: None,
                    };
                    c.env.get_or_insert_default().push(var);
                }
            }
        }
        Action::create(PODS, self.job.metadata.namespace.as_deref().unwrap_or_default(), &p)
    }
}

fn ended(p: &PodView) -> Option<Timestamp> {
    p.ended.or_else(|| p.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value) -> Job {
        let mut v = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
        for (k, x) in spec.as_object().unwrap() {
            v["spec"][k] = x.clone();
        }
        serde_json::from_value(v).unwrap()
    }

    fn pod(i: i32, phase: &str) -> Arc<PodView> {
        let v = json!({"metadata": {"name": format!("p{i}"), "annotations": {INDEX: i.to_string()}}, "status": {"phase": phase,
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}]}});
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn created(d: &Decision) -> usize {
        d.actions.iter().filter(|a| matches!(a, Action::Create { .. })).count()
    }

    fn at(s: i64) -> Timestamp {
        let base: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Timestamp::from_second(base.as_second() + s).unwrap()
    }

    #[test]
    fn indexed_jobs_fill_the_gaps() {
        let j = job(json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed"}));
        let d = decide(&j, &[pod(0, "Succeeded"), pod(2, "Running")], at(0));
        let indexes: Vec<_> = d
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::Create { object, .. } => {
                    Some(object["metadata"]["annotations"][INDEX].as_str().unwrap().to_owned())
                }
                _ => None,
            })
            .collect();
        assert_eq!(indexes, ["1", "3"]);
    }

    #[test]
    fn failures_back_off_and_end() {
        let j = job(json!({"completions": 1, "parallelism": 1, "backoffLimit": 1}));
        let d = decide(&j, &[pod(0, "Failed")], at(5));
        assert_eq!((created(&d), d.again_after), (0, Some(Duration::from_secs(5))));
        assert_eq!(created(&decide(&j, &[pod(0, "Failed")], at(10))), 1);
        let d = decide(&j, &[pod(0, "Failed"), pod(1, "Failed")], at(100));
        assert!(format!("{:?}", d.actions).contains("BackoffLimitExceeded"));
    }

    #[test]
    fn suspension_stops_and_completion_ends() {
        let d =
            decide(&job(json!({"completions": 1, "suspend": true})), &[pod(0, "Running")], at(0));
        assert!(d.actions.iter().any(|a| matches!(a, Action::Delete { .. })));
        let d = decide(&job(json!({"completions": 1})), &[pod(0, "Succeeded")], at(0));
        assert!(format!("{:?}", d.actions).contains("\"Complete\""));
        assert_eq!(ranges(&BTreeSet::from([0, 1, 3, 5, 6, 7])), "0,1,3,5-7");
    }
}
