//! A medium that can be taken out (SPC-4 6.13, SBC-3 5.25): START STOP UNIT with LOEJ ejects and loads,
//! PREVENT ALLOW MEDIUM REMOVAL forbids both for as long as any nexus wants that.

use super::reservation::Nexus;
use crate::scsi::Sense;

/// The state of the door.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// RMB.
    pub(super) removable: bool,
    ejected: bool,
    /// Nexuses that prevent removal.
    preventing: Vec<Nexus>,
}

impl Removal {
    pub(super) fn of_removable() -> Removal {
        Removal { removable: true, ..Removal::default() }
    }

    pub(super) fn has_medium(&self) -> bool {
        !self.ejected
    }

    /// PREVENT ALLOW MEDIUM REMOVAL. A fixed medium allows what happens anyway.
    pub(super) fn prevent(&mut self, nexus: &Nexus, prevent: u8) -> Result<(), Sense> {
        match prevent {
            0 => self.forget(nexus),
            1 if self.removable => {
                if !self.preventing.contains(nexus) {
                    self.preventing.push(nexus.clone());
                }
            }
            _ => return Err(Sense::invalid_cdb_byte(4)),
        }
        Ok(())
    }

    /// START STOP UNIT with LOEJ. True when a medium came in that others do not know of.
    pub(super) fn move_medium(&mut self, load: bool) -> Result<bool, Sense> {
        if !self.removable {
            return Err(Sense::invalid_cdb_byte(4));
        }
        if !self.preventing.is_empty() {
            return Err(Sense::REMOVAL_PREVENTED);
        }
        let arrives = load && self.ejected;
        self.ejected = !load;
        Ok(arrives)
    }

    /// The nexus is gone or allows removal.
    pub(super) fn forget(&mut self, nexus: &Nexus) {
        self.preventing.retain(|n| n != nexus);
    }

    /// A reset ends all prevention. What was ejected stays out.
    pub(super) fn reset(&mut self) {
        self.preventing.clear();
    }
}
