//! Reads and writes over all data paths, and what can go wrong on the way.

use hsi::iscsi::bits::{Itt, TaskType};
use hsi::iscsi::cq::{CmdResponse, CqOpcode};
use hsi::iscsi::sq::{CleanupRequest, SqOpcode};
use iscsi::pdu;

use super::super::*;
use super::rig::{DATA, ID, INIT, PARAMS, Rig, pattern};
use crate::fault::{FaultPoint, Trigger};
use crate::tcp::memory::MemoryNet;

/// Splits a length in pieces as odd as they can be.
fn odd_pieces(len: u32) -> Vec<u16> {
    let (mut out, mut left, mut step) = (Vec::new(), len, 1);
    while left > 0 && out.len() < 31 {
        let n = left.min(step).min(65535);
        out.push(n as u16);
        left -= n;
        step = (step * 3 + 1).min(65535);
    }
    if left > 0 {
        out.push(left as u16);
    }
    out
}

fn variants() -> Vec<UpdateParams> {
    let mut out = Vec::new();
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)] {
        for (initial_r2t, immediate_data) in [(true, true), (true, false), (false, true), (false, false)] {
            for (max_send_pdu, first_burst, max_burst) in
                [(8192, 65536, 262_144), (512, 1024, 1536), (262_144, 16384, 16384), (1000, 999, 3001)]
            {
                out.push(UpdateParams {
                    header_digest,
                    data_digest,
                    initial_r2t,
                    immediate_data,
                    max_send_pdu,
                    max_recv_pdu: max_send_pdu,
                    first_burst,
                    max_burst,
                    ..PARAMS
                });
            }
        }
    }
    out
}

fn check_write(rig: &mut Rig, index: u16, len: u32) {
    let pieces = odd_pieces(len);
    let data = pattern(len as usize, len);
    rig.scatter(DATA, &pieces, &data);
    let wqe = rig.command(index, true, DATA, &pieces);
    rig.post(wqe);
    let pdus = rig.received();
    let (got, outs, r2ts) = rig.serve_write(pdus);
    assert!(got == data, "{len} bytes, {:?}", rig.params);
    let cqe = rig.reap_opcode(CqOpcode::SCSI_RSP);
    let r = *cqe.view::<CmdResponse>();
    let stat = *r.task_stat.write_stat();
    assert_eq!((stat.num_data_outs.get(), stat.num_r2ts.get()), (outs, r2ts));
    assert_eq!((r.itt, r.status, r.exp_cmd_sn.get(), r.max_cmd_sn.get()), (wqe.itt, 0, 0x1001, 0x1041));
}

fn check_read(rig: &mut Rig, index: u16, len: u32, status_in_data: bool) {
    let pieces = odd_pieces(len);
    let data = pattern(len as usize, len + 1);
    let span = len as usize + 3 * pieces.len() + 64;
    rig.write(DATA, &vec![0xee; span]);
    let wqe = rig.command(index, false, DATA, &pieces);
    rig.post(wqe);
    let command = rig.received_one();
    let c = command.as_::<pdu::ScsiCommand>();
    assert_eq!((c.expected_data_transfer_length.get(), c.cmd_sn), (len, wqe.cmd_sn.get().into()));
    let ins = rig.serve_read(&command, &data, status_in_data);
    let in_data = status_in_data && len != 0;
    let cqe = rig.reap_opcode(if in_data { CqOpcode::DATA_IN } else { CqOpcode::SCSI_RSP });
    let r = cqe.view::<CmdResponse>();
    assert_eq!(r.task_stat.read_stat().num_data_ins.get(), ins as u16);
    assert_eq!(r.response_flags & 1, u8::from(in_data));
    assert!(rig.gather(DATA, &pieces) == data, "{len} bytes, {:?}", rig.params);
    // Nothing between the pieces or behind them was touched.
    let touched = rig.read(DATA, span).iter().filter(|&&b| b != 0xee).count();
    assert!(touched <= len as usize);
    let mut at = DATA;
    for &n in &pieces {
        at += u64::from(n);
        assert_eq!(rig.read(at, 3), [0xee; 3]);
        at += 3;
    }
}

#[test]
fn all_data_paths_with_odd_pieces_and_digests() {
    for params in variants() {
        let mut rig = Rig::full_feature(params);
        for (i, len) in [0, 1, 3, 511, 512, 999, 1000, 1024, 4096, 10_001, 65024].into_iter().enumerate() {
            check_write(&mut rig, i as u16, len);
            check_read(&mut rig, 20 + i as u16, len, i % 2 == 0);
        }
        assert_eq!(rig.take_reports(), []);
        assert_eq!(rig.engine.counters().suspected_overruns, 0);
    }
}

#[test]
fn a_megabyte_in_one_command() {
    let params = UpdateParams { data_digest: true, initial_r2t: false, max_send_pdu: 262_144, ..PARAMS };
    let mut rig = Rig::full_feature(params);
    check_write(&mut rig, 1, 1 << 20);
    check_read(&mut rig, 2, 1 << 20, true);
}

#[test]
fn a_transport_that_takes_a_byte_at_a_time() {
    for budget in [1, 3, 1 << 20] {
        let params = UpdateParams {
            header_digest: true,
            data_digest: true,
            initial_r2t: false,
            max_send_pdu: 512,
            ..PARAMS
        };
        let mut rig = Rig::with(INIT, MemoryNet::new(1)).connect().update(params);
        rig.budget = budget;
        check_write(&mut rig, 1, 2000);
        check_read(&mut rig, 2, 2000, false);
        assert!(rig.engine.counters().tx_stalls > 1000);
    }
}

#[test]
fn rings_wrap_and_sequence_numbers_with_them() {
    // A ring whose size does not divide 65536, so that slot and free-running index part ways.
    let init = InitParams { sq_wqes: 48, tasks: 48, cq_cqes: 100, max_cq_sqn: 201, ..INIT };
    let mut rig = Rig::with(init, MemoryNet::default()).connect().update(PARAMS);
    for round in 0..1500u32 {
        // Past 65536 entries, 47 at a time.
        let mut commands = Vec::new();
        for index in 0..47 {
            let wqe = rig.command(index, false, DATA, &[]);
            rig.place(wqe);
            commands.push(wqe.itt);
        }
        rig.ring();
        let pdus = rig.received();
        assert_eq!(pdus.len(), 47, "round {round}");
        let mut bytes = Vec::new();
        for p in &pdus {
            let r = rig.good(p.bhs.itt, 0);
            bytes.extend(rig.encode(&r, &[]));
        }
        rig.take_events();
        rig.send_bytes(&bytes);
        assert_eq!(rig.take_events(), [EngineEvent::CqEvent(ID)], "one event for the batch");
        for itt in commands {
            assert_eq!(rig.reap_opcode(CqOpcode::SCSI_RSP).itt(), itt);
        }
        assert!(rig.reap().is_none());
    }
    assert_eq!(rig.engine.counters().suspected_overruns, 0);
}

#[test]
fn many_writes_at_once_share_the_wire_and_keep_the_order_of_unsolicited_data() {
    let params =
        UpdateParams { initial_r2t: false, immediate_data: false, max_outstanding_r2ts: 3, ..PARAMS };
    let mut rig = Rig::full_feature(UpdateParams { first_burst: 20_000, max_burst: 16384, ..params });
    let pieces = [60_000];
    for index in 0..8 {
        rig.scatter(DATA + u64::from(index) * 65536, &pieces, &pattern(60_000, u32::from(index)));
        let wqe = rig.command(index, true, DATA + u64::from(index) * 65536, &pieces);
        rig.place(wqe);
    }
    rig.ring();
    let mut got = vec![Vec::new(); 8];
    let (mut commands, mut unsolicited) = (Vec::new(), Vec::new());
    for p in rig.received() {
        let index = (p.bhs.itt.get() & 0x3fff) as usize;
        if p.bhs.opcode() == Ok(pdu::Opcode::ScsiCommand) {
            commands.push(index);
        } else {
            unsolicited.push(index);
            got[index].extend(p.data);
        }
    }
    assert_eq!(commands, (0..8).collect::<Vec<_>>());
    assert!(unsolicited.is_sorted() && got.iter().all(|d| d.len() == 20_000));
    // Three R2Ts each, all at once: the answers of a task are in order, the tasks take turns.
    let mut bytes = Vec::new();
    for sn in 0..3 {
        for index in 0..8u32 {
            let r = rig.r2t((0x4000 | index).into(), sn, 20_000 + sn * 13_000, 13_000);
            bytes.extend(rig.encode(&r, &[]));
        }
    }
    rig.send_bytes(&bytes);
    let mut turns = Vec::new();
    for p in rig.received() {
        let index = (p.bhs.itt.get() & 0x3fff) as usize;
        turns.push(index);
        got[index].extend(p.data);
    }
    assert_eq!(turns[..16], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]);
    for (i, data) in got.iter().enumerate() {
        assert!(*data == pattern(60_000, i as u32)[..20_000 + 39_000]);
    }
    assert_eq!(rig.take_reports(), []);
}

/// A connection with two writes whose unsolicited data waits for the wire.
fn two_writes_under_way() -> Rig {
    let params = UpdateParams { initial_r2t: false, immediate_data: false, ..PARAMS };
    let mut rig = Rig::with(INIT, MemoryNet::new(1000)).connect();
    rig = rig.update(UpdateParams { first_burst: 200_000, ..params });
    for index in [1, 2] {
        let at = DATA + u64::from(index) * 0x40000;
        rig.scatter(at, &[65535; 4], &pattern(262_140, u32::from(index)));
        let wqe = rig.command(index, true, at, &[65535; 4]);
        rig.place(wqe);
    }
    rig.ring();
    rig
}

#[test]
fn an_r2t_that_comes_early_is_answered_after_the_unsolicited_data() {
    let mut rig = two_writes_under_way();
    let r = rig.r2t(0x4002.into(), 0, 200_000, 62_140);
    rig.send(&r, &[]);
    let pdus = rig.received();
    let (mut data, mut finals) = (Vec::new(), Vec::new());
    for p in pdus.iter().filter(|p| p.bhs.itt.get() == 0x4002).skip(1) {
        data.extend_from_slice(&p.data);
        if p.bhs.is_final() {
            finals.push((data.len(), p.as_::<pdu::DataOut>().ttt.get()));
        }
    }
    assert!(data == pattern(262_140, 2));
    assert_eq!(finals, [(200_000, pdu::RESERVED_TAG), (262_140, 0xabc0_0000)]);
}

#[test]
fn a_tag_that_is_used_again_waits_behind_the_commands_before_it() {
    let mut rig = two_writes_under_way();
    rig.post(cleanup(1, TaskType::WRITE));
    let wqe = rig.command(1, true, DATA, &[5000]);
    rig.post(wqe);
    let tags: Vec<u32> = rig
        .received()
        .iter()
        .filter(|p| p.bhs.opcode() == Ok(pdu::Opcode::DataOut))
        .map(|p| p.bhs.itt.get())
        .collect();
    let second = tags.iter().position(|&t| t == 0x4002).unwrap();
    // What was on the card of the first, all of the second, then the new one.
    assert!(tags[..second].iter().all(|&t| t == 0x4001));
    assert!(tags[second..].is_sorted_by(|a, b| a >= b) && tags.last() == Some(&0x4001));
}

#[test]
fn an_error_is_reported_after_the_completions_before_it() {
    let mut rig = Rig::full_feature(PARAMS);
    let wqe = rig.command(1, false, DATA, &[]);
    rig.post(wqe);
    let itt = rig.received_one().bhs.itt;
    let r = rig.good(itt, 0);
    let mut bytes = rig.encode(&r, &[]);
    bytes.extend(rig.encode(&r, &[]));
    rig.send_bytes(&bytes);
    assert_eq!(rig.take_events(), [EngineEvent::CqEvent(ID), EngineEvent::IscsiError(ID, 0x0e)]);
    rig.reap_opcode(CqOpcode::SCSI_RSP);
}

fn cleanup(index: u16, kind: TaskType) -> CleanupRequest {
    let mut w = CleanupRequest::default();
    w.op_code = SqOpcode::CLEANUP_REQUEST;
    w.itt = Itt::new(index, kind);
    w
}

#[test]
fn cleanup_in_the_middle_of_a_data_in_stops_placement_and_drops_what_is_late() {
    let mut rig = Rig::full_feature(PARAMS);
    rig.write(DATA, &[0xee; 8192]);
    let wqe = rig.command(4, false, DATA, &[8192]);
    rig.post(wqe);
    let itt = rig.received_one().bhs.itt;
    let data = pattern(4096, 1);
    let d = rig.data_in(itt, 0, 0);
    let bytes = rig.encode(&d, &data);
    rig.send_bytes(&bytes[..48 + 1000]);
    assert_eq!(rig.read(DATA, 1000), data[..1000]);
    rig.post(cleanup(4, TaskType::READ));
    assert_eq!(rig.reap_opcode(CqOpcode::CLEANUP_RESPONSE).itt(), wqe.itt);
    rig.send_bytes(&bytes[48 + 1000..]);
    let d = rig.data_in(itt, 1, 4096);
    rig.send(&d, &data);
    let r = rig.good(itt, 2);
    rig.send(&r, &[]);
    assert_eq!(rig.read(DATA + 1000, 7192), [0xee; 7192]);
    assert!(rig.reap().is_none());
    assert_eq!((rig.take_reports(), rig.engine.counters().pdus_dropped), (vec![], 2));
    // The index can be used again, and StatSN went on.
    check_read(&mut rig, 4, 512, false);
    // A task that is not there is cleaned up too.
    rig.post(cleanup(33, TaskType::WRITE));
    rig.reap_opcode(CqOpcode::CLEANUP_RESPONSE);
}

#[test]
fn cleanup_in_the_middle_of_a_data_out_sends_the_rest_from_the_card() {
    let params = UpdateParams { initial_r2t: false, immediate_data: false, data_digest: true, ..PARAMS };
    let mut rig = Rig::with(INIT, MemoryNet::new(2000)).connect().update(params);
    let data = pattern(8192, 5);
    rig.scatter(DATA, &[8192], &data);
    let wqe = rig.command(4, true, DATA, &[8192]);
    rig.post(wqe);
    // 2000 bytes are on the wire; the host takes its memory back.
    rig.post(cleanup(4, TaskType::WRITE));
    rig.reap_opcode(CqOpcode::CLEANUP_RESPONSE);
    rig.write(DATA, &[0; 8192]);
    let pdus = rig.received();
    assert_eq!(pdus.len(), 2);
    assert!(pdus[1].data == data, "and its digest is right");
    assert_eq!(rig.take_reports(), []);
}

#[test]
fn cleanup_with_an_open_r2t_is_reported_and_answered() {
    let mut rig = Rig::with(INIT, MemoryNet::new(64)).connect();
    rig = rig.update(UpdateParams { immediate_data: false, ..PARAMS });
    let pieces = [65535; 16];
    let wqe = rig.command(4, true, DATA, &pieces);
    rig.post(wqe);
    let itt = rig.received_one().bhs.itt;
    let r = rig.r2t(itt, 0, 0, 262_144);
    rig.send(&r, &[]);
    rig.post(cleanup(4, TaskType::WRITE));
    assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, 0x2b)]);
    rig.reap_opcode(CqOpcode::CLEANUP_RESPONSE);
}

#[test]
fn a_grant_revoked_in_the_middle_of_a_transfer_stops_everything() {
    let mut rig = Rig::full_feature(PARAMS);
    rig.write(DATA, &[0xee; 8192]);
    let wqe = rig.command(4, false, DATA, &[8192]);
    rig.post(wqe);
    let itt = rig.received_one().bhs.itt;
    let d = rig.data_in(itt, 0, 0);
    rig.send(&d, &[1; 4096]);
    rig.bench.host.epoch.0 += 1;
    let writes = rig.bench.host.writes.len();
    let d = rig.data_in(itt, 1, 4096);
    rig.send(&d, &[2; 4096]);
    let r = rig.good(itt, 2);
    rig.send(&r, &[]);
    assert_eq!(rig.bench.host.writes.len(), writes);
    assert_eq!(rig.read(DATA + 4096, 4096), [0xee; 4096]);
    assert_eq!(rig.engine.counters().dma_faults, 1);
    assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, 4)]);
    // Reset: nothing is left, and the peer sees it.
    let engine = &mut rig.engine;
    let report = rig.bench.with(|cx| engine.reset(cx));
    assert_eq!((report.connections, report.tasks, rig.engine.connections()), (1, 1, 0));
    assert_eq!(rig.offload(), Err(4), "INIT comes first");
}

#[test]
fn payload_then_entry_then_sequence_number() {
    let mut rig = Rig::full_feature(PARAMS);
    let wqe = rig.command(1, false, DATA, &[4096]);
    rig.post(wqe);
    let command = rig.received_one();
    rig.bench.host.writes.clear();
    rig.serve_read(&command, &pattern(4096, 1), true);
    let writes = &rig.bench.host.writes;
    let [payload @ .., entry, last] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!(payload.iter().map(|&(_, len)| len).sum::<usize>(), 4096);
    assert_eq!((entry.1, *last), (60, (entry.0 + 60, 4)));
}

#[test]
fn defects_on_request() {
    let mut rig = Rig::full_feature(PARAMS);
    let data = pattern(4096, 9);
    let read = |rig: &mut Rig, point| {
        rig.faults.arm(point, Trigger::ONCE);
        let wqe = rig.command(1, false, DATA, &[4096]);
        rig.post(wqe);
        let command = rig.received_one();
        rig.serve_read(&command, &data, true);
        assert_eq!(rig.faults.fired(point), 1, "{point}");
        rig.read(DATA, 4096)
    };
    let misplaced = read(&mut rig, FaultPoint::MisplacedData);
    assert!(misplaced[512..] == data[..3584] && misplaced[..512] == data[3584..]);
    rig.reap_opcode(CqOpcode::DATA_IN);
    let corrupt = read(&mut rig, FaultPoint::CorruptData);
    assert!(corrupt[0] == !data[0] && corrupt[1..] == data[1..]);
    rig.reap_opcode(CqOpcode::DATA_IN);
    assert!(read(&mut rig, FaultPoint::DuplicateCqe) == data);
    assert_eq!(rig.reap_opcode(CqOpcode::DATA_IN).itt(), rig.reap_opcode(CqOpcode::DATA_IN).itt());
    assert!(read(&mut rig, FaultPoint::DropCqe) == data);
    assert!(rig.reap().is_none());
    check_read(&mut rig, 2, 100, true);
}
