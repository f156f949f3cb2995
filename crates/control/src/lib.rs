//! Controllers, scheduler, provisioner and the kubelets of simulated nodes, wired to the Kubernetes
//! API. No policy lives here: each part observes, asks a core, and does what the core says.
//!
//! One [`informer::Informer`] a kind is shared by all parts ([`world::World`]); every part works
//! through a [`queue::Queue`] of keys, and writes with an identity of its own through
//! [`api::Writer`]. All of it needs a `kube::Client` and nothing else, so it runs beside our API
//! server or against any other.
//!
//! Start with [`run`], then [`controllers`].
#![warn(missing_docs)]

mod aggregation;
pub mod api;
pub mod controllers;
pub mod definitions;
pub mod garbage;
pub mod informer;
pub mod karpenter;
pub mod leader;
mod metrics;
pub mod namespaces;
pub mod provisioner;
pub mod queue;
pub mod scheduler;
pub mod simulation;
pub mod world;

use coracle_clouds::{Cloud, Simulated};
use coracle_scheduling::Profile;
use kube::Client;
use std::sync::Arc;
use tokio::{sync::watch, task::JoinSet};

/// Tells parts to stop.
pub type Stop = watch::Receiver<bool>;

/// Returns when it is time to stop.
pub async fn stopped(stop: &mut Stop) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|s| *s).await;
}

/// Where machines are bought, and who stands for their kubelets.
#[derive(Clone)]
pub struct Provider {
    /// The cloud.
    pub cloud: Arc<dyn Cloud>,
    /// The same, if its machines have no kubelets of their own.
    pub simulated: Option<Arc<Simulated>>,
}

impl From<Arc<Simulated>> for Provider {
    fn from(s: Arc<Simulated>) -> Self {
        Self { cloud: s.clone(), simulated: Some(s) }
    }
}

/// What the parts need.
pub struct Settings {
    /// Gives a client that acts as a service account of `kube-system`, or as a user when the name
    /// begins with `system:`.
    pub client: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// The certificate authority that pods get to see.
    pub ca_pem: String,
    /// How the scheduler ranks nodes.
    pub profile: Profile,
    /// Where nodes are bought; `None` to leave that to another process.
    pub cloud: Option<Provider>,
    /// How the provisioner decides.
    pub provisioner: provisioner::Options,
}

/// Starts only what upstream's API server does by itself, without a controller manager: removed
/// definitions take their objects with them.
pub fn run_server_side(
    client: &(dyn Fn(&str) -> Client + Send + Sync),
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) {
    definitions::start(&client("coracle-definition-cleanup"), stop, tasks);
    aggregation::start(&client("coracle-aggregator"), stop, tasks);
}

/// Starts all parts. They end when `stop` becomes true. Returns the provisioner, if there is one.
pub fn run(
    settings: &Settings,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) -> Option<provisioner::Provisioner> {
    run_server_side(settings.client.as_ref(), stop, tasks);
    let client = &settings.client;
    let world = world::World::new(&client("system:kube-controller-manager"), stop, tasks);
    controllers::start(&world, client, stop, tasks);
    garbage::start(&client("generic-garbage-collector"), stop, tasks);
    namespaces::start(&world, client, &settings.ca_pem, stop, tasks);
    scheduler::start(&world, &client("system:kube-scheduler"), settings.profile, stop, tasks);
    let provider = settings.cloud.as_ref()?;
    let state = world.cluster_state();
    let clients = ProvisionerClients {
        provisioner: client("coracle-provisioner"),
        nodes: client("coracle-simulated-nodes"),
    };
    Some(run_provisioner(&state, &clients, provider, settings.provisioner, stop, tasks))
}

/// Who the provisioner and the simulated kubelets are.
pub struct ProvisionerClients {
    /// The provisioner.
    pub provisioner: Client,
    /// The kubelets.
    pub nodes: Client,
}

/// Starts the provisioner and the kubelets of its simulated machines, and nothing else.
pub fn run_provisioner(
    state: &Arc<world::ClusterState>,
    clients: &ProvisionerClients,
    provider: &Provider,
    options: provisioner::Options,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) -> provisioner::Provisioner {
    let Provider { cloud, simulated } = provider;
    let karpenter = karpenter::Watched::new(&clients.provisioner, cloud.class_kind(), stop, tasks);
    if let Some(simulated) = simulated {
        simulation::start(state, &karpenter, &clients.nodes, simulated, stop, tasks);
    }
    provisioner::start(state, &karpenter, &clients.provisioner, cloud, options, stop, tasks)
}
