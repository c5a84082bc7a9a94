//! The chip's tables of iSCSI contexts and path groups: who has which, and in what state TCP is.
//!
//! A context id is handed out first in, first out, so that a late request for an old connection does not hit
//! a new one soon. Ids of iSCSI contexts step by [`CID_STEP`], which gives each connection a doorbell page of
//! its own in bin mode.

use std::collections::VecDeque;

use hsi::bcm5709::{ctx, limits};

use crate::tcp::{LinkHeader, TcpId};

/// First context id of iSCSI connections. A multiple of 0x100, as MQ_CONFIG2 can only express those.
pub(super) const FIRST_CID: u32 = 0x200;
/// Context ids per connection.
pub(super) const CID_STEP: u32 = 2;
/// First context id of path groups.
pub(super) const FIRST_PG: u32 = 0x800;
/// Connection indexes that a host may use.
pub(super) const TABLE: usize = limits::MAX_ISCSI_TBL_SZ;

/// TCP as the front end knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tcp {
    /// Never connected, or the attempt failed.
    None,
    /// CONNECT is not answered yet.
    Connecting,
    /// Connected; perhaps half closed by the peer.
    Established,
    /// CLOSE is not answered yet.
    Closing,
    /// RESET is not answered yet.
    Resetting,
    /// The peer sent RST, or the transport gave up; the host has still to send RESET or DESTROY.
    ResetByPeer,
    /// Closed or reset by the host.
    Closed,
}

impl Tcp {
    /// Whether there is a connection or an attempt at one.
    pub(super) fn alive(self) -> bool {
        matches!(self, Self::Connecting | Self::Established | Self::Closing | Self::Resetting)
    }
}

/// One offloaded connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The index that the host chose.
    pub(super) id: TcpId,
    /// Context id.
    pub(super) cid: u32,
    pub(super) tcp: Tcp,
    /// The path group that TCP uses, while it is alive.
    pub(super) path: Option<u32>,
    /// DESTROY is not answered yet.
    pub(super) destroying: bool,
    /// A CQ event waits for room in the KCQ: one is enough.
    pub(super) cq_event_waits: bool,
}

impl Connection {
    /// The context address, which is what KCQEs and layer 4 KWQEs carry.
    pub(super) fn context(&self) -> u32 {
        ctx::address(self.cid)
    }
}

/// The iSCSI contexts.
pub(super) struct Connections {
    slots: Vec<Option<Connection>>,
    free: VecDeque<u16>,
    by_id: [Option<u16>; TABLE],
}

impl Connections {
    /// `contexts` free contexts.
    pub(super) fn new(contexts: u16) -> Self {
        let contexts = contexts.min(TABLE as u16);
        Self {
            slots: (0..contexts).map(|_| None).collect(),
            free: (0..contexts).collect(),
            by_id: [None; TABLE],
        }
    }

    /// First and end of the ids: what ISCSI_CTX_MAP says.
    pub(super) fn map(&self) -> u32 {
        FIRST_CID << 16 | (FIRST_CID + self.slots.len() as u32 * CID_STEP)
    }

    /// Connections that exist.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Allocates a context. `None`: there is none left. The caller has checked that the id is free and in
    /// range.
    pub(super) fn open(&mut self, id: TcpId) -> Option<&mut Connection> {
        let slot = self.free.pop_front()?;
        self.by_id[usize::from(id.0)] = Some(slot);
        let cid = FIRST_CID + u32::from(slot) * CID_STEP;
        Some(self.slots[usize::from(slot)].insert(Connection {
            id,
            cid,
            tcp: Tcp::None,
            path: None,
            destroying: false,
            cq_event_waits: false,
        }))
    }

    /// Frees a context.
    pub(super) fn close(&mut self, id: TcpId) -> Option<Connection> {
        let slot = self.by_id.get_mut(usize::from(id.0))?.take()?;
        self.free.push_back(slot);
        self.slots[usize::from(slot)].take()
    }

    /// The KCQ was stopped: no CQ event waits any more.
    pub(super) fn forget_cq_events(&mut self) {
        self.slots.iter_mut().flatten().for_each(|c| c.cq_event_waits = false);
    }

    /// By the host's index.
    pub(super) fn by_id(&mut self, id: TcpId) -> Option<&mut Connection> {
        let slot = (*self.by_id.get(usize::from(id.0))?)?;
        self.slots[usize::from(slot)].as_mut()
    }

    /// Connections whose TCP uses a path group.
    pub(super) fn users_of(&self, path: u32) -> impl Iterator<Item = TcpId> {
        self.slots.iter().flatten().filter(move |c| c.path == Some(path)).map(|c| c.id)
    }

    /// By context id, which must be the first of the connection's.
    pub(super) fn by_cid(&mut self, cid: u32) -> Option<&mut Connection> {
        let offset = cid.checked_sub(FIRST_CID)?;
        if !offset.is_multiple_of(CID_STEP) {
            return None;
        }
        self.slots.get_mut((offset / CID_STEP) as usize)?.as_mut()
    }

    /// By context address, which must be the start of a context.
    pub(super) fn by_context(&mut self, address: u32) -> Option<&mut Connection> {
        if address & ctx::CTX_MASK != 0 { None } else { self.by_cid(ctx::cid(address)) }
    }
}

/// A cached L2 header.
#[derive(Debug)]
pub(super) struct PathGroup {
    pub(super) link: LinkHeader,
    /// The host's word for it.
    pub(super) opaque: u32,
    /// Live TCP connections that use it.
    pub(super) users: u32,
}

/// The path groups.
pub(super) struct PathGroups {
    slots: Vec<Option<PathGroup>>,
    free: VecDeque<u16>,
}

impl PathGroups {
    /// `groups` free path groups.
    pub(super) fn new(groups: u16) -> Self {
        let groups = groups.min(TABLE as u16);
        Self { slots: (0..groups).map(|_| None).collect(), free: (0..groups).collect() }
    }

    /// First and end of the ids: what PG_CTX_MAP says.
    pub(super) fn map(&self) -> u32 {
        FIRST_PG << 16 | (FIRST_PG + self.slots.len() as u32)
    }

    /// Path groups that exist.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The id of the path group with this opaque. Linear: at most [`TABLE`], and only when a connection is
    /// set up.
    pub(super) fn by_opaque(&self, opaque: u32) -> Option<u32> {
        let at = self.slots.iter().position(|s| s.as_ref().is_some_and(|g| g.opaque == opaque))?;
        Some(FIRST_PG + at as u32)
    }

    /// Allocates a path group. `None`: there is none left.
    pub(super) fn open(&mut self, link: LinkHeader, opaque: u32) -> Option<u32> {
        let slot = self.free.pop_front()?;
        self.slots[usize::from(slot)] = Some(PathGroup { link, opaque, users: 0 });
        Some(FIRST_PG + u32::from(slot))
    }

    /// By id.
    pub(super) fn get(&mut self, id: u32) -> Option<&mut PathGroup> {
        self.slots.get_mut(id.checked_sub(FIRST_PG)? as usize)?.as_mut()
    }

    /// Frees a path group.
    pub(super) fn close(&mut self, id: u32) {
        let Some(slot) = id.checked_sub(FIRST_PG) else { return };
        if self.slots.get_mut(slot as usize).and_then(Option::take).is_some() {
            self.free.push_back(slot as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_reused_last_and_looked_up_by_every_name() {
        let mut c = Connections::new(2);
        assert_eq!(c.map(), 0x0200_0204);
        let first = c.open(TcpId(7)).map(|c| c.cid);
        assert_eq!(first, Some(0x200));
        assert_eq!(c.by_context(0x200 << 7).map(|c| c.id), Some(TcpId(7)));
        assert!(
            c.by_context((0x200 << 7) + 4).is_none() && c.by_cid(0x201).is_none() && c.by_cid(0).is_none()
        );
        c.close(TcpId(7));
        assert!(c.by_id(TcpId(7)).is_none() && c.by_id(TcpId(9999)).is_none() && c.close(TcpId(7)).is_none());
        assert_eq!(c.open(TcpId(7)).map(|c| c.cid), Some(0x202), "the other one comes first");
        assert!(c.open(TcpId(1)).is_some());
        assert!(c.open(TcpId(2)).is_none(), "none left");
        assert_eq!(c.len(), 2);
    }

    #[test]
    fn path_groups_end_too() {
        let mut p = PathGroups::new(1);
        let id = p.open(LinkHeader::default(), 5).expect("one is free");
        assert_eq!((p.by_opaque(5), p.by_opaque(6)), (Some(id), None));
        assert_eq!(p.open(LinkHeader::default(), 6), None);
        p.close(id + 1);
        p.close(3);
        assert_eq!(p.len(), 1);
        p.close(id);
        assert_eq!((p.len(), p.get(id).is_none()), (0, true));
    }
}
