//! The stream arrives as it was sent (S11), whatever the link does to frames.

use std::time::Duration;

use bus::streams::Seeded;

use super::rig::{FIRST, ID, Rig, ms, request};
use crate::ether;
use crate::tcp::frame::Checksums;
use crate::tcp::{ConnectRequest, TcpEngine, TcpEvent};
use crate::wire::link::Direction;

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut x = seed | 1;
    (0..bytes)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

/// Sends `bytes` both ways and compares.
fn exchange(rig: &mut Rig, bytes: usize, seed: u64) {
    let (up, down) = (pattern(seed, bytes), pattern(!seed, bytes));
    let (mut up_sent, mut down_sent) = (0, 0);
    let (mut up_seen, mut down_seen) = (Vec::new(), Vec::new());
    let whole = rig.run_until(Duration::from_secs(120), |r| {
        up_sent += r.send(&up[up_sent..]);
        down_sent += r.host.send(FIRST, &down[down_sent..]);
        up_seen.extend(r.host_recv());
        down_seen.extend(r.recv());
        up_seen.len() >= bytes && down_seen.len() >= bytes
    });
    assert!(whole, "seed {seed}: {} up, {} down of {bytes}: {:?}", up_seen.len(), down_seen.len(), rig.seen);
    assert!(up_seen == up, "seed {seed}: the card's bytes");
    assert!(down_seen == down, "seed {seed}: the host's bytes");
}

#[test]
fn a_perfect_link_carries_everything_without_retransmission() {
    let mut rig = Rig::connected(Direction::default(), 1);
    let before = rig.control.counters().0.sent;
    exchange(&mut rig, 1 << 20, 1);
    let (up, down) = rig.control.counters();
    assert_eq!((up.lost, up.overflow, down.overflow), (0, 0, 0));
    let (segments, acknowledgements) = ((1 << 20) / 1460, up.sent - before);
    assert!(acknowledgements < 2 * segments, "{acknowledgements} frames for {segments} segments each way");
}

#[test]
fn a_bad_link_damages_no_stream() {
    let mut happened = [0; 6];
    for seed in 0..24 {
        let bad = Direction {
            rate: 1_000_000_000,
            delay_ns: 50_000,
            jitter_ns: 100_000,
            loss: 20_000,
            duplicate: 20_000,
            corrupt: 20_000,
            reorder: 30_000,
            reorder_ns: 300_000,
            ..Direction::default()
        };
        let mut rig = Rig::new(bad, seed);
        rig.connect(&request());
        rig.wait_for(TcpEvent::Connected);
        exchange(&mut rig, 120_000, seed);
        let (up, down) = rig.control.counters();
        let these = [up.lost, up.duplicated, up.corrupted, up.reordered, down.lost, down.corrupted];
        happened.iter_mut().zip(these).for_each(|(all, n)| *all += n);
    }
    assert!(happened.iter().all(|&n| n > 20), "{happened:?}");
}

#[test]
fn one_seed_is_one_history() {
    let run = |seed| {
        let bad = Direction { loss: 50_000, delay_ns: 10_000, ..Direction::default() };
        let mut rig = Rig::new(bad, seed);
        rig.connect(&request());
        rig.wait_for(TcpEvent::Connected);
        exchange(&mut rig, 50_000, seed);
        rig.frames
    };
    assert!(run(3) == run(3));
    assert!(run(3) != run(4));
}

#[test]
fn jumbo_frames_are_used_where_they_fit() {
    let mut rig = Rig::new(Direction::default(), 1);
    let jumbo = ConnectRequest { mss: 8960, pmtu: 9000, ..request() };
    rig.terms = jumbo.clone();
    rig.connect(&jumbo);
    rig.wait_for(TcpEvent::Connected);
    exchange(&mut rig, 300_000, 9);
    assert_eq!(rig.frames.iter().map(Vec::len).max(), Some(9014));

    // A peer with a smaller MTU gets smaller segments.
    let mut rig = Rig::new(Direction { mtu: 1500, ..Direction::default() }, 1);
    rig.connect(&jumbo);
    rig.wait_for(TcpEvent::Connected);
    exchange(&mut rig, 30_000, 9);
    assert_eq!(rig.frames.iter().map(Vec::len).max(), Some(1514));
    assert_eq!(rig.control.counters().0.oversize, 0);
}

#[test]
fn tags_and_ipv6() {
    for vlan in [None, Some(0x2005)] {
        let mut r = request();
        (r.local, r.remote) =
            ("[2001:db8::2]:60001".parse().expect("v6"), "[2001:db8::1]:3260".parse().expect("v6"));
        (r.mss, r.link.vlan) = (1440, vlan);
        let mut rig = Rig::new(Direction { corrupt: 10_000, ..Direction::default() }, 6);
        rig.connect(&r);
        rig.wait_for(TcpEvent::Connected);
        exchange(&mut rig, 100_000, 2);
        let kind: &[u8] = if vlan.is_some() { &[0x81, 0, 0x20, 5, 0x86, 0xdd] } else { &[0x86, 0xdd] };
        let right = rig.frames.iter().filter(|f| f[12..].starts_with(kind)).count();
        assert!(right * 10 > rig.frames.len() * 9);
    }
}

#[test]
fn a_closed_window_stops_the_sender_and_opens_again_also_when_the_update_is_lost() {
    for lossy in [false, true] {
        let mut rig = Rig::connected(Direction::default(), 1);
        let all = pattern(1, 300_000);
        let mut sent = 0;
        rig.run_until(ms(1000), |r| {
            sent += r.send(&all[sent..]);
            false
        });
        assert!(sent < all.len() && sent >= 65536, "the window is closed: {sent}");
        let quiet = rig.control.counters().0.sent;
        rig.run(ms(1000));
        let probes = rig.control.counters().0.sent - quiet;
        assert!((1..=8).contains(&probes), "it is probed, and not more than that: {probes}");
        rig.control.adjust(|d| d.loss = if lossy { 1_000_000 } else { 0 });
        let mut seen = rig.host_recv();
        rig.run(ms(10));
        rig.control.adjust(|d| d.loss = 0);
        let whole = rig.run_until(Duration::from_secs(10), |r| {
            sent += r.send(&all[sent..]);
            seen.extend(r.host_recv());
            seen.len() == all.len()
        });
        assert!(whole && seen == all, "lossy {lossy}: {} of {}", seen.len(), all.len());
    }
}

/// A segment of the host with these bytes, from the place where `like` began on.
fn segment(like: &[u8], at: u32, bytes: &[u8]) -> Vec<u8> {
    let mut frame = like[..54].to_vec();
    frame.extend_from_slice(bytes);
    frame[16..18].copy_from_slice(&(40 + bytes.len() as u16).to_be_bytes());
    frame[38..42].copy_from_slice(&at.to_be_bytes());
    let ip = ether::parse(&frame).expect("an IP datagram");
    ether::fill_ipv4_checksum(&mut frame, &ip);
    ether::fill_l4_checksum(&mut frame, &ip);
    frame
}

#[test]
fn a_peer_that_ignores_the_window_is_acknowledged_and_harms_nobody() {
    // In the last one the peer goes by what was announced before the scale of eight bytes rounded the window
    // down.
    let cases = [
        (1 << 16, 700, 600, 1200),
        (1 << 16, 700, 1, 701),
        (1 << 16, 1, 1, 2),
        (1 << 16, 0, 1, 1),
        (1 << 18, 804, 0, 804),
    ];
    for (buffer, left, more, sent) in cases {
        let mut rig = Rig::new(Direction::default(), 1);
        rig.connect(&ConnectRequest { rcv_buf: buffer, ..request() });
        rig.wait_for(TcpEvent::Connected);
        rig.run(ms(5));
        let all = pattern(1, buffer as usize - left);
        let (mut put, mut last) = (0, Vec::new());
        while put < all.len() {
            put += rig.host.send(FIRST, &all[put..]);
            let (host, far, now) = (&mut rig.host, &rig.far, rig.bench.now);
            let mut rng = Seeded::new(1);
            host.poll(now, &mut |f| {
                if f.len() > 60 {
                    last = f.to_vec();
                }
                far.send_at(now, &mut rng, f);
            });
            rig.run(ms(20));
        }
        rig.silent = true;
        // So little room more is not worth a window update.
        assert_eq!(rig.recv_some(more).len(), more);
        rig.run(ms(20));
        let next =
            u32::from_be_bytes([last[38], last[39], last[40], last[41]]).wrapping_add(last.len() as u32 - 54);
        rig.inject(&segment(&last, next, &vec![9; sent]));
        rig.run(ms(20));
        let rest = rig.recv();
        assert_eq!(rest.len(), all.len() - more + sent, "left {left}, read {more}, sent {sent}");
        rig.silent = false;
        assert!(rig.send(b"x") == 1);
        rig.run(ms(20));
    }
}

#[test]
fn a_sender_that_had_no_room_hears_when_there_is_some() {
    let mut rig = Rig::connected(Direction::default(), 1);
    let chunk = pattern(1, 200_000);
    assert!(rig.send(&chunk) < chunk.len());
    rig.run(ms(50));
    assert_eq!(rig.seen, [(ID, TcpEvent::Writable)], "what was sent is in the host's buffer");
    assert!(rig.send(&chunk) < chunk.len());
    rig.run(ms(50));
    assert_eq!(rig.seen.len(), 1, "that one is full");
    rig.host_recv();
    rig.run(ms(50));
    assert_eq!(rig.seen.len(), 2);
}

#[test]
fn bytes_that_are_left_stay_and_are_not_told_of_twice() {
    let mut rig = Rig::connected(Direction::default(), 1);
    rig.host.send(FIRST, b"abcdef");
    rig.run(ms(5));
    assert_eq!(rig.seen, [(ID, TcpEvent::Readable)]);
    assert_eq!(rig.recv_some(2), b"ab");
    rig.host.send(FIRST, b"gh");
    rig.run(ms(5));
    assert_eq!(rig.seen.len(), 1, "whoever left something comes back by itself");
    assert_eq!(rig.recv(), b"cdefgh");
    rig.host.send(FIRST, b"i");
    rig.run(ms(5));
    assert_eq!(rig.seen.len(), 2);
}

#[test]
fn a_hundred_and_twenty_eight_connections_share_a_bad_link() {
    use crate::tcp::TcpId;
    let mut rig = Rig::new(Direction { loss: 5000, delay_ns: 20_000, ..Direction::default() }, 1);
    for n in 0..128 {
        let mut r = request();
        r.local.set_port(60_000 + n);
        rig.bench.with(|cx| rig.tcp.connect(cx, TcpId(n), &r));
    }
    let mut up: Vec<usize> = vec![0; 128];
    let mut echoed: Vec<Vec<u8>> = vec![Vec::new(); 128];
    let data: Vec<Vec<u8>> = (0..128).map(|n| pattern(n, 4000)).collect();
    let done = rig.run_until(Duration::from_secs(60), |r| {
        for n in 0..128_u16 {
            let i = usize::from(n);
            if up[i] < data[i].len() {
                up[i] += r.bench.with(|cx| r.tcp.send(cx, TcpId(n), &data[i][up[i]..]));
            }
            r.bench.with(|cx| {
                r.tcp.recv(cx, TcpId(n), &mut |_, bytes| {
                    echoed[i].extend_from_slice(bytes);
                    bytes.len()
                })
            });
            let mut back = Vec::new();
            r.host.recv(r.bench.now, n, |bytes| {
                back.extend_from_slice(bytes);
                bytes.len()
            });
            if !back.is_empty() {
                assert_eq!(r.host.send(n, &back), back.len());
            }
        }
        echoed.iter().all(|e| e.len() == 4000)
    });
    assert!(done && echoed == data);
    assert_eq!(rig.net.connections(), (128, 0));
}

#[test]
fn without_checksums_frames_carry_none_and_work() {
    let mut rig = Rig::with(Direction::default(), 1, Checksums::Skipped);
    rig.connect(&request());
    rig.wait_for(TcpEvent::Connected);
    exchange(&mut rig, 100_000, 1);
    assert!(rig.frames.iter().all(|f| f[50..52] == [0, 0]));
}
