//! A card, a raw client and an inline link for the tests of both sessions.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use os::shm::{Mapping, memfd};

use crate::actor::{ActorId, Budget, Cx, Progress};
use crate::config::sample;
use crate::mem::SharedMem;
use crate::pci::{
    Bar, DevCx, DmaFault, FunctionLayout, Grant, PciFunction, ResetKind, ResetReport, Vector, Width, Word,
};
use crate::streams::Seeded;
use crate::time::Instant;
use crate::trace::Trace;

use super::doorbell::DoorbellLayout;
use super::errno::Errno;
use super::link::{Link, Turn};
use super::message::{MAP_READ, MAP_WRITE, Request};
use super::server::Server;
use super::version::Capabilities;
use super::wire::{CHUNK, Header, Inbox, Kind, Outbox};

pub(super) const TARGET_LO: u64 = 0x10;
pub(super) const TARGET_HI: u64 = 0x14;
/// A write: DMA to the target, a published word behind it, and the vector written.
pub(super) const GO: u64 = 0x18;
/// As [`GO`], in the next step, and from the target to itself plus 64.
pub(super) const GO_LATER: u64 = 0x1c;
/// The level of INTx.
pub(super) const LEVEL: u64 = 0x20;
/// The command register as the card sees it.
pub(super) const MIRROR: u64 = 0x24;
pub(super) const RESET: u64 = 0x800;
pub(super) const STORAGE: u64 = 0x1000;
pub(super) const DOORBELLS: u64 = 0x10000;
/// A config dword of the card.
pub(super) const PRIVATE: u16 = 0x68;

/// What a card saw, for the test that made it.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) writes: RefCell<Vec<(u64, u64)>>,
    pub(super) resets: RefCell<Vec<ResetKind>>,
    pub(super) faults: RefCell<Vec<DmaFault>>,
}

pub(super) struct Toy {
    layout: FunctionLayout,
    pub(super) seen: Rc<Seen>,
    pub(super) revokes: bool,
    /// Acts with the grant of its first access for ever.
    pub(super) clings: bool,
    grant: Option<Grant>,
    target: u64,
    storage: u64,
    private: u32,
    later: Option<u8>,
}

impl Toy {
    pub(super) fn new(seen: Rc<Seen>) -> Self {
        Self {
            layout: sample(),
            seen,
            revokes: true,
            clings: false,
            grant: None,
            target: 0,
            storage: 0,
            private: 0,
            later: None,
        }
    }

    fn go(&mut self, cx: &mut DevCx<'_>, vector: u8, copy: bool) {
        let grant = self.grant.filter(|_| self.clings).unwrap_or_else(|| cx.host.grant());
        self.grant = Some(grant);
        let mut data = *b"payload!";
        let target = if copy { self.target + 64 } else { self.target };
        let read = if copy { cx.dma_read(self.target, &mut data, grant) } else { Ok(()) };
        let done = read
            .and_then(|()| cx.dma_write(target, &data, grant))
            .and_then(|()| cx.publish(target + 8, Word::U32(7), grant));
        self.seen.faults.borrow_mut().extend(done.err());
        cx.msi(Vector(vector), grant);
    }
}

impl PciFunction for Toy {
    fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn read(&mut self, cx: &mut DevCx<'_>, _: Bar, at: u64, _: Width) -> u64 {
        match at {
            MIRROR => cx.host.config(4).map_or(0, u64::from),
            TARGET_LO => self.target & 0xffff_ffff,
            STORAGE => self.storage,
            _ => at,
        }
    }

    fn write(&mut self, cx: &mut DevCx<'_>, _: Bar, at: u64, _: Width, value: u64) {
        self.seen.writes.borrow_mut().push((at, value));
        match at {
            TARGET_LO => self.target = self.target & !0xffff_ffff | value,
            TARGET_HI => self.target = self.target & 0xffff_ffff | value << 32,
            GO => self.go(cx, value as u8, false),
            GO_LATER => self.later = Some(value as u8),
            LEVEL => cx.host.intx(value != 0),
            STORAGE => self.storage = value,
            RESET => {
                self.reset(cx, ResetKind::Device);
            }
            _ => {}
        }
    }

    fn config_read(&mut self, _: &mut DevCx<'_>, at: u16) -> u32 {
        if at == PRIVATE { self.private } else { u32::from(at) }
    }

    fn config_write(&mut self, _: &mut DevCx<'_>, _: u16, value: u32, mask: u32) {
        self.private = self.private & !mask | value & mask;
    }

    fn step(&mut self, cx: &mut DevCx<'_>, _: Budget) -> Progress {
        let done = self.later.take().map(|v| self.go(cx, v, true)).is_some();
        Progress { done: done.into(), next: None }
    }

    fn reset(&mut self, cx: &mut DevCx<'_>, kind: ResetKind) -> ResetReport {
        if self.revokes {
            cx.host.revoke();
        }
        (self.target, self.storage, self.later) = (0, 0, None);
        self.seen.resets.borrow_mut().push(kind);
        ResetReport::default()
    }
}

pub(super) fn doorbells() -> DoorbellLayout {
    DoorbellLayout { bar: Bar(0), at: DOORBELLS, pages: 16, words: vec![4, 8] }
}

/// Time, randomness and events for a test.
pub(super) struct World {
    pub(super) now: Instant,
    rng: Seeded,
    pub(super) trace: Trace,
}

impl World {
    pub(super) fn new() -> Self {
        Self { now: Instant::ZERO, rng: Seeded::new(1), trace: Trace::recording() }
    }

    pub(super) fn cx(&mut self) -> Cx<'_> {
        Cx { now: self.now, actor: ActorId::new("test", 0), rng: &mut self.rng, trace: &mut self.trace }
    }
}

/// A reply: payload or error, and its descriptors.
pub(super) type Answer = (Result<Vec<u8>, Errno>, Vec<OwnedFd>);

/// A client that says whatever a test wants.
pub(super) struct Raw {
    pub(super) world: World,
    pub(super) server: Server,
    pub(super) seen: Rc<Seen>,
}

impl Raw {
    pub(super) fn detached(limits: Capabilities, tweak: impl FnOnce(&mut Toy)) -> Self {
        Self::with_doorbells(limits, Some(doorbells()), tweak)
    }

    pub(super) fn with_doorbells(
        limits: Capabilities,
        doorbells: Option<DoorbellLayout>,
        tweak: impl FnOnce(&mut Toy),
    ) -> Self {
        let seen = Rc::new(Seen::default());
        let mut toy = Toy::new(seen.clone());
        tweak(&mut toy);
        let server = Server::new(ActorId::new("card", 0), Box::new(toy), limits, doorbells).unwrap();
        Self { world: World::new(), server, seen }
    }

    /// Attached, version agreed, memory decode and bus mastering on.
    pub(super) fn ready(limits: Capabilities, tweak: impl FnOnce(&mut Toy)) -> Self {
        let mut raw = Self::detached(limits, tweak);
        raw.greet(&Capabilities { slot: false, ..Capabilities::default() });
        raw
    }

    pub(super) fn new() -> Self {
        Self::ready(Capabilities::default(), |_| ())
    }

    pub(super) fn greet(&mut self, peer: &Capabilities) {
        self.server.attach(&mut self.world.cx());
        let data = peer.encode();
        self.ask(&Request::Version { major: 0, minor: 1, data: &data }, Vec::new()).0.unwrap();
        self.write(7, 4, &6u32.to_le_bytes());
    }

    pub(super) fn send(&mut self, kind: Kind, id: u16, command: u16, payload: &[u8], fds: Vec<OwnedFd>) {
        let mut out = Outbox::default();
        out.put(Header { id, command, kind }, Vec::new(), |p| p.extend_from_slice(payload));
        let bytes = out.chunk().0.to_vec();
        let mut fds = Some(fds);
        for piece in bytes.chunks(CHUNK) {
            self.server.receive(&mut self.world.cx(), piece, fds.take().unwrap_or_default());
        }
    }

    /// Takes all answers that wait.
    pub(super) fn answers(&mut self) -> Vec<(Header, Answer)> {
        let mut inbox = Inbox::new(8 << 20, 16);
        let mut all = Vec::new();
        while !self.server.outbox().is_empty() {
            let out = self.server.outbox();
            let (bytes, fds) = out.chunk();
            let n = bytes.len().min(CHUNK);
            inbox.push(&bytes[..n], fds.iter().map(|f| f.try_clone_to_owned().unwrap()).collect::<Vec<_>>());
            out.advance(n);
            while let Some(f) = inbox.pop().unwrap() {
                let outcome = match f.header.kind {
                    Kind::Failed(e) => Err(e),
                    _ => Ok(f.payload.to_vec()),
                };
                all.push((f.header, (outcome, f.fds)));
            }
        }
        all
    }

    /// The one answer to a request.
    pub(super) fn ask_raw(&mut self, command: u16, payload: &[u8], fds: Vec<OwnedFd>) -> Answer {
        self.send(Kind::Request, 0x4711, command, payload, fds);
        let mut all = self.answers();
        assert_eq!(all.len(), 1, "one answer to command {command}");
        let (header, answer) = all.remove(0);
        assert_eq!((header.id, header.command), (0x4711, command));
        answer
    }

    pub(super) fn ask(&mut self, r: &Request<'_>, fds: Vec<OwnedFd>) -> Answer {
        let mut payload = Vec::new();
        r.encode(&mut payload);
        self.ask_raw(r.command() as u16, &payload, fds)
    }

    pub(super) fn post(&mut self, r: &Request<'_>) {
        let mut payload = Vec::new();
        r.encode(&mut payload);
        self.send(Kind::Posted, 1, r.command() as u16, &payload, Vec::new());
    }

    pub(super) fn write(&mut self, region: u32, at: u64, data: &[u8]) {
        let (answer, _) = self.ask(&Request::RegionWrite { region, at, data }, Vec::new());
        assert_eq!(answer.unwrap().len(), 16);
    }

    pub(super) fn write32(&mut self, at: u64, value: u32) {
        self.write(0, at, &value.to_le_bytes());
    }

    pub(super) fn read(&mut self, region: u32, at: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let (answer, _) = self.ask(&Request::RegionRead { region, at, count }, Vec::new());
        answer.map(|p| p[16..].to_vec())
    }

    pub(super) fn read32(&mut self, region: u32, at: u64) -> u32 {
        u32::from_le_bytes(self.read(region, at, 4).unwrap().try_into().unwrap())
    }

    /// Maps `pages` pages at `addr`, shared with the test.
    pub(super) fn map(&mut self, addr: u64, pages: u64, flags: u32) -> Rc<SharedMem> {
        let (memory, fd) = shared(pages);
        let map = Request::DmaMap { flags, offset: 0, addr, size: pages * 4096 };
        assert_eq!(self.ask(&map, vec![fd]).0, Ok(Vec::new()));
        memory
    }

    pub(super) fn map_both(&mut self, addr: u64, pages: u64) -> Rc<SharedMem> {
        self.map(addr, pages, MAP_READ | MAP_WRITE)
    }

    /// Aims the card and lets it go.
    pub(super) fn go(&mut self, addr: u64, vector: u32) {
        self.write32(TARGET_LO, addr as u32);
        self.write32(TARGET_HI, (addr >> 32) as u32);
        self.write32(GO, vector);
    }
}

pub(super) fn shared(pages: u64) -> (Rc<SharedMem>, OwnedFd) {
    let fd = memfd("test", pages * 4096).unwrap();
    let mapping = Rc::new(Mapping::new(fd.as_fd(), 0, pages * 4096, true).unwrap());
    (SharedMem::window(&mapping, 0, mapping.len()), fd)
}

pub(super) fn bytes(m: &SharedMem, at: usize) -> [u8; 12] {
    let mut out = [0; 12];
    m.read(at, &mut out);
    out
}

pub(super) const WRITTEN: [u8; 12] = *b"payload!\x07\0\0\0";

/// A link that runs the server on the spot. It may break after so many bytes in either direction, or carry
/// nothing.
#[derive(Clone)]
pub(super) struct Inline {
    pub(super) raw: Rc<RefCell<Raw>>,
    /// Bytes that still get through to the server, and to the client.
    pub(super) left: Rc<Cell<(usize, usize)>>,
    pub(super) mute: Rc<Cell<bool>>,
    /// Most bytes carried at once.
    pub(super) piece: usize,
    /// When the last wait was to end.
    pub(super) waited: Rc<Cell<Instant>>,
}

impl Inline {
    pub(super) fn new(raw: Raw) -> Self {
        Self {
            raw: Rc::new(RefCell::new(raw)),
            left: Rc::new(Cell::new((usize::MAX, usize::MAX))),
            mute: Rc::default(),
            piece: CHUNK,
            waited: Rc::default(),
        }
    }

    /// Lets the server step once.
    pub(super) fn step(&self) -> Progress {
        let raw = &mut *self.raw.borrow_mut();
        raw.server.step(&mut raw.world.cx(), Budget(8), None)
    }

    fn lose(&self) -> Turn {
        let raw = &mut *self.raw.borrow_mut();
        raw.server.detach(&mut raw.world.cx());
        Turn::Lost
    }
}

impl Link for Inline {
    fn turn(&mut self, out: &mut Outbox, into: &mut Inbox, until: Instant) -> Turn {
        let mut moved = false;
        while !out.is_empty() && !self.mute.get() {
            let (there, back) = self.left.get();
            let (bytes, fds) = out.chunk();
            let n = bytes.len().min(self.piece).min(there);
            if n == 0 {
                return self.lose();
            }
            let fds: Vec<_> = fds.iter().map(|f| f.try_clone_to_owned().unwrap()).collect();
            let raw = &mut *self.raw.borrow_mut();
            raw.server.receive(&mut raw.world.cx(), &bytes[..n], fds);
            out.advance(n);
            self.left.set((there - n, back));
            moved = true;
        }
        loop {
            let raw = &mut *self.raw.borrow_mut();
            let answers = raw.server.outbox();
            if answers.is_empty() || self.mute.get() {
                break;
            }
            let (there, back) = self.left.get();
            let (bytes, fds) = answers.chunk();
            let n = bytes.len().min(self.piece).min(back).min(into.room());
            if back == 0 {
                raw.server.detach(&mut raw.world.cx());
                return Turn::Lost;
            }
            into.push(&bytes[..n], fds.iter().map(|f| f.try_clone_to_owned().unwrap()).collect::<Vec<_>>());
            answers.advance(n);
            self.left.set((there, back - n));
            moved = true;
        }
        if moved {
            Turn::Moved
        } else {
            self.waited.set(until);
            Turn::TimedOut
        }
    }
}

/// A server that answers every request with what a test wants.
pub(super) struct Fake<F>(pub(super) F);

impl<F: FnMut(Header, &[u8]) -> Vec<(Kind, Vec<u8>)>> Link for Fake<F> {
    fn turn(&mut self, out: &mut Outbox, into: &mut Inbox, _: Instant) -> Turn {
        let mut requests = Inbox::new(1 << 20, 1);
        let mut answers = Outbox::default();
        while !out.is_empty() {
            let n = out.chunk().0.len().min(CHUNK);
            requests.push(&out.chunk().0[..n], []);
            out.advance(n);
            while let Ok(Some(f)) = requests.pop() {
                for (kind, payload) in (self.0)(f.header, f.payload) {
                    answers.put(Header { kind, ..f.header }, Vec::new(), |p| p.extend_from_slice(&payload));
                }
            }
        }
        let (bytes, _) = answers.chunk();
        if bytes.is_empty() || bytes.len() > into.room() {
            return Turn::TimedOut;
        }
        into.push(bytes, []);
        Turn::Moved
    }
}

/// What a real server says, for a fake one to start from.
pub(super) fn honest(raw: &mut Raw, h: Header, payload: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    raw.send(h.kind, h.id, h.command, payload, Vec::new());
    raw.answers().into_iter().map(|(h, (p, _))| (h.kind, p.unwrap_or_default())).collect()
}
