//! The verified load: mixed reads and writes of stamped blocks, judged by the data oracle.
//!
//! Each session owns a region of a disk. A slot (one of `depth` per session) issues a request of random size,
//! place, alignment and split over blocks that no other slot of the session is using, waits for its
//! completion, judges it, thinks, and goes on. First the whole region is written once, so that every later
//! read has something to say. Every byte of a slot's buffer outside the request is a guard byte that must not
//! change (S6). A completion that no slot waits for is a duplicate (S1); a slot that never completes is lost.

use std::ops::Range;
use std::time::Duration;

use bus::mem::DmaBuf;
use bus::pci::{DmaExhausted, Platform};
use bus::{Cx, Instant, Progress};
use driver::adapter::Adapter;
use driver::control::SessionId;
use driver::user::{Completion, Disk, Extent, Op, Request, SubmitError, UserBuf};

use crate::host::{User, Waiting};
use crate::oracle::{Finding, Initial, Region};

/// Findings kept with their details; more are only counted.
pub const FINDINGS_KEPT: usize = 16;

const POISON: u8 = 0xee;
const GAP: usize = 24;
const MAX_PARTS: usize = 4;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadConfig {
    /// Requests that a session keeps outstanding.
    pub depth: u32,
    /// Longest request in bytes.
    pub max_bytes: usize,
    /// Share of writes, percent.
    pub write_percent: u8,
    /// Pause between a completion and the slot's next request.
    pub think: Duration,
    /// Tells apart the runs that used this disk.
    pub run: u64,
    /// What is on the disk before the first write.
    pub initial: Initial,
}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Requests completed, with or without success.
    pub commands: u64,
    /// Reads that were judged.
    pub reads: u64,
    /// Bytes of successful requests.
    pub bytes: u64,
    /// Requests that completed with an error.
    pub failed: u64,
    /// The text of the first error.
    pub first_error: Option<String>,
    /// Blocks that broke an invariant.
    pub corrupt: u64,
    /// Bytes outside a request that changed.
    pub guard_bytes: u64,
    /// Completions that nobody waited for.
    pub duplicated: u64,
    /// The first findings.
    pub findings: Vec<Finding>,
    /// Time from each reset to each session's first completed request after it.
    pub recoveries: Vec<Duration>,
}

struct Slot {
    session: usize,
    buf: UserBuf,
    /// Whether its request is outstanding.
    busy: bool,
    write: Option<u32>,
    blocks: Range<u64>,
    parts: Vec<Extent>,
    ready_at: Instant,
}

struct Session {
    id: SessionId,
    disk: Disk,
    region: Region,
    /// The first block that was never written.
    unwritten: u64,
    /// A reset that the session has not come back from: when, and the adapter's age then.
    recovering: Option<(Instant, u32)>,
}

/// The load of one host. See the module.
pub struct Load {
    config: LoadConfig,
    sessions: Vec<Session>,
    slots: Vec<Slot>,
    waiting: Waiting,
    scratch: Vec<u8>,
    completions: Vec<Completion>,
    report: LoadReport,
    stopping: bool,
}

impl Load {
    /// A load without sessions.
    #[must_use]
    pub fn new(config: LoadConfig) -> Self {
        let scratch = vec![0; config.max_bytes + GAP * (MAX_PARTS + 1)];
        Self {
            config,
            sessions: Vec::new(),
            slots: Vec::new(),
            waiting: Waiting::default(),
            scratch,
            completions: Vec::new(),
            report: LoadReport::default(),
            stopping: false,
        }
    }

    /// Loads `session`: `blocks` blocks of `disk` from `first` on are its own.
    ///
    /// # Errors
    /// [`DmaExhausted`] when there is no memory for its buffers.
    pub fn attach<P: Platform>(
        &mut self,
        adapter: &mut Adapter<P>,
        session: SessionId,
        disk: Disk,
        first: u64,
        blocks: usize,
    ) -> Result<(), DmaExhausted> {
        let index = self.sessions.len();
        let c = &self.config;
        let region = Region::new(index as u32, c.run, first, blocks, disk.block_size as usize, c.initial);
        for _ in 0..c.depth {
            let buf = adapter.alloc(self.scratch.len())?;
            self.slots.push(Slot {
                session: index,
                buf,
                busy: false,
                write: None,
                blocks: 0..0,
                parts: Vec::with_capacity(MAX_PARTS),
                ready_at: Instant::ZERO,
            });
        }
        self.sessions.push(Session { id: session, disk, region, unwritten: first, recovering: None });
        Ok(())
    }

    /// Issues nothing more; what is outstanding completes.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Requests that are outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// A reset begins: each session is measured until its first completion in a younger age of the adapter.
    pub fn expect_recovery(&mut self, now: Instant, age: u32) {
        for s in &mut self.sessions {
            s.recovering.get_or_insert((now, age));
        }
    }

    /// Sessions that have not completed a request since the last reset.
    #[must_use]
    pub fn recovering(&self) -> usize {
        self.sessions.iter().filter(|s| s.recovering.is_some()).count()
    }

    /// Whether every region was written once: from then on requests are random.
    #[must_use]
    pub fn filled(&self) -> bool {
        self.sessions.iter().all(|s| s.unwritten == s.region.blocks().end)
    }

    /// What happened so far.
    #[must_use]
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Frees the buffers. Returns how many could not be freed.
    pub fn release<P: Platform>(&mut self, adapter: &mut Adapter<P>) -> usize {
        let kept = self.slots.drain(..).filter(|s| adapter.free(s.buf).is_err()).count();
        self.sessions.clear();
        self.waiting = Waiting::default();
        kept
    }

    fn issue<P: Platform>(&mut self, cx: &mut Cx<'_>, adapter: &mut Adapter<P>, i: usize) -> bool {
        let fill = self.next_fill(i);
        let Some(blocks) = fill.clone().or_else(|| self.choose(cx, i)) else { return false };
        let session = &mut self.sessions[self.slots[i].session];
        let block = session.disk.block_size as usize;
        let bytes = (blocks.end - blocks.start) as usize * block;
        let write =
            fill.is_some() || cx.rng.below("load.direction", 100) < u64::from(self.config.write_percent);
        let slot = &mut self.slots[i];
        split(cx, slot.buf, bytes, &mut slot.parts);
        let Some(mem) = adapter.buffer(slot.buf) else { return false };
        mem.fill(0, used(&slot.parts), POISON);
        let generation = write.then(|| {
            let data = &mut self.scratch[..bytes];
            let generation = session.region.stamp(blocks.start, data);
            let mut at = 0;
            for p in &slot.parts {
                mem.write(p.offset, &data[at..at + p.len]);
                at += p.len;
            }
            generation
        });
        let op = if write { Op::Write } else { Op::Read };
        let request = Request { lun: session.disk.lun, op, lba: blocks.start, data: &slot.parts };
        match adapter.submit(cx, session.id, &request) {
            Ok(ticket) => {
                if fill.is_some() {
                    session.unwritten = blocks.end;
                }
                slot.busy = true;
                self.waiting.insert(ticket, i);
                slot.write = generation;
                slot.blocks = blocks;
                true
            }
            Err(e) => {
                if !matches!(e, SubmitError::Busy { .. }) {
                    self.report.failed += 1;
                    self.report.first_error.get_or_insert_with(|| e.to_string());
                }
                slot.ready_at = cx.now + self.config.think.max(Duration::from_millis(1));
                false
            }
        }
    }

    /// The next piece of the session's region that was never written.
    fn next_fill(&self, i: usize) -> Option<Range<u64>> {
        let s = &self.sessions[self.slots[i].session];
        let end = s.region.blocks().end;
        let most = (self.config.max_bytes as u64 / u64::from(s.disk.block_size)).max(1);
        (s.unwritten < end).then(|| s.unwritten..end.min(s.unwritten + most))
    }

    /// Chooses blocks that no other slot of the session is using.
    fn choose(&self, cx: &mut Cx<'_>, i: usize) -> Option<Range<u64>> {
        let mine = self.slots[i].session;
        let s = &self.sessions[mine];
        let region = s.region.blocks();
        let most =
            (self.config.max_bytes as u64 / u64::from(s.disk.block_size)).min(region.end - region.start);
        // Small requests are as frequent as large ones: the size is uniform in its logarithm.
        let magnitude = cx.rng.below("load.size", u64::from(most.ilog2()) + 1);
        let count = (1 + cx.rng.below("load.size", 1 << (magnitude + 1))).min(most);
        for _ in 0..4 {
            let start = region.start + cx.rng.below("load.lba", region.end - region.start - count + 1);
            let want = start..start + count;
            let free = self
                .slots
                .iter()
                .filter(|o| o.session == mine && o.busy)
                .all(|o| o.blocks.end <= want.start || want.end <= o.blocks.start);
            if free {
                return Some(want);
            }
        }
        None
    }

    fn complete<P: Platform>(&mut self, cx: &mut Cx<'_>, adapter: &Adapter<P>, c: &Completion) {
        let Some(i) = self.waiting.take(c.ticket) else {
            self.report.duplicated += 1;
            return;
        };
        let slot = &mut self.slots[i];
        slot.busy = false;
        slot.ready_at = cx.now + self.config.think;
        let session = &mut self.sessions[slot.session];
        let report = &mut self.report;
        report.commands += 1;
        let bytes: usize = slot.parts.iter().map(|p| p.len).sum();
        match &c.result {
            Ok(()) => {
                report.bytes += bytes as u64;
                if let Some((since, age)) = session.recovering
                    && adapter.age() > age
                {
                    session.recovering = None;
                    report.recoveries.push(cx.now - since);
                }
            }
            Err(e) => {
                report.failed += 1;
                report.first_error.get_or_insert_with(|| e.to_string());
            }
        }
        let Some(mem) = adapter.buffer(slot.buf) else { return };
        report.guard_bytes += guards(mem, &slot.parts, &mut self.scratch);
        match slot.write.take() {
            Some(generation) => session.region.wrote(slot.blocks.clone(), generation, c.result.is_ok()),
            None if c.result.is_ok() => {
                report.reads += 1;
                let data = &mut self.scratch[..bytes];
                let mut at = 0;
                for p in &slot.parts {
                    mem.read(p.offset, &mut data[at..at + p.len]);
                    at += p.len;
                }
                session.region.check(slot.blocks.start, data, |finding| {
                    report.corrupt += 1;
                    if report.findings.len() < FINDINGS_KEPT {
                        report.findings.push(finding);
                    }
                });
            }
            None => {}
        }
    }
}

impl<P: Platform> User<P> for Load {
    fn drive(&mut self, cx: &mut Cx<'_>, adapter: &mut Adapter<P>) -> Progress {
        let mut done = 0;
        let mut completions = std::mem::take(&mut self.completions);
        adapter.reap(&mut completions);
        for c in completions.drain(..) {
            done += 1;
            self.complete(cx, adapter, &c);
        }
        self.completions = completions;
        let mut next = None;
        if !self.stopping {
            for i in 0..self.slots.len() {
                if self.slots[i].busy {
                    continue;
                }
                if self.slots[i].ready_at <= cx.now && self.issue(cx, adapter, i) {
                    done += 1;
                } else {
                    let retry = self.slots[i].ready_at.max(cx.now + Duration::from_micros(100));
                    next = Instant::earliest(next, Some(retry));
                }
            }
        }
        Progress { done, next }
    }
}

/// Cuts `bytes` bytes into one to four extents of `buf` at odd places, with gaps before, between and after.
fn split(cx: &mut Cx<'_>, buf: UserBuf, bytes: usize, parts: &mut Vec<Extent>) {
    parts.clear();
    let count = 1 + cx.rng.below("load.split", MAX_PARTS as u64) as usize;
    let (mut at, mut left) = (0, bytes);
    for i in 0..count {
        at += cx.rng.below("load.split", GAP as u64) as usize;
        let len = if i + 1 == count { left } else { cx.rng.below("load.split", left as u64 + 1) as usize };
        if len > 0 {
            parts.push(buf.range(at, len));
        }
        at += len;
        left -= len;
    }
}

/// How much of the buffer a request concerns: its extents and the gap after them.
fn used(parts: &[Extent]) -> usize {
    parts.last().map_or(0, |p| p.offset + p.len) + GAP
}

/// Counts the bytes between and around `parts` that are not poison any more.
fn guards(mem: &DmaBuf, parts: &[Extent], scratch: &mut [u8]) -> u64 {
    let mut at = 0;
    let mut bad = 0;
    let len = used(parts);
    let ends = parts.iter().map(|p| (p.offset, p.offset + p.len)).chain([(len, len)]);
    for (start, end) in ends {
        let gap = &mut scratch[..start - at];
        mem.read(at, gap);
        bad += gap.iter().filter(|b| **b != POISON).count() as u64;
        at = end;
    }
    bad
}
