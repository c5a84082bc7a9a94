//! The only place that talks to the kernel: clock, CPU time, entropy, epoll, sockets, shared memory, signals.
//!
//! Real-time runners, the card's host-socket back end and the tools call it; actors never do, time and
//! randomness reach them as parameters. Nothing here but [`file::Flusher`] starts a thread, and nothing but
//! [`reactor::Reactor::wait`] and [`event::ready`] blocks. I/O system calls are counted ([`count`]), so that
//! a benchmark can report system calls per I/O.
//!
//! Not here: UIO.
//!
//! `unsafe` is lifted for what no crate of ours wraps: `epoll_pwait2`, the overwriting of the process's own
//! argument area ([`args`]), mapping files ([`shm`]) and memory ([`memory`]), `poll` ([`event`]), interface
//! requests ([`tap`]), and descriptors that a socket delivers ([`unix`]).
#![allow(unsafe_code)]
// This crate is where the wall clock comes from.
#![allow(clippy::disallowed_methods)]

pub mod args;
pub mod clock;
pub mod count;
pub mod entropy;
pub mod event;
pub mod file;
pub mod heap;
pub mod local;
pub mod log;
pub mod memory;
pub mod net;
pub mod privileges;
pub mod reactor;
pub mod shm;
pub mod signals;
pub mod tap;
pub mod unix;
