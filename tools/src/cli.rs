//! The command line: what clap parses. Secrets and URLs stay text here, so that no error of clap's can repeat
//! them.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use driver::error::ExitCode;
use hw_model::config::Mac;
use hw_model::fault::FaultPoint;

use crate::perf::Pattern;
use crate::plug::{Plug, Stack};
use crate::size;

/// A software model of a NetXtreme II converged NIC with iSCSI offload, its driver, and a target to try them
/// on.
#[derive(Debug, Parser)]
#[command(name = "cnic", version, max_term_width = 110, after_help = exit_codes())]
pub(crate) struct Cli {
    /// Print one JSON object on the last line of standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn exit_codes() -> String {
    let of_iscsiadm =
        ExitCode::ALL.into_iter().filter(|code| !matches!(code, ExitCode::Success | ExitCode::Other));
    let list: Vec<String> =
        of_iscsiadm.map(|code| format!("{} {}", code.code(), code.text().trim_end_matches('.'))).collect();
    format!(
        "Exit codes are those of iscsiadm: 0 success, 1 wrong data or another error, {}.",
        list.join(", ")
    )
}

const URL_HELP: &str =
    "iscsi://[user[%secret]@]host[:port]/iqn/lun; a secret can come from LIBISCSI_CHAP_PASSWORD";

const URL_OPTIONS: &str = "Options of the URL, after `?` and joined by `&` (quote the URL for your shell): \
header_digest=crc32c, data_digest=crc32c, and for mutual CHAP target_user=NAME, target_password=SECRET. What the URL does \
not say comes from LIBISCSI_CHAP_USERNAME, LIBISCSI_CHAP_PASSWORD, LIBISCSI_CHAP_TARGET_USERNAME and \
LIBISCSI_CHAP_TARGET_PASSWORD, where no other user can see it.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The main job: sessions, verified I/O, device resets under load.
    Demo(Demo),
    /// Serve disks over iSCSI until SIGTERM or Ctrl-C.
    Target(Target),
    /// List the targets of a portal (SendTargets) through the modelled card: one line `ADDR:PORT,TAG NAME`
    /// for each portal.
    #[command(after_help = URL_OPTIONS)]
    Discover(Discover),
    /// Log in through the modelled card and describe the logical unit.
    #[command(after_help = URL_OPTIONS)]
    Info(Info),
    /// Read, write or verify a range through the modelled card.
    #[command(after_help = URL_OPTIONS)]
    Io(Io),
    /// Measure throughput, latency and cost per I/O through the modelled card.
    #[command(after_help = URL_OPTIONS)]
    Perf(Perf),
    /// Put the modelled card behind a vfio-user socket, for QEMU or a driver of yours, until SIGTERM or
    /// Ctrl-C.
    Chip(Chip),
    /// List the registers of the modelled card.
    Regs,
}

/// Cards that are modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Model {
    /// NetXtreme II, gigabit, PCI id 14e4:1639.
    Bcm5709,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Link {
    /// A gigabit partner.
    #[value(name = "1g")]
    Gigabit,
    /// No carrier.
    Down,
}

#[derive(Debug, Args)]
pub(crate) struct Chip {
    /// Which card.
    #[arg(long, default_value = "bcm5709")]
    pub(crate) model: Model,
    /// Where to listen. The socket of a dead process is taken over.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// MAC of the Ethernet function.
    #[arg(long, value_name = "MAC", default_value = "00:10:18:aa:bb:cc", value_parser = mac)]
    pub(crate) mac: Mac,
    /// MAC of the iSCSI function.
    #[arg(long, value_name = "MAC", default_value = "00:10:18:aa:bb:cd", value_parser = mac)]
    pub(crate) iscsi_mac: Mac,
    /// Connections that the licence allows; 0: the chip does not do iSCSI.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(0..=128))]
    pub(crate) connections: u16,
    /// What the port is connected to.
    #[arg(long, default_value = "1g")]
    pub(crate) link: Link,
    /// How long the PHY takes to bring up a link, in milliseconds: after the cable is plugged in, after a
    /// restart of autonegotiation, and after another forced speed.
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub(crate) autoneg_ms: u32,
    #[command(flatten)]
    pub(crate) plug: Plug,
    /// Let offloaded connections reach this machine without a rule of `--nat`: its own addresses, loopback,
    /// and link-local ones such as a cloud's metadata service.
    #[arg(long)]
    pub(crate) nat_local: bool,
    /// Whether the function has MSI-X; without it the stock driver takes MSI.
    #[arg(long, default_value = "on")]
    pub(crate) msix: Switch,
    /// End when the first client has gone.
    #[arg(long)]
    pub(crate) once: bool,
    /// List at the end which registers outside of the table were used.
    #[arg(long)]
    pub(crate) unmodelled: bool,
    /// Draw everything that happens on a time line in FILE, for ui.perfetto.dev: accesses, doorbells, queue
    /// entries, DMA, interrupts, resets.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// The address of one station, as people write it.
fn mac(text: &str) -> Result<Mac, String> {
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .filter(|b| b.len() == 2 && b.chars().all(|c| c.is_ascii_hexdigit()))
        .map_while(|b| u8::from_str_radix(b, 16).ok())
        .collect();
    match <Mac>::try_from(bytes) {
        Ok(mac) if text.len() == 17 && mac[0] & 1 == 0 && mac != [0; 6] => Ok(mac),
        _ => Err("write the address of one station, such as 00:10:18:aa:bb:cc".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Offloaded sessions.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub(crate) sessions: u16,
    /// Device resets (MTU changes) under load.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) resets: u32,
    /// Run in virtual time with this seed: the same seed gives the same run, event by event.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Give the card a hardware defect and see which check catches it.
    #[arg(long, value_name = "NAME", value_parser = defects())]
    pub(crate) defect: Option<String>,
    /// Run the card in a process of its own.
    #[arg(long, conflicts_with_all = ["seed", "defect"])]
    pub(crate) split: bool,
    /// Use the card that listens there (`cnic chip --socket PATH`).
    #[arg(long, value_name = "PATH", conflicts_with_all = ["seed", "defect", "split"])]
    pub(crate) socket: Option<PathBuf>,
    /// Draw everything that happens on a time line in FILE, for ui.perfetto.dev. With `--split` or `--socket`
    /// that is the driver's side; `cnic chip --trace` has the card's.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

fn defects() -> clap::builder::PossibleValuesParser {
    FaultPoint::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().into()
}

/// An address, or a name that the resolver knows.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| "write an address and a port, such as 127.0.0.1:3260 or [::]:3260".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Where to listen; port 0 takes a free one and prints it. Given again, the target has another portal, a
    /// second path to the same disks.
    #[arg(long, value_name = "ADDR:PORT", required = true, value_parser = listen)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Name of the target.
    #[arg(long)]
    pub(crate) iqn: String,
    /// A disk: `ram:64M` (lost at the end) or `file:PATH` (a file or block device that exists). The first is
    /// LUN 0.
    #[arg(long = "lun", value_name = "ram:SIZE|file:PATH", required = true)]
    pub(crate) luns: Vec<String>,
    /// What an initiator must prove to know, for discovery as well. Others can see it for a moment;
    /// `--chap-file` never shows it.
    #[arg(long, value_name = "USER:SECRET")]
    pub(crate) chap: Option<String>,
    /// What the target proves to initiators that ask (mutual CHAP).
    #[arg(long, value_name = "USER:SECRET", requires = "chap")]
    pub(crate) mutual: Option<String>,
    /// File with `USER:SECRET` on line 1 and, for mutual CHAP, the target's on line 2. Only its owner may
    /// read or write it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chap", "mutual"])]
    pub(crate) chap_file: Option<PathBuf>,
    /// Refuse writes.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Bytes per logical block of every disk.
    #[arg(long, value_name = "512|4096", default_value_t = 512, value_parser = block_size)]
    pub(crate) block_size: u32,
    /// Say that the disks can be taken out.
    #[arg(long)]
    pub(crate) removable: bool,
}

fn block_size(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| [512, 4096].contains(n)).ok_or_else(|| "write 512 or 4096".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// `iscsi://[user[%secret]@]host[:port]`; a target behind it lists that one only
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) stack: Stack,
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    #[arg(help = URL_HELP)]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) stack: Stack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    /// Read, and check blocks that carry a stamp.
    Read,
    /// Write stamped blocks.
    Write,
    /// Write stamped blocks and read them back.
    Verify,
}

/// What part of the unit, how, and with what right.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// First byte.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    pub(crate) offset: u64,
    /// Bytes from there [default: to the end].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) size: Option<u64>,
    /// Requests under way at once.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) iodepth: usize,
    /// Overwrite data without asking.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Io {
    #[arg(help = URL_HELP)]
    pub(crate) url: String,
    pub(crate) operation: Operation,
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// Bytes per request, up to 1M.
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = size::parse)]
    pub(crate) bs: u64,
    #[command(flatten)]
    pub(crate) stack: Stack,
}

#[derive(Debug, Args)]
pub(crate) struct Perf {
    #[arg(help = URL_HELP)]
    pub(crate) url: String,
    /// Access pattern.
    #[arg(long, default_value = "randread")]
    pub(crate) rw: Pattern,
    /// Bytes per request, up to 1M.
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = size::parse)]
    pub(crate) bs: u64,
    /// How long to measure.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = size::parse_duration)]
    pub(crate) runtime: Duration,
    /// Poll instead of sleeping when idle: lowest latency, one core busy.
    #[arg(long)]
    pub(crate) spin: bool,
    #[command(flatten)]
    pub(crate) extent: Extent,
    #[command(flatten)]
    pub(crate) stack: Stack,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plug::Wire;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let Command::Demo(d) = Cli::parse_from(["cnic", "demo"]).command else { panic!() };
        assert_eq!((d.sessions, d.resets, d.defect), (8, 3, None));
        let cli = Cli::parse_from(["cnic", "demo", "--json", "--defect", "misplaced-data"]);
        assert!(cli.json);
        assert!(Cli::try_parse_from(["cnic", "demo", "--defect", "gremlins"]).is_err());
        assert!(Cli::try_parse_from(["cnic", "demo", "--sessions", "129"]).is_err());
        let Command::Perf(p) = Cli::parse_from(["cnic", "perf", "iscsi://h/iqn.x/0", "--bs", "64k"]).command
        else {
            panic!()
        };
        assert_eq!((p.bs, p.extent.iodepth, p.runtime), (65536, 32, Duration::from_secs(10)));
    }

    #[test]
    fn a_place_to_listen_is_an_address_or_a_name() {
        assert_eq!(listen("[::1]:860"), Ok("[::1]:860".parse().unwrap()));
        assert!(listen("localhost:3260").unwrap().ip().is_loopback());
        for wrong in ["nowhere", "127.0.0.1", "3260", "127.0.0.1:99999"] {
            assert!(listen(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn help_names_every_exit_code_and_the_options_of_a_url() {
        let mut help = Cli::command();
        let text = help.render_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        for code in ExitCode::ALL {
            assert!(text.contains(&format!(" {} ", code.code())), "{code:?}: {text}");
        }
        for command in ["discover", "info", "io", "perf"] {
            let text = help.find_subcommand_mut(command).unwrap().render_help().to_string();
            for option in ["header_digest", "data_digest", "target_user", "LIBISCSI_CHAP_TARGET_PASSWORD"] {
                assert!(text.contains(option), "{command}: {option}");
            }
        }
    }

    #[test]
    fn the_default_chip_is_the_default_of_the_model() {
        let Command::Chip(c) = Cli::parse_from(["cnic", "chip", "--socket", "s"]).command else { panic!() };
        let model = hw_model::config::ChipConfig::default();
        assert_eq!(
            (c.mac, c.iscsi_mac, c.connections),
            (model.mac, model.iscsi_mac, model.licensed_connections)
        );
        assert_eq!((c.model, c.link, c.msix), (Model::Bcm5709, Link::Gigabit, Switch::On));
    }

    #[test]
    fn wires_have_names_and_nat_rules_say_what_is_wrong() {
        let parse = |more: &[&str]| {
            let cli = Cli::try_parse_from(["cnic", "chip", "--socket", "s"].iter().chain(more));
            cli.map(|cli| match cli.command {
                Command::Chip(c) => (c.plug.wire, c.plug.nat.len()),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(parse(&[]).unwrap(), (Wire::Nat, 0));
        let two = ["--wire", "nat", "--nat", "10.0.0.2=127.0.0.1", "--nat", "[fd00::2]:3260=[::1]:3261"];
        assert_eq!(parse(&two).unwrap(), (Wire::Nat, 2));
        let tap = parse(&["--wire", "tap:cnic0"]).unwrap().0;
        assert_eq!(tap, Wire::Tap("cnic0".to_owned()));
        for (wrong, why) in [
            (["--wire", "carrier-pigeon"], "write nat"),
            (["--nat", "10.0.0.2"], "FROM=TO"),
            (["--nat", "10.0.0.2=localhost"], "`localhost`"),
        ] {
            let error = parse(&wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn a_mac_is_that_of_one_station() {
        assert_eq!(mac("00:10:18:AA:bb-cc"), Ok([0, 0x10, 0x18, 0xaa, 0xbb, 0xcc]));
        for wrong in [
            "",
            "00:10:18:aa:bb",
            "00:10:18:aa:bb:cc:dd",
            "01:10:18:aa:bb:cc",
            "00:00:00:00:00:00",
            "00:10:18:aa:bb:cg",
            "001018:aabbcc:12:3",
            "00:10:18:+a:bb:cc",
        ] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }
}
