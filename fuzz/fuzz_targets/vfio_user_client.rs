//! A server that answers anything to a vfio-user client.
#![no_main]

use bus::vfio_user::fuzzing::{lies, run_client};

libfuzzer_sys::fuzz_target!(|input: &[u8]| run_client(&lies(input)));
