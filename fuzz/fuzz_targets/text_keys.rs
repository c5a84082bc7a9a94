//! Text of login and discovery, names and addresses.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("text_keys", input));
