//! The laboratory: worlds, runners, workloads, oracles.
