//! `cnic demo` in virtual time: repeatable, sound without a defect, and honest with one.

mod common;

use common::run;
use serde_json::Value;

const SMALL: [&str; 6] = ["demo", "--json", "--sessions", "2", "--resets", "1"];

fn demo(seed: &str, more: &[&str]) -> (i32, Value, String) {
    let args: Vec<&str> = SMALL.iter().chain(&["--seed", seed]).chain(more).copied().collect();
    let (code, out, err) = run(&args);
    (code, serde_json::from_str(out.lines().last().expect("a line")).expect("JSON"), err)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (code, first, err) = demo("7", &[]);
    assert_eq!((code, &first["verified"]), (0, &true.into()), "{err}{first}");
    assert_eq!((&first["recovered"], &first["lost"], &first["leaked"]), (&2.into(), &0.into(), &0.into()));
    assert!(first["history"].is_string());
    assert_eq!(demo("7", &[]).1, first);
    assert_ne!(demo("8", &[]).1["history"], first["history"]);
}

#[test]
fn a_defect_that_damages_data_is_named_by_block_and_check() {
    let (code, report, err) = demo("7", &["--defect", "misplaced-data"]);
    assert_eq!((code, &report["verified"]), (1, &false.into()), "{report}");
    assert!(report["defect"]["fired"].as_u64() > Some(0) && report["corrupt"].as_u64() > Some(0), "{report}");
    let last = err.lines().last().expect("a line");
    assert!(last.starts_with("cnic: not verified: session ") && last.contains(" block "), "{err}");
    assert!(last.contains("check S"), "{err}");
}

#[test]
fn a_defect_that_the_driver_survives_is_counted() {
    let (code, report, err) = demo("7", &["--defect", "duplicate-cqe"]);
    assert_eq!((code, &report["verified"]), (0, &true.into()), "{err}{report}");
    assert!(report["defect"]["fired"].as_u64() > Some(0), "{report}");
    assert!(report["defect"]["noticed"].as_u64() > Some(0), "{report}");
}
