//! A guest that sends any frames to the card's own network: every question has few answers, and they are
//! frames.

use bus::Instant;
use hw_model::wire::{LARGEST_FRAME, Responder};

use super::Cursor;

pub(super) fn run(input: &[u8]) {
    let mut c = Cursor::new(input);
    let mut responder = Responder::default();
    let mut now = Instant::ZERO;
    let mut answer = Vec::new();
    for _ in 0..64 {
        if c.is_empty() {
            break;
        }
        let frame = frame(&mut c);
        now += std::time::Duration::from_secs(u64::from(c.byte() & 3));
        responder.ask(now, &frame);
        if c.byte() & 0x3f == 0 {
            responder.take_back(now);
        }
        let mut answers = 0;
        while responder.answered(&mut answer) {
            answers += 1;
            assert!(answer.len() >= 14 && answer.len() <= LARGEST_FRAME);
            assert!(answers <= 64, "one question, {answers} answers");
        }
    }
}

/// A frame whose headers are right as far as the input wants them to be.
fn frame(c: &mut Cursor<'_>) -> Vec<u8> {
    let how = c.byte();
    let mut f = [[0x02, 0, 10, 0, 0, 1], [0x00, 0x10, 0x18, 1, 2, 3]].concat();
    if how & 0x80 != 0 {
        f.extend_from_slice(&[0x81, 0, 0, c.byte()]);
    }
    let body = c.block();
    match how & 7 {
        0 => {
            f.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
            f.extend_from_slice(body);
        }
        1 | 2 => {
            // IPv4 with ICMP, or UDP to the DHCP server, without a checksum.
            let mut payload = if how & 7 == 1 {
                vec![8, 0, 0, 0]
            } else {
                let length = ((8 + 240 + body.len()) as u16).to_be_bytes();
                let mut m = vec![0, 68, 0, 67, length[0], length[1], 0, 0];
                m.extend_from_slice(&[1, 1, 6, 0]);
                m.resize(8 + 236, 0);
                m.extend_from_slice(&[99, 130, 83, 99]);
                m
            };
            payload.extend_from_slice(body);
            let length = ((20 + payload.len()) as u16).to_be_bytes();
            let fragment = if how & 0x40 != 0 { c.u16() } else { 0 }.to_be_bytes();
            let protocol = if how & 7 == 1 { 1 } else { 17 };
            f.extend_from_slice(&[
                0x08,
                0,
                0x45,
                0,
                length[0],
                length[1],
                0,
                0,
                fragment[0],
                fragment[1],
                64,
                protocol,
            ]);
            f.extend_from_slice(&[0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
            f.extend_from_slice(&payload);
        }
        3..=5 => {
            // IPv6: ICMPv6, or UDP to the DHCPv6 server with a checksum that is right.
            let (from, to) = (
                [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
                [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2],
            );
            let (protocol, mut payload, at) = if how & 7 == 5 {
                let length = ((8 + body.len()) as u16).to_be_bytes();
                (17, vec![2, 34, 2, 35, length[0], length[1], 0, 0], 6)
            } else {
                (58, vec![c.pick(&[128, 133, 135, 136, 143]), 0, 0, 0], 2)
            };
            payload.extend_from_slice(body);
            let length = (payload.len() as u16).to_be_bytes();
            let pseudo =
                [&from[..], &to, &[0, 0, length[0], length[1], 0, 0, 0, protocol], &payload].concat();
            let mut sum = 0_u32;
            for two in pseudo.chunks(2) {
                sum += u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or(0));
            }
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            payload[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            f.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], protocol, 255]);
            f.extend_from_slice(&from);
            f.extend_from_slice(&to);
            f.extend_from_slice(&payload);
        }
        _ => f.extend_from_slice(body),
    }
    if how & 0x08 != 0 {
        f.truncate(usize::from(c.byte()));
    }
    f
}
