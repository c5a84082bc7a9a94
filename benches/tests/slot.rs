//! Promise: with mapped pages and an awake chip, a doorbell and a ring entry there and back cost no system
//! call and no message.

use benches::far::FarPair;

#[test]
fn doorbells_and_ring_entries_need_nobody_else() {
    let mut pair = FarPair::new();
    let before = os::count::calls();
    pair.ring(1000);
    (0..10).for_each(|_| pair.round(16));
    assert_eq!((os::count::calls() - before).total(), 0, "system calls of the host");
    let counters = pair.end();
    let mut pair = FarPair::new();
    (0..100).for_each(|_| pair.round(1));
    assert_eq!(pair.end().requests, counters.requests, "messages do not depend on what is posted");
}
