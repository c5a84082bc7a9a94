//! The single most valuable test: a fault at every event of a short happy path, and a second one at every
//! event of the recovery from the first.
//!
//! The path is bring-up, login, one write, one read, logout. Actors do one work item a step, and a fault hits
//! after each step in which something crossed a seam (register, doorbell, DMA, publish, interrupt, KWQE,
//! KCQE, WQE, CQE, PDU): first the undisturbed path says where those are. After each run every fault is
//! undone, a new session writes and reads, everything is shut down, and nothing may be left.

use std::time::Duration;

use bus::Budget;
use bus::inproc::Timing;
use driver::adapter::{AdapterState, OperatorRequest, SessionPhase};
use driver::control::SessionId;
use driver::iscsid::IscsidReply;
use driver::user::{Op, Request, UserBuf};
use hw_model::fault::{FaultPoint, Trigger};
use iscsi::scsi::Lun;
use lab::stamp::Stamp;
use lab::world::World;
use tests::rig::{BLOCK, RigConfig, full, heal};

/// Longest path with its faults: an initial login retries for two minutes, a request waits for the
/// replacement timeout at most.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a fault that stays is left alone before it is undone.
const FAULT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Reset,
    Mtu,
    DownUp,
    Mute,
    MuteReset,
    KillTarget,
    SilentTarget,
    KillDaemon,
    StopDaemon,
    StopHelper,
    /// With its ring open; a new one when it is undone.
    KillHelper,
    /// The same, and the new one at once.
    RestartHelper,
    Pull,
}

impl Blow {
    fn strike(self, world: &mut World) {
        match self {
            Self::Reset => operate(world, OperatorRequest::Reset),
            Self::Mtu => operate(world, OperatorRequest::ChangeMtu(9000)),
            Self::DownUp => {
                operate(world, OperatorRequest::InterfaceDown);
                operate(world, OperatorRequest::InterfaceUp);
            }
            Self::Mute => world.faults().arm(FaultPoint::Mute, Trigger::ONCE),
            Self::MuteReset => {
                world.faults().arm(FaultPoint::Mute, Trigger::ONCE);
                operate(world, OperatorRequest::Reset);
            }
            Self::KillTarget => world.target().expect("embedded").borrow_mut().kill(),
            Self::SilentTarget => world.target().expect("embedded").borrow().set_silent(true),
            Self::KillDaemon => {
                world.kill_iscsid();
                world.start_iscsid().expect("the name is sound");
            }
            Self::StopDaemon => world.stop_iscsid(true),
            Self::StopHelper => world.stop_helper(true),
            Self::KillHelper => world.kill_helper(),
            Self::RestartHelper => {
                world.kill_helper();
                world.start_helper();
            }
            Self::Pull => {
                world.pull_card();
            }
        }
    }

    /// Whether it lasts until it is undone.
    fn lasts(self) -> bool {
        matches!(
            self,
            Self::KillTarget
                | Self::SilentTarget
                | Self::StopDaemon
                | Self::StopHelper
                | Self::KillHelper
                | Self::Pull
                | Self::Mute
        )
    }

    fn undo(self, world: &mut World) {
        if self == Self::Pull {
            world.insert_card();
        }
        heal(world);
        if self == Self::Mute && world.host().borrow().adapter.state() == AdapterState::Up {
            // A mute chip that nobody waits for is noticed by the keepalive; here the operator helps.
            operate(world, OperatorRequest::Reset);
        }
    }
}

fn operate(world: &mut World, request: OperatorRequest) {
    world.operate(request).expect("the adapter was not shut down");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Login,
    Ready(SessionId, u64),
    Writing(SessionId, u64, UserBuf),
    Reading(SessionId, u64, UserBuf),
    Leaving(UserBuf),
    /// The daemon was killed with the request: nobody will answer.
    Over,
}

/// The happy path, as far as it got.
struct Path {
    world: World,
    stage: Stage,
    generation: u32,
}

fn stamp(generation: u32) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    Stamp { lba: 3, generation, writer: 1, run: 1 }.fill(&mut block);
    block
}

impl Path {
    fn new(timing: Timing) -> Self {
        let mut config = RigConfig::new(1);
        config.timing = timing;
        config.region = 16;
        let mut world = config.world();
        world.set_budget(Budget(1));
        operate(&mut world, OperatorRequest::InterfaceUp);
        let mut path = Self { world, stage: Stage::Login, generation: 0 };
        path.begin();
        path
    }

    fn begin(&mut self) {
        self.generation += 1;
        self.stage = Stage::Login;
        self.world.begin_login(&RigConfig::new(1).record).expect("the record is sound");
    }

    fn submit(&mut self, session: SessionId, op: Op, buf: UserBuf) -> bool {
        let request = Request { lun: Lun::default(), op, lba: 3, data: &[buf.range(1, BLOCK as usize)] };
        self.world.act(|cx, host| host.adapter.submit(cx, session, &request)).is_ok()
    }

    fn completion(&mut self) -> Option<bool> {
        let mut done = Vec::new();
        self.world.host().borrow_mut().adapter.reap(&mut done);
        assert!(done.len() <= 1, "S1: {done:?}");
        done.pop().map(|c| c.result.is_ok())
    }

    /// Goes on where something has happened. Whether the path has ended.
    fn advance(&mut self) -> bool {
        match self.stage {
            Stage::Login => match self.world.take_reply() {
                Some(IscsidReply::LoggedIn { result: Ok(e), .. }) => {
                    self.stage = Stage::Ready(e.session, e.tag)
                }
                Some(_) => self.stage = Stage::Over,
                None => {}
            },
            Stage::Ready(session, tag) => {
                let ready =
                    |s: &driver::adapter::SessionInfo| s.id == session && s.phase == SessionPhase::Ready;
                let host = self.world.host().clone();
                let (known, ready) = {
                    let host = host.borrow();
                    (
                        host.adapter.sessions().any(|s| s.id == session),
                        host.adapter.sessions().any(|s| ready(&s)),
                    )
                };
                if !known {
                    self.stage = Stage::Over;
                } else if ready {
                    let block = stamp(self.generation);
                    let buf = self.world.act(|_, host| {
                        let buf = host.adapter.alloc(2 * BLOCK as usize).expect("there is memory");
                        host.adapter.buffer(buf).expect("it is new").write(1, &block);
                        buf
                    });
                    if self.submit(session, Op::Write, buf) {
                        self.stage = Stage::Writing(session, tag, buf);
                    } else {
                        self.leave(tag, buf);
                    }
                }
            }
            Stage::Writing(session, tag, buf) => match self.completion() {
                Some(true) => {
                    self.world.act(|_, host| host.adapter.buffer(buf).expect("live").fill(0, 1024, 0xee));
                    if self.submit(session, Op::Read, buf) {
                        self.stage = Stage::Reading(session, tag, buf);
                    } else {
                        self.leave(tag, buf);
                    }
                }
                Some(false) => self.leave(tag, buf),
                None => {}
            },
            Stage::Reading(_, tag, buf) => match self.completion() {
                Some(true) => {
                    let mut found = [0; BLOCK as usize + 2];
                    self.world.act(|_, host| host.adapter.buffer(buf).expect("live").read(0, &mut found));
                    assert_eq!(
                        found[1..=BLOCK as usize],
                        stamp(self.generation),
                        "S2: what was written is read"
                    );
                    assert_eq!((found[0], found[BLOCK as usize + 1]), (0xee, 0xee), "S6");
                    self.leave(tag, buf);
                }
                Some(false) => self.leave(tag, buf),
                None => {}
            },
            Stage::Leaving(buf) => {
                if self.world.take_reply().is_some() {
                    self.world.act(|_, host| host.adapter.free(buf)).expect("nobody uses it any more");
                    self.stage = Stage::Over;
                }
            }
            Stage::Over => {}
        }
        self.stage == Stage::Over
    }

    fn leave(&mut self, tag: u64, buf: UserBuf) {
        self.world.begin_logout(tag).expect("the daemon empties its inbox");
        self.stage = Stage::Leaving(buf);
    }

    /// One step of one actor, and whatever follows from it. False when the path is over or time is.
    fn step(&mut self, limit: bus::Instant) -> bool {
        let before = self.world.exec().steps();
        let left = limit.since(self.world.now());
        if left.is_zero() {
            return false;
        }
        self.world.run(left, |x| x.steps() > before);
        !self.advance()
    }

    /// After the faults: the path once more from the start, undisturbed, then the end of everything.
    fn verify(mut self, what: &str) {
        if let Stage::Leaving(buf) | Stage::Writing(.., buf) | Stage::Reading(.., buf) = self.stage {
            // Who asked a daemon that was killed gets no answer.
            let done = self.completion();
            let free = self.world.act(|_, host| host.adapter.free(buf));
            assert!(free.is_ok(), "L2: {what}: {:?} still outstanding ({done:?})", self.stage);
        }
        while self.world.take_reply().is_some() {}
        self.world
            .settle("recovery", |s| s == AdapterState::Up)
            .unwrap_or_else(|e| panic!("L1: {what}: {e}"));
        self.begin();
        let limit = self.world.now() + LIMIT;
        let mut finished = None;
        while self.step(limit) {
            if matches!(self.stage, Stage::Leaving(_)) {
                finished.get_or_insert(self.world.now());
            }
        }
        assert!(self.stage == Stage::Over && finished.is_some(), "L2: {what}: stuck in {:?}", self.stage);
        let left = self.world.shutdown().unwrap_or_else(|e| panic!("L4: {what}: {e}"));
        assert_eq!(left.leaked(), 0, "R8: {what}: {left:?}");
        let slot = self.world.slot().borrow();
        assert_eq!(left.audit.violations, 0, "S7: {what}: {:?}", slot.violations());
        let target = self.world.target().expect("embedded").borrow();
        assert_eq!(target.executions().repeated(), 0, "S5: {what}");
    }
}

/// The steps of the path in which something crossed a seam, counted from `from` on; `first` strikes at its
/// step.
fn crossings(timing: Timing, first: Option<(Blow, u64)>) -> Vec<u64> {
    let mut path = Path::new(timing);
    let limit = path.world.now() + LIMIT;
    let mut points = Vec::new();
    let mut seen = path.world.exec().crossings();
    let mut struck = first.is_none();
    let mut undo = None;
    loop {
        let going = path.step(limit);
        let steps = path.world.exec().steps();
        if let Some((blow, at)) = first
            && !struck
            && steps >= at
        {
            blow.strike(&mut path.world);
            struck = true;
            undo = blow.lasts().then(|| (blow, path.world.now() + FAULT));
            seen = path.world.exec().crossings();
        } else if struck && path.world.exec().crossings() > seen {
            seen = path.world.exec().crossings();
            points.push(steps);
        }
        if let Some((blow, at)) = undo
            && path.world.now() >= at
        {
            blow.undo(&mut path.world);
            undo = None;
        }
        if !going && undo.is_none() {
            return points;
        }
        assert!(path.world.now() < limit + LIMIT, "the path does not end");
        if !going {
            // The path is over before the fault is undone.
            path.world.run(FAULT, |_| false);
        }
    }
}

/// Runs the path with a blow at each of the given steps.
fn strike(timing: Timing, blows: &[(Blow, u64)]) {
    let what = format!("{timing:?} {blows:?}");
    let mut path = Path::new(timing);
    let limit = path.world.now() + LIMIT;
    let mut left = blows;
    let mut undo: Vec<(Blow, bus::Instant)> = Vec::new();
    let mut resets = 0;
    loop {
        let going = path.step(limit);
        while let [(blow, at), rest @ ..] = left
            && (path.world.exec().steps() >= *at || !going)
        {
            let up = path.world.host().borrow().adapter.state() == AdapterState::Up;
            resets +=
                u64::from(up && matches!(blow, Blow::Reset | Blow::Mtu | Blow::DownUp | Blow::MuteReset));
            blow.strike(&mut path.world);
            if blow.lasts() {
                undo.push((*blow, path.world.now() + FAULT));
            }
            left = rest;
        }
        undo.retain(|(blow, at)| {
            let due = path.world.now() >= *at;
            if due {
                blow.undo(&mut path.world);
            }
            !due
        });
        if !going {
            break;
        }
    }
    if !undo.is_empty() {
        path.world.run_for(FAULT);
    }
    for (blow, _) in undo {
        blow.undo(&mut path.world);
    }
    let daemon_died = blows.iter().any(|(b, _)| *b == Blow::KillDaemon);
    if !daemon_died {
        assert_eq!(path.stage, Stage::Over, "L2: {what}: the path did not end");
    }
    let counted = path.world.host().borrow().adapter.counters().resets;
    path.verify(&what);
    assert!(counted >= resets, "{what}: the chip was reset {counted} times");
}

/// One blow at each crossing.
fn sweep(timing: Timing, blow: Blow) {
    let points = crossings(timing, None);
    assert!(points.len() > 100, "the path crosses seams: {}", points.len());
    for at in points {
        strike(timing, &[(blow, at)]);
    }
}

/// A second blow at each `stride`-th crossing of the recovery from a first one, which hits every `outer`-th
/// crossing.
fn sweep_twice(first: Blow, second: Blow, outer: usize, stride: usize) {
    let timing = Timing::default();
    let (outer, stride) = if full() { (outer.div_ceil(7), 1) } else { (outer, stride) };
    for (i, at) in crossings(timing, None).into_iter().step_by(outer).enumerate() {
        let points = crossings(timing, Some((first, at)));
        // Another phase for each first blow, so that together they cover more.
        for then in points.iter().skip(i % stride).step_by(stride) {
            strike(timing, &[(first, at), (second, *then)]);
        }
    }
}

const PROMPT: Timing = Timing { mmio: Duration::ZERO, dma: Duration::ZERO };
const HELD: Timing = Timing { mmio: Duration::from_micros(20), dma: Duration::from_micros(35) };

macro_rules! sweeps {
    ($($name:ident: $call:expr;)*) => {
        $(#[test] fn $name() { $call; })*
    };
}

sweeps! {
    reset_at_every_event: sweep(PROMPT, Blow::Reset);
    reset_at_every_event_with_held_queues: sweep(HELD, Blow::Reset);
    mtu_change_at_every_event: sweep(PROMPT, Blow::Mtu);
    interface_down_up_at_every_event: sweep(PROMPT, Blow::DownUp);
    mute_at_every_event: sweep(PROMPT, Blow::Mute);
    mute_and_reset_at_every_event: sweep(PROMPT, Blow::MuteReset);
    target_killed_at_every_event: sweep(PROMPT, Blow::KillTarget);
    target_silent_at_every_event: sweep(PROMPT, Blow::SilentTarget);
    iscsid_killed_at_every_event: sweep(PROMPT, Blow::KillDaemon);
    iscsid_stopped_at_every_event: sweep(PROMPT, Blow::StopDaemon);
    path_helper_stopped_at_every_event: sweep(PROMPT, Blow::StopHelper);
    path_helper_killed_at_every_event: sweep(PROMPT, Blow::KillHelper);
    path_helper_restarted_at_every_event: sweep(PROMPT, Blow::RestartHelper);
    card_pulled_at_every_event: sweep(PROMPT, Blow::Pull);

    reset_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::Reset, 7, 5);
    down_up_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::DownUp, 19, 11);
    mute_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::MuteReset, 19, 11);
    iscsid_killed_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::KillDaemon, 19, 11);
    iscsid_stopped_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::StopDaemon, 19, 11);
    target_killed_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::KillTarget, 19, 11);
    card_pulled_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::Pull, 19, 11);
    path_helper_killed_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::KillHelper, 19, 11);
    path_helper_restarted_at_every_event_of_the_recovery_from_a_reset: sweep_twice(Blow::Reset, Blow::RestartHelper, 19, 11);
    reset_at_every_event_of_the_recovery_from_a_dead_target: sweep_twice(Blow::KillTarget, Blow::Reset, 19, 11);
    reset_at_every_event_of_the_recovery_from_a_dead_iscsid: sweep_twice(Blow::KillDaemon, Blow::Reset, 19, 11);
    reset_at_every_event_of_the_recovery_from_a_mute_chip: sweep_twice(Blow::Mute, Blow::Reset, 19, 11);
}
