//! Sense data (SPC-4 4.5): why a command ended with CHECK CONDITION. The target builds it in the format that
//! the Control page's D_SENSE asks for; the initiator reads either format.

use super::{be16, be32, be64};

/// Sense key, low four bits. Values without a name are kept as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SenseKey(pub u8);

#[allow(missing_docs, reason = "the names are SPC-4's own")]
impl SenseKey {
    pub const NO_SENSE: SenseKey = SenseKey(0x0);
    pub const RECOVERED_ERROR: SenseKey = SenseKey(0x1);
    pub const NOT_READY: SenseKey = SenseKey(0x2);
    pub const MEDIUM_ERROR: SenseKey = SenseKey(0x3);
    pub const HARDWARE_ERROR: SenseKey = SenseKey(0x4);
    pub const ILLEGAL_REQUEST: SenseKey = SenseKey(0x5);
    pub const UNIT_ATTENTION: SenseKey = SenseKey(0x6);
    pub const DATA_PROTECT: SenseKey = SenseKey(0x7);
    pub const COPY_ABORTED: SenseKey = SenseKey(0xA);
    pub const ABORTED_COMMAND: SenseKey = SenseKey(0xB);
    pub const MISCOMPARE: SenseKey = SenseKey(0xE);
}

/// Which byte of the CDB or of the parameter list was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// True for the CDB, false for the parameter list.
    pub in_cdb: bool,
    /// Byte offset.
    pub byte: u16,
}

/// The two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenseFormat {
    /// Response code 0x70, 18 bytes.
    Fixed,
    /// Response code 0x72, header and descriptors.
    Descriptor,
}

/// One sense condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// About an earlier command (response code 0x71 or 0x73).
    pub deferred: bool,
    /// INFORMATION field, when valid.
    pub information: Option<u64>,
    /// Field pointer, when valid.
    pub field: Option<FieldPointer>,
}

/// Encoded sense data, at most 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseBytes {
    bytes: [u8; 32],
    len: u8,
}

impl SenseBytes {
    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[allow(missing_docs, reason = "the names are SPC-4's own; SCSI.md 2.7 lists their use")]
impl Sense {
    pub const NONE: Sense = Self::new(SenseKey::NO_SENSE, 0, 0);
    pub const SANITIZE_IN_PROGRESS: Sense = Self::new(SenseKey::NOT_READY, 0x04, 0x1B);
    pub const MEDIUM_NOT_PRESENT: Sense = Self::new(SenseKey::NOT_READY, 0x3A, 2);
    pub const UNRECOVERED_READ: Sense = Self::new(SenseKey::MEDIUM_ERROR, 0x11, 0);
    pub const WRITE_ERROR: Sense = Self::new(SenseKey::MEDIUM_ERROR, 0x0C, 0);
    pub const SANITIZE_FAILED: Sense = Self::new(SenseKey::MEDIUM_ERROR, 0x31, 3);
    pub const INTERNAL_FAILURE: Sense = Self::new(SenseKey::HARDWARE_ERROR, 0x44, 0);
    pub const INFORMATION_UNIT: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x0E, 3);
    pub const PARAMETER_LENGTH: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x1A, 0);
    pub const INVALID_OPCODE: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x20, 0);
    pub const LBA_OUT_OF_RANGE: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x21, 0);
    pub const INVALID_FIELD: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x24, 0);
    pub const LU_NOT_SUPPORTED: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x25, 0);
    pub const INVALID_PARAMETER: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x26, 0);
    pub const INVALID_RELEASE: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x26, 4);
    pub const TOO_MANY_TARGETS: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x26, 6);
    pub const UNSUPPORTED_TARGET_DESCRIPTOR: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x26, 7);
    pub const TOO_MANY_SEGMENTS: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x26, 8);
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x26, 9);
    pub const SAVING_UNSUPPORTED: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x39, 0);
    pub const REMOVAL_PREVENTED: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x53, 2);
    pub const NO_REGISTRATION_RESOURCES: Sense = Self::new(SenseKey::ILLEGAL_REQUEST, 0x55, 4);
    pub const MEDIUM_CHANGED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x28, 0);
    pub const POWER_ON: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 0);
    pub const POWER_ON_OCCURRED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 1);
    pub const BUS_RESET: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 2);
    pub const DEVICE_RESET: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 3);
    pub const NEXUS_LOSS: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x29, 7);
    pub const INQUIRY_DATA_CHANGED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x3F, 3);
    pub const MODE_CHANGED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x2A, 1);
    pub const RESERVATIONS_PREEMPTED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x2A, 3);
    pub const RESERVATIONS_RELEASED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x2A, 4);
    pub const REGISTRATIONS_PREEMPTED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x2A, 5);
    pub const COMMANDS_CLEARED: Sense = Self::new(SenseKey::UNIT_ATTENTION, 0x2F, 0);
    pub const WRITE_PROTECTED: Sense = Self::new(SenseKey::DATA_PROTECT, 0x27, 0);
    pub const SPACE_ALLOCATION_FAILED: Sense = Self::new(SenseKey::DATA_PROTECT, 0x27, 7);
    pub const SOFTWARE_WRITE_PROTECTED: Sense = Self::new(SenseKey::DATA_PROTECT, 0x27, 2);
    pub const COPY_ABORTED: Sense = Self::new(SenseKey::COPY_ABORTED, 0, 0);
    pub const COPY_UNREACHABLE: Sense = Self::new(SenseKey::COPY_ABORTED, 0x08, 4);
    pub const COPY_TARGET_NOT_REACHABLE: Sense = Self::new(SenseKey::COPY_ABORTED, 0x0D, 2);
    pub const UNEXPECTED_UNSOLICITED_DATA: Sense = Self::new(SenseKey::ABORTED_COMMAND, 0x0C, 0x0C);
    pub const INCORRECT_AMOUNT_OF_DATA: Sense = Self::new(SenseKey::ABORTED_COMMAND, 0x0C, 0x0D);
    pub const PROTOCOL_SERVICE_CRC: Sense = Self::new(SenseKey::ABORTED_COMMAND, 0x47, 5);
    pub const MISCOMPARE: Sense = Self::new(SenseKey::MISCOMPARE, 0x1D, 0);
}

impl Sense {
    /// A current condition without details.
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Sense {
        Sense { key, asc, ascq, deferred: false, information: None, field: None }
    }

    /// The same with an INFORMATION field.
    pub const fn with_information(self, information: u64) -> Sense {
        Sense { information: Some(information), ..self }
    }

    /// 05/24/00 that points at byte `byte` of the CDB.
    pub const fn invalid_cdb_byte(byte: u16) -> Sense {
        Sense { field: Some(FieldPointer { in_cdb: true, byte }), ..Self::INVALID_FIELD }
    }

    /// 05/26/00 that points at byte `byte` of the parameter list.
    pub const fn invalid_parameter_byte(byte: u16) -> Sense {
        Sense { field: Some(FieldPointer { in_cdb: false, byte }), ..Self::INVALID_PARAMETER }
    }

    /// Same key, code and qualifier, whatever the details: what unit attention coalescing and tests compare.
    pub const fn same_condition(&self, other: &Sense) -> bool {
        self.key.0 == other.key.0 && self.asc == other.asc && self.ascq == other.ascq
    }

    /// Encodes in `format`. An INFORMATION value that does not fit the fixed format's 32 bits is left out, as
    /// SPC-4 wants.
    pub fn encode(&self, format: SenseFormat) -> SenseBytes {
        let mut bytes = [0; 32];
        let len = match format {
            SenseFormat::Fixed => {
                bytes[0] = 0x70 | u8::from(self.deferred);
                bytes[2] = self.key.0;
                bytes[7] = 10;
                bytes[12] = self.asc;
                bytes[13] = self.ascq;
                if let Some(information) = self.information.and_then(|i| u32::try_from(i).ok()) {
                    bytes[0] |= 0x80;
                    bytes[3..7].copy_from_slice(&information.to_be_bytes());
                }
                if let Some(field) = self.field {
                    bytes[15..18].copy_from_slice(&field.encode());
                }
                18
            }
            SenseFormat::Descriptor => {
                bytes[0] = 0x72 | u8::from(self.deferred);
                bytes[1] = self.key.0;
                bytes[2] = self.asc;
                bytes[3] = self.ascq;
                let mut len = 8;
                if let Some(information) = self.information {
                    bytes[len..len + 3].copy_from_slice(&[0x00, 0x0A, 0x80]);
                    bytes[len + 4..len + 12].copy_from_slice(&information.to_be_bytes());
                    len += 12;
                }
                if let Some(field) = self.field {
                    bytes[len..len + 2].copy_from_slice(&[0x02, 0x06]);
                    bytes[len + 4..len + 7].copy_from_slice(&field.encode());
                    len += 8;
                }
                bytes[7] = (len - 8) as u8;
                len as u8
            }
        };
        SenseBytes { bytes, len }
    }

    /// Reads either format. `None` when the response code is neither or the key, code and qualifier did not
    /// arrive.
    pub fn parse(bytes: &[u8]) -> Option<Sense> {
        let code = bytes.first()? & 0x7F;
        match code {
            0x70 | 0x71 => Self::parse_fixed(bytes, code == 0x71),
            0x72 | 0x73 => Self::parse_descriptors(bytes, code == 0x73),
            _ => None,
        }
    }

    fn parse_fixed(bytes: &[u8], deferred: bool) -> Option<Sense> {
        let key = SenseKey(bytes.get(2)? & 0x0F);
        // Old devices send eight bytes: a key and no code.
        let end = 8 + usize::from(*bytes.get(7).unwrap_or(&0));
        let bytes = &bytes[..bytes.len().min(end)];
        let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
        let information = if bytes[0] & 0x80 != 0 { be32(bytes, 3).map(u64::from) } else { None };
        let field = bytes.get(15..18).and_then(FieldPointer::parse);
        Some(Sense { key, asc: at(12), ascq: at(13), deferred, information, field })
    }

    fn parse_descriptors(bytes: &[u8], deferred: bool) -> Option<Sense> {
        let [_, key, asc, ascq, ..] = *bytes else { return None };
        let mut sense = Sense { deferred, ..Sense::new(SenseKey(key & 0x0F), asc, ascq) };
        let end = bytes.len().min(8 + usize::from(*bytes.get(7).unwrap_or(&0)));
        let mut rest = bytes.get(8..end).unwrap_or(&[]);
        while let [kind, len, ..] = *rest {
            let Some(descriptor) = rest.get(..2 + usize::from(len)) else { break };
            match kind {
                0x00 if descriptor.get(2).is_some_and(|b| b & 0x80 != 0) => {
                    sense.information = be64(descriptor, 4)
                }
                0x02 => sense.field = descriptor.get(4..7).and_then(FieldPointer::parse),
                _ => {}
            }
            rest = &rest[descriptor.len()..];
        }
        Some(sense)
    }
}

impl FieldPointer {
    fn encode(self) -> [u8; 3] {
        let [high, low] = self.byte.to_be_bytes();
        [0x80 | if self.in_cdb { 0x40 } else { 0 }, high, low]
    }

    fn parse(bytes: &[u8]) -> Option<FieldPointer> {
        (bytes[0] & 0x80 != 0)
            .then(|| be16(bytes, 1).map(|byte| FieldPointer { in_cdb: bytes[0] & 0x40 != 0, byte }))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fixed_layout() {
        let sense = Sense::invalid_cdb_byte(2).encode(SenseFormat::Fixed);
        let bytes = sense.as_slice();
        assert_eq!(bytes.len(), 18);
        assert_eq!((bytes[0], bytes[2], bytes[7], bytes[12], bytes[13]), (0x70, 5, 10, 0x24, 0));
        assert_eq!(bytes[15..18], [0xC0, 0, 2]);
    }

    #[test]
    fn descriptor_layout() {
        let sense = Sense::MISCOMPARE.with_information(0x1_0000_0005).encode(SenseFormat::Descriptor);
        let bytes = sense.as_slice();
        assert_eq!(bytes[..8], [0x72, 0x0E, 0x1D, 0, 0, 0, 0, 12]);
        assert_eq!(bytes[8..12], [0, 0x0A, 0x80, 0]);
        assert_eq!(bytes[12..20], 0x1_0000_0005u64.to_be_bytes());
    }

    #[test]
    fn information_too_wide_for_fixed_is_left_out() {
        let sense = Sense::MISCOMPARE.with_information(1 << 32).encode(SenseFormat::Fixed);
        assert_eq!(Sense::parse(sense.as_slice()), Some(Sense::MISCOMPARE));
    }

    #[test]
    fn short_sense_keeps_what_arrived() {
        assert_eq!(Sense::parse(&[0x70, 0, 6]).map(|s| s.key), Some(SenseKey::UNIT_ATTENTION));
        assert_eq!(Sense::parse(&[0x72, 6]), None);
        assert_eq!(Sense::parse(&[0x00; 18]), None);
        assert_eq!(Sense::parse(&[]), None);
    }

    proptest! {
        #[test]
        fn both_formats_round_trip(key in 0u8..16, asc: u8, ascq: u8, deferred: bool,
                                   information in proptest::option::of(any::<u32>()),
                                   field in proptest::option::of((any::<bool>(), any::<u16>()))) {
            let sense = Sense {
                key: SenseKey(key), asc, ascq, deferred,
                information: information.map(u64::from),
                field: field.map(|(in_cdb, byte)| FieldPointer { in_cdb, byte }),
            };
            for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
                prop_assert_eq!(Sense::parse(sense.encode(format).as_slice()), Some(sense));
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Sense::parse(&bytes);
        }
    }
}
