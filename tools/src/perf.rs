//! The job of `cnic perf`: keep a unit busy for a while and report what it did and what it cost.

use std::time::Duration;

use clap::ValueEnum;
use driver::error::ExitCode;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::disk::{Direction, Disk, Job, Request, Unit, Usage};
use crate::failure::Failure;
use crate::io::Plan;
use crate::progress::Progress;

/// Longest latency that is told apart, in nanoseconds; longer ones count as this.
const MAX_LATENCY_NS: u64 = 300_000_000_000;
/// What is under way at the end of the run time gets so long, in nanoseconds.
const GRACE_NS: u64 = 5_000_000_000;
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
    /// Microseconds of CPU in the driver and its user.
    pub(crate) host_us: f64,
    /// Microseconds of CPU in the card and its TCP engine.
    pub(crate) chip_us: f64,
    /// Microseconds of CPU in the runner: it looks at sockets, sleeps and wakes up.
    pub(crate) runner_us: f64,
    /// Microseconds of CPU of the whole process: the sum of the above.
    pub(crate) cpu_us: f64,
    /// System calls.
    pub(crate) system_calls: f64,
}

impl Cost {
    /// CPU time is only known for the process. It is split as the clock says that the steps of the two sides
    /// and the runner's polls share the time in which the process was not parked; what other processes took
    /// out of all of them drops out.
    fn of(used: &Usage, ios: u64) -> Self {
        let running = used.process_ns.saturating_sub(used.parks_ns) as f64;
        let stepped = (used.host_ns + used.chip_ns + used.polls_ns) as f64;
        let cpu_per_ns = (running / stepped.max(1.0)).min(1.0);
        let us = |ns: f64| ns / 1000.0 / ios.max(1) as f64;
        let (host_us, chip_us) = (us(used.host_ns as f64 * cpu_per_ns), us(used.chip_ns as f64 * cpu_per_ns));
        let cpu_us = us(used.process_ns as f64);
        Self {
            host_us,
            chip_us,
            runner_us: (cpu_us - host_us - chip_us).max(0.0),
            cpu_us,
            system_calls: used.system_calls as f64 / ios.max(1) as f64,
        }
    }
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
    /// Why it ended early, if it did: the figures are those until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl PerfReport {
    /// For people.
    pub(crate) fn summary(&self) -> String {
        let (l, c) = (&self.latency_us, &self.per_io);
        let name = self.rw.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        format!(
            "{name}, {} bytes, depth {}: {:.0} IOPS, {:.1} MB/s over {:.1} s\n\
             latency us  min {:.1}  mean {:.1}  p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}\n\
             per I/O     CPU {:.2} us: host {:.2} us, chip {:.2} us, runner {:.2} us; {:.2} system calls",
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
            c.cpu_us,
            c.host_us,
            c.chip_us,
            c.runner_us,
            c.system_calls,
        )
    }
}

/// Runs `pattern` over the plan's range for `runtime`. What comes back besides the report is how it ended: a
/// job that broke off still has figures.
pub(crate) fn run(
    unit: &mut impl Unit,
    plan: &Plan,
    pattern: Pattern,
    runtime: Duration,
    seed: u64,
) -> Result<(PerfReport, Result<(), Failure>), Failure> {
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
    let mut report = job.report(unit.now_ns() - start_ns, &unit.usage().since(&before));
    let outcome = outcome.and_then(|()| match report.reads + report.writes {
        // Figures of nothing measure nothing.
        0 => Err(Failure::new(
            ExitCode::RequestTimedOut,
            "not one request was completed within the run time: make --runtime longer, or check the target's load",
        )),
        _ => Ok(()),
    });
    let outcome = outcome.map_err(Failure::already_reported);
    report.error = outcome.as_ref().err().map(ToString::to_string);
    Ok((report, outcome))
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
    fn report(&self, ns: u64, used: &Usage) -> PerfReport {
        let ios = self.reads + self.writes;
        let seconds = ns as f64 / 1e9;
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
            per_io: Cost::of(used, ios),
            error: None,
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

    fn give_up_ns(&self) -> Option<u64> {
        Some(self.end_ns.saturating_add(GRACE_NS))
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
        report.1.unwrap();
        (report.0, disk)
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
        assert!((c.runner_us - 7.0).abs() < 0.01, "{c:?}");
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
    fn cpu_is_shared_out_and_never_more_than_there_is() {
        let used =
            Usage { host_ns: 10, chip_ns: 30, polls_ns: 40, parks_ns: 20, process_ns: 60, system_calls: 0 };
        let c = Cost::of(&used, 1);
        assert!((c.host_us - 0.005).abs() < 1e-9 && (c.chip_us - 0.015).abs() < 1e-9, "{c:?}");
        let c = Cost::of(&Usage { parks_ns: 0, process_ns: 100, ..used }, 1);
        assert!((c.host_us - 0.010).abs() < 1e-9, "a step uses no more than it took: {c:?}");
    }

    #[test]
    fn a_disk_that_falls_silent_ends_the_job_with_what_it_did() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        disk.silent_after = Some(50_000_000);
        let plan = Plan::new(&disk, 0, None, 1024, 4).unwrap();
        let (report, outcome) = run(&mut disk, &plan, Pattern::Read, Duration::from_millis(100), 1).unwrap();
        let e = outcome.unwrap_err();
        assert_eq!((e.code(), report.reads, report.error), (4, 5000, Some(e.to_string())));
        assert!(e.to_string().starts_with("4 requests were not answered"), "{e}");
        assert!((report.seconds - 5.1).abs() < 0.1, "the grace after the run time: {}", report.seconds);
    }

    #[test]
    fn a_job_that_completes_nothing_is_an_error_of_its_own() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        // It may wait, and never does.
        disk.silent_after = Some(u64::MAX);
        let plan = Plan::new(&disk, 0, None, 1024, 4).unwrap();
        let (report, outcome) = run(&mut disk, &plan, Pattern::Read, Duration::ZERO, 1).unwrap();
        let e = outcome.unwrap_err();
        assert_eq!((e.code(), report.reads, report.error), (33, 0, Some(e.to_string())));
        assert!(e.is_reported() && e.to_string().contains("not one request"), "{e}");
    }

    #[test]
    fn a_range_smaller_than_a_request_is_refused() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        let plan = Plan::new(&disk, 0, Some(512), 1024, 1).unwrap();
        let e = run(&mut disk, &plan, Pattern::Read, Duration::from_secs(1), 1).unwrap_err();
        assert_eq!(e.code(), 7);
    }
}
