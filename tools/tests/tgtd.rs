//! The commands against a target that is not ours: tgtd.
#![allow(clippy::disallowed_methods, reason = "real peers live in real time; nothing asserts on the clock")]

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{IQN, cnic, run, text_of};
use tests::tgtd::Tgtd;

const SIZE: u64 = 32 << 20;

/// A daemon with one target: LUN 1 is a file.
fn tgtd(
    dir: &tempfile::TempDir,
    incoming: Option<(&str, &str)>,
    outgoing: Option<(&str, &str)>,
) -> Option<Tgtd> {
    let mut tgtd = Tgtd::start()?;
    let file = dir.path().join("disk");
    std::fs::File::create(&file).and_then(|f| f.set_len(SIZE)).expect("a sparse file");
    tgtd.add(IQN, &file, incoming, outgoing);
    Some(tgtd)
}

fn url(tgtd: &Tgtd, login: &str) -> String {
    format!("iscsi://{login}{}/{IQN}/1", tgtd.portal())
}

#[test]
fn verified_io_and_a_description() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(tgtd) = tgtd(&dir, None, None) else { return };
    let url = url(&tgtd, "");
    for (bs, size) in [("64k", "32M"), ("512", "1M"), ("1M", "32M")] {
        let (code, out, err) = run(&["io", &url, "verify", "--force", "--bs", bs, "--size", size, "--json"]);
        assert_eq!(code, 0, "{bs}: {err}");
        assert!(out.contains("\"verified\":true"), "{out}");
    }
    let (code, out, err) = run(&["info", &url]);
    assert!(code == 0 && out.contains("IET") && out.contains("32 MiB"), "{out}{err}");
    let (code, _, err) = run(&["info", &url.replace("disk/1", "disk/5")]);
    assert!(code == 21 && err.contains("no LUN 5") && err.contains('1'), "{code}: {err}");
    // As it comes, tgtd does no digests; asked for one that it has not, it answers what was not offered.
    let (code, _, err) = run(&["info", &format!("{url}?header_digest=crc32c")]);
    assert_eq!(code, 19, "{err}");
}

#[test]
fn chap_in_both_directions() {
    let dir = tempfile::tempdir().expect("a directory");
    let incoming = Some(("me", "secret-of-me-1"));
    let outgoing = Some(("you", "secret-of-you-1"));
    let Some(tgtd) = tgtd(&dir, incoming, outgoing) else { return };
    let info = |login: &str, query: &str| run(&["info", &format!("{}{query}", url(&tgtd, login))]).0;
    assert_eq!(info("me%secret-of-me-1@", ""), 0);
    assert_eq!(info("me%secret-of-me-1@", "?target_user=you&target_password=secret-of-you-1"), 0);
    assert_eq!(info("me%secret-of-me-1@", "?target_user=you&target_password=secret-of-you-2"), 24);
    assert_eq!(info("me%secret-of-me-2@", ""), 24);
    assert_eq!(info("", ""), 24);
}

#[test]
fn a_killed_and_restarted_target_costs_no_data() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(mut tgtd) = tgtd(&dir, None, None) else { return };
    let url = url(&tgtd, "");
    let child = cnic()
        .args(["perf", &url, "--rw", "mixed", "--force", "--bs", "64k", "--runtime", "4s", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cnic starts");
    std::thread::sleep(Duration::from_millis(700));
    tgtd.restart();
    let (code, out, err) = text_of(&child.wait_with_output().expect("it ends"));
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert!(
        report["latency_us"]["max"].as_f64() > Some(100_000.0),
        "somebody waited for the target: {report}"
    );
    let (code, _, err) = run(&["io", &url, "verify", "--force", "--size", "8M"]);
    assert_eq!(code, 0, "{err}");
}
