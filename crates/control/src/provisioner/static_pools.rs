//! Pools of a fixed size (`spec.replicas`): nodes are kept whatever pods there are.

use super::{Shared, command, decisions::Decision, lifecycle, provision};
use crate::{
    Stop,
    api::Error,
    informer::Key,
    karpenter::{NodePool, is_true},
    queue::Queue,
};
use coracle_provisioning::{NewNode, Plan, offering::POOL, pack};
use kube::core::DynamicObject;
use std::{cmp::Reverse, sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Most nodes that are bought together; the next look buys the next.
const AT_ONCE: usize = 50;
/// A pool that could not have all of its nodes is looked at again after this.
const AGAIN: Duration = Duration::from_secs(30);

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    shared.karpenter.pools.on_change(move |c| {
        let fixed = |o: &DynamicObject| !o.data["spec"]["replicas"].is_null();
        let name = c.new.filter(|o| fixed(o)).and_then(|o| o.metadata.name.clone());
        name.into_iter().for_each(|n| q.add((String::new(), n)));
    });
    let q = queue.clone();
    shared.karpenter.claims.on_change(move |c| {
        let pool = c.object().and_then(|o| o.metadata.labels.as_ref()?.get(POOL).cloned());
        pool.into_iter().for_each(|p| q.add_after((String::new(), p), Duration::from_millis(100)));
    });
    let shared = shared.clone();
    queue.work("static-nodepools", 1, stop, tasks, move |k| {
        let shared = shared.clone();
        async move {
            shared.synced().await;
            let pool = shared.karpenter.pools.get("", &k.1);
            match pool.map(|o| NodePool::read(&o)) {
                Some(NodePool { replicas: Some(n), .. }) => shared.resize(&k.1, n).await,
                _ => Ok(None),
            }
        }
    });
}

impl Shared {
    /// Buys nodes for a pool that has too few, and gives up those of a pool that has too many: budgets
    /// are about disruption and do not hold here, those of pods do as nodes drain.
    async fn resize(
        self: &Arc<Self>,
        name: &str,
        replicas: usize,
    ) -> Result<Option<Duration>, Error> {
        let Some(o) = self.karpenter.pools.get("", name) else { return Ok(None) };
        if self.policy(name).sleeps(jiff::Timestamp::now()) {
            return Ok(Some(self.real(AGAIN)));
        }
        let going = self.going.lock().clone();
        let mut claims = self.claims_of(name);
        claims.retain(|c| {
            c.metadata.deletion_timestamp.is_none() && !going.contains(&self.node_name(c))
        });
        if claims.len() > replicas {
            for c in self.least_needed(claims, replicas) {
                let own = self.node_name(&c);
                command::give_up(self, &own, "Static", "the NodePool wants fewer nodes").await?;
            }
            return Ok(None);
        }
        if o.metadata.deletion_timestamp.is_some() || claims.len() == replicas {
            return Ok(None);
        }
        let (s, missing) = (self.clone(), (replicas - claims.len()).min(AT_ONCE));
        let planned = tokio::task::spawn_blocking(move || {
            let Some(mut pool) = s.pool(&NodePool::read(&o)) else { return Vec::new() };
            let daemons = s.daemons();
            (0..missing).map_while(|_| pack::any_node(&mut pool, &daemons)).collect()
        });
        let nodes: Vec<NewNode> = planned.await.map_err(|e| Error::Request(e.to_string()))?;
        let all = nodes.len() == replicas - claims.len();
        let plan = Plan::of_nodes(nodes);
        let names = provision::create_claims(self, &plan.new_nodes, "static").await?;
        if !names.is_empty() {
            self.record(Decision {
                action: "Provisioned",
                message: format!(
                    "NodePool {name} wants {replicas} node(s) and had {}",
                    claims.len()
                ),
                plan: Some((&plan, &names)),
                removed: Vec::new(),
                saves_usd_per_hour: 0.0,
            })
            .await;
        }
        Ok((!all).then(|| self.real(AGAIN)))
    }

    /// Claims beyond a number: drifted ones, then those whose nodes are not there yet, then those with the
    /// fewest pods to move, then the newest.
    fn least_needed(
        &self,
        mut claims: Vec<Arc<DynamicObject>>,
        keep: usize,
    ) -> Vec<Arc<DynamicObject>> {
        claims.sort_by_cached_key(|c| {
            let pods =
                self.pods_on(&self.node_name(c)).iter().filter(|p| !lifecycle::stays(p)).count();
            let created = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (!is_true(c, "Drifted"), is_true(c, "Initialized"), pods, Reverse(created))
        });
        claims.truncate(claims.len() - keep);
        claims
    }
}
