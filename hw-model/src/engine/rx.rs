//! Receive: the byte stream as PDUs, each judged when its header is complete, its payload placed as it
//! arrives, its effect (CQ entry, task state, ExpStatSN) had when it is whole and its digests are right.
//!
//! Reception stops without consuming in two places: before the payload of a PDU that needs an RQ buffer while
//! there is none (BNX2I-CNIC 5.7), and after the final Login Response until UPDATE_CONN says how the next PDU
//! is framed [I].

use bus::pci::{DevCx, DmaFault};
use bus::trace::EventKind;
use hsi::iscsi::bits::Itt;
use hsi::kernel::kcq::CompletionStatus;
use iscsi::framing::{Event, Framer, FramingError};
use iscsi::pdu::{self, BHS_LEN, Bhs, Header, MAX_DATA_SEGMENT_LEN, Opcode, RejectReason, flags};

use super::conn::Conn;
use super::task::{Kind, Sequence, State};
use super::{Core, cqe};
use crate::fault::FaultPoint;

/// Where the payload of a PDU goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere.
    #[default]
    Nowhere,
    /// Into the buffer of a task, from this buffer offset on.
    Task { index: u16, offset: u32 },
    /// Into the next RQ buffer.
    Rq,
}

/// What becomes of a PDU whose header is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has to wait for an RQ buffer.
    Wait,
    /// It has its effect when it is whole; the task it belongs to, if it does.
    Accept(Place, Option<u16>),
    /// It has none; its payload is dropped.
    Drop,
}

/// Why reception stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waiting {
    #[default]
    No,
    /// For an RQ buffer.
    Buffer,
    /// For UPDATE_CONN.
    Update,
}

/// A header that is complete and not judged yet, or the PDU that is being received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Current {
    /// Between PDUs, or in a header.
    #[default]
    None,
    /// The header is complete.
    Header,
    /// Payload and trailer are coming in.
    Body {
        place: Place,
        task: Option<u16>,
        /// Fault point: how far off the payload is placed.
        skew: u32,
        /// Fault point: invert the first byte.
        corrupt: bool,
    },
    /// As `Body`, but the PDU has no effect.
    Dropped,
}

/// Receive state of a connection.
pub(super) struct Rx {
    framer: Framer,
    current: Current,
    waiting: Waiting,
    /// The start of a Reject's payload: up to the task tag of the header that was rejected.
    rejected: [u8; 20],
}

impl Default for Rx {
    fn default() -> Self {
        // Lengths are judged with the header, so that the error mask applies.
        let framer = Framer::new(MAX_DATA_SEGMENT_LEN);
        Self { framer, current: Current::None, waiting: Waiting::No, rejected: [0; 20] }
    }
}

impl Rx {
    pub(super) fn is_between_pdus(&self) -> bool {
        self.framer.is_between_pdus()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting != Waiting::No
    }

    /// Whether it waits for an RQ buffer.
    pub(super) fn is_stalled(&self) -> bool {
        self.waiting == Waiting::Buffer
    }

    /// Ends the wait, if there is one; true when bytes may be waiting in the transport.
    pub(super) fn resume(&mut self) -> bool {
        std::mem::take(&mut self.waiting) != Waiting::No
    }

    /// The task was cleaned up: the PDU that is being received for it has no effect any more.
    pub(super) fn abandon(&mut self, index: u16) {
        if matches!(self.current, Current::Body { task: Some(i), .. } if i == index) {
            self.current = Current::Dropped;
        }
    }

    /// The header of the PDU that is being received.
    pub(super) fn bhs(&self) -> Bhs {
        *self.framer.bhs()
    }
}

impl Conn {
    /// Consumes received bytes, until they are used up, `budget` PDUs are complete, or reception has to wait.
    /// Returns the bytes consumed and the PDUs completed.
    pub(super) fn consume(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        bytes: &[u8],
        budget: u32,
    ) -> (usize, u32) {
        let mut rest = bytes;
        let mut pdus = 0;
        while !self.failed {
            if self.rx.is_between_pdus() {
                self.frame_by(core);
                if self.rx.is_waiting() || pdus >= budget {
                    return (bytes.len() - rest.len(), pdus);
                }
            }
            if self.rx.current == Current::Header && !self.begin(cx, core) {
                return (bytes.len() - rest.len(), pdus);
            }
            if self.failed {
                break;
            }
            match self.rx.framer.next(&mut rest) {
                Ok(None) => return (bytes.len(), pdus),
                Ok(Some(Event::Header)) => self.rx.current = Current::Header,
                Ok(Some(Event::Data { offset, bytes })) => {
                    if self.place(cx, core, offset, bytes).is_err() {
                        self.dma_fault(core);
                    }
                }
                Ok(Some(Event::End { data_digest_ok })) => {
                    pdus += 1;
                    core.counters.pdus_in += 1;
                    self.end_pdu(cx, core, data_digest_ok);
                }
                Err(FramingError::HeaderDigest) => self.fail(core, CompletionStatus::HDR_DIG_ERR),
                Err(FramingError::AhsTooLong(_)) => self.fail(core, CompletionStatus::PROTOCOL_ERR_AHS_LEN),
                Err(FramingError::DataTooLong { .. }) => {
                    self.fail(core, CompletionStatus::PROTOCOL_ERR_MAX_RCV_PDU_LEN);
                }
            }
        }
        core.counters.bytes_dropped += rest.len() as u64;
        (bytes.len(), pdus)
    }

    /// Between two PDUs: applies an UPDATE that waits, and frames the next PDU as negotiated.
    fn frame_by(&mut self, core: &mut Core) {
        self.apply_update(core);
        let (header, data) = (self.params.header_digest, self.params.data_digest);
        let set = self.rx.framer.configure(header, data, MAX_DATA_SEGMENT_LEN);
        debug_assert!(set.is_ok(), "the caller is between two PDUs");
    }

    /// Judges the PDU whose header is complete; false when it has to wait.
    fn begin(&mut self, cx: &mut DevCx<'_>, core: &mut Core) -> bool {
        let bhs = self.rx.bhs();
        self.rx.current = match self.judge(core, &bhs) {
            Verdict::Wait => {
                core.counters.rq_stalls += 1;
                self.rx.waiting = Waiting::Buffer;
                return false;
            }
            Verdict::Drop => {
                core.counters.pdus_dropped += 1;
                Current::Dropped
            }
            Verdict::Accept(place, task) => {
                let data_in = bhs.opcode() == Ok(Opcode::DataIn);
                let skew = data_in && core.faults.fires(cx, FaultPoint::MisplacedData);
                let corrupt = data_in && core.faults.fires(cx, FaultPoint::CorruptData);
                Current::Body { place, task, skew: if skew { MISPLACED_BY } else { 0 }, corrupt }
            }
        };
        cx.event(
            EventKind::PduIn,
            u64::from(bhs.opcode_byte()),
            u64::from(self.id.0) << 32 | u64::from(bhs.itt.get()),
        );
        true
    }

    /// Places a part of the payload; `at` is its offset in the data segment.
    fn place(&mut self, cx: &mut DevCx<'_>, core: &mut Core, at: u32, bytes: &[u8]) -> Result<(), DmaFault> {
        let Current::Body { place, skew, corrupt, .. } = self.rx.current else { return Ok(()) };
        match place {
            Place::Nowhere => return Ok(()),
            Place::Rq => {
                if let Some(window) = self.rx.rejected.get_mut(at as usize..) {
                    let n = window.len().min(bytes.len());
                    window[..n].copy_from_slice(&bytes[..n]);
                }
                self.rq.write(cx, at, bytes, self.grant)?;
            }
            Place::Task { index, offset } => {
                let Some(task) = self.tasks.get_mut(index) else { return Ok(()) };
                if skew != 0 || corrupt && at == 0 {
                    return misbehave(cx, task, self.grant, offset + at, bytes, skew, corrupt && at == 0);
                }
                task.bds.copy_in(cx, offset + at, bytes, self.grant)?;
            }
        }
        core.counters.bytes_placed += bytes.len() as u64;
        Ok(())
    }

    /// The PDU is whole.
    fn end_pdu(&mut self, cx: &mut DevCx<'_>, core: &mut Core, digest_ok: bool) {
        let current = std::mem::take(&mut self.rx.current);
        if !digest_ok {
            self.fail(core, CompletionStatus::DATA_DIG_ERR);
            return;
        }
        let bhs = self.rx.bhs();
        if let Some(sn) = super::check::stat_sn(&bhs) {
            self.exp_stat_sn = sn.next();
        }
        let Current::Body { task, .. } = current else { return };
        match (bhs.opcode(), task) {
            (Ok(Opcode::DataIn), Some(index)) => self.end_data_in(cx, core, pdu::DataIn::cast(&bhs), index),
            (Ok(Opcode::R2t), Some(index)) => self.end_r2t(pdu::R2t::cast(&bhs), index),
            (Ok(Opcode::ScsiResponse), Some(index)) => {
                let response = pdu::ScsiResponse::cast(&bhs);
                if response.data_len() != 0 {
                    self.use_sense_buffer();
                }
                let Some(task) = self.tasks.get(index) else { return };
                let cqe = cqe::scsi_response(response, task, task.state == State::Active(Kind::Write));
                self.complete(cx, core, index, &cqe);
            }
            (Ok(Opcode::LoginResponse), Some(index)) => {
                let response = pdu::LoginResponse::cast(&bhs);
                let stage = response.flags & (flags::TRANSIT | FULL_FEATURE);
                if response.status_class == 0 && stage == flags::TRANSIT | FULL_FEATURE {
                    self.rx.waiting = Waiting::Update;
                }
                self.pad_response(cx, core, index, response.data_segment_length.get());
                self.complete(cx, core, index, &cqe::login_response(response, tag(&bhs)));
            }
            (Ok(Opcode::TextResponse), Some(index)) => {
                self.pad_response(cx, core, index, bhs.data_segment_length.get());
                let cqe = cqe::text_response(pdu::TextResponse::cast(&bhs), tag(&bhs));
                self.complete(cx, core, index, &cqe);
            }
            (Ok(Opcode::TaskManagementResponse), Some(index)) => {
                let cqe = cqe::tmf_response(pdu::TaskManagementResponse::cast(&bhs), tag(&bhs));
                self.complete(cx, core, index, &cqe);
            }
            (Ok(Opcode::LogoutResponse), Some(index)) => {
                let cqe = cqe::logout_response(pdu::LogoutResponse::cast(&bhs), tag(&bhs));
                self.complete(cx, core, index, &cqe);
            }
            (Ok(Opcode::NopIn), Some(index)) => {
                let cqe = cqe::nop_in(pdu::NopIn::cast(&bhs), Itt::from_raw(tag(&bhs)));
                self.complete(cx, core, index, &cqe);
            }
            (Ok(Opcode::NopIn), None) => {
                self.rq.advance();
                self.notify(cx, core, &cqe::nop_in(pdu::NopIn::cast(&bhs), Itt::RESERVED));
            }
            (Ok(Opcode::AsyncMessage), _) => {
                self.rq.advance();
                self.notify(cx, core, &cqe::async_message(pdu::AsyncMessage::cast(&bhs)));
            }
            (Ok(Opcode::Reject), _) => {
                self.rq.advance();
                let reject = pdu::Reject::cast(&bhs);
                self.end_rejected(reject);
                self.notify(cx, core, &cqe::reject(reject));
            }
            // Judged: nothing else is accepted.
            _ => {}
        }
    }

    /// The host finds response text padded with zeros to four bytes (BNX2I-CNIC 5.4), as far as its buffer
    /// goes.
    fn pad_response(&mut self, cx: &mut DevCx<'_>, core: &mut Core, index: u16, len: u32) {
        let Some(task) = self.tasks.get_mut(index) else { return };
        let padding = pdu::padding(len as usize).min(task.len.saturating_sub(len) as usize);
        if task.bds.copy_in(cx, len, &[0; 3][..padding], self.grant).is_err() {
            self.dma_fault(core);
        }
    }

    fn end_data_in(&mut self, cx: &mut DevCx<'_>, core: &mut Core, pdu: &pdu::DataIn, index: u16) {
        let Some(task) = self.tasks.get_mut(index) else { return };
        let len = pdu.data_segment_length.get();
        task.received = pdu.data_sn.get().wrapping_add(1);
        task.next_offset = pdu.buffer_offset.get().saturating_add(len);
        task.burst = if pdu.is_final() { 0 } else { task.burst.saturating_add(len) };
        if pdu.has_status() {
            let cqe = cqe::data_in(pdu, task, core.config.data_in_status_as_response);
            self.complete(cx, core, index, &cqe);
        }
    }

    fn end_r2t(&mut self, pdu: &pdu::R2t, index: u16) {
        let Some(task) = self.tasks.get_mut(index) else { return };
        let (offset, len) = (pdu.buffer_offset.get(), pdu.desired_length.get());
        task.received = pdu.r2t_sn.get().wrapping_add(1);
        task.next_offset = offset.saturating_add(len);
        let idle = task.sequence.is_none();
        let taken = task.push_r2t(Sequence { ttt: pdu.ttt.get(), offset, left: len, data_sn: 0 });
        debug_assert!(taken, "judged");
        if idle {
            self.solicited.push_back(index);
        }
    }

    /// The target rejected a PDU. Where that was a request, no other answer comes: its task ends here, so
    /// that the index can be used again. The header that was rejected is the payload of the Reject. Only
    /// after a data digest error does the command go on and end with a response of its own (RFC 7143 7.8).
    fn end_rejected(&mut self, reject: &pdu::Reject) {
        if reject.code() == Some(RejectReason::DataDigestError) {
            return;
        }
        let mut header = [0; BHS_LEN];
        header[..self.rx.rejected.len()].copy_from_slice(&self.rx.rejected);
        let rejected = Bhs::from_bytes(&header);
        let is_task = !matches!(rejected.opcode(), Ok(Opcode::DataOut | Opcode::SnackRequest) | Err(_));
        if let Some(index) = self.active(rejected.itt.get(), |_| is_task) {
            self.forget(index, State::Cleaned);
        }
    }
}

/// CSG or NSG of full feature phase, in the low bits of the login flags.
const FULL_FEATURE: u8 = 3;

/// How far off a misplaced payload lands, in bytes: one logical block.
const MISPLACED_BY: u32 = 512;

/// The 16 bits of a task tag that was judged.
fn tag(bhs: &Bhs) -> u16 {
    bhs.itt.get() as u16
}

/// The defective card: places payload off by `skew`, inside the buffer of its task, or inverts its first
/// byte.
#[cold]
fn misbehave(
    cx: &mut DevCx<'_>,
    task: &mut super::task::Task,
    grant: bus::pci::Grant,
    at: u32,
    bytes: &[u8],
    skew: u32,
    corrupt: bool,
) -> Result<(), DmaFault> {
    let len = task.bds.len().max(1);
    // A buffer of one block has no other block to hit: one byte off is misplaced too.
    let skew = if len > skew { skew } else { skew.min(1) };
    for (i, &byte) in bytes.iter().enumerate() {
        let byte = if corrupt && i == 0 { !byte } else { byte };
        task.bds.copy_in(cx, (at + i as u32 + skew) % len, &[byte], grant)?;
    }
    Ok(())
}
