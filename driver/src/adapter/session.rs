//! Sessions: what outlives a connection. A session is made and ended by iscsid; when its connection is lost,
//! its requests wait for the next login, until the replacement timeout fails them.

use core::time::Duration;

use bus::Instant;
use bus::actor::Cx;
use bus::mem::DmaBuf;
use bus::pci::Platform;
use bus::trace::EventKind;
use iscsi::scsi::Lun;
use iscsi::serial::Sn;

use super::timers::TimerKey;
use super::{Adapter, SessionInfo, SessionPhase};
use crate::block::{BlockQueue, CommandId};
use crate::bnx2i::{Phase, WriteRules};
use crate::control::{
    ConnFailure, ConnParams, EpHandle, FromAdapter, Refused, SessionId, SessionParams, StopFlag,
};
use crate::error::{BlockError, Cause, Gate};
use crate::libiscsi::{
    Admit, CmdSnWindow, Keepalive, Ladder, SessionGate, SessionState, TaskHandle, TaskTable, TmfTimeouts,
};
use crate::lun::{BringUp, FIRST_READ};
use crate::units::Units;
use crate::user::Disk;

/// Answers to target NOP-Ins that wait for room; more are dropped, the target asks again.
const NOP_ANSWERS: usize = 4;

/// How long a command that asks about a unit may take: the target answers it without its medium.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskData {
    /// A command of the block queue.
    Command(CommandId),
    /// A command of LUN bring-up, and the bytes it reads.
    Probe(u32),
    /// A PDU of iscsid: opcode, its ITT there, its ExpStatSN.
    Pdu { opcode: u8, itt: [u8; 4], exp_stat_sn: u32 },
    /// Our ping.
    Ping,
    /// The answer to a ping of the target.
    NopAnswer,
    /// A task management function.
    Tmf,
}

/// One session.
pub(super) struct Session {
    pub(super) tag: u64,
    pub(super) params: SessionParams,
    pub(super) gate: SessionGate,
    pub(super) window: CmdSnWindow,
    pub(super) tasks: TaskTable<TaskData>,
    pub(super) ladder: Ladder,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) queue: BlockQueue,
    /// Its endpoint's cid, until that is released.
    pub(super) ep: Option<u16>,
    pub(super) negotiated: Option<ConnParams>,
    pub(super) units: Units,
    /// Commands that ask about the units. After a login no command of a user is posted until they have ended
    /// once; a later look for units that are away goes beside the I/O.
    pub(super) probing: Option<BringUp>,
    /// The units were looked at since the login.
    pub(super) looked: bool,
    /// Bring-up has ended once.
    pub(super) brought_up: bool,
    /// Memory that bring-up reads into.
    pub(super) probe: Option<DmaBuf>,
    pub(super) disks: Vec<Disk>,
    pub(super) logins: u32,
    /// Tasks whose CLEANUP waits for room.
    pub(super) cleanups: Vec<TaskHandle>,
    /// NOP-Ins to answer: LUN, TTT.
    pub(super) nop_answers: Vec<([u8; 8], u32)>,
    /// When the oldest task is looked at.
    pub(super) command_scan: Option<Instant>,
    /// The last time that something was sent, or answered, or became possible.
    pub(super) progress: Instant,
    /// The last time that the target answered a command of a user.
    pub(super) answered: Instant,
    /// What work that is ready to be sent waits for, and for how long it may.
    pub(super) held_up: Option<(Gate, Instant)>,
    /// STOP_CONN waits for the endpoint.
    pub(super) stopping: bool,
    /// DESTROY_SESSION waits for the endpoint.
    pub(super) ending: bool,
    /// It stands in the list of sessions with something to post.
    pub(super) runnable: bool,
}

/// A slot for sessions.
#[derive(Default)]
pub(super) struct SessionSlot {
    generation: u32,
    pub(super) session: Option<Box<Session>>,
}

impl Session {
    /// How its write data leaves.
    pub(super) fn write_rules(&self) -> WriteRules {
        match self.negotiated {
            Some(n) => WriteRules {
                immediate_data: n.immediate_data,
                initial_r2t: n.initial_r2t,
                first_burst: n.first_burst,
                max_xmit_data_segment: n.max_xmit_data_segment,
            },
            None => WriteRules {
                immediate_data: false,
                initial_r2t: true,
                first_burst: 0,
                max_xmit_data_segment: 0,
            },
        }
    }

    fn phase(&self) -> SessionPhase {
        match self.gate.admit() {
            _ if self.gate.is_offline() => SessionPhase::Offline,
            Admit::Run => SessionPhase::Ready,
            _ if self.gate.state() == SessionState::LoggedIn => SessionPhase::BringUp,
            _ => SessionPhase::Recovering,
        }
    }

    /// How long a task may take before something is done about it. The commands that ask about the units are
    /// short.
    pub(super) fn time_limit(&self, data: TaskData) -> Duration {
        let command = self.params.command_timeout;
        if matches!(data, TaskData::Probe(_)) { command.min(PROBE_TIMEOUT) } else { command }
    }

    /// See [`SessionInfo::patience`].
    fn patience(&self) -> Option<Duration> {
        let p = &self.params;
        // Twice: a ping is given one more turn before the abort (BNX2I-CNIC 7.2).
        let noticed = p.command_timeout * 2;
        let ladder = p.abort_timeout + p.lu_reset_timeout + p.tgt_reset_timeout;
        Some(noticed + ladder + p.replacement_timeout?)
    }

    /// Something was sent or answered: what waits in front of the wire has got on.
    #[inline]
    pub(super) fn progressed(&mut self, now: Instant) {
        self.progress = now;
        self.held_up = None;
    }

    /// Work is ready and `gate` is shut. Since nobody at the card can open it, the wait gets a deadline.
    pub(super) fn hold_up(&mut self, gate: Gate, since: Instant) {
        let until = since.max(self.progress) + self.params.command_timeout;
        self.held_up = Some((gate, until));
    }

    /// Queues the answer to a NOP-In of the target.
    pub(super) fn answer_nop(&mut self, lun: [u8; 8], ttt: u32) {
        if self.nop_answers.len() < NOP_ANSWERS {
            self.nop_answers.push((lun, ttt));
        }
    }

    /// The earliest thing that it waits for. Without a connection that is the replacement timeout alone: the
    /// timers of commands and of task management are dealt with by its tear-down.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        use crate::libiscsi::SessionState as S;
        let looking = self.probing.is_some() || !self.looked || self.gate.state() == S::LoggingOut;
        let always = Instant::earliest(self.gate.deadline(), self.units.deadline(looking));
        if !matches!(self.gate.state(), S::LoggedIn | S::LoggingOut) {
            return Instant::earliest(self.gate.deadline(), self.units.deadline(true));
        }
        [
            always,
            self.held_up.map(|(_, until)| until),
            self.keepalive.as_ref().and_then(Keepalive::deadline),
            self.ladder.deadline(),
            self.queue.deadline(now),
            self.command_scan,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl<P: Platform> Adapter<P> {
    pub(super) fn session(&mut self, slot: u16) -> Option<&mut Session> {
        self.sessions.get_mut(usize::from(slot))?.session.as_deref_mut()
    }

    pub(super) fn session_id(&self, slot: u16) -> SessionId {
        let generation = self.sessions.get(usize::from(slot)).map_or(0, |s| s.generation);
        SessionId { index: slot, generation }
    }

    /// The slot of a session, unless the id is of an earlier user of it.
    pub(super) fn slot_of(&self, id: SessionId) -> Option<u16> {
        let slot = self.sessions.get(usize::from(id.index))?;
        (slot.session.is_some() && slot.generation == id.generation).then_some(id.index)
    }

    pub(super) fn session_params(&mut self, slot: u16) -> Option<ConnParams> {
        self.session(slot)?.negotiated
    }

    pub(super) fn session_info(&self, slot: u16) -> Option<SessionInfo> {
        let s = self.sessions.get(usize::from(slot))?.session.as_deref()?;
        Some(SessionInfo {
            id: self.session_id(slot),
            tag: s.tag,
            phase: s.phase(),
            logins: s.logins,
            oldest_request: s.queue.oldest(),
            overtaken: s.queue.is_overtaken(),
            answered: s.answered,
            patience: s.patience(),
            replacement_timeout: s.params.replacement_timeout,
        })
    }

    /// CREATE_SESSION.
    pub(super) fn create_session(&mut self, cx: &mut Cx<'_>, tag: u64, params: SessionParams) {
        let result = self.new_session(cx, tag, params);
        self.say(FromAdapter::SessionCreated { tag, result });
    }

    fn new_session(
        &mut self,
        cx: &mut Cx<'_>,
        tag: u64,
        params: SessionParams,
    ) -> Result<SessionId, Refused> {
        if !self.ready() {
            return Err(Refused::NotReady);
        }
        let slot = self.sessions.iter().position(|s| s.session.is_none()).ok_or(Refused::NoMemory)?;
        let probe = if params.discovery {
            None
        } else {
            let buf = self.platform.dma_alloc(FIRST_READ as usize, "bring-up");
            Some(buf.map_err(|_| Refused::NoMemory)?)
        };
        // The most that any ring size allows: sizes may change between connections of the session.
        let tasks = TaskTable::new(64, 64);
        let timeouts = TmfTimeouts {
            abort: params.abort_timeout,
            lun_reset: params.lu_reset_timeout,
            target_reset: params.tgt_reset_timeout,
            cleanup: self.config.deadlines.cleanup,
        };
        let session = Session {
            tag,
            gate: SessionGate::new(params.replacement_timeout),
            window: CmdSnWindow::new(Sn(params.initial_cmd_sn)),
            ladder: Ladder::new(timeouts, tasks.capacity()),
            keepalive: None,
            queue: BlockQueue::new(self.config.queue_limit, tasks.scsi_capacity()),
            tasks,
            params,
            ep: None,
            negotiated: None,
            units: Units::default(),
            probing: None,
            looked: false,
            brought_up: false,
            probe,
            disks: Vec::new(),
            logins: 0,
            cleanups: Vec::with_capacity(64),
            nop_answers: Vec::with_capacity(NOP_ANSWERS),
            command_scan: None,
            progress: cx.now,
            answered: cx.now,
            held_up: None,
            stopping: false,
            ending: false,
            runnable: false,
        };
        self.sessions[slot].session = Some(Box::new(session));
        cx.event(EventKind::Session, slot as u64, 0);
        Ok(self.session_id(slot as u16))
    }

    /// BIND_CONN.
    pub(super) fn bind(&mut self, session: SessionId, handle: EpHandle) {
        let result = self.try_bind(session, handle);
        self.say(FromAdapter::Bound { session, ep: handle, result });
    }

    fn try_bind(&mut self, id: SessionId, handle: EpHandle) -> Result<(), Refused> {
        if !self.ready() {
            return Err(Refused::NotReady);
        }
        let slot = self.slot_of(id).ok_or(Refused::Stale)?;
        let ep = self.ep_of(handle).ok_or(Refused::Stale)?;
        // R1: a latched FIN or RST has doomed the endpoint.
        if ep.phase != Phase::Connected || ep.doomed || ep.session.is_some() {
            return Err(Refused::WrongState);
        }
        let session = self.session(slot).ok_or(Refused::Stale)?;
        if session.ep.is_some() || session.ending {
            return Err(Refused::WrongState);
        }
        session.ep = Some(handle.cid);
        let sn = session.window.immediate();
        session.window.restart(sn, sn, sn);
        session.ladder.reset();
        if let Some(ep) = self.ep(handle.cid) {
            ep.session = Some(slot);
        }
        Ok(())
    }

    /// START_CONN.
    pub(super) fn start_conn(&mut self, cx: &mut Cx<'_>, id: SessionId, params: ConnParams) {
        let failed = FromAdapter::Started { session: id, result: Err(ConnFailure::ConnFailed) };
        let Some(slot) = self.slot_of(id) else { return self.say(failed) };
        let cid = self.session(slot).and_then(|s| s.ep);
        let ready =
            cid.and_then(|cid| self.ep(cid)).is_some_and(|ep| ep.phase == Phase::Connected && !ep.doomed);
        let (Some(cid), true) = (cid, ready) else { return self.say(failed) };
        if let Some(s) = self.session(slot) {
            s.negotiated = Some(params);
        }
        self.start_update(cx, cid);
    }

    /// UPDATE_CONN was answered: the full feature phase has begun.
    pub(super) fn logged_in(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let now = cx.now;
        let id = self.session_id(slot);
        let Some(s) = self.session(slot) else { return };
        s.gate.logged_in(now);
        s.progressed(now);
        s.tasks.next_age();
        s.logins += 1;
        if !s.params.discovery {
            s.keepalive = Some(Keepalive::new(s.params.noop_interval, s.params.noop_timeout, now));
        }
        s.units.logged_in();
        if s.params.discovery {
            (s.brought_up, s.looked) = (true, true);
            s.gate.usable(true);
        } else {
            s.looked = false;
            s.probing = Some(if s.brought_up { BringUp::again() } else { BringUp::new() });
        }
        self.counters.logins += 1;
        cx.event(EventKind::Session, u64::from(slot), 2);
        self.say(FromAdapter::Started { session: id, result: Ok(()) });
        self.make_runnable(slot);
        self.arm_session(cx, slot);
    }

    /// The session's connection failed: the replacement timer starts, nothing is posted any more.
    pub(super) fn connection_lost(&mut self, cx: &mut Cx<'_>, slot: u16, cause: Cause) {
        let now = cx.now;
        let Some(s) = self.session(slot) else { return };
        if matches!(cause, Cause::HostRemoved) {
            s.gate.terminate();
            s.queue.fail_all(cause.verdict().block);
        } else {
            s.gate.failed(now);
        }
        s.keepalive = None;
        cx.event(EventKind::Session, u64::from(slot), 3);
        self.collect_done(cx, slot);
        self.arm_session(cx, slot);
    }

    /// The endpoint is released and with it everything the card had: commands wait for the next login.
    /// `failed`: why the connection failed, if it did.
    pub(super) fn endpoint_released(&mut self, cx: &mut Cx<'_>, slot: u16, failed: Option<Cause>) {
        let now = cx.now;
        let why = failed.map_or(ConnFailure::ConnFailed, |cause| cause.verdict().conn);
        let counts = !matches!(failed, None | Some(Cause::AdapterReset | Cause::HostRemoved));
        let id = self.session_id(slot);
        let Some(s) = self.session(slot) else { return };
        s.ep = None;
        s.keepalive = None;
        s.command_scan = None;
        s.cleanups.clear();
        s.nop_answers.clear();
        let mut requeued = 0;
        while let Some(task) = s.tasks.next_from(0) {
            if let Some(TaskData::Command(command)) = s.tasks.free(task).map(|t| t.data) {
                s.queue.requeue(command, why, counts, now);
                requeued += 1;
            }
        }
        s.probing = None;
        s.looked = false;
        s.held_up = None;
        s.ladder.reset();
        s.gate.recovering(now);
        let (stopping, ending) = (core::mem::take(&mut s.stopping), s.ending);
        self.counters.requeued += requeued;
        cx.event(EventKind::Session, u64::from(slot), 4);
        self.collect_done(cx, slot);
        self.arm_session(cx, slot);
        if stopping {
            self.say(FromAdapter::Stopped { session: id });
        }
        if ending {
            self.end_session(cx, slot);
        }
    }

    /// STOP_CONN.
    pub(super) fn stop_conn(&mut self, cx: &mut Cx<'_>, id: SessionId, flag: StopFlag) {
        let now = cx.now;
        let Some(slot) = self.slot_of(id) else { return self.stale(cx, 18, id.index) };
        let Some(s) = self.session(slot) else { return };
        match flag {
            StopFlag::Term => {
                s.gate.terminate();
                s.queue.fail_all(BlockError::SessionClosed);
            }
            StopFlag::Recover => s.gate.recovering(now),
        }
        s.stopping = true;
        let ep = s.ep;
        self.collect_done(cx, slot);
        self.arm_session(cx, slot);
        match ep {
            Some(cid) => self.abandon(cx, cid),
            None => {
                if let Some(s) = self.session(slot) {
                    s.stopping = false;
                }
                self.say(FromAdapter::Stopped { session: id });
            }
        }
    }

    /// DESTROY_SESSION.
    pub(super) fn destroy_session(&mut self, cx: &mut Cx<'_>, id: SessionId) {
        let Some(slot) = self.slot_of(id) else {
            return self.say(FromAdapter::SessionDestroyed { session: id });
        };
        let Some(s) = self.session(slot) else { return };
        s.gate.terminate();
        s.queue.fail_all(BlockError::SessionClosed);
        s.ending = true;
        let ep = s.ep;
        self.collect_done(cx, slot);
        match ep {
            Some(cid) => self.abandon(cx, cid),
            None => self.end_session(cx, slot),
        }
    }

    /// Ends a session that has no endpoint any more.
    pub(super) fn end_session(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let id = self.session_id(slot);
        let Some(s) = self.session(slot) else { return };
        s.queue.fail_all(BlockError::SessionClosed);
        self.collect_done(cx, slot);
        self.timers.disarm(TimerKey::Session(slot));
        let entry = &mut self.sessions[usize::from(slot)];
        entry.generation = entry.generation.wrapping_add(1);
        if let Some(probe) = entry.session.take().and_then(|s| s.probe) {
            self.platform.dma_free(probe);
        }
        cx.event(EventKind::Session, u64::from(slot), 1);
        self.say(FromAdapter::SessionDestroyed { session: id });
    }

    /// Sets the session's timer to the earliest thing that it waits for. What is due already is done in the
    /// next step.
    pub(super) fn arm_session(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let now = cx.now;
        if let Some(at) = self.session(slot).and_then(|s| s.deadline(now)) {
            self.timers.arm_by(TimerKey::Session(slot), at.max(now));
        }
    }

    /// Moves completed requests to where users reap them.
    pub(super) fn collect_done(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let session = self.session_id(slot);
        let Some(s) = self.sessions[usize::from(slot)].session.as_deref_mut() else { return };
        while let Some(done) = s.queue.reap() {
            let number = done.result.as_ref().err().map_or(0, BlockError::number);
            if done.result.is_ok() {
                self.counters.bytes += done.bytes;
            }
            cx.event(EventKind::Complete, done.ticket.0, number);
            self.done.push_back(crate::user::Completion {
                ticket: done.ticket,
                session,
                result: done.result,
                residual: done.residual,
            });
        }
    }

    pub(super) fn make_runnable(&mut self, slot: u16) {
        if let Some(s) = self.session(slot)
            && !s.runnable
        {
            s.runnable = true;
            self.runnable.push_back(slot);
        }
    }

    /// The commands that ask about the units have ended. After a re-login the disks must be those that
    /// requests were accepted for: a write repeated on another one would destroy it.
    pub(super) fn brought_up(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let now = cx.now;
        let Some(s) = self.session(slot) else { return };
        let Some(run) = s.probing.take() else { return };
        // A unit that is lost beside running I/O is waited for as long as a lost session is.
        let until = s.gate.deadline().or_else(|| s.params.replacement_timeout.map(|d| now + d));
        let changed = s.units.compare(&run, until, now);
        (s.brought_up, s.looked) = (true, true);
        for &(lun, error) in &changed {
            s.queue.fail_unit(lun, error);
        }
        if s.units.any_open() {
            s.gate.usable(s.queue.oldest().is_none());
        }
        s.progressed(now);
        s.disks.clear();
        let found = s.units.found().iter().filter_map(|(lun, info)| Some((*lun, info.as_ref().ok()?)));
        let disk = |(lun, info): (Lun, &crate::lun::LunInfo)| Disk {
            lun,
            block_size: info.capacity.block_size,
            blocks: info.capacity.blocks,
            read_only: info.read_only,
        };
        s.disks.extend(found.map(disk));
        self.counters.disks_changed += changed.len() as u64;
        cx.event(EventKind::Session, u64::from(slot), 8);
        self.collect_done(cx, slot);
        self.make_runnable(slot);
        self.arm_session(cx, slot);
    }
}
