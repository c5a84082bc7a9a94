//! The logical units of a session over all its logins: what users are told of each, and which of those that were in use are
//! away.
//!
//! A re-login finds out what became of the units ([`Units::compare`]). Four answers are told apart: the unit is back; another
//! disk answers under its number, and what waits for the old one must not reach it; it is away for now (busy, not ready,
//! reserved, not answered); it is gone from the target's list. Requests for a unit that is away wait for it, others go on,
//! and it keeps being looked for with a growing pause. A wait ends when the replacement timer of the loss would have ended it,
//! and for a unit that is gone after [`READY_TIMEOUT`] at the latest.

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
    /// A whole look is due: the target said that something changed.
    changed: bool,
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
        self.away.is_empty() || !self.away.iter().any(|a| same(a.lun, lun))
    }

    /// Whether a disk is there, or none ever was: the session is of use.
    pub(crate) fn any_open(&self) -> bool {
        self.away.is_empty() || self.found.iter().any(|(_, f)| f.is_ok())
    }

    /// A bring-up, a comparison after a re-login or a further look has ended. `until`: when requests that wait for a unit fail.
    /// Tells which requests have to fail at once, and why.
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
        self.changed = false;
        let wanted = !self.sought().is_empty();
        self.pause = if self.next_look.is_some() { (self.pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        self.next_look = wanted.then(|| now + self.pause);
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
        luns.extend(never.map(|(l, _)| *l).filter(|l| self.is_open(*l)));
        luns
    }

    /// The target said that its units have changed: all are looked at.
    pub(crate) fn look_soon(&mut self, now: Instant) {
        self.changed = true;
        self.next_look = Some(now);
    }

    /// A look that is due at `now`.
    pub(crate) fn look(&mut self, now: Instant) -> Option<BringUp> {
        self.next_look.filter(|at| *at <= now)?;
        if self.changed {
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

    /// When [`look`](Self::look) or [`expired`](Self::expired) has something to say. `looking`: a look is under way.
    pub(crate) fn deadline(&self, looking: bool) -> Option<Instant> {
        let ends = self.away.iter().filter(|a| !a.given_up).filter_map(|a| a.until).min();
        Instant::earliest(ends, self.next_look.filter(|_| !looking))
    }

    /// A session begins anew after a login: pauses are short again.
    pub(crate) fn logged_in(&mut self) {
        self.next_look = None;
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
