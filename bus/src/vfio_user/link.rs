//! The socket as a session sees it while it waits.
//!
//! Sessions are fed bytes and leave bytes; only while one waits for an answer does it drive the socket
//! itself, through this trait, and never without a deadline. [`SocketLink`] is the real one.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use os::event::ready;
use os::net::Received;
use os::unix::Channel;

use crate::time::Instant;

use super::wire::{CHUNK, Inbox, Outbox};

/// What a turn at the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Bytes moved, in either direction.
    Moved,
    /// The deadline passed and nothing moved.
    TimedOut,
    /// The peer is gone.
    Lost,
}

/// A way to the peer.
pub trait Link {
    /// Sends from `out` and receives into `into`, as far as possible without waiting; when nothing moved,
    /// waits for either until `until`.
    fn turn(&mut self, out: &mut Outbox, into: &mut Inbox, until: Instant) -> Turn;
}

/// A connected socket, with the process's clock ([`os::clock::now_ns`]) for deadlines.
pub struct SocketLink {
    channel: Channel,
    buf: Vec<u8>,
}

impl SocketLink {
    /// Takes a connected socket.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel, buf: vec![0; CHUNK] }
    }

    /// Sends and receives what is possible without waiting. Returns whether something moved, or `None`: the
    /// peer is gone and everything it sent was received.
    pub fn exchange(&mut self, out: &mut Outbox, into: &mut Inbox) -> Option<bool> {
        let mut moved = false;
        let mut alive = true;
        while alive && !out.is_empty() {
            let (bytes, fds) = out.chunk();
            match self.channel.send(bytes, &fds) {
                Ok(0) => break,
                Ok(n) => {
                    out.advance(n);
                    moved = true;
                }
                // What the peer sent before it left is still received below.
                Err(_) => alive = false,
            }
        }
        if moved && alive {
            // An answer to what was just sent is not there yet.
            return Some(true);
        }
        let mut fds = Vec::new();
        let room = into.room().min(self.buf.len());
        if room > 0 {
            match self.channel.recv(&mut self.buf[..room], &mut fds) {
                Ok(Received::Bytes(n)) => {
                    into.push(&self.buf[..n], fds);
                    return Some(true);
                }
                Ok(Received::Nothing) => {}
                Ok(Received::Fin) | Err(_) => return None,
            }
        }
        alive.then_some(false)
    }
}

impl Link for SocketLink {
    fn turn(&mut self, out: &mut Outbox, into: &mut Inbox, until: Instant) -> Turn {
        loop {
            match self.exchange(out, into) {
                None => return Turn::Lost,
                Some(true) => return Turn::Moved,
                Some(false) => {}
            }
            let left = until.since(Instant::from_nanos(os::clock::now_ns()));
            if left == Duration::ZERO {
                return Turn::TimedOut;
            }
            ready(&[(self.channel.as_fd(), into.room() > 0, !out.is_empty())], Some(left));
        }
    }
}

impl AsFd for SocketLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
