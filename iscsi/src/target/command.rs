//! SCSI Commands (RFC 7143 11.3): from the PDU to the logical unit, and the SCSI Response at the end. What a
//! command moves is decided by both the CDB and the expected data transfer length; the residual says by how
//! much they differ.

use super::config::Event;
use super::copy;
use super::disk::{Context, Outcome};
use super::job::Finish;
use super::reservation::{Effects, Refusal};
use super::server::TargetServer;
use super::session::{Link, Numbering, Session};
use super::task::{DataIn, DataOut, Origin, Sequence, Source, Stage, Working};
use super::work::Work;
use crate::pdu::{Header, ScsiCommand, ScsiResponse, flags};
use crate::scsi::{Cdb, Inquiry, Lun, Sense, SenseFormat, Status, op, report_luns};

/// What is expected of the data of a command, from its PDU.
struct Shape {
    reads: bool,
    writes: bool,
    /// Unsolicited Data-Out is announced.
    more: bool,
    /// Immediate and unsolicited data may come to this much.
    first_burst: u32,
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) status: Status,
    pub(super) sense: Option<Sense>,
    /// Bytes that the SCSI layer would have moved (SPDTL).
    pub(super) wanted: u64,
    /// Data-In and R2T PDUs sent.
    pub(super) exp_data_sn: u32,
}

/// Residual flags and count (RFC 7143 11.4.5.1).
pub(super) fn residual(origin: &Origin, wanted: u64) -> (u8, u32) {
    let edtl = u64::from(origin.edtl);
    if wanted > edtl {
        (flags::OVERFLOW, u32::try_from(wanted - edtl).unwrap_or(u32::MAX))
    } else if wanted < edtl && origin.moves_data {
        (flags::UNDERFLOW, (edtl - wanted) as u32)
    } else {
        (0, 0)
    }
}

impl TargetServer {
    /// A SCSI Command whose turn has come.
    pub(super) fn scsi_command(
        &mut self,
        link: &mut Link,
        session: &mut Session,
        pdu: &ScsiCommand,
        data: &[u8],
        now_ns: u64,
    ) {
        let Some(target) = session.target else { return };
        let edtl = pdu.expected_data_transfer_length.get();
        let origin = Origin {
            itt: pdu.itt.get(),
            lun: pdu.lun,
            unit: self.targets[target].unit_index(Lun(pdu.lun)),
            cmd_sn: pdu.cmd_sn.get(),
            immediate: pdu.is_immediate(),
            edtl,
            moves_data: pdu.reads() || pdu.writes(),
        };
        let shape = Shape {
            reads: pdu.reads(),
            writes: pdu.writes(),
            more: pdu.writes() && !pdu.is_final(),
            first_burst: session.params.first_burst_length.min(edtl),
        };
        self.journal.counters.commands += 1;
        session.executed += u64::from(!origin.immediate);
        session.immediate_tasks += u32::from(origin.immediate);
        if self.config.trace_commands {
            self.journal.emit(Event::Executed {
                conn: link.id,
                tsih: session.tsih,
                cmd_sn: origin.cmd_sn,
                immediate: origin.immediate,
                itt: origin.itt,
                opcode: pdu.cdb[0],
            });
        }
        let nothing = DataIn { source: Source::Buffer, offered: 0, total: 0, sent: 0, data_sn: 0 };
        let Some(slot) = session.tasks.insert(origin, Stage::In(nothing)) else {
            // The window and the immediate limit leave a slot for every admitted command.
            debug_assert!(false, "more tasks than slots");
            return;
        };
        let violation = violation(session, &shape, data.len());
        let outcome = match violation {
            Some(sense) => sense.into(),
            // An extended CDB is longer than any command of a disk, and no command here is bidirectional.
            None if pdu.total_ahs_length != 0 => Sense::INVALID_OPCODE.into(),
            None if shape.reads && shape.writes => Sense::INFORMATION_UNIT.into(),
            None => self.decide(target, session, slot, &pdu.cdb),
        };
        if violation.is_some() {
            self.journal.counters.transfer_violations += 1;
        }
        self.begin(link, session, slot, &shape, outcome, data, now_ns);
    }

    /// Asks the logical unit, or answers for one that is not there. Reply data goes to the task's buffer.
    fn decide(&mut self, at: usize, session: &mut Session, slot: usize, cdb: &[u8; 16]) -> Outcome {
        let task = session.tasks.get(slot);
        let target = &mut self.targets[at];
        let parsed = Cdb::parse(cdb);
        if let Ok(Cdb::ReportLuns { select, allocation }) = parsed {
            return match select {
                0 | 2 => {
                    report_luns(
                        target.units.iter().filter_map(|unit| Lun::from_number(unit.number)),
                        &mut task.buffer,
                    );
                    task.buffer.truncate(allocation as usize);
                    Outcome::Reply
                }
                // Well-known units are not listed, because REPORT LUNS is answered everywhere.
                1 => {
                    report_luns(std::iter::empty(), &mut task.buffer);
                    task.buffer.truncate(allocation as usize);
                    Outcome::Reply
                }
                _ => Sense::invalid_cdb_byte(2).into(),
            };
        }
        let Some(unit) = task.origin.unit else {
            return match parsed {
                Ok(Cdb::Inquiry { evpd: false, allocation, .. }) => {
                    Inquiry::ABSENT.encode(&mut task.buffer);
                    task.buffer.truncate(usize::from(allocation));
                    Outcome::Reply
                }
                Ok(Cdb::RequestSense { descriptor, allocation }) => {
                    let format = if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed };
                    task.buffer.extend_from_slice(Sense::LU_NOT_SUPPORTED.encode(format).as_slice());
                    task.buffer.truncate(usize::from(allocation));
                    Outcome::Reply
                }
                _ => Sense::LU_NOT_SUPPORTED.into(),
            };
        };
        // SAM-5 5.14: INQUIRY leaves a unit attention alone, REQUEST SENSE returns it as data, everything
        // else fails with it.
        let attention = match parsed {
            Ok(Cdb::Inquiry { .. }) => None,
            _ => session.attentions[unit].take(),
        };
        let sense = match (attention, parsed) {
            (Some(sense), Ok(Cdb::RequestSense { .. })) => sense,
            (Some(sense), _) => return sense.into(),
            (None, _) => Sense::NONE,
        };
        if let Ok(Cdb::ReceiveCopyResults { action: op::SA_COPY_STATUS, list_id, allocation }) = parsed
            && let Some(segments) = Self::copy_under_way(session, unit, list_id)
        {
            let task = session.tasks.get(slot);
            copy::status(0, segments, &mut task.buffer);
            task.buffer.truncate(allocation as usize);
            return Outcome::Reply;
        }
        let task = session.tasks.get(slot);
        match parsed {
            Err(error) => error.sense().into(),
            Ok(cdb) => {
                let context = Context {
                    nexus: &session.nexus,
                    target: &target.key,
                    portal_group: self.config.portal_group,
                    sense,
                };
                let disk = &mut target.units[unit].disk;
                let outcome = disk.start(&context, &cdb, &mut task.buffer);
                if let (Cdb::Sanitize { .. }, true) = (&cdb, disk.is_sanitizing()) {
                    self.erasing.retain(|other| *other != (at, unit));
                    self.erasing.push_back((at, unit));
                }
                self.tell_others(at, unit);
                outcome
            }
        }
    }

    /// COPY STATUS of a copy that is still under way: its command is one of this session's tasks.
    fn copy_under_way(session: &Session, unit: usize, list_id: u8) -> Option<u16> {
        session.tasks.iter().find_map(|(_, task)| match &task.stage {
            Stage::Work(Working { work, .. })
                if work.is_copy()
                    && task.origin.unit == Some(unit)
                    && task.buffer.first() == Some(&list_id) =>
            {
                Some(work.copy_state().0.saturating_sub(1) as u16)
            }
            _ => None,
        })
    }

    /// The unit attention that a command at a unit means for every other nexus. The session that is served is
    /// not in the table.
    fn tell_others(&mut self, target: usize, unit: usize) {
        if let Some(sense) = self.targets[target].units[unit].disk.take_notice() {
            self.for_sessions_of(target, |_, other| other.establish(unit, sense));
        }
    }

    /// Sets the task on its way: out with data, in with data, or to its end.
    #[allow(clippy::too_many_arguments, reason = "all of it is the command at hand")]
    fn begin(
        &mut self,
        link: &mut Link,
        session: &mut Session,
        slot: usize,
        shape: &Shape,
        outcome: Outcome,
        data: &[u8],
        now_ns: u64,
    ) {
        let task = session.tasks.get(slot);
        let edtl = task.origin.edtl;
        let offered = match outcome {
            Outcome::Reply => Some((Source::Buffer, task.buffer.len() as u64)),
            Outcome::Read { at, len } => Some((Source::Medium(at), len)),
            _ => None,
        };
        if let (Some((source, offered)), false) = (offered, shape.writes) {
            let total = if shape.reads { offered.min(u64::from(edtl)) as u32 } else { 0 };
            task.stage = Stage::In(DataIn { source, offered, total, sent: 0, data_sn: 0 });
            if total == 0 {
                let ending = Ending { status: Status::GOOD, sense: None, wanted: offered, exp_data_sn: 0 };
                return self.respond(link, session, slot, ending);
            }
            session.sending.push_back(slot);
            return;
        }
        let mut out = DataOut {
            job: None,
            work: None,
            wanted: 0,
            limit: 0,
            absorbed: 0,
            asked: 0,
            r2t_sn: 0,
            verdict: None,
            deadline_ns: now_ns.saturating_add(self.config.transfer_timeout_ns),
        };
        match outcome {
            Outcome::Done(status, sense) => out.verdict = Some((status, sense)),
            Outcome::Work(work) => out.work = Some(work),
            // A read that was sent as a write: what came with it is taken and ignored.
            Outcome::Reply | Outcome::Read { .. } => out.verdict = Some((Status::GOOD, None)),
            Outcome::Out(job) => {
                out.wanted = job.len;
                let all = u64::from(edtl) == job.len;
                if shape.reads || (job.needs_all() && !(all && (shape.writes || edtl == 0))) {
                    out.fail(job.misfit());
                } else if shape.writes {
                    out.job = Some(job);
                    out.limit = job.len.min(u64::from(edtl)) as u32;
                } else {
                    // Neither R nor W: nothing is written, and the residual says so.
                    out.verdict = Some((Status::GOOD, None));
                }
            }
        }
        // Within the first burst, which the check of the command has seen to.
        let immediate = data.len() as u32;
        out.asked = immediate;
        if shape.more {
            task.open.push(Sequence { ttt: None, at: immediate, end: shape.first_burst, data_sn: 0 });
        }
        task.stage = Stage::Out(out);
        self.absorb(session, slot, 0, data);
        self.advance(link, session, slot, now_ns);
    }

    /// Sends the SCSI Response and ends the task.
    pub(super) fn respond(&mut self, link: &mut Link, session: &mut Session, slot: usize, ending: Ending) {
        let origin = session.tasks.get(slot).origin;
        session.end_task(slot);
        self.send_response(link, session, &origin, ending);
    }

    /// The SCSI Response of a command that has been counted as ended.
    pub(super) fn send_response(
        &mut self,
        link: &mut Link,
        session: &Session,
        origin: &Origin,
        ending: Ending,
    ) {
        let mut response = ScsiResponse::new();
        let (residual_flags, count) = residual(origin, ending.wanted);
        response.flags |= residual_flags;
        response.residual.set(count);
        response.status = ending.status.0;
        response.itt.set(origin.itt);
        response.exp_data_sn.set(ending.exp_data_sn);
        let mut data = [0; 2 + 32];
        let mut len = 0;
        if let Some(sense) = ending.sense {
            self.journal.counters.checks += 1;
            self.report_trouble(session.target, origin.unit);
            let format = match (session.target, origin.unit) {
                (Some(target), Some(unit)) => self.targets[target].units[unit].disk.sense_format(),
                _ => SenseFormat::Fixed,
            };
            let encoded = sense.encode(format);
            let bytes = encoded.as_slice();
            data[1] = bytes.len() as u8;
            data[2..2 + bytes.len()].copy_from_slice(bytes);
            len = 2 + bytes.len();
        }
        link.send(&session.window, &mut response, &data[..len], Numbering::Consume);
    }

    /// Ends a job at its disk and carries out what it means for others, or says what is left to do.
    pub(super) fn finish_job(
        &mut self,
        session: &mut Session,
        slot: usize,
        out: &DataOut,
    ) -> Result<Option<Work>, Refusal> {
        let (Some(job), Some(target)) = (out.job, session.target) else { return Ok(out.work) };
        let task = session.tasks.get(slot);
        let Some(unit) = task.origin.unit else { return Ok(None) };
        let disk = &mut self.targets[target].units[unit].disk;
        let finish = disk.finish(&session.nexus, &job, u64::from(out.absorbed), &mut task.buffer)?;
        self.tell_others(target, unit);
        match finish {
            Finish::Done(effects) => {
                self.carry_out(session, slot, target, unit, &effects);
                Ok(None)
            }
            Finish::Work(work) => Ok(Some(work)),
        }
    }

    /// Unit attentions and aborts that a PERSISTENT RESERVE OUT meant for other nexuses.
    fn carry_out(
        &mut self,
        session: &mut Session,
        slot: usize,
        target: usize,
        unit: usize,
        effects: &Effects,
    ) {
        let mut aborted = 0;
        for nexus in &effects.aborted {
            let mut abort = |other: &mut Session, spared: Option<u32>| {
                aborted += other.abort_tasks(|o| o.unit == Some(unit) && Some(o.itt) != spared);
            };
            if session.nexus == *nexus {
                let own = session.tasks.get(slot).origin.itt;
                abort(session, Some(own));
            }
            self.for_sessions_of(target, |_, other| {
                if other.nexus == *nexus {
                    abort(other, None);
                }
            });
        }
        self.journal.counters.aborted_tasks += u64::from(aborted);
        for (nexus, sense) in &effects.attentions {
            self.for_sessions_of(target, |_, other| {
                if other.nexus == *nexus {
                    other.establish(unit, *sense);
                }
            });
        }
    }
}

/// Data that came with the command, or is announced, against what was negotiated (RFC 7143 4.2.4.2, 11.3.4).
fn violation(session: &Session, shape: &Shape, immediate: usize) -> Option<Sense> {
    if immediate > 0 && !(shape.writes && session.params.immediate_data) {
        return Some(Sense::UNEXPECTED_UNSOLICITED_DATA);
    }
    if immediate > shape.first_burst as usize {
        return Some(Sense::INCORRECT_AMOUNT_OF_DATA);
    }
    if shape.more && session.params.initial_r2t {
        return Some(Sense::UNEXPECTED_UNSOLICITED_DATA);
    }
    None
}
