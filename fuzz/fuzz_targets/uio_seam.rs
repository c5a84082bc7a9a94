//! Any messages and descriptors at both ends of the uio socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("uio_seam", input));
