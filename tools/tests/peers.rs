//! Readers, guests and local users who mean harm, against processes: none of them stops `cnic target` or
//! `cnic chip` (docs/security.md). What memory and descriptors of a peer can do is tested in
//! `os/tests/peers.rs` and `bus`.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bus::uio::socket::UioClient;
use bus::uio::{BUFFERS_BYTES, FromHelper, RING_BYTES, STATUS_BYTES, ToHelper};
use os::net::Received;
use os::unix::Channel;

use common::chip::Chip;
use common::{IQN, Target, cnic, run};

/// The end of a pipe that is full, for a process to write to, and the other end, where nobody reads.
fn full_pipe() -> (Stdio, PipeReader) {
    /// `O_NONBLOCK` of Linux on the common machines.
    const NONBLOCK: i32 = 0o4000;
    let (reader, writer) = pipe().expect("a pipe");
    // Opened once more, so that the flag is not the writer's; how much fits is the system's choice.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = File::options().write(true).custom_flags(NONBLOCK).open(path).expect("it is ours");
    while filler.write(&[b'-'; 4096]).is_ok() {}
    (writer.into(), reader)
}

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").expect("it is always there").into()
}

#[test]
fn nobody_who_reads_a_targets_log_can_stop_it() {
    let (pipe, _reader) = full_pipe();
    for err in [pipe, full_disk()] {
        let args = ["target", "--listen", "127.0.0.1:0", "--iqn", IQN, "--lun", "ram:1M"];
        let mut target = Target::spawn(cnic().args(args).stderr(err));
        for _ in 0..3 {
            let (code, ..) =
                run(&["info", &format!("iscsi://{}/iqn.2026-01.org.example:no/0", target.portal)]);
            assert_ne!(code, 0, "there is no such target, and a line in the log");
        }
        let (code, _, err) = run(&["info", &target.url("", 0)]);
        assert_eq!(code, 0, "{err}");
        let (status, out) = target.stop();
        assert!(status.success() && out.contains("stopped after 1 logins"), "{status} {out}");
    }
}

#[test]
fn nobody_who_reads_a_chips_log_can_stop_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let (pipe, _reader) = full_pipe();
    for err in [pipe, full_disk()] {
        let mut chip = Chip::spawn(&path, &["--nat-local"], err);
        for _ in 0..3 {
            drop(UnixStream::connect(&path).expect("it listens"));
        }
        demo(&path);
        assert!(chip.stop().0.success());
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let out = cnic().arg("regs").stdout(full_disk()).output().expect("cnic runs");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && err.contains("the result cannot be written"), "{err}");
    // Whoever has seen enough is no failure, and standard error may be gone too.
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let status = cnic().arg("regs").stdout(writer).stderr(full_disk()).status().expect("cnic runs");
    assert!(status.success(), "{status}");
}

#[test]
fn a_client_that_says_nothing_keeps_nobody_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip = Chip::start(&path, &[]);
    let silent: Vec<UnixStream> = (0..4).map(|_| UnixStream::connect(&path).expect("it listens")).collect();
    demo(&path);
    drop(silent);
    assert!(chip.stop().0.success());
}

/// A driver finds the chip at `path` in order.
fn demo(path: &Path) {
    let (code, _, err) =
        run(&["demo", "--sessions", "1", "--resets", "1", "--socket", path.to_str().expect("text")]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn a_guest_gets_at_this_machine_by_rule_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let card = path.to_str().expect("text");
    let target = Target::start(&["--lun", "ram:1M"]);
    let (mut reader, writer) = pipe().expect("a pipe");
    let mut chip = Chip::spawn(&path, &[], writer.into());
    let (code, _, err) = run(&["info", &target.url("", 0), "--card", card]);
    assert_ne!(code, 0, "{err}");
    chip.stop();
    let mut log = String::new();
    reader.read_to_string(&mut log).expect("text");
    assert!(log.contains(&format!("a connection to {} was refused", target.portal)), "{log}");

    let port = target.portal.rsplit(':').next().expect("a port");
    let rule = format!("10.0.0.2:{port}=127.0.0.1:{port}");
    let _chip = Chip::spawn(&path, &["--nat", &rule], Stdio::null());
    let (code, _, err) = run(&["info", &format!("iscsi://10.0.0.2:{port}/{IQN}/0"), "--card", card]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn a_recording_is_its_owners_and_has_a_limit() {
    let dir = tempfile::tempdir().expect("a directory");
    let target = Target::start(&["--lun", "ram:4M"]);
    let (file, link) = (dir.path().join("wire.pcapng"), dir.path().join("link"));
    fs::write(&file, "old").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let read = |file: &Path, limit| {
        let file = file.to_str().expect("text");
        run(&["io", &target.url("", 0), "read", "--pcap", file, "--pcap-limit", limit])
    };
    let (code, _, err) = read(&file, "1M");
    assert!(code != 0 && err.contains("reached its limit"), "{code} {err}");
    let data = fs::metadata(&file).expect("it is there");
    assert_eq!(data.permissions().mode() & 0o777, 0o600);
    assert!((500_000..=(1 << 20) + 1000).contains(&data.len()), "{}", data.len());

    symlink(&file, &link).expect("a link");
    let (code, _, err) = read(&link, "4G");
    assert!(code == 7 && err.contains("cannot write"), "{code} {err}");
    assert_eq!(
        fs::metadata(&file).expect("it is there").len(),
        data.len(),
        "a link of somebody is not followed"
    );
}

/// The driver's memory is one file when the card is in another process; the helper gets another one.
#[test]
fn a_helper_gets_its_own_memory_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let (card, export) = (dir.path().join("chip"), dir.path().join("uio"));
    let _chip = Chip::start(&card, &[]);
    let mut driver = cnic()
        .args(["io", "iscsi://192.0.2.1/iqn.2026-01.org.example:disk/0", "read", "--card"])
        .arg(&card)
        .arg("--export-uio")
        .arg(&export)
        .stderr(Stdio::null())
        .spawn()
        .expect("cnic starts");
    let channel = until(|| Channel::connect(&export).ok());
    let mut helper = UioClient::default();
    helper.say(&FromHelper::Hello).expect("room");
    let mut sizes = Vec::new();
    until(|| {
        helper.outbox.flush(&channel).expect("it reads");
        let (mut bytes, mut fds, mut heard) = ([0; 4096], Vec::new(), Vec::new());
        let Ok(Received::Bytes(n)) = channel.recv(&mut bytes, &mut fds) else { return None };
        let size = |fd: &OwnedFd| {
            File::from(fd.try_clone().expect("a descriptor")).metadata().expect("a file").len()
        };
        sizes.extend(fds.iter().map(size));
        helper.received(&bytes[..n], fds, &mut heard).expect("messages");
        if heard.iter().any(|m| matches!(m, ToHelper::IfUp { .. } | ToHelper::OpenRefused(_))) {
            helper.say(&FromHelper::Open).expect("room");
        }
        heard.iter().any(|m| matches!(m, ToHelper::Opened(_))).then_some(())
    });
    driver.kill().expect("it runs");
    driver.wait().expect("it ends");
    let most = STATUS_BYTES + RING_BYTES + BUFFERS_BYTES;
    assert!(sizes.iter().any(|&s| s > 0) && sizes.iter().all(|&s| s <= most as u64), "{sizes:?}");
}

/// Asks again until there is an answer.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no answer");
}
