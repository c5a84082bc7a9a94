//! The loop: it feeds the helper and waits.
//!
//! When the driver's socket cannot be reached or vanishes, the helper is told that the interface is down and
//! the socket is tried again after 0.1 s, 0.2 s and so on up to [`SLOWEST`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use bus::actor::{Actor, Budget, Cx};
use bus::port::{PortRx, PortTx, port};
use bus::streams::{StreamName, Streams};
use bus::trace::Trace;
use bus::uio::socket::UioClient;
use bus::uio::{FromHelper, ToHelper};
use bus::wake::WakeSet;
use bus::{ActorId, Instant};
use iscsiuio::helper::Reply;
use iscsiuio::ipc::{Request, Response};
use iscsiuio::log::Level;
use iscsiuio::ping::Ticket;
use iscsiuio::{Helper, IfaceConfig};
use os::net::Received;
use os::reactor::{Owner, Reactor, Ready};
use os::signals::StopSignals;
use os::unix::Channel;

use crate::ipc_server::{Answer, Server};
use crate::say;

/// Messages between helper and socket.
const PORT: usize = 256;
/// Work items of a step.
const BUDGET: Budget = Budget(64);
/// Waits between attempts to reach the driver.
const FASTEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_secs(5);

const SIGNAL: u32 = 0;
const DRIVER: u32 = 1;
const EVENT: u32 = 2;
const IPC: u32 = 3;

/// Every stream is the kernel's.
struct Entropy;

impl Streams for Entropy {
    fn fill(&mut self, _: StreamName, out: &mut [u8]) {
        os::entropy::fill(out).expect("the kernel has entropy after boot");
    }
}

/// The connection to the driver.
struct Link {
    channel: Channel,
    client: UioClient,
    /// Our handle of the ring's event counter, as long as it is watched.
    event: Option<OwnedFd>,
}

struct Service {
    helper: Helper,
    to: PortTx<ToHelper>,
    from: PortRx<FromHelper>,
    /// Received from the driver; the port had no room yet.
    inbox: VecDeque<ToHelper>,
    link: Option<Link>,
    again: Instant,
    wait: Duration,
    told: bool,
    /// When the helper wants to run.
    next: Option<Instant>,
    /// The helper has had a request of iscsid's since its last step.
    asked: bool,
    rng: Entropy,
    trace: Trace,
}

/// Runs until a signal.
pub(crate) fn run(driver: &Path, ifaces: Vec<IfaceConfig>, ipc: &str, level: Level) -> Result<(), String> {
    let broken = |e: io::Error| format!("cannot start: {e}");
    let mut reactor = Reactor::new().map_err(broken)?;
    let owner = reactor.owner().map_err(broken)?;
    let stop = StopSignals::new().map_err(broken)?;
    owner.register(&stop, SIGNAL).map_err(broken)?;
    let mut server = Server::new(ipc, &owner, IPC).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            format!("@{ipc} is in use: stop the other iscsiuio (and its socket unit), or choose --ipc NAME")
        }
        _ => format!("cannot listen at @{ipc}: {e}"),
    })?;
    let set = WakeSet::default();
    let (to, to_rx) = port("to helper", PORT, set.register());
    let (from_tx, from) = port("from helper", PORT, set.register());
    let mut s = Service {
        helper: Helper::new(0, to_rx, from_tx, ifaces, level),
        to,
        from,
        inbox: VecDeque::new(),
        link: None,
        again: Instant::ZERO,
        wait: FASTEST,
        told: false,
        next: None,
        asked: false,
        rng: Entropy,
        trace: Trace::off(),
    };
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(e) = os::local::notify(&socket, "READY=1\nSTATUS=Ready to process requests\n")
    {
        say(Level::Warn, &format!("cannot tell systemd that we are ready: {e}"));
    }
    let (mut ready, mut woken) = (Vec::new(), Vec::new());
    loop {
        let at = now();
        owner.drain(&mut ready);
        if ready.iter().any(|r| r.token == SIGNAL) && stop.take() {
            s.end();
            return Ok(());
        }
        s.driver(driver, &owner, &ready, at);
        ready.clear();
        server.poll(at, &owner, &mut s);
        let more = s.step(at);
        s.pass_on(at);
        // A step may have finished a ping. What is asked only now, the helper acts on in its next step.
        server.poll(at, &owner, &mut s);
        if more || s.asked {
            reactor.wait(Some(Duration::ZERO), &mut woken).map_err(broken)?;
            continue;
        }
        let mut next = Instant::earliest(s.next, server.next());
        if s.link.is_none() {
            next = Instant::earliest(next, Some(s.again));
        }
        reactor.wait(next.map(|n| n.since(now())), &mut woken).map_err(broken)?;
    }
}

fn now() -> Instant {
    Instant::from_nanos(os::clock::now_ns())
}

impl Service {
    fn cx<T>(&mut self, at: Instant, f: impl FnOnce(&mut Helper, &mut Cx<'_>) -> T) -> T {
        let actor: ActorId = self.helper.name();
        f(&mut self.helper, &mut Cx { now: at, actor, rng: &mut self.rng, trace: &mut self.trace })
    }

    /// One step of the helper. Whether it wants to go on at once.
    fn step(&mut self, at: Instant) -> bool {
        while let Some(message) = self.inbox.pop_front() {
            if let Err(full) = self.to.send(message) {
                self.inbox.push_front(full.message);
                break;
            }
        }
        self.asked = false;
        let progress = self.cx(at, |h, cx| h.step(cx, BUDGET));
        self.next = progress.next;
        self.print();
        progress.done >= BUDGET.0 || !self.inbox.is_empty()
    }

    fn print(&mut self) {
        let lost = self.helper.log().take_dropped();
        if lost > 0 {
            say(Level::Warn, &format!("{lost} earlier lines were lost"));
        }
        while let Some((level, line)) = self.helper.log().pop() {
            say(level, &line);
        }
    }

    /// Looks after the connection to the driver.
    fn driver(&mut self, path: &Path, owner: &Owner, ready: &[Ready], at: Instant) {
        if self.link.is_none() {
            if at < self.again {
                return;
            }
            match Channel::connect(path).and_then(|c| owner.register(&c, DRIVER).map(|()| c)) {
                Ok(channel) => {
                    say(Level::Info, &format!("connected to the driver at {}", path.display()));
                    let mut client = UioClient::default();
                    // The helper may have said it before there was anybody to hear.
                    let _ = client.say(&FromHelper::Hello);
                    self.link = Some(Link { channel, client, event: None });
                    self.told = false;
                }
                Err(e) => {
                    if !std::mem::replace(&mut self.told, true) {
                        let path = path.display();
                        say(
                            Level::Warn,
                            &format!(
                                "no driver at {path} ({e}); waiting for it to be started with that socket"
                            ),
                        );
                    }
                    self.retry(at);
                    return;
                }
            }
        }
        let Some(link) = &mut self.link else { return };
        if ready.iter().any(|r| r.token == EVENT) {
            link.client.take_events();
        }
        if let Err(e) = self.receive(owner) {
            self.lost(&e, at);
        }
    }

    fn receive(&mut self, owner: &Owner) -> Result<(), String> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let mut bytes = [0; 4096];
        loop {
            let (mut fds, mut messages) = (Vec::new(), Vec::new());
            match link.channel.recv(&mut bytes, &mut fds) {
                Ok(Received::Bytes(n)) => {
                    let parsed = link.client.received(&bytes[..n], fds, &mut messages);
                    parsed.map_err(|e| e.to_string())?;
                    // Something came: the next loss is a new one.
                    self.wait = FASTEST;
                    if messages.iter().any(|m| matches!(m, ToHelper::Opened(_))) {
                        link.watch(owner).map_err(|e| format!("cannot wait for the ring: {e}"))?;
                    }
                    self.inbox.extend(messages);
                    if self.inbox.len() > PORT {
                        return Err("it sends more than can be taken".to_owned());
                    }
                }
                Ok(Received::Nothing) => return Ok(()),
                Ok(Received::Fin) => return Err("it closed the connection".to_owned()),
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// Sends what the helper has to say.
    fn pass_on(&mut self, at: Instant) {
        while let Some(message) = self.from.recv() {
            // Ours went out with the connection.
            if let Some(link) = &mut self.link
                && message != FromHelper::Hello
                && let Err(e) = link.client.say(&message)
            {
                self.lost(&e.to_string(), at);
            }
        }
        if let Some(link) = &mut self.link
            && let Err(e) = link.client.outbox.flush(&link.channel)
        {
            self.lost(&e.to_string(), at);
        }
    }

    /// The driver is gone, and with it the ring. Dropping the channel closes it, and epoll forgets it.
    fn lost(&mut self, why: &str, at: Instant) {
        say(Level::Error, &format!("lost the driver: {why}"));
        self.link = None;
        self.inbox.clear();
        self.inbox.push_back(ToHelper::IfDown);
        self.retry(at);
    }

    fn retry(&mut self, at: Instant) {
        self.again = at + self.wait;
        self.wait = (self.wait * 2).min(SLOWEST);
    }

    /// Closes the ring and says what was counted.
    fn end(&mut self) {
        self.helper.close();
        self.pass_on(now());
        self.print();
        let c = self.helper.counters();
        let (r, p) = (c.ring, c.path);
        say(
            Level::Info,
            &format!(
                "terminating: {} interrupts ({} missed), {} packets ({} bytes) received, {} ({} bytes) sent, {} of {} paths resolved",
                r.interrupts,
                r.missed,
                r.rx_packets,
                r.rx_bytes,
                r.tx_packets,
                r.tx_bytes,
                p.resolved,
                p.requests
            ),
        );
    }
}

impl Link {
    /// Watches the counter of the ring that was opened last. The driver's process has the same counter, so
    /// that closing ours would not end the watch.
    fn watch(&mut self, owner: &Owner) -> io::Result<()> {
        if let Some(old) = self.event.take() {
            owner.deregister(&old, EVENT)?;
        }
        if let Some(event) = self.client.event() {
            let event = event.as_fd().try_clone_to_owned()?;
            owner.register(&event, EVENT)?;
            self.event = Some(event);
        }
        Ok(())
    }
}

impl Answer for Service {
    fn answer(&mut self, request: &Request) -> Result<Response, Ticket> {
        self.asked = true;
        match self.cx(now(), |h, cx| h.request(cx, request)) {
            Reply::Now(response) => Ok(response),
            Reply::Ping(ticket) => Err(ticket),
        }
    }

    fn later(&mut self, ticket: Ticket) -> Option<Response> {
        self.helper.ping_result(ticket)
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.helper.ping_cancel(ticket);
    }
}
