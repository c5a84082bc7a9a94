//! Spreading frames over several rings: receive-side scaling, and the transmit rings of the vectors.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// What the hash covers.
        RLUP_RSS_CONFIG = 0x201c,
    }
    Bits("BNX2_RLUP_RSS_CONFIG", ""): u32 {
        RLUP_RSS_CONFIG_IPV4_RSS_TYPE_XI = 0x3,
        RLUP_RSS_CONFIG_IPV6_RSS_TYPE_XI = 0xc,
    }
    Value("BNX2_RLUP_RSS_CONFIG", ""): u32 {
        RLUP_RSS_CONFIG_IPV4_RSS_TYPE_OFF_XI = 0x0,
        RLUP_RSS_CONFIG_IPV4_RSS_TYPE_ALL_XI = 0x1,
        RLUP_RSS_CONFIG_IPV4_RSS_TYPE_IP_ONLY_XI = 0x2,
        RLUP_RSS_CONFIG_IPV4_RSS_TYPE_RES_XI = 0x3,
        RLUP_RSS_CONFIG_IPV6_RSS_TYPE_OFF_XI = 0x0,
        RLUP_RSS_CONFIG_IPV6_RSS_TYPE_ALL_XI = 0x4,
        RLUP_RSS_CONFIG_IPV6_RSS_TYPE_IP_ONLY_XI = 0x8,
        RLUP_RSS_CONFIG_IPV6_RSS_TYPE_RES_XI = 0xc,
    }
    Register(Grc): u32 {
        /// Writes eight entries of the indirection table.
        RLUP_RSS_COMMAND = 0x2048,
    }
    Bits("BNX2_RLUP_RSS_COMMAND", ""): u32 {
        RLUP_RSS_COMMAND_RSS_IND_TABLE_ADDR = 0xf,
        RLUP_RSS_COMMAND_RSS_WRITE_MASK = 0xff0,
        RLUP_RSS_COMMAND_WRITE = 0x1000,
        RLUP_RSS_COMMAND_READ = 0x2000,
        RLUP_RSS_COMMAND_HASH_MASK = 0x1c000,
    }
    Register(Grc): u32 {
        /// Eight entries of the indirection table, four bits each.
        RLUP_RSS_DATA = 0x204c,
        /// First CID and number of the transmit rings beyond the first. Under MSI-X the helper's ring is the
        /// last.
        TSCH_TSS_CFG = 0x4c1c,
    }
    Bits("BNX2_TSCH_TSS_CFG", ""): u32 {
        TSCH_TSS_CFG_TSS_START_CID = 0x7ff00,
        TSCH_TSS_CFG_NUM_OF_TSS_CON = 0xf000000,
    }
    Register(Grc): u32 {
        /// Entries of the indirection table of older chips, in the scratchpad of the receive processor.
        RXP_SCRATCH_RSS_TBL_SZ = 0xe0038,
        /// That table.
        RXP_SCRATCH_RSS_TBL = 0xe003c,
    }
    Value("BNX2_RXP_SCRATCH_RSS_TBL", ""): u32 {
        RXP_SCRATCH_RSS_TBL_MAX_ENTRIES = 0x80,
    }
}
