//! The command line: what clap parses. Secrets and URLs stay text here, so that no error of clap's can repeat them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A software model of a NetXtreme II converged NIC with iSCSI offload, its driver, and a target to try them on.
#[derive(Debug, Parser)]
#[command(name = "cnic", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Print one JSON object on the last line of standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes are those of iscsiadm: 0 success, 1 wrong data or another error, 4 connection \
failure, 5 login failure, 7 invalid parameter, 8 connection timed out, 19 login refused for good, 24 \
authorization failure.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve disks over iSCSI until SIGTERM or Ctrl-C.
    Target(Target),
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Where to listen; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Name of the target.
    #[arg(long)]
    pub(crate) iqn: String,
    /// A disk: `ram:64M` (lost at the end) or `file:PATH` (a file or block device that exists). The first is LUN 0.
    #[arg(long = "lun", value_name = "ram:SIZE|file:PATH", required = true)]
    pub(crate) luns: Vec<String>,
    /// What an initiator must prove to know. Others can see it for a moment; `--chap-file` never shows it.
    #[arg(long, value_name = "USER:SECRET")]
    pub(crate) chap: Option<String>,
    /// What the target proves to initiators that ask (mutual CHAP).
    #[arg(long, value_name = "USER:SECRET", requires = "chap")]
    pub(crate) mutual: Option<String>,
    /// File with `USER:SECRET` on line 1 and, for mutual CHAP, the target's on line 2.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chap", "mutual"])]
    pub(crate) chap_file: Option<PathBuf>,
    /// Refuse writes.
    #[arg(long)]
    pub(crate) read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
