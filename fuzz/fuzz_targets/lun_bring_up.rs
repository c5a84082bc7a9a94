//! A target that answers anything to the LUN bring-up.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("lun_bring_up", input));
