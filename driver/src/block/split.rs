//! What a request must look like, and where it is cut into commands.

use thiserror::Error;

use crate::user::{Extent, MAX_EXTENTS};

/// Most data of one command: 127 sectors of 512 bytes (BNX2I-CNIC 5.3). It also keeps every BD below its 65
/// 535 bytes.
pub const MAX_COMMAND_BYTES: u32 = 65_024;
/// Buffer descriptors per command (HSI: `ISCSI_MAX_BDS_PER_CMD`).
pub const MAX_BDS: usize = 32;
/// Most data of one request.
pub const MAX_REQUEST_BYTES: u64 = 16 << 20;

/// What the queue has to know of a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes per logical block; not zero.
    pub block_size: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Takes no writes.
    pub read_only: bool,
    /// Longest transfer that the logical unit takes, in blocks; 0 for no limit.
    pub max_transfer: u32,
}

impl Geometry {
    /// Most bytes of one command: a multiple of the block size; 0 when not even one block fits.
    #[must_use]
    pub const fn command_bytes(&self) -> u32 {
        let card = MAX_COMMAND_BYTES / self.block_size;
        let blocks =
            if self.max_transfer != 0 && self.max_transfer < card { self.max_transfer } else { card };
        blocks * self.block_size
    }
}

/// Why a request was not accepted. There is no ticket and nothing will happen. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The range does not lie on the medium.
    #[error("blocks {lba}+{blocks} leave a disk of {capacity} blocks: use a smaller offset or size")]
    OutOfRange {
        /// First block.
        lba: u64,
        /// Number of blocks.
        blocks: u64,
        /// Blocks of the disk.
        capacity: u64,
    },
    /// The data is no multiple of the block size.
    #[error("{bytes} bytes are no multiple of the {block_size}-byte block: align the request")]
    Misaligned {
        /// Bytes of data.
        bytes: u64,
        /// Bytes per logical block.
        block_size: u32,
    },
    /// Longer than a request, or for a single SCSI command longer than a command, may be.
    #[error("{bytes} bytes of data are over the limit of {limit}: split the request")]
    TooLong {
        /// Bytes of data.
        bytes: u64,
        /// Limit in bytes.
        limit: u64,
    },
    /// More extents than a request may have.
    #[error("{0} extents are over the limit of {MAX_EXTENTS}: use fewer, larger ones")]
    TooManyExtents(usize),
    /// A logical block, or a single SCSI command, lies in more pieces than a BD list holds.
    #[error("the data is scattered over more than {MAX_BDS} extents per command: use fewer, larger ones")]
    TooScattered,
    /// The logical unit takes no writes.
    #[error("the logical unit is write protected: lift the protection on the target, or only read")]
    WriteProtected,
    /// As many requests are queued, or completed and not reaped, as may be.
    #[error("{limit} requests are queued already: reap completions first")]
    QueueFull {
        /// Requests that the queue holds.
        limit: usize,
    },
}

/// A position in the extent list of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    extent: usize,
    within: usize,
}

/// A command's share of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) from: Cursor,
    pub(super) bytes: u32,
}

/// Cuts the next share off at `from`: at most `limit` bytes and [`MAX_BDS`] extents, a multiple of `block`
/// (of 1 for a single SCSI command). Its length is 0 when [`MAX_BDS`] extents hold less than a block, or
/// nothing is left.
pub(super) fn cut(extents: &[Extent], from: Cursor, limit: u32, block: u32) -> (Share, Cursor) {
    // One extent holds it, as most requests have only one: nothing to walk.
    if let Some(e) = extents.get(from.extent) {
        let left = e.len - from.within;
        if left > limit as usize || from.extent + 1 == extents.len() {
            let bytes = left.min(limit as usize) as u32;
            let share = Share { from, bytes: bytes - bytes % block };
            let within = from.within + share.bytes as usize;
            let next = if within < e.len {
                Cursor { extent: from.extent, within }
            } else {
                Cursor { extent: from.extent + 1, within: 0 }
            };
            return (share, next);
        }
    }
    let (mut bytes, mut bds) = (0, 0);
    for piece in pieces(extents, Share { from, bytes: limit }) {
        if bds == MAX_BDS {
            break;
        }
        bytes += piece.len as u32;
        bds += 1;
    }
    let share = Share { from, bytes: bytes - bytes % block };
    (share, advance(extents, from, share.bytes))
}

fn advance(extents: &[Extent], from: Cursor, bytes: u32) -> Cursor {
    let mut left = bytes as usize;
    let Cursor { mut extent, mut within } = from;
    while let Some(e) = extents.get(extent) {
        if within + left < e.len {
            within += left;
            break;
        }
        left -= e.len - within;
        (extent, within) = (extent + 1, 0);
    }
    Cursor { extent, within }
}

/// The pieces of a share, in order, none of them empty: one BD each.
pub(super) fn pieces(extents: &[Extent], share: Share) -> impl Iterator<Item = Extent> + '_ {
    let (mut at, mut left) = (share.from, share.bytes as usize);
    core::iter::from_fn(move || {
        while left > 0 {
            let e = extents.get(at.extent)?;
            let len = (e.len - at.within).min(left);
            let piece = Extent { buf: e.buf, offset: e.offset + at.within, len };
            at = Cursor { extent: at.extent + 1, within: 0 };
            left -= len;
            if len > 0 {
                return Some(piece);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserBuf;

    const BUF: UserBuf = UserBuf { index: 0, generation: 0, len: u32::MAX };

    fn extents(lens: &[usize]) -> Vec<Extent> {
        let mut offset = 0;
        lens.iter()
            .map(|&len| {
                let e = Extent { buf: BUF, offset, len };
                offset += len;
                e
            })
            .collect()
    }

    /// All shares, with the BD count of each; checks that they cover the data without gap or overlap.
    fn shares(lens: &[usize], limit: u32, block: u32) -> Vec<(u32, usize)> {
        let extents = extents(lens);
        let (mut at, mut covered, mut out) = (Cursor::default(), 0, Vec::new());
        loop {
            let (share, next) = cut(&extents, at, limit, block);
            if share.bytes == 0 {
                break;
            }
            let mut bds = 0;
            for piece in pieces(&extents, share) {
                assert_eq!(piece.offset, covered);
                covered += piece.len;
                bds += 1;
            }
            out.push((share.bytes, bds));
            at = next;
        }
        assert_eq!(covered as u32, out.iter().map(|s| s.0).sum::<u32>());
        out
    }

    #[test]
    fn one_extent_is_cut_at_the_limit() {
        assert_eq!(shares(&[1 << 20], 65_024, 512).len(), 17);
        assert_eq!(shares(&[65_024], 65_024, 512), [(65_024, 1)]);
        assert_eq!(shares(&[65_536], 65_024, 512), [(65_024, 1), (512, 1)]);
        assert_eq!(shares(&[], 65_024, 512), []);
    }

    #[test]
    fn the_bd_limit_cuts_at_a_block_boundary() {
        // 33 extents of 1000 bytes: 32 of them hold 32 000 bytes, which is 62 blocks and a rest.
        let cut = shares(&[1000; 64], 65_024, 512);
        assert_eq!(cut[0], (62 * 512, 32));
        assert_eq!(cut.iter().map(|s| s.0).sum::<u32>(), 64_000);
        assert!(cut.iter().all(|s| s.1 <= MAX_BDS));
        // Empty extents cost nothing.
        assert_eq!(shares(&[0, 512, 0, 0, 512, 0], 65_024, 512), [(1024, 2)]);
    }

    #[test]
    fn a_block_in_too_many_pieces_cannot_be_cut() {
        assert_eq!(shares(&[8; 64], 65_024, 512), [], "33 pieces or more hold no block");
        assert_eq!(shares(&[16; 64], 65_024, 512), [(512, 32), (512, 32)]);
    }

    #[test]
    fn geometry_bounds_a_command() {
        let g = |block_size, max_transfer| {
            Geometry { block_size, blocks: 1, read_only: false, max_transfer }.command_bytes()
        };
        assert_eq!((g(512, 0), g(4096, 0), g(512, 8), g(512, 1000)), (65_024, 61_440, 4096, 65_024));
        assert_eq!(g(1 << 17, 0), 0);
    }
}
