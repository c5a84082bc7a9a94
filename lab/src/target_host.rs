//! The embedded target on host sockets: what an initiator anywhere on the network talks to.
//!
//! An actor that owns a listening socket and its connections, moves bytes between them and the sans-IO engine
//! ([`iscsi::target::TargetServer`]), and is woken by the reactor. A connection that has work waits in a
//! FIFO; serving it is one work item and makes at most one receive and one send. Backpressure goes both ways:
//! what the engine does not take is kept and nothing more is received, and what the socket does not take
//! stays in the engine, which then makes no more.
//!
//! Limits: connections by the engine's configuration, one receive buffer for all, and one rest of a receive
//! for each connection that the engine holds back. A connection that ended gets [`CLOSE_TIMEOUT`] to take the
//! last bytes; then it is reset.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};
use iscsi::target::{ConnId, Event, TargetServer};
use os::net::{Received, TcpListener, TcpStream};
use os::reactor::{Owner, Ready};
use os::signals::StopSignals;

/// Bytes that one receive may bring.
const RECEIVE: usize = 256 << 10;
/// Connections taken from the listening socket before others get their turn.
const ACCEPTS: u32 = 16;
/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a peer may take to receive the last bytes of a connection that ended.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const LISTENER: u32 = 0;
const SIGNALS: u32 = 1;
const FLUSHED: u32 = 2;
/// Token of the connection at index 0.
const FIRST: u32 = 3;

struct Conn {
    id: ConnId,
    stream: TcpStream,
    peer: SocketAddr,
    readable: bool,
    writable: bool,
    /// FIN or an error waits behind what can be read.
    hup: bool,
    /// Waits in the FIFO.
    queued: bool,
    /// Received, and not taken by the engine yet.
    rest: Vec<u8>,
    /// It has ended; when to give up on the last bytes and on the peer's FIN.
    closing: Option<Instant>,
    /// The last byte was sent, and our FIN.
    fin_sent: bool,
}

/// Takes what the engine reports, with the peer's address where it is known.
pub type EventSink = Box<dyn FnMut(&Event, Option<SocketAddr>)>;

/// A target on host sockets. See the module.
pub struct TargetHost {
    server: TargetServer,
    owner: Owner,
    listeners: Vec<TcpListener>,
    accept_ready: bool,
    accept_again: Option<Instant>,
    signals: Option<StopSignals>,
    flushed: Option<Arc<os::event::Event>>,
    stopping: bool,
    conns: Vec<Option<Conn>>,
    free: Vec<u32>,
    by_id: BTreeMap<ConnId, u32>,
    queue: VecDeque<u32>,
    /// Connections that have ended, in the order of their deadlines.
    closing: VecDeque<(Instant, ConnId)>,
    /// When the engine wants to be asked again.
    tick_due: Option<Instant>,
    buffer: Box<[u8]>,
    ready: Vec<Ready>,
    sink: Option<EventSink>,
    accept_failures: u64,
}

impl TargetHost {
    /// Serves `server` on `listener`. The runner wakes the actor for `owner`. With `signals` it stops on
    /// SIGTERM and SIGINT.
    ///
    /// # Errors
    /// The reactor refuses the descriptors.
    pub fn new(
        server: TargetServer,
        listener: TcpListener,
        owner: Owner,
        signals: Option<StopSignals>,
    ) -> io::Result<Self> {
        owner.register(&listener, LISTENER)?;
        if let Some(signals) = &signals {
            owner.register(signals, SIGNALS)?;
        }
        Ok(Self {
            server,
            owner,
            listeners: vec![listener],
            accept_ready: true,
            accept_again: None,
            signals,
            flushed: None,
            stopping: false,
            conns: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            queue: VecDeque::new(),
            closing: VecDeque::new(),
            tick_due: None,
            buffer: vec![0; RECEIVE].into_boxed_slice(),
            ready: Vec::new(),
            sink: None,
            accept_failures: 0,
        })
    }

    /// Serves at one more address.
    ///
    /// # Errors
    /// The reactor refuses the descriptor.
    pub fn also_at(&mut self, listener: TcpListener) -> io::Result<()> {
        self.owner.register(&listener, LISTENER)?;
        self.listeners.push(listener);
        Ok(())
    }

    /// `flushed` is signalled whenever a flush of a disk has ended ([`crate::storage::FileDisk`]).
    ///
    /// # Errors
    /// The reactor refuses the descriptor.
    pub fn watch_flushes(&mut self, flushed: Arc<os::event::Event>) -> io::Result<()> {
        self.owner.register(&*flushed, FLUSHED)?;
        self.flushed = Some(flushed);
        Ok(())
    }

    /// Reports what happens to `sink` from now on.
    pub fn set_sink(&mut self, sink: EventSink) {
        self.sink = Some(sink);
    }

    /// The engine: its counters, sessions and disks.
    #[must_use]
    pub fn server(&self) -> &TargetServer {
        &self.server
    }

    /// Open connections, closing ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.by_id.len()
    }

    /// How often no connection could be accepted for want of descriptors.
    #[must_use]
    pub fn accept_failures(&self) -> u64 {
        self.accept_failures
    }

    /// Takes no new connection and ends the present ones, sessions with an Asynchronous Message. Ready when
    /// [`stopped`](Self::stopped) says so, at most [`CLOSE_TIMEOUT`] later. Call it in the actor's own step
    /// or before it is woken.
    pub fn stop(&mut self, now: Instant) {
        for listener in self.listeners.drain(..) {
            // It is closed right after; the kernel forgets it then.
            let _ = self.owner.deregister(&listener, LISTENER);
        }
        self.stopping = true;
        for index in 0..self.conns.len() as u32 {
            let Some(conn) = &self.conns[index as usize] else { continue };
            if self.server.drop_session(conn.id) {
                self.end(index, now);
            } else if conn.closing.is_none() {
                self.forget(index, false);
            }
        }
    }

    /// Whether it was stopped and every connection is gone.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopping && self.by_id.is_empty()
    }

    /// Takes connections from each listening socket in turn, as long as any has some.
    fn accept(&mut self, cx: &Cx<'_>) -> u32 {
        let mut done = 0;
        while self.accept_ready && done < ACCEPTS {
            let before = done;
            for at in 0..self.listeners.len() {
                match self.listeners[at].accept() {
                    Ok(Some((stream, peer))) => {
                        done += 1;
                        self.admit(stream, peer, cx.now);
                    }
                    Ok(None) => {}
                    Err(_) => {
                        self.accept_failures += 1;
                        self.accept_ready = false;
                        self.accept_again = Some(cx.now + ACCEPT_PAUSE);
                    }
                }
            }
            self.accept_ready &= done > before;
        }
        done
    }

    /// A connection that finds no room is closed at once.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, now: Instant) {
        let Ok(local) = stream.local_addr() else { return };
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let Ok(id) = self.server.connect_from(Some(peer.ip()), &local.to_string(), now.as_nanos()) else {
            return;
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() as u32 - 1
        });
        if self.owner.register(&stream, FIRST + index).is_err() {
            self.server.closed(id);
            self.free.push(index);
            return;
        }
        self.by_id.insert(id, index);
        self.conns[index as usize] = Some(Conn {
            id,
            stream,
            peer,
            readable: false,
            writable: true,
            hup: false,
            queued: false,
            rest: Vec::new(),
            closing: None,
            fin_sent: false,
        });
    }

    fn take_readiness(&mut self, now: Instant) {
        let mut ready = std::mem::take(&mut self.ready);
        self.owner.drain(&mut ready);
        for r in ready.drain(..) {
            match r.token {
                LISTENER => self.accept_ready = true,
                SIGNALS => {
                    if self.signals.as_ref().is_some_and(StopSignals::take) {
                        self.stop(now);
                    }
                }
                FLUSHED => {
                    if self.flushed.as_ref().is_some_and(|f| f.take()) {
                        self.server.flushed();
                    }
                }
                token => {
                    let index = token - FIRST;
                    let Some(Some(conn)) = self.conns.get_mut(index as usize) else { continue };
                    conn.readable |= r.readable;
                    conn.writable |= r.writable;
                    conn.hup |= r.hup;
                    enqueue(&mut self.queue, conn, index);
                }
            }
        }
        self.ready = ready;
    }

    /// One receive and one send at most.
    fn serve(&mut self, cx: &mut Cx<'_>, index: u32) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        conn.queued = false;
        let Ok(more) = conn.serve(&mut self.server, &mut self.buffer, cx) else {
            return self.forget(index, false);
        };
        if more {
            enqueue(&mut self.queue, conn, index);
        } else if !conn.fin_sent && self.server.should_close(conn.id) {
            conn.fin_sent = true;
            match conn.stream.shutdown_write() {
                Ok(()) => self.end(index, cx.now),
                // The peer was faster.
                Err(_) => self.forget(index, false),
            }
        }
    }

    /// Starts the clock of a connection that has ended.
    fn end(&mut self, index: u32, now: Instant) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        if conn.closing.is_none() {
            let deadline = now + CLOSE_TIMEOUT;
            conn.closing = Some(deadline);
            self.closing.push_back((deadline, conn.id));
        }
        enqueue(&mut self.queue, conn, index);
    }

    /// Resets what did not end in time, and returns the next deadline.
    fn enforce_deadlines(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&(deadline, id)) = self.closing.front() {
            match self.by_id.get(&id) {
                Some(_) if deadline > now => return Some(deadline),
                Some(&index) => self.forget(index, true),
                None => {}
            }
            self.closing.pop_front();
        }
        None
    }

    fn forget(&mut self, index: u32, reset: bool) {
        let Some(conn) = self.conns[index as usize].take() else { return };
        // The descriptor is closed right after; an error changes nothing.
        let _ = self.owner.deregister(&conn.stream, FIRST + index);
        self.by_id.remove(&conn.id);
        self.server.closed(conn.id);
        self.free.push(index);
        if reset {
            conn.stream.abort();
        }
    }

    /// Connections that end through another one's request, or by a timer, have work too.
    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.server.next_event() {
            let conn = match &event {
                Event::LoggedIn { conn, .. } | Event::Closed { conn, .. } => Some(conn),
                _ => None,
            };
            let index = conn.and_then(|id| self.by_id.get(id)).copied();
            let peer = index.and_then(|i| self.conns[i as usize].as_ref()).map(|c| c.peer);
            if let Some(sink) = &mut self.sink {
                sink(&event, peer);
            }
            if let (Event::Closed { .. }, Some(index)) = (&event, index) {
                self.end(index, now);
            }
        }
    }

    fn enqueue_all(&mut self) {
        for (index, conn) in self.conns.iter_mut().enumerate() {
            if let Some(conn) = conn {
                enqueue(&mut self.queue, conn, index as u32);
            }
        }
    }
}

fn enqueue(queue: &mut VecDeque<u32>, conn: &mut Conn, index: u32) {
    if !std::mem::replace(&mut conn.queued, true) {
        queue.push_back(index);
    }
}

/// The peer closed the connection, or it broke.
struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Conn {
    /// Receives once, lets the engine work, sends once. Says whether there is more to do now.
    fn serve(
        &mut self,
        server: &mut TargetServer,
        buffer: &mut [u8],
        cx: &mut Cx<'_>,
    ) -> Result<bool, Ended> {
        let now = cx.now.as_nanos();
        let mut feed = |server: &mut TargetServer, bytes: &[u8]| {
            server.input(self.id, now, bytes, &mut |out| cx.rng.fill("target.chap", out))
        };
        if !self.rest.is_empty() && server.wants_input(self.id) {
            let taken = feed(server, &self.rest);
            self.rest.drain(..taken);
        }
        if self.readable && self.rest.is_empty() && (server.wants_input(self.id) || self.closing.is_some()) {
            match self.stream.recv(buffer)? {
                Received::Bytes(n) => {
                    // After a short receive the next edge comes with the next bytes, unless the end is there
                    // already.
                    self.readable = n == buffer.len() || self.hup;
                    let taken = feed(server, &buffer[..n]);
                    self.rest.extend_from_slice(&buffer[taken..n]);
                }
                Received::Nothing => self.readable = false,
                // Half a session is none: what was not sent yet has no reader.
                Received::Fin => return Err(Ended),
            }
        }
        let output = server.output(self.id);
        if self.writable && !output.is_empty() {
            let sent = self.stream.send(output)?;
            self.writable = sent == output.len();
            server.consume_output(self.id, sent);
        }
        let can_receive = server.wants_input(self.id) && (self.readable || !self.rest.is_empty());
        let can_send = self.writable && !server.output(self.id).is_empty();
        Ok(can_receive || can_send || (self.closing.is_some() && self.readable))
    }
}

impl Actor for TargetHost {
    fn name(&self) -> ActorId {
        ActorId::new("target", 0)
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        let now = cx.now;
        self.take_readiness(now);
        if self.accept_again.is_some_and(|t| t <= now) {
            self.accept_again = None;
            self.accept_ready = true;
        }
        let mut done = self.accept(cx);
        while done < budget.0
            && let Some(index) = self.queue.pop_front()
        {
            self.serve(cx, index);
            done += 1;
        }
        // Commands that take long go on after whatever else came, a turn at a time.
        if self.server.has_work()
            && let Some(id) = self.server.work(now.as_nanos())
        {
            done += 1;
            if let Some(&index) = self.by_id.get(&id)
                && let Some(Some(conn)) = self.conns.get_mut(index as usize)
            {
                enqueue(&mut self.queue, conn, index);
            }
        }
        let fired = self.tick_due.is_some_and(|t| t <= now);
        self.tick_due = self.server.tick(now.as_nanos()).map(Instant::from_nanos);
        if fired {
            // It may have pinged or given up on anybody.
            self.enqueue_all();
        }
        self.take_events(now);
        let mut next = Instant::earliest(self.tick_due, self.accept_again);
        next = Instant::earliest(next, self.enforce_deadlines(now));
        if !self.queue.is_empty()
            || self.server.has_work()
            || (self.accept_ready && !self.listeners.is_empty())
        {
            next = Some(now);
        }
        Progress { done, next }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::net::TcpStream as Client;
    use std::rc::Rc;

    use bus::streams::Seeded;
    use bus::trace::Trace;
    use iscsi::target::{CloseReason, ServerConfig};
    use os::reactor::Reactor;

    use super::*;
    use crate::runner::Executive;
    use crate::runner::inline::{Inline, Wakers};

    struct Bench {
        executive: Executive,
        host: Rc<RefCell<TargetHost>>,
        closed: Rc<RefCell<Vec<CloseReason>>>,
        address: SocketAddr,
    }

    impl Bench {
        fn new(config: ServerConfig) -> Self {
            let reactor = Reactor::new().unwrap();
            let owner = reactor.owner().unwrap();
            let index = owner.index();
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let host = TargetHost::new(TargetServer::new(config), listener, owner, None).unwrap();
            let host = Rc::new(RefCell::new(host));
            let closed = Rc::new(RefCell::new(Vec::new()));
            let sink = closed.clone();
            host.borrow_mut().set_sink(Box::new(move |event, peer| {
                if let Event::Closed { reason, .. } = event {
                    assert!(peer.is_some() || *reason == CloseReason::Lost);
                    sink.borrow_mut().push(*reason);
                }
            }));
            let wakers = Wakers::default();
            let pace = Inline::new(reactor, wakers.clone(), false);
            let mut executive = Executive::new(Box::new(pace), Box::new(Seeded::new(1)), Trace::off());
            let place = executive.place();
            wakers.join(index, place.wake());
            executive.install(&place, host.clone());
            Self { executive, host, closed, address }
        }

        /// Runs until `done`; fails the test after ten seconds.
        fn run(&mut self, mut done: impl FnMut(&TargetHost) -> bool) {
            let limit =
                self.executive.now() + Duration::from_secs(10) + Duration::from_nanos(os::clock::now_ns());
            let host = self.host.clone();
            let ended = self.executive.run(limit, |_| done(&host.borrow()));
            assert_eq!(ended, crate::runner::Ended::Done, "nothing happened in time");
        }

        fn client(&mut self) -> Client {
            let before = self.host.borrow().connections();
            let client = Client::connect(self.address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            self.run(|host| host.connections() > before);
            client
        }
    }

    #[test]
    fn a_stream_that_is_not_iscsi_is_hung_up_on_and_forgotten() {
        let mut b = Bench::new(ServerConfig::default());
        let mut client = b.client();
        client.write_all(&[0xff; 4096]).unwrap();
        let closed = b.closed.clone();
        b.run(|_| !closed.borrow().is_empty());
        // The FIN arrives although we keep our side open; then ours ends it.
        b.run(|host| host.conns[0].as_ref().is_some_and(|c| c.fin_sent));
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
        drop(client);
        b.run(|host| host.connections() == 0);
        assert!(matches!(b.closed.borrow()[..], [CloseReason::Framing(_), ..]), "{:?}", b.closed);
    }

    #[test]
    fn a_silent_connection_ends_with_the_login_timeout_and_a_reset() {
        let config = ServerConfig { login_timeout_ns: 50_000_000, ..ServerConfig::default() };
        let mut b = Bench::new(config);
        let mut client = b.client();
        b.run(|host| host.connections() == 0);
        assert_eq!(b.closed.borrow()[0], CloseReason::LoginTimeout);
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "first our FIN");
        assert!(client.write_all(&[0; 8]).is_err() || client.write_all(&[0; 8]).is_err(), "then RST");
    }

    #[test]
    fn a_connection_beyond_the_limit_is_closed_at_once_and_room_comes_back() {
        let mut b = Bench::new(ServerConfig { max_connections: 2, ..ServerConfig::default() });
        let (first, _second) = (b.client(), b.client());
        let mut third = Client::connect(b.address).unwrap();
        b.run(|host| host.server().counters().refused_connections == 1);
        assert_eq!(third.read(&mut [0; 8]).unwrap(), 0);
        drop(first);
        b.run(|host| host.connections() == 1);
        b.client();
    }

    #[test]
    fn stop_ends_every_connection_and_the_port() {
        let mut b = Bench::new(ServerConfig::default());
        let mut clients = [b.client(), b.client()];
        let now = b.executive.now();
        b.host.borrow_mut().stop(now);
        b.run(TargetHost::stopped);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        }
        assert!(Client::connect(b.address).is_err());
    }
}
