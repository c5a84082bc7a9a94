//! Promise: nothing is allocated per I/O in steady state, by driver, card, transport, runner and embedded
//! target alike.

use benches::blast::Shape;
use benches::rig::{Rig, RigConfig};
use os::heap::{Counting, allocations};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations while 1000 requests complete in the middle of a load.
fn during_a_thousand(config: RigConfig) -> u64 {
    let mut rig = Rig::new(config);
    // Buffers have grown to their size after every slot of every ring was used.
    rig.run_part(4000, 2000);
    let before = allocations();
    rig.run_part(0, 1000);
    let during = allocations() - before;
    rig.run(0);
    during
}

fn config(write: bool, bytes: usize, depth: usize) -> RigConfig {
    RigConfig { virtual_time: true, ..RigConfig::memory(Shape { write, bytes, depth }) }
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    std::hint::black_box(vec![0u8; 100]);
    assert!(allocations() > before);
}

#[test]
fn small_reads_and_writes_allocate_nothing() {
    for write in [false, true] {
        for depth in [1, 32] {
            assert_eq!(during_a_thousand(config(write, 4096, depth)), 0, "write {write}, depth {depth}");
        }
    }
}

#[test]
fn large_reads_and_writes_allocate_nothing() {
    for write in [false, true] {
        let config = RigConfig { digests: write, ..config(write, 256 << 10, 8) };
        assert_eq!(during_a_thousand(config), 0, "write {write}");
    }
}

#[test]
fn many_sessions_allocate_nothing() {
    let config = RigConfig { sessions: 8, ..config(true, 4096, 4) };
    assert_eq!(during_a_thousand(config), 0);
}

#[test]
fn segments_allocate_nothing() {
    for (mtu, write, bytes, depth) in [
        (1500, false, 4096, 32),
        (1500, true, 4096, 32),
        (9000, true, 64 << 10, 4),
        (1500, false, 64 << 10, 4),
    ] {
        let config = RigConfig { wire: Some(mtu), checksums: true, ..config(write, bytes, depth) };
        assert_eq!(during_a_thousand(config), 0, "MTU {mtu}, write {write}, {bytes} bytes");
    }
}
