//! A station at the far end of a virtual link: a machine with its own MAC and addresses.
//!
//! It answers ARP, neighbour solicitations and echo requests for its addresses, listens, and carries byte
//! streams over its own TCP ([`Stack`]); a [`Target`](crate::target::Target) is the process on it. Its
//! operator ([`Station`] is a handle) moves its MAC, silences it, makes it the router for other addresses,
//! makes it claim addresses of others, and kills the process. It never resolves anybody: answers go back to
//! where the question came from, and streams to where the last segment came from. A DHCPv4 server may stand
//! beside it on the same segment, with its own MAC; it falls silent when the station does.
//!
//! Not modelled: router advertisements, reassembly. Frames for others, with another tag, or that make no
//! sense are counted and dropped.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use bus::wake::Wake;
use bus::{Cx, Instant};
use hw_model::tcp::frame::stack::{Stack, StackCounters};
use hw_model::tcp::frame::{Checksums, Segment};
use hw_model::tcp::memory::{AddressInUse, PeerEvent, PeerReceived, StreamId};
use hw_model::tcp::{ConnectRequest, LinkHeader, TcpEvent, TcpOptions};
use hw_model::wire::link::LinkEnd;
use hw_model::wire::{FrameQueue, LARGEST_FRAME, Responder};

use crate::carrier::Carrier;

pub(crate) mod answers;
#[cfg(test)]
mod tests;

/// Connections of a station; a SYN beyond is answered with RST.
pub const CONNECTIONS: usize = 1024;
/// Frames of its own making that wait for its next step.
const OUTBOX: usize = 2048;
/// Frames taken from the link in one step.
const BATCH: u32 = 512;
/// The random stream of initial sequence numbers.
const ISN: bus::streams::StreamName = "station.isn";

/// What a station is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StationConfig {
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address. Its link-local address is made of the MAC.
    pub ipv6: Ipv6Addr,
    /// Addresses behind it: it is their router. It has streams and echoes for them, and answers no ARP.
    pub behind: Vec<IpAddr>,
    /// Addresses of others that it says are its own: it answers ARP and solicitations for them, and nothing
    /// else.
    pub claims: Vec<IpAddr>,
    /// A DHCPv4 server stands beside it, whose leases hold for so many seconds. Its network is that of the
    /// [`Responder`], 10.0.0.0/24.
    pub dhcp: Option<u32>,
    /// VLAN id of all its frames.
    pub vlan: Option<u16>,
    /// Longest datagram, in bytes.
    pub mtu: u16,
    /// Bytes that each direction of a stream holds.
    pub buffer: u32,
    /// Whether checksums of TCP count.
    pub checksums: Checksums,
}

impl Default for StationConfig {
    fn default() -> Self {
        Self {
            mac: [0x02, 0, 0, 0, 0, 1],
            ipv4: Ipv4Addr::new(192, 0, 2, 1),
            ipv6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            behind: Vec::new(),
            claims: Vec::new(),
            dhcp: None,
            vlan: None,
            mtu: 1500,
            buffer: 256 << 10,
            checksums: Checksums::Real,
        }
    }
}

/// What a station counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StationCounters {
    /// Frames that came in.
    pub frames: u64,
    /// ARP requests and neighbour solicitations that were answered.
    pub resolutions: u64,
    /// Echo requests that were answered.
    pub echoes: u64,
    /// Frames for another MAC or with another tag.
    pub foreign: u64,
    /// Frames that it has no answer to.
    pub ignored: u64,
    /// SYNs that found no room.
    pub full: u64,
    /// Frames of its own that found its outbox full.
    pub dropped: u64,
}

/// A place for a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    serial: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    /// The handshake is under way.
    Opening,
    /// The process has it, or it waits in the backlog.
    Open,
    /// TCP has ended with RST or in silence, and the process has not noticed.
    Broken,
    /// FIN went both ways, and the process has not noticed.
    Ended,
    /// The process has closed it; TCP has not ended.
    Orphan,
}

struct Inner {
    link: LinkEnd,
    config: StationConfig,
    dhcp: Option<Responder>,
    stack: Stack,
    listening: BTreeSet<SocketAddr>,
    places: Vec<Place>,
    free: Vec<u16>,
    backlog: VecDeque<StreamId>,
    events: Vec<PeerEvent>,
    outbox: FrameQueue,
    frame: Vec<u8>,
    scratch: Vec<u8>,
    silent: bool,
    counters: StationCounters,
    wake: Wake,
    now: Instant,
}

/// A handle on a station. Clones are the same station. See the module.
#[derive(Clone)]
pub struct Station(Rc<RefCell<Inner>>);

impl Station {
    /// A station at `link`. `wake` makes the process on it step.
    #[must_use]
    pub fn new(config: StationConfig, link: LinkEnd, wake: Wake) -> Self {
        link.wake_with(wake.clone());
        let stack = Stack::new(config.checksums == Checksums::Real);
        let dhcp = config.dhcp.map(Responder::with_lease);
        Self(Rc::new(RefCell::new(Inner {
            link,
            config,
            dhcp,
            stack,
            listening: BTreeSet::new(),
            places: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            events: Vec::new(),
            outbox: FrameQueue::new(OUTBOX),
            frame: Vec::with_capacity(LARGEST_FRAME),
            scratch: Vec::with_capacity(LARGEST_FRAME),
            silent: false,
            counters: StationCounters::default(),
            wake,
            now: Instant::ZERO,
        })))
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> StationCounters {
        let s = self.0.borrow();
        StationCounters { dropped: s.outbox.dropped(), ..s.counters }
    }

    /// What its TCP counted.
    #[must_use]
    pub fn tcp_counters(&self) -> StackCounters {
        self.0.borrow().stack.counters()
    }

    /// TCP connections, without those in TIME-WAIT.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.borrow().stack.len()
    }

    /// What it is.
    #[must_use]
    pub fn config(&self) -> StationConfig {
        self.0.borrow().config.clone()
    }

    /// Its network adapter is exchanged: another MAC. With `announce` it says so, as a failover does
    /// (gratuitous ARP, unsolicited neighbour advertisement); without, whoever cached the old one has to find
    /// out.
    pub fn set_mac(&self, mac: [u8; 6], announce: bool) {
        let s = &mut *self.0.borrow_mut();
        s.config.mac = mac;
        for id in 0..s.places.len() {
            // Its own frames carry the new one at once.
            s.stack.set_source(id as u16, mac);
        }
        if announce {
            let (config, scratch) = (&s.config, &mut s.scratch);
            answers::announce_v4(config, config.ipv4, scratch);
            s.outbox.push(scratch);
            answers::announce_v6(config, config.ipv6, scratch);
            s.outbox.push(scratch);
        }
        s.wake.wake();
    }

    /// Changes the addresses that it is the router for.
    pub fn set_behind(&self, addresses: Vec<IpAddr>) {
        self.0.borrow_mut().config.behind = addresses;
    }

    /// Changes the addresses of others that it claims. With `announce` it says so to all, as a host does that
    /// takes an address without asking.
    pub fn set_claims(&self, addresses: Vec<IpAddr>, announce: bool) {
        let s = &mut *self.0.borrow_mut();
        s.config.claims = addresses;
        for i in 0..if announce { s.config.claims.len() } else { 0 } {
            match s.config.claims[i] {
                IpAddr::V4(ip) => answers::announce_v4(&s.config, ip, &mut s.scratch),
                IpAddr::V6(ip) => answers::announce_v6(&s.config, ip, &mut s.scratch),
            }
            s.outbox.push(&s.scratch);
        }
        s.wake.wake();
    }

    /// Puts a DHCPv4 server beside the station, exchanges it, or takes it away. Returns what was there.
    pub fn set_dhcp(&self, server: Option<Responder>) -> Option<Responder> {
        std::mem::replace(&mut self.0.borrow_mut().dhcp, server)
    }

    /// Acts on the DHCP server, if there is one.
    pub fn with_dhcp<R>(&self, f: impl FnOnce(&mut Responder) -> R) -> Option<R> {
        self.0.borrow_mut().dhcp.as_mut().map(f)
    }

    /// The machine loses its power: everything is forgotten, and nobody is told.
    pub fn power_off(&self) {
        let s = &mut *self.0.borrow_mut();
        s.stack.forget();
        for place in 0..s.places.len() as u16 {
            let waits = s.backlog.contains(&s.id(place));
            match s.places[usize::from(place)].state {
                State::Free | State::Broken | State::Ended => {}
                State::Open if !waits => s.places[usize::from(place)].state = State::Broken,
                // The process never had it, or has closed it: nobody will ask.
                State::Opening | State::Open | State::Orphan => s.release(place),
            }
        }
        s.backlog.clear();
        s.tell_all();
        s.wake.wake();
    }
}

impl Inner {
    fn id(&self, place: u16) -> StreamId {
        StreamId::new(place.into(), self.places[usize::from(place)].serial)
    }

    fn place(&mut self, id: StreamId) -> Option<(u16, &mut Place)> {
        let place = self.places.get_mut(id.index() as usize)?;
        (place.state != State::Free && StreamId::new(id.index(), place.serial) == id)
            .then_some((id.index() as u16, place))
    }

    fn release(&mut self, place: u16) {
        let p = &mut self.places[usize::from(place)];
        p.state = State::Free;
        p.serial = p.serial.wrapping_add(1);
        self.free.push(place);
    }

    fn tell_all(&mut self) {
        for place in 0..self.places.len() as u16 {
            if matches!(self.places[usize::from(place)].state, State::Open | State::Broken) {
                let id = self.id(place);
                self.events.push(PeerEvent::Readable(id));
            }
        }
    }

    fn frame_in(&mut self, cx: &mut Cx<'_>, frame: &[u8]) {
        self.counters.frames += 1;
        if let Some(segment) = Segment::find(frame) {
            return self.segment_in(cx, frame, &segment);
        }
        if let Some(server) = self.dhcp.as_mut().filter(|_| Responder::is_dhcp(frame)) {
            server.ask(cx.now, frame);
            while server.answered(&mut self.scratch) {
                self.link.send_at(cx.now, cx.rng, &self.scratch);
            }
            return;
        }
        match answers::answer(&self.config, frame, &mut self.scratch) {
            answers::Verdict::Resolved => self.counters.resolutions += 1,
            answers::Verdict::Echoed => self.counters.echoes += 1,
            answers::Verdict::Foreign => return self.counters.foreign += 1,
            answers::Verdict::Ignored => return self.counters.ignored += 1,
        }
        self.link.send_at(cx.now, cx.rng, &self.scratch);
    }

    fn segment_in(&mut self, cx: &mut Cx<'_>, frame: &[u8], segment: &Segment) {
        let (to, from) = (segment.local(), segment.remote());
        let c = &self.config;
        if frame[..6] != c.mac || !answers::same_vlan(c, frame) || !answers::serves(c, to.ip()) {
            self.counters.foreign += 1;
            return;
        }
        let now = cx.now;
        let seed = if segment.is_syn() { cx.rng.next_u64(ISN) } else { 0 };
        let (link, rng) = (&self.link, &mut *cx.rng);
        let mut emit = |frame: &[u8]| link.send_at(now, rng, frame);
        if self.stack.input(now, frame, segment, &mut emit) {
            return;
        }
        let any = SocketAddr::new(
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
            to.port(),
        );
        let heard = self.listening.contains(&to) || self.listening.contains(&any);
        if !segment.is_syn() || !heard {
            self.stack.refuse(frame, segment, &mut emit);
            return;
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < CONNECTIONS => {
                self.places.push(Place::default());
                self.places.len() as u16 - 1
            }
            None => {
                self.counters.full += 1;
                self.stack.refuse(frame, segment, &mut emit);
                return;
            }
        };
        self.places[usize::from(place)].state = State::Opening;
        let headers = if to.is_ipv4() { 40 } else { 60 };
        let mut destination = [0; 6];
        destination.copy_from_slice(&frame[6..12]);
        let terms = ConnectRequest {
            local: to,
            remote: from,
            mss: c.mtu - headers,
            pmtu: c.mtu,
            rcv_buf: c.buffer,
            snd_buf: c.buffer,
            link: LinkHeader { destination, source: c.mac, vlan: c.vlan },
            options: TcpOptions::default(),
        };
        self.stack.accept(now, place, seed, &terms, frame, &mut emit);
    }

    fn event(&mut self, place: u16, event: TcpEvent) {
        let id = self.id(place);
        let state = self.places[usize::from(place)].state;
        match event {
            TcpEvent::Connected => {
                self.places[usize::from(place)].state = State::Open;
                self.backlog.push_back(id);
                self.events.push(PeerEvent::Incoming);
            }
            TcpEvent::Readable if state == State::Orphan => {
                // Nobody will read it any more.
                let now = self.now;
                self.stack.recv(now, place, |bytes| bytes.len());
            }
            TcpEvent::Readable | TcpEvent::Fin => self.events.push(PeerEvent::Readable(id)),
            TcpEvent::Writable => self.events.push(PeerEvent::Writable(id)),
            TcpEvent::ConnectFailed(_) => self.release(place),
            TcpEvent::Closed | TcpEvent::Rst | TcpEvent::TimedOut if state == State::Orphan => {
                self.release(place)
            }
            TcpEvent::Rst | TcpEvent::TimedOut => self.ended(place, id, State::Broken),
            TcpEvent::Closed => self.ended(place, id, State::Ended),
        }
    }

    /// TCP has ended: the process notices when it looks, or never, if it has not accepted the connection.
    fn ended(&mut self, place: u16, id: StreamId, state: State) {
        if let Some(at) = self.backlog.iter().position(|&waiting| waiting == id) {
            self.backlog.remove(at);
            return self.release(place);
        }
        self.places[usize::from(place)].state = state;
        self.events.push(PeerEvent::Readable(id));
    }

    fn take_events(&mut self) {
        while let Some((place, event)) = self.stack.next_event() {
            self.event(place, event);
        }
    }
}

impl Carrier for Station {
    fn listen(&mut self, at: SocketAddr) -> Result<(), AddressInUse> {
        let fresh = self.0.borrow_mut().listening.insert(at);
        if fresh { Ok(()) } else { Err(AddressInUse(at)) }
    }

    fn look(&mut self, cx: &mut Cx<'_>, out: &mut Vec<PeerEvent>) {
        let s = &mut *self.0.borrow_mut();
        s.now = cx.now;
        for _ in 0..BATCH {
            let mut frame = std::mem::take(&mut s.frame);
            let there = s.link.recv_at(cx.now, &mut frame);
            if there && !s.silent {
                s.frame_in(cx, &frame);
            }
            s.frame = frame;
            if !there {
                break;
            }
        }
        s.take_events();
        out.append(&mut s.events);
    }

    fn accept(&mut self) -> Option<(StreamId, SocketAddr)> {
        let s = &mut *self.0.borrow_mut();
        let id = s.backlog.pop_front()?;
        Some((id, s.stack.local(id.index() as u16)?))
    }

    fn recv_with(
        &mut self,
        now: Instant,
        id: StreamId,
        take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> PeerReceived {
        let s = &mut *self.0.borrow_mut();
        let Some((place, p)) = s.place(id) else { return PeerReceived::Reset };
        match p.state {
            State::Open => {}
            State::Ended => {
                s.release(place);
                return PeerReceived::Fin;
            }
            _ => {
                s.release(place);
                return PeerReceived::Reset;
            }
        }
        let n = s.stack.recv(now, place, take);
        if n > 0 {
            return PeerReceived::Bytes(n);
        }
        if s.stack.is_at_end(place) { PeerReceived::Fin } else { PeerReceived::Nothing }
    }

    fn send(&mut self, id: StreamId, bytes: &[u8]) -> usize {
        let s = &mut *self.0.borrow_mut();
        match s.place(id) {
            Some((place, p)) if p.state == State::Open => s.stack.send(place, bytes),
            _ => 0,
        }
    }

    fn shutdown(&mut self, id: StreamId) {
        let s = &mut *self.0.borrow_mut();
        if let Some((place, _)) = s.place(id) {
            s.stack.close(place);
        }
    }

    fn close(&mut self, id: StreamId) {
        let s = &mut *self.0.borrow_mut();
        let Some((place, p)) = s.place(id) else { return };
        if p.state != State::Open {
            return s.release(place);
        }
        p.state = State::Orphan;
        s.stack.close(place);
        let now = s.now;
        s.stack.recv(now, place, |bytes| bytes.len());
    }

    fn abort(&mut self, id: StreamId) {
        let s = &mut *self.0.borrow_mut();
        let Some((place, _)) = s.place(id) else { return };
        let Inner { stack, outbox, now, .. } = s;
        stack.abort(*now, place, &mut |frame| {
            // A full outbox drops it, and counts that.
            let _ = outbox.push(frame);
        });
        s.release(place);
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Option<Instant> {
        let s = &mut *self.0.borrow_mut();
        s.now = cx.now;
        while s.outbox.pop(&mut s.scratch) {
            if !s.silent {
                s.link.send_at(cx.now, cx.rng, &s.scratch);
            }
        }
        if s.silent {
            // Its clock stands still too: what it would have said waits.
            return s.link.next_arrival();
        }
        let (link, rng) = (&s.link, &mut *cx.rng);
        s.stack.poll(cx.now, &mut |frame| link.send_at(cx.now, rng, frame));
        s.take_events();
        if !s.events.is_empty() {
            return Some(cx.now);
        }
        Instant::earliest(s.stack.next_deadline(), s.link.next_arrival()).map(|at| at.max(cx.now))
    }

    fn kill(&mut self) {
        let s = &mut *self.0.borrow_mut();
        s.listening.clear();
        let Inner { stack, outbox, now, .. } = s;
        stack.reset(*now, &mut |frame| {
            // A full outbox drops it, and counts that.
            let _ = outbox.push(frame);
        });
        for place in 0..s.places.len() as u16 {
            if s.places[usize::from(place)].state != State::Free {
                s.release(place);
            }
        }
        s.backlog.clear();
        s.events.clear();
        s.wake.wake();
    }

    fn set_silent(&self, silent: bool) {
        let s = &mut *self.0.borrow_mut();
        s.silent = silent;
        s.wake.wake();
    }
}
