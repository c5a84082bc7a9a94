//! The connections of one end: found by their 4-tuple, served when they have work, woken by their deadlines.
//!
//! The card's transport and the laboratory's hosts are built on it. It makes frames and takes them, and knows
//! neither where they come from nor what time it is. The cost of a call is proportional to what is ready.
//! Numbers name connections; whoever owns the stack chooses them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bus::Instant;

use super::deadlines::Deadlines;
use super::segment::{self, Segment, Tuple};
use super::stream::{Ending, Scratch, Stream};
use crate::tcp::{CONNECT_TIMEOUT, ConnectError, ConnectRequest, LinkHeader, TcpEvent};

/// Buckets of the index of connections.
const BUCKETS: usize = 1024;
/// How long a peer's last FIN is answered after both directions ended: twice the time that a segment may
/// live, as smoltcp sees it.
pub const TIME_WAIT: Duration = Duration::from_secs(10);
/// Connections in TIME-WAIT; when one more comes, the oldest ends early.
pub const TIME_WAITS: usize = 512;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a stack counted. Counters only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StackCounters { $($(#[$doc])* pub $name: u64,)* }

        impl StackCounters {
            /// Names and values, in order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Segments of a connection that came in.
    segments_in,
    /// Segments that went out.
    segments_out,
    /// RSTs that answered segments of no connection.
    refused,
    /// Last FINs that came again and were answered.
    farewells,
    /// Connections whose TIME-WAIT ended early for want of room.
    time_waits_cut,
    /// Connects with addresses or ports that no connection can have, or those of one that exists.
    impossible,
}

struct TimeWait {
    since: Instant,
    answer: Vec<u8>,
}

/// The connections of one end. See the module.
pub struct Stack {
    streams: Vec<Option<Box<Stream>>>,
    buckets: Box<[Option<u16>]>,
    ready: VecDeque<u16>,
    deadlines: Deadlines,
    events: VecDeque<(u16, TcpEvent)>,
    time_waits: BTreeMap<Tuple, TimeWait>,
    /// In the order in which they end. An entry whose connection came back meanwhile is skipped.
    ending: VecDeque<(Instant, Tuple)>,
    scratch: Scratch,
    answer: Vec<u8>,
    checksums: bool,
    counters: StackCounters,
}

impl Stack {
    /// A stack without connections. Without `checksums`, those of TCP are neither made nor looked at: for
    /// wires that damage nothing.
    #[must_use]
    pub fn new(checksums: bool) -> Self {
        Self {
            streams: Vec::new(),
            buckets: vec![None; BUCKETS].into_boxed_slice(),
            ready: VecDeque::new(),
            deadlines: Deadlines::default(),
            events: VecDeque::new(),
            time_waits: BTreeMap::new(),
            ending: VecDeque::new(),
            scratch: Scratch::default(),
            answer: Vec::new(),
            checksums,
            counters: StackCounters::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> StackCounters {
        self.counters
    }

    /// Connections that exist, without those in TIME-WAIT.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.iter().flatten().count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections in TIME-WAIT.
    #[must_use]
    pub fn time_waits(&self) -> usize {
        self.time_waits.len()
    }

    /// Entries that end a TIME-WAIT, or would have.
    #[cfg(test)]
    pub(super) fn endings(&self) -> usize {
        self.ending.len()
    }

    /// Starts a handshake. `seed` decides the initial sequence number.
    pub fn connect(&mut self, now: Instant, id: u16, seed: u64, request: &ConnectRequest) {
        let tuple = Tuple { local: request.local, remote: request.remote };
        let known = self.find(&tuple).is_some();
        let stream = Stream::connect(seed, request, self.checksums, now).filter(|_| !known);
        let Some(mut stream) = stream else {
            self.counters.impossible += 1;
            self.events.push_back((id, TcpEvent::ConnectFailed(ConnectError::Refused)));
            return;
        };
        stream.handshake = Some(now + CONNECT_TIMEOUT);
        self.time_waits.remove(&tuple);
        self.insert(id, stream);
    }

    /// Accepts the connection that the SYN in `frame` asks for. `request` has the frame's addresses. It is
    /// established when [`TcpEvent::Connected`] says so, or gone with [`TcpEvent::ConnectFailed`].
    pub fn accept(
        &mut self,
        now: Instant,
        id: u16,
        seed: u64,
        request: &ConnectRequest,
        frame: &[u8],
        emit: &mut dyn FnMut(&[u8]),
    ) {
        let stream = Stream::listen(seed, request, self.checksums, now);
        let (Some(mut stream), Some(segment)) = (stream, Segment::find(frame)) else {
            self.counters.impossible += 1;
            self.events.push_back((id, TcpEvent::ConnectFailed(ConnectError::Refused)));
            return;
        };
        stream.handshake = Some(now + CONNECT_TIMEOUT);
        self.time_waits.remove(&segment.tuple);
        self.insert(id, stream);
        self.input(now, frame, &segment, emit);
    }

    /// Takes a segment if it belongs to a connection, also to one in TIME-WAIT.
    pub fn input(
        &mut self,
        now: Instant,
        frame: &[u8],
        segment: &Segment,
        emit: &mut dyn FnMut(&[u8]),
    ) -> bool {
        let Some(id) = self.find(&segment.tuple) else { return self.time_wait(frame, segment, emit) };
        let Some(stream) = stream(&mut self.streams, id).filter(|s| s.same_vlan(frame)) else { return false };
        self.counters.segments_in += 1;
        if stream.passive {
            stream.follow(frame);
        }
        let datagram = &frame[segment.ip.l3..segment.ip.end];
        let ending = stream.input(now, datagram, segment, &mut self.scratch, emit);
        enqueue(&mut self.ready, stream, id);
        self.observe(now, id, ending);
        true
    }

    /// Answers a segment of no connection with RST.
    pub fn refuse(&mut self, frame: &[u8], segment: &Segment, emit: &mut dyn FnMut(&[u8])) {
        if segment::refuse(frame, segment, self.checksums, &mut self.answer) {
            self.counters.refused += 1;
            emit(&self.answer);
        }
    }

    /// Closes gracefully.
    pub fn close(&mut self, id: u16) {
        if let Some(s) = stream(&mut self.streams, id) {
            s.close();
            enqueue(&mut self.ready, s, id);
        }
    }

    /// Ends a connection with RST; it is forgotten, and so is what it had to say.
    pub fn abort(&mut self, now: Instant, id: u16, emit: &mut dyn FnMut(&[u8])) {
        self.events.retain(|&(of, _)| of != id);
        if let Some(mut s) = self.remove(id) {
            s.abort(now, &mut self.scratch, emit);
        }
    }

    /// Ends everything with RST, and forgets TIME-WAIT too.
    pub fn reset(&mut self, now: Instant, emit: &mut dyn FnMut(&[u8])) {
        for id in 0..self.streams.len() {
            self.abort(now, id as u16, emit);
        }
        self.time_waits.clear();
        self.ending.clear();
        self.events.clear();
    }

    /// Forgets everything without a word: the machine died.
    pub fn forget(&mut self) {
        for id in 0..self.streams.len() {
            self.remove(id as u16);
        }
        self.time_waits.clear();
        self.ending.clear();
        self.events.clear();
    }

    /// Changes the link header of a connection's frames.
    pub fn set_link(&mut self, id: u16, link: LinkHeader) {
        if let Some(s) = stream(&mut self.streams, id) {
            s.set_link(link);
        }
    }

    /// Changes the MAC that a connection's frames come from.
    pub fn set_source(&mut self, id: u16, mac: [u8; 6]) {
        if let Some(s) = stream(&mut self.streams, id) {
            s.set_source(mac);
        }
    }

    /// This end's address of a connection.
    #[must_use]
    pub fn local(&self, id: u16) -> Option<SocketAddr> {
        Some(self.streams.get(usize::from(id))?.as_ref()?.tuple.local)
    }

    /// The peer's FIN has come, and everything before it was taken.
    #[must_use]
    pub fn is_at_end(&self, id: u16) -> bool {
        let s = self.streams.get(usize::from(id)).and_then(Option::as_ref);
        s.is_some_and(|s| s.fin_received() && s.socket().recv_queue() == 0)
    }

    /// Queues bytes; how many there was room for. Less than all: [`TcpEvent::Writable`] follows.
    pub fn send(&mut self, id: u16, bytes: &[u8]) -> usize {
        let Some(s) = stream(&mut self.streams, id).filter(|s| s.connected && !s.closed) else { return 0 };
        if bytes.is_empty() {
            return 0;
        }
        let n = s.socket_mut().send_slice(bytes).unwrap_or(0);
        s.starved = n < bytes.len();
        enqueue(&mut self.ready, s, id);
        n
    }

    /// Hands received bytes to `sink` in order; when it takes less than all, the rest stays. Returns the
    /// bytes taken.
    pub fn recv(&mut self, now: Instant, id: u16, mut sink: impl FnMut(&[u8]) -> usize) -> usize {
        let Some(s) = stream(&mut self.streams, id) else { return 0 };
        let mut taken = 0;
        while s.socket().recv_queue() > 0 {
            let outcome = s.socket_mut().recv(|bytes| {
                let n = sink(bytes).min(bytes.len());
                (n, (n, n < bytes.len()))
            });
            let Ok((n, short)) = outcome else { break };
            taken += n;
            if short {
                break;
            }
        }
        s.told = s.socket().recv_queue() > 0;
        if taken > 0 {
            // The window may have opened enough to say so.
            enqueue(&mut self.ready, s, id);
        }
        self.observe(now, id, None);
        taken
    }

    /// Serves what is ready or due: sends, times out. Cost is proportional to that.
    pub fn poll(&mut self, now: Instant, emit: &mut dyn FnMut(&[u8])) {
        while let Some(id) = self.deadlines.due(now) {
            let Some(s) = stream(&mut self.streams, id) else { continue };
            if s.handshake.is_some_and(|at| at <= now) {
                self.handshake_failed(now, id, emit);
            } else {
                enqueue(&mut self.ready, s, id);
            }
        }
        while self.ending.front().is_some_and(|&(at, _)| at <= now) {
            self.end_time_wait();
        }
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(s) = stream(&mut self.streams, id) else { continue };
            s.queued = false;
            let (more, ending) = s.turn(now, &mut self.scratch, emit);
            if more {
                enqueue(&mut self.ready, s, id);
            }
            let deadline = s.deadline(now);
            self.deadlines.set(id, deadline);
            self.observe(now, id, ending);
        }
        self.counters.segments_out = self.scratch.sent();
    }

    /// What happened next, if something did.
    pub fn next_event(&mut self) -> Option<(u16, TcpEvent)> {
        self.events.pop_front()
    }

    /// When [`Stack::poll`] has work.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.ready.is_empty() || !self.events.is_empty() {
            return Some(Instant::ZERO);
        }
        Instant::earliest(self.deadlines.first(), self.ending.front().map(|&(at, _)| at))
    }

    fn find(&self, tuple: &Tuple) -> Option<u16> {
        let mut at = self.buckets[tuple.bucket(BUCKETS)];
        while let Some(id) = at {
            let s = self.streams[usize::from(id)].as_ref()?;
            if s.tuple == *tuple {
                return Some(id);
            }
            at = s.chain;
        }
        None
    }

    fn insert(&mut self, id: u16, mut s: Stream) {
        let index = usize::from(id);
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, || None);
        }
        debug_assert!(self.streams[index].is_none(), "the owner frees an id before it uses it again");
        s.chain = self.buckets[s.tuple.bucket(BUCKETS)].replace(id);
        enqueue(&mut self.ready, &mut s, id);
        self.streams[index] = Some(Box::new(s));
    }

    fn remove(&mut self, id: u16) -> Option<Box<Stream>> {
        let s = self.streams.get_mut(usize::from(id))?.take()?;
        self.deadlines.set(id, None);
        self.ready.retain(|&of| of != id);
        let bucket = &mut self.buckets[s.tuple.bucket(BUCKETS)];
        if *bucket == Some(id) {
            *bucket = s.chain;
            return Some(s);
        }
        let mut at = *bucket;
        while let Some(before) = at.and_then(|id| self.streams[usize::from(id)].as_mut()) {
            if before.chain == Some(id) {
                before.chain = s.chain;
                break;
            }
            at = before.chain;
        }
        Some(s)
    }

    fn handshake_failed(&mut self, now: Instant, id: u16, emit: &mut dyn FnMut(&[u8])) {
        if let Some(mut s) = self.remove(id) {
            s.abort(now, &mut self.scratch, emit);
            self.events.push_back((id, TcpEvent::ConnectFailed(ConnectError::TimedOut)));
        }
    }

    /// Compares a stream's state with what its owner was told.
    fn observe(&mut self, now: Instant, id: u16, ending: Option<Ending>) {
        let Some(s) = stream(&mut self.streams, id) else { return };
        if !s.connected && ending.is_none() && s.socket().may_send() {
            s.connected = true;
            s.handshake = None;
            self.events.push_back((id, TcpEvent::Connected));
        }
        let waiting = s.socket().recv_queue();
        if s.connected && waiting > 0 && !std::mem::replace(&mut s.told, true) {
            self.events.push_back((id, TcpEvent::Readable));
        }
        let (room, all) = (s.socket().send_capacity() - s.socket().send_queue(), s.socket().send_capacity());
        if s.starved && room >= all / 4 {
            s.starved = false;
            self.events.push_back((id, TcpEvent::Writable));
        }
        let over = ending == Some(Ending::Graceful);
        if s.connected
            && (over || s.fin_received() && waiting == 0)
            && !std::mem::replace(&mut s.fin_told, true)
        {
            self.events.push_back((id, TcpEvent::Fin));
        }
        let graceful = over
            || s.fin_told && s.state() == smoltcp::socket::tcp::State::TimeWait && !s.farewell.is_empty();
        if graceful {
            if let Some(s) = self.remove(id) {
                self.start_time_wait(now, s);
            }
            self.events.push_back((id, TcpEvent::Closed));
            return;
        }
        let Some(ending) = ending else { return };
        let event = match (s.connected, ending) {
            (false, Ending::TimedOut) => TcpEvent::ConnectFailed(ConnectError::TimedOut),
            (false, _) => TcpEvent::ConnectFailed(ConnectError::Refused),
            (true, Ending::TimedOut) => TcpEvent::TimedOut,
            (true, _) => TcpEvent::Rst,
        };
        self.remove(id);
        self.events.push_back((id, event));
    }

    fn start_time_wait(&mut self, now: Instant, s: Box<Stream>) {
        if s.farewell.is_empty() {
            return;
        }
        if self.time_waits.len() >= TIME_WAITS {
            self.counters.time_waits_cut += 1;
            while !self.ending.is_empty() && !self.end_time_wait() {}
        }
        if self.ending.len() >= 2 * TIME_WAITS {
            // Ends that are used again and again leave an entry behind each time.
            let waits = &self.time_waits;
            self.ending.retain(|(at, tuple)| waits.get(tuple).is_some_and(|t| t.since + TIME_WAIT == *at));
        }
        self.ending.push_back((now + TIME_WAIT, s.tuple));
        self.time_waits.insert(s.tuple, TimeWait { since: now, answer: s.farewell });
    }

    /// Takes the oldest entry. False: its connection came back meanwhile, or was reset, and nothing ends with
    /// it.
    fn end_time_wait(&mut self) -> bool {
        let Some((at, tuple)) = self.ending.pop_front() else { return false };
        let over = self.time_waits.get(&tuple).is_some_and(|t| t.since + TIME_WAIT == at);
        over && self.time_waits.remove(&tuple).is_some()
    }

    /// A segment after the end: the last FIN is answered again, RST ends the wait, and a SYN begins something
    /// new.
    fn time_wait(&mut self, frame: &[u8], segment: &Segment, emit: &mut dyn FnMut(&[u8])) -> bool {
        if self.time_waits.is_empty() || segment.is_syn() {
            return false;
        }
        let Some(t) = self.time_waits.get_mut(&segment.tuple) else { return false };
        if segment.is_rst() {
            self.time_waits.remove(&segment.tuple);
        } else if segment.is_fin() {
            self.counters.farewells += 1;
            t.answer[..6].copy_from_slice(&frame[6..12]);
            emit(&t.answer);
        }
        true
    }
}

fn stream(streams: &mut [Option<Box<Stream>>], id: u16) -> Option<&mut Stream> {
    streams.get_mut(usize::from(id))?.as_deref_mut()
}

fn enqueue(ready: &mut VecDeque<u16>, s: &mut Stream, id: u16) {
    if !std::mem::replace(&mut s.queued, true) {
        ready.push_back(id);
    }
}
