//! Commands and data: every way in which data travels, residuals, absent units.

use super::*;
use crate::negotiate::DigestOffer;
use crate::scsi::{Bytchk, Capacity, Form, Inquiry, ReportLuns};

/// A login with these parameters.
fn tuned(change: impl FnOnce(&mut LoginParams)) -> InitiatorConfig {
    let mut config = initiator(1);
    change(&mut config.params);
    config
}

#[test]
fn bring_up_of_a_lun() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    let luns = host.run(&mut lab, 0, &Cdb::ReportLuns { select: 0, allocation: 256 }, 256, &[]);
    let list: Vec<_> = ReportLuns::parse(&luns.data).unwrap().iter().filter_map(Lun::number).collect();
    assert_eq!((list, luns.residual), (vec![0, 3], -232));
    let inquiry = host.run(&mut lab, 3, &Cdb::Inquiry { evpd: false, page: 0, allocation: 36 }, 36, &[]);
    assert!(Inquiry::parse(&inquiry.data).unwrap().is_present());
    assert_eq!(host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status, Status::GOOD);
    let capacity = host.run(&mut lab, 3, &Cdb::ReadCapacity16 { allocation: 32 }, 32, &[]);
    assert_eq!(Capacity::parse16(&capacity.data).unwrap().blocks, 16);
    let mut odd = host.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
    odd.cdb[0] = 0xEE;
    host.send(&mut lab, *odd, &[]);
    let itt = host.itt;
    assert!(host.finish(&mut lab, itt, 0, &[]).check().same_condition(&Sense::INVALID_OPCODE));
}

#[test]
fn an_absent_lun_says_so() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    let inquiry = host.run(&mut lab, 7, &Cdb::Inquiry { evpd: false, page: 0, allocation: 36 }, 36, &[]);
    assert_eq!(inquiry.data[0], 0x7F);
    let sense = host.run(&mut lab, 7, &Cdb::RequestSense { descriptor: false, allocation: 18 }, 18, &[]);
    assert_eq!(Sense::parse(&sense.data), Some(Sense::LU_NOT_SUPPORTED));
    assert!(host.run(&mut lab, 7, &Cdb::ReportLuns { select: 0, allocation: 64 }, 64, &[]).status.is_good());
    assert_eq!(host.run(&mut lab, 7, &read(0, 1), 512, &[]).check(), Sense::LU_NOT_SUPPORTED);
    let data = pattern(200_000, 1);
    assert_eq!(host.run(&mut lab, 7, &write(0, 1), 0, &data).check(), Sense::LU_NOT_SUPPORTED);
}

/// Writes and reads back with every combination of the transfer keys, in whole pieces and in splinters.
#[test]
fn data_travels_by_every_way() {
    let sizes = [1usize, 16, 17, 128, 300, 1100];
    for (case, (immediate_data, initial_r2t)) in
        [(true, true), (true, false), (false, true), (false, false)].into_iter().enumerate()
    {
        for (digests, piece) in [(DigestOffer::None, usize::MAX), (DigestOffer::Crc32c, 1000)] {
            let mut config = ServerConfig::default();
            config.login.header_digest = DigestOffer::Crc32cOrNone;
            config.login.data_digest = DigestOffer::Crc32cOrNone;
            config.login.max_recv_data_segment_length = 9000;
            config.login.max_outstanding_r2t = 4;
            let mut lab = Lab::with(config);
            let mut host = Host::login(
                &mut lab,
                tuned(|p| {
                    p.immediate_data = immediate_data;
                    p.initial_r2t = initial_r2t;
                    p.header_digest = digests;
                    p.data_digest = digests;
                    p.max_recv_data_segment_length = 5000;
                    p.first_burst_length = 20_000;
                    p.max_burst_length = 70_000;
                    p.max_outstanding_r2t = 3;
                }),
            );
            assert_eq!(host.params.data_digest, digests == DigestOffer::Crc32c);
            assert_eq!(host.params.max_outstanding_r2t, 3);
            lab.piece = piece;
            let mut lba = 5;
            for blocks in sizes {
                let data = pattern(blocks * 512, case as u32 + blocks as u32);
                let done = host.run(&mut lab, 0, &write(lba, blocks as u32), 0, &data);
                assert_eq!((done.status, done.residual), (Status::GOOD, 0), "{blocks} blocks");
                let back = host.run(&mut lab, 0, &read(lba, blocks as u32), data.len() as u32, &[]);
                assert!(back.status.is_good() && back.data == data, "{blocks} blocks");
                lba += blocks as u64 + 1;
            }
            let counters = lab.server.counters();
            assert_eq!(
                (counters.transfer_violations, counters.rejects, counters.data_digest_errors),
                (0, 0, 0)
            );
            assert!(counters.r2ts > 0);
        }
    }
}

#[test]
fn the_other_write_and_read_commands() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    for form in [Form::Six, Form::Ten, Form::Twelve, Form::Sixteen] {
        let data = pattern(512 * 3, form as u32);
        let t = Transfer { form, ..Transfer::new(20, 3) };
        assert!(host.run(&mut lab, 0, &Cdb::Write(t), 0, &data).status.is_good());
        assert_eq!(host.run(&mut lab, 0, &Cdb::Read(t), 1536, &[]).data, data);
    }
    let data = pattern(1024, 9);
    let t = Transfer::new(40, 2);
    assert!(host.run(&mut lab, 0, &Cdb::WriteVerify(t, Bytchk::Full), 0, &data).status.is_good());
    assert!(host.run(&mut lab, 0, &Cdb::Verify(t, Bytchk::Full), 0, &data).status.is_good());
    let other = pattern(1024, 10);
    let found = host.run(&mut lab, 0, &Cdb::Verify(t, Bytchk::Full), 0, &other).check();
    let first = data.iter().zip(&other).position(|(a, b)| a != b).unwrap() as u64;
    assert_eq!(found, Sense::MISCOMPARE.with_information(first));
    assert_eq!(lab.contents()[40 * 512..42 * 512], data);
    let sync = Cdb::SynchronizeCache { form: Form::Ten, immed: false, lba: 0, blocks: 0 };
    assert!(host.run(&mut lab, 0, &sync, 0, &[]).status.is_good());
}

/// The table of SCSI.md 4: expected length against CDB length, for reads and for each kind of write.
#[test]
fn residual_table() {
    let rows = [(1u32, 0u32, 512i64), (1, 1024, -512), (1, 10_000, -9488), (1, 200, 312), (2, 512, 512)];
    for (blocks, edtl, residual) in rows {
        let mut lab = Lab::new();
        let old = pattern(4096, 1);
        lab.prefill(&old);
        let mut host = Host::login(&mut lab, initiator(1));
        let moved = edtl.min(blocks * 512) as usize;
        let done = host.run(&mut lab, 0, &read(0, blocks), edtl, &[]);
        assert_eq!((done.status, done.residual), (Status::GOOD, residual), "read {blocks} / {edtl}");
        assert_eq!(done.data, old[..moved]);
        for kind in 0..2 {
            let t = Transfer::new(0, blocks);
            let cdb = if kind == 0 { Cdb::Write(t) } else { Cdb::WriteVerify(t, Bytchk::Medium) };
            let new = pattern(edtl as usize, 2 + kind);
            let done = host.run_with(&mut lab, 0, &cdb, flags::FINAL | flags::WRITE, edtl, &new);
            assert_eq!((done.status, done.residual), (Status::GOOD, residual), "write {blocks} / {edtl}");
            let all = lab.contents();
            assert_eq!(all[..moved], new[..moved]);
            assert_eq!(all[moved..4096], old[moved..], "bytes past the truncation point change");
        }
        host.nothing_more(&mut lab);
    }
}

/// iscsi-test-cu's Read10Invalid: READ(10) that claims to write.
#[test]
fn a_read_sent_as_a_write_is_good_and_moves_nothing() {
    let mut lab = Lab::new();
    let old = pattern(512, 1);
    lab.prefill(&old);
    let mut host = Host::login(&mut lab, initiator(1));
    let done = host.run_with(&mut lab, 0, &read(0, 1), flags::FINAL | flags::WRITE, 512, &pattern(512, 2));
    assert_eq!((done.status, done.data.len()), (Status::GOOD, 0));
    assert_eq!(lab.contents()[..512], old);
}

#[test]
fn a_command_that_needs_all_its_data_gets_none_of_it() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    let same = Cdb::WriteSame { range: Transfer::new(0, 4), unmap: false, anchor: false, no_data_out: false };
    assert!(host.run(&mut lab, 0, &same, 0, &[7; 512]).status.is_good());
    for len in [200, 1024] {
        let done = host.run(&mut lab, 0, &same, 0, &vec![9; len]);
        assert_eq!(done.check(), Sense::INFORMATION_UNIT);
        assert_eq!(done.residual, 512 - len as i64);
    }
    assert!(lab.contents()[..2048].iter().all(|b| *b == 7));
    let both =
        host.run_with(&mut lab, 0, &write(0, 1), flags::FINAL | flags::WRITE | flags::READ, 512, &[1; 512]);
    assert_eq!(both.check(), Sense::INFORMATION_UNIT);
}

#[test]
fn a_failing_write_is_answered_after_its_unsolicited_data() {
    let mut lab = Lab::new();
    let mut host = Host::login(
        &mut lab,
        tuned(|p| {
            p.initial_r2t = false;
            p.immediate_data = false;
        }),
    );
    let data = pattern(4096, 1);
    let pdu = host.command(0, &write(u64::from(u32::MAX), 8), flags::WRITE, 4096);
    host.send(&mut lab, *pdu, &[]);
    host.nothing_more(&mut lab);
    host.data_out(&mut lab, 0, RESERVED_TAG, 0, &data);
    let itt = host.itt;
    assert_eq!(host.finish(&mut lab, itt, 0, &data).check(), Sense::LBA_OUT_OF_RANGE);
}

#[test]
fn reads_wait_for_room_in_the_output() {
    let config = ServerConfig { output_limit: 64 << 10, ..ServerConfig::default() };
    let mut lab = Lab::with(config);
    let data = pattern(BLOCKS * 512, 3);
    lab.prefill(&data);
    let mut host = Host::login(&mut lab, tuned(|p| p.max_recv_data_segment_length = 8192));
    let tags: Vec<u32> = (0..4u64)
        .map(|at| {
            let pdu = host.command(0, &read(at * 2048, 2048), flags::FINAL | flags::READ, 1 << 20);
            host.send(&mut lab, *pdu, &[]);
            assert!(lab.server.output(host.id).len() <= (32 << 10) + 8192 + 48);
            pdu.itt.get()
        })
        .collect();
    lab.piece = 10_000;
    for (at, itt) in tags.into_iter().enumerate() {
        let done = host.finish(&mut lab, itt, 0, &[]);
        assert_eq!(done.data, data[at << 20..(at + 1) << 20]);
    }
    host.nothing_more(&mut lab);
}

#[test]
fn input_waits_for_room_in_the_output() {
    let limit = 64 << 10;
    let mut lab = Lab::with(ServerConfig { output_limit: limit, ..ServerConfig::default() });
    let mut host = Host::login(&mut lab, initiator(1));
    let mut ping = NopOut::new();
    ping.set_immediate(true);
    ping.itt.set(7);
    let one = host.bytes(*ping, &[7; 8192]);
    let flood = one.repeat(20);
    let mut offered = &flood[..];
    let mut answers = 0;
    while !offered.is_empty() {
        let taken = lab.server.input(host.id, 0, offered, &mut |_| {});
        offered = &offered[taken..];
        assert_eq!(taken % one.len(), 0, "it stops between PDUs");
        assert_eq!(lab.server.wants_input(host.id), offered.is_empty());
        assert!(lab.server.output(host.id).len() <= limit + one.len());
        host.poll(&mut lab);
        answers += host.seen.drain(..).filter(|seen| seen.is(Opcode::NopIn)).count();
    }
    assert_eq!(answers, 20);
}

#[test]
fn a_medium_error_in_the_middle_of_a_read() {
    struct Bad(RamBackend);
    impl Backend for Bad {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
            if at + len as u64 > 24_576 {
                Err(std::io::ErrorKind::Other.into())
            } else {
                self.0.read_at(at, len, out)
            }
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Other.into())
        }
        fn zero_at(&mut self, _: u64, _: u64) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Other.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut lab = Lab::new();
    let disk = Disk::new(Box::new(Bad(RamBackend::new(65536))), 512, "bad").unwrap();
    lab.server.add_target("iqn.2026-01.example:bad", vec![(0, disk)], Auth::default()).unwrap();
    let mut config = tuned(|p| p.max_recv_data_segment_length = 8192);
    config.target_name = Some("iqn.2026-01.example:bad".into());
    let mut host = Host::login(&mut lab, config);
    for (blocks, good) in [(64, 24_576), (50, 24_576), (17, 8704)] {
        let done = host.run(&mut lab, 0, &read(0, blocks), blocks * 512, &[]);
        assert_eq!(done.data.len(), good);
        if good == 24_576 {
            assert_eq!(done.check(), Sense::UNRECOVERED_READ);
            assert_eq!(done.residual, good as i64 - i64::from(blocks) * 512);
        }
    }
    assert_eq!(host.run(&mut lab, 0, &write(0, 1), 0, &[0; 512]).check(), Sense::WRITE_ERROR);
}

/// Every way in which a command can end opens the window again: with data, with a response, with sense, by an
/// abort.
#[test]
fn the_window_moves_with_every_kind_of_end() {
    let mut lab = Lab::with(ServerConfig { window: 2, ..ServerConfig::default() });
    let mut host = Host::login(&mut lab, initiator(1));
    for at in 0..10u8 {
        assert_eq!(host.max_cmd_sn.since(host.cmd_sn) + 1, 2, "round {at}");
        assert!(host.run(&mut lab, 0, &read(0, 1), 512, &[]).status.is_good());
        assert!(host.run(&mut lab, 0, &write(0, 1), 0, &[at; 512]).status.is_good());
        host.run(&mut lab, 0, &read(1 << 40, 1), 512, &[]).check();
        let large = pattern(300_000, 1);
        let cmd_sn = host.cmd_sn;
        let pdu = host.command(0, &write(0, 1000), flags::WRITE | flags::FINAL, large.len() as u32);
        host.send(&mut lab, *pdu, &[]);
        assert!(host.next(&mut lab).is(Opcode::R2t));
        let itt = host.itt;
        assert_eq!(host.manage(&mut lab, TmfFunction::AbortTask, 0, itt, cmd_sn), TmfResponse::Complete);
    }
}
