//! Local stream sockets that carry file descriptors: the transport of vfio-user.
//!
//! Non-blocking; every call makes one system call, `EINTR` is retried. Descriptors are attached to the first
//! byte of a send, and a receive that returns descriptors ends with the bytes that they were sent with
//! (`unix(7)`: ancillary data is a barrier).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use thiserror::Error;

use crate::count;
use crate::net::Received;

/// Descriptors that one message can carry (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// A connected socket.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// Connects to the listener at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or its queue is full.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::adopt(UnixStream::connect(path)?)
    }

    /// Two connected sockets.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self::adopt(a)?, Self::adopt(b)?))
    }

    fn adopt(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream))
    }

    /// Sends from `bytes`, `fds` with the first of them. Returns how many bytes the kernel took; with none
    /// (no room), no descriptor was sent either.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        loop {
            count::add(|c| c.send += 1);
            let flags = MsgFlags::MSG_NOSIGNAL;
            return match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
                Ok(n) => Ok(n),
                Err(Errno::EAGAIN) => Ok(0),
                Err(Errno::EINTR) => continue,
                Err(e) => Err(e.into()),
            };
        }
    }

    /// Receives into `buf`, which must not be empty, and appends the descriptors that came with the last byte
    /// received.
    ///
    /// # Errors
    /// The connection broke. `InvalidData`: a message brought more descriptors than there is room for, in the
    /// message or in this process; those that arrived are closed again, and the connection is of no use any
    /// more.
    pub fn recv(&self, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<Received> {
        loop {
            count::add(|c| c.recv += 1);
            let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
            let mut control = Control([0; CONTROL]);
            // SAFETY: all zeros is a valid header.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = CONTROL as _;
            // SAFETY: header, part, buffer and control memory live through the call, with the lengths given.
            let n = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
            let n = match Errno::result(n) {
                Ok(n) => n as usize,
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let before = fds.len();
            // SAFETY: the kernel has just filled the header in.
            unsafe { take_rights(&header, fds) };
            if header.msg_flags & libc::MSG_CTRUNC != 0 {
                // The kernel made as many as it could and threw the rest away: which of them are missing
                // nobody knows.
                fds.truncate(before);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors at once"));
            }
            return Ok(if n == 0 { Received::Fin } else { Received::Bytes(n) });
        }
    }
}

/// Bytes of control memory: [`MAX_FDS`] descriptors in one message, and its head.
const CONTROL: usize = 1040;
const _: () = {
    // SAFETY: a computation.
    assert!(unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize <= CONTROL);
};

/// Control memory, aligned as the kernel's headers in it are.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Takes possession of all descriptors that a receive has made, however many control messages they came in.
///
/// # Safety
/// `header` was filled in by a successful `recvmsg`, its control memory is alive, and this is done once.
unsafe fn take_rights(header: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the header describes control memory that the kernel has written, and the macros stay inside of
    // it.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            if (*at).cmsg_level == libc::SOL_SOCKET && (*at).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*at).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(at).cast::<RawFd>();
                for i in 0..bytes / size_of::<RawFd>() {
                    // The kernel has just made it for us; nobody else knows it.
                    fds.push(OwnedFd::from_raw_fd(first.add(i).read_unaligned()));
                }
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why nobody can listen there.
#[derive(Debug, Error)]
#[error("cannot listen on {}: {cause}{}", path.display(), advice(.cause))]
pub struct BindError {
    /// The path that was asked for.
    pub path: PathBuf,
    /// What the kernel said.
    pub cause: io::Error,
}

fn advice(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: choose another path",
        io::ErrorKind::NotFound => "; create the directory first",
        io::ErrorKind::InvalidInput => "; choose a shorter path",
        io::ErrorKind::PermissionDenied => "; choose a directory that you may write to",
        _ => "",
    }
}

/// A listening socket. Its path is removed when it is dropped.
#[derive(Debug)]
pub struct ChannelListener {
    listener: UnixListener,
    path: PathBuf,
}

impl ChannelListener {
    /// Listens at `path`. The socket of a dead process is taken over.
    ///
    /// # Errors
    /// [`BindError`] says what to do.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |cause| BindError { path: path.to_owned(), cause };
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_dead(path) => {
                std::fs::remove_file(path).map_err(failed)?;
                UnixListener::bind(path)
            }
            other => other,
        };
        let listener = listener.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next connection that waits, or `None`.
    ///
    /// # Errors
    /// No descriptor is left: the connection still waits.
    pub fn accept(&self) -> io::Result<Option<Channel>> {
        count::add(|c| c.control += 1);
        match self.listener.accept() {
            Ok((stream, _)) => Channel::adopt(stream).map(Some),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Whether `path` is a socket that nobody listens on any more. A socket of the wrong type finds that out
/// without showing up as a client of a living one: that answers "wrong type", a dead one "refused".
fn is_dead(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let probe = UnixDatagram::unbound().and_then(|s| s.connect(path));
    is_socket && probe.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

impl AsFd for ChannelListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for ChannelListener {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Signal};

    #[test]
    fn descriptors_come_with_the_last_byte_of_the_receive() {
        let (a, b) = Channel::pair().unwrap();
        let e = Event::new().unwrap();
        assert_eq!(a.send(b"plain", &[]).unwrap(), 5);
        assert_eq!(a.send(b"carries", &[e.as_fd(), e.as_fd()]).unwrap(), 7);
        assert_eq!(a.send(b"later", &[]).unwrap(), 5);
        let (mut buf, mut fds, mut seen) = ([0; 64], Vec::new(), Vec::new());
        while fds.is_empty() {
            let Received::Bytes(n) = b.recv(&mut buf, &mut fds).unwrap() else { panic!("bytes are there") };
            seen.extend_from_slice(&buf[..n]);
        }
        assert_eq!(seen, b"plaincarries");
        assert_eq!(fds.len(), 2);
        Signal::adopt(fds.remove(0)).unwrap().signal();
        assert!(e.take());
        assert_eq!(b.recv(&mut buf, &mut fds).unwrap(), Received::Bytes(5));
        assert_eq!(b.recv(&mut buf, &mut fds).unwrap(), Received::Nothing);
        drop(a);
        assert_eq!(b.recv(&mut buf, &mut fds).unwrap(), Received::Fin);
        assert!(b.send(b"x", &[]).is_err());
    }

    #[test]
    fn a_dead_socket_is_taken_over_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("cnic-unix-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s");
        drop(UnixListener::bind(&path).unwrap());
        let live = ChannelListener::bind(&path).unwrap();
        let e = ChannelListener::bind(&path).unwrap_err();
        assert!(e.to_string().ends_with("choose another path"), "{e}");
        assert!(live.accept().unwrap().is_none());
        let client = Channel::connect(&path).unwrap();
        let server = live.accept().unwrap().unwrap();
        assert_eq!(client.send(b"hi", &[]).unwrap(), 2);
        assert_eq!(server.recv(&mut [0; 8], &mut Vec::new()).unwrap(), Received::Bytes(2));
        drop(live);
        assert!(!path.exists());
        std::fs::remove_dir(&dir).unwrap();
    }
}
