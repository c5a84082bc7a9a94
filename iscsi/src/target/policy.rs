//! Who may log in where: the target's answers to the login phase.

use super::config::Auth;
use super::reservation::Nexus;
use super::server::{Slot, Target};
use super::session::Session;
use crate::chap::Secret;
use crate::login::{Admission, Identity, LoginPolicy};
use crate::pdu::LoginStatus;

/// The server's side of a login.
pub(super) struct Policy<'a> {
    pub(super) discovery: &'a Auth,
    pub(super) targets: &'a [Target],
    pub(super) slots: &'a [Slot],
    pub(super) next_tsih: &'a mut u16,
}

impl Policy<'_> {
    fn target(&self, who: &Identity) -> Option<(usize, &Target)> {
        let name = who.target_name.as_ref()?;
        self.targets.iter().enumerate().find(|(_, target)| target.key == *name)
    }

    /// Who may log in to what `who` names: a target, or the list of them.
    fn auth(&self, who: &Identity) -> Option<&Auth> {
        match &who.target_name {
            None => Some(self.discovery),
            Some(_) => self.target(who).map(|(_, target)| &target.auth),
        }
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().filter_map(Slot::session)
    }
}

impl LoginPolicy for Policy<'_> {
    fn admit(&mut self, who: &Identity) -> Admission {
        match self.auth(who) {
            None => Admission::Refuse(LoginStatus::TargetNotFound),
            Some(auth) if auth.chap.is_some() => Admission::Chap { mutual: auth.mutual.clone() },
            Some(_) => Admission::Open,
        }
    }

    fn secret(&mut self, who: &Identity, chap_name: &str) -> Option<Secret> {
        let chap = self.auth(who)?.chap.as_ref()?;
        (chap.name == chap_name).then(|| chap.secret.clone())
    }

    fn place(&mut self, who: &Identity) -> Result<u16, LoginStatus> {
        if who.tsih != 0 {
            // One connection per session: a second one cannot join, and a lost one comes back by session
            // reinstatement.
            let nexus = Nexus { initiator: who.initiator_name.clone(), isid: who.isid };
            let target = self.target(who).map(|(at, _)| at);
            let session =
                self.sessions().find(|s| s.tsih == who.tsih && s.nexus == nexus && s.target == target);
            return Err(match session {
                None => LoginStatus::SessionDoesNotExist,
                Some(session) if session.cid == who.cid => LoginStatus::CannotIncludeInSession,
                Some(_) => LoginStatus::TooManyConnections,
            });
        }
        // At most one round: there are fewer sessions than handles.
        for _ in 0..=u16::MAX {
            let tsih = *self.next_tsih;
            *self.next_tsih = tsih.wrapping_add(1).max(1);
            if self.sessions().all(|session| session.tsih != tsih) {
                return Ok(tsih);
            }
        }
        Err(LoginStatus::OutOfResources)
    }
}
