//! What the bring-up says of a unit: the disk, or why there is none.

use iscsi::scsi::{BlockLimits, Capacity, Lun, Sense, SenseKey};
use thiserror::Error;

use super::READY_TIMEOUT;
use crate::block::Geometry;
use crate::error::BlockError;

/// Why a unit is not usable. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LunError {
    /// No unit of that number.
    #[error("the target has no such logical unit: choose one that it reports, or export one there")]
    Missing,
    /// The unit exists and nothing is connected to it.
    #[error("the logical unit is not connected: connect a backing store on the target")]
    NotConnected,
    /// A tape, an enclosure...
    #[error("the logical unit is no disk (device type {0:#04x}): choose a disk")]
    NotADisk(u8),
    /// Did not become ready in time.
    #[error("the logical unit is not ready (sense {:x}/{:02x}/{:02x}): see the target's log", .0.key.0, .0.asc, .0.ascq)]
    NotReady(Sense),
    /// BUSY until the timeout.
    #[error("the logical unit stayed busy for {} s: lower the target's load and log in again", READY_TIMEOUT.as_secs())]
    Busy,
    /// Drive without medium.
    #[error("there is no medium in the logical unit: insert one")]
    NoMedium,
    /// Another initiator keeps us out.
    #[error("another initiator holds a reservation of the logical unit: release it there")]
    Reserved,
    /// A block size that cannot be transferred.
    #[error("blocks of {0} bytes are not supported: use 512 to 32768, a power of two")]
    BlockSize(u32),
    /// An answer that makes no sense, or a status that ends the bring-up.
    #[error("the target's answer to {0} makes no sense: check the target")]
    Malformed(&'static str),
    /// The command failed.
    #[error("{command} failed: {error}")]
    Command {
        /// Name of the SCSI command.
        command: &'static str,
        /// How it ended.
        error: BlockError,
    },
}

impl LunError {
    /// Whether it says nothing about what the unit is: the same question may be answered later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NotReady(_) | Self::Busy | Self::NoMedium | Self::Reserved => true,
            Self::Command { error: BlockError::Sense(sense), .. } => sense.key != SenseKey::ILLEGAL_REQUEST,
            Self::Command { error: BlockError::NoSense, .. } => false,
            Self::Command { .. } => true,
            Self::Missing
            | Self::NotConnected
            | Self::NotADisk(_)
            | Self::BlockSize(_)
            | Self::Malformed(_) => false,
        }
    }
}

/// What bring-up found out about a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunInfo {
    /// Its number.
    pub lun: Lun,
    /// T10 vendor, without padding.
    pub vendor: String,
    /// Product, without padding.
    pub product: String,
    /// Product revision, without padding.
    pub revision: String,
    /// Unit serial number (page 80), without padding.
    pub serial: Option<String>,
    /// The unit's best designator (page 83): NAA, else EUI-64, else SCSI name, else T10; such as
    /// `naa.6001405…`.
    pub id: Option<String>,
    /// Logical blocks and their size.
    pub capacity: Capacity,
    /// Takes no writes.
    pub read_only: bool,
    /// Writes may rest in a volatile cache.
    pub write_cache: bool,
    /// Accepts FUA.
    pub fua: bool,
    /// Block limits (page B0); zeros when not reported.
    pub limits: BlockLimits,
}

impl LunInfo {
    /// What the block queue has to know.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry {
            block_size: self.capacity.block_size,
            blocks: self.capacity.blocks,
            read_only: self.read_only,
            max_transfer: self.limits.max_transfer,
        }
    }

    /// Whether `later`, found after a re-login, is the disk that commands were queued for: same identity and
    /// block size, and not smaller. Repeating a write on another disk would destroy it.
    #[must_use]
    pub fn same_disk(&self, later: &Self) -> bool {
        self.lun == later.lun
            && self.id == later.id
            && self.serial == later.serial
            && self.capacity.block_size == later.capacity.block_size
            && self.capacity.blocks <= later.capacity.blocks
    }
}
