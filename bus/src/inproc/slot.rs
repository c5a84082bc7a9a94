//! The slot: posted writes in order, reads after them, config space, resets, removal.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::host::Host;
use super::{Audit, POSTED_LIMIT, SlotConfig, Violation};
use crate::actor::{ActorId, Budget, Cx, Progress};
use crate::config::{ConfigSpace, Effect};
use crate::gate::Gate;
use crate::pci::{Bar, DevCx, HostPort, PciFunction, ResetKind, ResetReport, Revoked, Width};
use crate::streams::Streams;
use crate::time::Instant;
use crate::trace::{Event, EventKind, Trace};
use crate::wake::Wake;

pub(super) struct Posted {
    due: Instant,
    bar: Bar,
    at: u64,
    width: Width,
    value: u64,
    doorbell: bool,
}

/// A slot with its card. Built by a world, shared by [`super::InProcess`] and [`super::CardActor`].
pub struct Slot {
    card: Box<dyn PciFunction>,
    pub(super) name: ActorId,
    pub(super) host: Host,
    pub(super) posted: VecDeque<Posted>,
    wake: Wake,
}

/// Time, randomness and events, from whoever is being stepped.
pub(super) struct Ambient<'a> {
    pub(super) now: Instant,
    pub(super) rng: &'a mut dyn Streams,
    pub(super) trace: &'a mut Trace,
}

impl<'a> Ambient<'a> {
    pub(super) fn of(cx: &'a mut Cx<'_>) -> Self {
        Self { now: cx.now, rng: &mut *cx.rng, trace: &mut *cx.trace }
    }
}

impl Slot {
    /// A slot with `card` in it. `wake_card` makes [`super::CardActor`] ready, `wake_host` the driver.
    #[must_use]
    pub fn new(
        config: SlotConfig,
        name: ActorId,
        card: Box<dyn PciFunction>,
        wake_card: Wake,
        wake_host: Wake,
    ) -> Rc<RefCell<Self>> {
        let host = Host::new(config, Gate::new(card.layout()), wake_host);
        Rc::new(RefCell::new(Self { card, name, host, posted: VecDeque::new(), wake: wake_card }))
    }

    /// What is out, and what went wrong so far.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.host.audit()
    }

    /// The first [`super::VIOLATIONS_KEPT`] violations.
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

    pub(super) fn with_card<R>(
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

    pub(super) fn post(
        &mut self,
        mut amb: Ambient<'_>,
        bar: Bar,
        at: u64,
        width: Width,
        value: u64,
        doorbell: bool,
    ) {
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
    pub(super) fn flush(&mut self, amb: &mut Ambient<'_>) {
        self.deliver(amb, None);
        self.host.release(None);
    }

    pub(super) fn read(&mut self, mut amb: Ambient<'_>, bar: Bar, at: u64, width: Width) -> u64 {
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

    pub(super) fn config_read(&mut self, mut amb: Ambient<'_>, at: u16) -> u32 {
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

    pub(super) fn config_write(&mut self, mut amb: Ambient<'_>, at: u16, value: u32) {
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

    pub(super) fn reset(&mut self, mut amb: Ambient<'_>, kind: ResetKind) -> (ResetReport, Revoked) {
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

    pub(super) fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
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
