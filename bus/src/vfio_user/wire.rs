//! Framing: bytes and descriptors in, whole messages out, and the other way round.
//!
//! A message is a 16-byte header (id, command, size with header, flags, error) and a payload, little-endian.
//! The stream has no other marks, so a size below 16 ends the session; everything else that is wrong with a
//! message is answered, and the message is consumed whole, also when it is longer than we accept: its bytes
//! are then dropped as they arrive.
//!
//! Descriptors of a receive belong to the message that holds its last byte ([`os::unix`] says why). Neither
//! direction holds more than its limits below.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::errno::Errno;

/// Bytes of a header.
pub const HEADER: usize = 16;
/// Bytes of the longest payload besides its data: a region or DMA access.
pub const PREFIX: usize = 16;
/// Bytes to receive at once.
pub const CHUNK: usize = 64 << 10;
/// Descriptors that wait for their message to be complete or taken. A message that alone brings more is
/// refused; a peer that floods us with messages and descriptors that we cannot take yet garbles the stream.
pub const WAITING_FDS: usize = 64;
/// Bytes that may wait to be sent before no further request is handled.
pub const OUTBOX_LIMIT: usize = 1 << 20;

const TYPE: u32 = 0xf;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request that is answered.
    Request,
    /// A request that nobody answers.
    Posted,
    /// The answer to a request.
    Reply,
    /// The answer to a request that failed.
    Failed(Errno),
    /// A type that does not exist.
    Unknown,
}

/// The header of a message. Its size is the framing's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender of a request, echoed in its reply.
    pub id: u16,
    /// Command number; see [`super::message::Command`].
    pub command: u16,
    /// What kind of message it is.
    pub kind: Kind,
}

impl Header {
    fn encode(self, size: u32) -> [u8; HEADER] {
        let (flags, error) = match self.kind {
            Kind::Request => (0, 0),
            Kind::Posted => (NO_REPLY, 0),
            Kind::Reply => (REPLY, 0),
            Kind::Failed(e) => (REPLY | ERROR, e.value()),
            Kind::Unknown => (TYPE, 0),
        };
        let mut out = [0; HEADER];
        out[0..2].copy_from_slice(&self.id.to_le_bytes());
        out[2..4].copy_from_slice(&self.command.to_le_bytes());
        out[4..8].copy_from_slice(&size.to_le_bytes());
        out[8..12].copy_from_slice(&flags.to_le_bytes());
        out[12..16].copy_from_slice(&error.to_le_bytes());
        out
    }

    fn decode(raw: &[u8; HEADER]) -> (Self, u32) {
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let (flags, error) = (word(8), word(12));
        let kind = match flags & TYPE {
            0 if flags & NO_REPLY != 0 => Kind::Posted,
            0 => Kind::Request,
            REPLY if flags & ERROR != 0 => Kind::Failed(Errno::received(error)),
            REPLY => Kind::Reply,
            _ => Kind::Unknown,
        };
        let id = u16::from_le_bytes([raw[0], raw[1]]);
        (Self { id, command: u16::from_le_bytes([raw[2], raw[3]]), kind }, word(4))
    }
}

/// A message that arrived.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// What follows the header; empty when the message is refused.
    pub payload: &'a [u8],
    /// The descriptors that came with it; none when the message is refused.
    pub fds: Vec<OwnedFd>,
    /// Why its content was dropped, if it was.
    pub refused: Option<Errno>,
}

/// The stream makes no sense any more; the session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

/// Bytes that arrived and are not yet a message that was taken.
pub struct Inbox {
    /// Longest message accepted, header included.
    max_message: usize,
    max_fds: usize,
    buf: Vec<u8>,
    /// Bytes of `buf` that were taken.
    taken: usize,
    /// Stream position after the last byte received.
    received: u64,
    /// Stream position of the last byte of the receive that brought the descriptor; `None`: it was one too
    /// many.
    fds: VecDeque<(u64, Option<OwnedFd>)>,
    /// A message too long: its header, and the bytes of it that are still to come.
    dropping: Option<(Header, u64)>,
    garbled: bool,
}

impl Inbox {
    /// Accepts messages with up to `max_data` bytes of data and `max_fds` descriptors.
    #[must_use]
    pub fn new(max_data: usize, max_fds: usize) -> Self {
        Self {
            max_message: HEADER + PREFIX + max_data,
            max_fds,
            buf: Vec::new(),
            taken: 0,
            received: 0,
            fds: VecDeque::new(),
            dropping: None,
            garbled: false,
        }
    }

    /// Bytes that may be pushed now. Zero only while whole messages wait to be taken.
    #[must_use]
    pub fn room(&self) -> usize {
        (self.max_message + CHUNK).saturating_sub(self.buf.len() - self.taken).min(CHUNK)
    }

    /// Whether a message has begun and is not whole, or not taken.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        self.taken < self.buf.len() || self.dropping.is_some()
    }

    /// Adds what one receive brought. More than [`Inbox::room`] garbles the stream.
    pub fn push(&mut self, bytes: &[u8], fds: impl IntoIterator<Item = OwnedFd>) {
        if bytes.is_empty() || self.garbled {
            return;
        }
        self.garbled = bytes.len() > self.room();
        self.received += bytes.len() as u64;
        for fd in fds {
            if self.fds.len() < WAITING_FDS {
                self.fds.push_back((self.received, Some(fd)));
            } else if let Some((_, last)) = self.fds.back_mut().filter(|(at, _)| *at == self.received) {
                *last = None;
            } else {
                self.garbled = true;
            }
        }
        let mut bytes = bytes;
        if let Some((_, left)) = &mut self.dropping {
            let n = (bytes.len() as u64).min(*left);
            *left -= n;
            bytes = &bytes[n as usize..];
        }
        if self.taken == self.buf.len() {
            self.buf.clear();
            self.taken = 0;
        } else if self.taken > CHUNK {
            self.buf.drain(..self.taken);
            self.taken = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// Takes the next whole message.
    ///
    /// # Errors
    /// [`Garbled`] from the first message whose size is impossible on.
    pub fn pop(&mut self) -> Result<Option<Frame<'_>>, Garbled> {
        if self.garbled {
            return Err(Garbled);
        }
        if self.dropping.is_none() {
            let Some((raw, _)) = self.buf[self.taken..].split_first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let (header, size) = Header::decode(raw);
            let size = size as usize;
            if size < HEADER {
                self.garbled = true;
                return Err(Garbled);
            }
            let here = self.buf.len() - self.taken;
            if size <= self.max_message {
                if here < size {
                    return Ok(None);
                }
                let at = self.taken;
                self.taken += size;
                let (fds, refused) = self.take_fds();
                let payload = if refused.is_some() { &[] } else { &self.buf[at + HEADER..at + size] };
                return Ok(Some(Frame { header, payload, fds, refused }));
            }
            let now = here.min(size);
            self.taken += now;
            self.dropping = Some((header, (size - now) as u64));
        }
        match self.dropping {
            Some((header, 0)) => {
                self.dropping = None;
                self.take_fds();
                Ok(Some(Frame { header, payload: &[], fds: Vec::new(), refused: Some(Errno::EMSGSIZE) }))
            }
            _ => Ok(None),
        }
    }

    /// The descriptors of everything taken so far.
    fn take_fds(&mut self) -> (Vec<OwnedFd>, Option<Errno>) {
        let position = self.received - (self.buf.len() - self.taken) as u64;
        let n = self.fds.iter().take_while(|(at, _)| *at <= position).count();
        let mut refused = (n > self.max_fds).then_some(Errno::ETOOMANYREFS);
        let mut fds = Vec::new();
        for (_, fd) in self.fds.drain(..n) {
            match fd {
                Some(fd) => fds.push(fd),
                None => refused = Some(Errno::ETOOMANYREFS),
            }
        }
        if refused.is_some() {
            fds.clear();
        }
        (fds, refused)
    }
}

/// Descriptors that leave with one message; it occupies these bytes of the outbox.
struct Attached {
    start: usize,
    end: usize,
    fds: Vec<Rc<OwnedFd>>,
}

/// Messages that wait to be sent.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    attached: VecDeque<Attached>,
}

impl Outbox {
    /// Appends a message; `payload` writes what follows the header.
    pub fn put(&mut self, header: Header, fds: Vec<Rc<OwnedFd>>, payload: impl FnOnce(&mut Vec<u8>)) {
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > CHUNK {
            self.bytes.drain(..self.sent);
            for a in &mut self.attached {
                (a.start, a.end) = (a.start - self.sent, a.end - self.sent);
            }
            self.sent = 0;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        payload(&mut self.bytes);
        let size = (self.bytes.len() - start) as u32;
        self.bytes[start..start + HEADER].copy_from_slice(&header.encode(size));
        if !fds.is_empty() {
            self.attached.push_back(Attached { start, end: self.bytes.len(), fds });
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether so much waits that no further request should be handled.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= OUTBOX_LIMIT
    }

    /// What to send next, in one call. A message with descriptors is sent by itself, so that a peer finds
    /// them with it.
    #[must_use]
    pub fn chunk(&self) -> (&[u8], Vec<BorrowedFd<'_>>) {
        match self.attached.front() {
            None => (&self.bytes[self.sent..], Vec::new()),
            Some(a) if a.start > self.sent => (&self.bytes[self.sent..a.start], Vec::new()),
            Some(a) => (&self.bytes[self.sent..a.end], a.fds.iter().map(|fd| fd.as_fd()).collect()),
        }
    }

    /// The first `n` bytes of the chunk, and with them its descriptors, are sent.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len());
        if n > 0 && self.attached.front().is_some_and(|a| a.start == self.sent) {
            self.attached.pop_front();
        }
        self.sent += n;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(id: u16, kind: Kind) -> Header {
        Header { id, command: 9, kind }
    }

    fn memfd() -> OwnedFd {
        os::shm::memfd("test", 4096).unwrap()
    }

    fn put(out: &mut Outbox, id: u16, data: &[u8], fds: usize) {
        let fds = (0..fds).map(|_| Rc::new(memfd())).collect();
        out.put(header(id, Kind::Request), fds, |p| p.extend_from_slice(data));
    }

    fn carry(out: &mut Outbox, into: &mut Inbox, most: usize) {
        while !out.is_empty() {
            let (bytes, fds) = out.chunk();
            let n = bytes.len().min(most);
            into.push(&bytes[..n], fds.iter().map(|f| f.try_clone_to_owned().unwrap()).collect::<Vec<_>>());
            out.advance(n);
        }
    }

    #[test]
    fn a_header_says_what_it_is() {
        for kind in [Kind::Request, Kind::Posted, Kind::Reply, Kind::Failed(Errno::EEXIST), Kind::Unknown] {
            let h = Header { id: 0x1234, command: 13, kind };
            assert_eq!(Header::decode(&h.encode(77)), (h, 77));
        }
        let raw = header(0x0102, Kind::Failed(Errno::EINVAL)).encode(16);
        assert_eq!(raw, [2, 1, 9, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 22, 0, 0, 0]);
        let mut zero = raw;
        zero[12] = 0;
        assert_eq!(Header::decode(&zero).0.kind, Kind::Failed(Errno::EIO), "an error is never zero");
    }

    #[test]
    fn messages_come_out_whole_whatever_the_pieces() {
        for most in [1, 7, 16, 100, 5000] {
            let (mut out, mut inbox) = (Outbox::default(), Inbox::new(4096, 8));
            put(&mut out, 1, b"", 0);
            put(&mut out, 2, b"with one", 1);
            put(&mut out, 3, &[7; 300], 0);
            put(&mut out, 4, b"with two", 2);
            carry(&mut out, &mut inbox, most);
            for (id, len, fds) in [(1, 0, 0), (2, 8, 1), (3, 300, 0), (4, 8, 2)] {
                let f = inbox.pop().unwrap().expect("a whole message");
                assert_eq!((f.header.id, f.payload.len(), f.fds.len(), f.refused), (id, len, fds, None));
            }
            assert!(inbox.pop().unwrap().is_none());
        }
    }

    #[test]
    fn a_message_too_long_is_consumed_whole_and_kept_nowhere() {
        let (mut out, mut inbox) = (Outbox::default(), Inbox::new(100, 8));
        put(&mut out, 1, &vec![7; 3 << 20], 1);
        put(&mut out, 2, b"next", 1);
        let mut seen = Vec::new();
        while !out.is_empty() {
            let (bytes, fds) = out.chunk();
            let n = bytes.len().min(inbox.room());
            inbox.push(&bytes[..n], fds.iter().map(|f| f.try_clone_to_owned().unwrap()).collect::<Vec<_>>());
            out.advance(n);
            assert!(inbox.buf.len() <= 2 * CHUNK + 200);
            while let Some(f) = inbox.pop().unwrap() {
                seen.push((f.header.id, f.payload.len(), f.fds.len(), f.refused));
            }
        }
        assert_eq!(seen, [(1, 0, 0, Some(Errno::EMSGSIZE)), (2, 4, 1, None)]);
    }

    #[test]
    fn a_size_below_the_header_ends_the_stream() {
        let mut inbox = Inbox::new(100, 8);
        inbox.push(&header(1, Kind::Request).encode(15), []);
        assert_eq!(inbox.pop().unwrap_err(), Garbled);
        inbox.push(&header(1, Kind::Request).encode(16), []);
        assert_eq!(inbox.pop().unwrap_err(), Garbled);
    }

    #[test]
    fn more_bytes_than_there_is_room_for_end_the_stream() {
        let mut inbox = Inbox::new(100, 8);
        let whole = header(1, Kind::Request).encode(16).repeat(CHUNK / HEADER);
        inbox.push(&whole, []);
        assert_eq!(inbox.room(), 132);
        inbox.push(&whole[..133], []);
        assert!(inbox.pop().is_err());
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        let (mut out, mut inbox) = (Outbox::default(), Inbox::new(100, 2));
        put(&mut out, 1, b"a", 3);
        put(&mut out, 2, b"b", WAITING_FDS + 1);
        put(&mut out, 3, b"c", 2);
        for _ in 0..3 {
            let (bytes, fds) = out.chunk();
            inbox.push(bytes, fds.iter().map(|f| f.try_clone_to_owned().unwrap()).collect::<Vec<_>>());
            let n = bytes.len();
            out.advance(n);
            assert!(inbox.fds.len() <= WAITING_FDS);
            let f = inbox.pop().unwrap().expect("whole");
            let refused = (f.header.id < 3).then_some(Errno::ETOOMANYREFS);
            assert_eq!((f.refused, f.fds.len()), (refused, if f.header.id < 3 { 0 } else { 2 }));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_bounded_and_never_panic(
            pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..200), 0..3usize), 1..40),
        ) {
            let mut inbox = Inbox::new(100, 2);
            for (bytes, fds) in pieces {
                let fds: Vec<_> = (0..fds).map(|_| memfd()).collect();
                inbox.push(&bytes, fds);
                while let Ok(Some(f)) = inbox.pop() {
                    prop_assert!(f.payload.len() <= 116 && f.fds.len() <= 2);
                }
                prop_assert!(inbox.buf.len() <= 2 * CHUNK + 132 && inbox.fds.len() <= WAITING_FDS);
            }
        }
    }
}
