//! A target that lies to card and driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("initiator_pdus", input));
