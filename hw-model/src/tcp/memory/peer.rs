//! The far machine's end: what a target or a station listens, accepts, receives and sends with.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use super::net::{Broken, Net, Stream};
use super::{AddressInUse, StreamId};

/// What happened to a peer's stream since the last [`MemoryPeer::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// Somebody can be accepted.
    Incoming,
    /// Bytes, FIN or RST can be received.
    Readable(StreamId),
    /// There is room again after a send that took less than all.
    Writable(StreamId),
}

/// What a peer's receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerReceived {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The card sent FIN, and everything before it was received.
    Fin,
    /// The connection was reset, or the id names nothing. The stream is gone.
    Reset,
}

/// A far machine on a [`super::MemoryNet`]: what the target actor talks through. Dropping it kills the peer.
pub struct MemoryPeer {
    pub(super) net: Rc<RefCell<Net>>,
    pub(super) peer: usize,
}

impl MemoryPeer {
    /// Listens.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn listen(&self, at: SocketAddr) -> Result<(), AddressInUse> {
        let mut net = self.net.borrow_mut();
        if net.listeners.contains_key(&at) {
            return Err(AddressInUse(at));
        }
        net.listeners.insert(at, self.peer);
        Ok(())
    }

    /// Takes the next connection that waits: its name, our address, and the card's.
    pub fn accept(&self) -> Option<(StreamId, SocketAddr, SocketAddr)> {
        let mut net = self.net.borrow_mut();
        loop {
            let id = net.peers[self.peer].backlog.pop_front()?;
            if let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) {
                return Some((id, s.remote, s.local));
            }
        }
    }

    /// Receives into `out`, which must not be empty.
    pub fn recv(&self, id: StreamId, out: &mut [u8]) -> PeerReceived {
        let mut at = 0;
        self.recv_with(id, |bytes| {
            let n = bytes.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&bytes[..n]);
            at += n;
            n
        })
    }

    /// Offers what can be received to `take`, in one piece or two, without a copy; it says how much it took.
    /// The rest stays, and is told of again. `take` must not use the network.
    pub fn recv_with(&self, id: StreamId, mut take: impl FnMut(&[u8]) -> usize) -> PeerReceived {
        let net = &mut *self.net.borrow_mut();
        let passes = net.passes(self.peer);
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) else {
            return PeerReceived::Reset;
        };
        s.up.told = false;
        if !passes {
            return PeerReceived::Nothing;
        }
        match s.broken {
            Broken::No => {}
            Broken::ByPeer => return PeerReceived::Reset,
            Broken::ByCard => {
                net.forget(id.index);
                return PeerReceived::Reset;
            }
        }
        if s.up.bytes.is_empty() {
            if !s.up.fin {
                return PeerReceived::Nothing;
            }
            s.up.told = true;
            return PeerReceived::Fin;
        }
        let (front, back) = s.up.bytes.as_slices();
        let mut n = take(front).min(front.len());
        if n == front.len() && !back.is_empty() {
            n += take(back).min(back.len());
        }
        s.up.bytes.drain(..n);
        net.tell_ends(id.index);
        if n == 0 { PeerReceived::Nothing } else { PeerReceived::Bytes(n) }
    }

    /// Queues bytes; returns how many were taken, 0 also for a stream that is gone ([`MemoryPeer::recv`] says
    /// so).
    pub fn send(&self, id: StreamId, bytes: &[u8]) -> usize {
        let net = &mut *self.net.borrow_mut();
        let window = net.window;
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial && s.broken == Broken::No) else {
            return 0;
        };
        let n = s.down.push(bytes, window);
        net.tell_ends(id.index);
        n
    }

    /// Sends FIN after what was sent.
    pub fn shutdown(&self, id: StreamId) {
        let net = &mut *self.net.borrow_mut();
        if let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) {
            s.down.fin = true;
            net.tell_ends(id.index);
        }
    }

    /// Closes a stream as a socket is closed: FIN after what was sent, or RST when something was not
    /// received.
    pub fn close(&self, id: StreamId) {
        let net = &mut *self.net.borrow_mut();
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) else { return };
        s.peer_gone = true;
        s.down.fin = true;
        let (card, tcp) = (s.card, s.id);
        if net.of_card(card, tcp) == Some(id.index) {
            net.tell_ends(id.index);
        } else {
            net.forget(id.index);
        }
    }

    /// Breaks a stream with RST; what was sent and not received is lost.
    pub fn abort(&self, id: StreamId) {
        let net = &mut *self.net.borrow_mut();
        let Some(s) = net.stream(id.index).filter(|s| s.serial == id.serial) else { return };
        s.peer_gone = true;
        s.broken = if s.broken == Broken::ByCard { Broken::ByCard } else { Broken::ByPeer };
        s.down.bytes.clear();
        net.tell_ends(id.index);
    }

    /// Takes what happened since the last call.
    pub fn drain(&self, out: &mut Vec<PeerEvent>) {
        out.extend(self.net.borrow_mut().peers[self.peer].events.drain(..));
    }

    /// Whether the peer has died without anybody noticing, or is heard again.
    pub fn set_silent(&self, silent: bool) {
        let mut net = self.net.borrow_mut();
        net.peers[self.peer].silent = silent;
        net.release();
    }

    /// Ends the process: nobody listens any more, and every stream is reset.
    pub fn kill(&self) {
        let streams: Vec<StreamId> = {
            let mut net = self.net.borrow_mut();
            net.listeners.retain(|_, &mut peer| peer != self.peer);
            net.peers[self.peer].events.clear();
            let ours = |(i, s): (usize, &Option<Stream>)| {
                let s = s.as_ref().filter(|s| s.peer == self.peer)?;
                Some(StreamId { index: i as u32, serial: s.serial })
            };
            net.streams.iter().enumerate().filter_map(ours).collect()
        };
        for id in streams {
            self.abort(id);
        }
    }
}

impl Drop for MemoryPeer {
    fn drop(&mut self) {
        self.kill();
    }
}
