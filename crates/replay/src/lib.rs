//! A day of a cluster in seconds: services that follow the daylight and are rolled out, jobs that come at
//! night, spot capacity that gets scarce; and the provisioner's own cores buying and giving up nodes
//! for them, tick by tick.
//!
//! [`trace`] makes the load and [`weather`] the market, both from a seed alone; [`run`] replays them;
//! [`report`] says what it cost beside what it could have cost, how long pods waited, and how often they
//! were moved; [`picture`] draws it. The same settings give the same day, action by action.
//!
//! No clock, no IO, no randomness but the seed's. Start with [`run::replay`].
#![warn(missing_docs)]

pub mod picture;
pub mod report;
pub mod run;
pub mod trace;
pub mod weather;

mod ideal;
mod random;
mod state;

pub use report::Report;
pub use run::{Settings, replay};
