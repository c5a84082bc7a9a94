//! What a station says when it is asked: ARP, neighbour solicitation, echo.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr,
};

use super::StationConfig;

const TAG: [u8; 2] = [0x81, 0];
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A neighbour was told.
    Resolved,
    /// An echo was sent back.
    Echoed,
    /// It was for somebody else.
    Foreign,
    /// There is no answer.
    Ignored,
}

/// Whether the station has that address, or is its router.
pub(super) fn serves(c: &StationConfig, ip: IpAddr) -> bool {
    owns(c, ip) || c.behind.contains(&ip)
}

fn owns(c: &StationConfig, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip == c.ipv4,
        IpAddr::V6(ip) => ip == c.ipv6 || ip == link_local(c.mac),
    }
}

/// RFC 4291, appendix A.
pub(super) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

/// Whether a frame has the tag that the station's have.
pub(super) fn same_vlan(c: &StationConfig, frame: &[u8]) -> bool {
    let id = match frame.get(12..16) {
        Some([0x81, 0, high, low]) => u16::from_be_bytes([*high, *low]) & 0xfff,
        _ => 0,
    };
    id == c.vlan.unwrap_or(0)
}

/// Answers `frame` in `out`, if there is an answer.
pub(super) fn answer(c: &StationConfig, frame: &[u8], out: &mut Vec<u8>) -> Verdict {
    if frame.len() < 14 || !same_vlan(c, frame) || frame[0] & 1 == 0 && frame[..6] != c.mac {
        return Verdict::Foreign;
    }
    let at = if frame[12..14] == TAG { 18 } else { 14 };
    let (Some(kind), Some(payload)) = (frame.get(at - 2..at), frame.get(at..)) else {
        return Verdict::Ignored;
    };
    let mut from = [0; 6];
    from.copy_from_slice(&frame[6..12]);
    let verdict = match EthernetProtocol::from(u16::from_be_bytes([kind[0], kind[1]])) {
        EthernetProtocol::Arp => arp(c, payload, out),
        EthernetProtocol::Ipv4 => echo_v4(c, from, payload, out),
        EthernetProtocol::Ipv6 => icmp_v6(c, from, payload, out),
        _ => None,
    };
    verdict.unwrap_or(Verdict::Ignored)
}

/// Starts a frame of the station with room for `bytes`, and returns that room.
fn start<'a>(
    c: &StationConfig,
    to: [u8; 6],
    kind: EthernetProtocol,
    bytes: usize,
    out: &'a mut Vec<u8>,
) -> &'a mut [u8] {
    out.clear();
    out.extend_from_slice(&to);
    out.extend_from_slice(&c.mac);
    if let Some(vlan) = c.vlan {
        out.extend_from_slice(&TAG);
        out.extend_from_slice(&vlan.to_be_bytes());
    }
    out.extend_from_slice(&u16::from(kind).to_be_bytes());
    let at = out.len();
    out.resize(at + bytes, 0);
    &mut out[at..]
}

fn emit_arp(c: &StationConfig, to: [u8; 6], repr: &ArpRepr, out: &mut Vec<u8>) {
    let room = start(c, to, EthernetProtocol::Arp, repr.buffer_len(), out);
    repr.emit(&mut ArpPacket::new_unchecked(room));
}

fn arp(c: &StationConfig, payload: &[u8], out: &mut Vec<u8>) -> Option<Verdict> {
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: ip,
        target_protocol_addr: wanted,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(payload).ok()?).ok()?
    else {
        return None;
    };
    if wanted != c.ipv4 && !c.claims.contains(&wanted.into()) {
        return Some(Verdict::Foreign);
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(c.mac),
        source_protocol_addr: wanted,
        target_hardware_addr: mac,
        target_protocol_addr: ip,
    };
    emit_arp(c, mac.0, &reply, out);
    Some(Verdict::Resolved)
}

/// Says to all that it has `address`: a gratuitous ARP request.
pub(super) fn announce_v4(c: &StationConfig, address: Ipv4Addr, out: &mut Vec<u8>) {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(c.mac),
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    emit_arp(c, BROADCAST, &request, out);
}

/// Says to all that it has `address`: an unsolicited neighbour advertisement.
pub(super) fn announce_v6(c: &StationConfig, address: Ipv6Addr, out: &mut Vec<u8>) {
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: address,
        lladdr: Some(EthernetAddress(c.mac).into()),
    });
    emit_v6(c, [0x33, 0x33, 0, 0, 0, 1], address, ALL_NODES, &advert, out);
}

fn echo_v4(c: &StationConfig, from: [u8; 6], payload: &[u8], out: &mut Vec<u8>) -> Option<Verdict> {
    let caps = ChecksumCapabilities::default();
    let packet = Ipv4Packet::new_checked(payload).ok()?;
    let ip = Ipv4Repr::parse(&packet, &caps).ok()?;
    if !serves(c, ip.dst_addr.into()) {
        return Some(Verdict::Foreign);
    }
    if ip.next_header != IpProtocol::Icmp || packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let question = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let Icmpv4Repr::EchoRequest { ident, seq_no, data } = Icmpv4Repr::parse(&question, &caps).ok()? else {
        return None;
    };
    let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
    let header = Ipv4Repr {
        src_addr: ip.dst_addr,
        dst_addr: ip.src_addr,
        next_header: IpProtocol::Icmp,
        payload_len: reply.buffer_len(),
        hop_limit: 64,
    };
    let room = start(c, from, EthernetProtocol::Ipv4, header.buffer_len() + reply.buffer_len(), out);
    let mut packet = Ipv4Packet::new_unchecked(room);
    header.emit(&mut packet, &caps);
    reply.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &caps);
    Some(Verdict::Echoed)
}

fn emit_v6(
    c: &StationConfig,
    to: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &Icmpv6Repr<'_>,
    out: &mut Vec<u8>,
) {
    let header = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let room = start(c, to, EthernetProtocol::Ipv6, header.buffer_len() + message.buffer_len(), out);
    let mut packet = Ipv6Packet::new_unchecked(room);
    header.emit(&mut packet);
    let caps = ChecksumCapabilities::default();
    message.emit(&source, &destination, &mut Icmpv6Packet::new_unchecked(packet.payload_mut()), &caps);
}

fn icmp_v6(c: &StationConfig, from: [u8; 6], payload: &[u8], out: &mut Vec<u8>) -> Option<Verdict> {
    let packet = Ipv6Packet::new_checked(payload).ok()?;
    let ip = Ipv6Repr::parse(&packet).ok()?;
    if ip.next_header != IpProtocol::Icmpv6 {
        return None;
    }
    let caps = ChecksumCapabilities::default();
    let question = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    match Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &question, &caps).ok()? {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) => {
            if !owns(c, target_addr.into()) && !c.claims.contains(&target_addr.into()) {
                return Some(Verdict::Foreign);
            }
            let probe = ip.src_addr.is_unspecified();
            let solicited = if probe { NdiscNeighborFlags::empty() } else { NdiscNeighborFlags::SOLICITED };
            let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: solicited | NdiscNeighborFlags::OVERRIDE,
                target_addr,
                lladdr: Some(EthernetAddress(c.mac).into()),
            });
            let destination = if probe { ALL_NODES } else { ip.src_addr };
            emit_v6(c, from, target_addr, destination, &advert, out);
            Some(Verdict::Resolved)
        }
        Icmpv6Repr::EchoRequest { ident, seq_no, data } => {
            if !serves(c, ip.dst_addr.into()) {
                return Some(Verdict::Foreign);
            }
            let reply = Icmpv6Repr::EchoReply { ident, seq_no, data };
            emit_v6(c, from, ip.dst_addr, ip.src_addr, &reply, out);
            Some(Verdict::Echoed)
        }
        _ => None,
    }
}
