//! CronJob: start Jobs at the times of a schedule.

use crate::{
    Action, Decision,
    action::{CRON_JOBS, JOBS, controller_ref, status_patch},
    pod,
};
use coracle_meta::{cron::Schedule, time::rfc3339};
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// More missed times than this are not caught up with.
const TOO_MANY_MISSED: usize = 100;

fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"))
        .map(|c| c.type_.as_str())
}

/// Decides for one CronJob. `jobs` are those that it controls.
pub fn decide(cj: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Decision {
    let spec = &cj.spec;
    let mut decision = Decision::default();
    let (done, active): (Vec<&Arc<Job>>, Vec<&Arc<Job>>) =
        jobs.iter().partition(|j| ended(j).is_some());
    for (kind, limit) in [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut old: Vec<_> = done.iter().filter(|j| ended(j) == Some(kind)).collect();
        old.sort_by_key(|j| j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0));
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        decision.actions.extend(old[..excess].iter().map(|j| Action::delete(JOBS, &j.metadata)));
    }
    let old = cj.status.clone().unwrap_or_default();
    let mut last = old.last_schedule_time.as_ref().map(|t| t.0);
    let mut references: Vec<_> = active.iter().map(|j| json!({"apiVersion": "batch/v1", "kind": "Job", "name": j.metadata.name, "namespace": j.metadata.namespace, "uid": j.metadata.uid})).collect();
    let zone = spec.time_zone.as_deref().map_or(Ok(TimeZone::UTC), TimeZone::get);
    if let (Ok(schedule), Ok(zone), false) =
        (Schedule::parse(&spec.schedule), zone, pod::is_deleting(&cj.metadata))
    {
        if spec.suspend != Some(true) {
            if let Some(t) = due(cj, &schedule, &zone, last, now) {
                let blocked =
                    !active.is_empty() && spec.concurrency_policy.as_deref() == Some("Forbid");
                let name = format!(
                    "{}-{}",
                    cj.metadata.name.clone().unwrap_or_default(),
                    t.as_second() / 60
                );
                let exists = jobs.iter().any(|j| j.metadata.name.as_deref() == Some(&name));
                if blocked {
                    decision.actions.push(Action::normal("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid"));
                } else if !exists {
                    if spec.concurrency_policy.as_deref() == Some("Replace") {
                        decision
                            .actions
                            .extend(active.iter().map(|j| Action::delete(JOBS, &j.metadata)));
                        references.clear();
                    }
                    decision.actions.push(create(cj, &name, t));
                    decision
                        .actions
                        .push(Action::normal("SuccessfulCreate", format!("Created job {name}")));
                    last = Some(t);
                } else {
                    last = Some(t);
                }
            }
        }
        if let Some(next) = schedule.next(now, &zone) {
            let wait = next.as_millisecond() - now.as_millisecond();
            decision.look_again(Duration::from_millis(u64::try_from(wait).unwrap_or(0) + 50));
        }
    }
    let success = done
        .iter()
        .filter(|j| ended(j) == Some("Complete"))
        .filter_map(|j| j.status.as_ref()?.completion_time.as_ref().map(|t| t.0))
        .max();
    let success = success.max(old.last_successful_time.as_ref().map(|t| t.0));
    let new = json!({
        "active": if references.is_empty() { json!(null) } else { json!(references) },
        "lastScheduleTime": last.map(rfc3339), "lastSuccessfulTime": success.map(rfc3339),
    });
    decision.actions.extend(status_patch(CRON_JOBS, &cj.metadata, &old, &new));
    decision
}

/// The latest time that has come and has not been started, unless it is too late for it.
fn due(
    cj: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    last: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let spec = &cj.spec;
    let mut from = last.or(cj.metadata.creation_timestamp.as_ref().map(|t| t.0))?;
    if let Some(deadline) = spec.starting_deadline_seconds {
        from = from.max(Timestamp::from_second(now.as_second() - deadline).ok()?);
    }
    let mut latest = None;
    let mut missed = 0;
    while let Some(t) = schedule.next(from, zone).filter(|t| *t <= now) {
        latest = Some(t);
        from = t;
        missed += 1;
        if missed > TOO_MANY_MISSED && spec.starting_deadline_seconds.is_none() {
            // As upstream: far behind, only what comes from now on counts.
            from = Timestamp::from_second(now.as_second() - 3600).ok()?.max(from);
            missed = 0;
        }
    }
    latest
}

fn create(cj: &CronJob, name: &str, t: Timestamp) -> Action {
    let template = cj.spec.job_template.clone();
    let mut annotations =
        template.metadata.as_ref().and_then(|m| m.annotations.clone()).unwrap_or_default();
    annotations.insert("batch.kubernetes.io/cronjob-scheduled-timestamp".into(), rfc3339(t));
    let object = json!({
        "metadata": {"name": name, "namespace": cj.metadata.namespace, "annotations": annotations,
            "labels": template.metadata.as_ref().and_then(|m| m.labels.clone()), "ownerReferences": [controller_ref(CRON_JOBS, &cj.metadata)]},
        "spec": template.spec,
    });
    Action::create(JOBS, cj.metadata.namespace.as_deref().unwrap_or_default(), &object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(extra: serde_json::Value) -> CronJob {
        let mut v = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {}}}}});
        for (k, x) in extra.as_object().unwrap() {
            v["spec"][k] = x.clone();
        }
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn starts_one_job_a_time_and_honours_policies() {
        let now: Timestamp = "2026-01-01T00:03:10Z".parse().unwrap();
        let names = |d: &Decision| {
            d.actions
                .iter()
                .filter_map(|a| match a {
                    Action::Create { object, .. } => {
                        object["metadata"]["name"].as_str().map(str::to_owned)
                    }
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        let d = decide(&cron(json!({})), &[], now);
        assert_eq!(names(&d), [format!("c-{}", now.as_second() / 60)]);
        assert_eq!(d.again_after, Some(Duration::from_millis(50_050)));
        assert!(names(&decide(&cron(json!({"suspend": true})), &[], now)).is_empty());
        let running: Arc<Job> =
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap());
        assert!(
            names(&decide(&cron(json!({"concurrencyPolicy": "Forbid"})), &[running], now))
                .is_empty()
        );
        assert!(names(&decide(&cron(json!({"startingDeadlineSeconds": 5})), &[], now)).is_empty());
    }
}
