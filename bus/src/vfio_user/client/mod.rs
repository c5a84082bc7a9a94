//! The client: a card in another process, as a [`crate::pci::Platform`] for a driver.
//!
//! Registers are messages; writes are posted, and a read waits at most [`DEADLINE`] for its answer. While it
//! waits, it serves the card's requests for memory. DMA memory is one file that both processes map, doorbells
//! are mapped pages where the server offers them, interrupts are eventfds. As in a virtual machine, the
//! capabilities for MSI and MSI-X, table and masks included, are kept on this side: enabling one installs its
//! eventfds with the server.
//!
//! A server that does not answer in time, closes the socket or makes no sense is lost for good, like a card
//! that was pulled: reads answer [`crate::pci::BusLost`], the epoch ends, and no memory of this client is
//! ever used again by another.
//!
//! Not modelled: an IOMMU (all DMA memory is mapped from the beginning), strict loans.

mod platform;
mod pool;
mod probe;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use os::event::{Event, Signal};
use thiserror::Error;

use crate::actor::Cx;
use crate::gate::Gate;
use crate::mem::PAGE_SIZE;
use crate::pci::{Bar, Epoch, VectorSet};
use crate::time::Instant;

use super::doorbell::STATE_EPOCH;
use super::errno::Errno;
use super::link::{Link, Turn};
use super::message::{
    Command, INFO_BYTES, IRQ_INTX, IRQ_MSI, IRQ_MSIX, MAP_READ, MAP_WRITE, PCI_REGIONS, REGION_CONFIG,
    REGION_SLOT, Request, SET_EVENTFD, SET_NONE, SET_TRIGGER, u32_at,
};
use super::version::{Capabilities, MAJOR, MINOR};
use super::wire::{Inbox, Outbox};
use pool::Pool;
use probe::Area;
use session::{CallError, REGION_INFO_LIMIT, Session};

pub use pool::POOL_BASE;

/// Bus address of memory that is not in the pool: behind the largest one.
const APART_BASE: u64 = 1 << 44;
/// How long an answer may take.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// What kind of client to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Bytes of DMA memory.
    pub dma_limit: usize,
    /// Hand the memory to the card's process. If not, the card asks for every byte in messages.
    pub share: bool,
    /// Map the doorbell pages, if the server has some. If not, doorbells are messages.
    pub doorbells: bool,
}

impl Default for ClientConfig {
    /// 1 GiB, shared, with doorbells.
    fn default() -> Self {
        Self { dma_limit: 1 << 30, share: true, doorbells: true }
    }
}

/// Why no card could be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The server closed the socket or did not answer in time.
    #[error("the vfio-user server does not answer")]
    Lost,
    /// The server refused.
    #[error("the vfio-user server refused {0:?}: {1}")]
    Refused(Command, Errno),
    /// The server answered something that cannot be.
    #[error("the vfio-user server answered {0:?} with nonsense")]
    Malformed(Command),
    /// The device is none that a driver of ours can use.
    #[error("the device lacks what a driver needs: {0}")]
    Unusable(&'static str),
    /// No memory or descriptor is left.
    #[error("cannot make DMA memory or interrupts: {0}")]
    Resources(#[from] io::Error),
}

/// What is out: the end-of-run audit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientAudit {
    /// DMA allocations not yet freed.
    pub buffers: usize,
    /// Their bytes, in whole pages.
    pub bytes: usize,
    /// Loans not yet reclaimed.
    pub loans: usize,
    /// Doorbell writes dropped because they were of an earlier epoch.
    pub stale_doorbells: u64,
    /// Messages of the server that nobody asked for.
    pub strays: u64,
}

impl CallError {
    fn at(self, c: Command) -> AttachError {
        match self {
            Self::Lost => AttachError::Lost,
            Self::Refused(e) => AttachError::Refused(c, e),
            Self::Malformed => AttachError::Malformed(c),
        }
    }
}

/// Doorbells without messages.
struct Mapped {
    bar: Bar,
    pages: Area,
    /// Words of each page that were rung since the page was mapped for whoever uses it now, a bit each.
    rung: Vec<u64>,
    state: Area,
    kick: Signal,
}

/// A driver's end of a slot in another process.
pub struct Client<L> {
    session: Session<L>,
    gate: Gate,
    /// Of the last access; taking interrupts has no time of its own.
    now: Instant,
    has_slot: bool,
    maps_doorbells: bool,
    shares: bool,
    mapped: Option<Mapped>,
    intx: Event,
    msi: Event,
    msix: Vec<Event>,
    routed: Option<u32>,
    arrived: VectorSet,
    loans: usize,
    next_loan: u32,
    stale_doorbells: u64,
}

impl<L: Link> Client<L> {
    /// Attaches to the card behind `link`: agrees on a version, learns the layout, hands over the DMA memory.
    ///
    /// # Errors
    /// [`AttachError`]; the link is dropped.
    pub fn attach(cx: &mut Cx<'_>, link: L, config: ClientConfig) -> Result<Self, AttachError> {
        let now = cx.now;
        let ours = Capabilities::default();
        let mut s = Session {
            link,
            inbox: Inbox::new(ours.max_data, ours.max_fds),
            outbox: Outbox::default(),
            next_id: 0,
            peer: ours,
            pool: Pool::new(config.dma_limit)?,
            apart: BTreeMap::new(),
            next_apart: APART_BASE,
            lost: false,
            strays: 0,
        };
        let data = ours.encode();
        let hello = Request::Version { major: MAJOR, minor: MINOR, data: &data };
        s.peer = s
            .call(now, &hello, Vec::new(), |p, _| match Request::parse(Command::Version as u16, p, 0) {
                Ok(Request::Version { major: MAJOR, minor, data }) if minor <= MINOR => {
                    Capabilities::decode(data).ok()
                }
                _ => None,
            })
            .map_err(|e| e.at(Command::Version))?;
        let regions = s
            .call(now, &Request::DeviceInfo, Vec::new(), |p, _| {
                (p.len() >= INFO_BYTES && u32_at(p, 12) > IRQ_MSIX).then(|| u32_at(p, 8))
            })
            .map_err(|e| e.at(Command::DeviceInfo))?;
        if regions <= REGION_CONFIG {
            return Err(AttachError::Unusable("config space"));
        }
        let mut sizes = [0; 6];
        for (i, size) in sizes.iter_mut().enumerate() {
            let (info, _) = s.region_info(now, i as u32).map_err(|e| e.at(Command::RegionInfo))?;
            *size = info.size;
        }
        let mut space = [0; 256];
        s.read(now, REGION_CONFIG, 0, &mut space).map_err(|e| e.at(Command::RegionRead))?;
        let layout =
            probe::layout(&space, sizes).ok_or(AttachError::Unusable("PM, MSI, MSI-X or PCIe capability"))?;
        let vectors = usize::from(layout.msix.vectors);
        let mut client = Self {
            gate: Gate::new(&layout),
            now,
            has_slot: s.peer.slot && regions > PCI_REGIONS,
            maps_doorbells: config.doorbells,
            shares: config.share,
            session: s,
            mapped: None,
            intx: Event::new()?,
            msi: Event::new()?,
            msix: (0..vectors).map(|_| Event::new()).collect::<Result<_, _>>()?,
            routed: None,
            arrived: VectorSet::default(),
            loans: 0,
            next_loan: 1,
            stale_doorbells: 0,
        };
        client.share(now, config.share).map_err(|e| e.at(Command::DmaMap))?;
        client.install(now, IRQ_INTX).map_err(|e| e.at(Command::SetIrqs))?;
        if client.has_slot {
            client.gate.epoch = client.remote_epoch(now).map_err(|e| e.at(Command::RegionRead))?;
            client.map_doorbells(now).map_err(|e| e.at(Command::RegionInfo))?;
        }
        Ok(client)
    }

    fn share(&mut self, now: Instant, with_file: bool) -> Result<(), CallError> {
        let pool = &self.session.pool;
        let (flags, size) = (MAP_READ | MAP_WRITE, pool.len() as u64);
        let fds = if with_file { vec![pool.file.clone()] } else { Vec::new() };
        let map = Request::DmaMap { flags, offset: 0, addr: POOL_BASE, size };
        self.session.call(now, &map, fds, |_, _| Some(()))
    }

    fn install(&mut self, now: Instant, index: u32) -> Result<(), CallError> {
        let events = match index {
            IRQ_INTX => std::slice::from_ref(&self.intx),
            IRQ_MSI => std::slice::from_ref(&self.msi),
            _ => &self.msix,
        };
        self.session.set_irqs(now, SET_EVENTFD | SET_TRIGGER, index, events)
    }

    /// Lets the server signal what config space has enabled, and nothing else besides INTx.
    fn route(&mut self, now: Instant) -> Result<(), CallError> {
        let wanted = match (self.gate.config.msix_enabled(), self.gate.config.msi_enabled()) {
            (true, _) => Some(IRQ_MSIX),
            (false, true) => Some(IRQ_MSI),
            _ => None,
        };
        if wanted == self.routed {
            return Ok(());
        }
        if let Some(index) = self.routed.take() {
            self.session.set_irqs(now, SET_NONE | SET_TRIGGER, index, &[])?;
        }
        if let Some(index) = wanted {
            self.install(now, index)?;
        }
        self.routed = wanted;
        Ok(())
    }

    /// The server's epoch. It never runs backwards, and never ends.
    fn remote_epoch(&mut self, now: Instant) -> Result<Epoch, CallError> {
        let epoch = Epoch(self.session.read32(now, REGION_SLOT, STATE_EPOCH as u64)?);
        if epoch < self.gate.epoch || epoch.0 == u32::MAX { Err(CallError::Malformed) } else { Ok(epoch) }
    }

    /// Maps the doorbell pages of this epoch. Without them doorbells are messages.
    fn map_doorbells(&mut self, now: Instant) -> Result<(), CallError> {
        self.mapped = None;
        if !self.maps_doorbells {
            return Ok(());
        }
        let (state, state_fd) = self.session.region_info(now, REGION_SLOT)?;
        for bar in 0..6 {
            let (info, fd) = self.session.region_info(now, bar)?;
            let (Some(fd), Some(state_fd)) = (fd, &state_fd) else { continue };
            let (Some(pages), Some(state)) = (info.map(&fd, true), state.map(state_fd, false)) else {
                continue;
            };
            let request = Request::RegionIoFds { argsz: REGION_INFO_LIMIT, flags: 0, index: bar };
            let kick = self.session.call(now, &request, Vec::new(), |_, fds| {
                fds.into_iter().next().and_then(|fd| Signal::adopt(fd).ok())
            })?;
            let rung = vec![0; pages.memory.len().div_ceil(PAGE_SIZE)];
            self.mapped = Some(Mapped { bar: Bar(bar as u8), pages, rung, state, kick });
            break;
        }
        Ok(())
    }

    /// The epoch as the server knows it; when it has changed, what was of the old one is forgotten.
    fn refresh(&mut self, now: Instant) -> Result<(), CallError> {
        let epoch = self.remote_epoch(now)?;
        if epoch != self.gate.epoch {
            self.renew(epoch);
            self.map_doorbells(now)?;
        }
        Ok(())
    }

    fn renew(&mut self, epoch: Epoch) {
        self.gate.config.clear_interrupts();
        self.gate.epoch = epoch;
        self.arrived = VectorSet::default();
        self.mapped = None;
        for e in [&self.intx, &self.msi].into_iter().chain(&self.msix) {
            e.take();
        }
    }

    /// Ends everything when the server is lost; says whether it is.
    fn check(&mut self) -> bool {
        // The server has shrunk what it lets us ring.
        self.session.lost |=
            self.mapped.as_ref().is_some_and(|m| m.pages.memory.is_lost() || m.state.memory.is_lost());
        if self.session.lost && !self.gate.removed {
            let next = Epoch(self.gate.epoch.0 + 1);
            self.renew(next);
            self.gate.removed = true;
        }
        self.session.lost
    }

    /// Sends and receives what is possible without waiting, and serves the card's requests. To be called when
    /// the link is ready outside of an access.
    pub fn pump(&mut self, cx: &mut Cx<'_>) {
        self.now = cx.now;
        if !self.check() {
            let s = &mut self.session;
            s.lost = s.link.turn(&mut s.outbox, &mut s.inbox, cx.now) == Turn::Lost;
            s.settle(cx.now);
            self.check();
        }
    }

    /// Whether the server is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.session.lost
    }

    /// The link, for a runner that waits on it.
    #[must_use]
    pub fn link(&self) -> &L {
        &self.session.link
    }

    /// Ready to read when an interrupt arrived: INTx, MSI, then the MSI-X vectors.
    pub fn interrupts(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        [&self.intx, &self.msi].into_iter().chain(&self.msix).map(|e| e.as_fd())
    }

    /// Whether doorbells are mapped pages.
    #[must_use]
    pub fn has_mapped_doorbells(&self) -> bool {
        self.mapped.is_some()
    }

    /// What is out.
    #[must_use]
    pub fn audit(&self) -> ClientAudit {
        let pool = &self.session.pool;
        ClientAudit {
            buffers: pool.buffers + self.session.apart.len(),
            bytes: pool.bytes
                + self.session.apart.values().map(|m| m.len().next_multiple_of(PAGE_SIZE)).sum::<usize>(),
            loans: self.loans,
            stale_doorbells: self.stale_doorbells,
            strays: self.session.strays,
        }
    }
}
