//! What a card is built with: identity, licence, limits, and one switch per inferred fact.
//!
//! A fact that the host side does not prove (inferred, \[I\] in the specification) is a decision of the
//! model; each has a field here, with the value that we believe in as the default. The same type is used by
//! command line, plans and tests.

use serde::{Deserialize, Serialize};

/// A MAC address, most significant byte first.
pub type Mac = [u8; 6];

/// How the chip shows its connection doorbells (BNX2I-CNIC 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorbellLayout {
    /// 256 bytes per cid at 0x10000 of BAR 0; MQ_CONFIG2 reads 0.
    #[default]
    Mailboxes,
    /// "Bin mode": besides the mailboxes, a page of 4 KiB per connection, which can be mapped by itself.
    Pages,
}

/// What the port is plugged into at power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkSpeed {
    /// No carrier until the world gives it one.
    #[serde(rename = "down")]
    Down,
    /// A gigabit switch, full duplex.
    #[default]
    #[serde(rename = "1g")]
    Gigabit,
}

/// What a card is built with. Everything is fixed for the life of the card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChipConfig {
    /// The Ethernet function's MAC, in shared memory.
    pub mac: Mac,
    /// The iSCSI function's MAC, in shared memory.
    pub iscsi_mac: Mac,
    /// The carrier at power-on.
    pub link: LinkSpeed,
    /// How long autonegotiation takes, in nanoseconds: after a restart, a cable that comes, or another forced
    /// speed. Real partners take seconds.
    pub autonegotiation_ns: u64,
    /// Whether there is an MSI-X capability. Drivers take MSI without it.
    pub msix: bool,
    /// PCI revision id. The stock driver refuses a 5709 below 0x10.
    pub pci_revision: u8,
    /// Connections that the licence allows. 0: the chip does not do iSCSI, and INIT answers status
    /// 0x50. More connections than this are refused with status 2.
    pub licensed_connections: u16,
    /// iSCSI contexts that fit on the chip, at most 256; one connection needs one. None left: status 2.
    pub contexts: u16,
    /// Path groups that fit on the chip, at most 256. None left: status 0x83.
    pub path_groups: u16,
    /// How the connection doorbells look.
    pub doorbells: DoorbellLayout,
    /// KCQEs that the chip keeps back while the host leaves its completion queue full, at least 2. When they
    /// are reached the chip neither fetches KWQEs nor runs its connections until the host has consumed some:
    /// nothing is lost, everything waits.
    pub kcqe_backlog: u16,
    /// Inferred: KCQEs that the chip joins into one group (all but the last carry NEXT). 1: no groups. Hosts
    /// dispatch at most 64 entries at once, so a longer group would never be consumed.
    pub kcqe_group: u8,
    /// How late a delayed KCQE is posted (fault point `delay-kcqe`), in nanoseconds.
    pub delayed_kcqe_ns: u64,
    /// Inferred: Completion status of a CONNECT whose handshake timed out.
    pub connect_timeout_status: u16,
    /// Inferred: Completion status of a CONNECT that the peer refused.
    pub connect_refused_status: u16,
    /// Inferred: Completion status of an OFFLOAD_CONN for a connection index that is in use.
    pub busy_cid_status: u32,
    /// Inferred: Completion status of a DESTROY_CONN while TCP is still alive.
    pub destroy_alive_status: u32,
    /// Inferred: A Data-In with status is posted as a SCSI response CQE (0x21) instead of a Data-In CQE
    /// (0x25); the S bit is in its flags either way.
    pub data_in_status_as_response: bool,
}

impl Default for ChipConfig {
    fn default() -> Self {
        Self {
            mac: [0x00, 0x10, 0x18, 0xaa, 0xbb, 0xcc],
            iscsi_mac: [0x00, 0x10, 0x18, 0xaa, 0xbb, 0xcd],
            link: LinkSpeed::Gigabit,
            autonegotiation_ns: 2_000_000,
            msix: true,
            pci_revision: 0x20,
            licensed_connections: 128,
            contexts: 256,
            path_groups: 256,
            doorbells: DoorbellLayout::Mailboxes,
            kcqe_backlog: 512,
            kcqe_group: 1,
            delayed_kcqe_ns: 100_000_000,
            connect_timeout_status: 0x93,
            connect_refused_status: 4,
            busy_cid_status: 0x80,
            destroy_alive_status: 3,
            data_in_status_as_response: false,
        }
    }
}
