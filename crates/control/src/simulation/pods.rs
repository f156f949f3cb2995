//! Pods on simulated nodes: they start, end, and stop, as their status and events tell.

use super::Kubelets;
use crate::{
    api::{Error, path},
    informer::Key,
    karpenter,
};
use coracle_clouds::Cloud;
use coracle_meta::time::rfc3339;
use coracle_workloads::{PodView, action};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// Annotation of pods: how long they run before they end.
pub(super) const RUN_DURATION: &str = "coracle.dev/run-duration";
/// Annotation of pods: how they end.
pub(super) const EXIT_CODE: &str = "coracle.dev/exit-code";
/// Pods that end run this long unless they say otherwise.
const DEFAULT_RUN: Duration = Duration::from_secs(5);
/// Containers stop within this time of being told to.
const STOP_TIME: Duration = Duration::from_secs(1);
/// Events a second, and at once: one kubelet's defaults (`eventRecordQPS`, `eventBurst`), here for
/// all of them together. What goes beyond is not recorded.
const EVENTS: (f64, f64) = (50.0, 100.0);

/// A token bucket.
#[derive(Debug, Default)]
pub(super) struct EventRate(Mutex<Option<(f64, Instant)>>);

impl EventRate {
    fn take(&self, n: usize) -> bool {
        let mut bucket = self.0.lock();
        let now = Instant::now();
        let left = bucket.map_or(EVENTS.1, |(left, at)| {
            (left + now.duration_since(at).as_secs_f64() * EVENTS.0).min(EVENTS.1)
        });
        let granted = left >= n as f64;
        *bucket = Some((if granted { left - n as f64 } else { left }, now));
        granted
    }
}

impl Kubelets {
    /// What a kubelet says of the containers of a pod that it starts or stops.
    async fn tell(&self, p: &PodView, reasons: &[&str]) {
        let stopping = reasons == ["Killing"];
        let init = p.spec.init_containers.iter().flatten().filter(|_| !stopping);
        let containers: Vec<&Container> = init.chain(&p.spec.containers).collect();
        for c in containers {
            if !self.events.take(reasons.len()) {
                return;
            }
            for reason in reasons {
                let message = match *reason {
                    "Pulled" => {
                        let image = c.image.as_deref().unwrap_or_default();
                        format!("Container image {image:?} already present on machine")
                    }
                    "Created" => format!("Created container: {}", c.name),
                    "Started" => format!("Started container {}", c.name),
                    _ => format!("Stopping container {}", c.name),
                };
                self.writer.event(&p.metadata, action::PODS, "Normal", reason, &message).await;
            }
        }
    }

    pub(super) async fn pod(&self, k: &Key) -> Result<Option<Duration>, Error> {
        let Some(p) = self.world.pods.get(&k.0, &k.1) else { return Ok(None) };
        let uid = p.metadata.uid.clone().unwrap_or_default();
        let Some(node) = self.world.nodes.get("", &p.node_name) else { return Ok(None) };
        let simulated = node
            .spec
            .as_ref()
            .and_then(|s| s.provider_id.as_deref())
            .is_some_and(|i| self.cloud.machine(i).is_some());
        if !simulated {
            return Ok(None);
        }
        let real = |d| self.cloud.settings().real(d);
        if p.metadata.deletion_timestamp.is_some() {
            let grace = Duration::from_secs(
                u64::try_from(p.metadata.deletion_grace_period_seconds.unwrap_or(0)).unwrap_or(0),
            );
            if !self.is_due(&uid, "stop") {
                self.tell(&p, &["Killing"]).await;
            }
            let left = self.until(&uid, "stop", real(grace.min(STOP_TIME)));
            if !left.is_zero() {
                return Ok(Some(left));
            }
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            let deleted = self
                .writer
                .send("DELETE", &path("v1", "pods", &k.0, &k.1, ""), "application/json", &options)
                .await;
            self.forget(&uid);
            return match deleted {
                Err(e) if e.code() != Some(404) && !e.is_conflict() => Err(e),
                _ => Ok(None),
            };
        }
        match p.phase.as_str() {
            "Pending" => {
                let left = self.until(&uid, "start", real(self.cloud.settings().pod_start));
                if left.is_zero() {
                    self.report(&p, &node, None).await?;
                    self.tell(&p, &["Pulled", "Created", "Started"]).await;
                }
                Ok((!left.is_zero()).then_some(left))
            }
            "Running" if p.spec.restart_policy.as_deref() != Some("Always") => {
                let annotation =
                    |a: &str| p.metadata.annotations.as_ref().and_then(|m| m.get(a)).cloned();
                let run = annotation(RUN_DURATION)
                    .and_then(|d| karpenter::duration(&json!(d)))
                    .unwrap_or(DEFAULT_RUN);
                let left = self.until(&uid, "end", real(run));
                if left.is_zero() {
                    let code = annotation(EXIT_CODE).and_then(|c| c.parse().ok()).unwrap_or(0);
                    self.report(&p, &node, Some(code)).await?;
                    self.forget(&uid);
                }
                Ok((!left.is_zero()).then_some(left))
            }
            _ => Ok(None),
        }
    }

    /// Writes the status of a pod that started, or ended with a code.
    async fn report(
        &self,
        p: &PodView,
        node: &k8s_openapi::api::core::v1::Node,
        ended: Option<i32>,
    ) -> Result<(), Error> {
        let now = rfc3339(Timestamp::now());
        let started = p.started.map_or_else(|| now.clone(), rfc3339);
        let ready = ended.is_none();
        let state = |code: Option<i32>| match code {
            None => json!({"running": {"startedAt": started}}),
            Some(code) => {
                json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }, "startedAt": started, "finishedAt": now}})
            }
        };
        let container = |c: &Container, code: Option<i32>| {
            let image = c.image.clone().unwrap_or_default();
            json!({"name": c.name, "image": image, "imageID": format!("simulated://{image}"), "containerID": format!("simulated://{}/{}", p.metadata.uid.as_deref().unwrap_or(""), c.name),
                "ready": code.is_none(), "started": code.is_none(), "restartCount": 0, "state": state(code)})
        };
        let init: Vec<Value> = p
            .spec
            .init_containers
            .iter()
            .flatten()
            .map(|c| {
                let sidecar = c.restart_policy.as_deref() == Some("Always");
                container(c, if sidecar { ended } else { Some(0) })
            })
            .collect();
        let containers: Vec<Value> =
            p.spec.containers.iter().map(|c| container(c, ended)).collect();
        let host = node
            .status
            .as_ref()
            .and_then(|s| s.addresses.as_ref())
            .into_iter()
            .flatten()
            .find(|a| a.type_ == "InternalIP")
            .map(|a| a.address.clone())
            .unwrap_or_default();
        let uid = p.metadata.uid.clone().unwrap_or_default();
        let n = uid.bytes().fold(11u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        let ip = format!("10.244.{}.{}", n % 256, 1 + (n >> 8) % 250);
        let flag = |b: bool| if b { "True" } else { "False" };
        let condition = |kind: &str, on: bool, reason: &str| {
            let mut c = json!({"type": kind, "status": flag(on), "lastTransitionTime": now});
            if !on {
                c["reason"] = json!(reason);
            }
            c
        };
        let done = if ended == Some(0) { "PodCompleted" } else { "PodFailed" };
        let phase = match ended {
            None => "Running",
            Some(0) => "Succeeded",
            Some(_) => "Failed",
        };
        let mut status = json!({
            "phase": phase, "startTime": started, "hostIP": host, "hostIPs": [{"ip": host}], "podIP": ip, "podIPs": [{"ip": ip}],
            "containerStatuses": containers,
            "conditions": [condition("PodReadyToStartContainers", ready, done), condition("Initialized", true, ""), condition("Ready", ready, done), condition("ContainersReady", ready, done)],
        });
        if !init.is_empty() {
            status["initContainerStatuses"] = json!(init);
        }
        let at = path(
            "v1",
            "pods",
            p.metadata.namespace.as_deref().unwrap_or_default(),
            p.metadata.name.as_deref().unwrap_or_default(),
            "status",
        );
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        // Strategic, so that PodScheduled stays among the conditions.
        match self.writer.send("PATCH", &at, "application/strategic-merge-patch+json", &patch).await
        {
            Err(e) if e.code() != Some(404) && !e.is_conflict() => Err(e),
            _ => Ok(()),
        }
    }
}
