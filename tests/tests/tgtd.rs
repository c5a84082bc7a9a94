//! Offloaded sessions of our driver, through the modelled card and host sockets, against tgtd.

use std::fs::File;
use std::time::Duration;

use driver::adapter::SessionPhase;
use driver::error::ExitCode;
use driver::iscsid::{ChapRecord, DiscoveryRecord, MgmtError, NodeRecord};
use iscsi::chap::Credentials;
use iscsi::negotiate::DigestOffer;
use lab::load::LoadConfig;
use lab::oracle::Initial;
use lab::outside::Outside;
use lab::world::{World, WorldConfig, WorldError};
use tempfile::TempDir;
use tests::tgtd::Tgtd;

const TARGET: &str = "iqn.2026-01.test:disk";
const SIZE: u64 = 64 << 20;
/// Blocks of a session's region, at most.
const REGION: usize = 8192;
const OURS: (&str, &str) = ("initiator", "a secret of ours");
const THEIRS: (&str, &str) = ("target", "a secret of theirs");
const PATIENCE: Duration = Duration::from_secs(60);

/// tgtd with [`TARGET`] on a file that is gone with the test.
struct Far {
    tgtd: Tgtd,
    _dir: TempDir,
}

fn far(incoming: Option<(&str, &str)>, outgoing: Option<(&str, &str)>) -> Option<Far> {
    let mut tgtd = Tgtd::start()?;
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("lun");
    File::create(&file).and_then(|f| f.set_len(SIZE)).expect("a sparse file");
    tgtd.add(TARGET, &file, incoming, outgoing);
    Some(Far { tgtd, _dir: dir })
}

/// A record that gives up soon.
fn record(far: &Far) -> NodeRecord {
    let mut r = NodeRecord::new(TARGET, far.tgtd.portal());
    r.settings.login_timeout = 5;
    r.settings.initial_login_retry_max = 1;
    r
}

fn world() -> World {
    let mut w = World::new(WorldConfig::outside(Outside::default(), false)).expect("a world");
    w.bring_up().expect("the adapter comes up");
    w
}

fn load_config(w: &mut World, max_bytes: usize) -> LoadConfig {
    LoadConfig {
        depth: 4,
        max_bytes,
        write_percent: 50,
        think: Duration::ZERO,
        run: w.act(|cx, _| cx.rng.next_u64("test.run")),
        initial: Initial::Unknown,
    }
}

/// Writes every session's region once, then random requests of all sizes up to `max_bytes`, with the reads
/// judged; then a clean end.
fn verify(w: &mut World, record: &NodeRecord, sessions: usize, max_bytes: usize) {
    let entries = w.login(record, sessions).expect("login");
    let config = load_config(w, max_bytes);
    let blocks = REGION.min((SIZE / 512) as usize / sessions);
    let load = w.start_load(&entries, config, blocks).expect("the disk has room for every session");
    let watched = load.clone();
    assert!(w.run(PATIENCE, |_| watched.borrow().filled()), "every region is written once");
    let enough = load.borrow().report().reads + 60.max(4 * sessions as u64);
    assert!(w.run(PATIENCE, |_| watched.borrow().report().reads >= enough), "random I/O flows");
    let unfinished = w.finish_load(&load, PATIENCE);
    let r = load.borrow().report().clone();
    assert_eq!((unfinished.lost, unfinished.kept), (0, 0));
    assert_eq!((r.failed, r.corrupt, r.guard_bytes, r.duplicated), (0, 0, 0, 0), "{r:?}");
    let left = w.shutdown().expect("shutdown ends");
    assert_eq!(left.leaked(), 0, "{left:?}");
}

/// What a user is told when a login fails.
fn refusal(record: &NodeRecord) -> (ExitCode, String) {
    let mut w = world();
    let e = w.login(record, 1).expect_err("the login fails");
    let text = e.to_string();
    let WorldError::Daemon(e @ MgmtError::Failed(_)) = e else { panic!("{text}") };
    let left = w.shutdown().expect("shutdown ends");
    assert_eq!(left.leaked(), 0, "a failed login leaks nothing: {left:?}");
    (e.exit(), text)
}

#[test]
fn requests_of_all_sizes_verify() {
    let Some(far) = far(None, None) else { return };
    verify(&mut world(), &record(&far), 1, 1 << 20);
}

#[test]
fn one_way_and_mutual_chap_verify() {
    let Some(far) = far(Some(OURS), Some(THEIRS)) else { return };
    let ours = Credentials::new(OURS.0, OURS.1);
    let mut r = record(&far);
    r.settings.chap = ChapRecord::one_way(ours.clone());
    verify(&mut world(), &r, 1, 64 << 10);
    r.settings.chap = ChapRecord::mutual(ours, Credentials::new(THEIRS.0, THEIRS.1));
    verify(&mut world(), &r, 1, 64 << 10);
}

#[test]
fn header_and_data_digests_verify() {
    let Some(mut far) = far(None, None) else { return };
    far.tgtd.set(1, "HeaderDigest", "CRC32C,None");
    far.tgtd.set(1, "DataDigest", "CRC32C,None");
    for (header, data) in [(true, false), (false, true), (true, true)] {
        let offer = |on| if on { DigestOffer::Crc32c } else { DigestOffer::None };
        let mut r = record(&far);
        (r.settings.header_digest, r.settings.data_digest) = (offer(header), offer(data));
        verify(&mut world(), &r, 2, 256 << 10);
    }
}

#[test]
fn unsolicited_data_verifies() {
    let Some(mut far) = far(None, None) else { return };
    far.tgtd.set(1, "InitialR2T", "No");
    far.tgtd.set(1, "MaxOutstandingR2T", "4");
    far.tgtd.set(1, "MaxRecvDataSegmentLength", "65536");
    verify(&mut world(), &record(&far), 2, 1 << 20);
}

#[test]
fn a_hundred_and_twenty_eight_sessions_verify() {
    let Some(far) = far(None, None) else { return };
    verify(&mut world(), &record(&far), 128, 64 << 10);
}

#[test]
fn a_target_that_is_killed_and_restarted_under_load_costs_a_recovery_and_nothing_else() {
    let Some(mut far) = far(None, None) else { return };
    let mut w = world();
    let entries = w.login(&record(&far), 8).expect("login");
    let config = load_config(&mut w, 256 << 10);
    let load = w.start_load(&entries, config, REGION).expect("room");
    let watched = load.clone();
    for round in 1..=2 {
        let before = load.borrow().report().commands;
        assert!(w.run(PATIENCE, |_| watched.borrow().report().commands >= before + 500), "I/O flows");
        far.tgtd.kill();
        w.run_for(Duration::from_millis(200));
        far.tgtd.restart();
        let host = w.host().clone();
        let recovered = w.run(PATIENCE, |_| {
            let host = host.borrow();
            host.adapter.sessions().all(|s| s.phase == SessionPhase::Ready && s.logins == 1 + round)
        });
        assert!(recovered, "every session logs in again");
    }
    let before = load.borrow().report().commands;
    assert!(w.run(PATIENCE, |_| watched.borrow().report().commands >= before + 500), "I/O goes on");
    let unfinished = w.finish_load(&load, PATIENCE);
    let r = load.borrow().report().clone();
    assert_eq!((unfinished.lost, unfinished.kept), (0, 0));
    assert_eq!((r.failed, r.corrupt, r.guard_bytes, r.duplicated), (0, 0, 0, 0), "{r:?}");
    assert_eq!(w.shutdown().expect("shutdown ends").leaked(), 0);
}

#[test]
fn discovery_lists_the_target() {
    let Some(far) = far(None, None) else { return };
    let found = world().discover(DiscoveryRecord::new(far.tgtd.portal())).expect("discovery");
    assert_eq!(found.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), [TARGET]);
}

#[test]
fn a_wrong_secret_is_an_authorization_failure() {
    let Some(far) = far(Some(OURS), None) else { return };
    let mut r = record(&far);
    r.settings.chap = ChapRecord::one_way(Credentials::new(OURS.0, "not the secret at all"));
    let (exit, text) = refusal(&r);
    assert_eq!(exit, ExitCode::LoginAuthFailed, "{text}");
    assert!(!text.contains("not the secret"), "no secret in an error");
    assert_eq!(refusal(&record(&far)).0, ExitCode::LoginAuthFailed, "no credentials at all");
}

#[test]
fn a_target_with_the_wrong_secret_is_not_trusted() {
    let Some(far) = far(Some(OURS), Some(THEIRS)) else { return };
    let mut r = record(&far);
    let theirs = Credentials::new(THEIRS.0, "not what the target says");
    r.settings.chap = ChapRecord::mutual(Credentials::new(OURS.0, OURS.1), theirs);
    assert_eq!(refusal(&r).0, ExitCode::LoginAuthFailed);
}

#[test]
fn an_unknown_target_is_refused_for_good() {
    let Some(far) = far(None, None) else { return };
    let mut r = record(&far);
    r.target = "iqn.2026-01.test:nobody".into();
    assert_eq!(refusal(&r).0, ExitCode::FatalLogin);
}

#[test]
fn a_refused_port_is_a_connection_failure() {
    let Some(mut far) = far(None, None) else { return };
    far.tgtd.kill();
    let (exit, text) = refusal(&record(&far));
    assert!(matches!(exit, ExitCode::Transport | ExitCode::TransportTimeout), "{exit:?}: {text}");
}

#[test]
fn a_missing_lun_is_not_a_disk() {
    let Some(mut tgtd) = Tgtd::start() else { return };
    tgtd.add_empty(TARGET);
    let mut w = world();
    let entries = w.login(&NodeRecord::new(TARGET, tgtd.portal()), 1).expect("login");
    w.act(|_, host| assert_eq!(host.adapter.disks(entries[0].session), [], "LUN 0 of tgtd is a controller"));
    assert_eq!(w.shutdown().expect("shutdown ends").leaked(), 0);
}
