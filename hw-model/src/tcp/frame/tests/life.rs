//! Beginnings and ends: handshakes, FIN, RST, silence, neighbours that move, hostile frames.

use std::time::Duration;

use proptest::prelude::*;

use super::rig::{CARD, FIRST, HOST, ID, Rig, ms, request};
use crate::ether;
use crate::tcp::frame::stack::{TIME_WAIT, TIME_WAITS};
use crate::tcp::frame::{PORT_FRAMES, RETRANSMISSION_LIMIT};
use crate::tcp::{
    CONNECT_TIMEOUT, ConnectError, ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId, TcpOptions,
};
use crate::wire::link::Direction;
use crate::wire::pcapng::testing::File;
use crate::wire::{Direction as Way, Recording, Wire};

const PERFECT: Direction = Direction {
    rate: 0,
    delay_ns: 0,
    jitter_ns: 0,
    loss: 0,
    duplicate: 0,
    corrupt: 0,
    fcs: false,
    reorder: 0,
    reorder_ns: 0,
    mtu: 9000,
    queue: 16384,
};

const SYN: u8 = 2;
const RST: u8 = 4;

/// The flags of the frames that reached the host.
fn flags(rig: &Rig) -> Vec<u8> {
    rig.frames.iter().map(|f| f[47] & 7).filter(|&f| f != 0).collect()
}

#[test]
fn a_handshake_carries_what_connect_said() {
    let mut rig = Rig::new(PERFECT, 1);
    let mut r = request();
    (r.options.tos, r.options.ttl) = (0x20, 77);
    rig.connect(&r);
    rig.wait_for(TcpEvent::Connected);
    let syn = &rig.frames[0];
    assert_eq!((&syn[..6], &syn[6..12]), (&HOST[..], &CARD[..]));
    assert_eq!((syn[15], syn[22], syn[47]), (0x20, 77, SYN));
    assert_eq!(syn[54..58], [2, 4, 0x05, 0xb4], "MSS 1460");
    assert_eq!(ether::fold(ether::sum(&syn[14..34])), 0xffff);
    assert_eq!(rig.seen, [(ID, TcpEvent::Connected)]);
}

#[test]
fn initial_sequence_numbers_come_from_the_named_stream() {
    let isn = |seed| {
        let mut rig = Rig::new(PERFECT, seed);
        rig.connect(&request());
        rig.run(ms(1));
        rig.frames[0][38..42].to_vec()
    };
    assert_eq!(isn(1), isn(1));
    assert_ne!(isn(1), isn(2));
}

#[test]
fn handshakes_that_fail() {
    let mut rig = Rig::new(PERFECT, 1);
    rig.listening = false;
    rig.connect(&request());
    rig.run(ms(10));
    assert_eq!(rig.seen, [(ID, TcpEvent::ConnectFailed(ConnectError::Refused))]);

    let mut rig = Rig::new(PERFECT, 1);
    rig.silent = true;
    rig.connect(&request());
    rig.run(CONNECT_TIMEOUT - ms(1));
    assert_eq!(rig.seen, []);
    rig.run(ms(1));
    assert_eq!(rig.seen, [(ID, TcpEvent::ConnectFailed(ConnectError::TimedOut))]);
    assert!(rig.control.counters().0.sent >= 4, "SYN was sent again");
    assert_eq!((rig.net.connections(), rig.tcp.next_deadline()), ((0, 0), None));
}

#[test]
fn what_no_connection_can_have_is_refused() {
    let mut rig = Rig::new(PERFECT, 1);
    let mut r = request();
    r.remote.set_ip("0.0.0.0".parse().expect("an address"));
    rig.connect(&r);
    rig.run(ms(1));
    // The same ends twice.
    rig.connect(&request());
    rig.bench.with(|cx| rig.tcp.connect(cx, TcpId(9), &request()));
    rig.run(ms(1));
    let refused = TcpEvent::ConnectFailed(ConnectError::Refused);
    assert_eq!(rig.seen, [(ID, refused), (TcpId(9), refused), (ID, TcpEvent::Connected)]);
    assert_eq!(rig.net.tcp_counters().impossible, 2);
}

#[test]
fn the_card_closes_first() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.send(b"last");
    rig.bench.with(|cx| rig.tcp.close(cx, ID));
    assert_eq!(rig.send(b"more"), 0, "after FIN there is nothing");
    rig.run(ms(20));
    assert_eq!(rig.host_recv(), b"last");
    rig.run(ms(20));
    assert_eq!(rig.host_seen, [(FIRST, TcpEvent::Readable), (FIRST, TcpEvent::Fin)]);
    // Half closed: the host goes on.
    rig.host.send(FIRST, b"answer");
    rig.run(ms(20));
    assert_eq!(rig.recv(), b"answer");
    rig.host.close(FIRST);
    rig.run(ms(20));
    assert_eq!(rig.seen, [(ID, TcpEvent::Readable), (ID, TcpEvent::Fin), (ID, TcpEvent::Closed)]);
    assert_eq!(rig.host_seen[2..], [(FIRST, TcpEvent::Closed)]);
    assert_eq!((rig.net.connections(), rig.host.len()), ((0, 1), 0));
    rig.run(TIME_WAIT);
    assert_eq!(rig.net.connections(), (0, 0));
    assert_eq!(rig.tcp.next_deadline(), None);
}

#[test]
fn the_host_closes_first_and_fin_waits_for_the_bytes_before_it() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.host.send(FIRST, b"bye");
    rig.host.close(FIRST);
    rig.run(ms(20));
    assert_eq!(rig.seen, [(ID, TcpEvent::Readable)]);
    assert_eq!(rig.recv(), b"bye");
    rig.run(ms(20));
    assert_eq!(rig.seen[1..], [(ID, TcpEvent::Fin)]);
    assert_eq!(rig.send(b"still"), 5, "half closed");
    rig.run(ms(20));
    assert_eq!(rig.host_recv(), b"still");
    rig.bench.with(|cx| rig.tcp.close(cx, ID));
    rig.run(ms(20));
    assert_eq!(rig.seen[2..], [(ID, TcpEvent::Closed)]);
    assert_eq!((rig.net.connections(), rig.host.time_waits()), ((0, 0), 1));
}

#[test]
fn a_lost_last_ack_is_given_again_in_time_wait() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.bench.with(|cx| rig.tcp.close(cx, ID));
    rig.run(ms(20));
    let mut config = rig.control.config();
    config.up.loss = 1_000_000;
    rig.control.set(config);
    rig.host.close(FIRST);
    rig.run(ms(1));
    assert_eq!(rig.seen.last(), Some(&(ID, TcpEvent::Closed)));
    assert_eq!(rig.host.len(), 1, "it has not heard");
    config.up.loss = 0;
    rig.control.set(config);
    rig.run(Duration::from_secs(2));
    assert_eq!(rig.host.len(), 0);
    assert!(rig.net.tcp_counters().farewells > 0);
}

#[test]
fn the_id_and_the_ends_can_be_used_again_at_once() {
    let mut rig = Rig::connected(PERFECT, 1);
    for n in 1..4 {
        rig.bench.with(|cx| rig.tcp.close(cx, ID));
        rig.run(ms(5));
        rig.host.close(FIRST + n - 1);
        rig.run(ms(5));
        assert_eq!(rig.seen.last(), Some(&(ID, TcpEvent::Closed)), "{n}");
        assert_eq!(rig.net.connections(), (0, 1), "{n}");
        rig.connect(&request());
        rig.run(ms(5));
        assert_eq!(rig.seen.last(), Some(&(ID, TcpEvent::Connected)), "{n}");
        assert_eq!(rig.net.connections(), (1, 0), "{n}");
    }
    rig.run(TIME_WAIT);
    assert_eq!(rig.net.connections(), (1, 0), "the old ends leave the new connection alone");
}

#[test]
fn time_waits_have_a_limit() {
    let mut rig = Rig::new(PERFECT, 1);
    for n in 0..TIME_WAITS as u16 + 3 {
        let mut r = request();
        r.local.set_port(1000 + n);
        rig.connect(&r);
        rig.run(ms(1));
        rig.bench.with(|cx| rig.tcp.close(cx, ID));
        rig.run(ms(1));
        rig.host.close(n);
        rig.run(ms(1));
    }
    assert_eq!(rig.net.connections(), (0, TIME_WAITS));
    assert_eq!(rig.net.tcp_counters().time_waits_cut, 3);
    rig.run(TIME_WAIT);
    assert_eq!(rig.net.connections(), (0, 0));
}

#[test]
fn a_time_wait_is_not_cut_short_by_a_connection_that_came_back() {
    let mut rig = Rig::new(PERFECT, 1);
    let ends = |port| {
        let mut r = request();
        r.local.set_port(port);
        r
    };
    for (n, wait) in [(0, 5), (1, 1)] {
        rig.connect(&ends(1000 + n));
        rig.run(ms(1));
        rig.bench.with(|cx| rig.tcp.close(cx, ID));
        rig.run(ms(1));
        rig.host.close(n);
        rig.run(Duration::from_secs(wait));
    }
    rig.connect(&ends(1000));
    rig.run(Duration::from_secs(6));
    assert_eq!(rig.net.connections(), (1, 1), "the first came back; the second ended 7 s ago");
    rig.run(Duration::from_secs(4));
    assert_eq!(rig.net.connections(), (1, 0));
}

#[test]
fn ends_that_are_used_again_and_again_pile_nothing_up() {
    let mut rig = Rig::new(PERFECT, 1);
    for n in 0..2 * TIME_WAITS as u16 + 10 {
        rig.connect(&request());
        rig.run(ms(1));
        rig.bench.with(|cx| rig.tcp.close(cx, ID));
        rig.run(ms(1));
        rig.host.close(n);
        rig.run(ms(1));
    }
    assert_eq!(rig.net.connections(), (0, 1));
    let endings = rig.net.0.borrow().stack.endings();
    assert!(endings <= 10, "{endings}");
}

#[test]
fn rst_goes_out_on_abort_and_reset_and_comes_in_as_such() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.bench.with(|cx| rig.tcp.abort(cx, ID));
    rig.run(ms(1));
    assert_eq!((rig.seen.len(), &rig.host_seen[..]), (0, &[(FIRST, TcpEvent::Rst)][..]));

    let mut rig = Rig::connected(PERFECT, 1);
    rig.bench.with(|cx| rig.tcp.reset(cx));
    rig.run(ms(1));
    assert_eq!(rig.host_seen, [(FIRST, TcpEvent::Rst)]);

    let mut rig = Rig::connected(PERFECT, 1);
    let (now, mut frames) = (rig.bench.now, Vec::new());
    rig.host.abort(now, FIRST, &mut |f| frames.push(f.to_vec()));
    frames.iter().for_each(|f| rig.inject(f));
    rig.run(ms(1));
    assert_eq!(rig.seen, [(ID, TcpEvent::Rst)]);
    assert_eq!(rig.net.connections(), (0, 0));
}

#[test]
fn segments_of_no_connection_are_answered_with_rst() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.host.send(FIRST, b"hello");
    // The card forgets everything and says nothing.
    rig.control.set_up(false);
    rig.bench.with(|cx| rig.tcp.reset(cx));
    rig.control.set_up(true);
    rig.run(ms(500));
    assert_eq!(rig.host_seen, [(FIRST, TcpEvent::Rst)]);
    assert_eq!(flags(&rig), [RST]);
    assert_eq!(rig.net.tcp_counters().refused, 1);
}

#[test]
fn silence_ends_with_the_retransmission_limit() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.run(Duration::from_secs(100));
    assert_eq!(rig.seen, [], "an idle connection lives");
    assert_eq!((rig.tcp.next_deadline(), rig.host.next_deadline()), (None, None), "and costs nothing");
    rig.silent = true;
    rig.send(b"anybody?");
    rig.run(RETRANSMISSION_LIMIT - ms(100));
    assert_eq!(rig.seen, []);
    rig.run(ms(200));
    assert_eq!(rig.seen, [(ID, TcpEvent::TimedOut)]);
    assert_eq!(rig.net.connections(), (0, 0));
}

#[test]
fn a_flap_loses_no_byte() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.control.set_up(false);
    assert!(!rig.port.link());
    rig.send(b"through the flap");
    rig.run(Duration::from_secs(3));
    rig.control.set_up(true);
    rig.run(Duration::from_secs(11));
    assert_eq!(rig.host_recv(), b"through the flap");
    assert_eq!(rig.seen, []);
}

#[test]
fn without_a_link_nothing_gets_in_or_out_whatever_the_wire_does() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.tcp.set_carrier(false);
    rig.send(b"to the host");
    rig.host.send(FIRST, b"to the card");
    rig.run(Duration::from_secs(3));
    assert!(rig.frames.is_empty() && rig.host_recv().is_empty() && rig.recv().is_empty());
    assert!(rig.net.counters().without_link >= 2);
    rig.tcp.set_carrier(true);
    rig.run(Duration::from_secs(11));
    assert_eq!((rig.host_recv(), rig.recv()), (b"to the host".to_vec(), b"to the card".to_vec()));
}

#[test]
fn a_recording_that_begins_late_has_what_follows_in_both_directions() {
    let mut rig = Rig::connected(PERFECT, 1);
    let file = File::new(usize::MAX);
    let recording = Recording::new(file.clone(), 0).expect("a header");
    rig.net.record(recording.clone());
    rig.send(b"question");
    rig.run(ms(50));
    rig.host.send(FIRST, b"answer");
    rig.run(ms(50));
    recording.flush();
    let has = |direction, text: &[u8]| {
        file.frames().iter().any(|(_, d, _, bytes)| *d == direction as u32 && bytes.ends_with(text))
    };
    assert!(has(Way::Out, b"question") && has(Way::In, b"answer"));
    assert!(!has(Way::In, b"question") && !has(Way::Out, b"answer"));
    assert_eq!((rig.host_recv(), rig.recv()), (b"question".to_vec(), b"answer".to_vec()));
}

#[test]
fn keep_alive_does_not_shorten_a_handshake() {
    let mut rig = Rig::new(PERFECT, 1);
    rig.silent = true;
    let keepalive = crate::tcp::KeepAlive { timeout: ms(1000), interval: ms(1000), probes: 1 };
    let options = TcpOptions { keepalive: Some(keepalive), ..TcpOptions::default() };
    rig.connect(&ConnectRequest { options, ..request() });
    rig.run(CONNECT_TIMEOUT - ms(100));
    assert_eq!(rig.seen, []);
    rig.run(ms(200));
    assert_eq!(rig.seen, [(ID, TcpEvent::ConnectFailed(ConnectError::TimedOut))]);
}

#[test]
fn keep_alive_probes_an_idle_peer_and_gives_a_dead_one_up() {
    let mut rig = Rig::new(PERFECT, 1);
    let keepalive = crate::tcp::KeepAlive { timeout: ms(10_000), interval: ms(20_000), probes: 3 };
    let options = TcpOptions { keepalive: Some(keepalive), ..TcpOptions::default() };
    rig.connect(&ConnectRequest { options, ..request() });
    rig.wait_for(TcpEvent::Connected);
    rig.run(Duration::from_secs(1));
    let before = rig.frames.len();
    rig.run(Duration::from_secs(60));
    assert!((2..=4).contains(&(rig.frames.len() - before)), "{}", rig.frames.len() - before);
    rig.silent = true;
    rig.run(Duration::from_secs(80));
    assert_eq!(rig.seen[1..], [(ID, TcpEvent::TimedOut)]);
}

#[test]
fn a_moved_neighbour_is_followed_when_the_path_group_says_so() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.mac = [2, 0, 0, 0, 0, 9];
    rig.send(b"hello");
    rig.run(ms(300));
    assert!(rig.host_recv().is_empty(), "nobody has that MAC any more");
    let link = LinkHeader { destination: rig.mac, source: CARD, vlan: None };
    rig.tcp.set_link(ID, link);
    rig.tcp.set_link(TcpId(77), link);
    rig.run(Duration::from_secs(10));
    assert_eq!(rig.host_recv(), b"hello");
}

#[test]
fn what_is_not_tcp_of_ours_goes_to_the_rings_up_to_a_limit() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.host.send(FIRST, b"x");
    rig.run(ms(10));
    let mut tcp = rig.frames.last().cloned().expect("a frame");
    tcp[..6].copy_from_slice(&[0, 0x10, 0x18, 0xaa, 0xbb, 0xcc]);
    rig.inject(&tcp);
    let mut udp = tcp.clone();
    udp[..6].copy_from_slice(&CARD);
    udp[23] = ether::UDP;
    rig.inject(&udp);
    rig.inject(&[0xff; 60]);
    assert_eq!(
        [rig.ring_frame(), rig.ring_frame(), rig.ring_frame()],
        [Some(tcp.clone()), Some(udp), Some(vec![0xff; 60])]
    );
    assert_eq!(rig.ring_frame(), None);

    let mut fragment = tcp.clone();
    fragment[..6].copy_from_slice(&CARD);
    fragment[20] = 0x20;
    rig.inject(&fragment);
    fragment[20] = 0;
    fragment[17] = 24;
    rig.inject(&fragment);
    for _ in 0..PORT_FRAMES + 5 {
        rig.inject(&[0xff; 60]);
    }
    for _ in 0..4 {
        rig.step();
    }
    let c = rig.net.counters();
    assert_eq!((c.fragments, c.malformed, c.ring_drops), (1, 1, 5));
}

#[test]
fn a_reset_forgets_what_waits_for_the_rings() {
    let mut rig = Rig::connected(PERFECT, 1);
    rig.inject(&[0xff; 60]);
    rig.step();
    assert_eq!(rig.net.counters().to_rings, 1);
    rig.bench.with(|cx| rig.tcp.reset(cx));
    assert_eq!(rig.ring_frame(), None);
    rig.inject(&[0xfe; 60]);
    assert_eq!(rig.ring_frame(), Some(vec![0xfe; 60]), "what is on the wire is not forgotten");
}

#[test]
fn a_frame_with_another_tag_is_not_the_connections() {
    let mut rig = Rig::connected(PERFECT, 1);
    let mut captured = Vec::new();
    rig.host.send(FIRST, b"hello");
    rig.host.poll(rig.bench.now, &mut |f| captured = f.to_vec());
    captured.splice(12..12, [0x81, 0, 0, 7]);
    rig.inject(&captured);
    rig.run(ms(1));
    assert_eq!(rig.net.tcp_counters().refused, 1);
}

/// A frame of the host with some bytes overwritten.
fn hostile() -> impl Strategy<Value = (usize, Vec<(usize, u8)>, usize)> {
    (0..6_usize, prop::collection::vec((0..120_usize, any::<u8>()), 0..8), 0..200_usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn no_frame_harms_the_card(frames in prop::collection::vec(hostile(), 1..30), fix in any::<bool>()) {
        let mut rig = Rig::new(PERFECT, 1);
        rig.connect(&request());
        rig.wait_for(TcpEvent::Connected);
        let mut captured: Vec<Vec<u8>> = Vec::new();
        rig.host.send(FIRST, &[7; 100]);
        rig.host.poll(rig.bench.now, &mut |f| captured.push(f.to_vec()));
        rig.host.close(FIRST);
        rig.host.poll(rig.bench.now, &mut |f| captured.push(f.to_vec()));
        let mut syn = rig.frames[0].clone();
        syn[..6].copy_from_slice(&CARD);
        captured.push(syn);
        for (which, changes, cut) in frames {
            let mut f = captured[which % captured.len()].clone();
            for (at, value) in changes {
                if let Some(b) = f.get_mut(at) {
                    *b = value;
                }
            }
            f.truncate(cut.max(14));
            if let Some(ip) = ether::parse(&f).filter(|_| fix) {
                if ip.v4 { ether::fill_ipv4_checksum(&mut f, &ip) }
                ether::fill_l4_checksum(&mut f, &ip);
            }
            rig.inject(&f);
            rig.run(ms(3));
            rig.recv();
            rig.send(b"x");
        }
        rig.run(Duration::from_secs(100));
        rig.bench.with(|cx| rig.tcp.reset(cx));
        prop_assert_eq!(rig.net.connections(), (0, 0));
    }

    #[test]
    fn no_bytes_harm_the_card(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..10)) {
        let mut rig = Rig::new(PERFECT, 1);
        for mut f in frames {
            if f.len() > 12 {
                f[..6].copy_from_slice(&CARD);
            }
            rig.inject(&f);
            rig.run(ms(1));
        }
        prop_assert_eq!(rig.net.connections(), (0, 0));
    }
}
