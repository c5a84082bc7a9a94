//! Logical unit numbers: the eight bytes of SAM-5 4.7 and the REPORT LUNS list.

use super::be32;

/// The eight-byte LUN field of a PDU or of a REPORT LUNS entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(pub [u8; 8]);

impl Lun {
    /// The REPORT LUNS well-known logical unit.
    pub const REPORT_LUNS: Lun = Lun([0xC1, 0x01, 0, 0, 0, 0, 0, 0]);
    /// One more than the highest number that the flat form can carry.
    pub const LIMIT: u16 = 0x4000;

    /// Encodes a number: peripheral form up to 255, flat form up to 16383. `None` above.
    pub const fn from_number(number: u16) -> Option<Lun> {
        let [high, low] = number.to_be_bytes();
        match number {
            0..=0xFF => Some(Lun([0, low, 0, 0, 0, 0, 0, 0])),
            0x100..Self::LIMIT => Some(Lun([0x40 | high, low, 0, 0, 0, 0, 0, 0])),
            _ => None,
        }
    }

    /// The number, when this is a single-level LUN in peripheral form (bus 0) or flat form.
    pub fn number(self) -> Option<u16> {
        let [a, b, rest @ ..] = self.0;
        if rest != [0; 6] {
            return None;
        }
        match a >> 6 {
            0 if a == 0 => Some(u16::from(b)),
            1 => Some(u16::from_be_bytes([a & 0x3F, b])),
            _ => None,
        }
    }
}

/// Appends REPORT LUNS data (SPC-4 6.33): list length, four reserved bytes, eight bytes per LUN.
pub fn report_luns(luns: impl Iterator<Item = Lun>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    for lun in luns {
        out.extend_from_slice(&lun.0);
    }
    let list = (out.len() - start - 8) as u32;
    out[start..start + 4].copy_from_slice(&list.to_be_bytes());
}

/// A parsed REPORT LUNS reply, possibly cut off by the allocation length.
#[derive(Clone, Copy, Debug)]
pub struct ReportLuns<'a> {
    list_len: u32,
    entries: &'a [u8],
}

impl<'a> ReportLuns<'a> {
    /// Reads the header; `None` when fewer than eight bytes arrived.
    pub fn parse(data: &'a [u8]) -> Option<ReportLuns<'a>> {
        let list_len = be32(data, 0)?;
        let rest = data.get(8..)?;
        let entries = &rest[..rest.len().min(list_len as usize) / 8 * 8];
        Some(ReportLuns { list_len, entries })
    }

    /// The buffer that the whole list needs, in bytes, with its header. Ask again with this when it is more
    /// than was given.
    pub fn needed(&self) -> u64 {
        u64::from(self.list_len) + 8
    }

    /// The LUNs that arrived.
    pub fn iter(&self) -> impl Iterator<Item = Lun> + 'a {
        self.entries.chunks_exact(8).map(|entry| {
            let mut lun = Lun::default();
            lun.0.copy_from_slice(entry);
            lun
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_of_sam5() {
        assert_eq!(Lun::from_number(5).unwrap().0, [0, 5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_number(0x1234).unwrap().0, [0x52, 0x34, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_number(Lun::LIMIT), None);
        for number in [0, 1, 255, 256, 0x3FFF] {
            assert_eq!(Lun::from_number(number).unwrap().number(), Some(number));
        }
        assert_eq!(Lun([0x40, 7, 0, 0, 0, 0, 0, 0]).number(), Some(7), "flat form of a small number");
        assert_eq!(Lun::REPORT_LUNS.number(), None);
        assert_eq!(Lun([0, 1, 0, 1, 0, 0, 0, 0]).number(), None, "second level");
        assert_eq!(Lun([1, 1, 0, 0, 0, 0, 0, 0]).number(), None, "bus 1");
    }

    #[test]
    fn list_round_trip_and_truncation() {
        let luns: Vec<Lun> = [0, 1, 300].into_iter().filter_map(Lun::from_number).collect();
        let mut data = Vec::new();
        report_luns(luns.iter().copied(), &mut data);
        let list = ReportLuns::parse(&data).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), luns);
        assert_eq!(list.needed(), 32);
        let cut = ReportLuns::parse(&data[..20]).unwrap();
        assert_eq!((cut.iter().count(), cut.needed()), (1, 32));
        assert!(ReportLuns::parse(&data[..7]).is_none());
    }
}
