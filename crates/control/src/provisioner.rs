//! The provisioner's shell: models of pools and nodes for the cores ([`model`]), and loops around them:
//! buying nodes for pods ([`provision`]), for pools of a fixed size ([`static_pools`]) and for room that
//! is kept ([`buffers`]); bringing nodes up and down ([`lifecycle`], [`termination`]); giving up what is
//! not needed, no longer as its pool says, or broken ([`disruption`], [`drift`], [`repair`]); and the
//! status of pools and overlays ([`pools`], [`overlays`]). What was decided is written down
//! ([`decisions`]). A [`Reader`] asks the same models what they would do and why, and changes nothing.

mod buffers;
mod candidates;
mod classes;
mod command;
mod decisions;
mod disruption;
mod drift;
mod explain;
mod garbage;
mod gauges;
mod interruption;
mod lifecycle;
mod model;
mod overlays;
mod pools;
mod provision;
mod reader;
mod repair;
mod static_pools;
mod termination;

pub use explain::{Alternative, Budget, NodeFacts, PodFacts, PoolFacts};
pub use gauges::Provisioner;
pub use model::types;
pub use reader::{Drifting, Reader, WhatIf};

use crate::{
    Stop,
    api::Writer,
    karpenter::{Watched, provider_id},
    metrics::Metrics,
    world::ClusterState,
};
use coracle_clouds::{CapacityType, Cloud, Offer};
use coracle_provisioning::overlay::Overlay;
use coracle_scheduling::{PodSpec, pod::PodKey};
use coracle_workloads::{PodView, Resource, pod};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, core::DynamicObject};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

/// An offering that was refused is not asked for again for this long, as Karpenter.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(180);

/// NodeClaims, for events.
pub(crate) const CLAIMS: Resource =
    Resource { api_version: crate::karpenter::API, kind: "NodeClaim", plural: "nodeclaims" };
/// NodePools, for events.
pub(crate) const POOLS: Resource =
    Resource { api_version: crate::karpenter::API, kind: "NodePool", plural: "nodepools" };

/// How the provisioner decides where its objects leave it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Buy nodes whose types are more alike than `minValues` asks, and say so on the claim
    /// (Karpenter's `min-values-policy: BestEffort`).
    pub relax_min_values: bool,
    /// Plan as if pods had no preferences (Karpenter's `preference-policy: Ignore`).
    pub ignore_preferences: bool,
    /// Replace nodes that stay unhealthy (Karpenter's gate `NodeRepair`).
    pub node_repair: bool,
}

/// What all loops share.
pub(crate) struct Shared {
    options: Options,
    started: Instant,
    world: Arc<ClusterState>,
    karpenter: Arc<Watched>,
    cloud: Arc<dyn Cloud>,
    writer: Writer,
    /// Whether the cloud has looked at all node classes once.
    resolved: watch::Sender<bool>,
    unavailable: Mutex<HashMap<Offer, Instant>>,
    /// Nodes of disruption commands that wait for their replacements.
    going: Mutex<HashSet<String>>,
    /// When pods last came to or left a node.
    touched: Mutex<HashMap<String, Instant>>,
    /// NodePools as somebody asks what they would be like.
    supposed: RwLock<Vec<Arc<DynamicObject>>>,
    /// Overlays that hold, in their order.
    overlays: RwLock<Arc<Vec<Overlay>>>,
    decisions: decisions::Kept,
    metrics: Metrics,
    /// Pods that the last plan found no place for: nobody waits for them.
    hopeless: Mutex<HashSet<PodKey>>,
    /// What room each buffer wants to be kept.
    room: Mutex<buffers::Room>,
    wake_provision: Notify,
    wake_disruption: Notify,
}

/// Starts the provisioner.
pub fn start(
    world: &Arc<ClusterState>,
    karpenter: &Arc<Watched>,
    client: &Client,
    cloud: &Arc<dyn Cloud>,
    options: Options,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) -> Provisioner {
    let writer = Writer::new(client, "karpenter");
    let shared = Arc::new(Shared::new(world, karpenter, cloud, writer, options));
    let s = shared.clone();
    world.pods.on_change(move |c| {
        let on = |p: &Arc<PodView>| (p.node_name.clone(), pod::is_active(p));
        if c.old.map(on) == c.new.map(on) && c.new.is_some_and(|p| !p.node_name.is_empty()) {
            return;
        }
        // What the first list tells was so before: claims know when.
        if c.old.is_none() && !s.world.pods.is_synced() {
            return;
        }
        let mut touched = s.touched.lock();
        for p in c.old.into_iter().chain(c.new).filter(|p| !p.node_name.is_empty()) {
            touched.insert(p.node_name.clone(), Instant::now());
        }
        drop(touched);
        s.wake_provision.notify_one();
        s.wake_disruption.notify_one();
    });
    let s = shared.clone();
    let wake = move || {
        s.wake_provision.notify_one();
        s.wake_disruption.notify_one();
    };
    let w = wake.clone();
    karpenter.claims.on_change(move |_| w());
    let w = wake.clone();
    karpenter.pools.on_change(move |c| {
        // Writing a pool's status changes nothing about it.
        if c.old.map(|o| o.data["spec"].clone()) != c.new.map(|o| o.data["spec"].clone()) {
            w();
        }
    });
    let w = wake.clone();
    karpenter.classes.on_change(move |_| w());
    let w = wake.clone();
    karpenter.policies.on_change(move |_| w());
    world.nodes.on_change(move |c| {
        let shape =
            |n: &Node| (n.metadata.labels.clone(), n.metadata.annotations.clone(), n.spec.clone());
        if c.old.map(|n| shape(n)) != c.new.map(|n| shape(n)) {
            wake();
        }
    });
    lifecycle::start(&shared, stop, tasks);
    provision::start(&shared, stop, tasks);
    disruption::start(&shared, stop, tasks);
    pools::start(&shared, stop, tasks);
    classes::start(&shared, stop, tasks);
    garbage::start(&shared, stop, tasks);
    interruption::start(&shared, stop, tasks);
    static_pools::start(&shared, stop, tasks);
    overlays::start(&shared, stop, tasks);
    buffers::start(&shared, stop, tasks);
    if options.node_repair {
        repair::start(&shared, stop, tasks);
    }
    Provisioner(shared)
}

impl Shared {
    fn new(
        world: &Arc<ClusterState>,
        karpenter: &Arc<Watched>,
        cloud: &Arc<dyn Cloud>,
        writer: Writer,
        options: Options,
    ) -> Self {
        Self {
            options,
            started: Instant::now(),
            supposed: RwLock::default(),
            overlays: RwLock::default(),
            room: Mutex::default(),
            decisions: decisions::Kept::default(),
            metrics: Metrics::default(),
            hopeless: Mutex::default(),
            world: world.clone(),
            karpenter: karpenter.clone(),
            cloud: cloud.clone(),
            writer,
            resolved: watch::Sender::new(false),
            unavailable: Mutex::default(),
            going: Mutex::default(),
            touched: Mutex::default(),
            wake_provision: Notify::new(),
            wake_disruption: Notify::new(),
        }
    }

    /// Pods that wait for a node.
    fn unbound(&self) -> Vec<Arc<PodView>> {
        let gated = |p: &PodView| p.spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
        let mut all = self.world.pods.grouped("");
        all.retain(|p| pod::is_active(p) && !gated(p));
        all
    }

    /// The same, as plans see them.
    fn waiting(&self) -> Vec<Arc<PodSpec>> {
        self.unbound().iter().map(|p| self.wishes(&p.asks)).collect()
    }

    /// Whether this process may not have found again all that an earlier one left.
    fn is_young(&self) -> bool {
        self.started.elapsed() < Duration::from_secs(10)
    }

    /// Waits until everything has been listed once.
    async fn listed(&self) {
        tokio::join!(self.world.synced(), self.karpenter.synced());
    }

    /// Waits until everything is known that decisions need.
    async fn synced(&self) {
        self.listed().await;
        // A sender that is gone means the end.
        let _ = self.resolved.subscribe().wait_for(|r| *r).await;
    }

    /// The same; false if it is time to stop before.
    async fn begins(&self, stop: &mut Stop) -> bool {
        tokio::select! {
            () = crate::stopped(stop) => false,
            () = self.synced() => true,
        }
    }

    /// The node of a claim, by its machine.
    fn node_of(&self, claim: &DynamicObject) -> Option<Arc<Node>> {
        let id = Some(provider_id(claim)).filter(|id| !id.is_empty())?;
        self.world.nodes.grouped(id).into_iter().next()
    }

    /// The name of a claim's node; until that is there, the claim's own stands for it.
    fn node_name(&self, claim: &DynamicObject) -> String {
        let own = || claim.metadata.name.clone();
        self.node_of(claim).and_then(|n| n.metadata.name.clone()).or_else(own).unwrap_or_default()
    }

    /// The claim of a node, or of the one that will be: by its machine, or by the claim's own name.
    fn claim_of(&self, node: &str) -> Option<Arc<DynamicObject>> {
        let machine = |n: Arc<Node>| n.spec.as_ref()?.provider_id.clone().filter(|i| !i.is_empty());
        match self.world.nodes.get("", node).and_then(machine) {
            Some(id) => self.karpenter.claims.grouped(&id).into_iter().next(),
            None => self.karpenter.claims.get("", node),
        }
    }

    /// A duration of the cloud's clock, by which everything about nodes is counted, in real time.
    fn real(&self, d: Duration) -> Duration {
        d.div_f64(self.cloud.speed())
    }

    fn is_unavailable(&self, t: &str, zone: &str, c: CapacityType) -> bool {
        let unavailable = self.unavailable.lock();
        !unavailable.is_empty()
            && unavailable
                .get(&(t.into(), zone.into(), c))
                .is_some_and(|until| *until > Instant::now())
    }

    /// When the next of the refused offerings is asked for again.
    fn next_available(&self) -> Option<Duration> {
        let unavailable = self.unavailable.lock();
        let now = Instant::now();
        unavailable.values().filter(|t| **t > now).map(|t| *t - now).min()
    }

    fn set_unavailable(&self, offerings: Vec<Offer>) {
        let until = Instant::now() + self.real(UNAVAILABLE_FOR);
        let mut unavailable = self.unavailable.lock();
        unavailable.retain(|_, t| *t > Instant::now());
        unavailable.extend(offerings.into_iter().map(|o| (o, until)));
    }
}

/// Annotation of claims: the type that the plan counted with.
pub(crate) const PLANNED_TYPE: &str = "coracle.dev/planned-instance-type";
/// Annotation of claims: why they were made.
pub(crate) const DECISION: &str = "coracle.dev/decision";
