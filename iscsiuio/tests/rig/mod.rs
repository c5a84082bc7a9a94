//! A driver and a card for one helper, in virtual time, and packets written by hand on the other side.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bus::actor::{Actor, Budget, Cx};
use bus::mem::{PAGE_SIZE, View};
use bus::port::{PortRx, PortTx, port};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::uio::{
    BUFFER_BYTES, BUFFERS_BYTES, EventCount, FromHelper, OpenRefused, PathHandle, PathReq, PathUpdate,
    RING_BYTES, RX_BUFFERS, STATUS_BYTES, ToHelper, UioMaps, Value,
};
use bus::wake::WakeSet;
use bus::{ActorId, Instant, Progress};
use hsi::bcm5709::l2::{L2_FHDR_STATUS_L2_VLAN_TAG, L2Fhdr, RxBd, TX_BD_FLAGS_VLAN_TAG, TxBd};
use iscsiuio::ipc::{self, field};
use iscsiuio::log::Level;
use iscsiuio::{Helper, IfaceConfig};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

pub(crate) type Mac = [u8; 6];
pub(crate) const MAC: Mac = [0x00, 0x10, 0x18, 0xaa, 0xbb, 0xcc];
pub(crate) const PEER: Mac = [2, 0, 0, 0, 0, 1];
pub(crate) const OTHER: Mac = [2, 0, 0, 0, 0, 2];
pub(crate) const BROADCAST: Mac = [0xff; 6];
pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

/// A frame that the helper sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) bytes: Vec<u8>,
    pub(crate) tci: Option<u16>,
}

/// The ring as the driver sets it up and the card works on it.
pub(crate) struct Card {
    pub(crate) maps: UioMaps,
    rx_consumer: u16,
    rx_producer: u16,
    tx_consumer: u16,
    tx_producer: u16,
    /// No interrupt tells that a frame has left.
    pub(crate) quiet: bool,
    /// Frames stay in flight.
    pub(crate) stuck: bool,
    pub(crate) sort: Vec<u32>,
}

fn step(index: u16) -> u16 {
    if index & 0xff == 254 { index.wrapping_add(2) } else { index.wrapping_add(1) }
}

impl Card {
    pub(crate) fn new(generation: u32) -> Self {
        let maps = UioMaps {
            generation,
            status: View::zeroed(STATUS_BYTES),
            ring: View::zeroed(RING_BYTES),
            buffers: View::zeroed(BUFFERS_BYTES),
            registers: Vec::new(),
            events: EventCount::default(),
        };
        Self::over(maps)
    }

    /// On memory that is somewhere already.
    pub(crate) fn over(maps: UioMaps) -> Self {
        for n in 0..255 {
            let mut tx = TxBd::default();
            tx.set_haddr(0x1_0000);
            maps.ring.write(n * 16, tx.bytes());
            let mut rx = RxBd::default();
            rx.set_haddr(0x1_0000 + ((1 + n % RX_BUFFERS) * BUFFER_BYTES) as u64);
            maps.ring.write(PAGE_SIZE + n * 16, rx.bytes());
        }
        Self {
            maps,
            rx_consumer: 0,
            rx_producer: 0,
            tx_consumer: 0,
            tx_producer: 0,
            quiet: false,
            stuck: false,
            sort: Vec::new(),
        }
    }

    /// Receive BDs that are posted.
    pub(crate) fn posted(&self) -> u16 {
        let (mut n, mut at) = (0, self.rx_consumer);
        while at != self.rx_producer {
            (n, at) = (n + 1, step(at));
        }
        n
    }

    pub(crate) fn write(&mut self, at: u32, value: Value, now: Instant, sent: &mut Vec<Sent>) {
        match (at, value) {
            (0x1_1488, Value::U16(v)) => self.tx_producer = v,
            (0x1_1490, Value::U32(_)) => self.transmit(now, sent),
            (0x1_0204, Value::U16(v)) => self.rx_producer = v,
            (0x1_0208, Value::U32(_)) => {}
            (0x1828, Value::U32(v)) => self.sort.push(v),
            other => panic!("not a register of the helper's: {other:x?}"),
        }
    }

    fn transmit(&mut self, now: Instant, sent: &mut Vec<Sent>) {
        if self.stuck {
            return;
        }
        let mut bd = [0; 16];
        self.maps.ring.read(usize::from(self.tx_consumer & 0xff) * 16, &mut bd);
        let bd = TxBd::from_bytes(bd);
        assert_eq!(bd.haddr(), 0x1_0000, "the driver's address stays");
        assert_eq!(bd.flags() & 0xc0, 0xc0, "one BD is a whole frame");
        assert!(bd.nbytes() >= 60 && usize::from(bd.nbytes()) <= BUFFER_BYTES);
        let mut bytes = vec![0; usize::from(bd.nbytes())];
        self.maps.buffers.read(0, &mut bytes);
        let tci = (u32::from(bd.flags()) & TX_BD_FLAGS_VLAN_TAG != 0).then(|| bd.vlan_tag());
        sent.push(Sent { at: now, bytes, tci });
        self.tx_consumer = step(self.tx_consumer);
        assert_eq!(self.tx_consumer, self.tx_producer, "one frame in flight");
        // The chip shows the link BD when it has not followed it yet.
        let shown =
            if self.tx_consumer & 0xff == 0 { self.tx_consumer.wrapping_sub(1) } else { self.tx_consumer };
        self.maps.status.write(0x0e, &shown.to_le_bytes());
        if !self.quiet {
            self.maps.events.bump();
        }
    }

    /// Delivers a frame as the chip does. False: no buffer.
    pub(crate) fn deliver(&mut self, frame: &[u8], tci: Option<u16>) -> bool {
        let mut header = L2Fhdr::default();
        header.l2_fhdr_pkt_len.set((frame.len() + 4) as u16);
        if let Some(t) = tci {
            header.l2_fhdr_status.set(L2_FHDR_STATUS_L2_VLAN_TAG);
            header.l2_fhdr_vlan_tag.set(t);
        }
        self.deliver_raw(&header, frame)
    }

    pub(crate) fn deliver_raw(&mut self, header: &L2Fhdr, frame: &[u8]) -> bool {
        if self.rx_consumer == self.rx_producer {
            return false;
        }
        let at = (1 + usize::from(self.rx_consumer & 0xff) % RX_BUFFERS) * BUFFER_BYTES;
        self.maps.buffers.write(at, header.bytes());
        self.maps.buffers.write(at + 18, &frame[..frame.len().min(BUFFER_BYTES - 18)]);
        self.rx_consumer = step(self.rx_consumer);
        let shown =
            if self.rx_consumer & 0xff == 0 { self.rx_consumer.wrapping_sub(1) } else { self.rx_consumer };
        self.maps.status.write(0x16, &shown.to_le_bytes());
        self.maps.events.bump();
        true
    }

    pub(crate) fn shut(&self) {
        self.maps.ring.write(PAGE_SIZE, &[0; 16]);
    }
}

pub(crate) type Responder = Box<dyn FnMut(&Sent) -> Vec<(Vec<u8>, Option<u16>)>>;

/// Helper, driver, card, LAN.
pub(crate) struct Rig {
    pub(crate) helper: Helper,
    pub(crate) to: PortTx<ToHelper>,
    pub(crate) to_rx: PortRx<ToHelper>,
    pub(crate) from_tx: PortTx<FromHelper>,
    pub(crate) from: PortRx<FromHelper>,
    pub(crate) now: Instant,
    pub(crate) rng: Seeded,
    pub(crate) trace: Trace,
    pub(crate) card: Option<Card>,
    pub(crate) generation: u32,
    pub(crate) refuse: bool,
    /// Open is not answered.
    pub(crate) mute: bool,
    pub(crate) sent: Vec<Sent>,
    pub(crate) updates: Vec<(Instant, PathUpdate)>,
    pub(crate) closes: Vec<u32>,
    pub(crate) opens: u32,
    pub(crate) hellos: u32,
    pub(crate) responder: Option<Responder>,
    pub(crate) mtu: u16,
}

impl Rig {
    pub(crate) fn new(configs: &[&str]) -> Self {
        let configs = configs.iter().map(|c| c.parse::<IfaceConfig>().expect("a good interface")).collect();
        let set = WakeSet::default();
        let (to, to_rx) = port("to helper", 256, set.register());
        let (from_tx, from) = port("from helper", 256, set.register());
        Self {
            helper: Helper::new(0, to_rx.clone(), from_tx.clone(), configs, Level::Debug),
            to,
            to_rx,
            from_tx,
            from,
            now: Instant::ZERO,
            rng: Seeded::new(7),
            trace: Trace::off(),
            card: None,
            generation: 0,
            refuse: false,
            mute: false,
            sent: Vec::new(),
            updates: Vec::new(),
            closes: Vec::new(),
            opens: 0,
            hellos: 0,
            responder: None,
            mtu: 1500,
        }
    }

    /// One that is up, with its address acquired if it is static.
    pub(crate) fn up(configs: &[&str]) -> Self {
        let mut rig = Self::new(configs);
        rig.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
        rig.run(5000);
        rig.sent.clear();
        rig
    }

    pub(crate) fn tell(&mut self, m: ToHelper) {
        self.to.send(m).expect("room");
    }

    /// A path request.
    pub(crate) fn want(&mut self, handle: u64, dst: impl Into<IpAddr>) {
        self.tell(ToHelper::PathReq(PathReq {
            handle: PathHandle(handle),
            dst: dst.into(),
            vlan: 0,
            pmtu: 1500,
        }));
    }

    /// Runs for some milliseconds of virtual time.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..100_000 {
            let progress = self.step();
            if self.act() || progress.done > 0 {
                continue;
            }
            match progress.next {
                Some(n) if n <= self.now => continue,
                Some(n) if n <= end => self.now = n,
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the helper does not come to rest");
    }

    pub(crate) fn step(&mut self) -> Progress {
        let id = ActorId::new("iscsiuio", 0);
        let mut cx = Cx { now: self.now, actor: id, rng: &mut self.rng, trace: &mut self.trace };
        self.helper.step(&mut cx, Budget(16))
    }

    /// With the context that a request needs.
    pub(crate) fn request(&mut self, request: &ipc::Request) -> iscsiuio::helper::Reply {
        let id = ActorId::new("iscsiuio", 0);
        let mut cx = Cx { now: self.now, actor: id, rng: &mut self.rng, trace: &mut self.trace };
        self.helper.request(&mut cx, request)
    }

    /// What the driver and the LAN do. Whether anything happened.
    fn act(&mut self) -> bool {
        let mut any = false;
        let before = self.sent.len();
        while let Some(m) = self.from.recv() {
            any = true;
            match m {
                FromHelper::Hello => self.hellos += 1,
                FromHelper::PathUpdate(u) => self.updates.push((self.now, u)),
                FromHelper::Open => {
                    self.opens += 1;
                    if self.mute {
                    } else if self.refuse {
                        self.to.send(ToHelper::OpenRefused(OpenRefused::Down)).expect("room");
                    } else {
                        self.generation += 1;
                        let card = Card::new(self.generation);
                        self.to.send(ToHelper::Opened(card.maps.clone())).expect("room");
                        self.card = Some(card);
                    }
                }
                FromHelper::Close { generation } => self.closes.push(generation),
                FromHelper::Write { generation, at, value } => {
                    if let Some(c) = self.card.as_mut().filter(|c| c.maps.generation == generation) {
                        c.write(at, value, self.now, &mut self.sent);
                    }
                }
            }
        }
        if let Some(mut f) = self.responder.take() {
            let new: Vec<Sent> = self.sent[before..].to_vec();
            for (frame, tci) in new.iter().flat_map(&mut f) {
                self.put_tagged(&frame, tci);
                any = true;
            }
            self.responder = Some(f);
        }
        any
    }

    /// A frame arrives; buffers are given time to come back.
    pub(crate) fn put_tagged(&mut self, frame: &[u8], tci: Option<u16>) {
        for _ in 0..8 {
            if self.card.as_mut().expect("an open ring").deliver(frame, tci) {
                return;
            }
            self.step();
            while let Some(m) = self.from.recv() {
                if let FromHelper::Write { at, value, .. } = m {
                    self.card.as_mut().expect("open").write(at, value, self.now, &mut self.sent);
                }
            }
        }
        panic!("the helper posts no buffers");
    }

    pub(crate) fn put(&mut self, frame: &[u8]) {
        self.put_tagged(frame, None);
        self.run(0);
    }

    /// Frames sent since the last call.
    pub(crate) fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// ARP packets sent since the last call: operation, sender, target, destination MAC.
    pub(crate) fn arps(&mut self) -> Vec<(ArpOperation, Ipv4Addr, Ipv4Addr, Mac)> {
        self.take().iter().filter_map(|s| arp_of(&s.bytes)).collect()
    }

    pub(crate) fn lines(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some((_, line)) = self.helper.log().pop() {
            out.push(line);
        }
        out
    }

    pub(crate) fn said(&mut self, part: &str) -> bool {
        self.lines().iter().any(|l| l.contains(part))
    }
}

pub(crate) fn eth(from: Mac, to: Mac, ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut b = vec![0; 14 + payload.len()];
    EthernetRepr { src_addr: EthernetAddress(from), dst_addr: EthernetAddress(to), ethertype }
        .emit(&mut EthernetFrame::new_unchecked(&mut b[..]));
    b[14..].copy_from_slice(payload);
    b
}

pub(crate) fn arp(op: ArpOperation, from: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr), to: Mac) -> Vec<u8> {
    let mut b = [0; 28];
    ArpRepr::EthernetIpv4 {
        operation: op,
        source_hardware_addr: EthernetAddress(from.0),
        source_protocol_addr: from.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    }
    .emit(&mut ArpPacket::new_unchecked(&mut b[..]));
    eth(from.0, to, EthernetProtocol::Arp, &b)
}

pub(crate) fn arp_of(frame: &[u8]) -> Option<(ArpOperation, Ipv4Addr, Ipv4Addr, Mac)> {
    let f = EthernetFrame::new_checked(frame).ok()?;
    if f.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    match ArpRepr::parse(&ArpPacket::new_checked(f.payload()).ok()?).ok()? {
        ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } => {
            Some((operation, source_protocol_addr, target_protocol_addr, f.dst_addr().0))
        }
        _ => None,
    }
}

/// A host that answers ARP requests for its address.
pub(crate) fn answers_arp(ip: Ipv4Addr, mac: Mac) -> Responder {
    Box::new(move |s| {
        let Some((ArpOperation::Request, from, target, _)) = arp_of(&s.bytes) else { return Vec::new() };
        let to: Mac = s.bytes[6..12].try_into().expect("six bytes");
        if target != ip || s.bytes[0] & 1 == 0 && s.bytes[..6] != mac {
            return Vec::new();
        }
        vec![(arp(ArpOperation::Reply, (mac, ip), (to, from), to), s.tci)]
    })
}

pub(crate) fn icmp4(from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), icmp: &Icmpv4Repr<'_>) -> Vec<u8> {
    let mut b = vec![0; 20 + icmp.buffer_len()];
    let caps = ChecksumCapabilities::default();
    Ipv4Repr {
        src_addr: from.1,
        dst_addr: to.1,
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: 64,
    }
    .emit(&mut Ipv4Packet::new_unchecked(&mut b[..]), &caps);
    icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut b[20..]), &caps);
    eth(from.0, to.0, EthernetProtocol::Ipv4, &b)
}

pub(crate) fn icmp6(
    from: (Mac, Ipv6Addr),
    to: (Mac, Ipv6Addr),
    hop_limit: u8,
    icmp: &Icmpv6Repr<'_>,
) -> Vec<u8> {
    let mut b = vec![0; 40 + icmp.buffer_len()];
    let caps = ChecksumCapabilities::default();
    Ipv6Repr {
        src_addr: from.1,
        dst_addr: to.1,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit,
    }
    .emit(&mut Ipv6Packet::new_unchecked(&mut b[..]));
    icmp.emit(&from.1, &to.1, &mut Icmpv6Packet::new_unchecked(&mut b[40..]), &caps);
    eth(from.0, to.0, EthernetProtocol::Ipv6, &b)
}

/// Source, destination, hop limit and ICMPv6 message of a frame, handed to `f`.
pub(crate) fn icmp6_of<T>(
    frame: &[u8],
    f: impl FnOnce(Ipv6Addr, Ipv6Addr, u8, &Icmpv6Repr<'_>) -> T,
) -> Option<T> {
    let e = EthernetFrame::new_checked(frame).ok()?;
    if e.ethertype() != EthernetProtocol::Ipv6 {
        return None;
    }
    let p = Ipv6Packet::new_checked(e.payload()).ok()?;
    let ip = Ipv6Repr::parse(&p).ok()?;
    if ip.next_header != IpProtocol::Icmpv6 {
        return None;
    }
    let p = Icmpv6Packet::new_checked(p.payload()).ok()?;
    let icmp = Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &p, &ChecksumCapabilities::default()).ok()?;
    Some(f(ip.src_addr, ip.dst_addr, ip.hop_limit, &icmp))
}

pub(crate) fn udp(from: (Mac, IpAddr, u16), to: (Mac, IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: from.2, dst_port: to.2 };
    let length = 8 + payload.len();
    let (s, d) = (IpAddress::from(from.1), IpAddress::from(to.1));
    let (head, kind) = match (from.1, to.1) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let mut b = vec![0; 20];
            let next_header = IpProtocol::Udp;
            b.resize(20 + length, 0);
            Ipv4Repr { src_addr, dst_addr, next_header, payload_len: length, hop_limit: 64 }
                .emit(&mut Ipv4Packet::new_unchecked(&mut b[..]), &caps);
            (b, EthernetProtocol::Ipv4)
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let mut b = vec![0; 40 + length];
            let next_header = IpProtocol::Udp;
            Ipv6Repr { src_addr, dst_addr, next_header, payload_len: length, hop_limit: 64 }
                .emit(&mut Ipv6Packet::new_unchecked(&mut b[..]));
            (b, EthernetProtocol::Ipv6)
        }
        _ => panic!("one family"),
    };
    let mut b = head;
    let at = b.len() - length;
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut b[at..]),
        &s,
        &d,
        payload.len(),
        |p| p.copy_from_slice(payload),
        &caps,
    );
    eth(from.0, to.0, kind, &b)
}

/// The payload of a datagram to a port.
pub(crate) fn udp_of(frame: &[u8], port: u16) -> Option<Vec<u8>> {
    let e = EthernetFrame::new_checked(frame).ok()?;
    let payload = match e.ethertype() {
        EthernetProtocol::Ipv4 => {
            let p = Ipv4Packet::new_checked(e.payload()).ok()?;
            (p.next_header() == IpProtocol::Udp && p.verify_checksum()).then(|| p.payload().to_vec())?
        }
        EthernetProtocol::Ipv6 => {
            let p = Ipv6Packet::new_checked(e.payload()).ok()?;
            (p.next_header() == IpProtocol::Udp).then(|| p.payload().to_vec())?
        }
        _ => return None,
    };
    let u = UdpPacket::new_checked(&payload[..]).ok()?;
    (u.dst_port() == port).then(|| u.payload().to_vec())
}

/// A request with text and numbers at their places.
pub(crate) fn request_bytes(command: u32, texts: &[(field::Field, &str)], vlan: u16, mtu: u16) -> Vec<u8> {
    let payload = if command == ipc::PING { ipc::PING_PAYLOAD } else { ipc::IFACE_REC };
    let mut b = vec![0; 8 + payload];
    b[..4].copy_from_slice(&command.to_ne_bytes());
    b[4..8].copy_from_slice(&(payload as u32).to_ne_bytes());
    for ((at, _), text) in texts {
        b[8 + at..][..text.len()].copy_from_slice(text.as_bytes());
    }
    b[8 + 8386..][..2].copy_from_slice(&vlan.to_ne_bytes());
    b[8 + 8550..][..2].copy_from_slice(&mtu.to_ne_bytes());
    b
}
