use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::actor::{Actor, ActorId, Budget, Cx, Progress};
use crate::config::{COMMAND_BUS_MASTER, COMMAND_MEMORY, MSI_ENABLE, sample as layout};
use crate::mem::DmaBuf;
use crate::pci::{
    Bar, DevCx, Dir, DmaExhausted, DmaFault, FunctionLayout, Grant, HostPort, PciFunction, Platform, Proof,
    ResetKind, ResetReport, Vector, Width, Word,
};
use crate::streams::Seeded;
use crate::time::Instant;
use crate::trace::Trace;
use crate::wake::WakeSet;

const RESET: u64 = 0x800;
const TARGET_LO: u64 = 0x10;
const TARGET_HI: u64 = 0x14;
const GO: u64 = 0x18;
const DOORBELL: u64 = 0x10000;

/// A card with one register pair (a bus address), a "go" register that DMA-writes to it, publishes and
/// interrupts, and a reset register.
struct Toy {
    layout: FunctionLayout,
    target: u64,
    grant: Option<Grant>,
    doorbells: Vec<u64>,
    revoke_on_reset: bool,
    late_dma: bool,
}

impl Toy {
    fn go(&mut self, cx: &mut DevCx<'_>) {
        let grant = self.grant.unwrap_or_else(|| cx.host.grant());
        let _ = cx.dma_write(self.target, b"payload!", grant);
        let _ = cx.publish(self.target + 8, Word::U32(7), grant);
        cx.msi(Vector(0), grant);
    }
}

impl PciFunction for Toy {
    fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn read(&mut self, _: &mut DevCx<'_>, _: Bar, at: u64, _: Width) -> u64 {
        match at {
            TARGET_LO => self.target & 0xffff_ffff,
            DOORBELL => self.doorbells.len() as u64,
            _ => 0,
        }
    }

    fn write(&mut self, cx: &mut DevCx<'_>, _: Bar, at: u64, _: Width, value: u64) {
        match at {
            TARGET_LO => self.target = self.target & !0xffff_ffff | value,
            TARGET_HI => self.target = self.target & 0xffff_ffff | value << 32,
            GO => self.go(cx),
            RESET => {
                self.reset(cx, ResetKind::Device);
            }
            _ => self.doorbells.push(value),
        }
    }

    fn config_read(&mut self, _: &mut DevCx<'_>, at: u16) -> u32 {
        u32::from(at)
    }

    fn config_write(&mut self, _: &mut DevCx<'_>, _: u16, _: u32, _: u32) {}

    fn step(&mut self, _: &mut DevCx<'_>, _: Budget) -> Progress {
        Progress::default()
    }

    fn reset(&mut self, cx: &mut DevCx<'_>, _: ResetKind) -> ResetReport {
        self.grant = self.late_dma.then(|| cx.host.grant());
        if self.revoke_on_reset {
            cx.host.revoke();
        }
        if self.late_dma {
            self.go(cx);
        }
        ResetReport::default()
    }
}

struct Bench {
    set: WakeSet,
    rng: Seeded,
    trace: Trace,
    now: Instant,
    slot: Rc<RefCell<Slot>>,
    host: InProcess,
}

impl Bench {
    fn new(timing: Timing, tweak: impl FnOnce(&mut Toy)) -> Self {
        let set = WakeSet::default();
        let mut toy = Toy {
            layout: layout(),
            target: 0,
            grant: None,
            doorbells: Vec::new(),
            revoke_on_reset: true,
            late_dma: false,
        };
        tweak(&mut toy);
        let config = SlotConfig { strict: true, timing, dma_limit: 1 << 20, ..SlotConfig::default() };
        let slot = Slot::new(config, ActorId::new("card", 0), Box::new(toy), set.register(), set.register());
        let mut b = Self {
            set,
            rng: Seeded::new(1),
            trace: Trace::recording(),
            now: Instant::ZERO,
            host: InProcess(slot.clone()),
            slot,
        };
        while b.set.pop().is_some() {}
        b.host(|h, cx| {
            h.config_write(cx, 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
            h.config_write(cx, 0x58, MSI_ENABLE);
        });
        b
    }

    fn host<R>(&mut self, f: impl FnOnce(&mut InProcess, &mut Cx<'_>) -> R) -> R {
        let mut cx =
            Cx { now: self.now, actor: ActorId::new("host", 0), rng: &mut self.rng, trace: &mut self.trace };
        f(&mut self.host, &mut cx)
    }

    fn step_card(&mut self) -> Progress {
        let mut card = CardActor(self.slot.clone());
        self.host(|_, cx| card.step(cx, Budget(16)))
    }

    fn aim(&mut self, addr: u64) {
        self.host(|h, cx| {
            h.write32(cx, Bar(0), TARGET_LO, addr as u32);
            h.write32(cx, Bar(0), TARGET_HI, (addr >> 32) as u32);
            h.write32(cx, Bar(0), GO, 1);
        });
    }
}

fn bytes(buf: &DmaBuf) -> [u8; 12] {
    let mut out = [0; 12];
    buf.read(0, &mut out);
    out
}

const WRITTEN: [u8; 12] = *b"payload!\x07\0\0\0";

#[test]
fn a_write_reaches_the_card_when_it_is_stepped_and_its_dma_reaches_the_host() {
    let mut b = Bench::new(Timing::default(), |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let loan = b.host.lend(&buf, 0..64, Dir::FromCard);
    b.aim(buf.addr());
    assert_eq!(b.set.pop(), Some(0), "a posted write wakes the card");
    assert_eq!(bytes(&buf), [0; 12]);
    b.step_card();
    assert_eq!(bytes(&buf), WRITTEN);
    assert_eq!(b.set.pop(), Some(1), "an interrupt wakes the host");
    assert!(b.host.take_interrupts().contains(Vector(0)));
    assert!(b.host.take_interrupts().is_empty());
    b.host.reclaim(loan, Proof::Completed);
    b.host.dma_free(buf);
    assert_eq!(b.slot.borrow().audit(), Audit::default());
}

#[test]
fn a_read_is_answered_after_all_earlier_writes_in_both_directions() {
    let hold = Duration::from_micros(50);
    let mut b = Bench::new(Timing { mmio: hold, dma: hold }, |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let _loan = b.host.lend(&buf, 0..64, Dir::FromCard);
    b.aim(buf.addr());
    b.step_card();
    assert_eq!(bytes(&buf), [0; 12], "held");
    b.host(|h, cx| h.read32(cx, Bar(0), TARGET_LO)).unwrap();
    assert_eq!(bytes(&buf), WRITTEN);
}

#[test]
fn held_writes_arrive_in_order_within_the_bound() {
    let hold = Duration::from_micros(50);
    let mut b = Bench::new(Timing { mmio: hold, dma: hold }, |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let _loan = b.host.lend(&buf, 0..64, Dir::FromCard);
    b.aim(buf.addr());
    for _ in 0..8 {
        let Some(next) = b.step_card().next else { break };
        assert!(b.host.take_interrupts().is_empty() || bytes(&buf) == WRITTEN, "the interrupt is last");
        b.now = next;
    }
    assert_eq!(bytes(&buf), WRITTEN);
    assert!(b.now <= Instant::ZERO + 2 * hold);
}

#[test]
fn the_strict_bus_refuses_what_is_not_lent() {
    let mut b = Bench::new(Timing::default(), |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let read_only = b.host.lend(&buf, 0..64, Dir::ToCard);
    let short = b.host.lend(&buf, 0..7, Dir::FromCard);
    b.aim(buf.addr());
    b.step_card();
    assert_eq!(bytes(&buf), [0; 12]);
    let refused = Violation::Dma(DmaFault::NotLent { addr: buf.addr(), len: 8 });
    assert_eq!(b.slot.borrow().violations()[0], refused);
    b.aim(1 << 60);
    b.step_card();
    assert_eq!(b.slot.borrow().violations()[2], Violation::Dma(DmaFault::Unmapped { addr: 1 << 60, len: 8 }));
    b.host.reclaim(read_only, Proof::NeverPosted);
    b.host.reclaim(short, Proof::NeverPosted);
    assert_eq!(b.slot.borrow().audit().loans, 0);
}

#[test]
fn freeing_lent_memory_is_a_violation_and_the_address_faults_afterwards() {
    let mut b = Bench::new(Timing::default(), |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let addr = buf.addr();
    let _loan = b.host.lend(&buf, 0..64, Dir::FromCard);
    b.host.dma_free(buf);
    assert_eq!(b.slot.borrow().violations(), [Violation::FreedWhileLent(addr)]);
    let next = b.host.dma_alloc(64, "test").unwrap();
    assert_ne!(next.addr(), addr, "a freed address rests");
    b.aim(addr);
    b.step_card();
    assert_eq!(b.slot.borrow().violations()[1], Violation::Dma(DmaFault::Unmapped { addr, len: 8 }));
}

#[test]
fn a_register_reset_revokes_and_gives_proof() {
    let mut b = Bench::new(Timing { mmio: Duration::from_micros(9), dma: Duration::ZERO }, |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let loan = b.host.lend(&buf, 0..64, Dir::Both);
    let since = b.host.epoch();
    assert_eq!(b.host(|h, cx| h.revoked(cx, since)), Ok(None));
    let db = b.host.map_doorbell(Bar(0), DOORBELL);
    b.host(|h, cx| h.write32(cx, Bar(0), RESET, 1));
    let proof = b.host(|h, cx| h.revoked(cx, since)).unwrap().expect("the posted write was flushed");
    b.aim(buf.addr());
    b.host(|h, cx| h.read32(cx, Bar(0), 0)).unwrap();
    assert_eq!(bytes(&buf), [0; 12], "lent in an earlier epoch");
    b.host(|h, cx| h.doorbell(cx, db, 4, 9));
    assert_eq!(b.host(|h, cx| h.read32(cx, Bar(0), DOORBELL)), Ok(0), "a late store vanishes");
    assert_eq!(b.slot.borrow().audit().stale_doorbells, 1);
    b.host.reclaim(loan, Proof::Revoked(proof));
    assert!(!b.slot.borrow().violations().contains(&Violation::StaleProof(buf.addr())));
    let younger = b.host.lend(&buf, 0..64, Dir::Both);
    b.host.reclaim(younger, Proof::Revoked(proof));
    assert!(b.slot.borrow().violations().contains(&Violation::StaleProof(buf.addr())));
}

/// S7: a write that was posted before the reset must not reach memory that is another's after it.
#[test]
fn what_the_bus_holds_for_a_card_dies_with_the_revocation() {
    let mut b = Bench::new(Timing { mmio: Duration::ZERO, dma: Duration::from_millis(9) }, |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let _loan = b.host.lend(&buf, 0..64, Dir::Both);
    b.aim(buf.addr());
    b.step_card();
    assert_eq!(bytes(&buf), [0; 12], "the bus holds it");
    b.slot.borrow_mut().host.revoke();
    b.now += Duration::from_secs(1);
    b.step_card();
    assert_eq!(bytes(&buf), [0; 12]);
    assert!(b.host.take_interrupts().is_empty());
}

#[test]
fn a_card_that_acts_after_its_reset_is_caught() {
    let mut b = Bench::new(Timing::default(), |toy| toy.late_dma = true);
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let _loan = b.host.lend(&buf, 0..64, Dir::Both);
    b.aim(buf.addr());
    b.step_card();
    buf.fill(0, 64, 0);
    b.host(|h, cx| h.reset(cx, ResetKind::Flr)).unwrap();
    assert_eq!(bytes(&buf), [0; 12]);
    assert_eq!(b.slot.borrow().violations()[0], Violation::Dma(DmaFault::Revoked));
    assert!(b.host.take_interrupts().is_empty());
}

#[test]
fn a_card_that_forgets_to_revoke_is_caught_and_revoked() {
    let mut b = Bench::new(Timing::default(), |toy| toy.revoke_on_reset = false);
    let since = b.host.epoch();
    let proof = b.host(|h, cx| h.reset(cx, ResetKind::Device)).unwrap();
    assert!(proof.epoch() > since);
    assert_eq!(b.slot.borrow().violations(), [Violation::ResetWithoutRevoke]);
}

#[test]
fn a_removed_card_reads_as_ones_and_can_do_nothing() {
    let mut b = Bench::new(Timing::default(), |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let _loan = b.host.lend(&buf, 0..64, Dir::Both);
    let since = b.host.epoch();
    b.aim(buf.addr());
    let slot = b.slot.clone();
    b.host(|_, cx| slot.borrow_mut().remove(cx));
    assert_eq!(b.host(|h, cx| h.read32(cx, Bar(0), TARGET_LO)), Ok(!0));
    assert_eq!(b.host(|h, cx| h.config_read(cx, 0)), Ok(!0));
    assert_eq!(b.step_card(), Progress::default());
    assert_eq!(bytes(&buf), [0; 12], "posted writes vanished with the card");
    assert!(b.host(|h, cx| h.revoked(cx, since)).unwrap().is_some());
}

#[test]
fn dma_without_bus_master_is_refused() {
    let mut b = Bench::new(Timing::default(), |_| ());
    let buf = b.host.dma_alloc(64, "test").unwrap();
    let _loan = b.host.lend(&buf, 0..64, Dir::Both);
    b.host(|h, cx| h.config_write(cx, 4, COMMAND_MEMORY));
    b.aim(buf.addr());
    b.step_card();
    assert_eq!(b.slot.borrow().violations()[0], Violation::Dma(DmaFault::NoBusMaster));
    b.host(|h, cx| h.config_write(cx, 4, COMMAND_BUS_MASTER));
    assert_eq!(b.host(|h, cx| h.read32(cx, Bar(0), TARGET_LO)), Ok(!0), "memory decode is off");
}

#[test]
fn limits_are_answered() {
    let mut b = Bench::new(Timing::default(), |_| ());
    let e = b.host.dma_alloc((1 << 20) + 1, "too much").unwrap_err();
    assert_eq!(e, DmaExhausted { asked: (1 << 20) + 1, tag: "too much", limit: 1 << 20 });
    let db = b.host.map_doorbell(Bar(0), DOORBELL);
    for i in 0..=POSTED_LIMIT {
        b.host(|h, cx| h.doorbell(cx, db, 0, i as u16));
    }
    assert_eq!(b.slot.borrow().posted.len(), 0, "a full queue is delivered at once");
    assert_eq!(b.host(|h, cx| h.read32(cx, Bar(0), DOORBELL)), Ok(POSTED_LIMIT as u32 + 1));
    assert_eq!(b.host(|h, cx| h.read32(cx, Bar(0), 32 << 20)), Ok(!0), "beyond the BAR");
    assert_eq!(b.host(|h, cx| h.config_read(cx, 0x68)), Ok(0x68), "the card's own config dword");
}
