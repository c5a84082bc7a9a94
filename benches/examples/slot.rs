//! The goals G8 and G9 in one run: each figure is taken in turns with what the machine needs for less, and the medians are divided.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement that people start")]

use std::time::Instant;

use benches::far::{FarPair, ping_pong, plain_stores};

const TURNS: usize = 31;
const STORES: u64 = 200_000;
const ROUNDS: u32 = 5_000;

fn main() {
    let mut pair = FarPair::new();
    let (mut stores, mut doorbells, mut lines, mut entries, mut batched) =
        (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..TURNS {
        stores.push(plain_stores(STORES).as_nanos() as f64 / STORES as f64);
        let start = Instant::now();
        pair.ring(STORES);
        doorbells.push(start.elapsed().as_nanos() as f64 / STORES as f64);
    }
    for _ in 0..TURNS {
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| pair.round(1));
        entries.push(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
        let start = Instant::now();
        (0..ROUNDS / 16).for_each(|_| pair.round(16));
        batched.push(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS / 16 * 16));
    }
    pair.end();
    // The echo of the line and the card would share a core; the card's thread has ended.
    for _ in 0..TURNS {
        lines.push(ping_pong(ROUNDS).as_nanos() as f64 / f64::from(ROUNDS));
    }
    let (store, doorbell) = (median(&mut stores), median(&mut doorbells));
    let (line, entry, batch) = (median(&mut lines), median(&mut entries), median(&mut batched));
    println!(
        "plain store {store:.2} ns, doorbell through the mapped page {doorbell:.2} ns: ratio {:.1}",
        doorbell / store
    );
    println!("cache line there and back {line:.0} ns, SQ to CQ {entry:.0} ns: ratio {:.2}", entry / line);
    println!("SQ to CQ in batches of 16: {batch:.0} ns an entry");
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
