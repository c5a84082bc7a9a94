//! The in-process bus: a slot that joins a card and a driver in one thread.
//!
//! Register and doorbell writes go through the slot's posted queue and reach the card when it is stepped, or before
//! the next read. A virtual world may hold both directions for a bounded time ([`Timing`]), which is where drivers
//! have their bugs. A *strict* slot also checks every DMA access against what is lent, in that direction and in this
//! epoch, and keeps what it refused as [`Violation`]s. Host memory is heap; a bus address names its allocation in
//! the upper half, so that translation is an index and no two allocations are adjacent.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use crate::actor::{Actor, ActorId, Budget, Cx, Progress};
use crate::config::{ConfigSpace, Effect};
use crate::gate::Gate;
use crate::mem::{DmaBuf, SharedMem};
use crate::pci::{
    Bar, BusLost, DevCx, Dir, DmaExhausted, DmaFault, Doorbell, Epoch, Grant, HostPort, Loan, PciFunction,
    Platform, Proof, ResetKind, ResetReport, Revoked, Vector, VectorSet, Width, Word,
};
use crate::streams::Streams;
use crate::time::Instant;
use crate::trace::{Event, EventKind, Trace};
use crate::wake::Wake;

/// Posted register writes that may wait for the card. One more makes the bus deliver them all.
pub const POSTED_LIMIT: usize = 4096;
/// Violations kept with their details; more are only counted.
pub const VIOLATIONS_KEPT: usize = 64;

/// How long the bus may hold posted writes. Zero is prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Longest delay of a register or doorbell write.
    pub mmio: Duration,
    /// Longest delay of a DMA write or an interrupt.
    pub dma: Duration,
}

/// What kind of slot to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotConfig {
    /// Check every access of the card against what is lent.
    pub strict: bool,
    /// How long posted writes may be held.
    pub timing: Timing,
    /// Limit of DMA memory, in bytes.
    pub dma_limit: usize,
    /// Whether each allocation is an anonymous file, for a helper in another process, instead of heap. It costs a
    /// descriptor each.
    pub shareable: bool,
}

impl Default for SlotConfig {
    /// Prompt, not strict, 1 GiB of heap.
    fn default() -> Self {
        Self { strict: false, timing: Timing::default(), dma_limit: 1 << 30, shareable: false }
    }
}

/// Something that may never happen on a strict bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The card's access was refused.
    Dma(DmaFault),
    /// The driver freed memory at this address while it was lent.
    FreedWhileLent(u64),
    /// The driver reclaimed a loan of this address with a revocation that is older than the loan.
    StaleProof(u64),
    /// The card was reset and did not revoke the epoch by itself.
    ResetWithoutRevoke,
}

/// What is out, and what went wrong: the end-of-run audit of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// DMA allocations not yet freed.
    pub buffers: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Loans not yet reclaimed.
    pub loans: usize,
    /// Doorbell writes dropped because they were of an earlier epoch.
    pub stale_doorbells: u64,
    /// Accesses of the card that were refused.
    pub refused: u64,
    /// Violations seen (strict bus).
    pub violations: u64,
}

struct LoanEntry {
    id: u32,
    range: Range<usize>,
    dir: Dir,
    epoch: Epoch,
}

struct Region {
    mem: Rc<SharedMem>,
    loans: Vec<LoanEntry>,
}

enum Held {
    Write(u64, Box<[u8]>),
    Publish(u64, Word),
    Msi(Vector),
    Intx(bool),
}

struct Posted {
    due: Instant,
    bar: Bar,
    at: u64,
    width: Width,
    value: u64,
    doorbell: bool,
}

/// Host memory and interrupt delivery as the card sees them.
struct Host {
    strict: bool,
    timing: Timing,
    now: Instant,
    gate: Gate,
    regions: Vec<Option<Region>>,
    free: VecDeque<u32>,
    bytes: usize,
    limit: usize,
    shareable: bool,
    loans: usize,
    next_loan: u32,
    held: VecDeque<(Instant, Held)>,
    delay: Duration,
    arrived: VectorSet,
    wake: Wake,
    refused: u64,
    stale_doorbells: u64,
    violations: u64,
    kept: Vec<Violation>,
}

/// Allocations are this far apart in bus addresses; a buffer is smaller.
const REGION_SHIFT: u32 = 32;
/// Freed region numbers rest until so many others were freed, so that a stale address faults instead of hitting
/// a new buffer.
const REGION_REST: usize = 64;

impl Host {
    fn violation(&mut self, v: Violation) {
        if self.strict {
            self.violations += 1;
            if self.kept.len() < VIOLATIONS_KEPT {
                self.kept.push(v);
            }
        }
    }

    fn refuse(&mut self, fault: DmaFault) -> DmaFault {
        self.refused += 1;
        self.violation(Violation::Dma(fault));
        fault
    }

    fn region(&self, addr: u64) -> Option<&Region> {
        let i = usize::try_from((addr >> REGION_SHIFT).checked_sub(1)?).ok()?;
        self.regions.get(i)?.as_ref()
    }

    /// Finds the memory of an access, or says why it may not happen.
    fn locate(&self, addr: u64, len: usize, write: bool) -> Result<(&SharedMem, usize), DmaFault> {
        let offset = (addr & ((1 << REGION_SHIFT) - 1)) as usize;
        let unmapped = DmaFault::Unmapped { addr, len: len as u64 };
        let r = self.region(addr).ok_or(unmapped)?;
        if len > r.mem.len() || offset > r.mem.len() - len {
            return Err(unmapped);
        }
        let lent = |l: &LoanEntry| {
            l.range.start <= offset
                && offset + len <= l.range.end
                && l.epoch == self.gate.epoch
                && if write { l.dir.card_writes() } else { l.dir.card_reads() }
        };
        if self.strict && !r.loans.iter().any(lent) {
            return Err(DmaFault::NotLent { addr, len: len as u64 });
        }
        Ok((&r.mem, offset))
    }

    fn hold(&mut self, what: Held) {
        let due = self.held.back().map_or(self.now, |(d, _)| *d).max(self.now + self.delay);
        self.held.push_back((due, what));
    }

    fn deliver(&mut self, v: Vector) {
        if let Some(v) = self.gate.config.signal(v) {
            self.arrived.insert(v);
            self.wake.wake();
        }
    }

    fn apply(&mut self, what: Held) {
        let outcome = match what {
            Held::Write(addr, data) => {
                self.locate(addr, data.len(), true).map(|(mem, at)| mem.write(at, &data))
            }
            Held::Publish(addr, word) => self.store(addr, word),
            Held::Msi(v) => {
                self.deliver(v);
                Ok(())
            }
            Held::Intx(level) => {
                if self.gate.config.set_intx(level) {
                    self.wake.wake();
                }
                Ok(())
            }
        };
        if let Err(f) = outcome {
            self.refuse(f);
        }
    }

    fn store(&mut self, addr: u64, word: Word) -> Result<(), DmaFault> {
        let len = match word {
            Word::U16(_) => 2,
            Word::U32(_) => 4,
        };
        if !addr.is_multiple_of(len) {
            return Err(DmaFault::Unmapped { addr, len });
        }
        let (mem, at) = self.locate(addr, len as usize, true)?;
        match word {
            Word::U16(v) => mem.store16(at, v),
            Word::U32(v) => mem.store32(at, v),
        }
        Ok(())
    }

    /// Lets held writes take effect: those that are due, or all of them.
    fn release(&mut self, until: Option<Instant>) {
        while let Some((due, _)) = self.held.front() {
            if until.is_some_and(|t| *due > t) {
                break;
            }
            if let Some((_, what)) = self.held.pop_front() {
                self.apply(what);
            }
        }
    }

    fn holds(&self) -> bool {
        self.timing.dma != Duration::ZERO
    }
}

impl HostPort for Host {
    fn grant(&self) -> Grant {
        Grant(self.gate.epoch)
    }

    fn revoke(&mut self) -> Epoch {
        self.held.clear();
        self.arrived = VectorSet::default();
        self.gate.revoke()
    }

    fn dma_read(&mut self, addr: u64, out: &mut [u8], grant: Grant) -> Result<(), DmaFault> {
        self.release(None);
        let outcome = self
            .gate
            .permit(grant)
            .and_then(|()| self.locate(addr, out.len(), false))
            .map(|(mem, at)| mem.read(at, out));
        outcome.map_err(|f| self.refuse(f))
    }

    fn dma_write(&mut self, addr: u64, data: &[u8], grant: Grant) -> Result<(), DmaFault> {
        let outcome =
            self.gate.permit(grant).and_then(|()| self.locate(addr, data.len(), true)).map(|(mem, at)| {
                if self.timing.dma == Duration::ZERO {
                    mem.write(at, data);
                }
            });
        if outcome.is_ok() && self.holds() {
            self.hold(Held::Write(addr, data.into()));
        }
        outcome.map_err(|f| self.refuse(f))
    }

    fn publish(&mut self, addr: u64, word: Word, grant: Grant) -> Result<(), DmaFault> {
        let outcome = match self.gate.permit(grant) {
            Ok(()) if self.holds() => {
                self.hold(Held::Publish(addr, word));
                Ok(())
            }
            Ok(()) => self.store(addr, word),
            Err(f) => Err(f),
        };
        outcome.map_err(|f| self.refuse(f))
    }

    fn msi(&mut self, vector: Vector, grant: Grant) {
        if let Err(f) = self.gate.permit(grant) {
            self.refuse(f);
        } else if self.holds() {
            self.hold(Held::Msi(vector));
        } else {
            self.deliver(vector);
        }
    }

    fn intx(&mut self, asserted: bool) {
        if self.gate.removed {
            return;
        }
        if self.holds() {
            self.hold(Held::Intx(asserted));
        } else if self.gate.config.set_intx(asserted) {
            self.wake.wake();
        }
    }

    fn config(&self, at: u16) -> Option<u32> {
        self.gate.owned(at)
    }
}

/// A slot with its card. Built by a world, shared by [`InProcess`] and [`CardActor`].
pub struct Slot {
    card: Box<dyn PciFunction>,
    name: ActorId,
    host: Host,
    posted: VecDeque<Posted>,
    wake: Wake,
}

/// Time, randomness and events, from whoever is being stepped.
struct Ambient<'a> {
    now: Instant,
    rng: &'a mut dyn Streams,
    trace: &'a mut Trace,
}

impl<'a> Ambient<'a> {
    fn of(cx: &'a mut Cx<'_>) -> Self {
        Self { now: cx.now, rng: &mut *cx.rng, trace: &mut *cx.trace }
    }
}

impl Slot {
    /// A slot with `card` in it. `wake_card` makes [`CardActor`] ready, `wake_host` the driver.
    #[must_use]
    pub fn new(
        config: SlotConfig,
        name: ActorId,
        card: Box<dyn PciFunction>,
        wake_card: Wake,
        wake_host: Wake,
    ) -> Rc<RefCell<Self>> {
        let host = Host {
            strict: config.strict,
            timing: config.timing,
            now: Instant::ZERO,
            gate: Gate::new(card.layout()),
            regions: Vec::new(),
            free: VecDeque::new(),
            bytes: 0,
            limit: config.dma_limit,
            shareable: config.shareable,
            loans: 0,
            next_loan: 1,
            held: VecDeque::new(),
            delay: Duration::ZERO,
            arrived: VectorSet::default(),
            wake: wake_host,
            refused: 0,
            stale_doorbells: 0,
            violations: 0,
            kept: Vec::new(),
        };
        Rc::new(RefCell::new(Self { card, name, host, posted: VecDeque::new(), wake: wake_card }))
    }

    /// What is out, and what went wrong so far.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let h = &self.host;
        Audit {
            buffers: h.regions.iter().flatten().count(),
            bytes: h.bytes,
            loans: h.loans,
            stale_doorbells: h.stale_doorbells,
            refused: h.refused,
            violations: h.violations,
        }
    }

    /// The first [`VIOLATIONS_KEPT`] violations.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.host.kept
    }

    /// Pulls the card. Reads return all ones, writes vanish, and the card can do nothing any more.
    pub fn remove(&mut self, cx: &mut Cx<'_>) {
        self.posted.clear();
        self.host.revoke();
        self.host.gate.removed = true;
        self.note(Ambient::of(cx), EventKind::Removal, 1, 0);
    }

    /// Puts a card into the slot, in its power-on state.
    pub fn insert(&mut self, cx: &mut Cx<'_>, card: Box<dyn PciFunction>) {
        self.host.revoke();
        self.host.gate.config = ConfigSpace::new(card.layout());
        self.card = card;
        self.host.gate.removed = false;
        self.note(Ambient::of(cx), EventKind::Removal, 0, 0);
        self.wake.wake();
    }

    fn note(&self, amb: Ambient<'_>, kind: EventKind, a: u64, b: u64) {
        amb.trace.emit(|| Event { time: amb.now, actor: self.name, kind, a, b });
    }

    fn with_card<R>(
        &mut self,
        amb: &mut Ambient<'_>,
        f: impl FnOnce(&mut dyn PciFunction, &mut DevCx<'_>) -> R,
    ) -> R {
        self.host.now = amb.now;
        if self.host.holds() {
            let bound = self.host.timing.dma.as_nanos() as u64;
            self.host.delay = Duration::from_nanos(amb.rng.below("bus.dma-delay", bound + 1));
        }
        let mut cx = DevCx {
            now: amb.now,
            actor: self.name,
            rng: &mut *amb.rng,
            trace: &mut *amb.trace,
            host: &mut self.host,
        };
        f(&mut *self.card, &mut cx)
    }

    fn post(&mut self, mut amb: Ambient<'_>, bar: Bar, at: u64, width: Width, value: u64, doorbell: bool) {
        if self.host.gate.removed {
            return;
        }
        let hold = self.host.timing.mmio.as_nanos() as u64;
        let mut due = amb.now;
        if hold != 0 {
            due += Duration::from_nanos(amb.rng.below("bus.mmio-delay", hold + 1));
        }
        let due = self.posted.back().map_or(due, |p| p.due.max(due));
        self.posted.push_back(Posted { due, bar, at, width, value, doorbell });
        if self.posted.len() > POSTED_LIMIT {
            self.deliver(&mut amb, None);
        }
        self.wake.wake();
    }

    /// Lets posted writes reach the card: those that are due, or all of them.
    fn deliver(&mut self, amb: &mut Ambient<'_>, until: Option<Instant>) {
        while let Some(p) = self.posted.front() {
            if until.is_some_and(|t| p.due > t) {
                break;
            }
            let Some(p) = self.posted.pop_front() else { break };
            if !self.host.gate.config.decodes_memory() || !self.host.gate.inside(p.bar, p.at, p.width) {
                continue;
            }
            let kind = if p.doorbell { EventKind::Doorbell } else { EventKind::RegisterWrite };
            let name = self.name;
            amb.trace.emit(|| Event { time: amb.now, actor: name, kind, a: p.at, b: p.value });
            if p.width == Width::B4 && self.host.gate.config.msix_write(p.bar, p.at, p.value as u32) {
                self.unmask();
            } else {
                self.with_card(amb, |card, cx| card.write(cx, p.bar, p.at, p.width, p.value));
            }
        }
    }

    fn unmask(&mut self) {
        let v = self.host.gate.config.take_unmasked();
        self.host.arrived.0 |= v.0;
        if !v.is_empty() || self.host.gate.config.intx_visible() {
            self.host.wake.wake();
        }
    }

    /// Everything posted earlier, in both directions, takes effect.
    fn flush(&mut self, amb: &mut Ambient<'_>) {
        self.deliver(amb, None);
        self.host.release(None);
    }

    fn read(&mut self, mut amb: Ambient<'_>, bar: Bar, at: u64, width: Width) -> u64 {
        if self.host.gate.removed {
            return width.ones();
        }
        self.deliver(&mut amb, None);
        let value = if !self.host.gate.config.decodes_memory() || !self.host.gate.inside(bar, at, width) {
            width.ones()
        } else if let Some(v) = self.host.gate.config.msix_read(bar, at & !3) {
            u64::from(v)
        } else {
            self.with_card(&mut amb, |card, cx| card.read(cx, bar, at, width)) & width.ones()
        };
        self.host.release(None);
        self.note(amb, EventKind::RegisterRead, at, value);
        value
    }

    fn config_read(&mut self, mut amb: Ambient<'_>, at: u16) -> u32 {
        if self.host.gate.removed {
            return !0;
        }
        self.flush(&mut amb);
        if self.host.gate.config.owns(at) {
            self.host.gate.config.read(at)
        } else {
            self.with_card(&mut amb, |card, cx| card.config_read(cx, at))
        }
    }

    fn config_write(&mut self, mut amb: Ambient<'_>, at: u16, value: u32) {
        if self.host.gate.removed {
            return;
        }
        self.flush(&mut amb);
        if !self.host.gate.config.owns(at) {
            self.with_card(&mut amb, |card, cx| card.config_write(cx, at, value, !0));
            return;
        }
        match self.host.gate.config.write(at, value, !0) {
            Effect::None => {}
            Effect::Interrupts => self.unmask(),
            Effect::Flr => {
                self.reset(amb, ResetKind::Flr);
            }
        }
    }

    fn reset(&mut self, mut amb: Ambient<'_>, kind: ResetKind) -> (ResetReport, Revoked) {
        self.flush(&mut amb);
        let before = self.host.gate.epoch;
        let report = self.with_card(&mut amb, |card, cx| card.reset(cx, kind));
        if self.host.gate.epoch == before {
            self.host.violation(Violation::ResetWithoutRevoke);
            self.host.revoke();
        }
        if kind == ResetKind::Device {
            self.host.gate.config.power_on();
        }
        let until = self.host.gate.epoch;
        self.note(amb, EventKind::Reset, kind as u64, u64::from(until.0));
        self.wake.wake();
        (report, Revoked { until })
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        let mut amb = Ambient::of(cx);
        let now = amb.now;
        if self.host.gate.removed {
            return Progress::default();
        }
        self.deliver(&mut amb, Some(now));
        let p = self.with_card(&mut amb, |card, cx| card.step(cx, budget));
        self.host.release(Some(now));
        let next = Instant::earliest(p.next, self.posted.front().map(|p| p.due));
        let next = Instant::earliest(next, self.host.held.front().map(|(due, _)| *due));
        Progress { done: p.done, next }
    }
}

/// Steps the card of a slot.
pub struct CardActor(pub Rc<RefCell<Slot>>);

impl Actor for CardActor {
    fn name(&self) -> ActorId {
        self.0.borrow().name
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        self.0.borrow_mut().step(cx, budget)
    }
}

/// The driver's end of an in-process slot. Clones share the slot.
#[derive(Clone)]
pub struct InProcess(pub Rc<RefCell<Slot>>);

impl Platform for InProcess {
    fn config_read(&mut self, cx: &mut Cx<'_>, at: u16) -> Result<u32, BusLost> {
        Ok(self.0.borrow_mut().config_read(Ambient::of(cx), at))
    }

    fn config_write(&mut self, cx: &mut Cx<'_>, at: u16, value: u32) {
        self.0.borrow_mut().config_write(Ambient::of(cx), at, value);
    }

    fn read32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64) -> Result<u32, BusLost> {
        Ok(self.0.borrow_mut().read(Ambient::of(cx), bar, at, Width::B4) as u32)
    }

    fn write16(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u16) {
        self.0.borrow_mut().post(Ambient::of(cx), bar, at, Width::B2, value.into(), false);
    }

    fn write32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u32) {
        self.0.borrow_mut().post(Ambient::of(cx), bar, at, Width::B4, value.into(), false);
    }

    fn map_doorbell(&mut self, bar: Bar, at: u64) -> Doorbell {
        Doorbell { bar, at, epoch: self.0.borrow().host.gate.epoch }
    }

    fn doorbell(&mut self, cx: &mut Cx<'_>, db: Doorbell, offset: u64, value: u16) {
        let mut slot = self.0.borrow_mut();
        if db.epoch == slot.host.gate.epoch {
            slot.post(Ambient::of(cx), db.bar, db.at + offset, Width::B2, value.into(), true);
        } else {
            slot.host.stale_doorbells += 1;
        }
    }

    fn dma_alloc(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted> {
        let h = &mut self.0.borrow_mut().host;
        if len > h.limit.saturating_sub(h.bytes) || len as u64 >= 1 << REGION_SHIFT {
            return Err(DmaExhausted { asked: len, tag, limit: h.limit });
        }
        let mem = match h.shareable.then(|| SharedMem::shareable(len)) {
            None => SharedMem::new(len),
            Some(Ok(mem)) => mem,
            // No descriptor or memory is left.
            Some(Err(_)) => return Err(DmaExhausted { asked: len, tag, limit: h.limit }),
        };
        let region = Region { mem: mem.clone(), loans: Vec::new() };
        let index = if h.free.len() > REGION_REST { h.free.pop_front() } else { None };
        let index = match index {
            Some(i) => {
                h.regions[i as usize] = Some(region);
                u64::from(i)
            }
            None => {
                h.regions.push(Some(region));
                h.regions.len() as u64 - 1
            }
        };
        h.bytes += len;
        Ok(DmaBuf { addr: (index + 1) << REGION_SHIFT, mem })
    }

    fn dma_free(&mut self, buf: DmaBuf) {
        let h = &mut self.0.borrow_mut().host;
        let i = (buf.addr >> REGION_SHIFT) as usize - 1;
        if let Some(r) = h.regions[i].take() {
            h.bytes -= r.mem.len();
            h.free.push_back(i as u32);
            if !r.loans.is_empty() {
                h.loans -= r.loans.len();
                h.violation(Violation::FreedWhileLent(buf.addr));
            }
        }
    }

    fn lend(&mut self, buf: &DmaBuf, range: Range<usize>, dir: Dir) -> Loan {
        assert!(range.start <= range.end && range.end <= buf.len(), "a loan is inside its buffer");
        let h = &mut self.0.borrow_mut().host;
        let (id, addr, len) = (h.next_loan, buf.addr + range.start as u64, range.len());
        h.next_loan = h.next_loan.wrapping_add(1);
        h.loans += 1;
        if h.strict {
            let epoch = h.gate.epoch;
            let i = (buf.addr >> REGION_SHIFT) as usize - 1;
            if let Some(r) = &mut h.regions[i] {
                r.loans.push(LoanEntry { id, range, dir, epoch });
            }
        }
        Loan { id, addr, len }
    }

    fn reclaim(&mut self, loan: Loan, proof: Proof) {
        let h = &mut self.0.borrow_mut().host;
        h.loans = h.loans.saturating_sub(1);
        if !h.strict {
            return;
        }
        let i = (loan.addr >> REGION_SHIFT) as usize - 1;
        let Some(r) = h.regions.get_mut(i).and_then(Option::as_mut) else { return };
        let Some(at) = r.loans.iter().position(|l| l.id == loan.id) else { return };
        let entry = r.loans.swap_remove(at);
        if let Proof::Revoked(r) = proof
            && r.until <= entry.epoch
        {
            h.violation(Violation::StaleProof(loan.addr));
        }
    }

    fn take_interrupts(&mut self) -> VectorSet {
        let h = &mut self.0.borrow_mut().host;
        let mut set = std::mem::take(&mut h.arrived);
        if h.gate.config.intx_visible() {
            set.insert(Vector(0));
        }
        set
    }

    fn epoch(&self) -> Epoch {
        self.0.borrow().host.gate.epoch
    }

    fn reset(&mut self, cx: &mut Cx<'_>, kind: ResetKind) -> Result<Revoked, BusLost> {
        let mut slot = self.0.borrow_mut();
        if slot.host.gate.removed {
            // Nobody is there who could touch what was lent, also since the removal.
            return Ok(Revoked { until: slot.host.revoke() });
        }
        Ok(slot.reset(Ambient::of(cx), kind).1)
    }

    fn revoked(&mut self, cx: &mut Cx<'_>, since: Epoch) -> Result<Option<Revoked>, BusLost> {
        let mut slot = self.0.borrow_mut();
        if !slot.host.gate.removed {
            slot.flush(&mut Ambient::of(cx));
        }
        let until = slot.host.gate.epoch;
        Ok((until > since).then_some(Revoked { until }))
    }
}

#[cfg(test)]
mod tests;
