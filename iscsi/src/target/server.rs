//! The target engine: targets with their logical units, connections with their sessions. Sans-IO: the caller owns sockets and clock,
//! feeds bytes in, takes bytes out, and calls [`TargetServer::tick`] when the time that it returned has come. Nothing here blocks
//! but a file backend.
//!
//! Backpressure: Data-In is made while the unsent output of a connection is below half of [`ServerConfig::output_limit`], and PDUs are
//! consumed while it is below the limit; [`TargetServer::input`] then returns less than it was given, and the caller offers the rest
//! again when output has been taken. Memory of a connection is bounded by that limit, one PDU each way, 1 MiB of requests that wait
//! for an earlier one, and small buffers for each command of the window.

use super::attention::Attentions;
use super::config::{Auth, CloseReason, ConnId, Counters, Event, ServerConfig};
use super::disk::Disk;
use super::output::Output;
use super::policy::Policy;
use super::reservation::Nexus;
use super::session::{Journal, Link, Numbering, Ping, Session, State, TextExchange};
use super::task::Tasks;
use super::window::Window;
use crate::chap::Challenge;
use crate::framing::{Event as Part, Framer, FramingError};
use crate::login::{LoginPdu, TargetConfig, TargetDone, TargetLogin, TargetStep};
use crate::names::{NameError, normalize};
use crate::negotiate::LOGIN_DATA_SEGMENT_LEN;
use crate::pdu::{AsyncEvent, AsyncMessage, Bhs, Header, LoginResponse, NopIn};
use crate::scsi::{Lun, Sense};
use crate::sendtargets::TargetAddress;
use crate::serial::Sn;
use std::collections::VecDeque;

/// Bytes of a CHAP challenge.
const CHALLENGE_LEN: usize = 16;

/// A logical unit of a target.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) number: u16,
    pub(super) disk: Disk,
}

/// A target.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: String,
    /// By number.
    pub(super) units: Vec<Unit>,
    pub(super) auth: Auth,
    /// Nexuses that were lost without a logout; the next login of such a one is told so. The oldest are forgotten.
    lost: VecDeque<Nexus>,
}

/// Nexuses remembered as lost, per target.
const LOST_LIMIT: usize = 256;

impl Target {
    /// The index of the unit that a LUN field names.
    pub(super) fn unit_index(&self, lun: Lun) -> Option<usize> {
        let number = lun.number()?;
        self.units.binary_search_by_key(&number, |unit| unit.number).ok()
    }
}

/// Why a target cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not an iSCSI name.
    #[error("target name: {0}")]
    Name(#[from] NameError),
    /// There already.
    #[error("a target with this name is there already")]
    Exists,
    /// A LUN number beyond the flat form, or twice.
    #[error("LUN {0} is above 16383 or given twice")]
    Lun(u16),
}

/// All connections are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {0} connections are in use")]
pub struct ServerFull(pub usize);

/// What a connection is doing.
enum Phase {
    /// `None` before the first PDU.
    Login(Option<Box<TargetLogin>>),
    Full(Box<Session>),
    Ended,
}

struct Connection {
    link: Link,
    framer: Framer,
    /// The data segment of a PDU that came in pieces.
    data: Vec<u8>,
    phase: Phase,
    login_deadline_ns: u64,
    heard_ns: u64,
}

pub(super) struct Slot {
    generation: u32,
    conn: Option<Box<Connection>>,
}

impl Slot {
    /// The session of the connection here.
    pub(super) fn session(&self) -> Option<&Session> {
        match &self.conn.as_ref()?.phase {
            Phase::Full(session) => Some(session),
            _ => None,
        }
    }
}

/// What an oracle wants to know of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The nexus.
    pub nexus: Nexus,
    /// Target name; `None` for a discovery session.
    pub target: Option<String>,
    /// Session handle.
    pub tsih: u16,
    /// Next CmdSN expected.
    pub exp_cmd_sn: u32,
    /// Last CmdSN accepted.
    pub max_cmd_sn: u32,
    /// Non-immediate SCSI commands delivered; each CmdSN at most once.
    pub executed: u64,
    /// Commands that move data now.
    pub tasks: usize,
}

/// The engine.
pub struct TargetServer {
    pub(super) config: ServerConfig,
    pub(super) targets: Vec<Target>,
    slots: Vec<Slot>,
    next_tsih: u16,
    pub(super) journal: Journal,
    wake_ns: Option<u64>,
    /// Some session was ended from outside its own connection.
    pub(super) unsettled: bool,
}

impl std::fmt::Debug for TargetServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetServer").field("targets", &self.targets).finish_non_exhaustive()
    }
}

impl TargetServer {
    /// A server without targets.
    pub fn new(config: ServerConfig) -> TargetServer {
        TargetServer {
            config,
            targets: Vec::new(),
            slots: Vec::new(),
            next_tsih: 1,
            journal: Journal::default(),
            wake_ns: None,
            unsettled: false,
        }
    }

    /// Adds a target with its logical units. They belong to the target: sessions come and go.
    ///
    /// # Errors
    /// [`TargetError`]; nothing is added then.
    pub fn add_target(&mut self, name: &str, luns: Vec<(u16, Disk)>, auth: Auth) -> Result<(), TargetError> {
        let name = normalize(name)?;
        if self.targets.iter().any(|target| target.name == name) {
            return Err(TargetError::Exists);
        }
        let mut units: Vec<Unit> = luns.into_iter().map(|(number, disk)| Unit { number, disk }).collect();
        units.sort_by_key(|unit| unit.number);
        let twice = units.windows(2).find(|pair| pair[0].number == pair[1].number).map(|pair| &pair[0]);
        if let Some(bad) = twice.or(units.last().filter(|unit| unit.number >= Lun::LIMIT)) {
            return Err(TargetError::Lun(bad.number));
        }
        self.targets.push(Target { name, units, auth, lost: VecDeque::new() });
        Ok(())
    }

    /// The disk of a target, for prefilling and checking.
    pub fn disk(&mut self, target: &str, lun: u16) -> Option<&mut Disk> {
        let target = self.targets.iter_mut().find(|t| t.name == target)?;
        target.units.iter_mut().find(|unit| unit.number == lun).map(|unit| &mut unit.disk)
    }

    /// A TCP connection was accepted. `local` is the address that the initiator connected to (`host:port`), as SendTargets lists it.
    ///
    /// # Errors
    /// [`ServerFull`] at [`ServerConfig::max_connections`]: close it.
    pub fn connect(&mut self, local: &str, now_ns: u64) -> Result<ConnId, ServerFull> {
        let slot = match self.slots.iter().position(|slot| slot.conn.is_none()) {
            Some(slot) => slot,
            None if self.slots.len() < self.config.max_connections => {
                self.slots.push(Slot { generation: 0, conn: None });
                self.slots.len() - 1
            }
            None => {
                self.journal.counters.refused_connections += 1;
                return Err(ServerFull(self.config.max_connections));
            }
        };
        let entry = &mut self.slots[slot];
        entry.generation = entry.generation.wrapping_add(1);
        let id = ConnId { slot: slot as u32, generation: entry.generation };
        let local = TargetAddress::parse(local)
            .map(|address| TargetAddress { tag: Some(self.config.portal_group), ..address });
        let login_deadline_ns = now_ns.saturating_add(self.config.login_timeout_ns);
        entry.conn = Some(Box::new(Connection {
            link: Link { id, local, output: Output::default(), stat_sn: Sn(1), ping: None, next_ping: 1 },
            framer: Framer::new(LOGIN_DATA_SEGMENT_LEN),
            data: Vec::new(),
            phase: Phase::Login(None),
            login_deadline_ns,
            heard_ns: now_ns,
        }));
        self.wake_at(login_deadline_ns);
        Ok(id)
    }

    /// Bytes from the initiator. Returns how many were consumed: fewer than given only under backpressure. A connection that has
    /// ended swallows everything. `entropy` fills its argument with bytes that nobody can predict (CHAP challenges).
    pub fn input(
        &mut self,
        id: ConnId,
        now_ns: u64,
        bytes: &[u8],
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> usize {
        let Some(mut conn) = self.take(id) else { return bytes.len() };
        conn.heard_ns = now_ns;
        let consumed = self.receive(&mut conn, now_ns, bytes, entropy);
        self.put(id, conn);
        self.settle();
        consumed
    }

    /// Whether input would be consumed now.
    pub fn wants_input(&self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.link.output.len() < self.config.output_limit)
    }

    /// Bytes for the initiator.
    pub fn output(&self, id: ConnId) -> &[u8] {
        self.conn(id).map_or(&[], |conn| conn.link.output.pending())
    }

    /// The transport took `n` bytes of [`output`](Self::output). More may be there then.
    pub fn consume_output(&mut self, id: ConnId, n: usize) {
        let Some(mut conn) = self.take(id) else { return };
        conn.link.output.consume(n);
        if let Phase::Full(session) = &mut conn.phase {
            self.pump(&mut conn.link, session);
        }
        self.put(id, conn);
    }

    /// TCP is gone, whoever closed it: the connection and its session end, and the id with them.
    pub fn closed(&mut self, id: ConnId) {
        let Some(mut conn) = self.take(id) else { return };
        self.end(&mut conn, CloseReason::Lost);
        // The box is dropped here, so the slot is free.
    }

    /// Whether the caller should close TCP (and then call [`closed`](Self::closed)): the connection has ended and its output is sent.
    pub fn should_close(&self, id: ConnId) -> bool {
        self.conn(id).is_none_or(|conn| matches!(conn.phase, Phase::Ended) && conn.link.output.len() == 0)
    }

    /// The next event, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.journal.events.pop_front()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.journal.counters
    }

    /// The sessions in full feature phase.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo> + '_ {
        self.slots.iter().filter_map(Slot::session).map(|session| SessionInfo {
            nexus: session.nexus.clone(),
            target: session.target.map(|at| self.targets[at].name.clone()),
            tsih: session.tsih,
            exp_cmd_sn: session.window.exp().0,
            max_cmd_sn: session.window.max().0,
            executed: session.executed,
            tasks: session.tasks.len(),
        })
    }

    /// Asks the initiator to log out within `seconds` (Asynchronous Message 1). False when there is no session.
    pub fn request_logout(&mut self, id: ConnId, seconds: u16) -> bool {
        self.notify(id, AsyncEvent::LogoutRequested, seconds)
    }

    /// Ends a session from this side, with Asynchronous Message 3. False when there is none.
    pub fn drop_session(&mut self, id: ConnId) -> bool {
        let told = self.notify(id, AsyncEvent::SessionDropped, 0);
        if told && let Some(mut conn) = self.take(id) {
            self.end(&mut conn, CloseReason::Dropped);
            self.put(id, conn);
        }
        told
    }

    fn notify(&mut self, id: ConnId, event: AsyncEvent, seconds: u16) -> bool {
        let Some(mut conn) = self.take(id) else { return false };
        let told = if let Phase::Full(session) = &mut conn.phase {
            let mut message = AsyncMessage::new();
            message.event = event.code();
            message.parameter2.set(if event == AsyncEvent::SessionDropped {
                session.params.time2wait
            } else {
                0
            });
            message.parameter3.set(seconds);
            conn.link.send(&session.window, &mut message, &[], Numbering::Consume);
            true
        } else {
            false
        };
        self.put(id, conn);
        told
    }

    /// Does what is due: login timeouts, Data-Out that did not come, pings. Returns when to call again at the latest; calling earlier
    /// costs nothing.
    pub fn tick(&mut self, now_ns: u64) -> Option<u64> {
        if self.wake_ns.is_none_or(|wake| now_ns < wake) {
            return self.wake_ns;
        }
        self.wake_ns = None;
        for at in 0..self.slots.len() {
            let id = ConnId { slot: at as u32, generation: self.slots[at].generation };
            let Some(mut conn) = self.take(id) else { continue };
            self.tick_connection(&mut conn, now_ns);
            self.put(id, conn);
        }
        self.wake_ns
    }

    fn tick_connection(&mut self, conn: &mut Connection, now_ns: u64) {
        match &mut conn.phase {
            Phase::Ended => {}
            Phase::Login(_) if conn.login_deadline_ns <= now_ns => self.end(conn, CloseReason::LoginTimeout),
            Phase::Login(_) => self.wake_at(conn.login_deadline_ns),
            Phase::Full(session) => {
                self.expire_transfers(&mut conn.link, session, now_ns);
                if let Some(deadline) = session.transfer_deadline() {
                    self.wake_at(deadline);
                }
                let Some(interval) = self.config.ping_interval_ns else { return };
                let due = conn.heard_ns.saturating_add(interval);
                match conn.link.ping {
                    Some(ping) if ping.deadline_ns <= now_ns => self.end(conn, CloseReason::PingTimeout),
                    Some(ping) => self.wake_at(ping.deadline_ns),
                    None if due <= now_ns => {
                        let ttt = conn.link.next_ping;
                        conn.link.next_ping = ttt % 0xFFFF + 1;
                        let deadline_ns = now_ns.saturating_add(self.config.ping_timeout_ns);
                        conn.link.ping = Some(Ping { ttt, deadline_ns });
                        let mut nop = NopIn::new();
                        nop.ttt.set(ttt);
                        conn.link.send(&session.window, &mut nop, &[], Numbering::Show);
                        self.wake_at(deadline_ns);
                    }
                    None => self.wake_at(due),
                }
            }
        }
    }

    /// [`tick`](Self::tick) is wanted at this time.
    pub(super) fn wake_at(&mut self, at_ns: u64) {
        self.wake_ns = Some(self.wake_ns.map_or(at_ns, |wake| wake.min(at_ns)));
    }

    fn conn(&self, id: ConnId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        slot.conn.as_deref()
    }

    fn take(&mut self, id: ConnId) -> Option<Box<Connection>> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        slot.conn.take()
    }

    fn put(&mut self, id: ConnId, conn: Box<Connection>) {
        self.slots[id.slot as usize].conn = Some(conn);
    }

    /// Every session of a target but the one being served (whose connection is taken out).
    pub(super) fn for_sessions_of(&mut self, target: usize, mut f: impl FnMut(&mut Link, &mut Session)) {
        for conn in self.slots.iter_mut().filter_map(|slot| slot.conn.as_mut()) {
            if let Phase::Full(session) = &mut conn.phase
                && session.target == Some(target)
            {
                f(&mut conn.link, session);
            }
        }
    }

    fn receive(
        &mut self,
        conn: &mut Connection,
        now_ns: u64,
        bytes: &[u8],
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> usize {
        let mut rest = bytes;
        // The data segment when all of it lies in `bytes`: no copy then.
        let mut whole: &[u8] = &[];
        loop {
            if matches!(conn.phase, Phase::Ended) {
                return bytes.len();
            }
            if conn.framer.is_between_pdus() && conn.link.output.len() >= self.config.output_limit {
                break;
            }
            match conn.framer.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Part::Header)) => conn.data.clear(),
                Ok(Some(Part::Data { offset: 0, bytes })) if bytes.len() == conn.framer.bhs().data_len() => {
                    whole = bytes;
                }
                Ok(Some(Part::Data { bytes, .. })) => conn.data.extend_from_slice(bytes),
                Ok(Some(Part::End { data_digest_ok })) => {
                    self.journal.counters.pdus_in += 1;
                    let header = *conn.framer.bhs().wire();
                    let pieces = std::mem::take(&mut conn.data);
                    let data = if whole.is_empty() { &pieces[..] } else { whole };
                    self.pdu(conn, &header, data, data_digest_ok, now_ns, entropy);
                    conn.data = pieces;
                    whole = &[];
                }
                Err(error) => {
                    if error == FramingError::HeaderDigest {
                        self.journal.counters.header_digest_errors += 1;
                    }
                    self.end(conn, CloseReason::Framing(error));
                }
            }
        }
        conn.data.extend_from_slice(whole);
        bytes.len() - rest.len()
    }

    fn pdu(
        &mut self,
        conn: &mut Connection,
        header: &[u8; 48],
        data: &[u8],
        digest_ok: bool,
        now_ns: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) {
        match &mut conn.phase {
            Phase::Ended => {}
            Phase::Login(_) => self.login(conn, Bhs::from_bytes(header), data, now_ns, entropy),
            Phase::Full(session) => {
                self.request(&mut conn.link, session, header, data, digest_ok, now_ns);
                match session.state {
                    State::Running => self.pump(&mut conn.link, session),
                    State::Ended(reason) => self.end(conn, reason),
                }
            }
        }
    }

    fn login(
        &mut self,
        conn: &mut Connection,
        bhs: &Bhs,
        data: &[u8],
        now_ns: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) {
        let Phase::Login(login) = &mut conn.phase else { return };
        let login = login.get_or_insert_with(|| {
            let mut random = [0; 1 + CHALLENGE_LEN];
            entropy(&mut random);
            let challenge = Challenge::new(random[0], &random[1..])
                .expect("16 bytes are within the limits of a challenge");
            Box::new(TargetLogin::new(TargetConfig {
                params: self.config.login.clone(),
                portal_group_tag: self.config.portal_group,
                first_stat_sn: conn.link.stat_sn,
                command_window: self.config.window,
                challenge,
            }))
        });
        let mut policy =
            Policy { targets: &self.targets, slots: &self.slots, next_tsih: &mut self.next_tsih };
        match login.receive(&mut policy, bhs, data) {
            TargetStep::Send(pdu) => send_login(&mut conn.link, pdu),
            TargetStep::Done(pdu, done) => {
                send_login(&mut conn.link, pdu);
                self.begin_session(conn, *done, now_ns);
            }
            TargetStep::Refused(pdu, _) => {
                let status = pdu.header.status();
                send_login(&mut conn.link, pdu);
                self.journal.counters.failed_logins += 1;
                self.end(conn, CloseReason::LoginFailed(status));
            }
        }
    }

    fn begin_session(&mut self, conn: &mut Connection, done: TargetDone, now_ns: u64) {
        let target =
            done.who.target_name.as_ref().and_then(|name| self.targets.iter().position(|t| t.name == *name));
        let nexus = Nexus { initiator: done.who.initiator_name, isid: done.who.isid };
        let reinstated = self.reinstate(target, &nexus, conn.link.local.as_ref());
        let mut attentions = Vec::new();
        if let Some(target) = target {
            let target = &mut self.targets[target];
            let known = target.lost.iter().position(|lost| *lost == nexus);
            if let Some(at) = known {
                target.lost.remove(at);
            }
            let sense = if reinstated || known.is_some() { Sense::NEXUS_LOSS } else { Sense::POWER_ON };
            attentions.resize_with(target.units.len(), Attentions::default);
            attentions.iter_mut().for_each(|attention| attention.establish(sense));
        }
        conn.link.stat_sn = done.stat_sn;
        conn.link.output.header_digest = done.params.header_digest;
        conn.link.output.data_digest = done.params.data_digest;
        let configured = conn.framer.configure(
            done.params.header_digest,
            done.params.data_digest,
            done.params.max_recv_data_segment_length,
        );
        debug_assert!(configured.is_ok(), "the login request was complete");
        self.journal.counters.logins += 1;
        self.journal.emit(Event::LoggedIn {
            conn: conn.link.id,
            initiator: nexus.initiator.clone(),
            target: target.map(|at| self.targets[at].name.clone()),
            tsih: done.tsih,
        });
        if let Some(interval) = self.config.ping_interval_ns {
            self.wake_at(now_ns.saturating_add(interval));
        }
        let slots = self.config.window as usize + self.config.immediate_limit as usize;
        conn.phase = Phase::Full(Box::new(Session {
            target,
            nexus,
            tsih: done.tsih,
            cid: done.who.cid,
            params: done.params,
            window: Window::new(done.exp_cmd_sn, self.config.window),
            tasks: Tasks::new(slots),
            immediate_tasks: 0,
            sending: VecDeque::new(),
            attentions,
            text: TextExchange::default(),
            executed: 0,
            state: State::Running,
        }));
    }

    /// Session reinstatement (RFC 7143 6.3.5): an older session of the same nexus ends, with an implicit logout. Discovery sessions at
    /// different portals leave one another alone.
    fn reinstate(&mut self, target: Option<usize>, nexus: &Nexus, local: Option<&TargetAddress>) -> bool {
        let mut found = false;
        for at in 0..self.slots.len() {
            let same =
                self.slots[at].session().is_some_and(|old| old.target == target && old.nexus == *nexus)
                    && (target.is_some()
                        || self.slots[at].conn.as_ref().is_some_and(|c| c.link.local.as_ref() == local));
            if same && let Some(mut old) = self.slots[at].conn.take() {
                self.end(&mut old, CloseReason::Reinstated);
                old.link.output.discard();
                self.slots[at].conn = Some(old);
                self.journal.counters.reinstatements += 1;
                found = true;
            }
        }
        found
    }

    /// Ends a connection and its session: tasks are dropped without a response, RESERVE(6) is released.
    fn end(&mut self, conn: &mut Connection, reason: CloseReason) {
        match std::mem::replace(&mut conn.phase, Phase::Ended) {
            Phase::Ended => return,
            Phase::Login(_) => {}
            Phase::Full(mut session) => {
                self.journal.counters.aborted_tasks += u64::from(session.abort_tasks(|_| true));
                if let Some(target) = session.target {
                    let target = &mut self.targets[target];
                    for unit in &mut target.units {
                        unit.disk.reservations.release6(&session.nexus);
                    }
                    if !matches!(reason, CloseReason::Logout | CloseReason::Reinstated) {
                        if target.lost.len() >= LOST_LIMIT {
                            target.lost.pop_front();
                        }
                        target.lost.push_back(session.nexus);
                    }
                }
            }
        }
        conn.data = Vec::new();
        self.journal.emit(Event::Closed { conn: conn.link.id, reason });
    }

    /// Ends the connections whose sessions another connection's request has ended.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        for at in 0..self.slots.len() {
            let ended = self.slots[at].session().map(|session| session.state);
            if let Some(State::Ended(reason)) = ended
                && let Some(mut conn) = self.slots[at].conn.take()
            {
                self.end(&mut conn, reason);
                self.slots[at].conn = Some(conn);
            }
        }
    }
}

/// Appends a Login Response; its numbers and lengths are filled in already.
fn send_login(link: &mut Link, pdu: LoginPdu<LoginResponse>) {
    let LoginPdu { mut header, data } = pdu;
    link.output.pdu(&mut header, &data);
}
