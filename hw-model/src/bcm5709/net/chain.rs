//! A chain of BD pages: 255 descriptors of 16 bytes, then one that holds the address of the next page.
//!
//! Indexes are free-running 16-bit counts that count the last descriptor of a page too; hosts and chip step
//! over it.

use bus::pci::{DevCx, DmaFault, Grant};
use hsi::bcm5709::l2::RxBd;

/// Bytes of a descriptor.
pub(super) const BD: u64 = 16;
/// The descriptor of a page that leads to the next page.
const LINK: u16 = 255;

/// How far the chip is in a chain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    /// The current page.
    page: u64,
    /// The next descriptor.
    index: u16,
}

impl Chain {
    /// At the start of the chain whose first page this is.
    pub(super) const fn at(page: u64) -> Self {
        Self { page, index: 0 }
    }

    /// The index of the next descriptor.
    pub(super) const fn index(self) -> u16 {
        self.index
    }

    /// Descriptors up to `end`, without those that lead to pages.
    pub(super) const fn until(self, end: u16) -> usize {
        let (from, count) = (self.index as u32, end.wrapping_sub(self.index) as u32);
        let links = (from + count).div_euclid(256) - from.div_euclid(256);
        (count - links) as usize
    }

    /// Bus address of the next descriptor, and how many follow it in its page; follows the link to the next
    /// page first.
    pub(super) fn locate(&mut self, cx: &mut DevCx<'_>, grant: Grant) -> Result<(u64, usize), DmaFault> {
        let slot = self.index & 0xff;
        if slot != LINK {
            return Ok((self.page.wrapping_add(BD * u64::from(slot)), usize::from(LINK - slot)));
        }
        let mut link = [0; BD as usize];
        cx.dma_read(self.page.wrapping_add(BD * u64::from(LINK)), &mut link, grant)?;
        // The address stands where receive and transmit descriptors have theirs.
        self.page = RxBd::from_bytes(link).haddr();
        self.index = self.index.wrapping_add(1);
        Ok((self.page, usize::from(LINK)))
    }

    /// Steps over `n` descriptors of the current page.
    pub(super) fn advance(&mut self, n: usize) {
        self.index = self.index.wrapping_add(n as u16);
    }

    /// Takes back one step in the current page.
    pub(super) fn back(&mut self) {
        self.index = self.index.wrapping_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{BASE, Bench};

    #[test]
    fn links_are_followed_and_not_counted() {
        let mut b = Bench::with_memory(3 * 4096);
        for page in 0..3_u64 {
            let mut bd = RxBd::default();
            bd.set_haddr(BASE + (page + 1) % 3 * 4096);
            let at = (page * 4096 + BD * 255) as usize;
            b.host.mem[at..at + 16].copy_from_slice(bd.bytes());
        }
        let mut c = Chain::at(BASE);
        assert_eq!((c.until(255), c.until(256), c.until(257), c.until(3 * 256)), (255, 255, 256, 765));
        let mut seen = Vec::new();
        b.with(|cx| {
            for _ in 0..4 {
                let (at, n) = c.locate(cx, cx.host.grant()).expect("mapped");
                seen.push((at - BASE, n));
                c.advance(n);
            }
        });
        assert_eq!(seen, [(0, 255), (4096, 255), (8192, 255), (0, 255)]);
        assert_eq!(c.index(), 1023);
        c = Chain { page: BASE, index: 0xfffe };
        assert_eq!((c.until(1), c.until(0)), (2, 1), "indexes wrap");
    }
}
