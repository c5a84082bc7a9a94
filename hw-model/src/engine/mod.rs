//! The chip-independent offload engine: iSCSI connections, tasks, data placement, checks.
//!
//! In the real chip this is the firmware of the transmit, receive and completion processors. It owns the
//! connection contexts: where the rings are, which tasks are active, what has been sent and received, and the
//! state of TCP. The front end turns kernel work requests and doorbells into calls, and [`EngineEvent`]s into
//! completions; the transport below is any [`TcpEngine`]. Everything that the engine does to the host names
//! the [`Grant`](bus::pci::Grant) that it took when the connection was offloaded, so after a reset nothing
//! can be touched by mistake.
//!
//! Data enters in two places: `tx` fetches send-queue entries and builds PDUs into a bounded buffer on the
//! card (the one copy on the way out), `rx` parses the byte stream and places payload as it arrives. Work is
//! found through a ready list, so the cost of a step is proportional to what is ready, not to the number of
//! connections, and a connection allocates nothing after it was offloaded except for growing its transmit
//! buffer to its limit.
//!
//! Not modelled: error recovery levels above 0, bidirectional commands, more than one completion queue.

mod bd;
mod check;
mod conn;
mod counters;
mod cqe;
mod ring;
mod rx;
mod task;
#[cfg(test)]
mod tests;
mod tx;
mod txbuf;
mod wqe;

use std::collections::VecDeque;
use std::time::Duration;

use bus::pci::{DevCx, ResetReport};
use bus::{Budget, Instant, Progress};
use hsi::kernel::kcq::CompletionStatus;

use crate::config::ChipConfig;
use crate::fault::Faults;
use crate::tcp::{ConnectError, ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId};

use conn::{Conn, Link};
pub use counters::EngineCounters;

/// What INIT1 and INIT2 program (BNX2I-CNIC 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitParams {
    /// SQ entries per connection.
    pub sq_wqes: u16,
    /// CQ entries per connection.
    pub cq_cqes: u16,
    /// RQ buffers per connection.
    pub rq_buffers: u16,
    /// Bytes of an RQ buffer.
    pub rq_buffer_size: u16,
    /// Tasks per connection (the ITT index space).
    pub tasks: u16,
    /// Host page size in bytes.
    pub page_size: u32,
    /// Exclusive upper bound of the CQ sequence number.
    pub max_cq_sqn: u16,
    /// Completion statuses that are warnings (bit set) instead of errors; statuses from 64 on are errors.
    pub warning_mask: u64,
}

/// Where a connection's rings are: G1 page tables, high word first (BNX2I-CNIC 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingTables {
    /// Bus address of the SQ page table.
    pub sq: u64,
    /// Bus address of the CQ page table.
    pub cq: u64,
    /// Bus address of the RQ page table.
    pub rq: u64,
}

/// What UPDATE_CONN programs (BNX2I-CNIC 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateParams {
    /// Header digest on.
    pub header_digest: bool,
    /// Data digest on.
    pub data_digest: bool,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2ts: u8,
    /// The target's MaxRecvDataSegmentLength, bytes.
    pub max_send_pdu: u32,
    /// Our MaxRecvDataSegmentLength, bytes.
    pub max_recv_pdu: u32,
    /// FirstBurstLength, bytes.
    pub first_burst: u32,
    /// MaxBurstLength, bytes.
    pub max_burst: u32,
    /// ExpStatSN of the first full-feature PDU.
    pub exp_stat_sn: u32,
}

/// What the engine tells the front end, which turns it into KCQEs (BNX2I-CNIC 0.4, 11.3). In order per
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// CONNECT ended: completion status (0 or an L4 status such as 0x93).
    ConnectComplete(TcpId, u16),
    /// UPDATE_CONN was applied (0) or refused.
    UpdateComplete(TcpId, u32),
    /// CLOSE ended.
    CloseComplete(TcpId),
    /// RESET ended.
    ResetComplete(TcpId),
    /// The peer sent FIN.
    CloseReceived(TcpId),
    /// The peer sent RST.
    ResetReceived(TcpId),
    /// DESTROY ended with this completion status; on 0 the card will not touch the rings again.
    DestroyComplete(TcpId, u32),
    /// CQEs are waiting.
    CqEvent(TcpId),
    /// A protocol violation or digest error: completion status of BNX2I-CNIC 6.2.
    IscsiError(TcpId, u32),
    /// The transport gave up: completion status (0x43 after the retransmission limit).
    TcpError(TcpId, u32),
}

/// Events waiting for the front end.
pub type EngineEvents = VecDeque<EngineEvent>;

/// SQ entries per connection that the chip can handle.
pub const MAX_SQ_WQES: u16 = 512;
/// CQ entries per connection that the chip can handle.
pub const MAX_CQ_CQES: u16 = 4096;
/// RQ buffers per connection that the chip can handle.
pub const MAX_RQ_BUFFERS: u16 = 512;
/// Bytes of an RQ buffer that the chip can handle.
pub const MAX_RQ_BUFFER_SIZE: u16 = 4096;
/// Tasks per connection that the chip has room for.
pub const MAX_TASKS: u16 = 512;
/// R2Ts of one task that the chip keeps. UPDATE_CONN with a larger MaxOutstandingR2T is refused.
pub const MAX_R2TS: usize = 8;
/// \[I\] How long CLOSE waits for the peer's FIN; then the connection is reset and CLOSE completes.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Work items after which a connection goes to the back of the ready list.
const TURN: u32 = 64;

/// What all connections share while one of them works.
struct Core {
    config: ChipConfig,
    faults: Faults,
    init: Option<InitParams>,
    counters: EngineCounters,
    events: EngineEvents,
}

/// The offload engine over a transport.
pub struct Engine<T> {
    core: Core,
    tcp: T,
    conns: Vec<Option<Box<Conn>>>,
    /// Connections with work, each at most once ([`Conn::queued`]).
    ready: VecDeque<TcpId>,
    /// Deadlines of CLOSE, in order: the timeout is the same for all. An entry whose connection closed
    /// meanwhile is skipped; the serial number tells a successor of the same id.
    closing: VecDeque<(Instant, TcpId, u64)>,
    /// Connections offloaded so far: serial numbers.
    offloaded: u64,
    polled: Vec<(TcpId, TcpEvent)>,
}

impl<T: TcpEngine> Engine<T> {
    /// An engine that was not initialised yet. It has as many connection slots as the chip has contexts.
    pub fn new(config: &ChipConfig, faults: Faults, tcp: T) -> Self {
        let mut conns = Vec::new();
        conns.resize_with(usize::from(config.contexts), || None);
        Self {
            core: Core {
                config: config.clone(),
                faults,
                init: None,
                counters: EngineCounters::default(),
                events: EngineEvents::new(),
            },
            tcp,
            conns,
            ready: VecDeque::new(),
            closing: VecDeque::new(),
            offloaded: 0,
            polled: Vec::new(),
        }
    }

    /// INIT1 and INIT2. Repeating it is legal; connections keep what they were offloaded with.
    ///
    /// # Errors
    /// [`CompletionStatus::NIC_ERROR`] for sizes that the chip cannot handle; nothing changes.
    pub fn init(&mut self, params: InitParams) -> Result<(), u32> {
        let sizes = [
            (params.sq_wqes, MAX_SQ_WQES),
            (params.cq_cqes, MAX_CQ_CQES),
            (params.rq_buffers, MAX_RQ_BUFFERS),
            (params.rq_buffer_size, MAX_RQ_BUFFER_SIZE),
            (params.tasks, MAX_TASKS),
        ];
        let fits = sizes.iter().all(|&(v, max)| v != 0 && v <= max)
            && params.page_size.is_power_of_two()
            && (256..=1 << 23).contains(&params.page_size)
            && u32::from(params.max_cq_sqn) == 2 * u32::from(params.cq_cqes) + 1;
        if !fits {
            return Err(CompletionStatus::NIC_ERROR.0);
        }
        self.core.init = Some(params);
        Ok(())
    }

    /// OFFLOAD_CONN: reads the page tables and creates the connection in its login mode.
    ///
    /// # Errors
    /// The completion status: `CID_BUSY` for an id that exists, `CTX_ALLOC_FAILURE` for one beyond the slots,
    /// `NIC_ERROR` before INIT and for page tables that cannot be read or make no sense. Nothing was created.
    pub fn offload_conn(&mut self, cx: &mut DevCx<'_>, id: TcpId, tables: RingTables) -> Result<(), u32> {
        let init = self.core.init.ok_or(CompletionStatus::NIC_ERROR.0)?;
        let slot = self.conns.get_mut(usize::from(id.0)).ok_or(CompletionStatus::CTX_ALLOC_FAILURE.0)?;
        if slot.is_some() {
            return Err(CompletionStatus::CID_BUSY.0);
        }
        let conn = Conn::offload(cx, id, self.offloaded, &init, &tables).map_err(|_| {
            self.core.counters.bad_tables += 1;
            CompletionStatus::NIC_ERROR.0
        })?;
        self.offloaded += 1;
        *slot = Some(Box::new(conn));
        Ok(())
    }

    /// CONNECT. Ends with [`EngineEvent::ConnectComplete`].
    pub fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        let refused = EngineEvent::ConnectComplete(id, self.core.config.connect_refused_status);
        let Some(conn) = slot(&mut self.conns, id) else {
            self.core.host_error(refused);
            return;
        };
        if conn.link != Link::Idle || !self.tcp.supports(request.remote.ip()) {
            self.core.host_error(refused);
            return;
        }
        conn.link = Link::Connecting;
        self.tcp.connect(cx, id, request);
    }

    /// UPDATE_PG of a path group that the connection uses.
    pub fn set_link(&mut self, id: TcpId, link: LinkHeader) {
        self.tcp.set_link(id, link);
    }

    /// UPDATE_CONN: applied between two received PDUs. Ends with [`EngineEvent::UpdateComplete`].
    pub fn update_conn(&mut self, _cx: &mut DevCx<'_>, id: TcpId, params: &UpdateParams) {
        let Some(conn) = slot(&mut self.conns, id) else {
            let status = CompletionStatus::NIC_ERROR.0;
            self.core.host_error(EngineEvent::UpdateComplete(id, status));
            return;
        };
        conn.update(&mut self.core, params);
        enqueue(&mut self.ready, conn);
    }

    /// CLOSE: what is in the transmit buffer is sent, then FIN. Ends with [`EngineEvent::CloseComplete`].
    pub fn close(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        let Some(conn) = slot(&mut self.conns, id) else {
            self.core.host_error(EngineEvent::CloseComplete(id));
            return;
        };
        match conn.link {
            Link::Up => {
                conn.link = Link::Closing { fin_sent: false };
                // What reception left in the transport is dropped, so that the peer's FIN behind it is seen.
                conn.readable = true;
                self.closing.push_back((cx.now + CLOSE_TIMEOUT, id, conn.serial));
                enqueue(&mut self.ready, conn);
            }
            Link::Closing { .. } => {}
            Link::Connecting => {
                self.tcp.abort(cx, id);
                conn.end(&mut self.core, Link::Closed, EngineEvent::CloseComplete(id));
            }
            Link::Idle | Link::Reset | Link::Closed => {
                conn.end(&mut self.core, Link::Closed, EngineEvent::CloseComplete(id));
            }
        }
    }

    /// RESET: RST is sent if TCP is alive. Ends with [`EngineEvent::ResetComplete`].
    pub fn abort(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        let Some(conn) = slot(&mut self.conns, id) else {
            self.core.host_error(EngineEvent::ResetComplete(id));
            return;
        };
        if conn.link.is_alive() {
            self.tcp.abort(cx, id);
        }
        conn.end(&mut self.core, Link::Closed, EngineEvent::ResetComplete(id));
    }

    /// DESTROY_CONN: forgets the connection, if TCP is gone. Ends with [`EngineEvent::DestroyComplete`].
    pub fn destroy(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        let alive = match slot(&mut self.conns, id) {
            Some(conn) => conn.link.is_alive(),
            None => true,
        };
        if alive {
            let status = self.core.config.destroy_alive_status;
            self.core.host_error(EngineEvent::DestroyComplete(id, status));
            return;
        }
        // A ready entry of it is skipped when its turn comes.
        self.conns[usize::from(id.0)] = None;
        self.core.events.push_back(EngineEvent::DestroyComplete(id, CompletionStatus::SUCCESS.0));
    }

    /// SQ doorbell: the free-running index one past the last entry. An index that claims more entries than
    /// the ring has is ignored and counted.
    pub fn ring_sq(&mut self, id: TcpId, producer: u16) {
        let Some(conn) = slot(&mut self.conns, id) else {
            self.core.counters.bad_doorbells += 1;
            return;
        };
        if conn.sq.ring(producer) {
            enqueue(&mut self.ready, conn);
        } else {
            self.core.counters.bad_doorbells += 1;
        }
    }

    /// RQ doorbell: the producer index with its phase (BNX2I-CNIC 4.5). An index that claims more buffers
    /// than the ring has is ignored and counted.
    pub fn ring_rq(&mut self, id: TcpId, producer: u16) {
        let Some(conn) = slot(&mut self.conns, id) else {
            self.core.counters.bad_doorbells += 1;
            return;
        };
        if conn.rq.ring(producer) {
            enqueue(&mut self.ready, conn);
        } else {
            self.core.counters.bad_doorbells += 1;
        }
    }

    /// Does ready work, at most `budget` items (a WQE, a PDU, a transport event), and appends what happened.
    pub fn step(&mut self, cx: &mut DevCx<'_>, budget: Budget, events: &mut EngineEvents) -> Progress {
        let mut done = 0;
        self.expire(cx);
        while done < budget.0 {
            done += self.poll(cx);
            let Some(id) = self.ready.pop_front() else { break };
            let Some(conn) = slot(&mut self.conns, id) else { continue };
            conn.queued = false;
            let (items, more) =
                conn.turn(cx, &mut self.core, &mut self.tcp, TURN.min(budget.0 - done.min(budget.0)));
            done += items.max(1);
            if more {
                enqueue(&mut self.ready, conn);
            }
        }
        events.append(&mut self.core.events);
        Progress { done, next: self.next_deadline() }
    }

    /// Forgets everything: connections, events, what INIT programmed. The transport sends RST where it can.
    /// The front end has revoked the epoch before.
    pub fn reset(&mut self, cx: &mut DevCx<'_>) -> ResetReport {
        let mut report = ResetReport::default();
        for conn in self.conns.iter_mut().filter_map(Option::take) {
            report.connections += 1;
            report.tasks += conn.tasks.active();
        }
        self.tcp.reset(cx);
        self.ready.clear();
        self.closing.clear();
        self.polled.clear();
        self.core.events.clear();
        self.core.init = None;
        report
    }

    /// Connections that are offloaded.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.iter().flatten().count()
    }

    /// What happened since the engine was made. Resets do not clear it.
    #[must_use]
    pub fn counters(&self) -> &EngineCounters {
        &self.core.counters
    }

    fn next_deadline(&self) -> Option<Instant> {
        Instant::earliest(self.tcp.next_deadline(), self.closing.front().map(|&(at, ..)| at))
    }

    /// Resets the connections whose CLOSE has waited long enough.
    fn expire(&mut self, cx: &mut DevCx<'_>) {
        while let Some(&(at, id, serial)) = self.closing.front() {
            let conn = slot(&mut self.conns, id)
                .filter(|c| c.serial == serial && matches!(c.link, Link::Closing { .. }));
            match conn {
                Some(_) if at > cx.now => return,
                Some(conn) => {
                    self.core.counters.close_timeouts += 1;
                    self.tcp.abort(cx, id);
                    conn.end(&mut self.core, Link::Closed, EngineEvent::CloseComplete(id));
                }
                None => {}
            }
            self.closing.pop_front();
        }
    }

    /// The port's link came or went. Whoever calls this wakes the card.
    pub fn set_carrier(&mut self, up: bool) {
        self.tcp.set_carrier(up);
    }

    /// Takes what the transport reports; the number of reports.
    fn poll(&mut self, cx: &mut DevCx<'_>) -> u32 {
        let mut polled = std::mem::take(&mut self.polled);
        self.tcp.poll(cx, &mut polled);
        let n = polled.len() as u32;
        for (id, event) in polled.drain(..) {
            if let Some(conn) = slot(&mut self.conns, id) {
                conn.tcp_event(&mut self.core, event);
                enqueue(&mut self.ready, conn);
            }
        }
        self.polled = polled;
        n
    }
}

/// The connection with that id, if it is offloaded.
fn slot(conns: &mut [Option<Box<Conn>>], id: TcpId) -> Option<&mut Conn> {
    conns.get_mut(usize::from(id.0))?.as_deref_mut()
}

/// Puts a connection on the ready list, if it is not there.
fn enqueue(ready: &mut VecDeque<TcpId>, conn: &mut Conn) {
    if !conn.queued {
        conn.queued = true;
        ready.push_back(conn.id);
    }
}

impl Core {
    /// The host did what it must not; `answer` says so.
    fn host_error(&mut self, answer: EngineEvent) {
        self.counters.host_errors += 1;
        self.events.push_back(answer);
    }

    fn connect_status(&self, error: ConnectError) -> u16 {
        match error {
            ConnectError::Refused => self.config.connect_refused_status,
            ConnectError::TimedOut => self.config.connect_timeout_status,
        }
    }
}
