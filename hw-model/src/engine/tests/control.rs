//! Login, the requests that are not SCSI commands, unsolicited PDUs, and the life of a connection.

use hsi::iscsi::bits::{Itt, Lun, TaskType};
use hsi::iscsi::cq::{
    AsyncMsg, CmdResponse, CqOpcode, LoginResponse, LogoutResponse, NopInMsg, RejectMsg, TextResponse,
    TmfResponse,
};
use hsi::iscsi::sq::{LogoutRequest, NopOutRequest, RespBuffer, SqOpcode, TextRequest, TmfRequest};
use iscsi::pdu::{self, Header, RESERVED_TAG, flags};

use bus::Budget;

use super::super::*;
use super::rig::{DATA, ID, INIT, LUN, PARAMS, PORTAL, RESPONSE, Rig};
use crate::tcp::CONNECT_TIMEOUT;
use crate::tcp::memory::{MemoryNet, PeerReceived, Reach};
use crate::testing::{Bench, connect_request};

#[test]
fn login_holds_the_stream_until_update_says_how_it_goes_on() {
    let mut rig = Rig::connected();
    let wqe = rig.login_request(b"InitiatorName=iqn.a\0X=1\0");
    rig.post(wqe);
    let login = rig.received_one();
    let l = login.as_::<pdu::LoginRequest>();
    assert_eq!((l.flags, l.isid, l.itt.get(), l.cmd_sn.get()), (0x81, [0, 2, 0x3d, 1, 2, 3], 0x8009, 7));
    assert_eq!((l.exp_stat_sn.get(), &login.data[..]), (77, &b"InitiatorName=iqn.a\0X=1\0"[..]));

    // First answer: the stage goes on, the tag is free again.
    let mut r = pdu::LoginResponse::new();
    r.flags = 0x04;
    r.isid = l.isid;
    r.itt = l.itt;
    r.stat_sn = 0x500.into();
    rig.write(RESPONSE, &[0xee; 32]);
    rig.send(&r, b"AuthMethod=None\0x");
    let cqe = rig.reap_opcode(CqOpcode::LOGIN_RSP);
    let c = cqe.view::<LoginResponse>();
    assert_eq!((c.response_flags, c.data_length.get(), c.isid(), c.stat_sn.get()), (0x04, 17, l.isid, 0x500));
    assert_eq!(rig.read(RESPONSE, 21), b"AuthMethod=None\0x\0\0\0\xee", "padded to four bytes");

    // Second: the host does not set UPDATE_EXP_STAT_SN, so the chip's count goes out.
    let mut wqe = rig.login_request(b"");
    (wqe.op_attr, wqe.flags) = (0x87, 0);
    rig.post(wqe);
    let login = rig.received_one();
    assert_eq!(login.as_::<pdu::LoginRequest>().exp_stat_sn.get(), 0x501);
    let mut r = pdu::LoginResponse::new();
    (r.flags, r.isid, r.itt) = (0x87, [0, 2, 0x3d, 1, 2, 3], 0x8009.into());
    r.tsih = 0x1234.into();
    r.stat_sn = 0x501.into();
    let final_response = rig.encode(&r, &[]);

    // Right behind it a ping, framed as was negotiated: with a header digest.
    let params = UpdateParams { header_digest: true, exp_stat_sn: 0x502, ..PARAMS };
    rig.params = params;
    let mut n = pdu::NopIn::new();
    n.ttt = 0x77.into();
    n.lun = LUN;
    n.stat_sn = 0x502.into();
    let mut bytes = final_response;
    bytes.extend(rig.encode(&n, &[]));
    rig.send_bytes(&bytes);
    let cqe = rig.reap_opcode(CqOpcode::LOGIN_RSP);
    let c = cqe.view::<LoginResponse>();
    assert_eq!(c.tsih.get().to_le_bytes(), [0x12, 0x34], "raw, in network order");
    assert!(rig.reap().is_none());
    rig.take_events();
    let mut rig = rig.update_keeping_events(params);
    let reports = rig.take_events();
    assert_eq!(reports, [EngineEvent::UpdateComplete(ID, 0), EngineEvent::CqEvent(ID)]);
    let cqe = rig.reap_opcode(CqOpcode::NOP_IN);
    let c = cqe.view::<NopInMsg>();
    assert_eq!((c.itt, c.ttt.get(), c.lun.raw()), (Itt::RESERVED, 0x77, LUN));

    // The host answers; it completes when it has left.
    let mut w = NopOutRequest::default();
    w.op_code = SqOpcode::NOP_OUT_IMMEDIATE;
    w.lun = Lun::from_raw(LUN);
    w.itt = Itt::new(9, TaskType::MPATH);
    w.ttt = hsi::U32::new(0x77);
    w.flags = 2;
    rig.post(w);
    let nop = rig.received_one();
    let n = nop.as_::<pdu::NopOut>();
    assert!(n.is_immediate());
    assert_eq!((n.itt.get(), n.ttt.get(), n.lun, n.exp_stat_sn.get()), (RESERVED_TAG, 0x77, LUN, 0x502));
    assert_eq!(rig.reap_opcode(CqOpcode::NOPOUT_LOCAL_COMPLETION).itt(), w.itt);
}

#[test]
fn update_waits_for_the_end_of_a_pdu_and_refuses_nonsense() {
    let mut rig = Rig::full_feature(PARAMS);
    let wqe = rig.command(1, false, DATA, &[512]);
    rig.post(wqe);
    let itt = rig.received_one().bhs.itt;
    let d = rig.data_in(itt, 0, 0);
    let bytes = rig.encode(&d, &[3; 512]);
    rig.send_bytes(&bytes[..100]);
    let params = UpdateParams { header_digest: true, ..PARAMS };
    rig.call(|e, cx| e.update_conn(cx, ID, &params));
    assert_eq!(rig.take_events(), []);
    rig.call(|e, cx| e.update_conn(cx, ID, &params));
    assert_eq!(rig.take_events(), [EngineEvent::UpdateComplete(ID, 4)], "one at a time");
    rig.send_bytes(&bytes[100..]);
    let r = rig.good(itt, 1);
    rig.params = params;
    rig.send(&r, &[]);
    assert_eq!(rig.take_reports(), [EngineEvent::UpdateComplete(ID, 0)]);
    rig.reap_opcode(CqOpcode::SCSI_RSP);

    for bad in [
        UpdateParams { max_send_pdu: 0, ..PARAMS },
        UpdateParams { max_recv_pdu: 0, ..PARAMS },
        UpdateParams { max_burst: 0, ..PARAMS },
        UpdateParams { max_outstanding_r2ts: MAX_R2TS as u8 + 1, ..PARAMS },
    ] {
        rig.call(|e, cx| e.update_conn(cx, ID, &bad));
        assert_eq!(rig.take_events(), [EngineEvent::UpdateComplete(ID, 4)]);
    }
}

#[test]
fn text_tmf_logout_and_ping() {
    let mut rig = Rig::full_feature(PARAMS);
    let mut w = TextRequest::default();
    w.op_code = SqOpcode::TEXT;
    w.op_attr = 0x80;
    w.itt = Itt::new(1, TaskType::MPATH);
    w.ttt = hsi::U32::new(RESERVED_TAG);
    w.cmd_sn = hsi::U32::new(50);
    w.data_length = hsi::U32::new(16);
    rig.write(DATA, b"SendTargets=All\0");
    w.set_bd_list_addr(rig.list(DATA, &[5, 6, 5]));
    w.num_bds = 3;
    rig.scatter(DATA, &[5, 6, 5], b"SendTargets=All\0");
    w.set_resp_bd_list_addr(rig.list(RESPONSE, &[3, 100]));
    w.resp_buffer = RespBuffer { length: 100, num_bds: 2 }.to_word();
    rig.post(w);
    let text = rig.received_one();
    let t = text.as_::<pdu::TextRequest>();
    assert!(!t.is_immediate() && text.data == b"SendTargets=All\0");
    assert_eq!((t.flags, t.ttt.get(), t.cmd_sn.get(), t.exp_stat_sn.get()), (0x80, RESERVED_TAG, 50, 100));
    let mut r = pdu::TextResponse::new();
    (r.flags, r.itt, r.ttt, r.lun) = (0x40, t.itt, 0x99.into(), LUN);
    r.stat_sn = rig.next_stat_sn();
    rig.send(&r, b"TargetName=iqn.x\0");
    let cqe = rig.reap_opcode(CqOpcode::TEXT_RSP);
    let c = cqe.view::<TextResponse>();
    assert_eq!((c.response_flags, c.ttt.get(), c.lun.to_wire(), c.data_length.get()), (0x40, 0x99, LUN, 17));
    assert_eq!(rig.gather(RESPONSE, &[3, 14]), b"TargetName=iqn.x\0");

    let mut w = TmfRequest::default();
    w.op_code = SqOpcode::TMF;
    w.op_attr = 0x81;
    w.lun = Lun::from_wire(LUN);
    w.itt = Itt::new(2, TaskType::MPATH);
    w.ref_itt = hsi::U32::new(0x4007);
    w.ref_cmd_sn = hsi::U32::new(33);
    rig.post(w);
    let tmf = rig.received_one();
    let t = tmf.as_::<pdu::TaskManagementRequest>();
    assert!(t.is_immediate());
    assert_eq!(
        (t.function_code(), t.referenced_task_tag.get(), t.ref_cmd_sn.get(), t.lun),
        (1, 0x4007, 33, LUN)
    );
    assert_eq!(t.exp_stat_sn.get(), 101, "the text response was counted");
    let mut r = pdu::TaskManagementResponse::new();
    (r.itt, r.response) = (t.itt, 1);
    r.stat_sn = rig.next_stat_sn();
    rig.send(&r, &[]);
    let cqe = rig.reap_opcode(CqOpcode::TMF_RSP);
    let c = cqe.view::<TmfResponse>();
    assert_eq!((c.response, c.itt), (1, w.itt));

    let mut w = NopOutRequest::default();
    w.op_code = SqOpcode::NOP_OUT_IMMEDIATE;
    w.itt = Itt::new(3, TaskType::MPATH);
    w.ttt = hsi::U32::new(RESERVED_TAG);
    rig.post(w);
    let itt = rig.received_one().as_::<pdu::NopOut>().itt;
    let mut r = pdu::NopIn::new();
    r.itt = itt;
    r.stat_sn = rig.next_stat_sn();
    rig.send(&r, &[]);
    let cqe = rig.reap_opcode(CqOpcode::NOP_IN);
    let c = cqe.view::<NopInMsg>();
    assert_eq!((c.itt, c.ttt.get()), (w.itt, RESERVED_TAG));

    let mut w = LogoutRequest::default();
    w.op_code = SqOpcode::LOGOUT;
    w.itt = Itt::new(4, TaskType::MPATH);
    rig.post(w);
    let logout = rig.received_one();
    assert_eq!(logout.as_::<pdu::LogoutRequest>().flags, 0x80);
    let mut r = pdu::LogoutResponse::new();
    r.itt = logout.bhs.itt;
    (r.time2wait, r.time2retain) = (2.into(), 20.into());
    r.stat_sn = rig.next_stat_sn();
    rig.send(&r, &[]);
    let cqe = rig.reap_opcode(CqOpcode::LOGOUT_RSP);
    let c = cqe.view::<LogoutResponse>();
    assert_eq!((c.time_to_wait.get(), c.time_to_retain.get()), (2, 20));
    assert_eq!(rig.take_reports(), []);
}

#[test]
fn sense_async_and_reject_use_rq_buffers_in_order() {
    let mut rig = Rig::full_feature(PARAMS);
    let wqe = rig.command(1, false, DATA, &[512]);
    rig.post(wqe);
    let itt = rig.received_one().bhs.itt;
    let mut r = rig.good(itt, 0);
    r.status = 2;
    r.flags |= flags::UNDERFLOW;
    r.residual = 512.into();
    let mut sense = vec![0, 18, 0x70, 0, 5];
    sense.resize(20, 9);
    rig.send(&r, &sense);
    let cqe = rig.reap_opcode(CqOpcode::SCSI_RSP);
    let c = cqe.view::<CmdResponse>();
    assert_eq!((c.status, c.response_flags, c.residual_count.get(), c.data_length.get()), (2, 2, 512, 20));
    assert_eq!(rig.rq_buffer(20), sense);

    let mut a = pdu::AsyncMessage::new();
    (a.event, a.parameter1, a.parameter2, a.parameter3) = (2, 1.into(), 2.into(), 3.into());
    a.stat_sn = rig.next_stat_sn();
    rig.send(&a, b"vendor's words");
    let cqe = rig.reap_opcode(CqOpcode::ASYNC);
    let c = cqe.view::<AsyncMsg>();
    assert_eq!((c.async_event, c.param1.get(), c.param2.get(), c.param3.get()), (2, 1, 2, 3));
    assert_eq!(rig.rq_buffer(14), b"vendor's words");

    // A rejected ping: the tag can be used again, though no answer came.
    let mut w = NopOutRequest::default();
    w.op_code = SqOpcode::NOP_OUT_IMMEDIATE;
    w.itt = Itt::new(3, TaskType::MPATH);
    w.ttt = hsi::U32::new(RESERVED_TAG);
    rig.post(w);
    let ping = rig.received_one();
    let mut j = pdu::Reject::new();
    j.reason = 6;
    j.stat_sn = rig.next_stat_sn();
    rig.send(&j, ping.bhs.wire());
    let cqe = rig.reap_opcode(CqOpcode::REJECT);
    let c = cqe.view::<RejectMsg>();
    assert_eq!((c.reason, c.data_length.get()), (6, 48));
    assert_eq!(rig.rq_buffer(48), ping.bhs.wire());
    rig.post(w);
    rig.received_one();
    assert_eq!(rig.take_reports(), []);

    // A command whose immediate data was damaged is rejected and goes on: its response still comes.
    let wqe = rig.command(7, true, DATA, &[512]);
    rig.post(wqe);
    let command = rig.received_one();
    let mut j = pdu::Reject::new();
    j.reason = 2;
    j.stat_sn = rig.next_stat_sn();
    rig.send(&j, command.bhs.wire());
    rig.reap_opcode(CqOpcode::REJECT);
    let r = rig.good(command.bhs.itt, 0);
    rig.send(&r, &[]);
    assert_eq!(rig.reap_opcode(CqOpcode::SCSI_RSP).itt(), wqe.itt);
}

#[test]
fn without_an_rq_buffer_reception_stands_still_and_goes_on_where_it_was() {
    let mut rig = Rig::full_feature(PARAMS);
    for i in 0..20u32 {
        let mut n = pdu::NopIn::new();
        n.ttt = i.into();
        n.stat_sn = 100.into();
        rig.send(&n, &i.to_be_bytes());
    }
    for i in 0..16u32 {
        let cqe = rig.reap_opcode(CqOpcode::NOP_IN);
        assert_eq!(cqe.view::<NopInMsg>().ttt.get(), i);
        assert_eq!(rig.rq_buffer(4), i.to_be_bytes());
    }
    assert!(rig.reap().is_none());
    assert_eq!(rig.engine.counters().rq_stalls, 1);
    // Transmission is not affected.
    let wqe = rig.command(1, false, DATA, &[512]);
    rig.post(wqe);
    rig.received_one();
    rig.return_rq(1);
    rig.reap_opcode(CqOpcode::NOP_IN);
    assert!(rig.reap().is_none());
    rig.return_rq(15);
    for _ in 17..20 {
        rig.reap_opcode(CqOpcode::NOP_IN);
    }
    // An index that the ring cannot have changes nothing.
    rig.engine.ring_rq(ID, 0x4000);
    rig.engine.ring_sq(ID, 500);
    rig.engine.ring_sq(TcpId(99), 1);
    assert_eq!(rig.engine.counters().bad_doorbells, 3);
    assert_eq!(rig.take_reports(), []);
}

#[test]
fn a_stalled_pdu_that_is_whole_needs_no_more_bytes_to_go_on() {
    let mut rig = Rig::full_feature(PARAMS);
    for i in 0..17u32 {
        let mut n = pdu::NopIn::new();
        n.ttt = i.into();
        n.stat_sn = 100.into();
        rig.send(&n, &[]);
    }
    for _ in 0..16 {
        rig.reap_opcode(CqOpcode::NOP_IN);
    }
    assert!(rig.reap().is_none());
    rig.return_rq(1);
    assert_eq!(rig.reap_opcode(CqOpcode::NOP_IN).view::<NopInMsg>().ttt.get(), 16);
}

#[test]
fn fin_behind_what_a_stalled_connection_left_is_seen() {
    for close in [true, false] {
        let mut rig = Rig::full_feature(PARAMS);
        for i in 0..20u32 {
            let mut n = pdu::NopIn::new();
            n.ttt = i.into();
            n.stat_sn = 100.into();
            rig.send(&n, &[]);
        }
        rig.target.shutdown(rig.stream.unwrap());
        rig.run();
        assert_eq!(rig.take_reports(), []);
        if close {
            rig.call(|e, cx| e.close(cx, ID));
            assert_eq!(rig.take_reports(), [EngineEvent::CloseComplete(ID)]);
        } else {
            let mut bad = rig.command(1, false, DATA, &[]);
            bad.op_code = SqOpcode(0x1f);
            rig.post(bad);
            let expected = [EngineEvent::IscsiError(ID, 1), EngineEvent::CloseReceived(ID)];
            assert_eq!(rig.take_reports(), expected);
        }
    }
}

#[test]
fn handshakes_that_fail() {
    let mut rig = Rig::new();
    let request = connect_request("10.9.9.9:3260".parse().unwrap());
    rig.call(|e, cx| e.connect(cx, ID, &request));
    assert_eq!(rig.take_events(), [EngineEvent::ConnectComplete(ID, 4)]);
    rig.net.set_reach(Reach::Silent);
    let request = connect_request(PORTAL.parse().unwrap());
    rig.call(|e, cx| e.connect(cx, ID, &request));
    let next = rig.run().next;
    assert_eq!(next, Some(Instant::ZERO + CONNECT_TIMEOUT));
    rig.bench.now = next.unwrap();
    rig.run();
    assert_eq!(rig.take_events(), [EngineEvent::ConnectComplete(ID, 0x93)]);
    // The connection is as before, and can be tried again or destroyed.
    rig.net.set_reach(Reach::Normal);
    let mut rig = rig.connect();
    rig.call(|e, cx| e.connect(cx, ID, &request));
    assert_eq!(rig.take_events(), [EngineEvent::ConnectComplete(ID, 4)], "it is connected already");
    rig.call(|e, cx| e.connect(cx, TcpId(77), &request));
    assert_eq!(rig.take_events(), [EngineEvent::ConnectComplete(TcpId(77), 4)]);
}

#[test]
fn fin_and_rst_are_reported_after_what_came_before() {
    let mut rig = Rig::full_feature(PARAMS);
    let wqe = rig.command(1, false, DATA, &[]);
    rig.post(wqe);
    let itt = rig.received_one().bhs.itt;
    let r = rig.good(itt, 0);
    let bytes = rig.encode(&r, &[]);
    rig.target.send(rig.stream.unwrap(), &bytes);
    rig.target.shutdown(rig.stream.unwrap());
    rig.run();
    assert_eq!(rig.take_events(), [EngineEvent::CqEvent(ID), EngineEvent::CloseReceived(ID)]);
    rig.reap_opcode(CqOpcode::SCSI_RSP);
    rig.target.abort(rig.stream.unwrap());
    rig.run();
    assert_eq!(rig.take_events(), [EngineEvent::ResetReceived(ID)]);
    let wqe = rig.command(2, false, DATA, &[]);
    rig.post(wqe);
    assert_eq!(rig.take_events(), []);
    rig.call(|e, cx| e.abort(cx, ID));
    rig.call(|e, cx| e.destroy(cx, ID));
    let expected = [EngineEvent::ResetComplete(ID), EngineEvent::DestroyComplete(ID, 0)];
    assert_eq!(rig.take_events(), expected);
    assert_eq!((rig.engine.connections(), rig.net.streams()), (0, 0));
}

#[test]
fn close_sends_what_is_on_the_card_and_ends_with_both_fins() {
    let mut rig = Rig::with(INIT, MemoryNet::new(100)).connect().update(PARAMS);
    let wqe = rig.command(1, true, DATA, &[4096]);
    rig.post(wqe);
    rig.call(|e, cx| e.close(cx, ID));
    rig.call(|e, cx| e.destroy(cx, ID));
    assert_eq!(rig.take_events(), [EngineEvent::DestroyComplete(ID, 3)], "TCP is alive");
    assert_eq!(rig.received_one().data.len(), 4096);
    let id = rig.stream.unwrap();
    assert_eq!(rig.target.recv(id, &mut [0; 1]), PeerReceived::Fin);
    rig.target.send(id, b"dropped");
    rig.target.shutdown(id);
    rig.run();
    rig.call(|e, cx| e.destroy(cx, ID));
    let expected = [EngineEvent::CloseComplete(ID), EngineEvent::DestroyComplete(ID, 0)];
    assert_eq!(rig.take_events(), expected);
    rig.target.close(id);
    assert_eq!((rig.engine.connections(), rig.net.streams()), (0, 0));
    // The id is free again.
    assert_eq!(rig.offload(), Ok(()));
    assert_eq!(rig.offload(), Err(0x80));
}

#[test]
fn close_does_not_wait_for_a_peer_that_does_not_answer() {
    let mut rig = Rig::full_feature(PARAMS);
    rig.call(|e, cx| e.close(cx, ID));
    let at = rig.run().next.unwrap();
    assert_eq!(at, Instant::ZERO + CLOSE_TIMEOUT);
    rig.bench.now = at;
    let next = rig.run().next;
    assert_eq!((rig.take_events(), next), (vec![EngineEvent::CloseComplete(ID)], None));
    assert_eq!(rig.target.recv(rig.stream.unwrap(), &mut [0; 1]), PeerReceived::Reset);
    assert_eq!(rig.engine.counters().close_timeouts, 1);
}

#[test]
fn requests_for_nobody_are_answered() {
    let mut rig = Rig::new();
    let nobody = TcpId(6);
    rig.call(|e, cx| {
        e.close(cx, nobody);
        e.abort(cx, nobody);
        e.destroy(cx, nobody);
        e.update_conn(cx, nobody, &PARAMS);
    });
    let expected = [
        EngineEvent::CloseComplete(nobody),
        EngineEvent::ResetComplete(nobody),
        EngineEvent::DestroyComplete(nobody, 3),
        EngineEvent::UpdateComplete(nobody, 4),
    ];
    assert_eq!(rig.take_events(), expected);
    // A connection that was never connected closes and resets at once.
    rig.call(|e, cx| {
        e.close(cx, ID);
        e.abort(cx, ID);
        e.destroy(cx, ID);
    });
    let expected =
        [EngineEvent::CloseComplete(ID), EngineEvent::ResetComplete(ID), EngineEvent::DestroyComplete(ID, 0)];
    assert_eq!(rig.take_events(), expected);
    assert_eq!(rig.engine.counters().host_errors, 4);
}

#[test]
fn offload_and_init_refuse_what_they_cannot_use() {
    let mut rig = Rig::new();
    let good = RingTables { sq: DATA, cq: DATA, rq: DATA };
    let offload = |rig: &mut Rig, id, tables| {
        let engine = &mut rig.engine;
        rig.bench.with(|cx| engine.offload_conn(cx, TcpId(id), tables))
    };
    assert_eq!(offload(&mut rig, 1, RingTables { sq: 16, ..good }), Err(4), "not mapped");
    assert_eq!(offload(&mut rig, 1, good), Err(4), "entries are zero");
    assert_eq!(offload(&mut rig, 256, good), Err(2));
    assert_eq!(rig.engine.counters().bad_tables, 2);
    for bad in [
        InitParams { sq_wqes: 0, ..INIT },
        InitParams { sq_wqes: MAX_SQ_WQES + 1, ..INIT },
        InitParams { cq_cqes: 0, ..INIT },
        InitParams { rq_buffers: 0, ..INIT },
        InitParams { rq_buffer_size: 0, ..INIT },
        InitParams { tasks: MAX_TASKS + 1, ..INIT },
        InitParams { page_size: 0, ..INIT },
        InitParams { page_size: 5000, ..INIT },
        InitParams { max_cq_sqn: 256, ..INIT },
    ] {
        assert_eq!(rig.engine.init(bad), Err(4), "{bad:?}");
    }
    assert_eq!(rig.engine.init(INIT), Ok(()), "again is legal");
    assert_eq!(rig.engine.connections(), 1);
}

#[test]
fn overruns_are_suspected_when_the_host_posts_more_than_it_reaps() {
    // CQ smaller than SQ + RQ: unsolicited PDUs fill it behind the back of a host that keeps all its
    // promises.
    let init = InitParams { cq_cqes: 8, max_cq_sqn: 17, ..INIT };
    let mut rig = Rig::with(init, MemoryNet::default()).connect().update(PARAMS);
    for i in 0..9u32 {
        let mut n = pdu::NopIn::new();
        n.ttt = i.into();
        n.stat_sn = 100.into();
        rig.send(&n, &[]);
        assert_eq!(rig.engine.counters().suspected_overruns, u64::from(i == 8));
    }
}

/// A transport that reports what it is told to.
#[derive(Default)]
struct Scripted(std::rc::Rc<std::cell::RefCell<Vec<(TcpId, TcpEvent)>>>);

impl TcpEngine for Scripted {
    fn connect(&mut self, _: &mut DevCx<'_>, _: TcpId, _: &ConnectRequest) {}
    fn close(&mut self, _: &mut DevCx<'_>, _: TcpId) {}
    fn abort(&mut self, _: &mut DevCx<'_>, _: TcpId) {}
    fn send(&mut self, _: &mut DevCx<'_>, _: TcpId, _: &[u8]) -> usize {
        0
    }
    fn recv(
        &mut self,
        _: &mut DevCx<'_>,
        _: TcpId,
        _: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        0
    }
    fn set_link(&mut self, _: TcpId, _: LinkHeader) {}

    fn poll(&mut self, _: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        out.append(&mut self.0.borrow_mut());
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn reset(&mut self, _: &mut DevCx<'_>) {}
    fn supports(&self, remote: std::net::IpAddr) -> bool {
        remote.is_ipv4()
    }
}

/// Offloads over a scripted transport; the rings are those of a rig, which many connections may share in a
/// test that posts nothing.
fn scripted(connections: u16) -> (Rig, Engine<Scripted>, Scripted) {
    let mut rig = Rig::new();
    let script = Scripted::default();
    let mut engine = Engine::new(&ChipConfig::default(), Faults::new(), Scripted(script.0.clone()));
    engine.init(INIT).unwrap();
    for id in 0..connections {
        let tables = rig.ring_tables();
        rig.bench.with(|cx| engine.offload_conn(cx, TcpId(id), tables)).unwrap();
    }
    (rig, engine, script)
}

#[test]
fn the_retransmission_limit_and_late_reports() {
    let (mut rig, mut engine, script) = scripted(1);
    let id = TcpId(0);
    let mut report = |engine: &mut Engine<Scripted>, event| {
        script.0.borrow_mut().push((id, event));
        let mut out = EngineEvents::new();
        rig.bench.with(|cx| engine.step(cx, Budget(100), &mut out));
        Vec::from(out)
    };
    // Reports for a connection that is not there, or not in that state, mean nothing.
    script.0.borrow_mut().push((TcpId(9), TcpEvent::Connected));
    for event in [TcpEvent::Connected, TcpEvent::Fin, TcpEvent::Rst, TcpEvent::Closed, TcpEvent::Readable] {
        assert_eq!(report(&mut engine, event), []);
    }
    let request = connect_request("[::1]:3260".parse().unwrap());
    Bench::new().with(|cx| engine.connect(cx, id, &request));
    assert_eq!(
        report(&mut engine, TcpEvent::Connected),
        [EngineEvent::ConnectComplete(id, 4)],
        "no IPv6 here"
    );
    let request = connect_request(PORTAL.parse().unwrap());
    Bench::new().with(|cx| engine.connect(cx, id, &request));
    assert_eq!(report(&mut engine, TcpEvent::Rst), [EngineEvent::ConnectComplete(id, 4)]);
    Bench::new().with(|cx| engine.connect(cx, id, &request));
    assert_eq!(report(&mut engine, TcpEvent::Connected), [EngineEvent::ConnectComplete(id, 0)]);
    assert_eq!(report(&mut engine, TcpEvent::TimedOut), [EngineEvent::TcpError(id, 0x43)]);
    assert_eq!(report(&mut engine, TcpEvent::Rst), []);
}

#[test]
fn work_is_shared_in_turns_and_idle_connections_cost_nothing() {
    let (mut rig, mut engine, script) = scripted(128);
    assert_eq!(engine.connections(), 128);
    let request = connect_request(PORTAL.parse().unwrap());
    for id in 0..128 {
        rig.bench.with(|cx| engine.connect(cx, TcpId(id), &request));
        script.0.borrow_mut().push((TcpId(id), TcpEvent::Connected));
    }
    let mut out = EngineEvents::new();
    rig.bench.with(|cx| engine.step(cx, Budget(1 << 20), &mut out));
    assert_eq!(out.len(), 128);
    // Nothing is ready: a step does nothing.
    assert_eq!(rig.bench.with(|cx| engine.step(cx, Budget(1 << 20), &mut out)), Progress::default());
    // Two of them are: each is served once, in order, and nobody else is touched.
    for id in [100, 3, 100] {
        script.0.borrow_mut().push((TcpId(id), TcpEvent::Readable));
    }
    rig.bench.with(|cx| engine.step(cx, Budget(1 << 20), &mut out));
    assert_eq!(engine.counters().receives, 2);
    let report = rig.bench.with(|cx| engine.reset(cx));
    assert_eq!((report.connections, report.tasks, engine.connections()), (128, 0, 0));
}
