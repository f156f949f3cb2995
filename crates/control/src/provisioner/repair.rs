//! Repair: nodes that stay unhealthy are replaced. Never while more than a fifth of a pool, or of all
//! nodes, is unhealthy: then something else is broken.

use super::{CLAIMS, Shared};
use crate::{
    Stop,
    api::{Error, path},
    informer::{Key, key},
    karpenter::{API, TERMINATION, is_true, pool_of},
    queue::Queue,
};
use coracle_meta::time::rfc3339;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// What is unhealthy, and how long it is borne: condition, status, time.
const POLICIES: [(&str, &str, Duration); 2] = [
    ("Ready", "False", Duration::from_secs(30 * 60)),
    ("Ready", "Unknown", Duration::from_secs(30 * 60)),
];
/// Most of a pool, in percent, that may be unhealthy while nodes are replaced.
const GUARD_PERCENT: usize = 20;
/// A node that the guard kept is looked at again after this.
const AGAIN: Duration = Duration::from_secs(300);

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    shared.world.nodes.on_change(move |c| c.new.iter().for_each(|n| q.add(key(&***n))));
    let shared = shared.clone();
    queue.work("node-repair", 1, stop, tasks, move |k| {
        let shared = shared.clone();
        async move {
            shared.synced().await;
            shared.repair(&k.1).await
        }
    });
}

/// The condition that makes a node unhealthy, with how long it is borne.
fn unhealthy(node: &Node) -> Option<(&NodeCondition, Duration)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    POLICIES.iter().find_map(|(kind, status, bear)| {
        let c = conditions.iter().find(|c| c.type_ == *kind && c.status == *status)?;
        Some((c, *bear))
    })
}

impl Shared {
    async fn repair(&self, name: &str) -> Result<Option<Duration>, Error> {
        let (Some(claim), Some(node)) = (self.claim_of(name), self.world.nodes.get("", name))
        else {
            return Ok(None);
        };
        let Some((condition, bear)) = unhealthy(&node) else { return Ok(None) };
        if claim.metadata.deletion_timestamp.is_some() || !is_true(&claim, "Registered") {
            return Ok(None);
        }
        let now = Timestamp::now();
        let since = condition.last_transition_time.as_ref().map_or(now, |t| t.0);
        let borne = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let bear = self.real(bear);
        if borne < bear {
            return Ok(Some(bear - borne));
        }
        if let Some(why) = self.too_many_unhealthy(pool_of(&claim)) {
            let said = format!("{why}: the node is not replaced");
            self.writer.event(&claim.metadata, CLAIMS, "Warning", "NodeRepairBlocked", &said).await;
            return Ok(Some(self.real(AGAIN)));
        }
        let why = format!("{} is {} since {}", condition.type_, condition.status, rfc3339(since));
        self.writer.event(&claim.metadata, CLAIMS, "Warning", "NodeUnhealthy", &why).await;
        // What runs there is lost or cannot be asked: there is nothing to wait for.
        let note = json!({"metadata": {"annotations": {TERMINATION: rfc3339(now)}}});
        let own = claim.metadata.name.as_deref().unwrap_or_default();
        self.writer.patch(&path(API, "nodeclaims", "", own, ""), &note).await?;
        self.delete_claim(&claim).await?;
        Ok(None)
    }

    fn too_many_unhealthy(&self, pool: &str) -> Option<String> {
        let of_pool: Vec<String> = self.claims_of(pool).iter().map(|c| self.node_name(c)).collect();
        let all = self.world.nodes.all();
        let check = |what: &str, nodes: Vec<&Arc<Node>>| {
            let bad = nodes.iter().filter(|n| unhealthy(n).is_some()).count();
            // At least one may be, however small the pool is.
            let most = (nodes.len() * GUARD_PERCENT).div_ceil(100);
            (bad > most).then(|| format!("{bad} of {} nodes of {what} are unhealthy", nodes.len()))
        };
        let own = |n: &&Arc<Node>| n.metadata.name.as_ref().is_some_and(|n| of_pool.contains(n));
        check(&format!("NodePool {pool}"), all.iter().filter(own).collect())
            .or_else(|| check("the cluster", all.iter().collect()))
    }
}
