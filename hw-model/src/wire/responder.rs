//! The responder: the other end of a cable where every address answers.
//!
//! It stands for the whole network: whoever the host asks for by ARP exists and has a MAC made of its address, and
//! every address answers ICMP echo. That is what a driver needs to prove that its rings work, without privileges and
//! without a network. Answers are a pure function of the question. Not modelled: IPv6, DHCP, reassembly (fragments of an
//! echo are answered one by one, which adds up to the same).
//!
//! ARP probes and announcements (the sender asks for itself, or has no address yet) are not answered: they
//! would look like an address conflict.

use bus::Instant;
use bus::pci::DevCx;

use super::{FrameQueue, Wire};
use crate::ether::{self, ICMP};

/// Answers that wait at most; more are dropped and counted.
const ANSWERS: usize = 256;

const ECHO_REQUEST: u8 = 8;
const TTL: u8 = 64;

/// What the responder saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponderCounters {
    /// Frames of the card.
    pub frames: u64,
    /// ARP requests that were answered.
    pub arps: u64,
    /// Echo requests, and fragments of them, that were answered.
    pub echoes: u64,
    /// Frames with a wrong checksum where an answer would have been due.
    pub bad_checksums: u64,
    /// Answers that found the queue full.
    pub dropped: u64,
}

/// Answers ARP and ICMP echo for every address.
#[derive(Debug)]
pub struct Responder {
    answers: FrameQueue,
    counters: ResponderCounters,
}

impl Default for Responder {
    fn default() -> Self {
        Self { answers: FrameQueue::new(ANSWERS), counters: ResponderCounters::default() }
    }
}

impl Responder {
    /// What it saw.
    #[must_use]
    pub fn counters(&self) -> ResponderCounters {
        ResponderCounters { dropped: self.answers.dropped(), ..self.counters }
    }

    /// The MAC of an address: locally administered, then the address.
    #[must_use]
    pub const fn mac_of(ip: [u8; 4]) -> [u8; 6] {
        [0x02, 0x00, ip[0], ip[1], ip[2], ip[3]]
    }

    fn arp(&mut self, frame: &[u8], at: usize) {
        const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
        let Some(arp) = frame.get(at..at + 28) else { return };
        let (sender, target) = (&arp[14..18], &arp[24..28]);
        if arp[..8] != REQUEST || sender == [0; 4] || sender == target {
            return;
        }
        let mac = Self::mac_of([target[0], target[1], target[2], target[3]]);
        let Some(answer) = self.answers.push(&frame[..at + 28]) else { return };
        self.counters.arps += 1;
        answer.copy_within(6..12, 0);
        answer[6..12].copy_from_slice(&mac);
        let a = &mut answer[at..];
        a[7] = 2;
        a.copy_within(8..18, 18);
        a[8..14].copy_from_slice(&mac);
        a[14..18].copy_from_slice(&arp[24..28]);
    }

    fn echo(&mut self, frame: &[u8]) {
        let Some(ip) = ether::parse(frame).filter(|ip| ip.v4 && ip.protocol == ICMP) else { return };
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
        ether::fill_ipv4_checksum(answer, &ip);
        if first {
            // RFC 1624: the checksum follows the change of the type from 8 to 0, also when only a fragment is here.
            let old = ether::word(answer, ip.l4 + 2).unwrap_or(0);
            let new = !ether::fold(u32::from(!old) + u32::from(!(u16::from(ECHO_REQUEST) << 8)));
            answer[ip.l4] = 0;
            ether::set_word(answer, ip.l4 + 2, new);
        }
    }
}

impl Wire for Responder {
    fn send(&mut self, _: &mut DevCx<'_>, frame: &[u8]) {
        self.counters.frames += 1;
        match ether::payload(frame) {
            Some((ether::TYPE_ARP, at)) => self.arp(frame, at),
            Some((ether::TYPE_IPV4, _)) => self.echo(frame),
            _ => {}
        }
    }

    fn recv(&mut self, _: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        self.answers.pop(frame)
    }

    /// Answers are there as soon as the question is: the card takes them in the step that sent it, or, when its budget
    /// was used up, in the next.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::Bench;

    const HOST: [u8; 6] = [0, 0x10, 0x18, 1, 2, 3];

    /// An ARP request of 10.0.0.1 for 10.0.0.`target`.
    pub(crate) fn arp_request(source: [u8; 6], sender: u8, target: u8) -> Vec<u8> {
        let mut f = vec![0xff; 6];
        f.extend(source);
        f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        f.extend(source);
        f.extend([10, 0, 0, sender, 0, 0, 0, 0, 0, 0, 10, 0, 0, target]);
        f
    }

    /// An echo request of 10.0.0.1 to 10.0.0.2 with right checksums.
    pub(crate) fn echo_request(source: [u8; 6], sequence: u16, data: &[u8]) -> Vec<u8> {
        let mut f = Responder::mac_of([10, 0, 0, 2]).to_vec();
        f.extend(source);
        f.extend([8, 0, 0x45, 0]);
        f.extend((28 + data.len() as u16).to_be_bytes());
        f.extend([0, 1, 0x40, 0, 64, ICMP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend([ECHO_REQUEST, 0, 0, 0, 0, 7]);
        f.extend(sequence.to_be_bytes());
        f.extend(data);
        let ip = ether::parse(&f).expect("IP");
        ether::fill_ipv4_checksum(&mut f, &ip);
        let checksum = !ether::fold(ether::sum(&f[ip.l4..ip.end]));
        ether::set_word(&mut f, ip.l4 + 2, checksum);
        f
    }

    fn ask(r: &mut Responder, frame: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        Bench::new().with(|cx| {
            r.send(cx, frame);
            r.recv(cx, &mut out)
        });
        (!out.is_empty()).then_some(out)
    }

    #[test]
    fn whoever_is_asked_for_exists() {
        let mut r = Responder::default();
        let answer = ask(&mut r, &arp_request(HOST, 1, 77)).expect("an answer");
        let mac = Responder::mac_of([10, 0, 0, 77]);
        assert_eq!((&answer[..6], &answer[6..12]), (&HOST[..], &mac[..]));
        assert_eq!(answer[14..22], [0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!((&answer[22..28], &answer[28..32]), (&mac[..], &[10, 0, 0, 77][..]));
        assert_eq!((&answer[32..38], &answer[38..42]), (&HOST[..], &[10, 0, 0, 1][..]));
    }

    #[test]
    fn probes_and_announcements_find_no_conflict() {
        let mut r = Responder::default();
        assert_eq!(ask(&mut r, &arp_request(HOST, 5, 5)), None, "an announcement");
        let mut probe = arp_request(HOST, 0, 5);
        probe[28..32].fill(0);
        assert_eq!(ask(&mut r, &probe), None);
        let mut reply = arp_request(HOST, 1, 5);
        reply[21] = 2;
        assert_eq!(ask(&mut r, &reply), None);
        assert_eq!(r.counters().arps, 0);
    }

    #[test]
    fn echoes_come_back_whole_with_right_checksums() {
        let mut r = Responder::default();
        let data: Vec<u8> = (0..57).collect();
        let question = echo_request(HOST, 3, &data);
        let mut padded = question.clone();
        padded.resize(120, 0xaa);
        for f in [&question, &padded] {
            let answer = ask(&mut r, f).expect("an answer");
            let ip = ether::parse(&answer).expect("IP");
            assert_eq!(answer.len(), question.len(), "without the padding");
            assert_eq!((answer[ip.l4], &answer[ip.l4 + 4..]), (0, &question[ip.l4 + 4..]));
            assert_eq!(ether::fold(ether::sum(&answer[ip.l3..ip.l4])), 0xffff);
            assert_eq!(ether::fold(ether::sum(&answer[ip.l4..])), 0xffff);
            assert_eq!(ip.addresses(&answer), [10, 0, 0, 2, 10, 0, 0, 1]);
            assert_eq!(answer[..12], [&question[6..12], &question[..6]].concat());
        }
    }

    #[test]
    fn a_fragmented_echo_adds_up() {
        let mut r = Responder::default();
        let data: Vec<u8> = (0..64).collect();
        let whole = echo_request(HOST, 9, &data);
        let cut = 34 + 40;
        let fragment = |at: usize, bytes: &[u8], more: u16| {
            let mut f = whole[..34].to_vec();
            f.extend(bytes);
            ether::set_word(&mut f, 16, 20 + bytes.len() as u16);
            ether::set_word(&mut f, 20, more | (at / 8) as u16);
            let ip = ether::parse(&f).expect("IP");
            ether::fill_ipv4_checksum(&mut f, &ip);
            f
        };
        let first = ask(&mut r, &fragment(0, &whole[34..cut], 0x2000)).expect("an answer");
        let rest = ask(&mut r, &fragment(40, &whole[cut..], 0)).expect("an answer");
        let message = [&first[34..], &rest[34..]].concat();
        assert_eq!(message[0], 0);
        assert_eq!(ether::fold(ether::sum(&message)), 0xffff);
        assert_eq!(message[8..], data[..]);
    }

    #[test]
    fn damage_and_strangers_are_not_answered() {
        let mut r = Responder::default();
        let mut f = echo_request(HOST, 1, b"abcd");
        f[40] ^= 1;
        assert_eq!(ask(&mut r, &f), None);
        assert_eq!(r.counters().bad_checksums, 1);
        let mut multicast = echo_request(HOST, 1, b"abcd");
        multicast[0] |= 1;
        assert_eq!(ask(&mut r, &multicast), None);
        let whole = arp_request(HOST, 1, 2);
        for n in 0..whole.len() {
            assert_eq!(ask(&mut r, &whole[..n]), None);
        }
    }

    #[test]
    fn the_queue_has_a_limit() {
        let mut r = Responder::default();
        Bench::new().with(|cx| {
            for _ in 0..ANSWERS + 3 {
                r.send(cx, &arp_request(HOST, 1, 2));
            }
        });
        assert_eq!((r.answers.len(), r.counters().dropped, r.counters().arps), (ANSWERS, 3, ANSWERS as u64));
    }
}
