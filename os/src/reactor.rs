//! Readiness of file descriptors for a single-threaded runner.
//!
//! One [`Reactor`] wraps one epoll set. Each actor that owns descriptors gets an [`Owner`] with an inbox;
//! [`Reactor::wait`] puts what happened into the inboxes and tells the runner which owners to wake. Interest
//! is edge-triggered for everything (readable, writable, hang-up) and set once at registration, so a
//! connection costs no system call to re-arm: the owner reads and writes until the kernel says "would block",
//! and only then waits for the next edge. An inbox merges what happened to one token, so it holds at most one
//! entry for each registered descriptor, however long nobody drains it.
//!
//! Limits: [`MAX_OWNERS`] owners over its life, tokens below [`MAX_TOKENS`], [`BATCH`] events a wait (the
//! rest comes with the next).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::count;

/// Owners that one reactor hands out over its life; [`Reactor::owner`] fails beyond.
pub const MAX_OWNERS: usize = 1 << 16;
/// Tokens of one owner are below this; [`Owner::register`] fails beyond.
pub const MAX_TOKENS: u32 = 1 << 16;
/// Events taken from the kernel by one wait.
pub const BATCH: usize = 256;

/// What happened to one descriptor since the last drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The token it was registered with.
    pub token: u32,
    /// Bytes, a connection, FIN or an error can be read.
    pub readable: bool,
    /// There is room to write, or a connect has finished.
    pub writable: bool,
    /// The peer closed its half, or the connection broke; what was received before can still be read.
    pub hup: bool,
}

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
const HUP: u8 = 4;
const QUEUED: u8 = 8;

/// Flags by token, and the tokens that have some, in order of arrival. A token is in `queue` exactly while it
/// carries [`QUEUED`]; deregistering clears the other flags and leaves the entry to be skipped.
#[derive(Default)]
struct Inbox {
    flags: Vec<u8>,
    queue: VecDeque<u32>,
}

impl Inbox {
    fn post(&mut self, token: u32, what: u8) {
        let Some(f) = self.flags.get_mut(token as usize) else { return };
        if *f & QUEUED == 0 {
            self.queue.push_back(token);
        }
        *f |= what | QUEUED;
    }
}

struct Inner {
    epoll: Epoll,
    /// By index. An index is never used again: a descriptor that outlived its owner must not wake another.
    owners: RefCell<Vec<Weak<RefCell<Inbox>>>>,
}

/// One epoll set and its owners.
pub struct Reactor {
    inner: Rc<Inner>,
    events: Vec<EpollEvent>,
    precise: bool,
}

impl Reactor {
    /// An empty set.
    ///
    /// # Errors
    /// The kernel refuses one more descriptor.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let inner = Rc::new(Inner { epoll, owners: RefCell::default() });
        Ok(Self { inner, events: vec![EpollEvent::empty(); BATCH], precise: true })
    }

    /// A new owner with an empty inbox.
    ///
    /// # Errors
    /// [`MAX_OWNERS`] were handed out.
    pub fn owner(&self) -> io::Result<Owner> {
        let inbox = Rc::new(RefCell::new(Inbox::default()));
        let mut owners = self.inner.owners.borrow_mut();
        if owners.len() >= MAX_OWNERS {
            return Err(io::Error::other("the reactor has no room for one more owner"));
        }
        let index = owners.len() as u32;
        owners.push(Rc::downgrade(&inbox));
        Ok(Owner { reactor: self.inner.clone(), index, inbox })
    }

    /// Waits until something happens or `timeout` has passed (`None`: for ever; zero: not at all), fills the
    /// inboxes and sets `woken` to the indexes of the owners that got something, each once. A signal ends the
    /// wait early.
    ///
    /// # Errors
    /// None that a correct caller can cause.
    pub fn wait(&mut self, timeout: Option<Duration>, woken: &mut Vec<u32>) -> io::Result<()> {
        woken.clear();
        let n = match self.epoll_wait(timeout) {
            Ok(n) => n,
            Err(Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        let owners = self.inner.owners.borrow();
        for event in &self.events[..n] {
            let (owner, token) = ((event.data() >> 32) as u32, event.data() as u32);
            let Some(inbox) = owners.get(owner as usize).and_then(Weak::upgrade) else { continue };
            inbox.borrow_mut().post(token, flags_of(event.events()));
            if !woken.contains(&owner) {
                woken.push(owner);
            }
        }
        Ok(())
    }

    fn epoll_wait(&mut self, timeout: Option<Duration>) -> nix::Result<usize> {
        count::add(|c| c.wait += 1);
        if self.precise {
            match self.epoll_pwait2(timeout) {
                // Kernels before 5.11 do not have it, and some sandboxes refuse what they do not know.
                Err(Errno::ENOSYS | Errno::EPERM) => self.precise = false,
                other => return other,
            }
        }
        let ms = timeout.map_or(-1, |t| i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let ms = EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX);
        self.inner.epoll.wait(&mut self.events, ms)
    }

    fn epoll_pwait2(&mut self, timeout: Option<Duration>) -> nix::Result<usize> {
        /// `struct __kernel_timespec`: 64 bits on every architecture.
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: i64,
        }
        let limit = timeout.map(|t| Timespec {
            seconds: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(t.subsec_nanos()),
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `EpollEvent` is a transparent wrapper of `struct epoll_event`, `events` has room for as
        // many as we say and lives through the call, `limit` is null or points to a live timespec, and a null
        // signal mask is allowed.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.inner.epoll.0.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                limit,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        Errno::result(n).map(|n| n as usize)
    }
}

fn flags_of(e: EpollFlags) -> u8 {
    let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
    let mut f = 0;
    if e.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | broken) {
        f |= READABLE;
    }
    if e.intersects(EpollFlags::EPOLLOUT | broken) {
        f |= WRITABLE;
    }
    if e.intersects(EpollFlags::EPOLLRDHUP | broken) {
        f |= HUP;
    }
    f
}

/// The descriptors of one actor, and the inbox of what happened to them.
pub struct Owner {
    reactor: Rc<Inner>,
    index: u32,
    inbox: Rc<RefCell<Inbox>>,
}

impl Owner {
    /// The number by which [`Reactor::wait`] names this owner.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Watches `fd` for reading, writing and hang-up, edge-triggered. What is ready already is reported by
    /// the next wait.
    ///
    /// # Errors
    /// `token` is not below [`MAX_TOKENS`], `fd` is registered already or cannot be watched, or the kernel's
    /// limit is reached.
    pub fn register(&self, fd: &impl AsFd, token: u32) -> io::Result<()> {
        if token >= MAX_TOKENS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "reactor token too large"));
        }
        let interest =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let data = u64::from(self.index) << 32 | u64::from(token);
        count::add(|c| c.control += 1);
        self.reactor.epoll.add(fd.as_fd(), EpollEvent::new(interest, data))?;
        let mut inbox = self.inbox.borrow_mut();
        let room = inbox.flags.len().max(token as usize + 1);
        inbox.flags.resize(room, 0);
        Ok(())
    }

    /// Stops watching `fd` and forgets what happened to `token` and was not drained yet. Call it before the
    /// descriptor is closed: the kernel would forget it by itself, the inbox would not.
    ///
    /// # Errors
    /// `fd` is not registered.
    pub fn deregister(&self, fd: &impl AsFd, token: u32) -> io::Result<()> {
        if let Some(f) = self.inbox.borrow_mut().flags.get_mut(token as usize) {
            *f &= QUEUED;
        }
        count::add(|c| c.control += 1);
        Ok(self.reactor.epoll.delete(fd.as_fd())?)
    }

    /// Appends what happened since the last drain, one entry a token, in order of arrival.
    pub fn drain(&self, out: &mut Vec<Ready>) {
        let inbox = &mut *self.inbox.borrow_mut();
        for token in inbox.queue.drain(..) {
            let f = std::mem::take(&mut inbox.flags[token as usize]);
            if f != QUEUED {
                let is = |bit| f & bit != 0;
                out.push(Ready { token, readable: is(READABLE), writable: is(WRITABLE), hup: is(HUP) });
            }
        }
    }

    /// Whether nothing waits to be drained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.borrow().queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (a, b)
    }

    fn ready(owner: &Owner) -> Vec<Ready> {
        let mut out = Vec::new();
        owner.drain(&mut out);
        out
    }

    fn poll(r: &mut Reactor) -> Vec<u32> {
        let mut woken = Vec::new();
        r.wait(Some(Duration::ZERO), &mut woken).unwrap();
        woken
    }

    const WRITABLE_ONLY: Ready = Ready { token: 7, readable: false, writable: true, hup: false };

    #[test]
    fn an_edge_is_reported_once_and_again_after_new_bytes() {
        let mut r = Reactor::new().unwrap();
        let owner = r.owner().unwrap();
        let (a, mut b) = pair();
        owner.register(&a, 7).unwrap();
        assert_eq!(poll(&mut r), [owner.index()], "what is ready at registration is reported");
        assert_eq!(ready(&owner), [WRITABLE_ONLY]);
        assert!(poll(&mut r).is_empty(), "no edge, no report, although the socket is still writable");

        b.write_all(b"x").unwrap();
        assert_eq!(poll(&mut r), [owner.index()]);
        assert!(ready(&owner)[0].readable);
        assert!(poll(&mut r).is_empty(), "unread bytes are no new edge");
        b.write_all(b"y").unwrap();
        assert_eq!(poll(&mut r).len(), 1, "more bytes are");
    }

    #[test]
    fn a_full_socket_reports_writable_when_the_peer_reads() {
        let mut r = Reactor::new().unwrap();
        let owner = r.owner().unwrap();
        let (mut a, mut b) = pair();
        owner.register(&a, 7).unwrap();
        while a.write(&[0; 4096]).is_ok() {}
        poll(&mut r);
        ready(&owner);
        assert!(poll(&mut r).is_empty());
        let mut sink = vec![0; 1 << 20];
        while b.read(&mut sink).is_ok() {}
        assert_eq!(poll(&mut r).len(), 1);
        assert_eq!(ready(&owner), [WRITABLE_ONLY]);
    }

    #[test]
    fn the_inbox_merges_and_stays_bounded() {
        let mut r = Reactor::new().unwrap();
        let owner = r.owner().unwrap();
        let (a, mut b) = pair();
        owner.register(&a, 7).unwrap();
        for _ in 0..100 {
            b.write_all(b"x").unwrap();
            poll(&mut r);
        }
        drop(b);
        poll(&mut r);
        assert_eq!(ready(&owner), [Ready { token: 7, readable: true, writable: true, hup: true }]);
        assert!(owner.is_empty());
    }

    #[test]
    fn deregister_forgets_what_was_not_drained() {
        let mut r = Reactor::new().unwrap();
        let owner = r.owner().unwrap();
        let (a, mut b) = pair();
        owner.register(&a, 7).unwrap();
        poll(&mut r);
        owner.deregister(&a, 7).unwrap();
        b.write_all(b"x").unwrap();
        assert!(poll(&mut r).is_empty());
        assert_eq!(ready(&owner), []);
        let (c, _d) = pair();
        owner.register(&c, 7).unwrap();
        poll(&mut r);
        assert_eq!(ready(&owner), [WRITABLE_ONLY], "the token can be used again");
    }

    #[test]
    fn a_dropped_owner_gets_nothing_and_its_index_is_not_used_again() {
        let mut r = Reactor::new().unwrap();
        let (a, _b) = pair();
        let first = r.owner().unwrap();
        first.register(&a, 0).unwrap();
        let index = first.index();
        drop(first);
        assert!(poll(&mut r).is_empty());
        assert_ne!(r.owner().unwrap().index(), index);
    }

    #[test]
    fn limits_are_errors() {
        let r = Reactor::new().unwrap();
        let (a, _b) = pair();
        let owner = r.owner().unwrap();
        assert!(owner.register(&a, MAX_TOKENS).is_err());
        owner.register(&a, MAX_TOKENS - 1).unwrap();
        assert!(owner.register(&a, 0).is_err(), "registered already");
        for _ in 1..MAX_OWNERS {
            r.owner().unwrap();
        }
        assert!(r.owner().is_err());
    }

    #[test]
    fn timeouts_are_never_early_and_better_than_a_millisecond_where_the_kernel_can() {
        let mut r = Reactor::new().unwrap();
        for precise in [true, false] {
            r.precise = precise;
            let limit = Duration::from_micros(300);
            let t = Instant::now();
            r.wait(Some(limit), &mut Vec::new()).unwrap();
            assert!(t.elapsed() >= limit);
        }
        let before = count::calls();
        poll(&mut r);
        assert_eq!((count::calls() - before).wait, 1);
    }
}
