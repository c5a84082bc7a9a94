//! The stack of one NIC: its interfaces, what they answer, and where a destination is.
//!
//! A frame goes to the interface of its family and VLAN; what is due is done by polling. Both put frames into
//! the queue and never anywhere else. What is not ARP, ICMP echo, neighbour discovery or a DHCP answer is
//! dropped and counted: nobody else listens on these addresses.
//!
//! Not modelled: fragments, IPv4 options, IPv6 extension headers, multicast listener reports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bus::Instant;
use bus::address::host;
use bus::streams::Streams;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr, Icmpv6Repr,
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, NdiscRepr, RawHardwareAddress, UdpPacket, UdpRepr,
};

use crate::frame::{BROADCAST, Link, Out, group_mac, solicited_node};
use crate::iface::{Addressing, IfaceConfig, same_v4};
use crate::log::{Level, Log};
use crate::neighbours::{Mac, Neighbours};

pub(crate) mod dhcp4;
pub(crate) mod dhcp6;
pub(crate) mod v4;
pub(crate) mod v6;

use v4::{Net, V4};
use v6::V6;

/// Interfaces of one NIC.
pub const INTERFACES: usize = 8;

/// What happened in the stack since the helper started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackCounters {
    /// Frames that are no packet of their kind.
    pub malformed: u64,
    /// Packets of a kind that nobody listens for, or for an address that is not ours.
    pub not_for_us: u64,
    /// Frames of a VLAN without an interface.
    pub no_interface: u64,
    /// IPv4 fragments and packets with options.
    pub unsupported: u64,
    /// Answers that nobody asked for.
    pub unexpected: u64,
    /// ARP replies and neighbour advertisements sent.
    pub arp_replies: u64,
    /// Echo replies sent.
    pub echo_replies: u64,
    /// Claims of others to our addresses.
    pub conflicts: u64,
    /// DHCP refusals.
    pub naks: u64,
}

/// What a step of the stack may use.
pub(crate) struct Io<'a> {
    pub(crate) now: Instant,
    pub(crate) rng: &'a mut dyn Streams,
    pub(crate) out: &'a mut Out,
    pub(crate) log: &'a mut Log,
    pub(crate) counters: &'a mut StackCounters,
    pub(crate) neighbours: &'a mut Neighbours,
    /// A neighbour's MAC is new or another.
    pub(crate) learned: bool,
}

/// An IPv4 packet for us.
pub(crate) struct Ip4<'a> {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) payload: &'a [u8],
}

/// An echo reply: whom from, id, sequence, data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EchoReply {
    pub(crate) iface: usize,
    pub(crate) from: IpAddr,
    pub(crate) id: u16,
    pub(crate) sequence: u16,
}

/// How to reach a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) iface: usize,
    pub(crate) source: IpAddr,
    pub(crate) hop: IpAddr,
}

/// How far an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It has an address.
    Yes,
    /// It tries to get one.
    NotYet,
    /// Somebody else has its address.
    Conflict,
}

#[derive(Debug)]
enum Family {
    V4(V4),
    V6(Box<V6>),
}

/// One interface.
#[derive(Debug)]
pub(crate) struct Iface {
    pub(crate) config: IfaceConfig,
    family: Family,
}

impl Iface {
    fn new(config: IfaceConfig, mac: Mac, now: Instant) -> Self {
        let family = match config.address {
            Addressing::DhcpV4 => Family::V4(V4::dhcp(now)),
            Addressing::StaticV4 { address, prefix, gateway } => {
                Family::V4(V4::fixed(Net { address, prefix, gateway }, now))
            }
            Addressing::V6 { mode, link_local, router } => {
                Family::V6(Box::new(V6::new(mode, link_local, router, mac, now)))
            }
        };
        Self { config, family }
    }

    fn link(&self, mac: Mac) -> Link {
        Link { mac, tci: self.config.vlan.map(|v| v.tci()) }
    }

    fn ready(&self) -> Ready {
        let (usable, conflict) = match &self.family {
            Family::V4(v4) => (v4.net().is_some(), v4.conflict()),
            Family::V6(v6) => (v6.ready(), v6.conflict()),
        };
        match (usable, conflict) {
            (true, _) => Ready::Yes,
            (false, true) => Ready::Conflict,
            (false, false) => Ready::NotYet,
        }
    }
}

/// The stack.
#[derive(Debug)]
pub(crate) struct Stack {
    mac: Mac,
    ifaces: Vec<Iface>,
    /// Advances when an address or a route changes.
    pub(crate) version: u64,
}

impl Stack {
    pub(crate) fn new(configs: &[IfaceConfig], mac: Mac, now: Instant) -> Self {
        let ifaces = configs.iter().map(|c| Iface::new(c.clone(), mac, now)).collect();
        Self { mac, ifaces, version: 0 }
    }

    /// Adds or replaces one interface; the others go on.
    pub(crate) fn configure(
        &mut self,
        index: usize,
        config: &IfaceConfig,
        neighbours: &mut Neighbours,
        now: Instant,
    ) {
        let iface = Iface::new(config.clone(), self.mac, now);
        neighbours.forget(index);
        match self.ifaces.get_mut(index) {
            Some(slot) => *slot = iface,
            None => self.ifaces.push(iface),
        }
        self.version += 1;
    }

    /// The ring was opened again with the same MAC: addresses are kept, and said again.
    pub(crate) fn link_up(&mut self, now: Instant) {
        for i in &mut self.ifaces {
            match &mut i.family {
                Family::V4(v4) => v4.link_up(now),
                Family::V6(v6) => v6.link_up(now),
            }
        }
    }

    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    pub(crate) fn iface(&self, index: usize) -> Option<&Iface> {
        self.ifaces.get(index)
    }

    pub(crate) fn link_of(&self, index: usize) -> Option<Link> {
        self.ifaces.get(index).map(|i| i.link(self.mac))
    }

    pub(crate) fn ready(&self, index: usize) -> Ready {
        self.ifaces.get(index).map_or(Ready::NotYet, Iface::ready)
    }

    /// Whether every interface has an address or cannot have one.
    pub(crate) fn settled(&self) -> bool {
        self.ifaces.iter().all(|i| i.ready() != Ready::NotYet)
    }

    /// Usable addresses of an interface.
    pub(crate) fn addresses(&self, index: usize) -> Vec<IpAddr> {
        match self.ifaces.get(index).map(|i| &i.family) {
            Some(Family::V4(v4)) => v4.net().map(|n| n.address.into()).into_iter().collect(),
            Some(Family::V6(v6)) => v6.usable().map(IpAddr::from).collect(),
            None => Vec::new(),
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.ifaces.iter().fold(None, |next, i| {
            let own = match &i.family {
                Family::V4(v4) => v4.next(),
                Family::V6(v6) => v6.next(),
            };
            Instant::earliest(next, own)
        })
    }

    /// Does what is due.
    pub(crate) fn poll(&mut self, io: &mut Io<'_>) {
        io.neighbours.age(io.now);
        for i in &mut self.ifaces {
            let link = i.link(self.mac);
            let changed = match &mut i.family {
                Family::V4(v4) => v4.poll(io, link),
                Family::V6(v6) => v6.poll(io, link),
            };
            self.version += u64::from(changed);
        }
    }

    /// The interface for `dst`: that of its family and VLAN, or without one the newest of its family.
    fn choose(&self, dst: IpAddr, vlan: u16) -> Option<usize> {
        let of_family = |i: &Iface| i.config.address.is_v6() == dst.is_ipv6();
        let exact = self.ifaces.iter().rposition(|i| of_family(i) && i.config.vlan_id() == vlan);
        exact.or_else(|| self.ifaces.iter().rposition(of_family))
    }

    /// How far the interface for `dst` is, if there is one.
    pub(crate) fn readiness(&self, dst: IpAddr, vlan: u16) -> Option<Ready> {
        self.choose(dst, vlan).map(|i| self.ready(i))
    }

    /// Where `dst` is.
    pub(crate) fn route(&self, dst: IpAddr, vlan: u16) -> Option<Route> {
        let iface = self.choose(dst, vlan)?;
        let (source, hop) = match (&self.ifaces[iface].family, dst) {
            (Family::V4(v4), IpAddr::V4(d)) => {
                let net = v4.net()?;
                let hop = if same_v4(net.address, d, net.prefix) { d } else { net.gateway.unwrap_or(d) };
                (net.address.into(), hop.into())
            }
            (Family::V6(v6), IpAddr::V6(d)) => {
                let (source, hop) = v6.route(d)?;
                (source.into(), hop.into())
            }
            _ => return None,
        };
        Some(Route { iface, source, hop })
    }

    /// A hop does not answer: another router shall be tried before it.
    pub(crate) fn unreachable(&mut self, iface: usize, hop: IpAddr) {
        if let (Some(Family::V6(v6)), IpAddr::V6(router)) =
            (self.ifaces.get_mut(iface).map(|i| &mut i.family), hop)
        {
            self.version += u64::from(v6.demote(router));
        }
    }

    /// Asks who has `hop`: everybody, or only the one who had it.
    pub(crate) fn solicit(
        &self,
        out: &mut Out,
        neighbours: &mut Neighbours,
        now: Instant,
        route: Route,
        only: Option<Mac>,
    ) {
        let Some(link) = self.link_of(route.iface) else { return };
        neighbours.ask(route.iface, route.hop, now);
        match (route.source, route.hop) {
            (IpAddr::V4(source), IpAddr::V4(hop)) => {
                let target = ([0; 6], hop);
                out.arp(link, only.unwrap_or(BROADCAST), ArpOperation::Request, source, target);
            }
            (IpAddr::V6(source), IpAddr::V6(hop)) => {
                let lladdr = Some(RawHardwareAddress::from_bytes(&self.mac));
                let ask = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: hop, lladdr });
                let (mac, dst) = match only {
                    Some(mac) => (mac, hop),
                    None => (group_mac(solicited_node(hop)), solicited_node(hop)),
                };
                out.icmp6(link, mac, source, dst, 255, &ask);
            }
            _ => {}
        }
    }

    /// Takes a frame. Returns an echo reply, if it was one for us.
    pub(crate) fn input(&mut self, io: &mut Io<'_>, bytes: &[u8], tci: u16) -> Option<EchoReply> {
        let Ok(frame) = EthernetFrame::new_checked(bytes) else {
            io.counters.malformed += 1;
            return None;
        };
        let (from, to) = (frame.src_addr().0, frame.dst_addr().0);
        if from == self.mac || from[0] & 1 != 0 || (to != self.mac && to[0] & 1 == 0) {
            io.counters.not_for_us += 1;
            return None;
        }
        let v6 = match frame.ethertype() {
            EthernetProtocol::Arp | EthernetProtocol::Ipv4 => false,
            EthernetProtocol::Ipv6 => true,
            _ => {
                io.counters.not_for_us += 1;
                return None;
            }
        };
        let mine = |i: &Iface| i.config.address.is_v6() == v6 && i.config.vlan_id() == tci & 0xfff;
        let Some(index) = self.ifaces.iter().position(mine) else {
            io.counters.no_interface += 1;
            return None;
        };
        let iface = &mut self.ifaces[index];
        let link = iface.link(self.mac);
        let mut changed = false;
        let echo = match (&mut iface.family, frame.ethertype()) {
            (Family::V4(v4), EthernetProtocol::Arp) => {
                match ArpPacket::new_checked(frame.payload()).and_then(|p| ArpRepr::parse(&p)) {
                    Ok(arp) => changed = v4.arp(io, link, index, &arp),
                    Err(_) => io.counters.malformed += 1,
                }
                None
            }
            (Family::V4(v4), _) => ipv4(v4, io, (link, index), from, frame.payload(), &mut changed),
            (Family::V6(v6), _) => v6.input(io, (link, index), from, frame.payload(), &mut changed),
        };
        self.version += u64::from(changed);
        if changed {
            let name = &self.ifaces[index].config.name;
            io.log.add(Level::Debug, || format!("{name}: addresses or routes have changed"));
        }
        echo
    }
}

/// Takes an IPv4 packet.
fn ipv4(
    v4: &mut V4,
    io: &mut Io<'_>,
    (link, index): (Link, usize),
    mac: Mac,
    bytes: &[u8],
    changed: &mut bool,
) -> Option<EchoReply> {
    let caps = ChecksumCapabilities::default();
    let parsed = Ipv4Packet::new_checked(bytes).and_then(|p| Ok((Ipv4Repr::parse(&p, &caps)?, p)));
    let Ok((ip, packet)) = parsed else {
        io.counters.malformed += 1;
        return None;
    };
    if packet.header_len() != 20 || packet.more_frags() || packet.frag_offset() != 0 {
        io.counters.unsupported += 1;
        return None;
    }
    let own = v4.net().filter(|n| n.address == ip.dst_addr);
    let ip4 = Ip4 { from: ip.src_addr, to: ip.dst_addr, payload: packet.payload() };
    match ip.next_header {
        IpProtocol::Udp if v4.wants_dhcp() => {
            let (s, d) = (IpAddress::Ipv4(ip4.from), IpAddress::Ipv4(ip4.to));
            let udp =
                UdpPacket::new_checked(ip4.payload).and_then(|p| Ok((UdpRepr::parse(&p, &s, &d, &caps)?, p)));
            let Ok((udp, datagram)) = udp else {
                io.counters.malformed += 1;
                return None;
            };
            if (udp.src_port, udp.dst_port) != (dhcp4::SERVER_PORT, dhcp4::CLIENT_PORT) {
                io.counters.not_for_us += 1;
                return None;
            }
            *changed = v4.dhcp_input(io, link, mac, datagram.payload());
            None
        }
        IpProtocol::Icmp if own.is_some() => {
            if own.is_some_and(|n| same_net(n, ip4.from)) {
                io.learned |= io.neighbours.heard(index, ip4.from.into(), mac, io.now);
            }
            let Ok(icmp) = Icmpv4Packet::new_checked(ip4.payload)
                .and_then(|p| Icmpv4Repr::parse(&p, &caps).map(|r| (p, r)))
            else {
                io.counters.malformed += 1;
                return None;
            };
            match icmp.1 {
                Icmpv4Repr::EchoReply { ident, seq_no, .. } => {
                    Some(EchoReply { iface: index, from: ip4.from.into(), id: ident, sequence: seq_no })
                }
                Icmpv4Repr::EchoRequest { .. } => {
                    v4.echo(io, link, mac, &ip4, &icmp.1);
                    None
                }
                _ => None,
            }
        }
        _ => {
            io.counters.not_for_us += 1;
            None
        }
    }
}

/// Whether an address is a neighbour's.
pub(crate) fn same_net(net: Net, other: Ipv4Addr) -> bool {
    same_v4(net.address, other, net.prefix) && other != net.address
}

/// Whether an address can be that of a host, ours or a neighbour's.
pub(crate) fn unicast6(a: Ipv6Addr) -> bool {
    host(a.into(), 128).is_ok()
}
