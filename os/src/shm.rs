//! Memory that processes share: anonymous files (memfd) and their mappings.
//!
//! A vfio-user client hands its DMA memory to the card's process as file descriptors; both map them. Nothing
//! here gives out a reference into a mapping: [`Mapping::base`] is a pointer for `bus`, whose accessors are
//! volatile or atomic.
//!
//! A file's size belongs to everybody who holds it: a peer may shrink it under a mapping, and the file system
//! may be full when a hole of it is first touched. Access then raises SIGBUS, which would end the process.
//! Files made by [`memfd`] are sealed against it, and who can ask for a sealed file maps with
//! [`Mapping::sealed`]. For the others a handler puts anonymous memory in the mapping's place, all of it, and
//! marks it: the access goes on with zeros, [`losses`] counts, and [`Mapping::is_lost`] tells the owner to
//! shut the peer out. A SIGBUS anywhere else ends the process as it did before.
//!
//! Limits: [`MAPPINGS`] mappings of a process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A new anonymous file of `len` zero bytes. Its size is sealed, and so are its seals.
///
/// # Errors
/// No descriptor or memory is left.
pub fn memfd(name: &str, len: u64) -> io::Result<OwnedFd> {
    let fd = memfd_for_seals(name, len)?;
    fcntl(fd.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL))?;
    Ok(fd)
}

/// As [`memfd`], for [`seal_for_readers`] to follow.
///
/// # Errors
/// No descriptor or memory is left.
pub fn memfd_for_seals(name: &str, len: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let file = File::from(fd);
    file.set_len(len)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Bytes of a file, mapped and shared. Unmapped when dropped; the descriptor is not needed any more once it
/// is mapped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    watch: guard::Watch,
}

/// Mappings of a process at most.
pub const MAPPINGS: usize = guard::SLOTS;

/// Mappings of this process that were lost so far: cheap to compare before one looks for which.
#[must_use]
pub fn losses() -> u64 {
    guard::losses()
}

/// Lets nobody who gets the file from now on write to it, or map it for writing. Mappings that exist keep
/// their rights.
///
/// # Errors
/// The kernel is older than 5.1, or the file's seals are fixed.
pub fn seal_for_readers(fd: BorrowedFd<'_>) -> io::Result<()> {
    // F_SEAL_FUTURE_WRITE, which nix does not name.
    let seals = SealFlag::from_bits_retain(0x10) | SealFlag::F_SEAL_SEAL;
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

impl Mapping {
    /// As [`Mapping::new`], of a file that nobody can shrink.
    ///
    /// # Errors
    /// `PermissionDenied`: it is not sealed (`F_SEAL_SHRINK`). Otherwise those of [`Mapping::new`].
    pub fn sealed(fd: BorrowedFd<'_>, offset: u64, len: u64, writable: bool) -> io::Result<Self> {
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS).unwrap_or(0);
        if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) {
            let why = "the file is not sealed: its owner could shrink it (F_SEAL_SHRINK)";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Self::new(fd, offset, len, writable)
    }

    /// Maps `len` bytes from `offset` (a multiple of the page size), readable, and writable if asked for.
    ///
    /// # Errors
    /// `InvalidInput` when the file does not hold these bytes or `len` is zero; `OutOfMemory` beyond
    /// [`MAPPINGS`]; what `mmap` says otherwise.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: u64, writable: bool) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        let size = file.metadata()?.len();
        let (Some(end), Ok(bytes)) = (end, usize::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if len == 0 || end > size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let watch = guard::Watch::new()?;
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: the kernel chooses an address range that nothing else uses; the arguments are plain values.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        watch.set(base.as_ptr() as usize, bytes);
        Ok(Self { base, len: bytes, watch })
    }

    /// Whether the file does not hold these bytes any more, and other memory stands in their place. What was
    /// read since the loss is zeros, what is written reaches nobody.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.watch.is_lost()
    }

    /// The first byte. Valid as long as the mapping lives; the other side may change the bytes at any time.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes, not zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

mod guard;

impl Drop for Mapping {
    fn drop(&mut self) {
        // Before the range can be somebody else's.
        self.watch.clear();
        // SAFETY: the range was mapped in `new`, and nobody may use `base` after the mapping is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_one_file_are_the_same_bytes() {
        let fd = memfd("test", 8192).unwrap();
        let whole = Mapping::new(fd.as_fd(), 0, 8192, true).unwrap();
        let upper = Mapping::new(fd.as_fd(), 4096, 4096, false).unwrap();
        drop(fd);
        // SAFETY: inside the mapping; only this test knows the memory.
        unsafe {
            whole.base().as_ptr().add(5000).write(7);
            assert_eq!(upper.base().as_ptr().add(5000 - 4096).read(), 7);
        }
    }

    #[test]
    fn bytes_that_the_file_does_not_hold_are_refused() {
        let fd = memfd("test", 8192).unwrap();
        for (offset, len) in [(0, 8193), (8192, 4096), (4096, 8192), (u64::MAX - 4095, 8192), (0, 0)] {
            let e = Mapping::new(fd.as_fd(), offset, len, true).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidInput, "{offset}+{len}");
        }
        assert!(Mapping::new(fd.as_fd(), 1, 4096, true).is_err(), "not a page boundary");
    }

    #[test]
    fn the_size_of_a_memfd_is_sealed() {
        let file = File::from(memfd("test", 4096).unwrap());
        assert!(file.set_len(0).is_err() && file.set_len(8192).is_err());
    }
}
