//! A target that answers anything to our login.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("login_initiator", input));
