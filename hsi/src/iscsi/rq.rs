//! Receive queue of an offloaded connection: 256-byte buffers for sense data and the payload of unsolicited
//! PDUs, chip to host (BNX2I-CNIC 4.5, 5.7).
//!
//! Buffers are consumed in ring order; a SCSI response takes one if it carries a data segment, an unsolicited
//! PDU always.

use crate::facts::wire;

wire! {
    /// One RQ buffer.
    pub struct Rqe = "rqe" [256] {
        /// The bytes.
        pub rqe_byte: [u8; 256],
    }
}

/// RQ producer index: count in bits 14..0, phase in bit 15 (BNX2I-CNIC 4.5).
///
/// The rule is the driver's, odd as it is: the count runs up to and including the ring size, and the phase
/// toggles when it wraps. As a position it is `count + (phase ? size : 0)` modulo twice the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RqProducer(pub u16);

impl RqProducer {
    /// Phase bit.
    pub const PHASE: u16 = 0x8000;
    /// A full ring from slot 0: what the hardware assumes at the start.
    pub const INITIAL: Self = Self(Self::PHASE);

    /// The index after `count` more buffers were given to a ring of `size`; a size of 0 leaves it as it is.
    pub const fn advance(self, count: u16, size: u16) -> Self {
        if size == 0 {
            return self;
        }
        let (index, phase) = ((self.0 & !Self::PHASE) as u32 + count as u32, self.0 & Self::PHASE);
        if index > size as u32 {
            Self((index % size as u32) as u16 | phase ^ Self::PHASE)
        } else {
            Self(index as u16 | phase)
        }
    }

    /// Position modulo twice the ring size.
    pub const fn position(self, size: u16) -> u16 {
        if size == 0 {
            return 0;
        }
        let lap = if self.0 & Self::PHASE != 0 { size as u32 } else { 0 };
        (((self.0 & !Self::PHASE) as u32 + lap) % (2 * size as u32)) as u16
    }

    /// Buffers given since `earlier`, for a ring of `size`.
    pub const fn since(self, earlier: Self, size: u16) -> u16 {
        if size == 0 {
            return 0;
        }
        let lap = 2 * size as u32;
        ((self.position(size) as u32 + lap - earlier.position(size) as u32) % lap) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BNX2I-CNIC B.6.
    #[test]
    fn producer_of_16_buffers() {
        let mut index = RqProducer::INITIAL;
        for given in 1..=34 {
            let before = index;
            index = index.advance(1, 16);
            assert_eq!(index.since(before, 16), 1, "after {given}");
            match given {
                1 | 33 => assert_eq!(index.0, 0x8001),
                16 => assert_eq!(index.0, 0x8010),
                17 => assert_eq!(index.0, 0x0001),
                32 => assert_eq!(index.0, 0x0010),
                34 => assert_eq!(index.0, 0x8002),
                _ => {}
            }
        }
    }

    #[test]
    fn batches_count_like_single_buffers() {
        assert_eq!(RqProducer::INITIAL.advance(16, 16).since(RqProducer::INITIAL, 16), 16);
        assert_eq!(RqProducer(0x8010).advance(3, 16), RqProducer(0x0003));
        assert_eq!(RqProducer(0xffff).advance(u16::MAX, 0), RqProducer(0xffff));
    }
}
