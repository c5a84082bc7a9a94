//! User buffers: DMA memory by generation-checked handle. Whether requests still use one, their queues know.

use bus::mem::DmaBuf;
use bus::pci::{DmaExhausted, Platform};

use crate::user::{Extent, FreeError, UserBuf};

struct Slot {
    generation: u32,
    buf: Option<DmaBuf>,
}

/// The buffers of all users.
#[derive(Default)]
pub(crate) struct Buffers {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Buffers {
    pub(crate) fn alloc<P: Platform>(&mut self, p: &mut P, len: usize) -> Result<UserBuf, DmaExhausted> {
        let short = u32::try_from(len).map_err(|_| DmaExhausted {
            asked: len,
            tag: "user",
            limit: u32::MAX as usize,
        })?;
        let buf = p.dma_alloc(len, "user")?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, buf: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.buf = Some(buf);
        Ok(UserBuf { index, generation: slot.generation, len: short })
    }

    pub(crate) fn free<P: Platform>(&mut self, p: &mut P, buf: UserBuf) -> Result<(), FreeError> {
        let slot = self.slots.get_mut(buf.index as usize).filter(|s| s.generation == buf.generation);
        let Some(slot) = slot else { return Err(FreeError::Stale) };
        let mem = slot.buf.take().ok_or(FreeError::Stale)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(buf.index);
        p.dma_free(mem);
        Ok(())
    }

    pub(crate) fn get(&self, buf: UserBuf) -> Option<&DmaBuf> {
        self.slots.get(buf.index as usize).filter(|s| s.generation == buf.generation)?.buf.as_ref()
    }

    /// Whether the extent lies inside a live buffer.
    pub(crate) fn holds(&self, e: &Extent) -> bool {
        self.get(e.buf).is_some() && e.offset.checked_add(e.len).is_some_and(|end| end <= e.buf.len())
    }

    pub(crate) fn live(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }
}
