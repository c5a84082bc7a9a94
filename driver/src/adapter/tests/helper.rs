use core::net::IpAddr;
use core::time::Duration;
use zerocopy::IntoBytes;

use bus::uio::{
    BUFFER_BYTES, FromHelper, OpenRefused, PathHandle, PathUpdate, RX_BUFFERS, ToHelper, UioMaps, Value,
};
use hsi::bcm5709::l2::{RxBd, TxBd};
use hsi::bcm5709::{ctx, regs as r};
use hsi::kernel::l4::{L4KwqConnectReq3, L4KwqOffloadPg};

use super::fake::op;
use super::rig::Rig;
use crate::adapter::{AdapterState, Holdings, OperatorRequest};
use crate::bnx2i::Phase;
use crate::config::{Deadlines, DriverConfig};

const SECOND: Duration = Duration::from_secs(1);
/// The mailboxes of CIDs 20 and 2.
const TX_MAILBOX: u32 = 0x11400;
const RX_MAILBOX: u32 = 0x10200;

impl Rig {
    fn helper_says(&mut self, message: FromHelper) {
        self.helper.send(message).unwrap();
        self.settle();
    }

    fn opened(&mut self) -> Option<UioMaps> {
        let at = self.requests.iter().position(|m| matches!(m, ToHelper::Opened(_)))?;
        let ToHelper::Opened(maps) = self.requests.remove(at) else { return None };
        Some(maps)
    }

    fn open(&mut self) -> UioMaps {
        self.helper_says(FromHelper::Open);
        self.run(SECOND / 10);
        self.opened().expect("a ring")
    }

    fn refused(&self) -> Option<OpenRefused> {
        self.requests.iter().find_map(|m| if let ToHelper::OpenRefused(why) = m { Some(*why) } else { None })
    }

    fn write(&mut self, generation: u32, at: u32, value: Value) {
        self.helper_says(FromHelper::Write { generation, at, value });
    }

    fn flushes(&self) -> usize {
        self.card.borrow().kwqes.iter().filter(|(what, _)| *what == op::FLUSH).count()
    }

    fn clean(&self) {
        let audit = self.slot.borrow().audit();
        assert_eq!(audit.violations, 0, "{:?}", self.slot.borrow().violations());
    }

    /// Resets and returns how long the old chip lived on.
    fn reset_takes(&mut self) -> Duration {
        let resets = self.adapter.counters().resets;
        self.request(OperatorRequest::Reset);
        self.run_until(60 * SECOND, |r| r.adapter.counters().resets > resets)
    }
}

fn up() -> Rig {
    let mut rig = Rig::new();
    rig.up();
    rig
}

fn bd<T>(maps: &UioMaps, n: usize, from: impl FnOnce([u8; 16]) -> T) -> T {
    let mut bytes = [0; 16];
    maps.ring.read(n * 16, &mut bytes);
    from(bytes)
}

fn is_shut(maps: &UioMaps) -> bool {
    bd(maps, 256, RxBd::from_bytes).haddr() == 0
}

#[test]
fn an_open_sets_both_rings_up() {
    let mut rig = up();
    let maps = rig.open();
    let tx = bd(&maps, 0, TxBd::from_bytes).haddr();
    for n in 0..255 {
        assert_eq!(bd(&maps, n, TxBd::from_bytes).haddr(), tx, "one transmit buffer");
        let rx = bd(&maps, 256 + n, RxBd::from_bytes);
        assert_eq!(rx.haddr(), tx + ((1 + n % RX_BUFFERS) * BUFFER_BYTES) as u64);
        assert_eq!((rx.rx_bd_len.get(), rx.rx_bd_flags.get()), (BUFFER_BYTES as u32, 0xc));
    }
    let first = bd(&maps, 255, TxBd::from_bytes).haddr();
    let page = |n: usize| first + n as u64 * 0x1000;
    assert!(!(tx - 0x3000..tx + 0x9000).contains(&first), "the card's ring is not the helper's memory");
    assert_eq!(bd(&maps, 511, RxBd::from_bytes).haddr(), page(1));
    {
        let card = rig.card.borrow();
        let word = |at: u32| u64::from(card.ring_context[&at]);
        assert_eq!(
            word(20 * 128 + ctx::BNX2_L2CTX_TBDR_BHADDR_HI_XI) << 32 | word(20 * 128 + 0x25c),
            page(0)
        );
        assert_eq!(word(2 * 128 + ctx::BNX2_L2CTX_NX_BDHADDR_HI) << 32 | word(2 * 128 + 0x14), page(1));
        assert_eq!(word(2 * 128) >> 28, 1, "a BD chain");
        assert_eq!(card.ring_writes, [(u64::from(r::RPM_SORT_USER2), 0)], "the filter is closed");
    }
    let known: Vec<u32> = maps.registers.iter().map(|(at, _)| *at).collect();
    assert_eq!(known, [0x808, 0x1420, 0x1424, 0x4c1c, 0x14c8]);
    assert_eq!(maps.registers[0].1, r::MISC_ID_5709_C0);
    assert_eq!((maps.generation, maps.events.get(), rig.flushes()), (1, 0, 0));
    assert_eq!(rig.adapter.counters().helper_opens, 1);
    rig.clean();
}

/// A transmit BD is taken over if it names the frame buffer, and with none that does not.
#[test]
fn a_transmit_bd_that_names_foreign_memory_is_not_published() {
    let mut rig = up();
    let maps = rig.open();
    let own = bd(&maps, 0, TxBd::from_bytes).haddr();
    for (haddr, bytes) in [
        (own - 0x3000, 60),
        (own - 1, 60),
        (own + BUFFER_BYTES as u64 - 59, 60),
        (0, 60),
        (u64::MAX, 60),
        (own, 0xffff),
    ] {
        rig.card.borrow_mut().ring_writes.clear();
        let mut bad = TxBd::default();
        bad.set_haddr(haddr);
        bad.set_mss_nbytes(0, bytes);
        maps.ring.write(0, bad.as_bytes());
        let refused = rig.adapter.counters().helper_refused;
        rig.write(maps.generation, TX_MAILBOX + 0x88, Value::U16(1));
        assert_eq!(
            (rig.adapter.counters().helper_refused, rig.card.borrow().ring_writes.len()),
            (refused + 1, 0),
            "{haddr:#x}"
        );
    }
    let mut good = TxBd::default();
    good.set_haddr(own);
    good.set_mss_nbytes(0, 60);
    maps.ring.write(0, good.as_bytes());
    rig.write(maps.generation, TX_MAILBOX + 0x88, Value::U16(1));
    assert_eq!(rig.card.borrow().ring_writes.len(), 1);
    rig.write(maps.generation, TX_MAILBOX + 0x88, Value::U16(0));
    assert_eq!(rig.card.borrow().ring_writes.len(), 1, "more than the ring has");
}

#[test]
fn writes_reach_the_helpers_own_registers_and_no_other() {
    let mut rig = up();
    let g = rig.open().generation;
    rig.card.borrow_mut().ring_writes.clear();
    let own = [
        (TX_MAILBOX + 0x88, Value::U16(1)),
        (TX_MAILBOX + 0x90, Value::U32(60)),
        (RX_MAILBOX + 4, Value::U16(3)),
        (RX_MAILBOX + 8, Value::U32(0xc00)),
        (r::RPM_SORT_USER2, Value::U32(0x8003_0004)),
    ];
    own.into_iter().for_each(|(at, value)| rig.write(g, at, value));
    let seen: Vec<u64> = rig.card.borrow().ring_writes.iter().map(|(_, v)| *v).collect();
    assert_eq!(seen, [1, 60, 3, 0xc00, 0x8003_0004]);
    let foreign = [
        (TX_MAILBOX + 0x88, Value::U32(1)),
        (TX_MAILBOX + 0x90, Value::U16(1)),
        (RX_MAILBOX + 0x44, Value::U16(1)),
        (r::RPM_SORT_USER2, Value::U16(1)),
        (0x1828 + 4, Value::U32(1)),
        (r::MISC_COMMAND, Value::U32(r::MISC_COMMAND_SW_RESET)),
        (u32::MAX, Value::U32(1)),
    ];
    foreign.into_iter().for_each(|(at, value)| rig.write(g, at, value));
    rig.write(g.wrapping_sub(1), RX_MAILBOX + 4, Value::U16(9));
    assert_eq!(rig.card.borrow().ring_writes.len(), 5);
    assert_eq!((rig.adapter.counters().helper_refused, rig.card.borrow().resets), (8, 1));
    rig.helper_says(FromHelper::Close { generation: g });
    rig.write(g, RX_MAILBOX + 4, Value::U16(9));
    assert_eq!((rig.card.borrow().ring_writes.len(), rig.adapter.counters().helper_refused), (5, 9));
}

#[test]
fn frames_are_counted_and_wake_the_helper_although_its_port_is_full() {
    let mut rig = up();
    let maps = rig.open();
    rig.deaf = true;
    while rig.wakes.pop().is_some() {}
    rig.card.borrow_mut().ring_index = Some((0, 2));
    rig.settle();
    assert_eq!((maps.events.get(), maps.status.load16(22)), (1, 2));
    assert!(std::iter::from_fn(|| rig.wakes.pop()).any(|n| n == rig.helper_index));
    rig.card.borrow_mut().ring_index = Some((1, 2));
    rig.settle();
    assert_eq!((maps.events.get(), maps.status.load16(14)), (2, 1));
    rig.card.borrow_mut().ring_index = Some((1, 2));
    rig.settle();
    assert_eq!(maps.events.get(), 2, "nothing has moved");
    rig.helper_says(FromHelper::Close { generation: maps.generation });
    rig.card.borrow_mut().ring_index = Some((2, 3));
    rig.settle();
    assert_eq!(maps.events.get(), 2, "closed");
}

#[test]
fn a_second_open_closes_the_first_and_starts_at_zero_after_the_flush() {
    let mut rig = up();
    let first = rig.open();
    rig.card.borrow_mut().ring_index = Some((1, 7));
    rig.settle();
    rig.card.borrow_mut().hold_kwq = true;
    rig.helper_says(FromHelper::Open);
    rig.run(SECOND / 2);
    assert!(rig.opened().is_none() && is_shut(&first), "the card has not fetched the FLUSH");
    rig.card.borrow_mut().hold_kwq = false;
    rig.card.borrow_mut().send.push(super::fake::answer(op::UPLOAD_PG, 0, 0).unwrap());
    rig.run(SECOND / 10);
    let second = rig.opened().expect("a ring");
    assert_eq!((rig.flushes(), second.generation, first.events.get()), (1, 2, 1));
    assert_eq!((second.status.load16(14), second.status.load16(22)), (0, 0));
    assert!(!is_shut(&second));
    rig.write(first.generation, RX_MAILBOX + 4, Value::U16(3));
    assert_eq!(rig.adapter.counters().helper_refused, 1);
    rig.clean();
}

#[test]
fn a_flush_that_is_never_fetched_refuses_the_open() {
    let mut rig = up();
    rig.open();
    rig.card.borrow_mut().hold_kwq = true;
    rig.helper_says(FromHelper::Open);
    rig.run(2 * SECOND);
    assert_eq!((rig.refused(), rig.adapter.counters().timeouts), (Some(OpenRefused::Down), 1));
}

#[test]
fn t5_going_down_waits_for_the_helper_and_no_longer() {
    let mut rig = up();
    assert!(rig.reset_takes() < SECOND / 10, "nothing is open");
    rig.run_until(10 * SECOND, |r| r.adapter.state() == AdapterState::Up);
    // It never closes.
    let maps = rig.open();
    let took = rig.reset_takes();
    assert!(took >= 3 * SECOND / 2 && took < 8 * SECOND / 5, "{took:?}");
    assert_eq!(rig.adapter.counters().helper_not_closed, 1);
    assert!(is_shut(&maps));
    rig.run_until(10 * SECOND, |r| r.adapter.state() == AdapterState::Up);
    rig.write(maps.generation, RX_MAILBOX + 4, Value::U16(3));
    assert_eq!(rig.adapter.counters().helper_refused, 1);
    // It closes a bit late; what it writes until then is still carried out.
    let maps = rig.open();
    rig.request(OperatorRequest::Reset);
    rig.run(SECOND / 2);
    assert_eq!(rig.adapter.state(), AdapterState::GoingDown);
    let writes = rig.card.borrow().ring_writes.len();
    rig.write(maps.generation, RX_MAILBOX + 4, Value::U16(3));
    assert_eq!(rig.card.borrow().ring_writes.len(), writes + 1);
    rig.helper_says(FromHelper::Open);
    assert_eq!(rig.refused(), Some(OpenRefused::Down), "opens while going down");
    rig.settle();
    assert_ne!(rig.adapter.state(), AdapterState::GoingDown, "an open closes what is open");
    rig.run_until(10 * SECOND, |r| r.adapter.state() == AdapterState::Up);
    let maps = rig.open();
    rig.request(OperatorRequest::Reset);
    rig.run(SECOND / 2);
    rig.helper_says(FromHelper::Close { generation: maps.generation });
    assert_ne!(rig.adapter.state(), AdapterState::GoingDown);
    assert_eq!(rig.adapter.counters().helper_not_closed, 1);
    rig.run_until(10 * SECOND, |r| r.adapter.state() == AdapterState::Up);
    rig.clean();
}

#[test]
fn the_wait_for_the_helper_ends_with_the_deadline_of_the_stop() {
    let mut config = DriverConfig::default();
    config.deadlines.stop = SECOND / 2;
    let mut rig = Rig::with(config);
    rig.up();
    rig.open();
    let took = rig.reset_takes();
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn the_memory_is_never_used_for_anything_else_and_is_given_back_at_last() {
    let mut rig = up();
    let old = rig.open();
    let held = rig.adapter.holdings();
    assert_eq!(held.dma_buffers, 4);
    rig.request(OperatorRequest::InterfaceDown);
    rig.run(5 * SECOND);
    assert_eq!(rig.adapter.state(), AdapterState::Down);
    assert_eq!((rig.adapter.holdings().loans, rig.adapter.holdings().dma_buffers), (0, 2));
    rig.helper_says(FromHelper::Open);
    assert_eq!(rig.refused(), Some(OpenRefused::Down));
    // A stuck helper goes on writing.
    old.ring.write(0, &[0x55; 8192]);
    old.buffers.write(0, &[0x55; 4096]);
    rig.request(OperatorRequest::InterfaceUp);
    rig.run_until(10 * SECOND, |r| r.adapter.state() == AdapterState::Up);
    let (_, ep) = rig.login(1);
    assert_eq!(rig.ep_phase(ep), Some(Phase::Full));
    let maps = rig.open();
    assert_ne!(bd(&maps, 0, TxBd::from_bytes).haddr(), 0x5555_5555_5555_5555);
    rig.clean();
    rig.request(OperatorRequest::Shutdown);
    rig.run(60 * SECOND);
    assert_eq!(rig.adapter.holdings(), Holdings::default());
    let audit = rig.slot.borrow().audit();
    assert_eq!((audit.buffers, audit.loans, audit.violations), (0, 0, 0));
    maps.ring.write(0, &[1]);
}

#[test]
fn a_helper_that_restarts_is_told_everything_again() {
    let mut rig = up();
    rig.resolve = false;
    let maps = rig.open();
    rig.connect(1);
    rig.connect(2);
    rig.requests.clear();
    rig.run(SECOND);
    rig.helper_says(FromHelper::Hello);
    let asked: Vec<PathHandle> = rig
        .requests
        .iter()
        .filter_map(|m| if let ToHelper::PathReq(r) = m { Some(r.handle) } else { None })
        .collect();
    assert!(matches!(rig.requests[0], ToHelper::IfUp { mtu: 1500, .. }));
    assert_eq!(asked.len(), 2);
    rig.write(maps.generation, RX_MAILBOX + 4, Value::U16(3));
    assert_eq!(rig.adapter.counters().helper_refused, 1, "the old one's ring is closed");
    // The deadline of the first request counts.
    rig.answer_path(asked[0]);
    let took = rig.run_until(60 * SECOND, |r| r.adapter.holdings().cids == 1);
    assert!(took <= Deadlines::default().path - SECOND, "{took:?}");
    assert!(rig.connected(1).is_some_and(|r| r.is_ok()));
    let again = rig.open();
    assert_eq!((again.generation, rig.flushes()), (2, 1));
    assert!(rig.reset_takes() >= SECOND, "the new one has it open");
}

#[test]
fn a_helper_that_takes_nothing_costs_only_path_requests() {
    let mut rig = up();
    let (_, ep) = rig.login(1);
    rig.deaf = true;
    for n in 0..600 {
        rig.connect(100 + n);
        if n % 100 == 99 {
            rig.run(Deadlines::default().path);
        }
    }
    rig.run(2 * Deadlines::default().path);
    assert_eq!(rig.ep_phase(ep), Some(Phase::Full));
    assert_eq!(rig.adapter.holdings().cids, 1);
    // Port and outbox are full of requests; the news of the interface still come.
    assert!(rig.adapter.counters().control_dropped > 0);
    rig.request(OperatorRequest::Reset);
    rig.run_until(10 * SECOND, |r| r.adapter.age() == 2);
    rig.deaf = false;
    rig.run(SECOND);
    let n = rig.requests.len();
    assert!(matches!(rig.requests[n - 2..], [ToHelper::IfDown, ToHelper::IfUp { .. }]));
}

#[test]
fn the_path_decides_tag_and_packet_size() {
    for (pmtu, want) in [(1400, 1400), (9000, 1500), (0, 68), (1500, 1500)] {
        let mut rig = up();
        rig.resolve = false;
        rig.connect(1);
        let Some(ToHelper::PathReq(request)) = rig.requests.last().cloned() else { panic!("a request") };
        assert_eq!((request.pmtu, request.dst), (1500, IpAddr::from([10, 0, 0, 2])));
        let src = IpAddr::from([10, 0, 0, 1]);
        let mut update =
            PathUpdate { handle: request.handle, mac: [2; 6], src, vlan: 0xa005, pmtu, failure: None };
        // Of an earlier user of the cid.
        let stale = rig.adapter.counters().stale_events;
        update.handle.0 ^= 1 << 16;
        rig.helper_says(FromHelper::PathUpdate(update));
        assert_eq!(rig.adapter.counters().stale_events, stale + 1);
        update.handle.0 = u64::MAX;
        rig.helper_says(FromHelper::PathUpdate(update));
        assert_eq!(rig.adapter.counters().stale_events, stale + 2);
        update.handle = request.handle;
        rig.helper_says(FromHelper::PathUpdate(update));
        assert!(rig.connected(1).is_some_and(|r| r.is_ok()));
        let card = rig.card.borrow();
        let find = |what: u16| card.kwqes.iter().rposition(|(w, _)| *w == what).unwrap();
        let pg: &L4KwqOffloadPg = card.kwqes[find(op::OFFLOAD_PG)].1.view();
        assert_eq!((pg.vlan_tag.get(), pg.l2hdr_nbytes, pg.da()), (0xa005, 18, [2; 6]));
        let three: &L4KwqConnectReq3 = card.kwqes[find(op::CONNECT) + 1].1.view();
        assert_eq!((three.pmtu.get(), three.mss.get()), (want, want - 40));
    }
}
