//! Transmit: PDUs into the connection's transmit buffer, in turn from the send queue, from commands with
//! unsolicited data, and from tasks with an R2T to answer (BNX2I-CNIC 5.2, 5.3; RFC 7143 11.7).
//!
//! When the transport takes no more, tasks with data stay on their queues; entries of the send queue are
//! still processed while the buffer has room, so that a CLEANUP is answered over a connection that stands
//! still. The transport's report makes the connection ready again.

use bus::pci::{DevCx, DmaFault};
use bus::trace::EventKind;
use hsi::iscsi::sq::Sqe;
use hsi::kernel::kcq::CompletionStatus;
use iscsi::digest::{data_digest, header_digest};
use iscsi::pdu::{BHS_LEN, Bhs, DataOut, Header, RESERVED_TAG, flags, wire_len};

use super::conn::{Conn, Link};
use super::ring::{ENTRY, FETCH};
use super::txbuf::{LIMIT, TxBuf};
use super::{Core, UpdateParams};
use crate::tcp::TcpEngine;

/// Payload of the largest PDU that an SQ entry may ask for, in bytes: half of the transmit buffer.
pub(super) const MAX_SEGMENT: u32 = LIMIT as u32 / 2;

/// Payload of the largest Data-Out, in bytes.
const MAX_DATA_OUT: u32 = LIMIT as u32 / 4;

/// Data-Outs fill the buffer this far, so that SQ entries find room even when the transport takes nothing.
const DATA_LIMIT: usize = LIMIT / 2;

/// What became of an attempt to send something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is in the buffer, or there was nothing to send.
    Done,
    /// The buffer has no room; nothing changed.
    Full,
}

/// Why the chip could not send something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TxError {
    /// The bus refused to read host memory.
    Dma,
    /// The entry makes no sense; the completion status that says so.
    Refused(CompletionStatus),
}

impl From<DmaFault> for TxError {
    fn from(_: DmaFault) -> Self {
        Self::Dma
    }
}

impl Conn {
    /// Whether something can be done without a report of the transport.
    pub(super) fn can_transmit(&self) -> bool {
        let no_data = self.unsolicited.is_empty() && self.solicited.is_empty();
        !self.failed && (!self.blocked && !no_data || !self.stuck && !self.sq.is_empty())
    }

    /// Fills the buffer and hands it over, for at most `budget` items; the number done.
    pub(super) fn transmit<T: TcpEngine>(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        tcp: &mut T,
        budget: u32,
    ) -> u32 {
        let mut done = 0;
        while done < budget && self.can_transmit() {
            if let Err(error) = self.round(cx, core, tcp, &mut done, budget) {
                match error {
                    TxError::Dma => self.dma_fault(core),
                    TxError::Refused(status) => {
                        core.counters.bad_wqes += 1;
                        self.fail(core, status);
                    }
                }
            }
        }
        done
    }

    /// One PDU of the oldest unsolicited data, one of the next R2T, one batch of SQ entries.
    fn round<T: TcpEngine>(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        tcp: &mut T,
        done: &mut u32,
        budget: u32,
    ) -> Result<(), TxError> {
        if !self.blocked && self.serve_data(cx, core, done)? == Sent::Full {
            self.flush(cx, core, tcp);
        }
        if !self.stuck && self.serve_sq(cx, core, done, budget)? == Sent::Full {
            self.flush(cx, core, tcp);
            self.stuck = self.blocked;
        }
        Ok(())
    }

    fn serve_data(&mut self, cx: &mut DevCx<'_>, core: &mut Core, done: &mut u32) -> Result<Sent, TxError> {
        if let Some(&index) = self.unsolicited.front() {
            if self.data_out(cx, core, index)? == Sent::Full {
                return Ok(Sent::Full);
            }
            *done += 1;
            if !self.is_sending(index, true) {
                self.unsolicited.pop_front();
                if self.is_sending(index, false) {
                    self.solicited.push_back(index);
                }
            }
        }
        if let Some(&index) = self.solicited.front() {
            if self.data_out(cx, core, index)? == Sent::Full {
                return Ok(Sent::Full);
            }
            *done += 1;
            self.solicited.pop_front();
            if self.is_sending(index, false) {
                self.solicited.push_back(index);
            }
        }
        Ok(Sent::Done)
    }

    /// Whether the task is in a run of unsolicited or solicited data.
    fn is_sending(&self, index: u16, unsolicited: bool) -> bool {
        let run = self.tasks.get(index).and_then(|t| t.sequence);
        run.is_some_and(|s| (s.ttt == RESERVED_TAG) == unsolicited)
    }

    /// Processes one batch of SQ entries.
    fn serve_sq(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        done: &mut u32,
        budget: u32,
    ) -> Result<Sent, TxError> {
        let room = (budget.saturating_sub(*done) as usize).min(FETCH);
        if self.sq.is_empty() || room == 0 {
            return Ok(Sent::Done);
        }
        let mut batch = [[0; ENTRY]; FETCH];
        let n = self.sq.fetch(cx, &mut batch[..room], self.grant)?;
        for entry in &batch[..n] {
            if self.process(cx, core, entry)? == Sent::Full {
                return Ok(Sent::Full);
            }
            self.sq.advance();
            core.counters.wqes += 1;
            let sqe = Sqe { sqe_byte: *entry };
            let id = u64::from(self.id.0) << 16 | u64::from(sqe.itt().raw());
            cx.event(EventKind::Wqe, u64::from(sqe.opcode().0), id);
            *done += 1;
            if self.failed || self.link != Link::Up {
                break;
            }
        }
        Ok(Sent::Done)
    }

    /// Sends one Data-Out of the task's current run.
    fn data_out(&mut self, cx: &mut DevCx<'_>, core: &mut Core, index: u16) -> Result<Sent, TxError> {
        let Some(task) = self.tasks.get_mut(index) else { return Ok(Sent::Done) };
        let Some(run) = task.sequence else { return Ok(Sent::Done) };
        if self.tx.pending().len() >= DATA_LIMIT {
            return Ok(Sent::Full);
        }
        let n = run.left.min(self.params.max_send_pdu).min(MAX_DATA_OUT);
        let mut pdu = DataOut::new();
        if n == run.left {
            pdu.flags |= flags::FINAL;
        }
        pdu.data_segment_length.set(n);
        pdu.lun = task.lun;
        pdu.itt = u32::from(task.itt).into();
        pdu.ttt = run.ttt.into();
        pdu.exp_stat_sn = self.exp_stat_sn.into();
        pdu.data_sn = run.data_sn.into();
        pdu.buffer_offset = run.offset.into();
        let (bds, grant) = (&mut task.bds, self.grant);
        let mut frame = Frame { tx: &mut self.tx, params: &self.params };
        let sent = frame.push(&pdu, |out| bds.copy_out(cx, run.offset, out, grant))?;
        if sent == Sent::Done {
            task.sent(n);
            self.count_pdu(cx, core, &pdu);
        }
        Ok(sent)
    }

    /// Bytes that a PDU with `len` bytes of payload takes, and whether the buffer has room for them.
    pub(super) fn has_room(&self, len: u32) -> bool {
        let p = &self.params;
        self.tx.has_room(wire_len(0, len as usize, p.header_digest, p.data_digest))
    }

    /// Puts a PDU in the buffer whose room was checked with [`Conn::has_room`].
    pub(super) fn push_pdu(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        pdu: &Bhs,
        fill: impl FnOnce(&mut DevCx<'_>, &mut [u8]) -> Result<(), DmaFault>,
    ) -> Result<Sent, TxError> {
        let mut frame = Frame { tx: &mut self.tx, params: &self.params };
        let sent = frame.push(pdu, |out| fill(cx, out))?;
        if sent == Sent::Done {
            self.count_pdu(cx, core, pdu);
        }
        Ok(sent)
    }

    pub(super) fn count_pdu(&self, cx: &mut DevCx<'_>, core: &mut Core, pdu: &Bhs) {
        core.counters.pdus_out += 1;
        core.counters.bytes_taken += pdu.data_len() as u64;
        cx.event(
            EventKind::PduOut,
            u64::from(pdu.opcode_byte()),
            u64::from(self.id.0) << 32 | u64::from(pdu.itt.get()),
        );
    }
}

/// Assembles PDUs: header, payload, padding, digests.
pub(super) struct Frame<'a> {
    pub(super) tx: &'a mut TxBuf,
    pub(super) params: &'a UpdateParams,
}

impl Frame<'_> {
    /// Adds a PDU, whose payload `fill` writes, or nothing at all.
    pub(super) fn push(
        &mut self,
        pdu: &Bhs,
        fill: impl FnOnce(&mut [u8]) -> Result<(), DmaFault>,
    ) -> Result<Sent, DmaFault> {
        let (hd, dd) = (self.params.header_digest, self.params.data_digest);
        let len = pdu.data_len();
        let total = wire_len(0, len, hd, dd);
        let Some(out) = self.tx.reserve(total) else { return Ok(Sent::Full) };
        let (head, mut rest) = out.split_at_mut(BHS_LEN);
        head.copy_from_slice(pdu.wire());
        if hd {
            let (digest, after) = rest.split_at_mut(4);
            digest.copy_from_slice(&header_digest(pdu.wire(), &[]));
            rest = after;
        }
        if len > 0 {
            let (data, after) = rest.split_at_mut(len);
            fill(data)?;
            let padding = iscsi::pdu::padding(len);
            after[..padding].fill(0);
            if dd {
                after[padding..].copy_from_slice(&data_digest(data));
            }
        }
        self.tx.commit(total);
        Ok(Sent::Done)
    }
}
