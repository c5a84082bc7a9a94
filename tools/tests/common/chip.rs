//! A running `cnic chip`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::cnic;

const LIMIT: Duration = Duration::from_secs(10);

/// `cnic chip` at a path. Killed when dropped.
pub(crate) struct Chip(Child);

impl Chip {
    /// Starts it and waits until it is ready. Targets of tests are on loopback.
    pub(crate) fn start(path: &Path, args: &[&str]) -> Self {
        Self::spawn(path, &[&["--nat-local"], args].concat(), Stdio::null())
    }

    /// The same without further options, with a standard error.
    pub(crate) fn spawn(path: &Path, args: &[&str], err: Stdio) -> Self {
        let mut command = cnic();
        command.args(["chip", "--model", "bcm5709", "--socket"]).arg(path).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(err).spawn().expect("cnic starts");
        let mut line = String::new();
        let mut out = BufReader::with_capacity(1, child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("cnic chip prints a line");
        child.stdout = Some(out.into_inner());
        assert!(line.starts_with("listening on "), "not ready: {line}");
        Self(child)
    }

    /// Sends SIGTERM and waits; returns the status and what was still printed.
    pub(crate) fn stop(&mut self) -> (ExitStatus, String) {
        self.signal("-TERM");
        self.wait()
    }

    /// Sends a signal, such as `-USR1`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        let killed = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(killed.success());
    }

    /// Waits for the end; returns the status and what was still printed.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().expect("wait works") {
                break status;
            }
            assert!(start.elapsed() < LIMIT, "the chip does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        if let Some(out) = &mut self.0.stdout {
            out.read_to_string(&mut rest).expect("text");
        }
        (status, rest)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
