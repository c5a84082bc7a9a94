//! A guest that writes any registers beside its driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tests::fuzzing::run("chip_registers", input));
