use core::time::Duration;

use hsi::kernel::l4::L4KwqUpdatePg;

use super::fake::{answer, op};
use super::rig::Rig;
use crate::adapter::{AdapterState, OperatorRequest};
use crate::bnx2i::Phase;
use crate::control::{ConnFailure, EpError, FromAdapter, StopFlag, ToAdapter};
use crate::error::Cause;

const MINUTE: Duration = Duration::from_secs(60);

/// Swallows the answer to `what`, then connects and logs in as far as it goes. Ends when the adapter is up
/// again and nothing is held any more.
fn swallowed(what: u16) -> (Rig, Duration) {
    let mut rig = Rig::new();
    rig.up();
    rig.card.borrow_mut().swallow.push(what);
    let session = rig.new_session(1);
    rig.connect(1);
    if let Some(Ok(ep)) = rig.connected(1) {
        rig.say(ToAdapter::Bind { session, ep });
        rig.say(ToAdapter::StartConn { session, params: super::rig::PARAMS });
        if rig.adapter.counters().logins == 1 {
            rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
        }
    }
    let took =
        rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Up && r.adapter.holdings().cids == 0);
    assert_eq!(rig.adapter.holdings().cids, 0, "{what:#x}: the cid never came back");
    assert_eq!(rig.adapter.holdings().ports, 0);
    assert_eq!(rig.adapter.holdings().path_groups, 0);
    assert!(rig.card.borrow().groups.is_empty(), "{what:#x}: the card still has a path group");
    let audit = rig.slot.borrow().audit();
    assert_eq!(audit.violations, 0, "{what:#x}: {:?}", rig.slot.borrow().violations());
    (rig, took)
}

#[test]
fn l2_a_lost_offload_answer_quarantines_and_resets() {
    let (mut rig, took) = swallowed(op::OFFLOAD);
    assert_eq!(rig.connected(1), Some(Err(EpError::Timeout)));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!((rig.adapter.counters().quarantined, rig.adapter.age()), (1, 2));
}

#[test]
fn h2_a_lost_path_group_answer_hits_its_deadline() {
    let (mut rig, took) = swallowed(op::OFFLOAD_PG);
    assert_eq!(rig.connected(1), Some(Err(EpError::Timeout)));
    // One second for the group, two for the late answer, then the reset that alone gives the group back.
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!((rig.adapter.counters().quarantined, rig.adapter.age()), (1, 2));
}

/// OFFLOAD_PG is answered after its deadline, before or after DESTROY: the group goes with the endpoint.
#[test]
fn h2_a_late_path_group_answer_uploads_the_group() {
    for destroyed_first in [true, false] {
        for status in [0, 0x83] {
            let mut rig = Rig::new();
            rig.up();
            rig.card.borrow_mut().swallow.push(op::OFFLOAD_PG);
            rig.card.borrow_mut().status.insert(op::OFFLOAD_PG, status);
            rig.connect(1);
            if !destroyed_first {
                rig.card.borrow_mut().swallow.push(op::DESTROY);
            }
            rig.run(Duration::from_millis(1500));
            assert_eq!(rig.connected(1), Some(Err(EpError::Timeout)));
            assert_eq!(rig.adapter.holdings().cids, 1, "not released while the card may have a path group");
            rig.card.borrow_mut().send.push(answer(op::OFFLOAD_PG, 0, status).unwrap());
            rig.settle();
            if !destroyed_first {
                rig.card.borrow_mut().send.push(answer(op::DESTROY, 0, 0).unwrap());
                rig.settle();
            }
            assert_eq!((rig.adapter.holdings().cids, rig.adapter.age()), (0, 1), "{status:#x}");
            assert!(rig.card.borrow().groups.is_empty());
            let uploads = rig.card.borrow().kwqes.iter().filter(|(what, _)| *what == op::UPLOAD_PG).count();
            assert_eq!(uploads, usize::from(status == 0));
            assert_eq!(rig.slot.borrow().audit().violations, 0);
        }
    }
}

#[test]
fn h2_a_lost_connect_answer_hits_its_deadline() {
    let (mut rig, took) = swallowed(op::CONNECT);
    assert_eq!(rig.connected(1), Some(Err(EpError::Timeout)));
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(11), "{took:?}");
    assert_eq!(rig.adapter.age(), 1, "RESET worked: no chip reset");
}

#[test]
fn h1_a_lost_update_answer_fails_the_start_after_a_second() {
    let (mut rig, took) = swallowed(op::UPDATE);
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(2), "{took:?}");
    let started = rig.take(|m| match m {
        FromAdapter::Started { result, .. } => Some(*result),
        _ => None,
    });
    assert_eq!(started, Some(Err(ConnFailure::ConnFailed)));
    assert_eq!(rig.adapter.age(), 1);
}

#[test]
fn h2_a_lost_reset_answer_ends_in_a_forced_destroy() {
    let (rig, took) = swallowed(op::RESET);
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(12), "{took:?}");
    assert_eq!((rig.adapter.age(), rig.adapter.counters().quarantined), (1, 0), "DESTROY was answered");
}

#[test]
fn a_lost_destroy_request_is_repeated_and_costs_no_reset() {
    let mut rig = Rig::new();
    rig.up();
    let (session, _) = rig.login(1);
    rig.card.borrow_mut().lose.push(op::DESTROY);
    rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
    let took = rig.run_until(MINUTE, |r| r.adapter.holdings().cids == 0);
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert_eq!((rig.adapter.age(), rig.adapter.counters().quarantined), (1, 0), "nobody else notices");
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

#[test]
fn a_lost_destroy_answer_quarantines_and_resets() {
    let (rig, took) = swallowed(op::DESTROY);
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!((rig.adapter.age(), rig.adapter.counters().quarantined), (2, 1));
}

#[test]
fn a_lost_upload_answer_leaks_no_path_group() {
    let (rig, _) = swallowed(op::UPLOAD_PG);
    assert_eq!(rig.adapter.age(), 2, "only a reset gives the path group back");
}

#[test]
fn r3_a_refused_update_fails_the_start() {
    let mut rig = Rig::new();
    rig.up();
    rig.card.borrow_mut().status.insert(op::UPDATE, 0x81);
    rig.login(1);
    rig.settle();
    let started = rig.take(|m| match m {
        FromAdapter::Started { result, .. } => Some(*result),
        _ => None,
    });
    assert_eq!(started, Some(Err(ConnFailure::ConnFailed)));
    rig.run(MINUTE);
    assert_eq!((rig.adapter.counters().logins, rig.adapter.holdings().cids), (0, 0));
}

#[test]
fn refusals_of_the_card_are_answers() {
    for (what, status, error) in [
        (op::OFFLOAD, 2, EpError::Offload(2)),
        (op::OFFLOAD, 0x80, EpError::Offload(0x80)),
        (op::OFFLOAD_PG, 0x83, EpError::Connect(0x83)),
        (op::CONNECT, 0x93, EpError::Connect(0x93)),
    ] {
        let mut rig = Rig::new();
        rig.up();
        rig.card.borrow_mut().status.insert(what, status);
        rig.connect(1);
        assert_eq!(rig.connected(1), Some(Err(error)), "{what:#x}");
        rig.settle();
        assert_eq!(rig.adapter.holdings().cids, 0, "{what:#x}");
        assert_eq!(rig.slot.borrow().audit().violations, 0);
    }
}

/// Endpoints in every phase, then a reset: all come back at once, whatever they waited for.
#[test]
fn a_reset_finds_endpoints_in_every_phase() {
    let mut rig = Rig::new();
    rig.up();
    let session = rig.new_session(1);
    rig.relogin(session, 1);
    rig.connect(2);
    for (tag, what) in [(3, op::CONNECT), (4, op::OFFLOAD_PG), (5, op::OFFLOAD)] {
        rig.card.borrow_mut().swallow.push(what);
        rig.connect(tag);
    }
    rig.card.borrow_mut().swallow = vec![op::UPDATE];
    let updating = rig.new_session(6);
    rig.relogin(updating, 6);
    rig.resolve = false;
    rig.connect(7);
    let phases: Vec<Phase> = rig.adapter.endpoints().map(|ep| ep.phase).collect();
    assert_eq!(
        phases,
        [
            Phase::Full,
            Phase::Connected,
            Phase::Connecting,
            Phase::Grouping,
            Phase::Offloading,
            Phase::Updating,
            Phase::Resolving
        ]
    );
    rig.card.borrow_mut().swallow.clear();
    rig.request(OperatorRequest::ChangeMtu(9000));
    assert_eq!(rig.adapter.state(), AdapterState::GoingDown);
    let took = rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Up);
    assert!(took <= Duration::from_secs(3), "{took:?}: bounded by the offload deadline");
    assert_eq!(rig.adapter.age(), 2);
    let h = rig.adapter.holdings();
    assert_eq!((h.cids, h.ports, h.path_groups, h.quarantined), (0, 0, 0, 0));
    for tag in [3, 4, 5, 7] {
        assert_eq!(rig.connected(tag), Some(Err(EpError::Down)), "{tag}");
    }
    assert_eq!(rig.slot.borrow().audit().violations, 0, "{:?}", rig.slot.borrow().violations());
    // Sessions go on by themselves.
    rig.resolve = true;
    rig.relogin(session, 8);
    assert_eq!(rig.adapter.counters().logins, 2);
}

/// T1: a mute chip costs the same time with one session and with 64, and its memory stays lent until the
/// reset.
#[test]
fn t1_a_mute_chip_ends_in_a_bounded_reset_whatever_the_number_of_sessions() {
    let mut times = Vec::new();
    for n in [1, 64] {
        let mut rig = Rig::new();
        rig.up();
        for tag in 0..n {
            rig.login(tag);
        }
        rig.card.borrow_mut().mute = true;
        rig.card.borrow_mut().firmware = false;
        rig.request(OperatorRequest::ChangeMtu(9000));
        let loans = rig.slot.borrow().audit().loans;
        let down = rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Resetting);
        assert_eq!(rig.slot.borrow().audit().loans, loans, "quarantine: nothing came back without proof");
        assert_eq!(u64::from(rig.adapter.holdings().quarantined), n);
        rig.run_until(MINUTE, |r| r.adapter.holdings().cids == 0);
        assert_eq!(rig.adapter.holdings().cids, 0, "the register reset was proof");
        rig.card.borrow_mut().mute = false;
        rig.card.borrow_mut().firmware = true;
        rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Up);
        assert_eq!(rig.adapter.state(), AdapterState::Up);
        assert_eq!(rig.slot.borrow().audit().violations, 0);
        times.push(down);
    }
    assert_eq!(times[0], times[1]);
    assert!(times[0] <= Duration::from_secs(13), "{:?}", times[0]);
}

#[test]
fn a_chip_that_ignores_the_register_reset_is_reset_by_function() {
    let mut rig = Rig::new();
    rig.up();
    rig.login(1);
    rig.card.borrow_mut().resets_by_register = false;
    rig.card.borrow_mut().mute = true;
    rig.card.borrow_mut().firmware = false;
    rig.request(OperatorRequest::InterfaceDown);
    let took = rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Down);
    assert!(took <= Duration::from_secs(45), "{took:?}");
    assert_eq!(rig.adapter.counters().escalated_resets, 1);
    rig.assert_released();
}

#[test]
fn h5_a_fin_does_not_cancel_the_deadline_of_a_close() {
    let mut rig = Rig::new();
    rig.up();
    let (session, ep) = rig.login(1);
    rig.card.borrow_mut().swallow = vec![op::RESET];
    rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
    let mut fin = answer(op::CLOSE, ep.cid, 0).unwrap();
    fin.kcqe_op_flag.set(fin.kcqe_op_flag.get() & !0xff_0000 | 58 << 16);
    rig.run(Duration::from_secs(5));
    rig.card.borrow_mut().send.push(fin);
    let took = rig.run_until(MINUTE, |r| r.adapter.holdings().cids == 0);
    assert!(took <= Duration::from_secs(6), "{took:?}");
    assert!(rig.take(|m| matches!(m, FromAdapter::Stopped { .. }).then_some(())).is_some());
}

#[test]
fn r1_a_fin_before_start_is_not_forgotten() {
    let mut rig = Rig::new();
    rig.up();
    let session = rig.new_session(1);
    rig.connect(1);
    let ep = rig.connected(1).unwrap().unwrap();
    rig.say(ToAdapter::Bind { session, ep });
    let mut rst = answer(op::RESET, ep.cid, 0).unwrap();
    rst.kcqe_op_flag.set(rst.kcqe_op_flag.get() & !0xff_0000 | 57 << 16);
    rig.card.borrow_mut().send.push(rst);
    rig.settle();
    rig.say(ToAdapter::StartConn { session, params: super::rig::PARAMS });
    assert!(
        rig.take(|m| matches!(m, FromAdapter::ConnError { cause: Cause::Rst, .. }).then_some(())).is_some()
    );
    assert!(rig.take(|m| matches!(m, FromAdapter::Started { result: Err(_), .. }).then_some(())).is_some());
    assert_eq!((rig.adapter.counters().logins, rig.adapter.holdings().cids), (0, 0));
}

#[test]
fn t4_a_disconnect_while_the_path_is_open_is_immediate() {
    let mut rig = Rig::new();
    rig.up();
    rig.resolve = false;
    rig.connect(1);
    let handle = rig.adapter.endpoints().next().unwrap().handle();
    rig.say(ToAdapter::EpDisconnect { ep: handle });
    assert_eq!(rig.adapter.holdings().cids, 0);
    // The late answer of the helper is for nobody.
    let before = rig.adapter.counters().stale_events;
    rig.tell_path(handle, [2; 6]);
    rig.settle();
    assert_eq!(rig.adapter.counters().stale_events, before + 1);
}

#[test]
fn stale_completions_are_dropped_and_counted() {
    let mut rig = Rig::new();
    rig.up();
    let (_, ep) = rig.login(1);
    let before = rig.adapter.counters().stale_events;
    for (what, cid) in [
        (op::OFFLOAD, ep.cid),
        (op::OFFLOAD, 99),
        (op::UPDATE, ep.cid),
        (op::DESTROY, ep.cid),
        (op::CONNECT, ep.cid),
        (op::RESET, ep.cid),
        (op::UPLOAD_PG, ep.cid),
        (op::INIT, 0),
        (op::DESTROY, 127),
    ] {
        rig.card.borrow_mut().send.push(answer(what, cid, 0).unwrap());
    }
    rig.settle();
    assert_eq!(rig.adapter.counters().stale_events, before + 9);
    assert!(rig.adapter.endpoints().all(|ep| ep.phase == Phase::Full), "none had an effect");
}

#[test]
fn l2_a_late_offload_answer_is_destroyed_and_not_leaked() {
    let mut rig = Rig::new();
    rig.up();
    rig.card.borrow_mut().swallow = vec![op::OFFLOAD];
    rig.connect(1);
    rig.say(ToAdapter::EpDisconnect { ep: crate::control::EpHandle { cid: 0, generation: 1 } });
    assert_eq!(rig.adapter.holdings().cids, 1, "no context id yet: nothing to destroy");
    rig.card.borrow_mut().swallow.clear();
    rig.card.borrow_mut().send.push(answer(op::OFFLOAD, 0, 0).unwrap());
    rig.settle();
    assert_eq!((rig.adapter.holdings().cids, rig.adapter.age()), (0, 1));
    assert!(rig.card.borrow().conns.is_empty(), "the card was told to forget it");
}

#[test]
fn resets_every_100_ms_also_while_starting() {
    let mut rig = Rig::new();
    rig.up();
    rig.login(1);
    for _ in 0..20 {
        rig.request(OperatorRequest::Reset);
        rig.run(Duration::from_millis(100));
    }
    rig.run(Duration::from_secs(5));
    assert_eq!(rig.adapter.state(), AdapterState::Up);
    assert_eq!(rig.slot.borrow().audit().violations, 0, "{:?}", rig.slot.borrow().violations());
    assert_eq!(rig.adapter.holdings().cids, 0);
}

#[test]
fn an_idle_connection_in_the_hands_of_iscsid_has_a_deadline() {
    let mut rig = Rig::new();
    rig.up();
    rig.connect(1);
    assert!(rig.connected(1).unwrap().is_ok());
    let took = rig.run_until(MINUTE, |r| r.adapter.holdings().cids == 0);
    assert_eq!(took, Duration::from_secs(30));
}

/// H3: the neighbour's address changes and the card does not answer.
#[test]
fn h3_a_lost_path_group_update_recovers_the_session() {
    let mut rig = Rig::new();
    rig.up();
    let (_, ep) = rig.login(1);
    rig.tell_path(ep, [2, 0, 0, 0, 0, 3]);
    rig.run(Duration::from_secs(2));
    assert_eq!(rig.adapter.counters().connections_lost, 0, "answered");
    rig.card.borrow_mut().swallow.push(op::UPDATE_PG);
    rig.tell_path(ep, [2, 0, 0, 0, 0, 4]);
    let took = rig.run_until(MINUTE, |r| r.adapter.holdings().cids == 0);
    assert_eq!((took, rig.adapter.age()), (Duration::from_secs(1), 1));
}

/// The neighbour moves while OFFLOAD_PG or CONNECT is not answered: the newest MAC reaches the card, once.
#[test]
fn a_neighbour_that_moves_while_connecting_is_followed() {
    for what in [op::OFFLOAD_PG, op::CONNECT] {
        let mut rig = Rig::new();
        rig.up();
        rig.card.borrow_mut().swallow.push(what);
        rig.connect(1);
        let ep = rig.adapter.endpoints().next().expect("it connects").handle();
        for last in [3, 4] {
            rig.tell_path(ep, [2, 0, 0, 0, 0, last]);
            rig.settle();
        }
        let told = |rig: &Rig| {
            let card = rig.card.borrow();
            let updates = card.kwqes.iter().filter(|(w, _)| *w == op::UPDATE_PG);
            updates.filter_map(|(_, k)| k.view::<L4KwqUpdatePg>().da()).collect::<Vec<_>>()
        };
        if what == op::OFFLOAD_PG {
            assert_eq!(
                (rig.ep_phase(ep), told(&rig)),
                (Some(Phase::Grouping), vec![]),
                "there is no group yet"
            );
            rig.card.borrow_mut().swallow.clear();
            rig.card.borrow_mut().send.push(answer(op::OFFLOAD_PG, ep.cid, 0).unwrap());
            rig.settle();
            assert_eq!(told(&rig), [[2, 0, 0, 0, 0, 4]], "only the newest");
            assert!(rig.connected(1).is_some_and(|r| r.is_ok()));
        } else {
            assert_eq!(rig.ep_phase(ep), Some(Phase::Connecting));
            assert_eq!(told(&rig), [[2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]]);
        }
    }
}

/// The helper takes a path back: the address that the connection comes from is gone.
#[test]
fn a_path_that_is_taken_back_fails_the_connection_at_once() {
    let mut rig = Rig::new();
    rig.up();
    let (_, ep) = rig.login(1);
    rig.heard.clear();
    rig.tell_path(ep, [0; 6]);
    rig.settle();
    let lost = rig.take(|m| match m {
        FromAdapter::ConnError { ep: e, cause, .. } if *e == ep => Some(*cause),
        _ => None,
    });
    assert_eq!(lost, Some(Cause::PathLost));
    assert_eq!((rig.ep_phase(ep), rig.adapter.holdings().cids), (None, 0), "torn down");
    // While it connects, it is an answer like any other.
    rig.card.borrow_mut().swallow.push(op::CONNECT);
    rig.connect(2);
    let ep = rig.adapter.endpoints().next().expect("it connects").handle();
    rig.tell_path(ep, [0; 6]);
    rig.settle();
    assert_eq!(rig.connected(2), Some(Err(EpError::NoPath(bus::uio::PathFailure::NoAnswer))));
}

/// The lost answers of one connection's teardown cost the others nothing: DESTROY, UPLOAD_PG, or both.
#[test]
fn lost_answers_of_one_teardown_reset_no_chip() {
    for lost in [&[op::DESTROY][..], &[op::UPLOAD_PG], &[op::DESTROY, op::UPLOAD_PG]] {
        let mut rig = Rig::new();
        rig.up();
        let (session, _) = rig.login(1);
        let (_, other) = rig.login(2);
        rig.card.borrow_mut().swallow.extend_from_slice(lost);
        rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
        rig.run(Duration::from_millis(1900));
        assert_eq!(rig.adapter.holdings().cids, 2, "{lost:x?}: nothing is given back without proof");
        rig.card.borrow_mut().swallow.clear();
        rig.run(Duration::from_secs(1));
        let h = rig.adapter.holdings();
        assert_eq!((h.cids, h.path_groups, rig.adapter.age()), (1, 1, 1), "{lost:x?}");
        assert_eq!(rig.ep_phase(other), Some(Phase::Full));
        assert_eq!(rig.slot.borrow().audit().violations, 0);
        rig.relogin(session, 3);
        assert_eq!(rig.adapter.holdings().cids, 2);
    }
}

/// CID_BUSY is the answer of a card that has not let go: only a reset gives the memory back.
#[test]
fn a_card_that_keeps_the_cid_is_reset() {
    let mut rig = Rig::new();
    rig.up();
    let (session, _) = rig.login(1);
    rig.card.borrow_mut().swallow.push(op::DESTROY);
    rig.card.borrow_mut().status.insert(op::OFFLOAD, 0x80);
    rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
    rig.run(Duration::from_millis(1900));
    assert_eq!((rig.adapter.holdings().cids, rig.adapter.age()), (1, 1));
    rig.run(Duration::from_secs(2));
    assert_eq!((rig.adapter.holdings().cids, rig.adapter.age()), (0, 2));
    assert_eq!((rig.adapter.counters().quarantined, rig.slot.borrow().audit().violations), (1, 0));
}

/// Two UPDATE_PG are wanted; the card answers the first and fetches nothing any more. It is reset at once: no
/// teardown could be answered either.
#[test]
fn r4_a_card_that_fetches_nothing_is_reset_at_the_first_deadline() {
    let mut rig = Rig::new();
    rig.up();
    let (_, ep) = rig.login(1);
    rig.card.borrow_mut().hold_kwq = true;
    for last in [3, 4] {
        rig.tell_path(ep, [2, 0, 0, 0, 0, last]);
        rig.settle();
    }
    rig.card.borrow_mut().send.push(answer(op::UPDATE_PG, ep.cid, 0).unwrap());
    rig.settle();
    let took = rig.run_until(10 * MINUTE, |r| r.adapter.holdings().cids == 0);
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}
