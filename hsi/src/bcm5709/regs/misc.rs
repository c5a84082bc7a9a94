//! Chip identity, reset, block enables, and the management processor's registers.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Resets; `SW_RESET` is the one that the 5709 driver uses.
        MISC_COMMAND = 0x800,
    }
    Bits("BNX2_MISC_COMMAND", ""): u32 {
        MISC_COMMAND_ENABLE_ALL = 0x1,
        MISC_COMMAND_DISABLE_ALL = 0x2,
        MISC_COMMAND_SW_RESET = 0x10,
        MISC_COMMAND_POR_RESET = 0x20,
        MISC_COMMAND_HD_RESET = 0x40,
        MISC_COMMAND_CMN_SW_RESET = 0x80,
    }
    Register(Grc): u32 {
        /// Clocks, NVRAM write enable, LED mode.
        MISC_CFG = 0x804,
    }
    Bits("BNX2_MISC_CFG", ""): u32 {
        MISC_CFG_GRC_TMOUT = 0x1,
        MISC_CFG_NVM_WR_EN = 0x6,
        MISC_CFG_LEDMODE = 0x700,
        MISC_CFG_PORT_SELECT_XI = 0x2000,
    }
    Value("BNX2_MISC_CFG", ""): u32 {
        MISC_CFG_NVM_WR_EN_PCI = 0x2,
    }
    Register(Grc): u32 {
        /// Chip number, revision, metal and bond id.
        MISC_ID = 0x808,
    }
    Bits("BNX2_MISC_ID", ""): u32 {
        MISC_ID_BOND_ID = 0xf,
        MISC_ID_CHIP_METAL = 0xff0,
        MISC_ID_CHIP_REV = 0xf000,
        MISC_ID_CHIP_NUM = 0xffff0000,
    }
    Value("BNX2_MISC_ID", ""): u32 {
        MISC_ID_BOND_ID_X = 0x0,
        MISC_ID_BOND_ID_C = 0x3,
        MISC_ID_BOND_ID_S = 0xc,
    }
    Register(Grc): u32 {
        /// Which blocks are enabled.
        MISC_ENABLE_STATUS_BITS = 0x80c,
    }
    Bits("BNX2_MISC_ENABLE_STATUS_BITS", ""): u32 {
        MISC_ENABLE_STATUS_BITS_TX_DMA_ENABLE = 0x10,
        MISC_ENABLE_STATUS_BITS_EMAC_ENABLE = 0x200,
        MISC_ENABLE_STATUS_BITS_RX_DMA_ENABLE = 0x20000,
        MISC_ENABLE_STATUS_BITS_COMPLETION_ENABLE = 0x40000,
        MISC_ENABLE_STATUS_BITS_HOST_COALESCE_ENABLE = 0x80000,
        MISC_ENABLE_STATUS_BITS_MAILBOX_QUEUE_ENABLE = 0x100000,
        MISC_ENABLE_STATUS_BITS_CONTEXT_ENABLE = 0x200000,
        MISC_ENABLE_STATUS_BITS_DMA_ENGINE_ENABLE = 0x4000000,
        MISC_ENABLE_STATUS_BITS_UMP_ENABLE = 0x8000000,
    }
    Register(Grc): u32 {
        /// Enables blocks.
        MISC_ENABLE_SET_BITS = 0x810,
        /// Disables blocks.
        MISC_ENABLE_CLR_BITS = 0x814,
        /// Clock control.
        MISC_CLOCK_CONTROL_BITS = 0x818,
        /// DMA enable of the 5709.
        MISC_NEW_CORE_CTL = 0x8c8,
    }
    Bits("BNX2_MISC_NEW_CORE_CTL", ""): u32 {
        MISC_NEW_CORE_CTL_LINK_HOLDOFF_SUCCESS = 0x1,
        MISC_NEW_CORE_CTL_LINK_HOLDOFF_REQ = 0x2,
        MISC_NEW_CORE_CTL_DMA_ENABLE = 0x10000,
    }
    Register(Grc): u32 {
        /// Hardware workarounds.
        MISC_ECO_HW_CTL = 0x8cc,
        /// Bond id and PHY strapping.
        MISC_DUAL_MEDIA_CTRL = 0x8ec,
    }
    Bits("BNX2_MISC_DUAL_MEDIA_CTRL", ""): u32 {
        MISC_DUAL_MEDIA_CTRL_BOND_ID = 0xff,
        MISC_DUAL_MEDIA_CTRL_PHY_CTRL_STRAP = 0x700,
        MISC_DUAL_MEDIA_CTRL_PHY_CTRL = 0xe00000,
        MISC_DUAL_MEDIA_CTRL_STRAP_OVERRIDE = 0x2000000,
    }
    Value("BNX2_MISC_DUAL_MEDIA_CTRL", ""): u32 {
        MISC_DUAL_MEDIA_CTRL_BOND_ID_X = 0x0,
        MISC_DUAL_MEDIA_CTRL_BOND_ID_C = 0x3,
        MISC_DUAL_MEDIA_CTRL_BOND_ID_S = 0xc,
    }
    Register(Grc): u32 {
        /// DMA byte order and burst sizes.
        DMA_CONFIG = 0xc08,
        /// Function number.
        MCP_TOE_ID = 0x1400a0,
    }
    Bits("BNX2_MCP_TOE_ID", ""): u32 {
        MCP_TOE_ID_FUNCTION_ID = 0x80000000,
    }
    Register(Grc): u32 {
        /// Message queue of the management processor.
        MCP_MCPQ = 0x1453c0,
        /// Scratchpad of the management processor: shared memory lies in it.
        MCP_SCRATCH = 0x160000,
        /// Mode of the management processor.
        MCP_CPU_MODE = 0x145000,
        /// State of the management processor.
        MCP_CPU_STATE = 0x145004,
    }
    Constant(): u32 {
        CHIP_5709 = 0x57090000,
        MISC_ENABLE_DEFAULT = 0x17ffffff,
    }
}

/// `MISC_ID` of a copper 5709 C0 (CHIP-REGISTERS 2, item 2).
pub const MISC_ID_5709_C0: u32 = CHIP_5709 | 0x2000;
