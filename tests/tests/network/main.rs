//! The network's side, in virtual time: worlds whose connections are TCP in frames on a link, under verified
//! load, while neighbours move, addresses are taken or leased, links are bad, and the far end misbehaves.
//! docs/invariants.md is the list.

mod addresses;
mod hostile;
mod interfaces;
mod links;
mod neighbours;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bus::trace::EventKind;
use driver::iscsid::{MgmtError, NodeRecord};
use hsi::kernel::kwq::Layer;
use hsi::kernel::l4::L4KcqeOpcode;
use lab::world::WorldError;
use tests::rig::Rig;

const SECOND: Duration = Duration::from_secs(1);

/// Counts the answers of the card to `op` from now on.
fn count(rig: &mut Rig, op: L4KcqeOpcode) -> Rc<Cell<u64>> {
    let seen = Rc::new(Cell::new(0));
    let (counter, what) = (seen.clone(), u64::from(op.0) | u64::from(Layer::L4.0) << 8);
    let count = move |e: &bus::trace::Event| {
        if e.kind == EventKind::Kcqe && e.a == what && e.actor.kind == "adapter" {
            counter.set(counter.get() + 1);
        }
    };
    rig.world.set_sink(Box::new(count));
    seen
}

/// The failure of a login that is tried once, and how long it took.
fn refused(rig: &mut Rig, record: &NodeRecord) -> (MgmtError, Duration) {
    let mut record = record.clone();
    record.settings.initial_login_retry_max = 0;
    let start = rig.world.now();
    match rig.world.login(&record, 1) {
        Err(WorldError::Daemon(e)) => (e, rig.world.now() - start),
        other => panic!("a login that must fail: {other:?}"),
    }
}
