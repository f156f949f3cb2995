//! The status of NodePools and node classes: whether they can work, and what they have.

use super::{POOLS, Shared, drift};
use crate::{
    Stop,
    api::{Error, path},
    informer::{Key, key},
    karpenter::{API, NodePool, is_true, text, with_condition},
    queue::Queue,
};
use coracle_provisioning::offering::POOL;
use coracle_scheduling::Resources;
use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    shared.karpenter.pools.on_change(move |c| c.new.iter().for_each(|o| q.add(key(&***o))));
    let q = queue.clone();
    shared.karpenter.claims.on_change(move |c| {
        let pool = c.object().and_then(|o| o.metadata.labels.as_ref()?.get(POOL).cloned());
        pool.into_iter().for_each(|p| q.add_after((String::new(), p), Duration::from_millis(100)));
    });
    let (q, s) = (queue.clone(), shared.clone());
    shared
        .karpenter
        .classes
        .on_change(move |_| s.karpenter.pools.all().iter().for_each(|p| q.add(key(&**p))));
    let (q, s) = (queue.clone(), shared.clone());
    shared
        .karpenter
        .policies
        .on_change(move |_| s.karpenter.pools.all().iter().for_each(|p| q.add(key(&**p))));
    let s = shared.clone();
    queue.work("nodepool-status", 1, stop, tasks, move |k| {
        let s = s.clone();
        async move {
            s.synced().await;
            match s.karpenter.pools.get("", &k.1) {
                Some(pool) => s.pool_status(&pool).await,
                None => Ok(None),
            }
        }
    });
}

impl Shared {
    /// Says once that a pool is of another cloud; what another provisioner said of it stands.
    async fn not_ours(&self, o: &DynamicObject) -> Result<Option<Duration>, Error> {
        if !o.data["status"]["conditions"].is_null() {
            return Ok(None);
        }
        let ours = self.karpenter.class_kind;
        let message =
            format!("this provisioner buys for nodeClassRef {}/{} only", ours.group, ours.kind);
        let all =
            with_condition(o, "Ready", false, "NodeClassNotSupported", &message, Timestamp::now());
        let name = o.metadata.name.as_deref().unwrap_or_default();
        let at = path(API, "nodepools", "", name, "status");
        self.writer.patch(&at, &json!({"status": {"conditions": all}})).await?;
        Ok(None)
    }

    async fn pool_status(&self, o: &DynamicObject) -> Result<Option<Duration>, Error> {
        if !self.karpenter.class_kind.is_of(&o.data["spec"]["template"]["spec"]["nodeClassRef"]) {
            return self.not_ours(o).await;
        }
        let pool = NodePool::read(o);
        let hash = drift::hash(o);
        let noted = o.metadata.annotations.as_ref().and_then(|a| a.get(drift::HASH));
        if noted != Some(&hash) {
            let note = json!({"metadata": {"annotations": {drift::HASH: hash, drift::HASH_VERSION: drift::VERSION}}});
            self.writer.patch(&path(API, "nodepools", "", &pool.name, ""), &note).await?;
        }
        let (mut total, mut nodes) = (Resources::default(), 0);
        for claim in self.claims_of(&pool.name) {
            if let Some(m) = self.model(&claim) {
                total.add(&m.capacity, 1);
                nodes += 1;
            }
        }
        let mut resources = json!(total.to_list());
        resources["nodes"] = json!(nodes.to_string());
        let class_name = text(&pool.class["name"]);
        let class = self.karpenter.class(&pool.class);
        let generation = class.as_ref().and_then(|c| c.metadata.generation);
        let contradictory = pool.requirements.is_contradictory();
        let missing = class.is_none();
        let waits = class.as_ref().is_some_and(|c| !is_true(c, "Ready"));
        let class = !missing && !waits;
        let (ok, reason, message) = if missing {
            (false, "NodeClassNotFound", format!("node class {class_name:?} was not found"))
        } else if waits {
            (
                false,
                "NodeClassNotReady",
                format!("node class {class_name:?} is not ready: its conditions say why"),
            )
        } else if contradictory || self.types(&pool).is_empty() {
            (
                false,
                "NoCompatibleInstanceTypes",
                "no instance type of the cloud meets the requirements of this NodePool".to_owned(),
            )
        } else if self.policy(&pool.name).sleeps(Timestamp::now()) {
            (
                false,
                "Hibernating",
                "a ProvisioningPolicy lets this NodePool have no nodes now".to_owned(),
            )
        } else {
            (true, "Ready", String::new())
        };
        let now = Timestamp::now();
        let mut copy = o.clone();
        for (kind, on, reason, message) in [
            (
                "NodeClassReady",
                class,
                if class { "NodeClassReady" } else { reason },
                if class { "" } else { &message },
            ),
            (
                "ValidationSucceeded",
                !contradictory,
                if contradictory { "RequirementsContradict" } else { "ValidationSucceeded" },
                "",
            ),
            ("Ready", ok, reason, &message),
        ] {
            if let Some(all) = with_condition(&copy, kind, on, reason, message, now) {
                copy.data["status"]["conditions"] = json!(all);
            }
        }
        // A merge patch keeps keys that it does not name: resources that are gone become null.
        for k in o.data["status"]["resources"].as_object().into_iter().flatten().map(|(k, _)| k) {
            if resources[k].is_null() {
                resources[k] = Value::Null;
            }
        }
        let status = json!({"resources": resources, "nodes": nodes, "nodeClassObservedGeneration": generation, "conditions": copy.data["status"]["conditions"]});
        let same = o.data["status"]["nodeClassObservedGeneration"]
            == status["nodeClassObservedGeneration"]
            && o.data["status"]["resources"] == strip(&resources)
            && o.data["status"]["conditions"] == status["conditions"]
            && o.data["status"]["nodes"] == nodes;
        if !same {
            self.writer
                .patch(
                    &path(API, "nodepools", "", &pool.name, "status"),
                    &json!({"status": status}),
                )
                .await?;
            if !ok && !["Hibernating", "NodeClassNotReady"].contains(&reason) {
                self.writer.event(&o.metadata, POOLS, "Warning", reason, &message).await;
            }
        }
        let windows = self.policy(&pool.name).hibernate;
        Ok((!windows.is_empty()).then_some(WINDOWS_EVERY))
    }
}

/// A pool that sleeps at times says when.
const WINDOWS_EVERY: Duration = Duration::from_secs(15);

fn strip(v: &Value) -> Value {
    let pairs = v.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null());
    Value::Object(pairs.map(|(k, v)| (k.clone(), v.clone())).collect())
}
