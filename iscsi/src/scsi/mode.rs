//! MODE SENSE data (SPC-4 7.5, SBC-3 6.4): header, block descriptor and the pages that a disk's driver reads.

use super::{Form, be16};

/// Page codes.
pub mod page {
    /// Caching (SBC-3 6.4.5).
    pub const CACHING: u8 = 0x08;
    /// Control (SPC-4 7.5.8).
    pub const CONTROL: u8 = 0x0A;
    /// Informational exceptions control (SPC-4 7.5.11).
    pub const EXCEPTIONS: u8 = 0x1C;
    /// All pages.
    pub const ALL: u8 = 0x3F;
}

/// Parsed mode parameters: what arrived of them.
#[derive(Clone, Copy, Debug)]
pub struct ModeParameters<'a> {
    /// Device-specific bit WP: the medium is write protected.
    pub write_protected: bool,
    /// Device-specific bit DPOFUA: DPO and FUA are accepted.
    pub dpo_fua: bool,
    pages: &'a [u8],
}

impl<'a> ModeParameters<'a> {
    /// Reads the reply to MODE SENSE(6) or (10); `None` when the header did not arrive.
    pub fn parse(form: Form, data: &'a [u8]) -> Option<ModeParameters<'a>> {
        let (header, specific, descriptors, end) = if form == Form::Six {
            (4, *data.get(2)?, usize::from(*data.get(3)?), 1 + usize::from(data[0]))
        } else {
            (8, *data.get(3)?, usize::from(be16(data, 6)?), 2 + usize::from(be16(data, 0)?))
        };
        let data = &data[..data.len().min(end.max(header))];
        Some(ModeParameters {
            write_protected: specific & 0x80 != 0,
            dpo_fua: specific & 0x10 != 0,
            pages: data.get(header + descriptors..).unwrap_or(&[]),
        })
    }

    /// The whole page (with its two header bytes) in page_0 format, when all of it arrived.
    pub fn page(&self, code: u8) -> Option<&'a [u8]> {
        let mut rest = self.pages;
        while let [first, second, ..] = *rest {
            let subpage = first & 0x40 != 0;
            let len = if subpage { 4 + usize::from(be16(rest, 2)?) } else { 2 + usize::from(second) };
            let page = rest.get(..len)?;
            if !subpage && first & 0x3F == code {
                return Some(page);
            }
            rest = &rest[len..];
        }
        None
    }
}

/// Appends a mode parameter header and the block `descriptor` (empty for none). The closure returned fills in
/// the length: call it with the same buffer when the pages are appended.
pub fn mode_header(
    form: Form,
    write_protected: bool,
    long_lba: bool,
    descriptor: &[u8],
    out: &mut Vec<u8>,
) -> impl FnOnce(&mut Vec<u8>) + use<> {
    let start = out.len();
    // DPOFUA is always on: both bits are accepted everywhere.
    let specific = if write_protected { 0x80 } else { 0 } | 0x10;
    let len = descriptor.len() as u8;
    if form == Form::Six {
        out.extend_from_slice(&[0, 0, specific, len]);
    } else {
        out.extend_from_slice(&[0, 0, 0, specific, u8::from(long_lba), 0, 0, len]);
    }
    out.extend_from_slice(descriptor);
    move |out| {
        let total = out.len() - start;
        if form == Form::Six {
            out[start] = (total - 1) as u8;
        } else {
            out[start..start + 2].copy_from_slice(&((total - 2) as u16).to_be_bytes());
        }
    }
}

/// The Caching page's bits that matter to a block driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachingPage {
    /// WCE: writes may rest in a volatile cache, so SYNCHRONIZE CACHE matters.
    pub write_cache: bool,
    /// RCD: read cache disabled.
    pub read_cache_disabled: bool,
}

impl CachingPage {
    /// Appends the 20-byte page.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 20];
        bytes[0] = page::CACHING;
        bytes[1] = 0x12;
        bytes[2] = if self.write_cache { 4 } else { 0 } | u8::from(self.read_cache_disabled);
        out.extend_from_slice(&bytes);
    }

    /// Reads the page as [`ModeParameters::page`] returns it.
    pub fn parse(bytes: &[u8]) -> Option<CachingPage> {
        let flags = *bytes.get(2)?;
        Some(CachingPage { write_cache: flags & 4 != 0, read_cache_disabled: flags & 1 != 0 })
    }
}

/// The Control page's bits that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlPage {
    /// D_SENSE: sense data in descriptor format.
    pub descriptor_sense: bool,
    /// SWP: software write protect.
    pub software_write_protect: bool,
}

impl ControlPage {
    /// Appends the 12-byte page. Queue algorithm modifier 1: commands may be reordered, as the engine does.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 12];
        bytes[0] = page::CONTROL;
        bytes[1] = 0x0A;
        bytes[2] = if self.descriptor_sense { 4 } else { 0 };
        bytes[3] = 0x10;
        bytes[4] = if self.software_write_protect { 8 } else { 0 };
        out.extend_from_slice(&bytes);
    }

    /// Reads the page as [`ModeParameters::page`] returns it.
    pub fn parse(bytes: &[u8]) -> Option<ControlPage> {
        Some(ControlPage {
            descriptor_sense: bytes.get(2)? & 4 != 0,
            software_write_protect: bytes.get(4)? & 8 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(form: Form, descriptor: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let finish = mode_header(form, true, false, descriptor, &mut out);
        CachingPage { write_cache: true, read_cache_disabled: false }.encode(&mut out);
        ControlPage { descriptor_sense: true, software_write_protect: false }.encode(&mut out);
        finish(&mut out);
        out
    }

    #[test]
    fn both_headers_and_pages_round_trip() {
        for (form, header) in [(Form::Six, 4), (Form::Ten, 8)] {
            for descriptor in [&[][..], &[0; 8], &[0; 16]] {
                let data = build(form, descriptor);
                assert_eq!(data.len(), header + descriptor.len() + 32);
                let mode = ModeParameters::parse(form, &data).unwrap();
                assert!(mode.write_protected && mode.dpo_fua);
                let caching = mode.page(page::CACHING).and_then(CachingPage::parse).unwrap();
                assert!(caching.write_cache && !caching.read_cache_disabled);
                let control = mode.page(page::CONTROL).and_then(ControlPage::parse).unwrap();
                assert!(control.descriptor_sense && !control.software_write_protect);
                assert_eq!(mode.page(page::EXCEPTIONS), None);
            }
        }
        assert_eq!(build(Form::Six, &[])[0], 35);
        assert_eq!(build(Form::Ten, &[])[..2], [0, 38]);
    }

    #[test]
    fn a_cut_page_is_not_a_page() {
        let data = build(Form::Six, &[]);
        let mode = ModeParameters::parse(Form::Six, &data[..30]).unwrap();
        assert!(mode.page(page::CACHING).is_some());
        assert!(mode.page(page::CONTROL).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300), six: bool, code in 0u8..64) {
            let form = if six { Form::Six } else { Form::Ten };
            if let Some(mode) = ModeParameters::parse(form, &bytes) {
                let _ = mode.page(code);
            }
        }
    }
}
