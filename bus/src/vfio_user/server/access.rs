//! Region accesses, cut into what a bus carries: aligned accesses of 1, 2, 4 or 8 bytes to a BAR, dwords with
//! byte enables to config space.

use crate::actor::Cx;
use crate::config::Effect;
use crate::pci::{Bar, ResetKind, Width};
use crate::trace::EventKind;

use super::super::doorbell::{STATE_EPOCH, STATE_PARKED};
use super::super::errno::Errno;
use super::super::message::{REGION_CONFIG, REGION_SLOT};
use super::Server;
use super::serve::CONFIG_BYTES;

/// First byte of config space that no dword stands behind.
const CONFIG_END: u64 = 256;

/// The next aligned access of a transfer. 8 bytes only when they are all of it.
fn width(at: u64, left: usize, whole: usize) -> Width {
    match () {
        () if whole == 8 && left == 8 && at.is_multiple_of(8) => Width::B8,
        () if left >= 4 && at.is_multiple_of(4) => Width::B4,
        () if left >= 2 && at.is_multiple_of(2) => Width::B2,
        () => Width::B1,
    }
}

impl Server {
    /// The bytes of an access are inside the region.
    fn check(&self, region: u32, at: u64, count: usize) -> Result<(), Errno> {
        let size = match region {
            REGION_CONFIG => CONFIG_BYTES,
            REGION_SLOT if self.port.peer.slot => CONFIG_BYTES,
            0..=5 => self.port.gate.config.bar_size(Bar(region as u8)),
            _ => 0,
        };
        let inside = at.checked_add(count as u64).is_some_and(|end| end <= size);
        if inside { Ok(()) } else { Err(Errno::EINVAL) }
    }

    pub(super) fn region_read(
        &mut self,
        cx: &mut Cx<'_>,
        region: u32,
        at: u64,
        out: &mut [u8],
    ) -> Result<(), Errno> {
        self.check(region, at, out.len())?;
        self.ring_all(cx);
        match region {
            REGION_CONFIG => self.config_bytes(cx, at, out),
            REGION_SLOT => {
                let state: Vec<u8> = (0..2).flat_map(|i| self.state_word(4 * i).to_le_bytes()).collect();
                let bytes = state.into_iter().chain(std::iter::repeat(0)).skip(at as usize);
                out.iter_mut().zip(bytes).for_each(|(o, b)| *o = b);
            }
            _ => self.bar_bytes(cx, Bar(region as u8), at, out),
        }
        Ok(())
    }

    /// The state page, for clients that do not map it. While we answer we are not parked.
    fn state_word(&self, at: usize) -> u32 {
        match at {
            STATE_EPOCH => self.port.gate.epoch.0,
            STATE_PARKED => 0,
            _ => 0,
        }
    }

    pub(super) fn region_write(
        &mut self,
        cx: &mut Cx<'_>,
        region: u32,
        at: u64,
        data: &[u8],
    ) -> Result<(), Errno> {
        self.check(region, at, data.len())?;
        if region == REGION_SLOT {
            return Err(Errno::EINVAL);
        }
        self.ring_all(cx);
        let mut done = 0;
        while done < data.len() {
            let here = at + done as u64;
            let rest = &data[done..];
            done += if region == REGION_CONFIG {
                self.config_dword_write(cx, here, rest)
            } else {
                let bar = Bar(region as u8);
                let mut w = width(here, rest.len(), data.len());
                if w == Width::B8 && self.port.gate.config.msix_read(bar, here).is_some() {
                    w = Width::B4;
                }
                let n = w.bytes() as usize;
                let mut value = [0; 8];
                value[..n].copy_from_slice(&rest[..n]);
                self.bar_write(cx, bar, here, w, u64::from_le_bytes(value), EventKind::RegisterWrite);
                n
            };
        }
        Ok(())
    }

    fn bar_bytes(&mut self, cx: &mut Cx<'_>, bar: Bar, at: u64, out: &mut [u8]) {
        let (mut done, whole) = (0, out.len());
        while done < whole {
            let here = at + done as u64;
            let table = self.port.gate.config.msix_read(bar, here & !3);
            let w = match width(here, whole - done, whole) {
                Width::B8 if table.is_some() => Width::B4,
                w => w,
            };
            let n = w.bytes() as usize;
            let value = if !self.port.gate.config.decodes_memory() {
                w.ones()
            } else if let Some(v) = table {
                u64::from(v >> (8 * (here & 3))) & w.ones()
            } else {
                self.with_card(cx, None, |card, cx| card.read(cx, bar, here, w)) & w.ones()
            };
            self.note(cx, EventKind::RegisterRead, here, value);
            out[done..done + n].copy_from_slice(&value.to_le_bytes()[..n]);
            done += n;
        }
    }

    pub(super) fn bar_write(
        &mut self,
        cx: &mut Cx<'_>,
        bar: Bar,
        at: u64,
        w: Width,
        value: u64,
        kind: EventKind,
    ) {
        if !self.port.gate.config.decodes_memory() {
            return;
        }
        self.note(cx, kind, at, value);
        // The client keeps the table that its driver sees; ours is storage.
        if w != Width::B4 || !self.port.gate.config.msix_write(bar, at, value as u32) {
            self.with_card(cx, None, |card, cx| card.write(cx, bar, at, w, value));
        }
    }

    fn config_dword(&mut self, cx: &mut Cx<'_>, at: u16) -> u32 {
        if u64::from(at) >= CONFIG_END {
            0
        } else if self.port.gate.config.owns(at) {
            self.port.gate.config.read(at)
        } else {
            self.with_card(cx, None, |card, cx| card.config_read(cx, at))
        }
    }

    fn config_bytes(&mut self, cx: &mut Cx<'_>, at: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let here = at + done as u64;
            let word = self.config_dword(cx, (here & !3) as u16).to_le_bytes();
            let first = (here & 3) as usize;
            let n = (4 - first).min(out.len() - done);
            out[done..done + n].copy_from_slice(&word[first..first + n]);
            done += n;
        }
    }

    /// Writes what falls into the first dword; returns how many bytes that were.
    fn config_dword_write(&mut self, cx: &mut Cx<'_>, at: u64, data: &[u8]) -> usize {
        let first = (at & 3) as usize;
        let n = (4 - first).min(data.len());
        let (mut value, mut mask) = ([0; 4], [0; 4]);
        value[first..first + n].copy_from_slice(&data[..n]);
        mask[first..first + n].fill(0xff);
        let (value, mask) = (u32::from_le_bytes(value), u32::from_le_bytes(mask));
        let dword = (at & !3) as u16;
        if at >= CONFIG_END {
            // The extended part is empty.
        } else if self.port.gate.config.owns(dword) {
            match self.port.gate.config.write(dword, value, mask) {
                Effect::None => {}
                Effect::Interrupts => self.port.update_intx(),
                Effect::Flr => {
                    self.reset(cx, ResetKind::Flr);
                }
            }
        } else {
            self.with_card(cx, None, |card, cx| card.config_write(cx, dword, value, mask));
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_cut_at_natural_boundaries() {
        let cut = |at: u64, len: usize| {
            let (mut done, mut out) = (0, Vec::new());
            while done < len {
                let w = width(at + done as u64, len - done, len);
                out.push(w.bytes());
                done += w.bytes() as usize;
            }
            out
        };
        assert_eq!(cut(0, 8), [8]);
        assert_eq!(cut(4, 8), [4, 4]);
        assert_eq!(cut(1, 8), [1, 2, 4, 1]);
        assert_eq!(cut(2, 2), [2]);
        assert_eq!(cut(3, 2), [1, 1]);
        assert_eq!(cut(0, 16), [4, 4, 4, 4]);
    }
}
