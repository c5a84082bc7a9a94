//! Commands that take long: one is a piece of work that goes on in turns, and each turn is bounded in bytes
//! and in calls of the backend, so that no command holds up another session because it is long. Between two
//! turns the command can be aborted; what was done until then stays, as SBC-3 allows for all of them. What
//! has to be atomic (COMPARE AND WRITE) is no work: it ends within the limits of one transfer, in
//! [`Disk::finish`].

use super::backend::Ticket;
use super::disk::Disk;
use crate::scsi::{Sense, Status};

/// What may still be done before others get their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    bytes: u64,
    calls: u32,
}

impl Allowance {
    /// One turn: well under a millisecond in memory or in a page cache.
    pub const TURN: Allowance = Allowance { bytes: 256 << 10, calls: 16 };

    /// Whether the turn is over.
    pub fn is_spent(&self) -> bool {
        self.bytes == 0 || self.calls == 0
    }

    pub(super) fn take(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.calls = self.calls.saturating_sub(1);
    }
}

/// A command under way. `len` bytes from `at` are still to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    kind: Kind,
    at: u64,
    len: u64,
    /// A flush ends it.
    durable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Repeats the block in the buffer.
    Fill,
    Zero,
    /// Compares with the block in the buffer, over and over.
    Compare,
    /// Can it be read?
    Check,
    /// Unmaps by the parameter list in the buffer; the range at hand is `at` and `len`, and this is the next
    /// descriptor.
    Unmap(usize),
    Flush,
    Flushing(Ticket),
    /// Reads ahead; whether that is all that was asked for.
    Prefetch(bool),
    /// EXTENDED COPY: the number of segments begun. `at` and `len` are those of the last one.
    Copy(usize),
    /// SANITIZE: waits for the unit's erase, and helps.
    Sanitize,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The allowance is spent.
    More,
    /// A flush is under way; ask again when it has ended.
    Waiting,
    /// The command is over.
    Over(Result<(), Sense>),
}

/// Bytes of one call, but for [`Kind::Zero`] and [`Kind::Unmap`], which usually only drop references: these
/// take [`ZERO_STEP`] and pay a quarter.
const STEP: u64 = 64 << 10;
const ZERO_STEP: u64 = 1 << 20;

impl Work {
    const fn new(kind: Kind, at: u64, len: u64) -> Work {
        Work { kind, at, len, durable: false }
    }

    pub(super) const fn fill(at: u64, len: u64) -> Work {
        Work::new(Kind::Fill, at, len)
    }

    pub(super) const fn zero(at: u64, len: u64) -> Work {
        Work::new(Kind::Zero, at, len)
    }

    pub(super) const fn compare(at: u64, len: u64) -> Work {
        Work::new(Kind::Compare, at, len)
    }

    pub(super) const fn check(at: u64, len: u64) -> Work {
        Work::new(Kind::Check, at, len)
    }

    pub(super) const fn unmap() -> Work {
        Work::new(Kind::Unmap(0), 0, 0)
    }

    pub(super) const fn flush() -> Work {
        Work::new(Kind::Flush, 0, 0)
    }

    /// Reads ahead; `all`: it is all that was asked for.
    pub(super) const fn prefetch(at: u64, len: u64, all: bool) -> Work {
        Work::new(Kind::Prefetch(all), at, len)
    }

    pub(super) const fn copy() -> Work {
        Work::new(Kind::Copy(0), 0, 0)
    }

    pub(super) const fn sanitize() -> Work {
        Work::new(Kind::Sanitize, 0, 0)
    }

    /// The same, ended by a flush when `durable`.
    pub(super) const fn durable(self, durable: bool) -> Work {
        Work { durable, ..self }
    }

    /// Whether it is for [`super::copy::turn`].
    pub(super) const fn is_copy(&self) -> bool {
        matches!(self.kind, Kind::Copy(_))
    }

    /// Segments begun, and the bytes done and left of the last one.
    pub(super) const fn copy_state(&self) -> (usize, u64, u64) {
        let begun = if let Kind::Copy(begun) = self.kind { begun } else { 0 };
        (begun, self.at, self.len)
    }

    pub(super) const fn begin_segment(&mut self, begun: usize, len: u64) {
        *self = Work::new(Kind::Copy(begun), 0, len);
    }

    /// The status of its good end: PRE-FETCH tells whether the cache took everything.
    pub(super) const fn good(&self) -> Status {
        if matches!(self.kind, Kind::Prefetch(true)) { Status::CONDITION_MET } else { Status::GOOD }
    }

    /// Length of the next step, which ends at a multiple of `step` so that whole pages and file system blocks
    /// stay whole.
    fn step(&self, step: u64) -> u64 {
        self.len.min(step - self.at % step)
    }

    pub(super) fn advance(&mut self, by: u64) {
        self.at += by;
        self.len -= by;
    }

    /// Everything is done but perhaps a flush.
    fn done(&mut self) -> Option<Turn> {
        if std::mem::take(&mut self.durable) {
            self.kind = Kind::Flush;
            return None;
        }
        Some(Turn::Over(Ok(())))
    }
}

impl Disk {
    /// Goes on with `work` until it is over or `allowance` is spent. `buffer` is the task's: a block or a
    /// parameter list.
    pub fn turn(&mut self, work: &mut Work, buffer: &[u8], allowance: &mut Allowance) -> Turn {
        while !allowance.is_spent() {
            match self.step(work, buffer, allowance) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(sense) => return Turn::Over(Err(sense)),
            }
        }
        Turn::More
    }

    fn step(
        &mut self,
        work: &mut Work,
        buffer: &[u8],
        allowance: &mut Allowance,
    ) -> Result<Option<Turn>, Sense> {
        match work.kind {
            Kind::Flush => {
                allowance.take(0);
                return Ok(Some(match self.medium.start_flush()? {
                    None => Turn::Over(Ok(())),
                    Some(ticket) => {
                        work.kind = Kind::Flushing(ticket);
                        Turn::Waiting
                    }
                }));
            }
            Kind::Flushing(ticket) => {
                return Ok(Some(self.medium.end_flush(ticket).map_or(Turn::Waiting, Turn::Over)));
            }
            Kind::Unmap(next) if work.len == 0 => {
                // An empty descriptor costs a call too: a list of nothing is no free lunch.
                allowance.take(0);
                let Some((lba, blocks)) = descriptors(buffer).nth(next) else {
                    return Ok(work.done());
                };
                let block = u64::from(self.block_size());
                (work.kind, work.at, work.len) =
                    (Kind::Unmap(next + 1), lba * block, u64::from(blocks) * block);
                return Ok(None);
            }
            Kind::Sanitize => {
                self.erase(allowance)?;
                return Ok((!self.is_sanitizing()).then_some(Turn::Over(Ok(()))));
            }
            _ if work.len == 0 => return Ok(work.done()),
            _ => {}
        }
        let len = match work.kind {
            Kind::Zero | Kind::Unmap(_) => {
                let len = work.step(ZERO_STEP);
                self.medium.zero(work.at, len)?;
                allowance.take(len / 4);
                len
            }
            Kind::Fill => {
                let len = work.step(STEP);
                self.medium.fill(work.at, len, buffer)?;
                allowance.take(len);
                len
            }
            Kind::Compare => {
                let len = work.step(STEP);
                if let Some(first) = self.medium.compare_repeated(work.at, len, buffer)? {
                    return Err(Sense::MISCOMPARE.with_information(first));
                }
                allowance.take(len);
                len
            }
            // A hole needs no reading.
            _ => {
                let extent = self.medium.extent(work.at, work.len)?;
                if extent.allocated {
                    let len = work.step(STEP).min(extent.len);
                    self.medium.check(work.at, len as usize)?;
                    allowance.take(len);
                    len
                } else {
                    allowance.take(0);
                    extent.len
                }
            }
        };
        work.advance(len);
        Ok(None)
    }
}

/// The block descriptors of an UNMAP parameter list: first block and number of blocks.
pub(super) fn descriptors(list: &[u8]) -> impl Iterator<Item = (u64, u32)> + '_ {
    let wanted = list.get(2..4).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])) / 16);
    list.get(8..).unwrap_or_default().chunks_exact(16).take(wanted).map(|d| {
        let lba = d[..8].try_into().map_or(0, u64::from_be_bytes);
        (lba, d[8..12].try_into().map_or(0, u32::from_be_bytes))
    })
}
