//! A load for measuring: keeps a fixed number of requests of one size under way and judges nothing but their
//! status.
//!
//! It allocates nothing once it is attached, and finds the slot of a completion by its ticket: tickets are
//! handed out in order, so the ones under way form a short window.

use std::collections::VecDeque;

use bus::pci::{DmaExhausted, Platform};
use bus::{Cx, Progress};
use driver::adapter::Adapter;
use driver::control::SessionId;
use driver::error::BlockError;
use driver::user::{Completion, Disk, Op, Request, SubmitError, UserBuf};
use lab::host::User;

/// What every request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Writes instead of reads.
    pub write: bool,
    /// Bytes, a multiple of the block size.
    pub bytes: usize,
    /// Requests under way per session.
    pub depth: usize,
}

struct Slot {
    session: usize,
    buf: UserBuf,
}

/// The load. See the module.
pub struct Blast {
    shape: Shape,
    sessions: Vec<(SessionId, Disk)>,
    slots: Vec<Slot>,
    /// Slots without a request under way.
    free: Vec<u32>,
    /// Slots of the tickets from `first` on; `None` when completed.
    window: VecDeque<Option<u32>>,
    first: u64,
    completions: Vec<Completion>,
    /// Requests that may still be submitted.
    left: u64,
    done: u64,
    next_block: u64,
    failure: Option<BlockError>,
}

impl Blast {
    /// A load of this shape without sessions.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            sessions: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            window: VecDeque::new(),
            first: 0,
            completions: Vec::new(),
            left: 0,
            done: 0,
            next_block: 0,
            failure: None,
        }
    }

    /// Loads the `disk` of a session too.
    ///
    /// # Errors
    /// [`DmaExhausted`] when there is no memory for its buffers.
    pub fn attach<P: Platform>(
        &mut self,
        adapter: &mut Adapter<P>,
        session: SessionId,
        disk: Disk,
    ) -> Result<(), DmaExhausted> {
        for i in 0..self.shape.depth {
            let buf = adapter.alloc(self.shape.bytes)?;
            if let Some(mem) = adapter.buffer(buf) {
                mem.fill(0, self.shape.bytes, i as u8);
            }
            self.free.push(self.slots.len() as u32);
            self.slots.push(Slot { session: self.sessions.len(), buf });
        }
        self.sessions.push((session, disk));
        self.window.reserve(8 * self.slots.len());
        self.completions.reserve(self.slots.len());
        Ok(())
    }

    /// Allows `n` more requests.
    pub fn allow(&mut self, n: u64) {
        self.left += n;
    }

    /// Requests completed so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Whether all that was allowed has completed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.left == 0 && self.free.len() == self.slots.len()
    }

    /// The first request that failed.
    #[must_use]
    pub fn failure(&self) -> Option<&BlockError> {
        self.failure.as_ref()
    }

    fn take(&mut self, completion: Completion) {
        if let Err(e) = completion.result {
            self.failure.get_or_insert(e);
        }
        let at = (completion.ticket.0 - self.first) as usize;
        let slot = self.window[at].take().expect("a ticket completes once");
        self.free.push(slot);
        while let Some(None) = self.window.front() {
            self.window.pop_front();
            self.first += 1;
        }
        self.done += 1;
    }

    /// Submits from a free slot; `false` when nothing was submitted.
    fn submit<P: Platform>(&mut self, cx: &mut Cx<'_>, adapter: &mut Adapter<P>) -> bool {
        let Some(&index) = self.free.last() else { return false };
        let slot = &self.slots[index as usize];
        let (session, disk) = &self.sessions[slot.session];
        let blocks = (self.shape.bytes / disk.block_size as usize) as u64;
        if self.next_block + blocks > disk.blocks {
            self.next_block = 0;
        }
        let op = if self.shape.write { Op::Write } else { Op::Read };
        let request = Request { lun: disk.lun, op, lba: self.next_block, data: &[slot.buf.whole()] };
        match adapter.submit(cx, *session, &request) {
            Ok(ticket) => {
                if self.window.is_empty() {
                    self.first = ticket.0;
                }
                self.window.push_back(Some(index));
                self.free.pop();
                self.left -= 1;
                self.next_block += blocks;
                true
            }
            Err(SubmitError::Busy { .. }) => false,
            Err(e) => panic!("a request of the bench was refused: {e}"),
        }
    }
}

impl<P: Platform> User<P> for Blast {
    fn drive(&mut self, cx: &mut Cx<'_>, adapter: &mut Adapter<P>) -> Progress {
        let mut done = 0;
        let mut completions = std::mem::take(&mut self.completions);
        adapter.reap(&mut completions);
        for c in completions.drain(..) {
            self.take(c);
            done += 1;
        }
        self.completions = completions;
        while self.left > 0 && self.submit(cx, adapter) {
            done += 1;
        }
        Progress { done, next: None }
    }
}
