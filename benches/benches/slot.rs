//! A slot between two cores: doorbell through the mapped page, and ring entries there and back, beside a
//! plain store and a cache line's round trip. `cargo run --release -p benches --example slot` measures the
//! same in pairs and prints the ratios.
#![allow(missing_docs)]

use benches::far::{FarPair, ping_pong, plain_stores};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn doorbell(c: &mut Criterion) {
    let mut group = c.benchmark_group("slot: doorbell");
    group.bench_function("plain store", |b| b.iter_custom(plain_stores));
    let mut pair = FarPair::new();
    group.bench_function("through the mapped page, chip awake", |b| b.iter(|| pair.ring(1)));
    group.finish();
    pair.end();
}

fn round_trip(c: &mut Criterion) {
    let mut group = c.benchmark_group("slot: round trip");
    group.bench_function("cache line to another core and back", |b| {
        b.iter_custom(|n| ping_pong(n as u32));
    });
    let mut pair = FarPair::new();
    for batch in [1u16, 16] {
        group.throughput(Throughput::Elements(batch.into()));
        group.bench_function(format!("SQ to CQ x{batch}"), |b| b.iter(|| pair.round(batch)));
    }
    group.finish();
    pair.end();
}

criterion_group!(all, doorbell, round_trip);
criterion_main!(all);
