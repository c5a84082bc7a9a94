//! The one event model.
//!
//! Everything that crosses a seam is an [`Event`]: time, actor, kind and two numbers, never a secret. The
//! rolling history hash, the ring of last events for failure reports, and the counters are sinks of it, and
//! so is whatever [`Trace::set_sink`] is given. Switched off, an event costs one branch.

use std::collections::VecDeque;
use std::fmt;

use crate::actor::ActorId;
use crate::time::Instant;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// What happened. The comment of each kind names its two numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum EventKind { $($(#[$doc])* $kind,)* }

        impl EventKind {
            /// All kinds, in order.
            pub const ALL: &[EventKind] = &[$(EventKind::$kind,)*];
        }
    };
}

event_kinds! {
    /// An actor was stepped: (work items done, 0).
    Step,
    /// The driver read a register: (offset, value).
    RegisterRead,
    /// A posted register write reached the card: (offset, value).
    RegisterWrite,
    /// A doorbell write reached the card: (offset, value).
    Doorbell,
    /// The card read host memory: (address, bytes).
    DmaRead,
    /// The card wrote host memory: (address, bytes).
    DmaWrite,
    /// The card published an index or flag: (address, value).
    Publish,
    /// The card raised an interrupt: (vector, 0).
    Interrupt,
    /// The bus refused an access of the card: (address, cause).
    DmaRefused,
    /// The epoch advanced: (new epoch, 0).
    Revoke,
    /// The function was reset: (kind, new epoch).
    Reset,
    /// The card was pulled or put back: (1 pulled / 0 back, 0).
    Removal,
    /// The driver posted a control request to the KWQ, or the card fetched it: (opcode and layer, cid).
    Kwqe,
    /// The card posted a control completion to the KCQ, or the driver took it: (opcode and layer, cid).
    Kcqe,
    /// The driver posted a work request to an SQ, or the card fetched it: (opcode, cid << 16 | itt).
    Wqe,
    /// The card posted a completion to a CQ, or the driver took it: (opcode, cid << 16 | itt).
    Cqe,
    /// A PDU left: (opcode, connection << 32 | itt).
    PduOut,
    /// A PDU arrived: (opcode, connection << 32 | itt).
    PduIn,
    /// A block request was submitted: (ticket, bytes).
    Submit,
    /// A block request completed: (ticket, 0 for success or the error's number).
    Complete,
    /// A session changed state: (session, state number). The adapter's are 0 new, 1 gone, 2 logged in, 3
    /// connection lost, 4 its endpoint was released, 6 replacement timeout, 8 disks ready; iscsid's are its
    /// stages.
    Session,
    /// An adapter changed state: (state number, generation).
    Adapter,
    /// A deadline fired: (what, id).
    Timeout,
    /// A stale or impossible event was dropped: (what, id).
    Dropped,
    /// A fault point fired: (point, hit).
    Fault,
    /// An operator acted: (action, argument).
    Operator,
}

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Instant,
    /// To or by whom.
    pub actor: ActorId,
    /// The kind of event, which says what the numbers mean.
    pub kind: EventKind,
    /// First number; see [`EventKind`].
    pub a: u64,
    /// Second number; see [`EventKind`].
    pub b: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} {:#x} {:#x}", self.time, self.actor, self.kind, self.a, self.b)
    }
}

/// How many events the failure ring keeps.
pub const RING: usize = 4096;

/// Takes every event, in order.
pub type Sink = Box<dyn FnMut(&Event)>;

/// The sinks of events.
pub struct Trace {
    on: bool,
    hash: u64,
    counters: Vec<u64>,
    ring: VecDeque<Event>,
    sink: Option<Sink>,
}

impl Trace {
    /// A trace that keeps nothing: one branch an event.
    #[must_use]
    pub fn off() -> Self {
        Self {
            on: false,
            hash: 0,
            counters: vec![0; EventKind::ALL.len()],
            ring: VecDeque::new(),
            sink: None,
        }
    }

    /// A trace that hashes, counts and keeps the last [`RING`] events.
    #[must_use]
    pub fn recording() -> Self {
        Self { on: true, ring: VecDeque::with_capacity(RING), ..Self::off() }
    }

    /// Hands every event from now on to `sink`, too. A trace that was off keeps its hash, counters and last
    /// events from now on as well.
    pub fn set_sink(&mut self, sink: Sink) {
        self.on = true;
        self.sink = Some(sink);
    }

    /// Records the event that `make` returns, if anybody listens.
    #[inline]
    pub fn emit(&mut self, make: impl FnOnce() -> Event) {
        if self.on {
            self.record(make());
        }
    }

    fn record(&mut self, e: Event) {
        let mut h = self.hash;
        for b in e.actor.kind.bytes() {
            h = mix(h, u64::from(b));
        }
        let who = u64::from(e.actor.instance) << 8 | e.kind as u64;
        self.hash = mix(mix(mix(mix(h, who), e.time.as_nanos()), e.a), e.b);
        self.counters[e.kind as usize] += 1;
        if let Some(sink) = &mut self.sink {
            sink(&e);
        }
        if self.ring.len() == RING {
            self.ring.pop_front();
        }
        self.ring.push_back(e);
    }

    /// The hash of everything that happened so far. Two runs of the same configuration have the same.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How often `kind` happened.
    #[must_use]
    pub fn count(&self, kind: EventKind) -> u64 {
        self.counters[kind as usize]
    }

    /// Events recorded in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counters.iter().sum()
    }

    /// The last events, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &Event> {
        self.ring.iter()
    }
}

/// One round of a multiply-xorshift mixer (the finaliser constant of splitmix64).
fn mix(h: u64, v: u64) -> u64 {
    let x = (h.rotate_left(5) ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(a: u64) -> Event {
        Event { time: Instant::ZERO, actor: ActorId::new("test", 0), kind: EventKind::Step, a, b: 0 }
    }

    #[test]
    fn the_hash_depends_on_every_event_and_on_their_order() {
        let run = |values: &[u64]| {
            let mut t = Trace::recording();
            values.iter().for_each(|&v| t.emit(|| event(v)));
            t.hash()
        };
        assert_eq!(run(&[1, 2]), run(&[1, 2]));
        assert_ne!(run(&[1, 2]), run(&[2, 1]));
        assert_ne!(run(&[1, 2]), run(&[1]));
    }

    #[test]
    fn the_ring_is_bounded_and_keeps_the_last() {
        let mut t = Trace::recording();
        (0..RING as u64 + 10).for_each(|v| t.emit(|| event(v)));
        assert_eq!(t.last().count(), RING);
        assert_eq!(t.last().next().map(|e| e.a), Some(10));
        assert_eq!(t.count(EventKind::Step), RING as u64 + 10);
    }

    #[test]
    fn a_sink_gets_every_event_from_when_it_was_set() {
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut t = Trace::off();
        t.emit(|| event(1));
        let into = seen.clone();
        t.set_sink(Box::new(move |e| into.borrow_mut().push(e.a)));
        (2..4).for_each(|v| t.emit(|| event(v)));
        assert_eq!((&*seen.borrow(), t.total()), (&vec![2, 3], 2));
    }

    #[test]
    fn off_keeps_nothing() {
        let mut t = Trace::off();
        t.emit(|| panic!("nobody listens"));
        assert_eq!((t.hash(), t.total()), (0, 0));
    }
}
