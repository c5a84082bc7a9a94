//! The logical units of a session over all its logins: what users are told of each, and which of those that
//! were in use are away.
//!
//! A re-login finds out what became of the units ([`Units::compare`]). Four answers are told apart: the unit
//! is back; another disk answers under its number, and what waits for the old one must not reach it; it is
//! away for now (busy, not ready, reserved, not answered); it is gone from the target's list. Requests for a
//! unit that is away wait for it, others go on, and it keeps being looked for with a growing pause. A wait
//! ends when the replacement timer of the loss would have ended it, and for a unit that is gone after
//! [`READY_TIMEOUT`] at the latest.
//!
//! A target that says that its units have changed ([`Units::look_soon`]) may have another disk under a number
//! by now: no command goes out before all units were looked at. That costs a few commands, which have
//! deadlines of their own.

use core::time::Duration;

use bus::Instant;
use iscsi::scsi::Lun;

use crate::error::{BlockError, UnitLoss};
use crate::lun::{BringUp, LunError, LunInfo, READY_TIMEOUT};

/// Pause before the first further look at a unit that is away; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Found = (Lun, Result<LunInfo, LunError>);

/// A unit that was in use and is not there.
#[derive(Debug)]
struct Away {
    lun: Lun,
    /// The disk that its requests were accepted for.
    was: LunInfo,
    why: UnitLoss,
    /// When its requests fail; `None` when nobody set a limit.
    until: Option<Instant>,
    /// They have failed: new ones are refused until it is back.
    given_up: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Units {
    found: Vec<Found>,
    away: Vec<Away>,
    next_look: Option<Instant>,
    pause: Duration,
    news: News,
}

/// Whether the target has said that its units have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum News {
    #[default]
    None,
    /// It has; the look is due.
    Told,
    /// A look is under way that began after it said so.
    Looking,
}

impl Units {
    /// What is known of each unit, in the order of the target's list.
    pub(crate) fn found(&self) -> &[Found] {
        &self.found
    }

    /// The disk that requests to `lun` are accepted for: one that is there, or that is waited for.
    pub(crate) fn unit(&self, lun: Lun) -> Option<&LunInfo> {
        if let Some(away) = self.away.iter().find(|a| same(a.lun, lun)) {
            return Some(&away.was).filter(|_| !away.given_up);
        }
        self.found.iter().find(|(l, _)| same(*l, lun))?.1.as_ref().ok()
    }

    /// Whether commands to `lun` may go out.
    #[inline]
    pub(crate) fn is_open(&self, lun: Lun) -> bool {
        self.news == News::None && !self.is_away(lun)
    }

    fn is_away(&self, lun: Lun) -> bool {
        self.away.iter().any(|a| same(a.lun, lun))
    }

    /// Whether a disk is there, or none ever was: the session is of use.
    pub(crate) fn any_open(&self) -> bool {
        self.away.is_empty() || self.found.iter().any(|(_, f)| f.is_ok())
    }

    /// A bring-up, a comparison after a re-login or a further look has ended. `until`: when requests that
    /// wait for a unit fail. Tells which requests have to fail at once, and why.
    pub(crate) fn compare(
        &mut self,
        run: &BringUp,
        until: Option<Instant>,
        now: Instant,
    ) -> Vec<(Lun, BlockError)> {
        let mut failed = Vec::new();
        // What users have requests for: units that are there, and those that are waited for.
        let known: Vec<LunInfo> = (self.found.iter().filter_map(|(_, f)| f.as_ref().ok()))
            .chain(self.away.iter().map(|a| &a.was))
            .cloned()
            .collect();
        for was in known {
            let lun = was.lun;
            let later = run.found().iter().find(|(l, _)| same(*l, lun)).map(|(_, f)| f);
            let why = match later {
                Some(Ok(is)) => {
                    let back = self.away.iter().position(|a| same(a.lun, lun)).map(|at| self.away.remove(at));
                    // What was given up has no requests any more.
                    if !was.same_disk(is) && back.is_none_or(|a| !a.given_up) {
                        failed.push((lun, BlockError::DiskChanged));
                    }
                    continue;
                }
                Some(Err(why)) => loss(why),
                None if run.has_list() => UnitLoss::Gone,
                None => continue,
            };
            self.lose(was, why, until, now);
        }
        if run.has_list() || self.found.is_empty() {
            self.found = run.found().to_vec();
            for away in &self.away {
                if !self.found.iter().any(|(l, _)| same(*l, away.lun)) {
                    self.found.push((away.lun, Err(LunError::Missing)));
                }
            }
        } else {
            for (lun, result) in run.found() {
                match self.found.iter_mut().find(|(l, _)| same(*l, *lun)) {
                    Some(entry) => entry.1 = result.clone(),
                    None => self.found.push((*lun, result.clone())),
                }
            }
        }
        let wanted = !self.sought().is_empty();
        self.pause = if self.next_look.is_some() { (self.pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        self.next_look = wanted.then(|| now + self.pause);
        if self.news == News::Told {
            // It spoke during the look.
            self.next_look = Some(now);
        } else {
            self.news = News::None;
        }
        failed
    }

    fn lose(&mut self, was: LunInfo, why: UnitLoss, until: Option<Instant>, now: Instant) {
        let limit = match why {
            UnitLoss::Gone => Instant::earliest(until, Some(now + READY_TIMEOUT)),
            _ => until,
        };
        match self.away.iter_mut().find(|a| same(a.lun, was.lun)) {
            Some(away) => {
                away.why = why;
                away.until = Instant::earliest(away.until, limit);
            }
            None => self.away.push(Away { lun: was.lun, was, why, until: limit, given_up: false }),
        }
    }

    /// The units to look for: those that are away, and those that never came up for a reason that may pass.
    fn sought(&self) -> Vec<Lun> {
        let never = self.found.iter().filter(|(_, f)| f.as_ref().is_err_and(LunError::is_passing));
        let mut luns: Vec<Lun> = self.away.iter().map(|a| a.lun).collect();
        luns.extend(never.map(|(l, _)| *l).filter(|l| !self.is_away(*l)));
        luns
    }

    /// The target said that its units have changed: all are looked at.
    pub(crate) fn look_soon(&mut self, now: Instant) {
        self.news = News::Told;
        self.next_look = Some(now);
    }

    /// A look that is due at `now`.
    pub(crate) fn look(&mut self, now: Instant) -> Option<BringUp> {
        self.next_look.filter(|at| *at <= now)?;
        if self.news != News::None {
            self.news = News::Looking;
            return Some(BringUp::again());
        }
        Some(BringUp::of(self.sought()))
    }

    /// Unit whose requests have waited long enough, and why they fail.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(Lun, BlockError)> {
        let due = |a: &&mut Away| !a.given_up && a.until.is_some_and(|at| at <= now);
        let away = self.away.iter_mut().find(due)?;
        away.given_up = true;
        Some((away.lun, BlockError::UnitLost(away.why)))
    }

    /// When [`look`](Self::look) or [`expired`](Self::expired) has something to say. `looking`: a look is
    /// under way.
    pub(crate) fn deadline(&self, looking: bool) -> Option<Instant> {
        let ends = self.away.iter().filter(|a| !a.given_up).filter_map(|a| a.until).min();
        Instant::earliest(ends, self.next_look.filter(|_| !looking))
    }

    /// A session begins anew after a login: pauses are short again.
    pub(crate) fn logged_in(&mut self) {
        self.next_look = None;
        // The look that follows a login is a whole one.
        self.news = News::None;
    }
}

fn same(a: Lun, b: Lun) -> bool {
    let number = |l: Lun| l.number().ok_or(l);
    number(a) == number(b)
}

fn loss(why: &LunError) -> UnitLoss {
    match why {
        LunError::Missing | LunError::NotConnected => UnitLoss::Gone,
        LunError::Busy => UnitLoss::Busy,
        LunError::NotReady(_) | LunError::NoMedium => UnitLoss::NotReady,
        LunError::Reserved => UnitLoss::Reserved,
        LunError::NotADisk(_)
        | LunError::BlockSize(_)
        | LunError::Malformed(_)
        | LunError::Command { .. } => UnitLoss::Unusable,
    }
}

#[cfg(test)]
mod tests {
    use iscsi::scsi::{BlockLimits, Capacity};

    use super::*;

    const A: u16 = 0;
    const B: u16 = 1;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    fn lun(number: u16) -> Lun {
        Lun::from_number(number).unwrap()
    }

    fn disk(number: u16, serial: &str, blocks: u64) -> Found {
        let info = LunInfo {
            lun: lun(number),
            vendor: String::new(),
            product: String::new(),
            revision: String::new(),
            serial: Some(serial.to_owned()),
            id: None,
            capacity: Capacity {
                blocks,
                block_size: 512,
                provisioned: false,
                reads_zeros: false,
                physical_exponent: 0,
            },
            read_only: false,
            write_cache: false,
            fua: false,
            limits: BlockLimits::default(),
        };
        (info.lun, Ok(info))
    }

    /// Two disks, found with the first login.
    fn two() -> Units {
        let mut units = Units::default();
        let run = BringUp::ended(true, vec![disk(A, "a", 100), disk(B, "b", 100)]);
        assert_eq!(units.compare(&run, None, at(0)), []);
        assert!(units.is_open(lun(A)) && units.is_open(lun(B)));
        units
    }

    /// A login, and what its look finds.
    fn login(units: &mut Units, now: u64, until: u64, found: Vec<Found>) -> Vec<(Lun, BlockError)> {
        units.logged_in();
        units.compare(&BringUp::ended(true, found), Some(at(until)), at(now))
    }

    #[test]
    fn the_same_disks_are_back_also_when_one_has_grown() {
        let mut units = two();
        assert_eq!(login(&mut units, 5, 125, vec![disk(A, "a", 100), disk(B, "b", 200)]), []);
        assert_eq!(units.unit(lun(B)).map(|u| u.capacity.blocks), Some(200));
        assert_eq!((units.deadline(false), units.look(at(1000)).is_some()), (None, false));
    }

    #[test]
    fn another_disk_or_a_smaller_one_gets_nothing_that_was_meant_for_the_first() {
        let mut units = two();
        let failed = login(&mut units, 5, 125, vec![disk(A, "other", 100), disk(B, "b", 99)]);
        assert_eq!(failed, [(lun(A), BlockError::DiskChanged), (lun(B), BlockError::DiskChanged)]);
        assert!(units.is_open(lun(A)), "new requests are for the new disk");
        assert_eq!(units.unit(lun(A)).and_then(|u| u.serial.as_deref()), Some("other"));
    }

    #[test]
    fn a_busy_unit_is_waited_for_alone_with_growing_pauses() {
        let mut units = two();
        assert_eq!(login(&mut units, 0, 120, vec![(lun(A), Err(LunError::Busy)), disk(B, "b", 100)]), []);
        assert!(!units.is_open(lun(A)) && units.is_open(lun(B)) && units.any_open());
        assert!(units.unit(lun(A)).is_some(), "requests are still accepted for it");
        let (mut now, mut pauses) = (0, Vec::new());
        while now < 60 {
            now += 1;
            if let Some(look) = units.look(at(now)) {
                assert!(!look.has_list(), "it alone is asked");
                pauses.push(now);
                let still = BringUp::ended(false, vec![(lun(A), Err(LunError::Busy))]);
                assert_eq!(units.compare(&still, Some(at(now + 120)), at(now)), []);
            }
        }
        assert_eq!(pauses, [1, 3, 7, 15, 31], "1, 2, 4, 8, 16 s apart");
        assert_eq!(
            (units.expired(at(119)), units.deadline(true)),
            (None, Some(at(120))),
            "later looks prolong nothing"
        );
        let lost = BlockError::UnitLost(UnitLoss::Busy);
        assert_eq!((units.expired(at(120)), units.expired(at(120))), (Some((lun(A), lost)), None));
        assert!(units.unit(lun(A)).is_none(), "given up: new requests are refused");
        let back = BringUp::ended(false, vec![disk(A, "other", 1)]);
        assert_eq!(units.compare(&back, None, at(130)), [], "it has no requests any more");
        assert!(units.is_open(lun(A)) && units.unit(lun(A)).is_some());
    }

    #[test]
    fn a_unit_that_is_not_listed_any_more_is_gone_soon() {
        let mut units = two();
        assert_eq!(login(&mut units, 0, 120, vec![disk(B, "b", 100)]), []);
        assert_eq!(units.found().len(), 2, "users still see it");
        let limit = at(READY_TIMEOUT.as_secs());
        assert_eq!(units.deadline(true), Some(limit));
        assert_eq!(units.expired(limit), Some((lun(A), BlockError::UnitLost(UnitLoss::Gone))));
    }

    #[test]
    fn without_a_list_a_unit_that_was_not_asked_is_no_news() {
        let mut units = two();
        assert_eq!(units.compare(&BringUp::ended(false, vec![disk(A, "a", 100)]), None, at(1)), []);
        assert!(units.is_open(lun(B)));
    }

    #[test]
    fn news_of_the_target_close_every_unit_until_all_were_looked_at() {
        let mut units = two();
        units.look_soon(at(1));
        assert!(!units.is_open(lun(A)) && !units.is_open(lun(B)) && units.deadline(false) == Some(at(1)));
        assert!(units.unit(lun(A)).is_some(), "requests are accepted, and wait");
        let same = || BringUp::ended(true, vec![disk(A, "a", 100), disk(B, "b", 100)]);
        assert!(units.look(at(1)).is_some_and(|run| run.has_list()));
        // It speaks again during the look: what that look has found may be old.
        units.look_soon(at(2));
        assert_eq!(units.compare(&same(), None, at(3)), []);
        assert!(!units.is_open(lun(A)));
        assert!(units.look(at(3)).is_some());
        assert_eq!(units.compare(&same(), None, at(4)), []);
        assert!(units.is_open(lun(A)) && units.deadline(false).is_none());
        // A login brings a whole look of its own.
        units.look_soon(at(5));
        assert_eq!(login(&mut units, 6, 126, vec![disk(A, "a", 100), disk(B, "b", 100)]), []);
        assert!(units.is_open(lun(A)) && units.look(at(1000)).is_none());
    }
}
