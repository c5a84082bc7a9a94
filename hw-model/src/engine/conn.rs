//! One offloaded connection: its context on the chip, the state of TCP, and its turn to work (BNX2I-CNIC
//! 11.3).

use std::collections::VecDeque;

use bus::pci::{DevCx, Grant};
use bus::trace::EventKind;
use hsi::iscsi::cq::Cqe;
use hsi::kernel::kcq::CompletionStatus;
use iscsi::serial::Sn;

use super::ring::{BadTable, Cq, ENTRY, Pages, Rq, Sq};
use super::rx::Rx;
use super::task::{Kind, State, Tasks};
use super::txbuf::TxBuf;
use super::{Core, EngineEvent, InitParams, MAX_R2TS, RingTables, UpdateParams};
use crate::fault::FaultPoint;
use crate::tcp::{ConnectError, TcpEngine, TcpEvent, TcpId};

/// The state of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Offloaded, not connected.
    Idle,
    Connecting,
    /// Connected; the peer may have sent FIN.
    Up,
    /// CLOSE was asked for. FIN goes out when the transmit buffer is empty.
    Closing {
        fin_sent: bool,
    },
    /// RST received, or the transport gave up.
    Reset,
    /// CLOSE or RESET ended.
    Closed,
}

impl Link {
    /// Whether the transport knows the connection.
    pub(super) fn is_alive(self) -> bool {
        matches!(self, Self::Connecting | Self::Up | Self::Closing { .. })
    }
}

/// The initial mode that a connection logs in with (BNX2I-CNIC 4.4).
const LOGIN_MODE: UpdateParams = UpdateParams {
    header_digest: false,
    data_digest: false,
    initial_r2t: true,
    immediate_data: true,
    max_outstanding_r2ts: 1,
    max_send_pdu: 8192,
    max_recv_pdu: 8192,
    first_burst: 65536,
    max_burst: 262_144,
    exp_stat_sn: 0,
};

/// A connection context.
pub(super) struct Conn {
    pub(super) id: TcpId,
    /// Tells it from an earlier connection of the same id.
    pub(super) serial: u64,
    pub(super) grant: Grant,
    /// Whether it is on the ready list.
    pub(super) queued: bool,
    pub(super) link: Link,
    pub(super) sq: Sq,
    pub(super) cq: Cq,
    pub(super) rq: Rq,
    /// What INIT programmed when the connection was offloaded.
    pub(super) init: InitParams,
    pub(super) params: UpdateParams,
    /// An UPDATE that waits for the end of the PDU that is being received.
    update: Option<UpdateParams>,
    /// Whether UPDATE was applied.
    pub(super) full_feature: bool,
    /// After an error: SQ entries are ignored, received bytes are dropped.
    pub(super) failed: bool,
    /// Warnings that were reported; each is reported once [I].
    warned: u64,
    pub(super) exp_stat_sn: Sn,
    pub(super) tasks: Tasks,
    pub(super) tx: TxBuf,
    /// The transport took less than it was given; it says when to go on.
    pub(super) blocked: bool,
    /// The transmit buffer has no room for the next SQ entry, and the transport takes no more.
    pub(super) stuck: bool,
    /// Tasks with unsolicited Data-Outs to send, in the order of their commands.
    pub(super) unsolicited: VecDeque<u16>,
    /// Tasks with an R2T to answer, served in turn.
    pub(super) solicited: VecDeque<u16>,
    pub(super) rx: Rx,
    /// The transport may have bytes.
    pub(super) readable: bool,
    /// CQ entries were posted since the last CQ event.
    cq_event: bool,
    /// CQ entries posted that answer an SQ entry, and that do not; RQ buffers used by the former.
    answers: u64,
    unasked: u64,
    sense_buffers: u64,
}

impl Conn {
    /// Reads the page tables and makes a connection in login mode.
    pub(super) fn offload(
        cx: &mut DevCx<'_>,
        id: TcpId,
        serial: u64,
        init: &InitParams,
        tables: &RingTables,
    ) -> Result<Self, BadTable> {
        let grant = cx.host.grant();
        let mut pages = |table, bytes| Pages::read(cx, table, bytes, init.page_size, grant);
        let sq = pages(tables.sq, usize::from(init.sq_wqes) * ENTRY)?;
        let cq = pages(tables.cq, usize::from(init.cq_cqes) * ENTRY)?;
        let rq = pages(tables.rq, usize::from(init.rq_buffers) * usize::from(init.rq_buffer_size))?;
        Ok(Self {
            id,
            serial,
            grant,
            queued: false,
            link: Link::Idle,
            sq: Sq::new(sq, init.sq_wqes),
            cq: Cq::new(cq, init.cq_cqes),
            rq: Rq::new(rq, init.rq_buffers, init.rq_buffer_size),
            init: *init,
            params: LOGIN_MODE,
            update: None,
            full_feature: false,
            failed: false,
            warned: 0,
            exp_stat_sn: Sn(0),
            tasks: Tasks::new(init.tasks),
            tx: TxBuf::default(),
            blocked: false,
            stuck: false,
            unsolicited: VecDeque::with_capacity(usize::from(init.tasks)),
            solicited: VecDeque::with_capacity(usize::from(init.tasks)),
            rx: Rx::default(),
            readable: false,
            cq_event: false,
            answers: 0,
            unasked: 0,
            sense_buffers: 0,
        })
    }

    /// UPDATE_CONN, now or at the end of the PDU that is being received.
    pub(super) fn update(&mut self, core: &mut Core, params: &UpdateParams) {
        let usable = params.max_send_pdu != 0
            && params.max_recv_pdu != 0
            && params.max_burst != 0
            && usize::from(params.max_outstanding_r2ts) <= MAX_R2TS;
        if !usable || self.update.is_some() {
            core.host_error(EngineEvent::UpdateComplete(self.id, CompletionStatus::NIC_ERROR.0));
            return;
        }
        self.update = Some(*params);
        if self.rx.is_between_pdus() {
            self.apply_update(core);
        }
    }

    /// Applies an UPDATE that waits. The caller is between two received PDUs.
    pub(super) fn apply_update(&mut self, core: &mut Core) {
        let Some(params) = self.update.take() else { return };
        self.exp_stat_sn = Sn(params.exp_stat_sn);
        self.params = params;
        self.params.max_outstanding_r2ts = params.max_outstanding_r2ts.max(1);
        self.full_feature = true;
        if self.rx.resume() {
            self.readable = true;
        }
        self.emit(core, EngineEvent::UpdateComplete(self.id, CompletionStatus::SUCCESS.0));
    }

    /// Takes what the transport reports.
    pub(super) fn tcp_event(&mut self, core: &mut Core, event: TcpEvent) {
        match (event, self.link) {
            (TcpEvent::Readable, _) => self.readable = true,
            (TcpEvent::Writable, _) => (self.blocked, self.stuck) = (false, false),
            (TcpEvent::Connected, Link::Connecting) => {
                self.link = Link::Up;
                self.emit(core, EngineEvent::ConnectComplete(self.id, 0));
            }
            (TcpEvent::ConnectFailed(error), Link::Connecting) => self.connect_failed(core, error),
            (TcpEvent::Rst, Link::Connecting) => self.connect_failed(core, ConnectError::Refused),
            (TcpEvent::TimedOut, Link::Connecting) => self.connect_failed(core, ConnectError::TimedOut),
            (TcpEvent::Fin, Link::Up) => self.emit(core, EngineEvent::CloseReceived(self.id)),
            (TcpEvent::Rst, Link::Up) => {
                self.end(core, Link::Reset, EngineEvent::ResetReceived(self.id));
            }
            (TcpEvent::TimedOut, Link::Up) => {
                let status = CompletionStatus::TCP_ERROR_MAX_RTRANS.0;
                self.end(core, Link::Reset, EngineEvent::TcpError(self.id, status));
            }
            (TcpEvent::Closed | TcpEvent::Rst | TcpEvent::TimedOut, Link::Closing { .. }) => {
                self.end(core, Link::Closed, EngineEvent::CloseComplete(self.id));
            }
            // A late report of a connection that ended here first.
            _ => {}
        }
    }

    fn connect_failed(&mut self, core: &mut Core, error: ConnectError) {
        self.link = Link::Idle;
        let status = core.connect_status(error);
        self.emit(core, EngineEvent::ConnectComplete(self.id, status));
    }

    /// TCP is gone: nothing more is sent, received or placed. Tasks end silently.
    pub(super) fn end(&mut self, core: &mut Core, link: Link, event: EngineEvent) {
        self.link = link;
        self.tx.clear();
        self.emit(core, event);
    }

    /// Works for at most `budget` items; the number done, and whether more is ready.
    pub(super) fn turn<T: TcpEngine>(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        tcp: &mut T,
        budget: u32,
    ) -> (u32, bool) {
        let mut done = 0;
        if matches!(self.link, Link::Up | Link::Closing { .. }) {
            if self.rx.is_stalled() && self.rq.available() > 0 && self.rx.resume() {
                self.readable = true;
            }
            if self.readable {
                done += self.receive(cx, core, tcp, budget);
            }
            if self.link == Link::Up {
                done += self.transmit(cx, core, tcp, budget.saturating_sub(done));
            }
            self.flush(cx, core, tcp);
            if self.link == (Link::Closing { fin_sent: false }) && self.tx.is_empty() {
                self.link = Link::Closing { fin_sent: true };
                tcp.close(cx, self.id);
            }
        }
        self.announce_cqes(core);
        let more = match self.link {
            Link::Up => self.readable || self.can_transmit(),
            Link::Closing { .. } => self.readable,
            _ => false,
        };
        (done, more)
    }

    /// Calls the transport once; it hands over what there is until the parser stops.
    fn receive<T: TcpEngine>(
        &mut self,
        cx: &mut DevCx<'_>,
        core: &mut Core,
        tcp: &mut T,
        budget: u32,
    ) -> u32 {
        core.counters.receives += 1;
        self.readable = false;
        // A PDU that waited may be whole already.
        let (_, mut done) =
            if self.failed || self.link != Link::Up { (0, 0) } else { self.consume(cx, core, &[], budget) };
        tcp.recv(cx, self.id, &mut |cx, bytes| {
            if self.failed || self.link != Link::Up {
                core.counters.bytes_dropped += bytes.len() as u64;
                return bytes.len();
            }
            let (used, pdus) = self.consume(cx, core, bytes, budget.saturating_sub(done));
            done += pdus;
            // Out of budget: go on in the next turn. Stalled or held: whoever ends that says so.
            self.readable = used < bytes.len() && !self.rx.is_waiting();
            used
        });
        done
    }

    /// Hands the transmit buffer to the transport in one call.
    pub(super) fn flush<T: TcpEngine>(&mut self, cx: &mut DevCx<'_>, core: &mut Core, tcp: &mut T) {
        if self.tx.is_empty() || self.blocked {
            return;
        }
        core.counters.sends += 1;
        let pending = self.tx.pending();
        let taken = tcp.send(cx, self.id, pending).min(pending.len());
        self.tx.sent(taken);
        if !self.tx.is_empty() {
            self.blocked = true;
            core.counters.tx_stalls += 1;
        }
    }

    /// Reports a violation as the error mask says; true when the connection is in error now.
    pub(super) fn violation(&mut self, core: &mut Core, status: CompletionStatus) -> bool {
        let bit = if status.0 < 64 { 1 << status.0 } else { 0 };
        if self.init.warning_mask & bit == 0 {
            self.fail(core, status);
            return true;
        }
        core.counters.warnings += 1;
        if self.warned & bit == 0 {
            self.warned |= bit;
            self.emit(core, EngineEvent::IscsiError(self.id, status.0));
        }
        false
    }

    /// Puts the connection in error and says so, once.
    pub(super) fn fail(&mut self, core: &mut Core, status: CompletionStatus) {
        if !self.failed {
            self.failed = true;
            // What reception left in the transport is dropped, so that FIN behind it is seen.
            self.readable = true;
            core.counters.errors += 1;
            self.emit(core, EngineEvent::IscsiError(self.id, status.0));
        }
    }

    /// The bus refused an access.
    pub(super) fn dma_fault(&mut self, core: &mut Core) {
        core.counters.dma_faults += 1;
        self.fail(core, CompletionStatus::NIC_ERROR);
    }

    /// Posts an entry that answers the task `index`, which ends in `state`.
    pub(super) fn complete(&mut self, cx: &mut DevCx<'_>, core: &mut Core, index: u16, cqe: &Cqe) {
        self.forget(index, State::Free);
        self.answers += 1;
        self.post(cx, core, cqe);
    }

    /// Posts an entry that answers an SQ entry without a task.
    pub(super) fn answer(&mut self, cx: &mut DevCx<'_>, core: &mut Core, cqe: &Cqe) {
        self.answers += 1;
        self.post(cx, core, cqe);
    }

    /// Posts an entry for an unsolicited PDU, which used an RQ buffer.
    pub(super) fn notify(&mut self, cx: &mut DevCx<'_>, core: &mut Core, cqe: &Cqe) {
        self.unasked += 1;
        self.post(cx, core, cqe);
    }

    /// A response used an RQ buffer.
    pub(super) fn use_sense_buffer(&mut self) {
        self.sense_buffers += 1;
        self.rq.advance();
    }

    /// Ends a task and takes it off the transmit queues.
    pub(super) fn forget(&mut self, index: u16, state: State) {
        if self.tasks.get(index).is_some_and(|t| t.sequence.is_some()) {
            self.unsolicited.retain(|&i| i != index);
            self.solicited.retain(|&i| i != index);
        }
        self.tasks.end(index, state);
    }

    /// The active task of that tag and a kind that `fits`.
    pub(super) fn active(&self, itt: u32, fits: impl Fn(Kind) -> bool) -> Option<u16> {
        let raw = u16::try_from(itt).ok()?;
        let index = hsi::iscsi::bits::Itt::from_raw(raw).index();
        let task = self.tasks.get(index)?;
        matches!(task.state, State::Active(kind) if task.itt == raw && fits(kind)).then_some(index)
    }

    fn post(&mut self, cx: &mut DevCx<'_>, core: &mut Core, cqe: &Cqe) {
        if core.faults.fires(cx, FaultPoint::DropCqe) {
            return;
        }
        let twice = core.faults.fires(cx, FaultPoint::DuplicateCqe);
        for _ in 0..=u8::from(twice) {
            if self.cq.post(cx, cqe, self.grant).is_err() {
                self.dma_fault(core);
                return;
            }
            core.counters.cqes += 1;
            let id = u64::from(self.id.0) << 16 | u64::from(cqe.itt().raw());
            cx.event(EventKind::Cqe, u64::from(cqe.opcode().0), id);
        }
        self.cq_event = true;
        if self.unconsumed() > u64::from(self.init.cq_cqes) {
            core.counters.suspected_overruns += 1;
        }
    }

    /// The largest number of entries that the host may not have consumed: it posts an SQ entry only when
    /// fewer than the ring's size are unanswered, and returns an RQ buffer only after its CQ entry.
    fn unconsumed(&self) -> u64 {
        let answers_seen = self.sq.announced.saturating_sub(u64::from(self.init.sq_wqes));
        let unasked_seen = self.rq.returned.saturating_sub(self.sense_buffers);
        self.answers.saturating_sub(answers_seen) + self.unasked.saturating_sub(unasked_seen)
    }

    /// One CQ event for all entries posted since the last.
    fn announce_cqes(&mut self, core: &mut Core) {
        if std::mem::take(&mut self.cq_event) {
            core.events.push_back(EngineEvent::CqEvent(self.id));
        }
    }

    /// Emits an event after the CQ event for what was posted before it.
    pub(super) fn emit(&mut self, core: &mut Core, event: EngineEvent) {
        self.announce_cqes(core);
        core.events.push_back(event);
    }
}
