//! Data transfer (RFC 7143 11.7, 11.8): Data-In as the output has room, R2Ts as the negotiated limits allow,
//! and Data-Out with every number checked. A write whose Data-Out breaks a rule fails; its sequences are then
//! only followed to their ends, because the status comes after the data.

use super::command::{Ending, residual};
use super::server::TargetServer;
use super::session::{Link, Numbering, SEND_LIMIT, Session};
use super::task::{Sequence, Source, Stage, Working};
use crate::pdu::{
    Bhs, DataIn as DataInPdu, DataOut as DataOutPdu, Header, R2t, RESERVED_TAG, RejectReason, flags,
};
use crate::scsi::{Sense, Status};

impl TargetServer {
    /// Makes Data-In PDUs until the output holds half of its limit. The other half is for answers, so that
    /// reads never keep a request waiting: an ABORT TASK has to get in while data goes out.
    pub(super) fn pump(&mut self, link: &mut Link, session: &mut Session) {
        let limit = self.output_limit() / 2;
        while link.output.len() < limit {
            let Some(&slot) = session.sending.front() else { return };
            if self.send_data_in(link, session, slot) {
                session.sending.pop_front();
            }
        }
    }

    /// One Data-In PDU of the task in `slot`; true when the task has ended with it.
    fn send_data_in(&mut self, link: &mut Link, session: &mut Session, slot: usize) -> bool {
        let task = session.tasks.get(slot);
        let (origin, Stage::In(read)) = (task.origin, task.stage) else { return true };
        // A burst ends with the F bit; bursts are aligned to the start of the command.
        let burst = session.params.max_burst_length;
        let left_in_burst = burst - read.sent % burst;
        let len = (read.total - read.sent)
            .min(left_in_burst)
            .min(session.params.max_send_data_segment_length)
            .min(SEND_LIMIT);
        let last = read.sent + len == read.total;
        let mut pdu = DataInPdu::new();
        pdu.itt.set(origin.itt);
        pdu.ttt.set(RESERVED_TAG);
        pdu.data_sn.set(read.data_sn);
        pdu.buffer_offset.set(read.sent);
        pdu.flags = if last || len == left_in_burst { flags::FINAL } else { 0 };
        if last {
            // Phase collapse: GOOD rides on the last data.
            let (residual_flags, count) = residual(&origin, read.offered);
            pdu.flags |= flags::STATUS | residual_flags;
            pdu.residual.set(count);
            pdu.status = Status::GOOD.0;
            // Before the numbers are filled in: the status opens the window for the next command.
            session.count_end(origin.immediate);
        }
        let numbering = if last { Numbering::Consume } else { Numbering::Show };
        let before = link.stat_sn;
        link.stamp(&session.window, &mut pdu, numbering);
        let task = session.tasks.get(slot);
        let sent = match (read.source, session.target, origin.unit) {
            (Source::Medium(at), Some(target), Some(unit)) => {
                let disk = &mut self.targets[target].units[unit].disk;
                link.output.pdu_with(&mut pdu, len as usize, |out| {
                    disk.read(at + u64::from(read.sent), len as usize, out)
                })
            }
            _ => {
                let from = read.sent as usize;
                link.output.pdu(&mut pdu, &task.buffer[from..from + len as usize]);
                Ok(())
            }
        };
        match sent {
            Ok(()) => {
                self.journal.counters.data_in_bytes += u64::from(len);
                if last {
                    session.tasks.remove(slot);
                } else if let Stage::In(read) = &mut session.tasks.get(slot).stage {
                    read.sent += len;
                    read.data_sn += 1;
                }
                last
            }
            Err(sense) => {
                // The medium failed in the middle: the status comes in a SCSI Response, with the number meant
                // for the Data-In.
                link.stat_sn = before;
                let ending = Ending {
                    status: Status::CHECK_CONDITION,
                    sense: Some(sense),
                    wanted: u64::from(read.sent),
                    exp_data_sn: read.data_sn,
                };
                if last {
                    session.tasks.remove(slot);
                    self.send_response(link, session, &origin, ending);
                } else {
                    self.respond(link, session, slot, ending);
                }
                true
            }
        }
    }

    /// A Data-Out PDU.
    pub(super) fn data_out(
        &mut self,
        link: &mut Link,
        session: &mut Session,
        pdu: &DataOutPdu,
        data: &[u8],
        digest_ok: bool,
        now_ns: u64,
    ) {
        let ttt = pdu.ttt.get();
        let slot = if ttt == RESERVED_TAG {
            session.tasks.find(pdu.itt.get())
        } else {
            session.tasks.find_transfer(ttt)
        };
        let ttt = (ttt != RESERVED_TAG).then_some(ttt);
        let found = slot.filter(|&slot| session.tasks.get(slot).origin.itt == pdu.itt.get());
        if !digest_ok {
            link.reject(&session.window, Bhs::wire(pdu), RejectReason::DataDigestError, &mut self.journal);
        }
        let Some(slot) = found else {
            // What is still under way for an aborted command.
            self.journal.counters.stray_data_out += 1;
            return;
        };
        let task = session.tasks.get(slot);
        let Stage::Out(out) = &mut task.stage else {
            link.reject(&session.window, Bhs::wire(pdu), RejectReason::ProtocolError, &mut self.journal);
            return;
        };
        out.deadline_ns = now_ns.saturating_add(self.config.transfer_timeout_ns);
        let Some(at) = task.open.iter().position(|sequence| sequence.ttt == ttt) else {
            // Unsolicited data that was not announced, or after its end.
            out.fail(Sense::UNEXPECTED_UNSOLICITED_DATA);
            self.journal.counters.transfer_violations += 1;
            return self.advance(link, session, slot, now_ns);
        };
        let sequence = &mut task.open[at];
        let (offset, len) = (pdu.buffer_offset.get(), data.len() as u32);
        let end = sequence.at.checked_add(len).filter(|end| *end <= sequence.end);
        let complete = end == Some(sequence.end);
        // Exactly the next PDU of the oldest sequence, which ends with its last byte: DataPDUInOrder and
        // DataSequenceInOrder are Yes.
        let right = at == 0
            && (ttt.is_none() || pdu.lun == task.origin.lun)
            && pdu.data_sn.get() == sequence.data_sn
            && offset == sequence.at
            && end.is_some()
            && pdu.is_final() == complete;
        sequence.data_sn = sequence.data_sn.wrapping_add(1);
        sequence.at = end.unwrap_or(sequence.end);
        let unsolicited_end = (sequence.ttt.is_none()).then_some(sequence.at);
        if !digest_ok {
            out.fail(Sense::PROTOCOL_SERVICE_CRC);
        } else if !right {
            out.fail(Sense::INCORRECT_AMOUNT_OF_DATA);
            self.journal.counters.transfer_violations += 1;
        }
        if pdu.is_final() {
            if let Some(end) = unsolicited_end {
                out.asked = end;
            }
            task.open.remove(at);
        }
        // Nothing of it, nor of what comes after it, goes to the disk when the write has failed above.
        self.absorb(session, slot, offset, data);
        self.advance(link, session, slot, now_ns);
    }

    /// Gives data at `offset` of the command to the disk, as far as the command wants it and has not failed.
    pub(super) fn absorb(&mut self, session: &mut Session, slot: usize, offset: u32, data: &[u8]) {
        let task = session.tasks.get(slot);
        let (Stage::Out(out), Some(target), Some(unit)) = (&mut task.stage, session.target, task.origin.unit)
        else {
            return;
        };
        let (Some(job), None) = (out.job, out.verdict) else { return };
        let useful = data.len().min(out.limit.saturating_sub(offset) as usize);
        if useful == 0 {
            return;
        }
        debug_assert_eq!(offset, out.absorbed);
        let disk = &mut self.targets[target].units[unit].disk;
        match disk.absorb(&job, u64::from(offset), &data[..useful], &mut task.buffer) {
            Ok(()) => {
                out.absorbed += useful as u32;
                self.journal.counters.data_out_bytes += useful as u64;
            }
            Err(sense) => out.fail(sense),
        }
    }

    /// Moves a write on: asks for more, or ends it when nothing is under way any more.
    pub(super) fn advance(&mut self, link: &mut Link, session: &mut Session, slot: usize, now_ns: u64) {
        let most = usize::from(session.params.max_outstanding_r2t);
        loop {
            let task = session.tasks.get(slot);
            let Stage::Out(out) = &task.stage else { return };
            let unsolicited = task.open.first().is_some_and(|sequence| sequence.ttt.is_none());
            let asks =
                out.verdict.is_none() && !unsolicited && out.asked < out.limit && task.open.len() < most;
            if !asks {
                break;
            }
            self.send_r2t(link, session, slot, now_ns);
        }
        let task = session.tasks.get(slot);
        let (true, Stage::Out(out)) = (task.open.is_empty(), task.stage) else {
            self.wake_at(now_ns.saturating_add(self.config.transfer_timeout_ns));
            return;
        };
        let (status, sense) = match out.verdict {
            Some(verdict) => verdict,
            None => match self.finish_job(session, slot, &out) {
                Ok(None) => (Status::GOOD, None),
                Ok(Some(work)) => {
                    let working = Working { work, wanted: out.wanted, exp_data_sn: out.r2t_sn };
                    return self.begin_work(link, session, slot, working);
                }
                Err(refusal) => refusal.status(),
            },
        };
        let ending = Ending { status, sense, wanted: out.wanted, exp_data_sn: out.r2t_sn };
        self.respond(link, session, slot, ending);
    }

    fn send_r2t(&mut self, link: &mut Link, session: &mut Session, slot: usize, now_ns: u64) {
        let ttt = session.tasks.transfer_tag(slot);
        let burst = session.params.max_burst_length;
        let task = session.tasks.get(slot);
        let Stage::Out(out) = &mut task.stage else { return };
        let len = (out.limit - out.asked).min(burst);
        let mut pdu = R2t::new();
        pdu.lun = task.origin.lun;
        pdu.itt.set(task.origin.itt);
        pdu.ttt.set(ttt);
        pdu.r2t_sn.set(out.r2t_sn);
        pdu.buffer_offset.set(out.asked);
        pdu.desired_length.set(len);
        task.open.push(Sequence { ttt: Some(ttt), at: out.asked, end: out.asked + len, data_sn: 0 });
        out.asked += len;
        out.r2t_sn += 1;
        out.deadline_ns = now_ns.saturating_add(self.config.transfer_timeout_ns);
        link.send(&session.window, &mut pdu, &[], Numbering::Show);
        self.journal.counters.r2ts += 1;
    }

    /// Gives up the writes whose Data-Out did not come in time.
    pub(super) fn expire_transfers(&mut self, link: &mut Link, session: &mut Session, now_ns: u64) {
        let late: Vec<usize> = session
            .tasks
            .iter()
            .filter(|(_, task)| matches!(&task.stage, Stage::Out(out) if out.deadline_ns <= now_ns))
            .map(|(slot, _)| slot)
            .collect();
        for slot in late {
            let task = session.tasks.get(slot);
            task.open.clear();
            if let Stage::Out(out) = &mut task.stage {
                out.fail(Sense::INCORRECT_AMOUNT_OF_DATA);
            }
            self.journal.counters.transfer_timeouts += 1;
            self.advance(link, session, slot, now_ns);
        }
    }
}
