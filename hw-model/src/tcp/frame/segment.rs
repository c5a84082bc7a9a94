//! Segments on the wire: which connection they belong to, and the answer to those that belong to none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ether::{self, Ip};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const TTL: u8 = 64;

/// The two ends of a connection, as this side sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tuple {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Tuple {
    /// What spreads connections over the index: one of the ports is the same for all, the other is not.
    pub(super) fn bucket(&self, buckets: usize) -> usize {
        usize::from(self.local.port() ^ self.remote.port()) % buckets
    }
}

/// A TCP segment in a frame: where things are.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub(super) ip: Ip,
    pub(super) tuple: Tuple,
    flags: u8,
    /// The window is closed.
    pub(super) window_zero: bool,
    /// Sequence number after its last byte. `None`: it has no bytes.
    pub(super) data_end: Option<u32>,
}

impl Segment {
    /// The segment in a frame. `None`: no TCP, a fragment, or too short for its headers.
    #[must_use]
    pub fn find(frame: &[u8]) -> Option<Self> {
        let ip = ether::parse(frame).filter(|ip| ip.protocol == ether::TCP && !ip.fragment)?;
        Self::parse(frame, ip)
    }

    /// Looks at an IP datagram that says it is TCP and is no fragment. `None`: too short for its headers.
    pub(crate) fn parse(frame: &[u8], ip: Ip) -> Option<Self> {
        let tcp = frame.get(ip.l4..ip.end)?;
        if tcp.len() < 20 {
            return None;
        }
        let port = |at| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let (source, destination) = addresses(&ip, frame);
        let tuple =
            Tuple { local: SocketAddr::new(destination, port(2)), remote: SocketAddr::new(source, port(0)) };
        let bytes = payload(tcp).map_or(0, |p| p.len() as u32);
        let data_end = (bytes > 0).then(|| number(tcp, 4).wrapping_add(bytes));
        Some(Self { ip, tuple, flags: tcp[13], window_zero: port(14) == 0, data_end })
    }

    /// The address and port that it is for.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.tuple.local
    }

    /// The address and port that it comes from.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.tuple.remote
    }

    /// A connection is asked for.
    #[must_use]
    pub fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    pub(super) fn is_fin(&self) -> bool {
        self.flags & FIN != 0
    }

    pub(super) fn is_rst(&self) -> bool {
        self.flags & RST != 0
    }
}

/// What follows the header. `None`: the header says that it is longer than the segment.
fn payload(tcp: &[u8]) -> Option<&[u8]> {
    tcp.get(usize::from(tcp[12] >> 4) * 4..)
}

fn number(tcp: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]])
}

/// The window that a segment of smoltcp's announces: what it acknowledges, and its window field. `None`:
/// smoltcp does not remember it, as for keep-alive (one zero byte in front of the next) and RST.
pub(super) fn announced(datagram: &[u8]) -> Option<(u32, u16)> {
    let tcp = datagram.get(if datagram[0] >> 4 == 4 { 20 } else { 40 }..)?;
    let remembered = tcp[13] & (ACK | RST) == ACK && payload(tcp)? != [0];
    remembered.then(|| (number(tcp, 8), u16::from_be_bytes([tcp[14], tcp[15]])))
}

fn addresses(ip: &Ip, frame: &[u8]) -> (IpAddr, IpAddr) {
    let a = ip.addresses(frame);
    if let Ok(a) = <[u8; 8]>::try_from(a) {
        let [s0, s1, s2, s3, d0, d1, d2, d3] = a;
        (Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into())
    } else {
        let v6 = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&a[at..at + 16]);
            Ipv6Addr::from(bytes).into()
        };
        (v6(0), v6(16))
    }
}

/// The RST that answers a segment of no connection (RFC 9293 3.5.2), in `out`. False: a RST is not answered,
/// nor is what has a wrong checksum, unless checksums do not count.
pub(super) fn refuse(frame: &[u8], s: &Segment, check: bool, out: &mut Vec<u8>) -> bool {
    let (ip, tcp) = (&s.ip, &frame[s.ip.l4..s.ip.end]);
    let right = |sum| ether::fold(sum) == 0xffff;
    let damaged = !right(ip.pseudo(frame, tcp.len()) + ether::sum(tcp))
        || ip.v4 && !right(ether::sum(&frame[ip.l3..ip.l4]));
    let header = usize::from(tcp[12] >> 4) * 4;
    if s.is_rst() || check && damaged || header < 20 || header > tcp.len() {
        return false;
    }
    out.clear();
    out.extend_from_slice(&frame[6..12]);
    out.extend_from_slice(&frame[..6]);
    out.extend_from_slice(&frame[12..ip.l3]);
    let a = ip.addresses(frame);
    let (source, destination) = a.split_at(a.len() / 2);
    if ip.v4 {
        out.extend_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, TTL, ether::TCP, 0, 0]);
    } else {
        out.extend_from_slice(&[0x60, 0, 0, 0, 0, 20, ether::TCP, TTL]);
    }
    out.extend_from_slice(destination);
    out.extend_from_slice(source);
    out.extend_from_slice(&tcp[2..4]);
    out.extend_from_slice(&tcp[..2]);
    if s.flags & ACK != 0 {
        out.extend_from_slice(&tcp[8..12]);
        out.extend_from_slice(&[0, 0, 0, 0, 0x50, RST]);
    } else {
        let sequence = number(tcp, 4);
        let length = (tcp.len() - header) as u32 + u32::from(s.flags & SYN != 0) + u32::from(s.is_fin());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&sequence.wrapping_add(length).to_be_bytes());
        out.extend_from_slice(&[0x50, RST | ACK]);
    }
    out.extend_from_slice(&[0; 6]);
    if let Some(ip) = ether::parse(out) {
        if ip.v4 {
            ether::fill_ipv4_checksum(out, &ip);
        }
        ether::fill_l4_checksum(out, &ip);
    }
    true
}
