//! iscsid's connections: one request and one response each, several at a time.
//!
//! A caller that is not root, or the user that we run as, is refused; one that sends no whole request within
//! [`ARRIVAL`] is dropped; a user who is not root has half of the places at most. None of them disturbs the
//! others: a turn accepts [`TURN`] connections at most, and refusals are told once in [`TELL_EVERY`].

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bus::Instant;
use iscsiuio::ipc::{BadRequest, HEADER, LARGEST_PAYLOAD, PingStatus, Request, Response};
use iscsiuio::log::Level;
use iscsiuio::ping::Ticket;
use os::local::NamedListener;
use os::reactor::Owner;

use crate::say;

/// Connections at a time; further ones wait in the socket's queue.
const CONNECTIONS: usize = 16;
/// Connections at a time of a user who is not root.
const OF_ONE_USER: usize = CONNECTIONS / 2;
/// Connections accepted, or refused, before everybody else has a turn.
const TURN: u32 = 64;
/// How long a request may take to arrive. It lies in the caller's memory.
const ARRIVAL: Duration = Duration::from_secs(2);
/// How long an answer may take to be made.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two lines about refusals.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

struct Caller {
    stream: UnixStream,
    bytes: Vec<u8>,
    ticket: Option<Ticket>,
    user: u32,
    until: Instant,
}

/// Refusals, and when they were last told.
#[derive(Default)]
struct Refusals {
    untold: u64,
    told: Option<Instant>,
}

impl Refusals {
    /// One more, of that user. The line for the log, if it is time for one.
    fn count(&mut self, user: u32, now: Instant) -> Option<String> {
        self.untold += 1;
        if self.told.is_some_and(|at| now.since(at) < TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        let others = match std::mem::take(&mut self.untold) {
            1 => String::new(),
            n => format!(", and {} before it", n - 1),
        };
        Some(format!("Access error: non-administrative connection rejected (user {user}{others})"))
    }
}

/// What the caller of [`Server::poll`] does for a request.
pub(crate) trait Answer {
    /// Answers at once, or later through [`Self::later`].
    fn answer(&mut self, request: &Request) -> Result<Response, Ticket>;
    /// The answer to an earlier one, when there is one.
    fn later(&mut self, ticket: Ticket) -> Option<Response>;
    /// Nobody waits any more.
    fn cancel(&mut self, ticket: Ticket);
}

/// The listening socket and its connections.
pub(crate) struct Server {
    listener: NamedListener,
    user: u32,
    first: u32,
    callers: Vec<Option<Caller>>,
    again: Option<Instant>,
    refusals: Refusals,
}

impl Server {
    /// Listens at `name`. Its tokens are `first` for the listener, and those that follow.
    pub(crate) fn new(name: &str, owner: &Owner, first: u32) -> io::Result<Self> {
        let listener = NamedListener::bind(name)?;
        owner.register(&listener, first)?;
        let callers = (0..CONNECTIONS).map(|_| None).collect();
        Ok(Self {
            listener,
            user: os::local::own_user()?,
            first,
            callers,
            again: None,
            refusals: Refusals::default(),
        })
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.callers.iter().flatten().map(|c| c.until).chain(self.again).min()
    }

    /// Accepts, reads, answers. Cheap when there is nothing to do.
    pub(crate) fn poll(&mut self, now: Instant, owner: &Owner, to: &mut dyn Answer) {
        loop {
            self.accept(now, owner);
            let mut freed = false;
            for i in 0..self.callers.len() {
                freed |= self.serve(i, now, owner, to);
            }
            // Who waits in the socket's queue while all places are taken is not reported again.
            if !freed {
                return;
            }
        }
    }

    fn accept(&mut self, now: Instant, owner: &Owner) {
        if self.again.is_some_and(|at| now < at) {
            return;
        }
        self.again = None;
        let mut turn = TURN;
        while let Some(place) = self.callers.iter().position(Option::is_none) {
            if turn == 0 {
                // There may be more, and the socket does not say so again.
                self.again = Some(now);
                return;
            }
            turn -= 1;
            match self.listener.accept() {
                Ok(Some((_, user))) if !self.admits(user) => {
                    if let Some(line) = self.refusals.count(user, now) {
                        say(Level::Error, &line);
                    }
                }
                Ok(Some((stream, user))) => {
                    if owner.register(&stream, self.first + 1 + place as u32).is_ok() {
                        let (bytes, until) = (Vec::new(), now + ARRIVAL);
                        self.callers[place] = Some(Caller { stream, bytes, ticket: None, user, until });
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.again = Some(now + PAUSE);
                    return;
                }
            }
        }
    }

    /// Whether a user may speak to us. One that is not root leaves places for root.
    fn admits(&self, user: u32) -> bool {
        let of_user = self.callers.iter().flatten().filter(|c| c.user == user).count();
        user == 0 || user == self.user && of_user < OF_ONE_USER
    }

    /// Goes on with one connection. Whether its place is free now.
    fn serve(&mut self, i: usize, now: Instant, owner: &Owner, to: &mut dyn Answer) -> bool {
        let Some(caller) = &mut self.callers[i] else { return false };
        let over = caller.go_on(now, to) || now >= caller.until;
        if over && let Some(caller) = self.callers[i].take() {
            if let Some(ticket) = caller.ticket {
                to.cancel(ticket);
            }
            // Closed right after this; the kernel forgets it then.
            let _ = owner.deregister(&caller.stream, self.first + 1 + i as u32);
        }
        over
    }
}

impl Caller {
    /// Whether the connection is over.
    fn go_on(&mut self, now: Instant, to: &mut dyn Answer) -> bool {
        let mut chunk = [0; 4096];
        let room = HEADER + LARGEST_PAYLOAD;
        let mut closed = false;
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    closed = true;
                    break;
                }
                Ok(_) if self.ticket.is_some() => {}
                Ok(n) if self.bytes.len() + n <= 2 * room => self.bytes.extend_from_slice(&chunk[..n]),
                Ok(_) => return true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        if let Some(ticket) = self.ticket {
            let Some(response) = to.later(ticket) else { return closed };
            self.ticket = None;
            return self.reply(&response);
        }
        match Request::decode(&self.bytes) {
            Err(BadRequest::Incomplete) => closed,
            Err(e) => {
                say(Level::Error, &e);
                true
            }
            Ok(request) => match to.answer(&request) {
                Ok(response) => self.reply(&response),
                Err(ticket) => {
                    self.ticket = Some(ticket);
                    self.until = now + PATIENCE;
                    closed
                }
            },
        }
    }

    fn reply(&mut self, response: &Response) -> bool {
        if response.ping != PingStatus::Success {
            say(Level::Info, &format!("ping: {:?}", response.ping));
        }
        // Twelve bytes always fit an empty socket buffer; a caller that has gone does not want them.
        let _ = self.stream.write_all(&response.bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_once_in_ten_seconds_and_none_is_forgotten() {
        let (mut r, at) = (Refusals::default(), |ms: u64| Instant::from_nanos(ms * 1_000_000));
        assert!(r.count(99, at(0)).is_some_and(|l| l.ends_with("rejected (user 99)")));
        let flood = (1..10_000).filter_map(|ms| r.count(99, at(ms))).count();
        assert_eq!(flood, 0);
        assert!(r.count(7, at(10_000)).is_some_and(|l| l.contains("user 7, and 9999 before it")));
    }
}
