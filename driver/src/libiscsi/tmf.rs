//! Task management of one session: abort task, then LUN reset, then target reset, then session recovery
//! (BNX2I-CNIC 7.1 and 7.3). One function is outstanding at a time.
//!
//! A function that the target refuses leads to the next rung. One that it does not answer says that the path
//! is dead: the session is recovered at once (1021), as in the real stack. After a function succeeded the
//! card is told to forget the tasks (CLEANUP); each is waited for by its own tag, never by a count (R7), and
//! all of a batch share one deadline (T7). A task that ends by itself between the decision and the sending is
//! reported as gone and nothing is sent (R8).
//!
//! The adapter calls [`Ladder::poll`] and carries out the [`LadderAction`]. Not modelled: host reset, which
//! the real stack does not register either.

use bus::Instant;
use core::time::Duration;
use iscsi::scsi::Lun;
use std::collections::VecDeque;

use super::TaskHandle;

/// How long each function may stay unanswered; iscsid's defaults are 15, 30 and 30 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmfTimeouts {
    /// ABORT TASK.
    pub abort: Duration,
    /// LOGICAL UNIT RESET.
    pub lun_reset: Duration,
    /// TARGET WARM RESET.
    pub target_reset: Duration,
    /// All cleanup completions of one batch (BNX2I-CNIC 13.7).
    pub cleanup: Duration,
}

impl Default for TmfTimeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { abort: s(15), lun_reset: s(30), target_reset: s(30), cleanup: s(1) }
    }
}

/// The functions used, with their codes (RFC 7143 11.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TmfFunction {
    /// One task.
    AbortTask = 1,
    /// All tasks of a logical unit.
    LunReset = 5,
    /// All tasks of the target.
    TargetWarmReset = 6,
}

/// A function to send, as an immediate PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmfRequest {
    /// The task management function.
    pub function: TmfFunction,
    /// LUN field; zero for a target reset.
    pub lun: Lun,
    /// The task to abort; `None` means the reserved referenced tag.
    pub task: Option<TaskHandle>,
}

/// The tasks that a successful function ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This one.
    Task(TaskHandle),
    /// All of the logical unit.
    Lun(Lun),
    /// All of the session.
    Session,
}

/// What the adapter has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LadderAction {
    /// Send it; then call [`Ladder::sent`], [`Ladder::task_gone`] or [`Ladder::not_sent`] before anything
    /// else.
    Send(TmfRequest),
    /// Post CLEANUP for every posted SCSI task of the scope, calling [`Ladder::cleanup_posted`] for each,
    /// then [`Ladder::cleanup_complete`]. Each task is failed upward when its cleanup CQE arrives, or its
    /// final CQE.
    CleanUp(Scope),
    /// Recover the session: connection failure 1021.
    RecoverSession,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Abort,
    LunReset,
    TargetReset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing to do but the queue.
    Idle,
    /// Wants to send.
    Ready(Rung),
    /// Handed out by `poll`; `sent` and its siblings decide.
    Sending(Rung),
    /// Waits for the response. `gone`: the task ended by itself meanwhile.
    Waiting { rung: Rung, until: Instant, gone: bool },
    /// The function succeeded; the adapter is to post CLEANUPs.
    Succeeded(Scope),
    /// Waits for cleanup completions. The deadline of the batch counts from the success.
    Cleaning { scope: Scope, until: Instant },
    /// Wants to recover the session.
    Dead,
    /// Said so; waits for [`Ladder::reset`].
    Recovering,
}

#[derive(Clone, Copy, Debug)]
struct Victim {
    task: TaskHandle,
    lun: Lun,
}

/// The error handler of one session.
#[derive(Debug)]
pub struct Ladder {
    timeouts: TmfTimeouts,
    limit: usize,
    /// Commands whose time is up, oldest first; the first is being worked on.
    victims: VecDeque<Victim>,
    awaited: Vec<TaskHandle>,
    state: State,
}

impl Ladder {
    /// An error handler for a session of `tasks` tasks, which bounds its queue.
    #[must_use]
    pub fn new(timeouts: TmfTimeouts, tasks: u16) -> Self {
        let limit = usize::from(tasks);
        Self {
            timeouts,
            limit,
            victims: VecDeque::with_capacity(limit),
            awaited: Vec::with_capacity(limit),
            state: State::Idle,
        }
    }

    /// The command of `task` took too long: end it. A task that is queued already is not queued twice.
    pub fn abort(&mut self, task: TaskHandle, lun: Lun) {
        if matches!(self.state, State::Dead | State::Recovering)
            || self.victims.len() == self.limit
            || self.victims.iter().any(|v| v.task == task)
        {
            return;
        }
        self.victims.push_back(Victim { task, lun });
    }

    /// Whether error handling goes on.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state != State::Idle || !self.victims.is_empty()
    }

    /// Whether new commands to `lun` have to wait: a reset covers them, or the session is about to be
    /// recovered.
    #[must_use]
    pub fn blocks(&self, lun: Lun) -> bool {
        match self.state {
            State::Idle => false,
            State::Ready(r) | State::Sending(r) | State::Waiting { rung: r, .. } => match r {
                Rung::Abort => false,
                Rung::LunReset => self.victims.front().is_some_and(|v| v.lun == lun),
                Rung::TargetReset => true,
            },
            State::Succeeded(scope) | State::Cleaning { scope, .. } => match scope {
                Scope::Task(_) => false,
                Scope::Lun(l) => l == lun,
                Scope::Session => true,
            },
            State::Dead | State::Recovering => true,
        }
    }

    /// The next thing to do at `now`, if any. Call it again until it has nothing to say.
    pub fn poll(&mut self, now: Instant) -> Option<LadderAction> {
        match self.state {
            State::Idle => {
                self.victims.front()?;
                self.state = State::Ready(Rung::Abort);
                self.poll(now)
            }
            State::Ready(rung) => {
                let Some(victim) = self.victims.front() else {
                    self.state = State::Idle;
                    return None;
                };
                let request = match rung {
                    Rung::Abort => TmfRequest {
                        function: TmfFunction::AbortTask,
                        lun: victim.lun,
                        task: Some(victim.task),
                    },
                    Rung::LunReset => {
                        TmfRequest { function: TmfFunction::LunReset, lun: victim.lun, task: None }
                    }
                    Rung::TargetReset => {
                        TmfRequest { function: TmfFunction::TargetWarmReset, lun: Lun::default(), task: None }
                    }
                };
                self.state = State::Sending(rung);
                Some(LadderAction::Send(request))
            }
            State::Waiting { until, .. } | State::Cleaning { until, .. } if now >= until => self.die(),
            State::Succeeded(scope) => {
                self.state = State::Cleaning { scope, until: now + self.timeouts.cleanup };
                Some(LadderAction::CleanUp(scope))
            }
            State::Dead => self.die(),
            State::Sending(_) | State::Waiting { .. } | State::Cleaning { .. } | State::Recovering => None,
        }
    }

    /// When [`poll`](Self::poll) has something to say although nothing else happened. After every call that
    /// feeds the ladder, poll it anyway.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until, .. } | State::Cleaning { until, .. } => Some(until),
            _ => None,
        }
    }

    fn die(&mut self) -> Option<LadderAction> {
        self.state = State::Recovering;
        self.victims.clear();
        self.awaited.clear();
        Some(LadderAction::RecoverSession)
    }

    /// The function that `poll` handed out is posted.
    pub fn sent(&mut self, now: Instant) {
        if let State::Sending(rung) = self.state {
            let timeout = match rung {
                Rung::Abort => self.timeouts.abort,
                Rung::LunReset => self.timeouts.lun_reset,
                Rung::TargetReset => self.timeouts.target_reset,
            };
            self.state = State::Waiting { rung, until: now + timeout, gone: false };
        }
    }

    /// The task to abort does not exist any more; nothing was posted (R8).
    pub fn task_gone(&mut self) {
        if self.state == State::Sending(Rung::Abort) {
            self.next_victim();
        }
    }

    /// The function could not be posted: connection failure.
    pub fn not_sent(&mut self) {
        if matches!(self.state, State::Sending(_)) {
            self.state = State::Dead;
        }
    }

    /// The TMF response of the outstanding function (RFC 7143 11.6.1: 0 complete, 1 no such task). Tells
    /// `false` for a response that nobody waits for.
    pub fn response(&mut self, response: u8) -> bool {
        let State::Waiting { rung, gone, .. } = self.state else { return false };
        let Some(victim) = self.victims.front().copied() else { return false };
        match (rung, response) {
            // The task ended by itself while the abort was under way: whatever the answer, there is nothing
            // to clean up.
            (Rung::Abort, _) if gone => self.next_victim(),
            (Rung::Abort, 0) => self.state = State::Succeeded(Scope::Task(victim.task)),
            (Rung::LunReset, 0) => self.state = State::Succeeded(Scope::Lun(victim.lun)),
            (Rung::TargetReset, 0) => self.state = State::Succeeded(Scope::Session),
            (Rung::Abort, _) => self.state = State::Ready(Rung::LunReset),
            (Rung::LunReset, _) => self.state = State::Ready(Rung::TargetReset),
            (Rung::TargetReset, _) => self.state = State::Dead,
        }
        true
    }

    /// A CLEANUP for `task` is posted.
    pub fn cleanup_posted(&mut self, task: TaskHandle) {
        if matches!(self.state, State::Cleaning { .. }) && !self.awaited.contains(&task) {
            debug_assert!(self.awaited.len() < self.limit, "each task once");
            self.awaited.push(task);
        }
    }

    /// All CLEANUPs of the scope are posted (perhaps none).
    pub fn cleanup_complete(&mut self) {
        self.check_clean();
    }

    /// A task was released: by its final CQE, or by its own cleanup CQE. Call it for every task that ends.
    pub fn task_ended(&mut self, task: TaskHandle) {
        if let Some(at) = self.awaited.iter().position(|t| *t == task) {
            self.awaited.swap_remove(at);
            self.check_clean();
            return;
        }
        let Some(at) = self.victims.iter().position(|v| v.task == task) else { return };
        if at != 0 {
            self.victims.remove(at);
            return;
        }
        match &mut self.state {
            State::Waiting { gone, rung: Rung::Abort, .. } => *gone = true,
            State::Ready(Rung::Abort) | State::Idle => self.next_victim(),
            State::Succeeded(Scope::Task(_)) => self.next_victim(),
            // A reset that is under way is finished: its scope is more than this task.
            _ => {}
        }
    }

    fn check_clean(&mut self) {
        let State::Cleaning { scope, .. } = self.state else { return };
        if !self.awaited.is_empty() {
            return;
        }
        match scope {
            Scope::Task(_) => {}
            // The front goes with `next_victim`.
            Scope::Lun(lun) => self.retain_after_front(|v| v.lun != lun),
            Scope::Session => self.retain_after_front(|_| false),
        }
        self.next_victim();
    }

    fn retain_after_front(&mut self, keep: impl Fn(&Victim) -> bool) {
        let mut first = true;
        self.victims.retain(|v| core::mem::take(&mut first) || keep(v));
    }

    fn next_victim(&mut self) {
        self.victims.pop_front();
        self.state = State::Idle;
    }

    /// The session's connection is gone, or the session is logged in again: all tasks have ended and nothing
    /// is outstanding.
    pub fn reset(&mut self) {
        self.victims.clear();
        self.awaited.clear();
        self.state = State::Idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    fn task(index: u16) -> TaskHandle {
        TaskHandle { index, generation: 0 }
    }

    fn lun(n: u16) -> Lun {
        Lun::from_number(n).unwrap()
    }

    fn ladder() -> Ladder {
        Ladder::new(TmfTimeouts::default(), 64)
    }

    fn function(l: &mut Ladder, now: u64) -> TmfFunction {
        match l.poll(at(now)) {
            Some(LadderAction::Send(r)) => {
                l.sent(at(now));
                r.function
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals_climb_every_rung_and_end_in_session_recovery() {
        let mut l = ladder();
        l.abort(task(3), lun(1));
        assert_eq!(function(&mut l, 0), TmfFunction::AbortTask);
        assert!(!l.blocks(lun(1)));
        assert!(l.response(5));
        assert_eq!(function(&mut l, 1), TmfFunction::LunReset);
        assert!(l.blocks(lun(1)) && !l.blocks(lun(2)));
        assert!(l.response(255));
        assert_eq!(function(&mut l, 2), TmfFunction::TargetWarmReset);
        assert!(l.blocks(lun(2)));
        assert!(l.response(5));
        assert_eq!(l.poll(at(3)), Some(LadderAction::RecoverSession));
        assert_eq!((l.poll(at(1000)), l.deadline()), (None, None));
        l.reset();
        assert!(!l.is_active());
    }

    #[test]
    fn each_rung_has_its_own_timeout_and_silence_recovers_the_session() {
        for (refusals, timeout) in [(0, 15), (1, 30), (2, 30)] {
            let mut l = ladder();
            l.abort(task(3), lun(1));
            for _ in 0..refusals {
                function(&mut l, 0);
                l.response(5);
            }
            function(&mut l, 0);
            assert_eq!(l.deadline(), Some(at(timeout)));
            assert_eq!(l.poll(at(timeout - 1)), None);
            assert_eq!(l.poll(at(timeout)), Some(LadderAction::RecoverSession));
            assert!(!l.response(0), "a late response finds nobody");
        }
    }

    #[test]
    fn success_waits_for_the_cleanup_of_that_very_task() {
        let mut l = ladder();
        l.abort(task(3), lun(0));
        function(&mut l, 0);
        l.response(0);
        assert_eq!(l.poll(at(1)), Some(LadderAction::CleanUp(Scope::Task(task(3)))));
        l.cleanup_posted(task(3));
        l.cleanup_complete();
        // R7: a late cleanup completion of somebody else does not count.
        l.task_ended(task(9));
        l.task_ended(TaskHandle { index: 3, generation: 1 });
        assert!(l.is_active());
        l.task_ended(task(3));
        assert!(!l.is_active());
    }

    #[test]
    fn a_swallowed_cleanup_recovers_the_session_after_one_deadline_for_all() {
        let mut l = ladder();
        l.abort(task(0), lun(0));
        function(&mut l, 0);
        l.response(5);
        function(&mut l, 0);
        l.response(0);
        assert_eq!(l.poll(at(2)), Some(LadderAction::CleanUp(Scope::Lun(lun(0)))));
        (0..49).for_each(|i| l.cleanup_posted(task(i)));
        l.cleanup_complete();
        (0..48).for_each(|i| l.task_ended(task(i)));
        assert_eq!(l.deadline(), Some(at(3)), "T7: not 49 x 100 ms");
        assert_eq!(l.poll(at(3)), Some(LadderAction::RecoverSession));
    }

    #[test]
    fn r8_a_task_that_is_gone_sends_nothing_and_costs_nothing() {
        let mut l = ladder();
        l.abort(task(3), lun(0));
        l.abort(task(4), lun(0));
        assert!(matches!(l.poll(at(0)), Some(LadderAction::Send(_))));
        l.task_gone();
        match l.poll(at(0)) {
            Some(LadderAction::Send(r)) => assert_eq!(r.task, Some(task(4))),
            other => panic!("{other:?}"),
        }
        l.sent(at(0));
        // The task ends while its abort is under way: "no such task" is then a success.
        l.task_ended(task(4));
        assert!(l.response(1));
        assert!(!l.is_active());
    }

    #[test]
    fn a_task_that_ends_before_its_turn_leaves_the_queue() {
        let mut l = ladder();
        l.abort(task(1), lun(0));
        l.abort(task(2), lun(0));
        function(&mut l, 0);
        l.task_ended(task(2));
        l.response(0);
        l.poll(at(0));
        l.cleanup_complete();
        assert!(!l.is_active(), "nothing was posted for it any more, and no second abort follows");
    }

    #[test]
    fn no_such_task_that_did_not_end_climbs() {
        let mut l = ladder();
        l.abort(task(1), lun(0));
        function(&mut l, 0);
        l.response(1);
        assert_eq!(function(&mut l, 0), TmfFunction::LunReset);
    }

    #[test]
    fn a_lun_reset_takes_the_other_victims_of_the_unit_along() {
        let mut l = ladder();
        for (t, n) in [(1, 0), (2, 0), (3, 7), (2, 0)] {
            l.abort(task(t), lun(n));
        }
        function(&mut l, 0);
        l.response(5);
        function(&mut l, 0);
        l.response(0);
        assert_eq!(l.poll(at(0)), Some(LadderAction::CleanUp(Scope::Lun(lun(0)))));
        [1, 2].into_iter().for_each(|i| l.cleanup_posted(task(i)));
        l.cleanup_complete();
        [1, 2].into_iter().for_each(|i| l.task_ended(task(i)));
        match l.poll(at(1)) {
            Some(LadderAction::Send(r)) => assert_eq!((r.task, r.lun), (Some(task(3)), lun(7))),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_sent_recovers_the_session() {
        let mut l = ladder();
        l.abort(task(1), lun(0));
        l.poll(at(0));
        l.not_sent();
        assert_eq!(l.poll(at(0)), Some(LadderAction::RecoverSession));
        l.abort(task(2), lun(0));
        assert_eq!(l.poll(at(0)), None, "recovery ends all tasks; no new victims");
    }

    #[test]
    fn the_queue_is_bounded_by_the_tasks() {
        let mut l = Ladder::new(TmfTimeouts::default(), 16);
        (0..40).for_each(|i| l.abort(task(i), lun(0)));
        assert_eq!(l.victims.len(), 16);
    }
}
