//! How a command fails: one line that says what to do, and an exit code that scripts for open-iscsi know.

use std::fmt;

use driver::error::ExitCode;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    message: String,
    reported: bool,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        // One line, whatever the cause said.
        let message = message.into().lines().collect::<Vec<_>>().join("; ");
        Self { code, message, reported: false }
    }

    /// The command line makes no sense (`ISCSI_ERR_INVAL`).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::InvalidParameter, message)
    }

    /// Anything without a better code, wrong data above all.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Other, message)
    }

    /// What a report that was printed already says.
    pub(crate) fn reported(message: impl Into<String>) -> Self {
        Self { reported: true, ..Self::other(message) }
    }

    /// This failure in other words.
    pub(crate) fn saying(self, message: String) -> Self {
        Self { message, ..self }
    }

    /// This failure, when a report that was printed says it.
    pub(crate) fn already_reported(self) -> Self {
        Self { reported: true, ..self }
    }

    /// Whether machines have been told.
    pub(crate) fn is_reported(&self) -> bool {
        self.reported
    }

    /// For the shell.
    pub(crate) fn code(&self) -> u8 {
        self.code.code()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
