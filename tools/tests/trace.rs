//! `--trace`: what the file shows to somebody who opens it in Perfetto.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::chip::Chip;
use common::{cnic, run};
use serde_json::Value;

/// The events of a trace file, and the names of its processes and lanes.
struct File {
    events: Vec<Value>,
    processes: BTreeMap<u64, String>,
    lanes: BTreeMap<(u64, u64), String>,
}

impl File {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a file");
        let mut whole: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(whole["displayTimeUnit"], "ns");
        let Value::Array(all) = whole["traceEvents"].take() else { panic!("no events") };
        let (meta, events): (Vec<_>, Vec<_>) = all.into_iter().partition(|e| e["ph"] == "M");
        let name = |e: &Value| e["args"]["name"].as_str().expect("a name").to_owned();
        let pid = |e: &Value| e["pid"].as_u64().expect("a number");
        let of = |kind: &'static str| meta.iter().filter(move |e| e["name"] == kind);
        let lane = |e: &Value| ((pid(e), e["tid"].as_u64().expect("a number")), name(e));
        Self {
            processes: of("process_name").map(|e| (pid(e), name(e))).collect(),
            lanes: of("thread_name").map(lane).collect(),
            events,
        }
    }

    /// `process: lane: kind name`, of everything there is.
    fn seen(&self) -> BTreeSet<String> {
        let of = |e: &Value| {
            let pid = e["pid"].as_u64().expect("a number");
            let lane = match e["cat"].as_str() {
                Some(cat) => cat,
                None => self.lanes[&(pid, e["tid"].as_u64().expect("a number"))].as_str(),
            };
            let (ph, name) = (e["ph"].as_str().expect("text"), e["name"].as_str().expect("text"));
            format!("{}: {lane}: {ph} {name}", self.processes[&pid])
        };
        self.events.iter().map(of).collect()
    }

    /// The names of the states of a lane, in order.
    fn states(&self, process: &str, lane: &str) -> Vec<&str> {
        let pid = self.processes.iter().find(|(_, n)| *n == process).expect("the process is there").0;
        let tid =
            self.lanes.iter().find(|((p, _), n)| p == pid && *n == lane).expect("the lane is there").0.1;
        let mine = self.events.iter().filter(|e| e["pid"] == *pid && e["tid"] == tid && e["ph"] == "B");
        mine.map(|e| e["name"].as_str().expect("text")).collect()
    }
}

/// Every pattern, the parts of it in order, is in something that was seen.
fn expect(seen: &BTreeSet<String>, patterns: &[&str]) {
    for pattern in patterns {
        let fits = |s: &String| {
            let mut rest = s.as_str();
            pattern.split('*').all(|part| match rest.find(part) {
                Some(at) => {
                    rest = &rest[at + part.len()..];
                    true
                }
                None => false,
            })
        };
        assert!(seen.iter().any(fits), "{pattern} is missing in {seen:#?}");
    }
}

#[test]
fn a_reset_and_the_recovery_from_it_can_be_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("demo.json");
    let path = file.to_str().expect("text");
    let args = ["demo", "--seed", "1", "--sessions", "1", "--resets", "1", "--json", "--trace", path];
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.lines().last().is_some_and(|l| l.contains("events are in") && l.contains(path)), "{err}");
    let file = File::read(&file);
    let seen = file.seen();
    expect(
        &seen,
        &[
            "card#0: registers: i read ",
            "card#0: registers: i write MISC_COMMAND",
            "card#0: doorbells: i doorbell ",
            "card#0: DMA: i DMA read",
            "card#0: DMA: i DMA write",
            "card#0: DMA: i publish",
            "card#0: events: i interrupt",
            "card#0: events: i reset: register write",
            "card#0: KWQ and KCQ: i KWQE CONNECT1",
            "card#0: KWQ and KCQ: i KCQE CONNECT_COMPLETE",
            "card#0: KWQ and KCQ: i KCQE INIT",
            "card#0: connection *: i WQE SCSI_CMD",
            "card#0: connection *: i CQE ",
            "card#0: connection *: i PDU out ScsiCommand",
            "card#0: connection *: i PDU in DataIn",
            "card#0: task: b SCSI_CMD",
            "card#0: task: e ",
            "adapter#0: task: b SCSI_CMD",
            "adapter#0: request: b request",
            "adapter#0: request: e request",
            "operator#0: events: i operator",
            "iscsid#0: session *: B stage",
        ],
    );
    let adapter = file.states("adapter#0", "state");
    assert!(
        adapter.starts_with(&["starting", "up", "going down", "resetting", "starting", "up"]),
        "{adapter:?}"
    );
    let session = file.states("adapter#0", "session 0");
    let life = ["not connected", "bringing up", "ready", "not connected", "bringing up", "ready"];
    assert!(session.starts_with(&life), "{session:?}");
    let times: Vec<f64> = file.events.iter().map(|e| e["ts"].as_f64().expect("a time")).collect();
    assert!(times.is_sorted());
    let begun = file.events.iter().filter(|e| e["ph"] == "b").count();
    let ended = file.events.iter().filter(|e| e["ph"] == "e").count();
    assert!(begun > 0 && begun == ended, "{begun} begun, {ended} ended");
}

#[test]
fn the_card_of_a_driver_elsewhere_is_drawn_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let (socket, file) = (dir.path().join("chip"), dir.path().join("chip.json"));
    let mut chip = Chip::start(&socket, &["--json", "--trace", file.to_str().expect("text")]);
    let socket = socket.to_str().expect("text");
    let (code, _, err) = run(&["demo", "--sessions", "1", "--resets", "1", "--socket", socket]);
    assert_eq!(code, 0, "{err}");
    let (status, out) = chip.stop();
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert!(status.success(), "{report}");
    let file = File::read(&file);
    assert_eq!(report["trace"]["events"].as_u64().map(|n| n > 1000), Some(true), "{report}");
    expect(
        &file.seen(),
        &[
            "card#0: registers: i read ",
            "card#0: registers: i write MISC_COMMAND",
            "card#0: doorbells: i doorbell",
            "card#0: DMA: i DMA write",
            "card#0: events: i interrupt",
            "card#0: events: i reset: register write",
            "card#0: events: i reset: client gone",
            "card#0: KWQ and KCQ: i KWQE",
            "card#0: KWQ and KCQ: i KCQE",
            "card#0: connection *: i WQE LOGIN",
            "card#0: connection *: i CQE",
            "card#0: task: b SCSI_CMD",
        ],
    );
}

#[test]
fn the_file_is_whole_whatever_ends_the_process() {
    let dir = tempfile::tempdir().expect("a directory");
    for signal in ["-TERM", "-KILL"] {
        let file = dir.path().join("demo.json");
        let mut child = cnic()
            .args(["demo", "--sessions", "1", "--resets", "1000", "--trace", file.to_str().expect("text")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cnic starts");
        while std::fs::metadata(&file).map_or(0, |m| m.len()) < 200_000 {
            assert!(child.try_wait().expect("wait works").is_none(), "the demo runs");
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
        child.wait().expect("it ends");
        assert!(File::read(&file).events.len() > 1000);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_one_line() {
    for file in ["/nowhere/trace.json", "/dev/full"] {
        let (code, out, err) = run(&["demo", "--trace", file]);
        assert!(code == 7 && out.is_empty() && err.lines().count() == 1, "{code} {out}{err}");
        assert!(err.contains(&format!("cannot write {file}")), "{err}");
    }
}
