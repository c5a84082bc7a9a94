//! What the messages say: every request as a type, from and to its payload.
//!
//! Layouts are those of the vfio-user specification (QEMU `docs/interop/vfio-user.rst`, libvfio-user) and of
//! the VFIO structures that it borrows. Parsing checks form (lengths, sizes, transfer limit); what the values
//! mean is checked by whoever serves the request. Not spoken: migration and dirty-page tracking, device
//! features, twin sockets.

use super::errno::Errno;

/// Command numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Protocol version and capabilities; the first message.
    Version = 1,
    /// Makes memory reachable for the device.
    DmaMap = 2,
    /// Takes it away again.
    DmaUnmap = 3,
    /// Numbers of regions and interrupt types.
    DeviceInfo = 4,
    /// Size and properties of a region.
    RegionInfo = 5,
    /// Descriptors that stand for writes to parts of a region.
    RegionIoFds = 6,
    /// Number and properties of an interrupt type.
    IrqInfo = 7,
    /// Where interrupts go, and their masks.
    SetIrqs = 8,
    /// Reads a region.
    RegionRead = 9,
    /// Writes a region.
    RegionWrite = 10,
    /// Reads memory of the client.
    DmaRead = 11,
    /// Writes memory of the client.
    DmaWrite = 12,
    /// Resets the device.
    DeviceReset = 13,
    /// Several small region writes.
    RegionWriteMulti = 15,
}

/// Device info: the device can be reset.
pub const DEVICE_RESETTABLE: u32 = 1;
/// Device info: it is a PCI device.
pub const DEVICE_PCI: u32 = 1 << 1;

/// Region index of config space; the BARs are 0 to 5.
pub const REGION_CONFIG: u32 = 7;
/// Regions that every PCI device has (BARs, ROM, config space, VGA).
pub const PCI_REGIONS: u32 = 9;
/// Region of our own: the slot's state page (see [`super::doorbell`]).
pub const REGION_SLOT: u32 = 9;
/// Region info: may be read.
pub const REGION_READABLE: u32 = 1;
/// Region info: may be written.
pub const REGION_WRITABLE: u32 = 1 << 1;
/// Region info: parts may be mapped; a descriptor came with the reply.
pub const REGION_MAPPABLE: u32 = 1 << 2;
/// Region info: a capability chain follows.
pub const REGION_CAPS: u32 = 1 << 3;
/// Capability: which areas of a region may be mapped.
pub const CAP_SPARSE_MMAP: u16 = 1;

/// Map: the device may read.
pub const MAP_READ: u32 = 1;
/// Map: the device may write.
pub const MAP_WRITE: u32 = 1 << 1;
/// Unmap: everything; address and size are zero.
pub const UNMAP_ALL: u32 = 1 << 1;

/// Interrupt types: INTx, MSI, MSI-X, and two (errors, requests to let go) that have none here.
pub const IRQ_TYPES: u32 = 5;
/// Index of INTx.
pub const IRQ_INTX: u32 = 0;
/// Index of MSI.
pub const IRQ_MSI: u32 = 1;
/// Index of MSI-X.
pub const IRQ_MSIX: u32 = 2;
/// Interrupt info: signalled through an eventfd.
pub const IRQ_EVENTFD: u32 = 1;
/// Interrupt info: can be masked with SET_IRQS.
pub const IRQ_MASKABLE: u32 = 1 << 1;
/// Interrupt info: masks itself when it is signalled.
pub const IRQ_AUTOMASKED: u32 = 1 << 2;

/// SET_IRQS: no data; for all of the range.
pub const SET_NONE: u32 = 1;
/// SET_IRQS: a byte for each of the range says whether it is meant.
pub const SET_BOOL: u32 = 1 << 1;
/// SET_IRQS: a descriptor for each of the range, or none at all to take them away.
pub const SET_EVENTFD: u32 = 1 << 2;
/// SET_IRQS: mask.
pub const SET_MASK: u32 = 1 << 3;
/// SET_IRQS: unmask.
pub const SET_UNMASK: u32 = 1 << 4;
/// SET_IRQS: signal, or where to signal.
pub const SET_TRIGGER: u32 = 1 << 5;

/// Writes in one REGION_WRITE_MULTI.
pub const MULTI_LIMIT: u64 = 200;
const MULTI_ENTRY: usize = 24;

/// A request and its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// [`Command::Version`].
    Version {
        /// Major version; 0 is the only one.
        major: u16,
        /// Minor version.
        minor: u16,
        /// Capabilities as JSON with a terminating NUL, or empty.
        data: &'a [u8],
    },
    /// [`Command::DmaMap`].
    DmaMap {
        /// [`MAP_READ`], [`MAP_WRITE`].
        flags: u32,
        /// Offset in the file, when a descriptor came along.
        offset: u64,
        /// Bus address.
        addr: u64,
        /// Bytes.
        size: u64,
    },
    /// [`Command::DmaUnmap`].
    DmaUnmap {
        /// 0 or [`UNMAP_ALL`].
        flags: u32,
        /// Bus address.
        addr: u64,
        /// Bytes.
        size: u64,
    },
    /// [`Command::DeviceInfo`].
    DeviceInfo,
    /// [`Command::RegionInfo`].
    RegionInfo {
        /// Longest reply payload that the client takes.
        argsz: u32,
        /// Which region.
        index: u32,
    },
    /// [`Command::RegionIoFds`].
    RegionIoFds {
        /// Longest reply payload that the client takes.
        argsz: u32,
        /// Zero.
        flags: u32,
        /// Which region.
        index: u32,
    },
    /// [`Command::IrqInfo`].
    IrqInfo {
        /// Which interrupt type.
        index: u32,
    },
    /// [`Command::SetIrqs`].
    SetIrqs(SetIrqs<'a>),
    /// [`Command::RegionRead`].
    RegionRead {
        /// Which region.
        region: u32,
        /// Offset in it.
        at: u64,
        /// Bytes.
        count: u32,
    },
    /// [`Command::RegionWrite`].
    RegionWrite {
        /// Which region.
        region: u32,
        /// Offset in it.
        at: u64,
        /// What to write.
        data: &'a [u8],
    },
    /// [`Command::DmaRead`].
    DmaRead {
        /// Bus address.
        addr: u64,
        /// Bytes.
        count: u64,
    },
    /// [`Command::DmaWrite`].
    DmaWrite {
        /// Bus address.
        addr: u64,
        /// What to write.
        data: &'a [u8],
    },
    /// [`Command::DeviceReset`].
    DeviceReset,
    /// [`Command::RegionWriteMulti`].
    RegionWriteMulti(Writes<'a>),
}

/// The payload of SET_IRQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// One data flag and one action flag.
    pub flags: u32,
    /// Interrupt type.
    pub index: u32,
    /// First of the range.
    pub start: u32,
    /// Length of the range.
    pub count: u32,
    /// With [`SET_BOOL`], a byte for each.
    pub data: &'a [u8],
}

/// Small region writes, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writes<'a>(&'a [u8]);

impl<'a> Writes<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        (self.0.len() / MULTI_ENTRY) as u64
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Region, offset and data of each. `None` data: more than 8 bytes are announced.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64, Option<&'a [u8]>)> {
        self.0
            .chunks_exact(MULTI_ENTRY)
            .map(|e| (u32_at(e, 8), u64_at(e, 0), e[16..].get(..u32_at(e, 12) as usize)))
    }

    /// Appends one write of at most 8 bytes to the entries of a message under construction.
    pub fn append(entries: &mut Vec<u8>, region: u32, at: u64, data: &[u8]) {
        put64(entries, at);
        put32(entries, region);
        put32(entries, data.len() as u32);
        entries.extend_from_slice(data);
        entries.resize(entries.len() + 8 - data.len(), 0);
    }

    /// The entries that [`Writes::append`] made.
    #[must_use]
    pub fn of(entries: &'a [u8]) -> Self {
        Self(entries)
    }
}

/// A little-endian number; the caller has checked that it is there.
pub(super) fn u32_at(p: &[u8], at: usize) -> u32 {
    p.get(at..).and_then(|p| p.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// As [`u32_at`].
pub(super) fn u64_at(p: &[u8], at: usize) -> u64 {
    p.get(at..).and_then(|p| p.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

pub(super) fn put32(out: &mut Vec<u8>, v: u32) {
    out.extend_from_slice(&v.to_le_bytes());
}

pub(super) fn put64(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_le_bytes());
}

/// Bytes of the device and interrupt info structures.
pub const INFO_BYTES: usize = 16;
/// Bytes of the region info structure, without capabilities.
pub const REGION_INFO_BYTES: usize = 32;
const MAP_BYTES: usize = 32;
const UNMAP_BYTES: usize = 24;
const SET_BYTES: usize = 20;
const ACCESS_BYTES: usize = 16;

/// The payload has exactly `len` bytes and claims no less in its first field.
fn sized(p: &[u8], len: usize) -> Result<(), Errno> {
    if p.len() == len && u32_at(p, 0) as usize >= len { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The data of a write: exactly what is announced, something, and no more than the limit.
fn data(p: &[u8], count: u64, limit: usize) -> Result<&[u8], Errno> {
    let d = p.get(ACCESS_BYTES..).ok_or(Errno::EINVAL)?;
    if d.len() as u64 == count && transfer(count, limit) { Ok(d) } else { Err(Errno::EINVAL) }
}

fn transfer(count: u64, limit: usize) -> bool {
    count != 0 && count <= limit as u64
}

impl<'a> Request<'a> {
    /// Reads the payload of a request. `max_data` limits region and DMA accesses.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a command that we do not speak, `EINVAL` for a payload of another form.
    pub fn parse(command: u16, p: &'a [u8], max_data: usize) -> Result<Self, Errno> {
        let is = |c: Command| command == c as u16;
        let need = |ok: bool| if ok { Ok(()) } else { Err(Errno::EINVAL) };
        Ok(if is(Command::RegionRead) {
            need(p.len() == ACCESS_BYTES && transfer(u64::from(u32_at(p, 12)), max_data))?;
            Self::RegionRead { region: u32_at(p, 8), at: u64_at(p, 0), count: u32_at(p, 12) }
        } else if is(Command::RegionWrite) {
            let data = data(p, u64::from(u32_at(p, 12)), max_data)?;
            Self::RegionWrite { region: u32_at(p, 8), at: u64_at(p, 0), data }
        } else if is(Command::RegionWriteMulti) {
            let entries = p.get(8..).ok_or(Errno::EINVAL)?;
            let n = u64_at(p, 0);
            need(n != 0 && n <= MULTI_LIMIT && entries.len() as u64 == n * MULTI_ENTRY as u64)?;
            Self::RegionWriteMulti(Writes(entries))
        } else if is(Command::DmaRead) {
            need(p.len() == ACCESS_BYTES && transfer(u64_at(p, 8), max_data))?;
            Self::DmaRead { addr: u64_at(p, 0), count: u64_at(p, 8) }
        } else if is(Command::DmaWrite) {
            Self::DmaWrite { addr: u64_at(p, 0), data: data(p, u64_at(p, 8), max_data)? }
        } else if is(Command::Version) {
            need(p.len() >= 4)?;
            let half = |at: usize| u16::from_le_bytes([p[at], p[at + 1]]);
            Self::Version { major: half(0), minor: half(2), data: &p[4..] }
        } else if is(Command::DmaMap) {
            sized(p, MAP_BYTES)?;
            Self::DmaMap {
                flags: u32_at(p, 4),
                offset: u64_at(p, 8),
                addr: u64_at(p, 16),
                size: u64_at(p, 24),
            }
        } else if is(Command::DmaUnmap) {
            need(p.len() == UNMAP_BYTES)?;
            Self::DmaUnmap { flags: u32_at(p, 4), addr: u64_at(p, 8), size: u64_at(p, 16) }
        } else if is(Command::DeviceInfo) {
            sized(p, INFO_BYTES)?;
            Self::DeviceInfo
        } else if is(Command::RegionInfo) {
            sized(p, REGION_INFO_BYTES)?;
            Self::RegionInfo { argsz: u32_at(p, 0), index: u32_at(p, 8) }
        } else if is(Command::RegionIoFds) {
            sized(p, INFO_BYTES)?;
            Self::RegionIoFds { argsz: u32_at(p, 0), flags: u32_at(p, 4), index: u32_at(p, 8) }
        } else if is(Command::IrqInfo) {
            sized(p, INFO_BYTES)?;
            Self::IrqInfo { index: u32_at(p, 8) }
        } else if is(Command::SetIrqs) {
            need(p.len() >= SET_BYTES && u32_at(p, 0) as usize >= SET_BYTES)?;
            let flags = u32_at(p, 4);
            let count = u32_at(p, 16);
            let bytes = if flags & SET_BOOL != 0 { u64::from(count) } else { 0 };
            need((p.len() - SET_BYTES) as u64 == bytes)?;
            let (index, start, data) = (u32_at(p, 8), u32_at(p, 12), &p[SET_BYTES..]);
            Self::SetIrqs(SetIrqs { flags, index, start, count, data })
        } else if is(Command::DeviceReset) {
            need(p.is_empty())?;
            Self::DeviceReset
        } else {
            return Err(Errno::EOPNOTSUPP);
        })
    }

    /// The command.
    #[must_use]
    pub fn command(&self) -> Command {
        match self {
            Self::Version { .. } => Command::Version,
            Self::DmaMap { .. } => Command::DmaMap,
            Self::DmaUnmap { .. } => Command::DmaUnmap,
            Self::DeviceInfo => Command::DeviceInfo,
            Self::RegionInfo { .. } => Command::RegionInfo,
            Self::RegionIoFds { .. } => Command::RegionIoFds,
            Self::IrqInfo { .. } => Command::IrqInfo,
            Self::SetIrqs { .. } => Command::SetIrqs,
            Self::RegionRead { .. } => Command::RegionRead,
            Self::RegionWrite { .. } => Command::RegionWrite,
            Self::DmaRead { .. } => Command::DmaRead,
            Self::DmaWrite { .. } => Command::DmaWrite,
            Self::DeviceReset => Command::DeviceReset,
            Self::RegionWriteMulti(_) => Command::RegionWriteMulti,
        }
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Version { major, minor, data } => {
                out.extend_from_slice(&major.to_le_bytes());
                out.extend_from_slice(&minor.to_le_bytes());
                out.extend_from_slice(data);
            }
            Self::DmaMap { flags, offset, addr, size } => {
                put32(out, MAP_BYTES as u32);
                put32(out, flags);
                [offset, addr, size].into_iter().for_each(|v| put64(out, v));
            }
            Self::DmaUnmap { flags, addr, size } => {
                put32(out, UNMAP_BYTES as u32);
                put32(out, flags);
                [addr, size].into_iter().for_each(|v| put64(out, v));
            }
            Self::DeviceInfo => [INFO_BYTES as u32, 0, 0, 0].into_iter().for_each(|v| put32(out, v)),
            Self::RegionInfo { argsz, index } => {
                [argsz, 0, index, 0, 0, 0, 0, 0].into_iter().for_each(|v| put32(out, v));
            }
            Self::RegionIoFds { argsz, flags, index } => {
                [argsz, flags, index, 0].into_iter().for_each(|v| put32(out, v));
            }
            Self::IrqInfo { index } => {
                [INFO_BYTES as u32, 0, index, 0].into_iter().for_each(|v| put32(out, v));
            }
            Self::SetIrqs(SetIrqs { flags, index, start, count, data }) => {
                let argsz = (SET_BYTES + data.len()) as u32;
                [argsz, flags, index, start, count].into_iter().for_each(|v| put32(out, v));
                out.extend_from_slice(data);
            }
            Self::RegionRead { region, at, count } => put_access(out, region, at, count),
            Self::RegionWrite { region, at, data } => {
                put_access(out, region, at, data.len() as u32);
                out.extend_from_slice(data);
            }
            Self::DmaRead { addr, count } => [addr, count].into_iter().for_each(|v| put64(out, v)),
            Self::DmaWrite { addr, data } => {
                [addr, data.len() as u64].into_iter().for_each(|v| put64(out, v));
                out.extend_from_slice(data);
            }
            Self::DeviceReset => {}
            Self::RegionWriteMulti(w) => {
                put64(out, w.len());
                out.extend_from_slice(w.0);
            }
        }
    }
}

/// The head of a region access, in request and reply.
pub(super) fn put_access(out: &mut Vec<u8>, region: u32, at: u64, count: u32) {
    put64(out, at);
    put32(out, region);
    put32(out, count);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64;

    fn all(entries: &[u8]) -> Vec<Request<'_>> {
        let set = |flags, data| SetIrqs { flags, index: 2, start: 1, count: 3, data };
        vec![
            Request::Version { major: 0, minor: 1, data: b"{}\0" },
            Request::DmaMap { flags: 3, offset: 0xc3000, addr: 1 << 32, size: 4096 },
            Request::DmaUnmap { flags: 0, addr: 1 << 32, size: 4096 },
            Request::DeviceInfo,
            Request::RegionInfo { argsz: 64, index: 7 },
            Request::RegionIoFds { argsz: 64, flags: 0, index: 0 },
            Request::IrqInfo { index: 2 },
            Request::SetIrqs(set(SET_BOOL | SET_TRIGGER, &[1, 0, 1])),
            Request::SetIrqs(set(SET_EVENTFD | SET_TRIGGER, &[])),
            Request::RegionRead { region: 0, at: 0x808, count: 4 },
            Request::RegionWrite { region: 0, at: 0x808, data: &[1, 2, 3, 4] },
            Request::DmaRead { addr: 1 << 33, count: 8 },
            Request::DmaWrite { addr: 1 << 33, data: &[9; 8] },
            Request::DeviceReset,
            Request::RegionWriteMulti(Writes::of(entries)),
        ]
    }

    fn entries() -> Vec<u8> {
        let mut e = Vec::new();
        Writes::append(&mut e, 0, 0x10094, &[1, 2]);
        Writes::append(&mut e, 7, 4, &[6, 0, 0, 0]);
        e
    }

    fn encoded(r: &Request<'_>) -> Vec<u8> {
        let mut p = Vec::new();
        r.encode(&mut p);
        p
    }

    #[test]
    fn every_request_survives_the_wire() {
        for r in all(&entries()) {
            assert_eq!(Request::parse(r.command() as u16, &encoded(&r), LIMIT), Ok(r));
        }
    }

    #[test]
    fn every_other_length_is_refused() {
        for r in all(&entries()) {
            let p = encoded(&r);
            let fixed = !matches!(r, Request::Version { .. });
            for len in (0..p.len() + 9).filter(|n| *n != p.len() && (fixed || *n < 4)) {
                let mut p = p.clone();
                p.resize(len, 0);
                assert_eq!(
                    Request::parse(r.command() as u16, &p, LIMIT),
                    Err(Errno::EINVAL),
                    "{r:?} with {len}"
                );
            }
        }
    }

    #[test]
    fn an_argument_size_that_is_too_small_is_refused() {
        let commands =
            [Command::DmaMap, Command::DeviceInfo, Command::RegionInfo, Command::IrqInfo, Command::SetIrqs];
        for r in all(&entries()).into_iter().filter(|r| commands.contains(&r.command())) {
            let mut p = encoded(&r);
            p[0] = 15;
            assert_eq!(Request::parse(r.command() as u16, &p, LIMIT), Err(Errno::EINVAL), "{r:?}");
        }
    }

    #[test]
    fn transfers_of_nothing_or_beyond_the_limit_are_refused() {
        let long = [0; LIMIT + 1];
        for r in [
            Request::RegionRead { region: 0, at: 0, count: 0 },
            Request::RegionRead { region: 0, at: 0, count: LIMIT as u32 + 1 },
            Request::RegionWrite { region: 0, at: 0, data: &[] },
            Request::RegionWrite { region: 0, at: 0, data: &long },
            Request::DmaRead { addr: 0, count: 0 },
            Request::DmaRead { addr: 0, count: u64::MAX },
            Request::DmaWrite { addr: 0, data: &long },
            Request::RegionWriteMulti(Writes::of(&[])),
            Request::RegionWriteMulti(Writes::of(&[0; (MULTI_LIMIT as usize + 1) * MULTI_ENTRY])),
        ] {
            assert_eq!(Request::parse(r.command() as u16, &encoded(&r), LIMIT), Err(Errno::EINVAL), "{r:?}");
        }
    }

    #[test]
    fn unknown_commands_are_refused_as_such() {
        for command in [0, 14, 16, 17, 18, 0xffff] {
            assert_eq!(Request::parse(command, &[], LIMIT), Err(Errno::EOPNOTSUPP));
        }
    }

    #[test]
    fn a_small_write_says_when_it_announces_too_much() {
        let mut e = entries();
        e[12] = 9;
        let seen: Vec<_> = Writes::of(&e).iter().collect();
        assert_eq!(seen, [(0, 0x10094, None), (7, 4, Some(&[6, 0, 0, 0][..]))]);
    }
}
