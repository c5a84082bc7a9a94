//! TCP over frames: the card's own TCP, and the port of the wire that it shares with the Ethernet rings.
//!
//! In the real chip this is the TCP offload of the receive and transmit processors and the parser in front of
//! them. A [`FrameNet`] owns the card's [`Wire`]. A TCP segment to the iSCSI MAC goes to the connection with
//! its 4-tuple; what belongs to no connection is answered with RST, as whoever owns that MAC's addresses has
//! no other TCP (inferred: the real chip leaves that to the helper's stack). All other frames go through
//! [`FramePort`] to the Ethernet rings. [`FrameTcp`] is the engine's side.
//!
//! A connection is one smoltcp socket with an interface of its own ([`stack`]). Segments are taken when the
//! engine polls, and acknowledged together after all of them, so a burst costs one ACK. Nothing is allocated
//! per segment.
//!
//! Not modelled: SACK, timestamps, path MTU discovery, urgent data, congestion control. IP fragments of TCP
//! to the iSCSI MAC are dropped and counted.

mod deadlines;
mod segment;
pub mod stack;
mod stream;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use bus::Instant;
use bus::pci::DevCx;

use self::stack::{Stack, StackCounters};
use super::{ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId};
use crate::ether;
use crate::wire::{FrameQueue, LARGEST_FRAME, NoPeer, Recording, Tee, Wire};
pub use segment::Segment;
pub use stream::RETRANSMISSION_LIMIT;

/// Frames that wait for the Ethernet rings; more are dropped and counted.
pub const PORT_FRAMES: usize = 512;
/// Frames taken from the wire at once.
const BATCH: u32 = 256;
/// The stream that seeds initial sequence numbers.
pub const ISN: bus::streams::StreamName = "tcp.isn";

/// Whether checksums of TCP count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// They are made and looked at.
    #[default]
    Real,
    /// Neither: for wires inside the process that damage nothing. Both ends must agree.
    Skipped,
}

/// What the demultiplexer counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames that came in.
    pub frames_in: u64,
    /// Frames that went to the Ethernet rings.
    pub to_rings: u64,
    /// Of those, how many found the queue full.
    pub ring_drops: u64,
    /// IP fragments of TCP to the iSCSI MAC; dropped.
    pub fragments: u64,
    /// TCP segments to the iSCSI MAC that are shorter than a header; dropped.
    pub malformed: u64,
    /// Frames of TCP, in or out, that the port had no link for; dropped.
    pub without_link: u64,
}

struct Net {
    wire: Box<dyn Wire>,
    mac: [u8; 6],
    /// The port has a link. Without one TCP neither hears nor says anything, whatever the wire thinks.
    link: bool,
    port: FrameQueue,
    stack: Stack,
    frame: Vec<u8>,
    counters: NetCounters,
}

/// A card's wire, shared by its TCP and its rings. Clones are the same.
#[derive(Clone)]
pub struct FrameNet(Rc<RefCell<Net>>);

impl FrameNet {
    /// Shares `wire`. `mac` is the iSCSI MAC.
    #[must_use]
    pub fn new(wire: impl Wire + 'static, mac: [u8; 6], checksums: Checksums) -> Self {
        Self(Rc::new(RefCell::new(Net {
            wire: Box::new(wire),
            mac,
            link: true,
            port: FrameQueue::new(PORT_FRAMES),
            stack: Stack::new(checksums == Checksums::Real),
            frame: Vec::with_capacity(LARGEST_FRAME),
            counters: NetCounters::default(),
        })))
    }

    /// The engine's transport. There is one for a net.
    #[must_use]
    pub fn tcp(&self) -> FrameTcp {
        FrameTcp(self.0.clone())
    }

    /// What the Ethernet rings are plugged into. There is one for a net.
    #[must_use]
    pub fn port(&self) -> FramePort {
        FramePort(self.0.clone())
    }

    /// Records what passes the wire from now on.
    pub fn record(&self, recording: Recording) {
        let net = &mut *self.0.borrow_mut();
        let wire = std::mem::replace(&mut net.wire, Box::new(NoPeer));
        net.wire = Box::new(Tee::new(wire, recording));
    }

    /// What the demultiplexer counted.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        let net = self.0.borrow();
        NetCounters { ring_drops: net.port.dropped(), ..net.counters }
    }

    /// What TCP counted.
    #[must_use]
    pub fn tcp_counters(&self) -> StackCounters {
        self.0.borrow().stack.counters()
    }

    /// Connections that exist, and connections in TIME-WAIT.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let net = self.0.borrow();
        (net.stack.len(), net.stack.time_waits())
    }
}

impl Net {
    /// Takes frames from the wire, until there is none, the batch is full, or `enough`.
    fn pump(&mut self, cx: &mut DevCx<'_>, enough: impl Fn(&Self) -> bool) {
        for _ in 0..BATCH {
            if enough(self) || !self.wire.recv(cx, &mut self.frame) {
                return;
            }
            self.counters.frames_in += 1;
            let frame = std::mem::take(&mut self.frame);
            self.frame_in(cx, &frame);
            self.frame = frame;
        }
    }

    fn frame_in(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        let ours = frame.starts_with(&self.mac);
        let Some(ip) = ether::parse(frame).filter(|ip| ours && ip.protocol == ether::TCP) else {
            self.counters.to_rings += 1;
            self.port.push(frame);
            return;
        };
        if !self.link {
            self.counters.without_link += 1;
            return;
        }
        if ip.fragment {
            self.counters.fragments += 1;
            return;
        }
        let Some(segment) = Segment::parse(frame, ip) else {
            self.counters.malformed += 1;
            return;
        };
        let Self { stack, wire, .. } = self;
        let now = cx.now;
        let mut emit = |frame: &[u8]| wire.send(cx, frame);
        if !stack.input(now, frame, &segment, &mut emit) {
            stack.refuse(frame, &segment, &mut emit);
        }
    }

    /// Calls the stack with the wire to send on.
    fn with<R>(
        &mut self,
        cx: &mut DevCx<'_>,
        f: impl FnOnce(&mut Stack, Instant, &mut dyn FnMut(&[u8])) -> R,
    ) -> R {
        let Self { stack, wire, counters, link, .. } = self;
        let now = cx.now;
        f(stack, now, &mut |frame| {
            if *link {
                wire.send(cx, frame);
            } else {
                counters.without_link += 1;
            }
        })
    }
}

/// The engine's transport over frames. See the module.
pub struct FrameTcp(Rc<RefCell<Net>>);

impl TcpEngine for FrameTcp {
    fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        let seed = cx.rng.next_u64(ISN);
        self.0.borrow_mut().with(cx, |stack, now, emit| {
            stack.abort(now, id.0, emit);
            stack.connect(now, id.0, seed, request);
        });
    }

    fn close(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        self.0.borrow_mut().stack.close(id.0);
    }

    fn abort(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        self.0.borrow_mut().with(cx, |stack, now, emit| stack.abort(now, id.0, emit));
    }

    fn send(&mut self, _cx: &mut DevCx<'_>, id: TcpId, bytes: &[u8]) -> usize {
        self.0.borrow_mut().stack.send(id.0, bytes)
    }

    fn recv(
        &mut self,
        cx: &mut DevCx<'_>,
        id: TcpId,
        sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        self.0.borrow_mut().stack.recv(cx.now, id.0, |bytes| sink(cx, bytes))
    }

    fn set_link(&mut self, id: TcpId, link: LinkHeader) {
        self.0.borrow_mut().stack.set_link(id.0, link);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        let net = &mut *self.0.borrow_mut();
        net.pump(cx, |_| false);
        net.with(cx, |stack, now, emit| stack.poll(now, emit));
        while let Some((id, event)) = net.stack.next_event() {
            out.push((TcpId(id), event));
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let net = self.0.borrow();
        Instant::earliest(net.stack.next_deadline(), net.wire.next_deadline())
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        let net = &mut *self.0.borrow_mut();
        net.with(cx, |stack, now, emit| stack.reset(now, emit));
        // What waits for the rings is on the card already, and the next driver is not the one that it is for.
        net.port.clear();
    }

    fn set_carrier(&mut self, up: bool) {
        self.0.borrow_mut().link = up;
    }

    fn supports(&self, _remote: IpAddr) -> bool {
        true
    }
}

/// What is left of the wire for the Ethernet rings. See the module.
pub struct FramePort(Rc<RefCell<Net>>);

impl Wire for FramePort {
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        self.0.borrow_mut().wire.send(cx, frame);
    }

    fn recv(&mut self, cx: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        let net = &mut *self.0.borrow_mut();
        if net.port.is_empty() {
            // The engine may be waiting for the host; the rings do not wait for the engine.
            net.pump(cx, |net| !net.port.is_empty());
        }
        net.port.pop(frame)
    }

    fn link(&self) -> bool {
        self.0.borrow().wire.link()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let net = self.0.borrow();
        if net.port.is_empty() { net.wire.next_deadline() } else { Some(Instant::ZERO) }
    }
}
