//! Questions as hosts ask them, and bytes as nobody should.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscRepr,
    UdpPacket, UdpRepr,
};

use super::*;
use crate::testing::Bench;

const HOST: [u8; 6] = [0, 0x10, 0x18, 1, 2, 3];

/// An ARP request of 10.0.0.1 for 10.0.0.`target`.
pub(crate) fn arp_request(source: [u8; 6], sender: u8, target: u8) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(source);
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(source);
    f.extend([10, 0, 0, sender, 0, 0, 0, 0, 0, 0, 10, 0, 0, target]);
    f
}

/// An echo request of 10.0.0.1 to 10.0.0.2 with right checksums.
pub(crate) fn echo_request(source: [u8; 6], sequence: u16, data: &[u8]) -> Vec<u8> {
    let mut f = Responder::mac_of([10, 0, 0, 2]).to_vec();
    f.extend(source);
    f.extend([8, 0, 0x45, 0]);
    f.extend((28 + data.len() as u16).to_be_bytes());
    f.extend([0, 1, 0x40, 0, 64, ICMP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    f.extend([8, 0, 0, 0, 0, 7]);
    f.extend(sequence.to_be_bytes());
    f.extend(data);
    let ip = ether::parse(&f).expect("IP");
    ether::fill_ipv4_checksum(&mut f, &ip);
    let checksum = !ether::fold(ether::sum(&f[ip.l4..ip.end]));
    ether::set_word(&mut f, ip.l4 + 2, checksum);
    f
}

fn ask(r: &mut Responder, frame: &[u8]) -> Option<Vec<u8>> {
    ask_at(r, 0, frame)
}

fn ask_at(r: &mut Responder, second: u64, frame: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bench = Bench::new();
    bench.now = Instant::ZERO + Duration::from_secs(second);
    bench.with(|cx| {
        r.send(cx, frame);
        r.recv(cx, &mut out)
    });
    (!out.is_empty()).then_some(out)
}

#[test]
fn whoever_is_asked_for_exists() {
    let mut r = Responder::default();
    let answer = ask(&mut r, &arp_request(HOST, 1, 77)).expect("an answer");
    let mac = Responder::mac_of([10, 0, 0, 77]);
    assert_eq!((&answer[..6], &answer[6..12]), (&HOST[..], &mac[..]));
    assert_eq!(answer[14..22], [0, 1, 8, 0, 6, 4, 0, 2]);
    assert_eq!((&answer[22..28], &answer[28..32]), (&mac[..], &[10, 0, 0, 77][..]));
    assert_eq!((&answer[32..38], &answer[38..42]), (&HOST[..], &[10, 0, 0, 1][..]));
}

#[test]
fn probes_and_announcements_find_no_conflict() {
    let mut r = Responder::default();
    assert_eq!(ask(&mut r, &arp_request(HOST, 5, 5)), None, "an announcement");
    let mut probe = arp_request(HOST, 0, 5);
    probe[28..32].fill(0);
    assert_eq!(ask(&mut r, &probe), None);
    let mut reply = arp_request(HOST, 1, 5);
    reply[21] = 2;
    assert_eq!(ask(&mut r, &reply), None);
    assert_eq!(r.counters().arps, 0);
}

#[test]
fn echoes_come_back_whole_with_right_checksums() {
    let mut r = Responder::default();
    let data: Vec<u8> = (0..57).collect();
    let question = echo_request(HOST, 3, &data);
    let mut padded = question.clone();
    padded.resize(120, 0xaa);
    for f in [&question, &padded] {
        let answer = ask(&mut r, f).expect("an answer");
        let ip = ether::parse(&answer).expect("IP");
        assert_eq!(answer.len(), question.len(), "without the padding");
        assert_eq!((answer[ip.l4], &answer[ip.l4 + 4..]), (0, &question[ip.l4 + 4..]));
        assert_eq!(ether::fold(ether::sum(&answer[ip.l3..ip.l4])), 0xffff);
        assert_eq!(ether::fold(ether::sum(&answer[ip.l4..])), 0xffff);
        assert_eq!(ip.addresses(&answer), [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(answer[..12], [&question[6..12], &question[..6]].concat());
    }
}

#[test]
fn a_fragmented_echo_adds_up() {
    let mut r = Responder::default();
    let data: Vec<u8> = (0..64).collect();
    let whole = echo_request(HOST, 9, &data);
    let cut = 34 + 40;
    let fragment = |at: usize, bytes: &[u8], more: u16| {
        let mut f = whole[..34].to_vec();
        f.extend(bytes);
        ether::set_word(&mut f, 16, 20 + bytes.len() as u16);
        ether::set_word(&mut f, 20, more | (at / 8) as u16);
        let ip = ether::parse(&f).expect("IP");
        ether::fill_ipv4_checksum(&mut f, &ip);
        f
    };
    let first = ask(&mut r, &fragment(0, &whole[34..cut], 0x2000)).expect("an answer");
    let rest = ask(&mut r, &fragment(40, &whole[cut..], 0)).expect("an answer");
    let message = [&first[34..], &rest[34..]].concat();
    assert_eq!(message[0], 0);
    assert_eq!(ether::fold(ether::sum(&message)), 0xffff);
    assert_eq!(message[8..], data[..]);
}

#[test]
fn damage_and_strangers_are_not_answered() {
    let mut r = Responder::default();
    let mut f = echo_request(HOST, 1, b"abcd");
    f[40] ^= 1;
    assert_eq!(ask(&mut r, &f), None);
    assert_eq!(r.counters().bad_checksums, 1);
    let mut multicast = echo_request(HOST, 1, b"abcd");
    multicast[0] |= 1;
    assert_eq!(ask(&mut r, &multicast), None);
    let whole = arp_request(HOST, 1, 2);
    for n in 0..whole.len() {
        assert_eq!(ask(&mut r, &whole[..n]), None);
    }
}

#[test]
fn the_queue_has_a_limit() {
    let mut r = Responder::default();
    Bench::new().with(|cx| {
        for _ in 0..ANSWERS + 3 {
            r.send(cx, &arp_request(HOST, 1, 2));
        }
    });
    assert_eq!((r.answers.len(), r.counters().dropped, r.counters().arps), (ANSWERS, 3, ANSWERS as u64));
}

/// The frame with a VLAN tag.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut f = frame.to_vec();
    f.splice(12..12, [0x81, 0, (vlan >> 8) as u8, vlan as u8]);
    f
}

#[test]
fn answers_stay_in_the_vlan_of_the_question() {
    let mut r = Responder::default();
    for question in [
        arp_request(HOST, 1, 2),
        echo_request(HOST, 1, b"abcd"),
        solicit_neighbour(LINK_LOCAL, "fd00::2"),
        solicit_router(LINK_LOCAL),
        echo_v6("fd00::3", "fd00::2", b"abcd"),
        dhcp(DhcpMessageType::Discover, HOST, |_| ()),
        dhcp6(SOLICIT, 1, &[]),
    ] {
        let plain = ask(&mut r, &question).expect("an answer");
        let answer = ask(&mut r, &tagged(&question, 0x2007)).expect("an answer");
        assert_eq!(answer, tagged(&plain, 0x2007));
    }
}

const LINK_LOCAL: &str = "fe80::210:18ff:fe01:203";

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// An IPv6 frame of HOST.
fn frame_v6(from: &str, to: &str, protocol: IpProtocol, payload: &[u8], hop_limit: u8) -> Vec<u8> {
    let to = v6(to);
    let mut f =
        if to.is_multicast() { vec![0x33, 0x33, 0, 0, 0, 1] } else { Responder::mac_of_v6(to).to_vec() };
    f.extend(HOST);
    f.extend([0x86, 0xdd]);
    f.resize(14 + 40 + payload.len(), 0);
    emit_ipv6(&mut f[14..], [v6(from), to], protocol, payload.len(), hop_limit).copy_from_slice(payload);
    f
}

fn icmpv6(from: &str, to: &str, repr: &Icmpv6Repr<'_>, hop_limit: u8) -> Vec<u8> {
    let mut message = vec![0; repr.buffer_len()];
    let mut packet = Icmpv6Packet::new_unchecked(&mut message[..]);
    repr.emit(&v6(from), &v6(to), &mut packet, &ChecksumCapabilities::default());
    frame_v6(from, to, IpProtocol::Icmpv6, &message, hop_limit)
}

fn solicit_neighbour(from: &str, target: &str) -> Vec<u8> {
    let repr = NdiscRepr::NeighborSolicit {
        target_addr: v6(target),
        lladdr: (from != "::").then(|| EthernetAddress(HOST).into()),
    };
    icmpv6(from, "ff02::1:ff00:2", &Icmpv6Repr::Ndisc(repr), 255)
}

fn solicit_router(from: &str) -> Vec<u8> {
    icmpv6(from, "ff02::2", &Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None }), 255)
}

fn echo_v6(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    icmpv6(from, to, &Icmpv6Repr::EchoRequest { ident: 7, seq_no: 1, data }, 64)
}

/// What the answer says, with right checksums.
fn parse_icmpv6(frame: &[u8]) -> ([Ipv6Addr; 2], u8, Icmpv6Repr<'_>) {
    let ip = ether::parse(frame).expect("IPv6");
    let [from, to] = addresses_v6(frame, &ip);
    let packet = Icmpv6Packet::new_checked(&frame[ip.l4..ip.end]).expect("ICMPv6");
    let repr = Icmpv6Repr::parse(&from, &to, &packet, &ChecksumCapabilities::default());
    ([from, to], frame[ip.l3 + 7], repr.expect("a right checksum"))
}

#[test]
fn every_neighbour_exists() {
    let mut r = Responder::default();
    let answer = ask(&mut r, &solicit_neighbour(LINK_LOCAL, "fd00::2")).expect("an answer");
    let mac = Responder::mac_of_v6(v6("fd00::2"));
    assert_eq!((&answer[..6], &answer[6..12]), (&HOST[..], &mac[..]));
    let (addresses, hop_limit, Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr })) =
        parse_icmpv6(&answer)
    else {
        panic!("no advertisement")
    };
    assert_eq!((addresses, hop_limit), ([v6("fd00::2"), v6(LINK_LOCAL)], 255));
    assert_eq!((target_addr, flags.bits(), lladdr), (v6("fd00::2"), 0x60, Some(EthernetAddress(mac).into())));
    assert_eq!(r.counters().neighbours, 1);

    // Its own address, and what came through a router, or is cut.
    assert_eq!(ask(&mut r, &solicit_neighbour("::", "fd00::2")), None);
    assert_eq!(ask(&mut r, &solicit_neighbour("fd00::2", "fd00::2")), None);
    let mut far = solicit_neighbour(LINK_LOCAL, "fd00::2");
    far[14 + 7] = 254;
    assert_eq!(ask(&mut r, &far), None);
    let whole = solicit_neighbour(LINK_LOCAL, "fd00::2");
    assert!((0..whole.len()).all(|n| ask(&mut r, &whole[..n]).is_none()));
    assert_eq!(r.counters().neighbours, 1);
}

#[test]
fn the_router_advertises_a_prefix() {
    let mut r = Responder::default();
    for (from, to, mac) in [(LINK_LOCAL, LINK_LOCAL, HOST), ("::", "ff02::1", [0x33, 0x33, 0, 0, 0, 1])] {
        let answer = ask(&mut r, &solicit_router(from)).expect("an answer");
        assert_eq!(answer[..6], mac);
        let (addresses, 255, Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { prefix_info, router_lifetime, .. })) =
            parse_icmpv6(&answer)
        else {
            panic!("no advertisement")
        };
        assert_eq!(addresses, [ROUTER_V6, v6(to)]);
        let prefix = prefix_info.expect("a prefix");
        assert_eq!((prefix.prefix, prefix.prefix_len, prefix.flags.bits()), (PREFIX, 64, 0xc0));
        assert!(router_lifetime.secs() > 0);
    }
    assert_eq!(r.counters().routers, 2);
}

#[test]
fn echo_v6_comes_back() {
    let mut r = Responder::default();
    let answer = ask(&mut r, &echo_v6("fd00::3", "2001:db8::1", b"over the hills")).expect("an answer");
    let (addresses, hop_limit, Icmpv6Repr::EchoReply { ident, seq_no, data }) = parse_icmpv6(&answer) else {
        panic!("no reply")
    };
    assert_eq!((addresses, hop_limit), ([v6("2001:db8::1"), v6("fd00::3")], 64));
    assert_eq!((ident, seq_no, data), (7, 1, &b"over the hills"[..]));
    assert_eq!(ask(&mut r, &echo_v6("fd00::3", "ff02::1", b"all")), None);
    let mut damaged = echo_v6("fd00::3", "fd00::2", b"abcd");
    *damaged.last_mut().expect("bytes") ^= 1;
    assert_eq!(ask(&mut r, &damaged), None);
    assert_eq!((r.counters().echoes, r.counters().bad_checksums), (1, 1));
}

/// A message of a DHCP client; `more` adds to it.
fn dhcp(kind: DhcpMessageType, mac: [u8; 6], more: impl FnOnce(&mut DhcpRepr<'_>)) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut m = DhcpRepr {
        message_type: kind,
        transaction_id: 0x1234_5678,
        secs: 0,
        client_hardware_address: EthernetAddress(mac),
        client_ip: none,
        your_ip: none,
        server_ip: none,
        router: None,
        subnet_mask: None,
        relay_agent_ip: none,
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: Some(&[1, 3, 6]),
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    more(&mut m);
    let mut message = vec![0; m.buffer_len()];
    m.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).expect("room");
    let mut f = vec![0xff; 6];
    f.extend(mac);
    f.extend([8, 0]);
    f.resize(14 + udp4_len(message.len()), 0);
    emit_udp4(&mut f[14..], [(m.client_ip, 68), (Ipv4Addr::BROADCAST, 67)], &message);
    f
}

struct DhcpAnswer {
    kind: DhcpMessageType,
    given: Ipv4Addr,
    lease: Option<u32>,
    router: Option<Ipv4Addr>,
    to: ([u8; 6], Ipv4Addr),
}

/// Asks, and takes the answer apart.
fn lease(r: &mut Responder, second: u64, question: &[u8]) -> Option<DhcpAnswer> {
    let answer = ask_at(r, second, question)?;
    let ip = ether::parse(&answer).expect("IP");
    assert_eq!(ether::fold(ether::sum(&answer[ip.l3..ip.l4])), 0xffff);
    assert_eq!((ether::word(&answer, ip.l4), ether::word(&answer, ip.l4 + 2)), (Some(67), Some(68)));
    let datagram = &answer[ip.l4..ip.end];
    assert_eq!(ether::fold(ip.pseudo(&answer, datagram.len()) + ether::sum(datagram)), 0xffff);
    let packet = DhcpPacket::new_checked(&datagram[8..]).expect("DHCP");
    let m = DhcpRepr::parse(&packet).expect("DHCP");
    assert_eq!((m.transaction_id, m.server_identifier), (0x1234_5678, Some(ROUTER)));
    let to: [u8; 4] = ip.addresses(&answer)[4..].try_into().expect("four");
    Some(DhcpAnswer {
        kind: m.message_type,
        given: m.your_ip,
        lease: m.lease_duration,
        router: m.router,
        to: (answer[..6].try_into().expect("six"), to.into()),
    })
}

fn client(n: u8) -> [u8; 6] {
    [0, 0x10, 0x18, 9, 9, n]
}

fn discover(r: &mut Responder, second: u64, n: u8) -> Option<Ipv4Addr> {
    let offer = lease(r, second, &dhcp(DhcpMessageType::Discover, client(n), |_| ()))?;
    assert_eq!(offer.kind, DhcpMessageType::Offer);
    Some(offer.given)
}

fn request(r: &mut Responder, second: u64, n: u8, ip: Ipv4Addr) -> Option<DhcpAnswer> {
    lease(r, second, &dhcp(DhcpMessageType::Request, client(n), |m| m.requested_ip = Some(ip)))
}

#[test]
fn a_client_gets_a_lease_and_keeps_it() {
    let mut r = Responder::default();
    let ip = discover(&mut r, 0, 1).expect("an offer");
    assert_eq!(ip, FIRST_LEASE);
    let ack = request(&mut r, 0, 1, ip).expect("an answer");
    assert_eq!((ack.kind, ack.given, ack.lease), (DhcpMessageType::Ack, ip, Some(LEASE_S)));
    assert_eq!((ack.router, ack.to), (Some(ROUTER), ([0xff; 6], Ipv4Addr::BROADCAST)));
    let second = discover(&mut r, 1, 2).expect("an offer");
    assert_ne!(second, ip);
    // It starts again, and it renews, without broadcast.
    assert_eq!(discover(&mut r, 2, 1), Some(ip));
    let renewal = dhcp(DhcpMessageType::Request, client(1), |m| (m.client_ip, m.broadcast) = (ip, false));
    let ack = lease(&mut r, 3000, &renewal).expect("an answer");
    assert_eq!((ack.kind, ack.to), (DhcpMessageType::Ack, (client(1), ip)));
    assert_eq!(request(&mut r, 6000, 3, ip).expect("an answer").kind, DhcpMessageType::Nak);
    // Once the lease has ended, another one may have it.
    assert_eq!(request(&mut r, 6601, 3, ip).expect("an answer").kind, DhcpMessageType::Ack);
    assert_eq!(r.counters().dhcp_refused, 1);
}

#[test]
fn leases_of_another_length_end_earlier_and_can_be_taken_back() {
    let mut r = Responder::with_lease(120);
    let ip = discover(&mut r, 0, 1).expect("an offer");
    assert_eq!(request(&mut r, 0, 1, ip).expect("an answer").lease, Some(120));
    assert_eq!(request(&mut r, 119, 2, ip).expect("an answer").kind, DhcpMessageType::Nak);
    r.take_back(Instant::ZERO + Duration::from_secs(119));
    assert_eq!(request(&mut r, 119, 1, ip).expect("an answer").kind, DhcpMessageType::Nak);
    assert_ne!(discover(&mut r, 119, 1), Some(ip), "it gets another one");
    assert_eq!(
        request(&mut r, 300, 1, ip).expect("an answer").kind,
        DhcpMessageType::Ack,
        "later it is free"
    );
}

#[test]
fn questions_to_a_dhcp_server_are_told_from_the_rest() {
    assert!(Responder::is_dhcp(&dhcp(DhcpMessageType::Discover, client(1), |_| ())));
    assert!(!Responder::is_dhcp(&[0; 60]) && !Responder::is_dhcp(&[]));
}

#[test]
fn what_the_server_refuses_or_ignores() {
    let mut r = Responder::default();
    for wrong in [Ipv4Addr::new(192, 168, 1, 5), ROUTER, Ipv4Addr::new(10, 0, 0, 99)] {
        let nak = request(&mut r, 0, 1, wrong).expect("an answer");
        assert_eq!((nak.kind, nak.given, nak.lease), (DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED, None));
    }
    // Another server's offer was taken: ours is free again.
    let ip = discover(&mut r, 0, 1).expect("an offer");
    let elsewhere =
        dhcp(DhcpMessageType::Request, client(1), |m| m.server_identifier = Some([10, 0, 0, 9].into()));
    assert!(lease(&mut r, 0, &elsewhere).is_none());
    assert_eq!(discover(&mut r, 0, 2), Some(ip));
    // An address that somebody uses is not offered again; one that is given back is.
    assert!(lease(&mut r, 0, &dhcp(DhcpMessageType::Decline, client(2), |_| ())).is_none());
    let next = discover(&mut r, 0, 3).expect("an offer");
    assert_ne!(next, ip);
    assert!(lease(&mut r, 0, &dhcp(DhcpMessageType::Release, client(3), |_| ())).is_none());
    assert_eq!(discover(&mut r, 0, 4), Some(next));
    let inform = dhcp(DhcpMessageType::Inform, client(5), |m| m.client_ip = [10, 0, 0, 7].into());
    let ack = lease(&mut r, 0, &inform).expect("an answer");
    assert_eq!((ack.kind, ack.given, ack.lease), (DhcpMessageType::Ack, Ipv4Addr::UNSPECIFIED, None));
    let relayed = dhcp(DhcpMessageType::Discover, client(6), |m| m.relay_agent_ip = ROUTER);
    assert!(lease(&mut r, 0, &relayed).is_none());
}

#[test]
fn the_pool_has_an_end_and_offers_run_out() {
    let mut r = Responder::default();
    for n in 0..LEASES {
        assert!(discover(&mut r, 0, n as u8).is_some());
    }
    assert_eq!(discover(&mut r, 59, 100), None);
    assert_eq!((r.counters().dhcp_exhausted, r.leases.len()), (1, LEASES));
    assert!(discover(&mut r, 60, 100).is_some());
    assert_eq!(r.leases.len(), LEASES);
}

// Message types of DHCPv6 (RFC 8415 7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REPLY: u8 = 7;

/// A question with `more` options behind the client's and the association.
fn dhcp6(kind: u8, iaid: u8, more: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 1, 2, 3, 0, 1, 0, 6, 0, 1, 0, 1, 9, 9];
    message.extend([0, 3, 0, 12, 0, 0, 0, iaid, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(more);
    let mut datagram = vec![0; 8 + message.len()];
    let (from, to) = (v6(LINK_LOCAL), v6("ff02::1:2"));
    UdpRepr { src_port: 546, dst_port: 547 }.emit(
        &mut UdpPacket::new_unchecked(&mut datagram[..]),
        &from.into(),
        &to.into(),
        message.len(),
        |b| b.copy_from_slice(&message),
        &ChecksumCapabilities::default(),
    );
    frame_v6(LINK_LOCAL, "ff02::1:2", IpProtocol::Udp, &datagram, 1)
}

#[test]
fn dhcpv6_gives_each_client_its_address() {
    let mut r = Responder::default();
    let mut given = Vec::new();
    let mut server = Vec::new();
    for (asked, answered) in [(SOLICIT, ADVERTISE), (REQUEST, REPLY)] {
        let question = dhcp6(asked, 77, &server);
        let answer = ask(&mut r, &question).expect("an answer");
        let ip = ether::parse(&answer).expect("IPv6");
        assert_eq!(addresses_v6(&answer, &ip), [ROUTER_V6, v6(LINK_LOCAL)]);
        let datagram = &answer[ip.l4..ip.end];
        assert_eq!(ether::fold(ip.pseudo(&answer, datagram.len()) + ether::sum(datagram)), 0xffff);
        // Header, server (10 bytes), client (6), association of 12 + 4 + 24 bytes.
        let m = &datagram[8..];
        assert_eq!((&m[..4], m.len()), (&[answered, 1, 2, 3][..], 4 + 14 + 10 + 44));
        assert_eq!((&m[4..8], &m[18..28]), (&[0, 2, 0, 10][..], &[0, 1, 0, 6, 0, 1, 0, 1, 9, 9][..]));
        server = m[4..18].to_vec();
        let ia = &m[28..];
        assert_eq!((&ia[..8], &ia[16..20]), (&[0, 3, 0, 40, 0, 0, 0, 77][..], &[0, 5, 0, 24][..]));
        assert_eq!(ia[20..28], PREFIX.octets()[..8]);
        assert_eq!(ia[36..], [LEASE_S.to_be_bytes(), LEASE_S.to_be_bytes()].concat());
        given.push(ia[20..36].to_vec());
    }
    assert_eq!(given[0], given[1]);
    let other = dhcp6(REQUEST, 1, &[0, 2, 0, 1, 9]);
    assert_eq!(ask(&mut r, &other), None, "another server was meant");
    assert_eq!(ask(&mut r, &dhcp6(CONFIRM, 1, &[])), None);
    for cut in [&[0, 2][..], &[0, 2, 0, 5, 9], &[0xff; 4]] {
        assert_eq!(ask(&mut r, &dhcp6(SOLICIT, 1, cut)), None, "a list that is cut off");
    }
    assert_eq!(r.counters().dhcp, 2);
}

/// Questions to damage.
fn questions() -> Vec<Vec<u8>> {
    let plain = vec![
        arp_request(HOST, 1, 2),
        echo_request(HOST, 1, b"abcd"),
        solicit_neighbour(LINK_LOCAL, "fd00::2"),
        solicit_router(LINK_LOCAL),
        echo_v6("fd00::3", "fd00::2", b"abcd"),
        dhcp(DhcpMessageType::Discover, HOST, |_| ()),
        dhcp(DhcpMessageType::Request, HOST, |m| m.requested_ip = Some(FIRST_LEASE)),
        dhcp6(SOLICIT, 1, &[]),
        dhcp6(RENEW, 1, &[]),
    ];
    plain.iter().map(|f| tagged(f, 5)).chain(plain.iter().cloned()).collect()
}

/// Makes the checksums of layer 4 right, so that damage is not just noticed there.
fn repair(frame: &mut [u8]) {
    let Some(ip) = ether::parse(frame) else { return };
    if ip.v4 {
        ether::fill_ipv4_checksum(frame, &ip);
    }
    ether::fill_l4_checksum(frame, &ip);
    if !ip.v4 && ip.protocol == ICMPV6 && ip.end >= ip.l4 + 4 {
        ether::set_word(frame, ip.l4 + 2, 0);
        let sum = ip.pseudo(frame, ip.end - ip.l4) + ether::sum(&frame[ip.l4..ip.end]);
        ether::set_word(frame, ip.l4 + 2, !ether::fold(sum));
    }
}

proptest! {
    #[test]
    fn damaged_questions_do_no_harm(
        which in 0..18_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        repaired: bool,
    ) {
        let mut f = questions().swap_remove(which);
        for (at, value) in damage {
            let at = at.index(f.len());
            f[at] = value;
        }
        if let Some(cut) = cut {
            f.truncate(cut.index(f.len()));
        }
        if repaired {
            repair(&mut f);
        }
        let mut r = Responder::default();
        if let Some(answer) = ask(&mut r, &f) {
            prop_assert!(answer.len() <= f.len() + 400);
        }
        prop_assert!(r.leases.len() <= 1);
    }

    #[test]
    fn any_bytes_do_no_harm(kind in prop::sample::select(vec![0x0800_u16, 0x0806, 0x86dd, 0x8100]), mut f in prop::collection::vec(any::<u8>(), 14..200)) {
        ether::set_word(&mut f, 12, kind);
        let mut r = Responder::default();
        ask(&mut r, &f);
        repair(&mut f);
        ask(&mut r, &f);
    }
}
