//! What the cores work on, read off the watched objects: pools with what they may buy, nodes with their
//! pods, what claims cost.

use super::{PLANNED_TYPE, Shared};
use crate::karpenter::{
    MAX_PRICE, NodePool, PRICE, RESERVATION, condition, is_true, policy, pool_of, requirements,
    taints,
};
use coracle_clouds::{CapacityReservation, CapacityType, Catalogue, InstanceType, Offer};
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
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// The machine of a claim.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// Its type.
    pub(super) instance_type: Arc<str>,
    /// Labels that all of its type have.
    pub(super) labels: Arc<BTreeMap<String, String>>,
    /// What it costs now.
    pub(super) usd_per_hour: f64,
    /// What pods may use.
    pub(super) allocatable: Resources,
    /// What it has.
    pub(super) capacity: Resources,
}

/// The types of a catalogue that a pool may buy, cheapest first, but for offerings that are not to be had.
pub fn types(
    catalogue: &Catalogue,
    pool: &NodePool,
    overlays: &[Overlay],
    reservations: &[(CapacityReservation, usize)],
    is_unavailable: impl Fn(&str, &str, CapacityType) -> bool,
) -> Vec<PoolType> {
    let accepts =
        |key: &str, value: &str| pool.requirements.get(key).is_none_or(|v| v.accepts(Some(value)));
    let mut types = Vec::new();
    for t in catalogue.types() {
        let fits = pool.requirements.0.iter().all(|(k, v)| match &**k {
            ZONE | CAPACITY_TYPE | POOL => true,
            k => v.accepts(t.labels.get(k).or_else(|| pool.labels.get(k)).map(String::as_str)),
        });
        if !fits {
            continue;
        }
        let usd_per_hour = |list: f64, zone: &str, c: CapacityType| {
            overlay::price(overlays, list, of_offering(&t.labels, pool, zone, c.as_str()))
        };
        let sold = t.offerings.iter().filter(|o| {
            accepts(ZONE, &o.zone)
                && accepts(CAPACITY_TYPE, o.capacity_type.as_str())
                && !is_unavailable(&t.name, &o.zone, o.capacity_type)
        });
        let mut offerings: Vec<Offering> = sold
            .map(|o| Offering {
                zone: o.zone.clone(),
                capacity_type: o.capacity_type.as_str(),
                usd_per_hour: usd_per_hour(o.usd_per_hour, &o.zone, o.capacity_type),
            })
            .collect();
        offerings.sort_by(|a, b| {
            a.usd_per_hour.total_cmp(&b.usd_per_hour).then_with(|| a.zone.cmp(&b.zone))
        });
        let reserved = CapacityType::Reserved;
        let has = reservations.iter().filter(|(r, left)| {
            *r.instance_type == *t.name
                && *left > 0
                && accepts(CAPACITY_TYPE, reserved.as_str())
                && accepts(ZONE, &r.zone)
                && !is_unavailable(&t.name, &r.zone, reserved)
        });
        let reservations: Vec<Reservation> = has
            .map(|(r, left)| Reservation {
                id: r.id.as_str().into(),
                zone: r.zone.as_str().into(),
                left: *left,
                usd_per_hour: t
                    .price(&r.zone, reserved)
                    .map_or(0.0, |list| usd_per_hour(list, &r.zone, reserved)),
            })
            .collect();
        if !offerings.is_empty() || !reservations.is_empty() {
            let more = overlay::capacity(overlays, of_type(&t.labels, pool));
            let (mut allocatable, mut capacity) = (t.allocatable.clone(), t.capacity.clone());
            allocatable.add(&more, 1);
            capacity.add(&more, 1);
            let (name, labels) = (t.name.clone(), t.labels.clone());
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
    /// What machines of a node class may be.
    pub(super) fn catalogue(&self, class: &Value) -> Option<Arc<Catalogue>> {
        let name = class["name"].as_str()?;
        self.cloud.catalogue(name)
    }

    /// The types that a pool may buy now, cheapest first.
    pub(super) fn types(&self, pool: &NodePool) -> Vec<PoolType> {
        let Some(catalogue) = self.catalogue(&pool.class) else { return Vec::new() };
        let overlays = self.overlays.read().clone();
        let reservations = self.reservations();
        types(&catalogue, pool, &overlays, &reservations, |t, zone, c| {
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
        let class = self.karpenter.class(&p.class)?;
        if condition(&class, "Ready").is_some_and(|c| c["status"] == "False") {
            return None;
        }
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
    /// counted with it; of a type that is not sold any more, as the claim says.
    pub(super) fn model(&self, claim: &DynamicObject) -> Option<Model> {
        let label = |k: &str| claim.metadata.labels.as_ref().and_then(|l| l.get(k)).cloned();
        let note = |k: &str| claim.metadata.annotations.as_ref().and_then(|a| a.get(k)).cloned();
        let wanted = requirements(&claim.data["spec"]["requirements"]);
        let name = label(INSTANCE_TYPE).or_else(|| note(PLANNED_TYPE))?;
        let listed = |k: &str| Some(wanted.get(k)?.listed.first()?.to_string());
        let zone = label(ZONE).or_else(|| listed(ZONE))?;
        let paid = label(CAPACITY_TYPE).or_else(|| listed(CAPACITY_TYPE).filter(|c| c == RESERVED));
        let c = paid.as_deref().and_then(CapacityType::parse).unwrap_or(CapacityType::OnDemand);
        let catalogue = self.catalogue(&claim.data["spec"]["nodeClassRef"]);
        let Some(t) = catalogue.as_ref().and_then(|all| all.get(&name)) else {
            let amounts = |f: &str| {
                let list = serde_json::from_value(claim.data["status"][f].clone()).ok()?;
                Some(Resources::from_list(Some(&list)))
            };
            return Some(Model {
                instance_type: name.into(),
                labels: Arc::default(),
                usd_per_hour: note(PRICE).and_then(|p| p.parse().ok()).unwrap_or(0.0),
                allocatable: amounts("allocatable")?,
                capacity: amounts("capacity")?,
            });
        };
        let list = t.price(&zone, c).unwrap_or(t.usd_per_hour);
        let overlays = self.overlays.read().clone();
        let of = labels_of(claim, &t.labels, &zone, c);
        let more = overlay::capacity(&overlays, &of);
        let (mut allocatable, mut capacity) = (t.allocatable.clone(), t.capacity.clone());
        allocatable.add(&more, 1);
        capacity.add(&more, 1);
        let usd_per_hour = overlay::price(&overlays, list, of);
        let (instance_type, labels) = (t.name.clone(), t.labels.clone());
        Some(Model { instance_type, labels, usd_per_hour, allocatable, capacity })
    }

    /// What a claim may become, cheapest first.
    pub(super) fn offerings(&self, claim: &DynamicObject) -> Vec<Offer> {
        let Some(catalogue) = self.catalogue(&claim.data["spec"]["nodeClassRef"]) else {
            return Vec::new();
        };
        let wanted = requirements(&claim.data["spec"]["requirements"]);
        let listed = |k: &str| wanted.get(k).map(|v| v.listed.clone()).unwrap_or_default();
        let (zones, paid) = (listed(ZONE), listed(CAPACITY_TYPE));
        let noted = claim.metadata.annotations.as_ref().and_then(|a| a.get(MAX_PRICE));
        let most: f64 = noted.and_then(|p| p.parse().ok()).unwrap_or(f64::INFINITY);
        let mut all: Vec<(f64, Offer)> = Vec::new();
        for t in listed(INSTANCE_TYPE).iter().filter_map(|n| catalogue.get(n)) {
            for (zone, c) in zones.iter().flat_map(|z| paid.iter().map(move |c| (z, c))) {
                let Some(c) = CapacityType::parse(c) else { continue };
                let Some(price) = self.price_of(claim, t, zone, c) else { continue };
                if price <= most + 1e-9 {
                    all.push((price, (t.name.clone(), zone.as_ref().into(), c)));
                }
            }
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let all: Vec<Offer> = all.into_iter().map(|(_, offer)| offer).collect();
        let mut had = all.clone();
        had.retain(|(t, zone, c)| !self.is_unavailable(t, zone, *c));
        // What was refused a moment ago is only asked for where there is nothing else.
        if had.is_empty() { all } else { had }
    }

    /// The price of an offering for a claim, after overlays.
    fn price_of(
        &self,
        claim: &DynamicObject,
        t: &InstanceType,
        zone: &str,
        c: CapacityType,
    ) -> Option<f64> {
        let list = t.price(zone, c)?;
        let overlays = self.overlays.read().clone();
        Some(overlay::price(&overlays, list, labels_of(claim, &t.labels, zone, c)))
    }

    /// A node that was bought and is not set up yet, as it will be.
    fn in_flight(&self, claim: &DynamicObject) -> Option<Node> {
        let Model { labels, allocatable, .. } = self.model(claim)?;
        let name = self.node_name(claim);
        let wanted = requirements(&claim.data["spec"]["requirements"]);
        let mut all = (*labels).clone();
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
                    .claim_of(&node.name)
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
        let zones = self.cloud.zones().into_iter().collect();
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
