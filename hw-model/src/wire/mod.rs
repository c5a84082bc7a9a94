//! Wires: what a port of the card is plugged into.
//!
//! A wire takes the frames that the card sends and hands over those that arrive. The card is the only caller.
//! Here are the virtual [`link`], with a rate, a delay and harm; the [`tap`] device of the host's kernel; the
//! [`Responder`], which is everybody at once: a host at every address, router and DHCP server; [`Tee`], which
//! puts what passes into a [`Recording`], a pcapng file; and [`NoPeer`], a cable with a carrier and nobody at
//! the other end.
//!
//! Frames on a wire have neither preamble, padding nor FCS; the MAC of each side adds and removes them.

pub mod link;
pub(crate) mod pcapng;
mod queue;
mod responder;
pub mod tap;
mod tee;

use bus::Instant;
use bus::pci::DevCx;

pub use pcapng::{Direction, FLUSH_AFTER, Interface, Recording};
pub use queue::FrameQueue;
pub use responder::{Responder, ResponderCounters};
pub use tee::Tee;

/// Largest frame that a wire carries, in bytes without FCS: a jumbo frame with a VLAN tag.
pub const LARGEST_FRAME: usize = 9000 + 14 + 4;

/// What a port is plugged into.
pub trait Wire {
    /// The card sends a frame. A wire that has no room for it drops it and counts that, as a switch would.
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]);

    /// Takes the next frame that has arrived. `frame` is replaced by it, and left empty when there is none
    /// (false).
    fn recv(&mut self, cx: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool;

    /// Whether there is a carrier.
    fn link(&self) -> bool {
        true
    }

    /// When the next frame arrives, if the wire knows. A wire that learns of one in between wakes the card.
    fn next_deadline(&self) -> Option<Instant>;
}

impl<W: Wire + ?Sized> Wire for Box<W> {
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        (**self).send(cx, frame);
    }

    fn recv(&mut self, cx: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        (**self).recv(cx, frame)
    }

    fn link(&self) -> bool {
        (**self).link()
    }

    fn next_deadline(&self) -> Option<Instant> {
        (**self).next_deadline()
    }
}

/// A carrier, and nobody who sends anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeer;

impl Wire for NoPeer {
    fn send(&mut self, _: &mut DevCx<'_>, _: &[u8]) {}

    fn recv(&mut self, _: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        frame.clear();
        false
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
