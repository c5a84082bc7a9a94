//! Randomness of the operating system: what real-time random streams are keyed with.

/// Fills `out` from the system's CSPRNG.
///
/// # Errors
/// The kernel has no entropy to give (it never happens after boot).
pub fn fill(out: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(out).map_err(std::io::Error::from)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        super::fill(&mut a).unwrap();
        super::fill(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
