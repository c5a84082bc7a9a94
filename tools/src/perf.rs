//! The job of `cnic perf`: keep a unit busy for a while and report what it did and what it cost.

use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::disk::{Direction, Disk, Job, Request, Unit, Usage};
use crate::failure::Failure;
use crate::io::Plan;
use crate::progress::Progress;

/// Longest latency that is told apart, in nanoseconds; longer ones count as this.
const MAX_LATENCY_NS: u64 = 300_000_000_000;
/// Share of reads in a mixed job, in percent.
const MIXED_READS: u64 = 70;

/// The access pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Random reads.
    Randread,
    /// Random writes.
    Randwrite,
    /// Random, 70 % reads.
    Mixed,
}

impl Pattern {
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Randwrite | Self::Mixed)
    }
}

/// Latency in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    fn of(h: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let q = |q| us(h.value_at_quantile(q));
        Self {
            min: us(h.min()),
            mean: h.mean() / 1000.0,
            p50: q(0.5),
            p90: q(0.9),
            p99: q(0.99),
            p999: q(0.999),
            max: us(h.max()),
        }
    }
}

/// Cost per I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// Microseconds in the driver.
    pub(crate) host_us: f64,
    /// Microseconds in the card and its TCP engine.
    pub(crate) chip_us: f64,
    /// Microseconds of CPU of the whole process.
    pub(crate) cpu_us: f64,
    /// System calls.
    pub(crate) system_calls: f64,
}

/// What `cnic perf` reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PerfReport {
    pub(crate) rw: Pattern,
    pub(crate) bs: usize,
    pub(crate) iodepth: usize,
    pub(crate) seconds: f64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) iops: f64,
    pub(crate) mb_per_s: f64,
    pub(crate) latency_us: Latency,
    pub(crate) per_io: Cost,
}

impl PerfReport {
    /// For people.
    pub(crate) fn summary(&self) -> String {
        let (l, c) = (&self.latency_us, &self.per_io);
        let name = self.rw.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        format!(
            "{name}, {} bytes, depth {}: {:.0} IOPS, {:.1} MB/s over {:.1} s\n\
             latency us  min {:.1}  mean {:.1}  p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}\n\
             per I/O     host {:.2} us, chip {:.2} us, process CPU {:.2} us, {:.2} system calls",
            self.bs,
            self.iodepth,
            self.iops,
            self.mb_per_s,
            self.seconds,
            l.min,
            l.mean,
            l.p50,
            l.p90,
            l.p99,
            l.p999,
            l.max,
            c.host_us,
            c.chip_us,
            c.cpu_us,
            c.system_calls,
        )
    }
}

/// Runs `pattern` over the plan's range for `runtime`.
pub(crate) fn run(
    unit: &mut impl Unit,
    plan: &Plan,
    pattern: Pattern,
    runtime: Duration,
    seed: u64,
) -> Result<PerfReport, Failure> {
    let chunks = plan.size / plan.bs as u64;
    if chunks == 0 {
        return Err(Failure::usage("the range is smaller than one --bs"));
    }
    let mut draw = Draw(seed);
    let data = (0..plan.bs.div_ceil(8)).flat_map(|_| draw.next().to_le_bytes()).take(plan.bs).collect();
    let latency = Histogram::new_with_bounds(100, MAX_LATENCY_NS, 3)
        .map_err(|e| Failure::other(format!("no histogram: {e}")))?;
    let start_ns = unit.now_ns();
    let runtime_ns = u64::try_from(runtime.as_nanos()).unwrap_or(u64::MAX);
    let before = unit.usage();
    let job = Bench {
        plan: *plan,
        pattern,
        draw,
        next: 0,
        chunks,
        data,
        start_ns,
        end_ns: start_ns.saturating_add(runtime_ns),
        started: vec![None; plan.depth],
        latency,
        reads: 0,
        writes: 0,
        progress: Progress::new("measuring"),
    };
    let (job, outcome) = unit.run(job, plan.depth, plan.bs);
    outcome?;
    Ok(job.report(unit.now_ns() - start_ns, before, unit.usage()))
}

struct Bench {
    plan: Plan,
    pattern: Pattern,
    draw: Draw,
    next: u64,
    chunks: u64,
    start_ns: u64,
    end_ns: u64,
    /// What is written.
    data: Vec<u8>,
    /// When the last request of each slot was submitted.
    started: Vec<Option<u64>>,
    latency: Histogram<u64>,
    reads: u64,
    writes: u64,
    progress: Progress,
}

impl Bench {
    fn report(&self, ns: u64, before: Usage, after: Usage) -> PerfReport {
        let ios = self.reads + self.writes;
        let seconds = ns as f64 / 1e9;
        let per_io = |a: u64, b: u64| a.saturating_sub(b) as f64 / ios.max(1) as f64;
        let iops = ios as f64 / seconds.max(1e-9);
        PerfReport {
            rw: self.pattern,
            bs: self.plan.bs,
            iodepth: self.plan.depth,
            seconds,
            reads: self.reads,
            writes: self.writes,
            iops,
            mb_per_s: iops * self.plan.bs as f64 / 1e6,
            latency_us: Latency::of(&self.latency),
            per_io: Cost {
                host_us: per_io(after.host_ns, before.host_ns) / 1000.0,
                chip_us: per_io(after.chip_ns, before.chip_ns) / 1000.0,
                cpu_us: per_io(after.process_ns, before.process_ns) / 1000.0,
                system_calls: per_io(after.system_calls, before.system_calls),
            },
        }
    }
}

impl Job for Bench {
    fn next(&mut self, disk: &mut dyn Disk, slot: usize) -> Option<Request> {
        let now = disk.now_ns();
        if now >= self.end_ns {
            return None;
        }
        let chunk = match self.pattern {
            Pattern::Read | Pattern::Write => {
                let chunk = self.next;
                self.next = (self.next + 1) % self.chunks;
                chunk
            }
            Pattern::Randread | Pattern::Randwrite | Pattern::Mixed => self.draw.below(self.chunks),
        };
        let direction = match self.pattern {
            Pattern::Read | Pattern::Randread => Direction::Read,
            Pattern::Write | Pattern::Randwrite => Direction::Write,
            Pattern::Mixed if self.draw.below(100) < MIXED_READS => Direction::Read,
            Pattern::Mixed => Direction::Write,
        };
        if self.started[slot].replace(now).is_none() {
            disk.store(slot, &self.data);
        }
        let offset = self.plan.offset + chunk * self.plan.bs as u64;
        Some(Request { direction, offset, len: self.plan.bs })
    }

    fn done(&mut self, disk: &mut dyn Disk, slot: usize, request: Request) -> Result<(), Failure> {
        let now = disk.now_ns();
        self.latency.saturating_record(now - self.started[slot].unwrap_or(now));
        match request.direction {
            Direction::Read => self.reads += 1,
            Direction::Write => self.writes += 1,
        }
        let ios = self.reads + self.writes;
        // A look at the wall clock per I/O would be measured too.
        if ios.is_multiple_of(256) {
            let (spent, all) = (now - self.start_ns, self.end_ns - self.start_ns);
            let rate = || format!("{:.0} IOPS", ios as f64 / (spent as f64 / 1e9));
            self.progress.update(spent, all, rate);
        }
        Ok(())
    }
}

/// A small generator for offsets (splitmix64): nothing secret comes from it.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::{Defect, MemoryDisk};

    fn bench(pattern: Pattern, depth: usize) -> (PerfReport, MemoryDisk) {
        let mut disk = MemoryDisk::new(100, Defect::None);
        let plan = Plan::new(&disk, 0, None, 1024, depth).unwrap();
        let report = run(&mut disk, &plan, pattern, Duration::from_millis(100), 1).unwrap();
        (report, disk)
    }

    #[test]
    fn figures_follow_from_the_disk() {
        // The memory disk takes 10 us of its own clock for each request.
        let (r, disk) = bench(Pattern::Read, 1);
        assert_eq!((r.reads, r.writes, disk.deepest), (10_000, 0, 1));
        assert!((r.iops - 100_000.0).abs() < 1.0, "{r:?}");
        assert!((r.mb_per_s - 102.4).abs() < 0.1, "{r:?}");
        assert!((r.latency_us.p50 - 10.0).abs() < 0.1 && (r.latency_us.max - 10.0).abs() < 0.1, "{r:?}");
        let c = r.per_io;
        assert!((c.host_us - 1.0).abs() < 0.01 && (c.chip_us - 2.0).abs() < 0.01, "{c:?}");
        assert!((c.cpu_us - 10.0).abs() < 0.01 && (c.system_calls - 0.5).abs() < 0.01, "{c:?}");
        assert!(r.summary().starts_with("read, 1024 bytes, depth 1: 100000 IOPS"), "{}", r.summary());
    }

    #[test]
    fn patterns_do_what_they_say() {
        let (r, disk) = bench(Pattern::Randwrite, 8);
        assert_eq!((r.reads, disk.deepest), (0, 8));
        assert!(
            disk.data.chunks(512).filter(|b| b.iter().all(|&b| b == 0)).count() == 0,
            "every block is hit"
        );
        let (r, _) = bench(Pattern::Mixed, 8);
        let share = r.reads as f64 / (r.reads + r.writes) as f64;
        assert!((share - 0.7).abs() < 0.05, "{share}");
        assert!(!Pattern::Read.writes() && !Pattern::Randread.writes() && Pattern::Mixed.writes());
    }

    #[test]
    fn a_range_smaller_than_a_request_is_refused() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        let plan = Plan::new(&disk, 0, Some(512), 1024, 1).unwrap();
        let e = run(&mut disk, &plan, Pattern::Read, Duration::from_secs(1), 1).unwrap_err();
        assert_eq!(e.code(), 7);
    }
}
