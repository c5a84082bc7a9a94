//! What happens when a mapping's file does not hold a page any more: the handler of SIGBUS.
//!
//! The handler runs in the middle of an access, in whatever thread made it, with any lock held. Therefore it
//! takes none, allocates nothing and calls nothing but `mmap`, `sigaction` and `raise`, of which the last two
//! are async-signal-safe by POSIX and `mmap` is a plain system call that touches no state of the C library
//! but `errno`, which is put back. What it reads is a table of atomics in static memory. An entry that it
//! finds belongs to a mapping that is alive: the access that faulted is made through it.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once};

use nix::libc;

/// Entries of the table.
pub(super) const SLOTS: usize = 16 * 1024;

struct Slot {
    /// Address of the first byte; zero: the entry is free or not yet set.
    base: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { base: AtomicUsize::new(0), len: AtomicUsize::new(0), lost: AtomicBool::new(false) } };
        SLOTS];
/// Entries beyond were never used: the handler does not look at them.
static USED: AtomicUsize = AtomicUsize::new(0);
static LOSSES: AtomicU64 = AtomicU64::new(0);
/// Entries that were used and are free again. The handler does not need it.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// What the process did on SIGBUS before us. Set once, before our handler can run.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

pub(super) fn losses() -> u64 {
    LOSSES.load(Ordering::Acquire)
}

/// An entry of the table; free again when dropped.
#[derive(Debug)]
pub(super) struct Watch(usize);

impl Watch {
    /// An entry that watches nothing yet.
    pub(super) fn new() -> io::Result<Self> {
        install();
        let mut free = FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let i = match free.pop() {
            Some(i) => i,
            None if USED.load(Ordering::Relaxed) < SLOTS => USED.fetch_add(1, Ordering::AcqRel),
            None => return Err(io::ErrorKind::OutOfMemory.into()),
        };
        TABLE[i].lost.store(false, Ordering::Relaxed);
        Ok(Self(i))
    }

    pub(super) fn set(&self, base: usize, len: usize) {
        let slot = &TABLE[self.0];
        slot.len.store(len, Ordering::Relaxed);
        slot.base.store(base, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        TABLE[self.0].base.store(0, Ordering::Release);
    }

    pub(super) fn is_lost(&self) -> bool {
        TABLE[self.0].lost.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.clear();
        FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(self.0);
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid `sigaction`; both live through the calls. The handler has the
        // signature that SA_SIGINFO asks for. It is installed after BEFORE is set, and runs on the thread's
        // alternate stack where there is one.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before);
            BEFORE.store(Box::into_raw(Box::new(before)), Ordering::Release);
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_bus_error as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut());
        }
    });
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid description with SA_SIGINFO, and for a fault it holds the address.
    // `errno` is the thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        let code = (*info).si_code;
        if code == libc::BUS_ADRERR && replace((*info).si_addr() as usize) {
            *libc::__errno_location() = errno;
            return;
        }
        // Not ours. What was there before us gets the signal: by the same access once more, or, where
        // somebody sent it, by sending it again.
        libc::sigaction(signal, BEFORE.load(Ordering::Acquire), ptr::null_mut());
        if code <= 0 {
            libc::raise(signal);
        }
        *libc::__errno_location() = errno;
    }
}

/// Puts anonymous memory in the place of the mapping that holds `at`, and marks it; false: there is none.
fn replace(at: usize) -> bool {
    for slot in &TABLE[..USED.load(Ordering::Acquire).min(SLOTS)] {
        let base = slot.base.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if base == 0 || at < base || at - base >= len {
            continue;
        }
        // The whole mapping, as a part of one with huge pages cannot be replaced, and as its owner is to lose
        // all of it anyway. SAFETY: the range is a mapping of ours that is alive, and nobody holds references
        // into it: its bytes may change.
        let p = unsafe {
            libc::mmap(
                base as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return false;
        }
        slot.lost.store(true, Ordering::Release);
        LOSSES.fetch_add(1, Ordering::AcqRel);
        return true;
    }
    false
}
