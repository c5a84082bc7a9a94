//! The messages of one connection: requests with their answers, posted writes, and the card's requests for
//! our memory.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use os::event::Event;

use crate::mem::SharedMem;
use crate::time::Instant;

use super::super::errno::Errno;
use super::super::link::{Link, Turn};
use super::super::message::{Request, SetIrqs, put64};
use super::super::version::{Capabilities, MAX_FDS};
use super::super::wire::{Frame, Header, Inbox, Kind, Outbox};
use super::DEADLINE;
use super::pool::Pool;
use super::probe::RegionInfo;

/// Longest region description accepted.
pub(super) const REGION_INFO_LIMIT: u32 = 4096;

/// Why a request has no result.
pub(super) enum CallError {
    Lost,
    Refused(Errno),
    Malformed,
}

/// The messages of one connection.
pub(super) struct Session<L> {
    pub(super) link: L,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) next_id: u16,
    pub(super) peer: Capabilities,
    pub(super) pool: Pool,
    /// Memory that is not in the pool, by bus address.
    pub(super) apart: BTreeMap<u64, Rc<SharedMem>>,
    pub(super) next_apart: u64,
    pub(super) lost: bool,
    pub(super) strays: u64,
}

impl<L: Link> Session<L> {
    fn send(&mut self, request: &Request<'_>, kind: Kind, fds: Vec<Rc<OwnedFd>>) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.outbox.put(Header { id, command: request.command() as u16, kind }, fds, |p| request.encode(p));
        id
    }

    /// Sends a request that is not answered. When the server takes none for too long, it is lost.
    pub(super) fn post(&mut self, now: Instant, request: &Request<'_>) {
        if self.lost {
            return;
        }
        self.send(request, Kind::Posted, Vec::new());
        self.settle(now);
        while !self.lost && self.outbox.is_full() {
            self.lost = self.link.turn(&mut self.outbox, &mut self.inbox, now + DEADLINE) != Turn::Moved;
            self.serve();
        }
    }

    /// Serves what has arrived and sends what waits, as far as possible without waiting.
    pub(super) fn settle(&mut self, now: Instant) {
        loop {
            self.serve();
            if self.lost || self.outbox.is_empty() {
                return;
            }
            match self.link.turn(&mut self.outbox, &mut self.inbox, now) {
                Turn::Moved => {}
                Turn::TimedOut => return,
                Turn::Lost => self.lost = true,
            }
        }
    }

    /// Sends a request and waits for its answer, which `take` turns into a result.
    pub(super) fn call<R>(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        fds: Vec<Rc<OwnedFd>>,
        take: impl FnOnce(&[u8], Vec<OwnedFd>) -> Option<R>,
    ) -> Result<R, CallError> {
        if self.lost {
            return Err(CallError::Lost);
        }
        let id = self.send(request, Kind::Request, fds);
        let mut take = Some(take);
        let until = now + DEADLINE;
        loop {
            let mut inbox = std::mem::replace(&mut self.inbox, Inbox::new(0, 0));
            let mut answer = None;
            while answer.is_none() && !self.lost {
                match inbox.pop() {
                    Err(_) => self.lost = true,
                    Ok(None) => break,
                    Ok(Some(f)) => match f.header.kind {
                        Kind::Reply if f.header.id == id && f.header.command == request.command() as u16 => {
                            let result = take.take().and_then(|take| take(f.payload, f.fds));
                            answer = Some(result.ok_or(CallError::Malformed));
                        }
                        Kind::Failed(e) if f.header.id == id => answer = Some(Err(CallError::Refused(e))),
                        _ => self.serve_one(f),
                    },
                }
            }
            self.inbox = inbox;
            if let Some(answer) = answer {
                // Requests that came along are not left for an access that may never come.
                self.settle(now);
                return answer;
            }
            if !self.lost {
                self.lost = self.link.turn(&mut self.outbox, &mut self.inbox, until) != Turn::Moved;
            }
            if self.lost {
                return Err(CallError::Lost);
            }
        }
    }

    /// Serves the requests of the server that are complete.
    pub(super) fn serve(&mut self) {
        let mut inbox = std::mem::replace(&mut self.inbox, Inbox::new(0, 0));
        while !self.lost && !self.outbox.is_full() {
            match inbox.pop() {
                Ok(Some(f)) => self.serve_one(f),
                Ok(None) => break,
                Err(_) => self.lost = true,
            }
        }
        self.inbox = inbox;
    }

    /// Where an access of the card is, if it is inside of our memory.
    fn find(&self, addr: u64, len: u64) -> Option<(Rc<SharedMem>, usize)> {
        if let Some(at) = self.pool.offset(addr, len) {
            return Some((self.pool.memory.clone(), at));
        }
        let (base, memory) = self.apart.range(..=addr).next_back()?;
        let at = addr - base;
        (at.checked_add(len)? <= memory.len() as u64).then(|| (memory.clone(), at as usize))
    }

    /// The card may ask for our memory, and for nothing else.
    fn serve_one(&mut self, frame: Frame<'_>) {
        let Frame { header, payload, fds: _, refused } = frame;
        if !matches!(header.kind, Kind::Request | Kind::Posted) {
            self.strays += 1;
            return;
        }
        let outcome = match refused {
            Some(e) => Err(e),
            None => Request::parse(header.command, payload, Capabilities::default().max_data),
        };
        let answered = header.kind == Kind::Request;
        let reply = Header { kind: Kind::Reply, ..header };
        let outcome = outcome.and_then(|r| match r {
            Request::DmaRead { addr, count } => {
                let (memory, at) = self.find(addr, count).ok_or(Errno::EFAULT)?;
                if answered {
                    self.outbox.put(reply, Vec::new(), |p| {
                        put64(p, addr);
                        put64(p, count);
                        let start = p.len();
                        p.resize(start + count as usize, 0);
                        memory.read(at, &mut p[start..]);
                    });
                }
                Ok(())
            }
            Request::DmaWrite { addr, data } => {
                let (memory, at) = self.find(addr, data.len() as u64).ok_or(Errno::EFAULT)?;
                // A published index is aligned, and the driver may be looking at it.
                match (data.first_chunk(), data.len()) {
                    (Some(b), 4) if at.is_multiple_of(4) => memory.store32(at, u32::from_le_bytes(*b)),
                    _ if data.len() == 2 && at.is_multiple_of(2) => {
                        memory.store16(at, u16::from_le_bytes([data[0], data[1]]));
                    }
                    _ => memory.write(at, data),
                }
                if answered {
                    self.outbox.put(reply, Vec::new(), |p| {
                        put64(p, addr);
                        put64(p, data.len() as u64);
                    });
                }
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        });
        if let Err(e) = outcome
            && answered
        {
            self.outbox.put(Header { kind: Kind::Failed(e), ..header }, Vec::new(), |_| ());
        }
    }

    pub(super) fn read(
        &mut self,
        now: Instant,
        region: u32,
        at: u64,
        out: &mut [u8],
    ) -> Result<(), CallError> {
        let count = out.len() as u32;
        self.call(now, &Request::RegionRead { region, at, count }, Vec::new(), |p, _| {
            let data = p.get(16..).filter(|d| d.len() == out.len())?;
            out.copy_from_slice(data);
            Some(())
        })
    }

    pub(super) fn read32(&mut self, now: Instant, region: u32, at: u64) -> Result<u32, CallError> {
        let mut out = [0; 4];
        self.read(now, region, at, &mut out).map(|()| u32::from_le_bytes(out))
    }

    pub(super) fn region_info(
        &mut self,
        now: Instant,
        index: u32,
    ) -> Result<(RegionInfo, Option<OwnedFd>), CallError> {
        let mut argsz = 32;
        loop {
            let request = Request::RegionInfo { argsz, index };
            let (info, fd) = self.call(now, &request, Vec::new(), |p, fds| {
                Some((RegionInfo::decode(p)?, fds.into_iter().next()))
            })?;
            if info.argsz <= argsz || info.argsz > REGION_INFO_LIMIT {
                return Ok((info, fd));
            }
            argsz = info.argsz;
        }
    }

    pub(super) fn set_irqs(
        &mut self,
        now: Instant,
        flags: u32,
        index: u32,
        events: &[Event],
    ) -> Result<(), CallError> {
        if events.is_empty() {
            let all = SetIrqs { flags, index, start: 0, count: 0, data: &[] };
            return self.call(now, &Request::SetIrqs(all), Vec::new(), |_, _| Some(()));
        }
        let piece = self.peer.max_fds.clamp(1, MAX_FDS);
        for (n, events) in events.chunks(piece).enumerate() {
            let fds =
                events.iter().map(|e| e.as_fd().try_clone_to_owned().map(Rc::new)).collect::<Result<_, _>>();
            let fds = fds.map_err(|_| CallError::Lost)?;
            let (start, count) = ((n * piece) as u32, events.len() as u32);
            let set = SetIrqs { flags, index, start, count, data: &[] };
            self.call(now, &Request::SetIrqs(set), fds, |_, _| Some(()))?;
        }
        Ok(())
    }
}
