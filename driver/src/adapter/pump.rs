//! Posting: what a session has to send goes into the SQ of its connection, as far as window, tasks and ring
//! have room. Order: cleanups, task management, answers to the target, bring-up, commands.

use core::time::Duration;

use bus::Instant;
use bus::actor::Cx;
use bus::pci::{Dir, Loan, Platform, Proof};
use bus::trace::EventKind;
use hsi::iscsi::bits::Itt;
use hsi::iscsi::sq::Sqe;
use iscsi::scsi::Lun;

use super::Adapter;
use super::session::{Session, TaskData};
use crate::block::{Command, Direction, Outcome};
use crate::bnx2i::{BdList, Endpoint, wqe};
use crate::error::{BlockError, Cause, Gate};
use crate::libiscsi::timeout::{self, Decision};
use crate::libiscsi::{
    Admit, KeepaliveAction, LadderAction, Scope, SessionState, TaskClass, TaskHandle, TaskKind, TaskState,
    TmfRequest,
};
use crate::lun::BringUpAction;

/// A SCSI command with its task, ready to be posted.
struct Scsi {
    task: TaskHandle,
    lun: Lun,
    cdb: [u8; 16],
    write: bool,
}

impl<P: Platform> Adapter<P> {
    /// Posts what the session has, at most `budget` WQEs; returns how many.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>, slot: u16, budget: u32) -> u32 {
        let Some(cid) = self.session(slot).and_then(|s| s.ep) else { return 0 };
        if !self.ep(cid).is_some_and(|ep| ep.is_full()) {
            return 0;
        }
        let mut done = self.pump_ladder(cx, slot, cid);
        done += self.pump_cleanups(cx, slot, cid);
        if !self.ep(cid).is_some_and(|ep| ep.is_full()) {
            return done;
        }
        done += self.pump_answers(cx, slot, cid);
        if self.session(slot).is_some_and(|s| s.probing.is_some()) {
            done += self.pump_bring_up(cx, slot, cid);
        }
        while done < budget && self.pump_command(cx, slot, cid) {
            done += 1;
        }
        if done >= budget {
            self.make_runnable(slot);
        } else if done == 0 {
            self.watch_gates(cx, slot, cid);
        }
        if let Some(ep) = self.eps[usize::from(cid)].as_deref_mut() {
            ep.qp.ring(&mut self.platform, cx);
        }
        done
    }

    /// One command of the block queue; `false` when there is none or no room.
    fn pump_command(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) -> bool {
        let depth = self.rings_in_force.commands();
        let (Some(s), Some(ep)) = (
            self.sessions[usize::from(slot)].session.as_deref_mut(),
            self.eps[usize::from(cid)].as_deref_mut(),
        ) else {
            return false;
        };
        let room = s.gate.admit() == Admit::Run
            && s.tasks.scsi_in_use() < depth.min(s.params.queue_depth.max(1)).min(s.tasks.scsi_capacity())
            && s.window.is_open()
            && ep.qp.room_for_command();
        if !room {
            return false;
        }
        let Session { queue, ladder, units, .. } = &mut *s;
        let open = |lun| !ladder.blocks(lun) && units.is_open(lun);
        let Some(command) = queue.next_command(cx.now, open) else { return false };
        let mut bds = BdList::new();
        let usable = s.queue.pieces(command.id).all(|piece| {
            let Some(buf) = self.buffers.get(piece.buf) else { return false };
            bds.push(buf.addr() + piece.offset as u64, piece.len).is_ok()
        });
        if !usable {
            // A buffer was freed under its request, or its pieces do not fit: never posted.
            s.queue.complete(command.id, Outcome::Failed(BlockError::AdapterGone), cx.now);
            self.collect_done(cx, slot);
            return true;
        }
        let write = command.direction == Direction::Write;
        let Some(task) = alloc_scsi(s, &command, write, cx) else {
            s.queue.unissue(command.id, cx.now);
            return false;
        };
        let dir = if write { Dir::ToCard } else { Dir::FromCard };
        let loans = &mut ep.loans[usize::from(task.index)];
        for piece in s.queue.pieces(command.id) {
            if let Some(buf) = self.buffers.get(piece.buf) {
                loans.push(self.platform.lend(buf, piece.offset..piece.offset + piece.len, dir));
            }
        }
        s.progressed(cx.now);
        let scsi = Scsi { task, lun: command.lun, cdb: command.cdb, write };
        self.post_scsi(cx, slot, cid, &scsi, &mut bds);
        self.counters.commands += 1;
        true
    }

    /// Nothing could be sent. What is at the card has timers of its own; with nothing there, work that is
    /// ready waits for a gate, and the wait has an owner, a reason and a deadline (S12).
    fn watch_gates(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) {
        let (Some(s), Some(ep)) = (
            self.sessions[usize::from(slot)].session.as_deref_mut(),
            self.eps[usize::from(cid)].as_deref_mut(),
        ) else {
            return;
        };
        if s.gate.state() != SessionState::LoggedIn || s.tasks.scsi_in_use() > 0 {
            return;
        }
        let Session { queue, ladder, units, .. } = &mut *s;
        let ready = queue.waiting_since(cx.now, |lun| !ladder.blocks(lun) && units.is_open(lun));
        let since = match &s.probing {
            Some(run) if run.is_ready(cx.now) => Some(s.progress),
            _ if s.gate.admit() == Admit::Run => ready,
            _ => None,
        };
        let Some(since) = since else {
            s.held_up = None;
            return;
        };
        let gate = if !s.window.is_open() {
            Gate::CommandWindow
        } else if !ep.qp.room_for_command() {
            Gate::SendQueue
        } else {
            Gate::TaskTags
        };
        s.hold_up(gate, since);
        self.arm_session(cx, slot);
    }

    /// Work has waited for a gate for as long as a command may take: requests that old fail and say which
    /// gate it was, and the session is recovered, for a new login opens the window and empties the rings.
    fn held_up(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, gate: Gate) {
        let now = cx.now;
        let Some(s) = self.session(slot) else { return };
        s.held_up = None;
        let timeout = s.params.command_timeout;
        let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        if let Some(limit) = now.as_nanos().checked_sub(timeout.as_nanos() as u64) {
            s.queue.fail_unsent(Instant::from_nanos(limit), BlockError::HeldUp { gate, seconds });
        }
        s.gate.stalled(now);
        self.collect_done(cx, slot);
        self.fail_endpoint(cx, cid, Cause::HeldUp(gate));
    }

    /// Builds and posts the WQE of a SCSI command whose task and window were checked.
    fn post_scsi(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, scsi: &Scsi, bds: &mut BdList) {
        let Scsi { task, lun, cdb, write } = *scsi;
        let dummy = self.chip.as_ref().map_or(0, |c| c.dummy_list());
        let (Some(s), Some(ep)) = (
            self.sessions[usize::from(slot)].session.as_deref_mut(),
            self.eps[usize::from(cid)].as_deref_mut(),
        ) else {
            return;
        };
        let (Some(itt), Some(sn)) = (s.tasks.itt(task), s.window.take()) else { return };
        if let Some(t) = s.tasks.get_mut(task) {
            (t.cmd_sn, t.state) = (sn, TaskState::Posted);
        }
        let length = bds.bytes();
        let bookmarks =
            if write { bds.bookmarks(s.write_rules()) } else { crate::bnx2i::Bookmarks::default() };
        let list = bds.finish();
        let (bd_list, num_bds) = if list.is_empty() {
            (dummy, 1)
        } else {
            ep.qp.write_bds(task.index, list);
            (ep.qp.bd_list(task.index), list.len() as u8)
        };
        let command = wqe::Command {
            itt: Itt::from_raw(itt.0),
            lun,
            cdb,
            cmd_sn: sn.0,
            write,
            length,
            bd_list,
            num_bds,
            bookmarks,
        };
        post(ep, cx, task.index, 0, &wqe::command(&command));
        self.scan_by(cx, slot, task);
    }

    /// Sees to it that a task that was just posted is looked at when its time is up.
    fn scan_by(&mut self, cx: &Cx<'_>, slot: u16, task: TaskHandle) {
        let Some(s) = self.session(slot) else { return };
        let Some(t) = s.tasks.get(task) else { return };
        let at = cx.now + s.time_limit(t.data);
        if s.command_scan.is_none_or(|scan| at < scan) {
            s.command_scan = Some(at);
            self.timers.arm_by(super::timers::TimerKey::Session(slot), at);
        }
    }

    /// LUN bring-up: one command at a time.
    fn pump_bring_up(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) -> u32 {
        let (Some(s), Some(ep)) = (
            self.sessions[usize::from(slot)].session.as_deref_mut(),
            self.eps[usize::from(cid)].as_deref_mut(),
        ) else {
            return 0;
        };
        if s.gate.state() != SessionState::LoggedIn || !s.window.is_open() || !ep.qp.room_for_command() {
            return 0;
        }
        let Some(run) = &mut s.probing else { return 0 };
        match run.poll(cx.now) {
            Some(BringUpAction::Submit(c)) => {
                let len = c.read_len as usize;
                // A long list needs more memory than was set aside. What the card still holds is not
                // exchanged.
                let held = s.tasks.iter().any(|(_, t)| matches!(t.data, TaskData::Probe(_)));
                if s.probe.as_ref().is_some_and(|probe| probe.len() < len)
                    && !held
                    && let Ok(longer) = self.platform.dma_alloc(len, "bring-up")
                    && let Some(shorter) = s.probe.replace(longer)
                {
                    self.platform.dma_free(shorter);
                }
                let Some(probe) = &s.probe else { return 0 };
                let mut bds = BdList::new();
                if len > probe.len() || bds.push(probe.addr(), len).is_err() {
                    run.failed(BlockError::Aborted);
                    self.make_runnable(slot);
                    return 0;
                }
                let data = TaskData::Probe(c.read_len);
                let task = s.tasks.alloc(TaskClass::Scsi, TaskKind::Read, c.lun, cx.now, data);
                // Beside running I/O all tags may be taken: the next completion frees one.
                let Ok(task) = task else {
                    run.unposted();
                    return 0;
                };
                if c.read_len > 0 {
                    let loan = self.platform.lend(probe, 0..c.read_len as usize, Dir::FromCard);
                    ep.loans[usize::from(task.index)].push(loan);
                }
                s.progressed(cx.now);
                let scsi = Scsi { task, lun: c.lun, cdb: c.cdb, write: false };
                self.post_scsi(cx, slot, cid, &scsi, &mut bds);
                1
            }
            Some(BringUpAction::WaitUntil(at)) => {
                self.timers.arm_by(super::timers::TimerKey::Session(slot), at);
                0
            }
            Some(BringUpAction::Done) => {
                self.brought_up(cx, slot);
                0
            }
            Some(BringUpAction::NoAnswer) => {
                self.fail_endpoint(cx, cid, Cause::BringUpUnanswered);
                0
            }
            None => 0,
        }
    }

    /// Answers to pings of the target.
    fn pump_answers(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) -> u32 {
        let mut sent = 0;
        while let Some(&(lun, ttt)) = self.session(slot).and_then(|s| s.nop_answers.first()) {
            if !self.post_mgmt(cx, slot, cid, None, TaskData::NopAnswer, |index, sn, dummy| {
                wqe::nop_out(index, sn, Some((lun, ttt)), dummy)
            }) {
                break;
            }
            if let Some(s) = self.session(slot) {
                s.nop_answers.remove(0);
            }
            sent += 1;
        }
        sent
    }

    /// Posts an immediate management request; `false` when a task or the ring is lacking. `tag`: the task of
    /// an exchange that goes on.
    pub(super) fn post_mgmt(
        &mut self,
        cx: &mut Cx<'_>,
        slot: u16,
        cid: u16,
        tag: Option<TaskHandle>,
        data: TaskData,
        build: impl FnOnce(u16, u32, u64) -> Sqe,
    ) -> bool {
        let dummy = self.chip.as_ref().map_or(0, |c| c.dummy_list());
        let (Some(s), Some(ep)) = (
            self.sessions[usize::from(slot)].session.as_deref_mut(),
            self.eps[usize::from(cid)].as_deref_mut(),
        ) else {
            return false;
        };
        if !ep.qp.room(0) {
            return false;
        }
        let task = match tag {
            Some(held) => held,
            None => match s.tasks.alloc(TaskClass::Mgmt, TaskKind::Mpath, Lun::default(), cx.now, data) {
                Ok(task) => task,
                Err(_) => return false,
            },
        };
        let Some(t) = s.tasks.get_mut(task) else { return false };
        (t.state, t.started, t.data) = (TaskState::Posted, cx.now, data);
        let sn = s.window.immediate();
        post(ep, cx, task.index, 0, &build(task.index, sn.0, dummy));
        ep.qp.ring(&mut self.platform, cx);
        self.scan_by(cx, slot, task);
        true
    }

    /// Carries out what the TMF ladder asks for.
    fn pump_ladder(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) -> u32 {
        let mut sent = 0;
        // One function is outstanding at a time: the ladder stops asking by itself.
        for _ in 0..8 {
            let now = cx.now;
            let Some(action) = self.session(slot).and_then(|s| s.ladder.poll(now)) else { break };
            match action {
                LadderAction::Send(request) => {
                    self.send_tmf(cx, slot, cid, request);
                    sent += 1;
                }
                LadderAction::CleanUp(scope) => self.queue_cleanups(slot, scope),
                LadderAction::RecoverSession => {
                    self.fail_endpoint(cx, cid, Cause::TmfTimedOut);
                    break;
                }
            }
        }
        self.arm_session(cx, slot);
        sent
    }

    fn send_tmf(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, request: TmfRequest) {
        let now = cx.now;
        let Some(s) = self.session(slot) else { return };
        let referenced = match request.task {
            None => None,
            Some(task) => match (s.tasks.itt(task), s.tasks.get(task)) {
                (Some(itt), Some(t)) => Some((Itt::from_raw(itt.0), t.cmd_sn.0)),
                // R8: it ended meanwhile; nothing is sent.
                _ => {
                    s.ladder.task_gone();
                    return;
                }
            },
        };
        let sent = self.post_mgmt(cx, slot, cid, None, TaskData::Tmf, |index, sn, dummy| {
            wqe::tmf(request.function as u8, request.lun, index, sn, referenced, dummy)
        });
        let Some(s) = self.session(slot) else { return };
        if sent { s.ladder.sent(now) } else { s.ladder.not_sent() }
    }

    /// Every posted SCSI task of the scope gets a CLEANUP.
    fn queue_cleanups(&mut self, slot: u16, scope: Scope) {
        let Some(s) = self.session(slot) else { return };
        let mut from = 0;
        while let Some(handle) = s.tasks.next_from(from) {
            from = handle.index + 1;
            let Some(task) = s.tasks.get(handle) else { continue };
            let inside = match scope {
                Scope::Task(t) => t == handle,
                Scope::Lun(lun) => lun == task.lun,
                Scope::Session => true,
            };
            if inside && task.class == TaskClass::Scsi && task.state == TaskState::Posted {
                s.ladder.cleanup_posted(handle);
                s.cleanups.push(handle);
            }
        }
        s.ladder.cleanup_complete();
    }

    /// Posts CLEANUPs as room allows; one deadline of the ladder covers all (T7).
    fn pump_cleanups(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) -> u32 {
        let (Some(s), Some(ep)) = (
            self.sessions[usize::from(slot)].session.as_deref_mut(),
            self.eps[usize::from(cid)].as_deref_mut(),
        ) else {
            return 0;
        };
        let mut sent = 0;
        while ep.qp.room(0) {
            let Some(handle) = s.cleanups.pop() else { break };
            let Some(itt) = s.tasks.itt(handle) else { continue };
            let Some(task) = s.tasks.get_mut(handle) else { continue };
            task.state = TaskState::CleaningUp;
            post(ep, cx, handle.index, 1, &wqe::cleanup(Itt::from_raw(itt.0)));
            self.counters.cleanups += 1;
            sent += 1;
        }
        ep.qp.ring(&mut self.platform, cx);
        sent
    }

    /// Something that the session waits for has come.
    pub(super) fn session_timeout(&mut self, cx: &mut Cx<'_>, slot: u16) {
        let now = cx.now;
        let Some(s) = self.session(slot) else { return };
        if s.gate.poll(now) {
            let seconds = s.gate.replacement_seconds();
            s.queue.fail_all(BlockError::RecoveryTimedOut { seconds });
            cx.event(EventKind::Session, u64::from(slot), 6);
        }
        let Some(s) = self.session(slot) else { return };
        while let Some((lun, error)) = s.units.expired(now) {
            s.queue.fail_unit(lun, error);
        }
        self.collect_done(cx, slot);
        let cid = self.session(slot).and_then(|s| s.ep);
        let full = cid.and_then(|cid| self.ep(cid)).is_some_and(|ep| ep.is_full());
        if let (Some(cid), true) = (cid, full) {
            self.keep_alive(cx, slot, cid);
            self.scan_tasks(cx, slot, cid);
            let Some(s) = self.session(slot) else { return };
            if s.looked && s.probing.is_none() {
                s.probing = s.units.look(now);
            }
            if let Some((gate, _)) = s.held_up.filter(|(_, until)| *until <= now) {
                self.held_up(cx, slot, cid, gate);
            }
        }
        self.make_runnable(slot);
        // Whatever is still due is looked at again after a pause, and never in the same instant.
        let next = self.session(slot).and_then(|s| s.deadline(now));
        if let Some(at) = next {
            self.timers.arm_by(super::timers::TimerKey::Session(slot), at.max(now + DUE_AGAIN));
        }
    }

    fn keep_alive(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) {
        let now = cx.now;
        match self.session(slot).and_then(|s| s.keepalive.as_ref()).map(|k| k.poll(now)) {
            Some(KeepaliveAction::Ping) => self.ping(cx, slot, cid),
            Some(KeepaliveAction::TimedOut) => self.fail_endpoint(cx, cid, Cause::NopTimedOut),
            Some(KeepaliveAction::Wait) | None => {}
        }
    }

    fn ping(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) {
        let now = cx.now;
        let sent = self.post_mgmt(cx, slot, cid, None, TaskData::Ping, |index, sn, dummy| {
            wqe::nop_out(index, sn, None, dummy)
        });
        if let Some(k) = self.session(slot).and_then(|s| s.keepalive.as_mut()) {
            if sent { k.ping_sent(now) } else { k.ping_not_sent(now) }
        }
    }

    /// Tasks that take too long (BNX2I-CNIC 7.2). One timer for all of them: the next look is when the oldest
    /// may be due.
    fn scan_tasks(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16) {
        let now = cx.now;
        let (mut pings, mut unanswered) = (false, false);
        let Some(s) = self.session(slot) else { return };
        if s.command_scan.is_none_or(|at| now < at) {
            return;
        }
        let (mut next, mut from) = (None, 0);
        while let Some(handle) = s.tasks.next_from(from) {
            from = handle.index + 1;
            let Some(task) = s.tasks.get(handle) else { continue };
            if task.state != TaskState::Posted {
                continue;
            }
            let (lun, limit) = (task.lun, s.time_limit(task.data));
            if task.class == TaskClass::Mgmt {
                // Pings and task management have timers of their own.
                if !matches!(task.data, TaskData::Pdu { .. } | TaskData::NopAnswer) {
                    continue;
                }
                unanswered |= task.started + limit <= now;
            } else if task.timer_due(limit) <= now {
                match timeout::decide(&mut s.tasks, handle, s.gate.state(), s.keepalive.as_ref(), now) {
                    Decision::PingAndExtend => pings = true,
                    Decision::Abort => s.ladder.abort(handle, lun),
                    Decision::Gone | Decision::Extend => {}
                }
            }
            let due = s.tasks.get(handle).map(|t| t.timer_due(limit));
            next = Instant::earliest(next, due.map(|d| d.max(now)));
        }
        s.command_scan = next.filter(|at| *at > now);
        if unanswered {
            self.fail_endpoint(cx, cid, Cause::Unanswered);
        } else if pings {
            self.ping(cx, slot, cid);
        }
    }
}

/// Pause before something that is due and could not be done is tried again.
const DUE_AGAIN: Duration = Duration::from_millis(10);

fn alloc_scsi(s: &mut Session, command: &Command, write: bool, cx: &Cx<'_>) -> Option<TaskHandle> {
    let kind = if write { TaskKind::Write } else { TaskKind::Read };
    s.tasks.alloc(TaskClass::Scsi, kind, command.lun, cx.now, TaskData::Command(command.id)).ok()
}

/// Writes a WQE and remembers its position: 0 for the task's request, 1 for its CLEANUP.
fn post(ep: &mut Endpoint, cx: &mut Cx<'_>, task: u16, which: usize, wqe: &Sqe) {
    let position = ep.qp.post(wqe);
    ep.positions[usize::from(task)][which] = position;
    let id = u64::from(ep.guard.cid()) << 16 | u64::from(wqe.itt().raw());
    cx.event(EventKind::Wqe, u64::from(wqe.opcode().0), id);
}

/// Takes back what a task had lent.
pub(super) fn reclaim<P: Platform>(p: &mut P, loans: &mut Vec<Loan>, proof: Proof) {
    loans.drain(..).for_each(|loan| p.reclaim(loan, proof));
}
