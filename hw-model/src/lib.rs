//! The card: chip front ends, the offload engine, and the TCP engines below it.
//!
//! [`bcm5709`] is a PCI function: config space, registers, context memory, status blocks, path groups, and
//! the kernel work and completion queues. It translates them into calls of the chip-independent offload
//! [`engine`], which owns connections, tasks and data placement, and which sends and receives through a
//! [`tcp::TcpEngine`]; the frames of its Ethernet rings go over a [`wire`]. Nothing acts on the card except
//! through config and register access, rings and the wire; how it misbehaves on purpose is [`fault`].

pub mod bcm5709;
pub mod config;
pub mod engine;
mod ether;
pub mod fault;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod wire;
