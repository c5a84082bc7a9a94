//! Named random streams.
//!
//! Each use of randomness draws from a stream of its own name, so that a change in one place leaves all other
//! draws as they were. A virtual world keys the streams from its seed, a real one from the operating system's
//! entropy; either way the generator is cryptographic, so that a CHAP challenge can come from one.

use std::collections::BTreeMap;

/// The name of a stream: what is drawn, in words, such as `"chap.challenge"`.
pub type StreamName = &'static str;

/// A source of named random streams.
pub trait Streams {
    /// Fills `out` with the next bytes of the stream.
    fn fill(&mut self, name: StreamName, out: &mut [u8]);

    /// The next 64 bits of the stream.
    fn next_u64(&mut self, name: StreamName) -> u64 {
        let mut b = [0; 8];
        self.fill(name, &mut b);
        u64::from_le_bytes(b)
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The bias is below 2^-32 for bounds under 2^32.
    fn below(&mut self, name: StreamName, bound: u64) -> u64 {
        let r = u128::from(self.next_u64(name));
        ((r * u128::from(bound)) >> 64) as u64
    }
}

/// Counter-based streams keyed by a seed: the same seed gives the same draws, and a draw of one name never
/// moves those of another. Not secret: for virtual worlds and tests only.
#[derive(Clone, Debug)]
pub struct Seeded {
    seed: u64,
    counters: BTreeMap<StreamName, u64>,
}

impl Seeded {
    /// Streams of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, counters: BTreeMap::new() }
    }
}

impl Streams for Seeded {
    fn fill(&mut self, name: StreamName, out: &mut [u8]) {
        let key = name.bytes().fold(self.seed, |h, b| splitmix(h ^ u64::from(b)));
        let counter = self.counters.entry(name).or_default();
        for chunk in out.chunks_mut(8) {
            *counter += 1;
            let word = splitmix(key.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The output function of splitmix64 (Steele, Lea, Flood 2014).
fn splitmix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_independent_and_seeds_repeat() {
        let mut a = Seeded::new(1);
        let mut b = Seeded::new(1);
        b.next_u64("other");
        assert_eq!(a.next_u64("x"), b.next_u64("x"));
        assert_ne!(a.next_u64("x"), b.next_u64("other"));
        assert_ne!(a.next_u64("x"), Seeded::new(2).next_u64("x"));
        let spread: BTreeMap<u64, ()> = (0..1000).map(|_| (a.below("y", 10), ())).collect();
        assert_eq!(spread.into_keys().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(a.below("y", 0), 0);
    }
}
