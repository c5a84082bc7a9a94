//! The commands that need a world: `demo`, `discover`, `info`, `io` and `perf`.

use std::time::{Duration, Instant};

use driver::error::ExitCode;
use iscsi::sendtargets::TargetAddress;
use lab::demo::{DemoConfig, DemoReport};
use serde::Serialize;

use crate::cli;
use crate::confirm;
use crate::failure::Failure;
use crate::io::{self, IoReport, Plan};
use crate::perf::{self, PerfReport};
use crate::plug::Plug;
use crate::remote::Remote;
use crate::say;
use crate::size;
use crate::split;
use crate::trace::{TraceFile, Traced};
use crate::url::{DiskUrl, PortalUrl};

/// Work that is over sooner needs no progress.
const QUIET: Duration = Duration::from_secs(1);

/// `cnic demo`.
pub(crate) fn demo(options: &cli::Demo, json: bool) -> Result<(), Failure> {
    let defect = options.defect.as_deref().map(str::parse).transpose();
    let defect = defect.map_err(|e: hw_model::fault::UnknownFaultPoint| Failure::usage(e.to_string()))?;
    let config =
        DemoConfig { sessions: options.sessions, resets: options.resets, seed: options.seed, defect };
    let started = Instant::now();
    let say = |line: &str| {
        if started.elapsed() >= QUIET {
            say::complain(line);
        }
    };
    let trace = options.trace.as_deref().map(TraceFile::create).transpose()?;
    let sink = trace.as_ref().map(|file| file.perfetto.sink());
    let report = match &options.socket {
        Some(socket) => lab::demo::run_split(&config, socket, sink, say),
        None if options.split => split::demo(&config, sink, say)?,
        None => lab::demo::run(&config, sink, say),
    };
    let trace = trace.as_ref().map(TraceFile::end);
    let report = report.map_err(|e| Failure::other(format!("the demo could not begin: {e}")))?;
    say::report(json, &report, demo_summary)?;
    if let Some(trace) = &trace {
        say::complain(&trace.summary());
    }
    if !report.verified {
        return Err(Failure::reported(demo_failure(&report)));
    }
    match &report.defect {
        Some(d) if d.fired == 0 => Err(Failure::reported(format!(
            "nothing was shown: the defect {} never fired in this run",
            d.name
        ))),
        _ => trace.as_ref().map_or(Ok(()), Traced::check),
    }
}

fn demo_summary(r: &DemoReport) -> String {
    let mut text = format!(
        "{} sessions, {} resets under load, {} session recoveries (p50 {:.0} ms, slowest {:.0} ms)\n\
         {} requests, {} read and written in {:.1} s\n\
         lost {}, failed {}, corrupt {}, duplicated {}, leaked {}, bus violations {}",
        r.sessions,
        r.resets,
        r.recovered,
        r.recovery_ms.p50,
        r.recovery_ms.max,
        r.commands,
        size::show(r.bytes),
        r.seconds,
        r.lost,
        r.failed,
        r.corrupt,
        r.duplicated,
        r.leaked,
        r.violations,
    );
    if let Some(d) = &r.defect {
        text += &format!(
            "\ndefect {}: fired {} times, noticed {} times by the driver",
            d.name, d.fired, d.noticed
        );
    }
    for finding in &r.findings {
        text += &format!("\n{finding}");
    }
    text
}

/// The worst thing that the report holds, in one line.
fn demo_failure(r: &DemoReport) -> String {
    let what = if r.card_lost {
        "the card was lost: its process died or does not answer".to_owned()
    } else if let Some(finding) = r.findings.first() {
        finding.clone()
    } else if r.corrupt > 0 {
        format!("{} bytes outside of requests were changed", r.corrupt)
    } else if r.duplicated > 0 {
        format!("{} requests completed twice", r.duplicated)
    } else if r.lost > 0 {
        format!("{} requests never completed", r.lost)
    } else if r.failed > 0 {
        format!("{} requests failed: {}", r.failed, r.first_error.as_deref().unwrap_or("no reason given"))
    } else if r.violations > 0 {
        format!("the rules of the bus were broken {} times", r.violations)
    } else if r.leaked > 0 {
        format!("{} resources were not given back", r.leaked)
    } else {
        let all = u64::from(r.sessions) * u64::from(r.resets);
        format!("{} of {all} session recoveries ended with I/O", r.recovered)
    };
    format!("not verified: {what}")
}

/// What `cnic discover` prints.
#[derive(Debug, Serialize)]
struct DiscoverReport {
    targets: Vec<DiscoveredTarget>,
}

#[derive(Debug, Serialize)]
struct DiscoveredTarget {
    name: String,
    portals: Vec<DiscoveredPortal>,
}

#[derive(Debug, Serialize)]
struct DiscoveredPortal {
    /// `ADDR:PORT`
    address: String,
    /// Portal group tag, if the target says one.
    tag: Option<u16>,
}

/// `cnic discover`.
pub(crate) fn discover(options: &cli::Discover, json: bool) -> Result<(), Failure> {
    let url = PortalUrl::parse(&options.url, |name| std::env::var(name).ok())?;
    let found = crate::remote::discover(&url, &options.stack)?;
    let wanted = |name: &str| url.target.as_deref().is_none_or(|target| iscsi::names::same(name, target));
    let portal =
        |address: &TargetAddress| DiscoveredPortal { address: address.portal.to_string(), tag: address.tag };
    let targets = found
        .into_iter()
        .filter(|t| wanted(&t.name))
        .map(|t| DiscoveredTarget { portals: t.addresses.iter().map(portal).collect(), name: t.name });
    let report = DiscoverReport { targets: targets.collect() };
    if report.targets.is_empty() {
        let text = match &url.target {
            Some(target) => format!("the portal does not list {target} for us: check name and access list"),
            None => "the portal lists no target for us: check the target's access list".to_owned(),
        };
        return Err(Failure::new(ExitCode::NoObjectsFound, text));
    }
    say::report(json, &report, |report| {
        let portals = report.targets.iter().flat_map(|t| t.portals.iter().map(|p| discovered(&t.name, p)));
        portals.collect::<Vec<_>>().join("\n")
    })
}

/// As `iscsiadm -m discovery` prints it: the tag is -1 where the target says none.
fn discovered(name: &str, portal: &DiscoveredPortal) -> String {
    // What the target says of itself goes to a terminal: no control characters.
    let tag = portal.tag.map_or_else(|| "-1".to_owned(), |tag| tag.to_string());
    format!("{},{tag} {}", portal.address, name.escape_debug())
}

/// What `cnic info` prints.
#[derive(Debug, Serialize)]
struct InfoReport {
    portal: String,
    target: String,
    lun: u16,
    vendor: String,
    product: String,
    revision: String,
    serial: Option<String>,
    id: Option<String>,
    block_size: u32,
    blocks: u64,
    bytes: u64,
    read_only: bool,
    write_cache: bool,
    login_ms: f64,
}

/// `cnic info`.
pub(crate) fn info(options: &cli::Info, json: bool) -> Result<(), Failure> {
    let url = url(&options.url)?;
    let started = Instant::now();
    let remote = Remote::connect(&url, &options.stack, 1, false)?;
    let login_ms = started.elapsed().as_secs_f64() * 1e3;
    let i = remote.info().clone();
    let report = InfoReport {
        portal: remote.portal().to_string(),
        target: url.target,
        lun: url.lun,
        vendor: i.vendor,
        product: i.product,
        revision: i.revision,
        serial: i.serial,
        id: i.id,
        block_size: i.capacity.block_size,
        blocks: i.capacity.blocks,
        bytes: i.capacity.blocks.saturating_mul(u64::from(i.capacity.block_size)),
        read_only: i.read_only,
        write_cache: i.write_cache,
        login_ms,
    };
    remote.logout(&options.stack.plug)?;
    say::report(json, &report, info_summary)
}

fn info_summary(r: &InfoReport) -> String {
    // What the target says of itself goes to a terminal: no control characters.
    let clean = |s: &str| s.escape_debug().to_string();
    let text = |s: &Option<String>| s.as_deref().map_or_else(|| "-".to_owned(), clean);
    format!(
        "Target:   {} LUN {} at {} (login {:.1} ms)\n\
         Unit:     {} {} {}, serial {}, id {}\n\
         Capacity: {} ({} blocks of {} bytes){}{}",
        r.target,
        r.lun,
        r.portal,
        r.login_ms,
        clean(&r.vendor),
        clean(&r.product),
        clean(&r.revision),
        text(&r.serial),
        text(&r.id),
        size::show(r.bytes),
        r.blocks,
        r.block_size,
        if r.read_only { ", read only" } else { "" },
        if r.write_cache { ", write cache" } else { "" },
    )
}

/// `cnic io`.
pub(crate) fn io(options: &cli::Io, json: bool) -> Result<(), Failure> {
    let url = url(&options.url)?;
    let e = &options.extent;
    let mut remote = Remote::connect(&url, &options.stack, e.iodepth, false)?;
    let outcome = io_on(&mut remote, options, &url);
    let report = finish(remote, &options.stack.plug, outcome)?;
    say::report(json, &report, IoReport::summary)
}

fn io_on(remote: &mut Remote, options: &cli::Io, url: &DiskUrl) -> Result<IoReport, Failure> {
    let e = &options.extent;
    let plan = Plan::new(remote, e.offset, e.size, options.bs, e.iodepth)?;
    if options.operation != cli::Operation::Read {
        may_write(remote, e.force, &plan, url)?;
    }
    match options.operation {
        cli::Operation::Read => io::read(remote, &plan),
        cli::Operation::Write => io::write(remote, &plan, draw()?),
        cli::Operation::Verify => io::verify(remote, &plan, draw()?),
    }
}

/// `cnic perf`.
pub(crate) fn perf(options: &cli::Perf, json: bool) -> Result<(), Failure> {
    let url = url(&options.url)?;
    let e = &options.extent;
    let mut remote = Remote::connect(&url, &options.stack, e.iodepth, options.spin)?;
    let outcome = Plan::new(&remote, e.offset, e.size, options.bs, e.iodepth).and_then(|plan| {
        if options.rw.writes() {
            may_write(&remote, e.force, &plan, &url)?;
        }
        perf::run(&mut remote, &plan, options.rw, options.runtime, draw()?)
    });
    let logout = remote.logout(&options.stack.plug);
    let (report, ended) = outcome?;
    say::report(json, &report, PerfReport::summary)?;
    ended?;
    logout.map_err(Failure::already_reported)
}

fn url(text: &str) -> Result<DiskUrl, Failure> {
    DiskUrl::parse(text, |name| std::env::var(name).ok())
}

fn may_write(remote: &Remote, force: bool, plan: &Plan, url: &DiskUrl) -> Result<(), Failure> {
    if remote.info().read_only {
        return Err(Failure::usage(
            "the unit is write protected: lift the protection on the target, or only read",
        ));
    }
    confirm::overwrite(force, plan.size, &format!("{} LUN {}", url.target, url.lun))
}

/// Logs out whatever the job came to; the job's failure goes before the logout's.
fn finish<T>(remote: Remote, plug: &Plug, outcome: Result<T, Failure>) -> Result<T, Failure> {
    let logout = remote.logout(plug);
    let value = outcome?;
    logout?;
    Ok(value)
}

/// Tells apart the runs that wrote to a unit.
fn draw() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    os::entropy::fill(&mut bytes).map_err(|e| Failure::other(format!("no randomness: {e}")))?;
    Ok(u64::from_le_bytes(bytes))
}
