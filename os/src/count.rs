//! Counts of I/O system calls made by the calling thread: what "system calls per I/O" is computed from.

use std::cell::Cell;
use std::ops::Sub;

/// System calls by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Receives.
    pub recv: u64,
    /// Sends, vectored ones included.
    pub send: u64,
    /// Waits for readiness.
    pub wait: u64,
    /// Connection set-up and tear-down: socket, connect, accept, epoll registration, options, shutdown.
    pub control: u64,
}

impl Calls {
    const ZERO: Self = Self { recv: 0, send: 0, wait: 0, control: 0 };

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.recv + self.send + self.wait + self.control
    }
}

impl Sub for Calls {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self {
            recv: self.recv - earlier.recv,
            send: self.send - earlier.send,
            wait: self.wait - earlier.wait,
            control: self.control - earlier.control,
        }
    }
}

thread_local! {
    static CALLS: Cell<Calls> = const { Cell::new(Calls::ZERO) };
}

/// What the calling thread made so far.
#[must_use]
pub fn calls() -> Calls {
    CALLS.get()
}

#[inline]
pub(crate) fn add(update: impl FnOnce(&mut Calls)) {
    let mut c = CALLS.get();
    update(&mut c);
    CALLS.set(c);
}
