//! The login phase (RFC 7143 6.3), both ends, sans-IO: [`InitiatorLogin`] for the driver's sessions and
//! discovery, [`TargetLogin`] for the embedded target. Each takes the peer's PDU and says what to send, or
//! how the login ended; the caller owns the connection, the deadline, the tags and the randomness.
//!
//! One connection per session: a TSIH other than zero is passed to the target's policy, which refuses or
//! reinstates. Not modelled: AuthMethods other than CHAP and None.

mod initiator;
mod target;
#[cfg(test)]
mod tests;

pub use initiator::{ChapConfig, InitiatorConfig, InitiatorLogin, InitiatorStep, LoginDone};
pub use target::{Admission, Identity, LoginPolicy, TargetConfig, TargetDone, TargetLogin, TargetStep};

use crate::chap::{ChapError, ChapKeys};
use crate::negotiate::{Key, LOGIN_DATA_SEGMENT_LEN, NegotiationError};
use crate::pdu::{LoginOutcome, LoginStatus, PduError};
use crate::text::TextError;

/// Most request/response rounds of one login; a peer that never comes to an end is given up. A login needs up
/// to four, and each 8 KiB of continued text one more.
pub const MAX_EXCHANGES: u32 = 32;

/// A login PDU to send: set the initiator task tag (initiator), pad the data, add no digests.
#[derive(Clone)]
pub struct LoginPdu<H> {
    /// The header, with DataSegmentLength set.
    pub header: H,
    /// The data segment, without padding; at most 8192 bytes.
    pub data: Vec<u8>,
}

/// The data may hold CHAP responses: only its length is shown.
impl<H: core::fmt::Debug> core::fmt::Debug for LoginPdu<H> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LoginPdu").field("header", &self.header).field("data_len", &self.data.len()).finish()
    }
}

/// Why a login failed. Both ends close the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginFailure {
    /// The target's answer (at the initiator) or the policy's verdict (at the target).
    #[error("{0}")]
    Refused(LoginStatus),
    /// Authentication of the peer failed, or the peer broke the CHAP exchange.
    #[error("CHAP: {0}")]
    Chap(#[from] ChapError),
    /// No common AuthMethod.
    #[error("no common authentication method")]
    AuthMethod,
    /// Parameters could not be agreed.
    #[error("{0}")]
    Negotiation(#[from] NegotiationError),
    /// A key that is required is missing.
    #[error("{} is missing", .0.name())]
    Missing(Key),
    /// Malformed text.
    #[error("login text: {0}")]
    Text(#[from] TextError),
    /// Malformed header, or another PDU than a login PDU.
    #[error("login PDU: {0}")]
    Pdu(#[from] PduError),
    /// A rule of the login phase is broken; the text says which.
    #[error("{0}")]
    Protocol(&'static str),
    /// [`MAX_EXCHANGES`] reached.
    #[error("no end of login after {MAX_EXCHANGES} exchanges")]
    TooManyExchanges,
}

impl LoginFailure {
    /// What the initiator may do.
    pub const fn outcome(self) -> LoginOutcome {
        match self {
            LoginFailure::Refused(status) => status.outcome(),
            LoginFailure::Chap(_) | LoginFailure::AuthMethod => LoginOutcome::AuthenticationFailed,
            _ => LoginOutcome::Fatal,
        }
    }

    /// The status with which a target refuses.
    pub const fn status(self) -> LoginStatus {
        match self {
            LoginFailure::Refused(status) => status,
            LoginFailure::Chap(_) | LoginFailure::AuthMethod => LoginStatus::AuthenticationFailure,
            LoginFailure::Missing(_) => LoginStatus::MissingParameter,
            LoginFailure::Pdu(PduError::UnexpectedOpcode { .. } | PduError::UnknownOpcode(_)) => {
                LoginStatus::InvalidDuringLogin
            }
            _ => LoginStatus::InitiatorError,
        }
    }
}

/// Puts a CHAP key's value in its place; false for other keys.
fn take_chap<'a>(keys: &mut ChapKeys<'a>, key: Key, value: &'a str) -> bool {
    let slot = match key {
        Key::ChapA => &mut keys.algorithm,
        Key::ChapI => &mut keys.identifier,
        Key::ChapC => &mut keys.challenge,
        Key::ChapN => &mut keys.name,
        Key::ChapR => &mut keys.response,
        _ => return false,
    };
    *slot = Some(value);
    true
}

/// A login data segment may not exceed what both ends take before they declared anything.
fn check_data_len(data: &[u8]) -> Result<(), LoginFailure> {
    let fits = data.len() <= LOGIN_DATA_SEGMENT_LEN as usize;
    if fits { Ok(()) } else { Err(LoginFailure::Protocol("data segment over 8192 bytes")) }
}
