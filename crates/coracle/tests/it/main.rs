//! Black-box tests: they start the real binary and drive it with real clients.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod apply;
mod attach;
mod bad_input;
mod cli;
mod client;
mod clients;
mod cluster;
mod controller;
mod definitions;
mod demo;
mod drift;
mod durability;
mod ec2;
mod envtest;
mod explain;
mod extension;
mod golden;
mod history;
mod https;
mod kubectl;
mod openapi;
mod plan;
mod protobuf;
mod provisioning;
mod replay;
mod surface;
mod upstream;
mod workloads;
