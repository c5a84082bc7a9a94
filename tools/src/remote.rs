//! A logical unit reached through the modelled card: a world of its own, logged in over the network that the
//! card is plugged into.
//!
//! Driver, daemon and the job run in this process and thread, and so does the card unless it is another
//! process's. The job is the user of the block API and runs where the adapter runs, so the fast path has no
//! hand-over.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bus::inproc::InProcess;
use bus::pci::Platform;
use bus::{Cx, Instant, Progress};
use driver::adapter::{Adapter, SessionPhase};
use driver::config::DriverConfig;
use driver::control::SessionId;
use driver::error::{BlockError, ExitCode};
use driver::iscsid::{ChapRecord, DiscoveryRecord, NodeRecord, SessionEntry, Settings};
use driver::lun::LunInfo;
use driver::user::{self, Completion, Op, SubmitError, UserBuf};
use hw_model::wire::Recording;
use iscsi::negotiate::DigestOffer;
use iscsi::scsi::Lun;
use iscsi::sendtargets::TargetRecord;
use lab::far_card::FarCard;
use lab::host::{User, Waiting};
use lab::outside::Outside;
use lab::world::{FarConfig, Network, Seat, World, WorldConfig, WorldError};

use crate::disk::{Accepted, Direction, Disk, Done, Job, Pipeline, Request, Unit, Usage};
use crate::failure::Failure;
use crate::plug::{Plug, Stack};
use crate::progress;
use crate::url::{DiskUrl, Login, PortalUrl};

/// Repeated attempts to log in: a person who waits for a prompt would rather be told.
const LOGIN_RETRIES: u32 = 0;
/// Seconds for a connect and login together, as open-iscsi ships it.
const LOGIN_TIMEOUT: u32 = 15;
/// After a request found no room in the session's queue.
const RETRY: Duration = Duration::from_millis(1);
/// No job is longer.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// A logical unit with the world behind it.
pub(crate) enum Remote {
    /// The card is in this process.
    Near(Reached<InProcess>),
    /// The card is in another one.
    Far(Reached<FarCard>),
}

/// Calls a method of whatever world it is.
macro_rules! either {
    ($remote:expr, $r:ident => $what:expr) => {
        match $remote {
            Remote::Near($r) => $what,
            Remote::Far($r) => $what,
        }
    };
}

/// A logical unit that was reached with a card of one kind.
pub(crate) struct Reached<P: Seat> {
    world: World<P>,
    session: SessionEntry,
    lun: Lun,
    portal: SocketAddr,
    info: LunInfo,
    /// Seconds in which a lost session may come back before requests fail.
    patience: u32,
    process_cpu_at_login: Duration,
    /// Time spent in the steps of a card in this process.
    chip_busy: fn(&World<P>) -> Duration,
    recording: Option<Recording>,
}

impl Remote {
    /// Brings up a card and logs in. `depth` is how many commands the session may have under way; with `spin`
    /// the world polls instead of sleeping.
    pub(crate) fn connect(url: &DiskUrl, stack: &Stack, depth: usize, spin: bool) -> Result<Self, Failure> {
        let portal = url.login.resolve()?;
        let failed = |e: WorldError| failure(&e, &format!("cannot log in to {} at {portal}", url.target));
        let driver = DriverConfig { mtu: stack.mtu, ..DriverConfig::default() };
        let helper = stack.helper()?;
        if let Some(card) = &stack.card {
            let world =
                World::attach(FarConfig { driver, helper, ..FarConfig::new(card) }).map_err(failed)?;
            return Reached::login(world, url, portal, stack, depth, |_| Duration::ZERO, None).map(Self::Far);
        }
        let recording = stack.plug.recording()?;
        let network = Network::Outside(stack.plug.outside()?, recording.clone());
        let config =
            WorldConfig { network, driver, helper, ..WorldConfig::outside(Outside::default(), spin) };
        let world = World::new(config).map_err(failed)?;
        let reached = Reached::login(world, url, portal, stack, depth, World::chip_busy, recording.clone());
        if reached.is_err()
            && let Some(recorded) = stack.plug.recorded(recording.as_ref())
        {
            // What was on the wire says why.
            progress::note(&recorded.summary());
        }
        reached.map(Self::Near)
    }

    /// What LUN bring-up learnt.
    pub(crate) fn info(&self) -> &LunInfo {
        either!(self, r => &r.info)
    }

    /// The portal that it is logged in to.
    pub(crate) fn portal(&self) -> SocketAddr {
        either!(self, r => r.portal)
    }

    /// Logs out and takes the card down. `plug` says where the recording went.
    pub(crate) fn logout(self, plug: &Plug) -> Result<(), Failure> {
        either!(self, r => r.logout(plug))
    }
}

impl<P: Seat + 'static> Reached<P> {
    fn login(
        mut world: World<P>,
        url: &DiskUrl,
        portal: SocketAddr,
        stack: &Stack,
        depth: usize,
        chip_busy: fn(&World<P>) -> Duration,
        recording: Option<Recording>,
    ) -> Result<Self, Failure> {
        let failed = |e: WorldError| failure(&e, &format!("cannot log in to {} at {portal}", url.target));
        world.bring_up().map_err(failed)?;
        let record = record(url, portal, depth);
        let patience = u32::try_from(record.settings.replacement_timeout).unwrap_or_default();
        let entries = world.login(&record, 1);
        let entries = entries.map_err(|e| match &stack.export_uio {
            Some(path) if !world.helper_attached() => failed(e).saying(format!(
                "no helper has come to resolve addresses: start `iscsiuio --driver {} --iface ADDRESS`",
                path.display()
            )),
            _ => failed(e),
        })?;
        let session = entries.into_iter().next().ok_or_else(|| failed(WorldError::Timeout("the login")))?;
        let lun = Lun::from_number(url.lun)
            .ok_or_else(|| Failure::usage(format!("LUN {} is beyond what can be addressed", url.lun)))?;
        let found = describe(&world, session.session, lun, url.lun);
        let info = match found {
            Ok(info) => info,
            Err(e) => {
                // The session is not needed any more; the failure is the LUN's.
                let _ = world.shutdown();
                return Err(e);
            }
        };
        Ok(Self {
            world,
            session,
            lun: info.lun,
            portal,
            info,
            patience,
            process_cpu_at_login: os::clock::process_cpu(),
            chip_busy,
            recording,
        })
    }

    fn logout(mut self, plug: &Plug) -> Result<(), Failure> {
        let failed = |e: WorldError| failure(&e, "cannot log out");
        let out = self.world.logout(self.session.tag).and_then(|()| self.world.shutdown()).map_err(failed);
        // What was recorded up to here is worth having, whatever the target said.
        let recorded = plug.recorded(self.recording.as_ref());
        if let Some(recorded) = &recorded {
            progress::note(&recorded.summary());
        }
        out?;
        recorded.map_or(Ok(()), |r| r.whole())
    }
}

fn record(url: &DiskUrl, portal: SocketAddr, depth: usize) -> NodeRecord {
    let mut record = NodeRecord::new(&url.target, portal);
    let s = &mut record.settings;
    set_login(s, &url.login);
    s.queue_depth = u16::try_from(depth.clamp(1, crate::io::MAX_DEPTH)).unwrap_or(u16::MAX);
    record
}

fn set_login(s: &mut Settings, login: &Login) {
    s.initial_login_retry_max = LOGIN_RETRIES;
    s.login_timeout = LOGIN_TIMEOUT;
    let digest = |wanted| if wanted { DigestOffer::Crc32c } else { DigestOffer::None };
    s.header_digest = digest(login.header_digest);
    s.data_digest = digest(login.data_digest);
    s.chap = match (login.chap.clone(), login.mutual.clone()) {
        (Some(own), Some(target)) => ChapRecord::mutual(own, target),
        (Some(own), None) => ChapRecord::one_way(own),
        (None, _) => ChapRecord::default(),
    };
}

/// Asks a portal for its targets, through a card of its own or that of another process.
pub(crate) fn discover(url: &PortalUrl, stack: &Stack) -> Result<Vec<TargetRecord>, Failure> {
    let portal = url.login.resolve()?;
    let failed = |e: WorldError| failure(&e, &format!("cannot discover targets at {portal}"));
    let mut record = DiscoveryRecord::new(portal);
    set_login(&mut record.settings, &url.login);
    record.settings.reopen_max = LOGIN_RETRIES;
    let driver = DriverConfig { mtu: stack.mtu, ..DriverConfig::default() };
    let helper = stack.helper()?;
    if let Some(card) = &stack.card {
        let world = World::attach(FarConfig { driver, helper, ..FarConfig::new(card) }).map_err(failed)?;
        return ask(world, record).map_err(failed);
    }
    let recording = stack.plug.recording()?;
    let network = Network::Outside(stack.plug.outside()?, recording.clone());
    let config = WorldConfig { network, driver, helper, ..WorldConfig::outside(Outside::default(), false) };
    let found = World::new(config).and_then(|world| ask(world, record)).map_err(failed);
    let recorded = stack.plug.recorded(recording.as_ref());
    if let Some(recorded) = &recorded {
        progress::note(&recorded.summary());
    }
    let found = found?;
    recorded.map_or(Ok(()), |r| r.whole())?;
    Ok(found)
}

fn ask<P: Seat + 'static>(
    mut world: World<P>,
    record: DiscoveryRecord,
) -> Result<Vec<TargetRecord>, WorldError> {
    world.bring_up()?;
    let found = world.discover(record);
    world.shutdown()?;
    found
}

/// Logical units that a message names; the rest is a number.
const NAMED_LUNS: usize = 16;

fn describe<P: Seat + 'static>(
    world: &World<P>,
    session: SessionId,
    lun: Lun,
    number: u16,
) -> Result<LunInfo, Failure> {
    let host = world.host().borrow();
    let units = host.adapter.logical_units(session);
    // By number: a target may report any form of it (SAM-5 4.7).
    match units.iter().find(|(l, _)| l.number() == lun.number()) {
        Some((_, Ok(info))) => Ok(info.clone()),
        Some((_, Err(e))) => Err(Failure::new(ExitCode::Other, format!("LUN {number} cannot be used: {e}"))),
        None => {
            let mut there: Vec<String> =
                units.iter().filter_map(|(l, _)| l.number()).map(|n| n.to_string()).collect();
            let more = there.len().saturating_sub(NAMED_LUNS);
            there.truncate(NAMED_LUNS);
            let mut there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            if more > 0 {
                there += &format!(" and {more} more");
            }
            let text =
                format!("the target has no LUN {number} for us; it has {there}: change the URL's last part");
            Err(Failure::new(ExitCode::NoObjectsFound, text))
        }
    }
}

/// One line: what failed, why, and what to do about it.
fn failure(e: &WorldError, what: &str) -> Failure {
    let code = match e {
        WorldError::Daemon(m) => m.exit(),
        WorldError::Config(_) | WorldError::Record(_) => ExitCode::InvalidParameter,
        WorldError::Timeout(_) => ExitCode::RequestTimedOut,
        WorldError::Plug(_) | WorldError::NoCard { .. } => ExitCode::Transport,
        _ => ExitCode::Internal,
    };
    let text = e.to_string();
    // The driver's own words mostly say what to do already.
    let advice = match code {
        ExitCode::Transport | ExitCode::TransportTimeout | ExitCode::PduTimeout
            if !text.contains("check") && !matches!(e, WorldError::Plug(_) | WorldError::NoCard { .. }) =>
        {
            "; check address and port, and that the target runs"
        }
        _ => "",
    };
    Failure::new(code, format!("{what}: {text}{advice}"))
}

impl Unit for Remote {
    fn block_size(&self) -> u32 {
        either!(self, r => r.block_size())
    }

    fn blocks(&self) -> u64 {
        either!(self, r => r.blocks())
    }

    fn run<J: Job + 'static>(&mut self, job: J, depth: usize, len: usize) -> (J, Result<(), Failure>) {
        either!(self, r => r.run(job, depth, len))
    }

    fn now_ns(&self) -> u64 {
        either!(self, r => r.now_ns())
    }

    fn usage(&self) -> Usage {
        either!(self, r => r.usage())
    }
}

impl<P: Seat + 'static> Unit for Reached<P> {
    fn block_size(&self) -> u32 {
        self.info.capacity.block_size
    }

    fn blocks(&self) -> u64 {
        self.info.capacity.blocks
    }

    fn run<J: Job + 'static>(&mut self, job: J, depth: usize, len: usize) -> (J, Result<(), Failure>) {
        let buffers = self.world.act(|_, host| {
            let buffers: Vec<_> = (0..depth).map_while(|_| host.adapter.alloc(len).ok()).collect();
            if buffers.len() == depth {
                return Some(buffers);
            }
            for buffer in buffers {
                // It was never used, so nothing holds it.
                let _ = host.adapter.free(buffer);
            }
            None
        });
        let Some(buffers) = buffers else {
            let text = format!(
                "the card's host has no room for {depth} buffers of {len} bytes: lower --iodepth or --bs"
            );
            return (job, Err(Failure::new(ExitCode::Again, text)));
        };
        let user = Rc::new(RefCell::new(Worker {
            pipeline: Pipeline::new(job, depth),
            slots: Slots {
                waiting: Waiting::with_capacity(depth),
                buffers,
                session: self.session.session,
                lun: self.lun,
            },
            block_size: self.block_size(),
            completions: Vec::with_capacity(depth),
            patience: self.patience,
            lost: false,
        }));
        self.world.act(|_, host| host.user = Some(user.clone()));
        let watched = user.clone();
        self.world.run(FOR_EVER, |_| watched.borrow().pipeline.finished());
        self.world.act(|_, host| {
            host.user = None;
            // A buffer that the card may still touch is kept by the adapter until the shutdown.
            for buffer in user.borrow_mut().slots.buffers.drain(..) {
                let _ = host.adapter.free(buffer);
            }
        });
        drop(watched);
        match Rc::try_unwrap(user) {
            Ok(worker) => worker.into_inner().pipeline.into_outcome(),
            Err(_) => unreachable!("the host gave its user back and the watcher is gone"),
        }
    }

    fn now_ns(&self) -> u64 {
        os::clock::now_ns()
    }

    fn usage(&self) -> Usage {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let overhead = self.world.exec().overhead();
        Usage {
            host_ns: ns(self.world.host_busy()),
            chip_ns: ns((self.chip_busy)(&self.world)),
            polls_ns: ns(overhead.polls),
            parks_ns: ns(overhead.parks_cpu),
            process_ns: ns(os::clock::process_cpu().saturating_sub(self.process_cpu_at_login)),
            system_calls: os::count::calls().total(),
        }
    }
}

/// A job as the user of an adapter.
struct Worker<J> {
    pipeline: Pipeline<J>,
    slots: Slots,
    block_size: u32,
    completions: Vec<Completion>,
    patience: u32,
    /// The session is not logged in, and the person who waits knows.
    lost: bool,
}

impl<J: Job> Worker<J> {
    /// Tells once that nothing will happen for a while, and for how long at most.
    fn watch<P: Platform>(&mut self, now: Instant, adapter: &Adapter<P>) {
        let recovering = adapter
            .sessions()
            .any(|s| s.id == self.slots.session && matches!(s.phase, SessionPhase::Recovering));
        if recovering && !self.lost {
            let left = self.pipeline.deadline_ns().map(|at| (Instant::from_nanos(at) - now).as_secs() + 1);
            let seconds =
                left.map_or(self.patience, |s| self.patience.min(u32::try_from(s).unwrap_or(u32::MAX)));
            progress::note(&format!("connection lost, waiting up to {seconds} s for the target"));
        }
        self.lost = recovering;
    }
}

/// A request that failed: a connection that did not come back has a code of its own.
fn refused(e: &BlockError) -> Failure {
    let code = match e {
        BlockError::RecoveryTimedOut { .. } | BlockError::Transport(_) => ExitCode::Transport,
        _ => ExitCode::Other,
    };
    Failure::new(code, e.to_string())
}

struct Slots {
    waiting: Waiting,
    buffers: Vec<UserBuf>,
    session: SessionId,
    lun: Lun,
}

impl<P: Platform, J: Job> User<P> for Worker<J> {
    fn drive(&mut self, cx: &mut Cx<'_>, adapter: &mut Adapter<P>) -> Progress {
        self.watch(cx.now, adapter);
        let retry = cx.now + RETRY;
        let mut disk = Turn {
            cx,
            adapter,
            slots: &mut self.slots,
            block_size: self.block_size,
            completions: &mut self.completions,
        };
        let done = self.pipeline.step(&mut disk);
        let give_up = self.pipeline.deadline_ns().map(Instant::from_nanos);
        Progress { done, next: Instant::earliest(give_up, self.pipeline.refused().then_some(retry)) }
    }
}

/// The unit during one turn of the host.
struct Turn<'a, 'b, P: Platform> {
    cx: &'a mut Cx<'b>,
    adapter: &'a mut Adapter<P>,
    slots: &'a mut Slots,
    block_size: u32,
    completions: &'a mut Vec<Completion>,
}

impl<P: Platform> Disk for Turn<'_, '_, P> {
    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn store(&mut self, slot: usize, data: &[u8]) {
        if let Some(memory) = self.adapter.buffer(self.slots.buffers[slot]) {
            memory.write(0, data);
        }
    }

    fn load(&self, slot: usize, data: &mut [u8]) {
        if let Some(memory) = self.adapter.buffer(self.slots.buffers[slot]) {
            memory.read(0, data);
        }
    }

    fn submit(&mut self, slot: usize, request: Request) -> Result<Accepted, Failure> {
        let op = match request.direction {
            Direction::Read => Op::Read,
            Direction::Write => Op::Write,
        };
        let data = [self.slots.buffers[slot].range(0, request.len)];
        let lba = request.offset / u64::from(self.block_size);
        let wanted = user::Request { lun: self.slots.lun, op, lba, data: &data };
        match self.adapter.submit(self.cx, self.slots.session, &wanted) {
            Ok(ticket) => {
                self.slots.waiting.insert(ticket, slot);
                Ok(Accepted::Yes)
            }
            Err(SubmitError::Busy { .. }) => Ok(Accepted::NotNow),
            Err(e) => Err(Failure::new(ExitCode::Other, format!("request at byte {}: {e}", request.offset))),
        }
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        self.adapter.reap(self.completions);
        for c in self.completions.drain(..) {
            let Some(slot) = self.slots.waiting.take(c.ticket) else { continue };
            done.push(Done { slot, result: c.result.map_err(|e| refused(&e)) });
        }
    }

    fn now_ns(&self) -> u64 {
        os::clock::now_ns()
    }
}
