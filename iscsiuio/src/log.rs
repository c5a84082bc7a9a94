//! What the helper has to say, as lines by level; the caller drains them and decides where they go.

use std::collections::VecDeque;

/// Lines kept until somebody drains them; older ones are dropped and counted.
const LINES: usize = 256;

/// How important a line is; the numbers are those of `-d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something does not work.
    Error = 1,
    /// Something may not work.
    Warn = 2,
    /// What an administrator wants to know.
    Info = 3,
    /// What a developer wants to know.
    Debug = 4,
}

impl Level {
    /// The prefix of a line.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Error => "ERR  ",
            Self::Warn => "WARN ",
            Self::Info => "INFO ",
            Self::Debug => "DBG  ",
        }
    }
}

/// The lines.
#[derive(Debug)]
pub struct Log {
    limit: Level,
    lines: VecDeque<(Level, String)>,
    dropped: u64,
}

impl Log {
    /// Keeps lines up to `limit`.
    #[must_use]
    pub fn new(limit: Level) -> Self {
        Self { limit, lines: VecDeque::new(), dropped: 0 }
    }

    /// Adds the line that `make` returns, if its level is wanted.
    pub fn add(&mut self, level: Level, make: impl FnOnce() -> String) {
        if level > self.limit {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back((level, make()));
    }

    /// Takes the oldest line.
    pub fn pop(&mut self) -> Option<(Level, String)> {
        self.lines.pop_front()
    }

    /// Lines that nobody drained in time, since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}
