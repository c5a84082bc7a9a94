//! What `cnic target --lun` accepts: `ram:SIZE` and `file:PATH`.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};

use iscsi::target::{Backend, Disk, FileBackend, RamBackend};

use crate::failure::Failure;
use crate::size;

/// Bytes per logical block of every unit.
const BLOCK: u32 = 512;

/// Makes the unit that `spec` describes. `identity` is stable for the place the unit has: initiators know the disk by it.
pub(crate) fn open(spec: &str, identity: &str, read_only: bool) -> Result<Disk, Failure> {
    let backend: Box<dyn Backend> = match spec.split_once(':') {
        Some(("ram", text)) => {
            let bytes = size::parse(text).map_err(|e| Failure::usage(format!("--lun {spec}: {e}")))?;
            memory(bytes, spec)
                .map(|ram| if read_only { Box::new(ReadOnly(ram)) as _ } else { Box::new(ram) as _ })?
        }
        Some(("file", path)) => Box::new(file(path, read_only)?),
        _ => {
            return Err(Failure::usage(format!("--lun {spec}: write ram:SIZE or file:PATH")));
        }
    };
    if backend.size() < u64::from(BLOCK) {
        return Err(Failure::usage(format!("--lun {spec}: a disk has at least {BLOCK} bytes")));
    }
    Disk::new(backend, BLOCK, identity).map_err(|e| Failure::usage(format!("--lun {spec}: {e}")))
}

/// Memory that is only used where it is written. What the machine would refuse is refused here, not by an abort.
fn memory(bytes: u64, spec: &str) -> Result<RamBackend, Failure> {
    let size = usize::try_from(bytes).ok().filter(|&n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    let size = size.ok_or_else(|| {
        Failure::usage(format!(
            "--lun {spec}: this machine does not give that much memory; use a file, or less"
        ))
    })?;
    Ok(RamBackend::new(size))
}

fn file(path: &str, read_only: bool) -> Result<FileBackend, Failure> {
    let failed = |e: std::io::Error| {
        let advice = match e.kind() {
            std::io::ErrorKind::NotFound => format!("; create it with `truncate -s 1G {path}`"),
            std::io::ErrorKind::PermissionDenied if !read_only => "; or serve it with --read-only".to_owned(),
            _ => String::new(),
        };
        Failure::usage(format!("cannot open {path}: {e}{advice}"))
    };
    let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(Failure::usage(format!("{path} is a directory; name a file or a block device")));
    }
    // The end is the size of a block device, too.
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok(FileBackend::new(file, size, read_only))
}

/// A backend that takes no writes.
struct ReadOnly<B>(B);

impl<B: Backend> Backend for ReadOnly<B> {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read_at(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
        self.0.read_at(at, len, out)
    }
    fn write_at(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }
    fn zero_at(&mut self, _: u64, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(spec: &str) -> String {
        let e = open(spec, "1", false).unwrap_err();
        assert_eq!(e.code(), 7);
        e.to_string()
    }

    #[test]
    fn memory_costs_nothing_until_it_is_written() {
        let before = os::clock::resident_bytes().unwrap();
        let disk = open("ram:4G", "1", false).unwrap();
        assert_eq!((disk.blocks(), disk.block_size()), (8 << 20, 512));
        assert!(os::clock::resident_bytes().unwrap() < before + (64 << 20));
    }

    #[test]
    fn a_file_is_served_whole() {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(1_000_000).unwrap();
        let disk = open(&format!("file:{}", f.path().display()), "1", false).unwrap();
        assert_eq!(disk.blocks(), 1953, "a rest smaller than a block is not used");
    }

    #[test]
    fn errors_say_what_to_do() {
        assert!(error("ram:lots").contains("write a size such as"));
        assert!(error("ram:100").contains("at least 512 bytes"));
        assert!(error("ram:8388608T").contains("use a file, or less"));
        assert!(error("disk.img").contains("write ram:SIZE or file:PATH"));
        assert!(error("file:/no/such/file").contains("truncate -s 1G /no/such/file"));
        assert!(error("file:/tmp").contains("directory"));
    }
}
