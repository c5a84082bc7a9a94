//! Host coalescing: status blocks, statistics, interrupts.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Enable, coalesce now, statistics now.
        HC_COMMAND = 0x6800,
    }
    Bits("BNX2_HC_COMMAND", ""): u32 {
        HC_COMMAND_ENABLE = 0x1,
        HC_COMMAND_SKIP_ABORT = 0x10,
        HC_COMMAND_COAL_NOW = 0x10000,
        HC_COMMAND_COAL_NOW_WO_INT = 0x20000,
        HC_COMMAND_STATS_NOW = 0x40000,
        HC_COMMAND_FORCE_INT = 0x180000,
        HC_COMMAND_CLR_STAT_NOW = 0x200000,
        HC_COMMAND_MAIN_PWR_INT = 0x400000,
        HC_COMMAND_COAL_ON_NEXT_EVENT = 0x8000000,
    }
    Value("BNX2_HC_COMMAND", ""): u32 {
        HC_COMMAND_FORCE_INT_NULL = 0x0,
        HC_COMMAND_FORCE_INT_HIGH = 0x80000,
        HC_COMMAND_FORCE_INT_LOW = 0x100000,
        HC_COMMAND_FORCE_INT_FREE = 0x180000,
    }
    Register(Grc): u32 {
        /// State.
        HC_STATUS = 0x6804,
        /// Modes: one shot, timers, distance of status blocks.
        HC_CONFIG = 0x6808,
    }
    Bits("BNX2_HC_CONFIG", ""): u32 {
        HC_CONFIG_COLLECT_STATS = 0x1,
        HC_CONFIG_RX_TMR_MODE = 0x2,
        HC_CONFIG_TX_TMR_MODE = 0x4,
        HC_CONFIG_COM_TMR_MODE = 0x8,
        HC_CONFIG_CMD_TMR_MODE = 0x10,
        HC_CONFIG_STATISTIC_PRIORITY = 0x20,
        HC_CONFIG_STATUS_PRIORITY = 0x40,
        HC_CONFIG_STAT_MEM_ADDR = 0xff00,
        HC_CONFIG_PER_MODE = 0x10000,
        HC_CONFIG_ONE_SHOT = 0x20000,
        HC_CONFIG_USE_INT_PARAM = 0x40000,
        HC_CONFIG_SET_MASK_AT_RD = 0x80000,
        HC_CONFIG_PER_COLLECT_LIMIT = 0xf00000,
        HC_CONFIG_SB_ADDR_INC = 0x7000000,
        HC_CONFIG_GEN_STAT_AVG_INTR = 0x20000000,
        HC_CONFIG_UNMASK_ALL = 0x40000000,
        HC_CONFIG_TX_SEL = 0x80000000,
    }
    Value("BNX2_HC_CONFIG", ""): u32 {
        HC_CONFIG_SB_ADDR_INC_64B = 0x0,
        HC_CONFIG_SB_ADDR_INC_128B = 0x1000000,
        HC_CONFIG_SB_ADDR_INC_256B = 0x2000000,
        HC_CONFIG_SB_ADDR_INC_512B = 0x3000000,
        HC_CONFIG_SB_ADDR_INC_1024B = 0x4000000,
        HC_CONFIG_SB_ADDR_INC_2048B = 0x5000000,
        HC_CONFIG_SB_ADDR_INC_4096B = 0x6000000,
        HC_CONFIG_SB_ADDR_INC_8192B = 0x7000000,
    }
    Register(Grc): u32 {
        /// Which attention bits count.
        HC_ATTN_BITS_ENABLE = 0x680c,
        /// Status block, low address word.
        HC_STATUS_ADDR_L = 0x6810,
        /// Status block, high address word.
        HC_STATUS_ADDR_H = 0x6814,
        /// Statistics block, low address word.
        HC_STATISTICS_ADDR_L = 0x6818,
        /// Statistics block, high address word.
        HC_STATISTICS_ADDR_H = 0x681c,
        /// Transmit completions before an update: while interrupts are on, and while one is being served.
        HC_TX_QUICK_CONS_TRIP = 0x6820,
    }
    Bits("BNX2_HC_TX_QUICK_CONS_TRIP", ""): u32 {
        HC_TX_QUICK_CONS_TRIP_VALUE = 0xff,
        HC_TX_QUICK_CONS_TRIP_INT = 0xff0000,
    }
    Register(Grc): u32 {
        /// KCQ entries before an update.
        HC_COMP_PROD_TRIP = 0x6824,
    }
    Bits("BNX2_HC_COMP_PROD_TRIP", ""): u32 {
        HC_COMP_PROD_TRIP_VALUE = 0xff,
        HC_COMP_PROD_TRIP_INT = 0xff0000,
    }
    Register(Grc): u32 {
        /// Receive completions before an update.
        HC_RX_QUICK_CONS_TRIP = 0x6828,
    }
    Bits("BNX2_HC_RX_QUICK_CONS_TRIP", ""): u32 {
        HC_RX_QUICK_CONS_TRIP_VALUE = 0xff,
        HC_RX_QUICK_CONS_TRIP_INT = 0xff0000,
    }
    Register(Grc): u32 {
        /// Receive time limit, us.
        HC_RX_TICKS = 0x682c,
    }
    Bits("BNX2_HC_RX_TICKS", ""): u32 {
        HC_RX_TICKS_VALUE = 0x3ff,
        HC_RX_TICKS_INT = 0x3ff0000,
    }
    Register(Grc): u32 {
        /// Transmit time limit, us.
        HC_TX_TICKS = 0x6830,
    }
    Bits("BNX2_HC_TX_TICKS", ""): u32 {
        HC_TX_TICKS_VALUE = 0x3ff,
        HC_TX_TICKS_INT = 0x3ff0000,
    }
    Register(Grc): u32 {
        /// KCQ time limit, us.
        HC_COM_TICKS = 0x6834,
    }
    Bits("BNX2_HC_COM_TICKS", ""): u32 {
        HC_COM_TICKS_VALUE = 0x3ff,
        HC_COM_TICKS_INT = 0x3ff0000,
    }
    Register(Grc): u32 {
        /// KWQ time limit, us.
        HC_CMD_TICKS = 0x6838,
    }
    Bits("BNX2_HC_CMD_TICKS", ""): u32 {
        HC_CMD_TICKS_VALUE = 0x3ff,
        HC_CMD_TICKS_INT = 0x3ff0000,
    }
    Register(Grc): u32 {
        /// Periodic update.
        HC_PERIODIC_TICKS = 0x683c,
        /// Period of statistics collection.
        HC_STAT_COLLECT_TICKS = 0x6840,
        /// Period of statistics DMA.
        HC_STATS_TICKS = 0x6844,
    }
    Bits("BNX2_HC_STATS_TICKS", ""): u32 {
        HC_STATS_TICKS_HC_STAT_TICKS = 0xffff00,
    }
    Register(Grc): u32 {
        /// Coalesce now, by vector.
        HC_COALESCE_NOW = 0x6914,
    }
    Bits("BNX2_HC_COALESCE_NOW", ""): u32 {
        HC_COALESCE_NOW_COAL_NOW = 0x3fe,
        HC_COALESCE_NOW_COAL_NOW_WO_INT = 0xff800,
        HC_COALESCE_NOW_COAL_ON_NXT_EVENT = 0x3fe00000,
    }
    Register(Grc): u32 {
        /// Which vectors use MSI-X.
        HC_MSIX_BIT_VECTOR = 0x6918,
    }
    Bits("BNX2_HC_MSIX_BIT_VECTOR", ""): u32 {
        HC_MSIX_BIT_VECTOR_VAL = 0x1ff,
    }
    Register(Grc): u32 {
        /// Configuration of vector 1; the others follow.
        HC_SB_CONFIG_1 = 0x6a00,
    }
    Bits("BNX2_HC_SB_CONFIG_1", ""): u32 {
        HC_SB_CONFIG_1_RX_TMR_MODE = 0x2,
        HC_SB_CONFIG_1_TX_TMR_MODE = 0x4,
        HC_SB_CONFIG_1_COM_TMR_MODE = 0x8,
        HC_SB_CONFIG_1_CMD_TMR_MODE = 0x10,
        HC_SB_CONFIG_1_PER_MODE = 0x10000,
        HC_SB_CONFIG_1_ONE_SHOT = 0x20000,
        HC_SB_CONFIG_1_USE_INT_PARAM = 0x40000,
        HC_SB_CONFIG_1_PER_COLLECT_LIMIT = 0xf00000,
    }
    Register(Grc): u32 {
        /// Configuration of vector 2.
        HC_SB_CONFIG_2 = 0x6a24,
        /// Configuration of vector 3.
        HC_SB_CONFIG_3 = 0x6a48,
        /// Configuration of vector 4.
        HC_SB_CONFIG_4 = 0x6a6c,
        /// Configuration of vector 5.
        HC_SB_CONFIG_5 = 0x6a90,
        /// Configuration of vector 6.
        HC_SB_CONFIG_6 = 0x6ab4,
        /// Configuration of vector 7.
        HC_SB_CONFIG_7 = 0x6ad8,
        /// Configuration of vector 8.
        HC_SB_CONFIG_8 = 0x6afc,
    }
    Register(HcSb): u32 {
        /// Bytes from one vector to the next.
        HC_SB_CONFIG_SIZE = 0x24,
        /// `HC_COMP_PROD_TRIP` of a vector.
        HC_COMP_PROD_TRIP_OFF = 0x8,
        /// `HC_COM_TICKS` of a vector.
        HC_COM_TICKS_OFF = 0x18,
        /// `HC_CMD_TICKS` of a vector.
        HC_CMD_TICKS_OFF = 0x1c,
        /// `HC_TX_QUICK_CONS_TRIP` of a vector.
        HC_TX_QUICK_CONS_TRIP_OFF = 0x4,
        /// `HC_TX_TICKS` of a vector.
        HC_TX_TICKS_OFF = 0x14,
        /// `HC_RX_QUICK_CONS_TRIP` of a vector.
        HC_RX_QUICK_CONS_TRIP_OFF = 0xc,
        /// `HC_RX_TICKS` of a vector.
        HC_RX_TICKS_OFF = 0x10,
    }
}

/// Offset of the coalescing registers of MSI-X vector `vector`, 1 to 8; vector 0 uses the plain registers.
pub const fn hc_sb_config(vector: u32) -> Option<u32> {
    match vector {
        1..=8 => Some(HC_SB_CONFIG_1 + (vector - 1) * HC_SB_CONFIG_SIZE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_evenly_spaced() {
        assert_eq!(hc_sb_config(0), None);
        assert_eq!(hc_sb_config(1), Some(HC_SB_CONFIG_1));
        assert_eq!(hc_sb_config(8), Some(HC_SB_CONFIG_8));
        assert_eq!(hc_sb_config(9), None);
    }
}
