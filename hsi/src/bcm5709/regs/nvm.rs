//! NVRAM: arbitration and the serial interface.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Start, direction, done.
        NVM_COMMAND = 0x6400,
    }
    Bits("BNX2_NVM_COMMAND", ""): u32 {
        NVM_COMMAND_RST = 0x1,
        NVM_COMMAND_DONE = 0x8,
        NVM_COMMAND_DOIT = 0x10,
        NVM_COMMAND_WR = 0x20,
        NVM_COMMAND_ERASE = 0x40,
        NVM_COMMAND_FIRST = 0x80,
        NVM_COMMAND_LAST = 0x100,
        NVM_COMMAND_WREN = 0x10000,
        NVM_COMMAND_WRDI = 0x20000,
    }
    Register(Grc): u32 {
        /// State of the interface.
        NVM_STATUS = 0x6404,
        /// Data to write.
        NVM_WRITE = 0x6408,
        /// Address.
        NVM_ADDR = 0x640c,
        /// Data read.
        NVM_READ = 0x6410,
        /// Flash strapping.
        NVM_CFG1 = 0x6414,
        /// Erase and write commands.
        NVM_CFG2 = 0x6418,
        /// Buffer commands.
        NVM_CFG3 = 0x641c,
        /// Arbitration between driver and management firmware.
        NVM_SW_ARB = 0x6420,
    }
    Bits("BNX2_NVM_SW_ARB", ""): u32 {
        NVM_SW_ARB_ARB_REQ_SET0 = 0x1,
        NVM_SW_ARB_ARB_REQ_SET1 = 0x2,
        NVM_SW_ARB_ARB_REQ_SET2 = 0x4,
        NVM_SW_ARB_ARB_REQ_SET3 = 0x8,
        NVM_SW_ARB_ARB_REQ_CLR0 = 0x10,
        NVM_SW_ARB_ARB_REQ_CLR1 = 0x20,
        NVM_SW_ARB_ARB_REQ_CLR2 = 0x40,
        NVM_SW_ARB_ARB_REQ_CLR3 = 0x80,
        NVM_SW_ARB_ARB_ARB0 = 0x100,
        NVM_SW_ARB_ARB_ARB1 = 0x200,
        NVM_SW_ARB_ARB_ARB2 = 0x400,
        NVM_SW_ARB_ARB_ARB3 = 0x800,
        NVM_SW_ARB_REQ0 = 0x1000,
        NVM_SW_ARB_REQ1 = 0x2000,
        NVM_SW_ARB_REQ2 = 0x4000,
        NVM_SW_ARB_REQ3 = 0x8000,
    }
    Register(Grc): u32 {
        /// Access enable.
        NVM_ACCESS_ENABLE = 0x6424,
    }
    Bits("BNX2_NVM_ACCESS_ENABLE", ""): u32 {
        NVM_ACCESS_ENABLE_EN = 0x1,
        NVM_ACCESS_ENABLE_WR_EN = 0x2,
    }
}
