//! Third-party copy (SPC-4 6.4, 6.18): EXTENDED COPY (LID1) from block range to block range, between the
//! units of one target and within one, and RECEIVE COPY RESULTS. Units are named by NAA or T10 vendor id
//! designators. The copy is work in turns; the parameter list stays in the task's buffer. Not modelled:
//! inline data, held data, other descriptors.

use super::disk::Disk;
use super::reservation::{Nexus, Refusal};
use super::server::Unit;
use super::work::{Allowance, Turn, Work};
use crate::scsi::{Cdb, Sense, SenseKey, Transfer, VpdPage, be16, be32, be64, vpd};

const HEADER: usize = 16;
const MAX_TARGETS: usize = 8;
const MAX_SEGMENTS: usize = 16;
/// Identification CSCD descriptor.
const IDENTIFICATION: u8 = 0xE4;
const TARGET_LEN: usize = 32;
/// Block device to block device segment.
const BLOCK_TO_BLOCK: u8 = 0x02;
const SEGMENT_LEN: usize = 28;
/// Most bytes of target and segment descriptors together.
const MAX_DESCRIPTORS: usize = MAX_TARGETS * TARGET_LEN + MAX_SEGMENTS * SEGMENT_LEN;
/// Longest parameter list.
pub(super) const MAX_LIST: u32 = (HEADER + MAX_DESCRIPTORS) as u32;
/// Bytes of one step.
const STEP: u64 = 64 << 10;
/// Copies whose results a unit keeps.
const MAX_RESULTS: usize = 16;

/// How a copy ended.
#[derive(Clone, Debug)]
pub(super) struct CopyResult {
    nexus: Nexus,
    list_id: u8,
    good: bool,
    segments: u16,
}

/// The descriptors of a parameter list that [`judge`] has seen.
struct Descriptors<'a> {
    targets: &'a [u8],
    segments: &'a [u8],
}

impl<'a> Descriptors<'a> {
    /// Splits a list by its own lengths. `None` when it is shorter than they say.
    fn split(list: &'a [u8]) -> Option<Descriptors<'a>> {
        let (targets, segments) = (usize::from(be16(list, 2)?), be32(list, 8)? as usize);
        let rest = list.get(HEADER..)?;
        let end = targets.checked_add(segments)?;
        Some(Descriptors { targets: rest.get(..targets)?, segments: rest.get(targets..end)? })
    }

    fn target(&self, index: u16) -> Option<&'a [u8]> {
        self.targets.chunks_exact(TARGET_LEN).nth(usize::from(index))
    }
}

/// Whether a parameter list can be followed, as far as that shows without looking for the units.
pub(super) fn judge(list: &[u8]) -> Result<(), Sense> {
    let descriptors = Descriptors::split(list).ok_or(Sense::PARAMETER_LENGTH)?;
    if be32(list, 12) != Some(0) {
        // Inline data length exceeded.
        return Err(Sense::new(SenseKey::ILLEGAL_REQUEST, 0x26, 0x0B));
    }
    if descriptors.targets.len() + descriptors.segments.len() > MAX_DESCRIPTORS {
        return Err(Sense::PARAMETER_LENGTH);
    }
    if descriptors.targets.len() > MAX_TARGETS * TARGET_LEN {
        return Err(Sense::TOO_MANY_TARGETS);
    }
    for target in descriptors.targets.chunks(TARGET_LEN) {
        if target[0] != IDENTIFICATION {
            return Err(Sense::UNSUPPORTED_TARGET_DESCRIPTOR);
        }
        // LU ID TYPE has no meaning in SPC-4.
        if target.len() < TARGET_LEN {
            return Err(Sense::INVALID_PARAMETER);
        }
    }
    if descriptors.segments.len() > MAX_SEGMENTS * SEGMENT_LEN {
        return Err(Sense::TOO_MANY_SEGMENTS);
    }
    for segment in descriptors.segments.chunks(SEGMENT_LEN) {
        if segment[0] != BLOCK_TO_BLOCK {
            return Err(Sense::UNSUPPORTED_SEGMENT_DESCRIPTOR);
        }
        if segment.len() < SEGMENT_LEN || be16(segment, 2) != Some(SEGMENT_LEN as u16 - 4) {
            return Err(Sense::INVALID_PARAMETER);
        }
    }
    Ok(())
}

/// One segment, found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    from: usize,
    to: usize,
    from_at: u64,
    to_at: u64,
    len: u64,
}

/// The unit that a target descriptor names. NUL (nothing there) and names of nobody cannot be reached.
fn find(units: &[Unit], target: &[u8]) -> Result<usize, Sense> {
    if target[1] & 0x20 != 0 {
        return Err(Sense::COPY_UNREACHABLE);
    }
    let name = target.get(8..8 + usize::from(target[7]).min(20)).unwrap_or_default();
    // Association 0: the unit.
    let named =
        |unit: &Unit| target[5] & 0x30 == 0 && unit.disk.is_named(target[4] & 0xF, target[5] & 0xF, name);
    units.iter().position(named).ok_or(Sense::COPY_TARGET_NOT_REACHABLE)
}

fn segment(units: &[Unit], nexus: &Nexus, list: &Descriptors<'_>, raw: &[u8]) -> Result<Segment, Sense> {
    let index = |at| be16(raw, at).and_then(|n| list.target(n)).ok_or(Sense::COPY_UNREACHABLE);
    let (from, to) = (find(units, index(4)?)?, find(units, index(6)?)?);
    let size = |unit: usize| u64::from(units[unit].disk.block_size());
    // DC: the number of blocks is the destination's.
    let unit = if raw[1] & 0x02 != 0 { to } else { from };
    let len = u64::from(be16(raw, 10).unwrap_or(0)) * size(unit);
    let start = |at: usize, unit: usize| {
        let begin = be64(raw, at).and_then(|lba| lba.checked_mul(size(unit)))?;
        let inside = begin.checked_add(len)? <= units[unit].disk.blocks() * size(unit);
        (inside && len.is_multiple_of(size(unit))).then_some(begin)
    };
    let (Some(from_at), Some(to_at)) = (start(12, from), start(20, to)) else {
        return Err(Sense::COPY_ABORTED);
    };
    let block = Transfer::new(0, 1);
    for (unit, cdb) in [(from, Cdb::Read(block)), (to, Cdb::Write(block))] {
        units[unit].disk.admit(nexus, &cdb).map_err(|refusal| match refusal {
            // Data protect and not ready say more than that the copy failed.
            Refusal::Check(sense) => sense,
            Refusal::Conflict => Sense::COPY_ABORTED,
        })?;
    }
    Ok(Segment { from, to, from_at, to_at, len })
}

/// Goes on with a copy that came to `units[own]`, until it is over or the allowance is spent.
pub(super) fn turn(
    units: &mut [Unit],
    own: usize,
    nexus: &Nexus,
    work: &mut Work,
    list: &[u8],
    allowance: &mut Allowance,
) -> Turn {
    let mut data = Vec::new();
    let result = loop {
        if allowance.is_spent() {
            return Turn::More;
        }
        match step(units, nexus, work, list, allowance, &mut data) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(sense) => break Err(sense),
        }
    };
    let (next, ..) = work.copy_state();
    let result_kept =
        CopyResult { nexus: nexus.clone(), list_id: list[0], good: result.is_ok(), segments: next as u16 };
    // LIST ID USAGE 11b: the initiator will not ask.
    if list[1] & 0x18 != 0x18 {
        units[own].disk.keep_result(result_kept);
    }
    Turn::Over(result)
}

/// One step of a copy; false when there is none left.
fn step(
    units: &mut [Unit],
    nexus: &Nexus,
    work: &mut Work,
    list: &[u8],
    allowance: &mut Allowance,
    data: &mut Vec<u8>,
) -> Result<bool, Sense> {
    let Some(descriptors) = Descriptors::split(list) else { return Err(Sense::PARAMETER_LENGTH) };
    let (next, done, left) = work.copy_state();
    let begins = left == 0;
    let number = if begins { next } else { next - 1 };
    let Some(raw) = descriptors.segments.chunks_exact(SEGMENT_LEN).nth(number) else { return Ok(false) };
    // Looked up each time: a unit may have been reserved, protected or emptied since.
    let s = segment(units, nexus, &descriptors, raw)?;
    if begins {
        allowance.take(0);
        work.begin_segment(next + 1, s.len);
        return Ok(true);
    }
    let len = left.min(STEP);
    // Into its own upper part a range is copied from its end.
    let at = if s.from == s.to && s.to_at > s.from_at { left - len } else { done };
    data.clear();
    units[s.from].disk.medium.read(s.from_at + at, len as usize, data)?;
    units[s.to].disk.medium.write(s.to_at + at, data)?;
    allowance.take(2 * len);
    work.advance(len);
    if left == len && units[s.to].disk.writes_through() {
        units[s.to].disk.medium.flush_now()?;
    }
    Ok(true)
}

impl CopyResult {
    pub(super) fn is_of(&self, nexus: &Nexus) -> bool {
        self.nexus == *nexus
    }
}

impl Disk {
    fn keep_result(&mut self, result: CopyResult) {
        self.copies.retain(|c| !(c.nexus == result.nexus && c.list_id == result.list_id));
        if self.copies.len() >= MAX_RESULTS {
            self.copies.remove(0);
        }
        self.copies.push(result);
    }

    /// COPY STATUS of a copy that has ended (SPC-4 6.18.2).
    pub(super) fn copy_status(&self, nexus: &Nexus, list_id: u8, reply: &mut Vec<u8>) -> Result<(), Sense> {
        let found = self.copies.iter().find(|c| c.nexus == *nexus && c.list_id == list_id);
        let copy = found.ok_or(Sense::invalid_cdb_byte(2))?;
        status(if copy.good { 1 } else { 2 }, copy.segments, reply);
        Ok(())
    }
}

/// COPY STATUS data; 0 in progress, 1 done, 2 failed. Bytes are not counted.
pub(super) fn status(code: u8, segments: u16, reply: &mut Vec<u8>) {
    reply.extend_from_slice(&[0, 0, 0, 8, code]);
    reply.extend_from_slice(&segments.to_be_bytes());
    reply.extend_from_slice(&[0; 5]);
}

/// OPERATING PARAMETERS (SPC-4 6.18.4).
pub(super) fn parameters(reply: &mut Vec<u8>) {
    let start = reply.len();
    reply.resize(start + 46, 0);
    let data = &mut reply[start..];
    data[3] = 42;
    data[8..10].copy_from_slice(&(MAX_TARGETS as u16).to_be_bytes());
    data[10..12].copy_from_slice(&(MAX_SEGMENTS as u16).to_be_bytes());
    data[12..16].copy_from_slice(&(MAX_DESCRIPTORS as u32).to_be_bytes());
    // Copies at once, in total and in this unit: one for each command that the window lets in.
    data[34..36].copy_from_slice(&u16::from(u8::MAX).to_be_bytes());
    data[36] = u8::MAX;
    // Granularity 2^9 bytes.
    data[37] = 9;
    data[43] = 2;
    data[44..].copy_from_slice(&[BLOCK_TO_BLOCK, IDENTIFICATION]);
}

/// Third-party Copy VPD page (SPC-4 7.8.17): commands, limits and descriptors.
pub(super) fn vital_data(reply: &mut Vec<u8>) {
    let mut limits = [0; 32];
    limits[..4].copy_from_slice(&[0x00, 0x04, 0x00, 0x1C]);
    limits[8..10].copy_from_slice(&(MAX_TARGETS as u16).to_be_bytes());
    limits[10..12].copy_from_slice(&(MAX_SEGMENTS as u16).to_be_bytes());
    limits[12..16].copy_from_slice(&(MAX_DESCRIPTORS as u32).to_be_bytes());
    VpdPage::begin(vpd::THIRD_PARTY_COPY, reply)
        // Supported commands: each with its service actions.
        .put(&[0x00, 0x01, 0x00, 0x08, 7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03])
        .put(&limits)
        .put(&[0x00, 0x08, 0x00, 0x04, 2, BLOCK_TO_BLOCK, IDENTIFICATION, 0])
        .end();
}
