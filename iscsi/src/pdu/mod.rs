//! Protocol data units (RFC 7143 11): the 48-byte basic header segment of every PDU as a struct that *is* the
//! wire format, so that building and parsing on the hot paths of both ends neither copies nor allocates.
//!
//! * To send: `let mut pdu = ScsiCommand::new(); pdu.cmd_sn = sn.into(); …; socket.write(pdu.as_bytes())`.
//! * To receive: [`Bhs::from_bytes`], then [`Bhs::pdu`] for the whole choice or [`Bhs::view`] when the opcode
//!   is known; both check what RFC 7143 fixes about the fields, and a violation is a [`PduError`].
//!
//! Multi-byte fields are big-endian types of `zerocopy`; serial numbers convert to and from
//! [`crate::serial::Sn`]. Payload, padding and digests are `framing`'s and [`crate::digest`]'s business. Not
//! modelled: vendor opcodes.

mod ahs;
mod codes;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use ahs::{Ahs, AhsBuilder, AhsIter, MAX_AHS_LEN, MAX_CDB_LEN};
pub use codes::{
    AsyncEvent, LoginOutcome, LoginStatus, LogoutReason, LogoutResponseCode, Opcode, RejectReason,
    ServiceResponse, SnackType, Stage, TaskAttribute, TmfFunction, TmfResponse,
};
pub use request::{
    DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand, SnackRequest, TaskManagementRequest,
    TextRequest,
};
pub use response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, R2t, Reject, ScsiResponse,
    TaskManagementResponse, TextResponse,
};
pub use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the basic header segment, in bytes.
pub const BHS_LEN: usize = 48;
/// Largest data segment that the 24-bit length can announce.
pub const MAX_DATA_SEGMENT_LEN: u32 = (1 << 24) - 1;
/// The reserved tag: "no task" as an initiator task tag, "no transfer" as a target transfer tag.
pub const RESERVED_TAG: u32 = 0xffff_ffff;

/// Bits of byte 1, and the immediate bit of byte 0.
pub mod flags {
    /// Byte 0: immediate delivery.
    pub const IMMEDIATE: u8 = 0x40;
    /// Final PDU of a sequence.
    pub const FINAL: u8 = 0x80;
    /// SCSI Command: data flows to the initiator.
    pub const READ: u8 = 0x40;
    /// SCSI Command: data flows to the target.
    pub const WRITE: u8 = 0x20;
    /// SCSI Command: task attribute.
    pub const ATTR: u8 = 0x07;
    /// SCSI Response: overflow of the bidirectional read part.
    pub const BIDI_OVERFLOW: u8 = 0x10;
    /// SCSI Response: underflow of the bidirectional read part.
    pub const BIDI_UNDERFLOW: u8 = 0x08;
    /// SCSI Response, Data-In: residual overflow.
    pub const OVERFLOW: u8 = 0x04;
    /// SCSI Response, Data-In: residual underflow.
    pub const UNDERFLOW: u8 = 0x02;
    /// Data-In: carries the status of the command.
    pub const STATUS: u8 = 0x01;
    /// Data-In: asks for a DataACK SNACK.
    pub const ACKNOWLEDGE: u8 = 0x40;
    /// Text and Login: the key list continues in the next PDU.
    pub const CONTINUE: u8 = 0x40;
    /// Login: transit to the next stage.
    pub const TRANSIT: u8 = 0x80;
}

/// Zero bytes that follow a data segment of `data_len` bytes.
pub const fn padding(data_len: usize) -> usize {
    data_len.wrapping_neg() & 3
}

/// Length on the wire of a PDU: headers, digests, data and padding. `ahs_len` is in bytes.
pub const fn wire_len(ahs_len: usize, data_len: usize, header_digest: bool, data_digest: bool) -> usize {
    let digests = if header_digest { 4 } else { 0 } + if data_digest && data_len != 0 { 4 } else { 0 };
    BHS_LEN + ahs_len + data_len + padding(data_len) + digests
}

/// A 24-bit big-endian length.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct U24([u8; 3]);

impl U24 {
    /// The value, in bytes.
    pub const fn get(self) -> u32 {
        u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]])
    }

    /// Stores `value`, which must be below 2^24 (checked in debug builds; the top byte is not on the wire).
    pub const fn set(&mut self, value: u32) {
        debug_assert!(value <= MAX_DATA_SEGMENT_LEN);
        let [_, a, b, c] = value.to_be_bytes();
        self.0 = [a, b, c];
    }
}

impl core::fmt::Debug for U24 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "U24({})", self.get())
    }
}

/// What is wrong with a received header. The PDU boundary is still known; whether the connection survives is
/// the caller's choice ([`PduError::reject_reason`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PduError {
    /// Not an opcode of RFC 7143.
    #[error("unknown opcode {0:#04x}")]
    UnknownOpcode(u8),
    /// Another PDU than the one expected.
    #[error("{got} where {want} is expected")]
    UnexpectedOpcode {
        /// What came.
        got: Opcode,
        /// What the caller asked for.
        want: Opcode,
    },
    /// Additional headers on a PDU that has none, or a list that does not add up.
    #[error("malformed additional header segment")]
    Ahs,
    /// A data segment on a PDU that has none.
    #[error("{0} with a data segment")]
    UnexpectedData(Opcode),
    /// Flags that exclude or demand each other.
    #[error("{0} with flags {1:#04x}")]
    Flags(Opcode, u8),
    /// A field value outside its table; the number is the byte offset in the header.
    #[error("{0} with an illegal value at byte {1}")]
    Field(Opcode, u8),
}

impl PduError {
    /// The reason with which a target rejects such a PDU (RFC 7143 11.17.1).
    pub const fn reject_reason(self) -> RejectReason {
        match self {
            PduError::UnknownOpcode(_) => RejectReason::CommandNotSupported,
            PduError::UnexpectedOpcode { .. } | PduError::UnexpectedData(_) => RejectReason::ProtocolError,
            PduError::Ahs | PduError::Flags(..) | PduError::Field(..) => RejectReason::InvalidField,
        }
    }
}

/// A basic header segment whose kind is not known yet: the fields that all PDUs share (RFC 7143 11.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Bhs {
    opcode: u8,
    /// Byte 1: the final bit and per-opcode flags.
    pub flags: u8,
    /// Bytes 2 and 3: per opcode.
    pub specific: [u8; 2],
    /// TotalAHSLength, in four-byte words.
    pub total_ahs_length: u8,
    /// DataSegmentLength, in bytes without padding.
    pub data_segment_length: U24,
    /// Bytes 8 to 15: logical unit number; ISID and TSIH in login.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub itt: U32,
    /// Bytes 20 to 47: per opcode.
    pub rest: [u8; 28],
}

impl Bhs {
    /// The header in the bytes `bytes`.
    pub fn from_bytes(bytes: &[u8; BHS_LEN]) -> &Bhs {
        zerocopy::transmute_ref!(bytes)
    }

    /// The bytes as on the wire.
    pub fn wire(&self) -> &[u8; BHS_LEN] {
        zerocopy::transmute_ref!(self)
    }

    /// The opcode byte without the immediate bit.
    pub const fn opcode_byte(&self) -> u8 {
        self.opcode & 0x3f
    }

    /// The opcode, or [`PduError::UnknownOpcode`].
    pub const fn opcode(&self) -> Result<Opcode, PduError> {
        match Opcode::from_code(self.opcode_byte()) {
            Some(opcode) => Ok(opcode),
            None => Err(PduError::UnknownOpcode(self.opcode_byte())),
        }
    }

    /// Whether the immediate bit is set.
    pub const fn is_immediate(&self) -> bool {
        self.opcode & flags::IMMEDIATE != 0
    }

    /// Whether the final bit is set.
    pub const fn is_final(&self) -> bool {
        self.flags & flags::FINAL != 0
    }

    /// Length of the additional header segments, in bytes.
    pub const fn ahs_len(&self) -> usize {
        self.total_ahs_length as usize * 4
    }

    /// Length of the data segment, in bytes without padding.
    pub const fn data_len(&self) -> usize {
        self.data_segment_length.get() as usize
    }

    /// This header as a `T`, after checking the opcode and what is fixed about a `T`'s fields.
    pub fn view<T: Header>(&self) -> Result<&T, PduError> {
        let got = self.opcode()?;
        if got != T::OPCODE {
            return Err(PduError::UnexpectedOpcode { got, want: T::OPCODE });
        }
        self.check_lengths(got)?;
        let view = T::cast(self);
        view.check()?;
        Ok(view)
    }

    /// This header as the PDU that its opcode says, checked as by [`Bhs::view`].
    pub fn pdu(&self) -> Result<Pdu<'_>, PduError> {
        Ok(match self.opcode()? {
            Opcode::NopOut => Pdu::NopOut(self.view()?),
            Opcode::ScsiCommand => Pdu::ScsiCommand(self.view()?),
            Opcode::TaskManagementRequest => Pdu::TaskManagementRequest(self.view()?),
            Opcode::LoginRequest => Pdu::LoginRequest(self.view()?),
            Opcode::TextRequest => Pdu::TextRequest(self.view()?),
            Opcode::DataOut => Pdu::DataOut(self.view()?),
            Opcode::LogoutRequest => Pdu::LogoutRequest(self.view()?),
            Opcode::SnackRequest => Pdu::SnackRequest(self.view()?),
            Opcode::NopIn => Pdu::NopIn(self.view()?),
            Opcode::ScsiResponse => Pdu::ScsiResponse(self.view()?),
            Opcode::TaskManagementResponse => Pdu::TaskManagementResponse(self.view()?),
            Opcode::LoginResponse => Pdu::LoginResponse(self.view()?),
            Opcode::TextResponse => Pdu::TextResponse(self.view()?),
            Opcode::DataIn => Pdu::DataIn(self.view()?),
            Opcode::LogoutResponse => Pdu::LogoutResponse(self.view()?),
            Opcode::R2t => Pdu::R2t(self.view()?),
            Opcode::AsyncMessage => Pdu::AsyncMessage(self.view()?),
            Opcode::Reject => Pdu::Reject(self.view()?),
        })
    }

    /// Additional headers and data segments are there only where RFC 7143 defines them.
    fn check_lengths(&self, opcode: Opcode) -> Result<(), PduError> {
        if self.total_ahs_length != 0 && opcode != Opcode::ScsiCommand {
            return Err(PduError::Ahs);
        }
        let carries_no_data = matches!(
            opcode,
            Opcode::TaskManagementRequest
                | Opcode::TaskManagementResponse
                | Opcode::LogoutRequest
                | Opcode::LogoutResponse
                | Opcode::SnackRequest
                | Opcode::R2t
        );
        if carries_no_data && self.data_len() != 0 { Err(PduError::UnexpectedData(opcode)) } else { Ok(()) }
    }
}

/// A basic header segment of a known kind. Dereferences to [`Bhs`] for the shared fields.
pub trait Header: core::ops::DerefMut<Target = Bhs> + Sized {
    /// The opcode of this kind.
    const OPCODE: Opcode;

    /// A header with the opcode set, the final bit where this kind always has it, reserved tags where the
    /// kind has a tag that may be reserved, and zeroes.
    fn new() -> Self;

    /// Reinterprets `bhs` without any check; [`Bhs::view`] is the checked way.
    fn cast(bhs: &Bhs) -> &Self;

    /// The fields against what RFC 7143 fixes about them.
    fn check(&self) -> Result<(), PduError>;
}

/// A received PDU header by kind.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each variant is named like the header that it holds")]
pub enum Pdu<'a> {
    NopOut(&'a NopOut),
    ScsiCommand(&'a ScsiCommand),
    TaskManagementRequest(&'a TaskManagementRequest),
    LoginRequest(&'a LoginRequest),
    TextRequest(&'a TextRequest),
    DataOut(&'a DataOut),
    LogoutRequest(&'a LogoutRequest),
    SnackRequest(&'a SnackRequest),
    NopIn(&'a NopIn),
    ScsiResponse(&'a ScsiResponse),
    TaskManagementResponse(&'a TaskManagementResponse),
    LoginResponse(&'a LoginResponse),
    TextResponse(&'a TextResponse),
    DataIn(&'a DataIn),
    LogoutResponse(&'a LogoutResponse),
    R2t(&'a R2t),
    AsyncMessage(&'a AsyncMessage),
    Reject(&'a Reject),
}

/// Declares the header of one PDU kind: the fields of bytes 2-3 (`head`), 8-15 (`unit`) and 20-47 (`body`);
/// the shared fields, constructor and conversions are the same for all. `initial` lists what [`Header::new`]
/// sets beyond zeroes, and `check` is [`Header::check`] (with the header as its argument).
macro_rules! header {
    (
        $(#[$meta:meta])* $name:ident, $opcode:ident;
        head { $($(#[$hm:meta])* $hvis:vis $hname:ident: $hty:ty,)* }
        unit { $($(#[$um:meta])* $uvis:vis $uname:ident: $uty:ty,)* }
        body { $($(#[$bm:meta])* $bvis:vis $bname:ident: $bty:ty,)* }
        initial { $($iname:ident = $ivalue:expr,)* }
        check($pdu:ident) $check:block
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
        #[derive(zerocopy::Immutable, zerocopy::Unaligned)]
        #[repr(C)]
        pub struct $name {
            opcode: u8,
            /// Flags of byte 1.
            pub flags: u8,
            $($(#[$hm])* $hvis $hname: $hty,)*
            /// TotalAHSLength, in four-byte words.
            pub total_ahs_length: u8,
            /// DataSegmentLength, in bytes without padding.
            pub data_segment_length: $crate::pdu::U24,
            $($(#[$um])* $uvis $uname: $uty,)*
            /// Initiator task tag.
            pub itt: $crate::pdu::U32,
            $($(#[$bm])* $bvis $bname: $bty,)*
        }

        impl $crate::pdu::Header for $name {
            const OPCODE: $crate::pdu::Opcode = $crate::pdu::Opcode::$opcode;

            fn new() -> $name {
                let mut pdu: $name = zerocopy::FromZeros::new_zeroed();
                pdu.opcode = Self::OPCODE.code();
                $(pdu.$iname = $ivalue.into();)*
                pdu
            }

            fn cast(bhs: &$crate::pdu::Bhs) -> &$name {
                zerocopy::transmute_ref!(bhs)
            }

            fn check(&self) -> Result<(), $crate::pdu::PduError> {
                let $pdu = self;
                $check
            }
        }

        impl core::ops::Deref for $name {
            type Target = $crate::pdu::Bhs;
            fn deref(&self) -> &$crate::pdu::Bhs {
                zerocopy::transmute_ref!(self)
            }
        }

        impl core::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $crate::pdu::Bhs {
                zerocopy::transmute_mut!(self)
            }
        }
    };
}
use header;
