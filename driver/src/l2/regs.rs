//! Register access: direct, through the GRC window, and into context memory.

use bus::actor::Cx;
use bus::pci::{Bar, BusLost, Platform};
use hsi::bcm5709::regs as r;

/// BAR0, the only one that a 5709 has.
pub(crate) const BAR0: Bar = Bar(0);

/// Registers of one function, for the length of a step.
pub(crate) struct Regs<'a, 'c, P: Platform> {
    p: &'a mut P,
    cx: &'a mut Cx<'c>,
}

impl<'a, 'c, P: Platform> Regs<'a, 'c, P> {
    pub(crate) fn new(p: &'a mut P, cx: &'a mut Cx<'c>) -> Self {
        Self { p, cx }
    }

    pub(crate) fn platform(&mut self) -> &mut P {
        self.p
    }

    /// Reads a register below 64 KiB. No register of the chip reads all ones, so that means an absent card.
    pub(crate) fn read(&mut self, at: u32) -> Result<u32, BusLost> {
        match self.p.read32(self.cx, BAR0, u64::from(at))? {
            u32::MAX => Err(BusLost),
            v => Ok(v),
        }
    }

    pub(crate) fn write(&mut self, at: u32, value: u32) {
        self.p.write32(self.cx, BAR0, u64::from(at), value);
    }

    /// Reads GRC space through the window.
    pub(crate) fn window_read(&mut self, at: u32) -> Result<u32, BusLost> {
        self.write(r::PCICFG_REG_WINDOW_ADDRESS, at);
        self.read(r::PCICFG_REG_WINDOW)
    }

    /// Writes GRC space through the window.
    pub(crate) fn window_write(&mut self, at: u32, value: u32) {
        self.write(r::PCICFG_REG_WINDOW_ADDRESS, at);
        self.write(r::PCICFG_REG_WINDOW, value);
    }

    /// Writes a word of context memory at a context address.
    pub(crate) fn context_write(&mut self, at: u32, value: u32) {
        self.write(r::CTX_CTX_DATA, value);
        self.write(r::CTX_CTX_CTRL, at | r::CTX_CTX_CTRL_WRITE_REQ);
    }

    /// Reads until `bit` is clear, at most `polls` times.
    pub(crate) fn wait_clear(&mut self, at: u32, bit: u32, polls: usize) -> Result<(), BusLost> {
        for _ in 0..polls {
            if self.read(at)? & bit == 0 {
                return Ok(());
            }
        }
        Err(BusLost)
    }
}
