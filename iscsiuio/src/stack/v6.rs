//! IPv6 of one interface: addresses and their detection, routers, prefixes, neighbours, and answering.
//!
//! Every address goes through duplicate detection (RFC 4862: one solicitation, one second). A duplicate is
//! not used, ever, unless it came from DHCPv6, which is told and asked for another. A claim to an address in
//! use is answered by one unsolicited advertisement in 10 s at most; the address is kept, because sessions
//! stand on it.
//!
//! Routers and prefixes come from all router advertisements, with their lifetimes; a router that does not
//! answer is used last. Three solicitations, four seconds apart, ask for them.

mod discovery;

use std::net::Ipv6Addr;
use std::time::Duration;

use bus::Instant;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
    RawHardwareAddress, UdpPacket, UdpRepr,
};

use discovery::advertise;

use super::dhcp6::{self, Client, Event, Leased};
use super::v4::DEFENCE;
use super::{EchoReply, Io, unicast6};
use crate::frame::{Link, group_mac, solicited_node};
use crate::iface::{V6Mode, same_v6};
use crate::log::Level;
use crate::neighbours::Mac;

/// Addresses of one interface.
pub(crate) const ADDRESSES: usize = 8;
/// Default routers of one interface.
pub(crate) const ROUTERS: usize = 4;
/// On-link prefixes of one interface.
pub(crate) const PREFIXES: usize = 8;
/// Router solicitations, and the time between them.
const SOLICITATIONS: u8 = 3;
const SOLICITATION_GAP: Duration = Duration::from_secs(4);
/// Duplicate detection takes so long.
const DAD: Duration = Duration::from_secs(1);
/// An unauthenticated advertisement cannot cut a lifetime below this (RFC 4862 5.5.3).
const TWO_HOURS: Duration = Duration::from_secs(7200);

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Tentative { sent: bool, at: Instant },
    Usable,
    Duplicate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    LinkLocal,
    Static,
    Router,
    Dhcp,
}

#[derive(Clone, Copy, Debug)]
struct Address {
    ip: Ipv6Addr,
    origin: Origin,
    phase: Phase,
    /// `None`: for ever.
    end: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Router {
    ip: Ipv6Addr,
    end: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Prefix {
    ip: Ipv6Addr,
    bits: u8,
    end: Option<Instant>,
}

/// IPv6 of one interface.
#[derive(Debug)]
pub(crate) struct V6 {
    addresses: Vec<Address>,
    routers: Vec<Router>,
    prefixes: Vec<Prefix>,
    /// Whether routers that advertise themselves are used.
    learn_routers: bool,
    solicited: u8,
    solicit_at: Option<Instant>,
    mode: V6Mode,
    dhcp: Option<Client>,
    defended: Option<Instant>,
    eui64: [u8; 8],
}

impl V6 {
    pub(crate) fn new(
        mode: V6Mode,
        link_local: Option<Ipv6Addr>,
        router: Option<Ipv6Addr>,
        mac: Mac,
        now: Instant,
    ) -> Self {
        let eui64 = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
        let own = with_identifier(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), eui64);
        let mut v6 = Self {
            addresses: Vec::with_capacity(ADDRESSES),
            routers: Vec::with_capacity(ROUTERS),
            prefixes: Vec::with_capacity(PREFIXES),
            learn_routers: router.is_none(),
            solicited: 0,
            solicit_at: None,
            mode,
            dhcp: None,
            defended: None,
            eui64,
        };
        v6.add(link_local.unwrap_or(own), Origin::LinkLocal, None, now);
        if let V6Mode::Static { address, prefix } = mode {
            v6.add(address, Origin::Static, None, now);
            v6.prefixes.push(Prefix { ip: address, bits: prefix, end: None });
        }
        if let Some(ip) = router {
            v6.routers.push(Router { ip, end: None });
        }
        v6
    }

    /// Adds an address. A full table refuses.
    fn add(&mut self, ip: Ipv6Addr, origin: Origin, end: Option<Instant>, now: Instant) -> bool {
        if self.addresses.len() == ADDRESSES {
            return false;
        }
        self.addresses.push(Address { ip, origin, phase: Phase::Tentative { sent: false, at: now }, end });
        true
    }

    /// Addresses that may be used.
    pub(crate) fn usable(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.addresses.iter().filter(|a| a.phase == Phase::Usable).map(|a| a.ip)
    }

    fn link_local(&self) -> Option<Ipv6Addr> {
        self.usable().find(|a| a.is_unicast_link_local())
    }

    /// Whether the address that was asked for is there. In automatic mode the link-local one will do when no
    /// router offers more; if no DHCPv6 server answers, one of a router's prefix will do.
    pub(crate) fn ready(&self) -> bool {
        let has = |o: Origin| self.addresses.iter().any(|a| a.origin == o && a.phase == Phase::Usable);
        match self.mode {
            V6Mode::Static { .. } => has(Origin::Static),
            V6Mode::Dhcp => {
                let silent = self.dhcp.as_ref().is_some_and(Client::is_unanswered);
                has(Origin::Dhcp) || (has(Origin::Router) && silent)
            }
            V6Mode::Auto => {
                has(Origin::Router) || has(Origin::Dhcp) || (has(Origin::LinkLocal) && !self.expects_more())
            }
        }
    }

    /// Whether routers were asked and may still answer, or what they have offered is under way.
    fn expects_more(&self) -> bool {
        let asking = self.solicit_at.is_some() && self.solicited < SOLICITATIONS;
        let detecting =
            |a: &Address| a.origin != Origin::LinkLocal && matches!(a.phase, Phase::Tentative { .. });
        asking
            || self.addresses.iter().any(detecting)
            || self.dhcp.as_ref().is_some_and(|c| !c.is_unanswered())
    }

    /// Whether somebody else has the address that was asked for.
    pub(crate) fn conflict(&self) -> bool {
        self.addresses
            .iter()
            .any(|a| a.phase == Phase::Duplicate && matches!(a.origin, Origin::LinkLocal | Origin::Static))
    }

    pub(crate) fn link_up(&mut self, now: Instant) {
        for a in &mut self.addresses {
            // Somebody else may have been there meanwhile.
            a.phase = match a.phase {
                Phase::Usable => Phase::Usable,
                _ => Phase::Tentative { sent: false, at: now },
            };
        }
        self.defended = None;
        if self.link_local().is_some() {
            (self.solicited, self.solicit_at) = (0, Some(now));
        }
        if let Some(c) = &mut self.dhcp {
            c.confirm(now);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        let mut next = self.solicit_at;
        for a in &self.addresses {
            next = Instant::earliest(next, a.end);
            if let Phase::Tentative { at, .. } = a.phase {
                next = Instant::earliest(next, Some(at));
            }
        }
        let ends = self.routers.iter().map(|r| r.end).chain(self.prefixes.iter().map(|p| p.end));
        next = ends.fold(next, Instant::earliest);
        let dhcp = self.dhcp.as_ref().filter(|_| self.link_local().is_some()).map(Client::next);
        Instant::earliest(next, dhcp)
    }

    /// Does what is due. Returns whether addresses or routes changed.
    pub(crate) fn poll(&mut self, io: &mut Io<'_>, link: Link) -> bool {
        let mut changed = self.expire(io);
        for i in 0..self.addresses.len() {
            changed |= self.detect(io, link, i);
        }
        let Some(from) = self.link_local() else { return changed };
        if self.solicit_at.is_some_and(|at| io.now >= at) {
            if self.solicited == SOLICITATIONS {
                self.solicit_at = None;
            } else {
                self.solicited += 1;
                let lladdr = Some(RawHardwareAddress::from_bytes(&link.mac));
                let ask = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr });
                io.out.icmp6(link, group_mac(ALL_ROUTERS), from, ALL_ROUTERS, 255, &ask);
                self.solicit_at = Some(io.now + SOLICITATION_GAP);
            }
        }
        if let Some(event) = self.dhcp.as_mut().and_then(|c| c.poll(io, link, from)) {
            changed |= self.apply(io, &event);
        }
        changed
    }

    fn expire(&mut self, io: &mut Io<'_>) -> bool {
        let live = |end: Option<Instant>| end.is_none_or(|e| io.now < e);
        let before = (self.addresses.len(), self.routers.len(), self.prefixes.len());
        for a in self.addresses.iter().filter(|a| !live(a.end)) {
            io.log.add(Level::Error, || format!("the lifetime of {} is over: the address is given up", a.ip));
        }
        self.addresses.retain(|a| live(a.end));
        self.routers.retain(|r| live(r.end));
        self.prefixes.retain(|p| live(p.end));
        before != (self.addresses.len(), self.routers.len(), self.prefixes.len())
    }

    /// Duplicate detection of one address.
    fn detect(&mut self, io: &mut Io<'_>, link: Link, i: usize) -> bool {
        let Address { ip, origin, phase, .. } = self.addresses[i];
        let Phase::Tentative { sent, at } = phase else { return false };
        if io.now < at {
            return false;
        }
        let group = solicited_node(ip);
        if !sent {
            let ask = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: ip, lladdr: None });
            io.out.icmp6(link, group_mac(group), Ipv6Addr::UNSPECIFIED, group, 255, &ask);
            self.addresses[i].phase = Phase::Tentative { sent: true, at: io.now + DAD };
            return false;
        }
        self.addresses[i].phase = Phase::Usable;
        io.log.add(Level::Info, || format!("Using IP address: {ip}"));
        advertise(io, link, ip, ip, ALL_NODES, group_mac(ALL_NODES), false);
        if origin == Origin::LinkLocal {
            (self.solicited, self.solicit_at) = (0, Some(io.now));
            if self.mode == V6Mode::Dhcp {
                self.dhcp = Some(Client::new(io.now));
            }
        }
        true
    }

    fn apply(&mut self, io: &mut Io<'_>, event: &Event) -> bool {
        let leased: &[Leased] = match event {
            Event::Bound(l) => l,
            Event::Lost => &[],
        };
        let before = self.addresses.len();
        self.addresses.retain(|a| a.origin != Origin::Dhcp || leased.iter().any(|l| l.0 == a.ip));
        let changed = before != self.addresses.len();
        for &(ip, end) in leased {
            match self.addresses.iter_mut().find(|a| a.ip == ip) {
                Some(a) => a.end = end,
                None => {
                    self.add(ip, Origin::Dhcp, end, io.now);
                }
            }
        }
        changed
    }

    /// Where `dst` is: our address and the next hop.
    pub(crate) fn route(&self, dst: Ipv6Addr) -> Option<(Ipv6Addr, Ipv6Addr)> {
        if !unicast6(dst) {
            return None;
        }
        if dst.is_unicast_link_local() {
            return Some((self.link_local()?, dst));
        }
        let common = |a: &Ipv6Addr| (u128::from(*a) ^ u128::from(dst)).leading_zeros();
        let source = self.usable().filter(|a| !a.is_unicast_link_local()).max_by_key(common)?;
        let on_link = self.prefixes.iter().any(|p| same_v6(p.ip, dst, p.bits))
            // Without an advertised prefix a leased address stands in a /64, as with the original helper.
            || self.addresses.iter().any(|a| {
                a.origin == Origin::Dhcp && a.phase == Phase::Usable && same_v6(a.ip, dst, 64)
            });
        let hop = if on_link { dst } else { self.routers.first()?.ip };
        Some((source, hop))
    }

    /// Uses a router last. Returns whether that changes anything.
    pub(crate) fn demote(&mut self, router: Ipv6Addr) -> bool {
        let more = self.routers.len() > 1;
        if more && self.routers[0].ip == router {
            self.routers.rotate_left(1);
            return true;
        }
        false
    }

    /// Takes an IPv6 packet.
    pub(crate) fn input(
        &mut self,
        io: &mut Io<'_>,
        (link, iface): (Link, usize),
        mac: Mac,
        bytes: &[u8],
        changed: &mut bool,
    ) -> Option<EchoReply> {
        let caps = ChecksumCapabilities::default();
        let Ok((ip, packet)) = Ipv6Packet::new_checked(bytes).and_then(|p| Ok((Ipv6Repr::parse(&p)?, p)))
        else {
            io.counters.malformed += 1;
            return None;
        };
        let (from, to) = (ip.src_addr, ip.dst_addr);
        let ours = self.addresses.iter().any(|a| a.phase == Phase::Usable && a.ip == to);
        let joined = to == ALL_NODES || self.addresses.iter().any(|a| solicited_node(a.ip) == to);
        if from.is_multicast() || !(ours || joined) {
            io.counters.not_for_us += 1;
            return None;
        }
        match ip.next_header {
            IpProtocol::Icmpv6 => {
                let Ok(p) = Icmpv6Packet::new_checked(packet.payload()) else {
                    io.counters.malformed += 1;
                    return None;
                };
                let known = matches!(
                    p.msg_type(),
                    Icmpv6Message::EchoRequest
                        | Icmpv6Message::EchoReply
                        | Icmpv6Message::RouterAdvert
                        | Icmpv6Message::NeighborSolicit
                        | Icmpv6Message::NeighborAdvert
                );
                if !known {
                    io.counters.not_for_us += 1;
                    return None;
                }
                let Ok(icmp) = Icmpv6Repr::parse(&from, &to, &p, &caps) else {
                    io.counters.malformed += 1;
                    return None;
                };
                match icmp {
                    Icmpv6Repr::EchoRequest { ident, seq_no, data } if ours && unicast6(from) => {
                        self.heard(io, iface, from, mac);
                        let reply = Icmpv6Repr::EchoReply { ident, seq_no, data };
                        io.out.icmp6(link, mac, to, from, 64, &reply);
                        io.counters.echo_replies += 1;
                        None
                    }
                    Icmpv6Repr::EchoReply { ident, seq_no, .. } if ours => {
                        self.heard(io, iface, from, mac);
                        Some(EchoReply { iface, from: from.into(), id: ident, sequence: seq_no })
                    }
                    Icmpv6Repr::Ndisc(nd) if ip.hop_limit == 255 && p.msg_code() == 0 => {
                        *changed = self.discovery(io, link, iface, (mac, from), &nd, p.payload());
                        None
                    }
                    _ => {
                        io.counters.unexpected += 1;
                        None
                    }
                }
            }
            IpProtocol::Udp if ours && self.dhcp.is_some() => {
                let (s, d) = (IpAddress::Ipv6(from), IpAddress::Ipv6(to));
                let udp = UdpPacket::new_checked(packet.payload())
                    .and_then(|p| Ok((UdpRepr::parse(&p, &s, &d, &caps)?, p)));
                match (udp, &mut self.dhcp) {
                    (Ok((u, datagram)), Some(c))
                        if (u.src_port, u.dst_port) == (dhcp6::SERVER_PORT, dhcp6::CLIENT_PORT) =>
                    {
                        if let Some(event) = c.input(io, link, datagram.payload()) {
                            *changed = self.apply(io, &event);
                        }
                    }
                    (Ok(_), _) => io.counters.not_for_us += 1,
                    (Err(_), _) => io.counters.malformed += 1,
                }
                None
            }
            _ => {
                io.counters.not_for_us += 1;
                None
            }
        }
    }

    fn heard(&self, io: &mut Io<'_>, iface: usize, from: Ipv6Addr, mac: Mac) {
        if from.is_unicast_link_local() || self.prefixes.iter().any(|p| same_v6(p.ip, from, p.bits)) {
            io.learned |= io.neighbours.heard(iface, from.into(), mac, io.now);
        }
    }
}

/// The address of an interface in a /64.
fn with_identifier(prefix: Ipv6Addr, identifier: [u8; 8]) -> Ipv6Addr {
    let mut o = prefix.octets();
    o[8..].copy_from_slice(&identifier);
    o.into()
}
