//! Progress on standard error for work that takes longer than a second.
//!
//! On a terminal one line is rewritten five times a second and wiped at the end; elsewhere a plain line
//! appears every ten seconds.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Nothing is shown before.
const QUIET: Duration = Duration::from_secs(1);
const REWRITE: Duration = Duration::from_millis(200);
const PLAIN: Duration = Duration::from_secs(10);

/// A line that stays, whatever progress is being rewritten.
pub(crate) fn note(line: &str) {
    let mut out = std::io::stderr();
    let wipe = if out.is_terminal() { "\r\x1b[K" } else { "" };
    // As with progress: that it cannot be shown is no reason to fail.
    let _ = writeln!(out, "{wipe}cnic: {line}");
}

/// The progress of one piece of work.
pub(crate) struct Progress<W: Write = std::io::Stderr> {
    out: W,
    terminal: bool,
    label: &'static str,
    started: Instant,
    next: Instant,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(label: &'static str) -> Self {
        let out = std::io::stderr();
        Self::to(out.is_terminal(), out, label, Instant::now())
    }
}

impl<W: Write> Progress<W> {
    fn to(terminal: bool, out: W, label: &'static str, now: Instant) -> Self {
        let first = if terminal { QUIET } else { PLAIN };
        Self { out, terminal, label, started: now, next: now + first, shown: false }
    }

    /// `done` of `total` are done; `detail` is only asked for when it is shown.
    pub(crate) fn update(&mut self, done: u64, total: u64, detail: impl FnOnce() -> String) {
        self.update_at(Instant::now(), done, total, detail);
    }

    fn update_at(&mut self, now: Instant, done: u64, total: u64, detail: impl FnOnce() -> String) {
        if now < self.next {
            return;
        }
        self.next = now + if self.terminal { REWRITE } else { PLAIN };
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(100);
        let seconds = (now - self.started).as_secs();
        let line = format!("{}: {percent} %, {seconds} s, {}", self.label, detail());
        // Progress that cannot be shown is no reason to fail.
        let _ = if self.terminal {
            self.shown = true;
            write!(self.out, "\r{line}\x1b[K").and_then(|()| self.out.flush())
        } else {
            writeln!(self.out, "{line}")
        };
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(self.out, "\r\x1b[K").and_then(|()| self.out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(terminal: bool, at_ms: &[u64]) -> String {
        let (mut out, start) = (Vec::new(), Instant::now());
        let mut p = Progress::to(terminal, &mut out, "reading", start);
        for (done, ms) in at_ms.iter().enumerate() {
            p.update_at(start + Duration::from_millis(*ms), done as u64, 4, || "fast".to_owned());
        }
        drop(p);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn short_work_is_silent() {
        assert_eq!(output(true, &[0, 500, 999]), "");
        assert_eq!(output(false, &[0, 500, 9999]), "");
    }

    #[test]
    fn a_terminal_gets_one_line_that_is_wiped() {
        assert_eq!(
            output(true, &[0, 1000, 1100, 1200]),
            "\rreading: 25 %, 1 s, fast\x1b[K\rreading: 75 %, 1 s, fast\x1b[K\r\x1b[K"
        );
    }

    #[test]
    fn a_log_gets_a_plain_line_now_and_then() {
        assert_eq!(
            output(false, &[0, 5000, 10_000, 15_000, 20_000]),
            "reading: 50 %, 10 s, fast\nreading: 100 %, 20 s, fast\n"
        );
    }
}
