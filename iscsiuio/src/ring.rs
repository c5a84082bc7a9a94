//! The extra L2 ring of the 5709 class as the helper drives it (ISCSIUIO 5.1).
//!
//! Descriptors are the driver's work: every transmit BD points at buffer 0, receive BDs at buffers 1 to 3 in
//! turn, and the last BD of a page leads back to it. The helper sets length and flags, publishes indexes
//! through register writes that the driver carries out, and reads consumers from the status block. With one
//! transmit buffer there is one frame in flight; others wait in the caller's queue.
//!
//! Memory is shared with a card and a driver that may reset at any time, so nothing read from it is believed:
//! an index that promises more than was posted is counted and ignored, a frame longer than its buffer is
//! dropped. A zeroed receive BD 0 says that the driver has shut the ring.
//!
//! Not modelled: the 57810's ring.

use bus::mem::PAGE_SIZE;
use bus::uio::{
    BUFFER_BYTES, BUFFERS_BYTES, FromHelper, RING_BYTES, RX_BUFFERS, STATUS_BYTES, UioMaps, Value,
};
use hsi::bcm5709::ctx;
use hsi::bcm5709::l2::{
    L2_FHDR_ERRORS_ALIGNMENT, L2_FHDR_ERRORS_BAD_CRC, L2_FHDR_ERRORS_GIANT_FRAME, L2_FHDR_ERRORS_PHY_DECODE,
    L2_FHDR_ERRORS_TCP_XSUM, L2_FHDR_ERRORS_TOO_SHORT, L2_FHDR_ERRORS_UDP_XSUM, L2_FHDR_STATUS_L2_VLAN_TAG,
    L2Fhdr, TX_BD_FLAGS_END, TX_BD_FLAGS_START, TX_BD_FLAGS_VLAN_TAG, TxBd,
};
use hsi::bcm5709::regs::TSCH_TSS_CFG;
use hsi::bcm5709::regs::{EMAC_RX_MODE, EMAC_RX_MODE_KEEP_VLAN_TAG, RPM_SORT_USER2};
use thiserror::Error;

/// Bytes in front of a received frame: its header and two of padding.
const FRONT: usize = size_of::<L2Fhdr>() + 2;
/// Bytes of the FCS that the card counts.
const FCS: usize = 4;
/// Bytes of an Ethernet header.
const HEADER: usize = 14;
/// The shortest frame without its FCS.
const SHORTEST: usize = 60;
/// Bytes of a BD.
const BD: usize = 16;
/// Mailbox of a CID.
const MAILBOX: u32 = 0x1_0000;
/// Bytes of a mailbox.
const MAILBOX_BYTES: u32 = 0x100;
/// Bytes between the status blocks of MSI-X vectors.
const VECTOR_BYTES: usize = 0x80;
/// Sort rule of the helper's addresses: perfect match number 2, broadcasts and all multicasts.
const SORT: u32 = 4 | 1 << 16 | 1 << 17;
/// The rule counts.
const SORT_ENA: u32 = 1 << 31;
/// Any of these, and the frame is not used.
const ERRORS: u32 = L2_FHDR_ERRORS_BAD_CRC
    | L2_FHDR_ERRORS_PHY_DECODE
    | L2_FHDR_ERRORS_ALIGNMENT
    | L2_FHDR_ERRORS_TOO_SHORT
    | L2_FHDR_ERRORS_GIANT_FRAME
    | L2_FHDR_ERRORS_TCP_XSUM
    | L2_FHDR_ERRORS_UDP_XSUM;

/// Bytes of the largest frame that can be sent.
pub const LARGEST_TX: usize = BUFFER_BYTES;
/// Bytes of the largest frame that can be received, without FCS.
pub const LARGEST_RX: usize = BUFFER_BYTES - FRONT;

/// Why what the driver handed out is no ring.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the driver's {what} has {bytes} bytes, {needed} are needed")]
pub struct BadMaps {
    /// Which map.
    pub what: &'static str,
    /// Its size.
    pub bytes: usize,
    /// The size that it must have.
    pub needed: usize,
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotSent {
    /// A frame is in flight; try again after the next interrupt.
    #[error("a frame is in flight")]
    Busy,
    /// The driver has shut the ring.
    #[error("the ring is shut")]
    Shut,
    /// No Ethernet frame, or longer than the buffer.
    #[error("the frame does not fit the buffer")]
    Size,
}

/// What happened at the ring since the helper started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Interrupts noticed.
    pub interrupts: u64,
    /// Interrupts that passed unnoticed between two looks.
    pub missed: u64,
    /// Frames received and used.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames dropped because the card found an error in them.
    pub rx_errors: u64,
    /// Frames dropped because their length is none.
    pub rx_length: u64,
    /// Frames dropped because the buffer is too small.
    pub rx_oversize: u64,
    /// Consumers that promised more than was posted.
    pub bad_index: u64,
    /// Frames not sent because they do not fit the buffer.
    pub tx_oversize: u64,
    /// Frames not sent because the ring was shut.
    pub tx_shut: u64,
}

/// One open ring.
pub struct Ring {
    maps: UioMaps,
    /// Where in the status block the consumers stand: receive, transmit.
    consumers: (usize, usize),
    tx_cid: u32,
    keep_tag: bool,
    seen: u32,
    tx_used: bool,
    tx_producer: u16,
    tx_sequence: u32,
    rx_consumer: u16,
    rx_producer: u16,
    rx_sequence: u32,
    rx_published: u16,
}

impl Ring {
    /// Takes over what an open brought, and has the driver post the receive buffers and let frames in.
    ///
    /// # Errors
    /// [`BadMaps`]: a map is smaller than the ring needs; nothing was touched.
    pub fn start(maps: UioMaps, out: &mut impl FnMut(FromHelper)) -> Result<Self, BadMaps> {
        let sizes = [
            ("status block", maps.status.len(), STATUS_BYTES),
            ("ring", maps.ring.len(), RING_BYTES),
            ("buffer memory", maps.buffers.len(), BUFFERS_BYTES),
        ];
        for (what, bytes, needed) in sizes {
            if bytes < needed {
                return Err(BadMaps { what, bytes, needed });
            }
        }
        let register =
            |at: u32| maps.registers.iter().find(|(offset, _)| *offset == at).map_or(0, |&(_, value)| value);
        let tss = register(TSCH_TSS_CFG);
        let vector = (tss >> 24 & 0xf) as usize;
        // Receive and transmit number 2 of the plain block stand in the upper halves of their words.
        let (consumers, tx_cid) = match vector {
            0 => ((0x16, 0x0e), ctx::UIO_TX_CID),
            v if (v + 1) * VECTOR_BYTES > maps.status.len() => ((0x16, 0x0e), ctx::UIO_TX_CID),
            v => ((v * VECTOR_BYTES, v * VECTOR_BYTES + 2), ((tss >> 10 & 0x7ff) << 3) + v as u32 - 1),
        };
        let mut ring = Self {
            consumers,
            tx_cid,
            keep_tag: register(EMAC_RX_MODE) & EMAC_RX_MODE_KEEP_VLAN_TAG != 0,
            seen: maps.events.get(),
            tx_used: false,
            tx_producer: 0,
            tx_sequence: 0,
            rx_consumer: 0,
            rx_producer: RX_BUFFERS as u16,
            rx_sequence: (RX_BUFFERS * BUFFER_BYTES) as u32,
            rx_published: 0,
            maps,
        };
        for value in [0, SORT, SORT | SORT_ENA] {
            out(ring.write(RPM_SORT_USER2, Value::U32(value)));
        }
        ring.publish(out);
        Ok(ring)
    }

    /// Which open this is.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.maps.generation
    }

    /// Counts the interrupts since the last look.
    pub fn interrupts(&mut self, counters: &mut RingCounters) {
        let now = self.maps.events.get();
        let new = now.wrapping_sub(self.seen);
        self.seen = now;
        if new != 0 {
            counters.interrupts += 1;
            counters.missed += u64::from(new - 1);
        }
    }

    /// Whether the driver has shut the ring: receive BD 0 has no address.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.maps.ring.load32(PAGE_SIZE) == 0 && self.maps.ring.load32(PAGE_SIZE + 4) == 0
    }

    /// Whether a frame is in flight.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        // Before the first frame the block may still show the consumer of an earlier ring.
        self.tx_used && fixed(self.maps.status.load16(self.consumers.1)) != self.tx_producer
    }

    /// Sends one frame, with a VLAN tag if `tci` is one.
    ///
    /// # Errors
    /// [`NotSent`] says why not; only [`NotSent::Busy`] is worth another try.
    pub fn send(
        &mut self,
        frame: &[u8],
        tci: Option<u16>,
        counters: &mut RingCounters,
        out: &mut impl FnMut(FromHelper),
    ) -> Result<(), NotSent> {
        if frame.len() < HEADER || frame.len() > LARGEST_TX {
            counters.tx_oversize += 1;
            return Err(NotSent::Size);
        }
        if self.is_shut() {
            counters.tx_shut += 1;
            return Err(NotSent::Shut);
        }
        if self.is_busy() {
            return Err(NotSent::Busy);
        }
        let mut short = [0; SHORTEST];
        let bytes = if frame.len() < SHORTEST {
            short[..frame.len()].copy_from_slice(frame);
            &short[..]
        } else {
            frame
        };
        self.maps.buffers.write(0, bytes);
        let mut bd = [0; BD];
        let at = usize::from(self.tx_producer & 0xff) * BD;
        self.maps.ring.read(at, &mut bd);
        let mut bd = TxBd::from_bytes(bd);
        let tag = if tci.is_some() { TX_BD_FLAGS_VLAN_TAG } else { 0 };
        bd.set_mss_nbytes(0, bytes.len() as u16);
        bd.set_vlan_tag_flags(tci.unwrap_or(0), (TX_BD_FLAGS_START | TX_BD_FLAGS_END | tag) as u16);
        self.maps.ring.write(at, bd.bytes());
        self.tx_used = true;
        self.tx_producer = next(self.tx_producer);
        self.tx_sequence = self.tx_sequence.wrapping_add(bytes.len() as u32);
        let mailbox = MAILBOX + self.tx_cid * MAILBOX_BYTES;
        out(self.write(mailbox + ctx::BNX2_L2CTX_TX_HOST_BIDX, Value::U16(self.tx_producer)));
        out(self.write(mailbox + ctx::BNX2_L2CTX_TX_HOST_BSEQ, Value::U32(self.tx_sequence)));
        counters.tx_packets += 1;
        counters.tx_bytes += frame.len() as u64;
        Ok(())
    }

    /// Takes the next frame into `frame` and returns its VLAN tag, 0 without one. Frames of no use are
    /// counted and skipped. [`Self::publish`] gives the buffers back.
    pub fn receive(&mut self, frame: &mut Vec<u8>, counters: &mut RingCounters) -> Option<u16> {
        for _ in 0..RX_BUFFERS {
            let consumer = fixed(self.maps.status.load16(self.consumers.0));
            if consumer == self.rx_consumer {
                return None;
            }
            if consumer.wrapping_sub(self.rx_consumer) > self.rx_producer.wrapping_sub(self.rx_consumer) {
                counters.bad_index += 1;
                return None;
            }
            let slot = usize::from(self.rx_consumer & 0xff);
            let outcome = self.take(slot, frame, counters);
            self.rx_consumer = next(self.rx_consumer);
            self.rx_producer = next(self.rx_producer);
            self.rx_sequence = self.rx_sequence.wrapping_add(BUFFER_BYTES as u32);
            if let Some(tci) = outcome {
                counters.rx_packets += 1;
                counters.rx_bytes += frame.len() as u64;
                return Some(tci);
            }
        }
        None
    }

    /// Posts the receive buffers that were used up since the last call.
    pub fn publish(&mut self, out: &mut impl FnMut(FromHelper)) {
        if self.rx_published == self.rx_producer {
            return;
        }
        self.rx_published = self.rx_producer;
        let mailbox = MAILBOX + ctx::UIO_RX_CID * MAILBOX_BYTES;
        out(self.write(mailbox + ctx::BNX2_L2CTX_HOST_BDIDX, Value::U16(self.rx_producer)));
        out(self.write(mailbox + ctx::BNX2_L2CTX_HOST_BSEQ, Value::U32(self.rx_sequence)));
    }

    fn take(&self, slot: usize, frame: &mut Vec<u8>, counters: &mut RingCounters) -> Option<u16> {
        let at = (1 + slot % RX_BUFFERS) * BUFFER_BYTES;
        let mut header = [0; size_of::<L2Fhdr>()];
        self.maps.buffers.read(at, &mut header);
        let header = L2Fhdr::from_bytes(header);
        let status = header.l2_fhdr_status.get();
        let length = usize::from(header.l2_fhdr_pkt_len.get());
        if status & ERRORS != 0 {
            counters.rx_errors += 1;
            return None;
        }
        if length < HEADER + FCS {
            counters.rx_length += 1;
            return None;
        }
        let length = length - FCS;
        if length > LARGEST_RX {
            counters.rx_oversize += 1;
            return None;
        }
        frame.resize(length, 0);
        self.maps.buffers.read(at + FRONT, frame);
        if status & L2_FHDR_STATUS_L2_VLAN_TAG == 0 {
            return Some(0);
        }
        if self.keep_tag && length >= HEADER + 4 {
            frame.copy_within(16.., 12);
            frame.truncate(length - 4);
        }
        Some(header.l2_fhdr_vlan_tag.get())
    }

    fn write(&self, at: u32, value: Value) -> FromHelper {
        FromHelper::Write { generation: self.maps.generation, at, value }
    }
}

/// The index after `index`: the last BD of a page is a link.
fn next(index: u16) -> u16 {
    index.wrapping_add(if index & 0xff == 254 { 2 } else { 1 })
}

/// A consumer that stands at the link is past it.
fn fixed(index: u16) -> u16 {
    if index & 0xff == 0xff { index.wrapping_add(1) } else { index }
}
