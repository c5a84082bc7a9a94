//! Ethernet frames as the card looks at them: where the headers are, checksums, CRC.
//!
//! Frames here have neither preamble nor FCS. Parsing goes as deep as the hardware does: one VLAN tag, IPv4
//! with options, IPv6 with hop-by-hop, routing and destination options. Not modelled: SNAP, tunnels, nested
//! tags.

/// Bytes of destination, source and type.
pub(crate) const HEADER: usize = 14;
/// Bytes of a VLAN tag.
pub(crate) const VLAN_TAG: usize = 4;
/// Type of a VLAN tag.
pub(crate) const TYPE_VLAN: u16 = 0x8100;
/// Type of ARP.
pub(crate) const TYPE_ARP: u16 = 0x0806;
/// Type of IPv4.
pub(crate) const TYPE_IPV4: u16 = 0x0800;
/// Type of IPv6.
pub(crate) const TYPE_IPV6: u16 = 0x86dd;
/// Protocol number of ICMP.
pub(crate) const ICMP: u8 = 1;
/// Protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// Protocol number of UDP.
pub(crate) const UDP: u8 = 17;
/// Shortest frame, without FCS: the MAC pads up to it.
pub(crate) const SHORTEST: usize = 60;
/// Bytes of the FCS.
pub(crate) const FCS: usize = 4;

/// The big-endian word at `at`, if the frame is that long.
pub(crate) fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

/// Stores a big-endian word. The caller has seen that the frame is that long.
pub(crate) fn set_word(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The VLAN tag of a frame, if it has one.
pub(crate) fn vlan(frame: &[u8]) -> Option<u16> {
    (word(frame, 12) == Some(TYPE_VLAN)).then(|| word(frame, HEADER)).flatten()
}

/// Type of a frame, behind a tag if there is one, and where its payload starts.
pub(crate) fn payload(frame: &[u8]) -> Option<(u16, usize)> {
    match word(frame, 12)? {
        TYPE_VLAN => Some((word(frame, HEADER + 2)?, HEADER + VLAN_TAG)),
        kind => Some((kind, HEADER)),
    }
}

/// Where the headers of an IP datagram are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    /// IP header.
    pub(crate) l3: usize,
    /// IPv4, or else IPv6.
    pub(crate) v4: bool,
    /// What follows the IP headers.
    pub(crate) l4: usize,
    /// Its protocol number.
    pub(crate) protocol: u8,
    /// End of the datagram; what follows is padding. Zero length (a large send) means the rest of the frame.
    pub(crate) end: usize,
    /// A fragment: there is no whole layer 4 to look at.
    pub(crate) fragment: bool,
}

/// Finds the headers. `None`: no IP, or shorter than it says.
pub(crate) fn parse(frame: &[u8]) -> Option<Ip> {
    let (kind, l3) = payload(frame)?;
    match kind {
        TYPE_IPV4 => parse_v4(frame, l3),
        TYPE_IPV6 => parse_v6(frame, l3),
        _ => None,
    }
}

fn parse_v4(frame: &[u8], l3: usize) -> Option<Ip> {
    let first = *frame.get(l3)?;
    let bytes = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || bytes < 20 || frame.len() < l3 + bytes {
        return None;
    }
    let total = usize::from(word(frame, l3 + 2)?);
    let end = if total == 0 { frame.len() } else { l3 + total };
    if end < l3 + bytes || end > frame.len() {
        return None;
    }
    let fragment = word(frame, l3 + 6)? & 0x3fff != 0;
    Some(Ip { l3, v4: true, l4: l3 + bytes, protocol: frame[l3 + 9], end, fragment })
}

fn parse_v6(frame: &[u8], l3: usize) -> Option<Ip> {
    /// Extension headers looked through at most.
    const EXTENSIONS: usize = 8;
    let mut l4 = l3 + 40;
    if frame.get(l3)? >> 4 != 6 || frame.len() < l4 {
        return None;
    }
    let length = usize::from(word(frame, l3 + 4)?);
    let end = if length == 0 { frame.len() } else { l4 + length };
    if end > frame.len() {
        return None;
    }
    let mut protocol = frame[l3 + 6];
    for _ in 0..EXTENSIONS {
        match protocol {
            0 | 43 | 60 if l4 + 8 <= end => {
                let bytes = 8 * (1 + usize::from(frame[l4 + 1]));
                (protocol, l4) = (frame[l4], l4 + bytes);
                if l4 > end {
                    return None;
                }
            }
            44 => return Some(Ip { l3, v4: false, l4, protocol, end, fragment: true }),
            _ => return Some(Ip { l3, v4: false, l4, protocol, end, fragment: false }),
        }
    }
    None
}

impl Ip {
    /// Source and destination address.
    pub(crate) fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        if self.v4 { &frame[self.l3 + 12..self.l3 + 20] } else { &frame[self.l3 + 8..self.l3 + 40] }
    }

    /// The unfolded sum of the pseudo header of TCP or UDP over `bytes` bytes of layer 4.
    pub(crate) fn pseudo(&self, frame: &[u8], bytes: usize) -> u32 {
        sum(self.addresses(frame)) + u32::from(self.protocol) + bytes as u32
    }

    /// Where the checksum of a TCP or UDP header stands, if the whole header is there.
    pub(crate) fn checksum_at(&self) -> Option<usize> {
        let (at, bytes) = match self.protocol {
            TCP if !self.fragment => (self.l4 + 16, 20),
            UDP if !self.fragment => (self.l4 + 6, 8),
            _ => return None,
        };
        (self.l4 + bytes <= self.end).then_some(at)
    }
}

/// The unfolded one's complement sum of at most 128 KiB.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let words: u32 = pairs.iter().map(|&p| u32::from(u16::from_be_bytes(p))).sum();
    words + rest.first().map_or(0, |&b| u32::from(b) << 8)
}

/// Folds a sum. Over data that carries a right checksum it is 0xffff.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Computes the checksum of an IPv4 header.
pub(crate) fn fill_ipv4_checksum(frame: &mut [u8], ip: &Ip) {
    set_word(frame, ip.l3 + 10, 0);
    let checksum = !fold(sum(&frame[ip.l3..ip.l4]));
    set_word(frame, ip.l3 + 10, checksum);
}

/// Computes the checksum of TCP or UDP, if that is what the frame carries; whatever stood there is ignored.
pub(crate) fn fill_l4_checksum(frame: &mut [u8], ip: &Ip) {
    let Some(at) = ip.checksum_at() else { return };
    set_word(frame, at, 0);
    let checksum = !fold(ip.pseudo(frame, ip.end - ip.l4) + sum(&frame[ip.l4..ip.end]));
    // In UDP, zero would mean that there is none.
    let checksum = if checksum == 0 && ip.protocol == UDP { 0xffff } else { checksum };
    set_word(frame, at, checksum);
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The CRC register of the MAC after these bytes, as the multicast filter uses it. The FCS is its complement.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, &b| crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ b)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071's example, and the CRC of "123456789".
    #[test]
    fn known_sums() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(sum(&[0x12, 0x34, 0x56])), 0x6834);
        assert_eq!(!crc(b"123456789"), 0xcbf4_3926);
    }

    fn ipv4(options: usize, payload: &[u8], protocol: u8) -> Vec<u8> {
        let mut f = vec![0; HEADER];
        f[12..14].copy_from_slice(&[8, 0]);
        let total = (20 + options + payload.len()) as u16;
        f.push(0x45 + (options / 4) as u8);
        f.push(0);
        f.extend(total.to_be_bytes());
        f.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.resize(f.len() + options, 1);
        f.extend(payload);
        f
    }

    #[test]
    fn headers_are_found_behind_tags_and_options() {
        let f = ipv4(8, &[0; 20], TCP);
        let ip = parse(&f).expect("IP");
        assert_eq!((ip.l3, ip.l4, ip.end, ip.protocol, ip.v4), (14, 42, 62, TCP, true));
        assert_eq!(ip.checksum_at(), Some(58));
        let mut tagged = f.clone();
        tagged.splice(12..12, [0x81, 0, 0x20, 5]);
        assert_eq!((vlan(&tagged), parse(&tagged).map(|ip| ip.l4)), (Some(0x2005), Some(46)));
        assert_eq!(vlan(&f), None);
        let mut v6 = vec![0; HEADER];
        v6[12..14].copy_from_slice(&[0x86, 0xdd]);
        v6.extend([0x60, 0, 0, 0, 0, 16, 0, 64]);
        v6.extend([1; 32]);
        v6.extend([UDP, 0, 0, 0, 0, 0, 0, 0]);
        v6.extend([0, 7, 0, 7, 0, 8, 0, 0]);
        let ip = parse(&v6).expect("IP");
        assert_eq!((ip.l4, ip.protocol, ip.checksum_at()), (62, UDP, Some(68)));
    }

    #[test]
    fn any_cut_of_a_frame_is_harmless() {
        let f = ipv4(4, &[0; 40], UDP);
        for n in 0..f.len() {
            assert_eq!(parse(&f[..n]), None);
        }
        for at in HEADER..f.len() {
            for bad in [0, 0xff, 0x60] {
                let mut g = f.clone();
                g[at] = bad;
                if let Some(ip) = parse(&g) {
                    fill_ipv4_checksum(&mut g, &ip);
                    fill_l4_checksum(&mut g, &ip);
                }
            }
        }
    }
}
