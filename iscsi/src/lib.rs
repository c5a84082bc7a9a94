//! The iSCSI protocol (RFC 7143) and SCSI for both ends, sans-IO.

pub mod scsi;
