//! The control path: executes KWQEs, and turns what the engine reports into KCQEs (BNX2I-CNIC 0.4, 2.5, 3.5,
//! 4.4 to 4.8, 11.3).
//!
//! Nothing that a host writes into a KWQE is believed: unknown contexts, wrong states and orphans of a pair
//! lead to the completion status that the real firmware has for them, or, where there is no one to answer to,
//! to a counter. One KWQE makes at most two KCQEs, and is executed only while there is room for them.
//!
//! Decisions where nothing is specified: a path group that is offloaded twice answers 0x89 with the id it has
//! and takes the new header; UPDATE_PG counts for the live connections of the group too; a peer's RST ends
//! TCP for good, so that DESTROY is legal after it; an L2 FLUSH names a receive CID in its operand, and is
//! not answered, as nothing waits for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bus::pci::DevCx;
use hsi::U16;
use hsi::U32;
use hsi::View;
use hsi::kernel::kcq::{CompletionStatus, IscsiKcqe, IscsiKcqeOpcode, Kcqe};
use hsi::kernel::kwq::{
    ISCSI_KWQE_CONN_UPDATE_DATA_DIGEST, ISCSI_KWQE_CONN_UPDATE_HEADER_DIGEST,
    ISCSI_KWQE_CONN_UPDATE_IMMEDIATE_DATA, ISCSI_KWQE_CONN_UPDATE_INITIAL_R2T, IscsiKwqeConnDestroy,
    IscsiKwqeConnOffload1, IscsiKwqeConnOffload2, IscsiKwqeConnUpdate, IscsiKwqeInit1, IscsiKwqeInit2,
    IscsiKwqeOpcode, Kwqe, L2KwqeOpcode, Layer,
};
use hsi::kernel::l4::{
    L4_KWQ_CONNECT_REQ1_KEEP_ALIVE, L4_KWQ_CONNECT_REQ1_NAGLE_ENABLE, L4_KWQ_CONNECT_REQ1_NO_DELAY_ACK,
    L4Kcq, L4KcqUploadPg, L4KcqeOpcode, L4KwqCloseReq, L4KwqConnectReq1, L4KwqConnectReq2, L4KwqConnectReq3,
    L4KwqOffloadPg, L4KwqUpdatePg, L4KwqUpload, L4KwqeOpcode, L4Status,
};

use super::Bcm5709;
use super::conn::{TABLE, Tcp};
use crate::engine::{EngineEvent, InitParams, RingTables, UpdateParams};
use crate::fault::FaultPoint;
use crate::tcp::{ConnectRequest, KeepAlive, LinkHeader, TcpEngine, TcpId, TcpOptions};

/// KCQEs that executing one KWQE makes at most.
pub(super) const ANSWERS: usize = 2;

/// The first parts of a request whose last part is still to come.
pub(super) enum Pair {
    Init(Kwqe),
    Offload(Kwqe),
    Connect(Kwqe),
    Connect6(Kwqe, Kwqe),
}

impl<T: TcpEngine> Bcm5709<T> {
    /// Executes one KWQE.
    pub(super) fn execute(&mut self, cx: &mut DevCx<'_>, e: &Kwqe) {
        self.counters.kwqes += 1;
        let operand = u32::from(e.layer().0) << 8 | u32::from(e.opcode());
        if self.faults.fires_for(cx, FaultPoint::SwallowKwqe, operand) {
            return;
        }
        let first = self.pair.take();
        match e.layer() {
            Layer::ISCSI => self.execute_iscsi(cx, first, e),
            Layer::L4 => self.execute_l4(cx, first, e),
            layer => {
                self.abandon(cx, first);
                if layer == Layer::L2 && L2KwqeOpcode(e.opcode()) == L2KwqeOpcode::FLUSH {
                    self.rings.flush(e.kwqe_op_flag.get() & 0xffff);
                } else {
                    self.counters.unknown_kwqes += 1;
                }
            }
        }
    }

    fn execute_iscsi(&mut self, cx: &mut DevCx<'_>, first: Option<Pair>, e: &Kwqe) {
        match (IscsiKwqeOpcode(e.opcode()), first) {
            (IscsiKwqeOpcode::INIT2, Some(Pair::Init(one))) => self.init(cx, one.view(), e.view()),
            (IscsiKwqeOpcode::OFFLOAD_CONN2, Some(Pair::Offload(one))) => {
                self.offload_conn(cx, one.view(), e.view());
            }
            (op, first) => {
                self.abandon(cx, first);
                match op {
                    IscsiKwqeOpcode::INIT1 => self.pair = Some(Pair::Init(*e)),
                    IscsiKwqeOpcode::OFFLOAD_CONN1 => self.pair = Some(Pair::Offload(*e)),
                    IscsiKwqeOpcode::UPDATE_CONN => self.update_conn(cx, e.view()),
                    IscsiKwqeOpcode::DESTROY_CONN => self.destroy_conn(cx, e.view()),
                    IscsiKwqeOpcode::INIT2 | IscsiKwqeOpcode::OFFLOAD_CONN2 => {
                        self.counters.orphan_kwqes += 1
                    }
                    _ => self.counters.unknown_kwqes += 1,
                }
            }
        }
    }

    fn execute_l4(&mut self, cx: &mut DevCx<'_>, first: Option<Pair>, e: &Kwqe) {
        match (L4KwqeOpcode(e.opcode()), first) {
            (L4KwqeOpcode::CONNECT2, Some(Pair::Connect(one)))
                if one.view::<L4KwqConnectReq1>().is_ipv6() =>
            {
                self.pair = Some(Pair::Connect6(one, *e));
            }
            (L4KwqeOpcode::CONNECT3, Some(Pair::Connect(one)))
                if !one.view::<L4KwqConnectReq1>().is_ipv6() =>
            {
                self.connect(cx, one.view(), None, e.view());
            }
            (L4KwqeOpcode::CONNECT3, Some(Pair::Connect6(one, two))) => {
                self.connect(cx, one.view(), Some(two.view()), e.view());
            }
            (op, first) => {
                self.abandon(cx, first);
                match op {
                    L4KwqeOpcode::OFFLOAD_PG => self.offload_pg(cx, e.view()),
                    L4KwqeOpcode::UPDATE_PG => self.update_pg(cx, e.view()),
                    L4KwqeOpcode::UPLOAD_PG => self.upload_pg(cx, e.view()),
                    L4KwqeOpcode::CONNECT1 => self.pair = Some(Pair::Connect(*e)),
                    L4KwqeOpcode::CONNECT2 | L4KwqeOpcode::CONNECT3 => self.counters.orphan_kwqes += 1,
                    L4KwqeOpcode::CLOSE => self.hang_up(cx, e.view(), Tcp::Closing),
                    L4KwqeOpcode::RESET => self.hang_up(cx, e.view(), Tcp::Resetting),
                    _ => self.counters.unknown_kwqes += 1,
                }
            }
        }
    }

    /// The last part of a request did not follow: it is answered as not understood.
    fn abandon(&mut self, cx: &mut DevCx<'_>, first: Option<Pair>) {
        let Some(first) = first else { return };
        self.counters.orphan_kwqes += 1;
        match first {
            Pair::Init(_) => {
                self.answer_iscsi(cx, IscsiKcqeOpcode::INIT, 0, 0, CompletionStatus::INVALID_OPCODE.0)
            }
            Pair::Offload(one) => {
                let id = one.view::<IscsiKwqeConnOffload1>().iscsi_conn_id.get();
                let status = CompletionStatus::INVALID_OPCODE.0;
                self.answer_iscsi(cx, IscsiKcqeOpcode::OFFLOAD_CONN, id.into(), 0, status);
            }
            Pair::Connect(one) | Pair::Connect6(one, _) => {
                let cid = one.view::<L4KwqConnectReq1>().cid.get();
                match self.connections.by_context(cid).map(|c| c.id) {
                    Some(id) => self.answer_l4(cx, L4KcqeOpcode::CONNECT_COMPLETE, id, L4Status::NIC_ERROR.0),
                    None => self.counters.unknown_contexts += 1,
                }
            }
        }
    }

    fn init(&mut self, cx: &mut DevCx<'_>, one: &IscsiKwqeInit1, two: &IscsiKwqeInit2) {
        let params = InitParams {
            sq_wqes: one.sq_num_wqes.get(),
            cq_cqes: one.cq_num_wqes.get(),
            rq_buffers: one.rq_num_wqes.get(),
            rq_buffer_size: one.rq_buffer_size.get(),
            tasks: one.num_tasks_per_conn.get(),
            page_size: one.page_size(),
            max_cq_sqn: two.max_cq_sqn.get(),
            warning_mask: two.error_mask(),
        };
        let status = if self.config.licensed_connections == 0 {
            CompletionStatus::ISCSI_NOT_SUPPORTED.0
        } else {
            self.engine.init(params).err().unwrap_or(CompletionStatus::SUCCESS.0)
        };
        self.answer_iscsi(cx, IscsiKcqeOpcode::INIT, 0, 0, status);
    }

    fn offload_conn(&mut self, cx: &mut DevCx<'_>, one: &IscsiKwqeConnOffload1, two: &IscsiKwqeConnOffload2) {
        let id = TcpId(one.iscsi_conn_id.get());
        let tables = RingTables {
            sq: one.sq_page_table_addr(),
            cq: one.cq_page_table_addr(),
            rq: two.rq_page_table_addr(),
        };
        let outcome = if usize::from(id.0) >= TABLE || two.num_additional_wqes.get() != 0 {
            Err(CompletionStatus::INVALID_OPCODE.0)
        } else if self.connections.by_id(id).is_some() {
            Err(self.config.busy_cid_status)
        } else if self.connections.len() >= usize::from(self.config.licensed_connections) {
            Err(CompletionStatus::CTX_ALLOC_FAILURE.0)
        } else {
            let context = self.connections.open(id).map(|c| c.context());
            context.ok_or(CompletionStatus::CTX_ALLOC_FAILURE.0).and_then(|context| {
                let offloaded = self.engine.offload_conn(cx, id, tables);
                if offloaded.is_err() {
                    self.connections.close(id);
                }
                offloaded.map(|()| context)
            })
        };
        let (context, status) = match outcome {
            Ok(context) => (context, CompletionStatus::SUCCESS.0),
            Err(status) => (0, status),
        };
        self.answer_iscsi(cx, IscsiKcqeOpcode::OFFLOAD_CONN, id.0.into(), context, status);
    }

    fn update_conn(&mut self, cx: &mut DevCx<'_>, e: &IscsiKwqeConnUpdate) {
        let Some(c) = self.connections.by_cid(e.context_id.get()) else {
            self.counters.unknown_contexts += 1;
            return;
        };
        let (id, context, flags) = (c.id, c.context(), e.conn_flags);
        let tcp = c.tcp;
        if tcp != Tcp::Established {
            // The peer's RST may have crossed it on the way; anything else is the host's fault.
            self.counters.host_errors += u64::from(tcp != Tcp::ResetByPeer);
            let status = CompletionStatus::NIC_ERROR.0;
            self.answer_iscsi(cx, IscsiKcqeOpcode::UPDATE_CONN, id.0.into(), context, status);
            return;
        }
        let params = UpdateParams {
            header_digest: flags & ISCSI_KWQE_CONN_UPDATE_HEADER_DIGEST != 0,
            data_digest: flags & ISCSI_KWQE_CONN_UPDATE_DATA_DIGEST != 0,
            initial_r2t: flags & ISCSI_KWQE_CONN_UPDATE_INITIAL_R2T != 0,
            immediate_data: flags & ISCSI_KWQE_CONN_UPDATE_IMMEDIATE_DATA != 0,
            max_outstanding_r2ts: e.max_outstanding_r2ts,
            max_send_pdu: e.max_send_pdu_length.get(),
            max_recv_pdu: e.max_recv_pdu_length.get(),
            first_burst: e.first_burst_length.get(),
            max_burst: e.max_burst_length.get(),
            exp_stat_sn: e.exp_stat_sn.get(),
        };
        self.engine.update_conn(cx, id, &params);
    }

    fn destroy_conn(&mut self, cx: &mut DevCx<'_>, e: &IscsiKwqeConnDestroy) {
        let refusal = match self.connections.by_cid(e.context_id.get()) {
            None => {
                self.counters.unknown_contexts += 1;
                Some((e.iscsi_cid(), 0, CompletionStatus::CTX_FREE_FAILURE.0))
            }
            Some(c) if c.tcp.alive() || c.destroying => {
                self.counters.host_errors += 1;
                Some((c.id.0, c.context(), self.config.destroy_alive_status))
            }
            Some(c) => {
                c.destroying = true;
                let id = c.id;
                self.engine.destroy(cx, id);
                None
            }
        };
        if let Some((id, context, status)) = refusal {
            self.answer_iscsi(cx, IscsiKcqeOpcode::DESTROY_CONN, id.into(), context, status);
        }
    }

    fn offload_pg(&mut self, cx: &mut DevCx<'_>, e: &L4KwqOffloadPg) {
        let opaque = e.host_opaque.get();
        let link = LinkHeader { destination: e.da(), source: e.sa(), vlan: e.vlan() };
        let (pg, status) = if let Some(pg) = self.paths.by_opaque(opaque) {
            if let Some(group) = self.paths.get(pg) {
                group.link = link;
            }
            (pg, L4Status::OFFLOADED_PG)
        } else {
            match self.paths.open(link, opaque) {
                Some(pg) => (pg, L4Status::SUCCESS),
                None => (0, L4Status::CTX_ALLOC_FAIL),
            }
        };
        self.answer_pg(cx, L4KcqeOpcode::OFFLOAD_PG, pg, opaque, status);
    }

    fn update_pg(&mut self, cx: &mut DevCx<'_>, e: &L4KwqUpdatePg) {
        let pg = e.pg_cid.get();
        let status = match self.paths.get(pg) {
            Some(group) => {
                if let Some(destination) = e.da() {
                    group.link.destination = destination;
                }
                let link = group.link;
                for id in self.connections.users_of(pg) {
                    self.engine.set_link(id, link);
                }
                L4Status::SUCCESS
            }
            None => {
                self.counters.unknown_contexts += 1;
                L4Status::NIC_ERROR
            }
        };
        self.answer_pg(cx, L4KcqeOpcode::UPDATE_PG, pg, e.pg_host_opaque.get(), status);
    }

    fn upload_pg(&mut self, cx: &mut DevCx<'_>, e: &L4KwqUpload) {
        let pg = e.cid.get();
        let status = match self.paths.get(pg).map(|g| g.users) {
            Some(0) => {
                self.paths.close(pg);
                L4Status::SUCCESS
            }
            Some(_) => {
                self.counters.host_errors += 1;
                L4Status::OFFLOADED_PG
            }
            None => {
                self.counters.unknown_contexts += 1;
                L4Status::NIC_ERROR
            }
        };
        let mut answer = L4KcqUploadPg::blank();
        (answer.pg_cid, answer.pg_status) = (U32::new(pg), U16::new(status.0));
        self.answer(cx, answer.into_element());
    }

    fn connect(
        &mut self,
        cx: &mut DevCx<'_>,
        one: &L4KwqConnectReq1,
        two: Option<&L4KwqConnectReq2>,
        three: &L4KwqConnectReq3,
    ) {
        let Some(c) = self.connections.by_context(one.cid.get()) else {
            self.counters.unknown_contexts += 1;
            return;
        };
        let id = c.id;
        let fresh = c.tcp == Tcp::None && !c.destroying;
        let (local, remote) = addresses(one, two);
        let sane = one.src_port.get() != 0
            && one.dst_port.get() != 0
            && !remote.is_unspecified()
            && three.mss.get() != 0
            && three.mss.get() <= three.pmtu.get()
            && three.rcv_buf.get() != 0
            && three.snd_buf.get() != 0;
        let path = one.pg_cid.get();
        let group = self.paths.get(path).filter(|_| fresh && sane);
        let Some(group) = group else {
            self.counters.host_errors += 1;
            self.answer_l4(cx, L4KcqeOpcode::CONNECT_COMPLETE, id, L4Status::NIC_ERROR.0);
            return;
        };
        group.users += 1;
        let request = ConnectRequest {
            local: SocketAddr::new(local, one.src_port.get()),
            remote: SocketAddr::new(remote, one.dst_port.get()),
            mss: three.mss.get(),
            pmtu: three.pmtu.get(),
            rcv_buf: three.rcv_buf.get(),
            snd_buf: three.snd_buf.get(),
            link: group.link,
            options: options(one, three),
        };
        if let Some(c) = self.connections.by_id(id) {
            (c.tcp, c.path) = (Tcp::Connecting, Some(path));
        }
        self.engine.connect(cx, id, &request);
    }

    /// CLOSE and RESET; both KWQEs have the context address at the same place. The engine answers in every
    /// state.
    fn hang_up(&mut self, cx: &mut DevCx<'_>, e: &L4KwqCloseReq, how: Tcp) {
        let Some(c) = self.connections.by_context(e.cid.get()).filter(|c| !c.destroying) else {
            self.counters.unknown_contexts += 1;
            return;
        };
        let id = c.id;
        c.tcp = how;
        if how == Tcp::Closing {
            self.engine.close(cx, id);
        } else {
            self.engine.abort(cx, id);
        }
    }

    /// Turns an event of the engine into a KCQE. The caller has checked that there is room for one.
    pub(super) fn engine_event(&mut self, cx: &mut DevCx<'_>, event: EngineEvent) {
        use EngineEvent as E;
        let ok = L4Status::SUCCESS.0;
        match event {
            E::ConnectComplete(id, status) => {
                if self.tcp_of(id) == Some(Tcp::Connecting) {
                    self.tcp_becomes(id, if status == ok { Tcp::Established } else { Tcp::None });
                    self.answer_l4(cx, L4KcqeOpcode::CONNECT_COMPLETE, id, status);
                } else {
                    self.counters.stale_events += 1;
                }
            }
            E::CloseComplete(id) => {
                self.tcp_becomes(id, Tcp::Closed);
                self.answer_l4(cx, L4KcqeOpcode::CLOSE_COMP, id, ok);
            }
            E::ResetComplete(id) => {
                self.tcp_becomes(id, Tcp::Closed);
                self.answer_l4(cx, L4KcqeOpcode::RESET_COMP, id, ok);
            }
            E::CloseReceived(id) => self.answer_l4(cx, L4KcqeOpcode::CLOSE_RECEIVED, id, ok),
            E::ResetReceived(id) => {
                self.tcp_becomes(id, Tcp::ResetByPeer);
                self.answer_l4(cx, L4KcqeOpcode::RESET_RECEIVED, id, ok);
            }
            E::UpdateComplete(id, status) => self.answer_conn(cx, IscsiKcqeOpcode::UPDATE_CONN, id, status),
            E::IscsiError(id, status) => self.answer_conn(cx, IscsiKcqeOpcode::ISCSI_ERROR, id, status),
            E::TcpError(id, status) => {
                self.tcp_becomes(id, Tcp::ResetByPeer);
                self.answer_conn(cx, IscsiKcqeOpcode::TCP_ERROR, id, status);
            }
            E::DestroyComplete(id, status) => {
                self.answer_conn(cx, IscsiKcqeOpcode::DESTROY_CONN, id, status);
                if status == CompletionStatus::SUCCESS.0 {
                    self.connections.close(id);
                } else if let Some(c) = self.connections.by_id(id) {
                    c.destroying = false;
                }
            }
            E::CqEvent(id) => self.cq_event(cx, id),
        }
    }

    /// CQEs are waiting: one event per connection waits for room in the KCQ, not more.
    fn cq_event(&mut self, cx: &mut DevCx<'_>, id: TcpId) {
        match self.connections.by_id(id) {
            Some(c) if c.cq_event_waits => self.counters.cq_events_joined += 1,
            Some(c) => {
                let context = c.context();
                let op = IscsiKcqeOpcode::CQ_EVENT_NOTIFICATION;
                let waits = self.push(cx, iscsi_kcqe(op, id.0.into(), context, CompletionStatus::SUCCESS.0));
                if let Some(c) = self.connections.by_id(id) {
                    c.cq_event_waits = waits;
                }
            }
            None => self.counters.stale_events += 1,
        }
    }

    /// A KCQE was written to the ring: a CQ event of that connection no longer waits.
    pub(super) fn kcqe_written(&mut self, e: &Kcqe) {
        if e.layer() == Layer::ISCSI && IscsiKcqeOpcode(e.opcode()) == IscsiKcqeOpcode::CQ_EVENT_NOTIFICATION
        {
            let id = TcpId(e.view::<IscsiKcqe>().iscsi_conn_id.get() as u16);
            if let Some(c) = self.connections.by_id(id) {
                c.cq_event_waits = false;
            }
        }
    }

    fn tcp_of(&mut self, id: TcpId) -> Option<Tcp> {
        self.connections.by_id(id).map(|c| c.tcp)
    }

    /// TCP of a connection changes state; the path group is released when it ends.
    fn tcp_becomes(&mut self, id: TcpId, tcp: Tcp) {
        let Some(c) = self.connections.by_id(id) else { return };
        c.tcp = tcp;
        if !tcp.alive()
            && let Some(group) = c.path.take().and_then(|path| self.paths.get(path))
        {
            group.users -= 1;
        }
    }

    fn answer_conn(&mut self, cx: &mut DevCx<'_>, op: IscsiKcqeOpcode, id: TcpId, status: u32) {
        match self.connections.by_id(id).map(|c| c.context()) {
            Some(context) => self.answer_iscsi(cx, op, id.0.into(), context, status),
            None => self.counters.stale_events += 1,
        }
    }

    fn answer_iscsi(&mut self, cx: &mut DevCx<'_>, op: IscsiKcqeOpcode, id: u32, context: u32, status: u32) {
        self.answer(cx, iscsi_kcqe(op, id, context, status));
    }

    fn answer_l4(&mut self, cx: &mut DevCx<'_>, op: L4KcqeOpcode, id: TcpId, status: u16) {
        let Some(c) = self.connections.by_id(id) else {
            self.counters.stale_events += 1;
            return;
        };
        let mut answer = L4Kcq::new(op, L4Status(status));
        (answer.cid, answer.conn_id) = (U32::new(c.context()), U32::new(id.0.into()));
        answer.pg_cid = U32::new(c.path.unwrap_or(0));
        self.answer(cx, answer.into_element());
    }

    fn answer_pg(&mut self, cx: &mut DevCx<'_>, op: L4KcqeOpcode, pg: u32, opaque: u32, status: L4Status) {
        let mut answer = L4Kcq::new(op, status);
        (answer.pg_cid, answer.pg_host_opaque) = (U32::new(pg), U32::new(opaque));
        // The host's word for a path group is the connection's index: both keys lead to the same place.
        answer.conn_id = U32::new(opaque);
        self.answer(cx, answer.into_element());
    }

    fn answer(&mut self, cx: &mut DevCx<'_>, kcqe: Kcqe) {
        self.push(cx, kcqe);
    }

    /// Queues a KCQE, unless a defect swallows it. Returns whether it waits.
    fn push(&mut self, cx: &mut DevCx<'_>, kcqe: Kcqe) -> bool {
        let operand = u32::from(kcqe.layer().0) << 8 | u32::from(kcqe.opcode());
        if self.faults.fires_for(cx, FaultPoint::SwallowKcqe, operand) {
            return false;
        }
        let late = self.faults.fires_for(cx, FaultPoint::DelayKcqe, operand);
        let not_before = late.then(|| cx.now + Duration::from_nanos(self.config.delayed_kcqe_ns));
        self.kcq.push(kcqe, not_before);
        true
    }
}

fn iscsi_kcqe(op: IscsiKcqeOpcode, id: u32, context: u32, status: u32) -> Kcqe {
    let mut answer = IscsiKcqe::new(op, id, CompletionStatus(status));
    answer.iscsi_conn_context_id = U32::new(context);
    answer.into_element()
}

/// What a CONNECT says about TCP's manners.
fn options(one: &L4KwqConnectReq1, three: &L4KwqConnectReq3) -> TcpOptions {
    let flag = |bit| one.tcp_flags & bit != 0;
    let ms = |v: U32| Duration::from_millis(v.get().into());
    TcpOptions {
        keepalive: flag(L4_KWQ_CONNECT_REQ1_KEEP_ALIVE).then(|| KeepAlive {
            timeout: ms(three.ka_timeout),
            interval: ms(three.ka_interval),
            probes: three.ka_max_probe_count,
        }),
        tos: three.tos,
        ttl: three.ttl,
        nagle: flag(L4_KWQ_CONNECT_REQ1_NAGLE_ENABLE),
        delayed_ack: !flag(L4_KWQ_CONNECT_REQ1_NO_DELAY_ACK),
    }
}

/// Source and destination address: the first words in the first KWQE, the rest of IPv6 in the second.
fn addresses(one: &L4KwqConnectReq1, two: Option<&L4KwqConnectReq2>) -> (IpAddr, IpAddr) {
    let v6 = |words: [U32; 4]| {
        let bits = words.iter().fold(0_u128, |bits, w| bits << 32 | u128::from(w.get()));
        IpAddr::from(Ipv6Addr::from_bits(bits))
    };
    match two {
        Some(t) => (
            v6([one.src_ip, t.src_ip_v6_2, t.src_ip_v6_3, t.src_ip_v6_4]),
            v6([one.dst_ip, t.dst_ip_v6_2, t.dst_ip_v6_3, t.dst_ip_v6_4]),
        ),
        None => (Ipv4Addr::from_bits(one.src_ip.get()).into(), Ipv4Addr::from_bits(one.dst_ip.get()).into()),
    }
}
