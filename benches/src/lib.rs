//! Benchmarks for people (criterion).
