//! A world under verified load, and the verdict over it by invariant id.
//!
//! [`Rig`] logs sessions in to the embedded target on a strict bus in virtual time and loads them. Tests
//! break something, [`Rig::heal`] undoes every fault and waits until each session makes progress, and
//! [`Rig::finish`] stops the load, shuts everything down and hands out a [`Run`]. [`Run::broken`] is the only
//! place where a run is judged, so that the same function is shown to bite on runs that were spoilt on
//! purpose.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bus::inproc::{SlotConfig, Timing};
use driver::adapter::{AdapterCounters, AdapterState, OperatorRequest, SessionPhase};
use driver::config::{Deadlines, DriverConfig};
use driver::iscsid::{NodeRecord, SessionEntry};
use driver::user::{Completion, Extent, Op, Request, SubmitError, Ticket, UserBuf};
use hw_model::config::ChipConfig;
use hw_model::engine::EngineCounters;
use hw_model::fault::{FaultPoint, Trigger};
use hw_model::tcp::memory::Reach;
use hw_model::wire::link::{LinkConfig, LinkControl};
use iscsi::scsi::Lun;
use iscsi::target::{Auth, Counters, Disk, RamBackend, ServerConfig, SessionInfo, TargetServer};
use iscsiuio::IfaceConfig;
use lab::ages::Overdue;
use lab::load::{Load, LoadConfig, LoadReport};
use lab::oracle::Initial;
use lab::station::{Station, StationConfig};
use lab::world::{HelperConfig, Interposer, Leftovers, LinkNetwork, PORTAL, World, WorldConfig, static_v4};

/// The target's name.
pub const TARGET: &str = "iqn.2026-01.lab.cnic:recovery";
/// Bytes per block.
pub const BLOCK: u32 = 512;

/// Frames on a link, instead of streams in memory.
#[derive(Clone, Debug)]
pub struct FrameNetwork {
    /// The machine that the target runs on.
    pub station: StationConfig,
    /// The cable.
    pub link: LinkConfig,
    /// The helper's interfaces.
    pub ifaces: Vec<IfaceConfig>,
}

impl Default for FrameNetwork {
    /// A perfect link, jumbo frames, and static addresses.
    fn default() -> Self {
        let station = StationConfig { mtu: 9000, ..StationConfig::default() };
        Self { station, link: LinkConfig::default(), ifaces: vec![static_v4()] }
    }
}

/// What to build.
#[derive(Clone, Debug)]
pub struct RigConfig {
    /// Sessions that are loaded.
    pub sessions: u16,
    /// All randomness.
    pub seed: u64,
    /// Blocks of a session's region.
    pub region: u64,
    /// The load.
    pub load: LoadConfig,
    /// How sessions log in.
    pub record: NodeRecord,
    /// The card.
    pub chip: ChipConfig,
    /// The driver.
    pub driver: DriverConfig,
    /// How long the bus may hold posted writes.
    pub timing: Timing,
    /// DMA memory of the host, bytes.
    pub dma_limit: usize,
    /// The target.
    pub server: ServerConfig,
    /// Who may log in.
    pub auth: Auth,
    /// The network, if connections are TCP in frames.
    pub frames: Option<FrameNetwork>,
    /// What stands between card and slot.
    pub interposer: Option<Interposer>,
}

impl RigConfig {
    /// `sessions` sessions under mixed I/O: one request of 1 to 64 KiB a session at a time, half of them
    /// writes, at any alignment.
    #[must_use]
    pub fn new(sessions: u16) -> Self {
        Self {
            sessions,
            seed: 1,
            region: 256,
            load: LoadConfig {
                depth: 2,
                max_bytes: 64 << 10,
                write_percent: 50,
                think: Duration::from_millis(20),
                run: 1,
                initial: Initial::Zero,
            },
            record: NodeRecord::new(TARGET, PORTAL),
            chip: ChipConfig::default(),
            driver: DriverConfig::default(),
            timing: Timing::default(),
            dma_limit: SlotConfig::default().dma_limit,
            server: ServerConfig { trace_commands: true, ..ServerConfig::default() },
            auth: Auth::default(),
            frames: None,
            interposer: None,
        }
    }

    /// The same over frames on a perfect link.
    #[must_use]
    pub fn frames(sessions: u16) -> Self {
        Self { frames: Some(FrameNetwork::default()), ..Self::new(sessions) }
    }

    /// The network of frames.
    ///
    /// # Panics
    /// When it is another.
    pub fn network(&mut self) -> &mut FrameNetwork {
        self.frames.as_mut().expect("a network of frames")
    }

    /// A target with one RAM disk that has a region for each session.
    ///
    /// # Panics
    /// Never: name and block size are constants.
    #[must_use]
    pub fn target(&self) -> TargetServer {
        let blocks = self.region * u64::from(self.sessions.max(1));
        let backend = RamBackend::new((blocks * u64::from(BLOCK)) as usize);
        let disk = Disk::new(Box::new(backend), BLOCK, "RECOVER0").expect("512 is a block size");
        let mut server = TargetServer::new(self.server.clone());
        server.add_target(TARGET, vec![(0, disk)], self.auth.clone()).expect("the name is an iSCSI name");
        server
    }

    /// The world, with the interface still down.
    ///
    /// # Panics
    /// When the driver refuses its configuration.
    #[must_use]
    pub fn world(&self) -> World {
        let mut config = match self.frames.clone() {
            None => WorldConfig::virtual_time(self.seed, self.target()),
            Some(FrameNetwork { station, link, ifaces }) => {
                let network = LinkNetwork { server: self.target(), station, link };
                WorldConfig { helper: HelperConfig::Inside(ifaces), ..WorldConfig::link(self.seed, network) }
            }
        };
        config.chip = self.chip.clone();
        config.driver = self.driver.clone();
        config.interposer = self.interposer.clone();
        config.slot =
            SlotConfig { strict: true, timing: self.timing, dma_limit: self.dma_limit, ..config.slot };
        World::new(config).expect("the configuration is sound")
    }
}

/// The longest that a session may take from the request for a reset to its first completed command (invariant
/// L1), from the timers that are configured:
///
/// `stop + firmware + chip_reset + 2 * firmware + init + time2wait + login_timeout`
///
/// with `stop = min(stop, close + destroy)`: all connections are torn down in parallel, so their number is
/// not in it.
#[must_use]
pub fn recovery_bound(d: &Deadlines, record: &NodeRecord) -> Duration {
    let login =
        Duration::from_secs(record.settings.default_time2wait.into()) + record.settings.login_timeout();
    d.stop.min(d.close + d.destroy) + d.firmware + d.chip_reset + 2 * d.firmware + d.init + login
}

/// The same for a chip that answers: every wait for it costs nothing, and what is left is `time2wait` and a
/// second of work.
#[must_use]
pub fn prompt_recovery_bound(record: &NodeRecord) -> Duration {
    Duration::from_secs(u64::from(record.settings.default_time2wait) + 1)
}

/// Longest shutdown (L4): the bound of a stop, and a logout that nobody answers for each stage before it.
#[must_use]
pub fn shutdown_bound(d: &Deadlines) -> Duration {
    d.stop + d.firmware + d.chip_reset
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its id in docs/invariants.md.
    pub id: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.what)
    }
}

/// Everything that a finished run is judged by.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What the load saw.
    pub load: LoadReport,
    /// Requests that never completed.
    pub lost: u64,
    /// Buffers that the driver would not free.
    pub kept: u64,
    /// What was left after the shutdown.
    pub left: Leftovers,
    /// Commands that the target executed twice.
    pub repeated: u64,
    /// Commands that it executed.
    pub executed: u64,
    /// Session handles and nexuses that two sessions of the target had at once, under load.
    pub shared: u64,
    /// The target's counters.
    pub target: Counters,
    /// The engine's counters.
    pub engine: EngineCounters,
    /// The adapter's counters before the shutdown.
    pub adapter: AdapterCounters,
    /// Deadlines were configured as this.
    pub deadlines: Deadlines,
    /// Waits that lasted longer than they may.
    pub overdue: Vec<Overdue>,
    /// How long the shutdown took.
    pub shutdown: Duration,
    /// Hash of everything that happened.
    pub hash: u64,
}

impl Run {
    /// The invariants that did not hold, whatever faults the run had.
    #[must_use]
    pub fn broken(&self) -> Vec<Broken> {
        let mut out = Vec::new();
        let mut check = |id, n: u64, what: &str| {
            if n > 0 {
                out.push(Broken { id, what: format!("{n} {what}") });
            }
        };
        check("S1", self.lost, "requests never completed");
        check("S1", self.load.duplicated, "completions that nobody waited for");
        check("S5", self.repeated, "CmdSNs executed twice");
        check("S6", self.load.guard_bytes, "bytes outside a request changed");
        check("S7", self.left.audit.violations, "violations on the strict bus");
        check("S8", self.engine.suspected_overruns, "CQEs over entries that were not consumed");
        check("S9", self.shared, "identifiers in use twice");
        check("S10", self.target.rejects, "PDUs rejected by the target");
        check("S10", self.target.transfer_violations, "bursts against the rules");
        check("S11", self.target.header_digest_errors + self.target.data_digest_errors, "digest errors");
        check("S12", self.adapter.control_dropped, "control messages dropped");
        check("R8", self.left.leaked() + self.kept, "resources not given back");
        for f in &self.overdue {
            out.push(Broken { id: f.invariant, what: f.to_string() });
        }
        for f in &self.load.findings {
            out.push(Broken { id: f.fault.invariant(), what: f.to_string() });
        }
        let bound = shutdown_bound(&self.deadlines);
        if self.shutdown > bound {
            out.push(Broken {
                id: "L4",
                what: format!("shutdown took {:?}, bound {bound:?}", self.shutdown),
            });
        }
        out
    }

    /// Panics unless every invariant held.
    ///
    /// # Panics
    /// Names the invariants.
    #[track_caller]
    pub fn assert_sound(&self) {
        let broken = self.broken();
        let text: Vec<String> = broken.iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "{}\n{:?}\n{:?}", text.join("\n"), self.left, self.adapter);
    }

    /// As [`Run::assert_sound`], and no request failed either.
    ///
    /// # Panics
    /// Names what did not hold.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        self.assert_sound();
        assert_eq!(self.load.failed, 0, "{:?}", self.load.first_error);
        assert!(self.load.commands > 0 && self.executed > 0, "the load ran");
    }
}

/// A loaded world. See the module.
pub struct Rig {
    /// The world.
    pub world: World,
    /// Its load.
    pub load: Rc<RefCell<Load>>,
    /// The sessions that are loaded.
    pub entries: Vec<SessionEntry>,
    config: RigConfig,
}

impl Rig {
    /// Sessions logged in, and the load running.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn start(config: RigConfig) -> Self {
        let mut rig = Self::idle(config);
        rig.attach();
        rig
    }

    /// Sessions logged in, and no load: the test submits requests itself.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn idle(config: RigConfig) -> Self {
        let mut rig = Self::up(config);
        let count = rig.config.sessions.into();
        rig.entries = rig.world.login(&rig.config.record, count).expect("all sessions log in");
        rig
    }

    /// The interface up, and no session.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn up(config: RigConfig) -> Self {
        let mut world = config.world();
        world.bring_up().expect("the adapter comes up");
        let load = Rc::new(RefCell::new(Load::new(config.load.clone())));
        Self { world, load, entries: Vec::new(), config }
    }

    /// A buffer of the adapter.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn alloc(&mut self, len: usize) -> UserBuf {
        self.world.act(|_, host| host.adapter.alloc(len)).expect("there is memory")
    }

    /// Frees a buffer.
    ///
    /// # Panics
    /// When it is in use.
    pub fn free(&mut self, buf: UserBuf) {
        self.world.act(|_, host| host.adapter.free(buf)).expect("nobody uses it");
    }

    /// Submits a request to the first disk of session `i`.
    ///
    /// # Errors
    /// As [`driver::adapter::Adapter::submit`].
    pub fn submit(&mut self, i: usize, op: Op, lba: u64, data: &[Extent]) -> Result<Ticket, SubmitError> {
        let session = self.entries[i].session;
        let request = Request { lun: Lun::default(), op, lba, data };
        self.world.act(|cx, host| host.adapter.submit(cx, session, &request))
    }

    /// The next completion within `limit`, and how long it took.
    pub fn completion(&mut self, limit: Duration) -> Option<(Completion, Duration)> {
        let (host, start) = (self.world.host().clone(), self.world.now());
        let mut done = Vec::new();
        self.world.run(limit, |_| host.borrow_mut().adapter.reap(&mut done) > 0);
        assert!(done.len() <= 1, "S1: {done:?}");
        Some((done.pop()?, self.world.now() - start))
    }

    fn attach(&mut self) {
        let (load, region) = (self.load.clone(), self.config.region);
        let entries = &self.entries;
        self.world.act(|_, host| {
            for (i, e) in entries.iter().enumerate() {
                let disk = host.adapter.disks(e.session)[0].clone();
                let first = i as u64 * region;
                load.borrow_mut()
                    .attach(&mut host.adapter, e.session, disk, first, region as usize)
                    .expect("there is memory for the load");
            }
            host.user = Some(load);
        });
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RigConfig {
        &self.config
    }

    /// The adapter's state.
    #[must_use]
    pub fn state(&self) -> AdapterState {
        self.world.host().borrow().adapter.state()
    }

    /// The adapter's counters.
    #[must_use]
    pub fn counters(&self) -> AdapterCounters {
        *self.world.host().borrow().adapter.counters()
    }

    /// Sessions of the adapter in `phase`.
    #[must_use]
    pub fn in_phase(&self, phase: SessionPhase) -> usize {
        self.world.host().borrow().adapter.sessions().filter(|s| s.phase == phase).count()
    }

    /// The station at the end of the link.
    ///
    /// # Panics
    /// When the network is another.
    #[must_use]
    pub fn station(&self) -> Station {
        self.world.frames().expect("a network of frames").station.clone()
    }

    /// The link.
    ///
    /// # Panics
    /// When the network is another.
    #[must_use]
    pub fn link(&self) -> LinkControl {
        self.world.frames().expect("a network of frames").link.clone()
    }

    /// Runs until each session has completed a request from now on, within `limit`. How long that took.
    pub fn progress(&mut self, limit: Duration) -> Option<Duration> {
        let (start, age) = (self.world.now(), self.world.host().borrow().adapter.age());
        // A completion in the present age or a later one counts.
        self.load.borrow_mut().expect_recovery(start, age.wrapping_sub(1));
        self.recovered(limit).then(|| self.world.now() - start)
    }

    /// Runs for milliseconds.
    pub fn run_ms(&mut self, ms: u64) {
        self.world.run_for(Duration::from_millis(ms));
    }

    /// Runs until the adapter is where `there` says; whether it got there, and when.
    ///
    /// # Panics
    /// When it does not get there.
    #[track_caller]
    pub fn until(&mut self, limit: Duration, there: impl Fn(AdapterState) -> bool) -> Duration {
        let start = self.world.now();
        let host = self.world.host().clone();
        let met = self.world.run(limit, |_| there(host.borrow().adapter.state()));
        assert!(met, "the adapter is {:?} after {limit:?}", self.state());
        self.world.now() - start
    }

    /// Arms a fault point for one operand (layer << 8 | opcode), `count` times from now on.
    pub fn arm(&self, point: FaultPoint, operand: u32, count: u64) {
        self.world.faults().arm(point, Trigger { after: 0, count, operand: Some(operand) });
    }

    /// Asserts that a fault point fired, and says how often: a run whose fault never happened proves nothing.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn fired(&self, point: FaultPoint) -> u64 {
        let n = self.world.faults().fired(point);
        assert!(n > 0, "{point} never fired");
        n
    }

    /// Asks for a change that resets the chip; recoveries are measured from now.
    ///
    /// # Panics
    /// When the adapter refuses.
    #[track_caller]
    pub fn reset(&mut self, request: OperatorRequest) {
        let age = self.world.host().borrow().adapter.age();
        self.load.borrow_mut().expect_recovery(self.world.now(), age);
        self.world.operate(request).expect("the request is sound");
    }

    /// Runs until every session has completed a request after the last reset. Whether they all did.
    pub fn recovered(&mut self, limit: Duration) -> bool {
        let load = self.load.clone();
        self.world.run(limit, |_| load.borrow().recovering() == 0)
    }

    /// Undoes every fault.
    ///
    /// # Panics
    /// When the daemon cannot be started.
    pub fn undo_faults(&mut self) {
        heal(&mut self.world);
    }

    /// Undoes every fault and runs until every session completes requests again (L2).
    ///
    /// # Panics
    /// When a session does not.
    #[track_caller]
    pub fn heal(&mut self) {
        self.undo_faults();
        let limit =
            2 * recovery_bound(&self.config.driver.deadlines, &self.config.record) + Duration::from_secs(120);
        let recovered = self.progress(limit).is_some();
        assert!(
            recovered,
            "L2: {} sessions make no progress; adapter {:?}, sessions {:?}, iscsid {:?}",
            self.load.borrow().recovering(),
            self.state(),
            self.world.host().borrow().adapter.sessions().collect::<Vec<_>>(),
            self.world.iscsid().map(|d| d.borrow().sessions().collect::<Vec<_>>()),
        );
    }

    fn shared_identifiers(&self) -> u64 {
        let target = self.world.target().expect("the target is embedded").borrow();
        let sessions: Vec<_> = target.server().sessions().collect();
        let pairs = (0..sessions.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
        let same = |a: &SessionInfo, b: &SessionInfo| a.tsih == b.tsih || a.nexus == b.nexus;
        pairs.filter(|&(a, b)| same(&sessions[a], &sessions[b])).count() as u64
    }

    /// Stops the load, waits for what is outstanding, shuts down, and says how it went.
    ///
    /// # Panics
    /// When the shutdown does not end.
    #[track_caller]
    pub fn finish(mut self) -> Run {
        self.load.borrow_mut().stop();
        let draining = self.load.clone();
        self.world.run(Duration::from_secs(300), |_| draining.borrow().outstanding() == 0);
        let lost = self.load.borrow().outstanding() as u64;
        let load = self.load.clone();
        let kept = self.world.act(|_, host| {
            host.user = None;
            load.borrow_mut().release(&mut host.adapter)
        });
        let shared = self.shared_identifiers();
        let adapter = self.counters();
        let overdue = self.world.host().borrow().ages.findings.clone();
        let engine = self.world.engine_counters();
        let start = self.world.now();
        let left = self.world.shutdown().expect("the shutdown ends");
        let target = self.world.target().expect("the target is embedded").borrow();
        Run {
            load: self.load.borrow().report().clone(),
            lost,
            kept: kept as u64,
            left,
            repeated: target.executions().repeated(),
            executed: target.executions().commands(),
            shared,
            target: target.server().counters(),
            engine,
            adapter,
            deadlines: self.config.driver.deadlines,
            overdue,
            shutdown: self.world.now() - start,
            hash: self.world.exec().trace().hash(),
        }
    }
}

/// Undoes every fault that a test may have made: the card answers, the network passes, target, daemon and
/// helper run, and the interface is wanted up. An adapter in `Failed` is left to itself.
///
/// # Panics
/// When the daemon cannot be started, or the adapter was shut down.
pub fn heal(world: &mut World) {
    for &point in FaultPoint::ALL {
        world.faults().disarm(point);
    }
    if let Some(net) = world.net() {
        net.set_reach(Reach::Normal);
    }
    if let Some(frames) = world.frames() {
        frames.link.set_up(true);
        frames.link.set(LinkConfig::default());
        frames.station.set_claims(Vec::new(), false);
    }
    if let Some(target) = world.target() {
        target.borrow().set_silent(false);
        // It may be running.
        let _ = target.borrow_mut().restart();
    }
    if world.iscsid().is_some() {
        world.stop_iscsid(false);
    } else {
        world.start_iscsid().expect("the initiator's name is sound");
    }
    world.start_helper();
    world.stop_helper(false);
    // An adapter that has failed must come back by itself; only what an operator took down waits for one.
    let state = world.host().borrow().adapter.state();
    if !matches!(state, AdapterState::Failed(_)) {
        // An adapter that failed comes back without being asked.
        if !world.host().borrow().adapter.is_wanted_up() {
            world.operate(OperatorRequest::InterfaceUp).expect("the adapter was not shut down");
        }
    }
}

/// Whether the whole matrices were asked for (`.ci/run --full`).
#[must_use]
pub fn full() -> bool {
    std::env::var_os("CNIC_FULL").is_some_and(|v| v != "0")
}
