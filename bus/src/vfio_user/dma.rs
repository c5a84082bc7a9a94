//! The client's memory as the card sees it: maps by bus address.
//!
//! QEMU maps and unmaps guest memory in pieces while the firmware runs, so nothing may hold on to a pointer:
//! every access is looked up. A lookup is one compare when its page was looked up since the last change (the
//! cache is tagged with the generation of the table). Maps never overlap, and an unmap names exactly one of
//! them, or all. An access may run over several maps that touch; it happens in pieces, and only if all of
//! them permit it. A map without a descriptor is *remote*: its bytes travel in messages.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::mem::SharedMem;
use crate::pci::DmaFault;

use super::errno::Errno;
use super::version::PAGE;

const LINES: usize = 256;
const PAGE_BITS: u32 = 52;
/// Generations that fit above a page number; then the cache is wiped.
const GENERATIONS: u64 = 1 << (64 - PAGE_BITS);

struct Map {
    start: u64,
    /// First address behind it.
    end: u64,
    readable: bool,
    writable: bool,
    memory: Option<Rc<SharedMem>>,
}

#[derive(Clone, Copy)]
struct Line {
    /// Generation and page; never that of an empty line.
    tag: u64,
    slot: u32,
}

/// Bytes of files that a client may have mapped into our address space (of 128 TiB).
pub(super) const MAPPED_BYTES: u64 = 8 << 40;

/// Where the first bytes of an access are.
pub(super) enum Piece<'a> {
    /// In memory that we share, at this offset.
    Shared(&'a SharedMem, usize),
    /// With the client.
    Remote,
}

/// All maps of a client.
pub(super) struct DmaTable {
    limit: usize,
    slots: Vec<Option<Map>>,
    free: Vec<u32>,
    by_start: BTreeMap<u64, u32>,
    generation: u64,
    cache: [Line; LINES],
}

impl DmaTable {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            slots: Vec::new(),
            free: Vec::new(),
            by_start: BTreeMap::new(),
            generation: 1,
            cache: [Line { tag: 0, slot: 0 }; LINES],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_start.len()
    }

    fn changed(&mut self) {
        self.generation += 1;
        if self.generation == GENERATIONS {
            self.generation = 1;
            self.cache = [Line { tag: 0, slot: 0 }; LINES];
        }
    }

    /// Whether a map may be added, before its memory is mapped.
    pub(super) fn check(&self, addr: u64, size: u64) -> Result<(), Errno> {
        let end = addr.checked_add(size).ok_or(Errno::EINVAL)?;
        if size == 0 || !addr.is_multiple_of(PAGE) || !size.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let below =
            self.by_start.range(..end).next_back().and_then(|(_, i)| self.slots[*i as usize].as_ref());
        if below.is_some_and(|m| m.end > addr) {
            return Err(Errno::EEXIST);
        }
        if self.len() >= self.limit { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Whether a map's file has been shrunk by the client, or its file system is full: the bytes are gone.
    pub(super) fn has_lost(&self) -> bool {
        self.slots.iter().flatten().filter_map(|m| m.memory.as_ref()).any(|m| m.is_lost())
    }

    /// Whether so many more bytes of files may be mapped.
    pub(super) fn has_room(&self, size: u64) -> bool {
        let mapped = self.slots.iter().flatten().filter(|m| m.memory.is_some()).map(|m| m.end - m.start);
        mapped.fold(size, u64::saturating_add) <= MAPPED_BYTES
    }

    /// Adds a map. `memory` has `size` bytes.
    pub(super) fn map(
        &mut self,
        addr: u64,
        size: u64,
        (readable, writable): (bool, bool),
        memory: Option<Rc<SharedMem>>,
    ) -> Result<(), Errno> {
        self.check(addr, size)?;
        let map = Some(Map { start: addr, end: addr + size, readable, writable, memory });
        let slot = match self.free.pop() {
            Some(i) => {
                self.slots[i as usize] = map;
                i
            }
            None => {
                self.slots.push(map);
                self.slots.len() as u32 - 1
            }
        };
        self.by_start.insert(addr, slot);
        self.changed();
        Ok(())
    }

    /// Removes the map with exactly these bounds.
    pub(super) fn unmap(&mut self, addr: u64, size: u64) -> Result<(), Errno> {
        let slot = *self.by_start.get(&addr).ok_or(Errno::ENOENT)?;
        let exact = self.slots[slot as usize].as_ref().is_some_and(|m| m.end - m.start == size);
        if !exact {
            return Err(Errno::ENOENT);
        }
        self.by_start.remove(&addr);
        self.slots[slot as usize] = None;
        self.free.push(slot);
        self.changed();
        Ok(())
    }

    pub(super) fn unmap_all(&mut self) {
        self.by_start.clear();
        self.slots.clear();
        self.free.clear();
        self.changed();
    }

    #[inline]
    fn find(&mut self, addr: u64) -> Option<&Map> {
        let page = addr / PAGE;
        let tag = self.generation << PAGE_BITS | page;
        let line = page as usize % LINES;
        if self.cache[line].tag != tag {
            let (_, slot) = self.by_start.range(..=addr).next_back()?;
            let slot = *slot;
            if self.slots[slot as usize].as_ref().is_none_or(|m| m.end <= addr) {
                return None;
            }
            self.cache[line] = Line { tag, slot };
        }
        self.slots[self.cache[line].slot as usize].as_ref()
    }

    /// Whether all bytes of an access are mapped in this direction.
    pub(super) fn permits(&mut self, addr: u64, len: usize, write: bool) -> Result<(), DmaFault> {
        let fault = DmaFault::Unmapped { addr, len: len as u64 };
        let end = addr.checked_add(len as u64).ok_or(fault)?;
        let mut at = addr;
        while at < end {
            match self.find(at) {
                Some(m) if if write { m.writable } else { m.readable } => at = m.end,
                _ => return Err(fault),
            }
        }
        Ok(())
    }

    /// Where the first byte is, and how many of `len` bytes are there. The access is permitted.
    pub(super) fn piece(&mut self, addr: u64, len: usize) -> Option<(Piece<'_>, usize)> {
        let m = self.find(addr)?;
        let n = usize::try_from(m.end - addr).unwrap_or(usize::MAX).min(len);
        let piece = match &m.memory {
            Some(memory) => Piece::Shared(memory, (addr - m.start) as usize),
            None => Piece::Remote,
        };
        Some((piece, n))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: (bool, bool) = (true, true);

    fn memory(pages: u64, mark: u8) -> Option<Rc<SharedMem>> {
        let m = SharedMem::new((pages * PAGE) as usize);
        m.fill(0, m.len(), mark);
        Some(m)
    }

    fn byte(t: &mut DmaTable, addr: u64) -> Option<u8> {
        t.permits(addr, 1, false).ok()?;
        match t.piece(addr, 1)? {
            (Piece::Shared(m, at), 1) => {
                let mut b = [0];
                m.read(at, &mut b);
                Some(b[0])
            }
            _ => None,
        }
    }

    #[test]
    fn malformed_and_overlapping_maps_are_refused() {
        let mut t = DmaTable::new(8);
        t.map(4 * PAGE, 4 * PAGE, BOTH, None).unwrap();
        for (addr, size, e) in [
            (0, 0, Errno::EINVAL),
            (1, PAGE, Errno::EINVAL),
            (0, PAGE + 1, Errno::EINVAL),
            (!(PAGE - 1), 2 * PAGE, Errno::EINVAL),
            (!(PAGE - 1), PAGE, Errno::EINVAL),
            (4 * PAGE, 4 * PAGE, Errno::EEXIST),
            (7 * PAGE, PAGE, Errno::EEXIST),
            (3 * PAGE, 2 * PAGE, Errno::EEXIST),
            (0, 64 * PAGE, Errno::EEXIST),
        ] {
            assert_eq!(t.map(addr, size, BOTH, None), Err(e), "{addr:#x}+{size:#x}");
        }
        assert_eq!(t.map(3 * PAGE, PAGE, BOTH, None), Ok(()));
        assert_eq!(t.map(8 * PAGE, PAGE, BOTH, None), Ok(()));
    }

    #[test]
    fn the_table_has_a_limit() {
        let mut t = DmaTable::new(2);
        assert_eq!(t.map(0, PAGE, BOTH, None), Ok(()));
        assert_eq!(t.map(PAGE, PAGE, BOTH, None), Ok(()));
        assert_eq!(t.map(2 * PAGE, PAGE, BOTH, None), Err(Errno::ENOSPC));
        assert_eq!(t.unmap(0, PAGE), Ok(()));
        assert_eq!(t.map(2 * PAGE, PAGE, BOTH, None), Ok(()));
    }

    #[test]
    fn an_unmap_names_exactly_one_map_or_all() {
        let mut t = DmaTable::new(8);
        t.map(0, 4 * PAGE, BOTH, None).unwrap();
        t.map(4 * PAGE, PAGE, BOTH, None).unwrap();
        for (addr, size) in [(0, PAGE), (0, 5 * PAGE), (PAGE, PAGE), (PAGE, 3 * PAGE), (8 * PAGE, PAGE)] {
            assert_eq!(t.unmap(addr, size), Err(Errno::ENOENT));
        }
        assert_eq!(t.len(), 2);
        t.unmap_all();
        assert_eq!((t.len(), t.unmap(0, 4 * PAGE)), (0, Err(Errno::ENOENT)));
    }

    #[test]
    fn an_access_runs_over_maps_that_touch_if_all_permit_it() {
        let mut t = DmaTable::new(8);
        t.map(0, PAGE, BOTH, memory(1, 1)).unwrap();
        t.map(PAGE, PAGE, (true, false), memory(1, 2)).unwrap();
        t.map(2 * PAGE, PAGE, BOTH, None).unwrap();
        assert!(t.permits(PAGE - 4, 8, false).is_ok());
        assert!(matches!(t.piece(PAGE - 4, 8), Some((Piece::Shared(_, 4092), 4))));
        assert!(matches!(t.piece(2 * PAGE, 8), Some((Piece::Remote, 8))));
        let fault = DmaFault::Unmapped { addr: PAGE - 4, len: 8 };
        assert_eq!(t.permits(PAGE - 4, 8, true), Err(fault), "read-only behind");
        assert!(t.permits(3 * PAGE - 4, 8, false).is_err(), "nothing behind");
        assert!(t.permits(u64::MAX - 3, 8, false).is_err(), "beyond the address space");
    }

    #[test]
    fn a_cached_page_is_forgotten_with_its_map_even_after_all_generations() {
        let mut t = DmaTable::new(8);
        for round in 0..2 * GENERATIONS {
            t.map(0, PAGE, BOTH, memory(1, round as u8)).unwrap();
            assert_eq!(byte(&mut t, 5), Some(round as u8));
            t.unmap(0, PAGE).unwrap();
            assert_eq!(byte(&mut t, 5), None);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Map(u64, u64, bool, bool),
        Unmap(u64, u64),
        All,
        Access(u64, usize, bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..24u64, 1..6u64, any::<bool>(), any::<bool>()).prop_map(|(a, n, r, w)| Op::Map(a, n, r, w)),
            3 => (0..24u64, 1..6u64).prop_map(|(a, n)| Op::Unmap(a, n)),
            1 => Just(Op::All),
            8 => (0..26 * PAGE, 1..4 * PAGE as usize, any::<bool>()).prop_map(|(a, n, w)| Op::Access(a, n, w)),
        ]
    }

    proptest! {
        /// The model: for each page, which map it belongs to and what it permits.
        #[test]
        fn the_table_agrees_with_a_page_by_page_model(ops in proptest::collection::vec(op(), 1..80)) {
            let mut t = DmaTable::new(5);
            let mut model: [Option<(u8, bool, bool)>; 40] = [None; 40];
            let mut maps: BTreeMap<u64, (u64, u8)> = BTreeMap::new();
            let mut mark = 0u8;
            for op in ops {
                match op {
                    Op::Map(a, n, r, w) => {
                        let pages = a as usize..(a + n) as usize;
                        let expected = if model[pages.clone()].iter().any(Option::is_some) {
                            Err(Errno::EEXIST)
                        } else if maps.len() == 5 {
                            Err(Errno::ENOSPC)
                        } else {
                            Ok(())
                        };
                        mark = mark.wrapping_add(1);
                        prop_assert_eq!(t.map(a * PAGE, n * PAGE, (r, w), memory(n, mark)), expected);
                        if expected.is_ok() {
                            model[pages].fill(Some((mark, r, w)));
                            maps.insert(a, (n, mark));
                        }
                    }
                    Op::Unmap(a, n) => {
                        let found = maps.get(&a).is_some_and(|(m, _)| *m == n);
                        prop_assert_eq!(t.unmap(a * PAGE, n * PAGE).is_ok(), found);
                        if found {
                            maps.remove(&a);
                            model[a as usize..(a + n) as usize].fill(None);
                        }
                    }
                    Op::All => {
                        t.unmap_all();
                        maps.clear();
                        model.fill(None);
                    }
                    Op::Access(a, n, w) => {
                        let pages = (a / PAGE) as usize..=((a + n as u64 - 1) / PAGE) as usize;
                        let ok = model[pages].iter().all(|p| p.is_some_and(|(_, r, wr)| if w { wr } else { r }));
                        prop_assert_eq!(t.permits(a, n, w).is_ok(), ok);
                        if ok {
                            let (mut at, mut left) = (a, n);
                            while left > 0 {
                                let Some((Piece::Shared(m, off), len)) = t.piece(at, left) else {
                                    return Err(TestCaseError::fail("a permitted piece is there"));
                                };
                                let mut b = [0];
                                m.read(off + len - 1, &mut b);
                                let last = ((at + len as u64 - 1) / PAGE) as usize;
                                prop_assert_eq!(Some(b[0]), model[last].map(|p| p.0));
                                (at, left) = (at + len as u64, left - len);
                            }
                        }
                    }
                }
                prop_assert_eq!(t.len(), maps.len());
            }
        }
    }
}
