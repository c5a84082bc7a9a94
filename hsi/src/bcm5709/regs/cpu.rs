//! On-chip processors, as far as drivers touch them: download, start, and a few firmware words.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Mode of the completion processor.
        COM_CPU_MODE = 0x105000,
        /// State of the completion processor.
        COM_CPU_STATE = 0x105004,
        /// Program counter of the completion processor.
        COM_CPU_PROGRAM_COUNTER = 0x10501c,
        /// Event mask of the completion processor.
        COM_CPU_EVENT_MASK = 0x105008,
        /// Registers of the completion processor.
        COM_CPU_REG_FILE = 0x105200,
        /// Scratchpad of the completion processor.
        COM_SCRATCH = 0x120000,
        /// Mode of the command processor.
        CP_CPU_MODE = 0x185000,
        /// State of the command processor.
        CP_CPU_STATE = 0x185004,
        /// Program counter of the command processor.
        CP_CPU_PROGRAM_COUNTER = 0x18501c,
        /// Event mask of the command processor.
        CP_CPU_EVENT_MASK = 0x185008,
        /// Registers of the command processor.
        CP_CPU_REG_FILE = 0x185200,
        /// Scratchpad of the command processor.
        CP_SCRATCH = 0x1a0000,
        /// Mode of the receive processor.
        RXP_CPU_MODE = 0xc5000,
        /// State of the receive processor.
        RXP_CPU_STATE = 0xc5004,
        /// Program counter of the receive processor.
        RXP_CPU_PROGRAM_COUNTER = 0xc501c,
        /// Event mask of the receive processor.
        RXP_CPU_EVENT_MASK = 0xc5008,
        /// Registers of the receive processor.
        RXP_CPU_REG_FILE = 0xc5200,
        /// Scratchpad of the receive processor.
        RXP_SCRATCH = 0xe0000,
        /// Mode of the transmit processor.
        TXP_CPU_MODE = 0x45000,
        /// State of the transmit processor.
        TXP_CPU_STATE = 0x45004,
        /// Program counter of the transmit processor.
        TXP_CPU_PROGRAM_COUNTER = 0x4501c,
        /// Event mask of the transmit processor.
        TXP_CPU_EVENT_MASK = 0x45008,
        /// Registers of the transmit processor.
        TXP_CPU_REG_FILE = 0x45200,
        /// Scratchpad of the transmit processor.
        TXP_SCRATCH = 0x60000,
        /// Mode of the transmit patch-up processor.
        TPAT_CPU_MODE = 0x85000,
        /// State of the transmit patch-up processor.
        TPAT_CPU_STATE = 0x85004,
        /// Program counter of the transmit patch-up processor.
        TPAT_CPU_PROGRAM_COUNTER = 0x8501c,
        /// Event mask of the transmit patch-up processor.
        TPAT_CPU_EVENT_MASK = 0x85008,
        /// Registers of the transmit patch-up processor.
        TPAT_CPU_REG_FILE = 0x85200,
        /// Scratchpad of the transmit patch-up processor.
        TPAT_SCRATCH = 0xa0000,
        /// Firmware answers receive completions at once.
        FW_RX_LOW_LATENCY = 0x120058,
        /// Frames that firmware dropped.
        FW_RX_DROP_COUNT = 0x120084,
        /// Largest number of offloaded connections, set by firmware from the licence. Not zero, or cnic does
        /// not register.
        FW_MAX_ISCSI_CONN = 0x1a0080,
        /// Context ids of path groups: first id (high half), end (low half).
        PG_CTX_MAP = 0x1a0034,
        /// Context ids of iSCSI connections: first id (high half), end (low half).
        ISCSI_CTX_MAP = 0x1a0074,
        /// Receive and transmit microcode engine.
        RV2P_COMMAND = 0x2800,
        /// Its configuration.
        RV2P_CONFIG = 0x2808,
        /// Instruction, high word.
        RV2P_INSTR_HIGH = 0x2830,
        /// Instruction, low word.
        RV2P_INSTR_LOW = 0x2834,
        /// Address and command, first engine.
        RV2P_PROC1_ADDR_CMD = 0x2838,
        /// Address and command, second engine.
        RV2P_PROC2_ADDR_CMD = 0x283c,
        /// Transmit BD reader.
        TBDR_COMMAND = 0x5000,
    }
    Bits("BNX2_TBDR_COMMAND", ""): u32 {
        TBDR_COMMAND_ENABLE = 0x1,
        TBDR_COMMAND_SOFT_RST = 0x2,
        TBDR_COMMAND_MSTR_ABORT = 0x10,
    }
    Register(Grc): u32 {
        /// Its configuration.
        TBDR_CONFIG = 0x5008,
    }
    Bits("BNX2_TBDR_CONFIG", ""): u32 {
        TBDR_CONFIG_MAX_BDS = 0xff,
        TBDR_CONFIG_PAGE_SIZE = 0xf000000,
    }
    Value("BNX2_TBDR_CONFIG", ""): u32 {
        TBDR_CONFIG_PAGE_SIZE_4K = 0x4000000,
    }
    Register(Grc): u32 {
        /// Receive buffers.
        RBUF_COMMAND = 0x200000,
        /// Their flow-control limits.
        RBUF_CONFIG = 0x20000c,
    }
    Bits("BNX2_RBUF_CONFIG", ""): u32 {
        RBUF_CONFIG_XOFF_TRIP = 0x3ff,
        RBUF_CONFIG_XON_TRIP = 0x3ff0000,
    }
    Register(Grc): u32 {
        /// More of them.
        RBUF_CONFIG2 = 0x20001c,
        /// More of them.
        RBUF_CONFIG3 = 0x200020,
    }
}

/// Offset of the doorbell-enable word in a scratchpad: written 1 at start, 0 at stop (CHIP-REGISTERS 2, item
/// 22).
pub const DOORBELL_ENABLE_OFFSET: u32 = 0x20;
/// Doorbell enable of the command processor.
pub const CP_DOORBELL_ENABLE: u32 = CP_SCRATCH + DOORBELL_ENABLE_OFFSET;
/// Doorbell enable of the completion processor.
pub const COM_DOORBELL_ENABLE: u32 = COM_SCRATCH + DOORBELL_ENABLE_OFFSET;
