//! The initiator's login: security stage (CHAP or None), operational stage, full feature phase.

use super::{LoginFailure, LoginPdu, MAX_EXCHANGES, check_data_len, take_chap};
use crate::chap::{Challenge, ChapInitiator, ChapKeys, Credentials};
use crate::negotiate::{Key, LOGIN_DATA_SEGMENT_LEN, LoginParams, Negotiation, Role, SessionParams};
use crate::pdu::{Header, LoginOutcome, LoginRequest, LoginResponse, Stage};
use crate::sendtargets::TargetAddress;
use crate::serial::Sn;
use crate::text::{Pairs, TextCollector, TextSplitter, TextWriter, number};

/// CHAP as the initiator is configured.
#[derive(Clone, Debug)]
pub struct ChapConfig {
    /// What the initiator proves itself with.
    pub own: Credentials,
    /// What the target has to prove itself with, and the challenge for it: fresh random bytes.
    pub mutual: Option<(Credentials, Challenge)>,
}

/// What one login needs to know.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// Own name.
    pub initiator_name: String,
    /// Own alias.
    pub initiator_alias: Option<String>,
    /// Target to log in to; `None` opens a discovery session.
    pub target_name: Option<String>,
    /// Initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// Connection identifier.
    pub cid: u16,
    /// CmdSN of all requests, and of the first command after them.
    pub cmd_sn: Sn,
    /// CHAP; without it only None is offered. With it only CHAP, one-way too: a target, or who stands in for
    /// it, that wants no proof is not the one that was meant. (open-iscsi offers `CHAP,None` then, ISCSID
    /// 3.1, and takes None silently.)
    pub chap: Option<ChapConfig>,
    /// What to negotiate.
    pub params: LoginParams,
}

/// A successful login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginDone {
    /// What was agreed.
    pub params: SessionParams,
    /// Target session identifying handle.
    pub tsih: u16,
    /// TargetPortalGroupTag, if the target sent it.
    pub portal_group_tag: Option<u16>,
    /// TargetAlias, if the target sent it.
    pub target_alias: Option<String>,
    /// ExpStatSN of the first PDU in the full feature phase.
    pub exp_stat_sn: Sn,
    /// The target's ExpCmdSN.
    pub exp_cmd_sn: Sn,
    /// The target's MaxCmdSN.
    pub max_cmd_sn: Sn,
}

/// What to do after a Login Response.
#[derive(Clone, Debug)]
pub enum InitiatorStep {
    /// Send this and wait for the response.
    Send(LoginPdu<LoginRequest>),
    /// Logged in: digests and data segment lengths hold from the next PDU on.
    Done(Box<LoginDone>),
    /// Close the connection and log in at this address, with the same ISID and target name.
    Redirect {
        /// Where to; it has no portal group tag.
        address: TargetAddress,
        /// Whether to remember the address.
        permanent: bool,
    },
    /// Close the connection. [`LoginFailure::outcome`] says whether trying again makes sense.
    Failed(LoginFailure),
}

/// One login of an initiator. It ends with any step but [`InitiatorStep::Send`]; drop it then.
#[derive(Debug)]
pub struct InitiatorLogin {
    config: InitiatorConfig,
    stage: Stage,
    /// The transition that the last request asked for.
    asked: Option<Stage>,
    chap: Option<ChapInitiator>,
    /// The target has chosen the AuthMethod.
    method_chosen: bool,
    negotiation: Negotiation,
    incoming: TextCollector,
    outgoing: TextSplitter,
    exp_stat_sn: Option<Sn>,
    portal_group_tag: Option<u16>,
    target_alias: Option<String>,
    exchanges: u32,
}

impl InitiatorLogin {
    /// Begins a login; the request is the first one to send.
    ///
    /// # Errors
    /// [`LoginFailure::Text`] when a name or alias does not fit the text limits.
    pub fn start(config: InitiatorConfig) -> Result<(InitiatorLogin, LoginPdu<LoginRequest>), LoginFailure> {
        let mut out = TextWriter::new();
        out.push("InitiatorName", &config.initiator_name)?;
        if let Some(alias) = &config.initiator_alias {
            out.push("InitiatorAlias", alias)?;
        }
        match &config.target_name {
            Some(target) => {
                out.push("TargetName", target)?;
                out.push("SessionType", "Normal")?;
            }
            None => out.push("SessionType", "Discovery")?,
        }
        let methods = if config.chap.is_some() { "CHAP" } else { "None" };
        out.push("AuthMethod", methods)?;
        // Only CHAP is on offer: more rounds are certain, so there is nothing to transit to yet.
        let asked = if methods == "CHAP" { None } else { Some(Stage::Operational) };
        let discovery = config.target_name.is_none();
        let mut login = InitiatorLogin {
            negotiation: Negotiation::new(Role::Initiator, config.params.clone(), discovery),
            chap: config.chap.clone().map(|chap| ChapInitiator::new(chap.own, chap.mutual)),
            config,
            stage: Stage::Security,
            asked,
            method_chosen: false,
            incoming: TextCollector::new(),
            outgoing: TextSplitter::new(out.into_bytes()),
            exp_stat_sn: None,
            portal_group_tag: None,
            target_alias: None,
            exchanges: 0,
        };
        let request = login.request();
        Ok((login, request))
    }

    /// Takes the response to the last request.
    pub fn receive(&mut self, header: &LoginResponse, data: &[u8]) -> InitiatorStep {
        self.step(header, data).unwrap_or_else(InitiatorStep::Failed)
    }

    fn step(&mut self, header: &LoginResponse, data: &[u8]) -> Result<InitiatorStep, LoginFailure> {
        header.view::<LoginResponse>()?;
        check_data_len(data)?;
        match header.status().outcome() {
            LoginOutcome::Success => {}
            LoginOutcome::Redirect => return redirect(header, data),
            _ => return Err(LoginFailure::Refused(header.status())),
        }
        let next = self.check_header(header)?;
        if self.exchanges == MAX_EXCHANGES {
            return Err(LoginFailure::TooManyExchanges);
        }
        let more = header.flags & crate::pdu::flags::CONTINUE != 0;
        let Some(text) = self.incoming.push(data, more)? else {
            // RFC 7143 6.2: text that continues is acknowledged by an empty PDU.
            self.asked = None;
            return Ok(InitiatorStep::Send(self.request()));
        };
        if self.outgoing.has_more() {
            return if text.is_empty() && next.is_none() {
                Ok(InitiatorStep::Send(self.request()))
            } else {
                Err(LoginFailure::Protocol("answer to text that is not complete"))
            };
        }
        let mut out = TextWriter::new();
        self.read_text(&text, &mut out)?;
        if let Some(next) = next {
            self.leave_security()?;
            if next == Stage::FullFeature {
                return self.finish(header, &out);
            }
            self.stage = next;
        }
        self.plan(&mut out)?;
        self.outgoing = TextSplitter::new(out.into_bytes());
        Ok(InitiatorStep::Send(self.request()))
    }

    /// Numbers, identifiers and stages of a successful response; returns the stage to move to.
    fn check_header(&mut self, header: &LoginResponse) -> Result<Option<Stage>, LoginFailure> {
        let stat_sn = Sn::from(header.stat_sn);
        if self.exp_stat_sn.is_some_and(|expected| expected != stat_sn) {
            return Err(LoginFailure::Protocol("StatSN out of sequence"));
        }
        self.exp_stat_sn = Some(stat_sn.next());
        if header.version_active != 0 {
            return Err(LoginFailure::Protocol("unknown protocol version"));
        }
        if header.isid != self.config.isid {
            return Err(LoginFailure::Protocol("response for another ISID"));
        }
        match header.stages() {
            Some((stage, None)) if stage == self.stage => Ok(None),
            Some((stage, Some(next))) if stage == self.stage => {
                let asked = self.asked.is_some_and(|asked| next.code() <= asked.code());
                if asked {
                    Ok(Some(next))
                } else {
                    Err(LoginFailure::Protocol("stage change that was not asked for"))
                }
            }
            _ => Err(LoginFailure::Protocol("response in another stage")),
        }
    }

    fn read_text(&mut self, text: &[u8], out: &mut TextWriter) -> Result<(), LoginFailure> {
        let mut keys = ChapKeys::default();
        let mut method = None;
        for pair in Pairs::new(text) {
            let (name, value) = pair?;
            let Some(key) = Key::lookup(name) else {
                self.negotiation.receive(self.stage, name, value, out)?;
                continue;
            };
            match key {
                Key::AuthMethod => method = Some(value),
                Key::TargetPortalGroupTag => {
                    let tag = number(value).and_then(|tag| u16::try_from(tag).ok());
                    self.portal_group_tag =
                        Some(tag.ok_or(LoginFailure::Protocol("malformed portal group tag"))?);
                }
                Key::TargetAlias => self.target_alias = Some(value.into()),
                _ if take_chap(&mut keys, key, value) => {}
                _ => {
                    self.negotiation.receive(self.stage, name, value, out)?;
                    continue;
                }
            }
            self.negotiation.note(self.stage, key)?;
        }
        if let Some(method) = method {
            self.choose(method, out)?;
        }
        if !keys.is_empty() {
            let chap = self.chap.as_mut().filter(|_| self.method_chosen && self.stage == Stage::Security);
            chap.ok_or(LoginFailure::Protocol("unexpected CHAP keys"))?.receive(&keys, out)?;
        }
        Ok(())
    }

    /// The target's choice among the offered AuthMethods.
    fn choose(&mut self, method: &str, out: &mut TextWriter) -> Result<(), LoginFailure> {
        match (method, &mut self.chap) {
            ("CHAP", Some(chap)) if self.stage == Stage::Security => chap.start(out)?,
            ("None", None) => {}
            _ => return Err(LoginFailure::AuthMethod),
        }
        self.method_chosen = true;
        Ok(())
    }

    /// Whether the security stage may be left: nothing to prove, or all of it proven. A target that says
    /// nothing about AuthMethod has chosen None.
    fn leave_security(&mut self) -> Result<(), LoginFailure> {
        if self.stage != Stage::Security {
            return Ok(());
        }
        if !self.method_chosen {
            self.choose("None", &mut TextWriter::new())?;
        }
        match &self.chap {
            Some(chap) if !chap.is_done() => Err(LoginFailure::Chap(crate::chap::ChapError::Missing)),
            _ => Ok(()),
        }
    }

    /// What the next request adds and asks for.
    fn plan(&mut self, out: &mut TextWriter) -> Result<(), LoginFailure> {
        self.asked = match self.stage {
            Stage::Security => {
                let proven = self.chap.as_ref().is_none_or(ChapInitiator::has_responded);
                proven.then_some(Stage::Operational)
            }
            _ => {
                self.negotiation.offer(out)?;
                Some(Stage::FullFeature)
            }
        };
        Ok(())
    }

    fn request(&mut self) -> LoginPdu<LoginRequest> {
        self.exchanges += 1;
        let (piece, more) = self.outgoing.next_piece(LOGIN_DATA_SEGMENT_LEN as usize);
        let mut header = LoginRequest::new();
        header.set_stages(self.stage, self.asked.filter(|_| !more), more);
        header.data_segment_length.set(piece.len() as u32);
        header.isid = self.config.isid;
        header.cid.set(self.config.cid);
        header.cmd_sn = self.config.cmd_sn.into();
        header.exp_stat_sn = self.exp_stat_sn.unwrap_or_default().into();
        LoginPdu { header, data: piece.to_vec() }
    }

    fn finish(&self, header: &LoginResponse, out: &TextWriter) -> Result<InitiatorStep, LoginFailure> {
        // What is still in `out` can no longer be sent. For unknown keys that is no loss; a proposal would be
        // left open.
        for pair in Pairs::new(out.as_bytes()) {
            if pair?.1 != "NotUnderstood" {
                return Err(LoginFailure::Protocol("proposal in the final response"));
            }
        }
        let tsih = header.tsih.get();
        if tsih == 0 {
            return Err(LoginFailure::Protocol("final response without TSIH"));
        }
        Ok(InitiatorStep::Done(Box::new(LoginDone {
            params: self.negotiation.finish()?,
            tsih,
            portal_group_tag: self.portal_group_tag,
            target_alias: self.target_alias.clone(),
            exp_stat_sn: Sn::from(header.stat_sn).next(),
            exp_cmd_sn: header.exp_cmd_sn.into(),
            max_cmd_sn: header.max_cmd_sn.into(),
        })))
    }
}

fn redirect(header: &LoginResponse, data: &[u8]) -> Result<InitiatorStep, LoginFailure> {
    for pair in Pairs::new(data) {
        let (name, value) = pair?;
        if name == Key::TargetAddress.name() {
            let address =
                TargetAddress::parse(value).ok_or(LoginFailure::Protocol("malformed TargetAddress"))?;
            return Ok(InitiatorStep::Redirect { address, permanent: header.status_detail == 2 });
        }
    }
    Err(LoginFailure::Missing(Key::TargetAddress))
}
