//! Small encodings that several structures share: ITT, LUN and CDB as the 5709 class keeps them in words.

use crate::facts::{Shape, Wire, facts, open_enum};
use crate::{U16, U32};

facts! {
    prefix "";
    Constant(): u16 {
        ITT_INVALID_SIGNATURE = 0xffff,
    }
}

open_enum! {
    /// Type of a task: bits 15..14 of the ITT (BNX2I-CNIC 5.1).
    pub struct TaskType(u16), prefix "ISCSI_TASK_TYPE_" {
        /// Read, or a command without data.
        READ = 0,
        /// Write.
        WRITE = 1,
        /// "Middle path": every request that is not a SCSI command.
        MPATH = 2,
    }
}

/// Initiator task tag of WQEs and CQEs: index (13..0) and type (15..14), BNX2I-CNIC 5.1.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
    zerocopy::Unaligned,
)]
#[repr(transparent)]
pub struct Itt(U16);

impl Itt {
    /// Largest index.
    pub const MAX_INDEX: u16 = 0x3fff;
    /// The reserved tag of an unsolicited PDU.
    pub const RESERVED: Self = Self::from_raw(ITT_INVALID_SIGNATURE);

    /// From index and type; bits of the index above 13 are dropped.
    pub const fn new(index: u16, task_type: TaskType) -> Self {
        Self::from_raw(task_type.0 << 14 | index & Self::MAX_INDEX)
    }

    /// From the 16 bits.
    pub const fn from_raw(raw: u16) -> Self {
        Self(U16::new(raw))
    }

    /// The 16 bits.
    pub const fn raw(self) -> u16 {
        self.0.get()
    }

    /// Task index. Judge [`Itt::is_reserved`] first.
    pub const fn index(self) -> u16 {
        self.raw() & Self::MAX_INDEX
    }

    /// Task type.
    pub const fn task_type(self) -> TaskType {
        TaskType(self.raw() >> 14)
    }

    /// The tag of an unsolicited PDU.
    pub const fn is_reserved(self) -> bool {
        self.raw() == ITT_INVALID_SIGNATURE
    }
}

impl core::fmt::Debug for Itt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#06x}", self.raw())
    }
}

impl Wire for Itt {
    const SHAPE: Shape = U16::SHAPE;
}

/// Bytes in wire order kept as words: each group of four is one word, converted from big-endian.
macro_rules! wire_words {
    ($($(#[$meta:meta])* $name:ident = $words:literal words, $bytes:literal bytes;)+) => {$(
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout,
            zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(transparent)]
        pub struct $name([U32; $words]);

        impl $name {
            /// From the bytes as they stand in the PDU header.
            pub fn from_wire(bytes: [u8; $bytes]) -> Self {
                let mut raw = bytes;
                raw.chunks_exact_mut(4).for_each(<[u8]>::reverse);
                Self::from_raw(raw)
            }

            /// To the bytes as they stand in the PDU header.
            pub fn to_wire(self) -> [u8; $bytes] {
                let mut wire = self.raw();
                wire.chunks_exact_mut(4).for_each(<[u8]>::reverse);
                wire
            }

            /// From the bytes as they stand in host memory.
            pub const fn from_raw(bytes: [u8; $bytes]) -> Self {
                zerocopy::transmute!(bytes)
            }

            /// The bytes as they stand in host memory.
            pub const fn raw(self) -> [u8; $bytes] {
                zerocopy::transmute!(self)
            }
        }

        impl Wire for $name {
            const SHAPE: Shape = <[U32; $words]>::SHAPE;
        }
    )+};
}

wire_words! {
    /// LUN: its eight wire bytes as two words (BNX2I-CNIC 5.2.1).
    Lun = 2 words, 8 bytes;
    /// CDB: sixteen wire bytes as four words; shorter CDBs are padded with zeros (BNX2I-CNIC 5.2.1).
    Cdb = 4 words, 16 bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn itt_packs_index_and_type() {
        let itt = Itt::new(5, TaskType::MPATH);
        assert_eq!((itt.raw(), itt.index(), itt.task_type()), (0x8005, 5, TaskType::MPATH));
        assert_eq!(Itt::new(0x4001, TaskType::WRITE).raw(), 0x4001);
        assert!(Itt::RESERVED.is_reserved() && !itt.is_reserved());
    }

    #[test]
    fn lun_and_cdb_are_words_from_big_endian() {
        let lun = Lun::from_wire([0, 1, 0, 0, 0, 0, 0, 2]);
        assert_eq!(lun.raw(), [0, 0, 1, 0, 2, 0, 0, 0]);
        assert_eq!(lun.to_wire(), [0, 1, 0, 0, 0, 0, 0, 2]);
        let cdb = core::array::from_fn(|i| i as u8);
        assert_eq!(Cdb::from_wire(cdb).raw()[..8], [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(Cdb::from_wire(cdb).to_wire(), cdb);
    }
}
