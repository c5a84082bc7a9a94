//! TAP devices: the kernel's end of a cable whose other end is a descriptor.
//!
//! A device lives as long as its descriptor. Frames have no prefix and no FCS; the kernel has completed
//! checksums and cut large sends. Nothing here blocks.

use std::ffi::c_int;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use thiserror::Error;

use crate::count;

const DEVICE: &str = "/dev/net/tun";
/// `TUNSETIFF`: _IOW('T', 202, int).
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// Bytes of an interface name, its end included.
const NAME: usize = libc::IFNAMSIZ;

/// Why there is no TAP device.
#[derive(Debug, Error)]
pub enum TapError {
    /// The name is empty, too long, or has characters that no interface name has.
    #[error("`{0}` is no interface name: it takes 1 to {max} letters, digits, `-`, `_` or `.`", max = NAME - 1)]
    Name(String),
    /// The process may not.
    #[error(
        "no permission to make the TAP device {0}: it takes CAP_NET_ADMIN, or a device made for this user with `ip tuntap add`"
    )]
    Permission(String),
    /// The kernel has no such driver, or hides it.
    #[error("{DEVICE} is not there: the kernel has no TUN/TAP driver, or this container no access to it")]
    NoDriver,
    /// Another process has it.
    #[error("the TAP device {0} is in use by another process")]
    Busy(String),
    /// Something else.
    #[error("the TAP device {0}: {1}")]
    Os(String, io::Error),
}

/// `struct ifreq`, with the part that a request uses as bytes.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    data: [u8; 24],
}

/// A TAP device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    /// For requests about the interface.
    control: OwnedFd,
}

impl Tap {
    /// Makes the device `name`, or takes it if it exists and nobody has it.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if name.is_empty() || name.len() >= NAME || !name.bytes().all(fits) {
            return Err(TapError::Name(name.to_owned()));
        }
        let error = |e: Errno| match e {
            Errno::EPERM | Errno::EACCES => TapError::Permission(name.to_owned()),
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => TapError::NoDriver,
            Errno::EBUSY => TapError::Busy(name.to_owned()),
            e => TapError::Os(name.to_owned(), e.into()),
        };
        let fd = open(DEVICE, OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(error)?;
        let mut request = request(name);
        let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as u16;
        request.data[..2].copy_from_slice(&flags.to_ne_bytes());
        ioctl(&fd, TUNSETIFF, &mut request).map_err(error)?;
        let control =
            socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(error)?;
        Ok(Self { fd, name: name.to_owned(), control })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Receives a frame into `out`; `None` when there is none now. What does not fit is cut off.
    ///
    /// # Errors
    /// The device is gone.
    pub fn recv(&self, out: &mut [u8]) -> io::Result<Option<usize>> {
        count::add(|c| c.recv += 1);
        match nix::unistd::read(&self.fd, out) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a frame. False: there is no room now.
    ///
    /// # Errors
    /// The interface is down ([`io::Error::raw_os_error`] is `EIO`), or takes no such frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<bool> {
        count::add(|c| c.send += 1);
        match nix::unistd::write(&self.fd, frame) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the interface is up.
    ///
    /// # Errors
    /// It is gone.
    pub fn is_up(&self) -> io::Result<bool> {
        Ok(c_int::from(self.flags()?) & libc::IFF_UP != 0)
    }

    /// Brings the interface up or down.
    ///
    /// # Errors
    /// The process may not.
    pub fn set_up(&self, up: bool) -> io::Result<()> {
        let bit = libc::IFF_UP as u16;
        let flags = self.flags()? & !bit | if up { bit } else { 0 };
        self.ask(libc::SIOCSIFFLAGS, &flags.to_ne_bytes()).map(drop)
    }

    /// The MTU in bytes.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn mtu(&self) -> io::Result<u32> {
        let data = self.ask(libc::SIOCGIFMTU, &[])?;
        Ok(u32::from_ne_bytes([data[0], data[1], data[2], data[3]]))
    }

    /// Changes the MTU.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn set_mtu(&self, bytes: u32) -> io::Result<()> {
        self.ask(libc::SIOCSIFMTU, &bytes.to_ne_bytes()).map(drop)
    }

    /// The MAC of the kernel's end.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let data = self.ask(libc::SIOCGIFHWADDR, &[])?;
        Ok([data[2], data[3], data[4], data[5], data[6], data[7]])
    }

    /// Gives the kernel's end an IPv4 address and the network around it.
    ///
    /// # Errors
    /// The process may not.
    pub fn set_address(&self, ip: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let address = |ip: Ipv4Addr| {
            let mut data = [0; 16];
            data[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            data[4..8].copy_from_slice(&ip.octets());
            data
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        self.ask(libc::SIOCSIFADDR, &address(ip))?;
        self.ask(libc::SIOCSIFNETMASK, &address(Ipv4Addr::from_bits(mask))).map(drop)
    }

    fn flags(&self) -> io::Result<u16> {
        let data = self.ask(libc::SIOCGIFFLAGS, &[])?;
        Ok(u16::from_ne_bytes([data[0], data[1]]))
    }

    fn ask(&self, what: libc::c_ulong, data: &[u8]) -> io::Result<[u8; 24]> {
        let mut request = request(&self.name);
        request.data[..data.len()].copy_from_slice(data);
        ioctl(&self.control, what, &mut request)?;
        Ok(request.data)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn request(name: &str) -> Request {
    let mut request = Request { name: [0; NAME], data: [0; 24] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    request
}

fn ioctl(fd: &OwnedFd, what: libc::c_ulong, request: &mut Request) -> nix::Result<()> {
    // SAFETY: every request used here takes a `struct ifreq`, which `Request` has the size and layout of, and
    // which lives through the call.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), what, std::ptr::from_mut(request)) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has() {
        for name in ["", "sixteen-letters!", "a-name-of-sixteen", "a b", "a/b"] {
            assert!(matches!(Tap::open(name), Err(TapError::Name(_))), "{name}");
        }
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
    }
}
