//! What the card is plugged into, and whose addresses it has: the options that `chip` and the commands with a
//! driver share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use driver::error::ExitCode;
use hw_model::tcp::nat::{Nat, NatRule};
use hw_model::wire::Recording;
use iscsiuio::IfaceConfig;
use lab::outside::Outside;
use lab::world::{HelperConfig, static_v4, static_v6};
use serde::Serialize;

use crate::failure::Failure;
use crate::trace::cannot_write;
use crate::{say, size};

/// Where viewers expect iSCSI.
const ISCSI_PORT: u16 = 3260;

/// What is at the other end of the cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Sockets of this machine carry the offloaded connections, and a responder is everyone on the Ethernet.
    Nat,
    /// A TAP device carries the card's own TCP, and all other frames.
    Tap(String),
}

/// A kind of wire, as `KIND` or `KIND:NAME`.
fn wire(text: &str) -> Result<Wire, String> {
    match text.split_once(':').unwrap_or((text, "")) {
        ("nat", "") => Ok(Wire::Nat),
        ("tap", name) if !name.is_empty() => Ok(Wire::Tap(name.to_owned())),
        _ => Err("write nat, or tap: and the name of a TAP device".to_owned()),
    }
}

/// The cable.
#[derive(Debug, Args)]
pub(crate) struct Plug {
    /// Network: `nat` (offloaded connections are sockets of this machine; all addresses answer ARP, ND and
    /// ping, one is a DHCP server) or `tap:NAME` (the card's own TCP in frames on that TAP device, which is
    /// made if it does not exist; needs CAP_NET_ADMIN).
    #[arg(long, value_name = "KIND", default_value = "nat", value_parser = wire)]
    pub(crate) wire: Wire,
    /// Where an address of the card's world is found here, such as 10.0.0.2=127.0.0.1 or
    /// 10.0.0.2:3260=127.0.0.1:3261 (`[fd00::2]:3260` for IPv6). May be repeated. An address without a rule
    /// means itself.
    #[arg(long = "nat", value_name = "ADDR[:PORT]=ADDR[:PORT]")]
    pub(crate) nat: Vec<NatRule>,
    /// Record what crosses the wire in FILE, for Wireshark: the frames of the Ethernet rings, and the
    /// segments of offloaded connections (with `nat`, those that they amount to).
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// Largest size of that file; the recording ends there, and the card goes on. The file is the user's
    /// alone: it holds proofs of secrets, and the data.
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = size::parse, requires = "pcap")]
    pub(crate) pcap_limit: u64,
}

impl Plug {
    /// The network, for a driver that somebody else brings: without a rule it does not get at this machine.
    pub(crate) fn guarded(&self) -> Result<Outside, Failure> {
        let told = |to: SocketAddr| {
            say::log(&format!(
                "a connection to {to} was refused: it leads to this machine; --nat {to}={to} or --nat-local allows it"
            ));
        };
        Ok(match self.outside()? {
            Outside::Nat(nat) => Outside::Nat(nat.guard(told)),
            tap @ Outside::Tap(_) => tap,
        })
    }

    /// The network.
    pub(crate) fn outside(&self) -> Result<Outside, Failure> {
        match &self.wire {
            Wire::Nat => Nat::new(&self.nat)
                .map(Outside::Nat)
                .map_err(|e| Failure::new(ExitCode::InvalidParameter, format!("--nat: {e}"))),
            Wire::Tap(_) if !self.nat.is_empty() => {
                Err(Failure::usage("--nat has no meaning on a TAP device: there the kernel's routes count"))
            }
            Wire::Tap(name) => Ok(Outside::Tap(name.clone())),
        }
    }

    /// Begins the recording that was asked for.
    pub(crate) fn recording(&self) -> Result<Option<Recording>, Failure> {
        let Some(path) = &self.pcap else { return Ok(None) };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let origin = (now.as_nanos() as u64).wrapping_sub(os::clock::now_ns());
        let recording = os::file::create_private(path).and_then(|file| Recording::new(file, origin));
        recording.map(|r| Some(r.limit(self.pcap_limit))).map_err(|e| cannot_write(path, &e))
    }

    /// Ends it.
    pub(crate) fn recorded(&self, recording: Option<&Recording>) -> Option<Recorded> {
        self.pcap.as_deref().zip(recording).map(|(path, recording)| Recorded::new(path, recording))
    }
}

/// What became of a recording.
#[derive(Debug, Serialize)]
pub(crate) struct Recorded {
    file: String,
    frames: u64,
    /// What Wireshark must be told (`-d`), because the targets are not at iSCSI's port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    decode_as: Vec<String>,
    /// Why it ends before the card did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Recorded {
    fn new(path: &Path, recording: &Recording) -> Self {
        recording.flush();
        let others = recording.ports().into_iter().filter(|&port| port != ISCSI_PORT);
        Self {
            file: path.display().to_string(),
            frames: recording.frames(),
            decode_as: others.map(|port| format!("tcp.port=={port},iscsi")).collect(),
            error: recording.failure(),
        }
    }

    /// A line that says how to look at it.
    pub(crate) fn summary(&self) -> String {
        let options: String = self.decode_as.iter().map(|rule| format!("-d {rule} ")).collect();
        format!("{} frames are in {}: wireshark {options}{}", self.frames, self.file, self.file)
    }

    /// A recording that is not whole is a failure.
    pub(crate) fn whole(&self) -> Result<(), Failure> {
        match &self.error {
            None => Ok(()),
            Some(e) => Err(Failure::reported(format!("{} is not complete: {e}", self.file))),
        }
    }
}

/// The card of a command with a driver, and the addresses of its iSCSI function.
#[derive(Debug, Args)]
pub(crate) struct Stack {
    #[command(flatten)]
    pub(crate) plug: Plug,
    /// Use the card that listens there (`cnic chip --socket PATH`) instead of one in this process.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["wire", "nat", "pcap"])]
    pub(crate) card: Option<PathBuf>,
    /// An address of the iSCSI function: `ip=ADDR/LEN[,gw=ADDR][,vlan=ID][,pcp=N][,mtu=N]`, or `dhcp`,
    /// `dhcp6`, `auto6` in place of `ip=`. May be repeated [default with nat: static addresses of
    /// documentation networks].
    #[arg(long = "iface", value_name = "ADDRESS")]
    pub(crate) ifaces: Vec<IfaceConfig>,
    /// Let a helper in a process of its own resolve addresses: `iscsiuio --driver PATH`.
    #[arg(long, value_name = "PATH", conflicts_with = "ifaces")]
    pub(crate) export_uio: Option<PathBuf>,
    /// MTU of the interface, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(576..=9000))]
    pub(crate) mtu: u16,
}

impl Stack {
    /// Who resolves paths, and with which addresses.
    pub(crate) fn helper(&self) -> Result<HelperConfig, Failure> {
        if let Some(path) = &self.export_uio {
            return Ok(HelperConfig::Export(path.clone()));
        }
        let default = self.ifaces.is_empty();
        if default && matches!(self.plug.wire, Wire::Tap(_)) {
            return Err(Failure::usage("on a TAP device the card needs an address of that network: --iface"));
        }
        iscsiuio::iface::together(&self.ifaces).map_err(|e| Failure::usage(format!("--iface: {e}")))?;
        let ifaces = if default { vec![static_v4(), static_v6()] } else { self.ifaces.clone() };
        Ok(HelperConfig::Inside(ifaces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wires_have_kinds_and_names() {
        assert_eq!(wire("nat"), Ok(Wire::Nat));
        assert_eq!(wire("tap:cnic0"), Ok(Wire::Tap("cnic0".to_owned())));
        for wrong in ["", "tap", "tap:", "nat:x", "carrier-pigeon"] {
            assert!(wire(wrong).unwrap_err().contains("write nat"), "{wrong}");
        }
    }
}
