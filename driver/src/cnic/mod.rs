//! The cnic role: kernel work and completion queues, local TCP ports, and the requests of the TCP connection
//! manager. The adapter drives the connections; this module knows nothing of iSCSI PDUs.
//!
//! Not modelled: other upper protocols than iSCSI.

pub(crate) mod cm;
mod kq;
mod ports;
pub(crate) mod uio;

pub(crate) use kq::{KWQ_ENTRIES, KernelQueues, KwqFull, doorbell_layout};
pub(crate) use ports::{PortGuard, Ports};
