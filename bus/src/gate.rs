//! What stands between a card and its host on every bus: the switches of config space, the epoch, and whether
//! the card is there at all. Each back end owns one and asks it before it lets anything through.

use crate::config::ConfigSpace;
use crate::pci::{Bar, DmaFault, Epoch, FunctionLayout, Grant, Width};

pub(crate) struct Gate {
    pub(crate) config: ConfigSpace,
    pub(crate) epoch: Epoch,
    pub(crate) removed: bool,
}

impl Gate {
    pub(crate) fn new(layout: &FunctionLayout) -> Self {
        Self { config: ConfigSpace::new(layout), epoch: Epoch(1), removed: false }
    }

    /// Whether the card may act on the host with this grant.
    pub(crate) fn permit(&self, grant: Grant) -> Result<(), DmaFault> {
        if self.removed {
            Err(DmaFault::Removed)
        } else if grant.0 != self.epoch {
            Err(DmaFault::Revoked)
        } else if !self.config.masters_bus() {
            Err(DmaFault::NoBusMaster)
        } else {
            Ok(())
        }
    }

    /// A config dword that the bus owns.
    pub(crate) fn owned(&self, at: u16) -> Option<u32> {
        self.config.owns(at).then(|| self.config.read(at & !3))
    }

    /// Ends the epoch.
    pub(crate) fn revoke(&mut self) -> Epoch {
        self.config.clear_interrupts();
        self.epoch.0 += 1;
        self.epoch
    }

    /// Whether an aligned access is inside its BAR.
    pub(crate) fn inside(&self, bar: Bar, at: u64, width: Width) -> bool {
        let size = self.config.bar_size(bar);
        at.is_multiple_of(width.bytes()) && at.checked_add(width.bytes()).is_some_and(|end| end <= size)
    }
}
