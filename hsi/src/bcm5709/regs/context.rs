//! Context memory access and the host page table behind it.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Enable, memory initialisation, page size.
        CTX_COMMAND = 0x1000,
    }
    Bits("BNX2_CTX_COMMAND", ""): u32 {
        CTX_COMMAND_ENABLED = 0x1,
        CTX_COMMAND_DISABLE_USAGE_CNT = 0x2,
        CTX_COMMAND_DISABLE_PLRU = 0x4,
        CTX_COMMAND_DISABLE_COMBINE_READ = 0x8,
        CTX_COMMAND_FLUSH_AHEAD = 0x1f00,
        CTX_COMMAND_MEM_INIT = 0x2000,
        CTX_COMMAND_PAGE_SIZE = 0xf0000,
    }
    Value("BNX2_CTX_COMMAND", ""): u32 {
        CTX_COMMAND_PAGE_SIZE_4K = 0x40000,
    }
    Register(Grc): u32 {
        /// State of the context block.
        CTX_STATUS = 0x1004,
        /// Virtual context address, older chips.
        CTX_VIRT_ADDR = 0x1008,
        /// Physical context, older chips.
        CTX_PAGE_TBL = 0x100c,
        /// Data address, older chips.
        CTX_DATA_ADR = 0x1010,
    }
    Bits("BNX2_CTX_DATA_ADR", ""): u32 {
        CTX_DATA_ADR_DATA_ADR = 0x1ffffc,
    }
    Register(Grc): u32 {
        /// Data, older chips.
        CTX_DATA = 0x1014,
        /// Address and direction of an access to the 5709's context memory.
        CTX_CTX_CTRL = 0x101c,
    }
    Bits("BNX2_CTX_CTX_CTRL", ""): u32 {
        CTX_CTX_CTRL_CTX_ADDR = 0x1ffffc,
        CTX_CTX_CTRL_MOD_USAGE_CNT = 0x600000,
        CTX_CTX_CTRL_NO_RAM_ACC = 0x800000,
        CTX_CTX_CTRL_PREFETCH_SIZE = 0x3000000,
        CTX_CTX_CTRL_ATTR = 0x4000000,
        CTX_CTX_CTRL_WRITE_REQ = 0x40000000,
        CTX_CTX_CTRL_READ_REQ = 0x80000000,
    }
    Register(Grc): u32 {
        /// Data of that access.
        CTX_CTX_DATA = 0x1020,
        /// Index and direction of an access to the host page table.
        CTX_HOST_PAGE_TBL_CTRL = 0x10c8,
    }
    Bits("BNX2_CTX_HOST_PAGE_TBL_CTRL", ""): u32 {
        CTX_HOST_PAGE_TBL_CTRL_PAGE_TBL_ADDR = 0x1ff,
        CTX_HOST_PAGE_TBL_CTRL_WRITE_REQ = 0x40000000,
        CTX_HOST_PAGE_TBL_CTRL_READ_REQ = 0x80000000,
    }
    Register(Grc): u32 {
        /// Page address, low word, and valid bit.
        CTX_HOST_PAGE_TBL_DATA0 = 0x10cc,
    }
    Bits("BNX2_CTX_HOST_PAGE_TBL_DATA0", ""): u32 {
        CTX_HOST_PAGE_TBL_DATA0_VALID = 0x1,
        CTX_HOST_PAGE_TBL_DATA0_VALUE = 0xffffff00,
    }
    Register(Grc): u32 {
        /// Page address, high word.
        CTX_HOST_PAGE_TBL_DATA1 = 0x10d0,
    }
}
