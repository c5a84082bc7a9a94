//! The in-memory network: cards on one side, far machines that listen on the other, byte streams between
//! them.
//!
//! It stands for a loss-free TCP and the wire below it in virtual and inline worlds. A [`MemoryNet`] owns all
//! state; [`MemoryTcp`] is a card's [`TcpEngine`](super::TcpEngine) on it, [`MemoryPeer`] what a target actor
//! listens, accepts, receives and sends with. Bytes are copied once into a stream's ring and once out of it.
//! Both ends are woken when there is something to do, and told for which stream, so the cost of a turn is
//! proportional to what happened. Everything is in order of calls: the same calls give the same history.
//!
//! A network or a peer that is silent holds everything back (SYN, bytes, FIN, RST) until it is heard again:
//! nothing is lost, as retransmission would see to. Not modelled: segments, delay, the retransmission limit.

mod card;
mod net;
mod peer;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bus::wake::Wake;
use thiserror::Error;

use net::Net;

pub use card::MemoryTcp;
pub use peer::{MemoryPeer, PeerEvent, PeerReceived};

/// Bytes that each direction of a stream holds by default; a sender that is this far ahead has to wait.
pub const WINDOW: usize = 256 * 1024;

/// Connections of one peer that wait to be accepted; beyond it, a connect is refused.
pub const BACKLOG: usize = 1024;

/// What the network does with a connect, and with what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Everything passes.
    #[default]
    Normal,
    /// Nothing passes, nobody is told: the link is down, or the far end is dead. Nothing is lost.
    Silent,
    /// As `Silent`, and a connect fails at once: no route.
    Unreachable,
}

/// Names a stream of a [`MemoryPeer`]. A name is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    index: u32,
    serial: u32,
}

impl StreamId {
    /// The name of a stream of another network that uses these names: a place, and what tells its users
    /// apart.
    #[must_use]
    pub const fn new(index: u32, serial: u32) -> Self {
        Self { index, serial }
    }

    /// The place.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }
}

/// Somebody listens there already.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0} is in use")]
pub struct AddressInUse(pub SocketAddr);

/// The handle on a network. Clones are the same network.
#[derive(Clone)]
pub struct MemoryNet(Rc<RefCell<Net>>);

impl Default for MemoryNet {
    fn default() -> Self {
        Self::new(WINDOW)
    }
}

impl MemoryNet {
    /// A network whose streams hold `window` bytes each way, at least 1.
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self(Rc::new(RefCell::new(Net::new(window.max(1)))))
    }

    /// A card's transport. `wake` makes the card step.
    #[must_use]
    pub fn card(&self, wake: Wake) -> MemoryTcp {
        let card = self.0.borrow_mut().add_card(wake);
        MemoryTcp { net: self.0.clone(), card }
    }

    /// A far machine. `wake` makes its actor step.
    #[must_use]
    pub fn peer(&self, wake: Wake) -> MemoryPeer {
        let peer = self.0.borrow_mut().add_peer(wake);
        MemoryPeer { net: self.0.clone(), peer }
    }

    /// Changes what passes. Becoming normal again delivers what was held back.
    pub fn set_reach(&self, reach: Reach) {
        self.0.borrow_mut().set_reach(reach);
    }

    /// Streams that either end still knows.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.borrow().known()
    }
}
