//! Offloaded sessions of our driver, through the modelled card and host sockets, against the Linux kernel's
//! own target (LIO) in a QEMU guest. Each test has a guest of its own, whose kernel log is judged at the end.
//! `CNIC_FULL=1` runs each on both kernels; otherwise on one.

use std::time::Duration;

use driver::adapter::SessionPhase;
use driver::error::ExitCode;
use driver::iscsid::{ChapRecord, DiscoveryRecord, MgmtError, NodeRecord, SessionEntry};
use iscsi::chap::Credentials;
use iscsi::negotiate::DigestOffer;
use lab::load::{LoadConfig, LoadReport};
use lab::oracle::Initial;
use lab::outside::Outside;
use lab::world::{World, WorldConfig, WorldError};
use tests::lio::Lio;
use tests::rig::full;

const TARGET: &str = "iqn.2004-01.example.guest:lio";
/// Blocks of a session's region, at most.
const REGION: usize = 4096;
const OURS: (&str, &str) = ("initiator", "secret-of-ours-1");
const THEIRS: (&str, &str) = ("target", "secret-of-theirs");
/// For what takes a second where the guest has a CPU to itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `test` against a guest with `kernel`, or with both of them in turn.
fn judged_by(kernel: &str, test: impl Fn(&mut Lio)) {
    judged_with(&["messages-net.allow"], kernel, test);
}

/// The same; `lists` of `tests/stock-driver` name what the kernel may say.
fn judged_with(lists: &[&str], kernel: &str, test: impl Fn(&mut Lio)) {
    let all = ["bookworm", "backports"];
    for kernel in all.into_iter().filter(|k| full() || *k == kernel) {
        let Some(mut lio) = Lio::start(kernel, lists) else { return };
        test(&mut lio);
        lio.finish();
    }
}

fn record(lio: &Lio) -> NodeRecord {
    let mut r = NodeRecord::new(TARGET, lio.portal());
    // Even if the guest has little of this machine's time.
    r.settings.login_timeout = 60;
    r.settings.initial_login_retry_max = 1;
    r
}

fn world() -> World {
    let mut w = World::new(WorldConfig::outside(Outside::default(), false)).expect("a world");
    w.bring_up().expect("the adapter comes up");
    w
}

fn load_config(w: &mut World) -> LoadConfig {
    LoadConfig {
        depth: 4,
        max_bytes: 256 << 10,
        write_percent: 50,
        think: Duration::ZERO,
        run: w.act(|cx, _| cx.rng.next_u64("test.run")),
        initial: Initial::Unknown,
    }
}

fn assert_sound(r: &LoadReport) {
    assert_eq!((r.failed, r.corrupt, r.guard_bytes, r.duplicated), (0, 0, 0, 0), "{r:?}");
}

/// Writes every session's region once, then random requests, with the reads judged.
fn verify(w: &mut World, entries: &[SessionEntry], region: usize) {
    let config = load_config(w);
    let load = w.start_load(entries, config, region).expect("the disk has room for every session");
    let watched = load.clone();
    assert!(w.run(PATIENCE, |_| watched.borrow().filled()), "every region is written once");
    let enough = load.borrow().report().reads + 60.max(4 * entries.len() as u64);
    assert!(w.run(PATIENCE, |_| watched.borrow().report().reads >= enough), "random I/O flows");
    let unfinished = w.finish_load(&load, PATIENCE);
    assert_eq!((unfinished.lost, unfinished.kept), (0, 0));
    assert_sound(load.borrow().report());
}

fn end(mut w: World) {
    let left = w.shutdown().expect("shutdown ends");
    assert_eq!(left.leaked(), 0, "{left:?}");
}

/// Logs in, verifies, logs out.
fn whole_life(record: &NodeRecord, sessions: usize) {
    let mut w = world();
    let entries = w.login(record, sessions).expect("login");
    verify(&mut w, &entries, REGION.min(32 * REGION / sessions));
    end(w);
}

/// What a user is told when a login fails.
fn refusal(record: &NodeRecord) -> (ExitCode, String) {
    let mut w = world();
    let e = w.login(record, 1).expect_err("the login fails");
    let text = e.to_string();
    let WorldError::Daemon(e @ MgmtError::Failed(_)) = e else { panic!("{text}") };
    end(w);
    (e.exit(), text)
}

#[test]
fn lio_takes_plain_sessions_and_both_digests() {
    judged_by("bookworm", |lio| {
        lio.order("disk one 64");
        lio.order(&format!("target {TARGET}"));
        lio.order(&format!("plug {TARGET} 0 one"));
        whole_life(&record(lio), 1);
        for (header, data) in [(true, false), (false, true), (true, true)] {
            let offer = |on| if on { DigestOffer::Crc32c } else { DigestOffer::None };
            let mut r = record(lio);
            (r.settings.header_digest, r.settings.data_digest) = (offer(header), offer(data));
            whole_life(&r, 2);
        }
    });
}

#[test]
fn lio_takes_chap_and_mutual_chap() {
    judged_by("backports", |lio| {
        lio.order("disk one 64");
        lio.order(&format!("target {TARGET} {} {} {} {}", OURS.0, OURS.1, THEIRS.0, THEIRS.1));
        lio.order(&format!("plug {TARGET} 0 one"));
        let ours = Credentials::new(OURS.0, OURS.1);
        let mut r = record(lio);
        r.settings.chap = ChapRecord::one_way(ours.clone());
        whole_life(&r, 1);
        r.settings.chap = ChapRecord::mutual(ours, Credentials::new(THEIRS.0, THEIRS.1));
        whole_life(&r, 1);
    });
}

#[test]
fn wrong_secrets_are_refused_on_either_side() {
    let lists = ["messages-net.allow", "messages-refused.allow"];
    judged_with(&lists, "backports", |lio| {
        lio.order(&format!("target {TARGET} {} {} {} {}", OURS.0, OURS.1, THEIRS.0, THEIRS.1));
        let ours = Credentials::new(OURS.0, OURS.1);
        let mut r = record(lio);
        r.settings.login_timeout = 5;
        r.settings.chap = ChapRecord::mutual(ours, Credentials::new(THEIRS.0, "not-what-it-says"));
        assert_eq!(refusal(&r).0, ExitCode::LoginAuthFailed, "the target proves nothing");
        r.settings.chap = ChapRecord::one_way(Credentials::new(OURS.0, "not-the-secret-1"));
        assert_eq!(refusal(&r).0, ExitCode::LoginAuthFailed, "we prove nothing");
        r.settings.chap = ChapRecord::default();
        // LIO does not answer an offer without CHAP: it closes the connection.
        assert_eq!(refusal(&r).0, ExitCode::Transport, "no credentials at all");
    });
}

#[test]
fn lio_takes_thirty_two_sessions_and_is_discovered() {
    judged_by("bookworm", |lio| {
        lio.order("disk one 64");
        lio.order(&format!("target {TARGET}"));
        lio.order(&format!("plug {TARGET} 0 one"));
        let found = world().discover(DiscoveryRecord::new(lio.portal())).expect("discovery");
        assert_eq!(found.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), [TARGET]);
        whole_life(&record(lio), 32);
    });
}

#[test]
fn lio_restarted_and_resized_under_load_costs_recoveries_and_nothing_else() {
    judged_by("backports", |lio| {
        lio.order("disk one 64");
        lio.order(&format!("target {TARGET}"));
        lio.order(&format!("plug {TARGET} 0 one"));
        let mut w = world();
        let entries = w.login(&record(lio), 4).expect("login");
        let config = load_config(&mut w);
        let load = w.start_load(&entries, config, REGION).expect("room");
        let watched = load.clone();
        for (round, size) in [(1, 64), (2, 96)] {
            let before = load.borrow().report().commands;
            assert!(w.run(PATIENCE, |_| watched.borrow().report().commands >= before + 200), "I/O flows");
            lio.order(&format!("disable {TARGET}"));
            w.run_for(Duration::from_millis(200));
            lio.order(&format!("resize one {size}"));
            lio.order(&format!("enable {TARGET}"));
            let host = w.host().clone();
            let recovered = w.run(PATIENCE, |_| {
                let host = host.borrow();
                host.adapter.sessions().all(|s| s.phase == SessionPhase::Ready && s.logins == 1 + round)
            });
            assert!(recovered, "every session logs in again");
        }
        let before = load.borrow().report().commands;
        assert!(w.run(PATIENCE, |_| watched.borrow().report().commands >= before + 200), "I/O goes on");
        let unfinished = w.finish_load(&load, PATIENCE);
        assert_eq!((unfinished.lost, unfinished.kept), (0, 0));
        assert_sound(load.borrow().report());
        for e in &entries {
            let blocks = w.act(|_, host| host.adapter.disks(e.session)[0].blocks);
            assert_eq!(blocks, 96 << 11, "the size after the last login");
        }
        end(w);
    });
}

#[test]
fn a_lun_that_lio_removes_fails_with_its_name_and_is_usable_when_it_is_back() {
    judged_with(&["messages-net.allow", "messages-gone.allow"], "bookworm", |lio| {
        lio.order("disk one 64");
        lio.order(&format!("target {TARGET}"));
        lio.order(&format!("plug {TARGET} 1 one"));
        let mut w = world();
        let entries = w.login(&record(lio), 2).expect("login");
        let config = load_config(&mut w);
        let load = w.start_load(&entries, config, REGION).expect("room");
        let watched = load.clone();
        assert!(w.run(PATIENCE, |_| watched.borrow().filled()), "every region is written once");
        assert_sound(load.borrow().report());
        lio.order(&format!("unplug {TARGET} 1"));
        assert!(w.run(PATIENCE, |_| watched.borrow().report().failed > 20), "the unit is gone");
        let unfinished = w.finish_load(&load, PATIENCE);
        assert_eq!((unfinished.lost, unfinished.kept), (0, 0));
        let r = load.borrow().report().clone();
        assert_eq!((r.corrupt, r.guard_bytes, r.duplicated), (0, 0, 0), "{r:?}");
        let said = r.first_error.expect("requests failed");
        assert!(said.contains("5/25/00"), "{said}");
        lio.order(&format!("plug {TARGET} 1 one"));
        // A unit that is away is looked for, at least twice a minute.
        let host = w.host().clone();
        let back =
            w.run(PATIENCE, |_| entries.iter().all(|e| !host.borrow().adapter.disks(e.session).is_empty()));
        assert!(back, "the unit is found again");
        verify(&mut w, &entries, REGION);
        let host = w.host().borrow();
        assert!(host.adapter.sessions().all(|s| s.phase == SessionPhase::Ready && s.logins == 1));
        drop(host);
        end(w);
    });
}
