//! The data oracle: what a read may return after everything that was written, acknowledged or lost so far.
//!
//! It knows, for each block of a region, the generation of the last completed write, the generations of
//! failed writes after it, whose effect is undetermined, and those of the failed writes before it, which may
//! never come back. A read must return one of these, whole (invariants S2, S3 and S4 of ARCHITECTURE 8). The
//! workload never overlaps two requests on one block, so no order between concurrent requests has to be
//! guessed. Not modelled: other writers of the same region.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::stamp::Stamp;

/// What was wrong with a block that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// S3: the block is no whole stamp; the first wrong byte is at this offset.
    Torn(usize),
    /// S3: the block carries another block's stamp.
    Misplaced(Stamp),
    /// S2: the block is older than the last completed write (its generation; 0 for never written).
    Stale {
        /// What was read.
        found: u32,
        /// The last completed write.
        expected: u32,
    },
    /// S4: the block carries a failed write that a later completed write had covered, or one that was never
    /// completed.
    Resurfaced {
        /// What was read.
        found: u32,
        /// The last completed write.
        expected: u32,
    },
}

impl Fault {
    /// The invariant that it breaks.
    #[must_use]
    pub const fn invariant(self) -> &'static str {
        match self {
            Self::Torn(_) | Self::Misplaced(_) => "S3",
            Self::Stale { .. } => "S2",
            Self::Resurfaced { .. } => "S4",
        }
    }
}

/// A block that broke an invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose region it is.
    pub writer: u32,
    /// The block.
    pub lba: u64,
    /// What was wrong.
    pub fault: Fault,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writer, lba, fault } = self;
        write!(f, "session {writer}, block {lba}, check {}: ", fault.invariant())?;
        match fault {
            Fault::Torn(at) => write!(f, "not a whole stamp, first wrong byte at offset {at}"),
            Fault::Misplaced(s) => {
                write!(f, "holds block {} of session {} (write {})", s.lba, s.writer, s.generation)
            }
            Fault::Stale { found, expected } => {
                write!(f, "stale: holds write {found}, last completed is write {expected}")
            }
            Fault::Resurfaced { found, expected } => {
                write!(f, "holds write {found}, which cannot be there after write {expected}")
            }
        }
    }
}

/// What is on the disk before the first write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Zeros.
    Zero,
    /// Anything: blocks that were never written are not judged.
    Unknown,
}

/// Covered failed writes of a block that are told apart from writes that completed; older ones count as
/// stale.
const FAILED_KEPT: usize = 16;

/// The expectations for one writer's region of a disk.
pub struct Region {
    writer: u32,
    run: u64,
    first: u64,
    block: usize,
    initial: Initial,
    settled: Vec<u32>,
    undetermined: BTreeMap<u64, Vec<u32>>,
    /// Failed writes that a later completed write covered: the last [`FAILED_KEPT`] of each block.
    covered: BTreeMap<u64, Vec<u32>>,
    generation: u32,
}

impl Region {
    /// `blocks` blocks of `block` bytes from `first` on, of `writer` alone.
    #[must_use]
    pub fn new(writer: u32, run: u64, first: u64, blocks: usize, block: usize, initial: Initial) -> Self {
        Self {
            writer,
            run,
            first,
            block,
            initial,
            settled: vec![0; blocks],
            undetermined: BTreeMap::new(),
            covered: BTreeMap::new(),
            generation: 0,
        }
    }

    /// The blocks of the region.
    #[must_use]
    pub fn blocks(&self) -> Range<u64> {
        self.first..self.first + self.settled.len() as u64
    }

    /// Fills `data` for a write from `lba` on and returns its generation.
    pub fn stamp(&mut self, lba: u64, data: &mut [u8]) -> u32 {
        self.generation += 1;
        for (lba, b) in (lba..).zip(data.chunks_exact_mut(self.block)) {
            self.expected(lba, self.generation).fill(b);
        }
        self.generation
    }

    fn expected(&self, lba: u64, generation: u32) -> Stamp {
        Stamp { lba, generation, writer: self.writer, run: self.run }
    }

    /// A write ended.
    pub fn wrote(&mut self, blocks: Range<u64>, generation: u32, ok: bool) {
        for lba in blocks {
            if ok {
                self.settled[(lba - self.first) as usize] = generation;
                self.cover(lba);
            } else {
                self.undetermined.entry(lba).or_default().push(generation);
            }
        }
    }

    /// A completed write, or a failed one that was seen on disk, settles the block: from the next completed
    /// write on, none of the failed ones may come back.
    fn cover(&mut self, lba: u64) {
        let Some(failed) = self.undetermined.remove(&lba) else { return };
        let covered = self.covered.entry(lba).or_default();
        covered.extend(failed);
        let surplus = covered.len().saturating_sub(FAILED_KEPT);
        covered.drain(..surplus);
    }

    /// Judges what a read from `lba` on returned; the first fault of each block goes to `report`. A failed
    /// write that is seen on disk has happened from now on.
    pub fn check(&mut self, lba: u64, data: &[u8], mut report: impl FnMut(Finding)) {
        for (lba, b) in (lba..).zip(data.chunks_exact(self.block)) {
            if let Err(fault) = self.check_block(lba, b) {
                report(Finding { writer: self.writer, lba, fault });
            }
        }
    }

    fn check_block(&mut self, lba: u64, data: &[u8]) -> Result<(), Fault> {
        let at = (lba - self.first) as usize;
        let expected = self.settled[at];
        let found = match Stamp::of(data) {
            Some(s) if s.run == self.run => {
                if s.lba != lba || s.writer != self.writer {
                    return Err(Fault::Misplaced(s));
                }
                if let Some(offset) = s.first_difference(data) {
                    return Err(Fault::Torn(offset));
                }
                s.generation
            }
            _ if self.initial == Initial::Unknown && expected == 0 => return Ok(()),
            _ => match data.iter().position(|b| *b != 0) {
                None => 0,
                Some(offset) => return Err(Fault::Torn(offset)),
            },
        };
        if found == expected {
            return Ok(());
        }
        if self.undetermined.get(&lba).is_some_and(|g| g.contains(&found)) {
            self.settled[at] = found;
            self.cover(lba);
            return Ok(());
        }
        let failed = self.covered.get(&lba).is_some_and(|g| g.contains(&found));
        if found < expected && !failed {
            Err(Fault::Stale { found, expected })
        } else {
            Err(Fault::Resurfaced { found, expected })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: usize = 512;

    fn region() -> Region {
        Region::new(2, 7, 100, 16, B, Initial::Zero)
    }

    fn faults(r: &mut Region, lba: u64, data: &[u8]) -> Vec<Finding> {
        let mut out = Vec::new();
        r.check(lba, data, |f| out.push(f));
        out
    }

    #[test]
    fn completed_writes_must_be_read_back() {
        let mut r = region();
        let zero = [0; 2 * B];
        assert_eq!(faults(&mut r, 104, &zero), []);
        let (mut one, mut two) = ([0; 2 * B], [0; 2 * B]);
        let g = r.stamp(104, &mut one);
        r.wrote(104..106, g, true);
        assert_eq!(faults(&mut r, 104, &one), []);
        assert_eq!(faults(&mut r, 104, &zero)[0].fault, Fault::Stale { found: 0, expected: 1 });
        let g = r.stamp(104, &mut two);
        r.wrote(104..106, g, true);
        assert_eq!(faults(&mut r, 104, &one)[1].fault, Fault::Stale { found: 1, expected: 2 });
    }

    #[test]
    fn misplaced_and_torn_blocks_are_told_apart() {
        let mut r = region();
        let mut data = [0; 2 * B];
        let g = r.stamp(104, &mut data);
        r.wrote(104..106, g, true);
        let (a, b) = data.split_at(B);
        let swapped = [b, a].concat();
        assert!(matches!(faults(&mut r, 104, &swapped)[0].fault, Fault::Misplaced(s) if s.lba == 105));
        let mut torn = data;
        torn[300] ^= 1;
        let found = faults(&mut r, 104, &torn);
        assert_eq!(found, [Finding { writer: 2, lba: 104, fault: Fault::Torn(300) }]);
        assert!(found[0].to_string().contains("session 2, block 104, check S3"));
    }

    #[test]
    fn failed_writes_are_undetermined_until_seen_and_never_resurface() {
        let mut r = region();
        let (mut lost, mut kept) = ([0; B], [0; B]);
        let failed = r.stamp(108, &mut lost);
        r.wrote(108..109, failed, false);
        assert_eq!(faults(&mut r, 108, &[0; B]), [], "it may not have happened");
        assert_eq!(faults(&mut r, 108, &lost), [], "or it may");
        assert_eq!(faults(&mut r, 108, &[0; B])[0].fault, Fault::Stale { found: 0, expected: failed });
        let later = r.stamp(108, &mut kept);
        r.wrote(108..109, later, true);
        let resurfaced = faults(&mut r, 108, &lost)[0].fault;
        assert_eq!(resurfaced, Fault::Resurfaced { found: failed, expected: later });
        assert_eq!(resurfaced.invariant(), "S4");
        let mut never = [0; B];
        let g = r.stamp(108, &mut never);
        assert_eq!(faults(&mut r, 108, &never)[0].fault, Fault::Resurfaced { found: g, expected: later });
    }

    #[test]
    fn an_unknown_disk_is_judged_only_where_it_was_written() {
        let mut r = Region::new(0, 7, 0, 4, B, Initial::Unknown);
        assert_eq!(faults(&mut r, 0, &[0xaa; B]), []);
        let mut data = [0; B];
        let g = r.stamp(0, &mut data);
        r.wrote(0..1, g, true);
        assert_eq!(faults(&mut r, 0, &[0xaa; B])[0].fault, Fault::Torn(0));
    }
}
