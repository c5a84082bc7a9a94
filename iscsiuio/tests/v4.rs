//! IPv4 as packet scripts: acquisition, ARP, echo, conflicts, VLAN, paths.
#![allow(clippy::unwrap_used, reason = "scripts of tests are not test functions to clippy")]

mod rig;

use std::net::Ipv4Addr;
use std::time::Duration;

use bus::Instant;
use bus::uio::{FromHelper, PathHandle, ToHelper};
use iscsiuio::helper::State;
use rig::*;
use smoltcp::wire::{ArpOperation, Icmpv4Repr};

const STATIC: &str = "ip=10.0.0.3/24,gw=10.0.0.1";
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn secs(s: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(s)
}

#[test]
fn an_address_is_probed_for_then_announced() {
    let mut r = Rig::new(&[STATIC]);
    r.run(10);
    assert_eq!((r.hellos, r.opens), (1, 0), "nothing is opened before the interface is up");
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(300);
    assert_eq!(r.helper.state(), State::Acquiring);
    r.run(5000);
    let card = r.card.as_ref().unwrap();
    assert_eq!(card.sort, [0, 0x3_0004, 0x8003_0004]);
    assert_eq!(card.posted(), 3);
    assert_eq!(r.helper.state(), State::Running);
    let probe = (ArpOperation::Request, NOBODY, OURS, BROADCAST);
    let announcement = (ArpOperation::Request, OURS, OURS, BROADCAST);
    assert_eq!(r.arps(), [probe, probe, probe, announcement, announcement]);
    assert!(r.said("Using IP address: 10.0.0.3"));
}

#[test]
fn arp_and_echo_requests_are_answered() {
    let mut r = Rig::up(&[STATIC]);
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST));
    assert_eq!(r.arps(), [(ArpOperation::Reply, OURS, HOST, PEER)]);
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], [10, 0, 0, 4].into()), BROADCAST));
    assert_eq!(r.arps(), [], "not for us");
    let data = [7; 900];
    r.put(&icmp4((PEER, HOST), (MAC, OURS), &Icmpv4Repr::EchoRequest { ident: 5, seq_no: 6, data: &data }));
    let reply = icmp4((MAC, OURS), (PEER, HOST), &Icmpv4Repr::EchoReply { ident: 5, seq_no: 6, data: &data });
    assert_eq!(r.take()[0].bytes, reply);
    let c = r.helper.counters();
    assert_eq!((c.ring.rx_packets, c.stack.echo_replies, c.stack.arp_replies), (3, 1, 1));
}

#[test]
fn echoes_are_answered_up_to_the_mtu() {
    for mtu in [1500, 9000] {
        let mut r = Rig::new(&[STATIC]);
        r.tell(ToHelper::IfUp { mac: MAC, mtu });
        r.run(5000);
        r.take();
        let data = vec![7; usize::from(mtu) - 28 + 1];
        let (largest, more) = (&data[1..], &data[..]);
        let ask =
            |data| icmp4((PEER, HOST), (MAC, OURS), &Icmpv4Repr::EchoRequest { ident: 5, seq_no: 6, data });
        r.put(&ask(largest));
        let answer = Icmpv4Repr::EchoReply { ident: 5, seq_no: 6, data: largest };
        assert_eq!(r.take()[0].bytes, icmp4((MAC, OURS), (PEER, HOST), &answer));
        r.put(&ask(more));
        assert_eq!((r.take().len(), r.helper.counters().oversize), (0, 1));
    }
}

#[test]
fn a_static_address_in_use_is_not_used_and_tried_again() {
    let mut r = Rig::new(&[STATIC]);
    r.responder = Some(answers_arp(OURS, PEER));
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(9000);
    assert!(r.said("IP address 10.0.0.3 is in use by 02:00:00:00:00:01"));
    assert!(r.helper.addresses(0).is_empty());
    assert_eq!(r.take().len(), 1, "one probe, and nothing for ten seconds");
    r.want(1, HOST);
    r.run(8000);
    assert!(!r.updates[0].1.resolved(), "a path from an address that is not ours is none");
    assert_eq!(r.take().len(), 1, "after ten seconds one more probe, which is answered");
    r.responder = None;
    r.run(25_000);
    assert_eq!(r.helper.addresses(0), [OURS]);
}

#[test]
fn an_address_in_use_is_defended_once_in_ten_seconds() {
    let mut r = Rig::up(&[STATIC]);
    let claim = arp(ArpOperation::Request, (PEER, OURS), ([0; 6], OURS), BROADCAST);
    r.put(&claim);
    r.put(&claim);
    assert_eq!(r.arps(), [(ArpOperation::Request, OURS, OURS, BROADCAST)]);
    r.run(10_000);
    r.put(&claim);
    assert_eq!(r.arps().len(), 1);
    assert_eq!(r.helper.addresses(0), [OURS], "sessions stand on it");
    assert_eq!(r.helper.counters().stack.conflicts, 3);
}

#[test]
fn tags_carry_id_and_priority() {
    let mut r = Rig::up(&["ip=10.0.0.3/24,vlan=5,pcp=3", STATIC]);
    let ask = arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST);
    r.put_tagged(&ask, Some(7 << 13 | 5));
    r.run(0);
    assert_eq!(r.take()[0].tci, Some(3 << 13 | 5));
    r.put_tagged(&ask, Some(6));
    r.run(0);
    assert!(r.take().is_empty());
    assert_eq!(r.helper.counters().stack.no_interface, 1);
    r.put(&ask);
    assert_eq!(r.take()[0].tci, None);
}

#[test]
fn a_path_is_resolved_and_told_with_its_tag_and_mtu() {
    let mut r = Rig::up(&["ip=10.0.0.3/24,vlan=5,pcp=1,mtu=1400"]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    let u = r.updates[0].1;
    assert_eq!((u.handle, u.mac, u.src), (PathHandle(9), PEER, OURS.into()));
    assert_eq!((u.vlan, u.pmtu), (1 << 13 | 5, 1400));
    r.take();
    r.want(10, HOST);
    r.run(10);
    assert_eq!((r.updates.len(), r.take().len()), (2, 0), "a known neighbour is not asked again");
}

#[test]
fn what_is_not_in_the_network_goes_to_the_gateway() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp([10, 0, 0, 1].into(), OTHER));
    r.want(1, [192, 168, 0, 1]);
    r.run(10);
    assert_eq!(r.updates[0].1.mac, OTHER);
}

/// Who is asked is heard, also in another network: without a gateway the destination itself is asked.
#[test]
fn without_a_gateway_the_destination_is_asked_and_its_answer_used() {
    let far = Ipv4Addr::new(10, 77, 0, 9);
    for config in ["ip=10.99.0.3/24", "ip=10.77.0.3/32", "ip=10.77.0.3/24"] {
        let mut r = Rig::up(&[config]);
        // An answer that nobody asked for, and one of somebody else, are not used.
        let own: Ipv4Addr = config[3..config.find('/').unwrap()].parse().unwrap();
        if !config.ends_with("77.0.3/24") {
            r.put(&arp(ArpOperation::Reply, (OTHER, far), (MAC, own), MAC));
        }
        r.take();
        r.responder = Some(answers_arp(far, PEER));
        r.want(1, far);
        r.run(10);
        assert_eq!(r.updates.len(), 1, "{config}");
        assert_eq!((r.updates[0].1.mac, r.updates[0].1.src), (PEER, own.into()), "{config}");
        // It is watched as any other: if it moves and says so, the path follows.
        r.put(&arp(ArpOperation::Reply, (OTHER, far), (MAC, own), MAC));
        assert_eq!(r.updates[1].1.mac, OTHER, "{config}");
    }
}

#[test]
fn nobody_answers_four_requests_and_the_path_fails_after_eight_seconds() {
    let mut r = Rig::up(&[STATIC]);
    let start = r.now;
    for handle in 0..128 {
        r.want(handle, HOST);
    }
    r.run(20);
    r.want(128, HOST);
    r.want(129, HOST);
    r.run(9000);
    assert_eq!(r.arps().len(), 4, "requests for one hop share its questions");
    assert_eq!(r.updates.len(), 130);
    assert_eq!(r.updates[0].1.handle, PathHandle(128), "one too many is answered at once");
    assert!(r.updates.iter().all(|(at, u)| u.mac == [0; 6] && at.since(start) <= Duration::from_secs(8)));
}

#[test]
fn requests_before_the_ring_is_there_are_answered_too() {
    let mut r = Rig::new(&[STATIC]);
    r.mute = true;
    r.want(1, HOST);
    r.run(9000);
    assert_eq!((r.updates.len(), r.updates[0].0), (1, secs(8)));
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.want(2, HOST);
    r.run(20_000);
    assert_eq!(r.updates.len(), 2);
    assert!(r.opens >= 4, "an open without an answer is repeated");
}

#[test]
fn the_interface_going_down_forgets_requests_and_closes() {
    let mut r = Rig::up(&[STATIC]);
    r.want(1, HOST);
    r.run(1000);
    r.tell(ToHelper::IfDown);
    r.run(20_000);
    assert_eq!((r.updates.len(), r.closes.as_slice(), r.helper.state()), (0, &[1][..], State::Stopped));
    assert_eq!(r.helper.counters().path.dropped, 1);
    r.take();
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 9000 });
    r.run(3000);
    let announcement = (ArpOperation::Request, OURS, OURS, BROADCAST);
    assert_eq!(r.arps(), [announcement, announcement], "the address is kept, and said again");
    assert_eq!(r.card.as_ref().unwrap().maps.generation, 2);
}

#[test]
fn a_neighbour_that_moves_is_told_at_once() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.put(&arp(ArpOperation::Request, (OTHER, HOST), ([0; 6], HOST), BROADCAST));
    assert_eq!((r.updates.len(), r.updates[1].1.mac, r.updates[1].1.handle), (2, OTHER, PathHandle(9)));
}

#[test]
fn a_neighbour_that_moved_during_a_reset_is_asked_again() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.tell(ToHelper::IfDown);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.responder = Some(answers_arp(HOST, OTHER));
    r.want(10, HOST);
    r.run(10);
    assert_eq!((r.updates.len(), r.updates[1].1.mac), (2, OTHER));
}

/// A path in use keeps its hop alive, of which nothing is known after five minutes of silence.
#[test]
fn a_request_for_a_neighbour_that_was_silent_for_long_is_not_kept_waiting() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.responder = None;
    r.run(400_000);
    for (handle, ms) in [(10, 500), (11, 9_500)] {
        r.want(handle, HOST);
        r.run(8_000);
        let last = r.updates.last().unwrap().1;
        assert_eq!((last.handle, last.resolved()), (PathHandle(handle), false), "{:?}", r.updates);
        r.take();
        r.run(ms);
    }
    r.responder = Some(answers_arp(HOST, OTHER));
    r.want(12, HOST);
    r.run(2_000);
    let mine = r.updates.iter().find(|(_, u)| u.handle == PathHandle(12));
    assert_eq!(mine.map(|(_, u)| u.mac), Some(OTHER));
}

#[test]
fn traffic_with_another_mac_moves_nothing() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.put(&icmp4((OTHER, HOST), (MAC, OURS), &Icmpv4Repr::EchoRequest { ident: 5, seq_no: 6, data: &[] }));
    assert_eq!(r.updates.len(), 1);
}

#[test]
fn a_neighbour_exchanged_without_a_word_is_noticed_in_fourteen_seconds() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.responder = Some(answers_arp(HOST, OTHER));
    let start = r.now;
    r.run(60_000);
    assert_eq!((r.updates.len(), r.updates[1].1.mac), (2, OTHER));
    assert!(r.updates[1].0.since(start) <= Duration::from_secs(14));
}

#[test]
fn a_silent_neighbour_costs_nothing_but_questions() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.responder = None;
    r.run(600_000);
    assert_eq!(r.updates.len(), 1);
    r.responder = Some(answers_arp(HOST, PEER));
    r.run(30_000);
    assert_eq!(r.updates.len(), 1);
    assert!(r.take().len() < 300);
}

#[test]
fn a_restarted_helper_comes_back_by_itself() {
    let mut r = Rig::up(&[STATIC]);
    r.to_rx.kill();
    r.tell(ToHelper::IfDown);
    r.helper = iscsiuio::Helper::new(
        0,
        r.to_rx.clone(),
        r.from_tx.clone(),
        vec![STATIC.parse().unwrap()],
        iscsiuio::log::Level::Info,
    );
    r.to_rx.revive();
    r.run(10);
    assert_eq!(r.hellos, 2);
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(1000);
    assert_eq!((r.helper.state(), r.helper.addresses(0)), (State::Running, vec![OURS.into()]));
}

#[test]
fn refusals_are_limited() {
    let mut r = Rig::new(&[STATIC]);
    r.refuse = true;
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(60_000);
    assert_eq!((r.opens, r.helper.state()), (15, State::Stopped));
    r.refuse = false;
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(1000);
    assert_eq!(r.helper.state(), State::Running);
}

#[test]
fn a_ring_that_does_not_send_is_opened_anew_and_a_shut_one_is_not_written_to() {
    let mut r = Rig::up(&[STATIC]);
    r.card.as_mut().unwrap().stuck = true;
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST));
    r.run(2000);
    assert_eq!((r.opens, r.helper.counters().stuck), (2, 1));
    r.run(5000);
    r.take();
    r.card.as_ref().unwrap().shut();
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST));
    assert_eq!((r.take().len(), r.helper.counters().ring.tx_shut), (0, 1));
}

/// `Rig::run` fails when the helper does not come to rest: without a ring there is no frame whose time could
/// be over.
#[test]
fn a_stuck_ring_that_cannot_be_opened_again_is_waited_for_quietly() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.card.as_mut().unwrap().stuck = true;
    r.refuse = true;
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST));
    r.run(30_000);
    assert_eq!((r.helper.counters().stuck, r.helper.state()), (1, State::Stopped));
}

#[test]
fn an_opening_while_the_interface_is_down_is_closed() {
    let mut r = Rig::up(&[STATIC]);
    r.tell(ToHelper::IfDown);
    r.run(10);
    r.closes.clear();
    r.tell(ToHelper::Opened(Card::new(77).maps));
    r.run(10);
    assert_eq!((r.closes.as_slice(), r.helper.counters().unexpected), (&[77][..], 1));
}

#[test]
fn of_two_answers_of_a_slow_driver_the_later_counts() {
    let mut r = Rig::new(&[STATIC]);
    r.mute = true;
    r.tell(ToHelper::IfUp { mac: MAC, mtu: 1500 });
    r.run(6000);
    assert_eq!(r.opens, 2);
    for generation in [1, 2] {
        let card = Card::new(generation);
        r.tell(ToHelper::Opened(card.maps.clone()));
        r.card = Some(card);
    }
    r.run(1000);
    assert_eq!((r.helper.addresses(0), r.helper.state()), (vec![OURS.into()], State::Running));
    assert_eq!((r.closes.as_slice(), r.opens, r.helper.counters().stuck), (&[][..], 2, 0));
}

/// `Rig::run` fails when the helper does not come to rest: without a ring no neighbour can be asked.
#[test]
fn paths_in_use_are_waited_for_quietly_while_a_driver_does_not_open() {
    let mut r = Rig::up(&[STATIC]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(9, HOST);
    r.run(10);
    r.card.as_mut().unwrap().stuck = true;
    r.mute = true;
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST));
    r.run(60_000);
    assert_eq!((r.helper.counters().stuck, r.helper.state()), (1, State::Opening));
}

#[test]
fn a_lost_neighbour_that_comes_back_is_found_by_the_next_request() {
    for phase in 0..20 {
        let mut r = Rig::up(&[STATIC]);
        r.responder = Some(answers_arp(HOST, PEER));
        r.want(1, HOST);
        r.run(10);
        r.responder = None;
        r.run(400_000 + phase * 1000);
        r.responder = Some(answers_arp(HOST, PEER));
        let start = r.now;
        r.want(2, HOST);
        r.run(8000);
        let (at, update) = *r.updates.last().unwrap();
        assert!(update.handle == PathHandle(2) && update.resolved(), "{phase}: {update:?}");
        assert!(at.since(start) <= Duration::from_secs(2), "{phase}");
    }
}

#[test]
fn a_request_that_joins_late_has_its_own_time() {
    let mut r = Rig::up(&[STATIC]);
    r.want(1, HOST);
    r.run(7000);
    r.want(2, HOST);
    r.run(2000);
    assert_eq!(r.updates.len(), 1, "the first one's time is over");
    r.responder = Some(answers_arp(HOST, PEER));
    r.run(3000);
    assert!(r.updates[1].1.handle == PathHandle(2) && r.updates[1].1.resolved());
}

#[test]
fn a_driver_that_takes_nothing_loses_nothing_but_time() {
    let mut r = Rig::up(&[STATIC]);
    while r.from_tx.send(FromHelper::Hello).is_ok() {}
    r.put_tagged(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST), None);
    for _ in 0..50 {
        r.step();
    }
    r.run(100);
    assert_eq!(r.arps(), [(ArpOperation::Reply, OURS, HOST, PEER)]);
}

#[test]
fn the_ring_goes_round_past_its_link() {
    let mut r = Rig::up(&[STATIC]);
    for n in 0..700_u16 {
        r.put(&icmp4((PEER, HOST), (MAC, OURS), &Icmpv4Repr::EchoRequest { ident: 5, seq_no: n, data: &[] }));
    }
    let c = r.helper.counters();
    assert_eq!((r.take().len(), c.stack.echo_replies, c.ring.bad_index), (700, 700, 0));
    assert_eq!(r.card.as_ref().unwrap().posted(), 3);
}

#[test]
fn a_frame_that_left_without_an_interrupt_is_not_stuck() {
    let mut r = Rig::up(&[STATIC]);
    r.card.as_mut().unwrap().quiet = true;
    // The rig steps again after each write; a helper that sleeps would not.
    r.put(&arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST));
    r.run(30_000);
    assert_eq!((r.arps().len(), r.opens, r.helper.counters().stuck), (1, 1, 0));
}
