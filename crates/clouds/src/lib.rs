//! Clouds: what can be bought, at what price, and buying it.
//!
//! [`catalogue`] has every instance type of the simulated cloud, from a table with a row a family;
//! [`simulated`] sells them: launches, refusals, interruptions, spot prices, all deterministic by a
//! seed. Machines exist only as records: what a kubelet would do for them is done elsewhere,
//! through the Kubernetes API.
//!
//! It never calls the Kubernetes API and reads no clock. When a second cloud comes, what both have
//! in common becomes a trait. Start with [`simulated::Simulated`].
#![warn(missing_docs)]

pub mod catalogue;
pub mod simulated;

pub use catalogue::{Arch, InstanceType, catalogue};
pub use simulated::{
    CapacityReservation, CapacityType, Fault, FaultKind, Launch, LaunchError, Launched, Machine,
    Settings, Simulated,
};
