//! What leaves a command.
//!
//! A command that ends by itself writes its report as long as somebody reads it, and fails when it cannot be
//! written. A command that runs until it is told to stop must outlive whoever reads: its lines go through
//! [`os::log`], which waits for nobody and drops what does not fit.

use std::io::{self, Write};
use std::time::Duration;

use driver::error::ExitCode;
use os::log::To;
use serde::Serialize;

use crate::failure::Failure;

/// How long the end of a long-running command waits for a reader.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The result of a command, with `text` in words; with `json` as one object on the last line.
pub(crate) fn report<R: Serialize>(
    json: bool,
    report: &R,
    text: impl FnOnce(&R) -> String,
) -> Result<(), Failure> {
    write(&rendered(json, report, text)?)
}

/// Text on standard output, as it is.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_else(|e| match e.kind() {
        // The reader has seen enough, as with `| head`.
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::new(ExitCode::Internal, format!("the result cannot be written: {e}"))),
    })
}

/// A line on standard error. That it cannot be written is no reason to fail.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line of a long-running command about itself.
pub(crate) fn announce(line: String) {
    os::log::say(To::Out, line + "\n");
}

/// A line of a long-running command that others cause: there may be too many of them.
pub(crate) fn log(line: &str) {
    os::log::log(To::Err, line);
}

/// The last report of a long-running command.
pub(crate) fn last<R: Serialize>(
    json: bool,
    report: &R,
    text: impl FnOnce(&R) -> String,
) -> Result<(), Failure> {
    os::log::say(To::Out, rendered(json, report, text)?);
    os::log::flush(LAST_WORDS);
    Ok(())
}

fn rendered<R: Serialize>(
    json: bool,
    report: &R,
    text: impl FnOnce(&R) -> String,
) -> Result<String, Failure> {
    let mut line = if json {
        serde_json::to_string(report).map_err(|e| {
            Failure::new(ExitCode::Internal, format!("the report cannot be printed as JSON: {e}"))
        })?
    } else {
        text(report)
    };
    if !line.ends_with('\n') {
        line.push('\n');
    }
    Ok(line)
}
