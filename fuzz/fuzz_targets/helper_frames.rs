//! A LAN and a card that say anything to the helper.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("helper_frames", input));
