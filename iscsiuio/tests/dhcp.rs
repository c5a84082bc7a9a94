//! The DHCPv4 client as packet scripts, every timer in virtual time.
#![allow(clippy::unwrap_used, reason = "scripts of tests are not test functions to clippy")]

mod rig;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use bus::uio::ToHelper;
use rig::*;
use smoltcp::wire::{ArpOperation, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use DhcpMessageType::{Ack, Decline, Discover, Nak, Offer, Request};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ANYBODY: Ipv4Addr = Ipv4Addr::BROADCAST;
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// What a server saw, and how it behaves.
struct Server {
    seen: Vec<(DhcpMessageType, Ipv4Addr, Option<Ipv4Addr>)>,
    address: Ipv4Addr,
    lease_s: u32,
    nak: bool,
    silent: bool,
    /// Its options stand in `file` and `sname` (option overload).
    overload: bool,
    unicast: u32,
    /// Renewals to anybody.
    rebinds: u32,
}

type Shared = Rc<RefCell<Server>>;

fn serve(r: &mut Rig) -> Shared {
    let server = Server {
        seen: Vec::new(),
        address: OURS,
        lease_s: 1000,
        nak: false,
        silent: false,
        overload: false,
        unicast: 0,
        rebinds: 0,
    };
    let shared = Rc::new(RefCell::new(server));
    let s = shared.clone();
    r.responder = Some(Box::new(move |sent| {
        let Some(bytes) = udp_of(&sent.bytes, 67) else { return Vec::new() };
        let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
        let m = DhcpRepr::parse(&packet).unwrap();
        assert!(bytes.len() >= 300, "relays want a BOOTP message");
        let s = &mut *s.borrow_mut();
        s.seen.push((m.message_type, m.client_ip, m.requested_ip));
        s.unicast += u32::from(sent.bytes[0] & 1 == 0);
        s.rebinds += u32::from(sent.bytes[0] & 1 != 0 && m.client_ip != NOBODY);
        if s.silent {
            return Vec::new();
        }
        let kind = match m.message_type {
            Discover => Offer,
            Request if s.nak => Nak,
            Request => Ack,
            _ => return Vec::new(),
        };
        let mut answer = reply(kind, m.transaction_id, s.address, s.lease_s);
        if s.overload {
            answer = overloaded(&answer);
        }
        vec![(answer, sent.tci)]
    }));
    shared
}

fn reply(kind: DhcpMessageType, xid: u32, address: Ipv4Addr, lease_s: u32) -> Vec<u8> {
    let nak = kind == Nak;
    let m = DhcpRepr {
        message_type: kind,
        transaction_id: xid,
        secs: 0,
        client_hardware_address: EthernetAddress(MAC),
        client_ip: NOBODY,
        your_ip: if nak { NOBODY } else { address },
        server_ip: SERVER,
        router: (!nak).then_some(SERVER),
        subnet_mask: (!nak).then_some([255, 255, 255, 0].into()),
        relay_agent_ip: NOBODY,
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: (!nak).then_some(lease_s),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut b = vec![0; m.buffer_len()];
    m.emit(&mut DhcpPacket::new_unchecked(&mut b[..])).unwrap();
    udp((PEER, SERVER.into(), 67), (BROADCAST, ANYBODY.into(), 68), &b)
}

/// The same answer with mask and router in `file`, lease time in `sname`.
fn overloaded(frame: &[u8]) -> Vec<u8> {
    let bytes = udp_of(frame, 68).unwrap();
    let mut m = bytes[..240].to_vec();
    let (mut file, mut sname) = (vec![0], Vec::new());
    let mut rest = &bytes[240..];
    while let [code @ 1..=254, length, more @ ..] = rest {
        let (value, more) = more.split_at(usize::from(*length));
        let to = match code {
            1 | 3 => &mut file,
            51 => &mut sname,
            _ => &mut m,
        };
        to.extend([*code, *length]);
        to.extend(value);
        rest = more;
    }
    for (part, at) in [(&mut file, 108), (&mut sname, 44)] {
        part.push(255);
        m[at..at + part.len()].copy_from_slice(part);
    }
    m.extend([52, 1, 3, 255]);
    udp((PEER, SERVER.into(), 67), (BROADCAST, ANYBODY.into(), 68), &m)
}

fn kinds(s: &Shared) -> Vec<DhcpMessageType> {
    s.borrow_mut().seen.drain(..).map(|m| m.0).collect()
}

fn up(configs: &[&str]) -> (Rig, Shared) {
    let mut r = Rig::new(configs);
    let s = serve(&mut r);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(2000);
    (r, s)
}

#[test]
fn an_address_is_leased_probed_and_announced() {
    let (mut r, s) = up(&["dhcp,vlan=7"]);
    assert_eq!(kinds(&s), [Discover, Request]);
    assert_eq!(r.helper.addresses(0), [OURS]);
    let lines = r.lines();
    for part in ["Got IP address 10.0.0.3", "Got default router 10.0.0.1", "Lease expires in 1000 seconds"] {
        assert!(lines.iter().any(|l| l == part), "{part}: {lines:?}");
    }
    assert_eq!(r.arps().iter().filter(|a| a.1 == OURS).count(), 1, "and the second announcement comes later");
}

/// RFC 2132 9.3: options that do not fit stand in `file` and `sname`.
#[test]
fn options_in_file_and_sname_count() {
    let mut r = Rig::new(&["dhcp"]);
    let s = serve(&mut r);
    s.borrow_mut().overload = true;
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(2000);
    assert_eq!((kinds(&s), r.helper.addresses(0)), (vec![Discover, Request], vec![OURS.into()]));
    let lines = r.lines();
    for part in ["Got netmask /24", "Got default router 10.0.0.1", "Lease expires in 1000 seconds"] {
        assert!(lines.iter().any(|l| l.contains(part)), "{part}: {lines:?}");
    }
}

/// The mask that comes with it decides whether an address can be a host's.
#[test]
fn an_offer_of_an_address_that_no_host_has_is_not_taken() {
    for last in [0, 255] {
        let mut r = Rig::new(&["dhcp"]);
        let s = serve(&mut r);
        s.borrow_mut().address = [10, 0, 0, last].into();
        r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
        r.run(5000);
        assert!(kinds(&s).iter().all(|kind| *kind == Discover));
        assert!(r.said(if last == 0 { "network's own address" } else { "broadcast address" }));
        s.borrow_mut().address = OURS;
        r.run(5000);
        assert_eq!(r.helper.addresses(0), [OURS]);
    }
}

#[test]
fn discover_backs_off_and_says_that_nobody_answers() {
    let mut r = Rig::new(&["dhcp"]);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(11_000);
    let times: Vec<u64> = r.take().iter().map(|s| s.at.as_nanos() / 1_000_000_000).collect();
    assert_eq!(times, [0, 1, 3, 6, 10]);
    let lines = r.lines();
    assert!(lines.iter().any(|l| l.starts_with("DHCP failed")));
    assert!(lines.iter().any(|l| l.starts_with("timeout waiting for DHCP")));
    r.run(10_000_000);
    let n = r.take().len();
    assert!((165..230).contains(&n), "once a minute at last: {n}");
    let s = serve(&mut r);
    r.run(61_000);
    assert_eq!((kinds(&s), r.helper.addresses(0)), (vec![Discover, Request], vec![OURS.into()]));
}

#[test]
fn a_nak_starts_over() {
    let mut r = Rig::new(&["dhcp"]);
    let s = serve(&mut r);
    s.borrow_mut().nak = true;
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(1500);
    assert_eq!(kinds(&s), [Discover, Request, Discover, Request]);
    s.borrow_mut().nak = false;
    r.run(2000);
    assert_eq!((r.helper.addresses(0), r.helper.counters().stack.naks), (vec![OURS.into()], 2));
}

#[test]
fn a_lease_is_renewed_with_its_server_then_with_anybody_and_then_lost() {
    let (mut r, s) = up(&["dhcp"]);
    kinds(&s);
    r.run(500_000);
    assert_eq!(kinds(&s), [Request]);
    assert_eq!(s.borrow().unicast, 1, "the renewal goes to the server");
    assert_eq!(s.borrow().rebinds, 0);
    s.borrow_mut().silent = true;
    r.want(1, HOST);
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST));
    r.run(500_000 + 380_000);
    let unicast = s.borrow().unicast;
    assert!(unicast >= 4, "{unicast}");
    assert!(s.borrow().seen.iter().all(|m| m.1 == OURS && m.2.is_none()));
    assert!(s.borrow().rebinds >= 1, "after T2 anybody is asked");
    assert_eq!(r.helper.addresses(0), [OURS]);
    let before = r.updates.len();
    r.run(130_000);
    assert_eq!(r.helper.addresses(0), [] as [std::net::IpAddr; 0]);
    assert!(r.said("the lease of 10.0.0.3 has expired"));
    assert_eq!(kinds(&s).last(), Some(&Discover));
    assert_eq!(r.updates.len(), before + 1);
    assert!(!r.updates[before].1.resolved(), "the driver hears that the path has no address any more");
}

#[test]
fn a_nak_to_a_renewal_takes_the_address_away() {
    let (mut r, s) = up(&["dhcp"]);
    s.borrow_mut().nak = true;
    r.run(500_100);
    assert!(r.helper.addresses(0).is_empty());
    assert!(r.said("took the address back"));
}

#[test]
fn a_leased_address_in_use_is_declined() {
    let mut r = Rig::new(&["dhcp"]);
    let s = serve(&mut r);
    let mut dhcp = r.responder.take().unwrap();
    let mut arp = answers_arp(OURS, OTHER);
    r.responder = Some(Box::new(move |f| [dhcp(f), arp(f)].concat()));
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(5000);
    assert_eq!(kinds(&s), [Discover, Request, Decline]);
    s.borrow_mut().address = [10, 0, 0, 77].into();
    r.run(10_000);
    assert_eq!(r.helper.addresses(0), [std::net::IpAddr::from([10, 0, 0, 77])]);
}

#[test]
fn a_leased_address_that_somebody_insists_on_is_given_up() {
    let (mut r, s) = up(&["dhcp"]);
    kinds(&s);
    let claim = arp(ArpOperation::Request, (OTHER, OURS), ([0; 6], OURS), BROADCAST);
    r.put(&claim);
    assert_eq!(r.helper.addresses(0), [OURS]);
    r.put(&claim);
    assert!(r.helper.addresses(0).is_empty());
    assert_eq!(kinds(&s), [Decline]);
}

#[test]
fn a_lease_survives_a_reset_and_is_confirmed() {
    let (mut r, s) = up(&["dhcp"]);
    kinds(&s);
    r.tell(ToHelper::IfDown);
    r.run(1000);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(10);
    assert_eq!((r.helper.addresses(0), kinds(&s)), (vec![OURS.into()], vec![Request]));
    assert_eq!(r.helper.state(), iscsiuio::helper::State::Running);
}

#[test]
fn answers_to_others_are_not_ours() {
    let mut r = Rig::new(&["dhcp"]);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(10);
    let bytes = udp_of(&r.take()[0].bytes, 67).unwrap();
    let xid = DhcpPacket::new_checked(&bytes[..]).unwrap().transaction_id();
    r.put(&reply(Offer, xid ^ 1, OURS, 10));
    r.put(&reply(Ack, xid, OURS, 10));
    r.put(&reply(Offer, xid, NOBODY, 10));
    assert!(r.take().is_empty());
    assert_eq!(r.helper.counters().stack.unexpected, 3);
    r.put(&reply(Offer, xid, OURS, 10));
    assert_eq!(r.take().len(), 1);
}
