//! Shared memory of the management processor: identity, licence and the mailbox between driver and boot code
//! (CHIP-REGISTERS 2, items 3 to 5, 9; section 3).
//!
//! Offsets count from the base of the function, which the header at `SHM_HDR_ADDR_0` or `_1` names. The
//! driver writes a message code with a sequence number into `DRV_MB`; boot code answers by copying the
//! sequence into `FW_MB`.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Signature of the header.
        SHM_HDR_SIGNATURE = 0x160000,
    }
    Bits("BNX2_SHM_HDR_SIGNATURE", ""): u32 {
        SHM_HDR_SIGNATURE_SIG_MASK = 0xffff0000,
        SHM_HDR_SIGNATURE_VER_MASK = 0xff,
    }
    Value("BNX2_SHM_HDR_SIGNATURE", ""): u32 {
        SHM_HDR_SIGNATURE_SIG = 0x53530000,
        SHM_HDR_SIGNATURE_VER_ONE = 0x1,
    }
    Register(Grc): u32 {
        /// Base of function 0.
        SHM_HDR_ADDR_0 = 0x160004,
        /// Base of function 1.
        SHM_HDR_ADDR_1 = 0x160008,
    }
    Register(Shmem): u32 {
        /// Written before a reset, to tell boot code that a driver is there.
        DRV_RESET_SIGNATURE = 0x0,
        /// Driver to boot code: code, data, sequence.
        DRV_MB = 0x4,
    }
    Bits("BNX2_DRV_MB", ""): u32 {
        DRV_MSG_CODE = 0xff000000,
        DRV_MSG_DATA = 0xff0000,
        DRV_MSG_SEQ = 0xffff,
    }
    Value("BNX2_DRV_MB", ""): u32 {
        DRV_MSG_CODE_RESET = 0x1000000,
        DRV_MSG_CODE_UNLOAD = 0x2000000,
        DRV_MSG_CODE_SHUTDOWN = 0x3000000,
        DRV_MSG_CODE_SUSPEND_WOL = 0x4000000,
        DRV_MSG_CODE_FW_TIMEOUT = 0x5000000,
        DRV_MSG_CODE_PULSE = 0x6000000,
        DRV_MSG_CODE_DIAG = 0x7000000,
        DRV_MSG_CODE_SUSPEND_NO_WOL = 0x9000000,
        DRV_MSG_CODE_UNLOAD_LNK_DN = 0xb000000,
        DRV_MSG_CODE_KEEP_VLAN_UPDATE = 0xd000000,
        DRV_MSG_CODE_CMD_SET_LINK = 0x10000000,
        DRV_MSG_DATA_WAIT0 = 0x10000,
        DRV_MSG_DATA_WAIT1 = 0x20000,
        DRV_MSG_DATA_WAIT2 = 0x30000,
        DRV_MSG_DATA_WAIT3 = 0x40000,
    }
    Register(Shmem): u32 {
        /// Boot code to driver: acknowledged sequence, status.
        FW_MB = 0x8,
    }
    Bits("BNX2_FW_MB", ""): u32 {
        FW_MSG_ACK = 0xffff,
        FW_MSG_STATUS_MASK = 0xff0000,
    }
    Value("BNX2_FW_MB", ""): u32 {
        FW_MSG_STATUS_OK = 0x0,
        FW_MSG_STATUS_FAILURE = 0xff0000,
    }
    Register(Shmem): u32 {
        /// Link status.
        LINK_STATUS = 0xc,
    }
    Bits("BNX2_LINK_STATUS", ""): u32 {
        LINK_STATUS_LINK_UP = 0x1,
        LINK_STATUS_SPEED_MASK = 0x1e,
        LINK_STATUS_AN_ENABLED = 0x20,
        LINK_STATUS_AN_COMPLETE = 0x40,
        LINK_STATUS_TX_FC_ENABLED = 0x10000,
        LINK_STATUS_RX_FC_ENABLED = 0x20000,
    }
    Value("BNX2_LINK_STATUS", ""): u32 {
        LINK_STATUS_LINK_DOWN = 0x0,
        LINK_STATUS_10FULL = 0x4,
        LINK_STATUS_100FULL = 0xa,
        LINK_STATUS_1000FULL = 0xe,
    }
    Register(Shmem): u32 {
        /// Heart beat of the driver.
        DRV_PULSE_MB = 0x10,
    }
    Bits("BNX2_DRV_PULSE_MB", ""): u32 {
        DRV_PULSE_SEQ_MASK = 0x7fff,
        DRV_MSG_DATA_PULSE_CODE_ALWAYS_ALIVE = 0x80000,
    }
    Register(Shmem): u32 {
        /// Argument of a driver message.
        DRV_MB_ARG0 = 0x14,
        /// Signature: boot code runs.
        DEV_INFO_SIGNATURE = 0x20,
    }
    Bits("BNX2_DEV_INFO_SIGNATURE", ""): u32 {
        DEV_INFO_SIGNATURE_MAGIC_MASK = 0xffffff00,
        DEV_INFO_FEATURE_CFG_VALID = 0x1,
        DEV_INFO_SECONDARY_PORT = 0x80,
        DEV_INFO_DRV_ALWAYS_ALIVE = 0x40,
    }
    Value("BNX2_DEV_INFO_SIGNATURE", ""): u32 {
        DEV_INFO_SIGNATURE_MAGIC = 0x44564900,
    }
    Register(Shmem): u32 {
        /// Hardware configuration of the board.
        SHARED_HW_CFG_CONFIG = 0x3c,
        /// More of it: NVRAM size.
        SHARED_HW_CFG_CONFIG2 = 0x40,
        /// Boot code revision, one byte each.
        DEV_INFO_BC_REV = 0x4c,
        /// MAC, bytes 0 and 1.
        PORT_HW_CFG_MAC_UPPER = 0x50,
    }
    Bits("BNX2_PORT_HW_CFG_MAC_UPPER", ""): u32 {
        PORT_HW_CFG_UPPERMAC_MASK = 0xffff,
    }
    Register(Shmem): u32 {
        /// MAC, bytes 2 to 5.
        PORT_HW_CFG_MAC_LOWER = 0x54,
        /// Port configuration.
        PORT_HW_CFG_CONFIG = 0x58,
        /// iSCSI MAC, bytes 0 and 1.
        PORT_HW_CFG_ISCSI_MAC_UPPER = 0x78,
        /// iSCSI MAC, bytes 2 to 5.
        PORT_HW_CFG_ISCSI_MAC_LOWER = 0x7c,
        /// Features of the port.
        PORT_FEATURE = 0xd8,
    }
    Bits("BNX2_PORT_FEATURE", ""): u32 {
        PORT_FEATURE_WOL_ENABLED = 0x1000000,
        PORT_FEATURE_MBA_ENABLED = 0x2000000,
        PORT_FEATURE_ASF_ENABLED = 0x4000000,
        PORT_FEATURE_IMD_ENABLED = 0x8000000,
    }
    Register(Shmem): u32 {
        /// Where the version of management firmware lies.
        MFW_VER_PTR = 0x14c,
        /// Kind of the last reset.
        BC_STATE_RESET_TYPE = 0x1c0,
    }
    Bits("BNX2_BC_STATE_RESET_TYPE", ""): u32 {
        BC_STATE_RESET_TYPE_SIG_MASK = 0xffff,
    }
    Value("BNX2_BC_STATE_RESET_TYPE", ""): u32 {
        BC_STATE_RESET_TYPE_SIG = 0x5254,
        BC_STATE_RESET_TYPE_NONE = 0x15254,
        BC_STATE_RESET_TYPE_PCI = 0x25254,
        BC_STATE_RESET_TYPE_VAUX = 0x35254,
    }
    Register(Shmem): u32 {
        /// State of boot code.
        BC_STATE = 0x1c4,
        /// Which management firmware runs.
        BC_STATE_CONDITION = 0x1c8,
    }
    Bits("BNX2_BC_STATE_CONDITION", ""): u32 {
        CONDITION_MFW_RUN_IPMI = 0x2000,
        CONDITION_MFW_RUN_UMP = 0x4000,
        CONDITION_MFW_RUN_NCSI = 0x6000,
        CONDITION_MFW_RUN_NONE = 0xe000,
        CONDITION_MFW_RUN_MASK = 0xe000,
        CONDITION_PM_STATE_MASK = 0x30000,
    }
    Value("BNX2_BC_STATE_CONDITION", ""): u32 {
        CONDITION_MFW_RUN_UNKNOWN = 0x0,
    }
    Register(Shmem): u32 {
        /// Debug command.
        BC_STATE_DEBUG_CMD = 0x1dc,
        /// Event of firmware.
        FW_EVT_CODE_MB = 0x354,
        /// Capabilities that the driver acknowledges.
        DRV_ACK_CAP_MB = 0x364,
    }
    Bits("BNX2_DRV_ACK_CAP_MB", ""): u32 {
        CAPABILITY_SIGNATURE_MASK = 0xffff0000,
    }
    Value("BNX2_DRV_ACK_CAP_MB", ""): u32 {
        DRV_ACK_CAP_SIGNATURE = 0x35450000,
    }
    Register(Shmem): u32 {
        /// Capabilities of firmware.
        FW_CAP_MB = 0x368,
    }
    Bits("BNX2_FW_CAP_MB", ""): u32 {
        FW_CAP_SIGNATURE_MASK = 0xffff0000,
        FW_CAP_REMOTE_PHY_CAPABLE = 0x1,
        FW_CAP_REMOTE_PHY_PRESENT = 0x2,
        FW_CAP_MFW_CAN_KEEP_VLAN = 0x8,
        FW_CAP_BC_CAN_KEEP_VLAN = 0x10,
        FW_CAP_CAN_KEEP_VLAN = 0x18,
    }
    Value("BNX2_FW_CAP_MB", ""): u32 {
        FW_CAP_SIGNATURE = 0xaa550000,
        FW_ACK_DRV_SIGNATURE = 0x52500000,
    }
    Register(Shmem): u32 {
        /// Licence word: iSCSI initiator allowed.
        ISCSI_INITIATOR = 0x3dc,
    }
    Bits("BNX2_ISCSI_INITIATOR", ""): u32 {
        ISCSI_INITIATOR_EN = 0x80000,
    }
    Register(Shmem): u32 {
        /// Licence word: largest number of offloaded connections.
        ISCSI_MAX_CONN = 0x3e4,
    }
    Bits("BNX2_ISCSI_MAX_CONN", ""): u32 {
        ISCSI_MAX_CONN_MASK = 0xffff0000,
    }
}

/// Reset code of the driver mailbox: message `RESET` with the phase of the handshake, without the sequence.
pub const fn reset_code(phase: u32) -> u32 {
    DRV_MSG_CODE_RESET | phase & DRV_MSG_DATA
}

/// Base of shared memory if there is no header; the model uses it in its header too.
///
/// HSI: `HOST_VIEW_SHMEM_BASE`.
pub const HOST_VIEW_SHMEM_BASE: u32 = 0x16_7c00;

/// Six bytes of a MAC from its two words.
pub const fn mac(upper: u32, lower: u32) -> [u8; 6] {
    let (u, l) = (upper.to_be_bytes(), lower.to_be_bytes());
    [u[2], u[3], l[0], l[1], l[2], l[3]]
}

/// The two words of a MAC: upper, lower.
pub const fn mac_words(mac: [u8; 6]) -> (u32, u32) {
    (u32::from_be_bytes([0, 0, mac[0], mac[1]]), u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_handshake_codes() {
        assert_eq!(reset_code(DRV_MSG_DATA_WAIT0), 0x0101_0000);
        assert_eq!(reset_code(DRV_MSG_DATA_WAIT2), 0x0103_0000);
    }

    #[test]
    fn mac_round_trip() {
        let bytes = [0x00, 0x10, 0x18, 0xaa, 0xbb, 0xcc];
        assert_eq!(mac_words(bytes), (0x0010, 0x18aa_bbcc));
        let (upper, lower) = mac_words(bytes);
        assert_eq!(mac(upper, lower), bytes);
    }
}
