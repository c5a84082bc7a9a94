//! The mode pages of a disk (SPC-4 7.5, SBC-3 6.4): Caching, Control and Informational Exceptions Control.
//! MODE SELECT changes what the changeable values show and nothing else; the change holds for all nexuses
//! until a reset, because nothing is saved.

use crate::scsi::{CachingPage, ControlPage, Form, Sense, be16, mode_header, page};

/// Page control values of MODE SENSE.
const CHANGEABLE: u8 = 1;
const DEFAULT: u8 = 2;
const SAVED: u8 = 3;

const PAGES: [u8; 3] = [page::CACHING, page::CONTROL, page::EXCEPTIONS];

/// What can be changed, and what the storage gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    /// D_SENSE.
    pub(super) descriptor_sense: bool,
    /// SWP.
    pub(super) software_write_protect: bool,
    /// WCE. Without it a write is on stable storage before its status goes out.
    pub(super) write_cache: bool,
    volatile: bool,
}

/// The disk as the header and the block descriptor describe it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) blocks: u64,
    pub(super) block_size: u32,
    pub(super) write_protected: bool,
}

impl Modes {
    /// The default: what the storage is by itself. `volatile`: it has a volatile write cache.
    pub(super) fn new(volatile: bool) -> Modes {
        Modes { descriptor_sense: false, software_write_protect: false, write_cache: volatile, volatile }
    }

    /// A volatile cache that is switched off: every write is followed by a flush.
    pub(super) fn writes_through(&self) -> bool {
        self.volatile && !self.write_cache
    }

    /// A reset takes every change back.
    pub(super) fn reset(&mut self) {
        *self = Modes::new(self.volatile);
    }

    /// Appends one page as it is.
    fn encode(&self, code: u8, out: &mut Vec<u8>) {
        match code {
            page::CACHING => {
                CachingPage { write_cache: self.write_cache, read_cache_disabled: false }.encode(out)
            }
            page::CONTROL => ControlPage {
                descriptor_sense: self.descriptor_sense,
                software_write_protect: self.software_write_protect,
            }
            .encode(out),
            _ => out.extend_from_slice(&[page::EXCEPTIONS, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        }
    }

    /// The byte of a page and its bits that MODE SELECT may change.
    fn changeable(&self, code: u8, at: usize) -> u8 {
        match (code, at) {
            (page::CACHING, 2) if self.volatile => 0x04,
            (page::CONTROL, 2) => 0x04,
            (page::CONTROL, 4) => 0x08,
            _ => 0,
        }
    }

    /// MODE SENSE data, not yet cut to the allocation length.
    pub(super) fn sense(
        &self,
        form: Form,
        (dbd, long_lba): (bool, bool),
        control: u8,
        (code, subpage): (u8, u8),
        shape: &Shape,
        reply: &mut Vec<u8>,
    ) -> Result<(), Sense> {
        if control == SAVED {
            return Err(Sense::SAVING_UNSUPPORTED);
        }
        if subpage != 0 && !(code == page::ALL && subpage == 0xFF) {
            return Err(Sense::invalid_cdb_byte(3));
        }
        if code != page::ALL && !PAGES.contains(&code) {
            return Err(Sense::invalid_cdb_byte(2));
        }
        let mut descriptor = [0; 16];
        let descriptor = if dbd { &descriptor[..0] } else { shape.descriptor(long_lba, &mut descriptor) };
        let finish = mode_header(form, shape.write_protected, long_lba && !dbd, descriptor, reply);
        for page in PAGES.into_iter().filter(|p| code == *p || code == page::ALL) {
            let start = reply.len();
            match control {
                DEFAULT => Modes::new(self.volatile).encode(page, reply),
                _ => self.encode(page, reply),
            }
            if control == CHANGEABLE {
                for (at, byte) in reply[start..].iter_mut().enumerate().skip(2) {
                    *byte = self.changeable(page, at);
                }
            }
        }
        finish(reply);
        Ok(())
    }

    /// MODE SELECT with its parameter list (SPC-4 6.11, 6.12, 7.5): all or nothing. Says whether something
    /// changed.
    pub(super) fn select(&mut self, form: Form, list: &[u8], shape: &Shape) -> Result<bool, Sense> {
        let short = || Sense::PARAMETER_LENGTH;
        let (header, long_lba, descriptors) = if form == Form::Six {
            (4, false, usize::from(*list.get(3).ok_or_else(short)?))
        } else {
            let length = usize::from(be16(list, 6).ok_or_else(short)?);
            (8, list[4] & 1 != 0, length)
        };
        let mut pages = list.get(header + descriptors..).ok_or_else(short)?;
        let mut wanted = [0; 16];
        let wanted = shape.descriptor(long_lba, &mut wanted);
        let given = &list[header..header + descriptors];
        // The format stays: a descriptor repeats it, with the number of blocks or 0 for it.
        let length_at = wanted.len() / 2;
        let same = given.len() == wanted.len()
            && given[length_at..] == wanted[length_at..]
            && (given[..length_at] == wanted[..length_at] || given[..length_at].iter().all(|b| *b == 0));
        if !given.is_empty() && !same {
            return Err(Sense::invalid_parameter_byte(header as u16));
        }
        let mut next = *self;
        while let [first, len, ..] = *pages {
            let offset = (list.len() - pages.len()) as u16;
            let code = first & 0x3F;
            if first & 0x40 != 0 || !PAGES.contains(&code) {
                return Err(Sense::invalid_parameter_byte(offset));
            }
            let mut now = Vec::with_capacity(20);
            self.encode(code, &mut now);
            if usize::from(len) != now.len() - 2 {
                return Err(Sense::invalid_parameter_byte(offset + 1));
            }
            let page = pages.get(..now.len()).ok_or_else(short)?;
            let fixed = (2..page.len()).find(|at| (page[*at] ^ now[*at]) & !self.changeable(code, *at) != 0);
            if let Some(at) = fixed {
                return Err(Sense::invalid_parameter_byte(offset + at as u16));
            }
            match code {
                page::CACHING => next.write_cache = page[2] & 0x04 != 0,
                page::CONTROL => {
                    next.descriptor_sense = page[2] & 0x04 != 0;
                    next.software_write_protect = page[4] & 0x08 != 0;
                }
                _ => {}
            }
            pages = &pages[now.len()..];
        }
        if !pages.is_empty() {
            return Err(short());
        }
        let changed = *self != next;
        *self = next;
        Ok(changed)
    }
}

impl Shape {
    /// The block descriptor, written into `out`.
    fn descriptor<'a>(&self, long_lba: bool, out: &'a mut [u8; 16]) -> &'a [u8] {
        if long_lba {
            out[..8].copy_from_slice(&self.blocks.to_be_bytes());
            out[12..].copy_from_slice(&self.block_size.to_be_bytes());
            &out[..]
        } else {
            out[..4].copy_from_slice(&u32::try_from(self.blocks).unwrap_or(u32::MAX).to_be_bytes());
            out[5..8].copy_from_slice(&self.block_size.to_be_bytes()[1..]);
            &out[..8]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { blocks: 0x1234, block_size: 512, write_protected: false };

    fn sense(modes: &Modes, control: u8, code: u8) -> Result<Vec<u8>, Sense> {
        let mut out = Vec::new();
        modes.sense(Form::Ten, (true, false), control, (code, 0), &SHAPE, &mut out)?;
        Ok(out.split_off(8))
    }

    /// SPC-4 table 454 (D_SENSE is byte 2 bit 2, SWP byte 4 bit 3), SBC-3 table 171 (WCE is byte 2 bit 2).
    fn control(flags: u8, swp: u8) -> Vec<u8> {
        vec![0x0A, 0x0A, flags, 0x10, swp, 0, 0, 0, 0, 0, 0, 0]
    }

    fn caching(flags: u8) -> Vec<u8> {
        let mut page = vec![0; 20];
        page[..3].copy_from_slice(&[8, 0x12, flags]);
        page
    }

    fn select6(modes: &mut Modes, pages: &[u8]) -> Result<bool, Sense> {
        modes.select(Form::Six, &[&[0, 0, 0, 0], pages].concat(), &SHAPE)
    }

    #[test]
    fn what_select_changes_sense_shows() {
        let mut modes = Modes::new(true);
        assert_eq!(sense(&modes, 0, 0x0A).unwrap(), control(0, 0));
        assert_eq!(select6(&mut modes, &[control(4, 8), caching(0)].concat()), Ok(true));
        assert_eq!(sense(&modes, 0, 0x0A).unwrap(), control(4, 8));
        assert_eq!(sense(&modes, 0, 0x08).unwrap(), caching(0));
        assert_eq!(sense(&modes, 2, 0x0A).unwrap(), control(0, 0), "the default stays");
        assert_eq!(sense(&modes, 2, 0x08).unwrap(), caching(4));
        assert_eq!(select6(&mut modes, &control(4, 8)), Ok(false), "nothing new");
        modes.reset();
        assert_eq!(modes, Modes::new(true));
    }

    #[test]
    fn the_changeable_bits_are_those_that_select_takes() {
        for volatile in [true, false] {
            let fresh = Modes::new(volatile);
            for code in PAGES {
                let (now, mask) = (sense(&fresh, 0, code).unwrap(), sense(&fresh, 1, code).unwrap());
                assert_eq!(now[..2], mask[..2]);
                for bit in 16..now.len() * 8 {
                    let mut page = now.clone();
                    page[bit / 8] ^= 1 << (bit % 8);
                    let mut modes = fresh;
                    let taken = select6(&mut modes, &page);
                    if mask[bit / 8] & 1 << (bit % 8) != 0 {
                        assert_eq!(taken, Ok(true), "page {code:#x} bit {bit}");
                        assert_eq!(sense(&modes, 0, code).unwrap(), page);
                    } else {
                        let at = 4 + (bit / 8) as u16;
                        assert_eq!(taken, Err(Sense::invalid_parameter_byte(at)), "page {code:#x} bit {bit}");
                        assert_eq!(modes, fresh);
                    }
                }
            }
        }
    }

    #[test]
    fn lists_are_taken_whole_or_not_at_all() {
        let mut modes = Modes::new(true);
        let bad = [control(4, 0), caching(0x40)].concat();
        assert!(select6(&mut modes, &bad).is_err());
        assert_eq!(modes, Modes::new(true));
        assert_eq!(select6(&mut modes, &control(4, 0)[..11]), Err(Sense::PARAMETER_LENGTH));
        assert_eq!(modes.select(Form::Ten, &[0; 7], &SHAPE), Err(Sense::PARAMETER_LENGTH));
        assert_eq!(modes.select(Form::Ten, &[0; 8], &SHAPE), Ok(false));
        for odd in [vec![0x02, 0x0E], vec![0x4A, 0, 0, 8], vec![0x0A, 0x09]] {
            assert!(select6(&mut modes, &odd).unwrap_err().same_condition(&Sense::INVALID_PARAMETER));
        }
        assert_eq!(modes, Modes::new(true));
    }

    /// A block descriptor may repeat the format, and may not change it.
    #[test]
    fn the_format_stays() {
        let mut modes = Modes::new(false);
        let with = |descriptor: &[u8]| [&[0, 0, 0, 8], descriptor].concat();
        let mut select = |list: &[u8]| modes.select(Form::Six, list, &SHAPE);
        assert_eq!(select(&with(&[0, 0, 0x12, 0x34, 0, 0, 2, 0])), Ok(false));
        assert_eq!(select(&with(&[0, 0, 0, 0, 0, 0, 2, 0])), Ok(false));
        assert_eq!(select(&with(&[0, 0, 0x12, 0x33, 0, 0, 2, 0])), Err(Sense::invalid_parameter_byte(4)));
        assert_eq!(select(&with(&[0, 0, 0x12, 0x34, 0, 0, 0x10, 0])), Err(Sense::invalid_parameter_byte(4)));
    }
}
