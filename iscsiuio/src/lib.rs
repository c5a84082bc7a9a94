//! The helper: address resolution and acquisition for iSCSI addresses.
pub mod frame;
pub mod iface;
pub mod log;
mod neighbours;
pub mod path;
pub mod ring;
pub mod stack;
