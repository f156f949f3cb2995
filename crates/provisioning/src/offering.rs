//! What can be bought: types of a pool and their offerings.

use coracle_scheduling::{Requirements, Resources, node::Taint};
use std::{collections::BTreeMap, sync::Arc};

/// Label of zones.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of capacity types.
pub const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
/// Label of instance types.
pub const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// Label of node names.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// Label of pools.
pub const POOL: &str = "karpenter.sh/nodepool";

/// A type in a zone, paid for in a way, at a price.
#[derive(Clone, Debug, PartialEq)]
pub struct Offering {
    /// Zone.
    pub zone: Arc<str>,
    /// `spot` or `on-demand`.
    pub capacity_type: &'static str,
    /// Price.
    pub usd_per_hour: f64,
}

/// The capacity type of machines that are paid for already.
pub const RESERVED: &str = "reserved";

/// Machines of a type in a zone that are paid for already, whether they run or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// Name of the reservation.
    pub id: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// How many of them do not run yet.
    pub left: usize,
    /// What running one costs more.
    pub usd_per_hour: f64,
}

/// A type that a pool may buy, with the offerings that the pool allows and that can be had.
#[derive(Clone, Debug, Default)]
pub struct PoolType {
    /// Name.
    pub name: Arc<str>,
    /// Labels of its nodes, without zone and capacity type.
    pub labels: Arc<BTreeMap<String, String>>,
    /// What pods may use.
    pub allocatable: Resources,
    /// What it has, for limits.
    pub capacity: Resources,
    /// Cheapest first.
    pub offerings: Vec<Offering>,
    /// What is paid for already.
    pub reservations: Vec<Reservation>,
}

impl PoolType {
    /// The least that it costs.
    pub fn usd_per_hour(&self) -> f64 {
        let bought = self.offerings.iter().map(|o| o.usd_per_hour);
        let reserved = self.reservations.iter().map(|r| r.usd_per_hour);
        bought.chain(reserved).fold(f64::INFINITY, f64::min)
    }
}

/// How many different values of a label the types of a node must have, so that its launch does not
/// hang on few of them (`minValues` of a requirement).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinValues {
    /// Key of the label.
    pub key: Arc<str>,
    /// Least number of values.
    pub values: usize,
}

/// A pool that may buy nodes.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// Pools of higher weight are tried first.
    pub weight: i32,
    /// What its nodes may be.
    pub requirements: Requirements,
    /// Labels of its nodes.
    pub labels: BTreeMap<String, String>,
    /// Taints of its nodes. Startup taints are not among them.
    pub taints: Vec<Taint>,
    /// What its nodes may have together, less what they have. Unlimited resources are absent.
    pub room: BTreeMap<String, i64>,
    /// What its nodes may cost together, less what they cost, in US dollars an hour; `None` for any price.
    pub usd_left: Option<f64>,
    /// Types, cheapest first.
    pub types: Arc<Vec<PoolType>>,
    /// How different the acceptable types of each node must be.
    pub min_values: Vec<MinValues>,
    /// Whether nodes whose types are not so different are bought all the same.
    pub relax_min_values: bool,
}

impl Pool {
    /// Whether one more node of this capacity and price stays within the limits.
    pub fn has_room(&self, capacity: &Resources, usd_per_hour: f64) -> bool {
        let paid = self.usd_left.is_none_or(|left| usd_per_hour <= left + 1e-9);
        paid && self.room.iter().all(|(name, left)| amount(capacity, name) <= *left)
    }

    /// Whether a node of another capacity and price in place of one stays within the limits.
    pub fn has_room_instead(&self, of: (&Resources, f64), other: (&Resources, f64)) -> bool {
        let paid = self.usd_left.is_none_or(|left| other.1 - of.1 <= left + 1e-9);
        paid && self.room.iter().all(|(name, left)| {
            let more = amount(other.0, name) - amount(of.0, name);
            more <= 0 || more <= *left
        })
    }

    /// Takes off the limits what a node of another capacity and price would need more.
    pub fn take_room_instead(&mut self, of: (&Resources, f64), other: (&Resources, f64)) {
        self.usd_left.iter_mut().for_each(|left| *left -= (other.1 - of.1).max(0.0));
        for (name, left) in &mut self.room {
            *left -= (amount(other.0, name) - amount(of.0, name)).max(0);
        }
    }

    /// Whether it has limits.
    pub fn is_limited(&self) -> bool {
        !self.room.is_empty() || self.usd_left.is_some()
    }

    /// The value of a label that nodes of a type have, whatever their offering.
    pub fn label<'p>(&'p self, t: &'p PoolType, key: &str) -> Option<&'p str> {
        match key {
            POOL => Some(&self.name),
            INSTANCE_TYPE => Some(&t.name),
            k => t.labels.get(k).or_else(|| self.labels.get(k)).map(String::as_str),
        }
    }

    /// Takes a node's capacity and price off the limits.
    pub fn take_room(&mut self, capacity: &Resources, usd_per_hour: f64) {
        self.usd_left.iter_mut().for_each(|left| *left -= usd_per_hour);
        for (name, left) in &mut self.room {
            *left -= amount(capacity, name);
        }
    }
}

fn amount(r: &Resources, name: &str) -> i64 {
    match name {
        "cpu" => r.cpu_milli,
        "memory" => r.memory_bytes,
        "ephemeral-storage" => r.ephemeral_bytes,
        "pods" => r.pods,
        "nodes" => 1,
        other => r.extended(other),
    }
}
