//! Black-box tests: they start the real binary and drive it with real clients.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod apply;
mod bad_input;
mod cli;
mod client;
mod cluster;
mod definitions;
mod demo;
mod durability;
mod golden;
mod history;
mod kubectl;
mod protobuf;
mod provisioning;
mod python;
mod upstream;
mod workloads;
