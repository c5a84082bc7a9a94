//! The target engine: targets with their logical units, connections with their sessions. Sans-IO: the caller
//! owns sockets and clock, feeds bytes in, takes bytes out, calls [`TargetServer::tick`] when the time that
//! it returned has come, and gives turns to commands that take long ([`TargetServer::work`]) as long as there
//! are such. Nothing here blocks but a backend.
//!
//! Backpressure: Data-In is made while the unsent output of a connection is below half of
//! [`ServerConfig::output_limit`], and PDUs are consumed while it is below the limit; [`TargetServer::input`]
//! then returns less than it was given, and the caller offers the rest again when output has been taken.
//! Memory of a connection is bounded by that limit, one PDU each way, 1 MiB of requests that wait for an
//! earlier one, and small buffers for each command of the window.

use super::config::{Auth, CloseReason, ConnId, Counters, Event, ServerConfig};
use super::connection::{Connection, Phase};
use super::disk::Disk;
use super::guard::Guard;
use super::output::Output;
use super::reservation::Nexus;
use super::session::{Journal, Link, Numbering, Ping, Session};
use super::work::Allowance;
use crate::framing::Framer;
use crate::names::{NameError, normalize, same};
use crate::negotiate::LOGIN_DATA_SEGMENT_LEN;
use crate::pdu::{AsyncEvent, AsyncMessage, Header, NopIn};
use crate::scsi::Lun;
use crate::scsi::Sense;
use crate::sendtargets::TargetAddress;
use crate::serial::Sn;
use std::collections::VecDeque;
use std::net::IpAddr;

/// A logical unit of a target.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) number: u16,
    pub(super) disk: Disk,
    /// When the next failure of its storage is reported, and how many were not.
    pub(super) report_ns: u64,
    pub(super) unreported: u64,
}

/// A target.
#[derive(Debug)]
pub(super) struct Target {
    /// As it was given, and as SendTargets lists it.
    pub(super) name: String,
    /// Its normal form, by which initiators find it.
    pub(super) key: String,
    /// By number.
    pub(super) units: Vec<Unit>,
    pub(super) auth: Auth,
    /// Nexuses that were lost without a logout; the next login of such a one is told so. The oldest are
    /// forgotten.
    pub(super) lost: VecDeque<Nexus>,
}

/// Nexuses remembered as lost, per target.
pub(super) const LOST_LIMIT: usize = 256;

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

pub(super) struct Slot {
    generation: u32,
    pub(super) conn: Option<Box<Connection>>,
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
    pub(super) slots: Vec<Slot>,
    pub(super) next_tsih: u16,
    pub(super) journal: Journal,
    /// Where else the targets are served, as SendTargets lists it.
    pub(super) portals: Vec<TargetAddress>,
    wake_ns: Option<u64>,
    pub(super) guard: Guard,
    /// Connections at present.
    connections: usize,
    /// The latest time that was given.
    pub(super) now_ns: u64,
    /// Sessions with commands that want a turn, and those with commands that wait for a flush.
    pub(super) line: VecDeque<ConnId>,
    pub(super) waiting: Vec<ConnId>,
    /// Units that are being sanitized, by target and unit.
    pub(super) erasing: VecDeque<(usize, usize)>,
    /// What is left of the present turn.
    pub(super) allowance: Allowance,
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
            portals: Vec::new(),
            wake_ns: None,
            guard: Guard::default(),
            connections: 0,
            now_ns: 0,
            line: VecDeque::new(),
            waiting: Vec::new(),
            erasing: VecDeque::new(),
            allowance: Allowance::TURN,
            unsettled: false,
        }
    }

    /// Adds a target with its logical units. They belong to the target: sessions come and go.
    ///
    /// # Errors
    /// [`TargetError`]; nothing is added then.
    pub fn add_target(&mut self, name: &str, luns: Vec<(u16, Disk)>, auth: Auth) -> Result<(), TargetError> {
        let key = normalize(name)?;
        if self.targets.iter().any(|target| target.key == key) {
            return Err(TargetError::Exists);
        }
        let mut units: Vec<Unit> = luns
            .into_iter()
            .map(|(number, disk)| Unit { number, disk, report_ns: 0, unreported: 0 })
            .collect();
        units.sort_by_key(|unit| unit.number);
        let twice = units.windows(2).find(|pair| pair[0].number == pair[1].number).map(|pair| &pair[0]);
        if let Some(bad) = twice.or(units.last().filter(|unit| unit.number >= Lun::LIMIT)) {
            return Err(TargetError::Lun(bad.number));
        }
        self.targets.push(Target { name: name.into(), key, units, auth, lost: VecDeque::new() });
        Ok(())
    }

    /// Tells initiators of a portal (`host:port`) beside the one that they ask at, so that they know a second
    /// path. `false` when it is no address.
    pub fn add_portal(&mut self, portal: &str) -> bool {
        let address = TargetAddress::parse(portal);
        let tag = Some(self.config.portal_group);
        self.portals.extend(address.clone().map(|address| TargetAddress { tag, ..address }));
        address.is_some()
    }

    /// The disk of a target, for prefilling and checking.
    pub fn disk(&mut self, target: &str, lun: u16) -> Option<&mut Disk> {
        let target = self.targets.iter_mut().find(|t| same(&t.name, target))?;
        target.units.iter_mut().find(|unit| unit.number == lun).map(|unit| &mut unit.disk)
    }

    /// Puts another disk under the number of one, and tells every session so (INQUIRY DATA HAS CHANGED).
    /// Returns the old one; `None`: there is no such unit, and `disk` is dropped.
    pub fn exchange(&mut self, target: &str, lun: u16, disk: Disk) -> Option<Disk> {
        let index = self.targets.iter().position(|t| same(&t.name, target))?;
        let at = self.targets[index].units.iter().position(|unit| unit.number == lun)?;
        let old = std::mem::replace(&mut self.targets[index].units[at].disk, disk);
        self.for_sessions_of(index, |_, session| session.establish(at, Sense::INQUIRY_DATA_CHANGED));
        Some(old)
    }

    /// A TCP connection was accepted. `local` is the address that the initiator connected to (`host:port`),
    /// as SendTargets lists it.
    ///
    /// # Errors
    /// [`ServerFull`] at [`ServerConfig::max_connections`]: close it.
    pub fn connect(&mut self, local: &str, now_ns: u64) -> Result<ConnId, ServerFull> {
        self.connect_from(None, local, now_ns)
    }

    /// The same with the address of the other end, by which wrong CHAP proofs are counted. Connections
    /// without one count together.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_from(
        &mut self,
        peer: Option<IpAddr>,
        local: &str,
        now_ns: u64,
    ) -> Result<ConnId, ServerFull> {
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
            peer,
            proof: None,
            waited: false,
        }));
        self.connections += 1;
        self.wake_at(login_deadline_ns);
        Ok(id)
    }

    /// Bytes from the initiator. Returns how many were consumed: fewer than given only under backpressure. A
    /// connection that has ended swallows everything. `entropy` fills its argument with bytes that nobody can
    /// predict (CHAP challenges).
    pub fn input(
        &mut self,
        id: ConnId,
        now_ns: u64,
        bytes: &[u8],
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> usize {
        let Some(mut conn) = self.take(id) else { return bytes.len() };
        conn.heard_ns = now_ns;
        self.now_ns = self.now_ns.max(now_ns);
        self.allowance = Allowance::TURN;
        let consumed = self.receive(&mut conn, now_ns, bytes, entropy);
        self.put(id, conn);
        self.settle();
        consumed
    }

    /// What one of the present connections may hold, if nothing else limits it.
    pub(super) fn share(&self) -> usize {
        (self.config.memory_limit / self.connections.max(1)).max(64 << 10)
    }

    /// Unsent output at which a connection's input waits.
    pub(super) fn output_limit(&self) -> usize {
        self.config.output_limit.min(self.share())
    }

    /// Whether input would be consumed now.
    pub fn wants_input(&self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.link.output.len() < self.output_limit() && conn.proof.is_none())
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
        self.connections -= 1;
        // The box is dropped here, so the slot is free.
    }

    /// Whether the caller should close TCP (and then call [`closed`](Self::closed)): the connection has ended
    /// and its output is sent.
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

    /// Asks the initiator to log out within `seconds` (Asynchronous Message 1). False when there is no
    /// session.
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

    /// Does what is due: login timeouts, Data-Out that did not come, pings. Returns when to call again at the
    /// latest; calling earlier costs nothing.
    pub fn tick(&mut self, now_ns: u64) -> Option<u64> {
        self.now_ns = self.now_ns.max(now_ns);
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
            Phase::Login(_) => {
                self.wake_at(conn.login_deadline_ns);
                self.take_proof(conn, now_ns);
                if let Some(proof) = &conn.proof {
                    self.wake_at(proof.due_ns);
                }
            }
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

    pub(super) fn take(&mut self, id: ConnId) -> Option<Box<Connection>> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        slot.conn.take()
    }

    pub(super) fn put(&mut self, id: ConnId, conn: Box<Connection>) {
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
}
