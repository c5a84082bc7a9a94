//! Stamped blocks: content that says which block it is, who wrote it, and when.
//!
//! A stamp fills a whole logical block, so that a misplaced, stale or torn block shows. Layout
//! (little-endian): 0 magic, 8 LBA, 16 generation, 20 writer, 24 run; then words mixed from these up to the
//! end of the block.

/// Bytes of a stamp's header.
pub const HEADER: usize = 32;
const MAGIC: u64 = u64::from_le_bytes(*b"CNICSTMP");

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The logical block that it was written to.
    pub lba: u64,
    /// Counts the writes of this writer; 0 is never used.
    pub generation: u32,
    /// Who wrote it.
    pub writer: u32,
    /// Tells apart the runs that used this disk.
    pub run: u64,
}

impl Stamp {
    fn word(self, index: usize) -> u64 {
        match index {
            0 => MAGIC,
            1 => self.lba,
            2 => u64::from(self.writer) << 32 | u64::from(self.generation),
            3 => self.run,
            i => {
                let x = (self.lba ^ self.run.rotate_left(32))
                    .wrapping_add(u64::from(self.generation) << 32 | u64::from(self.writer))
                    .wrapping_add(i as u64)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15);
                x ^ (x >> 29)
            }
        }
    }

    /// Fills a block. Its length is a multiple of 8, at least [`HEADER`].
    pub fn fill(self, block: &mut [u8]) {
        for (i, w) in block.chunks_exact_mut(8).enumerate() {
            w.copy_from_slice(&self.word(i).to_le_bytes());
        }
    }

    /// Reads the header of a block, if it has one.
    #[must_use]
    pub fn of(block: &[u8]) -> Option<Self> {
        let word = |i: usize| Some(u64::from_le_bytes(block.get(8 * i..8 * i + 8)?.try_into().ok()?));
        (word(0)? == MAGIC).then_some(())?;
        let who = word(2)?;
        Some(Self { lba: word(1)?, generation: who as u32, writer: (who >> 32) as u32, run: word(3)? })
    }

    /// The offset of the first byte of `block` that is not this stamp's.
    #[must_use]
    pub fn first_difference(self, block: &[u8]) -> Option<usize> {
        block.chunks_exact(8).enumerate().find_map(|(i, w)| {
            let good = self.word(i).to_le_bytes();
            good.iter().zip(w).position(|(a, b)| a != b).map(|at| 8 * i + at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_recognised_and_every_byte_counts() {
        let s = Stamp { lba: 77, generation: 5, writer: 3, run: 9 };
        let mut block = [0; 512];
        assert_eq!(Stamp::of(&block), None);
        s.fill(&mut block);
        assert_eq!((Stamp::of(&block), s.first_difference(&block)), (Some(s), None));
        for at in 0..512 {
            block[at] ^= 0x40;
            assert_eq!(s.first_difference(&block), Some(at));
            block[at] ^= 0x40;
        }
    }
}
