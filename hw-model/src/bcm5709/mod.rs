//! The 5709-class front end: a PCI function over the offload engine.
//!
//! In the real chip this is the bus interface with its register blocks, boot code, host coalescing, the
//! mailbox queue, and the firmware of the command and completion processors. A host reaches it through config
//! space, registers, mailboxes and rings, and through nothing else; the bus is the caller. The front end owns
//! the register file, context memory, status blocks, the kernel queues, and the ids of contexts and path
//! groups; connections and tasks are the [`Engine`]'s.
//!
//! Registers and doorbells only change state. Everything that touches host memory happens in
//! [`PciFunction::step`], in this order: kernel work requests, the engine, kernel completions, Ethernet
//! rings, status blocks, interrupts. Reset is the reverse of everything: the epoch is revoked first, then all
//! that a host set up is forgotten; shared memory stays, unless the slot is reset.
//!
//! Not modelled: firmware images (kept as memory, not run), the management processor beyond its answers,
//! wake-up, self-tests, and what the submodules name.

mod access;
mod card;
mod conn;
mod control;
mod fixed;
mod hc;
mod krnlq;
mod mem;
mod net;
mod nvram;
mod phy;
pub mod reference;
pub mod regs;
mod shmem;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bus::pci::{
    Bar, BarLayout, DevCx, DmaFault, FunctionLayout, Grant, MsixLayout, PciFunction, ResetKind, ResetReport,
    Width,
};
use bus::trace::EventKind;
use bus::vfio_user::doorbell::DoorbellLayout as PageLayout;
use bus::{Budget, Instant, Progress};
use hsi::bcm5709::regs as hw;
use hsi::bcm5709::regs::config_space as cs;
use hsi::bcm5709::status_block::{
    STATUS_ATTN_BITS_CMD_PROCESSOR_ABORT, STATUS_ATTN_BITS_COMPLETION_ABORT, STATUS_ATTN_BITS_LINK_STATE,
};
use hsi::bcm5709::{ctx, doorbell};
use hsi::kernel::kcq::Kcqe;
use hsi::kernel::kwq::Kwqe;

use crate::config::{ChipConfig, DoorbellLayout, LinkSpeed};
use crate::engine::{Engine, EngineEvents};
use crate::fault::{FaultPoint, Faults};
use crate::tcp::TcpEngine;
use crate::wire::{NoPeer, Wire};
pub use card::Card;
use conn::{CID_STEP, Connections, FIRST_CID, PathGroups, TABLE};
use control::{ANSWERS, Pair};
use hc::{HostCoalescing, VECTORS};
use krnlq::{Kcq, Kwq};
use mem::SparseMem;
use net::{Chip, Rings};
use nvram::Nvram;
use phy::Phy;
use regs::{RegisterFile, Space};

/// KWQEs fetched and not yet executed, at most.
const KWQE_FETCH: usize = 64;

/// First argument of [`EventKind::Reset`] for a reset by register write, next to the [`ResetKind`]s.
const RESET_BY_REGISTER: u64 = 3;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the front end. They only grow; a reset of the chip does not clear them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct FrontCounters { $($(#[$doc])* pub $name: u64,)* }

        impl FrontCounters {
            /// Names and values, in order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// KWQEs executed.
    kwqes,
    /// KCQEs written.
    kcqes,
    /// CQ events that joined one that was still waiting.
    cq_events_joined,
    /// Interrupts raised.
    interrupts,
    /// Resets of whatever kind.
    resets,
    /// KWQEs of an unknown layer or opcode; they are not answered.
    unknown_kwqes,
    /// Parts of a KWQE pair without the other part.
    orphan_kwqes,
    /// KWQEs for a context or path group that does not exist.
    unknown_contexts,
    /// KWQEs in a state that does not allow them.
    host_errors,
    /// Doorbells of a kernel queue with an index that the ring cannot have.
    bad_doorbells,
    /// Doorbells for a context that has none.
    stray_doorbells,
    /// Go words for a ring that its context does not describe.
    bad_rings,
    /// Kernel queues that stopped because they could not be read or written.
    ring_faults,
    /// Status blocks that could not be written.
    status_faults,
    /// Steps in which the chip waited for the host to consume KCQEs.
    kcq_stalls,
    /// Events of the engine for a connection that is gone.
    stale_events,
    /// Frames sent through Ethernet rings; the segments of a large send count one by one.
    tx_frames,
    /// Of those, how many had no link to go to.
    tx_without_link,
    /// Descriptors that made no frame, and large sends that were no TCP.
    tx_malformed,
    /// Frames put into Ethernet rings. One that goes into two rings counts twice.
    rx_frames,
    /// Frames that no sort rule took.
    rx_filtered,
    /// Frames for which a ring had no descriptor.
    rx_no_buffer,
    /// Times that the partner was paused because a ring was full.
    rx_paused,
    /// Frames longer than the driver allows, or than its buffer.
    rx_oversize,
    /// Frames too short to have a header.
    rx_runts,
    /// Accesses that no register takes: narrower than 32 bits, or in a BAR that is not there.
    bad_accesses,
}

/// The card. [`Card`] is a handle on it that its maker can keep while the card sits in a slot.
pub struct Bcm5709<T> {
    layout: FunctionLayout,
    config: ChipConfig,
    faults: Faults,
    counters: FrontCounters,
    regs: RegisterFile,
    context: SparseMem,
    host_pages: Vec<(u32, u32)>,
    hc: HostCoalescing,
    kwq: Kwq,
    kcq: Kcq,
    kwqes: VecDeque<Kwqe>,
    pair: Option<Pair>,
    connections: Connections,
    paths: PathGroups,
    engine: Engine<T>,
    events: EngineEvents,
    /// KCQEs of one post, on their way to the bookkeeping.
    written: Vec<Kcqe>,
    rings: Rings,
    phy: Phy,
    nvram: Nvram,
    /// The cable as the world has plugged it.
    cable: bool,
    /// The link as the host was told last.
    link: bool,
    mute: bool,
    /// A defect: one more write to the completion queue of before the reset.
    late: Option<(u64, Grant)>,
}

impl<T: TcpEngine> Bcm5709<T> {
    /// A card in its power-on state. `faults` is the handle that arms its fault points.
    pub fn new(config: ChipConfig, faults: Faults, tcp: T) -> Self {
        let connections = Connections::new(config.contexts);
        let paths = PathGroups::new(config.path_groups);
        let straps = [
            (hw::MQ_CONFIG2, mq_config2(config.doorbells)),
            (hw::ISCSI_CTX_MAP, connections.map()),
            (hw::PG_CTX_MAP, paths.map()),
            (hw::FW_MAX_ISCSI_CONN, config.licensed_connections.into()),
        ];
        let mut card = Self {
            layout: layout(&config),
            regs: RegisterFile::new(&config, &straps),
            context: SparseMem::new(ctx::MAX_CID_ADDR),
            host_pages: vec![(0, 0); hw::CTX_HOST_PAGE_TBL_CTRL_PAGE_TBL_ADDR as usize + 1],
            hc: HostCoalescing::new(),
            kwq: Kwq::new(),
            kcq: new_kcq(&config),
            kwqes: VecDeque::with_capacity(KWQE_FETCH),
            pair: None,
            connections,
            paths,
            // The engine's slots are the host's indexes; how many of them have a context is decided here.
            engine: Engine::new(
                &ChipConfig { contexts: TABLE as u16, ..config.clone() },
                faults.clone(),
                tcp,
            ),
            events: EngineEvents::new(),
            written: Vec::new(),
            counters: FrontCounters::default(),
            rings: Rings::new(Box::new(NoPeer)),
            phy: Phy::new(&config),
            nvram: Nvram::new(&config),
            cable: config.link == LinkSpeed::Gigabit,
            link: config.link == LinkSpeed::Gigabit,
            mute: false,
            late: None,
            config,
            faults,
        };
        card.engine.set_carrier(card.link);
        card.show_link();
        card.hc.set_attention(card.link_attention());
        card
    }

    /// The same card with its port plugged into `wire`. Without, there is a carrier and nobody behind it.
    #[must_use]
    pub fn with_wire(mut self, wire: impl Wire + 'static) -> Self {
        self.rings.set_wire(Box::new(wire));
        self
    }

    /// What happened since the card was made.
    #[must_use]
    pub fn counters(&self) -> FrontCounters {
        self.counters
    }

    /// The register file, for listings.
    #[must_use]
    pub fn registers(&self) -> &RegisterFile {
        &self.regs
    }

    /// The engine, for its counters.
    #[must_use]
    pub fn engine(&self) -> &Engine<T> {
        &self.engine
    }

    /// Offloaded connections, and path groups.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        (self.connections.len(), self.paths.len())
    }

    /// Whether a defect has muted the chip.
    #[must_use]
    pub fn is_mute(&self) -> bool {
        self.mute
    }

    /// The cable is plugged or pulled. The host learns of it by an attention after the next step, so whoever
    /// calls this wakes the card.
    pub fn set_link(&mut self, up: bool) {
        self.cable = up;
    }

    /// Compares the PHY's link with what the host was told.
    fn follow_link(&mut self, now: Instant) {
        self.phy.set_carrier(self.cable && self.rings.carrier(), now);
        self.phy.tick(now);
        if self.link != self.phy.link() {
            self.link = self.phy.link();
            self.engine.set_carrier(self.link);
            self.show_link();
            self.hc.attend(STATUS_ATTN_BITS_LINK_STATE, self.link);
        }
    }

    fn link_attention(&self) -> u32 {
        if self.link { STATUS_ATTN_BITS_LINK_STATE } else { 0 }
    }

    fn show_link(&mut self) {
        let events =
            self.regs.get(hw::EMAC_STATUS) & hw::EMAC_STATUS_MI_COMPLETE | hw::EMAC_STATUS_LINK_CHANGE;
        self.regs.set(hw::EMAC_STATUS, events | if self.link { hw::EMAC_STATUS_LINK } else { 0 });
        self.regs.set(hw::EMAC_MDIO_STATUS, if self.link { hw::EMAC_MDIO_STATUS_LINK } else { 0 });
        self.regs.set_shmem(
            hsi::bcm5709::shmem::LINK_STATUS,
            shmem::link_status(self.phy.speed().filter(|_| self.link)),
        );
    }

    fn soft_reset(&mut self, cx: &mut DevCx<'_>) {
        self.forget(cx);
        self.regs.soft_reset();
        self.show_link();
        cx.event(EventKind::Reset, RESET_BY_REGISTER, u64::from(cx.host.grant().epoch().0));
    }

    /// Ends the epoch and forgets everything that a host set up.
    fn forget(&mut self, cx: &mut DevCx<'_>) -> ResetReport {
        self.counters.resets += 1;
        self.late = match self.kcq.target() {
            Some(target) if self.faults.fires(cx, FaultPoint::LateDmaAfterReset) => Some(target),
            _ => None,
        };
        cx.host.revoke();
        cx.host.intx(false);
        let report = self.engine.reset(cx);
        self.events.clear();
        self.kwq = Kwq::new();
        self.kcq = new_kcq(&self.config);
        self.kwqes.clear();
        self.pair = None;
        self.connections = Connections::new(self.config.contexts);
        self.paths = PathGroups::new(self.config.path_groups);
        self.context.clear();
        self.host_pages.fill((0, 0));
        self.hc = HostCoalescing::new();
        self.hc.set_attention(self.link_attention());
        self.rings.reset();
        self.nvram.reset();
        self.mute = false;
        report
    }

    /// A kernel queue that cannot be reached stops; the host gets an attention.
    fn ring_fault(&mut self, outcome: Result<(), DmaFault>, attention: u32) {
        if outcome.is_err() {
            self.counters.ring_faults += 1;
            self.hc.attend(attention, true);
        }
    }

    /// Fetches and executes KWQEs; at most `budget`, and only as long as there is room for their answers.
    fn commands(&mut self, cx: &mut DevCx<'_>, budget: u32) -> u32 {
        let mut done = 0;
        while done < budget && self.kcq.room() >= ANSWERS {
            let Some(e) = self.kwqes.pop_front() else {
                let limit = KWQE_FETCH.min((budget - done) as usize);
                let outcome = self.kwq.fetch(cx, limit, &mut self.kwqes);
                self.ring_fault(outcome, STATUS_ATTN_BITS_CMD_PROCESSOR_ABORT);
                if self.kwqes.is_empty() {
                    break;
                }
                continue;
            };
            let what = u64::from(e.opcode()) | u64::from(e.layer().0) << 8;
            cx.event(EventKind::Kwqe, what, u64::from(e.kwqe_info0.get()));
            self.execute(cx, &e);
            done += 1;
        }
        done
    }

    /// Turns events into KCQEs and writes them, until one of the two runs out of room. Returns when a
    /// held-back KCQE is due.
    fn completions(&mut self, cx: &mut DevCx<'_>) -> Option<Instant> {
        loop {
            while self.kcq.room() > 0
                && let Some(event) = self.events.pop_front()
            {
                self.engine_event(cx, event);
            }
            let mut written = std::mem::take(&mut self.written);
            let outcome = self.kcq.post(cx, &mut written);
            for e in written.drain(..) {
                let what = u64::from(e.opcode()) | u64::from(e.layer().0) << 8;
                cx.event(EventKind::Kcqe, what, u64::from(e.kcqe_info0.get()));
                self.kcqe_written(&e);
            }
            self.written = written;
            let posted = match outcome {
                Ok(posted) => posted,
                Err(fault) => {
                    self.ring_fault(Err(fault), STATUS_ATTN_BITS_COMPLETION_ABORT);
                    return None;
                }
            };
            self.counters.kcqes += u64::from(posted.entries);
            if posted.entries == 0 || self.events.is_empty() {
                return posted.next;
            }
        }
    }

    /// The link, and the Ethernet rings; at most `budget` frames.
    fn ethernet(&mut self, cx: &mut DevCx<'_>, budget: Budget) -> Progress {
        self.follow_link(cx.now);
        let mut chip = Chip {
            regs: &mut self.regs,
            context: &self.context,
            hc: &mut self.hc,
            counters: &mut self.counters,
            link: self.link,
            phy_loop: self.phy.loops(),
        };
        self.rings.step(cx, &mut chip, budget)
    }

    /// Whether the chip is mute, or becomes so now.
    fn muted(&mut self, cx: &mut DevCx<'_>) -> bool {
        self.mute = self.mute || self.faults.fires(cx, FaultPoint::Mute);
        self.mute
    }
}

impl<T: TcpEngine> PciFunction for Bcm5709<T> {
    fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn read(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width) -> u64 {
        if bar != BAR0 {
            self.counters.bad_accesses += 1;
            return width.ones();
        }
        let low = u64::from(self.read32(cx, at & !3));
        match width {
            Width::B8 => low | u64::from(self.read32(cx, at + 4)) << 32,
            _ => low >> (8 * (at & 3)) & width.ones(),
        }
    }

    fn write(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width, value: u64) {
        match width {
            _ if bar != BAR0 => self.counters.bad_accesses += 1,
            Width::B8 => {
                self.write32(cx, at, value as u32);
                self.write32(cx, at + 4, (value >> 32) as u32);
            }
            Width::B4 => self.write32(cx, at, value as u32),
            Width::B2 if at >= u64::from(doorbell::CTX_OFFSET) => self.mailbox(at, value as u16),
            Width::B1 | Width::B2 => self.counters.bad_accesses += 1,
        }
    }

    fn config_read(&mut self, _cx: &mut DevCx<'_>, at: u16) -> u32 {
        if u32::from(at) < cs::MIRROR_BYTES { self.pci_read(at & !3) } else { 0 }
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, at: u16, value: u32, mask: u32) {
        if u32::from(at) >= cs::MIRROR_BYTES {
            return;
        }
        let at = u32::from(at & !3);
        let kept = if mask == !0 { 0 } else { self.regs.read(Space::PciCfg, at) & !mask };
        self.register_write(cx, Space::PciCfg, at, kept | value & mask);
    }

    fn step(&mut self, cx: &mut DevCx<'_>, budget: Budget) -> Progress {
        if self.muted(cx) {
            return Progress::default();
        }
        if let Some((addr, grant)) = self.late.take() {
            // The bus refuses and counts it; there is nobody here who could care.
            let _ = cx.dma_write(addr, &[0xee; 32], grant);
        }
        let outcome = self.kwq.load(cx);
        self.ring_fault(outcome, STATUS_ATTN_BITS_CMD_PROCESSOR_ABORT);
        let outcome = self.kcq.load(cx);
        self.ring_fault(outcome, STATUS_ATTN_BITS_COMPLETION_ABORT);

        let mut progress = Progress { done: self.commands(cx, budget.0), next: None };
        let engine_runs = self.events.is_empty();
        if engine_runs {
            let left = Budget(budget.0.saturating_sub(progress.done).max(1));
            let p = self.engine.step(cx, left, &mut self.events);
            progress = Progress { done: progress.done + p.done, next: p.next };
        }
        let held = self.completions(cx);
        if !self.events.is_empty() || self.kcq.room() < ANSWERS {
            // The host's next KCQ doorbell wakes the chip.
            self.counters.kcq_stalls += 1;
        } else if !engine_runs || !self.kwqes.is_empty() || self.kwq.has_work() {
            // What had to wait for room has room now.
            progress.done = progress.done.max(budget.0);
        }
        let left = Budget(budget.0.saturating_sub(progress.done).max(1));
        let net = self.ethernet(cx, left);
        progress.done += net.done;
        self.hc.set_indexes(self.kwq.consumer(), self.kcq.producer(), cx.now);
        let published = self.hc.publish(cx);
        self.counters.interrupts += u64::from(published.interrupts);
        self.counters.status_faults += u64::from(published.faults);
        let timers = [held, net.next, self.phy.next_deadline(), self.hc.next_deadline()];
        let next = timers.into_iter().fold(progress.next, Instant::earliest);
        Progress { done: progress.done, next }
    }

    fn reset(&mut self, cx: &mut DevCx<'_>, kind: ResetKind) -> ResetReport {
        let report = self.forget(cx);
        match kind {
            ResetKind::Device => self.regs.power_on(&self.config),
            ResetKind::Flr | ResetKind::LostConnection => {
                self.regs.soft_reset();
                self.regs.reset_config_space();
            }
        }
        self.show_link();
        report
    }
}

const BAR0: Bar = Bar(0);

fn new_kcq(config: &ChipConfig) -> Kcq {
    Kcq::new(usize::from(config.kcqe_backlog).max(ANSWERS), config.kcqe_group.into())
}

/// MQ_CONFIG2 for a doorbell layout: in bin mode, the first cid and the step between connections.
fn mq_config2(doorbells: DoorbellLayout) -> u32 {
    match doorbells {
        DoorbellLayout::Mailboxes => 0,
        DoorbellLayout::Pages => FIRST_CID | CID_STEP << 3,
    }
}

/// The doorbell pages of a card with this configuration that may be mapped; `None` when it has mailboxes
/// only.
#[must_use]
pub fn doorbell_pages(config: &ChipConfig) -> Option<PageLayout> {
    let modes = mq_config2(config.doorbells);
    doorbell::bin_mode(modes).then(|| PageLayout {
        bar: BAR0,
        at: doorbell::connection(FIRST_CID, modes).into(),
        pages: config.contexts.into(),
        words: vec![doorbell::CNIC_SEND_DOORBELL as u16, doorbell::CNIC_RECV_DOORBELL as u16],
    })
}

fn layout(config: &ChipConfig) -> FunctionLayout {
    FunctionLayout {
        vendor: cs::VENDOR_ID,
        device: cs::DEVICE_ID_5709,
        revision: config.pci_revision,
        class: cs::CLASS_ETHERNET,
        subsystem: (cs::VENDOR_ID, cs::DEVICE_ID_5709),
        bars: vec![BarLayout { bar: BAR0, size: cs::BAR0_BYTES, wide: true }],
        pm: cs::PM_CAP as u8,
        msi: cs::MSI_CAP as u8,
        msix: MsixLayout {
            capability: cs::MSIX_CAP as u8,
            vectors: if config.msix { VECTORS as u16 } else { 0 },
            bar: BAR0,
            table: hw::PCI_GRC_WINDOW2_BASE,
            pba: hw::PCI_GRC_WINDOW3_BASE,
        },
        pcie: cs::PCIE_CAP as u8,
    }
}
