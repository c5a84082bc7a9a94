//! Random streams of real worlds: a ChaCha20 generator for each name, keyed by the operating system.

use std::collections::BTreeMap;

use bus::streams::{StreamName, Streams};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Named streams that nobody can predict.
#[derive(Default)]
pub struct Secret {
    streams: BTreeMap<StreamName, ChaCha20Rng>,
}

impl Streams for Secret {
    fn fill(&mut self, name: StreamName, out: &mut [u8]) {
        let stream = self.streams.entry(name).or_insert_with(|| {
            let mut key = [0; 32];
            os::entropy::fill(&mut key).expect("the operating system has entropy");
            ChaCha20Rng::from_seed(key)
        });
        stream.fill_bytes(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_worlds_draw_differently() {
        assert_ne!(Secret::default().next_u64("x"), Secret::default().next_u64("x"));
    }
}
