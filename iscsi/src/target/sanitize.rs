//! SANITIZE (SBC-3 4.11, 5.23): BLOCK ERASE unmaps every block. Once begun it goes on without its command: no
//! abort and no reset ends it, and until it is over the unit answers nothing that touches the medium. One
//! that failed keeps the medium shut until another one succeeds, or until EXIT FAILURE MODE where the command
//! allowed that. Not modelled: overwriting, and keys to throw away.

use super::disk::Disk;
use super::work::Allowance;
use crate::scsi::{Cdb, Sense, op};

/// Where a unit stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sanitize {
    #[default]
    Idle,
    Erasing {
        /// Bytes done.
        at: u64,
        /// AUSE.
        unrestricted_exit: bool,
    },
    Failed {
        /// AUSE.
        unrestricted_exit: bool,
    },
}

/// Bytes of one step: an unmap of whole pages, which pays a quarter as in `work`.
const STEP: u64 = 1 << 20;

impl Sanitize {
    /// Why a command cannot be done now.
    pub(super) fn objection(&self, cdb: &Cdb) -> Option<Sense> {
        match (self, cdb) {
            (
                Sanitize::Erasing { .. },
                Cdb::Inquiry { .. }
                | Cdb::RequestSense { .. }
                | Cdb::ReportOpcodes { .. }
                | Cdb::ReportFunctions { .. }
                | Cdb::ReportPortGroups { .. }
                | Cdb::LogSense { .. }
                | Cdb::ModeSense { .. }
                | Cdb::PersistentReserveIn { .. }
                | Cdb::PersistentReserveOut { .. }
                | Cdb::Release6,
            ) => None,
            (Sanitize::Erasing { .. }, _) => Some(Sense::SANITIZE_IN_PROGRESS),
            (Sanitize::Failed { .. }, Cdb::Sanitize { .. }) => None,
            (Sanitize::Failed { .. }, _) if cdb.needs_medium() => Some(Sense::SANITIZE_FAILED),
            _ => None,
        }
    }
}

impl Disk {
    /// Whether an erase is under way.
    pub(super) fn is_sanitizing(&self) -> bool {
        matches!(self.sanitize, Sanitize::Erasing { .. })
    }

    /// SANITIZE, admitted. True when an erase has begun.
    pub(super) fn begin_sanitize(&mut self, action: u8, unrestricted_exit: bool) -> Result<bool, Sense> {
        if action == op::SA_BLOCK_ERASE {
            self.sanitize = Sanitize::Erasing { at: 0, unrestricted_exit };
            return Ok(true);
        }
        match self.sanitize {
            Sanitize::Failed { unrestricted_exit: false } => Err(Sense::invalid_cdb_byte(1)),
            _ => {
                self.sanitize = Sanitize::Idle;
                Ok(false)
            }
        }
    }

    /// One step of the erase.
    pub(super) fn erase(&mut self, allowance: &mut Allowance) -> Result<(), Sense> {
        let Sanitize::Erasing { at, unrestricted_exit } = self.sanitize else { return Ok(()) };
        let end = self.blocks() * u64::from(self.block_size());
        let len = (end - at).min(STEP - at % STEP);
        allowance.take(len / 4);
        let outcome = self.medium.zero(at, len);
        self.sanitize = match outcome {
            Err(_) => Sanitize::Failed { unrestricted_exit },
            Ok(()) if at + len < end => Sanitize::Erasing { at: at + len, unrestricted_exit },
            Ok(()) => Sanitize::Idle,
        };
        outcome
    }
}
