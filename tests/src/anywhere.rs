//! Tests that are tagged `any`: one description that passes in virtual time, inline, and with the card on a
//! thread of its own behind a vfio-user socket.
//!
//! A test is written against [`Any`], for every kind of seat, and waits for what the world shows, never for
//! an exact time; the macro [`any!`](crate::any) makes three tests of it. What needs exact schedules, faults
//! inside the card or minutes of waiting is `virtual` and uses [`crate::rig`].

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use bus::Instant;
use bus::inproc::SlotConfig;
use driver::adapter::OperatorRequest;
use driver::iscsid::{NodeRecord, SessionEntry};
use hw_model::config::{ChipConfig, DoorbellLayout};
use iscsi::target::TargetServer;
use lab::chip_host::{ChipWorld, ChipWorldConfig};
use lab::load::{Load, LoadConfig};
use lab::oracle::Initial;
use lab::world::{FarConfig, PORTAL, Seat, World, WorldConfig};
use os::unix::ChannelListener;

use crate::rig::{RigConfig, TARGET};

/// Blocks of a session's region.
const REGION: usize = 256;
/// Sessions that a test may log in at most: the disk has a region for each.
const SESSIONS: u16 = 8;
/// Longest wait for anything. Nobody waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// A world of any kind. See the module.
pub struct Any<P: Seat> {
    /// The world.
    pub world: World<P>,
    /// Sessions that are logged in.
    pub sessions: Vec<SessionEntry>,
    record: NodeRecord,
    load: Option<Rc<RefCell<Load>>>,
    recoveries: usize,
}

impl<P: Seat + 'static> Any<P> {
    fn new(world: World<P>, portal: SocketAddr) -> Self {
        let mut record = NodeRecord::new(TARGET, portal);
        // Both ends agree not to wait before a session comes back: real time is dear.
        record.settings.default_time2wait = 0;
        Self { world, sessions: Vec::new(), record, load: None, recoveries: 0 }
    }

    /// Brings the interface up and logs `count` sessions in.
    ///
    /// # Panics
    /// When that does not work.
    pub fn login(&mut self, count: usize) {
        self.world.bring_up().expect("the adapter comes up");
        self.sessions = self.world.login(&self.record, count).expect("all sessions log in");
    }

    /// Puts all sessions under mixed, verified load.
    ///
    /// # Panics
    /// When that does not work.
    pub fn start_load(&mut self) {
        let config = LoadConfig {
            depth: 4,
            max_bytes: 64 << 10,
            write_percent: 50,
            think: Duration::from_millis(2),
            run: 1,
            initial: Initial::Zero,
        };
        self.load = Some(self.world.start_load(&self.sessions, config, REGION).expect("the load starts"));
        self.flow(40);
    }

    /// Runs until `more` requests have completed.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn flow(&mut self, more: u64) {
        let load = self.load.clone().expect("there is a load");
        let wanted = load.borrow().report().commands + more;
        let flows = self.world.run(PATIENCE, |_| load.borrow().report().commands >= wanted);
        assert!(flows, "L2: the load does not flow");
    }

    /// Asks for what resets the chip, and does not wait.
    ///
    /// # Panics
    /// When the adapter refuses.
    #[track_caller]
    pub fn begin_reset(&mut self, request: OperatorRequest) {
        if let Some(load) = &self.load {
            load.borrow_mut().expect_recovery(self.world.now(), self.world.host().borrow().adapter.age());
        }
        self.world.operate(request).expect("the request is sound");
    }

    /// Runs until every session has completed a request after the last reset.
    ///
    /// # Panics
    /// When one does not.
    #[track_caller]
    pub fn recover(&mut self) {
        let load = self.load.clone().expect("there is a load");
        let back = self.world.run(PATIENCE, |_| load.borrow().recovering() == 0);
        assert!(back, "L1: {} sessions do not come back", load.borrow().recovering());
        self.recoveries += self.sessions.len();
    }

    /// Asks for a reset and waits for all sessions to come back.
    #[track_caller]
    pub fn reset(&mut self, request: OperatorRequest) {
        self.begin_reset(request);
        self.recover();
    }

    /// Ends the load and shuts down: nothing was lost, failed, corrupted, completed twice or leaked, and the
    /// rules of the slot were kept.
    #[track_caller]
    fn finish(mut self) {
        if let Some(load) = self.load.take() {
            let unfinished = self.world.finish_load(&load, PATIENCE);
            assert_eq!((unfinished.lost, unfinished.kept), (0, 0), "S1, R8");
            let load = load.borrow();
            let r = load.report();
            assert_eq!(
                (r.failed, r.corrupt, r.guard_bytes, r.duplicated),
                (0, 0, 0, 0),
                "{:?}",
                r.first_error
            );
            assert_eq!(r.recoveries.len(), self.recoveries, "R6");
        }
        let left = self.world.shutdown().expect("L4: the shutdown ends");
        assert_eq!((left.leaked(), left.audit.violations), (0, 0), "R8, S7: {left:?}");
        assert!(!self.world.card_lost());
    }
}

fn target() -> TargetServer {
    let mut config = RigConfig::new(SESSIONS);
    config.server.login.default_time2wait = 0;
    config.target()
}

/// In virtual time, over a strict bus.
///
/// # Panics
/// When the test fails.
#[track_caller]
pub fn virtually(test: impl FnOnce(&mut Any<bus::inproc::InProcess>)) {
    let world = World::new(WorldConfig::virtual_time(1, target())).expect("a world");
    let mut any = Any::new(world, PORTAL);
    test(&mut any);
    any.finish();
}

/// In real time, everything on one thread, over a strict bus.
///
/// # Panics
/// When the test fails.
#[track_caller]
pub fn inline(test: impl FnOnce(&mut Any<bus::inproc::InProcess>)) {
    let slot = SlotConfig { strict: true, ..SlotConfig::default() };
    let world = World::new(WorldConfig { slot, ..WorldConfig::real_time(target()) }).expect("a world");
    let mut any = Any::new(world, PORTAL);
    test(&mut any);
    any.finish();
}

/// In real time, with the card on a thread of its own: all that the two share is a socket, as between
/// processes.
///
/// # Panics
/// When the test fails.
#[track_caller]
pub fn split(test: impl FnOnce(&mut Any<lab::far_card::FarCard>)) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("chip");
    let card = card(&socket);
    let config = FarConfig { target: Some(target()), ..FarConfig::new(&socket) };
    let world = World::attach(config).expect("the card listens");
    let portal = world.portal().expect("there is a target");
    let mut any = Any::new(world, portal);
    test(&mut any);
    any.finish();
    let (held, dma_refused, refused) = card.join().expect("the card's thread ends");
    assert_eq!((held, dma_refused, refused), (0, 0, 0), "what the card holds, and what it was refused");
}

/// A card for one client. Its thread returns what it held in the end, and how many DMA accesses and requests
/// were refused.
fn card(socket: &Path) -> JoinHandle<(usize, u64, u64)> {
    let listener = ChannelListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        let config = ChipConfig { doorbells: DoorbellLayout::Pages, ..ChipConfig::default() };
        let config = ChipWorldConfig { once: true, ..ChipWorldConfig::new(config) };
        let mut world = ChipWorld::new(config, listener).expect("a card");
        let host = world.host.clone();
        world.exec.run(Instant::from_nanos(u64::MAX), |_| host.borrow().stopped());
        let counters = host.borrow().server().counters();
        (world.held(), counters.dma_refused, counters.refused)
    })
}

/// Tests that pass on every runner: `any! { /// What. name(w) { … } }`, where `w` is a
/// [`Any`](crate::anywhere::Any) of any seat.
#[macro_export]
macro_rules! any {
    ($($(#[$meta:meta])* $name:ident($w:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "not every test uses everything")]
            use super::*;

            fn test<P: lab::world::Seat + 'static>($w: &mut $crate::anywhere::Any<P>) $body

            #[test]
            fn in_virtual_time() {
                $crate::anywhere::virtually(test);
            }

            #[test]
            fn inline() {
                $crate::anywhere::inline(test);
            }

            #[test]
            fn split() {
                $crate::anywhere::split(test);
            }
        }
    )*};
}
