//! CDBs, sense and parameter data.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("scsi_data", input));
