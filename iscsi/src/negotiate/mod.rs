//! Negotiation of operational parameters (RFC 7143 6.2, 13). One engine serves both ends, because either may
//! propose: [`Negotiation`] holds what this end wants ([`LoginParams`]), takes each received key, answers
//! proposals by the function of the [`KEYS`] table, checks answers against what was proposed, and yields
//! [`SessionParams`]. login drives it in the login phase; [`renegotiate`] serves text requests of the full
//! feature phase.
//!
//! Level-2 features (RFC 7144), markers, and task reporting other than RFC3720 are never agreed to.

mod keys;
#[cfg(test)]
mod tests;

pub use keys::{KEYS, Key, KeySet, KeySpec, Rule, Scope, Sender, Usage};

use crate::pdu::Stage;
use crate::text::{Excerpt, TextError, TextWriter, boolean, list, number, yes_no};

/// MaxRecvDataSegmentLength of both ends during login, and without declaration, in bytes.
pub const LOGIN_DATA_SEGMENT_LEN: u32 = 8192;
/// The only iSCSIProtocolLevel that this implementation agrees to: RFC 7143 itself.
const PROTOCOL_LEVEL: u32 = 1;

/// Which digests this end takes, in order of preference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DigestOffer {
    /// `None`.
    #[default]
    None,
    /// `CRC32C`.
    Crc32c,
    /// `CRC32C,None`.
    Crc32cOrNone,
    /// `None,CRC32C`.
    NoneOrCrc32c,
}

impl DigestOffer {
    /// The list as on the wire.
    pub const fn text(self) -> &'static str {
        match self {
            DigestOffer::None => "None",
            DigestOffer::Crc32c => "CRC32C",
            DigestOffer::Crc32cOrNone => "CRC32C,None",
            DigestOffer::NoneOrCrc32c => "None,CRC32C",
        }
    }

    /// The offer of that text, as written in configuration files.
    pub fn from_text(text: &str) -> Option<DigestOffer> {
        use DigestOffer::{Crc32c, Crc32cOrNone, None as NoDigest, NoneOrCrc32c};
        [NoDigest, Crc32c, Crc32cOrNone, NoneOrCrc32c].into_iter().find(|offer| offer.text() == text)
    }

    fn takes(self, value: &str) -> bool {
        list(self.text()).any(|taken| taken == value)
    }
}

/// What one end wants. An initiator offers these values; a target answers proposals with them. Lengths are in
/// bytes, times in seconds. The defaults are those of iscsid (ISCSID 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginParams {
    /// HeaderDigest.
    pub header_digest: DigestOffer,
    /// DataDigest.
    pub data_digest: DigestOffer,
    /// MaxRecvDataSegmentLength that this end declares.
    pub max_recv_data_segment_length: u32,
    /// MaxBurstLength.
    pub max_burst_length: u32,
    /// FirstBurstLength.
    pub first_burst_length: u32,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u16,
    /// MaxConnections.
    pub max_connections: u16,
    /// DefaultTime2Wait.
    pub default_time2wait: u16,
    /// DefaultTime2Retain.
    pub default_time2retain: u16,
    /// ErrorRecoveryLevel.
    pub error_recovery_level: u8,
    /// DataPDUInOrder.
    pub data_pdu_in_order: bool,
    /// DataSequenceInOrder.
    pub data_sequence_in_order: bool,
}

impl Default for LoginParams {
    fn default() -> LoginParams {
        LoginParams {
            header_digest: DigestOffer::None,
            data_digest: DigestOffer::None,
            max_recv_data_segment_length: 262_144,
            max_burst_length: 16_776_192,
            first_burst_length: 262_144,
            initial_r2t: false,
            immediate_data: true,
            max_outstanding_r2t: 1,
            max_connections: 1,
            default_time2wait: 2,
            default_time2retain: 0,
            error_recovery_level: 0,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
        }
    }
}

impl LoginParams {
    fn number(&self, key: Key) -> u32 {
        match key {
            Key::MaxRecvDataSegmentLength => self.max_recv_data_segment_length,
            Key::MaxBurstLength => self.max_burst_length,
            Key::FirstBurstLength => self.first_burst_length,
            Key::MaxOutstandingR2T => self.max_outstanding_r2t.into(),
            Key::MaxConnections => self.max_connections.into(),
            Key::DefaultTime2Wait => self.default_time2wait.into(),
            Key::DefaultTime2Retain => self.default_time2retain.into(),
            Key::ErrorRecoveryLevel => self.error_recovery_level.into(),
            _ => PROTOCOL_LEVEL,
        }
    }

    fn flag(&self, key: Key) -> bool {
        match key {
            Key::InitialR2T => self.initial_r2t,
            Key::ImmediateData => self.immediate_data,
            Key::DataPDUInOrder => self.data_pdu_in_order,
            _ => self.data_sequence_in_order,
        }
    }

    fn takes(&self, key: Key, value: &str) -> bool {
        match key {
            Key::HeaderDigest => self.header_digest.takes(value),
            Key::DataDigest => self.data_digest.takes(value),
            _ => value == "RFC3720",
        }
    }

    /// The proposal for `key` as on the wire.
    fn proposal(&self, key: Key) -> String {
        match (key, key.spec().rule) {
            (Key::HeaderDigest, _) => self.header_digest.text().into(),
            (Key::DataDigest, _) => self.data_digest.text().into(),
            (_, Rule::And { .. } | Rule::Or { .. }) => yes_no(self.flag(key)).into(),
            _ => self.number(key).to_string(),
        }
    }

    /// The first parameter that is outside its range, or a first burst longer than a burst.
    pub fn check(&self) -> Result<(), Key> {
        for spec in KEYS {
            let (Rule::Min { low, high, .. }
            | Rule::Max { low, high, .. }
            | Rule::DeclareNumber { low, high, .. }) = spec.rule
            else {
                continue;
            };
            if !(low..=high).contains(&self.number(spec.key)) {
                return Err(spec.key);
            }
        }
        if self.first_burst_length > self.max_burst_length { Err(Key::FirstBurstLength) } else { Ok(()) }
    }
}

/// What both ends agreed on. Lengths are in bytes, times in seconds. The default is RFC 7143's, which holds
/// for every key that was not negotiated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionParams {
    /// Header digests after login.
    pub header_digest: bool,
    /// Data digests after login.
    pub data_digest: bool,
    /// Longest data segment that this end takes.
    pub max_recv_data_segment_length: u32,
    /// Longest data segment that the peer takes.
    pub max_send_data_segment_length: u32,
    /// Longest sequence of Data-In or of solicited Data-Out.
    pub max_burst_length: u32,
    /// Most unsolicited data per command; never more than `max_burst_length`.
    pub first_burst_length: u32,
    /// Whether Data-Out waits for an R2T.
    pub initial_r2t: bool,
    /// Whether SCSI Commands may carry data.
    pub immediate_data: bool,
    /// Most R2Ts open per task.
    pub max_outstanding_r2t: u16,
    /// Most connections of the session.
    pub max_connections: u16,
    /// Time to wait before a reconnect.
    pub time2wait: u16,
    /// Time for which tasks survive their connection.
    pub time2retain: u16,
    /// ErrorRecoveryLevel.
    pub error_recovery_level: u8,
    /// Whether PDUs of a sequence come in order of offset.
    pub data_pdu_in_order: bool,
    /// Whether sequences come in order of offset.
    pub data_sequence_in_order: bool,
}

impl Default for SessionParams {
    fn default() -> SessionParams {
        SessionParams {
            header_digest: false,
            data_digest: false,
            max_recv_data_segment_length: LOGIN_DATA_SEGMENT_LEN,
            max_send_data_segment_length: LOGIN_DATA_SEGMENT_LEN,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
            max_connections: 1,
            time2wait: 2,
            time2retain: 20,
            error_recovery_level: 0,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
        }
    }
}

impl SessionParams {
    /// Stores a number that has passed its key's range.
    fn set_number(&mut self, key: Key, value: u32) {
        // The table bounds every value that is kept in 16 or 8 bits.
        let short = value as u16;
        match key {
            Key::MaxBurstLength => self.max_burst_length = value,
            Key::FirstBurstLength => self.first_burst_length = value,
            Key::MaxOutstandingR2T => self.max_outstanding_r2t = short,
            Key::MaxConnections => self.max_connections = short,
            Key::DefaultTime2Wait => self.time2wait = short,
            Key::DefaultTime2Retain => self.time2retain = short,
            Key::ErrorRecoveryLevel => self.error_recovery_level = value as u8,
            _ => {}
        }
    }

    fn set_flag(&mut self, key: Key, value: bool) {
        match key {
            Key::InitialR2T => self.initial_r2t = value,
            Key::ImmediateData => self.immediate_data = value,
            Key::DataPDUInOrder => self.data_pdu_in_order = value,
            _ => self.data_sequence_in_order = value,
        }
    }

    fn set_picked(&mut self, key: Key, value: &str) {
        match key {
            Key::HeaderDigest => self.header_digest = value == "CRC32C",
            Key::DataDigest => self.data_digest = value == "CRC32C",
            _ => {}
        }
    }
}

/// Why a negotiation fails. A target answers with login status 0200, an initiator gives up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NegotiationError {
    /// A key a second time (RFC 7143 6.3: renegotiation).
    #[error("{} was sent twice", .0.name())]
    Duplicate(Key),
    /// A key that must not appear in this stage.
    #[error("{} is not allowed in this stage", .0.name())]
    WrongStage(Key),
    /// A key that only the other end may send.
    #[error("{} comes from the wrong end", .0.name())]
    WrongSender(Key),
    /// A declared value that is malformed or out of range.
    #[error("{}={} is no legal declaration", .0.name(), .1)]
    Value(Key, Excerpt),
    /// An answer that cannot follow from the proposal.
    #[error("the answer {}={} does not fit the proposal", .0.name(), .1)]
    Answer(Key, Excerpt),
    /// The peer rejected, or claims not to understand, a key that it has to take.
    #[error("{} was refused with {}", .0.name(), .1)]
    Refused(Key, Excerpt),
    /// A proposal without an answer.
    #[error("{} was not answered", .0.name())]
    Unanswered(Key),
    /// The answer does not fit the text limits.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// Which end this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The initiator.
    Initiator,
    /// The target.
    Target,
}

/// The negotiation of one login, at either end.
#[derive(Clone, Debug)]
pub struct Negotiation {
    role: Role,
    discovery: bool,
    own: LoginParams,
    result: SessionParams,
    /// Keys that this end proposed or declared.
    sent: KeySet,
    /// Keys that the peer sent: an answer, a proposal or a declaration.
    received: KeySet,
}

impl Negotiation {
    /// A negotiation in which this end wants `own`; `discovery` for a discovery session.
    pub fn new(role: Role, own: LoginParams, discovery: bool) -> Negotiation {
        let (sent, received) = (KeySet::default(), KeySet::default());
        Negotiation { role, discovery, own, result: SessionParams::default(), sent, received }
    }

    /// Sets the session type once it is known, before any key has been received.
    pub fn set_discovery(&mut self, discovery: bool) {
        self.discovery = discovery;
    }

    /// Adds what an initiator proposes to `out`, in the order of ISCSID 3.1.
    ///
    /// # Errors
    /// [`NegotiationError::Text`] when `out` is full.
    pub fn offer(&mut self, out: &mut TextWriter) -> Result<(), NegotiationError> {
        const OFFERS: [Key; 14] = [
            Key::HeaderDigest,
            Key::DataDigest,
            Key::DefaultTime2Wait,
            Key::DefaultTime2Retain,
            Key::ErrorRecoveryLevel,
            Key::InitialR2T,
            Key::ImmediateData,
            Key::MaxBurstLength,
            Key::FirstBurstLength,
            Key::MaxOutstandingR2T,
            Key::MaxConnections,
            Key::DataPDUInOrder,
            Key::DataSequenceInOrder,
            Key::MaxRecvDataSegmentLength,
        ];
        for key in OFFERS {
            if self.discovery && key.spec().irrelevant_in_discovery || self.received.contains(key) {
                continue;
            }
            if key == Key::MaxRecvDataSegmentLength {
                self.declare(out)?;
            } else if self.sent.insert(key) {
                out.push(key.name(), self.own.proposal(key))?;
            }
        }
        Ok(())
    }

    /// Declares this end's MaxRecvDataSegmentLength, once.
    ///
    /// # Errors
    /// [`NegotiationError::Text`] when `out` is full.
    pub fn declare(&mut self, out: &mut TextWriter) -> Result<(), NegotiationError> {
        let key = Key::MaxRecvDataSegmentLength;
        if self.sent.insert(key) {
            out.push(key.name(), self.own.max_recv_data_segment_length)?;
            self.result.max_recv_data_segment_length = self.own.max_recv_data_segment_length;
        }
        Ok(())
    }

    /// Records that the peer sent `key`, and checks that it may at this point. [`Negotiation::receive`] does
    /// it for the keys that it handles; a login does it for the others.
    ///
    /// # Errors
    /// [`NegotiationError::Duplicate`], [`NegotiationError::WrongStage`] or
    /// [`NegotiationError::WrongSender`].
    pub fn note(&mut self, stage: Stage, key: Key) -> Result<(), NegotiationError> {
        let spec = key.spec();
        if stage == Stage::Security && !spec.security_stage || spec.usage == Usage::FullFeature {
            return Err(NegotiationError::WrongStage(key));
        }
        let own_word = match self.role {
            Role::Initiator => Sender::Initiator,
            Role::Target => Sender::Target,
        };
        if spec.sender == own_word {
            return Err(NegotiationError::WrongSender(key));
        }
        if self.received.insert(key) { Ok(()) } else { Err(NegotiationError::Duplicate(key)) }
    }

    /// Whether the peer has sent `key`.
    pub const fn has_received(&self, key: Key) -> bool {
        self.received.contains(key)
    }

    /// Takes a key of the peer: an answer to what this end proposed, or a proposal, whose answer is added to
    /// `out`.
    ///
    /// # Errors
    /// The negotiation has failed.
    pub fn receive(
        &mut self,
        stage: Stage,
        name: &str,
        value: &str,
        out: &mut TextWriter,
    ) -> Result<(), NegotiationError> {
        let Some(key) = Key::lookup(name) else {
            // Never answer an answer: that would go round forever.
            return if value == "NotUnderstood" { Ok(()) } else { Ok(out.push(name, "NotUnderstood")?) };
        };
        self.note(stage, key)?;
        match key.spec().rule {
            Rule::Declare | Rule::Special => Ok(()),
            Rule::DeclareNumber { low, high, .. } => {
                let len =
                    in_range(value, low, high).ok_or(NegotiationError::Value(key, Excerpt::new(value)))?;
                self.result.max_send_data_segment_length = len;
                Ok(())
            }
            _ if self.sent.contains(key) => self.take_answer(key, value),
            _ => {
                let answer = self.answer(key, value);
                Ok(out.push(name, answer)?)
            }
        }
    }

    /// The answer to a proposal, by the key's function. What cannot be agreed keeps its default and is
    /// answered `Reject`.
    fn answer(&mut self, key: Key, value: &str) -> String {
        const REJECT: &str = "Reject";
        if self.discovery && key.spec().irrelevant_in_discovery {
            return "Irrelevant".into();
        }
        match key.spec().rule {
            rule @ (Rule::And { .. } | Rule::Or { .. }) => {
                let Some(offered) = boolean(value) else { return REJECT.into() };
                let own = self.own.flag(key);
                let agreed = if matches!(rule, Rule::And { .. }) { offered && own } else { offered || own };
                self.result.set_flag(key, agreed);
                yes_no(agreed).into()
            }
            rule @ (Rule::Min { low, high, .. } | Rule::Max { low, high, .. }) => {
                let Some(offered) = in_range(value, low, high) else { return REJECT.into() };
                let own = self.own.number(key);
                let mut agreed =
                    if matches!(rule, Rule::Min { .. }) { offered.min(own) } else { offered.max(own) };
                if key == Key::FirstBurstLength {
                    agreed = agreed.min(self.result.max_burst_length);
                }
                self.result.set_number(key, agreed);
                agreed.to_string()
            }
            Rule::Pick(known) => {
                let mut offered = list(value);
                match offered.find(|member| known.contains(member) && self.own.takes(key, member)) {
                    Some(picked) => {
                        self.result.set_picked(key, picked);
                        picked.into()
                    }
                    None => REJECT.into(),
                }
            }
            Rule::Obsolete | Rule::Declare | Rule::DeclareNumber { .. } | Rule::Special => REJECT.into(),
        }
    }

    /// Checks that `value` can follow from what this end proposed, and stores it.
    fn take_answer(&mut self, key: Key, value: &str) -> Result<(), NegotiationError> {
        let wrong = NegotiationError::Answer(key, Excerpt::new(value));
        match value {
            "Reject" | "NotUnderstood" => return Err(NegotiationError::Refused(key, Excerpt::new(value))),
            // RFC 7143 13.14: without unsolicited data there is no first burst.
            "Irrelevant" if key == Key::FirstBurstLength || self.discovery => return Ok(()),
            _ => {}
        }
        match key.spec().rule {
            rule @ (Rule::And { .. } | Rule::Or { .. }) => {
                let agreed = boolean(value).ok_or(wrong)?;
                let own = self.own.flag(key);
                // And can only take a Yes away, Or can only add one.
                if if matches!(rule, Rule::And { .. }) { agreed && !own } else { own && !agreed } {
                    return Err(wrong);
                }
                self.result.set_flag(key, agreed);
            }
            rule @ (Rule::Min { low, high, .. } | Rule::Max { low, high, .. }) => {
                let agreed = in_range(value, low, high).ok_or(wrong)?;
                let own = self.own.number(key);
                if if matches!(rule, Rule::Min { .. }) { agreed > own } else { agreed < own } {
                    return Err(wrong);
                }
                self.result.set_number(key, agreed);
            }
            _ => {
                if !self.own.takes(key, value) {
                    return Err(wrong);
                }
                self.result.set_picked(key, value);
            }
        }
        Ok(())
    }

    /// What was agreed, at the end of the login.
    ///
    /// # Errors
    /// [`NegotiationError::Unanswered`] when a proposal is open whose outcome was not already fixed by it.
    pub fn finish(&self) -> Result<SessionParams, NegotiationError> {
        let mut result = self.result.clone();
        for spec in KEYS {
            let key = spec.key;
            if !self.sent.contains(key) || self.received.contains(key) {
                continue;
            }
            match spec.rule {
                Rule::And { .. } if !self.own.flag(key) => result.set_flag(key, false),
                Rule::Or { .. } if self.own.flag(key) => result.set_flag(key, true),
                Rule::DeclareNumber { .. } => {}
                _ => return Err(NegotiationError::Unanswered(key)),
            }
        }
        result.first_burst_length = result.first_burst_length.min(result.max_burst_length);
        Ok(result)
    }
}

/// A number in `low ..= high`.
fn in_range(value: &str, low: u32, high: u32) -> Option<u32> {
    let value = u32::try_from(number(value)?).ok()?;
    (low..=high).contains(&value).then_some(value)
}

/// Takes one key of a text request or response in the full feature phase (RFC 7143 11.10): a new
/// MaxRecvDataSegmentLength of the peer is stored in `params`, other keys are answered into `out`.
/// SendTargets and its answer are sendtargets's and must not be passed here.
///
/// # Errors
/// [`NegotiationError::Value`] for an illegal length, [`NegotiationError::Text`] when `out` is full.
pub fn renegotiate(
    params: &mut SessionParams,
    name: &str,
    value: &str,
    out: &mut TextWriter,
) -> Result<(), NegotiationError> {
    match Key::lookup(name).map(Key::spec) {
        None if value == "NotUnderstood" => {}
        None => out.push(name, "NotUnderstood")?,
        Some(spec) => match (spec.usage, spec.rule) {
            (Usage::Any, Rule::DeclareNumber { low, high, .. }) => {
                let len = in_range(value, low, high)
                    .ok_or(NegotiationError::Value(spec.key, Excerpt::new(value)))?;
                params.max_send_data_segment_length = len;
            }
            (Usage::Any, Rule::Declare) => {}
            _ if value == "Reject" => {}
            _ => out.push(name, "Reject")?,
        },
    }
    Ok(())
}
