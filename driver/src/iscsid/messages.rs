//! What users ask of iscsid and what they are told.

use core::net::SocketAddr;

use iscsi::sendtargets::TargetRecord;
use thiserror::Error;

use super::env::SessionStage;
use super::record::{DiscoveryRecord, NodeRecord, RecordError};
use crate::control::SessionId;
use crate::error::{Cause, ExitCode};

/// Sessions at a time, discoveries included: what an adapter can offload.
pub const MAX_SESSIONS: usize = 128;
/// Why a management request failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MgmtError {
    /// The record cannot be used; nothing was tried.
    #[error("{}: {}", ExitCode::InvalidParameter, .0)]
    Record(#[from] RecordError),
    /// A session to this target and portal runs already.
    #[error("{}: log out of it first", ExitCode::SessionExists)]
    Exists,
    /// No such session.
    #[error("{}", ExitCode::SessionNotFound)]
    NotFound,
    /// [`MAX_SESSIONS`] run already.
    #[error("{}: {MAX_SESSIONS} sessions run already", ExitCode::Busy)]
    TooMany,
    /// It was logged out before it was logged in.
    #[error("{}: logged out meanwhile", ExitCode::NotConnected)]
    LoggedOut,
    /// It was tried and failed.
    #[error("{}: {}", .0.verdict().exit, .0)]
    Failed(Cause),
}

impl MgmtError {
    /// The exit code of `iscsiadm`.
    #[must_use]
    pub const fn exit(&self) -> ExitCode {
        match self {
            Self::Record(_) => ExitCode::InvalidParameter,
            Self::Exists => ExitCode::SessionExists,
            Self::NotFound => ExitCode::SessionNotFound,
            Self::TooMany => ExitCode::Busy,
            Self::LoggedOut => ExitCode::NotConnected,
            Self::Failed(cause) => cause.verdict().exit,
        }
    }
}

/// A session that is logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// iscsid's name for it, for [`IscsidRequest::Logout`]. It survives restarts of iscsid.
    pub tag: u64,
    /// The adapter's name for it, for block requests.
    pub session: SessionId,
}

/// What a user asks. `id` comes back in the reply; a request that a killed iscsid took is never answered, so
/// users have a deadline of their own ([`ExitCode::RequestTimedOut`]).
#[derive(Debug)]
pub enum IscsidRequest {
    /// Log in and stay logged in.
    Login {
        /// Comes back.
        id: u64,
        /// The node.
        record: Box<NodeRecord>,
        /// Another session to a target and portal that has one already is wanted.
        multiple: bool,
    },
    /// Log out.
    Logout {
        /// Comes back.
        id: u64,
        /// Which session.
        tag: u64,
    },
    /// Ask a portal for its targets.
    Discover {
        /// Comes back.
        id: u64,
        /// Where and how.
        record: Box<DiscoveryRecord>,
    },
}

/// What a user is told.
#[derive(Debug)]
pub enum IscsidReply {
    /// Answer to Login.
    LoggedIn {
        /// The id of the request that this answers.
        id: u64,
        /// The session, or why not.
        result: Result<SessionEntry, MgmtError>,
    },
    /// Answer to Logout. The session is gone in any case.
    LoggedOut {
        /// The id of the request that this answers.
        id: u64,
        /// Whether the target confirmed it.
        result: Result<(), MgmtError>,
    },
    /// Answer to Discover.
    Discovered {
        /// The id of the request that this answers.
        id: u64,
        /// The targets with their portals.
        result: Result<Vec<TargetRecord>, MgmtError>,
    },
}

/// What a user may see of a session (`iscsiadm -m session`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// iscsid's name for it.
    pub tag: u64,
    /// The adapter's name for it.
    pub session: Option<SessionId>,
    /// Target; empty for a discovery.
    pub target: String,
    /// Current portal.
    pub portal: SocketAddr,
    /// Where it is.
    pub stage: SessionStage,
    /// Attempts since the last success.
    pub attempts: u32,
    /// What went wrong last, for a user who asks why it is not logged in.
    pub last_failure: Option<Cause>,
}
