//! What tests of several crates share.
//!
//! [`history`] proves that lists and watches told the truth about a run of concurrent writes. It
//! knows nothing of the store or of HTTP, so the same checker judges both. It is a dependency of
//! tests only.
#![warn(missing_docs)]

pub mod history;
pub mod random;
