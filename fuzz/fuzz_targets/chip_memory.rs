//! Memory that changes while the card reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("chip_memory", input));
