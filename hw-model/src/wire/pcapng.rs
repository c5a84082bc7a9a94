//! A tee on a wire: every frame that passes goes into a pcapng file, with nanoseconds and direction.
//!
//! The file has one section, one Ethernet interface and one enhanced packet block per frame (draft-ietf-opsawg-pcapng 4),
//! little-endian. The card's view decides the direction: what it sends is outbound. A writer that fails ends the
//! recording and never the wire.

use std::io::{self, Write};

use bus::Instant;
use bus::pci::DevCx;

use super::Wire;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINK_ETHERNET: u16 = 1;
const OPTION_END: u32 = 0;
const OPTION_IF_TSRESOL: u16 = 9;
const OPTION_EPB_FLAGS: u16 = 2;
const NANOSECONDS: u32 = 9;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A wire whose frames are recorded.
pub struct Tee<W, O> {
    wire: W,
    out: O,
    /// Unix time of the world's time zero, in nanoseconds.
    origin_ns: u64,
    block: Vec<u8>,
    frames: u64,
    failure: Option<io::Error>,
}

impl<W: Wire, O: Write> Tee<W, O> {
    /// Records what passes `wire` into `out`. `origin_ns`: Unix time of [`Instant::ZERO`], in nanoseconds.
    ///
    /// # Errors
    /// Of writing the header.
    pub fn new(wire: W, mut out: O, origin_ns: u64) -> io::Result<Self> {
        let mut block = Vec::with_capacity(2048);
        enclose(&mut block, SECTION_HEADER, |b| {
            b.extend(BYTE_ORDER.to_le_bytes());
            b.extend([1, 0, 0, 0]);
            b.extend(u64::MAX.to_le_bytes());
        });
        out.write_all(&block)?;
        enclose(&mut block, INTERFACE_DESCRIPTION, |b| {
            b.extend(LINK_ETHERNET.to_le_bytes());
            b.extend([0; 2]);
            b.extend(0_u32.to_le_bytes());
            b.extend(OPTION_IF_TSRESOL.to_le_bytes());
            b.extend(1_u16.to_le_bytes());
            b.extend(NANOSECONDS.to_le_bytes());
            b.extend(OPTION_END.to_le_bytes());
        });
        out.write_all(&block)?;
        Ok(Self { wire, out, origin_ns, block, frames: 0, failure: None })
    }

    /// Frames recorded.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Why the recording ended, if it did.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    fn record(&mut self, now: Instant, frame: &[u8], direction: u32) {
        if self.failure.is_some() {
            return;
        }
        let time = self.origin_ns.wrapping_add(now.as_nanos());
        enclose(&mut self.block, ENHANCED_PACKET, |b| {
            b.extend(0_u32.to_le_bytes());
            b.extend(((time >> 32) as u32).to_le_bytes());
            b.extend((time as u32).to_le_bytes());
            b.extend((frame.len() as u32).to_le_bytes());
            b.extend((frame.len() as u32).to_le_bytes());
            b.extend_from_slice(frame);
            b.resize(b.len().next_multiple_of(4), 0);
            b.extend(OPTION_EPB_FLAGS.to_le_bytes());
            b.extend(4_u16.to_le_bytes());
            b.extend(direction.to_le_bytes());
            b.extend(OPTION_END.to_le_bytes());
        });
        match self.out.write_all(&self.block) {
            Ok(()) => self.frames += 1,
            Err(e) => self.failure = Some(e),
        }
    }
}

/// A block: type, length, body, length.
fn enclose(block: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    block.clear();
    block.extend(kind.to_le_bytes());
    block.extend([0; 4]);
    body(block);
    let length = (block.len() as u32 + 4).to_le_bytes();
    block[4..8].copy_from_slice(&length);
    block.extend(length);
}

impl<W: Wire, O: Write> Wire for Tee<W, O> {
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        self.record(cx.now, frame, OUTBOUND);
        self.wire.send(cx, frame);
    }

    fn recv(&mut self, cx: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        let arrived = self.wire.recv(cx, frame);
        if arrived {
            self.record(cx.now, frame, INBOUND);
        }
        arrived
    }

    fn link(&self) -> bool {
        self.wire.link()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.wire.next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::responder::tests::arp_request;
    use super::*;
    use crate::testing::Bench;
    use crate::wire::Responder;

    fn u32_at(b: &[u8], at: usize) -> u32 {
        u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }

    /// Type and body of every block; both lengths must agree.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut out = Vec::new();
        while !file.is_empty() {
            let n = u32_at(file, 4) as usize;
            assert_eq!((n % 4, u32_at(file, n - 4)), (0, n as u32));
            out.push((u32_at(file, 0), file[8..n - 4].to_vec()));
            file = &file[n..];
        }
        out
    }

    #[test]
    fn both_directions_are_recorded_with_nanoseconds() {
        let mut file = Vec::new();
        let question = arp_request([2; 6], 1, 2);
        let origin = 1_700_000_000_000_000_000;
        let mut t = Tee::new(Responder::default(), &mut file, origin).expect("a header");
        let mut bench = Bench::new();
        bench.now = Instant::ZERO + Duration::from_nanos(1_234_567_891);
        let mut answer = Vec::new();
        bench.with(|cx| {
            t.send(cx, &question);
            assert!(t.recv(cx, &mut answer) && !t.recv(cx, &mut Vec::new()));
        });
        assert_eq!(t.frames(), 2);
        let blocks = blocks(&file);
        assert_eq!(
            blocks.iter().map(|b| b.0).collect::<Vec<_>>(),
            [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET, ENHANCED_PACKET]
        );
        assert_eq!(blocks[1].1[8..16], [9, 0, 1, 0, 9, 0, 0, 0], "nanoseconds");
        for ((_, b), frame, direction) in [(&blocks[2], &question, OUTBOUND), (&blocks[3], &answer, INBOUND)]
        {
            let time = u64::from(u32_at(b, 4)) << 32 | u64::from(u32_at(b, 8));
            assert_eq!(time, origin + 1_234_567_891);
            assert_eq!((u32_at(b, 12), u32_at(b, 16)), (42, 42));
            assert_eq!(b[20..62], frame[..]);
            assert_eq!((u32_at(b, 64), u32_at(b, 68)), (4 << 16 | 2, direction));
        }
    }

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_not_the_wire() {
        assert!(Tee::new(Responder::default(), Full(10), 0).is_err());
        let mut t = Tee::new(Responder::default(), Full(100), 0).expect("a header");
        let mut answer = Vec::new();
        Bench::new().with(|cx| {
            t.send(cx, &arp_request([2; 6], 1, 2));
            assert!(t.recv(cx, &mut answer));
        });
        assert_eq!((answer.len(), t.frames()), (42, 0));
        assert_eq!(t.failure().map(io::Error::kind), Some(io::ErrorKind::StorageFull));
    }
}
