//! Frames on their way out: a bounded queue of reusable buffers, and the builders that fill them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

use crate::neighbours::Mac;
use crate::ring::LARGEST_TX;

/// Frames that wait for the transmit buffer.
pub(crate) const QUEUE: usize = 32;

const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const ICMP_ECHO: usize = 8;

/// The broadcast address.
pub(crate) const BROADCAST: Mac = [0xff; 6];

/// A frame that waits.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tci: Option<u16>,
}

/// The queue. Buffers are kept for use again.
#[derive(Debug, Default)]
pub(crate) struct Out {
    queue: VecDeque<Waiting>,
    spare: Vec<Vec<u8>>,
    /// Bytes that a frame may carry behind its Ethernet header.
    pub(crate) mtu: usize,
    /// Frames dropped because the queue was full.
    pub(crate) full: u64,
    /// Frames not made because they are longer than the MTU.
    pub(crate) oversize: u64,
}

/// Who sends, from where: an interface's link layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) mac: Mac,
    pub(crate) tci: Option<u16>,
}

impl Out {
    pub(crate) fn front(&self) -> Option<&Waiting> {
        self.queue.front()
    }

    pub(crate) fn pop(&mut self) {
        if let Some(w) = self.queue.pop_front() {
            self.spare.push(w.bytes);
        }
    }

    pub(crate) fn clear(&mut self) {
        while !self.queue.is_empty() {
            self.pop();
        }
    }

    /// A frame with room for `payload` bytes, filled by `fill`. Too long or one too many: dropped and
    /// counted.
    fn push(
        &mut self,
        link: Link,
        to: Mac,
        kind: EthernetProtocol,
        payload: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        if payload > self.mtu {
            self.oversize += 1;
            return;
        }
        if self.queue.len() == QUEUE {
            self.full += 1;
            return;
        }
        let mut bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(LARGEST_TX));
        bytes.clear();
        bytes.resize(ETHERNET + payload, 0);
        EthernetRepr { src_addr: EthernetAddress(link.mac), dst_addr: EthernetAddress(to), ethertype: kind }
            .emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
        fill(&mut bytes[ETHERNET..]);
        self.queue.push_back(Waiting { bytes, tci: link.tci });
    }

    /// An ARP request or reply.
    pub(crate) fn arp(
        &mut self,
        link: Link,
        to: Mac,
        operation: ArpOperation,
        from: Ipv4Addr,
        target: (Mac, Ipv4Addr),
    ) {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(link.mac),
            source_protocol_addr: from,
            target_hardware_addr: EthernetAddress(target.0),
            target_protocol_addr: target.1,
        };
        self.push(link, to, EthernetProtocol::Arp, ARP, |b| repr.emit(&mut ArpPacket::new_unchecked(b)));
    }

    /// An ICMP echo.
    pub(crate) fn echo4(
        &mut self,
        link: Link,
        to: Mac,
        from: Ipv4Addr,
        dst: Ipv4Addr,
        icmp: &Icmpv4Repr<'_>,
    ) {
        let repr = Ipv4Repr {
            src_addr: from,
            dst_addr: dst,
            next_header: IpProtocol::Icmp,
            payload_len: icmp.buffer_len(),
            hop_limit: 64,
        };
        self.push(link, to, EthernetProtocol::Ipv4, IPV4 + icmp.buffer_len(), |b| {
            repr.emit(&mut Ipv4Packet::new_unchecked(&mut *b), &ChecksumCapabilities::default());
            icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut b[IPV4..]), &ChecksumCapabilities::default());
        });
    }

    /// An ICMPv6 message.
    pub(crate) fn icmp6(
        &mut self,
        link: Link,
        to: Mac,
        from: Ipv6Addr,
        dst: Ipv6Addr,
        hops: u8,
        icmp: &Icmpv6Repr<'_>,
    ) {
        let repr = Ipv6Repr {
            src_addr: from,
            dst_addr: dst,
            next_header: IpProtocol::Icmpv6,
            payload_len: icmp.buffer_len(),
            hop_limit: hops,
        };
        self.push(link, to, EthernetProtocol::Ipv6, IPV6 + icmp.buffer_len(), |b| {
            repr.emit(&mut Ipv6Packet::new_unchecked(&mut *b));
            let caps = ChecksumCapabilities::default();
            icmp.emit(&from, &dst, &mut Icmpv6Packet::new_unchecked(&mut b[IPV6..]), &caps);
        });
    }

    /// A UDP datagram.
    pub(crate) fn udp(
        &mut self,
        link: Link,
        to: Mac,
        from: (IpAddr, u16),
        dst: (IpAddr, u16),
        payload: &[u8],
    ) {
        let udp = UdpRepr { src_port: from.1, dst_port: dst.1 };
        let length = UDP + payload.len();
        let caps = ChecksumCapabilities::default();
        let datagram = |b: &mut [u8], s: IpAddr, d: IpAddr| {
            let mut packet = UdpPacket::new_unchecked(b);
            let (s, d) = (IpAddress::from(s), IpAddress::from(d));
            udp.emit(&mut packet, &s, &d, payload.len(), |p| p.copy_from_slice(payload), &caps);
        };
        match (from.0, dst.0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let next_header = IpProtocol::Udp;
                let ip =
                    Ipv4Repr { src_addr: s, dst_addr: d, next_header, payload_len: length, hop_limit: 64 };
                self.push(link, to, EthernetProtocol::Ipv4, IPV4 + length, |b| {
                    ip.emit(&mut Ipv4Packet::new_unchecked(&mut *b), &caps);
                    datagram(&mut b[IPV4..], s.into(), d.into());
                });
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                // A client's messages stay on the link.
                let next_header = IpProtocol::Udp;
                let ip =
                    Ipv6Repr { src_addr: s, dst_addr: d, next_header, payload_len: length, hop_limit: 1 };
                self.push(link, to, EthernetProtocol::Ipv6, IPV6 + length, |b| {
                    ip.emit(&mut Ipv6Packet::new_unchecked(&mut *b));
                    datagram(&mut b[IPV6..], s.into(), d.into());
                });
            }
            _ => {}
        }
    }
}

/// Bytes of IP and ICMP headers in front of an echo's data.
pub(crate) fn echo_headers(v6: bool) -> usize {
    ICMP_ECHO + if v6 { IPV6 } else { IPV4 }
}

/// The MAC of an IPv6 multicast group.
pub(crate) fn group_mac(a: Ipv6Addr) -> Mac {
    let o = a.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// The solicited-node group of an address.
pub(crate) fn solicited_node(a: Ipv6Addr) -> Ipv6Addr {
    let o = a.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), u16::from(o[14]) << 8 | u16::from(o[15]))
}
