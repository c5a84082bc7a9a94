//! Slow, silent and dead targets: keepalive, task management, replacement timeout, and what a target asks for
//! itself.

use std::time::Duration;

use bus::trace::EventKind;
use driver::adapter::SessionPhase;
use driver::error::BlockError;
use driver::user::{Op, SubmitError};
use hw_model::fault::{FaultPoint, Trigger};
use hw_model::tcp::memory::Reach;
use tests::rig::{BLOCK, Rig, RigConfig};

const SECOND: Duration = Duration::from_secs(1);

/// Longest life of a link fault that no session notices: interval plus timeout of the keepalive.
fn keepalive(config: &RigConfig) -> Duration {
    let s = &config.record.settings;
    Duration::from_secs((s.noop_out_interval + s.noop_out_timeout).into())
}

fn silent_for(time: Duration) -> Rig {
    let mut rig = Rig::start(RigConfig::new(4));
    rig.run_ms(100);
    rig.world.net().expect("in memory").set_reach(Reach::Silent);
    rig.world.run_for(time);
    rig.world.net().expect("in memory").set_reach(Reach::Normal);
    rig
}

#[test]
fn r7_a_flap_shorter_than_the_keepalive_loses_no_session() {
    let short = keepalive(&RigConfig::new(1)) - SECOND;
    let mut rig = silent_for(short);
    rig.heal();
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!((run.adapter.connections_lost, run.adapter.logins), (0, 4));
    assert_eq!(run.adapter.resets, 1, "only the one of bring-up: a link never resets the device");
}

#[test]
fn r7_a_longer_flap_costs_one_recovery_a_session() {
    let long = keepalive(&RigConfig::new(1)) + 2 * SECOND;
    let mut rig = silent_for(long);
    rig.heal();
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!((run.adapter.connections_lost, run.adapter.logins), (4, 8));
    assert_eq!(run.adapter.resets, 1);
}

#[test]
fn l3_a_dead_target_fails_upward_within_the_replacement_timeout() {
    let mut config = RigConfig::new(2);
    config.record.settings.replacement_timeout = 20;
    let mut rig = Rig::idle(config);
    let buf = rig.alloc(BLOCK as usize);
    rig.world.target().expect("embedded").borrow_mut().kill();
    rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("nobody has noticed yet");
    let (c, took) = rig.completion(Duration::from_secs(60)).expect("it fails upward");
    assert!(matches!(c.result, Err(BlockError::RecoveryTimedOut { seconds: 20 })), "{c:?}");
    assert!(took >= 20 * SECOND && took <= 21 * SECOND, "L3: {took:?}");
    assert_eq!(rig.in_phase(SessionPhase::Offline), 2);
    assert_eq!(
        rig.submit(0, Op::Read, 0, &[buf.whole()]),
        Err(SubmitError::Offline),
        "and fails fast from then on"
    );

    rig.undo_faults();
    rig.run_ms(30_000);
    assert_eq!(rig.in_phase(SessionPhase::Ready), 2, "L2: a target that is back is found");
    rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("the session is back");
    assert_eq!(rig.completion(SECOND).expect("it completes").0.result, Ok(()));
    rig.free(buf);
    rig.finish().assert_sound();
}

#[test]
fn a_dead_target_under_load_loses_nothing_that_waits() {
    let mut rig = Rig::start(RigConfig::new(4));
    rig.run_ms(100);
    rig.world.target().expect("embedded").borrow_mut().kill();
    rig.run_ms(60_000);
    rig.heal();
    rig.run_ms(100);
    rig.finish().assert_unharmed();
}

/// Task management functions that the card has sent, oldest first: the function code is not in the event,
/// their times are.
fn tmfs(rig: &Rig) -> Vec<Duration> {
    let tmf =
        |e: &&bus::trace::Event| e.kind == EventKind::PduOut && e.actor.kind == "card" && e.a & 0x3f == 0x02;
    rig.world.exec().trace().last().filter(tmf).map(|e| e.time.since(bus::Instant::ZERO)).collect()
}

#[test]
fn a_silent_target_without_keepalive_is_aborted_and_then_recovered() {
    let mut config = RigConfig::new(1);
    let s = &mut config.record.settings;
    (s.noop_out_interval, s.noop_out_timeout) = (0, 0);
    (s.command_timeout, s.abort_timeout) = (7, 3);
    let mut rig = Rig::idle(config);
    let buf = rig.alloc(BLOCK as usize);
    rig.world.target().expect("embedded").borrow().set_silent(true);
    let start = rig.world.now().since(bus::Instant::ZERO);
    rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("nobody has noticed yet");
    assert!(rig.completion(7 * SECOND + 3 * SECOND - SECOND / 10).is_none());
    let sent: Vec<Duration> = tmfs(&rig).into_iter().map(|t| t - start).collect();
    assert!(matches!(sent[..], [t] if t >= 7 * SECOND && t < 8 * SECOND), "ABORT TASK at 7 s: {sent:?}");
    assert_eq!(rig.counters().connections_lost, 0);
    rig.run_ms(200);
    assert_eq!(rig.counters().connections_lost, 1, "an abort that nobody answers recovers the session");
    rig.undo_faults();
    let (c, _) = rig.completion(20 * SECOND).expect("the request is repeated in the next session");
    assert_eq!(c.result, Ok(()));
    rig.free(buf);
    rig.finish().assert_sound();
}

#[test]
fn a_lost_completion_climbs_from_abort_to_lun_reset_and_is_cleaned_up() {
    let mut config = RigConfig::new(1);
    let s = &mut config.record.settings;
    (s.noop_out_interval, s.noop_out_timeout) = (0, 0);
    (s.command_timeout, s.abort_timeout, s.lu_reset_timeout) = (7, 3, 3);
    let mut rig = Rig::idle(config);
    let buf = rig.alloc(BLOCK as usize);
    rig.world.faults().arm(FaultPoint::DropCqe, Trigger::ONCE);
    rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("the session is ready");
    let (c, took) = rig.completion(30 * SECOND).expect("the ladder ends it");
    assert_eq!(rig.fired(FaultPoint::DropCqe), 1);
    assert_eq!(c.result, Ok(()), "within its retry window the command is repeated");
    assert!(took >= 7 * SECOND && took < 8 * SECOND, "{took:?}");
    assert_eq!(tmfs(&rig).len(), 2, "ABORT TASK finds no task there; LOGICAL UNIT RESET settles it");
    let counters = rig.counters();
    assert_eq!((counters.cleanups, counters.connections_lost), (1, 0));
    rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("the session is ready");
    assert_eq!(
        rig.completion(SECOND).expect("it completes").0.result,
        Ok(()),
        "the unit attention is swallowed"
    );
    rig.free(buf);
    rig.finish().assert_sound();
}

#[test]
fn a_target_that_asks_for_a_logout_gets_it_and_the_session_comes_back() {
    let mut rig = Rig::start(RigConfig::new(4));
    rig.run_ms(100);
    let asked = rig.world.act_on_target(|t, ids| ids.iter().filter(|id| t.request_logout(**id, 5)).count());
    assert_eq!(asked, Some(4));
    rig.run_ms(10_000);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.logins, 8);
}

#[test]
fn a_target_that_drops_sessions_gets_them_back() {
    let mut rig = Rig::start(RigConfig::new(4));
    rig.run_ms(100);
    let dropped = rig.world.act_on_target(|t, ids| ids.iter().filter(|id| t.drop_session(**id)).count());
    assert_eq!(dropped, Some(4));
    rig.run_ms(10_000);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.logins, 8);
}

#[test]
fn a_target_that_pings_is_answered() {
    let mut config = RigConfig::new(2);
    config.server.ping_interval_ns = Some(1_000_000_000);
    config.server.ping_timeout_ns = 1_000_000_000;
    let mut rig = Rig::idle(config);
    rig.run_ms(60_000);
    assert_eq!(rig.counters().connections_lost, 0, "every ping was answered");
    let pings = rig.world.engine_counters().pdus_in;
    assert!(pings > 100, "RQ buffers went round several times: {pings}");
    rig.finish().assert_sound();
}

#[test]
fn sense_data_reaches_the_user_and_its_buffers_go_round() {
    let mut rig = Rig::idle(RigConfig::new(1));
    let buf = rig.alloc(BLOCK as usize);
    let mut cdb = [0; 16];
    cdb[0] = 0x28;
    cdb[2..6].copy_from_slice(&u32::MAX.to_be_bytes());
    cdb[8] = 1;
    // More often than the RQ has buffers.
    for _ in 0..100 {
        rig.submit(0, Op::Scsi { cdb, write: false }, 0, &[buf.whole()])
            .expect("raw commands are not judged");
        let (c, _) = rig.completion(SECOND).expect("it completes");
        let Err(BlockError::Sense(sense)) = c.result else { panic!("{c:?}") };
        assert_eq!((sense.key.0, sense.asc, sense.ascq), (0x5, 0x21, 0x00), "LBA OUT OF RANGE");
    }
    assert_eq!(rig.world.engine_counters().rq_stalls, 0);
    // TEST UNIT READY: no data at all.
    rig.submit(0, Op::Scsi { cdb: [0; 16], write: false }, 0, &[]).expect("no data is fine");
    assert_eq!(rig.completion(SECOND).expect("it completes").0.result, Ok(()));
    let outside = rig.submit(0, Op::Read, u64::from(u32::MAX), &[buf.whole()]);
    assert!(matches!(outside, Err(SubmitError::OutOfRange { .. })), "{outside:?}");
    rig.free(buf);
    rig.finish().assert_sound();
}

#[test]
fn requests_from_one_block_to_1_mib_at_any_alignment() {
    let mut config = RigConfig::new(1);
    config.region = 4096;
    let mut rig = Rig::idle(config);
    let buf = rig.alloc((1 << 20) + 4096);
    let pattern = |i: usize| (i * 31 + i / 251) as u8;
    for (offset, blocks, cut) in [
        (0, 1, 0),
        (1, 1, 511),
        (4095, 8, 1),
        (513, 127, 4096),
        (3, 128, 65_535),
        (7, 129, 333),
        (4095, 2048, 77_777),
    ] {
        let len = blocks * BLOCK as usize;
        let parts = if cut == 0 {
            vec![buf.range(offset, len)]
        } else {
            vec![buf.range(offset, cut), buf.range(offset + cut, len - cut)]
        };
        let data: Vec<u8> = (0..len).map(pattern).collect();
        rig.world.act(|_, host| host.adapter.buffer(buf).expect("live").write(offset, &data));
        rig.submit(0, Op::Write, 5, &parts).expect("it fits");
        assert_eq!(rig.completion(5 * SECOND).expect("it completes").0.result, Ok(()), "{offset}+{len}");
        rig.world.act(|_, host| host.adapter.buffer(buf).expect("live").fill(0, buf.len(), 0));
        rig.submit(0, Op::Read, 5, &parts).expect("it fits");
        assert_eq!(rig.completion(5 * SECOND).expect("it completes").0.result, Ok(()));
        let mut found = vec![0xff; buf.len()];
        rig.world.act(|_, host| host.adapter.buffer(buf).expect("live").read(0, &mut found));
        assert!(found[offset..offset + len] == data[..], "{offset}+{len}");
        assert!(found[..offset].iter().chain(&found[offset + len..]).all(|b| *b == 0), "S6: {offset}+{len}");
    }
    rig.submit(0, Op::Read, 5, &[]).expect("a request for nothing");
    assert_eq!(rig.completion(SECOND).expect("it completes").0.result, Ok(()));
    rig.free(buf);
    rig.finish().assert_sound();
}
