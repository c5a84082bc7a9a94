//! What the tests of this crate share: a host with flat memory, and a context to call the card with.

use bus::Instant;
use bus::actor::ActorId;
use bus::pci::{DevCx, DmaFault, Epoch, Grant, HostPort, Vector, Word};
use bus::streams::Streams;
use bus::trace::Trace;

use std::net::SocketAddr;

use crate::tcp::{ConnectRequest, LinkHeader, TcpOptions};

/// Bus address of the first byte of memory: address 0 is nobody's.
pub(crate) const BASE: u64 = 0x1_0000_0000;

/// A host: flat memory, and an epoch.
pub(crate) struct FlatHost {
    pub(crate) mem: Vec<u8>,
    pub(crate) epoch: Epoch,
    /// DMA writes and publishes, in order: address and length.
    pub(crate) writes: Vec<(u64, usize)>,
}

impl FlatHost {
    fn range(&self, addr: u64, len: usize, grant: Grant) -> Result<std::ops::Range<usize>, DmaFault> {
        if grant.epoch() != self.epoch {
            return Err(DmaFault::Revoked);
        }
        let start = addr.checked_sub(BASE).map(|a| a as usize);
        match start.and_then(|s| Some(s..s.checked_add(len)?)) {
            Some(range) if range.end <= self.mem.len() => Ok(range),
            _ => Err(DmaFault::Unmapped { addr, len: len as u64 }),
        }
    }
}

impl HostPort for FlatHost {
    fn grant(&self) -> Grant {
        Grant::of(self.epoch)
    }

    fn revoke(&mut self) -> Epoch {
        self.epoch.0 += 1;
        self.epoch
    }

    fn dma_read(&mut self, addr: u64, out: &mut [u8], grant: Grant) -> Result<(), DmaFault> {
        out.copy_from_slice(&self.mem[self.range(addr, out.len(), grant)?]);
        Ok(())
    }

    fn dma_write(&mut self, addr: u64, data: &[u8], grant: Grant) -> Result<(), DmaFault> {
        let range = self.range(addr, data.len(), grant)?;
        self.mem[range].copy_from_slice(data);
        self.writes.push((addr, data.len()));
        Ok(())
    }

    fn publish(&mut self, addr: u64, word: Word, grant: Grant) -> Result<(), DmaFault> {
        match word {
            Word::U16(v) => self.dma_write(addr, &v.to_le_bytes(), grant),
            Word::U32(v) => self.dma_write(addr, &v.to_le_bytes(), grant),
        }
    }

    fn msi(&mut self, _vector: Vector, _grant: Grant) {}

    fn intx(&mut self, _asserted: bool) {}
}

struct NoRandomness;

impl Streams for NoRandomness {
    fn fill(&mut self, name: &'static str, _out: &mut [u8]) {
        panic!("nothing here draws randomness: {name}");
    }
}

/// Everything that a call of the card needs.
pub(crate) struct Bench {
    pub(crate) now: Instant,
    pub(crate) host: FlatHost,
    pub(crate) rng: Box<dyn Streams>,
    trace: Trace,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_memory(0)
    }

    pub(crate) fn with_memory(bytes: usize) -> Self {
        let host = FlatHost { mem: vec![0; bytes], epoch: Epoch(1), writes: Vec::new() };
        Self { now: Instant::ZERO, host, rng: Box::new(NoRandomness), trace: Trace::off() }
    }

    /// Calls the card.
    pub(crate) fn with<R>(&mut self, call: impl FnOnce(&mut DevCx<'_>) -> R) -> R {
        call(&mut DevCx {
            now: self.now,
            actor: ActorId::new("card", 0),
            rng: &mut *self.rng,
            trace: &mut self.trace,
            host: &mut self.host,
        })
    }
}

/// A CONNECT to `remote`.
pub(crate) fn connect_request(remote: SocketAddr) -> ConnectRequest {
    ConnectRequest {
        local: "10.0.0.2:60000".parse().expect("an address"),
        remote,
        mss: 1460,
        pmtu: 1500,
        rcv_buf: 65536,
        snd_buf: 65536,
        link: LinkHeader::default(),
        options: TcpOptions::default(),
    }
}
