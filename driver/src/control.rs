//! Control messages between the adapter and iscsid: the job of NETLINK_ISCSI in the real stack.
//!
//! Both directions are bounded ports. iscsid may be slow, stopped, killed and restarted: the adapter tears
//! endpoints down and fails I/O by its own timers and never waits for a message. When the port to iscsid is
//! full, the adapter keeps a bounded outbox; beyond that it drops messages, counts them, and announces
//! [`FromAdapter::Resync`], which iscsid answers with [`ToAdapter::Hello`].

use core::net::SocketAddr;
use core::time::Duration;

use bus::uio::PathFailure;
use thiserror::Error;

use crate::error::Cause;

/// Names a session of one adapter. A destroyed session's id is never valid again: the generation differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Slot, 0 to 127.
    pub index: u16,
    /// Generation of the slot.
    pub generation: u32,
}

/// Names an endpoint (an offloaded TCP connection with its rings): what iscsid holds in the real stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpHandle {
    /// The iSCSI cid, 0 to 127.
    pub cid: u16,
    /// Generation of the cid.
    pub generation: u32,
}

/// Connection failures as the transport class numbers them (BNX2I-CNIC B.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum ConnFailure {
    /// The connection is lost.
    ConnFailed = 1011,
    /// The host is going away.
    InvalidHost = 1018,
    /// The error handler dropped the session.
    EhSessionReset = 1021,
    /// No answer to a NOP-Out.
    NopTimedOut = 1022,
}

impl ConnFailure {
    /// The number that iscsid logs.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

/// Why the adapter refused a control request. Nothing was changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// The adapter is not up, or going down (-EPERM).
    #[error("the adapter is not ready")]
    NotReady,
    /// All connections that the card is licensed for, 128 at most, are taken or in quarantine.
    #[error("no free connection id")]
    NoCid,
    /// No DMA memory for the rings, or no memory for the session.
    #[error("out of memory")]
    NoMemory,
    /// The session or endpoint does not exist any more.
    #[error("no such session or endpoint")]
    Stale,
    /// The session has a connection already, or the endpoint is bound or not connected.
    #[error("the session or endpoint is in another state")]
    WrongState,
}

/// Why an endpoint did not connect. Its resources are released by the adapter itself.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EpError {
    /// Refused at once.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The card refused to offload: completion status of BNX2I-CNIC 6.2.
    #[error("the card refused the connection (status {0:#x})")]
    Offload(u32),
    /// The helper found no path to the target.
    #[error("{0}")]
    NoPath(PathFailure),
    /// The helper did not answer.
    #[error("the helper (iscsiuio) does not answer: start it, or look into its log")]
    NoHelper,
    /// TCP did not connect: L4 completion status (0x93 for a timeout).
    #[error("TCP did not connect (status {0:#x})")]
    Connect(u16),
    /// TCP connected, and was closed or reset by the target before anything was sent.
    #[error("the target closed the connection at once")]
    Closed,
    /// The card or the helper did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The adapter went down meanwhile.
    #[error("the adapter went down")]
    Down,
}

/// Timers and limits of a session, from its record (ISCSID 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionParams {
    /// Target name, for reports.
    pub target: String,
    /// A discovery session: no LUNs, no keepalive.
    pub discovery: bool,
    /// First CmdSN.
    pub initial_cmd_sn: u32,
    /// SCSI commands outstanding at most (`node.session.queue_depth`); clamped to what the rings hold.
    pub queue_depth: u16,
    /// How long requests wait for a lost session (`replacement_timeout`); `None` is for ever.
    pub replacement_timeout: Option<Duration>,
    /// Keepalive interval; zero disables (`noop_out_interval`).
    pub noop_interval: Duration,
    /// How long a keepalive may stay unanswered (`noop_out_timeout`).
    pub noop_timeout: Duration,
    /// Time for an ABORT TASK.
    pub abort_timeout: Duration,
    /// Time for a LOGICAL UNIT RESET.
    pub lu_reset_timeout: Duration,
    /// Time for a TARGET WARM RESET.
    pub tgt_reset_timeout: Duration,
    /// Time for a SCSI command before the error handler starts.
    pub command_timeout: Duration,
}

impl Default for SessionParams {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            target: String::new(),
            discovery: false,
            initial_cmd_sn: 0,
            queue_depth: 32,
            replacement_timeout: Some(s(120)),
            noop_interval: s(5),
            noop_timeout: s(5),
            abort_timeout: s(15),
            lu_reset_timeout: s(30),
            tgt_reset_timeout: s(30),
            command_timeout: s(30),
        }
    }
}

/// What login negotiated, for UPDATE_CONN (BNX2I-CNIC 4.7). Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnParams {
    /// HeaderDigest is CRC32C.
    pub header_digest: bool,
    /// DataDigest is CRC32C.
    pub data_digest: bool,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u8,
    /// The target's MaxRecvDataSegmentLength.
    pub max_xmit_data_segment: u32,
    /// Our MaxRecvDataSegmentLength.
    pub max_recv_data_segment: u32,
    /// FirstBurstLength.
    pub first_burst: u32,
    /// MaxBurstLength.
    pub max_burst: u32,
    /// ExpStatSN of the first full-feature PDU.
    pub exp_stat_sn: u32,
}

/// How STOP_CONN ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopFlag {
    /// For good: requests fail.
    Term,
    /// iscsid is going to log in again: requests wait for the replacement timeout.
    Recover,
}

/// What iscsid asks of the adapter. Requests for ids of an older generation are dropped and counted, or
/// answered with [`Refused::Stale`] where there is an answer.
#[derive(Debug)]
pub enum ToAdapter {
    /// iscsid has (re)started. Endpoints of the previous iscsid that no session uses are torn down; the
    /// answer is [`FromAdapter::AdapterUp`] if that is so, one [`FromAdapter::Session`] for each session, and
    /// [`FromAdapter::Synced`].
    Hello {
        /// Comes back in `Synced`.
        serial: u64,
    },
    /// Makes a session. Answer: [`FromAdapter::SessionCreated`].
    CreateSession {
        /// Comes back in the answer and in [`FromAdapter::Session`].
        tag: u64,
        /// Its timers and limits.
        params: Box<SessionParams>,
    },
    /// Ends a session for good: its connection is torn down, its requests fail. Answer:
    /// [`FromAdapter::SessionDestroyed`].
    DestroySession {
        /// The session to end.
        session: SessionId,
    },
    /// Offloads and connects. Answer: [`FromAdapter::EpConnected`], always, within the sum of the deadlines.
    EpConnect {
        /// Comes back in the answer.
        tag: u64,
        /// Where to.
        portal: SocketAddr,
    },
    /// Tears an endpoint down. Idempotent. A connect in progress is cancelled at once.
    EpDisconnect {
        /// The endpoint to tear down.
        ep: EpHandle,
    },
    /// Joins a session and a connected endpoint. Answer: [`FromAdapter::Bound`].
    Bind {
        /// The session.
        session: SessionId,
        /// The endpoint.
        ep: EpHandle,
    },
    /// Sends a Login, Text or Logout request on a bound endpoint; one at a time. The adapter fills in the
    /// CmdSN and puts its own ITT on the wire, one for a whole login or text exchange; the answer carries the
    /// ITT given here.
    SendPdu {
        /// The endpoint.
        ep: EpHandle,
        /// The 48 bytes of the basic header segment (RFC 7143 11).
        bhs: [u8; 48],
        /// The data segment without padding, at most 8192 bytes.
        data: Vec<u8>,
    },
    /// Enters the full feature phase (UPDATE_CONN). Answer: [`FromAdapter::Started`].
    StartConn {
        /// The session.
        session: SessionId,
        /// What was negotiated.
        params: ConnParams,
    },
    /// Ends the session's connection. Answer: [`FromAdapter::Stopped`], when the endpoint is released.
    StopConn {
        /// The session.
        session: SessionId,
        /// For good or for recovery.
        flag: StopFlag,
    },
}

/// What the adapter tells iscsid.
#[derive(Debug)]
pub enum FromAdapter {
    /// ISCSI_INIT passed: connections are possible.
    AdapterUp {
        /// Counts starts of the adapter.
        age: u32,
    },
    /// The adapter is going down; each session gets its own [`FromAdapter::ConnError`].
    AdapterDown {
        /// As in `AdapterUp`.
        age: u32,
    },
    /// Messages were dropped because iscsid was too slow. iscsid says Hello and starts from what it is told.
    Resync,
    /// Answer to Hello: a session exists.
    Session {
        /// Its id.
        session: SessionId,
        /// The tag that it was created with.
        tag: u64,
        /// Whether it is in the full feature phase; otherwise it waits for a login.
        logged_in: bool,
    },
    /// The answer to Hello is complete: a session that it did not name does not exist.
    Synced {
        /// The serial number of the Hello that this answers.
        serial: u64,
    },
    /// Answer to CreateSession.
    SessionCreated {
        /// The tag of the request that this answers.
        tag: u64,
        /// The session, or why not.
        result: Result<SessionId, Refused>,
    },
    /// The session is gone and everything of it is released upward (its endpoint may still be closing).
    SessionDestroyed {
        /// The session that is gone.
        session: SessionId,
    },
    /// Answer to EpConnect.
    EpConnected {
        /// The tag of the request that this answers.
        tag: u64,
        /// The endpoint, or why not.
        result: Result<EpHandle, EpError>,
    },
    /// Answer to Bind.
    Bound {
        /// The session of the request that this answers.
        session: SessionId,
        /// The endpoint of the request that this answers.
        ep: EpHandle,
        /// Whether it worked.
        result: Result<(), Refused>,
    },
    /// A Login, Text or Logout response, an Async message, or a Reject.
    RecvPdu {
        /// Where it arrived.
        ep: EpHandle,
        /// Its header, rebuilt from the CQE. The ITT is the one of the request.
        bhs: [u8; 48],
        /// Its data segment without padding.
        data: Vec<u8>,
    },
    /// Answer to StartConn.
    Started {
        /// The session.
        session: SessionId,
        /// Whether the session is in the full feature phase now.
        result: Result<(), ConnFailure>,
    },
    /// The connection failed; the adapter tears it down by itself. Sent once per endpoint.
    ConnError {
        /// The session, if the endpoint was bound.
        session: Option<SessionId>,
        /// The endpoint.
        ep: EpHandle,
        /// Why; [`Cause::verdict`] says what follows.
        cause: Cause,
    },
    /// Answer to StopConn: the session has no connection now.
    Stopped {
        /// The session that was stopped.
        session: SessionId,
    },
}
