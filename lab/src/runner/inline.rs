//! The inline pace: real time, one thread, parked on epoll when nobody is ready.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bus::Instant;
use bus::wake::Wake;
use os::reactor::Reactor;

use super::Pace;

/// While actors are busy, sockets are looked at once in so many steps.
const STEPS_BETWEEN_POLLS: u32 = 16;

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
    spin: bool,
}

impl Inline {
    /// A pace over `reactor`. With `spin` it polls instead of parking: lowest latency, one core busy.
    #[must_use]
    pub fn new(reactor: Reactor, wakers: Wakers, spin: bool) -> Self {
        Self { reactor, wakers, woken: Vec::new(), steps: 0, spin }
    }

    fn clock() -> Instant {
        Instant::from_nanos(os::clock::now_ns())
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
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS_BETWEEN_POLLS) {
            self.wait(Some(Duration::ZERO));
        }
        Self::clock().max(now)
    }

    fn idle(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        let timeout =
            if self.spin { Some(Duration::ZERO) } else { deadline.map(|d| d - Self::clock().max(now)) };
        self.wait(timeout);
        Some(Self::clock().max(now))
    }
}
