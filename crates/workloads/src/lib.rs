//! The built-in controllers as pure functions: what is observed in, what to do out.
//!
//! Each module decides for one kind of object, as upstream's controller of that name does. A
//! decision is a list of [`Action`]s, that a shell sends to the API server; names and revisions are
//! functions of the input, so deciding twice over the same state gives the same answer.
//!
//! No clock, no randomness, no IO: the time is an argument. Start with [`replica_set`], the
//! smallest whole controller; [`pod`] has the predicates that all share, over a [`PodView`].
#![warn(missing_docs)]

pub mod action;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod garbage;
pub mod job;
pub mod node;
pub mod pod;
pub mod pod_view;
pub mod replica_set;
pub mod revision;
pub mod stateful_set;

pub use action::{Action, Decision, Resource};
pub use pod_view::PodView;
