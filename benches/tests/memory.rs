//! Promise: chip and driver with 128 idle sessions stay within 256 MiB of resident memory (goal G17).

use benches::blast::Shape;
use benches::rig::{Rig, RigConfig};

const LIMIT: u64 = 256 << 20;
/// The embedded target's disk: touched by the few requests that follow the login, and not the chip's or the
/// driver's.
const DISK: u64 = 16 << 20;

#[test]
fn idle_sessions_fit() {
    let before = os::clock::resident_bytes().expect("a mounted /proc");
    let shape = Shape { write: false, bytes: 512, depth: 1 };
    let rig = Rig::new(RigConfig { sessions: 128, ..RigConfig::memory(shape) });
    let grown = os::clock::resident_bytes().expect("a mounted /proc").saturating_sub(before);
    assert_eq!(rig.sessions.len(), 128);
    println!(
        "128 idle sessions: {:.1} MiB resident, the target and its disk included",
        grown as f64 / 1048576.0
    );
    assert!(grown > 1 << 20, "something was built: {grown}");
    assert!(grown < LIMIT + DISK, "{grown} bytes");
}
