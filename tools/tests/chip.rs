//! `cnic chip` and `cnic regs`: sockets that come and go, clients that come and go, and an end that leaves
//! nothing behind.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use bus::pci::{Bar, Platform};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::vfio_user::client::{Client, ClientConfig};
use bus::vfio_user::link::SocketLink;
use bus::{ActorId, Cx, Instant};
use common::chip::Chip;
use common::run;
use os::unix::Channel;
use serde_json::Value;

/// Longest wait for what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Config space 0x78 and 0x80, mirrored in BAR 0: the window on register space.
const WINDOW_ADDRESS: u64 = 0x78;
const WINDOW: u64 = 0x80;
/// Where boot code says where the shared memory of function 0 begins.
const SHMEM_BASE: u32 = 0x16_0004;

/// Runs `f` on a client that attaches now.
fn with_client<R>(path: &Path, f: impl FnOnce(&mut Client<SocketLink>, &mut Cx<'_>) -> R) -> R {
    let (mut rng, mut trace) = (Seeded::new(1), Trace::off());
    // On a machine that is busy with other tests a second without an answer means nothing.
    let mut attempts = 0..5;
    loop {
        let now = Instant::from_nanos(os::clock::now_ns());
        let mut cx = Cx { now, actor: ActorId::new("test", 0), rng: &mut rng, trace: &mut trace };
        let link = SocketLink::new(Channel::connect(path).expect("the chip listens"));
        let config = ClientConfig { dma_limit: 1 << 20, ..ClientConfig::default() };
        match Client::attach(&mut cx, link, config) {
            Ok(mut client) => break f(&mut client, &mut cx),
            Err(e) => assert!(attempts.next().is_some(), "{e}"),
        }
    }
}

fn device(path: &Path) -> u32 {
    with_client(path, |client, cx| client.config_read(cx, 0).expect("the card answers"))
}

#[test]
fn clients_come_and_go_until_sigterm_and_nothing_is_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip = Chip::start(&path, &["--json"]);
    for _ in 0..3 {
        assert_eq!(device(&path), 0x1639_14e4);
    }
    let (status, out) = chip.stop();
    assert!(status.success(), "{status}");
    assert!(!path.exists(), "the socket is gone");
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&report["held"], &report["refused"]), (&0.into(), &0.into()), "{report}");
    assert!(report["clients"].as_u64() >= Some(3), "{report}");
    assert!(report.get("unmodelled").is_none());
}

#[test]
fn a_client_that_talks_nonsense_is_shut_out_and_others_wait_for_their_turn() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip = Chip::start(&path, &["--json"]);
    let mut first = UnixStream::connect(&path).expect("the chip listens");
    let mut second = UnixStream::connect(&path).expect("there is room in the queue");
    first.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    second.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // A message cannot be shorter than its header.
    for client in [&mut first, &mut second] {
        client.write_all(&[0; 64]).expect("it is taken");
        match client.read(&mut [0; 64]) {
            Ok(n) => assert_eq!(n, 0, "no answer"),
            // What was not read resets the connection.
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(device(&path), 0x1639_14e4);
    let (status, out) = chip.stop();
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert!(status.success() && report["clients"].as_u64() >= Some(3), "{report}");
    assert_eq!(report["held"], 0, "{report}");
}

#[test]
fn once_ends_with_the_first_client() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip = Chip::start(&path, &["--once"]);
    device(&path);
    let (status, out) = chip.wait();
    assert!(status.success(), "{status}");
    assert!(out.starts_with("stopped after 1 client(s)"), "{out}");
    assert!(!path.exists());
}

#[test]
fn the_command_line_decides_what_card_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip =
        Chip::start(&path, &["--mac", "00:10:18:01:02:03", "--link", "down", "--connections", "7"]);
    with_client(&path, |client, cx| {
        let command = client.config_read(cx, 4).expect("the card answers");
        client.config_write(cx, 4, command | 6);
        let mut read = |at: u32| {
            client.write32(cx, Bar(0), WINDOW_ADDRESS, at);
            client.read32(cx, Bar(0), WINDOW).expect("the card answers")
        };
        let shmem = read(SHMEM_BASE);
        assert_eq!((read(shmem + 0x50), read(shmem + 0x54)), (0x0010, 0x1801_0203), "MAC");
        assert_eq!(read(shmem + 0xc) & 1, 0, "link status");
        assert_eq!(read(shmem + 0x3e4) >> 16, 7, "connections");
    });
    assert!(chip.stop().0.success());
}

#[test]
fn signals_pull_the_cable_and_plug_it_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    // The client's clock stands still: its patience of a second covers the whole test.
    let mut chip = Chip::start(&path, &["--autoneg-ms", "100"]);
    with_client(&path, |client, cx| {
        let command = client.config_read(cx, 4).expect("the card answers");
        client.config_write(cx, 4, command | 6);
        let mut read = |at: u32| {
            client.write32(cx, Bar(0), WINDOW_ADDRESS, at);
            client.read32(cx, Bar(0), WINDOW).expect("the card answers")
        };
        let status = read(SHMEM_BASE) + 0xc;
        assert_eq!(read(status) & 1, 1, "link status");
        for (signal, link) in [("-USR1", 0), ("-USR2", 1), ("-USR1", 0)] {
            chip.signal(signal);
            let start = std::time::Instant::now();
            while read(status) & 1 != link {
                assert!(start.elapsed() < PATIENCE, "{signal} does nothing");
            }
        }
    });
    assert!(chip.stop().0.success());
}

#[test]
fn accesses_outside_of_the_table_are_listed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let mut chip = Chip::start(&path, &["--json", "--unmodelled", "--once"]);
    with_client(&path, |client, cx| {
        client.config_write(cx, 4, 6);
        client.write32(cx, Bar(0), 0xfff8, 5);
        assert_eq!(client.read32(cx, Bar(0), 0xfff8), Ok(5));
    });
    let (_, out) = chip.wait();
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    let wanted = serde_json::json!({ "address": 0xfff8, "reads": 1, "writes": 1 });
    // Attaching reads all of config space.
    assert!(report["unmodelled"].as_array().is_some_and(|all| all.contains(&wanted)), "{report}");
    assert_eq!(report["unlisted"], 0);
}

#[test]
fn a_path_that_cannot_be_used_is_one_line_of_advice() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let refused = |path: &Path| {
        let (code, out, err) = run(&["chip", "--socket", path.to_str().expect("text")]);
        assert!(code != 0 && out.is_empty() && err.lines().count() == 1, "{code} {out}{err}");
        err
    };
    let chip = Chip::start(&path, &[]);
    assert!(refused(&path).contains("another process listens there"));
    assert_eq!(device(&path), 0x1639_14e4, "the first one is not disturbed");
    drop(chip);
    assert!(path.exists(), "SIGKILL leaves the socket");
    assert!(Chip::start(&path, &[]).stop().0.success(), "it is taken over");

    assert!(refused(&dir.path().join("x".repeat(120))).contains("choose a shorter path"));
    assert!(refused(&dir.path().join("no/such/chip")).contains("create the directory first"));
    std::fs::write(&path, "not a socket").expect("a file");
    assert!(refused(&path).contains("choose another path"));
    assert_eq!(std::fs::read(&path).expect("still there"), b"not a socket");
    std::fs::remove_file(&path).expect("removed");
    let live = UnixListener::bind(&path).expect("a listener");
    assert!(refused(&path).contains("choose another path"));
    drop(live);
}

#[test]
fn the_register_table_is_printed() {
    let (code, out, _) = run(&["regs"]);
    assert_eq!(code, 0);
    let line = out.lines().find(|l| l.starts_with("MISC_COMMAND ")).expect("a register");
    assert!(line.ends_with("reset") && line.contains(" SC "), "{line}");
    let (code, json, _) = run(&["regs", "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, rows.len()), (0, out.lines().count() - 1));
    let id = rows.iter().find(|r| r["name"] == "MISC_ID").expect("a register");
    assert_eq!(
        (&id["address"], &id["reset"], &id["access"]),
        (&0x808.into(), &0x5709_2000.into(), &"RO".into())
    );
}
