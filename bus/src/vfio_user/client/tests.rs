use std::os::fd::AsFd;

use os::event::ready;
use os::unix::Channel;
use proptest::prelude::*;

use super::super::fuzzing::{Lie, run_client};
use super::super::link::SocketLink;
use super::super::server::Holdings;
use super::super::testing::*;
use super::super::wire::{Header, Kind};
use super::*;
use crate::actor::{Budget, Progress};
use crate::config::{
    COMMAND_BUS_MASTER, COMMAND_MEMORY, MSI_ENABLE, MSIX_ENABLE, PCIE_DEVICE_CONTROL, PCIE_INITIATE_FLR,
};
use crate::pci::{BusLost, Dir, Platform, Proof, ResetKind, Vector};

const SMALL: ClientConfig = ClientConfig { dma_limit: 64 << 10, share: true, doorbells: true };

struct Bench {
    world: World,
    link: Inline,
    client: Client<Inline>,
}

fn server() -> Inline {
    Inline::new(Raw::detached(Capabilities::default(), |_| ()))
}

fn attach(link: &Inline, config: ClientConfig) -> Result<Client<Inline>, AttachError> {
    {
        let raw = &mut *link.raw.borrow_mut();
        raw.server.attach(&mut raw.world.cx());
    }
    Client::attach(&mut World::new().cx(), link.clone(), config)
}

impl Bench {
    fn with(config: ClientConfig) -> Self {
        let link = server();
        let client = attach(&link, config).unwrap();
        let mut b = Self { world: World::new(), link, client };
        b.client.config_write(&mut b.world.cx(), 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
        b
    }

    fn new() -> Self {
        Self::with(SMALL)
    }

    fn aim(&mut self, addr: u64) {
        let cx = &mut self.world.cx();
        self.client.write32(cx, Bar(0), TARGET_LO, addr as u32);
        self.client.write32(cx, Bar(0), TARGET_HI, (addr >> 32) as u32);
    }

    fn go(&mut self, addr: u64, vector: u32) {
        self.aim(addr);
        self.client.write32(&mut self.world.cx(), Bar(0), GO, vector);
    }

    fn read(&mut self, at: u64) -> Result<u32, BusLost> {
        self.client.read32(&mut self.world.cx(), Bar(0), at)
    }

    fn seen(&self) -> Vec<(u64, u64)> {
        self.link.raw.borrow().seen.writes.take()
    }
}

fn written(buf: &crate::mem::DmaBuf, at: usize) -> [u8; 12] {
    let mut out = [0; 12];
    buf.read(at, &mut out);
    out
}

#[test]
fn registers_and_memory_of_a_card_in_another_process() {
    let mut b = Bench::new();
    assert_eq!(b.client.config_read(&mut b.world.cx(), 0), Ok(0x1639_14e4));
    b.client.write32(&mut b.world.cx(), Bar(0), STORAGE, 77);
    assert_eq!(b.read(STORAGE), Ok(77));
    assert_eq!(b.read(32 << 20), Ok(!0), "beyond the BAR");
    b.client.config_write(&mut b.world.cx(), PRIVATE, 5);
    assert_eq!(b.client.config_read(&mut b.world.cx(), PRIVATE), Ok(5));
    let buf = b.client.dma_alloc(100, "test").unwrap();
    let loan = b.client.lend(&buf, 0..100, Dir::FromCard);
    b.go(buf.addr(), 0);
    assert_eq!(written(&buf, 0), WRITTEN);
    assert_eq!(b.client.audit(), ClientAudit { buffers: 1, bytes: 4096, loans: 1, ..ClientAudit::default() });
    b.client.reclaim(loan, Proof::Completed);
    b.client.dma_free(buf);
    assert_eq!(b.client.audit(), ClientAudit::default());
    let e = b.client.dma_alloc((64 << 10) + 1, "much").unwrap_err();
    assert_eq!((e.asked, e.limit), ((64 << 10) + 1, 64 << 10));
}

#[test]
fn msi_is_delivered_while_it_is_enabled() {
    let mut b = Bench::new();
    let buf = b.client.dma_alloc(100, "test").unwrap();
    b.go(buf.addr(), 3);
    assert!(b.client.take_interrupts().is_empty());
    b.client.config_write(&mut b.world.cx(), 0x58, MSI_ENABLE);
    b.go(buf.addr(), 3);
    let set = b.client.take_interrupts();
    assert!(set.contains(Vector(0)) && !set.contains(Vector(3)));
    assert!(b.client.take_interrupts().is_empty());
    b.client.config_write(&mut b.world.cx(), 0x58, 0);
    b.go(buf.addr(), 3);
    assert!(b.client.take_interrupts().is_empty());
}

#[test]
fn a_masked_vector_stays_pending_on_this_side() {
    let mut b = Bench::new();
    let buf = b.client.dma_alloc(100, "test").unwrap();
    let mask = |b: &mut Bench, v: u64, on: u32| {
        b.client.write32(&mut b.world.cx(), Bar(0), 0xc000 + 16 * v + 12, on);
    };
    b.client.config_write(&mut b.world.cx(), 0xa0, MSIX_ENABLE);
    mask(&mut b, 3, 0);
    b.go(buf.addr(), 3);
    b.go(buf.addr(), 8);
    let set = b.client.take_interrupts();
    assert!(set.contains(Vector(3)) && !set.contains(Vector(8)));
    assert_eq!(b.read(0xe000), Ok(1 << 8), "pending");
    mask(&mut b, 8, 0);
    assert!(b.client.take_interrupts().contains(Vector(8)));
    assert_eq!(b.read(0xc000 + 16 * 8 + 12), Ok(0));
}

#[test]
fn a_level_is_reported_while_it_is_asserted() {
    let mut b = Bench::new();
    b.client.write32(&mut b.world.cx(), Bar(0), LEVEL, 1);
    for _ in 0..3 {
        assert!(b.client.take_interrupts().contains(Vector(0)));
    }
    b.client.write32(&mut b.world.cx(), Bar(0), LEVEL, 0);
    assert!(b.client.take_interrupts().contains(Vector(0)), "signalled before it fell");
    assert!(b.client.take_interrupts().is_empty());
}

#[test]
fn mapped_doorbells_are_stores_and_kick_a_parked_server() {
    let mut b = Bench::new();
    assert!(b.client.has_mapped_doorbells());
    let db = b.client.map_doorbell(Bar(0), DOORBELLS + 3 * 4096);
    b.client.doorbell(&mut b.world.cx(), db, 4, 8);
    b.client.doorbell(&mut b.world.cx(), db, 8, 8);
    let sent = b.link.left.get().0;
    let other = b.client.map_doorbell(Bar(0), STORAGE);
    b.seen();
    b.client.doorbell(&mut b.world.cx(), db, 4, 9);
    assert_eq!((b.link.left.get().0, b.seen().len()), (sent, 0), "no message");
    b.link.step();
    assert_eq!(b.seen(), [(DOORBELLS + 3 * 4096 + 4, 9)]);
    b.client.doorbell(&mut b.world.cx(), other, 0, 5);
    assert_eq!(b.seen(), [(STORAGE, 5)], "a message: this place is not mapped");
    let kicked = |b: &Bench| {
        let raw = b.link.raw.borrow();
        ready(&[(raw.server.kicked(), true, false)], Some(Duration::ZERO)) != 0
    };
    b.client.doorbell(&mut b.world.cx(), db, 8, 1);
    assert!(!kicked(&b));
    {
        let raw = &mut *b.link.raw.borrow_mut();
        assert!(!raw.server.park(&mut raw.world.cx()) && raw.server.park(&mut raw.world.cx()));
    }
    b.client.doorbell(&mut b.world.cx(), db, 8, 2);
    assert!(kicked(&b));
    b.link.step();
    assert!(!kicked(&b));
}

#[test]
fn a_page_that_gets_another_user_says_its_first_index_even_if_it_was_the_last_one_before() {
    let mut b = Bench::new();
    let ring = |b: &mut Bench, value| {
        let db = b.client.map_doorbell(Bar(0), DOORBELLS);
        b.seen();
        b.client.doorbell(&mut b.world.cx(), db, 4, value);
        b.link.step();
        b.seen()
    };
    let place = DOORBELLS + 4;
    assert_eq!(ring(&mut b, 37), [(place, 37), (place, 37)]);
    assert_eq!(ring(&mut b, 37), [(place, 37)]);
    assert_eq!(ring(&mut b, 38), [(place, 38), (place, 38)]);
}

#[test]
fn without_mapped_pages_doorbells_are_messages() {
    let mut b = Bench::with(ClientConfig { doorbells: false, ..SMALL });
    assert!(!b.client.has_mapped_doorbells());
    let db = b.client.map_doorbell(Bar(0), DOORBELLS);
    b.seen();
    b.client.doorbell(&mut b.world.cx(), db, 4, 9);
    assert_eq!(b.seen(), [(DOORBELLS + 4, 9)]);
    let since = b.client.epoch();
    let proof = b.client.reset(&mut b.world.cx(), ResetKind::Flr).unwrap();
    assert!(proof.epoch() > since);
    b.client.doorbell(&mut b.world.cx(), db, 4, 10);
    assert_eq!((b.seen(), b.client.audit().stale_doorbells), (Vec::new(), 1));
}

#[test]
fn a_server_without_a_state_page_ends_epochs_by_resets_from_outside_alone() {
    let limits = Capabilities { slot: false, ..Capabilities::default() };
    let mut c = attach(&Inline::new(Raw::detached(limits, |_| ())), SMALL).unwrap();
    let mut w = World::new();
    let since = c.epoch();
    c.config_write(&mut w.cx(), 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    c.write32(&mut w.cx(), Bar(0), RESET, 1);
    assert_eq!(c.revoked(&mut w.cx(), since), Ok(None));
    assert!(c.reset(&mut w.cx(), ResetKind::Device).unwrap().epoch() > since);
}

#[test]
fn a_reset_by_register_gives_proof_and_new_doorbells() {
    let mut b = Bench::new();
    let since = b.client.epoch();
    assert_eq!(b.client.revoked(&mut b.world.cx(), since), Ok(None));
    let db = b.client.map_doorbell(Bar(0), DOORBELLS);
    b.client.write32(&mut b.world.cx(), Bar(0), RESET, 1);
    b.client.doorbell(&mut b.world.cx(), db, 4, 9);
    let proof = b.client.revoked(&mut b.world.cx(), since).unwrap().expect("the posted write came first");
    assert!(proof.epoch() > since && proof.epoch() == b.client.epoch());
    b.seen();
    b.client.doorbell(&mut b.world.cx(), db, 4, 10);
    b.link.step();
    assert_eq!(b.read(0x44), Ok(0x44));
    assert_eq!((b.seen(), b.client.audit().stale_doorbells), (Vec::new(), 1));
    let db = b.client.map_doorbell(Bar(0), DOORBELLS);
    b.client.doorbell(&mut b.world.cx(), db, 4, 11);
    b.client.doorbell(&mut b.world.cx(), db, 4, 12);
    b.seen();
    assert_eq!(b.read(0x44), Ok(0x44));
    assert_eq!(b.seen(), [(DOORBELLS + 4, 12)], "before the read behind it");
}

#[test]
fn a_card_without_doorbell_pages_still_tells_its_epoch() {
    let link = Inline::new(Raw::with_doorbells(Capabilities::default(), None, |_| ()));
    let mut c = attach(&link, SMALL).unwrap();
    let mut w = World::new();
    assert!(!c.has_mapped_doorbells());
    let since = c.epoch();
    c.config_write(&mut w.cx(), 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    c.write32(&mut w.cx(), Bar(0), RESET, 1);
    assert!(c.revoked(&mut w.cx(), since).unwrap().is_some());
}

#[test]
fn resets_from_outside_give_proof_and_reach_the_card() {
    let mut b = Bench::new();
    b.client.config_write(&mut b.world.cx(), 0x58, MSI_ENABLE);
    let mut since = b.client.epoch();
    for kind in [ResetKind::Flr, ResetKind::Device] {
        let proof = b.client.reset(&mut b.world.cx(), kind).unwrap();
        assert!(proof.epoch() > since);
        since = proof.epoch();
    }
    let at = 0xac + PCIE_DEVICE_CONTROL;
    b.client.config_write(&mut b.world.cx(), at, PCIE_INITIATE_FLR);
    assert!(b.client.epoch() > since);
    let resets = b.link.raw.borrow().seen.resets.take();
    assert_eq!(resets, [ResetKind::Flr, ResetKind::Device, ResetKind::Flr]);
    let buf = b.client.dma_alloc(100, "test").unwrap();
    b.client.config_write(&mut b.world.cx(), 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    b.go(buf.addr(), 0);
    assert!(b.client.take_interrupts().is_empty(), "MSI is off after the slot's reset");
    assert_eq!(written(&buf, 0), WRITTEN);
}

#[test]
fn a_mute_server_is_lost_after_a_second() {
    let mut b = Bench::new();
    let buf = b.client.dma_alloc(100, "test").unwrap();
    let since = b.client.epoch();
    b.world.now = Instant::from_nanos(5_000_000_000);
    b.link.mute.set(true);
    assert_eq!(b.read(STORAGE), Err(BusLost));
    assert_eq!(b.link.waited.get(), Instant::from_nanos(6_000_000_000));
    assert!(b.client.is_lost());
    assert_eq!(b.read(0xe000), Err(BusLost), "the table on this side too");
    assert_eq!(b.client.config_read(&mut b.world.cx(), 0), Err(BusLost));
    b.client.write32(&mut b.world.cx(), Bar(0), STORAGE, 1);
    assert!(b.client.revoked(&mut b.world.cx(), since).unwrap().is_some(), "like a card that was pulled");
    assert!(b.client.reset(&mut b.world.cx(), ResetKind::Flr).unwrap().epoch() > since);
    assert_eq!(b.client.dma_alloc(1, "more").unwrap_err().limit, 0);
    b.client.dma_free(buf);
    assert_eq!(b.client.audit(), ClientAudit::default());
}

#[test]
fn posted_writes_to_a_mute_server_end_at_a_limit() {
    let mut b = Bench::new();
    b.link.mute.set(true);
    let mut writes = 0;
    while !b.client.is_lost() {
        b.client.write32(&mut b.world.cx(), Bar(0), STORAGE, 1);
        writes += 1;
    }
    assert!(writes * 36 >= super::super::wire::OUTBOX_LIMIT && writes < 100_000, "{writes}");
}

/// Attaches, rings, lets the card write, resets, and lets go. Whatever happens on the way, the client ends in
/// good order.
fn session(link: &Inline) -> bool {
    let Ok(mut c) = attach(link, SMALL) else { return false };
    let mut w = World::new();
    c.config_write(&mut w.cx(), 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    c.config_write(&mut w.cx(), 0xa0, MSIX_ENABLE);
    let Ok(buf) = c.dma_alloc(100, "test") else { return !c.is_lost() };
    let since = c.epoch();
    c.write32(&mut w.cx(), Bar(0), TARGET_LO, buf.addr() as u32);
    c.write32(&mut w.cx(), Bar(0), TARGET_HI, (buf.addr() >> 32) as u32);
    c.write32(&mut w.cx(), Bar(0), GO, 0);
    let read = c.read32(&mut w.cx(), Bar(0), TARGET_LO);
    assert!(read.is_ok() != c.is_lost());
    c.write32(&mut w.cx(), Bar(0), RESET, 1);
    let proof = match c.revoked(&mut w.cx(), since) {
        Ok(proof) => proof,
        Err(BusLost) => c.revoked(&mut w.cx(), since).unwrap(),
    };
    assert!(proof.is_some());
    c.dma_free(buf);
    assert_eq!(c.audit(), ClientAudit::default());
    !c.is_lost()
}

#[test]
fn the_connection_may_break_after_any_byte_in_either_direction() {
    let link = server();
    let most = usize::MAX;
    assert!(session(&link));
    let (there, back) = link.left.get();
    let (there, back) = (most - there, most - back);
    assert!(there > 500 && back > 500, "{there} {back}");
    for n in (0..there).map(|n| (n, most)).chain((0..back).map(|n| (most, n))) {
        link.left.set(n);
        assert!(!session(&link), "after {n:?}");
        let raw = &mut *link.raw.borrow_mut();
        raw.server.detach(&mut raw.world.cx());
        assert_eq!(raw.server.holdings(), Holdings { maps: 0, unsent: 0, deferred: 0 });
    }
    link.left.set((most, most));
    assert!(session(&link), "the next client is served");
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut link = server();
    link.piece = 1;
    assert!(session(&link));
}

#[test]
fn a_server_that_refuses_is_named() {
    let raw = Raw::detached(Capabilities { max_maps: 0, ..Capabilities::default() }, |_| ());
    let e = attach(&Inline::new(raw), SMALL).err().unwrap();
    assert_eq!(e.to_string(), "the vfio-user server refused DmaMap: ENOSPC");
    let link = server();
    link.mute.set(true);
    assert!(matches!(attach(&link, SMALL), Err(AttachError::Lost)));
}

#[test]
fn requests_of_a_server_are_checked() {
    use super::super::message::Request as R;
    let mut raw = Raw::detached(Capabilities::default(), |_| ());
    raw.server.attach(&mut raw.world.cx());
    let outcomes = std::cell::RefCell::new(Vec::new());
    let link = Fake(|h: Header, p: &[u8]| {
        if matches!(h.kind, Kind::Reply | Kind::Failed(_)) {
            outcomes.borrow_mut().push((h.command, h.kind));
            return Vec::new();
        }
        honest(&mut raw, h, p)
    });
    let mut c = Client::attach(&mut World::new().cx(), link, SMALL).unwrap();
    let buf = c.dma_alloc(4096, "test").unwrap();
    buf.write(0, b"here");
    for r in [
        R::DmaRead { addr: buf.addr(), count: 4 },
        R::DmaRead { addr: POOL_BASE - 1, count: 4 },
        R::DmaRead { addr: POOL_BASE + (64 << 10) - 3, count: 4 },
        R::DmaRead { addr: u64::MAX, count: 4 },
        R::DmaWrite { addr: buf.addr() + 1, data: b"odd" },
        R::DmaWrite { addr: buf.addr() + 8, data: &[1, 0] },
        R::DmaWrite { addr: buf.addr() + 12, data: &[2, 0, 0, 0] },
        R::DmaWrite { addr: 0, data: b"x" },
        R::DeviceReset,
    ] {
        let mut out = Outbox::default();
        let header = Header { id: 9, command: r.command() as u16, kind: Kind::Request };
        out.put(header, Vec::new(), |p| r.encode(p));
        c.session.inbox.push(out.chunk().0, []);
        c.pump(&mut World::new().cx());
    }
    let failed = Kind::Failed(Errno::EFAULT);
    let expected = [
        (11, Kind::Reply),
        (11, failed),
        (11, failed),
        (11, failed),
        (12, Kind::Reply),
        (12, Kind::Reply),
        (12, Kind::Reply),
        (12, failed),
        (13, Kind::Failed(Errno::EOPNOTSUPP)),
    ];
    assert_eq!(*outcomes.borrow(), expected);
    assert_eq!((buf.load16(8), buf.load32(12), written(&buf, 0)[..4].to_vec()), (1, 2, b"hodd".to_vec()));
    c.dma_free(buf);
}

#[test]
fn an_epoch_that_runs_backwards_or_ends_is_not_believed() {
    for (lie, lost) in [(5u32, false), (0, true), (u32::MAX, true)] {
        let mut raw = Raw::detached(Capabilities::default(), |_| ());
        raw.server.attach(&mut raw.world.cx());
        let mut reads = 0;
        let link = Fake(|h: Header, p: &[u8]| {
            let mut answers = honest(&mut raw, h, p);
            if h.command == Command::RegionRead as u16 && p[8] == REGION_SLOT as u8 {
                reads += 1;
                if reads > 1 {
                    answers[0].1.splice(16.., lie.to_le_bytes());
                }
            }
            answers
        });
        let mut w = World::new();
        let mut c = Client::attach(&mut w.cx(), link, SMALL).unwrap();
        let since = c.epoch();
        assert_eq!(c.revoked(&mut w.cx(), since).is_err(), lost, "{lie}");
        assert_eq!(c.is_lost(), lost);
        assert!(c.epoch() > since);
    }
}

proptest! {
    #[test]
    fn any_answers_leave_a_client_in_good_order(
        lies in proptest::collection::vec((0..60usize, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..70)), 1..6),
    ) {
        let lies: Vec<Lie> = lies.into_iter().map(|(at, how, bytes)| Lie { at, how, bytes }).collect();
        run_client(&lies);
    }
}

/// A server on a thread of its own, as long as `work` runs. Returns what it held and counted at the end.
fn served<R>(
    config: ClientConfig,
    work: impl FnOnce(&mut Client<SocketLink>, &mut World) -> R,
) -> (R, Holdings, super::super::server::Counters) {
    let (ours, theirs) = Channel::pair().unwrap();
    std::thread::scope(|s| {
        let server = s.spawn(move || {
            let mut raw = Raw::detached(Capabilities::default(), |_| ());
            raw.server.attach(&mut raw.world.cx());
            let mut link = SocketLink::new(theirs);
            loop {
                raw.world.now = Instant::from_nanos(os::clock::now_ns());
                let (out, inbox) = raw.server.queues();
                let moved = link.exchange(out, inbox);
                raw.server.pump(&mut raw.world.cx());
                let p: Progress = raw.server.step(&mut raw.world.cx(), Budget(8), Some(&mut link));
                if moved.is_none() || raw.server.is_broken() {
                    break;
                }
                if moved == Some(false) && p.done == 0 && raw.server.park(&mut raw.world.cx()) {
                    let room = raw.server.room() > 0;
                    let unsent = raw.server.holdings().unsent > 0;
                    let kicked = raw.server.kicked();
                    ready(
                        &[(link.as_fd(), room, unsent), (kicked, true, false)],
                        Some(Duration::from_secs(5)),
                    );
                }
            }
            raw.server.detach(&mut raw.world.cx());
            (raw.server.holdings(), raw.server.counters())
        });
        let mut world = World::new();
        world.now = Instant::from_nanos(os::clock::now_ns());
        let mut client = Client::attach(&mut world.cx(), SocketLink::new(ours), config).unwrap();
        client.config_write(&mut world.cx(), 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
        client.config_write(&mut world.cx(), 0xa0, MSIX_ENABLE);
        client.write32(&mut world.cx(), Bar(0), 0xc00c, 0);
        let r = work(&mut client, &mut world);
        drop(client);
        let (holdings, counters) = server.join().unwrap();
        (r, holdings, counters)
    })
}

fn wait_for_vector(c: &mut Client<SocketLink>, w: &mut World, v: u8) -> bool {
    let limit = os::clock::now_ns() + 5_000_000_000;
    while os::clock::now_ns() < limit {
        w.now = Instant::from_nanos(os::clock::now_ns());
        c.pump(&mut w.cx());
        if c.take_interrupts().contains(Vector(v)) {
            return true;
        }
    }
    false
}

const EMPTY: Holdings = Holdings { maps: 0, unsent: 0, deferred: 0 };

#[test]
fn two_sides_of_a_socket_share_memory_interrupts_and_doorbells() {
    let (_, holdings, counters) = served(SMALL, |c, w| {
        let buf = c.dma_alloc(4096, "test").unwrap();
        c.write32(&mut w.cx(), Bar(0), TARGET_LO, buf.addr() as u32);
        c.write32(&mut w.cx(), Bar(0), TARGET_HI, (buf.addr() >> 32) as u32);
        buf.write(0, b"original");
        c.write32(&mut w.cx(), Bar(0), GO_LATER, 0);
        assert!(wait_for_vector(c, w, 0));
        assert_eq!(written(&buf, 64), *b"original\x07\0\0\0");
        let db = c.map_doorbell(Bar(0), DOORBELLS);
        assert!(c.has_mapped_doorbells());
        for i in 1..200 {
            c.doorbell(&mut w.cx(), db, 4, i);
        }
        assert_eq!(c.read32(&mut w.cx(), Bar(0), 0x44), Ok(0x44));
        assert!(c.reset(&mut w.cx(), ResetKind::Device).is_ok());
        c.dma_free(buf);
    });
    assert_eq!((holdings, counters.refused, counters.strays), (EMPTY, 0, 0));
}

#[test]
fn memory_that_is_not_shared_travels_in_messages_while_requests_go_on() {
    let config = ClientConfig { share: false, ..SMALL };
    let (_, holdings, counters) = served(config, |c, w| {
        let buf = c.dma_alloc(4096, "test").unwrap();
        c.write32(&mut w.cx(), Bar(0), TARGET_LO, buf.addr() as u32);
        c.write32(&mut w.cx(), Bar(0), TARGET_HI, (buf.addr() >> 32) as u32);
        for round in 0..50u8 {
            buf.write(0, &[round; 8]);
            // The read is on its way when the card asks for memory: each side serves the other while it
            // waits.
            c.write32(&mut w.cx(), Bar(0), GO_LATER, 0);
            w.now = Instant::from_nanos(os::clock::now_ns());
            assert_eq!(c.read32(&mut w.cx(), Bar(0), 0x44), Ok(0x44));
            assert!(wait_for_vector(c, w, 0));
            let mut expected = [round; 12];
            expected[8..].copy_from_slice(&[7, 0, 0, 0]);
            assert_eq!(written(&buf, 64), expected);
        }
        c.dma_free(buf);
    });
    assert_eq!(holdings, EMPTY);
    assert_eq!((counters.dma_timeouts, counters.dma_refused, counters.strays), (0, 0, 0));
}

#[test]
fn a_server_that_dies_is_noticed() {
    let (ours, theirs) = Channel::pair().unwrap();
    drop(theirs);
    let r = Client::attach(&mut World::new().cx(), SocketLink::new(ours), SMALL);
    assert!(matches!(r, Err(AttachError::Lost)));
}
