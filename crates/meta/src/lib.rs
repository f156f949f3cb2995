//! Kubernetes' own values, and nothing else.
//!
//! Quantities, durations, times, names, label and field selectors, group/version/kind, JSON as
//! the API reads it, and the `Status` that every failure becomes. Each module is a value with a
//! parser, a printer and its order.
//!
//! It never does IO, reads a clock or knows a kind by name. Start with [`Quantity`] for the style
//! of the modules and with [`Status`] for how errors look everywhere else.
//!
//! Tested by unit tests with upstream's own cases and by property tests of round trips.
#![warn(missing_docs)]

pub mod cron;
pub mod field_selector;
pub mod groups;
pub mod gvk;
pub mod json;
pub mod name;
pub mod pattern;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod time;

pub use field_selector::FieldSelector;
pub use gvk::{GroupResource, Gvk};
pub use quantity::Quantity;
pub use selector::{LabelSelector, Requirement};
pub use status::Status;

/// JSON objects as the API server handles them: keys in sorted order.
pub type Object = serde_json::Map<String, serde_json::Value>;
