//! Who may use a logical unit: RESERVE(6)/RELEASE(6) and persistent reservations (SPC-4 5.13, 6.15, 6.16).
//! Registrations belong to the I_T nexus by name (initiator name and ISID), so they outlive sessions; they
//! live in memory, so they end with the target (no APTPL). Nobody can take all registrations: an initiator
//! has a share, and when the share or all are taken the oldest one in it of a nexus without a session gives
//! way, unless it holds the reservation. What loses its registration so can do less than before, never more.
//! Not modelled: REGISTER AND MOVE, SPEC_I_PT, ALL_TG_PT.

use crate::scsi::{Cdb, ReservationAction, Sense, Status};
use std::collections::BTreeSet;

/// The initiator's end of an I_T nexus: SCSI port name of the initiator (RFC 7143 4.4.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nexus {
    /// iSCSI initiator name.
    pub initiator: String,
    /// Initiator session id.
    pub isid: [u8; 6],
}

/// What a command came to when it did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Status 18.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

impl Refusal {
    /// Status and sense of the response.
    pub fn status(self) -> (Status, Option<Sense>) {
        match self {
            Refusal::Conflict => (Status::RESERVATION_CONFLICT, None),
            Refusal::Check(sense) => (Status::CHECK_CONDITION, Some(sense)),
        }
    }
}

/// What a PERSISTENT RESERVE OUT did to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Nexuses that get a unit attention.
    pub attentions: Vec<(Nexus, Sense)>,
    /// Nexuses whose tasks at this unit are aborted (PREEMPT AND ABORT).
    pub aborted: Vec<Nexus>,
}

/// Reservation type (SPC-4 table 65), the low nibble of the scope and type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

impl Kind {
    fn from_code(code: u8) -> Option<Kind> {
        use Kind::*;
        [
            WriteExclusive,
            ExclusiveAccess,
            WriteExclusiveRegistrants,
            ExclusiveAccessRegistrants,
            WriteExclusiveAll,
            ExclusiveAccessAll,
        ]
        .into_iter()
        .find(|k| *k as u8 == code)
    }

    fn all_registrants(self) -> bool {
        matches!(self, Kind::WriteExclusiveAll | Kind::ExclusiveAccessAll)
    }

    fn lets_registrants_in(self) -> bool {
        !matches!(self, Kind::WriteExclusive | Kind::ExclusiveAccess)
    }

    fn lets_readers_in(self) -> bool {
        matches!(self, Kind::WriteExclusive | Kind::WriteExclusiveRegistrants | Kind::WriteExclusiveAll)
    }
}

/// Reservation state of one logical unit.
#[derive(Debug, Default)]
pub struct Reservations {
    /// Holder of RESERVE(6).
    exclusive: Option<Nexus>,
    /// Oldest first.
    registrations: Vec<(Nexus, u64)>,
    /// Nexuses that have a session now.
    present: BTreeSet<Nexus>,
    /// Type and holder; the holder means nothing for the all-registrants types.
    persistent: Option<(Kind, Nexus)>,
    generation: u32,
}

/// Length of the PERSISTENT RESERVE OUT parameter list.
pub(super) const PARAMETER_LEN: u32 = 24;

impl Reservations {
    /// Most registrations of a unit; one more is refused with 05/55/04 if none gives way.
    pub const LIMIT: usize = 256;
    /// Most registrations of one initiator, by name; one more is refused with 05/55/04 if none of them gives
    /// way.
    pub const SHARE: usize = 32;

    /// A session of `nexus` has begun.
    pub fn joined(&mut self, nexus: &Nexus) {
        self.present.insert(nexus.clone());
    }

    /// The session of `nexus` has ended: RESERVE(6) ends with it, registrations do not.
    pub fn left(&mut self, nexus: &Nexus) {
        self.present.remove(nexus);
        self.release6(nexus);
    }

    /// Room for one more registration of `initiator`: in its share, or in all.
    fn make_room(&mut self, initiator: &str) -> Result<(), Refusal> {
        let own = |nexus: &Nexus| nexus.initiator == initiator;
        let share_full = self.registrations.iter().filter(|(nexus, _)| own(nexus)).count() >= Self::SHARE;
        if !share_full && self.registrations.len() < Self::LIMIT {
            return Ok(());
        }
        let gives_way = |nexus: &Nexus| {
            (!share_full || own(nexus)) && !self.present.contains(nexus) && !self.holds_alone(nexus)
        };
        let Some(at) = self.registrations.iter().position(|(nexus, _)| gives_way(nexus)) else {
            return Err(Refusal::Check(Sense::NO_REGISTRATION_RESOURCES));
        };
        self.registrations.remove(at);
        Ok(())
    }

    /// Whether `nexus` may do `cdb` now.
    pub fn admit(&self, nexus: &Nexus, cdb: &Cdb) -> Result<(), Refusal> {
        if let Some(holder) = &self.exclusive
            && holder != nexus
        {
            return match cdb {
                Cdb::Inquiry { .. }
                | Cdb::ReportLuns { .. }
                | Cdb::RequestSense { .. }
                | Cdb::PreventAllow { prevent: 0 }
                | Cdb::Release6 => Ok(()),
                _ => Err(Refusal::Conflict),
            };
        }
        if !self.registrations.is_empty() && matches!(cdb, Cdb::Reserve6 | Cdb::Release6) {
            return Err(Refusal::Conflict);
        }
        let Some((kind, _)) = &self.persistent else { return Ok(()) };
        let registered = self.key_of(nexus).is_some();
        let allowed = match cdb {
            Cdb::Inquiry { .. }
            | Cdb::ReportLuns { .. }
            | Cdb::RequestSense { .. }
            | Cdb::TestUnitReady
            | Cdb::ReadCapacity10
            | Cdb::ReadCapacity16 { .. }
            | Cdb::PersistentReserveIn { .. }
            | Cdb::PersistentReserveOut { .. }
            | Cdb::ReportOpcodes { .. }
            | Cdb::ReportFunctions { .. }
            | Cdb::ReportPortGroups { .. }
            | Cdb::LogSense { .. }
            | Cdb::StartStop { power_condition: 0, loej: false, start: true, .. }
            | Cdb::PreventAllow { prevent: 0 }
            | Cdb::ReceiveCopyResults { .. }
            | Cdb::Reserve6
            | Cdb::Release6 => true,
            Cdb::Read(_)
            | Cdb::Verify(..)
            | Cdb::PreFetch { .. }
            | Cdb::GetLbaStatus { .. }
            | Cdb::ReadDefectData { .. } => {
                kind.lets_readers_in() || self.is_inside(nexus, *kind, registered)
            }
            _ => self.is_inside(nexus, *kind, registered),
        };
        if allowed { Ok(()) } else { Err(Refusal::Conflict) }
    }

    fn is_inside(&self, nexus: &Nexus, kind: Kind, registered: bool) -> bool {
        self.holds(nexus) || (kind.lets_registrants_in() && registered)
    }

    fn holds(&self, nexus: &Nexus) -> bool {
        match &self.persistent {
            Some((kind, _)) if kind.all_registrants() => self.key_of(nexus).is_some(),
            Some((_, holder)) => holder == nexus,
            None => false,
        }
    }

    /// Whether the reservation ends with the registration of `nexus`.
    fn holds_alone(&self, nexus: &Nexus) -> bool {
        matches!(&self.persistent, Some((kind, holder)) if !kind.all_registrants() && holder == nexus)
    }

    fn key_of(&self, nexus: &Nexus) -> Option<u64> {
        self.registrations.iter().find(|(n, _)| n == nexus).map(|(_, key)| *key)
    }

    /// RESERVE(6), admitted.
    pub fn reserve6(&mut self, nexus: &Nexus) {
        self.exclusive = Some(nexus.clone());
    }

    /// RELEASE(6): no effect from anyone but the holder.
    pub fn release6(&mut self, nexus: &Nexus) {
        if self.exclusive.as_ref() == Some(nexus) {
            self.exclusive = None;
        }
    }

    /// A reset of the unit: RESERVE(6) ends, persistent reservations stay.
    pub fn reset(&mut self) {
        self.exclusive = None;
    }

    /// PERSISTENT RESERVE IN data, not yet cut to the allocation length.
    pub fn report(&self, action: u8, portal_group: u16, out: &mut Vec<u8>) -> Result<(), Sense> {
        match action {
            0 => {
                out.extend_from_slice(&self.generation.to_be_bytes());
                out.extend_from_slice(&(self.registrations.len() as u32 * 8).to_be_bytes());
                for (_, key) in &self.registrations {
                    out.extend_from_slice(&key.to_be_bytes());
                }
            }
            1 => {
                out.extend_from_slice(&self.generation.to_be_bytes());
                let Some((kind, holder)) = &self.persistent else {
                    out.extend_from_slice(&[0; 4]);
                    return Ok(());
                };
                let key = if kind.all_registrants() { 0 } else { self.key_of(holder).unwrap_or(0) };
                out.extend_from_slice(&16u32.to_be_bytes());
                out.extend_from_slice(&key.to_be_bytes());
                out.extend_from_slice(&[0, 0, 0, 0, 0, *kind as u8, 0, 0]);
            }
            // TMV, and every type in the mask.
            2 => out.extend_from_slice(&[0, 8, 0, 0x80, 0xEA, 0x01, 0, 0]),
            3 => self.full_status(portal_group, out),
            _ => return Err(Sense::invalid_cdb_byte(1)),
        }
        Ok(())
    }

    /// READ FULL STATUS (SPC-4 6.15.5): every registration with its TransportID, the iSCSI form with ISID
    /// (SPC-4 7.6.4.6).
    fn full_status(&self, portal_group: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.generation.to_be_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        for (nexus, key) in &self.registrations {
            let mut name = nexus.initiator.clone().into_bytes();
            name.extend_from_slice(b",i,0x");
            for byte in nexus.isid {
                name.extend_from_slice(format!("{byte:02x}").as_bytes());
            }
            name.push(0);
            name.resize(name.len().next_multiple_of(4).max(20), 0);
            let holds = self.holds(nexus);
            let kind = self.persistent.as_ref().filter(|_| holds).map_or(0, |(kind, _)| *kind as u8);
            out.extend_from_slice(&key.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 0, u8::from(holds), kind, 0, 0, 0, 0]);
            out.extend_from_slice(&portal_group.to_be_bytes());
            out.extend_from_slice(&(name.len() as u32 + 4).to_be_bytes());
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&(name.len() as u16).to_be_bytes());
            out.extend_from_slice(&name);
        }
        let length = (out.len() - length_at - 4) as u32;
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// PERSISTENT RESERVE OUT with its parameter list. On refusal nothing has changed.
    pub fn change(
        &mut self,
        nexus: &Nexus,
        action: ReservationAction,
        scope: u8,
        kind: u8,
        list: &[u8],
    ) -> Result<Effects, Refusal> {
        use ReservationAction::*;
        let word = |at: usize| list.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        let (Some(key), Some(new_key), Some(&flags)) = (word(0), word(8), list.get(20)) else {
            return Err(Refusal::Check(Sense::PARAMETER_LENGTH));
        };
        // SPEC_I_PT, ALL_TG_PT and APTPL are not supported.
        if matches!(action, Register | RegisterAndIgnore) && flags & 0x0D != 0 {
            return Err(Refusal::Check(Sense::INVALID_PARAMETER));
        }
        let mine = self.key_of(nexus);
        let key_needed = if action == RegisterAndIgnore { mine.unwrap_or(0) } else { key };
        if mine.unwrap_or(0) != key_needed
            || (mine.is_none() && !matches!(action, Register | RegisterAndIgnore))
        {
            return Err(Refusal::Conflict);
        }
        let wanted = match action {
            Reserve | Release | Preempt | PreemptAndAbort => {
                if scope != 0 {
                    return Err(Refusal::Check(Sense::invalid_cdb_byte(2)));
                }
                Some(Kind::from_code(kind).ok_or(Refusal::Check(Sense::invalid_cdb_byte(2)))?)
            }
            _ => None,
        };
        let mut effects = Effects::default();
        match (action, wanted) {
            (Register | RegisterAndIgnore, _) => self.register(nexus, new_key, &mut effects)?,
            (Reserve, Some(kind)) => match &self.persistent {
                Some((held, _)) if !self.holds(nexus) || *held != kind => return Err(Refusal::Conflict),
                Some(_) => {}
                None => self.persistent = Some((kind, nexus.clone())),
            },
            (Release, Some(kind)) => self.release(nexus, kind, &mut effects)?,
            (Clear, _) => {
                self.generation = self.generation.wrapping_add(1);
                self.persistent = None;
                for (other, _) in self.registrations.drain(..).filter(|(n, _)| n != nexus) {
                    effects.attentions.push((other, Sense::RESERVATIONS_PREEMPTED));
                }
            }
            (Preempt | PreemptAndAbort, Some(kind)) => {
                self.preempt(nexus, new_key, kind, &mut effects)?;
                if action == PreemptAndAbort {
                    effects.aborted = effects.attentions.iter().map(|(n, _)| n.clone()).collect();
                }
            }
            (Reserve | Release | Preempt | PreemptAndAbort, None) => {
                return Err(Refusal::Check(Sense::invalid_cdb_byte(2)));
            }
        }
        Ok(effects)
    }

    fn register(&mut self, nexus: &Nexus, new_key: u64, effects: &mut Effects) -> Result<(), Refusal> {
        let at = self.registrations.iter().position(|(n, _)| n == nexus);
        match (at, new_key) {
            (None, 0) => {}
            (None, _) => {
                self.make_room(&nexus.initiator)?;
                self.registrations.push((nexus.clone(), new_key));
            }
            (Some(at), 0) => {
                self.registrations.remove(at);
                self.end_if_holder_left(nexus, effects);
            }
            (Some(at), _) => self.registrations[at].1 = new_key,
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// After `nexus` lost its registration.
    fn end_if_holder_left(&mut self, nexus: &Nexus, effects: &mut Effects) {
        let Some((kind, holder)) = &self.persistent else { return };
        let kind = *kind;
        let ended = if kind.all_registrants() { self.registrations.is_empty() } else { holder == nexus };
        if ended {
            self.persistent = None;
            if kind.lets_registrants_in() {
                self.tell_others(nexus, Sense::RESERVATIONS_RELEASED, effects);
            }
        }
    }

    fn tell_others(&self, nexus: &Nexus, sense: Sense, effects: &mut Effects) {
        for (other, _) in self.registrations.iter().filter(|(n, _)| n != nexus) {
            effects.attentions.push((other.clone(), sense));
        }
    }

    fn release(&mut self, nexus: &Nexus, kind: Kind, effects: &mut Effects) -> Result<(), Refusal> {
        let Some((held, _)) = &self.persistent else { return Ok(()) };
        if !self.holds(nexus) {
            return Ok(());
        }
        if *held != kind {
            return Err(Refusal::Check(Sense::INVALID_RELEASE));
        }
        self.persistent = None;
        if kind.lets_registrants_in() {
            self.tell_others(nexus, Sense::RESERVATIONS_RELEASED, effects);
        }
        Ok(())
    }

    fn preempt(
        &mut self,
        nexus: &Nexus,
        victim: u64,
        kind: Kind,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let all = self.persistent.as_ref().is_some_and(|(k, _)| k.all_registrants());
        let holder_key = match &self.persistent {
            Some((_, holder)) if !all => self.key_of(holder),
            _ => None,
        };
        if victim == 0 && !all {
            return Err(Refusal::Check(Sense::INVALID_PARAMETER));
        }
        let takes_reservation = (all && victim == 0) || (holder_key == Some(victim) && holder_key.is_some());
        let hit = |entry: &(Nexus, u64)| (takes_reservation && all) || entry.1 == victim;
        if !takes_reservation && !self.registrations.iter().any(hit) {
            return Err(Refusal::Conflict);
        }
        self.generation = self.generation.wrapping_add(1);
        let old = self.persistent.as_ref().map(|(k, _)| *k);
        self.registrations.retain(|entry| {
            let goes = hit(entry) && &entry.0 != nexus;
            if goes {
                effects.attentions.push((entry.0.clone(), Sense::REGISTRATIONS_PREEMPTED));
            }
            !goes
        });
        if takes_reservation {
            self.persistent = Some((kind, nexus.clone()));
            if old != Some(kind) {
                self.tell_others(nexus, Sense::RESERVATIONS_RELEASED, effects);
            }
        } else if all && self.registrations.is_empty() {
            self.persistent = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Transfer;

    fn nexus(n: u8) -> Nexus {
        Nexus { initiator: "iqn.2026-01.example:i".into(), isid: [0, 0, 0, 0, 0, n] }
    }

    fn list(key: u64, new_key: u64) -> Vec<u8> {
        [&key.to_be_bytes()[..], &new_key.to_be_bytes(), &[0; 8]].concat()
    }

    fn register(r: &mut Reservations, n: u8, key: u64) {
        r.change(&nexus(n), ReservationAction::RegisterAndIgnore, 0, 0, &list(0, key)).unwrap();
    }

    const READ: Cdb = Cdb::Read(Transfer::new(0, 1));
    const WRITE: Cdb = Cdb::Write(Transfer::new(0, 1));

    /// The access matrix of SCSI.md 2.6: (type, read and write allowed to a registered other, the same to a
    /// stranger).
    #[test]
    fn access_matrix() {
        let rows = [
            (1, (true, false), (true, false)),
            (3, (false, false), (false, false)),
            (5, (true, true), (true, false)),
            (6, (true, true), (false, false)),
            (7, (true, true), (true, false)),
            (8, (true, true), (false, false)),
        ];
        for (kind, registered, stranger) in rows {
            let mut r = Reservations::default();
            register(&mut r, 1, 0xA);
            register(&mut r, 2, 0xB);
            r.change(&nexus(1), ReservationAction::Reserve, 0, kind, &list(0xA, 0)).unwrap();
            let access = |n| (r.admit(&nexus(n), &READ).is_ok(), r.admit(&nexus(n), &WRITE).is_ok());
            assert_eq!(access(1), (true, true), "holder, type {kind}");
            assert_eq!(access(2), registered, "registered, type {kind}");
            assert_eq!(access(3), stranger, "stranger, type {kind}");
            assert!(r.admit(&nexus(3), &Cdb::TestUnitReady).is_ok());
            assert_eq!(
                r.admit(&nexus(1), &Cdb::Reserve6),
                Err(Refusal::Conflict),
                "PR and RESERVE(6) exclude each other"
            );
        }
    }

    #[test]
    fn keys_guard_every_action() {
        let mut r = Reservations::default();
        let conflict = Err(Refusal::Conflict);
        assert_eq!(r.change(&nexus(1), ReservationAction::Register, 0, 0, &list(5, 7)), conflict);
        assert_eq!(r.change(&nexus(1), ReservationAction::Reserve, 0, 1, &list(0, 0)), conflict);
        register(&mut r, 1, 7);
        assert_eq!(r.change(&nexus(1), ReservationAction::Reserve, 0, 1, &list(8, 0)), conflict);
        r.change(&nexus(1), ReservationAction::Reserve, 0, 1, &list(7, 0)).unwrap();
        assert_eq!(
            r.change(&nexus(1), ReservationAction::Release, 0, 3, &list(7, 0)),
            Err(Refusal::Check(Sense::INVALID_RELEASE))
        );
        register(&mut r, 2, 9);
        assert_eq!(r.change(&nexus(2), ReservationAction::Reserve, 0, 1, &list(9, 0)), conflict);
        r.change(&nexus(2), ReservationAction::Release, 0, 1, &list(9, 0)).unwrap();
        assert_eq!(r.admit(&nexus(2), &WRITE), Err(Refusal::Conflict), "release by another has no effect");
    }

    #[test]
    fn holder_leaving_ends_a_registrants_only_reservation_and_tells_the_others() {
        let mut r = Reservations::default();
        register(&mut r, 1, 0xA);
        register(&mut r, 2, 0xB);
        r.change(&nexus(1), ReservationAction::Reserve, 0, 5, &list(0xA, 0)).unwrap();
        let effects = r.change(&nexus(1), ReservationAction::Register, 0, 0, &list(0xA, 0)).unwrap();
        assert_eq!(effects.attentions, [(nexus(2), Sense::RESERVATIONS_RELEASED)]);
        assert!(r.admit(&nexus(3), &WRITE).is_ok());
    }

    #[test]
    fn preempt_takes_over_and_aborts() {
        let mut r = Reservations::default();
        register(&mut r, 1, 0xA);
        register(&mut r, 2, 0xB);
        r.change(&nexus(1), ReservationAction::Reserve, 0, 1, &list(0xA, 0)).unwrap();
        let effects = r.change(&nexus(2), ReservationAction::PreemptAndAbort, 0, 1, &list(0xB, 0xA)).unwrap();
        assert_eq!(effects.attentions, [(nexus(1), Sense::REGISTRATIONS_PREEMPTED)]);
        assert_eq!(effects.aborted, [nexus(1)]);
        assert!(r.admit(&nexus(2), &WRITE).is_ok());
        assert_eq!(r.admit(&nexus(1), &WRITE), Err(Refusal::Conflict));
        let mut out = Vec::new();
        r.report(0, 1, &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0xB]);
        out.clear();
        r.report(1, 1, &mut out).unwrap();
        assert_eq!((out.len(), out[15], out[21]), (24, 0xB, 1));
        out.clear();
        r.report(3, 1, &mut out).unwrap();
        assert_eq!(out[4..8], (out.len() as u32 - 8).to_be_bytes());
        assert_eq!((&out[8..16], out[20], out[21], out[27]), (&0xBu64.to_be_bytes()[..], 1, 1, 1));
        assert_eq!(out[32..34], [0x45, 0]);
        assert!(out[36..].starts_with(b"iqn.2026-01.example:i,i,0x000000000002\0"));
        assert!(r.report(4, 1, &mut out).is_err());
    }

    #[test]
    fn reserve6_is_exclusive_and_ends_with_a_reset() {
        let mut r = Reservations::default();
        r.reserve6(&nexus(1));
        assert_eq!(r.admit(&nexus(2), &Cdb::TestUnitReady), Err(Refusal::Conflict));
        assert!(r.admit(&nexus(1), &WRITE).is_ok());
        r.release6(&nexus(2));
        assert_eq!(r.admit(&nexus(2), &READ), Err(Refusal::Conflict));
        r.reset();
        assert!(r.admit(&nexus(2), &READ).is_ok());
    }

    /// One initiator cannot take what others need, with many sessions or under many names; who holds the
    /// reservation or has a session keeps its registration.
    #[test]
    fn nobody_takes_all_registrations() {
        let named = |initiator: &str, n: usize| Nexus {
            initiator: format!("iqn.2026-01.example:{initiator}"),
            isid: [0, 0, 0, 0, (n >> 8) as u8, n as u8],
        };
        let full = Err(Refusal::Check(Sense::NO_REGISTRATION_RESOURCES));
        let mut r = Reservations::default();
        let register = |r: &mut Reservations, nexus: &Nexus| {
            r.change(nexus, ReservationAction::Register, 0, 0, &list(0, 1)).map(|_| ())
        };
        let (holder, member) = (named("holder", 0), named("member", 0));
        register(&mut r, &holder).unwrap();
        r.change(&holder, ReservationAction::Reserve, 0, 5, &list(1, 0)).unwrap();
        r.joined(&member);
        register(&mut r, &member).unwrap();
        for n in 0..200 {
            register(&mut r, &named("stranger", n)).unwrap();
        }
        assert_eq!(r.registrations.len(), 2 + Reservations::SHARE, "its own oldest gave way");
        for n in 0..200 {
            r.joined(&named("stranger", n));
        }
        assert_eq!(register(&mut r, &named("stranger", 999)), full, "its share is used up by its sessions");
        for n in 0..200 {
            r.left(&named("stranger", n));
        }
        for n in 0..1000 {
            register(&mut r, &named(&format!("stranger{n}"), 0)).unwrap();
        }
        assert_eq!(r.registrations.len(), Reservations::LIMIT);
        register(&mut r, &named("innocent", 0)).unwrap();
        assert!(r.key_of(&holder).is_some() && r.key_of(&member).is_some());
        assert!(r.admit(&member, &WRITE).is_ok() && r.admit(&named("stranger", 0), &WRITE).is_err());
        // Full of nexuses that have sessions: that is the limit.
        let all: Vec<Nexus> = r.registrations.iter().map(|(n, _)| n.clone()).collect();
        all.iter().for_each(|nexus| r.joined(nexus));
        assert_eq!(register(&mut r, &named("late", 0)), full);
        r.left(&all[7]);
        register(&mut r, &named("late", 0)).unwrap();
    }
}
