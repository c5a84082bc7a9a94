//! An initiator that says anything in its login.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("login_target", input));
