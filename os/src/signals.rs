//! Signals as events of the reactor: SIGTERM and SIGINT, so that a long-running command can stop cleanly, and
//! SIGUSR1 and SIGUSR2 for who wants to pull a cable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The request to stop.
#[derive(Debug)]
pub struct StopSignals(SignalFd);

impl StopSignals {
    /// Takes SIGTERM and SIGINT away from their default action, for this thread and those that it starts
    /// later.
    ///
    /// # Errors
    /// The kernel refuses one more descriptor.
    pub fn new() -> io::Result<Self> {
        watch([Signal::SIGTERM, Signal::SIGINT]).map(Self)
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

/// The request to pull the cable of a port (SIGUSR1) or to plug it in (SIGUSR2).
#[derive(Debug)]
pub struct CableSignals(SignalFd);

impl CableSignals {
    /// Takes both signals away from their default action, for this thread and those that it starts later.
    ///
    /// # Errors
    /// The kernel refuses one more descriptor.
    pub fn new() -> io::Result<Self> {
        watch([Signal::SIGUSR1, Signal::SIGUSR2]).map(Self)
    }

    /// The next request: whether the cable is to be in. Equal ones that were not taken yet count once.
    #[must_use]
    pub fn take(&self) -> Option<bool> {
        let signal = self.0.read_signal().ok().flatten()?;
        Some(signal.ssi_signo == Signal::SIGUSR2 as u32)
    }
}

impl AsFd for CableSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn watch(signals: [Signal; 2]) -> io::Result<SignalFd> {
    let set = SigSet::from_iter(signals);
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    set.thread_block()?;
    Ok(fd)
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

    #[test]
    fn a_cable_is_pulled_and_plugged() {
        let cable = CableSignals::new().unwrap();
        assert_eq!(cable.take(), None);
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        assert_eq!((cable.take(), cable.take()), (Some(false), None));
        nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
        assert_eq!((cable.take(), cable.take()), (Some(true), None));
    }
}
