//! Hostile peers, described once: for the property tests here, for the fuzz targets in `fuzz/`, and for the
//! replay of what those found.
//!
//! A description is a sequence of calls. Property tests draw one value by value; [`calls`] and [`lies`] read
//! one out of any bytes, so that a fuzzer's mutations of the bytes are mutations of the sequence.
//! [`run_server`] and [`run_client`] play it and check what must hold whatever the peer does.
#![cfg_attr(not(test), allow(clippy::unwrap_used, clippy::missing_panics_doc))]

use std::os::fd::{AsFd, OwnedFd};

use os::event::Event;

use crate::actor::Budget;
use crate::config::{COMMAND_BUS_MASTER, COMMAND_MEMORY, MSIX_ENABLE};
use crate::pci::{Bar, Platform, ResetKind};

use super::client::{Client, ClientConfig};
use super::errno::Errno;
use super::server::Holdings;
use super::testing::{Fake, Raw, STORAGE, World, honest, shared};
use super::version::Capabilities;
use super::wire::{Header, Kind};

/// Steps of a sequence at most.
const STEPS: usize = 64;

/// What a client does to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Sends a well-formed message: kind (0 posted, 1 a reply, else a request), command, payload, and how
    /// many descriptors.
    Message {
        /// Of the header.
        kind: u8,
        /// Of the header.
        command: u16,
        /// Whatever follows the header.
        payload: Vec<u8>,
        /// The first is shared memory, the others are eventfds.
        fds: usize,
    },
    /// Lets the card run.
    Step,
    /// Leaves, and another client greets.
    Reattach,
    /// Sends bytes that need not be a message; then the connection is not what it was.
    Bytes(Vec<u8>),
}

/// What a server's answer becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lie {
    /// Which answer, from 1.
    pub at: usize,
    /// 0 another payload, 1 its bytes changed, 2 an error, 3 a request before it.
    pub how: u8,
    /// For what `how` says.
    pub bytes: Vec<u8>,
}

/// Reads values out of any bytes; zero when they end.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head.to_vec()
    }
}

/// The calls that `input` describes. With the top bit of its length byte, a payload's first word is its
/// length, as many commands want it; longer ones come in units of four bytes.
#[must_use]
pub fn calls(input: &[u8]) -> Vec<Call> {
    let mut c = Cursor(input);
    let mut out = Vec::new();
    while !c.0.is_empty() && out.len() < STEPS {
        let what = c.byte();
        out.push(match what & 0x1f {
            28 | 29 => Call::Step,
            30 => Call::Reattach,
            31 => {
                let n = c.byte().into();
                Call::Bytes(c.bytes(n))
            }
            command => {
                let length = c.byte();
                let mut payload = c.bytes(usize::from(length & 0x7f));
                if length & 0x80 != 0 && payload.len() >= 4 {
                    let n = payload.len() as u32;
                    payload[..4].copy_from_slice(&n.to_le_bytes());
                }
                // Mostly requests without descriptors, as in life.
                let kind = [2, 2, 2, 2, 2, 2, 0, 1][usize::from(what >> 5)];
                let fds = usize::from(c.byte() & 3);
                Call::Message { kind, command: command.into(), payload, fds }
            }
        });
    }
    out
}

/// The lies that `input` describes.
#[must_use]
pub fn lies(input: &[u8]) -> Vec<Lie> {
    let mut c = Cursor(input);
    let mut out = Vec::new();
    while !c.0.is_empty() && out.len() < STEPS {
        let (at, how, n) = (usize::from(c.byte() % 64), c.byte(), usize::from(c.byte() & 0x7f));
        out.push(Lie { at, how, bytes: c.bytes(n) });
    }
    out
}

fn descriptor(index: usize) -> OwnedFd {
    if index == 0 { shared(3).1 } else { Event::new().unwrap().as_fd().try_clone_to_owned().unwrap() }
}

/// A server with small limits, and a client that says `calls` after its greeting: each request is answered
/// exactly once and with a real error, nothing grows beyond its limit, and nothing is left of a client that
/// has gone.
///
/// # Panics
/// When that does not hold.
pub fn run_server(calls: &[Call]) {
    const NOTHING: Holdings = Holdings { maps: 0, unsent: 0, deferred: 0 };
    let limits = Capabilities { max_maps: 4, max_data: 8192, max_fds: 2, ..Capabilities::default() };
    let mut raw = Raw::detached(limits, |_| ());
    raw.greet(&Capabilities::default());
    let mut orderly = true;
    for call in calls {
        match call {
            Call::Message { kind, command, payload, fds } => {
                let kind = match kind {
                    0 => Kind::Posted,
                    1 => Kind::Reply,
                    _ => Kind::Request,
                };
                raw.send(kind, 3, *command, payload, (0..*fds).map(descriptor).collect());
                raw.server.step(&mut raw.world.cx(), Budget(4), None);
                let answers = raw.answers();
                if orderly {
                    assert_eq!(answers.len(), usize::from(kind == Kind::Request), "{call:?}");
                }
                for (header, (outcome, fds)) in answers.into_iter().filter(|_| orderly) {
                    assert_eq!((header.id, header.command), (3, *command));
                    assert!(outcome.as_ref().err().is_none_or(|e| e.value() != 0));
                    assert!(outcome.is_ok() || fds.is_empty());
                }
            }
            Call::Step => {
                raw.server.step(&mut raw.world.cx(), Budget(4), None);
                raw.answers();
            }
            Call::Reattach => {
                raw.server.detach(&mut raw.world.cx());
                assert_eq!(raw.server.holdings(), NOTHING);
                raw.greet(&Capabilities::default());
                orderly = true;
            }
            Call::Bytes(bytes) => {
                raw.server.receive(&mut raw.world.cx(), bytes, []);
                raw.answers();
                orderly &= bytes.is_empty();
            }
        }
        assert!(raw.server.holdings().maps <= 4);
    }
    raw.server.detach(&mut raw.world.cx());
    assert_eq!(raw.server.holdings(), NOTHING);
    raw.greet(&Capabilities::default());
    assert_eq!(raw.read32(0, 0x44), 0x44, "the next client is served");
}

/// A client whose server lies now and then: it never panics, and either stands or is lost.
///
/// # Panics
/// When that does not hold.
pub fn run_client(lies: &[Lie]) {
    const SMALL: ClientConfig = ClientConfig { dma_limit: 64 << 10, share: true, doorbells: true };
    let mut raw = Raw::detached(Capabilities::default(), |_| ());
    raw.server.attach(&mut raw.world.cx());
    let mut n = 0;
    let link = Fake(|h: Header, p: &[u8]| {
        n += 1;
        let asked = h.kind == Kind::Request || h.kind == Kind::Posted;
        let mut answers = if asked { honest(&mut raw, h, p) } else { Vec::new() };
        for lie in lies.iter().filter(|lie| lie.at == n) {
            match (lie.how % 4, answers.first_mut()) {
                (0, Some(a)) => a.1 = lie.bytes.clone(),
                (1, Some(a)) => a.1.iter_mut().zip(&lie.bytes).for_each(|(b, lie)| *b ^= lie),
                (2, Some(a)) => a.0 = Kind::Failed(Errno::received(lie.how.into())),
                _ => answers.insert(0, (Kind::Request, lie.bytes.clone())),
            }
        }
        answers
    });
    let mut w = World::new();
    let Ok(mut c) = Client::attach(&mut w.cx(), link, SMALL) else { return };
    c.config_write(&mut w.cx(), 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    c.config_write(&mut w.cx(), 0xa0, MSIX_ENABLE);
    let since = c.epoch();
    for i in 0..10 {
        c.write32(&mut w.cx(), Bar(0), STORAGE, i);
        // What it reads may be a lie.
        let _ = c.read32(&mut w.cx(), Bar(0), STORAGE);
        c.take_interrupts();
    }
    let r = c.reset(&mut w.cx(), ResetKind::Device);
    assert!(c.is_lost() || r.is_ok_and(|p| p.epoch() > since));
    if c.is_lost() {
        assert!(c.revoked(&mut w.cx(), since).is_ok_and(|p| p.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds of a fuzz target: what a run of it kept because it reached something new, and everything it
    /// ever broke.
    fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
        let dir = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut all: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|f| f.unwrap().path())
            .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
            .collect();
        all.sort();
        assert!(!all.is_empty());
        all
    }

    #[test]
    fn what_the_fuzzer_found_for_a_server_is_survived() {
        for (name, input) in seeds("vfio_user_server") {
            println!("{name}");
            run_server(&calls(&input));
        }
    }

    #[test]
    fn what_the_fuzzer_found_for_a_client_is_survived() {
        for (name, input) in seeds("vfio_user_client") {
            println!("{name}");
            run_client(&lies(&input));
        }
    }

    #[test]
    fn bytes_describe_calls() {
        let request =
            |command, payload: &[u8], fds| Call::Message { kind: 2, command, payload: payload.into(), fds };
        let input = [4, 0x85, 9, 9, 9, 9, 7, 1, 28, 30, 31, 2, 0xaa, 0xbb, 0xc1, 1, 5];
        assert_eq!(
            calls(&input),
            [
                request(4, &[5, 0, 0, 0, 7], 1),
                Call::Step,
                Call::Reattach,
                Call::Bytes(vec![0xaa, 0xbb]),
                Call::Message { kind: 0, command: 1, payload: vec![5], fds: 0 },
            ]
        );
        assert_eq!(calls(&[30; 1000]).len(), STEPS);
        assert_eq!(
            lies(&[65, 7, 2, 1, 2, 3]),
            [Lie { at: 1, how: 7, bytes: vec![1, 2] }, Lie { at: 3, how: 0, bytes: vec![] }]
        );
    }
}
