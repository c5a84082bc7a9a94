//! The bnx2i role: iSCSI connection ids, rings of a connection and their page tables, KWQEs of layer 6, WQEs
//! of every type, BD lists, and the reading of CQEs. Pure mechanism: what to post and what a completion means
//! is decided in [`crate::adapter`].
//!
//! Not modelled: 5706/5708 limits, bidirectional commands, markers.

mod bd;
mod cid;
mod endpoint;
pub(crate) mod kwqe;
mod rings;
pub(crate) mod wqe;

pub(crate) use bd::{BdList, Bookmarks, WriteRules};
pub(crate) use cid::{CidGuard, CidPool};
pub(crate) use endpoint::{Endpoint, PathGroup, Phase};
pub(crate) use rings::{CqNext, QueuePair};
