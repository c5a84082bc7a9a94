//! Slows down who guesses CHAP secrets. Each source of connections (an IPv4 address, a /64 of IPv6) may be
//! wrong [`BURST`] times, and then once in [`PAUSE_NS`]; further proofs of that source wait for their turn
//! before they are looked at, right ones too, because an answer at once would tell them apart. Who would have
//! to wait longer than [`MAX_WAIT_NS`] is refused with "out of resources", which initiators try again.
//! Sources that were not wrong for ten minutes do not wait.
//!
//! Bounded: sources that are remembered, and beyond them all others count as one; proofs of all remembered
//! sources together come to one in [`PAUSE_ALL_NS`] once [`BURST_ALL`] were wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Wrong proofs of one source without a pause, and the pause after each further one.
const BURST: u64 = 8;
const PAUSE_NS: u64 = 200_000_000;
/// The same for all sources that were wrong before.
const BURST_ALL: u64 = 128;
const PAUSE_ALL_NS: u64 = 20_000_000;
/// How long a source is known after its wrong proofs are paid for.
const FORGET_NS: u64 = 600_000_000_000;
/// Longest wait before a proof is looked at.
const MAX_WAIT_NS: u64 = 5_000_000_000;
/// Sources that are remembered.
const SOURCES: usize = 1024;

/// When a proof may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    /// Not before this time; it is paid for already.
    At(u64),
    Never,
}

/// Where proofs come from; `None` stands for what has no place of its own.
type Source = Option<IpAddr>;

/// What was wrong lately. Each entry holds the time at which all of its wrong proofs are paid for (GCRA).
#[derive(Debug, Default)]
pub(super) struct Guard {
    paid_ns: BTreeMap<Source, u64>,
    all_paid_ns: u64,
}

fn source_of(peer: Option<IpAddr>) -> Source {
    peer.map(|peer| match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & !u128::from(u64::MAX)).to_be_bytes()),
        v4 => v4,
    })
}

impl Guard {
    /// The entry of a source, which may have to share one.
    fn entry(&mut self, peer: Option<IpAddr>, now_ns: u64) -> &mut u64 {
        let mut source = source_of(peer);
        if !self.paid_ns.contains_key(&source) && self.paid_ns.len() >= SOURCES {
            self.paid_ns.retain(|_, paid| *paid + FORGET_NS > now_ns);
            if self.paid_ns.len() >= SOURCES {
                source = None;
            }
        }
        self.paid_ns.entry(source).or_default()
    }

    fn is_known(&self, peer: Option<IpAddr>, now_ns: u64) -> bool {
        let known = |source: Source| self.paid_ns.get(&source).is_some_and(|paid| *paid + FORGET_NS > now_ns);
        known(source_of(peer)) || (self.paid_ns.len() >= SOURCES && known(None))
    }

    /// A proof has come from `peer`.
    pub(super) fn admit(&mut self, peer: Option<IpAddr>, now_ns: u64) -> Admission {
        if !self.is_known(peer, now_ns) {
            return Admission::Now;
        }
        let paid_ns = *self.entry(peer, now_ns);
        let from = paid_ns.saturating_sub(BURST * PAUSE_NS);
        let from = from.max(self.all_paid_ns.saturating_sub(BURST_ALL * PAUSE_ALL_NS));
        if from <= now_ns {
            return Admission::Now;
        }
        if from - now_ns > MAX_WAIT_NS {
            return Admission::Never;
        }
        self.charge(peer, now_ns);
        Admission::At(from)
    }

    /// A proof was wrong that had not paid before.
    pub(super) fn charge(&mut self, peer: Option<IpAddr>, now_ns: u64) {
        let paid_ns = self.entry(peer, now_ns);
        *paid_ns = (*paid_ns).max(now_ns) + PAUSE_NS;
        self.all_paid_ns = self.all_paid_ns.max(now_ns) + PAUSE_ALL_NS;
    }

    /// A proof that had paid was right.
    pub(super) fn refund(&mut self, peer: Option<IpAddr>, now_ns: u64) {
        let paid_ns = self.entry(peer, now_ns);
        *paid_ns = paid_ns.saturating_sub(PAUSE_NS);
        self.all_paid_ns = self.all_paid_ns.saturating_sub(PAUSE_ALL_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn v4(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from(n.to_be_bytes()))
    }

    /// How many wrong proofs one source gets looked at in `seconds`, when it sends the next as soon as it
    /// may.
    fn guesses(guard: &mut Guard, peer: impl Fn(u64) -> Option<IpAddr>, seconds: u64) -> u64 {
        let (mut now, mut n) = (0, 0);
        while now < seconds * SECOND {
            match guard.admit(peer(n), now) {
                Admission::Now => {
                    guard.charge(peer(n), now);
                    now += 1000;
                }
                Admission::At(at) => now = at.max(now),
                Admission::Never => now += SECOND / 100,
            }
            n += 1;
        }
        n
    }

    #[test]
    fn a_source_that_guesses_is_slow_and_others_are_not() {
        let mut guard = Guard::default();
        let n = guesses(&mut guard, |_| v4(1), 100);
        assert!((BURST..=5 * 100 + BURST + 1).contains(&n), "{n}");
        assert_eq!(guard.admit(v4(2), 50 * SECOND), Admission::Now);
        // After a while without a wrong proof it is forgiven.
        assert_eq!(guard.admit(v4(1), 200 * SECOND), Admission::Now);
    }

    #[test]
    fn proofs_that_come_together_wait_one_after_the_other_and_not_for_ever() {
        let mut guard = Guard::default();
        for _ in 0..BURST + 1 {
            guard.charge(v4(1), 0);
        }
        let waits: Vec<_> = (0..30).map(|_| guard.admit(v4(1), 0)).collect();
        for (at, wait) in waits.iter().enumerate() {
            let due = (at as u64 + 1) * PAUSE_NS;
            let expected = if due <= MAX_WAIT_NS { Admission::At(due) } else { Admission::Never };
            assert_eq!(*wait, expected, "proof {at}");
        }
        // A right one gives its place back.
        guard.refund(v4(1), 0);
        assert_eq!(guard.admit(v4(1), 0), Admission::At(MAX_WAIT_NS));
    }

    #[test]
    fn one_subnet_of_ipv6_is_one_source_and_so_is_a_mapped_address() {
        let mut guard = Guard::default();
        let v6 = |n: u128| Some(IpAddr::from((0x2001_0db8u128 << 96 | n).to_be_bytes()));
        for n in 0..=BURST {
            guard.charge(v6(n.into()), 0);
            guard.charge(
                if n % 2 == 0 { v4(0x0A00_0001) } else { Some("::ffff:10.0.0.1".parse().unwrap()) },
                0,
            );
        }
        assert!(matches!(guard.admit(v6(1 << 63), 0), Admission::At(_)));
        assert_eq!(guard.admit(v6(1 << 64), 0), Admission::Now);
        assert!(matches!(guard.admit(v4(0x0A00_0001), 0), Admission::At(_)));
    }

    /// Many sources: each is known after its first wrong proof, and together they are slow; the table does
    /// not grow.
    #[test]
    fn many_sources_are_bounded_together() {
        let mut guard = Guard::default();
        let few = guesses(&mut guard, |n| v4((n % 500) as u32), 100);
        assert!(few <= 100 * SECOND / PAUSE_ALL_NS + BURST_ALL + 500, "{few}");
        let mut guard = Guard::default();
        for n in 0..10_000 {
            guard.charge(v4(n), 0);
        }
        assert!(guard.paid_ns.len() <= SOURCES + 1);
        assert!(!matches!(guard.admit(v4(99_999), 0), Admission::Now), "beyond the table all are one");
    }
}
