//! The slot from the world's point of view: a card in the same process, or one in another.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bus::inproc::{Audit, InProcess, Slot};
use bus::pci::Platform;
use bus::wake::Wake;
use hw_model::bcm5709::Card;
use hw_model::config::ChipConfig;
use hw_model::fault::Faults;
use hw_model::tcp::TcpEngine;
use hw_model::tcp::frame::{Checksums, FrameNet, FrameTcp};
use hw_model::tcp::memory::MemoryNet;
use hw_model::wire::link::LinkControl;

use crate::far_card::FarCard;
use crate::station::Station;
use crate::target::Target;
use crate::target_host::TargetHost;
use crate::world::Interposer;

/// A card of either carrier, for its counters.
pub(super) enum AnyCard {
    Memory(Card<hw_model::tcp::memory::MemoryTcp>),
    Outside(Card<Box<dyn TcpEngine>>),
    Frames(Card<FrameTcp>),
}

/// A platform that a world can be built on.
pub trait Seat: Platform {
    /// What the world knows of the other side of the slot.
    type Side: CardSide;
}

/// The other side of the slot, and what is behind it.
pub trait CardSide {
    /// The slot's view: memory, loans, violations.
    fn audit(&self) -> Audit;
    /// Connections and path groups on the card.
    fn in_use(&self) -> usize;
    /// Streams of an in-memory network, or TCP connections at both ends of a link.
    fn streams(&self) -> usize;
    /// Connections of a target of this process.
    fn target_connections(&self) -> usize;
    /// Whether the card's process is gone.
    fn is_lost(&self) -> bool;
}

impl Seat for InProcess {
    type Side = NearSide;
}

impl Seat for FarCard {
    type Side = FarSide;
}

/// A network of frames: what is at the two ends of a link, and the link.
pub struct Frames {
    /// The card's wire, with the TCP of the card.
    pub wire: FrameNet,
    /// The machine that the target runs on.
    pub station: Station,
    /// The cable.
    pub link: LinkControl,
    pub(super) checksums: Checksums,
}

/// A card in the same process.
pub struct NearSide {
    pub(super) slot: Rc<RefCell<Slot>>,
    pub(super) card: AnyCard,
    pub(super) chip: ChipConfig,
    pub(super) faults: Faults,
    pub(super) net: Option<MemoryNet>,
    pub(super) frames: Option<Frames>,
    pub(super) target: Option<Rc<RefCell<Target>>>,
    pub(super) target_wake: Option<Wake>,
    pub(super) interposer: Option<Interposer>,
}

impl CardSide for NearSide {
    fn audit(&self) -> Audit {
        self.slot.borrow().audit()
    }

    fn in_use(&self) -> usize {
        let (connections, groups) = match &self.card {
            AnyCard::Memory(c) => c.with(|c| c.in_use()),
            AnyCard::Outside(c) => c.with(|c| c.in_use()),
            AnyCard::Frames(c) => c.with(|c| c.in_use()),
        };
        connections + groups
    }

    fn streams(&self) -> usize {
        let ends = |f: &Frames| f.wire.connections().0 + f.station.connections();
        self.net.as_ref().map_or(0, MemoryNet::streams) + self.frames.as_ref().map_or(0, ends)
    }

    fn target_connections(&self) -> usize {
        self.target.as_ref().map_or(0, |t| t.borrow().connections())
    }

    fn is_lost(&self) -> bool {
        false
    }
}

/// A card in another process, which counts what is in use itself.
pub struct FarSide {
    pub(super) card: FarCard,
    pub(super) target: Option<(Rc<RefCell<TargetHost>>, SocketAddr)>,
}

impl CardSide for FarSide {
    fn audit(&self) -> Audit {
        self.card.audit()
    }

    fn in_use(&self) -> usize {
        0
    }

    fn streams(&self) -> usize {
        0
    }

    fn target_connections(&self) -> usize {
        self.target.as_ref().map_or(0, |(t, _)| t.borrow().connections())
    }

    fn is_lost(&self) -> bool {
        self.card.is_lost()
    }
}
