//! A disk as a SCSI logical unit (SBC-3): decides what a command does, moves blocks between its backend and
//! the transport, and keeps the reservations. It knows nothing of PDUs: [`Disk::start`] says what data a
//! command wants to move, then the transport reads with [`Disk::read`] or delivers with [`Disk::absorb`] and
//! ends with [`Disk::finish`]. A command that is abandoned halfway is simply never finished; what was
//! absorbed as whole blocks stays written, a partial block is never written. What takes long goes on in turns
//! ([`Disk::turn`]). What has to be atomic is collected first and done in one step. Not modelled: queueing,
//! protection information, deferred errors, power conditions.

use super::backend::{Backend, Extent};
use super::commands::COMMANDS;
use super::copy::{self, CopyResult};
use super::identity;
use super::job::{Job, JobKind};
use super::medium::{Medium, Trouble};
use super::modes::{Modes, Shape};
use super::removal::Removal;
use super::reservation::{Nexus, PARAMETER_LEN, Refusal, Reservations};
use super::sanitize::Sanitize;
use super::work::Work;
use crate::scsi::{Bytchk, Cdb, Form, Sense, SenseFormat, Status, Transfer, op, report_all, report_one};

/// Most bytes that one command may move, and that one WRITE SAME, UNMAP or one-block VERIFY may touch.
pub const MAX_SAME_BYTES: u64 = 64 << 20;
/// Most bytes that are compared and written, or written, as one.
const MAX_ATOMIC_BYTES: u64 = 128 << 10;
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
    pub(super) reservations: Reservations,
    pub(super) modes: Modes,
    removal: Removal,
    pub(super) sanitize: Sanitize,
    pub(super) copies: Vec<CopyResult>,
    /// What all other nexuses have to hear of.
    pub(super) notice: Option<Sense>,
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
        /// Bytes to read.
        len: u64,
    },
    /// Data-out is wanted.
    Out(Job),
    /// No data; the command goes on in turns ([`Disk::turn`]).
    Work(Work),
}

impl From<Sense> for Outcome {
    fn from(sense: Sense) -> Outcome {
        Outcome::Done(Status::CHECK_CONDITION, Some(sense))
    }
}

const GOOD: Outcome = Outcome::Done(Status::GOOD, None);

impl Disk {
    /// A disk with blocks of `block_size` bytes (512 or 4096) on `backend`. A rest smaller than a block is
    /// not used. `serial` is 1 to 32 printable ASCII characters and makes the unit's identity: the same on
    /// every path to it.
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
        let modes = Modes::new(backend.volatile_cache());
        Ok(Disk {
            medium: Medium::new(backend),
            block_size,
            blocks,
            serial,
            reservations: Reservations::default(),
            modes,
            removal: Removal::default(),
            sanitize: Sanitize::default(),
            copies: Vec::new(),
            notice: None,
        })
    }

    /// The same with a medium that can be taken out (RMB).
    pub fn removable(self) -> Disk {
        Disk { removal: Removal::of_removable(), ..self }
    }

    /// Bytes per logical block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Number of logical blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn serial(&self) -> &str {
        &self.serial
    }

    pub(super) fn is_removable(&self) -> bool {
        self.removal.removable
    }

    pub(super) fn writes_through(&self) -> bool {
        self.modes.writes_through()
    }

    /// The format that autosense has here (D_SENSE).
    pub fn sense_format(&self) -> SenseFormat {
        if self.modes.descriptor_sense { SenseFormat::Descriptor } else { SenseFormat::Fixed }
    }

    /// A unit attention for all other nexuses, after a command that changed what they rely on.
    pub fn take_notice(&mut self) -> Option<Sense> {
        self.notice.take()
    }

    /// A reset of the unit. Persistent reservations, the place of the medium and an erase under way stay.
    pub fn reset(&mut self) {
        self.reservations.reset();
        self.removal.reset();
        self.modes.reset();
    }

    /// A nexus is gone: what it held alone is free.
    pub fn nexus_lost(&mut self, nexus: &Nexus) {
        self.reservations.left(nexus);
        self.removal.forget(nexus);
        self.copies.retain(|copy| !copy.is_of(nexus));
    }

    /// Longest COMPARE AND WRITE in blocks; its field has eight bits.
    pub(super) fn max_compare_blocks(&self) -> u32 {
        self.max_atomic_blocks().min(0xFF)
    }

    /// Longest WRITE ATOMIC in blocks.
    pub(super) fn max_atomic_blocks(&self) -> u32 {
        (MAX_ATOMIC_BYTES / u64::from(self.block_size)) as u32
    }

    /// Alignment and granularity of WRITE ATOMIC in blocks: none.
    pub(super) fn atomic_unit(&self) -> u32 {
        0
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            blocks: self.blocks,
            block_size: self.block_size,
            write_protected: self.medium.read_only() || self.modes.software_write_protect,
        }
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

    /// The provisioning state of block `lba`, which is on the disk, and how many of the next `blocks` blocks
    /// share it: at least one. A block of which any byte is allocated is mapped. The length of the extent is
    /// in blocks.
    pub fn provisioning(&mut self, lba: u64, blocks: u64) -> Result<Extent, Sense> {
        let block = u64::from(self.block_size);
        let blocks = blocks.clamp(1, self.blocks.saturating_sub(lba).max(1));
        let first = self.medium.extent(lba * block, blocks * block)?;
        let len = if first.allocated { first.len.div_ceil(block) } else { first.len / block };
        // A hole that ends inside the first block does not unmap it.
        Ok(if len == 0 { Extent { len: 1, allocated: true } } else { Extent { len, ..first } })
    }

    /// Begins a command. Unit attentions have been dealt with. `reply` is empty and takes the data of
    /// [`Outcome::Reply`], cut to the allocation length.
    pub fn start(&mut self, context: &Context<'_>, cdb: &Cdb, reply: &mut Vec<u8>) -> Outcome {
        self.decide(context, cdb, reply).unwrap_or_else(|refusal| {
            let (status, sense) = refusal.status();
            Outcome::Done(status, sense)
        })
    }

    fn decide(&mut self, context: &Context<'_>, cdb: &Cdb, reply: &mut Vec<u8>) -> Result<Outcome, Refusal> {
        self.admit(context.nexus, cdb)?;
        let allocation = match *cdb {
            Cdb::TestUnitReady => return Ok(GOOD),
            Cdb::StartStop { power_condition, loej, start, .. } => {
                return self.start_stop(power_condition, loej, start);
            }
            Cdb::PreventAllow { prevent } => {
                self.removal.prevent(context.nexus, prevent).map_err(Refusal::Check)?;
                return Ok(GOOD);
            }
            Cdb::Read(t) => {
                let (at, len) = self.transfer(&t)?;
                return Ok(Outcome::Read { at, len });
            }
            Cdb::Write(t) => return self.job(JobKind::Write, &t, t.fua),
            Cdb::WriteVerify(t, _) => return self.job(JobKind::Write, &t, true),
            Cdb::OrWrite(t) => return self.job(JobKind::Or, &t, t.fua),
            Cdb::CompareAndWrite(t) => return self.compare_and_write(&t),
            Cdb::WriteAtomic { range, boundary } => return self.write_atomic(&range, boundary),
            Cdb::PreFetch { immed, lba, blocks, .. } => return self.pre_fetch(immed, lba, blocks),
            Cdb::Sanitize { action, immed, unrestricted_exit } => {
                let begun = self.begin_sanitize(action, unrestricted_exit).map_err(Refusal::Check)?;
                return Ok(if begun && !immed { Outcome::Work(Work::sanitize()) } else { GOOD });
            }
            Cdb::ModeSelect { save: true, .. } => return Ok(Sense::invalid_cdb_byte(1).into()),
            Cdb::ModeSelect { parameter_len: 0, .. } => return Ok(GOOD),
            Cdb::ModeSelect { form, parameter_len, .. } => {
                return Ok(Outcome::Out(Job::list(JobKind::Modes { form }, parameter_len.into())));
            }
            Cdb::ExtendedCopy { parameter_len: 0 } => return Ok(GOOD),
            Cdb::ExtendedCopy { parameter_len: ..16 } => return Ok(Sense::PARAMETER_LENGTH.into()),
            Cdb::ExtendedCopy { parameter_len } if parameter_len > copy::MAX_LIST => {
                return Ok(Sense::PARAMETER_LENGTH.into());
            }
            Cdb::ExtendedCopy { parameter_len } => {
                return Ok(Outcome::Out(Job::list(JobKind::Copy, parameter_len.into())));
            }
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
            // LBPWS10 is 0: the short form takes no UNMAP bit. Otherwise it allows what zeros get anyway.
            Cdb::WriteSame { range: Transfer { form: Form::Ten, .. }, unmap: true, .. } => {
                return Ok(Sense::invalid_cdb_byte(1).into());
            }
            Cdb::WriteSame { range, anchor, no_data_out, .. } => {
                return self.write_same(range, anchor, no_data_out);
            }
            Cdb::Unmap { anchor: true, .. } => return Ok(Sense::invalid_cdb_byte(1).into()),
            Cdb::Unmap { parameter_len: 0, .. } => return Ok(GOOD),
            Cdb::Unmap { parameter_len, .. } => {
                return Ok(Outcome::Out(Job::list(JobKind::Unmap, parameter_len.into())));
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
                return Ok(Outcome::Out(Job::list(kind, PARAMETER_LEN.into())));
            }
            // REPORT LUNS is the target's to answer, before a unit is asked.
            Cdb::ReportLuns { .. } => return Ok(Sense::INVALID_OPCODE.into()),
            Cdb::RequestSense { descriptor, allocation } => {
                let format = if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed };
                let sense = match context.sense {
                    Sense::NONE if self.is_sanitizing() => Sense::SANITIZE_IN_PROGRESS,
                    Sense::NONE if !self.removal.has_medium() => Sense::MEDIUM_NOT_PRESENT,
                    sense => sense,
                };
                reply.extend_from_slice(sense.encode(format).as_slice());
                u32::from(allocation)
            }
            Cdb::GetLbaStatus { lba, allocation } => {
                self.lba_status(lba, allocation, reply).map_err(Refusal::Check)?;
                allocation
            }
            Cdb::ReadDefectData { form, lists, allocation } => {
                Disk::defects(form, lists, reply);
                allocation
            }
            Cdb::LogSense { save: true, .. } => return Ok(Sense::invalid_cdb_byte(1).into()),
            // The values are cumulative ones, current or default: there is nothing that counts.
            Cdb::LogSense { page, subpage, pointer, allocation, .. } => {
                Disk::log(page, subpage, pointer, reply).map_err(Refusal::Check)?;
                u32::from(allocation)
            }
            Cdb::ReportPortGroups { format, allocation } => {
                identity::port_groups(format, context.portal_group, reply).map_err(Refusal::Check)?;
                allocation
            }
            Cdb::ReportFunctions { extended, allocation } => {
                identity::functions(extended, reply);
                allocation
            }
            Cdb::ReceiveCopyResults { action: op::SA_COPY_PARAMETERS, allocation, .. } => {
                copy::parameters(reply);
                allocation
            }
            Cdb::ReceiveCopyResults { list_id, allocation, .. } => {
                self.copy_status(context.nexus, list_id, reply).map_err(Refusal::Check)?;
                allocation
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
                self.modes
                    .sense(form, (dbd, long_lba), control, (page, subpage), &self.shape(), reply)
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
    pub(super) fn range(&self, t: &Transfer) -> Result<(u64, u64), Refusal> {
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

    /// Whether `nexus` may do `cdb` now: reservations first, then an erase under way, the medium, and write
    /// protection.
    pub(super) fn admit(&self, nexus: &Nexus, cdb: &Cdb) -> Result<(), Refusal> {
        self.reservations.admit(nexus, cdb)?;
        let objection = self.sanitize.objection(cdb).or(match cdb {
            _ if cdb.needs_medium() && !self.removal.has_medium() => Some(Sense::MEDIUM_NOT_PRESENT),
            _ if cdb.writes_medium() && self.medium.read_only() => Some(Sense::WRITE_PROTECTED),
            _ if cdb.writes_medium() && self.modes.software_write_protect => {
                Some(Sense::SOFTWARE_WRITE_PROTECTED)
            }
            _ => None,
        });
        objection.map_or(Ok(()), |sense| Err(Refusal::Check(sense)))
    }

    /// The range of a command that moves the blocks: not longer than page B0 says.
    fn transfer(&self, t: &Transfer) -> Result<(u64, u64), Refusal> {
        let (at, len) = self.range(t)?;
        if len > MAX_SAME_BYTES {
            return Err(Refusal::Check(Sense::INVALID_FIELD));
        }
        Ok((at, len))
    }

    fn job(&self, kind: JobKind, t: &Transfer, fua: bool) -> Result<Outcome, Refusal> {
        let (at, len) = self.transfer(t)?;
        let durable = fua || self.writes_through();
        Ok(if len == 0 { GOOD } else { Outcome::Out(Job { kind, at, len, durable }) })
    }

    /// COMPARE AND WRITE (SBC-3 5.2): twice the blocks come, what to compare and then what to write.
    fn compare_and_write(&self, t: &Transfer) -> Result<Outcome, Refusal> {
        if t.blocks > self.max_compare_blocks() {
            return Err(Refusal::Check(Sense::invalid_cdb_byte(13)));
        }
        let (at, len) = self.transfer(t)?;
        let durable = t.fua || self.writes_through();
        Ok(Outcome::Out(Job { kind: JobKind::CompareAndWrite, at, len: 2 * len, durable }))
    }

    /// WRITE ATOMIC(16) (SBC-4 5.48).
    fn write_atomic(&self, t: &Transfer, boundary: u16) -> Result<Outcome, Refusal> {
        self.range(t)?;
        // Page B0 has no limits with a boundary, so none may be given.
        if boundary != 0 {
            return Err(Refusal::Check(Sense::invalid_cdb_byte(10)));
        }
        if t.blocks > self.max_atomic_blocks() {
            return Err(Refusal::Check(Sense::invalid_cdb_byte(12)));
        }
        self.job(JobKind::Atomic, t, t.fua)
    }

    /// PRE-FETCH (SBC-3 5.8): reads into the cache. What is beyond the limit of a command is not read, and
    /// GOOD says so.
    fn pre_fetch(&self, immed: bool, lba: u64, blocks: u32) -> Result<Outcome, Refusal> {
        let (at, mut len) = self.range(&Transfer::new(lba, blocks))?;
        if blocks == 0 {
            len = self.blocks * u64::from(self.block_size) - at;
        }
        if immed {
            // A hint that nobody waits for is not followed.
            return Ok(GOOD);
        }
        let most = len.min(MAX_SAME_BYTES);
        Ok(Outcome::Work(Work::prefetch(at, most, most == len)))
    }

    /// START STOP UNIT (SBC-3 5.25). There is no motor, and there are no power conditions.
    fn start_stop(&mut self, power_condition: u8, loej: bool, start: bool) -> Result<Outcome, Refusal> {
        if power_condition != 0 || !loej {
            return Ok(GOOD);
        }
        if self.removal.move_medium(start).map_err(Refusal::Check)? {
            self.notice = Some(Sense::MEDIUM_CHANGED);
        }
        // What goes out takes everything along that was written.
        Ok(if start { GOOD } else { Outcome::Work(Work::flush()) })
    }

    fn one_block(&self, t: &Transfer, kind: impl FnOnce(u64) -> JobKind) -> Result<Outcome, Refusal> {
        let (at, bytes) = self.range(t)?;
        if bytes > MAX_SAME_BYTES {
            return Err(Refusal::Check(Sense::INVALID_FIELD));
        }
        let len = u64::from(self.block_size);
        let durable = self.writes_through();
        Ok(if bytes == 0 { GOOD } else { Outcome::Out(Job { kind: kind(bytes), at, len, durable }) })
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
                Ok(Outcome::Work(Work::zero(at, bytes).durable(self.writes_through())))
            }
            other => Ok(other),
        }
    }

    /// Appends `len` bytes of the medium from byte `at`; both come from [`Outcome::Read`].
    pub fn read(&mut self, at: u64, len: usize, out: &mut Vec<u8>) -> Result<(), Sense> {
        self.medium.read(at, len, out)
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
