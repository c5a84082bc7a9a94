//! What runs of the fuzz targets kept, and everything that they ever broke, is replayed here: without
//! libFuzzer and with any compiler.
#![allow(clippy::print_stdout, reason = "the harness shows it when a test fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bus::streams::{Seeded, Streams};
use tests::fuzzing::{TARGETS, Target};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seeds(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = fuzz().join("seeds").join(target.name);
    let mut all: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|f| f.expect("a file").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("readable")))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "{} has no seeds", target.name);
    all
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of the list");
    for (path, input) in seeds(target) {
        println!("{}", path.display());
        (target.run)(&input);
    }
    // And a few inputs of noise: a target whose seeds are good for nothing is not silent.
    let mut noise = Seeded::new(1);
    for len in [0, 1, 7, 60, 300] {
        let mut input = vec![0; len];
        noise.fill("fuzz", &mut input);
        println!("noise of {len} bytes");
        (target.run)(&input);
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        /// A target that is in one list and not in another would never run.
        #[test]
        fn every_target_is_replayed_and_has_its_binary() {
            let listed: BTreeSet<&str> = TARGETS.iter().map(|t| t.name).collect();
            assert_eq!(BTreeSet::from([$(stringify!($name)),*]), listed);
            let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("it is there");
            for name in listed {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
                let main = fuzz().join(format!("fuzz_targets/{name}.rs"));
                let main = std::fs::read_to_string(main).expect("a target has its file");
                assert!(main.contains(&format!("run(\"{name}\"")), "{name} runs something else");
            }
        }
    };
}

replays! {
    text_keys
    pdu_framing
    scsi_data
    login_initiator
    login_target
    target_pdus
    lun_bring_up
    helper_frames
    helper_ipc
    uio_seam
    wire_frames
    chip_registers
    chip_memory
    driver_completions
    initiator_pdus
}
