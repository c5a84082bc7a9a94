//! What the chip does to a frame on its way out: VLAN tag, checksums, large sends.
//!
//! A large send is one TCP/IP frame of up to 64 KiB; the chip cuts it into segments and makes the headers of
//! each: IP length, identification and checksum, TCP sequence number, flags and checksum. The lengths that
//! the host gives in the descriptor are not needed, as the headers say the same.

use crate::ether::{self, HEADER, Ip, TCP, VLAN_TAG};

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// A large send that is no TCP/IP frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotTcp;

/// Puts a tag behind the addresses.
pub(super) fn insert_vlan(frame: &mut Vec<u8>, tag: u16) {
    let [hi, lo] = tag.to_be_bytes();
    let [type_hi, type_lo] = ether::TYPE_VLAN.to_be_bytes();
    let at = HEADER - 2;
    let end = frame.len();
    frame.resize(end + VLAN_TAG, 0);
    frame.copy_within(at..end, at + VLAN_TAG);
    frame[at..at + VLAN_TAG].copy_from_slice(&[type_hi, type_lo, hi, lo]);
}

/// Computes the checksums that are ordered. A frame without the header in question goes out as it is.
pub(super) fn checksums(frame: &mut [u8], ip_checksum: bool, l4_checksum: bool) {
    if !ip_checksum && !l4_checksum {
        return;
    }
    let Some(ip) = ether::parse(frame) else { return };
    if ip_checksum && ip.v4 {
        ether::fill_ipv4_checksum(frame, &ip);
    }
    if l4_checksum {
        ether::fill_l4_checksum(frame, &ip);
    }
}

/// Cuts `frame` into segments of `mss` bytes of payload and hands out each, built in `segment`.
pub(super) fn segment(
    frame: &mut [u8],
    mss: u16,
    segment: &mut Vec<u8>,
    emit: &mut impl FnMut(&[u8]),
) -> Result<(), NotTcp> {
    // The length of the datagram differs from segment to segment; what the host put there does not matter.
    match ether::payload(frame).ok_or(NotTcp)? {
        (ether::TYPE_IPV4, l3) if frame.len() >= l3 + 20 => ether::set_word(frame, l3 + 2, 0),
        (ether::TYPE_IPV6, l3) if frame.len() >= l3 + 40 => ether::set_word(frame, l3 + 4, 0),
        _ => return Err(NotTcp),
    }
    let ip = ether::parse(frame).filter(|ip| ip.protocol == TCP && !ip.fragment).ok_or(NotTcp)?;
    let bytes = usize::from(*frame.get(ip.l4 + 12).ok_or(NotTcp)? >> 4) * 4;
    let headers = ip.l4 + bytes;
    if bytes < 20 || headers > frame.len() {
        return Err(NotTcp);
    }
    let (headers, payload) = frame.split_at(headers);
    let pieces = payload.chunks(usize::from(mss)).count().max(1);
    for n in 0..pieces {
        let from = n * usize::from(mss);
        let to = payload.len().min(from + usize::from(mss));
        segment.clear();
        segment.extend_from_slice(headers);
        segment.extend_from_slice(&payload[from..to]);
        number(segment, &ip, n, from, n + 1 == pieces);
        emit(segment);
    }
    Ok(())
}

/// Makes the headers of the `n`th segment, whose payload is `from` bytes into the send.
fn number(segment: &mut [u8], ip: &Ip, n: usize, from: usize, last: bool) {
    let ip = Ip { end: segment.len(), ..*ip };
    if ip.v4 {
        ether::set_word(segment, ip.l3 + 2, (ip.end - ip.l3) as u16);
        let id = ether::word(segment, ip.l3 + 4).unwrap_or(0);
        ether::set_word(segment, ip.l3 + 4, id.wrapping_add(n as u16));
        ether::fill_ipv4_checksum(segment, &ip);
    } else {
        ether::set_word(segment, ip.l3 + 4, (ip.end - ip.l3 - 40) as u16);
    }
    let sequence = &mut segment[ip.l4 + 4..ip.l4 + 8];
    let number = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
    sequence.copy_from_slice(&number.wrapping_add(from as u32).to_be_bytes());
    let flags = &mut segment[ip.l4 + 13];
    *flags &= if last { !0 } else { !FIN_PSH };
    *flags &= if n == 0 { !0 } else { !CWR };
    ether::fill_l4_checksum(segment, &ip);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_frame(v4: bool, payload: usize) -> Vec<u8> {
        let mut f = vec![2; 12];
        if v4 {
            f.extend([8, 0, 0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        } else {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, TCP, 64]);
            f.extend([1; 16]);
            f.extend([2; 16]);
        }
        f.extend([0x12, 0x34, 0x0c, 0xbc, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 9, 0x80, 0x99, 0x10, 0]);
        f.extend([0xaa, 0xbb, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        f.extend((0..payload).map(|i| i as u8));
        f
    }

    #[test]
    fn segments_add_up_with_right_headers() {
        for (v4, tag) in [(true, None), (false, None), (true, Some(0x0123))] {
            let mut f = tcp_frame(v4, 3000);
            if let Some(tag) = tag {
                insert_vlan(&mut f, tag);
            }
            let mut segments: Vec<Vec<u8>> = Vec::new();
            segment(&mut f, 1448, &mut Vec::new(), &mut |s| segments.push(s.to_vec())).expect("TCP");
            assert_eq!(segments.len(), 3);
            let mut payload: Vec<u8> = Vec::new();
            for (n, s) in segments.iter().enumerate() {
                assert_eq!(ether::vlan(s), tag);
                let ip = ether::parse(s).expect("IP");
                assert_eq!(ip.end, s.len());
                if v4 {
                    assert_eq!(ether::fold(ether::sum(&s[ip.l3..ip.l4])), 0xffff);
                    assert_eq!(ether::word(s, ip.l3 + 4), Some(0xffff_u16.wrapping_add(n as u16)));
                }
                let l4 = ip.pseudo(s, s.len() - ip.l4) + ether::sum(&s[ip.l4..]);
                assert_eq!(ether::fold(l4), 0xffff);
                let sequence = u32::from_be_bytes(s[ip.l4 + 4..ip.l4 + 8].try_into().expect("four"));
                assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(1448 * n as u32));
                assert_eq!(s[ip.l4 + 13], [0x90, 0x10, 0x19][n], "CWR first, FIN and PSH last");
                payload.extend(&s[ip.l4 + 32..]);
            }
            assert_eq!(payload, tcp_frame(v4, 3000)[tcp_frame(v4, 0).len()..]);
        }
    }

    #[test]
    fn what_is_no_tcp_is_refused() {
        let whole = tcp_frame(true, 10);
        let mut none = |_: &[u8]| panic!("nothing to send");
        for n in 0..tcp_frame(true, 0).len() {
            assert_eq!(segment(&mut whole[..n].to_vec(), 100, &mut Vec::new(), &mut none), Err(NotTcp));
        }
        let mut udp = whole.clone();
        udp[23] = ether::UDP;
        assert_eq!(segment(&mut udp, 100, &mut Vec::new(), &mut none), Err(NotTcp));
    }

    #[test]
    fn ordered_checksums_and_no_others() {
        let mut f = tcp_frame(true, 11);
        let length = (f.len() - HEADER) as u16;
        ether::set_word(&mut f, 16, length);
        let before = f.clone();
        checksums(&mut f, false, false);
        assert_eq!(f, before);
        checksums(&mut f, true, false);
        let ip = ether::parse(&f).expect("IP");
        assert_eq!((ether::fold(ether::sum(&f[14..34])), &f[34..]), (0xffff, &before[34..]));
        checksums(&mut f, false, true);
        assert_eq!(ether::fold(ip.pseudo(&f, ip.end - ip.l4) + ether::sum(&f[34..])), 0xffff);
    }
}
