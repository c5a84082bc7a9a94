//! A world: bus, card, driver roles, path helper, iscsid and network, assembled from the production actors.
//!
//! Demo, tests, benches and tools all use it. A *virtual* world runs in virtual time over a strict bus, and
//! is a pure function of its configuration; a *real* world runs inline in real time, with the target in the
//! same process or behind host sockets. In a *split* world ([`World::attach`]) the card is in another
//! process. Whoever holds the world is its operator.

mod config;
mod helper;
mod seat;
mod sessions;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bus::inproc::{CardActor, InProcess, Slot, SlotConfig};
use bus::pci::PciFunction;
use bus::port::{PortRx, PortTx, port};
use bus::streams::Seeded;
use bus::trace::{EventKind, Sink, Trace};
use bus::vfio_user::link::SocketLink;
use bus::wake::Wake;
use bus::{ActorId, Budget, Cx, Instant};
use driver::adapter::{Adapter, AdapterPorts, AdapterState, OperatorError, OperatorRequest};
use driver::config::DriverConfig;
use driver::control::{FromAdapter, ToAdapter};
use driver::iscsid::{Iscsid, IscsidReply, IscsidRequest, Records};
use hw_model::bcm5709::{Bcm5709, Card};
use hw_model::config::ChipConfig;
use hw_model::engine::EngineCounters;
use hw_model::fault::Faults;
use hw_model::tcp::frame::{Checksums, FrameNet, FrameTcp};
use hw_model::tcp::memory::{MemoryNet, MemoryTcp, WINDOW};
use hw_model::wire::Responder;
use hw_model::wire::link::{LinkEnd, link};
use iscsi::target::{ConnId, TargetServer};
use os::net::TcpListener;
use os::reactor::{Owner, Reactor};
use os::unix::{Channel, ChannelListener};

use crate::ages::Ages;
use crate::far_card::{FarCard, FarLink};
use crate::host::Host;
use crate::runner::inline::{Inline, Wakers};
use crate::runner::{Ended, Executive, Place, Virtual};
use crate::station::Station;
use crate::streams::Secret;
use crate::target::Target;
use crate::target_host::TargetHost;
use crate::uio_export::UioExport;

pub use config::{
    FarConfig, Interposer, Leftovers, LinkNetwork, Network, Time, Unfinished, WorldConfig, WorldError,
};
use helper::HelperSeat;
pub use helper::{HelperConfig, SOURCE_V4, SOURCE_V6, static_v4, static_v6};
use seat::AnyCard;
pub use seat::{CardSide, FarSide, Frames, NearSide, Seat};

/// Where the embedded target of a world with an in-memory network listens.
pub const PORTAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 3260);

/// Where a split world's own target listens: a free port.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The initiator name of every world.
pub const INITIATOR: &str = "iqn.2026-01.lab.cnic:initiator";

/// Messages that each port of a world holds.
const PORT: usize = 256;

/// Longest wait for the adapter to come up or to shut down.
const ADAPTER_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for the daemon's answer to a request: longer than its own retries.
const DAEMON_LIMIT: Duration = Duration::from_secs(200);

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

/// A running world. See the module.
pub struct World<P: Seat = InProcess> {
    exec: Executive,
    places: Places,
    host: Rc<RefCell<Host<P>>>,
    side: P::Side,
    records: Records,
    daemon: DaemonEnds,
    iscsid: Option<Rc<RefCell<Iscsid>>>,
    helper: HelperSeat,
    requests: PortTx<IscsidRequest>,
    replies: PortRx<IscsidReply>,
    next_id: u64,
}

/// The driver's side of a world, before it is assembled.
struct Parts<P> {
    platform: P,
    driver: DriverConfig,
    helper: HelperConfig,
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
    /// [`WorldError::Config`], [`WorldError::NeedsRealTime`], [`WorldError::Plug`], [`WorldError::Os`].
    pub fn new(config: WorldConfig) -> Result<Self, WorldError> {
        let (mut exec, outside, export) = match config.time {
            Time::Virtual { seed } => {
                let rng = Box::new(Seeded::new(seed));
                (Executive::new(Box::new(Virtual), rng, Trace::recording()), None, None)
            }
            Time::Real | Time::Spinning => {
                let (exec, wakers, [network, export]) = real_time(config.time == Time::Spinning)?;
                (exec, Some((wakers.clone(), network)), Some((wakers, export)))
            }
        };
        let places = Places::new(&mut exec);
        let faults = Faults::new();
        let chip = config.chip.clone();
        let (mut net, mut frames, mut target, mut target_wake) = (None, None, None, None);
        let (card, function): (AnyCard, Box<dyn PciFunction>) = match config.network {
            Network::Memory(server) => {
                let network = MemoryNet::new(WINDOW);
                let card = fit_memory(config.chip, &faults, &network, &places.card);
                let place = exec.place();
                let actor = Target::new(*server, network.peer(place.wake()), PORTAL)
                    .expect("nobody else listens on a new network");
                let actor = Rc::new(RefCell::new(actor));
                exec.install(&place, actor.clone());
                (net, target, target_wake) = (Some(network), Some(actor), Some(place.wake()));
                (AnyCard::Memory(card.clone()), Box::new(card))
            }
            Network::Outside(network, recording) => {
                let (wakers, owner) = outside.ok_or(WorldError::NeedsRealTime("a real network"))?;
                wakers.join(owner.index(), places.card.wake());
                let (tcp, wire) = network.plug(&config.chip, owner, recording.as_ref())?;
                let card = Card::new(Bcm5709::new(config.chip, faults.clone(), tcp).with_wire(wire));
                (AnyCard::Outside(card.clone()), Box::new(card))
            }
            Network::Link(network) => {
                let LinkNetwork { server, station, link: config_of_link } = *network;
                let (near, far, control) = link(config_of_link);
                near.wake_with(places.card.wake());
                let place = exec.place();
                let checksums = station.checksums;
                let station = Station::new(station, far, place.wake());
                let (card, wire) = fit_frames(config.chip, &faults, near, checksums);
                let anywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORTAL.port());
                let mut actor = Target::new(server, station.clone(), anywhere)
                    .expect("nobody else listens on a new station");
                actor
                    .also_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORTAL.port()))
                    .expect("nobody else listens on a new station");
                let actor = Rc::new(RefCell::new(actor));
                exec.install(&place, actor.clone());
                (target, target_wake) = (Some(actor), Some(place.wake()));
                frames = Some(Frames { wire, station, link: control, checksums });
                (AnyCard::Frames(card.clone()), Box::new(card))
            }
        };
        let interposer = config.interposer;
        let function = interpose(interposer.as_ref(), function);
        let slot = SlotConfig { shareable: matches!(config.helper, HelperConfig::Export(_)), ..config.slot };
        let slot = Slot::new(slot, ActorId::new("card", 0), function, places.card.wake(), places.host.wake());
        exec.install(&places.card, Rc::new(RefCell::new(CardActor(slot.clone()))));
        let platform = InProcess(slot.clone());
        let side = NearSide { slot, card, chip, faults, net, frames, target, target_wake, interposer };
        let parts = Parts { platform, driver: config.driver, helper: config.helper };
        Self::assemble(exec, places, side, parts, export)
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

    /// Frames on a link, if that is the network: the card's wire, the link, and the station at its end.
    #[must_use]
    pub fn frames(&self) -> Option<&Frames> {
        self.side.frames.as_ref()
    }

    /// The embedded target, if there is one.
    #[must_use]
    pub fn target(&self) -> Option<&Rc<RefCell<Target>>> {
        self.side.target.as_ref()
    }

    /// What the offload engine counted.
    #[must_use]
    pub fn engine_counters(&self) -> EngineCounters {
        match &self.side.card {
            AnyCard::Memory(c) => c.with(|c| *c.engine().counters()),
            AnyCard::Outside(c) => c.with(|c| *c.engine().counters()),
            AnyCard::Frames(c) => c.with(|c| *c.engine().counters()),
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

    /// Puts a new card of the same kind into the slot. With host sockets no card can be replaced: nothing
    /// happens and the answer is false.
    pub fn insert_card(&mut self) -> bool {
        let (chip, faults) = (self.side.chip.clone(), self.side.faults.clone());
        let (card, function): (AnyCard, Box<dyn PciFunction>) = if let Some(net) = &self.side.net {
            let card = fit_memory(chip, &faults, net, &self.places.card);
            (AnyCard::Memory(card.clone()), Box::new(card))
        } else if let Some(frames) = &mut self.side.frames {
            let (card, wire) = fit_frames(chip, &faults, frames.link.card_end(), frames.checksums);
            frames.wire = wire;
            (AnyCard::Frames(card.clone()), Box::new(card))
        } else {
            return false;
        };
        let function = interpose(self.side.interposer.as_ref(), function);
        let slot = self.side.slot.clone();
        self.side.card = card;
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
        let (mut exec, wakers, [link, sockets, export]) = real_time(false)?;
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
        let parts = Parts { platform: card, driver: config.driver, helper: config.helper };
        Self::assemble(exec, places, side, parts, Some((wakers, export)))
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
        side: P::Side,
        parts: Parts<P>,
        export: Option<(Wakers, Owner)>,
    ) -> Result<Self, WorldError> {
        let Parts { platform, driver, helper } = parts;
        let (path_out, path_requests) = port("path-requests", PORT, places.paths.wake());
        let (path_answers, path_in) = port("path-updates", PORT, places.host.wake());
        let (control_out, control_in) = port("to-iscsid", PORT, places.iscsid.wake());
        let (to_adapter, from_iscsid) = port("from-iscsid", PORT, places.host.wake());
        let ports = AdapterPorts {
            control_in: from_iscsid,
            control_out,
            path_in,
            path_out,
            helper_wake: places.paths.wake(),
        };
        let adapter = Adapter::new(ActorId::new("adapter", 0), platform, driver, ports)?;
        let host = Rc::new(RefCell::new(Host { adapter, user: None, ages: Ages::default() }));
        exec.install(&places.host, host.clone());

        let (requests, user_requests) = port("iscsid-requests", PORT, places.iscsid.wake());
        let (daemon_replies, replies) = port("iscsid-replies", PORT, places.user.wake());
        let daemon = DaemonEnds {
            control_out: to_adapter,
            control_in,
            requests: user_requests,
            replies: daemon_replies,
        };
        let (mut ifaces, mut exported) = (Vec::new(), None);
        match helper {
            HelperConfig::Inside(configured) => ifaces = configured,
            HelperConfig::Export(path) => {
                let (wakers, owner) = export.ok_or(WorldError::NeedsRealTime("a helper behind a socket"))?;
                wakers.join(owner.index(), places.paths.wake());
                let listener = ChannelListener::bind(&path).map_err(std::io::Error::other)?;
                let export = UioExport::new(listener, owner, path_requests.clone(), path_answers.clone())?;
                let export = Rc::new(RefCell::new(export));
                exec.install(&places.paths, export.clone());
                exported = Some(export);
            }
        }
        let inside = exported.is_none();
        let helper =
            HelperSeat { inbox: path_requests, outbox: path_answers, ifaces, helper: None, export: exported };
        let mut world = Self {
            exec,
            places,
            host,
            side,
            records: Records::default(),
            daemon,
            iscsid: None,
            helper,
            requests,
            replies,
            next_id: 0,
        };
        if inside {
            world.start_helper();
        }
        world.start_iscsid()?;
        Ok(world)
    }

    /// The executive: time, events, steps.
    #[must_use]
    pub fn exec(&self) -> &Executive {
        &self.exec
    }

    /// Hands every event from now on to `sink`, in virtual and in real time.
    pub fn set_sink(&mut self, sink: Sink) {
        self.exec.set_sink(sink);
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
}

fn interpose(interposer: Option<&Interposer>, card: Box<dyn PciFunction>) -> Box<dyn PciFunction> {
    match interposer {
        Some(Interposer(wrap)) => wrap(card),
        None => card,
    }
}

/// A card whose connections and rings share one wire.
fn fit_frames(
    config: ChipConfig,
    faults: &Faults,
    wire: LinkEnd,
    checksums: Checksums,
) -> (Card<FrameTcp>, FrameNet) {
    let net = FrameNet::new(wire, config.iscsi_mac, checksums);
    (Card::new(Bcm5709::new(config, faults.clone(), net.tcp()).with_wire(net.port())), net)
}

/// A card on an in-memory network. Streams need no frames: the responder answers what the helper asks the
/// Ethernet.
fn fit_memory(config: ChipConfig, faults: &Faults, net: &MemoryNet, place: &Place) -> Card<MemoryTcp> {
    let card = Bcm5709::new(config, faults.clone(), net.card(place.wake()));
    Card::new(card.with_wire(Responder::default()))
}
