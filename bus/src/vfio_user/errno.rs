//! Error numbers as they travel in error replies (Linux values). An error reply never carries zero: QEMU
//! takes that for success.

use std::fmt;
use std::io;

/// A Linux error number, not zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(u32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(stringify!($name)),)*
                    other => write!(f, "errno {other}"),
                }
            }
        }
    };
}

errnos! {
    /// No such map.
    ENOENT = 2,
    /// The other side failed.
    EIO = 5,
    /// Memory cannot be mapped.
    ENOMEM = 12,
    /// The range is not mapped, or not in this direction.
    EFAULT = 14,
    /// Overlaps a map that exists.
    EEXIST = 17,
    /// Malformed request.
    EINVAL = 22,
    /// A table is full.
    ENOSPC = 28,
    /// The message is longer than announced as acceptable.
    EMSGSIZE = 90,
    /// No such command, or not this use of it.
    EOPNOTSUPP = 95,
    /// More descriptors than announced as acceptable.
    ETOOMANYREFS = 109,
}

impl Errno {
    /// From the number of an error reply. Zero, which some servers send, becomes [`Errno::EIO`].
    #[must_use]
    pub const fn received(value: u32) -> Self {
        if value == 0 { Self::EIO } else { Self(value) }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl From<io::Error> for Errno {
    fn from(e: io::Error) -> Self {
        match e.raw_os_error().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Self::received(n),
            None if e.kind() == io::ErrorKind::InvalidInput => Self::EINVAL,
            None => Self::EIO,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
