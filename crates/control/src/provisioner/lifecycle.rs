//! A NodeClaim's life: launch, registration, initialization, expiry, drain, end.

use super::{CLAIMS, Shared};
use crate::{
    Stop,
    api::{Error, path},
    informer::{Key, key},
    karpenter::{
        API, DISRUPTED, FINALIZER, PRICE, RESERVATION, UNREGISTERED, condition, duration, is_true,
        pool_of, text, with_condition,
    },
    queue::Queue,
    simulation::DEADLINE,
};
use coracle_clouds::{CapacityType, Launch, LaunchError, Launched, Machine};
use coracle_meta::time::parse_rfc3339;
use coracle_provisioning::offering::{CAPACITY_TYPE, INSTANCE_TYPE, ZONE};
use coracle_workloads::PodView;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// A machine whose node has not appeared after this is given up, as Karpenter.
const REGISTRATION: Duration = Duration::from_secs(15 * 60);

/// A launch that did not succeed by then is given up, as Karpenter.
const LAUNCH: Duration = Duration::from_secs(5 * 60);

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    shared.karpenter.claims.on_change(move |c| c.new.iter().for_each(|o| q.add(key(&***o))));
    let (q, s) = (queue.clone(), shared.clone());
    shared.world.nodes.on_change(move |c| {
        let id = c.object().and_then(|n| n.spec.as_ref()?.provider_id.clone());
        let claims = id.map(|id| s.karpenter.claims.grouped(&id)).unwrap_or_default();
        claims.iter().for_each(|c| q.add(key(&**c)));
    });
    let (q, s) = (queue.clone(), shared.clone());
    shared.world.pods.on_change(move |c| {
        // Only a node that is going waits for its pods.
        let Some(p) = c.object() else { return };
        let claim = s.claim_of(&p.node_name);
        let going = claim.filter(|c| c.metadata.deletion_timestamp.is_some());
        going.iter().for_each(|c| q.add(key(&**c)));
    });
    let shared = shared.clone();
    queue.work("nodeclaim-lifecycle", 16, stop, tasks, move |k| {
        let shared = shared.clone();
        async move {
            shared.synced().await;
            shared.look(&k.1).await
        }
    });
}

impl Shared {
    async fn look(&self, name: &str) -> Result<Option<Duration>, Error> {
        let Some(claim) = self.karpenter.claims.get("", name) else { return Ok(None) };
        let node = self.node_of(&claim);
        if claim.metadata.deletion_timestamp.is_some() {
            return self.end(&claim, node.as_deref()).await;
        }
        if !is_true(&claim, "Launched") {
            return self.launch(&claim).await;
        }
        let age = age_of(&claim);
        let Some(node) = node else {
            let limit = self.real(REGISTRATION);
            let gone = is_true(&claim, "Registered");
            if gone || age >= limit {
                let why =
                    if gone { "its node is gone" } else { "its node did not register in time" };
                self.writer
                    .event(&claim.metadata, CLAIMS, "Warning", "FailedRegistration", why)
                    .await;
                self.delete_claim(&claim).await?;
                return Ok(None);
            }
            return Ok(Some(limit - age));
        };
        if node.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(DEADLINE)) {
            // What was taken back is not bought again for a while.
            let label = |k: &str| {
                claim.metadata.labels.as_ref().and_then(|l| l.get(k)).cloned().unwrap_or_default()
            };
            if let Some(c) = CapacityType::parse(&label(CAPACITY_TYPE)) {
                self.set_unavailable(vec![(label(INSTANCE_TYPE).into(), label(ZONE).into(), c)]);
            }
            self.writer
                .event(
                    &claim.metadata,
                    CLAIMS,
                    "Warning",
                    "SpotInterrupted",
                    "the machine is being taken back; its pods move",
                )
                .await;
            self.delete_claim(&claim).await?;
            return Ok(None);
        }
        if node.metadata.deletion_timestamp.is_some() {
            // Somebody deleted the node: its machine goes with it.
            self.delete_claim(&claim).await?;
            return Ok(None);
        }
        if !is_true(&claim, "Registered") {
            self.register(&claim, &node).await?;
            return Ok(None);
        }
        if !is_true(&claim, "Initialized") {
            self.initialize(&claim, &node).await?;
        }
        let Some(expiry) = duration(&claim.data["spec"]["expireAfter"]) else { return Ok(None) };
        let expiry = self.real(expiry);
        if age >= expiry {
            self.writer
                .event(&claim.metadata, CLAIMS, "Normal", "Expired", "the node has reached its age")
                .await;
            self.delete_claim(&claim).await?;
            return Ok(None);
        }
        Ok(Some(expiry - age))
    }

    pub(super) async fn delete_claim(&self, claim: &DynamicObject) -> Result<(), Error> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": claim.metadata.uid}});
        match self
            .writer
            .send("DELETE", &path(API, "nodeclaims", "", name, ""), "application/json", &options)
            .await
        {
            Err(e) if e.code() != Some(404) => Err(e),
            Ok(v) => {
                let revision = v["metadata"]["resourceVersion"]
                    .as_str()
                    .and_then(|r| r.parse().ok())
                    .unwrap_or(0);
                let _ = tokio::time::timeout(
                    Duration::from_secs(5),
                    self.karpenter.claims.seen(revision),
                )
                .await;
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    async fn launch(&self, claim: &DynamicObject) -> Result<Option<Duration>, Error> {
        let request = self.request(claim);
        let error = match self.cloud.launch(&request).await {
            Ok(Launched { machine, refused }) => {
                self.set_unavailable(refused);
                self.launched(claim, &machine).await?;
                return Ok(None);
            }
            Err(error) => error,
        };
        let kind = match &error {
            LaunchError::NoCapacity(_) => "InsufficientCapacityError",
            LaunchError::NoSuchType => "NoCompatibleInstanceTypes",
            LaunchError::ClassNotReady(_) => "NodeClassNotReady",
            LaunchError::Unsure(_) => "LaunchFailed",
        };
        self.metrics.count("karpenter_cloudprovider_errors_total", &[("error", kind)]);
        let young = age_of(claim) < self.real(LAUNCH);
        if let (LaunchError::Unsure(e), true) = (&error, young) {
            // A machine may run: the same is asked for again, and finds it.
            self.note_launch(claim, &e.to_string()).await?;
            return Err(Error::Request(e.to_string()));
        }
        if let LaunchError::NoCapacity(refused) = &error {
            self.set_unavailable(refused.clone());
        }
        let said = format!("NodeClaim {} event: {error}", request.name);
        self.writer.event(&claim.metadata, CLAIMS, "Warning", kind, &said).await;
        self.delete_claim(claim).await?;
        self.wake_provision.notify_one();
        Ok(None)
    }

    /// What is asked of the cloud for a claim.
    fn request(&self, claim: &DynamicObject) -> Launch {
        let spec = &claim.data["spec"];
        Launch {
            name: claim.metadata.name.clone().unwrap_or_default(),
            uid: claim.metadata.uid.clone().unwrap_or_default(),
            pool: pool_of(claim).to_owned(),
            class: text(&spec["nodeClassRef"]["name"]),
            offerings: self.offerings(claim),
            claim: json!({"metadata": claim.metadata, "spec": spec}),
        }
    }

    /// Says on a claim why it is not launched yet.
    async fn note_launch(&self, claim: &DynamicObject, why: &str) -> Result<(), Error> {
        let now = Timestamp::now();
        let Some(all) = with_condition(claim, "Launched", false, "LaunchFailed", why, now) else {
            return Ok(());
        };
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"status": {"conditions": all}});
        self.writer.patch(&path(API, "nodeclaims", "", name, "status"), &patch).await.map(drop)
    }

    async fn launched(&self, claim: &DynamicObject, m: &Arc<Machine>) -> Result<(), Error> {
        let name = &m.name;
        let catalogue = self.catalogue(&claim.data["spec"]["nodeClassRef"]);
        let known = catalogue.as_ref().and_then(|all| all.get(&m.instance_type));
        let mut labels = known.map(|t| (*t.labels).clone()).unwrap_or_default();
        labels.insert(INSTANCE_TYPE.into(), m.instance_type.to_string());
        labels.insert(ZONE.into(), m.zone.to_string());
        labels.insert(CAPACITY_TYPE.into(), m.capacity_type.to_string());
        if let Some(id) = &m.reservation {
            labels.insert(RESERVATION.into(), id.clone());
        }
        let mut as_it_is = claim.clone();
        as_it_is.metadata.labels.get_or_insert_default().extend(labels.clone());
        let model = self.model(&as_it_is);
        let price = model.as_ref().map(|m| m.usd_per_hour.to_string());
        let patch = json!({"metadata": {"labels": labels, "annotations": {PRICE: price}}});
        self.writer.patch(&path(API, "nodeclaims", "", name, ""), &patch).await?;
        let conditions = with_condition(claim, "Launched", true, "Launched", "", Timestamp::now());
        let status = json!({
            "providerID": m.provider_id, "imageID": m.image, "conditions": conditions,
            "capacity": model.as_ref().map(|m| m.capacity.to_list()),
            "allocatable": model.as_ref().map(|m| m.allocatable.to_list()),
        });
        self.writer
            .patch(&path(API, "nodeclaims", "", name, "status"), &json!({"status": status}))
            .await
            .map(drop)
    }

    pub(super) async fn set_claim(
        &self,
        claim: &DynamicObject,
        kinds: &[&str],
        extra: Value,
    ) -> Result<(), Error> {
        let mut copy = claim.clone();
        for kind in kinds {
            if let Some(all) = with_condition(&copy, kind, true, kind, "", Timestamp::now()) {
                copy.data["status"]["conditions"] = json!(all);
            }
        }
        let mut status = json!({"conditions": copy.data["status"]["conditions"]});
        for (k, v) in extra.as_object().into_iter().flatten() {
            status[k] = v.clone();
        }
        let at = path(
            API,
            "nodeclaims",
            "",
            claim.metadata.name.as_deref().unwrap_or_default(),
            "status",
        );
        self.writer.patch(&at, &json!({"status": status})).await.map(drop)
    }

    /// The node has joined: labels, finalizer, and the taint that kept pods away goes.
    async fn register(&self, claim: &DynamicObject, node: &Node) -> Result<(), Error> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut labels = claim.metadata.labels.clone().unwrap_or_default();
        labels.insert("karpenter.sh/registered".into(), "true".into());
        let keep = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let keep: Vec<_> = keep.into_iter().filter(|t| t.key != UNREGISTERED).collect();
        let mut finalizers = node.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        let owner = json!([{"apiVersion": API, "kind": "NodeClaim", "name": claim.metadata.name, "uid": claim.metadata.uid, "blockOwnerDeletion": true}]);
        let patch = json!({
            "metadata": {"labels": labels, "annotations": claim.metadata.annotations, "finalizers": finalizers, "ownerReferences": owner, "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": keep},
        });
        self.writer.patch(&path("v1", "nodes", "", &name, ""), &patch).await?;
        self.metrics.count("karpenter_nodes_created_total", &[("nodepool", pool_of(claim))]);
        self.set_claim(claim, &["Registered"], json!({"nodeName": name})).await
    }

    /// The node is ready for pods.
    async fn initialize(&self, claim: &DynamicObject, node: &Node) -> Result<(), Error> {
        let ready = is_ready(node);
        let startup = claim.data["spec"]["startupTaints"].as_array().cloned().unwrap_or_default();
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
        // Devices that pods were promised appear when their plugin has found them.
        let has = |name: &str| {
            let offered = node.status.as_ref().and_then(|s| s.allocatable.as_ref()?.get(name));
            offered.is_some_and(|q| q.0 != "0")
        };
        let asked = claim.data["spec"]["resources"]["requests"].as_object();
        let missing = asked.into_iter().flatten().any(|(name, _)| name.contains('/') && !has(name));
        let waiting = missing
            || taints.into_iter().flatten().any(|t| {
                t.key == UNREGISTERED
                    || t.key == "node.kubernetes.io/not-ready"
                    || startup
                        .iter()
                        .any(|s| s["key"] == t.key.as_str() && s["effect"] == t.effect.as_str())
            });
        if !ready || waiting {
            return Ok(());
        }
        let name = node.metadata.name.clone().unwrap_or_default();
        let patch = json!({"metadata": {"labels": {"karpenter.sh/initialized": "true"}}});
        self.writer.patch(&path("v1", "nodes", "", &name, ""), &patch).await?;
        self.set_claim(claim, &["Initialized", "Ready"], Value::Null).await?;
        self.wake_disruption.notify_one();
        Ok(())
    }
}

/// Time since a claim was created.
pub(super) fn age_of(claim: &DynamicObject) -> Duration {
    let now = Timestamp::now();
    let created = claim.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    Duration::try_from(now.duration_since(created)).unwrap_or_default()
}

/// Whether a node's kubelet says that it is ready.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// When a claim was initialized.
pub(super) fn initialized_at(claim: &DynamicObject) -> Option<Timestamp> {
    condition(claim, "Initialized")
        .filter(|c| c["status"] == "True")
        .and_then(|c| parse_rfc3339(c["lastTransitionTime"].as_str()?))
}

/// Whether a pod goes down with its node instead of moving.
pub(super) fn stays(p: &PodView) -> bool {
    is_daemon(p) || outlives(p)
}

/// Whether a daemon set owns a pod.
pub(super) fn is_daemon(p: &PodView) -> bool {
    is_owned_by(p, "DaemonSet")
}

/// Whether a pod is not asked to leave a node that drains: it tolerates that, or the node itself owns
/// it, as those of files on its disk.
pub(super) fn outlives(p: &PodView) -> bool {
    is_owned_by(p, "Node") || p.asks.tolerates(DISRUPTED, "", "NoSchedule")
}

fn is_owned_by(p: &PodView, kind: &str) -> bool {
    let mut owners = p.metadata.owner_references.iter().flatten();
    owners.any(|r| r.kind == kind && r.controller == Some(true))
}
