//! Which frames the port takes, and for whom: MAC match registers, sort rules, multicast hash, length, RSS.
//!
//! Sort rule 0 feeds the netdev (CID 0 and the rings of RSS), sort rule 2 the helper (CID 2); a frame may
//! match both. Rules 1 and 3 have no ring behind them. Not modelled: VLAN filters (every tag passes), RSS of
//! older chips.

use hsi::bcm5709::l2::L2Fhdr;
use hsi::bcm5709::regs as hw;

use crate::bcm5709::regs::RegisterFile;
use crate::ether::{self, FCS, TCP, UDP, VLAN_TAG};

/// MAC match registers, two words each.
const MATCHES: u32 = 16;
/// Entries of the RSS table: eight words of four bits each, sixteen times.
const RSS_ENTRIES: usize = 128;
/// Largest frame when the driver has set none, FCS included.
const STANDARD: usize = 1518;

/// The key of the hash that hosts assume (the well-known one; drivers of this chip set none).
const RSS_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Longest frame that is taken, without FCS. A tag does not count.
pub(super) fn largest(regs: &RegisterFile, frame: &[u8]) -> usize {
    let set = (regs.get(hw::EMAC_RX_MTU_SIZE) & hw::EMAC_RX_MTU_SIZE_MTU_SIZE) as usize;
    let limit = if set == 0 { STANDARD } else { set };
    let tag = if ether::vlan(frame).is_some() { VLAN_TAG } else { 0 };
    limit.saturating_sub(FCS) + tag
}

/// Whether sort rules 0 and 2 take the frame.
pub(super) fn users(regs: &RegisterFile, frame: &[u8]) -> [bool; 2] {
    [hw::RPM_SORT_USER0, hw::RPM_SORT_USER2].map(|at| matches(regs, regs.get(at), frame))
}

fn matches(regs: &RegisterFile, rule: u32, frame: &[u8]) -> bool {
    let has = |bit: u32| rule & bit != 0;
    let destination = &frame[..6];
    if !has(hw::RPM_SORT_USER0_ENA) {
        return false;
    }
    if has(hw::RPM_SORT_USER0_PROM_EN) || destination == [0xff; 6] && has(hw::RPM_SORT_USER0_BC_EN) {
        return true;
    }
    if destination[0] & 1 == 1 && destination != [0xff; 6] {
        if has(hw::RPM_SORT_USER0_MC_EN) {
            return true;
        }
        let bit = ether::crc(destination) & 0xff;
        let word = regs.get(hw::EMAC_MULTICAST_HASH0 + 4 * (bit >> 5));
        if has(hw::RPM_SORT_USER0_MC_HSH_EN) && word >> (bit & 31) & 1 == 1 {
            return true;
        }
    }
    (0..MATCHES).any(|n| {
        rule & hw::RPM_SORT_USER0_PM_EN & 1 << n != 0 && {
            let [_, _, a, b] = regs.get(hw::EMAC_MAC_MATCH0 + 8 * n).to_be_bytes();
            let [c, d, e, f] = regs.get(hw::EMAC_MAC_MATCH1 + 8 * n).to_be_bytes();
            destination == [a, b, c, d, e, f]
        }
    })
}

/// The hash by which a frame is spread over the rings; `None` where the host has not asked for one.
pub(super) fn hash(regs: &RegisterFile, frame: &[u8]) -> Option<u32> {
    let config = regs.get(hw::RLUP_RSS_CONFIG);
    let ip = ether::parse(frame)?;
    let (kind, all) = if ip.v4 {
        (config & hw::RLUP_RSS_CONFIG_IPV4_RSS_TYPE_XI, hw::RLUP_RSS_CONFIG_IPV4_RSS_TYPE_ALL_XI)
    } else {
        (config & hw::RLUP_RSS_CONFIG_IPV6_RSS_TYPE_XI, hw::RLUP_RSS_CONFIG_IPV6_RSS_TYPE_ALL_XI)
    };
    if kind == 0 {
        return None;
    }
    let ports = kind == all && !ip.fragment && matches!(ip.protocol, TCP | UDP) && ip.l4 + 4 <= ip.end;
    let ports = if ports { &frame[ip.l4..ip.l4 + 4] } else { &[] };
    Some(toeplitz(ip.addresses(frame).iter().chain(ports)))
}

fn toeplitz<'a>(input: impl Iterator<Item = &'a u8>) -> u32 {
    let key = |bit: usize| RSS_KEY[bit / 8 % RSS_KEY.len()] >> (7 - bit % 8) & 1;
    let mut window = u32::from_be_bytes([RSS_KEY[0], RSS_KEY[1], RSS_KEY[2], RSS_KEY[3]]);
    let (mut hash, mut bit) = (0, 32);
    for byte in input {
        for i in (0..8).rev() {
            if byte >> i & 1 == 1 {
                hash ^= window;
            }
            window = window << 1 | u32::from(key(bit));
            bit += 1;
        }
    }
    hash
}

/// The indirection table of RSS: hash to ring.
pub(super) struct RssTable {
    entries: [u8; RSS_ENTRIES],
}

impl RssTable {
    pub(super) fn new() -> Self {
        Self { entries: [0; RSS_ENTRIES] }
    }

    /// `RLUP_RSS_COMMAND`: writes the eight entries of a word, as far as the mask says; or reads them.
    pub(super) fn command(&mut self, command: u32, data: u32) -> Option<u32> {
        let word = (command & hw::RLUP_RSS_COMMAND_RSS_IND_TABLE_ADDR) as usize;
        let entries = &mut self.entries[8 * word..8 * word + 8];
        if command & hw::RLUP_RSS_COMMAND_WRITE != 0 {
            let mask = (command & hw::RLUP_RSS_COMMAND_RSS_WRITE_MASK) >> 4;
            for (i, e) in entries.iter_mut().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
                *e = (data >> (4 * i) & 0xf) as u8;
            }
        }
        let read = command & hw::RLUP_RSS_COMMAND_READ != 0;
        read.then(|| entries.iter().rev().fold(0, |word, &e| word << 4 | u32::from(e)))
    }

    /// The ring of a hash, counted from the first of RSS.
    pub(super) fn ring(&self, hash: u32) -> usize {
        self.entries[hash as usize % RSS_ENTRIES].into()
    }
}

/// Marks a frame header with the hash.
pub(super) fn mark(header: &mut L2Fhdr, hash: u32) {
    header.l2_fhdr_hash.set(hash);
    let status = header.l2_fhdr_status.get() | hsi::bcm5709::l2::L2_FHDR_STATUS_RSS_HASH;
    header.l2_fhdr_status.set(status);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bcm5709::regs::Space;
    use crate::config::ChipConfig;

    /// The published test vectors of the hash.
    #[test]
    fn the_hash_is_the_one_that_hosts_know() {
        let v4 = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(v4[..8].iter()), 0x323e_8fc2);
        assert_eq!(toeplitz(v4.iter()), 0x51cc_c178);
    }

    #[test]
    fn table_words_have_eight_entries() {
        let mut t = RssTable::new();
        let write = hw::RLUP_RSS_COMMAND_WRITE | hw::RLUP_RSS_COMMAND_RSS_WRITE_MASK;
        assert_eq!(t.command(write | 3, 0x7654_3210), None);
        assert_eq!((t.ring(24), t.ring(31), t.ring(128 + 25), t.ring(0)), (0, 7, 1, 0));
        t.command(hw::RLUP_RSS_COMMAND_WRITE | 0x10 | 3, 0xffff_ffff);
        assert_eq!(t.command(hw::RLUP_RSS_COMMAND_READ | 3, 0), Some(0x7654_321f));
    }

    #[test]
    fn sort_rules() {
        let mut regs = RegisterFile::new(&ChipConfig::default(), &[]);
        let mut set = |at: u32, value: u32| {
            regs.write(Space::Grc, at, value);
        };
        set(hw::EMAC_MAC_MATCH0, 0x0010);
        set(hw::EMAC_MAC_MATCH1, 0x18aa_bbcc);
        set(hw::EMAC_MAC_MATCH4, 0x0010);
        set(hw::EMAC_MAC_MATCH5, 0x18aa_bbcd);
        let group = [0x33, 0x33, 0, 0, 0, 1];
        let bit = ether::crc(&group) & 0xff;
        set(hw::EMAC_MULTICAST_HASH0 + 4 * (bit >> 5), 1 << (bit & 31));
        let (ena, bc) = (hw::RPM_SORT_USER0_ENA, hw::RPM_SORT_USER0_BC_EN);
        set(hw::RPM_SORT_USER2, ena | bc | 4);
        let frame = |to: [u8; 6]| [&to[..], &[0; 54]].concat();
        let (mine, iscsi, other) =
            ([0, 0x10, 0x18, 0xaa, 0xbb, 0xcc], [0, 0x10, 0x18, 0xaa, 0xbb, 0xcd], [2, 0, 0, 0, 0, 1]);
        let mut with = |rule: u32, to: [u8; 6]| {
            regs.write(Space::Grc, hw::RPM_SORT_USER0, rule);
            users(&regs, &frame(to))
        };
        assert_eq!(with(1 | bc, mine), [false, false], "not enabled");
        assert_eq!(with(ena | 1 | bc, mine), [true, false]);
        assert_eq!(with(ena | 1 | bc, iscsi), [false, true]);
        assert_eq!(with(ena | 1 | bc, [0xff; 6]), [true, true]);
        assert_eq!(with(ena | 1, [0xff; 6]), [false, true]);
        assert_eq!(with(ena | 1, other), [false, false]);
        assert_eq!(with(ena | hw::RPM_SORT_USER0_PROM_EN, other), [true, false]);
        assert_eq!(with(ena | 1, group), [false, false]);
        assert_eq!(with(ena | hw::RPM_SORT_USER0_MC_HSH_EN, group), [true, false]);
        assert_eq!(with(ena | hw::RPM_SORT_USER0_MC_HSH_EN, [1, 0, 0x5e, 9, 9, 9]), [false, false]);
        assert_eq!(with(ena | hw::RPM_SORT_USER0_MC_EN, [1, 0, 0x5e, 9, 9, 9]), [true, false]);
        // What a helper that speaks IPv6 sets: solicited-node and all-nodes groups are its.
        regs.write(Space::Grc, hw::RPM_SORT_USER0, 0);
        regs.write(Space::Grc, hw::RPM_SORT_USER2, ena | bc | hw::RPM_SORT_USER0_MC_EN | 4);
        for to in [[0x33, 0x33, 0xff, 0xaa, 0xbb, 0xcd], [0x33, 0x33, 0, 0, 0, 1], [0xff; 6], iscsi] {
            assert_eq!(users(&regs, &frame(to)), [false, true]);
        }
        assert_eq!(users(&regs, &frame(other)), [false, false]);
    }

    #[test]
    fn the_longest_frame_follows_the_register() {
        let mut regs = RegisterFile::new(&ChipConfig::default(), &[]);
        let plain = [0; 60];
        let mut tagged = [0; 60];
        tagged[12] = 0x81;
        assert_eq!((largest(&regs, &plain), largest(&regs, &tagged)), (1514, 1518));
        regs.write(Space::Grc, hw::EMAC_RX_MTU_SIZE, hw::EMAC_RX_MTU_SIZE_JUMBO_ENA | 9018);
        assert_eq!(largest(&regs, &plain), 9000 + ether::HEADER);
    }
}
