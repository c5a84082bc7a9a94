//! Shared memory as boot code leaves it, and boot code's answers to driver messages (CHIP-REGISTERS 2, items
//! 3 to 5, 9).
//!
//! The management processor is not modelled beyond that: it answers every message at once, whatever state the
//! rest of the chip is in, so that a driver can always reset a chip that has gone mute.

use hsi::bcm5709::shmem::{self, HOST_VIEW_SHMEM_BASE};

use crate::config::ChipConfig;

/// Boot code revision that the card reports: 5.2.3.
const BOOT_CODE_REVISION: u32 = 0x0502_0300;

/// Writes the image that boot code leaves after power-on through `store` (GRC address, value).
pub(super) fn image(config: &ChipConfig, mut store: impl FnMut(u32, u32)) {
    store(shmem::SHM_HDR_SIGNATURE, shmem::SHM_HDR_SIGNATURE_SIG | shmem::SHM_HDR_SIGNATURE_VER_ONE);
    store(shmem::SHM_HDR_ADDR_0, HOST_VIEW_SHMEM_BASE);
    store(shmem::SHM_HDR_ADDR_1, HOST_VIEW_SHMEM_BASE);
    let mut word = |offset: u32, value: u32| store(HOST_VIEW_SHMEM_BASE + offset, value);
    word(shmem::DEV_INFO_SIGNATURE, shmem::DEV_INFO_SIGNATURE_MAGIC | shmem::DEV_INFO_FEATURE_CFG_VALID);
    word(shmem::DEV_INFO_BC_REV, BOOT_CODE_REVISION);
    word(shmem::BC_STATE_RESET_TYPE, shmem::BC_STATE_RESET_TYPE_NONE);
    let (upper, lower) = shmem::mac_words(config.mac);
    word(shmem::PORT_HW_CFG_MAC_UPPER, upper);
    word(shmem::PORT_HW_CFG_MAC_LOWER, lower);
    let (upper, lower) = shmem::mac_words(config.iscsi_mac);
    word(shmem::PORT_HW_CFG_ISCSI_MAC_UPPER, upper);
    word(shmem::PORT_HW_CFG_ISCSI_MAC_LOWER, lower);
    if config.licensed_connections != 0 {
        word(shmem::ISCSI_INITIATOR, shmem::ISCSI_INITIATOR_EN);
        word(shmem::ISCSI_MAX_CONN, u32::from(config.licensed_connections) << 16);
    }
}

/// Link status word of a copper port: up with a speed in Mbit/s, or down.
pub(super) fn link_status(speed: Option<u32>) -> u32 {
    let auto = shmem::LINK_STATUS_AN_ENABLED;
    let Some(speed) = speed else {
        return shmem::LINK_STATUS_LINK_DOWN | auto;
    };
    let speed = match speed {
        1000 => shmem::LINK_STATUS_1000FULL,
        100 => shmem::LINK_STATUS_100FULL,
        _ => shmem::LINK_STATUS_10FULL,
    };
    shmem::LINK_STATUS_LINK_UP | speed | auto | shmem::LINK_STATUS_AN_COMPLETE
}

/// Boot code's answer to a driver message: the sequence, and whether it knows the code.
pub(super) fn answer(message: u32) -> u32 {
    let known = matches!(
        message & shmem::DRV_MSG_CODE,
        shmem::DRV_MSG_CODE_RESET
            | shmem::DRV_MSG_CODE_UNLOAD
            | shmem::DRV_MSG_CODE_SHUTDOWN
            | shmem::DRV_MSG_CODE_SUSPEND_WOL
            | shmem::DRV_MSG_CODE_FW_TIMEOUT
            | shmem::DRV_MSG_CODE_PULSE
            | shmem::DRV_MSG_CODE_DIAG
            | shmem::DRV_MSG_CODE_SUSPEND_NO_WOL
            | shmem::DRV_MSG_CODE_UNLOAD_LNK_DN
            | shmem::DRV_MSG_CODE_KEEP_VLAN_UPDATE
            | shmem::DRV_MSG_CODE_CMD_SET_LINK
    );
    let status = if known { shmem::FW_MSG_STATUS_OK } else { shmem::FW_MSG_STATUS_FAILURE };
    message & shmem::FW_MSG_ACK | status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_echoed_and_unknown_codes_fail() {
        assert_eq!(answer(shmem::reset_code(shmem::DRV_MSG_DATA_WAIT1) | 0x1234), 0x1234);
        assert_eq!(answer(0x7f00_0007), shmem::FW_MSG_STATUS_FAILURE | 7);
    }

    #[test]
    fn a_card_without_licence_says_so() {
        let config = ChipConfig { licensed_connections: 0, ..ChipConfig::default() };
        let mut words = Vec::new();
        image(&config, |at, v| words.push((at, v)));
        assert!(!words.iter().any(|w| w.0 == HOST_VIEW_SHMEM_BASE + shmem::ISCSI_INITIATOR));
        assert!(words.contains(&(shmem::SHM_HDR_ADDR_0, HOST_VIEW_SHMEM_BASE)));
    }
}
