//! The helper in a process of its own: the seam between adapter and helper behind a local socket, in real
//! time.
//!
//! An actor that stands in the helper's place at the adapter's ports, owns a listening socket, and passes
//! messages on in both directions ([`bus::uio::socket`]); the ring's interrupts go to the helper's eventfd.
//! One helper at a time; others wait in the queue of the listening socket. A helper that goes, sends
//! nonsense, or takes no messages is dropped, and what it had open is closed; the next one says Hello for
//! itself. Without a helper the adapter's messages are lost, as with the real one's netlink group. The
//! adapter's memory must be in files ([`bus::inproc::SlotConfig::shareable`], or vfio-user); a helper that
//! opens is refused otherwise.
//!
//! Limits: [`bus::uio::socket::QUEUE`] messages towards the helper; one receive buffer's worth towards the
//! adapter.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bus::port::{PortRx, PortTx};
use bus::uio::socket::Exporter;
use bus::uio::{FromHelper, ToHelper};
use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};
use os::net::Received;
use os::reactor::{Owner, Ready};
use os::unix::{Channel, ChannelListener};

/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a helper may take to greet: others wait for its place.
const GREETING: Duration = Duration::from_secs(2);
/// How soon a full port is tried again.
const RETRY: Duration = Duration::from_millis(1);
/// Bytes of one receive.
const RECEIVE: usize = 4096;

const LISTENER: u32 = 0;
const PEER: u32 = 1;

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportCounters {
    /// Helpers accepted.
    pub helpers: u64,
    /// Helpers dropped because they sent nonsense.
    pub malformed: u64,
    /// Helpers dropped because they took no messages.
    pub slow: u64,
    /// Messages of the adapter lost for want of a helper.
    pub lost: u64,
}

struct Peer {
    channel: Channel,
    exporter: Exporter,
    readable: bool,
    greet_by: Instant,
}

/// Why a helper is dropped.
enum Gone {
    Left,
    Malformed,
    Slow,
}

/// The export. See the module.
pub struct UioExport {
    listener: ChannelListener,
    owner: Owner,
    accept_ready: bool,
    accept_again: Option<Instant>,
    peer: Option<Peer>,
    from_adapter: PortRx<ToHelper>,
    to_adapter: PortTx<FromHelper>,
    /// What the adapter's port has had no room for.
    pending: VecDeque<FromHelper>,
    ready: Vec<Ready>,
    counters: ExportCounters,
}

impl UioExport {
    /// Serves helpers at `listener`. The runner wakes the actor for `owner`, for `from_adapter`, and when the
    /// adapter wakes its helper.
    ///
    /// # Errors
    /// The reactor refuses the descriptor.
    pub fn new(
        listener: ChannelListener,
        owner: Owner,
        from_adapter: PortRx<ToHelper>,
        to_adapter: PortTx<FromHelper>,
    ) -> io::Result<Self> {
        owner.register(&listener, LISTENER)?;
        Ok(Self {
            listener,
            owner,
            accept_ready: true,
            accept_again: None,
            peer: None,
            from_adapter,
            to_adapter,
            pending: VecDeque::new(),
            ready: Vec::new(),
            counters: ExportCounters::default(),
        })
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> ExportCounters {
        self.counters
    }

    /// Whether a helper is attached.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.peer.is_some()
    }

    fn take_readiness(&mut self) {
        self.owner.drain(&mut self.ready);
        for r in self.ready.drain(..) {
            match r.token {
                LISTENER => self.accept_ready = true,
                _ => {
                    if let Some(p) = &mut self.peer {
                        p.readable |= r.readable || r.hup;
                    }
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| now >= at) {
            (self.accept_again, self.accept_ready) = (None, true);
        }
        if self.peer.is_some() || !self.accept_ready || self.accept_again.is_some() {
            return;
        }
        let accepted = self.listener.accept().and_then(|channel| {
            channel.as_ref().map_or(Ok(()), |c| self.owner.register(c, PEER))?;
            Ok(channel)
        });
        match accepted {
            Ok(Some(channel)) => {
                self.counters.helpers += 1;
                let greet_by = now + GREETING;
                self.peer = Some(Peer { channel, exporter: Exporter::default(), readable: true, greet_by });
            }
            Ok(None) => self.accept_ready = false,
            Err(_) => self.accept_again = Some(now + ACCEPT_PAUSE),
        }
    }

    /// The helper is gone: what it had open is closed, what it still wanted is forgotten.
    fn drop_peer(&mut self, why: Gone) {
        let Some(peer) = self.peer.take() else { return };
        match why {
            Gone::Left => {}
            Gone::Malformed => self.counters.malformed += 1,
            Gone::Slow => self.counters.slow += 1,
        }
        // It is closed with this function; the kernel forgets it then.
        let _ = self.owner.deregister(&peer.channel, PEER);
        self.pending.clear();
        if let Some(generation) = peer.exporter.open() {
            self.pending.push_back(FromHelper::Close { generation });
        }
    }

    /// Towards the adapter. Nothing is received while its port is full.
    fn receive(&mut self) -> Result<u32, Gone> {
        let mut done = 0;
        loop {
            while let Some(message) = self.pending.pop_front() {
                if let Err(full) = self.to_adapter.send(message) {
                    self.pending.push_front(full.message);
                    return Ok(done);
                }
                done += 1;
            }
            let Some(peer) = self.peer.as_mut().filter(|p| p.readable) else { return Ok(done) };
            let (mut bytes, mut fds, mut messages) = ([0; RECEIVE], Vec::new(), Vec::new());
            match peer.channel.recv(&mut bytes, &mut fds) {
                Ok(Received::Bytes(n)) => {
                    let parsed = peer.exporter.received(&bytes[..n], fds, &mut messages);
                    parsed.map_err(|_| Gone::Malformed)?;
                    self.pending.extend(messages);
                }
                Ok(Received::Nothing) => peer.readable = false,
                Ok(Received::Fin) | Err(_) => return Err(Gone::Left),
            }
        }
    }

    /// Towards the helper.
    fn send(&mut self, budget: u32) -> Result<u32, Gone> {
        let mut done = 0;
        while done < budget {
            let Some(message) = self.from_adapter.recv() else { break };
            done += 1;
            let Some(peer) = &mut self.peer else {
                self.counters.lost += 1;
                if let ToHelper::Opened(maps) = message {
                    // Whoever asked for it is gone.
                    self.pending.push_back(FromHelper::Close { generation: maps.generation });
                }
                continue;
            };
            let undone = peer.exporter.say(&message).map_err(|_| Gone::Slow)?;
            self.pending.extend(undone);
        }
        if let Some(peer) = &mut self.peer {
            peer.exporter.outbox.flush(&peer.channel).map_err(|_| Gone::Left)?;
            // After the ring itself: a count that has no ring yet means nothing.
            peer.exporter.forward_events();
        }
        Ok(done)
    }
}

impl Actor for UioExport {
    fn name(&self) -> ActorId {
        ActorId::new("uio-export", 0)
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        self.take_readiness();
        self.accept(cx.now);
        let mut done = 0;
        let received = self.receive();
        let sent = match received {
            Ok(n) => {
                done += n;
                self.send(budget.0)
            }
            Err(gone) => Err(gone),
        };
        match sent {
            Ok(n) => done += n,
            Err(gone) => {
                self.drop_peer(gone);
                done += 1;
            }
        }
        let silent = self.peer.as_ref().filter(|p| !p.exporter.is_greeted()).map(|p| p.greet_by);
        if silent.is_some_and(|due| due <= cx.now) {
            self.drop_peer(Gone::Slow);
        }
        let mut next = self.accept_again;
        if self.peer.is_some() {
            next = Instant::earliest(next, silent);
        }
        if self.peer.is_none() && self.accept_ready && next.is_none() {
            // Another one may have been waiting in the listener's queue, of which nothing more is heard.
            next = Some(cx.now);
        }
        if !self.pending.is_empty() {
            next = Instant::earliest(next, Some(cx.now + RETRY));
        }
        Progress { done, next }
    }
}

#[cfg(test)]
mod tests;
