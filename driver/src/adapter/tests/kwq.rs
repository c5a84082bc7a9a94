//! A kernel work queue that is full, slow, or answered with nonsense.

use core::time::Duration;

use hsi::View;
use hsi::kernel::kcq::{CompletionStatus, IscsiKcqe, IscsiKcqeOpcode};
use hsi::kernel::l4::L4KwqUpdatePg;

use super::fake::{answer, op};
use super::rig::Rig;
use crate::adapter::timers::TimerKey;
use crate::adapter::{AdapterState, OperatorRequest};
use crate::bnx2i::Phase;
use crate::control::{EpError, FromAdapter, Refused, StopFlag, ToAdapter};

const MINUTE: Duration = Duration::from_secs(60);

/// Fills the KWQ with requests that change nothing.
fn fill_kwq(rig: &mut Rig, cid: u16) {
    while rig.call(|a, cx| a.submit_kwqes(cx, &[crate::cnic::cm::update_pg(cid, 0x7fff, [0; 6])])).is_ok() {}
}

/// R4: the answer to one UPDATE_PG does not cancel the deadline of the next, which is lost.
#[test]
fn r4_each_update_pg_has_an_answer_and_a_deadline_of_its_own() {
    for swallowed in [1, 2] {
        let mut rig = Rig::new();
        rig.up();
        let (_, ep) = rig.login(1);
        rig.card.borrow_mut().hold_kwq = true;
        for last in [3, 4, 5] {
            rig.tell_path(ep, [2, 0, 0, 0, 0, last]);
            rig.settle();
        }
        if swallowed == 2 {
            rig.card.borrow_mut().send.push(answer(op::UPDATE_PG, ep.cid, 0).unwrap());
            rig.settle();
        }
        let took = rig.run_until(MINUTE, |r| r.adapter.counters().connections_lost == 1);
        assert!(took <= Duration::from_secs(1), "the answer to request {swallowed} is lost: {took:?}");
    }
}

/// The KWQ is full: the newest neighbour is told as soon as there is room.
#[test]
fn a_full_kwq_delays_the_news_of_a_neighbour_and_loses_none() {
    let mut rig = Rig::new();
    rig.up();
    let (_, ep) = rig.login(1);
    rig.card.borrow_mut().hold_kwq = true;
    fill_kwq(&mut rig, ep.cid);
    for i in 0..600u16 {
        rig.tell_path(ep, [2, 0, 0, 0, (i >> 8) as u8, i as u8]);
        rig.settle();
    }
    assert!(rig.adapter.counters().kwq_full > 0);
    rig.card.borrow_mut().hold_kwq = false;
    rig.run(Duration::from_millis(900));
    let card = rig.card.borrow();
    let last = card.kwqes.iter().rev().find(|(w, _)| *w == op::UPDATE_PG).expect("it was told");
    assert_eq!(last.1.view::<L4KwqUpdatePg>().da(), Some([2, 0, 0, 0, (599u16 >> 8) as u8, 599u16 as u8]));
}

/// The KWQ is full: what must be posted waits for room, is posted later, and its deadline runs meanwhile.
#[test]
fn a_full_kwq_delays_a_close_and_loses_nothing() {
    let mut rig = Rig::new();
    rig.up();
    let (session, ep) = rig.login(1);
    rig.card.borrow_mut().hold_kwq = true;
    fill_kwq(&mut rig, ep.cid);
    assert!(rig.adapter.counters().kwq_full > 0);
    rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
    assert!(rig.adapter.endpoints().all(|ep| ep.phase == Phase::Closing && ep.unposted));
    rig.card.borrow_mut().hold_kwq = false;
    // The card says that it fetched with its next completion.
    rig.settle();
    assert_eq!((rig.adapter.holdings().cids, rig.adapter.age()), (0, 1));
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

/// A chip that publishes nonsense is reset.
#[test]
fn an_impossible_completion_index_resets_the_chip() {
    let mut rig = Rig::new();
    rig.up();
    rig.login(1);
    let mut endless = answer(op::INIT, 0, 0).unwrap();
    endless.set_next(true);
    rig.card.borrow_mut().send = vec![endless; 80];
    rig.run_until(MINUTE, |r| r.adapter.age() == 2);
    assert_eq!((rig.adapter.age(), rig.adapter.holdings().cids), (2, 0));
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

/// L7: endpoints that a dead iscsid left half way are the driver's to release; sessions with I/O go on.
#[test]
fn l7_a_new_iscsid_finds_no_endpoints_of_the_old_one() {
    let mut rig = Rig::new();
    rig.up();
    let (session, _) = rig.login(1);
    rig.connect(2);
    rig.resolve = false;
    rig.connect(3);
    assert_eq!(rig.adapter.holdings().cids, 3);
    rig.heard.clear();
    rig.say(ToAdapter::Hello { serial: 7 });
    assert_eq!(rig.adapter.holdings().cids, 1);
    let named = rig.take(|m| match m {
        FromAdapter::Session { session, tag, logged_in } => Some((*session, *tag, *logged_in)),
        _ => None,
    });
    assert_eq!(named, Some((session, 1, true)));
    assert_eq!(rig.adapter.counters().connections_lost, 0);
}

/// DESTROY that the card refuses proves nothing: the memory waits for the reset.
#[test]
fn a_refused_destroy_is_no_proof() {
    let mut rig = Rig::new();
    rig.up();
    let (session, _) = rig.login(1);
    rig.card.borrow_mut().status.insert(op::DESTROY, 3);
    rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
    rig.run_until(MINUTE, |r| r.adapter.age() == 2);
    assert_eq!((rig.adapter.age(), rig.adapter.counters().quarantined), (2, 1));
    assert_eq!((rig.adapter.holdings().cids, rig.slot.borrow().audit().violations), (0, 0));
    assert!(rig.take(|m| matches!(m, FromAdapter::Stopped { .. }).then_some(())).is_some());
}

/// The audit after a shutdown must be able to find something.
#[test]
fn r8_a_forgotten_timer_is_seen_after_the_shutdown() {
    for forgotten in [false, true] {
        let mut rig = Rig::new();
        rig.up();
        rig.login(1);
        if forgotten {
            rig.adapter.timers.arm(TimerKey::PathGroup(99), rig.now + 2 * MINUTE);
        }
        rig.request(OperatorRequest::Shutdown);
        rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Gone);
        assert_eq!(rig.adapter.holdings().timers, u32::from(forgotten));
    }
}

/// Rule R1: from the moment in which going down is decided nothing new begins, and a session that exists goes
/// on.
#[test]
fn r1_nothing_new_while_the_adapter_goes_down() {
    let mut rig = Rig::new();
    rig.up();
    let (session, _) = rig.login(1);
    let refused = |rig: &mut Rig| {
        let params = Box::new(super::rig::no_keepalive());
        rig.say(ToAdapter::CreateSession { tag: 8, params });
        rig.connect(8);
        let created = rig.take(|m| match m {
            FromAdapter::SessionCreated { result, .. } => Some(*result),
            _ => None,
        });
        assert_eq!(created, Some(Err(Refused::NotReady)));
        assert_eq!(rig.connected(8), Some(Err(EpError::Refused(Refused::NotReady))));
    };
    rig.connect(2);
    let ep = rig.connected(2).unwrap().unwrap();
    rig.card.borrow_mut().mute = true;
    rig.card.borrow_mut().firmware = false;
    rig.request(OperatorRequest::ChangeMtu(9000));
    assert_eq!(rig.adapter.state(), AdapterState::GoingDown);
    refused(&mut rig);
    rig.heard.clear();
    rig.say(ToAdapter::Bind { session, ep });
    let bound = rig.take(|m| match m {
        FromAdapter::Bound { result, .. } => Some(*result),
        _ => None,
    });
    assert_eq!(bound, Some(Err(Refused::NotReady)));
    rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Resetting);
    assert_eq!(rig.adapter.state(), AdapterState::Resetting);
    refused(&mut rig);
    rig.run_until(MINUTE, |r| r.adapter.holdings().cids == 0);
    rig.card.borrow_mut().mute = false;
    rig.card.borrow_mut().firmware = true;
    rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Up);
    assert_eq!(rig.adapter.state(), AdapterState::Up);
    assert_eq!(rig.adapter.holdings().sessions, 1, "the session outlives the reset");
    rig.relogin(session, 3);
    assert_eq!(rig.adapter.counters().logins, 2);
}

/// R4: the target's FIN or RST, or TCP's error, is told before CONNECT_COMPLETE.
#[test]
fn r4_what_is_latched_while_connecting_fails_the_connect() {
    for event in [58, 57, 0] {
        let mut rig = Rig::new();
        rig.up();
        rig.card.borrow_mut().swallow.push(op::CONNECT);
        rig.connect(1);
        let early = if event == 0 {
            IscsiKcqe::new(IscsiKcqeOpcode::TCP_ERROR, 0, CompletionStatus(0x43)).into_element()
        } else {
            let mut k = answer(op::RESET, 0, 0).unwrap();
            k.kcqe_op_flag.set(k.kcqe_op_flag.get() & !0xff_0000 | event << 16);
            k
        };
        rig.card.borrow_mut().send.push(early);
        rig.settle();
        assert_eq!(rig.connected(1), None, "the handshake decides");
        rig.card.borrow_mut().send.push(answer(op::CONNECT, 0, 0).unwrap());
        rig.settle();
        assert_eq!(rig.connected(1), Some(Err(EpError::Closed)), "{event}");
        assert_eq!((rig.adapter.holdings().cids, rig.adapter.age()), (0, 1));
    }
}

/// The news of a neighbour wait from the moment at which they came: a KWQ that never has room is not waited
/// for.
#[test]
fn news_of_a_neighbour_that_find_no_room_have_a_deadline() {
    let mut rig = Rig::new();
    rig.up();
    let (_, ep) = rig.login(1);
    rig.card.borrow_mut().hold_kwq = true;
    fill_kwq(&mut rig, ep.cid);
    rig.tell_path(ep, [2, 0, 0, 0, 0, 9]);
    let took = rig.run_until(MINUTE, |r| r.adapter.counters().connections_lost == 1);
    assert!(took <= Duration::from_secs(1), "{took:?}");
}
