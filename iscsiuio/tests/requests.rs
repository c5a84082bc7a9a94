//! iscsid's requests: layouts, decoding rules, answers, pings.
#![allow(clippy::unwrap_used, reason = "scripts of tests are not test functions to clippy")]

mod rig;

use bus::uio::ToHelper;
use iscsiuio::helper::{Reply, State};
use iscsiuio::iface::{Addressing, V6Mode};
use iscsiuio::ipc::{self, BadRequest, IfaceRecord, Outcome, PingStatus, Request, field};
use proptest::prelude::*;
use rig::*;
use smoltcp::wire::Icmpv4Repr;

/// The offsets of the specification, written down a second time.
const OFFSETS: &[(&str, usize, usize)] = &[
    ("NAME", 16, 65),
    ("IFACE_NUM", 84, 4),
    ("NETDEV", 88, 16),
    ("IPADDRESS", 104, 1025),
    ("SUBNET_MASK", 1129, 1025),
    ("GATEWAY", 2154, 1025),
    ("BOOTPROTO", 3179, 80),
    ("IPV6_LINKLOCAL", 3259, 1025),
    ("IPV6_ROUTER", 4284, 1025),
    ("IPV6_AUTOCFG", 5309, 1025),
    ("LINKLOCAL_AUTOCFG", 6334, 1025),
    ("ROUTER_AUTOCFG", 7359, 1025),
    ("PREFIX_LEN", 8384, 1),
    ("VLAN_ID", 8386, 2),
    ("VLAN_PRIORITY", 8388, 1),
    ("VLAN_STATE", 8389, 80),
    ("STATE", 8469, 80),
    ("MTU", 8550, 2),
    ("PORT", 8552, 2),
    ("HWADDRESS", 11172, 18),
    ("TRANSPORT_NAME", 11190, 16),
    ("ALIAS", 11206, 256),
    ("INAME", 11462, 256),
];

fn record(texts: &[(field::Field, &str)]) -> IfaceRecord {
    match Request::decode(&request_bytes(1, texts, 0, 0)).unwrap() {
        Request::GetIface(r) => r,
        other => panic!("{other:?}"),
    }
}

fn get(texts: &[(field::Field, &str)]) -> Request {
    Request::decode(&request_bytes(1, texts, 0, 0)).unwrap()
}

#[test]
fn every_offset_is_that_of_the_specification() {
    let ours: Vec<_> = field::ALL.iter().map(|(name, (at, bytes))| (*name, *at, *bytes)).collect();
    assert_eq!(ours, OFFSETS);
    assert_eq!((ipc::GET_IFACE_BYTES, ipc::PING_BYTES, ipc::RESPONSE), (11_728, 11_860, 12));
    assert_eq!((ipc::PING_DST, ipc::PING_LENGTH), (11_728, 11_856));
    assert_eq!(ipc::SOCKET.len(), 29);
}

#[test]
fn incomplete_and_impossible_requests() {
    let whole = request_bytes(1, &[], 0, 0);
    for n in [0, 7, 8, whole.len() - 1] {
        assert_eq!(Request::decode(&whole[..n]), Err(BadRequest::Incomplete));
    }
    let head = |c: u32, n: u32| [c.to_ne_bytes(), n.to_ne_bytes()].concat();
    assert_eq!(Request::decode(&head(1, 11_865)), Err(BadRequest::TooLarge(11_865)));
    assert!(matches!(Request::decode(&head(1, 100)), Err(BadRequest::Length { .. })));
    assert_eq!(Request::decode(&head(9, 0)), Ok(Request::Unknown(9)));
}

#[test]
fn records_become_interfaces() {
    use field::*;
    let address = |t: &[(Field, &str)]| record(t).config().unwrap().address;
    let v4 = |a: [u8; 4], prefix, g: Option<[u8; 4]>| Addressing::StaticV4 {
        address: a.into(),
        prefix,
        gateway: g.map(Into::into),
    };
    assert_eq!(address(&[(IPADDRESS, "0.0.0.0")]), Addressing::DhcpV4);
    let with_mask = [(IPADDRESS, "10.1.0.3"), (SUBNET_MASK, "255.255.0.0"), (GATEWAY, "10.1.9.1")];
    assert_eq!(address(&with_mask), v4([10, 1, 0, 3], 16, Some([10, 1, 9, 1])));
    let both = [(IPADDRESS, "10.1.0.3/24"), (SUBNET_MASK, "255.255.0.0"), (GATEWAY, "10.1.9.1")];
    assert_eq!(address(&both), v4([10, 1, 0, 3], 24, None), "a gateway elsewhere is ignored");
    assert_eq!(address(&[(IPADDRESS, "192.168.1.3")]), v4([192, 168, 1, 3], 24, None));
    let v6 = |t: &[(Field, &str)]| match address(t) {
        Addressing::V6 { mode, link_local, router } => (mode, link_local.is_some(), router.is_some()),
        other => panic!("{other:?}"),
    };
    let fd3 = V6Mode::Static { address: "fd00::3".parse().unwrap(), prefix: 64 };
    assert_eq!(v6(&[(IPADDRESS, "fd00::3")]), (fd3, false, false));
    assert_eq!(v6(&[(IPADDRESS, "::")]).0, V6Mode::Dhcp);
    assert_eq!(v6(&[(IPADDRESS, "::"), (IPV6_AUTOCFG, "nd")]).0, V6Mode::Auto);
    assert_eq!(v6(&[(IPADDRESS, "fd00::3"), (IPV6_AUTOCFG, "dhcpv6")]).0, V6Mode::Dhcp);
    let given = [
        (IPADDRESS, "fd00::3"),
        (LINKLOCAL_AUTOCFG, "off"),
        (IPV6_LINKLOCAL, "fe80::7"),
        (ROUTER_AUTOCFG, "off"),
        (IPV6_ROUTER, "fe80::1"),
    ];
    assert_eq!(v6(&given), (fd3, true, true));
    let vlan = |id, mtu, state: &str| {
        let b = request_bytes(1, &[(IPADDRESS, "10.0.0.3"), (VLAN_STATE, state)], id, mtu);
        match Request::decode(&b).unwrap() {
            Request::GetIface(r) => r.config().map(|c| (c.vlan_id(), c.mtu)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(vlan(5, 1400, ""), Ok((5, Some(1400))));
    assert_eq!(vlan(5, 45, "disable"), Ok((0, None)));
    assert!(vlan(4095, 0, "").is_err());
}

fn outcome(r: &mut Rig, request: &Request) -> Outcome {
    match r.request(request) {
        Reply::Now(response) => response.outcome,
        Reply::Ping(t) => panic!("{t:?}"),
    }
}

#[test]
fn get_iface_brings_an_interface_up_and_says_so() {
    let mut r = Rig::new(&[]);
    let request = get(&[(field::IPADDRESS, "10.0.0.3/24"), (field::NAME, "bnx2i.eth0")]);
    assert_eq!(outcome(&mut r, &request), Outcome::DeviceInitializing);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(1);
    assert_eq!(outcome(&mut r, &request), Outcome::DeviceInitializing);
    r.run(1000);
    r.take();
    for _ in 0..3 {
        assert_eq!(outcome(&mut r, &request), Outcome::DeviceUp);
    }
    r.run(1000);
    assert_eq!((r.opens, r.helper.interfaces().len()), (1, 1), "asking again changes nothing");
    let other = get(&[(field::IPADDRESS, "10.0.0.4/24")]);
    assert_eq!(outcome(&mut r, &other), Outcome::DeviceInitializing);
    r.run(1000);
    assert_eq!(outcome(&mut r, &other), Outcome::DeviceUp);
    assert_eq!((r.opens, r.helper.addresses(0)), (1, vec![std::net::IpAddr::from([10, 0, 0, 4])]));
    assert_eq!(outcome(&mut r, &get(&[(field::IPADDRESS, "10.0.0")])), Outcome::Err);
    assert_eq!(outcome(&mut r, &Request::Unknown(77)), Outcome::Ok);
    assert!(r.said("Unknown iscsid broadcast command: 4d"));
}

/// A new interface takes new paths; those in use keep theirs until their own address goes.
#[test]
fn a_path_outlives_a_better_interface_and_not_its_address() {
    let mut r = Rig::new(&[]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    let of = |address: &str, vlan: u16| {
        Request::decode(&request_bytes(1, &[(field::IPADDRESS, address)], vlan, 0)).unwrap()
    };
    outcome(&mut r, &of("10.0.0.3/24", 5));
    r.run(1000);
    r.want(1, HOST);
    r.run(100);
    let first = r.updates[0].1;
    assert_eq!((r.updates.len(), first.src, first.vlan), (1, OURS.into(), 5));
    outcome(&mut r, &of("10.0.0.4/24", 6));
    r.run(1000);
    r.want(2, HOST);
    r.run(100);
    let second = r.updates[1].1;
    assert_eq!((r.updates.len(), second.src, second.vlan), (2, [10, 0, 0, 4].into(), 6));
    outcome(&mut r, &of("10.0.0.9/24", 5));
    r.run(1000);
    assert_eq!(r.updates.len(), 3, "one path has lost its address");
    assert_eq!((r.updates[2].1.handle, r.updates[2].1.resolved()), (first.handle, false));
}

#[test]
fn a_conflict_is_an_error() {
    let mut r = Rig::new(&[]);
    r.responder = Some(answers_arp(OURS, PEER));
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    let request = get(&[(field::IPADDRESS, "10.0.0.3/24")]);
    outcome(&mut r, &request);
    r.run(1000);
    assert_eq!(outcome(&mut r, &request), Outcome::Err);
}

fn ping(dst: [u8; 4], size: i32) -> Request {
    let mut b = request_bytes(2, &[(field::IPADDRESS, "10.0.0.3/24")], 0, 0);
    b[11_728..11_730].copy_from_slice(&2_u16.to_ne_bytes());
    b[11_732..11_736].copy_from_slice(&dst);
    b[11_856..11_860].copy_from_slice(&size.to_ne_bytes());
    Request::decode(&b).unwrap()
}

fn ping_end(r: &mut Rig, request: &Request, ms: u64) -> Option<(Outcome, PingStatus)> {
    let ticket = match r.request(request) {
        Reply::Now(a) => return Some((a.outcome, a.ping)),
        Reply::Ping(t) => t,
    };
    r.run(ms);
    r.helper.ping_result(ticket).map(|a| (a.outcome, a.ping))
}

#[test]
fn pings_end_as_the_specification_says() {
    let mut r = Rig::up(&["ip=10.0.0.3/24"]);
    let mut arp = answers_arp(HOST, PEER);
    r.responder = Some(Box::new(move |s| {
        let mut out = arp(s);
        if s.bytes[..6] == PEER && s.bytes[12..14] == [8, 0] {
            let id = u16::from_be_bytes([s.bytes[38], s.bytes[39]]);
            assert!(s.bytes[42..].starts_with(b"AAAAAAAA"));
            let reply = Icmpv4Repr::EchoReply { ident: id, seq_no: 1, data: &s.bytes[42..] };
            out.push((icmp4((PEER, HOST), (MAC, OURS), &reply), None));
        }
        out
    }));
    let good = ping(HOST.octets(), 100);
    assert_eq!(ping_end(&mut r, &good, 10), Some((Outcome::Ok, PingStatus::Success)));
    assert!(r.said("PING successful!"));
    let full = ping(HOST.octets(), 1471);
    assert_eq!(ping_end(&mut r, &full, 10), Some((Outcome::Ok, PingStatus::Success)), "up to the MTU");
    r.responder = None;
    assert_eq!(ping_end(&mut r, &good, 9_900), None);
    r.run(200);
    assert_eq!(ping_end(&mut r, &good, 10_100), Some((Outcome::Err, PingStatus::Timeout)));
    let nobody = ping([10, 0, 0, 50], 0);
    assert_eq!(ping_end(&mut r, &nobody, 8_100), Some((Outcome::Err, PingStatus::NoArpReceived)));
    assert_eq!(
        ping_end(&mut r, &ping(HOST.octets(), 1472), 0),
        Some((Outcome::Err, PingStatus::OversizePacket))
    );
    assert_eq!(
        ping_end(&mut r, &ping([224, 0, 0, 1], 0), 0),
        Some((Outcome::Err, PingStatus::InvalidDestination))
    );
}

#[test]
fn a_ping_ends_when_the_driver_does_not_open_the_ring_again() {
    let mut r = Rig::up(&["ip=10.0.0.3/24"]);
    let Reply::Ping(ticket) = r.request(&ping(HOST.octets(), 0)) else { panic!("it runs") };
    r.card.as_mut().unwrap().stuck = true;
    r.refuse = true;
    r.run(20_000);
    assert_eq!(r.helper.state(), State::Stopped);
    assert_eq!(r.helper.ping_result(ticket).map(|a| a.ping), Some(PingStatus::Timeout));
}

#[test]
fn responses_are_twelve_bytes() {
    let r = ipc::Response { command: 2, outcome: Outcome::Err, ping: PingStatus::NoArpReceived };
    let words: Vec<u32> = r.bytes().chunks(4).map(|c| u32::from_ne_bytes(c.try_into().unwrap())).collect();
    assert_eq!(words, [2, 1, 9]);
}

proptest! {
    #[test]
    fn no_request_panics(noise in proptest::collection::vec((0usize..11_860, any::<u8>()), 0..200), command in 0u32..4) {
        let mut b = request_bytes(ipc::PING, &[(field::IPADDRESS, "fd00::3/64")], 0, 0);
        for (at, value) in noise {
            b[at] = value;
        }
        b[..4].copy_from_slice(&command.to_ne_bytes());
        if let Ok(Request::GetIface(r) | Request::Ping { iface: r, .. }) = Request::decode(&b) {
            let _ = r.config();
        }
    }

    #[test]
    fn no_address_panics(text in "[0-9a-f:./]{0,40}", mask in "[0-9.]{0,16}") {
        let _ = record(&[(field::IPADDRESS, &text), (field::SUBNET_MASK, &mask)]).config();
        let _ = text.parse::<iscsiuio::IfaceConfig>();
    }
}
