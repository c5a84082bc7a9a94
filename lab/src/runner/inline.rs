//! The inline pace: real time, one thread, parked on epoll when nobody is ready.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bus::Instant;
use bus::wake::Wake;
use os::reactor::Reactor;

use super::{Overhead, Pace};

/// While actors are busy, sockets are looked at once in so many steps, or in so much time where steps are
/// long.
const STEPS_BETWEEN_POLLS: u32 = 16;
const TIME_BETWEEN_POLLS: Duration = Duration::from_micros(500);

/// Joins reactor owners to the actors that they wake.
#[derive(Clone, Default)]
pub struct Wakers(Rc<RefCell<Vec<(u32, Wake)>>>);

impl Wakers {
    /// Events of the reactor owner `owner` wake `wake`.
    pub fn join(&self, owner: u32, wake: Wake) {
        self.0.borrow_mut().push((owner, wake));
    }
}

/// Real time. See the module.
pub struct Inline {
    reactor: Reactor,
    wakers: Wakers,
    woken: Vec<u32>,
    steps: u32,
    polled: Instant,
    spin: bool,
    overhead: Overhead,
}

impl Inline {
    /// A pace over `reactor`. With `spin` it polls instead of parking: lowest latency, one core busy.
    #[must_use]
    pub fn new(reactor: Reactor, wakers: Wakers, spin: bool) -> Self {
        let polled = Instant::from_nanos(0);
        Self { reactor, wakers, woken: Vec::new(), steps: 0, polled, spin, overhead: Overhead::default() }
    }

    fn clock() -> Instant {
        Instant::from_nanos(os::clock::now_ns())
    }

    /// Looks outside without waiting.
    fn poll(&mut self, now: Instant) -> Instant {
        self.wait(Some(Duration::ZERO));
        let after = Self::clock().max(now);
        self.polled = after;
        self.overhead.polls += after - now;
        after
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        self.reactor.wait(timeout, &mut self.woken).expect("epoll works");
        for owner in &self.woken {
            for (o, wake) in self.wakers.0.borrow().iter() {
                if o == owner {
                    wake.wake();
                }
            }
        }
    }
}

impl Pace for Inline {
    fn now(&self, now: Instant) -> Instant {
        Self::clock().max(now)
    }

    fn after_step(&mut self, now: Instant) -> Instant {
        Self::clock().max(now)
    }

    fn between(&mut self, now: Instant) -> Instant {
        self.steps += 1;
        let due = self.steps.is_multiple_of(STEPS_BETWEEN_POLLS) || now - self.polled >= TIME_BETWEEN_POLLS;
        if due { self.poll(now) } else { now }
    }

    fn idle(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        if self.spin {
            return Some(self.poll(now));
        }
        let before = os::clock::thread_cpu();
        self.wait(deadline.map(|d| d - Self::clock().max(now)));
        self.overhead.parks_cpu += os::clock::thread_cpu().saturating_sub(before);
        Some(Self::clock().max(now))
    }

    fn overhead(&self) -> Overhead {
        self.overhead
    }
}

#[cfg(test)]
mod tests {
    use bus::trace::Trace;
    use bus::{Actor, ActorId, Budget, Cx, Progress};

    use super::*;
    use crate::runner::Executive;
    use crate::streams::Secret;

    /// Works for a while in every step, and sleeps after some of them.
    struct Worker {
        wake: Wake,
        steps: u32,
    }

    const WORK: Duration = Duration::from_micros(200);
    const STEPS: u32 = 64;

    impl Actor for Worker {
        fn name(&self) -> ActorId {
            ActorId::new("worker", 0)
        }

        fn step(&mut self, cx: &mut Cx<'_>, _: Budget) -> Progress {
            let start = os::clock::now_ns();
            while os::clock::now_ns() - start < WORK.as_nanos() as u64 {}
            self.steps += 1;
            if self.steps.is_multiple_of(4) {
                return Progress { done: 1, next: Some(cx.now + Duration::from_millis(1)) };
            }
            self.wake.wake();
            Progress { done: 1, next: None }
        }
    }

    #[test]
    fn an_actor_is_charged_for_its_steps_and_the_runner_for_the_rest() {
        let wakers = Wakers::default();
        let pace = Inline::new(Reactor::new().unwrap(), wakers, false);
        let mut x = Executive::new(Box::new(pace), Box::new(Secret::default()), Trace::off());
        let place = x.place();
        x.install(&place, Rc::new(RefCell::new(Worker { wake: place.wake(), steps: 0 })));
        let (start, cpu) = (os::clock::now_ns(), os::clock::thread_cpu());
        x.run(Instant::from_nanos(u64::MAX), |x| x.steps() == u64::from(STEPS));
        let elapsed = Duration::from_nanos(os::clock::now_ns() - start);
        let cpu = os::clock::thread_cpu() - cpu;
        let (busy, o) = (x.busy(&place), x.overhead());
        assert!(busy >= WORK * STEPS, "{busy:?}");
        assert!(
            busy + o.polls + Duration::from_millis(10) <= elapsed,
            "sleep is nobody's: {busy:?} {o:?} {elapsed:?}"
        );
        assert!(
            o.polls > Duration::ZERO && o.parks_cpu > Duration::ZERO && o.parks_cpu < cpu,
            "{o:?} {cpu:?}"
        );
    }
}
