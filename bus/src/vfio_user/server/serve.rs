//! The requests that are about the slot and not the card: information, maps, interrupt routes.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use os::shm::Mapping;

use crate::mem::{PAGE_SIZE, SharedMem};
use crate::pci::Bar;

use super::super::errno::Errno;
use super::super::message::{
    CAP_SPARSE_MMAP, DEVICE_PCI, DEVICE_RESETTABLE, INFO_BYTES, IRQ_TYPES, MAP_READ, MAP_WRITE, PCI_REGIONS,
    REGION_CAPS, REGION_CONFIG, REGION_INFO_BYTES, REGION_MAPPABLE, REGION_READABLE, REGION_SLOT,
    REGION_WRITABLE, Request, UNMAP_ALL, put32, put64,
};
use super::super::version::PAGE;
use super::super::wire::{Header, Kind};
use super::port::Port;

/// Bytes of config space as a region: the extended part is there and empty.
pub(super) const CONFIG_BYTES: u64 = 4096;
/// Bytes of a sparse-mmap capability with one area.
const SPARSE_BYTES: usize = 32;
/// Bytes of a descriptor entry in a REGION_IO_FDS reply.
const IO_FD_BYTES: usize = 40;

/// A region as the client is told about it.
struct Region {
    flags: u32,
    size: u64,
    /// Offset and size of what may be mapped, with the file.
    area: Option<(u64, u64, Rc<OwnedFd>)>,
}

impl Port {
    /// Whether the request can be served without the card.
    pub(super) fn is_its_own(r: &Request<'_>) -> bool {
        matches!(
            r,
            Request::DmaMap { .. }
                | Request::DmaUnmap { .. }
                | Request::DeviceInfo
                | Request::RegionInfo { .. }
                | Request::RegionIoFds { .. }
                | Request::IrqInfo { .. }
                | Request::SetIrqs(_)
        )
    }

    /// Answers with an error, if an answer is wanted.
    pub(super) fn refuse(&mut self, header: Header, e: Errno) {
        self.counters.refused += 1;
        if header.kind != Kind::Posted {
            self.outbox.put(Header { kind: Kind::Failed(e), ..header }, Vec::new(), |_| ());
        }
    }

    /// Answers, if an answer is wanted.
    pub(super) fn reply(&mut self, header: Header, payload: impl FnOnce(&mut Vec<u8>)) {
        self.reply_with(header, Vec::new(), payload);
    }

    fn reply_with(&mut self, header: Header, fds: Vec<Rc<OwnedFd>>, payload: impl FnOnce(&mut Vec<u8>)) {
        if header.kind != Kind::Posted {
            self.outbox.put(Header { kind: Kind::Reply, ..header }, fds, payload);
        }
    }

    /// Serves a request for which [`Port::is_its_own`] holds.
    pub(super) fn serve(&mut self, header: Header, r: &Request<'_>, fds: Vec<OwnedFd>) {
        let carries = matches!(r, Request::DmaMap { .. } | Request::SetIrqs(_));
        let outcome = match *r {
            _ if !carries && !fds.is_empty() => Err(Errno::EINVAL),
            Request::DmaMap { flags, offset, addr, size } => {
                self.map(flags, offset, addr, size, fds).map(|()| self.reply(header, |_| ()))
            }
            Request::DmaUnmap { flags, addr, size } => {
                self.unmap(flags, addr, size).map(|()| self.reply(header, |p| r.encode(p)))
            }
            Request::SetIrqs(set) => self.irqs.set(&set, fds).map(|()| self.reply(header, |_| ())),
            Request::DeviceInfo => {
                let regions = if self.peer.slot { REGION_SLOT + 1 } else { PCI_REGIONS };
                let info = [INFO_BYTES as u32, DEVICE_RESETTABLE | DEVICE_PCI, regions, IRQ_TYPES];
                self.reply(header, |p| info.into_iter().for_each(|v| put32(p, v)));
                Ok(())
            }
            Request::IrqInfo { index } => match self.irqs.info(index) {
                Some((flags, count)) => {
                    let info = [INFO_BYTES as u32, flags, index, count];
                    self.reply(header, |p| info.into_iter().for_each(|v| put32(p, v)));
                    Ok(())
                }
                None => Err(Errno::EINVAL),
            },
            Request::RegionInfo { argsz, index } => {
                self.region(index).map(|region| self.region_info(header, argsz, index, region))
            }
            Request::RegionIoFds { argsz, flags, index } => self.io_fds(header, argsz, flags, index),
            _ => Err(Errno::EOPNOTSUPP),
        };
        if let Err(e) = outcome {
            self.refuse(header, e);
        }
    }

    fn map(&mut self, flags: u32, offset: u64, addr: u64, size: u64, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let (readable, writable) = (flags & MAP_READ != 0, flags & MAP_WRITE != 0);
        if flags & !(MAP_READ | MAP_WRITE) != 0 || flags == 0 || fds.len() > 1 {
            return Err(Errno::EINVAL);
        }
        self.dma.check(addr, size)?;
        let memory = match fds.first() {
            None => None,
            Some(_) if !offset.is_multiple_of(PAGE) => return Err(Errno::EINVAL),
            Some(_) if !self.dma.has_room(size) => return Err(Errno::ENOSPC),
            Some(fd) => {
                let mapping = Rc::new(Mapping::new(fd.as_fd(), offset, size, writable)?);
                Some(SharedMem::window(&mapping, 0, mapping.len()))
            }
        };
        self.dma.map(addr, size, (readable, writable), memory)
    }

    fn unmap(&mut self, flags: u32, addr: u64, size: u64) -> Result<(), Errno> {
        match flags {
            0 => self.dma.unmap(addr, size),
            UNMAP_ALL if addr == 0 && size == 0 => {
                self.dma.unmap_all();
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn region(&mut self, index: u32) -> Result<Region, Errno> {
        const BOTH: u32 = REGION_READABLE | REGION_WRITABLE;
        let mappable = if self.peer.slot { Some(&mut self.doorbells) } else { None };
        Ok(match (index, mappable) {
            (REGION_CONFIG, _) => Region { flags: BOTH, size: CONFIG_BYTES, area: None },
            (REGION_SLOT, Some(d)) => {
                let area = Some((0, PAGE_SIZE as u64, d.state_file()));
                Region { flags: REGION_READABLE, size: PAGE_SIZE as u64, area }
            }
            (0..6, mappable) => {
                let bar = Bar(index as u8);
                let size = self.gate.config.bar_size(bar);
                let area = match mappable {
                    Some(d) if d.layout.bar == bar && d.layout.pages > 0 => {
                        Some((d.layout.at, d.layout.bytes(), d.file()?))
                    }
                    _ => None,
                };
                Region { flags: if size == 0 { 0 } else { BOTH }, size, area }
            }
            (0..PCI_REGIONS, _) => Region { flags: 0, size: 0, area: None },
            _ => return Err(Errno::EINVAL),
        })
    }

    /// The structure, and behind it, where it fits, the capability and the file.
    fn region_info(&mut self, header: Header, argsz: u32, index: u32, region: Region) {
        let Region { mut flags, size, area } = region;
        let needed = REGION_INFO_BYTES + if area.is_some() { SPARSE_BYTES } else { 0 };
        let chain = if area.is_some() { REGION_INFO_BYTES as u32 } else { 0 };
        if area.is_some() {
            flags |= REGION_MAPPABLE | REGION_CAPS;
        }
        let area = area.filter(|_| argsz as usize >= needed);
        let fds = area.iter().map(|(.., file)| file.clone()).collect();
        self.reply_with(header, fds, |p| {
            [needed as u32, flags, index, chain].into_iter().for_each(|v| put32(p, v));
            [size, 0].into_iter().for_each(|v| put64(p, v));
            if let Some((at, bytes, _)) = area {
                // Capability id and version 1, no next one; one area.
                [1 << 16 | u32::from(CAP_SPARSE_MMAP), 0, 1, 0].into_iter().for_each(|v| put32(p, v));
                [at, bytes].into_iter().for_each(|v| put64(p, v));
            }
        });
    }

    /// One eventfd stands for all doorbell pages: the kick of a parked server.
    fn io_fds(&mut self, header: Header, argsz: u32, flags: u32, index: u32) -> Result<(), Errno> {
        let region = self.region(index)?;
        let Some((at, bytes, _)) = region.area.filter(|_| index < REGION_CONFIG && flags == 0) else {
            return Err(Errno::EINVAL);
        };
        let needed = INFO_BYTES + IO_FD_BYTES;
        let fits = argsz as usize >= needed;
        let kick = if fits { vec![self.doorbells.kick()] } else { Vec::new() };
        self.reply_with(header, kick, |p| {
            [needed as u32, 0, index, 1].into_iter().for_each(|v| put32(p, v));
            if fits {
                [at, bytes].into_iter().for_each(|v| put64(p, v));
                // First descriptor, type ioeventfd, no flags, padding, no data to match.
                [0, 0, 0, 0, 0, 0].into_iter().for_each(|v| put32(p, v));
            }
        });
        Ok(())
    }
}
