//! A card in another process, as a driver's platform: the client side of a vfio-user socket.
//!
//! [`FarCard`] is the handle that an adapter drives, and that its maker keeps for audits; [`FarLink`] is the
//! actor that has the socket and the interrupts watched while the adapter sleeps. Each access of the driver
//! can be counted and acted on before it happens ([`FarCard::at_crossing`]): that is where tests pull the
//! plug.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bus::inproc::Audit;
use bus::mem::DmaBuf;
use bus::pci::{
    Bar, BusLost, Dir, DmaExhausted, Doorbell, Epoch, Loan, Platform, Proof, ResetKind, Revoked, VectorSet,
};
use bus::trace::EventKind;
use bus::vfio_user::client::{AttachError, Client, ClientConfig};
use bus::vfio_user::link::SocketLink;
use bus::wake::Wake;
use bus::{Actor, ActorId, Budget, Cx, Progress};
use os::reactor::{Owner, Ready};

/// Called with the number of the access that comes next, from 1.
pub type CrossingHook = Box<dyn FnMut(u64)>;

struct Inner {
    client: Client<SocketLink>,
    crossings: u64,
    hook: Option<CrossingHook>,
}

/// A handle on a card in another process. See the module.
#[derive(Clone)]
pub struct FarCard(Rc<RefCell<Inner>>);

impl FarCard {
    /// Attaches to the card behind `link`.
    ///
    /// # Errors
    /// Why there is none that could be used.
    pub fn attach(cx: &mut Cx<'_>, link: SocketLink, config: ClientConfig) -> Result<Self, AttachError> {
        let client = Client::attach(cx, link, config)?;
        Ok(Self(Rc::new(RefCell::new(Inner { client, crossings: 0, hook: None }))))
    }

    /// Calls `hook` before each register access and doorbell from now on.
    pub fn at_crossing(&self, hook: CrossingHook) {
        self.0.borrow_mut().hook = Some(hook);
    }

    /// Register accesses and doorbells so far.
    #[must_use]
    pub fn crossings(&self) -> u64 {
        self.0.borrow().crossings
    }

    /// Whether the card's process is gone or has stopped answering.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.borrow().client.is_lost()
    }

    /// What is out. What the card was refused, its own process counts.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let a = self.0.borrow().client.audit();
        Audit {
            buffers: a.buffers,
            bytes: a.bytes,
            loans: a.loans,
            stale_doorbells: a.stale_doorbells,
            ..Audit::default()
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Client<SocketLink>) -> R) -> R {
        f(&mut self.0.borrow_mut().client)
    }

    /// An access that crosses to the other process.
    fn cross<R>(
        &self,
        cx: &mut Cx<'_>,
        event: (EventKind, u64, u64),
        f: impl FnOnce(&mut Client<SocketLink>, &mut Cx<'_>) -> R,
    ) -> R {
        let inner = &mut *self.0.borrow_mut();
        inner.crossings += 1;
        if let Some(hook) = &mut inner.hook {
            hook(inner.crossings);
        }
        cx.event(event.0, event.1, event.2);
        f(&mut inner.client, cx)
    }
}

impl Platform for FarCard {
    fn config_read(&mut self, cx: &mut Cx<'_>, at: u16) -> Result<u32, BusLost> {
        self.cross(cx, (EventKind::RegisterRead, at.into(), 0), |c, cx| c.config_read(cx, at))
    }

    fn config_write(&mut self, cx: &mut Cx<'_>, at: u16, value: u32) {
        let event = (EventKind::RegisterWrite, at.into(), value.into());
        self.cross(cx, event, |c, cx| c.config_write(cx, at, value));
    }

    fn read32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64) -> Result<u32, BusLost> {
        self.cross(cx, (EventKind::RegisterRead, at, 0), |c, cx| c.read32(cx, bar, at))
    }

    fn write16(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u16) {
        let event = (EventKind::RegisterWrite, at, value.into());
        self.cross(cx, event, |c, cx| c.write16(cx, bar, at, value));
    }

    fn write32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u32) {
        let event = (EventKind::RegisterWrite, at, value.into());
        self.cross(cx, event, |c, cx| c.write32(cx, bar, at, value));
    }

    fn map_doorbell(&mut self, bar: Bar, at: u64) -> Doorbell {
        self.with(|c| c.map_doorbell(bar, at))
    }

    fn doorbell(&mut self, cx: &mut Cx<'_>, db: Doorbell, offset: u64, value: u16) {
        let event = (EventKind::Doorbell, db.at + offset, value.into());
        self.cross(cx, event, |c, cx| c.doorbell(cx, db, offset, value));
    }

    fn dma_alloc(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted> {
        self.with(|c| c.dma_alloc(len, tag))
    }

    fn dma_alloc_apart(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted> {
        self.with(|c| c.dma_alloc_apart(len, tag))
    }

    fn dma_free(&mut self, buf: DmaBuf) {
        self.with(|c| c.dma_free(buf));
    }

    fn lend(&mut self, buf: &DmaBuf, range: Range<usize>, dir: Dir) -> Loan {
        self.with(|c| c.lend(buf, range, dir))
    }

    fn reclaim(&mut self, loan: Loan, proof: Proof) {
        self.with(|c| c.reclaim(loan, proof));
    }

    fn take_interrupts(&mut self) -> VectorSet {
        self.with(Client::take_interrupts)
    }

    fn epoch(&self) -> Epoch {
        self.with(|c| c.epoch())
    }

    fn reset(&mut self, cx: &mut Cx<'_>, kind: ResetKind) -> Result<Revoked, BusLost> {
        self.with(|c| c.reset(cx, kind))
    }

    fn revoked(&mut self, cx: &mut Cx<'_>, since: Epoch) -> Result<Option<Revoked>, BusLost> {
        self.with(|c| c.revoked(cx, since))
    }
}

/// Token of the socket; the interrupts follow.
const SOCKET: u32 = 0;

/// Watches the socket and the interrupts of a card in another process. See the module.
pub struct FarLink {
    card: FarCard,
    owner: Owner,
    host: Wake,
    ready: Vec<Ready>,
    lost: bool,
}

impl FarLink {
    /// Watches `card` and wakes `host` for its interrupts. The runner wakes the actor for `owner`.
    ///
    /// # Errors
    /// The reactor refuses the descriptors.
    pub fn new(card: FarCard, owner: Owner, host: Wake) -> io::Result<Self> {
        card.with(|client| {
            owner.register(client.link(), SOCKET)?;
            (SOCKET + 1..).zip(client.interrupts()).try_for_each(|(token, fd)| owner.register(&fd, token))
        })?;
        Ok(Self { card, owner, host, ready: Vec::new(), lost: false })
    }
}

impl Actor for FarLink {
    fn name(&self) -> ActorId {
        ActorId::new("far-link", 0)
    }

    fn step(&mut self, cx: &mut Cx<'_>, _: Budget) -> Progress {
        self.owner.drain(&mut self.ready);
        let done = self.ready.len() as u32;
        if self.ready.iter().any(|r| r.token == SOCKET) {
            self.card.with(|client| client.pump(cx));
        }
        if self.ready.drain(..).any(|r| r.token != SOCKET) {
            self.host.wake();
        }
        if self.card.is_lost() && !std::mem::replace(&mut self.lost, true) {
            cx.event(EventKind::Removal, 1, 0);
            self.host.wake();
        }
        Progress { done, next: None }
    }
}
