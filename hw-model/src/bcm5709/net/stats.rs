//! What the MAC and the receive path count, and the statistics block that shows it to the host.
//!
//! The block is written on command and, when the host has set a period and `COLLECT_STATS`, by time. Counters
//! of events that cannot happen here (collisions, pause, FCS errors) stay zero.

use std::time::Duration;

use bus::Instant;
use bus::pci::{DevCx, DmaFault};
use hsi::U32;
use hsi::bcm5709::regs as hw;
use hsi::bcm5709::statistics::{CHIP_BYTES, StatisticsBlock};

use crate::bcm5709::regs::RegisterFile;
use crate::ether::{FCS, SHORTEST};

/// Frames by kind of their destination, and bytes.
#[derive(Clone, Copy, Default)]
struct Direction {
    octets: u64,
    unicast: u64,
    multicast: u64,
    broadcast: u64,
    /// Frames by size: 64, 127, 255, 511, 1023, 1522 and 9022 bytes at most, FCS included.
    sizes: [u32; 7],
}

impl Direction {
    fn address(&mut self, frame: &[u8]) {
        match frame.first_chunk() {
            Some(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => self.broadcast += 1,
            Some(&[first, ..]) if first & 1 == 1 => self.multicast += 1,
            _ => self.unicast += 1,
        }
    }

    fn size(&mut self, frame: &[u8]) {
        let bytes = frame.len().max(SHORTEST) + FCS;
        let class = [64, 127, 255, 511, 1023, 1522].iter().position(|&most| bytes <= most).unwrap_or(6);
        self.sizes[class] = self.sizes[class].wrapping_add(1);
    }

    fn bytes(&mut self, frame: &[u8]) {
        self.octets += (frame.len().max(SHORTEST) + FCS) as u64;
    }
}

/// Counters of the port, and when to show them.
#[derive(Default)]
pub(super) struct Stats {
    incoming: Direction,
    outgoing: Direction,
    bad_out: u32,
    oversize: u32,
    filtered: u32,
    no_room: u32,
    pauses: Pauses,
    asked: bool,
    period: Option<Duration>,
    due: Option<Instant>,
}

/// Flow control, as the statistics block names it.
#[derive(Clone, Copy, Debug, Default)]
struct Pauses {
    xoff_sent: u32,
    xon_sent: u32,
    xoff_received: u32,
    xon_received: u32,
    entered: u32,
    control: u32,
}

impl Stats {
    /// The partner is paused.
    pub(super) fn paused(&mut self) {
        self.pauses.xoff_sent = self.pauses.xoff_sent.wrapping_add(1);
    }

    /// It may send again.
    pub(super) fn resumed(&mut self) {
        self.pauses.xon_sent = self.pauses.xon_sent.wrapping_add(1);
    }

    /// A MAC control frame came.
    pub(super) fn mac_control(&mut self) {
        self.pauses.control = self.pauses.control.wrapping_add(1);
    }

    /// It was a pause of so many quanta; none of them ends a pause.
    pub(super) fn pause_received(&mut self, quanta: u16) {
        let p = &mut self.pauses;
        if quanta == 0 {
            p.xon_received = p.xon_received.wrapping_add(1);
        } else {
            (p.xoff_received, p.entered) = (p.xoff_received.wrapping_add(1), p.entered.wrapping_add(1));
        }
    }

    /// A frame was sent.
    pub(super) fn out(&mut self, frame: &[u8]) {
        self.outgoing.address(frame);
        self.outgoing.size(frame);
        self.outgoing.bytes(frame);
    }

    /// Descriptors did not make a frame.
    pub(super) fn bad_out(&mut self) {
        self.bad_out = self.bad_out.wrapping_add(1);
    }

    /// A frame was on the wire, for whomever.
    pub(super) fn incoming(&mut self, frame: &[u8]) {
        self.incoming.size(frame);
    }

    /// It is for this port.
    pub(super) fn accepted(&mut self, frame: &[u8]) {
        self.incoming.address(frame);
        self.incoming.bytes(frame);
    }

    /// It was longer than the driver allows.
    pub(super) fn oversize(&mut self) {
        self.oversize = self.oversize.wrapping_add(1);
    }

    /// No sort rule took it.
    pub(super) fn filtered(&mut self) {
        self.filtered = self.filtered.wrapping_add(1);
    }

    /// No buffer was large enough for it.
    pub(super) fn no_room(&mut self) {
        self.no_room = self.no_room.wrapping_add(1);
    }

    /// `HC_COMMAND` was written.
    pub(super) fn command(&mut self, command: u32) {
        if command & hw::HC_COMMAND_CLR_STAT_NOW != 0 {
            let Self { asked, period, due, .. } = *self;
            *self = Self { asked, period, due, ..Self::default() };
        }
        self.asked |= command & hw::HC_COMMAND_STATS_NOW != 0;
    }

    /// Period, place or switch changed.
    pub(super) fn set_period(&mut self, regs: &RegisterFile, now: Instant) {
        let us = regs.get(hw::HC_STATS_TICKS) & hw::HC_STATS_TICKS_HC_STAT_TICKS;
        let on = regs.get(hw::HC_CONFIG) & hw::HC_CONFIG_COLLECT_STATS != 0 && us != 0 && address(regs) != 0;
        self.period = on.then(|| Duration::from_micros(us.into()));
        self.due = self.period.map(|p| now + p);
    }

    /// When the block is written next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Writes the block, if it was asked for or its time has come.
    pub(super) fn write_due(&mut self, cx: &mut DevCx<'_>, regs: &RegisterFile) -> Result<(), DmaFault> {
        let timed = self.due.is_some_and(|t| t <= cx.now);
        if timed {
            self.due = self.period.map(|p| cx.now + p);
        }
        let asked = std::mem::take(&mut self.asked);
        let at = address(regs);
        if !(timed || asked) || at == 0 {
            return Ok(());
        }
        cx.dma_write(at, &self.block().bytes()[..CHIP_BYTES], cx.host.grant())
    }

    fn block(&self) -> StatisticsBlock {
        let mut b = StatisticsBlock::default();
        macro_rules! wide {
            ($($hi:ident, $lo:ident = $value:expr;)*) => {$(
                b.$hi = U32::new(($value >> 32) as u32);
                b.$lo = U32::new($value as u32);
            )*};
        }
        let (i, o) = (&self.incoming, &self.outgoing);
        wide! {
            stat_IfHCInOctets_hi, stat_IfHCInOctets_lo = i.octets;
            stat_IfHCOutOctets_hi, stat_IfHCOutOctets_lo = o.octets;
            stat_IfHCInUcastPkts_hi, stat_IfHCInUcastPkts_lo = i.unicast;
            stat_IfHCInMulticastPkts_hi, stat_IfHCInMulticastPkts_lo = i.multicast;
            stat_IfHCInBroadcastPkts_hi, stat_IfHCInBroadcastPkts_lo = i.broadcast;
            stat_IfHCOutUcastPkts_hi, stat_IfHCOutUcastPkts_lo = o.unicast;
            stat_IfHCOutMulticastPkts_hi, stat_IfHCOutMulticastPkts_lo = o.multicast;
            stat_IfHCOutBroadcastPkts_hi, stat_IfHCOutBroadcastPkts_lo = o.broadcast;
        }
        let set = |to: &mut U32, value: u32| to.set(value);
        set(&mut b.stat_emac_tx_stat_dot3statsinternalmactransmiterrors, self.bad_out);
        set(&mut b.stat_EtherStatsOverrsizePkts, self.oversize);
        set(&mut b.stat_IfInFramesL2FilterDiscards, self.filtered);
        set(&mut b.stat_IfInMBUFDiscards, self.no_room);
        let p = &self.pauses;
        set(&mut b.stat_OutXoffSent, p.xoff_sent);
        set(&mut b.stat_OutXonSent, p.xon_sent);
        set(&mut b.stat_XoffPauseFramesReceived, p.xoff_received);
        set(&mut b.stat_XonPauseFramesReceived, p.xon_received);
        set(&mut b.stat_XoffStateEntered, p.entered);
        set(&mut b.stat_MacControlFramesReceived, p.control);
        let rx = [
            &mut b.stat_EtherStatsPktsRx64Octets,
            &mut b.stat_EtherStatsPktsRx65Octetsto127Octets,
            &mut b.stat_EtherStatsPktsRx128Octetsto255Octets,
            &mut b.stat_EtherStatsPktsRx256Octetsto511Octets,
            &mut b.stat_EtherStatsPktsRx512Octetsto1023Octets,
            &mut b.stat_EtherStatsPktsRx1024Octetsto1522Octets,
            &mut b.stat_EtherStatsPktsRx1523Octetsto9022Octets,
        ];
        rx.into_iter().zip(i.sizes).for_each(|(to, n)| set(to, n));
        let tx = [
            &mut b.stat_EtherStatsPktsTx64Octets,
            &mut b.stat_EtherStatsPktsTx65Octetsto127Octets,
            &mut b.stat_EtherStatsPktsTx128Octetsto255Octets,
            &mut b.stat_EtherStatsPktsTx256Octetsto511Octets,
            &mut b.stat_EtherStatsPktsTx512Octetsto1023Octets,
            &mut b.stat_EtherStatsPktsTx1024Octetsto1522Octets,
            &mut b.stat_EtherStatsPktsTx1523Octetsto9022Octets,
        ];
        tx.into_iter().zip(o.sizes).for_each(|(to, n)| set(to, n));
        b
    }
}

fn address(regs: &RegisterFile) -> u64 {
    u64::from(regs.get(hw::HC_STATISTICS_ADDR_H)) << 32 | u64::from(regs.get(hw::HC_STATISTICS_ADDR_L))
}
