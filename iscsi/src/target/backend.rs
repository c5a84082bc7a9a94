//! Where the blocks of a disk live: memory or a file. The disk checks every range before it calls; a backend answers I/O errors of
//! its own only. The file is opened by the caller: this crate opens nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Storage behind a [`Disk`](super::Disk): bytes at offsets. Ranges are inside [`size`](Self::size).
pub trait Backend: Send {
    /// Size in bytes. It does not change.
    fn size(&self) -> u64;
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
    /// Makes `len` bytes from `at` read as zeros.
    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()>;
    /// Makes every finished write durable.
    fn flush(&mut self) -> io::Result<()>;
    /// Whether the bytes at `at` equal `data`: the offset of the first difference, or `None`.
    fn compare_at(&mut self, at: u64, data: &[u8], scratch: &mut Vec<u8>) -> io::Result<Option<usize>> {
        scratch.clear();
        self.read_at(at, data.len(), scratch)?;
        Ok(first_difference(scratch, data))
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b { None } else { a.iter().zip(b).position(|(x, y)| x != y) }
}

/// A range outside the backend: the disk's check failed, so this is a bug, answered as an I/O error.
fn out_of_range() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

/// Blocks in memory. They belong to the target, so they outlive every session.
#[derive(Debug)]
pub struct RamBackend {
    bytes: Vec<u8>,
}

impl RamBackend {
    /// `size` bytes of zeros.
    pub fn new(size: usize) -> RamBackend {
        RamBackend { bytes: vec![0; size] }
    }

    fn range(&mut self, at: u64, len: usize) -> io::Result<&mut [u8]> {
        let at = usize::try_from(at).map_err(|_| out_of_range())?;
        let end = at.checked_add(len).ok_or_else(out_of_range)?;
        self.bytes.get_mut(at..end).ok_or_else(out_of_range)
    }
}

impl Backend for RamBackend {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(self.range(at, len)?);
        Ok(())
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.range(at, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| out_of_range())?;
        self.range(at, len)?.fill(0);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn compare_at(&mut self, at: u64, data: &[u8], _: &mut Vec<u8>) -> io::Result<Option<usize>> {
        Ok(first_difference(self.range(at, data.len())?, data))
    }
}

/// Blocks in a file or block device, reached with positional reads and writes. Calls may block in the kernel.
#[derive(Debug)]
pub struct FileBackend {
    file: File,
    size: u64,
    read_only: bool,
}

impl FileBackend {
    /// Serves the first `size` bytes of `file` (the caller knows the size of a block device; a regular file's is in its metadata).
    pub fn new(file: File, size: u64, read_only: bool) -> FileBackend {
        FileBackend { file, size, read_only }
    }
}

impl Backend for FileBackend {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn volatile_cache(&self) -> bool {
        true
    }

    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + len, 0);
        self.file.read_exact_at(&mut out[start..], at).inspect_err(|_| out.truncate(start))
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, at)
    }

    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let end = at.checked_add(len).ok_or_else(out_of_range)?;
        let mut at = at;
        while at < end {
            let chunk = (end - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..chunk as usize], at)?;
            at += chunk;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise(backend: &mut dyn Backend) {
        let mut out = b"kept".to_vec();
        backend.write_at(510, &[1, 2, 3, 4]).unwrap();
        backend.read_at(509, 6, &mut out).unwrap();
        assert_eq!(out, [b"kept", &[0, 1, 2, 3, 4, 0][..]].concat());
        assert_eq!(backend.compare_at(510, &[1, 2, 9, 4], &mut Vec::new()).unwrap(), Some(2));
        assert_eq!(backend.compare_at(510, &[1, 2, 3, 4], &mut Vec::new()).unwrap(), None);
        backend.zero_at(511, 2).unwrap();
        assert_eq!(backend.compare_at(510, &[1, 0, 0, 4], &mut Vec::new()).unwrap(), None);
        backend.flush().unwrap();
        out.clear();
        assert!(backend.read_at(backend.size() - 1, 2, &mut out).is_err());
        assert!(out.is_empty(), "a failed read leaves no bytes");
    }

    #[test]
    fn ram() {
        let mut ram = RamBackend::new(4096);
        exercise(&mut ram);
        assert!(ram.write_at(4095, &[0; 2]).is_err());
        assert!(ram.zero_at(u64::MAX, 2).is_err());
    }

    #[test]
    fn file() {
        let path = std::env::temp_dir().join(format!("cnic-backend-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(200_000).unwrap();
        let mut backend = FileBackend::new(file, 200_000, false);
        exercise(&mut backend);
        backend.write_at(1000, &[7; 100_000]).unwrap();
        backend.zero_at(1000, 100_000).unwrap();
        assert_eq!(backend.compare_at(1000, &[0; 100_000], &mut Vec::new()).unwrap(), None);
    }
}
