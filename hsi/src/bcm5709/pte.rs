//! Page-table entries of SQ, RQ, CQ, KWQ and KCQ (BNX2I-CNIC 4.3). On the 5709 class the high word comes
//! first.

use crate::U32;
use crate::facts::{addr64, wire};

wire! {
    /// Address of one page of a ring, as the 5709 class lays it out.
    pub struct IscsiPte = "iscsi_pte" [8] {
        /// High address word.
        pub hi: U32,
        /// Low address word.
        pub lo: U32,
    }
}

addr64! {
    IscsiPte { addr / set_addr = hi, lo; }
}

impl IscsiPte {
    /// Entry for the page at `addr`.
    pub fn new(addr: u64) -> Self {
        let mut pte = Self::default();
        pte.set_addr(addr);
        pte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_word_first() {
        let pte = IscsiPte::new(0x0102_0304_0506_0708);
        assert_eq!(pte.bytes(), &[4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(pte.addr(), 0x0102_0304_0506_0708);
    }
}
