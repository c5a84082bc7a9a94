//! Ring post and reap over the in-process bus, beside what the machine needs for a plain store and for
//! passing a cache line to another core and back.
// A bench is where threads may be started and clocks be read.
#![allow(clippy::disallowed_methods, missing_docs)]

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use benches::echo::Pair;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A word on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU32);

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    for batch in [1u16, 16] {
        let mut pair = Pair::new();
        group.throughput(Throughput::Elements(batch.into()));
        group
            .bench_function(format!("post, doorbell, echo, reap x{batch}"), |b| b.iter(|| pair.round(batch)));
    }
    group.finish();
}

fn references(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring reference");
    let word = AtomicU64::new(0);
    group.bench_function("plain store", |b| {
        b.iter(|| black_box(&word).store(black_box(7), Ordering::Release));
    });
    group.bench_function("cache line to another core and back", |b| {
        b.iter_custom(|iters| {
            let lines = Arc::new([Line::default(), Line::default()]);
            let far = lines.clone();
            let rounds = iters as u32;
            let echo = std::thread::spawn(move || {
                for i in 1..=rounds {
                    while far[0].0.load(Ordering::Acquire) != i {
                        spin_loop();
                    }
                    far[1].0.store(i, Ordering::Release);
                }
            });
            let start = Instant::now();
            for i in 1..=rounds {
                lines[0].0.store(i, Ordering::Release);
                while lines[1].0.load(Ordering::Acquire) != i {
                    spin_loop();
                }
            }
            let elapsed = start.elapsed();
            echo.join().expect("the echo ends by itself");
            elapsed
        });
    });
    group.finish();
}

criterion_group!(all, ring, references);
criterion_main!(all);
