//! "Every session comes back, nothing is lost, in bounded time": faults next to those that the other files
//! inject. Nobody helps while they last, and every wait is judged by its age (`lab::ages`).

use std::time::Duration;

use driver::adapter::{AdapterState, OperatorRequest, SessionPhase};
use driver::error::BlockError;
use driver::user::Op;
use hsi::kernel::kcq::IscsiKcqeOpcode;
use hsi::kernel::kwq::Layer;
use hw_model::fault::{FaultPoint, Trigger};
use hw_model::tcp::frame::Checksums;
use hw_model::wire::link::{Direction, LinkConfig};
use iscsi::negotiate::DigestOffer;
use lab::load::LoadConfig;
use tests::rig::{BLOCK, Rig, RigConfig};

const SECOND: Duration = Duration::from_secs(1);

/// Operand of the fault points: an iSCSI completion.
fn completion_of(op: IscsiKcqeOpcode) -> u32 {
    u32::from(Layer::ISCSI.0) << 8 | u32::from(op.0)
}

/// The target accepts every login and dies again after `life`: in the bring-up that follows the login, or
/// with the first command of a user. No login may stretch the wait of a request.
#[test]
fn l3_a_target_that_dies_after_every_login_fails_upward_within_the_replacement_timeout() {
    for life in [Duration::ZERO, Duration::from_micros(100), Duration::from_millis(1)] {
        let mut config = RigConfig::new(1);
        config.record.settings.replacement_timeout = 20;
        let mut rig = Rig::idle(config);
        let buf = rig.alloc(BLOCK as usize);
        let target = rig.world.target().expect("embedded").clone();
        let die = || {
            target.borrow_mut().kill();
            target.borrow_mut().restart().expect("killed");
        };
        die();
        rig.run_ms(1);
        rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("it waits for the recovery");
        let (start, mut last, mut deaths, mut done) = (rig.world.now(), rig.counters().logins, 0, Vec::new());
        let host = rig.world.host().clone();
        while rig.world.now() - start < 60 * SECOND && done.is_empty() {
            let h = host.clone();
            if rig.world.run(SECOND, |_| h.borrow().adapter.counters().logins > last) {
                rig.world.run_for(life);
                last = rig.counters().logins;
                deaths += 1;
                die();
            }
            host.borrow_mut().adapter.reap(&mut done);
        }
        let took = rig.world.now() - start;
        assert_eq!(done.len(), 1, "{life:?}: still waiting after {took:?} and {deaths} deaths");
        // A target that lives long enough has answered.
        let expected = [Ok(()), Err(BlockError::RecoveryTimedOut { seconds: 20 })];
        assert!(expected.contains(&done[0].result) && took <= 21 * SECOND, "{life:?}: {done:?} {took:?}");
        rig.run_ms(10_000);
        assert_eq!(rig.in_phase(SessionPhase::Ready), 1, "L2: {life:?}");
        rig.free(buf);
        rig.finish().assert_sound();
    }
}

/// Each completion of the bring-up after a re-login is lost once: the disk comes back with its session, and
/// no request fails.
#[test]
fn a_lost_completion_of_the_look_at_the_units_costs_no_disk() {
    for k in 0..10 {
        let mut rig = Rig::start(RigConfig::new(1));
        rig.run_ms(200);
        rig.reset(OperatorRequest::Reset);
        let host = rig.world.host().clone();
        let looks = |s: driver::adapter::SessionInfo| s.phase == SessionPhase::BringUp && s.logins == 2;
        assert!(rig.world.run(20 * SECOND, |_| host.borrow().adapter.sessions().any(looks)));
        rig.world.faults().arm(FaultPoint::DropCqe, Trigger { after: k, count: 1, operand: None });
        rig.world.run_for(150 * SECOND);
        rig.fired(FaultPoint::DropCqe);
        assert_eq!(host.borrow().adapter.disks(rig.entries[0].session).len(), 1, "completion {k}");
        assert!(rig.progress(10 * SECOND).is_some(), "L2: completion {k}");
        let run = rig.finish();
        run.assert_unharmed();
        assert_eq!(run.adapter.disks_changed, 0, "no answer is not another disk");
    }
}

/// As before, and the next completions are lost as well: the session is recovered, and the replacement
/// timeout is kept.
#[test]
fn a_target_that_answers_nothing_after_the_login_is_recovered_and_found_again() {
    let mut rig = Rig::start(RigConfig::new(2));
    rig.run_ms(200);
    rig.reset(OperatorRequest::Reset);
    let host = rig.world.host().clone();
    assert!(rig.world.run(20 * SECOND, |_| host.borrow().adapter.sessions().any(|s| s.logins == 2)));
    rig.world.faults().arm(FaultPoint::DropCqe, Trigger { after: 0, count: 40, operand: None });
    rig.world.run_for(600 * SECOND);
    rig.heal();
    rig.finish().assert_sound();
}

/// Three lost answers to ISCSI_INIT, 3 s of trouble: the adapter gives up, and tries again without an
/// operator.
#[test]
fn p6_an_adapter_that_failed_comes_back_by_itself() {
    let mut rig = Rig::start(RigConfig::new(2));
    rig.run_ms(100);
    let init = Some(completion_of(IscsiKcqeOpcode::INIT));
    rig.world.faults().arm(FaultPoint::SwallowKcqe, Trigger { after: 0, count: 3, operand: init });
    rig.reset(OperatorRequest::Reset);
    rig.until(20 * SECOND, |s| matches!(s, AdapterState::Failed(_)));
    assert!(rig.recovered(20 * SECOND), "{:?}", rig.state());
    rig.finish().assert_unharmed();
}

/// The trouble lasts for ten minutes: each pause is longer than the last, none is longer than a minute.
#[test]
fn an_adapter_that_fails_again_and_again_tries_at_least_once_a_minute() {
    let mut rig = Rig::start(RigConfig::new(1));
    rig.run_ms(100);
    let init = Some(completion_of(IscsiKcqeOpcode::INIT));
    rig.world.faults().arm(FaultPoint::SwallowKcqe, Trigger { after: 0, count: u64::MAX, operand: init });
    rig.reset(OperatorRequest::Reset);
    rig.world.run_for(600 * SECOND);
    let attempts = rig.fired(FaultPoint::SwallowKcqe);
    assert!((20..70).contains(&attempts), "{attempts} attempts in ten minutes");
    rig.world.faults().disarm(FaultPoint::SwallowKcqe);
    rig.world.run_for(90 * SECOND);
    assert_eq!((rig.state(), rig.in_phase(SessionPhase::Ready)), (AdapterState::Up, 1));
    rig.finish().assert_sound();
}

/// S12: the target never opens its command window, not even for the bring-up.
#[test]
fn p8_a_closed_command_window_has_a_deadline_in_the_bring_up() {
    let mut config = RigConfig::new(1);
    config.server.window = 0;
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    rig.world.begin_login(&record).expect("sound");
    rig.world.run_for(3600 * SECOND);
    assert_eq!(rig.in_phase(SessionPhase::Offline), 1, "it is told upward");
    assert!(rig.counters().connections_lost > 10, "and tried again");
    let overdue = rig.world.host().borrow().ages.findings.clone();
    assert_eq!(overdue, []);
}

/// One completion of a session is lost, default settings: the request is repeated, nobody is told, whether
/// other requests are answered meanwhile or not.
#[test]
fn p18_one_lost_completion_fails_no_request() {
    for depth in [1, 2, 16] {
        let mut config = RigConfig::new(1);
        config.load.think = Duration::from_millis(200);
        config.load.depth = depth;
        let mut rig = Rig::start(config);
        rig.run_ms(500);
        rig.world.faults().arm(FaultPoint::DropCqe, Trigger::ONCE);
        rig.world.run_for(300 * SECOND);
        rig.fired(FaultPoint::DropCqe);
        rig.finish().assert_unharmed();
    }
}

/// A damaged frame that only the data digest notices, in the immediate data of a write: the target rejects
/// the command, and its CmdSN is missing there until somebody does something about it.
#[test]
fn p19_one_data_digest_error_in_immediate_data_stalls_nobody() {
    for seed in 1..=4 {
        let mut config = RigConfig::frames(1);
        config.seed = seed;
        config.record.settings.data_digest = DigestOffer::Crc32c;
        config.network().station.checksums = Checksums::Skipped;
        config.load.write_percent = 100;
        config.load.max_bytes = 4096;
        config.load.think = Duration::from_millis(2);
        let mut rig = Rig::start(config);
        rig.run_ms(100);
        let target = rig.world.target().expect("embedded").clone();
        let damage = Direction { corrupt: 20_000, ..Direction::default() };
        rig.link().set(LinkConfig { up: damage, ..LinkConfig::default() });
        let seen = rig.world.run(60 * SECOND, |_| target.borrow().server().counters().rejects > 0);
        rig.link().set(LinkConfig::default());
        let failed = rig.load.borrow().report().failed;
        rig.run_ms(50);
        let before = rig.load.borrow().report().commands;
        let (load, start) = (rig.load.clone(), rig.world.now());
        rig.world.run(300 * SECOND, |_| load.borrow().report().commands > before + 20);
        let took = rig.world.now() - start;
        assert!(seen && took < 10 * SECOND, "seed {seed}: {took:?}");
        assert_eq!(rig.load.borrow().report().failed, failed, "seed {seed}");
    }
}

/// The daemon has lost messages, says Hello, and is stopped for longer than any timer of its own before it
/// reads the answer.
#[test]
fn p4_a_daemon_that_is_stopped_while_it_resynchronises_forgets_no_session() {
    for pause_us in [5, 20] {
        let mut config = RigConfig::new(128);
        config.load = LoadConfig { think: SECOND, ..config.load };
        let mut rig = Rig::start(config);
        rig.run_ms(50);
        rig.world.stop_iscsid(true);
        // So many news that the adapter drops them and asks for a Hello.
        for _ in 0..1500 {
            rig.world.operate(OperatorRequest::Reset).expect("up");
            let host = rig.world.host().clone();
            rig.world.run(5 * SECOND, |_| host.borrow().adapter.state() == AdapterState::Up);
            rig.world.run_for(Duration::from_micros(10));
            if rig.counters().control_dropped > 0 {
                break;
            }
        }
        assert!(rig.counters().control_dropped > 0, "the outbox is bounded");
        rig.world.stop_iscsid(false);
        rig.world.run_for(Duration::from_micros(pause_us));
        rig.world.stop_iscsid(true);
        rig.world.run_for(31 * SECOND);
        rig.world.stop_iscsid(false);
        rig.run_ms(220_000);
        assert_eq!(rig.world.iscsid().expect("runs").borrow().sessions().count(), 128, "{pause_us} us");
        assert_eq!(rig.in_phase(SessionPhase::Ready), 128, "{pause_us} us");
    }
}
