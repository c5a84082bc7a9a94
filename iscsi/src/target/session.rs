//! One session and the sending half of its connection (one connection per session, RFC 7143 4.2). The server
//! takes both out of its table while it handles their input, so that a command may reach other sessions.

use super::attention::Attentions;
use super::config::{ConnId, Counters, Event};
use super::output::Output;
use super::reservation::Nexus;
use super::task::{Origin, Stage, Tasks};
use super::window::Window;
use crate::negotiate::SessionParams;
use crate::pdu::{Bhs, Header, Opcode, Reject, RejectReason};
use crate::scsi::Sense;
use crate::sendtargets::TargetAddress;
use crate::serial::Sn;
use crate::text::{TextCollector, TextSplitter};
use std::collections::VecDeque;

/// Bounded list of events; the oldest stay, later ones are counted as dropped.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) events: VecDeque<Event>,
    pub(super) counters: Counters,
}

impl Journal {
    /// Most events that wait to be fetched.
    pub(super) const LIMIT: usize = 4096;

    pub(super) fn emit(&mut self, event: Event) {
        if self.events.len() >= Self::LIMIT {
            self.counters.events_dropped += 1;
        } else {
            self.events.push_back(event);
        }
    }
}

/// Whether a response takes a StatSN or shows the next one (RFC 7143 11.4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    Consume,
    Show,
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: ConnId,
    /// The portal that was connected to, for SendTargets.
    pub(super) local: Option<TargetAddress>,
    pub(super) output: Output,
    pub(super) stat_sn: Sn,
    /// A ping that waits for its answer.
    pub(super) ping: Option<Ping>,
    /// Tag of the next ping.
    pub(super) next_ping: u32,
}

impl Link {
    /// Appends a response with its numbers filled in. All target PDUs carry StatSN, ExpCmdSN and MaxCmdSN at
    /// bytes 24, 28 and 32.
    pub(super) fn send(&mut self, window: &Window, bhs: &mut Bhs, data: &[u8], numbering: Numbering) {
        self.stamp(window, bhs, numbering);
        self.output.pdu(bhs, data);
    }

    /// Fills in the numbers.
    pub(super) fn stamp(&mut self, window: &Window, bhs: &mut Bhs, numbering: Numbering) {
        let stat_sn = match numbering {
            Numbering::Consume => self.stat_sn.take(),
            Numbering::Show => self.stat_sn,
        };
        for (at, sn) in [(4, stat_sn), (8, window.exp()), (12, window.max())] {
            bhs.rest[at..at + 4].copy_from_slice(&sn.0.to_be_bytes());
        }
    }

    /// Rejects a PDU: its header goes back (RFC 7143 11.17).
    pub(super) fn reject(
        &mut self,
        window: &Window,
        header: &[u8; 48],
        reason: RejectReason,
        journal: &mut Journal,
    ) {
        let mut reject = Reject::new();
        reject.reason = reason.code();
        self.send(window, &mut reject, header, Numbering::Consume);
        journal.counters.rejects += 1;
        journal.emit(Event::Rejected {
            conn: self.id,
            reason,
            opcode: Bhs::from_bytes(header).opcode_byte(),
        });
    }
}

/// A Text exchange under way.
#[derive(Debug, Default)]
pub(super) struct TextExchange {
    pub(super) request: TextCollector,
    pub(super) answer: Option<TextSplitter>,
    pub(super) ttt: u32,
    /// ITT of its first request: the others carry it too (RFC 7143 11.10.3).
    pub(super) itt: u32,
}

/// A session in full feature phase.
#[derive(Debug)]
pub(super) struct Session {
    /// Index of its target; `None` for a discovery session.
    pub(super) target: Option<usize>,
    pub(super) nexus: Nexus,
    pub(super) tsih: u16,
    pub(super) cid: u16,
    pub(super) params: SessionParams,
    pub(super) window: Window,
    pub(super) tasks: Tasks,
    /// Immediate SCSI commands among the tasks.
    pub(super) immediate_tasks: u32,
    /// Reads with data to send, in order.
    pub(super) sending: VecDeque<usize>,
    /// Commands that want a turn, in order, and those that wait for a flush.
    pub(super) working: VecDeque<usize>,
    pub(super) waiting: Vec<usize>,
    /// The session stands in the server's line for turns.
    pub(super) in_line: bool,
    /// Per logical unit of the target, by index.
    pub(super) attentions: Vec<Attentions>,
    pub(super) text: TextExchange,
    /// Non-immediate SCSI commands delivered.
    pub(super) executed: u64,
    pub(super) state: State,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// No further request is looked at; the connection closes when its output is sent.
    Ended(super::CloseReason),
}

impl Session {
    /// Ends the task in `slot`; its CmdSN makes room for another unless it was immediate.
    pub(super) fn end_task(&mut self, slot: usize) {
        let immediate = self.tasks.get(slot).origin.immediate;
        self.tasks.remove(slot);
        self.count_end(immediate);
    }

    /// Counts the end of a command: a non-immediate one makes room in the window.
    pub(super) fn count_end(&mut self, immediate: bool) {
        if immediate {
            self.immediate_tasks -= 1;
        } else {
            self.window.release();
        }
    }

    /// Ends every task that `chosen` names, without a response, and forgets requests that still wait for
    /// their turn. Returns how many.
    pub(super) fn abort_tasks(&mut self, mut chosen: impl FnMut(&Origin) -> bool) -> u32 {
        let slots: Vec<usize> =
            self.tasks.iter().filter(|(_, task)| chosen(&task.origin)).map(|(slot, _)| slot).collect();
        for slot in &slots {
            self.end_task(*slot);
        }
        self.sending.retain(|slot| !slots.contains(slot));
        self.working.retain(|slot| !slots.contains(slot));
        self.waiting.retain(|slot| !slots.contains(slot));
        slots.len() as u32
    }

    /// Forgets the held SCSI commands to the units that `chosen` names by their LUN field.
    pub(super) fn abort_held(&mut self, mut chosen: impl FnMut(&[u8; 8]) -> bool) -> u32 {
        self.window.abort_held(|header| {
            let bhs = Bhs::from_bytes(header);
            bhs.opcode() == Ok(Opcode::ScsiCommand) && chosen(&bhs.lun)
        })
    }

    /// Establishes a unit attention at one unit.
    pub(super) fn establish(&mut self, unit: usize, sense: Sense) {
        if let Some(attentions) = self.attentions.get_mut(unit) {
            attentions.establish(sense);
        }
    }

    /// The earliest deadline of a Data-Out.
    pub(super) fn transfer_deadline(&self) -> Option<u64> {
        self.tasks
            .iter()
            .filter_map(|(_, task)| match &task.stage {
                Stage::Out(out) => Some(out.deadline_ns),
                _ => None,
            })
            .min()
    }

    /// Longest data segment to send now.
    pub(super) fn send_limit(&self) -> u32 {
        self.params.max_send_data_segment_length.min(SEND_LIMIT)
    }
}

/// Longest data segment that the target makes, whatever the initiator takes: bounds how far output exceeds
/// its limit.
pub(super) const SEND_LIMIT: u32 = 256 << 10;

/// A ping on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    pub(super) ttt: u32,
    pub(super) deadline_ns: u64,
}
