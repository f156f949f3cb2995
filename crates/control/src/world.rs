//! The informers that all parts share.

use crate::{
    Stop,
    api::Written,
    informer::{GroupBy, Informer},
};
use coracle_workloads::{PodView, action, pod_view::Templates};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{Namespace, Node, PersistentVolumeClaim, ReplicationController, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// A part that waits to see its own writes gives up after this long; its next look will tell.
const SEE: Duration = Duration::from_secs(5);

/// All watched kinds.
pub struct World {
    /// Pods, grouped by their nodes.
    pub pods: Arc<Informer<PodView>>,
    /// Nodes, grouped by their machines.
    pub nodes: Arc<Informer<Node>>,
    /// Namespaces.
    pub namespaces: Arc<Informer<Namespace>>,
    /// Service accounts.
    pub service_accounts: Arc<Informer<ServiceAccount>>,
    /// Claims.
    pub claims: Arc<Informer<PersistentVolumeClaim>>,
    /// Deployments.
    pub deployments: Arc<Informer<Deployment>>,
    /// Replica sets.
    pub replica_sets: Arc<Informer<ReplicaSet>>,
    /// Stateful sets.
    pub stateful_sets: Arc<Informer<StatefulSet>>,
    /// Daemon sets.
    pub daemon_sets: Arc<Informer<DaemonSet>>,
    /// Revisions.
    pub revisions: Arc<Informer<ControllerRevision>>,
    /// Jobs.
    pub jobs: Arc<Informer<Job>>,
    /// Cron jobs.
    pub cron_jobs: Arc<Informer<CronJob>>,
    /// Budgets.
    pub budgets: Arc<Informer<PodDisruptionBudget>>,
    /// Replication controllers.
    pub replication_controllers: Arc<Informer<ReplicationController>>,
    /// Leases of nodes.
    pub leases: Arc<Informer<Lease>>,
}

/// What the parts that deal with nodes watch: the provisioner, and the simulated kubelets. They run
/// beside clusters whose other kinds they have no rights to.
pub struct ClusterState {
    /// Pods, grouped by their nodes.
    pub pods: Arc<Informer<PodView>>,
    /// Nodes, grouped by their machines.
    pub nodes: Arc<Informer<Node>>,
    /// Namespaces.
    pub namespaces: Arc<Informer<Namespace>>,
    /// Daemon sets.
    pub daemon_sets: Arc<Informer<DaemonSet>>,
    /// Budgets.
    pub budgets: Arc<Informer<PodDisruptionBudget>>,
    /// Leases of nodes.
    pub leases: Arc<Informer<Lease>>,
}

impl ClusterState {
    /// Starts to watch.
    pub fn new(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) -> Arc<Self> {
        Arc::new(Self {
            pods: pods(client, stop, tasks),
            nodes: nodes(client, stop, tasks),
            namespaces: whole(client, stop, tasks),
            daemon_sets: whole(client, stop, tasks),
            budgets: whole(client, stop, tasks),
            leases: leases(client, stop, tasks),
        })
    }

    /// Waits until everything has been listed once.
    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.namespaces.synced(),
            self.daemon_sets.synced(),
            self.budgets.synced(),
        );
    }
}

fn pods(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) -> Arc<Informer<PodView>> {
    let mut templates = Templates::default();
    let share = move |p: &mut PodView| templates.share(p);
    let node_name: GroupBy<PodView> = |p| &p.node_name;
    Informer::start(Api::all(client.clone()), share, Some(node_name), stop, tasks)
}

fn nodes(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) -> Arc<Informer<Node>> {
    let machine: GroupBy<Node> =
        |n| n.spec.as_ref().and_then(|s| s.provider_id.as_deref()).unwrap_or_default();
    Informer::start(Api::all(client.clone()), |_| (), Some(machine), stop, tasks)
}

fn leases(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) -> Arc<Informer<Lease>> {
    let api = Api::namespaced(client.clone(), "kube-node-lease");
    Informer::start(api, |_| (), None, stop, tasks)
}

fn whole<K>(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) -> Arc<Informer<K>>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    Informer::start(Api::all(client.clone()), |_| (), None, stop, tasks)
}

impl World {
    /// Starts to watch everything.
    pub fn new(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) -> Arc<Self> {
        Arc::new(Self {
            pods: pods(client, stop, tasks),
            nodes: nodes(client, stop, tasks),
            namespaces: whole(client, stop, tasks),
            service_accounts: whole(client, stop, tasks),
            claims: whole(client, stop, tasks),
            deployments: whole(client, stop, tasks),
            replica_sets: whole(client, stop, tasks),
            stateful_sets: whole(client, stop, tasks),
            daemon_sets: whole(client, stop, tasks),
            revisions: whole(client, stop, tasks),
            jobs: whole(client, stop, tasks),
            cron_jobs: whole(client, stop, tasks),
            budgets: whole(client, stop, tasks),
            replication_controllers: whole(client, stop, tasks),
            leases: leases(client, stop, tasks),
        })
    }

    /// What the parts that deal with nodes watch, watched once for all.
    pub fn cluster_state(&self) -> Arc<ClusterState> {
        Arc::new(ClusterState {
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            namespaces: self.namespaces.clone(),
            daemon_sets: self.daemon_sets.clone(),
            budgets: self.budgets.clone(),
            leases: self.leases.clone(),
        })
    }

    /// Waits until everything has been listed once.
    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.replica_sets.synced(),
            self.deployments.synced()
        );
        tokio::join!(
            self.stateful_sets.synced(),
            self.daemon_sets.synced(),
            self.revisions.synced(),
            self.jobs.synced()
        );
        tokio::join!(
            self.cron_jobs.synced(),
            self.budgets.synced(),
            self.claims.synced(),
            self.namespaces.synced()
        );
        tokio::join!(
            self.leases.synced(),
            self.service_accounts.synced(),
            self.replication_controllers.synced()
        );
    }

    /// Waits until a part's own writes are in the informers, so that it does not act on what was
    /// before them.
    pub async fn see(&self, written: &Written) {
        let all = async {
            self.pods.seen(written.pods).await;
            for (resource, revision) in &written.others {
                match *resource {
                    action::REPLICA_SETS => self.replica_sets.seen(*revision).await,
                    action::DEPLOYMENTS => self.deployments.seen(*revision).await,
                    action::STATEFUL_SETS => self.stateful_sets.seen(*revision).await,
                    action::DAEMON_SETS => self.daemon_sets.seen(*revision).await,
                    action::REVISIONS => self.revisions.seen(*revision).await,
                    action::JOBS => self.jobs.seen(*revision).await,
                    action::CRON_JOBS => self.cron_jobs.seen(*revision).await,
                    action::BUDGETS => self.budgets.seen(*revision).await,
                    action::CLAIMS => self.claims.seen(*revision).await,
                    action::NODES => self.nodes.seen(*revision).await,
                    _ => {}
                }
            }
        };
        if tokio::time::timeout(SEE, all).await.is_err() {
            tracing::debug!("own writes were not seen in time");
        }
    }
}
