//! Both ends of a slot: the driver's platform, and the actor that steps the card.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::Slot;
use super::slot::Ambient;
use crate::actor::{Actor, ActorId, Budget, Cx, Progress};
use crate::mem::DmaBuf;
use crate::pci::{
    Bar, BusLost, Dir, DmaExhausted, Doorbell, Epoch, HostPort, Loan, Platform, Proof, ResetKind, Revoked,
    VectorSet, Width,
};

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
        self.0.borrow_mut().host.dma_alloc(len, tag)
    }

    fn dma_alloc_apart(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted> {
        // Each allocation is a file of its own already, or none.
        self.dma_alloc(len, tag)
    }

    fn dma_free(&mut self, buf: DmaBuf) {
        self.0.borrow_mut().host.dma_free(buf);
    }

    fn lend(&mut self, buf: &DmaBuf, range: Range<usize>, dir: Dir) -> Loan {
        self.0.borrow_mut().host.lend(buf, range, dir)
    }

    fn reclaim(&mut self, loan: Loan, proof: Proof) {
        self.0.borrow_mut().host.reclaim(loan, proof);
    }

    fn take_interrupts(&mut self) -> VectorSet {
        self.0.borrow_mut().host.take_interrupts()
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
