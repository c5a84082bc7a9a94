//! Non-blocking TCP: the card's host-socket engine and the embedded target send and receive through it.
//!
//! Every call makes one system call and returns at once; `EINTR` is retried. Register a stream with a
//! [`crate::reactor::Owner`] before the first receive or send that may find nothing to do. SIGPIPE never
//! happens: Rust's runtime ignores it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use thiserror::Error;

use crate::count;

/// Buffers that one vectored send takes (`IOV_MAX`); the rest is not sent.
pub const MAX_SLICES: usize = 1024;

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one. Fewer than asked for means that the next receive finds
    /// [`Received::Nothing`] unless more arrived meanwhile.
    Bytes(usize),
    /// Nothing now; the reactor reports when there is something.
    Nothing,
    /// The peer sent FIN and everything before it was received.
    Fin,
}

/// What became of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectState {
    /// Still trying; the reactor reports the end as writable.
    Pending,
    /// The connection stands.
    Connected,
}

/// A TCP connection.
#[derive(Debug)]
pub struct TcpStream(std::net::TcpStream);

impl TcpStream {
    /// Starts to connect to `remote`; [`TcpStream::connect_state`] tells the outcome once the stream is
    /// writable. Small segments are sent at once (no Nagle delay).
    ///
    /// # Errors
    /// The address family is not supported, no route is known, or no descriptor or port is left.
    pub fn connect(remote: SocketAddr) -> io::Result<Self> {
        let family = if remote.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        count::add(|c| c.control += 2);
        let fd = socket(family, SockType::Stream, flags, None)?;
        match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(remote)) {
            // An interrupted connect goes on in the background like one in progress.
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Self::adopt(std::net::TcpStream::from(fd)),
            Err(e) => Err(e.into()),
        }
    }

    /// `stream` is non-blocking already.
    fn adopt(stream: std::net::TcpStream) -> io::Result<Self> {
        count::add(|c| c.control += 1);
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Whether the connect has finished.
    ///
    /// # Errors
    /// It failed: refused, unreachable, timed out. The error is reported once; drop the stream.
    pub fn connect_state(&self) -> io::Result<ConnectState> {
        count::add(|c| c.control += 2);
        if let Some(e) = self.0.take_error()? {
            return Err(e);
        }
        match self.0.peer_addr() {
            Ok(_) => Ok(ConnectState::Connected),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(ConnectState::Pending),
            Err(e) => Err(e),
        }
    }

    /// Receives into `buf`, which must not be empty.
    ///
    /// # Errors
    /// The connection broke (RST, keepalive, unreachable). What arrived before is delivered first.
    #[inline]
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<Received> {
        debug_assert!(!buf.is_empty(), "an empty buffer cannot be told from FIN");
        loop {
            count::add(|c| c.recv += 1);
            return match (&self.0).read(buf) {
                Ok(0) => Ok(Received::Fin),
                Ok(n) => Ok(Received::Bytes(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
        }
    }

    /// Sends from `buf`; returns how many bytes the kernel took, 0 when it has no room. The reactor reports
    /// when there is room again after less than all were taken.
    ///
    /// # Errors
    /// The connection broke.
    #[inline]
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        Self::sent(|| (&self.0).write(buf))
    }

    /// Sends from several buffers in one system call, at most [`MAX_SLICES`] of them; like
    /// [`TcpStream::send`] otherwise.
    ///
    /// # Errors
    /// The connection broke.
    #[inline]
    pub fn send_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let bufs = &bufs[..bufs.len().min(MAX_SLICES)];
        Self::sent(|| (&self.0).write_vectored(bufs))
    }

    #[inline]
    fn sent(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            count::add(|c| c.send += 1);
            return match call() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            };
        }
    }

    /// Sends FIN after what was sent; receiving goes on.
    ///
    /// # Errors
    /// The connection broke before.
    pub fn shutdown_write(&self) -> io::Result<()> {
        count::add(|c| c.control += 1);
        self.0.shutdown(Shutdown::Write)
    }

    /// Closes the connection with RST and drops what was not sent.
    pub fn abort(self) {
        count::add(|c| c.control += 2);
        // It can only fail on a socket that is dead already; closing it is then all there is to do.
        let _ = setsockopt(&self.0, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
    }

    /// Our address.
    ///
    /// # Errors
    /// The socket is dead.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// The socket is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<TcpStream> for OwnedFd {
    fn from(s: TcpStream) -> Self {
        s.0.into()
    }
}

/// Why nobody can listen there.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {cause}{}", advice(.cause))]
pub struct BindError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What the kernel said.
    pub cause: io::Error,
}

fn advice(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => "; choose another port, or port 0 for a free one",
        io::ErrorKind::PermissionDenied => "; choose a port above 1023",
        io::ErrorKind::AddrNotAvailable => "; choose an address of this machine, or 0.0.0.0",
        _ => "",
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct TcpListener(std::net::TcpListener);

impl TcpListener {
    /// Listens on `address`; port 0 takes a free one. A port in TIME_WAIT can be taken over.
    ///
    /// # Errors
    /// [`BindError`] says what to do.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |cause| BindError { address, cause };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self(listener))
    }

    /// The next connection that waits, or `None`.
    ///
    /// # Errors
    /// No descriptor is left (`EMFILE`): the connection still waits, try again later. A connection that broke
    /// while it waited is skipped.
    pub fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            count::add(|c| c.control += 2);
            match self.0.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true)?;
                    return Ok(Some((TcpStream::adopt(stream)?, peer)));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The address with the port that was taken.
    ///
    /// # Errors
    /// None for a listening socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether an address belongs to an interface of this machine: the kernel would use it as its own source.
/// Nothing is sent.
#[must_use]
pub fn is_own(ip: std::net::IpAddr) -> bool {
    let any: std::net::IpAddr = match ip {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    count::add(|c| c.control += 4);
    let probe =
        std::net::UdpSocket::bind((any, 0)).and_then(|s| s.connect((ip, 9)).and_then(|()| s.local_addr()));
    probe.is_ok_and(|a| a.ip().to_canonical() == ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::reactor::{Owner, Reactor, Ready};

    const LIMIT: Duration = Duration::from_secs(5);

    struct Bench {
        reactor: Reactor,
        owner: Owner,
    }

    impl Bench {
        fn new() -> Self {
            let reactor = Reactor::new().unwrap();
            let owner = reactor.owner().unwrap();
            Self { reactor, owner }
        }

        /// Waits for the next events; fails the test after a while.
        fn wait(&mut self) -> Vec<Ready> {
            let mut out = Vec::new();
            self.reactor.wait(Some(LIMIT), &mut Vec::new()).unwrap();
            self.owner.drain(&mut out);
            assert!(!out.is_empty(), "nothing happened in time");
            out
        }

        fn connected(&mut self, listen: &str) -> (TcpStream, TcpStream) {
            let listener = TcpListener::bind(listen.parse().unwrap()).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            self.owner.register(&client, 0).unwrap();
            while client.connect_state().unwrap() == ConnectState::Pending {
                self.wait();
            }
            let (server, peer) = listener.accept().unwrap().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            assert_eq!(client.peer_addr().unwrap(), server.local_addr().unwrap());
            assert!(listener.accept().unwrap().is_none());
            self.owner.register(&server, 1).unwrap();
            (client, server)
        }
    }

    #[test]
    fn bytes_and_fin_arrive_on_both_families() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let mut b = Bench::new();
            let (client, server) = b.connected(listen);
            let mut buf = [0; 64];
            assert_eq!(server.recv(&mut buf).unwrap(), Received::Nothing);
            let parts = [IoSlice::new(b"he"), IoSlice::new(b""), IoSlice::new(b"llo")];
            assert_eq!(client.send_vectored(&parts).unwrap(), 5);
            while !b.wait().iter().any(|r| r.token == 1 && r.readable) {}
            assert_eq!(server.recv(&mut buf).unwrap(), Received::Bytes(5));
            assert_eq!(&buf[..5], b"hello");

            client.shutdown_write().unwrap();
            while !b.wait().iter().any(|r| r.token == 1 && r.hup) {}
            assert_eq!(server.recv(&mut buf).unwrap(), Received::Fin);
            assert_eq!(server.send(b"still open this way").unwrap(), 19);
        }
    }

    #[test]
    fn refused_connect_is_reported_once_as_such() {
        let mut b = Bench::new();
        let free = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let e = match TcpStream::connect(free) {
            Err(e) => e,
            Ok(client) => {
                b.owner.register(&client, 0).unwrap();
                b.wait();
                client.connect_state().unwrap_err()
            }
        };
        assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn abort_is_seen_as_reset() {
        let mut b = Bench::new();
        let (client, server) = b.connected("127.0.0.1:0");
        assert_eq!(client.send(b"lost").unwrap(), 4);
        while !b.wait().iter().any(|r| r.token == 1 && r.readable) {}
        client.abort();
        while !b.wait().iter().any(|r| r.token == 1 && r.hup) {}
        let mut buf = [0; 64];
        assert_eq!(server.recv(&mut buf).unwrap(), Received::Bytes(4), "what came before RST is delivered");
        assert_eq!(server.recv(&mut buf).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(server.send(b"x").is_err());
    }

    #[test]
    fn a_full_socket_takes_a_part_then_nothing_then_goes_on() {
        let mut b = Bench::new();
        let (client, server) = b.connected("127.0.0.1:0");
        let (chunk, mut sent, mut received) = (vec![0x5a; 1 << 20], 0, 0);
        let mut buf = vec![0; 1 << 20];
        loop {
            let n = client.send(&chunk).unwrap();
            sent += n;
            if n == 0 {
                break;
            }
        }
        assert!(sent > 0 && sent < 1 << 30);
        let mut writable_again = false;
        while received < sent {
            match server.recv(&mut buf).unwrap() {
                Received::Bytes(n) => received += n,
                Received::Nothing => {
                    writable_again |= b.wait().iter().any(|r| r.token == 0 && r.writable);
                }
                Received::Fin => panic!("nobody closed"),
            }
        }
        while !writable_again {
            writable_again |= b.wait().iter().any(|r| r.token == 0 && r.writable);
        }
        assert!(client.send(&chunk).unwrap() > 0);
    }

    #[test]
    fn bind_says_what_to_do() {
        let first = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let e = TcpListener::bind(first.local_addr().unwrap()).unwrap_err();
        assert!(e.to_string().starts_with("cannot listen on 127.0.0.1:"), "{e}");
        assert!(e.to_string().ends_with("choose another port, or port 0 for a free one"), "{e}");
        let e = TcpListener::bind("192.0.2.1:3260".parse().unwrap()).unwrap_err();
        assert!(e.to_string().ends_with("or 0.0.0.0"), "{e}");
    }

    #[test]
    fn calls_are_counted() {
        let mut b = Bench::new();
        let (client, server) = b.connected("127.0.0.1:0");
        let before = count::calls();
        client.send(b"x").unwrap();
        server.recv(&mut [0; 8]).unwrap();
        let made = count::calls() - before;
        assert_eq!((made.send, made.recv, made.total()), (1, 1, 2));
    }
}
