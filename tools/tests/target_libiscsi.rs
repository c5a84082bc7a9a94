//! `cnic target` against Debian's libiscsi tools: discovery, identification and capacity, with CHAP right,
//! wrong and missing, and what an open port of a target must survive.
#![allow(clippy::disallowed_methods, reason = "real peers live in real time; nothing asserts on the clock")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use common::{IQN, Target, text_of};
use tests::peer;

/// Runs one of the tools against `url`.
fn tool(name: &str, args: &[&str]) -> Option<(i32, String, String)> {
    let program = peer(name, "libiscsi-bin")?;
    // A tool that hangs fails here, not at the end of the job.
    let out = Command::new("timeout").arg("20").arg(program).args(args).output().expect("the tool runs");
    Some(text_of(&out))
}

#[test]
fn discovery_and_identification() {
    let target = Target::start(&["--lun", "ram:64M", "--lun", "ram:1G"]);
    let portal = format!("iscsi://{}", target.portal);
    let Some((code, out, err)) = tool("iscsi-ls", &["-s", &portal]) else { return };
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(&format!("Target:{IQN} Portal:{},1", target.portal)), "{out}");
    assert!(out.contains("Lun:0") && out.contains("Lun:1") && !out.contains("Lun:2"), "{out}");
    assert!(out.contains("Size:64M") || out.contains("Size:63M"), "{out}");

    let (code, out, err) = tool("iscsi-inq", &[&target.url("", 0)]).expect("same package");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("DIRECT_ACCESS"), "{out}");

    for (lun, bytes) in [(0u16, 64u64 << 20), (1, 1 << 30)] {
        let (code, out, err) =
            tool("iscsi-readcapacity16", &["-s", &target.url("", lun)]).expect("same package");
        assert_eq!((code, out.trim()), (0, bytes.to_string().as_str()), "{err}");
    }
    let (code, ..) = tool("iscsi-readcapacity16", &[&target.url("", 7)]).expect("same package");
    assert_ne!(code, 0, "there is no LUN 7");
    let elsewhere = format!("iscsi://{}/iqn.2026-01.org.example:other/0", target.portal);
    let (code, ..) = tool("iscsi-inq", &[&elsewhere]).expect("same package");
    assert_ne!(code, 0, "there is no such target");
}

#[test]
fn chap_is_enforced() {
    let target = Target::start(&["--lun", "ram:1M", "--chap", "me:secret-of-me-1"]);
    let inq = |login: &str| tool("iscsi-inq", &[&target.url(login, 0)]);
    let Some((code, _, err)) = inq("me%secret-of-me-1@") else { return };
    assert_eq!(code, 0, "{err}");
    for (login, why) in
        [("", "no secret"), ("me%secret-of-me-2@", "a wrong secret"), ("you%secret-of-me-1@", "a wrong user")]
    {
        let (code, _, err) = inq(login).expect("same package");
        assert_ne!(code, 0, "{why} must not be let in: {err}");
    }
    let (code, _, err) = inq("me%secret-of-me-1@").expect("same package");
    assert_eq!(code, 0, "refused logins must not hurt later ones: {err}");
}

#[test]
fn mutual_chap_proves_the_target() {
    let target =
        Target::start(&["--lun", "ram:1M", "--chap", "me:secret-of-me-1", "--mutual", "you:secret-of-you"]);
    let inq = |peer: &str| {
        let url = target.url("me%secret-of-me-1@", 0);
        tool("iscsi-inq", &[&format!("{url}?{peer}")])
    };
    let Some((code, _, err)) = inq("target_user=you&target_password=secret-of-you") else { return };
    assert_eq!(code, 0, "{err}");
    let (code, ..) = inq("target_user=you&target_password=something-else").expect("same package");
    assert_ne!(code, 0, "the initiator must not believe a target with another secret");
}

#[test]
fn garbage_and_dead_connections_do_not_hurt() {
    let target = Target::start(&["--lun", "ram:1M"]);
    let connect = || TcpStream::connect(&target.portal).expect("it listens");
    let mut idle = Vec::new();
    for i in 0..64u8 {
        let mut s = connect();
        match i % 4 {
            // Another protocol: the target must hang up.
            0 => {
                s.write_all(&b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".repeat(64)).expect("sent");
                s.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
                let end = s.read_to_end(&mut Vec::new());
                let hung_up = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
                assert!(end.is_ok() || end.is_err_and(hung_up), "it waits for more of that");
            }
            // A header that announces 16 MB, and nothing after it.
            1 => s.write_all(&[0x43, 0x87, 0, 0, 0xff, 0xff, 0xff, 0xff]).expect("sent"),
            2 => s.write_all(&[i; 48]).expect("sent"),
            _ => {}
        }
        idle.push(s);
    }
    let Some((code, _, err)) = tool("iscsi-readcapacity16", &[&target.url("", 0)]) else { return };
    assert_eq!(code, 0, "{err}");
    drop(idle);
    let (code, _, err) = tool("iscsi-inq", &[&target.url("", 0)]).expect("same package");
    assert_eq!(code, 0, "{err}");
}

#[test]
fn part_of_libiscsis_own_test_suite_passes() {
    let mut target = Target::start(&["--lun", "ram:16M"]);
    for family in ["SCSI.Read10", "SCSI.Write10", "SCSI.ReadCapacity16", "SCSI.Inquiry", "SCSI.TestUnitReady"]
    {
        let url = target.url("", 0);
        let Some((code, out, err)) =
            tool("iscsi-test-cu", &["--dataloss", "--fail", "-n", "-t", family, &url])
        else {
            return;
        };
        assert_eq!(code, 0, "{family}\n{out}\n{err}");
    }
    assert!(target.stop().0.success());
}

#[test]
fn write_protection_is_switched_from_outside() {
    let target = Target::start(&["--lun", "ram:1M"]);
    let url = target.url("", 0);
    let Some((code, out, err)) = tool("iscsi-swp", &["-s", "on", &url]) else { return };
    assert_eq!(code, 0, "{out}{err}");
    let (_, out, _) = tool("iscsi-swp", &[&url]).expect("same package");
    assert!(out.contains("SWP:1"), "{out}");
    let (code, out, err) = tool("iscsi-swp", &["-s", "off", &url]).expect("same package");
    assert_eq!(code, 0, "{out}{err}");
    let (_, out, _) = tool("iscsi-swp", &[&url]).expect("same package");
    assert!(out.contains("SWP:0"), "{out}");
}

/// QEMU asks GET LBA STATUS for everything that it copies. It reads the URLs with a module of its own
/// (qemu-block-extra).
#[test]
fn qemu_img_copies_and_maps_without_an_error_line() {
    let Some(qemu_img) = peer("qemu-img", "qemu-utils") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (disk, source, copy) = (path("disk"), path("source"), path("copy"));
    // Data at the start and in the middle, holes between and behind.
    let mut data = vec![0; 16 << 20];
    data[..1 << 20].fill(0xA5);
    data[8 << 20..9 << 20].fill(0x5A);
    std::fs::write(&source, &data).expect("written");
    std::fs::File::create(&disk).and_then(|f| f.set_len(16 << 20)).expect("a sparse file");
    for spec in [format!("file:{disk}"), "ram:16M".to_owned()] {
        let target = Target::start(&["--lun", &spec]);
        let url = target.url("", 0);
        let run = |args: &[&str]| {
            let out = Command::new("timeout").arg("30").arg(&qemu_img).args(args).output();
            text_of(&out.expect("qemu-img runs"))
        };
        let (code, out, err) = run(&["convert", "-n", "-f", "raw", "-O", "raw", &source, &url]);
        if ["Unknown protocol", "Unknown driver", "Unable to load module iscsi"]
            .iter()
            .any(|e| err.contains(e))
        {
            eprintln!("SKIPPED: qemu-img knows no iscsi:// (apt-get install qemu-block-extra)");
            return;
        }
        assert_eq!((code, err.as_str()), (0, ""), "{spec}: {out}");
        let (code, out, err) = run(&["map", "--output=json", "-f", "raw", &url]);
        assert_eq!((code, err.as_str()), (0, ""), "{spec}");
        assert_eq!(out.matches("\"data\": true").count(), 2, "two extents with data: {out}");
        assert_eq!(out.matches("\"zero\": true").count(), 2, "two holes: {out}");
        let (code, out, err) = run(&["convert", "-f", "raw", "-O", "raw", &url, &copy]);
        assert_eq!((code, err.as_str()), (0, ""), "{spec}: {out}");
        assert!(std::fs::read(&copy).expect("copied") == data, "{spec}: every byte");
    }
}
