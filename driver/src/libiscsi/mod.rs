//! The libiscsi role: what the real stack keeps per session below iscsid and above bnx2i. Command numbering
//! ([`CmdSnWindow`]), tasks and their tags ([`TaskTable`]), what happens to a command that takes too long
//! ([`timeout`], [`Ladder`]), the keepalive ([`Keepalive`]) and the session's state with its replacement
//! timer ([`SessionGate`]).
//!
//! All of it is sans-IO: the adapter owns one set per session, feeds it completions and the time, and carries
//! out what it answers. Nothing here allocates after construction. Not modelled: several connections per
//! session, ErrorRecoveryLevel above 0.

mod cmdsn;
mod keepalive;
mod session;
mod task;
pub mod timeout;
mod tmf;

pub use cmdsn::CmdSnWindow;
pub use keepalive::{Keepalive, KeepaliveAction};
pub use session::{Admit, SessionGate, SessionState};
pub use task::{
    AllocError, MGMT_TASKS, Task, TaskClass, TaskError, TaskHandle, TaskKind, TaskState, TaskTable, WireItt,
};
pub use tmf::{Ladder, LadderAction, Scope, TmfFunction, TmfRequest, TmfTimeouts};
