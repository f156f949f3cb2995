//! What a cloud sells at the moment, with its prices: the table that plans choose from.

use crate::CapacityType;
use coracle_scheduling::Resources;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A reserved machine costs this part of its list price: next to nothing, and still the less the
/// smaller, as Karpenter counts.
const RESERVED: f64 = 1e-7;

/// What one zone asks for a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Priced {
    /// Zone.
    pub zone: Arc<str>,
    /// Spot or on-demand.
    pub capacity_type: CapacityType,
    /// Price.
    pub usd_per_hour: f64,
}

/// A type of machine as the nodes of a node class would have it.
#[derive(Clone, Debug)]
pub struct InstanceType {
    /// Name, such as `c6a.8xlarge`.
    pub name: Arc<str>,
    /// Labels of its nodes, beside zone, capacity type and pool: Karpenter's well-known ones.
    pub labels: Arc<BTreeMap<String, String>>,
    /// What the machine has.
    pub capacity: Resources,
    /// What pods may use of it.
    pub allocatable: Resources,
    /// On-demand price, where nothing more exact is known.
    pub usd_per_hour: f64,
    /// Where it is sold, and for how much.
    pub offerings: Vec<Priced>,
}

impl InstanceType {
    /// The price of an offering, if it is sold. A reservation's is known wherever the type is.
    pub fn price(&self, zone: &str, c: CapacityType) -> Option<f64> {
        if c == CapacityType::Reserved {
            return Some(self.usd_per_hour * RESERVED);
        }
        let mut own = self.offerings.iter();
        own.find(|o| o.capacity_type == c && &*o.zone == zone).map(|o| o.usd_per_hour)
    }
}

/// All types that a node class may have, and where.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    zones: Vec<Arc<str>>,
    types: Vec<Arc<InstanceType>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Catalogue {
    /// A catalogue of types; of types with one name the last stands.
    pub fn new(zones: Vec<Arc<str>>, types: impl IntoIterator<Item = InstanceType>) -> Self {
        let mut all = Self { zones, ..Self::default() };
        for t in types {
            match all.by_name.get(&t.name) {
                Some(i) => all.types[*i] = Arc::new(t),
                None => {
                    all.by_name.insert(t.name.clone(), all.types.len());
                    all.types.push(Arc::new(t));
                }
            }
        }
        all
    }

    /// Zones in which machines may be.
    pub fn zones(&self) -> &[Arc<str>] {
        &self.zones
    }

    /// All types.
    pub fn types(&self) -> &[Arc<InstanceType>] {
        &self.types
    }

    /// A type by its name.
    pub fn get(&self, name: &str) -> Option<&Arc<InstanceType>> {
        self.by_name.get(name).map(|i| &self.types[*i])
    }
}
