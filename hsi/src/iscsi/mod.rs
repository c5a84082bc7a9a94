//! The rings of an offloaded iSCSI connection. Both classes of the family have the same formats.

pub mod bd;
pub mod bits;
pub mod cq;
pub mod rq;
pub mod sq;
