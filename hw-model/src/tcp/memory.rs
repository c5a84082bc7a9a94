//! The in-memory network: cards on one side, hosts that listen on the other, byte streams between them.
//!
//! It stands for a loss-free TCP and the wire below it in virtual and inline worlds. A [`MemoryNet`] owns all state;
//! [`MemoryTcp`] is a card's [`TcpEngine`] on it, [`MemoryHost`] what a target actor listens, accepts, receives and
//! sends with. Bytes are copied once into a stream's ring and once out of it. Both ends are woken when there is
//! something to do, and told for which stream, so the cost of a turn is proportional to what happened. Everything is
//! in order of calls: the same calls give the same history.
//!
//! A network or a host that is silent holds everything back (SYN, bytes, FIN, RST) until it is heard again: nothing is
//! lost, as retransmission would see to. Not modelled: segments, delay, the retransmission limit.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bus::Instant;
use bus::pci::DevCx;
use bus::wake::Wake;
use thiserror::Error;

use super::{CONNECT_TIMEOUT, ConnectError, ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId};

/// Bytes that each direction of a stream holds by default; a sender that is this far ahead has to wait.
pub const WINDOW: usize = 256 * 1024;

/// Connections of one host that wait to be accepted; beyond it, a connect is refused.
pub const BACKLOG: usize = 1024;

/// What the network does with a connect, and with what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Everything passes.
    #[default]
    Normal,
    /// Nothing passes, nobody is told: the link is down, or the far end is dead. Nothing is lost.
    Silent,
    /// As `Silent`, and a connect fails at once: no route.
    Unreachable,
}

/// Names a stream of a [`MemoryHost`]. A name is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    index: u32,
    serial: u32,
}

impl StreamId {
    /// The name of a stream of another network that uses these names: a place, and what tells its users apart.
    #[must_use]
    pub const fn new(index: u32, serial: u32) -> Self {
        Self { index, serial }
    }

    /// The place.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }
}

/// What happened to a host's stream since the last [`MemoryHost::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// Somebody can be accepted.
    Incoming,
    /// Bytes, FIN or RST can be received.
    Readable(StreamId),
    /// There is room again after a send that took less than all.
    Writable(StreamId),
}

/// What a host's receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReceived {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The card sent FIN, and everything before it was received.
    Fin,
    /// The connection was reset, or the id names nothing. The stream is gone.
    Reset,
}

/// Somebody listens there already.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0} is in use")]
pub struct AddressInUse(pub SocketAddr);

/// One direction of a stream.
#[derive(Default)]
struct Direction {
    bytes: VecDeque<u8>,
    /// FIN follows the bytes.
    fin: bool,
    /// The sender waits for room.
    starved: bool,
    /// The receiver was told that there is something, and has not looked since.
    told: bool,
}

/// What RST did to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Broken {
    #[default]
    No,
    ByCard,
    ByHost,
}

struct Stream {
    serial: u32,
    card: usize,
    id: TcpId,
    host: usize,
    local: SocketAddr,
    remote: SocketAddr,
    up: Direction,
    down: Direction,
    broken: Broken,
    /// The card has been told of FIN.
    fin_told: bool,
    /// The host has closed it: nobody will receive there any more.
    host_gone: bool,
}

struct Card {
    wake: Wake,
    /// Streams by [`TcpId`].
    streams: Vec<Option<u32>>,
    /// Handshakes that got no answer, in order of their deadlines.
    connecting: VecDeque<(Instant, TcpId, SocketAddr, SocketAddr)>,
    events: VecDeque<(TcpId, TcpEvent)>,
}

struct Host {
    wake: Wake,
    silent: bool,
    backlog: VecDeque<StreamId>,
    events: VecDeque<HostEvent>,
}

struct Net {
    window: usize,
    reach: Reach,
    cards: Vec<Card>,
    hosts: Vec<Host>,
    listeners: BTreeMap<SocketAddr, usize>,
    streams: Vec<Option<Stream>>,
    free: Vec<u32>,
    serial: u32,
}

/// The handle on a network. Clones are the same network.
#[derive(Clone)]
pub struct MemoryNet(Rc<RefCell<Net>>);

impl Default for MemoryNet {
    fn default() -> Self {
        Self::new(WINDOW)
    }
}

impl MemoryNet {
    /// A network whose streams hold `window` bytes each way, at least 1.
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self(Rc::new(RefCell::new(Net {
            window: window.max(1),
            reach: Reach::Normal,
            cards: Vec::new(),
            hosts: Vec::new(),
            listeners: BTreeMap::new(),
            streams: Vec::new(),
            free: Vec::new(),
            serial: 0,
        })))
    }

    /// A card's transport. `wake` makes the card step.
    #[must_use]
    pub fn card(&self, wake: Wake) -> MemoryTcp {
        let mut net = self.0.borrow_mut();
        net.cards.push(Card {
            wake,
            streams: Vec::new(),
            connecting: VecDeque::new(),
            events: VecDeque::new(),
        });
        MemoryTcp { net: self.0.clone(), card: net.cards.len() - 1 }
    }

    /// A host. `wake` makes its actor step.
    #[must_use]
    pub fn host(&self, wake: Wake) -> MemoryHost {
        let mut net = self.0.borrow_mut();
        net.hosts.push(Host { wake, silent: false, backlog: VecDeque::new(), events: VecDeque::new() });
        MemoryHost { net: self.0.clone(), host: net.hosts.len() - 1 }
    }

    /// Changes what passes. Becoming normal again delivers what was held back.
    pub fn set_reach(&self, reach: Reach) {
        let mut net = self.0.borrow_mut();
        net.reach = reach;
        net.release();
    }

    /// Streams that either end still knows.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.borrow().streams.iter().flatten().count()
    }
}

impl Net {
    fn passes(&self, host: usize) -> bool {
        self.reach == Reach::Normal && !self.hosts[host].silent
    }

    fn stream(&mut self, index: u32) -> Option<&mut Stream> {
        self.streams.get_mut(index as usize)?.as_mut()
    }

    fn of_card(&self, card: usize, id: TcpId) -> Option<u32> {
        *self.cards[card].streams.get(usize::from(id.0))?
    }

    fn tell_card(&mut self, card: usize, id: TcpId, event: TcpEvent) {
        let card = &mut self.cards[card];
        card.events.push_back((id, event));
        card.wake.wake();
    }

    fn tell_host(&mut self, host: usize, event: HostEvent) {
        let host = &mut self.hosts[host];
        host.events.push_back(event);
        host.wake.wake();
    }

    /// SYN: opens a stream, fails, or gets no answer.
    fn connect(&mut self, deadline: Instant, card: usize, id: TcpId, local: SocketAddr, remote: SocketAddr) {
        let refused = TcpEvent::ConnectFailed(ConnectError::Refused);
        let listener = self.listeners.get(&remote).copied();
        let silent = self.reach == Reach::Silent || listener.is_some_and(|h| self.hosts[h].silent);
        if silent {
            self.cards[card].connecting.push_back((deadline, id, local, remote));
            return;
        }
        let Some(host) = listener.filter(|_| self.reach == Reach::Normal) else {
            return self.tell_card(card, id, refused);
        };
        if self.hosts[host].backlog.len() >= BACKLOG {
            return self.tell_card(card, id, refused);
        }
        self.serial = self.serial.wrapping_add(1);
        let stream = Stream {
            serial: self.serial,
            card,
            id,
            host,
            local,
            remote,
            up: Direction::default(),
            down: Direction::default(),
            broken: Broken::No,
            fin_told: false,
            host_gone: false,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() as u32 - 1
        });
        self.streams[index as usize] = Some(stream);
        let known = &mut self.cards[card].streams;
        if known.len() <= usize::from(id.0) {
            known.resize(usize::from(id.0) + 1, None);
        }
        known[usize::from(id.0)] = Some(index);
        self.hosts[host].backlog.push_back(StreamId { index, serial: self.serial });
        self.tell_card(card, id, TcpEvent::Connected);
        self.tell_host(host, HostEvent::Incoming);
    }

    /// Both ends look at everything again: what was held back passes now.
    fn release(&mut self) {
        for card in 0..self.cards.len() {
            for (deadline, id, local, remote) in std::mem::take(&mut self.cards[card].connecting) {
                self.connect(deadline, card, id, local, remote);
            }
        }
        for index in 0..self.streams.len() as u32 {
            self.tell_ends(index);
        }
    }

    /// Tells each end of a stream what it can do, if it was not told.
    fn tell_ends(&mut self, index: u32) {
        let window = self.window;
        let Some(host) = self.stream(index).map(|s| s.host) else { return };
        if !self.passes(host) {
            return;
        }
        let Some(s) = self.stream(index) else { return };
        let (card, id, stream) = (s.card, s.id, StreamId { index, serial: s.serial });
        if s.host_gone && !s.up.bytes.is_empty() {
            s.broken = Broken::ByHost;
        }
        match s.broken {
            Broken::No => {}
            Broken::ByCard => {
                if s.host_gone {
                    self.forget(index);
                } else if !std::mem::replace(&mut s.up.told, true) {
                    self.tell_host(host, HostEvent::Readable(stream));
                }
                return;
            }
            Broken::ByHost => {
                let known = self.of_card(card, id) == Some(index);
                self.forget(index);
                if known {
                    self.tell_card(card, id, TcpEvent::Rst);
                }
                return;
            }
        }
        let to_host = (!s.up.bytes.is_empty() || s.up.fin) && !std::mem::replace(&mut s.up.told, true);
        let to_card = !s.down.bytes.is_empty() && !std::mem::replace(&mut s.down.told, true);
        let fin = s.down.fin && s.down.bytes.is_empty() && !std::mem::replace(&mut s.fin_told, true);
        let (closed, host_gone) = (s.fin_told && s.up.fin, s.host_gone);
        let card_room = s.up.starved && s.up.bytes.len() < window;
        let host_room = s.down.starved && s.down.bytes.len() < window;
        s.up.starved &= !card_room;
        s.down.starved &= !host_room;
        if to_host && !host_gone {
            self.tell_host(host, HostEvent::Readable(stream));
        }
        if host_room {
            self.tell_host(host, HostEvent::Writable(stream));
        }
        if to_card {
            self.tell_card(card, id, TcpEvent::Readable);
        }
        if card_room {
            self.tell_card(card, id, TcpEvent::Writable);
        }
        if fin {
            self.tell_card(card, id, TcpEvent::Fin);
        }
        if closed && self.of_card(card, id) == Some(index) {
            self.cards[card].streams[usize::from(id.0)] = None;
            self.tell_card(card, id, TcpEvent::Closed);
            if host_gone {
                self.forget(index);
            }
        }
    }

    /// Frees a stream that no end needs any more.
    fn forget(&mut self, index: u32) {
        let Some(s) = self.streams.get_mut(index as usize).and_then(Option::take) else { return };
        self.free.push(index);
        if self.of_card(s.card, s.id) == Some(index) {
            self.cards[s.card].streams[usize::from(s.id.0)] = None;
        }
        let id = StreamId { index, serial: s.serial };
        self.hosts[s.host].backlog.retain(|&waiting| waiting != id);
    }

    /// RST from the card. The host receives it unless it has forgotten the stream.
    fn card_abort(&mut self, card: usize, id: TcpId) {
        self.cards[card].connecting.retain(|&(_, i, ..)| i != id);
        self.cards[card].events.retain(|&(i, _)| i != id);
        let Some(index) = self.of_card(card, id) else { return };
        self.cards[card].streams[usize::from(id.0)] = None;
        let Some(s) = self.stream(index) else { return };
        s.broken = Broken::ByCard;
        s.up = Direction::default();
        s.down = Direction::default();
        self.tell_ends(index);
    }

    /// RST for everything that a card has.
    fn card_gone(&mut self, card: usize) {
        for id in 0..self.cards[card].streams.len() {
            self.card_abort(card, TcpId(id as u16));
        }
        self.cards[card].connecting.clear();
        self.cards[card].events.clear();
    }
}

/// A card's transport on a [`MemoryNet`].
pub struct MemoryTcp {
    net: Rc<RefCell<Net>>,
    card: usize,
}

impl Drop for MemoryTcp {
    /// The card is gone. Whoever has its address next answers what its peers send with RST.
    fn drop(&mut self) {
        self.net.borrow_mut().card_gone(self.card);
    }
}

impl TcpEngine for MemoryTcp {
    fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        let deadline = cx.now + CONNECT_TIMEOUT;
        self.net.borrow_mut().connect(deadline, self.card, id, request.local, request.remote);
    }

    fn close(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        let mut net = self.net.borrow_mut();
        let Some(index) = net.of_card(self.card, id) else { return };
        if let Some(s) = net.stream(index) {
            s.up.fin = true;
        }
        net.tell_ends(index);
    }

    fn abort(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        self.net.borrow_mut().card_abort(self.card, id);
    }

    fn send(&mut self, _cx: &mut DevCx<'_>, id: TcpId, bytes: &[u8]) -> usize {
        let mut net = self.net.borrow_mut();
        let window = net.window;
        let Some(index) = net.of_card(self.card, id) else { return 0 };
        let Some(s) = net.stream(index) else { return 0 };
        let n = s.up.push(bytes, window);
        net.tell_ends(index);
        n
    }

    fn recv(
        &mut self,
        cx: &mut DevCx<'_>,
        id: TcpId,
        sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        let mut net = self.net.borrow_mut();
        let Some(index) = net.of_card(self.card, id) else { return 0 };
        let Some(host) = net.stream(index).map(|s| s.host) else { return 0 };
        if !net.passes(host) {
            // What is held back is told of when it passes.
            if let Some(s) = net.stream(index) {
                s.down.told = false;
            }
            return 0;
        }
        let Some(s) = net.stream(index) else { return 0 };
        let (front, back) = s.down.bytes.as_slices();
        let mut taken = if front.is_empty() { 0 } else { sink(cx, front).min(front.len()) };
        if taken == front.len() && !back.is_empty() {
            taken += sink(cx, back).min(back.len());
        }
        s.down.bytes.drain(..taken);
        // Whoever stopped early comes back by itself; new bytes are told of only after everything was taken.
        s.down.told = !s.down.bytes.is_empty();
        net.tell_ends(index);
        taken
    }

    fn set_link(&mut self, _id: TcpId, _link: LinkHeader) {}

    fn poll(&mut self, cx: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        let card = &mut self.net.borrow_mut().cards[self.card];
        while let Some(&(deadline, id, ..)) = card.connecting.front() {
            if deadline > cx.now {
                break;
            }
            card.connecting.pop_front();
            card.events.push_back((id, TcpEvent::ConnectFailed(ConnectError::TimedOut)));
        }
        out.extend(card.events.drain(..));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.net.borrow().cards[self.card].connecting.front().map(|&(at, ..)| at)
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.net.borrow_mut().card_gone(self.card);
    }

    fn supports(&self, _remote: IpAddr) -> bool {
        true
    }
}

impl Direction {
    /// Takes as many bytes as there is room for.
    fn push(&mut self, bytes: &[u8], window: usize) -> usize {
        let n = if self.fin { 0 } else { bytes.len().min(window - self.bytes.len()) };
        self.bytes.extend(&bytes[..n]);
        self.starved = n < bytes.len();
        n
    }
}

/// A host on a [`MemoryNet`]: what the target actor talks through. Dropping it kills the host.
pub struct MemoryHost {
    net: Rc<RefCell<Net>>,
    host: usize,
}

impl MemoryHost {
    /// Listens.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn listen(&self, at: SocketAddr) -> Result<(), AddressInUse> {
        let mut net = self.net.borrow_mut();
        if net.listeners.contains_key(&at) {
            return Err(AddressInUse(at));
        }
        net.listeners.insert(at, self.host);
        Ok(())
    }

    /// Takes the next connection that waits: its name, our address, and the card's.
    pub fn accept(&self) -> Option<(StreamId, SocketAddr, SocketAddr)> {
        let mut net = self.net.borrow_mut();
        loop {
            let id = net.hosts[self.host].backlog.pop_front()?;
            if let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) {
                return Some((id, s.remote, s.local));
            }
        }
    }

    /// Receives into `out`, which must not be empty.
    pub fn recv(&self, id: StreamId, out: &mut [u8]) -> HostReceived {
        let mut at = 0;
        self.recv_with(id, |bytes| {
            let n = bytes.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&bytes[..n]);
            at += n;
            n
        })
    }

    /// Offers what can be received to `take`, in one piece or two, without a copy; it says how much it took. The rest
    /// stays, and is told of again. `take` must not use the network.
    pub fn recv_with(&self, id: StreamId, mut take: impl FnMut(&[u8]) -> usize) -> HostReceived {
        let net = &mut *self.net.borrow_mut();
        let passes = net.passes(self.host);
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) else {
            return HostReceived::Reset;
        };
        s.up.told = false;
        if !passes {
            return HostReceived::Nothing;
        }
        match s.broken {
            Broken::No => {}
            Broken::ByHost => return HostReceived::Reset,
            Broken::ByCard => {
                net.forget(id.index);
                return HostReceived::Reset;
            }
        }
        if s.up.bytes.is_empty() {
            if !s.up.fin {
                return HostReceived::Nothing;
            }
            s.up.told = true;
            return HostReceived::Fin;
        }
        let (front, back) = s.up.bytes.as_slices();
        let mut n = take(front).min(front.len());
        if n == front.len() && !back.is_empty() {
            n += take(back).min(back.len());
        }
        s.up.bytes.drain(..n);
        net.tell_ends(id.index);
        if n == 0 { HostReceived::Nothing } else { HostReceived::Bytes(n) }
    }

    /// Queues bytes; returns how many were taken, 0 also for a stream that is gone ([`MemoryHost::recv`] says so).
    pub fn send(&self, id: StreamId, bytes: &[u8]) -> usize {
        let net = &mut *self.net.borrow_mut();
        let window = net.window;
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial && s.broken == Broken::No) else {
            return 0;
        };
        let n = s.down.push(bytes, window);
        net.tell_ends(id.index);
        n
    }

    /// Sends FIN after what was sent.
    pub fn shutdown(&self, id: StreamId) {
        let net = &mut *self.net.borrow_mut();
        if let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) {
            s.down.fin = true;
            net.tell_ends(id.index);
        }
    }

    /// Closes a stream as a socket is closed: FIN after what was sent, or RST when something was not received.
    pub fn close(&self, id: StreamId) {
        let net = &mut *self.net.borrow_mut();
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) else { return };
        s.host_gone = true;
        s.down.fin = true;
        let (card, tcp) = (s.card, s.id);
        if net.of_card(card, tcp) == Some(id.index) {
            net.tell_ends(id.index);
        } else {
            net.forget(id.index);
        }
    }

    /// Breaks a stream with RST; what was sent and not received is lost.
    pub fn abort(&self, id: StreamId) {
        let net = &mut *self.net.borrow_mut();
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) else { return };
        s.host_gone = true;
        s.broken = if s.broken == Broken::ByCard { Broken::ByCard } else { Broken::ByHost };
        s.down.bytes.clear();
        net.tell_ends(id.index);
    }

    /// Takes what happened since the last call.
    pub fn drain(&self, out: &mut Vec<HostEvent>) {
        out.extend(self.net.borrow_mut().hosts[self.host].events.drain(..));
    }

    /// Whether the host has died without anybody noticing, or is heard again.
    pub fn set_silent(&self, silent: bool) {
        let mut net = self.net.borrow_mut();
        net.hosts[self.host].silent = silent;
        net.release();
    }

    /// Ends the process: nobody listens any more, and every stream is reset.
    pub fn kill(&self) {
        let streams: Vec<StreamId> = {
            let mut net = self.net.borrow_mut();
            net.listeners.retain(|_, &mut host| host != self.host);
            net.hosts[self.host].events.clear();
            let ours = |(i, s): (usize, &Option<Stream>)| {
                let s = s.as_ref().filter(|s| s.host == self.host)?;
                Some(StreamId { index: i as u32, serial: s.serial })
            };
            net.streams.iter().enumerate().filter_map(ours).collect()
        };
        for id in streams {
            self.abort(id);
        }
    }
}

impl Drop for MemoryHost {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use bus::wake::WakeSet;

    use super::*;
    use crate::testing::Bench;

    const TARGET: &str = "10.0.0.1:3260";

    struct World {
        bench: Bench,
        net: MemoryNet,
        wakes: WakeSet,
        tcp: MemoryTcp,
        host: MemoryHost,
    }

    impl World {
        fn new(window: usize) -> Self {
            let (wakes, net) = (WakeSet::default(), MemoryNet::new(window));
            let (tcp, host) = (net.card(wakes.register()), net.host(wakes.register()));
            while wakes.pop().is_some() {}
            host.listen(TARGET.parse().unwrap()).unwrap();
            Self { bench: Bench::new(), net, wakes, tcp, host }
        }

        fn connect(&mut self, id: u16) {
            let request = crate::testing::connect_request(TARGET.parse().unwrap());
            self.bench.with(|cx| self.tcp.connect(cx, TcpId(id), &request));
        }

        fn events(&mut self) -> Vec<(u16, TcpEvent)> {
            let mut out = Vec::new();
            self.bench.with(|cx| self.tcp.poll(cx, &mut out));
            out.into_iter().map(|(id, e)| (id.0, e)).collect()
        }

        fn connected() -> (Self, StreamId) {
            let mut w = Self::new(WINDOW);
            w.connect(3);
            assert_eq!(w.events(), [(3, TcpEvent::Connected)]);
            let (id, ours, _) = w.host.accept().unwrap();
            assert_eq!(ours, TARGET.parse().unwrap());
            (w, id)
        }

        fn send(&mut self, bytes: &[u8]) -> usize {
            self.bench.with(|cx| self.tcp.send(cx, TcpId(3), bytes))
        }

        /// Receives at the card, at most `limit` bytes.
        fn recv(&mut self, limit: usize) -> Vec<u8> {
            let mut out = Vec::new();
            self.bench.with(|cx| {
                self.tcp.recv(cx, TcpId(3), &mut |_, b| {
                    let n = b.len().min(limit - out.len());
                    out.extend_from_slice(&b[..n]);
                    n
                })
            });
            out
        }

        fn host_recv(&mut self, id: StreamId) -> Vec<u8> {
            let mut buf = [0; 64];
            match self.host.recv(id, &mut buf) {
                HostReceived::Bytes(n) => buf[..n].to_vec(),
                other => panic!("{other:?}"),
            }
        }

        fn host_events(&mut self) -> Vec<HostEvent> {
            let mut out = Vec::new();
            self.host.drain(&mut out);
            out
        }
    }

    #[test]
    fn bytes_pass_both_ways_and_each_end_is_told_once() {
        let (mut w, id) = World::connected();
        assert_eq!(w.host_events(), [HostEvent::Incoming]);
        while w.wakes.pop().is_some() {}
        assert_eq!((w.send(b"hel"), w.send(b"lo")), (3, 2));
        assert_eq!(w.host_events(), [HostEvent::Readable(id)]);
        assert_eq!(w.wakes.pop(), Some(1));
        assert_eq!(w.host_recv(id), b"hello");
        assert_eq!(w.host.recv(id, &mut [0; 4]), HostReceived::Nothing);

        assert_eq!(w.host.send(id, b"answer"), 6);
        assert_eq!(w.wakes.pop(), Some(0));
        assert_eq!(w.events(), [(3, TcpEvent::Readable)]);
        assert_eq!(w.recv(2), b"an");
        assert_eq!(w.host.send(id, b"!"), 1);
        assert_eq!(w.events(), [], "the card stopped early and comes back by itself");
        assert_eq!(w.recv(99), b"swer!");
        assert_eq!(w.host.send(id, b"more"), 4);
        assert_eq!(w.events(), [(3, TcpEvent::Readable)]);
    }

    #[test]
    fn a_full_window_takes_a_part_and_says_when_there_is_room() {
        let mut w = World::new(4);
        w.connect(3);
        w.events();
        let (id, ..) = w.host.accept().unwrap();
        assert_eq!((w.send(b"abcdef"), w.send(b"x")), (4, 0));
        assert_eq!(w.events(), []);
        assert_eq!(w.host_recv(id), b"abcd");
        assert_eq!(w.events(), [(3, TcpEvent::Writable)]);
        assert_eq!(w.host.send(id, b"123456"), 4);
        w.host_events();
        assert_eq!(w.recv(1), b"1");
        assert_eq!(w.host_events(), [HostEvent::Writable(id)]);
    }

    #[test]
    fn fin_comes_after_the_bytes_and_closed_after_both_fins() {
        let (mut w, id) = World::connected();
        w.host.send(id, b"last");
        w.host.shutdown(id);
        assert_eq!(w.events(), [(3, TcpEvent::Readable)]);
        assert_eq!(w.recv(2), b"la");
        assert_eq!(w.events(), []);
        assert_eq!(w.recv(9), b"st");
        assert_eq!(w.events(), [(3, TcpEvent::Fin)]);
        w.send(b"bye");
        w.bench.with(|cx| w.tcp.close(cx, TcpId(3)));
        assert_eq!(w.events(), [(3, TcpEvent::Closed)]);
        assert_eq!(w.host_recv(id), b"bye");
        assert_eq!(w.host.recv(id, &mut [0; 1]), HostReceived::Fin);
        w.host.close(id);
        assert_eq!(w.net.streams(), 0);
    }

    #[test]
    fn the_host_may_close_before_the_card_has_read_and_closed() {
        let (mut w, id) = World::connected();
        w.host.send(id, b"last");
        w.host.close(id);
        assert_eq!(w.recv(9), b"last");
        assert_eq!(w.events(), [(3, TcpEvent::Readable), (3, TcpEvent::Fin)]);
        w.bench.with(|cx| w.tcp.close(cx, TcpId(3)));
        assert_eq!(w.events(), [(3, TcpEvent::Closed)]);
        assert_eq!(w.net.streams(), 0);
    }

    #[test]
    fn sending_to_a_host_that_has_closed_is_answered_with_rst() {
        let (mut w, id) = World::connected();
        w.host.close(id);
        assert_eq!(w.events(), [(3, TcpEvent::Fin)]);
        w.send(b"too late");
        assert_eq!(w.events(), [(3, TcpEvent::Rst)]);
        assert_eq!(w.net.streams(), 0);
    }

    #[test]
    fn a_card_that_is_gone_leaves_no_stream() {
        let (w, id) = World::connected();
        drop(w.tcp);
        assert_eq!(w.host.recv(id, &mut [0; 9]), HostReceived::Reset);
        assert_eq!(w.net.streams(), 0);
    }

    #[test]
    fn rst_passes_both_ways() {
        let (mut w, id) = World::connected();
        w.send(b"lost");
        w.bench.with(|cx| w.tcp.abort(cx, TcpId(3)));
        assert_eq!(w.host.recv(id, &mut [0; 9]), HostReceived::Reset);
        assert_eq!((w.net.streams(), w.send(b"x"), w.host.send(id, b"x")), (0, 0, 0));

        w.connect(3);
        let (id, ..) = w.host.accept().unwrap();
        w.events();
        w.host.send(id, b"lost");
        w.host.kill();
        assert_eq!(w.events(), [(3, TcpEvent::Readable), (3, TcpEvent::Rst)]);
        assert_eq!(w.net.streams(), 0);
        w.connect(3);
        assert_eq!(w.events(), [(3, TcpEvent::ConnectFailed(ConnectError::Refused))]);
    }

    #[test]
    fn a_silent_network_holds_everything_back_and_loses_nothing() {
        let (mut w, id) = World::connected();
        w.host_events();
        w.net.set_reach(Reach::Silent);
        assert_eq!((w.send(b"held"), w.host.send(id, b"back")), (4, 4));
        w.host.shutdown(id);
        assert_eq!((w.events(), w.host_events()), (vec![], vec![]));
        assert_eq!((w.recv(9), w.host.recv(id, &mut [0; 9])), (vec![], HostReceived::Nothing));
        w.connect(4);
        assert_eq!(w.tcp.next_deadline(), Some(Instant::ZERO + CONNECT_TIMEOUT));
        w.net.set_reach(Reach::Normal);
        assert_eq!(w.events(), [(4, TcpEvent::Connected), (3, TcpEvent::Readable)]);
        assert_eq!((w.recv(9), w.host_recv(id)), (b"back".to_vec(), b"held".to_vec()));
        assert_eq!(w.events(), [(3, TcpEvent::Fin)]);
        assert_eq!(w.tcp.next_deadline(), None);
    }

    #[test]
    fn connects_that_cannot_succeed() {
        let mut w = World::new(WINDOW);
        w.net.set_reach(Reach::Unreachable);
        w.connect(1);
        assert_eq!(w.events(), [(1, TcpEvent::ConnectFailed(ConnectError::Refused))]);
        w.net.set_reach(Reach::Normal);
        w.host.set_silent(true);
        w.connect(1);
        w.bench.now = Instant::ZERO + CONNECT_TIMEOUT;
        assert_eq!(w.events(), [(1, TcpEvent::ConnectFailed(ConnectError::TimedOut))]);
        w.host.set_silent(false);
        assert_eq!(w.events(), [], "a connect that timed out does not come back");
        assert_eq!(w.host.listen(TARGET.parse().unwrap()), Err(AddressInUse(TARGET.parse().unwrap())));
        for id in 0..BACKLOG as u16 + 1 {
            w.connect(id);
        }
        assert_eq!(w.events().last(), Some(&(1024, TcpEvent::ConnectFailed(ConnectError::Refused))));
        w.bench.with(|cx| w.tcp.reset(cx));
        assert_eq!(w.events(), []);
        while let Some((id, ..)) = w.host.accept() {
            assert_eq!(w.host.recv(id, &mut [0; 1]), HostReceived::Reset);
        }
        assert_eq!(w.net.streams(), 0);
    }
}
