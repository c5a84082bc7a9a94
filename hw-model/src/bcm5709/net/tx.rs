//! A transmit ring: fetches the descriptors of one frame and gathers its bytes.
//!
//! The first descriptor of a frame has START and the orders for the whole frame, the last one has END. The
//! host writes its index to the mailbox and then rings with the byte sequence; only then does the chip look.
//! What is not a frame (no START, START in the middle, too many descriptors or bytes) is consumed and
//! counted, so that the host's ring does not stop over it.

use bus::pci::{DevCx, DmaFault, Grant};
use hsi::bcm5709::ctx;
use hsi::bcm5709::l2::{
    TX_BD_FLAGS_END, TX_BD_FLAGS_IP_CKSUM, TX_BD_FLAGS_START, TX_BD_FLAGS_SW_LSO, TX_BD_FLAGS_TCP_UDP_CKSUM,
    TX_BD_FLAGS_VLAN_TAG, TX_BD_TCP6_OFF2_SHL, TxBd,
};

use super::chain::{BD, Chain};
use crate::bcm5709::hc::Place;
use crate::bcm5709::mem::SparseMem;
use crate::wire::LARGEST_FRAME;

/// Descriptors of one frame at most.
const BDS: usize = 64;
/// Bytes of a large send at most: an IP datagram of 64 KiB with its Ethernet header and tag.
const LARGEST_SEND: usize = 65_535 + 18;

/// What the first descriptor orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Insert this tag.
    pub(super) vlan: Option<u16>,
    /// Compute the IPv4 header checksum.
    pub(super) ip_checksum: bool,
    /// Compute the checksum of TCP or UDP.
    pub(super) l4_checksum: bool,
    /// Cut into segments of this size; all checksums come with it.
    pub(super) mss: Option<u16>,
}

impl Orders {
    fn of(bd: &TxBd) -> Self {
        let flags = u32::from(bd.flags());
        let has = |bit: u32| flags & bit != 0;
        let mss = bd.mss() & ((1 << TX_BD_TCP6_OFF2_SHL) - 1);
        // In a large send the checksum bits hold parts of an IPv6 header length.
        let large = has(TX_BD_FLAGS_SW_LSO) && mss != 0;
        Self {
            vlan: has(TX_BD_FLAGS_VLAN_TAG).then(|| bd.vlan_tag()),
            ip_checksum: !large && has(TX_BD_FLAGS_IP_CKSUM),
            l4_checksum: !large && has(TX_BD_FLAGS_TCP_UDP_CKSUM),
            mss: large.then_some(mss),
        }
    }
}

/// What fetching brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// Nothing to do.
    Nothing,
    /// A frame.
    Frame(Orders),
    /// Descriptors that are no frame. They are consumed.
    Malformed,
    /// The descriptors cannot be read: the ring has stopped.
    NoDescriptors(DmaFault),
    /// The data cannot be read: the ring has stopped.
    NoData(DmaFault),
}

#[derive(Clone, Copy)]
enum State {
    Off,
    /// The address is in the context; it is read with the first doorbell.
    Started(Grant),
    Running(Grant),
    Failed,
}

/// One transmit ring.
pub(super) struct TxRing {
    cid: u32,
    place: Place,
    state: State,
    chain: Chain,
    /// The index in the mailbox.
    written: u16,
    /// The index that was rung for.
    producer: u16,
    /// There was no END before this index.
    unfinished: Option<u16>,
}

impl TxRing {
    pub(super) fn new(cid: u32, place: Place) -> Self {
        let state = State::Off;
        Self { cid, place, state, chain: Chain::default(), written: 0, producer: 0, unfinished: None }
    }

    pub(super) fn cid(&self) -> u32 {
        self.cid
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// What the status block shows: descriptors consumed.
    pub(super) fn consumer(&self) -> u16 {
        self.chain.index()
    }

    pub(super) fn stop(&mut self) {
        *self = Self::new(self.cid, self.place);
    }

    /// The host wrote the ring's address.
    pub(super) fn start(&mut self, grant: Grant) {
        self.stop();
        self.state = State::Started(grant);
    }

    /// A mailbox write. False: the ring has no such word.
    pub(super) fn ring(&mut self, offset: u32, value: u16) -> bool {
        match offset {
            ctx::BNX2_L2CTX_TX_HOST_BIDX => self.written = value,
            ctx::BNX2_L2CTX_TX_HOST_BSEQ => self.producer = self.written,
            _ => return false,
        }
        !matches!(self.state, State::Off)
    }

    /// Gathers the next frame into `frame`.
    pub(super) fn fetch(&mut self, cx: &mut DevCx<'_>, context: &SparseMem, frame: &mut Vec<u8>) -> Fetched {
        let grant = match self.state {
            State::Started(grant) if self.producer != 0 => {
                let word = |offset: u32| u64::from(context.read(ctx::address(self.cid) + offset));
                let (hi, lo) = (ctx::BNX2_L2CTX_TBDR_BHADDR_HI_XI, ctx::BNX2_L2CTX_TBDR_BHADDR_LO_XI);
                self.chain = Chain::at(word(hi) << 32 | word(lo));
                self.state = State::Running(grant);
                grant
            }
            State::Running(grant) => grant,
            _ => return Fetched::Nothing,
        };
        if self.chain.until(self.producer) == 0 || self.unfinished == Some(self.producer) {
            return Fetched::Nothing;
        }
        let outcome = self.gather(cx, grant, frame);
        if matches!(outcome, Fetched::NoDescriptors(_) | Fetched::NoData(_)) {
            self.state = State::Failed;
        }
        outcome
    }

    fn gather(&mut self, cx: &mut DevCx<'_>, grant: Grant, frame: &mut Vec<u8>) -> Fetched {
        let mut raw = [0_u8; BDS * BD as usize];
        let mut chain = self.chain;
        let (mut n, mut ended) = (0, false);
        while !ended && n < BDS && chain.until(self.producer) != 0 {
            let (at, in_page) = match chain.locate(cx, grant) {
                Ok(place) => place,
                Err(fault) => return Fetched::NoDescriptors(fault),
            };
            let want = chain.until(self.producer).min(in_page).min(BDS - n);
            let bytes = &mut raw[n * BD as usize..(n + want) * BD as usize];
            if let Err(fault) = cx.dma_read(at, bytes, grant) {
                return Fetched::NoDescriptors(fault);
            }
            let end = bytes
                .as_chunks()
                .0
                .iter()
                .position(|&bd| u32::from(TxBd::from_bytes(bd).flags()) & TX_BD_FLAGS_END != 0);
            let taken = end.map_or(want, |i| i + 1);
            ended = end.is_some();
            chain.advance(taken);
            n += taken;
        }
        if !ended && n < BDS {
            // The rest of the frame may come with the next doorbell.
            self.unfinished = Some(self.producer);
            return Fetched::Nothing;
        }
        self.chain = chain;
        self.unfinished = None;
        let bds = raw[..n * BD as usize].as_chunks().0.iter().map(|&bd| TxBd::from_bytes(bd));
        let first = TxBd::from_bytes(*raw.first_chunk().expect("a descriptor fits"));
        let starts = bds.clone().filter(|bd| u32::from(bd.flags()) & TX_BD_FLAGS_START != 0).count();
        let orders = Orders::of(&first);
        let bytes: usize = bds.clone().map(|bd| usize::from(bd.nbytes())).sum();
        let limit = if orders.mss.is_some() { LARGEST_SEND } else { LARGEST_FRAME };
        let starts_first = u32::from(first.flags()) & TX_BD_FLAGS_START != 0;
        if !ended || !starts_first || starts != 1 || bytes > limit || bytes < crate::ether::HEADER {
            return Fetched::Malformed;
        }
        frame.clear();
        for bd in bds {
            let start = frame.len();
            frame.resize(start + usize::from(bd.nbytes()), 0);
            if bd.nbytes() != 0
                && let Err(fault) = cx.dma_read(bd.haddr(), &mut frame[start..], grant)
            {
                return Fetched::NoData(fault);
            }
        }
        Fetched::Frame(orders)
    }
}
