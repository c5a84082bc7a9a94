//! Any requests to the socket of the helper.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("helper_ipc", input));
