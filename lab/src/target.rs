//! The embedded target at the far end of a world's network.
//!
//! An actor that moves bytes between the streams of a [`Carrier`] (streams in memory, or a
//! [`Station`](crate::station::Station) with frames) and the sans-IO engine
//! ([`iscsi::target::TargetServer`]). A stream with work waits in a FIFO; serving it once is one work item.
//! The engine and its disks outlive the process that they model: [`Target::kill`] resets every stream and
//! stops listening, [`Target::restart`] listens again over the same blocks. The target on sockets is another
//! actor ([`crate::target_host`]): its carrier has errors, signals and descriptors that run out.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};
use hw_model::tcp::memory::{AddressInUse, PeerEvent, PeerReceived, StreamId};
use iscsi::target::{ConnId, Event, TargetServer};

use crate::carrier::Carrier;
use crate::execution::Executions;

struct Conn {
    id: ConnId,
    queued: bool,
    fin_sent: bool,
}

/// An embedded target. See the module.
pub struct Target {
    server: TargetServer,
    host: Box<dyn Carrier>,
    portals: Vec<SocketAddr>,
    conns: BTreeMap<StreamId, Conn>,
    streams: BTreeMap<ConnId, StreamId>,
    queue: VecDeque<StreamId>,
    happened: Vec<PeerEvent>,
    executions: Executions,
}

impl Target {
    /// Serves `server` at `portal`.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn new(
        server: TargetServer,
        mut host: impl Carrier + 'static,
        portal: SocketAddr,
    ) -> Result<Self, AddressInUse> {
        host.listen(portal)?;
        Ok(Self {
            server,
            host: Box::new(host),
            portals: vec![portal],
            conns: BTreeMap::new(),
            streams: BTreeMap::new(),
            queue: VecDeque::new(),
            happened: Vec::new(),
            executions: Executions::default(),
        })
    }

    /// Serves at one more address.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn also_at(&mut self, portal: SocketAddr) -> Result<(), AddressInUse> {
        self.host.listen(portal)?;
        self.portals.push(portal);
        Ok(())
    }

    /// The engine: its counters, sessions and disks.
    #[must_use]
    pub fn server(&self) -> &TargetServer {
        &self.server
    }

    /// Acts on the engine as an operator of the target does: `f` gets the connections too. Whatever it gave
    /// them to say is said in the next step.
    pub fn operate<R>(&mut self, f: impl FnOnce(&mut TargetServer, &[ConnId]) -> R) -> R {
        let ids: Vec<ConnId> = self.conns.values().map(|c| c.id).collect();
        let r = f(&mut self.server, &ids);
        self.enqueue_all();
        r
    }

    /// The process dies: every stream is reset and nobody listens.
    pub fn kill(&mut self) {
        self.host.kill();
        for conn in std::mem::take(&mut self.conns).into_values() {
            self.server.closed(conn.id);
        }
        self.streams.clear();
        self.queue.clear();
    }

    /// It is started again over the same disks.
    ///
    /// # Errors
    /// It is running.
    pub fn restart(&mut self) -> Result<(), AddressInUse> {
        self.portals.iter().try_for_each(|&portal| self.host.listen(portal))
    }

    /// The machine of the target falls silent, without FIN or RST, or is heard again.
    pub fn set_silent(&self, silent: bool) {
        self.host.set_silent(silent);
    }

    /// What was executed, if the server was configured to say so (`trace_commands`).
    #[must_use]
    pub fn executions(&self) -> &Executions {
        &self.executions
    }

    /// Connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    fn enqueue(&mut self, stream: StreamId) {
        if let Some(conn) = self.conns.get_mut(&stream)
            && !std::mem::replace(&mut conn.queued, true)
        {
            self.queue.push_back(stream);
        }
    }

    fn enqueue_all(&mut self) {
        let all: Vec<StreamId> = self.conns.keys().copied().collect();
        all.into_iter().for_each(|s| self.enqueue(s));
    }

    fn accept(&mut self, now: Instant) {
        while let Some((stream, local)) = self.host.accept() {
            match self.server.connect(&local.to_string(), now.as_nanos()) {
                Ok(id) => {
                    self.conns.insert(stream, Conn { id, queued: false, fin_sent: false });
                    self.streams.insert(id, stream);
                    self.enqueue(stream);
                }
                Err(_) => self.host.abort(stream),
            }
        }
    }

    fn look(&mut self, cx: &mut Cx<'_>) {
        let mut happened = std::mem::take(&mut self.happened);
        self.host.look(cx, &mut happened);
        for e in happened.drain(..) {
            match e {
                PeerEvent::Incoming => self.accept(cx.now),
                PeerEvent::Readable(s) | PeerEvent::Writable(s) => self.enqueue(s),
            }
        }
        self.happened = happened;
    }

    /// One receive and one send at most. Whether there is more to do now.
    fn serve(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> bool {
        let Some(conn) = self.conns.get_mut(&stream) else { return false };
        conn.queued = false;
        let (id, at, now) = (conn.id, cx.now, cx.now.as_nanos());
        let mut received = false;
        if self.server.wants_input(id) || self.server.should_close(id) {
            let mut entropy = |out: &mut [u8]| cx.rng.fill("target.chap", out);
            let server = &mut self.server;
            // The engine takes from the stream itself; what it does not take stays there.
            match self.host.recv_with(at, stream, &mut |bytes| server.input(id, now, bytes, &mut entropy)) {
                PeerReceived::Bytes(_) => received = true,
                PeerReceived::Nothing => {}
                PeerReceived::Fin | PeerReceived::Reset => {
                    self.forget(stream);
                    return false;
                }
            }
        }
        let output = self.server.output(id);
        let sent = if output.is_empty() { 0 } else { self.host.send(stream, output) };
        self.server.consume_output(id, sent);
        if self.server.should_close(id)
            && let Some(conn) = self.conns.get_mut(&stream)
            && !std::mem::replace(&mut conn.fin_sent, true)
        {
            self.host.shutdown(stream);
        }
        received || (sent > 0 && !self.server.output(id).is_empty())
    }

    fn forget(&mut self, stream: StreamId) {
        if let Some(conn) = self.conns.remove(&stream) {
            self.streams.remove(&conn.id);
            self.server.closed(conn.id);
        }
        self.host.close(stream);
    }

    /// Connections that end through another one's request, or by a timer, have work too.
    fn take_events(&mut self) {
        while let Some(event) = self.server.next_event() {
            self.executions.observe(&event);
            if let Event::Closed { conn, .. } = event
                && let Some(stream) = self.streams.get(&conn).copied()
            {
                self.enqueue(stream);
            }
        }
    }
}

impl Actor for Target {
    fn name(&self) -> ActorId {
        ActorId::new("target", 0)
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        self.look(cx);
        let mut done = 0;
        while done < budget.0
            && let Some(stream) = self.queue.pop_front()
        {
            done += 1;
            if self.serve(cx, stream) {
                self.enqueue(stream);
            }
        }
        // Commands that take long go on after whatever else came, a turn at a time.
        if self.server.has_work()
            && let Some(id) = self.server.work(cx.now.as_nanos())
        {
            done += 1;
            if let Some(&stream) = self.streams.get(&id) {
                self.enqueue(stream);
            }
        }
        let before = self.server.tick(0);
        let next = self.server.tick(cx.now.as_nanos());
        if before.is_some_and(|t| t <= cx.now.as_nanos()) {
            // A timer fired: it may have pinged anybody.
            self.enqueue_all();
        }
        self.take_events();
        let flushed = self.host.flush(cx);
        let next = if self.queue.is_empty() && !self.server.has_work() {
            next.map(Instant::from_nanos)
        } else {
            Some(cx.now)
        };
        Progress { done, next: Instant::earliest(next, flushed) }
    }
}
