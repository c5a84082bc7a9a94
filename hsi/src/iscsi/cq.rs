//! Completion queue of an offloaded connection: 64-byte entries, chip to host (BNX2I-CNIC 5.4 to 5.6, A.2).
//!
//! Ownership is told by the sequence number in the last word, which the chip writes last; no consumer index
//! is ever returned. [`CqSequence`] is that rule, for both sides.

use crate::facts::{Field, Shape, Wire, blank, byte_enum, facts, views, wire};
use crate::iscsi::bits::{Itt, Lun};
use crate::{U16, U32};

wire! {
    /// PDU counts of a write.
    pub struct WriteRespTaskStat = "bnx2i_write_resp_task_stat" [4] {
        /// Data-Out PDUs sent.
        pub num_data_outs: U16,
        /// R2Ts received.
        pub num_r2ts: U16,
    }

    /// PDU counts of a read.
    pub struct ReadRespTaskStat = "bnx2i_read_resp_task_stat" [4] {
        /// Data-In PDUs received.
        pub num_data_ins: U16,
        reserved: U16,
    }

    /// SCSI response, or Data-In with status (BNX2I-CNIC 5.4).
    pub struct CmdResponse = "bnx2i_cmd_response" [64] {
        /// Status.
        pub status: u8,
        /// Response code.
        pub response: u8,
        /// Flags byte of the PDU.
        pub response_flags: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved2: U32,
        /// Residual count, bytes.
        pub residual_count: U32,
        reserved3: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved4: U16,
        reserved5: [U32; 5],
        /// PDU counts of the task.
        pub task_stat: CmdRespTaskStat,
        reserved6: U32,
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved7: U16,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Login response.
    pub struct LoginResponse = "bnx2i_login_response" [64] {
        /// VersionActive.
        pub version_active: u8,
        /// VersionMax.
        pub version_max: u8,
        /// Flags byte of the PDU.
        pub response_flags: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved1: [U32; 2],
        reserved2: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved3: U16,
        /// StatSN.
        pub stat_sn: U32,
        /// ISID bytes 0 to 3, as on the wire.
        pub isid_lo: U32,
        /// TSIH, as on the wire (network order).
        pub tsih: U16,
        /// ISID bytes 4 and 5, as on the wire.
        pub isid_hi: U16,
        reserved4: U16,
        /// Status-Detail.
        pub status_detail: u8,
        /// Status-Class.
        pub status_class: u8,
        reserved5: [U32; 3],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved6: U16,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Text response.
    pub struct TextResponse = "bnx2i_text_response" [64] {
        reserved0: U16,
        /// Flags byte of the PDU.
        pub response_flags: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// Target transfer tag.
        pub ttt: U32,
        reserved2: U32,
        reserved3: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved4: U16,
        reserved5: U32,
        /// LUN.
        pub lun: Lun,
        reserved6: [U32; 4],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved7: U16,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Task management response.
    pub struct TmfResponse = "bnx2i_tmf_response" [64] {
        reserved0: u8,
        /// Response code.
        pub response: u8,
        reserved1: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        reserved2: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved3: [U32; 2],
        reserved4: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved5: U16,
        reserved6: [U32; 7],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved7: U16,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Logout response.
    pub struct LogoutResponse = "bnx2i_logout_response" [64] {
        reserved0: u8,
        /// Response code.
        pub response: u8,
        reserved1: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        reserved2: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved3: [U32; 2],
        reserved4: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved5: U16,
        reserved6: [U32; 3],
        /// Time2Retain, seconds.
        pub time_to_retain: U16,
        /// Time2Wait, seconds.
        pub time_to_wait: U16,
        reserved7: [U32; 3],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved8: U16,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// NOP-In; with ITT 0xffff unsolicited, else the answer to a ping. On the 5709 `lun` holds the raw header
    /// bytes.
    pub struct NopInMsg = "bnx2i_nop_in_msg" [64] {
        reserved0: U16,
        reserved1: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// Target transfer tag.
        pub ttt: U32,
        reserved2: U32,
        reserved3: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved4: U16,
        reserved5: U32,
        /// LUN.
        pub lun: Lun,
        reserved6: [U32; 4],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved7: U16,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Asynchronous message.
    pub struct AsyncMsg = "bnx2i_async_msg" [64] {
        reserved0: U16,
        reserved1: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        reserved2: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved3: [U32; 2],
        reserved4: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved5: U16,
        reserved6: U32,
        /// LUN.
        pub lun: Lun,
        /// Parameter1.
        pub param1: U16,
        /// AsyncVCode.
        pub async_vcode: u8,
        /// AsyncEvent.
        pub async_event: u8,
        /// Parameter3.
        pub param3: U16,
        /// Parameter2.
        pub param2: U16,
        reserved7: [U32; 3],
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Reject.
    pub struct RejectMsg = "bnx2i_reject_msg" [64] {
        reserved0: u8,
        /// Reason code.
        pub reason: u8,
        reserved1: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved2: [U32; 2],
        reserved3: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved4: U16,
        reserved5: [U32; 8],
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Answer to a cleanup request. Chip private.
    pub struct CleanupResponse = "bnx2i_cleanup_response" [64] {
        reserved0: U16,
        /// Status.
        pub status: u8,
        /// Opcode.
        pub op_code: CqOpcode,
        reserved1: [U32; 3],
        reserved2: [U32; 2],
        reserved3: u8,
        /// Error code; no host software looks at it.
        pub err_code: u8,
        reserved4: U16,
        reserved5: [U32; 7],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved6: U16,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Generic view of every CQ entry (BNX2I-CNIC A.2).
    pub struct FwResponse = "bnx2i_fw_response" [64] {
        /// Header words 0 and 1.
        pub hdr_dword1: [U32; 2],
        /// ExpCmdSN.
        pub hdr_exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub hdr_max_cmd_sn: U32,
        /// Target transfer tag.
        pub hdr_ttt: U32,
        /// Residual count.
        pub hdr_res_cnt: U32,
        /// Error code in bits 15..8.
        pub cqe_flags: U32,
        /// StatSN.
        pub stat_sn: U32,
        /// Header words 8 and 9.
        pub hdr_dword2: [U32; 2],
        /// Header words 10 and 11.
        pub hdr_dword3: [U32; 2],
        /// PDU counts of the task.
        pub task_stat: U32,
        reserved0: U32,
        /// Initiator task tag in the low half.
        pub hdr_itt: U32,
        /// CQ sequence number: written last, tells a new entry from an old one.
        pub cq_req_sn: U32,
    }

    /// Any CQ entry, before its opcode is known.
    pub struct Cqe = "cqe" [64] {
        /// The bytes.
        pub cqe_byte: [u8; 64],
    }
}

facts! {
    prefix "";
    Bits("bnx2i_cmd_response", "response_flags"): u8 {
        ISCSI_CMD_RESPONSE_RESERVED0 = 0x1,
        ISCSI_CMD_RESPONSE_RESIDUAL_UNDERFLOW = 0x2,
        ISCSI_CMD_RESPONSE_RESIDUAL_OVERFLOW = 0x4,
        ISCSI_CMD_RESPONSE_BR_RESIDUAL_UNDERFLOW = 0x8,
        ISCSI_CMD_RESPONSE_BR_RESIDUAL_OVERFLOW = 0x10,
        ISCSI_CMD_RESPONSE_RESERVED1 = 0xe0,
    }
    Bits("bnx2i_cmd_response", "itt"): u16 {
        ISCSI_CMD_RESPONSE_INDEX = 0x3fff,
        ISCSI_CMD_RESPONSE_TYPE = 0xc000,
    }
    Bits("bnx2i_login_response", "response_flags"): u8 {
        ISCSI_LOGIN_RESPONSE_NEXT_STAGE = 0x3,
        ISCSI_LOGIN_RESPONSE_CURRENT_STAGE = 0xc,
        ISCSI_LOGIN_RESPONSE_RESERVED0 = 0x30,
        ISCSI_LOGIN_RESPONSE_CONT = 0x40,
        ISCSI_LOGIN_RESPONSE_TRANSIT = 0x80,
    }
    Bits("bnx2i_login_response", "itt"): u16 {
        ISCSI_LOGIN_RESPONSE_INDEX = 0x3fff,
        ISCSI_LOGIN_RESPONSE_TYPE = 0xc000,
    }
    Bits("bnx2i_text_response", "response_flags"): u8 {
        ISCSI_TEXT_RESPONSE_RESERVED1 = 0x3f,
        ISCSI_TEXT_RESPONSE_CONT = 0x40,
        ISCSI_TEXT_RESPONSE_FINAL = 0x80,
    }
    Bits("bnx2i_text_response", "itt"): u16 {
        ISCSI_TEXT_RESPONSE_INDEX = 0x3fff,
        ISCSI_TEXT_RESPONSE_TYPE = 0xc000,
    }
    Bits("bnx2i_tmf_response", "itt"): u16 {
        ISCSI_TMF_RESPONSE_INDEX = 0x3fff,
        ISCSI_TMF_RESPONSE_TYPE = 0xc000,
    }
    Bits("bnx2i_logout_response", "itt"): u16 {
        ISCSI_LOGOUT_RESPONSE_INDEX = 0x3fff,
        ISCSI_LOGOUT_RESPONSE_TYPE = 0xc000,
    }
    Bits("bnx2i_nop_in_msg", "itt"): u16 {
        ISCSI_NOP_IN_MSG_INDEX = 0x3fff,
        ISCSI_NOP_IN_MSG_TYPE = 0xc000,
    }
    Bits("bnx2i_cleanup_response", "itt"): u16 {
        ISCSI_CLEANUP_RESPONSE_INDEX = 0x3fff,
        ISCSI_CLEANUP_RESPONSE_TYPE = 0xc000,
    }
    Bits("bnx2i_fw_response", "cqe_flags"): u32 {
        ISCSI_FW_RESPONSE_RESERVED2 = 0xff,
        ISCSI_FW_RESPONSE_ERR_CODE = 0xff00,
        ISCSI_FW_RESPONSE_RESERVED3 = 0xffff0000,
    }
    Constant(): u32 {
        ISCSI_INITIAL_SN = 0x1,
    }
}

byte_enum! {
    /// CQ opcode (byte 3): the RFC opcode, or chip private (BNX2I-CNIC 0.4).
    pub struct CqOpcode(u8), prefix "ISCSI_OPCODE_" {
        /// A NOP-Out with local completion has left the chip; chip private.
        NOPOUT_LOCAL_COMPLETION = 0x00,
        /// NOP-In.
        NOP_IN = 0x20 => external,
        /// SCSI response.
        SCSI_RSP = 0x21 => external,
        /// Task management response.
        TMF_RSP = 0x22 => external,
        /// Login response.
        LOGIN_RSP = 0x23 => external,
        /// Text response.
        TEXT_RSP = 0x24 => external,
        /// Data-In with status.
        DATA_IN = 0x25 => external,
        /// Logout response.
        LOGOUT_RSP = 0x26 => external,
        /// Answer to a cleanup request; chip private.
        CLEANUP_RESPONSE = 0x27,
        /// Asynchronous message.
        ASYNC = 0x32 => external,
        /// Reject.
        REJECT = 0x3f => external,
    }
}

views! {
    Cqe: CmdResponse, LoginResponse, TextResponse, TmfResponse, LogoutResponse, NopInMsg, AsyncMsg, RejectMsg,
    CleanupResponse, FwResponse,
}

/// PDU counts of a finished task: for a read or for a write, as the task was.
///
/// HSI: union `bnx2i_cmd_resp_task_stat`, 4 bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
    zerocopy::Unaligned,
)]
#[repr(transparent)]
pub struct CmdRespTaskStat(WriteRespTaskStat);

impl CmdRespTaskStat {
    /// Counts of a write.
    pub const fn from_write(num_data_outs: u16, num_r2ts: u16) -> Self {
        Self(WriteRespTaskStat { num_data_outs: U16::new(num_data_outs), num_r2ts: U16::new(num_r2ts) })
    }

    /// Counts of a read.
    pub const fn from_read(num_data_ins: u16) -> Self {
        Self::from_write(num_data_ins, 0)
    }

    /// As a write.
    pub const fn write_stat(&self) -> &WriteRespTaskStat {
        &self.0
    }

    /// As a read.
    pub fn read_stat(&self) -> &ReadRespTaskStat {
        zerocopy::transmute_ref!(self)
    }
}

impl Wire for CmdRespTaskStat {
    const SHAPE: Shape = Shape {
        size: 4,
        array_len: None,
        fields: &[
            Field { name: "write_stat", offset: 0, shape: WriteRespTaskStat::SHAPE },
            Field { name: "read_stat", offset: 0, shape: ReadRespTaskStat::SHAPE },
        ],
    };
}

/// Name and shape of the union, for the list of layouts.
pub(crate) const UNION_LAYOUTS: &[crate::facts::Layout] =
    &[crate::facts::Layout { name: "bnx2i_cmd_resp_task_stat", shape: CmdRespTaskStat::SHAPE }];

blank! {
    CmdResponse { op_code = CqOpcode::SCSI_RSP }
    LoginResponse { op_code = CqOpcode::LOGIN_RSP }
    TextResponse { op_code = CqOpcode::TEXT_RSP }
    TmfResponse { op_code = CqOpcode::TMF_RSP }
    LogoutResponse { op_code = CqOpcode::LOGOUT_RSP }
    NopInMsg { op_code = CqOpcode::NOP_IN }
    AsyncMsg { op_code = CqOpcode::ASYNC }
    RejectMsg { op_code = CqOpcode::REJECT }
    CleanupResponse { op_code = CqOpcode::CLEANUP_RESPONSE }
}

impl Cqe {
    /// Opcode.
    pub const fn opcode(&self) -> CqOpcode {
        CqOpcode(self.cqe_byte[3])
    }

    /// ITT; meaningless in async and reject entries.
    pub const fn itt(&self) -> Itt {
        Itt::from_raw(u16::from_le_bytes([self.cqe_byte[56], self.cqe_byte[57]]))
    }

    /// CQ sequence number.
    pub const fn cq_req_sn(&self) -> u32 {
        u32::from_le_bytes([self.cqe_byte[60], self.cqe_byte[61], self.cqe_byte[62], self.cqe_byte[63]])
    }

    /// Sets the CQ sequence number.
    pub const fn set_cq_req_sn(&mut self, sn: u32) {
        let sn = sn.to_le_bytes();
        self.cqe_byte[60] = sn[0];
        self.cqe_byte[61] = sn[1];
        self.cqe_byte[62] = sn[2];
        self.cqe_byte[63] = sn[3];
    }
}

impl LoginResponse {
    /// ISID as its six wire bytes.
    pub const fn isid(&self) -> [u8; 6] {
        let (lo, hi) = (self.isid_lo.get().to_le_bytes(), self.isid_hi.get().to_le_bytes());
        [lo[0], lo[1], lo[2], lo[3], hi[0], hi[1]]
    }

    /// Sets the ISID from its six wire bytes.
    pub const fn set_isid(&mut self, isid: [u8; 6]) {
        self.isid_lo = U32::new(u32::from_le_bytes([isid[0], isid[1], isid[2], isid[3]]));
        self.isid_hi = U16::new(u16::from_le_bytes([isid[4], isid[5]]));
    }
}

/// Position in a CQ: next slot and the sequence number it carries (BNX2I-CNIC 5.5).
///
/// Numbers run from 1 to twice the ring size, so that consecutive laps of one slot differ by the ring size
/// and a stale entry never matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CqSequence {
    entries: u16,
    sn: u32,
}

impl CqSequence {
    /// Start of a ring of `entries` slots. A ring of none counts as one of one.
    pub const fn new(entries: u16) -> Self {
        Self { entries: if entries == 0 { 1 } else { entries }, sn: ISCSI_INITIAL_SN }
    }

    /// Sequence number of the next entry.
    pub const fn sn(&self) -> u32 {
        self.sn
    }

    /// Slot of the next entry.
    pub const fn slot(&self) -> u16 {
        ((self.sn - 1) % self.entries as u32) as u16
    }

    /// One past the largest sequence number: `max_cq_sqn` of INIT2.
    pub const fn max_cq_sqn(entries: u16) -> u32 {
        2 * entries as u32 + 1
    }

    /// Moves on by one entry.
    pub const fn advance(&mut self) {
        self.sn = if self.sn + 1 == Self::max_cq_sqn(self.entries) { ISCSI_INITIAL_SN } else { self.sn + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;
    use crate::iscsi::bits::TaskType;

    /// BNX2I-CNIC B.6: slot 0 of 192 carries 1, 193, 1; slot 191 carries 192, 384, 192.
    #[test]
    fn sequence_numbers_of_192_entries() {
        let mut at = CqSequence::new(192);
        let (mut first, mut last) = ([0; 3], [0; 3]);
        for lap in 0..3 {
            for slot in 0..192 {
                assert_eq!(at.slot(), slot);
                match slot {
                    0 => first[lap] = at.sn(),
                    191 => last[lap] = at.sn(),
                    _ => {}
                }
                at.advance();
            }
        }
        assert_eq!((first, last), ([1, 193, 1], [192, 384, 192]));
        assert_eq!(CqSequence::max_cq_sqn(192), 0x181);
    }

    #[test]
    fn opcode_itt_and_sequence_are_found_before_the_kind_is_known() {
        let itt = Itt::new(9, TaskType::WRITE);
        let mut cqe = TmfResponse { itt, ..TmfResponse::blank() }.into_element();
        cqe.set_cq_req_sn(0x0102_0304);
        assert_eq!((cqe.opcode(), cqe.itt(), cqe.cq_req_sn()), (CqOpcode::TMF_RSP, itt, 0x0102_0304));
        assert_eq!(cqe.view::<TmfResponse>().cq_req_sn.get(), 0x0102_0304);
        assert_eq!(cqe.view::<FwResponse>().hdr_itt.get(), 0x4009);
    }

    #[test]
    fn task_stat_is_a_union() {
        let stat = CmdRespTaskStat::from_write(3, 7);
        assert_eq!((stat.write_stat().num_data_outs.get(), stat.write_stat().num_r2ts.get()), (3, 7));
        assert_eq!(stat.read_stat().num_data_ins.get(), 3);
    }
}
