//! Send-queue entries: what each asks for, checked before anything of it is used (BNX2I-CNIC 5.2, 5.3, 7.4,
//! A.1).
//!
//! An entry that makes no sense puts the connection in error with a completion status; nothing of it was
//! sent.

use bus::pci::DevCx;
use hsi::iscsi::bits::Itt;
use hsi::iscsi::sq::{
    CleanupRequest, CmdRequest, FwMpRequest, ISCSI_FW_MP_REQUEST_LOCAL_COMPLETION,
    ISCSI_FW_MP_REQUEST_UPDATE_EXP_STAT_SN, LoginRequest, LogoutRequest, NopOutRequest, RespBuffer, SqOpcode,
    Sqe, TextRequest, TmfRequest,
};
use hsi::kernel::kcq::CompletionStatus;
use iscsi::pdu::{self, Bhs, Header, RESERVED_TAG, flags};
use iscsi::serial::Sn;

use super::bd::{BadList, BdList};
use super::conn::Conn;
use super::ring::ENTRY;
use super::task::{Kind, Sequence, State};
use super::tx::{Frame, MAX_SEGMENT, Sent, TxError};
use super::{Core, cqe};

impl From<BadList> for TxError {
    fn from(bad: BadList) -> Self {
        match bad {
            BadList::Dma => Self::Dma,
            BadList::Malformed => MALFORMED,
        }
    }
}

/// An entry whose fields contradict each other or the connection's limits.
const MALFORMED: TxError = TxError::Refused(CompletionStatus::NIC_ERROR);

impl Conn {
    /// Does what one SQ entry asks for, if the transmit buffer has room.
    pub(super) fn process(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        entry: &[u8; ENTRY],
    ) -> Result<Sent, TxError> {
        let sqe = Sqe { sqe_byte: *entry };
        match sqe.opcode() {
            SqOpcode::SCSI_CMD => self.scsi_command(cx, core, sqe.view()),
            SqOpcode::LOGIN => self.login(cx, core, sqe.view(), sqe.view()),
            SqOpcode::TEXT | SqOpcode::TEXT_IMMEDIATE => self.text(cx, core, sqe.view(), sqe.view()),
            SqOpcode::TMF => self.task_management(cx, core, sqe.view()),
            SqOpcode::LOGOUT => self.logout(cx, core, sqe.view()),
            SqOpcode::NOP_OUT | SqOpcode::NOP_OUT_IMMEDIATE => self.nop_out(cx, core, sqe.view()),
            SqOpcode::CLEANUP_REQUEST => self.cleanup(cx, core, sqe.view()),
            _ => Err(TxError::Refused(CompletionStatus::INVALID_OPCODE)),
        }
    }

    fn scsi_command(&mut self, cx: &mut DevCx<'_>, core: &mut Core, w: &CmdRequest) -> Result<Sent, TxError> {
        let (len, write) = (w.total_data_transfer_length.get(), w.is_write());
        if write && w.is_read() || len != 0 && !write && !w.is_read() {
            return Err(MALFORMED);
        }
        let (immediate, unsolicited) = if write { self.first_burst(len) } else { (0, 0) };
        if immediate > MAX_SEGMENT {
            return Err(MALFORMED);
        }
        if !self.has_room(immediate) {
            return Ok(Sent::Full);
        }
        let grant = self.grant;
        let task = self.tasks.vacant(w.itt).ok_or(MALFORMED)?;
        task.bds.clear();
        if len != 0 {
            task.bds.load(cx, w.bd_list_addr(), w.num_bds, len, grant)?;
        }
        // The entry has positions, not lengths: where they differ from ours, the wrong bytes would go out.
        let solicited = immediate + unsolicited;
        let agrees = |at, index, offset: hsi::U16| task.bds.is_at(index, offset.get(), at);
        let ud_fits = unsolicited == 0 || agrees(immediate, w.ud_start_bd_index, w.ud_buffer_offset);
        let sd_fits =
            !write || solicited >= len || agrees(solicited, w.sd_start_bd_index, w.sd_buffer_offset);
        if !ud_fits || !sd_fits {
            return Err(MALFORMED);
        }

        let mut pdu = pdu::ScsiCommand::new();
        pdu.flags = w.op_attr & (flags::READ | flags::WRITE | flags::ATTR);
        if unsolicited == 0 {
            pdu.flags |= flags::FINAL;
        }
        pdu.data_segment_length.set(immediate);
        pdu.lun = w.lun.to_wire();
        pdu.itt = u32::from(w.itt.raw()).into();
        pdu.expected_data_transfer_length = len.into();
        pdu.cmd_sn = w.cmd_sn.get().into();
        pdu.exp_stat_sn = self.exp_stat_sn.into();
        pdu.cdb = w.cdb.to_wire();
        let kind = if write { Kind::Write } else { Kind::Read };
        let task = self.tasks.start(w.itt, kind, w.lun.to_wire(), len);
        if unsolicited != 0 {
            task.sequence =
                Some(Sequence { ttt: RESERVED_TAG, offset: immediate, left: unsolicited, data_sn: 0 });
            self.unsolicited.push_back(w.itt.index());
        }
        if write {
            task.next_offset = solicited;
        }
        let bds = &mut task.bds;
        let mut frame = Frame { tx: &mut self.tx, params: &self.params };
        let sent = frame.push(&pdu, |out| bds.copy_out(cx, 0, out, grant))?;
        self.count_pdu(cx, core, &pdu);
        Ok(sent)
    }

    /// Immediate and unsolicited bytes of a write, as the host computes them (BNX2I-CNIC 5.3).
    fn first_burst(&self, len: u32) -> (u32, u32) {
        let p = &self.params;
        let burst = len.min(p.first_burst);
        let immediate = if p.immediate_data { burst.min(p.max_send_pdu) } else { 0 };
        (immediate, if p.initial_r2t { 0 } else { burst - immediate })
    }

    fn login(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        w: &LoginRequest,
        mp: &FwMpRequest,
    ) -> Result<Sent, TxError> {
        let mut pdu = pdu::LoginRequest::new();
        pdu.flags = w.op_attr;
        (pdu.version_max, pdu.version_min) = (w.version_max, w.version_min);
        pdu.isid = w.isid();
        pdu.tsih = u16::from_be_bytes(w.tsih.get().to_le_bytes()).into();
        pdu.cid = u16::from_be_bytes(w.cid.get().to_le_bytes()).into();
        pdu.cmd_sn = w.cmd_sn.get().into();
        if w.flags & ISCSI_FW_MP_REQUEST_UPDATE_EXP_STAT_SN != 0 {
            self.exp_stat_sn = Sn(w.exp_stat_sn.get());
        }
        pdu.exp_stat_sn = self.exp_stat_sn.into();
        self.with_payload(cx, core, Kind::Login, &mut pdu, mp)
    }

    fn text(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        w: &TextRequest,
        mp: &FwMpRequest,
    ) -> Result<Sent, TxError> {
        let mut pdu = pdu::TextRequest::new();
        pdu.set_immediate(w.op_code == SqOpcode::TEXT_IMMEDIATE);
        pdu.flags = w.op_attr;
        pdu.lun = w.lun.to_wire();
        pdu.ttt = w.ttt.get().into();
        pdu.cmd_sn = w.cmd_sn.get().into();
        pdu.exp_stat_sn = self.exp_stat_sn.into();
        self.with_payload(cx, core, Kind::Text, &mut pdu, mp)
    }

    /// Sends a request with a data segment, whose answer goes to the response buffer.
    fn with_payload(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        kind: Kind,
        pdu: &mut Bhs,
        w: &FwMpRequest,
    ) -> Result<Sent, TxError> {
        let len = w.data_length.get();
        if len > self.params.max_send_pdu.min(MAX_SEGMENT) {
            return Err(MALFORMED);
        }
        if !self.has_room(len) {
            return Ok(Sent::Full);
        }
        let (grant, response) = (self.grant, RespBuffer::from_word(w.resp_buffer));
        let mut request = BdList::default();
        if len != 0 {
            request.load(cx, w.bd_list_addr(), w.num_bds, len, grant)?;
        }
        let task = self.tasks.vacant(w.itt).ok_or(MALFORMED)?;
        task.bds.load(cx, w.resp_bd_list_addr(), response.num_bds, response.length, grant)?;
        self.tasks.start(w.itt, kind, [0; 8], response.length);
        pdu.itt = u32::from(w.itt.raw()).into();
        pdu.data_segment_length.set(len);
        self.push_pdu(cx, core, pdu, |cx, out| request.copy_out(cx, 0, out, grant))
    }

    fn task_management(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        w: &TmfRequest,
    ) -> Result<Sent, TxError> {
        let mut pdu = pdu::TaskManagementRequest::new();
        pdu.set_immediate(true);
        pdu.flags = w.op_attr | flags::FINAL;
        pdu.lun = w.lun.to_wire();
        // The 16 bits of the WQE are the tag on the wire, so the reference needs no translation.
        pdu.referenced_task_tag = w.ref_itt.get().into();
        pdu.cmd_sn = w.cmd_sn.get().into();
        pdu.exp_stat_sn = self.exp_stat_sn.into();
        pdu.ref_cmd_sn = w.ref_cmd_sn.get().into();
        self.without_payload(cx, core, Kind::Tmf, &mut pdu, w.itt)
    }

    fn logout(&mut self, cx: &mut DevCx<'_>, core: &mut Core, w: &LogoutRequest) -> Result<Sent, TxError> {
        let mut pdu = pdu::LogoutRequest::new();
        pdu.set_immediate(true);
        pdu.flags = w.op_attr | flags::FINAL;
        pdu.cid = u16::from_be_bytes(w.cid.get().to_le_bytes()).into();
        pdu.cmd_sn = w.cmd_sn.get().into();
        pdu.exp_stat_sn = self.exp_stat_sn.into();
        self.without_payload(cx, core, Kind::Logout, &mut pdu, w.itt)
    }

    /// A ping, or with local completion the answer to the target's, which ends when it is on the card. The
    /// driver sends no ping data; a length in the entry is ignored.
    fn nop_out(&mut self, cx: &mut DevCx<'_>, core: &mut Core, w: &NopOutRequest) -> Result<Sent, TxError> {
        let mut pdu = pdu::NopOut::new();
        pdu.set_immediate(w.op_code == SqOpcode::NOP_OUT_IMMEDIATE);
        pdu.lun = w.lun.raw();
        pdu.ttt = w.ttt.get().into();
        pdu.cmd_sn = w.cmd_sn.get().into();
        pdu.exp_stat_sn = self.exp_stat_sn.into();
        if w.flags & ISCSI_FW_MP_REQUEST_LOCAL_COMPLETION == 0 {
            return self.without_payload(cx, core, Kind::Nop, &mut pdu, w.itt);
        }
        let sent = self.push_pdu(cx, core, &pdu, |_, _| Ok(()))?;
        if sent == Sent::Done {
            self.answer(cx, core, &cqe::local_completion(w.itt));
        }
        Ok(sent)
    }

    fn without_payload(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        kind: Kind,
        pdu: &mut Bhs,
        itt: Itt,
    ) -> Result<Sent, TxError> {
        if !self.has_room(0) {
            return Ok(Sent::Full);
        }
        self.tasks.vacant(itt).ok_or(MALFORMED)?.bds.clear();
        self.tasks.start(itt, kind, [0; 8], 0);
        pdu.itt = u32::from(itt.raw()).into();
        self.push_pdu(cx, core, pdu, |_, _| Ok(()))
    }

    /// Forgets a task. What was begun of its PDUs goes out from the card; what comes in late is dropped.
    fn cleanup(&mut self, cx: &mut DevCx<'_>, core: &mut Core, w: &CleanupRequest) -> Result<Sent, TxError> {
        let index = w.itt.index();
        if let Some(task) = self.tasks.get(index).filter(|t| matches!(t.state, State::Active(_))) {
            let pending = task.open_r2ts() != 0;
            core.counters.cleanups += 1;
            self.forget(index, State::Cleaned);
            self.rx.abandon(index);
            if pending {
                self.violation(core, CompletionStatus::PROTOCOL_ERR_PEND_R2T_IN_CLEANUP);
            }
        }
        self.answer(cx, core, &cqe::cleanup_response(w.itt));
        Ok(Sent::Done)
    }
}
