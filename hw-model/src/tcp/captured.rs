//! A capture of connections whose transport shows no frames: the segments that would have carried them.
//!
//! Host sockets carry offloaded connections as byte streams, and the kernel's segments have other addresses
//! than the card's. [`Captured`] wraps such a transport and writes into a recording what a tap on the card's
//! port would have seen: the handshake, data in both directions cut at the MSS, FIN and RST, with the path
//! group's MACs, VLAN and addresses, right sequence numbers and right checksums. So a capture of the card
//! opens in Wireshark as iSCSI.
//!
//! What is not modelled: the segments of the kernel themselves with their retransmissions and window updates,
//! and pure acknowledgements of data. Inbound data is recorded when the card consumes it, outbound data when
//! the transport takes it, so the file has the order in which things happened on the card.

use std::net::{IpAddr, SocketAddr};

use bus::Instant;
use bus::pci::DevCx;

use super::{ConnectError, ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId};
use crate::ether::{self, Ip, TCP, TYPE_IPV4, TYPE_IPV6, TYPE_VLAN};
use crate::wire::{Direction, Interface, LARGEST_FRAME, Recording};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Headers at most: Ethernet with a tag, IPv6, TCP without options.
const HEADERS: usize = ether::HEADER + ether::VLAN_TAG + 40 + 20;
/// MSS of a connection for which the host asked for none (RFC 9293, 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// The window that both sides announce is never full: who would announce a smaller one is not modelled.
const WINDOW: u16 = u16::MAX;
const WINDOW_SCALE: u8 = 14;
const TTL: u8 = 64;

/// One connection, as a tap on the port sees it.
struct Flow {
    link: LinkHeader,
    local: SocketAddr,
    remote: SocketAddr,
    mss: u16,
    /// Sequence numbers of what each side sends next.
    ours: u32,
    theirs: u32,
    connected: bool,
    fin_sent: bool,
    /// FIN was sent, and nothing that came back has acknowledged it.
    fin_pending: bool,
    /// IPv4 identification.
    packets: u16,
}

/// A transport whose connections are recorded. See the module.
pub struct Captured<T> {
    tcp: T,
    recording: Recording,
    flows: Vec<Option<Flow>>,
    frame: Vec<u8>,
}

impl<T: TcpEngine> Captured<T> {
    /// Records what passes `tcp`.
    pub fn new(tcp: T, recording: Recording) -> Self {
        Self { tcp, recording, flows: Vec::new(), frame: Vec::with_capacity(LARGEST_FRAME) }
    }

    /// Records what `write` makes of a flow.
    fn tap(&mut self, now: Instant, id: TcpId, write: impl FnOnce(&mut Flow, &mut Tap<'_>)) {
        let Some(flow) = self.flows.get_mut(usize::from(id.0)).and_then(Option::as_mut) else { return };
        write(flow, &mut Tap { now, recording: &self.recording, frame: &mut self.frame });
    }

    fn forget(&mut self, id: TcpId) {
        if let Some(flow) = self.flows.get_mut(usize::from(id.0)) {
            *flow = None;
        }
    }

    /// RST goes out, if there is a connection.
    fn cut(&mut self, now: Instant, id: TcpId) {
        self.tap(now, id, |f, tap| tap.segment(f, Direction::Out, RST | ACK, &[]));
        self.forget(id);
    }

    fn event(&mut self, now: Instant, id: TcpId, event: TcpEvent) {
        self.tap(now, id, |f, tap| match event {
            TcpEvent::Connected => f.accepted(tap),
            TcpEvent::ConnectFailed(ConnectError::Refused) | TcpEvent::Rst => {
                tap.segment(f, Direction::In, RST | ACK, &[]);
            }
            TcpEvent::Fin => f.fin_received(tap),
            TcpEvent::Closed if f.fin_pending => tap.segment(f, Direction::In, ACK, &[]),
            TcpEvent::Closed
            | TcpEvent::Readable
            | TcpEvent::Writable
            | TcpEvent::TimedOut
            | TcpEvent::ConnectFailed(ConnectError::TimedOut) => {}
        });
        match event {
            TcpEvent::ConnectFailed(_) | TcpEvent::Rst | TcpEvent::TimedOut | TcpEvent::Closed => {
                self.forget(id);
            }
            TcpEvent::Connected | TcpEvent::Readable | TcpEvent::Writable | TcpEvent::Fin => {}
        }
    }
}

impl Flow {
    fn new(now: Instant, request: &ConnectRequest) -> Self {
        // A clock of 4 us (RFC 9293, 3.4.1), so that a tuple that is used again looks like a new connection.
        let isn = (now.as_nanos() / 4000) as u32;
        let most = (LARGEST_FRAME - HEADERS) as u16;
        let mss = if request.mss == 0 { DEFAULT_MSS } else { request.mss.min(most) };
        // A host may mix families; what is connected to is the target's.
        let same = request.local.is_ipv4() == request.remote.is_ipv4();
        let unspecified = match request.remote {
            SocketAddr::V4(_) => IpAddr::from([0; 4]),
            SocketAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let local =
            SocketAddr::new(if same { request.local.ip() } else { unspecified }, request.local.port());
        Self {
            link: request.link,
            local,
            remote: request.remote,
            mss,
            ours: isn,
            theirs: !isn,
            connected: false,
            fin_sent: false,
            fin_pending: false,
            packets: 0,
        }
    }

    fn accepted(&mut self, tap: &mut Tap<'_>) {
        self.connected = true;
        tap.segment(self, Direction::In, SYN | ACK, &[]);
        tap.segment(self, Direction::Out, ACK, &[]);
    }

    fn fin_received(&mut self, tap: &mut Tap<'_>) {
        self.fin_pending = false;
        tap.segment(self, Direction::In, FIN | ACK, &[]);
        tap.segment(self, Direction::Out, ACK, &[]);
    }

    fn data(&mut self, tap: &mut Tap<'_>, direction: Direction, bytes: &[u8]) {
        let mut pieces = bytes.chunks(self.mss.into()).peekable();
        while let Some(piece) = pieces.next() {
            let push = if pieces.peek().is_none() { PSH } else { 0 };
            tap.segment(self, direction, ACK | push, piece);
        }
    }
}

/// Where segments go.
struct Tap<'a> {
    now: Instant,
    recording: &'a Recording,
    frame: &'a mut Vec<u8>,
}

impl Tap<'_> {
    /// Records a segment, and moves the sequence number of its sender.
    fn segment(&mut self, flow: &mut Flow, direction: Direction, flags: u8, payload: &[u8]) {
        let f = &mut *self.frame;
        f.clear();
        let LinkHeader { source, destination, vlan } = flow.link;
        let (from, to, from_mac, to_mac) = match direction {
            Direction::Out => (flow.local, flow.remote, source, destination),
            Direction::In => (flow.remote, flow.local, destination, source),
        };
        let (seq, ack) = match direction {
            Direction::Out => (flow.ours, flow.theirs),
            Direction::In => (flow.theirs, flow.ours),
        };
        let mut options = Vec::new();
        if flags & SYN != 0 {
            let [high, low] = flow.mss.to_be_bytes();
            options = vec![2, 4, high, low, 1, 3, 3, WINDOW_SCALE];
        }
        let l4 = 20 + options.len() + payload.len();

        f.extend(to_mac);
        f.extend(from_mac);
        if let Some(tag) = vlan {
            f.extend(TYPE_VLAN.to_be_bytes());
            f.extend(tag.to_be_bytes());
        }
        flow.packets = flow.packets.wrapping_add(1);
        let l3 = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                f.extend(TYPE_IPV4.to_be_bytes());
                let l3 = f.len();
                f.extend([0x45, 0]);
                f.extend((20 + l4 as u16).to_be_bytes());
                f.extend(flow.packets.to_be_bytes());
                // Do not fragment.
                f.extend([0x40, 0, TTL, TCP, 0, 0]);
                f.extend(from.octets());
                f.extend(to.octets());
                l3
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                f.extend(TYPE_IPV6.to_be_bytes());
                let l3 = f.len();
                f.extend([0x60, 0, 0, 0]);
                f.extend((l4 as u16).to_be_bytes());
                f.extend([TCP, TTL]);
                f.extend(from.octets());
                f.extend(to.octets());
                l3
            }
            // `Flow::new` has made them the same family.
            _ => return,
        };
        let at = f.len();
        f.extend(from.port().to_be_bytes());
        f.extend(to.port().to_be_bytes());
        f.extend(seq.to_be_bytes());
        f.extend(if flags & ACK != 0 { ack } else { 0 }.to_be_bytes());
        f.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
        // A window in a SYN is never scaled.
        f.extend(WINDOW.to_be_bytes());
        f.extend([0; 4]);
        f.extend(&options);
        f.extend_from_slice(payload);
        let v4 = from.is_ipv4();
        let ip = Ip { l3, v4, l4: at, protocol: TCP, end: f.len(), fragment: false };
        if v4 {
            ether::fill_ipv4_checksum(f, &ip);
        }
        ether::fill_l4_checksum(f, &ip);
        self.recording.record(self.now, Interface::Offload, direction, f);

        let takes = payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        match direction {
            Direction::Out => flow.ours = flow.ours.wrapping_add(takes),
            Direction::In => flow.theirs = flow.theirs.wrapping_add(takes),
        }
    }
}

impl<T: TcpEngine> TcpEngine for Captured<T> {
    fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        self.cut(cx.now, id);
        let index = usize::from(id.0);
        if self.flows.len() <= index {
            self.flows.resize_with(index + 1, || None);
        }
        self.flows[index] = Some(Flow::new(cx.now, request));
        self.recording.note_port(request.remote.port());
        self.tap(cx.now, id, |f, tap| tap.segment(f, Direction::Out, SYN, &[]));
        self.tcp.connect(cx, id, request);
    }

    fn close(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        self.tap(cx.now, id, |f, tap| {
            if f.connected && !std::mem::replace(&mut f.fin_sent, true) {
                f.fin_pending = true;
                tap.segment(f, Direction::Out, FIN | ACK, &[]);
            }
        });
        self.tcp.close(cx, id);
    }

    fn abort(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        self.cut(cx.now, id);
        self.tcp.abort(cx, id);
    }

    fn send(&mut self, cx: &mut DevCx<'_>, id: TcpId, bytes: &[u8]) -> usize {
        let taken = self.tcp.send(cx, id, bytes);
        self.tap(cx.now, id, |f, tap| f.data(tap, Direction::Out, &bytes[..taken.min(bytes.len())]));
        taken
    }

    fn recv(
        &mut self,
        cx: &mut DevCx<'_>,
        id: TcpId,
        sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        let flow = self.flows.get_mut(usize::from(id.0)).and_then(Option::as_mut);
        let Some(flow) = flow else { return self.tcp.recv(cx, id, sink) };
        let (recording, frame) = (&self.recording, &mut self.frame);
        self.tcp.recv(cx, id, &mut |cx, bytes| {
            let taken = sink(cx, bytes);
            let mut tap = Tap { now: cx.now, recording, frame: &mut *frame };
            flow.data(&mut tap, Direction::In, &bytes[..taken.min(bytes.len())]);
            taken
        })
    }

    fn set_link(&mut self, id: TcpId, link: LinkHeader) {
        if let Some(Some(flow)) = self.flows.get_mut(usize::from(id.0)) {
            flow.link = link;
        }
        self.tcp.set_link(id, link);
    }

    fn set_carrier(&mut self, up: bool) {
        self.tcp.set_carrier(up);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        let before = out.len();
        self.tcp.poll(cx, out);
        for &(id, event) in &out[before..] {
            self.event(cx.now, id, event);
        }
        self.recording.turn(cx.now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        Instant::earliest(self.tcp.next_deadline(), self.recording.next_deadline())
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        for index in 0..self.flows.len() {
            self.cut(cx.now, TcpId(index as u16));
        }
        self.tcp.reset(cx);
    }

    fn supports(&self, remote: IpAddr) -> bool {
        self.tcp.supports(remote)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;
    use crate::testing::{Bench, connect_request};
    use crate::wire::pcapng::testing::File;

    const ID: TcpId = TcpId(3);

    /// A transport that takes so many bytes, hands over what it was given, and reports what it is told to.
    #[derive(Default)]
    struct Scripted {
        room: usize,
        arrived: VecDeque<Vec<u8>>,
        events: Vec<(TcpId, TcpEvent)>,
        carrier: Option<bool>,
    }

    impl TcpEngine for Scripted {
        fn connect(&mut self, _: &mut DevCx<'_>, _: TcpId, _: &ConnectRequest) {}
        fn close(&mut self, _: &mut DevCx<'_>, _: TcpId) {}
        fn abort(&mut self, _: &mut DevCx<'_>, _: TcpId) {}
        fn send(&mut self, _: &mut DevCx<'_>, _: TcpId, bytes: &[u8]) -> usize {
            bytes.len().min(self.room)
        }
        fn recv(
            &mut self,
            cx: &mut DevCx<'_>,
            _: TcpId,
            sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
        ) -> usize {
            let Some(mut bytes) = self.arrived.pop_front() else { return 0 };
            let n = sink(cx, &bytes);
            if n < bytes.len() {
                self.arrived.push_front(bytes.split_off(n));
            }
            n
        }
        fn set_link(&mut self, _: TcpId, _: LinkHeader) {}

        fn poll(&mut self, _: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
            out.append(&mut self.events);
        }
        fn next_deadline(&self) -> Option<Instant> {
            None
        }
        fn reset(&mut self, _: &mut DevCx<'_>) {}
        fn set_carrier(&mut self, up: bool) {
            self.carrier = Some(up);
        }
        fn supports(&self, _: IpAddr) -> bool {
            true
        }
    }

    struct World {
        bench: Bench,
        tcp: Captured<Scripted>,
        recording: Recording,
        file: File,
        request: ConnectRequest,
    }

    /// A segment that was recorded.
    #[derive(Debug, PartialEq)]
    struct Segment {
        outbound: bool,
        flags: u8,
        seq: u32,
        ack: u32,
        payload: Vec<u8>,
        time: u64,
    }

    impl World {
        fn new(local: &str, remote: &str, vlan: Option<u16>) -> Self {
            let file = File::new(usize::MAX);
            let recording = Recording::new(file.clone(), 0).expect("a header");
            let link = LinkHeader { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 9], vlan };
            let request = ConnectRequest {
                local: local.parse().expect("an address"),
                link,
                mss: 100,
                ..connect_request(remote.parse().expect("an address"))
            };
            let tcp = Captured::new(Scripted { room: 250, ..Scripted::default() }, recording.clone());
            let mut bench = Bench::new();
            bench.now = Instant::ZERO + Duration::from_secs(1);
            Self { bench, tcp, recording, file, request }
        }

        fn connect(&mut self) {
            let request = self.request.clone();
            self.bench.with(|cx| self.tcp.connect(cx, ID, &request));
        }

        fn event(&mut self, event: TcpEvent) {
            self.bench.now += Duration::from_micros(1);
            self.tcp.tcp.events.push((ID, event));
            let mut out = Vec::new();
            self.bench.with(|cx| self.tcp.poll(cx, &mut out));
            assert_eq!(out, [(ID, event)], "the card sees what the transport says");
        }

        fn connected() -> Self {
            let mut w = Self::new("10.0.0.2:60000", "192.0.2.1:3260", None);
            w.connect();
            w.event(TcpEvent::Connected);
            w
        }

        /// What was recorded. Addresses and checksums must be right, and every number follow from those
        /// before.
        fn segments(&self) -> Vec<Segment> {
            self.recording.flush();
            let mut next: [Option<u32>; 2] = [None; 2];
            self.file
                .frames()
                .into_iter()
                .map(|(interface, direction, time, frame)| {
                    assert_eq!(interface, Interface::Offload as u32);
                    let outbound = direction == Direction::Out as u32;
                    let LinkHeader { source, destination, vlan } = self.request.link;
                    let macs = if outbound { [destination, source] } else { [source, destination] };
                    assert_eq!(frame[..12], macs.concat());
                    assert_eq!(ether::vlan(&frame), vlan);
                    let ip = ether::parse(&frame).expect("IP");
                    assert_eq!((ip.end, ip.protocol), (frame.len(), TCP));
                    if ip.v4 {
                        assert_eq!(ether::fold(ether::sum(&frame[ip.l3..ip.l4])), 0xffff);
                    }
                    let l4 = &frame[ip.l4..];
                    assert_eq!(ether::fold(ip.pseudo(&frame, l4.len()) + ether::sum(l4)), 0xffff);
                    let ends = [self.request.local, self.request.remote];
                    let [from, to] = if outbound { ends } else { [ends[1], ends[0]] };
                    let octets = |a: SocketAddr| match a.ip() {
                        IpAddr::V4(a) => a.octets().to_vec(),
                        IpAddr::V6(a) => a.octets().to_vec(),
                    };
                    assert_eq!(ip.addresses(&frame), [octets(from), octets(to)].concat());
                    assert_eq!(ether::word(l4, 0), Some(from.port()));
                    assert_eq!(ether::word(l4, 2), Some(to.port()));
                    let long = |at: usize| u32::from_be_bytes([l4[at], l4[at + 1], l4[at + 2], l4[at + 3]]);
                    let (flags, seq, ack) = (l4[13], long(4), long(8));
                    let payload = l4[usize::from(l4[12] >> 4) * 4..].to_vec();
                    let takes = payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
                    let (own, other) = if outbound { (0, 1) } else { (1, 0) };
                    assert!(flags & SYN != 0 || next[own].is_none_or(|n| n == seq), "a gap");
                    assert!(flags & ACK == 0 || next[other].is_none_or(|n| n == ack));
                    next[own] = Some(seq.wrapping_add(takes));
                    Segment { outbound, flags, seq, ack, payload, time }
                })
                .collect()
        }

        fn flags(&self) -> Vec<(bool, u8)> {
            self.segments().iter().map(|s| (s.outbound, s.flags)).collect()
        }
    }

    #[test]
    fn whoever_is_recorded_or_boxed_hears_of_the_carrier() {
        let recording = Recording::new(File::new(usize::MAX), 0).expect("a header");
        let mut tcp = Captured::new(Box::new(Scripted::default()), recording);
        tcp.set_carrier(false);
        assert_eq!(tcp.tcp.carrier, Some(false));
    }

    #[test]
    fn a_connection_is_recorded_from_syn_to_the_last_acknowledgement() {
        for (local, remote, vlan) in [
            ("10.0.0.2:60000", "192.0.2.1:3260", None),
            ("10.0.0.2:60000", "192.0.2.1:3260", Some(0x2005)),
            ("[fd00::2]:60000", "[fd00::1]:3260", None),
            ("[fd00::2]:60000", "[fd00::1]:3260", Some(7)),
        ] {
            let mut w = World::new(local, remote, vlan);
            w.connect();
            w.event(TcpEvent::Connected);
            let data: Vec<u8> = (0..255).collect();
            assert_eq!(w.recording.ports(), [3260]);
            assert_eq!(w.bench.with(|cx| w.tcp.send(cx, ID, &data)), 250);
            w.tcp.tcp.arrived.push_back(data.clone());
            for limit in [130, 125] {
                let n = w.bench.with(|cx| w.tcp.recv(cx, ID, &mut |_, b| b.len().min(limit)));
                assert_eq!(n, limit);
            }
            w.bench.with(|cx| w.tcp.close(cx, ID));
            w.event(TcpEvent::Fin);
            w.event(TcpEvent::Closed);
            let all = w.segments();
            let handshake = [(true, SYN), (false, SYN | ACK), (true, ACK)];
            let data_out = [(true, ACK), (true, ACK), (true, ACK | PSH)];
            let data_in = [(false, ACK), (false, ACK | PSH), (false, ACK), (false, ACK | PSH)];
            let end = [(true, FIN | ACK), (false, FIN | ACK), (true, ACK)];
            assert_eq!(w.flags(), [&handshake[..], &data_out, &data_in, &end].concat());
            let stream = |outbound| {
                let of = all.iter().filter(|s| s.outbound == outbound);
                of.flat_map(|s| s.payload.clone()).collect::<Vec<_>>()
            };
            assert_eq!(stream(true), data[..250]);
            assert_eq!(stream(false), data);
            assert!(all.iter().all(|s| s.payload.len() <= 100));
            assert!(all.is_sorted_by_key(|s| s.time) && all[1].time == 1_000_001_000);
        }
    }

    #[test]
    fn a_peer_that_closes_first_acknowledges_our_fin() {
        let mut w = World::connected();
        w.event(TcpEvent::Fin);
        w.bench.with(|cx| w.tcp.close(cx, ID));
        w.event(TcpEvent::Closed);
        let end = [(false, FIN | ACK), (true, ACK), (true, FIN | ACK), (false, ACK)];
        assert_eq!(w.flags()[3..], end);
        w.bench.with(|cx| w.tcp.abort(cx, ID));
        assert_eq!(w.flags().len(), 7, "what is closed cannot be reset");
    }

    #[test]
    fn every_way_to_break_shows_who_did_it() {
        let refused = TcpEvent::ConnectFailed(ConnectError::Refused);
        for event in [refused, TcpEvent::ConnectFailed(ConnectError::TimedOut)] {
            let mut w = World::new("10.0.0.2:60000", "192.0.2.1:3260", None);
            w.connect();
            w.event(event);
            let answer: &[_] = if event == refused { &[(false, RST | ACK)] } else { &[] };
            assert_eq!(w.flags(), [&[(true, SYN)], answer].concat());
        }
        let mut w = World::connected();
        w.event(TcpEvent::Rst);
        assert_eq!(w.flags()[3..], [(false, RST | ACK)]);
        for cut in [
            |t: &mut Captured<Scripted>, cx: &mut DevCx<'_>| t.abort(cx, ID),
            |t: &mut Captured<Scripted>, cx: &mut DevCx<'_>| t.reset(cx),
        ] {
            let mut w = World::connected();
            w.bench.with(|cx| cut(&mut w.tcp, cx));
            assert_eq!(w.flags()[3..], [(true, RST | ACK)]);
        }
        let mut w = World::connected();
        w.connect();
        assert_eq!(w.flags()[3..], [(true, RST | ACK), (true, SYN)], "an id that is used again");
    }

    #[test]
    fn what_the_host_asks_for_makes_no_frame_that_a_wire_would_not_carry() {
        for (mss, largest) in [(0, 536), (1, 1), (65535, LARGEST_FRAME - HEADERS)] {
            let mut w = World::new("[fd00::2]:60000", "[fd00::1]:3260", Some(1));
            w.request.mss = mss;
            w.tcp.tcp.room = usize::MAX;
            w.connect();
            w.event(TcpEvent::Connected);
            w.bench.with(|cx| w.tcp.send(cx, ID, &[7; 20_000]));
            assert_eq!(w.segments().iter().map(|s| s.payload.len()).max(), Some(largest));
        }
        let mut w = World::new("[fd00::2]:60000", "192.0.2.1:3260", None);
        w.connect();
        w.request.local = "0.0.0.0:60000".parse().expect("an address");
        assert_eq!(w.flags(), [(true, SYN)], "mixed families");
    }

    #[test]
    fn a_batch_is_handed_over_while_the_connection_is_idle() {
        let mut w = World::connected();
        let due = w.tcp.next_deadline().expect("something is recorded");
        assert!(w.file.frames().is_empty());
        w.bench.now = due;
        w.bench.with(|cx| w.tcp.poll(cx, &mut Vec::new()));
        assert_eq!((w.file.frames().len(), w.tcp.next_deadline()), (3, None));
    }
}
