//! Private memory that can be given back piece by piece: the blocks of a RAM disk.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use nix::libc;

/// Zeroed memory of this process alone. A page takes room from when it is written until it is discarded.
#[derive(Debug)]
pub struct Pages {
    base: NonNull<u8>,
    len: usize,
    page: usize,
}

// SAFETY: the memory belongs to the value alone; nothing about it is tied to a thread.
unsafe impl Send for Pages {}

impl Pages {
    /// `len` bytes, not zero.
    ///
    /// # Errors
    /// The machine does not give that much.
    pub fn new(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a question about the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        // SAFETY: the kernel chooses an address range that nothing else uses; the arguments are plain values.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the range is ours. Huge pages would keep up to 2 MiB for one block that was written; an
        // error changes nothing.
        unsafe { libc::madvise(p, len, libc::MADV_NOHUGEPAGE) };
        Ok(Self { base, len, page: usize::try_from(page).unwrap_or(4096) })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable, writable, initialised (zeros), ours alone, and lives as long as
        // the borrow.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Makes a range read as zeros. Its whole pages go back to the system.
    ///
    /// # Panics
    /// The range is not inside.
    pub fn discard(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "a range inside the memory");
        let start = range.start.next_multiple_of(self.page);
        // The rest of the last page belongs to nobody else.
        let end = if range.end == self.len { self.len } else { range.end / self.page * self.page };
        if start < end {
            // SAFETY: inside the mapping, of which no reference is alive. Private anonymous memory reads as
            // zeros after it.
            let r = unsafe {
                libc::madvise(self.base.as_ptr().add(start).cast(), end - start, libc::MADV_DONTNEED)
            };
            if r == 0 {
                self.bytes()[range.start..start].fill(0);
                return self.bytes()[end..range.end].fill(0);
            }
        }
        self.bytes()[range].fill(0);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range was mapped in `new`, and no reference into it outlives the value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_pages_are_zero_and_their_neighbours_are_not() {
        let mut pages = Pages::new(64 << 10).unwrap();
        pages.bytes().fill(7);
        for range in [5000..5100, 8191..20_481, 40_960..64 << 10, 0..0] {
            pages.bytes().fill(7);
            pages.discard(range.clone());
            let bytes = pages.bytes();
            assert!(bytes[range.clone()].iter().all(|b| *b == 0), "{range:?}");
            let others = bytes[..range.start].iter().chain(&bytes[range.end..]);
            assert!(others.into_iter().all(|b| *b == 7), "{range:?}");
        }
    }

    #[test]
    /// Other tests of this process take memory at the same time, but not that much.
    fn memory_comes_back() {
        let mut pages = Pages::new(256 << 20).unwrap();
        let before = crate::clock::resident_bytes().unwrap();
        pages.bytes().fill(1);
        let full = crate::clock::resident_bytes().unwrap();
        pages.discard(0..256 << 20);
        let after = crate::clock::resident_bytes().unwrap();
        assert!(full > before + (128 << 20) && after < full - (128 << 20), "{before} {full} {after}");
    }
}
