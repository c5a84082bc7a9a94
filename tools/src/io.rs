//! The jobs of `cnic io`: read a range, write it with stamped blocks, or write it and read it back.

use lab::stamp::Stamp;
use serde::Serialize;

use crate::disk::{Direction, Disk, Job, Request, Unit};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::size;

/// Largest request in bytes.
pub(crate) const MAX_BS: u64 = 1 << 20;
/// Most requests under way.
pub(crate) const MAX_DEPTH: usize = 1024;

/// The writer in the stamps of this command.
const WRITER: u32 = u32::MAX;

/// What part of the unit, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Bytes per request.
    pub(crate) bs: usize,
    /// Requests under way.
    pub(crate) depth: usize,
}

impl Plan {
    /// Checks what the user asked for against the unit. No size means up to the end.
    pub(crate) fn new(
        unit: &impl Unit,
        offset: u64,
        size: Option<u64>,
        bs: u64,
        depth: usize,
    ) -> Result<Self, Failure> {
        let block = u64::from(unit.block_size());
        let capacity = unit.blocks().saturating_mul(block);
        let usage = |m: String| Err(Failure::usage(m));
        if offset >= capacity {
            return usage(format!("--offset {offset} is beyond the end: the unit has {capacity} bytes"));
        }
        let size = size.unwrap_or(capacity - offset);
        if size == 0 {
            return usage(format!("--size 0 is nothing to do: give at least one block of {block} bytes"));
        }
        if size > capacity - offset {
            return usage(format!(
                "--size {size} does not fit: {} bytes are left from --offset {offset}",
                capacity - offset
            ));
        }
        for (name, value) in [("--offset", offset), ("--size", size), ("--bs", bs)] {
            if value % block != 0 {
                return usage(format!("{name} {value} is no multiple of the unit's block of {block} bytes"));
            }
        }
        if bs == 0 || bs > MAX_BS {
            return usage(format!("--bs is between {block} and {MAX_BS} bytes"));
        }
        if depth == 0 || depth > MAX_DEPTH {
            return usage(format!("--iodepth is between 1 and {MAX_DEPTH}"));
        }
        let depth = depth.min(usize::try_from(size.div_ceil(bs)).unwrap_or(depth));
        Ok(Self { offset, size, bs: usize::try_from(bs).unwrap_or(usize::MAX), depth })
    }
}

/// What `cnic io` reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct IoReport {
    pub(crate) operation: &'static str,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_read: u64,
    pub(crate) seconds: f64,
    pub(crate) mb_per_s: f64,
    /// Blocks read that carry a whole stamp for their place.
    pub(crate) stamped: u64,
    /// Blocks read that carry no stamp.
    pub(crate) unstamped: u64,
    /// Whether everything read back is what was written. Absent when nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<bool>,
}

impl IoReport {
    fn new(operation: &'static str, plan: &Plan) -> Self {
        Self { operation, offset: plan.offset, size: plan.size, ..Self::default() }
    }

    fn finish(&mut self, ns: u64) {
        self.seconds = ns as f64 / 1e9;
        self.mb_per_s = (self.bytes_read + self.bytes_written) as f64 / 1e6 / self.seconds.max(1e-9);
    }

    /// For people.
    pub(crate) fn summary(&self) -> String {
        let moved = match (self.bytes_written, self.bytes_read) {
            (w, 0) => format!("wrote {}", size::show(w)),
            (0, r) => format!("read {}", size::show(r)),
            (w, r) => format!("wrote {} and read back {}", size::show(w), size::show(r)),
        };
        let found = match (self.verified, self.stamped) {
            (Some(true), n) => format!("; all {n} blocks are what was written"),
            (None, n) if n > 0 => format!("; {n} blocks carry a good stamp, {} none", self.unstamped),
            _ => String::new(),
        };
        format!("{moved} in {:.2} s ({:.1} MB/s){found}", self.seconds, self.mb_per_s)
    }
}

/// Reads the range. Stamped blocks that are misplaced or torn are a failure.
pub(crate) fn read(unit: &mut impl Unit, plan: &Plan) -> Result<IoReport, Failure> {
    let mut report = IoReport::new("read", plan);
    let start = unit.now_ns();
    read_pass(unit, plan, None, &mut report)?;
    report.finish(unit.now_ns() - start);
    Ok(report)
}

/// Writes the range with blocks stamped by `run`.
pub(crate) fn write(unit: &mut impl Unit, plan: &Plan, run: u64) -> Result<IoReport, Failure> {
    let mut report = IoReport::new("write", plan);
    let start = unit.now_ns();
    write_pass(unit, plan, run, &mut report)?;
    report.finish(unit.now_ns() - start);
    Ok(report)
}

/// Writes the range, then reads all of it back and compares.
pub(crate) fn verify(unit: &mut impl Unit, plan: &Plan, run: u64) -> Result<IoReport, Failure> {
    let mut report = IoReport::new("verify", plan);
    let start = unit.now_ns();
    write_pass(unit, plan, run, &mut report)?;
    read_pass(unit, plan, Some(run), &mut report)?;
    report.verified = Some(true);
    report.finish(unit.now_ns() - start);
    Ok(report)
}

fn write_pass(unit: &mut impl Unit, plan: &Plan, run: u64, report: &mut IoReport) -> Result<(), Failure> {
    let job = Write { cursor: Cursor::new(plan, "writing"), run, data: vec![0; plan.bs] };
    let (job, outcome) = unit.run(job, plan.depth, plan.bs);
    report.bytes_written += job.cursor.done;
    outcome
}

fn read_pass(
    unit: &mut impl Unit,
    plan: &Plan,
    expect: Option<u64>,
    report: &mut IoReport,
) -> Result<(), Failure> {
    let cursor = Cursor::new(plan, if expect.is_some() { "verifying" } else { "reading" });
    let job = Read { cursor, expect, data: vec![0; plan.bs], stamped: 0, unstamped: 0 };
    let (job, outcome) = unit.run(job, plan.depth, plan.bs);
    report.bytes_read += job.cursor.done;
    report.stamped += job.stamped;
    report.unstamped += job.unstamped;
    outcome
}

/// Walks the range once.
struct Cursor {
    next: u64,
    end: u64,
    bs: usize,
    done: u64,
    total: u64,
    progress: Progress,
}

impl Cursor {
    fn new(plan: &Plan, label: &'static str) -> Self {
        let end = plan.offset + plan.size;
        Self {
            next: plan.offset,
            end,
            bs: plan.bs,
            done: 0,
            total: plan.size,
            progress: Progress::new(label),
        }
    }

    fn advance(&mut self, direction: Direction) -> Option<Request> {
        let left = self.end - self.next;
        let len = self.bs.min(usize::try_from(left).unwrap_or(self.bs));
        let request = Request { direction, offset: self.next, len };
        self.next += len as u64;
        (len > 0).then_some(request)
    }

    fn finished(&mut self, request: Request) {
        self.done += request.len as u64;
        let done = self.done;
        self.progress.update(done, self.total, || size::show(done));
    }
}

struct Write {
    cursor: Cursor,
    run: u64,
    data: Vec<u8>,
}

impl Job for Write {
    fn next(&mut self, disk: &mut dyn Disk, slot: usize) -> Option<Request> {
        let request = self.cursor.advance(Direction::Write)?;
        let block = disk.block_size() as usize;
        let first = request.offset / block as u64;
        for (i, out) in self.data[..request.len].chunks_exact_mut(block).enumerate() {
            Stamp { lba: first + i as u64, generation: 1, writer: WRITER, run: self.run }.fill(out);
        }
        disk.store(slot, &self.data[..request.len]);
        Some(request)
    }

    fn done(&mut self, _: &mut dyn Disk, _: usize, request: Request) -> Result<(), Failure> {
        self.cursor.finished(request);
        Ok(())
    }
}

struct Read {
    cursor: Cursor,
    /// The run that must have stamped every block.
    expect: Option<u64>,
    data: Vec<u8>,
    stamped: u64,
    unstamped: u64,
}

impl Job for Read {
    fn next(&mut self, disk: &mut dyn Disk, slot: usize) -> Option<Request> {
        let request = self.cursor.advance(Direction::Read)?;
        // What the buffer held before must not pass for what the card placed.
        self.data[..request.len].fill(0);
        disk.store(slot, &self.data[..request.len]);
        Some(request)
    }

    fn done(&mut self, disk: &mut dyn Disk, slot: usize, request: Request) -> Result<(), Failure> {
        disk.load(slot, &mut self.data[..request.len]);
        let size = disk.block_size() as usize;
        let first = request.offset / size as u64;
        for (i, data) in self.data[..request.len].chunks_exact(size).enumerate() {
            let block = first + i as u64;
            match (Stamp::of(data), self.expect) {
                (None, None) => self.unstamped += 1,
                (None, Some(_)) => {
                    return Err(wrong(
                        block,
                        "holds none of what was written: a write was lost or misplaced",
                    ));
                }
                (Some(stamp), expect) => {
                    judge(stamp, block, data, expect)?;
                    self.stamped += 1;
                }
            }
        }
        self.cursor.finished(request);
        Ok(())
    }
}

/// A block that starts with a stamp must be that stamp to its end, be where the stamp says, and be of the
/// expected run.
fn judge(stamp: Stamp, block: u64, data: &[u8], expect: Option<u64>) -> Result<(), Failure> {
    if let Some(at) = stamp.first_difference(data) {
        return Err(wrong(block, &format!("is torn or corrupt from byte {at} on")));
    }
    if stamp.lba != block {
        return Err(wrong(block, &format!("holds the data of block {}: misplaced", stamp.lba)));
    }
    if expect.is_some_and(|run| run != stamp.run) {
        return Err(wrong(block, "holds the data of an earlier run: a write was lost or a read is stale"));
    }
    Ok(())
}

fn wrong(block: u64, what: &str) -> Failure {
    Failure::other(format!("block {block} {what}; do not use this unit before the cause is found"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::{BLOCK, Defect, MemoryDisk};

    const PLAN: Plan = Plan { offset: 10 * BLOCK as u64, size: 75 * BLOCK as u64, bs: 8 * BLOCK, depth: 4 };

    #[test]
    fn verify_writes_the_range_and_nothing_else() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        let report = verify(&mut disk, &PLAN, 7).unwrap();
        assert_eq!((report.bytes_written, report.bytes_read), (PLAN.size, PLAN.size));
        assert_eq!((report.stamped, report.unstamped, report.verified), (75, 0, Some(true)));
        assert!(report.summary().contains("all 75 blocks are what was written"), "{}", report.summary());
        let outside = disk.data[..10 * BLOCK].iter().chain(&disk.data[85 * BLOCK..]);
        assert!(outside.copied().all(|b| b == 0));
    }

    #[test]
    fn every_defect_is_found_and_the_block_is_named() {
        for (defect, says) in [
            (Defect::Misplace(50), "block 50 holds none"),
            (Defect::Lose(50), "block 50 holds none"),
            (Defect::Tear(50), "block 50 is torn or corrupt from byte 256"),
            (Defect::Fail(50), "medium error"),
        ] {
            let mut disk = MemoryDisk::new(100, defect);
            let e = verify(&mut disk, &PLAN, 7).unwrap_err();
            assert!(e.to_string().starts_with(says), "{defect:?}: {e}");
            assert_eq!(e.code(), 1);
        }
        let mut disk = MemoryDisk::new(100, Defect::None);
        verify(&mut disk, &PLAN, 7).unwrap();
        disk.defect = Defect::Lose(50);
        let e = verify(&mut disk, &PLAN, 8).unwrap_err().to_string();
        assert!(e.starts_with("block 50 holds the data of an earlier run"), "{e}");
    }

    #[test]
    fn read_recognises_what_write_wrote() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        write(&mut disk, &PLAN, 7).unwrap();
        let whole = Plan { offset: 0, size: 100 * BLOCK as u64, ..PLAN };
        let report = read(&mut disk, &whole).unwrap();
        assert_eq!((report.stamped, report.unstamped, report.verified), (75, 25, None));
        let (a, b) = (20 * BLOCK, 30 * BLOCK);
        disk.data.copy_within(a..a + BLOCK, b);
        let e = read(&mut disk, &whole).unwrap_err().to_string();
        assert!(e.starts_with("block 30 holds the data of block 20: misplaced"), "{e}");
    }

    #[test]
    fn plans_are_checked_against_the_unit() {
        let disk = MemoryDisk::new(100, Defect::None);
        let plan =
            |offset, size, bs, depth| Plan::new(&disk, offset, size, bs, depth).map_err(|e| e.to_string());
        assert_eq!(
            plan(512, None, 4096, 32).unwrap(),
            Plan { offset: 512, size: 99 * 512, bs: 4096, depth: 13 }
        );
        for (offset, size, bs, depth, says) in [
            (51200, None, 512, 1, "beyond the end"),
            (0, Some(51712), 512, 1, "does not fit"),
            (u64::MAX - 511, Some(512), 512, 1, "beyond the end"),
            (0, Some(0), 512, 1, "at least one block"),
            (100, None, 512, 1, "--offset 100 is no multiple"),
            (0, Some(1000), 512, 1, "--size 1000 is no multiple"),
            (0, None, 1000, 1, "--bs 1000 is no multiple"),
            (0, None, 0, 1, "--bs is between"),
            (0, None, 2 << 20, 1, "--bs is between"),
            (0, None, 512, 0, "--iodepth is between"),
            (0, None, 512, 1025, "--iodepth is between"),
        ] {
            let e = plan(offset, size, bs, depth).unwrap_err();
            assert!(e.contains(says), "{e}");
        }
    }
}
