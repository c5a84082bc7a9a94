//! What a block request that was accepted can be told. Why one is not accepted is [`crate::block::Refusal`].

use iscsi::scsi::{Sense, Status};
use thiserror::Error;

use crate::control::ConnFailure;

/// What the caller of a failed request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail again; change it or the configuration first.
    Never,
    /// Nothing was done; the same request may be submitted again when the shortage has passed.
    Later,
    /// A write may or may not have reached the medium. Submitting the same data again settles it; until then
    /// the blocks are undetermined.
    Undetermined,
    /// As `Undetermined`, but only after the session is logged in again.
    AfterRecovery,
}

/// What a request waited for although its session was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Gate {
    /// MaxCmdSN allows no command (RFC 7143 4.2.2.1).
    #[error("the target's command window is closed")]
    CommandWindow,
    /// No room for a command in the send queue of the connection.
    #[error("the card's send queue has no room")]
    SendQueue,
    /// No task tag is free.
    #[error("no task tag is free")]
    TaskTags,
}

/// Why a logical unit that was in use is away after a re-login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitLoss {
    /// The target does not have it any more.
    #[error("the target does not list it any more; export it again")]
    Gone,
    /// BUSY or TASK SET FULL.
    #[error("it is busy; lower the target's load")]
    Busy,
    /// NOT READY.
    #[error("it is not ready; see the target's log")]
    NotReady,
    /// RESERVATION CONFLICT.
    #[error("another initiator holds a reservation; release it there")]
    Reserved,
    /// It answers, and not as a disk.
    #[error("its answers make no disk; see the target's log")]
    Unusable,
}

/// Why a block request failed. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// The session was logged out or destroyed while the request was queued.
    #[error("the session was closed: log in again")]
    SessionClosed,
    /// Recovery did not succeed within the replacement timeout.
    #[error(
        "session recovery timed out after {seconds} s: check target and network; requests work again after the next login"
    )]
    RecoveryTimedOut {
        /// The replacement timeout in seconds.
        seconds: u32,
    },
    /// The connection failed and the command was not repeated.
    #[error("connection failed ({0}): retry when the session is logged in again")]
    Transport(ConnFailure),
    /// The adapter was removed or shut down.
    #[error("the adapter is gone: log in through another one")]
    AdapterGone,
    /// After a re-login another disk answers under the target's name. Nothing was written to it.
    #[error(
        "another disk answers at the target after recovery: check the target's configuration, then submit again"
    )]
    DiskChanged,
    /// It waited for longer than a command may take, and was not sent.
    #[error("the request waited for {seconds} s and was not sent: {gate}")]
    HeldUp {
        /// What it waited for.
        gate: Gate,
        /// The time that a command may take, in seconds.
        seconds: u32,
    },
    /// The logical unit did not come back with the session.
    #[error("the logical unit did not come back with the session: {0}")]
    UnitLost(UnitLoss),
    /// The command was aborted after its timeout.
    #[error("the command took longer than its timeout and was aborted: check the target's load, then retry")]
    Aborted,
    /// CHECK CONDITION.
    #[error(
        "the target answered CHECK CONDITION {:x}/{:02x}/{:02x} (sense key, code, qualifier): see the target's log",
        .0.key.0, .0.asc, .0.ascq
    )]
    Sense(Sense),
    /// CHECK CONDITION without readable sense data.
    #[error("the target answered CHECK CONDITION without sense data: see the target's log")]
    NoSense,
    /// A status other than GOOD and CHECK CONDITION that retries did not lift.
    #[error("the target answered SCSI status {:#04x}: {}", .0.0, status_advice(*.0))]
    Status(Status),
    /// The target could not deliver the command to the logical unit (iSCSI response code other than 0).
    #[error("the target failed to run the command (iSCSI response {0:#04x}): see the target's log")]
    TargetFailure(u8),
    /// GOOD status with less data than asked for.
    #[error("the target moved {moved} of {expected} bytes and called it good: check the target's block size")]
    Short {
        /// Bytes asked for in the command.
        expected: u32,
        /// Bytes moved.
        moved: u32,
    },
}

fn status_advice(status: Status) -> &'static str {
    match status {
        Status::RESERVATION_CONFLICT => "another initiator holds a reservation; release it there",
        Status::BUSY | Status::TASK_SET_FULL => "the target is overloaded; lower the queue depth and retry",
        Status::TASK_ABORTED => "another initiator aborted it; retry",
        _ => "see the target's log",
    }
}

impl BlockError {
    /// A stable number for events and reports; 0 is success and never an error's number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        match self {
            Self::SessionClosed => 1,
            Self::RecoveryTimedOut { .. } => 2,
            Self::Transport(_) => 3,
            Self::AdapterGone => 4,
            Self::Aborted => 5,
            Self::Sense(_) => 6,
            Self::NoSense => 7,
            Self::Status(_) => 8,
            Self::TargetFailure(_) => 9,
            Self::Short { .. } => 10,
            Self::DiskChanged => 11,
            Self::HeldUp { .. } => 12,
            Self::UnitLost(_) => 13,
        }
    }

    /// What the caller may do now.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::SessionClosed | Self::AdapterGone | Self::DiskChanged => Retry::Never,
            Self::RecoveryTimedOut { .. } | Self::Transport(_) | Self::UnitLost(_) => Retry::AfterRecovery,
            // A part of a long request may have been sent before.
            Self::HeldUp { .. }
            | Self::Aborted
            | Self::TargetFailure(_)
            | Self::Short { .. }
            | Self::NoSense => Retry::Undetermined,
            Self::Sense(sense) => match sense.key.0 {
                // ILLEGAL REQUEST, DATA PROTECT and MISCOMPARE answer the request itself.
                0x5 | 0x7 | 0xE => Retry::Never,
                _ => Retry::Undetermined,
            },
            Self::Status(status) => match *status {
                Status::BUSY | Status::TASK_SET_FULL => Retry::Later,
                Status::RESERVATION_CONFLICT => Retry::Never,
                _ => Retry::Undetermined,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_numbers_and_what_to_do() {
        let e = BlockError::Sense(Sense::UNRECOVERED_READ);
        assert_eq!(
            e.to_string(),
            "the target answered CHECK CONDITION 3/11/00 (sense key, code, qualifier): see the target's log"
        );
        let e = BlockError::Status(Status::RESERVATION_CONFLICT);
        assert!(e.to_string().contains("release it there"), "{e}");
        assert_eq!(e.retry(), Retry::Never);
    }

    #[test]
    fn a_write_that_may_have_landed_is_undetermined_and_a_refused_one_is_not() {
        assert_eq!(BlockError::Aborted.retry(), Retry::Undetermined);
        assert_eq!(BlockError::Sense(Sense::WRITE_ERROR).retry(), Retry::Undetermined);
        assert_eq!(BlockError::Sense(Sense::LBA_OUT_OF_RANGE).retry(), Retry::Never);
        assert_eq!(BlockError::Transport(ConnFailure::ConnFailed).retry(), Retry::AfterRecovery);
        assert_eq!(BlockError::Status(Status::BUSY).retry(), Retry::Later);
    }
}
