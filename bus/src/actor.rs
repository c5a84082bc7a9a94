//! The contract of everything that runs.
//!
//! An actor is stepped by a runner, does a bounded amount of work and returns. Time, randomness and the event
//! sink reach it through [`Cx`]; messages through [`crate::port`]. It never blocks, sleeps, reads a clock or
//! draws randomness of its own, so a run is a pure function of code, configuration and plan.

use core::fmt;

use crate::streams::Streams;
use crate::time::Instant;
use crate::trace::{Event, EventKind, Trace};

/// Names an actor in events and reports: a kind and an instance number, such as `iscsid#0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId {
    /// What it is.
    pub kind: &'static str,
    /// Which one of them.
    pub instance: u32,
}

impl ActorId {
    /// The `instance`th actor of `kind`.
    #[must_use]
    pub const fn new(kind: &'static str, instance: u32) -> Self {
        Self { kind, instance }
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.kind, self.instance)
    }
}

/// The number of work items a step may do. A work item is what the actor says it is (a WQE, a CQE, a PDU).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(pub u32);

/// What a step did and when the actor wants to run again.
///
/// An actor that returns `done >= budget` is run again at once. Otherwise it sleeps until something wakes it
/// or `next` arrives, whichever is first. A deadline in the past counts as now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Work items done in this step.
    pub done: u32,
    /// The earliest deadline the actor waits for.
    pub next: Option<Instant>,
}

/// What a step may use besides the actor's own state.
pub struct Cx<'a> {
    /// The current time. Constant during a step.
    pub now: Instant,
    /// Who is being stepped.
    pub actor: ActorId,
    /// Named random streams.
    pub rng: &'a mut dyn Streams,
    /// Where events go.
    pub trace: &'a mut Trace,
}

impl Cx<'_> {
    /// Emits an event of this actor, now. `a` and `b` are documented with the [`EventKind`].
    #[inline]
    pub fn event(&mut self, kind: EventKind, a: u64, b: u64) {
        self.trace.emit(|| Event { time: self.now, actor: self.actor, kind, a, b });
    }
}

/// Everything that runs.
pub trait Actor {
    /// Its name in events and reports.
    fn name(&self) -> ActorId;
    /// Does at most `budget` work items. Never blocks, never sleeps.
    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress;
}
