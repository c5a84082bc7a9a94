//! Tasks of one session: SCSI commands that are moving data. A fixed number of slots, reused with their
//! buffers, so that a command costs no allocation; target transfer tags name a slot and the transfer in it.

use super::job::Job;
use super::work::Work;
use crate::pdu::RESERVED_TAG;
use crate::scsi::{Sense, Status};

/// What a task was asked and by which command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) itt: u32,
    pub(super) lun: [u8; 8],
    /// Index of the logical unit in its target; `None` where no unit is.
    pub(super) unit: Option<usize>,
    pub(super) cmd_sn: u32,
    pub(super) immediate: bool,
    /// Expected data transfer length.
    pub(super) edtl: u32,
    /// R or W bit set: only then a residual means anything.
    pub(super) moves_data: bool,
}

/// Where the data of a read comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The medium, from this byte on.
    Medium(u64),
    /// The task's buffer.
    Buffer,
}

/// A read on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataIn {
    pub(super) source: Source,
    /// Bytes that the SCSI layer offers (SPDTL) and that will be sent.
    pub(super) offered: u64,
    pub(super) total: u32,
    pub(super) sent: u32,
    pub(super) data_sn: u32,
}

/// A sequence of Data-Out PDUs: the unsolicited one or the answer to an R2T.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    /// Target transfer tag; `None` for the unsolicited sequence.
    pub(super) ttt: Option<u32>,
    /// Next buffer offset expected, and the first offset past the sequence.
    pub(super) at: u32,
    pub(super) end: u32,
    pub(super) data_sn: u32,
}

/// A write, or a command that only has unsolicited data to swallow before its status goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataOut {
    /// `None` when there is nothing to do with the data.
    pub(super) job: Option<Job>,
    /// What the command does when its data, if any, is there; a job says so itself.
    pub(super) work: Option<Work>,
    /// Bytes that the SCSI layer wants (SPDTL), and the part of it that the expected length lets in.
    pub(super) wanted: u64,
    pub(super) limit: u32,
    /// Bytes given to the disk; data comes in order.
    pub(super) absorbed: u32,
    /// Next offset to ask for with an R2T.
    pub(super) asked: u32,
    pub(super) r2t_sn: u32,
    /// How the command ends when it is not by [`super::Disk::finish`]. The first failure stays.
    pub(super) verdict: Option<(Status, Option<Sense>)>,
    pub(super) deadline_ns: u64,
}

impl DataOut {
    pub(super) fn fail(&mut self, sense: Sense) {
        self.verdict.get_or_insert((Status::CHECK_CONDITION, Some(sense)));
    }
}

/// A command that goes on in turns, and what its response will say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Working {
    pub(super) work: Work,
    pub(super) wanted: u64,
    pub(super) exp_data_sn: u32,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Free,
    In(DataIn),
    Out(DataOut),
    Work(Working),
}

/// A slot.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) origin: Origin,
    pub(super) stage: Stage,
    /// Reply data, parameter data, or the part of a block that waits for its rest.
    pub(super) buffer: Vec<u8>,
    /// Open Data-Out sequences in the order in which they have to arrive.
    pub(super) open: Vec<Sequence>,
    transfers: u16,
}

/// The slots of a session.
#[derive(Debug)]
pub(super) struct Tasks {
    slots: Vec<Task>,
    /// Initiator task tag of each slot, the reserved one when it is free: the lookup of every command, in one
    /// cache line or two.
    tags: Vec<u32>,
    free: Vec<usize>,
    limit: usize,
}

/// Buffers larger than this are given back when a task ends, so that one long reply does not stay with every
/// slot.
const KEEP_BUFFER: usize = 8 << 10;

impl Tasks {
    /// Room for `limit` tasks, at most 65 535.
    pub(super) fn new(limit: usize) -> Tasks {
        Tasks {
            slots: Vec::new(),
            tags: Vec::new(),
            free: Vec::new(),
            limit: limit.min(usize::from(u16::MAX)),
        }
    }

    /// Takes a slot. `None` when all are in use.
    pub(super) fn insert(&mut self, origin: Origin, stage: Stage) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            let task = &mut self.slots[slot];
            (task.origin, task.stage) = (origin, stage);
            self.tags[slot] = origin.itt;
            return Some(slot);
        }
        if self.slots.len() >= self.limit {
            return None;
        }
        self.tags.push(origin.itt);
        self.slots.push(Task { origin, stage, buffer: Vec::new(), open: Vec::new(), transfers: 0 });
        Some(self.slots.len() - 1)
    }

    /// Ends a task, whatever it was doing.
    pub(super) fn remove(&mut self, slot: usize) {
        let task = &mut self.slots[slot];
        debug_assert!(!matches!(task.stage, Stage::Free));
        task.stage = Stage::Free;
        task.buffer.clear();
        task.buffer.shrink_to(KEEP_BUFFER);
        task.open.clear();
        self.tags[slot] = RESERVED_TAG;
        self.free.push(slot);
    }

    /// The task in a slot.
    pub(super) fn get(&mut self, slot: usize) -> &mut Task {
        &mut self.slots[slot]
    }

    /// Tasks under way, with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Task)> {
        self.slots.iter().enumerate().filter(|(_, task)| !matches!(task.stage, Stage::Free))
    }

    /// Number of tasks under way.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot of the task with this initiator task tag.
    pub(super) fn find(&self, itt: u32) -> Option<usize> {
        self.tags.iter().position(|tag| *tag == itt).filter(|_| itt != RESERVED_TAG)
    }

    /// The slot that a target transfer tag names, if its transfer is still open.
    pub(super) fn find_transfer(&self, ttt: u32) -> Option<usize> {
        let slot = (ttt & 0xFFFF) as usize;
        let task = self.slots.get(slot)?;
        task.open.iter().any(|sequence| sequence.ttt == Some(ttt)).then_some(slot)
    }

    /// A tag for the next transfer of the task in `slot`. Tags of a slot repeat after 65 536 transfers. The
    /// reserved tag cannot come out, because slots end below 65 535.
    pub(super) fn transfer_tag(&mut self, slot: usize) -> u32 {
        let task = &mut self.slots[slot];
        task.transfers = task.transfers.wrapping_add(1);
        u32::from(task.transfers) << 16 | slot as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(itt: u32) -> Origin {
        Origin { itt, lun: [0; 8], unit: None, cmd_sn: 0, immediate: false, edtl: 0, moves_data: false }
    }

    fn stage() -> Stage {
        Stage::In(DataIn { source: Source::Buffer, offered: 0, total: 0, sent: 0, data_sn: 0 })
    }

    #[test]
    fn slots_are_limited_and_reused() {
        let mut tasks = Tasks::new(2);
        let a = tasks.insert(origin(1), stage()).unwrap();
        let b = tasks.insert(origin(2), stage()).unwrap();
        assert_eq!(tasks.insert(origin(3), stage()), None);
        tasks.remove(a);
        assert_eq!((tasks.find(1), tasks.find(2), tasks.len()), (None, Some(b), 1));
        assert_eq!(tasks.insert(origin(3), stage()), Some(a));
    }

    #[test]
    fn a_tag_dies_with_its_transfer() {
        let mut tasks = Tasks::new(4);
        let slot = tasks.insert(origin(1), stage()).unwrap();
        let ttt = tasks.transfer_tag(slot);
        assert_eq!(tasks.find_transfer(ttt), None, "not open yet");
        tasks.get(slot).open.push(Sequence { ttt: Some(ttt), at: 0, end: 512, data_sn: 0 });
        assert_eq!(tasks.find_transfer(ttt), Some(slot));
        tasks.remove(slot);
        let slot = tasks.insert(origin(2), stage()).unwrap();
        let newer = tasks.transfer_tag(slot);
        tasks.get(slot).open.push(Sequence { ttt: Some(newer), at: 0, end: 512, data_sn: 0 });
        assert_eq!(tasks.find_transfer(ttt), None, "the tag of an earlier task");
        assert_eq!(tasks.find_transfer(u32::MAX), None);
    }
}
