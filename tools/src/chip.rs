//! `cnic chip`: the modelled card behind a vfio-user socket, until SIGTERM or Ctrl-C.
//!
//! Offloaded connections are sockets of this machine; whoever else the host talks to over Ethernet is the responder.
//! SIGUSR1 pulls the cable, SIGUSR2 plugs it in again.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use bus::Instant;
use bus::trace::Trace;
use driver::error::ExitCode;
use hw_model::config::{ChipConfig, DoorbellLayout, LinkSpeed};
use hw_model::tcp::nat::Nat;
use hw_model::wire::Recording;
use lab::chip_host::{ChipWorld, ClientEvent};
use os::signals::{CableSignals, StopSignals};
use os::unix::ChannelListener;
use serde::Serialize;

use crate::cli;
use crate::failure::Failure;
use crate::trace::{TraceFile, Traced, cannot_write};

/// Where viewers expect iSCSI.
const ISCSI_PORT: u16 = 3260;

/// What was served, printed at the end.
#[derive(Debug, Serialize)]
struct Report {
    clients: u64,
    requests: u64,
    refused: u64,
    /// Accesses of the card to host memory that were refused.
    dma_refused: u64,
    resets: u64,
    interrupts: u64,
    /// Everything that is still held for a client: zero.
    held: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    unmodelled: Option<Vec<Unmodelled>>,
    /// Accesses to registers outside of the table that the list had no room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    unlisted: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcap: Option<Recorded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Traced>,
}

/// What became of a file that was recorded.
#[derive(Debug, Serialize)]
struct Recorded {
    file: String,
    frames: u64,
    /// What Wireshark must be told (`-d`), because the targets are not at iSCSI's port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    decode_as: Vec<String>,
    /// Why it ends before the chip did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Unmodelled {
    address: u32,
    reads: u64,
    writes: u64,
}

fn config(options: &cli::Chip) -> ChipConfig {
    let cli::Model::Bcm5709 = options.model;
    ChipConfig {
        mac: options.mac,
        iscsi_mac: options.iscsi_mac,
        licensed_connections: options.connections,
        link: match options.link {
            cli::Link::Gigabit => LinkSpeed::Gigabit,
            cli::Link::Down => LinkSpeed::Down,
        },
        msix: options.msix == cli::Switch::On,
        doorbells: DoorbellLayout::Pages,
        ..ChipConfig::default()
    }
}

/// Serves until it is told to stop.
pub(crate) fn run(options: &cli::Chip, json: bool) -> Result<(), Failure> {
    let broken = |e: std::io::Error| Failure::new(ExitCode::Internal, format!("cannot serve: {e}"));
    let listener = ChannelListener::bind(&options.socket)
        .map_err(|e| Failure::new(ExitCode::Transport, e.to_string()))?;
    let cli::Wire::Nat = options.wire;
    let nat = Nat::new(&options.nat)
        .map_err(|e| Failure::new(ExitCode::InvalidParameter, format!("--nat: {e}")))?;
    let signals = StopSignals::new().map_err(broken)?;
    let pcap = options.pcap.as_deref().map(record).transpose()?;
    let cable = CableSignals::new().map_err(broken)?;
    let traced = options.trace.as_deref().map(TraceFile::create).transpose()?;
    let mut trace = Trace::off();
    if let Some(file) = &traced {
        trace.set_sink(file.perfetto.sink());
    }
    let mut world =
        ChipWorld::new(config(options), nat, listener, Some(signals), options.once, trace, pcap.clone())
            .map_err(broken)?;
    let host = world.host.clone();
    host.borrow_mut().set_sink(Box::new(log));
    world.watch_cable(cable).map_err(broken)?;

    println!(
        "listening on {}, BCM5709, licence for {} connection(s)",
        options.socket.display(),
        options.connections
    );
    world.exec.run(Instant::from_nanos(u64::MAX), |_| host.borrow().stopped());

    let host = host.borrow();
    let (slot, held) = (host.server().counters(), world.held());
    let report = world.card.with(|c| {
        let front = c.counters();
        let registers = c.registers();
        Report {
            clients: host.clients(),
            requests: slot.requests,
            refused: slot.refused,
            dma_refused: slot.dma_refused,
            resets: front.resets,
            interrupts: front.interrupts,
            held,
            unmodelled: options.unmodelled.then(|| {
                let all = registers.unmodelled();
                all.map(|(address, u)| Unmodelled { address, reads: u.reads, writes: u.writes }).collect()
            }),
            unlisted: options.unmodelled.then(|| registers.unlisted()),
            pcap: None,
            trace: traced.as_ref().map(TraceFile::end),
        }
    });
    let report = Report { pcap: options.pcap.as_deref().zip(pcap.as_ref()).map(recorded), ..report };
    if json {
        crate::print_json(&report);
    } else {
        print!("{}", report.summary());
    }
    report.trace.as_ref().map_or(Ok(()), Traced::check)?;
    match report.pcap {
        Some(Recorded { file, error: Some(error), .. }) => {
            Err(Failure::reported(format!("{file} is not complete: {error}")))
        }
        _ => Ok(()),
    }
}

/// Begins a recording.
fn record(path: &Path) -> Result<Recording, Failure> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let origin = (now.as_nanos() as u64).wrapping_sub(os::clock::now_ns());
    File::create(path).and_then(|file| Recording::new(file, origin)).map_err(|e| cannot_write(path, &e))
}

/// Ends a recording.
fn recorded((path, recording): (&Path, &Recording)) -> Recorded {
    recording.flush();
    let others = recording.ports().into_iter().filter(|&port| port != ISCSI_PORT);
    Recorded {
        file: path.display().to_string(),
        frames: recording.frames(),
        decode_as: others.map(|port| format!("tcp.port=={port},iscsi")).collect(),
        error: recording.failure(),
    }
}

impl Report {
    fn summary(&self) -> String {
        let mut text = format!(
            "stopped after {} client(s), {} requests ({} refused), {} resets and {} interrupts\n",
            self.clients, self.requests, self.refused, self.resets, self.interrupts
        );
        for u in self.unmodelled.iter().flatten() {
            text += &format!("unmodelled {:#08x}: {} reads, {} writes\n", u.address, u.reads, u.writes);
        }
        match (&self.unmodelled, self.unlisted) {
            (Some(list), _) if list.is_empty() => text += "no register outside of the table was used\n",
            (_, Some(n)) if n > 0 => text += &format!("and {n} accesses to more such registers\n"),
            _ => {}
        }
        if let Some(Recorded { file, frames, decode_as, .. }) = &self.pcap {
            let options: String = decode_as.iter().map(|rule| format!("-d {rule} ")).collect();
            text += &format!("{frames} frames are in {file}: wireshark {options}{file}\n");
        }
        if let Some(trace) = &self.trace {
            text += &format!("{}\n", trace.summary());
        }
        text
    }
}

/// What an operator wants to see: who comes and who goes.
fn log(event: ClientEvent) {
    match event {
        ClientEvent::Attached => eprintln!("a client has attached"),
        ClientEvent::Left => eprintln!("the client has left; the card was reset"),
        ClientEvent::Expelled => {
            eprintln!("the client broke the protocol and was shut out; the card was reset")
        }
        ClientEvent::Cable(false) => eprintln!("the cable is out"),
        ClientEvent::Cable(true) => eprintln!("the cable is in"),
    }
}
