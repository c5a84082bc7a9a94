//! iscsid's connections: one request and one response each, several at a time.
//!
//! A caller that is not root, or the user that we run as, is refused; one that sends no whole request within [`PATIENCE`] is
//! dropped. Neither disturbs the others.

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
/// How long a request may take to arrive, and an answer to be made.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long accepting pauses when the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

struct Caller {
    stream: UnixStream,
    bytes: Vec<u8>,
    ticket: Option<Ticket>,
    until: Instant,
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
    pub(crate) refused: u64,
}

impl Server {
    /// Listens at `name`. Its tokens are `first` for the listener, and those that follow.
    pub(crate) fn new(name: &str, owner: &Owner, first: u32) -> io::Result<Self> {
        let listener = NamedListener::bind(name)?;
        owner.register(&listener, first)?;
        let callers = (0..CONNECTIONS).map(|_| None).collect();
        Ok(Self { listener, user: os::local::own_user()?, first, callers, again: None, refused: 0 })
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
        while let Some(place) = self.callers.iter().position(Option::is_none) {
            match self.listener.accept() {
                Ok(Some((_, user))) if user != 0 && user != self.user => {
                    self.refused += 1;
                    say(Level::Error, &"Access error: non-administrative connection rejected");
                }
                Ok(Some((stream, _))) => {
                    if owner.register(&stream, self.first + 1 + place as u32).is_ok() {
                        let until = now + PATIENCE;
                        self.callers[place] = Some(Caller { stream, bytes: Vec::new(), ticket: None, until });
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

    /// Goes on with one connection. Whether its place is free now.
    fn serve(&mut self, i: usize, now: Instant, owner: &Owner, to: &mut dyn Answer) -> bool {
        let Some(caller) = &mut self.callers[i] else { return false };
        let over = caller.go_on(to) || now >= caller.until;
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
    fn go_on(&mut self, to: &mut dyn Answer) -> bool {
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
