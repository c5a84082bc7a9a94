//! What a world is made of, what can go wrong with it, and what is left of it.

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use bus::inproc::{Audit, SlotConfig};
use bus::pci::PciFunction;
use bus::vfio_user::client::{AttachError, ClientConfig};
use driver::adapter::{Failure, Holdings, OperatorError};
use driver::config::{ConfigError, DriverConfig};
use driver::iscsid::{MgmtError, RecordError};
use hw_model::config::ChipConfig;
use hw_model::wire::Recording;
use hw_model::wire::link::LinkConfig;
use iscsi::target::TargetServer;
use thiserror::Error;

use super::helper::{HelperConfig, static_v4, static_v6};
use crate::outside::{Outside, PlugError};
use crate::station::StationConfig;

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Virtual, with all randomness from this seed, and every event recorded.
    Virtual {
        /// The seed.
        seed: u64,
    },
    /// Real, parked when idle.
    Real,
    /// Real, polling when idle.
    Spinning,
}

/// What carries offloaded connections.
pub enum Network {
    /// Streams in memory, with this target at [`PORTAL`](super::PORTAL).
    Memory(Box<TargetServer>),
    /// A real one, with what passes recorded. Needs real time.
    Outside(Outside, Option<Recording>),
    /// Frames over a virtual link, with a station at its end.
    Link(Box<LinkNetwork>),
}

/// A virtual link with a station at its end, and a target on that.
pub struct LinkNetwork {
    /// The target, at port 3260 of all the station's addresses.
    pub server: TargetServer,
    /// The station.
    pub station: StationConfig,
    /// The link.
    pub link: LinkConfig,
}

impl LinkNetwork {
    /// A perfect link to a station with default addresses: the target is at [`PORTAL`](super::PORTAL).
    #[must_use]
    pub fn new(server: TargetServer) -> Self {
        Self { server, station: StationConfig::default(), link: LinkConfig::default() }
    }
}

/// A card, in whatever wraps it.
type BoxedCard = Box<dyn PciFunction>;

/// What a test puts between each card and the slot: it sees, and may change, all that passes.
#[derive(Clone)]
pub struct Interposer(pub Rc<dyn Fn(BoxedCard) -> BoxedCard>);

impl fmt::Debug for Interposer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interposer")
    }
}

/// What a world is made of.
pub struct WorldConfig {
    /// Time.
    pub time: Time,
    /// The carrier.
    pub network: Network,
    /// The card.
    pub chip: ChipConfig,
    /// The driver.
    pub driver: DriverConfig,
    /// The slot between them.
    pub slot: SlotConfig,
    /// Who resolves paths.
    pub helper: HelperConfig,
    /// Nothing, outside of tests.
    pub interposer: Option<Interposer>,
}

impl WorldConfig {
    /// A virtual world over a strict bus, with the embedded target.
    #[must_use]
    pub fn virtual_time(seed: u64, target: TargetServer) -> Self {
        Self {
            time: Time::Virtual { seed },
            network: Network::Memory(Box::new(target)),
            chip: ChipConfig::default(),
            driver: DriverConfig::default(),
            slot: SlotConfig { strict: true, ..SlotConfig::default() },
            helper: HelperConfig::Inside(vec![static_v4()]),
            interposer: None,
        }
    }

    /// A virtual world over a strict bus, whose connections are TCP in frames on a link.
    #[must_use]
    pub fn link(seed: u64, network: LinkNetwork) -> Self {
        Self {
            time: Time::Virtual { seed },
            network: Network::Link(Box::new(network)),
            chip: ChipConfig::default(),
            driver: DriverConfig::default(),
            slot: SlotConfig { strict: true, ..SlotConfig::default() },
            helper: HelperConfig::Inside(vec![static_v4()]),
            interposer: None,
        }
    }

    /// A real world with the embedded target in the same process.
    #[must_use]
    pub fn real_time(target: TargetServer) -> Self {
        Self { time: Time::Real, slot: SlotConfig::default(), ..Self::virtual_time(0, target) }
    }

    /// A real world on a real network.
    #[must_use]
    pub fn outside(network: Outside, spin: bool) -> Self {
        Self {
            time: if spin { Time::Spinning } else { Time::Real },
            network: Network::Outside(network, None),
            helper: HelperConfig::Inside(vec![static_v4(), static_v6()]),
            chip: ChipConfig::default(),
            driver: DriverConfig::default(),
            slot: SlotConfig::default(),
            interposer: None,
        }
    }
}

/// What a split world is made of.
pub struct FarConfig {
    /// Where the card's process listens.
    pub socket: PathBuf,
    /// The driver.
    pub driver: DriverConfig,
    /// The driver's end of the slot.
    pub client: ClientConfig,
    /// A target to serve on a free port of loopback ([`World::portal`](super::World::portal)).
    pub target: Option<TargetServer>,
    /// Who resolves paths.
    pub helper: HelperConfig,
}

impl FarConfig {
    /// Defaults, with the card's process at `socket`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            driver: DriverConfig::default(),
            client: ClientConfig::default(),
            target: None,
            helper: HelperConfig::Inside(vec![static_v4(), static_v6()]),
        }
    }
}

/// Why a world did not do what was asked.
#[derive(Debug, Error)]
pub enum WorldError {
    /// The driver's configuration is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was asked for needs real time.
    #[error("{0} cannot be had in virtual time")]
    NeedsRealTime(&'static str),
    /// The card's port cannot be plugged in.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// The operating system refused a resource.
    #[error("the operating system refused: {0}")]
    Os(#[from] std::io::Error),
    /// The adapter does not come up.
    #[error("the adapter failed: {0}")]
    Adapter(#[from] Failure),
    /// The adapter refused an operator's request.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The daemon refused or failed a request.
    #[error(transparent)]
    Daemon(#[from] MgmtError),
    /// A record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A load could not be started.
    #[error("cannot start the load: {0}")]
    Load(&'static str),
    /// Nobody listens where a card should be.
    #[error("no card listens at {}: {cause}; start one there with `cnic chip --socket`", path.display())]
    NoCard {
        /// The path that was asked for.
        path: PathBuf,
        /// What the kernel said.
        cause: std::io::Error,
    },
    /// The card's process has no card for us.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The card's process has died, or does not answer any more.
    #[error("the card was lost: its process died or does not answer")]
    CardLost,
    /// Something did not happen in the time that it may take.
    #[error("{0} did not happen in time")]
    Timeout(&'static str),
}

/// What a load left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Requests that never completed.
    pub lost: u64,
    /// Buffers that could not be freed.
    pub kept: u64,
}

/// What is left after a shutdown. Everything is zero when nothing leaked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// The slot's view: memory, loans, violations.
    pub audit: Audit,
    /// The driver's view.
    pub holdings: Holdings,
    /// Connections and path groups on the card, before the last reset or after it.
    pub on_card: usize,
    /// Streams of an in-memory network, or TCP connections at both ends of a link.
    pub streams: usize,
}

impl Leftovers {
    /// How many things leaked. Violations and refused accesses are not leaks.
    #[must_use]
    pub fn leaked(&self) -> u64 {
        let h = &self.holdings;
        let held = [
            h.cids,
            h.ports,
            h.path_groups,
            h.quarantined,
            h.loans,
            h.dma_buffers,
            h.user_buffers,
            h.timers,
            h.sessions,
            h.requests,
        ];
        let card = self.audit.buffers + self.audit.loans + self.on_card + self.streams;
        held.into_iter().map(u64::from).sum::<u64>() + card as u64
    }
}
