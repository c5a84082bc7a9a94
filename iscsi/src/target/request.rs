//! Requests of a session in full feature phase: judged first (format, digest, CmdSN), run when their turn
//! comes (RFC 7143 4.2.2). Here are also the ones that are over at once: NOP-Out, Logout and the refusal of
//! SNACK.

use super::config::CloseReason;
use super::server::TargetServer;
use super::session::{Link, Numbering, Session, State};
use super::window::Turn;
use crate::pdu::{
    Bhs, Header, LogoutReason, LogoutRequest, LogoutResponse, LogoutResponseCode, NopIn, NopOut, Opcode, Pdu,
    RESERVED_TAG, RejectReason,
};
use crate::serial::Sn;

/// Offset of CmdSN in every request that has one.
const CMD_SN_AT: usize = 24 - 20;

impl TargetServer {
    /// A whole PDU arrived.
    pub(super) fn request(
        &mut self,
        link: &mut Link,
        session: &mut Session,
        header: &[u8; 48],
        data: &[u8],
        digest_ok: bool,
        now_ns: u64,
    ) {
        let bhs = Bhs::from_bytes(header);
        if !digest_ok {
            self.journal.counters.data_digest_errors += 1;
        }
        let pdu = match bhs.pdu() {
            Ok(pdu) => pdu,
            Err(error) => {
                return link.reject(&session.window, header, error.reject_reason(), &mut self.journal);
            }
        };
        if let (Pdu::DataOut(pdu), Some(_)) = (&pdu, session.target) {
            return self.data_out(link, session, pdu, data, digest_ok, now_ns);
        }
        // What is rejected here leaves its CmdSN unreceived: the initiator sends it again or aborts it (RFC
        // 7143 11.17.1).
        if let Some(reason) = self.objection(session, &pdu, data, digest_ok) {
            return link.reject(&session.window, header, reason, &mut self.journal);
        }
        if bhs.is_immediate() {
            self.run(link, session, header, data, now_ns);
        } else {
            let cmd_sn = Sn(bhs.rest[CMD_SN_AT..].first_chunk().map_or(0, |b| u32::from_be_bytes(*b)));
            match session.window.judge(cmd_sn) {
                Turn::Never => {
                    self.journal.counters.ignored_cmd_sn += 1;
                    return;
                }
                Turn::Now => self.run(link, session, header, data, now_ns),
                Turn::Later if session.window.hold(cmd_sn, header, data, self.share()) => {
                    self.journal.counters.held += 1
                }
                Turn::Later => {
                    return link.reject(
                        &session.window,
                        header,
                        RejectReason::OutOfResources,
                        &mut self.journal,
                    );
                }
            }
        }
        while session.state == State::Running
            && let Some((header, data)) = session.window.next_held()
        {
            let bhs = Bhs::from_bytes(&header);
            if bhs.opcode() == Ok(Opcode::ScsiCommand) && session.tasks.find(bhs.itt.get()).is_some() {
                // While it waited, another command took its tag.
                session.window.release();
                link.reject(&session.window, &header, RejectReason::TaskInProgress, &mut self.journal);
            } else {
                self.run(link, session, &header, &data, now_ns);
            }
        }
    }

    /// Why a request cannot even be queued.
    fn objection(
        &self,
        session: &Session,
        pdu: &Pdu<'_>,
        data: &[u8],
        digest_ok: bool,
    ) -> Option<RejectReason> {
        if !digest_ok {
            return Some(RejectReason::DataDigestError);
        }
        let discovery = session.target.is_none();
        match pdu {
            Pdu::ScsiCommand(_) | Pdu::TaskManagementRequest(_) | Pdu::DataOut(_) if discovery => {
                Some(RejectReason::ProtocolError)
            }
            Pdu::ScsiCommand(command) => {
                if command.itt.get() == RESERVED_TAG {
                    Some(RejectReason::InvalidField)
                } else if !command.is_immediate() && !session.window.is_open_for(command.cmd_sn.into()) {
                    // To be ignored, whatever its tag.
                    None
                } else if session.tasks.find(command.itt.get()).is_some() {
                    Some(RejectReason::TaskInProgress)
                } else if command.is_immediate() && session.immediate_tasks >= self.config.immediate_limit {
                    Some(RejectReason::TooManyImmediate)
                } else {
                    None
                }
            }
            Pdu::TextRequest(text) => self.text_objection(session, text, data),
            Pdu::NopOut(_) | Pdu::TaskManagementRequest(_) | Pdu::LogoutRequest(_) => None,
            Pdu::SnackRequest(_) => Some(RejectReason::SnackRejected),
            // A login in full feature phase, and what only a target sends.
            _ => Some(RejectReason::ProtocolError),
        }
    }

    /// Runs a request whose turn it is.
    fn run(&mut self, link: &mut Link, session: &mut Session, header: &[u8; 48], data: &[u8], now_ns: u64) {
        let bhs = Bhs::from_bytes(header);
        let Ok(pdu) = bhs.pdu() else { return };
        if let Pdu::ScsiCommand(command) = pdu {
            return self.scsi_command(link, session, command, data, now_ns);
        }
        // All others are over with their answer, which already shows the room that they leave.
        if !bhs.is_immediate() {
            session.window.release();
        }
        match pdu {
            Pdu::TaskManagementRequest(request) => self.task_management(link, session, request),
            Pdu::NopOut(nop) => nop_out(link, session, nop, data),
            Pdu::TextRequest(text) => self.text_request(link, session, text, data),
            Pdu::LogoutRequest(logout) => self.logout(link, session, logout),
            _ => {}
        }
    }

    fn logout(&mut self, link: &mut Link, session: &mut Session, request: &LogoutRequest) {
        let code = match request.reason() {
            Some(LogoutReason::CloseSession) => LogoutResponseCode::Success,
            Some(LogoutReason::CloseConnection) if request.cid.get() == session.cid => {
                LogoutResponseCode::Success
            }
            Some(LogoutReason::CloseConnection) => LogoutResponseCode::CidNotFound,
            _ => LogoutResponseCode::RecoveryUnsupported,
        };
        let ends = code == LogoutResponseCode::Success;
        if ends {
            self.journal.counters.aborted_tasks += u64::from(session.abort_tasks(|_| true));
        }
        let mut response = LogoutResponse::new();
        response.itt = request.itt;
        response.response = code.code();
        response.time2wait.set(session.params.time2wait);
        link.send(&session.window, &mut response, &[], Numbering::Consume);
        if ends {
            session.state = State::Ended(CloseReason::Logout);
        }
    }
}

/// A ping is echoed, cut to what the initiator takes (RFC 7143 11.18, 11.19). An answer to our own ping is
/// not answered.
fn nop_out(link: &mut Link, session: &mut Session, nop: &NopOut, data: &[u8]) {
    if nop.itt.get() == RESERVED_TAG {
        if link.ping.is_some_and(|ping| ping.ttt == nop.ttt.get()) {
            link.ping = None;
        }
        return;
    }
    let mut answer = NopIn::new();
    answer.itt = nop.itt;
    let len = data.len().min(session.send_limit() as usize);
    link.send(&session.window, &mut answer, &data[..len], Numbering::Consume);
}
