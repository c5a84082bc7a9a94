//! One table for everything that can go wrong above the rings: which connection failure code a cause raises
//! (BNX2I-CNIC B.3), which exit code of `iscsiadm` it ends in (ISCSID 6), what a block request is told, and
//! what its caller may retry.
//!
//! The adapter names a [`Cause`] and acts on its [`Verdict`]; nobody else maps codes to codes. [`status`]
//! holds the completion statuses of the chip with their notice strings. Not modelled: sysfs and iSNS codes,
//! which nothing here can produce.

mod block;
mod cause;
mod exit;
#[cfg(test)]
mod messages;
pub mod status;

pub use block::{BlockError, Gate, Retry, UnitLoss};
pub use cause::{Cause, Verdict};
pub use exit::ExitCode;
