//! The host: adapter, sessions and the block API.
//!
//! [`adapter`] is one actor with the roles of the kernel modules: `l2` owns the function, `cnic` the kernel
//! queues and TCP connections, `bnx2i` endpoints and their rings. It talks to iscsid through [`control`] and
//! to the path helper through [`bus::uio`]; users hold what [`user`] defines. [`config`] has every choice and
//! every deadline.

pub mod adapter;
pub mod block;
mod bnx2i;
mod cnic;
pub mod config;
pub mod control;
pub mod error;
pub mod iscsid;
mod l2;
pub mod libiscsi;
pub mod lun;
mod mem;
mod units;
pub mod user;
