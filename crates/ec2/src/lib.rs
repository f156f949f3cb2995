//! The EC2 cloud: machines of an EC2NodeClass (`karpenter.k8s.aws/v1`), bought through the cloud's public
//! API and nothing else.
//!
//! [`Ec2`] implements [`coracle_clouds::Cloud`]. Requests are signed and sent by `client`; what types
//! there are and what they cost is in `discovery` and `facts`; a class's terms are resolved in `resolve` and
//! kept in `resolved`; `start` makes machines with `userdata` and `launch`, `machines` finds and ends them,
//! `queue` hears of interruptions.
//! Cores are pure: they read the cloud's answers from text.
#![warn(missing_docs)]

mod class;
mod client;
mod cloud;
mod discovery;
mod facts;
mod launch;
mod machines;
mod profile;
mod queue;
mod resolve;
mod resolved;
mod settings;
mod start;
mod userdata;
mod web;
mod wire;

pub use cloud::Ec2;
pub use settings::Settings;
pub use userdata::Access;
