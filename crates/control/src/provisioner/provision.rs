//! Buying nodes for pods that the scheduler could not place.

use super::{CLAIMS, DECISION, PLANNED_TYPE, Shared, classes::whole, decisions::Decision, drift};
use crate::{
    Stop,
    api::{Error, path},
    karpenter::{API, FINALIZER, MAX_PRICE, MIN_VALUES_RELAXED, NodePool, RESERVATION},
    stopped,
};
use coracle_provisioning::{
    NewNode, Plan,
    offering::{CAPACITY_TYPE, INSTANCE_TYPE, POOL, ZONE},
    pack,
};
use coracle_scheduling::PodSpec;
use coracle_workloads::action;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

/// A backlog is complete when nothing came for this long, or after the second time.
const BATCH: (Duration, Duration) = (Duration::from_millis(60), Duration::from_secs(1));
/// Pods that could not be helped are looked at again this often.
const RETRY: Duration = Duration::from_secs(10);

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let (shared, mut stop) = (shared.clone(), stop.clone());
    tasks.spawn(async move {
        if !shared.begins(&mut stop).await {
            return;
        }
        // What keeps room is known before anything is called empty.
        shared.resolve_buffers().await;
        let mut told: HashMap<String, String> = HashMap::new();
        loop {
            if let Err(error) = round(&shared, &mut told).await {
                tracing::warn!(%error, "provisioning is tried again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = shared.wake_provision.notified() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
            let end = tokio::time::Instant::now() + BATCH.1;
            while tokio::time::Instant::now() < end {
                if tokio::time::timeout(BATCH.0, shared.wake_provision.notified()).await.is_err() {
                    break;
                }
            }
        }
    });
}

async fn round(shared: &Arc<Shared>, told: &mut HashMap<String, String>) -> Result<(), Error> {
    // Those that the scheduler gave up.
    let mut waiting = shared.unbound();
    waiting.retain(|p| p.unschedulable);
    let mut pods: Vec<Arc<PodSpec>> = waiting.iter().map(|p| shared.wishes(&p.asks)).collect();
    let s = shared.clone();
    // Planning is work for a processor, not for the reactor.
    let began = tokio::time::Instant::now();
    let planned = tokio::task::spawn_blocking(move || {
        let mut snapshot = s.snapshot();
        pods.extend(s.leaving(&mut snapshot));
        pods.extend(s.room());
        let any = !pods.is_empty();
        any.then(|| pack::pack(&mut snapshot, &pods, &s.pools(), &s.daemons()))
    });
    let Some(plan) = planned.await.map_err(|e| Error::Request(e.to_string()))? else {
        told.clear();
        shared.hopeless.lock().clear();
        return Ok(());
    };
    shared.metrics.observe("karpenter_scheduler_scheduling_duration_seconds", began.elapsed());
    let hopeless: HashSet<_> = plan.unschedulable.keys().cloned().collect();
    let before = std::mem::replace(&mut *shared.hopeless.lock(), hopeless);
    if plan.unschedulable.keys().any(|k| !before.contains(k)) {
        // What waited for them goes on.
        shared.wake_disruption.notify_one();
    }
    let names = create_claims(shared, &plan.new_nodes, "provisioned").await?;
    if !names.is_empty() {
        shared.record(provisioned(&plan, &names)).await;
    }
    for p in &waiting {
        let Some(why) = plan.unschedulable.get(&p.asks.key) else { continue };
        let uid = p.metadata.uid.clone().unwrap_or_default();
        if told.insert(uid, why.clone()).as_ref() != Some(why) {
            shared
                .writer
                .event(
                    &p.metadata,
                    action::PODS,
                    "Warning",
                    "FailedScheduling",
                    &format!("Failed to schedule pod, {why}"),
                )
                .await;
        }
    }
    told.retain(|uid, _| waiting.iter().any(|p| p.metadata.uid.as_ref() == Some(uid)));
    Ok(())
}

fn provisioned<'d>(plan: &'d Plan, names: &'d [String]) -> Decision<'d> {
    let pods: usize = plan.new_nodes.iter().map(|n| n.pods.len()).sum();
    let message = format!(
        "{} node(s) for ${:.4}/h were bought for {pods} pod(s) that had no place; no nodes for them cost less than ${:.4}/h",
        names.len(),
        plan.usd_per_hour,
        plan.lower_bound_usd_per_hour
    );
    Decision {
        action: "Provisioned",
        message,
        plan: Some((plan, names)),
        removed: Vec::new(),
        saves_usd_per_hour: 0.0,
    }
}

impl Shared {
    /// A pod as plans see it: with its preferences or without.
    pub(super) fn wishes(&self, pod: &Arc<PodSpec>) -> Arc<PodSpec> {
        let none = pod.preferred_nodes.is_empty() && pod.preferred_pods.is_empty();
        if none || !self.options.ignore_preferences {
            return pod.clone();
        }
        let mut bare = (**pod).clone();
        let class = Arc::make_mut(&mut bare.class);
        class.preferred_nodes.clear();
        class.preferred_pods.clear();
        class.classify(&bare.key.namespace);
        Arc::new(bare)
    }
}

/// Creates a claim for each new node and waits until the informer has them. Returns their names.
pub(super) async fn create_claims(
    shared: &Shared,
    nodes: &[NewNode],
    reason: &str,
) -> Result<Vec<String>, Error> {
    let (mut names, mut newest) = (Vec::new(), 0);
    for node in nodes {
        let Some(pool) = shared.karpenter.pools.get("", &node.pool) else { continue };
        let mut claim = claim(&NodePool::read(&pool), &pool.metadata, node);
        claim["metadata"]["annotations"][drift::HASH] = json!(drift::hash(&pool));
        claim["metadata"]["annotations"][drift::HASH_VERSION] = json!(drift::VERSION);
        let class = shared.karpenter.class(&pool.data["spec"]["template"]["spec"]["nodeClassRef"]);
        for (k, v) in class.iter().flat_map(|c| shared.cloud.stamps(&whole(c))) {
            claim["metadata"]["annotations"][k] = json!(v);
        }
        let created = shared
            .writer
            .send("POST", &path(API, "nodeclaims", "", "", ""), "application/json", &claim)
            .await?;
        let text = |p: &str| coracle_meta::json::text(&created, p).to_owned();
        let name = text("metadata.name");
        let of = [("nodepool", node.pool.as_str()), ("reason", reason)];
        shared.metrics.count("karpenter_nodeclaims_created_total", &of);
        tracing::info!(claim = name, pods = node.pods.len(), why = node.why, "bought");
        let meta = ObjectMeta {
            name: Some(name.clone()),
            uid: Some(text("metadata.uid")),
            ..ObjectMeta::default()
        };
        for p in node.pods.iter().take(20) {
            // What keeps room for others is no pod.
            let Some(p) = shared.world.pods.get(&p.namespace, &p.name) else { continue };
            shared
                .writer
                .event(
                    &p.metadata,
                    action::PODS,
                    "Normal",
                    "Nominated",
                    &format!("Pod should schedule on: nodeclaim/{name}"),
                )
                .await;
        }
        shared.writer.event(&meta, CLAIMS, "Normal", "Planned", &node.why).await;
        newest = newest.max(text("metadata.resourceVersion").parse().unwrap_or(0));
        names.push(name);
    }
    if newest > 0 {
        let _ = tokio::time::timeout(Duration::from_secs(5), shared.karpenter.claims.seen(newest))
            .await;
    }
    Ok(names)
}

fn claim(pool: &NodePool, meta: &ObjectMeta, node: &NewNode) -> Value {
    let known = [INSTANCE_TYPE, ZONE, CAPACITY_TYPE, POOL];
    let mut requirements: Vec<Value> = pool
        .requirements
        .0
        .iter()
        .filter(|(k, _)| !known.contains(&&***k))
        .map(|(k, v)| {
            let (operator, values) = v.to_operator();
            json!({"key": &**k, "operator": operator, "values": values})
        })
        .collect();
    let list = |key: &str, values: Value| json!({"key": key, "operator": "In", "values": values});
    requirements
        .push(list(INSTANCE_TYPE, json!(node.types.iter().map(|t| &**t).collect::<Vec<_>>())));
    requirements.push(list(ZONE, json!(node.zones.iter().map(|z| &**z).collect::<Vec<_>>())));
    requirements.push(list(CAPACITY_TYPE, json!(node.capacity_types)));
    requirements.push(list(POOL, json!([pool.name])));
    for m in pool.min_values.iter().filter(|_| !node.min_values_relaxed) {
        // A list that pods have made shorter is not refused for it.
        let has = |r: &Value| {
            r["operator"] != "In" || r["values"].as_array().map_or(0, Vec::len) >= m.values
        };
        let own = requirements.iter_mut().filter(|r| r["key"] == *m.key && has(r));
        own.for_each(|r| r["minValues"] = json!(m.values));
    }
    let mut labels = pool.labels.clone();
    labels.insert(POOL.into(), pool.name.clone());
    let mut annotations = pool.annotations.clone();
    annotations.insert(
        PLANNED_TYPE.into(),
        node.types.first().map(ToString::to_string).unwrap_or_default(),
    );
    annotations.insert(DECISION.into(), node.why.clone());
    if let Some(most) = node.max_usd_per_hour {
        annotations.insert(MAX_PRICE.into(), most.to_string());
    }
    if node.min_values_relaxed {
        annotations.insert(MIN_VALUES_RELAXED.into(), "true".into());
    }
    if let Some(id) = &node.reservation {
        requirements.push(list(RESERVATION, json!([&**id])));
    }
    let template = &pool.template;
    let mut spec = json!({"nodeClassRef": template["nodeClassRef"], "requirements": requirements, "resources": {"requests": node.requests.to_list()}});
    for f in ["taints", "startupTaints", "expireAfter", "terminationGracePeriod"] {
        if !template[f].is_null() {
            spec[f] = template[f].clone();
        }
    }
    json!({
        "apiVersion": API, "kind": "NodeClaim",
        "metadata": {
            "generateName": format!("{}-", pool.name), "labels": labels, "annotations": annotations, "finalizers": [FINALIZER],
            "ownerReferences": [{"apiVersion": API, "kind": "NodePool", "name": pool.name, "uid": meta.uid, "blockOwnerDeletion": true}],
        },
        "spec": spec,
    })
}
