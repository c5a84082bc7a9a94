//! Deadlines of the adapter: one timer per purpose, at most one deadline each.

use std::collections::{BTreeMap, BTreeSet};

use bus::Instant;

/// What a deadline is for. The order breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    /// The whole adapter must be down.
    Stop,
    /// The current stage of bring-up or reset.
    Chip,
    /// Look at the completion indexes without an interrupt.
    Watchdog,
    /// The FLUSH that an open of the helper's ring waits for.
    Ring,
    /// The phase of the endpoint on this cid.
    Phase(u16),
    /// UPDATE_PG of the endpoint on this cid.
    PathGroup(u16),
    /// Whatever the session in this slot waits for.
    Session(u16),
}

impl TimerKey {
    /// Numbers for the event: what, and which.
    pub(crate) fn event(self) -> (u64, u64) {
        match self {
            Self::Stop => (0, 0),
            Self::Chip => (1, 0),
            Self::Watchdog => (2, 0),
            Self::Phase(cid) => (3, cid.into()),
            Self::PathGroup(cid) => (4, cid.into()),
            Self::Session(slot) => (5, slot.into()),
            Self::Ring => (6, 0),
        }
    }
}

/// The deadline heap. Its size is bounded by the number of keys.
#[derive(Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Instant, TimerKey)>,
    armed: BTreeMap<TimerKey, Instant>,
}

impl Timers {
    /// Sets the deadline of `key`, replacing an earlier one.
    pub(crate) fn arm(&mut self, key: TimerKey, at: Instant) {
        if let Some(old) = self.armed.insert(key, at) {
            self.due.remove(&(old, key));
        }
        self.due.insert((at, key));
    }

    /// Sets the deadline unless one that is not later is set already.
    pub(crate) fn arm_by(&mut self, key: TimerKey, at: Instant) {
        if self.armed.get(&key).is_none_or(|old| at < *old) {
            self.arm(key, at);
        }
    }

    pub(crate) fn disarm(&mut self, key: TimerKey) {
        if let Some(old) = self.armed.remove(&key) {
            self.due.remove(&(old, key));
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes a deadline that has come.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<TimerKey> {
        let (at, key) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.disarm(key);
        Some(key)
    }

    pub(crate) fn armed(&self) -> u32 {
        self.due.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    #[test]
    fn one_deadline_per_key_in_order() {
        let mut t = Timers::default();
        t.arm(TimerKey::Phase(1), at(5));
        t.arm(TimerKey::Phase(1), at(3));
        t.arm(TimerKey::Phase(2), at(4));
        t.arm_by(TimerKey::Phase(2), at(9));
        t.arm(TimerKey::Stop, at(7));
        t.disarm(TimerKey::Stop);
        assert_eq!((t.next(), t.armed()), (Some(at(3)), 2));
        assert_eq!(t.pop(at(2)), None);
        assert_eq!(
            (t.pop(at(9)), t.pop(at(9)), t.pop(at(9))),
            (Some(TimerKey::Phase(1)), Some(TimerKey::Phase(2)), None)
        );
    }
}
