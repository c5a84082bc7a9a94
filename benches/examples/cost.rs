//! Runs a number of requests and prints what one cost. A small process for `valgrind --tool=callgrind` and
//! `perf`: the difference of two runs with different `--ios` is free of bring-up and login.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;

use benches::blast::Shape;
use benches::rig::{Rig, RigConfig};
use clap::Parser;

/// Measure what an I/O costs in one process.
#[derive(Parser)]
struct Args {
    /// Write instead of reading.
    #[arg(long)]
    write: bool,
    /// Bytes per request.
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    /// Requests under way per session.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Sessions.
    #[arg(long, default_value_t = 1)]
    sessions: usize,
    /// Header and data digests.
    #[arg(long)]
    digests: bool,
    /// Requests to measure.
    #[arg(long, default_value_t = 100_000)]
    ios: u64,
    /// Address of a target elsewhere (otherwise: the embedded one, in memory).
    #[arg(long, requires = "target")]
    portal: Option<SocketAddr>,
    /// Name of that target.
    #[arg(long)]
    target: Option<String>,
    /// Without a portal: TCP in frames of this MTU over a perfect link, instead of streams in memory.
    #[arg(long, value_name = "MTU", conflicts_with = "portal", value_parser = clap::value_parser!(u16).range(576..=9000))]
    wire: Option<u16>,
    /// With a wire: make and check the checksums of TCP.
    #[arg(long, requires = "wire")]
    checksums: bool,
    /// With a portal: poll instead of sleeping.
    #[arg(long)]
    spin: bool,
    /// Virtual time.
    #[arg(long = "virtual")]
    virtual_time: bool,
}

fn main() {
    let a = Args::parse();
    let shape = Shape { write: a.write, bytes: a.bytes, depth: a.depth };
    let mut rig = Rig::new(RigConfig {
        sessions: a.sessions,
        shape,
        digests: a.digests,
        virtual_time: a.virtual_time,
        peer: a.portal.zip(a.target),
        wire: a.wire,
        checksums: a.checksums,
        spin: a.spin,
    });
    let before = (rig.world.host_busy(), rig.world.chip_busy(), os::clock::process_cpu());
    let (events, steps, calls) =
        (rig.world.exec().trace().total(), rig.world.exec().steps(), os::count::calls().total());
    let counters = rig.world.engine_counters();
    let start = os::clock::now_ns();
    rig.run(a.ios);
    let seconds = (os::clock::now_ns() - start) as f64 / 1e9;
    let us = |d: std::time::Duration| d.as_secs_f64() * 1e6 / a.ios as f64;
    let per = |n: u64| n as f64 / a.ios as f64;
    let after = rig.world.engine_counters();
    println!(
        "{:.0} IOPS, {:.0} MB/s; per I/O: cpu {:.3} us (host {:.3}, chip {:.3}), {:.3} system calls, {:.2} steps, \
         {:.2} receives, {:.2} sends, {:.2} events",
        a.ios as f64 / seconds,
        a.ios as f64 * a.bytes as f64 / seconds / 1e6,
        us(os::clock::process_cpu() - before.2),
        us(rig.world.host_busy() - before.0),
        us(rig.world.chip_busy() - before.1),
        per(os::count::calls().total() - calls),
        per(rig.world.exec().steps() - steps),
        per(after.receives - counters.receives),
        per(after.sends - counters.sends),
        per(rig.world.exec().trace().total() - events),
    );
}
