//! `cnic demo --split`: a card in a child process, for as long as the demo needs it.

use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bus::trace::Sink;
use driver::error::ExitCode;
use lab::demo::{DemoConfig, DemoReport};
use lab::world::WorldError;

use crate::failure::Failure;

/// How long the child may take to end once its client has gone.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A directory that nobody else can enter. Removed when dropped.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("cnic-demo-{}", std::process::id()));
        // It fails for a directory that somebody else has prepared.
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| {
            Failure::new(ExitCode::Internal, format!("cannot make {}: {e}; set TMPDIR", path.display()))
        })?;
        Ok(Self(path))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What cannot be removed stays in a directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `cnic chip --once` as a child. Killed when dropped.
struct Chip {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Chip {
    /// Starts it and waits until it listens.
    fn start(socket: &Path) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| {
            Failure::new(ExitCode::Internal, format!("cannot start the card's process: {e}"))
        };
        let this = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(this);
        // The demo's own target is on loopback.
        command.args(["--json", "chip", "--nat-local", "--once", "--socket"]).arg(socket);
        // What it has to say of its client is in our own report.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let Some(out) = child.stdout.take() else { unreachable!("it is piped") };
        let mut chip = Self { child, out: BufReader::new(out) };
        let mut line = String::new();
        chip.out.read_line(&mut line).map_err(failed)?;
        if line.starts_with("listening on ") {
            Ok(chip)
        } else {
            Err(failed(std::io::Error::other("it does not listen")))
        }
    }

    /// Waits for its end; what it still held then, and how many of its accesses to our memory were refused.
    fn end(mut self) -> Option<(u64, u64)> {
        let start = Instant::now();
        while !matches!(self.child.try_wait(), Ok(Some(_))) {
            if start.elapsed() >= END_LIMIT {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        self.out.read_to_string(&mut text).ok()?;
        let report: serde_json::Value = serde_json::from_str(text.lines().last()?).ok()?;
        Some((report["held"].as_u64()?, report["dma_refused"].as_u64()?))
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        // It has ended, or there is no use in asking.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the demo with the card in a child.
///
/// # Errors
/// The child cannot be started. What goes wrong later is in the result.
pub(crate) fn demo(
    config: &DemoConfig,
    trace: Option<Sink>,
    say: impl FnMut(&str),
) -> Result<Result<DemoReport, WorldError>, Failure> {
    let dir = PrivateDir::new()?;
    let socket = dir.0.join("chip");
    let chip = Chip::start(&socket)?;
    Ok(lab::demo::run_split(config, &socket, trace, say).map(|mut report| {
        match chip.end() {
            Some((held, refused)) => {
                report.leaked += held;
                report.refused_dma = refused;
                report.verified &= held == 0;
            }
            // A card that was killed has nothing to say.
            None => report.verified = false,
        }
        report
    }))
}
