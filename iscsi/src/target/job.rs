//! Commands with data-out: what they do with the data as it comes, and when all of it is there.

use super::copy;
use super::disk::{Disk, MAX_SAME_BYTES, MAX_UNMAP_DESCRIPTORS};
use super::medium::Medium;
use super::reservation::{Effects, Nexus, Refusal};
use super::work::{Work, descriptors};
use crate::scsi::{Form, ReservationAction, Sense, Transfer};

/// How a command with data-out goes on when its data is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It is over: GOOD.
    Done(Effects),
    /// It goes on in turns, with the task's buffer as it is.
    Work(Work),
}

/// A command that takes data-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub(super) kind: JobKind,
    pub(super) at: u64,
    /// Bytes of data-out that the command takes (SPDTL).
    pub len: u64,
    pub(super) durable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobKind {
    Write,
    Or,
    /// The first half is compared, the second written.
    CompareAndWrite,
    Atomic,
    Compare,
    CompareBlock {
        bytes: u64,
    },
    Same {
        bytes: u64,
    },
    Unmap,
    Reserve {
        action: ReservationAction,
        scope: u8,
        kind: u8,
    },
    Modes {
        form: Form,
    },
    Copy,
}

impl Job {
    /// A parameter list of `len` bytes.
    pub(super) fn list(kind: JobKind, len: u64) -> Job {
        Job { kind, at: 0, len, durable: false }
    }

    /// Whether the command means nothing with less data than it asks for: a shorter transfer is refused with
    /// 05/0E/03.
    pub fn needs_all(&self) -> bool {
        !matches!(self.kind, JobKind::Write | JobKind::Compare)
    }

    /// How a command that needs all of its data and is offered another amount fails. COMPARE AND WRITE, whose
    /// count has eight bits only, is told that the count is wrong.
    pub fn misfit(&self) -> Sense {
        match self.kind {
            JobKind::CompareAndWrite => Sense::invalid_cdb_byte(13),
            _ => Sense::INFORMATION_UNIT,
        }
    }
}

impl Disk {
    /// Takes data-out in order: `offset` is the number of bytes absorbed before, `rest` the job's buffer
    /// (empty at first). Whole blocks of a write go to the medium at once; the rest waits for its other part.
    pub fn absorb(&mut self, job: &Job, offset: u64, data: &[u8], rest: &mut Vec<u8>) -> Result<(), Sense> {
        match job.kind {
            JobKind::Write => self.absorb_blocks(job.at + offset, data, rest, Medium::write),
            JobKind::Or => self.absorb_blocks(job.at + offset, data, rest, Medium::or),
            JobKind::Compare => match self.medium.compare(job.at + offset, data)? {
                None => Ok(()),
                Some(first) => Err(Sense::MISCOMPARE.with_information(offset + first as u64)),
            },
            _ => {
                rest.extend_from_slice(data);
                Ok(())
            }
        }
    }

    /// Gives whole blocks to `put`.
    fn absorb_blocks(
        &mut self,
        at: u64,
        data: &[u8],
        rest: &mut Vec<u8>,
        put: fn(&mut Medium, u64, &[u8]) -> Result<(), Sense>,
    ) -> Result<(), Sense> {
        let block = self.block_size() as usize;
        let (mut at, mut data) = (at, data);
        if !rest.is_empty() {
            let (fill, more) = data.split_at(data.len().min(block - rest.len()));
            let block_at = at - rest.len() as u64;
            rest.extend_from_slice(fill);
            if rest.len() < block {
                return Ok(());
            }
            put(&mut self.medium, block_at, rest)?;
            rest.clear();
            at += fill.len() as u64;
            data = more;
        }
        let (whole, part) = data.split_at(data.len() / block * block);
        if !whole.is_empty() {
            put(&mut self.medium, at, whole)?;
        }
        rest.extend_from_slice(part);
        Ok(())
    }

    /// Ends a job of which `absorbed` bytes arrived and all went well so far, or says what is left to do.
    pub fn finish(
        &mut self,
        nexus: &Nexus,
        job: &Job,
        absorbed: u64,
        rest: &mut Vec<u8>,
    ) -> Result<Finish, Refusal> {
        let mut effects = Effects::default();
        match job.kind {
            JobKind::Write => {
                // A transfer cut short by the expected length may end inside a block: the block's other bytes
                // stay.
                if !rest.is_empty() {
                    let at = job.at + absorbed - rest.len() as u64;
                    self.medium.write(at, rest).map_err(Refusal::Check)?;
                }
            }
            JobKind::Compare | JobKind::Or => {}
            JobKind::CompareAndWrite => {
                let (expected, new) = rest.split_at(rest.len() / 2);
                if let Some(first) = self.medium.compare(job.at, expected).map_err(Refusal::Check)? {
                    return Err(Refusal::Check(Sense::MISCOMPARE.with_information(first as u64)));
                }
                self.medium.write_whole(job.at, new).map_err(Refusal::Check)?;
            }
            JobKind::Atomic => self.medium.write_whole(job.at, rest).map_err(Refusal::Check)?,
            JobKind::CompareBlock { bytes } => return Ok(Finish::Work(Work::compare(job.at, bytes))),
            // A read returns what GOOD was given for: only zeros may be unmapped (SBC-3 WRITE SAME with
            // LBPRZ).
            JobKind::Same { bytes } if rest.iter().all(|b| *b == 0) => {
                return Ok(Finish::Work(Work::zero(job.at, bytes).durable(job.durable)));
            }
            JobKind::Same { bytes } => {
                return Ok(Finish::Work(Work::fill(job.at, bytes).durable(job.durable)));
            }
            JobKind::Unmap => {
                self.judge_unmap(rest)?;
                return Ok(Finish::Work(Work::unmap().durable(self.writes_through())));
            }
            JobKind::Modes { form } => {
                let shape = self.shape();
                if self.modes.select(form, rest, &shape).map_err(Refusal::Check)? {
                    self.notice = Some(Sense::MODE_CHANGED);
                }
            }
            JobKind::Copy => {
                copy::judge(rest).map_err(Refusal::Check)?;
                return Ok(Finish::Work(Work::copy()));
            }
            JobKind::Reserve { action, scope, kind } => {
                effects = self.reservations.change(nexus, action, scope, kind, rest)?;
            }
        }
        rest.clear();
        Ok(if job.durable { Finish::Work(Work::flush()) } else { Finish::Done(effects) })
    }

    /// All or nothing: every range of an UNMAP is checked before the first is unmapped.
    fn judge_unmap(&self, list: &[u8]) -> Result<(), Refusal> {
        let refuse = |sense| Err(Refusal::Check(sense));
        let [_, _, high, low, _, _, _, _, ..] = list else { return refuse(Sense::PARAMETER_LENGTH) };
        if usize::from(u16::from_be_bytes([*high, *low])) / 16 > MAX_UNMAP_DESCRIPTORS {
            return refuse(Sense::INVALID_PARAMETER);
        }
        let mut total = 0;
        // An empty descriptor unmaps nothing, and may stand right behind the last block.
        let empty = |lba: u64, blocks: u32| blocks == 0 && lba <= self.blocks();
        for (lba, blocks) in descriptors(list).filter(|(lba, blocks)| !empty(*lba, *blocks)) {
            total += self.range(&Transfer::new(lba, blocks))?.1;
        }
        if total > MAX_SAME_BYTES {
            return refuse(Sense::INVALID_PARAMETER);
        }
        Ok(())
    }
}
