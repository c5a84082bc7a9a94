//! Registers of the 5709 that its drivers touch on the iSCSI path (CHIP-REGISTERS 1 to 3).
//!
//! Names are those of the HSI tables without their `BNX2_` prefix. Offsets below 0x100 mirror configuration
//! space, below 0x10000 are direct, above are reached through [`PCICFG_REG_WINDOW_ADDRESS`] and
//! [`PCICFG_REG_WINDOW`]; BAR0 offsets from 0x10000 on are mailboxes instead (see
//! [`crate::bcm5709::doorbell`]).

pub(crate) mod context;
pub(crate) mod cpu;
pub(crate) mod emac;
pub(crate) mod hc;
pub(crate) mod misc;
pub(crate) mod mq;
pub(crate) mod nvm;
pub(crate) mod pci;
pub(crate) mod rss;

pub use context::*;
pub use cpu::*;
pub use emac::*;
pub use hc::*;
pub use misc::*;
pub use mq::*;
pub use nvm::*;
pub use pci::*;
pub use rss::*;
