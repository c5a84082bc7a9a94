use proptest::prelude::*;

use super::*;
use crate::mem::SharedMem;

/// Everything that waits, in pieces of `step` bytes, each with what goes with its first byte.
fn drain(outbox: &mut Outbox, step: usize) -> Vec<(Vec<u8>, Vec<OwnedFd>)> {
    let mut all = Vec::new();
    loop {
        let Some((bytes, fds)) = outbox.next() else { return all };
        let n = bytes.len().min(step.max(1));
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        all.push((bytes[..n].to_vec(), fds));
        outbox.sent(n);
    }
}

fn maps(shareable: bool) -> UioMaps {
    let len = STATUS_BYTES + RING_BYTES + BUFFERS_BYTES;
    let mem = if shareable { SharedMem::shareable(len).unwrap() } else { SharedMem::new(len) };
    let buf = crate::mem::DmaBuf { addr: 0, mem };
    UioMaps {
        generation: 7,
        status: buf.view(0..STATUS_BYTES),
        ring: buf.view(STATUS_BYTES..STATUS_BYTES + RING_BYTES),
        buffers: buf.view(STATUS_BYTES + RING_BYTES..len),
        registers: vec![(0x808, 0x5709_1000)],
        events: EventCount::default(),
    }
}

fn pass(exporter: &mut Exporter, client: &mut UioClient, step: usize) -> Vec<ToHelper> {
    let mut out = Vec::new();
    for (bytes, fds) in drain(&mut exporter.outbox, step) {
        client.received(&bytes, fds, &mut out).unwrap();
    }
    out
}

#[test]
fn an_open_ring_is_the_same_memory_on_both_sides() {
    let (mut exporter, mut client) = (Exporter::default(), UioClient::default());
    let ours = maps(true);
    assert_eq!(exporter.say(&ToHelper::Opened(ours.clone())).unwrap(), None);
    let theirs = match &pass(&mut exporter, &mut client, 5)[..] {
        [ToHelper::Opened(maps)] => maps.clone(),
        other => panic!("{other:?}"),
    };
    theirs.ring.write(4096, &[1, 2, 3]);
    theirs.buffers.write(0, &[4]);
    ours.status.write(22, &[9, 0]);
    let mut seen = [0; 4];
    ours.ring.read(4096, &mut seen);
    assert_eq!((seen, theirs.status.load16(22), ours.buffers.load16(0)), ([1, 2, 3, 0], 9, 4));
    assert_eq!((theirs.generation, &theirs.registers), (7, &ours.registers));
    exporter.forward_events();
    assert!(!client.take_events());
    ours.events.bump();
    exporter.forward_events();
    assert!(client.event().is_some() && client.take_events() && !client.take_events());
    assert_eq!((theirs.events.get(), exporter.open()), (1, Some(7)));
}

#[test]
fn memory_that_cannot_be_shared_is_refused() {
    let (mut exporter, mut client) = (Exporter::default(), UioClient::default());
    let told = exporter.say(&ToHelper::Opened(maps(false))).unwrap();
    assert_eq!((told, exporter.open()), (Some(FromHelper::Close { generation: 7 }), None));
    let got = pass(&mut exporter, &mut client, 100);
    assert!(matches!(got[..], [ToHelper::OpenRefused(OpenRefused::NoMemory)]), "{got:?}");
}

#[test]
fn strangers_and_slow_peers_are_errors() {
    let mut out = Vec::new();
    let mut e = Exporter::default();
    let hello = e.outbox.next().unwrap().0.to_vec();
    let mut other = hello.clone();
    other[HEAD + 4] = 9;
    assert!(matches!(e.received(&other, Vec::new(), &mut out), Err(WireError::Hello)));
    let fds = (0..5).map(|_| os::shm::memfd("x", 1).unwrap()).collect();
    assert!(matches!(Exporter::default().received(&[], fds, &mut out), Err(WireError::Descriptors)));
    let mut e = Exporter::default();
    let full = (0..=QUEUE).find_map(|_| e.say(&ToHelper::IfDown).err());
    assert!(matches!(full, Some(WireError::Slow)));
    // A client that is sent the wrong memory.
    let mut e = Exporter::default();
    e.say(&ToHelper::Opened(maps(true))).unwrap();
    let mut messages = drain(&mut e.outbox, 1 << 20);
    let (bytes, mut fds) = messages.pop().unwrap();
    fds[1] = os::shm::memfd("small", 4096).unwrap();
    let mut client = UioClient::default();
    client.received(&hello, Vec::new(), &mut Vec::new()).unwrap();
    assert!(matches!(client.received(&bytes, fds, &mut Vec::new()), Err(WireError::Map(_))));
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn to() -> impl Strategy<Value = ToHelper> {
    prop_oneof![
        (any::<[u8; 6]>(), any::<u16>()).prop_map(|(mac, mtu)| ToHelper::IfUp { mac, mtu }),
        (any::<u64>(), ip(), any::<u16>(), any::<u16>()).prop_map(|(h, dst, vlan, pmtu)| {
            ToHelper::PathReq(PathReq { handle: PathHandle(h), dst, vlan, pmtu })
        }),
        Just(ToHelper::IfDown),
        Just(ToHelper::OpenRefused(OpenRefused::Down)),
        Just(ToHelper::OpenRefused(OpenRefused::NoMemory)),
    ]
}

fn from() -> impl Strategy<Value = FromHelper> {
    let value = prop_oneof![any::<u16>().prop_map(Value::U16), any::<u32>().prop_map(Value::U32)];
    prop_oneof![
        Just(FromHelper::Hello),
        Just(FromHelper::Open),
        any::<u32>().prop_map(|generation| FromHelper::Close { generation }),
        (any::<u32>(), any::<u32>(), value).prop_map(|(generation, at, value)| FromHelper::Write {
            generation,
            at,
            value
        }),
        (any::<u64>(), any::<[u8; 6]>(), ip(), any::<u16>(), any::<u16>(), 0usize..6).prop_map(
            |(h, mac, src, vlan, pmtu, why)| {
                let failure = PathFailure::ALL.get(why).copied();
                let mut update = PathUpdate { handle: PathHandle(h), mac, src, vlan, pmtu, failure };
                // A reason and a tag exclude each other.
                match failure {
                    Some(_) => (update.mac, update.vlan) = ([0; 6], 0),
                    None if update.resolved() => {}
                    None => update.vlan = 0,
                }
                FromHelper::PathUpdate(update)
            }
        ),
    ]
}

proptest! {
    #[test]
    fn every_message_comes_through_in_any_pieces(
        there in proptest::collection::vec(to(), 0..20),
        back in proptest::collection::vec(from(), 0..20),
        step in 1..64usize,
    ) {
        let (mut exporter, mut client) = (Exporter::default(), UioClient::default());
        for m in &there {
            exporter.say(m).unwrap();
        }
        prop_assert_eq!(format!("{:?}", pass(&mut exporter, &mut client, step)), format!("{there:?}"));
        for m in &back {
            client.say(m).unwrap();
        }
        let mut out = Vec::new();
        for (bytes, fds) in drain(&mut client.outbox, step) {
            exporter.received(&bytes, fds, &mut out).unwrap();
        }
        prop_assert_eq!(out, back);
    }

    #[test]
    fn nonsense_is_an_error_and_nothing_worse(
        kind in 0..24u8,
        body in proptest::collection::vec(any::<u8>(), 0..80),
        len in 0..100u32,
        fds in 0..6usize,
    ) {
        let hello = Exporter::default().outbox.next().unwrap().0.to_vec();
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend([kind, fds as u8, 0, 0]);
        bytes.extend(body);
        let files = || (0..fds).map(|_| os::shm::memfd("x", 4096).unwrap()).collect::<Vec<_>>();
        let (mut exporter, mut client) = (Exporter::default(), UioClient::default());
        exporter.received(&hello, Vec::new(), &mut Vec::new()).unwrap();
        client.received(&hello, Vec::new(), &mut Vec::new()).unwrap();
        let _ = exporter.received(&bytes, files(), &mut Vec::new());
        let _ = client.received(&bytes, files(), &mut Vec::new());
    }
}
