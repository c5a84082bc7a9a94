//! Probe, reset handshake, queues, INIT, interrupts.

use bus::config::{MSIX_ENABLE, STATUS_INTERRUPT};
use bus::pci::Vector;
use hsi::bcm5709::regs::config_space as cs;
use hsi::bcm5709::{doorbell, regs, shmem};

use super::host::{Host, init};
use crate::config::{ChipConfig, DoorbellLayout};

#[test]
fn probe_finds_a_5709_with_its_macs_and_licence() {
    let mut h = Host::new(ChipConfig { licensed_connections: 64, ..ChipConfig::default() });
    assert_eq!(h.config_read(0), 0x1639_14e4);
    assert_eq!(h.read(regs::MISC_ID), 0x5709_2000);
    assert_eq!(h.read(regs::PCI_SWAP_DIAG0), 0x0102_0304);
    assert_eq!(h.indirect(shmem::SHM_HDR_SIGNATURE) >> 16, 0x5353);
    assert_eq!(h.shmem(shmem::DEV_INFO_SIGNATURE) >> 8, 0x44_5649);
    let mac = shmem::mac(h.shmem(shmem::PORT_HW_CFG_MAC_UPPER), h.shmem(shmem::PORT_HW_CFG_MAC_LOWER));
    assert_eq!(mac, ChipConfig::default().mac);
    let (upper, lower) =
        (h.shmem(shmem::PORT_HW_CFG_ISCSI_MAC_UPPER), h.shmem(shmem::PORT_HW_CFG_ISCSI_MAC_LOWER));
    assert_eq!(shmem::mac(upper, lower), ChipConfig::default().iscsi_mac);
    assert_ne!(h.shmem(shmem::ISCSI_INITIATOR) & shmem::ISCSI_INITIATOR_EN, 0);
    assert_eq!(h.shmem(shmem::ISCSI_MAX_CONN) >> 16, 64);
    assert_eq!(h.indirect(regs::FW_MAX_ISCSI_CONN), 64);
    assert_eq!(h.shmem(shmem::LINK_STATUS) & shmem::LINK_STATUS_LINK_UP, 1);
    assert_eq!(h.card.with(|c| c.registers().unmodelled().count()), 0, "all of that is modelled");
}

#[test]
fn the_window_is_in_config_space_too() {
    let mut h = Host::new(ChipConfig::default());
    h.config_write(regs::PCICFG_REG_WINDOW_ADDRESS as u16, shmem::SHM_HDR_SIGNATURE);
    assert_eq!(h.config_read(regs::PCICFG_REG_WINDOW as u16) >> 16, 0x5353);
    assert_eq!(h.config_read(0x100), 0);
    h.config_write(cs::VPD_CAP, 5);
    assert_eq!(h.config_read(cs::VPD_CAP), 5, "what nobody owns answers like memory");
}

#[test]
fn init_passes_and_repeating_it_is_harmless() {
    let mut h = Host::up(ChipConfig::default());
    h.submit(&init(64, 128));
    let again = h.reap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].kcqe_op_flag.get(), 0x6014_0001, "layer, opcode, and the second sequence number");
    assert_eq!(h.status.load16(48), 4, "the chip has consumed four KWQEs");
    assert_eq!(h.slot.borrow().violations(), []);
}

#[test]
fn init_that_makes_no_sense_fails() {
    let mut h = Host::up(ChipConfig::default());
    h.submit(&init(0, 128));
    h.submit(&init(64, 0));
    assert_eq!(h.answers(), [(0x614, 4), (0x614, 4)]);
}

#[test]
fn without_licence_init_answers_not_supported() {
    let mut h = Host::new(ChipConfig { licensed_connections: 0, ..ChipConfig::default() });
    h.reset_handshake();
    h.start();
    h.submit(&init(64, 128));
    assert_eq!(h.answers(), [(0x614, 0x50)]);
    assert_eq!(h.shmem(shmem::ISCSI_INITIATOR), 0);
}

#[test]
fn an_interrupt_comes_once_until_it_is_acknowledged() {
    let mut h = Host::up(ChipConfig::default());
    assert!(h.interrupts().contains(Vector(0)));
    h.submit(&init(64, 128));
    assert!(h.interrupts().is_empty(), "the first was not acknowledged");
    let old = h.status.load16(54) - 1;
    let valid = regs::PCICFG_INT_ACK_CMD_INDEX_VALID;
    h.write(regs::PCICFG_INT_ACK_CMD, valid | u32::from(old));
    assert_eq!(h.read(regs::PCICFG_INT_ACK_CMD), u32::from(old));
    assert!(h.interrupts().contains(Vector(0)), "an old index raises the next at once");
    h.ack_interrupt();
    assert!(h.interrupts().is_empty());
    h.submit(&init(64, 128));
    assert!(h.interrupts().contains(Vector(0)));
    h.write(regs::PCICFG_INT_ACK_CMD, regs::PCICFG_INT_ACK_CMD_MASK_INT);
    h.ack_interrupt();
    h.write(
        regs::PCICFG_INT_ACK_CMD,
        valid | regs::PCICFG_INT_ACK_CMD_MASK_INT | u32::from(h.status.load16(54)),
    );
    h.submit(&init(64, 128));
    assert!(h.interrupts().is_empty(), "masked");
    let index = u32::from(h.status.load16(54)) - 1;
    h.write(regs::PCICFG_INT_ACK_CMD, valid | index);
    h.run();
    assert!(h.interrupts().contains(Vector(0)), "unmasking shows what was missed");
}

#[test]
fn intx_is_a_level_until_the_index_is_acknowledged() {
    let mut h = Host::new(ChipConfig::default());
    h.config_write(0x58, 0);
    h.reset_handshake();
    h.start();
    h.ack_interrupt();
    assert!(h.interrupts().is_empty());
    h.submit(&init(64, 128));
    assert!(h.interrupts().contains(Vector(0)) && h.interrupts().contains(Vector(0)));
    assert_ne!(h.config_read(4) & STATUS_INTERRUPT, 0);
    h.write(regs::PCICFG_INT_ACK_CMD, regs::PCICFG_INT_ACK_CMD_MASK_INT);
    h.run();
    assert!(h.interrupts().is_empty(), "masked");
    h.ack_interrupt();
    h.run();
    assert!(h.interrupts().is_empty() && h.config_read(4) & STATUS_INTERRUPT == 0);
}

#[test]
fn kernel_queues_can_have_a_vector_of_their_own() {
    let mut h = Host::new(ChipConfig::default());
    h.config_write(0xa0, MSIX_ENABLE);
    h.write(regs::PCI_GRC_WINDOW2_BASE + 3 * 16 + 12, 0);
    h.reset_handshake();
    h.context_write(hsi::bcm5709::ctx::KCQ_CID, hsi::bcm5709::ctx::L5_KRNLQ_HOST_QIDX, (3 + 7) << 16);
    h.producer_at = 3 * 128 + 6;
    h.start();
    h.submit(&init(64, 128));
    assert!(h.interrupts().contains(Vector(3)));
    assert_eq!(h.answers(), [(0x614, 0)]);
    assert_eq!(h.status.load16(3 * 128 + 4), 2, "the KWQ consumer is in that block too");
    let index = h.status.load16(3 * 128 + 14);
    let ack = regs::PCICFG_INT_ACK_CMD_INDEX_VALID | 3 << regs::PCICFG_INT_ACK_CMD_INT_NUM_SHIFT;
    h.write(regs::PCICFG_INT_ACK_CMD, ack | u32::from(index));
    h.submit(&init(64, 128));
    assert!(h.interrupts().contains(Vector(3)));
}

#[test]
fn coalesce_now_publishes_without_news() {
    let mut h = Host::up(ChipConfig::default());
    h.ack_interrupt();
    h.interrupts();
    let before = h.status.load16(54);
    h.write(regs::HC_COMMAND, regs::HC_COMMAND_COAL_NOW_WO_INT);
    h.run();
    assert_eq!((h.status.load16(54), h.interrupts().is_empty()), (before + 1, true));
    h.write(regs::HC_COMMAND, regs::HC_COMMAND_COAL_NOW);
    h.run();
    assert!(h.interrupts().contains(Vector(0)));
    h.write(regs::HC_COALESCE_NOW, 1 << (11 + 2));
    h.run();
    assert_eq!(h.status.load16(2 * 128 + 14), 1);
}

#[test]
fn a_link_change_is_an_attention() {
    let mut h = Host::up(ChipConfig::default());
    assert_eq!(h.status.load32(0), 1, "the link is up");
    h.write(regs::PCICFG_STATUS_BIT_SET_CMD, 1);
    h.run();
    assert_eq!((h.status.load32(0), h.status.load32(4)), (1, 1));
    h.ack_interrupt();
    h.interrupts();
    h.card.with(|c| c.set_link(false));
    h.run();
    assert_eq!((h.status.load32(0), h.status.load32(4)), (0, 1));
    assert!(h.interrupts().contains(Vector(0)));
    assert_eq!(h.shmem(shmem::LINK_STATUS) & shmem::LINK_STATUS_LINK_UP, 0);
    assert_eq!(h.read(regs::EMAC_STATUS) & regs::EMAC_STATUS_LINK, 0);
    h.reset_handshake();
    assert_eq!(
        h.shmem(shmem::LINK_STATUS) & shmem::LINK_STATUS_LINK_UP,
        0,
        "a reset does not plug the cable"
    );
}

#[test]
fn doorbells_have_pages_in_bin_mode() {
    for layout in [DoorbellLayout::Mailboxes, DoorbellLayout::Pages] {
        let mut h = Host::up(ChipConfig { doorbells: layout, ..ChipConfig::default() });
        let mq = h.read(regs::MQ_CONFIG2);
        assert_eq!(doorbell::bin_mode(mq), layout == DoorbellLayout::Pages);
        let a = h.connected(1);
        let b = h.connected(2);
        let at = |c: u32| doorbell::connection(c >> 7, mq);
        let far = at(a.context).abs_diff(at(b.context));
        assert!(far >= if layout == DoorbellLayout::Pages { 4096 } else { 256 });
        let before = h.card.with(|c| c.engine().counters().bad_doorbells);
        for c in [a, b] {
            h.write16(at(c.context) + doorbell::CNIC_SEND_DOORBELL, 1000);
        }
        h.run();
        let after = h.card.with(|c| c.engine().counters().bad_doorbells);
        assert_eq!(after, before + 2, "both reached their ring, which is not that large");
        assert_eq!(h.card.with(|c| c.counters().stray_doorbells), 0);
        h.write16(doorbell::mailbox(0x3000) + 4, 1);
        h.run();
        assert_eq!(h.card.with(|c| c.counters().stray_doorbells), 1);
    }
}
