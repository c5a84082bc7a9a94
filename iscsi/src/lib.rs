//! The iSCSI protocol (RFC 7143) and SCSI for both ends, sans-IO.
//!
//! Bytes, headers and text in; bytes, headers and decisions out. Nothing here opens a socket, reads a clock
//! or draws randomness: challenges, ISIDs and tags come from the caller. The initiator side is used by the
//! driver (login, discovery) and by the card's offload engine (headers, digests, framing); the target side by
//! the embedded target.
//!
//! | module | what it holds |
//! |---|---|
//! | [`serial`] | 32-bit serial numbers (CmdSN, StatSN, DataSN) |
//! | [`pdu`] | basic header segments, additional header segments, code tables |
//! | [`digest`] | CRC32C header and data digests |
//! | [`framing`] | byte stream to PDUs without buffering payload |
//! | [`text`] | key=value lists, their values, continuation |
//! | [`negotiate`] | the key table, negotiation at both ends |
//! | [`chap`] | CHAP at both ends, secrets |
//! | [`login`] | the login phase at both ends |
//! | [`names`] | iSCSI names, portals, URLs |
//! | [`sendtargets`] | the discovery answer |
//! | [`scsi`] | CDBs, sense data and the parameter data of a disk |
//! | [`target`] | disks, and the engine that serves them to initiators |
//!
//! Not modelled: markers, iSER, more than one connection per session, Kerberos and SRP.

pub mod chap;
pub mod digest;
pub mod framing;
pub mod login;
pub mod names;
pub mod negotiate;
pub mod pdu;
pub mod scsi;
pub mod sendtargets;
pub mod serial;
pub mod target;
pub mod text;
