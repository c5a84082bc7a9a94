//! The driver's DMA memory: one anonymous file, mapped once here and once by the card's process.
//!
//! Allocations are whole pages. The search goes on where the last one ended, so that a freed address rests as
//! long as possible before it is used again.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use os::shm::{Mapping, memfd};

use crate::mem::{DmaBuf, PAGE_SIZE, SharedMem};

/// Bus address of the first byte.
pub const POOL_BASE: u64 = 1 << 32;

pub(super) struct Pool {
    pub(super) file: Rc<OwnedFd>,
    mapping: Rc<Mapping>,
    /// All of it, for the card's messages.
    pub(super) memory: Rc<SharedMem>,
    /// Free ranges by offset; no two touch.
    free: BTreeMap<usize, usize>,
    cursor: usize,
    /// Never used from here on, and therefore zero.
    fresh: usize,
    pub(super) buffers: usize,
    pub(super) bytes: usize,
}

impl Pool {
    pub(super) fn new(limit: usize) -> io::Result<Self> {
        let len = limit.max(1).next_multiple_of(PAGE_SIZE);
        let file = memfd("dma-pool", len as u64)?;
        let mapping = Rc::new(Mapping::new(file.as_fd(), 0, len as u64, true)?);
        let memory = SharedMem::window(&mapping, 0, len);
        let free = BTreeMap::from([(0, len)]);
        let file = Rc::new(file);
        Ok(Self { file, mapping, memory, free, cursor: 0, fresh: 0, buffers: 0, bytes: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Zeroed memory, or `None` when no range is long enough.
    pub(super) fn alloc(&mut self, len: usize) -> Option<DmaBuf> {
        let size = len.max(1).checked_next_multiple_of(PAGE_SIZE)?;
        // The rest of the range that the cursor is in, a range behind it, any range.
        let here = self.free.range(..self.cursor).next_back().map(|(a, have)| (*a, *have));
        let rest = here.filter(|(a, have)| a + have >= self.cursor + size).map(|_| self.cursor);
        let fits = |(_, have): &(&usize, &usize)| **have >= size;
        let behind = || self.free.range(self.cursor..).find(fits).map(|(a, _)| *a);
        let any = || self.free.iter().find(fits).map(|(a, _)| *a);
        let at = rest.or_else(behind).or_else(any)?;
        self.take(at, size);
        if at < self.fresh {
            self.memory.fill(at, size, 0);
        }
        self.fresh = self.fresh.max(at + size);
        self.cursor = at + size;
        self.buffers += 1;
        self.bytes += size;
        Some(DmaBuf {
            addr: POOL_BASE + at as u64,
            mem: SharedMem::in_file(&self.mapping, &self.file, at, len),
        })
    }

    /// Takes `size` bytes out of the free range that holds them.
    fn take(&mut self, at: usize, size: usize) {
        if let Some((&start, &have)) = self.free.range(..=at).next_back() {
            self.free.remove(&start);
            if start < at {
                self.free.insert(start, at - start);
            }
            if at + size < start + have {
                self.free.insert(at + size, start + have - at - size);
            }
        }
    }

    pub(super) fn release(&mut self, buf: &DmaBuf) {
        let mut at = (buf.addr - POOL_BASE) as usize;
        let mut size = buf.len().max(1).next_multiple_of(PAGE_SIZE);
        self.buffers -= 1;
        self.bytes -= size;
        if let Some(behind) = self.free.remove(&(at + size)) {
            size += behind;
        }
        if let Some((&before, &len)) = self.free.range(..at).next_back()
            && before + len == at
        {
            self.free.remove(&before);
            (at, size) = (before, len + size);
        }
        self.free.insert(at, size);
    }

    /// Where an access of the card is, if it is inside.
    pub(super) fn offset(&self, addr: u64, len: u64) -> Option<usize> {
        let at = addr.checked_sub(POOL_BASE)?;
        let end = at.checked_add(len)?;
        if end <= self.len() as u64 { usize::try_from(at).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_is_zeroed_and_a_freed_address_rests() {
        let mut p = Pool::new(4 * PAGE_SIZE).unwrap();
        let a = p.alloc(10).unwrap();
        a.write(0, &[7; 10]);
        let first = a.addr();
        p.release(&a);
        let others: Vec<_> = (0..3).map(|_| p.alloc(PAGE_SIZE).unwrap()).collect();
        assert!(others.iter().all(|b| b.addr() != first));
        let again = p.alloc(10).unwrap();
        let mut bytes = [1; 10];
        again.read(0, &mut bytes);
        assert_eq!((again.addr(), bytes), (first, [0; 10]));
        assert!(p.alloc(1).is_none(), "the limit");
        assert!(p.alloc(usize::MAX).is_none());
        assert_eq!(
            (p.offset(first, 4 * PAGE_SIZE as u64), p.offset(first, 1 << 40), p.offset(0, 1)),
            (Some(0), None, None)
        );
    }

    proptest! {
        #[test]
        fn no_two_buffers_overlap_and_everything_comes_back(ops in proptest::collection::vec((0..5usize, 1..20_000usize), 1..60)) {
            let mut p = Pool::new(64 << 10).unwrap();
            let mut held: Vec<DmaBuf> = Vec::new();
            for (op, len) in ops {
                if op < 3 {
                    if let Some(b) = p.alloc(len) {
                        let end = |b: &DmaBuf| b.addr() + b.len() as u64;
                        prop_assert!(held.iter().all(|h| end(h) <= b.addr() || end(&b) <= h.addr()));
                        prop_assert!(p.offset(b.addr(), len as u64).is_some());
                        held.push(b);
                    }
                } else if !held.is_empty() {
                    let b = held.swap_remove(len % held.len());
                    p.release(&b);
                }
            }
            for b in held {
                p.release(&b);
            }
            prop_assert_eq!((p.buffers, p.bytes), (0, 0));
            prop_assert_eq!(p.free, BTreeMap::from([(0, 64 << 10)]));
        }
    }
}
