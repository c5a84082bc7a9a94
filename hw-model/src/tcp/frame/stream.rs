//! One connection: a smoltcp interface with one socket, and the link header of its frames.
//!
//! An interface of its own makes the cost of a segment independent of how many connections there are. It has
//! no routes and no neighbours: every datagram goes out with the link header that the path group, or the
//! peer's last segment, gave.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bus::Instant;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use super::segment::{self, Segment, Tuple};
use crate::ether;
use crate::tcp::{ConnectRequest, KeepAlive, LinkHeader, TcpOptions};
use crate::wire::LARGEST_FRAME;

/// \[I\] How long sent bytes may stay unacknowledged before the connection is given up.
pub const RETRANSMISSION_LIMIT: Duration = Duration::from_secs(30);
/// How long an acknowledgement waits for something to ride on. Shorter than the shortest retransmission
/// timeout (10 ms), or two of these engines would retransmit what arrived.
const ACK_DELAY: SmolDuration = SmolDuration::from_millis(4);
/// How often a closed window is probed.
const PERSIST: SmolDuration = SmolDuration::from_millis(200);
/// Bytes of the longest header in front of IP.
const FRONT: usize = ether::HEADER + ether::VLAN_TAG;
/// Segments that a connection sends before others get their turn.
const BURST: u32 = 64;
/// Bytes of the longest datagram.
const LARGEST_MTU: usize = LARGEST_FRAME - FRONT;
/// What a host may ask for as buffers; beyond, the nearest of these is used.
const BUFFER: std::ops::RangeInclusive<usize> = 2048..=1 << 20;

/// Where frames are built, and how the last one looked.
pub(super) struct Scratch {
    frame: Box<[u8]>,
    /// The last frame is `frame[start..end]`.
    start: usize,
    end: usize,
    sent: u64,
    /// The window that the last frame announced, until its stream has taken note.
    announced: Option<(u32, u16)>,
}

impl Scratch {
    fn of(frame: Box<[u8]>) -> Self {
        Self { frame, start: 0, end: 0, sent: 0, announced: None }
    }

    /// Frames built so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::of(vec![0; LARGEST_FRAME].into_boxed_slice())
    }
}

/// Takes a frame that goes out.
pub(crate) type Emit<'a> = &'a mut dyn FnMut(&[u8]);

/// What a segment, a deadline or a call led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both directions ended with FIN; the peer may send its last one again, and gets this answer.
    Graceful,
    /// RST.
    Reset,
    /// Nobody acknowledged for too long.
    TimedOut,
}

/// One connection.
pub(super) struct Stream {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) tuple: Tuple,
    link: LinkHeader,
    tos: u8,
    checksums: bool,
    mtu: usize,
    /// The next stream of the same bucket.
    pub(super) chain: Option<u16>,
    /// Waits for its turn.
    pub(super) queued: bool,
    /// Opened by the peer: frames go back to where the last one came from.
    pub(super) passive: bool,
    pub(super) connected: bool,
    /// When a handshake that got no answer has failed.
    pub(super) handshake: Option<Instant>,
    /// A send took less than all.
    pub(super) starved: bool,
    /// The owner was told of bytes, and has not taken all of them.
    pub(super) told: bool,
    pub(super) fin_told: bool,
    /// The owner has closed it.
    pub(super) closed: bool,
    /// The peer's window is closed.
    shut: bool,
    /// Right edge of the window that smoltcp remembers to have announced, or a little less.
    edge: Option<u32>,
    keepalive: Option<KeepAlive>,
    /// When the peer was last heard.
    heard: Instant,
    /// Since when something is unacknowledged and nothing was heard.
    unanswered: Option<Instant>,
    /// The last ACK after both FINs.
    pub(super) farewell: Vec<u8>,
}

impl Stream {
    fn new(seed: u64, tuple: Tuple, r: &ConnectRequest, checksums: bool, now: Instant) -> Self {
        let header = if tuple.local.is_ipv4() { 40 } else { 60 };
        // A SYN with its options must fit.
        let mtu = usize::from(r.pmtu).min(usize::from(r.mss) + header).clamp(header + 24, LARGEST_MTU);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut scratch = Scratch::of(Box::default());
        let mut nowhere = |_: &[u8]| {};
        let mut port = Port::new(&[], mtu, checksums, &mut scratch, &[], 0, &mut nowhere);
        let mut iface = Interface::new(config, &mut port, time(now));
        iface.update_ip_addrs(|addresses| {
            // Everything is on the link: the link header says where a frame goes.
            let _ = addresses.push(IpCidr::new(address(tuple.local.ip()), 0));
        });
        let buffer = |bytes: u32| {
            let bytes = (bytes as usize).clamp(*BUFFER.start(), *BUFFER.end());
            SocketBuffer::new(vec![0; bytes])
        };
        let mut socket = Socket::new(buffer(r.rcv_buf), buffer(r.snd_buf));
        configure(&mut socket, &r.options);
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Self {
            iface,
            sockets,
            handle,
            tuple,
            link: r.link,
            tos: r.options.tos,
            checksums,
            mtu,
            chain: None,
            queued: false,
            passive: false,
            connected: false,
            handshake: None,
            starved: false,
            told: false,
            fin_told: false,
            closed: false,
            shut: false,
            edge: None,
            keepalive: r.options.keepalive,
            heard: now,
            unanswered: None,
            farewell: Vec::new(),
        }
    }

    /// A stream that sends SYN in its first turn. `None`: addresses or ports that no connection can have.
    pub(super) fn connect(seed: u64, r: &ConnectRequest, checksums: bool, now: Instant) -> Option<Self> {
        let mut stream = Self::new(seed, Tuple { local: r.local, remote: r.remote }, r, checksums, now);
        let socket = stream.sockets.get_mut::<Socket<'_>>(stream.handle);
        socket.connect(stream.iface.context(), endpoint(r.remote), endpoint(r.local)).ok()?;
        Some(stream)
    }

    /// A stream that waits for the SYN that the caller has in hand.
    pub(super) fn listen(seed: u64, r: &ConnectRequest, checksums: bool, now: Instant) -> Option<Self> {
        let mut stream = Self::new(seed, Tuple { local: r.local, remote: r.remote }, r, checksums, now);
        let at = IpListenEndpoint { addr: Some(address(r.local.ip())), port: r.local.port() };
        stream.socket_mut().listen(at).ok()?;
        stream.passive = true;
        Some(stream)
    }

    pub(super) fn set_link(&mut self, link: LinkHeader) {
        self.link = link;
    }

    pub(super) fn set_source(&mut self, mac: [u8; 6]) {
        self.link.source = mac;
    }

    /// Frames go back to where this one came from.
    pub(super) fn follow(&mut self, frame: &[u8]) {
        self.link.destination.copy_from_slice(&frame[6..12]);
    }

    /// Whether a frame has the tag that this connection's frames have.
    pub(super) fn same_vlan(&self, frame: &[u8]) -> bool {
        let id = |tag: Option<u16>| tag.map_or(0, |t| t & 0xfff);
        id(ether::vlan(frame)) == id(self.link.vlan)
    }

    pub(super) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(super) fn state(&self) -> State {
        self.socket().state()
    }

    /// Takes an IP datagram of this connection. What must be answered at once is; the rest is for
    /// [`Stream::turn`].
    pub(super) fn input(
        &mut self,
        now: Instant,
        datagram: &[u8],
        segment: &Segment,
        scratch: &mut Scratch,
        emit: Emit<'_>,
    ) -> Option<Ending> {
        let before = self.state();
        let beyond = segment.data_end.is_some_and(|end| self.is_beyond(end));
        self.run(now, datagram, scratch, emit, |iface, port, sockets, now| {
            iface.poll_ingress_single(now, port, sockets);
            if beyond {
                // By then a delayed acknowledgement is due.
                iface.poll_egress(now + ACK_DELAY, port, sockets);
            }
            false
        });
        (self.shut, self.heard, self.unanswered) = (segment.window_zero, now, None);
        match self.state() {
            State::Closed | State::Listen if before == State::LastAck => Some(Ending::Graceful),
            State::Closed | State::Listen => Some(Ending::Reset),
            _ => None,
        }
    }

    /// Whether bytes up to `end` may reach beyond the window that smoltcp has announced. It takes what its
    /// buffer has room for, and panics when it then compares windows before it has acknowledged those bytes;
    /// they have to be acknowledged at once. A peer gets there that ignores the window, and any peer where
    /// the scale rounds a window down or where only a keep-alive has announced it.
    fn is_beyond(&self, end: u32) -> bool {
        let Some(edge) = self.edge else { return true };
        (edge.wrapping_sub(end) as i32) < 1 << scale(self.socket().recv_capacity())
    }

    /// Takes note of the window that the last frame announced.
    fn note(&mut self, (acknowledged, window): (u32, u16)) {
        let socket = self.socket();
        let free = socket.recv_capacity() - socket.recv_queue();
        // Without window scaling, and in SYN, the field is the window itself.
        let plain = usize::from(window) == free.min(usize::from(u16::MAX));
        let shift = if plain { 0 } else { scale(socket.recv_capacity()) };
        self.edge = Some(acknowledged.wrapping_add(u32::from(window) << shift));
    }

    /// Sends what can be sent; whether there is more.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
        emit: Emit<'_>,
    ) -> (bool, Option<Ending>) {
        self.unanswered = if self.is_pending() { self.unanswered.or(Some(now)) } else { None };
        if self.limit().is_some_and(|at| at <= now) {
            self.abort(now, scratch, emit);
            return (false, Some(Ending::TimedOut));
        }
        self.pace_probes(now);
        let before = scratch.sent;
        let mut more = false;
        for n in 1..=BURST {
            let sent = self.run(now, &[], scratch, &mut *emit, |iface, port, sockets, now| {
                iface.poll_egress(now, port, sockets) == PollResult::SocketStateChanged
            });
            if !sent {
                break;
            }
            more = n == BURST;
        }
        if self.state() == State::TimeWait && scratch.sent != before {
            self.farewell.clear();
            self.farewell.extend_from_slice(&scratch.frame[scratch.start..scratch.end]);
        }
        (more, None)
    }

    /// Ends it with RST.
    pub(super) fn abort(&mut self, now: Instant, scratch: &mut Scratch, emit: Emit<'_>) {
        self.socket_mut().abort();
        self.run(now, &[], scratch, emit, |iface, port, sockets, now| {
            iface.poll_egress(now, port, sockets);
            false
        });
    }

    /// Sends FIN after what is queued.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.socket_mut().close();
        // The last acknowledgement must not be late.
        self.socket_mut().set_ack_delay(None);
    }

    /// When it wants its next turn.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(time(now), &self.sockets);
        // What it wants at once it has just had its turn for; it comes again soon, and not in an endless
        // loop.
        let at = at.map(|at| instant(at).max(now + Duration::from_micros(100)));
        Instant::earliest(at, Instant::earliest(self.limit(), self.handshake))
    }

    /// The peer's FIN has come.
    pub(super) fn fin_received(&self) -> bool {
        matches!(self.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
    }

    /// Something was sent that is not acknowledged, or waits for the window.
    fn is_pending(&self) -> bool {
        self.socket().send_queue() > 0
            || matches!(self.state(), State::FinWait1 | State::LastAck | State::Closing)
    }

    /// When a silent peer is given up. smoltcp has a limit of its own, which does not tell an idle connection
    /// from a dead one.
    fn limit(&self) -> Option<Instant> {
        let idle = self.keepalive.filter(|_| self.connected);
        let idle = idle.map(|k| self.heard + k.interval + k.timeout * u32::from(k.probes));
        Instant::earliest(idle, self.unanswered.map(|at| at + RETRANSMISSION_LIMIT))
    }

    /// How often smoltcp's keep-alive asks. It has no persist timer, and without one a lost window update
    /// would stop a connection for good; keep-alive asks the same question.
    fn pace_probes(&mut self, now: Instant) {
        let interval = match self.keepalive {
            _ if self.shut && self.connected && self.socket().send_queue() > 0 => Some(PERSIST),
            Some(k) if now.since(self.heard) >= k.interval => Some(smol(k.timeout)),
            Some(k) => Some(smol(k.interval)),
            None => None,
        };
        if self.socket().keep_alive() != interval {
            self.socket_mut().set_keep_alive(interval);
        }
    }

    fn run(
        &mut self,
        now: Instant,
        datagram: &[u8],
        scratch: &mut Scratch,
        emit: Emit<'_>,
        f: impl FnOnce(&mut Interface, &mut Port<'_>, &mut SocketSet<'static>, SmolInstant) -> bool,
    ) -> bool {
        let mut front = [0; FRONT];
        let bytes = self.front(&mut front);
        let front = &front[FRONT - bytes..];
        let mut port = Port::new(datagram, self.mtu, self.checksums, scratch, front, self.tos, emit);
        let r = f(&mut self.iface, &mut port, &mut self.sockets, time(now));
        if let Some(announced) = scratch.announced.take() {
            self.note(announced);
        }
        r
    }

    /// The link header, at the end of `out`; its length.
    fn front(&self, out: &mut [u8; FRONT]) -> usize {
        let kind = if self.tuple.local.is_ipv4() { ether::TYPE_IPV4 } else { ether::TYPE_IPV6 };
        out[FRONT - 2..].copy_from_slice(&kind.to_be_bytes());
        let bytes = match self.link.vlan {
            Some(tag) => {
                out[12..14].copy_from_slice(&ether::TYPE_VLAN.to_be_bytes());
                out[14..16].copy_from_slice(&tag.to_be_bytes());
                FRONT
            }
            None => ether::HEADER,
        };
        out[FRONT - bytes..][..6].copy_from_slice(&self.link.destination);
        out[FRONT - bytes + 6..][..6].copy_from_slice(&self.link.source);
        bytes
    }
}

fn configure(socket: &mut Socket<'_>, o: &TcpOptions) {
    socket.set_ack_delay(o.delayed_ack.then_some(ACK_DELAY));
    socket.set_nagle_enabled(o.nagle);
    socket.set_hop_limit((o.ttl != 0).then_some(o.ttl));
}

/// The window scale that smoltcp takes for a receive buffer: the least with which the window fits into its
/// field.
fn scale(capacity: usize) -> u32 {
    (usize::BITS - capacity.leading_zeros()).saturating_sub(16)
}

/// At least a millisecond: what a host asks for may be 0.
fn smol(d: Duration) -> SmolDuration {
    SmolDuration::from_micros(d.as_micros().clamp(1000, u64::MAX.into()) as u64)
}

fn time(now: Instant) -> SmolInstant {
    SmolInstant::from_micros((now.as_nanos() / 1000) as i64)
}

fn instant(at: SmolInstant) -> Instant {
    Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
}

fn address(ip: IpAddr) -> IpAddress {
    ip.into()
}

fn endpoint(at: SocketAddr) -> IpEndpoint {
    IpEndpoint { addr: address(at.ip()), port: at.port() }
}

/// The device of one call: at most one datagram in, any number out.
struct Port<'a> {
    datagram: Option<&'a [u8]>,
    mtu: usize,
    checksums: bool,
    out: Out<'a>,
}

struct Out<'a> {
    scratch: &'a mut Scratch,
    front: &'a [u8],
    tos: u8,
    emit: Emit<'a>,
}

impl<'a> Port<'a> {
    fn new(
        datagram: &'a [u8],
        mtu: usize,
        checksums: bool,
        scratch: &'a mut Scratch,
        front: &'a [u8],
        tos: u8,
        emit: Emit<'a>,
    ) -> Self {
        let datagram = (!datagram.is_empty()).then_some(datagram);
        Self { datagram, mtu, checksums, out: Out { scratch, front, tos, emit } }
    }
}

struct Received<'a>(&'a [u8]);

struct Sending<'a, 'b>(&'b mut Out<'a>);

impl<'a> phy::Device for Port<'a> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sending<'a, 'b>
    where
        Self: 'b;

    fn receive(&mut self, _: SmolInstant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let datagram = self.datagram.take()?;
        Some((Received(datagram), Sending(&mut self.out)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Self::TxToken<'_>> {
        Some(Sending(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = self.mtu;
        if !self.checksums {
            c.checksum = ChecksumCapabilities::ignored();
            c.checksum.ipv4 = Checksum::Both;
        }
        c
    }
}

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Sending<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let out = self.0;
        let start = FRONT - out.front.len();
        let s = &mut *out.scratch;
        let r = f(&mut s.frame[FRONT..FRONT + len]);
        s.announced = segment::announced(&s.frame[FRONT..FRONT + len]).or(s.announced);
        s.frame[start..FRONT].copy_from_slice(out.front);
        (s.start, s.end) = (start, FRONT + len);
        s.sent += 1;
        let frame = &mut s.frame[start..FRONT + len];
        if out.tos != 0 {
            set_tos(frame, out.tos);
        }
        (out.emit)(frame);
        r
    }
}

/// Type of service, or traffic class.
fn set_tos(frame: &mut [u8], tos: u8) {
    let Some(ip) = ether::parse(frame) else { return };
    if ip.v4 {
        frame[ip.l3 + 1] = tos;
        ether::fill_ipv4_checksum(frame, &ip);
    } else {
        frame[ip.l3] = 0x60 | tos >> 4;
        frame[ip.l3 + 1] = frame[ip.l3 + 1] & 0xf | tos << 4;
    }
}
