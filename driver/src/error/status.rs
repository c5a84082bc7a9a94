//! Completion statuses of the chip: name, notice string and default class (BNX2I-CNIC 6.1 and 6.2; HSI:
//! `ISCSI_KCQE_COMPLETION_STATUS_*`).

/// A row of the status table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code in word 1 of the KCQE.
    pub code: u8,
    /// Name behind `ISCSI_KCQE_COMPLETION_STATUS_`.
    pub name: &'static str,
    /// What the driver prints behind `iscsi_error - ` or `iscsi_warning - `; empty where it prints `unknown
    /// err`.
    pub notice: &'static str,
}

/// Statuses whose bit in the error mask is set by default: the chip goes on and the driver only warns.
/// As the two words of `error_bit_map` this is {0x0800_8000, 0x0000_0001}.
pub const DEFAULT_WARNING_MASK: u64 = 1 << 0x0f | 1 << 0x1b | 1 << 0x20;

/// Whether `status` is only a warning under `mask`. A status of 64 and above has no bit and is always an
/// error (D7).
#[must_use]
pub const fn is_warning(mask: u64, status: u32) -> bool {
    status < 64 && mask >> status & 1 != 0
}

/// The row of `status`, if the specification has one.
#[must_use]
pub fn lookup(status: u32) -> Option<&'static Status> {
    TABLE.iter().find(|row| u32::from(row.code) == status)
}

const fn row(code: u8, name: &'static str, notice: &'static str) -> Status {
    Status { code, name, notice }
}

/// All statuses, ascending.
pub const TABLE: &[Status] = &[
    row(0x00, "SUCCESS", ""),
    row(0x01, "INVALID_OPCODE", ""),
    row(0x02, "CTX_ALLOC_FAILURE", ""),
    row(0x03, "CTX_FREE_FAILURE", ""),
    row(0x04, "NIC_ERROR", ""),
    row(0x05, "HDR_DIG_ERR", "hdr digest err"),
    row(0x06, "DATA_DIG_ERR", "data digest err"),
    row(0x0a, "PROTOCOL_ERR_UNEXPECTED_OPCODE", ""),
    row(0x0b, "PROTOCOL_ERR_OPCODE", "wrong opcode rcvd"),
    row(0x0c, "PROTOCOL_ERR_AHS_LEN", "AHS len > 0 rcvd"),
    row(0x0d, "PROTOCOL_ERR_ITT", "invalid ITT rcvd"),
    row(0x0e, "PROTOCOL_ERR_STATSN", "wrong StatSN rcvd"),
    row(0x0f, "PROTOCOL_ERR_EXP_DATASN", "wrong DataSN rcvd"),
    row(0x10, "PROTOCOL_ERR_PEND_R2T", "pend R2T violation"),
    row(0x11, "PROTOCOL_ERR_O_U_0", "ERL0, UO"),
    row(0x12, "PROTOCOL_ERR_O_U_1", "ERL0, U1"),
    row(0x13, "PROTOCOL_ERR_O_U_2", "ERL0, U2"),
    row(0x14, "PROTOCOL_ERR_O_U_3", "ERL0, U3"),
    row(0x15, "PROTOCOL_ERR_O_U_4", "ERL0, U4"),
    row(0x16, "PROTOCOL_ERR_O_U_5", "ERL0, U5"),
    row(0x17, "PROTOCOL_ERR_O_U_6", "ERL0, U6"),
    row(0x18, "PROTOCOL_ERR_REMAIN_RCV_LEN", "invalid resi len"),
    row(0x19, "PROTOCOL_ERR_MAX_RCV_PDU_LEN", "MRDSL violation"),
    row(0x1a, "PROTOCOL_ERR_F_BIT_ZERO", "F-bit not set"),
    row(0x1b, "PROTOCOL_ERR_TTT_NOT_RSRV", "invalid TTT"),
    row(0x1c, "PROTOCOL_ERR_DATASN", "invalid DataSN"),
    row(0x1d, "PROTOCOL_ERR_REMAIN_BURST_LEN", "burst len violation"),
    row(0x1f, "PROTOCOL_ERR_BUFFER_OFF", "buf offset violation"),
    row(0x20, "PROTOCOL_ERR_LUN", "invalid LUN field"),
    row(0x21, "PROTOCOL_ERR_R2TSN", "invalid R2TSN field"),
    row(0x22, "PROTOCOL_ERR_DESIRED_DATA_TRNS_LEN_0", "invalid cmd len1"),
    row(0x23, "PROTOCOL_ERR_DESIRED_DATA_TRNS_LEN_1", "invalid cmd len2"),
    row(0x24, "PROTOCOL_ERR_PEND_R2T_EXCEED", "pend r2t exceeds MaxOutstandingR2T value"),
    row(0x25, "PROTOCOL_ERR_TTT_IS_RSRV", "TTT is rsvd"),
    row(0x26, "PROTOCOL_ERR_MAX_BURST_LEN", "MBL violation"),
    row(0x27, "PROTOCOL_ERR_DATA_SEG_LEN_NOT_ZERO", "data seg len != 0"),
    row(0x28, "PROTOCOL_ERR_REJECT_PDU_LEN", "reject pdu len error"),
    row(0x29, "PROTOCOL_ERR_ASYNC_PDU_LEN", "async pdu len error"),
    row(0x2a, "PROTOCOL_ERR_NOPIN_PDU_LEN", "nopin pdu len error"),
    row(0x2b, "PROTOCOL_ERR_PEND_R2T_IN_CLEANUP", "pend r2t in cleanup"),
    row(0x2c, "PROTOCOL_ERR_DATA_SEG_LEN_IS_ZERO", ""),
    row(0x2d, "PROTOCOL_ERR_DATA_SEG_LEN_TOO_BIG", ""),
    row(0x40, "TCP_ERROR_IP_FRAGMENT", "IP fragments rcvd"),
    row(0x41, "TCP_ERROR_IP_OPTIONS", "IP options error"),
    row(0x42, "TCP_ERROR_URGENT_FLAG", "urgent flag error"),
    row(0x43, "TCP_ERROR_MAX_RTRANS", ""),
    row(0x50, "ISCSI_NOT_SUPPORTED", ""),
    row(0x51, "LOM_ISCSI_NOT_ENABLED", ""),
    row(0x80, "CID_BUSY", ""),
    row(0x81, "PARITY_ERR", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_mask_is_the_drivers_and_only_three_statuses_warn() {
        assert_eq!(DEFAULT_WARNING_MASK as u32, 0x0800_8000);
        assert_eq!((DEFAULT_WARNING_MASK >> 32) as u32, 1);
        let warns: Vec<u8> =
            TABLE.iter().map(|r| r.code).filter(|&c| is_warning(DEFAULT_WARNING_MASK, c.into())).collect();
        assert_eq!(warns, [0x0f, 0x1b, 0x20]);
    }

    #[test]
    fn a_status_without_a_bit_is_an_error_whatever_the_mask() {
        for status in [0x40, 0x41, 0x43, 0x4f, 0x80, u32::MAX] {
            assert!(!is_warning(u64::MAX, status), "{status:#x}");
        }
    }

    #[test]
    fn rows_are_unique_ascending_and_found() {
        assert!(TABLE.windows(2).all(|w| w[0].code < w[1].code));
        assert_eq!(lookup(0x26).map(|r| r.notice), Some("MBL violation"));
        assert_eq!(lookup(0x1e), None);
    }
}
