//! The PCI seam: what a card offers ([`PciFunction`]), what a card may do to the host ([`HostPort`]), and
//! what a driver may do to a card ([`Platform`]).
//!
//! **Grants make revocation checkable.** A card takes a [`Grant`] when it creates a ring, a context or a
//! task, and names it in every DMA, publish and interrupt. Every reset, by register write too, advances the
//! [`Epoch`]; whatever still carries an old grant is refused. A driver frees quarantined memory only against
//! [`Revoked`].
//!
//! **Ordering.** Register writes and DMA writes are posted in order per direction, possibly late. A read is
//! answered only after all earlier writes, DMA included, have taken effect.

use std::ops::Range;

use thiserror::Error;

use crate::actor::{ActorId, Budget, Cx, Progress};
use crate::mem::DmaBuf;
use crate::streams::Streams;
use crate::time::Instant;
use crate::trace::{Event, EventKind, Trace};

/// A base address register, 0 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bar(pub u8);

/// Width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    B1,
    /// 16 bits.
    B2,
    /// 32 bits.
    B4,
    /// 64 bits.
    B8,
}

impl Width {
    /// Width in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B1 => 1,
            Self::B2 => 2,
            Self::B4 => 4,
            Self::B8 => 8,
        }
    }

    /// All ones in this width: what a read of an absent card returns.
    #[must_use]
    pub const fn ones(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// One BAR of a function. All are memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarLayout {
    /// Which register; a 64-bit BAR also takes the next one.
    pub bar: Bar,
    /// Size in bytes, a power of two of at least 4 KiB.
    pub size: u64,
    /// Whether it is a 64-bit BAR.
    pub wide: bool,
}

/// Where the MSI-X table and pending bits live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Offset of the capability in config space.
    pub capability: u8,
    /// Number of vectors, up to 64. 0: there is no such capability.
    pub vectors: u16,
    /// BAR of table and pending-bit array.
    pub bar: Bar,
    /// Offset of the table in the BAR.
    pub table: u32,
    /// Offset of the pending-bit array in the BAR.
    pub pba: u32,
}

/// Everything that the bus needs to know to own the standard part of config space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionLayout {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Class code, 24 bits: base class, subclass, programming interface.
    pub class: u32,
    /// Subsystem vendor and subsystem id.
    pub subsystem: (u16, u16),
    /// The BARs.
    pub bars: Vec<BarLayout>,
    /// Offset of the power management capability.
    pub pm: u8,
    /// Offset of the MSI capability (one vector, 64-bit address).
    pub msi: u8,
    /// The MSI-X capability.
    pub msix: MsixLayout,
    /// Offset of the PCI Express capability.
    pub pcie: u8,
}

/// How a function is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// The slot's reset (power-on state, config space included).
    Device,
    /// Function level reset through the PCI Express capability.
    Flr,
    /// Whoever was attached is gone.
    LostConnection,
}

/// What a reset threw away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetReport {
    /// Offloaded connections that existed.
    pub connections: u32,
    /// Tasks that were in progress.
    pub tasks: u32,
}

/// Counts revocations. Memory lent in one epoch cannot be reached in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

/// The card's permission to act on the host, good for one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant(pub(crate) Epoch);

impl Grant {
    /// The permission of `epoch`. For bus back ends and stand-ins for them; a card takes its own from
    /// [`HostPort::grant`].
    #[must_use]
    pub const fn of(epoch: Epoch) -> Self {
        Self(epoch)
    }

    /// The epoch that the grant belongs to.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        self.0
    }
}

/// An interrupt vector of the function, 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vector(pub u8);

/// A set of interrupt vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet(pub u64);

impl VectorSet {
    /// Adds a vector.
    pub fn insert(&mut self, v: Vector) {
        self.0 |= 1 << (v.0 & 63);
    }

    /// Whether the vector is in the set.
    #[must_use]
    pub const fn contains(self, v: Vector) -> bool {
        self.0 >> (v.0 & 63) & 1 == 1
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Why the bus refused a card's access to the host. Nothing was transferred.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DmaFault {
    /// The grant is of an earlier epoch: the card acts after a reset.
    #[error("grant revoked")]
    Revoked,
    /// The range is not DMA memory.
    #[error("DMA to unmapped {addr:#x}+{len:#x}")]
    Unmapped {
        /// First byte.
        addr: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The range is not lent in this direction (strict bus only).
    #[error("DMA to {addr:#x}+{len:#x}, which is not lent in this direction")]
    NotLent {
        /// First byte.
        addr: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The bus-master enable bit is off, or the function is not in D0.
    #[error("bus master is disabled")]
    NoBusMaster,
    /// The card is not in the slot.
    #[error("card removed")]
    Removed,
}

/// A word that a card publishes after everything it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// 16 bits, little-endian in memory.
    U16(u16),
    /// 32 bits, little-endian in memory.
    U32(u32),
}

/// What a card may do to the host. Writes are posted: in order, possibly late, never after a revocation.
pub trait HostPort {
    /// The permission of the current epoch.
    fn grant(&self) -> Grant;

    /// Ends the epoch. The card calls it in every reset, register-initiated ones too, before it forgets its
    /// rings. Posted writes of the old epoch that have not taken effect are dropped.
    fn revoke(&mut self) -> Epoch;

    /// Reads host memory, after all earlier writes of this card.
    ///
    /// # Errors
    /// See [`DmaFault`]; `out` is unchanged.
    fn dma_read(&mut self, addr: u64, out: &mut [u8], grant: Grant) -> Result<(), DmaFault>;

    /// Writes host memory.
    ///
    /// # Errors
    /// See [`DmaFault`]; nothing is written.
    fn dma_write(&mut self, addr: u64, data: &[u8], grant: Grant) -> Result<(), DmaFault>;

    /// Writes an aligned index or flag after all earlier DMA writes, in one piece.
    ///
    /// # Errors
    /// See [`DmaFault`]; nothing is written. A misaligned address counts as unmapped.
    fn publish(&mut self, addr: u64, word: Word, grant: Grant) -> Result<(), DmaFault>;

    /// Raises a message-signalled interrupt after all earlier DMA writes. With plain MSI any vector is vector
    /// 0; a masked MSI-X vector stays pending. Without a current grant nothing happens.
    fn msi(&mut self, vector: Vector, grant: Grant);

    /// Sets the level of INTx.
    fn intx(&mut self, asserted: bool);

    /// A config dword that the bus owns, for a card that mirrors config space in a BAR. `None`: the bus does
    /// not own it, or this back end does not show it.
    fn config(&self, _at: u16) -> Option<u32> {
        None
    }
}

/// What a card may use while it handles an access or a step.
pub struct DevCx<'a> {
    /// The current time.
    pub now: Instant,
    /// The card's name in events.
    pub actor: ActorId,
    /// Named random streams.
    pub rng: &'a mut dyn Streams,
    /// Where events go.
    pub trace: &'a mut Trace,
    /// The host.
    pub host: &'a mut dyn HostPort,
}

impl DevCx<'_> {
    /// Emits an event of the card, now.
    #[inline]
    pub fn event(&mut self, kind: EventKind, a: u64, b: u64) {
        self.trace.emit(|| Event { time: self.now, actor: self.actor, kind, a, b });
    }

    fn refused(&mut self, addr: u64, fault: DmaFault) -> DmaFault {
        let cause = match fault {
            DmaFault::Revoked => 1,
            DmaFault::Unmapped { .. } => 2,
            DmaFault::NotLent { .. } => 3,
            DmaFault::NoBusMaster => 4,
            DmaFault::Removed => 5,
        };
        self.event(EventKind::DmaRefused, addr, cause);
        fault
    }

    /// [`HostPort::dma_read`], traced.
    ///
    /// # Errors
    /// As there.
    pub fn dma_read(&mut self, addr: u64, out: &mut [u8], grant: Grant) -> Result<(), DmaFault> {
        self.event(EventKind::DmaRead, addr, out.len() as u64);
        self.host.dma_read(addr, out, grant).map_err(|f| self.refused(addr, f))
    }

    /// [`HostPort::dma_write`], traced.
    ///
    /// # Errors
    /// As there.
    pub fn dma_write(&mut self, addr: u64, data: &[u8], grant: Grant) -> Result<(), DmaFault> {
        self.event(EventKind::DmaWrite, addr, data.len() as u64);
        self.host.dma_write(addr, data, grant).map_err(|f| self.refused(addr, f))
    }

    /// [`HostPort::publish`], traced.
    ///
    /// # Errors
    /// As there.
    pub fn publish(&mut self, addr: u64, word: Word, grant: Grant) -> Result<(), DmaFault> {
        let value = match word {
            Word::U16(v) => u64::from(v),
            Word::U32(v) => u64::from(v),
        };
        self.event(EventKind::Publish, addr, value);
        self.host.publish(addr, word, grant).map_err(|f| self.refused(addr, f))
    }

    /// [`HostPort::msi`], traced.
    pub fn msi(&mut self, vector: Vector, grant: Grant) {
        self.event(EventKind::Interrupt, u64::from(vector.0), 0);
        self.host.msi(vector, grant);
    }
}

/// A card: device-specific registers and behaviour. The standard part of config space, the MSI-X table and
/// the interrupt switches are the bus's.
pub trait PciFunction {
    /// Identity, BARs and capabilities. Constant.
    fn layout(&self) -> &FunctionLayout;

    /// Answers a register read. `at` is inside the BAR; unaligned accesses do not get here.
    fn read(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width) -> u64;

    /// Handles a register or doorbell write.
    fn write(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width, value: u64);

    /// Answers a read of a config dword that the bus does not own.
    fn config_read(&mut self, cx: &mut DevCx<'_>, at: u16) -> u32;

    /// Handles a write of a config dword that the bus does not own. Bytes outside `mask` keep their value.
    fn config_write(&mut self, cx: &mut DevCx<'_>, at: u16, value: u32, mask: u32);

    /// Does at most `budget` work items: fetches rings, moves data, fires timers. Never blocks.
    fn step(&mut self, cx: &mut DevCx<'_>, budget: Budget) -> Progress;

    /// Resets the function. Revokes the epoch, drops rings, contexts and timers.
    fn reset(&mut self, cx: &mut DevCx<'_>, kind: ResetKind) -> ResetReport;
}

/// The card did not answer: its process is gone or has not answered for a second. On an in-process bus an
/// absent card reads as all ones instead, as on a real bus.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the card does not answer")]
pub struct BusLost;

/// No DMA memory left within the platform's limit. Nothing was allocated.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("out of DMA memory: {asked} bytes for {tag} would exceed the limit of {limit}")]
pub struct DmaExhausted {
    /// Bytes asked for.
    pub asked: usize,
    /// What for.
    pub tag: &'static str,
    /// The platform's limit in bytes.
    pub limit: usize,
}

/// Direction of a loan, seen from the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// The card may read (data out of the host).
    ToCard,
    /// The card may write (data into the host).
    FromCard,
    /// Both.
    Both,
}

impl Dir {
    /// Whether the card may read.
    #[must_use]
    pub const fn card_reads(self) -> bool {
        matches!(self, Self::ToCard | Self::Both)
    }

    /// Whether the card may write.
    #[must_use]
    pub const fn card_writes(self) -> bool {
        matches!(self, Self::FromCard | Self::Both)
    }
}

/// A part of a buffer that the card may touch until it is reclaimed. It must be given back with
/// [`Platform::reclaim`]; a platform counts the loans that are out, and an audit finds the lost ones.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a loan is reclaimed with proof that the card is done with it"]
pub struct Loan {
    pub(crate) id: u32,
    pub(crate) addr: u64,
    pub(crate) len: usize,
}

impl Loan {
    /// Bus address of the first byte lent.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Bytes lent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len
    }
}

/// Why the driver believes that the card is done with a loan (ARCHITECTURE 7, rule 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The task's final CQE.
    Completed,
    /// The task's cleanup CQE.
    CleanedUp,
    /// The connection's DESTROY was answered.
    Destroyed,
    /// The card never learnt of it.
    NeverPosted,
    /// The epoch that it was lent in is over.
    Revoked(Revoked),
}

/// Proof that a revocation took effect: no access of an earlier epoch can happen any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    pub(crate) until: Epoch,
}

impl Revoked {
    /// The epoch that began.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        self.until
    }
}

/// A doorbell location that the driver has mapped. It belongs to one epoch: a store through it after a reset
/// vanishes, so that a late store cannot look fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// The BAR.
    pub bar: Bar,
    /// Offset in the BAR, in bytes.
    pub at: u64,
    pub(crate) epoch: Epoch,
}

/// What a driver may do to a card. A type parameter of the driver, not a trait object.
pub trait Platform {
    /// Reads a config dword; `at` is a multiple of 4.
    ///
    /// # Errors
    /// [`BusLost`].
    fn config_read(&mut self, cx: &mut Cx<'_>, at: u16) -> Result<u32, BusLost>;

    /// Writes a config dword; `at` is a multiple of 4.
    fn config_write(&mut self, cx: &mut Cx<'_>, at: u16, value: u32);

    /// Reads a register, after all earlier writes in both directions.
    ///
    /// # Errors
    /// [`BusLost`]. A removed card reads as all ones.
    fn read32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64) -> Result<u32, BusLost>;

    /// Posts a 16-bit register write.
    fn write16(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u16);

    /// Posts a 32-bit register write.
    fn write32(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, value: u32);

    /// Maps a doorbell location for this epoch.
    fn map_doorbell(&mut self, bar: Bar, at: u64) -> Doorbell;

    /// Posts a 16-bit doorbell write at `offset` bytes from the mapped location.
    fn doorbell(&mut self, cx: &mut Cx<'_>, db: Doorbell, offset: u64, value: u16);

    /// Allocates zeroed, page-aligned DMA memory. Nothing of it is lent yet.
    ///
    /// # Errors
    /// [`DmaExhausted`] beyond the platform's limit.
    fn dma_alloc(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted>;

    /// DMA memory for a third party, such as the helper: where it lives in a file, the file holds nothing
    /// else. A platform that wraps another one hands this on; that is why there is no default.
    ///
    /// # Errors
    /// As [`Platform::dma_alloc`].
    fn dma_alloc_apart(&mut self, len: usize, tag: &'static str) -> Result<DmaBuf, DmaExhausted>;

    /// Frees DMA memory. Every loan of it must have been reclaimed; freeing lent memory is a violation that
    /// the strict bus records.
    fn dma_free(&mut self, buf: DmaBuf);

    /// Lets the card touch `range` of `buf` in this epoch. Panics when the range leaves the buffer.
    fn lend(&mut self, buf: &DmaBuf, range: Range<usize>, dir: Dir) -> Loan;

    /// Takes a loan back. With [`Proof::Revoked`] the proof must be younger than the loan; the strict bus
    /// records a violation otherwise.
    fn reclaim(&mut self, loan: Loan, proof: Proof);

    /// Takes the interrupts that arrived. A level interrupt is reported for as long as it is asserted.
    fn take_interrupts(&mut self) -> VectorSet;

    /// The current epoch.
    fn epoch(&self) -> Epoch;

    /// Resets the function from outside (FLR or slot reset).
    ///
    /// # Errors
    /// [`BusLost`].
    fn reset(&mut self, cx: &mut Cx<'_>, kind: ResetKind) -> Result<Revoked, BusLost>;

    /// Proof that the epoch `since` is over, if it is: how a driver that reset the card by a register write
    /// learns that it worked. Flushes posted writes first, as a read does. A removed card has been revoked.
    ///
    /// # Errors
    /// [`BusLost`].
    fn revoked(&mut self, cx: &mut Cx<'_>, since: Epoch) -> Result<Option<Revoked>, BusLost>;
}
