//! What everybody meets first: help, misuse, and secrets that must not be seen.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::{IQN, Target, cnic, run};

const SECRET: &str = "sehr-geheim-123";

/// Misuse ends with `iscsiadm`'s code 7 and one line that says what to do.
fn misuse(args: &[&str]) -> String {
    let (code, out, err) = run(args);
    assert_eq!((code, out.as_str()), (7, ""), "{err}");
    assert_eq!(err.lines().count(), 1, "one line: {err}");
    assert!(!err.contains(SECRET), "{err}");
    err
}

#[test]
fn help_and_version_are_no_failure() {
    let (code, out, err) = run(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for command in ["demo", "target", "discover", "info", "io", "perf", "chip", "regs"] {
        assert!(out.contains(command), "{out}");
    }
    assert_eq!(run(&["--version"]).0, 0);
    let (code, out, _) = run(&["demo", "--help"]);
    assert!(code == 0 && out.contains("misplaced-data") && out.contains("duplicate-cqe"), "{out}");
}

#[test]
fn misuse_is_one_line_without_the_secret() {
    let url = format!("iscsi://me%{SECRET}@h/{IQN}/0");
    assert!(misuse(&["frobnicate"]).contains("cnic --help"));
    assert!(misuse(&["info"]).contains("<URL>"));
    assert!(misuse(&["info", &url, &url]).contains("unexpected argument"));
    assert!(misuse(&["io", &url, "scribble"]).contains("possible values"));
    assert!(misuse(&["info", &url.replace("iscsi:", "http:")]).contains("reads iscsi://"));
    assert!(misuse(&["perf", &url, "--bs", "lots"]).contains("write a size such as"));
    assert!(misuse(&["target", "--listen", "nowhere", "--iqn", IQN, "--lun", "ram:1M"]).contains("--listen"));
    let target = |more: &[&str]| {
        let mut args = vec!["target", "--listen", "127.0.0.1:0", "--lun", "ram:1M"];
        args.extend(more);
        misuse(&args)
    };
    assert!(target(&["--iqn", "disk"]).contains("starts with 'iqn.'"));
    assert!(target(&["--iqn", IQN, "--chap", SECRET]).contains("USER:SECRET"));
    assert!(target(&["--iqn", IQN, "--chap", &format!(":{SECRET}")]).contains("USER:SECRET"));
    assert!(target(&["--iqn", IQN, "--mutual", &format!("me:{SECRET}")]).contains("--chap"));
    assert!(
        target(&["--iqn", IQN, "--chap", &format!("me:{SECRET}"), "--mutual", &format!("me:{SECRET}")])
            .contains("differ")
    );
}

#[test]
fn a_failure_is_an_object_for_machines() {
    let (code, out, _) = run(&["info", "--json", "nonsense"]);
    let last = out.lines().last().expect("a line");
    let object: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!((code, object["exit"].as_i64()), (7, Some(7)));
    assert!(object["error"].as_str().expect("text").contains("iscsi://"));
}

#[test]
fn no_secret_in_the_process_list() {
    let pair = format!("me:{SECRET}");
    let target = Target::start(&["--lun", "ram:1M", "--chap", &pair]);
    let shown = std::fs::read(format!("/proc/{}/cmdline", target.child.id())).expect("proc is mounted");
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("--chap\0me:********\0"), "{shown}");
    assert!(!shown.contains(SECRET));
}

#[test]
fn a_chap_file_works_and_a_port_in_use_is_explained() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("chap");
    std::fs::write(&file, format!("me:{SECRET}\nyou:{SECRET}-too\n")).expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("ours");
    let mut target =
        Target::start(&["--lun", "ram:1M", "--chap-file", file.to_str().expect("UTF-8"), "--json"]);
    let (code, _, err) = run(&["target", "--listen", &target.portal, "--iqn", IQN, "--lun", "ram:1M"]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("choose another port"), "{err}");
    let (status, out) = target.stop();
    assert!(status.success());
    let report: serde_json::Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["logins"], 0);
}

#[test]
fn a_second_signal_is_not_needed_while_connections_are_open() {
    let mut target =
        Target::spawn(cnic().args(["target", "--listen", "[::1]:0", "--iqn", IQN, "--lun", "ram:1M"]));
    let idle: Vec<_> =
        (0..8).map(|_| std::net::TcpStream::connect(&target.portal).expect("it listens")).collect();
    let start = Instant::now();
    assert!(target.stop().0.success());
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(idle);
}

#[test]
fn interfaces_that_cannot_be_told_apart_are_refused() {
    let url = format!("iscsi://127.0.0.1:1/{IQN}/0");
    let twice = ["info", &url, "--iface", "ip=10.0.0.3/24,vlan=5", "--iface", "dhcp,vlan=5"];
    let err = misuse(&twice);
    assert!(err.contains("two IPv4 interfaces on VLAN 5"), "{err}");
}

#[test]
fn without_a_helper_the_one_that_is_missing_is_named() {
    let target = Target::start(&["--lun", "ram:1M"]);
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("uio");
    let socket = socket.to_str().expect("UTF-8");
    let (code, out, err) = run(&["info", &target.url("", 0), "--export-uio", socket]);
    assert_eq!((code, out.as_str()), (8, ""), "{err}");
    assert!(err.contains(&format!("start `iscsiuio --driver {socket}")), "{err}");
}

/// The frames of the last moments are what one looks for then.
#[test]
fn the_recording_of_a_login_that_fails_is_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("failed.pcapng");
    let file_arg = file.to_str().expect("UTF-8");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let (code, _, err) = run(&["info", &format!("iscsi://{nobody}/{IQN}/0"), "--pcap", file_arg]);
    assert!(code == 4 && err.contains(&format!("frames are in {file_arg}")), "{code}: {err}");
    let recorded = std::fs::read(&file).expect("a file");
    assert!(recorded.windows(4).any(|w| w == [192, 0, 2, 1]), "the router was asked for last");
}
