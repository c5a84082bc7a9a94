//! Causes and what follows from each.

use core::fmt;

use iscsi::login::LoginFailure;
use iscsi::pdu::RejectReason;
use iscsi::sendtargets::SendTargetsError;
use iscsi::text::Excerpt;

use super::{BlockError, ExitCode, Gate, status};
use crate::control::{ConnFailure, EpError, Refused};

impl ConnFailure {
    /// The name behind `ISCSI_ERR_`.
    #[must_use]
    pub const fn error_name(self) -> &'static str {
        match self {
            Self::ConnFailed => "CONN_FAILED",
            Self::InvalidHost => "INVALID_HOST",
            Self::EhSessionReset => "SCSI_EH_SESSION_RST",
            Self::NopTimedOut => "NOP_TIMEDOUT",
        }
    }
}

impl fmt::Display for ConnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.code(), self.error_name())
    }
}

/// L4 completion status of a handshake that nobody answered (BNX2I-CNIC 3.5).
const CONNECT_TIMED_OUT: u16 = 0x93;

/// Something that ends a connection, a login or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// KCQE ISCSI_ERROR of the error class, with its status (BNX2I-CNIC 6.1).
    IscsiError(u32),
    /// KCQE TCP_ERROR, with its status.
    TcpError(u32),
    /// The connection could not be made.
    Connect(EpError),
    /// The target sent FIN.
    Fin,
    /// The target sent RST.
    Rst,
    /// UPDATE_CONN was refused with this status (R3).
    UpdateRefused(u32),
    /// UPDATE_CONN was not answered (H1).
    UpdateTimedOut,
    /// A completion or PDU that the driver itself found impossible (D1 to D3).
    Protocol,
    /// A completion for a task that does not exist or twice for the same (D3).
    BadItt,
    /// Keepalive (BNX2I-CNIC 7.5).
    NopTimedOut,
    /// A task management function was not answered, or hardware cleanup was not (BNX2I-CNIC 7.3).
    TmfTimedOut,
    /// A task management PDU could not be sent.
    TmfNotSent,
    /// A login, text or logout PDU could not be sent: no task or no room in the send queue.
    PduNotSent,
    /// Work waited for this for as long as a command may take.
    HeldUp(Gate),
    /// The commands that ask about the logical units were not answered, however often they were repeated.
    BringUpUnanswered,
    /// A text or logout request, or the card's own report that a NOP-Out left, stayed away for as long as a
    /// command may take.
    Unanswered,
    /// The target rejected a PDU of a task, with this reason (RFC 7143 11.17.1): at error recovery level 0
    /// only a new login gets the task on.
    TaskRejected(u8),
    /// The target asked for logout or dropped connection or session by Asynchronous Message 1 to 4.
    AsyncEvent(u8),
    /// The adapter reported the connection as failed, with this code.
    Lost(ConnFailure),
    /// Messages between iscsid and the adapter were dropped, and with them what became of the connection.
    OutOfStep,
    /// A reset of the adapter takes all its connections down.
    AdapterReset,
    /// The helper took the path back: the connection's own address is not ours any more.
    PathLost,
    /// The adapter is removed.
    HostRemoved,
    /// Connect and login together took longer than the login timeout.
    LoginTimedOut,
    /// Login Response with this status class and detail.
    LoginStatus {
        /// Status-Class, 1 to 3 or unknown.
        class: u8,
        /// Status-Detail.
        detail: u8,
    },
    /// The target broke the rules of the login phase: which, and with which key.
    LoginProtocol(LoginFailure),
    /// The target rejected a login or text request, with this reason (RFC 7143 11.17.1).
    Rejected(u8),
    /// The answer to SendTargets cannot be used.
    BadTargetList(SendTargetsError),
    /// The target sends us to a host that is no address.
    RedirectToName(Excerpt),
    /// The target failed to authenticate itself, or CHAP could not be agreed on.
    AuthFailed(LoginFailure),
    /// More redirects in a row than are followed.
    RedirectLoop,
    /// Logout was not answered.
    LogoutTimedOut,
}

/// What follows from a [`Cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What iscsid is told about an established connection.
    pub conn: ConnFailure,
    /// What a management operation that met it ends with.
    pub exit: ExitCode,
    /// What a command is told that is not repeated after recovery.
    pub block: BlockError,
    /// Whether another login attempt may succeed: `false` ends an initial login at once.
    pub login_retry: bool,
}

impl Cause {
    /// The table.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        use {ConnFailure as C, EpError as L, ExitCode as E};
        let (conn, exit, login_retry) = match self {
            Self::IscsiError(_) | Self::TcpError(_) | Self::Fin | Self::Rst => {
                (C::ConnFailed, E::Transport, true)
            }
            Self::Connect(L::NoPath(_) | L::NoHelper | L::Timeout | L::Connect(CONNECT_TIMED_OUT)) => {
                (C::ConnFailed, E::TransportTimeout, true)
            }
            Self::Connect(L::Connect(_) | L::Closed) => (C::ConnFailed, E::Transport, true),
            // No licence for offload: no attempt will change it.
            Self::Connect(L::Offload(0x50 | 0x51)) => (C::ConnFailed, E::TransportCapability, false),
            Self::Connect(L::Refused(Refused::NotReady) | L::Down) => (C::ConnFailed, E::HostNotFound, true),
            Self::Connect(L::Refused(_) | L::Offload(_)) => (C::ConnFailed, E::Again, true),
            // 0x81: the chip recovers from a parity error and a later start succeeds.
            Self::UpdateRefused(_) | Self::UpdateTimedOut => (C::ConnFailed, E::Transport, true),
            Self::Protocol => (C::ConnFailed, E::Login, true),
            Self::BadItt => (C::ConnFailed, E::Transport, true),
            Self::NopTimedOut => (C::NopTimedOut, E::Transport, true),
            Self::TmfTimedOut | Self::HeldUp(_) | Self::BringUpUnanswered | Self::Unanswered => {
                (C::EhSessionReset, E::Transport, true)
            }
            Self::TmfNotSent | Self::PduNotSent | Self::TaskRejected(_) => {
                (C::ConnFailed, E::Transport, true)
            }
            Self::AsyncEvent(_) | Self::AdapterReset | Self::PathLost | Self::OutOfStep => {
                (C::ConnFailed, E::Transport, true)
            }
            Self::HostRemoved | Self::Lost(C::InvalidHost) => (C::InvalidHost, E::HostNotFound, false),
            Self::Lost(conn) => (conn, E::Transport, true),
            Self::LoginTimedOut => (C::ConnFailed, E::PduTimeout, true),
            Self::LoginStatus { class: 2, detail: 1 | 2 } | Self::AuthFailed(_) => {
                (C::ConnFailed, E::LoginAuthFailed, false)
            }
            // Class 3 is the target's own trouble; a redirect that reaches this table named no usable
            // address.
            Self::LoginStatus { class: 1 | 3, .. } | Self::RedirectToName(_) => {
                (C::ConnFailed, E::Login, true)
            }
            Self::LoginStatus { .. }
            | Self::LoginProtocol(_)
            | Self::Rejected(_)
            | Self::BadTargetList(_)
            | Self::RedirectLoop => (C::ConnFailed, E::FatalLogin, false),
            Self::LogoutTimedOut => (C::ConnFailed, E::Logout, false),
        };
        let block = match self {
            Self::HostRemoved | Self::Lost(C::InvalidHost) => BlockError::AdapterGone,
            _ => BlockError::Transport(conn),
        };
        Verdict { conn, exit, block, login_retry }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IscsiError(s) | Self::TcpError(s) | Self::UpdateRefused(s) => {
                let what = match self {
                    Self::IscsiError(_) => "iscsi_error",
                    Self::TcpError(_) => "TCP error",
                    _ => "UPDATE_CONN refused",
                };
                match status::lookup(s) {
                    Some(row) if row.notice.is_empty() => write!(f, "{what} - {} ({s:#x})", row.name),
                    Some(row) => write!(f, "{what} - {} ({s:#x})", row.notice),
                    None => write!(f, "{what} - unknown err {s:x}"),
                }
            }
            Self::Connect(why @ (EpError::NoPath(_) | EpError::NoHelper)) => write!(f, "{why}"),
            Self::Connect(EpError::Connect(CONNECT_TIMED_OUT)) => {
                f.write_str("TCP connect timed out: check address, port and firewall")
            }
            Self::Connect(EpError::Connect(s)) => {
                write!(
                    f,
                    "TCP connect was refused ({s:#x}): check that a target listens on this address and port"
                )
            }
            Self::Connect(EpError::Closed) => {
                f.write_str("whoever listens there hung up before the login: check that it speaks iSCSI")
            }
            Self::Connect(EpError::Timeout) => {
                f.write_str("the card does not answer: check the link, else reset the adapter")
            }
            Self::Connect(EpError::Refused(Refused::NotReady)) => {
                f.write_str("the adapter is down or resetting: retry when it is up")
            }
            Self::Connect(EpError::Down) => {
                f.write_str("the adapter went down while the connection was made: it is tried again")
            }
            Self::Connect(EpError::Refused(Refused::NoCid)) => {
                f.write_str("all offloaded connections of the adapter are in use: log out of another session")
            }
            Self::Connect(EpError::Offload(0x02)) => {
                f.write_str("the card has no context left for another connection: log out of a session")
            }
            Self::Connect(EpError::Refused(r)) => write!(f, "the adapter refused the connection: {r}"),
            Self::Connect(EpError::Offload(s)) => {
                let name = status::lookup(s).map_or("unknown err", |row| row.name);
                write!(f, "the card refused the connection - {name} ({s:#x})")
            }
            Self::Fin => f.write_str("the target closed the connection"),
            Self::Rst => f.write_str("the target reset the connection"),
            Self::UpdateTimedOut => f.write_str("UPDATE_CONN was not answered: the chip is mute"),
            Self::Protocol => f.write_str("the target broke the protocol"),
            Self::BadItt => f.write_str("a completion names a task that does not exist"),
            Self::NopTimedOut => f.write_str("ping timeout expired: the target or the path to it is silent"),
            Self::TmfTimedOut => f.write_str("task management was not answered"),
            Self::HeldUp(gate) => {
                write!(f, "nothing could be sent for as long as a command may take: {gate}")
            }
            Self::BringUpUnanswered => {
                f.write_str("the target does not answer commands about its logical units: see its log")
            }
            Self::Unanswered => f.write_str("a text, logout or NOP-Out request was not answered in time"),
            Self::TaskRejected(reason) => {
                write!(
                    f,
                    "a command or its data was rejected by the target (reason {reason:#04x}): it is sent again"
                )
            }
            Self::TmfNotSent => f.write_str("Could not send TMF."),
            Self::PduNotSent => {
                f.write_str("a login, text or logout request found no room in the send queue")
            }
            Self::AsyncEvent(n) => write!(f, "the target sent asynchronous event {n}"),
            Self::Lost(failure) => write!(f, "detected conn error ({failure})"),
            Self::OutOfStep => {
                f.write_str("iscsid was too slow and missed what became of the connection: it starts over")
            }
            Self::AdapterReset => f.write_str("the adapter was reset"),
            Self::PathLost => f.write_str(
                "the offload interface lost its address: check the DHCP server, or who else uses the address",
            ),
            Self::HostRemoved => f.write_str("the adapter was removed"),
            Self::LoginTimedOut => f.write_str("login timed out: check that the target answers iSCSI logins"),
            Self::LoginStatus { class, detail } => {
                write!(f, "login failed with status {class:02x}{detail:02x}: {}", login_advice(class, detail))
            }
            Self::LoginProtocol(why) => write!(f, "the target broke the rules of login negotiation: {why}"),
            Self::Rejected(reason) => match RejectReason::from_code(reason) {
                Some(known) => write!(f, "the target rejected our request ({reason:#04x}): {known}"),
                None => write!(f, "the target rejected our request for an unknown reason ({reason:#04x})"),
            },
            Self::BadTargetList(why) => write!(f, "the target's answer to SendTargets cannot be used: {why}"),
            Self::RedirectToName(host) => {
                write!(f, "the target sends us to `{host}`, which is no address: names are not looked up")
            }
            Self::AuthFailed(why) => {
                write!(
                    f,
                    "authentication failed at our side ({why}): check the secrets and what the target asks for"
                )
            }
            Self::RedirectLoop => {
                f.write_str("too many login redirects in a row: check the target's portals")
            }
            Self::LogoutTimedOut => f.write_str("logout was not answered: the session was dropped"),
        }
    }
}

/// RFC 7143 11.13.5 in words that say what to do.
fn login_advice(class: u8, detail: u8) -> &'static str {
    match (class, detail) {
        (1, _) => "the target moved and named no usable address",
        (2, 1) => "the target does not accept user name and secret; check both",
        (2, 2) => "this initiator is not allowed; check the target's access list",
        (2, 3) => "target not found; check its name",
        (2, 4) => "the target was removed",
        (2, 5) => "the target speaks another version",
        (2, 6) => "too many connections",
        (2, 7) => "a parameter is missing",
        (2, 8) => "the connection cannot become part of that session",
        (2, 9) => "the target does not serve this kind of session",
        (2, 0xA) => "the session does not exist any more",
        (2, 0xB) => "the target found a request that has no place in a login",
        (2, _) => "the target refused the initiator's request",
        (3, 1) => "the service is unavailable; retry",
        (3, 2) => "the target is out of resources; retry",
        (3, _) => "the target has an error; retry",
        _ => "unknown status class",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ISCSID 4, step 6: the failure classes of an initial login.
    #[test]
    fn login_status_classes() {
        let verdict = |class, detail| {
            let v = Cause::LoginStatus { class, detail }.verdict();
            (v.exit, v.login_retry)
        };
        for detail in [1, 2] {
            assert_eq!(verdict(2, detail), (ExitCode::LoginAuthFailed, false));
        }
        for detail in [0, 3, 4, 5, 6, 7, 8, 9, 0xA, 0xB] {
            assert_eq!(verdict(2, detail), (ExitCode::FatalLogin, false), "{detail}");
        }
        for detail in [0, 1, 2] {
            assert_eq!(verdict(3, detail), (ExitCode::Login, true));
        }
        assert_eq!(verdict(9, 0), (ExitCode::FatalLogin, false), "unknown class");
    }

    #[test]
    fn connection_failures_carry_the_kernels_codes() {
        let code = |c: Cause| c.verdict().conn.code();
        assert_eq!(code(Cause::IscsiError(0x26)), 1011);
        assert_eq!(code(Cause::TcpError(0x43)), 1011);
        assert_eq!(code(Cause::AdapterReset), 1011);
        assert_eq!(code(Cause::TmfTimedOut), 1021);
        assert_eq!(code(Cause::NopTimedOut), 1022);
        assert_eq!(code(Cause::HostRemoved), 1018);
        assert_eq!(Cause::HostRemoved.verdict().block, BlockError::AdapterGone);
    }

    #[test]
    fn texts_carry_notice_strings_and_advice() {
        assert_eq!(Cause::IscsiError(0x1a).to_string(), "iscsi_error - F-bit not set (0x1a)");
        assert_eq!(Cause::IscsiError(0x99).to_string(), "iscsi_error - unknown err 99");
        assert_eq!(
            Cause::LoginStatus { class: 2, detail: 3 }.to_string(),
            "login failed with status 0203: target not found; check its name"
        );
        assert_eq!(ConnFailure::NopTimedOut.to_string(), "1022 - NOP_TIMEDOUT");
    }
}
