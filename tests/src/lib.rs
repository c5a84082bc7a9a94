//! What tests with real peers share: finding the peer, starting it on its own port, stopping it.
#![allow(clippy::disallowed_methods, reason = "real peers live in real time; nothing asserts on the clock")]

pub mod anywhere;
pub mod fuzzing;
pub mod lio;
pub mod rig;
pub mod tgtd;

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Finds a program in `PATH` or in the places where Debian puts daemons. A missing peer is a failure under
/// `CI=true`; elsewhere the test says that it is skipped, and `None` comes back.
///
/// # Panics
/// Under `CI=true`, when the program is missing.
#[must_use]
pub fn peer(program: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|p| p.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing: apt-get install {package}");
        // Past libtest's capture, which hides what a passing test prints.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {program} is missing (apt-get install {package})");
    }
    found
}

/// Whether the test runs as root. If not, it says that it is skipped for want of `what`, and under `CI=true`
/// it fails.
///
/// # Panics
/// Under `CI=true`, when it does not.
#[must_use]
pub fn is_root(what: &str) -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    if !root {
        assert!(std::env::var_os("CI").is_none(), "{what}: needs root");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what} need root");
    }
    root
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
///
/// # Panics
/// When the machine has no loopback.
#[must_use]
pub fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback works");
    socket.local_addr().expect("a bound socket has an address").port()
}
