//! The three rings of a connection as the chip sees them: page tables, the send queue's consumer side, the
//! completion queue's producer side, the receive queue's buffers (BNX2I-CNIC 4.3, 4.5, 5.5, 5.7).

use bus::pci::{DevCx, DmaFault, Grant, Word};
use hsi::iscsi::cq::{CqSequence, Cqe};
use hsi::iscsi::rq::RqProducer;

/// Bytes of an SQ entry and of a CQ entry.
pub(super) const ENTRY: usize = 64;

/// Largest number of SQ entries fetched by one DMA read.
pub(super) const FETCH: usize = 16;

/// A page table that cannot be read or makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadTable;

/// A ring's memory: one bus address for each page.
pub(super) struct Pages {
    pages: Box<[u64]>,
    shift: u32,
}

impl Pages {
    /// Reads the page table at `table` for a ring of `bytes`. Pages are aligned to entries.
    pub(super) fn read(
        cx: &mut DevCx<'_>,
        table: u64,
        bytes: usize,
        page_size: u32,
        grant: Grant,
    ) -> Result<Self, BadTable> {
        let count = bytes.div_ceil(page_size as usize);
        let mut raw = vec![0; count * 8];
        cx.dma_read(table, &mut raw, grant).map_err(|_| BadTable)?;
        let word = |b: &[u8]| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let pages: Box<[u64]> = raw.chunks_exact(8).map(|p| word(&p[..4]) << 32 | word(&p[4..])).collect();
        let sound = |&page: &u64| {
            page != 0 && page.is_multiple_of(ENTRY as u64) && page.checked_add(u64::from(page_size)).is_some()
        };
        if !pages.iter().all(sound) {
            return Err(BadTable);
        }
        Ok(Self { pages, shift: page_size.trailing_zeros() })
    }

    /// Bus address of a byte of the ring, and the bytes from there to the end of its page.
    fn at(&self, offset: usize) -> (u64, usize) {
        let within = offset & ((1 << self.shift) - 1);
        (self.pages[offset >> self.shift] + within as u64, (1 << self.shift) - within)
    }
}

/// The send queue, consumer side. The producer index is free-running, the slot is kept apart: 65536 need not
/// be a multiple of the ring size.
pub(super) struct Sq {
    pages: Pages,
    entries: u16,
    producer: u16,
    consumer: u16,
    slot: u16,
    /// Entries announced by doorbells so far.
    pub(super) announced: u64,
}

impl Sq {
    pub(super) fn new(pages: Pages, entries: u16) -> Self {
        Self { pages, entries, producer: 0, consumer: 0, slot: 0, announced: 0 }
    }

    /// Takes a doorbell; false when it claims more entries than the ring has.
    pub(super) fn ring(&mut self, producer: u16) -> bool {
        if producer.wrapping_sub(self.consumer) > self.entries {
            return false;
        }
        self.announced += u64::from(producer.wrapping_sub(self.producer));
        self.producer = producer;
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.producer == self.consumer
    }

    /// Copies the next entries, as many as wait, lie in one piece and fit; the number of them.
    pub(super) fn fetch(
        &self,
        cx: &mut DevCx<'_>,
        out: &mut [[u8; ENTRY]],
        grant: Grant,
    ) -> Result<usize, DmaFault> {
        let waiting = self.producer.wrapping_sub(self.consumer).min(self.entries - self.slot);
        let (addr, left) = self.pages.at(usize::from(self.slot) * ENTRY);
        let n = usize::from(waiting).min(out.len()).min(left / ENTRY);
        cx.dma_read(addr, out[..n].as_flattened_mut(), grant)?;
        Ok(n)
    }

    /// The next entry is done with.
    pub(super) fn advance(&mut self) {
        self.consumer = self.consumer.wrapping_add(1);
        self.slot = (self.slot + 1) % self.entries;
    }
}

/// The completion queue, producer side. No consumer index ever reaches the chip.
pub(super) struct Cq {
    pages: Pages,
    sequence: CqSequence,
}

impl Cq {
    pub(super) fn new(pages: Pages, entries: u16) -> Self {
        Self { pages, sequence: CqSequence::new(entries) }
    }

    /// Posts an entry: everything but the last word, then the last word, which hands it to the host.
    pub(super) fn post(&mut self, cx: &mut DevCx<'_>, cqe: &Cqe, grant: Grant) -> Result<(), DmaFault> {
        const LAST: usize = ENTRY - 4;
        let (addr, _) = self.pages.at(usize::from(self.sequence.slot()) * ENTRY);
        cx.dma_write(addr, &cqe.cqe_byte[..LAST], grant)?;
        cx.publish(addr + LAST as u64, Word::U32(self.sequence.sn()), grant)?;
        self.sequence.advance();
        Ok(())
    }
}

/// The receive queue: buffers for sense data and unsolicited payload, used strictly in order.
pub(super) struct Rq {
    pages: Pages,
    entries: u16,
    size: u16,
    producer: RqProducer,
    /// Position of the next buffer, modulo twice the ring: comparable with the producer's.
    consumer: u16,
    /// Buffers given back by doorbells so far.
    pub(super) returned: u64,
}

impl Rq {
    /// The hardware takes the ring to be full at the start (BNX2I-CNIC 4.5).
    pub(super) fn new(pages: Pages, entries: u16, size: u16) -> Self {
        Self { pages, entries, size, producer: RqProducer::INITIAL, consumer: 0, returned: 0 }
    }

    fn ahead(&self, producer: RqProducer) -> u16 {
        let lap = 2 * self.entries;
        (producer.position(self.entries) + lap - self.consumer) % lap
    }

    /// Takes a doorbell; false when it claims more buffers than the ring has.
    pub(super) fn ring(&mut self, producer: u16) -> bool {
        let producer = RqProducer(producer);
        if producer.0 & !RqProducer::PHASE > self.entries || self.ahead(producer) > self.entries {
            return false;
        }
        self.returned += u64::from(producer.since(self.producer, self.entries));
        self.producer = producer;
        true
    }

    /// Buffers that the chip may write.
    pub(super) fn available(&self) -> u16 {
        self.ahead(self.producer)
    }

    /// Bytes of one buffer.
    pub(super) fn size(&self) -> u32 {
        u32::from(self.size)
    }

    /// Writes into the next buffer. The range is inside it.
    pub(super) fn write(
        &self,
        cx: &mut DevCx<'_>,
        offset: u32,
        mut bytes: &[u8],
        grant: Grant,
    ) -> Result<(), DmaFault> {
        debug_assert!(offset as usize + bytes.len() <= usize::from(self.size), "checked with the header");
        let mut at = usize::from(self.consumer % self.entries) * usize::from(self.size) + offset as usize;
        while !bytes.is_empty() {
            let (addr, left) = self.pages.at(at);
            let (now, rest) = bytes.split_at(left.min(bytes.len()));
            cx.dma_write(addr, now, grant)?;
            at += now.len();
            bytes = rest;
        }
        Ok(())
    }

    /// The next buffer is full.
    pub(super) fn advance(&mut self) {
        self.consumer = (self.consumer + 1) % (2 * self.entries);
    }
}
