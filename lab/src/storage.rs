//! What a target on host sockets keeps its blocks in: a file or block device, or memory that goes back to the
//! system when blocks are unmapped.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use iscsi::target::{Backend, Extent, Memory, RamBackend, Ticket};
use os::event::Event;
use os::file::{self, Flusher};
use os::memory::Pages;

/// Blocks in a file or block device, reached with positional reads and writes, which may block in the kernel.
/// Flushes do not: a thread waits for them. Nobody else may use the file meanwhile ([`os::file::open_disk`]).
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    name: String,
    size: u64,
    read_only: bool,
    flusher: Option<Flusher>,
    /// The file system frees nothing; zeros are written then, over data only.
    no_holes: bool,
}

impl FileDisk {
    /// Serves the file or block device at `path`. Flushes signal `flushed` when they have ended.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] when somebody else serves it; what the system says otherwise.
    pub fn open(path: &Path, read_only: bool, flushed: &Arc<Event>) -> io::Result<Self> {
        let mut file = file::open_disk(path, !read_only)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // The end is the size of a block device, too.
        let size = file.seek(SeekFrom::End(0))?;
        let flusher = if read_only { None } else { Some(Flusher::new(&file, Arc::clone(flushed))?) };
        let name = path.display().to_string();
        Ok(Self { file, name, size, read_only, flusher, no_holes: false })
    }

    /// Zeros for what is data. A hole reads as zeros already, and stays one.
    fn write_zeros(&self, at: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let (mut at, end) = (at, at + len);
        while at < end {
            let (data, until) = match file::data_at(&self.file, at, end) {
                // Past the end of a file that was cut: written again, as any write there.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => (true, end),
                found => found?,
            };
            while data && at < until {
                let piece = (until - at).min(ZEROS.len() as u64);
                self.file.write_all_at(&ZEROS[..piece as usize], at)?;
                at += piece;
            }
            at = until;
        }
        Ok(())
    }
}

impl Backend for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn volatile_cache(&self) -> bool {
        !self.read_only
    }

    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + len, 0);
        self.file.read_exact_at(&mut out[start..], at).inspect_err(|_| out.truncate(start)).map_err(|e| {
            match e.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(e.kind(), "the file ends before it: it was cut")
                }
                _ => e,
            }
        })
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, at)
    }

    fn zero_at(&mut self, at: u64, len: u64) -> io::Result<()> {
        if !self.no_holes {
            match file::punch_hole(&self.file, at, len) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => self.no_holes = true,
                done => return done,
            }
        }
        self.write_zeros(at, len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_flush(&mut self) -> io::Result<Option<Ticket>> {
        // Nothing was written to a disk without a flusher.
        Ok(self.flusher.as_ref().map(|f| Ticket(f.start())))
    }

    fn end_flush(&mut self, ticket: Ticket) -> Option<io::Result<()>> {
        self.flusher.as_ref().map_or(Some(Ok(())), |f| f.end(ticket.0))
    }

    fn extent_at(&mut self, at: u64, len: u64) -> io::Result<Extent> {
        let (allocated, end) = file::data_at(&self.file, at, at + len)?;
        Ok(Extent { len: end - at, allocated })
    }
}

/// Memory of the system's; see [`ram_disk`].
#[derive(Debug)]
pub struct RamPages(Pages);

impl Memory for RamPages {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }

    fn discard(&mut self, range: Range<usize>) {
        self.0.discard(range);
    }
}

/// A RAM disk of `size` bytes, not zero, that takes memory only for what is written and not unmapped.
///
/// # Errors
/// The machine does not give that much.
pub fn ram_disk(size: usize) -> io::Result<RamBackend<RamPages>> {
    Ok(RamBackend::on(RamPages(Pages::new(size)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const MIB: u64 = 1 << 20;

    struct Bench {
        path: std::path::PathBuf,
        disk: FileDisk,
    }

    impl Bench {
        fn new(name: &str, size: u64) -> Bench {
            let path = std::env::temp_dir().join(format!("cnic-storage-{name}-{}", std::process::id()));
            File::create(&path).unwrap().set_len(size).unwrap();
            let disk = FileDisk::open(&path, false, &Arc::new(Event::new().unwrap())).unwrap();
            Bench { path, disk }
        }

        fn allocated(&self) -> u64 {
            std::fs::metadata(&self.path).unwrap().blocks() * 512
        }

        fn is_zero(&mut self, at: u64, len: usize) -> bool {
            self.disk.compare_at(at, &vec![0; len], &mut Vec::new()).unwrap().is_none()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn bytes_come_back_as_written() {
        let mut b = Bench::new("bytes", 200_000);
        b.disk.write_at(510, &[1, 2, 3, 4]).unwrap();
        let mut out = b"kept".to_vec();
        b.disk.read_at(509, 6, &mut out).unwrap();
        assert_eq!(out, [b"kept", &[0, 1, 2, 3, 4, 0][..]].concat());
        b.disk.zero_at(511, 2).unwrap();
        assert_eq!(b.disk.compare_at(510, &[1, 0, 0, 4], &mut Vec::new()).unwrap(), None);
        out.clear();
        let e = b.disk.read_at(199_999, 2, &mut out).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        assert!(out.is_empty(), "a failed read leaves no bytes");
    }

    /// Zeroing frees what was written, and takes nothing for what was not; where the file system frees
    /// nothing, too.
    #[test]
    fn zeroing_never_takes_room() {
        for no_holes in [false, true] {
            let mut b = Bench::new("zero", 8 * MIB);
            b.disk.no_holes = no_holes;
            b.disk.zero_at(0, 8 * MIB).unwrap();
            assert_eq!(b.allocated(), 0, "no_holes {no_holes}");
            b.disk.write_at(2 * MIB, &vec![7; 2 * MIB as usize]).unwrap();
            let before = b.allocated();
            b.disk.zero_at(MIB, 2 * MIB).unwrap();
            let after = b.allocated();
            let freed = if b.disk.no_holes { 0 } else { MIB };
            assert!(after <= before - freed, "no_holes {no_holes}: {before} -> {after}");
            assert!(b.is_zero(MIB, 2 * MIB as usize));
            assert!(b.disk.compare_at(3 * MIB, &vec![7; MIB as usize], &mut Vec::new()).unwrap().is_none());
            if !b.disk.no_holes {
                let extent = b.disk.extent_at(MIB, 7 * MIB).unwrap();
                assert_eq!(extent, Extent { len: 2 * MIB, allocated: false });
                assert_eq!(b.disk.extent_at(3 * MIB, MIB).unwrap(), Extent { len: MIB, allocated: true });
            }
        }
    }

    #[test]
    fn one_file_has_one_server() {
        let b = Bench::new("lock", MIB);
        let open = |read_only| FileDisk::open(&b.path, read_only, &Arc::new(Event::new().unwrap()));
        assert_eq!(open(false).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(open(true).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    }
}
