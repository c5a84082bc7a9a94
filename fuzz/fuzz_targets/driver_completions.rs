//! A card that lies to its driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("driver_completions", input));
