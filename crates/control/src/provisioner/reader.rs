//! The provisioner's own models and planner over a cluster that is only read: what would be bought
//! before it is, and why things are as they are ([`super::explain`]).

use super::{Options, Shared, candidates::candidate};
use crate::{
    Stop,
    api::{Error, Writer},
    karpenter::Watched,
    world::ClusterState,
};
use coracle_clouds::Cloud;
use coracle_provisioning::{Candidate, Plan, consolidate, pack};
use coracle_scheduling::{PodSpec, pod::PodKey};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, core::DynamicObject};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet};

/// A cluster that has not listed its objects by then does not let us read them.
const PATIENCE: Duration = Duration::from_secs(20);

/// A plan for pods, and the cluster that it is for.
#[derive(Debug)]
pub struct WhatIf {
    /// Where pods would go, and what would be bought.
    pub plan: Plan,
    /// Pods that wait for a node already: they are in the plan too.
    pub waiting: Vec<PodKey>,
    /// Price of the nodes that are there, in US dollars an hour.
    pub usd_per_hour_now: f64,
    /// What the new nodes' types offer: thousandths of a processor and bytes of memory, by type.
    pub allocatable: BTreeMap<String, (i64, i64)>,
}

/// What a change of NodePools would replace.
#[derive(Debug)]
pub struct Drifting {
    /// Nodes that would drift, with why.
    pub nodes: Vec<(String, &'static str)>,
    /// What they cost.
    pub usd_per_hour: f64,
    /// Types of the nodes in their place, and what those cost; `None` if their pods would find no place.
    pub instead: Option<(Vec<String>, f64)>,
}

/// A cluster that is read, as long as this lives.
pub struct Reader {
    pub(super) shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Reader {
    /// Reads a cluster.
    ///
    /// # Errors
    /// When the cluster does not let its nodes, pods, namespaces, daemon sets, budgets, NodePools and
    /// NodeClaims be listed.
    pub async fn open(
        client: &Client,
        cloud: &Arc<dyn Cloud>,
        options: Options,
    ) -> Result<Self, Error> {
        let (stop, stopping): (_, Stop) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let world = ClusterState::new(client, &stopping, &mut tasks);
        let karpenter = Watched::new(client, cloud.class_kind(), &stopping, &mut tasks);
        let listed = async { tokio::join!(world.synced(), karpenter.synced()) };
        if tokio::time::timeout(PATIENCE, listed).await.is_err() {
            return Err(Error::Request(
                "the cluster did not list its nodes, pods, namespaces, daemon sets, disruption budgets, NodePools and NodeClaims: may you list them?".into(),
            ));
        }
        let writer = Writer::new(client, "coracle-reader");
        let shared = Arc::new(Shared::new(&world, &karpenter, cloud, writer, options));
        shared.cloud.ready().await.map_err(|e| Error::Request(e.to_string()))?;
        shared.resolve_all().await;
        shared.resolved.send_replace(true);
        shared.refresh_overlays();
        shared.resolve_buffers().await;
        shared.give_hope_up().await?;
        Ok(Self { shared, stop, tasks })
    }

    /// From now on NodePools are supposed to be like this.
    pub fn suppose(&self, pools: Vec<DynamicObject>) {
        *self.shared.supposed.write() = pools.into_iter().map(Arc::new).collect();
    }

    /// Which nodes would drift, and what would take their place, were it not for budgets.
    ///
    /// # Errors
    /// When planning fails.
    pub async fn drifting(&self) -> Result<Drifting, Error> {
        let shared = self.shared.clone();
        let planned = tokio::task::spawn_blocking(move || {
            let judged = shared.judged().into_iter();
            let drifted: Vec<_> = judged.filter_map(|(c, why)| Some((c, why?))).collect();
            let name = |c: &DynamicObject| shared.node_name(c);
            let nodes: Vec<(String, &'static str)> =
                drifted.iter().map(|(c, why)| (name(c), *why)).collect();
            let going: Vec<Candidate> =
                drifted.iter().filter_map(|(c, _)| candidate(&shared, c, false).ok()).collect();
            let usd_per_hour = going.iter().map(|c| c.usd_per_hour).sum();
            let avoid: Vec<String> = nodes.iter().map(|(n, _)| n.clone()).collect();
            let (pools, daemons) = (shared.pools(), shared.daemons());
            let command =
                consolidate::replace(&shared.snapshot(), &going, &avoid, &pools, &daemons);
            let whole = command.filter(|c| c.remove.len() == going.len());
            let instead = whole.map(|c| {
                let types = c.plan.new_nodes.iter().filter_map(|n| n.types.first());
                (types.map(ToString::to_string).collect(), c.plan.usd_per_hour)
            });
            Drifting { nodes, usd_per_hour, instead }
        });
        planned.await.map_err(|e| Error::Request(e.to_string()))
    }

    /// Plans for pods as if they were created now, beside those that wait for a node.
    ///
    /// # Errors
    /// When planning fails.
    pub async fn what_if(&self, pods: &[Pod]) -> Result<WhatIf, Error> {
        let shared = self.shared.clone();
        let mut all = shared.waiting();
        let waiting = all.iter().map(|p| p.key.clone()).collect();
        all.extend(pods.iter().map(|p| shared.wishes(&Arc::new(PodSpec::from_pod(p)))));
        all.extend(shared.room());
        let claims = shared.karpenter.claims.all();
        let usd_per_hour_now =
            claims.iter().filter_map(|c| shared.model(c)).fold(0.0, |sum, m| sum + m.usd_per_hour);
        let planned = tokio::task::spawn_blocking(move || {
            let pools = shared.pools();
            let plan = pack::pack(&mut shared.snapshot(), &all, &pools, &shared.daemons());
            let types = pools.iter().flat_map(|p| p.types.iter());
            let offer = |t: &coracle_provisioning::PoolType| {
                (t.name.to_string(), (t.allocatable.cpu_milli, t.allocatable.memory_bytes))
            };
            (plan, types.map(offer).collect())
        });
        let (plan, allocatable) = planned.await.map_err(|e| Error::Request(e.to_string()))?;
        Ok(WhatIf { plan, waiting, usd_per_hour_now, allocatable })
    }

    /// Stops to read.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        self.tasks.shutdown().await;
    }
}

impl Shared {
    /// Finds out which pods nothing fits, as a running provisioner knows.
    async fn give_hope_up(self: &Arc<Self>) -> Result<(), Error> {
        let s = self.clone();
        let planned = tokio::task::spawn_blocking(move || {
            pack::pack(&mut s.snapshot(), &s.waiting(), &s.pools(), &s.daemons())
        });
        let plan = planned.await.map_err(|e| Error::Request(e.to_string()))?;
        *self.hopeless.lock() = plan.unschedulable.into_keys().collect();
        Ok(())
    }
}
