//! Sizes and limits of the 5709 class (BNX2I-CNIC B.1), and the defaults of its TCP parameters (3.6).

use crate::facts::facts;

facts! {
    prefix "";
    Constant(): usize {
        ISCSI_MAX_CONNS_PER_HBA = 0x80,
        ISCSI_MAX_SESS_PER_HBA = 0x80,
        ISCSI_MAX_CMDS_PER_SESS = 0x80,
        ISCSI_MAX_BDS_PER_CMD = 0x20,
        MAX_CNIC_L5_CONTEXT = 0x100,
        MAX_ISCSI_TBL_SZ = 0x100,
        MAX_CM_SK_TBL_SZ = 0x100,
        MAX_BD_LENGTH = 0xffff,
        BD_SPLIT_SIZE = 0x8000,
        BNX2I_SQ_WQES_MIN = 0x10,
        BNX2I_570X_SQ_WQES_MAX = 0x80,
        BNX2I_570X_SQ_WQES_DEFAULT = 0x80,
        BNX2I_570X_CQ_WQES_MAX = 0x80,
        BNX2I_RQ_WQES_MIN = 0x10,
        BNX2I_RQ_WQES_MAX = 0x20,
        BNX2I_RQ_WQES_DEFAULT = 0x10,
        BNX2I_CCELLS_MIN = 0x10,
        BNX2I_CCELLS_MAX = 0x60,
        BNX2I_CCELLS_DEFAULT = 0x40,
        BNX2I_SQ_WQE_SIZE = 0x40,
        BNX2I_RQ_WQE_SIZE = 0x100,
        BNX2I_CQE_SIZE = 0x40,
        BNX2I_MAX_MTU_SUPPORTED = 0x2328,
        BNX2I_570X_PAGE_SIZE_DEFAULT = 0x1000,
        CNIC_PAGE_BITS = 0xc,
        CNIC_PAGE_SIZE = 0x1000,
        KWQ_PAGE_CNT = 0x4,
        KCQ_PAGE_CNT = 0x10,
        KWQE_CNT = 0x80,
        KCQE_CNT = 0x80,
        MAX_KWQ_IDX = 0x1ff,
        MAX_KCQ_IDX = 0x7ff,
        MAX_COMPLETED_KCQE = 0x40,
        BNX2_TX_DESC_CNT = 0x100,
        BNX2_MAX_TX_DESC_CNT = 0xff,
        BNX2_RX_DESC_CNT = 0x100,
        BNX2_MAX_RX_DESC_CNT = 0xff,
        BNX2_RX_OFFSET = 0x12,
        BNX2_RX_ALIGN = 0x10,
        BNX2_MAX_RX_RINGS = 0x8,
        MAX_ETHERNET_PACKET_SIZE = 0x5dc,
        MAX_ETHERNET_JUMBO_PACKET_SIZE = 0x2328,
        ISCSI_HEADER_SIZE = 0x30,
        ISCSI_DIGEST_SIZE = 0x4,
    }
    Constant(): u16 {
        CNIC_LOCAL_PORT_MIN = 0xea60,
        CNIC_LOCAL_PORT_MAX = 0xee60,
        CNIC_LOCAL_PORT_RANGE = 0x400,
        DEF_IPID_START = 0x8000,
    }
    Constant(): u32 {
        DEF_KA_TIMEOUT = 0x2710,
        DEF_KA_INTERVAL = 0x493e0,
        DEF_KA_MAX_PROBE_COUNT = 0x3,
        DEF_TOS = 0x0,
        DEF_TTL = 0xfe,
        DEF_SND_SEQ_SCALE = 0x0,
        DEF_SEED = 0x0,
    }
    Constant(): u64 {
        BNX2_DRV_PULSE_PERIOD_MS = 0xfa,
        BNX2_FW_ACK_TIME_OUT_MS = 0x3e8,
    }
}

/// Largest transfer of one command, in sectors of 512 bytes.
pub const MAX_SECTORS: usize = 127;
/// Largest transfer of one command, in bytes.
pub const MAX_TRANSFER_BYTES: usize = MAX_SECTORS * 512;
/// CQ entries by default.
pub const CQ_WQES_DEFAULT: usize = 128;
/// Bytes of the request and of the response buffer of the login phase.
pub const LOGIN_BUFFER_BYTES: usize = 8192;
/// Bytes of a KWQE or KCQE.
pub const KERNEL_QUEUE_ELEMENT_BYTES: usize = 32;
/// Bytes of a BD.
pub const BD_BYTES: usize = 16;
/// Tasks per session that libiscsi keeps for management.
pub const MGMT_TASKS: usize = 15;
/// Receive and send buffer that the connection manager asks for (BNX2I-CNIC 3.6); the header's defaults are
/// not used.
pub const CM_BUFFER_BYTES: u32 = 262_144;
/// Default error classes: these completion statuses are warnings (BNX2I-CNIC 6.2, B.6).
pub const DEFAULT_ERROR_MASK: u64 = 0x0000_0001_0800_8000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::kcq::CompletionStatus;

    /// The three statuses that 6.2 marks as warnings are the bits of the mask in B.6.
    #[test]
    fn default_warnings() {
        let warnings = [
            CompletionStatus::PROTOCOL_ERR_EXP_DATASN,
            CompletionStatus::PROTOCOL_ERR_TTT_NOT_RSRV,
            CompletionStatus::PROTOCOL_ERR_LUN,
        ];
        assert_eq!(warnings.iter().fold(0, |mask, status| mask | 1 << status.0), DEFAULT_ERROR_MASK);
    }

    #[test]
    fn sizes_agree_with_the_structures() {
        assert_eq!(size_of::<crate::iscsi::sq::Sqe>(), BNX2I_SQ_WQE_SIZE);
        assert_eq!(size_of::<crate::iscsi::cq::Cqe>(), BNX2I_CQE_SIZE);
        assert_eq!(size_of::<crate::iscsi::rq::Rqe>(), BNX2I_RQ_WQE_SIZE);
        assert_eq!(size_of::<crate::kernel::kwq::Kwqe>(), KERNEL_QUEUE_ELEMENT_BYTES);
        assert_eq!(size_of::<crate::iscsi::bd::IscsiBd>(), BD_BYTES);
        assert_eq!(MAX_TRANSFER_BYTES, 65_024);
    }
}
