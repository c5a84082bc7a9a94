//! A run is a pure function of code, configuration and seed.

use std::time::Duration;

use bus::inproc::Timing;
use driver::adapter::OperatorRequest;
use tests::rig::{Rig, RigConfig};

fn hash(seed: u64, timing: Timing) -> u64 {
    let mut config = RigConfig::new(4);
    (config.seed, config.timing) = (seed, timing);
    let mut rig = Rig::start(config);
    rig.run_ms(100);
    rig.reset(OperatorRequest::ChangeMtu(9000));
    assert!(rig.recovered(Duration::from_secs(10)), "all sessions come back");
    rig.run_ms(100);
    let run = rig.finish();
    run.assert_unharmed();
    run.hash
}

/// Posted writes take up to 20 us one way and up to 35 us the other.
const HELD: Timing = Timing { mmio: Duration::from_micros(20), dma: Duration::from_micros(35) };

#[test]
fn the_same_seed_gives_the_same_history_and_another_one_another() {
    let prompt = Timing::default();
    assert_eq!(hash(1, prompt), hash(1, prompt));
    assert_ne!(hash(1, prompt), hash(2, prompt));
}

#[test]
fn held_posted_queues_repeat_too() {
    assert_eq!(hash(1, HELD), hash(1, HELD));
    assert_ne!(hash(1, HELD), hash(2, HELD));
    assert_ne!(hash(1, HELD), hash(1, Timing::default()), "the queues were held");
}

/// A minute of sixteen sessions, each with one verified request every 100 ms, one MTU change and one restart
/// of the target.
fn minute() -> (u64, u64) {
    let mut config = RigConfig::new(16);
    config.load.depth = 1;
    config.load.think = Duration::from_millis(100);
    let mut rig = Rig::start(config);
    rig.run_ms(20_000);
    rig.reset(OperatorRequest::ChangeMtu(9000));
    rig.run_ms(20_000);
    let target = rig.world.target().expect("embedded").clone();
    target.borrow_mut().kill();
    target.borrow_mut().restart().expect("it was killed");
    rig.run_ms(20_000);
    let events = rig.world.exec().trace().total();
    let run = rig.finish();
    run.assert_unharmed();
    assert!(run.load.commands > 8_000, "{} requests", run.load.commands);
    assert_eq!((run.adapter.connections_lost, run.load.recoveries.len()), (32, 16));
    (events, run.hash)
}

#[test]
fn a_minute_under_load_repeats_exactly() {
    assert_eq!(minute(), minute());
}
