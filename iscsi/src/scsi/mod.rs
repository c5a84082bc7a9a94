//! SCSI as a disk and its initiator speak it: CDBs, status, sense, INQUIRY and VPD, capacity, mode pages, LUN
//! lists and the supported-command report (SPC-4, SBC-3). One description serves both ends: the driver's LUN
//! bring-up parses what the embedded target builds. Nothing here executes a command; [`crate::target::Disk`]
//! does. Not modelled: protection information, tape and enclosure commands, the copy manager.

mod capacity;
mod cdb;
mod inquiry;
mod lun;
mod mode;
pub mod op;
mod rsoc;
mod sense;
mod status;

pub use capacity::{Capacity, Extent, lba_status};
pub use cdb::{Bytchk, Cdb, CdbBytes, CdbError, Form, ReservationAction, Transfer};
pub use inquiry::{
    BlockLimits, Designator, Inquiry, Provisioning, VpdPage, designators, qualifier, vpd, vpd_payload,
};
pub use lun::{Lun, ReportLuns, report_luns};
pub use mode::{CachingPage, ControlPage, ModeParameters, mode_header, page};
pub use rsoc::{Command, Support, report_all, report_one};
pub use sense::{FieldPointer, Sense, SenseBytes, SenseFormat, SenseKey};
pub use status::Status;

/// Big-endian u16 at `at`; `None` past the end.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Big-endian u32 at `at`; `None` past the end.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Big-endian u64 at `at`; `None` past the end.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
