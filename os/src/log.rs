//! Lines for people, written without anybody waiting for it.
//!
//! Standard output and standard error belong to whoever reads them: a pipe that nobody empties, a full disk, a terminal that was
//! stopped, a reader that has gone. A long-running process must neither end nor stop for it. So its lines go through a queue to
//! a thread of its own, which may wait as long as it likes. A line that finds the queue full, that comes too fast
//! ([`log`]), or that cannot be written is dropped and counted, and the count is said as soon as a line gets through.
//!
//! Limits: [`QUEUE`] bytes wait; of [`log`], [`BURST`] lines at once and [`PER_SECOND`] lines a second.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
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
    queue: VecDeque<(To, String)>,
    bytes: usize,
    /// A line is being written.
    busy: bool,
    /// Lines that were dropped and not yet said to be.
    dropped: u64,
    tokens: f64,
    refilled: Option<Instant>,
}

static STATE: Mutex<State> = Mutex::new(State {
    queue: VecDeque::new(),
    bytes: 0,
    busy: false,
    dropped: 0,
    tokens: BURST as f64,
    refilled: None,
});
static CHANGED: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says something that was asked for, such as a report: text with its own line ends. Never waits, never fails.
pub fn say(to: To, text: String) {
    enqueue(&mut state(), to, text);
}

/// Logs a line, without its line end, that somebody else may be the cause of: it counts against the rate. Never waits, never
/// fails.
pub fn log(to: To, line: &str) {
    let mut s = state();
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
    enqueue(&mut s, to, text);
}

/// Lines that were dropped and not yet said to be.
#[must_use]
pub fn dropped() -> u64 {
    state().dropped
}

fn enqueue(s: &mut State, to: To, text: String) {
    if s.bytes + text.len() > QUEUE || !start() {
        s.dropped += 1;
        return;
    }
    s.bytes += text.len();
    s.queue.push_back((to, text));
    CHANGED.notify_all();
}

/// Waits until everything is written, at most so long. Says whether it is; the process may end either way.
pub fn flush(limit: Duration) -> bool {
    let s = state();
    let done = CHANGED.wait_timeout_while(s, limit, |s| s.busy || !s.queue.is_empty());
    let (_state, timeout) = done.unwrap_or_else(PoisonError::into_inner);
    !timeout.timed_out()
}

/// Starts the thread when it is first needed. It takes no signals: they are the main thread's.
fn start() -> bool {
    static RUNS: OnceLock<bool> = OnceLock::new();
    *RUNS.get_or_init(|| {
        let mut before = SigSet::empty();
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before));
        let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(128 << 10).spawn(write);
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        thread.is_ok()
    })
}

fn write() {
    let mut torn = [false; 2];
    loop {
        let (to, text) = {
            let mut s = state();
            s.busy = false;
            CHANGED.notify_all();
            let mut s = CHANGED.wait_while(s, |s| s.queue.is_empty()).unwrap_or_else(PoisonError::into_inner);
            s.busy = true;
            let Some((to, text)) = s.queue.pop_front() else { continue };
            s.bytes -= text.len();
            (to, text)
        };
        let torn = &mut torn[to as usize];
        let text = if std::mem::take(torn) { format!("\n{text}") } else { text };
        let left = match to {
            To::Out => put(io::stdout().as_fd(), text.as_bytes()),
            To::Err => put(io::stderr().as_fd(), text.as_bytes()),
        };
        if left > 0 {
            *torn = left < text.len();
            state().dropped += 1;
        }
    }
}

/// Writes all of it, however long it takes, past the library's buffers, which would be written at the end of the process. Returns how
/// many bytes could not be written.
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
