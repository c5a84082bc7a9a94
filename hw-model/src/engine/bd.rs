//! Buffer descriptor lists: where a task's data lies in host memory (BNX2I-CNIC 5.3, A.3).
//!
//! The list is read once, when the task starts, and kept in its context. Data moves by buffer offset; the
//! piece that was used last is tried first, so that data in order costs no search.

use bus::pci::{DevCx, DmaFault, Grant};
use hsi::bcm5709::limits::ISCSI_MAX_BDS_PER_CMD;
use hsi::iscsi::bd::IscsiBd;
use zerocopy::{FromZeros, IntoBytes};

/// Descriptors per list.
pub(super) const MAX_BDS: usize = ISCSI_MAX_BDS_PER_CMD;

/// Why a list was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadList {
    /// It lies outside what the card may read.
    Dma,
    /// Count, flags or lengths are wrong.
    Malformed,
}

/// One piece of a buffer.
#[derive(Clone, Copy, Default)]
struct Piece {
    addr: u64,
    /// Offset of its first byte in the buffer.
    start: u32,
}

/// A buffer in host memory, in pieces.
#[derive(Default)]
pub(super) struct BdList {
    pieces: [Piece; MAX_BDS],
    count: u8,
    /// The piece that was used last.
    last: u8,
    /// Bytes that may be used: what the task needs, not what the list could hold.
    len: u32,
}

impl BdList {
    /// Replaces the list by the `count` descriptors at `addr`, of which `len` bytes are used.
    pub(super) fn load(
        &mut self,
        cx: &mut DevCx<'_>,
        addr: u64,
        count: u8,
        len: u32,
        grant: Grant,
    ) -> Result<(), BadList> {
        self.clear();
        let n = usize::from(count);
        if n == 0 || n > MAX_BDS {
            return Err(BadList::Malformed);
        }
        let mut raw = [IscsiBd::new_zeroed(); MAX_BDS];
        let raw = &mut raw[..n];
        cx.dma_read(addr, raw.as_mut_bytes(), grant).map_err(|_| BadList::Dma)?;
        let mut total = 0;
        for (i, (bd, piece)) in raw.iter().zip(&mut self.pieces).enumerate() {
            let bytes = u32::from(bd.buffer_length.get());
            let in_place = bd.is_first() == (i == 0) && bd.is_last() == (i + 1 == n);
            if bytes == 0 || !in_place || bd.buffer_addr().checked_add(u64::from(bytes)).is_none() {
                return Err(BadList::Malformed);
            }
            *piece = Piece { addr: bd.buffer_addr(), start: total };
            // 32 pieces of 65535 bytes do not overflow.
            total += bytes;
        }
        if total < len {
            return Err(BadList::Malformed);
        }
        (self.count, self.len) = (count, len);
        Ok(())
    }

    /// Forgets the list: nothing of it can be touched any more.
    pub(super) fn clear(&mut self) {
        (self.count, self.last, self.len) = (0, 0, 0);
    }

    /// Bytes that may be used.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Whether the position of a bookmark (descriptor, byte in it) is the buffer offset `at`. The end of one
    /// piece is the start of the next.
    pub(super) fn is_at(&self, index: u8, within: u16, at: u32) -> bool {
        let count = usize::from(self.count);
        self.pieces[..count].get(usize::from(index)).is_some_and(|p| p.start + u32::from(within) == at)
    }

    /// Copies `out.len()` bytes from offset `at` out of the buffer.
    pub(super) fn copy_out(
        &mut self,
        cx: &mut DevCx<'_>,
        at: u32,
        out: &mut [u8],
        grant: Grant,
    ) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < out.len() {
            let (addr, left) = self.seek(at + done as u32)?;
            let n = left.min(out.len() - done);
            cx.dma_read(addr, &mut out[done..done + n], grant)?;
            done += n;
        }
        Ok(())
    }

    /// Copies `bytes` into the buffer at offset `at`.
    pub(super) fn copy_in(
        &mut self,
        cx: &mut DevCx<'_>,
        at: u32,
        bytes: &[u8],
        grant: Grant,
    ) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < bytes.len() {
            let (addr, left) = self.seek(at + done as u32)?;
            let n = left.min(bytes.len() - done);
            cx.dma_write(addr, &bytes[done..done + n], grant)?;
            done += n;
        }
        Ok(())
    }

    /// Bus address of the byte at offset `at`, and the bytes in one piece from there. Offsets were checked
    /// against the task's length; one beyond it is treated like memory that is not there.
    fn seek(&mut self, at: u32) -> Result<(u64, usize), DmaFault> {
        if at >= self.len {
            return Err(DmaFault::Unmapped { addr: u64::from(at), len: 0 });
        }
        let pieces = &self.pieces[..usize::from(self.count)];
        let end = |i: usize| pieces.get(i + 1).map_or(self.len, |p| p.start.min(self.len));
        let mut i = usize::from(self.last);
        if at < pieces[i].start || at >= end(i) {
            i = match pieces.get(i + 1) {
                Some(next) if at >= next.start && at < end(i + 1) => i + 1,
                _ => pieces.partition_point(|p| p.start <= at) - 1,
            };
            self.last = i as u8;
        }
        Ok((pieces[i].addr + u64::from(at - pieces[i].start), (end(i) - at) as usize))
    }
}
