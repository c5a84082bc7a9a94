//! The MAC, its MDIO interface, and receive filtering.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Port mode, duplex, loopback.
        EMAC_MODE = 0x1400,
    }
    Bits("BNX2_EMAC_MODE", ""): u32 {
        EMAC_MODE_RESET = 0x1,
        EMAC_MODE_HALF_DUPLEX = 0x2,
        EMAC_MODE_PORT = 0xc,
        EMAC_MODE_MAC_LOOP = 0x10,
        EMAC_MODE_25G_MODE = 0x20,
        EMAC_MODE_FORCE_LINK = 0x800,
    }
    Value("BNX2_EMAC_MODE", ""): u32 {
        EMAC_MODE_PORT_NONE = 0x0,
        EMAC_MODE_PORT_MII = 0x4,
        EMAC_MODE_PORT_GMII = 0x8,
        EMAC_MODE_PORT_MII_10M = 0xc,
    }
    Register(Grc): u32 {
        /// Link and MDIO events.
        EMAC_STATUS = 0x1404,
    }
    Bits("BNX2_EMAC_STATUS", ""): u32 {
        EMAC_STATUS_LINK = 0x800,
        EMAC_STATUS_LINK_CHANGE = 0x1000,
        EMAC_STATUS_MI_COMPLETE = 0x400000,
        EMAC_STATUS_MI_INT = 0x800000,
    }
    Register(Grc): u32 {
        /// Which events raise attention.
        EMAC_ATTENTION_ENA = 0x1408,
    }
    Bits("BNX2_EMAC_ATTENTION_ENA", ""): u32 {
        EMAC_ATTENTION_ENA_LINK = 0x800,
        EMAC_ATTENTION_ENA_MI_COMPLETE = 0x400000,
        EMAC_ATTENTION_ENA_MI_INT = 0x800000,
    }
    Register(Grc): u32 {
        /// LEDs.
        EMAC_LED = 0x140c,
        /// Own MAC, bytes 0 and 1.
        EMAC_MAC_MATCH0 = 0x1410,
        /// Own MAC, bytes 2 to 5.
        EMAC_MAC_MATCH1 = 0x1414,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH2 = 0x1418,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH3 = 0x141c,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH4 = 0x1420,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH5 = 0x1424,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH6 = 0x1428,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH7 = 0x142c,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH8 = 0x1430,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH9 = 0x1434,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH10 = 0x1438,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH11 = 0x143c,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH12 = 0x1440,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH13 = 0x1444,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH14 = 0x1448,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH15 = 0x144c,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH16 = 0x1450,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH17 = 0x1454,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH18 = 0x1458,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH19 = 0x145c,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH20 = 0x1460,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH21 = 0x1464,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH22 = 0x1468,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH23 = 0x146c,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH24 = 0x1470,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH25 = 0x1474,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH26 = 0x1478,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH27 = 0x147c,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH28 = 0x1480,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH29 = 0x1484,
        /// Further MAC, bytes 0 and 1.
        EMAC_MAC_MATCH30 = 0x1488,
        /// Further MAC, bytes 2 to 5.
        EMAC_MAC_MATCH31 = 0x148c,
        /// Seed of the back-off generator.
        EMAC_BACKOFF_SEED = 0x1498,
        /// Largest frame.
        EMAC_RX_MTU_SIZE = 0x149c,
    }
    Bits("BNX2_EMAC_RX_MTU_SIZE", ""): u32 {
        EMAC_RX_MTU_SIZE_MTU_SIZE = 0xffff,
        EMAC_RX_MTU_SIZE_JUMBO_ENA = 0x80000000,
    }
    Register(Grc): u32 {
        /// SerDes control.
        EMAC_SERDES_CNTL = 0x14a4,
        /// One MDIO transaction: PHY, register, data, direction, busy.
        EMAC_MDIO_COMM = 0x14ac,
    }
    Bits("BNX2_EMAC_MDIO_COMM", ""): u32 {
        EMAC_MDIO_COMM_DATA = 0xffff,
        EMAC_MDIO_COMM_REG_ADDR = 0x1f0000,
        EMAC_MDIO_COMM_PHY_ADDR = 0x3e00000,
        EMAC_MDIO_COMM_COMMAND = 0xc000000,
        EMAC_MDIO_COMM_FAIL = 0x10000000,
        EMAC_MDIO_COMM_START_BUSY = 0x20000000,
        EMAC_MDIO_COMM_DISEXT = 0x40000000,
    }
    Value("BNX2_EMAC_MDIO_COMM", ""): u32 {
        EMAC_MDIO_COMM_COMMAND_WRITE = 0x4000000,
        EMAC_MDIO_COMM_COMMAND_READ = 0x8000000,
    }
    Register(Grc): u32 {
        /// Link as MDIO polling saw it.
        EMAC_MDIO_STATUS = 0x14b0,
    }
    Bits("BNX2_EMAC_MDIO_STATUS", ""): u32 {
        EMAC_MDIO_STATUS_LINK = 0x1,
        EMAC_MDIO_STATUS_10MB = 0x2,
    }
    Register(Grc): u32 {
        /// Automatic polling, clock.
        EMAC_MDIO_MODE = 0x14b4,
    }
    Bits("BNX2_EMAC_MDIO_MODE", ""): u32 {
        EMAC_MDIO_MODE_SHORT_PREAMBLE = 0x2,
        EMAC_MDIO_MODE_AUTO_POLL = 0x10,
        EMAC_MDIO_MODE_CLOCK_CNT = 0x1f0000,
    }
    Register(Grc): u32 {
        /// Error of automatic polling.
        EMAC_MDIO_AUTO_STATUS = 0x14b8,
        /// Transmit mode.
        EMAC_TX_MODE = 0x14bc,
    }
    Bits("BNX2_EMAC_TX_MODE", ""): u32 {
        EMAC_TX_MODE_RESET = 0x1,
        EMAC_TX_MODE_EXT_PAUSE_EN = 0x8,
        EMAC_TX_MODE_FLOW_EN = 0x10,
    }
    Register(Grc): u32 {
        /// Transmit state.
        EMAC_TX_STATUS = 0x14c0,
        /// Inter-frame gaps.
        EMAC_TX_LENGTHS = 0x14c4,
        /// Receive mode.
        EMAC_RX_MODE = 0x14c8,
    }
    Bits("BNX2_EMAC_RX_MODE", ""): u32 {
        EMAC_RX_MODE_RESET = 0x1,
        EMAC_RX_MODE_FLOW_EN = 0x4,
        EMAC_RX_MODE_PROMISCUOUS = 0x100,
        EMAC_RX_MODE_KEEP_VLAN_TAG = 0x400,
        EMAC_RX_MODE_SORT_MODE = 0x1000,
    }
    Register(Grc): u32 {
        /// Receive state.
        EMAC_RX_STATUS = 0x14cc,
        /// Multicast hash, word 0.
        EMAC_MULTICAST_HASH0 = 0x14d0,
        /// Multicast hash, word 1.
        EMAC_MULTICAST_HASH1 = 0x14d4,
        /// Multicast hash, word 2.
        EMAC_MULTICAST_HASH2 = 0x14d8,
        /// Multicast hash, word 3.
        EMAC_MULTICAST_HASH3 = 0x14dc,
        /// Multicast hash, word 4.
        EMAC_MULTICAST_HASH4 = 0x14e0,
        /// Multicast hash, word 5.
        EMAC_MULTICAST_HASH5 = 0x14e4,
        /// Multicast hash, word 6.
        EMAC_MULTICAST_HASH6 = 0x14e8,
        /// Multicast hash, word 7.
        EMAC_MULTICAST_HASH7 = 0x14ec,
        /// Receive parser.
        RPM_CONFIG = 0x1808,
        /// Frames for management firmware.
        RPM_MGMT_PKT_CTRL = 0x180c,
        /// Sort rule of the netdev: broadcast, multicast, promiscuous.
        RPM_SORT_USER0 = 0x1820,
    }
    Bits("BNX2_RPM_SORT_USER0", ""): u32 {
        RPM_SORT_USER0_PM_EN = 0xffff,
        RPM_SORT_USER0_BC_EN = 0x10000,
        RPM_SORT_USER0_MC_EN = 0x20000,
        RPM_SORT_USER0_MC_HSH_EN = 0x40000,
        RPM_SORT_USER0_PROM_EN = 0x80000,
        RPM_SORT_USER0_VLAN_EN = 0xf00000,
        RPM_SORT_USER0_PROM_VLAN = 0x1000000,
        RPM_SORT_USER0_VLAN_NOTMATCH = 0x2000000,
        RPM_SORT_USER0_ENA = 0x80000000,
    }
    Register(Grc): u32 {
        /// Sort rule 1.
        RPM_SORT_USER1 = 0x1824,
        /// Sort rule 2: the iSCSI MAC.
        RPM_SORT_USER2 = 0x1828,
        /// Sort rule 3.
        RPM_SORT_USER3 = 0x182c,
    }
    Constant(): u32 {
        START_UNICAST_ADDRESS_INDEX = 0x4,
    }
}

/// MDIO address of the copper PHY (CHIP-REGISTERS 2, item 15).
pub const COPPER_PHY_ADDR: u32 = 1;

/// Registers of the PHY, as IEEE 802.3 clause 22 has them; those that the driver reads (CHIP-REGISTERS 2,
/// item 15).
pub mod mii {
    /// Control.
    pub const BMCR: u32 = 0;
    /// Status.
    pub const BMSR: u32 = 1;
    /// PHY identifier, upper half.
    pub const PHYSID1: u32 = 2;
    /// PHY identifier, lower half.
    pub const PHYSID2: u32 = 3;
    /// Advertisement.
    pub const ADVERTISE: u32 = 4;
    /// Abilities of the link partner.
    pub const LPA: u32 = 5;
    /// Gigabit advertisement.
    pub const CTRL1000: u32 = 9;
    /// Gigabit abilities of the link partner.
    pub const STAT1000: u32 = 10;
    /// Control: reset, clears itself.
    pub const BMCR_RESET: u16 = 0x8000;
    /// Control: restart negotiation, clears itself.
    pub const BMCR_ANRESTART: u16 = 0x0200;
    /// Status: negotiation complete.
    pub const BMSR_ANEGCOMPLETE: u16 = 0x0020;
    /// Status: link up; latches low.
    pub const BMSR_LSTATUS: u16 = 0x0004;
    /// Status of a gigabit copper PHY with its link up.
    pub const BMSR_LINK_UP: u16 = 0x796d;
}
