//! Additional header segments (RFC 7143 11.2.2): the rest of a CDB longer than 16 bytes, and the read length
//! of a bidirectional command. Only SCSI Commands carry them. Both directions work in place: the iterator
//! borrows the received bytes, the builder fills a fixed array.

use super::PduError;

/// Longest list that this implementation sends or accepts, in bytes; TotalAHSLength allows 1020. It holds the
/// longest extended CDB and a bidirectional read length.
pub const MAX_AHS_LEN: usize = 256;
/// Longest CDB of SPC-4 (variable length, 8 + 252 bytes): the builder's and the iterator's limit.
pub const MAX_CDB_LEN: usize = 260;

const TYPE_EXTENDED_CDB: u8 = 1;
const TYPE_BIDI_READ_LENGTH: u8 = 2;
/// Length and type, which AHSLength does not count.
const HEAD_LEN: usize = 3;

/// One additional header segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ahs<'a> {
    /// CDB bytes from 16 on.
    ExtendedCdb(&'a [u8]),
    /// Expected read length of a bidirectional command, in bytes.
    BidiReadLength(u32),
    /// A type that RFC 7143 does not define, with its content.
    Unknown(u8, &'a [u8]),
}

/// Walks the additional header segments of one PDU; stops after the first error.
#[derive(Clone, Debug)]
pub struct AhsIter<'a> {
    rest: &'a [u8],
}

impl<'a> AhsIter<'a> {
    /// The segments in `bytes`, which is the whole list of TotalAHSLength words.
    pub const fn new(bytes: &'a [u8]) -> AhsIter<'a> {
        AhsIter { rest: bytes }
    }

    fn parse(&mut self) -> Result<Ahs<'a>, PduError> {
        let [high, low, kind, ..] = *self.rest else { return Err(PduError::Ahs) };
        let end = HEAD_LEN + usize::from(u16::from_be_bytes([high, low]));
        let content = self.rest.get(HEAD_LEN..end).ok_or(PduError::Ahs)?;
        self.rest = self.rest.get(end.next_multiple_of(4)..).ok_or(PduError::Ahs)?;
        match kind & 0x3f {
            TYPE_EXTENDED_CDB => match content {
                // One reserved byte, then at least one CDB byte.
                [_, cdb @ ..] if !cdb.is_empty() && 16 + cdb.len() <= MAX_CDB_LEN => {
                    Ok(Ahs::ExtendedCdb(cdb))
                }
                _ => Err(PduError::Ahs),
            },
            TYPE_BIDI_READ_LENGTH => match *content {
                [_, a, b, c, d] => Ok(Ahs::BidiReadLength(u32::from_be_bytes([a, b, c, d]))),
                _ => Err(PduError::Ahs),
            },
            other => Ok(Ahs::Unknown(other, content)),
        }
    }
}

impl<'a> Iterator for AhsIter<'a> {
    type Item = Result<Ahs<'a>, PduError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let ahs = self.parse();
        if ahs.is_err() {
            self.rest = &[];
        }
        Some(ahs)
    }
}

/// Builds a list of additional header segments.
#[derive(Clone, Debug)]
pub struct AhsBuilder {
    bytes: [u8; MAX_AHS_LEN],
    len: usize,
}

impl Default for AhsBuilder {
    fn default() -> AhsBuilder {
        AhsBuilder { bytes: [0; MAX_AHS_LEN], len: 0 }
    }
}

impl AhsBuilder {
    /// An empty list.
    pub fn new() -> AhsBuilder {
        AhsBuilder::default()
    }

    /// Adds the part of `cdb` that does not fit in the basic header; a CDB of up to 16 bytes adds nothing.
    ///
    /// # Errors
    /// [`PduError::Ahs`] when the list would exceed [`MAX_AHS_LEN`] or the CDB [`MAX_CDB_LEN`]; nothing is
    /// added then.
    pub fn cdb(&mut self, cdb: &[u8]) -> Result<(), PduError> {
        match cdb.get(16..) {
            None | Some([]) => Ok(()),
            Some(_) if cdb.len() > MAX_CDB_LEN => Err(PduError::Ahs),
            Some(rest) => self.push(TYPE_EXTENDED_CDB, rest),
        }
    }

    /// Adds the read length of a bidirectional command, in bytes.
    ///
    /// # Errors
    /// [`PduError::Ahs`] when the list is full; nothing is added then.
    pub fn bidi_read_length(&mut self, bytes: u32) -> Result<(), PduError> {
        self.push(TYPE_BIDI_READ_LENGTH, &bytes.to_be_bytes())
    }

    /// Both defined types start with a reserved byte, which AHSLength counts.
    fn push(&mut self, kind: u8, content: &[u8]) -> Result<(), PduError> {
        let total = (HEAD_LEN + 1 + content.len()).next_multiple_of(4);
        let slot = self.bytes.get_mut(self.len..self.len + total).ok_or(PduError::Ahs)?;
        slot.fill(0);
        let ahs_length = u16::try_from(content.len() + 1).map_err(|_| PduError::Ahs)?;
        slot[..2].copy_from_slice(&ahs_length.to_be_bytes());
        slot[2] = kind;
        slot[4..4 + content.len()].copy_from_slice(content);
        self.len += total;
        Ok(())
    }

    /// The list as on the wire, padded to four bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// TotalAHSLength of the list, in four-byte words.
    pub const fn words(&self) -> u8 {
        // MAX_AHS_LEN / 4 fits a byte.
        (self.len / 4) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_cdb_and_read_length_round_trip() {
        let cdb: Vec<u8> = (0..32).collect();
        let mut list = AhsBuilder::new();
        list.cdb(&cdb).unwrap();
        list.bidi_read_length(4096).unwrap();
        // AHSLength = CDB length - 15, then the reserved byte and CDB bytes 16 and up.
        assert_eq!(&list.as_bytes()[..5], &[0, 17, 1, 0, 16]);
        assert_eq!(usize::from(list.words()) * 4, list.as_bytes().len());
        let got: Vec<_> = AhsIter::new(list.as_bytes()).collect();
        assert_eq!(got, [Ok(Ahs::ExtendedCdb(&cdb[16..])), Ok(Ahs::BidiReadLength(4096))]);
    }

    #[test]
    fn short_cdb_needs_no_segment() {
        let mut list = AhsBuilder::new();
        list.cdb(&[0; 16]).unwrap();
        list.cdb(&[0; 6]).unwrap();
        assert_eq!(list.words(), 0);
    }

    #[test]
    fn limits_are_reached() {
        let mut list = AhsBuilder::new();
        assert_eq!(list.cdb(&[0; MAX_CDB_LEN + 1]), Err(PduError::Ahs));
        list.cdb(&[1; MAX_CDB_LEN]).unwrap();
        list.bidi_read_length(1).unwrap();
        assert_eq!(list.as_bytes().len(), MAX_AHS_LEN);
        assert_eq!(list.bidi_read_length(1), Err(PduError::Ahs));
        assert_eq!(AhsIter::new(list.as_bytes()).filter(Result::is_ok).count(), 2);
    }

    #[test]
    fn malformed_lists_end_in_an_error() {
        for bytes in [&[0u8, 9, 1, 0][..], &[0, 1, 1, 0], &[0, 4, 2, 0, 0, 0, 0, 0], &[0xff; 4], &[0, 0]] {
            assert_eq!(AhsIter::new(bytes).last(), Some(Err(PduError::Ahs)), "{bytes:?}");
        }
        assert_eq!(AhsIter::new(&[0, 1, 0x3f, 7]).next(), Some(Ok(Ahs::Unknown(0x3f, &[7]))));
    }

    proptest! {
        #[test]
        fn any_list_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(AhsIter::new(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
