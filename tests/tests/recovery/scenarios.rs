//! The scenarios of BNX2I-CNIC 13 that need the whole stack, each under its id, with the column "Required" as
//! the assertion. docs/invariants.md says where the others are tested, and which do not apply to the 5709
//! class.

use std::time::Duration;

use driver::adapter::{AdapterState, Failure, OperatorError, OperatorRequest, SessionPhase};
use driver::config::{ConfigError, RingSizes};
use driver::iscsid::NodeRecord;
use driver::user::Op;
use hsi::kernel::kcq::IscsiKcqeOpcode;
use hsi::kernel::kwq::{IscsiKwqeOpcode, Layer};
use hsi::kernel::l4::{L4KcqeOpcode, L4KwqeOpcode};
use hw_model::fault::{FaultPoint, Trigger};
use hw_model::tcp::memory::Reach;

use lab::world::{PORTAL, WorldError};
use tests::rig::{BLOCK, Rig, RigConfig, TARGET, prompt_recovery_bound, recovery_bound};

const SECOND: Duration = Duration::from_secs(1);

/// Operand of the fault points: an iSCSI completion.
fn l5(op: IscsiKcqeOpcode) -> u32 {
    u32::from(Layer::ISCSI.0) << 8 | u32::from(op.0)
}

/// The same for a TCP completion.
fn l4(op: L4KcqeOpcode) -> u32 {
    u32::from(Layer::L4.0) << 8 | u32::from(op.0)
}

/// A login while `point` hits `operand` once: it works in the end. How long it took.
fn login_with(point: FaultPoint, operand: u32, config: RigConfig) -> (Rig, Duration) {
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    rig.arm(point, operand, 1);
    let start = rig.world.now();
    rig.entries = rig.world.login(&record, 1).unwrap_or_else(|e| panic!("{point} {operand:#x}: {e}"));
    rig.fired(point);
    let took = rig.world.now() - start;
    (rig, took)
}

/// One verified request on session `i`.
fn works(rig: &mut Rig, i: usize) {
    let buf = rig.alloc(BLOCK as usize);
    rig.submit(i, Op::Read, 0, &[buf.whole()]).expect("the session is ready");
    assert_eq!(rig.completion(30 * SECOND).expect("it completes").0.result, Ok(()));
    rig.free(buf);
}

// 13.1 Unbounded waits.

#[test]
fn h1_lost_update_conn() {
    let (mut rig, took) =
        login_with(FaultPoint::SwallowKcqe, l5(IscsiKcqeOpcode::UPDATE_CONN), RigConfig::new(1));
    let d = rig.config().driver.deadlines;
    assert!(
        took >= d.update && took < d.update + 4 * SECOND,
        "deadline, then the pause of a failed attempt: {took:?}"
    );
    assert!(rig.counters().timeouts >= 1);
    works(&mut rig, 0);
    rig.finish().assert_sound();
}

#[test]
fn h1_lost_update_conn_in_recovery() {
    let mut rig = Rig::start(RigConfig::new(4));
    rig.arm(FaultPoint::SwallowKcqe, l5(IscsiKcqeOpcode::UPDATE_CONN), 4);
    rig.reset(OperatorRequest::Reset);
    assert!(rig.recovered(15 * SECOND), "L1");
    assert_eq!(rig.fired(FaultPoint::SwallowKcqe), 4);
    rig.finish().assert_unharmed();
}

#[test]
fn h2_lost_connect_complete_or_path_group() {
    for op in [L4KcqeOpcode::OFFLOAD_PG, L4KcqeOpcode::CONNECT_COMPLETE] {
        let (mut rig, took) = login_with(FaultPoint::SwallowKcqe, l4(op), RigConfig::new(1));
        let d = rig.config().driver.deadlines;
        assert!(took < d.connect + d.destroy + 10 * SECOND, "{op:?}: {took:?}");
        works(&mut rig, 0);
        rig.finish().assert_sound();
    }
}

#[test]
fn h5_a_fin_after_our_reset_cancels_no_deadline() {
    let mut rig = Rig::start(RigConfig::new(2));
    rig.arm(FaultPoint::SwallowKcqe, l4(L4KcqeOpcode::RESET_COMP), 2);
    rig.reset(OperatorRequest::Reset);
    rig.world.act_on_target(|t, ids| ids.iter().for_each(|id| t.closed(*id)));
    let d = rig.config().driver.deadlines;
    let took = rig.until(d.stop, |s| s == AdapterState::Up);
    assert!(took >= d.close && took < d.close + d.destroy + SECOND, "R4: {took:?}");
    assert!(rig.recovered(prompt_recovery_bound(&rig.config().record.clone())), "L1");
    assert_eq!(rig.fired(FaultPoint::SwallowKcqe), 2);
    rig.finish().assert_unharmed();
}

#[test]
fn h7_removal_while_iscsid_is_stopped() {
    let mut rig = Rig::start(RigConfig::new(16));
    rig.run_ms(50);
    rig.world.stop_iscsid(true);
    rig.world.pull_card();
    rig.run_ms(100);
    rig.load.borrow_mut().stop();
    // The host driver is removed too. Nobody waits for the daemon.
    let start = rig.world.now();
    rig.world.operate(OperatorRequest::Shutdown).expect("it was not shut down");
    rig.until(2 * SECOND, |s| s == AdapterState::Gone);
    assert!(rig.world.now() - start <= 2 * SECOND, "L4");
    let load = rig.load.clone();
    rig.run_ms(1);
    assert_eq!(load.borrow().outstanding(), 0, "S1: every request was told");
    let kept = rig.world.act(|_, host| load.borrow_mut().release(&mut host.adapter));
    let left = rig.world.leftovers();
    assert_eq!(
        (kept, left.holdings, left.audit.loans, left.audit.buffers, left.audit.violations),
        (0, Default::default(), 0, 0, 0)
    );
}

// 13.2 Time amplification.

/// How long a mute chip with `sessions` sessions holds up `request`.
fn mute(sessions: u16, request: OperatorRequest, there: AdapterState) -> Duration {
    let mut rig = Rig::start(RigConfig::new(sessions));
    rig.run_ms(20);
    rig.world.faults().arm(FaultPoint::Mute, Trigger::ONCE);
    rig.run_ms(20);
    rig.fired(FaultPoint::Mute);
    rig.reset(request);
    let took = rig.until(60 * SECOND, |s| s == there);
    rig.heal();
    rig.finish().assert_unharmed();
    took
}

#[test]
fn t1_a_mute_chip_costs_one_deadline_whatever_the_number_of_sessions() {
    let [one, many] = [1, 64].map(|n| mute(n, OperatorRequest::ChangeMtu(9000), AdapterState::Up));
    let d = RigConfig::new(1).driver.deadlines;
    assert!(one <= d.stop + d.firmware + SECOND, "R2: {one:?}");
    assert!(many < one + SECOND / 10, "R2: {one:?} for one, {many:?} for 64");
}

#[test]
fn t2_a_mute_chip_and_interface_down() {
    let [one, many] = [1, 64].map(|n| mute(n, OperatorRequest::InterfaceDown, AdapterState::Down));
    let d = RigConfig::new(1).driver.deadlines;
    assert!(one <= d.close + d.destroy + 3 * SECOND && many < one + SECOND / 10, "R2: {one:?}, {many:?}");
}

#[test]
fn t3_a_slow_teardown_of_one_session_does_not_hold_up_another() {
    let mut rig = Rig::idle(RigConfig::new(1));
    let tag = rig.entries[0].tag;
    rig.arm(FaultPoint::SwallowKcqe, l4(L4KcqeOpcode::CLOSE_COMP), 1);
    rig.world.begin_logout(tag).expect("the daemon reads");
    rig.run_ms(500);
    let start = rig.world.now();
    let record = rig.config().record.clone();
    rig.entries = Vec::new();
    rig.world.begin_login(&record).expect("the daemon reads");
    let host = rig.world.host().clone();
    let ready = |s: driver::adapter::SessionInfo| s.tag != tag && s.phase == SessionPhase::Ready;
    assert!(rig.world.run(5 * SECOND, |_| host.borrow().adapter.sessions().any(ready)), "B is held up");
    assert!(rig.world.now() - start < SECOND, "B took {:?}", rig.world.now() - start);
    rig.fired(FaultPoint::SwallowKcqe);
    rig.run_ms(20_000);
    while rig.world.take_reply().is_some() {}
    rig.finish().assert_sound();
}

#[test]
fn t4_disconnect_while_the_path_is_unresolved() {
    let mut rig = Rig::up(RigConfig::new(1));
    rig.world.stop_helper(true);
    let record = rig.config().record.clone();
    rig.world.begin_login(&record).expect("the daemon reads");
    rig.run_ms(1000);
    assert_eq!(rig.world.leftovers().holdings.cids, 1, "it connects");
    rig.world.operate(OperatorRequest::InterfaceDown).expect("it was not shut down");
    let took = rig.until(SECOND, |s| s == AdapterState::Down);
    assert!(took < SECOND / 10, "cancelled at once: {took:?}");
    rig.undo_faults();
    rig.run_ms(30_000);
    assert_eq!(rig.in_phase(SessionPhase::Ready), 1, "the login goes on when the path is known");
    while rig.world.take_reply().is_some() {}
    rig.finish().assert_sound();
}

// 13.3 Races and lost state.

#[test]
fn r2_rst_between_update_conn_and_its_answer() {
    let config = RigConfig::new(1);
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    rig.arm(FaultPoint::DelayKcqe, l5(IscsiKcqeOpcode::UPDATE_CONN), 1);
    rig.world.begin_login(&record).expect("the daemon reads");
    let faults = rig.world.faults().clone();
    assert!(rig.world.run(5 * SECOND, |_| faults.fired(FaultPoint::DelayKcqe) == 1));
    // RST on every connection, while the answer is held back.
    let target = rig.world.target().expect("embedded").clone();
    target.borrow_mut().kill();
    target.borrow_mut().restart().expect("it was killed");
    let entry = rig.world.run(20 * SECOND, |_| target.borrow().connections() == 1);
    assert!(entry, "the login is tried again");
    rig.run_ms(5000);
    assert_eq!(rig.in_phase(SessionPhase::Ready), 1);
    while rig.world.take_reply().is_some() {}
    rig.finish().assert_sound();
}

#[test]
fn r4_a_refused_port_is_an_error_and_not_a_connection() {
    let mut rig = Rig::up(RigConfig::new(1));
    let mut record = NodeRecord::new(TARGET, std::net::SocketAddr::new(PORTAL.ip(), 3261));
    record.settings.initial_login_retry_max = 0;
    let error = rig.world.login(&record, 1).expect_err("nobody listens there");
    assert!(error.to_string().contains("refused"), "{error}");
    rig.finish().assert_sound();
}

#[test]
fn r10_r11_rq_buffers_are_accounted_by_the_completion() {
    let mut rig = Rig::idle(RigConfig::new(1));
    let buf = rig.alloc(BLOCK as usize);
    let bad = Op::Scsi { cdb: [0xff; 16], write: false };
    // Sense data for many tasks at once, more often than there are buffers.
    for _ in 0..20 {
        for _ in 0..12 {
            rig.submit(0, bad, 0, &[buf.whole()]).expect("the session is ready");
        }
        let (host, mut done) = (rig.world.host().clone(), Vec::new());
        let all = rig.world.run(SECOND, |_| {
            host.borrow_mut().adapter.reap(&mut done);
            done.len() >= 12
        });
        assert!(all && done.iter().all(|c| c.result.is_err()), "{done:?}");
    }
    assert_eq!(rig.world.engine_counters().rq_stalls, 0);
    works(&mut rig, 0);
    rig.free(buf);
    rig.finish().assert_sound();
}

#[test]
fn r12_r13_late_events_of_a_dead_connection_are_dropped() {
    let mut config = RigConfig::new(4);
    config.chip.delayed_kcqe_ns = 300_000_000;
    let mut rig = Rig::start(config);
    rig.run_ms(50);
    rig.arm(FaultPoint::DelayKcqe, l5(IscsiKcqeOpcode::CQ_EVENT_NOTIFICATION), 1);
    rig.run_ms(50);
    rig.fired(FaultPoint::DelayKcqe);
    rig.reset(OperatorRequest::Reset);
    assert!(rig.recovered(10 * SECOND), "L1");
    rig.finish().assert_unharmed();
}

#[test]
fn r16_r17_an_impatient_operator_shortens_nothing() {
    let mut rig = Rig::start(RigConfig::new(16));
    rig.run_ms(50);
    rig.reset(OperatorRequest::ChangeMtu(9000));
    for i in 0..50 {
        let what =
            [OperatorRequest::InterfaceDown, OperatorRequest::InterfaceUp, OperatorRequest::Reset][i % 3];
        rig.world.operate(what).expect("it was not shut down");
        rig.world.run_for(Duration::from_micros(37));
    }
    rig.heal();
    rig.finish().assert_unharmed();
}

#[test]
fn r18_nothing_waits_for_a_lost_event() {
    let mut rig = Rig::idle(RigConfig::new(1));
    let buf = rig.alloc(BLOCK as usize);
    rig.arm(FaultPoint::SwallowKcqe, l5(IscsiKcqeOpcode::CQ_EVENT_NOTIFICATION), 1);
    rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("the session is ready");
    let (c, took) = rig.completion(10 * SECOND).expect("the watchdog finds it");
    assert_eq!(c.result, Ok(()));
    assert!(took <= rig.config().driver.deadlines.watchdog + SECOND / 10, "{took:?}");
    rig.fired(FaultPoint::SwallowKcqe);
    rig.free(buf);
    rig.finish().assert_sound();
}

// 13.4 Leaks and stale resources.

#[test]
fn l1_failed_ring_allocation_returns_the_cid() {
    let mut config = RigConfig::new(1);
    config.dma_limit = 3 << 20;
    let mut record = config.record.clone();
    record.settings.initial_login_retry_max = 0;
    let mut rig = Rig::up(config);
    let error = rig.world.login(&record, 128).expect_err("there is not enough memory for 128");
    assert!(matches!(error, WorldError::Daemon(_)), "{error}");
    rig.run_ms(1000);
    while rig.world.take_reply().is_some() {}
    let held = rig.world.leftovers().holdings;
    assert!(held.cids > 0 && held.cids < 128 && held.cids == held.sessions, "{held:?}");
    rig.finish().assert_sound();
}

#[test]
fn l2_a_late_offload_answer_keeps_the_rings_until_destroy() {
    let mut config = RigConfig::new(1);
    config.chip.delayed_kcqe_ns = 2_500_000_000;
    let (mut rig, _) = login_with(FaultPoint::DelayKcqe, l5(IscsiKcqeOpcode::OFFLOAD_CONN), config);
    works(&mut rig, 0);
    assert_eq!(rig.counters().quarantined, 1, "R3");
    rig.finish().assert_sound();
}

#[test]
fn l7_iscsid_dies_and_its_unbound_endpoint_is_not_leaked() {
    let mut rig = Rig::up(RigConfig::new(1));
    let record = rig.config().record.clone();
    rig.world.begin_login(&record).expect("the daemon reads");
    rig.world.target().expect("embedded").borrow().set_silent(true);
    let target = rig.world.net().expect("in memory").clone();
    rig.world.run(SECOND, |_| target.streams() > 0);
    rig.world.kill_iscsid();
    assert!(rig.world.leftovers().holdings.cids > 0);
    let d = rig.config().driver.deadlines;
    rig.world.run_for(d.login + d.connect + d.close + d.destroy);
    let held = rig.world.leftovers().holdings;
    assert_eq!((held.cids, held.ports, held.path_groups), (0, 0, 0), "nobody told the driver to");
    rig.undo_faults();
    rig.run_ms(1000);
    rig.finish().assert_sound();
}

#[test]
fn l10_a_failed_init_is_forgotten_by_the_next_start() {
    let mut rig = Rig::up(RigConfig::new(1));
    let init = l5(IscsiKcqeOpcode::INIT);
    rig.arm(FaultPoint::SwallowKcqe, init, 2);
    rig.world.operate(OperatorRequest::Reset).expect("it was not shut down");
    rig.run_ms(10);
    rig.until(20 * SECOND, |s| s == AdapterState::Up);
    assert_eq!(rig.fired(FaultPoint::SwallowKcqe), 2, "the third attempt worked");
    rig.arm(FaultPoint::SwallowKcqe, init, 3);
    rig.world.operate(OperatorRequest::Reset).expect("it was not shut down");
    rig.until(20 * SECOND, |s| matches!(s, AdapterState::Failed(Failure::Init(_))));
    rig.world.operate(OperatorRequest::InterfaceUp).expect("it was not shut down");
    rig.until(20 * SECOND, |s| s == AdapterState::Up);
    rig.finish().assert_sound();
}

// 13.5 Data errors.

#[test]
fn d3_a_duplicate_completion_is_an_error_and_recovered() {
    let mut rig = Rig::start(RigConfig::new(2));
    rig.run_ms(50);
    rig.world.faults().arm(FaultPoint::DuplicateCqe, Trigger::ONCE);
    rig.run_ms(10_000);
    assert_eq!(rig.fired(FaultPoint::DuplicateCqe), 1);
    let counters = rig.counters();
    assert_eq!((counters.unknown_itt, counters.connections_lost), (1, 1));
    rig.finish().assert_unharmed();
}

#[test]
fn d4_cq_never_overruns() {
    let mut config = RigConfig::new(2);
    config.load.depth = 60;
    config.load.max_bytes = 2048;
    config.load.think = Duration::from_micros(500);
    config.record.settings.queue_depth = 64;
    config.server.ping_interval_ns = Some(1_000_000);
    config.region = 2048;
    let mut rig = Rig::start(config);
    rig.run_ms(2);
    // The events of both sessions are lost: until the watchdog looks, their queues fill as far as they ever
    // can.
    let faults = rig.world.faults().clone();
    for lost in 1..=2 {
        rig.arm(FaultPoint::SwallowKcqe, l5(IscsiKcqeOpcode::CQ_EVENT_NOTIFICATION), 1);
        assert!(rig.world.run(SECOND, |_| faults.fired(FaultPoint::SwallowKcqe) == lost));
    }
    let d = rig.config().driver.deadlines;
    rig.world.run_for(d.watchdog + Duration::from_millis(5));
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.cq_gaps, 0, "S8");
    assert!(run.engine.cqes > 500, "{} CQEs", run.engine.cqes);
}

#[test]
fn d5_completions_are_read_whole_while_the_bus_holds_writes() {
    let mut config = RigConfig::new(4);
    config.timing.dma = Duration::from_micros(50);
    config.timing.mmio = Duration::from_micros(30);
    config.load.think = Duration::from_micros(50);
    let mut rig = Rig::start(config);
    rig.run_ms(50);
    let run = rig.finish();
    run.assert_unharmed();
    assert!(run.load.commands > 500, "{}", run.load.commands);
}

#[test]
fn d6_ring_sizes_change_only_with_a_new_init() {
    let mut rig = Rig::start(RigConfig::new(1));
    for bad in [RingSizes { sq: 128, rq: 16, cq: 128 }, RingSizes { sq: 64, rq: 16, cq: 64 }] {
        let refused = rig.world.operate(OperatorRequest::ChangeRings(bad));
        assert!(matches!(refused, Err(OperatorError::Config(ConfigError::Cq { .. }))), "{refused:?}");
    }
    let age = rig.world.host().borrow().adapter.age();
    rig.reset(OperatorRequest::ChangeRings(RingSizes { rq: 32, ..RingSizes::default() }));
    assert!(rig.recovered(5 * SECOND), "L1");
    assert_eq!(rig.world.host().borrow().adapter.age(), age + 1);
    rig.finish().assert_unharmed();
}

// 13.6 Recovery scenarios, as far as they are not above, in the matrix or at every event.

/// Every completion, lost once during a login and once during a reset under load.
#[test]
fn every_kcqe_lost_once() {
    let iscsi = [
        IscsiKcqeOpcode::OFFLOAD_CONN,
        IscsiKcqeOpcode::UPDATE_CONN,
        IscsiKcqeOpcode::DESTROY_CONN,
        IscsiKcqeOpcode::INIT,
    ];
    let tcp = [
        L4KcqeOpcode::OFFLOAD_PG,
        L4KcqeOpcode::UPLOAD_PG,
        L4KcqeOpcode::CONNECT_COMPLETE,
        L4KcqeOpcode::RESET_COMP,
    ];
    let mut stale = 0;
    for op in iscsi.map(l5).into_iter().chain(tcp.map(l4)) {
        for (point, delay) in
            [(FaultPoint::SwallowKcqe, 0), (FaultPoint::DelayKcqe, 3), (FaultPoint::DelayKcqe, 12)]
        {
            let mut config = RigConfig::new(3);
            config.chip.delayed_kcqe_ns = delay * 1_000_000_000;
            let mut rig = Rig::start(config);
            rig.run_ms(30);
            rig.arm(point, op, 1);
            rig.reset(OperatorRequest::ChangeMtu(9000));
            let bound = 2 * recovery_bound(&rig.config().driver.deadlines, &rig.config().record);
            assert!(rig.recovered(bound), "L1: {point} {op:#x} by {delay} s: {:?}", rig.state());
            rig.fired(point);
            rig.run_ms(30);
            rig.heal();
            let run = rig.finish();
            run.assert_unharmed();
            stale += u64::from(point == FaultPoint::DelayKcqe) * run.adapter.stale_events;
        }
    }
    assert!(stale > 0, "R5: no answer was ever late");
}

/// Every request, fetched and forgotten once during a reset under load.
#[test]
fn every_kwqe_lost_once() {
    let iscsi = [
        IscsiKwqeOpcode::INIT1,
        IscsiKwqeOpcode::OFFLOAD_CONN1,
        IscsiKwqeOpcode::UPDATE_CONN,
        IscsiKwqeOpcode::DESTROY_CONN,
    ]
    .map(|op| u32::from(Layer::ISCSI.0) << 8 | u32::from(op.0));
    let tcp =
        [L4KwqeOpcode::OFFLOAD_PG, L4KwqeOpcode::UPLOAD_PG, L4KwqeOpcode::CONNECT1, L4KwqeOpcode::RESET]
            .map(|op| u32::from(Layer::L4.0) << 8 | u32::from(op.0));
    for op in iscsi.into_iter().chain(tcp) {
        let mut rig = Rig::start(RigConfig::new(3));
        rig.run_ms(30);
        rig.arm(FaultPoint::SwallowKwqe, op, 1);
        rig.reset(OperatorRequest::ChangeMtu(9000));
        let bound = 2 * recovery_bound(&rig.config().driver.deadlines, &rig.config().record);
        assert!(rig.recovered(bound), "L1: {op:#x}: {:?}", rig.state());
        rig.fired(FaultPoint::SwallowKwqe);
        rig.finish().assert_unharmed();
    }
}

#[test]
fn resets_every_100_ms() {
    let mut rig = Rig::start(RigConfig::new(16));
    for i in 0..50 {
        rig.run_ms(100);
        rig.world.operate(OperatorRequest::ChangeMtu([9000, 1500][i % 2])).expect("it was not shut down");
    }
    rig.heal();
    rig.finish().assert_unharmed();
}

#[test]
fn a_card_pulled_and_put_back_under_load() {
    let mut rig = Rig::start(RigConfig::new(16));
    for gap in [0, 100, 5000, 20_000] {
        rig.run_ms(50);
        rig.world.pull_card();
        rig.run_ms(gap);
        assert!(rig.world.insert_card());
        rig.heal();
    }
    rig.finish().assert_unharmed();
}

#[test]
fn a_chip_that_is_mute_for_ever_fails_upward_and_shuts_down() {
    let mut config = RigConfig::new(4);
    config.record.settings.replacement_timeout = 30;
    let mut rig = Rig::start(config);
    rig.run_ms(50);
    rig.world.faults().arm(FaultPoint::Mute, Trigger::ALWAYS);
    rig.run_ms(120_000);
    assert!(matches!(rig.state(), AdapterState::Failed(_)), "{:?}", rig.state());
    assert_eq!(rig.in_phase(SessionPhase::Offline), 4, "L3");
    rig.load.borrow_mut().stop();
    rig.run_ms(1000);
    assert_eq!(rig.load.borrow().outstanding(), 0, "L3: every request was told");
    rig.world.faults().disarm(FaultPoint::Mute);
    rig.finish().assert_sound();
}

#[test]
fn r1_a_connect_while_going_down_fails_fast_and_says_why() {
    let mut rig = Rig::start(RigConfig::new(2));
    rig.world.faults().arm(FaultPoint::Mute, Trigger::ONCE);
    rig.run_ms(20);
    rig.reset(OperatorRequest::ChangeMtu(9000));
    rig.run_ms(100);
    assert_eq!(rig.state(), AdapterState::GoingDown);
    let mut record = rig.config().record.clone();
    record.settings.initial_login_retry_max = 0;
    let start = rig.world.now();
    let error = rig.world.login(&record, 1).expect_err("R1: no new connect while going down");
    assert_eq!(rig.state(), AdapterState::GoingDown);
    assert!(rig.world.now() - start < SECOND / 100, "R1: fast: {:?}", rig.world.now() - start);
    assert!(error.to_string().contains("the adapter is down or resetting: retry when it is up"), "{error}");
    rig.heal();
    rig.finish().assert_unharmed();
}

#[test]
fn rst_storm_and_half_open_on_all_sessions_at_once() {
    let mut rig = Rig::start(RigConfig::new(32));
    rig.run_ms(50);
    let target = rig.world.target().expect("embedded").clone();
    target.borrow_mut().kill();
    target.borrow_mut().restart().expect("it was killed");
    rig.heal();
    rig.world.net().expect("in memory").set_reach(Reach::Silent);
    rig.run_ms(30_000);
    rig.heal();
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, 64);
}

#[test]
fn daemons_that_die_or_stop_during_a_reset_under_load() {
    for (name, fault) in [
        ("iscsid stopped", (|r: &mut Rig| r.world.stop_iscsid(true)) as fn(&mut Rig)),
        ("iscsid killed", |r| r.world.kill_iscsid()),
        ("helper stopped", |r| r.world.stop_helper(true)),
        ("target silent", |r| r.world.target().expect("embedded").borrow().set_silent(true)),
        ("target killed", |r| r.world.target().expect("embedded").borrow_mut().kill()),
    ] {
        for before in [true, false] {
            let mut rig = Rig::start(RigConfig::new(16));
            rig.run_ms(50);
            if before {
                fault(&mut rig);
                rig.reset(OperatorRequest::ChangeMtu(9000));
            } else {
                rig.reset(OperatorRequest::ChangeMtu(9000));
                rig.run_ms(1);
                fault(&mut rig);
            }
            // The reset itself waits for nobody (T3, H7).
            let took = rig.until(60 * SECOND, |s| s == AdapterState::Up);
            assert!(took < 5 * SECOND, "R2: {name}, {before}: {took:?}");
            rig.run_ms(20_000);
            rig.heal();
            rig.run_ms(100);
            rig.finish().assert_unharmed();
        }
    }
}

#[test]
fn a_lost_login_response_costs_one_login_timeout() {
    let config = RigConfig::new(1);
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    rig.world.faults().arm(FaultPoint::DropCqe, Trigger::ONCE);
    let start = rig.world.now();
    rig.entries = rig.world.login(&record, 1).expect("the second attempt works");
    let took = rig.world.now() - start;
    rig.fired(FaultPoint::DropCqe);
    let timeout = record.settings.login_timeout();
    assert!(took >= timeout && took < timeout + 5 * SECOND, "{took:?}");
    works(&mut rig, 0);
    rig.finish().assert_sound();
}

#[test]
fn contexts_and_licences_run_out_and_come_back() {
    let (in_use, no_context) = ("all offloaded connections of the adapter are in use", "no context left");
    for (licensed, contexts, why) in [(3, 256, in_use), (128, 3, no_context)] {
        let mut config = RigConfig::new(3);
        (config.chip.licensed_connections, config.chip.contexts) = (licensed, contexts);
        let mut record = config.record.clone();
        record.settings.initial_login_retry_max = 0;
        let mut rig = Rig::idle(config);
        let error = rig.world.login(&record, 1).expect_err("a fourth does not fit");
        assert!(error.to_string().contains(why), "{error}");
        let tag = rig.entries.remove(0).tag;
        rig.world.logout(tag).expect("the target confirms it");
        rig.run_ms(1000);
        let entries = rig.world.login(&record, 1).expect("there is room again");
        rig.entries.extend(entries);
        for i in 0..3 {
            works(&mut rig, i);
        }
        rig.world.operate(OperatorRequest::Reset).expect("it was not shut down");
        rig.run_ms(10_000);
        assert_eq!(rig.in_phase(SessionPhase::Ready), 3, "a reset gives every context back");
        rig.finish().assert_sound();
    }
}

/// SQ producer, CQ sequence, KCQ and RQ indexes of 16 bits all wrap.
#[test]
fn indexes_wrap_under_load() {
    let mut config = RigConfig::new(1);
    config.load.depth = 16;
    config.load.max_bytes = 1024;
    config.load.think = Duration::from_micros(1);
    config.server.trace_commands = false;
    let mut rig = Rig::start(config);
    let load = rig.load.clone();
    let wrapped = rig.world.run(60 * SECOND, |_| load.borrow().report().commands > 70_000);
    assert!(wrapped, "{} commands", load.borrow().report().commands);
    let run = rig.finish();
    run.assert_sound();
    assert_eq!((run.load.failed, run.adapter.connections_lost), (0, 0));
    assert!(run.engine.wqes > 1 << 16 && run.engine.cqes > 1 << 16);
}
