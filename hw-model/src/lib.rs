//! The card: chip front ends, offload engine, TCP engines.
