//! Sessions: what outlives a connection. A session is made and ended by iscsid; when its connection is lost, its
//! requests wait for the next login, until the replacement timeout fails them.

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
use crate::error::{BlockError, Cause};
use crate::libiscsi::{CmdSnWindow, Keepalive, Ladder, SessionGate, TaskHandle, TaskTable, TmfTimeouts};
use crate::lun::{BringUp, FIRST_READ};
use crate::user::Disk;

/// Answers to target NOP-Ins that wait for room; more are dropped, the target asks again.
const NOP_ANSWERS: usize = 4;

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
    pub(super) bring_up: BringUp,
    /// After a re-login: looks whether the same disks answer. Until it has ended no command is posted.
    pub(super) recheck: Option<BringUp>,
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
    /// When the oldest command is looked at.
    pub(super) command_scan: Option<Instant>,
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

    /// The bring-up that is under way.
    pub(super) fn probing(&mut self) -> &mut BringUp {
        self.recheck.as_mut().unwrap_or(&mut self.bring_up)
    }

    fn phase(&self) -> SessionPhase {
        use crate::libiscsi::SessionState as S;
        match self.gate.state() {
            S::LoggedIn if self.brought_up && self.recheck.is_none() => SessionPhase::Ready,
            S::LoggedIn => SessionPhase::BringUp,
            S::RecoveryFailed | S::Terminate => SessionPhase::Offline,
            _ => SessionPhase::Recovering,
        }
    }

    /// Queues the answer to a NOP-In of the target.
    pub(super) fn answer_nop(&mut self, lun: [u8; 8], ttt: u32) {
        if self.nop_answers.len() < NOP_ANSWERS {
            self.nop_answers.push((lun, ttt));
        }
    }

    /// The earliest thing that it waits for. Without a connection that is the replacement timeout alone: the timers of
    /// commands and of task management are dealt with by its tear-down.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        use crate::libiscsi::SessionState as S;
        if !matches!(self.gate.state(), S::LoggedIn | S::LoggingOut) {
            return self.gate.deadline();
        }
        [
            self.gate.deadline(),
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
        Some(SessionInfo { id: self.session_id(slot), tag: s.tag, phase: s.phase(), logins: s.logins })
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
            bring_up: BringUp::new(),
            recheck: None,
            brought_up: false,
            probe,
            disks: Vec::new(),
            logins: 0,
            cleanups: Vec::with_capacity(64),
            nop_answers: Vec::with_capacity(NOP_ANSWERS),
            command_scan: None,
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
        s.gate.logged_in();
        s.tasks.next_age();
        s.logins += 1;
        if !s.params.discovery {
            s.keepalive = Some(Keepalive::new(s.params.noop_interval, s.params.noop_timeout, now));
        }
        if s.params.discovery {
            s.brought_up = true;
        } else if s.brought_up {
            s.recheck = Some(BringUp::new());
        } else {
            s.bring_up = BringUp::new();
        }
        self.counters.logins += 1;
        cx.event(EventKind::Session, u64::from(slot), 2);
        self.say(FromAdapter::Started { session: id, result: Ok(()) });
        self.make_runnable(slot);
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

    /// The endpoint is released and with it everything the card had: commands wait for the next login. `failed`: why the
    /// connection failed, if it did.
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
            match s.tasks.free(task).map(|t| t.data) {
                Some(TaskData::Command(command)) => {
                    s.queue.requeue(command, why, counts, now);
                    requeued += 1;
                }
                Some(TaskData::Probe(_)) => *s.probing() = BringUp::new(),
                _ => {}
            }
        }
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

    /// Sets the session's timer to the earliest thing that it waits for.
    pub(super) fn arm_session(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let now = cx.now;
        match self.session(slot).and_then(|s| s.deadline(now)) {
            Some(at) if at > now => self.timers.arm_by(TimerKey::Session(slot), at),
            // Already due: the next pump does it.
            Some(_) => self.make_runnable(slot),
            None => {}
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

    /// Bring-up ended: what it found becomes the disks of the session. After a re-login the disks must be those that
    /// requests were accepted for: a write repeated on another one would destroy it.
    pub(super) fn brought_up(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let Some(s) = self.session(slot) else { return };
        if let Some(later) = s.recheck.take() {
            let same = s
                .bring_up
                .found()
                .iter()
                .filter_map(|(lun, info)| Some((*lun, info.as_ref().ok()?)))
                .all(|(lun, info)| later.unit(lun).is_ok_and(|later| info.same_disk(later)));
            s.bring_up = later;
            if !same {
                s.queue.fail_all(BlockError::DiskChanged);
                self.counters.disks_changed += 1;
                self.collect_done(cx, slot);
            }
        }
        let Some(s) = self.session(slot) else { return };
        s.brought_up = true;
        s.disks.clear();
        let found = s.bring_up.found().iter().filter_map(|(lun, info)| Some((*lun, info.as_ref().ok()?)));
        let disk = |(lun, info): (Lun, &crate::lun::LunInfo)| Disk {
            lun,
            block_size: info.capacity.block_size,
            blocks: info.capacity.blocks,
            read_only: info.read_only,
        };
        s.disks.extend(found.map(disk));
        cx.event(EventKind::Session, u64::from(slot), 8);
    }
}
