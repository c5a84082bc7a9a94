//! `info`, `io` and `perf` through the modelled card against `cnic target`: two processes, real sockets.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use common::{IQN, Target, cnic, run, text_of};
use serde_json::Value;

/// Runs with `--json`, expects success, and returns the object.
fn json(args: &[&str]) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(out.lines().last().expect("a line")).expect("JSON")
}

/// Expects `code` and one line on standard error; returns it.
fn failure(code: i32, args: &[&str]) -> String {
    let (got, _, err) = run(args);
    assert_eq!((got, err.lines().count()), (code, 1), "{args:?}: {err}");
    err
}

#[test]
fn info_describes_the_unit() {
    let target = Target::start(&["--lun", "ram:64M", "--lun", "ram:1G", "--read-only"]);
    let info = json(&["info", &target.url("", 1)]);
    assert_eq!((&info["bytes"], &info["block_size"]), (&(1u64 << 30).into(), &512.into()));
    assert_eq!((&info["read_only"], &info["lun"]), (&true.into(), &1.into()));
    let (code, out, _) = run(&["info", &target.url("", 0)]);
    assert!(code == 0 && out.contains("64 MiB (131072 blocks of 512 bytes), read only"), "{out}");
}

#[test]
fn what_is_written_is_found_again_by_another_process() {
    let target = Target::start(&["--lun", "ram:32M"]);
    let url = target.url("", 0);
    let report = json(&["io", &url, "verify", "--force", "--offset", "1M", "--size", "16M", "--bs", "1M"]);
    assert_eq!((&report["verified"], &report["stamped"]), (&true.into(), &32768.into()));
    let report = json(&["io", &url, "read", "--bs", "4k", "--iodepth", "64"]);
    assert_eq!((&report["stamped"], &report["unstamped"]), (&32768.into(), &32768.into()));
    assert_eq!(report["verified"], Value::Null, "nothing was compared");
    let report = json(&["io", &url, "write", "--force", "--size", "512", "--bs", "512"]);
    assert_eq!(report["bytes_written"], 512);
    let report = json(&["io", &format!("{url}?header_digest=crc32c&data_digest=crc32c"), "read"]);
    assert_eq!(report["stamped"], 32769, "digests carry the same data");
}

#[test]
fn foreign_damage_is_found_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![0; 1 << 20]).expect("written");
    let mut target = Target::start(&["--lun", &format!("file:{}", path.display())]);
    json(&["io", &target.url("", 0), "verify", "--force"]);
    assert!(target.stop().0.success());
    let mut disk = std::fs::read(&path).expect("read");
    disk[700 * 512 + 100] ^= 1;
    disk.copy_within(20 * 512..21 * 512, 800 * 512);
    std::fs::write(&path, &disk).expect("written");
    let target = Target::start(&["--lun", &format!("file:{}", path.display())]);
    let url = target.url("", 0);
    let part = |offset: &str| failure(1, &["io", &url, "read", "--offset", offset, "--size", "64k"]);
    assert!(part("320k").contains("block 700 is torn or corrupt from byte 100"));
    assert!(part("384k").contains("block 800 holds the data of block 20: misplaced"));
}

#[test]
fn perf_reports_both_sides() {
    let target = Target::start(&["--lun", "ram:32M"]);
    let url = target.url("", 0);
    for rw in ["read", "write", "randread", "randwrite", "mixed"] {
        let r = json(&["perf", &url, "--rw", rw, "--runtime", "200ms", "--iodepth", "16", "--force"]);
        let n = |v: &Value| v.as_f64().expect("a number");
        assert!(n(&r["iops"]) > 100.0 && n(&r["latency_us"]["p50"]) > 0.0, "{r}");
        assert!(n(&r["latency_us"]["p50"]) <= n(&r["latency_us"]["max"]), "{r}");
        let cost = &r["per_io"];
        assert!(n(&cost["host_us"]) > 0.0 && n(&cost["chip_us"]) > 0.0 && n(&cost["cpu_us"]) > 0.0, "{r}");
        let (both, cpu) = (n(&cost["host_us"]) + n(&cost["chip_us"]), n(&cost["cpu_us"]));
        assert!(both <= cpu * 1.1, "the two sides use no more than the process: {r}");
        assert!((both + n(&cost["runner_us"]) - cpu).abs() <= cpu * 0.1, "{r}");
        assert!(n(&cost["system_calls"]) > 0.0 && n(&cost["system_calls"]) < 10.0, "{r}");
        assert_eq!(n(&r["reads"]) > 0.0, rw != "write" && rw != "randwrite", "{r}");
        assert_eq!(n(&r["writes"]) > 0.0, rw != "read" && rw != "randread", "{r}");
    }
}

#[test]
fn a_target_that_dies_is_announced_and_ends_perf_with_what_it_did() {
    let mut target = Target::spawn(
        cnic()
            .args(["target", "--listen", "127.0.0.1:0", "--iqn", IQN, "--lun", "ram:1M"])
            .stderr(Stdio::piped()),
    );
    let perf = cnic()
        .args(["perf", &target.url("", 0), "--runtime", "1s", "--iodepth", "4", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cnic starts");
    let mut log = BufReader::new(target.child.stderr.take().expect("piped"));
    log.read_line(&mut String::new()).expect("the target tells of the login");
    std::thread::sleep(Duration::from_millis(500));
    drop(target);
    let (code, out, err) = text_of(&perf.wait_with_output().expect("it ends"));
    assert_eq!(code, 4, "{err}");
    let (lost, why) = (err.lines().next().unwrap_or_default(), err.lines().last().unwrap_or_default());
    assert!(lost.starts_with("cnic: connection lost, waiting up to "), "{err}");
    assert!(why.contains("were not answered in time"), "{err}");
    let report: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert!(report["reads"].as_u64().expect("a number") > 0, "{report}");
    assert!(why.ends_with(report["error"].as_str().expect("text")), "{report}");
    assert!(
        report["seconds"].as_f64().expect("a number") < 30.0,
        "not until the replacement timeout: {report}"
    );
}

#[test]
fn nothing_is_overwritten_without_leave() {
    let target = Target::start(&["--lun", "ram:1M"]);
    let url = target.url("", 0);
    assert!(failure(7, &["io", &url, "write"]).contains("overwrite 1 MiB"));
    assert!(failure(7, &["io", &url, "verify", "--size", "4k"]).contains("add --force"));
    assert!(failure(7, &["perf", &url, "--rw", "mixed"]).contains("add --force"));
    assert_eq!(json(&["io", &url, "read"])["stamped"], 0);
    let protected = Target::start(&["--lun", "ram:1M", "--read-only"]);
    assert!(failure(7, &["io", &protected.url("", 0), "write", "--force"]).contains("write protected"));
}

#[test]
fn failures_end_with_the_codes_of_iscsiadm() {
    let target =
        Target::start(&["--lun", "ram:1M", "--chap", "me:secret-of-me-1", "--mutual", "you:secret-of-you-1"]);
    let at = |login: &str, more: &str| target.url(login, 0) + more;
    let good = "me%secret-of-me-1@";
    json(&["info", &at(good, "?target_user=you&target_password=secret-of-you-1")]);
    assert!(failure(24, &["info", &at("", "")]).contains("user name and secret; check both"));
    let wrong = failure(24, &["info", &at("me%secret-of-me-2@", "")]);
    assert!(wrong.contains("user name and secret; check both") && !wrong.contains("secret-of"), "{wrong}");
    failure(24, &["info", &at(good, "?target_user=you&target_password=secret-of-you-2")]);
    assert!(failure(21, &["info", &target.url(good, 9)]).contains("no LUN 9"));
    let other = format!("iscsi://{good}{}/{IQN}-2/0", target.portal);
    assert!(failure(19, &["info", &other]).contains("check its name"));
    let port = tests::free_port();
    let refused = failure(4, &["info", &format!("iscsi://127.0.0.1:{port}/{IQN}/0")]);
    assert!(refused.contains("refused"), "{refused}");
    assert!(failure(7, &["io", &target.url(good, 0), "read", "--offset", "2M"]).contains("beyond the end"));
}

#[test]
fn the_secret_can_come_from_the_environment() {
    let target = Target::start(&["--lun", "ram:1M", "--chap", "me:secret-of-me-1"]);
    let out = cnic()
        .args(["info", &target.url("me@", 0)])
        .env("LIBISCSI_CHAP_PASSWORD", "secret-of-me-1")
        .output()
        .expect("cnic runs");
    assert_eq!(text_of(&out).0, 0, "{}", text_of(&out).2);
}
