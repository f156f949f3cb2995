//! The provisioner's shell: models of pools and nodes for the cores, and four loops around them —
//! buying nodes ([`provision`]), bringing them up and down ([`lifecycle`]), giving up what is not
//! needed or no longer as its pool says ([`disruption`], [`drift`]), and the status of pools
//! ([`pools`]). [`what_if`] asks the same models what they would do, and changes nothing.

mod disruption;
mod drift;
mod lifecycle;
mod pools;
mod provision;
mod what_if;

pub use what_if::{WhatIf, what_if};

use crate::{
    Stop,
    api::Writer,
    karpenter::{NodePool, Watched, is_true, requirements},
    world::World,
};
use coracle_clouds::{CapacityType, InstanceType, Simulated, catalogue, simulated::labels};
use coracle_provisioning::{
    Offering, Pool, PoolType,
    offering::{CAPACITY_TYPE, INSTANCE_TYPE, POOL, ZONE},
};
use coracle_scheduling::{Node, PodSpec, Resources, Snapshot};
use coracle_workloads::{PodView, Resource, daemon_set, pod};
use kube::{Client, ResourceExt, core::DynamicObject};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

/// An offering that was refused is not asked for again for this long, as Karpenter.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(180);

/// NodeClaims, for events.
pub(crate) const CLAIMS: Resource =
    Resource { api_version: crate::karpenter::API, kind: "NodeClaim", plural: "nodeclaims" };
/// NodePools, for events.
pub(crate) const POOLS: Resource =
    Resource { api_version: crate::karpenter::API, kind: "NodePool", plural: "nodepools" };

/// What all loops share.
pub(crate) struct Shared {
    world: Arc<World>,
    karpenter: Arc<Watched>,
    cloud: Arc<Simulated>,
    writer: Writer,
    unavailable: Mutex<HashMap<(String, String, CapacityType), Instant>>,
    /// Nodes of disruption commands that wait for their replacements.
    going: Mutex<HashSet<String>>,
    /// When pods last came to or left a node.
    touched: Mutex<HashMap<String, Instant>>,
    wake_provision: Notify,
    wake_disruption: Notify,
}

/// Starts the provisioner.
pub fn start(
    world: &Arc<World>,
    karpenter: &Arc<Watched>,
    client: &Client,
    cloud: &Arc<Simulated>,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) {
    let shared = Arc::new(Shared::new(world, karpenter, cloud, Writer::new(client, "karpenter")));
    let s = shared.clone();
    world.pods.on_change(move |c| {
        let on = |p: &Arc<PodView>| (p.node_name.clone(), pod::is_active(p));
        if c.old.map(on) == c.new.map(on) && c.new.is_some_and(|p| !p.node_name.is_empty()) {
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
    world.nodes.on_change(move |c| {
        let shape = |n: &k8s_openapi::api::core::v1::Node| {
            (n.metadata.labels.clone(), n.metadata.annotations.clone(), n.spec.clone())
        };
        if c.old.map(|n| shape(n)) != c.new.map(|n| shape(n)) {
            wake();
        }
    });
    lifecycle::start(&shared, stop, tasks);
    provision::start(&shared, stop, tasks);
    disruption::start(&shared, stop, tasks);
    pools::start(&shared, stop, tasks);
}

/// Labels of all types, made once.
fn type_labels(t: &'static InstanceType) -> Arc<BTreeMap<String, String>> {
    static ALL: OnceLock<HashMap<&'static str, Arc<BTreeMap<String, String>>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        catalogue().iter().map(|t| (t.name.as_str(), Arc::new(labels(t)))).collect()
    });
    all.get(t.name.as_str()).cloned().unwrap_or_default()
}

impl Shared {
    fn new(
        world: &Arc<World>,
        karpenter: &Arc<Watched>,
        cloud: &Arc<Simulated>,
        writer: Writer,
    ) -> Self {
        Self {
            world: world.clone(),
            karpenter: karpenter.clone(),
            cloud: cloud.clone(),
            writer,
            unavailable: Mutex::default(),
            going: Mutex::default(),
            touched: Mutex::default(),
            wake_provision: Notify::new(),
            wake_disruption: Notify::new(),
        }
    }

    async fn synced(&self) {
        tokio::join!(self.world.synced(), self.karpenter.synced());
    }

    /// A duration of the cloud's clock, by which everything about nodes is counted, in real time.
    fn real(&self, d: Duration) -> Duration {
        self.cloud.settings().real(d)
    }

    fn is_unavailable(&self, t: &str, zone: &str, c: CapacityType) -> bool {
        let unavailable = self.unavailable.lock();
        unavailable
            .get(&(t.to_owned(), zone.to_owned(), c))
            .is_some_and(|until| *until > Instant::now())
    }

    fn set_unavailable(&self, offerings: Vec<(String, String, CapacityType)>) {
        let until = Instant::now() + self.real(UNAVAILABLE_FOR);
        let mut unavailable = self.unavailable.lock();
        unavailable.retain(|_, t| *t > Instant::now());
        unavailable.extend(offerings.into_iter().map(|o| (o, until)));
    }

    /// The types that a pool may buy now, cheapest first.
    fn types(&self, pool: &NodePool) -> Vec<PoolType> {
        let zones: Vec<Arc<str>> = self.cloud.zones().iter().map(|z| z.as_str().into()).collect();
        let accepts = |key: &str, value: &str| {
            pool.requirements.get(key).is_none_or(|v| v.accepts(Some(value)))
        };
        let mut types = Vec::new();
        for t in catalogue() {
            let labels = type_labels(t);
            let fits = pool.requirements.0.iter().all(|(k, v)| match &**k {
                ZONE | CAPACITY_TYPE | POOL => true,
                k => v.accepts(labels.get(k).or_else(|| pool.labels.get(k)).map(String::as_str)),
            });
            if !fits {
                continue;
            }
            let mut offerings = Vec::new();
            for zone in zones.iter().filter(|z| accepts(ZONE, z)) {
                for c in [CapacityType::Spot, CapacityType::OnDemand] {
                    if accepts(CAPACITY_TYPE, c.as_str()) && !self.is_unavailable(&t.name, zone, c)
                    {
                        if let Some(usd_per_hour) = self.cloud.price(t, zone, c) {
                            offerings.push(Offering {
                                zone: zone.clone(),
                                capacity_type: c.as_str(),
                                usd_per_hour,
                            });
                        }
                    }
                }
            }
            offerings.sort_by(|a, b| {
                a.usd_per_hour.total_cmp(&b.usd_per_hour).then_with(|| a.zone.cmp(&b.zone))
            });
            if !offerings.is_empty() {
                types.push(PoolType {
                    name: t.name.as_str().into(),
                    labels,
                    allocatable: t.allocatable(),
                    capacity: t.capacity(),
                    offerings,
                });
            }
        }
        types.sort_by(|a, b| {
            a.offerings[0]
                .usd_per_hour
                .total_cmp(&b.offerings[0].usd_per_hour)
                .then_with(|| a.name.cmp(&b.name))
        });
        types
    }

    /// Claims of a pool.
    fn claims_of(&self, pool: &str) -> Vec<Arc<DynamicObject>> {
        let mut all = self.karpenter.claims.all();
        all.retain(|c| {
            c.metadata.labels.as_ref().and_then(|l| l.get(POOL)).is_some_and(|p| p == pool)
        });
        all
    }

    /// Pools that may buy, as the cores see them.
    fn pools(&self) -> Vec<Pool> {
        let mut pools = Vec::new();
        for o in self.karpenter.pools.all() {
            if o.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let p = NodePool::read(&o);
            if self.karpenter.classes.get("", &p.class).is_none() {
                continue;
            }
            let mut room: BTreeMap<String, i64> = BTreeMap::new();
            for (name, limit) in &p.limits {
                let Ok(q) = limit.parse::<coracle_meta::Quantity>() else { continue };
                room.insert(
                    name.clone(),
                    if name == "cpu" { q.millis_ceil() } else { q.units_ceil() },
                );
            }
            let mut pool = Pool {
                weight: p.weight,
                requirements: p.requirements.clone(),
                labels: p.labels.clone(),
                taints: p.taints.clone(),
                room,
                types: Arc::new(self.types(&p)),
                name: p.name,
            };
            for claim in self.claims_of(&pool.name) {
                let capacity = self.model(&claim).map(|(t, _)| t.capacity());
                pool.take_room(&capacity.unwrap_or_default());
            }
            pools.push(pool);
        }
        pools
    }

    /// The type of a claim, and the price that it pays now. Before its launch, what the plan
    /// counted with.
    fn model(&self, claim: &DynamicObject) -> Option<(&'static InstanceType, f64)> {
        let label = |k: &str| claim.metadata.labels.as_ref().and_then(|l| l.get(k)).cloned();
        let wanted = requirements(&claim.data["spec"]["requirements"]);
        let first = claim.metadata.annotations.as_ref().and_then(|a| a.get(PLANNED_TYPE)).cloned();
        let name = label(INSTANCE_TYPE).or(first)?;
        let t = self.cloud.instance_type(&name)?;
        let zone =
            label(ZONE).or_else(|| wanted.get(ZONE)?.listed.first().map(ToString::to_string))?;
        let c = label(CAPACITY_TYPE)
            .as_deref()
            .and_then(CapacityType::parse)
            .unwrap_or(CapacityType::OnDemand);
        Some((t, self.cloud.price(t, &zone, c).unwrap_or(t.usd_per_hour)))
    }

    /// A node that was bought and is not set up yet, as it will be.
    fn in_flight(&self, claim: &DynamicObject) -> Option<Node> {
        let (t, _) = self.model(claim)?;
        let name = claim.metadata.name.clone()?;
        let wanted = requirements(&claim.data["spec"]["requirements"]);
        let mut all = (*type_labels(t)).clone();
        for key in [ZONE, CAPACITY_TYPE] {
            if let Some(v) = wanted.get(key).and_then(|v| v.listed.first()) {
                all.insert(key.into(), v.to_string());
            }
        }
        all.extend(claim.metadata.labels.clone().unwrap_or_default());
        all.insert("kubernetes.io/hostname".into(), name.clone());
        let taint = |v: &serde_json::Value| coracle_scheduling::node::Taint {
            key: v["key"].as_str().unwrap_or_default().into(),
            value: v["value"].as_str().unwrap_or_default().into(),
            effect: v["effect"].as_str().unwrap_or_default().into(),
        };
        Some(Node {
            name,
            labels: all,
            taints: claim.data["spec"]["taints"]
                .as_array()
                .into_iter()
                .flatten()
                .map(taint)
                .collect(),
            allocatable: t.allocatable(),
            ..Node::default()
        })
    }

    /// All nodes with their pods: those that are there, and those that are on their way.
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for n in self.world.namespaces.all() {
            snapshot.set_namespace(&n.name_any(), Some(n.labels().clone()));
        }
        let going = self.going.lock().clone();
        let mut coming: HashSet<String> = HashSet::new();
        for claim in self.karpenter.claims.all() {
            if claim.metadata.deletion_timestamp.is_none() && !is_true(&claim, "Initialized") {
                if let Some(node) = self.in_flight(&claim) {
                    coming.insert(node.name.clone());
                    snapshot.set_node(node);
                }
            }
        }
        for n in self.world.nodes.all() {
            let mut node = Node::from_node(&n);
            let deleting = n.metadata.deletion_timestamp.is_some()
                || self
                    .karpenter
                    .claims
                    .get("", &node.name)
                    .is_some_and(|c| c.metadata.deletion_timestamp.is_some());
            node.unschedulable |= deleting || going.contains(&node.name);
            if !coming.contains(&node.name) {
                snapshot.set_node(node);
            }
        }
        for p in self.world.pods.all() {
            if !p.node_name.is_empty() && !pod::is_finished(&p) {
                snapshot.add_pod(p.asks.clone(), &p.node_name);
            }
        }
        let zones = self.cloud.zones().iter().map(|z| z.as_str().into()).collect();
        snapshot.set_domains(BTreeMap::from([(ZONE.into(), zones)]));
        snapshot
    }

    /// Pods that every node runs which takes them.
    fn daemons(&self) -> Vec<Arc<PodSpec>> {
        self.world
            .daemon_sets
            .all()
            .iter()
            .map(|d| {
                let mut spec = PodSpec::from_pod(&daemon_set::daemon_pod(d, "", ""));
                // The pin to a node's name says nothing about new nodes.
                let class = Arc::make_mut(&mut spec.class);
                class.node_terms.iter_mut().for_each(|(_, name)| *name = None);
                Arc::new(spec)
            })
            .collect()
    }
}

/// Annotation of claims: the type that the plan counted with.
pub(crate) const PLANNED_TYPE: &str = "coracle.dev/planned-instance-type";
/// Annotation of claims: why they were made.
pub(crate) const DECISION: &str = "coracle.dev/decision";

fn add_resources(total: &mut Resources, r: &Resources) {
    total.add(r, 1);
}
