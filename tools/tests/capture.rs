//! `cnic chip --pcap`: what the file says to somebody who opens it in Wireshark.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::chip::Chip;
use common::run;
use driver::adapter::OperatorRequest;
use driver::iscsid::NodeRecord;
use iscsi::target::Auth;
use lab::load::LoadConfig;
use lab::oracle::Initial;
use lab::world::{FarConfig, World};
use serde_json::Value;

const TARGET: &str = "iqn.2026-01.org.example:captured";
/// Longest wait for what takes seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What tshark prints of `file`: the fields of every packet that passes `filter`, one packet a line.
fn tshark(program: &Path, decode: &str, file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new(program);
    command.args(["-n", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
    command.args(["-d", decode, "-r"]).arg(file).args(["-Y", filter, "-T", "fields"]);
    command.args(fields.iter().flat_map(|f| ["-e", f]));
    let out = command.output().expect("tshark runs");
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    // Debian's tshark says so when it is root; nothing else is expected.
    let complaints: Vec<&str> = err.lines().filter(|l| !l.contains("as user \"root\"")).collect();
    assert!(out.status.success() && complaints.is_empty(), "{filter}: {err}");
    text.lines().map(str::to_owned).collect()
}

/// Two sessions under verified load, and an MTU change. Requests are small: tshark 4.0 loses its place in
/// PDUs of many segments now and then.
fn small_requests_and_a_reset(socket: &Path) {
    let target = lab::demo::ram_target(TARGET, 2048, Auth::default());
    let config = FarConfig { target: Some(target), ..FarConfig::new(socket) };
    let mut world = World::attach(config).expect("the chip listens");
    world.bring_up().expect("the adapter comes up");
    let portal = world.portal().expect("there is a target");
    let sessions = world.login(&NodeRecord::new(TARGET, portal), 2).expect("both log in");
    let load = LoadConfig {
        depth: 4,
        max_bytes: 1024,
        write_percent: 50,
        think: Duration::from_millis(1),
        run: 1,
        initial: Initial::Zero,
    };
    let load = world.start_load(&sessions, load, 1024).expect("there is room");
    world.run_for(Duration::from_millis(200));
    load.borrow_mut().expect_recovery(world.now(), world.host().borrow().adapter.age());
    world.operate(OperatorRequest::ChangeMtu(9000)).expect("the adapter is up");
    assert!(world.run(PATIENCE, |_| load.borrow().recovering() == 0), "the sessions come back");
    assert_eq!(world.finish_load(&load, PATIENCE).lost, 0);
    world.shutdown().expect("it ends");
    assert_eq!((load.borrow().report().failed, load.borrow().report().corrupt), (0, 0));
}

#[test]
fn sessions_and_a_reset_under_load_open_as_iscsi() {
    let Some(program) = tests::peer("tshark", "tshark") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (path, file) = (dir.path().join("chip"), dir.path().join("wire.pcapng"));
    let mut chip = Chip::start(&path, &["--json", "--pcap", file.to_str().expect("text")]);
    small_requests_and_a_reset(&path);
    let (status, out) = chip.stop();
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert!(status.success() && report["pcap"].get("error").is_none(), "{report}");

    // The target took a free port, and the report says how to open the file.
    let decode = report["pcap"]["decode_as"][0].as_str().expect("a rule");
    let fields = [
        "frame.time_epoch",
        "tcp.flags.syn",
        "tcp.flags.ack",
        "tcp.flags.reset",
        "iscsi.opcode",
        "iscsi.keyvalue",
    ];
    let rows = tshark(&program, decode, &file, "frame", &fields);
    let rows: Vec<Vec<&str>> = rows.iter().map(|r| r.split('\t').collect()).collect();
    assert_eq!(report["pcap"]["frames"], rows.len() as u64);
    assert!(rows.is_sorted_by_key(|r| r[0]), "order in the file is order in time");
    // Two sessions log in, and log in again after the reset, in which the card breaks their connections.
    assert_eq!(rows.iter().filter(|r| r[1..3] == ["1", "0"]).count(), 4);
    assert!(rows.iter().filter(|r| r[3] == "1").count() >= 2);
    assert!(rows.iter().any(|r| r[5].contains("InitiatorName=iqn.2026-01.lab.cnic:initiator")));
    for (what, opcode) in [
        ("login", "0x03"),
        ("command", "0x01"),
        ("response", "0x21"),
        ("Data-In", "0x25"),
        ("logout", "0x06"),
    ] {
        assert!(rows.iter().any(|r| r[4].split(',').any(|o| o == opcode)), "no {what}");
    }
    let wrong = [
        "_ws.malformed",
        "tcp.checksum.status == \"Bad\" || ip.checksum.status == \"Bad\"",
        "tcp.analysis.lost_segment || tcp.analysis.retransmission || tcp.analysis.out_of_order",
        "tcp.analysis.ack_lost_segment || tcp.analysis.window_full || tcp.analysis.duplicate_ack",
    ];
    let found = tshark(&program, decode, &file, &wrong.join(" || "), &["frame.number", "_ws.col.Info"]);
    assert!(found.is_empty(), "{} packets, {:?}", found.len(), &found[..found.len().min(3)]);
}

#[test]
fn a_file_that_cannot_be_written_is_one_line_before_anything_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    for file in ["/nowhere/wire.pcapng", "/dev/full"] {
        let (code, out, err) = run(&["chip", "--socket", path.to_str().expect("text"), "--pcap", file]);
        assert!(code == 7 && out.is_empty() && err.lines().count() == 1, "{code} {out}{err}");
        assert!(err.contains(&format!("cannot write {file}")), "{err}");
        assert!(!path.exists(), "no socket is left");
    }
}
