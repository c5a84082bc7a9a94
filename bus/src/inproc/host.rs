//! Host memory as the card sees it: allocations, loans, held writes, interrupts.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::{Audit, SlotConfig, Timing, VIOLATIONS_KEPT, Violation};
use crate::gate::Gate;
use crate::mem::{DmaBuf, SharedMem};
use crate::pci::{Dir, DmaExhausted, DmaFault, Epoch, Grant, HostPort, Loan, Proof, Vector, VectorSet, Word};
use crate::time::Instant;
use crate::wake::Wake;

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

pub(super) enum Held {
    Write(u64, Box<[u8]>),
    Publish(u64, Word),
    Msi(Vector),
    Intx(bool),
}

/// Host memory and interrupt delivery as the card sees them.
pub(super) struct Host {
    strict: bool,
    pub(super) timing: Timing,
    pub(super) now: Instant,
    pub(super) gate: Gate,
    regions: Vec<Option<Region>>,
    free: VecDeque<u32>,
    bytes: usize,
    limit: usize,
    shareable: bool,
    loans: usize,
    next_loan: u32,
    pub(super) held: VecDeque<(Instant, Held)>,
    pub(super) delay: Duration,
    pub(super) arrived: VectorSet,
    pub(super) wake: Wake,
    refused: u64,
    pub(super) stale_doorbells: u64,
    violations: u64,
    pub(super) kept: Vec<Violation>,
}

/// Allocations are this far apart in bus addresses; a buffer is smaller.
const REGION_SHIFT: u32 = 32;
/// Freed region numbers rest until so many others were freed, so that a stale address faults instead of
/// hitting a new buffer.
const REGION_REST: usize = 64;

impl Host {
    pub(super) fn new(config: SlotConfig, gate: Gate, wake: Wake) -> Self {
        Self {
            strict: config.strict,
            timing: config.timing,
            now: Instant::ZERO,
            gate,
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
            wake,
            refused: 0,
            stale_doorbells: 0,
            violations: 0,
            kept: Vec::new(),
        }
    }

    pub(super) fn violation(&mut self, v: Violation) {
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
    pub(super) fn release(&mut self, until: Option<Instant>) {
        while let Some((due, _)) = self.held.front() {
            if until.is_some_and(|t| *due > t) {
                break;
            }
            if let Some((_, what)) = self.held.pop_front() {
                self.apply(what);
            }
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.timing.dma != Duration::ZERO
    }

    pub(super) fn audit(&self) -> Audit {
        Audit {
            buffers: self.regions.iter().flatten().count(),
            bytes: self.bytes,
            loans: self.loans,
            stale_doorbells: self.stale_doorbells,
            refused: self.refused,
            violations: self.violations,
        }
    }

    pub(super) fn dma_alloc(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted> {
        if len > self.limit.saturating_sub(self.bytes) || len as u64 >= 1 << REGION_SHIFT {
            return Err(DmaExhausted { asked: len, tag, limit: self.limit });
        }
        let mem = match self.shareable.then(|| SharedMem::shareable(len)) {
            None => SharedMem::new(len),
            Some(Ok(mem)) => mem,
            // No descriptor or memory is left.
            Some(Err(_)) => return Err(DmaExhausted { asked: len, tag, limit: self.limit }),
        };
        let region = Region { mem: mem.clone(), loans: Vec::new() };
        let index = if self.free.len() > REGION_REST { self.free.pop_front() } else { None };
        let index = match index {
            Some(i) => {
                self.regions[i as usize] = Some(region);
                u64::from(i)
            }
            None => {
                self.regions.push(Some(region));
                self.regions.len() as u64 - 1
            }
        };
        self.bytes += len;
        Ok(DmaBuf { addr: (index + 1) << REGION_SHIFT, mem })
    }

    pub(super) fn dma_free(&mut self, buf: DmaBuf) {
        let i = (buf.addr >> REGION_SHIFT) as usize - 1;
        if let Some(r) = self.regions[i].take() {
            self.bytes -= r.mem.len();
            self.free.push_back(i as u32);
            if !r.loans.is_empty() {
                self.loans -= r.loans.len();
                self.violation(Violation::FreedWhileLent(buf.addr));
            }
        }
    }

    pub(super) fn lend(&mut self, buf: &DmaBuf, range: Range<usize>, dir: Dir) -> Loan {
        assert!(range.start <= range.end && range.end <= buf.len(), "a loan is inside its buffer");
        let (id, addr, len) = (self.next_loan, buf.addr + range.start as u64, range.len());
        self.next_loan = self.next_loan.wrapping_add(1);
        self.loans += 1;
        if self.strict {
            let epoch = self.gate.epoch;
            let i = (buf.addr >> REGION_SHIFT) as usize - 1;
            if let Some(r) = &mut self.regions[i] {
                r.loans.push(LoanEntry { id, range, dir, epoch });
            }
        }
        Loan { id, addr, len }
    }

    pub(super) fn reclaim(&mut self, loan: Loan, proof: Proof) {
        self.loans = self.loans.saturating_sub(1);
        if !self.strict {
            return;
        }
        let i = (loan.addr >> REGION_SHIFT) as usize - 1;
        let Some(r) = self.regions.get_mut(i).and_then(Option::as_mut) else { return };
        let Some(at) = r.loans.iter().position(|l| l.id == loan.id) else { return };
        let entry = r.loans.swap_remove(at);
        if let Proof::Revoked(r) = proof
            && r.until <= entry.epoch
        {
            self.violation(Violation::StaleProof(loan.addr));
        }
    }

    pub(super) fn take_interrupts(&mut self) -> VectorSet {
        let mut set = std::mem::take(&mut self.arrived);
        if self.gate.config.intx_visible() {
            set.insert(Vector(0));
        }
        set
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
