//! Command descriptor blocks (SPC-4, SBC-3): one enum of what a disk needs, `parse` for the target and
//! `encode` for the initiator, each the inverse of the other.

use super::{FieldPointer, Sense, be16, be32, be64, op};

/// The length in which a command is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// 6-byte CDB.
    Six,
    /// 10-byte CDB.
    Ten,
    /// 12-byte CDB.
    Twelve,
    /// 16-byte CDB.
    Sixteen,
}

/// The block range of a medium access command and the flags of its byte 1. Fields that the form lacks (flags
/// in the 6-byte form) are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// CDB length.
    pub form: Form,
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks, with the 6-byte form's 0 already read as 256.
    pub blocks: u32,
    /// RDPROTECT, WRPROTECT or VRPROTECT, 0 to 7.
    pub protect: u8,
    /// Disable page out: a hint.
    pub dpo: bool,
    /// Force unit access: to the medium before the status.
    pub fua: bool,
}

impl Transfer {
    /// A plain transfer in the shortest form that Linux' `sd` would take: 10 bytes, or 16 when LBA or length
    /// need it.
    pub const fn new(lba: u64, blocks: u32) -> Transfer {
        let form = if lba > u32::MAX as u64 || blocks > 0xFFFF { Form::Sixteen } else { Form::Ten };
        Transfer { form, lba, blocks, protect: 0, dpo: false, fua: false }
    }
}

/// What VERIFY and WRITE AND VERIFY compare (BYTCHK).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytchk {
    /// Nothing: no data-out counts.
    Medium,
    /// Byte by byte with the data-out.
    Full,
    /// One data-out block with each block.
    OneBlock,
}

/// Service actions of PERSISTENT RESERVE OUT that the target knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are SPC-4's own")]
pub enum ReservationAction {
    Register,
    Reserve,
    Release,
    Clear,
    Preempt,
    PreemptAndAbort,
    RegisterAndIgnore,
}

/// A parsed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the CDB fields of SPC-4 and SBC-3 by name; SCSI.md 1 lists them"
)]
pub enum Cdb {
    TestUnitReady,
    RequestSense { descriptor: bool, allocation: u8 },
    Inquiry { evpd: bool, page: u8, allocation: u16 },
    Reserve6,
    Release6,
    ModeSense { form: Form, dbd: bool, long_lba: bool, control: u8, page: u8, subpage: u8, allocation: u16 },
    StartStop { immed: bool, power_condition: u8, loej: bool, start: bool },
    PreventAllow { prevent: u8 },
    ModeSelect { form: Form, save: bool, parameter_len: u16 },
    LogSense { save: bool, control: u8, page: u8, subpage: u8, pointer: u16, allocation: u16 },
    ReadCapacity10,
    ReadCapacity16 { allocation: u32 },
    GetLbaStatus { lba: u64, allocation: u32 },
    Read(Transfer),
    Write(Transfer),
    WriteVerify(Transfer, Bytchk),
    Verify(Transfer, Bytchk),
    CompareAndWrite(Transfer),
    OrWrite(Transfer),
    WriteAtomic { range: Transfer, boundary: u16 },
    SynchronizeCache { form: Form, immed: bool, lba: u64, blocks: u32 },
    PreFetch { form: Form, immed: bool, lba: u64, blocks: u32 },
    WriteSame { range: Transfer, unmap: bool, anchor: bool, no_data_out: bool },
    Unmap { anchor: bool, parameter_len: u16 },
    Sanitize { action: u8, immed: bool, unrestricted_exit: bool },
    ReadDefectData { form: Form, lists: u8, allocation: u32 },
    ExtendedCopy { parameter_len: u32 },
    ReceiveCopyResults { action: u8, list_id: u8, allocation: u32 },
    PersistentReserveIn { action: u8, allocation: u16 },
    PersistentReserveOut { action: ReservationAction, scope: u8, kind: u8, parameter_len: u32 },
    ReportLuns { select: u8, allocation: u32 },
    ReportOpcodes { timeouts: bool, options: u8, opcode: u8, action: u16, allocation: u32 },
    ReportPortGroups { format: u8, allocation: u32 },
    ReportFunctions { extended: bool, allocation: u32 },
}

/// Why a CDB is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CdbError {
    /// Not in the table: CHECK 05/20/00.
    #[error("operation code {0:#04x} is not supported")]
    UnknownOpcode(u8),
    /// A field has a value that we refuse: CHECK 05/24/00 with this field pointer.
    #[error("invalid field in byte {0} of the CDB")]
    InvalidField(u16),
}

impl CdbError {
    /// The sense data that answers it.
    pub const fn sense(self) -> Sense {
        match self {
            CdbError::UnknownOpcode(_) => {
                Sense { field: Some(FieldPointer { in_cdb: true, byte: 0 }), ..Sense::INVALID_OPCODE }
            }
            CdbError::InvalidField(byte) => Sense::invalid_cdb_byte(byte),
        }
    }
}

/// An encoded CDB, zero-padded to the 16 bytes that a SCSI Command PDU carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CdbBytes {
    /// The bytes, zeros after the end.
    pub bytes: [u8; 16],
    /// 6, 10, 12 or 16.
    pub len: u8,
}

impl Cdb {
    /// Reads the 16 CDB bytes of a SCSI Command PDU. Every byte string is answered; longer CDBs (extended-CDB
    /// AHS) are none of ours.
    pub fn parse(bytes: &[u8; 16]) -> Result<Cdb, CdbError> {
        let b = bytes;
        let bit = |byte: usize, mask: u8| b[byte] & mask != 0;
        let u16_at = |at| be16(b, at).unwrap_or(0);
        let u32_at = |at| be32(b, at).unwrap_or(0);
        let transfer = || parse_transfer(b);
        Ok(match b[0] {
            op::TEST_UNIT_READY => Cdb::TestUnitReady,
            op::REQUEST_SENSE => Cdb::RequestSense { descriptor: bit(1, 1), allocation: b[4] },
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => Cdb::Read(transfer()),
            op::WRITE_6 | op::WRITE_10 | op::WRITE_12 | op::WRITE_16 => Cdb::Write(transfer()),
            op::WRITE_VERIFY_10 | op::WRITE_VERIFY_12 | op::WRITE_VERIFY_16 => {
                Cdb::WriteVerify(Transfer { fua: false, ..transfer() }, parse_bytchk(b)?)
            }
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => {
                Cdb::Verify(Transfer { fua: false, ..transfer() }, parse_bytchk(b)?)
            }
            op::COMPARE_AND_WRITE => {
                Cdb::CompareAndWrite(Transfer { blocks: u32::from(b[13]), ..transfer() })
            }
            op::ORWRITE_16 => Cdb::OrWrite(transfer()),
            op::WRITE_ATOMIC_16 => Cdb::WriteAtomic {
                range: Transfer { blocks: u32::from(u16_at(12)), ..transfer() },
                boundary: u16_at(10),
            },
            op::INQUIRY => Cdb::Inquiry { evpd: bit(1, 1), page: b[2], allocation: u16_at(3) },
            op::RESERVE_6 => Cdb::Reserve6,
            op::RELEASE_6 => Cdb::Release6,
            op::MODE_SENSE_6 | op::MODE_SENSE_10 => {
                let six = b[0] == op::MODE_SENSE_6;
                Cdb::ModeSense {
                    form: if six { Form::Six } else { Form::Ten },
                    dbd: bit(1, 8),
                    long_lba: !six && bit(1, 0x10),
                    control: b[2] >> 6,
                    page: b[2] & 0x3F,
                    subpage: b[3],
                    allocation: if six { u16::from(b[4]) } else { u16_at(7) },
                }
            }
            op::MODE_SELECT_6 | op::MODE_SELECT_10 => {
                let six = b[0] == op::MODE_SELECT_6;
                Cdb::ModeSelect {
                    form: if six { Form::Six } else { Form::Ten },
                    save: bit(1, 1),
                    parameter_len: if six { u16::from(b[4]) } else { u16_at(7) },
                }
            }
            op::LOG_SENSE => Cdb::LogSense {
                save: bit(1, 1),
                control: b[2] >> 6,
                page: b[2] & 0x3F,
                subpage: b[3],
                pointer: u16_at(5),
                allocation: u16_at(7),
            },
            op::PREVENT_ALLOW => Cdb::PreventAllow { prevent: b[4] & 3 },
            op::START_STOP => Cdb::StartStop {
                immed: bit(1, 1),
                power_condition: b[4] >> 4,
                loej: bit(4, 2),
                start: bit(4, 1),
            },
            op::READ_CAPACITY_10 => Cdb::ReadCapacity10,
            op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => {
                let Transfer { form, lba, blocks, .. } = transfer();
                Cdb::SynchronizeCache { form, immed: bit(1, 2), lba, blocks }
            }
            op::PRE_FETCH_10 | op::PRE_FETCH_16 => {
                let Transfer { form, lba, blocks, .. } = transfer();
                Cdb::PreFetch { form, immed: bit(1, 2), lba, blocks }
            }
            op::READ_DEFECT_DATA_10 => {
                Cdb::ReadDefectData { form: Form::Ten, lists: b[2] & 0x1F, allocation: u32::from(u16_at(7)) }
            }
            op::READ_DEFECT_DATA_12 => {
                Cdb::ReadDefectData { form: Form::Twelve, lists: b[1] & 0x1F, allocation: u32_at(6) }
            }
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => Cdb::WriteSame {
                range: Transfer { dpo: false, fua: false, ..transfer() },
                unmap: bit(1, 8),
                anchor: bit(1, 0x10),
                no_data_out: b[0] == op::WRITE_SAME_16 && bit(1, 1),
            },
            op::UNMAP => Cdb::Unmap { anchor: bit(1, 1), parameter_len: u16_at(7) },
            op::SANITIZE => parse_sanitize(b)?,
            op::EXTENDED_COPY if b[1] & 0x1F == op::SA_COPY_LID1 => {
                Cdb::ExtendedCopy { parameter_len: u32_at(10) }
            }
            op::RECEIVE_COPY_RESULTS
                if matches!(b[1] & 0x1F, op::SA_COPY_STATUS | op::SA_COPY_PARAMETERS) =>
            {
                Cdb::ReceiveCopyResults { action: b[1] & 0x1F, list_id: b[2], allocation: u32_at(10) }
            }
            op::PERSISTENT_RESERVE_IN => {
                Cdb::PersistentReserveIn { action: b[1] & 0x1F, allocation: u16_at(7) }
            }
            op::PERSISTENT_RESERVE_OUT => Cdb::PersistentReserveOut {
                action: ReservationAction::from_code(b[1] & 0x1F).ok_or(CdbError::InvalidField(1))?,
                scope: b[2] >> 4,
                kind: b[2] & 0x0F,
                parameter_len: u32_at(5),
            },
            op::SERVICE_ACTION_IN_16 if b[1] & 0x1F == op::SA_READ_CAPACITY_16 => {
                Cdb::ReadCapacity16 { allocation: u32_at(10) }
            }
            op::SERVICE_ACTION_IN_16 if b[1] & 0x1F == op::SA_GET_LBA_STATUS => {
                Cdb::GetLbaStatus { lba: be64(b, 2).unwrap_or(0), allocation: u32_at(10) }
            }
            op::MAINTENANCE_IN if b[1] & 0x1F == op::SA_REPORT_PORT_GROUPS => {
                Cdb::ReportPortGroups { format: b[1] >> 5, allocation: u32_at(6) }
            }
            op::MAINTENANCE_IN if b[1] & 0x1F == op::SA_REPORT_FUNCTIONS => {
                Cdb::ReportFunctions { extended: bit(2, 0x80), allocation: u32_at(6) }
            }
            op::REPORT_LUNS => Cdb::ReportLuns { select: b[2], allocation: u32_at(6) },
            op::MAINTENANCE_IN if b[1] & 0x1F == op::SA_REPORT_OPCODES => Cdb::ReportOpcodes {
                timeouts: bit(2, 0x80),
                options: b[2] & 7,
                opcode: b[3],
                action: u16_at(4),
                allocation: u32_at(6),
            },
            op::SERVICE_ACTION_IN_16 | op::MAINTENANCE_IN | op::EXTENDED_COPY | op::RECEIVE_COPY_RESULTS => {
                return Err(CdbError::InvalidField(1));
            }
            other => return Err(CdbError::UnknownOpcode(other)),
        })
    }

    /// Writes the CDB. Fields wider than the form are cut to its width, as the form has no place for the
    /// rest: choose the form with [`Transfer::new`]. A form that the command does not have falls back to the
    /// next longer one that it has.
    pub fn encode(&self) -> CdbBytes {
        let mut b = [0u8; 16];
        let flag = |on: bool, mask: u8| if on { mask } else { 0 };
        match *self {
            Cdb::TestUnitReady => b[0] = op::TEST_UNIT_READY,
            Cdb::RequestSense { descriptor, allocation } => {
                b[0] = op::REQUEST_SENSE;
                b[1] = flag(descriptor, 1);
                b[4] = allocation;
            }
            Cdb::Inquiry { evpd, page, allocation } => {
                b[0] = op::INQUIRY;
                b[1] = flag(evpd, 1);
                b[2] = page;
                b[3..5].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::Reserve6 => b[0] = op::RESERVE_6,
            Cdb::Release6 => b[0] = op::RELEASE_6,
            Cdb::ModeSense { form, dbd, long_lba, control, page, subpage, allocation } => {
                b[1] = flag(dbd, 8);
                b[2] = control << 6 | page & 0x3F;
                b[3] = subpage;
                if form == Form::Six {
                    b[0] = op::MODE_SENSE_6;
                    b[4] = allocation as u8;
                } else {
                    b[0] = op::MODE_SENSE_10;
                    b[1] |= flag(long_lba, 0x10);
                    b[7..9].copy_from_slice(&allocation.to_be_bytes());
                }
            }
            Cdb::StartStop { immed, power_condition, loej, start } => {
                b[0] = op::START_STOP;
                b[1] = flag(immed, 1);
                b[4] = power_condition << 4 | flag(loej, 2) | flag(start, 1);
            }
            Cdb::PreventAllow { prevent } => {
                b[0] = op::PREVENT_ALLOW;
                b[4] = prevent & 3;
            }
            Cdb::ModeSelect { form, save, parameter_len } => {
                b[1] = 0x10 | flag(save, 1);
                if form == Form::Six {
                    b[0] = op::MODE_SELECT_6;
                    b[4] = parameter_len as u8;
                } else {
                    b[0] = op::MODE_SELECT_10;
                    b[7..9].copy_from_slice(&parameter_len.to_be_bytes());
                }
            }
            Cdb::LogSense { save, control, page, subpage, pointer, allocation } => {
                b[0] = op::LOG_SENSE;
                b[1] = flag(save, 1);
                b[2] = control << 6 | page & 0x3F;
                b[3] = subpage;
                b[5..7].copy_from_slice(&pointer.to_be_bytes());
                b[7..9].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::GetLbaStatus { lba, allocation } => {
                b[0] = op::SERVICE_ACTION_IN_16;
                b[1] = op::SA_GET_LBA_STATUS;
                b[2..10].copy_from_slice(&lba.to_be_bytes());
                b[10..14].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::ReadCapacity10 => b[0] = op::READ_CAPACITY_10,
            Cdb::ReadCapacity16 { allocation } => {
                b[0] = op::SERVICE_ACTION_IN_16;
                b[1] = op::SA_READ_CAPACITY_16;
                b[10..14].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::Read(t) => t.encode(&mut b, [op::READ_6, op::READ_10, op::READ_12, op::READ_16]),
            Cdb::Write(t) => t.encode(&mut b, [op::WRITE_6, op::WRITE_10, op::WRITE_12, op::WRITE_16]),
            Cdb::WriteVerify(t, bytchk) => {
                let ten = op::WRITE_VERIFY_10;
                t.without_six().encode(&mut b, [ten, ten, op::WRITE_VERIFY_12, op::WRITE_VERIFY_16]);
                b[1] = b[1] & !0x0E | bytchk.bits();
            }
            Cdb::Verify(t, bytchk) => {
                let ten = op::VERIFY_10;
                t.without_six().encode(&mut b, [ten, ten, op::VERIFY_12, op::VERIFY_16]);
                b[1] = b[1] & !0x0E | bytchk.bits();
            }
            Cdb::CompareAndWrite(t) => {
                Transfer { form: Form::Sixteen, blocks: t.blocks & 0xFF, ..t }
                    .encode(&mut b, [0, 0, 0, op::COMPARE_AND_WRITE]);
            }
            Cdb::OrWrite(t) => {
                Transfer { form: Form::Sixteen, ..t }.encode(&mut b, [0, 0, 0, op::ORWRITE_16]);
            }
            Cdb::WriteAtomic { range, boundary } => {
                Transfer { form: Form::Sixteen, blocks: range.blocks & 0xFFFF, ..range }
                    .encode(&mut b, [0, 0, 0, op::WRITE_ATOMIC_16]);
                b[10..12].copy_from_slice(&boundary.to_be_bytes());
            }
            Cdb::PreFetch { form, immed, lba, blocks } => {
                Transfer { form, ..Transfer::new(lba, blocks) }
                    .ten_or_sixteen()
                    .encode(&mut b, [0, op::PRE_FETCH_10, 0, op::PRE_FETCH_16]);
                b[1] = flag(immed, 2);
            }
            Cdb::SynchronizeCache { form, immed, lba, blocks } => {
                Transfer { form, ..Transfer::new(lba, blocks) }
                    .ten_or_sixteen()
                    .encode(&mut b, [0, op::SYNCHRONIZE_CACHE_10, 0, op::SYNCHRONIZE_CACHE_16]);
                b[1] = flag(immed, 2);
            }
            Cdb::WriteSame { range, unmap, anchor, no_data_out } => {
                let range = range.ten_or_sixteen();
                range.encode(&mut b, [0, op::WRITE_SAME_10, 0, op::WRITE_SAME_16]);
                b[1] = b[1] & 0xE0
                    | flag(unmap, 8)
                    | flag(anchor, 0x10)
                    | flag(no_data_out && range.form == Form::Sixteen, 1);
            }
            Cdb::Unmap { anchor, parameter_len } => {
                b[0] = op::UNMAP;
                b[1] = flag(anchor, 1);
                b[7..9].copy_from_slice(&parameter_len.to_be_bytes());
            }
            Cdb::Sanitize { action, immed, unrestricted_exit } => {
                b[0] = op::SANITIZE;
                b[1] = flag(immed, 0x80) | flag(unrestricted_exit, 0x20) | action & 0x1F;
            }
            Cdb::ReadDefectData { form: Form::Six | Form::Ten, lists, allocation } => {
                b[0] = op::READ_DEFECT_DATA_10;
                b[2] = lists & 0x1F;
                b[7..9].copy_from_slice(&(allocation as u16).to_be_bytes());
            }
            Cdb::ReadDefectData { lists, allocation, .. } => {
                b[0] = op::READ_DEFECT_DATA_12;
                b[1] = lists & 0x1F;
                b[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::ExtendedCopy { parameter_len } => {
                b[0] = op::EXTENDED_COPY;
                b[1] = op::SA_COPY_LID1;
                b[10..14].copy_from_slice(&parameter_len.to_be_bytes());
            }
            Cdb::ReceiveCopyResults { action, list_id, allocation } => {
                b[0] = op::RECEIVE_COPY_RESULTS;
                b[1] = action & 0x1F;
                b[2] = list_id;
                b[10..14].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::PersistentReserveIn { action, allocation } => {
                b[0] = op::PERSISTENT_RESERVE_IN;
                b[1] = action & 0x1F;
                b[7..9].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::PersistentReserveOut { action, scope, kind, parameter_len } => {
                b[0] = op::PERSISTENT_RESERVE_OUT;
                b[1] = action.code();
                b[2] = scope << 4 | kind & 0x0F;
                b[5..9].copy_from_slice(&parameter_len.to_be_bytes());
            }
            Cdb::ReportLuns { select, allocation } => {
                b[0] = op::REPORT_LUNS;
                b[2] = select;
                b[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::ReportOpcodes { timeouts, options, opcode, action, allocation } => {
                b[0] = op::MAINTENANCE_IN;
                b[1] = op::SA_REPORT_OPCODES;
                b[2] = flag(timeouts, 0x80) | options & 7;
                b[3] = opcode;
                b[4..6].copy_from_slice(&action.to_be_bytes());
                b[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::ReportPortGroups { format, allocation } => {
                b[0] = op::MAINTENANCE_IN;
                b[1] = format << 5 | op::SA_REPORT_PORT_GROUPS;
                b[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::ReportFunctions { extended, allocation } => {
                b[0] = op::MAINTENANCE_IN;
                b[1] = op::SA_REPORT_FUNCTIONS;
                b[2] = flag(extended, 0x80);
                b[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
        }
        CdbBytes { bytes: b, len: cdb_len(b[0]) }
    }

    /// Whether the command changes the medium: refused on a write-protected unit. EXTENDED COPY says so for
    /// each unit that it writes.
    pub fn writes_medium(&self) -> bool {
        matches!(
            self,
            Cdb::Write(_)
                | Cdb::WriteVerify(..)
                | Cdb::WriteSame { .. }
                | Cdb::Unmap { .. }
                | Cdb::CompareAndWrite(_)
                | Cdb::OrWrite(_)
                | Cdb::WriteAtomic { .. }
                | Cdb::Sanitize { action: op::SA_BLOCK_ERASE, .. }
        )
    }

    /// Whether the command needs a medium in the unit: without one it is refused with 02/3A.
    pub fn needs_medium(&self) -> bool {
        self.writes_medium()
            || matches!(
                self,
                Cdb::TestUnitReady
                    | Cdb::ReadCapacity10
                    | Cdb::ReadCapacity16 { .. }
                    | Cdb::GetLbaStatus { .. }
                    | Cdb::Read(_)
                    | Cdb::Verify(..)
                    | Cdb::PreFetch { .. }
                    | Cdb::SynchronizeCache { .. }
                    | Cdb::ReadDefectData { .. }
                    | Cdb::Sanitize { .. }
            )
    }
}

/// CDB length by the group code in the top three bits of the operation code (SPC-4 4.2.5.1).
pub(super) const fn cdb_len(opcode: u8) -> u8 {
    match opcode >> 5 {
        0 => 6,
        1 | 2 => 10,
        5 => 12,
        _ => 16,
    }
}

fn parse_bytchk(b: &[u8; 16]) -> Result<Bytchk, CdbError> {
    match b[1] >> 1 & 3 {
        0 => Ok(Bytchk::Medium),
        1 => Ok(Bytchk::Full),
        3 => Ok(Bytchk::OneBlock),
        _ => Err(CdbError::InvalidField(1)),
    }
}

/// SANITIZE (SBC-3 5.23): its reserved bits are looked at, because a command that destroys everything is not
/// taken with a guess.
fn parse_sanitize(b: &[u8; 16]) -> Result<Cdb, CdbError> {
    let action = b[1] & 0x1F;
    if !matches!(action, op::SA_BLOCK_ERASE | op::SA_EXIT_FAILURE_MODE) || b[1] & 0x40 != 0 {
        return Err(CdbError::InvalidField(1));
    }
    if let Some(at) = (2..7).find(|at| b[*at] != 0) {
        return Err(CdbError::InvalidField(at as u16));
    }
    // Neither action takes a parameter list.
    if be16(b, 7) != Some(0) {
        return Err(CdbError::InvalidField(7));
    }
    Ok(Cdb::Sanitize { action, immed: b[1] & 0x80 != 0, unrestricted_exit: b[1] & 0x20 != 0 })
}

fn parse_transfer(b: &[u8; 16]) -> Transfer {
    let u32_at = |at| be32(b, at).unwrap_or(0);
    let (form, lba, blocks) = match cdb_len(b[0]) {
        6 => {
            let lba = u64::from(u32_at(0) & 0x1F_FFFF);
            (Form::Six, lba, if b[4] == 0 { 256 } else { u32::from(b[4]) })
        }
        10 => (Form::Ten, u64::from(u32_at(2)), u32::from(be16(b, 7).unwrap_or(0))),
        12 => (Form::Twelve, u64::from(u32_at(2)), u32_at(6)),
        _ => (Form::Sixteen, be64(b, 2).unwrap_or(0), u32_at(10)),
    };
    let flags = if form == Form::Six { 0 } else { b[1] };
    Transfer { form, lba, blocks, protect: flags >> 5, dpo: flags & 0x10 != 0, fua: flags & 0x08 != 0 }
}

impl Transfer {
    fn without_six(self) -> Transfer {
        Transfer { form: self.form.max(Form::Ten), ..self }
    }

    fn ten_or_sixteen(self) -> Transfer {
        Transfer { form: if self.form <= Form::Ten { Form::Ten } else { Form::Sixteen }, ..self }
    }

    fn encode(self, b: &mut [u8; 16], ops: [u8; 4]) {
        b[0] = ops[self.form as usize];
        b[1] = self.protect << 5 | if self.dpo { 0x10 } else { 0 } | if self.fua { 0x08 } else { 0 };
        match self.form {
            Form::Six => {
                b[1..4].copy_from_slice(&(self.lba as u32 & 0x1F_FFFF).to_be_bytes()[1..]);
                b[4] = self.blocks as u8;
            }
            Form::Ten => {
                b[2..6].copy_from_slice(&(self.lba as u32).to_be_bytes());
                b[7..9].copy_from_slice(&(self.blocks as u16).to_be_bytes());
            }
            Form::Twelve => {
                b[2..6].copy_from_slice(&(self.lba as u32).to_be_bytes());
                b[6..10].copy_from_slice(&self.blocks.to_be_bytes());
            }
            Form::Sixteen => {
                b[2..10].copy_from_slice(&self.lba.to_be_bytes());
                b[10..14].copy_from_slice(&self.blocks.to_be_bytes());
            }
        }
    }
}

impl Bytchk {
    fn bits(self) -> u8 {
        match self {
            Bytchk::Medium => 0,
            Bytchk::Full => 2,
            Bytchk::OneBlock => 6,
        }
    }
}

impl ReservationAction {
    fn from_code(code: u8) -> Option<ReservationAction> {
        use ReservationAction::*;
        [Register, Reserve, Release, Clear, Preempt, PreemptAndAbort, RegisterAndIgnore]
            .get(usize::from(code))
            .copied()
    }

    fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
#[path = "cdb_tests.rs"]
mod tests;
