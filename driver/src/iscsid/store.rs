//! What survives iscsid: the records of its sessions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bus::streams::Streams;

use super::record::NodeRecord;

/// One stored session.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) record: NodeRecord,
    pub(super) isid: [u8; 6],
    /// It was logged in once: a restarted iscsid brings it back.
    pub(super) established: bool,
}

/// What survives iscsid: the records of its sessions, as the files below `/etc/iscsi` do in the real system.
/// Clones share one store.
#[derive(Clone, Debug, Default)]
pub struct Records(Rc<RefCell<Store>>);

#[derive(Debug, Default)]
struct Store {
    sessions: BTreeMap<u64, Stored>,
    last_tag: u64,
}

impl Records {
    /// Tags of the sessions that were logged in and are to come back after a restart.
    #[must_use]
    pub fn established(&self) -> Vec<u64> {
        self.0.borrow().sessions.iter().filter(|(_, s)| s.established).map(|(&tag, _)| tag).collect()
    }

    /// A new tag: its low bits are the number of the session in its ISID.
    pub(super) fn next_tag(&self) -> u64 {
        let mut store = self.0.borrow_mut();
        store.last_tag += 1;
        store.last_tag
    }

    pub(super) fn get(&self, tag: u64) -> Option<Stored> {
        self.0.borrow().sessions.get(&tag).cloned()
    }

    pub(super) fn put(&self, tag: u64, stored: Stored) {
        self.0.borrow_mut().sessions.insert(tag, stored);
    }

    pub(super) fn change(&self, tag: u64, f: impl FnOnce(&mut Stored)) {
        if let Some(stored) = self.0.borrow_mut().sessions.get_mut(&tag) {
            f(stored);
        }
    }

    pub(super) fn remove(&self, tag: u64) {
        self.0.borrow_mut().sessions.remove(&tag);
    }
}

/// ISID in random format (RFC 7143 11.12.5, T = 10b): 24 random bits and the session's number. The real
/// daemon numbers its sessions under its OUI, which is unique because there is one per host; here every
/// process may run its own, and two sessions of one name and ISID would reinstate each other for ever.
pub(super) fn isid(tag: u64, rng: &mut dyn Streams) -> [u8; 6] {
    let [.., c, d] = tag.to_be_bytes();
    let mut isid = [0x80, 0, 0, 0, c, d];
    rng.fill("iscsid.isid", &mut isid[1..4]);
    isid
}
