//! Files that hold disks: locked against a second user, with holes punched and found, and flushed without
//! waiting.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::libc;
use nix::sys::signal::SigSet;
use nix::unistd::{Whence, lseek};

use crate::event::Event;

/// Opens a file or block device for use as a disk, and takes it: a writer keeps everybody else out, readers
/// share. The kernel holds the lock for the open file, by its inode, whatever name it was opened by, and
/// drops it with the last descriptor. On a block device a writer also claims the device itself, which a
/// mounted one does not allow.
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] when somebody else has taken it; what `open` says otherwise.
pub fn open_disk(path: &Path, writable: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable);
    let is_device = std::fs::metadata(path)?.file_type().is_block_device();
    if is_device && writable {
        options.custom_flags(libc::O_EXCL);
    }
    let file = options.open(path).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => io::ErrorKind::ResourceBusy.into(),
        _ => e,
    })?;
    let kind = if writable { libc::F_WRLCK } else { libc::F_RDLCK };
    let whole =
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(file),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(io::ErrorKind::ResourceBusy.into()),
        Err(e) => Err(e.into()),
    }
}

/// Creates a file that only its owner may read, for captures and traces: they hold data and proofs of
/// secrets. One that is there is emptied and taken away from the others. A symbolic link is not followed, but
/// for those of the system in `/dev` (`/dev/stdout`).
///
/// # Errors
/// What `open` says; `ELOOP` for a symbolic link.
pub fn create_private(path: &Path) -> io::Result<File> {
    let follow = if path.starts_with("/dev") { 0 } else { libc::O_NOFOLLOW };
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(follow).open(path)?;
    if file.metadata()?.file_type().is_file() {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Frees `len` bytes from `at`: they read as zeros, and the size of the file stays.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where the file system cannot do it.
pub fn punch_hole(file: &File, at: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, flags, offset(at)?, offset(len)?)?)
}

/// Whether the byte at `at` is data, and where this state ends: at `end` at the latest. Where the file system
/// does not tell, all is data.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the file ends before `at`.
pub fn data_at(file: &File, at: u64, end: u64) -> io::Result<(bool, u64)> {
    let found = |e: i64| (e as u64).min(end);
    match lseek(file, offset(at)?, Whence::SeekData) {
        Ok(data) if data as u64 > at => Ok((false, found(data))),
        Ok(_) => Ok((true, lseek(file, offset(at)?, Whence::SeekHole).map_or(end, found))),
        Err(Errno::ENXIO) if file.metadata()?.len() <= at => Err(io::ErrorKind::UnexpectedEof.into()),
        // No data up to the end of the file.
        Err(Errno::ENXIO) => Ok((false, file.metadata()?.len().min(end))),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok((true, end)),
        Err(e) => Err(e.into()),
    }
}

fn offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// What the flushing thread and its owner share.
#[derive(Debug, Default)]
struct Flushes {
    /// Flushes that were asked for, by number, and those that have ended.
    asked: u64,
    ended: u64,
    /// The numbers above the first and up to the second failed with this error. A file that failed once is
    /// not believed again, so one entry is enough.
    failed: Option<(u64, i32)>,
    over: bool,
}

/// A thread that makes a file's data durable, so that nobody else waits for a slow disk. One `fdatasync`
/// serves all who asked before it began. The thread ends with its owner; a flush under way is left to the
/// kernel.
#[derive(Debug)]
pub struct Flusher {
    shared: Arc<(Mutex<Flushes>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// A thread for `file`, which signals `done` whenever a flush has ended.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn new(file: &File, done: Arc<Event>) -> io::Result<Self> {
        let file = file.try_clone()?;
        Self::with(move || file.sync_data(), done)
    }

    fn with(
        mut flush: impl FnMut() -> io::Result<()> + Send + 'static,
        done: Arc<Event>,
    ) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Flushes::default()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("flush".into()).spawn(move || {
            // Signals are for the thread that asked for them.
            let _ = SigSet::all().thread_block();
            let (state, wake) = &*theirs;
            let mut flushes = state.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                flushes = wake
                    .wait_while(flushes, |f| f.asked == f.ended && !f.over)
                    .unwrap_or_else(PoisonError::into_inner);
                if flushes.over {
                    return;
                }
                let upto = flushes.asked;
                drop(flushes);
                let result = flush();
                flushes = state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(e) = result {
                    let after = flushes.ended;
                    flushes.failed.get_or_insert((after, e.raw_os_error().unwrap_or(libc::EIO)));
                }
                flushes.ended = upto;
                done.signal();
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Asks for a flush of all that was written before. Returns its number.
    pub fn start(&self) -> u64 {
        let (state, wake) = &*self.shared;
        let mut flushes = state.lock().unwrap_or_else(PoisonError::into_inner);
        flushes.asked += 1;
        wake.notify_one();
        flushes.asked
    }

    /// How the flush with this number ended; `None` while it is under way.
    pub fn end(&self, number: u64) -> Option<io::Result<()>> {
        let flushes = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        (flushes.ended >= number).then(|| match flushes.failed {
            Some((after, errno)) if number > after => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let (state, wake) = &*self.shared;
        let mut flushes = state.lock().unwrap_or_else(PoisonError::into_inner);
        flushes.over = true;
        let idle = flushes.asked == flushes.ended;
        drop(flushes);
        wake.notify_one();
        // An idle thread ends at once, and its descriptor, which holds the file's lock, with it.
        if let Some(thread) = self.thread.take_if(|_| idle) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::sync::mpsc;
    use std::time::Duration;

    /// A file of its own, whose directory goes with it.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("cnic-file-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            File::create(dir.join("disk")).unwrap().set_len(1 << 20).unwrap();
            Scratch(dir)
        }
        fn path(&self) -> std::path::PathBuf {
            self.0.join("disk")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_writer_is_alone_and_readers_share_whatever_the_name() {
        let s = Scratch::new("lock");
        let other_name = s.0.join("link");
        std::fs::hard_link(s.path(), &other_name).unwrap();
        let busy = |writable| {
            let e = open_disk(&other_name, writable).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::ResourceBusy);
        };
        let writer = open_disk(&s.path(), true).unwrap();
        busy(true);
        busy(false);
        drop(writer);
        let readers = [open_disk(&s.path(), false).unwrap(), open_disk(&other_name, false).unwrap()];
        busy(true);
        drop(readers);
        open_disk(&other_name, true).unwrap();
    }

    #[test]
    fn holes_are_punched_and_found() {
        let s = Scratch::new("holes");
        let file = open_disk(&s.path(), true).unwrap();
        assert_eq!(data_at(&file, 0, 1 << 20).unwrap(), (false, 1 << 20));
        file.write_all_at(&[7; 256 << 10], 256 << 10).unwrap();
        match punch_hole(&file, 320 << 10, 64 << 10) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return,
            other => other.unwrap(),
        }
        let mut states = Vec::new();
        let mut at = 0;
        while at < 1 << 20 {
            let (data, end) = data_at(&file, at, 1 << 20).unwrap();
            states.push((data, end >> 10));
            at = end;
        }
        assert_eq!(states, [(false, 256), (true, 320), (false, 384), (true, 512), (false, 1024)]);
        assert!(file.metadata().unwrap().blocks() <= 512, "a quarter of the data is gone");
        file.set_len(4096).unwrap();
        assert_eq!(data_at(&file, 8192, 1 << 20).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// A flusher whose flushes end when the test says how.
    fn scripted() -> (Flusher, mpsc::Receiver<()>, mpsc::Sender<io::Result<()>>, Arc<Event>) {
        let (began, begun) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let done = Arc::new(Event::new().unwrap());
        let flush = move || {
            began.send(()).unwrap();
            ends.recv().unwrap()
        };
        (Flusher::with(flush, Arc::clone(&done)).unwrap(), begun, end, done)
    }

    fn wait(done: &Event) {
        use std::os::fd::AsFd;
        assert_eq!(crate::event::ready(&[(done.as_fd(), true, false)], Some(Duration::from_secs(30))), 1);
        done.take();
    }

    #[test]
    fn a_flush_covers_all_who_asked_before_it_began() {
        let (flusher, begun, end, done) = scripted();
        let first = flusher.start();
        begun.recv().unwrap();
        // These came while the first was under way, so they need another one; both the same.
        let (second, third) = (flusher.start(), flusher.start());
        assert!(flusher.end(first).is_none());
        end.send(Ok(())).unwrap();
        begun.recv().unwrap();
        wait(&done);
        assert!(flusher.end(first).unwrap().is_ok() && flusher.end(second).is_none());
        end.send(Err(io::Error::from_raw_os_error(libc::ENOSPC))).unwrap();
        wait(&done);
        for number in [second, third] {
            assert_eq!(flusher.end(number).unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
        assert!(flusher.end(first).unwrap().is_ok(), "what was durable before stays so");
    }

    #[test]
    fn data_reaches_the_file_system() {
        let s = Scratch::new("flush");
        let file = open_disk(&s.path(), true).unwrap();
        let done = Arc::new(Event::new().unwrap());
        let flusher = Flusher::new(&file, Arc::clone(&done)).unwrap();
        file.write_all_at(&[7; 4096], 0).unwrap();
        let number = flusher.start();
        wait(&done);
        assert!(flusher.end(number).unwrap().is_ok());
    }
}
