//! The checks of received headers (BNX2I-CNIC 6.2; triggers from RFC 7143): each violation has its completion
//! status, and the error mask decides whether the connection goes on.
//!
//! A violation that is only a warning is looked over where something sensible is left to do; where not (no
//! task, no room), the PDU is dropped. Bounds hold either way: nothing is placed outside a task's buffer.
//!
//! [I] Residuals: 0x11 both flags, 0x12 a residual without a flag, 0x13 a flag with a residual that the
//! length excludes, 0x14 underflow and 0x15 overflow that the bytes received contradict, 0x16 missing
//! underflow, 0x17 flags of bidirectional commands. The bytes are only judged for reads that ended GOOD.

use hsi::kernel::kcq::CompletionStatus as Status;
use iscsi::pdu::{self, Bhs, Header, Opcode, RESERVED_TAG, flags};
use iscsi::serial::Sn;

use super::conn::Conn;
use super::rx::{Place, Verdict};
use super::task::{Kind, State};
use super::{Core, MAX_R2TS};

/// A violation that is an error, or a warning that leaves nothing to do.
struct Stop;

type Checked = Result<Verdict, Stop>;

/// StatSN of a PDU that consumes one (RFC 7143 4.2.2.2).
pub(super) fn stat_sn(bhs: &Bhs) -> Option<Sn> {
    let consumes = match bhs.opcode().ok()? {
        Opcode::DataIn => bhs.flags & flags::STATUS != 0,
        Opcode::NopIn => bhs.itt.get() != RESERVED_TAG,
        Opcode::R2t => false,
        opcode => !opcode.is_request(),
    };
    // At the same place in all of them.
    consumes.then(|| Sn::from(pdu::ScsiResponse::cast(bhs).stat_sn))
}

/// Whether the PDU needs an RQ buffer (BNX2I-CNIC 5.7).
fn needs_rq_buffer(bhs: &Bhs) -> bool {
    match bhs.opcode() {
        Ok(Opcode::ScsiResponse) => bhs.data_len() != 0,
        Ok(Opcode::NopIn) => bhs.itt.get() == RESERVED_TAG,
        Ok(Opcode::AsyncMessage | Opcode::Reject) => true,
        _ => false,
    }
}

impl Conn {
    /// Judges a complete header.
    pub(super) fn judge(&mut self, core: &mut Core, bhs: &Bhs) -> Verdict {
        if needs_rq_buffer(bhs) && self.rq.available() == 0 {
            return Verdict::Wait;
        }
        self.judge_header(core, bhs).unwrap_or(Verdict::Drop)
    }

    fn judge_header(&mut self, core: &mut Core, bhs: &Bhs) -> Checked {
        let opcode = match bhs.opcode() {
            Ok(opcode) if !opcode.is_request() => opcode,
            _ => return self.stop(core, Status::PROTOCOL_ERR_OPCODE),
        };
        let in_phase = match opcode {
            Opcode::LoginResponse => !self.full_feature,
            Opcode::TextResponse | Opcode::Reject => true,
            _ => self.full_feature,
        };
        if !in_phase {
            return self.stop(core, Status::PROTOCOL_ERR_UNEXPECTED_OPCODE);
        }
        self.check(core, bhs.ahs_len() == 0, Status::PROTOCOL_ERR_AHS_LEN)?;
        let len = bhs.data_segment_length.get();
        self.check(core, len <= self.params.max_recv_pdu, Status::PROTOCOL_ERR_MAX_RCV_PDU_LEN)?;
        // The first number of a connection is the target's choice; UPDATE_CONN says where full feature phase
        // starts.
        if let Some(sn) = stat_sn(bhs).filter(|_| self.full_feature) {
            self.check(core, sn == self.exp_stat_sn, Status::PROTOCOL_ERR_STATSN)?;
        }
        let always_final = !matches!(opcode, Opcode::LoginResponse | Opcode::TextResponse | Opcode::DataIn);
        self.check(core, bhs.is_final() || !always_final, Status::PROTOCOL_ERR_F_BIT_ZERO)?;
        match opcode {
            Opcode::DataIn => self.judge_data_in(core, pdu::DataIn::cast(bhs)),
            Opcode::R2t => self.judge_r2t(core, pdu::R2t::cast(bhs)),
            Opcode::ScsiResponse => self.judge_scsi_response(core, pdu::ScsiResponse::cast(bhs)),
            Opcode::LoginResponse => self.judge_text(core, bhs, Kind::Login),
            Opcode::TextResponse => self.judge_text(core, bhs, Kind::Text),
            Opcode::TaskManagementResponse => self.judge_bare(core, bhs, Kind::Tmf),
            Opcode::LogoutResponse => self.judge_bare(core, bhs, Kind::Logout),
            Opcode::NopIn => self.judge_nop_in(core, pdu::NopIn::cast(bhs)),
            Opcode::AsyncMessage => {
                self.check(core, bhs.itt.get() == RESERVED_TAG, Status::PROTOCOL_ERR_ITT)?;
                self.judge_unsolicited(core, len, len <= self.rq.size(), Status::PROTOCOL_ERR_ASYNC_PDU_LEN)
            }
            Opcode::Reject => {
                let fits = (pdu::BHS_LEN as u32..=self.rq.size()).contains(&len);
                self.judge_unsolicited(core, len, fits, Status::PROTOCOL_ERR_REJECT_PDU_LEN)
            }
            _ => self.stop(core, Status::PROTOCOL_ERR_OPCODE),
        }
    }

    fn judge_data_in(&mut self, core: &mut Core, pdu: &pdu::DataIn) -> Checked {
        let index = self.task(core, pdu, |k| k == Kind::Read)?;
        let Some(task) = self.tasks.get(index) else { return Err(Stop) };
        let (len, next, received) = (task.len, task.next_offset, task.received);
        let (burst, lun) = (task.burst, task.lun);
        let (data, offset) = (pdu.data_segment_length.get(), pdu.buffer_offset.get());
        let acknowledge = pdu.flags & flags::ACKNOWLEDGE != 0;
        let last = pdu.has_status();
        self.check(core, data != 0, Status::PROTOCOL_ERR_DATA_SEG_LEN_IS_ZERO)?;
        self.check(core, pdu.is_final() || !last, Status::PROTOCOL_ERR_F_BIT_ZERO)?;
        self.check(core, acknowledge || pdu.ttt.get() == RESERVED_TAG, Status::PROTOCOL_ERR_TTT_NOT_RSRV)?;
        self.check(core, !acknowledge || pdu.lun == lun, Status::PROTOCOL_ERR_LUN)?;
        self.check(core, pdu.data_sn.get() == received, Status::PROTOCOL_ERR_DATASN)?;
        self.check(core, offset == next, Status::PROTOCOL_ERR_BUFFER_OFF)?;
        let end = u64::from(offset) + u64::from(data);
        if end > u64::from(len) {
            return self.stop(core, Status::PROTOCOL_ERR_REMAIN_RCV_LEN);
        }
        let sequence = u64::from(burst) + u64::from(data);
        self.check(
            core,
            sequence <= u64::from(self.params.max_burst),
            Status::PROTOCOL_ERR_REMAIN_BURST_LEN,
        )?;
        if last {
            let moved = (pdu.status == GOOD).then_some(end as u32);
            self.check_residual(core, pdu.flags & !flags::ACKNOWLEDGE, pdu.residual.get(), len, moved)?;
        }
        Ok(Verdict::Accept(Place::Task { index, offset }, Some(index)))
    }

    fn judge_r2t(&mut self, core: &mut Core, pdu: &pdu::R2t) -> Checked {
        let index = self.task(core, pdu, |k| k == Kind::Write)?;
        let Some(task) = self.tasks.get(index) else { return Err(Stop) };
        let (len, next, received) = (task.len, task.next_offset, task.received);
        let (open, lun) = (task.open_r2ts(), task.lun);
        let (offset, desired) = (pdu.buffer_offset.get(), pdu.desired_length.get());
        self.check(core, pdu.data_len() == 0, Status::PROTOCOL_ERR_DATA_SEG_LEN_NOT_ZERO)?;
        if pdu.ttt.get() == RESERVED_TAG {
            return self.stop(core, Status::PROTOCOL_ERR_TTT_IS_RSRV);
        }
        self.check(core, pdu.lun == lun, Status::PROTOCOL_ERR_LUN)?;
        self.check(core, pdu.r2t_sn.get() == received, Status::PROTOCOL_ERR_R2TSN)?;
        if desired == 0 {
            return self.stop(core, Status::PROTOCOL_ERR_DESIRED_DATA_TRNS_LEN_0);
        }
        if u64::from(offset) + u64::from(desired) > u64::from(len) {
            return self.stop(core, Status::PROTOCOL_ERR_DESIRED_DATA_TRNS_LEN_1);
        }
        self.check(core, desired <= self.params.max_burst, Status::PROTOCOL_ERR_MAX_BURST_LEN)?;
        self.check(core, offset == next, Status::PROTOCOL_ERR_BUFFER_OFF)?;
        let allowed = usize::from(self.params.max_outstanding_r2ts);
        self.check(core, open < allowed, Status::PROTOCOL_ERR_PEND_R2T_EXCEED)?;
        if open >= MAX_R2TS {
            return Err(Stop);
        }
        Ok(Verdict::Accept(Place::Nowhere, Some(index)))
    }

    fn judge_scsi_response(&mut self, core: &mut Core, pdu: &pdu::ScsiResponse) -> Checked {
        let index = self.task(core, pdu, |k| matches!(k, Kind::Read | Kind::Write))?;
        let Some(task) = self.tasks.get(index) else { return Err(Stop) };
        let (len, received, open) = (task.len, task.received, task.open_r2ts());
        let moved =
            (task.state == State::Active(Kind::Read) && pdu.status == GOOD).then_some(task.next_offset);
        let data = pdu.data_segment_length.get();
        // With another response code, the other fields mean nothing (RFC 7143 11.4.3).
        if pdu.response == 0 {
            self.check(core, pdu.exp_data_sn.get() == received, Status::PROTOCOL_ERR_EXP_DATASN)?;
            self.check(core, open == 0, Status::PROTOCOL_ERR_PEND_R2T)?;
            self.check_residual(core, pdu.flags, pdu.residual.get(), len, moved)?;
        }
        if data > self.rq.size() {
            return self.stop(core, Status::PROTOCOL_ERR_DATA_SEG_LEN_TOO_BIG);
        }
        Ok(Verdict::Accept(Place::Rq, Some(index)))
    }

    /// Login and text responses: the payload goes to the response buffer of the request.
    fn judge_text(&mut self, core: &mut Core, bhs: &Bhs, kind: Kind) -> Checked {
        let index = self.task(core, bhs, |k| k == kind)?;
        let room = self.tasks.get(index).map_or(0, |t| t.len);
        if bhs.data_segment_length.get() > room {
            return self.stop(core, Status::PROTOCOL_ERR_DATA_SEG_LEN_TOO_BIG);
        }
        Ok(Verdict::Accept(Place::Task { index, offset: 0 }, Some(index)))
    }

    /// Responses without payload.
    fn judge_bare(&mut self, core: &mut Core, bhs: &Bhs, kind: Kind) -> Checked {
        let index = self.task(core, bhs, |k| k == kind)?;
        self.check(core, bhs.data_len() == 0, Status::PROTOCOL_ERR_DATA_SEG_LEN_NOT_ZERO)?;
        Ok(Verdict::Accept(Place::Nowhere, Some(index)))
    }

    fn judge_nop_in(&mut self, core: &mut Core, pdu: &pdu::NopIn) -> Checked {
        let len = pdu.data_segment_length.get();
        if pdu.itt.get() == RESERVED_TAG {
            let fits = len <= self.rq.size();
            return self.judge_unsolicited(core, len, fits, Status::PROTOCOL_ERR_NOPIN_PDU_LEN);
        }
        let index = self.task(core, pdu, |k| k == Kind::Nop)?;
        self.check(core, pdu.ttt.get() == RESERVED_TAG, Status::PROTOCOL_ERR_TTT_NOT_RSRV)?;
        // Pings carry no data, so there is none to echo.
        self.check(core, len == 0, Status::PROTOCOL_ERR_NOPIN_PDU_LEN)?;
        Ok(Verdict::Accept(Place::Nowhere, Some(index)))
    }

    /// PDUs whose payload goes to an RQ buffer, if it `fits`.
    fn judge_unsolicited(&mut self, core: &mut Core, len: u32, fits: bool, status: Status) -> Checked {
        self.check(core, fits, status)?;
        if len > self.rq.size() {
            return Err(Stop);
        }
        Ok(Verdict::Accept(Place::Rq, None))
    }

    /// The active task that the PDU names, of a kind that `fits`.
    fn task(&mut self, core: &mut Core, bhs: &Bhs, fits: impl Fn(Kind) -> bool) -> Result<u16, Stop> {
        let itt = bhs.itt.get();
        if let Some(index) = self.active(itt, fits) {
            return Ok(index);
        }
        // What was under way for a task that was cleaned up is late, not wrong.
        let late = u16::try_from(itt).is_ok_and(|raw| {
            let task = self.tasks.get(hsi::iscsi::bits::Itt::from_raw(raw).index());
            task.is_some_and(|t| t.state == State::Cleaned && t.itt == raw)
        });
        if !late {
            self.violation(core, Status::PROTOCOL_ERR_ITT);
        }
        Err(Stop)
    }

    fn check_residual(
        &mut self,
        core: &mut Core,
        bits: u8,
        residual: u32,
        len: u32,
        moved: Option<u32>,
    ) -> Result<(), Stop> {
        let over = bits & flags::OVERFLOW != 0;
        let under = bits & flags::UNDERFLOW != 0;
        let bidirectional = bits & (flags::BIDI_OVERFLOW | flags::BIDI_UNDERFLOW) != 0;
        self.check(core, !bidirectional, Status::PROTOCOL_ERR_O_U_6)?;
        self.check(core, !(over && under), Status::PROTOCOL_ERR_O_U_0)?;
        self.check(core, over || under || residual == 0, Status::PROTOCOL_ERR_O_U_1)?;
        let possible = match (over, under) {
            (_, true) => residual != 0 && residual <= len,
            (true, false) => residual != 0,
            (false, false) => true,
        };
        self.check(core, possible, Status::PROTOCOL_ERR_O_U_2)?;
        if let Some(moved) = moved {
            let missing = len.saturating_sub(moved);
            self.check(core, !under || residual == missing, Status::PROTOCOL_ERR_O_U_3)?;
            self.check(core, !over || missing == 0, Status::PROTOCOL_ERR_O_U_4)?;
            self.check(core, over || under || missing == 0, Status::PROTOCOL_ERR_O_U_5)?;
        }
        Ok(())
    }

    /// Reports `status` unless `ok`; goes on when that is a warning.
    fn check(&mut self, core: &mut Core, ok: bool, status: Status) -> Result<(), Stop> {
        if ok || !self.violation(core, status) { Ok(()) } else { Err(Stop) }
    }

    /// Reports a violation after which the PDU is useless.
    fn stop<T>(&mut self, core: &mut Core, status: Status) -> Result<T, Stop> {
        self.violation(core, status);
        Err(Stop)
    }
}

/// SCSI status GOOD.
const GOOD: u8 = 0;
