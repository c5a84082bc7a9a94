//! What a target server is told, and what it tells: configuration, limits, counters, events.

use super::medium::Trouble;
use crate::chap::Credentials;
use crate::framing::FramingError;
use crate::negotiate::{DigestOffer, LoginParams};
use crate::pdu::{LoginStatus, RejectReason, TmfFunction, TmfResponse};

/// Names a connection. Slots are reused, so it carries a generation: a stale id names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Settings of a [`TargetServer`](super::TargetServer). Times are in nanoseconds, lengths in bytes.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What the target answers to proposals.
    pub login: LoginParams,
    /// What a discovery session has to prove before it is told any name.
    pub discovery: Auth,
    /// Target portal group tag of every portal.
    pub portal_group: u16,
    /// Depth of the command window: non-immediate commands under way per session.
    pub window: u32,
    /// Immediate SCSI commands under way per session, beyond the window; one more is rejected (0x06).
    pub immediate_limit: u32,
    /// Connections at once; one more is refused by [`connect`](super::TargetServer::connect).
    pub max_connections: usize,
    /// Unsent output of a connection at which its input is no longer consumed; at half of it no more Data-In
    /// is made. One PDU may exceed it.
    pub output_limit: usize,
    /// Bytes that all connections together may hold of unsent output, and the same of requests that wait for
    /// an earlier one. With many connections each has its share of it, but 64 KiB, which is less than its own
    /// limit.
    pub memory_limit: usize,
    /// Time for a login from connect to its final response.
    pub login_timeout_ns: u64,
    /// Time for the next Data-Out of a write before the command is given up with 0B/0C/0D.
    pub transfer_timeout_ns: u64,
    /// Silence after which the initiator is pinged; `None` for never.
    pub ping_interval_ns: Option<u64>,
    /// Time for the answer to a ping before the connection is dropped.
    pub ping_timeout_ns: u64,
    /// Emit [`Event::Executed`] for every SCSI command.
    pub trace_commands: bool,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        const SECOND: u64 = 1_000_000_000;
        ServerConfig {
            login: LoginParams {
                // Both ways are taken: the initiator chooses.
                header_digest: DigestOffer::Crc32cOrNone,
                data_digest: DigestOffer::Crc32cOrNone,
                max_outstanding_r2t: 8,
                ..LoginParams::default()
            },
            discovery: Auth::default(),
            portal_group: 1,
            window: 64,
            immediate_limit: 8,
            max_connections: 1024,
            output_limit: 1 << 20,
            memory_limit: 256 << 20,
            login_timeout_ns: 15 * SECOND,
            transfer_timeout_ns: 30 * SECOND,
            ping_interval_ns: None,
            ping_timeout_ns: 5 * SECOND,
            trace_commands: false,
        }
    }
}

/// Who may log in to a target.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// CHAP credential that the initiator has to prove; `None` lets everyone in.
    pub chap: Option<Credentials>,
    /// Credential with which the target proves itself when the initiator asks for mutual CHAP.
    pub mutual: Option<Credentials>,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Logout of the session or of its only connection.
    Logout,
    /// The login failed with this status.
    LoginFailed(LoginStatus),
    /// The login did not finish in time.
    LoginTimeout,
    /// The byte stream cannot be followed.
    Framing(FramingError),
    /// Another login with the same name and ISID took over.
    Reinstated,
    /// TARGET COLD RESET, or [`drop_session`](super::TargetServer::drop_session).
    Dropped,
    /// A ping was not answered.
    PingTimeout,
    /// TCP was lost.
    Lost,
}

/// What happened: for logs, and for oracles that check the wire against execution. No event carries a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session began.
    LoggedIn {
        /// The connection that the PDU came on.
        conn: ConnId,
        /// Initiator name.
        initiator: String,
        /// Target name; `None` for a discovery session.
        target: Option<String>,
        /// Its handle.
        tsih: u16,
    },
    /// A connection ended, with its session if it had one.
    Closed {
        /// The connection that ended.
        conn: ConnId,
        /// The reason, which may be the initiator's own wish.
        reason: CloseReason,
    },
    /// A SCSI command was delivered to its logical unit, in CmdSN order (only with
    /// [`ServerConfig::trace_commands`]).
    Executed {
        /// The connection that the PDU came on.
        conn: ConnId,
        /// Session handle.
        tsih: u16,
        /// CmdSN; an immediate command shows the number that it did not consume.
        cmd_sn: u32,
        /// Whether it was immediate.
        immediate: bool,
        /// Initiator task tag.
        itt: u32,
        /// Operation code.
        opcode: u8,
    },
    /// A task management function was carried out.
    TaskManagement {
        /// The connection that the PDU came on.
        conn: ConnId,
        /// Which; `None` for an unknown code.
        function: Option<TmfFunction>,
        /// The answer.
        response: TmfResponse,
        /// Tasks that it ended, in all sessions.
        aborted: u32,
    },
    /// The storage of a logical unit failed. At most one a second comes of each unit.
    Trouble {
        /// Target name.
        target: String,
        /// Number of the unit.
        lun: u16,
        /// What the operator knows the storage by.
        storage: String,
        /// What failed.
        trouble: Trouble,
        /// Failures since the last report that had none.
        unreported: u64,
    },
    /// A PDU was rejected.
    Rejected {
        /// The connection that the PDU came on.
        conn: ConnId,
        /// Reason code of the Reject (RFC 7143 11.17.1).
        reason: RejectReason,
        /// Its opcode byte.
        opcode: u8,
    },
}

/// What the server counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// PDUs received whole.
    pub pdus_in: u64,
    /// SCSI commands delivered to a logical unit or answered for an absent one.
    pub commands: u64,
    /// Commands answered CHECK CONDITION.
    pub checks: u64,
    /// Bytes of Data-In sent.
    pub data_in_bytes: u64,
    /// Bytes of data-out given to disks.
    pub data_out_bytes: u64,
    /// R2Ts sent.
    pub r2ts: u64,
    /// Header digest errors: each dropped its connection.
    pub header_digest_errors: u64,
    /// Data digest errors.
    pub data_digest_errors: u64,
    /// Reject PDUs sent.
    pub rejects: u64,
    /// Non-immediate requests ignored because of their CmdSN.
    pub ignored_cmd_sn: u64,
    /// Requests that waited for an earlier CmdSN.
    pub held: u64,
    /// Data-Out PDUs without a task: of aborted commands.
    pub stray_data_out: u64,
    /// Writes that failed because of the order or amount of their Data-Out.
    pub transfer_violations: u64,
    /// Writes given up because their Data-Out did not come.
    pub transfer_timeouts: u64,
    /// Tasks ended by task management, logout, reinstatement or loss.
    pub aborted_tasks: u64,
    /// Sessions that began.
    pub logins: u64,
    /// Logins that failed.
    pub failed_logins: u64,
    /// CHAP proofs that had to wait, or were not looked at, because of wrong ones from the same source.
    pub slowed_logins: u64,
    /// Sessions taken over by a login with the same name and ISID.
    pub reinstatements: u64,
    /// Events dropped because nobody fetched them.
    pub events_dropped: u64,
    /// Connections refused by [`ServerConfig::max_connections`].
    pub refused_connections: u64,
}
