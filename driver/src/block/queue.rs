//! Requests, commands and tickets of one session.

use bus::Instant;
use iscsi::scsi::{Cdb, Form, Lun, Transfer};
use std::collections::VecDeque;

use super::judge::{Effort, Outcome, Verdict, judge};
use super::split::{
    Cursor, Geometry, MAX_BDS, MAX_COMMAND_BYTES, MAX_REQUEST_BYTES, Refusal, Share, cut, pieces,
};
use crate::control::ConnFailure;
use crate::error::BlockError;
use crate::user::{Extent, MAX_EXTENTS, Op, Request, Ticket, UserBuf};

/// Names an issued command. An id of an earlier user of the slot finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandId {
    slot: u16,
    generation: u32,
}

/// Where the data of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// From the target.
    Read,
    /// To the target.
    Write,
}

/// A command to post. Its buffer pieces are [`BlockQueue::pieces`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Comes back in [`BlockQueue::complete`] or [`BlockQueue::requeue`].
    pub id: CommandId,
    /// Logical unit.
    pub lun: Lun,
    /// CDB, zero padded.
    pub cdb: [u8; 16],
    /// Where the data goes.
    pub direction: Direction,
    /// Expected data transfer length.
    pub bytes: u32,
}

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// From [`BlockQueue::submit`].
    pub ticket: Ticket,
    /// Success, or the first error.
    pub result: Result<(), BlockError>,
    /// Bytes of the request.
    pub bytes: u64,
    /// Bytes that were not moved (single SCSI commands only).
    pub residual: u32,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounters {
    /// Requests accepted.
    pub requests: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// Commands handed out.
    pub commands: u64,
    /// Commands repeated because of what the target answered.
    pub retried: u64,
    /// Commands taken back by a recovery, to be repeated.
    pub requeued: u64,
    /// Completions for commands that do not exist any more.
    pub stale: u64,
    /// Times a write had to wait for an older one that overlaps it.
    pub overlaps: u64,
}

#[derive(Debug, Default)]
struct Req {
    ticket: u64,
    seq: u64,
    /// When it was accepted: its wait begins here, not with the first command.
    accepted: Instant,
    lun: Lun,
    op: Option<Op>,
    lba: u64,
    geometry: Option<Geometry>,
    extents: Vec<Extent>,
    bytes: u64,
    /// What is not cut into commands yet.
    rest: Cursor,
    left: u64,
    /// Commands cut and not ended.
    open: u32,
    residual: u32,
    error: Option<BlockError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Free,
    /// To be issued (again), not before this time.
    Held(Instant),
    Issued,
}

#[derive(Clone, Copy, Debug)]
struct Cmd {
    generation: u32,
    stage: Stage,
    req: u32,
    seq: u64,
    lun: Lun,
    lba: u64,
    blocks: u64,
    /// Takes part in the ordering of overlapping writes.
    writes: bool,
    share: Share,
    effort: Effort,
    /// How often it ended without an answer since the target last answered it: its connection was lost, or it
    /// was aborted.
    losses: u8,
}

/// How often one command may end without an answer, by the loss of its connection or by an abort; then it
/// fails. A command whose execution ends the connection each time would keep a session from ever making
/// progress; that others are answered in between says nothing about it.
pub const LOSS_LIMIT: u8 = 5;

/// Where unfinished writes are, roughly: how many touch each part of the disk, the parts folded onto a few
/// counters. It tells at once that most writes overlap nothing.
#[derive(Debug)]
struct WriteMap([u16; Self::PARTS]);

impl Default for WriteMap {
    fn default() -> Self {
        Self([0; Self::PARTS])
    }
}

impl WriteMap {
    const PARTS: usize = 1024;
    /// Blocks of a part, as a power of two: small writes in sequence share few parts, the largest command
    /// touches 17.
    const SHIFT: u32 = 3;

    fn parts(lba: u64, blocks: u64) -> impl Iterator<Item = usize> {
        let last = lba.saturating_add(blocks.saturating_sub(1)) >> Self::SHIFT;
        (lba >> Self::SHIFT..=last).map(|part| part as usize % Self::PARTS)
    }

    fn add(&mut self, lba: u64, blocks: u64) {
        Self::parts(lba, blocks).for_each(|part| self.0[part] += 1);
    }

    fn remove(&mut self, lba: u64, blocks: u64) {
        Self::parts(lba, blocks).for_each(|part| self.0[part] -= 1);
    }

    fn may_touch(&self, lba: u64, blocks: u64) -> bool {
        Self::parts(lba, blocks).any(|part| self.0[part] > 0)
    }
}

/// The queue of one session. See the module documentation.
#[derive(Debug)]
pub struct BlockQueue {
    limit: usize,
    reqs: Vec<Req>,
    free_reqs: Vec<u32>,
    /// Requests that are not wholly cut, oldest first.
    waiting: VecDeque<u32>,
    cmds: Vec<Cmd>,
    free_cmds: Vec<u16>,
    /// Commands to issue again, by age of their request and then by position.
    held: Vec<u16>,
    writes: WriteMap,
    done: VecDeque<Done>,
    next_seq: u64,
    /// One more than the number of the youngest request that was finished.
    finished: u64,
    /// What happened so far.
    pub counters: BlockCounters,
}

impl BlockQueue {
    /// A queue of at most `limit` requests, accepted and not reaped, with at most `commands` commands at a
    /// time.
    #[must_use]
    pub fn new(limit: usize, commands: u16) -> Self {
        let idle = Cmd {
            generation: 0,
            stage: Stage::Free,
            req: 0,
            seq: 0,
            lun: Lun::default(),
            lba: 0,
            blocks: 0,
            writes: false,
            share: Share { from: Cursor::default(), bytes: 0 },
            effort: Effort { first_issued: Instant::ZERO, retries: 0 },
            losses: 0,
        };
        Self {
            limit,
            reqs: Vec::new(),
            free_reqs: Vec::with_capacity(limit.min(64)),
            waiting: VecDeque::new(),
            cmds: vec![idle; usize::from(commands)],
            free_cmds: (0..commands).rev().collect(),
            held: Vec::with_capacity(usize::from(commands)),
            writes: WriteMap::default(),
            done: VecDeque::new(),
            next_seq: 0,
            finished: 0,
            counters: BlockCounters::default(),
        }
    }

    /// Accepts a request; `ticket` will come back in exactly one [`Done`]. The caller has checked that the
    /// extents lie in live buffers. A request without data completes without a command.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was queued.
    pub fn submit(
        &mut self,
        ticket: Ticket,
        request: &Request<'_>,
        geometry: &Geometry,
        now: Instant,
    ) -> Result<(), Refusal> {
        let bytes = check(request, geometry)?;
        if self.live() >= self.limit {
            self.counters.refused += 1;
            return Err(Refusal::QueueFull { limit: self.limit });
        }
        self.counters.requests += 1;
        if bytes == 0 && matches!(request.op, Op::Read | Op::Write) {
            self.done.push_back(Done { ticket, result: Ok(()), bytes: 0, residual: 0 });
            return Ok(());
        }
        let index = self.free_reqs.pop().unwrap_or_else(|| {
            self.reqs.push(Req::default());
            (self.reqs.len() - 1) as u32
        });
        let req = &mut self.reqs[index as usize];
        req.extents.clear();
        req.extents.extend_from_slice(request.data);
        *req = Req {
            ticket: ticket.0,
            seq: self.next_seq,
            accepted: now,
            lun: request.lun,
            op: Some(request.op),
            lba: request.lba,
            geometry: Some(*geometry),
            extents: core::mem::take(&mut req.extents),
            bytes,
            left: bytes,
            ..Req::default()
        };
        self.next_seq += 1;
        self.waiting.push_back(index);
        Ok(())
    }

    /// Requests accepted and not reaped.
    #[must_use]
    pub fn live(&self) -> usize {
        self.reqs.len() - self.free_reqs.len() + self.done.len()
    }

    /// Whether an unfinished request names `buf`. Walks all requests: for freeing buffers, not for the data
    /// path.
    #[must_use]
    pub fn uses(&self, buf: UserBuf) -> bool {
        self.reqs.iter().any(|r| r.op.is_some() && r.extents.iter().any(|e| e.buf == buf))
    }

    /// Commands issued and not ended.
    #[must_use]
    pub fn issued(&self) -> usize {
        self.cmds.len() - self.free_cmds.len() - self.held.len()
    }

    /// The next command to post at `now`, if there is one. `open` tells whether commands to a logical unit
    /// may go out now (not while a reset of it is pending). The command counts as issued: complete, requeue
    /// or [`unissue`](Self::unissue) it.
    pub fn next_command(&mut self, now: Instant, open: impl Fn(Lun) -> bool) -> Option<Command> {
        let again = self.held.iter().position(|&slot| {
            let cmd = &self.cmds[usize::from(slot)];
            matches!(cmd.stage, Stage::Held(at) if at <= now) && open(cmd.lun) && !self.overlaps(cmd)
        });
        let slot = match again {
            Some(at) => self.held.remove(at),
            None => self.cut_next(now, open)?,
        };
        let cmd = &mut self.cmds[usize::from(slot)];
        cmd.stage = Stage::Issued;
        self.counters.commands += 1;
        Some(self.command(slot))
    }

    fn cut_next(&mut self, now: Instant, open: impl Fn(Lun) -> bool) -> Option<u16> {
        // A unit that is closed holds up its own requests only.
        let at = self.waiting.iter().position(|&index| open(self.reqs[index as usize].lun))?;
        let index = self.waiting[at];
        let &slot = self.free_cmds.last()?;
        let req = &self.reqs[index as usize];
        let (op, geometry) = (req.op?, req.geometry?);
        let single = !matches!(op, Op::Read | Op::Write);
        let (limit, block) =
            if single { (MAX_COMMAND_BYTES, 1) } else { (geometry.command_bytes(), geometry.block_size) };
        let (share, rest) = cut(&req.extents, req.rest, limit, block);
        let cmd = Cmd {
            generation: self.cmds[usize::from(slot)].generation,
            stage: Stage::Issued,
            req: index,
            seq: req.seq,
            lun: req.lun,
            lba: req.lba + (req.bytes - req.left) / u64::from(geometry.block_size),
            blocks: u64::from(share.bytes / geometry.block_size),
            writes: op == Op::Write,
            share,
            effort: Effort { first_issued: now, retries: 0 },
            losses: 0,
        };
        if self.overlaps(&cmd) {
            self.counters.overlaps += 1;
            return None;
        }
        self.free_cmds.pop();
        if cmd.writes {
            self.writes.add(cmd.lba, cmd.blocks);
        }
        self.cmds[usize::from(slot)] = cmd;
        let req = &mut self.reqs[index as usize];
        req.open += 1;
        req.rest = rest;
        req.left -= u64::from(share.bytes);
        if req.left == 0 {
            self.waiting.remove(at);
        }
        Some(slot)
    }

    /// Whether an older unfinished write touches a block that `cmd` writes. Walks the commands only when one
    /// may.
    fn overlaps(&self, cmd: &Cmd) -> bool {
        cmd.writes
            && self.writes.may_touch(cmd.lba, cmd.blocks)
            && self.cmds.iter().any(|other| {
                other.stage != Stage::Free
                    && other.writes
                    && other.seq < cmd.seq
                    && other.lun == cmd.lun
                    && other.lba < cmd.lba + cmd.blocks
                    && cmd.lba < other.lba + other.blocks
            })
    }

    fn command(&self, slot: u16) -> Command {
        let cmd = &self.cmds[usize::from(slot)];
        let req = &self.reqs[cmd.req as usize];
        let range = Transfer::new(cmd.lba, cmd.blocks as u32);
        let (cdb, direction) = match req.op {
            Some(Op::Read) => (Cdb::Read(range).encode().bytes, Direction::Read),
            Some(Op::Write) => (Cdb::Write(range).encode().bytes, Direction::Write),
            Some(Op::Scsi { cdb, write }) => {
                let data = if write { Direction::Write } else { Direction::Read };
                (cdb, if cmd.share.bytes == 0 { Direction::None } else { data })
            }
            Some(Op::Flush) | None => {
                let flush = Cdb::SynchronizeCache { form: Form::Ten, immed: false, lba: 0, blocks: 0 };
                (flush.encode().bytes, Direction::None)
            }
        };
        let id = CommandId { slot, generation: cmd.generation };
        Command { id, lun: cmd.lun, cdb, direction, bytes: cmd.share.bytes }
    }

    /// The buffer pieces of a command, in order: at most [`super::MAX_BDS`], one BD each. Empty for a stale
    /// id.
    pub fn pieces(&self, id: CommandId) -> impl Iterator<Item = Extent> + '_ {
        let (extents, share) = match self.issued_command(id) {
            Some(cmd) => (&self.reqs[cmd.req as usize].extents[..], cmd.share),
            None => (&[][..], Share { from: Cursor::default(), bytes: 0 }),
        };
        pieces(extents, share)
    }

    fn issued_command(&self, id: CommandId) -> Option<&Cmd> {
        self.cmds
            .get(usize::from(id.slot))
            .filter(|cmd| cmd.generation == id.generation && cmd.stage == Stage::Issued)
    }

    /// A command ended. The card can no longer touch its buffers. Tells `false` (counted) for a command that
    /// does not exist any more: a completion never counts twice.
    pub fn complete(&mut self, id: CommandId, outcome: Outcome, now: Instant) -> bool {
        let Some(&cmd) = self.issued_command(id) else {
            self.counters.stale += 1;
            return false;
        };
        let raw = matches!(self.reqs[cmd.req as usize].op, Some(Op::Scsi { .. }));
        let hold_until = match judge(outcome, cmd.share.bytes, raw, cmd.effort, now) {
            Verdict::Done { residual } => {
                self.end(id.slot, None, residual);
                return true;
            }
            Verdict::Fail { error, residual } => {
                self.end(id.slot, Some(error), residual);
                return true;
            }
            Verdict::Lost => {
                self.lose(id.slot, BlockError::Aborted, true, now);
                return true;
            }
            Verdict::AgainNow => now,
            Verdict::AgainAt(at) => at,
        };
        self.counters.retried += 1;
        let cmd = &mut self.cmds[usize::from(id.slot)];
        cmd.effort.retries = cmd.effort.retries.saturating_add(1);
        cmd.losses = 0;
        self.hold(id.slot, hold_until);
        true
    }

    /// The connection of an issued command is gone, and with proof the card's hold on its buffers. It is
    /// issued again after recovery; a single SCSI command of the caller is not, it fails with `why`.
    /// `counts`: the loss was not the host's own doing, and [`LOSS_LIMIT`] of them fail the command. Tells
    /// `false` for a stale id.
    pub fn requeue(&mut self, id: CommandId, why: ConnFailure, counts: bool, now: Instant) -> bool {
        let Some(cmd) = self.issued_command(id) else {
            self.counters.stale += 1;
            return false;
        };
        if matches!(self.reqs[cmd.req as usize].op, Some(Op::Scsi { .. })) {
            let bytes = cmd.share.bytes;
            self.end(id.slot, Some(BlockError::Transport(why)), bytes);
        } else {
            self.lose(id.slot, BlockError::Transport(why), counts, now);
        }
        true
    }

    /// An issued command ended without an answer: it is issued again, or fails with `error` at the
    /// [`LOSS_LIMIT`].
    fn lose(&mut self, slot: u16, error: BlockError, counts: bool, now: Instant) {
        let cmd = &mut self.cmds[usize::from(slot)];
        cmd.losses += u8::from(counts);
        if cmd.losses >= LOSS_LIMIT {
            let bytes = cmd.share.bytes;
            self.end(slot, Some(error), bytes);
        } else {
            self.counters.requeued += 1;
            // The time without an answer is not the target's pause.
            cmd.effort.first_issued = now;
            self.hold(slot, now);
        }
    }

    /// Takes back a command that could not be posted (ring or window full): it is the first to be issued
    /// again.
    pub fn unissue(&mut self, id: CommandId, now: Instant) {
        if self.issued_command(id).is_some() {
            self.counters.commands -= 1;
            self.hold(id.slot, now);
        }
    }

    /// Keeps a command for later, unless its request has failed already.
    fn hold(&mut self, slot: u16, until: Instant) {
        let cmd = &mut self.cmds[usize::from(slot)];
        if self.reqs[cmd.req as usize].error.is_some() {
            self.end(slot, None, 0);
            return;
        }
        // The next issue is another command: a late completion of this one must not end it.
        cmd.generation = cmd.generation.wrapping_add(1);
        cmd.stage = Stage::Held(until);
        let key = (cmd.seq, cmd.lba);
        let at = self.held.partition_point(|&other| {
            let other = &self.cmds[usize::from(other)];
            (other.seq, other.lba) < key
        });
        self.held.insert(at, slot);
    }

    /// Ends a command that is not in `held` (any more).
    fn end(&mut self, slot: u16, error: Option<BlockError>, residual: u32) {
        let cmd = &mut self.cmds[usize::from(slot)];
        cmd.stage = Stage::Free;
        cmd.generation = cmd.generation.wrapping_add(1);
        if cmd.writes {
            self.writes.remove(cmd.lba, cmd.blocks);
        }
        let index = cmd.req;
        self.free_cmds.push(slot);
        let req = &mut self.reqs[index as usize];
        req.open -= 1;
        req.residual = req.residual.saturating_add(residual);
        match error {
            Some(error) if req.error.is_none() => self.fail(index, error),
            _ => self.finish(index),
        }
    }

    /// The first error of a request: nothing of it is issued any more.
    fn fail(&mut self, index: u32, error: BlockError) {
        let req = &mut self.reqs[index as usize];
        req.error = Some(error);
        req.left = 0;
        if let Some(at) = self.waiting.iter().position(|&i| i == index) {
            self.waiting.remove(at);
        }
        while let Some(at) = self.held.iter().position(|&slot| self.cmds[usize::from(slot)].req == index) {
            let slot = self.held.remove(at);
            let cmd = &mut self.cmds[usize::from(slot)];
            cmd.stage = Stage::Free;
            cmd.generation = cmd.generation.wrapping_add(1);
            if cmd.writes {
                self.writes.remove(cmd.lba, cmd.blocks);
            }
            self.free_cmds.push(slot);
            self.reqs[index as usize].open -= 1;
        }
        self.finish(index);
    }

    /// Completes a request when nothing of it is left.
    fn finish(&mut self, index: u32) {
        let req = &mut self.reqs[index as usize];
        if req.open > 0 || req.left > 0 {
            return;
        }
        let result = req.error.map_or(Ok(()), Err);
        let done = Done { ticket: Ticket(req.ticket), result, bytes: req.bytes, residual: req.residual };
        req.op = None;
        self.finished = self.finished.max(req.seq + 1);
        self.free_reqs.push(index);
        self.done.push_back(done);
    }

    /// Fails everything that is not at the card: the replacement timeout expired, or the session closes. What
    /// is at the card fails with the same error when it comes back, whatever its outcome then is.
    pub fn fail_all(&mut self, error: BlockError) {
        self.fail_where(error, |_, _| true);
    }

    /// Fails the requests to one unit, as [`fail_all`](Self::fail_all) does.
    pub fn fail_unit(&mut self, lun: Lun, error: BlockError) {
        let number = |l: Lun| l.number().ok_or(l);
        self.fail_where(error, |q, i| number(q.reqs[i].lun) == number(lun));
    }

    /// Fails the requests accepted at `limit` or before of which something was not sent, as
    /// [`fail_all`](Self::fail_all) does.
    pub fn fail_unsent(&mut self, limit: Instant, error: BlockError) {
        self.fail_where(error, |q, i| {
            q.reqs[i].accepted <= limit
                && (q.reqs[i].left > 0 || q.held.iter().any(|&c| q.cmds[usize::from(c)].req == i as u32))
        });
    }

    fn fail_where(&mut self, error: BlockError, which: impl Fn(&Self, usize) -> bool) {
        for index in 0..self.reqs.len() {
            let req = &self.reqs[index];
            if req.op.is_some() && req.error.is_none() && which(self, index) {
                self.fail(index as u32, error);
            }
        }
    }

    /// When the oldest of the requests was accepted that wait to be sent at `now`, to units that are `open`;
    /// a pause that the target asked for is no such wait.
    pub fn waiting_since(&self, now: Instant, open: impl Fn(Lun) -> bool) -> Option<Instant> {
        let held = self.held.iter().map(|&slot| &self.cmds[usize::from(slot)]);
        let held = held.filter(|c| matches!(c.stage, Stage::Held(at) if at <= now)).map(|c| c.req);
        let requests = held.chain(self.waiting.iter().copied()).map(|i| &self.reqs[i as usize]);
        requests.filter(|r| open(r.lun)).map(|r| r.accepted).min()
    }

    /// When the oldest unfinished request was accepted.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.reqs.iter().filter(|r| r.op.is_some()).map(|r| r.accepted).min()
    }

    /// Whether a younger request was finished before the oldest one.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        self.reqs.iter().any(|r| r.op.is_some() && r.seq + 1 < self.finished)
    }

    /// The next completed request, in order of completion.
    pub fn reap(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// When the pause of a command ends, if one is later than `now`.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let times = self.held.iter().filter_map(|&slot| match self.cmds[usize::from(slot)].stage {
            Stage::Held(at) if at > now => Some(at),
            _ => None,
        });
        times.min()
    }
}

/// Checks a request and returns its length in bytes.
fn check(request: &Request<'_>, geometry: &Geometry) -> Result<u64, Refusal> {
    if request.data.len() > MAX_EXTENTS {
        return Err(Refusal::TooManyExtents(request.data.len()));
    }
    let bytes = request.data.iter().fold(0u64, |sum, e| sum.saturating_add(e.len as u64));
    let single = !matches!(request.op, Op::Read | Op::Write);
    let limit = if single { u64::from(MAX_COMMAND_BYTES) } else { MAX_REQUEST_BYTES };
    if bytes > limit {
        return Err(Refusal::TooLong { bytes, limit });
    }
    if single {
        let (share, _) = cut(request.data, Cursor::default(), MAX_COMMAND_BYTES, 1);
        return if u64::from(share.bytes) == bytes { Ok(bytes) } else { Err(Refusal::TooScattered) };
    }
    let block_size = geometry.block_size;
    if bytes % u64::from(block_size) != 0 {
        return Err(Refusal::Misaligned { bytes, block_size });
    }
    let blocks = bytes / u64::from(block_size);
    if request.lba.checked_add(blocks).is_none_or(|end| end > geometry.blocks) {
        return Err(Refusal::OutOfRange { lba: request.lba, blocks, capacity: geometry.blocks });
    }
    if request.op == Op::Write && geometry.read_only {
        return Err(Refusal::WriteProtected);
    }
    if request.data.len() <= MAX_BDS && geometry.command_bytes() > 0 {
        // Not even all of them are too many for one command.
        return Ok(bytes);
    }
    let (mut at, mut left) = (Cursor::default(), bytes);
    while left > 0 {
        let (share, next) = cut(request.data, at, geometry.command_bytes(), block_size);
        if share.bytes == 0 {
            return Err(Refusal::TooScattered);
        }
        (at, left) = (next, left - u64::from(share.bytes));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
