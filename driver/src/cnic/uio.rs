//! The iscsiuio helper's Ethernet ring: transmit CID 20, receive CID 2, and the memory that helper and card
//! share.
//!
//! Status block, ring and frame buffers are one allocation that lives as long as the adapter: a helper that
//! is stuck with a view of an earlier open can write into a ring of the helper's, never into anything else.
//! Ring and buffers are lent with the first open after a reset, and come back only with the proof of the next
//! one, as nothing else stops the transmit side. The adapter decides when; this module knows the layouts.
//!
//! What the helper shares is its own memory and nothing else, and the card never reads a descriptor from it:
//! the card's ring is private, and a transmit BD is taken over when the helper publishes it. One that names
//! anything but the frame buffers is not, nor is what follows it.
//!
//! Not modelled: MSI-X (a status block of the ring's own), the 57810's ring.

use bus::actor::Cx;
use bus::mem::{DmaBuf, PAGE_SIZE, View};
use bus::pci::{BusLost, Dir, DmaExhausted, Loan, Platform, Proof};
use bus::uio::{
    BUFFER_BYTES, BUFFERS_BYTES, EventCount, RING_BYTES, RX_BUFFERS, STATUS_BYTES, UioMaps, Value,
};
use hsi::U32;
use hsi::bcm5709::l2::{RX_BD_FLAGS_END, RX_BD_FLAGS_START, RxBd, TxBd};
use hsi::bcm5709::status_block::StatusBlock;
use hsi::bcm5709::{ctx, doorbell, regs as r};
use hsi::kernel::kwq::{Kwqe, L2KwqeOpcode, Layer};
use zerocopy::IntoBytes;

use core::mem::{offset_of, size_of};

use crate::l2::{BAR0, Regs};

const RING_AT: usize = STATUS_BYTES;
const TX_PAGE: usize = RING_AT;
const RX_PAGE: usize = RING_AT + PAGE_SIZE;
const BUFFERS_AT: usize = RING_AT + RING_BYTES;
const BYTES: usize = BUFFERS_AT + BUFFERS_BYTES;
/// BDs in a page; the last one leads back to the page.
const CHAIN: usize = PAGE_SIZE / size_of::<RxBd>() - 1;
/// Indexes of the ring in the status block.
const SB_TX: usize = offset_of!(StatusBlock, status_tx_quick_consumer_index2);
const SB_RX: usize = offset_of!(StatusBlock, status_rx_quick_consumer_index2);

/// Registers that a helper may read: chip, offload MAC, transmit spreading, tag handling.
const READABLE: [u32; 5] =
    [r::MISC_ID, r::EMAC_MAC_MATCH4, r::EMAC_MAC_MATCH5, r::TSCH_TSS_CFG, r::EMAC_RX_MODE];
/// Registers that a helper may write, with 16 bits.
const WRITABLE16: [u32; 2] = [
    doorbell::mailbox(ctx::UIO_TX_CID) + ctx::BNX2_L2CTX_TX_HOST_BIDX,
    doorbell::mailbox(ctx::UIO_RX_CID) + ctx::BNX2_L2CTX_HOST_BDIDX,
];
/// Registers that a helper may write, with 32 bits.
const WRITABLE32: [u32; 3] = [
    doorbell::mailbox(ctx::UIO_TX_CID) + ctx::BNX2_L2CTX_TX_HOST_BSEQ,
    doorbell::mailbox(ctx::UIO_RX_CID) + ctx::BNX2_L2CTX_HOST_BSEQ,
    r::RPM_SORT_USER2,
];

/// The shared memory.
#[must_use]
pub(crate) struct Shared {
    buf: DmaBuf,
    /// Both BD pages as the card has them.
    ring: DmaBuf,
    loans: Vec<Loan>,
    /// Transmit BDs taken over.
    taken: u16,
}

impl Shared {
    pub(crate) fn new<P: Platform>(p: &mut P) -> Result<Self, DmaExhausted> {
        let buf = p.dma_alloc_apart(BYTES, "helper")?;
        match p.dma_alloc(RING_BYTES, "helper ring") {
            Ok(ring) => Ok(Self { buf, ring, loans: Vec::new(), taken: 0 }),
            Err(e) => {
                p.dma_free(buf);
                Err(e)
            }
        }
    }

    /// DMA buffers that it consists of.
    pub(crate) const BUFFERS: u32 = 2;

    /// The page of the status block, zeroed: the chip is idle.
    pub(crate) fn status<P: Platform>(&self, p: &mut P) -> (View, u64, Loan) {
        self.buf.fill(0, STATUS_BYTES, 0);
        (self.buf.view(0..STATUS_BYTES), self.buf.addr(), p.lend(&self.buf, 0..STATUS_BYTES, Dir::Both))
    }

    pub(crate) fn loans(&self) -> u32 {
        self.loans.len() as u32
    }

    /// Takes the loans back: the chip was reset.
    pub(crate) fn reclaim<P: Platform>(&mut self, p: &mut P, proof: Proof) {
        self.loans.drain(..).for_each(|loan| p.reclaim(loan, proof));
    }

    /// Gives the memory back, for good.
    pub(crate) fn free<P: Platform>(self, p: &mut P) {
        p.dma_free(self.buf);
        p.dma_free(self.ring);
    }

    /// Whether the card has had the ring since its last reset.
    pub(crate) fn is_lent(&self) -> bool {
        !self.loans.is_empty()
    }

    /// Starts both rings over and describes them to a helper.
    pub(crate) fn start<P: Platform>(
        &mut self,
        p: &mut P,
        cx: &mut Cx<'_>,
        generation: u32,
        events: EventCount,
    ) -> Result<UioMaps, BusLost> {
        if !self.is_lent() {
            let rest = BUFFERS_AT + BUFFER_BYTES;
            let parts = [(BUFFERS_AT..rest, Dir::ToCard), (rest..BYTES, Dir::FromCard)];
            self.loans = parts.into_iter().map(|(range, dir)| p.lend(&self.buf, range, dir)).collect();
            self.loans.push(p.lend(&self.ring, 0..RING_BYTES, Dir::ToCard));
        }
        self.fill();
        self.taken = 0;
        self.program(p, cx);
        // The reads bring earlier writes to an end, in both directions: what the chip published of the rings
        // before is there now, and is wiped out.
        let mut regs = Regs::new(p, cx);
        let mut registers = Vec::with_capacity(READABLE.len());
        for at in READABLE {
            registers.push((at, regs.read(at)?));
        }
        self.buf.write(SB_TX, &[0; 2]);
        self.buf.write(SB_RX, &[0; 2]);
        Ok(UioMaps {
            generation,
            status: self.buf.view(0..STATUS_BYTES),
            ring: self.buf.view(RING_AT..RING_AT + RING_BYTES),
            buffers: self.buf.view(BUFFERS_AT..BYTES),
            registers,
            events,
        })
    }

    /// Fills both BD pages: every transmit BD names the one transmit buffer, receive BDs the receive buffers
    /// in turn.
    fn fill(&self) {
        let buffer = |n: usize| self.buf.addr() + (BUFFERS_AT + n * BUFFER_BYTES) as u64;
        let at = |page: usize, n: usize| page + n * size_of::<RxBd>();
        // The helper's copy, and the card's.
        let put = |at: usize, bd: &[u8]| {
            self.buf.write(at, bd);
            self.ring.write(at - RING_AT, bd);
        };
        for n in 0..CHAIN {
            let mut tx = TxBd::default();
            tx.set_haddr(buffer(0));
            put(at(TX_PAGE, n), tx.as_bytes());
            let mut rx = RxBd::default();
            rx.set_haddr(buffer(1 + n % RX_BUFFERS));
            rx.rx_bd_len = U32::new(BUFFER_BYTES as u32);
            rx.rx_bd_flags = U32::new(RX_BD_FLAGS_START | RX_BD_FLAGS_END);
            put(at(RX_PAGE, n), rx.as_bytes());
        }
        for page in [TX_PAGE, RX_PAGE] {
            let mut chain = RxBd::default();
            chain.set_haddr(self.ring.addr() + (page - RING_AT) as u64);
            put(at(page, CHAIN), chain.as_bytes());
        }
    }

    /// Contexts 20 and 2. Writing an address starts a ring over.
    fn program<P: Platform>(&self, p: &mut P, cx: &mut Cx<'_>) {
        let mut regs = Regs::new(p, cx);
        regs.write(r::RPM_SORT_USER2, 0);
        let tx = ctx::address(ctx::UIO_TX_CID);
        let ring = self.ring.addr() + (TX_PAGE - RING_AT) as u64;
        let kind = ctx::BNX2_L2CTX_TYPE_TYPE_L2 | ctx::BNX2_L2CTX_TYPE_SIZE_L2;
        regs.context_write(tx + ctx::BNX2_L2CTX_TYPE_XI, kind);
        regs.context_write(tx + ctx::BNX2_L2CTX_CMD_TYPE_XI, ctx::BNX2_L2CTX_CMD_TYPE_TYPE_L2 | 8 << 16);
        regs.context_write(tx + ctx::BNX2_L2CTX_TBDR_BHADDR_HI_XI, (ring >> 32) as u32);
        regs.context_write(tx + ctx::BNX2_L2CTX_TBDR_BHADDR_LO_XI, ring as u32);
        let rx = ctx::address(ctx::UIO_RX_CID);
        let ring = self.ring.addr() + (RX_PAGE - RING_AT) as u64;
        let kind = ctx::BNX2_L2CTX_CTX_TYPE_CTX_BD_CHN_TYPE_VALUE | ctx::BNX2_L2CTX_CTX_TYPE_SIZE_L2;
        regs.context_write(rx + ctx::BNX2_L2CTX_CTX_TYPE, kind | 2 << 8);
        regs.context_write(rx + ctx::BNX2_L2CTX_HOST_BDIDX, 0);
        regs.context_write(rx + ctx::BNX2_L2CTX_PG_BUF_SIZE, 0);
        regs.context_write(rx + ctx::BNX2_L2CTX_NX_BDHADDR_HI, (ring >> 32) as u32);
        regs.context_write(rx + ctx::BNX2_L2CTX_NX_BDHADDR_LO, ring as u32);
    }

    /// The mark by which a helper sees that its device was shut down: receive BD 0 names nothing and has no
    /// length.
    pub(crate) fn mark_shut(&self) {
        self.buf.fill(RX_PAGE, size_of::<RxBd>(), 0);
        self.ring.fill(RX_PAGE - RING_AT, size_of::<RxBd>(), 0);
    }

    /// Transmit and receive consumer in the status block.
    pub(crate) fn consumers(&self) -> (u16, u16) {
        (self.buf.load16(SB_TX), self.buf.load16(SB_RX))
    }
}

/// Lets the receive ring go of its buffers. Not answered.
pub(crate) fn flush() -> Kwqe {
    let word = u32::from(Layer::L2.0) << 28 | u32::from(L2KwqeOpcode::FLUSH.0) << 16 | ctx::UIO_RX_CID;
    Kwqe { kwqe_op_flag: U32::new(word), ..Kwqe::default() }
}

impl Shared {
    /// Takes the helper's transmit BDs over, up to the producer that it publishes. False, and nothing is: one
    /// of them names memory that is not the helper's, or there are more of them than the ring has.
    fn take_over(&mut self, producer: u16) -> bool {
        let new = usize::from(producer.wrapping_sub(self.taken));
        if new > CHAIN + 1 {
            return false;
        }
        let first = self.buf.addr() + BUFFERS_AT as u64;
        let mut bds = Vec::with_capacity(new);
        for i in 0..new {
            let n = usize::from(self.taken.wrapping_add(i as u16)) % (CHAIN + 1);
            if n == CHAIN {
                continue;
            }
            // Read once: the helper may change it at any time.
            let mut bd = TxBd::default();
            let at = n * size_of::<TxBd>();
            self.buf.read(TX_PAGE + at, bd.as_mut_bytes());
            let haddr = u64::from(bd.tx_bd_haddr_hi.get()) << 32 | u64::from(bd.tx_bd_haddr_lo.get());
            let inside = haddr.checked_sub(first).and_then(|at| at.checked_add(bd.nbytes().into()));
            if inside.is_none_or(|end| end > BUFFER_BYTES as u64) {
                return false;
            }
            bds.push((TX_PAGE - RING_AT + at, bd));
        }
        bds.iter().for_each(|(at, bd)| self.ring.write(*at, bd.as_bytes()));
        self.taken = producer;
        true
    }

    /// Carries a write out if the register is the helper's, and what it publishes too; false otherwise.
    pub(crate) fn write<P: Platform>(&mut self, p: &mut P, cx: &mut Cx<'_>, at: u32, value: Value) -> bool {
        match value {
            Value::U16(producer) if at == WRITABLE16[0] && !self.take_over(producer) => false,
            _ => write(p, cx, at, value),
        }
    }
}

/// Carries a write out if the register is the helper's; false otherwise.
fn write<P: Platform>(p: &mut P, cx: &mut Cx<'_>, at: u32, value: Value) -> bool {
    match value {
        Value::U16(v) if WRITABLE16.contains(&at) => p.write16(cx, BAR0, at.into(), v),
        Value::U32(v) if WRITABLE32.contains(&at) => p.write32(cx, BAR0, at.into(), v),
        _ => return false,
    }
    true
}
