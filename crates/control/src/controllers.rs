//! The workload controllers: which changes make them look, what they observe, which core decides.

use crate::{
    Stop,
    api::{Error, Writer},
    informer::{Informer, Key, key},
    queue::Queue,
    world::World,
};
use coracle_workloads::{
    Decision, PodView, Resource, action, cron_job, daemon_set, deployment, disruption, job, node,
    pod, replica_set, stateful_set,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Objects of one kind that are worked on at once.
const WORKERS: usize = 4;
/// How often pods that nobody looks after are collected.
const COLLECT_EVERY: Duration = Duration::from_secs(20);

type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// One controller: a queue, and how to decide for a key.
struct Controller {
    name: &'static str,
    account: &'static str,
    kind: Resource,
}

impl Controller {
    /// Looks at keys: `observe` gives the object's metadata and the decision about it.
    fn run<O>(
        self,
        world: &Arc<World>,
        clients: &Clients,
        queue: &Arc<Queue<Key>>,
        stop: &Stop,
        tasks: &mut JoinSet<()>,
        observe: O,
    ) where
        O: Fn(&World, &Key, Timestamp) -> Option<(ObjectMeta, Decision)> + Send + Sync + 'static,
    {
        let writer = Writer::new(&clients(self.account), self.name);
        let (world, observe, kind) = (world.clone(), Arc::new(observe), self.kind);
        queue.work(self.name, WORKERS, stop, tasks, move |k: Key| {
            let (world, observe, writer) = (world.clone(), observe.clone(), writer.clone());
            async move {
                world.synced().await;
                let Some((meta, decision)) = observe(&world, &k, Timestamp::now()) else {
                    return Ok(None);
                };
                apply(&world, &writer, &meta, kind, decision).await
            }
        });
    }
}

async fn apply(
    world: &World,
    writer: &Writer,
    meta: &ObjectMeta,
    kind: Resource,
    decision: Decision,
) -> Result<Option<Duration>, Error> {
    let deleted: Vec<(String, String, String)> = decision
        .actions
        .iter()
        .filter_map(|a| match a {
            coracle_workloads::Action::Delete { resource, namespace, name, uid, .. }
                if *resource == action::PODS =>
            {
                Some((namespace.clone(), name.clone(), uid.clone()))
            }
            _ => None,
        })
        .collect();
    let written = writer.act(meta, kind, decision.actions).await?;
    world.see(&written).await;
    for (namespace, name, uid) in deleted {
        let gone = || {
            world.pods.get(&namespace, &name).is_none_or(|p| {
                pod::is_deleting(&p.metadata) || p.metadata.uid.as_deref() != Some(&uid)
            })
        };
        for _ in 0..200 {
            if gone() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(decision.again_after)
}

/// Adds the key of every changed object.
fn on_self<K>(informer: &Informer<K>, queue: &Arc<Queue<Key>>)
where
    K: kube::Resource
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |c| {
        if let Some(o) = c.object() {
            queue.add(key(&**o));
        }
    });
}

/// Adds the owner of a kind of every changed object.
fn on_owned<K>(informer: &Informer<K>, owner: &'static str, queue: &Arc<Queue<Key>>)
where
    K: kube::Resource
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |c| {
        for o in c.old.into_iter().chain(c.new) {
            let owners = o.meta().owner_references.iter().flatten();
            for r in owners.filter(|r| r.kind == owner && r.controller == Some(true)) {
                queue.add((o.meta().namespace.clone().unwrap_or_default(), r.name.clone()));
            }
        }
    });
}

/// Pods that an object controls or might adopt.
fn own_or_orphan(world: &World, meta: &ObjectMeta) -> Vec<Arc<PodView>> {
    let mut pods = world.pods.owned_by(meta.uid.as_deref().unwrap_or_default());
    pods.extend(world.pods.orphans(meta.namespace.as_deref().unwrap_or_default()));
    pods
}

/// Starts all of them.
pub fn start(world: &Arc<World>, clients: &Clients, stop: &Stop, tasks: &mut JoinSet<()>) {
    let uid = |m: &ObjectMeta| m.uid.clone().unwrap_or_default();

    let queue = Queue::new();
    on_self(&world.deployments, &queue);
    on_owned(&world.replica_sets, "Deployment", &queue);
    let c = Controller {
        name: "deployment-controller",
        account: "deployment-controller",
        kind: action::DEPLOYMENTS,
    };
    c.run(world, clients, &queue, stop, tasks, move |w, k, now| {
        let d = w.deployments.get(&k.0, &k.1)?;
        let sets = w.replica_sets.owned_by(&uid(&d.metadata));
        Some((d.metadata.clone(), deployment::decide(&d, &sets, now)))
    });

    let queue = Queue::new();
    on_self(&world.replica_sets, &queue);
    on_owned(&world.pods, "ReplicaSet", &queue);
    let c = Controller {
        name: "replicaset-controller",
        account: "replicaset-controller",
        kind: action::REPLICA_SETS,
    };
    c.run(world, clients, &queue, stop, tasks, |w, k, now| {
        let rs = w.replica_sets.get(&k.0, &k.1)?;
        let pods = own_or_orphan(w, &rs.metadata);
        Some((rs.metadata.clone(), replica_set::decide(&rs, &pods, now)))
    });

    let queue = Queue::new();
    on_self(&world.stateful_sets, &queue);
    on_owned(&world.pods, "StatefulSet", &queue);
    on_owned(&world.revisions, "StatefulSet", &queue);
    let c = Controller {
        name: "statefulset-controller",
        account: "statefulset-controller",
        kind: action::STATEFUL_SETS,
    };
    c.run(world, clients, &queue, stop, tasks, move |w, k, now| {
        let s = w.stateful_sets.get(&k.0, &k.1)?;
        let (pods, revisions) =
            (w.pods.owned_by(&uid(&s.metadata)), w.revisions.owned_by(&uid(&s.metadata)));
        let claims: Vec<String> =
            w.claims.in_namespace(&k.0).iter().filter_map(|c| c.metadata.name.clone()).collect();
        let observed =
            stateful_set::Observed { pods: &pods, revisions: &revisions, claims: &claims };
        Some((s.metadata.clone(), stateful_set::decide(&s, &observed, now)))
    });

    let queue = Queue::new();
    on_self(&world.daemon_sets, &queue);
    on_owned(&world.pods, "DaemonSet", &queue);
    on_owned(&world.revisions, "DaemonSet", &queue);
    let (all, sets) = (queue.clone(), world.clone());
    world.nodes.on_change(move |c| {
        // Heartbeats change nothing that a daemon set looks at.
        let shape =
            |n: &k8s_openapi::api::core::v1::Node| (n.metadata.labels.clone(), n.spec.clone());
        if c.old.map(|n| shape(n)) != c.new.map(|n| shape(n)) {
            sets.daemon_sets.all().iter().for_each(|d| all.add(key(&**d)));
        }
    });
    let c = Controller {
        name: "daemonset-controller",
        account: "daemon-set-controller",
        kind: action::DAEMON_SETS,
    };
    c.run(world, clients, &queue, stop, tasks, move |w, k, now| {
        let d = w.daemon_sets.get(&k.0, &k.1)?;
        let (pods, revisions) =
            (w.pods.owned_by(&uid(&d.metadata)), w.revisions.owned_by(&uid(&d.metadata)));
        Some((d.metadata.clone(), daemon_set::decide(&d, &pods, &w.nodes.all(), &revisions, now)))
    });

    let queue = Queue::new();
    on_self(&world.jobs, &queue);
    on_owned(&world.pods, "Job", &queue);
    let c = Controller { name: "job-controller", account: "job-controller", kind: action::JOBS };
    c.run(world, clients, &queue, stop, tasks, move |w, k, now| {
        let j = w.jobs.get(&k.0, &k.1)?;
        let pods = w.pods.owned_by(&uid(&j.metadata));
        Some((j.metadata.clone(), job::decide(&j, &pods, now)))
    });

    let queue = Queue::new();
    on_self(&world.cron_jobs, &queue);
    on_owned(&world.jobs, "CronJob", &queue);
    let c = Controller {
        name: "cronjob-controller",
        account: "cronjob-controller",
        kind: action::CRON_JOBS,
    };
    c.run(world, clients, &queue, stop, tasks, move |w, k, now| {
        let cj = w.cron_jobs.get(&k.0, &k.1)?;
        let jobs = w.jobs.owned_by(&uid(&cj.metadata));
        Some((cj.metadata.clone(), cron_job::decide(&cj, &jobs, now)))
    });

    start_budgets(world, clients, stop, tasks);
    start_nodes(world, clients, stop, tasks);
}

fn start_budgets(world: &Arc<World>, clients: &Clients, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue = Queue::new();
    on_self(&world.budgets, &queue);
    let (q, w) = (queue.clone(), world.clone());
    world.pods.on_change(move |c| {
        let Some(p) = c.object() else { return };
        for b in w.budgets.in_namespace(p.metadata.namespace.as_deref().unwrap_or_default()) {
            q.add(key(&*b));
        }
    });
    let c = Controller {
        name: "disruption-controller",
        account: "disruption-controller",
        kind: action::BUDGETS,
    };
    c.run(world, clients, &queue, stop, tasks, |w, k, now| {
        let b = w.budgets.get(&k.0, &k.1)?;
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        let mut add = |m: &ObjectMeta, n: Option<i32>| {
            scales.insert(m.uid.clone().unwrap_or_default(), n.unwrap_or(1));
        };
        // A ReplicaSet of a Deployment stands for the whole Deployment, as a rollout moves pods.
        w.replica_sets.in_namespace(&k.0).iter().for_each(|r| {
            let owner =
                r.metadata.owner_references.iter().flatten().find(|o| o.kind == "Deployment");
            let whole =
                owner.and_then(|o| w.deployments.get(&k.0, &o.name)).and_then(|d| d.spec.replicas);
            add(&r.metadata, whole.or(r.spec.replicas));
        });
        w.stateful_sets.in_namespace(&k.0).iter().for_each(|s| add(&s.metadata, s.spec.replicas));
        w.replication_controllers
            .in_namespace(&k.0)
            .iter()
            .for_each(|r| add(&r.metadata, r.spec.as_ref().and_then(|s| s.replicas)));
        Some((b.metadata.clone(), disruption::decide(&b, &w.pods.in_namespace(&k.0), &scales, now)))
    });
}

fn start_nodes(world: &Arc<World>, clients: &Clients, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue = Queue::new();
    on_self(&world.nodes, &queue);
    let c = Controller { name: "node-controller", account: "node-controller", kind: action::NODES };
    c.run(world, clients, &queue, stop, tasks, |w, k, now| {
        let n = w.nodes.get("", &k.1)?;
        let lease = w.leases.get("kube-node-lease", &k.1);
        Some((n.metadata.clone(), node::decide(&n, lease.as_deref(), now)))
    });

    // Pods leave nodes whose taints they do not tolerate.
    let queue = Queue::new();
    on_self(&world.pods, &queue);
    let (q, w) = (queue.clone(), world.clone());
    world.nodes.on_change(move |c| {
        let taints =
            |n: &k8s_openapi::api::core::v1::Node| n.spec.as_ref().and_then(|s| s.taints.clone());
        let (Some(old), Some(new)) = (c.old, c.new) else { return };
        if taints(old) != taints(new) {
            let name = new.metadata.name.as_deref().unwrap_or_default();
            w.pods.grouped(name).iter().for_each(|p| q.add(key(&**p)));
        }
    });
    let c = Controller {
        name: "taint-eviction-controller",
        account: "node-controller",
        kind: action::PODS,
    };
    c.run(world, clients, &queue, stop, tasks, |w, k, now| {
        let p = w.pods.get(&k.0, &k.1)?;
        let n = w.nodes.get("", &p.node_name)?;
        Some((p.metadata.clone(), node::evict_tainted(&p, &n, now)))
    });

    let queue = Queue::new();
    queue.add((String::new(), "all".to_owned()));
    let (q, w) = (queue.clone(), world.clone());
    world.nodes.on_change(move |c| {
        let Some(gone) = c.old.filter(|_| c.new.is_none()) else { return };
        if !w.pods.grouped(gone.metadata.name.as_deref().unwrap_or_default()).is_empty() {
            q.add_after((String::new(), "all".to_owned()), Duration::from_secs(1));
        }
    });
    let c = Controller {
        name: "pod-garbage-collector",
        account: "pod-garbage-collector",
        kind: action::PODS,
    };
    c.run(world, clients, &queue, stop, tasks, |w, _, _| {
        let actions = node::collect_pods(&w.pods.all(), |n| w.nodes.get("", n).is_some());
        let mut decision = Decision::of(actions);
        decision.look_again(COLLECT_EVERY);
        Some((ObjectMeta::default(), decision))
    });
}
