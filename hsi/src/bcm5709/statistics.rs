//! The statistics block: what the MAC and the receive path counted, written to host memory by host
//! coalescing.
//!
//! 64-bit counters are two words, the high one first. The last word is not the chip's: the driver copies
//! firmware's drop counter there.
#![allow(non_snake_case, reason = "fields are called as in the HSI tables")]

use crate::U32;
use crate::facts::wire;

wire! {
    /// Statistics block.
    pub struct StatisticsBlock = "statistics_block" [324] {
        /// IfHCInOctets, high word.
        pub stat_IfHCInOctets_hi: U32,
        /// IfHCInOctets, low word.
        pub stat_IfHCInOctets_lo: U32,
        /// IfHCInBadOctets, high word.
        pub stat_IfHCInBadOctets_hi: U32,
        /// IfHCInBadOctets, low word.
        pub stat_IfHCInBadOctets_lo: U32,
        /// IfHCOutOctets, high word.
        pub stat_IfHCOutOctets_hi: U32,
        /// IfHCOutOctets, low word.
        pub stat_IfHCOutOctets_lo: U32,
        /// IfHCOutBadOctets, high word.
        pub stat_IfHCOutBadOctets_hi: U32,
        /// IfHCOutBadOctets, low word.
        pub stat_IfHCOutBadOctets_lo: U32,
        /// IfHCInUcastPkts, high word.
        pub stat_IfHCInUcastPkts_hi: U32,
        /// IfHCInUcastPkts, low word.
        pub stat_IfHCInUcastPkts_lo: U32,
        /// IfHCInMulticastPkts, high word.
        pub stat_IfHCInMulticastPkts_hi: U32,
        /// IfHCInMulticastPkts, low word.
        pub stat_IfHCInMulticastPkts_lo: U32,
        /// IfHCInBroadcastPkts, high word.
        pub stat_IfHCInBroadcastPkts_hi: U32,
        /// IfHCInBroadcastPkts, low word.
        pub stat_IfHCInBroadcastPkts_lo: U32,
        /// IfHCOutUcastPkts, high word.
        pub stat_IfHCOutUcastPkts_hi: U32,
        /// IfHCOutUcastPkts, low word.
        pub stat_IfHCOutUcastPkts_lo: U32,
        /// IfHCOutMulticastPkts, high word.
        pub stat_IfHCOutMulticastPkts_hi: U32,
        /// IfHCOutMulticastPkts, low word.
        pub stat_IfHCOutMulticastPkts_lo: U32,
        /// IfHCOutBroadcastPkts, high word.
        pub stat_IfHCOutBroadcastPkts_hi: U32,
        /// IfHCOutBroadcastPkts, low word.
        pub stat_IfHCOutBroadcastPkts_lo: U32,
        /// emac_tx_stat_dot3statsinternalmactransmiterrors.
        pub stat_emac_tx_stat_dot3statsinternalmactransmiterrors: U32,
        /// Dot3StatsCarrierSenseErrors.
        pub stat_Dot3StatsCarrierSenseErrors: U32,
        /// Dot3StatsFCSErrors.
        pub stat_Dot3StatsFCSErrors: U32,
        /// Dot3StatsAlignmentErrors.
        pub stat_Dot3StatsAlignmentErrors: U32,
        /// Dot3StatsSingleCollisionFrames.
        pub stat_Dot3StatsSingleCollisionFrames: U32,
        /// Dot3StatsMultipleCollisionFrames.
        pub stat_Dot3StatsMultipleCollisionFrames: U32,
        /// Dot3StatsDeferredTransmissions.
        pub stat_Dot3StatsDeferredTransmissions: U32,
        /// Dot3StatsExcessiveCollisions.
        pub stat_Dot3StatsExcessiveCollisions: U32,
        /// Dot3StatsLateCollisions.
        pub stat_Dot3StatsLateCollisions: U32,
        /// EtherStatsCollisions.
        pub stat_EtherStatsCollisions: U32,
        /// EtherStatsFragments.
        pub stat_EtherStatsFragments: U32,
        /// EtherStatsJabbers.
        pub stat_EtherStatsJabbers: U32,
        /// EtherStatsUndersizePkts.
        pub stat_EtherStatsUndersizePkts: U32,
        /// EtherStatsOverrsizePkts.
        pub stat_EtherStatsOverrsizePkts: U32,
        /// EtherStatsPktsRx64Octets.
        pub stat_EtherStatsPktsRx64Octets: U32,
        /// EtherStatsPktsRx65Octetsto127Octets.
        pub stat_EtherStatsPktsRx65Octetsto127Octets: U32,
        /// EtherStatsPktsRx128Octetsto255Octets.
        pub stat_EtherStatsPktsRx128Octetsto255Octets: U32,
        /// EtherStatsPktsRx256Octetsto511Octets.
        pub stat_EtherStatsPktsRx256Octetsto511Octets: U32,
        /// EtherStatsPktsRx512Octetsto1023Octets.
        pub stat_EtherStatsPktsRx512Octetsto1023Octets: U32,
        /// EtherStatsPktsRx1024Octetsto1522Octets.
        pub stat_EtherStatsPktsRx1024Octetsto1522Octets: U32,
        /// EtherStatsPktsRx1523Octetsto9022Octets.
        pub stat_EtherStatsPktsRx1523Octetsto9022Octets: U32,
        /// EtherStatsPktsTx64Octets.
        pub stat_EtherStatsPktsTx64Octets: U32,
        /// EtherStatsPktsTx65Octetsto127Octets.
        pub stat_EtherStatsPktsTx65Octetsto127Octets: U32,
        /// EtherStatsPktsTx128Octetsto255Octets.
        pub stat_EtherStatsPktsTx128Octetsto255Octets: U32,
        /// EtherStatsPktsTx256Octetsto511Octets.
        pub stat_EtherStatsPktsTx256Octetsto511Octets: U32,
        /// EtherStatsPktsTx512Octetsto1023Octets.
        pub stat_EtherStatsPktsTx512Octetsto1023Octets: U32,
        /// EtherStatsPktsTx1024Octetsto1522Octets.
        pub stat_EtherStatsPktsTx1024Octetsto1522Octets: U32,
        /// EtherStatsPktsTx1523Octetsto9022Octets.
        pub stat_EtherStatsPktsTx1523Octetsto9022Octets: U32,
        /// XonPauseFramesReceived.
        pub stat_XonPauseFramesReceived: U32,
        /// XoffPauseFramesReceived.
        pub stat_XoffPauseFramesReceived: U32,
        /// OutXonSent.
        pub stat_OutXonSent: U32,
        /// OutXoffSent.
        pub stat_OutXoffSent: U32,
        /// FlowControlDone.
        pub stat_FlowControlDone: U32,
        /// MacControlFramesReceived.
        pub stat_MacControlFramesReceived: U32,
        /// XoffStateEntered.
        pub stat_XoffStateEntered: U32,
        /// IfInFramesL2FilterDiscards.
        pub stat_IfInFramesL2FilterDiscards: U32,
        /// IfInRuleCheckerDiscards.
        pub stat_IfInRuleCheckerDiscards: U32,
        /// IfInFTQDiscards.
        pub stat_IfInFTQDiscards: U32,
        /// IfInMBUFDiscards.
        pub stat_IfInMBUFDiscards: U32,
        /// IfInRuleCheckerP4Hit.
        pub stat_IfInRuleCheckerP4Hit: U32,
        /// CatchupInRuleCheckerDiscards.
        pub stat_CatchupInRuleCheckerDiscards: U32,
        /// CatchupInFTQDiscards.
        pub stat_CatchupInFTQDiscards: U32,
        /// CatchupInMBUFDiscards.
        pub stat_CatchupInMBUFDiscards: U32,
        /// CatchupInRuleCheckerP4Hit.
        pub stat_CatchupInRuleCheckerP4Hit: U32,
        /// GenStat00.
        pub stat_GenStat00: U32,
        /// GenStat01.
        pub stat_GenStat01: U32,
        /// GenStat02.
        pub stat_GenStat02: U32,
        /// GenStat03.
        pub stat_GenStat03: U32,
        /// GenStat04.
        pub stat_GenStat04: U32,
        /// GenStat05.
        pub stat_GenStat05: U32,
        /// GenStat06.
        pub stat_GenStat06: U32,
        /// GenStat07.
        pub stat_GenStat07: U32,
        /// GenStat08.
        pub stat_GenStat08: U32,
        /// GenStat09.
        pub stat_GenStat09: U32,
        /// GenStat10.
        pub stat_GenStat10: U32,
        /// GenStat11.
        pub stat_GenStat11: U32,
        /// GenStat12.
        pub stat_GenStat12: U32,
        /// GenStat13.
        pub stat_GenStat13: U32,
        /// GenStat14.
        pub stat_GenStat14: U32,
        /// GenStat15.
        pub stat_GenStat15: U32,
        /// FwRxDrop.
        pub stat_FwRxDrop: U32,
    }
}

/// Bytes that the chip writes: everything but the driver's own last word.
pub const CHIP_BYTES: usize = size_of::<StatisticsBlock>() - size_of::<U32>();
