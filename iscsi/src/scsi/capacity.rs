//! READ CAPACITY data, both forms (SBC-3 5.15, 5.16), and GET LBA STATUS data (SBC-3 5.4).

use super::{be16, be32, be64};

/// What READ CAPACITY tells about a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes per logical block.
    pub block_size: u32,
    /// Thin or resource provisioned: UNMAP means something (LBPME). Only the 16-byte form says so.
    pub provisioned: bool,
    /// Unmapped blocks read as zeros (LBPRZ). Only the 16-byte form says so.
    pub reads_zeros: bool,
    /// Logical blocks per physical block, as a power of two (LBPPBE). Only the 16-byte form says so.
    pub physical_exponent: u8,
}

impl Capacity {
    /// Appends the 8-byte form. A disk whose last LBA needs more than 32 bits answers FFFFFFFF: ask with READ
    /// CAPACITY(16).
    pub fn encode10(&self, out: &mut Vec<u8>) {
        let last = u32::try_from(self.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
        out.extend_from_slice(&last.to_be_bytes());
        out.extend_from_slice(&self.block_size.to_be_bytes());
    }

    /// Appends the 32-byte form.
    pub fn encode16(&self, out: &mut Vec<u8>) {
        let mut data = [0; 32];
        data[..8].copy_from_slice(&self.blocks.saturating_sub(1).to_be_bytes());
        data[8..12].copy_from_slice(&self.block_size.to_be_bytes());
        data[13] = self.physical_exponent & 0x0F;
        data[14] = if self.provisioned { 0x80 } else { 0 } | if self.reads_zeros { 0x40 } else { 0 };
        out.extend_from_slice(&data);
    }

    /// Reads the 8-byte form: `None` for a short reply, `Some(None)` when the disk is too large for this
    /// form.
    pub fn parse10(data: &[u8]) -> Option<Option<Capacity>> {
        let last = be32(data, 0)?;
        let block_size = be32(data, 4)?;
        Some((last != u32::MAX).then(|| Capacity {
            blocks: u64::from(last) + 1,
            block_size,
            provisioned: false,
            reads_zeros: false,
            physical_exponent: 0,
        }))
    }

    /// Reads the 16-byte form; `None` when fewer than 16 bytes arrived or the count does not fit.
    pub fn parse16(data: &[u8]) -> Option<Capacity> {
        let flags = be16(data, 14)?;
        Some(Capacity {
            blocks: be64(data, 0)?.checked_add(1)?,
            block_size: be32(data, 8)?,
            provisioned: flags & 0x8000 != 0,
            reads_zeros: flags & 0x4000 != 0,
            physical_exponent: data[13] & 0x0F,
        })
    }

    /// Size in bytes; `None` when it does not fit 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        self.blocks.checked_mul(u64::from(self.block_size))
    }
}

/// Blocks in one provisioning state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u32,
    /// Mapped, or deallocated.
    pub mapped: bool,
}

/// Appends GET LBA STATUS data.
pub fn lba_status(extents: &[Extent], out: &mut Vec<u8>) {
    out.extend_from_slice(&(4 + 16 * extents.len() as u32).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    for extent in extents {
        out.extend_from_slice(&extent.lba.to_be_bytes());
        out.extend_from_slice(&extent.blocks.to_be_bytes());
        out.extend_from_slice(&[u8::from(!extent.mapped), 0, 0, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIN: Capacity = Capacity {
        blocks: 0x2_0000_0000,
        block_size: 512,
        provisioned: true,
        reads_zeros: true,
        physical_exponent: 3,
    };

    #[test]
    fn long_form_round_trips() {
        let mut data = Vec::new();
        THIN.encode16(&mut data);
        assert_eq!(data.len(), 32);
        assert_eq!(data[12..16], [0, 3, 0xC0, 0]);
        assert_eq!(Capacity::parse16(&data), Some(THIN));
        assert_eq!(Capacity::parse16(&data[..15]), None);
        assert_eq!(Capacity::parse16(&[0xFF; 32]), None, "2^64 blocks do not fit");
    }

    #[test]
    fn short_form_says_when_it_is_too_short() {
        let mut data = Vec::new();
        THIN.encode10(&mut data);
        assert_eq!(data, [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 2, 0]);
        assert_eq!(Capacity::parse10(&data), Some(None));
        data.clear();
        Capacity { blocks: 100, ..THIN }.encode10(&mut data);
        assert_eq!(Capacity::parse10(&data).flatten().map(|c| (c.blocks, c.block_size)), Some((100, 512)));
        assert_eq!(Capacity::parse10(&data[..7]), None);
    }

    /// SBC-3 tables 41 and 42: provisioning status 0 is mapped, 1 deallocated.
    #[test]
    fn lba_status_layout() {
        let mut data = Vec::new();
        lba_status(
            &[
                Extent { lba: 0x0102_0304_0506_0708, blocks: 0x090A_0B0C, mapped: true },
                Extent { lba: 1, blocks: 2, mapped: false },
            ],
            &mut data,
        );
        assert_eq!(data[..8], [0, 0, 0, 36, 0, 0, 0, 0]);
        assert_eq!(data[8..24], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0]);
        assert_eq!(data[24..], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 0]);
    }
}
