//! Whole I/O in one process and thread: driver, card, in-memory stream and the embedded RAM target.
// A bench is where clocks may be read.
#![allow(clippy::disallowed_methods, missing_docs)]

use std::time::Instant;

use benches::blast::Shape;
use benches::rig::{Rig, RigConfig};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

fn io(c: &mut Criterion) {
    let mut group = c.benchmark_group("io");
    group.sampling_mode(SamplingMode::Flat);
    for (bytes, depth, digests) in [
        (4 << 10, 1, false),
        (4 << 10, 32, false),
        (64 << 10, 32, false),
        (64 << 10, 32, true),
        (256 << 10, 8, false),
    ] {
        for write in [false, true] {
            let shape = Shape { write, bytes, depth };
            let mut rig = Rig::new(RigConfig { digests, ..RigConfig::memory(shape) });
            let name = format!(
                "{} KiB {} QD{depth}{}",
                bytes >> 10,
                if write { "write" } else { "read" },
                if digests { " digests" } else { "" }
            );
            group.throughput(if depth == 8 {
                Throughput::Bytes(bytes as u64)
            } else {
                Throughput::Elements(1)
            });
            group.bench_function(name, |b| {
                b.iter_custom(|iters| {
                    let start = Instant::now();
                    rig.run(iters);
                    start.elapsed()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(all, io);
criterion_main!(all);
