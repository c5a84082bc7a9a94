//! The iscsid role: it decides which sessions exist, logs them in, and brings them back after a failure.
//!
//! [`Iscsid`] is an actor of its own. It talks to the adapter through the ports of [`crate::control`] and
//! serves users through [`IscsidRequest`] and [`IscsidReply`]. It may be slow, stopped, killed and restarted
//! at any time: the adapter never waits for it, and a new one with the same [`Records`] says Hello, learns
//! the sessions, and treats each as in recovery, as the real daemon does. What it does per session is a state
//! machine without I/O; time and randomness come from the step's context.
//!
//! Not modelled: iSNS, boot sessions, the discovery daemon, more than one connection per session, name
//! resolution (portals are addresses), LUN rescans on asynchronous event 0 (counted).

mod actor;
mod env;
mod messages;
pub mod policy;
mod record;
mod session;
mod store;
#[cfg(test)]
mod tests;

pub use actor::{Iscsid, IscsidCounters, IscsidPorts, OUTBOX_LIMIT};
pub use env::SessionStage;
pub use messages::{IscsidReply, IscsidRequest, MAX_SESSIONS, MgmtError, SessionEntry, SessionView};
pub use record::{ChapRecord, DiscoveryRecord, NodeRecord, RecordError, Settings};
pub use store::Records;
