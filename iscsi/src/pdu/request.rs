//! Headers of the PDUs that the initiator sends (RFC 7143 11.3, 11.5, 11.7, 11.10, 11.12, 11.14, 11.16,
//! 11.18).

use super::flags::{ATTR, CONTINUE, FINAL, IMMEDIATE, READ, TRANSIT, WRITE};
use super::{
    LogoutReason, PduError, RESERVED_TAG, SnackType, Stage, TaskAttribute, TmfFunction, U16, U32, header,
};

header! {
    /// SCSI Command (RFC 7143 11.3). Data segment: immediate data. The only PDU with additional header
    /// segments.
    ScsiCommand, ScsiCommand;
    head {
        /// Command priority in the high nibble at iSCSIProtocolLevel 2 (RFC 7144), else zero.
        pub priority: u8,
        reserved3: u8,
    }
    unit {
        /// Logical unit number.
        pub lun: [u8; 8],
    }
    body {
        /// Bytes that the initiator expects to move; the write part of a bidirectional command.
        pub expected_data_transfer_length: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        /// CDB bytes 0 to 15; longer ones continue in an extended CDB header.
        pub cdb: [u8; 16],
    }
    initial { flags = FINAL | TaskAttribute::Simple.code(), }
    check(pdu) {
        match pdu.attribute() {
            Some(_) => Ok(()),
            None => Err(PduError::Field(Self::OPCODE, 1)),
        }
    }
}

impl ScsiCommand {
    /// Whether the command reads.
    pub const fn reads(&self) -> bool {
        self.flags & READ != 0
    }

    /// Whether the command writes.
    pub const fn writes(&self) -> bool {
        self.flags & WRITE != 0
    }

    /// The task attribute; `None` for the reserved codes.
    pub const fn attribute(&self) -> Option<TaskAttribute> {
        TaskAttribute::from_code(self.flags & ATTR)
    }
}

header! {
    /// Task Management Function Request (RFC 7143 11.5). No data segment.
    TaskManagementRequest, TaskManagementRequest;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number, where the function has one.
        pub lun: [u8; 8],
    }
    body {
        /// Task tag of the task that ABORT TASK and TASK REASSIGN mean, else reserved.
        pub referenced_task_tag: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        /// CmdSN of the task that ABORT TASK means.
        pub ref_cmd_sn: U32,
        /// ExpDataSN, for TASK REASSIGN.
        pub exp_data_sn: U32,
        reserved40: [u8; 8],
    }
    initial { flags = FINAL, referenced_task_tag = RESERVED_TAG, }
    check(pdu) {
        // An unknown function is answered with a TMF response, not with a reject: only code 0 is malformed.
        if pdu.function_code() == 0 { Err(PduError::Field(Self::OPCODE, 1)) } else { Ok(()) }
    }
}

impl TaskManagementRequest {
    /// The function's code.
    pub const fn function_code(&self) -> u8 {
        self.flags & !FINAL
    }

    /// The function, `None` for a code outside the table (answer: function not supported).
    pub const fn function(&self) -> Option<TmfFunction> {
        TmfFunction::from_code(self.function_code())
    }

    /// Sets the function.
    pub const fn set_function(&mut self, function: TmfFunction) {
        self.flags = FINAL | function.code();
    }
}

header! {
    /// SCSI Data-Out (RFC 7143 11.7). Data segment: payload.
    DataOut, DataOut;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number: copied from the R2T.
        pub lun: [u8; 8],
    }
    body {
        /// Target transfer tag of the R2T; reserved in unsolicited data.
        pub ttt: U32,
        reserved24: [u8; 4],
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        reserved32: [u8; 4],
        /// DataSN, counted from 0 in each sequence.
        pub data_sn: U32,
        /// Offset of the payload in the command's buffer, in bytes.
        pub buffer_offset: U32,
        reserved44: [u8; 4],
    }
    initial { ttt = RESERVED_TAG, }
    check(_pdu) { Ok(()) }
}

header! {
    /// Text Request (RFC 7143 11.10). Data segment: key=value text.
    TextRequest, TextRequest;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number: copied from the response that is being continued.
        pub lun: [u8; 8],
    }
    body {
        /// Continuation handle of the response, reserved on a new exchange.
        pub ttt: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        reserved32: [u8; 16],
    }
    initial { flags = FINAL, ttt = RESERVED_TAG, }
    check(pdu) {
        // RFC 7143 11.10.2: final and continue exclude each other.
        if pdu.flags & FINAL != 0 && pdu.flags & CONTINUE != 0 {
            return Err(PduError::Flags(Self::OPCODE, pdu.flags));
        }
        Ok(())
    }
}

/// What bits CSG and NSG say, for both login PDUs: the current stage, and the next one when the transit bit
/// is set.
pub(super) fn login_stages(flags: u8) -> Option<(Stage, Option<Stage>)> {
    let current = Stage::from_code(flags >> 2 & 3)?;
    if flags & TRANSIT == 0 {
        return Some((current, None));
    }
    let next = Stage::from_code(flags & 3)?;
    (flags & CONTINUE == 0 && current.may_move_to(next)).then_some((current, Some(next)))
}

/// Byte 1 of a login PDU.
pub(super) const fn login_flags(current: Stage, next: Option<Stage>, more: bool) -> u8 {
    let stages = current.code() << 2
        | match next {
            Some(next) => TRANSIT | next.code(),
            None => 0,
        };
    if more { stages | CONTINUE } else { stages }
}

header! {
    /// Login Request (RFC 7143 11.12). Always immediate. Data segment: key=value text.
    LoginRequest, LoginRequest;
    head {
        /// Highest version that the initiator supports (0x00).
        pub version_max: u8,
        /// Lowest version that the initiator supports (0x00).
        pub version_min: u8,
    }
    unit {
        /// Initiator's part of the session identifier.
        pub isid: [u8; 6],
        /// Target session identifying handle; zero asks for a new session.
        pub tsih: U16,
    }
    body {
        /// Connection identifier.
        pub cid: U16,
        reserved22: [u8; 2],
        /// CmdSN; seeds the session's numbers on the leading connection.
        pub cmd_sn: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        reserved32: [u8; 16],
    }
    initial { opcode = IMMEDIATE | Self::OPCODE.code(), }
    check(pdu) {
        match login_stages(pdu.flags) {
            Some((Stage::Security | Stage::Operational, _)) => Ok(()),
            _ => Err(PduError::Flags(Self::OPCODE, pdu.flags)),
        }
    }
}

impl LoginRequest {
    /// Current stage, and next stage when the transit bit is set; `None` for a combination that RFC 7143 6.3
    /// forbids.
    pub fn stages(&self) -> Option<(Stage, Option<Stage>)> {
        login_stages(self.flags)
    }

    /// Sets the stages, and the continue bit for `more`.
    pub const fn set_stages(&mut self, current: Stage, next: Option<Stage>, more: bool) {
        self.flags = login_flags(current, next, more);
    }
}

header! {
    /// Logout Request (RFC 7143 11.14). No data segment.
    LogoutRequest, LogoutRequest;
    head { reserved2: [u8; 2], }
    unit { reserved8: [u8; 8], }
    body {
        /// Connection identifier, for reasons 1 and 2.
        pub cid: U16,
        reserved22: [u8; 2],
        /// CmdSN.
        pub cmd_sn: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        reserved32: [u8; 16],
    }
    initial { flags = FINAL, }
    check(pdu) {
        match pdu.reason() {
            Some(_) => Ok(()),
            None => Err(PduError::Field(Self::OPCODE, 1)),
        }
    }
}

impl LogoutRequest {
    /// The reason; `None` for a code outside the table.
    pub const fn reason(&self) -> Option<LogoutReason> {
        LogoutReason::from_code(self.flags & !FINAL)
    }

    /// Sets the reason.
    pub const fn set_reason(&mut self, reason: LogoutReason) {
        self.flags = FINAL | reason.code();
    }
}

header! {
    /// SNACK Request (RFC 7143 11.16). No data segment.
    SnackRequest, SnackRequest;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number, for DataACK.
        pub lun: [u8; 8],
    }
    body {
        /// Target transfer tag (DataACK) or SNACK tag (R-Data), else reserved.
        pub ttt: U32,
        reserved24: [u8; 4],
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        reserved32: [u8; 8],
        /// First number of the run asked for.
        pub beg_run: U32,
        /// Numbers in the run; zero means all from `beg_run` on.
        pub run_length: U32,
    }
    initial { flags = FINAL, itt = RESERVED_TAG, ttt = RESERVED_TAG, }
    check(pdu) {
        match pdu.kind() {
            Some(_) => Ok(()),
            None => Err(PduError::Field(Self::OPCODE, 1)),
        }
    }
}

impl SnackRequest {
    /// What is asked for again; `None` for a code outside the table.
    pub const fn kind(&self) -> Option<SnackType> {
        SnackType::from_code(self.flags & 0x0f)
    }
}

header! {
    /// NOP-Out (RFC 7143 11.18). Data segment: ping data.
    NopOut, NopOut;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number: copied from the NOP-In being answered.
        pub lun: [u8; 8],
    }
    body {
        /// Target transfer tag of the NOP-In being answered, else reserved.
        pub ttt: U32,
        /// CmdSN.
        pub cmd_sn: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
        reserved32: [u8; 16],
    }
    initial { flags = FINAL, itt = RESERVED_TAG, ttt = RESERVED_TAG, }
    check(pdu) {
        // RFC 7143 11.18.1: without a task tag it takes no CmdSN, so it has to be immediate.
        if pdu.itt.get() == RESERVED_TAG && !pdu.is_immediate() {
            return Err(PduError::Flags(Self::OPCODE, pdu.flags));
        }
        Ok(())
    }
}

/// Request kinds that may be sent for immediate delivery; the flag decides whether a CmdSN is spent.
macro_rules! may_be_immediate {
    ($($name:ident)*) => { $(impl $name {
        /// Sets or clears immediate delivery.
        pub const fn set_immediate(&mut self, immediate: bool) {
            self.opcode = if immediate { self.opcode | IMMEDIATE } else { self.opcode & !IMMEDIATE };
        }
    })* };
}
may_be_immediate!(ScsiCommand TaskManagementRequest TextRequest LogoutRequest NopOut);
