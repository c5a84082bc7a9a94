//! Task management (RFC 7143 11.5, 11.6; SAM-5 7). A function ends its tasks in every session that it
//! concerns, tells the other nexuses by unit attention (TAS is 0), and only then answers: after the response
//! nothing more is sent for those tasks. Data-Out that is still on its way is discarded when it comes.

use super::config::{CloseReason, Event};
use super::server::TargetServer;
use super::session::{Link, Numbering, Session, State};
use crate::pdu::{Header, Opcode, TaskManagementRequest, TaskManagementResponse, TmfFunction, TmfResponse};
use crate::scsi::{Lun, Sense};
use crate::serial::Sn;

impl TargetServer {
    /// A Task Management Function Request whose turn has come.
    pub(super) fn task_management(
        &mut self,
        link: &mut Link,
        session: &mut Session,
        request: &TaskManagementRequest,
    ) {
        let Some(target) = session.target else { return };
        let function = request.function();
        let unit = self.targets[target].unit_index(Lun(request.lun));
        let (response, aborted) = match (function, unit) {
            (Some(TmfFunction::AbortTask), _) => abort_task(session, request),
            (
                Some(TmfFunction::AbortTaskSet | TmfFunction::ClearTaskSet | TmfFunction::LogicalUnitReset),
                None,
            ) => (TmfResponse::NoSuchLun, 0),
            (Some(TmfFunction::AbortTaskSet), Some(unit)) => {
                (TmfResponse::Complete, self.abort_unit(target, unit, session))
            }
            (Some(TmfFunction::ClearTaskSet), Some(unit)) => {
                let mut aborted = self.abort_unit(target, unit, session);
                let lun = Lun(request.lun).number();
                self.for_sessions_of(target, |_, other| {
                    let cleared = other.abort_tasks(|o| o.unit == Some(unit))
                        + other.abort_held(|field| Lun(*field).number() == lun);
                    if cleared > 0 {
                        other.establish(unit, Sense::COMMANDS_CLEARED);
                    }
                    aborted += cleared;
                });
                (TmfResponse::Complete, aborted)
            }
            (Some(TmfFunction::LogicalUnitReset), Some(unit)) => {
                (TmfResponse::Complete, self.reset_units(target, Some(unit), session, Sense::DEVICE_RESET))
            }
            (Some(TmfFunction::TargetWarmReset), _) => {
                (TmfResponse::Complete, self.reset_units(target, None, session, Sense::BUS_RESET))
            }
            (Some(TmfFunction::TargetColdReset), _) => {
                (TmfResponse::Complete, self.reset_units(target, None, session, Sense::POWER_ON_OCCURRED))
            }
            (Some(TmfFunction::TaskReassign), _) => (TmfResponse::ReassignUnsupported, 0),
            // CLEAR ACA: no unit has one. The rest is of iSCSIProtocolLevel 2, which is not negotiated.
            _ => (TmfResponse::NotSupported, 0),
        };
        self.journal.counters.aborted_tasks += u64::from(aborted);
        self.journal.emit(Event::TaskManagement { conn: link.id, function, response, aborted });
        let mut answer = TaskManagementResponse::new();
        answer.itt = request.itt;
        answer.response = response.code();
        link.send(&session.window, &mut answer, &[], Numbering::Consume);
        if function == Some(TmfFunction::TargetColdReset) {
            session.state = State::Ended(CloseReason::Dropped);
            self.for_sessions_of(target, |_, other| other.state = State::Ended(CloseReason::Dropped));
            self.unsettled = true;
        }
    }

    /// Ends this session's tasks at a unit.
    fn abort_unit(&mut self, target: usize, unit: usize, session: &mut Session) -> u32 {
        let number = self.targets[target].units[unit].number;
        session.abort_tasks(|o| o.unit == Some(unit))
            + session.abort_held(|f| Lun(*f).number() == Some(number))
    }

    /// Resets one unit or all: every session's tasks end, RESERVE(6) is released, every nexus is told.
    fn reset_units(
        &mut self,
        target: usize,
        unit: Option<usize>,
        session: &mut Session,
        sense: Sense,
    ) -> u32 {
        let number = unit.map(|unit| self.targets[target].units[unit].number);
        let chosen = |at: usize| unit.is_none_or(|unit| unit == at);
        for (_, unit) in self.targets[target].units.iter_mut().enumerate().filter(|(at, _)| chosen(*at)) {
            unit.disk.reset();
        }
        let mut aborted = 0;
        let mut reset = |session: &mut Session| {
            aborted += session.abort_tasks(|o| o.unit.is_none_or(chosen))
                + session.abort_held(|f| number.is_none() || Lun(*f).number() == number);
            for at in (0..session.attentions.len()).filter(|at| chosen(*at)) {
                session.establish(at, sense);
            }
        };
        reset(session);
        self.for_sessions_of(target, |_, other| reset(other));
        aborted
    }
}

/// ABORT TASK (RFC 7143 11.5.1): a task under way ends; one that never came is counted as received, so that
/// it cannot come later.
fn abort_task(session: &mut Session, request: &TaskManagementRequest) -> (TmfResponse, u32) {
    let itt = request.referenced_task_tag.get();
    let lun = request.lun;
    let aborted = session.abort_tasks(|o| o.itt == itt && o.lun == lun)
        + session.window.abort_held(|header| {
            let bhs = crate::pdu::Bhs::from_bytes(header);
            bhs.opcode() == Ok(Opcode::ScsiCommand) && bhs.itt.get() == itt && bhs.lun == lun
        });
    if aborted > 0 {
        return (TmfResponse::Complete, aborted);
    }
    let ref_cmd_sn = Sn::from(request.ref_cmd_sn);
    if ref_cmd_sn.lt(request.cmd_sn.into()) && session.window.is_open_for(ref_cmd_sn) {
        session.window.plug(ref_cmd_sn);
        return (TmfResponse::Complete, 0);
    }
    (TmfResponse::NoSuchTask, 0)
}
