//! A LAN, a card and an iscsid that say anything to the path helper: it comes to rest, its buffers come back,
//! what it sends is bounded by what it was asked, and what it tells the driver makes sense.

use std::net::IpAddr;
use std::time::Duration;

use bus::actor::{Actor, Budget, Cx};
use bus::mem::{PAGE_SIZE, View};
use bus::port::{PortRx, PortTx, port};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::uio::{
    BUFFER_BYTES, BUFFERS_BYTES, EventCount, FromHelper, PathHandle, PathReq, RING_BYTES, RX_BUFFERS,
    STATUS_BYTES, ToHelper, UioMaps, Value,
};
use bus::wake::WakeSet;
use bus::{ActorId, Instant};
use hsi::bcm5709::l2::{L2Fhdr, RxBd, TxBd};
use iscsiuio::helper::Reply;
use iscsiuio::ipc::{PING, Request};
use iscsiuio::log::Level;
use iscsiuio::{Helper, IfaceConfig};

use super::Cursor;

const MAC: [u8; 6] = [0x00, 0x10, 0x18, 0xaa, 0xbb, 0xcc];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// What an input does at most.
const ACTS: usize = 64;
/// Steps that the helper may take until it rests.
const STEPS: u32 = 20_000;

/// Driver, card and LAN of one helper.
struct Rig {
    helper: Helper,
    to: PortTx<ToHelper>,
    from: PortRx<FromHelper>,
    now: Instant,
    rng: Seeded,
    trace: Trace,
    maps: Option<UioMaps>,
    generation: u32,
    rx: (u16, u16),
    tx: (u16, u16),
    sent: u64,
    /// Transaction ids of the DHCP clients, as they were last seen on the wire, and the DHCPv6 client's id.
    xid: [u8; 4],
    xid6: [u8; 3],
    duid: Vec<u8>,
}

fn next_bd(index: u16) -> u16 {
    if index & 0xff == 254 { index.wrapping_add(2) } else { index.wrapping_add(1) }
}

impl Rig {
    fn new(configs: &[&str]) -> Self {
        let configs = configs.iter().map(|c| c.parse::<IfaceConfig>().expect("a sound interface")).collect();
        let wakes = WakeSet::default();
        let (to, inbox) = port("to helper", 256, wakes.register());
        let (outbox, from) = port("from helper", 256, wakes.register());
        Self {
            helper: Helper::new(0, inbox, outbox, configs, Level::Debug),
            to,
            from,
            now: Instant::ZERO,
            rng: Seeded::new(7),
            trace: Trace::off(),
            maps: None,
            generation: 0,
            rx: (0, 0),
            tx: (0, 0),
            sent: 0,
            xid: [0; 4],
            xid6: [0; 3],
            duid: Vec::new(),
        }
    }

    fn tell(&mut self, message: ToHelper) {
        // A port that is full drops; the driver's business.
        let _ = self.to.send(message);
    }

    fn open(&mut self) {
        self.generation += 1;
        let maps = UioMaps {
            generation: self.generation,
            status: View::zeroed(STATUS_BYTES),
            ring: View::zeroed(RING_BYTES),
            buffers: View::zeroed(BUFFERS_BYTES),
            registers: Vec::new(),
            events: EventCount::default(),
        };
        for n in 0..255 {
            let mut tx = TxBd::default();
            tx.set_haddr(0x1_0000);
            maps.ring.write(n * 16, tx.bytes());
            let mut rx = RxBd::default();
            rx.set_haddr(0x1_0000 + ((1 + n % RX_BUFFERS) * BUFFER_BYTES) as u64);
            maps.ring.write(PAGE_SIZE + n * 16, rx.bytes());
        }
        (self.rx, self.tx) = ((0, 0), (0, 0));
        self.maps = Some(maps.clone());
        self.tell(ToHelper::Opened(maps));
    }

    fn write(&mut self, at: u32, value: Value) {
        match (at, value) {
            (0x1_1488, Value::U16(v)) => self.tx.1 = v,
            (0x1_0204, Value::U16(v)) => self.rx.1 = v,
            (0x1_1490, Value::U32(_)) => self.transmit(),
            (0x1_0208 | 0x1828, Value::U32(_)) => {}
            other => panic!("not a register of the helper's: {other:x?}"),
        }
    }

    fn transmit(&mut self) {
        let Some(maps) = &self.maps else { return };
        let mut bd = [0; 16];
        maps.ring.read(usize::from(self.tx.0 & 0xff) * 16, &mut bd);
        let bd = TxBd::from_bytes(bd);
        assert_eq!(bd.haddr(), 0x1_0000, "the driver's address stays");
        assert!(bd.nbytes() >= 60 && usize::from(bd.nbytes()) <= BUFFER_BYTES);
        let mut frame = vec![0; usize::from(bd.nbytes())];
        maps.buffers.read(0, &mut frame);
        self.sent += 1;
        self.tx.0 = next_bd(self.tx.0);
        let shown = if self.tx.0 & 0xff == 0 { self.tx.0.wrapping_sub(1) } else { self.tx.0 };
        maps.status.write(0x0e, &shown.to_le_bytes());
        maps.events.bump();
        self.overhear(&frame);
    }

    /// What a DHCP server learns from a question.
    fn overhear(&mut self, f: &[u8]) {
        if f[12..14] == [0x08, 0x00] && f[23] == 17 && f[36..38] == [0, 67] {
            self.xid.copy_from_slice(&f[46..50]);
        }
        if f[12..14] == [0x86, 0xdd] && f[20] == 17 && f[56..58] == [2, 35] {
            self.xid6.copy_from_slice(&f[63..66]);
            let mut options = &f[66..];
            while let Some((head, rest)) = options.split_at_checked(4) {
                let n = usize::from(u16::from_be_bytes([head[2], head[3]])).min(rest.len());
                if head[..2] == [0, 1] {
                    self.duid = rest[..n].to_vec();
                }
                options = &rest[n..];
            }
        }
    }

    fn deliver(&mut self, header: &L2Fhdr, frame: &[u8]) {
        let Some(maps) = &self.maps else { return };
        if self.rx.0 == self.rx.1 {
            return;
        }
        let at = (1 + usize::from(self.rx.0 & 0xff) % RX_BUFFERS) * BUFFER_BYTES;
        maps.buffers.write(at, header.bytes());
        maps.buffers.write(at + 18, &frame[..frame.len().min(BUFFER_BYTES - 18)]);
        self.rx.0 = next_bd(self.rx.0);
        let shown = if self.rx.0 & 0xff == 0 { self.rx.0.wrapping_sub(1) } else { self.rx.0 };
        maps.status.write(0x16, &shown.to_le_bytes());
        maps.events.bump();
    }

    fn put(&mut self, frame: &[u8]) {
        let mut header = L2Fhdr::default();
        header.l2_fhdr_pkt_len.set((frame.len() + 4) as u16);
        self.deliver(&header, frame);
        self.run(Duration::ZERO);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..STEPS {
            let id = ActorId::new("iscsiuio", 0);
            let mut cx = Cx { now: self.now, actor: id, rng: &mut self.rng, trace: &mut self.trace };
            let progress = self.helper.step(&mut cx, Budget(16));
            let mut any = progress.done > 0;
            while let Some(m) = self.from.recv() {
                any = true;
                self.heard(m);
            }
            while self.helper.log().pop().is_some() {}
            match progress.next {
                _ if any => {}
                Some(n) if n <= self.now => {}
                Some(n) if n <= end => self.now = n,
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the helper does not come to rest");
    }

    fn heard(&mut self, m: FromHelper) {
        match m {
            FromHelper::Open => self.open(),
            FromHelper::Write { generation, at, value } if generation == self.generation => {
                self.write(at, value)
            }
            FromHelper::PathUpdate(u) if u.resolved() => {
                assert!(!u.src.is_unspecified() && !u.src.is_multicast(), "{u:?}");
                assert!(u.pmtu > 0, "{u:?}");
            }
            _ => {}
        }
    }

    fn judge(&self) {
        for index in 0..4 {
            let addresses = self.helper.addresses(index);
            assert!(addresses.len() <= 32, "addresses grow: {addresses:?}");
            for a in addresses {
                assert!(!a.is_multicast() && !a.is_unspecified() && !a.is_loopback(), "{a}");
            }
        }
    }
}

/// The ones' complement sum of `parts`, as if they stood behind each other; all but the last have even
/// lengths.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for two in parts.iter().flat_map(|p| p.chunks(2)) {
        sum += u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn ethernet(c: &mut Cursor<'_>, ethertype: u16) -> Vec<u8> {
    let to = c.pick(&[MAC, MAC, [0xff; 6], ALL_NODES]);
    let from = [2, 0, 0, 0, 0, c.byte()];
    [&to[..], &from, &ethertype.to_be_bytes()].concat()
}

fn ip4(mut head: Vec<u8>, protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = ((20 + payload.len()) as u16).to_be_bytes();
    let mut ip = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&to);
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    head.extend_from_slice(&ip);
    head.extend_from_slice(payload);
    head
}

fn ip6(
    mut head: Vec<u8>,
    protocol: u8,
    from: [u8; 16],
    to: [u8; 16],
    mut payload: Vec<u8>,
    sum_at: usize,
) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let pseudo = [&from[..], &to, &[0, 0], &length, &[0, 0, 0, protocol]].concat();
    payload[sum_at..sum_at + 2].fill(0);
    let sum = checksum(&[&pseudo, &payload]);
    payload[sum_at..sum_at + 2].copy_from_slice(&sum);
    head.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], protocol, 255]);
    head.extend_from_slice(&from);
    head.extend_from_slice(&to);
    head.extend_from_slice(&payload);
    head
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// Our link-local address, and one of others.
fn link_local(last: u8) -> [u8; 16] {
    match last {
        0 => [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0x10, 0x18, 0xff, 0xfe, 0xaa, 0xbb, 0xcc],
        n => [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n],
    }
}

fn arp(c: &mut Cursor<'_>) -> Vec<u8> {
    let mut f = ethernet(c, 0x0806);
    f.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1 + c.byte() % 2]);
    f.extend_from_slice(&[2, 0, 0, 0, 0, c.byte()]);
    f.extend_from_slice(&[10, 0, 0, c.byte() % 8]);
    f.extend_from_slice(&MAC);
    f.extend_from_slice(&[10, 0, 0, c.byte() % 8]);
    f
}

/// Options of DHCPv4: code, length, content; often of a known code.
fn options4(c: &mut Cursor<'_>, out: &mut Vec<u8>) {
    for _ in 0..c.byte() % 12 {
        let code = c.pick(&[53, 1, 3, 51, 54, 58, 59, 52, 26, 28, 0, 255, 121, 12, 56]);
        let content = c.block();
        match code {
            0 | 255 => out.push(code),
            53 => out.extend_from_slice(&[53, 1, 2 + c.byte() % 5]),
            _ => {
                out.extend_from_slice(&[code, content.len() as u8]);
                out.extend_from_slice(content);
            }
        }
    }
    out.push(255);
}

fn dhcp4(c: &mut Cursor<'_>, rig: &Rig) -> Vec<u8> {
    let head = ethernet(c, 0x0800);
    let mut m = vec![0; 240];
    m[..4].copy_from_slice(&[2, 1, 6, 0]);
    m[4..8].copy_from_slice(&rig.xid);
    m[16..20].copy_from_slice(&c.pick(&[
        [10, 0, 0, 3],
        [10, 0, 0, 255],
        [0; 4],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
    ]));
    m[28..34].copy_from_slice(&MAC);
    let overload = c.block();
    m[44..44 + overload.len().min(192)].copy_from_slice(&overload[..overload.len().min(192)]);
    m[236..240].copy_from_slice(&[99, 130, 83, 99]);
    options4(c, &mut m);
    ip4(head, 17, [10, 0, 0, 1], [255; 4], &udp(67, 68, &m))
}

fn icmp6(c: &mut Cursor<'_>) -> Vec<u8> {
    let head = ethernet(c, 0x86dd);
    let kind = c.pick(&[134, 134, 136, 135, 137, 128, 129, 133, 1, 2]);
    let mut m = vec![kind, 0, 0, 0];
    match kind {
        134 => {
            m.extend_from_slice(&c.array::<12>());
            for _ in 0..c.byte() % 4 {
                if c.byte() & 1 == 0 {
                    let (prefix, bits) = ([0xfd, 0, 0, c.byte(), 0, 0, 0, 0], c.byte());
                    m.extend_from_slice(&[3, 4, bits, 0xc0]);
                    m.extend_from_slice(&c.array::<8>());
                    m.extend_from_slice(&[0; 4]);
                    m.extend_from_slice(&prefix);
                    m.extend_from_slice(&[0; 8]);
                } else {
                    m.extend_from_slice(c.block());
                }
            }
        }
        135 | 136 => {
            m.push(c.byte());
            m.extend_from_slice(&[0; 3]);
            m.extend_from_slice(&link_local(c.byte() % 4));
            m.extend_from_slice(&[2, 1, 2, 0, 0, 0, 0, c.byte()]);
        }
        _ => m.extend_from_slice(c.block()),
    }
    let from = if c.byte() & 7 == 7 { [0; 16] } else { link_local(1 + c.byte() % 4) };
    ip6(head, 58, from, link_local(0), m, 2)
}

/// Options of DHCPv6, two levels of them.
fn options6(c: &mut Cursor<'_>, rig: &Rig, depth: u8, out: &mut Vec<u8>) {
    for _ in 0..c.byte() % 6 {
        let code = c.pick(&[1_u8, 2, 3, 5, 13, 6, 7, 14, 25]);
        let mut content = match code {
            1 if c.byte() & 3 != 0 => rig.duid.clone(),
            3 | 25 => c.array::<12>().to_vec(),
            5 => [&[0xfd, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77][..], &c.array::<8>()].concat(),
            _ => c.block().to_vec(),
        };
        if depth > 0 && matches!(code, 3 | 5 | 25) {
            options6(c, rig, depth - 1, &mut content);
        }
        let n = content.len() as u16 + u16::from(c.byte() == 0xff);
        out.extend_from_slice(&[0, code]);
        out.extend_from_slice(&n.to_be_bytes());
        out.extend_from_slice(&content);
    }
}

fn dhcp6(c: &mut Cursor<'_>, rig: &Rig) -> Vec<u8> {
    let head = ethernet(c, 0x86dd);
    let mut m = vec![c.pick(&[2, 7, 7, 10, 1, 13])];
    m.extend_from_slice(&rig.xid6);
    options6(c, rig, 2, &mut m);
    ip6(head, 17, link_local(1), link_local(0), udp(547, 546, &m), 6)
}

fn configs(byte: u8) -> &'static [&'static str] {
    match byte % 4 {
        0 => &["dhcp", "dhcp6"],
        1 => &["ip=10.0.0.3/24,gw=10.0.0.1", "auto6"],
        2 => &["dhcp,vlan=5", "auto6"],
        _ => &["ip=10.0.0.3/24", "ip=fd00::3/64"],
    }
}

/// Frames, ring contents, and the driver's messages.
pub(super) fn frames(input: &[u8]) {
    let mut c = Cursor::new(input);
    let mut r = Rig::new(configs(c.byte()));
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(Duration::from_secs(3));
    for _ in 0..ACTS {
        if c.is_empty() {
            break;
        }
        let before = r.sent;
        let frame = match c.byte() % 16 {
            0 => {
                let ethertype = c.u16();
                let mut f = ethernet(&mut c, ethertype);
                f.extend_from_slice(c.block());
                f
            }
            1 | 2 => arp(&mut c),
            3..=5 => dhcp4(&mut c, &r),
            6..=8 => icmp6(&mut c),
            9 | 10 => dhcp6(&mut c, &r),
            11 => {
                let head = ethernet(&mut c, 0x0800);
                let mut m = [&[8, 0, 0, 0][..], c.block()].concat();
                let sum = checksum(&[&m]);
                m[2..4].copy_from_slice(&sum);
                ip4(head, 1, [10, 0, 0, 9], [10, 0, 0, 3], &m)
            }
            12 => {
                let dst: IpAddr = match c.byte() & 1 {
                    0 => [10, 0, 0, c.byte() % 8].into(),
                    _ => link_local(1 + c.byte() % 4).into(),
                };
                let handle = PathHandle(u64::from(c.byte() % 4));
                r.tell(ToHelper::PathReq(PathReq { handle, dst, vlan: 0, pmtu: 1500 }));
                r.run(Duration::ZERO);
                continue;
            }
            13 => {
                r.run(Duration::from_millis(u64::from(c.u16())));
                // An input of time alone asks for what timers ask: a few frames a second.
                continue;
            }
            14 => {
                // The card writes nonsense: an index, a header.
                let mut header = L2Fhdr::default();
                header.l2_fhdr_pkt_len.set(c.u16());
                header.l2_fhdr_status.set(c.u32());
                r.deliver(&header, c.bytes(64));
                if let (Some(maps), true) = (&r.maps, c.byte() & 3 == 0) {
                    maps.status.write(usize::from(c.byte() & 0x3e), &c.array::<2>());
                    maps.events.bump();
                }
                // Indexes that lie may make it see the same frames again, a ring full of them at most.
                r.run(Duration::ZERO);
                continue;
            }
            _ => {
                if c.byte() & 1 == 0 {
                    r.tell(ToHelper::IfDown);
                }
                r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
                r.run(Duration::ZERO);
                continue;
            }
        };
        r.put(&frame);
        assert!(r.sent - before <= 32, "{} frames after one", r.sent - before);
        r.judge();
    }
    r.run(Duration::from_secs(2));
    r.judge();
}

/// Requests of whoever reaches the socket of iscsid's.
pub(super) fn ipc(input: &[u8]) {
    let mut c = Cursor::new(input);
    let mut r = Rig::new(configs(c.byte()));
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(Duration::from_secs(3));
    for _ in 0..8 {
        if c.is_empty() {
            break;
        }
        // A request is long and mostly zeros: an input says what is not.
        let how = c.byte();
        let command = if how & 1 == 0 { 1 } else { PING };
        let payload = if how & 0x80 != 0 { c.u32() } else { 20_000 } as usize;
        let mut bytes = vec![0; 8 + payload.min(20_000)];
        bytes[..4].copy_from_slice(&if how & 0x40 != 0 { c.u32() } else { command }.to_ne_bytes());
        bytes[4..8].copy_from_slice(&(payload as u32).to_ne_bytes());
        for _ in 0..c.byte() % 24 {
            let at = 8 + usize::from(c.u16()) % 9_000;
            for (b, v) in bytes.iter_mut().skip(at).zip(c.block()) {
                *b = *v;
            }
        }
        if how & 0x20 != 0 {
            bytes.truncate(usize::from(c.u16()));
        }
        if let Ok(request) = Request::decode(&bytes) {
            let id = ActorId::new("iscsiuio", 0);
            let mut cx = Cx { now: r.now, actor: id, rng: &mut r.rng, trace: &mut r.trace };
            if let Reply::Ping(ticket) = r.helper.request(&mut cx, &request) {
                r.run(Duration::from_secs(30));
                assert!(r.helper.ping_result(ticket).is_some(), "a ping without an end");
            }
        }
        r.run(Duration::from_millis(100));
        r.judge();
    }
    assert!(r.helper.interfaces().len() <= iscsiuio::stack::INTERFACES);
}
