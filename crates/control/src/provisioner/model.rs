//! What the cores work on, read off the watched objects: pools with what they may buy, nodes with their
//! pods, what claims cost.

use super::{PLANNED_TYPE, Shared};
use crate::karpenter::{
    MAX_PRICE, NodePool, RESERVATION, is_true, policy, pool_of, requirements, taints,
};
use coracle_clouds::{
    CapacityReservation, CapacityType, InstanceType, Simulated, catalogue, simulated::labels,
};
use coracle_provisioning::{
    Offering, Pool, PoolType, Reservation,
    offering::{CAPACITY_TYPE, INSTANCE_TYPE, POOL, RESERVED, ZONE},
    overlay::{self, Overlay},
    policy::Policy,
};
use coracle_scheduling::{Node, PodSpec, Resources, Snapshot};
use coracle_workloads::{daemon_set, pod};
use jiff::Timestamp;
use kube::{ResourceExt, core::DynamicObject};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, OnceLock},
};

/// The machine of a claim.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// Its type.
    pub(super) instance_type: &'static InstanceType,
    /// What it costs now.
    pub(super) usd_per_hour: f64,
    /// What pods may use.
    pub(super) allocatable: Resources,
    /// What it has.
    pub(super) capacity: Resources,
}

/// Labels of all types, made once.
pub(super) fn type_labels(t: &'static InstanceType) -> Arc<BTreeMap<String, String>> {
    static ALL: OnceLock<HashMap<&'static str, Arc<BTreeMap<String, String>>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        catalogue().iter().map(|t| (t.name.as_str(), Arc::new(labels(t)))).collect()
    });
    all.get(t.name.as_str()).cloned().unwrap_or_default()
}

/// The types of a cloud that a pool may buy, cheapest first, but for offerings that are not to be had.
pub fn types(
    cloud: &Simulated,
    pool: &NodePool,
    overlays: &[Overlay],
    reservations: &[(CapacityReservation, usize)],
    is_unavailable: impl Fn(&str, &str, CapacityType) -> bool,
) -> Vec<PoolType> {
    let zones: Vec<Arc<str>> = cloud.zones().iter().map(|z| z.as_str().into()).collect();
    let accepts =
        |key: &str, value: &str| pool.requirements.get(key).is_none_or(|v| v.accepts(Some(value)));
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
        let usd_per_hour = |zone: &str, c: CapacityType| {
            let list = cloud.price(t, zone, c)?;
            Some(overlay::price(overlays, list, of_offering(&labels, pool, zone, c.as_str())))
        };
        let mut offerings = Vec::new();
        for zone in zones.iter().filter(|z| accepts(ZONE, z)) {
            for c in [CapacityType::Spot, CapacityType::OnDemand] {
                if !accepts(CAPACITY_TYPE, c.as_str()) || is_unavailable(&t.name, zone, c) {
                    continue;
                }
                let offering = |usd_per_hour| Offering {
                    zone: zone.clone(),
                    capacity_type: c.as_str(),
                    usd_per_hour,
                };
                offerings.extend(usd_per_hour(zone, c).map(offering));
            }
        }
        offerings.sort_by(|a, b| {
            a.usd_per_hour.total_cmp(&b.usd_per_hour).then_with(|| a.zone.cmp(&b.zone))
        });
        let reserved = reservations.iter().filter(|(r, left)| {
            r.instance_type == t.name
                && *left > 0
                && accepts(CAPACITY_TYPE, CapacityType::Reserved.as_str())
                && accepts(ZONE, &r.zone)
                && !is_unavailable(&t.name, &r.zone, CapacityType::Reserved)
        });
        let reservations: Vec<Reservation> = reserved
            .map(|(r, left)| Reservation {
                id: r.id.as_str().into(),
                zone: r.zone.as_str().into(),
                left: *left,
                usd_per_hour: usd_per_hour(&r.zone, CapacityType::Reserved).unwrap_or(0.0),
            })
            .collect();
        if !offerings.is_empty() || !reservations.is_empty() {
            let more = overlay::capacity(overlays, of_type(&labels, pool));
            let (mut allocatable, mut capacity) = (t.allocatable(), t.capacity());
            allocatable.add(&more, 1);
            capacity.add(&more, 1);
            let name = t.name.as_str().into();
            types.push(PoolType { name, labels, allocatable, capacity, offerings, reservations });
        }
    }
    types.sort_by(|a, b| {
        a.usd_per_hour().total_cmp(&b.usd_per_hour()).then_with(|| a.name.cmp(&b.name))
    });
    types
}

/// The labels that a node of an offering of a pool would have.
fn of_offering<'l>(
    labels: &'l BTreeMap<String, String>,
    pool: &'l NodePool,
    zone: &'l str,
    capacity_type: &'l str,
) -> impl Fn(&str) -> Option<&'l str> {
    move |k| match k {
        ZONE => Some(zone),
        CAPACITY_TYPE => Some(capacity_type),
        k => of_type(labels, pool)(k),
    }
}

/// The labels that a node of an offering would have for a claim.
fn labels_of<'l>(
    claim: &'l DynamicObject,
    labels: &'l BTreeMap<String, String>,
    zone: &'l str,
    c: CapacityType,
) -> impl Fn(&str) -> Option<&'l str> {
    move |k| match k {
        ZONE => Some(zone),
        CAPACITY_TYPE => Some(c.as_str()),
        k => labels.get(k).or_else(|| claim.metadata.labels.as_ref()?.get(k)).map(String::as_str),
    }
}

/// The labels that all nodes of a type of a pool would have.
fn of_type<'l>(
    labels: &'l BTreeMap<String, String>,
    pool: &'l NodePool,
) -> impl Fn(&str) -> Option<&'l str> {
    move |k| match k {
        POOL => Some(&pool.name),
        k => labels.get(k).or_else(|| pool.labels.get(k)).map(String::as_str),
    }
}

impl Shared {
    /// The types that a pool may buy now, cheapest first.
    pub(super) fn types(&self, pool: &NodePool) -> Vec<PoolType> {
        let overlays = self.overlays.read().clone();
        let reservations = self.reservations();
        types(&self.cloud, pool, &overlays, &reservations, |t, zone, c| {
            self.is_unavailable(t, zone, c)
        })
    }

    /// Reservations with how many machines of each are left, by the cloud and by claims: another process
    /// may have launched those.
    fn reservations(&self) -> Vec<(CapacityReservation, usize)> {
        let claims = self.karpenter.claims.all();
        let used = |id: &str| {
            let has = |c: &&Arc<DynamicObject>| {
                c.metadata.labels.as_ref().and_then(|l| l.get(RESERVATION)).is_some_and(|r| r == id)
            };
            claims.iter().filter(has).count()
        };
        let all = self.cloud.reservations().into_iter();
        all.map(|(r, left)| {
            let by_claims = r.count.saturating_sub(used(&r.id));
            (r, left.min(by_claims))
        })
        .collect()
    }

    /// Claims of a pool.
    pub(super) fn claims_of(&self, pool: &str) -> Vec<Arc<DynamicObject>> {
        let mut all = self.karpenter.claims.all();
        all.retain(|c| pool_of(c) == pool);
        all
    }

    /// Pools that may buy for pods, as the cores see them.
    pub(super) fn pools(&self) -> Vec<Pool> {
        let all = self.node_pools();
        let ready = all.iter().filter(|o| o.metadata.deletion_timestamp.is_none());
        let now = Timestamp::now();
        let read = ready.map(|o| NodePool::read(o)).filter(|p| p.replicas.is_none());
        let awake = read.filter(|p| !self.policy(&p.name).sleeps(now));
        awake.filter_map(|p| self.pool(&p)).collect()
    }

    /// All NodePools, as they are or are supposed to be.
    pub(super) fn node_pools(&self) -> Vec<Arc<DynamicObject>> {
        let mut all = self.karpenter.pools.all();
        let supposed = self.supposed.read().clone();
        all.retain(|o| supposed.iter().all(|s| s.metadata.name != o.metadata.name));
        all.extend(supposed);
        all
    }

    /// All NodePools as they are, read, by name.
    pub(super) fn pools_by_name(&self) -> HashMap<String, NodePool> {
        let all = self.karpenter.pools.all();
        all.iter().map(|o| NodePool::read(o)).map(|p| (p.name.clone(), p)).collect()
    }

    /// What all policies that are for a pool want together.
    pub(super) fn policy(&self, pool: &str) -> Policy {
        let mut all = Policy::default();
        for o in self.karpenter.policies.all() {
            let (pools, one) = policy(&o);
            if pools.is_empty() || pools.iter().any(|p| p == pool) {
                all.join(&one);
            }
        }
        all
    }

    /// A pool as the cores see it, if it can buy at all.
    pub(super) fn pool(&self, p: &NodePool) -> Option<Pool> {
        self.karpenter.classes.get("", &p.class)?;
        let mut room: BTreeMap<String, i64> = BTreeMap::new();
        for (name, limit) in &p.limits {
            let Ok(q) = limit.parse::<coracle_meta::Quantity>() else { continue };
            let amount = if name == "cpu" { q.millis_ceil() } else { q.units_ceil() };
            room.insert(name.clone(), amount);
        }
        let mut pool = Pool {
            name: p.name.clone(),
            weight: p.weight,
            requirements: p.requirements.clone(),
            labels: p.labels.clone(),
            taints: p.taints.clone(),
            room,
            usd_left: self.policy(&p.name).max_usd_per_hour,
            types: Arc::new(self.types(p)),
            min_values: p.min_values.clone(),
            relax_min_values: self.options.relax_min_values,
        };
        for claim in self.claims_of(&pool.name) {
            if let Some(m) = self.model(&claim) {
                pool.take_room(&m.capacity, m.usd_per_hour);
            }
        }
        Some(pool)
    }

    /// The machine of a claim as it is, at the price that it has now. Before its launch, as the plan
    /// counted with it.
    pub(super) fn model(&self, claim: &DynamicObject) -> Option<Model> {
        let label = |k: &str| claim.metadata.labels.as_ref().and_then(|l| l.get(k)).cloned();
        let wanted = requirements(&claim.data["spec"]["requirements"]);
        let first = claim.metadata.annotations.as_ref().and_then(|a| a.get(PLANNED_TYPE)).cloned();
        let t = self.cloud.instance_type(&label(INSTANCE_TYPE).or(first)?)?;
        let listed = |k: &str| Some(wanted.get(k)?.listed.first()?.to_string());
        let zone = label(ZONE).or_else(|| listed(ZONE))?;
        let paid = label(CAPACITY_TYPE).or_else(|| listed(CAPACITY_TYPE).filter(|c| c == RESERVED));
        let c = paid.as_deref().and_then(CapacityType::parse).unwrap_or(CapacityType::OnDemand);
        let list = self.cloud.price(t, &zone, c).unwrap_or(t.usd_per_hour);
        let overlays = self.overlays.read().clone();
        let labels = type_labels(t);
        let of = labels_of(claim, &labels, &zone, c);
        let more = overlay::capacity(&overlays, &of);
        let (mut allocatable, mut capacity) = (t.allocatable(), t.capacity());
        allocatable.add(&more, 1);
        capacity.add(&more, 1);
        let usd_per_hour = overlay::price(&overlays, list, of);
        Some(Model { instance_type: t, usd_per_hour, allocatable, capacity })
    }

    /// What a claim may become, cheapest first.
    pub(super) fn offerings(
        &self,
        claim: &DynamicObject,
    ) -> Vec<(&'static InstanceType, String, CapacityType)> {
        let wanted = requirements(&claim.data["spec"]["requirements"]);
        let listed = |k: &str| wanted.get(k).map(|v| v.listed.clone()).unwrap_or_default();
        let (zones, paid) = (listed(ZONE), listed(CAPACITY_TYPE));
        let noted = claim.metadata.annotations.as_ref().and_then(|a| a.get(MAX_PRICE));
        let most: f64 = noted.and_then(|p| p.parse().ok()).unwrap_or(f64::INFINITY);
        let mut all: Vec<(f64, &'static InstanceType, String, CapacityType)> = Vec::new();
        for t in listed(INSTANCE_TYPE).iter().filter_map(|n| self.cloud.instance_type(n)) {
            for (zone, c) in zones.iter().flat_map(|z| paid.iter().map(move |c| (z, c))) {
                let Some(c) = CapacityType::parse(c) else { continue };
                let Some(price) = self.price_of(claim, t, zone, c) else { continue };
                if price <= most + 1e-9 {
                    all.push((price, t, zone.to_string(), c));
                }
            }
        }
        all.sort_by(|a, b| {
            a.0.total_cmp(&b.0).then_with(|| (&a.1.name, &a.2, a.3).cmp(&(&b.1.name, &b.2, b.3)))
        });
        all.into_iter().map(|(_, t, zone, c)| (t, zone, c)).collect()
    }

    /// The price of an offering for a claim, after overlays.
    fn price_of(
        &self,
        claim: &DynamicObject,
        t: &'static InstanceType,
        zone: &str,
        c: CapacityType,
    ) -> Option<f64> {
        let list = self.cloud.price(t, zone, c)?;
        let overlays = self.overlays.read().clone();
        Some(overlay::price(&overlays, list, labels_of(claim, &type_labels(t), zone, c)))
    }

    /// A node that was bought and is not set up yet, as it will be.
    fn in_flight(&self, claim: &DynamicObject) -> Option<Node> {
        let Model { instance_type: t, allocatable, .. } = self.model(claim)?;
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
        Some(Node {
            name,
            labels: all,
            taints: taints(&claim.data["spec"]["taints"]),
            allocatable,
            ..Node::default()
        })
    }

    /// All nodes with their pods: those that are there, and those that are on their way.
    pub(super) fn snapshot(&self) -> Snapshot {
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
    pub(super) fn daemons(&self) -> Vec<Arc<PodSpec>> {
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
