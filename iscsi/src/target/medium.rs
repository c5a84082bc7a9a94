//! The storage of a disk as the disk uses it: what the backend answers becomes sense data, and the reason
//! goes to the operator as a [`Trouble`].
//!
//! A flush that failed stays failed. The kernel forgets which pages it could not write once it has said so,
//! and a later `fsync` that succeeds says nothing about them. So every later flush of this unit fails with
//! the same sense until the target is started anew; reads, and writes that ask for no durability, go on.

use super::backend::{Backend, Extent, Ticket};
use crate::scsi::{Sense, SenseKey};
use std::io;

/// What failed below a logical unit, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What was tried: `read`, `write`, `unmap`, `flush`.
    pub doing: &'static str,
    /// First byte.
    pub at: u64,
    /// Bytes; 0 for a flush.
    pub len: u64,
    /// The system's words, with the error number where there is one.
    pub reason: String,
}

/// The direction of an access, which decides about its sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Read,
    Write,
    Unmap,
    Flush,
}

/// A backend whose failures have been told.
pub(super) struct Medium {
    backend: Box<dyn Backend>,
    scratch: Vec<u8>,
    pattern: Vec<u8>,
    /// The failure that nobody has taken yet; later ones do not replace it.
    trouble: Option<Trouble>,
    /// How a flush failed, once one did.
    flush_failed: Option<Sense>,
}

impl Medium {
    pub(super) fn new(backend: Box<dyn Backend>) -> Medium {
        Medium { backend, scratch: Vec::new(), pattern: Vec::new(), trouble: None, flush_failed: None }
    }

    pub(super) fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    pub(super) fn name(&self) -> &str {
        self.backend.name()
    }

    pub(super) fn read_only(&self) -> bool {
        self.backend.read_only()
    }

    pub(super) fn volatile_cache(&self) -> bool {
        self.backend.volatile_cache()
    }

    /// The failure since the last call.
    pub(super) fn take_trouble(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    pub(super) fn read(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> Result<(), Sense> {
        self.backend.read_at(at, len, out).map_err(|e| self.failed(Doing::Read, at, len as u64, &e))
    }

    /// Flushes and waits for it.
    pub(super) fn flush_now(&mut self) -> Result<(), Sense> {
        if let Some(sense) = self.flush_failed {
            return Err(self.failed_again(sense));
        }
        self.backend.flush().map_err(|e| self.failed(Doing::Flush, 0, 0, &e))
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Sense> {
        self.backend.write_at(at, data).map_err(|e| self.failed(Doing::Write, at, data.len() as u64, &e))
    }

    /// ORs `data` into what is there.
    pub(super) fn or(&mut self, at: u64, data: &[u8]) -> Result<(), Sense> {
        let mut merged = std::mem::take(&mut self.pattern);
        merged.clear();
        let outcome = self.read(at, data.len(), &mut merged).and_then(|()| {
            merged.iter_mut().zip(data).for_each(|(old, new)| *old |= new);
            self.write(at, &merged)
        });
        self.pattern = merged;
        outcome
    }

    /// Writes all of `data` or, where the storage fails halfway, puts back what was there. (Nothing here can
    /// promise that against a loss of power in the middle.)
    pub(super) fn write_whole(&mut self, at: u64, data: &[u8]) -> Result<(), Sense> {
        let mut old = std::mem::take(&mut self.pattern);
        old.clear();
        let outcome = self.read(at, data.len(), &mut old).and_then(|()| {
            self.write(at, data).inspect_err(|_| {
                let _ = self.backend.write_at(at, &old);
            })
        });
        self.pattern = old;
        outcome
    }

    /// Writes `block` over and over, `len` bytes in one call; `len` is a multiple of the block.
    pub(super) fn fill(&mut self, at: u64, len: u64, block: &[u8]) -> Result<(), Sense> {
        let pattern = self.pattern(len, block);
        let outcome = self.write(at, &pattern);
        self.pattern = pattern;
        outcome
    }

    /// Compares `len` bytes with `block` over and over: the offset of the first difference in its block.
    pub(super) fn compare_repeated(&mut self, at: u64, len: u64, block: &[u8]) -> Result<Option<u64>, Sense> {
        let pattern = self.pattern(len, block);
        let outcome = self.compare(at, &pattern);
        self.pattern = pattern;
        Ok(outcome?.map(|first| (first % block.len()) as u64))
    }

    /// `len` bytes of `block` after `block`, in a buffer that is given back to `self.pattern`.
    fn pattern(&mut self, len: u64, block: &[u8]) -> Vec<u8> {
        let mut pattern = std::mem::take(&mut self.pattern);
        pattern.clear();
        while (pattern.len() as u64) < len {
            pattern.extend_from_slice(block);
        }
        pattern
    }

    pub(super) fn zero(&mut self, at: u64, len: u64) -> Result<(), Sense> {
        self.backend.zero_at(at, len).map_err(|e| self.failed(Doing::Unmap, at, len, &e))
    }

    /// The offset of the first difference.
    pub(super) fn compare(&mut self, at: u64, data: &[u8]) -> Result<Option<usize>, Sense> {
        let found = self.backend.compare_at(at, data, &mut self.scratch);
        found.map_err(|e| self.failed(Doing::Read, at, data.len() as u64, &e))
    }

    /// Reads and forgets: whether the bytes can be read.
    pub(super) fn check(&mut self, at: u64, len: usize) -> Result<(), Sense> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let outcome = self.read(at, len, &mut scratch);
        self.scratch = scratch;
        outcome
    }

    pub(super) fn extent(&mut self, at: u64, len: u64) -> Result<Extent, Sense> {
        self.backend.extent_at(at, len).map_err(|e| self.failed(Doing::Read, at, len, &e))
    }

    /// Begins a flush; `None` when it is over already.
    pub(super) fn start_flush(&mut self) -> Result<Option<Ticket>, Sense> {
        if let Some(sense) = self.flush_failed {
            return Err(self.failed_again(sense));
        }
        self.backend.start_flush().map_err(|e| self.failed(Doing::Flush, 0, 0, &e))
    }

    /// How a flush ended; `None` while it is under way.
    pub(super) fn end_flush(&mut self, ticket: Ticket) -> Option<Result<(), Sense>> {
        let ended = self.backend.end_flush(ticket)?;
        Some(match (ended, self.flush_failed) {
            (Err(error), _) => Err(self.failed(Doing::Flush, 0, 0, &error)),
            (Ok(()), Some(sense)) => Err(self.failed_again(sense)),
            (Ok(()), None) => Ok(()),
        })
    }

    fn failed_again(&mut self, sense: Sense) -> Sense {
        self.trouble.get_or_insert_with(|| Trouble {
            doing: "flush",
            at: 0,
            len: 0,
            reason: "an earlier flush failed, so what was written before may be lost; start the target anew"
                .into(),
        });
        sense
    }

    fn failed(&mut self, doing: Doing, at: u64, len: u64, error: &io::Error) -> Sense {
        let sense = sense(doing, error);
        if doing == Doing::Flush {
            self.flush_failed.get_or_insert(sense);
        }
        self.trouble.get_or_insert_with(|| {
            let doing = match doing {
                Doing::Read => "read",
                Doing::Write => "write",
                Doing::Unmap => "unmap",
                Doing::Flush => "flush",
            };
            Trouble { doing, at, len, reason: error.to_string() }
        });
        sense
    }
}

/// Sense data of an I/O error (SBC-3 4.7.3.6 for what a full store is; SCSI.md 2.7).
fn sense(doing: Doing, error: &io::Error) -> Sense {
    use io::ErrorKind::*;
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge if doing != Doing::Read => Sense::SPACE_ALLOCATION_FAILED,
        ReadOnlyFilesystem | PermissionDenied if doing != Doing::Read => Sense::WRITE_PROTECTED,
        // Of the machine, not of the medium, and over with the next try or so.
        OutOfMemory | Interrupted | WouldBlock | TimedOut => {
            Sense::new(SenseKey::ABORTED_COMMAND, Sense::INTERNAL_FAILURE.asc, 0)
        }
        _ if doing == Doing::Read => Sense::UNRECOVERED_READ,
        _ => Sense::WRITE_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Answers every call with the next of its errors.
    struct Broken(VecDeque<Option<i32>>);

    impl Broken {
        fn next(&mut self) -> io::Result<()> {
            match self.0.pop_front().flatten() {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Ok(()),
            }
        }
    }

    impl Backend for Broken {
        fn size(&self) -> u64 {
            1 << 20
        }
        fn read_at(&mut self, _: u64, _: usize, _: &mut Vec<u8>) -> io::Result<()> {
            self.next()
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            self.next()
        }
        fn zero_at(&mut self, _: u64, _: u64) -> io::Result<()> {
            self.next()
        }
        fn flush(&mut self) -> io::Result<()> {
            self.next()
        }
    }

    fn medium(errors: &[Option<i32>]) -> Medium {
        Medium::new(Box::new(Broken(errors.iter().copied().collect())))
    }

    const EIO: i32 = 5;
    const EAGAIN: i32 = 11;
    const EFBIG: i32 = 27;
    const ENOSPC: i32 = 28;
    const EROFS: i32 = 30;
    const EDQUOT: i32 = 122;

    #[test]
    fn an_error_number_becomes_its_sense() {
        let full = Sense::new(SenseKey::DATA_PROTECT, 0x27, 7);
        let (bad_read, bad_write) =
            (Sense::new(SenseKey::MEDIUM_ERROR, 0x11, 0), Sense::new(SenseKey::MEDIUM_ERROR, 0x0C, 0));
        let passing = Sense::new(SenseKey::ABORTED_COMMAND, 0x44, 0);
        let protected = Sense::new(SenseKey::DATA_PROTECT, 0x27, 0);
        for (errno, read, write) in [
            (EIO, bad_read, bad_write),
            (ENOSPC, bad_read, full),
            (EDQUOT, bad_read, full),
            (EFBIG, bad_read, full),
            (EROFS, bad_read, protected),
            (EAGAIN, passing, passing),
        ] {
            let mut m = medium(&[Some(errno); 4]);
            assert_eq!(m.read(0, 512, &mut Vec::new()), Err(read), "errno {errno}");
            assert_eq!(m.write(0, &[0; 512]), Err(write), "errno {errno}");
            assert_eq!(m.zero(0, 512), Err(write), "errno {errno}");
            assert_eq!(m.start_flush(), Err(write), "errno {errno}");
        }
        let short = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(sense(Doing::Read, &short), bad_read, "a file that ends too early");
    }

    #[test]
    fn the_first_trouble_is_told_with_its_place_and_reason() {
        let mut m = medium(&[Some(ENOSPC), Some(EIO)]);
        m.write(4096, &[1; 512]).unwrap_err();
        m.read(0, 1, &mut Vec::new()).unwrap_err();
        let told = m.take_trouble().unwrap();
        assert_eq!((told.doing, told.at, told.len), ("write", 4096, 512));
        assert!(told.reason.contains("No space left") && told.reason.contains("28"), "{}", told.reason);
        assert_eq!(m.take_trouble(), None);
    }

    /// After a failed `fsync` the next one succeeds in the kernel, and says nothing about what was lost.
    #[test]
    fn a_failed_flush_stays_failed() {
        let mut m = medium(&[Some(EIO), None, None]);
        assert_eq!(m.start_flush(), Err(Sense::WRITE_ERROR));
        m.write(0, &[1; 512]).unwrap();
        m.take_trouble();
        for _ in 0..3 {
            assert_eq!(m.start_flush(), Err(Sense::WRITE_ERROR));
            assert!(m.take_trouble().unwrap().reason.contains("an earlier flush failed"));
        }
        // One that was under way when another failed is not believed either.
        assert_eq!(m.end_flush(Ticket(1)), Some(Err(Sense::WRITE_ERROR)));
    }
}
