//! Context memory: what the host writes into the context of a ring (CHIP-REGISTERS 2, items 14 and 21).
//!
//! A context is 128 bytes at `cid << 7`; the transmit rings of the 5709 spread over several of them, which is
//! why their offsets go beyond 127.

use crate::facts::facts;

facts! {
    prefix "";
    Register(Ctx): u32 {
        /// Type word of a transmit context, older chips.
        BNX2_L2CTX_TYPE = 0x0,
    }
    Bits("BNX2_L2CTX_TYPE", ""): u32 {
        BNX2_L2CTX_TYPE_SIZE_L2 = 0x60000,
        BNX2_L2CTX_TYPE_TYPE = 0xf0000000,
    }
    Value("BNX2_L2CTX_TYPE", ""): u32 {
        BNX2_L2CTX_TYPE_TYPE_EMPTY = 0x0,
        BNX2_L2CTX_TYPE_TYPE_L2 = 0x10000000,
    }
    Register(Ctx): u32 {
        /// Transmit host index; 16-bit mailbox write.
        BNX2_L2CTX_TX_HOST_BIDX = 0x88,
        /// Estimated BDs; shares the word of the host index.
        BNX2_L2CTX_EST_NBD = 0x88,
        /// Command type, older chips.
        BNX2_L2CTX_CMD_TYPE = 0x88,
    }
    Bits("BNX2_L2CTX_CMD_TYPE", ""): u32 {
        BNX2_L2CTX_CMD_TYPE_TYPE = 0xf000000,
    }
    Value("BNX2_L2CTX_CMD_TYPE", ""): u32 {
        BNX2_L2CTX_CMD_TYPE_TYPE_L2 = 0x0,
        BNX2_L2CTX_CMD_TYPE_TYPE_TCP = 0x1000000,
    }
    Register(Ctx): u32 {
        /// Transmit byte sequence; the 32-bit mailbox write that rings the doorbell.
        BNX2_L2CTX_TX_HOST_BSEQ = 0x90,
        /// Type word of a transmit context, 5709.
        BNX2_L2CTX_TYPE_XI = 0x80,
        /// Command type, 5709.
        BNX2_L2CTX_CMD_TYPE_XI = 0x240,
        /// Transmit ring base, high word, 5709.
        BNX2_L2CTX_TBDR_BHADDR_HI_XI = 0x258,
        /// Transmit ring base, low word, 5709.
        BNX2_L2CTX_TBDR_BHADDR_LO_XI = 0x25c,
        /// BDs to read ahead.
        BNX2_L2CTX_BD_PRE_READ = 0x0,
        /// Context size.
        BNX2_L2CTX_CTX_SIZE = 0x0,
        /// Type word of a receive context.
        BNX2_L2CTX_CTX_TYPE = 0x0,
    }
    Bits("BNX2_L2CTX_CTX_TYPE", ""): u32 {
        BNX2_L2CTX_FLOW_CTRL_ENABLE = 0xff,
        BNX2_L2CTX_CTX_TYPE_SIZE_L2 = 0x10000,
        BNX2_L2CTX_CTX_TYPE_CTX_BD_CHN_TYPE = 0xf0000000,
    }
    Value("BNX2_L2CTX_CTX_TYPE", ""): u32 {
        BNX2_L2CTX_CTX_TYPE_CTX_BD_CHN_TYPE_UNDEFINED = 0x0,
        BNX2_L2CTX_CTX_TYPE_CTX_BD_CHN_TYPE_VALUE = 0x10000000,
    }
    Register(Ctx): u32 {
        /// Receive host index; 16-bit mailbox write. Status block numbers in the upper half.
        BNX2_L2CTX_HOST_BDIDX = 0x4,
        /// Receive byte sequence.
        BNX2_L2CTX_HOST_BSEQ = 0x8,
        /// Next receive byte sequence.
        BNX2_L2CTX_NX_BSEQ = 0xc,
        /// Receive ring base, high word.
        BNX2_L2CTX_NX_BDHADDR_HI = 0x10,
        /// Receive ring base, low word.
        BNX2_L2CTX_NX_BDHADDR_LO = 0x14,
        /// Next receive index.
        BNX2_L2CTX_NX_BDIDX = 0x18,
        /// Host index of the page ring.
        BNX2_L2CTX_HOST_PG_BDIDX = 0x44,
        /// Buffer sizes: header split and page.
        BNX2_L2CTX_PG_BUF_SIZE = 0x48,
        /// Key of the receive BD cache.
        BNX2_L2CTX_RBDC_KEY = 0x4c,
        /// Page ring base, high word.
        BNX2_L2CTX_NX_PG_BDHADDR_HI = 0x50,
        /// Page ring base, low word.
        BNX2_L2CTX_NX_PG_BDHADDR_LO = 0x54,
        /// Flags of KWQ or KCQ.
        L5_KRNLQ_FLAGS = 0x0,
        /// Size; same word as the flags.
        L5_KRNLQ_SIZE = 0x0,
        /// Type; same word as the flags.
        L5_KRNLQ_TYPE = 0x0,
        /// Index that the host rings: KWQ producer or KCQ consumer. Status block number in the upper half.
        L5_KRNLQ_HOST_QIDX = 0x4,
        /// Index that firmware uses.
        L5_KRNLQ_HOST_FW_QIDX = 0x8,
        /// Next sequence number.
        L5_KRNLQ_NX_QE_SELF_SEQ = 0xc,
        /// Largest sequence number; same word.
        L5_KRNLQ_QE_SELF_SEQ_MAX = 0xc,
        /// Next element, high address word.
        L5_KRNLQ_NX_QE_HADDR_HI = 0x10,
        /// Next element, low address word.
        L5_KRNLQ_NX_QE_HADDR_LO = 0x14,
        /// Page index.
        L5_KRNLQ_PGTBL_PGIDX = 0x18,
        /// Queue index of the next page; same word.
        L5_KRNLQ_NX_PG_QIDX = 0x18,
        /// Pages.
        L5_KRNLQ_PGTBL_NPAGES = 0x1c,
        /// Index increment; same word.
        L5_KRNLQ_QIDX_INCR = 0x1c,
        /// Page table, high address word.
        L5_KRNLQ_PGTBL_HADDR_HI = 0x20,
        /// Page table, low address word.
        L5_KRNLQ_PGTBL_HADDR_LO = 0x24,
    }
    Constant(): u32 {
        BNX2_L2CTX_L2_STATUSB_NUM_SHIFT = 0x18,
        BNX2_L2CTX_L5_STATUSB_NUM_SHIFT = 0x10,
        KRNLQ_FLAGS_PG_SZ = 0xf,
        KRNLQ_FLAGS_PG_SZ_4K = 0x4,
        KRNLQ_FLAGS_QE_SELF_SEQ = 0x8000,
        KRNLQ_SIZE_TYPE_SIZE = 0x20000,
        KRNLQ_TYPE_TYPE = 0xf0000000,
        KRNLQ_TYPE_TYPE_EMPTY = 0x0,
        KRNLQ_TYPE_TYPE_KRNLQ = 0x60000000,
        KWQ_CID = 0x18,
        KCQ_CID = 0x19,
        TX_CID = 0x10,
        TX_TSS_CID = 0x20,
        TX_MAX_TSS_RINGS = 0x7,
        RX_CID = 0x0,
        RX_RSS_CID = 0x4,
        RX_MAX_RSS_RINGS = 0x7,
        CTX_SHIFT = 0x7,
        CTX_SIZE = 0x80,
        CTX_MASK = 0x7f,
        PHY_CTX_SHIFT = 0x6,
        PHY_CTX_SIZE = 0x40,
        PHY_CTX_MASK = 0x3f,
        INVALID_CID_ADDR = 0xffffffff,
        MAX_CID_ADDR = 0x200000,
    }
}

/// Transmit CID of the helper's ring (CHIP-REGISTERS 3).
pub const UIO_TX_CID: u32 = 20;
/// Receive CID of the helper's ring (CHIP-REGISTERS 3).
pub const UIO_RX_CID: u32 = 2;

/// What is added to the number of a vector's status block in the upper half of `L5_KRNLQ_HOST_QIDX`
/// (CHIP-REGISTERS 2, item 21).
pub const KRNLQ_STATUSB_BASE: u32 = 7;

/// Context address of a CID.
pub const fn address(cid: u32) -> u32 {
    cid << CTX_SHIFT
}

/// CID of a context address; what lies inside the context is dropped.
pub const fn cid(address: u32) -> u32 {
    address >> CTX_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_cid() {
        assert_eq!((address(KWQ_CID), address(KCQ_CID)), (0xc00, 0xc80));
        assert_eq!(cid(address(KCQ_CID) + L5_KRNLQ_PGTBL_HADDR_LO), KCQ_CID);
    }
}
