//! The target's login. Who may log in where, and with which session handle, is the [`LoginPolicy`]'s to say.

use super::{LoginFailure, LoginPdu, MAX_EXCHANGES, check_data_len, take_chap};
use crate::chap::{Challenge, ChapKeys, ChapTarget, Credentials, Secret};
use crate::names::normalize;
use crate::negotiate::{Key, LOGIN_DATA_SEGMENT_LEN, LoginParams, Negotiation, Role, SessionParams};
use crate::pdu::{Bhs, Header, LoginRequest, LoginResponse, LoginStatus, PduError, Stage, flags};
use crate::sendtargets::TargetAddress;
use crate::serial::Sn;
use crate::text::{Pairs, TextCollector, TextSplitter, TextWriter, list};

/// What one login at a target needs to know.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// What to agree to.
    pub params: LoginParams,
    /// TargetPortalGroupTag of the portal.
    pub portal_group_tag: u16,
    /// StatSN of the first response.
    pub first_stat_sn: Sn,
    /// Commands that the initiator may have outstanding: MaxCmdSN - ExpCmdSN + 1.
    pub command_window: u32,
    /// The challenge for the initiator: fresh random bytes, used if the policy wants CHAP.
    pub challenge: Challenge,
}

/// Who wants to log in, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Initiator name, in normal form.
    pub initiator_name: String,
    /// Initiator alias.
    pub initiator_alias: Option<String>,
    /// Target name in normal form; `None` for a discovery session.
    pub target_name: Option<String>,
    /// Initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// Session handle of the request: 0 for a new session.
    pub tsih: u16,
    /// Connection identifier.
    pub cid: u16,
}

/// The policy's answer to an [`Identity`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Without authentication.
    Open,
    /// With CHAP, by [`LoginPolicy::secret`].
    Chap {
        /// What the target proves itself with, if the initiator asks.
        mutual: Option<Credentials>,
    },
    /// At another portal.
    Redirect {
        /// The address to log in at instead.
        address: TargetAddress,
        /// Whether for ever.
        permanent: bool,
    },
    /// Not at all: unknown target (0203), no access (0202), session type (0209), no resources (0302) …
    Refuse(LoginStatus),
}

/// Decisions that belong to the target, not to the protocol.
pub trait LoginPolicy {
    /// Judges a login as soon as the names are known.
    fn admit(&mut self, who: &Identity) -> Admission;

    /// The secret of a CHAP name, `None` if the name may not log in so.
    fn secret(&mut self, who: &Identity, chap_name: &str) -> Option<Secret>;

    /// Finds or makes the session, by the rules of RFC 7143 6.3.1, once everything else is agreed, and
    /// returns its TSIH, which must not be zero.
    ///
    /// # Errors
    /// The status to refuse with: 020a for an unknown TSIH, 0302 for no resources …
    fn place(&mut self, who: &Identity) -> Result<u16, LoginStatus>;
}

/// A successful login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetDone {
    /// Who logged in.
    pub who: Identity,
    /// What was agreed.
    pub params: SessionParams,
    /// The session's handle.
    pub tsih: u16,
    /// The next StatSN.
    pub stat_sn: Sn,
    /// The first CmdSN that is expected.
    pub exp_cmd_sn: Sn,
}

/// What to do after a request.
#[derive(Clone, Debug)]
pub enum TargetStep {
    /// Send this and wait for the next request.
    Send(LoginPdu<LoginResponse>),
    /// Send this; the connection is then in the full feature phase, digests included.
    Done(LoginPdu<LoginResponse>, Box<TargetDone>),
    /// Send this, then close the connection. The failure is for the log; `None` for a redirect.
    Refused(LoginPdu<LoginResponse>, Option<LoginFailure>),
}

/// How the initiator has to authenticate itself.
#[derive(Debug)]
enum Auth {
    Open,
    Chap { exchange: Box<ChapTarget>, chosen: bool, mutual: Option<Credentials> },
}

/// What is known once the first list is complete.
#[derive(Debug)]
struct Admitted {
    who: Identity,
    auth: Auth,
}

/// Why no login follows: a failure, or a redirect.
enum Refusal {
    Failure(LoginFailure),
    Redirect(TargetAddress, bool),
}

impl<E: Into<LoginFailure>> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal::Failure(error.into())
    }
}

/// What a later request of a login has to repeat and does not (RFC 7143 11.12).
fn changed(first: &LoginRequest, next: &LoginRequest) -> Option<&'static str> {
    [
        (first.itt != next.itt, "ITT changed during login"),
        (first.isid != next.isid, "ISID changed during login"),
        (first.tsih != next.tsih, "TSIH changed during login"),
        (first.cid != next.cid, "CID changed during login"),
        (first.cmd_sn != next.cmd_sn, "CmdSN changed during login"),
        (first.version_max != next.version_max, "Version-max changed during login"),
    ]
    .into_iter()
    .find_map(|(changed, what)| changed.then_some(what))
}

/// One login at a target. It ends with [`TargetStep::Done`] or [`TargetStep::Refused`]; drop it then.
#[derive(Debug)]
pub struct TargetLogin {
    config: TargetConfig,
    /// The first request: later ones repeat its identifiers and CmdSN.
    first: Option<LoginRequest>,
    stage: Stage,
    admitted: Option<Admitted>,
    negotiation: Negotiation,
    incoming: TextCollector,
    outgoing: TextSplitter,
    stat_sn: Sn,
    exchanges: u32,
}

impl TargetLogin {
    /// A login that waits for its first request.
    pub fn new(config: TargetConfig) -> TargetLogin {
        TargetLogin {
            negotiation: Negotiation::new(Role::Target, config.params.clone(), false),
            stat_sn: config.first_stat_sn,
            config,
            first: None,
            stage: Stage::Security,
            admitted: None,
            incoming: TextCollector::new(),
            outgoing: TextSplitter::default(),
            exchanges: 0,
        }
    }

    /// Takes a PDU: a Login Request, or whatever else the initiator sent, which ends the login.
    pub fn receive(&mut self, policy: &mut dyn LoginPolicy, header: &Bhs, data: &[u8]) -> TargetStep {
        match self.step(policy, header, data) {
            Ok(step) => step,
            Err(Refusal::Redirect(address, permanent)) => {
                let status =
                    if permanent { LoginStatus::MovedPermanently } else { LoginStatus::MovedTemporarily };
                let mut out = TextWriter::new();
                // A redirect names no portal group (RFC 7143 11.13.5).
                let written = out.push("TargetAddress", &address.portal);
                debug_assert!(written.is_ok(), "a host is at most 255 bytes");
                TargetStep::Refused(self.refusal(header, status, out.into_bytes()), None)
            }
            Err(Refusal::Failure(failure)) => {
                TargetStep::Refused(self.refusal(header, failure.status(), Vec::new()), Some(failure))
            }
        }
    }

    /// Whether the next request has to prove the initiator's identity: looking at it may be put off.
    pub fn expects_proof(&self) -> bool {
        matches!(&self.admitted, Some(Admitted { auth: Auth::Chap { exchange, .. }, .. }) if exchange.expects_proof())
    }

    /// Refuses the login without looking at the request.
    pub fn refuse(&mut self, request: &Bhs, status: LoginStatus) -> LoginPdu<LoginResponse> {
        self.refusal(request, status, Vec::new())
    }

    fn step(
        &mut self,
        policy: &mut dyn LoginPolicy,
        header: &Bhs,
        data: &[u8],
    ) -> Result<TargetStep, Refusal> {
        let request = *header.view::<LoginRequest>()?;
        check_data_len(data)?;
        let next = self.check_request(&request)?;
        self.exchanges += 1;
        if self.exchanges > MAX_EXCHANGES {
            return Err(LoginFailure::TooManyExchanges.into());
        }
        let Some(text) = self.incoming.push(data, request.flags & flags::CONTINUE != 0)? else {
            return Ok(TargetStep::Send(self.response(&request, None)));
        };
        if self.outgoing.has_more() {
            // RFC 7143 6.2: text that continues is acknowledged by an empty PDU.
            if !text.is_empty() || next.is_some() {
                return Err(LoginFailure::Protocol("answer to text that is not complete").into());
            }
            return Ok(TargetStep::Send(self.response(&request, None)));
        }
        let mut out = TextWriter::new();
        self.read_text(policy, &request, &text, &mut out)?;
        if self.stage == Stage::Operational {
            self.negotiation.declare(&mut out).map_err(LoginFailure::from)?;
        }
        let next = self.grant(next)?;
        let fits = out.as_bytes().len() <= LOGIN_DATA_SEGMENT_LEN as usize;
        let next = next.filter(|_| fits);
        self.outgoing = TextSplitter::new(out.into_bytes());
        if next != Some(Stage::FullFeature) {
            let response = self.response(&request, next);
            self.stage = next.unwrap_or(self.stage);
            return Ok(TargetStep::Send(response));
        }
        self.finish(policy, &request)
    }

    /// Version, identifiers and stages of a request; returns the stage that it asks for.
    fn check_request(&mut self, request: &LoginRequest) -> Result<Option<Stage>, LoginFailure> {
        if request.version_min != 0 {
            return Err(LoginFailure::Refused(LoginStatus::UnsupportedVersion));
        }
        let (stage, next) = request.stages().ok_or(PduError::Flags(LoginRequest::OPCODE, request.flags))?;
        match &self.first {
            None => {
                self.first = Some(*request);
                self.stage = stage;
            }
            Some(first) => {
                if let Some(changed) = changed(first, request) {
                    return Err(LoginFailure::Protocol(changed));
                }
                if stage != self.stage {
                    return Err(LoginFailure::Protocol("request in another stage"));
                }
            }
        }
        Ok(next)
    }

    /// One complete list: the declarations first, because they decide how the rest is judged.
    fn read_text(
        &mut self,
        policy: &mut dyn LoginPolicy,
        request: &LoginRequest,
        text: &[u8],
        out: &mut TextWriter,
    ) -> Result<(), Refusal> {
        if self.admitted.is_none() {
            let who = self.identify(request, text)?;
            self.negotiation.set_discovery(who.target_name.is_none());
            self.admitted = Some(self.admit(policy, who)?);
            out.push("TargetPortalGroupTag", self.config.portal_group_tag)?;
        }
        let mut keys = ChapKeys::default();
        for pair in Pairs::new(text) {
            let (name, value) = pair?;
            match Key::lookup(name) {
                Some(key) if take_chap(&mut keys, key, value) => self.negotiation.note(self.stage, key)?,
                Some(key @ Key::AuthMethod) => {
                    self.negotiation.note(self.stage, key)?;
                    self.choose(value, out)?;
                }
                Some(key) if self.is_repeated(key, value) => {}
                _ => self.negotiation.receive(self.stage, name, value, out)?,
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        match &mut self.admitted {
            Some(Admitted { who, auth: Auth::Chap { exchange, chosen: true, mutual } })
                if self.stage == Stage::Security =>
            {
                exchange.receive(&keys, |name| policy.secret(who, name), mutual.as_ref(), out)?;
                Ok(())
            }
            _ => Err(LoginFailure::Protocol("unexpected CHAP keys").into()),
        }
    }

    /// Whether this only repeats what an earlier list declared: libiscsi sends the names in each stage again.
    /// A changed value is a renegotiation and stays an error.
    fn is_repeated(&self, key: Key, value: &str) -> bool {
        let Some(Admitted { who, .. }) = &self.admitted else { return false };
        let same = match key {
            Key::InitiatorName => normalize(value).is_ok_and(|name| name == who.initiator_name),
            Key::TargetName => normalize(value).ok() == who.target_name,
            Key::InitiatorAlias => who.initiator_alias.as_deref() == Some(value),
            Key::SessionType => (value == "Discovery") == who.target_name.is_none(),
            _ => false,
        };
        same && self.stage == Stage::Operational && self.negotiation.has_received(key)
    }

    /// The names and the session type, which the first list has to bring.
    fn identify(&self, request: &LoginRequest, text: &[u8]) -> Result<Identity, LoginFailure> {
        let (mut initiator, mut target, mut alias, mut kind) = (None, None, None, "Normal");
        for pair in Pairs::new(text) {
            let (name, value) = pair?;
            match Key::lookup(name) {
                Some(Key::InitiatorName) => initiator = Some(value),
                Some(Key::TargetName) => target = Some(value),
                Some(Key::InitiatorAlias) => alias = Some(value.to_owned()),
                Some(Key::SessionType) => kind = value,
                _ => {}
            }
        }
        let initiator = initiator.ok_or(LoginFailure::Missing(Key::InitiatorName))?;
        let target_name = match (kind, target) {
            ("Discovery", _) => None,
            ("Normal", None) => return Err(LoginFailure::Missing(Key::TargetName)),
            // A target that cannot be named so cannot be here.
            ("Normal", Some(name)) => {
                Some(normalize(name).map_err(|_| LoginFailure::Refused(LoginStatus::TargetNotFound))?)
            }
            _ => return Err(LoginFailure::Refused(LoginStatus::SessionTypeNotSupported)),
        };
        Ok(Identity {
            initiator_name: normalize(initiator)
                .map_err(|_| LoginFailure::Protocol("malformed InitiatorName"))?,
            initiator_alias: alias,
            target_name,
            isid: request.isid,
            tsih: request.tsih.get(),
            cid: request.cid.get(),
        })
    }

    fn admit(&self, policy: &mut dyn LoginPolicy, who: Identity) -> Result<Admitted, Refusal> {
        match policy.admit(&who) {
            Admission::Open => Ok(Admitted { who, auth: Auth::Open }),
            // Going straight to operational negotiation is a try to log in without authentication.
            Admission::Chap { .. } if self.stage != Stage::Security => Err(LoginFailure::AuthMethod.into()),
            Admission::Chap { mutual } => {
                let exchange = Box::new(ChapTarget::new(self.config.challenge.clone()));
                Ok(Admitted { who, auth: Auth::Chap { exchange, chosen: false, mutual } })
            }
            Admission::Redirect { address, permanent } => Err(Refusal::Redirect(address, permanent)),
            Admission::Refuse(status) => Err(LoginFailure::Refused(status).into()),
        }
    }

    /// Picks from the offered AuthMethods.
    fn choose(&mut self, offered: &str, out: &mut TextWriter) -> Result<(), LoginFailure> {
        let method = match self.admitted.as_mut().map(|admitted| &mut admitted.auth) {
            Some(Auth::Chap { chosen, .. }) => {
                *chosen = true;
                "CHAP"
            }
            _ => "None",
        };
        if !list(offered).any(|member| member == method) {
            return Err(LoginFailure::AuthMethod);
        }
        Ok(out.push("AuthMethod", method)?)
    }

    /// Whether the stage may change as asked: not before the initiator has proven itself, and never around
    /// CHAP.
    fn grant(&self, next: Option<Stage>) -> Result<Option<Stage>, LoginFailure> {
        match self.admitted.as_ref().map(|admitted| &admitted.auth) {
            Some(Auth::Chap { exchange, chosen, .. }) if !exchange.is_done() => {
                if next.is_some() && !chosen {
                    Err(LoginFailure::AuthMethod)
                } else {
                    Ok(None)
                }
            }
            _ => Ok(next),
        }
    }

    fn finish(
        &mut self,
        policy: &mut dyn LoginPolicy,
        request: &LoginRequest,
    ) -> Result<TargetStep, Refusal> {
        let params = self.negotiation.finish()?;
        let admitted = self.admitted.take().ok_or(LoginFailure::Missing(Key::InitiatorName))?;
        let tsih = policy.place(&admitted.who).map_err(LoginFailure::Refused)?;
        debug_assert_ne!(tsih, 0, "0 means no session");
        let mut response = self.response(request, Some(Stage::FullFeature));
        response.header.tsih.set(tsih);
        let (stat_sn, exp_cmd_sn) = (self.stat_sn, request.cmd_sn.into());
        let done = TargetDone { who: admitted.who, params, tsih, stat_sn, exp_cmd_sn };
        Ok(TargetStep::Done(response, Box::new(done)))
    }

    /// The next piece of the answer; `next` is granted with its last piece.
    fn response(&mut self, request: &LoginRequest, next: Option<Stage>) -> LoginPdu<LoginResponse> {
        let (piece, more) = self.outgoing.next_piece(LOGIN_DATA_SEGMENT_LEN as usize);
        let data = piece.to_vec();
        let mut header = self.header(request);
        header.set_stages(self.stage, next, more);
        header.data_segment_length.set(data.len() as u32);
        LoginPdu { header, data }
    }

    fn refusal(&mut self, header: &Bhs, status: LoginStatus, data: Vec<u8>) -> LoginPdu<LoginResponse> {
        let mut response = match self.first {
            Some(first) => self.header(&first),
            None => self.header(&LoginRequest::new()),
        };
        response.itt = header.itt;
        response.set_status(status);
        response.data_segment_length.set(data.len() as u32);
        LoginPdu { header: response, data }
    }

    /// Identifiers and numbers of a response to `request`.
    fn header(&mut self, request: &LoginRequest) -> LoginResponse {
        let exp_cmd_sn = Sn::from(request.cmd_sn);
        let mut header = LoginResponse::new();
        header.isid = request.isid;
        header.tsih = request.tsih;
        header.itt = request.itt;
        header.stat_sn = self.stat_sn.take().into();
        header.exp_cmd_sn = exp_cmd_sn.into();
        header.max_cmd_sn = exp_cmd_sn.add(self.config.command_window).sub(1).into();
        header
    }
}
