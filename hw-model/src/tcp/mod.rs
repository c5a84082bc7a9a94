//! The TCP seam: what the offload engine needs of a transport, whatever carries it.

pub mod captured;
pub mod frame;
pub mod host;
pub mod memory;
pub mod nat;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bus::Instant;
use bus::pci::DevCx;

/// A connection as the transport knows it: the iSCSI connection id (0 to 127) that the host chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcpId(pub u16);

/// How long a handshake is tried (BNX2I-CNIC B.2).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(9);

/// What CONNECT asks for (BNX2I-CNIC 3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Source address, from the path update.
    pub local: SocketAddr,
    /// The target.
    pub remote: SocketAddr,
    /// Maximum segment size in bytes.
    pub mss: u16,
    /// Path MTU in bytes.
    pub pmtu: u16,
    /// Receive buffer in bytes.
    pub rcv_buf: u32,
    /// Send buffer in bytes.
    pub snd_buf: u32,
    /// Source MAC (the iSCSI function's), next hop MAC and VLAN: the path group's.
    pub link: LinkHeader,
    /// The rest of CONNECT3 and the TCP flags.
    pub options: TcpOptions,
}

/// What CONNECT1 and CONNECT3 say about TCP's manners (BNX2I-CNIC 3.6). The default is what hosts ask for in
/// practice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Probes of an idle connection, if the host wants them.
    pub keepalive: Option<KeepAlive>,
    /// IP type of service, or traffic class.
    pub tos: u8,
    /// IP time to live, or hop limit. 0 means 64.
    pub ttl: u8,
    /// Small segments wait until the earlier ones are acknowledged.
    pub nagle: bool,
    /// Acknowledgements may wait for something to ride on.
    pub delayed_ack: bool,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { keepalive: None, tos: 0, ttl: 64, nagle: false, delayed_ack: true }
    }
}

/// How an idle connection is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// How long a probe may stay unanswered.
    pub timeout: Duration,
    /// How long a connection is idle before it is probed.
    pub interval: Duration,
    /// Probes that stay unanswered before the connection is given up.
    pub probes: u8,
}

/// A path group's cached L2 header (BNX2I-CNIC 3.6, OFFLOAD_PG).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkHeader {
    /// Next hop.
    pub destination: [u8; 6],
    /// The iSCSI MAC.
    pub source: [u8; 6],
    /// VLAN tag.
    pub vlan: Option<u16>,
}

/// What happened to a connection since the last poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEvent {
    /// The handshake completed.
    Connected,
    /// The handshake failed: refused, unreachable or timed out.
    ConnectFailed(ConnectError),
    /// Bytes can be received.
    Readable,
    /// Bytes can be sent again after a partial send.
    Writable,
    /// The peer sent FIN, and every byte before it was consumed.
    Fin,
    /// The peer sent RST, or the connection broke.
    Rst,
    /// The retransmission limit was reached; the connection is forgotten as after RST.
    TimedOut,
    /// A graceful close completed in both directions.
    Closed,
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The peer answered RST, or the network said that it cannot be reached.
    Refused,
    /// Nothing answered in time (about 9 s).
    TimedOut,
}

/// A transport with many connections. Nothing here blocks.
pub trait TcpEngine {
    /// Starts a handshake. The outcome is a [`TcpEvent`].
    fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest);

    /// Graceful close: what was sent is delivered, then FIN. Ends with [`TcpEvent::Closed`].
    fn close(&mut self, cx: &mut DevCx<'_>, id: TcpId);

    /// Sends RST and forgets the connection at once. No event follows.
    fn abort(&mut self, cx: &mut DevCx<'_>, id: TcpId);

    /// Queues bytes; returns how many were taken. Less than all means that [`TcpEvent::Writable`] will
    /// follow.
    fn send(&mut self, cx: &mut DevCx<'_>, id: TcpId, bytes: &[u8]) -> usize;

    /// Hands received bytes to `sink` in order, never none at all, which returns how many it consumed;
    /// consuming less than it was given ends the call, and the rest is kept for the next, which the caller
    /// makes by itself. When everything was consumed, [`TcpEvent::Readable`] says when there is more. Returns
    /// the bytes consumed.
    fn recv(
        &mut self,
        cx: &mut DevCx<'_>,
        id: TcpId,
        sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize;

    /// A neighbour has moved (UPDATE_PG): frames of a live connection carry `link` from now on. Nothing
    /// happens to transports that make no frames, or when the id names no connection.
    fn set_link(&mut self, id: TcpId, link: LinkHeader);

    /// Appends what happened. Cost is proportional to what happened, not to the number of connections.
    fn poll(&mut self, cx: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>);

    /// The earliest timer of the transport.
    fn next_deadline(&self) -> Option<Instant>;

    /// Aborts everything and forgets it: the chip was reset.
    fn reset(&mut self, cx: &mut DevCx<'_>);

    /// The port's link came or went, by the wire's doing or by that of cable and PHY: without one nothing
    /// gets in or out, and to the engine it looks like loss. Nothing changes for transports that no port
    /// stands for.
    fn set_carrier(&mut self, _up: bool) {}

    /// Whether the transport can reach that address family at all.
    fn supports(&self, remote: IpAddr) -> bool;
}

impl<T: TcpEngine + ?Sized> TcpEngine for Box<T> {
    fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        (**self).connect(cx, id, request);
    }

    fn close(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        (**self).close(cx, id);
    }

    fn abort(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        (**self).abort(cx, id);
    }

    fn send(&mut self, cx: &mut DevCx<'_>, id: TcpId, bytes: &[u8]) -> usize {
        (**self).send(cx, id, bytes)
    }

    fn recv(
        &mut self,
        cx: &mut DevCx<'_>,
        id: TcpId,
        sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        (**self).recv(cx, id, sink)
    }

    fn set_link(&mut self, id: TcpId, link: LinkHeader) {
        (**self).set_link(id, link);
    }

    fn set_carrier(&mut self, up: bool) {
        (**self).set_carrier(up);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        (**self).poll(cx, out);
    }

    fn next_deadline(&self) -> Option<Instant> {
        (**self).next_deadline()
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        (**self).reset(cx);
    }

    fn supports(&self, remote: IpAddr) -> bool {
        (**self).supports(remote)
    }
}
