//! Abstract local sockets: services that are known by a name and ask who is calling; and systemd's readiness
//! message.
//!
//! An abstract name has no file and so no permissions: the service judges each caller by the user that the
//! kernel names.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::count;

/// A listening socket with an abstract name.
#[derive(Debug)]
pub struct NamedListener(UnixListener);

impl NamedListener {
    /// Listens at `name`.
    ///
    /// # Errors
    /// The name is taken by a living process, or too long.
    pub fn bind(name: &str) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// The next connection that waits, without blocking, and the user at its other end; or `None`.
    ///
    /// # Errors
    /// No descriptor is left, the connection still waits; or it was gone before it could be asked.
    pub fn accept(&self) -> io::Result<Option<(UnixStream, u32)>> {
        count::add(|c| c.control += 1);
        match self.0.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                let uid = getsockopt(&stream, PeerCredentials)?.uid();
                Ok(Some((stream, uid)))
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for NamedListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The user that this process runs as.
///
/// # Errors
/// There is no `/proc`.
pub fn own_user() -> io::Result<u32> {
    Ok(std::fs::metadata("/proc/self")?.uid())
}

/// Connects to an abstract name; reads and writes block.
///
/// # Errors
/// Nobody listens there.
pub fn connect(name: &str) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Sends `state` to the service manager whose socket the environment named; `@` stands for an abstract name.
///
/// # Errors
/// Nobody listens there.
pub fn notify(socket: &OsStr, state: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    match socket.as_bytes() {
        [b'@', name @ ..] => {
            sender.send_to_addr(state.as_bytes(), &SocketAddr::from_abstract_name(name)?)?;
        }
        _ => {
            sender.send_to(state.as_bytes(), Path::new(socket))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_named_and_a_name_is_taken_once() {
        let name = format!("cnic-local-test-{}", std::process::id());
        let listener = NamedListener::bind(&name).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let _caller = connect(&name).unwrap();
        let (_, uid) = listener.accept().unwrap().unwrap();
        assert_eq!(uid, own_user().unwrap());
        assert_eq!(NamedListener::bind(&name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn readiness_goes_to_the_manager() {
        let name = format!("cnic-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notify(OsStr::new(&format!("@{name}")), "READY=1").unwrap();
        let mut got = [0; 16];
        let n = manager.recv(&mut got).unwrap();
        assert_eq!(&got[..n], b"READY=1");
    }
}
