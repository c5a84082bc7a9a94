//! The helper's side of the adapter: path requests that wait for it, and its ring.
//!
//! | the helper | what follows |
//! |---|---|
//! | opens | FLUSH if the card has had the ring since its reset, then both rings start over in a new generation |
//! | writes | carried out if the generation is current and the register is its own; refused and counted otherwise |
//! | closes | its generation ends; the card keeps the memory until the next reset |
//! | says Hello | what the old one had open is closed, IfUp and the waiting path requests are repeated; it is asked for the paths of standing connections, too, and watches their neighbours from then on |
//! | is silent | path requests run into their deadline; going down waits `helper_close` for it and then goes on |

use bus::Instant;
use bus::actor::Cx;
use bus::pci::{Platform, Proof};
use bus::uio::{EventCount, FromHelper, OpenRefused, PathHandle, PathReq, ToHelper, UioMaps, Value};

use super::Adapter;
use super::timers::TimerKey;
use crate::bnx2i::Phase;
use crate::cnic::uio::{self, Shared};
use crate::control::EpHandle;

/// Reasons of refusal in the events of dropped messages.
const STALE: u8 = 31;
const FORBIDDEN: u8 = 32;

/// Where the ring is.
enum Ring {
    Closed,
    /// An open waits until the card has fetched the FLUSH, the KWQE before this index.
    Flushing {
        fetched: u16,
        until: Instant,
    },
    Open {
        events: EventCount,
        seen: (u16, u16),
    },
}

/// What the adapter keeps for the helper.
pub(super) struct Helper {
    pub(super) shared: Option<Shared>,
    ring: Ring,
    generation: u32,
    /// Going down waits until then for the helper to close.
    pub(super) close_due: Option<Instant>,
}

impl Default for Helper {
    fn default() -> Self {
        Self { shared: None, ring: Ring::Closed, generation: 0, close_due: None }
    }
}

impl Helper {
    pub(super) fn loans(&self) -> u32 {
        self.shared.as_ref().map_or(0, Shared::loans)
    }

    fn is_open(&self) -> bool {
        matches!(self.ring, Ring::Open { .. })
    }

    /// Whether going down still waits for the helper.
    pub(super) fn is_waited_for(&self, now: Instant) -> bool {
        self.is_open() && self.close_due.is_some_and(|due| now < due)
    }
}

/// What the helper sees of an endpoint's handle.
pub(super) fn path_handle(ep: EpHandle) -> PathHandle {
    PathHandle(u64::from(ep.generation) << 16 | u64::from(ep.cid))
}

/// The reverse. A handle that was never given out names no endpoint.
pub(super) fn endpoint_handle(handle: PathHandle) -> EpHandle {
    let generation = u32::try_from(handle.0 >> 16).unwrap_or(u32::MAX);
    EpHandle { cid: handle.0 as u16, generation }
}

impl<P: Platform> Adapter<P> {
    pub(super) fn on_helper(&mut self, cx: &mut Cx<'_>, message: FromHelper) {
        match message {
            FromHelper::Hello => self.helper_hello(cx),
            FromHelper::PathUpdate(update) => self.on_path(cx, &update),
            FromHelper::Open => self.open_ring(cx),
            FromHelper::Close { generation } => {
                if self.helper.is_open() && generation == self.helper.generation {
                    self.helper.ring = Ring::Closed;
                } else {
                    self.stale(cx, STALE, generation as u16);
                }
            }
            FromHelper::Write { generation, at, value } => self.helper_write(cx, generation, at, value),
        }
    }

    fn helper_write(&mut self, cx: &mut Cx<'_>, generation: u32, at: u32, value: Value) {
        if !self.helper.is_open() || generation != self.helper.generation {
            self.counters.helper_refused += 1;
            self.stale(cx, STALE, generation as u16);
            return;
        }
        let platform = &mut self.platform;
        if !self.helper.shared.as_mut().is_some_and(|s| s.write(platform, cx, at, value)) {
            self.counters.helper_refused += 1;
            self.stale(cx, FORBIDDEN, at as u16);
        }
    }

    /// A helper starts: it knows nothing, and the old one's ring is nobody's.
    fn helper_hello(&mut self, cx: &mut Cx<'_>) {
        self.helper.ring = Ring::Closed;
        self.timers.disarm(TimerKey::Ring);
        self.helper_outbox.clear();
        self.say_if_up();
        if !self.ready() {
            return;
        }
        for cid in 0..self.eps.len() as u16 {
            let Some(ep) = self.ep(cid).filter(|ep| !ep.doomed && ep.phase.has_path()) else { continue };
            ep.path_unseen = ep.phase > Phase::Resolving;
            self.ask_path(cid);
        }
        cx.event(bus::trace::EventKind::Operator, 16, u64::from(self.age));
    }

    pub(super) fn say_if_up(&mut self) {
        if let (true, Some(id)) = (self.state == super::AdapterState::Up, self.identity) {
            self.tell_helper(ToHelper::IfUp { mac: id.iscsi_mac, mtu: self.config.mtu });
        }
    }

    pub(super) fn ask_path(&mut self, cid: u16) {
        let pmtu = self.config.mtu;
        let Some(ep) = self.ep(cid) else { return };
        let request = PathReq { handle: path_handle(ep.handle()), dst: ep.portal.ip(), vlan: 0, pmtu };
        self.tell_helper(ToHelper::PathReq(request));
    }

    fn open_ring(&mut self, cx: &mut Cx<'_>) {
        self.helper.ring = Ring::Closed;
        if !self.ready() {
            return self.refuse_open(OpenRefused::Down);
        }
        match &self.helper.shared {
            None => self.refuse_open(OpenRefused::NoMemory),
            Some(shared) if shared.is_lent() => {
                // What the card has of an earlier open goes first; it must not be flushed after it was
                // started over.
                shared.mark_shut();
                if self.submit_kwqes(cx, &[uio::flush()]).is_err() {
                    return self.refuse_open(OpenRefused::Down);
                }
                let fetched = self.chip.as_ref().map_or(0, |c| c.queues.kwq_producer());
                self.helper.ring = Ring::Flushing { fetched, until: cx.now + self.config.deadlines.firmware };
                self.finish_open(cx);
            }
            Some(_) => self.start_ring(cx),
        }
    }

    fn refuse_open(&mut self, why: OpenRefused) {
        self.timers.disarm(TimerKey::Ring);
        self.tell_helper(ToHelper::OpenRefused(why));
    }

    /// Goes on with an open when the card has fetched the FLUSH.
    pub(super) fn finish_open(&mut self, cx: &mut Cx<'_>) {
        let Ring::Flushing { fetched, until } = self.helper.ring else { return };
        let consumer = self.chip.as_ref().map(|c| c.memory.kwq_consumer());
        // Both run freely in 16 bits: the consumer is behind as long as the difference is small.
        let behind =
            consumer.is_none_or(|c| (1..=crate::cnic::KWQ_ENTRIES).contains(&fetched.wrapping_sub(c)));
        if !behind {
            self.start_ring(cx);
        } else if cx.now >= until {
            self.counters.timeouts += 1;
            self.helper.ring = Ring::Closed;
            self.refuse_open(OpenRefused::Down);
        } else {
            self.timers.arm_by(TimerKey::Ring, until.min(cx.now + super::PORT_RETRY));
        }
    }

    fn start_ring(&mut self, cx: &mut Cx<'_>) {
        self.timers.disarm(TimerKey::Ring);
        self.helper.ring = Ring::Closed;
        let Some(shared) = &mut self.helper.shared else { return };
        self.helper.generation = self.helper.generation.wrapping_add(1);
        let events = EventCount::default();
        let started = shared.start(&mut self.platform, cx, self.helper.generation, events.clone());
        let Ok(maps) = started else { return self.refuse_open(OpenRefused::Down) };
        let UioMaps { generation, .. } = maps;
        self.counters.helper_opens += 1;
        self.helper.ring = Ring::Open { events, seen: (0, 0) };
        cx.event(bus::trace::EventKind::Operator, 17, u64::from(generation));
        self.tell_helper(ToHelper::Opened(maps));
    }

    /// Tells the helper of frames: its consumers in the status block have moved.
    pub(super) fn watch_ring(&mut self) {
        let (Ring::Open { events, seen }, Some(shared)) = (&mut self.helper.ring, &self.helper.shared) else {
            return;
        };
        let now = shared.consumers();
        if core::mem::replace(seen, now) != now {
            events.bump();
            self.ports.helper_wake.wake();
        }
    }

    /// The interface goes down: the helper is told, and may close until the returned time.
    pub(super) fn helper_down(&mut self, cx: &mut Cx<'_>) {
        self.tell_helper(ToHelper::IfDown);
        if let Ring::Flushing { .. } = self.helper.ring {
            self.helper.ring = Ring::Closed;
            self.refuse_open(OpenRefused::Down);
        }
        let due = cx.now + self.config.deadlines.helper_close;
        self.helper.close_due = self.helper.is_open().then_some(due);
    }

    /// Takes the ring away, whether the helper has closed it or not. `present`: the card still has it.
    pub(super) fn shut_ring(&mut self, cx: &mut Cx<'_>, present: bool) {
        self.counters.helper_not_closed += u64::from(self.helper.is_open());
        self.helper.ring = Ring::Closed;
        self.helper.close_due = None;
        self.timers.disarm(TimerKey::Ring);
        let Some(shared) = self.helper.shared.as_ref().filter(|s| s.is_lent()) else { return };
        shared.mark_shut();
        if present {
            // Without room the reset that follows does it.
            let _ = self.submit_kwqes(cx, &[uio::flush()]);
        }
    }

    /// The chip was reset.
    pub(super) fn reclaim_ring(&mut self, proof: Proof) {
        self.helper.ring = Ring::Closed;
        self.helper.close_due = None;
        if let Some(shared) = &mut self.helper.shared {
            shared.mark_shut();
            shared.reclaim(&mut self.platform, proof);
        }
    }
}
