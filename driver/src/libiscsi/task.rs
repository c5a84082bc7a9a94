//! Tasks and their tags (BNX2I-CNIC 5.1).
//!
//! A task is a slot; its index is in bits 13..0 of the 16-bit ITT of WQEs and CQEs, its type in bits 15..14.
//! The wire ITT has no room for a generation, so the handle has one: whoever kept a handle of an earlier user
//! of the slot finds nothing. A slot that was freed goes to the end of the queue, so that a late completion
//! most likely meets an empty slot (D3). The session age tells tasks of earlier connections of the session.

use bus::Instant;
use iscsi::scsi::Lun;
use iscsi::serial::Sn;
use std::collections::VecDeque;
use thiserror::Error;

/// Tasks that only management may use: libiscsi's `ISCSI_MGMT_CMDS_MAX`.
pub const MGMT_TASKS: u16 = 15;
/// Fewest tasks of a session (bnx2i's lower clamp).
const MIN_TASKS: u16 = 16;
/// Most tasks: what 13 bits of index name in libiscsi's own ITT.
const MAX_TASKS: u16 = 1 << 13;

/// Type bits of the ITT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum TaskKind {
    /// Reads, and SCSI commands without data.
    Read = 0,
    /// Writes.
    Write = 1,
    /// "Middle path": every request that is no SCSI command.
    Mpath = 2,
}

/// Which part of the table a task comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskClass {
    /// SCSI commands: everything but the [`MGMT_TASKS`].
    Scsi,
    /// Ping, TMF, text, logout.
    Mgmt,
}

/// The 16-bit ITT as WQEs and CQEs carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireItt(pub u16);

impl WireItt {
    /// Reserved: an unsolicited PDU.
    pub const RESERVED: Self = Self(0xFFFF);

    /// Index bits.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0 & 0x3FFF
    }

    const fn new(index: u16, kind: TaskKind) -> Self {
        Self(index | (kind as u16) << 14)
    }
}

/// A task, and which user of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskHandle {
    /// Slot.
    pub index: u16,
    /// Counts the users of the slot.
    pub generation: u32,
}

/// Where a task is between posting and release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Has a slot; no WQE yet.
    Allocated,
    /// The chip has it.
    Posted,
    /// Task management ended it; a CLEANUP WQE with its ITT is posted, and the card may still touch its pages
    /// until the cleanup CQE of this very ITT arrives (R7).
    CleaningUp,
}

/// One task.
#[derive(Debug)]
pub struct Task<T> {
    /// Type bits of its ITT.
    pub kind: TaskKind,
    /// Which share of the table it uses.
    pub class: TaskClass,
    /// Where it is.
    pub state: TaskState,
    /// Logical unit.
    pub lun: Lun,
    /// Its number, once posted.
    pub cmd_sn: Sn,
    /// Session age when it was allocated.
    pub age: u8,
    /// When it was posted.
    pub started: Instant,
    /// When it last was seen to move data; for an offloaded task that is `started` (BNX2I-CNIC 7.2, rule 4).
    pub last_xfer: Instant,
    /// When its timer last fired.
    pub last_timeout: Option<Instant>,
    /// Its connection was pinged because of it (BNX2I-CNIC 7.2, rule 8).
    pub checked: bool,
    /// What the adapter keeps with it.
    pub data: T,
}

/// No task was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AllocError {
    /// All SCSI tasks are in use: keep the command queued.
    #[error("all {0} SCSI tasks of the session are in use")]
    ScsiFull(u16),
    /// All management tasks are in use.
    #[error("all {0} management tasks of the session are in use")]
    MgmtFull(u16),
}

/// A completion names no task (D3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TaskError {
    /// Index beyond the table.
    #[error("received invalid itt index {0}")]
    NoSuchIndex(u16),
    /// Nobody uses the slot.
    #[error("itt index {0} is not in use")]
    Free(u16),
    /// The slot is used, for a task of another type.
    #[error("itt {0:#06x} has the wrong type")]
    WrongKind(u16),
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    task: Option<Task<T>>,
}

/// The tasks of one session.
#[derive(Debug)]
pub struct TaskTable<T> {
    slots: Vec<Slot<T>>,
    free: VecDeque<u16>,
    age: u8,
    scsi: u16,
    mgmt: u16,
}

impl<T> TaskTable<T> {
    /// A table of `cmds_max` tasks, clamped to 16..=`max_sqes` and rounded down to a power of two.
    #[must_use]
    pub fn new(cmds_max: u16, max_sqes: u16) -> Self {
        let n = cmds_max.clamp(MIN_TASKS, max_sqes.clamp(MIN_TASKS, MAX_TASKS));
        let n = 1 << n.ilog2();
        let slots = (0..n).map(|_| Slot { generation: 0, task: None }).collect();
        Self { slots, free: (0..n).collect(), age: 0, scsi: 0, mgmt: 0 }
    }

    /// Tasks in all.
    #[must_use]
    pub fn capacity(&self) -> u16 {
        self.slots.len() as u16
    }

    /// Tasks that SCSI commands may use at a time.
    #[must_use]
    pub fn scsi_capacity(&self) -> u16 {
        self.capacity() - MGMT_TASKS
    }

    /// Tasks in use.
    #[must_use]
    pub fn in_use(&self) -> u16 {
        self.scsi + self.mgmt
    }

    /// SCSI tasks in use.
    #[must_use]
    pub fn scsi_in_use(&self) -> u16 {
        self.scsi
    }

    /// The session age, 0 to 15.
    #[must_use]
    pub fn age(&self) -> u8 {
        self.age
    }

    /// The session was recovered: later tasks belong to a new connection.
    pub fn next_age(&mut self) {
        self.age = (self.age + 1) & 0xF;
    }

    /// Takes a task.
    ///
    /// # Errors
    /// The share of `class` is used up; nothing changed and `data` is dropped.
    pub fn alloc(
        &mut self,
        class: TaskClass,
        kind: TaskKind,
        lun: Lun,
        now: Instant,
        data: T,
    ) -> Result<TaskHandle, AllocError> {
        let limit = self.scsi_capacity();
        match class {
            TaskClass::Scsi if self.scsi >= limit => return Err(AllocError::ScsiFull(limit)),
            TaskClass::Mgmt if self.mgmt >= MGMT_TASKS => return Err(AllocError::MgmtFull(MGMT_TASKS)),
            TaskClass::Scsi => self.scsi += 1,
            TaskClass::Mgmt => self.mgmt += 1,
        }
        let index = self.free.pop_front().expect("both shares together are the table");
        let slot = &mut self.slots[usize::from(index)];
        slot.task = Some(Task {
            kind,
            class,
            state: TaskState::Allocated,
            lun,
            cmd_sn: Sn(0),
            age: self.age,
            started: now,
            last_xfer: now,
            last_timeout: None,
            checked: false,
            data,
        });
        Ok(TaskHandle { index, generation: slot.generation })
    }

    /// The ITT of a task, for its WQE; `None` when the handle is stale.
    #[must_use]
    pub fn itt(&self, handle: TaskHandle) -> Option<WireItt> {
        self.get(handle).map(|t| WireItt::new(handle.index, t.kind))
    }

    /// The task that a completion names.
    ///
    /// # Errors
    /// No such task: the driver counts it and recovers the session (D3).
    pub fn find(&self, itt: WireItt) -> Result<TaskHandle, TaskError> {
        let slot = self.slots.get(usize::from(itt.index())).ok_or(TaskError::NoSuchIndex(itt.index()))?;
        let task = slot.task.as_ref().ok_or(TaskError::Free(itt.index()))?;
        if WireItt::new(itt.index(), task.kind) != itt {
            return Err(TaskError::WrongKind(itt.0));
        }
        Ok(TaskHandle { index: itt.index(), generation: slot.generation })
    }

    /// The task of `handle`, unless it was freed.
    #[must_use]
    pub fn get(&self, handle: TaskHandle) -> Option<&Task<T>> {
        let slot = self.slots.get(usize::from(handle.index))?;
        slot.task.as_ref().filter(|_| slot.generation == handle.generation)
    }

    /// As [`get`](Self::get), to change it.
    pub fn get_mut(&mut self, handle: TaskHandle) -> Option<&mut Task<T>> {
        let slot = self.slots.get_mut(usize::from(handle.index))?;
        slot.task.as_mut().filter(|_| slot.generation == handle.generation)
    }

    /// Releases a task; `None` when the handle is stale. Only after its final CQE, its cleanup CQE, or proof
    /// that the card can no longer touch it (ARCHITECTURE 7, rule 3).
    pub fn free(&mut self, handle: TaskHandle) -> Option<Task<T>> {
        let slot = self.slots.get_mut(usize::from(handle.index))?;
        if slot.generation != handle.generation {
            return None;
        }
        let task = slot.task.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push_back(handle.index);
        match task.class {
            TaskClass::Scsi => self.scsi -= 1,
            TaskClass::Mgmt => self.mgmt -= 1,
        }
        Some(task)
    }

    /// The tasks in use, by index.
    pub fn iter(&self) -> impl Iterator<Item = (TaskHandle, &Task<T>)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| {
            let handle = TaskHandle { index: i as u16, generation: slot.generation };
            slot.task.as_ref().map(|task| (handle, task))
        })
    }

    /// The first task in use at or after `index`: walks the table while freeing.
    #[must_use]
    pub fn next_from(&self, index: u16) -> Option<TaskHandle> {
        let from = usize::from(index);
        let found = self.slots.get(from..)?.iter().position(|s| s.task.is_some())? + from;
        Some(TaskHandle { index: found as u16, generation: self.slots[found].generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(n: u16) -> TaskTable<u32> {
        TaskTable::new(n, 64)
    }

    fn scsi(t: &mut TaskTable<u32>, kind: TaskKind, data: u32) -> Result<TaskHandle, AllocError> {
        t.alloc(TaskClass::Scsi, kind, Lun::default(), Instant::ZERO, data)
    }

    #[test]
    fn size_is_clamped_and_rounded_down() {
        let size = |cmds, sq| TaskTable::<()>::new(cmds, sq).capacity();
        assert_eq!((size(128, 64), size(1, 64), size(63, 64), size(128, 100)), (64, 16, 32, 64));
    }

    #[test]
    fn management_always_finds_a_slot() {
        let mut t = table(64);
        for i in 0..49 {
            scsi(&mut t, TaskKind::Read, i).unwrap();
        }
        assert_eq!(scsi(&mut t, TaskKind::Read, 0), Err(AllocError::ScsiFull(49)));
        for _ in 0..15 {
            t.alloc(TaskClass::Mgmt, TaskKind::Mpath, Lun::default(), Instant::ZERO, 0).unwrap();
        }
        assert_eq!(
            t.alloc(TaskClass::Mgmt, TaskKind::Mpath, Lun::default(), Instant::ZERO, 0),
            Err(AllocError::MgmtFull(15))
        );
        assert_eq!(t.in_use(), 64);
    }

    #[test]
    fn wire_itt_carries_index_and_type() {
        let mut t = table(16);
        let a = scsi(&mut t, TaskKind::Read, 0).unwrap();
        let b = t.alloc(TaskClass::Mgmt, TaskKind::Mpath, Lun::default(), Instant::ZERO, 0).unwrap();
        assert_eq!(t.itt(a), Some(WireItt(0)));
        assert_eq!(t.itt(b), Some(WireItt(0x8001)));
        assert_eq!(t.find(WireItt(0x8001)), Ok(b));
        assert_eq!(t.find(WireItt(0x4001)), Err(TaskError::WrongKind(0x4001)));
        assert_eq!(t.find(WireItt(2)), Err(TaskError::Free(2)));
        assert_eq!(t.find(WireItt(0x10)), Err(TaskError::NoSuchIndex(0x10)));
        assert_eq!(t.find(WireItt::RESERVED), Err(TaskError::NoSuchIndex(0x3FFF)));
    }

    #[test]
    fn a_freed_task_is_gone_for_every_old_handle_and_its_slot_rests() {
        let mut t = table(16);
        let a = scsi(&mut t, TaskKind::Write, 7).unwrap();
        let itt = t.itt(a).unwrap();
        assert_eq!(t.free(a).map(|t| t.data), Some(7));
        assert!(t.free(a).is_none() && t.get(a).is_none());
        assert_eq!(t.find(itt), Err(TaskError::Free(0)), "a duplicate completion meets an empty slot");
        // The slot is reused last; then the old handle still finds nothing.
        for _ in 0..16 {
            let h = t.alloc(TaskClass::Mgmt, TaskKind::Mpath, Lun::default(), Instant::ZERO, 1).unwrap();
            if h.index == a.index {
                assert_ne!(h.generation, a.generation);
                assert!(t.get(a).is_none() && t.get_mut(a).is_none() && t.free(a).is_none());
                assert!(t.get(h).is_some(), "the old handle frees nobody else's task");
                return;
            }
            t.free(h);
        }
        panic!("slot 0 was never reused");
    }

    #[test]
    fn walking_while_freeing_sees_every_task_once() {
        let mut t = table(16);
        let mut given: Vec<_> = (0..1).map(|i| scsi(&mut t, TaskKind::Read, i).unwrap()).collect();
        given.extend(
            (0..5).map(|i| {
                t.alloc(TaskClass::Mgmt, TaskKind::Mpath, Lun::default(), Instant::ZERO, i).unwrap()
            }),
        );
        let (mut at, mut seen) = (0, Vec::new());
        while let Some(h) = t.next_from(at) {
            at = h.index + 1;
            seen.push(h);
            t.free(h);
        }
        assert_eq!((seen, t.in_use()), (given, 0));
    }

    #[test]
    fn age_wraps_at_four_bits() {
        let mut t = table(16);
        (0..17).for_each(|_| t.next_age());
        assert_eq!(t.age(), 1);
    }
}
