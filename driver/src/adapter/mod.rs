//! The adapter: one actor with the roles l2, cnic, bnx2i and libiscsi of the 5709 class.
//!
//! It owns the card through a [`Platform`], all DMA memory, every offloaded connection and every session.
//! Users submit block requests with plain calls; iscsid and the path helper talk to it through ports and may
//! be slow, dead or restarted; an operator changes MTU and ring sizes or takes the interface down and up.
//! Going down, all connections are torn down in parallel under one deadline, then the chip is reset
//! regardless, and what the card may still touch stays in quarantine until the reset is proven (ARCHITECTURE
//! 7).
//!
//! Not modelled: netdev rings, several functions, the 57810 class.

use core::time::Duration;
use std::collections::VecDeque;

use bus::Instant;
use bus::actor::{Actor, ActorId, Budget, Cx, Progress};
use bus::mem::DmaBuf;
use bus::pci::{DmaExhausted, Epoch, Platform};
use bus::trace::EventKind;
use bus::uio::ToHelper;
use hsi::bcm5709::limits::MAX_COMPLETED_KCQE;
use hsi::kernel::kcq::Kcqe;
use iscsi::scsi::Lun;

use crate::block::{Geometry, Refusal};
use crate::bnx2i::{CidPool, Endpoint, PathGroup, Phase};
use crate::cnic::Ports;
use crate::cnic::uio::Shared;
use crate::config::{ConfigError, DriverConfig, MAX_CONNECTIONS, RingSizes, check_mtu};
use crate::control::{FromAdapter, SessionId};
use crate::l2;
use crate::libiscsi::Admit;
use crate::lun::{LunError, LunInfo};
use crate::user::{Completion, Disk, FreeError, Op, Request, SubmitError, Ticket, UserBuf};

mod buffers;
mod control;
mod endpoints;
mod helper;
mod kcq;
mod lifecycle;
mod pump;
mod reap;
mod session;
mod timers;
mod types;

use buffers::Buffers;
use helper::Helper;
use lifecycle::{Chip, Goal, Stage};
use session::SessionSlot;
use timers::{TimerKey, Timers};
pub use types::{
    AdapterCounters, AdapterPorts, AdapterState, Failure, Holdings, OperatorError, OperatorRequest,
    SessionInfo, SessionPhase,
};

/// Completed requests that users have not reaped; beyond that nothing new is accepted.
const DONE_LIMIT: usize = 1 << 16;

/// The adapter. See the module documentation.
pub struct Adapter<P: Platform> {
    platform: P,
    name: ActorId,
    config: DriverConfig,
    ports: AdapterPorts,
    state: AdapterState,
    age: u32,
    counters: AdapterCounters,
    buffers: Buffers,
    timers: Timers,

    goal: Goal,
    stage: Stage,
    /// The chip must be reset: configuration changed, or something is in quarantine.
    reset_wanted: bool,
    /// The operator asks to try again from `Failed`.
    retry: bool,
    attempts: u8,
    fail_after: Option<Failure>,
    /// When a failed adapter tries again, and the pause before that.
    again: Option<Instant>,
    again_pause: Duration,
    stop_due: Option<Instant>,
    identity: Option<l2::Identity>,
    chip: Option<Chip>,
    helper: Helper,
    /// The epoch in which the chip's memory was lent.
    lent_epoch: Epoch,
    fw_seq: u16,
    /// Ring sizes of the last ISCSI_INIT.
    rings_in_force: RingSizes,

    cids: CidPool,
    local_ports: Ports,
    /// Endpoints by cid.
    eps: Vec<Option<Box<Endpoint>>>,
    /// Endpoints whose KWQEs wait for room.
    kwq_waiters: VecDeque<u16>,
    /// Connections with completions.
    ready: VecDeque<u16>,
    kcqes: Vec<Kcqe>,

    sessions: Vec<SessionSlot>,
    /// Sessions with something to post.
    runnable: VecDeque<u16>,
    done: VecDeque<Completion>,
    next_ticket: u64,

    outbox: VecDeque<FromAdapter>,
    helper_outbox: VecDeque<ToHelper>,
    /// iscsid was too slow and has to say Hello.
    resync: bool,
}

impl<P: Platform> Adapter<P> {
    /// An adapter in state `Down`. Nothing is touched before [`OperatorRequest::InterfaceUp`].
    ///
    /// # Errors
    /// [`ConfigError`] when a value of `config` is out of range.
    pub fn new(
        name: ActorId,
        platform: P,
        config: DriverConfig,
        ports: AdapterPorts,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let connections = usize::from(MAX_CONNECTIONS);
        Ok(Self {
            lent_epoch: platform.epoch(),
            platform,
            name,
            rings_in_force: config.rings,
            config,
            ports,
            state: AdapterState::Down,
            age: 0,
            counters: AdapterCounters::default(),
            buffers: Buffers::default(),
            timers: Timers::default(),
            goal: Goal::Down,
            stage: Stage::Rest,
            reset_wanted: false,
            retry: false,
            attempts: 0,
            fail_after: None,
            again: None,
            again_pause: lifecycle::FIRST_PAUSE,
            stop_due: None,
            identity: None,
            chip: None,
            helper: Helper::default(),
            fw_seq: 0,
            cids: CidPool::new(),
            local_ports: Ports::new(),
            eps: (0..connections).map(|_| None).collect(),
            kwq_waiters: VecDeque::with_capacity(connections),
            ready: VecDeque::with_capacity(connections),
            kcqes: Vec::with_capacity(MAX_COMPLETED_KCQE),
            sessions: (0..connections).map(|_| SessionSlot::default()).collect(),
            runnable: VecDeque::with_capacity(connections),
            done: VecDeque::new(),
            next_ticket: 1,
            outbox: VecDeque::new(),
            helper_outbox: VecDeque::new(),
            resync: false,
        })
    }

    /// Asks for a change. It takes effect in following steps; [`Adapter::state`] shows the progress. A
    /// request during a reset is remembered and carried out when the reset is over, by a further reset if
    /// need be.
    ///
    /// # Errors
    /// Refused requests change nothing.
    pub fn request(&mut self, cx: &mut Cx<'_>, request: OperatorRequest) -> Result<(), OperatorError> {
        if self.goal == Goal::Gone {
            return Err(OperatorError::ShutDown);
        }
        let number = match request {
            OperatorRequest::ChangeMtu(mtu) => {
                self.config.mtu = check_mtu(mtu)?;
                self.reset_wanted = true;
                0
            }
            OperatorRequest::ChangeRings(rings) => {
                self.config.rings = rings.check()?;
                self.reset_wanted = true;
                1
            }
            OperatorRequest::Reset => {
                self.reset_wanted = true;
                2
            }
            OperatorRequest::InterfaceDown => {
                self.goal = Goal::Down;
                3
            }
            OperatorRequest::InterfaceUp => {
                self.goal = Goal::Up;
                4
            }
            OperatorRequest::Shutdown => {
                self.goal = Goal::Gone;
                5
            }
        };
        if number >= 3 {
            self.retry = matches!(self.state, AdapterState::Failed(_));
        }
        cx.event(EventKind::Operator, number, u64::from(self.age));
        self.drive(cx);
        self.flush_outboxes();
        Ok(())
    }

    /// Where the adapter is.
    #[must_use]
    pub fn state(&self) -> AdapterState {
        self.state
    }

    /// Whether the interface is wanted up, whatever state the adapter is in.
    #[must_use]
    pub fn is_wanted_up(&self) -> bool {
        self.goal == Goal::Up
    }

    /// Counts starts of the chip: the generation of everything that hangs on it.
    #[must_use]
    pub fn age(&self) -> u32 {
        self.age
    }

    /// The configuration in force (or in force after the reset that is under way).
    #[must_use]
    pub fn config(&self) -> &DriverConfig {
        &self.config
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &AdapterCounters {
        &self.counters
    }

    /// What is held right now.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let mut h = Holdings {
            cids: self.cids.taken(),
            ports: u32::from(self.local_ports.used()),
            user_buffers: self.buffers.live(),
            timers: self.timers.armed(),
            loans: self.chip.as_ref().map_or(0, Chip::loans) + self.helper.loans(),
            dma_buffers: self.chip.as_ref().map_or(0, Chip::buffers)
                + self.helper.shared.as_ref().map_or(0, |_| Shared::BUFFERS),
            ..Holdings::default()
        };
        for ep in self.endpoints() {
            h.path_groups += u32::from(ep.group != PathGroup::None);
            h.quarantined += u32::from(ep.phase == Phase::Quarantined);
            h.loans += ep.qp.loans() + ep.loans.iter().map(|l| l.len() as u32).sum::<u32>();
            h.dma_buffers += 1;
        }
        for s in self.sessions.iter().filter_map(|s| s.session.as_deref()) {
            h.sessions += 1;
            h.requests += s.queue.live() as u32;
            h.dma_buffers += u32::from(s.probe.is_some());
        }
        h
    }

    /// The platform, for audits.
    #[must_use]
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// All sessions.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo> + '_ {
        (0..self.sessions.len() as u16).filter_map(|slot| self.session_info(slot))
    }

    /// The disks of a session: what bring-up found. Empty while the session has never been ready.
    #[must_use]
    pub fn disks(&self, session: SessionId) -> &[Disk] {
        self.session_ref(session).map_or(&[], |s| &s.disks)
    }

    /// Everything that bring-up learnt about the logical units of a session, the unusable ones included.
    pub fn logical_units(&self, session: SessionId) -> &[(Lun, Result<LunInfo, LunError>)] {
        self.session_ref(session).filter(|s| s.brought_up).map_or(&[], |s| s.units.found())
    }

    /// Whether new connections, bindings and sessions are possible; while going down they fail at once (R1).
    fn ready(&self) -> bool {
        self.state == AdapterState::Up && !self.reset_wanted && self.goal == Goal::Up
    }

    fn session_ref(&self, id: SessionId) -> Option<&session::Session> {
        let slot = self.slot_of(id)?;
        self.sessions[usize::from(slot)].session.as_deref()
    }

    /// Allocates a zeroed, page-aligned buffer that the card can reach.
    ///
    /// # Errors
    /// [`DmaExhausted`] beyond the platform's limit.
    pub fn alloc(&mut self, len: usize) -> Result<UserBuf, DmaExhausted> {
        self.buffers.alloc(&mut self.platform, len)
    }

    /// Frees a buffer.
    ///
    /// # Errors
    /// [`FreeError::InUse`] while a request uses it or the card may still touch it.
    pub fn free(&mut self, buf: UserBuf) -> Result<(), FreeError> {
        let used = |s: &SessionSlot| s.session.as_deref().is_some_and(|s| s.queue.uses(buf));
        if self.buffers.get(buf).is_some() && self.sessions.iter().any(used) {
            return Err(FreeError::InUse);
        }
        self.buffers.free(&mut self.platform, buf)
    }

    /// The memory of a buffer, to fill and to read; `None` after `free`.
    #[must_use]
    pub fn buffer(&self, buf: UserBuf) -> Option<&DmaBuf> {
        self.buffers.get(buf)
    }

    /// Queues a request. It completes exactly once, through [`Adapter::reap`].
    ///
    /// # Errors
    /// See [`SubmitError`]: there is no ticket then.
    pub fn submit(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        request: &Request<'_>,
    ) -> Result<Ticket, SubmitError> {
        let slot = self.slot_of(session).ok_or(SubmitError::NoSession)?;
        if !request.data.iter().all(|e| self.buffers.holds(e)) {
            return Err(SubmitError::BadExtent);
        }
        if self.done.len() >= DONE_LIMIT {
            self.counters.refused += 1;
            return Err(SubmitError::Busy { limit: DONE_LIMIT });
        }
        let ticket = Ticket(self.next_ticket);
        let Some(s) = self.session(slot) else { return Err(SubmitError::NoSession) };
        if matches!(s.gate.admit(), Admit::FailRecoveryTimedOut | Admit::FailNoSession) {
            return Err(SubmitError::Offline);
        }
        let raw = Geometry { block_size: 512, blocks: u64::MAX, read_only: false, max_transfer: 0 };
        let geometry = match request.op {
            Op::Scsi { .. } if s.brought_up => raw,
            _ if s.brought_up => s.units.unit(request.lun).ok_or(SubmitError::NoLun)?.geometry(),
            _ => return Err(SubmitError::NoLun),
        };
        let queued = s.queue.submit(ticket, request, &geometry, cx.now);
        if let Err(refusal) = queued {
            self.counters.refused += u64::from(matches!(refusal, Refusal::QueueFull { .. }));
            return Err(refused(refusal, request, &geometry));
        }
        self.next_ticket += 1;
        self.counters.requests += 1;
        let bytes = request.data.iter().map(|e| e.len as u64).sum();
        cx.event(EventKind::Submit, ticket.0, bytes);
        self.collect_done(cx, slot);
        self.make_runnable(slot);
        Ok(ticket)
    }

    /// Appends the completions since the last call to `out`, in order of completion, and returns their
    /// number.
    pub fn reap(&mut self, out: &mut Vec<Completion>) -> usize {
        let n = self.done.len();
        out.extend(self.done.drain(..));
        n
    }

    fn expire(&mut self, cx: &mut Cx<'_>) -> u32 {
        let mut done = 0;
        while let Some(key) = self.timers.pop(cx.now) {
            let (what, id) = key.event();
            match key {
                // The stages look at the time themselves.
                TimerKey::Stop | TimerKey::Chip | TimerKey::Ring => {}
                TimerKey::Watchdog => self.watchdog(cx),
                TimerKey::Phase(cid) => {
                    self.counters.timeouts += 1;
                    cx.event(EventKind::Timeout, what, id);
                    self.phase_timeout(cx, cid);
                }
                TimerKey::PathGroup(cid) => {
                    self.counters.timeouts += 1;
                    cx.event(EventKind::Timeout, what, id);
                    self.path_group_timeout(cx, cid);
                }
                TimerKey::Session(slot) => self.session_timeout(cx, slot),
            }
            done += 1;
            if done >= EXPIRE_LIMIT {
                break;
            }
        }
        done
    }
}

/// How often a full port is tried again.
const PORT_RETRY: Duration = Duration::from_millis(10);
/// Deadlines handled in one step: all keys that exist.
const EXPIRE_LIMIT: u32 = 512;

fn refused(refusal: Refusal, request: &Request<'_>, geometry: &Geometry) -> SubmitError {
    match refusal {
        Refusal::QueueFull { limit } => SubmitError::Busy { limit },
        Refusal::OutOfRange { lba, blocks, capacity } => SubmitError::OutOfRange { lba, blocks, capacity },
        Refusal::TooScattered | Refusal::TooManyExtents(_) => SubmitError::BadExtent,
        Refusal::WriteProtected => SubmitError::WriteProtected,
        Refusal::Misaligned { .. } | Refusal::TooLong { .. } => {
            SubmitError::Length { len: request.data.iter().map(|e| e.len).sum(), block: geometry.block_size }
        }
    }
}

impl<P: Platform> Actor for Adapter<P> {
    fn name(&self) -> ActorId {
        self.name
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        let mut done = self.service_kcq(cx, budget.0);
        if !self.kwq_waiters.is_empty() {
            self.retry_kwqes(cx);
        }
        for _ in 0..self.ready.len() {
            if done >= budget.0 {
                break;
            }
            let Some(cid) = self.ready.pop_front() else { break };
            if let Some(ep) = self.ep(cid) {
                ep.notified = false;
            }
            done += self.reap_connection(cx, cid, budget.0 - done);
        }
        done += self.expire(cx);
        self.finish_open(cx);
        // Each kind of work has the whole budget: completions never starve what they make room for.
        done += self.receive(cx, budget.0);
        self.drive(cx);
        let mut posted = 0;
        for _ in 0..self.runnable.len() {
            if posted >= budget.0 {
                break;
            }
            let Some(slot) = self.runnable.pop_front() else { break };
            if let Some(s) = self.session(slot) {
                s.runnable = false;
            }
            posted += self.pump(cx, slot, budget.0 - posted);
        }
        done += posted;
        self.flush_outboxes();
        let mut next = self.timers.next();
        if !self.ready.is_empty() || !self.runnable.is_empty() {
            next = Some(cx.now);
        }
        if !self.outbox.is_empty() || !self.helper_outbox.is_empty() {
            // A full port does not say when it has room again.
            next = Instant::earliest(next, Some(cx.now + PORT_RETRY));
        }
        Progress { done, next }
    }
}

#[cfg(test)]
mod tests;
