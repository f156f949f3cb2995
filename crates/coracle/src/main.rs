//! Coracle
fn main() {}
