//! A client that says anything to a vfio-user server.
#![no_main]

use bus::vfio_user::fuzzing::{calls, run_server};

libfuzzer_sys::fuzz_target!(|input: &[u8]| run_server(&calls(input)));
