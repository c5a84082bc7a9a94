//! The slot: a PCI function as seen from both sides, and what actors are made of.
//!
//! A card implements [`pci::PciFunction`] and reaches host memory only through [`pci::HostPort`]; a driver
//! is generic over [`pci::Platform`]. Between them stands a bus back end: [`inproc`] joins both in one thread
//! (virtual and inline runs), [`vfio_user`] joins processes (QEMU, or our driver apart from the card). The
//! rest of the crate is what every running part shares: time as a parameter ([`time`]), the [`actor`]
//! contract, wake-ups and bounded [`port`]s, named random [`streams`], and the one event model ([`trace`]).
//!
//! Not modelled: PCI enumeration and bridges (a slot holds one function), PCIe completion timeouts, AER.
//!
//! `unsafe` is lifted here for [`mem`] alone: DMA memory is shared with a card that may live elsewhere, so it
//! is reached through raw volatile and atomic accesses, never through references.
#![allow(unsafe_code)]

pub mod actor;
pub mod address;
pub mod config;
mod gate;
pub mod inproc;
pub mod mem;
pub mod pci;
pub mod port;
pub mod streams;
pub mod sync;
pub mod time;
pub mod trace;
pub mod uio;
pub mod vfio_user;
pub mod wake;

pub use actor::{Actor, ActorId, Budget, Cx, Progress};
pub use time::Instant;
