//! A card in a process of its own: the slot behind a vfio-user socket, in real time.
//!
//! An actor that owns a listening socket, the one client that is attached, and the slot with its card
//! ([`bus::vfio_user::server::Server`]). It moves bytes between them, steps the card, and before its runner
//! sleeps it parks the slot, so that a client with mapped doorbells knows that it has to kick. A client that
//! leaves, is lost or makes no sense costs the card a reset ([`bus::pci::ResetKind::LostConnection`]) and
//! nothing else: the next one is accepted. Others wait meanwhile.
//!
//! A connection is a client when it says something: until then it waits in the lobby, and keeps nobody from
//! the card. A client has [`GREETING`] to agree on a version, and [`STALL`] to go on with a message that it
//! began or to take what waits for it.
//!
//! Limits: one client at a time, [`LOBBY`] connections that have said nothing; what a client may hold is the
//! server's business.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use bus::trace::Trace;
use bus::vfio_user::link::{Link, SocketLink};
use bus::vfio_user::server::Server;
use bus::vfio_user::version::Capabilities;
use bus::wake::Wake;
use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};
use hw_model::bcm5709::{Bcm5709, Card, doorbell_pages};
use hw_model::config::ChipConfig;
use hw_model::fault::Faults;
use hw_model::tcp::TcpEngine;
use hw_model::wire::Recording;
use os::reactor::{Owner, Reactor, Ready};
use os::signals::{CableSignals, StopSignals};
use os::unix::ChannelListener;

use crate::outside::{Outside, PlugError};
use crate::runner::Executive;
use crate::runner::inline::{Inline, Wakers};
use crate::streams::Secret;

/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may say nothing, and how long a greeting may take.
pub const GREETING: Duration = Duration::from_secs(2);
/// How long nothing may move while it is the client's turn.
pub const STALL: Duration = Duration::from_secs(10);
/// Connections that may say nothing at once. More wait in the queue of the listening socket.
pub const LOBBY: usize = 16;

const LISTENER: u32 = 0;
const SIGNALS: u32 = 1;
const KICK: u32 = 2;
const CLIENT: u32 = 3;
const CABLE: u32 = 4;

/// What happens to clients, and to the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// One has attached.
    Attached,
    /// It closed its socket, or its process ended. The card was reset.
    Left,
    /// It was shut out: what it sent makes no sense, it did not answer, or took its memory away. The card was
    /// reset.
    Expelled,
    /// It was shut out: it did not greet, or stopped in the middle of a message. The card was reset.
    Silent,
    /// Whether somebody has plugged the cable in (or pulled it).
    Cable(bool),
}

/// Plugs the cable in, or pulls it.
type Plug = Box<dyn FnMut(bool)>;

/// Takes what happens to clients.
pub type EventSink = Box<dyn FnMut(ClientEvent)>;

/// A card behind a socket. See the module.
pub struct ChipHost {
    server: Server,
    owner: Owner,
    wake: Wake,
    listener: Option<ChannelListener>,
    accept_ready: bool,
    accept_again: Option<Instant>,
    signals: Option<StopSignals>,
    cable: Option<(CableSignals, Plug)>,
    lobby: VecDeque<(SocketLink, Instant)>,
    client: Option<SocketLink>,
    /// By when the client has to have greeted, or to have moved.
    due: Instant,
    clients: u64,
    once: bool,
    ready: Vec<Ready>,
    sink: Option<EventSink>,
}

impl ChipHost {
    /// Serves `server` at `listener`. The runner wakes the actor for `owner`; `wake` is the actor's own. With
    /// `signals` it stops on SIGTERM and SIGINT, with `once` when its first client has gone.
    ///
    /// # Errors
    /// The reactor refuses the descriptors.
    pub fn new(
        server: Server,
        listener: ChannelListener,
        owner: Owner,
        wake: Wake,
        signals: Option<StopSignals>,
        once: bool,
    ) -> io::Result<Self> {
        owner.register(&listener, LISTENER)?;
        if let Some(signals) = &signals {
            owner.register(signals, SIGNALS)?;
        }
        owner.register(&server.kicked(), KICK)?;
        Ok(Self {
            server,
            owner,
            wake,
            listener: Some(listener),
            accept_ready: true,
            accept_again: None,
            signals,
            cable: None,
            lobby: VecDeque::new(),
            client: None,
            due: Instant::ZERO,
            clients: 0,
            once,
            ready: Vec::new(),
            sink: None,
        })
    }

    /// Reports what happens to clients to `sink` from now on.
    pub fn set_sink(&mut self, sink: EventSink) {
        self.sink = Some(sink);
    }

    /// Lets signals pull the cable and plug it in; `plug` does it.
    ///
    /// # Errors
    /// The reactor refuses the descriptor.
    pub fn watch_cable(&mut self, signals: CableSignals, plug: Plug) -> io::Result<()> {
        self.owner.register(&signals, CABLE)?;
        self.cable = Some((signals, plug));
        Ok(())
    }

    /// The slot: its counters, and what it holds.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Clients that have attached so far.
    #[must_use]
    pub fn clients(&self) -> u64 {
        self.clients
    }

    /// Takes no further client, detaches the present one and gives the path back.
    pub fn stop(&mut self, cx: &mut Cx<'_>) {
        if let Some(listener) = self.listener.take() {
            // It is closed with the next line; the kernel forgets it then.
            let _ = self.owner.deregister(&listener, LISTENER);
        }
        while let Some((link, _)) = self.lobby.pop_front() {
            let _ = self.owner.deregister(&link, CLIENT);
        }
        self.detach(cx, None);
    }

    /// Whether it was stopped, by whatever.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.listener.is_none()
    }

    fn take_readiness(&mut self, cx: &mut Cx<'_>) {
        let mut ready = std::mem::take(&mut self.ready);
        self.owner.drain(&mut ready);
        for r in ready.drain(..) {
            match r.token {
                LISTENER => self.accept_ready = true,
                CABLE => self.move_cable(),
                SIGNALS if self.signals.as_ref().is_some_and(StopSignals::take) => self.stop(cx),
                // The client's bytes and kicks are looked for in every step.
                _ => {}
            }
        }
        self.ready = ready;
    }

    fn move_cable(&mut self) {
        while let Some((signals, plug)) = &mut self.cable
            && let Some(inserted) = signals.take()
        {
            plug(inserted);
            self.tell(ClientEvent::Cable(inserted));
            // The card learns of it in its next step.
            self.wake.wake();
        }
    }

    fn accept(&mut self, cx: &mut Cx<'_>) {
        let due = self.accept_ready || self.accept_again.is_some_and(|at| at <= cx.now);
        let Some(listener) = self.listener.as_ref().filter(|_| due) else { return };
        self.accept_again = None;
        while self.lobby.len() < LOBBY {
            let accepted = listener.accept().and_then(|channel| {
                let link = channel.map(SocketLink::new);
                link.iter().try_for_each(|link| self.owner.register(link, CLIENT))?;
                Ok(link)
            });
            self.accept_ready = matches!(accepted, Ok(Some(_)));
            match accepted {
                Ok(Some(link)) => self.lobby.push_back((link, cx.now + GREETING)),
                Ok(None) => return,
                Err(_) => {
                    self.accept_again = Some(cx.now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// The first who says something, or leaves, is the next client; who says nothing for too long is let go.
    fn usher(&mut self, cx: &mut Cx<'_>) {
        if self.lobby.is_empty() {
            return;
        }
        let before = self.lobby.len();
        if self.client.is_none() {
            let mut fds = [const { None }; LOBBY];
            fds.iter_mut()
                .zip(&self.lobby)
                .for_each(|(slot, (link, _))| *slot = Some((link.as_fd(), true, false)));
            let fds: Vec<_> = fds.into_iter().flatten().collect();
            let speaks = os::event::ready(&fds, Some(Duration::ZERO));
            if let Some((link, _)) = self.lobby.remove(speaks.trailing_zeros() as usize) {
                self.client = Some(link);
                self.due = cx.now + GREETING;
                self.clients += 1;
                self.server.attach(cx);
                self.tell(ClientEvent::Attached);
            }
        }
        // Who waits for the client to leave has its time from then on.
        let taken = self.client.is_some();
        let owner = &self.owner;
        self.lobby.retain_mut(|(link, due)| {
            if taken {
                *due = cx.now + GREETING;
            }
            let stays = *due > cx.now;
            if !stays {
                // It is closed right after; an error changes nothing.
                let _ = owner.deregister(link, CLIENT);
            }
            stays
        });
        if before == LOBBY && self.lobby.len() < LOBBY {
            // Others may be in the listener's queue, of which nothing more is heard.
            self.accept_ready = true;
            self.wake.wake();
        }
    }

    /// Shuts out a client that is not getting on with what it has begun.
    fn check_pace(&mut self, cx: &mut Cx<'_>, moved: bool) {
        if self.client.is_none() {
            return;
        }
        let waits = !self.server.is_greeted() || self.server.awaits_client();
        if self.server.is_greeted() && (moved || !waits) {
            self.due = cx.now + STALL;
        } else if waits && self.due <= cx.now {
            self.detach(cx, Some(ClientEvent::Silent));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let waits = self.client.is_some() && (!self.server.is_greeted() || self.server.awaits_client());
        let lobby = self.lobby.iter().map(|(_, due)| *due).min().filter(|_| self.client.is_none());
        Instant::earliest(lobby, waits.then_some(self.due))
    }

    fn tell(&mut self, event: ClientEvent) {
        if let Some(sink) = &mut self.sink {
            sink(event);
        }
    }

    fn detach(&mut self, cx: &mut Cx<'_>, why: Option<ClientEvent>) {
        let Some(link) = self.client.take() else { return };
        // The descriptor is closed right after; an error changes nothing.
        let _ = self.owner.deregister(&link, CLIENT);
        self.server.detach(cx);
        // Another one may have been waiting in the listener's queue, of which nothing more is heard.
        self.wake.wake();
        if let Some(why) = why {
            self.tell(why);
            if self.once {
                self.stop(cx);
            }
        }
    }

    /// Moves bytes and serves what they bring, until nothing moves or it is the card's turn. Returns what was
    /// done.
    fn converse(&mut self, cx: &mut Cx<'_>, turns: u32) -> u32 {
        let mut done = 0;
        while done < turns
            && let Some(link) = &mut self.client
        {
            let (out, into) = self.server.queues();
            let moved = link.exchange(out, into);
            // What the client sent before it left has effect, too.
            self.server.pump(cx);
            match moved {
                _ if self.server.is_broken() => self.detach(cx, Some(ClientEvent::Expelled)),
                None => self.detach(cx, Some(ClientEvent::Left)),
                Some(true) => done += 1,
                Some(false) => break,
            }
        }
        done
    }
}

impl Actor for ChipHost {
    fn name(&self) -> ActorId {
        ActorId::new("chip-host", 0)
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        self.take_readiness(cx);
        self.accept(cx);
        self.usher(cx);
        // A request and its answer.
        let moved = self.converse(cx, 2);
        self.check_pace(cx, moved > 0);
        let link = self.client.as_mut().map(|link| link as &mut dyn Link);
        let p = self.server.step(cx, budget, link);
        let done = moved + p.done;
        if done > 0 || self.server.is_broken() || !self.server.park(cx) {
            self.wake.wake();
        }
        let next = Instant::earliest(self.deadline(), self.accept_again);
        Progress { done, next: Instant::earliest(p.next, next) }
    }
}

/// What a process that is a card is made of.
pub struct ChipWorldConfig {
    /// The card.
    pub chip: ChipConfig,
    /// What its port is plugged into.
    pub outside: Outside,
    /// Takes what crosses the wire.
    pub recording: Option<Recording>,
    /// Takes the events.
    pub trace: Trace,
    /// As in [`ChipHost::new`].
    pub signals: Option<StopSignals>,
    /// As in [`ChipHost::new`].
    pub once: bool,
}

impl ChipWorldConfig {
    /// A card whose connections are sockets of this machine, with nobody who watches it.
    #[must_use]
    pub fn new(chip: ChipConfig) -> Self {
        Self {
            chip,
            outside: Outside::default(),
            recording: None,
            trace: Trace::off(),
            signals: None,
            once: false,
        }
    }
}

/// All of a process that is a card: runner, host and card.
pub struct ChipWorld {
    /// Time, events, steps.
    pub exec: Executive,
    /// The card's host.
    pub host: Rc<RefCell<ChipHost>>,
    /// The card, for counters and listings.
    pub card: Card<Box<dyn TcpEngine>>,
}

impl ChipWorld {
    /// Assembles it, serving clients at `listener`.
    ///
    /// # Errors
    /// The operating system refuses a descriptor, or the port cannot be plugged in.
    pub fn new(config: ChipWorldConfig, listener: ChannelListener) -> Result<Self, PlugError> {
        let ChipWorldConfig { chip, outside, recording, trace, signals, once } = config;
        let reactor = Reactor::new()?;
        let (owner, network) = (reactor.owner()?, reactor.owner()?);
        let wakers = Wakers::default();
        let pace = Inline::new(reactor, wakers.clone(), false);
        let mut exec = Executive::new(Box::new(pace), Box::new(Secret::default()), trace);
        let place = exec.place();
        wakers.join(owner.index(), place.wake());
        wakers.join(network.index(), place.wake());
        let pages = doorbell_pages(&chip);
        let (tcp, wire) = outside.plug(&chip, network, recording.as_ref())?;
        let card = Card::new(Bcm5709::new(chip, Faults::new(), tcp).with_wire(wire));
        let name = ActorId::new("card", 0);
        let server = Server::new(name, Box::new(card.clone()), Capabilities::default(), pages)?;
        let host = ChipHost::new(server, listener, owner, place.wake(), signals, once)?;
        let host = Rc::new(RefCell::new(host));
        exec.install(&place, host.clone());
        Ok(Self { exec, host, card })
    }

    /// Lets signals pull the card's cable and plug it in.
    ///
    /// # Errors
    /// The operating system refuses the descriptor.
    pub fn watch_cable(&self, signals: CableSignals) -> io::Result<()> {
        let card = self.card.clone();
        self.host
            .borrow_mut()
            .watch_cable(signals, Box::new(move |inserted| card.with(|c| c.set_link(inserted))))
    }

    /// What is held for a client, on the card and in the slot: nothing when nobody is attached.
    #[must_use]
    pub fn held(&self) -> usize {
        let slot = self.host.borrow().server().holdings();
        let (connections, paths) = self.card.with(|c| c.in_use());
        slot.maps + slot.unsent + slot.deferred + connections + paths
    }
}
