//! One parser under libFuzzer; which one is the name of the binary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use provision::fuzz::TARGETS;

fuzz_target!(|data: &[u8]| {
    let name = env!("CARGO_BIN_NAME");
    for (_, target) in TARGETS.iter().filter(|(target, _)| *target == name) {
        target(data);
    }
});
