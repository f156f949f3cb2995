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

/// A type that a pool may buy, with the offerings that the pool allows and that can be had.
#[derive(Clone, Debug)]
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
}

/// A pool that may buy nodes.
#[derive(Clone, Debug)]
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
    /// Types, cheapest first.
    pub types: Arc<Vec<PoolType>>,
}

impl Pool {
    /// Whether one more node of this capacity stays within the limits.
    pub fn has_room(&self, capacity: &Resources) -> bool {
        self.room.iter().all(|(name, left)| amount(capacity, name) <= *left)
    }

    /// Takes a node's capacity off the limits.
    pub fn take_room(&mut self, capacity: &Resources) {
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
