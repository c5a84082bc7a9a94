//! The code tables of RFC 7143: opcodes, task management, reject, async event, logout and login status
//! values, each with the text that a log line or an error message shows.

/// Declares a byte-sized code table: an enum, its conversion from the wire, and its text.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* #[doc = concat!("`", stringify!($value), "`: ", $text, ".")] $variant = $value,)* }

        impl $name {
            /// Every value of the table, in wire order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The value that `code` stands for, or `None` for a code outside the table.
            pub const fn from_code(code: u8) -> Option<$name> {
                match code { $($value => Some($name::$variant),)* _ => None }
            }

            /// The code on the wire.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// Short lower-case text for people.
            pub const fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

codes! {
    /// PDU opcodes (RFC 7143 11.2.1.2), the low six bits of byte 0.
    Opcode {
        NopOut = 0x00, "NOP-Out";
        ScsiCommand = 0x01, "SCSI Command";
        TaskManagementRequest = 0x02, "Task Management Function Request";
        LoginRequest = 0x03, "Login Request";
        TextRequest = 0x04, "Text Request";
        DataOut = 0x05, "SCSI Data-Out";
        LogoutRequest = 0x06, "Logout Request";
        SnackRequest = 0x10, "SNACK Request";
        NopIn = 0x20, "NOP-In";
        ScsiResponse = 0x21, "SCSI Response";
        TaskManagementResponse = 0x22, "Task Management Function Response";
        LoginResponse = 0x23, "Login Response";
        TextResponse = 0x24, "Text Response";
        DataIn = 0x25, "SCSI Data-In";
        LogoutResponse = 0x26, "Logout Response";
        R2t = 0x31, "Ready To Transfer";
        AsyncMessage = 0x32, "Asynchronous Message";
        Reject = 0x3f, "Reject";
    }
}

impl Opcode {
    /// Whether the initiator sends this PDU.
    pub const fn is_request(self) -> bool {
        self.code() < 0x20
    }
}

codes! {
    /// Task attribute of a SCSI Command (RFC 7143 11.3.1).
    TaskAttribute {
        Untagged = 0, "untagged";
        Simple = 1, "simple";
        Ordered = 2, "ordered";
        HeadOfQueue = 3, "head of queue";
        Aca = 4, "ACA";
    }
}

codes! {
    /// iSCSI service response of a SCSI Response (RFC 7143 11.4.3). 0x80 to 0xff are the vendor's.
    ServiceResponse {
        Completed = 0x00, "command completed at target";
        TargetFailure = 0x01, "target failure";
    }
}

codes! {
    /// Task management functions (RFC 7143 11.5.1, RFC 7144 for 9 to 12).
    TmfFunction {
        AbortTask = 1, "ABORT TASK";
        AbortTaskSet = 2, "ABORT TASK SET";
        ClearAca = 3, "CLEAR ACA";
        ClearTaskSet = 4, "CLEAR TASK SET";
        LogicalUnitReset = 5, "LOGICAL UNIT RESET";
        TargetWarmReset = 6, "TARGET WARM RESET";
        TargetColdReset = 7, "TARGET COLD RESET";
        TaskReassign = 8, "TASK REASSIGN";
        QueryTask = 9, "QUERY TASK";
        QueryTaskSet = 10, "QUERY TASK SET";
        ITNexusReset = 11, "I_T NEXUS RESET";
        QueryAsyncEvent = 12, "QUERY ASYNCHRONOUS EVENT";
    }
}

codes! {
    /// Task management responses (RFC 7143 11.6.1).
    TmfResponse {
        Complete = 0, "function complete";
        NoSuchTask = 1, "task does not exist";
        NoSuchLun = 2, "LUN does not exist";
        TaskStillAllegiant = 3, "task still allegiant";
        ReassignUnsupported = 4, "task allegiance reassignment not supported";
        NotSupported = 5, "function not supported";
        AuthorizationFailed = 6, "function authorization failed";
        Succeeded = 7, "function succeeded";
        Rejected = 255, "function rejected";
    }
}

codes! {
    /// Reject reasons (RFC 7143 11.17.1).
    RejectReason {
        DataDigestError = 0x02, "data digest error";
        SnackRejected = 0x03, "SNACK rejected";
        ProtocolError = 0x04, "protocol error";
        CommandNotSupported = 0x05, "command not supported";
        TooManyImmediate = 0x06, "too many immediate commands";
        TaskInProgress = 0x07, "task in progress";
        InvalidDataAck = 0x08, "invalid data ACK";
        InvalidField = 0x09, "invalid PDU field";
        OutOfResources = 0x0a, "out of resources";
        Deprecated = 0x0b, "negotiation reset (deprecated)";
        WaitingForLogout = 0x0c, "waiting for logout";
    }
}

impl RejectReason {
    /// Whether the rejected PDU may be sent again (RFC 7143 11.17.1). Data-Out with a data digest error is
    /// the exception: it waits for a recovery R2T.
    pub const fn resendable(self) -> bool {
        matches!(
            self,
            RejectReason::DataDigestError
                | RejectReason::SnackRejected
                | RejectReason::TooManyImmediate
                | RejectReason::OutOfResources
        )
    }
}

codes! {
    /// Asynchronous message events (RFC 7143 11.9.1). 248 to 255 are the vendor's.
    AsyncEvent {
        ScsiEvent = 0, "SCSI asynchronous event";
        LogoutRequested = 1, "target requests logout";
        ConnectionDropped = 2, "target will drop the connection";
        SessionDropped = 3, "target will drop all connections of the session";
        NegotiationRequested = 4, "target requests parameter negotiation";
        TasksTerminated = 5, "tasks of a logical unit are being terminated";
    }
}

codes! {
    /// Logout reasons (RFC 7143 11.14.1).
    LogoutReason {
        CloseSession = 0, "close the session";
        CloseConnection = 1, "close the connection";
        RemoveForRecovery = 2, "remove the connection for recovery";
    }
}

codes! {
    /// Logout responses (RFC 7143 11.15.1).
    LogoutResponseCode {
        Success = 0, "logged out";
        CidNotFound = 1, "CID not found";
        RecoveryUnsupported = 2, "connection recovery not supported";
        CleanupFailed = 3, "cleanup failed";
    }
}

codes! {
    /// SNACK types (RFC 7143 11.16.1).
    SnackType {
        DataOrR2t = 0, "Data/R2T";
        Status = 1, "Status";
        DataAck = 2, "DataACK";
        RData = 3, "R-Data";
    }
}

codes! {
    /// Login stages (RFC 7143 11.12.3), the CSG and NSG fields.
    Stage {
        Security = 0, "security negotiation";
        Operational = 1, "operational negotiation";
        FullFeature = 3, "full feature phase";
    }
}

impl Stage {
    /// Whether a request in this stage may ask to move on to `next` (RFC 7143 6.3).
    pub const fn may_move_to(self, next: Stage) -> bool {
        matches!(
            (self, next),
            (Stage::Security, Stage::Operational | Stage::FullFeature)
                | (Stage::Operational, Stage::FullFeature)
        )
    }
}

/// What an initiator may do after a Login Response (RFC 7143 11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LoginOutcome {
    /// Go on.
    Success,
    /// Log in at the TargetAddress given.
    Redirect,
    /// Give up: authentication or authorisation. Trying again cannot help (and may lock an account).
    AuthenticationFailed,
    /// Give up: the initiator asked for something wrong.
    Fatal,
    /// The target could not serve now; a later attempt may work.
    Retry,
}

/// Declares the login status table: (class, detail), text, outcome.
macro_rules! login_status {
    ($($variant:ident = ($class:literal, $detail:literal), $text:literal, $outcome:ident;)*) => {
        /// Status of a Login Response: class and detail (RFC 7143 11.13.5).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum LoginStatus {
            $(#[doc = concat!("Class ", stringify!($class), ", detail ", stringify!($detail), ": ", $text, ".")] $variant,)*
            /// A class and detail outside the table.
            Other(u8, u8),
        }

        impl LoginStatus {
            /// Every status of the table.
            pub const ALL: &'static [LoginStatus] = &[$(LoginStatus::$variant),*];

            /// The status that `class` and `detail` stand for.
            pub const fn from_codes(class: u8, detail: u8) -> LoginStatus {
                match (class, detail) {
                    $(($class, $detail) => LoginStatus::$variant,)*
                    _ => LoginStatus::Other(class, detail),
                }
            }

            /// Class and detail on the wire.
            pub const fn codes(self) -> (u8, u8) {
                match self {
                    $(LoginStatus::$variant => ($class, $detail),)*
                    LoginStatus::Other(class, detail) => (class, detail),
                }
            }

            /// Short lower-case text for people.
            pub const fn text(self) -> &'static str {
                match self {
                    $(LoginStatus::$variant => $text,)*
                    LoginStatus::Other(..) => "unknown login status",
                }
            }

            /// What the initiator may do. An unknown detail is judged by its class, an unknown class is
            /// fatal.
            pub const fn outcome(self) -> LoginOutcome {
                match self {
                    $(LoginStatus::$variant => LoginOutcome::$outcome,)*
                    LoginStatus::Other(0, _) => LoginOutcome::Success,
                    LoginStatus::Other(1, _) => LoginOutcome::Redirect,
                    LoginStatus::Other(3, _) => LoginOutcome::Retry,
                    LoginStatus::Other(..) => LoginOutcome::Fatal,
                }
            }
        }
    };
}

login_status! {
    Success = (0, 0), "success", Success;
    MovedTemporarily = (1, 1), "target moved temporarily", Redirect;
    MovedPermanently = (1, 2), "target moved permanently", Redirect;
    InitiatorError = (2, 0), "initiator error", Fatal;
    AuthenticationFailure = (2, 1), "authentication failure", AuthenticationFailed;
    AuthorizationFailure = (2, 2), "authorization failure", AuthenticationFailed;
    TargetNotFound = (2, 3), "target not found", Fatal;
    TargetRemoved = (2, 4), "target removed", Fatal;
    UnsupportedVersion = (2, 5), "unsupported version", Fatal;
    TooManyConnections = (2, 6), "too many connections", Fatal;
    MissingParameter = (2, 7), "missing parameter", Fatal;
    CannotIncludeInSession = (2, 8), "cannot include in session", Fatal;
    SessionTypeNotSupported = (2, 9), "session type not supported", Fatal;
    SessionDoesNotExist = (2, 0x0a), "session does not exist", Fatal;
    InvalidDuringLogin = (2, 0x0b), "invalid request during login", Fatal;
    TargetError = (3, 0), "target error", Retry;
    ServiceUnavailable = (3, 1), "service unavailable", Retry;
    OutOfResources = (3, 2), "out of resources", Retry;
}

impl core::fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (class, detail) = self.codes();
        write!(f, "{} ({class:02x}{detail:02x})", self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in 0..=255u8 {
            if let Some(op) = Opcode::from_code(code) {
                assert_eq!(op.code(), code);
                assert_eq!(op.is_request(), code & 0x20 == 0);
            }
        }
        assert_eq!(Opcode::ALL.len(), 18);
        assert_eq!(Opcode::from_code(0x1c), None);
        assert_eq!(TmfResponse::from_code(255), Some(TmfResponse::Rejected));
        assert_eq!(RejectReason::from_code(1), None);
        assert!(RejectReason::OutOfResources.resendable() && !RejectReason::ProtocolError.resendable());
    }

    #[test]
    fn login_status_is_classified() {
        for &status in LoginStatus::ALL {
            let (class, detail) = status.codes();
            assert_eq!(LoginStatus::from_codes(class, detail), status);
        }
        assert_eq!(LoginStatus::ServiceUnavailable.outcome(), LoginOutcome::Retry);
        assert_eq!(LoginStatus::AuthenticationFailure.outcome(), LoginOutcome::AuthenticationFailed);
        assert_eq!(LoginStatus::from_codes(3, 0x77).outcome(), LoginOutcome::Retry);
        assert_eq!(LoginStatus::from_codes(9, 0).outcome(), LoginOutcome::Fatal);
        assert_eq!(LoginStatus::TargetNotFound.to_string(), "target not found (0203)");
    }

    #[test]
    fn stages_only_move_forward() {
        assert!(Stage::Security.may_move_to(Stage::FullFeature));
        assert!(
            !Stage::Operational.may_move_to(Stage::Security)
                && !Stage::Operational.may_move_to(Stage::Operational)
        );
        assert_eq!(Stage::from_code(2), None);
    }
}
