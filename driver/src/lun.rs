//! LUN bring-up: what a SCSI disk driver asks before it lets I/O through (SCSI.md 3). REPORT LUNS, then for
//! each unit INQUIRY, TEST UNIT READY, the VPD pages 00, 80, 83 and B0, READ CAPACITY and MODE SENSE.
//!
//! Sans-IO: the adapter runs one [`BringUp`] until it has ended once, posts each [`ScsiCommand`], and feeds
//! the end of it back; a lost connection makes it begin again after the next login. After a re-login it runs
//! once more, and the adapter compares with [`LunInfo::same_disk`]. Not modelled: devices other than disks,
//! multipath, protection information.

mod info;

use core::fmt;
use core::time::Duration;

use bus::Instant;
use iscsi::scsi::{
    BlockLimits, CachingPage, Capacity, Cdb, Form, Inquiry, Lun, ModeParameters, ReportLuns, Sense, SenseKey,
    Status, designators, page, qualifier, vpd, vpd_payload,
};

use crate::error::BlockError;

pub use info::{LunError, LunInfo};

/// Logical units that are brought up per session; what a target reports beyond them is left out and counted.
pub const MAX_LUNS: usize = 4096;
/// Longest read of a bring-up, in bytes: the LUN list.
pub const MAX_READ: u32 = 8 + 8 * MAX_LUNS as u32;
/// What is enough for most targets, in bytes: a list of 256 units. A list that says that it is longer is
/// asked for again.
pub const FIRST_READ: u32 = 8 + 8 * 256;
/// How often a list is asked for again that grows meanwhile.
const GROWTH_LIMIT: u8 = 3;
/// How long a unit may take to become ready.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The same after a re-login: other units do not wait for one that is not ready, it is looked for again
/// later.
pub const AGAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How often one command may end without an answer before the session is recovered.
pub const UNANSWERED_LIMIT: u8 = 2;
/// Pause before asking a busy or not yet ready unit again.
pub const READY_PAUSE: Duration = Duration::from_secs(1);
/// How often a command is repeated at once after unit attention: several may be pending.
const ATTENTION_LIMIT: u8 = 5;
/// Units that are tried one by one when the target does not know REPORT LUNS.
const SEQUENTIAL: u16 = 8;

/// A command to post. All of them are reads or have no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Logical unit.
    pub lun: Lun,
    /// CDB, zero padded.
    pub cdb: [u8; 16],
    /// Expected read length, at most [`MAX_READ`].
    pub read_len: u32,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BringUpAction {
    /// Post it, then call [`BringUp::answered`] or [`BringUp::failed`].
    Submit(ScsiCommand),
    /// Nothing before this time.
    WaitUntil(Instant),
    /// All units are known.
    Done,
    /// A command was repeated and never answered: the session is to be recovered.
    NoAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ReportLuns,
    Inquiry,
    Ready,
    Start,
    Pages,
    Serial,
    Ids,
    Limits,
    Capacity16,
    Capacity10,
    Mode10,
    Mode6,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::ReportLuns => "REPORT LUNS",
            Self::Inquiry => "INQUIRY",
            Self::Ready => "TEST UNIT READY",
            Self::Start => "START STOP UNIT",
            Self::Pages | Self::Serial | Self::Ids | Self::Limits => "INQUIRY (VPD)",
            Self::Capacity16 => "READ CAPACITY(16)",
            Self::Capacity10 => "READ CAPACITY(10)",
            Self::Mode10 => "MODE SENSE(10)",
            Self::Mode6 => "MODE SENSE(6)",
        }
    }

    /// A unit is usable without what these tell.
    const fn is_optional(self) -> bool {
        matches!(
            self,
            Self::Pages | Self::Serial | Self::Ids | Self::Limits | Self::Mode10 | Self::Mode6 | Self::Start
        )
    }

    /// How much is asked for at first, and at most.
    const fn lengths(self) -> (u32, u32) {
        match self {
            Self::ReportLuns => (FIRST_READ, MAX_READ),
            Self::Inquiry => (36, 36),
            Self::Ready | Self::Start => (0, 0),
            Self::Pages | Self::Serial | Self::Ids | Self::Limits => (255, MAX_READ),
            Self::Capacity16 => (32, 32),
            Self::Capacity10 => (8, 8),
            Self::Mode10 => (64, MAX_READ),
            Self::Mode6 => (64, 255),
        }
    }

    /// How long the whole answer is by its own header: the length is that of the list, not of what was sent
    /// (SPC-4 4.2.5.6).
    fn announced(self, data: &[u8]) -> u64 {
        let be16 = |at: usize| data.get(at..at + 2).map_or(0, |b| u64::from(b[0]) << 8 | u64::from(b[1]));
        match self {
            Self::ReportLuns => ReportLuns::parse(data).map_or(0, |list| list.needed()),
            Self::Pages | Self::Serial | Self::Ids | Self::Limits => 4 + be16(2),
            Self::Mode10 => 2 + be16(0),
            Self::Mode6 => 1 + data.first().map_or(0, |&len| u64::from(len)),
            _ => 0,
        }
    }

    /// The command, asking for `len` bytes.
    fn cdb(self, len: u32) -> Cdb {
        let short = u16::try_from(len).unwrap_or(u16::MAX);
        let inquiry = |evpd, page| Cdb::Inquiry { evpd, page, allocation: short };
        let mode = |form| Cdb::ModeSense {
            form,
            dbd: true,
            long_lba: false,
            control: 0,
            page: page::CACHING,
            subpage: 0,
            allocation: short,
        };
        match self {
            Self::ReportLuns => Cdb::ReportLuns { select: 0, allocation: len },
            Self::Inquiry => inquiry(false, 0),
            Self::Ready => Cdb::TestUnitReady,
            Self::Start => Cdb::StartStop { immed: true, power_condition: 0, loej: false, start: true },
            Self::Pages => inquiry(true, vpd::SUPPORTED_PAGES),
            Self::Serial => inquiry(true, vpd::SERIAL_NUMBER),
            Self::Ids => inquiry(true, vpd::DEVICE_IDENTIFICATION),
            Self::Limits => inquiry(true, vpd::BLOCK_LIMITS),
            Self::Capacity16 => Cdb::ReadCapacity16 { allocation: len },
            Self::Capacity10 => Cdb::ReadCapacity10,
            Self::Mode10 => mode(Form::Ten),
            Self::Mode6 => mode(Form::Six),
        }
    }
}

/// What is known of the unit that is being brought up.
#[derive(Clone, Debug, Default)]
struct Draft {
    inquiry: Option<Inquiry>,
    pages: Vec<u8>,
    serial: Option<String>,
    id: Option<String>,
    limits: BlockLimits,
    capacity: Option<Capacity>,
    started: bool,
}

/// The bring-up of all units of a session.
#[derive(Debug)]
pub struct BringUp {
    /// It began with the target's list of units.
    whole: bool,
    luns: Vec<Lun>,
    at: usize,
    /// The list is a guess: absent units are no news.
    guessed: bool,
    step: Step,
    draft: Draft,
    attentions: u8,
    /// What the current step asks for, in bytes, and how often it has asked for more.
    asks: u32,
    grown: u8,
    /// How long a unit may take to become ready.
    ready_timeout: Duration,
    /// When the patience with the current unit ends; set by its first command.
    patience: Option<Instant>,
    /// How often the current command ended without an answer.
    unanswered: u8,
    pause: Option<Instant>,
    posted: bool,
    done: bool,
    found: Vec<(Lun, Result<LunInfo, LunError>)>,
    left_out: u64,
}

impl Default for BringUp {
    fn default() -> Self {
        Self::new()
    }
}

impl BringUp {
    /// Begins: nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::start(Step::ReportLuns, vec![Lun::default()], READY_TIMEOUT)
    }

    /// Looks at all units once more, with little patience for each.
    #[must_use]
    pub fn again() -> Self {
        Self::start(Step::ReportLuns, vec![Lun::default()], AGAIN_TIMEOUT)
    }

    /// Looks at these units only, with little patience for each.
    #[must_use]
    pub fn of(luns: Vec<Lun>) -> Self {
        Self::start(Step::Inquiry, luns, AGAIN_TIMEOUT)
    }

    fn start(step: Step, luns: Vec<Lun>, ready_timeout: Duration) -> Self {
        Self {
            whole: step == Step::ReportLuns,
            luns,
            at: 0,
            guessed: false,
            step,
            draft: Draft::default(),
            attentions: 0,
            asks: step.lengths().0,
            grown: 0,
            ready_timeout,
            patience: None,
            unanswered: 0,
            pause: None,
            posted: false,
            done: false,
            found: Vec::new(),
            left_out: 0,
        }
    }

    /// One that has ended like this; with `whole` it had the target's list.
    #[cfg(test)]
    pub(crate) fn ended(whole: bool, found: Vec<(Lun, Result<LunInfo, LunError>)>) -> Self {
        let run = if whole { Self::again() } else { Self::of(Vec::new()) };
        Self { done: true, found, ..run }
    }

    /// What was found so far, in the order of the target's list.
    pub fn found(&self) -> &[(Lun, Result<LunInfo, LunError>)] {
        &self.found
    }

    /// The disk or the error of one unit, once the bring-up is done.
    ///
    /// # Errors
    /// [`LunError::Missing`] for a unit that the target did not report; else why it is not usable.
    pub fn unit(&self, lun: Lun) -> Result<&LunInfo, LunError> {
        let number = |l: Lun| l.number().ok_or(l);
        match self.found.iter().find(|(l, _)| number(*l) == number(lun)) {
            Some((_, result)) => result.as_ref().map_err(|e| *e),
            None => Err(LunError::Missing),
        }
    }

    /// Whether the target's list of units is known: one that is not in it is gone.
    #[must_use]
    pub fn has_list(&self) -> bool {
        self.whole && !self.guessed
    }

    /// Units that the target reported beyond [`MAX_LUNS`].
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// What to do at `now`; `None` while a command is out.
    pub fn poll(&mut self, now: Instant) -> Option<BringUpAction> {
        if self.done {
            return Some(BringUpAction::Done);
        }
        if self.posted {
            return None;
        }
        if self.unanswered > UNANSWERED_LIMIT {
            return Some(BringUpAction::NoAnswer);
        }
        if let Some(at) = self.pause
            && now < at
        {
            return Some(BringUpAction::WaitUntil(at));
        }
        self.pause = None;
        self.patience.get_or_insert(now + self.ready_timeout);
        self.posted = true;
        let cdb = self.step.cdb(self.asks).encode().bytes;
        Some(BringUpAction::Submit(ScsiCommand { lun: self.lun(), cdb, read_len: self.asks }))
    }

    /// The command of the last [`poll`](Self::poll) could not be posted: it is asked for again.
    pub fn unposted(&mut self) {
        self.posted = false;
    }

    /// Whether [`poll`](Self::poll) has a command to post at `now`.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        !self.done && !self.posted && self.pause.is_none_or(|at| at <= now)
    }

    fn lun(&self) -> Lun {
        self.luns.get(self.at).copied().unwrap_or_default()
    }

    /// The command ended without an answer: it says nothing about the unit, and is repeated up to
    /// [`UNANSWERED_LIMIT`] times.
    pub fn unanswered(&mut self) {
        if core::mem::take(&mut self.posted) {
            self.unanswered += 1;
        }
    }

    /// The command could not be built.
    pub fn failed(&mut self, error: BlockError) {
        if core::mem::take(&mut self.posted) {
            let command = self.step.name();
            self.give_up(LunError::Command { command, error });
        }
    }

    /// The target answered: iSCSI response code, SCSI status, sense, and the data that arrived.
    pub fn answered(
        &mut self,
        response: u8,
        status: Status,
        sense: Option<Sense>,
        data: &[u8],
        now: Instant,
    ) {
        if !core::mem::take(&mut self.posted) {
            return;
        }
        self.unanswered = 0;
        let command = self.step.name();
        if response != 0 {
            return self.give_up(LunError::Command { command, error: BlockError::TargetFailure(response) });
        }
        match (status, sense) {
            (Status::GOOD | Status::CONDITION_MET, _) => self.good(data),
            (Status::CHECK_CONDITION, Some(sense)) => self.check_condition(sense, now),
            (Status::CHECK_CONDITION, None) => {
                self.refused(LunError::Command { command, error: BlockError::NoSense });
            }
            (Status::BUSY | Status::TASK_SET_FULL, _) => self.again_later(LunError::Busy, now),
            (Status::RESERVATION_CONFLICT, _) => self.refused(LunError::Reserved),
            _ => self.refused(LunError::Command { command, error: BlockError::Status(status) }),
        }
    }

    fn check_condition(&mut self, sense: Sense, now: Instant) {
        let command = self.step.name();
        let error = LunError::Command { command, error: BlockError::Sense(sense) };
        match (sense.key, sense.asc, sense.ascq) {
            (SenseKey::UNIT_ATTENTION | SenseKey::ABORTED_COMMAND, ..) => {
                self.attentions += 1;
                if self.attentions > ATTENTION_LIMIT {
                    self.refused(error);
                }
            }
            (SenseKey::ILLEGAL_REQUEST, 0x25, _) => self.give_up(LunError::Missing),
            (SenseKey::NOT_READY, 0x3A, _) => self.give_up(LunError::NoMedium),
            (SenseKey::NOT_READY, 0x04, 0x02) if !self.draft.started => {
                self.draft.started = true;
                self.go(Step::Start);
            }
            (SenseKey::NOT_READY, 0x04, _) => self.again_later(LunError::NotReady(sense), now),
            (SenseKey::NOT_READY, ..) => self.give_up(LunError::NotReady(sense)),
            _ => self.refused(error),
        }
    }

    fn again_later(&mut self, error: LunError, now: Instant) {
        let at = now + READY_PAUSE;
        if self.patience.is_some_and(|end| at > end) {
            return self.refused(error);
        }
        if self.step == Step::Start {
            self.go(Step::Ready);
        }
        self.pause = Some(at);
    }

    /// The target does not do the current step: go on without it where that is possible.
    fn refused(&mut self, error: LunError) {
        match self.step {
            Step::ReportLuns => {
                self.luns = (0..SEQUENTIAL).filter_map(Lun::from_number).collect();
                self.guessed = true;
                self.begin_unit();
            }
            // Without them the unit could be taken for another one.
            Step::Pages | Step::Serial | Step::Ids | Step::Capacity16 if error.is_passing() => {
                self.give_up(error)
            }
            Step::Capacity16 if self.draft.inquiry.is_some_and(|i| i.version >= SPC3) => {
                self.go(Step::Capacity10);
            }
            Step::Pages => self.go(Step::first_capacity(&self.draft)),
            step if step.is_optional() => self.after(step),
            _ => self.give_up(error),
        }
    }

    fn go(&mut self, step: Step) {
        self.step = step;
        (self.attentions, self.grown) = (0, 0);
        self.asks = step.lengths().0;
    }

    fn begin_unit(&mut self) {
        self.draft = Draft::default();
        self.patience = None;
        self.done = self.at >= self.luns.len();
        self.go(Step::Inquiry);
    }

    fn end_unit(&mut self, result: Result<LunInfo, LunError>) {
        let absent = matches!(result, Err(LunError::Missing | LunError::NotConnected));
        if !(self.guessed && absent) {
            self.found.push((self.lun(), result));
        }
        self.at += 1;
        self.begin_unit();
    }

    fn give_up(&mut self, error: LunError) {
        if self.step == Step::ReportLuns {
            return self.refused(error);
        }
        self.end_unit(Err(error));
    }

    /// Whether the answer says that there is more than was asked for, and asking for it makes sense.
    fn asks_again(&mut self, data: &[u8]) -> bool {
        let whole = self.step.announced(data).min(self.step.lengths().1.into()) as u32;
        let more = whole > self.asks && self.grown < GROWTH_LIMIT;
        if more {
            (self.asks, self.grown) = (whole, self.grown + 1);
        }
        more
    }

    fn good(&mut self, data: &[u8]) {
        let step = self.step;
        if self.asks_again(data) {
            return;
        }
        match step {
            Step::ReportLuns => {
                let Some(list) = ReportLuns::parse(data) else {
                    return self.refused(LunError::Malformed(step.name()));
                };
                self.luns = list.iter().take(MAX_LUNS).collect();
                self.left_out = (list.needed() / 8 - 1).saturating_sub(self.luns.len() as u64);
                return self.begin_unit();
            }
            Step::Inquiry => {
                let Some(inquiry) = Inquiry::parse(data) else {
                    return self.give_up(LunError::Malformed(step.name()));
                };
                match (inquiry.qualifier, inquiry.device_type) {
                    (qualifier::PRESENT, 0) => self.draft.inquiry = Some(inquiry),
                    (qualifier::PRESENT, kind) if kind != 0x1F => {
                        return self.give_up(LunError::NotADisk(kind));
                    }
                    (qualifier::NOT_CONNECTED, _) => return self.give_up(LunError::NotConnected),
                    _ => return self.give_up(LunError::Missing),
                }
            }
            Step::Pages => {
                let known = vpd_payload(vpd::SUPPORTED_PAGES, data).unwrap_or(&[]);
                self.draft.pages = known.to_vec();
            }
            Step::Serial => {
                self.draft.serial = vpd_payload(vpd::SERIAL_NUMBER, data).map(text).filter(|s| !s.is_empty());
            }
            Step::Ids => {
                self.draft.id = vpd_payload(vpd::DEVICE_IDENTIFICATION, data).and_then(best_designator);
            }
            Step::Limits => {
                let limits = vpd_payload(vpd::BLOCK_LIMITS, data).and_then(BlockLimits::parse);
                self.draft.limits = limits.unwrap_or_default();
            }
            Step::Capacity16 => match Capacity::parse16(data) {
                Some(capacity) => self.draft.capacity = Some(capacity),
                None => return self.give_up(LunError::Malformed(step.name())),
            },
            Step::Capacity10 => match Capacity::parse10(data) {
                Some(Some(capacity)) => self.draft.capacity = Some(capacity),
                // Too large for the short form. The long one was refused already if the unit is new enough to
                // know it.
                Some(None) if self.draft.inquiry.is_some_and(|i| i.version < SPC3) => {
                    return self.go(Step::Capacity16);
                }
                _ => return self.give_up(LunError::Malformed(step.name())),
            },
            Step::Mode10 | Step::Mode6 => {
                let form = if step == Step::Mode10 { Form::Ten } else { Form::Six };
                return match ModeParameters::parse(form, data) {
                    Some(mode) => self.finish(Some(mode)),
                    None => self.after(step),
                };
            }
            Step::Ready | Step::Start => {}
        }
        if let Some(Capacity { block_size, .. }) = self.draft.capacity
            && !(block_size.is_power_of_two() && (512..=32_768).contains(&block_size))
        {
            return self.give_up(LunError::BlockSize(block_size));
        }
        if self.draft.capacity.is_some_and(|c| c.bytes().is_none()) {
            // More bytes than can be counted: arithmetic on its end would wrap.
            return self.give_up(LunError::Malformed(step.name()));
        }
        self.after(step);
    }

    /// Goes to what follows `step`.
    fn after(&mut self, step: Step) {
        let has = |page: u8| self.draft.pages.contains(&page);
        let capacity = Step::first_capacity(&self.draft);
        let vpd_from = |first: usize| {
            [
                (vpd::SERIAL_NUMBER, Step::Serial),
                (vpd::DEVICE_IDENTIFICATION, Step::Ids),
                (vpd::BLOCK_LIMITS, Step::Limits),
            ]
            .into_iter()
            .skip(first)
            .find(|(page, _)| has(*page))
            .map_or(capacity, |(_, step)| step)
        };
        let next = match step {
            Step::ReportLuns => Step::Inquiry,
            Step::Inquiry | Step::Start => Step::Ready,
            Step::Ready if capacity == Step::Capacity16 => Step::Pages,
            Step::Ready => capacity,
            Step::Pages => vpd_from(0),
            Step::Serial => vpd_from(1),
            Step::Ids => vpd_from(2),
            Step::Limits => capacity,
            Step::Capacity16 | Step::Capacity10 => Step::Mode10,
            Step::Mode10 => Step::Mode6,
            Step::Mode6 => return self.finish(None),
        };
        self.go(next);
    }

    fn finish(&mut self, mode: Option<ModeParameters<'_>>) {
        let draft = core::mem::take(&mut self.draft);
        let (Some(inquiry), Some(capacity)) = (draft.inquiry, draft.capacity) else {
            return self.end_unit(Err(LunError::Malformed("INQUIRY")));
        };
        let caching = mode.and_then(|m| m.page(page::CACHING)).and_then(CachingPage::parse);
        self.end_unit(Ok(LunInfo {
            lun: self.lun(),
            vendor: text(&inquiry.vendor),
            product: text(&inquiry.product),
            revision: text(&inquiry.revision),
            serial: draft.serial,
            id: draft.id,
            capacity,
            read_only: mode.is_some_and(|m| m.write_protected),
            write_cache: caching.is_some_and(|c| c.write_cache),
            fua: mode.is_some_and(|m| m.dpo_fua),
            limits: draft.limits,
        }));
    }
}

/// INQUIRY version from which VPD pages and READ CAPACITY(16) are tried.
const SPC3: u8 = 5;

impl Step {
    fn first_capacity(draft: &Draft) -> Self {
        if draft.inquiry.is_some_and(|i| i.version >= SPC3) { Self::Capacity16 } else { Self::Capacity10 }
    }
}

/// Text of a peer for reports: printable ASCII, without padding.
fn text(bytes: &[u8]) -> String {
    let shown: String =
        bytes.iter().map(|&b| if (0x20..0x7F).contains(&b) { char::from(b) } else { '?' }).collect();
    shown.trim().trim_end_matches('?').to_owned()
}

fn best_designator(payload: &[u8]) -> Option<String> {
    let rank = |kind| match kind {
        3 => Some(0),
        2 => Some(1),
        8 => Some(2),
        1 => Some(3),
        _ => None,
    };
    let best = designators(payload)
        .filter(|d| d.association == 0 && !d.data.is_empty())
        .filter_map(|d| rank(d.kind).map(|r| (r, d)))
        .min_by_key(|(r, _)| *r)?
        .1;
    struct Hex<'a>(&'a [u8]);
    impl fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
        }
    }
    Some(match best.kind {
        3 => format!("naa.{}", Hex(best.data)),
        2 => format!("eui.{}", Hex(best.data)),
        8 => text(best.data),
        _ => format!("t10.{}", text(best.data)),
    })
}

#[cfg(test)]
mod tests;
