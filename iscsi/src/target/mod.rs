//! The embedded target: what the initiator talks to at the far end of the wire, in the demo, in every test
//! and behind `cnic target`. [`Disk`] is a logical unit on a [`Backend`]; [`TargetServer`] serves targets of
//! them to any number of connections, sans-IO. One connection per session, error recovery level 0 (RFC 7143
//! 7). Faults are not built in: the laboratory wraps the engine.
//!
//! | part | what it holds |
//! |---|---|
//! | `backend`, `ram`, `medium` | storage |
//! | `disk`, `job`, `work`, `copy`, `sanitize` | the SCSI device: what its commands do |
//! | `commands`, `identity`, `modes`, `removal`, `reservation`, `attention` | what it says about itself, and its state |
//! | `server`, `connection`, `policy`, `guard`, `config` | targets, connections, login, sessions, timers |
//! | `session`, `window`, `task`, `turns` | the state of one session, and whose turn it is |
//! | `request`, `command`, `transfer`, `management`, `text` | what requests do |
//! | `output` | finished PDUs |
//!
//! Not modelled: multiple connections per session, error recovery levels 1 and 2, ORDERED and HEAD OF QUEUE
//! task attributes (tasks start in CmdSN order and finish as their data does), ACA.

mod attention;
mod backend;
mod command;
mod commands;
mod config;
mod connection;
mod copy;
mod disk;
mod guard;
mod identity;
mod job;
mod management;
mod medium;
mod modes;
mod output;
mod policy;
mod ram;
mod removal;
mod request;
mod reservation;
mod sanitize;
mod server;
mod session;
mod task;
#[cfg(test)]
mod tests;
mod text;
mod transfer;
mod turns;
mod window;
mod work;

pub use backend::{Backend, Extent, Ticket};
pub use config::{Auth, CloseReason, ConnId, Counters, Event, ServerConfig};
pub use disk::{Context, Disk, DiskError, MAX_SAME_BYTES, MAX_UNMAP_DESCRIPTORS, Outcome};
pub use job::{Finish, Job};
pub use medium::Trouble;
pub use ram::{Memory, RamBackend};
pub use reservation::{Effects, Nexus, Refusal, Reservations};
pub use server::{ServerFull, SessionInfo, TargetError, TargetServer};
pub use work::{Allowance, Turn, Work};
