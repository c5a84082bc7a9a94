//! The state of a session as its commands see it (BNX2I-CNIC 7.6), and the replacement timer (7.7).

use bus::Instant;
use core::time::Duration;

/// libiscsi's session states, with the real stack's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionState {
    /// Not logged in yet, or logged out.
    Free = 1,
    /// Full feature phase.
    LoggedIn = 2,
    /// The connection failed; nobody works on it yet.
    Failed = 3,
    /// Going away for good.
    Terminate = 4,
    /// iscsid logs in again.
    InRecovery = 5,
    /// The replacement timer has expired. iscsid keeps trying.
    RecoveryFailed = 6,
    /// Logout is on its way.
    LoggingOut = 7,
}

/// What happens to a new command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Post it, if window and tasks allow.
    Run,
    /// Keep it queued (DID_IMM_RETRY).
    Hold,
    /// Fail it: recovery timed out (DID_TRANSPORT_FAILFAST).
    FailRecoveryTimedOut,
    /// Fail it: no session (DID_NO_CONNECT).
    FailNoSession,
}

/// State and replacement timer of one session.
#[derive(Clone, Debug)]
pub struct SessionGate {
    state: SessionState,
    replacement: Option<Duration>,
    deadline: Option<Instant>,
}

impl SessionGate {
    /// A session that was never logged in. `replacement` is how long requests wait for a lost session: zero fails them at
    /// once, `None` never.
    #[must_use]
    pub fn new(replacement: Option<Duration>) -> Self {
        Self { state: SessionState::Free, replacement, deadline: None }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// The replacement timeout in whole seconds, for messages.
    #[must_use]
    pub fn replacement_seconds(&self) -> u32 {
        self.replacement.map_or(0, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX))
    }

    /// What happens to a new command now.
    #[must_use]
    pub fn admit(&self) -> Admit {
        match self.state {
            SessionState::LoggedIn => Admit::Run,
            SessionState::Failed | SessionState::InRecovery | SessionState::LoggingOut => Admit::Hold,
            SessionState::RecoveryFailed => Admit::FailRecoveryTimedOut,
            SessionState::Free | SessionState::Terminate => Admit::FailNoSession,
        }
    }

    /// Login is complete: commands run, the replacement timer stops. Refused (`false`) once the session is going away.
    pub fn logged_in(&mut self) -> bool {
        if self.state == SessionState::Terminate {
            return false;
        }
        self.state = SessionState::LoggedIn;
        self.deadline = None;
        true
    }

    /// The connection failed. Tells whether this is news: a session reports only the first failure of a connection. The
    /// replacement timer starts; it never restarts while the session is down, so that further failures cannot stretch it.
    pub fn failed(&mut self, now: Instant) -> bool {
        match self.state {
            SessionState::LoggedIn | SessionState::LoggingOut => {
                self.state = SessionState::Failed;
                self.deadline = self.replacement.map(|d| now + d);
                true
            }
            _ => false,
        }
    }

    /// iscsid took over (STOP_CONN with RECOVER). A session whose replacement timer has expired stays failed upward.
    pub fn recovering(&mut self, now: Instant) {
        self.failed(now);
        if self.state == SessionState::Failed {
            self.state = SessionState::InRecovery;
        }
    }

    /// A logout is being sent: commands wait for its outcome.
    pub fn logging_out(&mut self) {
        if self.state == SessionState::LoggedIn {
            self.state = SessionState::LoggingOut;
        }
    }

    /// The session goes away for good (STOP_CONN with TERM, destroy, host removal).
    pub fn terminate(&mut self) {
        self.state = SessionState::Terminate;
        self.deadline = None;
    }

    /// When the replacement timer expires.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Tells once when the replacement timer has expired: then fail what is queued and held.
    pub fn poll(&mut self, now: Instant) -> bool {
        let expired = self.deadline.is_some_and(|at| now >= at);
        if expired {
            self.deadline = None;
            self.state = SessionState::RecoveryFailed;
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    fn up(replacement: Option<u64>) -> SessionGate {
        let mut g = SessionGate::new(replacement.map(Duration::from_secs));
        assert_eq!(g.admit(), Admit::FailNoSession);
        assert!(g.logged_in());
        g
    }

    #[test]
    fn replacement_timer_runs_from_the_first_failure_and_success_later_heals() {
        let mut g = up(Some(120));
        assert!(g.failed(at(10)));
        assert!(!g.failed(at(50)), "no second report");
        g.recovering(at(60));
        assert_eq!((g.state(), g.admit()), (SessionState::InRecovery, Admit::Hold));
        assert!(!g.poll(at(129)));
        assert!(g.poll(at(130)) && !g.poll(at(131)), "tells once");
        assert_eq!(g.admit(), Admit::FailRecoveryTimedOut);
        g.recovering(at(140));
        assert_eq!((g.state(), g.deadline()), (SessionState::RecoveryFailed, None));
        g.logged_in();
        assert_eq!((g.admit(), g.deadline()), (Admit::Run, None));
        assert!(g.failed(at(200)));
        assert_eq!(g.deadline(), Some(at(320)), "a fresh failure has the full time again");
    }

    #[test]
    fn zero_fails_at_once_and_none_never() {
        let mut g = up(Some(0));
        g.failed(at(5));
        assert!(g.poll(at(5)));
        let mut g = up(None);
        g.failed(at(5));
        assert_eq!((g.deadline(), g.poll(at(1 << 30))), (None, false));
    }

    #[test]
    fn a_terminated_session_stays_so() {
        let mut g = up(Some(120));
        g.logging_out();
        assert_eq!(g.admit(), Admit::Hold);
        g.terminate();
        assert!(!g.logged_in() && !g.failed(at(1)));
        g.recovering(at(1));
        assert_eq!(
            (g.state(), g.admit(), g.deadline()),
            (SessionState::Terminate, Admit::FailNoSession, None)
        );
    }
}
