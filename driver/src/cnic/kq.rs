//! Kernel work queue (KWQ, host to chip) and kernel completion queue (KCQ, chip to host), BNX2I-CNIC 0.2,
//! 2.4, 5.9.
//!
//! Indexes run freely in 16 bits; the ring slot is the index modulo the ring size. The KWQ has room up to the
//! consumer index that the chip publishes in the status block, the KCQ up to the index that the driver writes
//! back.

use bus::actor::Cx;
use bus::mem::PAGE_SIZE;
use bus::pci::{BusLost, Dir, DmaExhausted, Platform, Proof};
use hsi::bcm5709::limits::{KCQ_PAGE_CNT, KERNEL_QUEUE_ELEMENT_BYTES, KWQ_PAGE_CNT, MAX_COMPLETED_KCQE};
use hsi::bcm5709::pte::IscsiPte;
use hsi::bcm5709::{ctx, doorbell, regs as r};
use hsi::kernel::kcq::Kcqe;
use hsi::kernel::kwq::Kwqe;
use thiserror::Error;
use zerocopy::{FromBytes, IntoBytes};

use crate::l2::Regs;
use crate::mem::Lent;

/// Entries of the KWQ.
pub(crate) const KWQ_ENTRIES: u16 = (KWQ_PAGE_CNT * PAGE_SIZE / KERNEL_QUEUE_ELEMENT_BYTES) as u16;
/// Entries of the KCQ.
pub(crate) const KCQ_ENTRIES: u16 = (KCQ_PAGE_CNT * PAGE_SIZE / KERNEL_QUEUE_ELEMENT_BYTES) as u16;
/// KWQEs of the longest batch: an IPv6 connect.
pub(crate) const MAX_BATCH: usize = 3;

const KCQ_AT: usize = KWQ_PAGE_CNT * PAGE_SIZE;
const KWQ_TABLE: usize = KCQ_AT + KCQ_PAGE_CNT * PAGE_SIZE;
const KCQ_TABLE: usize = KWQ_TABLE + PAGE_SIZE;
const BYTES: usize = KCQ_TABLE + PAGE_SIZE;

/// The batch does not fit: the chip has not fetched enough. Nothing was posted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("kernel work queue full")]
pub(crate) struct KwqFull;

/// The chip published something impossible.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum KcqError {
    /// More entries than the ring has.
    #[error("kernel completion queue overrun")]
    Overrun,
    /// A group without an end.
    #[error("endless group in the kernel completion queue")]
    Group,
}

/// Both rings with their page tables, lent for as long as the chip is up.
#[must_use]
pub(crate) struct KernelQueues {
    mem: Lent,
    kwq_producer: u16,
    kcq_consumer: u16,
}

impl KernelQueues {
    /// Allocates the rings and fills their page tables. The chip does not know of them yet.
    pub(crate) fn new<P: Platform>(p: &mut P) -> Result<Self, DmaExhausted> {
        let parts =
            [(0..KCQ_AT, Dir::ToCard), (KCQ_AT..KWQ_TABLE, Dir::FromCard), (KWQ_TABLE..BYTES, Dir::ToCard)];
        let mem = Lent::new(p, BYTES, "kernel queues", &parts)?;
        let page_table = |at: usize, first: usize, pages: usize| {
            for i in 0..pages {
                let pte = IscsiPte::new(mem.addr(first + i * PAGE_SIZE));
                mem.buf().write(at + i * size_of::<IscsiPte>(), pte.as_bytes());
            }
        };
        page_table(KWQ_TABLE, 0, KWQ_PAGE_CNT);
        page_table(KCQ_TABLE, KCQ_AT, KCQ_PAGE_CNT);
        Ok(Self { mem, kwq_producer: 0, kcq_consumer: 0 })
    }

    /// Fills contexts 24 and 25, then lets the chip's processors start (2.4, step 3).
    pub(crate) fn program<P: Platform>(&self, p: &mut P, cx: &mut Cx<'_>) {
        let mut regs = Regs::new(p, cx);
        for (cid, table, pages) in
            [(ctx::KWQ_CID, KWQ_TABLE, KWQ_PAGE_CNT), (ctx::KCQ_CID, KCQ_TABLE, KCQ_PAGE_CNT)]
        {
            let base = ctx::address(cid);
            for at in (0..ctx::CTX_SIZE).step_by(4) {
                regs.context_write(base + at, 0);
            }
            let kind = ctx::KRNLQ_TYPE_TYPE_KRNLQ
                | ctx::KRNLQ_SIZE_TYPE_SIZE
                | ctx::KRNLQ_FLAGS_PG_SZ_4K
                | ctx::KRNLQ_FLAGS_QE_SELF_SEQ;
            let per_page = (PAGE_SIZE / KERNEL_QUEUE_ELEMENT_BYTES) as u32;
            regs.context_write(base + ctx::L5_KRNLQ_TYPE, kind);
            regs.context_write(base + ctx::L5_KRNLQ_QE_SELF_SEQ_MAX, (per_page - 1) << 16);
            regs.context_write(base + ctx::L5_KRNLQ_PGTBL_NPAGES, 1 << 16 | pages as u32);
            let addr = self.mem.addr(table);
            regs.context_write(base + ctx::L5_KRNLQ_PGTBL_HADDR_HI, (addr >> 32) as u32);
            regs.context_write(base + ctx::L5_KRNLQ_PGTBL_HADDR_LO, addr as u32);
        }
        regs.window_write(r::CP_DOORBELL_ENABLE, 1);
        regs.window_write(r::COM_DOORBELL_ENABLE, 1);
    }

    /// Posts a batch in one piece and rings the doorbell. `consumer` is what the chip last published.
    pub(crate) fn submit<P: Platform>(
        &mut self,
        p: &mut P,
        cx: &mut Cx<'_>,
        consumer: u16,
        batch: &[Kwqe],
    ) -> Result<(), KwqFull> {
        let used = self.kwq_producer.wrapping_sub(consumer);
        // One slot stays free, as in the real driver, so that full and empty differ for a chip that masks.
        if used >= KWQ_ENTRIES || batch.len() >= usize::from(KWQ_ENTRIES - used) {
            return Err(KwqFull);
        }
        for kwqe in batch {
            let slot = usize::from(self.kwq_producer % KWQ_ENTRIES);
            self.mem.buf().write(slot * KERNEL_QUEUE_ELEMENT_BYTES, kwqe.as_bytes());
            self.kwq_producer = self.kwq_producer.wrapping_add(1);
        }
        let mailbox = u64::from(doorbell::mailbox(ctx::KWQ_CID) + ctx::L5_KRNLQ_HOST_QIDX);
        p.write16(cx, crate::l2::BAR0, mailbox, self.kwq_producer);
        Ok(())
    }

    /// Copies whole groups of completions up to `producer` into `out`, at most [`MAX_COMPLETED_KCQE`], and
    /// gives the slots back.
    pub(crate) fn collect<P: Platform>(
        &mut self,
        p: &mut P,
        cx: &mut Cx<'_>,
        producer: u16,
        out: &mut Vec<Kcqe>,
    ) -> Result<(), KcqError> {
        out.clear();
        let ready = producer.wrapping_sub(self.kcq_consumer);
        if ready > KCQ_ENTRIES {
            return Err(KcqError::Overrun);
        }
        let mut whole = 0;
        while out.len() < usize::from(ready).min(MAX_COMPLETED_KCQE) {
            let slot = usize::from(self.kcq_consumer.wrapping_add(out.len() as u16) % KCQ_ENTRIES);
            let mut bytes = [0; KERNEL_QUEUE_ELEMENT_BYTES];
            self.mem.buf().read(KCQ_AT + slot * KERNEL_QUEUE_ELEMENT_BYTES, &mut bytes);
            let kcqe = Kcqe::read_from_bytes(&bytes).expect("32 bytes are a KCQE");
            let last = !kcqe.next();
            out.push(kcqe);
            if last {
                whole = out.len();
            }
        }
        if whole == 0 && out.len() == MAX_COMPLETED_KCQE {
            out.clear();
            return Err(KcqError::Group);
        }
        out.truncate(whole);
        if whole != 0 {
            self.kcq_consumer = self.kcq_consumer.wrapping_add(whole as u16);
            let mailbox = u64::from(doorbell::mailbox(ctx::KCQ_CID) + ctx::L5_KRNLQ_HOST_QIDX);
            p.write16(cx, crate::l2::BAR0, mailbox, self.kcq_consumer);
        }
        Ok(())
    }

    /// Whether completions wait below `producer`.
    pub(crate) fn has_work(&self, producer: u16) -> bool {
        producer != self.kcq_consumer
    }

    /// The index behind the last KWQE that was posted.
    pub(crate) fn kwq_producer(&self) -> u16 {
        self.kwq_producer
    }

    pub(crate) fn loans(&self) -> u32 {
        self.mem.loans()
    }

    pub(crate) fn release<P: Platform>(self, p: &mut P, proof: Proof) {
        self.mem.release(p, proof);
    }
}

/// A register of the chip that tells how doorbells of connections are laid out (BNX2I-CNIC 4.5).
pub(crate) fn doorbell_layout<P: Platform>(p: &mut P, cx: &mut Cx<'_>) -> Result<u32, BusLost> {
    Regs::new(p, cx).read(r::MQ_CONFIG2)
}
