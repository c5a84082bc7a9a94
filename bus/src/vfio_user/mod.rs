//! vfio-user: the slot whose two sides are two processes.
//!
//! The protocol is VFIO spoken over a local socket (QEMU `docs/interop/vfio-user.rst`, libvfio-user): the
//! client is a virtual machine or a driver, the server holds the card. Ours is sans-IO: sessions take bytes
//! and descriptors and leave bytes and descriptors ([`wire`]); only while a session waits for an answer does
//! it drive its [`link`], and never without a deadline.
//!
//! The [`server`] drives a [`crate::pci::PciFunction`] for QEMU or for us; the [`client`] is a
//! [`crate::pci::Platform`] for a driver in another process. Mapped doorbells and the state page
//! ([`doorbell`]) are offered to a client of ours alone.
//!
//! Who owns a server accepts one connection at a time and then, until [`server::Server::is_broken`] or the
//! socket closes: moves bytes ([`link::SocketLink::exchange`] with [`server::Server::queues`]), serves them
//! ([`server::Server::pump`]), steps ([`server::Server::step`]), and when nothing was done parks
//! ([`server::Server::park`]) before it sleeps on the socket, [`server::Server::kicked`] and the step's
//! deadline. Afterwards it detaches, and accepts the next one.

pub mod client;
mod dma;
pub mod doorbell;
pub mod errno;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "what tests are made of; clippy does not see that behind the feature")]
pub mod fuzzing;
mod irq;
pub mod link;
pub mod message;
pub mod server;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code))]
#[allow(clippy::unwrap_used, reason = "as above")]
mod testing;
pub mod version;
pub mod wire;
