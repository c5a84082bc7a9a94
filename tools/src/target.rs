//! `cnic target`: the embedded target on host sockets, until SIGTERM or Ctrl-C.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bus::Instant;
use bus::trace::Trace;
use driver::error::ExitCode;
use iscsi::chap::Credentials;
use iscsi::target::{Auth, CloseReason, Event as Happened, ServerConfig, TargetServer, Trouble};
use lab::runner::Executive;
use lab::runner::inline::{Inline, Wakers};
use lab::streams::Secret;
use lab::target_host::TargetHost;
use os::event::Event;
use os::net::TcpListener;
use os::reactor::Reactor;
use os::signals::StopSignals;
use serde::Serialize;

use crate::cli;
use crate::failure::Failure;
use crate::{lun, say, secret};

/// An initiator that was silent for so long is pinged.
const PING_NS: u64 = 30_000_000_000;

/// What was served, printed at the end.
#[derive(Debug, Serialize)]
struct Report {
    listen: SocketAddr,
    iqn: String,
    luns: usize,
    logins: u64,
    failed_logins: u64,
    commands: u64,
    bytes_read: u64,
    bytes_written: u64,
}

/// Serves until it is told to stop.
pub(crate) fn run(options: &cli::Target, json: bool) -> Result<(), Failure> {
    let iqn = options.iqn.clone();
    let key = iscsi::names::normalize(&iqn).map_err(|e| Failure::usage(format!("--iqn: {e}")))?;
    let broken = |e: std::io::Error| Failure::new(ExitCode::Internal, format!("cannot serve: {e}"));
    let flushed = Arc::new(Event::new().map_err(broken)?);
    let traits =
        lun::Traits { read_only: options.read_only, removable: options.removable, block: options.block_size };
    let mut disks = Vec::new();
    for (number, spec) in (0u16..).zip(&options.luns) {
        disks.push((number, lun::open(spec, &identity(&key, number), traits, &flushed)?));
    }
    let luns = disks.len();
    let auth = auth(options)?;
    // Without the secret not even the name is told.
    let config =
        ServerConfig { ping_interval_ns: Some(PING_NS), discovery: auth.clone(), ..ServerConfig::default() };
    let mut server = TargetServer::new(config);
    server.add_target(&iqn, disks, auth).map_err(|e| Failure::usage(e.to_string()))?;

    let mut listeners = Vec::new();
    let mut portals = Vec::new();
    for &address in &options.listen {
        let listener =
            TcpListener::bind(address).map_err(|e| Failure::new(ExitCode::Transport, e.to_string()))?;
        portals.push(listener.local_addr().map_err(broken)?);
        listeners.push(listener);
    }
    // The portal group. Where all addresses are meant, none can be named; loopback is nothing for others.
    let all_local = portals.iter().all(|portal| portal.ip().is_loopback());
    for portal in &portals {
        if !portal.ip().is_unspecified() && (all_local || !portal.ip().is_loopback()) {
            server.add_portal(&portal.to_string());
        }
    }
    let mut listeners = listeners.into_iter();
    let (Some(first), Some(&listen)) = (listeners.next(), portals.first()) else {
        return Err(Failure::usage("--listen is missing"));
    };
    let reactor = Reactor::new().map_err(broken)?;
    let wakers = Wakers::default();
    let owner = reactor.owner().map_err(broken)?;
    let owner_index = owner.index();
    let signals = StopSignals::new().map_err(broken)?;
    let host = TargetHost::new(server, first, owner, Some(signals)).map_err(broken)?;
    let host = Rc::new(RefCell::new(host));
    listeners.try_for_each(|listener| host.borrow_mut().also_at(listener)).map_err(broken)?;
    host.borrow_mut().watch_flushes(flushed).map_err(broken)?;
    host.borrow_mut().set_sink(Box::new(log));
    let mut executive = Executive::new(
        Box::new(Inline::new(reactor, wakers.clone(), false)),
        Box::new(Secret::default()),
        Trace::off(),
    );
    let place = executive.place();
    wakers.join(owner_index, place.wake());
    executive.install(&place, host.clone());

    for portal in &portals {
        say::announce(format!("listening on {portal}, target {iqn}, {luns} LUN(s)"));
    }
    executive.run(Instant::from_nanos(u64::MAX), |_| host.borrow().stopped());

    let c = host.borrow().server().counters();
    let report = Report {
        listen,
        iqn,
        luns,
        logins: c.logins,
        failed_logins: c.failed_logins,
        commands: c.commands,
        bytes_read: c.data_in_bytes,
        bytes_written: c.data_out_bytes,
    };
    say::last(json, &report, |r| format!("stopped after {} logins and {} commands", r.logins, r.commands))
}

fn auth(options: &cli::Target) -> Result<Auth, Failure> {
    let given = |what, text: &Option<String>| text.as_deref().map(|t| secret::parse(what, t)).transpose();
    let (chap, mutual) = match &options.chap_file {
        Some(path) => {
            let (own, mutual) = secret::read_file(path)?;
            (Some(own), mutual)
        }
        None => (given("--chap", &options.chap)?, given("--mutual", &options.mutual)?),
    };
    if let (Some(a), Some(b)) = (&chap, &mutual)
        && a.secret == b.secret
    {
        // RFC 7143 12.1.3: an initiator must refuse a target that proves itself with the initiator's own
        // secret.
        return Err(Failure::usage("the secrets of --chap and --mutual must differ"));
    }
    let weak = |c: &Option<Credentials>| c.as_ref().is_some_and(|c| c.secret.is_short());
    if weak(&chap) || weak(&mutual) {
        say::complain(&format!(
            "cnic: warning: a CHAP secret under {} bytes can be guessed from a recorded login",
            iscsi::chap::MIN_SECRET_LEN
        ));
    }
    Ok(Auth { chap, mutual })
}

/// The serial number of a unit: the same in every run, different for every target and LUN (FNV-1a).
fn identity(iqn: &str, lun: u16) -> String {
    let bytes = iqn.bytes().chain([0]).chain(lun.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// What an operator wants to see: who came, who was refused, who was lost.
fn log(event: &Happened, peer: Option<SocketAddr>) {
    let peer = peer.map_or_else(|| "a closed connection".to_owned(), |p| p.to_string());
    match event {
        Happened::LoggedIn { initiator, target: Some(_), .. } => {
            say::log(&format!("login of {} from {peer}", initiator.escape_debug()));
        }
        Happened::Closed { reason: CloseReason::LoginFailed(status), .. } => {
            say::log(&format!("login from {peer} refused: {status:?}"));
        }
        Happened::Closed { reason: CloseReason::Logout | CloseReason::Lost, .. } => {}
        Happened::Trouble { lun, storage, trouble, unreported, .. } => {
            let Trouble { doing, at, len, reason } = trouble;
            let place = if *len == 0 { String::new() } else { format!(" of {len} bytes at {at}") };
            let more =
                if *unreported == 0 { String::new() } else { format!(" ({unreported} more before it)") };
            say::log(&format!("LUN {lun}, {storage}: {doing}{place} failed: {reason}{more}"));
        }
        Happened::Closed { reason, .. } => say::log(&format!("connection of {peer} ended: {reason:?}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_stable_and_different() {
        assert_eq!(identity("iqn.2026-01.org.example:a", 0), identity("iqn.2026-01.org.example:a", 0));
        let all =
            [("a", 0), ("a", 1), ("b", 0)].map(|(n, l)| identity(&format!("iqn.2026-01.org.example:{n}"), l));
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2], "{all:?}");
        assert_eq!(all[0].len(), 16);
    }
}
