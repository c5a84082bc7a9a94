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
///
/// The replacement timer bounds how long requests wait for I/O, not for a login: it starts with the loss (or
/// with the first login), and it stops when the units are known again and, if requests wait, when one of them
/// was answered. A target that dies after each login therefore cannot stretch it (L3).
#[derive(Clone, Debug)]
pub struct SessionGate {
    state: SessionState,
    replacement: Option<Duration>,
    deadline: Option<Instant>,
    /// The units are known: commands may be posted.
    usable: bool,
    /// The replacement timer has expired, and the units have not been known since.
    offline: bool,
}

impl SessionGate {
    /// A session that was never logged in. `replacement` is how long requests wait for a lost session: zero
    /// fails them at once, `None` never.
    #[must_use]
    pub fn new(replacement: Option<Duration>) -> Self {
        Self { state: SessionState::Free, replacement, deadline: None, usable: false, offline: false }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// Whether requests fail at once: the replacement timer has expired and I/O is not possible yet.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.offline || self.state == SessionState::Terminate
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
            SessionState::Free | SessionState::Terminate => Admit::FailNoSession,
            _ if self.offline => Admit::FailRecoveryTimedOut,
            SessionState::LoggedIn if self.usable => Admit::Run,
            _ => Admit::Hold,
        }
    }

    /// Login is complete: the units are looked at. Refused (`false`) once the session is going away.
    pub fn logged_in(&mut self, now: Instant) -> bool {
        if self.state == SessionState::Terminate {
            return false;
        }
        self.state = SessionState::LoggedIn;
        self.start_timer(now);
        true
    }

    /// The units are known and commands run. `idle`: no request waits, so nothing is left to be proven.
    pub fn usable(&mut self, idle: bool) {
        if self.state == SessionState::LoggedIn {
            (self.usable, self.offline) = (true, false);
            if idle {
                self.deadline = None;
            }
        }
    }

    /// The target answered a command of a user: I/O flows, and the replacement timer stops.
    #[inline]
    pub fn answered(&mut self) {
        if self.usable {
            self.deadline = None;
        }
    }

    /// The target lost a command although the connection lives: the wait for I/O begins, as with a loss.
    pub fn stalled(&mut self, now: Instant) {
        if self.state == SessionState::LoggedIn {
            self.start_timer(now);
        }
    }

    fn start_timer(&mut self, now: Instant) {
        if self.deadline.is_none() && !self.offline {
            self.deadline = self.replacement.map(|d| now + d);
        }
    }

    /// The connection failed. Tells whether this is news: a session reports only the first failure of a
    /// connection. The replacement timer starts unless it runs already.
    pub fn failed(&mut self, now: Instant) -> bool {
        match self.state {
            SessionState::LoggedIn | SessionState::LoggingOut => {
                self.state = if self.offline { SessionState::RecoveryFailed } else { SessionState::Failed };
                self.usable = false;
                self.start_timer(now);
                true
            }
            _ => false,
        }
    }

    /// iscsid took over (STOP_CONN with RECOVER). A session whose replacement timer has expired stays failed
    /// upward.
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

    /// Tells once when the replacement timer has expired: then fail what is queued and held. A session whose
    /// units are known goes on with new requests; any other is offline until they are.
    pub fn poll(&mut self, now: Instant) -> bool {
        let expired = self.deadline.is_some_and(|at| now >= at);
        if expired {
            self.deadline = None;
            self.offline = !self.usable;
            if self.offline && self.state != SessionState::LoggedIn {
                self.state = SessionState::RecoveryFailed;
            }
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
        assert!(g.logged_in(at(0)));
        g.usable(true);
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
        g.logged_in(at(150));
        assert_eq!(
            (g.admit(), g.deadline()),
            (Admit::FailRecoveryTimedOut, None),
            "a login alone proves nothing"
        );
        g.usable(true);
        assert_eq!((g.admit(), g.deadline()), (Admit::Run, None));
        assert!(g.failed(at(200)));
        assert_eq!(g.deadline(), Some(at(320)), "a fresh failure has the full time again");
    }

    #[test]
    fn logins_that_lead_to_no_io_do_not_stretch_the_replacement_timer() {
        let mut g = up(Some(20));
        g.failed(at(0));
        for s in 1..10 {
            // Each login dies again: in the bring-up, or with the first command of a user.
            assert!(g.logged_in(at(2 * s)));
            if s % 2 == 0 {
                g.usable(false);
            }
            g.failed(at(2 * s + 1));
            assert_eq!(g.deadline(), Some(at(20)));
        }
        assert!(g.poll(at(20)) && g.is_offline());
        // An answer is the proof, and a session whose units are known takes new requests whatever expired.
        g.logged_in(at(30));
        g.usable(false);
        assert_eq!(g.admit(), Admit::Run);
        g.failed(at(40));
        g.logged_in(at(41));
        g.usable(false);
        assert!(g.poll(at(60)) && !g.is_offline() && g.admit() == Admit::Run);
        g.failed(at(70));
        g.logged_in(at(71));
        g.usable(false);
        g.answered();
        assert_eq!(g.deadline(), None);
    }

    #[test]
    fn a_first_login_without_usable_units_goes_offline_in_time() {
        let mut g = SessionGate::new(Some(Duration::from_secs(120)));
        g.logged_in(at(5));
        assert!(!g.poll(at(124)) && g.poll(at(125)) && g.is_offline());
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
        assert!(!g.logged_in(at(0)) && !g.failed(at(1)));
        g.recovering(at(1));
        assert_eq!(
            (g.state(), g.admit(), g.deadline()),
            (SessionState::Terminate, Admit::FailNoSession, None)
        );
    }
}
