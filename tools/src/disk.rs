//! A logical unit as the workloads of `io` and `perf` see it, and the pipeline that keeps it busy.

use driver::error::ExitCode;

use crate::failure::Failure;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// One request. It uses the buffer of its slot from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) direction: Direction,
    /// Bytes from the start of the unit, a multiple of the block size.
    pub(crate) offset: u64,
    /// Bytes, a multiple of the block size.
    pub(crate) len: usize,
}

/// A request that completed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) slot: usize,
    pub(crate) result: Result<(), Failure>,
}

/// What the work cost so far, since the login. Differences of two are what a job cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Real time spent stepping the driver's actors, in nanoseconds.
    pub(crate) host_ns: u64,
    /// Real time spent stepping the card, its TCP engine included, in nanoseconds.
    pub(crate) chip_ns: u64,
    /// Real time in which the runner looked at sockets without waiting, in nanoseconds.
    pub(crate) polls_ns: u64,
    /// CPU time in which the runner went to sleep and woke up, in nanoseconds.
    pub(crate) parks_ns: u64,
    /// CPU time of the whole process, in nanoseconds.
    pub(crate) process_ns: u64,
    /// I/O system calls.
    pub(crate) system_calls: u64,
}

impl Usage {
    /// What was used since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            host_ns: self.host_ns.saturating_sub(earlier.host_ns),
            chip_ns: self.chip_ns.saturating_sub(earlier.chip_ns),
            polls_ns: self.polls_ns.saturating_sub(earlier.polls_ns),
            parks_ns: self.parks_ns.saturating_sub(earlier.parks_ns),
            process_ns: self.process_ns.saturating_sub(earlier.process_ns),
            system_calls: self.system_calls.saturating_sub(earlier.system_calls),
        }
    }
}

/// What became of a request that was to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It is under way.
    Yes,
    /// There is no room; try again later.
    NotNow,
}

/// A logical unit during one turn of its host. Each slot has a buffer of the length that the job was started
/// with.
pub(crate) trait Disk {
    /// Bytes per logical block.
    fn block_size(&self) -> u32;
    /// Puts `data` into the buffer of `slot`, which has no request under way.
    fn store(&mut self, slot: usize, data: &[u8]);
    /// Copies the beginning of the buffer of `slot` to `data`.
    fn load(&self, slot: usize, data: &mut [u8]);
    /// Starts a request in a free slot.
    fn submit(&mut self, slot: usize, request: Request) -> Result<Accepted, Failure>;
    /// Appends what completed since the last call.
    fn reap(&mut self, done: &mut Vec<Done>);
    /// Nanoseconds of real time.
    fn now_ns(&self) -> u64;
}

/// A logical unit with a session behind it: runs jobs one after the other.
pub(crate) trait Unit {
    /// Bytes per logical block.
    fn block_size(&self) -> u32;
    /// Size in logical blocks.
    fn blocks(&self) -> u64;
    /// Runs `job` to its end with `depth` slots of `len` bytes, and gives it back with how it ended.
    fn run<J: Job + 'static>(&mut self, job: J, depth: usize, len: usize) -> (J, Result<(), Failure>);
    /// Nanoseconds of real time.
    fn now_ns(&self) -> u64;
    /// What it cost so far.
    fn usage(&self) -> Usage;
}

/// What a pipeline does.
pub(crate) trait Job {
    /// Prepares the buffer of `slot` and names the next request; `None` when there is nothing left to start.
    fn next(&mut self, disk: &mut dyn Disk, slot: usize) -> Option<Request>;
    /// Takes a completed request.
    fn done(&mut self, disk: &mut dyn Disk, slot: usize, request: Request) -> Result<(), Failure>;
    /// When it no longer waits for what is under way; `None`: never.
    fn give_up_ns(&self) -> Option<u64> {
        None
    }
}

/// Keeps a number of requests of a job under way until it has no more and all have completed. After the first
/// failure nothing new is started, what is under way is waited for, and the failure is the outcome. Past
/// [`Job::give_up_ns`] it is abandoned.
pub(crate) struct Pipeline<J> {
    job: J,
    under_way: Vec<Option<Request>>,
    free: Vec<usize>,
    reaped: Vec<Done>,
    outcome: Result<(), Failure>,
    exhausted: bool,
    /// A prepared request that found no room, and its slot.
    refused: Option<(usize, Request)>,
    /// Requests under way.
    busy: usize,
    /// What is under way is not waited for any more.
    abandoned: bool,
}

impl<J: Job> Pipeline<J> {
    pub(crate) fn new(job: J, depth: usize) -> Self {
        Self {
            job,
            under_way: vec![None; depth],
            free: (0..depth).rev().collect(),
            reaped: Vec::with_capacity(depth),
            outcome: Ok(()),
            exhausted: false,
            refused: None,
            busy: 0,
            abandoned: false,
        }
    }

    /// Does what can be done now and returns how many requests were started or taken.
    pub(crate) fn step(&mut self, disk: &mut dyn Disk) -> u32 {
        let mut work = 0;
        disk.reap(&mut self.reaped);
        for Done { slot, result } in self.reaped.drain(..) {
            let request =
                self.under_way[slot].take().expect("a slot completes only while its request is under way");
            self.free.push(slot);
            self.busy -= 1;
            work += 1;
            if self.outcome.is_ok() {
                self.outcome = result.and_then(|()| self.job.done(disk, slot, request));
            }
        }
        while self.outcome.is_ok()
            && let Some((slot, request)) = self.refused.take().or_else(|| self.prepare(disk))
        {
            match disk.submit(slot, request) {
                Ok(Accepted::Yes) => {
                    self.under_way[slot] = Some(request);
                    self.busy += 1;
                    work += 1;
                }
                Ok(Accepted::NotNow) => {
                    self.refused = Some((slot, request));
                    break;
                }
                Err(e) => self.outcome = Err(e),
            }
        }
        if (self.busy > 0 || self.refused.is_some())
            && self.job.give_up_ns().is_some_and(|at| disk.now_ns() >= at)
        {
            self.abandoned = true;
            if self.outcome.is_ok() {
                let open = self.busy + usize::from(self.refused.is_some());
                let text =
                    format!("{open} requests were not answered in time: check the target and the network");
                self.outcome = Err(Failure::new(ExitCode::Transport, text));
            }
        }
        work
    }

    /// The next request of the job, in a slot that is free.
    fn prepare(&mut self, disk: &mut dyn Disk) -> Option<(usize, Request)> {
        if self.exhausted {
            return None;
        }
        let slot = self.free.pop()?;
        let request = self.job.next(disk, slot);
        if request.is_none() {
            self.exhausted = true;
            self.free.push(slot);
        }
        Some((slot, request?))
    }

    /// Whether a request waits for room.
    pub(crate) fn refused(&self) -> bool {
        self.refused.is_some()
    }

    /// When it wants to be stepped even if nothing completes, in nanoseconds of real time.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.job.give_up_ns()
    }

    /// Whether nothing is waited for and nothing more will be started.
    pub(crate) fn finished(&self) -> bool {
        self.abandoned
            || self.busy == 0 && (self.outcome.is_err() || self.exhausted && self.refused.is_none())
    }

    /// The job, and how it ended.
    pub(crate) fn into_outcome(self) -> (J, Result<(), Failure>) {
        (self.job, self.outcome)
    }
}

#[cfg(test)]
pub(crate) mod memory {
    //! A disk in memory with the defects that a workload must find.

    use super::*;

    /// What the disk does wrong on purpose.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Defect {
        None,
        /// Writes of this block go to the next.
        Misplace(u64),
        /// Writes of this block are lost.
        Lose(u64),
        /// The second half of this block is never written.
        Tear(u64),
        /// Requests that touch this block fail.
        Fail(u64),
    }

    pub(crate) struct MemoryDisk {
        pub(crate) data: Vec<u8>,
        pub(crate) defect: Defect,
        pub(crate) deepest: usize,
        /// Requests that it takes at a time.
        pub(crate) room: usize,
        /// From this time of its clock on it answers nothing, and time passes.
        pub(crate) silent_after: Option<u64>,
        buffers: Vec<Vec<u8>>,
        queue: Vec<(usize, Request)>,
        clock_ns: u64,
    }

    pub(crate) const BLOCK: usize = 512;

    impl MemoryDisk {
        pub(crate) fn new(blocks: usize, defect: Defect) -> Self {
            Self {
                data: vec![0; blocks * BLOCK],
                defect,
                deepest: 0,
                room: usize::MAX,
                silent_after: None,
                buffers: Vec::new(),
                queue: Vec::new(),
                clock_ns: 0,
            }
        }

        fn execute(&mut self, slot: usize, r: Request) -> Result<(), Failure> {
            for i in 0..r.len / BLOCK {
                let block = r.offset / BLOCK as u64 + i as u64;
                let (b, mut at) = (i * BLOCK, block as usize * BLOCK);
                let mut len = BLOCK;
                if r.direction == Direction::Read {
                    self.buffers[slot][b..b + BLOCK].copy_from_slice(&self.data[at..at + BLOCK]);
                    continue;
                }
                match self.defect {
                    Defect::Misplace(n) if n == block => at += BLOCK,
                    Defect::Lose(n) if n == block => len = 0,
                    Defect::Tear(n) if n == block => len = BLOCK / 2,
                    Defect::Fail(n) if n == block => return Err(Failure::other("medium error")),
                    _ => {}
                }
                self.data[at..at + len].copy_from_slice(&self.buffers[slot][b..b + len]);
            }
            Ok(())
        }
    }

    impl Disk for MemoryDisk {
        fn block_size(&self) -> u32 {
            BLOCK as u32
        }
        fn store(&mut self, slot: usize, data: &[u8]) {
            self.buffers[slot][..data.len()].copy_from_slice(data);
        }
        fn load(&self, slot: usize, data: &mut [u8]) {
            data.copy_from_slice(&self.buffers[slot][..data.len()]);
        }
        fn submit(&mut self, slot: usize, request: Request) -> Result<Accepted, Failure> {
            assert!(request.offset as usize + request.len <= self.data.len(), "out of range");
            if self.queue.len() >= self.room {
                return Ok(Accepted::NotNow);
            }
            self.queue.push((slot, request));
            self.deepest = self.deepest.max(self.queue.len());
            Ok(Accepted::Yes)
        }
        fn reap(&mut self, done: &mut Vec<Done>) {
            // One at a time, newest first: completions come in any order.
            if self.silent_after.is_some_and(|at| self.clock_ns >= at) {
                self.clock_ns += 10_000_000;
            } else if let Some((slot, request)) = self.queue.pop() {
                self.clock_ns += 10_000;
                let result = self.execute(slot, request);
                done.push(Done { slot, result });
            }
        }
        fn now_ns(&self) -> u64 {
            self.clock_ns
        }
    }

    impl Unit for MemoryDisk {
        fn block_size(&self) -> u32 {
            BLOCK as u32
        }
        fn blocks(&self) -> u64 {
            (self.data.len() / BLOCK) as u64
        }
        fn run<J: Job + 'static>(&mut self, job: J, depth: usize, len: usize) -> (J, Result<(), Failure>) {
            self.buffers = vec![vec![0; len]; depth];
            let mut pipeline = Pipeline::new(job, depth);
            while !pipeline.finished() {
                assert!(
                    pipeline.step(self) > 0 || self.silent_after.is_some(),
                    "a memory disk never waits unless it is told to"
                );
            }
            assert!(self.queue.is_empty() || self.silent_after.is_some(), "everything was waited for");
            pipeline.into_outcome()
        }
        fn now_ns(&self) -> u64 {
            self.clock_ns
        }
        fn usage(&self) -> Usage {
            let t = self.clock_ns;
            // Half of the real time of a step was CPU time of this process.
            let (host_ns, chip_ns, polls_ns) = (t / 5, 2 * t / 5, 6 * t / 5);
            Usage { host_ns, chip_ns, polls_ns, parks_ns: t / 10, process_ns: t, system_calls: t / 20_000 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::memory::{Defect, MemoryDisk};
    use super::*;

    struct Writes {
        left: u64,
        done: u64,
    }

    impl Job for Writes {
        fn next(&mut self, disk: &mut dyn Disk, slot: usize) -> Option<Request> {
            self.left = self.left.checked_sub(1)?;
            disk.store(slot, &[1 + self.left as u8; 512]);
            Some(Request { direction: Direction::Write, offset: self.left * 512, len: 512 })
        }
        fn done(&mut self, _: &mut dyn Disk, _: usize, _: Request) -> Result<(), Failure> {
            self.done += 1;
            Ok(())
        }
    }

    #[test]
    fn the_pipeline_is_kept_full_and_drained() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        let (job, outcome) = disk.run(Writes { left: 100, done: 0 }, 8, 512);
        outcome.unwrap();
        assert_eq!((job.left, job.done, disk.deepest), (0, 100, 8));
    }

    #[test]
    fn a_request_that_finds_no_room_is_tried_again_and_none_is_skipped() {
        let mut disk = MemoryDisk::new(100, Defect::None);
        disk.room = 3;
        let (job, outcome) = disk.run(Writes { left: 100, done: 0 }, 8, 512);
        outcome.unwrap();
        assert_eq!((job.done, disk.deepest), (100, 3));
        assert!(disk.data.chunks(512).all(|b| b[0] != 0), "every block was written");
    }

    #[test]
    fn after_a_failure_nothing_new_starts_and_everything_is_drained() {
        let mut disk = MemoryDisk::new(100, Defect::Fail(92));
        let (job, outcome) = disk.run(Writes { left: 100, done: 0 }, 8, 512);
        assert_eq!(outcome.unwrap_err().to_string(), "medium error");
        assert_eq!((job.left, job.done), (92, 0));
    }
}
