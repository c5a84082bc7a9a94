//! `cnic chip`: the modelled card behind a vfio-user socket, until SIGTERM or Ctrl-C.
//!
//! What is behind the card's port, [`crate::plug`] says. SIGUSR1 pulls the cable, SIGUSR2 plugs it in again.

use bus::Instant;
use bus::trace::Trace;
use driver::error::ExitCode;
use hw_model::config::{ChipConfig, DoorbellLayout, LinkSpeed};
use lab::chip_host::{ChipWorld, ChipWorldConfig, ClientEvent};
use lab::outside::PlugError;
use os::signals::{CableSignals, StopSignals};
use os::unix::ChannelListener;
use serde::Serialize;

use crate::cli;
use crate::failure::Failure;
use crate::plug::Recorded;
use crate::say;
use crate::trace::{TraceFile, Traced};

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
        autonegotiation_ns: u64::from(options.autoneg_ms) * 1_000_000,
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
    let plug = &options.plug;
    let outside = if options.nat_local { plug.outside()? } else { plug.guarded()? };
    let signals = StopSignals::new().map_err(broken)?;
    let recording = options.plug.recording()?;
    let cable = CableSignals::new().map_err(broken)?;
    let traced = options.trace.as_deref().map(TraceFile::create).transpose()?;
    let mut trace = Trace::off();
    if let Some(file) = &traced {
        trace.set_sink(file.perfetto.sink());
    }
    let world_config = ChipWorldConfig {
        chip: config(options),
        outside,
        recording: recording.clone(),
        trace,
        signals: Some(signals),
        once: options.once,
    };
    let mut world = ChipWorld::new(world_config, listener).map_err(|e| match e {
        PlugError::Os(e) => broken(e),
        e @ PlugError::Tap(_) => Failure::new(ExitCode::Transport, e.to_string()),
    })?;
    let host = world.host.clone();
    host.borrow_mut().set_sink(Box::new(log));
    world.watch_cable(cable).map_err(broken)?;

    say::announce(format!(
        "listening on {}, BCM5709, licence for {} connection(s)",
        options.socket.display(),
        options.connections
    ));
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
    let report = Report { pcap: options.plug.recorded(recording.as_ref()), ..report };
    say::last(json, &report, Report::summary)?;
    report.trace.as_ref().map_or(Ok(()), Traced::check)?;
    report.pcap.as_ref().map_or(Ok(()), Recorded::whole)
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
        if let Some(pcap) = &self.pcap {
            text += &format!("{}\n", pcap.summary());
        }
        if let Some(trace) = &self.trace {
            text += &format!("{}\n", trace.summary());
        }
        text
    }
}

/// What an operator wants to see: who comes and who goes.
fn log(event: ClientEvent) {
    say::log(match event {
        ClientEvent::Attached => "a client has attached",
        ClientEvent::Left => "the client has left; the card was reset",
        ClientEvent::Expelled => "the client broke the protocol and was shut out; the card was reset",
        ClientEvent::Silent => {
            "the client did not greet, or stopped in a message, and was shut out; the card was reset"
        }
        ClientEvent::Cable(false) => "the cable is out",
        ClientEvent::Cable(true) => "the cable is in",
    });
}
