//! Accesses of a host: BAR 0, config space and mailboxes, and what a write does besides being stored.
//!
//! BAR 0 is three address spaces in one: a mirror of config space below 0x100, registers below 0x10000, and
//! mailboxes with their doorbell pages above. Registers beyond 0x10000 are reached through the window only.

use bus::pci::DevCx;
use hsi::bcm5709::{ctx, doorbell, regs as hw};

use super::hc::VECTORS;
use super::krnlq::Description;
use super::regs::{Effect, Space};
use super::{Bcm5709, mq_config2, shmem};
use crate::tcp::TcpEngine;

impl<T: TcpEngine> Bcm5709<T> {
    pub(super) fn read32(&mut self, cx: &DevCx<'_>, at: u64) -> u32 {
        match at {
            0..0x100 => match cx.host.config(at as u16) {
                Some(v) => v,
                None => self.pci_read(at as u16),
            },
            0x100..0x1_0000 => self.regs.read(Space::Grc, at as u32),
            _ => 0,
        }
    }

    /// Reads a private register of configuration space, or what stands for one that the bus does not show.
    pub(super) fn pci_read(&mut self, at: u16) -> u32 {
        let l = &self.layout;
        let at = u32::from(at);
        match at {
            0x00 => u32::from(l.device) << 16 | u32::from(l.vendor),
            0x08 => l.class << 8 | u32::from(l.revision),
            0x2c => u32::from(l.subsystem.1) << 16 | u32::from(l.subsystem.0),
            hw::PCICFG_REG_WINDOW => {
                let window = self.window();
                self.regs.read(Space::Grc, window)
            }
            hw::PCICFG_MISC_STATUS if self.hc.intx() => 0,
            hw::PCICFG_INT_ACK_CMD => self.hc.last_ack().into(),
            _ => self.regs.read(Space::PciCfg, at),
        }
    }

    /// The GRC address that the window shows.
    fn window(&mut self) -> u32 {
        self.regs.read(Space::PciCfg, hw::PCICFG_REG_WINDOW_ADDRESS) & hw::PCICFG_REG_WINDOW_ADDRESS_VAL
    }

    pub(super) fn write32(&mut self, cx: &mut DevCx<'_>, at: u64, value: u32) {
        match at {
            0..0x100 => self.register_write(cx, Space::PciCfg, at as u32, value),
            0x100..0x1_0000 => self.register_write(cx, Space::Grc, at as u32, value),
            _ => self.mailbox(at, value as u16),
        }
    }

    pub(super) fn register_write(&mut self, cx: &mut DevCx<'_>, space: Space, at: u32, value: u32) {
        match self.regs.write(space, at, value) {
            Effect::None | Effect::Mirror | Effect::Level => {}
            Effect::WindowData => {
                let window = self.window();
                self.register_write(cx, Space::Grc, window, value);
            }
            Effect::InterruptAck => self.counters.interrupts += u64::from(self.hc.ack(cx, value)),
            Effect::AttentionSet => self.hc.attention_ack(value, true),
            Effect::AttentionClear => self.hc.attention_ack(value, false),
            Effect::Reset => {
                if value & (hw::MISC_COMMAND_SW_RESET | hw::MISC_COMMAND_POR_RESET) != 0 {
                    self.soft_reset(cx);
                }
            }
            Effect::EnableBlocks => self.set_enabled(value, true),
            Effect::DisableBlocks => self.set_enabled(value, false),
            Effect::Context => self.context_access(cx, value),
            Effect::ContextInit => {
                if value & hw::CTX_COMMAND_MEM_INIT != 0 {
                    self.context.clear();
                    self.rings.contexts_cleared();
                }
            }
            Effect::HostPageTable => self.host_page_access(value),
            Effect::Mdio => {
                let comm = self.phy.transaction(value, cx.now);
                self.regs.set(hw::EMAC_MDIO_COMM, comm);
                let done = self.regs.get(hw::EMAC_STATUS) | hw::EMAC_STATUS_MI_COMPLETE;
                self.regs.set(hw::EMAC_STATUS, done);
                self.follow_link(cx.now);
            }
            Effect::Rss => {
                let data = self.regs.get(hw::RLUP_RSS_DATA);
                if let Some(word) = self.rings.rss_command(value, data) {
                    self.regs.set(hw::RLUP_RSS_DATA, word);
                }
            }
            Effect::NvramCommand => self.nvram_command(value),
            Effect::NvramArbitration => {
                let state = self.nvram.arbitrate(value);
                self.regs.set(hw::NVM_SW_ARB, state);
            }
            Effect::StatusBlock => {
                let high = u64::from(self.regs.get(hw::HC_STATUS_ADDR_H));
                self.hc.set_base(cx, high << 32 | u64::from(self.regs.get(hw::HC_STATUS_ADDR_L)));
            }
            Effect::StatisticsBlock => self.rings.statistics_period(&self.regs, cx.now),
            Effect::HcModes => {
                self.hc.set_modes(value);
                self.rings.statistics_period(&self.regs, cx.now);
            }
            Effect::Thresholds => self.hc.set_thresholds(|at| self.regs.get(at), cx.now),
            Effect::CoalesceNow => {
                self.hc.start();
                let loud = value & hw::HC_COMMAND_COAL_NOW != 0;
                if loud || value & hw::HC_COMMAND_COAL_NOW_WO_INT != 0 {
                    self.hc.coalesce_now(0, loud);
                }
                self.rings.statistics_command(value);
            }
            Effect::CoalesceVectors => {
                self.hc.start();
                let (loud, quiet) = (
                    (value & hw::HC_COALESCE_NOW_COAL_NOW) >> 1,
                    (value & hw::HC_COALESCE_NOW_COAL_NOW_WO_INT) >> 11,
                );
                for n in (0..VECTORS).filter(|n| (loud | quiet) >> n & 1 == 1) {
                    self.hc.coalesce_now(n, loud >> n & 1 == 1);
                }
            }
            Effect::KwqGo => self.kwq_go(cx, value),
            Effect::KcqGo => self.kcq_go(cx, value),
            Effect::CpStart => self.regs.start_cp(),
            Effect::DriverMailbox => self.regs.set_shmem(hsi::bcm5709::shmem::FW_MB, shmem::answer(value)),
        }
    }

    fn set_enabled(&mut self, bits: u32, on: bool) {
        let before = self.regs.get(hw::MISC_ENABLE_STATUS_BITS);
        self.regs.set(hw::MISC_ENABLE_STATUS_BITS, if on { before | bits } else { before & !bits });
    }

    fn nvram_command(&mut self, command: u32) {
        let (at, data) = (self.regs.get(hw::NVM_ADDR), self.regs.get(hw::NVM_WRITE));
        let may_write = self.regs.get(hw::NVM_ACCESS_ENABLE) & hw::NVM_ACCESS_ENABLE_WR_EN != 0;
        let (status, word) = self.nvram.command(command, at, data, may_write);
        self.regs.set(hw::NVM_COMMAND, status);
        if let Some(word) = word {
            self.regs.set(hw::NVM_READ, word);
        }
    }

    fn context_access(&mut self, cx: &DevCx<'_>, control: u32) {
        let at = control & hw::CTX_CTX_CTRL_CTX_ADDR;
        if control & hw::CTX_CTX_CTRL_WRITE_REQ != 0 {
            self.context.write(at, self.regs.get(hw::CTX_CTX_DATA));
            self.rings.context_written(at, &self.context, &mut self.hc, cx.host.grant());
        }
        if control & hw::CTX_CTX_CTRL_READ_REQ != 0 {
            self.regs.set(hw::CTX_CTX_DATA, self.context.read(at));
        }
    }

    /// The page table behind context memory is kept, and not used: contexts stay on the chip.
    fn host_page_access(&mut self, control: u32) {
        let entry = &mut self.host_pages[(control & hw::CTX_HOST_PAGE_TBL_CTRL_PAGE_TBL_ADDR) as usize];
        if control & hw::CTX_HOST_PAGE_TBL_CTRL_WRITE_REQ != 0 {
            *entry = (self.regs.get(hw::CTX_HOST_PAGE_TBL_DATA0), self.regs.get(hw::CTX_HOST_PAGE_TBL_DATA1));
        }
        if control & hw::CTX_HOST_PAGE_TBL_CTRL_READ_REQ != 0 {
            self.regs.set(hw::CTX_HOST_PAGE_TBL_DATA0, entry.0);
            self.regs.set(hw::CTX_HOST_PAGE_TBL_DATA1, entry.1);
        }
    }

    fn describe(&mut self, cid: u32) -> Option<Description> {
        let base = ctx::address(cid);
        let described = Description::of(|offset| self.context.read(base + offset));
        if described.is_err() {
            self.counters.bad_rings += 1;
        }
        described.ok()
    }

    fn kwq_go(&mut self, cx: &DevCx<'_>, go: u32) {
        if go == 0 {
            self.kwq.stop();
            self.kwqes.clear();
            self.pair = None;
        } else if let Some(d) = self.describe(ctx::KWQ_CID) {
            self.kwq.go(d, cx.host.grant());
            self.hc.restart_indexes(self.kwq.consumer(), self.kcq.producer());
        }
    }

    fn kcq_go(&mut self, cx: &DevCx<'_>, go: u32) {
        if go == 0 {
            self.kcq.stop();
            self.connections.forget_cq_events();
        } else if let Some(d) = self.describe(ctx::KCQ_CID) {
            self.hc.set_kernel_block(d.block);
            self.kcq.go(d, cx.host.grant());
            self.hc.restart_indexes(self.kwq.consumer(), self.kcq.producer());
        }
    }

    /// A mailbox or doorbell page: finds the context and the word in it.
    pub(super) fn mailbox(&mut self, at: u64, value: u16) {
        let Some((cid, offset)) = doorbell::decode(at as u32, mq_config2(self.config.doorbells)) else {
            self.counters.stray_doorbells += 1;
            return;
        };
        let outcome = match (cid, offset) {
            (ctx::KWQ_CID, ctx::L5_KRNLQ_HOST_QIDX) => self.kwq.ring(value),
            (ctx::KCQ_CID, ctx::L5_KRNLQ_HOST_QIDX) => self.kcq.ack(value),
            _ if self.rings.ring(cid, offset, value) => Ok(()),
            _ => {
                match (self.connections.by_cid(cid).map(|c| c.id), offset) {
                    (Some(id), doorbell::CNIC_SEND_DOORBELL) => self.engine.ring_sq(id, value),
                    (Some(id), doorbell::CNIC_RECV_DOORBELL) => self.engine.ring_rq(id, value),
                    _ => self.counters.stray_doorbells += 1,
                }
                Ok(())
            }
        };
        if outcome.is_err() {
            self.counters.bad_doorbells += 1;
        }
    }
}
