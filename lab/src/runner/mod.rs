//! Runners: who steps the actors, and what time it is.
//!
//! An [`Executive`] owns the actors of one world, their ready queue and their deadlines. It picks the actor
//! that has been ready for longest (FIFO) and steps it with a budget. How time passes is a [`Pace`]: the
//! virtual pace ([`Virtual`]) charges a fixed cost a step and jumps to the next deadline when nobody is
//! ready, so a run is a pure function of code, configuration and seed; the inline pace ([`inline::Inline`])
//! reads the clock and parks on epoll. A world has a handful of actors however many connections it has, so
//! deadlines are found by a scan over actors.

pub mod inline;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bus::streams::Streams;
use bus::trace::{EventKind, Sink, Trace};
use bus::wake::{Wake, WakeSet};
use bus::{Actor, ActorId, Budget, Cx, Instant};

/// Work items that an actor may do in one step, unless [`Executive::set_budget`] says otherwise.
pub const BUDGET: Budget = Budget(64);

/// Steps in a row that may do nothing and ask for the next one at once, in virtual time: far more than any
/// actor needs to come to rest.
pub const SPINS: u32 = 1000;

/// What happens to the clock.
pub trait Pace {
    /// The time, when the world outside may have let some pass since `now`.
    fn now(&self, now: Instant) -> Instant {
        now
    }

    /// The time now, directly after an actor was stepped. What lies between is the actor's.
    fn after_step(&mut self, now: Instant) -> Instant;

    /// Whether an actor that does nothing and wants to run at once, again and again, is a bug to stop at.
    /// Where time is real it only costs a processor.
    fn forbids_spinning(&self) -> bool {
        false
    }

    /// Between two steps: looks outside when that is due, and returns the new time. No actor is charged for
    /// it.
    fn between(&mut self, now: Instant) -> Instant {
        now
    }

    /// Nobody is ready: wait until `deadline` or until something outside happens, and return the new time.
    /// `None` means that nothing can ever happen again.
    fn idle(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant>;

    /// What running cost so far, apart from the steps.
    fn overhead(&self) -> Overhead {
        Overhead::default()
    }
}

/// What a runner itself used: the part of a thread's time that belongs to no actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Real time of looking outside without waiting.
    pub polls: Duration,
    /// CPU time of going to sleep and waking up.
    pub parks_cpu: Duration,
}

/// Virtual time: a step costs [`Virtual::STEP`], waiting costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Virtual;

impl Virtual {
    /// What a step costs. Long enough that work takes time, short against every timer of the system.
    pub const STEP: Duration = Duration::from_nanos(500);
}

impl Pace for Virtual {
    fn after_step(&mut self, now: Instant) -> Instant {
        now + Self::STEP
    }

    fn idle(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        deadline.map(|d| d.max(now))
    }

    fn forbids_spinning(&self) -> bool {
        true
    }
}

/// A place in an [`Executive`] that an actor will be put into. It exists first so that the actor's ports can
/// be made before the actor.
pub struct Place(Wake);

impl Place {
    /// The handle that wakes the actor of this place.
    #[must_use]
    pub fn wake(&self) -> Wake {
        self.0.clone()
    }
}

struct Entry {
    name: ActorId,
    actor: Option<Rc<RefCell<dyn Actor>>>,
    wake: Wake,
    deadline: Option<Instant>,
    stopped: bool,
    busy: Duration,
    /// Steps in a row that did nothing and asked for another one at once.
    spins: u32,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The condition was met.
    Done,
    /// The time limit came first.
    Limit,
    /// Nobody is ready and nobody waits: nothing can ever happen again.
    Idle,
}

/// Steps the actors of one world.
pub struct Executive {
    set: WakeSet,
    entries: Vec<Entry>,
    pace: Box<dyn Pace>,
    now: Instant,
    rng: Box<dyn Streams>,
    trace: Trace,
    steps: u64,
    budget: Budget,
}

impl Executive {
    /// An executive without actors, at time zero.
    #[must_use]
    pub fn new(pace: Box<dyn Pace>, rng: Box<dyn Streams>, trace: Trace) -> Self {
        Self {
            set: WakeSet::default(),
            entries: Vec::new(),
            pace,
            now: Instant::ZERO,
            rng,
            trace,
            steps: 0,
            budget: BUDGET,
        }
    }

    /// Changes how many work items a step may do. One makes every seam crossing a place where others may act.
    pub fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// Makes a place for an actor.
    pub fn place(&mut self) -> Place {
        let wake = self.set.register();
        let name = ActorId::new("empty", wake.index());
        self.entries.push(Entry {
            name,
            actor: None,
            wake: wake.clone(),
            deadline: None,
            stopped: false,
            busy: Duration::ZERO,
            spins: 0,
        });
        Place(wake)
    }

    /// Puts an actor into its place, ready to run. An actor that was there is gone.
    pub fn install<A: Actor + 'static>(&mut self, place: &Place, actor: Rc<RefCell<A>>) {
        let e = &mut self.entries[place.0.index() as usize];
        e.name = actor.borrow().name();
        e.actor = Some(actor);
        e.deadline = None;
        e.stopped = false;
        e.spins = 0;
        e.wake.wake();
    }

    /// Kills the actor of a place: it is dropped and never stepped again.
    pub fn kill(&mut self, place: &Place) {
        let e = &mut self.entries[place.0.index() as usize];
        e.actor = None;
        e.deadline = None;
    }

    /// Stops the actor of a place (as SIGSTOP does) or lets it continue. Its messages and deadlines wait.
    pub fn stop(&mut self, place: &Place, stopped: bool) {
        let e = &mut self.entries[place.0.index() as usize];
        e.stopped = stopped;
        if !stopped {
            e.wake.wake();
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The event sinks.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Hands every event from now on to `sink`.
    pub fn set_sink(&mut self, sink: Sink) {
        self.trace.set_sink(sink);
    }

    /// Events that crossed a seam so far: all but the steps themselves.
    #[must_use]
    pub fn crossings(&self) -> u64 {
        self.trace.total() - self.trace.count(EventKind::Step)
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Time spent in the steps of the actor of a place. In virtual time this is the number of its steps times
    /// [`Virtual::STEP`]; in real time it is what the clock says, so it includes what the machine gave to
    /// others.
    #[must_use]
    pub fn busy(&self, place: &Place) -> Duration {
        self.entries[place.0.index() as usize].busy
    }

    /// What running cost so far, apart from the steps.
    #[must_use]
    pub fn overhead(&self) -> Overhead {
        self.pace.overhead()
    }

    /// Calls `f` as if it were an actor, now: how a test or a tool acts on the world between steps.
    pub fn act<R>(&mut self, who: ActorId, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        self.now = self.pace.now(self.now);
        f(&mut Cx { now: self.now, actor: who, rng: &mut *self.rng, trace: &mut self.trace })
    }

    /// Runs until `done` (asked after every step), or `limit`, or until nothing can happen any more.
    ///
    /// # Panics
    /// In virtual time, when an actor spins: [`SPINS`] steps in a row without work, each asking for the next
    /// at once.
    pub fn run(&mut self, limit: Instant, mut done: impl FnMut(&Self) -> bool) -> Ended {
        self.now = self.pace.now(self.now);
        loop {
            if done(self) {
                return Ended::Done;
            }
            if self.now >= limit {
                return Ended::Limit;
            }
            self.fire();
            if !self.step_one() {
                let deadline = self.deadline();
                let until = Instant::earliest(deadline, Some(limit));
                let Some(now) = self.pace.idle(self.now, until) else { return Ended::Idle };
                if deadline.is_none() && now >= limit && self.set.is_empty() {
                    self.now = limit;
                    return Ended::Idle;
                }
                self.now = now.max(self.now);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.entries.iter().filter(|e| !e.stopped).filter_map(|e| e.deadline).min()
    }

    /// Wakes the actors whose deadline has come.
    fn fire(&mut self) {
        for e in &mut self.entries {
            if !e.stopped && e.deadline.is_some_and(|d| d <= self.now) {
                e.deadline = None;
                e.wake.wake();
            }
        }
    }

    /// Steps the actor that has been ready for longest. Returns whether there was one.
    fn step_one(&mut self) -> bool {
        while let Some(index) = self.set.pop() {
            let e = &mut self.entries[index as usize];
            let Some(actor) = e.actor.clone().filter(|_| !e.stopped) else { continue };
            let mut cx = Cx { now: self.now, actor: e.name, rng: &mut *self.rng, trace: &mut self.trace };
            let p = actor.borrow_mut().step(&mut cx, self.budget);
            if p.done > 0 {
                cx.event(EventKind::Step, u64::from(p.done), 0);
            }
            e.deadline = p.next;
            let spins = p.done == 0 && p.next.is_some_and(|at| at <= cx.now);
            e.spins = if spins { e.spins + 1 } else { 0 };
            assert!(
                e.spins < SPINS || !self.pace.forbids_spinning(),
                "{} spins: it does nothing, and wants to run again at {:?}, at {:?}",
                e.name,
                p.next,
                cx.now
            );
            if p.done >= self.budget.0 {
                e.wake.wake();
            }
            self.steps += 1;
            let after = self.pace.after_step(self.now);
            self.entries[index as usize].busy += after - self.now;
            self.now = self.pace.between(after);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus::Progress;
    use bus::streams::Seeded;

    struct Ticker {
        period: Duration,
        ticks: Rc<RefCell<Vec<Instant>>>,
        next: Option<Instant>,
    }

    impl Actor for Ticker {
        fn name(&self) -> ActorId {
            ActorId::new("ticker", 0)
        }

        fn step(&mut self, cx: &mut Cx<'_>, _: Budget) -> Progress {
            if self.next.is_none_or(|t| cx.now >= t) {
                self.ticks.borrow_mut().push(cx.now);
                self.next = Some(cx.now + self.period);
                let _ = cx.rng.next_u64("ticker");
            }
            Progress { done: 1, next: self.next }
        }
    }

    fn world() -> (Executive, Place, Rc<RefCell<Vec<Instant>>>) {
        let mut x = Executive::new(Box::new(Virtual), Box::new(Seeded::new(1)), Trace::recording());
        let place = x.place();
        let ticks = Rc::new(RefCell::new(Vec::new()));
        let ticker = Ticker { period: Duration::from_secs(1), ticks: ticks.clone(), next: None };
        x.install(&place, Rc::new(RefCell::new(ticker)));
        (x, place, ticks)
    }

    fn seconds(n: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(n)
    }

    #[test]
    fn virtual_time_jumps_to_deadlines_and_repeats_exactly() {
        let run = || {
            let (mut x, _, ticks) = world();
            assert_eq!(x.run(seconds(60), |_| false), Ended::Limit);
            (ticks.borrow().len(), x.trace().hash())
        };
        let (ticks, hash) = run();
        assert_eq!(ticks, 60);
        assert_eq!(run(), (ticks, hash));
    }

    #[test]
    fn a_stopped_actor_misses_its_deadline_and_continues() {
        let (mut x, place, ticks) = world();
        x.run(seconds(2), |_| false);
        x.stop(&place, true);
        assert_eq!(x.run(seconds(10), |_| false), Ended::Idle, "nobody else waits");
        let before = ticks.borrow().len();
        x.stop(&place, false);
        x.run(seconds(11), |_| false);
        assert!(ticks.borrow().len() > before);
        assert!(ticks.borrow()[before] >= seconds(10));
    }

    #[test]
    fn a_killed_actor_is_never_stepped_again() {
        let (mut x, place, ticks) = world();
        x.run(seconds(2), |_| false);
        let before = ticks.borrow().len();
        x.kill(&place);
        assert_eq!(x.run(seconds(10), |_| false), Ended::Idle);
        assert_eq!(ticks.borrow().len(), before);
    }

    /// Has a deadline that has passed, and does nothing about it.
    struct Spinner;

    impl Actor for Spinner {
        fn name(&self) -> ActorId {
            ActorId::new("spinner", 7)
        }

        fn step(&mut self, cx: &mut Cx<'_>, _: Budget) -> Progress {
            Progress { done: 0, next: Some(cx.now) }
        }
    }

    #[test]
    #[should_panic(expected = "spinner")]
    fn an_actor_that_spins_is_named() {
        let mut x = Executive::new(Box::new(Virtual), Box::new(Seeded::new(1)), Trace::off());
        let place = x.place();
        x.install(&place, Rc::new(RefCell::new(Spinner)));
        x.run(seconds(1), |_| false);
    }

    #[test]
    fn a_condition_ends_the_run() {
        let (mut x, _, ticks) = world();
        assert_eq!(x.run(seconds(60), |_| ticks.borrow().len() == 3), Ended::Done);
        assert!(x.now() < seconds(3));
    }
}
