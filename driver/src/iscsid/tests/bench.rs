//! The adapter that the tests script, and the loop that runs it with iscsid.

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use bus::actor::{Actor, ActorId, Budget, Cx};
use bus::port::{PortRx, PortTx, port};
use bus::streams::Streams;
use bus::time::Instant;
use bus::trace::Trace;
use bus::wake::WakeSet;
use iscsi::chap::{Challenge, Secret};
use iscsi::login::{Admission, Identity, LoginPolicy, TargetConfig, TargetLogin, TargetStep};
use iscsi::negotiate::{DigestOffer, LoginParams};
use iscsi::pdu::{
    AsyncMessage, Bhs, Header, LoginStatus, LogoutResponse, Pdu, RESERVED_TAG, Reject, RejectReason,
    TextResponse, flags,
};
use iscsi::sendtargets::{TargetAddress, TargetRecord, write_target};
use iscsi::serial::Sn;
use iscsi::text::TextWriter;

use crate::control::{
    ConnFailure, ConnParams, EpError, EpHandle, FromAdapter, Refused, SessionId, SessionParams, StopFlag,
    ToAdapter,
};
use crate::error::Cause;
use crate::iscsid::*;

pub(super) const TARGET: &str = "iqn.2001-04.com.example:disk1";

pub(super) fn portal(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 3260 + n - 1))
}

pub(super) fn record() -> NodeRecord {
    NodeRecord::new(TARGET, portal(1))
}

/// Where a second fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    AfterConnect,
    AfterBind,
    AfterFirstPdu,
    AtStart,
    StartFails,
    /// The target sends this asynchronous event, with this Time2Wait, right after the login.
    EventAtStart(u8, u16),
}

/// How the targets behave.
pub(super) struct Target {
    pub(super) admission: Admission,
    pub(super) at_first_portal: Option<Admission>,
    /// Refused with these, first one first, before anything else.
    pub(super) refusals: Vec<LoginStatus>,
    pub(super) mute: bool,
    /// So many logins are answered with nonsense.
    pub(super) garbage: u32,
    /// Logins are answered by a Reject.
    pub(super) reject: Option<RejectReason>,
    pub(super) logout_time2wait: u16,
    pub(super) text_piece: usize,
    pub(super) endless_text: bool,
}

impl LoginPolicy for Target {
    fn admit(&mut self, _: &Identity) -> Admission {
        if self.refusals.is_empty() {
            self.admission.clone()
        } else {
            Admission::Refuse(self.refusals.remove(0))
        }
    }

    fn secret(&mut self, _: &Identity, name: &str) -> Option<Secret> {
        (name == "user").then(|| Secret::new("secret-of-user"))
    }

    fn place(&mut self, _: &Identity) -> Result<u16, LoginStatus> {
        Ok(1)
    }
}

pub(super) struct Endpoint {
    login: Option<TargetLogin>,
    session: Option<SessionId>,
    portal: SocketAddr,
    text: Vec<u8>,
}

type ConnectRule = Box<dyn Fn(SocketAddr, u64) -> Result<(), EpError>>;

pub(super) struct FakeAdapter {
    rx: PortRx<ToAdapter>,
    tx: PortTx<FromAdapter>,
    outbox: VecDeque<FromAdapter>,
    pub(super) paused: bool,
    pub(super) target: Target,
    pub(super) connect: ConnectRule,
    pub(super) fault: Option<Fault>,
    pub(super) swallow_connects: u32,
    pub(super) swallow_stops: u32,
    pub(super) swallow_creates: bool,
    pub(super) swallow_synced: u32,
    /// So many CreateSession are refused: the adapter is going down.
    pub(super) refuse_creates: u32,
    swallowed: Vec<(u64, SocketAddr)>,
    /// Session and its tag, and whether it is logged in.
    pub(super) sessions: BTreeMap<SessionId, (u64, bool)>,
    pub(super) endpoints: BTreeMap<EpHandle, Endpoint>,
    pub(super) connects: Vec<(u64, SocketAddr)>,
    pub(super) disconnected: Vec<EpHandle>,
    pub(super) params: Vec<SessionParams>,
    pub(super) started: Vec<ConnParams>,
    pub(super) isids: Vec<[u8; 6]>,
    pub(super) logouts: u32,
    /// The data of all Login Requests.
    pub(super) login_text: Vec<u8>,
    next: u32,
}

impl FakeAdapter {
    fn new(rx: PortRx<ToAdapter>, tx: PortTx<FromAdapter>) -> Self {
        Self {
            rx,
            tx,
            outbox: VecDeque::new(),
            paused: false,
            target: Target {
                admission: Admission::Open,
                at_first_portal: None,
                refusals: Vec::new(),
                mute: false,
                garbage: 0,
                reject: None,
                logout_time2wait: 0,
                text_piece: 8192,
                endless_text: false,
            },
            connect: Box::new(|_, _| Ok(())),
            fault: None,
            swallow_connects: 0,
            swallow_stops: 0,
            swallow_creates: false,
            swallow_synced: 0,
            refuse_creates: 0,
            swallowed: Vec::new(),
            sessions: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            connects: Vec::new(),
            disconnected: Vec::new(),
            params: Vec::new(),
            started: Vec::new(),
            isids: Vec::new(),
            logouts: 0,
            login_text: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn say(&mut self, message: FromAdapter) {
        self.outbox.push_back(message);
    }

    /// Says Resync although the adapter is paused.
    pub(super) fn resync_now(&mut self) {
        assert!(self.tx.send(FromAdapter::Resync).is_ok());
    }

    pub(super) fn up(&mut self, age: u32) {
        self.say(FromAdapter::AdapterUp { age });
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn endpoint_of(&self, session: SessionId) -> Option<EpHandle> {
        self.endpoints.iter().find(|(_, e)| e.session == Some(session)).map(|(&ep, _)| ep)
    }

    /// The connection of an endpoint breaks.
    fn fail(&mut self, ep: EpHandle, error: ConnFailure) {
        self.fail_for(ep, Cause::Lost(error));
    }

    fn fail_for(&mut self, ep: EpHandle, cause: Cause) {
        if let Some(e) = self.endpoints.remove(&ep) {
            if let Some(s) = e.session.and_then(|s| self.sessions.get_mut(&s)) {
                s.1 = false;
            }
            self.say(FromAdapter::ConnError { session: e.session, ep, cause });
        }
    }

    pub(super) fn lose_silently(&mut self) {
        self.endpoints.clear();
        self.sessions.values_mut().for_each(|s| s.1 = false);
    }

    pub(super) fn forget_sessions(&mut self) {
        self.endpoints.clear();
        self.sessions.clear();
    }

    pub(super) fn answer_swallowed(&mut self) {
        for (tag, portal) in core::mem::take(&mut self.swallowed) {
            self.made(tag, portal);
        }
    }

    /// An asynchronous message on the only endpoint.
    pub(super) fn event(&mut self, event: u8, time2wait: u16) {
        let ep = *self.endpoints.keys().next().unwrap();
        let mut pdu = AsyncMessage::new();
        pdu.event = event;
        pdu.parameter2.set(time2wait);
        self.say(FromAdapter::RecvPdu { ep, bhs: *pdu.wire(), data: Vec::new() });
    }

    fn made(&mut self, tag: u64, portal: SocketAddr) {
        let ep = EpHandle { cid: (self.endpoints.len() % 128) as u16, generation: self.number() };
        let e = Endpoint { login: None, session: None, portal, text: Vec::new() };
        self.endpoints.insert(ep, e);
        self.say(FromAdapter::EpConnected { tag, result: Ok(ep) });
        if self.fault.take_if(|f| *f == Fault::AfterConnect).is_some() {
            self.fail(ep, ConnFailure::ConnFailed);
        }
    }

    fn handle(&mut self, message: ToAdapter, now: u64) {
        match message {
            ToAdapter::Hello { serial } => {
                self.outbox.clear();
                let logged_in = |s: Option<SessionId>| s.is_some_and(|s| self.sessions[&s].1);
                self.endpoints.retain(|_, e| logged_in(e.session));
                self.up(0);
                for (session, (tag, logged_in)) in self.sessions.clone() {
                    self.say(FromAdapter::Session { session, tag, logged_in });
                }
                if self.swallow_synced > 0 {
                    self.swallow_synced -= 1;
                } else {
                    self.say(FromAdapter::Synced { serial });
                }
            }
            ToAdapter::CreateSession { tag, params } => {
                if self.swallow_creates {
                    return;
                }
                if self.refuse_creates > 0 {
                    self.refuse_creates -= 1;
                    return self.say(FromAdapter::SessionCreated { tag, result: Err(Refused::NotReady) });
                }
                self.params.push(*params);
                let generation = self.number();
                let session = SessionId { index: (generation % 128) as u16, generation };
                self.sessions.insert(session, (tag, false));
                self.say(FromAdapter::SessionCreated { tag, result: Ok(session) });
            }
            ToAdapter::DestroySession { session } => {
                if self.sessions.remove(&session).is_some() {
                    self.endpoints.retain(|_, e| e.session != Some(session));
                    self.say(FromAdapter::SessionDestroyed { session });
                }
            }
            ToAdapter::EpConnect { tag, portal } => {
                self.connects.push((now, portal));
                if self.swallow_connects > 0 {
                    self.swallow_connects -= 1;
                    self.swallowed.push((tag, portal));
                    return;
                }
                match (self.connect)(portal, now) {
                    Ok(()) => self.made(tag, portal),
                    Err(why) => self.say(FromAdapter::EpConnected { tag, result: Err(why) }),
                }
            }
            ToAdapter::EpDisconnect { ep } => {
                self.disconnected.push(ep);
                self.endpoints.remove(&ep);
            }
            ToAdapter::Bind { session, ep } => {
                let fits = self.sessions.contains_key(&session) && self.endpoint_of(session).is_none();
                let result = match self.endpoints.get_mut(&ep) {
                    Some(e) if fits => {
                        e.session = Some(session);
                        Ok(())
                    }
                    Some(_) => Err(Refused::WrongState),
                    None => Err(Refused::Stale),
                };
                self.say(FromAdapter::Bound { session, ep, result });
                if self.fault.take_if(|f| *f == Fault::AfterBind).is_some() {
                    self.fail(ep, ConnFailure::ConnFailed);
                }
            }
            ToAdapter::SendPdu { ep, bhs, data } => self.pdu(ep, &bhs, &data),
            ToAdapter::StartConn { session, params } => {
                let Some(ep) = self.endpoint_of(session) else { return };
                if self.fault.take_if(|f| *f == Fault::AtStart).is_some() {
                    return self.fail(ep, ConnFailure::ConnFailed);
                }
                if self.fault.take_if(|f| *f == Fault::StartFails).is_some() {
                    return self.say(FromAdapter::Started { session, result: Err(ConnFailure::ConnFailed) });
                }
                if let Some(Fault::EventAtStart(event, time2wait)) = self.fault {
                    self.fault = None;
                    self.event(event, time2wait);
                }
                self.started.push(params);
                self.sessions.get_mut(&session).unwrap().1 = true;
                self.say(FromAdapter::Started { session, result: Ok(()) });
            }
            ToAdapter::StopConn { session, flag } => {
                assert_eq!(flag, StopFlag::Recover);
                self.endpoints.retain(|_, e| e.session != Some(session));
                if let Some(s) = self.sessions.get_mut(&session) {
                    s.1 = false;
                }
                if self.swallow_stops > 0 {
                    self.swallow_stops -= 1;
                } else {
                    self.say(FromAdapter::Stopped { session });
                }
            }
        }
    }

    fn pdu(&mut self, ep: EpHandle, bhs: &[u8; 48], data: &[u8]) {
        if self.fault.take_if(|f| *f == Fault::AfterFirstPdu).is_some() {
            return self.fail(ep, ConnFailure::ConnFailed);
        }
        // Requests for endpoints of the past are dropped.
        if self.target.mute || !self.endpoints.contains_key(&ep) {
            return;
        }
        let bhs = Bhs::from_bytes(bhs);
        match bhs.pdu().unwrap() {
            Pdu::LoginRequest(request) => {
                if !self.isids.contains(&request.isid) || self.endpoints[&ep].login.is_none() {
                    self.isids.push(request.isid);
                }
                self.login(ep, bhs, data);
            }
            Pdu::TextRequest(request) => {
                if request.ttt.get() == RESERVED_TAG {
                    assert_eq!(data, b"SendTargets=All\0");
                    let answer = send_targets();
                    self.endpoints.get_mut(&ep).unwrap().text = answer;
                }
                let piece = self.target.text_piece;
                let text = &mut self.endpoints.get_mut(&ep).unwrap().text;
                let piece: Vec<u8> = text.drain(..piece.min(text.len())).collect();
                let mut pdu = TextResponse::new();
                pdu.itt = request.itt;
                if !text.is_empty() || self.target.endless_text {
                    pdu.flags = 0;
                    pdu.ttt.set(5);
                }
                assert!(pdu.flags & flags::CONTINUE == 0);
                self.say(FromAdapter::RecvPdu { ep, bhs: *pdu.wire(), data: piece });
            }
            Pdu::LogoutRequest(request) => {
                self.logouts += 1;
                let mut pdu = LogoutResponse::new();
                pdu.itt = request.itt;
                pdu.time2wait.set(self.target.logout_time2wait);
                self.say(FromAdapter::RecvPdu { ep, bhs: *pdu.wire(), data: Vec::new() });
                // The target closes the connection.
                self.fail(ep, ConnFailure::ConnFailed);
            }
            other => panic!("{other:?}"),
        }
    }

    fn login(&mut self, ep: EpHandle, bhs: &Bhs, data: &[u8]) {
        self.login_text.extend_from_slice(data);
        if self.target.garbage > 0 {
            self.target.garbage -= 1;
            return self.say(FromAdapter::RecvPdu { ep, bhs: [0x23; 48], data: vec![0xFF; 100] });
        }
        if let Some(reason) = self.target.reject {
            let mut pdu = Reject::new();
            pdu.reason = reason.code();
            return self.say(FromAdapter::RecvPdu { ep, bhs: *pdu.wire(), data: bhs.wire().to_vec() });
        }
        let endpoint = self.endpoints.get_mut(&ep).unwrap();
        let elsewhere = self.target.at_first_portal.clone().filter(|_| endpoint.portal == portal(1));
        let login = endpoint.login.get_or_insert_with(|| {
            TargetLogin::new(TargetConfig {
                params: LoginParams {
                    max_burst_length: 262_144,
                    first_burst_length: 65_536,
                    max_recv_data_segment_length: 131_072,
                    data_digest: DigestOffer::NoneOrCrc32c,
                    ..LoginParams::default()
                },
                portal_group_tag: 1,
                first_stat_sn: Sn(100),
                command_window: 32,
                challenge: Challenge::new(1, vec![7; 16]).unwrap(),
            })
        });
        let usual = self.target.admission.clone();
        if let Some(elsewhere) = elsewhere {
            self.target.admission = elsewhere;
        }
        let step = login.receive(&mut self.target, bhs, data);
        self.target.admission = usual;
        let (pdu, close) = match step {
            TargetStep::Send(pdu) | TargetStep::Done(pdu, _) => (pdu, false),
            TargetStep::Refused(pdu, _) => (pdu, true),
        };
        self.say(FromAdapter::RecvPdu { ep, bhs: *pdu.header.wire(), data: pdu.data });
        if close {
            self.fail(ep, ConnFailure::ConnFailed);
        }
    }

    /// Tells whether anything was done.
    fn step(&mut self, now: u64) -> bool {
        let mut worked = false;
        while !self.paused {
            while let Some(message) = self.outbox.pop_front() {
                match self.tx.send(message) {
                    Ok(()) => worked = true,
                    Err(full) => {
                        self.outbox.push_front(full.message);
                        return worked;
                    }
                }
            }
            let Some(message) = self.rx.recv() else { break };
            worked = true;
            self.handle(message, now);
        }
        worked
    }
}

fn send_targets() -> Vec<u8> {
    let mut out = TextWriter::new();
    let address = TargetAddress::parse("192.0.2.1:3260,1").unwrap();
    write_target(&mut out, TARGET, &[address]).unwrap();
    write_target(&mut out, "iqn.2001-04.com.example:other", &[]).unwrap();
    out.into_bytes()
}

#[derive(Default)]
struct Counting(u8);

impl Streams for Counting {
    fn fill(&mut self, _: &'static str, out: &mut [u8]) {
        for b in out {
            self.0 = self.0.wrapping_add(41);
            *b = self.0;
        }
    }
}

pub(super) struct Bench {
    iscsid: Option<Iscsid>,
    pub(super) records: Records,
    pub(super) adapter: FakeAdapter,
    requests: PortTx<IscsidRequest>,
    reply_rx: PortRx<IscsidReply>,
    pub(super) replies: Vec<IscsidReply>,
    pub(super) pause_replies: bool,
    now: u64,
    next: Option<Instant>,
    rng: Counting,
    trace: Trace,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_ports(64)
    }

    pub(super) fn with_ports(capacity: usize) -> Self {
        let wakes = WakeSet::default();
        let (to_adapter, from_iscsid) = port("to-adapter", capacity, wakes.register());
        let (to_iscsid, from_adapter) = port("from-adapter", capacity, wakes.register());
        let (requests, from_user) = port("requests", 4096, wakes.register());
        let (to_user, reply_rx) = port("replies", capacity, wakes.register());
        let records = Records::default();
        let ports = IscsidPorts {
            control_out: to_adapter,
            control_in: from_adapter,
            requests: from_user,
            replies: to_user,
        };
        let iscsid = daemon(ports, &records);
        Self {
            iscsid: Some(iscsid),
            records,
            adapter: FakeAdapter::new(from_iscsid, to_iscsid),
            requests,
            reply_rx,
            replies: Vec::new(),
            pause_replies: false,
            now: 0,
            next: None,
            rng: Counting::default(),
            trace: Trace::off(),
        }
    }

    pub(super) fn iscsid(&self) -> &Iscsid {
        self.iscsid.as_ref().unwrap()
    }

    pub(super) fn now_s(&self) -> u64 {
        self.now / 1_000_000_000
    }

    pub(super) fn stage(&self) -> Option<SessionStage> {
        self.iscsid().sessions().next().map(|s| s.stage)
    }

    /// The portals connected to, by their numbers.
    pub(super) fn portals(&self) -> Vec<u16> {
        self.adapter.connects.iter().map(|c| c.1.port() - 3259).collect()
    }

    pub(super) fn send(&mut self, request: IscsidRequest) {
        self.requests.send(request).unwrap();
    }

    pub(super) fn lose(&mut self, error: ConnFailure) {
        self.lose_for(Cause::Lost(error));
    }

    pub(super) fn lose_for(&mut self, cause: Cause) {
        let ep = *self.adapter.endpoints.keys().next().unwrap();
        self.adapter.fail_for(ep, cause);
    }

    /// Kills iscsid with its inbox and starts another.
    pub(super) fn restart(&mut self) {
        let ports = self.iscsid.take().unwrap().into_ports();
        ports.control_in.kill();
        ports.requests.kill();
        ports.control_in.revive();
        ports.requests.revive();
        self.iscsid = Some(daemon(ports, &self.records));
    }

    /// Runs at the current time until nobody has anything to do.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let done = self.step_iscsid();
            let mut worked = self.adapter.step(self.now) || done > 0;
            while !self.pause_replies
                && let Some(reply) = self.reply_rx.recv()
            {
                self.replies.push(reply);
                worked = true;
            }
            if !worked {
                return;
            }
        }
        panic!("does not settle");
    }

    /// iscsid makes so many steps and is stopped then; the adapter goes on for `time`.
    pub(super) fn sleep_after_steps(&mut self, steps: u32, time: u64) {
        for _ in 0..steps {
            self.adapter.step(self.now);
            self.step_iscsid();
        }
        self.adapter.step(self.now);
        self.now += time;
    }

    fn step_iscsid(&mut self) -> u32 {
        let mut iscsid = self.iscsid.take().unwrap();
        let mut cx = Cx {
            now: Instant::from_nanos(self.now),
            actor: iscsid.name(),
            rng: &mut self.rng,
            trace: &mut self.trace,
        };
        let progress = iscsid.step(&mut cx, Budget(16));
        self.iscsid = Some(iscsid);
        self.next = progress.next;
        progress.done
    }

    pub(super) fn advance_to(&mut self, end: u64) {
        loop {
            self.settle();
            match self.next {
                Some(at) if at.as_nanos() <= end => {
                    assert!(at.as_nanos() > self.now, "a deadline in the past is no progress");
                    self.now = at.as_nanos();
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Runs until nothing is waited for but Hello's answers, at most an hour.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            self.settle();
            let busy = self.iscsid().sessions().any(|s| s.stage != SessionStage::LoggedIn);
            let sync = self.iscsid().sync_pending() && self.iscsid().sessions().next().is_some();
            match self.next {
                Some(at) if busy || sync || !self.adapter.outbox.is_empty() => {
                    self.now = at.as_nanos().max(self.now)
                }
                _ => return,
            }
            assert!(self.now < 3_600_000_000_000, "an hour has passed");
        }
        panic!("does not end");
    }

    fn reply(&mut self, request: IscsidRequest) -> IscsidReply {
        self.replies.clear();
        self.send(request);
        self.run();
        assert_eq!(self.replies.len(), 1);
        self.replies.remove(0)
    }

    fn login(&mut self, record: NodeRecord) -> Result<SessionEntry, MgmtError> {
        match self.reply(IscsidRequest::Login { id: 1, record: Box::new(record), multiple: false }) {
            IscsidReply::LoggedIn { id: 1, result } => result,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn login_ok(&mut self, record: NodeRecord) -> SessionEntry {
        self.login(record).unwrap()
    }

    pub(super) fn login_err(&mut self, record: NodeRecord) -> MgmtError {
        self.login(record).unwrap_err()
    }

    pub(super) fn logout(&mut self, tag: u64) -> Result<(), MgmtError> {
        let before = self.replies.len();
        self.send(IscsidRequest::Logout { id: 3, tag });
        self.run();
        let found = self.replies[before..].iter().find_map(|r| match r {
            IscsidReply::LoggedOut { id: 3, result } => Some(result.clone()),
            _ => None,
        });
        found.expect("an answer")
    }

    pub(super) fn discover(&mut self, record: DiscoveryRecord) -> Result<Vec<TargetRecord>, MgmtError> {
        match self.reply(IscsidRequest::Discover { id: 4, record: Box::new(record) }) {
            IscsidReply::Discovered { id: 4, result } => result,
            other => panic!("{other:?}"),
        }
    }

    /// Neither side holds anything.
    pub(super) fn nothing_left(&self) {
        assert_eq!(self.iscsid().sessions().count(), 0);
        assert!(self.adapter.sessions.is_empty() && self.adapter.endpoints.is_empty());
        assert!(self.records.established().is_empty());
    }
}

fn daemon(ports: IscsidPorts, records: &Records) -> Iscsid {
    let name = ActorId::new("iscsid", 0);
    Iscsid::new(name, "iqn.2001-04.com.Example:Initiator", ports, records.clone()).unwrap()
}
