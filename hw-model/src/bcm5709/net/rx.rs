//! A receive ring: puts a frame with its header into the host's buffers.
//!
//! A buffer takes the frame header (16 bytes), two pad bytes, the frame, and its FCS. If the host has set up
//! a page ring, what does not fit behind the header size goes into pages, FCS included; drivers do that for
//! jumbo frames. A frame for which there are not enough descriptors is dropped.

use bus::pci::{DevCx, DmaFault, Grant};
use hsi::bcm5709::ctx;
use hsi::bcm5709::l2::{
    L2_FHDR_ERRORS_TCP_XSUM, L2_FHDR_ERRORS_UDP_XSUM, L2_FHDR_STATUS_IP_DATAGRAM, L2_FHDR_STATUS_L2_VLAN_TAG,
    L2_FHDR_STATUS_TCP_SEGMENT, L2_FHDR_STATUS_UDP_DATAGRAM, L2Fhdr, RxBd,
};

use super::chain::{BD, Chain};
use crate::bcm5709::hc::{Place, VECTORS};
use crate::bcm5709::mem::SparseMem;
use crate::ether::{self, FCS, HEADER, TCP, UDP, VLAN_TAG};

/// Bytes in front of the frame: the header and two of padding.
const FRONT: usize = size_of::<L2Fhdr>() + 2;

/// Looks at a frame: takes its tag off, unless the host keeps tags, and makes its header. Ends the frame with
/// its FCS.
pub(super) fn classify(frame: &mut Vec<u8>, keep_tag: bool) -> L2Fhdr {
    let mut header = L2Fhdr::default();
    let mut status = 0;
    if let Some(tag) = ether::vlan(frame) {
        status |= L2_FHDR_STATUS_L2_VLAN_TAG;
        header.l2_fhdr_vlan_tag.set(tag);
        if !keep_tag {
            let at = HEADER - 2;
            frame.copy_within(at + VLAN_TAG.., at);
            frame.truncate(frame.len() - VLAN_TAG);
        }
    }
    if let Some(ip) = ether::parse(frame) {
        status |= L2_FHDR_STATUS_IP_DATAGRAM;
        if ip.v4 {
            header.l2_fhdr_ip_xsum.set(ether::fold(ether::sum(&frame[ip.l3..ip.l4])));
        }
        if let Some(at) = ip.checksum_at() {
            let sum = ether::fold(ip.pseudo(frame, ip.end - ip.l4) + ether::sum(&frame[ip.l4..ip.end]));
            header.l2_fhdr_tcp_udp_xsum.set(sum);
            // A UDP checksum of zero says that there is none.
            let good = sum == 0xffff || ip.protocol == UDP && ether::word(frame, at) == Some(0);
            status |= match (ip.protocol, good) {
                (TCP, true) => L2_FHDR_STATUS_TCP_SEGMENT,
                (TCP, false) => L2_FHDR_STATUS_TCP_SEGMENT | L2_FHDR_ERRORS_TCP_XSUM,
                (_, true) => L2_FHDR_STATUS_UDP_DATAGRAM,
                (_, false) => L2_FHDR_STATUS_UDP_DATAGRAM | L2_FHDR_ERRORS_UDP_XSUM,
            };
        }
    }
    header.l2_fhdr_status.set(status);
    header.l2_fhdr_pkt_len.set((frame.len() + FCS) as u16);
    let fcs = !ether::crc(frame);
    frame.extend(fcs.to_le_bytes());
    header
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Done,
    /// No descriptor, or no ring.
    NoBuffer,
    /// The buffer is too small, and there is no page ring.
    TooLong,
    /// The descriptors cannot be read: the ring has stopped.
    NoDescriptors(DmaFault),
    /// The data cannot be written: the ring has stopped.
    NoData(DmaFault),
}

/// A ring of buffers: where the chip is in its chain, and how far the host has filled it.
#[derive(Clone, Copy, Default)]
struct Buffers {
    chain: Chain,
    producer: u16,
    /// The address is read from the context.
    running: bool,
}

impl Buffers {
    fn available(&self) -> usize {
        self.chain.until(self.producer)
    }

    /// Takes the next descriptor.
    fn take(&mut self, cx: &mut DevCx<'_>, grant: Grant) -> Result<RxBd, DmaFault> {
        let (at, _) = self.chain.locate(cx, grant)?;
        let mut bd = [0; BD as usize];
        cx.dma_read(at, &mut bd, grant)?;
        self.chain.advance(1);
        Ok(RxBd::from_bytes(bd))
    }
}

#[derive(Clone, Copy)]
enum State {
    Off,
    Live(Grant),
    Failed,
}

/// One receive ring, with its page ring.
pub(super) struct RxRing {
    cid: u32,
    place: Place,
    state: State,
    buffers: Buffers,
    pages: Buffers,
}

impl RxRing {
    pub(super) fn new(cid: u32, place: Place) -> Self {
        Self { cid, place, state: State::Off, buffers: Buffers::default(), pages: Buffers::default() }
    }

    pub(super) fn cid(&self) -> u32 {
        self.cid
    }

    /// Where the consumer is shown. The context may name a block of its own; how it does is inferred from the
    /// kernel queues, which do it likewise.
    pub(super) fn place(&self, context: &SparseMem) -> Place {
        let word = self.word(context, ctx::BNX2_L2CTX_HOST_BDIDX);
        let named =
            (word >> ctx::BNX2_L2CTX_L2_STATUSB_NUM_SHIFT).saturating_sub(ctx::KRNLQ_STATUSB_BASE) as usize;
        if (1..VECTORS).contains(&named) { Place::rx(named, 0) } else { self.place }
    }

    /// What the status block shows: descriptors consumed.
    pub(super) fn consumer(&self) -> u16 {
        self.buffers.chain.index()
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    pub(super) fn stop(&mut self) {
        *self = Self::new(self.cid, self.place);
    }

    /// The host wrote the ring's address.
    pub(super) fn start(&mut self, grant: Grant) {
        self.state = State::Live(grant);
        self.buffers = Buffers::default();
    }

    /// The host wrote the address of the page ring.
    pub(super) fn start_pages(&mut self) {
        self.pages = Buffers::default();
    }

    /// A mailbox write. False: the ring has no such word, or was never set up.
    pub(super) fn ring(&mut self, offset: u32, value: u16) -> bool {
        match offset {
            ctx::BNX2_L2CTX_HOST_BDIDX => self.buffers.producer = value,
            ctx::BNX2_L2CTX_HOST_PG_BDIDX => self.pages.producer = value,
            ctx::BNX2_L2CTX_HOST_BSEQ => {}
            _ => return false,
        }
        !matches!(self.state, State::Off)
    }

    fn word(&self, context: &SparseMem, offset: u32) -> u32 {
        context.read(ctx::address(self.cid) + offset)
    }

    /// Whether a live ring has no buffers for a frame of `bytes`.
    pub(super) fn is_full(&mut self, context: &SparseMem, bytes: usize) -> bool {
        if !self.is_live() {
            return false;
        }
        self.begin(context);
        let (room, page) = self.sizes(context);
        let rest = if page == 0 { 0 } else { bytes.saturating_sub(room.saturating_sub(FRONT)) };
        self.buffers.available() == 0 || rest > 0 && self.pages.available() < rest.div_ceil(page)
    }

    /// Header size and page size; no page size means no page ring.
    fn sizes(&self, context: &SparseMem) -> (usize, usize) {
        let sizes = self.word(context, ctx::BNX2_L2CTX_PG_BUF_SIZE);
        ((sizes >> 16) as usize, (sizes & 0xffff) as usize)
    }

    /// The first frame finds out where the chains are.
    fn begin(&mut self, context: &SparseMem) {
        let address =
            |hi: u32, lo: u32| u64::from(self.word(context, hi)) << 32 | u64::from(self.word(context, lo));
        let (first, pages) = (
            address(ctx::BNX2_L2CTX_NX_BDHADDR_HI, ctx::BNX2_L2CTX_NX_BDHADDR_LO),
            address(ctx::BNX2_L2CTX_NX_PG_BDHADDR_HI, ctx::BNX2_L2CTX_NX_PG_BDHADDR_LO),
        );
        for (ring, base) in [(&mut self.buffers, first), (&mut self.pages, pages)] {
            if !ring.running {
                (ring.chain, ring.running) = (Chain::at(base), true);
            }
        }
    }

    /// Puts a classified frame into the host's memory; `out` is scratch space.
    pub(super) fn deliver(
        &mut self,
        cx: &mut DevCx<'_>,
        context: &SparseMem,
        header: &L2Fhdr,
        frame: &[u8],
        out: &mut Vec<u8>,
    ) -> Delivery {
        let State::Live(grant) = self.state else { return Delivery::NoBuffer };
        let outcome = self.place_frame(cx, context, grant, header, frame, out);
        if matches!(outcome, Delivery::NoDescriptors(_) | Delivery::NoData(_)) {
            self.state = State::Failed;
        }
        outcome
    }

    fn place_frame(
        &mut self,
        cx: &mut DevCx<'_>,
        context: &SparseMem,
        grant: Grant,
        header: &L2Fhdr,
        frame: &[u8],
        out: &mut Vec<u8>,
    ) -> Delivery {
        self.begin(context);
        if self.buffers.available() == 0 {
            return Delivery::NoBuffer;
        }
        let (room, page) = self.sizes(context);
        let head = match page {
            0 => frame.len(),
            _ => frame.len().min(room.saturating_sub(FRONT)),
        };
        let (head, rest) = frame.split_at(head);
        if !rest.is_empty() && self.pages.available() < rest.len().div_ceil(page) {
            return Delivery::NoBuffer;
        }
        let bd = match self.buffers.take(cx, grant) {
            Ok(bd) => bd,
            Err(fault) => return Delivery::NoDescriptors(fault),
        };
        if FRONT + head.len() > bd.rx_bd_len.get() as usize {
            // The descriptor is not used up.
            self.buffers.chain.back();
            return Delivery::TooLong;
        }
        out.clear();
        out.extend_from_slice(header.bytes());
        out.resize(FRONT, 0);
        out.extend_from_slice(head);
        if let Err(fault) = cx.dma_write(bd.haddr(), out, grant) {
            return Delivery::NoData(fault);
        }
        if rest.is_empty() {
            return Delivery::Done;
        }
        for part in rest.chunks(page) {
            let bd = match self.pages.take(cx, grant) {
                Ok(bd) => bd,
                Err(fault) => return Delivery::NoDescriptors(fault),
            };
            if let Err(fault) = cx.dma_write(bd.haddr(), part, grant) {
                return Delivery::NoData(fault);
            }
        }
        Delivery::Done
    }
}
