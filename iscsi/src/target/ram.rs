//! Blocks in memory. A map of pages says which of them were written, so that zeroing touches no page that is
//! zero, and gives whole pages back.

use super::backend::{Backend, Extent, first_difference};
use std::io;
use std::ops::Range;

/// Bytes per page of the map.
const PAGE: usize = 4096;

/// The memory of a [`RamBackend`].
pub trait Memory: Send {
    /// All of it. It begins as zeros.
    fn bytes(&mut self) -> &mut [u8];
    /// Makes a range of whole 4096-byte pages (the last of all may be shorter) read as zeros; what can give
    /// memory back to the system does so.
    fn discard(&mut self, range: Range<usize>) {
        self.bytes()[range].fill(0);
    }
}

impl Memory for Vec<u8> {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }
}

/// Blocks in memory. They belong to the target, so they outlive every session.
#[derive(Debug)]
pub struct RamBackend<M = Vec<u8>> {
    memory: M,
    size: usize,
    /// A bit for each page: it was written since it was last zero.
    written: Vec<u64>,
    read_only: bool,
}

impl RamBackend {
    /// `size` bytes of zeros.
    pub fn new(size: usize) -> RamBackend {
        RamBackend::on(vec![0; size])
    }
}

impl<M: Memory> RamBackend<M> {
    /// All of `memory`, which is zero.
    pub fn on(mut memory: M) -> RamBackend<M> {
        let size = memory.bytes().len();
        let written = vec![0; size.div_ceil(PAGE).div_ceil(64)];
        RamBackend { memory, size, written, read_only: false }
    }

    /// The same, refusing writes.
    pub fn read_only(self) -> RamBackend<M> {
        RamBackend { read_only: true, ..self }
    }

    /// A range outside is the disk's check that failed, so this is a bug, answered as an I/O error.
    fn range(&self, at: u64, len: u64) -> io::Result<Range<usize>> {
        let end = at.checked_add(len).filter(|end| *end <= self.size as u64);
        end.map(|end| at as usize..end as usize).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn is_written(&self, page: usize) -> bool {
        self.written[page / 64] & 1 << (page % 64) != 0
    }
}

impl<M: Memory> Backend for RamBackend<M> {
    fn size(&self) -> u64 {
        self.size as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let range = self.range(at, len as u64)?;
        out.extend_from_slice(&self.memory.bytes()[range]);
        Ok(())
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        let range = self.range(at, data.len() as u64)?;
        for page in range.start / PAGE..range.end.div_ceil(PAGE) {
            self.written[page / 64] |= 1 << (page % 64);
        }
        self.memory.bytes()[range].copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()> {
        let range = self.range(at, len)?;
        let mut at = range.start;
        // Whole written pages that lie side by side go back together.
        let mut run = at..at;
        while at < range.end {
            let page = at / PAGE;
            let end = ((page + 1) * PAGE).min(range.end);
            let whole = at.is_multiple_of(PAGE) && (end.is_multiple_of(PAGE) || end == self.size);
            let written = self.is_written(page);
            if written && whole {
                self.written[page / 64] &= !(1 << (page % 64));
                run = if run.is_empty() { at..end } else { run.start..end };
            } else {
                if !run.is_empty() {
                    self.memory.discard(std::mem::replace(&mut run, 0..0));
                }
                if written {
                    self.memory.bytes()[at..end].fill(0);
                }
            }
            at = end;
        }
        if !run.is_empty() {
            self.memory.discard(run);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn extent_at(&mut self, at: u64, len: u64) -> io::Result<Extent> {
        let range = self.range(at, len.max(1))?;
        let first = range.start / PAGE;
        let allocated = self.is_written(first);
        let other = (first + 1..range.end.div_ceil(PAGE)).find(|page| self.is_written(*page) != allocated);
        let end = other.map_or(range.end, |page| page * PAGE);
        Ok(Extent { len: (end - range.start) as u64, allocated })
    }

    fn compare_at(&mut self, at: u64, data: &[u8], _: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let range = self.range(at, data.len() as u64)?;
        Ok(first_difference(&self.memory.bytes()[range], data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that remembers what was given back, and finds writes to pages that need none.
    struct Counted {
        bytes: Vec<u8>,
        discarded: Vec<Range<usize>>,
    }

    impl Memory for Counted {
        fn bytes(&mut self) -> &mut [u8] {
            &mut self.bytes
        }
        fn discard(&mut self, range: Range<usize>) {
            self.bytes[range.clone()].fill(0);
            self.discarded.push(range);
        }
    }

    #[test]
    fn bytes_come_back_as_written() {
        let mut ram = RamBackend::new(4096);
        let mut out = b"kept".to_vec();
        ram.write_at(510, &[1, 2, 3, 4]).unwrap();
        ram.read_at(509, 6, &mut out).unwrap();
        assert_eq!(out, [b"kept", &[0, 1, 2, 3, 4, 0][..]].concat());
        assert_eq!(ram.compare_at(510, &[1, 2, 9, 4], &mut Vec::new()).unwrap(), Some(2));
        assert_eq!(ram.compare_at(510, &[1, 2, 3, 4], &mut Vec::new()).unwrap(), None);
        ram.zero_at(511, 2).unwrap();
        assert_eq!(ram.compare_at(510, &[1, 0, 0, 4], &mut Vec::new()).unwrap(), None);
        out.clear();
        assert!(ram.read_at(4095, 2, &mut out).is_err());
        assert!(out.is_empty(), "a failed read leaves no bytes");
        assert!(ram.write_at(4095, &[0; 2]).is_err());
        assert!(ram.zero_at(u64::MAX, 2).is_err());
    }

    #[test]
    fn zeroing_gives_back_whole_written_pages_and_touches_no_other() {
        let bytes = vec![0; 10 * PAGE + 512];
        let mut ram = RamBackend::on(Counted { bytes, discarded: Vec::new() });
        let size = ram.size();
        ram.zero_at(0, size).unwrap();
        assert!(ram.memory.discarded.is_empty(), "nothing was written");
        ram.write_at(2 * PAGE as u64 - 1, &[7; 2 * PAGE]).unwrap();
        ram.write_at(10 * PAGE as u64, &[7; 512]).unwrap();
        // Pages 1 to 3 are written; of page 3 only a part is zeroed.
        ram.zero_at(512, 3 * PAGE as u64 - 512 + 1).unwrap();
        assert_eq!(ram.memory.discarded.as_slice(), std::slice::from_ref(&(PAGE..3 * PAGE)));
        assert_eq!(ram.extent_at(0, size).unwrap(), Extent { len: 3 * PAGE as u64, allocated: false });
        assert_eq!(ram.extent_at(3 * PAGE as u64, 9).unwrap(), Extent { len: 9, allocated: true });
        assert!(ram.extent_at(3 * PAGE as u64 - 1, 1).unwrap().len == 1);
        let mut out = Vec::new();
        ram.read_at(0, 4 * PAGE, &mut out).unwrap();
        assert!(
            out[..3 * PAGE + 1].iter().all(|b| *b == 0)
                && out[3 * PAGE + 1..].iter().all(|b| *b == 7 || *b == 0)
        );
        // The last page is shorter than a page, and whole all the same.
        ram.zero_at(10 * PAGE as u64, 512).unwrap();
        assert_eq!(ram.memory.discarded.last(), Some(&(10 * PAGE..10 * PAGE + 512)));
        assert!(!ram.extent_at(10 * PAGE as u64, 512).unwrap().allocated);
    }
}
