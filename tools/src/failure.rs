//! How a command fails: one line that says what to do, and an exit code that scripts for open-iscsi know.

use std::fmt;

use driver::error::ExitCode;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        // One line, whatever the cause said.
        let message = message.into().lines().collect::<Vec<_>>().join("; ");
        Self { code, message }
    }

    /// The command line makes no sense (`ISCSI_ERR_INVAL`).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::InvalidParameter, message)
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
