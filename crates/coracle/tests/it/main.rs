//! Black-box tests: they start the real binary and drive it with real clients.

mod bad_input;
mod cli;
mod client;
mod cluster;
mod demo;
mod durability;
mod kubectl;
mod provisioning;
mod python;
mod workloads;
