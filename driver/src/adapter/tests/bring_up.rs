use core::time::Duration;

use super::fake::op;
use super::rig::Rig;
use crate::adapter::{AdapterState, Failure, OperatorError, OperatorRequest};
use crate::config::{ConfigError, RingSizes};
use crate::control::{EpError, FromAdapter, Refused, ToAdapter};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn up_and_down_again_leaves_nothing() {
    let mut rig = Rig::new();
    rig.request(OperatorRequest::InterfaceUp);
    assert_eq!(rig.adapter.state(), AdapterState::Starting);
    rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Up);
    assert_eq!((rig.adapter.state(), rig.adapter.age()), (AdapterState::Up, 1));
    assert!(rig.heard.iter().any(|m| matches!(m, FromAdapter::AdapterUp { age: 1 })));
    assert!(rig.adapter.holdings().loans > 0);
    rig.request(OperatorRequest::InterfaceDown);
    rig.run(MINUTE);
    assert_eq!(rig.adapter.state(), AdapterState::Down);
    rig.assert_released();
    assert_eq!(rig.slot.borrow().audit().buffers, 2, "the memory that a stuck helper may still see");
    assert_eq!(rig.adapter.holdings().timers, 0);
}

#[test]
fn a_connect_before_init_passed_fails_at_once() {
    let mut rig = Rig::new();
    rig.connect(1);
    assert_eq!(rig.connected(1), Some(Err(EpError::Refused(Refused::NotReady))));
    rig.card.borrow_mut().swallow.push(op::INIT);
    rig.request(OperatorRequest::InterfaceUp);
    rig.connect(2);
    assert_eq!(rig.connected(2), Some(Err(EpError::Refused(Refused::NotReady))));
}

#[test]
fn h_init_without_an_answer_is_tried_three_times_and_then_failed() {
    let mut rig = Rig::new();
    rig.card.borrow_mut().swallow.push(op::INIT);
    rig.request(OperatorRequest::InterfaceUp);
    let took = rig.run_until(MINUTE, |r| matches!(r.adapter.state(), AdapterState::Failed(_)));
    assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::Init(u32::MAX)));
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(rig.card.borrow().kwqes.iter().filter(|(op, _)| *op == op::INIT).count(), 3);
    rig.assert_released();
    // L10: an earlier failure does not stick.
    rig.card.borrow_mut().swallow.clear();
    rig.up();
}

#[test]
fn a_refused_init_fails_without_a_second_try_and_a_later_start_works() {
    let mut rig = Rig::new();
    rig.card.borrow_mut().status.insert(op::INIT, 0x50);
    rig.request(OperatorRequest::InterfaceUp);
    rig.run(MINUTE);
    assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::NoLicence));
    rig.assert_released();
    rig.card.borrow_mut().status.clear();
    rig.up();
}

#[test]
fn no_licence_no_firmware_no_card() {
    let mut rig = Rig::new();
    rig.card.borrow_mut().licensed = false;
    rig.request(OperatorRequest::InterfaceUp);
    rig.run(MINUTE);
    assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::NoLicence));
    rig.card.borrow_mut().licensed = true;
    rig.card.borrow_mut().firmware = false;
    rig.request(OperatorRequest::InterfaceUp);
    rig.run(MINUTE);
    assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::Firmware));
    rig.assert_released();
    let slot = rig.slot.clone();
    rig.call(|_, cx| slot.borrow_mut().remove(cx));
    rig.request(OperatorRequest::InterfaceUp);
    rig.run(MINUTE);
    assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::BusLost));
    rig.assert_released();
}

#[test]
fn invalid_values_are_refused_and_change_nothing() {
    let mut rig = Rig::new();
    rig.up();
    let request = |rig: &mut Rig, r| rig.call(|a, cx| a.request(cx, r));
    let refused = request(&mut rig, OperatorRequest::ChangeMtu(9001));
    assert_eq!(refused, Err(OperatorError::Config(ConfigError::Mtu(9001))));
    let rings = RingSizes { sq: 100, rq: 16, cq: 128 };
    let refused = request(&mut rig, OperatorRequest::ChangeRings(rings));
    assert_eq!(refused, Err(OperatorError::Config(ConfigError::Sq(100))));
    rig.run(MINUTE);
    assert_eq!((rig.adapter.state(), rig.adapter.age()), (AdapterState::Up, 1));
    assert_eq!(rig.adapter.config().mtu, 1500);
}

#[test]
fn a_card_that_is_pulled_is_noticed_and_everything_comes_back() {
    let mut rig = Rig::new();
    rig.up();
    let (session, _) = rig.login(1);
    let slot = rig.slot.clone();
    rig.call(|_, cx| slot.borrow_mut().remove(cx));
    let took = rig.run_until(MINUTE, |r| matches!(r.adapter.state(), AdapterState::Failed(_)));
    assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::BusLost));
    assert!(took <= Duration::from_secs(2), "{took:?}");
    rig.assert_released();
    let lost =
        |m: &FromAdapter| matches!(m, FromAdapter::ConnError { session: Some(s), .. } if *s == session);
    assert_eq!(rig.heard.iter().filter(|m| lost(m)).count(), 1);
    assert_eq!(rig.adapter.counters().connections_lost, 1, "counted once");
}

#[test]
fn shutdown_ends_sessions_and_frees_everything() {
    let mut rig = Rig::new();
    rig.up();
    let (session, _) = rig.login(1);
    rig.request(OperatorRequest::Shutdown);
    rig.run(MINUTE);
    assert_eq!(rig.adapter.state(), AdapterState::Gone);
    assert!(
        rig.heard.iter().any(|m| matches!(m, FromAdapter::SessionDestroyed { session: s } if *s == session))
    );
    assert_eq!(rig.adapter.holdings(), crate::adapter::Holdings::default());
    let audit = rig.slot.borrow().audit();
    assert_eq!((audit.buffers, audit.loans, audit.violations), (0, 0, 0));
    let again = rig.call(|a, cx| a.request(cx, OperatorRequest::InterfaceUp));
    assert_eq!(again, Err(OperatorError::ShutDown));
}

#[test]
fn a_reset_request_during_a_reset_is_carried_out_after_it() {
    let mut rig = Rig::new();
    rig.up();
    rig.request(OperatorRequest::ChangeMtu(9000));
    rig.request(OperatorRequest::ChangeMtu(4000));
    rig.run(Duration::from_secs(1));
    assert_eq!((rig.adapter.state(), rig.adapter.config().mtu), (AdapterState::Up, 4000));
    rig.request(OperatorRequest::Reset);
    rig.request(OperatorRequest::InterfaceDown);
    rig.request(OperatorRequest::InterfaceUp);
    rig.run(Duration::from_secs(5));
    assert_eq!(rig.adapter.state(), AdapterState::Up);
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

#[test]
fn a_slow_iscsid_is_told_to_start_over() {
    let mut rig = Rig::new();
    rig.up();
    // Nobody reads: the port takes 1024 messages, the outbox as many.
    for tag in 0..4000 {
        rig.call(|a, cx| a.on_control(cx, ToAdapter::CreateSession { tag, params: Box::default() }));
    }
    rig.settle();
    assert!(rig.adapter.counters().control_dropped > 0);
    assert!(matches!(rig.heard.last(), Some(FromAdapter::Resync)), "it is the last that iscsid hears");
    rig.heard.clear();
    rig.say(ToAdapter::Hello { serial: 7 });
    let sessions = rig.heard.iter().filter(|m| matches!(m, FromAdapter::Session { .. })).count();
    assert_eq!(sessions, 128, "Hello names every session");
}

#[test]
fn too_little_memory_is_an_answer() {
    let limited = |dma_limit| {
        let slot = bus::inproc::SlotConfig { strict: true, dma_limit, ..Default::default() };
        Rig::on(slot, crate::config::DriverConfig::default())
    };
    let mut rig = limited(64 << 10);
    rig.request(OperatorRequest::InterfaceUp);
    rig.run(MINUTE);
    assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::NoMemory));
    rig.assert_released();
    let mut rig = limited(256 << 10);
    rig.up();
    rig.connect(1);
    rig.connect(2);
    assert!(rig.connected(1).unwrap().is_ok());
    assert_eq!(rig.connected(2), Some(Err(EpError::Refused(Refused::NoMemory))));
    assert_eq!(rig.adapter.holdings().cids, 1, "L1: the cid came back");
}

/// Bin mode: one page of doorbells for each connection (BNX2I-CNIC 4.5).
#[test]
fn doorbells_lie_where_the_chip_says() {
    let mut rig = Rig::new();
    rig.card.borrow_mut().mq_config2 = 0x0120;
    rig.up();
    let (session, _) = rig.login(1);
    rig.settle();
    let page = 0x10000 + 0x4000 * 256 + 4096 * 256;
    assert!(rig.card.borrow().doorbells.contains(&(page + 4)), "SQ doorbell of context 0x100 for bring-up");
    let info = rig.adapter.sessions().find(|s| s.id == session).unwrap();
    assert_eq!(info.phase, crate::adapter::SessionPhase::BringUp);
}

/// The place of shared memory is read from the card.
#[test]
fn nonsense_in_the_shared_memory_header_is_a_failure_of_the_firmware() {
    for at in [0, 0x1234, 0x16_7c01, 0x16_7e00, 0xffff_ff00, 0xffff_fffc] {
        let mut rig = Rig::new();
        rig.card.borrow_mut().shmem = at;
        rig.request(OperatorRequest::InterfaceUp);
        rig.run(Duration::from_secs(5));
        assert_eq!(rig.adapter.state(), AdapterState::Failed(Failure::Firmware), "{at:#x}");
    }
}

#[test]
fn no_more_connections_than_the_card_is_licensed_for() {
    let mut rig = Rig::new();
    rig.card.borrow_mut().max_connections = 2;
    rig.up();
    rig.login(1);
    rig.login(2);
    rig.connect(3);
    let refused = EpError::Refused(Refused::NoCid);
    assert_eq!(rig.connected(3), Some(Err(refused)));
}
