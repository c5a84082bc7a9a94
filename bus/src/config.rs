//! The part of config space that the bus owns: header, BARs, power management, MSI, MSI-X and PCI Express
//! capabilities, and with them the switches for memory decode, bus mastering and interrupts.
//!
//! A card never sees these registers. Dwords that no capability covers are the card's. Not modelled:
//! expansion ROM, power states other than D0 and D3hot, PCIe link registers.

use crate::pci::{Bar, FunctionLayout, Vector, VectorSet};

/// Offset of the command register in configuration space (PCI Local Bus 3.0, 6.2.2).
pub const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;

/// Command register, bit 1: the function decodes memory accesses.
pub const COMMAND_MEMORY: u32 = 1 << 1;
/// Command register, bit 2: the function may master the bus.
pub const COMMAND_BUS_MASTER: u32 = 1 << 2;
/// Command register, bit 10: INTx is off.
pub const COMMAND_INTX_DISABLE: u32 = 1 << 10;
/// Status register (upper half of the command dword), bit 3: INTx is asserted.
pub const STATUS_INTERRUPT: u32 = 1 << 19;
/// MSI control (upper half of the capability's first dword), bit 0: enabled.
pub const MSI_ENABLE: u32 = 1 << 16;
/// MSI-X control (upper half of the capability's first dword), bit 15: enabled.
pub const MSIX_ENABLE: u32 = 1 << 31;
/// MSI-X control, bit 14: all vectors masked.
pub const MSIX_FUNCTION_MASK: u32 = 1 << 30;
/// PCI Express device control, bit 15: writing 1 starts a function level reset.
pub const PCIE_INITIATE_FLR: u32 = 1 << 15;
/// Offset of device control and status from the PCI Express capability.
pub const PCIE_DEVICE_CONTROL: u16 = 8;

const PM_D3HOT: u32 = 3;
const MSIX_ENTRY: u64 = 16;
const MSIX_ENTRY_CONTROL: u64 = 12;

/// What a config write asks of the slot besides being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    Flr,
    /// Interrupt switches changed: pending vectors may be deliverable now.
    Interrupts,
}

pub(crate) struct ConfigSpace {
    layout: FunctionLayout,
    dword: [u32; 64],
    writable: [u32; 64],
    owned: [bool; 64],
    table: Vec<[u32; 4]>,
    pending: VectorSet,
    intx: bool,
}

impl ConfigSpace {
    pub(crate) fn new(layout: &FunctionLayout) -> Self {
        let mut c = Self {
            layout: layout.clone(),
            dword: [0; 64],
            writable: [0; 64],
            owned: [false; 64],
            table: Vec::new(),
            pending: VectorSet::default(),
            intx: false,
        };
        c.power_on();
        c
    }

    /// The state after power-on.
    pub(crate) fn power_on(&mut self) {
        let l = self.layout.clone();
        (self.dword, self.writable, self.owned) = ([0; 64], [0; 64], [false; 64]);
        self.own(0x00, u32::from(l.device) << 16 | u32::from(l.vendor), 0);
        self.own(COMMAND, 1 << 20, COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE);
        self.own(0x08, l.class << 8 | u32::from(l.revision), 0);
        self.own(0x0c, 0, 0xff);
        for i in 0..6 {
            self.own(BAR0 + 4 * i, 0, 0);
        }
        for b in &l.bars {
            let at = BAR0 + 4 * u16::from(b.bar.0);
            let mask = !(b.size - 1);
            self.own(at, if b.wide { 4 } else { 0 }, mask as u32);
            if b.wide {
                self.own(at + 4, 0, (mask >> 32) as u32);
            }
        }
        self.own(0x28, 0, 0);
        self.own(0x2c, u32::from(l.subsystem.1) << 16 | u32::from(l.subsystem.0), 0);
        self.own(0x30, 0, 0);
        self.own(CAPABILITIES, u32::from(l.pm), 0);
        self.own(0x38, 0, 0);
        self.own(0x3c, 1 << 8, 0xff);
        let (pm, msi, msix, pcie) =
            (u16::from(l.pm), u16::from(l.msi), u16::from(l.msix.capability), u16::from(l.pcie));
        self.own(pm, 0x0003_0001 | u32::from(msi) << 8, 0);
        self.own(pm + 4, 0, 3);
        let after_msi = if l.msix.vectors == 0 { pcie } else { msix };
        self.own(msi, 0x0080_0005 | u32::from(after_msi) << 8, MSI_ENABLE);
        self.own(msi + 4, 0, !3);
        self.own(msi + 8, 0, !0);
        self.own(msi + 12, 0, 0xffff);
        if let Some(last) = l.msix.vectors.checked_sub(1) {
            let size = u32::from(last) << 16;
            self.own(msix, 0x11 | u32::from(pcie) << 8 | size, MSIX_ENABLE | MSIX_FUNCTION_MASK);
            self.own(msix + 4, l.msix.table | u32::from(l.msix.bar.0), 0);
            self.own(msix + 8, l.msix.pba | u32::from(l.msix.bar.0), 0);
        }
        self.own(pcie, 0x0002_0010, 0);
        self.own(pcie + 4, 1 << 28 | 0x8000, 0);
        self.own(pcie + PCIE_DEVICE_CONTROL, 0, 0x7fff);
        self.table = vec![[0, 0, 0, 1]; usize::from(l.msix.vectors)];
        (self.pending, self.intx) = (VectorSet::default(), false);
    }

    pub(crate) fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn own(&mut self, at: u16, value: u32, writable: u32) {
        let i = usize::from(at / 4);
        (self.dword[i], self.writable[i], self.owned[i]) = (value, writable, true);
    }

    /// Whether the bus answers for the dword at `at`.
    pub(crate) fn owns(&self, at: u16) -> bool {
        self.owned.get(usize::from(at / 4)).copied().unwrap_or(false)
    }

    pub(crate) fn read(&self, at: u16) -> u32 {
        let v = self.dword[usize::from(at / 4)];
        if at == COMMAND && self.intx { v | STATUS_INTERRUPT } else { v }
    }

    pub(crate) fn write(&mut self, at: u16, value: u32, mask: u32) -> Effect {
        let i = usize::from(at / 4);
        let w = self.writable[i] & mask;
        self.dword[i] = self.dword[i] & !w | value & w;
        let at = at & !3;
        if at == u16::from(self.layout.pcie) + PCIE_DEVICE_CONTROL && value & mask & PCIE_INITIATE_FLR != 0 {
            return Effect::Flr;
        }
        let interrupts = [COMMAND, u16::from(self.layout.msi), u16::from(self.layout.msix.capability)];
        if interrupts.contains(&at) { Effect::Interrupts } else { Effect::None }
    }

    fn in_d0(&self) -> bool {
        self.dword[usize::from(self.layout.pm / 4 + 1)] & 3 != PM_D3HOT
    }

    /// Whether the function answers memory accesses.
    pub(crate) fn decodes_memory(&self) -> bool {
        self.dword[1] & COMMAND_MEMORY != 0 && self.in_d0()
    }

    /// Whether the function may access the host.
    pub(crate) fn masters_bus(&self) -> bool {
        self.dword[1] & COMMAND_BUS_MASTER != 0 && self.in_d0()
    }

    /// Size of a BAR in bytes, 0 if there is none.
    pub(crate) fn bar_size(&self, bar: Bar) -> u64 {
        self.layout.bars.iter().find(|b| b.bar == bar).map_or(0, |b| b.size)
    }

    /// Whether MSI-X is on.
    pub(crate) fn msix_enabled(&self) -> bool {
        self.dword[usize::from(self.layout.msix.capability / 4)] & MSIX_ENABLE != 0
    }

    /// Whether MSI is on.
    pub(crate) fn msi_enabled(&self) -> bool {
        self.dword[usize::from(self.layout.msi / 4)] & MSI_ENABLE != 0
    }

    fn vector_masked(&self, v: Vector) -> bool {
        self.dword[usize::from(self.layout.msix.capability / 4)] & MSIX_FUNCTION_MASK != 0
            || self.table[usize::from(v.0)][3] & 1 == 1
    }

    /// A message-signalled interrupt: which vector to deliver now, if any. A masked MSI-X vector is
    /// remembered.
    pub(crate) fn signal(&mut self, v: Vector) -> Option<Vector> {
        if !self.masters_bus() {
            return None;
        }
        if self.msix_enabled() {
            if u16::from(v.0) >= self.layout.msix.vectors {
                return None;
            }
            if self.vector_masked(v) {
                self.pending.insert(v);
                return None;
            }
            return Some(v);
        }
        self.msi_enabled().then_some(Vector(0))
    }

    /// Takes the pending vectors that are no longer masked.
    pub(crate) fn take_unmasked(&mut self) -> VectorSet {
        let mut out = VectorSet::default();
        if self.msix_enabled() && self.masters_bus() {
            for i in 0..self.table.len() as u8 {
                let v = Vector(i);
                if self.pending.contains(v) && !self.vector_masked(v) {
                    out.insert(v);
                }
            }
            self.pending.0 &= !out.0;
        }
        out
    }

    /// Sets the INTx level that the card drives; returns whether it is now visible to the host.
    pub(crate) fn set_intx(&mut self, asserted: bool) -> bool {
        self.intx = asserted;
        self.intx_visible()
    }

    /// Whether INTx is asserted and enabled.
    pub(crate) fn intx_visible(&self) -> bool {
        self.intx && self.dword[1] & COMMAND_INTX_DISABLE == 0 && !self.msi_enabled() && !self.msix_enabled()
    }

    /// Forgets pending interrupts: the function was reset.
    pub(crate) fn clear_interrupts(&mut self) {
        (self.pending, self.intx) = (VectorSet::default(), false);
    }

    fn msix_slot(&self, bar: Bar, at: u64) -> Option<MsixSlot> {
        let m = self.layout.msix;
        let (table, pba) = (u64::from(m.table), u64::from(m.pba));
        if bar != m.bar {
            None
        } else if (table..table + MSIX_ENTRY * u64::from(m.vectors)).contains(&at) {
            let i = (at - table) as usize;
            Some(MsixSlot::Entry(i / MSIX_ENTRY as usize, i % MSIX_ENTRY as usize / 4))
        } else if (pba..pba + 8).contains(&at) {
            Some(MsixSlot::Pending((at - pba) as u32 / 4))
        } else {
            None
        }
    }

    /// Answers a dword read of the MSI-X table or pending bits, if `at` is there.
    pub(crate) fn msix_read(&self, bar: Bar, at: u64) -> Option<u32> {
        Some(match self.msix_slot(bar, at)? {
            MsixSlot::Entry(v, word) => self.table[v][word],
            MsixSlot::Pending(half) => (self.pending.0 >> (32 * half)) as u32,
        })
    }

    /// Handles a dword write of the MSI-X table, if `at` is there. Pending bits are read-only.
    pub(crate) fn msix_write(&mut self, bar: Bar, at: u64, value: u32) -> bool {
        match self.msix_slot(bar, at) {
            Some(MsixSlot::Entry(v, word)) => {
                self.table[v][word] = if word as u64 * 4 == MSIX_ENTRY_CONTROL { value & 1 } else { value };
                true
            }
            Some(MsixSlot::Pending(_)) => true,
            None => false,
        }
    }
}

enum MsixSlot {
    Entry(usize, usize),
    Pending(u32),
}

/// A function for tests: a network card with every capability.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn sample() -> FunctionLayout {
    use crate::pci::{BarLayout, MsixLayout};

    FunctionLayout {
        vendor: 0x14e4,
        device: 0x1639,
        revision: 0x20,
        class: 0x02_0000,
        subsystem: (0x14e4, 0x1639),
        bars: vec![BarLayout { bar: Bar(0), size: 32 << 20, wide: true }],
        pm: 0x48,
        msi: 0x58,
        msix: MsixLayout { capability: 0xa0, vectors: 9, bar: Bar(0), table: 0xc000, pba: 0xe000 },
        pcie: 0xac,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::sample as layout;
    use super::*;

    fn enabled() -> ConfigSpace {
        let mut c = ConfigSpace::new(&layout());
        c.write(COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER, !0);
        c
    }

    #[test]
    fn a_wide_bar_reports_its_size_and_the_capability_list_ends() {
        let mut c = ConfigSpace::new(&layout());
        c.write(0x10, !0, !0);
        c.write(0x14, !0, !0);
        let size = !(u64::from(c.read(0x14)) << 32 | u64::from(c.read(0x10) & !0xf)) + 1;
        assert_eq!((size, c.read(0x10) & 0xf), (32 << 20, 4));
        let mut seen = Vec::new();
        let mut at = c.read(CAPABILITIES) as u16;
        while at != 0 {
            seen.push(c.read(at) & 0xff);
            at = (c.read(at) >> 8 & 0xff) as u16;
        }
        assert_eq!(seen, [0x01, 0x05, 0x11, 0x10]);
        assert!(c.owns(0x58) && !c.owns(0x68) && !c.owns(0x50));
    }

    #[test]
    fn d3hot_stops_decode_and_bus_mastering() {
        let mut c = enabled();
        assert!(c.decodes_memory() && c.masters_bus());
        c.write(0x4c, 3, !0);
        assert!(!c.decodes_memory() && !c.masters_bus());
    }

    #[test]
    fn a_masked_vector_stays_pending_until_it_is_unmasked() {
        let mut c = enabled();
        c.write(0xa0, MSIX_ENABLE, !0);
        assert_eq!(c.signal(Vector(3)), None);
        assert_eq!(c.msix_read(Bar(0), 0xe000), Some(8));
        assert!(c.take_unmasked().is_empty());
        assert!(c.msix_write(Bar(0), 0xc000 + 3 * 16 + 12, 0));
        assert!(c.take_unmasked().contains(Vector(3)));
        assert_eq!(c.msix_read(Bar(0), 0xe000), Some(0));
        assert_eq!(c.signal(Vector(3)), Some(Vector(3)));
        assert_eq!(c.signal(Vector(9)), None, "beyond the table");
        c.write(0xa0, MSIX_ENABLE | MSIX_FUNCTION_MASK, !0);
        assert_eq!(c.signal(Vector(3)), None);
    }

    #[test]
    fn intx_msi_and_bus_master_switches() {
        let mut c = enabled();
        assert!(c.set_intx(true));
        assert_ne!(c.read(COMMAND) & STATUS_INTERRUPT, 0);
        c.write(COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE, !0);
        assert!(!c.intx_visible());
        assert_eq!(c.signal(Vector(0)), None, "MSI is off");
        c.write(0x58, MSI_ENABLE, !0);
        assert_eq!(c.signal(Vector(4)), Some(Vector(0)));
        c.write(COMMAND, COMMAND_MEMORY, !0);
        assert_eq!(c.signal(Vector(0)), None, "a message is a DMA write");
        assert_eq!(c.write(0xac + PCIE_DEVICE_CONTROL, PCIE_INITIATE_FLR, !0), Effect::Flr);
    }
}
