//! BD lists and the bookmarks of write data (BNX2I-CNIC 5.3).

use hsi::bcm5709::limits::{BD_SPLIT_SIZE, ISCSI_MAX_BDS_PER_CMD, MAX_BD_LENGTH};
use hsi::iscsi::bd::{ISCSI_BD_FIRST_IN_BD_CHAIN, ISCSI_BD_LAST_IN_BD_CHAIN, IscsiBd};
use thiserror::Error;

/// The data does not fit one command.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BdError {
    /// More than 32 descriptors.
    #[error("data in more than {ISCSI_MAX_BDS_PER_CMD} pieces")]
    TooMany,
}

/// A BD list under construction.
#[derive(Clone, Debug)]
pub(crate) struct BdList {
    bds: [IscsiBd; ISCSI_MAX_BDS_PER_CMD],
    used: usize,
    bytes: u32,
}

impl BdList {
    pub(crate) fn new() -> Self {
        Self { bds: [IscsiBd::default(); ISCSI_MAX_BDS_PER_CMD], used: 0, bytes: 0 }
    }

    /// Appends a contiguous range; what is longer than a BD holds is split at 32 KiB.
    pub(crate) fn push(&mut self, mut addr: u64, mut len: usize) -> Result<(), BdError> {
        while len > 0 {
            let piece = if len > MAX_BD_LENGTH { BD_SPLIT_SIZE } else { len };
            let slot = self.bds.get_mut(self.used).ok_or(BdError::TooMany)?;
            *slot = IscsiBd::new(addr, piece as u16);
            self.used += 1;
            self.bytes += piece as u32;
            addr += piece as u64;
            len -= piece;
        }
        Ok(())
    }

    /// The list with its first and last entry marked.
    pub(crate) fn finish(&mut self) -> &[IscsiBd] {
        if let Some(last) = self.used.checked_sub(1) {
            self.bds[0].flags.set(ISCSI_BD_FIRST_IN_BD_CHAIN);
            let flags = self.bds[last].flags.get() | ISCSI_BD_LAST_IN_BD_CHAIN;
            self.bds[last].flags.set(flags);
        }
        &self.bds[..self.used]
    }

    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// BD index and offset inside it of byte `at`; zero beyond the end.
    fn position(&self, mut at: u32) -> (u8, u16) {
        for (i, bd) in self.bds[..self.used].iter().enumerate() {
            let len = u32::from(bd.buffer_length.get());
            if at < len {
                return (i as u8, at as u16);
            }
            at -= len;
        }
        (0, 0)
    }

    /// Where unsolicited and solicited data start.
    pub(crate) fn bookmarks(&self, rules: WriteRules) -> Bookmarks {
        let total = self.bytes;
        let immediate = if rules.immediate_data {
            total.min(rules.first_burst).min(rules.max_xmit_data_segment)
        } else {
            0
        };
        let unsolicited = if rules.initial_r2t { 0 } else { rules.first_burst.min(total) - immediate };
        let solicited = immediate + unsolicited;
        let ud = if unsolicited > 0 { self.position(immediate) } else { (0, 0) };
        let sd = if solicited < total { self.position(solicited) } else { (0, 0) };
        Bookmarks { ud, sd }
    }
}

/// What decides how write data leaves, as negotiated. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteRules {
    pub(crate) immediate_data: bool,
    pub(crate) initial_r2t: bool,
    pub(crate) first_burst: u32,
    pub(crate) max_xmit_data_segment: u32,
}

/// BD index and offset inside that BD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bookmarks {
    /// First unsolicited byte.
    pub(crate) ud: (u8, u16),
    /// First solicited byte.
    pub(crate) sd: (u8, u16),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pieces: &[usize]) -> BdList {
        let mut l = BdList::new();
        pieces.iter().for_each(|len| l.push(0x1_0000, *len).unwrap());
        l
    }

    const RULES: WriteRules = WriteRules {
        immediate_data: true,
        initial_r2t: false,
        first_burst: 65536,
        max_xmit_data_segment: 8192,
    };

    #[test]
    fn one_bd_is_first_and_last() {
        let mut l = list(&[512]);
        let bds = l.finish();
        assert!(bds.len() == 1 && bds[0].is_first() && bds[0].is_last());
        let mut l = list(&[1, 65_535, 65_536]);
        let bds = l.finish();
        assert_eq!(bds.len(), 4, "65536 bytes need two BDs");
        assert!(bds[0].is_first() && !bds[0].is_last() && bds[3].is_last() && !bds[3].is_first());
    }

    #[test]
    fn the_33rd_piece_is_refused() {
        let mut l = list(&[512; 32]);
        assert_eq!(l.push(0, 1), Err(BdError::TooMany));
        assert_eq!(l.bytes(), 32 * 512);
    }

    #[test]
    fn bookmarks_follow_the_table() {
        let l = list(&[4096, 4096, 4096, 16384]);
        let at = |r| l.bookmarks(r);
        assert_eq!(at(RULES), Bookmarks { ud: (2, 0), sd: (0, 0) }, "8 KiB immediate, the rest unsolicited");
        let r2t = WriteRules { initial_r2t: true, ..RULES };
        assert_eq!(at(r2t), Bookmarks { ud: (0, 0), sd: (2, 0) });
        let short = WriteRules { first_burst: 10_000, ..RULES };
        assert_eq!(at(short), Bookmarks { ud: (2, 0), sd: (2, 10_000 - 8192) });
        let none = WriteRules { immediate_data: false, initial_r2t: true, ..RULES };
        assert_eq!(at(none), Bookmarks::default(), "the first solicited byte is offset 0");
        let all = WriteRules { max_xmit_data_segment: 1 << 20, ..RULES };
        assert_eq!(at(all), Bookmarks::default(), "everything is immediate");
    }
}
