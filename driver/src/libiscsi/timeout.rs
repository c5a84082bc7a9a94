//! What to do with a command whose timer fired (BNX2I-CNIC 7.2). The order of the rules is the real stack's.

use bus::Instant;
use core::time::Duration;

use super::{Keepalive, SessionState, Task, TaskHandle, TaskTable};

/// The command timer of the block layer.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The task is gone; nothing to time out.
    Gone,
    /// Start the timer again.
    Extend,
    /// Start the timer again and send a ping: the answer, or its absence, decides at the next expiry.
    PingAndExtend,
    /// Start error handling: abort the task.
    Abort,
}

/// Decides about `handle` at `now` and notes the decision in the task. Call it when the task is
/// [`due`](Task::timer_due).
pub fn decide<T>(
    tasks: &mut TaskTable<T>,
    handle: TaskHandle,
    session: SessionState,
    keepalive: Option<&Keepalive>,
    now: Instant,
) -> Decision {
    // Rule 7 looks at the others first: the borrow of the task comes after it.
    let older_progress = tasks.get(handle).is_some_and(|me| {
        let since = me.last_timeout.unwrap_or(me.started);
        tasks.iter().any(|(h, other)| h != handle && other.started < me.started && other.last_xfer > since)
    });
    let Some(task) = tasks.get_mut(handle) else { return Decision::Gone };
    let previous = task.last_timeout.replace(now);
    if session != SessionState::LoggedIn {
        return Decision::Extend;
    }
    let Some(keepalive) = keepalive else { return Decision::Extend };
    if task.last_xfer > previous.unwrap_or(task.started) {
        task.checked = false;
        return Decision::Extend;
    }
    if !keepalive.is_enabled() {
        return Decision::Abort;
    }
    if keepalive.is_overdue(now) || older_progress {
        return Decision::Extend;
    }
    if task.checked {
        return Decision::Abort;
    }
    task.checked = true;
    if keepalive.ping_in_flight() { Decision::Extend } else { Decision::PingAndExtend }
}

impl<T> Task<T> {
    /// When the task's timer fires.
    #[must_use]
    pub fn timer_due(&self, command_timeout: Duration) -> Instant {
        self.last_timeout.unwrap_or(self.started) + command_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TaskClass, TaskKind};
    use super::*;
    use iscsi::scsi::Lun;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    fn posted(t: &mut TaskTable<()>, now: Instant) -> TaskHandle {
        t.alloc(TaskClass::Scsi, TaskKind::Read, Lun::default(), now, ()).unwrap()
    }

    fn keepalive(now: Instant) -> Keepalive {
        Keepalive::new(Duration::from_secs(5), Duration::from_secs(5), now)
    }

    #[test]
    fn a_slow_command_is_checked_once_and_then_aborted() {
        let mut t = TaskTable::new(64, 64);
        let h = posted(&mut t, at(0));
        let mut k = keepalive(at(29));
        assert_eq!(t.get(h).unwrap().timer_due(COMMAND_TIMEOUT), at(30));
        let up = SessionState::LoggedIn;
        assert_eq!(decide(&mut t, h, up, Some(&k), at(30)), Decision::PingAndExtend);
        k.ping_sent(at(30));
        k.pong(at(31));
        assert_eq!(t.get(h).unwrap().timer_due(COMMAND_TIMEOUT), at(60));
        k.received(at(59));
        assert_eq!(decide(&mut t, h, up, Some(&k), at(60)), Decision::Abort);
    }

    #[test]
    fn not_logged_in_extends_and_a_task_that_is_gone_is_gone() {
        let mut t = TaskTable::new(64, 64);
        let h = posted(&mut t, at(0));
        let k = keepalive(at(29));
        assert_eq!(decide(&mut t, h, SessionState::InRecovery, Some(&k), at(30)), Decision::Extend);
        assert_eq!(decide(&mut t, h, SessionState::LoggedIn, None, at(60)), Decision::Extend);
        t.free(h);
        assert_eq!(decide(&mut t, h, SessionState::LoggedIn, Some(&k), at(90)), Decision::Gone);
    }

    #[test]
    fn without_keepalive_the_first_expiry_aborts() {
        let mut t = TaskTable::new(64, 64);
        let h = posted(&mut t, at(0));
        let off = Keepalive::new(Duration::ZERO, Duration::ZERO, at(0));
        assert_eq!(decide(&mut t, h, SessionState::LoggedIn, Some(&off), at(30)), Decision::Abort);
    }

    #[test]
    fn an_overdue_ping_leaves_the_decision_to_the_connection() {
        let mut t = TaskTable::new(64, 64);
        let h = posted(&mut t, at(0));
        let mut k = keepalive(at(0));
        k.ping_sent(at(5));
        assert_eq!(decide(&mut t, h, SessionState::LoggedIn, Some(&k), at(30)), Decision::Extend);
    }

    #[test]
    fn a_ping_in_flight_is_waited_for() {
        let mut t = TaskTable::new(64, 64);
        let h = posted(&mut t, at(0));
        let mut k = keepalive(at(28));
        k.ping_sent(at(28));
        let up = SessionState::LoggedIn;
        assert_eq!(decide(&mut t, h, up, Some(&k), at(30)), Decision::Extend);
        assert!(t.get(h).unwrap().checked);
    }

    #[test]
    fn progress_of_the_task_or_of_an_older_one_extends() {
        let mut t = TaskTable::new(64, 64);
        let older = posted(&mut t, at(0));
        let h = posted(&mut t, at(1));
        let k = keepalive(at(59));
        let up = SessionState::LoggedIn;
        assert_eq!(decide(&mut t, h, up, Some(&k), at(31)), Decision::PingAndExtend);
        t.get_mut(older).unwrap().last_xfer = at(40);
        assert_eq!(decide(&mut t, h, up, Some(&k), at(61)), Decision::Extend);
        t.get_mut(h).unwrap().last_xfer = at(70);
        assert_eq!(decide(&mut t, h, up, Some(&k), at(91)), Decision::Extend);
    }
}
