//! Headers of the PDUs that the target sends (RFC 7143 11.4, 11.6 to 11.9, 11.11, 11.13, 11.15, 11.17,
//! 11.19). All of them carry StatSN, ExpCmdSN and MaxCmdSN at bytes 24, 28 and 32.

use super::flags::{BIDI_OVERFLOW, BIDI_UNDERFLOW, CONTINUE, FINAL, OVERFLOW, STATUS, TRANSIT, UNDERFLOW};
use super::request::{login_flags, login_stages};
use super::{
    AsyncEvent, LoginStatus, LogoutResponseCode, PduError, RESERVED_TAG, RejectReason, Stage, TmfResponse,
    U16, U32, header,
};

header! {
    /// SCSI Response (RFC 7143 11.4). Data segment: u16 sense length, sense data, response data.
    ScsiResponse, ScsiResponse;
    head {
        /// iSCSI service response: [`super::ServiceResponse`] or a vendor's code.
        pub response: u8,
        /// SCSI status; undefined unless `response` is 0.
        pub status: u8,
    }
    unit {
        /// Status qualifier at iSCSIProtocolLevel 2 (RFC 7144), else zero.
        pub status_qualifier: U16,
        reserved10: [u8; 6],
    }
    body {
        /// SNACK tag, or zero.
        pub snack_tag: U32,
        /// StatSN.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// Data-In and R2T PDUs that were sent for the command.
        pub exp_data_sn: U32,
        /// Residual of the read part of a bidirectional command, in bytes.
        pub bidi_residual: U32,
        /// Residual, in bytes.
        pub residual: U32,
    }
    initial { flags = FINAL, }
    check(pdu) { check_residual_flags(pdu.flags, Self::OPCODE) }
}

/// Overflow and underflow exclude each other (RFC 7143 11.4.1).
fn check_residual_flags(flags: u8, opcode: super::Opcode) -> Result<(), PduError> {
    for both in [OVERFLOW | UNDERFLOW, BIDI_OVERFLOW | BIDI_UNDERFLOW] {
        if flags & both == both {
            return Err(PduError::Flags(opcode, flags));
        }
    }
    Ok(())
}

header! {
    /// Task Management Function Response (RFC 7143 11.6). No data segment.
    TaskManagementResponse, TaskManagementResponse;
    head {
        /// Response code: [`TmfResponse`].
        pub response: u8,
        reserved3: u8,
    }
    unit {
        /// Additional response information at iSCSIProtocolLevel 2 (RFC 7144), else zero.
        pub additional: [u8; 3],
        reserved11: [u8; 5],
    }
    body {
        reserved20: [u8; 4],
        /// StatSN.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved36: [u8; 12],
    }
    initial { flags = FINAL, }
    check(pdu) {
        match pdu.code() {
            Some(_) => Ok(()),
            None => Err(PduError::Field(Self::OPCODE, 2)),
        }
    }
}

impl TaskManagementResponse {
    /// The response; `None` for a code outside the table.
    pub const fn code(&self) -> Option<TmfResponse> {
        TmfResponse::from_code(self.response)
    }
}

header! {
    /// SCSI Data-In (RFC 7143 11.7). Data segment: payload.
    DataIn, DataIn;
    head {
        reserved2: u8,
        /// SCSI status, with the S bit.
        pub status: u8,
    }
    unit {
        /// Logical unit number, with the A bit.
        pub lun: [u8; 8],
    }
    body {
        /// Target transfer tag, with the A bit; else reserved.
        pub ttt: U32,
        /// StatSN, with the S bit.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// DataSN, counted over the whole command.
        pub data_sn: U32,
        /// Offset of the payload in the command's buffer, in bytes.
        pub buffer_offset: U32,
        /// Residual with the S bit, in bytes.
        pub residual: U32,
    }
    initial { ttt = RESERVED_TAG, }
    check(pdu) {
        // RFC 7143 11.7.3: the status comes with the last PDU; residual flags only with the status.
        let status = pdu.flags & STATUS != 0;
        if status && pdu.flags & FINAL == 0 || !status && pdu.flags & (OVERFLOW | UNDERFLOW) != 0 {
            return Err(PduError::Flags(Self::OPCODE, pdu.flags));
        }
        check_residual_flags(pdu.flags & (OVERFLOW | UNDERFLOW), Self::OPCODE)
    }
}

impl DataIn {
    /// Whether it carries the command's status.
    pub const fn has_status(&self) -> bool {
        self.flags & STATUS != 0
    }
}

header! {
    /// Ready To Transfer (RFC 7143 11.8). No data segment.
    R2t, R2t;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number.
        pub lun: [u8; 8],
    }
    body {
        /// Target transfer tag, which the Data-Out PDUs have to carry.
        pub ttt: U32,
        /// The next StatSN, which this PDU does not consume.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// R2TSN, counted over the whole command.
        pub r2t_sn: U32,
        /// Offset of the wanted data in the command's buffer, in bytes.
        pub buffer_offset: U32,
        /// Wanted data, in bytes.
        pub desired_length: U32,
    }
    initial { flags = FINAL, }
    check(pdu) {
        if pdu.ttt.get() == RESERVED_TAG {
            return Err(PduError::Field(Self::OPCODE, 20));
        }
        if pdu.desired_length.get() == 0 { Err(PduError::Field(Self::OPCODE, 44)) } else { Ok(()) }
    }
}

header! {
    /// Asynchronous Message (RFC 7143 11.9). Data segment: u16 sense length and sense for event 0, else the
    /// vendor's.
    AsyncMessage, AsyncMessage;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number.
        pub lun: [u8; 8],
    }
    body {
        reserved20: [u8; 4],
        /// StatSN.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// Event: [`AsyncEvent`] or a vendor's code (248 to 255).
        pub event: u8,
        /// The vendor's own code, with vendor events.
        pub vendor_code: u8,
        /// Parameter 1: CID of the dropped connection.
        pub parameter1: U16,
        /// Parameter 2: Time2Wait in seconds.
        pub parameter2: U16,
        /// Parameter 3: Time2Retain, or the seconds within which to act.
        pub parameter3: U16,
        reserved44: [u8; 4],
    }
    initial { flags = FINAL, itt = RESERVED_TAG, }
    check(_pdu) { Ok(()) }
}

impl AsyncMessage {
    /// The event; `None` for a vendor's or unknown one.
    pub const fn kind(&self) -> Option<AsyncEvent> {
        AsyncEvent::from_code(self.event)
    }
}

header! {
    /// Text Response (RFC 7143 11.11). Data segment: key=value text.
    TextResponse, TextResponse;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number, copied by a continuing request.
        pub lun: [u8; 8],
    }
    body {
        /// Continuation handle; reserved on the final response.
        pub ttt: U32,
        /// StatSN.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved36: [u8; 12],
    }
    initial { flags = FINAL, ttt = RESERVED_TAG, }
    check(pdu) {
        // RFC 7143 11.11.1-4: final excludes continue, and goes with the reserved tag.
        let last = pdu.flags & FINAL != 0;
        if last && pdu.flags & CONTINUE != 0 {
            return Err(PduError::Flags(Self::OPCODE, pdu.flags));
        }
        if last != (pdu.ttt.get() == RESERVED_TAG) { Err(PduError::Field(Self::OPCODE, 20)) } else { Ok(()) }
    }
}

header! {
    /// Login Response (RFC 7143 11.13). Data segment: key=value text.
    LoginResponse, LoginResponse;
    head {
        /// Highest version that the target supports (0x00).
        pub version_max: u8,
        /// Version in use (0x00).
        pub version_active: u8,
    }
    unit {
        /// Initiator's part of the session identifier.
        pub isid: [u8; 6],
        /// Target session identifying handle; a new session's in its final response.
        pub tsih: U16,
    }
    body {
        reserved20: [u8; 4],
        /// StatSN.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// Status class.
        pub status_class: u8,
        /// Status detail.
        pub status_detail: u8,
        reserved38: [u8; 10],
    }
    initial { }
    check(pdu) {
        // A failed login's stages mean nothing (RFC 7143 11.13.4).
        if pdu.status_class != 0 || pdu.stages().is_some() {
            return Ok(());
        }
        Err(PduError::Flags(Self::OPCODE, pdu.flags))
    }
}

impl LoginResponse {
    /// Current stage, and next stage when the transit bit is set; `None` for a combination that RFC 7143 6.3
    /// forbids.
    pub fn stages(&self) -> Option<(Stage, Option<Stage>)> {
        login_stages(self.flags)
    }

    /// Sets the stages, and the continue bit for `more`.
    pub const fn set_stages(&mut self, current: Stage, next: Option<Stage>, more: bool) {
        self.flags = login_flags(current, next, more);
    }

    /// Status class and detail.
    pub const fn status(&self) -> LoginStatus {
        LoginStatus::from_codes(self.status_class, self.status_detail)
    }

    /// Sets class and detail.
    pub const fn set_status(&mut self, status: LoginStatus) {
        (self.status_class, self.status_detail) = status.codes();
        if self.status_class != 0 {
            self.flags &= !(TRANSIT | CONTINUE);
        }
    }
}

header! {
    /// Logout Response (RFC 7143 11.15). No data segment.
    LogoutResponse, LogoutResponse;
    head {
        /// Response code: [`LogoutResponseCode`].
        pub response: u8,
        reserved3: u8,
    }
    unit { reserved8: [u8; 8], }
    body {
        reserved20: [u8; 4],
        /// StatSN.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved36: [u8; 4],
        /// Seconds to wait before reconnecting.
        pub time2wait: U16,
        /// Seconds for which tasks are retained.
        pub time2retain: U16,
        reserved44: [u8; 4],
    }
    initial { flags = FINAL, }
    check(pdu) {
        match pdu.code() {
            Some(_) => Ok(()),
            None => Err(PduError::Field(Self::OPCODE, 2)),
        }
    }
}

impl LogoutResponse {
    /// The response; `None` for a code outside the table.
    pub const fn code(&self) -> Option<LogoutResponseCode> {
        LogoutResponseCode::from_code(self.response)
    }
}

header! {
    /// Reject (RFC 7143 11.17). Data segment: the header of the offending PDU.
    Reject, Reject;
    head {
        /// Reason: [`RejectReason`].
        pub reason: u8,
        reserved3: u8,
    }
    unit { reserved8: [u8; 8], }
    body {
        reserved20: [u8; 4],
        /// StatSN.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        /// Next DataSN or R2TSN, with a rejected DataACK SNACK.
        pub data_sn: U32,
        reserved40: [u8; 8],
    }
    initial { flags = FINAL, itt = RESERVED_TAG, }
    check(_pdu) { Ok(()) }
}

impl Reject {
    /// The reason; `None` for a code outside the table.
    pub const fn code(&self) -> Option<RejectReason> {
        RejectReason::from_code(self.reason)
    }
}

header! {
    /// NOP-In (RFC 7143 11.19). Data segment: the echoed ping data.
    NopIn, NopIn;
    head { reserved2: [u8; 2], }
    unit {
        /// Logical unit number, with a valid target transfer tag.
        pub lun: [u8; 8],
    }
    body {
        /// Valid when the target wants an answer, else reserved.
        pub ttt: U32,
        /// StatSN: the next one, unconsumed, unless this answers a ping.
        pub stat_sn: U32,
        /// ExpCmdSN.
        pub exp_cmd_sn: U32,
        /// MaxCmdSN.
        pub max_cmd_sn: U32,
        reserved36: [u8; 12],
    }
    initial { flags = FINAL, itt = RESERVED_TAG, ttt = RESERVED_TAG, }
    check(pdu) {
        // RFC 7143 11.19.1: it either answers a ping or asks for an answer, never both.
        if pdu.itt.get() != RESERVED_TAG && pdu.ttt.get() != RESERVED_TAG {
            return Err(PduError::Field(Self::OPCODE, 20));
        }
        Ok(())
    }
}
