//! NVRAM: arbitration, and a flash that is erased (CHIP-REGISTERS 2, item 6).
//!
//! The flash reads all ones, so vital product data and images parse as absent, which drivers accept. What a host writes
//! is kept for the life of the card. Not modelled: write protection by page, the status register of the flash.

use hsi::regs as hw;

use super::mem::SparseMem;

/// Bytes of the flash.
const BYTES: u32 = 1 << 20;

/// The flash with its controller.
pub(super) struct Nvram {
    /// Inverted, so that erased words take no space.
    cells: SparseMem,
    requests: u32,
    owner: Option<u32>,
    status: u32,
}

impl Nvram {
    /// An erased flash.
    pub(super) fn new() -> Self {
        Self { cells: SparseMem::new(BYTES), requests: 0, owner: None, status: 0 }
    }

    /// A reset of the chip: requests are forgotten, the flash is not.
    pub(super) fn reset(&mut self) {
        (self.requests, self.owner, self.status) = (0, None, 0);
    }

    /// A write to `NVM_SW_ARB`: its value afterwards. The owner keeps the flash until it clears its request; then the
    /// lowest request wins.
    pub(super) fn arbitrate(&mut self, written: u32) -> u32 {
        self.requests |= written & 0xf;
        self.requests &= !(written >> 4 & 0xf);
        self.owner = self.owner.filter(|o| self.requests >> o & 1 == 1);
        if self.owner.is_none() && self.requests != 0 {
            self.owner = Some(self.requests.trailing_zeros());
        }
        self.requests << 12 | self.owner.map_or(0, |o| hw::NVM_SW_ARB_ARB_ARB0 << o)
    }

    /// A write to `NVM_COMMAND`: its value afterwards, and the word read.
    pub(super) fn command(
        &mut self,
        written: u32,
        at: u32,
        data: u32,
        may_write: bool,
    ) -> (u32, Option<u32>) {
        if written & hw::NVM_COMMAND_DOIT == 0 {
            self.status &= !(written & hw::NVM_COMMAND_DONE);
            return (self.status, None);
        }
        self.status = written & !hw::NVM_COMMAND_DOIT | hw::NVM_COMMAND_DONE;
        let at = at & (BYTES - 4);
        if written & hw::NVM_COMMAND_WR == 0 {
            return (self.status, Some(!self.cells.read(at)));
        }
        if may_write {
            self.cells.write(at, !data);
        }
        (self.status, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let mut n = Nvram::new();
        let (arb2, req2) = (hw::NVM_SW_ARB_ARB_ARB2, hw::NVM_SW_ARB_REQ2);
        assert_eq!(n.arbitrate(hw::NVM_SW_ARB_ARB_REQ_SET2), arb2 | req2);
        assert_eq!(n.arbitrate(hw::NVM_SW_ARB_ARB_REQ_SET0) & arb2, arb2, "the owner stays");
        assert_eq!(n.arbitrate(hw::NVM_SW_ARB_ARB_REQ_CLR2), hw::NVM_SW_ARB_ARB_ARB0 | hw::NVM_SW_ARB_REQ0);
        n.reset();
        assert_eq!(n.arbitrate(0), 0);
    }

    #[test]
    fn erased_until_written() {
        let mut n = Nvram::new();
        let read = hw::NVM_COMMAND_DOIT | hw::NVM_COMMAND_FIRST;
        let (status, word) = n.command(read, 0x300, 0, false);
        assert_eq!((status & hw::NVM_COMMAND_DONE, word), (hw::NVM_COMMAND_DONE, Some(!0)));
        assert_eq!(n.command(hw::NVM_COMMAND_DONE, 0, 0, false).0 & hw::NVM_COMMAND_DONE, 0);
        let write = hw::NVM_COMMAND_DOIT | hw::NVM_COMMAND_WR;
        n.command(write, 0x300, 7, false);
        assert_eq!(n.command(read, 0x300, 0, true).1, Some(!0), "not enabled");
        n.command(write, 0x300, 7, true);
        n.reset();
        assert_eq!(n.command(read, 0x300, 0, true).1, Some(7));
        assert_eq!(n.command(read, u32::MAX, 0, true).1, Some(!0));
    }
}
