//! A card's TCP, a link, and a host that listens behind it; one virtual clock.

use std::time::Duration;

use bus::Instant;
use bus::streams::{Seeded, Streams};

use crate::ether;
use crate::tcp::frame::stack::Stack;
use crate::tcp::frame::{Checksums, FrameNet, FramePort, FrameTcp, Segment};
use crate::tcp::{ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId, TcpOptions};
use crate::testing::Bench;
use crate::wire::Wire;
use crate::wire::link::{Direction, LinkConfig, LinkControl, LinkEnd, link};

pub(super) const CARD: [u8; 6] = [0, 0x10, 0x18, 0xaa, 0xbb, 0xcd];
pub(super) const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const ID: TcpId = TcpId(5);
/// Where the host's first connection is in its stack.
pub(super) const FIRST: u16 = 0;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn request() -> ConnectRequest {
    ConnectRequest {
        local: "192.0.2.2:60000".parse().expect("an address"),
        remote: "192.0.2.1:3260".parse().expect("an address"),
        mss: 1460,
        pmtu: 1500,
        rcv_buf: 65536,
        snd_buf: 65536,
        link: LinkHeader { destination: HOST, source: CARD, vlan: None },
        options: TcpOptions::default(),
    }
}

pub(super) struct Rig {
    pub(super) bench: Bench,
    pub(super) net: FrameNet,
    pub(super) tcp: FrameTcp,
    pub(super) port: FramePort,
    pub(super) far: LinkEnd,
    pub(super) control: LinkControl,
    pub(super) host: Stack,
    /// What the host says of its side of a connection.
    pub(super) terms: ConnectRequest,
    pub(super) mac: [u8; 6],
    /// The host neither hears nor says anything.
    pub(super) silent: bool,
    pub(super) listening: bool,
    rng: Seeded,
    next: u16,
    polled: Vec<(TcpId, TcpEvent)>,
    pub(super) seen: Vec<(TcpId, TcpEvent)>,
    pub(super) host_seen: Vec<(u16, TcpEvent)>,
    /// Frames that reached the host.
    pub(super) frames: Vec<Vec<u8>>,
}

impl Rig {
    pub(super) fn new(direction: Direction, seed: u64) -> Self {
        Self::with(direction, seed, Checksums::Real)
    }

    pub(super) fn with(direction: Direction, seed: u64, checksums: Checksums) -> Self {
        let (near, far, control) = link(LinkConfig::both(direction));
        let net = FrameNet::new(near, CARD, checksums);
        let mut bench = Bench::new();
        bench.rng = Box::new(Seeded::new(seed));
        Self {
            tcp: net.tcp(),
            port: net.port(),
            net,
            bench,
            far,
            control,
            host: Stack::new(checksums == Checksums::Real),
            terms: request(),
            mac: HOST,
            silent: false,
            listening: true,
            rng: Seeded::new(!seed),
            next: FIRST,
            polled: Vec::new(),
            seen: Vec::new(),
            host_seen: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// Connected, with what was seen so far forgotten.
    pub(super) fn connected(direction: Direction, seed: u64) -> Self {
        let mut r = Self::new(direction, seed);
        r.connect(&request());
        r.wait_for(TcpEvent::Connected);
        r.run(ms(5));
        assert_eq!(r.host_seen, [(FIRST, TcpEvent::Connected)]);
        r.seen.clear();
        r.host_seen.clear();
        r.frames.clear();
        r
    }

    pub(super) fn connect(&mut self, request: &ConnectRequest) {
        self.bench.with(|cx| self.tcp.connect(cx, ID, request));
    }

    /// Both ends do what they can now; whether anybody did anything.
    pub(super) fn step(&mut self) -> bool {
        self.bench.with(|cx| self.tcp.poll(cx, &mut self.polled));
        let mut busy = !self.polled.is_empty();
        self.seen.append(&mut self.polled);
        let now = self.bench.now;
        let mut frame = Vec::new();
        while self.far.recv_at(now, &mut frame) {
            busy = true;
            if !self.silent {
                self.host_takes(&frame);
                self.frames.push(frame.clone());
            }
        }
        if !self.silent {
            let (far, rng) = (&self.far, &mut self.rng);
            self.host.poll(now, &mut |frame| far.send_at(now, rng, frame));
            while let Some(event) = self.host.next_event() {
                busy = true;
                self.host_seen.push(event);
            }
        }
        busy
    }

    fn host_takes(&mut self, frame: &[u8]) {
        let Some(ip) = ether::parse(frame) else { return };
        let ours = frame[..6] == self.mac && ip.protocol == ether::TCP && !ip.fragment;
        let Some(segment) = Segment::parse(frame, ip).filter(|_| ours) else { return };
        let now = self.bench.now;
        let (far, rng) = (&self.far, &mut self.rng);
        let seed = rng.next_u64("host.isn");
        let mut emit = |frame: &[u8]| far.send_at(now, rng, frame);
        if self.host.input(now, frame, &segment, &mut emit) {
            return;
        }
        if !segment.is_syn() || !self.listening {
            self.host.refuse(frame, &segment, &mut emit);
            return;
        }
        let mut terms = self.terms.clone();
        (terms.local, terms.remote) = (segment.local(), segment.remote());
        terms.link = LinkHeader { destination: CARD, source: self.mac, vlan: ether::vlan(frame) };
        self.host.accept(now, self.next, seed, &terms, frame, &mut emit);
        self.next += 1;
    }

    fn next_deadline(&self) -> Option<Instant> {
        let mut next = self.tcp.next_deadline();
        if !self.silent {
            next = Instant::earliest(next, self.host.next_deadline());
        }
        Instant::earliest(next, self.far.next_arrival())
    }

    /// Runs for `time` at most, or until `done`; whether it was met.
    pub(super) fn run_until(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let limit = self.bench.now + time;
        loop {
            while self.step() {}
            if done(self) {
                return true;
            }
            let next = self.next_deadline().unwrap_or(limit).max(self.bench.now + Duration::from_micros(1));
            if next > limit {
                self.bench.now = limit;
                return false;
            }
            self.bench.now = next;
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until the card's side reports `event`.
    pub(super) fn wait_for(&mut self, event: TcpEvent) {
        let met = self.run_until(Duration::from_secs(60), |r| r.seen.contains(&(ID, event)));
        assert!(met, "{event:?} never came: {:?}", self.seen);
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        self.bench.with(|cx| self.tcp.send(cx, ID, bytes))
    }

    pub(super) fn recv(&mut self) -> Vec<u8> {
        self.recv_some(usize::MAX)
    }

    pub(super) fn recv_some(&mut self, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.bench.with(|cx| {
            self.tcp.recv(cx, ID, &mut |_, bytes| {
                let n = bytes.len().min(limit - out.len());
                out.extend_from_slice(&bytes[..n]);
                n
            })
        });
        out
    }

    pub(super) fn host_recv(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.host.recv(self.bench.now, FIRST, |bytes| {
            out.extend_from_slice(bytes);
            bytes.len()
        });
        out
    }

    /// The host sends a frame of its own making.
    pub(super) fn inject(&mut self, frame: &[u8]) {
        self.far.send_at(self.bench.now, &mut self.rng, frame);
    }

    /// What the Ethernet rings get.
    pub(super) fn ring_frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        self.bench.with(|cx| self.port.recv(cx, &mut frame)).then_some(frame)
    }
}
