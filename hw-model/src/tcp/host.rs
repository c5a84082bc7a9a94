//! Kernel sockets as the card's transport: what carries offloaded connections to real targets.
//!
//! A connection costs one receive and one send per wake-up: a receive goes into one large staging buffer that
//! all connections share, and only what the engine leaves behind is kept for the connection. Readiness comes
//! from the reactor, edge-triggered; the runner waits on it and wakes the card. The kernel does
//! retransmission and TIME-WAIT, and chooses source address and port, so a request's source address, link
//! header, MSS and buffer sizes have no effect here. Destinations go through a table ([`Nat`]); with an empty
//! one they mean themselves.
//!
//! While the card has no link, nothing is read, written or reported, and handshakes run into their timeout:
//! to the engine it looks like segments that get lost. Not modelled: the kernel itself goes on, so FIN and
//! RST of a link that is down still reach the peer, and nothing is ever given up for too many
//! retransmissions.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use bus::Instant;
use bus::pci::DevCx;
use os::net::{ConnectState, Received, TcpStream};
use os::reactor::{Owner, Ready};

use super::nat::Nat;
use super::{CONNECT_TIMEOUT, ConnectError, ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId};

/// Bytes of the staging buffer: what one receive can bring, and what is kept for a connection at most.
pub const STAGING: usize = 256 * 1024;

struct Socket {
    stream: TcpStream,
    /// Tells it from an earlier socket of the same id.
    serial: u64,
    connected: bool,
    /// The reactor said that there is something, and no receive has come back short since.
    edge: bool,
    /// FIN or worse waits behind what can be received, so a short receive is not the end.
    hup: bool,
    /// Received, not consumed: from `kept_at` on.
    kept: Vec<u8>,
    kept_at: usize,
    /// FIN was received.
    fin: bool,
    /// FIN was received, and everything before it consumed: the engine was told.
    fin_told: bool,
    fin_sent: bool,
    /// A send took less than all.
    starved: bool,
}

/// The transport.
pub struct HostTcp {
    owner: Owner,
    nat: Nat,
    link: bool,
    sockets: Vec<Option<Socket>>,
    /// Deadlines of handshakes, in order: the timeout is the same for all. Two for each socket at most.
    connecting: VecDeque<(Instant, TcpId, u64)>,
    events: VecDeque<(TcpId, TcpEvent)>,
    ready: Vec<Ready>,
    staging: Box<[u8]>,
    serial: u64,
}

impl HostTcp {
    /// A transport whose sockets report to `owner`; the runner wakes the card for it.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            nat: Nat::default(),
            link: true,
            sockets: Vec::new(),
            connecting: VecDeque::new(),
            events: VecDeque::new(),
            ready: Vec::new(),
            staging: vec![0; STAGING].into_boxed_slice(),
            serial: 0,
        }
    }

    /// The same with translated destinations.
    #[must_use]
    pub fn with_nat(mut self, nat: Nat) -> Self {
        self.nat = nat;
        self
    }

    /// Opens the socket and has it watched.
    fn open(&mut self, id: TcpId, request: &ConnectRequest) -> io::Result<()> {
        if self.nat.refuses(request.remote, os::net::is_own) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let stream = TcpStream::connect(self.nat.destination(request.remote))?;
        self.owner.register(&stream, u32::from(id.0))?;
        self.serial += 1;
        let socket = Socket {
            stream,
            serial: self.serial,
            connected: false,
            edge: false,
            hup: false,
            kept: Vec::new(),
            kept_at: 0,
            fin: false,
            fin_told: false,
            fin_sent: false,
            starved: false,
        };
        let index = usize::from(id.0);
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(socket);
        Ok(())
    }

    /// Notes the deadline of the handshake that has just begun.
    fn watch(&mut self, deadline: Instant, id: TcpId) {
        if self.connecting.len() >= 2 * self.sockets.len() {
            // Handshakes that were aborted leave an entry behind each.
            let sockets = &self.sockets;
            let trying = |id: TcpId, serial| {
                let socket = sockets.get(usize::from(id.0)).and_then(Option::as_ref);
                socket.is_some_and(|s| s.serial == serial && !s.connected)
            };
            self.connecting.retain(|&(_, id, serial)| trying(id, serial));
        }
        self.connecting.push_back((deadline, id, self.serial));
    }

    fn socket(&mut self, id: TcpId) -> Option<&mut Socket> {
        self.sockets.get_mut(usize::from(id.0))?.as_mut()
    }

    /// Forgets a socket; the caller closes it.
    fn take(&mut self, id: TcpId) -> Option<TcpStream> {
        let socket = self.sockets.get_mut(usize::from(id.0))?.take()?;
        // It fails only for a descriptor that is not watched, and then there is nothing to stop.
        let _ = self.owner.deregister(&socket.stream, u32::from(id.0));
        Some(socket.stream)
    }

    /// The connection broke.
    fn broke(&mut self, id: TcpId, error: &io::Error) {
        self.take(id);
        let event = match error.kind() {
            io::ErrorKind::TimedOut => TcpEvent::TimedOut,
            _ => TcpEvent::Rst,
        };
        self.events.push_back((id, event));
    }

    fn handle(&mut self, ready: Ready) {
        let id = TcpId(ready.token as u16);
        let Some(socket) = self.socket(id) else { return };
        socket.edge |= ready.readable;
        socket.hup |= ready.hup;
        if !socket.connected {
            match socket.stream.connect_state() {
                Ok(ConnectState::Pending) => return,
                Ok(ConnectState::Connected) => {
                    socket.connected = true;
                    let readable = socket.edge;
                    self.events.push_back((id, TcpEvent::Connected));
                    if readable {
                        self.events.push_back((id, TcpEvent::Readable));
                    }
                }
                Err(error) => {
                    self.take(id);
                    let event = TcpEvent::ConnectFailed(connect_error(&error));
                    self.events.push_back((id, event));
                }
            }
            return;
        }
        let writable = ready.writable && std::mem::take(&mut socket.starved);
        if ready.readable {
            self.events.push_back((id, TcpEvent::Readable));
        }
        if writable {
            self.events.push_back((id, TcpEvent::Writable));
        }
    }

    /// Reports FIN when everything before it was consumed, and the end when FIN was sent too.
    fn report_end(&mut self, id: TcpId) {
        let Some(socket) = self.socket(id) else { return };
        let fin = socket.fin && socket.kept.is_empty() && !std::mem::replace(&mut socket.fin_told, true);
        let closed = socket.fin_told && socket.fin && socket.fin_sent;
        if fin {
            self.events.push_back((id, TcpEvent::Fin));
        }
        if closed {
            self.take(id);
            self.events.push_back((id, TcpEvent::Closed));
        }
    }
}

fn connect_error(error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => ConnectError::Refused,
    }
}

impl TcpEngine for HostTcp {
    fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        self.abort(cx, id);
        match self.open(id, request) {
            Ok(()) => self.watch(cx.now + CONNECT_TIMEOUT, id),
            Err(error) => self.events.push_back((id, TcpEvent::ConnectFailed(connect_error(&error)))),
        }
    }

    fn close(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        let Some(socket) = self.socket(id) else { return };
        socket.fin_sent = true;
        match socket.stream.shutdown_write() {
            Ok(()) => self.report_end(id),
            Err(error) => self.broke(id, &error),
        }
    }

    fn abort(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        if let Some(stream) = self.take(id) {
            stream.abort();
        }
        self.events.retain(|&(of, _)| of != id);
    }

    fn send(&mut self, _cx: &mut DevCx<'_>, id: TcpId, bytes: &[u8]) -> usize {
        let link = self.link;
        let Some(socket) = self.socket(id).filter(|s| s.connected) else { return 0 };
        if !link {
            socket.starved = true;
            return 0;
        }
        match socket.stream.send(bytes) {
            Ok(n) => {
                socket.starved = n < bytes.len();
                n
            }
            Err(error) => {
                self.broke(id, &error);
                0
            }
        }
    }

    fn recv(
        &mut self,
        cx: &mut DevCx<'_>,
        id: TcpId,
        sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        let slot = self.sockets.get_mut(usize::from(id.0)).and_then(Option::as_mut);
        let Some(socket) = slot.filter(|s| s.connected) else { return 0 };
        let mut consumed = 0;
        if !socket.kept.is_empty() {
            let kept = &socket.kept[socket.kept_at..];
            consumed = sink(cx, kept).min(kept.len());
            socket.kept_at += consumed;
            if socket.kept_at < socket.kept.len() {
                return consumed;
            }
            socket.kept.clear();
            socket.kept_at = 0;
        }
        if socket.edge && !socket.fin && self.link {
            match socket.stream.recv(&mut self.staging) {
                Ok(Received::Bytes(n)) => {
                    let bytes = &self.staging[..n];
                    // A short receive has emptied the socket, unless FIN waits behind; what comes later is a
                    // new edge.
                    socket.edge = n == self.staging.len() || socket.hup;
                    let taken = sink(cx, bytes).min(n);
                    consumed += taken;
                    if taken < n {
                        socket.kept.extend_from_slice(&bytes[taken..]);
                    } else if socket.edge {
                        self.events.push_back((id, TcpEvent::Readable));
                    }
                }
                Ok(Received::Nothing) => socket.edge = false,
                Ok(Received::Fin) => (socket.edge, socket.fin) = (false, true),
                Err(error) => {
                    self.broke(id, &error);
                    return consumed;
                }
            }
        }
        self.report_end(id);
        consumed
    }

    fn set_link(&mut self, _id: TcpId, _link: LinkHeader) {}

    fn poll(&mut self, cx: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        let mut ready = std::mem::take(&mut self.ready);
        if self.link {
            self.owner.drain(&mut ready);
        }
        for r in ready.drain(..) {
            self.handle(r);
        }
        self.ready = ready;
        while let Some(&(deadline, id, serial)) = self.connecting.front() {
            let trying = self.socket(id).is_some_and(|s| s.serial == serial && !s.connected);
            if trying && deadline > cx.now {
                break;
            }
            self.connecting.pop_front();
            if trying {
                self.take(id);
                self.events.push_back((id, TcpEvent::ConnectFailed(ConnectError::TimedOut)));
            }
        }
        out.extend(self.events.drain(..));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.connecting.front().map(|&(at, ..)| at)
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        for index in 0..self.sockets.len() {
            self.abort(cx, TcpId(index as u16));
        }
        self.connecting.clear();
        self.events.clear();
    }

    fn set_carrier(&mut self, up: bool) {
        if up && !std::mem::replace(&mut self.link, up) {
            // What came meanwhile, and who could not send.
            for (index, socket) in self.sockets.iter_mut().enumerate() {
                let Some(socket) = socket.as_mut().filter(|s| s.connected) else { continue };
                let id = TcpId(index as u16);
                if socket.edge {
                    self.events.push_back((id, TcpEvent::Readable));
                }
                if std::mem::take(&mut socket.starved) {
                    self.events.push_back((id, TcpEvent::Writable));
                }
            }
        }
        self.link = up;
    }

    fn supports(&self, _remote: IpAddr) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use os::net::TcpListener;
    use os::reactor::Reactor;

    use super::super::nat::NatRule;
    use super::*;
    use crate::testing::{Bench, connect_request};

    const ID: TcpId = TcpId(7);

    struct World {
        bench: Bench,
        reactor: Reactor,
        tcp: HostTcp,
        listener: TcpListener,
        seen: Vec<TcpEvent>,
    }

    impl World {
        fn new() -> Self {
            let reactor = Reactor::new().unwrap();
            let tcp = HostTcp::new(reactor.owner().unwrap());
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            Self { bench: Bench::new(), reactor, tcp, listener, seen: Vec::new() }
        }

        fn connect(&mut self, remote: std::net::SocketAddr) {
            self.bench.with(|cx| self.tcp.connect(cx, ID, &connect_request(remote)));
        }

        fn poll(&mut self) -> Vec<TcpEvent> {
            let mut out = Vec::new();
            self.bench.with(|cx| self.tcp.poll(cx, &mut out));
            out.into_iter().map(|(_, e)| e).collect()
        }

        /// Waits until `event` is reported; what else is goes to `seen`.
        fn wait(&mut self, event: TcpEvent) {
            for _ in 0..100 {
                let got = self.poll();
                self.seen.extend(&got);
                if got.contains(&event) {
                    return;
                }
                self.reactor.wait(Some(Duration::from_secs(1)), &mut Vec::new()).unwrap();
            }
            panic!("{event:?} does not come; {:?}", self.seen);
        }

        fn connected() -> (Self, TcpStream) {
            let mut w = Self::new();
            w.connect(w.listener.local_addr().unwrap());
            w.wait(TcpEvent::Connected);
            let (peer, _) = w.listener.accept().unwrap().unwrap();
            (w, peer)
        }

        fn recv(&mut self, limit: usize) -> Vec<u8> {
            let mut out = Vec::new();
            self.bench.with(|cx| {
                self.tcp.recv(cx, ID, &mut |_, b| {
                    let n = b.len().min(limit - out.len());
                    out.extend_from_slice(&b[..n]);
                    n
                })
            });
            out
        }
    }

    #[test]
    fn bytes_arrive_in_order_whatever_is_left_behind() {
        let (mut w, peer) = World::connected();
        let data: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let (mut sent, mut got, mut limit) = (0, Vec::new(), 1);
        w.seen.clear();
        let mut readable = false;
        while got.len() < data.len() {
            sent += peer.send(&data[sent..]).unwrap();
            if !readable {
                w.wait(TcpEvent::Readable);
            }
            limit = limit * 5 % 400_000 + 1;
            let piece = w.recv(limit);
            // As the engine does: whoever stops early comes back by itself.
            readable = piece.len() == limit;
            got.extend(piece);
        }
        assert!(got == data);
    }

    #[test]
    fn a_wake_up_costs_one_receive() {
        let (mut w, peer) = World::connected();
        let before = os::count::calls();
        peer.send(b"hello").unwrap();
        w.wait(TcpEvent::Readable);
        assert_eq!(w.recv(99), b"hello");
        let calls = os::count::calls() - before;
        assert_eq!((calls.recv, calls.send), (1, 1));
        assert_eq!(w.poll(), []);
    }

    #[test]
    fn a_full_socket_says_when_there_is_room() {
        let (mut w, peer) = World::connected();
        let chunk = vec![9; 1 << 20];
        let mut sent = 0;
        loop {
            let n = w.bench.with(|cx| w.tcp.send(cx, ID, &chunk));
            sent += n;
            if n < chunk.len() {
                break;
            }
        }
        let mut buf = vec![0; 1 << 20];
        let mut received = 0;
        while received < sent {
            match peer.recv(&mut buf).unwrap() {
                Received::Bytes(n) => received += n,
                other => assert_eq!(other, Received::Nothing),
            }
        }
        w.wait(TcpEvent::Writable);
        assert!(w.bench.with(|cx| w.tcp.send(cx, ID, &chunk)) > 0);
    }

    #[test]
    fn fin_behind_bytes_is_seen_after_them_and_close_ends_when_both_have_come() {
        let (mut w, peer) = World::connected();
        peer.send(b"last").unwrap();
        peer.shutdown_write().unwrap();
        w.wait(TcpEvent::Readable);
        assert_eq!(w.recv(2), b"la");
        assert_eq!(w.poll(), []);
        assert_eq!(w.recv(99), b"st");
        // The receive that finds FIN is the engine's answer to one more report.
        for _ in 0..10 {
            if w.seen.contains(&TcpEvent::Fin) {
                break;
            }
            w.reactor.wait(Some(Duration::from_millis(100)), &mut Vec::new()).unwrap();
            let events = w.poll();
            w.seen.extend(&events);
            w.recv(99);
        }
        assert!(w.seen.contains(&TcpEvent::Fin));
        w.bench.with(|cx| w.tcp.close(cx, ID));
        assert_eq!(w.poll(), [TcpEvent::Closed]);
        assert_eq!(peer.recv(&mut [0; 9]).unwrap(), Received::Fin);
        assert!(w.tcp.sockets[7].is_none());
    }

    #[test]
    fn a_destination_that_a_rule_names_is_elsewhere() {
        let mut w = World::new();
        let here = w.listener.local_addr().unwrap();
        let rule = format!("[fd00::2]:3260={here}").parse::<NatRule>().unwrap();
        w.tcp = HostTcp::new(w.reactor.owner().unwrap()).with_nat(Nat::new(&[rule]).unwrap());
        // Source addresses are the host's, which this machine does not have.
        w.connect("[fd00::2]:3260".parse().unwrap());
        w.wait(TcpEvent::Connected);
        assert!(w.listener.accept().unwrap().is_some());
    }

    #[test]
    fn without_a_link_nothing_passes_and_nothing_is_lost() {
        let (mut w, peer) = World::connected();
        w.tcp.set_carrier(false);
        peer.send(b"late").unwrap();
        w.reactor.wait(Some(Duration::from_secs(1)), &mut Vec::new()).unwrap();
        assert_eq!((w.poll(), w.recv(9)), (vec![], vec![]));
        assert_eq!(w.bench.with(|cx| w.tcp.send(cx, ID, b"x")), 0);
        w.tcp.set_carrier(true);
        let told = w.poll();
        assert!(told.contains(&TcpEvent::Writable) && told.contains(&TcpEvent::Readable), "{told:?}");
        assert_eq!(w.recv(9), b"late");

        // Half of it was read when the link went.
        peer.send(&[7; STAGING]).unwrap();
        w.wait(TcpEvent::Readable);
        w.tcp.set_carrier(false);
        assert_eq!(w.recv(9).len(), 0);
        w.tcp.set_carrier(true);
        assert!(w.poll().contains(&TcpEvent::Readable));
        assert_eq!(w.recv(9), [7; 9]);

        // A handshake that cannot get through times out.
        let mut w = World::new();
        w.tcp.set_carrier(false);
        w.connect(w.listener.local_addr().unwrap());
        w.reactor.wait(Some(Duration::from_secs(1)), &mut Vec::new()).unwrap();
        assert_eq!(w.poll(), []);
        w.bench.now = Instant::ZERO + CONNECT_TIMEOUT;
        assert_eq!(w.poll(), [TcpEvent::ConnectFailed(ConnectError::TimedOut)]);
    }

    #[test]
    fn handshakes_that_are_aborted_pile_nothing_up() {
        let mut w = World::new();
        for _ in 0..100 {
            w.connect(w.listener.local_addr().unwrap());
            w.bench.with(|cx| w.tcp.abort(cx, ID));
        }
        assert!(w.tcp.connecting.len() <= 2 * w.tcp.sockets.len(), "{}", w.tcp.connecting.len());
        w.connect(w.listener.local_addr().unwrap());
        w.wait(TcpEvent::Connected);
    }

    #[test]
    fn rst_goes_out_on_abort_and_comes_in_as_such() {
        let (mut w, peer) = World::connected();
        peer.abort();
        w.wait(TcpEvent::Readable);
        w.recv(9);
        w.wait(TcpEvent::Rst);

        let (mut w, peer) = World::connected();
        w.bench.with(|cx| w.tcp.reset(cx));
        assert_eq!(w.poll(), []);
        assert_eq!(peer.recv(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn handshakes_that_fail() {
        let mut w = World::new();
        let free = w.listener.local_addr().unwrap();
        w.listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        w.connect(free);
        w.wait(TcpEvent::ConnectFailed(ConnectError::Refused));
        // Nobody waits on the reactor, so no answer is seen.
        w.connect(w.listener.local_addr().unwrap());
        assert_eq!(w.tcp.next_deadline(), Some(Instant::ZERO + CONNECT_TIMEOUT));
        w.bench.now = Instant::ZERO + CONNECT_TIMEOUT;
        assert_eq!(w.poll(), [TcpEvent::ConnectFailed(ConnectError::TimedOut)]);
        assert_eq!(w.tcp.next_deadline(), None);
    }
}
