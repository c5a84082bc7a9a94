//! No event's interrupt is swallowed, whatever else happens to the block that announces it.

use std::time::Duration;

use bus::pci::Vector;
use bus::streams::{Seeded, Streams};
use hsi::bcm5709::{ctx, regs};

use super::host::{Host, init};
use crate::config::ChipConfig;

const TICKS_US: u32 = 200;
const LINK: u32 = 1;

/// The transmit ring of the netdev starts over: its index is published without an interrupt.
fn restart_ring(h: &mut Host) {
    h.context_write(ctx::TX_CID, ctx::BNX2_L2CTX_TBDR_BHADDR_HI_XI, 0);
}

/// Limits of the completion queue: now, and while an interrupt is being served.
fn thresholds(h: &mut Host, trip: [u32; 2], ticks_us: [u32; 2]) {
    h.write(regs::HC_COMP_PROD_TRIP, trip[1] << 16 | trip[0]);
    h.write(regs::HC_COM_TICKS, ticks_us[1] << 16 | ticks_us[0]);
    h.write(regs::HC_CMD_TICKS, ticks_us[1] << 16 | ticks_us[0]);
}

/// Lets all time limits pass.
fn rest(h: &mut Host) {
    for _ in 0..4 {
        h.run();
        h.now += Duration::from_millis(1);
    }
}

#[test]
fn a_ring_that_starts_over_does_not_swallow_the_answer_to_a_doorbell() {
    for trip in [0, 1, 20] {
        let mut h = Host::up(ChipConfig::default());
        thresholds(&mut h, [trip; 2], [TICKS_US; 2]);
        rest(&mut h);
        h.ack_interrupt();
        h.interrupts();
        restart_ring(&mut h);
        h.post(&init(64, 128));
        rest(&mut h);
        assert_eq!(h.answers().len(), 1);
        assert!(h.interrupts().contains(Vector(0)), "trip count {trip}");
    }
}

#[test]
fn a_block_that_is_asked_for_without_an_interrupt_does_not_swallow_one() {
    let mut h = Host::up(ChipConfig::default());
    thresholds(&mut h, [20; 2], [TICKS_US; 2]);
    rest(&mut h);
    h.ack_interrupt();
    h.interrupts();
    h.post(&init(64, 128));
    h.write(regs::HC_COMMAND, regs::HC_COMMAND_COAL_NOW_WO_INT);
    h.step(32);
    rest(&mut h);
    assert!(h.interrupts().contains(Vector(0)));
}

#[test]
fn what_waits_is_judged_again_when_the_host_acknowledges() {
    let mut h = Host::up(ChipConfig::default());
    // While an interrupt is being served, completions wait for their twentieth.
    // The consumer of the request queue waits long in both states.
    thresholds(&mut h, [1, 20], [1000, 1000]);
    rest(&mut h);
    h.ack_interrupt();
    h.interrupts();
    h.submit(&init(64, 128));
    assert!(h.interrupts().contains(Vector(0)));
    h.post(&init(64, 128));
    for _ in 0..8 {
        h.step(32);
    }
    assert!(h.interrupts().is_empty(), "waits");
    h.ack_interrupt();
    h.step(32);
    assert!(h.interrupts().contains(Vector(0)), "one is enough now");
}

#[test]
fn after_any_sequence_nothing_waits_without_an_interrupt() {
    let mut rng = Seeded::new(1);
    for round in 0..200 {
        let mut h = Host::up(ChipConfig::default());
        rest(&mut h);
        h.ack_interrupt();
        h.interrupts();
        let (mut posted, mut seen, mut owed, mut log) = (h.producer(), h.producer(), false, Vec::new());
        for _ in 0..24 {
            let op = rng.below("interrupts", 10);
            log.push(op);
            match op {
                0 => restart_ring(&mut h),
                1 | 2 => {
                    h.post(&init(64, 128));
                    posted = posted.wrapping_add(1);
                }
                3 => h.write(regs::HC_COMMAND, regs::HC_COMMAND_COAL_NOW_WO_INT),
                4 => h.write(regs::HC_COMMAND, regs::HC_COMMAND_COAL_NOW),
                5 => h.write(regs::PCICFG_INT_ACK_CMD, regs::PCICFG_INT_ACK_CMD_MASK_INT),
                6 => {
                    (seen, owed) = (h.producer(), false);
                    h.ack_interrupt();
                }
                7 => {
                    let (trip, ticks) = (
                        rng.below("interrupts", 4) as u32,
                        1 + rng.below("interrupts", u64::from(TICKS_US)) as u32,
                    );
                    thresholds(&mut h, [trip, 20], [ticks, TICKS_US]);
                }
                8 => {
                    h.step(32);
                }
                _ => h.now += Duration::from_micros(rng.below("interrupts", 300)),
            }
            owed |= !h.interrupts().is_empty();
        }
        h.write(regs::PCICFG_INT_ACK_CMD, 0);
        rest(&mut h);
        owed |= !h.interrupts().is_empty();
        assert_eq!(h.producer(), posted, "round {round}: {log:?}");
        assert!(seen == posted || owed, "round {round}: an answer and no interrupt: {log:?}");
    }
}

#[test]
fn an_attention_stays_until_it_is_acknowledged() {
    let mut h = Host::up(ChipConfig::default());
    h.write(regs::PCICFG_STATUS_BIT_SET_CMD, LINK);
    h.run();
    h.ack_interrupt();
    h.interrupts();
    let shown = |h: &Host| (h.status.load32(0) & LINK, h.status.load32(4) & LINK);
    h.card.with(|c| c.set_link(false));
    h.run();
    h.card.with(|c| c.set_link(true));
    for _ in 0..10 {
        rest(&mut h);
    }
    assert_eq!(shown(&h), (0, 1), "the link is back, and its loss is still news");
    assert!(h.interrupts().contains(Vector(0)));
    h.ack_interrupt();
    h.write(regs::PCICFG_STATUS_BIT_CLEAR_CMD, LINK);
    rest(&mut h);
    assert_eq!(shown(&h), (1, 0), "its return is news too");
    assert!(h.interrupts().contains(Vector(0)));
}
