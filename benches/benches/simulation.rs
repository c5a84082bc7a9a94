//! What a simulated minute costs: 16 sessions with a verified request every 100 ms each, an MTU change (a
//! device reset) and a restart of the target in virtual time; bring-up, login and shutdown included.
#![allow(missing_docs)]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use driver::adapter::OperatorRequest;
use driver::iscsid::NodeRecord;
use iscsi::target::Auth;
use lab::demo::{TARGET, ram_target};
use lab::load::LoadConfig;
use lab::oracle::Initial;
use lab::world::{PORTAL, World, WorldConfig};

const SESSIONS: usize = 16;
/// Blocks of a session's region.
const REGION: usize = 256;

/// Runs the minute; the events in it.
fn minute() -> u64 {
    let target = ram_target(TARGET, (SESSIONS * REGION) as u64, Auth::default());
    let mut world = World::new(WorldConfig::virtual_time(1, target)).expect("a world");
    world.bring_up().expect("the adapter comes up");
    let sessions = world.login(&NodeRecord::new(TARGET, PORTAL), SESSIONS).expect("the sessions log in");
    let config = LoadConfig {
        depth: 1,
        max_bytes: 16 << 10,
        write_percent: 50,
        think: Duration::from_millis(100),
        run: 1,
        initial: Initial::Zero,
    };
    let load = world.start_load(&sessions, config, REGION).expect("the load starts");
    world.run_for(Duration::from_secs(20));
    world.operate(OperatorRequest::ChangeMtu(9000)).expect("an MTU");
    world.run_for(Duration::from_secs(20));
    let target = world.target().expect("the embedded target").clone();
    target.borrow_mut().kill();
    world.run_for(Duration::from_millis(500));
    target.borrow_mut().restart().expect("nobody else listens");
    world.run_for(Duration::from_millis(19_500));
    let left = world.finish_load(&load, Duration::from_secs(60));
    let load = load.borrow();
    let r = load.report();
    assert!(
        r.commands > 8000 && r.corrupt + r.guard_bytes + r.duplicated + r.failed + left.lost == 0,
        "{r:?}"
    );
    world.shutdown().expect("it ends");
    world.exec().trace().total()
}

fn simulation(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulation");
    group.sample_size(10);
    group.throughput(criterion::Throughput::Elements(minute()));
    group.bench_function("60 s of 16 sessions", |b| b.iter(minute));
    group.finish();
}

criterion_group!(all, simulation);
criterion_main!(all);
