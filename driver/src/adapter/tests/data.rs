use core::time::Duration;

use bus::actor::{Actor, Budget};
use hsi::iscsi::bits::Itt;
use hsi::iscsi::cq::{
    CleanupResponse, CmdResponse, CqOpcode, LoginResponse, LogoutResponse, NopInMsg, TextResponse,
    TmfResponse,
};
use hsi::iscsi::sq::SqOpcode;
use hsi::{U32, View};

use super::fake::{answer, op};
use super::rig::Rig;
use crate::adapter::{AdapterState, OperatorRequest};
use crate::control::{ConnFailure, EpHandle, FromAdapter, SessionId, SessionParams, StopFlag, ToAdapter};
use crate::error::{BlockError, Cause, Gate};
use crate::user::{Completion, FreeError, SubmitError, UserBuf};

const MINUTE: Duration = Duration::from_secs(60);

/// A session that is ready: bring-up found no disks, as the card answers everything with CHECK CONDITION.
fn ready() -> (Rig, SessionId, EpHandle, UserBuf) {
    ready_with(super::rig::no_keepalive())
}

fn ready_with(params: SessionParams) -> (Rig, SessionId, EpHandle, UserBuf) {
    ready_on(Rig::new(), params)
}

fn ready_on(mut rig: Rig, params: SessionParams) -> (Rig, SessionId, EpHandle, UserBuf) {
    rig.up();
    let session = rig.new_session_with(1, params);
    let ep = rig.relogin(session, 1);
    rig.settle();
    assert_eq!(rig.adapter.sessions().next().unwrap().phase, crate::adapter::SessionPhase::Ready);
    rig.card.borrow_mut().wqes.clear();
    let buf = rig.adapter.alloc(4096).unwrap();
    (rig, session, ep, buf)
}

fn reap(rig: &mut Rig) -> Vec<Completion> {
    let mut out = Vec::new();
    rig.adapter.reap(&mut out);
    out
}

fn itts(rig: &Rig, opcode: SqOpcode) -> Vec<Itt> {
    rig.card.borrow().wqes.iter().filter(|(_, w)| w.opcode() == opcode).map(|(_, w)| w.itt()).collect()
}

#[test]
fn data_goes_straight_into_the_buffer() {
    let (mut rig, session, _, buf) = ready();
    let ticket = rig.raw(session, buf, false);
    assert_eq!(rig.adapter.free(buf), Err(FreeError::InUse));
    rig.settle();
    let done = reap(&mut rig);
    assert_eq!((done.len(), done[0].ticket), (1, ticket));
    let mut bytes = [0; 4096];
    rig.adapter.buffer(buf).unwrap().read(0, &mut bytes);
    assert!(bytes.iter().all(|b| *b == 0xa5));
    rig.adapter.free(buf).unwrap();
    assert_eq!(rig.adapter.free(buf), Err(FreeError::Stale));
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

/// A target that refuses a login says why and then closes: what the card posted before the FIN is taken
/// first.
#[test]
fn what_came_before_a_fin_is_not_lost() {
    let (mut rig, session, ep, buf) = ready();
    let ticket = rig.raw(session, buf, false);
    rig.call(|a, cx| a.step(cx, Budget(256)));
    let mut fin = answer(op::CLOSE, ep.cid, 0).unwrap();
    fin.kcqe_op_flag.set(fin.kcqe_op_flag.get() & !0xff_0000 | 58 << 16);
    rig.card.borrow_mut().send.push(fin);
    rig.settle();
    let done = reap(&mut rig);
    assert_eq!((done.len(), done[0].ticket), (1, ticket));
    assert_eq!(done[0].result, Err(BlockError::NoSense), "the answer of the card, not the loss");
    assert_eq!(rig.adapter.counters().connections_lost, 1, "the FIN counts all the same");
}

/// R9 to R11, B.6: 1024 commands with sense data wrap SQ, CQ and RQ many times, and no buffer is lost.
#[test]
fn rings_wrap_and_sense_buffers_are_returned_in_order() {
    let (mut rig, session, ep, buf) = ready();
    rig.card.borrow_mut().answer_sense = Some(20);
    let mut done = 0;
    for round in 0..64 {
        // As many as there are RQ buffers: the card has no others to put sense data into.
        for _ in 0..16 {
            rig.raw(session, buf, round % 2 == 0);
        }
        rig.settle();
        for c in reap(&mut rig) {
            assert!(matches!(c.result, Err(BlockError::Sense(s)) if s.key.0 == 5), "{:?}", c.result);
            done += 1;
        }
    }
    assert_eq!(done, 1024);
    let card = rig.card.borrow();
    let conn = &card.conns[&ep.cid];
    assert_eq!((card.rq_underruns, conn.rq_left), (0, 16), "every RQ buffer was given back");
    assert!(conn.sq_done >= 1000 && conn.next.sn() > 1);
    drop(card);
    assert_eq!(rig.slot.borrow().audit().violations, 0);
    assert_eq!(rig.adapter.counters().connections_lost, 0);
}

#[test]
fn more_than_the_depth_waits_and_more_than_the_queue_is_refused() {
    let (mut rig, session, _, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    for _ in 0..1024 {
        rig.raw(session, buf, false);
    }
    let data = [buf.whole()];
    let request = crate::user::Request {
        lun: Default::default(),
        op: crate::user::Op::Scsi { cdb: [0; 16], write: false },
        lba: 0,
        data: &data,
    };
    let refused = rig.call(|a, cx| a.submit(cx, session, &request));
    assert_eq!(refused, Err(SubmitError::Busy { limit: 1024 }));
    rig.settle();
    // The card never said that its command window is larger than what it last announced.
    assert!(itts(&rig, SqOpcode::SCSI_CMD).len() <= 32);
    assert_eq!(rig.adapter.counters().refused, 1);
}

/// D10, 5.6: however deep the session, management and cleanup always find room in the rings.
#[test]
fn commands_never_take_the_last_slots() {
    let (mut rig, session, ep, buf) = ready_with(SessionParams {
        queue_depth: 1024,
        noop_interval: Duration::ZERO,
        noop_timeout: Duration::ZERO,
        ..SessionParams::default()
    });
    rig.card.borrow_mut().answer_sense = None;
    for _ in 0..200 {
        rig.raw(session, buf, false);
    }
    rig.settle();
    let posted = itts(&rig, SqOpcode::SCSI_CMD);
    assert_eq!(posted.len(), usize::from(rig.adapter.config().rings.commands()));
    for itt in posted {
        let mut done = CmdResponse::default();
        (done.op_code, done.itt) = (CqOpcode::SCSI_RSP, itt);
        rig.card.borrow_mut().send_cqes.push((ep.cid, done.into_element()));
    }
    rig.card.borrow_mut().answer_sense = Some(0);
    rig.settle();
    assert_eq!(reap(&mut rig).len(), 200);
}

#[test]
fn d3_a_duplicate_completion_is_counted_and_recovers_the_session() {
    let (mut rig, session, ep, buf) = ready();
    rig.raw(session, buf, false);
    rig.settle();
    assert_eq!(reap(&mut rig).len(), 1);
    let mut again = CmdResponse::default();
    (again.op_code, again.itt) = (CqOpcode::SCSI_RSP, itts(&rig, SqOpcode::SCSI_CMD)[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, again.into_element()));
    rig.settle();
    assert_eq!((rig.adapter.counters().unknown_itt, rig.adapter.counters().connections_lost), (1, 1));
    assert_eq!(reap(&mut rig).len(), 0, "a ticket completes once");
    assert_eq!(rig.adapter.holdings().cids, 0);
    rig.relogin(session, 2);
    rig.settle();
    rig.raw(session, buf, false);
    rig.settle();
    assert_eq!(reap(&mut rig).len(), 1);
}

#[test]
fn d4_a_gap_in_the_completion_queue_is_an_error() {
    let (mut rig, _, ep, _) = ready();
    let mut cqe = CmdResponse::default();
    cqe.op_code = CqOpcode::SCSI_RSP;
    cqe.cq_req_sn = U32::new(77);
    rig.card.borrow_mut().send_cqes.push((ep.cid, cqe.into_element()));
    rig.settle();
    assert_eq!((rig.adapter.counters().cq_gaps, rig.adapter.counters().connections_lost), (1, 1));
}

#[test]
fn d1_d2_impossible_completions_fail_the_connection() {
    for (opcode, length) in [(CqOpcode::SCSI_RSP, 257), (CqOpcode::DATA_IN, 0), (CqOpcode::REJECT, 300)] {
        let (mut rig, session, ep, buf) = ready();
        rig.card.borrow_mut().answer_sense = None;
        rig.raw(session, buf, false);
        rig.settle();
        let mut cqe = CmdResponse::default();
        (cqe.op_code, cqe.itt) = (opcode, itts(&rig, SqOpcode::SCSI_CMD)[0]);
        cqe.data_length = U32::new(length);
        rig.card.borrow_mut().send_cqes.push((ep.cid, cqe.into_element()));
        rig.settle();
        assert_eq!(rig.adapter.counters().connections_lost, 1, "{opcode:?}");
    }
}

/// D3: an answer of a kind that nobody asked for under this tag completes nothing, and the session is
/// recovered.
#[test]
fn d3_an_answer_of_another_kind_completes_nothing() {
    let (mut rig, session, ep, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    rig.raw(session, buf, false);
    rig.run(Duration::from_secs(30));
    let tmf = itts(&rig, SqOpcode::TMF)[0];
    // The abort of the command is answered as if it had been a command itself.
    let mut wrong = CmdResponse::default();
    (wrong.op_code, wrong.itt) = (CqOpcode::SCSI_RSP, tmf);
    rig.card.borrow_mut().send_cqes.push((ep.cid, wrong.into_element()));
    rig.settle();
    assert_eq!(rig.adapter.counters().connections_lost, 1);
    assert!(
        reap(&mut rig).iter().all(|c| matches!(c.result, Err(BlockError::Transport { .. }))),
        "the loss ends it"
    );
    let cause = rig.take(|m| match m {
        FromAdapter::ConnError { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause, Some(Cause::BadItt));

    // And the other way round.
    let (mut rig, session, ep, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    rig.raw(session, buf, false);
    rig.settle();
    let mut wrong = TmfResponse::default();
    (wrong.op_code, wrong.itt) = (CqOpcode::TMF_RSP, itts(&rig, SqOpcode::SCSI_CMD)[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, wrong.into_element()));
    rig.settle();
    assert_eq!(rig.adapter.counters().connections_lost, 1);
    assert!(
        reap(&mut rig).iter().all(|c| matches!(c.result, Err(BlockError::Transport { .. }))),
        "the loss ends it"
    );
}

/// R8: a command that is answered while its abort waits to be sent is not aborted, and the error handler has
/// nothing left to do.
#[test]
fn r8_an_abort_of_a_command_that_is_gone_is_not_sent() {
    let (mut rig, session, ep, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    let ticket = rig.raw(session, buf, false);
    rig.run(Duration::from_secs(29));
    let mut done = CmdResponse::default();
    (done.op_code, done.itt) = (CqOpcode::SCSI_RSP, itts(&rig, SqOpcode::SCSI_CMD)[0]);
    let slot = rig.adapter.slot_of(session).unwrap();
    let s = rig.adapter.session(slot).unwrap();
    let task = s.tasks.next_from(0).unwrap();
    // The abort is decided on, and the answer arrives with the very step that would send it.
    s.ladder.abort(task, Default::default());
    rig.card.borrow_mut().send_cqes.push((ep.cid, done.into_element()));
    rig.settle();
    let all = reap(&mut rig);
    assert_eq!((all.len(), all[0].ticket), (1, ticket));
    rig.run(MINUTE);
    assert_eq!(itts(&rig, SqOpcode::TMF).len(), 0, "nothing was sent");
    assert_eq!(rig.adapter.counters().connections_lost, 0, "and nobody waits for an answer to it");
}

/// L1: the card's word that TCP has failed ends the connection at once.
#[test]
fn l1_a_tcp_error_is_a_loss() {
    let (mut rig, _, ep, _) = ready();
    let error = hsi::kernel::kcq::IscsiKcqe::new(
        hsi::kernel::kcq::IscsiKcqeOpcode::TCP_ERROR,
        ep.cid.into(),
        hsi::kernel::kcq::CompletionStatus(0x93),
    );
    rig.card.borrow_mut().send.push(error.into_element());
    rig.settle();
    assert_eq!(rig.adapter.counters().connections_lost, 1);
    let cause = rig.take(|m| match m {
        FromAdapter::ConnError { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause, Some(Cause::TcpError(0x93)));
}

/// D8: iscsid gets both times of a logout response, each where RFC 7143 11.15 has it.
#[test]
fn d8_the_times_of_a_logout_response_reach_iscsid() {
    let (mut rig, _, ep, _) = ready();
    let mut bhs = [0; 48];
    (bhs[0], bhs[1]) = (0x46, 0x80);
    rig.say(ToAdapter::SendPdu { ep, bhs, data: Vec::new() });
    let mut response = LogoutResponse::default();
    (response.op_code, response.itt) = (CqOpcode::LOGOUT_RSP, itts(&rig, SqOpcode::LOGOUT)[0]);
    response.time_to_wait.set(0x1234);
    response.time_to_retain.set(0x5678);
    rig.card.borrow_mut().send_cqes.push((ep.cid, response.into_element()));
    rig.settle();
    let times = rig.take(|m| match m {
        FromAdapter::RecvPdu { bhs, .. } if bhs[0] == 0x26 => Some(bhs[40..44].to_vec()),
        _ => None,
    });
    assert_eq!(times, Some(vec![0x12, 0x34, 0x56, 0x78]));
}

#[test]
fn what_was_in_flight_comes_back_only_with_proof() {
    let (mut rig, session, _, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    let ticket = rig.raw(session, buf, false);
    rig.settle();
    rig.card.borrow_mut().mute = true;
    rig.card.borrow_mut().firmware = false;
    rig.request(OperatorRequest::Reset);
    rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Resetting);
    assert_eq!(reap(&mut rig).len(), 0, "the card may still write");
    assert_eq!(rig.adapter.free(buf), Err(FreeError::InUse));
    rig.run_until(MINUTE, |r| r.adapter.holdings().cids == 0);
    let done = reap(&mut rig);
    assert_eq!((done.len(), done[0].ticket), (1, ticket));
    assert_eq!(done[0].result, Err(BlockError::Transport(ConnFailure::ConnFailed)), "raw: never repeated");
    rig.adapter.free(buf).unwrap();
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

#[test]
fn queued_requests_fail_when_the_replacement_timeout_expires() {
    let (mut rig, session, _, buf) = ready();
    rig.say(ToAdapter::StopConn { session, flag: StopFlag::Recover });
    rig.raw(session, buf, false);
    rig.run(Duration::from_secs(119));
    assert_eq!(reap(&mut rig).len(), 0);
    rig.run(Duration::from_secs(2));
    let done = reap(&mut rig);
    assert_eq!(done[0].result, Err(BlockError::RecoveryTimedOut { seconds: 120 }));
    let data = [buf.whole()];
    let request = crate::user::Request {
        lun: Default::default(),
        op: crate::user::Op::Scsi { cdb: [0; 16], write: false },
        lba: 0,
        data: &data,
    };
    let refused = rig.call(|a, cx| a.submit(cx, session, &request));
    assert_eq!(refused, Err(SubmitError::Offline));
    rig.relogin(session, 2);
    rig.settle();
    rig.raw(session, buf, false);
    rig.settle();
    assert_eq!(reap(&mut rig).len(), 1, "a later login heals");
}

#[test]
fn a_command_that_takes_too_long_is_aborted_and_cleaned_up_by_its_own_tag() {
    let (mut rig, session, ep, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    let ticket = rig.raw(session, buf, false);
    rig.run(Duration::from_secs(30));
    let (command, tmf) = (itts(&rig, SqOpcode::SCSI_CMD), itts(&rig, SqOpcode::TMF));
    assert_eq!((command.len(), tmf.len()), (1, 1), "no keepalive: the first expiry aborts");
    let mut response = TmfResponse::default();
    (response.op_code, response.itt) = (CqOpcode::TMF_RSP, tmf[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, response.into_element()));
    rig.settle();
    assert_eq!(itts(&rig, SqOpcode::CLEANUP_REQUEST), command);
    assert_eq!(reap(&mut rig).len(), 0);
    let mut cleaned = CleanupResponse::default();
    (cleaned.op_code, cleaned.itt) = (CqOpcode::CLEANUP_RESPONSE, command[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, cleaned.into_element()));
    rig.settle();
    let done = reap(&mut rig);
    assert_eq!((done[0].ticket, &done[0].result), (ticket, &Err(BlockError::Aborted)));
    assert_eq!(rig.adapter.counters().connections_lost, 0);
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

/// S12: the window is closed with the answer to a command. What was accepted fails in the time that a command
/// may take, says what it waited for, and the session is recovered.
#[test]
fn a_request_that_a_closed_window_holds_up_fails_in_time_and_names_the_gate() {
    let rig = Rig::new();
    rig.card.borrow_mut().window = 1;
    let (mut rig, session, _, buf) = ready_on(rig, super::rig::no_keepalive());
    rig.card.borrow_mut().window = 0;
    rig.raw(session, buf, false);
    rig.settle();
    assert_eq!(reap(&mut rig).len(), 1, "the last one that the window lets out");
    rig.run(Duration::from_secs(100));
    assert_eq!(rig.adapter.counters().connections_lost, 0, "nobody waits");
    let ticket = rig.raw(session, buf, false);
    let took = rig.run_until(MINUTE, |r| r.adapter.holdings().requests == 0);
    assert_eq!(took, Duration::from_secs(30));
    let done = reap(&mut rig);
    let held_up = BlockError::HeldUp { gate: Gate::CommandWindow, seconds: 30 };
    assert_eq!((done[0].ticket, &done[0].result), (ticket, &Err(held_up)));
    let cause = rig.take(|m| match m {
        FromAdapter::ConnError { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause, Some(Cause::HeldUp(Gate::CommandWindow)));
}

/// R8 of the rules, S12: the card never says that the answer to a NOP-In has left. Its tag must not be lost
/// for good.
#[test]
fn an_answer_that_never_leaves_costs_a_recovery_and_no_tag() {
    let (mut rig, _, ep, _) = ready();
    let mut ping = NopInMsg::default();
    (ping.op_code, ping.itt, ping.ttt) = (CqOpcode::NOP_IN, Itt::RESERVED, U32::new(7));
    rig.card.borrow_mut().send_cqes.push((ep.cid, ping.into_element()));
    let took = rig.run_until(MINUTE, |r| r.adapter.counters().connections_lost == 1);
    assert_eq!(took, Duration::from_secs(30));
}

/// T7, R7: one deadline for the batch, then session recovery.
#[test]
fn t7_a_lost_cleanup_recovers_the_session_after_a_second() {
    let (mut rig, session, ep, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    rig.raw(session, buf, false);
    rig.run(Duration::from_secs(30));
    let mut response = TmfResponse::default();
    (response.op_code, response.itt) = (CqOpcode::TMF_RSP, itts(&rig, SqOpcode::TMF)[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, response.into_element()));
    rig.settle();
    let took = rig.run_until(MINUTE, |r| r.adapter.counters().connections_lost == 1);
    assert_eq!(took, Duration::from_secs(1));
    let error = rig.take(|m| match m {
        FromAdapter::ConnError { cause, .. } => Some(cause.verdict().conn),
        _ => None,
    });
    assert_eq!(error, Some(ConnFailure::EhSessionReset));
}

#[test]
fn a_silent_target_is_pinged_and_given_up_after_10_s() {
    let mut rig = Rig::new();
    rig.up();
    let params = Box::new(SessionParams { replacement_timeout: None, ..SessionParams::default() });
    rig.say(ToAdapter::CreateSession { tag: 1, params });
    let session = rig
        .take(|m| match m {
            FromAdapter::SessionCreated { result: Ok(id), .. } => Some(*id),
            _ => None,
        })
        .unwrap();
    let ep = rig.relogin(session, 1);
    rig.run(Duration::from_secs(5));
    let pings = itts(&rig, SqOpcode::NOP_OUT_IMMEDIATE);
    assert_eq!(pings.len(), 1);
    let mut pong = NopInMsg::default();
    (pong.op_code, pong.itt) = (CqOpcode::NOP_IN, pings[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, pong.into_element()));
    let took = rig.run_until(MINUTE, |r| r.adapter.counters().connections_lost == 1);
    assert_eq!(took, Duration::from_secs(10), "the answered ping counted; the next one is not answered");
    let error = rig.take(|m| match m {
        FromAdapter::ConnError { cause, .. } => Some(cause.verdict().conn),
        _ => None,
    });
    assert_eq!(error, Some(ConnFailure::NopTimedOut));
}

/// What the card completes by itself must not keep a dead target alive.
#[test]
fn a_local_completion_does_not_put_off_the_ping() {
    let mut rig = Rig::new();
    rig.up();
    let session = rig.new_session_with(1, SessionParams::default());
    let ep = rig.relogin(session, 1);
    let mut ping = NopInMsg::default();
    (ping.op_code, ping.itt, ping.ttt) = (CqOpcode::NOP_IN, Itt::RESERVED, U32::new(7));
    rig.card.borrow_mut().send_cqes.push((ep.cid, ping.into_element()));
    rig.run(Duration::from_secs(4));
    let answers = itts(&rig, SqOpcode::NOP_OUT_IMMEDIATE);
    assert_eq!(answers.len(), 1);
    let mut left = NopInMsg::default();
    (left.op_code, left.itt) = (CqOpcode::NOPOUT_LOCAL_COMPLETION, answers[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, left.into_element()));
    rig.run(Duration::from_secs(1));
    assert_eq!(itts(&rig, SqOpcode::NOP_OUT_IMMEDIATE).len(), 2, "5 s after the target's last sign of life");
}

#[test]
fn a_nop_in_of_the_target_is_answered_and_its_buffer_returned() {
    let (mut rig, _, ep, _) = ready();
    for tag in 0..40 {
        let mut ping = NopInMsg::default();
        (ping.op_code, ping.itt, ping.ttt) = (CqOpcode::NOP_IN, Itt::RESERVED, U32::new(tag));
        rig.card.borrow_mut().send_cqes.push((ep.cid, ping.into_element()));
        rig.settle();
        let answers = itts(&rig, SqOpcode::NOP_OUT_IMMEDIATE);
        assert_eq!(answers.len() as u32, tag + 1);
        let mut left = NopInMsg::default();
        (left.op_code, left.itt) = (CqOpcode::NOPOUT_LOCAL_COMPLETION, answers[tag as usize]);
        rig.card.borrow_mut().send_cqes.push((ep.cid, left.into_element()));
        rig.settle();
    }
    assert_eq!(rig.adapter.counters().connections_lost, 0);
}

#[test]
fn errors_of_the_card_are_classed_by_the_mask() {
    for (status, lost) in [(0x0f, 0), (0x1b, 0), (0x20, 0), (0x05, 1), (0x0e, 1), (0x40, 1), (0x43, 1)] {
        let (mut rig, _, ep, _) = ready();
        let error = hsi::kernel::kcq::IscsiKcqe::new(
            hsi::kernel::kcq::IscsiKcqeOpcode::ISCSI_ERROR,
            ep.cid.into(),
            hsi::kernel::kcq::CompletionStatus(status),
        );
        rig.card.borrow_mut().send.extend([error.into_element(); 2]);
        rig.settle();
        let c = rig.adapter.counters();
        assert_eq!((c.connections_lost, c.warnings), (lost, 1 - lost), "{status:#x}");
    }
}

/// A doorbell that was lost, an interrupt that was lost: the watchdog looks.
#[test]
fn r18_nothing_waits_for_a_lost_interrupt() {
    let (mut rig, session, ep, buf) = ready();
    rig.card.borrow_mut().answer_sense = None;
    rig.raw(session, buf, false);
    rig.settle();
    let mut done = CmdResponse::default();
    (done.op_code, done.itt) = (CqOpcode::SCSI_RSP, itts(&rig, SqOpcode::SCSI_CMD)[0]);
    rig.card.borrow_mut().send_cqes.push((ep.cid, done.into_element()));
    rig.card.borrow_mut().swallow.push(op::EVENT);
    let took = rig.run_until(MINUTE, |r| r.adapter.holdings().requests == 0);
    assert!(took <= Duration::from_secs(1), "{took:?}");
    assert_eq!(reap(&mut rig).len(), 1);
}

#[test]
fn all_cids_are_used_and_the_129th_connect_is_refused() {
    let mut rig = Rig::new();
    rig.up();
    for tag in 0..128 {
        rig.connect(tag);
    }
    let ok = (0..128).filter(|tag| matches!(rig.connected(*tag), Some(Ok(_)))).count();
    assert_eq!(ok, 128);
    rig.connect(128);
    assert_eq!(
        rig.connected(128),
        Some(Err(crate::control::EpError::Refused(crate::control::Refused::NoCid)))
    );
    // RESET for all, then UPLOAD_PG and DESTROY for all, in one go each.
    rig.request(OperatorRequest::Reset);
    rig.run_until(MINUTE, |r| r.adapter.state() == AdapterState::Up);
    assert_eq!(rig.adapter.holdings().cids, 0);
    assert_eq!(rig.slot.borrow().audit().violations, 0);
}

/// One-shot interrupts: unless the first half is acknowledged, the second raises none.
#[test]
fn half_a_group_of_completions_is_acknowledged() {
    let (mut rig, _, ep, _) = ready();
    let before = rig.card.borrow().acked;
    let mut first = answer(op::UPDATE, ep.cid, 0).unwrap();
    first.set_next(true);
    rig.card.borrow_mut().send.push(first);
    rig.settle();
    assert_eq!(rig.card.borrow().acked, before.wrapping_add(1));
    let stale = rig.adapter.counters().stale_events;
    rig.card.borrow_mut().send.push(answer(op::UPDATE, ep.cid, 0).unwrap());
    rig.settle();
    assert_eq!(rig.adapter.counters().stale_events, stale + 2, "the whole group was looked at");
}

/// RFC 7143 11.12 and 11.10.3: all requests of a login carry one ITT, all of a text exchange too, and no
/// other request gets it meanwhile. The Linux target refuses a login whose ITT changes.
#[test]
fn a_login_and_a_text_exchange_keep_their_tag() {
    let mut rig = Rig::new();
    rig.up();
    let session = rig.new_session_with(1, super::rig::no_keepalive());
    rig.connect(1);
    let ep = rig.connected(1).unwrap().unwrap();
    rig.say(ToAdapter::Bind { session, ep });
    let send = |rig: &mut Rig, opcode: u8, flags: u8| {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1], bhs[19]) = (opcode | 0x40, flags, 1);
        rig.say(ToAdapter::SendPdu { ep, bhs, data: vec![b'x'; 4] });
        rig.card.borrow().wqes.last().expect("a request").1.itt()
    };
    let answer_login = |rig: &mut Rig, itt: Itt, flags: u8| {
        let mut cqe = LoginResponse::default();
        (cqe.op_code, cqe.itt, cqe.response_flags) = (CqOpcode::LOGIN_RSP, itt, flags);
        rig.card.borrow_mut().send_cqes.push((ep.cid, cqe.into_element()));
        rig.settle();
    };
    let first = send(&mut rig, 0x03, 0x81);
    for flags in [0x00, 0x81, 0x04] {
        answer_login(&mut rig, first, flags);
        assert_eq!(send(&mut rig, 0x03, 0x87), first, "after a response with flags {flags:#x}");
    }
    answer_login(&mut rig, first, 0x87);
    rig.say(ToAdapter::StartConn { session, params: super::rig::PARAMS });
    rig.settle();
    assert_eq!(rig.adapter.counters().connections_lost, 0);

    let answer_text = |rig: &mut Rig, itt: Itt, flags: u8| {
        let mut cqe = TextResponse::default();
        (cqe.op_code, cqe.itt, cqe.response_flags) = (CqOpcode::TEXT_RSP, itt, flags);
        rig.card.borrow_mut().send_cqes.push((ep.cid, cqe.into_element()));
        rig.settle();
    };
    let first = send(&mut rig, 0x04, 0x80);
    for flags in [0x40, 0x00] {
        answer_text(&mut rig, first, flags);
        assert_eq!(send(&mut rig, 0x04, 0x80), first);
    }
    answer_text(&mut rig, first, 0x80);
    assert_ne!(send(&mut rig, 0x04, 0x80), first, "another exchange, another tag");

    // An answer to nothing is no answer (D3).
    let stray = rig.card.borrow().wqes.last().unwrap().1.itt();
    answer_text(&mut rig, stray, 0x00);
    answer_text(&mut rig, stray, 0x80);
    assert_eq!(rig.adapter.counters().connections_lost, 1);
}
