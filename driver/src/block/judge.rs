//! What the end of a command means for its request: done, again, or failed.

use bus::Instant;
use core::time::Duration;
use iscsi::scsi::{Sense, SenseKey, Status};

use crate::error::BlockError;

/// How often a command is repeated at once: after unit attention, ABORTED COMMAND and TASK ABORTED.
pub const RETRY_LIMIT: u8 = 5;
/// Pause before a repetition after BUSY, TASK SET FULL and "becoming ready".
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long, from the first issue, a command is repeated with pauses.
pub const RETRY_WINDOW: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered (SCSI Response, or Data-In with status).
    Answered {
        /// iSCSI response code; anything but 0 makes the rest meaningless (RFC 7143 11.4.3).
        response: u8,
        /// SCSI status.
        status: Status,
        /// Sense data, if it came and could be read.
        sense: Option<Sense>,
        /// Bytes asked for and not moved (underflow residual).
        residual: u32,
    },
    /// It ended without an answer.
    Failed(BlockError),
}

impl Outcome {
    /// GOOD, everything moved.
    pub const GOOD: Self = Self::Answered { response: 0, status: Status::GOOD, sense: None, residual: 0 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done {
        residual: u32,
    },
    Fail {
        error: BlockError,
        residual: u32,
    },
    AgainNow,
    AgainAt(Instant),
    /// Nobody answered it.
    Lost,
}

/// What a command has behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) first_issued: Instant,
    pub(super) retries: u8,
}

/// Judges a command of `bytes` bytes. A `raw` command is the caller's own: never repeated, its residual no
/// error.
pub(super) fn judge(outcome: Outcome, bytes: u32, raw: bool, effort: Effort, now: Instant) -> Verdict {
    let (response, status, sense, residual) = match outcome {
        // The target lost it, or a reset ended it. It fares as after the loss of its connection, whichever
        // rung of the error handler got the task back.
        Outcome::Failed(BlockError::Aborted) if !raw => return Verdict::Lost,
        Outcome::Failed(error) => return Verdict::Fail { error, residual: bytes },
        Outcome::Answered { response, status, sense, residual } => {
            (response, status, sense, residual.min(bytes))
        }
    };
    let fail = |error| Verdict::Fail { error, residual };
    let at_once = |error| {
        if raw || effort.retries >= RETRY_LIMIT { fail(error) } else { Verdict::AgainNow }
    };
    let later = |error| {
        let at = now + RETRY_PAUSE;
        if raw || at > effort.first_issued + RETRY_WINDOW { fail(error) } else { Verdict::AgainAt(at) }
    };
    let good = || {
        if residual == 0 || raw {
            Verdict::Done { residual }
        } else {
            fail(BlockError::Short { expected: bytes, moved: bytes - residual })
        }
    };
    if response != 0 {
        return Verdict::Fail { error: BlockError::TargetFailure(response), residual: bytes };
    }
    match (status, sense) {
        (Status::GOOD | Status::CONDITION_MET, _) => good(),
        (Status::CHECK_CONDITION, None) => fail(BlockError::NoSense),
        (Status::CHECK_CONDITION, Some(sense)) => {
            let error = BlockError::Sense(sense);
            match sense.key {
                // About an earlier write that was called good: it must reach the caller, not a retry loop.
                _ if sense.deferred => fail(error),
                SenseKey::NO_SENSE | SenseKey::RECOVERED_ERROR => good(),
                SenseKey::UNIT_ATTENTION | SenseKey::ABORTED_COMMAND => at_once(error),
                // Becoming ready.
                SenseKey::NOT_READY if (sense.asc, sense.ascq) == (0x04, 0x01) => later(error),
                _ => fail(error),
            }
        }
        (Status::BUSY | Status::TASK_SET_FULL, _) => later(BlockError::Status(status)),
        (Status::TASK_ABORTED, _) => at_once(BlockError::Status(status)),
        _ => fail(BlockError::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn answered(status: Status, sense: Option<Sense>, residual: u32) -> Outcome {
        Outcome::Answered { response: 0, status, sense, residual }
    }

    fn verdict(outcome: Outcome, retries: u8, now_ms: u64) -> Verdict {
        judge(outcome, 4096, false, Effort { first_issued: at(0), retries }, at(now_ms))
    }

    #[test]
    fn table() {
        use Verdict::{AgainAt, AgainNow, Done, Fail, Lost};
        let check = |sense| answered(Status::CHECK_CONDITION, Some(sense), 0);
        let sense = |s| Fail { error: BlockError::Sense(s), residual: 0 };
        let late = Sense { deferred: true, ..Sense::WRITE_ERROR };
        let becoming_ready = Sense::new(SenseKey::NOT_READY, 4, 1);
        let busy = Fail { error: BlockError::Status(Status::BUSY), residual: 0 };
        let conflict = Fail { error: BlockError::Status(Status::RESERVATION_CONFLICT), residual: 0 };
        for (outcome, retries, now, expected) in [
            (Outcome::GOOD, 0, 0, Done { residual: 0 }),
            (
                answered(Status::GOOD, None, 96),
                0,
                0,
                Fail { error: BlockError::Short { expected: 4096, moved: 4000 }, residual: 96 },
            ),
            (check(Sense::POWER_ON), 0, 0, AgainNow),
            (check(Sense::POWER_ON), RETRY_LIMIT, 0, sense(Sense::POWER_ON)),
            (check(Sense::PROTOCOL_SERVICE_CRC), 0, 0, AgainNow),
            (check(Sense::UNRECOVERED_READ), 0, 0, sense(Sense::UNRECOVERED_READ)),
            (check(late), 0, 0, sense(late)),
            (check(Sense::new(SenseKey::RECOVERED_ERROR, 0x17, 1)), 0, 0, Done { residual: 0 }),
            (check(becoming_ready), 0, 5, AgainAt(at(105))),
            (
                answered(Status::CHECK_CONDITION, None, 0),
                0,
                0,
                Fail { error: BlockError::NoSense, residual: 0 },
            ),
            (answered(Status::BUSY, None, 0), 200, 29_900, AgainAt(at(30_000))),
            (answered(Status::BUSY, None, 0), 0, 29_901, busy),
            (answered(Status::RESERVATION_CONFLICT, None, 0), 0, 0, conflict),
            (answered(Status::TASK_ABORTED, None, 0), 0, 0, AgainNow),
            (Outcome::Failed(BlockError::Aborted), RETRY_LIMIT, 60_000, Lost),
        ] {
            assert_eq!(verdict(outcome, retries, now), expected, "{outcome:?}");
        }
    }

    #[test]
    fn a_response_code_makes_the_status_meaningless() {
        let outcome = Outcome::Answered { response: 1, status: Status::GOOD, sense: None, residual: 0 };
        assert_eq!(
            verdict(outcome, 0, 0),
            Verdict::Fail { error: BlockError::TargetFailure(1), residual: 4096 }
        );
    }

    #[test]
    fn a_raw_command_is_never_repeated_and_may_be_short() {
        let effort = Effort { first_issued: at(0), retries: 0 };
        let raw = |o| judge(o, 255, true, effort, at(0));
        assert_eq!(raw(answered(Status::GOOD, None, 200)), Verdict::Done { residual: 200 });
        let busy = BlockError::Status(Status::BUSY);
        let aborted = BlockError::Aborted;
        assert_eq!(raw(Outcome::Failed(aborted)), Verdict::Fail { error: aborted, residual: 255 });
        assert_eq!(raw(answered(Status::BUSY, None, 255)), Verdict::Fail { error: busy, residual: 255 });
        assert_eq!(
            raw(answered(Status::GOOD, None, 999)),
            Verdict::Done { residual: 255 },
            "impossible residual"
        );
    }
}
