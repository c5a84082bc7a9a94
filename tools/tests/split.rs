//! `cnic demo --split`: card and driver in two processes, and what is left when either of them is killed.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::chip::Chip;
use common::{cnic, run, text_of};
use serde_json::Value;

fn demo(more: &[&str]) -> (i32, Value, String) {
    let args: Vec<&str> =
        ["demo", "--json", "--sessions", "2", "--resets", "1"].iter().chain(more).copied().collect();
    let (code, out, err) = run(&args);
    (code, serde_json::from_str(out.lines().last().expect("a line")).expect("JSON"), err)
}

#[test]
fn the_demo_is_verified_with_the_card_in_a_process_of_its_own() {
    let (code, report, err) = demo(&["--split"]);
    assert_eq!((code, &report["verified"]), (0, &true.into()), "{err}{report}");
    assert_eq!((&report["recovered"], &report["leaked"], &report["lost"]), (&2.into(), &0.into(), &0.into()));
    assert!(report["commands"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_card_that_runs_already_serves_one_demo_after_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip = Chip::start(&path, &["--json"]);
    for _ in 0..2 {
        let (code, report, err) = demo(&["--socket", path.to_str().expect("text")]);
        assert_eq!((code, &report["verified"]), (0, &true.into()), "{err}{report}");
    }
    let (_, out) = chip.stop();
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&report["clients"], &report["held"], &report["refused"]), (&2.into(), &0.into(), &0.into()));
    assert_eq!(report["dma_refused"], 0, "{report}");
}

#[test]
fn a_card_that_dies_is_reported_and_nothing_is_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip = Chip::start(&path, &[]);
    let args = ["demo", "--json", "--sessions", "2", "--resets", "1000", "--socket"];
    let driver = cnic().args(args).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let driver = driver.expect("cnic starts");
    // Long enough for the load to flow on an idle machine; on a busy one the demo cannot begin, and says so.
    std::thread::sleep(Duration::from_millis(1500));
    chip.kill();
    let (code, out, err) = text_of(&driver.wait_with_output().expect("it ends"));
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(code, 1, "{err}{report}");
    assert!(err.lines().last().is_some_and(|l| l.contains("card")), "{err}");
    if report.get("error").is_none() {
        let counts = ["lost", "corrupt", "duplicated", "leaked"].map(|k| report[k].as_u64());
        assert_eq!((&report["card_lost"], counts), (&true.into(), [Some(0); 4]), "{report}");
    }
    let mut chip = Chip::start(&path, &[]);
    let (code, report, err) = demo(&["--socket", path.to_str().expect("text")]);
    assert_eq!((code, &report["verified"]), (0, &true.into()), "{err}{report}");
    assert!(chip.stop().0.success());
}

#[test]
fn without_a_card_there_is_one_line_of_advice() {
    let (code, out, err) = run(&["demo", "--socket", "/nowhere/chip"]);
    assert!(code == 1 && out.is_empty() && err.lines().count() == 1, "{code} {out}{err}");
    assert!(err.contains("no card listens at /nowhere/chip") && err.contains("cnic chip --socket"), "{err}");
    let (code, _, err) = run(&["demo", "--split", "--seed", "1"]);
    assert!(code == 7 && err.contains("cannot be used with"), "{err}");
}
