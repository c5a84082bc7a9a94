//! Commands that take long go on in turns: bounded work per turn, one session after the other, abortable in
//! between.

use super::*;
use std::io;
use std::sync::{Arc, Mutex};

const THIN: &str = "iqn.2026-01.example:thin";
/// Blocks of the thin unit: 1 GiB.
const MANY: u64 = 2 << 20;
/// The most that a turn may do, whatever the command (bytes written or read; zeroing takes four times as
/// many).
const TURN_BYTES: u64 = 256 << 10;
const TURN_CALLS: u64 = 16;

/// What was asked of a storage that keeps nothing.
#[derive(Default)]
struct Tally {
    bytes: u64,
    calls: u64,
    at: u64,
    /// Flushes that were begun, and that have ended; they end at once unless `slow`.
    begun: u64,
    ended: u64,
    slow: bool,
    errno: Option<i32>,
}

#[derive(Clone, Default)]
struct Thin(Arc<Mutex<Tally>>);

impl Thin {
    fn count(&self, at: u64, bytes: u64) -> io::Result<()> {
        let mut tally = self.0.lock().unwrap();
        tally.bytes += bytes;
        tally.calls += 1;
        tally.at = at;
        tally.errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Bytes and calls since the last time.
    fn taken(&self) -> (u64, u64) {
        let mut tally = self.0.lock().unwrap();
        (std::mem::take(&mut tally.bytes), std::mem::take(&mut tally.calls))
    }

    fn set(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.0.lock().unwrap());
    }
}

impl Backend for Thin {
    fn size(&self) -> u64 {
        MANY * 512
    }
    fn name(&self) -> &str {
        "/srv/thin.img"
    }
    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.resize(out.len() + len, 1);
        self.count(at, len as u64)
    }
    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.count(at, data.len() as u64)
    }
    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()> {
        self.count(at, len / 4)
    }
    fn flush(&mut self) -> io::Result<()> {
        unreachable!("begun instead")
    }
    fn start_flush(&mut self) -> io::Result<Option<Ticket>> {
        self.count(0, 0)?;
        let mut tally = self.0.lock().unwrap();
        tally.begun += 1;
        Ok(tally.slow.then_some(Ticket(tally.begun)))
    }
    fn end_flush(&mut self, ticket: Ticket) -> Option<io::Result<()>> {
        let tally = self.0.lock().unwrap();
        let result = tally.errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)));
        (tally.ended >= ticket.0).then_some(result)
    }
}

fn bench() -> (Lab, Thin) {
    let mut lab = Lab::new();
    let thin = Thin::default();
    let disk = Disk::new(Box::new(thin.clone()), 512, "thin").unwrap();
    lab.server.add_target(THIN, vec![(0, disk)], Auth::default()).unwrap();
    lab.own_turns = true;
    (lab, thin)
}

fn host(lab: &mut Lab, isid: u8) -> Host {
    let config = InitiatorConfig { target_name: Some(THIN.into()), ..initiator(isid) };
    let mut host = Host::try_login(lab, config).unwrap();
    host.run(lab, 0, &Cdb::TestUnitReady, 0, &[]);
    host
}

fn same(blocks: u32) -> Cdb {
    Cdb::WriteSame { range: Transfer::new(0, blocks), unmap: false, anchor: false, no_data_out: false }
}

/// Sends a command with all of its data immediate.
fn post(host: &mut Host, lab: &mut Lab, cdb: &Cdb, data: &[u8]) -> (u32, Sn) {
    let cmd_sn = host.cmd_sn;
    let flags = if data.is_empty() { flags::FINAL } else { flags::FINAL | flags::WRITE };
    let pdu = host.command(0, cdb, flags, data.len() as u32);
    host.send(lab, *pdu, data);
    (host.itt, cmd_sn)
}

fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let len = ranges.len() as u16 * 16;
    let mut list = [&(len + 6).to_be_bytes()[..], &len.to_be_bytes(), &[0; 4]].concat();
    for (lba, blocks) in ranges {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    list
}

/// Each command that may be long, at its limits: what it does with its input, and in any turn after, is
/// bounded; another session's command is answered at once; the sum is what was asked for.
#[test]
fn no_command_does_more_than_a_turn_at_once() {
    let most = (MAX_SAME_BYTES / 512) as u32;
    let every_other: Vec<(u64, u32)> = (0..256).map(|n| (n * 2, 1)).collect();
    let one_block = Cdb::Verify(Transfer::new(0, most), Bytchk::OneBlock);
    let zeros =
        Cdb::WriteSame { range: Transfer::new(0, most), unmap: true, anchor: false, no_data_out: true };
    let unmap = |list: &[u8]| Cdb::Unmap { anchor: false, parameter_len: list.len() as u16 };
    let (whole, scattered) = (unmap_list(&[(0, most)]), unmap_list(&every_other));
    let (ones, nothing) = (vec![1; 512], Vec::new());
    let cases: [(&str, Cdb, &[u8], u64); 6] = [
        ("WRITE SAME", same(most), &ones, MAX_SAME_BYTES),
        ("WRITE SAME without data", zeros, &nothing, MAX_SAME_BYTES / 4),
        ("VERIFY of one block", one_block, &ones, MAX_SAME_BYTES),
        (
            "VERIFY of the whole medium",
            Cdb::Verify(Transfer::new(0, MANY as u32), Bytchk::Medium),
            &nothing,
            MANY * 512,
        ),
        ("UNMAP", unmap(&whole), &whole, MAX_SAME_BYTES / 4),
        ("UNMAP of 256 ranges", unmap(&scattered), &scattered, 256 * 128),
    ];
    for (name, cdb, data, bytes) in cases {
        let (mut lab, thin) = bench();
        let (mut busy, mut other) = (host(&mut lab, 1), host(&mut lab, 2));
        thin.taken();
        // As many as the window takes, in one piece of input.
        let mut input = Vec::new();
        for _ in 0..64 {
            let flags = if data.is_empty() { flags::FINAL } else { flags::FINAL | flags::WRITE };
            let pdu = busy.command(0, &cdb, flags, data.len() as u32);
            input.extend(busy.bytes(*pdu, data));
        }
        lab.input(busy.id, &input);
        let bounded = |(done, calls): (u64, u64)| {
            assert!(done <= TURN_BYTES && calls <= TURN_CALLS, "{name}: {done} bytes in {calls} calls");
            done
        };
        let mut sum = bounded(thin.taken());
        assert!(other.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good(), "{name}");
        while lab.server.has_work() {
            lab.server.work(0);
            sum += bounded(thin.taken());
        }
        assert_eq!(sum, 64 * bytes, "{name}");
        for _ in 0..64 {
            let end: ScsiResponse = busy.next(&mut lab).view();
            assert_eq!(end.status, 0, "{name}");
        }
        busy.nothing_more(&mut lab);
    }
}

#[test]
fn sessions_take_turns_whatever_their_number_of_commands() {
    let (mut lab, thin) = bench();
    let (mut many, mut one) = (host(&mut lab, 1), host(&mut lab, 2));
    for _ in 0..32 {
        post(&mut many, &mut lab, &same(131_072), &[1; 512]);
    }
    post(&mut one, &mut lab, &same(4096), &[1; 512]);
    thin.taken();
    // 2 MiB are eight turns, of which input had the first; the other session gets as many and no more.
    let mut turns = 0;
    while one.seen.is_empty() {
        assert!(lab.server.work(0).is_some());
        turns += 1;
        one.poll(&mut lab);
    }
    assert!((14..=16).contains(&turns), "{turns}");
}

#[test]
fn a_long_command_is_aborted_in_the_middle() {
    let (mut lab, thin) = bench();
    let (mut host, mut other) = (host(&mut lab, 1), host(&mut lab, 2));
    let (itt, cmd_sn) = post(&mut host, &mut lab, &same(131_072), &[1; 512]);
    lab.server.work(0);
    assert_eq!(host.manage(&mut lab, TmfFunction::AbortTask, 0, itt, cmd_sn), TmfResponse::Complete);
    thin.taken();
    while lab.server.work(0).is_some() {}
    assert_eq!(thin.taken(), (0, 0), "nothing is written after the answer");
    host.nothing_more(&mut lab);
    assert_eq!(host.max_cmd_sn.since(host.cmd_sn) + 1, 64, "its place in the window is free");

    // By a reset that another session asks for, and by the loss of the connection.
    post(&mut host, &mut lab, &same(131_072), &[1; 512]);
    let answer = other.manage(&mut lab, TmfFunction::LogicalUnitReset, 0, RESERVED_TAG, Sn(0));
    assert_eq!(answer, TmfResponse::Complete);
    host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check();
    post(&mut host, &mut lab, &same(131_072), &[1; 512]);
    lab.server.closed(host.id);
    thin.taken();
    while lab.server.work(0).is_some() {}
    assert_eq!(thin.taken(), (0, 0));
}

/// A flush that takes its time keeps only those waiting who asked for it.
#[test]
fn a_slow_flush_holds_up_nobody_else() {
    let (mut lab, thin) = bench();
    let (mut host, mut other) = (host(&mut lab, 1), host(&mut lab, 2));
    thin.set(|tally| tally.slow = true);
    let sync = Cdb::SynchronizeCache { form: Form::Ten, immed: false, lba: 0, blocks: 0 };
    let fua = Cdb::Write(Transfer { fua: true, ..Transfer::new(0, 1) });
    let (first, _) = post(&mut host, &mut lab, &sync, &[]);
    let (second, _) = post(&mut host, &mut lab, &fua, &[7; 512]);
    let (third, third_sn) = post(&mut host, &mut lab, &sync, &[]);
    host.nothing_more(&mut lab);
    assert!(!lab.server.has_work(), "waiting is no work");
    assert!(host.run(&mut lab, 0, &write(0, 1), 0, &[1; 512]).status.is_good());
    assert!(other.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good());
    // A waiting command can be aborted; the end of its flush means nothing then.
    assert_eq!(host.manage(&mut lab, TmfFunction::AbortTask, 0, third, third_sn), TmfResponse::Complete);
    let end = |lab: &mut Lab, ended| {
        thin.set(|tally| tally.ended = ended);
        lab.server.flushed();
        while lab.server.work(0).is_some() {}
    };
    end(&mut lab, 1);
    assert_eq!(host.next(&mut lab).bhs.itt.get(), first);
    host.nothing_more(&mut lab);
    end(&mut lab, 3);
    let seen = host.next(&mut lab);
    assert_eq!((seen.bhs.itt.get(), seen.view::<ScsiResponse>().status), (second, 0));
    host.nothing_more(&mut lab);
}

#[test]
fn a_flush_that_fails_late_fails_its_command_and_every_later_one() {
    let (mut lab, thin) = bench();
    let mut host = host(&mut lab, 1);
    thin.set(|tally| tally.slow = true);
    let sync = Cdb::SynchronizeCache { form: Form::Ten, immed: false, lba: 0, blocks: 0 };
    post(&mut host, &mut lab, &sync, &[]);
    thin.set(|tally| (tally.ended, tally.errno) = (1, Some(5)));
    lab.server.flushed();
    lab.server.work(0);
    let sense = |seen: Seen| Sense::parse(&seen.data[2..]).unwrap();
    assert_eq!(sense(host.next(&mut lab)), Sense::WRITE_ERROR);
    thin.set(|tally| (tally.slow, tally.errno) = (false, None));
    assert_eq!(host.run(&mut lab, 0, &sync, 0, &[]).check(), Sense::WRITE_ERROR);
    assert!(host.run(&mut lab, 0, &write(0, 1), 0, &[1; 512]).status.is_good(), "writes go on");
}

/// What fails below a unit is told with the place and the reason: at once, then once a second with the number
/// of those between.
#[test]
fn failures_of_the_storage_are_told_and_bounded() {
    let (mut lab, thin) = bench();
    let mut host = host(&mut lab, 1);
    thin.set(|tally| tally.errno = Some(28));
    let told = |lab: &mut Lab| -> Vec<_> {
        lab.events().into_iter().filter(|e| matches!(e, Event::Trouble { .. })).collect()
    };
    for _ in 0..100 {
        let sense = host.run(&mut lab, 0, &write(8, 1), 0, &[1; 512]).check();
        assert_eq!(sense, Sense::SPACE_ALLOCATION_FAILED);
    }
    let first = told(&mut lab);
    let [Event::Trouble { target, lun: 0, storage, trouble, unreported: 0 }] = &first[..] else {
        panic!("{first:?}");
    };
    assert_eq!((target.as_str(), storage.as_str()), (THIN, "/srv/thin.img"));
    assert_eq!((trouble.doing, trouble.at, trouble.len), ("write", 4096, 512));
    assert!(trouble.reason.contains("No space left"), "{}", trouble.reason);
    lab.now_ns += SECOND;
    host.run(&mut lab, 0, &write(8, 1), 0, &[1; 512]).check();
    assert!(matches!(told(&mut lab)[..], [Event::Trouble { unreported: 99, .. }]));
}
