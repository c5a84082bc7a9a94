//! Path requests: which next hop, which MAC, and the news when it changes.
//!
//! Requests wait in one queue and are resolved side by side; those of one hop share its solicitations. A
//! request is answered at once when the hop is known, and after [`GIVE_UP`] at the latest, then without a
//! MAC. What was answered is watched: when ARP or neighbour discovery shows another MAC, or the route another
//! hop, an update goes out unasked.
//!
//! A neighbour that is silent for [`PROBE_EVERY`] is asked again, it alone, three times a second apart, and
//! then everybody is asked. So a neighbour that was exchanged without a word is noticed within 14 s. If
//! nobody answers, the path stays as it is, and the question is repeated.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bus::Instant;
use bus::uio::{PathFailure, PathHandle, PathReq, PathUpdate};

use crate::frame::Out;
use crate::log::{Level, Log};
use crate::neighbours::{Mac, Neighbours};
use crate::stack::{Ready, Route, Stack};

/// Requests that wait; one more is answered without a MAC.
pub const WAITING: usize = 128;
/// Paths that are watched; the oldest is forgotten for one more.
pub const WATCHED: usize = 256;
/// Answers that wait for room in the port.
pub const ANSWERS: usize = 512;
/// A request is answered by then.
pub const GIVE_UP: Duration = Duration::from_secs(8);
/// Solicitations, and the time after each.
const TRIES: u8 = 4;
const TRY_GAP: Duration = Duration::from_secs(2);
/// A neighbour of a path in use is heard of at least so often, or asked.
pub const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u8 = 3;
const PROBE_GAP: Duration = Duration::from_secs(1);

/// What happened to paths since the helper started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    /// Requests.
    pub requests: u64,
    /// Answered with a MAC.
    pub resolved: u64,
    /// Answered without one.
    pub failed: u64,
    /// Forgotten because the interface went down.
    pub dropped: u64,
    /// Updates that nobody asked for.
    pub updates: u64,
    /// Answers lost because the driver did not take any.
    pub lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everybody is asked.
    Asking { tries: u8, at: Instant },
    /// It was there; look again at this time.
    Known { at: Instant },
    /// It alone is asked.
    Probing { mac: Mac, since: Instant, tries: u8, at: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Hop {
    route: Route,
    state: State,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    req: PathReq,
    route: Route,
    mac: Mac,
}

/// The requests, paths and hops of one NIC.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    waiting: VecDeque<(PathReq, Instant)>,
    watched: VecDeque<Watch>,
    hops: Vec<Hop>,
    answers: VecDeque<PathUpdate>,
    version: u64,
    pub(crate) counters: PathCounters,
}

/// What a step of the paths may use.
pub(crate) struct PathIo<'a> {
    pub(crate) now: Instant,
    pub(crate) stack: &'a mut Stack,
    pub(crate) neighbours: &'a mut Neighbours,
    pub(crate) out: &'a mut Out,
    pub(crate) log: &'a mut Log,
}

impl Paths {
    /// A request arrives.
    pub(crate) fn request(&mut self, req: PathReq, now: Instant) {
        self.counters.requests += 1;
        self.forget(req.handle);
        self.waiting.retain(|w| w.0.handle != req.handle);
        if self.waiting.len() == WAITING {
            self.fail(&req, PathFailure::NoAnswer);
        } else {
            self.waiting.push_back((req, now + GIVE_UP));
        }
    }

    /// The interface is down: nothing is answered or watched any more.
    pub(crate) fn clear(&mut self) {
        self.counters.dropped += self.waiting.len() as u64;
        let (version, counters) = (self.version, self.counters);
        *self = Self { version, counters, ..Self::default() };
    }

    /// Requests whose time is over. Without a `stack` there is no ring yet, and no address.
    pub(crate) fn expire(&mut self, now: Instant, stack: Option<&Stack>) {
        while let Some(&(req, deadline)) = self.waiting.front()
            && now >= deadline
        {
            self.waiting.pop_front();
            self.fail(&req, stack.map_or(PathFailure::NoAddress, |s| reason(s, &req)));
        }
    }

    /// When there is something to do. Without a `ring` nobody is asked, only deadlines run.
    pub(crate) fn next(&self, ring: bool) -> Option<Instant> {
        let hops = self.hops.iter().filter(|_| ring).map(|h| match h.state {
            State::Asking { at, .. } | State::Known { at } | State::Probing { at, .. } => at,
        });
        hops.chain(self.waiting.iter().map(|w| w.1)).min()
    }

    pub(crate) fn answer(&self) -> Option<&PathUpdate> {
        self.answers.front()
    }

    pub(crate) fn answered(&mut self) {
        self.answers.pop_front();
    }

    /// Does what is due, and what new neighbours or routes make possible.
    pub(crate) fn poll(&mut self, io: &mut PathIo<'_>) {
        self.follow(io);
        self.expire(io.now, Some(io.stack));
        for _ in 0..self.waiting.len() {
            let Some((req, deadline)) = self.waiting.pop_front() else { break };
            if !self.resolve(io, &req) {
                self.waiting.push_back((req, deadline));
            }
        }
        for i in 0..self.hops.len() {
            self.ask(io, i);
        }
        // A router that did not answer has made way for another.
        self.follow(io);
        self.compare(io);
        let (waiting, watched) = (&self.waiting, &self.watched);
        let stack = &*io.stack;
        self.hops.retain(|h| {
            let same = |r: &Route| (r.iface, r.hop) == (h.route.iface, h.route.hop);
            watched.iter().any(|w| same(&w.route))
                || waiting.iter().any(|(q, _)| stack.route(q.dst, q.vlan).is_some_and(|r| same(&r)))
        });
    }

    /// Tries to answer a request; says whether it is answered.
    fn resolve(&mut self, io: &mut PathIo<'_>, req: &PathReq) -> bool {
        let Some(route) = io.stack.route(req.dst, req.vlan) else {
            // An interface that has its address and no route will not get one by waiting.
            if io.stack.readiness(req.dst, req.vlan) == Some(Ready::NotYet) {
                return false;
            }
            let why = reason(io.stack, req);
            io.log.add(Level::Error, || format!("no route to {}: {why}", req.dst));
            self.fail(req, why);
            return true;
        };
        if let Some((mac, _)) = io.neighbours.get(route.iface, route.hop, io.now) {
            if self.watched.len() == WATCHED {
                self.watched.pop_front();
            }
            let watch = Watch { req: *req, route, mac };
            self.watched.push_back(watch);
            self.hop(io, route);
            self.counters.resolved += 1;
            io.log.add(Level::Debug, || format!("'path_req' operation finished: {} at {mac:02x?}", req.dst));
            self.tell(io.stack, &watch);
            return true;
        }
        self.hop(io, route);
        false
    }

    /// Sees to it that a hop is looked after.
    fn hop(&mut self, io: &mut PathIo<'_>, route: Route) {
        let known = io.neighbours.get(route.iface, route.hop, io.now);
        if let Some(hop) =
            self.hops.iter_mut().find(|h| (h.route.iface, h.route.hop) == (route.iface, route.hop))
        {
            // A request does not wait until a lost neighbour would be looked for again.
            if known.is_none() && matches!(hop.state, State::Known { .. }) {
                hop.state = State::Asking { tries: 0, at: io.now };
            }
            return;
        }
        let state = match known {
            Some((_, seen)) => State::Known { at: seen + PROBE_EVERY },
            None => {
                io.log.add(Level::Debug, || format!("Didn't find '{}' in ARP table", route.hop));
                State::Asking { tries: 0, at: io.now }
            }
        };
        self.hops.push(Hop { route, state });
    }

    fn ask(&mut self, io: &mut PathIo<'_>, i: usize) {
        let Hop { route, state } = self.hops[i];
        let known = io.neighbours.get(route.iface, route.hop, io.now);
        let watched = self.watched.iter().any(|w| (w.route.iface, w.route.hop) == (route.iface, route.hop));
        self.hops[i].state = match (state, known) {
            (State::Asking { at, .. }, Some((_, seen))) if io.now.since(seen) < PROBE_EVERY => {
                State::Known { at: at.max(seen + PROBE_EVERY) }
            }
            (State::Asking { tries: TRIES, at }, _) if io.now >= at => {
                io.log.add(Level::Error, || format!("ARP failure: nobody answers for {}", route.hop));
                io.stack.unreachable(route.iface, route.hop);
                // Requests that joined late have time left.
                let at = if self.wanted(io, route) { io.now } else { io.now + PROBE_EVERY };
                State::Known { at }
            }
            (State::Asking { tries, at }, _) if io.now >= at => {
                io.stack.solicit(io.out, io.neighbours, io.now, route, None);
                State::Asking { tries: tries + 1, at: io.now + TRY_GAP }
            }
            (State::Known { at }, _) if io.now < at => state,
            (State::Known { .. }, Some((mac, seen))) => {
                if io.now.since(seen) < PROBE_EVERY {
                    State::Known { at: seen + PROBE_EVERY }
                } else {
                    io.stack.solicit(io.out, io.neighbours, io.now, route, Some(mac));
                    State::Probing { mac, since: seen, tries: 1, at: io.now + PROBE_GAP }
                }
            }
            (State::Known { .. }, None) if watched || self.wanted(io, route) => {
                State::Asking { tries: 0, at: io.now }
            }
            (State::Probing { since, .. }, Some((_, seen))) if seen > since => {
                State::Known { at: seen + PROBE_EVERY }
            }
            (State::Probing { mac, since, tries, at }, _) if io.now >= at => {
                if tries == PROBES {
                    io.stack.solicit(io.out, io.neighbours, io.now, route, None);
                    State::Asking { tries: 1, at: io.now + TRY_GAP }
                } else {
                    io.stack.solicit(io.out, io.neighbours, io.now, route, Some(mac));
                    State::Probing { mac, since, tries: tries + 1, at: io.now + PROBE_GAP }
                }
            }
            (state, _) => state,
        };
    }

    fn wanted(&self, io: &PathIo<'_>, route: Route) -> bool {
        let key = (route.iface, route.hop);
        self.waiting
            .iter()
            .any(|(q, _)| io.stack.route(q.dst, q.vlan).is_some_and(|r| (r.iface, r.hop) == key))
    }

    /// Addresses or routes may have changed: paths in use follow.
    fn follow(&mut self, io: &mut PathIo<'_>) {
        if self.version == io.stack.version {
            return;
        }
        self.version = io.stack.version;
        for _ in 0..self.watched.len() {
            let Some(mut w) = self.watched.pop_front() else { break };
            match io.stack.route(w.req.dst, w.req.vlan) {
                Some(r) if r.source == w.route.source => {
                    w.route = r;
                    self.watched.push_back(w);
                    self.hop(io, r);
                }
                // New paths would go another way. This one has its address still, and connections cannot
                // change theirs.
                _ if io.stack.addresses(w.route.iface).contains(&w.route.source) => self.watched.push_back(w),
                // The address is gone, and with it the path.
                _ => {
                    let dst = w.req.dst;
                    io.log.add(Level::Error, || format!("the path to {dst} has lost its address"));
                    self.counters.updates += 1;
                    self.push(unresolved(&w.req, PathFailure::AddressLost));
                }
            }
        }
    }

    /// Tells the driver about paths whose neighbour has another MAC now.
    fn compare(&mut self, io: &mut PathIo<'_>) {
        for i in 0..self.watched.len() {
            let w = self.watched[i];
            let Some((mac, _)) = io.neighbours.get(w.route.iface, w.route.hop, io.now) else { continue };
            if mac != w.mac {
                self.watched[i].mac = mac;
                self.counters.updates += 1;
                io.log.add(Level::Warn, || format!("the path to {} goes to {mac:02x?} now", w.req.dst));
                let watch = self.watched[i];
                self.tell(io.stack, &watch);
            }
        }
    }

    fn tell(&mut self, stack: &Stack, w: &Watch) {
        let config = stack.iface(w.route.iface).map(|i| &i.config);
        let vlan = config.and_then(|c| c.vlan).map_or(0, |v| v.tci());
        let pmtu = config.and_then(|c| c.mtu).map_or(w.req.pmtu, |m| m.min(w.req.pmtu));
        self.push(PathUpdate {
            handle: w.req.handle,
            mac: w.mac,
            src: w.route.source,
            vlan,
            pmtu,
            failure: None,
        });
    }

    fn fail(&mut self, req: &PathReq, why: PathFailure) {
        self.counters.failed += 1;
        self.push(unresolved(req, why));
    }

    fn push(&mut self, update: PathUpdate) {
        if self.answers.len() == ANSWERS {
            self.answers.pop_front();
            self.counters.lost += 1;
        }
        self.answers.push_back(update);
    }

    fn forget(&mut self, handle: PathHandle) {
        self.watched.retain(|w| w.req.handle != handle);
    }
}

/// Why a request has no answer.
fn reason(stack: &Stack, req: &PathReq) -> PathFailure {
    match (stack.route(req.dst, req.vlan), stack.readiness(req.dst, req.vlan)) {
        (Some(_), _) => PathFailure::NoAnswer,
        (None, Some(Ready::NotYet)) => PathFailure::NoAddress,
        (None, Some(Ready::Conflict)) => PathFailure::Conflict,
        (None, Some(Ready::Yes) | None) => PathFailure::NoRoute,
    }
}

fn unresolved(req: &PathReq, why: PathFailure) -> PathUpdate {
    let src = match req.dst {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    PathUpdate { handle: req.handle, mac: [0; 6], src, vlan: 0, pmtu: req.pmtu, failure: Some(why) }
}
