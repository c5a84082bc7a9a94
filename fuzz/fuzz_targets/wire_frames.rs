//! A guest that sends any frames to the card's own network.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("wire_frames", input));
