//! Faults that the simulated cloud shows.

use super::CapacityType;
use std::time::Duration;

/// A fault to show, and to which launches. Absent filters mean all.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Only this type.
    pub instance_type: Option<String>,
    /// Only this zone.
    pub zone: Option<String>,
    /// Only this capacity type.
    pub capacity_type: Option<CapacityType>,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// Launches fail.
    NoCapacity,
    /// The machine runs, its node never appears.
    NeverRegisters,
    /// Registration takes this long.
    SlowBoot(Duration),
    /// Prices are multiplied.
    Price(f64),
}

impl Fault {
    pub(super) fn hits(&self, t: &str, zone: &str, c: CapacityType) -> bool {
        self.instance_type.as_deref().is_none_or(|x| x == t)
            && self.zone.as_deref().is_none_or(|x| x == zone)
            && self.capacity_type.is_none_or(|x| x == c)
    }
}
