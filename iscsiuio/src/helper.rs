//! The helper as an actor: the driver's messages, the ring, the stack and the paths of one NIC.
//!
//! States of the NIC (ISCSIUIO 7): [`State::Stopped`] without an interface of the driver's or without a
//! description of ours, [`State::Opening`] until the ring is there, [`State::Acquiring`] until every
//! interface has its address or the time for it is over, [`State::Running`] from then on. IF_DOWN leads back
//! to Stopped and forgets requests; addresses and leases are kept for the next IfUp with the same MAC, so
//! that a reset costs no acquisition. Neighbours are asked again. A helper that is made anew says Hello and
//! comes to the same state by itself.
//!
//! Nothing waits for ever: an open is asked for again after [`OPEN_WAIT`], a refused one after
//! [`REFUSED_WAIT`] up to [`REFUSALS`] times, and a frame that stays in flight for [`STUCK`] makes the helper
//! open the ring anew.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use bus::port::{PortRx, PortTx};
use bus::uio::{FromHelper, OpenRefused, ToHelper, UioMaps};
use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};

use crate::frame::Out;
use crate::iface::{Addressing, IfaceConfig, V6Mode};
use crate::ipc::{Outcome, PingStatus, Request, Response};
use crate::log::{Level, Log};
use crate::neighbours::{Mac, Neighbours};
use crate::path::{PathCounters, PathIo, Paths};
use crate::ping::{Pings, Ticket};
use crate::ring::{LARGEST_RX, NotSent, Ring, RingCounters};
use crate::stack::{INTERFACES, Io, Ready, Stack, StackCounters};

/// An open is asked for again after so long without an answer.
pub const OPEN_WAIT: Duration = Duration::from_secs(5);
/// After a refusal.
pub const REFUSED_WAIT: Duration = Duration::from_secs(1);
/// Refusals in a row; then the next IfUp or request of iscsid is waited for.
pub const REFUSALS: u32 = 15;
/// A frame is in flight for so long: the ring does not work.
pub const STUCK: Duration = Duration::from_secs(2);
/// Between two openings of a ring that does not work.
pub const REOPEN_EVERY: Duration = Duration::from_secs(10);
/// How long acquisition may take before the NIC counts as running.
const ACQUIRE: Duration = Duration::from_secs(10);
const ACQUIRE_V6: Duration = Duration::from_secs(15);
/// Messages that wait for room in the driver's port before the ring is left alone.
const BACKLOG: usize = 64;
/// When to try a full port again.
const RETRY: Duration = Duration::from_millis(10);

/// Where the NIC stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is open.
    Stopped,
    /// The driver was asked for the ring.
    Opening,
    /// The ring is there, addresses are not.
    Acquiring,
    /// Addresses are there, or the time for them is over.
    Running,
}

/// Everything that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The ring's.
    pub ring: RingCounters,
    /// The stack's.
    pub stack: StackCounters,
    /// The paths'.
    pub path: PathCounters,
    /// Frames dropped because too many waited for the transmit buffer.
    pub queue_full: u64,
    /// Frames not made because they are longer than the MTU.
    pub oversize: u64,
    /// Neighbours forgotten for others.
    pub evicted: u64,
    /// Opens asked for.
    pub opens: u64,
    /// Opens refused.
    pub refused: u64,
    /// Rings opened anew because a frame stayed in flight.
    pub stuck: u64,
    /// Messages that came when they should not.
    pub unexpected: u64,
}

/// An answer to a request of iscsid's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This is it.
    Now(Response),
    /// It comes from [`Helper::ping_result`].
    Ping(Ticket),
}

/// The helper of one NIC.
pub struct Helper {
    id: ActorId,
    rx: PortRx<ToHelper>,
    tx: PortTx<FromHelper>,
    outbox: VecDeque<FromHelper>,
    configs: Vec<IfaceConfig>,
    state: State,
    started: bool,
    up: Option<Mac>,
    mtu: u16,
    /// Until when: an answer to Open, the end of acquisition.
    deadline: Option<Instant>,
    refusals: u32,
    ring: Option<Ring>,
    busy_since: Option<Instant>,
    reopened: Option<Instant>,
    stack: Option<Stack>,
    neighbours: Neighbours,
    out: Out,
    paths: Paths,
    pings: Pings,
    frame: Vec<u8>,
    log: Log,
    counters: Counters,
}

impl Helper {
    /// A helper with these interfaces (at most [`INTERFACES`], further ones are left out), or none until
    /// iscsid names some.
    #[must_use]
    pub fn new(
        instance: u32,
        rx: PortRx<ToHelper>,
        tx: PortTx<FromHelper>,
        mut configs: Vec<IfaceConfig>,
        level: Level,
    ) -> Self {
        configs.truncate(INTERFACES);
        Self {
            id: ActorId::new("iscsiuio", instance),
            rx,
            tx,
            outbox: VecDeque::new(),
            configs,
            state: State::Stopped,
            started: false,
            up: None,
            mtu: 0,
            deadline: None,
            refusals: 0,
            ring: None,
            busy_since: None,
            reopened: None,
            stack: None,
            neighbours: Neighbours::default(),
            out: Out::default(),
            paths: Paths::default(),
            pings: Pings::default(),
            frame: Vec::with_capacity(LARGEST_RX),
            log: Log::new(level),
            counters: Counters::default(),
        }
    }

    /// Where the NIC stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            path: self.paths.counters,
            queue_full: self.out.full,
            oversize: self.out.oversize,
            evicted: self.neighbours.evicted,
            ..self.counters
        }
    }

    /// The MAC of the offload interface, while it is up.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.up
    }

    /// The interfaces as they are configured.
    #[must_use]
    pub fn interfaces(&self) -> &[IfaceConfig] {
        &self.configs
    }

    /// Usable addresses of an interface.
    #[must_use]
    pub fn addresses(&self, index: usize) -> Vec<IpAddr> {
        self.stack.as_ref().map(|s| s.addresses(index)).unwrap_or_default()
    }

    /// What there is to say.
    pub fn log(&mut self) -> &mut Log {
        &mut self.log
    }

    /// The helper ends: closes the ring. Nothing is sent after that.
    pub fn close(&mut self) {
        self.let_go();
        self.paths.clear();
        self.flush();
        self.up = None;
    }

    /// Takes a request of iscsid's. The next step acts on it: make sure that there is one.
    pub fn request(&mut self, cx: &mut Cx<'_>, request: &Request) -> Reply {
        let answer = |outcome, ping| Reply::Now(Response { command: request.command(), outcome, ping });
        match request {
            Request::Unknown(command) => {
                self.log.add(Level::Warn, || format!("Unknown iscsid broadcast command: {command:x}"));
                answer(Outcome::Ok, PingStatus::Success)
            }
            Request::GetIface(record) => match record.config() {
                Ok(config) => {
                    self.log.add(Level::Info, || {
                        let vlan = config.vlan_id();
                        let (netdev, ip) = (&record.netdev, &record.ipaddress);
                        format!("Received request for '{netdev}' to set IP address: '{ip}' VLAN: '{vlan}'")
                    });
                    answer(self.get_iface(cx, config), PingStatus::Success)
                }
                Err(e) => {
                    self.log.add(Level::Error, || format!("{}: {e}", record.name));
                    answer(Outcome::Err, PingStatus::Success)
                }
            },
            Request::Ping { iface, dst, bytes } => {
                let Ok(config) = iface.config() else {
                    return answer(Outcome::Err, PingStatus::InvalidDestination);
                };
                let Some(dst) = *dst else { return answer(Outcome::Err, PingStatus::InvalidDestination) };
                if self.get_iface(cx, config.clone()) != Outcome::DeviceUp {
                    return answer(Outcome::DeviceInitializing, PingStatus::Success);
                }
                let id = cx.rng.next_u64("ping.id") as u16;
                let mtu = config.mtu.unwrap_or(self.mtu).min(self.mtu);
                match self.pings.start(cx.now, id, dst, config.vlan_id(), *bytes, mtu) {
                    Ok(ticket) => Reply::Ping(ticket),
                    Err(status) => answer(Outcome::Err, status),
                }
            }
        }
    }

    /// The end of a ping, once.
    pub fn ping_result(&mut self, ticket: Ticket) -> Option<Response> {
        let ping = self.pings.take(ticket)?;
        let outcome = if ping == PingStatus::Success { Outcome::Ok } else { Outcome::Err };
        self.log.add(Level::Info, || {
            let text = match ping {
                PingStatus::Success => "PING successful!",
                PingStatus::NoArpReceived => "ARP failure for the ping's destination",
                _ => "PING timeout",
            };
            text.to_owned()
        });
        Some(Response { command: crate::ipc::PING, outcome, ping })
    }

    /// Nobody waits for the ping any more.
    pub fn ping_cancel(&mut self, ticket: Ticket) {
        self.pings.cancel(ticket);
    }

    /// Sees to it that there is such an interface, and says how far it is.
    fn get_iface(&mut self, cx: &mut Cx<'_>, config: IfaceConfig) -> Outcome {
        let place = self.configs.iter().position(|c| c.replaces(&config));
        if let Some(i) = place
            && (self.configs[i].vlan, self.configs[i].mtu, self.configs[i].address)
                == (config.vlan, config.mtu, config.address)
        {
            let ready = self.stack.as_ref().map_or(Ready::NotYet, |s| s.ready(i));
            if self.state == State::Stopped {
                self.refusals = 0;
                self.open(cx.now);
            }
            return match (self.state, ready) {
                (State::Acquiring | State::Running, Ready::Yes) => Outcome::DeviceUp,
                (_, Ready::Conflict) => Outcome::Err,
                _ => Outcome::DeviceInitializing,
            };
        }
        let how = match config.address {
            Addressing::DhcpV4 | Addressing::V6 { mode: V6Mode::Dhcp, .. } => "DHCP",
            Addressing::V6 { mode: V6Mode::Auto, .. } => "router advertisements",
            _ => "static IP address",
        };
        self.log.add(Level::Info, || format!("{}: requesting configuration using {how}", config.name));
        let index = match place {
            Some(i) => {
                self.configs[i] = config;
                i
            }
            None if self.configs.len() == INTERFACES => {
                self.log.add(Level::Error, || {
                    format!("{}: there are {INTERFACES} interfaces already", config.name)
                });
                return Outcome::Err;
            }
            None => {
                self.configs.push(config);
                self.configs.len() - 1
            }
        };
        if let Some(stack) = &mut self.stack {
            stack.configure(index, &self.configs[index], &mut self.neighbours, cx.now);
            if self.state == State::Running {
                self.acquire(cx.now);
            }
        }
        if self.state == State::Stopped {
            self.open(cx.now);
        }
        Outcome::DeviceInitializing
    }

    fn send(&mut self, message: FromHelper) {
        self.outbox.push_back(message);
    }

    fn flush(&mut self) {
        while let Some(message) = self.outbox.pop_front() {
            if let Err(full) = self.tx.send(message) {
                self.outbox.push_front(full.message);
                return;
            }
        }
        while let Some(update) = self.paths.answer() {
            if self.tx.send(FromHelper::PathUpdate(*update)).is_err() {
                return;
            }
            self.paths.answered();
        }
    }

    /// Asks for the ring, if there is a reason to.
    fn open(&mut self, now: Instant) {
        if self.up.is_none() || self.configs.is_empty() {
            return;
        }
        self.let_go();
        self.state = State::Opening;
        self.deadline = Some(now + OPEN_WAIT);
        self.counters.opens += 1;
        self.send(FromHelper::Open);
    }

    /// Does not touch the ring any more.
    fn let_go(&mut self) {
        if let Some(ring) = self.ring.take() {
            self.forget_ring();
            self.send(FromHelper::Close { generation: ring.generation() });
            self.log.add(Level::Info, || "nic closed".to_owned());
        }
        (self.state, self.deadline) = (State::Stopped, None);
    }

    /// What was on its way to a ring that is gone.
    fn forget_ring(&mut self) {
        self.busy_since = None;
        // Writes that did not leave yet would only be dropped.
        self.outbox.retain(|m| !matches!(m, FromHelper::Write { .. }));
        self.out.clear();
    }

    fn acquire(&mut self, now: Instant) {
        let v6 = self.configs.iter().any(|c| c.address.is_v6());
        self.state = State::Acquiring;
        self.deadline = Some(now + if v6 { ACQUIRE_V6 } else { ACQUIRE });
    }

    fn message(&mut self, cx: &mut Cx<'_>, message: ToHelper) {
        match message {
            ToHelper::IfUp { mac, mtu } => {
                let [a, b, c, d, e, f] = mac;
                self.log.add(Level::Info, || {
                    format!("Using mac address: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, MTU {mtu}")
                });
                let again = self.up == Some(mac) && self.state == State::Opening;
                (self.up, self.mtu) = (Some(mac), mtu);
                self.out.mtu = mtu.into();
                self.refusals = 0;
                // An open that is under way already is not asked for twice.
                if !again {
                    self.open(cx.now);
                }
            }
            ToHelper::PathReq(req) => {
                self.log.add(Level::Debug, || format!("Received path_req for {}", req.dst));
                self.paths.request(req, cx.now);
            }
            ToHelper::IfDown => {
                self.let_go();
                self.up = None;
                self.paths.clear();
                self.pings.fail();
                self.log.add(Level::Info, || "'if_down' operation finished".to_owned());
            }
            ToHelper::Opened(maps) => self.opened(cx, maps),
            ToHelper::OpenRefused(why) => self.refused(cx, why),
        }
    }

    fn opened(&mut self, cx: &mut Cx<'_>, maps: UioMaps) {
        let generation = maps.generation;
        let (State::Opening | State::Acquiring | State::Running, Some(mac)) = (self.state, self.up) else {
            self.counters.unexpected += 1;
            self.send(FromHelper::Close { generation });
            return;
        };
        // A slow driver answers every Open that it was asked for, and each answer ends the ring of the one
        // before.
        if self.ring.take().is_some() {
            self.forget_ring();
        }
        let outbox = &mut self.outbox;
        match Ring::start(maps, &mut |m| outbox.push_back(m)) {
            Ok(ring) => self.ring = Some(ring),
            Err(e) => {
                self.log.add(Level::Error, || format!("the ring cannot be used: {e}"));
                self.send(FromHelper::Close { generation });
                self.give_up();
                return;
            }
        }
        self.refusals = 0;
        match &mut self.stack {
            Some(stack) if stack.mac() == mac => {
                stack.link_up(cx.now);
                // What was said meanwhile was not heard: a neighbour may have moved.
                self.neighbours.clear();
                for (i, config) in self.configs.iter().enumerate() {
                    if stack.iface(i).is_none_or(|old| old.config != *config) {
                        stack.configure(i, config, &mut self.neighbours, cx.now);
                    }
                }
            }
            _ => {
                self.neighbours.clear();
                self.stack = Some(Stack::new(&self.configs, mac, cx.now));
            }
        }
        self.log.add(Level::Debug, || "entering main nic loop".to_owned());
        self.acquire(cx.now);
    }

    /// There will be no ring before the next IfUp or request of iscsid's.
    fn give_up(&mut self) {
        (self.state, self.deadline) = (State::Stopped, None);
        self.pings.fail();
    }

    fn refused(&mut self, cx: &mut Cx<'_>, why: OpenRefused) {
        if self.state != State::Opening {
            self.counters.unexpected += 1;
            return;
        }
        self.counters.refused += 1;
        self.refusals += 1;
        let enough = self.refusals >= REFUSALS;
        self.log.add(if enough { Level::Error } else { Level::Warn }, || {
            format!("the driver does not open the ring: {why}")
        });
        if enough {
            self.give_up();
        } else {
            self.deadline = Some(cx.now + REFUSED_WAIT);
        }
    }

    /// Receives up to `limit` frames. Returns how many.
    fn receive(&mut self, cx: &mut Cx<'_>, limit: u32) -> u32 {
        let Some(mut ring) = self.ring.take() else { return 0 };
        ring.interrupts(&mut self.counters.ring);
        let mut done = 0;
        let mut frame = std::mem::take(&mut self.frame);
        while done < limit
            && let Some(tci) = ring.receive(&mut frame, &mut self.counters.ring)
        {
            done += 1;
            self.with_stack(cx, |stack, io| stack.input(io, &frame, tci)).inspect(|r| self.pings.reply(r));
        }
        self.frame = frame;
        let outbox = &mut self.outbox;
        ring.publish(&mut |m| outbox.push_back(m));
        self.ring = Some(ring);
        done
    }

    fn with_stack<T>(
        &mut self,
        cx: &mut Cx<'_>,
        f: impl FnOnce(&mut Stack, &mut Io<'_>) -> Option<T>,
    ) -> Option<T> {
        let stack = self.stack.as_mut()?;
        let mut io = Io {
            now: cx.now,
            rng: &mut *cx.rng,
            out: &mut self.out,
            log: &mut self.log,
            counters: &mut self.counters.stack,
            neighbours: &mut self.neighbours,
            learned: false,
        };
        f(stack, &mut io)
    }

    fn transmit(&mut self, now: Instant) {
        let Some(ring) = &mut self.ring else { return };
        let outbox = &mut self.outbox;
        while let Some(w) = self.out.front() {
            match ring.send(&w.bytes, w.tci, &mut self.counters.ring, &mut |m| outbox.push_back(m)) {
                Err(NotSent::Busy) => break,
                Ok(()) | Err(NotSent::Shut | NotSent::Size) => self.out.pop(),
            }
        }
        self.busy_since = ring.is_busy().then(|| self.busy_since.unwrap_or(now));
    }

    fn deadlines(&mut self, now: Instant) {
        if self.state == State::Acquiring
            && let Some(stack) = &self.stack
            && stack.settled()
        {
            (self.state, self.deadline) = (State::Running, None);
        }
        if self.deadline.is_some_and(|d| now >= d) {
            match self.state {
                State::Opening => self.open(now),
                _ => {
                    self.log.add(Level::Error, || "timeout waiting for DHCP/NDP; still trying".to_owned());
                    (self.state, self.deadline) = (State::Running, None);
                }
            }
        }
        // The frame may have left without an interrupt that we saw.
        self.busy_since = self.busy_since.filter(|_| self.ring.as_ref().is_some_and(Ring::is_busy));
        if let Some(since) = self.busy_since
            && now.since(since) >= STUCK
            && self.reopened.is_none_or(|t| now.since(t) >= REOPEN_EVERY)
        {
            self.log.add(Level::Error, || "a frame was not sent: opening the ring anew".to_owned());
            self.counters.stuck += 1;
            self.reopened = Some(now);
            self.open(now);
        }
    }

    fn next(&self) -> Option<Instant> {
        let mut next = self.deadline;
        if self.ring.is_some() {
            next = Instant::earliest(next, self.stack.as_ref().and_then(Stack::next));
            next = Instant::earliest(next, self.pings.next());
        }
        next = Instant::earliest(next, self.paths.next(self.ring.is_some()));
        if let Some(since) = self.busy_since {
            let again = self.reopened.map_or(since, |t| t + REOPEN_EVERY);
            next = Instant::earliest(next, Some((since + STUCK).max(again)));
        }
        next
    }
}

impl Actor for Helper {
    fn name(&self) -> ActorId {
        self.id
    }

    /// A work item is a message or a frame.
    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        if !self.started {
            self.started = true;
            self.log.add(Level::Info, || "Started iSCSI uio stack".to_owned());
            self.send(FromHelper::Hello);
        }
        let mut done = 0;
        while done < budget.0
            && let Some(message) = self.rx.recv()
        {
            done += 1;
            self.message(cx, message);
        }
        // A driver that takes no messages would not learn what we posted.
        if self.outbox.len() < BACKLOG {
            done += self.receive(cx, budget.0.saturating_sub(done).max(1));
        }
        self.deadlines(cx.now);
        if self.ring.is_some() {
            self.with_stack(cx, |stack, io| {
                stack.poll(io);
                None::<()>
            });
            let (now, neighbours, out, log) = (cx.now, &mut self.neighbours, &mut self.out, &mut self.log);
            if let Some(stack) = &mut self.stack {
                self.paths.poll(&mut PathIo { now, stack, neighbours, out, log });
                self.pings.poll(now, stack, neighbours, out);
            }
            if self.outbox.len() < BACKLOG {
                self.transmit(cx.now);
            }
            self.deadlines(cx.now);
        } else {
            self.paths.expire(cx.now, self.stack.as_ref());
        }
        self.flush();
        let waiting = !self.outbox.is_empty() || self.paths.answer().is_some();
        let next = Instant::earliest(self.next(), waiting.then(|| cx.now + RETRY));
        Progress { done, next }
    }
}
