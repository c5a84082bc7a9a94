//! SAM status: the one byte that ends every command (SAM-5 5.3; carried in SCSI Response byte 3 and Data-In
//! byte 3).

/// The status byte of a finished command. Any value may arrive from a peer, so this is the byte with names
/// for the known ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u8);

impl Status {
    /// Command done, no sense.
    pub const GOOD: Status = Status(0x00);
    /// Look at the sense data.
    pub const CHECK_CONDITION: Status = Status(0x02);
    /// PRE-FETCH and friends: done, the condition holds.
    pub const CONDITION_MET: Status = Status(0x04);
    /// Try again later.
    pub const BUSY: Status = Status(0x08);
    /// Another nexus holds a reservation that forbids this command.
    pub const RESERVATION_CONFLICT: Status = Status(0x18);
    /// The logical unit cannot take another task now.
    pub const TASK_SET_FULL: Status = Status(0x28);
    /// An auto contingent allegiance is in force.
    pub const ACA_ACTIVE: Status = Status(0x30);
    /// Aborted by another nexus while TAS is set.
    pub const TASK_ABORTED: Status = Status(0x40);

    /// Whether the command did what was asked (GOOD or CONDITION MET). Only such a status may ride on a
    /// Data-In (RFC 7143 11.7.2).
    pub const fn is_good(self) -> bool {
        self.0 == Self::GOOD.0 || self.0 == Self::CONDITION_MET.0
    }
}
