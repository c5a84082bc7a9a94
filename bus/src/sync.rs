//! The atomics that shared memory is accessed with. One place, so that a model checker can stand in for them.

pub use core::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
