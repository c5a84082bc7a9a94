//! Host coalescing: status blocks, attentions, and when to interrupt (CHIP-REGISTERS 2, items 16 to 18).
//!
//! The chip collects what changed and publishes it once per step: indexes first, then the status index, then the
//! interrupt. Interrupts are one-shot on every kind of signalling: after one, no other until the host acknowledges
//! with a valid index; an acknowledgement of an old index raises the next at once. INTx is a level: unmasked, and the
//! last index not yet acknowledged. Not modelled: coalescing ticks and trip counts (stored, never waited for), the
//! statistics block, and the indexes of Ethernet rings.

use bus::pci::{DevCx, DmaFault, Grant, Vector, Word};
use hsi::regs;
use hsi::status_block::{BNX2_MAX_MSIX_HW_VEC, BNX2_SBLK_MSIX_ALIGN_SIZE};

/// Vectors, and with them status blocks.
pub(super) const VECTORS: usize = BNX2_MAX_MSIX_HW_VEC;

/// Offsets of the published words: attention bits and their acknowledged copy, then a word of KWQ consumer and KCQ
/// producer, and a word of block number and status index.
const ATTENTION: u64 = 0;
const ATTENTION_ACK: u64 = 4;
const PLAIN: (u64, u64) = (48, 52);
const PER_VECTOR: (u64, u64) = (4, 12);

#[derive(Clone, Copy)]
struct Block {
    /// Status index published last.
    index: u16,
    /// Status index acknowledged last.
    acked: u16,
    masked: bool,
    /// The next change may interrupt.
    armed: bool,
    /// Something is to be published.
    dirty: bool,
    /// Whether publishing it interrupts.
    loud: bool,
}

impl Block {
    const RESET: Self = Self { index: 0, acked: 0, masked: false, armed: true, dirty: false, loud: false };
}

/// Where the status blocks are, and since when.
#[derive(Clone, Copy)]
struct Base {
    addr: u64,
    grant: Grant,
}

/// Status blocks and interrupts of one card.
pub(super) struct HostCoalescing {
    base: Option<Base>,
    /// The host has set modes or asked for a block: addresses are complete.
    started: bool,
    blocks: [Block; VECTORS],
    /// The block that carries the indexes of KWQ and KCQ.
    kernel: usize,
    kwq_consumer: u16,
    kcq_producer: u16,
    attention: u32,
    attention_ack: u32,
    /// The attention words are to be published with the plain block.
    attention_dirty: bool,
    last_ack: u16,
    intx: bool,
}

/// What publishing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    /// Interrupts raised.
    pub(super) interrupts: u32,
    /// Status blocks that could not be written.
    pub(super) faults: u32,
}

impl HostCoalescing {
    pub(super) fn new() -> Self {
        Self {
            base: None,
            started: false,
            blocks: [Block::RESET; VECTORS],
            kernel: 0,
            kwq_consumer: 0,
            kcq_producer: 0,
            attention: 0,
            attention_ack: 0,
            attention_dirty: true,
            last_ack: 0,
            intx: false,
        }
    }

    /// The host moves the status block. 0: there is none.
    pub(super) fn set_base(&mut self, cx: &DevCx<'_>, addr: u64) {
        self.base = (addr != 0).then(|| Base { addr, grant: cx.host.grant() });
        self.attention_dirty = true;
    }

    /// The host is done with the addresses. Nothing is published before.
    pub(super) fn start(&mut self) {
        self.started = true;
    }

    /// Which block carries the indexes of the kernel queues. Out of range: the plain one.
    pub(super) fn set_kernel_block(&mut self, block: usize) {
        self.kernel = if block < VECTORS { block } else { 0 };
    }

    /// KWQ consumer or KCQ producer changed.
    pub(super) fn set_indexes(&mut self, kwq_consumer: u16, kcq_producer: u16) {
        if (kwq_consumer, kcq_producer) != (self.kwq_consumer, self.kcq_producer) {
            (self.kwq_consumer, self.kcq_producer) = (kwq_consumer, kcq_producer);
            self.mark(self.kernel, true);
        }
    }

    /// The kernel queues start over: their indexes are published without an interrupt.
    pub(super) fn restart_indexes(&mut self, kwq_consumer: u16, kcq_producer: u16) {
        (self.kwq_consumer, self.kcq_producer) = (kwq_consumer, kcq_producer);
        self.mark(self.kernel, false);
    }

    /// Attention bits after a reset. They are news with the first block that is published.
    pub(super) fn set_attention(&mut self, bits: u32) {
        self.attention = bits;
    }

    /// Raises or clears attention bits. The host sees a bit as news while it differs from its acknowledged copy.
    pub(super) fn attend(&mut self, bits: u32, on: bool) {
        let attention = if on { self.attention | bits } else { self.attention & !bits };
        if attention != self.attention {
            self.attention = attention;
            self.attention_dirty = true;
            self.mark(0, true);
        }
    }

    /// The host sets or clears acknowledged attention bits.
    pub(super) fn attention_ack(&mut self, bits: u32, set: bool) {
        self.attention_ack = if set { self.attention_ack | bits } else { self.attention_ack & !bits };
        self.attention_dirty = true;
        self.mark(0, false);
    }

    /// The host asks for a block now.
    pub(super) fn coalesce_now(&mut self, block: usize, interrupt: bool) {
        self.attention_dirty |= block == 0;
        self.mark(block, interrupt);
    }

    fn mark(&mut self, block: usize, loud: bool) {
        if let Some(b) = self.blocks.get_mut(block) {
            b.dirty = true;
            b.loud |= loud;
        }
    }

    /// The status index acknowledged last.
    pub(super) fn last_ack(&self) -> u16 {
        self.last_ack
    }

    /// The host acknowledges, masks or unmasks. Returns whether an interrupt was raised at once.
    pub(super) fn ack(&mut self, cx: &mut DevCx<'_>, command: u32) -> bool {
        let vector =
            (command & regs::PCICFG_INT_ACK_CMD_INTERRUPT_NUM) >> regs::PCICFG_INT_ACK_CMD_INT_NUM_SHIFT;
        let Some(b) = self.blocks.get_mut(vector as usize) else { return false };
        if command & regs::PCICFG_INT_ACK_CMD_INDEX_VALID != 0 {
            b.acked = (command & regs::PCICFG_INT_ACK_CMD_INDEX) as u16;
            b.armed = true;
            self.last_ack = b.acked;
        }
        b.masked = command & regs::PCICFG_INT_ACK_CMD_MASK_INT != 0;
        let old = b.acked != b.index;
        let raised = old && self.signal(cx, vector as usize);
        self.drive_intx(cx);
        raised
    }

    /// Publishes what changed, and interrupts.
    pub(super) fn publish(&mut self, cx: &mut DevCx<'_>) -> Published {
        let mut out = Published::default();
        let Some(base) = self.base.filter(|_| self.started) else { return out };
        for n in 0..VECTORS {
            if !self.blocks[n].dirty {
                continue;
            }
            self.blocks[n].dirty = false;
            let loud = std::mem::take(&mut self.blocks[n].loud);
            self.blocks[n].index = self.blocks[n].index.wrapping_add(1);
            if self.write(cx, base, n).is_err() {
                out.faults += 1;
            } else if loud {
                out.interrupts += u32::from(self.signal(cx, n));
            }
        }
        if out != Published::default() {
            self.drive_intx(cx);
        }
        out
    }

    fn write(&mut self, cx: &mut DevCx<'_>, base: Base, n: usize) -> Result<(), DmaFault> {
        let block = base.addr.wrapping_add((n * BNX2_SBLK_MSIX_ALIGN_SIZE) as u64);
        let mut word = |at: u64, v: u32| cx.publish(block.wrapping_add(at), Word::U32(v), base.grant);
        let (indexes, status) = if n == 0 { PLAIN } else { PER_VECTOR };
        if n == 0 && std::mem::take(&mut self.attention_dirty) {
            word(ATTENTION, self.attention)?;
            word(ATTENTION_ACK, self.attention_ack)?;
        }
        if n == self.kernel {
            word(indexes, u32::from(self.kwq_consumer) | u32::from(self.kcq_producer) << 16)?;
        }
        word(status, n as u32 | u32::from(self.blocks[n].index) << 16)
    }

    /// Raises a block's interrupt, if it may.
    fn signal(&mut self, cx: &mut DevCx<'_>, n: usize) -> bool {
        let b = &mut self.blocks[n];
        let Some(base) = self.base else { return false };
        if b.masked || !b.armed {
            return false;
        }
        b.armed = false;
        cx.msi(Vector(n as u8), base.grant);
        true
    }

    /// INTx follows the plain block. It counts as one interrupt with the message that goes with it; which of the two
    /// the host sees is the bus's business.
    fn drive_intx(&mut self, cx: &mut DevCx<'_>) {
        let b = &self.blocks[0];
        let level = self.base.is_some() && !b.masked && b.index != b.acked;
        if level != self.intx {
            self.intx = level;
            cx.host.intx(level);
        }
    }
}
