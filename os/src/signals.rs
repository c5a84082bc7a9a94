//! SIGTERM and SIGINT as events of the reactor, so that a long-running command can stop cleanly.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The request to stop.
#[derive(Debug)]
pub struct StopSignals(SignalFd);

impl StopSignals {
    /// Takes SIGTERM and SIGINT away from their default action, for this thread and those that it starts later.
    ///
    /// # Errors
    /// The kernel refuses one more descriptor.
    pub fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        set.thread_block()?;
        Ok(Self(fd))
    }

    /// Whether one arrived since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

impl AsFd for StopSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::reactor::Reactor;

    #[test]
    fn a_signal_wakes_the_reactor_and_is_taken_once() {
        let mut reactor = Reactor::new().unwrap();
        let owner = reactor.owner().unwrap();
        let stop = StopSignals::new().unwrap();
        owner.register(&stop, 3).unwrap();
        assert!(!stop.take());
        // To this thread alone: other tests of the process keep theirs.
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        let mut woken = Vec::new();
        reactor.wait(Some(Duration::from_secs(5)), &mut woken).unwrap();
        assert_eq!(woken, [owner.index()]);
        assert!(stop.take());
        assert!(!stop.take());
    }
}
