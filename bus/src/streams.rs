//! Named random streams.
//!
//! Each use of randomness draws from a stream of its own name, so that a change in one place leaves all other
//! draws as they were. A virtual world keys the streams from its seed, a real one from the operating system's
//! entropy; either way the generator is cryptographic, so that a CHAP challenge can come from one.

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
