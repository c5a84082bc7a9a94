//! Task contexts of a connection, one for each ITT index, made when the connection is offloaded.

use hsi::iscsi::bits::Itt;

use super::MAX_R2TS;
use super::bd::BdList;

/// What a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// SCSI command that reads, or moves no data.
    Read,
    /// SCSI command that writes.
    Write,
    Login,
    Text,
    Tmf,
    Logout,
    Nop,
}

/// Whether an ITT index is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Free,
    Active(Kind),
    /// Forgotten by CLEANUP, or rejected: late PDUs for it are dropped until the index is used again.
    Cleaned,
}

/// A run of Data-Out PDUs that is being sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sequence {
    /// Target transfer tag; reserved for unsolicited data.
    pub(super) ttt: u32,
    /// Buffer offset of the next byte.
    pub(super) offset: u32,
    /// Bytes left, at least 1.
    pub(super) left: u32,
    /// DataSN of the next PDU.
    pub(super) data_sn: u32,
}

/// One task context.
#[derive(Default)]
pub(super) struct Task {
    pub(super) state: State,
    /// The 16 bits of the WQE, which are the tag on the wire too.
    pub(super) itt: u16,
    pub(super) lun: [u8; 8],
    /// Expected data transfer length, bytes.
    pub(super) len: u32,
    /// The data buffer of a command; the response buffer of login and text.
    pub(super) bds: BdList,
    /// Buffer offset of the next Data-In, or of the next R2T.
    pub(super) next_offset: u32,
    /// Bytes of the Data-In sequence that is being received.
    pub(super) burst: u32,
    /// Data-Ins, or R2Ts, received: the next DataSN or R2TSN.
    pub(super) received: u32,
    /// Data-Outs sent.
    pub(super) data_outs: u16,
    /// The run that is being sent.
    pub(super) sequence: Option<Sequence>,
    /// R2Ts that wait for their turn, oldest first.
    waiting: [Sequence; MAX_R2TS],
    waiting_len: u8,
}

// 128 connections of 128 tasks are 12 MiB.
const _: () = assert!(size_of::<Task>() <= 768);

impl Task {
    /// R2Ts that are not answered in full.
    pub(super) fn open_r2ts(&self) -> usize {
        let current = self.sequence.is_some_and(|s| s.ttt != iscsi::pdu::RESERVED_TAG);
        usize::from(self.waiting_len) + usize::from(current)
    }

    /// Takes an R2T; false when there is no room. It becomes the current run if there is none.
    pub(super) fn push_r2t(&mut self, r2t: Sequence) -> bool {
        if self.sequence.is_none() {
            self.sequence = Some(r2t);
            return true;
        }
        match self.waiting.get_mut(usize::from(self.waiting_len)) {
            Some(slot) => {
                *slot = r2t;
                self.waiting_len += 1;
                true
            }
            None => false,
        }
    }

    /// `n` bytes of the current run were sent; the next run becomes current after the last.
    pub(super) fn sent(&mut self, n: u32) {
        self.data_outs = self.data_outs.wrapping_add(1);
        let Some(run) = &mut self.sequence else { return };
        run.offset += n;
        run.left -= n;
        run.data_sn += 1;
        if run.left == 0 {
            self.sequence = None;
            if self.waiting_len > 0 {
                self.sequence = Some(self.waiting[0]);
                self.waiting.copy_within(1.., 0);
                self.waiting_len -= 1;
            }
        }
    }
}

/// The task contexts of a connection.
pub(super) struct Tasks {
    tasks: Box<[Task]>,
    active: u32,
}

impl Tasks {
    pub(super) fn new(count: u16) -> Self {
        let mut tasks = Vec::new();
        tasks.resize_with(usize::from(count), Task::default);
        Self { tasks: tasks.into_boxed_slice(), active: 0 }
    }

    /// Tasks in progress.
    pub(super) fn active(&self) -> u32 {
        self.active
    }

    pub(super) fn get(&self, index: u16) -> Option<&Task> {
        self.tasks.get(usize::from(index))
    }

    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut Task> {
        self.tasks.get_mut(usize::from(index))
    }

    /// The context for a new task with that tag, with the lists of the last one; `None` when the index is out
    /// of range or in use.
    pub(super) fn vacant(&mut self, itt: Itt) -> Option<&mut Task> {
        self.get_mut(itt.index()).filter(|t| !matches!(t.state, State::Active(_)))
    }

    /// Starts a task in a vacant context whose buffer list is loaded already.
    pub(super) fn start(&mut self, itt: Itt, kind: Kind, lun: [u8; 8], len: u32) -> &mut Task {
        self.active += 1;
        let task = &mut self.tasks[usize::from(itt.index())];
        task.state = State::Active(kind);
        (task.itt, task.lun, task.len) = (itt.raw(), lun, len);
        (task.next_offset, task.burst, task.received, task.data_outs) = (0, 0, 0, 0);
        (task.sequence, task.waiting_len) = (None, 0);
        task
    }

    /// Ends a task: its buffers are out of reach from here on.
    pub(super) fn end(&mut self, index: u16, state: State) {
        let Some(task) = self.tasks.get_mut(usize::from(index)) else { return };
        if matches!(task.state, State::Active(_)) {
            self.active -= 1;
        }
        task.state = state;
        task.bds.clear();
        (task.sequence, task.waiting_len) = (None, 0);
    }
}
