//! Host coalescing: status blocks, attentions, and when to interrupt (CHIP-REGISTERS 2, items 16 to 18).
//!
//! The chip collects what changed and publishes it at most once per step: indexes first, then the status
//! index, then the interrupt. Interrupts are one-shot on every kind of signalling: after one, no other until
//! the host acknowledges with a valid index; an acknowledgement of an old index raises the next at once. INTx
//! is a level: unmasked, and the last index not yet acknowledged.
//!
//! **Thresholds.** Each block has a trip count and a time limit for receive, transmit, KCQ and (time only)
//! KWQ. The first event of a class starts its time; the block is published, with an interrupt, when one class
//! has as many events as its trip count or its time is over. With neither set it is published in the same
//! step. While an interrupt is being served (raised or masked, and not acknowledged) the upper halves of the
//! registers count, else the lower ones. Publishing with an interrupt takes everything along; publishing
//! without one (a ring that starts over, a request for the block alone) leaves counts and times as they are,
//! so that what happened is still announced. When the host acknowledges, unmasks or changes thresholds, what
//! waits is judged again. A block that could not be written stays due for an interrupt with the next one that
//! can.
//!
//! **Attentions** are latched: a bit follows its level only while the host has acknowledged what it shows. A
//! level that comes back sooner is shown after the acknowledgement. Timer modes, periodic updates and
//! `USE_INT_PARAM` change nothing.

use std::time::Duration;

use bus::Instant;
use bus::pci::{DevCx, DmaFault, Grant, Vector, Word};
use hsi::bcm5709::regs;
use hsi::bcm5709::status_block::BNX2_MAX_MSIX_HW_VEC;

/// Vectors, and with them status blocks.
pub(super) const VECTORS: usize = BNX2_MAX_MSIX_HW_VEC;

/// Words of the plain block; those of the other vectors have [`VECTOR_WORDS`]. The last one holds block
/// number and status index.
const PLAIN_WORDS: usize = 14;
const VECTOR_WORDS: usize = 4;
const ATTENTION: usize = 0;
const ATTENTION_ACK: usize = 1;

/// What an index counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Rx,
    Tx,
    Kcq,
    Kwq,
}

const CLASSES: usize = 4;

/// Where a 16-bit index stands: block, word, half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    block: usize,
    word: usize,
    high: bool,
    class: Class,
}

impl Place {
    /// The consumer of transmit ring `n` of the plain block, or of the one ring of another block.
    pub(super) const fn tx(block: usize, n: usize) -> Self {
        match block {
            0 => Self { block, word: 2 + n / 2, high: n.is_multiple_of(2), class: Class::Tx },
            _ => Self { block, word: 0, high: true, class: Class::Tx },
        }
    }

    /// The consumer of receive ring `n` of the plain block, or of the one ring of another block.
    pub(super) const fn rx(block: usize, n: usize) -> Self {
        match block {
            0 => Self { block, word: 4 + n / 2, high: n.is_multiple_of(2), class: Class::Rx },
            _ => Self { block, word: 0, high: false, class: Class::Rx },
        }
    }

    const fn kernel(block: usize, class: Class) -> Self {
        let word = if block == 0 { 12 } else { 1 };
        Self { block, word, high: matches!(class, Class::Kcq), class }
    }
}

/// Trip count and time limit of one class: while interrupts are armed, and while one is being served. 0:
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Threshold {
    trip: [u32; 2],
    ticks_us: [u32; 2],
}

#[derive(Clone, Copy)]
struct Block {
    words: [u32; PLAIN_WORDS],
    /// Words to be written, by bit.
    dirty: u16,
    thresholds: [Threshold; CLASSES],
    /// Events that were not published yet.
    events: [u32; CLASSES],
    /// The earliest time limit.
    due: Option<Instant>,
    /// Publish in this step.
    publish: bool,
    /// Publishing interrupts.
    loud: bool,
    /// Status index published last.
    index: u16,
    /// Status index acknowledged last.
    acked: u16,
    masked: bool,
    /// The next change may interrupt.
    armed: bool,
}

impl Block {
    const RESET: Self = Self {
        words: [0; PLAIN_WORDS],
        dirty: !0,
        thresholds: [Threshold { trip: [0; 2], ticks_us: [0; 2] }; CLASSES],
        events: [0; CLASSES],
        due: None,
        publish: false,
        loud: false,
        index: 0,
        acked: 0,
        masked: false,
        armed: true,
    };

    fn store(&mut self, word: usize, value: u32) -> bool {
        let changed = self.words[word] != value;
        if changed {
            self.words[word] = value;
            self.dirty |= 1 << word;
        }
        changed
    }

    fn store_half(&mut self, word: usize, high: bool, value: u16) -> bool {
        let (shift, value) = (if high { 16 } else { 0 }, u32::from(value));
        self.store(word, self.words[word] & !(0xffff << shift) | value << shift)
    }

    fn mark(&mut self, loud: bool) {
        self.publish = true;
        self.loud |= loud;
    }

    /// So many events of a class happened.
    fn count(&mut self, class: Class, events: u32, now: Instant) {
        let n = &mut self.events[class as usize];
        *n = n.saturating_add(events);
        self.judge(class as usize, now);
    }

    /// Other thresholds count now.
    fn judge_all(&mut self, now: Instant) {
        for class in 0..CLASSES {
            if self.events[class] != 0 {
                self.judge(class, now);
            }
        }
    }

    /// Whether the events of a class are to be announced, now or later.
    fn judge(&mut self, class: usize, now: Instant) {
        let serving = usize::from(self.masked || !self.armed);
        let t = self.thresholds[class];
        let (trip, ticks) = (t.trip[serving], t.ticks_us[serving]);
        if trip != 0 && self.events[class] >= trip || trip == 0 && ticks == 0 {
            self.mark(true);
        } else if ticks != 0 {
            self.due = Instant::earliest(self.due, Some(now + Duration::from_micros(ticks.into())));
        }
    }
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
    /// Bytes from one block to the next.
    distance: u64,
    /// The host has set modes or asked for a block: addresses are complete.
    started: bool,
    blocks: [Block; VECTORS],
    /// The block that carries the indexes of KWQ and KCQ.
    kernel: usize,
    kwq_consumer: u16,
    kcq_producer: u16,
    last_ack: u16,
    intx: bool,
    /// Attention bits as the chip has them; the block shows them when the host has acknowledged what was
    /// before.
    levels: u32,
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
            distance: 64,
            started: false,
            blocks: [Block::RESET; VECTORS],
            kernel: 0,
            kwq_consumer: 0,
            kcq_producer: 0,
            last_ack: 0,
            intx: false,
            levels: 0,
        }
    }

    /// The host moves the status block. 0: there is none.
    pub(super) fn set_base(&mut self, cx: &DevCx<'_>, addr: u64) {
        self.base = (addr != 0).then(|| Base { addr, grant: cx.host.grant() });
        self.blocks.iter_mut().for_each(|b| b.dirty = !0);
    }

    /// `HC_CONFIG`. The host is done with the addresses; nothing is published before.
    pub(super) fn set_modes(&mut self, config: u32) {
        self.distance = 64 << ((config & regs::HC_CONFIG_SB_ADDR_INC) >> 24);
        self.start();
    }

    /// The host asks for a block: it is done with the addresses.
    pub(super) fn start(&mut self) {
        self.started = true;
    }

    /// The host changed thresholds; `register` reads a register of register space.
    pub(super) fn set_thresholds(&mut self, register: impl Fn(u32) -> u32, now: Instant) {
        let halves = |value: u32, mask: u32| [value & mask, value >> 16 & mask];
        for (n, b) in self.blocks.iter_mut().enumerate() {
            // Vectors have the plain block's registers once more, in another order.
            let trip = |plain: u32, offset: u32| {
                let at = regs::hc_sb_config(n as u32).map_or(plain, |base| base + offset);
                halves(register(at), regs::HC_RX_QUICK_CONS_TRIP_VALUE)
            };
            let ticks = |plain: u32, offset: u32| {
                let at = regs::hc_sb_config(n as u32).map_or(plain, |base| base + offset);
                halves(register(at), regs::HC_RX_TICKS_VALUE)
            };
            let mut set = |class: Class, trip: [u32; 2], ticks_us: [u32; 2]| {
                b.thresholds[class as usize] = Threshold { trip, ticks_us };
            };
            set(
                Class::Rx,
                trip(regs::HC_RX_QUICK_CONS_TRIP, regs::HC_RX_QUICK_CONS_TRIP_OFF),
                ticks(regs::HC_RX_TICKS, regs::HC_RX_TICKS_OFF),
            );
            set(
                Class::Tx,
                trip(regs::HC_TX_QUICK_CONS_TRIP, regs::HC_TX_QUICK_CONS_TRIP_OFF),
                ticks(regs::HC_TX_TICKS, regs::HC_TX_TICKS_OFF),
            );
            set(
                Class::Kcq,
                trip(regs::HC_COMP_PROD_TRIP, regs::HC_COMP_PROD_TRIP_OFF),
                ticks(regs::HC_COM_TICKS, regs::HC_COM_TICKS_OFF),
            );
            set(Class::Kwq, [0; 2], ticks(regs::HC_CMD_TICKS, regs::HC_CMD_TICKS_OFF));
            b.judge_all(now);
        }
    }

    /// Which block carries the indexes of the kernel queues. Out of range: the plain one.
    pub(super) fn set_kernel_block(&mut self, block: usize) {
        self.kernel = if block < VECTORS { block } else { 0 };
    }

    /// An index moved by `events` entries.
    pub(super) fn advance(&mut self, place: Place, value: u16, events: u32, now: Instant) {
        let b = &mut self.blocks[place.block];
        if b.store_half(place.word, place.high, value) {
            b.count(place.class, events, now);
        }
    }

    /// KWQ consumer or KCQ producer changed.
    pub(super) fn set_indexes(&mut self, kwq_consumer: u16, kcq_producer: u16, now: Instant) {
        let kwq = kwq_consumer.wrapping_sub(std::mem::replace(&mut self.kwq_consumer, kwq_consumer));
        let kcq = kcq_producer.wrapping_sub(std::mem::replace(&mut self.kcq_producer, kcq_producer));
        self.advance(Place::kernel(self.kernel, Class::Kwq), kwq_consumer, kwq.into(), now);
        self.advance(Place::kernel(self.kernel, Class::Kcq), kcq_producer, kcq.into(), now);
    }

    /// A ring starts over: its index is published without an interrupt.
    pub(super) fn restart(&mut self, place: Place, value: u16) {
        let b = &mut self.blocks[place.block];
        b.store_half(place.word, place.high, value);
        b.mark(false);
    }

    /// The same for the kernel queues.
    pub(super) fn restart_indexes(&mut self, kwq_consumer: u16, kcq_producer: u16) {
        (self.kwq_consumer, self.kcq_producer) = (kwq_consumer, kcq_producer);
        self.restart(Place::kernel(self.kernel, Class::Kwq), kwq_consumer);
        self.restart(Place::kernel(self.kernel, Class::Kcq), kcq_producer);
    }

    /// Attention bits after a reset. They are news with the first block that is published.
    pub(super) fn set_attention(&mut self, bits: u32) {
        self.levels = bits;
        self.blocks[0].store(ATTENTION, bits);
    }

    /// Raises or clears attention bits. The host sees a bit as news while it differs from its acknowledged
    /// copy.
    pub(super) fn attend(&mut self, bits: u32, on: bool) {
        self.levels = if on { self.levels | bits } else { self.levels & !bits };
        self.show_attention();
    }

    /// Shows the levels of all bits whose last change was acknowledged.
    fn show_attention(&mut self) {
        let b = &mut self.blocks[0];
        let (shown, acked) = (b.words[ATTENTION], b.words[ATTENTION_ACK]);
        let held = shown ^ acked;
        if b.store(ATTENTION, shown & held | self.levels & !held) {
            b.mark(true);
        }
    }

    /// The host sets or clears acknowledged attention bits.
    pub(super) fn attention_ack(&mut self, bits: u32, set: bool) {
        let b = &mut self.blocks[0];
        let now = b.words[ATTENTION_ACK];
        b.store(ATTENTION_ACK, if set { now | bits } else { now & !bits });
        b.mark(false);
        self.show_attention();
    }

    /// The host asks for a block now.
    pub(super) fn coalesce_now(&mut self, block: usize, interrupt: bool) {
        if let Some(b) = self.blocks.get_mut(block) {
            b.mark(interrupt);
        }
    }

    /// The status index acknowledged last.
    pub(super) fn last_ack(&self) -> u16 {
        self.last_ack
    }

    /// Whether INTx is asserted.
    pub(super) fn intx(&self) -> bool {
        self.intx
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
        b.judge_all(cx.now);
        let old = b.acked != b.index;
        let raised = old && self.signal(cx, vector as usize);
        self.drive_intx(cx);
        raised
    }

    /// The earliest time limit of a block.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.base.is_none() || !self.started {
            return None;
        }
        self.blocks.iter().filter_map(|b| b.due).min()
    }

    /// Publishes what is due, and interrupts.
    pub(super) fn publish(&mut self, cx: &mut DevCx<'_>) -> Published {
        let mut out = Published::default();
        let Some(base) = self.base.filter(|_| self.started) else { return out };
        for n in 0..VECTORS {
            let b = &mut self.blocks[n];
            if b.due.is_some_and(|t| t <= cx.now) {
                b.mark(true);
            }
            if !b.publish {
                continue;
            }
            let loud = std::mem::take(&mut b.loud);
            b.publish = false;
            if loud {
                (b.due, b.events) = (None, [0; CLASSES]);
            }
            b.index = b.index.wrapping_add(1);
            if self.write(cx, base, n).is_err() {
                self.blocks[n].loud |= loud;
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
        let words = if n == 0 { PLAIN_WORDS } else { VECTOR_WORDS };
        let b = &mut self.blocks[n];
        b.words[words - 1] = n as u32 | u32::from(b.index) << 16;
        b.dirty |= 1 << (words - 1);
        let block = base.addr.wrapping_add(n as u64 * self.distance);
        for word in (0..words).filter(|w| b.dirty >> w & 1 == 1) {
            cx.publish(block.wrapping_add(4 * word as u64), Word::U32(b.words[word]), base.grant)?;
        }
        b.dirty = 0;
        Ok(())
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

    /// INTx follows the plain block. It counts as one interrupt with the message that goes with it; which of
    /// the two the host sees is the bus's business.
    fn drive_intx(&mut self, cx: &mut DevCx<'_>) {
        let b = &self.blocks[0];
        let level = self.base.is_some() && !b.masked && b.index != b.acked;
        if level != self.intx {
            self.intx = level;
            cx.host.intx(level);
        }
    }
}
