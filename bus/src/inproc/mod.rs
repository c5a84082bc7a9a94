//! The in-process bus: a slot that joins a card and a driver in one thread.
//!
//! Register and doorbell writes go through the slot's posted queue and reach the card when it is stepped, or
//! before the next read. A virtual world may hold both directions for a bounded time ([`Timing`]), which is
//! where drivers have their bugs. A *strict* slot also checks every DMA access against what is lent, in that
//! direction and in this epoch, and keeps what it refused as [`Violation`]s. Host memory is heap; a bus
//! address names its allocation in the upper half, so that translation is an index and no two allocations are
//! adjacent.

mod host;
mod platform;
mod slot;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::pci::DmaFault;

pub use platform::{CardActor, InProcess};
pub use slot::Slot;

/// Posted register writes that may wait for the card. One more makes the bus deliver them all.
pub const POSTED_LIMIT: usize = 4096;
/// Violations kept with their details; more are only counted.
pub const VIOLATIONS_KEPT: usize = 64;

/// How long the bus may hold posted writes. Zero is prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Longest delay of a register or doorbell write.
    pub mmio: Duration,
    /// Longest delay of a DMA write or an interrupt.
    pub dma: Duration,
}

/// What kind of slot to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotConfig {
    /// Check every access of the card against what is lent.
    pub strict: bool,
    /// How long posted writes may be held.
    pub timing: Timing,
    /// Limit of DMA memory, in bytes.
    pub dma_limit: usize,
    /// Whether each allocation is an anonymous file, for a helper in another process, instead of heap. It
    /// costs a descriptor each.
    pub shareable: bool,
}

impl Default for SlotConfig {
    /// Prompt, not strict, 1 GiB of heap.
    fn default() -> Self {
        Self { strict: false, timing: Timing::default(), dma_limit: 1 << 30, shareable: false }
    }
}

/// Something that may never happen on a strict bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The card's access was refused.
    Dma(DmaFault),
    /// The driver freed memory at this address while it was lent.
    FreedWhileLent(u64),
    /// The driver reclaimed a loan of this address with a revocation that is older than the loan.
    StaleProof(u64),
    /// The card was reset and did not revoke the epoch by itself.
    ResetWithoutRevoke,
}

/// What is out, and what went wrong: the end-of-run audit of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// DMA allocations not yet freed.
    pub buffers: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Loans not yet reclaimed.
    pub loans: usize,
    /// Doorbell writes dropped because they were of an earlier epoch.
    pub stale_doorbells: u64,
    /// Accesses of the card that were refused.
    pub refused: u64,
    /// Violations seen (strict bus).
    pub violations: u64,
}
