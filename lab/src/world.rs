//! A world: bus, card, driver roles, path helper, iscsid and network, assembled from the production actors.
//!
//! Demo, tests, benches and tools all use it. A *virtual* world runs in virtual time over a strict bus, and is a pure
//! function of its configuration; a *real* world runs inline in real time, with the target in the same process or
//! behind host sockets. In a *split* world ([`World::attach`]) the card is in another process. Whoever holds the world
//! is its operator.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bus::inproc::{Audit, CardActor, InProcess, Slot, SlotConfig};
use bus::pci::{PciFunction, Platform};
use bus::port::{PortRx, PortTx, port};
use bus::streams::Seeded;
use bus::trace::{EventKind, Trace};
use bus::vfio_user::client::{AttachError, ClientConfig};
use bus::vfio_user::link::SocketLink;
use bus::wake::Wake;
use bus::{ActorId, Budget, Cx, Instant};
use driver::adapter::{
    Adapter, AdapterPorts, AdapterState, Failure, Holdings, OperatorError, OperatorRequest, SessionPhase,
};
use driver::config::{ConfigError, DriverConfig};
use driver::control::{FromAdapter, ToAdapter};
use driver::iscsid::{
    DiscoveryRecord, Iscsid, IscsidPorts, IscsidReply, IscsidRequest, MgmtError, NodeRecord, RecordError,
    Records, SessionEntry,
};
use hw_model::bcm5709::{Bcm5709, Card};
use hw_model::config::ChipConfig;
use hw_model::engine::EngineCounters;
use hw_model::fault::Faults;
use hw_model::tcp::TcpEngine;
use hw_model::tcp::host::HostTcp;
use hw_model::tcp::memory::{MemoryNet, WINDOW};
use iscsi::sendtargets::TargetRecord;
use iscsi::target::{ConnId, TargetServer};
use os::net::TcpListener;
use os::reactor::{Owner, Reactor};
use os::unix::Channel;
use thiserror::Error;

use crate::far_card::{FarCard, FarLink};
use crate::host::Host;
use crate::load::{Load, LoadConfig};
use crate::path_answerer::PathAnswerer;
use crate::runner::inline::{Inline, Wakers};
use crate::runner::{Ended, Executive, Place, Virtual};
use crate::streams::Secret;
use crate::target_host::TargetHost;
use crate::target_memory::TargetMemory;

/// Where the embedded target of a world with an in-memory network listens.
pub const PORTAL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 3260);

/// Where a split world's own target listens: a free port.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The initiator name of every world.
pub const INITIATOR: &str = "iqn.2026-01.lab.cnic:initiator";

/// Messages that each port of a world holds.
const PORT: usize = 256;

/// Longest wait for the adapter to come up or to shut down.
const ADAPTER_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for the daemon's answer to a request: longer than its own retries.
const DAEMON_LIMIT: Duration = Duration::from_secs(200);

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
    /// Streams in memory, with this target at [`PORTAL`].
    Memory(Box<TargetServer>),
    /// Sockets of the host's kernel. Needs real time.
    Sockets,
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
        }
    }

    /// A real world with the embedded target in the same process.
    #[must_use]
    pub fn real_time(target: TargetServer) -> Self {
        Self { time: Time::Real, slot: SlotConfig::default(), ..Self::virtual_time(0, target) }
    }

    /// A real world whose connections are sockets of the host.
    #[must_use]
    pub fn sockets(spin: bool) -> Self {
        Self {
            time: if spin { Time::Spinning } else { Time::Real },
            network: Network::Sockets,
            chip: ChipConfig::default(),
            driver: DriverConfig::default(),
            slot: SlotConfig::default(),
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
    /// A target to serve on a free port of loopback ([`World::portal`]).
    pub target: Option<TargetServer>,
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
        }
    }
}

/// Why a world did not do what was asked.
#[derive(Debug, Error)]
pub enum WorldError {
    /// The driver's configuration is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Sockets need real time.
    #[error("host sockets cannot run in virtual time")]
    SocketsInVirtualTime,
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
    /// Streams of an in-memory network.
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

struct Places {
    card: Place,
    host: Place,
    paths: Place,
    iscsid: Place,
    user: Place,
}

/// What a restarted daemon is given again.
struct DaemonEnds {
    control_out: PortTx<ToAdapter>,
    control_in: PortRx<FromAdapter>,
    requests: PortRx<IscsidRequest>,
    replies: PortTx<IscsidReply>,
}

/// A card of either carrier, for its counters.
enum AnyCard {
    Memory(Card<hw_model::tcp::memory::MemoryTcp>),
    Sockets(Card<HostTcp>),
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
    /// Streams of an in-memory network.
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

/// A card in the same process.
pub struct NearSide {
    slot: Rc<RefCell<Slot>>,
    card: AnyCard,
    chip: ChipConfig,
    faults: Faults,
    net: Option<MemoryNet>,
    target: Option<Rc<RefCell<TargetMemory>>>,
    target_wake: Option<Wake>,
}

impl CardSide for NearSide {
    fn audit(&self) -> Audit {
        self.slot.borrow().audit()
    }

    fn in_use(&self) -> usize {
        let (connections, groups) = match &self.card {
            AnyCard::Memory(c) => c.with(|c| c.in_use()),
            AnyCard::Sockets(c) => c.with(|c| c.in_use()),
        };
        connections + groups
    }

    fn streams(&self) -> usize {
        self.net.as_ref().map_or(0, MemoryNet::streams)
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
    card: FarCard,
    target: Option<(Rc<RefCell<TargetHost>>, SocketAddr)>,
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

/// A running world. See the module.
pub struct World<P: Seat = InProcess> {
    exec: Executive,
    places: Places,
    host: Rc<RefCell<Host<P>>>,
    side: P::Side,
    records: Records,
    daemon: DaemonEnds,
    iscsid: Option<Rc<RefCell<Iscsid>>>,
    requests: PortTx<IscsidRequest>,
    replies: PortRx<IscsidReply>,
    next_id: u64,
}

/// Who acts when the holder of the world does.
const OPERATOR: ActorId = ActorId::new("operator", 0);

/// A runner in real time, and `N` owners of descriptors.
fn real_time<const N: usize>(spin: bool) -> Result<(Executive, Wakers, [Owner; N]), WorldError> {
    let reactor = Reactor::new()?;
    let owners = (0..N).map(|_| reactor.owner()).collect::<Result<Vec<_>, _>>()?;
    let Ok(owners) = owners.try_into() else { unreachable!("there are N") };
    let wakers = Wakers::default();
    let pace = Inline::new(reactor, wakers.clone(), spin);
    Ok((Executive::new(Box::new(pace), Box::new(Secret::default()), Trace::off()), wakers, owners))
}

impl Places {
    fn new(exec: &mut Executive) -> Self {
        Self {
            card: exec.place(),
            host: exec.place(),
            paths: exec.place(),
            iscsid: exec.place(),
            user: exec.place(),
        }
    }
}

impl World {
    /// Assembles a world with the card in this process. Nothing has happened yet: the interface is down.
    ///
    /// # Errors
    /// [`WorldError::Config`], [`WorldError::SocketsInVirtualTime`], [`WorldError::Os`].
    pub fn new(config: WorldConfig) -> Result<Self, WorldError> {
        let (mut exec, sockets) = match config.time {
            Time::Virtual { seed } => {
                let rng = Box::new(Seeded::new(seed));
                (Executive::new(Box::new(Virtual), rng, Trace::recording()), None)
            }
            Time::Real | Time::Spinning => {
                let (exec, wakers, [owner]) = real_time(config.time == Time::Spinning)?;
                (exec, Some((wakers, owner)))
            }
        };
        let places = Places::new(&mut exec);
        let faults = Faults::new();
        let chip = config.chip.clone();
        let (mut net, mut target, mut target_wake) = (None, None, None);
        let (card, function): (AnyCard, Box<dyn PciFunction>) = match config.network {
            Network::Memory(server) => {
                let network = MemoryNet::new(WINDOW);
                let card = fit(config.chip, &faults, network.card(places.card.wake()));
                let place = exec.place();
                let actor = TargetMemory::new(*server, network.host(place.wake()), PORTAL)
                    .expect("nobody else listens on a new network");
                let actor = Rc::new(RefCell::new(actor));
                exec.install(&place, actor.clone());
                (net, target, target_wake) = (Some(network), Some(actor), Some(place.wake()));
                (AnyCard::Memory(card.clone()), Box::new(card))
            }
            Network::Sockets => {
                let (wakers, owner) = sockets.ok_or(WorldError::SocketsInVirtualTime)?;
                wakers.join(owner.index(), places.card.wake());
                let card = fit(config.chip, &faults, HostTcp::new(owner));
                (AnyCard::Sockets(card.clone()), Box::new(card))
            }
        };
        let slot =
            Slot::new(config.slot, ActorId::new("card", 0), function, places.card.wake(), places.host.wake());
        exec.install(&places.card, Rc::new(RefCell::new(CardActor(slot.clone()))));
        let platform = InProcess(slot.clone());
        let side = NearSide { slot, card, chip, faults, net, target, target_wake };
        Self::assemble(exec, places, platform, side, config.driver)
    }

    /// The slot between card and driver.
    #[must_use]
    pub fn slot(&self) -> &Rc<RefCell<Slot>> {
        &self.side.slot
    }

    /// The card's fault points.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.side.faults
    }

    /// The in-memory network, if there is one.
    #[must_use]
    pub fn net(&self) -> Option<&MemoryNet> {
        self.side.net.as_ref()
    }

    /// The embedded target, if there is one.
    #[must_use]
    pub fn target(&self) -> Option<&Rc<RefCell<TargetMemory>>> {
        self.side.target.as_ref()
    }

    /// What the offload engine counted.
    #[must_use]
    pub fn engine_counters(&self) -> EngineCounters {
        match &self.side.card {
            AnyCard::Memory(c) => c.with(|c| *c.engine().counters()),
            AnyCard::Sockets(c) => c.with(|c| *c.engine().counters()),
        }
    }

    /// Time spent in the steps of the card, its transport included.
    #[must_use]
    pub fn chip_busy(&self) -> Duration {
        self.exec.busy(&self.places.card)
    }

    /// Acts on the embedded target as its operator does, and makes it run. `None` when there is none.
    pub fn act_on_target<R>(&mut self, f: impl FnOnce(&mut TargetServer, &[ConnId]) -> R) -> Option<R> {
        let target = self.side.target.as_ref()?;
        let r = target.borrow_mut().operate(f);
        if let Some(wake) = &self.side.target_wake {
            wake.wake();
        }
        Some(r)
    }

    /// Pulls the card out of its slot, at once. Its connections fall silent.
    pub fn pull_card(&mut self) {
        let slot = self.side.slot.clone();
        self.act(|cx, _| slot.borrow_mut().remove(cx));
    }

    /// Puts a new card of the same kind into the slot. Only a card on an in-memory network can be replaced; with
    /// host sockets nothing happens and the answer is false.
    pub fn insert_card(&mut self) -> bool {
        let Some(net) = &self.side.net else { return false };
        let card = fit(self.side.chip.clone(), &self.side.faults, net.card(self.places.card.wake()));
        let slot = self.side.slot.clone();
        let function: Box<dyn PciFunction> = Box::new(card.clone());
        self.side.card = AnyCard::Memory(card);
        self.act(|cx, _| slot.borrow_mut().insert(cx, function));
        true
    }
}

impl World<FarCard> {
    /// Attaches a driver to the card of another process, in real time. The interface is down.
    ///
    /// # Errors
    /// [`WorldError::NoCard`], [`WorldError::Attach`], [`WorldError::Config`], [`WorldError::Os`].
    pub fn attach(config: FarConfig) -> Result<Self, WorldError> {
        let (mut exec, wakers, [link, sockets]) = real_time(false)?;
        let places = Places::new(&mut exec);
        let channel = Channel::connect(&config.socket)
            .map_err(|cause| WorldError::NoCard { path: config.socket, cause })?;
        let client = config.client;
        let card = exec.act(OPERATOR, |cx| FarCard::attach(cx, SocketLink::new(channel), client))?;
        wakers.join(link.index(), places.card.wake());
        let link = FarLink::new(card.clone(), link, places.host.wake())?;
        exec.install(&places.card, Rc::new(RefCell::new(link)));
        let mut target = None;
        if let Some(server) = config.target {
            let listener = TcpListener::bind(LOOPBACK).map_err(std::io::Error::other)?;
            let portal = listener.local_addr()?;
            let place = exec.place();
            wakers.join(sockets.index(), place.wake());
            let host = Rc::new(RefCell::new(TargetHost::new(server, listener, sockets, None)?));
            exec.install(&place, host.clone());
            target = Some((host, portal));
        }
        let side = FarSide { card: card.clone(), target };
        Self::assemble(exec, places, card, side, config.driver)
    }

    /// The driver's end of the slot.
    #[must_use]
    pub fn card(&self) -> &FarCard {
        &self.side.card
    }

    /// Where the world's own target listens, if there is one.
    #[must_use]
    pub fn portal(&self) -> Option<SocketAddr> {
        self.side.target.as_ref().map(|(_, portal)| *portal)
    }
}

impl<P: Seat + 'static> World<P> {
    fn assemble(
        mut exec: Executive,
        places: Places,
        platform: P,
        side: P::Side,
        driver: DriverConfig,
    ) -> Result<Self, WorldError> {
        let (path_out, path_requests) = port("path-requests", PORT, places.paths.wake());
        let (path_answers, path_in) = port("path-updates", PORT, places.host.wake());
        exec.install(&places.paths, Rc::new(RefCell::new(PathAnswerer::new(path_requests, path_answers))));
        let (control_out, control_in) = port("to-iscsid", PORT, places.iscsid.wake());
        let (to_adapter, from_iscsid) = port("from-iscsid", PORT, places.host.wake());
        let ports = AdapterPorts { control_in: from_iscsid, control_out, path_in, path_out };
        let adapter = Adapter::new(ActorId::new("adapter", 0), platform, driver, ports)?;
        let host = Rc::new(RefCell::new(Host { adapter, user: None }));
        exec.install(&places.host, host.clone());

        let (requests, user_requests) = port("iscsid-requests", PORT, places.iscsid.wake());
        let (daemon_replies, replies) = port("iscsid-replies", PORT, places.user.wake());
        let daemon = DaemonEnds {
            control_out: to_adapter,
            control_in,
            requests: user_requests,
            replies: daemon_replies,
        };
        let mut world = Self {
            exec,
            places,
            host,
            side,
            records: Records::default(),
            daemon,
            iscsid: None,
            requests,
            replies,
            next_id: 0,
        };
        world.start_iscsid()?;
        Ok(world)
    }

    /// The executive: time, events, steps.
    #[must_use]
    pub fn exec(&self) -> &Executive {
        &self.exec
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.exec.now()
    }

    /// The host with its adapter.
    #[must_use]
    pub fn host(&self) -> &Rc<RefCell<Host<P>>> {
        &self.host
    }

    /// The daemon, while it runs.
    #[must_use]
    pub fn iscsid(&self) -> Option<&Rc<RefCell<Iscsid>>> {
        self.iscsid.as_ref()
    }

    /// Time spent in the steps of driver, path helper and daemon, and of the user of the block API.
    #[must_use]
    pub fn host_busy(&self) -> Duration {
        let p = &self.places;
        [&p.host, &p.paths, &p.iscsid].into_iter().map(|p| self.exec.busy(p)).sum()
    }

    /// Acts on the host between steps, as its user does, and makes it run.
    pub fn act<R>(&mut self, f: impl FnOnce(&mut Cx<'_>, &mut Host<P>) -> R) -> R {
        let host = self.host.clone();
        let r = self.exec.act(OPERATOR, |cx| f(cx, &mut host.borrow_mut()));
        self.places.host.wake().wake();
        r
    }

    /// Whether the card's process is gone. A card in this process never is, not even when it was pulled.
    #[must_use]
    pub fn card_lost(&self) -> bool {
        self.side.is_lost()
    }

    /// A handle that makes the host run.
    #[must_use]
    pub fn host_wake(&self) -> Wake {
        self.places.host.wake()
    }

    /// Changes how many work items each actor may do in a step.
    pub fn set_budget(&mut self, budget: Budget) {
        self.exec.set_budget(budget);
    }

    /// Runs for `time` at most, or until `done`. Whether `done` was met.
    pub fn run(&mut self, time: Duration, done: impl FnMut(&Executive) -> bool) -> bool {
        let limit = self.exec.now() + time;
        self.exec.run(limit, done) == Ended::Done
    }

    /// Runs for `time` at most, until `done`, or until the card's process is gone.
    pub fn run_while_there(&mut self, time: Duration, mut done: impl FnMut() -> bool) {
        let limit = self.exec.now() + time;
        let side = &self.side;
        self.exec.run(limit, |_| done() || side.is_lost());
    }

    /// Runs for `time`.
    pub fn run_for(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    /// Asks the adapter for a change. It happens while the world runs.
    ///
    /// # Errors
    /// [`OperatorError`]; nothing changes then.
    pub fn operate(&mut self, request: OperatorRequest) -> Result<(), OperatorError> {
        self.act(|cx, host| {
            cx.event(EventKind::Operator, 0, 0);
            host.adapter.request(cx, request)
        })
    }

    /// Brings the interface up.
    ///
    /// # Errors
    /// [`WorldError::Adapter`] says why it does not come up.
    pub fn bring_up(&mut self) -> Result<(), WorldError> {
        self.operate(OperatorRequest::InterfaceUp)?;
        self.settle("bring-up", |s| matches!(s, AdapterState::Up | AdapterState::Failed(_)))?;
        let state = self.host.borrow().adapter.state();
        if let AdapterState::Failed(why) = state { Err(why.into()) } else { Ok(()) }
    }

    /// Runs until the adapter is where `there` says.
    ///
    /// # Errors
    /// [`WorldError::Timeout`] names `what`.
    pub fn settle(
        &mut self,
        what: &'static str,
        there: impl Fn(AdapterState) -> bool,
    ) -> Result<(), WorldError> {
        let host = self.host.clone();
        let arrived = self.run(ADAPTER_LIMIT, |_| there(host.borrow().adapter.state()));
        if arrived { Ok(()) } else { Err(WorldError::Timeout(what)) }
    }

    /// Logs in `count` sessions of one record, and waits until their logical units are ready.
    ///
    /// # Errors
    /// The first login that failed; the others go on.
    pub fn login(&mut self, record: &NodeRecord, count: usize) -> Result<Vec<SessionEntry>, WorldError> {
        let ids = (0..count).map(|_| self.begin_login(record)).collect::<Result<Vec<u64>, _>>()?;
        let mut entries = Vec::with_capacity(count);
        let mut refused = None;
        for reply in self.answers(&ids, DAEMON_LIMIT)? {
            match reply {
                IscsidReply::LoggedIn { result: Ok(entry), .. } => entries.push(entry),
                IscsidReply::LoggedIn { result: Err(e), .. } => refused = refused.or(Some(e)),
                IscsidReply::LoggedOut { .. } | IscsidReply::Discovered { .. } => {}
            }
        }
        if let Some(e) = refused {
            return Err(e.into());
        }
        let limit = self.exec.now() + DAEMON_LIMIT;
        let (host, side) = (&self.host, &self.side);
        let ready = self.exec.run(limit, |_| {
            let host = host.borrow();
            let ready = host.adapter.sessions().filter(|s| s.phase == SessionPhase::Ready).count();
            ready >= host.adapter.sessions().count() || side.is_lost()
        });
        if side.is_lost() {
            return Err(WorldError::CardLost);
        }
        if ready == Ended::Done { Ok(entries) } else { Err(WorldError::Timeout("LUN bring-up")) }
    }

    /// Asks a portal for its targets.
    ///
    /// # Errors
    /// Why it did not answer.
    pub fn discover(&mut self, record: DiscoveryRecord) -> Result<Vec<TargetRecord>, WorldError> {
        let id = self.id();
        self.ask(IscsidRequest::Discover { id, record: Box::new(record) })?;
        match self.answers(&[id], DAEMON_LIMIT)?.pop() {
            Some(IscsidReply::Discovered { result, .. }) => Ok(result?),
            _ => Err(WorldError::Timeout("discovery")),
        }
    }

    /// Logs a session out.
    ///
    /// # Errors
    /// What went wrong; the session is gone in any case.
    pub fn logout(&mut self, tag: u64) -> Result<(), WorldError> {
        let id = self.begin_logout(tag)?;
        match self.answers(&[id], DAEMON_LIMIT)?.pop() {
            Some(IscsidReply::LoggedOut { result, .. }) => Ok(result?),
            _ => Err(WorldError::Timeout("logout")),
        }
    }

    /// Asks for a login without waiting: [`World::take_reply`] has the answer, with the id returned here, when there
    /// is one.
    ///
    /// # Errors
    /// A record that cannot be used, or a daemon that does not empty its inbox.
    pub fn begin_login(&mut self, record: &NodeRecord) -> Result<u64, WorldError> {
        let (record, _) = record.clone().check()?;
        let id = self.id();
        self.ask(IscsidRequest::Login { id, record: Box::new(record), multiple: true })?;
        Ok(id)
    }

    /// Asks for a logout without waiting.
    ///
    /// # Errors
    /// A daemon that does not empty its inbox.
    pub fn begin_logout(&mut self, tag: u64) -> Result<u64, WorldError> {
        let id = self.id();
        self.ask(IscsidRequest::Logout { id, tag })?;
        Ok(id)
    }

    /// The daemon's next answer, if there is one.
    pub fn take_reply(&mut self) -> Option<IscsidReply> {
        self.replies.recv()
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn ask(&mut self, request: IscsidRequest) -> Result<(), WorldError> {
        self.requests.send(request).map_err(|_| WorldError::Timeout("a place in the daemon's inbox"))
    }

    /// Waits for the answers to all of `ids`, together at most `limit`. Late answers to earlier requests are dropped.
    fn answers(&mut self, ids: &[u64], limit: Duration) -> Result<Vec<IscsidReply>, WorldError> {
        let until = self.exec.now() + limit;
        let (replies, side) = (&self.replies, &self.side);
        let mut found = Vec::with_capacity(ids.len());
        self.exec.run(until, |_| {
            while let Some(reply) = replies.recv() {
                let (IscsidReply::LoggedIn { id, .. }
                | IscsidReply::LoggedOut { id, .. }
                | IscsidReply::Discovered { id, .. }) = &reply;
                if ids.contains(id) {
                    found.push(reply);
                }
            }
            found.len() == ids.len() || side.is_lost()
        });
        match found.len() == ids.len() {
            true => Ok(found),
            false if side.is_lost() => Err(WorldError::CardLost),
            false => Err(WorldError::Timeout("the daemon's answer")),
        }
    }

    /// Loads each session with verified I/O on a region of `blocks` blocks of its own: the i-th session has the i-th
    /// region of its first disk.
    ///
    /// # Errors
    /// [`WorldError::Load`] when a session has no disk, a disk is too small, or memory for the buffers is short.
    pub fn start_load(
        &mut self,
        sessions: &[SessionEntry],
        config: LoadConfig,
        blocks: usize,
    ) -> Result<Rc<RefCell<Load>>, WorldError> {
        let load = Rc::new(RefCell::new(Load::new(config)));
        self.act(|_, host| {
            for (i, entry) in sessions.iter().enumerate() {
                let disk = host.adapter.disks(entry.session).first().cloned();
                let disk = disk.ok_or(WorldError::Load("a session has no disk"))?;
                let first = (i * blocks) as u64;
                if first + blocks as u64 > disk.blocks {
                    return Err(WorldError::Load("the disk is too small for all regions"));
                }
                load.borrow_mut()
                    .attach(&mut host.adapter, entry.session, disk, first, blocks)
                    .map_err(|_| WorldError::Load("no memory for the buffers"))?;
            }
            host.user = Some(load.clone());
            Ok(())
        })?;
        Ok(load)
    }

    /// Ends a load: nothing more is issued, what is outstanding gets `limit` to complete, and the buffers are freed.
    pub fn finish_load(&mut self, load: &Rc<RefCell<Load>>, limit: Duration) -> Unfinished {
        load.borrow_mut().stop();
        let draining = load.clone();
        self.run(limit, |_| draining.borrow().outstanding() == 0);
        let lost = load.borrow().outstanding() as u64;
        let kept = self.act(|_, host| {
            host.user = None;
            load.borrow_mut().release(&mut host.adapter) as u64
        });
        Unfinished { lost, kept }
    }

    /// Starts the daemon, if it does not run.
    ///
    /// # Errors
    /// Never: the initiator name is a constant.
    pub fn start_iscsid(&mut self) -> Result<(), WorldError> {
        if self.iscsid.is_some() {
            return Ok(());
        }
        let d = &self.daemon;
        let ports = IscsidPorts {
            control_out: d.control_out.clone(),
            control_in: d.control_in.clone(),
            requests: d.requests.clone(),
            replies: d.replies.clone(),
        };
        let iscsid = Iscsid::new(ActorId::new("iscsid", 0), INITIATOR, ports, self.records.clone())?;
        let iscsid = Rc::new(RefCell::new(iscsid));
        d.control_in.revive();
        d.requests.revive();
        self.exec.install(&self.places.iscsid, iscsid.clone());
        self.iscsid = Some(iscsid);
        Ok(())
    }

    /// Kills the daemon. Its inbox is lost, and so is what it is sent until it is started again.
    pub fn kill_iscsid(&mut self) {
        self.iscsid = None;
        self.exec.kill(&self.places.iscsid);
        self.daemon.control_in.kill();
        self.daemon.requests.kill();
    }

    /// Stops the daemon as SIGSTOP does, or lets it go on.
    pub fn stop_iscsid(&mut self, stopped: bool) {
        self.exec.stop(&self.places.iscsid, stopped);
    }

    /// Stops the path helper, or lets it go on.
    pub fn stop_path_helper(&mut self, stopped: bool) {
        self.exec.stop(&self.places.paths, stopped);
    }

    /// Logs everything out, shuts the adapter down, and says what is left.
    ///
    /// # Errors
    /// [`WorldError::Timeout`] if the shutdown does not end.
    pub fn shutdown(&mut self) -> Result<Leftovers, WorldError> {
        let tags: Vec<u64> = self.host.borrow().adapter.sessions().map(|s| s.tag).collect();
        let mut on_card = 0;
        if self.iscsid.is_some() && self.host.borrow().adapter.state() == AdapterState::Up {
            let ids = tags.into_iter().map(|tag| self.begin_logout(tag)).collect::<Result<Vec<u64>, _>>()?;
            // A session that is not logged in at this moment cannot say goodbye; it is gone all the same.
            let all_out = self.answers(&ids, DAEMON_LIMIT).is_ok();
            let until = self.exec.now() + ADAPTER_LIMIT;
            let (host, side) = (&self.host, &self.side);
            let released =
                self.exec.run(until, |_| host.borrow().adapter.holdings().cids == 0 || side.is_lost());
            let released = released == Ended::Done;
            if all_out && released && self.host.borrow().adapter.state() == AdapterState::Up {
                // The reset of the shutdown would wipe what was forgotten on the card: look before it.
                on_card = self.side.in_use();
            }
        }
        self.operate(OperatorRequest::Shutdown)?;
        self.settle("shutdown", |s| s == AdapterState::Gone)?;
        // The target learns of the last FIN or RST.
        let limit = self.exec.now() + Duration::from_secs(2);
        let side = &self.side;
        self.exec.run(limit, |_| side.target_connections() == 0);
        let mut left = self.leftovers();
        left.on_card += on_card;
        Ok(left)
    }

    /// What is held right now.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        Leftovers {
            audit: self.side.audit(),
            holdings: self.host.borrow().adapter.holdings(),
            on_card: self.side.in_use(),
            streams: self.side.streams(),
        }
    }
}

fn fit<T: TcpEngine>(config: ChipConfig, faults: &Faults, tcp: T) -> Card<T> {
    Card::new(Bcm5709::new(config, faults.clone(), tcp))
}
