//! The netdev's side of the Ethernet rings: a host that sets them up, fills and drains them as a network
//! driver does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bus::Instant;
use bus::mem::DmaBuf;
use bus::pci::DevCx;
use hsi::bcm5709::l2::{
    L2Fhdr, RX_BD_FLAGS_END, RX_BD_FLAGS_START, RxBd, TX_BD_FLAGS_END, TX_BD_FLAGS_START, TxBd,
};
use hsi::bcm5709::{ctx, doorbell, regs};

use super::host::Host;
use crate::wire::{Responder, Wire};

pub(super) const MAC: [u8; 6] = [0, 0x10, 0x18, 0xaa, 0xbb, 0xcc];
const PAGE: usize = 4096;
/// Bytes in front of a received frame.
const FRONT: usize = 18;
const BUFFER: usize = 2048;

/// A cable whose far end is the test.
#[derive(Clone, Default)]
pub(super) struct Cable(pub(super) Rc<RefCell<Ends>>);

#[derive(Default)]
pub(super) struct Ends {
    pub(super) sent: Vec<Vec<u8>>,
    pub(super) arriving: VecDeque<Vec<u8>>,
    /// Answers what is sent, if set.
    pub(super) responder: Option<Responder>,
}

impl Wire for Cable {
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        let mut ends = self.0.borrow_mut();
        ends.sent.push(frame.to_vec());
        if let Some(r) = &mut ends.responder {
            r.send(cx, frame);
        }
    }

    fn recv(&mut self, cx: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        let mut ends = self.0.borrow_mut();
        if let Some(arrived) = ends.arriving.pop_front() {
            *frame = arrived;
            return true;
        }
        frame.clear();
        ends.responder.as_mut().is_some_and(|r| r.recv(cx, frame))
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

impl Cable {
    pub(super) fn arrive(&self, frame: &[u8]) {
        self.0.borrow_mut().arriving.push_back(frame.to_vec());
    }

    pub(super) fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.borrow_mut().sent)
    }
}

/// The index after `index`: the last descriptor of a page leads to the next.
pub(super) fn next(index: u16) -> u16 {
    if index & 0xff == 254 { index.wrapping_add(2) } else { index.wrapping_add(1) }
}

fn link_pages(pages: &DmaBuf) {
    let n = pages.len() / PAGE;
    for page in 0..n {
        let mut bd = RxBd::default();
        bd.set_haddr(pages.addr() + ((page + 1) % n * PAGE) as u64);
        pages.write(page * PAGE + 255 * 16, bd.bytes());
    }
}

fn slot(pages: &DmaBuf, index: u16) -> usize {
    usize::from(index) * 16 % pages.len()
}

/// A transmit ring of one page, as drivers have it.
pub(super) struct Tx {
    cid: u32,
    pub(super) pages: DmaBuf,
    data: DmaBuf,
    pub(super) producer: u16,
    /// Where the status block shows the consumer.
    at: usize,
}

/// What the first descriptor says.
#[derive(Clone, Copy, Default)]
pub(super) struct Orders {
    pub(super) flags: u32,
    pub(super) mss: u16,
    pub(super) vlan: u16,
}

impl Tx {
    pub(super) fn new(h: &mut Host, cid: u32, at: usize) -> Self {
        let (pages, data) = (h.lent(PAGE), h.lent(0x2_0000));
        link_pages(&pages);
        let addr = pages.addr();
        h.context_write(cid, ctx::BNX2_L2CTX_TYPE_XI, ctx::BNX2_L2CTX_TYPE_TYPE_L2);
        h.context_write(cid, ctx::BNX2_L2CTX_TBDR_BHADDR_HI_XI, (addr >> 32) as u32);
        h.context_write(cid, ctx::BNX2_L2CTX_TBDR_BHADDR_LO_XI, addr as u32);
        Self { cid, pages, data, producer: 0, at }
    }

    pub(super) fn put(&mut self, bd: &TxBd) {
        self.pages.write(slot(&self.pages, self.producer), bd.bytes());
        self.producer = next(self.producer);
    }

    /// Descriptors of a frame, cut at `pieces` bytes.
    pub(super) fn post(&mut self, frame: &[u8], pieces: usize, orders: Orders) {
        self.data.write(0, frame);
        let n = frame.chunks(pieces).count();
        for (i, piece) in frame.chunks(pieces).enumerate() {
            let mut bd = TxBd::default();
            bd.set_haddr(self.data.addr() + (i * pieces) as u64);
            bd.set_mss_nbytes(if i == 0 { orders.mss } else { 0 }, piece.len() as u16);
            let mut flags = 0;
            if i == 0 {
                flags |= orders.flags | TX_BD_FLAGS_START;
            }
            if i + 1 == n {
                flags |= TX_BD_FLAGS_END;
            }
            bd.set_vlan_tag_flags(if i == 0 { orders.vlan } else { 0 }, flags as u16);
            self.put(&bd);
        }
    }

    pub(super) fn ring(&self, h: &mut Host) {
        self.announce(h);
        h.run();
    }

    /// Rings, and lets nobody work yet.
    pub(super) fn announce(&self, h: &mut Host) {
        let mailbox = doorbell::mailbox(self.cid);
        h.write16(mailbox + ctx::BNX2_L2CTX_TX_HOST_BIDX, self.producer);
        h.write(mailbox + ctx::BNX2_L2CTX_TX_HOST_BSEQ, 1);
    }

    /// Sends a frame in one piece and waits for its completion.
    pub(super) fn send(&mut self, h: &mut Host, frame: &[u8]) {
        self.send_with(h, frame, frame.len(), Orders::default());
    }

    pub(super) fn send_with(&mut self, h: &mut Host, frame: &[u8], pieces: usize, orders: Orders) {
        self.post(frame, pieces, orders);
        self.ring(h);
        assert!(self.done(h), "the frame is completed: {} of {}", self.consumer(h), self.producer);
    }

    /// A sound frame on a ring that has stopped.
    pub(super) fn send_nothing(&mut self, h: &mut Host) {
        self.post(&[4; 60], 60, Orders::default());
        self.ring(h);
        assert!(!self.done(h) && h.cable.sent().is_empty());
    }

    pub(super) fn consumer(&self, h: &Host) -> u16 {
        h.status.load16(self.at)
    }

    pub(super) fn done(&self, h: &Host) -> bool {
        let consumer = self.consumer(h);
        consumer == self.producer || consumer & 0xff == 255 && consumer.wrapping_add(1) == self.producer
    }
}

/// A receive ring with as many buffers as it has descriptors, each of 2 KiB.
pub(super) struct Rx {
    pub(super) cid: u32,
    pub(super) pages: DmaBuf,
    buffers: DmaBuf,
    consumer: u16,
    pub(super) producer: u16,
    at: usize,
    sizes: u32,
    jumbo: Option<Pages>,
}

struct Pages {
    pages: DmaBuf,
    buffers: DmaBuf,
    consumer: u16,
    producer: u16,
}

impl Rx {
    pub(super) fn new(h: &mut Host, cid: u32, at: usize, pages: usize) -> Self {
        Self::with_sizes(h, cid, at, pages, 0)
    }

    /// `sizes` as in `PG_BUF_SIZE`: not 0 means a page ring.
    pub(super) fn with_sizes(h: &mut Host, cid: u32, at: usize, pages: usize, sizes: u32) -> Self {
        let (ring, buffers) = (h.lent(pages * PAGE), h.lent(pages * 256 * BUFFER));
        link_pages(&ring);
        h.context_write(cid, ctx::BNX2_L2CTX_CTX_TYPE, ctx::BNX2_L2CTX_CTX_TYPE_CTX_BD_CHN_TYPE_VALUE);
        h.context_write(cid, ctx::BNX2_L2CTX_PG_BUF_SIZE, sizes);
        let jumbo = (sizes != 0).then(|| {
            let (pages, buffers) = (h.lent(PAGE), h.lent(256 * PAGE));
            link_pages(&pages);
            let addr = pages.addr();
            h.context_write(cid, ctx::BNX2_L2CTX_NX_PG_BDHADDR_HI, (addr >> 32) as u32);
            h.context_write(cid, ctx::BNX2_L2CTX_NX_PG_BDHADDR_LO, addr as u32);
            Pages { pages, buffers, consumer: 0, producer: 0 }
        });
        let addr = ring.addr();
        h.context_write(cid, ctx::BNX2_L2CTX_NX_BDHADDR_HI, (addr >> 32) as u32);
        h.context_write(cid, ctx::BNX2_L2CTX_NX_BDHADDR_LO, addr as u32);
        let mut rx = Self { cid, pages: ring, buffers, consumer: 0, producer: 0, at, sizes, jumbo };
        for _ in 0..pages * 255 - 1 {
            rx.give();
        }
        if let Some(p) = &mut rx.jumbo {
            for _ in 0..254 {
                let at = slot(&p.pages, p.producer);
                let mut bd = RxBd::default();
                bd.set_haddr(p.buffers.addr() + (at / 16 * PAGE) as u64);
                bd.rx_bd_len.set(PAGE as u32);
                p.pages.write(at, bd.bytes());
                p.producer = next(p.producer);
            }
        }
        rx.ring(h);
        rx
    }

    fn give(&mut self) {
        let at = slot(&self.pages, self.producer);
        let mut bd = RxBd::default();
        bd.set_haddr(self.buffers.addr() + (at / 16 * BUFFER) as u64);
        bd.rx_bd_len.set(if self.sizes == 0 { 1540 } else { self.sizes >> 16 });
        bd.rx_bd_flags.set(RX_BD_FLAGS_START | RX_BD_FLAGS_END);
        self.pages.write(at, bd.bytes());
        self.producer = next(self.producer);
    }

    pub(super) fn ring(&self, h: &mut Host) {
        let mailbox = doorbell::mailbox(self.cid);
        if let Some(p) = &self.jumbo {
            h.write16(mailbox + ctx::BNX2_L2CTX_HOST_PG_BDIDX, p.producer);
        }
        h.write16(mailbox + ctx::BNX2_L2CTX_HOST_BDIDX, self.producer);
        h.write(mailbox + ctx::BNX2_L2CTX_HOST_BSEQ, 1);
        h.run();
    }

    /// Takes what has arrived without giving the buffers back: header and frame, without its FCS, which is
    /// checked.
    pub(super) fn take(&mut self, h: &Host) -> Vec<(L2Fhdr, Vec<u8>)> {
        let mut end = h.status.load16(self.at);
        if end & 0xff == 255 {
            end = end.wrapping_add(1);
        }
        let mut out = Vec::new();
        while self.consumer != end {
            let at = slot(&self.pages, self.consumer) / 16 * BUFFER;
            let mut header = [0; 16];
            self.buffers.read(at, &mut header);
            let header = L2Fhdr::from_bytes(header);
            let bytes = usize::from(header.l2_fhdr_pkt_len.get());
            let room = if self.sizes == 0 { BUFFER } else { (self.sizes >> 16) as usize } - FRONT;
            let mut frame = vec![0; bytes.min(room)];
            self.buffers.read(at + FRONT, &mut frame);
            while frame.len() < bytes {
                let p = self.jumbo.as_mut().expect("a page ring");
                let from = slot(&p.pages, p.consumer) / 16 * PAGE;
                let mut part = vec![0; (bytes - frame.len()).min(PAGE)];
                p.buffers.read(from, &mut part);
                frame.extend(part);
                p.consumer = next(p.consumer);
            }
            let fcs = frame.split_off(bytes - 4);
            assert_eq!(fcs, (!crate::ether::crc(&frame)).to_le_bytes(), "the FCS");
            out.push((header, frame));
            self.consumer = next(self.consumer);
        }
        out
    }

    /// The same, and gives as many buffers back.
    pub(super) fn reap(&mut self, h: &mut Host) -> Vec<(L2Fhdr, Vec<u8>)> {
        let out = self.take(h);
        for _ in &out {
            self.give();
        }
        self.ring(h);
        out
    }
}

/// Match registers, and a sort rule for them and for broadcasts.
pub(super) fn open_filter(h: &mut Host) {
    h.write(regs::EMAC_MAC_MATCH0, 0x0010);
    h.write(regs::EMAC_MAC_MATCH1, 0x18aa_bbcc);
    let rule = 1 | regs::RPM_SORT_USER0_BC_EN;
    h.write(regs::RPM_SORT_USER0, 0);
    h.write(regs::RPM_SORT_USER0, rule);
    h.write(regs::RPM_SORT_USER0, rule | regs::RPM_SORT_USER0_ENA);
}
