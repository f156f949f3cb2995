//! The Kubernetes API as data.
//!
//! What differs from kind to kind is a table here: structure, required fields, merge keys, list
//! types, defaults, enumerations, printer columns, short names, selectable fields. Built-in kinds
//! come from the pack of their minor ([`pack`]), custom resources from their definition ([`crd`]);
//! both become the same [`Arena`] of definitions, and one walker each decodes, defaults and
//! validates them.
//!
//! It never does IO and holds no code for a single kind, save the named cell functions of
//! [`columns`] and the named rules of [`defaults`], which say in their table who uses them.
//!
//! Start with [`types`], then [`pack`], then [`decode`].
#![warn(missing_docs)]

pub mod cells;
pub mod columns;
pub mod crd;
pub mod decode;
pub mod defaults;
pub mod format;
pub mod jsonpath;
pub mod kinds;
pub mod minor;
pub mod openapi;
pub mod pack;
pub mod protobuf;
pub mod rules;
pub mod types;
pub mod validate;

pub use kinds::{Kind, ScalePaths, Scope, Subresource};
pub use minor::Minor;
pub use pack::Pack;
pub use types::{Arena, Def, DefId, ListType, PatchStrategy, Slot, Type};
