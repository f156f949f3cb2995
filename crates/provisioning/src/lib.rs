//! Which nodes to buy for pending pods, and which to give up.
//!
//! [`pack`] turns pending pods, existing nodes and offerings into a [`Plan`]; [`consolidate`] asks
//! what-if: could these pods run on fewer or cheaper nodes? Both work on the scheduler's own
//! [`coracle_scheduling::Snapshot`], so what they promise the scheduler can do. A plan is plain
//! data: what to buy, what goes where, what it costs, how far that is from a lower bound, and why.
//!
//! No clock, no randomness, no IO. Start with [`offering`], then [`pack`].
//!
//! Tested by an independent checker over random pods, pools and catalogues.
#![warn(missing_docs)]

pub mod budget;
pub mod buffer;
pub mod checker;
pub mod consolidate;
pub mod drain;
pub mod offering;
pub mod overlay;
pub mod pack;
pub mod policy;

pub use consolidate::{Candidate, Command, Terms, Verdict};
pub use offering::{MinValues, Offering, Pool, PoolType, Reservation};
pub use pack::{NewNode, Place, Plan};
