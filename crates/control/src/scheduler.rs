//! The scheduler's shell: a snapshot kept by the informers, pending pods by priority, bindings.

use crate::{
    Stop,
    api::{Writer, path},
    informer::Change,
    stopped,
    world::World,
};
use coracle_meta::time::rfc3339;
use coracle_scheduling::{Node, PodSpec, Profile, Snapshot, pod::PodKey};
use coracle_workloads::{PodView, action, pod};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

/// Bindings under way at once.
const BINDINGS: usize = 64;
/// Pods that were refused are tried again this often even if nothing happens.
const RETRY: Duration = Duration::from_secs(30);

struct State {
    snapshot: Snapshot,
    /// Pods without a node, with what they ask for.
    pending: BTreeMap<PodKey, Arc<PodSpec>>,
    /// Pending pods that nothing fits, until something changes.
    refused: HashSet<PodKey>,
    /// Pods whose refusal is being written: they are not placed before it is, or it would come
    /// after the binding.
    refusing: HashSet<PodKey>,
    /// Nodes of pods whose binding is under way.
    assumed: HashMap<PodKey, String>,
    /// Pods whose nodes are not known yet.
    homeless: HashMap<String, Vec<Arc<PodSpec>>>,
}

struct Scheduler {
    state: Mutex<State>,
    wake: Notify,
    profile: Profile,
    writer: Writer,
}

/// Whether this scheduler is asked for and may begin.
fn is_ours(p: &PodView) -> bool {
    let name = p.spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
    let gated = p.spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    name == "default-scheduler" && !gated && pod::is_active(p)
}

/// Starts the scheduler.
pub fn start(
    world: &Arc<World>,
    client: &Client,
    profile: Profile,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) {
    let state = State {
        snapshot: Snapshot::default(),
        pending: BTreeMap::new(),
        refused: HashSet::new(),
        refusing: HashSet::new(),
        assumed: HashMap::new(),
        homeless: HashMap::new(),
    };
    let writer = Writer::new(client, "default-scheduler");
    let s = Arc::new(Scheduler { state: Mutex::new(state), wake: Notify::new(), profile, writer });
    let me = s.clone();
    world.nodes.on_change(move |c| me.node_changed(c.old.map(|n| &**n), c.new.map(|n| &**n)));
    let me = s.clone();
    world.namespaces.on_change(move |c| me.namespace_changed(c));
    let me = s.clone();
    world.pods.on_change(move |c| me.pod_changed(c.object().map(|p| &**p), c.new.is_none()));
    let (world, mut stop) = (world.clone(), stop.clone());
    tasks.spawn(async move {
        tokio::join!(world.nodes.synced(), world.pods.synced(), world.namespaces.synced());
        let permits = Arc::new(Semaphore::new(BINDINGS));
        loop {
            s.round(&permits);
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = s.wake.notified() => {}
                () = tokio::time::sleep(RETRY) => s.state.lock().refused.clear(),
            }
        }
    });
}

impl Scheduler {
    fn node_changed(
        &self,
        old: Option<&k8s_openapi::api::core::v1::Node>,
        new: Option<&k8s_openapi::api::core::v1::Node>,
    ) {
        let shape = |n: &k8s_openapi::api::core::v1::Node| {
            (
                n.metadata.labels.clone(),
                n.spec.clone(),
                n.status.as_ref().and_then(|s| s.allocatable.clone()),
            )
        };
        if old.map(shape) == new.map(shape) {
            return; // A heartbeat.
        }
        let mut state = self.state.lock();
        match new {
            Some(n) => {
                let node = Node::from_node(n);
                let name = node.name.clone();
                state.snapshot.set_node(node);
                for p in state.homeless.remove(&name).unwrap_or_default() {
                    state.snapshot.add_pod(p, &name);
                }
            }
            None => {
                let name = old.and_then(|n| n.metadata.name.as_deref()).unwrap_or_default();
                if let Some(node) = state.snapshot.remove_node(name) {
                    state.homeless.insert(name.to_owned(), node.pods.values().cloned().collect());
                }
            }
        }
        state.refused.clear();
        drop(state);
        self.wake.notify_one();
    }

    /// Pod affinity may select namespaces by their labels.
    fn namespace_changed(&self, c: &Change<'_, Namespace>) {
        let labels = |n: &Arc<Namespace>| n.labels().clone();
        let (old, new) = (c.old.map(labels), c.new.map(labels));
        let (false, Some(n)) = (old == new, c.object()) else { return };
        let mut state = self.state.lock();
        state.snapshot.set_namespace(&n.name_any(), new);
        state.refused.clear();
        drop(state);
        self.wake.notify_one();
    }

    fn pod_changed(&self, p: Option<&PodView>, gone: bool) {
        let Some(p) = p else { return };
        let (k, node) = (p.asks.key.clone(), p.node_name.as_str());
        let mut state = self.state.lock();
        if gone || pod::is_finished(p) {
            state.pending.remove(&k);
            state.assumed.remove(&k);
            state.homeless.values_mut().for_each(|l| l.retain(|x| x.key != k));
            if state.snapshot.remove_pod(&k).is_some() {
                state.refused.clear();
                drop(state);
                self.wake.notify_one();
            }
            return;
        }
        if !node.is_empty() {
            state.pending.remove(&k);
            state.assumed.remove(&k);
            let same = state.snapshot.node_of(&k).is_some_and(|n| {
                n.name == node
                    && n.pods.get(&k).is_some_and(|x| {
                        Some(&x.uid) == p.metadata.uid.as_ref()
                            && x.terminating == p.metadata.deletion_timestamp.is_some()
                    })
            });
            if !same {
                let spec = p.asks.clone();
                if state.snapshot.node(node).is_some() {
                    state.snapshot.add_pod(spec, node);
                } else {
                    state.homeless.entry(node.to_owned()).or_default().push(spec);
                }
            }
            return;
        }
        if !is_ours(p) {
            state.pending.remove(&k);
        } else if !state.assumed.contains_key(&k) {
            let spec = p.asks.clone();
            let known = state
                .pending
                .get(&k)
                .is_some_and(|x| x.class_id == spec.class_id && x.uid == spec.uid);
            if !known {
                state.pending.insert(k.clone(), spec);
                state.refused.remove(&k);
                drop(state);
                self.wake.notify_one();
            }
        }
    }

    /// Places all pending pods that fit.
    fn round(self: &Arc<Self>, permits: &Arc<Semaphore>) {
        let mut queue: Vec<Arc<PodSpec>> = {
            let state = self.state.lock();
            state
                .pending
                .values()
                .filter(|p| !state.refused.contains(&p.key) && !state.refusing.contains(&p.key))
                .cloned()
                .collect()
        };
        queue.sort_by(|a, b| {
            b.priority
                .cmp(&a.priority)
                .then_with(|| (a.created_seconds, &a.key).cmp(&(b.created_seconds, &b.key)))
        });
        // A class that nothing fits needs no second look in one round, unless its pods' places matter.
        let mut hopeless: HashMap<u64, String> = HashMap::new();
        for p in queue {
            match self.place(&p, &mut hopeless) {
                None => {}
                Some(Ok(node)) => {
                    let (me, permits) = (self.clone(), permits.clone());
                    tokio::spawn(async move {
                        let _permit = permits.acquire_owned().await;
                        me.bind(&p, &node).await;
                    });
                }
                Some(Err(message)) => {
                    let me = self.clone();
                    tokio::spawn(async move {
                        me.refuse(&p, &message).await;
                        me.state.lock().refusing.remove(&p.key);
                        me.wake.notify_one();
                    });
                }
            }
        }
    }

    /// Where a pod goes, or why nowhere; `None` when it is not pending any more.
    fn place(
        &self,
        p: &Arc<PodSpec>,
        hopeless: &mut HashMap<u64, String>,
    ) -> Option<Result<String, String>> {
        let mut state = self.state.lock();
        if !state.pending.contains_key(&p.key) {
            return None;
        }
        let known = hopeless.get(&p.class_id).filter(|_| !p.is_topology_bound()).cloned();
        let found = match known {
            Some(message) => Err(message),
            None => state.snapshot.schedule(p, self.profile).map_err(|e| e.to_string()),
        };
        match &found {
            Ok(node) => {
                state.pending.remove(&p.key);
                state.assumed.insert(p.key.clone(), node.clone());
                state.snapshot.add_pod(p.clone(), node);
            }
            Err(message) => {
                state.refused.insert(p.key.clone());
                state.refusing.insert(p.key.clone());
                hopeless.insert(p.class_id, message.clone());
            }
        }
        Some(found)
    }

    async fn bind(&self, p: &Arc<PodSpec>, node: &str) {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": p.key.name, "namespace": p.key.namespace, "uid": p.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let at = path("v1", "pods", &p.key.namespace, &p.key.name, "binding");
        match self.writer.send("POST", &at, "application/json", &binding).await {
            Ok(_) => {
                let message =
                    format!("Successfully assigned {}/{} to {node}", p.key.namespace, p.key.name);
                self.writer.event(&meta(p), action::PODS, "Normal", "Scheduled", &message).await;
            }
            Err(error) => {
                tracing::debug!(pod = p.key.name, %error, "a binding failed");
                if self.unassume(p, error.code() != Some(404)) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Takes back an assumed node. Unless the informer has brought one by now, the pod is pending
    /// again.
    fn unassume(&self, p: &Arc<PodSpec>, retry: bool) -> bool {
        let mut state = self.state.lock();
        if state.assumed.remove(&p.key).is_none() {
            return false;
        }
        state.snapshot.remove_pod(&p.key);
        if retry {
            state.pending.insert(p.key.clone(), p.clone());
        }
        retry
    }

    /// Says why the pod waits: in its condition, and in an event.
    async fn refuse(&self, p: &Arc<PodSpec>, message: &str) {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "lastProbeTime": null, "lastTransitionTime": rfc3339(Timestamp::now())});
        let at = path("v1", "pods", &p.key.namespace, &p.key.name, "status");
        let patch = json!({"metadata": {"uid": p.uid}, "status": {"conditions": [condition]}});
        // Strategic, so that other conditions stay.
        match self.writer.send("PATCH", &at, "application/strategic-merge-patch+json", &patch).await
        {
            Ok(_) => {
                self.writer
                    .event(&meta(p), action::PODS, "Warning", "FailedScheduling", message)
                    .await
            }
            Err(error) => tracing::debug!(pod = p.key.name, %error, "a condition was not written"),
        }
    }
}

fn meta(p: &PodSpec) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: Some(p.key.name.clone()),
        namespace: Some(p.key.namespace.clone()),
        uid: Some(p.uid.clone()),
        ..Default::default()
    }
}
