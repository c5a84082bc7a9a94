//! Initiators that say anything in the full feature phase.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("target_pdus", input));
