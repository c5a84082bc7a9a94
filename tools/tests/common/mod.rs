//! A running `cnic target` for tests.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

pub(crate) mod chip;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const IQN: &str = "iqn.2026-01.org.example:disk";
const LIMIT: Duration = Duration::from_secs(10);

/// The binary under test.
pub(crate) fn cnic() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_cnic"));
    // Secrets of whoever runs the tests stay out of them.
    for name in ["USERNAME", "PASSWORD", "TARGET_USERNAME", "TARGET_PASSWORD"] {
        c.env_remove(format!("LIBISCSI_CHAP_{name}"));
    }
    c.stdin(Stdio::null());
    c
}

/// Runs to the end and returns the exit code, standard output and standard error.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    let out = cnic().args(args).output().expect("cnic runs");
    text_of(&out)
}

pub(crate) fn text_of(out: &Output) -> (i32, String, String) {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

/// `cnic target` on a free port of loopback. Killed when dropped.
pub(crate) struct Target {
    pub(crate) child: Child,
    /// `ADDR:PORT`
    pub(crate) portal: String,
}

impl Target {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(cnic().args(["target", "--listen", "127.0.0.1:0", "--iqn", IQN]).args(args))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("cnic starts");
        let mut line = String::new();
        let mut out = BufReader::with_capacity(1, child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("cnic target prints a line");
        child.stdout = Some(out.into_inner());
        let portal = line.strip_prefix("listening on ").and_then(|l| l.split(',').next()).unwrap_or_default();
        assert!(portal.contains(':'), "not ready: {line}");
        Self { portal: portal.trim().to_owned(), child }
    }

    pub(crate) fn url(&self, login: &str, lun: u16) -> String {
        format!("iscsi://{login}{}/{IQN}/{lun}", self.portal)
    }

    /// Sends SIGTERM and waits; returns the status and what was still printed.
    pub(crate) fn stop(&mut self) -> (ExitStatus, String) {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(killed.success());
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait works") {
                break status;
            }
            assert!(start.elapsed() < LIMIT, "SIGTERM does not stop it");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        if let Some(out) = &mut self.child.stdout {
            out.read_to_string(&mut rest).expect("text");
        }
        (status, rest)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
