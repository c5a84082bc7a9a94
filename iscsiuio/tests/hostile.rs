//! Whatever the network or the card puts into the ring, the helper goes on.
#![allow(clippy::unwrap_used, reason = "scripts of tests are not test functions to clippy")]

mod rig;

use bus::uio::{BUFFER_BYTES, ToHelper};
use hsi::bcm5709::l2::{L2_FHDR_ERRORS_BAD_CRC, L2Fhdr};
use proptest::prelude::*;
use rig::*;
use smoltcp::wire::{ArpOperation, EthernetProtocol};

/// Up in both families, with DHCP clients that wait for answers.
fn listening() -> Rig {
    let mut r = Rig::new(&["dhcp", "dhcp6"]);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(3000);
    r.take();
    r
}

#[test]
fn errors_lengths_and_indexes_are_counted() {
    let mut r = Rig::up(&["ip=10.0.0.3/24"]);
    let good = arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST);
    let mut header = L2Fhdr::default();
    header.l2_fhdr_pkt_len.set(64);
    header.l2_fhdr_status.set(L2_FHDR_ERRORS_BAD_CRC);
    r.card.as_mut().unwrap().deliver_raw(&header, &good);
    header.l2_fhdr_status.set(0);
    header.l2_fhdr_pkt_len.set(17);
    r.card.as_mut().unwrap().deliver_raw(&header, &good);
    header.l2_fhdr_pkt_len.set((BUFFER_BYTES - 18 + 5) as u16);
    r.card.as_mut().unwrap().deliver_raw(&header, &good);
    r.run(10);
    let c = r.helper.counters().ring;
    assert_eq!((c.rx_errors, c.rx_length, c.rx_oversize, c.rx_packets), (1, 1, 1, 0));
    assert_eq!(r.card.as_ref().unwrap().posted(), 3, "the buffers come back");
    assert!(c.missed >= 1, "three interrupts, one look");
    r.card.as_ref().unwrap().maps.status.write(0x16, &999_u16.to_le_bytes());
    r.run(10);
    assert!(r.helper.counters().ring.bad_index > 0);
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(EthernetProtocol::Arp),
        Just(EthernetProtocol::Ipv4),
        Just(EthernetProtocol::Ipv6),
        any::<u16>().prop_map(EthernetProtocol::Unknown)
    ];
    let to = prop_oneof![Just(MAC), Just(BROADCAST), Just([0x33, 0x33, 0, 0, 0, 1])];
    (kind, to, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(k, to, p)| eth(PEER, to, k, &p))
}

/// A good packet of each kind, with some bytes changed and its end cut off.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = vec![
        arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST),
        udp((PEER, [10, 0, 0, 1].into(), 67), (BROADCAST, [255; 4].into(), 68), &[2; 300]),
        {
            let (ll, server) = ("fe80::210:18ff:feaa:bbcc", "fe80::1");
            let ip = |s: &str| s.parse::<std::net::IpAddr>().unwrap();
            let body = [&[2, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1][..], &MAC, &[0, 3, 0, 12], &[0; 12]].concat();
            udp((PEER, ip(server), 547), (MAC, ip(ll), 546), &body)
        },
    ];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    (prop::sample::select(seeds), changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut p, c, end, cut)| {
            for (at, value) in c {
                let at = 12 + at.index(p.len() - 12);
                p[at] = value;
            }
            if cut {
                p.truncate(14 + end.index(p.len() - 13));
            }
            p
        },
    )
}

/// Messages of neighbour discovery and echoes with any content and a good checksum.
fn icmpv6() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![128_u8..=137, any::<u8>()];
    (kind, proptest::collection::vec(any::<u8>(), 0..120)).prop_map(|(kind, body)| {
        let (from, to) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
        let mut icmp = vec![kind, 0, 0, 0];
        icmp.extend(body);
        let mut b = vec![0; 40 + icmp.len()];
        let ip = smoltcp::wire::Ipv6Repr {
            src_addr: from,
            dst_addr: to,
            next_header: smoltcp::wire::IpProtocol::Icmpv6,
            payload_len: icmp.len(),
            hop_limit: 255,
        };
        ip.emit(&mut smoltcp::wire::Ipv6Packet::new_unchecked(&mut b[..]));
        b[40..].copy_from_slice(&icmp);
        smoltcp::wire::Icmpv6Packet::new_unchecked(&mut b[40..]).fill_checksum(&from, &to);
        eth(PEER, [0x33, 0x33, 0, 0, 0, 1], EthernetProtocol::Ipv6, &b)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_frame_stops_the_helper(frames in proptest::collection::vec(prop_oneof![packet(), broken(), icmpv6()], 1..40)) {
        let mut r = listening();
        for f in &frames {
            r.put(f);
        }
        r.run(5000);
        let c = r.helper.counters();
        prop_assert_eq!(c.ring.rx_packets, frames.len() as u64);
    }

    #[test]
    fn no_status_block_stops_the_helper(writes in proptest::collection::vec((0usize..64, any::<u16>()), 1..50)) {
        let mut r = listening();
        r.card.as_mut().unwrap().stuck = true;
        for (at, value) in writes {
            let card = r.card.as_ref().unwrap();
            card.maps.status.write(at & !1, &value.to_le_bytes());
            card.maps.buffers.write(BUFFER_BYTES * (1 + at % 3), &value.to_le_bytes());
            card.maps.events.bump();
            for _ in 0..4 {
                r.step();
            }
            while r.from.recv().is_some() {}
        }
    }
}
