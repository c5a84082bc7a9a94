//! Every check of received PDUs: what is wrong with it, the status that says so, as an error and as a
//! warning.

use hsi::iscsi::bits::{Itt, TaskType};
use hsi::iscsi::sq::{LogoutRequest, NopOutRequest, SqOpcode, TmfRequest};
use iscsi::pdu::{self, Bhs, Header, RESERVED_TAG, flags};

use super::super::*;
use super::rig::{DATA, ID, INIT, PARAMS, Rig};
use crate::tcp::memory::MemoryNet;

/// A read of 4096 bytes with this index is active, a write of 8192 with immediate data 0, and one of each
/// request.
const READ: u32 = 1;
const WRITE: u32 = 0x4002;
const TMF: u32 = 0x8003;
const LOGOUT: u32 = 0x8004;
const PING: u32 = 0x8005;

fn rig(warnings: bool) -> Rig {
    let init = InitParams { warning_mask: if warnings { u64::MAX } else { 0 }, ..INIT };
    let params = UpdateParams { immediate_data: false, max_burst: 4096, max_recv_pdu: 5000, ..PARAMS };
    let mut rig = Rig::with(init, MemoryNet::default()).connect().update(params);
    let read = rig.command(1, false, DATA, &[4096]);
    rig.post(read);
    let write = rig.command(2, true, DATA + 0x10000, &[16384]);
    rig.post(write);
    let mut tmf = TmfRequest::default();
    tmf.op_code = SqOpcode::TMF;
    tmf.op_attr = 0x85;
    tmf.itt = Itt::new(3, TaskType::MPATH);
    rig.post(tmf);
    let mut logout = LogoutRequest::default();
    logout.op_code = SqOpcode::LOGOUT;
    logout.itt = Itt::new(4, TaskType::MPATH);
    rig.post(logout);
    let mut ping = NopOutRequest::default();
    ping.op_code = SqOpcode::NOP_OUT_IMMEDIATE;
    ping.itt = Itt::new(5, TaskType::MPATH);
    ping.ttt = hsi::U32::new(RESERVED_TAG);
    rig.post(ping);
    assert_eq!(rig.received().len(), 5);
    rig
}

/// A violation: its name, status, and the PDU that commits it.
struct Case(&'static str, u32, fn(&mut Rig) -> (Bhs, Vec<u8>));

fn data_in(rig: &mut Rig, change: impl Fn(&mut pdu::DataIn), data: usize) -> (Bhs, Vec<u8>) {
    let mut d = rig.data_in(READ.into(), 0, 0);
    d.flags = flags::FINAL | flags::STATUS;
    d.stat_sn = rig.next_stat_sn();
    change(&mut d);
    (*d, vec![7; data])
}

fn response(rig: &mut Rig, itt: u32, change: impl Fn(&mut pdu::ScsiResponse)) -> (Bhs, Vec<u8>) {
    let mut r = rig.good(itt.into(), 0);
    // The read has no data yet: all of it is missing.
    if itt == READ {
        r.flags |= flags::UNDERFLOW;
        r.residual = 4096.into();
    }
    change(&mut r);
    (*r, Vec::new())
}

fn r2t(rig: &mut Rig, change: impl Fn(&mut pdu::R2t)) -> (Bhs, Vec<u8>) {
    let mut r = rig.r2t(WRITE.into(), 0, 0, 4096);
    change(&mut r);
    (*r, Vec::new())
}

fn other<T: Header>(rig: &mut Rig, itt: u32, data: usize, change: impl Fn(&mut T)) -> (Bhs, Vec<u8>) {
    let mut t = T::new();
    t.itt = itt.into();
    // StatSN is at the same place in all responses.
    t.rest[4..8].copy_from_slice(&rig.next_stat_sn().get().to_be_bytes());
    change(&mut t);
    (*t, vec![7; data])
}

const CASES: &[Case] = &[
    Case("login in full feature phase", 0x0a, |rig| other::<pdu::LoginResponse>(rig, READ, 0, |_| ())),
    Case("a request", 0x0b, |_| (*pdu::NopOut::new(), vec![])),
    Case("an opcode of nobody", 0x0b, |_| {
        let mut bytes = [0; 48];
        bytes[0] = 0x3c;
        (*Bhs::from_bytes(&bytes), vec![])
    }),
    Case("additional headers", 0x0c, |rig| {
        let (mut bhs, mut data) = response(rig, READ, |_| ());
        bhs.total_ahs_length = 2;
        data.clear();
        (bhs, data)
    }),
    Case("a task that is not there", 0x0d, |rig| response(rig, 17, |_| ())),
    Case("a tag beyond 16 bits", 0x0d, |rig| response(rig, 0x1_0001, |_| ())),
    Case("an index beyond the tasks", 0x0d, |rig| response(rig, 0x3ff0, |_| ())),
    Case("the right index with the wrong type", 0x0d, |rig| response(rig, 0x4001, |_| ())),
    Case("data for a write", 0x0d, |rig| data_in(rig, |d| d.itt = WRITE.into(), 4096)),
    Case("R2T for a read", 0x0d, |rig| r2t(rig, |r| r.itt = READ.into())),
    Case("a ping's answer for a TMF", 0x0d, |rig| other::<pdu::NopIn>(rig, TMF, 0, |_| ())),
    Case("async with a tag", 0x0d, |rig| other::<pdu::AsyncMessage>(rig, READ, 0, |_| ())),
    Case("StatSN from the past", 0x0e, |rig| response(rig, READ, |r| r.stat_sn = 99.into())),
    Case("StatSN with a gap", 0x0e, |rig| data_in(rig, |d| d.stat_sn = 101.into(), 4096)),
    Case("ExpDataSN of a read", 0x0f, |rig| response(rig, READ, |r| r.exp_data_sn = 1.into())),
    Case("ExpDataSN of a write", 0x0f, |rig| response(rig, WRITE, |r| r.exp_data_sn = 2.into())),
    Case("both residual flags", 0x11, |rig| response(rig, READ, |r| r.flags |= flags::OVERFLOW)),
    Case("a residual without a flag", 0x12, |rig| response(rig, WRITE, |r| r.residual = 1.into())),
    Case("underflow of more than everything", 0x13, |rig| {
        response(rig, WRITE, |r| (r.flags, r.residual) = (0x82, 16385.into()))
    }),
    Case("overflow of nothing", 0x13, |rig| response(rig, WRITE, |r| r.flags |= flags::OVERFLOW)),
    Case("underflow that the data contradicts", 0x14, |rig| {
        data_in(rig, |d| (d.flags, d.residual) = (0x83, 100.into()), 4096)
    }),
    Case("overflow with data missing", 0x15, |rig| {
        data_in(rig, |d| (d.flags, d.residual) = (0x85, 100.into()), 4000)
    }),
    Case("data missing without underflow", 0x16, |rig| data_in(rig, |_| (), 4000)),
    Case("bidirectional flags", 0x17, |rig| response(rig, READ, |r| r.flags |= flags::BIDI_OVERFLOW)),
    Case("data beyond the command", 0x18, |rig| {
        data_in(rig, |d| (d.buffer_offset, d.data_sn) = (0.into(), 0.into()), 4096 + 4)
    }),
    Case("a segment beyond MaxRecvDataSegmentLength", 0x19, |rig| {
        other::<pdu::TextResponse>(rig, READ, 5004, |_| ())
    }),
    Case("status without F", 0x1a, |rig| data_in(rig, |d| d.flags = flags::STATUS, 4096)),
    Case("a response without F", 0x1a, |rig| response(rig, READ, |r| r.flags &= !flags::FINAL)),
    Case("R2T without F", 0x1a, |rig| r2t(rig, |r| r.flags = 0)),
    Case("Data-In with a TTT", 0x1b, |rig| data_in(rig, |d| d.ttt = 5.into(), 4096)),
    Case("a ping's answer with a TTT", 0x1b, |rig| other::<pdu::NopIn>(rig, PING, 0, |n| n.ttt = 5.into())),
    Case("DataSN with a gap", 0x1c, |rig| data_in(rig, |d| d.data_sn = 1.into(), 4096)),
    Case("a hole in the data", 0x1f, |rig| {
        data_in(rig, |d| (d.flags, d.buffer_offset) = (0, 512.into()), 512)
    }),
    Case("R2T out of order", 0x1f, |rig| r2t(rig, |r| r.buffer_offset = 4096.into())),
    Case("LUN of an R2T", 0x20, |rig| r2t(rig, |r| r.lun = [0; 8])),
    Case("LUN of an acknowledged Data-In", 0x20, |rig| data_in(rig, |d| d.flags |= flags::ACKNOWLEDGE, 4096)),
    Case("R2TSN with a gap", 0x21, |rig| r2t(rig, |r| r.r2t_sn = 1.into())),
    Case("R2T for nothing", 0x22, |rig| r2t(rig, |r| r.desired_length = 0.into())),
    Case("R2T beyond the command", 0x23, |rig| {
        r2t(rig, |r| (r.buffer_offset, r.desired_length) = (u32::MAX.into(), 4096.into()))
    }),
    Case("R2T with the reserved TTT", 0x25, |rig| r2t(rig, |r| r.ttt = RESERVED_TAG.into())),
    Case("R2T beyond MaxBurstLength", 0x26, |rig| r2t(rig, |r| r.desired_length = 4100.into())),
    Case("R2T with data", 0x27, |rig| (r2t(rig, |_| ()).0, vec![1; 4])),
    Case("TMF response with data", 0x27, |rig| other::<pdu::TaskManagementResponse>(rig, TMF, 4, |_| ())),
    Case("logout response with data", 0x27, |rig| other::<pdu::LogoutResponse>(rig, LOGOUT, 4, |_| ())),
    Case("a reject that holds no header", 0x28, |rig| other::<pdu::Reject>(rig, RESERVED_TAG, 44, |_| ())),
    Case("a reject that fits no buffer", 0x28, |rig| other::<pdu::Reject>(rig, RESERVED_TAG, 260, |_| ())),
    Case("an async that fits no buffer", 0x29, |rig| {
        other::<pdu::AsyncMessage>(rig, RESERVED_TAG, 260, |_| ())
    }),
    Case("a ping that fits no buffer", 0x2a, |rig| {
        let mut n = pdu::NopIn::new();
        n.ttt = 1.into();
        n.stat_sn = rig.stat_sn.into();
        (*n, vec![0; 260])
    }),
    Case("ping data that was never sent", 0x2a, |rig| other::<pdu::NopIn>(rig, PING, 4, |_| ())),
    Case("Data-In without data", 0x2c, |rig| {
        data_in(rig, |d| (d.flags, d.residual) = (0x83, 4096.into()), 0)
    }),
    Case("sense that fits no buffer", 0x2d, |rig| (response(rig, READ, |_| ()).0, vec![0; 260])),
];

#[test]
fn as_errors_they_end_reception() {
    for Case(name, status, make) in CASES {
        let mut rig = rig(false);
        let (bhs, data) = make(&mut rig);
        rig.send(&bhs, &data);
        if bhs.total_ahs_length != 0 {
            rig.send_bytes(&[0; 8]);
        }
        assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, *status)], "{name}");
        // Whatever comes now is dropped, and nothing is posted.
        let (bhs, data) = response(&mut rig, READ, |_| ());
        rig.send(&bhs, &data);
        assert!(rig.reap().is_none() && rig.take_events().is_empty(), "{name}");
        assert!(rig.engine.counters().bytes_dropped >= 48, "{name}");
    }
}

#[test]
fn as_warnings_they_are_reported_once_and_reception_goes_on() {
    for Case(name, status, make) in CASES {
        let mut rig = rig(true);
        for round in 0..2 {
            let (bhs, data) = make(&mut rig);
            rig.send(&bhs, &data);
            if bhs.total_ahs_length != 0 {
                rig.send_bytes(&[0; 8]);
            }
            let reports = rig.take_reports();
            let first = EngineEvent::IscsiError(ID, *status);
            assert_eq!(reports.contains(&first), round == 0, "{name}: {reports:?}");
            while rig.reap().is_some() {}
        }
        // Reception goes on: a NOP-In comes through, and StatSN follows the target.
        let mut n = pdu::NopIn::new();
        n.ttt = 1.into();
        n.stat_sn = rig.stat_sn.into();
        rig.send(&n, &[]);
        let opcode = rig.reap().map(|c| c.opcode());
        assert_eq!(opcode, Some(hsi::iscsi::cq::CqOpcode::NOP_IN), "{name}");
    }
}

#[test]
fn violations_that_need_a_history() {
    // 0x10: a response while an R2T is not answered, because the wire stands still.
    let net = MemoryNet::new(512);
    let mut rig = Rig::with(INIT, net).connect();
    rig = rig.update(UpdateParams { immediate_data: false, ..PARAMS });
    let wqe = rig.command(2, true, DATA, &[65535; 4]);
    rig.post(wqe);
    rig.received();
    let r = rig.r2t(WRITE.into(), 0, 0, 200_000);
    rig.send(&r, &[]);
    let r = rig.good(WRITE.into(), 1);
    rig.send(&r, &[]);
    assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, 0x10)]);

    // 0x24: one R2T more than MaxOutstandingR2T.
    let net = MemoryNet::new(512);
    let mut rig = Rig::with(INIT, net).connect();
    rig = rig.update(UpdateParams { immediate_data: false, max_outstanding_r2ts: 2, ..PARAMS });
    let wqe = rig.command(2, true, DATA, &[65535; 7]);
    rig.post(wqe);
    rig.received();
    for sn in 0..3 {
        let r = rig.r2t(WRITE.into(), sn, sn * 150_000, 150_000);
        rig.send(&r, &[]);
        let expected = if sn < 2 { vec![] } else { vec![EngineEvent::IscsiError(ID, 0x24)] };
        assert_eq!(rig.take_reports(), expected);
    }

    // 0x1d: a sequence of Data-Ins that goes on beyond MaxBurstLength.
    let mut rig = Rig::full_feature(UpdateParams { max_burst: 1024, ..PARAMS });
    let wqe = rig.command(1, false, DATA, &[4096]);
    rig.post(wqe);
    for sn in 0..3 {
        let d = rig.data_in(READ.into(), sn, sn * 512);
        rig.send(&d, &[1; 512]);
    }
    assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, 0x1d)]);

    // 0x2d: a text response longer than its buffer; in the login phase, digests and StatSN are not judged.
    let mut rig = Rig::connected();
    let mut wqe = rig.login_request(b"");
    wqe.resp_buffer = hsi::iscsi::sq::RespBuffer { length: 100, num_bds: 1 }.to_word();
    rig.post(wqe);
    rig.received();
    let mut r = pdu::LoginResponse::new();
    r.itt = 0x8009.into();
    rig.send(&r, &[b'x'; 104]);
    assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, 0x2d)]);

    // 0x0a: full feature traffic in the login phase.
    let mut rig = Rig::connected();
    rig.send(&pdu::AsyncMessage::new(), &[]);
    assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, 0x0a)]);
}

#[test]
fn digest_errors_come_before_any_effect() {
    for (at, status) in [(48, 5), (48 + 4 + 4096, 6), (48 + 4 + 100, 6), (9, 5)] {
        let params = UpdateParams { header_digest: true, data_digest: true, ..PARAMS };
        let mut rig = Rig::full_feature(params);
        let wqe = rig.command(1, false, DATA, &[4096]);
        rig.post(wqe);
        rig.received();
        let (bhs, data) = data_in(&mut rig, |_| (), 4096);
        let mut bytes = rig.encode(&bhs, &data);
        bytes[at] ^= 1;
        rig.send_bytes(&bytes);
        assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, status)]);
        assert!(rig.reap().is_none());
    }
}
