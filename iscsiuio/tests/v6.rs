//! IPv6 as packet scripts: detection, routers, neighbours, DHCPv6, echo, paths.
#![allow(clippy::unwrap_used, reason = "scripts of tests are not test functions to clippy")]

mod rig;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use bus::uio::ToHelper;
use iscsiuio::helper::{Reply, State};
use iscsiuio::ipc::{self, Outcome, Request, field};
use rig::*;
use smoltcp::wire::{
    Icmpv6Repr, NdiscNeighborFlags, NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr,
    NdiscRouterFlags, RawHardwareAddress,
};

const LL: &str = "fe80::210:18ff:feaa:bbcc";
const NODES: &str = "ff02::1";

fn ip(s: &str) -> Ipv6Addr {
    s.parse().unwrap()
}

fn group(a: Ipv6Addr) -> Mac {
    let o = a.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

fn ra(from: &str, mac: Mac, lifetime_s: u64, prefix: Option<(&str, u64)>) -> Vec<u8> {
    flagged_ra(NdiscRouterFlags::empty(), from, mac, lifetime_s, prefix)
}

fn flagged_ra(
    flags: NdiscRouterFlags,
    from: &str,
    mac: Mac,
    lifetime_s: u64,
    prefix: Option<(&str, u64)>,
) -> Vec<u8> {
    let prefix_info = prefix.map(|(p, valid)| NdiscPrefixInformation {
        prefix_len: 64,
        flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
        valid_lifetime: smoltcp::time::Duration::from_secs(valid),
        preferred_lifetime: smoltcp::time::Duration::from_secs(valid),
        prefix: ip(p),
    });
    let nd = NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags,
        router_lifetime: smoltcp::time::Duration::from_secs(lifetime_s),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: Some(RawHardwareAddress::from_bytes(&mac)),
        mtu: None,
        prefix_info,
    };
    icmp6((mac, ip(from)), (group(ip(NODES)), ip(NODES)), 255, &Icmpv6Repr::Ndisc(nd))
}

fn na(from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), target: Ipv6Addr, flags: NdiscNeighborFlags) -> Vec<u8> {
    let lladdr = Some(RawHardwareAddress::from_bytes(&from.0));
    icmp6(from, to, 255, &Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr }))
}

/// A host that answers solicitations.
fn answers_ns(host: Ipv6Addr, mac: Mac) -> Responder {
    Box::new(move |s| {
        let asked = icmp6_of(&s.bytes, |from, _, _, icmp| match icmp {
            Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) if *target_addr == host => {
                Some(from)
            }
            _ => None,
        });
        let Some(Some(from)) = asked else { return Vec::new() };
        if s.bytes[0] & 1 == 0 && s.bytes[..6] != mac {
            return Vec::new();
        }
        let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
        let (to, flags) =
            if from.is_unspecified() { (ip(NODES), NdiscNeighborFlags::OVERRIDE) } else { (from, flags) };
        let to_mac = if to.is_multicast() { group(to) } else { MAC };
        vec![(na((mac, host), (to_mac, to), host, flags), s.tci)]
    })
}

fn start(config: &str) -> Rig {
    let mut r = Rig::new(&[config]);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r
}

#[test]
fn a_link_local_address_is_detected_then_routers_are_asked() {
    let mut r = start("auto6");
    r.run(20_000);
    let seen: Vec<(u64, Ipv6Addr, &str)> = r
        .take()
        .iter()
        .filter_map(|s| {
            icmp6_of(&s.bytes, |from, _, hops, icmp| {
                assert_eq!(hops, 255);
                let kind = match icmp {
                    Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { .. }) => "ns",
                    Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { .. }) => "na",
                    Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { .. }) => "rs",
                    _ => "?",
                };
                (s.at.as_nanos() / 1_000_000_000, from, kind)
            })
        })
        .collect();
    let ll = ip(LL);
    let none = Ipv6Addr::UNSPECIFIED;
    assert_eq!(seen, [(0, none, "ns"), (1, ll, "na"), (1, ll, "rs"), (5, ll, "rs"), (9, ll, "rs")]);
    assert_eq!((r.helper.addresses(0), r.helper.state()), (vec![ll.into()], State::Running));
}

#[test]
fn a_duplicate_is_not_used() {
    let mut r = start("auto6");
    r.responder = Some(answers_ns(ip(LL), OTHER));
    r.run(20_000);
    assert!(r.helper.addresses(0).is_empty());
    assert!(r.said("is in use by somebody else"));
}

#[test]
fn advertised_prefixes_make_addresses_and_their_lifetimes_end_them() {
    let mut r = start("auto6");
    r.run(1500);
    r.put(&ra("fe80::1", PEER, 30, Some(("fd00:1::", 100))));
    r.put(&ra("fe80::2", OTHER, 3000, Some(("fd00:2::", 10_000))));
    r.run(1500);
    let own = ["fe80::", "fd00:1::", "fd00:2::"].map(|p| IpAddr::from(ip(&format!("{p}210:18ff:feaa:bbcc"))));
    assert_eq!(r.helper.addresses(0), own);
    r.want(1, ip("2001:db8::1"));
    r.run(10);
    assert_eq!(r.updates[0].1.mac, PEER, "the first router");
    r.run(31_000);
    assert_eq!(r.updates.last().unwrap().1.mac, OTHER, "its lifetime is over: the other one");
    r.run(100_000);
    assert_eq!(r.helper.addresses(0), [own[0], own[2]]);
}

#[test]
fn a_router_that_says_goodbye_or_is_silent_is_replaced() {
    let mut r = start("auto6");
    r.run(1500);
    r.put(&ra("fe80::1", PEER, 3000, Some(("fd00:1::", 10_000))));
    r.put(&ra("fe80::2", OTHER, 3000, None));
    r.run(1500);
    r.responder = Some(answers_ns(ip("fe80::2"), OTHER));
    r.want(1, ip("2001:db8::1"));
    r.run(10);
    assert_eq!(r.updates[0].1.mac, PEER);
    let start = r.now;
    r.run(30_000);
    let (at, update) = *r.updates.last().unwrap();
    assert_eq!(update.mac, OTHER, "nobody answers for the first");
    assert!(at.since(start) <= Duration::from_secs(10 + 3 + 8), "as soon as that is known");
    r.put(&ra("fe80::2", OTHER, 0, None));
    r.run(10);
    assert_eq!(r.updates.last().unwrap().1.mac, PEER);
}

#[test]
fn without_a_router_what_is_off_link_fails_at_once() {
    let mut r = start("ip=fd00::3/64");
    r.run(3000);
    assert_eq!(r.helper.addresses(0).len(), 2);
    r.want(1, ip("2001:db8::1"));
    r.run(10);
    assert!(!r.updates[0].1.resolved());
    r.responder = Some(answers_ns(ip("fd00::9"), PEER));
    r.want(2, ip("fd00::9"));
    r.run(10);
    assert_eq!((r.updates[1].1.mac, r.updates[1].1.src), (PEER, ip("fd00::3").into()));
    r.want(3, ip("fe80::9"));
    r.responder = None;
    r.run(9000);
    assert!(!r.updates[2].1.resolved());
}

/// RFC 4861 7.2.5: what we asked is answered by any advertisement for that target, whatever its source and
/// flags.
#[test]
fn a_router_that_answers_from_another_address_is_heard() {
    let mut r = start("ip=fd00::3/64,gw=fe80::1");
    r.run(20_000);
    r.want(1, ip("2001:db8::9"));
    r.run(10);
    let flags = NdiscNeighborFlags::ROUTER;
    let advertisement = na((PEER, ip("fd00::1")), (MAC, ip("fd00::3")), ip("fe80::1"), flags);
    r.put(&advertisement);
    r.run(10);
    assert_eq!(r.updates.len(), 1);
    assert_eq!((r.updates[0].1.mac, r.updates[0].1.src), (PEER, ip("fd00::3").into()));
    // One that nobody asked for makes nobody a neighbour.
    r.put(&na((OTHER, ip("fd00::7")), (MAC, ip("fd00::3")), ip("fd00::7"), flags));
    r.responder = Some(answers_ns(ip("fd00::7"), PEER));
    r.want(2, ip("fd00::7"));
    r.run(10);
    assert_eq!(r.updates[1].1.mac, PEER);
}

#[test]
fn solicitations_and_echoes_are_answered() {
    let mut r = start("ip=fd00::3/64");
    r.run(20_000);
    r.take();
    let (us, host) = (ip("fd00::3"), ip("fd00::9"));
    let sn = ip("ff02::1:ff00:3");
    let lladdr = Some(RawHardwareAddress::from_bytes(&PEER));
    let ns = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: us, lladdr });
    r.put(&icmp6((PEER, host), (group(sn), sn), 255, &ns));
    let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    assert_eq!(r.take()[0].bytes, na((MAC, us), (PEER, host), us, flags));
    r.put(&icmp6((PEER, host), (group(sn), sn), 64, &ns));
    assert!(r.take().is_empty(), "hop limit 255 proves that it is from this link");
    let echo = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: &[3; 99] };
    r.put(&icmp6((PEER, host), (MAC, us), 64, &echo));
    let reply = Icmpv6Repr::EchoReply { ident: 1, seq_no: 2, data: &[3; 99] };
    assert_eq!(r.take()[0].bytes, icmp6((MAC, us), (PEER, host), 64, &reply));
}

#[test]
fn a_claim_is_answered_and_a_neighbour_that_moves_is_told() {
    let mut r = start("ip=fd00::3/64");
    r.run(20_000);
    let (us, host, all) = (ip("fd00::3"), ip("fd00::9"), (group(ip(NODES)), ip(NODES)));
    r.take();
    r.put(&na((OTHER, us), all, us, NdiscNeighborFlags::OVERRIDE));
    r.put(&na((OTHER, us), all, us, NdiscNeighborFlags::OVERRIDE));
    assert_eq!(r.take().len(), 1, "one defence in ten seconds");
    r.responder = Some(answers_ns(host, PEER));
    r.want(1, host);
    r.run(10);
    r.put(&na((OTHER, host), all, host, NdiscNeighborFlags::empty()));
    assert_eq!(r.updates.len(), 1, "without OVERRIDE nothing moves");
    r.put(&na((OTHER, host), all, host, NdiscNeighborFlags::OVERRIDE));
    assert_eq!(r.updates[1].1.mac, OTHER);
    let start = r.now;
    r.run(60_000);
    assert_eq!(r.updates[2].1.mac, PEER, "and found again, as it is the one that answers");
    assert!(r.updates[2].0.since(start) <= Duration::from_secs(14));
}

const SERVER: &str = "fe80::547";

// Message types, and the options that the server of these tests reads and writes (RFC 8415).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;

/// An option: code, length, value.
fn option(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// The value of the first option of that code.
fn value(mut list: &[u8], code: u16) -> Option<Vec<u8>> {
    while let [a, b, c, d, rest @ ..] = list {
        let (value, more) = rest.split_at(usize::from(u16::from_be_bytes([*c, *d])));
        if u16::from_be_bytes([*a, *b]) == code {
            return Some(value.to_vec());
        }
        list = more;
    }
    None
}

fn dhcp6(refuse: bool) -> Responder {
    Box::new(move |s| {
        let Some(bytes) = udp_of(&s.bytes, 547) else { return Vec::new() };
        let kind = if bytes[0] == SOLICIT { ADVERTISE } else { REPLY };
        let ia = value(&bytes[4..], 3).expect("an IA");
        let answer = if refuse && kind == REPLY {
            // NoBinding.
            option(13, &[0, 3])
        } else {
            let lives = [100u32.to_be_bytes(), 200u32.to_be_bytes()].concat();
            option(5, &[&ip("fd00:6::77").octets()[..], &lives].concat())
        };
        let reply = [
            vec![kind],
            bytes[1..4].to_vec(),
            option(1, &value(&bytes[4..], 1).expect("a client")),
            option(2, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1]),
            option(3, &[&ia[..4], &[0; 8], &answer].concat()),
        ];
        vec![(udp((PEER, ip(SERVER).into(), 547), (MAC, ip(LL).into(), 546), &reply.concat()), s.tci)]
    })
}

fn dhcp6_seen(r: &mut Rig) -> Vec<u8> {
    r.take().iter().filter_map(|s| udp_of(&s.bytes, 547).map(|b| b[0])).collect()
}

#[test]
fn dhcpv6_waits_for_the_reply_renews_and_expires() {
    let mut r = start("dhcp6");
    r.run(1100);
    assert_eq!(dhcp6_seen(&mut r), [SOLICIT]);
    r.responder = Some(dhcp6(false));
    r.run(3000);
    assert_eq!(dhcp6_seen(&mut r), [SOLICIT, REQUEST]);
    assert!(r.helper.addresses(0).contains(&ip("fd00:6::77").into()));
    r.run(50_000);
    assert_eq!(dhcp6_seen(&mut r), [RENEW]);
    r.responder = None;
    r.run(190_000);
    let seen = dhcp6_seen(&mut r);
    assert!(seen.contains(&RENEW) && seen.contains(&REBIND), "{seen:?}");
    assert!(r.helper.addresses(0).contains(&ip("fd00:6::77").into()));
    r.run(20_000);
    assert_eq!(r.helper.addresses(0), [IpAddr::from(ip(LL))]);
    assert!(r.said("DHCPv6 lease has expired"));
}

/// An RA without a prefix for addresses ends the solicitations, and with MANAGED asks for DHCPv6.
#[test]
fn automatic_is_ready_with_what_the_router_offers() {
    let mut r = start("auto6");
    r.run(1500);
    r.put(&ra("fe80::1", PEER, 3000, None));
    assert_eq!((r.helper.addresses(0), r.helper.state()), (vec![ip(LL).into()], State::Running));

    for answered in [true, false] {
        let mut r = start("auto6");
        r.responder = answered.then(|| dhcp6(false));
        r.run(1500);
        r.put(&flagged_ra(NdiscRouterFlags::MANAGED, "fe80::1", PEER, 3000, None));
        assert_eq!(r.helper.state(), State::Acquiring);
        r.run(3000);
        let leased = r.helper.addresses(0).contains(&ip("fd00:6::77").into());
        assert_eq!((leased, r.helper.state() == State::Running), (answered, answered));
        r.run(20_000);
        assert_eq!(
            get_iface(&mut r, "nd"),
            Outcome::DeviceUp,
            "a silent server is not waited for without end"
        );
    }
}

#[test]
fn without_a_dhcpv6_server_an_advertised_prefix_will_do() {
    let mut r = start("dhcp6");
    r.run(1500);
    r.put(&ra("fe80::1", PEER, 3000, Some(("fd00:1::", 10_000))));
    r.run(10_000);
    assert_eq!(get_iface(&mut r, "dhcpv6"), Outcome::DeviceInitializing, "it may still answer");
    r.run(10_000);
    assert_eq!(get_iface(&mut r, "dhcpv6"), Outcome::DeviceUp);
    let mut r = start("dhcp6");
    r.run(20_000);
    assert_eq!(get_iface(&mut r, "dhcpv6"), Outcome::DeviceInitializing, "nothing to go on with");
}

fn get_iface(r: &mut Rig, mode: &str) -> Outcome {
    let texts = [(field::IPADDRESS, "::"), (field::IPV6_AUTOCFG, mode)];
    let request = Request::decode(&request_bytes(ipc::GET_IFACE, &texts, 0, 0)).unwrap();
    let Reply::Now(answer) = r.request(&request) else { panic!("an answer") };
    answer.outcome
}

#[test]
fn a_refused_request_is_no_address() {
    let mut r = start("dhcp6");
    r.responder = Some(dhcp6(true));
    r.run(5000);
    assert_eq!(r.helper.addresses(0), [IpAddr::from(ip(LL))]);
    assert!(r.helper.counters().stack.naks >= 3);
}
