//! What carries a target's byte streams: the one seam between a target and the networks of a world.

use std::net::SocketAddr;

use bus::{Cx, Instant};
use hw_model::tcp::memory::{AddressInUse, MemoryPeer, PeerEvent, PeerReceived, StreamId};

/// A host's end of a network with streams.
pub trait Carrier {
    /// Listens.
    ///
    /// # Errors
    /// Somebody listens there.
    fn listen(&mut self, at: SocketAddr) -> Result<(), AddressInUse>;

    /// Takes in what has arrived, and appends what happened.
    fn look(&mut self, cx: &mut Cx<'_>, out: &mut Vec<PeerEvent>);

    /// The next connection that waits: its name and our address.
    fn accept(&mut self) -> Option<(StreamId, SocketAddr)>;

    /// Offers what was received to `take`, which says how much it took.
    fn recv_with(&mut self, now: Instant, id: StreamId, take: &mut dyn FnMut(&[u8]) -> usize)
    -> PeerReceived;

    /// Queues bytes; how many there was room for.
    fn send(&mut self, id: StreamId, bytes: &[u8]) -> usize;

    /// Sends FIN after what was sent.
    fn shutdown(&mut self, id: StreamId);

    /// Closes a stream as a socket is closed.
    fn close(&mut self, id: StreamId);

    /// Breaks a stream with RST.
    fn abort(&mut self, id: StreamId);

    /// Sends what was queued. Returns when to look again.
    fn flush(&mut self, cx: &mut Cx<'_>) -> Option<Instant>;

    /// The process dies: every stream is reset, and nobody listens.
    fn kill(&mut self);

    /// The machine falls silent, or is heard again.
    fn set_silent(&self, silent: bool);
}

impl Carrier for MemoryPeer {
    fn listen(&mut self, at: SocketAddr) -> Result<(), AddressInUse> {
        Self::listen(self, at)
    }

    fn look(&mut self, _: &mut Cx<'_>, out: &mut Vec<PeerEvent>) {
        self.drain(out);
    }

    fn accept(&mut self) -> Option<(StreamId, SocketAddr)> {
        Self::accept(self).map(|(id, local, _)| (id, local))
    }

    fn recv_with(&mut self, _: Instant, id: StreamId, take: &mut dyn FnMut(&[u8]) -> usize) -> PeerReceived {
        Self::recv_with(self, id, take)
    }

    fn send(&mut self, id: StreamId, bytes: &[u8]) -> usize {
        Self::send(self, id, bytes)
    }

    fn shutdown(&mut self, id: StreamId) {
        Self::shutdown(self, id);
    }

    fn close(&mut self, id: StreamId) {
        Self::close(self, id);
    }

    fn abort(&mut self, id: StreamId) {
        Self::abort(self, id);
    }

    fn flush(&mut self, _: &mut Cx<'_>) -> Option<Instant> {
        None
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn set_silent(&self, silent: bool) {
        Self::set_silent(self, silent);
    }
}
