//! What users of the block API hold: buffers, requests, tickets and completions.
//!
//! Buffers are DMA memory of the adapter's platform, so that the card places data directly into them. A
//! request names ranges of them at any alignment and split; each accepted request has a ticket that completes
//! exactly once.

use iscsi::scsi::Lun;
use thiserror::Error;

use crate::control::SessionId;
use crate::error::BlockError;

/// Names a buffer made by `Adapter::alloc`. Used after `free`, it is refused by its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserBuf {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    pub(crate) len: u32,
}

impl UserBuf {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A range of it, in bytes.
    #[must_use]
    pub const fn range(self, offset: usize, len: usize) -> Extent {
        Extent { buf: self, offset, len }
    }

    /// All of it.
    #[must_use]
    pub const fn whole(self) -> Extent {
        self.range(0, self.len())
    }
}

/// A range of a buffer, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The buffer.
    pub buf: UserBuf,
    /// First byte.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads blocks into the extents.
    Read,
    /// Writes the extents.
    Write,
    /// Writes everything acknowledged so far to stable storage.
    Flush,
    /// One SCSI command as given; its data must fit one command. Never retried by the driver.
    Scsi {
        /// The CDB, zero padded.
        cdb: [u8; 16],
        /// Data goes to the target (otherwise it comes from there).
        write: bool,
    },
}

/// A request. The number of blocks is the sum of the extents divided by the block size of the LUN.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The logical unit.
    pub lun: Lun,
    /// What to do.
    pub op: Op,
    /// First logical block.
    pub lba: u64,
    /// Where the data is or goes, in order. At most [`MAX_EXTENTS`].
    pub data: &'a [Extent],
}

/// Extents of one request.
pub const MAX_EXTENTS: usize = 256;

/// Names an accepted request. Unique in the life of the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The end of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// From `submit`.
    pub ticket: Ticket,
    /// The session it was submitted to.
    pub session: SessionId,
    /// Success, or the first error. After an error a read buffer's content and the blocks of a write are
    /// undefined.
    pub result: Result<(), BlockError>,
    /// Bytes that the target did not transfer (`Op::Scsi` only).
    pub residual: u32,
}

/// Why a request was not accepted. There is no ticket and nothing will happen.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The session's queue is full; try again after a completion.
    #[error("the session's queue is full ({limit} requests)")]
    Busy {
        /// The limit that was reached.
        limit: usize,
    },
    /// The session does not exist.
    #[error("no such session")]
    NoSession,
    /// The session is closed or its replacement timeout has expired.
    #[error("the session has no connection and is not getting one")]
    Offline,
    /// The logical unit is not known or not ready.
    #[error("no such logical unit")]
    NoLun,
    /// The range leaves the disk.
    #[error("blocks {lba}+{blocks} leave a disk of {capacity}")]
    OutOfRange {
        /// First block.
        lba: u64,
        /// Number of blocks.
        blocks: u64,
        /// Blocks of the disk.
        capacity: u64,
    },
    /// The logical unit takes no writes.
    #[error("the logical unit is write protected")]
    WriteProtected,
    /// The data is no multiple of the block size, or too long for one command (`Op::Scsi`).
    #[error("{len} bytes do not fit blocks of {block} bytes")]
    Length {
        /// Bytes given.
        len: usize,
        /// Block size, bytes.
        block: u32,
    },
    /// A buffer was freed, an extent leaves its buffer, or there are more than [`MAX_EXTENTS`].
    #[error("an extent is not inside a live buffer, or there are more than {MAX_EXTENTS}")]
    BadExtent,
}

/// Why a buffer was not freed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FreeError {
    /// Requests that use it are outstanding, or the card may still touch it (quarantine).
    #[error("the buffer is in use")]
    InUse,
    /// It was freed already.
    #[error("no such buffer")]
    Stale,
}

/// A disk that LUN bring-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The logical unit.
    pub lun: Lun,
    /// Bytes per logical block.
    pub block_size: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Takes no writes.
    pub read_only: bool,
}
