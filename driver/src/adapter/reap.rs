//! Completions of one connection, in strict CQ order: the only place where CQ and RQ are consumed, so that
//! sense data and payloads of unsolicited PDUs cannot change places (BNX2I-CNIC 5.4, 5.7, 13.3 R9 to R11).

use bus::actor::Cx;
use bus::pci::{Platform, Proof};
use bus::trace::EventKind;
use hsi::iscsi::bits::Itt;
use hsi::iscsi::cq::{
    AsyncMsg, CmdResponse, CqOpcode, Cqe, ISCSI_CMD_RESPONSE_RESIDUAL_UNDERFLOW, LoginResponse,
    LogoutResponse, NopInMsg, RejectMsg, TextResponse, TmfResponse,
};
use iscsi::scsi::{Sense, Status};
use iscsi::serial::Sn;

use super::Adapter;
use super::pump::reclaim;
use super::session::TaskData;
use crate::block::Outcome;
use crate::bnx2i::CqNext;
use crate::config::RQ_BUFFER;
use crate::control::FromAdapter;
use crate::error::{BlockError, Cause};
use crate::libiscsi::{TaskHandle, TaskState, WireItt};

/// S bit of a Data-In's flags: the entry carries the status.
const DATA_IN_STATUS: u8 = 0x01;

impl<P: Platform> Adapter<P> {
    /// Processes at most `budget` completions of a connection; returns how many. A connection that has more
    /// stays in the list of those with work.
    pub(super) fn reap_connection(&mut self, cx: &mut Cx<'_>, cid: u16, budget: u32) -> u32 {
        let mut cqe = Cqe { cqe_byte: [0; 64] };
        let mut done = 0;
        while done < budget {
            let Some(ep) = self.ep(cid) else { return done };
            // Teardown has begun: nobody waits for these any more, and loans come back with the endpoint.
            if ep.phase.is_going() || ep.doomed {
                return done;
            }
            match ep.qp.next(&mut cqe) {
                CqNext::Empty => break,
                CqNext::Gap => {
                    self.counters.cq_gaps += 1;
                    self.fail_endpoint(cx, cid, Cause::Protocol);
                    return done;
                }
                CqNext::Cqe => {
                    let id = u64::from(cid) << 16 | u64::from(cqe.itt().raw());
                    cx.event(EventKind::Cqe, u64::from(cqe.opcode().0), id);
                    done += 1;
                    if let Err(cause) = self.on_cqe(cx, cid, &cqe) {
                        if cause == Cause::BadItt {
                            self.counters.unknown_itt += 1;
                        }
                        self.fail_endpoint(cx, cid, cause);
                        return done;
                    }
                }
            }
        }
        if let Some(ep) = self.eps[usize::from(cid)].as_deref_mut() {
            ep.qp.ring(&mut self.platform, cx);
        }
        if done >= budget {
            self.notify(cid);
        }
        if let Some(slot) = self.ep(cid).and_then(|ep| ep.session) {
            self.collect_done(cx, slot);
            self.make_runnable(slot);
        }
        done
    }

    /// The connection has completions: it joins the list, once.
    pub(super) fn notify(&mut self, cid: u16) {
        if let Some(ep) = self.ep(cid)
            && !ep.notified
        {
            ep.notified = true;
            self.ready.push_back(cid);
        }
    }

    fn on_cqe(&mut self, cx: &mut Cx<'_>, cid: u16, cqe: &Cqe) -> Result<(), Cause> {
        let now = cx.now;
        let slot = self.ep(cid).and_then(|ep| ep.session).ok_or(Cause::BadItt)?;
        let opcode = cqe.opcode();
        // What the card completes by itself says nothing about the target.
        let from_target = opcode != CqOpcode::CLEANUP_RESPONSE && opcode != CqOpcode::NOPOUT_LOCAL_COMPLETION;
        if from_target && let Some(s) = self.session(slot) {
            if let Some(k) = &mut s.keepalive {
                k.received(now);
            }
            let r: &NopInMsg = cqe.view();
            s.window.update(Sn(r.exp_cmd_sn.get()), Sn(r.max_cmd_sn.get()));
        }
        match opcode {
            CqOpcode::SCSI_RSP | CqOpcode::DATA_IN => self.on_scsi(cx, slot, cid, cqe),
            CqOpcode::CLEANUP_RESPONSE => self.on_cleanup(cx, slot, cid, cqe.itt()),
            CqOpcode::NOP_IN => self.on_nop_in(cx, slot, cid, cqe),
            CqOpcode::NOPOUT_LOCAL_COMPLETION => {
                let (task, data) = self.management(slot, cid, cqe.itt())?;
                if data != TaskData::NopAnswer {
                    return Err(Cause::BadItt);
                }
                self.free_task(slot, task);
                Ok(())
            }
            CqOpcode::TMF_RSP => {
                let (task, data) = self.management(slot, cid, cqe.itt())?;
                if data != TaskData::Tmf {
                    return Err(Cause::BadItt);
                }
                self.free_task(slot, task);
                let response = cqe.view::<TmfResponse>().response;
                if let Some(s) = self.session(slot) {
                    s.ladder.response(response);
                }
                Ok(())
            }
            CqOpcode::LOGIN_RSP | CqOpcode::TEXT_RSP | CqOpcode::LOGOUT_RSP => {
                self.on_pdu(cx, slot, cid, cqe)
            }
            CqOpcode::ASYNC => self.on_async(cid, cqe),
            CqOpcode::REJECT => self.on_reject(cx, slot, cid, cqe),
            _ => Err(Cause::Protocol),
        }
    }

    /// SCSI response or Data-In with status.
    fn on_scsi(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, cqe: &Cqe) -> Result<(), Cause> {
        let now = cx.now;
        let r: &CmdResponse = cqe.view();
        let length = r.data_length.get() as usize;
        let mut sense = None;
        if cqe.opcode() == CqOpcode::DATA_IN {
            // D2: without the S bit the command would never end.
            if r.response_flags & DATA_IN_STATUS == 0 {
                return Err(Cause::Protocol);
            }
        } else if length > 0 {
            // R10, R11: the buffer is accounted by the CQE, whoever the task is and whatever its status.
            if length > RQ_BUFFER {
                return Err(Cause::Protocol);
            }
            let mut segment = [0; RQ_BUFFER];
            if let Some(ep) = self.ep(cid) {
                ep.qp.take_rq(&mut segment[..length]);
            }
            sense = sense_of(&segment[..length]);
        }
        let (task, data) = self.completed(slot, cid, r.itt, 0)?;
        if !matches!(data, TaskData::Command(_) | TaskData::Probe(_)) {
            return Err(Cause::BadItt);
        }
        let residual = if r.response_flags & ISCSI_CMD_RESPONSE_RESIDUAL_UNDERFLOW != 0 {
            r.residual_count.get()
        } else {
            0
        };
        let status = Status(r.status);
        let cleaning = self.session(slot).and_then(|s| s.tasks.get(task)).map(|t| t.state);
        self.reclaim_task(cid, task, Proof::Completed);
        let Some(s) = self.session(slot) else { return Ok(()) };
        match data {
            TaskData::Command(id) => {
                let outcome = Outcome::Answered { response: r.response, status, sense, residual };
                s.queue.complete(id, outcome, now);
                s.gate.answered();
                s.answered = now;
                s.progressed(now);
                if sense.is_some_and(tells_of_units) {
                    s.units.look_soon(now);
                }
            }
            TaskData::Probe(asked) => {
                let moved = asked.saturating_sub(residual) as usize;
                let mut bytes = vec![0; moved];
                if let Some(probe) = &s.probe {
                    probe.read(0, &mut bytes);
                }
                s.progressed(now);
                if let Some(run) = &mut s.probing {
                    run.answered(r.response, status, sense, &bytes, now);
                }
            }
            _ => {}
        }
        if cleaning == Some(TaskState::CleaningUp) {
            // The tag stays taken until its own cleanup completion: a reuse could not be told apart.
            if let Some(t) = s.tasks.get_mut(task) {
                t.data = TaskData::Tmf;
            }
        } else {
            self.free_task(slot, task);
        }
        Ok(())
    }

    /// The card has forgotten a task.
    fn on_cleanup(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, itt: Itt) -> Result<(), Cause> {
        let now = cx.now;
        let (task, data) = self.completed(slot, cid, itt, 1)?;
        let state = self.session(slot).and_then(|s| s.tasks.get(task)).map(|t| t.state);
        if state != Some(TaskState::CleaningUp) {
            return Err(Cause::BadItt);
        }
        if matches!(data, TaskData::Command(_) | TaskData::Probe(_))
            && let Some(ep) = self.ep(cid)
        {
            // Its request got no completion of its own.
            let position = ep.positions[usize::from(task.index)][0];
            ep.qp.completed(position);
        }
        self.reclaim_task(cid, task, Proof::CleanedUp);
        if let Some(s) = self.session(slot) {
            match data {
                TaskData::Command(id) => {
                    s.queue.complete(id, Outcome::Failed(BlockError::Aborted), now);
                    // The target lives and loses commands: requests wait as they do for one that is dead.
                    s.gate.stalled(now);
                }
                TaskData::Probe(_) => {
                    if let Some(run) = &mut s.probing {
                        run.unanswered();
                    }
                }
                _ => {}
            }
        }
        self.free_task(slot, task);
        Ok(())
    }

    fn on_nop_in(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, cqe: &Cqe) -> Result<(), Cause> {
        let now = cx.now;
        let r: &NopInMsg = cqe.view();
        if !r.itt.is_reserved() {
            let (task, data) = self.management(slot, cid, r.itt)?;
            if data != TaskData::Ping || r.data_length.get() != 0 {
                return Err(Cause::Protocol);
            }
            self.free_task(slot, task);
            if let Some(k) = self.session(slot).and_then(|s| s.keepalive.as_mut()) {
                k.pong(now);
            }
            return Ok(());
        }
        // Unsolicited: one RQ buffer, also without payload.
        self.unsolicited(cid, r.data_length.get(), &mut [0; RQ_BUFFER])?;
        if r.ttt.get() != u32::MAX
            && let Some(s) = self.session(slot)
        {
            s.answer_nop(r.lun.raw(), r.ttt.get());
        }
        Ok(())
    }

    fn unsolicited(&mut self, cid: u16, length: u32, out: &mut [u8; RQ_BUFFER]) -> Result<usize, Cause> {
        // D1: more than a buffer cannot have been delivered.
        let length = length as usize;
        if length > RQ_BUFFER {
            return Err(Cause::Protocol);
        }
        if let Some(ep) = self.ep(cid) {
            ep.qp.take_rq(&mut out[..length]);
        }
        Ok(length)
    }

    fn on_async(&mut self, cid: u16, cqe: &Cqe) -> Result<(), Cause> {
        let r: &AsyncMsg = cqe.view();
        self.unsolicited(cid, 0, &mut [0; RQ_BUFFER])?;
        let mut bhs = header(0x32, 0x80, cqe, 0);
        bhs[8..16].copy_from_slice(&r.lun.to_wire());
        bhs[16..20].fill(0xff);
        (bhs[36], bhs[37]) = (r.async_event, r.async_vcode);
        bhs[38..40].copy_from_slice(&r.param1.get().to_be_bytes());
        bhs[40..42].copy_from_slice(&r.param2.get().to_be_bytes());
        bhs[42..44].copy_from_slice(&r.param3.get().to_be_bytes());
        self.deliver(cid, bhs, Vec::new());
        Ok(())
    }

    /// A Reject carries the header that it is about (RFC 7143 11.17). What the task sent will not be
    /// answered: its CmdSN may be missing at the target, and everything behind it waits. At error recovery
    /// level 0 a new login is the way on; only what the target had no room for (reason 6) is taken as not
    /// sent.
    fn on_reject(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, cqe: &Cqe) -> Result<(), Cause> {
        let now = cx.now;
        let r: &RejectMsg = cqe.view();
        let mut payload = [0; RQ_BUFFER];
        let length = self.unsolicited(cid, r.data_length.get(), &mut payload)?;
        let task = payload[..length].first_chunk::<48>().and_then(|bhs| self.rejected_task(slot, bhs));
        if let Some((task, data)) = task {
            match data {
                TaskData::Ping if r.reason == IMMEDIATE_COMMAND_REJECT => {
                    self.mgmt_rejected(slot, cid, task);
                    if let Some(k) = self.session(slot).and_then(|s| s.keepalive.as_mut()) {
                        k.pong(now);
                        k.ping_not_sent(now);
                    }
                    return Ok(());
                }
                TaskData::Tmf if r.reason == IMMEDIATE_COMMAND_REJECT => {
                    self.mgmt_rejected(slot, cid, task);
                    if let Some(s) = self.session(slot) {
                        s.ladder.response(TMF_REJECTED);
                    }
                    return Ok(());
                }
                // iscsid judges what it sent itself.
                TaskData::Pdu { .. } => {}
                _ => return Err(Cause::TaskRejected(r.reason)),
            }
        }
        let mut bhs = header(0x3f, 0x80, cqe, length as u32);
        bhs[2] = r.reason;
        bhs[16..20].fill(0xff);
        self.deliver(cid, bhs, payload[..length].to_vec());
        Ok(())
    }

    /// The posted task whose PDU has this header.
    fn rejected_task(&mut self, slot: u16, bhs: &[u8; 48]) -> Option<(TaskHandle, TaskData)> {
        let itt = u32::from_be_bytes([bhs[16], bhs[17], bhs[18], bhs[19]]);
        let s = self.session(slot)?;
        let task = s.tasks.find(WireItt(u16::try_from(itt).ok()?)).ok()?;
        let t = s.tasks.get(task).filter(|t| t.state != TaskState::Allocated)?;
        Some((task, t.data))
    }

    /// A management request that the target did not take has ended.
    fn mgmt_rejected(&mut self, slot: u16, cid: u16, task: TaskHandle) {
        if let Some(ep) = self.ep(cid) {
            let position = ep.positions[usize::from(task.index)][0];
            ep.qp.completed(position);
        }
        self.free_task(slot, task);
    }

    /// Login, text or logout response: its header is rebuilt for iscsid.
    fn on_pdu(&mut self, cx: &mut Cx<'_>, slot: u16, cid: u16, cqe: &Cqe) -> Result<(), Cause> {
        let (task, data) = self.management(slot, cid, cqe.itt())?;
        let TaskData::Pdu { opcode, itt, exp_stat_sn } = data else { return Err(Cause::BadItt) };
        // A response answers its own kind of request.
        if opcode | 0x20 != cqe.opcode().0 {
            return Err(Cause::BadItt);
        }
        let (mut bhs, length) = match cqe.opcode() {
            CqOpcode::LOGIN_RSP => {
                let r: &LoginResponse = cqe.view();
                let mut bhs = header(0x23, r.response_flags, cqe, r.data_length.get());
                (bhs[2], bhs[3]) = (r.version_max, r.version_active);
                bhs[8..14].copy_from_slice(&r.isid());
                bhs[14..16].copy_from_slice(&r.tsih.get().to_le_bytes());
                bhs[24..28].copy_from_slice(&r.stat_sn.get().to_be_bytes());
                (bhs[36], bhs[37]) = (r.status_class, r.status_detail);
                (bhs, r.data_length.get())
            }
            CqOpcode::TEXT_RSP => {
                let r: &TextResponse = cqe.view();
                let mut bhs = header(0x24, r.response_flags, cqe, r.data_length.get());
                bhs[8..16].copy_from_slice(&r.lun.to_wire());
                bhs[20..24].copy_from_slice(&r.ttt.get().to_be_bytes());
                bhs[24..28].copy_from_slice(&exp_stat_sn.to_be_bytes());
                (bhs, r.data_length.get())
            }
            _ => {
                let r: &LogoutResponse = cqe.view();
                let mut bhs = header(0x26, 0x80, cqe, 0);
                bhs[2] = r.response;
                bhs[24..28].copy_from_slice(&exp_stat_sn.to_be_bytes());
                bhs[40..42].copy_from_slice(&r.time_to_wait.get().to_be_bytes());
                bhs[42..44].copy_from_slice(&r.time_to_retain.get().to_be_bytes());
                if let Some(ep) = self.ep(cid) {
                    ep.latched.logged_out = true;
                }
                (bhs, 0)
            }
        };
        bhs[16..20].copy_from_slice(&itt);
        // The tag stays with an exchange that goes on, and nobody else gets it meanwhile.
        match self.session(slot).and_then(|s| s.tasks.get_mut(task)).filter(|_| goes_on(&bhs)) {
            Some(t) => t.state = TaskState::Allocated,
            None => self.free_task(slot, task),
        }
        // D1: more than the response buffer holds cannot have been delivered.
        let data = self.ep(cid).and_then(|ep| ep.qp.login_response(length)).ok_or(Cause::Protocol)?;
        cx.event(EventKind::PduIn, u64::from(bhs[0]), u64::from(cid) << 32);
        self.deliver(cid, bhs, data);
        Ok(())
    }

    fn deliver(&mut self, cid: u16, bhs: [u8; 48], data: Vec<u8>) {
        if let Some(ep) = self.ep(cid) {
            let ep = ep.handle();
            self.say(FromAdapter::RecvPdu { ep, bhs, data });
        }
    }

    /// The posted task that a completion names; its SQ entry is free now. `which`: its request or its
    /// CLEANUP.
    fn completed(
        &mut self,
        slot: u16,
        cid: u16,
        itt: Itt,
        which: usize,
    ) -> Result<(TaskHandle, TaskData), Cause> {
        let s = self.session(slot).ok_or(Cause::BadItt)?;
        let task = s.tasks.find(WireItt(itt.raw())).map_err(|_| Cause::BadItt)?;
        let (data, state) = s.tasks.get(task).map(|t| (t.data, t.state)).ok_or(Cause::BadItt)?;
        if state == TaskState::Allocated {
            return Err(Cause::BadItt);
        }
        if let Some(ep) = self.ep(cid) {
            let position = ep.positions[usize::from(task.index)][which];
            ep.qp.completed(position);
        }
        Ok((task, data))
    }

    /// The posted management task that a completion names.
    fn management(&mut self, slot: u16, cid: u16, itt: Itt) -> Result<(TaskHandle, TaskData), Cause> {
        let (task, data) = self.completed(slot, cid, itt, 0)?;
        match data {
            TaskData::Command(_) | TaskData::Probe(_) => Err(Cause::BadItt),
            _ => Ok((task, data)),
        }
    }

    fn reclaim_task(&mut self, cid: u16, task: TaskHandle, proof: Proof) {
        if let Some(ep) = self.eps[usize::from(cid)].as_deref_mut() {
            reclaim(&mut self.platform, &mut ep.loans[usize::from(task.index)], proof);
        }
    }

    pub(super) fn free_task(&mut self, slot: u16, task: TaskHandle) {
        if let Some(s) = self.session(slot) {
            s.tasks.free(task);
            s.ladder.task_ended(task);
        }
    }
}

/// Reject reason "immediate command reject: too many immediate commands" (RFC 7143 11.17.1).
const IMMEDIATE_COMMAND_REJECT: u8 = 6;
/// Task management response "function rejected" (RFC 7143 11.6.1).
const TMF_REJECTED: u8 = 255;

/// Whether a login or text response lets its exchange go on: a login that succeeds so far and is not in the
/// full feature phase (RFC 7143 11.13), a text response without F (11.11.1).
fn goes_on(bhs: &[u8; 48]) -> bool {
    const TRANSIT_TO_FULL_FEATURE: u8 = 0x83;
    match bhs[0] {
        0x23 => bhs[36] == 0 && bhs[1] & TRANSIT_TO_FULL_FEATURE != TRANSIT_TO_FULL_FEATURE,
        0x24 => bhs[1] & 0x80 == 0,
        _ => false,
    }
}

/// Whether sense data says that the list of units, or what one of them is, has changed (SPC-4 table D.2):
/// capacity, identity, the list, or a unit that is not there.
fn tells_of_units(sense: Sense) -> bool {
    matches!((sense.asc, sense.ascq), (0x2A, 0x09) | (0x3F, 0x03 | 0x0E) | (0x25, 0x00))
}

/// A response header with what all CQEs have.
fn header(opcode: u8, flags: u8, cqe: &Cqe, length: u32) -> [u8; 48] {
    let r: &NopInMsg = cqe.view();
    let mut bhs = [0; 48];
    (bhs[0], bhs[1]) = (opcode, flags);
    bhs[5..8].copy_from_slice(&length.to_be_bytes()[1..]);
    bhs[28..32].copy_from_slice(&r.exp_cmd_sn.get().to_be_bytes());
    bhs[32..36].copy_from_slice(&r.max_cmd_sn.get().to_be_bytes());
    bhs
}

/// Sense data from the data segment of a SCSI response: two bytes of length, then the sense.
fn sense_of(segment: &[u8]) -> Option<Sense> {
    let (length, rest) = segment.split_first_chunk::<2>()?;
    Sense::parse(rest.get(..usize::from(u16::from_be_bytes(*length)))?)
}
