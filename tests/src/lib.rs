//! Tests that cross crates: layering, recovery, real peers.
