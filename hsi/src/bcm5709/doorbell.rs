//! Doorbells: where in BAR0 the mailbox of a connection lies (BNX2I-CNIC 4.5).

use crate::bcm5709::regs::{MQ_CONFIG2_CONT_SZ, MQ_CONFIG2_FIRST_L4L5};
use crate::facts::facts;

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

/// First BAR0 offset behind the plain mailboxes.
const MAILBOX_END: u32 = CTX_OFFSET + MAX_CID_CNT * MB_KERNEL_CTX_SIZE;
/// BAR0 offset of the bin-mode page of the first L4/L5 CID.
const BIN_START: u32 = MAILBOX_END + 256 * BIN_PAGE_SIZE;

/// BAR0 offset of the plain mailbox of a CID: 256 bytes. CIDs wrap at [`MAX_CID_CNT`].
pub const fn mailbox(cid: u32) -> u32 {
    CTX_OFFSET + (cid % MAX_CID_CNT) * MB_KERNEL_CTX_SIZE
}

/// BAR0 offset of the doorbell window of an offloaded connection, by the value of `MQ_CONFIG2`.
///
/// In bin mode (context size field not zero) each connection has a page of its own; otherwise it is the plain
/// mailbox. A CID below the first L4/L5 CID has no bin and keeps the plain mailbox.
pub const fn connection(cid: u32, mq_config2: u32) -> u32 {
    let cid = cid % MAX_CID_CNT;
    let first = mq_config2 & MQ_CONFIG2_FIRST_L4L5;
    let context_size = (mq_config2 & MQ_CONFIG2_CONT_SZ) >> 3;
    if context_size == 0 || cid < first {
        return mailbox(cid);
    }
    BIN_START + BIN_PAGE_SIZE * ((cid - first) / context_size)
}

/// The reverse: CID and offset inside its window, for a BAR0 offset in a mailbox or bin-mode page.
///
/// A bin-mode page names the first CID of its connection. `None` is everything that belongs to no CID.
pub const fn decode(offset: u32, mq_config2: u32) -> Option<(u32, u32)> {
    if offset < CTX_OFFSET {
        return None;
    }
    if offset < MAILBOX_END {
        let mailbox = offset - CTX_OFFSET;
        return Some((mailbox / MB_KERNEL_CTX_SIZE, mailbox % MB_KERNEL_CTX_SIZE));
    }
    if offset < BIN_START || !bin_mode(mq_config2) {
        return None;
    }
    let page = offset - BIN_START;
    let context_size = (mq_config2 & MQ_CONFIG2_CONT_SZ) >> 3;
    let cid = (mq_config2 & MQ_CONFIG2_FIRST_L4L5) + page / BIN_PAGE_SIZE * context_size;
    if cid < MAX_CID_CNT { Some((cid, page % BIN_PAGE_SIZE)) } else { None }
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

    #[test]
    fn decode_is_the_reverse() {
        for (cid, config) in [(24, 0), (0x3fff, 0), (0x20, 0x0120), (0x100, 0x0120), (0x17c, 0x0120)] {
            assert_eq!(
                decode(connection(cid, config) + CNIC_SEND_DOORBELL, config),
                Some((cid, CNIC_SEND_DOORBELL))
            );
        }
        assert_eq!(decode(connection(0x102, 0x0120), 0x0120), Some((0x100, 0)));
        assert_eq!(decode(CTX_OFFSET - 4, 0x0120), None);
        assert_eq!(decode(MAILBOX_END, 0x0120), None);
        assert_eq!(decode(BIN_START, 0), None);
        assert_eq!(decode(u32::MAX, 0x0120), None);
    }
}
