//! Ethernet rings: how the netdev and the iscsiuio helper send and receive frames (CHIP-REGISTERS 2, items 18
//! and 19; 3).
//!
//! In the real chip this is firmware of the transmit and receive processors with the MAC behind it. A ring is
//! a chain of BD pages; its context says where it starts, its mailbox how far the host has filled it, its
//! status block how far the chip is. Writing the address in the context starts a ring over; there is no other
//! start or stop, except for L2 FLUSH and the resets.
//!
//! | CID | ring | index in |
//! |---|---|---|
//! | 16, 20 | transmit of the netdev, of the helper | plain block, transmit 0 and 2 |
//! | 32 to 39 | transmit of vectors 1 to 8 (the helper's ring is the last of them under MSI-X) | block of the vector |
//! | 0 | receive of the netdev: what RSS does not take | plain block, receive 0 |
//! | 2 | receive of the helper | plain block, receive 2, or the block that its context names |
//! | 4 to 11 | receive by RSS | block of vectors 1 to 8 |
//!
//! Frames are taken and delivered in [`Rings::step`] only. A ring that cannot be read or written stops until
//! it starts over; the host gets an attention. A descriptor chain that makes no sense costs its frame and a
//! counter. Not modelled: pause frames, wake-up patterns, rules of the receive parser beyond the sort rules,
//! VLAN filters (stored), header splitting.

mod chain;
mod filter;
mod offload;
mod rx;
mod stats;
mod tx;

use std::time::Duration;

use bus::pci::{DevCx, Grant};
use bus::{Budget, Instant, Progress};
use hsi::bcm5709::ctx;
use hsi::bcm5709::l2::L2Fhdr;
use hsi::bcm5709::regs as hw;
use hsi::bcm5709::status_block::{
    STATUS_ATTN_BITS_RX_BD_CACHE_ABORT, STATUS_ATTN_BITS_RX_DMA_ABORT, STATUS_ATTN_BITS_TX_BD_READ_ABORT,
    STATUS_ATTN_BITS_TX_DMA_ABORT,
};

use super::FrontCounters;
use super::hc::{HostCoalescing, Place, VECTORS};
use super::mem::SparseMem;
use super::regs::RegisterFile;
use crate::ether;
use crate::wire::{FrameQueue, LARGEST_FRAME, Wire};
use filter::RssTable;
use rx::{Delivery, RxRing};
use stats::Stats;
use tx::{Fetched, TxRing};

/// Rings of vectors 1 to 8.
const PER_VECTOR: usize = VECTORS - 1;
/// Frames that a loop holds.
const LOOPED: usize = 64;
/// Type of MAC control frames, and their opcode for a pause (IEEE 802.3 annex 31A).
const MAC_CONTROL: [u8; 2] = [0x88, 0x08];
const PAUSE: u16 = 1;
/// The unit of a pause: 512 bits at 1 Gbit/s.
const QUANTUM: Duration = Duration::from_nanos(512);
/// Position of the first receive ring of RSS.
const FIRST_RSS: usize = 2;

/// What the rings need of the rest of the chip.
pub(super) struct Chip<'a> {
    pub(super) regs: &'a mut RegisterFile,
    pub(super) context: &'a SparseMem,
    pub(super) hc: &'a mut HostCoalescing,
    pub(super) counters: &'a mut FrontCounters,
    /// Whether the port has a link.
    pub(super) link: bool,
    /// The PHY returns what the MAC sends.
    pub(super) phy_loop: bool,
}

impl Chip<'_> {
    /// Whether what is sent comes back and the wire is cut off, by the MAC or by the PHY.
    fn loops(&self) -> bool {
        self.phy_loop || self.regs.get(hw::EMAC_MODE) & hw::EMAC_MODE_MAC_LOOP != 0
    }
}

/// All Ethernet rings of a card, with the MAC and the wire behind them.
pub(super) struct Rings {
    tx: Vec<TxRing>,
    rx: Vec<RxRing>,
    /// The transmit ring that is served next.
    turn: usize,
    rss: RssTable,
    stats: Stats,
    wire: Box<dyn Wire>,
    /// Frames on their way back from the MAC or the PHY.
    looped: FrameQueue,
    /// A frame that waits for a buffer of its ring, while the partner is paused. Empty: there is none.
    held: Vec<u8>,
    /// When the partner lets us send again.
    paused_until: Option<Instant>,
    /// The frame in hand.
    frame: Vec<u8>,
    /// A segment of it, or what goes to the host.
    scratch: Vec<u8>,
}

impl Rings {
    pub(super) fn new(wire: Box<dyn Wire>) -> Self {
        let vectors = 0..PER_VECTOR as u32;
        let mut tx =
            vec![TxRing::new(ctx::TX_CID, Place::tx(0, 0)), TxRing::new(ctx::UIO_TX_CID, Place::tx(0, 2))];
        let mut rx =
            vec![RxRing::new(ctx::RX_CID, Place::rx(0, 0)), RxRing::new(ctx::UIO_RX_CID, Place::rx(0, 2))];
        tx.extend(vectors.clone().map(|n| TxRing::new(ctx::TX_TSS_CID + n, Place::tx(n as usize + 1, 0))));
        rx.extend(vectors.map(|n| RxRing::new(ctx::RX_RSS_CID + n, Place::rx(n as usize + 1, 0))));
        Self {
            tx,
            rx,
            turn: 0,
            rss: RssTable::new(),
            stats: Stats::default(),
            wire,
            looped: FrameQueue::new(LOOPED),
            held: Vec::with_capacity(LARGEST_FRAME),
            paused_until: None,
            frame: Vec::with_capacity(LARGEST_FRAME),
            scratch: Vec::with_capacity(LARGEST_FRAME),
        }
    }

    /// Replaces the wire.
    pub(super) fn set_wire(&mut self, wire: Box<dyn Wire>) {
        self.wire = wire;
    }

    /// Whether the wire has a carrier.
    pub(super) fn carrier(&self) -> bool {
        self.wire.link()
    }

    /// A reset of the chip: all rings are gone, and what was counted. Frames on the wire are not.
    pub(super) fn reset(&mut self) {
        self.tx.iter_mut().for_each(TxRing::stop);
        self.rx.iter_mut().for_each(RxRing::stop);
        self.turn = 0;
        self.rss = RssTable::new();
        self.stats = Stats::default();
        self.looped.clear();
        self.held.clear();
        self.paused_until = None;
    }

    /// Context memory was zeroed.
    pub(super) fn contexts_cleared(&mut self) {
        self.tx.iter_mut().for_each(TxRing::stop);
        self.rx.iter_mut().for_each(RxRing::stop);
    }

    /// The host wrote the context word at `at`: an address starts a ring over.
    pub(super) fn context_written(
        &mut self,
        at: u32,
        context: &SparseMem,
        hc: &mut HostCoalescing,
        grant: Grant,
    ) {
        for ring in &mut self.tx {
            let offset = at.wrapping_sub(ctx::address(ring.cid()));
            if matches!(offset, ctx::BNX2_L2CTX_TBDR_BHADDR_HI_XI | ctx::BNX2_L2CTX_TBDR_BHADDR_LO_XI) {
                ring.start(grant);
                hc.restart(ring.place(), 0);
            }
        }
        for ring in &mut self.rx {
            match at.wrapping_sub(ctx::address(ring.cid())) {
                ctx::BNX2_L2CTX_NX_BDHADDR_HI | ctx::BNX2_L2CTX_NX_BDHADDR_LO => {
                    ring.start(grant);
                    hc.restart(ring.place(context), 0);
                }
                ctx::BNX2_L2CTX_NX_PG_BDHADDR_HI | ctx::BNX2_L2CTX_NX_PG_BDHADDR_LO => ring.start_pages(),
                _ => {}
            }
        }
    }

    /// L2 FLUSH: the receive ring of a CID lets go of its buffers, until it is started over.
    pub(super) fn flush(&mut self, cid: u32) {
        self.rx.iter_mut().filter(|r| r.cid() == cid).for_each(RxRing::stop);
    }

    /// A write to the mailbox of a CID. False: no ring of ours has that word.
    pub(super) fn ring(&mut self, cid: u32, offset: u32, value: u16) -> bool {
        if let Some(r) = self.tx.iter_mut().find(|r| r.cid() == cid) {
            return r.ring(offset, value);
        }
        self.rx.iter_mut().find(|r| r.cid() == cid).is_some_and(|r| r.ring(offset, value))
    }

    /// `RLUP_RSS_COMMAND` was written.
    pub(super) fn rss_command(&mut self, command: u32, data: u32) -> Option<u32> {
        self.rss.command(command, data)
    }

    /// `HC_COMMAND` asks for statistics, or for zeroed ones.
    pub(super) fn statistics_command(&mut self, command: u32) {
        self.stats.command(command);
    }

    /// The host changed period or place of the statistics block.
    pub(super) fn statistics_period(&mut self, regs: &RegisterFile, now: Instant) {
        self.stats.set_period(regs, now);
    }

    /// Sends, receives, and writes statistics; `budget` frames, and one that arrives beyond if sending took
    /// all of it.
    pub(super) fn step(&mut self, cx: &mut DevCx<'_>, chip: &mut Chip<'_>, budget: Budget) -> Progress {
        self.paused_until = self.paused_until.filter(|at| *at > cx.now && chip.link);
        let sent = if self.paused_until.is_some() { 0 } else { self.transmit(cx, chip, budget.0) };
        // However much the host has to send, it is not deaf meanwhile.
        let received = self.receive(cx, chip, budget.0.saturating_sub(sent).max(1));
        if self.stats.write_due(cx, chip.regs).is_err() {
            chip.counters.status_faults += 1;
        }
        // A paused partner has nothing new; the mailbox write that gives buffers makes the card step.
        let wire = if self.held.is_empty() { self.wire.next_deadline() } else { None };
        let next = Instant::earliest(Instant::earliest(wire, self.stats.next_deadline()), self.paused_until);
        Progress { done: sent + received, next }
    }

    /// Serves the transmit rings in turn, a frame of each.
    fn transmit(&mut self, cx: &mut DevCx<'_>, chip: &mut Chip<'_>, budget: u32) -> u32 {
        let (mut sent, mut idle) = (0, 0);
        while sent < budget && idle < self.tx.len() {
            let n = self.turn;
            self.turn = (n + 1) % self.tx.len();
            let (before, outcome) =
                (self.tx[n].consumer(), self.tx[n].fetch(cx, chip.context, &mut self.frame));
            match outcome {
                Fetched::Nothing => {
                    idle += 1;
                    continue;
                }
                Fetched::Frame(orders) => sent += self.send(cx, chip, orders).max(1),
                Fetched::Malformed => {
                    chip.counters.tx_malformed += 1;
                    self.stats.bad_out();
                    sent += 1;
                }
                Fetched::NoDescriptors(_) => {
                    chip.counters.ring_faults += 1;
                    chip.hc.attend(STATUS_ATTN_BITS_TX_BD_READ_ABORT, true);
                }
                Fetched::NoData(_) => {
                    chip.counters.ring_faults += 1;
                    chip.hc.attend(STATUS_ATTN_BITS_TX_DMA_ABORT, true);
                }
            }
            idle = 0;
            let r = &self.tx[n];
            if r.consumer() != before {
                chip.hc.advance(r.place(), r.consumer(), 1, cx.now);
            }
        }
        sent
    }

    /// Does the offloads of the frame in hand and puts the result on the wire. Returns the number of frames.
    fn send(&mut self, cx: &mut DevCx<'_>, chip: &mut Chip<'_>, orders: tx::Orders) -> u32 {
        let Self { wire, stats, frame, scratch, looped, .. } = self;
        let loops = chip.loops();
        if let Some(tag) = orders.vlan {
            offload::insert_vlan(frame, tag);
        }
        let mut frames = 0;
        let mut emit = |bytes: &[u8]| {
            if bytes.len() > LARGEST_FRAME {
                // Segments of more than a jumbo frame, or a tag on a frame that had no room for it.
                chip.counters.tx_malformed += 1;
                stats.bad_out();
                return;
            }
            frames += 1;
            stats.out(bytes);
            if loops {
                // What finds no room is counted by the queue; a loop has no more than its sender.
                let _ = looped.push(bytes);
            } else if chip.link {
                wire.send(cx, bytes);
            } else {
                chip.counters.tx_without_link += 1;
            }
        };
        match orders.mss {
            Some(mss) => {
                if offload::segment(frame, mss, scratch, &mut emit).is_err() {
                    chip.counters.tx_malformed += 1;
                    stats.bad_out();
                }
            }
            None => {
                offload::checksums(frame, orders.ip_checksum, orders.l4_checksum);
                emit(frame);
            }
        }
        chip.counters.tx_frames += u64::from(frames);
        frames
    }

    fn receive(&mut self, cx: &mut DevCx<'_>, chip: &mut Chip<'_>, budget: u32) -> u32 {
        let (mut done, loops) = (0, chip.loops());
        while done < budget && loops && self.looped.pop(&mut self.frame) {
            done += 1;
            self.accept(cx, chip);
        }
        while done < budget {
            if !self.held.is_empty() {
                std::mem::swap(&mut self.frame, &mut self.held);
                self.held.clear();
                if self.pauses(chip) {
                    std::mem::swap(&mut self.frame, &mut self.held);
                    break;
                }
                self.stats.resumed();
            } else if !self.wire.recv(cx, &mut self.frame) {
                break;
            } else if self.pauses(chip) {
                chip.counters.rx_paused += 1;
                self.stats.paused();
                std::mem::swap(&mut self.frame, &mut self.held);
                break;
            }
            done += 1;
            if chip.link && !loops {
                self.accept(cx, chip);
            }
        }
        done
    }

    /// Whether the frame in hand has to wait because its ring is full. The MAC then pauses the partner (IEEE
    /// 802.3 annex 31B); here the frame stays with us and the others on the wire. Without flow control, or
    /// without a ring, it is dropped.
    fn pauses(&mut self, chip: &Chip<'_>) -> bool {
        if chip.regs.get(hw::EMAC_TX_MODE) & hw::EMAC_TX_MODE_FLOW_EN == 0 || !chip.link || chip.loops() {
            return false;
        }
        let users = filter::users(chip.regs, &self.frame);
        let bytes = self.frame.len();
        (0..2).filter(|&n| users[n]).any(|n| self.rx[n].is_full(chip.context, bytes))
    }

    /// A pause of the partner: no frame goes out for so many times 512 bits. Frames of MAC control are never
    /// the host's.
    fn mac_control(&mut self, cx: &DevCx<'_>, chip: &Chip<'_>) {
        self.stats.mac_control();
        let word = |at: usize| self.frame.get(at..at + 2).map_or(0, |w| u16::from_be_bytes([w[0], w[1]]));
        if word(ether::HEADER) != PAUSE || chip.regs.get(hw::EMAC_RX_MODE) & hw::EMAC_RX_MODE_FLOW_EN == 0 {
            return;
        }
        let quanta = word(ether::HEADER + 2);
        self.stats.pause_received(quanta);
        self.paused_until = (quanta > 0).then(|| cx.now + QUANTUM * u32::from(quanta));
    }

    /// The MAC and the parser take a frame of the wire, and hand it to the rings of the rules that match.
    fn accept(&mut self, cx: &mut DevCx<'_>, chip: &mut Chip<'_>) {
        if self.frame.len() < ether::HEADER {
            chip.counters.rx_runts += 1;
            return;
        }
        self.frame.resize(self.frame.len().max(ether::SHORTEST), 0);
        self.stats.incoming(&self.frame);
        if self.frame[12..14] == MAC_CONTROL {
            return self.mac_control(cx, chip);
        }
        if self.frame.len() > filter::largest(chip.regs, &self.frame) {
            chip.counters.rx_oversize += 1;
            self.stats.oversize();
            return;
        }
        let users = filter::users(chip.regs, &self.frame);
        if users == [false; 2] {
            chip.counters.rx_filtered += 1;
            self.stats.filtered();
            return;
        }
        self.stats.accepted(&self.frame);
        let keep = chip.regs.get(hw::EMAC_RX_MODE) & hw::EMAC_RX_MODE_KEEP_VLAN_TAG != 0;
        let mut header = rx::classify(&mut self.frame, keep);
        if users[1] {
            self.deliver(cx, chip, 1, &header);
        }
        if users[0] {
            let hash = filter::hash(chip.regs, &self.frame);
            if let Some(hash) = hash {
                filter::mark(&mut header, hash);
            }
            let spread = hash.map(|h| FIRST_RSS + self.rss.ring(h));
            let live = spread.filter(|&n| self.rx.get(n).is_some_and(RxRing::is_live));
            self.deliver(cx, chip, live.unwrap_or(0), &header);
        }
    }

    fn deliver(&mut self, cx: &mut DevCx<'_>, chip: &mut Chip<'_>, n: usize, header: &L2Fhdr) {
        let ring = &mut self.rx[n];
        match ring.deliver(cx, chip.context, header, &self.frame, &mut self.scratch) {
            Delivery::Done => {
                chip.counters.rx_frames += 1;
                let place = ring.place(chip.context);
                chip.hc.advance(place, ring.consumer(), 1, cx.now);
            }
            Delivery::NoBuffer => {
                chip.counters.rx_no_buffer += 1;
                let dropped = chip.regs.get(hw::FW_RX_DROP_COUNT).wrapping_add(1);
                chip.regs.set(hw::FW_RX_DROP_COUNT, dropped);
            }
            Delivery::TooLong => {
                chip.counters.rx_oversize += 1;
                self.stats.no_room();
            }
            Delivery::NoDescriptors(_) => {
                chip.counters.ring_faults += 1;
                chip.hc.attend(STATUS_ATTN_BITS_RX_BD_CACHE_ABORT, true);
            }
            Delivery::NoData(_) => {
                chip.counters.ring_faults += 1;
                chip.hc.attend(STATUS_ATTN_BITS_RX_DMA_ABORT, true);
            }
        }
    }
}
