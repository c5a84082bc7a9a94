//! The oracle of waiting (S12, L3): looks at the age of every outstanding request and of every session that
//! is not ready.
//!
//! A request may wait as long as the session's timers say after the target last answered a command of it
//! ([`SessionInfo::patience`]), and no longer at all once younger ones overtake it; a session may be neither
//! ready nor offline for its replacement timeout. It sits in every [`crate::host::Host`], judges nothing that
//! it does not see there, and costs one comparison a step.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bus::Instant;
use driver::adapter::{SessionInfo, SessionPhase};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// What a step may be late by, and what firing and handling a timer takes.
const SLACK: Duration = Duration::from_secs(2);
/// Findings that are kept; more are counted.
const KEPT: usize = 16;

/// A wait that lasted longer than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Tag of the session.
    pub tag: u64,
    /// S12 for a session, L3 for a request.
    pub invariant: &'static str,
    /// How long it has lasted.
    pub age: Duration,
    /// How long it may last.
    pub bound: Duration,
    /// Where the session was.
    pub phase: SessionPhase,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.invariant == "L3" { "a request has waited" } else { "the session was not ready" };
        write!(
            f,
            "session {}: {what} for {:?}, bound {:?} ({:?})",
            self.tag, self.age, self.bound, self.phase
        )
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ages {
    next: Instant,
    /// Sessions that are neither ready nor offline, by tag, and since when.
    unsettled: BTreeMap<u64, Instant>,
    /// The first findings, one a session and kind.
    pub findings: Vec<Overdue>,
    /// All findings.
    pub count: u64,
}

impl Ages {
    /// Whether a look is due at `now`.
    #[inline]
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Looks at all sessions.
    pub fn look(&mut self, now: Instant, sessions: impl Iterator<Item = SessionInfo>) {
        self.next = now + EVERY;
        let before = std::mem::take(&mut self.unsettled);
        for s in sessions {
            if let (Some(accepted), Some(patience)) = (s.oldest_request, s.patience) {
                // A request that younger ones overtake is starved, however busy the target is with them.
                let since = if s.overtaken { accepted } else { accepted.max(s.answered) };
                self.judge("L3", &s, now - since, patience);
            }
            if !matches!(s.phase, SessionPhase::Ready | SessionPhase::Offline) {
                let since = before.get(&s.tag).copied().unwrap_or(now);
                // A session that was never logged in is iscsid's affair: it gives a login up by its own
                // count.
                if let (Some(bound), true) = (s.replacement_timeout, s.logins > 0) {
                    self.judge("S12", &s, now - since, bound);
                }
                self.unsettled.insert(s.tag, since);
            }
        }
    }

    fn judge(&mut self, invariant: &'static str, s: &SessionInfo, age: Duration, bound: Duration) {
        let bound = bound + SLACK;
        if age <= bound {
            return;
        }
        self.count += 1;
        let known = self.findings.iter().any(|f| f.tag == s.tag && f.invariant == invariant);
        if !known && self.findings.len() < KEPT {
            self.findings.push(Overdue { tag: s.tag, invariant, age, bound, phase: s.phase });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver::control::SessionId;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    fn session(phase: SessionPhase, oldest: Option<u64>, answered: u64) -> SessionInfo {
        SessionInfo {
            id: SessionId { index: 0, generation: 0 },
            tag: 7,
            phase,
            logins: 1,
            oldest_request: oldest.map(at),
            overtaken: false,
            answered: at(answered),
            patience: Some(Duration::from_secs(250)),
            replacement_timeout: Some(Duration::from_secs(120)),
        }
    }

    #[test]
    fn a_request_is_overdue_only_when_nothing_was_answered_for_too_long() {
        let mut ages = Ages::default();
        for now in 1..1000 {
            ages.look(at(now), [session(SessionPhase::Ready, Some(1), now - 1)].into_iter());
        }
        assert_eq!(ages.count, 0, "the target answers other requests");
        ages.look(at(252), [session(SessionPhase::Ready, Some(1), 0)].into_iter());
        assert_eq!(ages.count, 0);
        ages.look(at(254), [session(SessionPhase::Ready, Some(1), 0)].into_iter());
        assert_eq!((ages.count, ages.findings[0].invariant), (1, "L3"));
    }

    #[test]
    fn a_request_that_is_starved_by_younger_ones_is_overdue() {
        let mut ages = Ages::default();
        for now in 1..260 {
            let busy = session(SessionPhase::Ready, Some(1), now - 1);
            ages.look(at(now), [SessionInfo { overtaken: true, ..busy }].into_iter());
        }
        assert!(ages.count > 0 && ages.findings[0].invariant == "L3");
    }

    #[test]
    fn a_session_is_overdue_when_it_was_unsettled_all_the_time() {
        use SessionPhase::{BringUp, Offline, Ready, Recovering};
        let mut ages = Ages::default();
        for now in 0..1000 {
            let phase = if now % 100 == 99 { Ready } else { Recovering };
            ages.look(at(now), [session(phase, None, 0)].into_iter());
        }
        for now in 1000..2000 {
            ages.look(at(now), [session(Offline, None, 0)].into_iter());
        }
        assert_eq!(ages.count, 0);
        for now in 2000..2124 {
            let phase = if now % 2 == 0 { BringUp } else { Recovering };
            ages.look(at(now), [session(phase, None, 0)].into_iter());
        }
        assert_eq!((ages.count, ages.findings[0].invariant), (1, "S12"), "logins that lead to nothing");
    }
}
