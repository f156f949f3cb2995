//! Clouds: what can be bought, at what price, and buying it.
//!
//! [`Cloud`] is what the provisioner deals with; a [`Catalogue`] has what machines of a node class may
//! be. [`Simulated`] is a cloud that has no machines: launches, refusals, interruptions, spot prices, all
//! deterministic by a seed, of the types of [`families`], a price list. What a kubelet would do for its
//! machines is done elsewhere, through the Kubernetes API. Other clouds are crates of their own.
//!
//! Nothing here calls the Kubernetes API.
#![warn(missing_docs)]

pub mod catalogue;
pub mod cloud;
pub mod families;
pub mod simulated;

pub use catalogue::{Catalogue, InstanceType, Priced};
pub use cloud::{
    CapacityReservation, CapacityType, Claimed, ClassCondition, Cloud, CloudError, EC2_NODE_CLASS,
    Ended, Launch, LaunchError, Launched, Machine, NodeClassKind, Notice, Offer, Resolved,
};
pub use simulated::{Fault, FaultKind, Settings, Simulated};
