//! Echo: every address answers, in ICMP and ICMPv6.

use super::{ICMPV6, Responder, TTL};
use crate::ether::{self, Ip};

const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

impl Responder {
    /// An ICMP datagram, or a fragment of one.
    pub(super) fn echo(&mut self, frame: &[u8], ip: &Ip) {
        let first = ether::word(frame, ip.l3 + 6).is_some_and(|f| f & 0x1fff == 0);
        let destination = frame[ip.l3 + 16];
        let unicast = frame[0] & 1 == 0 && destination < 224;
        if !unicast || first && (ip.l4 + 8 > ip.end || frame[ip.l4..ip.l4 + 2] != [ECHO_REQUEST, 0]) {
            return;
        }
        let message = ether::sum(&frame[ip.l4..ip.end]);
        if ether::fold(ether::sum(&frame[ip.l3..ip.l4])) != 0xffff
            || !ip.fragment && ether::fold(message) != 0xffff
        {
            self.counters.bad_checksums += 1;
            return;
        }
        let Some(answer) = self.answers.push(&frame[..ip.end]) else { return };
        self.counters.echoes += 1;
        answer[..6].copy_from_slice(&frame[6..12]);
        answer[6..12].copy_from_slice(&frame[..6]);
        answer[ip.l3 + 8] = TTL;
        answer[ip.l3 + 12..ip.l3 + 16].copy_from_slice(&frame[ip.l3 + 16..ip.l3 + 20]);
        answer[ip.l3 + 16..ip.l3 + 20].copy_from_slice(&frame[ip.l3 + 12..ip.l3 + 16]);
        ether::fill_ipv4_checksum(answer, ip);
        if first {
            // RFC 1624: the checksum follows the change of the type from 8 to 0, also when only a fragment is
            // here.
            let old = ether::word(answer, ip.l4 + 2).unwrap_or(0);
            let new = !ether::fold(u32::from(!old) + u32::from(!(u16::from(ECHO_REQUEST) << 8)));
            answer[ip.l4] = 0;
            ether::set_word(answer, ip.l4 + 2, new);
        }
    }

    /// A whole ICMPv6 datagram: echo here, neighbour discovery next door.
    pub(super) fn icmpv6(&mut self, frame: &[u8], ip: &Ip) {
        let bytes = ip.end - ip.l4;
        if bytes < 8 {
            return;
        }
        if ether::fold(ip.pseudo(frame, bytes) + ether::sum(&frame[ip.l4..ip.end])) != 0xffff {
            self.counters.bad_checksums += 1;
            return;
        }
        match frame[ip.l4] {
            ECHO_REQUEST_V6 => self.echo_v6(frame, ip),
            _ => self.discovery(frame, ip),
        }
    }

    fn echo_v6(&mut self, frame: &[u8], ip: &Ip) {
        let unicast = frame[0] & 1 == 0 && frame[ip.l3 + 24] != 0xff;
        // Extension headers may mean anything; a ping has none.
        if !unicast || ip.l4 != ip.l3 + 40 || frame[ip.l4 + 1] != 0 {
            return;
        }
        let Some(answer) = self.answers.push(&frame[..ip.end]) else { return };
        self.counters.echoes += 1;
        answer[..6].copy_from_slice(&frame[6..12]);
        answer[6..12].copy_from_slice(&frame[..6]);
        answer[ip.l3 + 7] = TTL;
        answer[ip.l3 + 8..ip.l3 + 24].copy_from_slice(&frame[ip.l3 + 24..ip.l3 + 40]);
        answer[ip.l3 + 24..ip.l3 + 40].copy_from_slice(&frame[ip.l3 + 8..ip.l3 + 24]);
        answer[ip.l4] = ECHO_REPLY_V6;
        ether::set_word(answer, ip.l4 + 2, 0);
        debug_assert_eq!(ip.protocol, ICMPV6);
        let sum = ip.pseudo(answer, ip.end - ip.l4) + ether::sum(&answer[ip.l4..ip.end]);
        ether::set_word(answer, ip.l4 + 2, !ether::fold(sum));
    }
}
