//! [`Platform`] over the messages of a [`Client`].

use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use os::event::ready;

use crate::actor::Cx;
use crate::config::{Effect, PCIE_DEVICE_CONTROL, PCIE_INITIATE_FLR};
use crate::mem::{DmaBuf, PAGE_SIZE, SharedMem};
use crate::pci::{
    Bar, BusLost, Dir, DmaExhausted, Doorbell, Epoch, Loan, Platform, Proof, ResetKind, Revoked, Vector,
    VectorSet,
};
use crate::sync::{Ordering, fence};
use crate::time::Instant;

use super::super::doorbell::STATE_PARKED;
use super::super::link::Link;
use super::super::message::{
    IRQ_INTX, IRQ_MSI, IRQ_MSIX, MAP_READ, MAP_WRITE, REGION_CONFIG, Request, SET_NONE, SET_UNMASK, SetIrqs,
};
use super::{CallError, Client};

/// What an answer means for the driver: a refused access is one of a card that is not there for it.
fn outcome<T>(r: Result<T, CallError>, refused: T) -> Result<T, BusLost> {
    match r {
        Ok(v) => Ok(v),
        Err(CallError::Refused(_)) => Ok(refused),
        Err(CallError::Lost | CallError::Malformed) => Err(BusLost),
    }
}

impl<L: Link> Client<L> {
    fn post_write(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, data: &[u8]) {
        self.now = cx.now;
        self.session.post(cx.now, &Request::RegionWrite { region: u32::from(bar.0), at, data });
        self.check();
    }

    /// Rings a mapped doorbell; says whether that was enough.
    ///
    /// The server sees changes. The first value after a page was handed to another connection may be the last
    /// one of the connection before, so it is said by message too; twice the same index is once.
    fn store_doorbell(&mut self, bar: Bar, at: u64, value: u16) -> bool {
        let Some(m) = self.mapped.as_mut().filter(|m| m.bar == bar && at.is_multiple_of(2)) else {
            return false;
        };
        let Some(place) = m.pages.offset(at, 2) else { return false };
        let (page, word) = (place / PAGE_SIZE, place % PAGE_SIZE / 2);
        if word >= 64 {
            return false;
        }
        m.pages.memory.store16(place, value);
        if m.rung[page] >> word & 1 == 0 {
            m.rung[page] |= 1 << word;
            return false;
        }
        // The word must be visible before the flag is read: the server sets the flag, then reads the words.
        fence(Ordering::SeqCst);
        if m.state.memory.load32(STATE_PARKED) != 0 {
            m.kick.signal();
        }
        true
    }

    /// Takes vectors that are not masked any more.
    fn unmask(&mut self) {
        self.arrived.0 |= self.gate.config.take_unmasked().0;
    }

    /// After anything that may have lost the server.
    fn finish<T>(&mut self, r: Result<T, BusLost>) -> Result<T, BusLost> {
        // A server that answers nonsense is not trusted any further.
        self.session.lost |= r.is_err();
        self.check();
        r
    }

    fn store_config(&mut self, now: Instant, at: u16, value: u32) -> Result<Effect, CallError> {
        let data = value.to_le_bytes();
        let write = Request::RegionWrite { region: REGION_CONFIG, at: at.into(), data: &data };
        self.session.call(now, &write, Vec::new(), |_, _| Some(()))?;
        if !self.gate.config.owns(at) {
            return Ok(Effect::None);
        }
        Ok(self.gate.config.write(at, value, !0))
    }

    /// After a reset from outside: the epoch has ended, and with a slot reset the switches are off.
    fn after_reset(&mut self, now: Instant, kind: ResetKind) -> Result<(), CallError> {
        let before = self.gate.epoch;
        if kind != ResetKind::Flr {
            self.gate.config.power_on();
        }
        if self.has_slot {
            self.refresh(now)?;
        } else {
            self.renew(Epoch(before.0 + 1));
        }
        self.route(now)?;
        if self.gate.epoch > before { Ok(()) } else { Err(CallError::Malformed) }
    }

    fn do_reset(&mut self, now: Instant, kind: ResetKind) -> Result<(), CallError> {
        if kind == ResetKind::Flr {
            let at = u16::from(self.gate.config.layout().pcie) + PCIE_DEVICE_CONTROL;
            self.store_config(now, at, self.gate.config.read(at) | PCIE_INITIATE_FLR)?;
        } else {
            self.session.call(now, &Request::DeviceReset, Vec::new(), |_, _| Some(()))?;
        }
        self.after_reset(now, kind)
    }
}

impl<L: Link> Platform for Client<L> {
    fn config_read(&mut self, cx: &mut Cx<'_>, at: u16) -> Result<u32, BusLost> {
        let r = self.session.read32(cx.now, REGION_CONFIG, at.into());
        self.finish(outcome(r, !0))
    }

    fn config_write(&mut self, cx: &mut Cx<'_>, at: u16, value: u32) {
        let done = self.store_config(cx.now, at, value).and_then(|effect| match effect {
            Effect::None => Ok(()),
            Effect::Interrupts => {
                self.route(cx.now)?;
                self.unmask();
                Ok(())
            }
            Effect::Flr => self.after_reset(cx.now, ResetKind::Flr),
        });
        // A lost server shows in the next read.
        let _ = self.finish(outcome(done, ()));
    }

    fn read32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64) -> Result<u32, BusLost> {
        if let Some(v) = self.gate.config.msix_read(bar, at) {
            return if self.check() { Err(BusLost) } else { Ok(v) };
        }
        self.now = cx.now;
        let r = self.session.read32(cx.now, u32::from(bar.0), at);
        self.finish(outcome(r, !0))
    }

    fn write16(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u16) {
        self.post_write(cx, bar, at, &value.to_le_bytes());
    }

    fn write32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u32) {
        if self.gate.config.msix_write(bar, at, value) {
            self.unmask();
        } else {
            self.post_write(cx, bar, at, &value.to_le_bytes());
        }
    }

    fn map_doorbell(&mut self, bar: Bar, at: u64) -> Doorbell {
        if let Some(m) = self.mapped.as_mut().filter(|m| m.bar == bar)
            && let Some(page) = m.pages.offset(at, 2)
        {
            m.rung[page / PAGE_SIZE] = 0;
        }
        Doorbell { bar, at, epoch: self.gate.epoch }
    }

    fn doorbell(&mut self, cx: &mut Cx<'_>, db: Doorbell, offset: u64, value: u16) {
        if db.epoch != self.gate.epoch {
            self.stale_doorbells += 1;
            return;
        }
        let at = db.at + offset;
        if !self.store_doorbell(db.bar, at, value) {
            self.post_write(cx, db.bar, at, &value.to_le_bytes());
        }
    }

    fn dma_alloc(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted> {
        let limit = if self.gate.removed { 0 } else { self.session.pool.len() };
        let buf = if len <= limit { self.session.pool.alloc(len) } else { None };
        buf.ok_or(DmaExhausted { asked: len, tag, limit })
    }

    /// In a file of its own, which the card's process maps besides the pool.
    fn dma_alloc_apart(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted> {
        let refused = DmaExhausted { asked: len, tag, limit: self.session.pool.len() };
        let size = len.max(1).next_multiple_of(PAGE_SIZE) as u64;
        if self.gate.removed {
            return Err(refused);
        }
        let Ok(mem) = SharedMem::shareable(len) else { return Err(refused) };
        let addr = self.session.next_apart;
        let file = mem.file().and_then(|(fd, _)| fd.try_clone_to_owned().ok()).map(Rc::new);
        let fds = file.into_iter().filter(|_| self.shares).collect();
        let map = Request::DmaMap { flags: MAP_READ | MAP_WRITE, offset: 0, addr, size };
        let done = self.session.call(self.now, &map, fds, |_, _| Some(()));
        self.check();
        done.map_err(|_| refused)?;
        // An address is never used again, and no two ranges touch.
        self.session.next_apart += size + PAGE_SIZE as u64;
        self.session.apart.insert(addr, mem.clone());
        Ok(DmaBuf { addr, mem })
    }

    fn dma_free(&mut self, buf: DmaBuf) {
        if self.session.apart.remove(&buf.addr).is_some() {
            let size = buf.len().max(1).next_multiple_of(PAGE_SIZE) as u64;
            let unmap = Request::DmaUnmap { flags: 0, addr: buf.addr, size };
            // A server that is lost has lost its map, too.
            let _ = self.session.call(self.now, &unmap, Vec::new(), |_, _| Some(()));
            self.check();
        } else {
            self.session.pool.release(&buf);
        }
    }

    fn lend(&mut self, buf: &DmaBuf, range: Range<usize>, _: Dir) -> Loan {
        assert!(range.start <= range.end && range.end <= buf.len(), "a loan is inside its buffer");
        let id = self.next_loan;
        self.next_loan = self.next_loan.wrapping_add(1);
        self.loans += 1;
        Loan { id, addr: buf.addr + range.start as u64, len: range.len() }
    }

    fn reclaim(&mut self, _: Loan, _: Proof) {
        self.loans = self.loans.saturating_sub(1);
    }

    fn take_interrupts(&mut self) -> VectorSet {
        let mut set = std::mem::take(&mut self.arrived);
        let (index, events) = match self.routed {
            Some(IRQ_MSIX) => (IRQ_MSIX, self.msix.as_slice()),
            Some(_) => (IRQ_MSI, std::slice::from_ref(&self.msi)),
            None => (IRQ_INTX, std::slice::from_ref(&self.intx)),
        };
        let Some(first) = events.first() else { return set };
        let mut fds = [(first.as_fd(), true, false); 64];
        for (slot, e) in fds.iter_mut().zip(events) {
            *slot = (e.as_fd(), true, false);
        }
        let fired = ready(&fds[..events.len().min(64)], Some(Duration::ZERO));
        for (i, e) in events.iter().enumerate().filter(|(i, _)| fired >> i & 1 == 1) {
            if !e.take() {
                continue;
            }
            if index == IRQ_INTX {
                set.insert(Vector(0));
            } else if let Some(v) = self.gate.config.signal(Vector(i as u8)) {
                set.insert(v);
            }
        }
        if index == IRQ_INTX && fired != 0 {
            // The line has masked itself. If the level still stands, it is signalled again.
            let flags = SET_NONE | SET_UNMASK;
            let unmask = SetIrqs { flags, index, start: 0, count: 1, data: &[] };
            self.session.post(self.now, &Request::SetIrqs(unmask));
            self.check();
        }
        set
    }

    fn epoch(&self) -> Epoch {
        self.gate.epoch
    }

    fn reset(&mut self, cx: &mut Cx<'_>, kind: ResetKind) -> Result<Revoked, BusLost> {
        if self.check() {
            return Ok(Revoked { until: self.gate.epoch });
        }
        let r = self.do_reset(cx.now, kind).map_err(|_| BusLost);
        self.finish(r).map(|()| Revoked { until: self.gate.epoch })
    }

    fn revoked(&mut self, cx: &mut Cx<'_>, since: Epoch) -> Result<Option<Revoked>, BusLost> {
        if !self.check() && self.has_slot {
            let r = self.refresh(cx.now).map_err(|_| BusLost);
            self.finish(r)?;
        }
        let until = self.gate.epoch;
        Ok((until > since).then_some(Revoked { until }))
    }
}
