//! Lines for people, written without anybody waiting for it.
//!
//! Standard output and standard error belong to whoever reads them: a pipe that nobody empties, a full disk,
//! a terminal that was stopped, a reader that has gone. A long-running process must neither end nor stop for
//! it. So the lines of each of the two go through a queue to a thread of its own, which may wait as long as
//! it likes: who does not read the log still gets the report. A line that finds the queue full, that comes
//! too fast ([`log`]), or that cannot be written is dropped and counted, and the count is said as soon as a
//! line gets through.
//!
//! Limits of each: [`QUEUE`] bytes wait; of [`log`], [`BURST`] lines at once and [`PER_SECOND`] lines a
//! second.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// Bytes that may wait to be written.
pub const QUEUE: usize = 1 << 20;
/// Log lines that are taken at once.
pub const BURST: u32 = 500;
/// Log lines a second that are taken in the long run.
pub const PER_SECOND: u32 = 100;

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

struct State {
    queue: VecDeque<String>,
    bytes: usize,
    /// A line is being written.
    busy: bool,
    /// Lines that were dropped and not yet said to be.
    dropped: u64,
    tokens: f64,
    refilled: Option<Instant>,
    /// Whether the thread could be started, once it was tried.
    runs: Option<bool>,
}

/// One of the two outputs.
struct Lane {
    to: To,
    state: Mutex<State>,
    changed: Condvar,
}

static OUT: Lane = Lane::new(To::Out);
static ERR: Lane = Lane::new(To::Err);

fn lane(to: To) -> &'static Lane {
    match to {
        To::Out => &OUT,
        To::Err => &ERR,
    }
}

/// Says something that was asked for, such as a report: text with its own line ends. Never waits, never
/// fails.
pub fn say(to: To, text: String) {
    let lane = lane(to);
    lane.enqueue(&mut lane.state(), text);
}

/// Logs a line, without its line end, that somebody else may be the cause of: it counts against the rate.
/// Never waits, never fails.
pub fn log(to: To, line: &str) {
    let lane = lane(to);
    let mut s = lane.state();
    let now = Instant::now();
    let since = s.refilled.replace(now).map_or(Duration::ZERO, |before| now - before);
    s.tokens = (s.tokens + since.as_secs_f64() * f64::from(PER_SECOND)).min(f64::from(BURST));
    if s.tokens < 1.0 {
        s.dropped += 1;
        return;
    }
    s.tokens -= 1.0;
    let mut text = String::with_capacity(line.len() + 1);
    if s.dropped > 0 {
        text = format!("({} lines were dropped)\n", std::mem::take(&mut s.dropped));
    }
    text.push_str(line);
    text.push('\n');
    lane.enqueue(&mut s, text);
}

/// Lines that were dropped and not yet said to be.
#[must_use]
pub fn dropped() -> u64 {
    OUT.state().dropped + ERR.state().dropped
}

/// Waits until everything is written, at most so long for each output. Says whether it is; the process may
/// end either way.
pub fn flush(limit: Duration) -> bool {
    let out = OUT.flush(limit);
    ERR.flush(limit) && out
}

impl Lane {
    const fn new(to: To) -> Self {
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            busy: false,
            dropped: 0,
            tokens: BURST as f64,
            refilled: None,
            runs: None,
        };
        Self { to, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&'static self, s: &mut State, text: String) {
        if s.bytes + text.len() > QUEUE || !*s.runs.get_or_insert_with(|| self.start()) {
            s.dropped += 1;
            return;
        }
        s.bytes += text.len();
        s.queue.push_back(text);
        self.changed.notify_all();
    }

    fn flush(&self, limit: Duration) -> bool {
        let done = self.changed.wait_timeout_while(self.state(), limit, |s| s.busy || !s.queue.is_empty());
        let (_state, timeout) = done.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// Starts the thread when it is first needed. It takes no signals: they are the main thread's.
    fn start(&'static self) -> bool {
        let mut before = SigSet::empty();
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before));
        let thread =
            std::thread::Builder::new().name("log".to_owned()).stack_size(128 << 10).spawn(|| self.write());
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        thread.is_ok()
    }

    fn write(&self) {
        let mut torn = false;
        loop {
            let text = {
                let mut s = self.state();
                s.busy = false;
                self.changed.notify_all();
                let idle = self.changed.wait_while(s, |s| s.queue.is_empty());
                let mut s = idle.unwrap_or_else(PoisonError::into_inner);
                s.busy = true;
                let Some(text) = s.queue.pop_front() else { continue };
                s.bytes -= text.len();
                text
            };
            let text = if std::mem::take(&mut torn) { format!("\n{text}") } else { text };
            let left = match self.to {
                To::Out => put(io::stdout().as_fd(), text.as_bytes()),
                To::Err => put(io::stderr().as_fd(), text.as_bytes()),
            };
            if left > 0 {
                torn = left < text.len();
                self.state().dropped += 1;
            }
        }
    }
}

/// Writes all of it, however long it takes, past the library's buffers, which would be written at the end of
/// the process. Returns how many bytes could not be written.
fn put(out: BorrowedFd<'_>, mut bytes: &[u8]) -> usize {
    while !bytes.is_empty() {
        match nix::unistd::write(out, bytes) {
            Ok(0) => break,
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            // Somebody who shares the terminal or the pipe has made it non-blocking.
            Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(10)),
            Err(_) => break,
        }
    }
    bytes.len()
}
