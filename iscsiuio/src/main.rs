//! `iscsiuio`: the helper in a process of its own, until SIGTERM or Ctrl-C.
//!
//! One thread, one epoll set: the driver's export socket, the ring's interrupts, iscsid's connections,
//! signals. It stays in the foreground, as systemd wants it.

mod ipc_server;
mod service;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use iscsiuio::IfaceConfig;
use iscsiuio::ipc::SOCKET;
use iscsiuio::log::Level;
use os::log::To;

/// Address resolution and acquisition for offloaded iSCSI.
#[derive(Debug, Parser)]
#[command(name = "iscsiuio", version, disable_version_flag = true)]
struct Options {
    /// Stay in the foreground; it always does, and the option is there for the sake of old unit files.
    #[arg(short, long)]
    foreground: bool,
    /// How much to say: 1 errors, 2 warnings, 3 information, 4 debugging.
    #[arg(short, long, value_name = "LEVEL", default_value_t = 3)]
    debug: u8,
    /// Write the process number to this file.
    #[arg(short, long, value_name = "FILE")]
    pid: Option<PathBuf>,
    /// Print the version.
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
    /// The socket at which the driver exports its ring.
    #[arg(long, value_name = "SOCKET")]
    driver: PathBuf,
    /// An interface: dhcp, dhcp6, auto6 or ip=ADDRESS/PREFIX, then gw=ADDRESS, vlan=ID, pcp=PRIORITY,
    /// mtu=BYTES, name=TEXT, with commas between. One of each family and VLAN, up to eight; without it iscsid
    /// names the interfaces.
    #[arg(long = "iface", value_name = "DESCRIPTION")]
    ifaces: Vec<IfaceConfig>,
    /// Give up the rights of root and run as this user, whom the driver's socket must let in.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The abstract socket at which iscsid asks.
    #[arg(long, value_name = "NAME", default_value = SOCKET)]
    ipc: String,
}

/// Writes a line to the log: errors to stderr, the rest to stdout. A log that nobody reads, or that cannot be
/// written, is no reason to stop.
fn say(level: Level, text: &dyn Display) {
    let to = if level == Level::Error { To::Err } else { To::Out };
    os::log::log(to, &format!("{}{text}", level.prefix()));
}

fn main() -> ExitCode {
    let code = outcome();
    os::log::flush(Duration::from_secs(1));
    code
}

fn outcome() -> ExitCode {
    let options = Options::parse();
    let level = match options.debug {
        0 | 1 => Level::Error,
        2 => Level::Warn,
        3 => Level::Info,
        _ => Level::Debug,
    };
    if let Err(e) = iscsiuio::iface::together(&options.ifaces) {
        say(Level::Error, &format!("--iface: {e}"));
        return ExitCode::from(2);
    }
    let _ = options.foreground;
    if let Some(path) = &options.pid
        && let Err(e) = std::fs::write(path, format!("{}\n", std::process::id()))
    {
        say(Level::Error, &format!("cannot write {}: {e}; choose another file with --pid", path.display()));
        return ExitCode::FAILURE;
    }
    // No socket of ours needs rights, and no program that we start may have more of them.
    let renounced =
        options.user.as_deref().map_or_else(os::privileges::renounce, os::privileges::become_user);
    if let Err(e) = renounced {
        say(Level::Error, &format!("--user: {e}"));
        return ExitCode::FAILURE;
    }
    let outcome = service::run(&options.driver, options.ifaces, &options.ipc, level);
    if let Some(path) = &options.pid {
        let _ = std::fs::remove_file(path);
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(Level::Error, &e);
            ExitCode::FAILURE
        }
    }
}
