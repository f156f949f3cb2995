//! The one scheduling model.
//!
//! What a pod asks for ([`pod`]), what a node offers ([`node`]), which labels are acceptable
//! ([`requirements`]), and the rules between them ([`predicates`], [`topology`]) exist once. The
//! scheduler binds with a [`Snapshot`], the provisioner packs with it, consolidation asks what-if
//! with a clone of it: nodes are shared, so a clone is cheap.
//!
//! Pure data and functions: no clock, no randomness, no IO, no log. Start with [`pod::PodSpec`],
//! then [`Snapshot::schedule`].
//!
//! Tested by cases worded as upstream's documentation and by an independent checker in the tests,
//! which shares no code with the predicates.
#![warn(missing_docs)]

pub mod node;
pub mod pod;
pub mod predicates;
pub mod requirements;
pub mod resources;
pub mod snapshot;
pub mod topology;

pub use node::Node;
pub use pod::PodSpec;
pub use requirements::{Requirements, Values};
pub use resources::Resources;
pub use snapshot::{FitError, Profile, Snapshot};
