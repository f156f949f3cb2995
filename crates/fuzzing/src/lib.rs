//! Fuzz targets: functions that read bytes from outside, and assert what must hold of any of them.
//!
//! `fuzz/` makes a libFuzzer program of each (`cargo xtask fuzz TARGET`); the test of this crate runs
//! each over its corpus and over a few thousand mutations of it, without a fuzzer.
#![warn(missing_docs)]

mod objects;
mod patches;
mod texts;

/// A target: its name, which is its corpus' folder, and what it does with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("apply", patches::apply),
    ("cel", texts::cel),
    ("continue_token", texts::continue_token),
    ("definition", objects::definition),
    ("field_set", patches::field_set),
    ("json", texts::json),
    ("merge_patch", patches::merge_patch),
    ("json_patch", patches::json_patch),
    ("object", objects::object),
    ("protobuf", objects::protobuf),
    ("scalar", texts::scalar),
    ("selector", texts::selector),
    ("strategic_patch", patches::strategic_patch),
    ("yaml", texts::yaml),
];

/// Runs a target by its name.
///
/// # Panics
/// When there is none of this name, or when what the target asserts does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(n, _)| *n == name);
    target.unwrap_or_else(|| panic!("there is no target {name}")).1(data);
}
