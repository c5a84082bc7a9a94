//! Doorbells: where in BAR0 the mailbox of a connection lies (BNX2I-CNIC 4.5).

use crate::facts::facts;
use crate::regs::{MQ_CONFIG2_CONT_SZ, MQ_CONFIG2_FIRST_L4L5};

facts! {
    prefix "";
    Constant(): u32 {
        CTX_OFFSET = 0x10000,
        MB_KERNEL_CTX_SHIFT = 0x8,
        MB_KERNEL_CTX_SIZE = 0x100,
        MAX_CID_CNT = 0x4000,
        CNIC_SEND_DOORBELL = 0x4,
        CNIC_RECV_DOORBELL = 0x8,
    }
}

/// Bytes of one bin-mode doorbell page.
pub const BIN_PAGE_SIZE: u32 = 4096;

/// BAR0 offset of the plain mailbox of a CID: 256 bytes, shared page.
pub const fn mailbox(cid: u32) -> u32 {
    CTX_OFFSET + (cid % MAX_CID_CNT) * MB_KERNEL_CTX_SIZE
}

/// BAR0 offset of the doorbell window of an offloaded connection, by the value of `MQ_CONFIG2`.
///
/// In bin mode (context size field not zero) each connection has a page of its own; otherwise it is the plain mailbox.
/// A CID below the first L4/L5 CID has no bin and keeps the plain mailbox.
pub const fn connection(cid: u32, mq_config2: u32) -> u32 {
    let cid = cid % MAX_CID_CNT;
    let first = mq_config2 & MQ_CONFIG2_FIRST_L4L5;
    let context_size = (mq_config2 & MQ_CONFIG2_CONT_SZ) >> 3;
    if context_size == 0 || cid < first {
        return mailbox(cid);
    }
    CTX_OFFSET + MAX_CID_CNT * MB_KERNEL_CTX_SIZE + BIN_PAGE_SIZE * ((cid - first) / context_size + 256)
}

/// Whether `MQ_CONFIG2` selects bin mode.
pub const fn bin_mode(mq_config2: u32) -> bool {
    mq_config2 & MQ_CONFIG2_CONT_SZ != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_mailboxes() {
        assert_eq!(mailbox(24), 0x11800);
        assert_eq!(connection(0x101, 0), 0x10000 + 0x10100);
    }

    /// First CID 0x100, context size code 0x20 >> 3 = 4 CIDs per connection.
    #[test]
    fn bin_pages() {
        let config = 0x0120;
        assert!(bin_mode(config) && !bin_mode(0x0100));
        assert_eq!(connection(0x100, config), 0x10000 + 0x4000 * 256 + 4096 * 256);
        assert_eq!(connection(0x104, config), 0x10000 + 0x4000 * 256 + 4096 * 257);
        assert_eq!(connection(0x20, config), mailbox(0x20));
    }
}
