//! The oracles bite: for each invariant that the other tests assert, a deliberate defect of the card, or a
//! run that was spoilt on purpose, makes it fire under its own id.

use std::time::Duration;

use bus::inproc::Violation;
use bus::mem::PAGE_SIZE;
use bus::pci::{Dir, DmaFault, Platform};
use driver::adapter::{OperatorRequest, SessionPhase};
use driver::config::Deadlines;
use hw_model::fault::{FaultPoint, Trigger};
use lab::ages::Overdue;
use lab::execution::Executions;
use lab::oracle::{Fault, Finding};
use tests::rig::{Rig, RigConfig, Run};

const SECOND: Duration = Duration::from_secs(1);

/// A sound run, to be spoilt.
fn sound() -> Run {
    let mut rig = Rig::start(RigConfig::new(2));
    rig.run_ms(200);
    let run = rig.finish();
    run.assert_unharmed();
    run
}

fn ids(run: &Run) -> Vec<&'static str> {
    run.broken().into_iter().map(|b| b.id).collect()
}

/// A run with a defect of the card, armed in the middle of the load.
fn with_defect(point: FaultPoint, trigger: Trigger) -> (Run, Rig) {
    let mut config = RigConfig::new(2);
    config.load.write_percent = 30;
    // Reads must find what was written, so let regions be small.
    config.region = 64;
    config.load.max_bytes = 8192;
    let mut rig = Rig::start(config.clone());
    rig.run_ms(500);
    rig.world.faults().arm(point, trigger);
    rig.run_ms(1000);
    rig.fired(point);
    (rig.finish(), Rig::up(config))
}

#[test]
fn each_way_to_spoil_a_run_fires_its_invariant() {
    type Spoil = fn(&mut Run);
    let ways: [(&str, Spoil); 18] = [
        ("S1", |r| r.lost = 1),
        ("S1", |r| r.load.duplicated = 1),
        ("S2", |r| r.load.findings.push(finding(Fault::Stale { found: 1, expected: 2 }))),
        ("S3", |r| r.load.findings.push(finding(Fault::Torn(7)))),
        ("S4", |r| r.load.findings.push(finding(Fault::Resurfaced { found: 3, expected: 2 }))),
        ("S5", |r| r.repeated = 1),
        ("S6", |r| r.load.guard_bytes = 1),
        ("S7", |r| r.left.audit.violations = 1),
        ("S8", |r| r.engine.suspected_overruns = 1),
        ("S9", |r| r.shared = 1),
        ("S10", |r| r.target.rejects = 1),
        ("S10", |r| r.target.transfer_violations = 1),
        ("S11", |r| r.target.data_digest_errors = 1),
        ("S12", |r| r.adapter.control_dropped = 1),
        ("S12", |r| r.overdue.push(overdue("S12"))),
        ("L3", |r| r.overdue.push(overdue("L3"))),
        ("R8", |r| r.left.holdings.cids = 1),
        ("L4", |r| r.shutdown = r.deadlines.stop * 2),
    ];
    let good = sound();
    for (id, spoil) in ways {
        let mut run = good.clone();
        spoil(&mut run);
        assert_eq!(ids(&run), [id]);
    }
    // Everything that R8 counts, one by one.
    let held: [Spoil; 13] = [
        |r| r.left.holdings.ports = 1,
        |r| r.left.holdings.path_groups = 1,
        |r| r.left.holdings.quarantined = 1,
        |r| r.left.holdings.loans = 1,
        |r| r.left.holdings.dma_buffers = 1,
        |r| r.left.holdings.user_buffers = 1,
        |r| r.left.holdings.timers = 1,
        |r| r.left.holdings.sessions = 1,
        |r| r.left.holdings.requests = 1,
        |r| r.left.audit.buffers = 1,
        |r| r.left.audit.loans = 1,
        |r| r.left.on_card = 1,
        |r| r.left.streams = 1,
    ];
    for spoil in held {
        let mut run = good.clone();
        spoil(&mut run);
        assert_eq!(ids(&run), ["R8"]);
    }
}

fn overdue(invariant: &'static str) -> Overdue {
    Overdue { tag: 1, invariant, age: 200 * SECOND, bound: 120 * SECOND, phase: SessionPhase::BringUp }
}

fn finding(fault: Fault) -> Finding {
    Finding { writer: 0, lba: 0, fault }
}

#[test]
fn s3_misplaced_data_is_found() {
    let (run, _) = with_defect(FaultPoint::MisplacedData, Trigger { after: 3, count: 8, operand: None });
    let ids = ids(&run);
    assert!(!ids.is_empty() && ids.iter().all(|id| ["S2", "S3", "S6"].contains(id)), "{ids:?}");
}

#[test]
fn s3_corrupt_data_is_found() {
    let (run, _) = with_defect(FaultPoint::CorruptData, Trigger { after: 3, count: 8, operand: None });
    let ids = ids(&run);
    assert!(!ids.is_empty() && ids.iter().all(|id| *id == "S3"), "{ids:?}");
}

#[test]
fn s5_a_repeated_command_is_found() {
    use iscsi::target::{Event, ServerConfig, TargetServer};
    let conn =
        TargetServer::new(ServerConfig::default()).connect("192.0.2.1:3260", 0).expect("there is room");
    let mut x = Executions::default();
    for cmd_sn in [4, 5, 5] {
        x.observe(&Event::Executed { conn, tsih: 1, cmd_sn, immediate: false, itt: 0, opcode: 0x2a });
    }
    assert_eq!(x.repeated(), 1);
}

#[test]
fn s7_r3_a_late_dma_is_refused_counted_and_seen() {
    let mut rig = Rig::start(RigConfig::new(4));
    rig.run_ms(100);
    rig.world.faults().arm(FaultPoint::LateDmaAfterReset, Trigger::ONCE);
    rig.reset(OperatorRequest::Reset);
    assert!(rig.recovered(5 * SECOND), "the driver is unharmed");
    assert_eq!(rig.fired(FaultPoint::LateDmaAfterReset), 1);
    assert!(matches!(rig.world.slot().borrow().violations(), [Violation::Dma(DmaFault::Revoked)]));
    let run = rig.finish();
    assert_eq!(run.left.audit.refused, 1);
    assert_eq!(ids(&run), ["S7"], "nothing else happened");
    assert_eq!(run.load.failed, 0);
}

#[test]
fn r3_memory_freed_while_it_is_lent_is_seen() {
    let mut rig = Rig::up(RigConfig::new(0));
    let mut platform = bus::inproc::InProcess(rig.world.slot().clone());
    let buf = platform.dma_alloc(PAGE_SIZE, "test").expect("there is memory");
    let loan = platform.lend(&buf, 0..PAGE_SIZE, Dir::Both);
    platform.dma_free(buf);
    assert!(matches!(rig.world.slot().borrow().violations(), [Violation::FreedWhileLent(_)]));
    drop(loan);
    rig.run_ms(1);
    assert_eq!(ids(&rig.finish()), ["S7"]);
}

#[test]
fn l1_a_recovery_that_does_not_come_is_noticed() {
    let mut rig = Rig::start(RigConfig::new(2));
    rig.world.target().expect("embedded").borrow_mut().kill();
    rig.reset(OperatorRequest::Reset);
    assert!(!rig.recovered(60 * SECOND), "L1, L2: nobody can log in");
    rig.heal();
    rig.finish().assert_unharmed();
}

#[test]
fn r2_a_stop_that_takes_longer_than_its_deadline_would_show() {
    // With a deadline of its own for the stop that is shorter than a close, the stop ends by it.
    let mut config = RigConfig::new(4);
    config.driver.deadlines = Deadlines { stop: 3 * SECOND, ..Deadlines::default() };
    let mut rig = Rig::start(config);
    rig.world.faults().arm(FaultPoint::Mute, Trigger::ONCE);
    rig.run_ms(20);
    rig.reset(OperatorRequest::Reset);
    let took = rig.until(20 * SECOND, |s| s == driver::adapter::AdapterState::Up);
    assert!(took >= 3 * SECOND && took < 5 * SECOND, "{took:?}");
    rig.heal();
    rig.finish().assert_unharmed();
}

#[test]
fn r6_a_session_that_does_not_come_back_is_counted() {
    let mut rig = Rig::start(RigConfig::new(3));
    rig.reset(OperatorRequest::InterfaceDown);
    assert!(!rig.recovered(10 * SECOND));
    assert_eq!(rig.load.borrow().recovering(), 3);
    rig.heal();
    rig.finish().assert_unharmed();
}

#[test]
fn r8_a_session_that_is_still_there_is_a_leak() {
    let rig = Rig::idle(RigConfig::new(1));
    let left = rig.world.leftovers();
    assert!(left.leaked() > 0 && left.on_card == 2 && left.streams == 1, "{left:?}");
    rig.finish().assert_sound();
}

#[test]
fn s1_a_completion_that_never_comes_is_lost() {
    let mut config = RigConfig::new(1);
    // No timer that could help.
    let s = &mut config.record.settings;
    (s.noop_out_interval, s.noop_out_timeout, s.command_timeout) = (0, 0, 100_000);
    config.load.depth = 1;
    let mut rig = Rig::start(config);
    rig.world.faults().arm(FaultPoint::DropCqe, Trigger::ALWAYS);
    rig.run_ms(1000);
    rig.fired(FaultPoint::DropCqe);
    let run = rig.finish();
    assert!(ids(&run).contains(&"S1"), "{:?}", run.broken());
}
