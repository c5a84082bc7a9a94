//! Reset at any moment: by register, by the slot, by removal; and the defects that go with it.

use std::time::Duration;

use bus::inproc::{Timing, Violation};
use bus::pci::{DmaFault, Platform, ResetKind};
use hsi::bcm5709::{ctx, doorbell, regs, shmem};

use super::control::{close, destroy, update, upload};
use super::host::{Conn, Host, connect, init, offload_pg};
use crate::config::ChipConfig;
use crate::fault::{FaultPoint, Trigger};

fn bring_up_again(h: &mut Host) {
    h.start();
    h.submit(&init(64, 128));
    assert_eq!(h.answers(), [(0x614, 0)]);
    h.connected(0);
}

#[test]
fn a_register_reset_revokes_before_it_forgets() {
    let mut h = Host::up(ChipConfig::default());
    h.connected(0);
    let c = h.prepared(1);
    let epoch = h.bus.epoch();
    // Work is on its way in every place: a KWQE pair, a handshake, a pulse in shared memory.
    h.post(&connect(c));
    let base = h.indirect(shmem::SHM_HDR_ADDR_0);
    h.set_indirect(base + shmem::DRV_PULSE_MB, 7);
    h.write(regs::MISC_COMMAND, regs::MISC_COMMAND_SW_RESET);
    h.run();
    assert!(h.bus.epoch() > epoch, "the epoch is over");
    assert_eq!(h.read(regs::MISC_COMMAND), 0);
    assert_eq!(h.card.with(|c| (c.in_use(), c.engine().connections())), ((0, 0), 0));
    assert_eq!(h.wire.0.borrow().resets, 2, "TCP too");
    assert_eq!(h.read(regs::HC_STATUS_ADDR_H), 0);
    assert_eq!(h.shmem(shmem::DRV_PULSE_MB), 7, "shared memory stays");
    let (producer, refused) = (h.producer(), h.slot.borrow().audit().refused);
    h.write16(doorbell::mailbox(ctx::KWQ_CID) + 4, 100);
    h.write16(doorbell::connection(c.context >> 7, 0) + 4, 1);
    h.run();
    assert_eq!((h.producer(), h.slot.borrow().audit().refused), (producer, refused), "not a single access");
    assert_eq!(h.slot.borrow().violations(), []);
    assert_eq!(h.card.with(|c| c.counters().resets), 2);
}

#[test]
fn every_reset_leads_back_to_work() {
    let kinds = [None, Some(ResetKind::Flr), Some(ResetKind::Device), Some(ResetKind::LostConnection)];
    for kind in kinds {
        let mut h = Host::up(ChipConfig::default());
        h.connected(0);
        h.connected(3);
        match kind {
            None => h.reset_handshake(),
            Some(kind) => {
                let since = h.bus.epoch();
                let revoked = h.reset_by_slot(kind);
                assert!(revoked.epoch() > since);
                h.power();
            }
        }
        assert_eq!(h.card.with(|c| c.in_use()), (0, 0), "{kind:?}");
        bring_up_again(&mut h);
        assert_eq!(h.slot.borrow().violations(), [], "{kind:?}");
    }
}

#[test]
fn reset_after_any_number_of_work_items() {
    // A life from INIT to DESTROY in one batch, cut off by a reset after 0, 1, 2, ... work items. Context and
    // path group ids are the first ones. Whatever was under way, nothing of the old epoch is tried, and the
    // next one is clean.
    let mut seen = 0;
    for cut in 0..40 {
        let mut h = Host::up(ChipConfig::default());
        let (offload, _buffers) = h.offload_kwqes(0);
        let c = Conn { id: 0, context: 0x200 << 7, pg: 0x800 };
        h.post(&init(64, 128));
        h.post(&offload);
        h.post(&[offload_pg(0)]);
        h.post(&connect(c));
        let mut done = 0;
        for i in 0..cut {
            done += h.step(1);
            if i == 8 {
                h.post(&[update(c), close(c), upload(c.pg), destroy(c)]);
            }
        }
        seen = seen.max(done);
        h.reset_handshake();
        let refused = h.slot.borrow().audit().refused;
        h.run();
        assert_eq!(h.card.with(|c| (c.in_use(), c.engine().connections())), ((0, 0), 0));
        bring_up_again(&mut h);
        assert_eq!(
            (h.slot.borrow().violations(), h.slot.borrow().audit().refused),
            (&[][..], refused),
            "{cut}"
        );
    }
    assert!(seen >= 11, "the script went to its end: {seen} items");
}

#[test]
fn a_bus_that_holds_writes_changes_nothing() {
    let timing = Timing { mmio: Duration::from_micros(30), dma: Duration::from_micros(30) };
    for seed in 0..20 {
        let mut h = Host::on(ChipConfig::default(), 1, timing, seed);
        h.bring_up();
        let c = h.connected(0);
        h.submit(&[update(c), close(c)]);
        assert_eq!(h.answers(), [(0x612, 0), (0x435, 0)], "seed {seed}");
        h.connected(1);
        // The reset overtakes nothing: what was posted before it comes first, DMA that is still held is
        // dropped.
        h.post(&init(64, 128));
        h.post(&[upload(c.pg), destroy(c)]);
        (0..seed).for_each(|_| {
            h.step(1);
        });
        h.bring_up();
        h.connected(0);
        assert_eq!(h.slot.borrow().violations(), [], "seed {seed}");
    }
}

#[test]
fn a_mute_chip_answers_registers_and_comes_back_by_reset() {
    let mut h = Host::up(ChipConfig::default());
    h.faults.arm(FaultPoint::Mute, Trigger::ONCE);
    h.submit(&init(64, 128));
    assert!(h.reap().is_empty());
    assert_eq!(h.faults.fired(FaultPoint::Mute), 1);
    assert!(h.card.with(|c| c.is_mute()));
    assert_eq!(h.read(regs::MISC_ID), 0x5709_2000);
    h.reset_handshake();
    assert!(!h.card.with(|c| c.is_mute()));
    bring_up_again(&mut h);
}

#[test]
fn late_dma_after_a_reset_is_refused_by_the_bus() {
    let mut h = Host::up(ChipConfig::default());
    h.faults.arm(FaultPoint::LateDmaAfterReset, Trigger::ONCE);
    let before = h.kcq_bytes();
    h.reset_handshake();
    h.run();
    assert_eq!(h.faults.fired(FaultPoint::LateDmaAfterReset), 1);
    assert_eq!(h.slot.borrow().violations(), [Violation::Dma(DmaFault::Revoked)]);
    assert_eq!(h.kcq_bytes(), before, "nothing was written");
}

#[test]
fn a_removed_card_reads_as_all_ones() {
    let mut h = Host::up(ChipConfig::default());
    h.remove();
    assert_eq!(h.read(regs::MISC_ID), !0);
    h.write(regs::MISC_COMMAND, regs::MISC_COMMAND_SW_RESET);
    h.run();
    assert_eq!(h.slot.borrow().violations(), []);
}

#[test]
fn stopping_the_queues_forgets_what_waits() {
    let mut h = Host::up(ChipConfig::default());
    h.post(&init(64, 128));
    h.set_indirect(regs::CP_DOORBELL_ENABLE, 0);
    h.set_indirect(regs::COM_DOORBELL_ENABLE, 0);
    h.run();
    h.start();
    h.submit(&init(64, 128));
    assert_eq!(h.answers(), [(0x614, 0)]);
}
