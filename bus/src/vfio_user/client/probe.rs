//! What a server says of its device, checked before it is believed: regions, interrupts, and the layout of
//! config space.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use os::shm::Mapping;

use crate::mem::SharedMem;
use crate::pci::{Bar, BarLayout, FunctionLayout, MsixLayout};

use super::super::message::{
    CAP_SPARSE_MMAP, REGION_CAPS, REGION_INFO_BYTES, REGION_MAPPABLE, u32_at, u64_at,
};

/// Capabilities that a config space can hold (64 dwords, each at least one dword, none in the header).
const CAPABILITIES: usize = 48;

/// A region as the server describes it.
pub(super) struct RegionInfo {
    pub(super) size: u64,
    /// Argument size with which the server can say everything.
    pub(super) argsz: u32,
    /// What may be mapped: offset, size, offset in the file.
    area: Option<(u64, u64, u64)>,
}

impl RegionInfo {
    pub(super) fn decode(p: &[u8]) -> Option<Self> {
        if p.len() < REGION_INFO_BYTES {
            return None;
        }
        let (argsz, flags, chain) = (u32_at(p, 0), u32_at(p, 4), u32_at(p, 12) as usize);
        let (size, offset) = (u64_at(p, 16), u64_at(p, 24));
        let mut area = None;
        if flags & REGION_MAPPABLE != 0 && flags & REGION_CAPS != 0 {
            let cap = p.get(chain..).filter(|c| chain >= REGION_INFO_BYTES && c.len() >= 32);
            area = cap
                .filter(|c| u32_at(c, 0) & 0xffff == u32::from(CAP_SPARSE_MMAP) && u32_at(c, 8) == 1)
                .and_then(|c| {
                    let (at, bytes) = (u64_at(c, 16), u64_at(c, 24));
                    let inside = at.checked_add(bytes).is_some_and(|end| end <= size);
                    inside.then_some((at, bytes, offset.checked_add(at)?))
                });
        }
        Some(Self { size, argsz, area })
    }

    /// Maps the area that may be mapped.
    pub(super) fn map(&self, fd: &OwnedFd, writable: bool) -> Option<Area> {
        let (at, bytes, offset) = self.area?;
        let mapping = Rc::new(Mapping::new(fd.as_fd(), offset, bytes, writable).ok()?);
        Some(Area { at, memory: SharedMem::window(&mapping, 0, mapping.len()) })
    }
}

/// A mapped part of a region.
pub(super) struct Area {
    /// Offset in the region.
    pub(super) at: u64,
    pub(super) memory: Rc<SharedMem>,
}

impl Area {
    /// Offset in the area of an access to the region, if it is inside.
    pub(super) fn offset(&self, at: u64, len: u64) -> Option<usize> {
        let offset = at.checked_sub(self.at)?;
        if offset.checked_add(len)? <= self.memory.len() as u64 { Some(offset as usize) } else { None }
    }
}

/// Reads identity, BARs and capabilities out of config space. `sizes` are those of the BAR regions. `None`: a
/// capability is missing, or does not fit.
pub(super) fn layout(config: &[u8; 256], sizes: [u64; 6]) -> Option<FunctionLayout> {
    let dword = |at: usize| u32_at(config, at & !3);
    let (mut pm, mut msi, mut msix, mut pcie) = (None, None, None, None);
    let mut at = config[0x34] & !3;
    for _ in 0..CAPABILITIES {
        if at < 0x40 {
            break;
        }
        let slot = match config[usize::from(at)] {
            0x01 => &mut pm,
            0x05 => &mut msi,
            0x11 => &mut msix,
            0x10 => &mut pcie,
            _ => &mut None,
        };
        *slot = Some(at);
        at = config[usize::from(at) + 1] & !3;
    }
    let mut bars = Vec::new();
    let mut i = 0;
    while i < 6 {
        let wide = dword(0x10 + 4 * i) & 7 == 4;
        let size = sizes[i];
        if size != 0 {
            if !size.is_power_of_two() || size < 4096 || wide && i == 5 {
                return None;
            }
            bars.push(BarLayout { bar: Bar(i as u8), size, wide });
        }
        i += if wide { 2 } else { 1 };
    }
    let (msix, fits) = (usize::from(msix?), |c: u8, bytes: u8| c.checked_add(bytes).map(|_| c));
    let (table, pba) = (u32_at(config, msix + 4), u32_at(config, msix + 8));
    let msix = MsixLayout {
        capability: fits(msix as u8, 11)?,
        vectors: (dword(msix) >> 16 & 0x7ff) as u16 + 1,
        bar: Bar((table & 7) as u8),
        table: table & !7,
        pba: pba & !7,
    };
    let home = bars.iter().find(|b| b.bar == msix.bar)?.size;
    let table_end = u64::from(msix.table) + 16 * u64::from(msix.vectors);
    if msix.vectors > 64 || table_end > home || u64::from(msix.pba) + 8 > home {
        return None;
    }
    Some(FunctionLayout {
        vendor: dword(0) as u16,
        device: (dword(0) >> 16) as u16,
        revision: dword(8) as u8,
        class: dword(8) >> 8,
        subsystem: (dword(0x2c) as u16, (dword(0x2c) >> 16) as u16),
        bars,
        pm: fits(pm?, 7)?,
        msi: fits(msi?, 15)?,
        msix,
        pcie: fits(pcie?, 11)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::ConfigSpace;
    use crate::config::sample;

    fn config() -> [u8; 256] {
        let c = ConfigSpace::new(&sample());
        let mut out = [0; 256];
        for (i, d) in out.chunks_exact_mut(4).enumerate() {
            d.copy_from_slice(&c.read(4 * i as u16).to_le_bytes());
        }
        out
    }

    const SIZES: [u64; 6] = [32 << 20, 0, 0, 0, 0, 0];

    #[test]
    fn the_layout_is_found_again() {
        assert_eq!(layout(&config(), SIZES), Some(sample()));
    }

    #[test]
    fn what_does_not_fit_is_not_believed() {
        assert_eq!(layout(&config(), [0; 6]), None, "no BAR for the table");
        assert_eq!(layout(&config(), [0x8000, 0, 0, 0, 0, 0]), None, "the table is outside");
        assert_eq!(layout(&config(), [(32 << 20) + 1, 0, 0, 0, 0, 0]), None);
        for (at, value) in [(0x34, 0), (0x34, 0xfc), (0x49, 0x48), (0xa3, 0x07)] {
            let mut c = config();
            c[at] = value;
            assert_eq!(layout(&c, SIZES), None, "{at:#x} = {value:#x}");
        }
    }

    proptest! {
        #[test]
        fn whatever_config_space_says_a_layout_can_be_used(
            patches in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..12),
        ) {
            let mut c = config();
            for (at, v) in patches {
                c[usize::from(at)] = v;
            }
            if let Some(l) = layout(&c, SIZES) {
                let mut space = ConfigSpace::new(&l);
                for at in (0..256).step_by(4) {
                    space.write(at, !0, !0);
                    space.read(at);
                }
            }
        }

        #[test]
        fn whatever_a_region_says_does_not_panic(p in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(r) = RegionInfo::decode(&p) {
                prop_assert!(r.area.is_none_or(|(at, bytes, _)| at + bytes <= r.size));
            }
        }
    }
}
