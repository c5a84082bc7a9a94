//! Start, stop and reset of the chip: the state machine of the adapter.
//!
//! Going down tears all endpoints down in parallel under one deadline. Then the chip is reset regardless:
//! first by register, then, if the epoch does not end, by function level reset, then by the slot. Only the
//! proof that the epoch is over frees what the card may still touch. Every stage has a deadline and leads on;
//! a fault in the middle of recovery is just another expired deadline.

use bus::Instant;
use bus::actor::Cx;
use bus::mem::PAGE_SIZE;
use bus::pci::{Dir, Platform, Proof, ResetKind, Revoked};
use bus::trace::{Event, EventKind};
use core::time::Duration;
use hsi::bcm5709::shmem;
use hsi::kernel::kcq::CompletionStatus;

use super::timers::TimerKey;
use super::{Adapter, AdapterState, Failure};
use crate::bnx2i::{Phase, kwqe};
use crate::cnic::uio::Shared;
use crate::cnic::{KernelQueues, doorbell_layout};
use crate::control::FromAdapter;
use crate::error::Cause;
use crate::l2;
use crate::mem::Lent;

/// How often a register or mailbox is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);
/// How often a stronger reset is repeated while the card does not answer at all.
const RESET_RETRY: Duration = Duration::from_secs(1);

/// Pause before a failed adapter tries again. It doubles up to [`LONGEST_PAUSE`], and starts anew when the
/// adapter was up.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Up,
    Down,
    Gone,
}

/// What the adapter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing.
    Rest,
    /// All endpoints to be released or in quarantine.
    Drain,
    /// Firmware to acknowledge that a reset is coming.
    Announce { seq: u16, until: Instant },
    /// The epoch to end after a software reset.
    SoftReset { until: Instant },
    /// A stronger reset to be possible.
    HardReset { until: Instant },
    /// Firmware to be back after the reset.
    Returned { seq: u16, until: Instant },
    /// Firmware to acknowledge that set-up is done.
    Settled { seq: u16, until: Instant },
    /// The answer to ISCSI_INIT.
    Init { until: Instant },
}

/// Everything that exists while the chip is up.
pub(super) struct Chip {
    pub(super) memory: l2::ChipMemory,
    pub(super) queues: KernelQueues,
    /// A page that requests without data name, and its BD.
    pub(super) dummy: Lent,
    /// How doorbells are laid out.
    pub(super) mq_config2: u32,
}

/// Offset of the dummy BD list in the dummy allocation.
pub(super) const DUMMY_LIST: usize = PAGE_SIZE;

impl Chip {
    pub(super) fn loans(&self) -> u32 {
        self.memory.loans() + self.queues.loans() + self.dummy.loans()
    }

    pub(super) fn buffers(&self) -> u32 {
        self.memory.buffers() + 2
    }

    /// Bus address of the BD list of requests without data.
    pub(super) fn dummy_list(&self) -> u64 {
        self.dummy.addr(DUMMY_LIST)
    }

    fn release<P: Platform>(self, p: &mut P, proof: Proof) {
        self.memory.release(p, proof);
        self.queues.release(p, proof);
        self.dummy.release(p, proof);
    }
}

impl<P: Platform> Adapter<P> {
    pub(super) fn set_state(&mut self, cx: &mut Cx<'_>, state: AdapterState) {
        if self.state != state {
            self.state = state;
            // Its own event, also while an operator's request is looked at.
            let (a, b) = (state.number(), u64::from(self.age));
            cx.trace.emit(|| Event { time: cx.now, actor: self.name, kind: EventKind::Adapter, a, b });
        }
    }

    /// Moves on as far as possible. Each turn changes the stage, and no chain of stages is longer than this.
    pub(super) fn drive(&mut self, cx: &mut Cx<'_>) {
        for _ in 0..16 {
            if !self.advance(cx) {
                break;
            }
        }
        let poll = match self.stage {
            Stage::Rest => self.again.filter(|_| self.goal == Goal::Up),
            Stage::Drain => self.helper.close_due.filter(|_| self.helper.is_waited_for(cx.now)),
            Stage::Init { until } => Some(until),
            Stage::HardReset { until } => Some(until.min(cx.now + RESET_RETRY)),
            Stage::Announce { until, .. }
            | Stage::SoftReset { until }
            | Stage::Returned { until, .. }
            | Stage::Settled { until, .. } => Some(until.min(cx.now + POLL)),
        };
        match poll {
            Some(at) => self.timers.arm_by(TimerKey::Chip, at),
            None => self.timers.disarm(TimerKey::Chip),
        }
    }

    /// One transition, if one is due.
    fn advance(&mut self, cx: &mut Cx<'_>) -> bool {
        match self.stage {
            Stage::Rest => self.rest(cx),
            Stage::Drain => {
                let busy = self.endpoints().any(|ep| ep.phase != Phase::Quarantined);
                if (busy || self.helper.is_waited_for(cx.now))
                    && self.stop_due.is_some_and(|due| cx.now < due)
                {
                    return false;
                }
                self.shut_ring(cx, true);
                self.set_state(cx, AdapterState::Resetting);
                self.begin_reset(cx);
                true
            }
            Stage::Announce { seq, until } => {
                let Some(id) = self.identity else { return self.soft_reset(cx) };
                let acked = l2::mailbox_acked(&mut self.platform, cx, &id, seq);
                // Firmware that does not answer is one more reason to reset, not one to wait.
                if acked != Ok(false) || cx.now >= until { self.soft_reset(cx) } else { false }
            }
            Stage::SoftReset { until } => match self.platform.revoked(cx, self.lent_epoch) {
                Ok(Some(proof)) => self.reset_done(cx, proof),
                _ if cx.now >= until => {
                    self.counters.timeouts += 1;
                    self.counters.escalated_resets += 1;
                    self.stage = Stage::HardReset { until: cx.now + self.config.deadlines.stop };
                    true
                }
                _ => false,
            },
            Stage::HardReset { until } => {
                let kinds = [ResetKind::Flr, ResetKind::Device];
                let proof = kinds.into_iter().find_map(|kind| self.platform.reset(cx, kind).ok());
                match proof {
                    Some(proof) => self.reset_done(cx, proof),
                    None if cx.now >= until => self.give_up(cx, Failure::ResetUnconfirmed),
                    None => false,
                }
            }
            Stage::Returned { seq, until } => self.mailbox_stage(cx, seq, until, Self::set_up),
            Stage::Settled { seq, until } => self.mailbox_stage(cx, seq, until, Self::send_init),
            Stage::Init { until } => {
                if cx.now < until {
                    return false;
                }
                self.counters.timeouts += 1;
                self.start_failed(cx, Failure::Init(u32::MAX));
                true
            }
        }
    }

    fn rest(&mut self, cx: &mut Cx<'_>) -> bool {
        match (self.state, self.goal) {
            (AdapterState::Up, goal) if goal != Goal::Up || self.reset_wanted => {
                self.go_down(cx);
                true
            }
            (AdapterState::Down, Goal::Up) => {
                self.start(cx);
                true
            }
            (AdapterState::Failed(_), Goal::Up)
                if self.retry || self.again.is_some_and(|at| at <= cx.now) =>
            {
                self.start(cx);
                true
            }
            (AdapterState::Failed(_), Goal::Down) if self.chip.is_none() => {
                self.again = None;
                self.set_state(cx, AdapterState::Down);
                true
            }
            (AdapterState::Failed(_), Goal::Down | Goal::Gone) if self.retry => {
                self.retry = false;
                self.set_state(cx, AdapterState::Resetting);
                self.begin_reset(cx);
                true
            }
            (AdapterState::Down, Goal::Gone) => {
                self.dissolve(cx);
                true
            }
            (AdapterState::Failed(_), Goal::Gone) if self.chip.is_none() => {
                self.dissolve(cx);
                true
            }
            _ => false,
        }
    }

    fn start(&mut self, cx: &mut Cx<'_>) {
        (self.retry, self.attempts, self.fail_after, self.again) = (false, 0, None, None);
        self.set_state(cx, AdapterState::Starting);
        self.attempt(cx);
    }

    /// Finds the chip and resets it, whatever state somebody left it in.
    fn attempt(&mut self, cx: &mut Cx<'_>) {
        let found = l2::enable(&mut self.platform, cx).and_then(|()| l2::identify(&mut self.platform, cx));
        match found {
            Ok(id) => {
                self.identity = Some(id);
                if self.chip.is_none() {
                    self.lent_epoch = self.platform.epoch();
                }
                self.begin_reset(cx);
            }
            Err(f) => {
                self.give_up(cx, f);
            }
        }
    }

    /// All connections go, in parallel, under one deadline.
    fn go_down(&mut self, cx: &mut Cx<'_>) {
        self.set_state(cx, AdapterState::GoingDown);
        self.reset_wanted = false;
        self.stop_due = Some(cx.now + self.config.deadlines.stop);
        self.timers.arm(TimerKey::Stop, cx.now + self.config.deadlines.stop);
        self.say(FromAdapter::AdapterDown { age: self.age });
        self.helper_down(cx);
        self.stage = Stage::Drain;
        let cause = if self.goal == Goal::Gone { Cause::HostRemoved } else { Cause::AdapterReset };
        for cid in 0..self.eps.len() as u16 {
            self.fail_endpoint(cx, cid, cause);
        }
        self.check_presence(cx);
    }

    /// A card that is gone, or was reset behind our back, answers nothing any more: no use in waiting for it.
    pub(super) fn check_presence(&mut self, cx: &mut Cx<'_>) {
        if self.chip.is_none() || !matches!(self.stage, Stage::Rest | Stage::Drain | Stage::Init { .. }) {
            return;
        }
        if let Ok(Some(_)) = self.platform.revoked(cx, self.lent_epoch) {
            if self.state == AdapterState::Up {
                self.go_down_at_once(cx);
            }
            self.shut_ring(cx, false);
            self.set_state(cx, AdapterState::Resetting);
            // Until now memory may have been lent in the younger epoch too: only a reset of our own covers
            // it.
            self.stage = Stage::HardReset { until: cx.now + self.config.deadlines.stop };
        }
    }

    /// The card does not even fetch what it is asked for: no teardown is waited for before it is reset.
    pub(super) fn go_down_without_waiting(&mut self, cx: &mut Cx<'_>) {
        self.go_down_at_once(cx);
        self.stop_due = Some(cx.now);
        self.stage = Stage::Drain;
    }

    fn go_down_at_once(&mut self, cx: &mut Cx<'_>) {
        self.set_state(cx, AdapterState::GoingDown);
        self.reset_wanted = false;
        self.say(FromAdapter::AdapterDown { age: self.age });
        self.helper_down(cx);
        for cid in 0..self.eps.len() as u16 {
            self.report_failure(cx, cid, Cause::AdapterReset);
        }
    }

    /// Tells firmware that a reset is coming.
    pub(super) fn begin_reset(&mut self, cx: &mut Cx<'_>) {
        match self.identity {
            Some(id) => {
                let seq = self.post_mailbox(cx, &id, shmem::DRV_MSG_DATA_WAIT0);
                self.stage = Stage::Announce { seq, until: cx.now + self.config.deadlines.firmware };
            }
            None => {
                self.soft_reset(cx);
            }
        }
    }

    fn post_mailbox(&mut self, cx: &mut Cx<'_>, id: &l2::Identity, phase: u32) -> u16 {
        self.fw_seq = self.fw_seq.wrapping_add(1);
        l2::mailbox_post(&mut self.platform, cx, id, shmem::reset_code(phase), self.fw_seq);
        self.fw_seq
    }

    fn soft_reset(&mut self, cx: &mut Cx<'_>) -> bool {
        // A card that was pulled has ended an epoch already, which proves nothing about what was lent since.
        self.lent_epoch = self.platform.epoch();
        l2::software_reset(&mut self.platform, cx);
        self.stage = Stage::SoftReset { until: cx.now + self.config.deadlines.chip_reset };
        true
    }

    /// The reset is proven: everything that the card had comes back, then on to the goal.
    fn reset_done(&mut self, cx: &mut Cx<'_>, proof: Revoked) -> bool {
        self.counters.resets += 1;
        self.stop_due = None;
        self.timers.disarm(TimerKey::Stop);
        self.timers.disarm(TimerKey::Watchdog);
        self.release_all(cx, Proof::Revoked(proof));
        self.reclaim_ring(Proof::Revoked(proof));
        if let Some(chip) = self.chip.take() {
            chip.release(&mut self.platform, Proof::Revoked(proof));
        }
        self.lent_epoch = self.platform.epoch();
        self.stage = Stage::Rest;
        if let Some(f) = self.fail_after.take() {
            self.give_up(cx, f);
        } else if self.goal != Goal::Up {
            self.set_state(cx, AdapterState::Down);
        } else {
            self.set_state(cx, AdapterState::Starting);
            match l2::enable(&mut self.platform, cx) {
                Ok(()) if l2::byte_order_ok(&mut self.platform, cx) => self.announce_return(cx),
                Ok(()) => self.start_failed(cx, Failure::BusLost),
                Err(f) => {
                    self.give_up(cx, f);
                }
            }
        }
        true
    }

    fn announce_return(&mut self, cx: &mut Cx<'_>) {
        let Some(id) = self.identity else {
            self.attempt(cx);
            return;
        };
        let seq = self.post_mailbox(cx, &id, shmem::DRV_MSG_DATA_WAIT1);
        self.stage = Stage::Returned { seq, until: cx.now + self.config.deadlines.firmware };
    }

    fn mailbox_stage(
        &mut self,
        cx: &mut Cx<'_>,
        seq: u16,
        until: Instant,
        then: fn(&mut Self, &mut Cx<'_>),
    ) -> bool {
        let Some(id) = self.identity else { return self.give_up(cx, Failure::Firmware) };
        match l2::mailbox_acked(&mut self.platform, cx, &id, seq) {
            Ok(true) => then(self, cx),
            Ok(false) if cx.now < until => return false,
            Ok(false) => {
                self.counters.timeouts += 1;
                self.start_failed(cx, Failure::Firmware);
            }
            Err(_) => self.start_failed(cx, Failure::BusLost),
        }
        true
    }

    /// Programs the chip with the configuration of this moment.
    fn set_up(&mut self, cx: &mut Cx<'_>) {
        // Another card may have come into the slot meanwhile, with another address and licence.
        let id = match l2::identify(&mut self.platform, cx) {
            Ok(id) => id,
            Err(why) => return self.start_failed(cx, why),
        };
        self.identity = Some(id);
        self.reset_wanted = false;
        match self.build_chip(cx, &id) {
            Ok(chip) => {
                self.chip = Some(chip);
                let seq = self.post_mailbox(cx, &id, shmem::DRV_MSG_DATA_WAIT2);
                self.stage = Stage::Settled { seq, until: cx.now + self.config.deadlines.firmware };
            }
            Err(l2::SetupError::Chip) => self.start_failed(cx, Failure::Firmware),
            Err(l2::SetupError::Memory) => {
                self.attempts = u8::MAX;
                self.start_failed(cx, Failure::NoMemory);
            }
        }
    }

    fn build_chip(&mut self, cx: &mut Cx<'_>, id: &l2::Identity) -> Result<Chip, l2::SetupError> {
        let p = &mut self.platform;
        let shared = match self.helper.shared.take() {
            Some(shared) => shared,
            None => Shared::new(p)?,
        };
        let shared = self.helper.shared.insert(shared);
        let dummy = Lent::new(p, 2 * PAGE_SIZE, "dummy", &[(0..2 * PAGE_SIZE, Dir::Both)])?;
        let mut bds = crate::bnx2i::BdList::new();
        if bds.push(dummy.addr(0), PAGE_SIZE).is_ok() {
            dummy.buf().write(DUMMY_LIST, zerocopy::IntoBytes::as_bytes(bds.finish()));
        }
        let queues = match KernelQueues::new(p) {
            Ok(q) => q,
            Err(e) => {
                dummy.release(p, Proof::NeverPosted);
                return Err(e.into());
            }
        };
        let status = shared.status(p);
        match l2::setup(p, cx, id, self.config.mtu, status) {
            Ok(memory) => {
                queues.program(p, cx);
                let mq_config2 = doorbell_layout(p, cx).unwrap_or(0);
                l2::interrupts_on(p, cx, &memory);
                Ok(Chip { memory, queues, dummy, mq_config2 })
            }
            Err(e) => {
                queues.release(p, Proof::NeverPosted);
                dummy.release(p, Proof::NeverPosted);
                Err(e)
            }
        }
    }

    fn send_init(&mut self, cx: &mut Cx<'_>) {
        let Some(dummy) = self.chip.as_ref().map(|c| c.dummy.addr(0)) else { return };
        let batch = kwqe::init(&self.config, dummy);
        self.rings_in_force = self.config.rings;
        if self.submit_kwqes(cx, &batch).is_err() {
            self.start_failed(cx, Failure::Init(u32::MAX));
            return;
        }
        self.timers.arm(TimerKey::Watchdog, cx.now + self.config.deadlines.watchdog);
        self.stage = Stage::Init { until: cx.now + self.config.deadlines.init };
    }

    /// KCQE INIT.
    pub(super) fn on_init(&mut self, cx: &mut Cx<'_>, status: CompletionStatus) {
        if !matches!(self.stage, Stage::Init { .. }) {
            self.stale(cx, 0x14, 0);
            return;
        }
        match status {
            CompletionStatus::SUCCESS => {
                self.stage = Stage::Rest;
                self.age = self.age.wrapping_add(1);
                self.counters.starts += 1;
                self.attempts = 0;
                self.again_pause = FIRST_PAUSE;
                self.local_ports.start_at(cx.rng.next_u64("cnic.local-port"));
                self.set_state(cx, AdapterState::Up);
                self.say_if_up();
                self.say(FromAdapter::AdapterUp { age: self.age });
            }
            CompletionStatus::ISCSI_NOT_SUPPORTED | CompletionStatus::LOM_ISCSI_NOT_ENABLED => {
                self.attempts = u8::MAX;
                self.start_failed(cx, Failure::NoLicence);
            }
            other => self.start_failed(cx, Failure::Init(other.0)),
        }
    }

    /// Bring-up failed: the chip is reset, and asked again while attempts are left.
    fn start_failed(&mut self, cx: &mut Cx<'_>, why: Failure) {
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts >= self.config.init_attempts {
            self.fail_after = Some(why);
        }
        self.begin_reset(cx);
    }

    /// Nothing helps for now. What the card may still touch stays in quarantine, and the adapter tries again
    /// after a pause: what has failed may be over, and no operator may be there.
    fn give_up(&mut self, cx: &mut Cx<'_>, why: Failure) -> bool {
        self.stage = Stage::Rest;
        self.fail_after = None;
        self.again = (self.goal == Goal::Up).then(|| cx.now + self.again_pause);
        self.again_pause = (self.again_pause * 2).min(LONGEST_PAUSE);
        self.set_state(cx, AdapterState::Failed(why));
        true
    }

    /// Shut down for good: sessions end, everything is given back. A timer that is still armed afterwards is
    /// a leak, and stays to be seen in the holdings (R8).
    fn dissolve(&mut self, cx: &mut Cx<'_>) {
        for slot in 0..self.sessions.len() as u16 {
            self.end_session(cx, slot);
        }
        if let Some(shared) = self.helper.shared.take() {
            shared.free(&mut self.platform);
        }
        self.set_state(cx, AdapterState::Gone);
    }
}
