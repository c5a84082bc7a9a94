//! Registers in configuration space, mirrored at the start of BAR0, and the PCI block behind them.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(PciCfg): u32 {
        /// MSI control, as bnx2 reads it.
        PCICFG_MSI_CONTROL = 0x58,
    }
    Bits("BNX2_PCICFG_MSI_CONTROL", ""): u32 {
        PCICFG_MSI_CONTROL_ENABLE = 0x10000,
    }
    Register(PciCfg): u32 {
        /// Register window enable, swap modes, old-style reset.
        PCICFG_MISC_CONFIG = 0x68,
    }
    Bits("BNX2_PCICFG_MISC_CONFIG", ""): u32 {
        PCICFG_MISC_CONFIG_TARGET_BYTE_SWAP = 0x4,
        PCICFG_MISC_CONFIG_TARGET_MB_WORD_SWAP = 0x8,
        PCICFG_MISC_CONFIG_CLOCK_CTL_ENA = 0x20,
        PCICFG_MISC_CONFIG_TARGET_GRC_WORD_SWAP = 0x40,
        PCICFG_MISC_CONFIG_REG_WINDOW_ENA = 0x80,
        PCICFG_MISC_CONFIG_CORE_RST_REQ = 0x100,
        PCICFG_MISC_CONFIG_CORE_RST_BSY = 0x200,
        PCICFG_MISC_CONFIG_ASIC_METAL_REV = 0xff0000,
        PCICFG_MISC_CONFIG_ASIC_BASE_REV = 0xf000000,
        PCICFG_MISC_CONFIG_ASIC_ID = 0xf0000000,
    }
    Register(PciCfg): u32 {
        /// Interrupt pin and bus kind.
        PCICFG_MISC_STATUS = 0x6c,
    }
    Bits("BNX2_PCICFG_MISC_STATUS", ""): u32 {
        PCICFG_MISC_STATUS_INTA_VALUE = 0x1,
        PCICFG_MISC_STATUS_32BIT_DET = 0x2,
        PCICFG_MISC_STATUS_PCIX_DET = 0x8,
        PCICFG_MISC_STATUS_PCIX_SPEED = 0x30,
    }
    Register(PciCfg): u32 {
        /// Bus clock.
        PCICFG_PCI_CLOCK_CONTROL_BITS = 0x70,
        /// GRC address that the register window shows.
        PCICFG_REG_WINDOW_ADDRESS = 0x78,
    }
    Bits("BNX2_PCICFG_REG_WINDOW_ADDRESS", ""): u32 {
        PCICFG_REG_WINDOW_ADDRESS_VAL = 0x3ffffc,
    }
    Register(PciCfg): u32 {
        /// The register window: data at the address.
        PCICFG_REG_WINDOW = 0x80,
        /// Interrupt acknowledge: status index, mask, vector. Reads return the last acknowledged index.
        PCICFG_INT_ACK_CMD = 0x84,
    }
    Bits("BNX2_PCICFG_INT_ACK_CMD", ""): u32 {
        PCICFG_INT_ACK_CMD_INDEX = 0xffff,
        PCICFG_INT_ACK_CMD_INDEX_VALID = 0x10000,
        PCICFG_INT_ACK_CMD_USE_INT_HC_PARAM = 0x20000,
        PCICFG_INT_ACK_CMD_MASK_INT = 0x40000,
        PCICFG_INT_ACK_CMD_INTERRUPT_NUM = 0xf000000,
    }
    Register(PciCfg): u32 {
        /// Sets attention bits in the acknowledged copy.
        PCICFG_STATUS_BIT_SET_CMD = 0x88,
        /// Clears attention bits in the acknowledged copy.
        PCICFG_STATUS_BIT_CLEAR_CMD = 0x8c,
        /// Mailbox queue address.
        PCICFG_MAILBOX_QUEUE_ADDR = 0x90,
        /// Mailbox queue data.
        PCICFG_MAILBOX_QUEUE_DATA = 0x94,
        /// PCI Express device control and status. The bit's name notwithstanding, set means transactions
        /// pending.
        PCICFG_DEVICE_CONTROL = 0xb4,
    }
    Bits("BNX2_PCICFG_DEVICE_CONTROL", ""): u32 {
        PCICFG_DEVICE_STATUS_NO_PEND = 0x200000,
    }
    Register(Grc): u32 {
        /// GRC window 1, and separate-window mode.
        PCI_GRC_WINDOW_ADDR = 0x400,
    }
    Bits("BNX2_PCI_GRC_WINDOW_ADDR", ""): u32 {
        PCI_GRC_WINDOW_ADDR_VALUE = 0x3fe000,
        PCI_GRC_WINDOW_ADDR_SEP_WIN = 0x80000000,
    }
    Register(Grc): u32 {
        /// BAR0 offset of GRC window 2: the MSI-X table.
        PCI_GRC_WINDOW2_BASE = 0xc000,
        /// BAR0 offset of GRC window 3: the pending-bit array.
        PCI_GRC_WINDOW3_BASE = 0xe000,
        /// GRC address of window 2.
        PCI_GRC_WINDOW2_ADDR = 0x614,
        /// GRC address of window 3.
        PCI_GRC_WINDOW3_ADDR = 0x618,
        /// Power management; auxiliary power present.
        PCI_CONFIG_3 = 0x40c,
    }
    Bits("BNX2_PCI_CONFIG_3", ""): u32 {
        PCI_CONFIG_3_PME_STATUS = 0x2000000,
        PCI_CONFIG_3_PME_ENABLE = 0x4000000,
        PCI_CONFIG_3_PM_STATE = 0x18000000,
        PCI_CONFIG_3_VAUX_PRESET = 0x40000000,
        PCI_CONFIG_3_PCI_POWER = 0x80000000,
    }
    Register(Grc): u32 {
        /// Reads 0x01020304: proves the byte order.
        PCI_SWAP_DIAG0 = 0x418,
        /// Second byte-order word.
        PCI_SWAP_DIAG1 = 0x41c,
        /// Size of the MSI-X table.
        PCI_MSIX_CONTROL = 0x4c0,
    }
    Bits("BNX2_PCI_MSIX_CONTROL", ""): u32 {
        PCI_MSIX_CONTROL_MSIX_TBL_SIZ = 0x7ff,
        PCI_MSIX_CONTROL_RESERVED0 = 0xfffff800,
    }
    Register(Grc): u32 {
        /// Offset and BAR of the MSI-X table.
        PCI_MSIX_TBL_OFF_BIR = 0x4c4,
        /// Offset and BAR of the pending-bit array.
        PCI_MSIX_PBA_OFF_BIT = 0x4c8,
        /// GRC address of the MSI-X table.
        MSIX_TABLE_ADDR = 0x318000,
        /// GRC address of the pending-bit array.
        MSIX_PBA_ADDR = 0x31c000,
    }
    Constant(): u32 {
        PCICFG_INT_ACK_CMD_INT_NUM_SHIFT = 0x18,
    }
}

/// Byte order word in [`PCI_SWAP_DIAG0`] (CHIP-REGISTERS 2, item 10).
pub const SWAP_DIAG0_VALUE: u32 = 0x0102_0304;

/// Offsets in configuration space that the drivers expect on a 5709 (CHIP-REGISTERS 1).
pub mod config_space {
    /// Power management capability.
    pub const PM_CAP: u16 = 0x48;
    /// Vital product data capability.
    pub const VPD_CAP: u16 = 0x50;
    /// MSI capability.
    pub const MSI_CAP: u16 = 0x58;
    /// MSI-X capability.
    pub const MSIX_CAP: u16 = 0xa0;
    /// PCI Express capability.
    pub const PCIE_CAP: u16 = 0xac;
    /// Vendor id of Broadcom.
    pub const VENDOR_ID: u16 = 0x14e4;
    /// Device id of the copper 5709.
    pub const DEVICE_ID_5709: u16 = 0x1639;
    /// Class code: Ethernet controller.
    pub const CLASS_ETHERNET: u32 = 0x02_0000;
    /// Smallest revision that cnic accepts.
    pub const MIN_REVISION: u8 = 0x10;
    /// Bytes of BAR0.
    pub const BAR0_BYTES: u64 = 32 << 20;
    /// Bytes of BAR0 that mirror configuration space.
    pub const MIRROR_BYTES: u32 = 0x100;
}
