//! The keepalive of one connection (BNX2I-CNIC 7.5): a ping when nothing was received for the receive
//! timeout, connection failure 1022 when the ping stays unanswered for the ping timeout.

use bus::Instant;
use core::time::Duration;

/// Replaces a zero when only one of the two timeouts is zero.
const DEFAULT: Duration = Duration::from_secs(5);
/// When to try again if the ping could not be sent.
const RESEND: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepaliveAction {
    /// Nothing before [`Keepalive::deadline`].
    Wait,
    /// Send an immediate NOP-Out with reserved TTT, then call [`Keepalive::ping_sent`] or
    /// [`Keepalive::ping_not_sent`].
    Ping,
    /// The connection has failed: 1022.
    TimedOut,
}

/// The timer of one connection in full feature phase.
#[derive(Clone, Debug)]
pub struct Keepalive {
    recv_timeout: Duration,
    ping_timeout: Duration,
    last_recv: Instant,
    ping: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Keepalive {
    /// Starts at `now`. Both timeouts zero means no keepalive; if only one is zero it becomes 5 s.
    #[must_use]
    pub fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        let (recv_timeout, ping_timeout) = match (interval.is_zero(), timeout.is_zero()) {
            (true, false) => (DEFAULT, timeout),
            (false, true) => (interval, DEFAULT),
            _ => (interval, timeout),
        };
        Self { recv_timeout, ping_timeout, last_recv: now, ping: None, retry_at: None }
    }

    /// Whether it runs at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        !self.recv_timeout.is_zero()
    }

    /// A PDU of the target was processed; any proves that it lives.
    #[inline]
    pub fn received(&mut self, now: Instant) {
        self.last_recv = now;
    }

    /// The answer to the ping arrived.
    pub fn pong(&mut self, now: Instant) {
        self.received(now);
        self.ping = None;
    }

    /// A ping left, for the keepalive or for a slow command.
    pub fn ping_sent(&mut self, now: Instant) {
        self.ping = Some(now);
        self.retry_at = None;
    }

    /// The ping could not be posted; try again in a second.
    pub fn ping_not_sent(&mut self, now: Instant) {
        self.retry_at = Some(now + RESEND);
    }

    /// Whether a ping is unanswered.
    #[must_use]
    pub fn ping_in_flight(&self) -> bool {
        self.ping.is_some()
    }

    /// Whether a ping is unanswered and its time has run out.
    #[must_use]
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.is_enabled() && self.ping.is_some_and(|sent| now >= self.gives_up(sent))
    }

    /// When the connection is given up. Counts from the last sign of life, but never gives a ping that was
    /// sent late less than its own timeout.
    fn gives_up(&self, sent: Instant) -> Instant {
        (self.last_recv + self.recv_timeout + self.ping_timeout).max(sent + self.ping_timeout)
    }

    /// When [`poll`](Self::poll) has something to say.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if !self.is_enabled() {
            return None;
        }
        let due = match self.ping {
            Some(sent) => self.gives_up(sent),
            None => self.last_recv + self.recv_timeout,
        };
        Some(self.retry_at.map_or(due, |at| at.max(due)))
    }

    /// What to do at `now`.
    #[must_use]
    pub fn poll(&self, now: Instant) -> KeepaliveAction {
        match self.deadline() {
            Some(due) if now >= due => match self.ping {
                Some(_) => KeepaliveAction::TimedOut,
                None => KeepaliveAction::Ping,
            },
            _ => KeepaliveAction::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }
    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn silence_is_pinged_at_5_s_and_fails_at_10_s() {
        let mut k = Keepalive::new(s(5), s(5), at(0));
        assert_eq!((k.poll(at(4)), k.deadline()), (KeepaliveAction::Wait, Some(at(5))));
        assert_eq!(k.poll(at(5)), KeepaliveAction::Ping);
        k.ping_sent(at(5));
        assert_eq!((k.poll(at(9)), k.is_overdue(at(9))), (KeepaliveAction::Wait, false));
        assert_eq!((k.poll(at(10)), k.is_overdue(at(10))), (KeepaliveAction::TimedOut, true));
    }

    #[test]
    fn traffic_pushes_the_ping_back_and_an_answer_ends_it() {
        let mut k = Keepalive::new(s(5), s(5), at(0));
        k.received(at(4));
        assert_eq!((k.poll(at(8)), k.poll(at(9))), (KeepaliveAction::Wait, KeepaliveAction::Ping));
        k.ping_sent(at(9));
        k.received(at(12));
        assert_eq!(k.poll(at(19)), KeepaliveAction::Wait, "other traffic proves life while the ping is out");
        k.pong(at(13));
        assert_eq!((k.poll(at(17)), k.poll(at(18))), (KeepaliveAction::Wait, KeepaliveAction::Ping));
    }

    #[test]
    fn an_unsent_ping_is_retried_after_a_second_and_still_gets_its_timeout() {
        let mut k = Keepalive::new(s(5), s(5), at(0));
        k.ping_not_sent(at(5));
        assert_eq!((k.poll(at(5)), k.poll(at(6))), (KeepaliveAction::Wait, KeepaliveAction::Ping));
        k.ping_sent(at(8));
        assert_eq!((k.poll(at(12)), k.poll(at(13))), (KeepaliveAction::Wait, KeepaliveAction::TimedOut));
    }

    #[test]
    fn both_zero_disables_and_one_zero_becomes_five_seconds() {
        let off = Keepalive::new(s(0), s(0), at(0));
        assert_eq!((off.deadline(), off.poll(at(1000))), (None, KeepaliveAction::Wait));
        assert_eq!(Keepalive::new(s(0), s(3), at(0)).deadline(), Some(at(5)));
        let mut k = Keepalive::new(s(2), s(0), at(0));
        k.ping_sent(at(2));
        assert_eq!(k.deadline(), Some(at(7)));
    }
}
