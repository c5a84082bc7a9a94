use bus::actor::ActorId;
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::wake::WakeSet;
use hw_model::wire::link::{LinkConfig, LinkControl, link};

use super::*;

const CARD: [u8; 6] = [0, 0x10, 0x18, 1, 2, 3];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];

struct Rig {
    card: LinkEnd,
    station: Station,
    control: LinkControl,
    set: WakeSet,
    rng: Seeded,
    trace: Trace,
    now: Instant,
}

impl Rig {
    fn new(config: StationConfig) -> Self {
        let (card, far, control) = link(LinkConfig::default());
        let set = WakeSet::default();
        let station = Station::new(config, far, set.register());
        Self { card, station, control, set, rng: Seeded::new(1), trace: Trace::off(), now: Instant::ZERO }
    }

    /// The station steps; the frames that it sends.
    fn step(&mut self) -> Vec<Vec<u8>> {
        let actor = ActorId::new("station", 0);
        let mut cx = Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut self.trace };
        self.station.look(&mut cx, &mut Vec::new());
        self.station.flush(&mut cx);
        let (mut frames, mut frame) = (Vec::new(), Vec::new());
        while self.card.recv_at(self.now, &mut frame) {
            frames.push(frame.clone());
        }
        frames
    }

    fn ask(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.card.send_at(self.now, &mut self.rng, frame);
        self.step()
    }
}

fn arp_request(wanted: Ipv4Addr, vlan: Option<u16>) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(CARD);
    if let Some(vlan) = vlan {
        f.extend([0x81, 0]);
        f.extend(vlan.to_be_bytes());
    }
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(CARD);
    f.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0]);
    f.extend(wanted.octets());
    f
}

/// A SYN of the card to port 3260, without checksums.
fn syn(to: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut f = mac.to_vec();
    f.extend(CARD);
    f.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 2]);
    f.extend(to.octets());
    let words = f[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
    let checksum = !(((words & 0xffff) + (words >> 16)) as u16);
    f[24..26].copy_from_slice(&checksum.to_be_bytes());
    f.extend([0xea, 0x60, 0x0c, 0xbc, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
    f
}

fn unchecked() -> StationConfig {
    StationConfig { checksums: Checksums::Skipped, ..StationConfig::default() }
}

#[test]
fn arp_is_answered_for_its_own_address_with_the_mac_of_the_moment() {
    let mut rig = Rig::new(StationConfig::default());
    let answers = rig.ask(&arp_request(rig.station.config().ipv4, None));
    assert_eq!(answers.len(), 1);
    assert_eq!(
        (&answers[0][..6], &answers[0][6..12], answers[0][21]),
        (&CARD[..], &[2, 0, 0, 0, 0, 1][..], 2)
    );
    assert!(rig.ask(&arp_request(Ipv4Addr::new(192, 0, 2, 77), None)).is_empty());

    rig.station.set_mac(OTHER, false);
    assert!(rig.step().is_empty(), "it says nothing");
    let answers = rig.ask(&arp_request(rig.station.config().ipv4, None));
    assert_eq!(answers[0][22..28], OTHER);
    assert_eq!((rig.station.counters().resolutions, rig.station.counters().foreign), (2, 1));
}

#[test]
fn claimed_addresses_are_announced_and_answered_and_carry_nothing() {
    let mut rig = Rig::new(unchecked());
    rig.station.listen("0.0.0.0:3260".parse().unwrap()).unwrap();
    let (ours, v6) = (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
    rig.station.set_claims(vec![ours.into(), v6.into()], true);
    let said = rig.step();
    assert_eq!(
        (said.len(), &said[0][28..32], &said[0][38..42]),
        (2, &[192, 0, 2, 2][..], &[192, 0, 2, 2][..])
    );
    assert_eq!(said[1][22..38], v6.octets());
    let answers = rig.ask(&arp_request(ours, None));
    assert_eq!(answers[0][28..32], [192, 0, 2, 2]);
    assert!(rig.ask(&syn(ours, [2, 0, 0, 0, 0, 1])).is_empty(), "there is nobody behind it");
    rig.station.set_claims(Vec::new(), false);
    assert!(rig.step().is_empty() && rig.ask(&arp_request(ours, None)).is_empty());
}

#[test]
fn an_announced_move_is_heard_by_all() {
    let mut rig = Rig::new(StationConfig::default());
    while rig.set.pop().is_some() {}
    rig.station.set_mac(OTHER, true);
    assert!(rig.set.pop().is_some(), "it is woken");
    let said = rig.step();
    assert_eq!(said.len(), 2);
    assert_eq!(
        (&said[0][..6], &said[0][22..28], &said[0][28..32]),
        (&[0xff; 6][..], &OTHER[..], &[192, 0, 2, 1][..])
    );
    assert_eq!(said[1][..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!((said[1][54], said[1][said[1].len() - 6..].to_vec()), (136, OTHER.to_vec()));
}

#[test]
fn neighbours_are_solicited() {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr};
    let mut rig = Rig::new(StationConfig::default());
    let config = rig.station.config();
    let source = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    let destination = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    for (target, answered) in [(config.ipv6, 1), (answers::link_local(config.mac), 1), (source, 0)] {
        let question = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr: None });
        let mut f = vec![0x33, 0x33, 0xff, 0, 0, 1];
        f.extend(CARD);
        f.extend([0x86, 0xdd]);
        f.resize(14 + 40 + question.buffer_len(), 0);
        let mut packet = Ipv6Packet::new_unchecked(&mut f[14..]);
        Ipv6Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Icmpv6,
            payload_len: question.buffer_len(),
            hop_limit: 255,
        }
        .emit(&mut packet);
        question.emit(
            &source,
            &destination,
            &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
            &ChecksumCapabilities::default(),
        );
        let answers = rig.ask(&f);
        assert_eq!(answers.len(), answered, "{target}");
        if let Some(a) = answers.first() {
            assert_eq!((a[54], &a[..6], &a[80..86]), (136, &CARD[..], &config.mac[..]));
        }
    }
}

#[test]
fn a_tagged_station_hears_its_tag_only() {
    let mut rig = Rig::new(StationConfig { vlan: Some(5), ..StationConfig::default() });
    let ip = rig.station.config().ipv4;
    assert!(rig.ask(&arp_request(ip, None)).is_empty());
    assert!(rig.ask(&arp_request(ip, Some(6))).is_empty());
    let answers = rig.ask(&arp_request(ip, Some(5)));
    assert_eq!(answers[0][12..18], [0x81, 0, 0, 5, 8, 6]);
}

#[test]
fn a_router_has_streams_for_those_behind_it_and_no_arp() {
    let behind = Ipv4Addr::new(203, 0, 113, 9);
    let mut rig = Rig::new(StationConfig { behind: vec![behind.into()], ..unchecked() });
    let mac = rig.station.config().mac;
    rig.station.listen((Ipv4Addr::UNSPECIFIED, 3260).into()).expect("nobody else listens");
    assert!(rig.ask(&arp_request(behind, None)).is_empty());
    assert_eq!(rig.ask(&syn(behind, mac))[0][47], 0x12, "SYN and ACK");
    assert!(rig.ask(&syn(Ipv4Addr::new(203, 0, 113, 10), mac)).is_empty());
    rig.station.set_behind(Vec::new());
    assert!(rig.ask(&syn(behind, mac)).is_empty());
}

#[test]
fn nobody_listens_before_and_after_the_process_and_a_silent_machine_says_nothing() {
    let mut rig = Rig::new(unchecked());
    let (ip, mac) = (rig.station.config().ipv4, rig.station.config().mac);
    let portal = SocketAddr::from((ip, 3260));
    assert_eq!(rig.ask(&syn(ip, mac))[0][47], 0x14, "RST and ACK");
    rig.station.listen(portal).expect("nobody else listens");
    assert_eq!(rig.station.listen(portal), Err(AddressInUse(portal)));
    assert_eq!(rig.ask(&syn(ip, mac))[0][47], 0x12);
    rig.station.kill();
    assert_eq!(rig.step()[0][47] & 4, 4, "its streams are reset");
    assert_eq!(rig.station.connections(), 0);
    assert_eq!(rig.ask(&syn(ip, mac))[0][47], 0x14);
    rig.station.set_silent(true);
    assert!(rig.ask(&syn(ip, mac)).is_empty() && rig.ask(&arp_request(ip, None)).is_empty());
    rig.station.set_silent(false);
    assert_eq!(rig.ask(&arp_request(ip, None)).len(), 1);
    assert_eq!(rig.control.under_way(), 0);
}

#[test]
fn connections_have_a_limit() {
    let mut rig = Rig::new(unchecked());
    let (ip, mac) = (rig.station.config().ipv4, rig.station.config().mac);
    rig.station.listen((ip, 3260).into()).expect("nobody else listens");
    for n in 0..CONNECTIONS as u16 + 2 {
        let mut f = syn(ip, mac);
        f[34..36].copy_from_slice(&(1000 + n).to_be_bytes());
        let flags = rig.ask(&f)[0][47];
        assert_eq!(flags, if usize::from(n) < CONNECTIONS { 0x12 } else { 0x14 }, "{n}");
    }
    assert_eq!(rig.station.counters().full, 2);
    rig.now += hw_model::tcp::CONNECT_TIMEOUT;
    rig.step();
    assert_eq!(rig.station.connections(), 0, "a handshake that is not finished ends");
}

#[test]
fn bytes_that_make_no_sense_are_counted() {
    let mut rig = Rig::new(StationConfig::default());
    let mac = rig.station.config().mac;
    let mut x = 1_u32;
    for n in 0..2000_usize {
        let mut f: Vec<u8> = (0..n % 120)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 24) as u8
            })
            .collect();
        if f.len() > 40 {
            f[..6].copy_from_slice(&mac);
            f[12..14].copy_from_slice([[8, 0], [8, 6], [0x86, 0xdd]][n % 3].as_slice());
            f[14] = [0x45, 0, 0x60][n % 3];
        }
        rig.ask(&f);
    }
    let c = rig.station.counters();
    assert_eq!(c.frames, 2000);
    assert!(c.ignored > 300 && c.foreign > 300, "{c:?}");
}

#[test]
fn a_machine_without_power_keeps_no_place_for_whom_nobody_accepted() {
    let mut rig = Rig::new(unchecked());
    rig.station.listen("192.0.2.1:3260".parse().expect("an address")).expect("nobody else listens");
    // One in its handshake, and one more whose handshake is done and which waits to be accepted.
    let answer = rig.ask(&syn(Ipv4Addr::new(192, 0, 2, 1), rig.station.config().mac));
    let mut second = syn(Ipv4Addr::new(192, 0, 2, 1), rig.station.config().mac);
    second[35] += 1;
    let answers = rig.ask(&second);
    assert_eq!((answer.len(), answers.len()), (1, 1));
    let mut ack = second.clone();
    ack[41] += 1;
    let sequence = u32::from_be_bytes(answers[0][38..42].try_into().expect("four bytes"));
    ack[42..46].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
    ack[47] = 0x10;
    rig.ask(&ack);
    assert_eq!((rig.station.0.borrow().backlog.len(), rig.station.connections()), (1, 2));
    rig.station.power_off();
    assert!(rig.station.accept().is_none());
    let s = rig.station.0.borrow();
    assert_eq!((s.places.len(), s.free.len()), (2, 2));
}
