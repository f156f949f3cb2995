//! The target that `CORACLE_FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<String> = LazyLock::new(|| {
    std::env::var("CORACLE_FUZZ_TARGET").expect("CORACLE_FUZZ_TARGET names no target")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| coracle_fuzzing::run(&TARGET, data));
