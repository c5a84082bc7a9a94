use bus::Instant;
use bus::wake::WakeSet;

use super::*;
use crate::tcp::{CONNECT_TIMEOUT, ConnectError, TcpEngine, TcpEvent, TcpId};
use crate::testing::Bench;

const TARGET: &str = "10.0.0.1:3260";

struct World {
    bench: Bench,
    net: MemoryNet,
    wakes: WakeSet,
    tcp: MemoryTcp,
    peer: MemoryPeer,
}

impl World {
    fn new(window: usize) -> Self {
        let (wakes, net) = (WakeSet::default(), MemoryNet::new(window));
        let (tcp, peer) = (net.card(wakes.register()), net.peer(wakes.register()));
        while wakes.pop().is_some() {}
        peer.listen(TARGET.parse().unwrap()).unwrap();
        Self { bench: Bench::new(), net, wakes, tcp, peer }
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
        let (id, ours, _) = w.peer.accept().unwrap();
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
        match self.peer.recv(id, &mut buf) {
            PeerReceived::Bytes(n) => buf[..n].to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn host_events(&mut self) -> Vec<PeerEvent> {
        let mut out = Vec::new();
        self.peer.drain(&mut out);
        out
    }
}

#[test]
fn bytes_pass_both_ways_and_each_end_is_told_once() {
    let (mut w, id) = World::connected();
    assert_eq!(w.host_events(), [PeerEvent::Incoming]);
    while w.wakes.pop().is_some() {}
    assert_eq!((w.send(b"hel"), w.send(b"lo")), (3, 2));
    assert_eq!(w.host_events(), [PeerEvent::Readable(id)]);
    assert_eq!(w.wakes.pop(), Some(1));
    assert_eq!(w.host_recv(id), b"hello");
    assert_eq!(w.peer.recv(id, &mut [0; 4]), PeerReceived::Nothing);

    assert_eq!(w.peer.send(id, b"answer"), 6);
    assert_eq!(w.wakes.pop(), Some(0));
    assert_eq!(w.events(), [(3, TcpEvent::Readable)]);
    assert_eq!(w.recv(2), b"an");
    assert_eq!(w.peer.send(id, b"!"), 1);
    assert_eq!(w.events(), [], "the card stopped early and comes back by itself");
    assert_eq!(w.recv(99), b"swer!");
    assert_eq!(w.peer.send(id, b"more"), 4);
    assert_eq!(w.events(), [(3, TcpEvent::Readable)]);
}

#[test]
fn a_full_window_takes_a_part_and_says_when_there_is_room() {
    let mut w = World::new(4);
    w.connect(3);
    w.events();
    let (id, ..) = w.peer.accept().unwrap();
    assert_eq!((w.send(b"abcdef"), w.send(b"x")), (4, 0));
    assert_eq!(w.events(), []);
    assert_eq!(w.host_recv(id), b"abcd");
    assert_eq!(w.events(), [(3, TcpEvent::Writable)]);
    assert_eq!(w.peer.send(id, b"123456"), 4);
    w.host_events();
    assert_eq!(w.recv(1), b"1");
    assert_eq!(w.host_events(), [PeerEvent::Writable(id)]);
}

#[test]
fn fin_comes_after_the_bytes_and_closed_after_both_fins() {
    let (mut w, id) = World::connected();
    w.peer.send(id, b"last");
    w.peer.shutdown(id);
    assert_eq!(w.events(), [(3, TcpEvent::Readable)]);
    assert_eq!(w.recv(2), b"la");
    assert_eq!(w.events(), []);
    assert_eq!(w.recv(9), b"st");
    assert_eq!(w.events(), [(3, TcpEvent::Fin)]);
    w.send(b"bye");
    w.bench.with(|cx| w.tcp.close(cx, TcpId(3)));
    assert_eq!(w.events(), [(3, TcpEvent::Closed)]);
    assert_eq!(w.host_recv(id), b"bye");
    assert_eq!(w.peer.recv(id, &mut [0; 1]), PeerReceived::Fin);
    w.peer.close(id);
    assert_eq!(w.net.streams(), 0);
}

#[test]
fn the_host_may_close_before_the_card_has_read_and_closed() {
    let (mut w, id) = World::connected();
    w.peer.send(id, b"last");
    w.peer.close(id);
    assert_eq!(w.recv(9), b"last");
    assert_eq!(w.events(), [(3, TcpEvent::Readable), (3, TcpEvent::Fin)]);
    w.bench.with(|cx| w.tcp.close(cx, TcpId(3)));
    assert_eq!(w.events(), [(3, TcpEvent::Closed)]);
    assert_eq!(w.net.streams(), 0);
}

#[test]
fn sending_to_a_host_that_has_closed_is_answered_with_rst() {
    let (mut w, id) = World::connected();
    w.peer.close(id);
    assert_eq!(w.events(), [(3, TcpEvent::Fin)]);
    w.send(b"too late");
    assert_eq!(w.events(), [(3, TcpEvent::Rst)]);
    assert_eq!(w.net.streams(), 0);
}

#[test]
fn a_card_that_is_gone_leaves_no_stream() {
    let (w, id) = World::connected();
    drop(w.tcp);
    assert_eq!(w.peer.recv(id, &mut [0; 9]), PeerReceived::Reset);
    assert_eq!(w.net.streams(), 0);
}

#[test]
fn rst_passes_both_ways() {
    let (mut w, id) = World::connected();
    w.send(b"lost");
    w.bench.with(|cx| w.tcp.abort(cx, TcpId(3)));
    assert_eq!(w.peer.recv(id, &mut [0; 9]), PeerReceived::Reset);
    assert_eq!((w.net.streams(), w.send(b"x"), w.peer.send(id, b"x")), (0, 0, 0));

    w.connect(3);
    let (id, ..) = w.peer.accept().unwrap();
    w.events();
    w.peer.send(id, b"lost");
    w.peer.kill();
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
    assert_eq!((w.send(b"held"), w.peer.send(id, b"back")), (4, 4));
    w.peer.shutdown(id);
    assert_eq!((w.events(), w.host_events()), (vec![], vec![]));
    assert_eq!((w.recv(9), w.peer.recv(id, &mut [0; 9])), (vec![], PeerReceived::Nothing));
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
    w.peer.set_silent(true);
    w.connect(1);
    w.bench.now = Instant::ZERO + CONNECT_TIMEOUT;
    assert_eq!(w.events(), [(1, TcpEvent::ConnectFailed(ConnectError::TimedOut))]);
    w.peer.set_silent(false);
    assert_eq!(w.events(), [], "a connect that timed out does not come back");
    assert_eq!(w.peer.listen(TARGET.parse().unwrap()), Err(AddressInUse(TARGET.parse().unwrap())));
    for id in 0..BACKLOG as u16 + 1 {
        w.connect(id);
    }
    assert_eq!(w.events().last(), Some(&(1024, TcpEvent::ConnectFailed(ConnectError::Refused))));
    w.bench.with(|cx| w.tcp.reset(cx));
    assert_eq!(w.events(), []);
    while let Some((id, ..)) = w.peer.accept() {
        assert_eq!(w.peer.recv(id, &mut [0; 1]), PeerReceived::Reset);
    }
    assert_eq!(w.net.streams(), 0);
}
