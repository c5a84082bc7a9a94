//! What single commands do: atomic writes, PRE-FETCH, MODE SELECT, a medium that comes out, SANITIZE.

use super::*;
use std::io;
use std::sync::{Arc, Mutex};

/// Memory behind a cache that is volatile, with flushes counted and failures on demand.
struct Cached {
    ram: RamBackend,
    flushes: Arc<Mutex<u32>>,
    /// Bytes that can still be written before the storage is full.
    room: Option<usize>,
}

impl Backend for Cached {
    fn size(&self) -> u64 {
        self.ram.size()
    }
    fn volatile_cache(&self) -> bool {
        true
    }
    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.ram.read_at(at, len, out)
    }
    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        let whole = data.len();
        let part = self.room.map_or(whole, |room| room.min(whole));
        self.ram.write_at(at, &data[..part])?;
        // What is put back has its room.
        self.room = None;
        if part < whole { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()> {
        match self.room {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => self.ram.zero_at(at, len),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        *self.flushes.lock().unwrap() += 1;
        Ok(())
    }
}

fn cached(room: Option<usize>) -> (Disk, Arc<Mutex<u32>>) {
    let flushes = Arc::new(Mutex::new(0));
    let backend = Cached { ram: RamBackend::new(64 << 10), flushes: flushes.clone(), room };
    (Disk::new(Box::new(backend), 512, "CACHED").unwrap(), flushes)
}

fn sixteen(lba: u64, blocks: u32) -> Transfer {
    Transfer { form: Form::Sixteen, ..Transfer::new(lba, blocks) }
}

/// SBC-3 5.2: the write happens when every byte compares, and not at all otherwise; INFORMATION is the offset
/// of the difference.
#[test]
fn compare_and_write_writes_all_or_nothing() {
    for piece in [1, 500, 512, 2048] {
        let mut d = disk(8);
        let caw = Cdb::CompareAndWrite(sixteen(2, 2));
        let data = [vec![0; 1024], vec![5; 1024]].concat();
        deliver(&mut d, caw, &data, piece).unwrap();
        let all = contents(&mut d);
        assert!(all[1024..2048].iter().all(|b| *b == 5), "pieces of {piece}");
        assert!(all[..1024].iter().chain(&all[2048..]).all(|b| *b == 0));
        let mut data = [vec![5; 1024], vec![9; 1024]].concat();
        data[1023] = 6;
        let miscompare = Sense::MISCOMPARE.with_information(1023);
        assert_eq!(deliver(&mut d, caw, &data, piece), Err(Refusal::Check(miscompare)));
        assert_eq!(contents(&mut d), all);
    }
    let mut d = disk(8);
    let Outcome::Out(job) = start(&mut d, Cdb::CompareAndWrite(sixteen(7, 1))).0 else { panic!() };
    assert_eq!((job.len, job.needs_all()), (1024, true));
    assert_eq!(check(start(&mut d, Cdb::CompareAndWrite(sixteen(7, 2))).0), Sense::LBA_OUT_OF_RANGE);
}

/// SBC-3 5.7: the medium ORed with the data.
#[test]
fn orwrite_sets_bits_and_clears_none() {
    for piece in [1, 511, 513, 1024] {
        let mut d = disk(4);
        d.backend().write_at(0, &[0b0101; 2048]).unwrap();
        deliver(&mut d, Cdb::OrWrite(sixteen(1, 2)), &[0b0011; 1024], piece).unwrap();
        let all = contents(&mut d);
        assert!(all[512..1536].iter().all(|b| *b == 0b0111), "pieces of {piece}");
        assert!(all[..512].iter().chain(&all[1536..]).all(|b| *b == 0b0101));
    }
}

/// SBC-4 4.29: after an error the blocks are as they were, whichever of them had been written.
#[test]
fn an_atomic_write_that_fails_halfway_leaves_nothing() {
    for (cdb, data) in [
        (Cdb::WriteAtomic { range: sixteen(1, 4), boundary: 0 }, vec![9; 2048]),
        (Cdb::CompareAndWrite(sixteen(1, 4)), [vec![3; 2048], vec![9; 2048]].concat()),
    ] {
        let mut full = Cached { ram: RamBackend::new(64 << 10), flushes: Arc::default(), room: Some(700) };
        full.ram.write_at(0, &[3; 4096]).unwrap();
        let mut d = Disk::new(Box::new(full), 512, "FULL").unwrap();
        let before = contents(&mut d);
        assert_eq!(deliver(&mut d, cdb, &data, 512), Err(Refusal::Check(Sense::SPACE_ALLOCATION_FAILED)));
        assert_eq!(contents(&mut d), before, "{cdb:?}");
        deliver(&mut d, cdb, &data, 512).unwrap();
        assert!(contents(&mut d)[512..2560].iter().all(|b| *b == 9));
    }
    // A plain write makes no such promise.
    let (mut d, _) = cached(Some(700));
    assert!(deliver(&mut d, Cdb::Write(sixteen(1, 4)), &[9; 2048], 2048).is_err());
    assert_eq!(contents(&mut d)[512..1300], [&[9; 700][..], &[0; 88]].concat());
}

/// SBC-3 5.8: CONDITION MET when all blocks are in the cache, GOOD when not all were taken.
#[test]
fn pre_fetch_tells_how_much_the_cache_took() {
    let mut large = Disk::new(Box::new(RamBackend::new(96 << 20)), 512, "LARGE").unwrap();
    let ask = |immed, lba, blocks| Cdb::PreFetch { form: Form::Sixteen, immed, lba, blocks };
    let end = large.blocks();
    for (cdb, status) in [
        (ask(false, 0, 8), Status::CONDITION_MET),
        (ask(false, end - 8, 0), Status::CONDITION_MET),
        (ask(false, 0, 0), Status::GOOD),
    ] {
        let Outcome::Work(work) = start(&mut large, cdb).0 else { panic!("{cdb:?}") };
        assert_eq!(work.good(), status, "{cdb:?}");
        run(&mut large, work, &[]).unwrap();
    }
    assert_eq!(start(&mut large, ask(true, 0, 8)).0, GOOD);
    for (lba, blocks) in [(end, 0), (end - 1, 2)] {
        assert_eq!(check(start(&mut large, ask(false, lba, blocks)).0), Sense::LBA_OUT_OF_RANGE);
    }
}

/// Changes the Control page's byte 4 (SWP) and byte 2 (D_SENSE), or the Caching page's WCE.
fn select(d: &mut Disk, pages: &[u8]) {
    let list = [&[0, 0, 0, 0][..], pages].concat();
    let cdb = Cdb::ModeSelect { form: Form::Six, save: false, parameter_len: list.len() as u16 };
    deliver(d, cdb, &list, list.len()).unwrap();
}

fn control_page(flags: u8, swp: u8) -> [u8; 12] {
    [0x0A, 0x0A, flags, 0x10, swp, 0, 0, 0, 0, 0, 0, 0]
}

fn caching_page(flags: u8) -> [u8; 20] {
    let mut page = [0; 20];
    page[..3].copy_from_slice(&[8, 0x12, flags]);
    page
}

#[test]
fn software_write_protect_protects() {
    let mut d = disk(64);
    select(&mut d, &control_page(0, 8));
    assert_eq!(d.take_notice(), Some(Sense::MODE_CHANGED));
    let t = sixteen(0, 1);
    for cdb in [
        Cdb::Write(t),
        Cdb::WriteVerify(t, Bytchk::Full),
        Cdb::OrWrite(t),
        Cdb::CompareAndWrite(t),
        Cdb::WriteAtomic { range: t, boundary: 0 },
        Cdb::WriteSame { range: t, unmap: true, anchor: false, no_data_out: true },
        Cdb::Unmap { anchor: false, parameter_len: 24 },
        Cdb::Sanitize { action: op::SA_BLOCK_ERASE, immed: false, unrestricted_exit: false },
    ] {
        assert_eq!(check(start(&mut d, cdb).0), Sense::SOFTWARE_WRITE_PROTECTED, "{cdb:?}");
    }
    assert!(matches!(start(&mut d, Cdb::Read(t)).0, Outcome::Read { .. }));
    let (_, reply) = start(&mut d, mode(Form::Six, page::ALL, 0));
    assert!(ModeParameters::parse(Form::Six, &reply).unwrap().write_protected);
    d.reset();
    assert!(matches!(start(&mut d, Cdb::Write(t)).0, Outcome::Out(_)), "a reset takes it back");
}

/// WCE 0: whatever changes the medium is durable before its status.
#[test]
fn without_write_cache_every_write_is_flushed() {
    let t = sixteen(0, 1);
    let same = |no_data_out| Cdb::WriteSame { range: t, unmap: false, anchor: false, no_data_out };
    let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &[0; 8], &[0, 0, 0, 1], &[0; 4]].concat();
    for cache in [true, false] {
        let (mut d, flushes) = cached(None);
        if !cache {
            select(&mut d, &caching_page(0));
        }
        let mut flushed = |what: &str, act: &dyn Fn(&mut Disk)| {
            let before = *flushes.lock().unwrap();
            act(&mut d);
            let count = *flushes.lock().unwrap() - before;
            assert_eq!(count, u32::from(!cache), "{what}, cache {cache}");
        };
        flushed("WRITE", &|d| drop(deliver(d, Cdb::Write(t), &[1; 512], 512).unwrap()));
        flushed("ORWRITE", &|d| drop(deliver(d, Cdb::OrWrite(t), &[1; 512], 512).unwrap()));
        flushed("WRITE ATOMIC", &|d| {
            deliver(d, Cdb::WriteAtomic { range: t, boundary: 0 }, &[1; 512], 512).unwrap();
        });
        flushed("COMPARE AND WRITE", &|d| {
            deliver(d, Cdb::CompareAndWrite(t), &[1; 1024], 512).unwrap();
        });
        flushed("WRITE SAME", &|d| drop(deliver(d, same(false), &[2; 512], 512).unwrap()));
        flushed("WRITE SAME of zeros", &|d| drop(deliver(d, same(false), &[0; 512], 512).unwrap()));
        flushed("WRITE SAME without data", &|d| run_cdb(d, same(true)).unwrap());
        flushed("UNMAP", &|d| {
            deliver(d, Cdb::Unmap { anchor: false, parameter_len: 24 }, &list, 24).unwrap();
        });
    }
    // FUA does it for one command.
    let (mut d, flushes) = cached(None);
    deliver(&mut d, Cdb::Write(Transfer { fua: true, ..t }), &[1; 512], 512).unwrap();
    assert_eq!(*flushes.lock().unwrap(), 1);
}

#[test]
fn descriptor_sense_is_switched() {
    let mut d = disk(8);
    assert_eq!(d.sense_format(), SenseFormat::Fixed);
    select(&mut d, &control_page(4, 0));
    assert_eq!(d.sense_format(), SenseFormat::Descriptor);
    d.take_notice();
    select(&mut d, &control_page(4, 0));
    assert_eq!(d.take_notice(), None, "nothing changed");
}

#[test]
fn a_medium_comes_out_unless_someone_prevents_it() {
    let mut d = disk(64).removable();
    let door = |start| Cdb::StartStop { immed: true, power_condition: 0, loej: true, start };
    let prevent = |prevent| Cdb::PreventAllow { prevent };
    assert_eq!(start(&mut d, prevent(1)).0, GOOD);
    for load in [false, true] {
        assert_eq!(check(start(&mut d, door(load)).0), Sense::REMOVAL_PREVENTED);
    }
    assert_eq!(start(&mut d, prevent(0)).0, GOOD);
    assert!(matches!(start(&mut d, door(false)).0, Outcome::Work(_)), "flushed first");
    let t = sixteen(0, 1);
    for cdb in [
        Cdb::TestUnitReady,
        Cdb::Read(t),
        Cdb::Write(t),
        Cdb::ReadCapacity10,
        Cdb::ReadCapacity16 { allocation: 32 },
        Cdb::GetLbaStatus { lba: 0, allocation: 24 },
        Cdb::PreFetch { form: Form::Ten, immed: true, lba: 0, blocks: 1 },
        Cdb::SynchronizeCache { form: Form::Ten, immed: false, lba: 0, blocks: 1 },
    ] {
        assert_eq!(check(start(&mut d, cdb).0), Sense::MEDIUM_NOT_PRESENT, "{cdb:?}");
    }
    let (_, reply) = start(&mut d, Cdb::RequestSense { descriptor: false, allocation: 18 });
    assert_eq!(Sense::parse(&reply), Some(Sense::MEDIUM_NOT_PRESENT));
    assert_eq!(start(&mut d, Cdb::Inquiry { evpd: false, page: 0, allocation: 96 }).0, Outcome::Reply);
    assert_eq!(d.take_notice(), None);
    assert_eq!(start(&mut d, door(true)).0, GOOD);
    assert_eq!(d.take_notice(), Some(Sense::MEDIUM_CHANGED));
    assert_eq!(start(&mut d, Cdb::TestUnitReady).0, GOOD);
    // Prevention ends with its nexus, and with a reset.
    start(&mut d, prevent(1));
    d.nexus_lost(&nexus());
    assert!(matches!(start(&mut d, door(false)).0, Outcome::Work(_)));
    start(&mut d, prevent(1));
    d.reset();
    assert_eq!(start(&mut d, door(true)).0, GOOD);
    // A power condition moves no medium.
    let stand_by = Cdb::StartStop { immed: true, power_condition: 3, loej: true, start: false };
    assert_eq!(start(&mut d, stand_by).0, GOOD);
    assert_eq!(start(&mut d, Cdb::TestUnitReady).0, GOOD);
    // A fixed disk has no door, and nothing to prevent.
    assert_eq!(check(start(&mut disk(8), door(false)).0), Sense::invalid_cdb_byte(4));
    assert_eq!(check(start(&mut disk(8), prevent(1)).0), Sense::invalid_cdb_byte(4));
    assert_eq!(start(&mut disk(8), prevent(0)).0, GOOD);
}

const ERASE: Cdb = Cdb::Sanitize { action: op::SA_BLOCK_ERASE, immed: false, unrestricted_exit: false };

/// SBC-3 4.11: while it lasts the medium is out of reach, and then every block reads as zeros.
#[test]
fn a_block_erase_shuts_the_unit_until_it_is_over() {
    let mut d = Disk::new(Box::new(RamBackend::new(8 << 20)), 512, "ERASE").unwrap();
    d.backend().write_at(0, &vec![7; 8 << 20]).unwrap();
    let Outcome::Work(work) = start(&mut d, ERASE).0 else { panic!() };
    let mut allowance = Allowance::TURN;
    d.erase(&mut allowance).unwrap();
    assert!(d.is_sanitizing(), "more than one turn");
    for cdb in [Cdb::TestUnitReady, Cdb::Read(sixteen(0, 1)), Cdb::Write(sixteen(0, 1)), ERASE] {
        assert_eq!(check(start(&mut d, cdb).0), Sense::SANITIZE_IN_PROGRESS, "{cdb:?}");
    }
    let (_, reply) = start(&mut d, Cdb::RequestSense { descriptor: false, allocation: 18 });
    assert_eq!(Sense::parse(&reply), Some(Sense::SANITIZE_IN_PROGRESS));
    assert_eq!(start(&mut d, Cdb::Inquiry { evpd: false, page: 0, allocation: 96 }).0, Outcome::Reply);
    d.reset();
    assert!(d.is_sanitizing(), "a reset does not end it");
    run(&mut d, work, &[]).unwrap();
    assert_eq!(start(&mut d, Cdb::TestUnitReady).0, GOOD);
    assert!(contents(&mut d).iter().all(|b| *b == 0));
    let (_, reply) = start(&mut d, Cdb::GetLbaStatus { lba: 0, allocation: 24 });
    assert_eq!(reply[16..21], [0, 0, 0x40, 0, 1], "every block is deallocated");
}

#[test]
fn a_failed_erase_keeps_the_medium_shut() {
    let exit = Cdb::Sanitize { action: op::SA_EXIT_FAILURE_MODE, immed: false, unrestricted_exit: false };
    for unrestricted_exit in [false, true] {
        let (mut d, _) = cached(Some(0));
        let erase = Cdb::Sanitize { action: op::SA_BLOCK_ERASE, immed: false, unrestricted_exit };
        assert_eq!(run_cdb(&mut d, erase), Err(Sense::SPACE_ALLOCATION_FAILED));
        assert_eq!(d.sanitize, Sanitize::Failed { unrestricted_exit });
        assert_eq!(check(start(&mut d, Cdb::Read(sixteen(0, 1))).0), Sense::SANITIZE_FAILED);
        if unrestricted_exit {
            assert_eq!(start(&mut d, exit).0, GOOD);
        } else {
            assert_eq!(check(start(&mut d, exit).0), Sense::invalid_cdb_byte(1));
            // The storage is well again.
            d.backend().write_at(0, &[]).unwrap();
            run_cdb(&mut d, erase).unwrap();
        }
        assert!(matches!(start(&mut d, Cdb::Read(sixteen(0, 1))).0, Outcome::Read { .. }));
    }
    // Without a failure there is nothing to leave.
    assert_eq!(start(&mut disk(8), exit).0, GOOD);
}

/// SPC-4 6.36, 6.37, 6.7, SBC-3 5.17 and 5.18, byte by byte.
#[test]
fn short_reports() {
    let mut d = disk(8);
    let mut bytes = |cdb| start(&mut d, cdb).1;
    assert_eq!(bytes(Cdb::ReportFunctions { extended: false, allocation: 64 }), [0xD8, 0, 0, 0]);
    let long = bytes(Cdb::ReportFunctions { extended: true, allocation: 64 });
    assert_eq!((long.len(), &long[..4]), (16, &[0xD8, 0, 0, 12][..]));
    let groups = [0, 0x01, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
    assert_eq!(
        bytes(Cdb::ReportPortGroups { format: 0, allocation: 64 }),
        [&[0, 0, 0, 12][..], &groups].concat()
    );
    assert_eq!(
        bytes(Cdb::ReportPortGroups { format: 1, allocation: 64 }),
        [&[0, 0, 0, 16, 0x10, 0, 0, 0][..], &groups].concat()
    );
    assert_eq!(bytes(Cdb::ReadDefectData { form: Form::Ten, lists: 0x1D, allocation: 64 }), [0, 0x1D, 0, 0]);
    assert_eq!(
        bytes(Cdb::ReadDefectData { form: Form::Twelve, lists: 0x0D, allocation: 64 }),
        [0, 0x0D, 0, 0, 0, 0, 0, 0]
    );
    let log = |page| Cdb::LogSense { save: false, control: 1, page, subpage: 0, pointer: 0, allocation: 64 };
    let list = bytes(log(0));
    assert_eq!(list[..4], [0, 0, 0, 2]);
    for page in &list[4..] {
        let reply = start(&mut disk(8), log(*page)).1;
        assert_eq!((reply[0], usize::from(reply[3]) + 4), (*page, reply.len()), "page {page:#04x}");
    }
    assert_eq!(check(start(&mut disk(8), log(1)).0), Sense::invalid_cdb_byte(2));
}
