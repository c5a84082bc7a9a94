//! Turns for commands that take long. Sessions stand in one line, and the commands of a session in another:
//! each turn goes to the next session, and in it to the next command, within one [`Allowance`]. What a
//! request starts may use what is left of the turn of its input, so that a short command ends at once.

use super::command::Ending;
use super::config::{ConnId, Event};
use super::connection::Phase;
use super::copy;
use super::server::TargetServer;
use super::session::{Link, Session};
use super::task::{Stage, Working};
use super::work::{Allowance, Turn};
use crate::scsi::Status;

/// Pause between two reports of one unit's failures.
const REPORT_PAUSE_NS: u64 = 1_000_000_000;

impl TargetServer {
    /// Whether a command wants a turn: call [`work`](Self::work) then.
    pub fn has_work(&self) -> bool {
        !self.line.is_empty() || !self.erasing.is_empty()
    }

    /// Gives a turn to the session that has waited longest for one, and names its connection, which may have
    /// output now. `None` when no command wants a turn.
    pub fn work(&mut self, now_ns: u64) -> Option<ConnId> {
        self.now_ns = self.now_ns.max(now_ns);
        self.erase();
        loop {
            let id = self.line.pop_front()?;
            // Its connection may be gone.
            let Some(mut conn) = self.take(id) else { continue };
            self.allowance = Allowance::TURN;
            if let Phase::Full(session) = &mut conn.phase {
                while !self.allowance.is_spent()
                    && let Some(slot) = session.working.pop_front()
                {
                    self.turn(&mut conn.link, session, slot);
                }
                session.in_line = !session.working.is_empty();
                if session.in_line {
                    self.line.push_back(id);
                }
            }
            self.put(id, conn);
            return Some(id);
        }
    }

    /// A turn for the unit that has waited longest of those that are being sanitized: an erase goes on
    /// without its command.
    fn erase(&mut self) {
        let Some((target, unit)) = self.erasing.pop_front() else { return };
        let disk = &mut self.targets[target].units[unit].disk;
        let mut allowance = Allowance::TURN;
        while disk.is_sanitizing() && !allowance.is_spent() {
            // The failure is in the trouble that is reported, and has ended the erase.
            let _ = disk.erase(&mut allowance);
        }
        if disk.is_sanitizing() {
            self.erasing.push_back((target, unit));
        } else {
            self.report_trouble(Some(target), Some(unit));
        }
    }

    /// Some flush has ended: whoever waits for one asks in its next turn.
    pub fn flushed(&mut self) {
        for id in std::mem::take(&mut self.waiting) {
            let Some(mut conn) = self.take(id) else { continue };
            if let Phase::Full(session) = &mut conn.phase {
                for slot in std::mem::take(&mut session.waiting) {
                    self.line_up(&conn.link, session, slot);
                }
            }
            self.put(id, conn);
        }
    }

    /// Sets a command to work, with a first turn if there is something left of the present one.
    pub(super) fn begin_work(
        &mut self,
        link: &mut Link,
        session: &mut Session,
        slot: usize,
        working: Working,
    ) {
        session.tasks.get(slot).stage = Stage::Work(working);
        if self.allowance.is_spent() {
            self.line_up(link, session, slot);
        } else {
            self.turn(link, session, slot);
        }
    }

    fn line_up(&mut self, link: &Link, session: &mut Session, slot: usize) {
        session.working.push_back(slot);
        if !std::mem::replace(&mut session.in_line, true) {
            self.line.push_back(link.id);
        }
    }

    fn turn(&mut self, link: &mut Link, session: &mut Session, slot: usize) {
        let task = session.tasks.get(slot);
        let (Stage::Work(working), Some(target), Some(unit)) =
            (&mut task.stage, session.target, task.origin.unit)
        else {
            return;
        };
        let units = &mut self.targets[target].units;
        let (work, allowance) = (&mut working.work, &mut self.allowance);
        let end = if work.is_copy() {
            copy::turn(units, unit, &session.nexus, work, &task.buffer, allowance)
        } else {
            units[unit].disk.turn(work, &task.buffer, allowance)
        };
        let (status, sense) = match end {
            Turn::More => return self.line_up(link, session, slot),
            Turn::Waiting => {
                if session.waiting.is_empty() {
                    self.waiting.push(link.id);
                }
                return session.waiting.push(slot);
            }
            Turn::Over(Ok(())) => (working.work.good(), None),
            Turn::Over(Err(sense)) => (Status::CHECK_CONDITION, Some(sense)),
        };
        let ending = Ending { status, sense, wanted: working.wanted, exp_data_sn: working.exp_data_sn };
        self.respond(link, session, slot, ending);
    }

    /// Tells the operator what failed below a unit, if something did, and not too often.
    pub(super) fn report_trouble(&mut self, target: Option<usize>, unit: Option<usize>) {
        let (Some(target), Some(unit)) = (target, unit) else { return };
        let target = &mut self.targets[target];
        let unit = &mut target.units[unit];
        let Some((storage, trouble)) = unit.disk.take_trouble() else { return };
        if self.now_ns < unit.report_ns {
            unit.unreported += 1;
            return;
        }
        unit.report_ns = self.now_ns.saturating_add(REPORT_PAUSE_NS);
        let unreported = std::mem::take(&mut unit.unreported);
        self.journal.emit(Event::Trouble {
            target: target.name.clone(),
            lun: unit.number,
            storage: storage.to_owned(),
            trouble,
            unreported,
        });
    }
}
