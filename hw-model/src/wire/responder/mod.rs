//! The responder: the other end of a cable where every address answers.
//!
//! It stands for the whole network: whoever the host asks for by ARP or neighbour solicitation exists and has
//! a MAC made of its address, every address answers ICMP and ICMPv6 echo, and one router advertises a prefix
//! and serves DHCPv4 and DHCPv6. That is what a driver needs to prove that its rings work, and what offloaded
//! connections need before host sockets carry them, without privileges and without a network. An answer goes
//! back in the VLAN of its question. But for the DHCPv4 leases, answers are a pure function of the question.
//!
//! The network that it describes, in constants below: 10.0.0.0/24 with router and DHCP server 10.0.0.254 and
//! leases from 10.0.0.100 on, and fd00::/64 with router fe80::fe. Hosts may have any other address.
//!
//! Not modelled: reassembly (fragments of an IPv4 echo are answered one by one, which adds up to the same;
//! those of IPv6 are not), TCP and other UDP (no answer, no ICMP error), unsolicited advertisements, DHCP
//! relays.
//!
//! ARP probes and announcements, and solicitations of a host that checks its own address, are not answered:
//! they would look like an address conflict.

mod arp;
mod dhcp;
mod dhcp6;
mod icmp;
mod ndp;
#[cfg(test)]
pub(crate) mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};

use bus::Instant;
use bus::pci::DevCx;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr};

use super::{FrameQueue, Wire};
use crate::ether::{self, ICMP, Ip, UDP};
use dhcp::Leases;

/// Answers that wait at most; more are dropped and counted.
const ANSWERS: usize = 256;

/// Protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// Hop limit of what is not neighbour discovery.
const TTL: u8 = 64;

/// Router and DHCP server.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// Mask of its network, in bits.
const MASK_BITS: u8 = 24;
/// The first address that DHCP gives.
const FIRST_LEASE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// Addresses that DHCP gives at most.
const LEASES: usize = 32;
/// How long a lease holds, in seconds.
const LEASE_S: u32 = 3600;
/// IPv6 router and DHCPv6 server.
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe);
/// The advertised /64.
const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0);

/// What the responder saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponderCounters {
    /// Frames of the card.
    pub frames: u64,
    /// ARP requests that were answered.
    pub arps: u64,
    /// Echo requests of either family, and fragments of them, that were answered.
    pub echoes: u64,
    /// Neighbour solicitations that were answered.
    pub neighbours: u64,
    /// Router solicitations that were answered.
    pub routers: u64,
    /// DHCPv4 and DHCPv6 messages that were answered.
    pub dhcp: u64,
    /// DHCPv4 requests that were refused (NAK).
    pub dhcp_refused: u64,
    /// DISCOVERs for which no address was left.
    pub dhcp_exhausted: u64,
    /// Frames with a wrong checksum where an answer would have been due.
    pub bad_checksums: u64,
    /// Answers that found the queue full.
    pub dropped: u64,
}

/// Every address of a network, its router and its DHCP server.
#[derive(Debug)]
pub struct Responder {
    answers: FrameQueue,
    leases: Leases,
    counters: ResponderCounters,
}

impl Default for Responder {
    fn default() -> Self {
        Self {
            answers: FrameQueue::new(ANSWERS),
            leases: Leases::new(LEASE_S),
            counters: ResponderCounters::default(),
        }
    }
}

impl Responder {
    /// One whose DHCPv4 leases hold for so many seconds.
    #[must_use]
    pub fn with_lease(seconds: u32) -> Self {
        Self { leases: Leases::new(seconds), ..Self::default() }
    }

    /// Takes all DHCPv4 leases back: whoever renews one is refused, and gets another address.
    pub fn take_back(&mut self, now: Instant) {
        self.leases.take_back(now);
    }

    /// Whether a frame is a question to a DHCPv4 server: for a network in which others answer everything
    /// else.
    #[must_use]
    pub fn is_dhcp(frame: &[u8]) -> bool {
        ether::parse(frame).is_some_and(|ip| {
            ip.v4 && ip.protocol == UDP && !ip.fragment && ether::word(frame, ip.l4 + 2) == Some(dhcp::SERVER)
        })
    }

    /// Takes in a frame that was sent to it.
    pub fn ask(&mut self, now: Instant, frame: &[u8]) {
        self.counters.frames += 1;
        match ether::payload(frame) {
            Some((ether::TYPE_ARP, at)) => self.arp(frame, at),
            Some((ether::TYPE_IPV4 | ether::TYPE_IPV6, _)) => self.ip(now, frame),
            _ => {}
        }
    }

    /// Its next answer replaces `frame`, if there is one.
    pub fn answered(&mut self, frame: &mut Vec<u8>) -> bool {
        self.answers.pop(frame)
    }

    /// What it saw.
    #[must_use]
    pub fn counters(&self) -> ResponderCounters {
        ResponderCounters { dropped: self.answers.dropped(), ..self.counters }
    }

    /// The MAC of an IPv4 address: locally administered, then the address.
    #[must_use]
    pub const fn mac_of(ip: [u8; 4]) -> [u8; 6] {
        [0x02, 0x00, ip[0], ip[1], ip[2], ip[3]]
    }

    /// The MAC of an IPv6 address: locally administered, then the address's last four bytes.
    #[must_use]
    pub const fn mac_of_v6(ip: Ipv6Addr) -> [u8; 6] {
        let o = ip.octets();
        [0x02, 0x06, o[12], o[13], o[14], o[15]]
    }

    fn ip(&mut self, now: Instant, frame: &[u8]) {
        let Some(ip) = ether::parse(frame) else { return };
        match (ip.v4, ip.protocol) {
            (true, ICMP) => self.echo(frame, &ip),
            (true, UDP) => self.dhcp(now, frame, &ip),
            (false, ICMPV6) if !ip.fragment => self.icmpv6(frame, &ip),
            (false, UDP) => self.dhcpv6(frame, &ip),
            _ => {}
        }
    }

    /// The payload of a UDP datagram to `port`, if its checksum is right.
    fn datagram<'a>(&mut self, frame: &'a [u8], ip: &Ip, port: u16) -> Option<&'a [u8]> {
        let header = 8;
        if ip.fragment || ip.l4 + header > ip.end || ether::word(frame, ip.l4 + 2) != Some(port) {
            return None;
        }
        let length = usize::from(ether::word(frame, ip.l4 + 4)?);
        if length < header || ip.l4 + length > ip.end {
            return None;
        }
        let datagram = &frame[ip.l4..ip.l4 + length];
        let checked = ether::word(frame, ip.l4 + 6) != Some(0);
        if checked && ether::fold(ip.pseudo(frame, length) + ether::sum(datagram)) != 0xffff {
            self.counters.bad_checksums += 1;
            return None;
        }
        Some(&datagram[header..])
    }

    /// Queues an answer to `frame`: its link header (with its VLAN tag) with these addresses, then `payload`,
    /// filled by `fill`. False: there was no room.
    fn answer(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        [source, destination]: [[u8; 6]; 2],
        payload: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        let Some(answer) = self.answers.push(&frame[..ip.l3]) else { return false };
        answer[..6].copy_from_slice(&destination);
        answer[6..12].copy_from_slice(&source);
        answer.resize(ip.l3 + payload, 0);
        fill(&mut answer[ip.l3..]);
        true
    }
}

impl Wire for Responder {
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        self.ask(cx.now, frame);
    }

    fn recv(&mut self, _: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        self.answered(frame)
    }

    /// Answers are there as soon as the question is: the card takes them in the step that sent it, or, when
    /// its budget was used up, in the next. Leases end by themselves when somebody else wants the address.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

/// Where the source MAC of a frame is.
fn source_of(frame: &[u8]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&frame[6..12]);
    mac
}

/// Source and destination of an IPv6 datagram.
fn addresses_v6(frame: &[u8], ip: &Ip) -> [Ipv6Addr; 2] {
    let (all, _) = ip.addresses(frame).as_chunks::<16>();
    [all[0].into(), all[1].into()]
}

/// Bytes of IPv4 and UDP around a payload.
const fn udp4_len(payload: usize) -> usize {
    20 + 8 + payload
}

/// Writes IPv4, UDP and `payload` into a buffer of [`udp4_len`] bytes.
fn emit_udp4(out: &mut [u8], [from, to]: [(Ipv4Addr, u16); 2], payload: &[u8]) {
    let caps = ChecksumCapabilities::default();
    let repr = Ipv4Repr {
        src_addr: from.0,
        dst_addr: to.0,
        next_header: IpProtocol::Udp,
        payload_len: 8 + payload.len(),
        hop_limit: TTL,
    };
    let mut packet = Ipv4Packet::new_unchecked(out);
    repr.emit(&mut packet, &caps);
    UdpRepr { src_port: from.1, dst_port: to.1 }.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &from.0.into(),
        &to.0.into(),
        payload.len(),
        |b| b.copy_from_slice(payload),
        &caps,
    );
}

/// Writes an IPv6 header for `payload_len` bytes of `protocol` and returns where they go.
fn emit_ipv6(
    out: &mut [u8],
    [from, to]: [Ipv6Addr; 2],
    protocol: IpProtocol,
    payload_len: usize,
    hop_limit: u8,
) -> &mut [u8] {
    let repr = Ipv6Repr { src_addr: from, dst_addr: to, next_header: protocol, payload_len, hop_limit };
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut *out));
    &mut out[40..]
}
