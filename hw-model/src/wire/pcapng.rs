//! A recording: a pcapng file of everything that crosses the wire, in the order of time, with nanoseconds and
//! direction.
//!
//! One recording is shared by all who see traffic: the [`Tee`](super::Tee) on the wire of the Ethernet rings,
//! and [`Captured`](crate::tcp::captured::Captured) for connections that the card does not carry as frames.
//! Each has an interface of its own in the file, so a viewer can tell what was on a wire from what was
//! reconstructed.
//!
//! The file has one section, two Ethernet interfaces and one enhanced packet block per frame
//! (draft-ietf-opsawg-pcapng 4), little-endian. The card's view decides the direction: what it sends is
//! outbound. Blocks are handed to the writer whole and in batches, at the latest [`FLUSH_AFTER`] after the
//! first of a batch when somebody calls [`Recording::turn`]. A writer that fails ends the recording and
//! nothing else, and so does its limit: the file ends with a whole block.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use bus::Instant;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINK_ETHERNET: u16 = 1;
const OPTION_END: u32 = 0;
const OPTION_COMMENT: u16 = 1;
const OPTION_IF_NAME: u16 = 2;
const OPTION_IF_TSRESOL: u16 = 9;
const OPTION_EPB_FLAGS: u16 = 2;
const NANOSECONDS: u8 = 9;

/// Ports remembered.
const PORTS: usize = 16;
/// Bytes of a batch.
const BATCH: usize = 64 * 1024;
/// How old a batch gets before it is handed to the writer, whatever its size: somebody may be watching the
/// file.
pub const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// Which way a frame went, seen from the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The card received it.
    In = 1,
    /// The card sent it.
    Out = 2,
}

/// What a frame was seen on: the interfaces of the file, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The wire: the frame is as it was there.
    Ethernet = 0,
    /// An offloaded connection that a socket carries: the frame says what TCP segments would have said.
    Offload = 1,
}

const INTERFACES: [(&str, &str); 2] = [
    ("ethernet", "frames of the card's Ethernet rings, as they were on the wire"),
    (
        "offload",
        "offloaded connections, carried by host sockets: segments are reconstructed from the byte stream",
    ),
];

struct Pcapng {
    out: Box<dyn Write>,
    /// Unix time of the world's time zero, in nanoseconds.
    origin_ns: u64,
    batch: Vec<u8>,
    batched: u64,
    /// When the batch is due.
    due: Option<Instant>,
    frames: u64,
    /// Bytes that the writer may still get.
    room: u64,
    ports: BTreeSet<u16>,
    failure: Option<io::Error>,
}

/// A handle on a recording. See the module.
#[derive(Clone)]
pub struct Recording(Rc<RefCell<Pcapng>>);

impl Recording {
    /// Records into `out`. `origin_ns`: Unix time of [`Instant::ZERO`], in nanoseconds.
    ///
    /// # Errors
    /// Of writing the header.
    pub fn new(mut out: impl Write + 'static, origin_ns: u64) -> io::Result<Self> {
        let mut batch = Vec::with_capacity(BATCH);
        enclose(&mut batch, SECTION_HEADER, |b| {
            b.extend(BYTE_ORDER.to_le_bytes());
            b.extend([1, 0, 0, 0]);
            b.extend(u64::MAX.to_le_bytes());
        });
        for (name, comment) in INTERFACES {
            enclose(&mut batch, INTERFACE_DESCRIPTION, |b| {
                b.extend(LINK_ETHERNET.to_le_bytes());
                b.extend([0; 2]);
                b.extend(0_u32.to_le_bytes());
                option(b, OPTION_COMMENT, comment.as_bytes());
                option(b, OPTION_IF_NAME, name.as_bytes());
                option(b, OPTION_IF_TSRESOL, &[NANOSECONDS]);
                b.extend(OPTION_END.to_le_bytes());
            });
        }
        out.write_all(&batch)?;
        batch.clear();
        let out = Box::new(out);
        let inner = Pcapng {
            out,
            origin_ns,
            batch,
            batched: 0,
            due: None,
            frames: 0,
            room: u64::MAX,
            ports: BTreeSet::new(),
            failure: None,
        };
        Ok(Self(Rc::new(RefCell::new(inner))))
    }

    /// Ends the recording before the file has more than `bytes`, its header not counted.
    #[must_use]
    pub fn limit(self, bytes: u64) -> Self {
        self.0.borrow_mut().room = bytes;
        self
    }

    /// Records a frame.
    pub fn record(&self, now: Instant, interface: Interface, direction: Direction, frame: &[u8]) {
        self.0.borrow_mut().record(now, interface, direction, frame);
    }

    /// Hands over a batch that is due.
    pub fn turn(&self, now: Instant) {
        let mut inner = self.0.borrow_mut();
        if inner.due.is_some_and(|at| at <= now) {
            inner.flush();
        }
    }

    /// When [`Recording::turn`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.borrow().due
    }

    /// Hands everything to the writer; the end of the recording, if nothing follows.
    pub fn flush(&self) {
        self.0.borrow_mut().flush();
    }

    /// Frames that the writer has taken.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.0.borrow().frames
    }

    /// A connection goes to `port`. What is not remembered after [`PORTS`] of them has to be found in the
    /// file.
    pub(crate) fn note_port(&self, port: u16) {
        let ports = &mut self.0.borrow_mut().ports;
        if ports.len() < PORTS {
            ports.insert(port);
        }
    }

    /// Ports that offloaded connections went to. A viewer takes none but 3260 for iSCSI by itself.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.0.borrow().ports.iter().copied().collect()
    }

    /// Why the recording ended, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.0.borrow().failure.as_ref().map(ToString::to_string)
    }
}

impl Pcapng {
    fn record(&mut self, now: Instant, interface: Interface, direction: Direction, frame: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        let time = self.origin_ns.wrapping_add(now.as_nanos());
        enclose(&mut self.batch, ENHANCED_PACKET, |b| {
            b.extend((interface as u32).to_le_bytes());
            b.extend(((time >> 32) as u32).to_le_bytes());
            b.extend((time as u32).to_le_bytes());
            b.extend((frame.len() as u32).to_le_bytes());
            b.extend((frame.len() as u32).to_le_bytes());
            padded(b, frame);
            option(b, OPTION_EPB_FLAGS, &(direction as u32).to_le_bytes());
            b.extend(OPTION_END.to_le_bytes());
        });
        self.batched += 1;
        self.due.get_or_insert(now + FLUSH_AFTER);
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let bytes = self.batch.len() as u64;
        let written = if bytes > self.room {
            Err(io::Error::other("it has reached its limit"))
        } else {
            self.out.write_all(&self.batch).and_then(|()| self.out.flush())
        };
        match written {
            Ok(()) => {
                self.frames += self.batched;
                self.room -= bytes;
            }
            Err(e) => self.failure = Some(e),
        }
        self.batch.clear();
        (self.batched, self.due) = (0, None);
    }
}

/// Appends a block: type, length, body, length.
fn enclose(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let length = ((out.len() - start) as u32 + 4).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&length);
    out.extend(length);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    padded(out, value);
}

/// Everything in a block is padded to 32 bits.
fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    const ZERO: [u8; 3] = [0; 3];
    out.extend_from_slice(bytes);
    out.extend_from_slice(&ZERO[..bytes.len().wrapping_neg() % 4]);
}

/// What tests look at: a file that can be read while it is written, and how to read it.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A file in memory that is full at some size.
    #[derive(Clone)]
    pub(crate) struct File {
        pub(crate) bytes: Rc<RefCell<Vec<u8>>>,
        pub(crate) limit: usize,
    }

    impl File {
        pub(crate) fn new(limit: usize) -> Self {
            Self { bytes: Rc::default(), limit }
        }

        /// Interface, direction, time and bytes of every frame.
        pub(crate) fn frames(&self) -> Vec<(u32, u32, u64, Vec<u8>)> {
            let blocks = blocks(&self.bytes.borrow());
            blocks
                .iter()
                .filter(|(kind, _)| *kind == ENHANCED_PACKET)
                .map(|(_, b)| {
                    let n = u32_at(b, 12) as usize;
                    let flags = 20 + n.next_multiple_of(4);
                    assert_eq!(u32_at(b, flags), 4 << 16 | u32::from(OPTION_EPB_FLAGS));
                    let time = u64::from(u32_at(b, 4)) << 32 | u64::from(u32_at(b, 8));
                    (u32_at(b, 0), u32_at(b, flags + 4), time, b[20..20 + n].to_vec())
                })
                .collect()
        }
    }

    impl Write for File {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.limit = self.limit.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            self.bytes.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
        u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }

    /// Type and body of every block; both lengths must agree.
    pub(crate) fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut out = Vec::new();
        while !file.is_empty() {
            let n = u32_at(file, 4) as usize;
            assert_eq!((n % 4, u32_at(file, n - 4)), (0, n as u32));
            out.push((u32_at(file, 0), file[8..n - 4].to_vec()));
            file = &file[n..];
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{File, blocks};
    use super::*;

    const AT: Instant = Instant::from_nanos(1_234_567_891);

    #[test]
    fn the_file_names_its_interfaces_and_counts_in_nanoseconds() {
        let file = File::new(usize::MAX);
        let origin = 1_700_000_000_000_000_000;
        let r = Recording::new(file.clone(), origin).expect("a header");
        r.record(AT, Interface::Ethernet, Direction::Out, &[1; 42]);
        r.record(AT, Interface::Offload, Direction::In, &[2; 61]);
        r.flush();
        assert_eq!(r.frames(), 2);
        let blocks = blocks(&file.bytes.borrow());
        let kinds: Vec<u32> = blocks.iter().map(|b| b.0).collect();
        assert_eq!(
            kinds,
            [SECTION_HEADER, INTERFACE_DESCRIPTION, INTERFACE_DESCRIPTION, ENHANCED_PACKET, ENHANCED_PACKET]
        );
        for ((name, _), (_, block)) in INTERFACES.iter().zip(&blocks[1..]) {
            assert!(block.windows(name.len()).any(|w| w == name.as_bytes()));
            assert!(block.ends_with(&[9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]), "nanoseconds, and the end");
        }
        let time = origin + AT.as_nanos();
        assert_eq!(file.frames(), [(0, 2, time, vec![1; 42]), (1, 1, time, vec![2; 61])]);
    }

    #[test]
    fn a_batch_waits_until_it_is_large_or_old() {
        let file = File::new(usize::MAX);
        let r = Recording::new(file.clone(), 0).expect("a header");
        assert_eq!(r.next_deadline(), None);
        r.record(AT, Interface::Ethernet, Direction::Out, &[1; 42]);
        r.turn(AT);
        assert_eq!((file.frames().len(), r.next_deadline()), (0, Some(AT + FLUSH_AFTER)));
        r.turn(AT + FLUSH_AFTER);
        assert_eq!((file.frames().len(), r.next_deadline()), (1, None));
        (0..BATCH / 1000).for_each(|_| r.record(AT, Interface::Ethernet, Direction::Out, &[1; 1000]));
        assert!(file.frames().len() > BATCH / 1100);
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_is_remembered() {
        assert!(Recording::new(File::new(10), 0).is_err());
        let file = File::new(600);
        let r = Recording::new(file.clone(), 0).expect("a header");
        for _ in 0..9 {
            r.record(AT, Interface::Ethernet, Direction::Out, &[1; 100]);
            r.flush();
        }
        assert!(r.frames() > 0 && r.frames() < 9);
        assert_eq!(file.frames().len() as u64, r.frames());
        assert!(r.failure().is_some());
    }
}
