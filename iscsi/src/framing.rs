//! From a TCP byte stream to PDUs (RFC 7143 11.1), for both ends. Only headers are collected here; payload is
//! handed out as slices of the caller's input, with its offset in the data segment, so that the offload
//! engine places it straight into host memory and the target into its LUN buffers.
//!
//! Call [`Framer::next`] until it returns `None`; then feed more bytes. A caller that can receive straight
//! into the final buffer asks [`Framer::data_remaining`], reads that much there, and feeds the framer the
//! same bytes. Length and header digest violations are fatal, because the PDU boundary is lost (RFC 7143
//! 7.8); a data digest error is not, and comes with [`Event::End`]. Markers are not modelled.

use crate::digest::{DIGEST_LEN, Digest, header_digest};
use crate::pdu::{BHS_LEN, Bhs, MAX_AHS_LEN, MAX_DATA_SEGMENT_LEN, padding};

/// Header buffer: basic header, additional headers, digest.
const HEADER_CAPACITY: usize = BHS_LEN + MAX_AHS_LEN + DIGEST_LEN;
/// Padding and data digest.
const TRAILER_CAPACITY: usize = 3 + DIGEST_LEN;

/// What the stream brought next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'i> {
    /// The headers are complete and their digest is right: see [`Framer::bhs`] and [`Framer::ahs`]. What the
    /// header says is not yet judged; that is [`Bhs::pdu`].
    Header,
    /// Bytes of the data segment, in order and never empty.
    Data {
        /// Where in the data segment they belong, in bytes.
        offset: u32,
        /// The bytes, without padding.
        bytes: &'i [u8],
    },
    /// The PDU is complete.
    End {
        /// False when the data digest did not match: what was handed out as data must not be used.
        data_digest_ok: bool,
    },
}

/// Why the stream cannot be followed any further; the connection has to be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FramingError {
    /// Header digest mismatch.
    #[error("header digest error")]
    HeaderDigest,
    /// Additional headers longer than [`MAX_AHS_LEN`]; the number is the length in bytes.
    #[error("additional headers of {0} bytes, at most {MAX_AHS_LEN} are supported")]
    AhsTooLong(usize),
    /// Data segment longer than this end declared as its MaxRecvDataSegmentLength.
    #[error("data segment of {len} bytes, at most {limit} were declared")]
    DataTooLong {
        /// Announced length, in bytes.
        len: u32,
        /// The limit, in bytes.
        limit: u32,
    },
}

/// The settings of a connection may change only between PDUs; this call came in the middle of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("connection settings change only between PDUs")]
pub struct MidPdu;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Header,
    Data,
    Trailer,
    Failed(FramingError),
}

/// Incremental PDU parser of one connection's receive direction.
#[derive(Clone, Debug)]
pub struct Framer {
    header_digest: bool,
    data_digest: bool,
    max_data_len: u32,
    part: Part,
    header: [u8; HEADER_CAPACITY],
    /// Header bytes collected, and needed as far as is known.
    header_len: usize,
    header_need: usize,
    /// Data segment bytes handed out, and announced.
    data_at: u32,
    data_len: u32,
    digest: Digest,
    trailer: [u8; TRAILER_CAPACITY],
    trailer_len: usize,
}

impl Framer {
    /// A parser at the start of a connection: no digests, as login requires. `max_data_len` is the longest
    /// data segment that this end takes, in bytes.
    pub fn new(max_data_len: u32) -> Framer {
        Framer {
            header_digest: false,
            data_digest: false,
            max_data_len: max_data_len.min(MAX_DATA_SEGMENT_LEN),
            part: Part::Header,
            header: [0; HEADER_CAPACITY],
            header_len: 0,
            header_need: BHS_LEN,
            data_at: 0,
            data_len: 0,
            digest: Digest::new(),
            trailer: [0; TRAILER_CAPACITY],
            trailer_len: 0,
        }
    }

    /// Sets digests and the longest data segment, in bytes: after the final Login Response, or when a text
    /// negotiation changed MaxRecvDataSegmentLength.
    ///
    /// # Errors
    /// [`MidPdu`] when part of a PDU has been consumed; nothing changes then.
    pub fn configure(
        &mut self,
        header_digest: bool,
        data_digest: bool,
        max_data_len: u32,
    ) -> Result<(), MidPdu> {
        if !self.is_between_pdus() {
            return Err(MidPdu);
        }
        self.header_digest = header_digest;
        self.data_digest = data_digest;
        self.max_data_len = max_data_len.min(MAX_DATA_SEGMENT_LEN);
        Ok(())
    }

    /// Whether no byte of an unfinished PDU has been consumed.
    pub fn is_between_pdus(&self) -> bool {
        self.part == Part::Header && self.header_len == 0
    }

    /// The basic header of the PDU whose [`Event::Header`] came last; valid until the next PDU's first byte.
    pub fn bhs(&self) -> &Bhs {
        let bytes = self.header.first_chunk().expect("the buffer is longer than a basic header");
        Bhs::from_bytes(bytes)
    }

    /// The additional headers of that PDU.
    pub fn ahs(&self) -> &[u8] {
        let len = self.bhs().ahs_len().min(MAX_AHS_LEN);
        &self.header[BHS_LEN..BHS_LEN + len]
    }

    /// Data segment bytes still to come, after [`Event::Header`].
    pub fn data_remaining(&self) -> u32 {
        if self.part == Part::Data { self.data_len - self.data_at } else { 0 }
    }

    /// Bytes that complete the part being received: header, data or trailer. More than that may be of the
    /// next part.
    pub fn wanted(&self) -> usize {
        match self.part {
            Part::Header => self.header_need - self.header_len,
            Part::Data => (self.data_len - self.data_at) as usize,
            Part::Trailer => self.trailer_need() - self.trailer_len,
            Part::Failed(_) => 0,
        }
    }

    /// Consumes bytes from the front of `input` up to the next event; `None` when `input` is used up.
    ///
    /// # Errors
    /// The stream is lost; every later call returns the same error.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, FramingError> {
        match self.part {
            Part::Header => self.collect_header(input).inspect_err(|&error| self.part = Part::Failed(error)),
            Part::Data => Ok(self.pass_data(input)),
            Part::Trailer => Ok(self.collect_trailer(input)),
            Part::Failed(error) => Err(error),
        }
    }

    fn collect_header<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, FramingError> {
        // Twice at most: the basic header says how much follows it.
        loop {
            let missing = &mut self.header[self.header_len..self.header_need];
            self.header_len += take(input, missing);
            if self.header_len < self.header_need {
                return Ok(None);
            }
            let ahs_len = self.bhs().ahs_len();
            let whole = BHS_LEN + ahs_len + if self.header_digest { DIGEST_LEN } else { 0 };
            if self.header_need == whole {
                break;
            }
            if ahs_len > MAX_AHS_LEN {
                return Err(FramingError::AhsTooLong(ahs_len));
            }
            self.header_need = whole;
        }
        if self.header_digest {
            let covered = self.header_len - DIGEST_LEN;
            let bhs = self.bhs().wire();
            if self.header[covered..self.header_len] != header_digest(bhs, &self.header[BHS_LEN..covered]) {
                return Err(FramingError::HeaderDigest);
            }
        }
        self.data_at = 0;
        self.data_len = self.bhs().data_segment_length.get();
        if self.data_len > self.max_data_len {
            return Err(FramingError::DataTooLong { len: self.data_len, limit: self.max_data_len });
        }
        self.digest = Digest::new();
        self.trailer_len = 0;
        self.part = if self.data_len == 0 { Part::Trailer } else { Part::Data };
        Ok(Some(Event::Header))
    }

    fn pass_data<'i>(&mut self, input: &mut &'i [u8]) -> Option<Event<'i>> {
        let len = self.wanted().min(input.len());
        if len == 0 {
            return None;
        }
        let (bytes, rest) = input.split_at(len);
        *input = rest;
        if self.data_digest {
            self.digest.update(bytes);
        }
        let offset = self.data_at;
        // `len` is at most the 24-bit remainder.
        self.data_at += len as u32;
        if self.data_at == self.data_len {
            self.part = Part::Trailer;
        }
        Some(Event::Data { offset, bytes })
    }

    fn trailer_need(&self) -> usize {
        let digest = if self.data_digest && self.data_len != 0 { DIGEST_LEN } else { 0 };
        padding(self.data_len as usize) + digest
    }

    fn collect_trailer<'i>(&mut self, input: &mut &'i [u8]) -> Option<Event<'i>> {
        let need = self.trailer_need();
        self.trailer_len += take(input, &mut self.trailer[self.trailer_len..need]);
        if self.trailer_len < need {
            return None;
        }
        let (pad, digest) = self.trailer[..need].split_at(padding(self.data_len as usize));
        let data_digest_ok = digest.is_empty() || {
            // The digest covers the padding as it came, whatever it holds.
            self.digest.update(pad);
            digest == self.digest.wire()
        };
        self.part = Part::Header;
        self.header_len = 0;
        self.header_need = BHS_LEN;
        Some(Event::End { data_digest_ok })
    }
}

/// Moves as many bytes as possible from the front of `input` to `to`; returns how many.
fn take(input: &mut &[u8], to: &mut [u8]) -> usize {
    let len = to.len().min(input.len());
    let (front, rest) = input.split_at(len);
    to[..len].copy_from_slice(front);
    *input = rest;
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::data_digest;
    use crate::pdu::{AhsBuilder, Header, NopOut, ScsiCommand, wire_len};
    use proptest::prelude::*;

    /// An event with what it refers to, data pieces joined.
    #[derive(Clone, PartialEq, Debug)]
    enum Seen {
        Header([u8; 48], Vec<u8>),
        Data(Vec<u8>),
        End(bool),
    }

    fn feed(framer: &mut Framer, mut input: &[u8], seen: &mut Vec<Seen>) -> Result<(), FramingError> {
        while let Some(event) = framer.next(&mut input)? {
            match (event, seen.last_mut()) {
                (Event::Header, _) => seen.push(Seen::Header(*framer.bhs().wire(), framer.ahs().to_vec())),
                (Event::Data { offset, bytes }, Some(Seen::Data(data))) => {
                    assert_eq!(offset as usize, data.len());
                    data.extend_from_slice(bytes);
                }
                (Event::Data { offset, bytes }, _) => {
                    assert_eq!(offset, 0);
                    seen.push(Seen::Data(bytes.to_vec()));
                }
                (Event::End { data_digest_ok }, _) => seen.push(Seen::End(data_digest_ok)),
            }
        }
        assert!(input.is_empty());
        Ok(())
    }

    fn pdu(cdb_len: usize, data: &[u8], header: bool, body: bool) -> Vec<u8> {
        let mut ahs = AhsBuilder::new();
        ahs.cdb(&vec![7; cdb_len]).unwrap();
        let mut bhs = ScsiCommand::new();
        bhs.total_ahs_length = ahs.words();
        bhs.data_segment_length.set(data.len() as u32);
        let mut bytes = bhs.wire().to_vec();
        bytes.extend_from_slice(ahs.as_bytes());
        if header {
            bytes.extend_from_slice(&header_digest(bhs.wire(), ahs.as_bytes()));
        }
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        if body && !data.is_empty() {
            bytes.extend_from_slice(&data_digest(data));
        }
        assert_eq!(bytes.len(), wire_len(ahs.as_bytes().len(), data.len(), header, body));
        bytes
    }

    #[test]
    fn payload_is_handed_out_from_the_input() {
        let stream = pdu(16, &[1, 2, 3, 4, 5], false, false);
        let mut framer = Framer::new(8192);
        let mut input = &stream[..];
        assert_eq!(framer.next(&mut input), Ok(Some(Event::Header)));
        assert_eq!(framer.data_remaining(), 5);
        let Ok(Some(Event::Data { offset: 0, bytes })) = framer.next(&mut input) else {
            panic!("data expected")
        };
        assert!(core::ptr::eq(bytes, &stream[48..53]));
        assert_eq!(framer.next(&mut input), Ok(Some(Event::End { data_digest_ok: true })));
        assert_eq!(framer.next(&mut input), Ok(None));
    }

    #[test]
    fn corrupted_data_is_reported_and_the_stream_goes_on() {
        let mut stream = pdu(16, &[9; 10], true, true);
        let len = stream.len();
        stream[60] ^= 1;
        stream.extend(pdu(16, &[], true, true));
        let mut framer = Framer::new(8192);
        framer.configure(true, true, 8192).unwrap();
        let mut seen = Vec::new();
        feed(&mut framer, &stream, &mut seen).unwrap();
        assert!(seen.contains(&Seen::End(false)) && seen.last() == Some(&Seen::End(true)));
        assert_eq!(len, 48 + 4 + 12 + 4);
    }

    #[test]
    fn corrupted_header_loses_the_stream() {
        for at in [0, 30, 47, 48, 51] {
            let mut stream = pdu(16, &[], true, false);
            stream[at] ^= 0x10;
            let mut framer = Framer::new(8192);
            framer.configure(true, false, 8192).unwrap();
            let mut input = &stream[..];
            assert_eq!(framer.next(&mut input), Err(FramingError::HeaderDigest), "byte {at}");
            assert_eq!(framer.next(&mut &stream[..]), Err(FramingError::HeaderDigest), "it stays lost");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let mut framer = Framer::new(512);
        assert!(feed(&mut framer, &pdu(16, &[0; 512], false, false), &mut Vec::new()).is_ok());
        let too_long = feed(&mut framer, &pdu(16, &[0; 513], false, false), &mut Vec::new());
        assert_eq!(too_long, Err(FramingError::DataTooLong { len: 513, limit: 512 }));
        let mut bhs = ScsiCommand::new();
        bhs.total_ahs_length = (MAX_AHS_LEN / 4 + 1) as u8;
        let too_long = Framer::new(512).next(&mut &bhs.wire()[..]);
        assert_eq!(too_long, Err(FramingError::AhsTooLong(MAX_AHS_LEN + 4)));
    }

    #[test]
    fn settings_change_only_between_pdus() {
        let stream = pdu(16, &[1], false, false);
        let mut framer = Framer::new(512);
        for &byte in &stream {
            assert_eq!(framer.configure(true, true, 512).is_ok(), framer.is_between_pdus());
            framer.configure(false, false, 512).ok();
            feed(&mut framer, &[byte], &mut Vec::new()).unwrap();
        }
        assert!(framer.is_between_pdus());
        assert_eq!(framer.clone().next(&mut &NopOut::new().wire()[..1]), Ok(None));
        feed(&mut framer, &stream[..1], &mut Vec::new()).unwrap();
        assert_eq!(framer.configure(false, false, 512), Err(MidPdu));
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            pdus in proptest::collection::vec((16usize..260, proptest::collection::vec(any::<u8>(), 0..70)), 1..5),
            digests: (bool, bool),
            pieces in proptest::collection::vec(1usize..90, 1..40),
        ) {
            let stream: Vec<u8> = pdus.iter().flat_map(|(cdb, data)| pdu(*cdb, data, digests.0, digests.1)).collect();
            let framer = || {
                let mut framer = Framer::new(8192);
                framer.configure(digests.0, digests.1, 8192).unwrap();
                framer
            };
            let mut whole = Vec::new();
            feed(&mut framer(), &stream, &mut whole).unwrap();
            prop_assert_eq!(whole.iter().filter(|seen| **seen == Seen::End(true)).count(), pdus.len());
            let (mut split, mut rest, mut framer) = (Vec::new(), &stream[..], framer());
            for &piece in pieces.iter().cycle() {
                let (front, back) = rest.split_at(piece.min(rest.len()));
                feed(&mut framer, front, &mut split).unwrap();
                rest = back;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(whole, split);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            digests: (bool, bool),
            small: bool,
        ) {
            let mut framer = Framer::new(if small { 100 } else { MAX_DATA_SEGMENT_LEN });
            framer.configure(digests.0, digests.1, MAX_DATA_SEGMENT_LEN).unwrap();
            let mut input = &bytes[..];
            let mut events = 0;
            while let Ok(Some(_)) = framer.next(&mut input) { events += 1 }
            prop_assert!(events <= bytes.len() / 16);
        }
    }
}
