//! What a stock driver does from probe to link, step by step (CHIP-REGISTERS 2, items 1 to 17), and
//! coalescing.

use std::time::Duration;

use bus::pci::Vector;
use hsi::bcm5709::regs::{self, mii};
use hsi::bcm5709::{ctx, shmem};

use super::host::{Host, init};
use super::nic::{MAC, Orders, Rx, Tx, open_filter};
use crate::config::{ChipConfig, LinkSpeed};

fn mdio(h: &mut Host, register: u32, write: Option<u16>) -> u16 {
    let command = write
        .map_or(regs::EMAC_MDIO_COMM_COMMAND_READ, |v| regs::EMAC_MDIO_COMM_COMMAND_WRITE | u32::from(v));
    let address = regs::COPPER_PHY_ADDR << 21 | register << 16;
    let start = regs::EMAC_MDIO_COMM_START_BUSY | regs::EMAC_MDIO_COMM_DISEXT;
    h.write(regs::EMAC_MDIO_COMM, address | command | start);
    let comm = h.read(regs::EMAC_MDIO_COMM);
    assert_eq!(comm & regs::EMAC_MDIO_COMM_START_BUSY, 0);
    comm as u16
}

#[test]
fn the_mirror_shows_what_the_bus_owns() {
    let mut h = Host::new(ChipConfig::default());
    assert_eq!(h.read(regs::PCICFG_MSI_CONTROL) & regs::PCICFG_MSI_CONTROL_ENABLE, 0x1_0000);
    h.config_write(0x58, 0);
    assert_eq!(h.read(regs::PCICFG_MSI_CONTROL) & regs::PCICFG_MSI_CONTROL_ENABLE, 0);
    assert_eq!(h.read(regs::PCICFG_DEVICE_CONTROL) & regs::PCICFG_DEVICE_STATUS_NO_PEND, 0);
    assert_eq!(h.read(0) & 0xffff, 0x14e4);
    assert_eq!(h.read(4), h.config_read(4));
}

#[test]
fn nvram_is_granted_and_what_nobody_wrote_reads_all_ones() {
    let mut h = Host::new(ChipConfig::default());
    h.write(regs::NVM_SW_ARB, regs::NVM_SW_ARB_ARB_REQ_SET2);
    assert_ne!(h.read(regs::NVM_SW_ARB) & regs::NVM_SW_ARB_ARB_ARB2, 0);
    h.write(regs::NVM_ACCESS_ENABLE, regs::NVM_ACCESS_ENABLE_EN | regs::NVM_ACCESS_ENABLE_WR_EN);
    h.write(regs::NVM_COMMAND, regs::NVM_COMMAND_DONE);
    h.write(regs::NVM_ADDR, 0x400);
    h.write(regs::NVM_COMMAND, regs::NVM_COMMAND_DOIT | regs::NVM_COMMAND_FIRST | regs::NVM_COMMAND_LAST);
    assert_ne!(h.read(regs::NVM_COMMAND) & regs::NVM_COMMAND_DONE, 0);
    assert_eq!(h.read(regs::NVM_READ), !0);
    h.write(regs::NVM_SW_ARB, regs::NVM_SW_ARB_ARB_REQ_CLR2);
    assert_eq!(h.read(regs::NVM_SW_ARB), 0);
}

#[test]
fn from_probe_to_link_up() {
    let mut h = Host::new(ChipConfig::default());
    h.write(regs::PCICFG_MISC_CONFIG, regs::PCICFG_MISC_CONFIG_REG_WINDOW_ENA);
    assert_eq!(h.read(regs::MISC_ID), regs::MISC_ID_5709_C0);
    assert_eq!(h.read(regs::MISC_DUAL_MEDIA_CTRL) & 0xff, 3);
    assert_ne!(h.read(regs::PCI_CONFIG_3) & regs::PCI_CONFIG_3_VAUX_PRESET, 0);
    h.write(regs::MISC_NEW_CORE_CTL, 0);
    h.reset_handshake();
    h.write(regs::CTX_COMMAND, regs::CTX_COMMAND_ENABLED | regs::CTX_COMMAND_MEM_INIT);
    assert_eq!(h.read(regs::CTX_COMMAND), regs::CTX_COMMAND_ENABLED);
    for page in 0..4 {
        h.write(regs::CTX_HOST_PAGE_TBL_DATA0, (0x1000 * page) | regs::CTX_HOST_PAGE_TBL_DATA0_VALID);
        h.write(regs::CTX_HOST_PAGE_TBL_DATA1, 1);
        h.write(regs::CTX_HOST_PAGE_TBL_CTRL, page | regs::CTX_HOST_PAGE_TBL_CTRL_WRITE_REQ);
        assert_eq!(h.read(regs::CTX_HOST_PAGE_TBL_CTRL), page);
    }
    for i in 0..64 {
        h.write(regs::RV2P_INSTR_HIGH, i);
        h.write(regs::RV2P_INSTR_LOW, i);
        h.write(regs::RV2P_PROC1_ADDR_CMD, 0x8000_0000 | i);
        h.set_indirect(regs::RXP_SCRATCH + 4 * i, i);
    }
    h.set_indirect(regs::RXP_CPU_MODE, 0x400);
    assert_eq!(h.indirect(regs::RXP_SCRATCH + 4 * 63), 63);
    h.start();
    h.write(regs::MISC_ENABLE_SET_BITS, regs::MISC_ENABLE_DEFAULT);
    h.write(regs::MISC_ENABLE_CLR_BITS, regs::MISC_ENABLE_STATUS_BITS_UMP_ENABLE);
    let enabled = regs::MISC_ENABLE_DEFAULT & !regs::MISC_ENABLE_STATUS_BITS_UMP_ENABLE;
    assert_eq!(h.read(regs::MISC_ENABLE_STATUS_BITS), enabled);
    // PHY: reset, advertise, restart; the link goes and comes back.
    assert_eq!(mdio(&mut h, mii::BMSR, None), mii::BMSR_LINK_UP);
    mdio(&mut h, mii::BMCR, Some(mii::BMCR_RESET));
    assert_eq!(mdio(&mut h, mii::BMCR, None) & mii::BMCR_RESET, 0);
    h.write(regs::PCICFG_STATUS_BIT_SET_CMD, 1);
    mdio(&mut h, mii::BMCR, Some(0x1140 | mii::BMCR_ANRESTART));
    h.run();
    assert_eq!((h.status.load32(0), h.status.load32(4)), (0, 1), "down is news");
    assert_eq!(mdio(&mut h, mii::BMSR, None) & mii::BMSR_LSTATUS, 0);
    h.write(regs::PCICFG_STATUS_BIT_CLEAR_CMD, 1);
    h.ack_interrupt();
    h.interrupts();
    h.now += Duration::from_millis(2);
    h.run();
    assert!(h.interrupts().contains(Vector(0)));
    assert_eq!((h.status.load32(0), h.status.load32(4)), (1, 0), "up is news");
    mdio(&mut h, mii::BMSR, None);
    assert_eq!(mdio(&mut h, mii::BMSR, None), mii::BMSR_LINK_UP);
    assert_eq!(mdio(&mut h, mii::STAT1000, None), 0x3c00);
    assert_ne!(h.read(regs::EMAC_STATUS) & regs::EMAC_STATUS_LINK, 0);
    h.write(regs::EMAC_STATUS, !0);
    let events = regs::EMAC_STATUS_LINK_CHANGE | regs::EMAC_STATUS_LINK | regs::EMAC_STATUS_MI_COMPLETE;
    assert_eq!(
        h.read(regs::EMAC_STATUS) & events,
        regs::EMAC_STATUS_LINK,
        "events are cleared, state is not"
    );
    let unmodelled: Vec<u32> = h.card.with(|c| c.registers().unmodelled().map(|u| u.0).collect());
    assert!(unmodelled.is_empty(), "{unmodelled:x?}: every register of that is modelled");
}

#[test]
fn a_card_can_start_without_a_link() {
    let mut h = Host::new(ChipConfig { link: LinkSpeed::Down, ..ChipConfig::default() });
    h.reset_handshake();
    h.start();
    assert_eq!(mdio(&mut h, mii::BMSR, None) & mii::BMSR_LSTATUS, 0);
    assert_eq!(h.status.load32(0), 0);
    assert_eq!(h.shmem(shmem::LINK_STATUS) & shmem::LINK_STATUS_LINK_UP, 0);
    h.card.with(|c| c.set_link(true));
    h.run();
    assert_eq!(h.status.load32(0), 0, "a carrier has to be negotiated");
    h.now += Duration::from_millis(2);
    h.run();
    assert_eq!(h.status.load32(0), 1);
    assert_eq!(mdio(&mut h, mii::BMSR, None) & mii::BMSR_LSTATUS, 0, "latched");
    assert_ne!(mdio(&mut h, mii::BMSR, None) & mii::BMSR_LSTATUS, 0);
}

#[test]
fn intx_shows_its_level_in_a_register() {
    let mut h = Host::new(ChipConfig::default());
    h.config_write(0x58, 0);
    h.reset_handshake();
    h.start();
    h.ack_interrupt();
    let high = regs::PCICFG_MISC_STATUS_INTA_VALUE;
    assert_eq!(h.read(regs::PCICFG_MISC_STATUS) & high, high);
    h.submit(&init(64, 128));
    assert_eq!(h.read(regs::PCICFG_MISC_STATUS) & high, 0, "asserted is low");
    h.ack_interrupt();
    assert_eq!(h.read(regs::PCICFG_MISC_STATUS) & high, high);
}

#[test]
fn interrupts_wait_for_trip_counts_and_times() {
    let mut h = Host::new(ChipConfig::default());
    h.reset_handshake();
    h.write(regs::HC_RX_QUICK_CONS_TRIP, 2 << 16 | 4);
    h.write(regs::HC_RX_TICKS, 0);
    h.write(regs::HC_TX_QUICK_CONS_TRIP, 200);
    h.write(regs::HC_TX_TICKS, 80);
    h.start();
    let (mut tx, mut rx) = (Tx::new(&mut h, ctx::TX_CID, 10), Rx::new(&mut h, ctx::RX_CID, 18, 1));
    open_filter(&mut h);
    h.ack_interrupt();
    h.interrupts();
    let frame = [&MAC[..], &[2; 94]].concat();
    for n in 1..=4 {
        h.cable.arrive(&frame);
        h.run();
        let (fired, seen) = (h.interrupts().contains(Vector(0)), h.status.load16(18));
        assert_eq!((fired, seen), if n == 4 { (true, 4) } else { (false, 0) }, "frame {n}");
    }
    // Not acknowledged: the second number counts, for the block alone.
    h.cable.arrive(&frame);
    h.run();
    assert_eq!(h.status.load16(18), 4);
    h.cable.arrive(&frame);
    h.run();
    assert_eq!((h.status.load16(18), h.interrupts().is_empty()), (6, true));
    assert_eq!(rx.reap(&mut h).len(), 6);
    h.ack_interrupt();
    h.interrupts();
    // Transmit completions wait for their time.
    tx.post(&frame, 100, Orders::default());
    let before = h.now;
    tx.ring(&mut h);
    assert!(tx.done(&h) && h.interrupts().contains(Vector(0)));
    assert_eq!(h.now, before + Duration::from_micros(80));
}

#[test]
fn a_card_can_do_without_msix() {
    let mut h = Host::new(ChipConfig { msix: false, ..ChipConfig::default() });
    let (mut at, mut found) = (h.config_read(0x34) as u16 & 0xff, Vec::new());
    while at != 0 {
        let capability = h.config_read(at);
        found.push(capability as u8);
        at = (capability >> 8) as u16 & 0xff;
    }
    assert_eq!(found, [0x01, 0x05, 0x10], "power management, MSI, PCI Express");
    h.reset_handshake();
    h.start();
    h.submit(&init(64, 128));
    assert!(h.interrupts().contains(Vector(0)));
}
