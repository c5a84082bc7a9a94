//! NVRAM: arbitration, and a flash with the areas that a driver checks (CHIP-REGISTERS 2, item 6).
//!
//! | bytes | what |
//! |---|---|
//! | 0x000 to 0x0ff | bootstrap: magic, CRC-32 of the header; directory of images, empty, with its CRC-32 |
//! | 0x100 to 0x1ff | manufacturing information: MAC addresses; ends with its CRC-32 |
//! | 0x200 to 0x2ff | feature information; ends with its CRC-32 |
//! | 0x300 to 0x37f | vital product data (PCI 2.2, appendix I), the bytes of each word reversed |
//!
//! All other cells are erased. Words are big-endian; CRCs are those of Ethernet, least significant byte
//! first. What a host writes is kept for the life of the card. Not modelled: write protection by page, the
//! status register of the flash.

use hsi::bcm5709::regs as hw;

use super::mem::SparseMem;
use crate::config::ChipConfig;
use crate::ether;

/// Bytes of the flash.
const BYTES: u32 = 1 << 20;

/// First word of the flash.
const MAGIC: u32 = 0x6699_55aa;
/// End of the bootstrap header, and of the directory behind it.
const BOOTSTRAP: (usize, usize) = (0x14, 0x100);
const MANUFACTURING: usize = 0x100;
const FEATURES: usize = 0x200;
/// Bytes of each of the two.
const AREA: usize = 0x100;
const VPD: usize = 0x300;
const VPD_BYTES: usize = 0x80;

/// Ends `area` with the CRC of what is in front.
fn seal(area: &mut [u8]) {
    let (body, crc) = area.split_at_mut(area.len() - 4);
    crc.copy_from_slice(&(!ether::crc(body)).to_le_bytes());
}

/// The first bytes of a flash from the factory.
fn image(config: &ChipConfig) -> [u8; VPD + VPD_BYTES] {
    let mut image = [0; VPD + VPD_BYTES];
    image[..4].copy_from_slice(&MAGIC.to_be_bytes());
    seal(&mut image[..BOOTSTRAP.0]);
    seal(&mut image[BOOTSTRAP.0..BOOTSTRAP.1]);
    let area = &mut image[MANUFACTURING..][..AREA];
    area[..6].copy_from_slice(&config.mac);
    area[8..14].copy_from_slice(&config.iscsi_mac);
    seal(area);
    seal(&mut image[FEATURES..][..AREA]);
    let vpd = vital_product_data(config);
    image[VPD..][..vpd.len()].copy_from_slice(&vpd);
    image[VPD..].chunks_exact_mut(4).for_each(<[u8]>::reverse);
    image
}

/// Identifier string, and the read-only resource: part number, serial number, checksum.
fn vital_product_data(config: &ChipConfig) -> Vec<u8> {
    const NAME: &[u8] = b"BCM5709 NetXtreme II model";
    let serial: String = config.mac.iter().map(|b| format!("{b:02X}")).collect();
    let mut vpd = vec![0x82, NAME.len() as u8, 0];
    vpd.extend(NAME);
    let fields: [(&[u8; 2], &[u8]); 2] = [(b"PN", b"BCM95709"), (b"SN", serial.as_bytes())];
    let bytes = fields.iter().map(|f| 3 + f.1.len()).sum::<usize>() + 4;
    vpd.extend([0x90, bytes as u8, 0]);
    for (key, value) in fields {
        vpd.extend(key);
        vpd.push(value.len() as u8);
        vpd.extend(value);
    }
    vpd.extend(*b"RV\x01");
    let sum = vpd.iter().fold(0_u8, |sum, &b| sum.wrapping_add(b));
    vpd.push(sum.wrapping_neg());
    vpd.push(0x78);
    vpd
}

/// The flash with its controller.
pub(super) struct Nvram {
    /// Inverted, so that erased words take no space.
    cells: SparseMem,
    requests: u32,
    owner: Option<u32>,
    status: u32,
}

impl Nvram {
    /// The flash as it left the factory.
    pub(super) fn new(config: &ChipConfig) -> Self {
        let mut cells = SparseMem::new(BYTES);
        let image = image(config);
        for (at, word) in (0..).step_by(4).zip(image.chunks_exact(4)) {
            let word = word.iter().fold(0, |w, &b| w << 8 | u32::from(b));
            cells.write(at, !word);
        }
        Self { cells, requests: 0, owner: None, status: 0 }
    }

    /// A reset of the chip: requests are forgotten, the flash is not.
    pub(super) fn reset(&mut self) {
        (self.requests, self.owner, self.status) = (0, None, 0);
    }

    /// A write to `NVM_SW_ARB`: its value afterwards. The owner keeps the flash until it clears its request;
    /// then the lowest request wins.
    pub(super) fn arbitrate(&mut self, written: u32) -> u32 {
        self.requests |= written & 0xf;
        self.requests &= !(written >> 4 & 0xf);
        self.owner = self.owner.filter(|o| self.requests >> o & 1 == 1);
        if self.owner.is_none() && self.requests != 0 {
            self.owner = Some(self.requests.trailing_zeros());
        }
        self.requests << 12 | self.owner.map_or(0, |o| hw::NVM_SW_ARB_ARB_ARB0 << o)
    }

    /// A write to `NVM_COMMAND`: its value afterwards, and the word read.
    pub(super) fn command(
        &mut self,
        written: u32,
        at: u32,
        data: u32,
        may_write: bool,
    ) -> (u32, Option<u32>) {
        if written & hw::NVM_COMMAND_DOIT == 0 {
            self.status &= !(written & hw::NVM_COMMAND_DONE);
            return (self.status, None);
        }
        self.status = written & !hw::NVM_COMMAND_DOIT | hw::NVM_COMMAND_DONE;
        let at = at & (BYTES - 4);
        if written & hw::NVM_COMMAND_WR == 0 {
            return (self.status, Some(!self.cells.read(at)));
        }
        if may_write {
            self.cells.write(at, !data);
        }
        (self.status, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let mut n = Nvram::new(&ChipConfig::default());
        let (arb2, req2) = (hw::NVM_SW_ARB_ARB_ARB2, hw::NVM_SW_ARB_REQ2);
        assert_eq!(n.arbitrate(hw::NVM_SW_ARB_ARB_REQ_SET2), arb2 | req2);
        assert_eq!(n.arbitrate(hw::NVM_SW_ARB_ARB_REQ_SET0) & arb2, arb2, "the owner stays");
        assert_eq!(n.arbitrate(hw::NVM_SW_ARB_ARB_REQ_CLR2), hw::NVM_SW_ARB_ARB_ARB0 | hw::NVM_SW_ARB_REQ0);
        n.reset();
        assert_eq!(n.arbitrate(0), 0);
    }

    #[test]
    fn erased_until_written() {
        let mut n = Nvram::new(&ChipConfig::default());
        let read = hw::NVM_COMMAND_DOIT | hw::NVM_COMMAND_FIRST;
        let (status, word) = n.command(read, 0x400, 0, false);
        assert_eq!((status & hw::NVM_COMMAND_DONE, word), (hw::NVM_COMMAND_DONE, Some(!0)));
        assert_eq!(n.command(hw::NVM_COMMAND_DONE, 0, 0, false).0 & hw::NVM_COMMAND_DONE, 0);
        let write = hw::NVM_COMMAND_DOIT | hw::NVM_COMMAND_WR;
        n.command(write, 0x400, 7, false);
        assert_eq!(n.command(read, 0x400, 0, true).1, Some(!0), "not enabled");
        n.command(write, 0x400, 7, true);
        n.reset();
        assert_eq!(n.command(read, 0x400, 0, true).1, Some(7));
        assert_eq!(n.command(read, u32::MAX, 0, true).1, Some(!0));
    }

    #[test]
    fn each_area_ends_with_its_crc() {
        let mut n = Nvram::new(&ChipConfig::default());
        let mut bytes = Vec::new();
        for at in (0..0x380).step_by(4) {
            let read = hw::NVM_COMMAND_DOIT;
            bytes.extend(n.command(read, at, 0, false).1.expect("a word").to_be_bytes());
        }
        assert_eq!(bytes[..4], [0x66, 0x99, 0x55, 0xaa]);
        for area in [0..0x14, 0x14..0x100, 0x100..0x200, 0x200..0x300] {
            assert_eq!(ether::crc(&bytes[area]), 0xdebb_20e3, "the residue of CRC-32");
        }
        bytes[0x300..].chunks_exact_mut(4).for_each(<[u8]>::reverse);
        let end = 0x300 + bytes[0x300..].windows(3).position(|w| w == b"RV\x01").expect("a checksum") + 4;
        assert_eq!(bytes[0x300..end].iter().fold(0_u8, |sum, &b| sum.wrapping_add(b)), 0);
        assert_eq!((bytes[0x300], bytes[end]), (0x82, 0x78));
    }
}
