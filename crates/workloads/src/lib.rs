//! The built-in controllers as pure functions from observed state to actions
