//! The host as the card sees it through a client: memory by map, interrupts by eventfd.
//!
//! What the client shares by descriptor is read and written in place. What it keeps to itself travels in
//! DMA_READ and DMA_WRITE messages, and only from the card's step: inside a register access the client waits
//! for us, so such an access is refused. While the port waits for an answer it serves the client's requests
//! as far as they do not need the card, which is in the middle of its step; the others wait their turn, in
//! order, up to a limit.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::gate::Gate;
use crate::mem::SharedMem;
use crate::pci::{DmaFault, Epoch, Grant, HostPort, Vector, Word};
use crate::time::Instant;

use super::super::dma::{DmaTable, Piece};
use super::super::doorbell::Doorbells;
use super::super::irq::IrqTable;
use super::super::link::{Link, Turn};
use super::super::message::{Request, u64_at};
use super::super::version::Capabilities;
use super::super::wire::{Frame, Header, Inbox, Kind, Outbox};
use super::Counters;

/// How long the card waits for the client's memory; a client that takes longer is lost.
pub const DMA_DEADLINE: Duration = Duration::from_secs(1);
/// Requests that may wait until the card's step is over; one more ends the wait for the client's memory.
pub const DEFERRED_LIMIT: usize = 256;
/// Bytes of payload in them.
pub const DEFERRED_BYTES: usize = 1 << 20;

/// A request that waits until the card's step is over.
pub(super) struct Deferred {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// What the client has given us, and the way to it.
pub(super) struct Port {
    pub(super) gate: Gate,
    pub(super) dma: DmaTable,
    pub(super) irqs: IrqTable,
    pub(super) doorbells: Doorbells,
    pub(super) ours: Capabilities,
    pub(super) peer: Capabilities,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) deferred: VecDeque<Deferred>,
    pub(super) next_id: u16,
    /// The stream is garbled or the peer is gone.
    pub(super) broken: bool,
    pub(super) now: Instant,
    pub(super) counters: Counters,
}

impl Port {
    pub(super) fn revoke(&mut self) -> Epoch {
        let epoch = self.gate.revoke();
        self.irqs.clear();
        self.doorbells.renew(epoch);
        epoch
    }

    /// What config space or the card did to INTx.
    pub(super) fn update_intx(&mut self) {
        let visible = self.gate.config.intx_visible();
        self.irqs.set_level(visible);
    }

    fn defer(&mut self, header: Header, payload: &[u8], fds: Vec<OwnedFd>) -> bool {
        let bytes: usize = self.deferred.iter().map(|d| d.payload.len()).sum();
        self.deferred.push_back(Deferred { header, payload: payload.to_vec(), fds });
        self.deferred.len() < DEFERRED_LIMIT && bytes + payload.len() < DEFERRED_BYTES
    }

    /// Handles one message that arrived during a wait. Returns whether the wait may go on.
    fn meanwhile(&mut self, frame: Frame<'_>) -> bool {
        let Frame { header, payload, fds, refused } = frame;
        if self.outbox.is_full() {
            // It asks and asks, and does not take the answers.
            self.broken = true;
            return false;
        }
        if !matches!(header.kind, Kind::Request | Kind::Posted) {
            self.counters.strays += 1;
            return true;
        }
        if let Some(e) = refused {
            // An error has no effect that would have to keep its place among the requests that wait.
            self.refuse(header, e);
            return true;
        }
        match Request::parse(header.command, payload, self.ours.max_data) {
            Err(e) => self.refuse(header, e),
            Ok(r) if self.deferred.is_empty() && Self::is_its_own(&r) => self.serve(header, &r, fds),
            Ok(_) => return self.defer(header, payload, fds),
        }
        true
    }

    /// Sends a request to the client and waits for the payload of its reply, which `take` looks at.
    fn ask(
        &mut self,
        link: &mut dyn Link,
        request: &Request<'_>,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), ()> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let header = Header { id, command: request.command() as u16, kind: Kind::Request };
        self.outbox.put(header, Vec::new(), |p| request.encode(p));
        let until = self.now + DMA_DEADLINE;
        loop {
            let mut inbox = std::mem::replace(&mut self.inbox, Inbox::new(0, 0));
            let mut answer = None;
            while answer.is_none() && !self.broken {
                match inbox.pop() {
                    Err(_) => self.broken = true,
                    Ok(None) => break,
                    Ok(Some(f)) if f.header.id == id && f.header.command == header.command => {
                        match f.header.kind {
                            Kind::Reply => answer = Some(f.refused.is_none() && take(f.payload)),
                            Kind::Failed(_) => answer = Some(false),
                            _ if !self.meanwhile(f) => answer = Some(false),
                            _ => {}
                        }
                    }
                    Ok(Some(f)) => {
                        if !self.meanwhile(f) {
                            answer = Some(false);
                        }
                    }
                }
            }
            self.inbox = inbox;
            if let Some(ok) = answer {
                return if ok { Ok(()) } else { Err(()) };
            }
            if self.broken {
                return Err(());
            }
            match link.turn(&mut self.outbox, &mut self.inbox, until) {
                Turn::Moved => {}
                Turn::TimedOut => {
                    self.counters.dma_timeouts += 1;
                    self.broken = true;
                    return Err(());
                }
                Turn::Lost => {
                    self.broken = true;
                    return Err(());
                }
            }
        }
    }

    fn ask_read(&mut self, link: &mut dyn Link, addr: u64, out: &mut [u8]) -> Result<(), ()> {
        let count = out.len() as u64;
        self.ask(link, &Request::DmaRead { addr, count }, |p| {
            let good = p.len() == 16 + out.len() && u64_at(p, 0) == addr && u64_at(p, 8) == count;
            if good {
                out.copy_from_slice(&p[16..]);
            }
            good
        })
    }

    fn ask_write(&mut self, link: &mut dyn Link, addr: u64, data: &[u8]) -> Result<(), ()> {
        // Some clients answer with a count of 32 bits; what they wrote is in the low half.
        self.ask(link, &Request::DmaWrite { addr, data }, |p| p.len() >= 12 && u64_at(p, 0) == addr)
    }

    /// Bytes that one message may carry to or from the client.
    fn stride(&self) -> usize {
        self.peer.max_data.min(self.ours.max_data)
    }

    fn refused(&mut self, fault: DmaFault) -> DmaFault {
        self.counters.dma_refused += 1;
        fault
    }

    /// Whether all of an access is mapped, and can be done now.
    fn reachable(&mut self, addr: u64, len: usize, write: bool, grant: Grant) -> Result<(), DmaFault> {
        self.gate.permit(grant)?;
        self.dma.permits(addr, len, write)
    }
}

/// The port during one call of the card: with the way to the client only in a step.
pub(super) struct Granted<'p, 'l> {
    pub(super) port: &'p mut Port,
    pub(super) link: Option<&'l mut (dyn Link + 'l)>,
}

impl Granted<'_, '_> {
    /// Does a permitted access map by map. Remote bytes that are refused or late fail it; what was done
    /// before stays.
    fn transfer(
        &mut self,
        addr: u64,
        len: usize,
        mut shared: impl FnMut(&SharedMem, usize, std::ops::Range<usize>),
        mut remote: impl FnMut(&mut Port, &mut dyn Link, u64, std::ops::Range<usize>) -> Result<(), ()>,
    ) -> Result<(), DmaFault> {
        let fault = DmaFault::Unmapped { addr, len: len as u64 };
        let mut done = 0;
        while done < len {
            let at = addr + done as u64;
            let stride = self.port.stride();
            let n = match self.port.dma.piece(at, len - done).ok_or(fault)? {
                (Piece::Shared(memory, offset), n) => {
                    shared(memory, offset, done..done + n);
                    n
                }
                (Piece::Remote, n) => {
                    let n = n.min(stride);
                    let link = self.link.as_deref_mut().ok_or(fault)?;
                    remote(self.port, link, at, done..done + n).map_err(|()| fault)?;
                    n
                }
            };
            done += n;
        }
        Ok(())
    }
}

impl HostPort for Granted<'_, '_> {
    fn grant(&self) -> Grant {
        Grant(self.port.gate.epoch)
    }

    fn revoke(&mut self) -> Epoch {
        self.port.revoke()
    }

    fn dma_read(&mut self, addr: u64, out: &mut [u8], grant: Grant) -> Result<(), DmaFault> {
        let len = out.len();
        let out = std::cell::RefCell::new(out);
        self.port
            .reachable(addr, len, false, grant)
            .and_then(|()| {
                self.transfer(
                    addr,
                    len,
                    |memory, at, range| memory.read(at, &mut out.borrow_mut()[range]),
                    |port, link, at, range| port.ask_read(link, at, &mut out.borrow_mut()[range]),
                )
            })
            .map_err(|f| self.port.refused(f))
    }

    fn dma_write(&mut self, addr: u64, data: &[u8], grant: Grant) -> Result<(), DmaFault> {
        self.port
            .reachable(addr, data.len(), true, grant)
            .and_then(|()| {
                self.transfer(
                    addr,
                    data.len(),
                    |memory, at, range| memory.write(at, &data[range]),
                    |port, link, at, range| port.ask_write(link, at, &data[range]),
                )
            })
            .map_err(|f| self.port.refused(f))
    }

    fn publish(&mut self, addr: u64, word: Word, grant: Grant) -> Result<(), DmaFault> {
        let (bytes, len) = match word {
            Word::U16(v) => (u32::from(v).to_le_bytes(), 2),
            Word::U32(v) => (v.to_le_bytes(), 4),
        };
        let aligned = addr.is_multiple_of(len as u64);
        let fault = DmaFault::Unmapped { addr, len: len as u64 };
        self.port
            .reachable(addr, len, true, grant)
            .and(if aligned { Ok(()) } else { Err(fault) })
            .and_then(|()| {
                self.transfer(
                    addr,
                    len,
                    |memory, at, _| match word {
                        Word::U16(v) => memory.store16(at, v),
                        Word::U32(v) => memory.store32(at, v),
                    },
                    |port, link, at, range| port.ask_write(link, at, &bytes[range]),
                )
            })
            .map_err(|f| self.port.refused(f))
    }

    fn msi(&mut self, vector: Vector, grant: Grant) {
        let port = &mut *self.port;
        match port.gate.permit(grant) {
            Ok(()) => {
                let (msi, msix) = (port.gate.config.msi_enabled(), port.gate.config.msix_enabled());
                port.irqs.message(vector, msi, msix);
            }
            Err(f) => {
                port.refused(f);
            }
        }
    }

    fn intx(&mut self, asserted: bool) {
        self.port.gate.config.set_intx(asserted);
        self.port.update_intx();
    }

    fn config(&self, at: u16) -> Option<u32> {
        self.port.gate.owned(at)
    }
}
