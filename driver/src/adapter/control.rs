//! Messages from and to iscsid and the path helper. Outgoing messages wait in bounded outboxes while a port
//! is full; what does not fit even there is dropped, counted, and announced.

use bus::actor::Cx;
use bus::pci::Platform;
use bus::trace::EventKind;
use bus::uio::ToHelper;
use hsi::bcm5709::limits::LOGIN_BUFFER_BYTES;

use super::session::TaskData;
use super::{Adapter, AdapterState};
use crate::bnx2i::{Phase, wqe};
use crate::control::{EpHandle, FromAdapter, ToAdapter};
use crate::error::Cause;
use crate::libiscsi::TaskState;

/// Messages to iscsid that wait for room in the port: a few for each session.
const OUTBOX: usize = 1024;
/// Messages to the helper that wait: a path request for each connection, and a little.
const HELPER_OUTBOX: usize = 256;

impl<P: Platform> Adapter<P> {
    /// Tells iscsid.
    pub(super) fn say(&mut self, message: FromAdapter) {
        if self.resync {
            self.counters.control_dropped += 1;
        } else if self.outbox.len() < OUTBOX {
            self.outbox.push_back(message);
        } else {
            self.counters.control_dropped += 1 + self.outbox.len() as u64;
            self.outbox.clear();
            self.resync = true;
            self.outbox.push_back(FromAdapter::Resync);
        }
    }

    /// Tells the helper. A lost path request runs into its deadline. News of the interface always have room:
    /// what waits before them is of no use any more.
    pub(super) fn tell_helper(&mut self, message: ToHelper) {
        match message {
            ToHelper::IfDown => self.helper_outbox.clear(),
            ToHelper::IfUp { .. } => self.helper_outbox.retain(|m| matches!(m, ToHelper::IfDown)),
            _ => {}
        }
        if self.helper_outbox.len() < HELPER_OUTBOX {
            self.helper_outbox.push_back(message);
        } else {
            self.counters.control_dropped += 1;
        }
    }

    /// Sends what the ports take.
    pub(super) fn flush_outboxes(&mut self) {
        while self.ports.control_out.room() > 0 {
            let Some(message) = self.outbox.pop_front() else { break };
            if self.ports.control_out.send(message).is_err() {
                self.counters.control_dropped += 1;
            }
        }
        while self.ports.path_out.room() > 0 {
            let Some(message) = self.helper_outbox.pop_front() else { break };
            if self.ports.path_out.send(message).is_err() {
                self.counters.control_dropped += 1;
            }
        }
    }

    /// Handles at most `budget` messages of each daemon, so that neither keeps the other out; returns how
    /// many.
    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, budget: u32) -> u32 {
        let mut done = 0;
        for _ in 0..budget {
            let Some(message) = self.ports.path_in.recv() else { break };
            self.on_helper(cx, message);
            done += 1;
        }
        for _ in 0..budget {
            let Some(message) = self.ports.control_in.recv() else { break };
            self.on_control(cx, message);
            done += 1;
        }
        done
    }

    pub(super) fn on_control(&mut self, cx: &mut Cx<'_>, message: ToAdapter) {
        match message {
            ToAdapter::Hello { serial } => self.hello(cx, serial),
            ToAdapter::CreateSession { tag, params } => self.create_session(cx, tag, *params),
            ToAdapter::DestroySession { session } => self.destroy_session(cx, session),
            ToAdapter::EpConnect { tag, portal } => self.ep_connect(cx, tag, portal),
            ToAdapter::EpDisconnect { ep } => match self.ep_of(ep).map(|e| e.session) {
                Some(_) => self.disconnect(cx, ep),
                None => self.stale(cx, 24, ep.cid),
            },
            ToAdapter::Bind { session, ep } => self.bind(session, ep),
            ToAdapter::SendPdu { ep, bhs, data } => self.send_pdu(cx, ep, &bhs, &data),
            ToAdapter::StartConn { session, params } => self.start_conn(cx, session, params),
            ToAdapter::StopConn { session, flag } => self.stop_conn(cx, session, flag),
        }
    }

    /// EP_DISCONNECT: what is connecting is cancelled at once (T4).
    fn disconnect(&mut self, cx: &mut Cx<'_>, ep: EpHandle) {
        if let Some(e) = self.ep_of(ep) {
            e.failed.get_or_insert(Cause::AdapterReset);
            // Who disconnects does not want the answer any more.
            e.answered = true;
        }
        if let Some(slot) = self.ep(ep.cid).and_then(|e| e.session)
            && let Some(s) = self.session(slot)
        {
            s.gate.failed(cx.now);
            s.keepalive = None;
            self.arm_session(cx, slot);
        }
        self.abandon(cx, ep.cid);
    }

    /// iscsid is new: endpoints of the old one that carry no I/O go, and it is told what there is.
    fn hello(&mut self, cx: &mut Cx<'_>, serial: u64) {
        self.resync = false;
        self.outbox.clear();
        for cid in 0..self.eps.len() as u16 {
            let Some(ep) = self.ep(cid) else { continue };
            if ep.phase < Phase::Full {
                ep.answered = true;
                ep.failed.get_or_insert(Cause::AdapterReset);
                self.abandon(cx, cid);
            }
        }
        if self.state == AdapterState::Up {
            self.say(FromAdapter::AdapterUp { age: self.age });
        }
        for slot in 0..self.sessions.len() as u16 {
            let session = self.session_id(slot);
            let Some(s) = self.session(slot) else { continue };
            let logged_in = s.gate.state() == crate::libiscsi::SessionState::LoggedIn;
            let tag = s.tag;
            self.say(FromAdapter::Session { session, tag, logged_in });
        }
        self.say(FromAdapter::Synced { serial });
    }

    /// SEND_PDU: login, text or logout. A PDU for an endpoint that is gone or going is dropped: its ConnError
    /// is on the way.
    fn send_pdu(&mut self, cx: &mut Cx<'_>, handle: EpHandle, bhs: &[u8; 48], data: &[u8]) {
        let Some(ep) = self.ep_of(handle).filter(|ep| !ep.doomed) else {
            return self.stale(cx, 19, handle.cid);
        };
        let opcode = bhs[0] & 0x3f;
        let allowed = match opcode {
            0x03 => ep.phase == Phase::Connected,
            0x04 | 0x06 => ep.phase == Phase::Full,
            _ => false,
        };
        let (cid, slot) = (handle.cid, ep.session);
        let (true, Some(slot)) = (allowed && data.len() <= LOGIN_BUFFER_BYTES, slot) else {
            return self.stale(cx, 19, cid);
        };
        // The request and response buffers exist once: one exchange at a time.
        let open = self.session(slot).and_then(|s| {
            let (task, t) = s.tasks.iter().find(|(_, t)| matches!(t.data, TaskData::Pdu { .. }))?;
            Some((task, t.state, t.data))
        });
        let tag = match open {
            Some((_, TaskState::Posted | TaskState::CleaningUp, _)) => return self.stale(cx, 19, cid),
            // The next request of a login or text exchange carries the tag of the first (RFC 7143 11.12,
            // 11.10.3).
            Some((task, TaskState::Allocated, TaskData::Pdu { opcode: first, .. })) if first == opcode => {
                Some(task)
            }
            Some((task, ..)) => {
                self.free_task(slot, task);
                None
            }
            None => None,
        };
        let Some(ep) = self.ep(cid) else { return };
        let (request_list, response_list) = ep.qp.stage_login(data);
        let staged = wqe::Staged { request_list, response_list, length: data.len() as u32 };
        let be32 = |at: usize| u32::from_be_bytes([bhs[at], bhs[at + 1], bhs[at + 2], bhs[at + 3]]);
        let task = TaskData::Pdu { opcode, itt: [bhs[16], bhs[17], bhs[18], bhs[19]], exp_stat_sn: be32(28) };
        // A request without the immediate bit spends its CmdSN.
        let immediate = opcode == 0x03 || bhs[0] & 0x40 != 0;
        let sent = self.post_mgmt(cx, slot, cid, tag, task, |index, sn, dummy| match opcode {
            0x03 => wqe::login(bhs, index, sn, staged),
            0x04 => wqe::text(bhs, index, sn, staged),
            _ => wqe::logout(bhs, index, sn, dummy),
        });
        if !sent {
            self.fail_endpoint(cx, cid, Cause::PduNotSent);
            return;
        }
        cx.event(EventKind::PduOut, u64::from(bhs[0]), u64::from(cid) << 32);
        if let Some(s) = self.session(slot) {
            if opcode == 0x06 {
                s.gate.logging_out();
            }
            if !immediate && opcode == 0x04 {
                s.window.take();
            }
        }
    }
}
