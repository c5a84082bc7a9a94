//! Real time, CPU time and memory use of this process: what a real-time runner and a benchmark measure with.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of monotonic time since the first call in this process.
#[must_use]
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of all threads of this process, user and system.
#[must_use]
pub fn process_cpu() -> Duration {
    cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling thread, user and system.
#[must_use]
pub fn thread_cpu() -> Duration {
    cpu(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn cpu(id: ClockId) -> Duration {
    Duration::from(clock_gettime(id).expect("every Linux has the CPU-time clocks"))
}

/// Resident memory of this process in bytes, or `None` where `/proc` is not mounted.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance_and_never_go_back() {
        let (t, p, c) = (now_ns(), process_cpu(), thread_cpu());
        let mut x = 1u64;
        while thread_cpu() < c + Duration::from_millis(2) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(now_ns() > t);
        assert!(process_cpu() >= p + Duration::from_millis(2));
    }

    #[test]
    fn resident_memory_grows_with_touched_pages_only() {
        const SIZE: usize = 64 << 20;
        let before = resident_bytes().unwrap();
        let mut v = vec![0u8; SIZE];
        let untouched = resident_bytes().unwrap();
        v.iter_mut().step_by(4096).for_each(|b| *b = 1);
        let touched = resident_bytes().unwrap();
        assert!(std::hint::black_box(&v).len() == SIZE);
        assert!(untouched < before + SIZE as u64 / 2, "{before} {untouched}");
        assert!(touched > before + SIZE as u64 / 2, "{before} {touched}");
    }
}
