//! Status blocks: what the chip publishes before it interrupts (CHIP-REGISTERS 2, items 16 to 18).
//!
//! The plain block serves INTx, MSI and vector 0; every further MSI-X vector has a small block of its own,
//! 128 bytes apart. Pairs of 16-bit indexes stand swapped within their word. Where an index lives:
//!
//! | index | plain block | per-vector block |
//! |---|---|---|
//! | transmit consumer of TX CID 16 | +10, number 0 | +2 |
//! | receive consumer of RX CID 0 | +18, number 0 | +0 |
//! | helper's ring: TX CID 20, RX CID 2 | transmit and receive number 2 | - |
//! | KWQ consumer | +48 | +4 |
//! | KCQ producer | +50 | +6 |
//! | status index | +54 | +14 |

use crate::facts::{facts, wire};
use crate::{U16, U32};

wire! {
    /// Plain status block.
    pub struct StatusBlock = "status_block" [56] {
        /// Attention bits.
        pub status_attn_bits: U32,
        /// Attention bits that the host has acknowledged.
        pub status_attn_bits_ack: U32,
        /// Transmit consumer 1.
        pub status_tx_quick_consumer_index1: U16,
        /// Transmit consumer 0.
        pub status_tx_quick_consumer_index0: U16,
        /// Transmit consumer 3.
        pub status_tx_quick_consumer_index3: U16,
        /// Transmit consumer 2.
        pub status_tx_quick_consumer_index2: U16,
        /// Receive consumer 1.
        pub status_rx_quick_consumer_index1: U16,
        /// Receive consumer 0.
        pub status_rx_quick_consumer_index0: U16,
        /// Receive consumer 3.
        pub status_rx_quick_consumer_index3: U16,
        /// Receive consumer 2.
        pub status_rx_quick_consumer_index2: U16,
        /// Receive consumer 5.
        pub status_rx_quick_consumer_index5: U16,
        /// Receive consumer 4.
        pub status_rx_quick_consumer_index4: U16,
        /// Receive consumer 7.
        pub status_rx_quick_consumer_index7: U16,
        /// Receive consumer 6.
        pub status_rx_quick_consumer_index6: U16,
        /// Receive consumer 9.
        pub status_rx_quick_consumer_index9: U16,
        /// Receive consumer 8.
        pub status_rx_quick_consumer_index8: U16,
        /// Receive consumer 11.
        pub status_rx_quick_consumer_index11: U16,
        /// Receive consumer 10.
        pub status_rx_quick_consumer_index10: U16,
        /// Receive consumer 13.
        pub status_rx_quick_consumer_index13: U16,
        /// Receive consumer 12.
        pub status_rx_quick_consumer_index12: U16,
        /// Receive consumer 15.
        pub status_rx_quick_consumer_index15: U16,
        /// Receive consumer 14.
        pub status_rx_quick_consumer_index14: U16,
        /// KWQ consumer index.
        pub status_cmd_consumer_index: U16,
        /// KCQ producer index.
        pub status_completion_producer_index: U16,
        /// Number of this status block.
        pub status_blk_num: u8,
        status_unused: u8,
        /// Status index: acknowledged through `INT_ACK_CMD`.
        pub status_idx: U16,
    }

    /// Status block of one MSI-X vector.
    pub struct StatusBlockMsix = "status_block_msix" [16] {
        /// Receive consumer of the ring of this vector.
        pub status_rx_quick_consumer_index: U16,
        /// Transmit consumer of the ring of this vector.
        pub status_tx_quick_consumer_index: U16,
        /// KWQ consumer index.
        pub status_cmd_consumer_index: U16,
        /// KCQ producer index.
        pub status_completion_producer_index: U16,
        status_unused: U32,
        /// Number of this status block.
        pub status_blk_num: u8,
        status_unused2: u8,
        /// Status index: acknowledged through `INT_ACK_CMD`.
        pub status_idx: U16,
    }
}

facts! {
    prefix "";
    Bits("status_block", "status_attn_bits"): u32 {
        STATUS_ATTN_BITS_LINK_STATE = 0x1,
        STATUS_ATTN_BITS_TX_SCHEDULER_ABORT = 0x2,
        STATUS_ATTN_BITS_TX_BD_READ_ABORT = 0x4,
        STATUS_ATTN_BITS_TX_BD_CACHE_ABORT = 0x8,
        STATUS_ATTN_BITS_TX_PROCESSOR_ABORT = 0x10,
        STATUS_ATTN_BITS_TX_DMA_ABORT = 0x20,
        STATUS_ATTN_BITS_TX_PATCHUP_ABORT = 0x40,
        STATUS_ATTN_BITS_TX_ASSEMBLER_ABORT = 0x80,
        STATUS_ATTN_BITS_RX_PARSER_MAC_ABORT = 0x100,
        STATUS_ATTN_BITS_RX_PARSER_CATCHUP_ABORT = 0x200,
        STATUS_ATTN_BITS_RX_MBUF_ABORT = 0x400,
        STATUS_ATTN_BITS_RX_LOOKUP_ABORT = 0x800,
        STATUS_ATTN_BITS_RX_PROCESSOR_ABORT = 0x1000,
        STATUS_ATTN_BITS_RX_V2P_ABORT = 0x2000,
        STATUS_ATTN_BITS_RX_BD_CACHE_ABORT = 0x4000,
        STATUS_ATTN_BITS_RX_DMA_ABORT = 0x8000,
        STATUS_ATTN_BITS_COMPLETION_ABORT = 0x10000,
        STATUS_ATTN_BITS_HOST_COALESCE_ABORT = 0x20000,
        STATUS_ATTN_BITS_MAILBOX_QUEUE_ABORT = 0x40000,
        STATUS_ATTN_BITS_CONTEXT_ABORT = 0x80000,
        STATUS_ATTN_BITS_CMD_SCHEDULER_ABORT = 0x100000,
        STATUS_ATTN_BITS_CMD_PROCESSOR_ABORT = 0x200000,
        STATUS_ATTN_BITS_MGMT_PROCESSOR_ABORT = 0x400000,
        STATUS_ATTN_BITS_MAC_ABORT = 0x800000,
        STATUS_ATTN_BITS_TIMER_ABORT = 0x1000000,
        STATUS_ATTN_BITS_DMAE_ABORT = 0x2000000,
        STATUS_ATTN_BITS_FLSH_ABORT = 0x4000000,
        STATUS_ATTN_BITS_GRC_ABORT = 0x8000000,
        STATUS_ATTN_BITS_EPB_ERROR = 0x40000000,
        STATUS_ATTN_BITS_PARITY_ERROR = 0x80000000,
    }
    Constant(): usize {
        BNX2_SBLK_MSIX_ALIGN_SIZE = 0x80,
        BNX2_MAX_MSIX_HW_VEC = 0x9,
    }
}
