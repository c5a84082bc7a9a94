//! Exit codes of `iscsiadm` with their printed text (ISCSID 6): those that this stack can end in.

use core::fmt;

/// How a management operation ended, as `iscsiadm` reports it to its shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Success = 0,
    /// Anything without a better code.
    Other = 1,
    /// No session of that name.
    SessionNotFound = 2,
    /// TCP connection could not be made or broke.
    Transport = 4,
    /// Login failed; another attempt may succeed.
    Login = 5,
    /// A parameter of the request makes no sense.
    InvalidParameter = 7,
    /// TCP connect took too long.
    TransportTimeout = 8,
    /// A bug or broken rule of our own.
    Internal = 9,
    /// Logout failed or was not answered.
    Logout = 10,
    /// Login, text or logout PDU was not answered in time.
    PduTimeout = 11,
    /// The adapter has no offload licence or does not offer what was asked for.
    TransportCapability = 14,
    /// Such a session runs already.
    SessionExists = 15,
    /// The initiator daemon does not answer.
    DaemonUnreachable = 18,
    /// Login failed in a way that another attempt cannot change.
    FatalLogin = 19,
    /// Discovery found nothing, or no record matches.
    NoObjectsFound = 21,
    /// No adapter to run the session on.
    HostNotFound = 23,
    /// Authentication or authorization failed.
    LoginAuthFailed = 24,
    /// A device or resource is in use.
    Busy = 28,
    /// A resource is short now; the same request may succeed later.
    Again = 29,
    /// Logout of a session that is not connected.
    NotConnected = 32,
    /// The initiator daemon did not finish the request in time.
    RequestTimedOut = 33,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::Success,
        Self::Other,
        Self::SessionNotFound,
        Self::Transport,
        Self::Login,
        Self::InvalidParameter,
        Self::TransportTimeout,
        Self::Internal,
        Self::Logout,
        Self::PduTimeout,
        Self::TransportCapability,
        Self::SessionExists,
        Self::DaemonUnreachable,
        Self::FatalLogin,
        Self::NoObjectsFound,
        Self::HostNotFound,
        Self::LoginAuthFailed,
        Self::Busy,
        Self::Again,
        Self::NotConnected,
        Self::RequestTimedOut,
    ];

    /// The number for the shell.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The text that `iscsiadm` prints after `initiator reported error (N - `.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Success => "",
            Self::Other => "unknown error",
            Self::SessionNotFound => "session not found",
            Self::Transport => "encountered connection failure",
            Self::Login => "encountered iSCSI login failure",
            Self::InvalidParameter => "invalid parameter",
            Self::TransportTimeout => "connection timed out",
            Self::Internal => "internal error",
            Self::Logout => "encountered iSCSI logout failure",
            Self::PduTimeout => "iSCSI PDU timed out",
            Self::TransportCapability => "iSCSI driver does not support requested capability.",
            Self::SessionExists => "session exists",
            Self::DaemonUnreachable => "could not communicate to iscsid",
            Self::FatalLogin => "encountered non-retryable iSCSI login failure",
            Self::NoObjectsFound => "no objects found",
            Self::HostNotFound => "host not found",
            Self::LoginAuthFailed => "iSCSI login failed due to authorization failure",
            Self::Busy => "device or resource in use",
            Self::Again => "operation failed but retry may succeed",
            Self::NotConnected => "target likely not connected",
            Self::RequestTimedOut => "iscsid request timed out",
        }
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "initiator reported error ({} - {})", self.code(), self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_are_those_of_iscsiadm() {
        let line = ExitCode::LoginAuthFailed.to_string();
        assert_eq!(line, "initiator reported error (24 - iSCSI login failed due to authorization failure)");
        assert_eq!((ExitCode::FatalLogin.code(), ExitCode::RequestTimedOut.code()), (19, 33));
    }
}
