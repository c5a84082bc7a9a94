//! DMA memory that is lent to the card as long as it lives: rings, page tables, status blocks.
//!
//! A [`Lent`] cannot be freed without saying why the card is done with it (ARCHITECTURE 7, rule 3).

use core::ops::Range;

use bus::mem::DmaBuf;
use bus::pci::{Dir, DmaExhausted, Loan, Platform, Proof};

/// One allocation with the loans of its parts.
#[must_use = "lent memory is released with proof that the card is done with it"]
pub(crate) struct Lent {
    buf: DmaBuf,
    loans: Vec<Loan>,
}

impl Lent {
    /// Allocates `len` bytes and lends the given parts.
    pub(crate) fn new<P: Platform>(
        p: &mut P,
        len: usize,
        tag: &'static str,
        parts: &[(Range<usize>, Dir)],
    ) -> Result<Self, DmaExhausted> {
        let buf = p.dma_alloc(len, tag)?;
        let loans = parts.iter().map(|(range, dir)| p.lend(&buf, range.clone(), *dir)).collect();
        Ok(Self { buf, loans })
    }

    pub(crate) fn buf(&self) -> &DmaBuf {
        &self.buf
    }

    pub(crate) fn addr(&self, offset: usize) -> u64 {
        self.buf.addr() + offset as u64
    }

    pub(crate) fn loans(&self) -> u32 {
        self.loans.len() as u32
    }

    /// Takes the loans back and frees the memory.
    pub(crate) fn release<P: Platform>(self, p: &mut P, proof: Proof) {
        for loan in self.loans {
            p.reclaim(loan, proof);
        }
        p.dma_free(self.buf);
    }
}
