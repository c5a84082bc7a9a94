//! The kernel queues: KWQ (context 24, host to chip) and KCQ (context 25, chip to host), BNX2I-CNIC 0.3, 2.4,
//! 5.9.
//!
//! The host describes each ring in its context and sets a go word: the indexes become zero, and the chip
//! reads the page table by DMA in its next step. Clearing the go word stops the ring where it is. Indexes are
//! free-running 16-bit counts, so that all entries of a ring can be used; an entry's slot is its index modulo
//! the ring. A ring that cannot be read or written stops until it is started again; that is an attention,
//! never a guess. What the host has no room for in the KCQ waits in a bounded backlog, in order.

use std::collections::VecDeque;

use bus::Instant;
use bus::pci::{DevCx, DmaFault, Grant};
use hsi::bcm5709::ctx;
use hsi::bcm5709::pte::IscsiPte;
use hsi::kernel::kcq::Kcqe;
use hsi::kernel::kwq::Kwqe;

/// Bytes of a KWQE or KCQE.
const ELEMENT: u64 = hsi::bcm5709::limits::KERNEL_QUEUE_ELEMENT_BYTES as u64;
/// Most pages of a ring.
const PAGES_MAX: usize = 64;
/// Elements moved by one DMA at most.
const BATCH: usize = 128;

/// What a context says about a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Description {
    table: u64,
    pages: usize,
    page_bytes: u64,
    sequence_max: u16,
    /// Status block that carries the ring's index.
    pub(super) block: usize,
}

/// A context that describes no ring the chip could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRing;

impl Description {
    /// Reads the description of a ring from its context; `word` reads a context word by its offset.
    pub(super) fn of(word: impl Fn(u32) -> u32) -> Result<Self, BadRing> {
        let flags = word(ctx::L5_KRNLQ_FLAGS);
        let pages = (word(ctx::L5_KRNLQ_PGTBL_NPAGES) & 0xffff) as usize;
        let page_bytes = 256_u64 << (flags & ctx::KRNLQ_FLAGS_PG_SZ);
        let entries = (pages as u64).saturating_mul(page_bytes / ELEMENT);
        let table = u64::from(word(ctx::L5_KRNLQ_PGTBL_HADDR_HI)) << 32
            | u64::from(word(ctx::L5_KRNLQ_PGTBL_HADDR_LO));
        let good = flags & ctx::KRNLQ_TYPE_TYPE == ctx::KRNLQ_TYPE_TYPE_KRNLQ
            && (1..=PAGES_MAX).contains(&pages)
            && entries.is_power_of_two()
            && entries <= 1 << 15;
        if !good {
            return Err(BadRing);
        }
        // 0 is the plain block (CHIP-REGISTERS 2, item 21).
        let block = (word(ctx::L5_KRNLQ_HOST_QIDX) >> ctx::BNX2_L2CTX_L5_STATUSB_NUM_SHIFT & 0xff) as usize;
        let sequence_max = (word(ctx::L5_KRNLQ_QE_SELF_SEQ_MAX) >> 16) as u16;
        Ok(Self {
            table,
            pages,
            page_bytes,
            sequence_max,
            block: block.saturating_sub(ctx::KRNLQ_STATUSB_BASE as usize),
        })
    }
}

enum State {
    /// No go word yet, or no more.
    Off,
    /// The go word is set; the page table is not read yet.
    Starting { table: u64, pages: usize },
    /// The ring is in use.
    Running,
    /// It could not be read or written.
    Failed,
}

/// One ring.
struct Ring {
    state: State,
    grant: Option<Grant>,
    pages: Vec<u64>,
    page_bytes: u64,
    entries: u16,
}

impl Ring {
    fn new() -> Self {
        Self {
            state: State::Off,
            grant: None,
            pages: Vec::with_capacity(PAGES_MAX),
            page_bytes: 0,
            entries: 0,
        }
    }

    /// The go word was set. Repeating it on a live ring changes nothing; returns whether the ring starts.
    fn start(&mut self, d: Description, grant: Grant) -> bool {
        if !matches!(self.state, State::Off) {
            return false;
        }
        self.page_bytes = d.page_bytes;
        self.entries = (d.pages as u64 * d.page_bytes / ELEMENT) as u16;
        self.grant = Some(grant);
        self.state = State::Starting { table: d.table, pages: d.pages };
        true
    }

    /// Whether the go word is set and the ring can be reached, as far as the chip knows.
    fn is_live(&self) -> bool {
        matches!(self.state, State::Starting { .. } | State::Running)
    }

    fn running(&self) -> Option<Grant> {
        if matches!(self.state, State::Running) { self.grant } else { None }
    }

    /// Reads the page table, if that is still to be done.
    fn load(&mut self, cx: &mut DevCx<'_>) -> Result<(), DmaFault> {
        let (State::Starting { table, pages }, Some(grant)) = (&self.state, self.grant) else {
            return Ok(());
        };
        let mut ptes = [0; 8 * PAGES_MAX];
        let ptes = &mut ptes[..8 * pages];
        let outcome = cx.dma_read(*table, ptes, grant);
        self.state = State::Failed;
        outcome?;
        self.pages.clear();
        self.pages.extend(ptes.as_chunks().0.iter().map(|&pte| IscsiPte::from_bytes(pte).addr()));
        self.state = State::Running;
        Ok(())
    }

    /// Bus address of the entry with this index, and how many entries follow in its page.
    fn locate(&self, index: u16) -> (u64, usize) {
        let offset = u64::from(index % self.entries) * ELEMENT;
        let within = offset % self.page_bytes;
        let page = self.pages[(offset / self.page_bytes) as usize];
        (page.wrapping_add(within), ((self.page_bytes - within) / ELEMENT) as usize)
    }
}

/// A doorbell value that no sound host writes. The ring is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadDoorbell;

/// The kernel work queue.
pub(super) struct Kwq {
    ring: Ring,
    producer: u16,
    consumer: u16,
    buffer: Vec<u8>,
}

impl Kwq {
    pub(super) fn new() -> Self {
        Self { ring: Ring::new(), producer: 0, consumer: 0, buffer: vec![0; BATCH * ELEMENT as usize] }
    }

    /// The go word was set.
    pub(super) fn go(&mut self, d: Description, grant: Grant) {
        if self.ring.start(d, grant) {
            (self.producer, self.consumer) = (0, 0);
        }
    }

    /// The go word was cleared.
    pub(super) fn stop(&mut self) {
        self.ring.state = State::Off;
    }

    /// The host rang: entries up to `producer` are valid.
    pub(super) fn ring(&mut self, producer: u16) -> Result<(), BadDoorbell> {
        let (new, old) = (producer.wrapping_sub(self.consumer), self.producer.wrapping_sub(self.consumer));
        if !self.ring.is_live() || new > self.ring.entries || new < old {
            return Err(BadDoorbell);
        }
        self.producer = producer;
        Ok(())
    }

    /// Reads the page table, if that is still to be done.
    pub(super) fn load(&mut self, cx: &mut DevCx<'_>) -> Result<(), DmaFault> {
        self.ring.load(cx)
    }

    /// Fetches at most `limit` entries in one DMA and appends them.
    pub(super) fn fetch(
        &mut self,
        cx: &mut DevCx<'_>,
        limit: usize,
        out: &mut VecDeque<Kwqe>,
    ) -> Result<(), DmaFault> {
        let Some(grant) = self.ring.running() else { return Ok(()) };
        let waiting = usize::from(self.producer.wrapping_sub(self.consumer));
        if waiting == 0 || limit == 0 {
            return Ok(());
        }
        let (addr, in_page) = self.ring.locate(self.consumer);
        let n = waiting.min(limit).min(in_page).min(BATCH);
        let bytes = &mut self.buffer[..n * ELEMENT as usize];
        if let Err(fault) = cx.dma_read(addr, bytes, grant) {
            self.ring.state = State::Failed;
            return Err(fault);
        }
        out.extend(bytes.as_chunks().0.iter().copied().map(Kwqe::from_bytes));
        self.consumer = self.consumer.wrapping_add(n as u16);
        Ok(())
    }

    /// Whether entries wait to be fetched.
    pub(super) fn has_work(&self) -> bool {
        self.ring.running().is_some() && self.producer != self.consumer
    }

    /// Entries consumed so far.
    pub(super) fn consumer(&self) -> u16 {
        self.consumer
    }
}

struct Waiting {
    kcqe: Kcqe,
    /// A defect holds it back until then.
    not_before: Option<Instant>,
}

/// The kernel completion queue, with the entries that wait for room in it.
pub(super) struct Kcq {
    ring: Ring,
    producer: u16,
    /// What the host has consumed, as it last said.
    consumer: u16,
    sequence: u16,
    sequence_max: u16,
    backlog: VecDeque<Waiting>,
    limit: usize,
    group: usize,
    buffer: Vec<u8>,
}

/// What the KCQ did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Posted {
    /// Entries written.
    pub(super) entries: u32,
    /// When the first held-back entry may be written.
    pub(super) next: Option<Instant>,
}

impl Kcq {
    /// No ring yet; at most `limit` entries wait, and groups have at most `group`.
    pub(super) fn new(limit: usize, group: usize) -> Self {
        Self {
            ring: Ring::new(),
            producer: 0,
            consumer: 0,
            sequence: 0,
            sequence_max: 0,
            backlog: VecDeque::with_capacity(limit),
            limit,
            group: group.max(1),
            buffer: vec![0; BATCH * ELEMENT as usize],
        }
    }

    /// The go word was set.
    pub(super) fn go(&mut self, d: Description, grant: Grant) {
        if self.ring.start(d, grant) {
            (self.producer, self.consumer) = (0, 0);
            (self.sequence, self.sequence_max) = (0, d.sequence_max);
        }
    }

    /// The go word was cleared: waiting entries are forgotten.
    pub(super) fn stop(&mut self) {
        self.ring.state = State::Off;
        self.backlog.clear();
    }

    /// Where the chip would write next, with the ring's grant, also after the host has stopped the ring.
    pub(super) fn target(&self) -> Option<(u64, Grant)> {
        let grant = self.ring.grant.filter(|_| !self.ring.pages.is_empty())?;
        Some((self.ring.locate(self.producer).0, grant))
    }

    /// How many more entries may wait.
    pub(super) fn room(&self) -> usize {
        self.limit - self.backlog.len()
    }

    /// Appends an entry. The caller has checked [`Kcq::room`].
    pub(super) fn push(&mut self, kcqe: Kcqe, not_before: Option<Instant>) {
        debug_assert!(self.room() > 0, "the caller checks the room");
        self.backlog.push_back(Waiting { kcqe, not_before });
    }

    /// The host has consumed up to `consumer`.
    pub(super) fn ack(&mut self, consumer: u16) -> Result<(), BadDoorbell> {
        let taken = consumer.wrapping_sub(self.consumer);
        if taken > self.producer.wrapping_sub(self.consumer) {
            return Err(BadDoorbell);
        }
        self.consumer = consumer;
        Ok(())
    }

    /// Entries written so far.
    pub(super) fn producer(&self) -> u16 {
        self.producer
    }

    /// Reads the page table, if that is still to be done.
    pub(super) fn load(&mut self, cx: &mut DevCx<'_>) -> Result<(), DmaFault> {
        self.ring.load(cx)
    }

    fn ready(&self, now: Instant) -> usize {
        self.backlog.iter().take_while(|w| w.not_before.is_none_or(|t| t <= now)).count()
    }

    /// Writes what waits, as far as there is room, and appends it to `written`.
    pub(super) fn post(&mut self, cx: &mut DevCx<'_>, written: &mut Vec<Kcqe>) -> Result<Posted, DmaFault> {
        let mut out = Posted::default();
        let Some(grant) = self.ring.running() else { return Ok(out) };
        let room = usize::from(self.ring.entries - self.producer.wrapping_sub(self.consumer));
        let ready = self.ready(cx.now);
        let total = ready.min(room);
        let mut done = 0;
        while done < total {
            let (addr, in_page) = self.ring.locate(self.producer);
            let n = (total - done).min(in_page).min(BATCH);
            for i in 0..n {
                let Some(mut w) = self.backlog.pop_front() else { break };
                let at = done + i;
                w.kcqe.set_qe_self_seq(self.sequence);
                w.kcqe.set_next(at % self.group + 1 < self.group && at + 1 < total);
                self.sequence = if self.sequence_max != 0 && self.sequence == self.sequence_max {
                    0
                } else {
                    self.sequence.wrapping_add(1)
                };
                self.buffer[i * ELEMENT as usize..][..ELEMENT as usize].copy_from_slice(w.kcqe.bytes());
                written.push(w.kcqe);
            }
            if let Err(fault) = cx.dma_write(addr, &self.buffer[..n * ELEMENT as usize], grant) {
                self.ring.state = State::Failed;
                return Err(fault);
            }
            self.producer = self.producer.wrapping_add(n as u16);
            done += n;
        }
        out.entries = total as u32;
        out.next = self.backlog.front().and_then(|w| w.not_before).filter(|&t| t > cx.now);
        Ok(out)
    }
}
