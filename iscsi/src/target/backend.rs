//! Where the blocks of a disk live. The disk checks every range before it calls; a backend answers I/O errors
//! of its own only, and keeps their reason: [`Medium`](super::medium::Medium) makes sense data and a log line
//! of it.

use std::io;

/// Storage behind a [`Disk`](super::Disk): bytes at offsets. Ranges are inside [`size`](Self::size).
pub trait Backend: Send {
    /// Size in bytes. It does not change.
    fn size(&self) -> u64;
    /// What the operator knows it by: the path of a file. It stands in log lines.
    fn name(&self) -> &str {
        "memory"
    }
    /// True when writes are refused.
    fn read_only(&self) -> bool {
        false
    }
    /// True when a finished write may still be lost with the power until [`flush`](Self::flush).
    fn volatile_cache(&self) -> bool {
        false
    }
    /// Appends `len` bytes from `at` to `out`. On an error `out` is as it was.
    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()>;
    /// Writes all of `data` at `at`.
    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()>;
    /// Makes `len` bytes from `at` read as zeros, and gives back the storage behind them where that can be
    /// done. What reads as zeros already takes no storage by it.
    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()>;
    /// Makes every finished write durable; it may take as long as the storage takes.
    fn flush(&mut self) -> io::Result<()>;
    /// Begins a flush of every finished write without waiting for it. `None`: it is done already. Whoever
    /// drives the target hears of the end by other means, and calls
    /// [`TargetServer::flushed`](super::TargetServer::flushed) then.
    fn start_flush(&mut self) -> io::Result<Option<Ticket>> {
        self.flush().map(|()| None)
    }
    /// How a flush that was begun has ended; `None` while it is under way.
    fn end_flush(&mut self, ticket: Ticket) -> Option<io::Result<()>> {
        let Ticket(_) = ticket;
        Some(Ok(()))
    }
    /// The state of the byte at `at`, and how many bytes from there, up to `len`, share it: at least one.
    fn extent_at(&mut self, at: u64, len: u64) -> io::Result<Extent> {
        let _ = at;
        Ok(Extent { len, allocated: true })
    }
    /// Whether the bytes at `at` equal `data`: the offset of the first difference, or `None`.
    fn compare_at(&mut self, at: u64, data: &[u8], scratch: &mut Vec<u8>) -> io::Result<Option<usize>> {
        scratch.clear();
        self.read_at(at, data.len(), scratch)?;
        Ok(first_difference(scratch, data))
    }
}

/// Names a flush that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// Bytes in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len: u64,
    /// Whether storage is behind them. Without it they read as zeros.
    pub allocated: bool,
}

pub(super) fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b { None } else { a.iter().zip(b).position(|(x, y)| x != y) }
}
