//! The main job: chip, driver, helper and target in one process with a virtual cable between card and target,
//! or the chip in one of its own; sessions under verified load; device resets in the middle of it; and a
//! report that says whether everything came back and nothing was lost.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bus::trace::Sink;
use driver::adapter::{AdapterCounters, OperatorRequest};
use driver::iscsid::NodeRecord;
use hw_model::fault::{FaultPoint, Trigger};
use hw_model::tcp::frame::Checksums;
use iscsi::target::{Auth, Disk, RamBackend, ServerConfig, TargetServer};
use serde::Serialize;

use crate::load::LoadConfig;
use crate::oracle::Initial;
use crate::world::{FarConfig, LinkNetwork, PORTAL, Seat, Time, World, WorldConfig, WorldError};

/// The target's name.
pub const TARGET: &str = "iqn.2026-01.lab.cnic:demo";
const BLOCK: u32 = 512;
/// Blocks of a session's region.
const REGION: u64 = 8192;
/// Load between two resets.
const LOAD: Duration = Duration::from_millis(300);
/// Longest wait for all sessions to come back from a reset, and for outstanding requests at the end.
const RECOVERY_LIMIT: Duration = Duration::from_secs(150);
/// The MTUs that the resets change to, in turn.
const MTUS: [u16; 2] = [9000, 1500];

/// What to run.
#[derive(Clone, Debug)]
pub struct DemoConfig {
    /// Sessions, 1 to 128.
    pub sessions: u16,
    /// MTU changes under load.
    pub resets: u32,
    /// Run in virtual time with this seed, instead of in real time.
    pub seed: Option<u64>,
    /// A hardware defect to arm.
    pub defect: Option<FaultPoint>,
}

/// Milliseconds of all recoveries: from the operator's request to a session's first completed I/O after the
/// reset.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RecoveryMs {
    /// Median.
    pub p50: f64,
    /// The slowest.
    pub max: f64,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Every check held: nothing lost, corrupt, duplicated or leaked, and every session recovered every time.
    pub verified: bool,
    /// Sessions.
    pub sessions: u16,
    /// Resets.
    pub resets: u32,
    /// Session recoveries that ended with completed I/O; `sessions * resets` when all did.
    pub recovered: u64,
    /// Block requests completed.
    pub commands: u64,
    /// SCSI commands posted to the card.
    pub scsi_commands: u64,
    /// Bytes read and written by successful requests.
    pub bytes: u64,
    /// Requests that never completed.
    pub lost: u64,
    /// Requests that completed with an error.
    pub failed: u64,
    /// Blocks that were not what they had to be, and bytes changed outside a request.
    pub corrupt: u64,
    /// Completions beyond the one that a request gets.
    pub duplicated: u64,
    /// Resources that were not given back at the end.
    pub leaked: u64,
    /// Accesses of the card that the bus refused.
    pub refused_dma: u64,
    /// Breaches of the rules of the slot: memory that was used or given back while it was lent, or in a later
    /// epoch.
    pub violations: u64,
    /// Recovery times.
    pub recovery_ms: RecoveryMs,
    /// Time that the run took: real seconds, or virtual ones with a seed.
    pub seconds: f64,
    /// The card's process died in the middle.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub card_lost: bool,
    /// What the armed defect did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defect: Option<DefectReport>,
    /// The first blocks that were wrong, and the check that caught each; then the first violations of the
    /// slot.
    pub findings: Vec<String>,
    /// The first request that failed, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Hash of everything that happened (virtual time only): the same seed gives the same hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
}

/// An armed defect.
#[derive(Clone, Debug, Serialize)]
pub struct DefectReport {
    /// The fault point.
    pub name: &'static str,
    /// How often it fired.
    pub fired: u64,
    /// What the driver noticed: completions for nothing outstanding, gaps in a completion queue, deadlines,
    /// and lost connections beyond those that the resets cost.
    pub noticed: u64,
}

/// A RAM target with one LUN of `blocks` blocks of 512 bytes.
///
/// # Panics
/// When `name` is no iSCSI name.
#[must_use]
pub fn ram_target(name: &str, blocks: u64, auth: Auth) -> TargetServer {
    let backend = RamBackend::new((blocks * u64::from(BLOCK)) as usize);
    let disk = Disk::new(Box::new(backend), BLOCK, "DEMO0000").expect("512 is a block size");
    let mut server = TargetServer::new(ServerConfig::default());
    server.add_target(name, vec![(0, disk)], auth).expect("the name is an iSCSI name");
    server
}

/// Runs it in this process. `trace` gets every event, `say` a line of progress now and then.
///
/// # Errors
/// [`WorldError`] when it could not even begin; once the load runs, what goes wrong is in the report.
pub fn run(
    config: &DemoConfig,
    trace: Option<Sink>,
    say: impl FnMut(&str),
) -> Result<DemoReport, WorldError> {
    let target = ram_target(TARGET, REGION * u64::from(config.sessions), Auth::default());
    let mut network = LinkNetwork::new(target);
    network.station.mtu = MTUS[0];
    // The cable damages nothing.
    network.station.checksums = Checksums::Skipped;
    let time = config.seed.map_or(Time::Real, |seed| Time::Virtual { seed });
    // What the bus would forgive is judged in real time too: the price is small.
    let mut world = World::new(WorldConfig { time, ..WorldConfig::link(0, network) })?;
    if let Some(sink) = trace {
        world.set_sink(sink);
    }
    let (mut report, counters) = play(&mut world, PORTAL, config, say, |world| {
        let Some(point) = config.defect else { return };
        // Resets and control requests are rare: their faults fire at the first chance. The others wait until
        // the load flows.
        let rare = matches!(
            point,
            FaultPoint::LateDmaAfterReset
                | FaultPoint::SwallowKcqe
                | FaultPoint::DelayKcqe
                | FaultPoint::SwallowKwqe
        );
        let after = if rare { 0 } else { 50 * u64::from(config.sessions) };
        world.faults().arm(point, Trigger { after, count: 1, operand: None });
    })?;
    let wanted = u64::from(config.sessions) * u64::from(config.resets);
    report.defect = config.defect.map(|point| DefectReport {
        name: point.name(),
        fired: world.faults().fired(point),
        noticed: (counters.unknown_itt + counters.cq_gaps + counters.timeouts + counters.connections_lost)
            .saturating_sub(wanted),
    });
    let slot = world.slot().borrow();
    report.findings.extend(slot.violations().iter().map(|v| format!("check S7, on the bus: {v:?}")));
    report.history = config.seed.map(|_| format!("{:016x}", world.exec().trace().hash()));
    Ok(report)
}

/// Runs it with the card of the process that listens at `socket`, in real time, with the target on loopback.
/// Seed and defect of `config` have no effect.
///
/// # Errors
/// As [`run`], and when the card is lost before the load runs.
pub fn run_split(
    config: &DemoConfig,
    socket: &Path,
    trace: Option<Sink>,
    say: impl FnMut(&str),
) -> Result<DemoReport, WorldError> {
    let target = ram_target(TARGET, REGION * u64::from(config.sessions), Auth::default());
    let mut world = World::attach(FarConfig { target: Some(target), ..FarConfig::new(socket) })?;
    let portal = world.portal().expect("the world has a target");
    if let Some(sink) = trace {
        world.set_sink(sink);
    }
    Ok(play(&mut world, portal, config, say, |_| ())?.0)
}

/// The job, on any world. `loaded` is called when the load begins to flow.
fn play<P: Seat + 'static>(
    world: &mut World<P>,
    portal: SocketAddr,
    config: &DemoConfig,
    mut say: impl FnMut(&str),
    loaded: impl FnOnce(&mut World<P>),
) -> Result<(DemoReport, AdapterCounters), WorldError> {
    let start = world.now();
    world.bring_up()?;
    let entries = world.login(&NodeRecord::new(TARGET, portal), config.sessions.into())?;
    say(&format!("{} sessions are logged in", entries.len()));

    let load_config = LoadConfig {
        depth: 4,
        max_bytes: 256 << 10,
        write_percent: 50,
        think: Duration::from_millis(u64::from(config.sessions) / 16 + 1),
        run: world.act(|cx, _| cx.rng.next_u64("demo.run")),
        initial: Initial::Zero,
    };
    let load = world.start_load(&entries, load_config, REGION as usize)?;
    loaded(world);
    for i in 0..config.resets {
        world.run_while_there(LOAD, || false);
        if world.card_lost() {
            break;
        }
        let age = world.host().borrow().adapter.age();
        load.borrow_mut().expect_recovery(world.now(), age);
        world.operate(OperatorRequest::ChangeMtu(MTUS[i as usize % MTUS.len()]))?;
        let waiting = load.clone();
        world.run_while_there(RECOVERY_LIMIT, || waiting.borrow().recovering() == 0);
        let missing = load.borrow().recovering();
        let (n, of) = (i + 1, config.resets);
        match missing {
            0 => say(&format!("reset {n} of {of}: all sessions are back")),
            _ => say(&format!("reset {n} of {of}: {missing} sessions did not come back")),
        }
    }
    world.run_while_there(LOAD, || false);
    let card_lost = world.card_lost();
    if card_lost {
        // Without a card no request completes by itself: the shutdown hands all of them back.
        say("the card was lost");
        load.borrow_mut().stop();
        world.shutdown()?;
    }
    let unfinished = world.finish_load(&load, RECOVERY_LIMIT);
    let counters = *world.host().borrow().adapter.counters();
    let seconds = world.now().since(start).as_secs_f64();
    let left = if card_lost { world.leftovers() } else { world.shutdown()? };
    let load = load.borrow();
    let r = load.report();
    let corrupt = r.corrupt + r.guard_bytes;
    let leaked = left.leaked() + unfinished.kept;
    let recovered = r.recoveries.len() as u64;
    let wanted = u64::from(config.sessions) * u64::from(config.resets);
    let sound = unfinished.lost + corrupt + r.duplicated + r.failed + leaked + left.audit.violations == 0;
    let report = DemoReport {
        verified: sound && recovered == wanted && !card_lost,
        sessions: config.sessions,
        resets: config.resets,
        recovered,
        commands: r.commands,
        scsi_commands: counters.commands,
        bytes: r.bytes,
        lost: unfinished.lost,
        failed: r.failed,
        corrupt,
        duplicated: r.duplicated,
        leaked,
        refused_dma: left.audit.refused,
        violations: left.audit.violations,
        recovery_ms: recovery(&r.recoveries),
        seconds,
        card_lost,
        defect: None,
        findings: r.findings.iter().map(ToString::to_string).collect(),
        first_error: r.first_error.clone(),
        history: None,
    };
    Ok((report, counters))
}

fn recovery(times: &[Duration]) -> RecoveryMs {
    let mut ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    RecoveryMs {
        p50: ms.get(ms.len() / 2).copied().unwrap_or_default(),
        max: ms.last().copied().unwrap_or_default(),
    }
}
