//! A disk as a SCSI logical unit (SBC-3): decides what a command does, moves blocks between its backend and the transport, and
//! keeps the reservations. It knows nothing of PDUs: [`Disk::start`] says what data a command wants to move, then the transport
//! reads with [`Disk::read`] or delivers with [`Disk::absorb`] and ends with [`Disk::finish`]. A command that is abandoned halfway
//! is simply never finished; what was absorbed as whole blocks stays written, a partial block is never written. What takes long goes on
//! in turns ([`Disk::turn`]). Not modelled: queueing, MODE SELECT, protection information, deferred errors.

use super::backend::{Backend, Extent};
use super::commands::COMMANDS;
use super::medium::{Medium, Trouble};
use super::reservation::{Effects, Nexus, PARAMETER_LEN, Refusal, Reservations};
use super::work::{Work, descriptors};
use crate::scsi::{
    BlockLimits, Bytchk, CachingPage, Capacity, Cdb, ControlPage, Designator, Form, Inquiry, Provisioning,
    ReservationAction, Sense, SenseFormat, Status, Transfer, VpdPage, mode_header, page, report_all,
    report_one, vpd,
};

/// Most bytes that one WRITE SAME, UNMAP or one-block VERIFY may touch.
pub const MAX_SAME_BYTES: u64 = 64 << 20;
/// Most descriptors in one UNMAP.
pub const MAX_UNMAP_DESCRIPTORS: usize = 256;

/// Why a backend cannot be a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// Not 512 or 4096.
    #[error("block size {0} is neither 512 nor 4096")]
    BlockSize(u32),
    /// Nothing to serve.
    #[error("the backend holds no whole block")]
    Empty,
    /// SPC-4 wants printable ASCII here, and page 80 has no room for more.
    #[error("a serial number is 1 to 32 printable ASCII characters")]
    Serial,
}

/// A logical unit.
pub struct Disk {
    pub(super) medium: Medium,
    block_size: u32,
    blocks: u64,
    serial: String,
    removable: bool,
    pub(super) reservations: Reservations,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("serial", &self.serial)
            .field("blocks", &self.blocks)
            .field("block_size", &self.block_size)
            .finish_non_exhaustive()
    }
}

/// Who asks, and through which target.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The I_T nexus.
    pub nexus: &'a Nexus,
    /// iSCSI name of the target.
    pub target: &'a str,
    /// Target portal group tag.
    pub portal_group: u16,
    /// The sense that REQUEST SENSE returns as data.
    pub sense: Sense,
}

/// What a command wants of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to move: the command is over.
    Done(Status, Option<Sense>),
    /// The reply is in the buffer given to [`Disk::start`].
    Reply,
    /// Bytes of the medium, to be taken with [`Disk::read`].
    Read {
        /// First byte.
        at: u64,
        /// How many.
        len: u64,
    },
    /// Data-out is wanted.
    Out(Job),
    /// No data; the command goes on in turns ([`Disk::turn`]).
    Work(Work),
}

/// How a command with data-out goes on when its data is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It is over: GOOD.
    Done(Effects),
    /// It goes on in turns, with the task's buffer as it is.
    Work(Work),
}

/// A command that takes data-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    kind: JobKind,
    at: u64,
    /// Bytes of data-out that the command takes (SPDTL).
    pub len: u64,
    durable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobKind {
    Write,
    Compare,
    CompareBlock { bytes: u64 },
    Same { bytes: u64 },
    Unmap,
    Reserve { action: ReservationAction, scope: u8, kind: u8 },
}

impl Job {
    /// Whether the command means nothing with less data than it asks for: a shorter transfer is refused with 05/0E/03.
    pub fn needs_all(&self) -> bool {
        !matches!(self.kind, JobKind::Write | JobKind::Compare)
    }
}

impl From<Sense> for Outcome {
    fn from(sense: Sense) -> Outcome {
        Outcome::Done(Status::CHECK_CONDITION, Some(sense))
    }
}

const GOOD: Outcome = Outcome::Done(Status::GOOD, None);

impl Disk {
    /// A disk with blocks of `block_size` bytes (512 or 4096) on `backend`. A rest smaller than a block is not used. `serial` is
    /// 1 to 32 printable ASCII characters and makes the unit's identity: the same on every path to it.
    pub fn new(backend: Box<dyn Backend>, block_size: u32, serial: &str) -> Result<Disk, DiskError> {
        if block_size != 512 && block_size != 4096 {
            return Err(DiskError::BlockSize(block_size));
        }
        let blocks = backend.size() / u64::from(block_size);
        if blocks == 0 {
            return Err(DiskError::Empty);
        }
        if serial.is_empty() || serial.len() > 32 || !serial.bytes().all(|b| (0x20..0x7F).contains(&b)) {
            return Err(DiskError::Serial);
        }
        let serial = serial.to_owned();
        Ok(Disk {
            medium: Medium::new(backend),
            block_size,
            blocks,
            serial,
            removable: false,
            reservations: Reservations::default(),
        })
    }

    /// The same with a medium that says it can be taken out (RMB).
    pub fn removable(self) -> Disk {
        Disk { removable: true, ..self }
    }

    /// Bytes per logical block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Number of logical blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Direct access to the storage, for whoever owns the target: prefill it or check it.
    pub fn backend(&mut self) -> &mut dyn Backend {
        self.medium.backend()
    }

    /// What the operator knows the storage by, and what failed there since the last call.
    pub fn take_trouble(&mut self) -> Option<(&str, Trouble)> {
        let trouble = self.medium.take_trouble()?;
        Some((self.medium.name(), trouble))
    }

    /// The provisioning state of block `lba`, which is on the disk, and how many of the next `blocks` blocks share it: at least
    /// one. A block of which any byte is allocated is mapped. The length of the extent is in blocks.
    pub fn provisioning(&mut self, lba: u64, blocks: u64) -> Result<Extent, Sense> {
        let block = u64::from(self.block_size);
        let blocks = blocks.clamp(1, self.blocks.saturating_sub(lba).max(1));
        let first = self.medium.extent(lba * block, blocks * block)?;
        let len = if first.allocated { first.len.div_ceil(block) } else { first.len / block };
        // A hole that ends inside the first block does not unmap it.
        Ok(if len == 0 { Extent { len: 1, allocated: true } } else { Extent { len, ..first } })
    }

    /// Begins a command. Unit attentions have been dealt with. `reply` is empty and takes the data of [`Outcome::Reply`], cut to
    /// the allocation length.
    pub fn start(&mut self, context: &Context<'_>, cdb: &Cdb, reply: &mut Vec<u8>) -> Outcome {
        self.decide(context, cdb, reply).unwrap_or_else(|refusal| {
            let (status, sense) = refusal.status();
            Outcome::Done(status, sense)
        })
    }

    fn decide(&mut self, context: &Context<'_>, cdb: &Cdb, reply: &mut Vec<u8>) -> Result<Outcome, Refusal> {
        self.reservations.admit(context.nexus, cdb)?;
        if cdb.writes_medium() && self.medium.read_only() {
            return Ok(Sense::WRITE_PROTECTED.into());
        }
        let allocation = match *cdb {
            Cdb::TestUnitReady | Cdb::StartStop { .. } => return Ok(GOOD),
            Cdb::Read(t) => {
                let (at, len) = self.range(&t)?;
                return Ok(Outcome::Read { at, len });
            }
            Cdb::Write(t) => return self.job(JobKind::Write, &t, t.fua),
            Cdb::WriteVerify(t, _) => return self.job(JobKind::Write, &t, true),
            Cdb::Verify(t, Bytchk::Medium) => {
                let (at, len) = self.range(&t)?;
                return Ok(Outcome::Work(Work::check(at, len)));
            }
            Cdb::Verify(t, Bytchk::Full) => return self.job(JobKind::Compare, &t, false),
            Cdb::Verify(t, Bytchk::OneBlock) => {
                return self.one_block(&t, |bytes| JobKind::CompareBlock { bytes });
            }
            Cdb::SynchronizeCache { form, lba, blocks, .. } => {
                self.range(&Transfer { form, ..Transfer::new(lba, blocks) })?;
                return Ok(Outcome::Work(Work::flush()));
            }
            // The UNMAP bit allows what zeros get anyway.
            Cdb::WriteSame { range, anchor, no_data_out, .. } => {
                return self.write_same(range, anchor, no_data_out);
            }
            Cdb::Unmap { anchor: true, .. } => return Ok(Sense::invalid_cdb_byte(1).into()),
            Cdb::Unmap { parameter_len: 0, .. } => return Ok(GOOD),
            Cdb::Unmap { parameter_len, .. } => {
                let len = u64::from(parameter_len);
                return Ok(Outcome::Out(Job { kind: JobKind::Unmap, at: 0, len, durable: false }));
            }
            Cdb::Reserve6 => {
                self.reservations.reserve6(context.nexus);
                return Ok(GOOD);
            }
            Cdb::Release6 => {
                self.reservations.release6(context.nexus);
                return Ok(GOOD);
            }
            Cdb::PersistentReserveOut { action, scope, kind, parameter_len } => {
                if parameter_len != PARAMETER_LEN {
                    return Ok(Sense::PARAMETER_LENGTH.into());
                }
                let kind = JobKind::Reserve { action, scope, kind };
                return Ok(Outcome::Out(Job { kind, at: 0, len: u64::from(PARAMETER_LEN), durable: false }));
            }
            // REPORT LUNS is the target's to answer, before a unit is asked.
            Cdb::ReportLuns { .. } => return Ok(Sense::INVALID_OPCODE.into()),
            Cdb::RequestSense { descriptor, allocation } => {
                let format = if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed };
                reply.extend_from_slice(context.sense.encode(format).as_slice());
                u32::from(allocation)
            }
            Cdb::Inquiry { evpd: false, page: 0, allocation } => {
                self.inquiry().encode(reply);
                u32::from(allocation)
            }
            Cdb::Inquiry { evpd: false, .. } => return Ok(Sense::invalid_cdb_byte(2).into()),
            Cdb::Inquiry { evpd: true, page, allocation } => {
                self.vital_data(context, page, reply).map_err(Refusal::Check)?;
                u32::from(allocation)
            }
            Cdb::ReadCapacity10 => {
                self.capacity().encode10(reply);
                8
            }
            Cdb::ReadCapacity16 { allocation } => {
                self.capacity().encode16(reply);
                allocation
            }
            Cdb::ModeSense { form, dbd, long_lba, control, page, subpage, allocation } => {
                self.mode_sense(form, dbd, long_lba, control, (page, subpage), reply)
                    .map_err(Refusal::Check)?;
                u32::from(allocation)
            }
            Cdb::PersistentReserveIn { action, allocation } => {
                self.reservations.report(action, context.portal_group, reply).map_err(Refusal::Check)?;
                u32::from(allocation)
            }
            Cdb::ReportOpcodes { timeouts, options: 0, allocation, .. } => {
                report_all(COMMANDS, timeouts, reply);
                allocation
            }
            Cdb::ReportOpcodes { timeouts, options, opcode, action, allocation } => {
                report_one(COMMANDS, options, opcode, action, timeouts, reply).map_err(Refusal::Check)?;
                allocation
            }
        };
        reply.truncate(allocation as usize);
        Ok(Outcome::Reply)
    }

    /// Byte range of a block range. A range that starts past the end is refused even when it is empty.
    fn range(&self, t: &Transfer) -> Result<(u64, u64), Refusal> {
        if t.protect != 0 {
            return Err(Refusal::Check(Sense::invalid_cdb_byte(1)));
        }
        let inside = t.lba < self.blocks && u64::from(t.blocks) <= self.blocks - t.lba;
        if !inside {
            return Err(Refusal::Check(Sense::LBA_OUT_OF_RANGE));
        }
        let block = u64::from(self.block_size);
        Ok((t.lba * block, u64::from(t.blocks) * block))
    }

    fn job(&self, kind: JobKind, t: &Transfer, durable: bool) -> Result<Outcome, Refusal> {
        let (at, len) = self.range(t)?;
        Ok(if len == 0 { GOOD } else { Outcome::Out(Job { kind, at, len, durable }) })
    }

    fn one_block(&self, t: &Transfer, kind: impl FnOnce(u64) -> JobKind) -> Result<Outcome, Refusal> {
        let (at, bytes) = self.range(t)?;
        if bytes > MAX_SAME_BYTES {
            return Err(Refusal::Check(Sense::INVALID_FIELD));
        }
        let len = u64::from(self.block_size);
        Ok(if bytes == 0 { GOOD } else { Outcome::Out(Job { kind: kind(bytes), at, len, durable: false }) })
    }

    fn write_same(&self, range: Transfer, anchor: bool, no_data: bool) -> Result<Outcome, Refusal> {
        // An anchored state does not exist here, and without the UNMAP bit it would mean nothing anyway.
        if anchor {
            return Err(Refusal::Check(Sense::invalid_cdb_byte(1)));
        }
        let mut t = range;
        if t.blocks == 0 {
            // Zero means to the end of the medium.
            let rest = self.blocks.saturating_sub(t.lba);
            t.blocks = u32::try_from(rest).map_err(|_| Refusal::Check(Sense::INVALID_FIELD))?;
        }
        let outcome = self.one_block(&t, |bytes| JobKind::Same { bytes })?;
        match outcome {
            Outcome::Out(Job { at, .. }) if no_data => {
                let bytes = u64::from(t.blocks) * u64::from(self.block_size);
                Ok(Outcome::Work(Work::zero(at, bytes)))
            }
            other => Ok(other),
        }
    }

    fn inquiry(&self) -> Inquiry {
        Inquiry {
            qualifier: 0,
            device_type: 0,
            removable: self.removable,
            version: 6,
            vendor: *b"CNIC-LAB",
            product: *b"VIRTUAL-DISK    ",
            revision: *b"0001",
        }
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            blocks: self.blocks,
            block_size: self.block_size,
            provisioned: true,
            reads_zeros: true,
            physical_exponent: 0,
        }
    }

    fn vital_data(&self, context: &Context<'_>, page: u8, reply: &mut Vec<u8>) -> Result<(), Sense> {
        const PAGES: [u8; 6] = [
            vpd::SUPPORTED_PAGES,
            vpd::SERIAL_NUMBER,
            vpd::DEVICE_IDENTIFICATION,
            vpd::BLOCK_LIMITS,
            vpd::CHARACTERISTICS,
            vpd::PROVISIONING,
        ];
        let same_blocks = MAX_SAME_BYTES / u64::from(self.block_size);
        match page {
            vpd::SUPPORTED_PAGES => VpdPage::begin(page, reply).put(&PAGES).end(),
            vpd::SERIAL_NUMBER => VpdPage::begin(page, reply).put(self.serial.as_bytes()).end(),
            vpd::DEVICE_IDENTIFICATION => self.identification(context, reply),
            vpd::BLOCK_LIMITS => BlockLimits {
                max_transfer: 0,
                optimal_transfer: 0,
                max_unmap_blocks: same_blocks as u32,
                max_unmap_descriptors: MAX_UNMAP_DESCRIPTORS as u32,
                unmap_granularity: 1,
                max_write_same: same_blocks,
            }
            .encode(reply),
            vpd::CHARACTERISTICS => {
                let mut data = [0; 60];
                // Non-rotating.
                data[1] = 1;
                VpdPage::begin(page, reply).put(&data).end();
            }
            vpd::PROVISIONING => {
                Provisioning { unmap: true, write_same_unmap: true, reads_zeros: true, kind: 2 }
                    .encode(reply);
            }
            _ => return Err(Sense::invalid_cdb_byte(2)),
        }
        Ok(())
    }

    /// Page 83: the unit by T10 vendor id and by a locally assigned NAA, the port and the target by iSCSI name.
    fn identification(&self, context: &Context<'_>, reply: &mut Vec<u8>) {
        let mut vendor = [b' '; 8 + 32];
        vendor[..8].copy_from_slice(&self.inquiry().vendor);
        vendor[8..8 + self.serial.len()].copy_from_slice(self.serial.as_bytes());
        // FNV-1a of the serial number under NAA 3: the same on every path, unique enough for a laboratory.
        let hash = self
            .serial
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3));
        let naa = (hash & 0x0FFF_FFFF_FFFF_FFFF | 0x3000_0000_0000_0000).to_be_bytes();
        let unit = |code_set, kind, data| Designator { protocol: None, code_set, association: 0, kind, data };
        let named =
            |association, data| Designator { protocol: Some(5), code_set: 3, association, kind: 8, data };
        let terminated = |mut name: String| {
            name.push('\0');
            while !name.len().is_multiple_of(4) {
                name.push('\0');
            }
            name
        };
        let port = terminated(format!("{},t,0x{:04x}", context.target, context.portal_group));
        let device = terminated(context.target.to_owned());
        VpdPage::begin(vpd::DEVICE_IDENTIFICATION, reply)
            .designator(&unit(2, 1, &vendor[..8 + self.serial.len()]))
            .designator(&unit(1, 3, &naa))
            .designator(&named(1, port.as_bytes()))
            .designator(&named(2, device.as_bytes()))
            .end();
    }

    fn mode_sense(
        &self,
        form: Form,
        dbd: bool,
        long_lba: bool,
        control: u8,
        (code, subpage): (u8, u8),
        reply: &mut Vec<u8>,
    ) -> Result<(), Sense> {
        const SAVED: u8 = 3;
        const CHANGEABLE: u8 = 1;
        if control == SAVED {
            return Err(Sense::SAVING_UNSUPPORTED);
        }
        if subpage != 0 && !(code == page::ALL && subpage == 0xFF) {
            return Err(Sense::invalid_cdb_byte(3));
        }
        let wanted = |p| code == p || code == page::ALL;
        if ![page::CACHING, page::CONTROL, page::EXCEPTIONS, page::ALL].contains(&code) {
            return Err(Sense::invalid_cdb_byte(2));
        }
        let mut descriptor = [0; 16];
        let blocks = self.blocks;
        let descriptor = if dbd {
            &descriptor[..0]
        } else if long_lba {
            descriptor[..8].copy_from_slice(&blocks.to_be_bytes());
            descriptor[12..].copy_from_slice(&self.block_size.to_be_bytes());
            &descriptor[..]
        } else {
            descriptor[..4].copy_from_slice(&u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
            descriptor[5..8].copy_from_slice(&self.block_size.to_be_bytes()[1..]);
            &descriptor[..8]
        };
        let finish = mode_header(form, self.medium.read_only(), long_lba, descriptor, reply);
        // Nothing is changeable: there is no MODE SELECT.
        let current = control != CHANGEABLE;
        if wanted(page::CACHING) {
            CachingPage { write_cache: current && self.medium.volatile_cache(), read_cache_disabled: false }
                .encode(reply);
        }
        if wanted(page::CONTROL) {
            let start = reply.len();
            ControlPage { descriptor_sense: false, software_write_protect: false }.encode(reply);
            if !current {
                reply[start + 2..].fill(0);
            }
        }
        if wanted(page::EXCEPTIONS) {
            reply.extend_from_slice(&[page::EXCEPTIONS, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        finish(reply);
        Ok(())
    }

    /// Appends `len` bytes of the medium from byte `at`; both come from [`Outcome::Read`].
    pub fn read(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> Result<(), Sense> {
        self.medium.read(at, len, out)
    }

    /// Takes data-out in order: `offset` is the number of bytes absorbed before, `rest` the job's buffer (empty at first).
    /// Whole blocks of a write go to the medium at once; the rest waits for its other part.
    pub fn absorb(&mut self, job: &Job, offset: u64, data: &[u8], rest: &mut Vec<u8>) -> Result<(), Sense> {
        match job.kind {
            JobKind::Write => self.absorb_blocks(job.at + offset, data, rest),
            JobKind::Compare => match self.medium.compare(job.at + offset, data)? {
                None => Ok(()),
                Some(first) => Err(Sense::MISCOMPARE.with_information(offset + first as u64)),
            },
            _ => {
                rest.extend_from_slice(data);
                Ok(())
            }
        }
    }

    fn absorb_blocks(&mut self, at: u64, data: &[u8], rest: &mut Vec<u8>) -> Result<(), Sense> {
        let block = self.block_size as usize;
        let (mut at, mut data) = (at, data);
        if !rest.is_empty() {
            let (fill, more) = data.split_at(data.len().min(block - rest.len()));
            let block_at = at - rest.len() as u64;
            rest.extend_from_slice(fill);
            if rest.len() < block {
                return Ok(());
            }
            self.medium.write(block_at, rest)?;
            rest.clear();
            at += fill.len() as u64;
            data = more;
        }
        let (whole, part) = data.split_at(data.len() / block * block);
        if !whole.is_empty() {
            self.medium.write(at, whole)?;
        }
        rest.extend_from_slice(part);
        Ok(())
    }

    /// Ends a job of which `absorbed` bytes arrived and all went well so far, or says what is left to do.
    pub fn finish(
        &mut self,
        nexus: &Nexus,
        job: &Job,
        absorbed: u64,
        rest: &mut Vec<u8>,
    ) -> Result<Finish, Refusal> {
        let mut effects = Effects::default();
        match job.kind {
            JobKind::Write => {
                // A transfer cut short by the expected length may end inside a block: the block's other bytes stay.
                if !rest.is_empty() {
                    let at = job.at + absorbed - rest.len() as u64;
                    self.medium.write(at, rest).map_err(Refusal::Check)?;
                }
            }
            JobKind::Compare => {}
            JobKind::CompareBlock { bytes } => return Ok(Finish::Work(Work::compare(job.at, bytes))),
            // A read returns what GOOD was given for: only zeros may be unmapped (SBC-3 WRITE SAME with LBPRZ).
            JobKind::Same { bytes } if rest.iter().all(|b| *b == 0) => {
                return Ok(Finish::Work(Work::zero(job.at, bytes)));
            }
            JobKind::Same { bytes } => return Ok(Finish::Work(Work::fill(job.at, bytes))),
            JobKind::Unmap => {
                self.judge_unmap(rest)?;
                return Ok(Finish::Work(Work::unmap()));
            }
            JobKind::Reserve { action, scope, kind } => {
                effects = self.reservations.change(nexus, action, scope, kind, rest)?;
            }
        }
        rest.clear();
        Ok(if job.durable { Finish::Work(Work::flush()) } else { Finish::Done(effects) })
    }

    /// All or nothing: every range of an UNMAP is checked before the first is unmapped.
    fn judge_unmap(&self, list: &[u8]) -> Result<(), Refusal> {
        let refuse = |sense| Err(Refusal::Check(sense));
        let [_, _, high, low, _, _, _, _, ..] = list else { return refuse(Sense::PARAMETER_LENGTH) };
        if usize::from(u16::from_be_bytes([*high, *low])) / 16 > MAX_UNMAP_DESCRIPTORS {
            return refuse(Sense::INVALID_PARAMETER);
        }
        let mut total = 0;
        // An empty descriptor unmaps nothing, and may stand right behind the last block.
        let empty = |lba: u64, blocks: u32| blocks == 0 && lba <= self.blocks;
        for (lba, blocks) in descriptors(list).filter(|(lba, blocks)| !empty(*lba, *blocks)) {
            total += self.range(&Transfer::new(lba, blocks))?.1;
        }
        if total > MAX_SAME_BYTES {
            return refuse(Sense::INVALID_PARAMETER);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
