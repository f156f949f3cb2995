//! What would be bought, before it is: the provisioner's own models and planner, over a cluster that
//! is only read.

use super::{Options, Shared};
use crate::{
    api::{Error, Writer},
    karpenter::Watched,
    world::World,
};
use coracle_clouds::Simulated;
use coracle_provisioning::{Plan, pack};
use coracle_scheduling::{PodSpec, pod::PodKey};
use coracle_workloads::pod;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
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

/// Plans for pods as if they were created now, beside those that wait for a node.
///
/// # Errors
/// When the cluster does not let its nodes, pods, namespaces, daemon sets, NodePools and NodeClaims
/// be listed, or has no NodePools.
pub async fn what_if(
    client: &Client,
    cloud: &Arc<Simulated>,
    pods: &[Pod],
    options: Options,
) -> Result<WhatIf, Error> {
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let world = World::new(client, &stopping, &mut tasks);
    let karpenter = Watched::new(client, &stopping, &mut tasks);
    let listed = async {
        tokio::join!(
            world.nodes.synced(),
            world.pods.synced(),
            world.namespaces.synced(),
            world.daemon_sets.synced(),
            karpenter.synced(),
        )
    };
    if tokio::time::timeout(PATIENCE, listed).await.is_err() {
        return Err(Error::Request(
            "the cluster did not list its nodes, pods, daemon sets, NodePools and NodeClaims: does it have NodePools, and may you list them?".into(),
        ));
    }
    let shared =
        Shared::new(&world, &karpenter, cloud, Writer::new(client, "coracle-plan"), options);
    shared.refresh_overlays();
    shared.resolve_buffers().await;
    let mut all: Vec<Arc<PodSpec>> = shared
        .world
        .pods
        .grouped("")
        .iter()
        .filter(|p| pod::is_active(p) && p.spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty))
        .map(|p| shared.wishes(&p.asks))
        .collect();
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
    let _ = stop.send(true);
    tasks.shutdown().await;
    Ok(WhatIf { plan, waiting, usd_per_hour_now, allocatable })
}
