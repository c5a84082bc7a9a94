//! Completion-queue entries from received headers (BNX2I-CNIC 5.4, A.2). The ring fills in the sequence
//! number.

use hsi::iscsi::bits::{Itt, Lun};
use hsi::iscsi::cq::{
    AsyncMsg, CleanupResponse, CmdRespTaskStat, CmdResponse, CqOpcode, Cqe, LoginResponse, LogoutResponse,
    NopInMsg, RejectMsg, TextResponse, TmfResponse,
};
use hsi::{U16, U32, View};
use iscsi::pdu::{self, flags};

use super::task::Task;

/// PDU counts as the task's direction wants them.
fn task_stat(task: &Task, write: bool) -> CmdRespTaskStat {
    let received = task.received as u16;
    if write {
        CmdRespTaskStat::from_write(task.data_outs, received)
    } else {
        CmdRespTaskStat::from_read(received)
    }
}

/// SCSI response.
pub(super) fn scsi_response(pdu: &pdu::ScsiResponse, task: &Task, write: bool) -> Cqe {
    let mut cqe = CmdResponse::default();
    cqe.status = pdu.status;
    cqe.response = pdu.response;
    cqe.response_flags =
        pdu.flags & (flags::OVERFLOW | flags::UNDERFLOW | flags::BIDI_OVERFLOW | flags::BIDI_UNDERFLOW);
    cqe.op_code = CqOpcode::SCSI_RSP;
    cqe.data_length = U32::new(pdu.data_segment_length.get());
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.residual_count = U32::new(pdu.residual.get());
    cqe.task_stat = task_stat(task, write);
    cqe.itt = Itt::from_raw(task.itt);
    cqe.into_element()
}

/// Data-In with status; `as_response` posts it as a SCSI response.
pub(super) fn data_in(pdu: &pdu::DataIn, task: &Task, as_response: bool) -> Cqe {
    let mut cqe = CmdResponse::default();
    cqe.status = pdu.status;
    cqe.response_flags = pdu.flags & (flags::STATUS | flags::OVERFLOW | flags::UNDERFLOW);
    cqe.op_code = if as_response { CqOpcode::SCSI_RSP } else { CqOpcode::DATA_IN };
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.residual_count = U32::new(pdu.residual.get());
    cqe.task_stat = task_stat(task, false);
    cqe.itt = Itt::from_raw(task.itt);
    cqe.into_element()
}

/// Login response.
pub(super) fn login_response(pdu: &pdu::LoginResponse, itt: u16) -> Cqe {
    let mut cqe = LoginResponse::default();
    cqe.version_active = pdu.version_active;
    cqe.version_max = pdu.version_max;
    cqe.response_flags = pdu.flags;
    cqe.op_code = CqOpcode::LOGIN_RSP;
    cqe.data_length = U32::new(pdu.data_segment_length.get());
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.stat_sn = U32::new(pdu.stat_sn.get());
    cqe.tsih = U16::new(u16::from_le_bytes(pdu.tsih.get().to_be_bytes()));
    cqe.status_detail = pdu.status_detail;
    cqe.status_class = pdu.status_class;
    cqe.itt = Itt::from_raw(itt);
    cqe.set_isid(pdu.isid);
    cqe.into_element()
}

/// Text response.
pub(super) fn text_response(pdu: &pdu::TextResponse, itt: u16) -> Cqe {
    let mut cqe = TextResponse::default();
    cqe.response_flags = pdu.flags;
    cqe.op_code = CqOpcode::TEXT_RSP;
    cqe.data_length = U32::new(pdu.data_segment_length.get());
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.ttt = U32::new(pdu.ttt.get());
    cqe.lun = Lun::from_wire(pdu.lun);
    cqe.itt = Itt::from_raw(itt);
    cqe.into_element()
}

/// Task management response.
pub(super) fn tmf_response(pdu: &pdu::TaskManagementResponse, itt: u16) -> Cqe {
    let mut cqe = TmfResponse::default();
    cqe.response = pdu.response;
    cqe.op_code = CqOpcode::TMF_RSP;
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.itt = Itt::from_raw(itt);
    cqe.into_element()
}

/// Logout response.
pub(super) fn logout_response(pdu: &pdu::LogoutResponse, itt: u16) -> Cqe {
    let mut cqe = LogoutResponse::default();
    cqe.response = pdu.response;
    cqe.op_code = CqOpcode::LOGOUT_RSP;
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.time_to_retain = U16::new(pdu.time2retain.get());
    cqe.time_to_wait = U16::new(pdu.time2wait.get());
    cqe.itt = Itt::from_raw(itt);
    cqe.into_element()
}

/// NOP-In: unsolicited with the reserved ITT, else the answer to a ping. The LUN is raw, as in NOP-Out.
pub(super) fn nop_in(pdu: &pdu::NopIn, itt: Itt) -> Cqe {
    let mut cqe = NopInMsg::default();
    cqe.op_code = CqOpcode::NOP_IN;
    cqe.data_length = U32::new(pdu.data_segment_length.get());
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.ttt = U32::new(pdu.ttt.get());
    cqe.lun = Lun::from_raw(pdu.lun);
    cqe.itt = itt;
    cqe.into_element()
}

/// Asynchronous message.
pub(super) fn async_message(pdu: &pdu::AsyncMessage) -> Cqe {
    let mut cqe = AsyncMsg::default();
    cqe.op_code = CqOpcode::ASYNC;
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.lun = Lun::from_wire(pdu.lun);
    cqe.param1 = U16::new(pdu.parameter1.get());
    cqe.async_vcode = pdu.vendor_code;
    cqe.async_event = pdu.event;
    cqe.param3 = U16::new(pdu.parameter3.get());
    cqe.param2 = U16::new(pdu.parameter2.get());
    cqe.into_element()
}

/// Reject.
pub(super) fn reject(pdu: &pdu::Reject) -> Cqe {
    let mut cqe = RejectMsg::default();
    cqe.reason = pdu.reason;
    cqe.op_code = CqOpcode::REJECT;
    cqe.data_length = U32::new(pdu.data_segment_length.get());
    cqe.exp_cmd_sn = U32::new(pdu.exp_cmd_sn.get());
    cqe.max_cmd_sn = U32::new(pdu.max_cmd_sn.get());
    cqe.into_element()
}

/// A NOP-Out with local completion has left the chip.
pub(super) fn local_completion(itt: Itt) -> Cqe {
    let mut cqe = NopInMsg::default();
    cqe.op_code = CqOpcode::NOPOUT_LOCAL_COMPLETION;
    cqe.itt = itt;
    cqe.into_element()
}

/// Answer to CLEANUP.
pub(super) fn cleanup_response(itt: Itt) -> Cqe {
    let mut cqe = CleanupResponse::default();
    cqe.op_code = CqOpcode::CLEANUP_RESPONSE;
    cqe.itt = itt;
    cqe.into_element()
}
