//! Buffer descriptors of iSCSI data lists (BNX2I-CNIC 5.3, A.3). The host owns the list until the task
//! completes.

use crate::facts::{addr64, facts, wire};
use crate::{U16, U32};

wire! {
    /// One piece of a data buffer; addresses need no alignment.
    pub struct IscsiBd = "iscsi_bd" [16] {
        /// Buffer, high address word.
        pub buffer_addr_hi: U32,
        /// Buffer, low address word.
        pub buffer_addr_lo: U32,
        /// Bytes, 1 to 65535.
        pub buffer_length: U16,
        reserved0: U16,
        /// Flags.
        pub flags: U16,
        reserved3: U16,
    }
}

facts! {
    prefix "";
    Bits("iscsi_bd", "flags"): u16 {
        ISCSI_BD_RESERVED1 = 0x3f,
        ISCSI_BD_LAST_IN_BD_CHAIN = 0x40,
        ISCSI_BD_FIRST_IN_BD_CHAIN = 0x80,
        ISCSI_BD_RESERVED2 = 0xff00,
    }
}

addr64! {
    IscsiBd { buffer_addr / set_buffer_addr = buffer_addr_hi, buffer_addr_lo; }
}

impl IscsiBd {
    /// A descriptor of `length` bytes at `addr`, neither first nor last.
    pub fn new(addr: u64, length: u16) -> Self {
        let mut bd = Self { buffer_length: U16::new(length), ..Self::default() };
        bd.set_buffer_addr(addr);
        bd
    }

    /// First of its list.
    pub const fn is_first(&self) -> bool {
        self.flags.get() & ISCSI_BD_FIRST_IN_BD_CHAIN != 0
    }

    /// Last of its list.
    pub const fn is_last(&self) -> bool {
        self.flags.get() & ISCSI_BD_LAST_IN_BD_CHAIN != 0
    }
}
