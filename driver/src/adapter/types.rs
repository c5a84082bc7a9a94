//! What others see of the adapter besides its methods: requests, states, counters, ports.

use core::time::Duration;

use bus::Instant;
use bus::port::{PortRx, PortTx};
use bus::uio::{FromHelper, ToHelper};
use bus::wake::Wake;
use thiserror::Error;

use crate::config::{ConfigError, RingSizes};
use crate::control::{FromAdapter, SessionId, ToAdapter};

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorRequest {
    /// New MTU, bytes. Resets the chip if it is up.
    ChangeMtu(u16),
    /// New ring sizes. Resets the chip if it is up.
    ChangeRings(RingSizes),
    /// Resets the chip and starts it again.
    Reset,
    /// `ip link set down`.
    InterfaceDown,
    /// `ip link set up`. A failed adapter tries again at once.
    InterfaceUp,
    /// Down for good: requests fail, sessions end, all memory of the driver is freed. Only counters can be
    /// read afterwards.
    Shutdown,
}

/// Why an operator's request was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OperatorError {
    /// A value is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The adapter was shut down.
    #[error("the adapter was shut down")]
    ShutDown,
}

/// Why the adapter is [`AdapterState::Failed`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// Config space or registers do not look like a chip of the class.
    #[error("no 5709-class function in the slot (device {device:#06x}, revision {revision:#04x})")]
    NotOurs {
        /// Device id.
        device: u16,
        /// Revision.
        revision: u8,
    },
    /// Firmware is not running or did not answer.
    #[error("the firmware does not answer")]
    Firmware,
    /// The chip has no iSCSI licence: shared memory says so, or ISCSI_INIT was answered 0x50 or 0x51.
    #[error("iSCSI offload is not enabled on this chip")]
    NoLicence,
    /// ISCSI_INIT was not answered, or answered with this status, in every attempt.
    #[error("ISCSI_INIT failed (status {0:#x})")]
    Init(u32),
    /// No DMA memory for the rings of the adapter.
    #[error("out of DMA memory")]
    NoMemory,
    /// The card does not answer at all. Memory that it may touch stays in quarantine.
    #[error("the card does not answer")]
    BusLost,
    /// No kind of reset could be proven. Memory that the card may touch stays in quarantine.
    #[error("the reset of the card could not be confirmed")]
    ResetUnconfirmed,
}

/// Where the adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterState {
    /// The interface is down and the chip is quiet. No memory is lent.
    Down,
    /// Bring-up, until ISCSI_INIT is answered.
    Starting,
    /// Connections are possible.
    Up,
    /// All connections are being torn down, in parallel, under one deadline.
    GoingDown,
    /// The chip is being reset.
    Resetting,
    /// It does not work. It tries again by itself, after 1 s and then after pauses that double up to 60 s;
    /// `InterfaceUp` tries at once.
    Failed(Failure),
    /// Shut down for good.
    Gone,
}

impl AdapterState {
    /// A stable number for events.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Down => 0,
            Self::Starting => 1,
            Self::Up => 2,
            Self::GoingDown => 3,
            Self::Resetting => 4,
            Self::Failed(_) => 5,
            Self::Gone => 6,
        }
    }
}

/// The ends of the ports that the adapter talks through. The world makes them.
pub struct AdapterPorts {
    /// From iscsid.
    pub control_in: PortRx<ToAdapter>,
    /// To iscsid.
    pub control_out: PortTx<FromAdapter>,
    /// From the path helper.
    pub path_in: PortRx<FromHelper>,
    /// To the path helper.
    pub path_out: PortTx<ToHelper>,
    /// Wakes the path helper when its ring's event count has changed: interrupts need no room in a port.
    pub helper_wake: Wake,
}

/// What happened so far. Every count only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterCounters {
    /// ISCSI_INIT passed.
    pub starts: u64,
    /// Chip resets confirmed.
    pub resets: u64,
    /// Resets by software reset that had to be repeated by a stronger kind.
    pub escalated_resets: u64,
    /// Deadlines that fired.
    pub timeouts: u64,
    /// Completions of an older generation, or for nothing that exists, dropped.
    pub stale_events: u64,
    /// Endpoints whose memory went into quarantine.
    pub quarantined: u64,
    /// Connections lost after login.
    pub connections_lost: u64,
    /// Full feature phases entered.
    pub logins: u64,
    /// SCSI commands posted.
    pub commands: u64,
    /// Completions with an unknown or already completed ITT.
    pub unknown_itt: u64,
    /// CQEs whose sequence number was impossible.
    pub cq_gaps: u64,
    /// Cleanup requests posted.
    pub cleanups: u64,
    /// Commands posted again after a re-login.
    pub requeued: u64,
    /// Re-logins after which another disk answered.
    pub disks_changed: u64,
    /// Requests submitted.
    pub requests: u64,
    /// Requests refused because a queue was full.
    pub refused: u64,
    /// Data bytes of successful requests.
    pub bytes: u64,
    /// Warnings of the card (statuses in the warning mask).
    pub warnings: u64,
    /// Control messages dropped because iscsid was too slow.
    pub control_dropped: u64,
    /// KWQEs refused because the ring was full.
    pub kwq_full: u64,
    /// Opens of the helper's ring.
    pub helper_opens: u64,
    /// Register writes of the helper refused: of an older open, or to a register that is not its own.
    pub helper_refused: u64,
    /// Times that the ring was taken from a helper that had not closed it.
    pub helper_not_closed: u64,
}

/// What is held right now. After a shutdown, and with everything logged out, all is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Connection ids taken.
    pub cids: u32,
    /// Local TCP ports taken.
    pub ports: u32,
    /// Path groups on the card.
    pub path_groups: u32,
    /// Endpoints in quarantine.
    pub quarantined: u32,
    /// Loans out.
    pub loans: u32,
    /// DMA buffers of the adapter itself and of endpoints.
    pub dma_buffers: u32,
    /// User buffers.
    pub user_buffers: u32,
    /// Timers armed.
    pub timers: u32,
    /// Sessions.
    pub sessions: u32,
    /// Requests queued or outstanding.
    pub requests: u32,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionPhase {
    /// Waiting for iscsid to log in: new, or in recovery.
    Recovering,
    /// In the full feature phase; logical units are being brought up.
    BringUp,
    /// I/O flows.
    Ready,
    /// The replacement timeout expired: requests fail at once until a login succeeds.
    Offline,
}

/// A session as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// The tag that iscsid gave it.
    pub tag: u64,
    /// Where it is.
    pub phase: SessionPhase,
    /// Logins so far.
    pub logins: u32,
    /// When the oldest unfinished request was accepted.
    pub oldest_request: Option<Instant>,
    /// A younger request was finished before that one.
    pub overtaken: bool,
    /// When the target last answered a command of a user, or the session was made.
    pub answered: Instant,
    /// Longest time that a request may wait without any command of the session being answered, by the
    /// session's timers: the time in which the loss of a command is noticed and the rungs of the error
    /// handler are tried, then the replacement timeout. `None` without a replacement timeout.
    pub patience: Option<Duration>,
    /// Longest time that the session may be neither ready nor offline: the replacement timeout.
    pub replacement_timeout: Option<Duration>,
}
