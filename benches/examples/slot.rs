//! The goals G8 and G9 in one run, each beside what the machine needs for less. Everything is taken in short
//! bursts, of which the best tenth is reported: on a busy machine those are the bursts that nobody disturbed.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement that people start")]

use std::time::{Duration, Instant};

use benches::far::{FarPair, ping_pong_bursts, plain_stores};

const BURSTS: u32 = 3000;
const STORES: u64 = 5000;
const ROUNDS: u32 = 64;

fn main() {
    let mut pair = FarPair::new();
    let stores: Vec<_> = (0..BURSTS).map(|_| plain_stores(STORES)).collect();
    let doorbells: Vec<_> = (0..BURSTS).map(|_| timed(|| pair.ring(STORES))).collect();
    let entries: Vec<_> = (0..BURSTS).map(|_| timed(|| (0..ROUNDS).for_each(|_| pair.round(1)))).collect();
    let batches: Vec<_> =
        (0..BURSTS).map(|_| timed(|| (0..ROUNDS / 16).for_each(|_| pair.round(16)))).collect();
    // The card and the echo of the line would share a core.
    pair.end();
    let lines = ping_pong_bursts(BURSTS, ROUNDS);

    let (store, doorbell) = (best(stores, STORES), best(doorbells, STORES));
    let of = |all| best(all, ROUNDS.into());
    let (line, entry, batch) = (of(lines), of(entries), of(batches));
    let ratio = doorbell / store;
    println!(
        "plain store {store:.2} ns, doorbell through the mapped page {doorbell:.2} ns: ratio {ratio:.1}"
    );
    println!("cache line there and back {line:.0} ns, SQ to CQ {entry:.0} ns: ratio {:.2}", entry / line);
    println!("SQ to CQ in batches of 16: {batch:.0} ns an entry");
}

fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

/// Nanoseconds of one of the `each` that a burst holds, at the tenth percentile.
fn best(mut all: Vec<Duration>, each: u64) -> f64 {
    all.sort();
    all[all.len() / 10].as_nanos() as f64 / each as f64
}
