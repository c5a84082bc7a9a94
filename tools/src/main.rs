//! `cnic`: what people type.
//!
//! Each command is a thin shell: it parses, asks for a world from `lab`, shows progress on standard error and
//! prints a summary, or with `--json` one object, on standard output. A failure is one line on standard error
//! that says what to do, and an exit code of `iscsiadm`. Secrets are taken off the process title before
//! anything else happens, and no text that leaves here repeats one.

#![allow(clippy::disallowed_methods, reason = "progress is shown by the wall clock")]

mod chip;
mod cli;
mod commands;
mod confirm;
mod disk;
mod failure;
mod io;
mod lun;
mod perf;
mod plug;
mod progress;
mod regs;
mod remote;
mod say;
mod secret;
mod size;
mod split;
mod target;
mod trace;
mod url;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let shown = secret::shown(&args);
    if shown != args
        && let Err(e) = os::args::show(&shown)
    {
        say::complain(&format!(
            "cnic: warning: the secret stays visible in the process list ({e}); use a file or the environment"
        ));
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return misuse(&e, &args),
    };
    let json = cli.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say::complain(&format!("cnic: {e}"));
            if json && !e.is_reported() {
                // Its failure has the exit code already.
                let _ = say::write(&format!(
                    "{}\n",
                    serde_json::json!({ "error": e.to_string(), "exit": e.code() })
                ));
            }
            ExitCode::from(e.code())
        }
    }
}

/// Help and version are no failure; anything else is open-iscsi's exit code 7 and one line.
fn misuse(e: &clap::Error, args: &[OsString]) -> ExitCode {
    let text = secret::scrub(&e.render().to_string(), args);
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            say::write(&text).map_or_else(|e| ExitCode::from(e.code()), |()| ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            say::complain(text.trim_end());
            ExitCode::from(Failure::usage("").code())
        }
        _ => {
            let line =
                text.lines().take_while(|l| !l.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
            let line = line.strip_prefix("error: ").unwrap_or(&line);
            say::complain(&format!("cnic: {line}; try `cnic --help` for more information"));
            ExitCode::from(Failure::usage("").code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Demo(options) => commands::demo(&options, cli.json),
        Command::Target(options) => target::run(&options, cli.json),
        Command::Discover(options) => commands::discover(&options, cli.json),
        Command::Info(options) => commands::info(&options, cli.json),
        Command::Io(options) => commands::io(&options, cli.json),
        Command::Perf(options) => commands::perf(&options, cli.json),
        Command::Chip(options) => chip::run(&options, cli.json),
        Command::Regs => regs::run(cli.json),
    }
}
