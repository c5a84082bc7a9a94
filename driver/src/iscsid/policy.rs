//! When to try again, and when to give up (ISCSID 4 and 5). Pure functions; the state machine carries them
//! out.
//!
//! One deliberate difference from the real daemon: it pauses 3 s only when connecting failed, and tries at
//! once when the target refused a login with "retry", which hammers a target that is short of resources. Here
//! every failed attempt is followed by the pause.

use bus::Instant;
use core::time::Duration;

/// Pause after a failed attempt of a normal session.
pub const RETRY_PAUSE: Duration = Duration::from_secs(3);
/// Redirects followed in a row, without a login in between.
pub const MAX_REDIRECTS: u8 = 8;
/// How long the answer to Hello may take; then iscsid says Hello again. It ends no session: only the answer
/// does.
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the adapter may take to release a connection or a session: its own bound for a whole stop, and a
/// margin. An answer that was dropped costs less: after Resync the request is repeated.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest Time2Wait that a target may state in an asynchronous message or a logout response: the largest
/// that can be negotiated (RFC 7143 13.15). The field has room for 18 hours.
pub const LONGEST_TIME2WAIT: Duration = Duration::from_secs(3600);
/// How long a discovery session may take to list its targets (`discovery.sendtargets.timeo.active_timeout`).
pub const DISCOVERY_ACTIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The Time2Wait of a message, as far as it counts.
#[must_use]
pub fn time2wait(seconds: u16) -> Duration {
    Duration::from_secs(seconds.into()).min(LONGEST_TIME2WAIT)
}

/// Whether an initial login that began at `first` may be tried again at `now`: attempts times the timeout of
/// each is the total time, so fast failures may exceed the count (ISCSID 4, step 6).
#[must_use]
pub fn initial_retry(first: Instant, now: Instant, retry_max: u32, login_timeout: Duration) -> bool {
    now <= first + login_timeout.saturating_mul(retry_max)
}

/// Whether a session that failed `tries` times to come back is given up. `reopen_max` 0 means never.
#[must_use]
pub fn gives_up_reopening(tries: u32, reopen_max: u32) -> bool {
    reopen_max != 0 && tries > reopen_max
}

/// Pause before discovery tries again, by consecutive failures (ISCSID 5).
#[must_use]
pub fn discovery_pause(failures: u32) -> Duration {
    Duration::from_secs(match failures {
        0 => 0,
        1..10 => 1,
        10..20 => 2,
        20..26 => 5,
        26..34 => 15,
        _ => 60,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_login_is_bounded_by_time_and_not_by_count() {
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        let retry = |now| initial_retry(at(100), at(now), 8, Duration::from_secs(15));
        assert!(retry(100) && retry(220) && !retry(221));
        assert!(initial_retry(at(0), at(0), 0, Duration::from_secs(15)));
    }

    #[test]
    fn reopen_max_zero_is_for_ever() {
        assert!(!gives_up_reopening(u32::MAX, 0));
        assert!(!gives_up_reopening(5, 5) && gives_up_reopening(6, 5));
    }

    #[test]
    fn discovery_backs_off_in_steps() {
        let table =
            [(0, 0), (1, 1), (9, 1), (10, 2), (19, 2), (20, 5), (25, 5), (26, 15), (33, 15), (34, 60)];
        for (failures, seconds) in table {
            assert_eq!(discovery_pause(failures), Duration::from_secs(seconds), "{failures}");
        }
    }
}
