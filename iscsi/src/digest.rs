//! CRC32C digests of RFC 7143 13.1: one over the basic and additional headers, one over the data segment with
//! its padding. The offload engine computes them on both directions, the target on its own; both hand in the
//! bytes in whatever pieces they have. On the wire the digest is the little-endian CRC value.

use crate::pdu::padding;

/// Length of a digest on the wire, in bytes.
pub const DIGEST_LEN: usize = 4;

/// A running CRC32C. Feed the covered bytes in order, in any pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u32);

impl Digest {
    /// A digest over nothing yet.
    pub const fn new() -> Digest {
        Digest(0)
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        // Most data segments have no padding, and the crate goes through all its loops for nothing.
        if bytes.is_empty() {
            return;
        }
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// Adds the zero bytes that pad a data segment of `data_len` bytes to a multiple of four.
    pub fn pad(&mut self, data_len: usize) {
        self.update(&[0; 3][..padding(data_len)]);
    }

    /// The four bytes as they go on the wire.
    pub const fn wire(self) -> [u8; DIGEST_LEN] {
        self.0.to_le_bytes()
    }
}

/// Header digest over the basic header segment and the additional header segments.
pub fn header_digest(bhs: &[u8; 48], ahs: &[u8]) -> [u8; DIGEST_LEN] {
    let mut digest = Digest::new();
    digest.update(bhs);
    digest.update(ahs);
    digest.wire()
}

/// Data digest over `data` and the zero padding that follows it.
pub fn data_digest(data: &[u8]) -> [u8; DIGEST_LEN] {
    let mut digest = Digest::new();
    digest.update(data);
    digest.pad(data.len());
    digest.wire()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn over(bytes: &[u8]) -> [u8; 4] {
        data_digest(bytes)
    }

    #[test]
    fn rfc_check_vectors() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        assert_eq!(over(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(over(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(over(&up), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(over(&down), [0x5c, 0xdb, 0x3f, 0x11]);
        let mut read10 = [0u8; 48];
        for (at, byte) in
            [(0, 0x01), (1, 0xc0), (16, 0x14), (22, 0x04), (27, 0x14), (31, 0x18), (32, 0x28), (40, 0x02)]
        {
            read10[at] = byte;
        }
        assert_eq!(header_digest(&read10, &[]), [0x56, 0x3a, 0x96, 0xd9]);
    }

    #[test]
    fn header_digest_covers_additional_headers() {
        let (bhs, ahs) = ([7; 48], [1, 2, 3, 4]);
        let whole: Vec<u8> = bhs.iter().chain(&ahs).copied().collect();
        assert_eq!(header_digest(&bhs, &ahs), over(&whole));
        assert_ne!(header_digest(&bhs, &ahs), header_digest(&bhs, &[]));
    }

    proptest! {
        #[test]
        fn pieces_and_padding_do_not_matter(data in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let cut = cut.min(data.len());
            let mut pieces = Digest::new();
            pieces.update(&data[..cut]);
            pieces.update(&data[cut..]);
            pieces.pad(data.len());
            let mut padded = data.clone();
            padded.resize(data.len().next_multiple_of(4), 0);
            prop_assert_eq!(pieces.wire(), over(&data));
            prop_assert_eq!(over(&data), over(&padded));
        }
    }
}
