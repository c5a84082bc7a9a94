//! DMA memory: bytes that host and card share.
//!
//! Either side may touch it at any time, so no reference into it ever exists: small values go through
//! volatile or atomic accesses, bulk data is copied. In-process memory is page-aligned heap; with vfio-user
//! it is part of a mapped file that both processes share. A [`DmaBuf`] is the host's handle to one allocation
//! and knows its bus address.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::sync::{AtomicU16, AtomicU32, Ordering};

/// The host's page size, and the alignment of every allocation.
pub const PAGE_SIZE: usize = 4096;

/// One allocation. Offsets are checked in every accessor: a bad offset is a bug of the caller and panics;
/// what comes from the other side of the bus is range-checked before it gets here.
pub(crate) struct SharedMem {
    base: NonNull<u8>,
    len: usize,
    backing: Backing,
}

/// What keeps the bytes.
enum Backing {
    Heap(Layout),
    Mapped {
        mapping: Rc<os::shm::Mapping>,
        /// The file and where in it the bytes begin, if it may be passed on.
        file: Option<(Rc<OwnedFd>, u64)>,
    },
}

impl SharedMem {
    /// Zeroed memory of `len` bytes (at least one page is reserved), page-aligned.
    pub(crate) fn new(len: usize) -> Rc<Self> {
        let layout = Layout::from_size_align(len.max(1).next_multiple_of(PAGE_SIZE), PAGE_SIZE)
            .expect("a DMA buffer fits");
        // SAFETY: the layout has a non-zero size.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Rc::new(Self { base, len, backing: Backing::Heap(layout) })
    }

    /// Zeroed memory in an anonymous file of its own.
    pub(crate) fn shareable(len: usize) -> io::Result<Rc<Self>> {
        let bytes = len.max(1).next_multiple_of(PAGE_SIZE);
        let file = os::shm::memfd("dma", bytes as u64)?;
        let mapping = Rc::new(os::shm::Mapping::new(file.as_fd(), 0, bytes as u64, true)?);
        Ok(Self::in_file(&mapping, &Rc::new(file), 0, len))
    }

    /// [`SharedMem::window`] of a mapping of the whole `file`.
    pub(crate) fn in_file(
        mapping: &Rc<os::shm::Mapping>,
        file: &Rc<OwnedFd>,
        offset: usize,
        len: usize,
    ) -> Rc<Self> {
        let file = Some((file.clone(), offset as u64));
        Self::part(mapping, offset, len, file)
    }

    /// `len` bytes of a mapping, from `offset`. Nothing may be written to a read-only one.
    pub(crate) fn window(mapping: &Rc<os::shm::Mapping>, offset: usize, len: usize) -> Rc<Self> {
        Self::part(mapping, offset, len, None)
    }

    fn part(
        mapping: &Rc<os::shm::Mapping>,
        offset: usize,
        len: usize,
        file: Option<(Rc<OwnedFd>, u64)>,
    ) -> Rc<Self> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= mapping.len());
        assert!(fits, "a window of {offset}+{len} in a mapping of {}", mapping.len());
        // SAFETY: the offset is inside the mapping, checked above, and the mapping outlives `self`.
        let base = unsafe { mapping.base().add(offset) };
        Rc::new(Self { base, len, backing: Backing::Mapped { mapping: mapping.clone(), file } })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the file does not hold the bytes any more ([`os::shm`]).
    pub(crate) fn is_lost(&self) -> bool {
        matches!(&self.backing, Backing::Mapped { mapping, .. } if mapping.is_lost())
    }

    pub(crate) fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        match &self.backing {
            Backing::Mapped { file: Some((file, at)), .. } => Some((file.as_fd(), *at)),
            _ => None,
        }
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "DMA memory: {offset}+{len} of {}",
            self.len
        );
        // SAFETY: offset + len is inside the allocation, checked above.
        unsafe { self.base.as_ptr().add(offset) }
    }

    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        let p = self.at(offset, out.len());
        // SAFETY: `p` is valid for `out.len()` bytes, and `out` cannot overlap: nobody holds references into
        // DMA memory.
        unsafe { p.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) }
    }

    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        let p = self.at(offset, data.len());
        // SAFETY: as in `read`, in the other direction.
        unsafe { p.copy_from_nonoverlapping(data.as_ptr(), data.len()) }
    }

    pub(crate) fn fill(&self, offset: usize, len: usize, byte: u8) {
        let p = self.at(offset, len);
        // SAFETY: `p` is valid for `len` bytes.
        unsafe { p.write_bytes(byte, len) }
    }

    fn atomic16(&self, offset: usize) -> &AtomicU16 {
        let p = self.at(offset, 2).cast::<u16>();
        assert!(p.is_aligned(), "a published index is aligned");
        // SAFETY: valid, aligned, and lives as long as `self`; every access that can race with it is atomic.
        unsafe { AtomicU16::from_ptr(p) }
    }

    fn atomic32(&self, offset: usize) -> &AtomicU32 {
        let p = self.at(offset, 4).cast::<u32>();
        assert!(p.is_aligned(), "a published index is aligned");
        // SAFETY: as in `atomic16`.
        unsafe { AtomicU32::from_ptr(p) }
    }

    pub(crate) fn load16(&self, offset: usize) -> u16 {
        u16::from_le(self.atomic16(offset).load(Ordering::Acquire))
    }

    pub(crate) fn load32(&self, offset: usize) -> u32 {
        u32::from_le(self.atomic32(offset).load(Ordering::Acquire))
    }

    pub(crate) fn store16(&self, offset: usize, value: u16) {
        self.atomic16(offset).store(value.to_le(), Ordering::Release);
    }

    pub(crate) fn store32(&self, offset: usize, value: u32) {
        self.atomic32(offset).store(value.to_le(), Ordering::Release);
    }
}

impl Drop for SharedMem {
    fn drop(&mut self) {
        if let Backing::Heap(layout) = &self.backing {
            let layout = *layout;
            // SAFETY: allocated in `new` with this layout; the last handle is gone.
            unsafe { dealloc(self.base.as_ptr(), layout) }
        }
    }
}

/// The host's handle to one allocation of DMA memory. Bus addresses of one buffer are contiguous; the buffer
/// is page-aligned on both sides. Give it back with [`crate::pci::Platform::dma_free`].
#[must_use]
pub struct DmaBuf {
    pub(crate) addr: u64,
    pub(crate) mem: Rc<SharedMem>,
}

impl DmaBuf {
    /// Bus address of the first byte.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mem.len()
    }

    /// Whether the buffer has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out. Panics when the range leaves the buffer.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        self.mem.read(offset, out);
    }

    /// Copies bytes in. Panics when the range leaves the buffer.
    pub fn write(&self, offset: usize, data: &[u8]) {
        self.mem.write(offset, data);
    }

    /// Sets bytes. Panics when the range leaves the buffer.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) {
        self.mem.fill(offset, len, byte);
    }

    /// Loads a published 16-bit index: everything the card wrote before publishing it is visible after.
    #[must_use]
    pub fn load16(&self, offset: usize) -> u16 {
        self.mem.load16(offset)
    }

    /// Loads a published 32-bit word: everything the card wrote before publishing it is visible after.
    #[must_use]
    pub fn load32(&self, offset: usize) -> u32 {
        self.mem.load32(offset)
    }
}

impl DmaBuf {
    /// The file that the buffer lives in, and where in it, if another process may map it.
    #[must_use]
    pub fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.mem.file()
    }

    /// The same bytes for a third party: the helper's rings. Panics when the range leaves the buffer.
    #[must_use]
    pub fn view(&self, range: std::ops::Range<usize>) -> View {
        View::new(&self.mem, range)
    }
}

/// Part of an allocation as a third party sees it: no bus address, nothing to free. The bytes live as long as
/// the view.
#[derive(Clone)]
pub struct View {
    mem: Rc<SharedMem>,
    from: usize,
    len: usize,
}

impl View {
    fn new(mem: &Rc<SharedMem>, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= mem.len(), "a view of {range:?} of {}", mem.len());
        Self { mem: mem.clone(), from: range.start, len: range.len() }
    }

    /// Bytes of a mapped file. Panics when the range leaves the mapping.
    #[must_use]
    pub fn mapped(mapping: &Rc<os::shm::Mapping>, range: std::ops::Range<usize>) -> Self {
        Self::new(&SharedMem::window(mapping, range.start, range.len()), 0..range.len())
    }

    /// Zeroed memory of its own, for tests and stand-ins.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self::new(&SharedMem::new(len), 0..len)
    }

    /// The file that the bytes live in, and where in it, if another process may map it.
    #[must_use]
    pub fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.mem.file().map(|(fd, at)| (fd, at + self.from as u64))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, offset: usize, len: usize) -> usize {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(fits, "a view: {offset}+{len} of {}", self.len);
        self.from + offset
    }

    /// Copies bytes out. Panics when the range leaves the view.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        self.mem.read(self.at(offset, out.len()), out);
    }

    /// Copies bytes in. Panics when the range leaves the view.
    pub fn write(&self, offset: usize, data: &[u8]) {
        self.mem.write(self.at(offset, data.len()), data);
    }

    /// Loads a published 16-bit index: everything the card wrote before publishing it is visible after.
    #[must_use]
    pub fn load16(&self, offset: usize) -> u16 {
        self.mem.load16(self.at(offset, 2))
    }

    /// Loads a published 32-bit word: everything the card wrote before publishing it is visible after.
    #[must_use]
    pub fn load32(&self, offset: usize) -> u32 {
        self.mem.load32(self.at(offset, 4))
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({:#x})", self.len)
    }
}

impl std::fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBuf({:#x}+{:#x})", self.addr, self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accessors_agree_on_bytes_and_order() {
        let m = SharedMem::new(10_000);
        m.write(9_990, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let mut out = [0; 4];
        m.read(9_992, &mut out);
        assert_eq!(out, [3, 4, 5, 6]);
        assert_eq!((m.load16(9_992), m.load32(9_992)), (0x0403, 0x0605_0403));
        m.store32(8, 0x0403_0201);
        m.store16(12, 0x0605);
        m.read(9, &mut out);
        assert_eq!(out, [2, 3, 4, 5]);
        m.fill(8, 3, 0xff);
        assert_eq!(m.load32(8), 0x04ff_ffff);
    }

    #[test]
    fn a_view_is_the_same_bytes_and_no_more() {
        let m = SharedMem::new(8192);
        let v = View::new(&m, 4096..4104);
        v.write(2, &[3, 4]);
        assert_eq!(
            (m.load32(4096), v.load16(2), v.load32(0), v.len()),
            (0x0403_0000, 0x0403, 0x0403_0000, 8)
        );
        let outside = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| v.write(7, &[0; 2])));
        assert!(outside.is_err());
    }

    #[test]
    #[should_panic(expected = "DMA memory: 4092+8 of 4096")]
    fn a_range_that_leaves_the_buffer_is_caught() {
        SharedMem::new(4096).write(4092, &[0; 8]);
    }
}
