//! The end of a NodeClaim: its node is tainted and drained, volumes are let go, the machine ends, and
//! the objects go.

use super::{
    CLAIMS, Shared,
    lifecycle::{is_daemon, outlives},
};
use crate::{
    api::{Error, path},
    karpenter::{
        API, DISRUPTED, DO_NOT_DISRUPT, FINALIZER, TERMINATION, duration, is_true, pool_of,
        provider_id,
    },
    simulation::DEADLINE,
};
use coracle_clouds::Ended;
use coracle_meta::time::{parse_rfc3339, rfc3339};
use coracle_provisioning::drain::{self, Leaving, Step};
use coracle_workloads::{PodView, action, pod};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// A drain that waits for pods looks again after this.
const DRAIN_AGAIN: Duration = Duration::from_millis(250);
/// A machine that is ending is looked at again after this.
const ENDING: Duration = Duration::from_secs(2);
/// Time that a pod has to end, if it says nothing.
const GRACE: i64 = 30;
/// Label that takes a node out of the cloud's load balancers.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

impl Shared {
    /// Taints and drains the node, ends the machine, and lets the objects go.
    pub(super) async fn end(
        &self,
        claim: &DynamicObject,
        node: Option<&Node>,
    ) -> Result<Option<Duration>, Error> {
        let name = claim.metadata.name.clone().unwrap_or_default();
        if !claim.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        if let Some(node) = node {
            if let Some(again) = self.empty(claim, node).await? {
                return Ok(Some(again));
            }
        }
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        match self.cloud.terminate(provider_id(claim), uid).await {
            Ok(Ended::Gone) => {}
            Ok(Ended::Going) => return Ok(Some(self.real(ENDING))),
            Err(e) => {
                let said = format!("the machine could not be ended: {e}");
                self.writer
                    .event(&claim.metadata, CLAIMS, "Warning", "FailedTermination", &said)
                    .await;
                return Err(Error::Request(e.to_string()));
            }
        }
        if let Some(node) = node {
            self.let_node_go(node).await?;
            self.metrics.count("karpenter_nodes_terminated_total", &[("nodepool", pool_of(claim))]);
            self.going.lock().remove(node.metadata.name.as_deref().unwrap_or_default());
        }
        let rest: Vec<&String> =
            claim.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
        let patch = json!({"metadata": {"finalizers": rest}});
        self.metrics
            .count("karpenter_nodeclaims_terminated_total", &[("nodepool", pool_of(claim))]);
        match self.writer.patch(&path(API, "nodeclaims", "", &name, ""), &patch).await {
            Err(e) if e.code() != Some(404) => Err(e),
            _ => Ok(None),
        }
    }

    /// Moves everything off a node whose machine still runs. Returns when to look again, or `None` if
    /// the machine may end.
    async fn empty(&self, claim: &DynamicObject, node: &Node) -> Result<Option<Duration>, Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let interrupted =
            node.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(DEADLINE));
        if self.cloud.machine(provider_id(claim)).is_none() {
            let found_again = is_true(claim, "InstanceTerminating") || interrupted;
            // Machines of an earlier process are found again in its first moments.
            return Ok((!found_again && self.is_young()).then_some(DRAIN_AGAIN));
        }
        self.taint(node, true).await?;
        let left = self.time_left(claim).await?;
        let over = left.is_some_and(|l| l.is_zero());
        if !self.drain(name, left).await? && !over {
            return Ok(Some(DRAIN_AGAIN));
        }
        if !over && self.has_volumes(name).await? {
            return Ok(Some(DRAIN_AGAIN));
        }
        if !is_true(claim, "InstanceTerminating") {
            let done = ["Drained", "VolumesDetached", "InstanceTerminating"];
            self.set_claim(claim, &done, Value::Null).await?;
        }
        Ok(None)
    }

    /// With the machine gone, what is left on its node is gone too, and so is the node.
    async fn let_node_go(&self, node: &Node) -> Result<(), Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        for p in self.pods_on(name) {
            self.delete_pod(&p, 0).await?;
        }
        let rest: Vec<&String> =
            node.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
        let at = path("v1", "nodes", "", name, "");
        let patched = self.writer.patch(&at, &json!({"metadata": {"finalizers": rest}})).await;
        let deleted = self.writer.send("DELETE", &at, "application/json", &Value::Null).await;
        for result in [patched, deleted] {
            match result {
                Err(e) if e.code() != Some(404) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// The time until a claim's deadline, if it has one. The deadline is written down once, so that it
    /// stays where it is, and can be brought forward.
    async fn time_left(&self, claim: &DynamicObject) -> Result<Option<Duration>, Error> {
        let now = Timestamp::now();
        let noted = claim.metadata.annotations.as_ref().and_then(|a| a.get(TERMINATION));
        let deadline = match (
            noted.and_then(|t| parse_rfc3339(t)),
            duration(&claim.data["spec"]["terminationGracePeriod"]),
        ) {
            (Some(t), _) => t,
            (None, None) => return Ok(None),
            (None, Some(grace)) => {
                let started = claim.metadata.deletion_timestamp.as_ref().map_or(now, |t| t.0);
                let t = started.checked_add(self.real(grace)).unwrap_or(Timestamp::MAX);
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                let note = json!({"metadata": {"annotations": {TERMINATION: rfc3339(t)}}});
                self.writer.patch(&path(API, "nodeclaims", "", name, ""), &note).await?;
                t
            }
        };
        Ok(Some(Duration::try_from(deadline.duration_since(now)).unwrap_or_default()))
    }

    /// Keeps pods away from a node; with `exclude` also the cloud's load balancers.
    pub(super) async fn taint(&self, node: &Node, exclude: bool) -> Result<(), Error> {
        let mut taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let excluded = node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDE));
        let tainted = taints.iter().any(|t| t.key == DISRUPTED);
        if tainted && (excluded || !exclude) {
            return Ok(());
        }
        taints.retain(|t| t.key != DISRUPTED);
        taints.push(k8s_openapi::api::core::v1::Taint {
            key: DISRUPTED.into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        });
        let mut meta = json!({"resourceVersion": node.metadata.resource_version});
        if exclude {
            meta["labels"] = json!({EXCLUDE: "karpenter"});
        }
        let patch = json!({"metadata": meta, "spec": {"taints": taints}});
        let at = path("v1", "nodes", "", node.metadata.name.as_deref().unwrap_or_default(), "");
        self.writer.patch(&at, &patch).await.map(drop)
    }

    /// Pods of a node that have not ended.
    pub(super) fn pods_on(&self, node: &str) -> Vec<Arc<PodView>> {
        let mut pods = self.world.pods.grouped(node);
        pods.retain(|p| !pod::is_finished(p));
        pods
    }

    /// Whether an annotation keeps a pod where it is: for ever, or for some time after its start.
    pub(super) fn is_kept(&self, p: &PodView) -> bool {
        let Some(text) = p.metadata.annotations.as_ref().and_then(|a| a.get(DO_NOT_DISRUPT)) else {
            return false;
        };
        let Some(after) = duration(&json!(text)) else { return text == "true" };
        let started = p.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let ran = started
            .map(|t| Duration::try_from(Timestamp::now().duration_since(t)).unwrap_or_default());
        ran.is_none_or(|r| r < self.real(after))
    }

    async fn delete_pod(&self, p: &PodView, grace: i64) -> Result<(), Error> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace, "preconditions": {"uid": p.metadata.uid}});
        let at = path(
            "v1",
            "pods",
            p.metadata.namespace.as_deref().unwrap_or_default(),
            p.metadata.name.as_deref().unwrap_or_default(),
            "",
        );
        match self.writer.send("DELETE", &at, "application/json", &options).await {
            Err(e) if e.code() != Some(404) && !e.is_conflict() => Err(e),
            _ => Ok(()),
        }
    }

    /// Asks what has to move to move. Returns whether nothing is left.
    async fn drain(&self, node: &str, left: Option<Duration>) -> Result<bool, Error> {
        let pods: Vec<Arc<PodView>> =
            self.pods_on(node).into_iter().filter(|p| !outlives(p) && !is_stuck(p)).collect();
        let leaving = |p: &Arc<PodView>| Leaving {
            critical: p
                .spec
                .priority_class_name
                .as_deref()
                .is_some_and(|c| c.starts_with("system-")),
            daemon: is_daemon(p),
            deleting: pod::is_deleting(&p.metadata),
            kept: self.is_kept(p),
            grace: Duration::from_secs(
                p.spec.termination_grace_period_seconds.unwrap_or(GRACE).try_into().unwrap_or(0),
            ),
        };
        let steps = drain::steps(&pods.iter().map(leaving).collect::<Vec<_>>(), left);
        for (p, step) in pods.iter().zip(steps) {
            match step {
                Step::Wait => {}
                Step::Delete(grace) => {
                    self.delete_pod(p, i64::try_from(grace.as_secs()).unwrap_or(0).max(1)).await?;
                }
                Step::Evict => self.evict(p).await?,
            }
        }
        Ok(pods.is_empty())
    }

    async fn evict(&self, p: &PodView) -> Result<(), Error> {
        let (ns, pn) = (
            p.metadata.namespace.clone().unwrap_or_default(),
            p.metadata.name.clone().unwrap_or_default(),
        );
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pn, "namespace": ns}});
        let at = path("v1", "pods", &ns, &pn, "eviction");
        let answer = self.writer.send("POST", &at, "application/json", &eviction).await;
        let code = answer.as_ref().map_or_else(|e| e.code().unwrap_or(0), |_| 201).to_string();
        self.metrics.count("karpenter_pods_eviction_requests_total", &[("code", &code)]);
        match answer {
            Ok(_) => {
                let said = "Evicted pod: the node is going";
                self.writer.event(&p.metadata, action::PODS, "Normal", "Evicted", said).await;
                Ok(())
            }
            // A budget says not yet.
            Err(e) if matches!(e.code(), Some(404 | 409 | 429)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Whether volumes are still attached to a drained node. Those of pods that stay until the end stay
    /// as well, and are not waited for.
    async fn has_volumes(&self, node: &str) -> Result<bool, Error> {
        let claims = |p: &Arc<PodView>| {
            p.spec.volumes.iter().flatten().any(|v| v.persistent_volume_claim.is_some())
        };
        if self.pods_on(node).iter().any(claims) {
            return Ok(false);
        }
        let at = path("storage.k8s.io/v1", "volumeattachments", "", "", "");
        let all = self.writer.send("GET", &at, "application/json", &Value::Null).await?;
        let items = all["items"].as_array();
        Ok(items.into_iter().flatten().any(|v| v["spec"]["nodeName"] == node))
    }
}

/// Whether a pod should have ended a minute ago: its kubelet is dead, or a finalizer holds it.
fn is_stuck(p: &PodView) -> bool {
    let since = p.metadata.deletion_timestamp.as_ref().map(|t| t.0);
    let late =
        |t: Timestamp| Timestamp::now().duration_since(t) > jiff::SignedDuration::from_mins(1);
    since.is_some_and(late)
}
