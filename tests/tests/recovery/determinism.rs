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
