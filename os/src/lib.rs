//! The only place that talks to the kernel: clock, CPU time, entropy, epoll, sockets, signals.
//!
//! Real-time runners, the card's host-socket back end and the tools call it; actors never do, time and randomness reach
//! them as parameters. Nothing here starts a thread, and nothing but [`reactor::Reactor::wait`] blocks. I/O system
//! calls are counted ([`count`]), so that a benchmark can report system calls per I/O.
//!
//! Not here: shared memory and vfio-user transport, TAP devices, UIO.
//!
//! `unsafe` is lifted for two blocks: `epoll_pwait2`, which no crate of ours wraps, and the overwriting of the
//! process's own argument area ([`args`]).
#![allow(unsafe_code)]
// This crate is where the wall clock comes from.
#![allow(clippy::disallowed_methods)]

pub mod args;
pub mod clock;
pub mod count;
pub mod entropy;
pub mod net;
pub mod reactor;
pub mod signals;
