//! The patches of the Kubernetes API as pure functions on JSON values.
//!
//! [`json_patch`] (RFC 6902), [`merge`] (RFC 7386) and [`strategic`], which reads merge keys and
//! strategies from the schema; [`apply`] is server-side apply and the ownership of fields.
//!
//! It never looks at `resourceVersion` or names: preconditions belong to the registry. Tested with
//! upstream's documented cases and by properties (a merge of a diff gives the target; applying
//! twice gives what applying once gave).
#![warn(missing_docs)]

pub mod apply;
pub mod json_patch;
pub mod merge;
pub mod strategic;

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    DoesNotApply(String),
    /// The patch is larger than the server accepts: 413.
    #[error("{0}")]
    TooLarge(String),
}
