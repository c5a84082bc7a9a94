//! Send queue of an offloaded connection: 64-byte work queue entries, host to chip (BNX2I-CNIC 5.1, 5.2,
//! A.1).
//!
//! The driver builds them, the chip fetches them after a doorbell. Reserved fields may hold remnants of the
//! previous lap, so the chip ignores them. The PDU's wire order is not theirs: multi-byte fields are
//! little-endian words.

use crate::facts::{addr64, blank, byte_enum, facts, views, wire};
use crate::iscsi::bits::{Cdb, Itt, Lun};
use crate::{U16, U32};

wire! {
    /// SCSI command (BNX2I-CNIC 5.2.1).
    pub struct CmdRequest = "bnx2i_cmd_request" [64] {
        reserved0: U16,
        /// Attribute byte: the flags byte of the PDU.
        pub op_attr: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        /// Byte offset, inside its BD, of the first solicited byte.
        pub sd_buffer_offset: U16,
        /// Byte offset, inside its BD, of the first unsolicited byte.
        pub ud_buffer_offset: U16,
        /// LUN.
        pub lun: Lun,
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved2: U16,
        /// Expected data transfer length, bytes.
        pub total_data_transfer_length: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        reserved3: U32,
        /// CDB.
        pub cdb: Cdb,
        zero_fill: U32,
        /// BD list, low address word.
        pub bd_list_addr_lo: U32,
        /// BD list, high address word.
        pub bd_list_addr_hi: U32,
        /// Entries of the BD list.
        pub num_bds: u8,
        /// BD of the first unsolicited byte.
        pub ud_start_bd_index: u8,
        /// BD of the first solicited byte.
        pub sd_start_bd_index: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// Login request (BNX2I-CNIC 5.2.2).
    pub struct LoginRequest = "bnx2i_login_request" [64] {
        /// VersionMin.
        pub version_min: u8,
        /// VersionMax.
        pub version_max: u8,
        /// Attribute byte: the flags byte of the PDU.
        pub op_attr: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// ISID bytes 0 to 3, as on the wire.
        pub isid_lo: U32,
        /// TSIH, as on the wire (network order).
        pub tsih: U16,
        /// ISID bytes 4 and 5, as on the wire.
        pub isid_hi: U16,
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved2: U16,
        reserved3: U16,
        /// Connection id.
        pub cid: U16,
        /// CmdSN.
        pub cmd_sn: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        reserved4: U32,
        /// Response BD list, low address word.
        pub resp_bd_list_addr_lo: U32,
        /// Response BD list, high address word.
        pub resp_bd_list_addr_hi: U32,
        /// Response buffer: length and number of BDs.
        pub resp_buffer: U32,
        /// Flags.
        pub flags: u8,
        reserved7: u8,
        reserved8: U16,
        /// BD list, low address word.
        pub bd_list_addr_lo: U32,
        /// BD list, high address word.
        pub bd_list_addr_hi: U32,
        /// Entries of the BD list.
        pub num_bds: u8,
        reserved9: u8,
        reserved10: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// Text request (BNX2I-CNIC 5.2.3). The LUN is not set by the host.
    pub struct TextRequest = "bnx2i_text_request" [64] {
        reserved0: U16,
        /// Attribute byte: the flags byte of the PDU.
        pub op_attr: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// LUN.
        pub lun: Lun,
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved3: U16,
        /// Target transfer tag.
        pub ttt: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        reserved4: [U32; 2],
        /// Response BD list, low address word.
        pub resp_bd_list_addr_lo: U32,
        /// Response BD list, high address word.
        pub resp_bd_list_addr_hi: U32,
        /// Response buffer: length and number of BDs.
        pub resp_buffer: U32,
        zero_fill: U32,
        /// BD list, low address word.
        pub bd_list_addr_lo: U32,
        /// BD list, high address word.
        pub bd_list_addr_hi: U32,
        /// Entries of the BD list.
        pub num_bds: u8,
        reserved6: u8,
        reserved7: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// Task management request (BNX2I-CNIC 5.2.4).
    pub struct TmfRequest = "bnx2i_tmf_request" [64] {
        reserved0: U16,
        /// Attribute byte: the flags byte of the PDU.
        pub op_attr: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// LUN.
        pub lun: Lun,
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved1: U16,
        /// Referenced task: its 16-bit ITT, or all ones.
        pub ref_itt: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        reserved2: U32,
        /// RefCmdSN.
        pub ref_cmd_sn: U32,
        reserved3: [U32; 3],
        zero_fill: U32,
        /// BD list, low address word.
        pub bd_list_addr_lo: U32,
        /// BD list, high address word.
        pub bd_list_addr_hi: U32,
        /// Entries of the BD list.
        pub num_bds: u8,
        reserved4: u8,
        reserved5: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// Logout request (BNX2I-CNIC 5.2.5).
    pub struct LogoutRequest = "bnx2i_logout_request" [64] {
        reserved0: U16,
        /// Attribute byte: the flags byte of the PDU.
        pub op_attr: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        reserved1: [U32; 2],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved2: U16,
        reserved3: U16,
        /// Connection id.
        pub cid: U16,
        /// CmdSN.
        pub cmd_sn: U32,
        reserved4: [U32; 5],
        zero_fill: U32,
        /// BD list, low address word.
        pub bd_list_addr_lo: U32,
        /// BD list, high address word.
        pub bd_list_addr_hi: U32,
        /// Entries of the BD list.
        pub num_bds: u8,
        reserved5: u8,
        reserved6: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// NOP-Out (BNX2I-CNIC 5.2.6). On the 5709 `lun` holds the raw header bytes: use [`Lun::from_raw`] and
    /// [`Lun::raw`].
    pub struct NopOutRequest = "bnx2i_nop_out_request" [64] {
        reserved0: U16,
        /// Attribute byte: the flags byte of the PDU.
        pub op_attr: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// LUN.
        pub lun: Lun,
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved2: U16,
        /// Target transfer tag.
        pub ttt: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        reserved3: [U32; 2],
        /// Response BD list, low address word.
        pub resp_bd_list_addr_lo: U32,
        /// Response BD list, high address word.
        pub resp_bd_list_addr_hi: U32,
        /// Response buffer: length and number of BDs.
        pub resp_buffer: U32,
        /// Flags.
        pub flags: u8,
        reserved6: u8,
        reserved7: U16,
        /// BD list, low address word.
        pub bd_list_addr_lo: U32,
        /// BD list, high address word.
        pub bd_list_addr_hi: U32,
        /// Entries of the BD list.
        pub num_bds: u8,
        reserved8: u8,
        reserved9: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// Cleanup: forget a task (BNX2I-CNIC 5.2.7, 7.4). Chip private; nothing goes out on the wire.
    pub struct CleanupRequest = "bnx2i_cleanup_request" [64] {
        reserved0: U16,
        reserved1: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        reserved2: [U32; 3],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved3: U16,
        reserved4: [U32; 10],
        reserved5: U16,
        reserved6: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// Generic view of every request that is not a SCSI command ("middle path", A.1).
    pub struct FwMpRequest = "bnx2i_fw_mp_request" [64] {
        /// Header bytes 2 and 3, opcode specific.
        pub hdr_opaque1: U16,
        /// Attribute byte: the flags byte of the PDU.
        pub op_attr: u8,
        /// Opcode.
        pub op_code: SqOpcode,
        /// Data segment length, bytes.
        pub data_length: U32,
        /// Header words 2 and 3, opcode specific.
        pub hdr_opaque2: [U32; 2],
        /// Initiator task tag: index and type.
        pub itt: Itt,
        reserved0: U16,
        /// Header words 5 to 8, opcode specific.
        pub hdr_opaque3: [U32; 4],
        /// Response BD list, low address word.
        pub resp_bd_list_addr_lo: U32,
        /// Response BD list, high address word.
        pub resp_bd_list_addr_hi: U32,
        /// Response buffer: length and number of BDs.
        pub resp_buffer: U32,
        /// Flags.
        pub flags: u8,
        reserved3: u8,
        reserved4: U16,
        /// BD list, low address word.
        pub bd_list_addr_lo: U32,
        /// BD list, high address word.
        pub bd_list_addr_hi: U32,
        /// Entries of the BD list.
        pub num_bds: u8,
        reserved5: u8,
        reserved6: u8,
        /// Completion queue; always 0.
        pub cq_index: u8,
    }

    /// Any SQ entry, before its opcode is known.
    pub struct Sqe = "sqe" [64] {
        /// The bytes.
        pub sqe_byte: [u8; 64],
    }
}

facts! {
    prefix "";
    Bits("bnx2i_cmd_request", "op_attr"): u8 {
        ISCSI_CMD_REQUEST_TASK_ATTR = 0x7,
        ISCSI_CMD_REQUEST_RESERVED1 = 0x18,
        ISCSI_CMD_REQUEST_WRITE = 0x20,
        ISCSI_CMD_REQUEST_READ = 0x40,
        ISCSI_CMD_REQUEST_FINAL = 0x80,
    }
    Bits("bnx2i_cmd_request", "itt"): u16 {
        ISCSI_CMD_REQUEST_INDEX = 0x3fff,
        ISCSI_CMD_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_login_request", "op_attr"): u8 {
        ISCSI_LOGIN_REQUEST_NEXT_STAGE = 0x3,
        ISCSI_LOGIN_REQUEST_CURRENT_STAGE = 0xc,
        ISCSI_LOGIN_REQUEST_RESERVED0 = 0x30,
        ISCSI_LOGIN_REQUEST_CONT = 0x40,
        ISCSI_LOGIN_REQUEST_TRANSIT = 0x80,
    }
    Bits("bnx2i_login_request", "itt"): u16 {
        ISCSI_LOGIN_REQUEST_INDEX = 0x3fff,
        ISCSI_LOGIN_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_login_request", "resp_buffer"): u32 {
        ISCSI_LOGIN_REQUEST_RESP_BUFFER_LENGTH = 0xffffff,
        ISCSI_LOGIN_REQUEST_NUM_RESP_BDS = 0xff000000,
    }
    Bits("bnx2i_login_request", "flags"): u8 {
        ISCSI_LOGIN_REQUEST_RESERVED5 = 0x3,
        ISCSI_LOGIN_REQUEST_UPDATE_EXP_STAT_SN = 0x4,
        ISCSI_LOGIN_REQUEST_RESERVED6 = 0xf8,
    }
    Bits("bnx2i_text_request", "op_attr"): u8 {
        ISCSI_TEXT_REQUEST_RESERVED1 = 0x3f,
        ISCSI_TEXT_REQUEST_CONT = 0x40,
        ISCSI_TEXT_REQUEST_FINAL = 0x80,
    }
    Bits("bnx2i_text_request", "itt"): u16 {
        ISCSI_TEXT_REQUEST_INDEX = 0x3fff,
        ISCSI_TEXT_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_text_request", "resp_buffer"): u32 {
        ISCSI_TEXT_REQUEST_RESP_BUFFER_LENGTH = 0xffffff,
        ISCSI_TEXT_REQUEST_NUM_RESP_BDS = 0xff000000,
    }
    Bits("bnx2i_tmf_request", "op_attr"): u8 {
        ISCSI_TMF_REQUEST_FUNCTION = 0x7f,
        ISCSI_TMF_REQUEST_ALWAYS_ONE = 0x80,
    }
    Bits("bnx2i_tmf_request", "itt"): u16 {
        ISCSI_TMF_REQUEST_INDEX = 0x3fff,
        ISCSI_TMF_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_logout_request", "op_attr"): u8 {
        ISCSI_LOGOUT_REQUEST_REASON = 0x7f,
        ISCSI_LOGOUT_REQUEST_ALWAYS_ONE = 0x80,
    }
    Bits("bnx2i_logout_request", "itt"): u16 {
        ISCSI_LOGOUT_REQUEST_INDEX = 0x3fff,
        ISCSI_LOGOUT_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_nop_out_request", "op_attr"): u8 {
        ISCSI_NOP_OUT_REQUEST_RESERVED1 = 0x7f,
        ISCSI_NOP_OUT_REQUEST_ALWAYS_ONE = 0x80,
    }
    Bits("bnx2i_nop_out_request", "itt"): u16 {
        ISCSI_NOP_OUT_REQUEST_INDEX = 0x3fff,
        ISCSI_NOP_OUT_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_nop_out_request", "resp_buffer"): u32 {
        ISCSI_NOP_OUT_REQUEST_RESP_BUFFER_LENGTH = 0xffffff,
        ISCSI_NOP_OUT_REQUEST_NUM_RESP_BDS = 0xff000000,
    }
    Bits("bnx2i_nop_out_request", "flags"): u8 {
        ISCSI_NOP_OUT_REQUEST_RESERVED4 = 0x1,
        ISCSI_NOP_OUT_REQUEST_LOCAL_COMPLETION = 0x2,
        ISCSI_NOP_OUT_REQUEST_ZERO_FILL = 0xfc,
    }
    Bits("bnx2i_cleanup_request", "itt"): u16 {
        ISCSI_CLEANUP_REQUEST_INDEX = 0x3fff,
        ISCSI_CLEANUP_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_fw_mp_request", "itt"): u16 {
        ISCSI_FW_MP_REQUEST_INDEX = 0x3fff,
        ISCSI_FW_MP_REQUEST_TYPE = 0xc000,
    }
    Bits("bnx2i_fw_mp_request", "resp_buffer"): u32 {
        ISCSI_FW_MP_REQUEST_RESP_BUFFER_LENGTH = 0xffffff,
        ISCSI_FW_MP_REQUEST_NUM_RESP_BDS = 0xff000000,
    }
    Bits("bnx2i_fw_mp_request", "flags"): u8 {
        ISCSI_FW_MP_REQUEST_RESERVED1 = 0x1,
        ISCSI_FW_MP_REQUEST_LOCAL_COMPLETION = 0x2,
        ISCSI_FW_MP_REQUEST_UPDATE_EXP_STAT_SN = 0x4,
        ISCSI_FW_MP_REQUEST_RESERVED2 = 0xf8,
    }
}

byte_enum! {
    /// SQ opcode (word 0, bits 31..24): the RFC opcode byte with its immediate bit 0x40 (BNX2I-CNIC 0.4).
    pub struct SqOpcode(u8), prefix "ISCSI_OPCODE_" {
        /// NOP-Out, not immediate.
        NOP_OUT = 0x00 => external,
        /// SCSI command.
        SCSI_CMD = 0x01 => external,
        /// Text request, not immediate.
        TEXT = 0x04 => external,
        /// Cleanup of a task; chip private.
        CLEANUP_REQUEST = 0x07,
        /// NOP-Out, immediate.
        NOP_OUT_IMMEDIATE = 0x40 => external,
        /// Task management request.
        TMF = 0x42 => external,
        /// Login request.
        LOGIN = 0x43 => external,
        /// Text request, immediate.
        TEXT_IMMEDIATE = 0x44 => external,
        /// Logout request.
        LOGOUT = 0x46 => external,
    }
}

views!(Sqe: CmdRequest, LoginRequest, TextRequest, TmfRequest, LogoutRequest, NopOutRequest, CleanupRequest, FwMpRequest);

addr64! {
    CmdRequest { bd_list_addr / set_bd_list_addr = bd_list_addr_hi, bd_list_addr_lo; }
    LoginRequest {
        bd_list_addr / set_bd_list_addr = bd_list_addr_hi, bd_list_addr_lo;
        resp_bd_list_addr / set_resp_bd_list_addr = resp_bd_list_addr_hi, resp_bd_list_addr_lo;
    }
    TextRequest {
        bd_list_addr / set_bd_list_addr = bd_list_addr_hi, bd_list_addr_lo;
        resp_bd_list_addr / set_resp_bd_list_addr = resp_bd_list_addr_hi, resp_bd_list_addr_lo;
    }
    TmfRequest { bd_list_addr / set_bd_list_addr = bd_list_addr_hi, bd_list_addr_lo; }
    LogoutRequest { bd_list_addr / set_bd_list_addr = bd_list_addr_hi, bd_list_addr_lo; }
    NopOutRequest {
        bd_list_addr / set_bd_list_addr = bd_list_addr_hi, bd_list_addr_lo;
        resp_bd_list_addr / set_resp_bd_list_addr = resp_bd_list_addr_hi, resp_bd_list_addr_lo;
    }
    FwMpRequest {
        bd_list_addr / set_bd_list_addr = bd_list_addr_hi, bd_list_addr_lo;
        resp_bd_list_addr / set_resp_bd_list_addr = resp_bd_list_addr_hi, resp_bd_list_addr_lo;
    }
}

blank! {
    CmdRequest { op_code = SqOpcode::SCSI_CMD }
    LoginRequest { op_code = SqOpcode::LOGIN }
    TextRequest { op_code = SqOpcode::TEXT }
    TmfRequest { op_code = SqOpcode::TMF, op_attr = ISCSI_TMF_REQUEST_ALWAYS_ONE }
    LogoutRequest { op_code = SqOpcode::LOGOUT, op_attr = ISCSI_LOGOUT_REQUEST_ALWAYS_ONE }
    NopOutRequest { op_code = SqOpcode::NOP_OUT_IMMEDIATE, op_attr = ISCSI_NOP_OUT_REQUEST_ALWAYS_ONE }
    CleanupRequest { op_code = SqOpcode::CLEANUP_REQUEST }
}

impl Sqe {
    /// Opcode with the immediate bit.
    pub const fn opcode(&self) -> SqOpcode {
        SqOpcode(self.sqe_byte[3])
    }

    /// ITT: at the same place in every request.
    pub const fn itt(&self) -> Itt {
        Itt::from_raw(u16::from_le_bytes([self.sqe_byte[16], self.sqe_byte[17]]))
    }
}

/// `resp_buffer` of login, text and NOP-Out requests: length (23..0) and number of BDs (31..24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RespBuffer {
    /// Bytes, at most 0xff_ffff.
    pub length: u32,
    /// BDs of the response list.
    pub num_bds: u8,
}

impl RespBuffer {
    /// From the packed word.
    pub const fn from_word(word: U32) -> Self {
        let word = word.get();
        Self { length: word & ISCSI_FW_MP_REQUEST_RESP_BUFFER_LENGTH, num_bds: (word >> 24) as u8 }
    }

    /// To the packed word; a length beyond 24 bits is cut.
    pub const fn to_word(self) -> U32 {
        U32::new((self.num_bds as u32) << 24 | self.length & ISCSI_FW_MP_REQUEST_RESP_BUFFER_LENGTH)
    }
}

impl LoginRequest {
    /// ExpStatSN is to be taken from this request.
    pub const fn update_exp_stat_sn(&self) -> bool {
        self.flags & ISCSI_LOGIN_REQUEST_UPDATE_EXP_STAT_SN != 0
    }

    /// ISID as its six wire bytes.
    pub const fn isid(&self) -> [u8; 6] {
        let (lo, hi) = (self.isid_lo.get().to_le_bytes(), self.isid_hi.get().to_le_bytes());
        [lo[0], lo[1], lo[2], lo[3], hi[0], hi[1]]
    }

    /// Sets the ISID from its six wire bytes; the host copies them raw.
    pub const fn set_isid(&mut self, isid: [u8; 6]) {
        self.isid_lo = U32::new(u32::from_le_bytes([isid[0], isid[1], isid[2], isid[3]]));
        self.isid_hi = U16::new(u16::from_le_bytes([isid[4], isid[5]]));
    }
}

impl CmdRequest {
    /// Data goes to the target.
    pub const fn is_write(&self) -> bool {
        self.op_attr & ISCSI_CMD_REQUEST_WRITE != 0
    }

    /// Data comes from the target.
    pub const fn is_read(&self) -> bool {
        self.op_attr & ISCSI_CMD_REQUEST_READ != 0
    }

    /// Task attribute (0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA).
    pub const fn task_attr(&self) -> u8 {
        self.op_attr & ISCSI_CMD_REQUEST_TASK_ATTR
    }
}

impl TmfRequest {
    /// Task management function.
    pub const fn function(&self) -> u8 {
        self.op_attr & ISCSI_TMF_REQUEST_FUNCTION
    }
}

impl LogoutRequest {
    /// Reason code of the logout.
    pub const fn reason(&self) -> u8 {
        self.op_attr & ISCSI_LOGOUT_REQUEST_REASON
    }
}

impl NopOutRequest {
    /// The chip itself completes it, with [`crate::iscsi::cq::CqOpcode::NOPOUT_LOCAL_COMPLETION`]: an answer
    /// to a NOP-In.
    pub const fn local_completion(&self) -> bool {
        self.flags & ISCSI_NOP_OUT_REQUEST_LOCAL_COMPLETION != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;
    use crate::iscsi::bits::TaskType;

    #[test]
    fn opcode_and_itt_are_found_before_the_kind_is_known() {
        let itt = Itt::new(0x123, TaskType::MPATH);
        let requests = [
            CmdRequest { itt, ..CmdRequest::blank() }.into_element(),
            LoginRequest { itt, ..LoginRequest::blank() }.into_element(),
            TextRequest { itt, ..TextRequest::blank() }.into_element(),
            TmfRequest { itt, ..TmfRequest::blank() }.into_element(),
            LogoutRequest { itt, ..LogoutRequest::blank() }.into_element(),
            NopOutRequest { itt, ..NopOutRequest::blank() }.into_element(),
            CleanupRequest { itt, ..CleanupRequest::blank() }.into_element(),
        ];
        assert_eq!(requests.map(|sqe| sqe.opcode().0), [0x01, 0x43, 0x04, 0x42, 0x46, 0x40, 0x07]);
        assert!(requests.iter().all(|sqe| sqe.itt() == itt && sqe.view::<FwMpRequest>().itt == itt));
    }

    #[test]
    fn addresses_and_isid_stand_where_the_chip_looks() {
        let mut login = LoginRequest::blank();
        login.set_bd_list_addr(0x1122_3344_5566_7788);
        login.set_resp_bd_list_addr(0x99);
        login.set_isid([1, 2, 3, 4, 5, 6]);
        login.resp_buffer = RespBuffer { length: 8192, num_bds: 1 }.to_word();
        let bytes = login.bytes();
        assert_eq!(bytes[52..60], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(bytes[36..44], [0x99, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((&bytes[8..12], &bytes[14..16]), (&[1, 2, 3, 4][..], &[5, 6][..]));
        assert_eq!(bytes[44..48], [0, 0x20, 0, 1]);
        assert_eq!((login.isid(), login.bd_list_addr()), ([1, 2, 3, 4, 5, 6], 0x1122_3344_5566_7788));
        assert_eq!(RespBuffer::from_word(login.resp_buffer), RespBuffer { length: 8192, num_bds: 1 });
    }

    #[test]
    fn unknown_opcodes_are_kept() {
        let sqe = Sqe::from_bytes([0xaa; 64]);
        assert_eq!((sqe.opcode(), sqe.opcode().name()), (SqOpcode(0xaa), None));
        assert_eq!(SqOpcode::CLEANUP_REQUEST.name(), Some("CLEANUP_REQUEST"));
    }
}
