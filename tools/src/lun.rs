//! What `cnic target --lun` accepts: `ram:SIZE` and `file:PATH`.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use iscsi::target::{Backend, Disk};
use lab::storage::{FileDisk, ram_disk};
use os::event::Event;

use crate::failure::Failure;
use crate::size;

/// What all units of a target have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) read_only: bool,
    pub(crate) removable: bool,
    /// Bytes per logical block.
    pub(crate) block: u32,
}

/// Makes the unit that `spec` describes. `identity` is stable for the place the unit has: initiators know the
/// disk by it. Flushes of a file signal `flushed` when they have ended.
pub(crate) fn open(
    spec: &str,
    identity: &str,
    traits: Traits,
    flushed: &Arc<Event>,
) -> Result<Disk, Failure> {
    let Traits { read_only, removable, block } = traits;
    let small = || Failure::usage(format!("--lun {spec}: a disk has at least {block} bytes"));
    let backend: Box<dyn Backend> = match spec.split_once(':') {
        Some(("ram", text)) => {
            let bytes = size::parse(text).map_err(|e| Failure::usage(format!("--lun {spec}: {e}")))?;
            if bytes < u64::from(block) {
                return Err(small());
            }
            // What the machine would refuse is refused here, not by an abort.
            let ram = usize::try_from(bytes).ok().and_then(|n| ram_disk(n).ok()).ok_or_else(|| {
                Failure::usage(format!(
                    "--lun {spec}: this machine does not give that much memory; use a file, or less"
                ))
            })?;
            Box::new(if read_only { ram.read_only() } else { ram })
        }
        Some(("file", path)) => Box::new(file(path, read_only, flushed)?),
        _ => {
            return Err(Failure::usage(format!("--lun {spec}: write ram:SIZE or file:PATH")));
        }
    };
    if backend.size() < u64::from(block) {
        return Err(small());
    }
    let disk =
        Disk::new(backend, block, identity).map_err(|e| Failure::usage(format!("--lun {spec}: {e}")))?;
    Ok(if removable { disk.removable() } else { disk })
}

fn file(path: &str, read_only: bool, flushed: &Arc<Event>) -> Result<FileDisk, Failure> {
    FileDisk::open(Path::new(path), read_only, flushed).map_err(|e| match e.kind() {
        ErrorKind::ResourceBusy => Failure::usage(format!(
            "{path} is in use: another target, another LUN of this one, a mount or another program holds it; two \
             writers would destroy the data (readers can share it: --read-only for all of them)"
        )),
        ErrorKind::IsADirectory => {
            Failure::usage(format!("{path} is a directory; name a file or a block device"))
        }
        ErrorKind::NotFound => Failure::usage(format!(
            "cannot open {path}: {e}; create it with `truncate -s 1G {path}`"
        )),
        ErrorKind::PermissionDenied if !read_only => {
            Failure::usage(format!("cannot open {path}: {e}; or serve it with --read-only"))
        }
        _ => Failure::usage(format!("cannot open {path}: {e}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(spec: &str, read_only: bool) -> Result<Disk, Failure> {
        let traits = Traits { read_only, removable: false, block: 512 };
        open(spec, "1", traits, &Arc::new(Event::new().unwrap()))
    }

    fn error(spec: &str) -> String {
        let e = unit(spec, false).unwrap_err();
        assert_eq!(e.code(), 7);
        e.to_string()
    }

    #[test]
    fn memory_costs_nothing_until_it_is_written() {
        let before = os::clock::resident_bytes().unwrap();
        let disk = unit("ram:4G", false).unwrap();
        assert_eq!((disk.blocks(), disk.block_size()), (8 << 20, 512));
        assert!(os::clock::resident_bytes().unwrap() < before + (64 << 20));
    }

    #[test]
    fn a_file_is_served_whole() {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(1_000_000).unwrap();
        let disk = unit(&format!("file:{}", f.path().display()), false).unwrap();
        assert_eq!(disk.blocks(), 1953, "a rest smaller than a block is not used");
    }

    #[test]
    fn a_file_has_one_writer_or_many_readers() {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(1 << 20).unwrap();
        let link = f.path().with_extension("link");
        std::os::unix::fs::symlink(f.path(), &link).unwrap();
        let (spec, other) = (format!("file:{}", f.path().display()), format!("file:{}", link.display()));
        let writer = unit(&spec, false).unwrap();
        for read_only in [false, true] {
            let e = unit(&other, read_only).unwrap_err().to_string();
            assert!(e.contains("is in use") && e.contains("link"), "{e}");
        }
        drop(writer);
        let _readers = [unit(&spec, true).unwrap(), unit(&other, true).unwrap()];
        assert!(unit(&spec, false).is_err());
        std::fs::remove_file(link).unwrap();
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
