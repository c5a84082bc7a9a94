//! On-chip memory: what backs context memory, scratchpads and registers that nobody modelled.

/// Words of a page; a page that was never written to takes no space.
const PAGE_WORDS: usize = 1024;

/// Word-addressed memory that answers zero where nothing was written. Bounded by its size.
pub(super) struct SparseMem {
    pages: Vec<Option<Box<[u32; PAGE_WORDS]>>>,
}

impl SparseMem {
    /// Memory of `bytes` bytes, all zero.
    pub(super) fn new(bytes: u32) -> Self {
        let pages = (bytes as usize).div_ceil(4 * PAGE_WORDS);
        Self { pages: (0..pages).map(|_| None).collect() }
    }

    fn split(at: u32) -> (usize, usize) {
        let word = at as usize / 4;
        (word / PAGE_WORDS, word % PAGE_WORDS)
    }

    /// The word at byte address `at`; 0 beyond the end.
    pub(super) fn read(&self, at: u32) -> u32 {
        let (page, word) = Self::split(at);
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |p| p[word])
    }

    /// Stores a word. Beyond the end nothing happens.
    pub(super) fn write(&mut self, at: u32, value: u32) {
        let (page, word) = Self::split(at);
        let Some(slot) = self.pages.get_mut(page) else { return };
        match slot {
            Some(p) => p[word] = value,
            None if value == 0 => {}
            None => {
                let mut p = Box::new([0; PAGE_WORDS]);
                p[word] = value;
                *slot = Some(p);
            }
        }
    }

    /// Zeroes everything.
    pub(super) fn clear(&mut self) {
        self.pages.fill_with(|| None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_and_the_end_is_harmless() {
        let mut m = SparseMem::new(8192);
        m.write(4092, 7);
        m.write(4096, 0);
        m.write(8192, 9);
        assert_eq!((m.read(4092), m.read(4096), m.read(8192), m.read(u32::MAX)), (7, 0, 0, 0));
        assert!(m.pages[1].is_none(), "zeros take no space");
        m.clear();
        assert_eq!(m.read(4092), 0);
    }
}
