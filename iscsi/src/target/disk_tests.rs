//! What a disk answers, without a transport.

#[path = "announced_tests.rs"]
mod announced;
#[path = "command_tests.rs"]
mod commands;

use super::super::job::Finish;
use super::super::ram::RamBackend;
use super::super::reservation::Effects;
use super::super::work::{Allowance, Turn};
use super::*;
use crate::scsi::{Capacity, ModeParameters, Support, designators, page, vpd, vpd_payload};

fn nexus() -> Nexus {
    Nexus { initiator: "iqn.2026-01.example:i".into(), isid: [0; 6] }
}

fn disk(blocks: usize) -> Disk {
    Disk::new(Box::new(RamBackend::new(blocks * 512)), 512, "LUN-0").unwrap()
}

fn start(disk: &mut Disk, cdb: Cdb) -> (Outcome, Vec<u8>) {
    let nexus = nexus();
    let context =
        Context { nexus: &nexus, target: "iqn.2026-01.example:t", portal_group: 1, sense: Sense::NONE };
    let mut reply = Vec::new();
    (disk.start(&context, &cdb, &mut reply), reply)
}

fn check(outcome: Outcome) -> Sense {
    match outcome {
        Outcome::Done(Status::CHECK_CONDITION, Some(sense)) => sense,
        other => panic!("{other:?}"),
    }
}

/// Delivers data-out in pieces of the given sizes and finishes.
fn deliver(disk: &mut Disk, cdb: Cdb, data: &[u8], piece: usize) -> Result<Effects, Refusal> {
    let Outcome::Out(job) = start(disk, cdb).0 else { panic!("no data-out wanted") };
    let (mut rest, mut at) = (Vec::new(), 0);
    for part in data.chunks(piece) {
        disk.absorb(&job, at, part, &mut rest).map_err(Refusal::Check)?;
        at += part.len() as u64;
    }
    match disk.finish(&nexus(), &job, at, &mut rest)? {
        Finish::Done(effects) => Ok(effects),
        Finish::Work(work) => match run(disk, work, &rest) {
            Ok(()) => Ok(Effects::default()),
            Err(sense) => Err(Refusal::Check(sense)),
        },
    }
}

/// Gives turns until the work is over.
fn run(disk: &mut Disk, mut work: Work, buffer: &[u8]) -> Result<(), Sense> {
    loop {
        match disk.turn(&mut work, buffer, &mut Allowance::TURN.clone()) {
            Turn::More => {}
            Turn::Waiting => panic!("memory flushes at once"),
            Turn::Over(result) => return result,
        }
    }
}

/// Runs a command without data-out to its end.
fn run_cdb(disk: &mut Disk, cdb: Cdb) -> Result<(), Sense> {
    let Outcome::Work(work) = start(disk, cdb).0 else { panic!("no work") };
    run(disk, work, &[])
}

fn contents(disk: &mut Disk) -> Vec<u8> {
    let mut all = Vec::new();
    let size = disk.backend().size() as usize;
    disk.read(0, size, &mut all).unwrap();
    all
}

#[test]
fn what_cannot_be_a_disk() {
    let ram = |n| Box::new(RamBackend::new(n));
    assert_eq!(Disk::new(ram(4096), 1024, "s").unwrap_err(), DiskError::BlockSize(1024));
    assert_eq!(Disk::new(ram(511), 512, "s").unwrap_err(), DiskError::Empty);
    assert_eq!(Disk::new(ram(512), 512, "").unwrap_err(), DiskError::Serial);
    assert_eq!(Disk::new(ram(512), 512, "\u{e9}").unwrap_err(), DiskError::Serial);
    assert_eq!(Disk::new(ram(8191), 4096, "s").unwrap().blocks(), 1);
}

#[test]
fn ranges_end_at_the_last_block() {
    let mut d = disk(10);
    let read = |lba, blocks| Cdb::Read(Transfer::new(lba, blocks));
    assert_eq!(start(&mut d, read(8, 2)).0, Outcome::Read { at: 4096, len: 1024 });
    assert_eq!(start(&mut d, read(9, 0)).0, Outcome::Read { at: 4608, len: 0 });
    for (lba, blocks) in [(9, 2), (10, 0), (10, 1), (u64::MAX, 1)] {
        assert_eq!(check(start(&mut d, read(lba, blocks)).0), Sense::LBA_OUT_OF_RANGE, "{lba} + {blocks}");
    }
    let protected = Cdb::Read(Transfer { protect: 1, ..Transfer::new(0, 1) });
    assert_eq!(check(start(&mut d, protected).0), Sense::invalid_cdb_byte(1));
}

#[test]
fn writes_arrive_in_any_pieces() {
    let data: Vec<u8> = (0..2048u32).map(|i| (i / 7) as u8).collect();
    for piece in [1, 7, 511, 512, 513, 1500, 2048] {
        let mut d = disk(10);
        deliver(&mut d, Cdb::Write(Transfer::new(3, 4)), &data, piece).unwrap();
        let all = contents(&mut d);
        assert_eq!(all[3 * 512..7 * 512], data, "pieces of {piece}");
        assert!(all[..3 * 512].iter().chain(&all[7 * 512..]).all(|b| *b == 0));
    }
}

#[test]
fn an_abandoned_write_leaves_whole_blocks_only() {
    let mut d = disk(4);
    let Outcome::Out(job) = start(&mut d, Cdb::Write(Transfer::new(0, 2))).0 else { panic!() };
    d.absorb(&job, 0, &[0xAA; 700], &mut Vec::new()).unwrap();
    let all = contents(&mut d);
    assert!(all[..512].iter().all(|b| *b == 0xAA) && all[512..].iter().all(|b| *b == 0));
}

#[test]
fn a_write_cut_inside_a_block_keeps_the_rest_of_it() {
    let mut d = disk(4);
    d.backend().write_at(0, &[1; 1024]).unwrap();
    deliver(&mut d, Cdb::Write(Transfer::new(0, 2)), &[9; 712], 512).unwrap();
    let all = contents(&mut d);
    assert!(all[..712].iter().all(|b| *b == 9) && all[712..1024].iter().all(|b| *b == 1));
}

#[test]
fn verify_names_the_first_differing_byte() {
    let mut d = disk(4);
    d.backend().write_at(512, &[5; 1024]).unwrap();
    let verify = |bytchk| Cdb::Verify(Transfer::new(1, 2), bytchk);
    assert_eq!(run_cdb(&mut d, verify(Bytchk::Medium)), Ok(()));
    let mut data = vec![5; 1024];
    assert!(deliver(&mut d, verify(Bytchk::Full), &data, 300).is_ok());
    data[700] = 6;
    assert_eq!(
        deliver(&mut d, verify(Bytchk::Full), &data, 300),
        Err(Refusal::Check(Sense::MISCOMPARE.with_information(700)))
    );
    assert!(deliver(&mut d, verify(Bytchk::OneBlock), &[5; 512], 512).is_ok());
    d.backend().write_at(1030, &[7]).unwrap();
    assert_eq!(
        deliver(&mut d, verify(Bytchk::OneBlock), &[5; 512], 512),
        Err(Refusal::Check(Sense::MISCOMPARE.with_information(6)))
    );
}

#[test]
fn write_same_and_unmap() {
    let mut d = disk(8);
    let same = |lba, blocks, no_data_out| Cdb::WriteSame {
        range: Transfer { form: Form::Sixteen, ..Transfer::new(lba, blocks) },
        unmap: false,
        anchor: false,
        no_data_out,
    };
    deliver(&mut d, same(2, 0, false), &[7; 512], 512).unwrap();
    let all = contents(&mut d);
    assert!(all[..1024].iter().all(|b| *b == 0) && all[1024..].iter().all(|b| *b == 7), "0 means to the end");
    assert_eq!(run_cdb(&mut d, same(3, 1, true)), Ok(()));
    let deallocate = |form| Cdb::WriteSame {
        range: Transfer { form, ..Transfer::new(2, 1) },
        unmap: true,
        anchor: false,
        no_data_out: false,
    };
    assert_eq!(check(start(&mut d, deallocate(Form::Ten)).0), Sense::invalid_cdb_byte(1), "LBPWS10 is 0");
    let deallocate = deallocate(Form::Sixteen);
    deliver(&mut d, deallocate, &[9; 512], 512).unwrap();
    assert!(contents(&mut d)[1024..1536].iter().all(|b| *b == 9), "a read returns what was written");
    deliver(&mut d, deallocate, &[0; 512], 512).unwrap();
    let list = |lba: u64, blocks: u32| {
        [&[0, 22, 0, 16, 0, 0, 0, 0][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0; 4]].concat()
    };
    let unmap = Cdb::Unmap { anchor: false, parameter_len: 24 };
    deliver(&mut d, unmap, &list(5, 2), 24).unwrap();
    let zero: Vec<bool> = contents(&mut d).chunks(512).map(|b| b.iter().all(|x| *x == 0)).collect();
    assert_eq!(zero, [true, true, true, true, false, true, true, false]);
    deliver(&mut d, unmap, &list(8, 0), 24).unwrap();
    assert_eq!(deliver(&mut d, unmap, &list(9, 0), 24), Err(Refusal::Check(Sense::LBA_OUT_OF_RANGE)));
    assert_eq!(deliver(&mut d, unmap, &list(7, 2), 24), Err(Refusal::Check(Sense::LBA_OUT_OF_RANGE)));
    let many = [&[0xFF, 0xFF, 0xFF, 0xF0, 0, 0, 0, 0][..], &[0; 16]].concat();
    assert_eq!(deliver(&mut d, unmap, &many, 24), Err(Refusal::Check(Sense::INVALID_PARAMETER)));
}

#[test]
fn a_step_is_bounded() {
    let mut d = disk((MAX_SAME_BYTES / 512 + 1) as usize);
    let same = Cdb::WriteSame { range: Transfer::new(0, 0), unmap: false, anchor: false, no_data_out: false };
    assert!(check(start(&mut d, same).0).same_condition(&Sense::INVALID_FIELD));
}

#[test]
fn a_read_only_disk_says_so() {
    struct Rom(RamBackend);
    impl Backend for Rom {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_only(&self) -> bool {
            true
        }
        fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
            self.0.read_at(at, len, out)
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
            panic!("written")
        }
        fn zero_at(&mut self, _: u64, _: u64) -> std::io::Result<()> {
            panic!("written")
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut d = Disk::new(Box::new(Rom(RamBackend::new(5120))), 512, "ROM").unwrap();
    for cdb in [
        Cdb::Write(Transfer::new(0, 1)),
        Cdb::WriteVerify(Transfer::new(0, 1), Bytchk::Medium),
        Cdb::WriteSame { range: Transfer::new(0, 1), unmap: false, anchor: false, no_data_out: true },
        Cdb::Unmap { anchor: false, parameter_len: 24 },
    ] {
        assert_eq!(check(start(&mut d, cdb).0), Sense::WRITE_PROTECTED);
    }
    let (_, reply) = start(&mut d, mode(Form::Six, page::ALL, 0));
    assert!(ModeParameters::parse(Form::Six, &reply).unwrap().write_protected);
}

fn mode(form: Form, page: u8, control: u8) -> Cdb {
    Cdb::ModeSense { form, dbd: false, long_lba: false, control, page, subpage: 0, allocation: 255 }
}

#[test]
fn mode_pages() {
    let mut d = disk(10);
    for form in [Form::Six, Form::Ten] {
        let (outcome, reply) = start(&mut d, mode(form, page::ALL, 0));
        assert_eq!(outcome, Outcome::Reply);
        let parsed = ModeParameters::parse(form, &reply).unwrap();
        assert!(!parsed.write_protected && parsed.dpo_fua);
        for code in [page::CACHING, page::CONTROL, page::EXCEPTIONS] {
            assert!(parsed.page(code).is_some(), "page {code:#x}");
        }
    }
    assert_eq!(check(start(&mut d, mode(Form::Six, 0x02, 0)).0), Sense::invalid_cdb_byte(2));
    assert_eq!(check(start(&mut d, mode(Form::Six, page::ALL, 3)).0), Sense::SAVING_UNSUPPORTED);
}

#[test]
fn every_listed_page_can_be_read_and_no_other() {
    let mut d = disk(10);
    let inquiry = |evpd, page, allocation| Cdb::Inquiry { evpd, page, allocation };
    let (_, list) = start(&mut d, inquiry(true, 0, 255));
    let pages = vpd_payload(0, &list).unwrap().to_vec();
    assert!(pages.is_sorted());
    for page in 0..=255 {
        let (outcome, reply) = start(&mut d, inquiry(true, page, 512));
        if pages.contains(&page) {
            assert_eq!(outcome, Outcome::Reply);
            assert!(vpd_payload(page, &reply).is_some(), "page {page:#x}");
        } else {
            assert_eq!(check(outcome), Sense::invalid_cdb_byte(2));
        }
    }
    assert_eq!(check(start(&mut d, inquiry(false, 1, 96)).0), Sense::invalid_cdb_byte(2));
    let (_, short) = start(&mut d, inquiry(false, 0, 5));
    assert_eq!((short.len(), short[4]), (5, 91), "truncation leaves the additional length");
    let (_, ids) = start(&mut d, inquiry(true, vpd::DEVICE_IDENTIFICATION, 512));
    let names: Vec<_> =
        designators(vpd_payload(0x83, &ids).unwrap()).map(|d| (d.association, d.kind)).collect();
    assert_eq!(names, [(0, 1), (0, 3), (1, 4), (1, 5), (1, 8), (2, 8)]);
}

#[test]
fn supported_commands() {
    let mut d = disk(10);
    let ask = |opcode, action, options| Cdb::ReportOpcodes {
        timeouts: false,
        options,
        opcode,
        action,
        allocation: 4096,
    };
    let (_, reply) = start(&mut d, ask(0x42, 0, 1));
    assert_eq!(Support::parse(&reply).unwrap().0, Support::Standard);
    let (_, reply) = start(&mut d, ask(0x04, 0, 1));
    assert_eq!(Support::parse(&reply).unwrap().0, Support::No, "FORMAT UNIT");
    let (_, reply) = start(&mut d, ask(0, 0, 0));
    assert_eq!(reply.len(), 4 + 8 * COMMANDS.len());
}

#[test]
fn capacity_and_sense_data() {
    let mut d = disk(10);
    let (_, reply) = start(&mut d, Cdb::ReadCapacity16 { allocation: 32 });
    let capacity = Capacity::parse16(&reply).unwrap();
    assert_eq!((capacity.blocks, capacity.block_size), (10, 512));
    let (_, reply) = start(&mut d, Cdb::ReadCapacity16 { allocation: 12 });
    assert_eq!(reply.len(), 12);
    let (_, reply) = start(&mut d, Cdb::RequestSense { descriptor: true, allocation: 252 });
    assert_eq!(Sense::parse(&reply), Some(Sense::NONE));
}
