//! What a connection still has to send: one buffer of finished PDUs, digests included. PDUs are appended
//! whole; the transport takes bytes from the front at its own pace.

use crate::digest::{data_digest, header_digest};
use crate::pdu::{Bhs, padding};

/// Below this many consumed bytes the rest is not moved to the front.
const COMPACT_AT: usize = 64 << 10;

/// Output of one connection.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    consumed: usize,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    /// PDUs appended since the connection began.
    pub(super) pdus: u64,
}

impl Output {
    /// Bytes to send.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// Number of bytes to send.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.consumed
    }

    /// The transport took `n` bytes.
    pub(super) fn consume(&mut self, n: usize) {
        self.consumed = (self.consumed + n).min(self.bytes.len());
        if self.consumed == self.bytes.len() {
            self.bytes.clear();
            self.consumed = 0;
        } else if self.consumed >= COMPACT_AT && self.consumed >= self.len() {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
    }

    /// Forgets what was not sent.
    pub(super) fn discard(&mut self) {
        self.bytes.clear();
        self.consumed = 0;
    }

    /// Appends a PDU whose data is at hand.
    pub(super) fn pdu(&mut self, bhs: &mut Bhs, data: &[u8]) {
        let appended = self.pdu_with(bhs, data.len(), |out| {
            out.extend_from_slice(data);
            Ok::<(), std::convert::Infallible>(())
        });
        match appended {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// Appends a PDU whose `len` bytes of data `fill` appends. When `fill` fails nothing is appended.
    pub(super) fn pdu_with<E>(
        &mut self,
        bhs: &mut Bhs,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        // Callers keep to the peer's MaxRecvDataSegmentLength, which has 24 bits.
        bhs.data_segment_length.set(len as u32);
        self.bytes.extend_from_slice(bhs.wire());
        if self.header_digest {
            self.bytes.extend_from_slice(&header_digest(bhs.wire(), &[]));
        }
        let data_at = self.bytes.len();
        if let Err(error) = fill(&mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        debug_assert_eq!(self.bytes.len() - data_at, len);
        if len > 0 {
            let digest = self.data_digest.then(|| data_digest(&self.bytes[data_at..]));
            self.bytes.extend_from_slice(&[0; 3][..padding(len)]);
            if let Some(digest) = digest {
                self.bytes.extend_from_slice(&digest);
            }
        }
        self.pdus += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::{Event, Framer};
    use crate::pdu::{Header, NopIn};

    #[test]
    fn pdus_come_out_framed_and_in_order() {
        let mut output = Output { header_digest: true, data_digest: true, ..Output::default() };
        for len in 0..9usize {
            output.pdu(&mut NopIn::new(), &vec![len as u8; len]);
        }
        assert!(output.pdu_with(&mut NopIn::new(), 4, |_| Err(())).is_err());
        let mut framer = Framer::new(8192);
        framer.configure(true, true, 8192).unwrap();
        let (mut ends, mut bytes) = (0, Vec::new());
        while output.len() > 0 {
            let piece = output.pending()[..output.len().min(7)].to_vec();
            output.consume(piece.len());
            let mut input = &piece[..];
            while let Some(event) = framer.next(&mut input).unwrap() {
                match event {
                    Event::Header => bytes.clear(),
                    Event::Data { bytes: piece, .. } => bytes.extend_from_slice(piece),
                    Event::End { data_digest_ok } => {
                        assert!(data_digest_ok);
                        assert_eq!(bytes, vec![ends as u8; ends]);
                        ends += 1;
                    }
                }
            }
        }
        assert_eq!((ends, output.pdus), (9, 9));
    }

    #[test]
    fn the_front_is_given_back() {
        let mut output = Output::default();
        output.pdu(&mut NopIn::new(), &[1; 100_000]);
        output.consume(COMPACT_AT);
        assert_eq!(output.consumed, 0, "moved to the front");
        assert_eq!(output.len(), 100_048 - COMPACT_AT);
        output.consume(usize::MAX / 2);
        assert_eq!((output.len(), output.bytes.len()), (0, 0));
    }
}
