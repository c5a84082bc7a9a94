//! Event counters (eventfd): how one process interrupts another.
//!
//! A counter that two processes hold has one open file, and whether a read or a write of it blocks is a flag
//! of that file: the peer may take `O_NONBLOCK` away at any moment, fill the counter, or drain it. So neither
//! direction rests on the flag. [`Event::take`] reads with `RWF_NOWAIT`, which belongs to the call. There is
//! no such call for writing: [`Signal`] has the kernel signal the counter as the completion of an empty read
//! of a file of ours (`IOCB_FLAG_RESFD`). That adds to the counter up to its maximum and never waits for
//! anybody; it costs about 0.3 us more than a write.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// An event counter that we wait for. Whoever else holds it cannot make us wait.
#[derive(Debug)]
pub struct Event(EventFd);

impl Event {
    /// A new counter, zero.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// For tests of those who signal: a counter whose file blocks, and which is full.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn hostile() -> io::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        fd.write(u64::MAX - 1)?;
        Ok(Self(fd))
    }

    /// Takes a counter that a peer made and signals.
    ///
    /// # Errors
    /// `InvalidInput` when it is not an eventfd.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        check(&fd)?;
        // SAFETY: the descriptor is an eventfd, checked above, and nobody else owns it.
        Ok(Self(unsafe { EventFd::from_owned_fd(fd) }))
    }

    /// Whether it was signalled since the last call; it is not any more.
    pub fn take(&self) -> bool {
        let mut count = 0_u64;
        let part = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: size_of::<u64>() };
        // SAFETY: the one part names eight bytes that live through the call.
        let n = unsafe { libc::preadv2(self.0.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
        match Errno::result(n) {
            Ok(_) => true,
            // Kernels before 5.8 do not know the flag here. Theirs is the file's own, as far as the peer
            // leaves it.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                ready(&[(self.as_fd(), true, false)], Some(Duration::ZERO)) != 0 && self.0.read().is_ok()
            }
            Err(_) => false,
        }
    }

    /// Signals it: for a counter that no other process holds, which is non-blocking as it was made. A counter
    /// that is full stays signalled. For one that is shared there is [`Signal`].
    pub fn signal(&self) {
        // The one error of a counter that nobody else configures is "full", and then it is signalled.
        let _ = self.0.write(1);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(fd: &OwnedFd) -> io::Result<()> {
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    if kind.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

/// Completions that the kernel keeps for us at least, and after how many of them they are taken away.
const COMPLETIONS: libc::c_long = 128;
const TAKEN_AFTER: u32 = 64;

/// The kernel's asynchronous I/O, of which only the completions' eventfds are used.
struct Bell {
    context: libc::c_ulong,
    /// What is read: nothing of it.
    file: File,
    rung: AtomicU32,
}

impl Bell {
    /// The process's own; `None`: the kernel has no asynchronous I/O, or lets us have none.
    fn get() -> Option<&'static Self> {
        static BELL: OnceLock<Option<Bell>> = OnceLock::new();
        BELL.get_or_init(|| {
            let file = File::from(memfd_create("bell", MFdFlags::MFD_CLOEXEC).ok()?);
            let mut context: libc::c_ulong = 0;
            // SAFETY: the kernel writes the number of a context to a word that lives through the call.
            let r = unsafe { libc::syscall(libc::SYS_io_setup, COMPLETIONS, &raw mut context) };
            (r == 0).then(|| Self { context, file, rung: AtomicU32::new(0) })
        })
        .as_ref()
    }

    fn ring(&self, fd: BorrowedFd<'_>) {
        // SAFETY: all zeros is a valid control block.
        let mut block: libc::iocb = unsafe { std::mem::zeroed() };
        // IOCB_CMD_PREAD is zero: an empty read of a file in memory, which is complete when it is submitted.
        block.aio_fildes = self.file.as_raw_fd() as u32;
        block.aio_flags = 1; // IOCB_FLAG_RESFD
        block.aio_resfd = fd.as_raw_fd() as u32;
        if self.rung.fetch_add(1, Ordering::Relaxed) % TAKEN_AFTER == TAKEN_AFTER - 1 {
            self.take_completions();
        }
        for _ in 0..2 {
            let list = [&raw mut block];
            // SAFETY: one pointer to a control block, both alive through the call; the kernel copies it and
            // has no buffer to write to, as nothing is read.
            let n = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1_usize, list.as_ptr()) };
            if n == 1 {
                return;
            }
            // Nobody has taken the completions away.
            self.take_completions();
        }
    }

    fn take_completions(&self) {
        /// `struct io_event`.
        type Completion = [u64; 4];
        let mut gone: [Completion; COMPLETIONS as usize] = [[0; 4]; COMPLETIONS as usize];
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: there is room for as many completions as we say, and a timeout, both alive through the
        // call.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0_usize,
                gone.len(),
                gone.as_mut_ptr(),
                &raw const at_once,
            )
        };
    }
}

/// An event counter that another process holds too. It is only ever signalled, and never blocks whoever
/// signals it.
#[derive(Debug)]
pub struct Signal(OwnedFd);

impl Signal {
    /// Takes a descriptor that a peer has sent, or will get.
    ///
    /// # Errors
    /// `InvalidInput` when it is not an eventfd: writing to a pipe or socket could block or kill.
    /// `Unsupported` when this kernel has no way to signal without waiting (it was built without asynchronous
    /// I/O, or a sandbox forbids `io_setup`).
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        check(&fd)?;
        if Bell::get().is_none() {
            let why =
                "interrupts of another process need the kernel's asynchronous I/O (io_setup, io_submit)";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        Ok(Self(fd))
    }

    /// Signals it. A counter that is full stays signalled.
    pub fn signal(&self) {
        if let Some(bell) = Bell::get() {
            bell.ring(self.0.as_fd());
        }
    }
}

/// Waits until one of up to 64 descriptors is ready to read (second field) or write (third), or `timeout` has
/// passed (`None`: for ever). Returns a bit for each that is ready or broken.
pub fn ready(fds: &[(BorrowedFd<'_>, bool, bool)], timeout: Option<Duration>) -> u64 {
    const NONE: libc::pollfd = libc::pollfd { fd: -1, events: 0, revents: 0 };
    let n = fds.len().min(64);
    let mut set = [NONE; 64];
    for (slot, (fd, read, write)) in set.iter_mut().zip(fds) {
        let events = if *read { libc::POLLIN } else { 0 } | if *write { libc::POLLOUT } else { 0 };
        *slot = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    }
    // Rounded up: a wait that ends early would spin.
    let ms = timeout.map_or(-1, |t| i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
    // SAFETY: `set` holds at least `n` entries and outlives the call.
    let r = unsafe { libc::poll(set.as_mut_ptr(), n as libc::nfds_t, ms) };
    if r <= 0 {
        debug_assert!(r == 0 || matches!(Errno::last(), Errno::EINTR | Errno::ENOMEM));
        return 0;
    }
    set[..n].iter().enumerate().filter(|(_, p)| p.revents != 0).fold(0, |bits, (i, _)| bits | 1 << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_taken_once() {
        let e = Event::new().unwrap();
        let peer = Signal::adopt(e.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(!e.take());
        assert_eq!(ready(&[(e.as_fd(), true, false)], Some(Duration::ZERO)), 0);
        peer.signal();
        e.signal();
        assert_eq!(ready(&[(e.as_fd(), true, false)], Some(Duration::from_secs(5))), 1);
        assert!(e.take());
        assert!(!e.take());
    }

    #[test]
    fn a_full_counter_blocks_nobody() {
        let fd = EventFd::from_flags(EfdFlags::empty()).unwrap();
        fd.write(u64::MAX - 1).unwrap();
        let peer = Signal::adopt(fd.as_fd().try_clone_to_owned().unwrap()).unwrap();
        // More often than completions are kept.
        for _ in 0..1000 {
            peer.signal();
        }
        assert_eq!(fd.read().unwrap(), u64::MAX, "it is signalled, and nobody has waited");
    }

    #[test]
    fn every_signal_counts_while_there_is_room() {
        let e = EventFd::from_flags(EfdFlags::empty()).unwrap();
        let peer = Signal::adopt(e.as_fd().try_clone_to_owned().unwrap()).unwrap();
        (0..500).for_each(|_| peer.signal());
        assert_eq!(e.read().unwrap(), 500);
    }

    /// The peer takes the flag away after we have the counter, and drains it before we look.
    #[test]
    fn a_counter_that_the_peer_made_blocking_is_taken_without_waiting() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let e = Event::new().unwrap();
        let peers = e.as_fd().try_clone_to_owned().unwrap();
        fcntl(&peers, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        assert!(!e.take());
        Signal::adopt(peers).unwrap().signal();
        assert!(e.take() && !e.take());
    }

    #[test]
    fn only_event_counters_are_adopted() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(Signal::adopt(file.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
