//! Event counters (eventfd): how one process interrupts another.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// An event counter of ours. Non-blocking.
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

    /// Takes a counter that a peer made and signals. It becomes non-blocking, for the peer too.
    ///
    /// # Errors
    /// `InvalidInput` when it is not an eventfd.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        check(&fd)?;
        let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is an eventfd, checked above, and nobody else owns it.
        Ok(Self(unsafe { EventFd::from_owned_fd(fd) }))
    }

    /// Whether it was signalled since the last call; it is not any more.
    pub fn take(&self) -> bool {
        self.0.read().is_ok()
    }

    /// Signals it. A counter that is full stays signalled.
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

/// An event counter that a peer sent. It is only ever written to, and never blocks whoever signals it.
#[derive(Debug)]
pub struct Signal {
    fd: OwnedFd,
    may_block: bool,
}

impl Signal {
    /// Takes a descriptor of a peer.
    ///
    /// # Errors
    /// `InvalidInput` when it is not an eventfd: writing to a pipe or socket could block or kill.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        check(&fd)?;
        let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
        Ok(Self { fd, may_block: !flags.contains(OFlag::O_NONBLOCK) })
    }

    /// Signals it. A counter that is full stays signalled.
    pub fn signal(&self) {
        // A blocking write to a full counter would wait for the peer.
        if !self.may_block || ready(&[(self.fd.as_fd(), false, true)], Some(Duration::ZERO)) != 0 {
            let _ = nix::unistd::write(&self.fd, &1u64.to_ne_bytes());
        }
    }
}

/// Waits until one of up to 64 descriptors is ready to read (second field) or write (third), or `timeout` has passed
/// (`None`: for ever). Returns a bit for each that is ready or broken.
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
        peer.signal();
        assert_eq!(fd.read().unwrap(), u64::MAX - 1);
    }

    #[test]
    fn only_event_counters_are_adopted() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Signal::adopt(file.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
