//! The embedded target: disks, targets and the sans-IO engine that serves them.
mod attention;
mod backend;
mod commands;
mod disk;
mod reservation;
pub use backend::{Backend, FileBackend, RamBackend};
pub use disk::{Context, Disk, DiskError, Job, MAX_SAME_BYTES, MAX_UNMAP_DESCRIPTORS, Outcome};
pub use reservation::{Effects, Nexus, Refusal, Reservations};
