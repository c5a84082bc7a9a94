//! The path helper dies, hangs or is slow during a reset under load. A reset waits `helper_close` for it at
//! most, and sessions come back as soon as somebody resolves paths again.

use std::time::Duration;

use driver::adapter::{AdapterState, OperatorRequest, SessionPhase};
use driver::iscsid::policy::RETRY_PAUSE;
use tests::rig::{Rig, RigConfig, prompt_recovery_bound};

const SECOND: Duration = Duration::from_secs(1);
const SESSIONS: u16 = 16;

/// How the helper fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Killed,
    Stopped,
}

fn fail(rig: &mut Rig, how: Failure) {
    match how {
        Failure::Killed => rig.world.kill_helper(),
        Failure::Stopped => rig.world.stop_helper(true),
    }
}

/// Resets under load with a helper that fails `before` the reset or 1 ms into it, and is back after `pause`.
fn reset_without_a_helper(how: Failure, before: bool, pause: Duration) {
    let what = format!("{how:?}, {before}, {pause:?}");
    let config = RigConfig::new(SESSIONS);
    let (record, d) = (config.record.clone(), config.driver.deadlines);
    let mut rig = Rig::start(config);
    rig.run_ms(50);
    if before {
        fail(&mut rig, how);
        rig.reset(OperatorRequest::ChangeMtu(9000));
    } else {
        rig.reset(OperatorRequest::ChangeMtu(9000));
        rig.run_ms(1);
        fail(&mut rig, how);
    }
    let start = rig.world.now();
    let took = rig.until(10 * SECOND, |s| s == AdapterState::Up);
    assert!(took <= d.helper_close + SECOND / 2, "R2: {what}: {took:?}");
    rig.world.run_for(pause.saturating_sub(rig.world.now() - start));
    rig.world.start_helper();
    rig.world.stop_helper(false);
    // A path that was asked for is resolved at once; an attempt that has failed meanwhile makes a pause.
    let bound = RETRY_PAUSE + prompt_recovery_bound(&record) + SECOND / 2;
    assert!(rig.recovered(bound), "L1: {what}: {} sessions are not back", rig.load.borrow().recovering());
    rig.run_ms(100);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.load.recoveries.len(), usize::from(SESSIONS), "R6: {what}");
}

#[test]
fn helper_killed_during_a_reset_under_load() {
    for before in [true, false] {
        for pause in [0, 12, 20] {
            reset_without_a_helper(Failure::Killed, before, pause * SECOND);
        }
    }
}

/// What the old one was asked is asked again: nobody waits for a deadline first.
#[test]
fn a_new_helper_is_asked_for_every_path_that_waits() {
    let mut rig = Rig::start(RigConfig::new(SESSIONS));
    rig.run_ms(50);
    rig.world.kill_helper();
    rig.reset(OperatorRequest::Reset);
    rig.run_ms(5_000);
    assert_eq!(rig.world.leftovers().holdings.cids, u32::from(SESSIONS), "all of them connect");
    rig.world.start_helper();
    assert!(rig.recovered(SECOND), "L1: {} sessions are not back", rig.load.borrow().recovering());
    rig.finish().assert_unharmed();
}

#[test]
fn helper_stopped_during_a_reset_under_load() {
    for before in [true, false] {
        reset_without_a_helper(Failure::Stopped, before, 20 * SECOND);
    }
}

#[test]
fn helper_slow_during_a_reset_under_load() {
    for before in [true, false] {
        reset_without_a_helper(Failure::Stopped, before, 3 * SECOND);
    }
}

#[test]
fn t5_a_helper_that_never_closes_costs_one_deadline_and_no_session() {
    let [one, many] = [1, SESSIONS].map(|sessions| {
        let mut rig = Rig::start(RigConfig::new(sessions));
        rig.run_ms(50);
        assert_eq!(rig.counters().helper_opens, 1, "the ring is open");
        rig.world.stop_helper(true);
        rig.reset(OperatorRequest::Reset);
        rig.run_ms(1);
        let took = rig.until(10 * SECOND, |s| s == AdapterState::Up);
        assert_eq!(rig.counters().helper_not_closed, 1);
        rig.heal();
        rig.finish().assert_unharmed();
        took
    });
    let close = RigConfig::new(1).driver.deadlines.helper_close;
    assert!(one <= close + SECOND / 10 && one >= close - SECOND / 10, "{one:?}");
    assert!(many < one + SECOND / 10, "{one:?} for one, {many:?} for {SESSIONS}");
}

#[test]
fn a_helper_that_is_dead_for_good_fails_upward_and_shuts_down() {
    for how in [Failure::Killed, Failure::Stopped] {
        let mut config = RigConfig::new(SESSIONS);
        config.record.settings.replacement_timeout = 30;
        let mut rig = Rig::start(config);
        rig.run_ms(50);
        fail(&mut rig, how);
        // Without a reset nothing is lost: paths are resolved.
        assert!(rig.progress(SECOND).is_some());
        rig.reset(OperatorRequest::Reset);
        rig.run_ms(25_000);
        assert_eq!(rig.load.borrow().report().failed, 0, "L3: {how:?}: not before the timeout");
        rig.run_ms(10_000);
        assert_eq!(rig.in_phase(SessionPhase::Offline), usize::from(SESSIONS), "L3: {how:?}");
        rig.load.borrow_mut().stop();
        rig.run_ms(1000);
        assert_eq!(rig.load.borrow().outstanding(), 0, "L3: {how:?}: every request was told");
        // L4 is checked with the rest; nothing helps the helper before.
        let run = rig.finish();
        run.assert_sound();
        assert!(run.load.failed >= u64::from(SESSIONS));
    }
}
