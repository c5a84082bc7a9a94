//! A card with one ring pair and nothing else: it answers every 64-byte entry of its send ring with one in
//! its completion ring, the sequence number published last. What a ring costs without an engine behind it.
//!
//! It uses the bus as the offload engine does: entries by DMA, a doorbell with the producer index, the last
//! word of a completion published with release order, no interrupt (the host polls).

use std::cell::RefCell;
use std::rc::Rc;

use bus::config::{COMMAND_BUS_MASTER, COMMAND_MEMORY};
use bus::inproc::{CardActor, InProcess, Slot, SlotConfig};
use bus::mem::DmaBuf;
use bus::pci::{
    Bar, BarLayout, DevCx, Doorbell, FunctionLayout, Grant, MsixLayout, PciFunction, Platform, ResetKind,
    ResetReport, Width, Word,
};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::wake::WakeSet;
use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};

/// Bytes of an entry.
pub const ENTRY: usize = 64;
/// Entries of each ring.
pub const ENTRIES: u16 = 64;

pub(crate) const BAR: Bar = Bar(0);
/// The page that the rings begin at.
pub(crate) const RINGS_AT: u64 = 0x10;
pub(crate) const DOORBELL: u64 = 0x1_0000;
pub(crate) const LAST: usize = ENTRY - 4;
pub(crate) const COMMAND: u16 = 4;

pub(crate) struct Echo {
    layout: FunctionLayout,
    rings: u64,
    grant: Option<Grant>,
    producer: u16,
    consumer: u16,
}

impl Echo {
    pub(crate) fn new() -> Self {
        let layout = FunctionLayout {
            vendor: 0x14e4,
            device: 0x1639,
            revision: 0,
            class: 0x02_0000,
            subsystem: (0x14e4, 0x1639),
            bars: vec![BarLayout { bar: BAR, size: 1 << 20, wide: true }],
            pm: 0x48,
            msi: 0x58,
            msix: MsixLayout { capability: 0xa0, vectors: 1, bar: BAR, table: 0xc000, pba: 0xe000 },
            pcie: 0xac,
        };
        Self { layout, rings: 0, grant: None, producer: 0, consumer: 0 }
    }
}

impl PciFunction for Echo {
    fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn read(&mut self, _: &mut DevCx<'_>, _: Bar, _: u64, _: Width) -> u64 {
        0
    }

    fn write(&mut self, cx: &mut DevCx<'_>, _: Bar, at: u64, _: Width, value: u64) {
        if at == DOORBELL {
            self.producer = value as u16;
        } else if at == RINGS_AT {
            self.rings = value << 12;
            self.grant = Some(cx.host.grant());
        }
    }

    fn config_read(&mut self, _: &mut DevCx<'_>, _: u16) -> u32 {
        0
    }

    fn config_write(&mut self, _: &mut DevCx<'_>, _: u16, _: u32, _: u32) {}

    fn step(&mut self, cx: &mut DevCx<'_>, budget: Budget) -> Progress {
        let mut done = 0;
        let Some(grant) = self.grant else { return Progress::default() };
        while done < budget.0 && self.consumer != self.producer {
            let slot = usize::from(self.consumer % ENTRIES) * ENTRY;
            let mut entry = [0; ENTRY];
            let read = cx.dma_read(self.rings + slot as u64, &mut entry, grant);
            self.consumer = self.consumer.wrapping_add(1);
            let answer = self.rings + (usize::from(ENTRIES) * ENTRY + slot) as u64;
            let written = cx.dma_write(answer, &entry[..LAST], grant);
            let sequence = Word::U32(u32::from(self.consumer));
            let published = cx.publish(answer + LAST as u64, sequence, grant);
            assert!(read.is_ok() && written.is_ok() && published.is_ok(), "the rings are mapped");
            done += 1;
        }
        Progress { done, next: None }
    }

    fn reset(&mut self, cx: &mut DevCx<'_>, _: ResetKind) -> ResetReport {
        self.grant = None;
        cx.host.revoke();
        ResetReport::default()
    }
}

/// Host and card of the echo.
pub struct Pair {
    platform: InProcess,
    card: CardActor,
    rings: DmaBuf,
    doorbell: Doorbell,
    producer: u16,
    consumer: u16,
    rng: Seeded,
    trace: Trace,
}

pub(crate) const HOST: ActorId = ActorId::new("host", 0);

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// A card in a slot, with rings.
    ///
    /// # Panics
    /// Never: the rings fit the slot's memory.
    #[must_use]
    pub fn new() -> Self {
        let set = WakeSet::default();
        let (card_wake, host_wake) = (set.register(), set.register());
        let name = ActorId::new("echo", 0);
        let slot: Rc<RefCell<Slot>> =
            Slot::new(SlotConfig::default(), name, Box::new(Echo::new()), card_wake, host_wake);
        let mut platform = InProcess(slot.clone());
        let (mut rng, mut trace) = (Seeded::new(1), Trace::off());
        let mut cx = Cx { now: Instant::ZERO, actor: HOST, rng: &mut rng, trace: &mut trace };
        platform.config_write(&mut cx, COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER);
        let rings = platform.dma_alloc(2 * usize::from(ENTRIES) * ENTRY, "echo rings").expect("memory");
        platform.write32(&mut cx, BAR, RINGS_AT, (rings.addr() >> 12) as u32);
        let doorbell = platform.map_doorbell(BAR, DOORBELL);
        Self { platform, card: CardActor(slot), rings, doorbell, producer: 0, consumer: 0, rng, trace }
    }

    /// Posts `batch` entries, rings once, lets the card run, and reaps the answers. `batch` is at most
    /// [`ENTRIES`].
    ///
    /// # Panics
    /// When an answer is missing or is not the entry that was posted.
    pub fn round(&mut self, batch: u16) {
        let mut cx = Cx { now: Instant::ZERO, actor: HOST, rng: &mut self.rng, trace: &mut self.trace };
        for _ in 0..batch {
            let mut entry = [0x5a; ENTRY];
            entry[..2].copy_from_slice(&self.producer.to_le_bytes());
            self.rings.write(usize::from(self.producer % ENTRIES) * ENTRY, &entry);
            self.producer = self.producer.wrapping_add(1);
        }
        self.platform.doorbell(&mut cx, self.doorbell, 0, self.producer);
        self.card.step(&mut cx, Budget(u32::from(batch)));
        for _ in 0..batch {
            let at = usize::from(ENTRIES + self.consumer % ENTRIES) * ENTRY;
            let next = self.consumer.wrapping_add(1);
            assert_eq!(self.rings.load32(at + LAST), u32::from(next), "the answer is there");
            let mut entry = [0; ENTRY];
            self.rings.read(at, &mut entry);
            assert_eq!(entry[..2], self.consumer.to_le_bytes(), "it is the entry that was posted");
            self.consumer = next;
        }
    }
}
