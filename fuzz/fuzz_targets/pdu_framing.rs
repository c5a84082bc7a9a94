//! A byte stream in any pieces to the PDU framer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("pdu_framing", input));
