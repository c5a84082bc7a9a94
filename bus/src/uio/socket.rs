//! The seam between driver and helper over a local stream socket: the messages of [`super`] as bytes and
//! descriptors.
//!
//! Sans-IO: whoever owns the socket feeds what it received and sends what [`Outbox::next`] shows.
//! [`Exporter`] is the driver's end, [`UioClient`] the helper's. Each end begins with a hello of magic and
//! version. A message is a length (u32, of what follows the head), a kind (u8), the number of its descriptors
//! (u8), two zero bytes, and its body; all little-endian. Descriptors go with a message's first byte. Opened
//! carries the files of the status block, ring, and buffers, each with its offset, and an eventfd that counts
//! the ring's interrupts.
//!
//! What makes no sense is a [`WireError`]; the connection is of no use any more. Queues are bounded: a peer
//! that takes nothing is dropped by the owner.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use os::event::{Event, Signal};
use os::shm::Mapping;
use os::unix::Channel;
use thiserror::Error;

use super::{
    BUFFERS_BYTES, EventCount, FromHelper, OpenRefused, PathFailure, PathHandle, PathReq, PathUpdate,
    RING_BYTES, STATUS_BYTES, ToHelper, UioMaps, Value,
};
use crate::mem::View;

/// First word of the hello.
const MAGIC: u32 = u32::from_le_bytes(*b"cuio");
/// Version of the format.
const VERSION: u16 = 2;
const HEAD: usize = 8;
/// Longest body: an Opened with all its registers.
const BODY: usize = 4 + 3 * 12 + 2 + 8 * REGISTERS;
/// Readable registers at most.
const REGISTERS: usize = 64;
/// Descriptors of a message at most, and that wait for their message.
const FDS: usize = 4;
/// Messages that wait for the socket.
pub const QUEUE: usize = 1024;

/// What cannot be on the wire.
#[derive(Debug, Error)]
pub enum WireError {
    /// The first message is not a hello of our version.
    #[error("the peer does not speak version {VERSION} of the uio protocol")]
    Hello,
    /// A message that does not exist, or with a body or descriptors that it cannot have.
    #[error("malformed message of kind {0}")]
    Malformed(u8),
    /// Descriptors that belong to no message.
    #[error("unexpected descriptors")]
    Descriptors,
    /// Memory or event counter could not be taken over.
    #[error("cannot map the ring: {0}")]
    Map(#[from] io::Error),
    /// The peer takes nothing: [`QUEUE`] messages wait.
    #[error("the peer takes no messages")]
    Slow,
}

mod kind {
    pub(super) const HELLO: u8 = 0;
    pub(super) const IF_UP: u8 = 1;
    pub(super) const PATH_REQ: u8 = 2;
    pub(super) const IF_DOWN: u8 = 3;
    pub(super) const OPENED: u8 = 4;
    pub(super) const OPEN_REFUSED: u8 = 5;
    pub(super) const START: u8 = 16;
    pub(super) const PATH_UPDATE: u8 = 17;
    pub(super) const OPEN: u8 = 18;
    pub(super) const CLOSE: u8 = 19;
    pub(super) const WRITE: u8 = 20;
}

/// What waits for the socket.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Bytes of the first that are sent.
    sent: usize,
}

impl Outbox {
    fn new() -> Self {
        let mut body = MAGIC.to_le_bytes().to_vec();
        body.extend(VERSION.to_le_bytes());
        let mut outbox = Self { queue: VecDeque::new(), sent: 0 };
        let _ = outbox.push(kind::HELLO, &body, Vec::new());
        outbox
    }

    fn push(&mut self, kind: u8, body: &[u8], fds: Vec<OwnedFd>) -> Result<(), WireError> {
        if self.queue.len() >= QUEUE {
            return Err(WireError::Slow);
        }
        let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
        bytes.extend([kind, fds.len() as u8, 0, 0]);
        bytes.extend_from_slice(body);
        self.queue.push_back((bytes, fds));
        Ok(())
    }

    /// The next bytes to send, with the descriptors that go with the first of them.
    #[must_use]
    pub fn next(&self) -> Option<(&[u8], Vec<BorrowedFd<'_>>)> {
        let (bytes, fds) = self.queue.front()?;
        let fds = if self.sent == 0 { fds.iter().map(AsFd::as_fd).collect() } else { Vec::new() };
        Some((&bytes[self.sent..], fds))
    }

    /// Sends as much as the socket takes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self, channel: &Channel) -> io::Result<()> {
        while let Some((bytes, fds)) = self.next() {
            let n = channel.send(bytes, &fds)?;
            if n == 0 {
                break;
            }
            self.sent(n);
        }
        Ok(())
    }

    /// `n` of the bytes of [`Outbox::next`] were sent.
    pub fn sent(&mut self, n: usize) {
        self.sent += n;
        if self.queue.front().is_some_and(|(bytes, _)| self.sent >= bytes.len()) {
            self.queue.pop_front();
            self.sent = 0;
        }
    }
}

/// What came in and is not a whole message yet.
#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    greeted: bool,
}

struct Message {
    kind: u8,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Inbox {
    fn feed(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), WireError> {
        self.bytes.extend_from_slice(bytes);
        self.fds.extend(fds);
        if self.fds.len() > FDS { Err(WireError::Descriptors) } else { Ok(()) }
    }

    /// The next whole message after the hello.
    fn next(&mut self) -> Result<Option<Message>, WireError> {
        loop {
            let Some(&[a, b, c, d, kind, fds, z0, z1]) = self.bytes.first_chunk::<HEAD>() else {
                return Ok(None);
            };
            let len = u32::from_le_bytes([a, b, c, d]) as usize;
            let fds = usize::from(fds);
            if len > BODY || fds > FDS || (z0, z1) != (0, 0) || fds != 0 && kind != kind::OPENED {
                return Err(WireError::Malformed(kind));
            }
            let Some(body) = self.bytes.get(HEAD..HEAD + len) else { return Ok(None) };
            let body = body.to_vec();
            self.bytes.drain(..HEAD + len);
            if self.fds.len() < fds {
                return Err(WireError::Descriptors);
            }
            let fds = self.fds.drain(..fds).collect();
            if self.greeted {
                return Ok(Some(Message { kind, body, fds }));
            }
            let mut r = Reader::new(kind, &body);
            let ours = kind == kind::HELLO && r.u32()? == MAGIC && r.u16()? == VERSION;
            if !ours || r.end().is_err() {
                return Err(WireError::Hello);
            }
            self.greeted = true;
        }
    }
}

/// Reads a body; what is missing or left over is malformed.
struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(kind: u8, rest: &'a [u8]) -> Self {
        Self { kind, rest }
    }

    fn malformed(&self) -> WireError {
        WireError::Malformed(self.kind)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Malformed(self.kind))?;
        self.rest = rest;
        Ok(*first)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.take::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_le_bytes)
    }

    /// Family and 16 bytes, as many of them used as the family has.
    fn ip(&mut self) -> Result<IpAddr, WireError> {
        let (family, bytes) = (self.u8()?, self.take::<16>()?);
        match (family, bytes) {
            (6, bytes) => Ok(bytes.into()),
            (4, [a, b, c, d, rest @ ..]) if rest == [0; 12] => Ok([a, b, c, d].into()),
            _ => Err(self.malformed()),
        }
    }

    fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

fn put_ip(body: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(a) => {
            body.push(4);
            body.extend(a.octets());
            body.extend([0; 12]);
        }
        IpAddr::V6(a) => {
            body.push(6);
            body.extend(a.octets());
        }
    }
}

/// The driver's end.
#[derive(Debug)]
pub struct Exporter {
    inbox: Inbox,
    /// What to send.
    pub outbox: Outbox,
    /// Of the open ring: its count, what of it was signalled, and the peer's counter.
    ring: Option<(u32, EventCount, u32, Signal)>,
}

impl Default for Exporter {
    fn default() -> Self {
        Self { inbox: Inbox::default(), outbox: Outbox::new(), ring: None }
    }
}

impl Exporter {
    /// Queues a message. An Opened whose memory cannot be shared becomes a refusal, and what is returned
    /// tells the driver that the ring is closed.
    ///
    /// # Errors
    /// [`WireError::Slow`]: nothing was queued.
    pub fn say(&mut self, message: &ToHelper) -> Result<Option<FromHelper>, WireError> {
        let mut body = Vec::new();
        let kind = match message {
            ToHelper::IfUp { mac, mtu } => {
                body.extend(mac);
                body.extend(mtu.to_le_bytes());
                kind::IF_UP
            }
            ToHelper::PathReq(r) => {
                body.extend(r.handle.0.to_le_bytes());
                put_ip(&mut body, r.dst);
                body.extend(r.vlan.to_le_bytes());
                body.extend(r.pmtu.to_le_bytes());
                kind::PATH_REQ
            }
            ToHelper::IfDown => kind::IF_DOWN,
            ToHelper::OpenRefused(why) => {
                body.push(u8::from(*why == OpenRefused::NoMemory));
                kind::OPEN_REFUSED
            }
            ToHelper::Opened(maps) => return self.opened(maps),
        };
        self.outbox.push(kind, &body, Vec::new())?;
        Ok(None)
    }

    fn opened(&mut self, maps: &UioMaps) -> Result<Option<FromHelper>, WireError> {
        let mut body = maps.generation.to_le_bytes().to_vec();
        let Some((fds, signal)) = share(maps, &mut body) else {
            self.say(&ToHelper::OpenRefused(OpenRefused::NoMemory))?;
            return Ok(Some(FromHelper::Close { generation: maps.generation }));
        };
        self.outbox.push(kind::OPENED, &body, fds)?;
        self.ring = Some((maps.generation, maps.events.clone(), maps.events.get(), signal));
        Ok(None)
    }

    /// The generation of the ring that the peer has open.
    #[must_use]
    pub fn open(&self) -> Option<u32> {
        self.ring.as_ref().map(|(generation, ..)| *generation)
    }

    /// Whether the peer has said that it speaks our version.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.inbox.greeted
    }

    /// Passes interrupts on.
    pub fn forward_events(&mut self) {
        if let Some((_, events, told, signal)) = &mut self.ring
            && std::mem::replace(told, events.get()) != events.get()
        {
            signal.signal();
        }
    }

    /// Takes what was received; appends whole messages to `out`.
    ///
    /// # Errors
    /// The peer sent nonsense.
    pub fn received(
        &mut self,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        out: &mut Vec<FromHelper>,
    ) -> Result<(), WireError> {
        self.inbox.feed(bytes, fds)?;
        while let Some(m) = self.inbox.next()? {
            if !m.fds.is_empty() {
                return Err(WireError::Descriptors);
            }
            let message = from_helper(m.kind, &m.body)?;
            match &message {
                FromHelper::Close { generation } if self.open() == Some(*generation) => self.ring = None,
                FromHelper::Open | FromHelper::Hello => self.ring = None,
                _ => {}
            }
            out.push(message);
        }
        Ok(())
    }
}

/// The rest of an Opened, with its descriptors; `None` when memory cannot be shared, or no descriptor is
/// left.
fn share(maps: &UioMaps, body: &mut Vec<u8>) -> Option<(Vec<OwnedFd>, Signal)> {
    let mut fds = Vec::new();
    for view in [&maps.status, &maps.ring, &maps.buffers] {
        let (fd, at) = view.file()?;
        body.extend(at.to_le_bytes());
        body.extend((view.len() as u32).to_le_bytes());
        fds.push(fd.try_clone_to_owned().ok()?);
    }
    let registers = &maps.registers[..maps.registers.len().min(REGISTERS)];
    body.extend((registers.len() as u16).to_le_bytes());
    for (at, value) in registers {
        body.extend(at.to_le_bytes());
        body.extend(value.to_le_bytes());
    }
    let event = Event::new().ok()?.as_fd().try_clone_to_owned().ok()?;
    fds.push(event.try_clone().ok()?);
    Some((fds, Signal::adopt(event).ok()?))
}

fn from_helper(kind: u8, body: &[u8]) -> Result<FromHelper, WireError> {
    let mut r = Reader::new(kind, body);
    let message = match kind {
        kind::START => FromHelper::Hello,
        kind::PATH_UPDATE => {
            let (handle, mac, src) = (PathHandle(r.u64()?), r.take()?, r.ip()?);
            let (vlan, pmtu) = (r.u16()?, r.u16()?);
            let mut update = PathUpdate { handle, mac, src, vlan, pmtu, failure: None };
            if !update.resolved() {
                // No path, no tag: its place has the reason. One that is unknown is none.
                update.failure = PathFailure::ALL.into_iter().find(|f| *f as u16 == vlan);
                update.vlan = 0;
            }
            FromHelper::PathUpdate(update)
        }
        kind::OPEN => FromHelper::Open,
        kind::CLOSE => FromHelper::Close { generation: r.u32()? },
        kind::WRITE => {
            let (generation, at, width, value) = (r.u32()?, r.u32()?, r.u8()?, r.u32()?);
            let value = match width {
                4 => Value::U32(value),
                2 => Value::U16(u16::try_from(value).map_err(|_| r.malformed())?),
                _ => return Err(r.malformed()),
            };
            FromHelper::Write { generation, at, value }
        }
        _ => return Err(r.malformed()),
    };
    r.end()?;
    Ok(message)
}

/// The helper's end.
#[derive(Debug)]
pub struct UioClient {
    inbox: Inbox,
    /// What to send.
    pub outbox: Outbox,
    ring: Option<(EventCount, Event)>,
}

impl Default for UioClient {
    fn default() -> Self {
        Self { inbox: Inbox::default(), outbox: Outbox::new(), ring: None }
    }
}

impl UioClient {
    /// Queues a message.
    ///
    /// # Errors
    /// [`WireError::Slow`]: nothing was queued.
    pub fn say(&mut self, message: &FromHelper) -> Result<(), WireError> {
        let mut body = Vec::new();
        let kind = match message {
            FromHelper::Hello => kind::START,
            FromHelper::PathUpdate(u) => {
                body.extend(u.handle.0.to_le_bytes());
                body.extend(u.mac);
                put_ip(&mut body, u.src);
                let reason = u.failure.map_or(0, |f| f as u16);
                body.extend(if u.resolved() { u.vlan } else { reason }.to_le_bytes());
                body.extend(u.pmtu.to_le_bytes());
                kind::PATH_UPDATE
            }
            FromHelper::Open => kind::OPEN,
            FromHelper::Close { generation } => {
                body.extend(generation.to_le_bytes());
                kind::CLOSE
            }
            FromHelper::Write { generation, at, value } => {
                body.extend(generation.to_le_bytes());
                body.extend(at.to_le_bytes());
                let (width, value) = match *value {
                    Value::U16(v) => (2, v.into()),
                    Value::U32(v) => (4, v),
                };
                body.push(width);
                body.extend(value.to_le_bytes());
                kind::WRITE
            }
        };
        self.outbox.push(kind, &body, Vec::new())
    }

    /// Takes what was received; appends whole messages to `out`, an open ring with its memory mapped.
    ///
    /// # Errors
    /// The peer sent nonsense, or its memory cannot be mapped.
    pub fn received(
        &mut self,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        out: &mut Vec<ToHelper>,
    ) -> Result<(), WireError> {
        self.inbox.feed(bytes, fds)?;
        while let Some(m) = self.inbox.next()? {
            if m.kind == kind::OPENED {
                let (maps, event) = opened(&m.body, m.fds)?;
                self.ring = Some((maps.events.clone(), event));
                out.push(ToHelper::Opened(maps));
            } else {
                out.push(to_helper(m.kind, &m.body)?);
            }
        }
        Ok(())
    }

    /// The counter that is readable when the ring has news, to wait for.
    #[must_use]
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(|(_, event)| event.as_fd())
    }

    /// Carries news of the ring over into its [`EventCount`]; says whether there were any.
    pub fn take_events(&mut self) -> bool {
        let Some((count, event)) = &self.ring else { return false };
        let news = event.take();
        if news {
            count.bump();
        }
        news
    }
}

fn opened(body: &[u8], fds: Vec<OwnedFd>) -> Result<(UioMaps, Event), WireError> {
    let mut r = Reader::new(kind::OPENED, body);
    let Ok([status, ring, buffers, event]) = <[OwnedFd; 4]>::try_from(fds) else {
        return Err(WireError::Descriptors);
    };
    let generation = r.u32()?;
    let map = |r: &mut Reader<'_>, fd: OwnedFd, len: usize, writable| {
        let (at, have) = (r.u64()?, r.u32()?);
        if have as usize != len {
            return Err(r.malformed());
        }
        // A driver could shrink a file that is not sealed while we are in it.
        let mapping = Mapping::sealed(fd.as_fd(), at, len as u64, writable)?;
        Ok(View::mapped(&Rc::new(mapping), 0..len))
    };
    // The card writes the status block and nobody else.
    let status = map(&mut r, status, STATUS_BYTES, false)?;
    let ring = map(&mut r, ring, RING_BYTES, true)?;
    let buffers = map(&mut r, buffers, BUFFERS_BYTES, true)?;
    let n = usize::from(r.u16()?);
    if n > REGISTERS {
        return Err(r.malformed());
    }
    let registers = (0..n).map(|_| Ok((r.u32()?, r.u32()?))).collect::<Result<_, WireError>>()?;
    r.end()?;
    let event = Event::adopt(event)?;
    let events = EventCount::default();
    Ok((UioMaps { generation, status, ring, buffers, registers, events }, event))
}

fn to_helper(kind: u8, body: &[u8]) -> Result<ToHelper, WireError> {
    let mut r = Reader::new(kind, body);
    let message = match kind {
        kind::IF_UP => ToHelper::IfUp { mac: r.take()?, mtu: r.u16()? },
        kind::PATH_REQ => ToHelper::PathReq(PathReq {
            handle: PathHandle(r.u64()?),
            dst: r.ip()?,
            vlan: r.u16()?,
            pmtu: r.u16()?,
        }),
        kind::IF_DOWN => ToHelper::IfDown,
        kind::OPEN_REFUSED => ToHelper::OpenRefused(match r.u8()? {
            0 => OpenRefused::Down,
            1 => OpenRefused::NoMemory,
            _ => return Err(r.malformed()),
        }),
        _ => return Err(r.malformed()),
    };
    r.end()?;
    Ok(message)
}

#[cfg(test)]
mod tests;
