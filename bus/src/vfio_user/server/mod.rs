//! The server: a card in a slot whose other side is a socket.
//!
//! Sans-IO: [`Server::receive`] takes bytes and descriptors, [`Server::outbox`] holds what is to be sent, and
//! a runner moves them. Every request is consumed whole and answered in order; nothing is read while too many
//! answers wait. A client that leaves, or whose stream makes no sense, is detached: the card is reset,
//! everything the client gave us is let go, and the next client finds the function in its power-on state.
//!
//! Not modelled: migration, several clients at a time, and masking eventfds (the client may mask INTx by
//! message).

mod access;
mod port;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::actor::{ActorId, Budget, Cx, Progress};
use crate::gate::Gate;
use crate::pci::{DevCx, Epoch, PciFunction, ResetKind, ResetReport, Width};
use crate::time::Instant;
use crate::trace::{Event, EventKind};

use super::dma::DmaTable;
use super::doorbell::{DoorbellLayout, Doorbells};
use super::errno::Errno;
use super::irq::IrqTable;
use super::link::Link;
use super::message::Request;
use super::version::{Capabilities, MAJOR, MINOR};
use super::wire::{Frame, Header, Inbox, Kind, Outbox};
use port::{Deferred, Granted, Port};

pub use port::{DEFERRED_BYTES, DEFERRED_LIMIT, DMA_DEADLINE};

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that arrived.
    pub requests: u64,
    /// Requests that were refused, with an answer or (posted ones) without.
    pub refused: u64,
    /// Replies for which nobody waited.
    pub strays: u64,
    /// Accesses of the card that were refused.
    pub dma_refused: u64,
    /// Waits for the client's memory that reached their deadline.
    pub dma_timeouts: u64,
    /// Clients shut out because memory of theirs was gone: its file was shrunk, or its file system is full.
    pub memory_lost: u64,
    /// Resets in which the card did not revoke the epoch by itself.
    pub resets_without_revoke: u64,
}

/// Everything that must be back when nobody is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Maps of the client's memory.
    pub maps: usize,
    /// Bytes that wait to be sent.
    pub unsent: usize,
    /// Requests that wait for the end of a step.
    pub deferred: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    Detached,
    /// Attached; the version is not agreed.
    Greeting,
    Ready,
}

/// A slot with its card, for one client at a time.
pub struct Server {
    card: Box<dyn PciFunction>,
    name: ActorId,
    port: Port,
    session: Session,
    rung: Vec<(u64, u16)>,
    scratch: Vec<u8>,
    /// Mappings of this process that were lost when this was last looked at.
    losses: u64,
}

impl Server {
    /// A slot with `card` in it. `doorbells`: the pages that a client of ours may map.
    ///
    /// # Errors
    /// No descriptor or memory is left for the state page.
    pub fn new(
        name: ActorId,
        card: Box<dyn PciFunction>,
        limits: Capabilities,
        doorbells: Option<DoorbellLayout>,
    ) -> io::Result<Self> {
        let gate = Gate::new(card.layout());
        let epoch = gate.epoch;
        let port = Port {
            dma: DmaTable::new(limits.max_maps),
            irqs: IrqTable::new(card.layout().msix.vectors),
            doorbells: Doorbells::new(doorbells.unwrap_or(DoorbellLayout::NONE), epoch)?,
            ours: limits,
            peer: limits,
            inbox: Inbox::new(limits.max_data, limits.max_fds),
            outbox: Outbox::default(),
            deferred: VecDeque::new(),
            next_id: 0,
            broken: false,
            now: Instant::ZERO,
            counters: Counters::default(),
            gate,
        };
        let (rung, scratch) = (Vec::new(), Vec::new());
        let losses = os::shm::losses();
        Ok(Self { card, name, port, session: Session::Detached, rung, scratch, losses })
    }

    /// A client has connected. Whoever was attached before is detached.
    pub fn attach(&mut self, cx: &mut Cx<'_>) {
        self.detach(cx);
        self.session = Session::Greeting;
        self.note(cx, EventKind::Removal, 0, 0);
    }

    /// The client is gone: resets the card, and lets go of maps, eventfds and whatever waits.
    pub fn detach(&mut self, cx: &mut Cx<'_>) {
        if self.session == Session::Detached {
            return;
        }
        self.session = Session::Detached;
        self.reset(cx, ResetKind::LostConnection);
        let p = &mut self.port;
        p.dma.unmap_all();
        p.irqs.release();
        p.inbox = Inbox::new(p.ours.max_data, p.ours.max_fds);
        p.outbox = Outbox::default();
        p.deferred.clear();
        p.peer = p.ours;
        p.broken = false;
        self.note(cx, EventKind::Removal, 1, 0);
    }

    /// Whether a client is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.session != Session::Detached
    }

    /// Whether the client has to go: its stream makes no sense, or it left while the card waited for it. The
    /// owner closes the socket and calls [`Server::detach`].
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.port.broken
    }

    /// Whether a client is attached and has agreed on a version.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.session == Session::Ready
    }

    /// Whether it is the client's turn: it has begun a message, or does not take what waits for it.
    #[must_use]
    pub fn awaits_client(&self) -> bool {
        !self.port.outbox.is_empty() || self.port.inbox.is_midway()
    }

    /// A client that took memory away which the card has used has to go.
    fn check_memory(&mut self) {
        let losses = os::shm::losses();
        if std::mem::replace(&mut self.losses, losses) != losses && self.port.dma.has_lost() {
            self.port.counters.memory_lost += 1;
            self.port.broken = true;
        }
    }

    /// Bytes that may be received now; zero while too much waits to be sent.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.port.outbox.is_full() { 0 } else { self.port.inbox.room() }
    }

    /// What waits to be sent.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.port.outbox
    }

    /// Both queues, for a link that moves bytes between steps.
    pub fn queues(&mut self) -> (&mut Outbox, &mut Inbox) {
        (&mut self.port.outbox, &mut self.port.inbox)
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.port.counters
    }

    /// What is held for the client.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let p = &self.port;
        Holdings { maps: p.dma.len(), unsent: p.outbox.len(), deferred: p.deferred.len() }
    }

    /// The current epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.port.gate.epoch
    }

    /// Ready to read when a parked server must step.
    #[must_use]
    pub fn kicked(&self) -> BorrowedFd<'_> {
        self.port.doorbells.kicked()
    }

    /// Takes what one receive brought, and serves all requests that are complete.
    pub fn receive(&mut self, cx: &mut Cx<'_>, bytes: &[u8], fds: impl IntoIterator<Item = OwnedFd>) {
        if self.session != Session::Detached {
            self.port.inbox.push(bytes, fds);
            self.pump(cx);
        }
    }

    /// Serves requests that are complete, until too much waits to be sent.
    pub fn pump(&mut self, cx: &mut Cx<'_>) {
        if self.session == Session::Detached {
            return;
        }
        while !self.port.outbox.is_full()
            && let Some(Deferred { header, payload, fds }) = self.port.deferred.pop_front()
        {
            self.handle(cx, Frame { header, payload: &payload, fds, refused: None });
        }
        let mut inbox = std::mem::replace(&mut self.port.inbox, Inbox::new(0, 0));
        while !self.port.broken && !self.port.outbox.is_full() {
            match inbox.pop() {
                Ok(Some(frame)) => self.handle(cx, frame),
                Ok(None) => break,
                Err(_) => self.port.broken = true,
            }
        }
        self.port.inbox = inbox;
        self.check_memory();
    }

    fn handle(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let Frame { header, payload, fds, refused } = frame;
        let header = match header.kind {
            Kind::Reply | Kind::Failed(_) => {
                self.port.counters.strays += 1;
                return;
            }
            Kind::Unknown => return self.port.refuse(header, Errno::EINVAL),
            Kind::Request | Kind::Posted => header,
        };
        self.port.counters.requests += 1;
        let parsed = match refused {
            Some(e) => Err(e),
            None => Request::parse(header.command, payload, self.port.ours.max_data),
        };
        let request = match parsed {
            Ok(r) => r,
            Err(e) => return self.port.refuse(header, e),
        };
        let greets = matches!(request, Request::Version { .. });
        if greets != (self.session == Session::Greeting) {
            return self.port.refuse(header, Errno::EINVAL);
        }
        if Port::is_its_own(&request) {
            return self.port.serve(header, &request, fds);
        }
        let outcome = if fds.is_empty() { self.serve_card(cx, header, &request) } else { Err(Errno::EINVAL) };
        if let Err(e) = outcome {
            self.port.refuse(header, e);
        }
    }

    fn serve_card(&mut self, cx: &mut Cx<'_>, header: Header, request: &Request<'_>) -> Result<(), Errno> {
        match *request {
            Request::Version { major, minor, data } => self.greet(header, major, minor, data)?,
            Request::RegionRead { region, at, count } => {
                let mut out = std::mem::take(&mut self.scratch);
                out.clear();
                out.resize(count as usize, 0);
                let outcome = self.region_read(cx, region, at, &mut out);
                if outcome.is_ok() {
                    self.port.reply(header, |p| {
                        super::message::put_access(p, region, at, count);
                        p.extend_from_slice(&out);
                    });
                }
                self.scratch = out;
                outcome?;
            }
            Request::RegionWrite { region, at, data } => {
                self.region_write(cx, region, at, data)?;
                let count = data.len() as u32;
                self.port.reply(header, |p| super::message::put_access(p, region, at, count));
            }
            Request::RegionWriteMulti(writes) => {
                for (region, at, data) in writes.iter() {
                    let data = data.filter(|d| !d.is_empty()).ok_or(Errno::EINVAL)?;
                    self.region_write(cx, region, at, data)?;
                }
                self.port.reply(header, |p| super::message::put64(p, writes.len()));
            }
            Request::DeviceReset => {
                self.reset(cx, ResetKind::Device);
                self.port.reply(header, |_| ());
            }
            // Only a client is asked for memory.
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    fn greet(&mut self, header: Header, major: u16, minor: u16, data: &[u8]) -> Result<(), Errno> {
        if major != MAJOR {
            return Err(Errno::EINVAL);
        }
        let peer = Capabilities::decode(data)?;
        let ours = self.port.ours;
        let offer = Capabilities {
            write_multiple: ours.write_multiple && peer.write_multiple,
            slot: ours.slot && peer.slot && peer.max_fds > 0,
            ..ours
        };
        self.port.peer = Capabilities { slot: offer.slot, ..peer };
        self.session = Session::Ready;
        let data = offer.encode();
        let answer = Request::Version { major, minor: minor.min(MINOR), data: &data };
        self.port.reply(header, |p| answer.encode(p));
        Ok(())
    }

    fn with_card<'l, R>(
        &mut self,
        cx: &mut Cx<'_>,
        link: Option<&'l mut (dyn Link + 'l)>,
        f: impl FnOnce(&mut dyn PciFunction, &mut DevCx<'_>) -> R,
    ) -> R {
        self.port.now = cx.now;
        let mut host = Granted { port: &mut self.port, link };
        let mut cx = DevCx {
            now: cx.now,
            actor: self.name,
            rng: &mut *cx.rng,
            trace: &mut *cx.trace,
            host: &mut host,
        };
        f(&mut *self.card, &mut cx)
    }

    /// An event of the slot.
    fn note(&self, cx: &mut Cx<'_>, kind: EventKind, a: u64, b: u64) {
        cx.trace.emit(|| Event { time: cx.now, actor: self.name, kind, a, b });
    }

    fn reset(&mut self, cx: &mut Cx<'_>, kind: ResetKind) -> ResetReport {
        self.ring_all(cx);
        let before = self.port.gate.epoch;
        let report = self.with_card(cx, None, |card, cx| card.reset(cx, kind));
        if self.port.gate.epoch == before {
            self.port.counters.resets_without_revoke += 1;
            self.port.revoke();
        }
        if kind != ResetKind::Flr {
            self.port.gate.config.power_on();
        }
        let epoch = self.port.gate.epoch;
        self.note(cx, EventKind::Reset, kind as u64, epoch.0.into());
        report
    }

    /// Lets the card see the mapped doorbells that changed.
    fn ring(&mut self, cx: &mut Cx<'_>, all: bool) -> u32 {
        let d = &mut self.port.doorbells;
        if !d.is_mapped() {
            return 0;
        }
        let bar = d.layout.bar;
        let mut rung = std::mem::take(&mut self.rung);
        d.poll(all, &mut rung);
        let n = rung.len() as u32;
        for (at, value) in rung.drain(..) {
            self.bar_write(cx, bar, at, Width::B2, value.into(), EventKind::Doorbell);
        }
        self.rung = rung;
        n
    }

    /// Stores to mapped doorbells that precede a message take effect before it.
    fn ring_all(&mut self, cx: &mut Cx<'_>) {
        self.ring(cx, true);
    }

    /// Looks at the doorbells, steps the card, and then serves what waited for it. `link` is the way to a
    /// client whose memory is not shared.
    pub fn step(&mut self, cx: &mut Cx<'_>, budget: Budget, link: Option<&mut dyn Link>) -> Progress {
        self.port.doorbells.unpark();
        let rung = self.ring(cx, false);
        let link = if self.session == Session::Ready { link } else { None };
        let p = self.with_card(cx, link, |card, cx| card.step(cx, budget));
        self.pump(cx);
        Progress { done: p.done + rung, next: p.next }
    }

    /// Before the owner sleeps: from now on the client kicks. Returns whether it may sleep; if not, doorbells
    /// were rung meanwhile.
    pub fn park(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.port.doorbells.is_mapped() {
            return true;
        }
        self.port.doorbells.park();
        let idle = self.ring(cx, true) == 0;
        if !idle {
            self.port.doorbells.unpark();
        }
        idle
    }
}
