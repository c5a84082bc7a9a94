//! Ethernet rings of the 5709 class: descriptors and the frame header (CHIP-REGISTERS 2, items 18 and 19).
//!
//! The netdev rings and the helper's ring use them; offloaded connections do not. The VLAN and length fields
//! of the frame header stand swapped within their word, as the chip's big-endian words appear to a
//! little-endian host.

use crate::facts::{addr64, facts, wire};
use crate::{U16, U32};

wire! {
    /// Transmit buffer descriptor. The last of a page holds the address of the next page instead.
    pub struct TxBd = "bnx2_tx_bd" [16] {
        /// Buffer, high address word.
        pub tx_bd_haddr_hi: U32,
        /// Buffer, low address word.
        pub tx_bd_haddr_lo: U32,
        /// MSS (31..16) and bytes (15..0).
        pub tx_bd_mss_nbytes: U32,
        /// VLAN tag (31..16) and flags (15..0).
        pub tx_bd_vlan_tag_flags: U32,
    }

    /// Receive buffer descriptor. The last of a page holds the address of the next page instead.
    pub struct RxBd = "bnx2_rx_bd" [16] {
        /// Buffer, high address word.
        pub rx_bd_haddr_hi: U32,
        /// Buffer, low address word.
        pub rx_bd_haddr_lo: U32,
        /// Bytes.
        pub rx_bd_len: U32,
        /// Flags.
        pub rx_bd_flags: U32,
    }

    /// Header that the chip writes in front of a received frame; two pad bytes follow it.
    pub struct L2Fhdr = "l2_fhdr" [16] {
        /// Status and error bits.
        pub l2_fhdr_status: U32,
        /// RSS hash.
        pub l2_fhdr_hash: U32,
        /// VLAN tag.
        pub l2_fhdr_vlan_tag: U16,
        /// Bytes of the frame with its four CRC bytes.
        pub l2_fhdr_pkt_len: U16,
        /// TCP or UDP checksum.
        pub l2_fhdr_tcp_udp_xsum: U16,
        /// IP checksum.
        pub l2_fhdr_ip_xsum: U16,
    }
}

facts! {
    prefix "";
    Bits("bnx2_tx_bd", "tx_bd_vlan_tag_flags"): u32 {
        TX_BD_FLAGS_CONN_FAULT = 0x1,
        TX_BD_FLAGS_TCP6_OFF0_MSK = 0x6,
        TX_BD_FLAGS_VLAN_TAG = 0x8,
        TX_BD_FLAGS_COAL_NOW = 0x10,
        TX_BD_FLAGS_DONT_GEN_CRC = 0x20,
        TX_BD_FLAGS_END = 0x40,
        TX_BD_FLAGS_START = 0x80,
        TX_BD_FLAGS_SW_OPTION_WORD = 0x1f00,
        TX_BD_FLAGS_SW_FLAGS = 0x2000,
        TX_BD_FLAGS_SW_SNAP = 0x4000,
        TX_BD_FLAGS_SW_LSO = 0x8000,
    }
    Value("bnx2_tx_bd", "tx_bd_vlan_tag_flags"): u32 {
        TX_BD_FLAGS_TCP_UDP_CKSUM = 0x2,
        TX_BD_FLAGS_IP_CKSUM = 0x4,
    }
    Constant(): u32 {
        TX_BD_TCP6_OFF2_SHL = 0xe,
    }
    Bits("bnx2_rx_bd", "rx_bd_flags"): u32 {
        RX_BD_FLAGS_NOPUSH = 0x1,
        RX_BD_FLAGS_DUMMY = 0x2,
        RX_BD_FLAGS_END = 0x4,
        RX_BD_FLAGS_START = 0x8,
    }
    Bits("l2_fhdr", "l2_fhdr_status"): u32 {
        L2_FHDR_STATUS_RULE_CLASS = 0x7,
        L2_FHDR_STATUS_RULE_P2 = 0x8,
        L2_FHDR_STATUS_RULE_P3 = 0x10,
        L2_FHDR_STATUS_RULE_P4 = 0x20,
        L2_FHDR_STATUS_L2_VLAN_TAG = 0x40,
        L2_FHDR_STATUS_L2_LLC_SNAP = 0x80,
        L2_FHDR_STATUS_RSS_HASH = 0x100,
        L2_FHDR_STATUS_IP_DATAGRAM = 0x2000,
        L2_FHDR_STATUS_TCP_SEGMENT = 0x4000,
        L2_FHDR_STATUS_UDP_DATAGRAM = 0x8000,
        L2_FHDR_STATUS_SPLIT = 0x10000,
        L2_FHDR_ERRORS_BAD_CRC = 0x20000,
        L2_FHDR_ERRORS_PHY_DECODE = 0x40000,
        L2_FHDR_ERRORS_ALIGNMENT = 0x80000,
        L2_FHDR_ERRORS_TOO_SHORT = 0x100000,
        L2_FHDR_ERRORS_GIANT_FRAME = 0x200000,
        L2_FHDR_ERRORS_TCP_XSUM = 0x10000000,
        L2_FHDR_ERRORS_UDP_XSUM = 0x80000000,
    }
    Value("l2_fhdr", "l2_fhdr_status"): u32 {
        L2_FHDR_STATUS_USE_RXHASH = 0x4100,
    }
}

addr64! {
    TxBd { haddr / set_haddr = tx_bd_haddr_hi, tx_bd_haddr_lo; }
    RxBd { haddr / set_haddr = rx_bd_haddr_hi, rx_bd_haddr_lo; }
}

impl TxBd {
    /// Bytes of the buffer.
    pub const fn nbytes(&self) -> u16 {
        self.tx_bd_mss_nbytes.get() as u16
    }

    /// Segment size for large sends; 0 without.
    pub const fn mss(&self) -> u16 {
        (self.tx_bd_mss_nbytes.get() >> 16) as u16
    }

    /// Sets segment size and bytes.
    pub const fn set_mss_nbytes(&mut self, mss: u16, nbytes: u16) {
        self.tx_bd_mss_nbytes = U32::new((mss as u32) << 16 | nbytes as u32);
    }

    /// Flags.
    pub const fn flags(&self) -> u16 {
        self.tx_bd_vlan_tag_flags.get() as u16
    }

    /// VLAN tag; counts if [`TX_BD_FLAGS_VLAN_TAG`] is set.
    pub const fn vlan_tag(&self) -> u16 {
        (self.tx_bd_vlan_tag_flags.get() >> 16) as u16
    }

    /// Sets VLAN tag and flags.
    pub const fn set_vlan_tag_flags(&mut self, vlan_tag: u16, flags: u16) {
        self.tx_bd_vlan_tag_flags = U32::new((vlan_tag as u32) << 16 | flags as u32);
    }
}
