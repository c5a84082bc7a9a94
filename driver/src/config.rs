//! What an operator may choose, and every deadline of the driver in one table.
//!
//! [`DriverConfig`] is shared by the command line, fault plans and tests. The deadlines are the values of
//! BNX2I-CNIC 13.7; there is no wait in the driver without an entry here.

use core::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Largest MTU of the function (BNX2I-CNIC B.1).
pub const MAX_MTU: u16 = 9000;
/// Smallest MTU (RFC 791's minimum datagram).
pub const MIN_MTU: u16 = 68;
/// Connections per adapter (`ISCSI_MAX_CONNS_PER_HBA`).
pub const MAX_CONNECTIONS: u16 = 128;
/// Bytes of an RQ buffer (BNX2I-CNIC 0.2).
pub const RQ_BUFFER: usize = 256;

/// Ring sizes of every connection, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RingSizes {
    /// Send queue: a power of two, 64 to 128. Also the number of tasks. With the completion queue of the
    /// 5709, 128 entries at most, only 64 ever passes the check; 128 is for a chip of the class with more.
    pub sq: u16,
    /// Receive queue: a power of two, 16 or 32.
    pub rq: u16,
    /// Completion queue: a multiple of 64 up to 128 (5709), at least `sq + rq + CLEANUP_SLOTS`.
    pub cq: u16,
}

/// Send queue entries kept free of commands, for CLEANUP requests (BNX2I-CNIC 13.5, D10).
pub const CLEANUP_SLOTS: u16 = 8;
/// Tasks and send queue entries kept free of commands, for login, NOP, TMF and logout: with the cleanup slots
/// they make sure that the error handler always finds room.
pub const MANAGEMENT_TASKS: u16 = crate::libiscsi::MGMT_TASKS;

impl Default for RingSizes {
    fn default() -> Self {
        Self { sq: 64, rq: 16, cq: 128 }
    }
}

/// Why a configuration was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// MTU out of range.
    #[error("MTU {0} is outside {MIN_MTU}..={MAX_MTU}")]
    Mtu(u16),
    /// Send queue size.
    #[error("send queue of {0} entries: must be 64 or 128")]
    Sq(u16),
    /// Receive queue size.
    #[error("receive queue of {0} entries: must be 16 or 32")]
    Rq(u16),
    /// Completion queue size.
    #[error(
        "completion queue of {cq} entries: must be a multiple of 64, at most 128 and at least {need} \
         (send queue + receive queue + {CLEANUP_SLOTS} cleanups); a send queue of 128 never fits the 5709: use 64"
    )]
    Cq {
        /// What was asked for.
        cq: u16,
        /// The least that never overruns.
        need: u16,
    },
    /// A deadline that spins or never comes.
    #[error("deadline `{0}` is outside {MIN_DEADLINE:?}..={MAX_DEADLINE:?}")]
    Deadline(&'static str),
    /// A queue that takes nothing, or more than its counters hold.
    #[error("queue limit {0} is outside 1..={MAX_QUEUE_LIMIT}")]
    QueueLimit(usize),
    /// No attempt at all.
    #[error("at least one attempt at ISCSI_INIT is needed")]
    InitAttempts,
}

/// Shortest deadline: below it the card has no chance to answer and the watchdog keeps a core busy.
pub const MIN_DEADLINE: Duration = Duration::from_millis(1);
/// Longest deadline: beyond it nothing is bounded any more.
pub const MAX_DEADLINE: Duration = Duration::from_secs(3600);
/// Most requests that a session may be allowed to queue.
pub const MAX_QUEUE_LIMIT: usize = 1 << 16;

impl RingSizes {
    /// Checks the sizes against the chip's limits and the rule that a completion queue never overruns
    /// (BNX2I-CNIC 5.6).
    ///
    /// # Errors
    /// Names the first size that does not fit.
    pub fn check(self) -> Result<Self, ConfigError> {
        if !self.sq.is_power_of_two() || !(64..=128).contains(&self.sq) {
            return Err(ConfigError::Sq(self.sq));
        }
        if !self.rq.is_power_of_two() || !(16..=32).contains(&self.rq) {
            return Err(ConfigError::Rq(self.rq));
        }
        let need = self.sq + self.rq + CLEANUP_SLOTS;
        if self.cq < need || self.cq > 128 || !self.cq.is_multiple_of(64) {
            return Err(ConfigError::Cq { cq: self.cq, need });
        }
        Ok(self)
    }

    /// SCSI commands that one connection may have outstanding.
    #[must_use]
    pub const fn commands(self) -> u16 {
        self.sq - MANAGEMENT_TASKS - CLEANUP_SLOTS
    }
}

/// Checks an MTU.
///
/// # Errors
/// [`ConfigError::Mtu`] outside 68 to 9000.
pub fn check_mtu(mtu: u16) -> Result<u16, ConfigError> {
    if (MIN_MTU..=MAX_MTU).contains(&mtu) { Ok(mtu) } else { Err(ConfigError::Mtu(mtu)) }
}

/// Every deadline of the driver (BNX2I-CNIC 13.7). No event cancels one of them; only the answer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    /// The firmware's answer to a driver mailbox message.
    pub firmware: Duration,
    /// From writing the reset bit to its proof; then the next stronger reset is tried.
    pub chip_reset: Duration,
    /// The answer to ISCSI_INIT; then the chip is reset and asked again.
    pub init: Duration,
    /// The answer to OFFLOAD_CONN.
    pub offload: Duration,
    /// PATH_UPDATE after PATH_REQ.
    pub path: Duration,
    /// The answer to OFFLOAD_PG or UPDATE_PG.
    pub path_group: Duration,
    /// CONNECT_COMPLETE after CONNECT.
    pub connect: Duration,
    /// From a TCP connection to START_CONN: how long an endpoint may stand idle in the hands of iscsid.
    pub login: Duration,
    /// The answer to UPDATE_CONN.
    pub update: Duration,
    /// CLOSE_COMP or RESET_COMP.
    pub close: Duration,
    /// The answers to DESTROY_CONN, which is repeated after half of it, and UPLOAD_PG; then the connection's
    /// memory is in quarantine until the chip is reset.
    pub destroy: Duration,
    /// All cleanup completions of one batch.
    pub cleanup: Duration,
    /// How long going down waits for the path helper to close its ring, while connections are torn down.
    pub helper_close: Duration,
    /// From the start of going down to the reset of the chip, whatever the number of sessions.
    pub stop: Duration,
    /// How often the completion indexes are looked at without an interrupt while something is outstanding.
    pub watchdog: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            firmware: ms(1_000),
            chip_reset: ms(1_000),
            init: ms(1_000),
            offload: ms(2_000),
            // The helper gives up after 8 s and says so, which tells more than a deadline.
            path: ms(9_000),
            path_group: ms(1_000),
            connect: ms(9_000),
            login: ms(30_000),
            update: ms(1_000),
            close: ms(10_000),
            destroy: ms(2_000),
            cleanup: ms(1_000),
            helper_close: ms(1_500),
            stop: ms(45_000),
            watchdog: ms(1_000),
        }
    }
}

impl Deadlines {
    /// Checks that each is long enough to be met and short enough to mean something.
    ///
    /// # Errors
    /// [`ConfigError::Deadline`] with the name of the first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { firmware, chip_reset, init, offload, path, path_group, connect, .. } = *self;
        let Self { login, update, close, destroy, cleanup, helper_close, stop, watchdog, .. } = *self;
        let all = [
            ("firmware", firmware),
            ("chip_reset", chip_reset),
            ("init", init),
            ("offload", offload),
            ("path", path),
            ("path_group", path_group),
            ("connect", connect),
            ("login", login),
            ("update", update),
            ("close", close),
            ("destroy", destroy),
            ("cleanup", cleanup),
            ("helper_close", helper_close),
            ("stop", stop),
            ("watchdog", watchdog),
        ];
        match all.into_iter().find(|(_, d)| !(MIN_DEADLINE..=MAX_DEADLINE).contains(d)) {
            Some((name, _)) => Err(ConfigError::Deadline(name)),
            None => Ok(()),
        }
    }
}

/// What an operator may choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriverConfig {
    /// MTU of the interface, bytes, 68 to 9000.
    pub mtu: u16,
    /// Ring sizes of every connection.
    pub rings: RingSizes,
    /// Completion statuses that are warnings (bit set) instead of errors; statuses from 64 on are errors
    /// (BNX2I-CNIC 6.1).
    pub warning_mask: u64,
    /// TCP delayed acknowledgement on the card.
    pub delayed_ack: bool,
    /// Requests that a session queues beyond its send queue; more are refused with `Busy`.
    pub queue_limit: usize,
    /// How often ISCSI_INIT is tried, with a chip reset before each further try.
    pub init_attempts: u8,
    /// The deadlines.
    pub deadlines: Deadlines,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            mtu: 1500,
            rings: RingSizes::default(),
            warning_mask: (1 << 0x0f) | (1 << 0x1b) | (1 << 0x20),
            delayed_ack: true,
            queue_limit: 1024,
            init_attempts: 3,
            deadlines: Deadlines::default(),
        }
    }
}

impl DriverConfig {
    /// Checks everything that has a limit.
    ///
    /// # Errors
    /// Names the first value that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_mtu(self.mtu)?;
        self.rings.check()?;
        if !(1..=MAX_QUEUE_LIMIT).contains(&self.queue_limit) {
            return Err(ConfigError::QueueLimit(self.queue_limit));
        }
        if self.init_attempts == 0 {
            return Err(ConfigError::InitAttempts);
        }
        self.deadlines.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named() {
        assert_eq!(check_mtu(9001), Err(ConfigError::Mtu(9001)));
        assert_eq!(check_mtu(67), Err(ConfigError::Mtu(67)));
        assert_eq!((check_mtu(68), check_mtu(9000)), (Ok(68), Ok(9000)));
        let rings = |sq, rq, cq| RingSizes { sq, rq, cq }.check();
        assert_eq!(rings(65, 16, 128), Err(ConfigError::Sq(65)));
        assert_eq!(rings(32, 16, 128), Err(ConfigError::Sq(32)));
        assert_eq!(rings(64, 24, 128), Err(ConfigError::Rq(24)));
        assert_eq!(rings(64, 16, 64), Err(ConfigError::Cq { cq: 64, need: 88 }));
        assert_eq!(rings(64, 32, 127), Err(ConfigError::Cq { cq: 127, need: 104 }));
        assert!(rings(64, 16, 128).is_ok() && rings(64, 32, 128).is_ok());
        assert_eq!(rings(128, 16, 128), Err(ConfigError::Cq { cq: 128, need: 152 }), "D4");
    }

    #[test]
    fn values_that_would_spin_or_never_work_are_refused() {
        let check = |change: fn(&mut DriverConfig)| {
            let mut config = DriverConfig::default();
            change(&mut config);
            config.check()
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|c| c.deadlines.watchdog = Duration::ZERO), Err(ConfigError::Deadline("watchdog")));
        assert_eq!(check(|c| c.deadlines.firmware = Duration::MAX), Err(ConfigError::Deadline("firmware")));
        assert_eq!(check(|c| c.deadlines.stop = Duration::ZERO), Err(ConfigError::Deadline("stop")));
        assert_eq!(check(|c| c.queue_limit = 0), Err(ConfigError::QueueLimit(0)));
        assert_eq!(check(|c| c.init_attempts = 0), Err(ConfigError::InitAttempts));
        let text = ConfigError::Deadline("watchdog").to_string();
        assert_eq!(text, "deadline `watchdog` is outside 1ms..=3600s");
    }

    #[test]
    fn default_warning_mask_is_the_documented_bit_map() {
        let mask = DriverConfig::default().warning_mask;
        assert_eq!((mask as u32, (mask >> 32) as u32), (0x0800_8000, 0x0000_0001), "BNX2I-CNIC B.6");
    }
}
