//! Endpoints: connect, tear down, quarantine. The tear-down path can be entered from every phase and at any
//! time; connecting is the same machine run forward.
//!
//! | phase when abandoned | what follows |
//! |---|---|
//! | Offloading | waits for the answer: only then is there a context to destroy; no answer means quarantine (L2) |
//! | Resolving | DESTROY at once (T4) |
//! | Grouping | waits for the path group's id, then UPLOAD_PG and DESTROY |
//! | Connecting to Full | CLOSE after a logout or FIN, else RESET; then UPLOAD_PG and DESTROY |
//! | Grouping without an answer | DESTROY; a late answer is followed by UPLOAD_PG, none at all means quarantine |
//! | Destroying without an answer | DESTROY once more, as the request may be lost; then the cid is asked for again, as the answers may be: a card that gives it has let go of the old context, and the new one is destroyed like any other. CID_BUSY or silence means quarantine, and the adapter resets the chip (H2) |
//!
//! The helper's news of a path count in every phase: a neighbour that moved becomes an UPDATE_PG as soon as
//! the card has a group, and a path without a neighbour means that our address is gone, which ends the
//! connection.
//!
//! An endpoint with a path group is never released: its cid would be given away while the card still has a
//! group of it.

use core::net::SocketAddr;

use bus::actor::Cx;
use bus::pci::{Platform, Proof};
use bus::trace::EventKind;
use bus::uio::{PathFailure, PathUpdate};
use hsi::kernel::kcq::CompletionStatus;
use hsi::kernel::kwq::Kwqe;
use hsi::kernel::l4::{L4Kcq, L4KcqeOpcode, L4Status};

use super::helper::endpoint_handle;
use super::timers::TimerKey;
use super::{Adapter, AdapterState};
use crate::bnx2i::{Endpoint, PathGroup, Phase, QueuePair, kwqe};
use crate::cnic::{KwqFull, cm};
use crate::config::MIN_MTU;
use crate::control::{EpError, EpHandle, FromAdapter, Refused};
use crate::error::Cause;

impl<P: Platform> Adapter<P> {
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.eps.iter().flatten().map(|ep| &**ep)
    }

    pub(super) fn ep(&mut self, cid: u16) -> Option<&mut Endpoint> {
        self.eps.get_mut(usize::from(cid))?.as_deref_mut()
    }

    /// The endpoint of a handle, unless the handle is of an earlier user of the cid.
    pub(super) fn ep_of(&mut self, handle: EpHandle) -> Option<&mut Endpoint> {
        self.ep(handle.cid).filter(|ep| ep.handle() == handle)
    }

    /// Posts KWQEs in one piece.
    pub(super) fn submit_kwqes(&mut self, cx: &mut Cx<'_>, batch: &[Kwqe]) -> Result<(), KwqFull> {
        let Some(chip) = &mut self.chip else { return Err(KwqFull) };
        let consumer = chip.memory.kwq_consumer();
        let sent = chip.queues.submit(&mut self.platform, cx, consumer, batch);
        match sent {
            Ok(()) => {
                for k in batch {
                    let what = u64::from(k.opcode()) | u64::from(k.layer().0) << 8;
                    cx.event(EventKind::Kwqe, what, u64::from(k.kwqe_info0.get()));
                }
            }
            Err(KwqFull) => self.counters.kwq_full += 1,
        }
        sent
    }

    /// EP_CONNECT: rings, cid, OFFLOAD_CONN.
    pub(super) fn ep_connect(&mut self, cx: &mut Cx<'_>, tag: u64, portal: SocketAddr) {
        let refused = |why| FromAdapter::EpConnected { tag, result: Err(EpError::Refused(why)) };
        if !self.ready() {
            self.say(refused(Refused::NotReady));
            return;
        }
        // The chip refuses more than its licence word says, but only after rings were lent.
        let licensed = self.identity.map_or(0, |id| u32::from(id.max_connections));
        let guard = if self.cids.taken() < licensed { self.cids.take() } else { None };
        let Some(guard) = guard else {
            self.say(refused(Refused::NoCid));
            return;
        };
        let cid = guard.cid();
        match QueuePair::new(&mut self.platform, self.rings_in_force) {
            Ok(qp) => {
                let ep = Endpoint::new(guard, tag, portal, qp);
                self.eps[usize::from(cid)] = Some(Box::new(ep));
                self.enter(cx, cid, Phase::Offloading);
            }
            Err(_) => {
                self.cids.put(guard);
                self.say(refused(Refused::NoMemory));
            }
        }
    }

    /// Enters a phase: posts what it asks the card for and sets its deadline.
    fn enter(&mut self, cx: &mut Cx<'_>, cid: u16, phase: Phase) {
        let d = self.config.deadlines;
        let Some(ep) = self.ep(cid) else { return };
        ep.phase = phase;
        let wait = match phase {
            Phase::Offloading => Some(d.offload),
            Phase::Resolving => Some(d.path),
            Phase::Grouping => Some(d.path_group),
            Phase::Connecting => Some(d.connect),
            Phase::Connected => Some(d.login),
            Phase::Updating => Some(d.update),
            Phase::Closing => Some(d.close),
            // Half of it for the first request, half for its repetition.
            Phase::Destroying => Some(d.destroy / 2),
            Phase::Full | Phase::Quarantined => None,
        };
        match wait {
            Some(wait) => self.timers.arm(TimerKey::Phase(cid), cx.now + wait),
            None => self.timers.disarm(TimerKey::Phase(cid)),
        }
        self.post_phase(cx, cid);
    }

    /// Posts the KWQEs of the phase. Without room they wait, and the deadline of the phase runs on.
    fn post_phase(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let mac = self.identity.map_or([0; 6], |id| id.iscsi_mac);
        let Some(ep) = self.ep(cid) else { return };
        let context = ep.context.unwrap_or(0);
        let mut batch = [Kwqe::default(); 3];
        let n = match ep.phase {
            Phase::Offloading => {
                batch[..2].copy_from_slice(&kwqe::offload(cid, ep.qp.tables()));
                2
            }
            Phase::Grouping => {
                batch[0] = cm::offload_pg(cid, mac, ep.next_hop, ep.vlan);
                1
            }
            Phase::Connecting => {
                let (PathGroup::Up(pg_cid), Some(src), Some(port)) = (ep.group, ep.src, &ep.port) else {
                    return;
                };
                let (src_port, dst, pmtu) = (port.number(), ep.portal, ep.pmtu);
                let c = cm::Connect { context, pg_cid, src, src_port, dst, pmtu };
                let Some((kwqes, n)) = cm::connect(&c) else { return };
                batch = kwqes;
                n
            }
            Phase::Updating => {
                let params = ep.session.and_then(|s| self.session_params(s));
                let Some(params) = params else { return };
                batch[0] = kwqe::update(cid, context, &params);
                1
            }
            Phase::Closing => {
                // Orderly only when both sides know that the session is over; otherwise a FIN could wait for
                // a peer that is silent.
                let orderly = ep.latched.logged_out || ep.latched.fin;
                batch[0] = if orderly { cm::close(context) } else { cm::reset(context) };
                1
            }
            Phase::Destroying => {
                let mut n = 0;
                if let PathGroup::Up(pg_cid) = ep.group {
                    batch[n] = cm::upload_pg(pg_cid);
                    n += 1;
                }
                if !ep.destroying && !ep.destroyed {
                    batch[n] = kwqe::destroy(cid, context);
                    n += 1;
                }
                n
            }
            Phase::Resolving | Phase::Connected | Phase::Full | Phase::Quarantined => return,
        };
        let sent = n == 0 || self.submit_kwqes(cx, &batch[..n]).is_ok();
        let Some(ep) = self.ep(cid) else { return };
        ep.unposted = !sent;
        if sent && ep.phase == Phase::Grouping {
            ep.group = PathGroup::Pending;
            ep.told_hop = ep.next_hop;
        }
        if sent && ep.phase == Phase::Destroying {
            ep.destroying = !ep.destroyed;
            if let PathGroup::Up(pg_cid) = ep.group {
                ep.group = PathGroup::Uploading(pg_cid);
            }
        }
        if !sent {
            self.kwq_waiters.push_back(cid);
        }
    }

    /// The card has fetched KWQEs: posts what waited for room.
    pub(super) fn retry_kwqes(&mut self, cx: &mut Cx<'_>) {
        for _ in 0..self.kwq_waiters.len() {
            let Some(cid) = self.kwq_waiters.pop_front() else { break };
            if self.ep(cid).is_some_and(|ep| ep.unposted) {
                self.post_phase(cx, cid);
                if self.ep(cid).is_some_and(|ep| ep.unposted) {
                    break;
                }
            }
            self.follow_hop(cx, cid);
        }
    }

    /// The deadline of a phase has come.
    pub(super) fn phase_timeout(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let up = self.state == AdapterState::Up;
        let Some(ep) = self.ep(cid) else { return };
        match ep.phase {
            Phase::Offloading => {
                self.answer_connect(cid, Err(EpError::Timeout));
                self.quarantine(cx, cid);
            }
            Phase::Resolving | Phase::Connecting => {
                let why = if ep.phase == Phase::Resolving { EpError::NoHelper } else { EpError::Timeout };
                self.fail_endpoint(cx, cid, Cause::Connect(why));
            }
            Phase::Grouping => {
                self.answer_connect(cid, Err(EpError::Timeout));
                self.enter(cx, cid, Phase::Destroying);
            }
            Phase::Connected => self.fail_endpoint(cx, cid, Cause::LoginTimedOut),
            Phase::Updating => self.fail_endpoint(cx, cid, Cause::UpdateTimedOut),
            // H2, H5: the close is not answered; destroy by force.
            Phase::Closing => self.enter(cx, cid, Phase::Destroying),
            // A request that was lost costs nobody else a reset: it is repeated once.
            Phase::Destroying if !ep.destroy_repeated => {
                (ep.destroying, ep.destroy_repeated) = (false, true);
                let waits = ep.unposted;
                let half = self.config.deadlines.destroy / 2;
                self.timers.arm(TimerKey::Phase(cid), cx.now + half);
                if !waits {
                    self.post_phase(cx, cid);
                }
            }
            Phase::Destroying if up && ep.may_ask_again() => self.ask_again(cx, cid),
            Phase::Destroying => self.quarantine(cx, cid),
            Phase::Full | Phase::Quarantined => {}
        }
    }

    /// The answers to DESTROY_CONN or UPLOAD_PG are lost. One connection's loss is not worth a reset for all:
    /// the card is asked for what it would give only if it had let go, and that answer is the proof.
    fn ask_again(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let Some(ep) = self.ep(cid) else { return };
        ep.asked_again = true;
        if let PathGroup::Uploading(pg_cid) = ep.group {
            ep.group = PathGroup::Up(pg_cid);
        }
        let next = if core::mem::take(&mut ep.destroying) { Phase::Offloading } else { Phase::Destroying };
        self.enter(cx, cid, next);
    }

    /// UPDATE_PG is not answered (H3), or found no room: the neighbour may be wrong, so the connection is not
    /// to be trusted. A card that has not even fetched it does nothing for any connection, its teardown
    /// included.
    pub(super) fn path_group_timeout(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let consumer = self.chip.as_ref().map(|c| c.memory.kwq_consumer());
        let Some(ep) = self.ep(cid) else { return };
        let stalled = match (ep.telling_hop, consumer) {
            // Both run freely in 16 bits: the consumer is behind as long as the difference is small.
            (Some(index), Some(consumer)) => {
                (1..=crate::cnic::KWQ_ENTRIES).contains(&index.wrapping_sub(consumer))
            }
            (None, Some(_)) => ep.next_hop != ep.told_hop,
            (_, None) => false,
        };
        if stalled && self.state == AdapterState::Up {
            return self.go_down_without_waiting(cx);
        }
        self.fail_endpoint(cx, cid, Cause::Connect(EpError::Timeout));
    }

    /// An answer never came and the card may still use the memory: it stays until the chip is reset, which is
    /// now wanted.
    fn quarantine(&mut self, cx: &mut Cx<'_>, cid: u16) {
        self.counters.quarantined += 1;
        self.enter(cx, cid, Phase::Quarantined);
        self.timers.disarm(TimerKey::PathGroup(cid));
        self.reset_wanted = true;
    }

    /// The connection is lost or no longer wanted: says so once, and tears it down.
    pub(super) fn fail_endpoint(&mut self, cx: &mut Cx<'_>, cid: u16, cause: Cause) {
        self.report_failure(cx, cid, cause);
        self.abandon(cx, cid);
    }

    /// Latches the first cause and reports it once: as the answer to EP_CONNECT, or as CONN_ERROR.
    pub(super) fn report_failure(&mut self, cx: &mut Cx<'_>, cid: u16, cause: Cause) {
        let going_down = self.state != AdapterState::Up;
        let Some(ep) = self.ep(cid) else { return };
        if ep.failed.is_some() || ep.phase.is_going() {
            return;
        }
        ep.failed = Some(cause);
        if ep.phase < Phase::Connected {
            let why = match cause {
                Cause::Connect(e) => e,
                Cause::Fin | Cause::Rst | Cause::TcpError(_) => EpError::Closed,
                _ if going_down => EpError::Down,
                _ => EpError::Timeout,
            };
            self.answer_connect(cid, Err(why));
            return;
        }
        let (handle, session, updating) = (ep.handle(), ep.session, ep.phase == Phase::Updating);
        let error = cause.verdict().conn;
        if ep.phase == Phase::Full {
            self.counters.connections_lost += 1;
        }
        if let Some(slot) = session {
            self.connection_lost(cx, slot, cause);
        }
        // The cause first: the answer to StartConn knows only that it failed.
        let id = session.map(|slot| self.session_id(slot));
        self.say(FromAdapter::ConnError { session: id, ep: handle, cause });
        if let (Some(session), true) = (id, updating) {
            self.say(FromAdapter::Started { session, result: Err(error) });
        }
    }

    fn answer_connect(&mut self, cid: u16, result: Result<(), EpError>) {
        let Some(ep) = self.ep(cid) else { return };
        if !ep.answered {
            ep.answered = true;
            let (tag, handle) = (ep.tag, ep.handle());
            self.say(FromAdapter::EpConnected { tag, result: result.map(|()| handle) });
        }
    }

    /// Tears an endpoint down from whatever phase it is in. Idempotent.
    pub(super) fn abandon(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let Some(ep) = self.ep(cid) else { return };
        ep.doomed = true;
        match ep.phase {
            // It is being torn down already.
            _ if ep.asked_again => {}
            // The answer brings the context id or the path group id that tearing down needs.
            Phase::Offloading | Phase::Grouping if !ep.unposted => {}
            Phase::Offloading => self.release(cx, cid, Proof::NeverPosted),
            Phase::Grouping | Phase::Resolving => self.enter(cx, cid, Phase::Destroying),
            p if p.has_tcp() => self.enter(cx, cid, Phase::Closing),
            _ => {}
        }
    }

    /// KCQE OFFLOAD_CONN.
    pub(super) fn on_offload(&mut self, cx: &mut Cx<'_>, cid: u16, status: CompletionStatus, context: u32) {
        let layout = self.chip.as_ref().map_or(0, |c| c.mq_config2);
        let Some(ep) = self.ep(cid) else { return self.stale(cx, 0x10, cid) };
        match ep.phase {
            Phase::Offloading if !ep.unposted => {}
            // L2: a late answer says what to destroy after all.
            Phase::Quarantined if ep.context.is_none() && status == CompletionStatus::SUCCESS => {}
            _ => return self.stale(cx, 0x10, cid),
        }
        if status != CompletionStatus::SUCCESS && ep.asked_again {
            return self.quarantine(cx, cid);
        }
        if status != CompletionStatus::SUCCESS {
            self.answer_connect(cid, Err(EpError::Offload(status.0)));
            // Refused: there is no context that could touch the rings.
            self.release(cx, cid, Proof::Destroyed);
            return;
        }
        ep.context = Some(context);
        if ep.doomed || ep.phase == Phase::Quarantined {
            self.enter(cx, cid, Phase::Destroying);
            return;
        }
        if let Some(ep) = self.eps[usize::from(cid)].as_deref_mut() {
            ep.qp.map(&mut self.platform, context, layout);
            ep.port = self.local_ports.take();
        }
        if self.ep(cid).is_some_and(|ep| ep.port.is_none()) {
            return self.fail_endpoint(cx, cid, Cause::Connect(Refused::NoCid.into()));
        }
        self.enter(cx, cid, Phase::Resolving);
        self.ask_path(cid);
    }

    /// PATH_UPDATE.
    pub(super) fn on_path(&mut self, cx: &mut Cx<'_>, update: &PathUpdate) {
        let mtu = self.config.mtu;
        let handle = endpoint_handle(update.handle);
        let cid = handle.cid;
        let Some(ep) = self.ep_of(handle) else { return self.stale(cx, 30, cid) };
        if ep.path_unseen {
            // That a new helper finds nobody, or has no address yet, is no news of a connection that stands:
            // TCP and its keepalive know better. Another address of our own is.
            if !update.resolved() {
                return;
            }
            ep.path_unseen = false;
            if ep.src != Some(update.src) {
                return self.fail_endpoint(cx, cid, Cause::PathLost);
            }
            if update.mac == ep.next_hop {
                return;
            }
        }
        match ep.phase {
            Phase::Resolving if update.resolved() && update.src.is_ipv4() == ep.portal.is_ipv4() => {
                (ep.next_hop, ep.vlan, ep.src) = (update.mac, update.vlan, Some(update.src));
                // A path may be narrower than the interface, never wider; what is no IP packet size is no
                // path MTU.
                ep.pmtu = update.pmtu.clamp(MIN_MTU, mtu);
                self.enter(cx, cid, Phase::Grouping);
            }
            Phase::Resolving | Phase::Grouping | Phase::Connecting if !update.resolved() => {
                let why = update.failure.unwrap_or(PathFailure::NoAnswer);
                self.fail_endpoint(cx, cid, Cause::Connect(EpError::NoPath(why)));
            }
            // An address of the other family leads nowhere.
            Phase::Resolving => {
                self.fail_endpoint(cx, cid, Cause::Connect(EpError::NoPath(PathFailure::NoRoute)));
            }
            // TCP would go on for minutes from an address that may be another's by then.
            Phase::Connected | Phase::Updating | Phase::Full if !update.resolved() => {
                self.fail_endpoint(cx, cid, Cause::PathLost);
            }
            Phase::Grouping | Phase::Connecting | Phase::Connected | Phase::Updating | Phase::Full
                if update.mac != ep.next_hop =>
            {
                ep.next_hop = update.mac;
                self.follow_hop(cx, cid);
            }
            _ => self.stale(cx, 30, cid),
        }
    }

    /// Tells the card about the newest neighbour, if it has a group that names an older one.
    fn follow_hop(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let deadline = cx.now + self.config.deadlines.path_group;
        let Some(ep) = self.ep(cid).filter(|ep| ep.phase.has_tcp()) else { return };
        let (PathGroup::Up(pg_cid), hop) = (ep.group, ep.next_hop) else { return };
        // The newest neighbour follows when the card has answered for an older one.
        if hop == ep.told_hop || ep.telling_hop.is_some() {
            return;
        }
        if self.submit_kwqes(cx, &[cm::update_pg(cid, pg_cid, hop)]).is_err() {
            if !self.kwq_waiters.contains(&cid) {
                self.kwq_waiters.push_back(cid);
            }
            // The news wait since they came, not since there was room.
            self.timers.arm_by(TimerKey::PathGroup(cid), deadline);
            return;
        }
        self.timers.arm(TimerKey::PathGroup(cid), deadline);
        let index = self.chip.as_ref().map(|c| c.queues.kwq_producer());
        if let Some(ep) = self.ep(cid) {
            (ep.told_hop, ep.telling_hop) = (hop, index);
        }
    }

    /// KCQE UPDATE_CONN.
    pub(super) fn on_update(&mut self, cx: &mut Cx<'_>, cid: u16, status: CompletionStatus) {
        let Some(ep) = self.ep(cid).filter(|ep| ep.phase == Phase::Updating) else {
            return self.stale(cx, 0x12, cid);
        };
        if status != CompletionStatus::SUCCESS {
            return self.fail_endpoint(cx, cid, Cause::UpdateRefused(status.0));
        }
        // R1, R2: what was latched meanwhile has already failed the endpoint, or fails it now.
        if let Some(cause) = ep.latched.cause() {
            return self.fail_endpoint(cx, cid, cause);
        }
        self.enter(cx, cid, Phase::Full);
        if let Some(slot) = self.ep(cid).and_then(|ep| ep.session) {
            self.logged_in(cx, slot);
        }
    }

    /// StartConn: asks for the full feature phase.
    pub(super) fn start_update(&mut self, cx: &mut Cx<'_>, cid: u16) {
        self.enter(cx, cid, Phase::Updating);
    }

    /// KCQE DESTROY_CONN.
    pub(super) fn on_destroy(&mut self, cx: &mut Cx<'_>, cid: u16, status: CompletionStatus) {
        let Some(ep) = self.ep(cid).filter(|ep| ep.destroying) else {
            return self.stale(cx, 0x13, cid);
        };
        if status != CompletionStatus::SUCCESS {
            // A refused repetition proves nothing, and the answer to the first may still come: the deadline
            // decides.
            if !ep.destroy_repeated {
                ep.destroying = false;
                self.quarantine(cx, cid);
            }
            return;
        }
        ep.destroying = false;
        ep.destroyed = true;
        // With a path group the deadline runs on, or the reset that is wanted already gives it back.
        self.release_if_done(cx, cid);
    }

    /// A KCQE of layer 4. `cid` is in range.
    pub(super) fn on_l4(&mut self, cx: &mut Cx<'_>, cid: u16, kcqe: &L4Kcq) {
        let (op, status) = (kcqe.op_code, kcqe.completion_status());
        let Some(ep) = self.ep(cid) else { return self.stale(cx, op.0, cid) };
        match op {
            L4KcqeOpcode::OFFLOAD_PG if ep.group == PathGroup::Pending => {
                let ok = matches!(status, L4Status::SUCCESS | L4Status::OFFLOADED_PG);
                ep.group = if ok { PathGroup::Up(kcqe.pg_cid.get()) } else { PathGroup::None };
                if ep.phase == Phase::Destroying {
                    // Late, after its deadline: the card has a group that nobody will use.
                    self.late_group(cx, cid);
                } else if ep.phase != Phase::Grouping {
                    // Quarantined: the reset that is wanted anyway frees it.
                    self.stale(cx, op.0, cid);
                } else if ep.doomed {
                    self.enter(cx, cid, Phase::Destroying);
                } else if ok {
                    self.enter(cx, cid, Phase::Connecting);
                    self.follow_hop(cx, cid);
                } else {
                    self.answer_connect(cid, Err(EpError::Connect(status.0)));
                    self.enter(cx, cid, Phase::Destroying);
                }
            }
            L4KcqeOpcode::UPDATE_PG if ep.telling_hop.is_some() => {
                ep.telling_hop = None;
                self.timers.disarm(TimerKey::PathGroup(cid));
                self.follow_hop(cx, cid);
            }
            L4KcqeOpcode::CONNECT_COMPLETE if ep.phase == Phase::Connecting => match status {
                // R4: the target has closed or reset it already, only the news came in another order.
                L4Status::SUCCESS => match ep.latched.cause() {
                    Some(cause) => self.fail_endpoint(cx, cid, cause),
                    None => {
                        self.enter(cx, cid, Phase::Connected);
                        self.answer_connect(cid, Ok(()));
                    }
                },
                other => {
                    self.answer_connect(cid, Err(EpError::Connect(other.0)));
                    if let Some(ep) = self.ep(cid) {
                        ep.failed = Some(Cause::Connect(EpError::Connect(other.0)));
                        ep.doomed = true;
                    }
                    // No TCP connection exists: nothing to close.
                    self.enter(cx, cid, Phase::Destroying);
                }
            },
            L4KcqeOpcode::CLOSE_RECEIVED if ep.phase < Phase::Quarantined => {
                ep.latched.fin = true;
                self.peer_gone(cx, cid, Cause::Fin);
            }
            L4KcqeOpcode::RESET_RECEIVED if ep.phase < Phase::Quarantined => {
                ep.latched.rst = true;
                self.peer_gone(cx, cid, Cause::Rst);
            }
            L4KcqeOpcode::CLOSE_COMP | L4KcqeOpcode::RESET_COMP if ep.phase == Phase::Closing => {
                self.enter(cx, cid, Phase::Destroying);
            }
            _ => self.stale(cx, op.0, cid),
        }
    }

    /// The target ended the connection. What the card posted before is taken first: a target that refuses a
    /// login says why and then closes.
    fn peer_gone(&mut self, cx: &mut Cx<'_>, cid: u16, cause: Cause) {
        let open = |ep: &mut Endpoint| matches!(ep.phase, Phase::Connected | Phase::Updating | Phase::Full);
        if !self.ep(cid).is_some_and(open) {
            return;
        }
        self.reap_connection(cx, cid, self.config.rings.cq.into());
        if self.ep(cid).is_some_and(open) {
            self.fail_endpoint(cx, cid, cause);
        }
    }

    /// KCQE UPLOAD_PG, which names only the path group.
    pub(super) fn on_upload(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let Some(ep) = self.ep(cid).filter(|ep| matches!(ep.group, PathGroup::Uploading(_))) else {
            return self.stale(cx, 14, cid);
        };
        ep.group = PathGroup::None;
        self.release_if_done(cx, cid);
    }

    /// OFFLOAD_PG is answered while the endpoint is being destroyed: the group goes too.
    fn late_group(&mut self, cx: &mut Cx<'_>, cid: u16) {
        let Some(ep) = self.ep(cid) else { return };
        match ep.group {
            // What waits for room takes it along.
            PathGroup::Up(_) if ep.unposted => {}
            PathGroup::Up(_) => self.post_phase(cx, cid),
            _ => self.release_if_done(cx, cid),
        }
    }

    /// Releases an endpoint that is destroyed and has no path group any more.
    fn release_if_done(&mut self, cx: &mut Cx<'_>, cid: u16) {
        if self.ep(cid).is_some_and(|ep| ep.destroyed && ep.group == PathGroup::None) {
            self.release(cx, cid, Proof::Destroyed);
        }
    }

    /// The card is done with the endpoint: everything of it comes back, its tasks first.
    fn release(&mut self, cx: &mut Cx<'_>, cid: u16, proof: Proof) {
        let Some(mut ep) = self.eps[usize::from(cid)].take() else { return };
        self.timers.disarm(TimerKey::Phase(cid));
        self.timers.disarm(TimerKey::PathGroup(cid));
        for loans in &mut ep.loans {
            loans.drain(..).for_each(|loan| self.platform.reclaim(loan, proof));
        }
        let Endpoint { guard, qp, port, session, answered, tag, failed, .. } = *ep;
        if !answered {
            self.say(FromAdapter::EpConnected { tag, result: Err(EpError::Down) });
        }
        qp.release(&mut self.platform, proof);
        if let Some(port) = port {
            self.local_ports.put(port);
        }
        self.cids.put(guard);
        if let Some(slot) = session {
            self.endpoint_released(cx, slot, failed);
        }
    }

    /// The chip was reset: all endpoints come back, whatever they waited for.
    pub(super) fn release_all(&mut self, cx: &mut Cx<'_>, proof: Proof) {
        self.kwq_waiters.clear();
        self.ready.clear();
        for cid in 0..self.eps.len() as u16 {
            self.report_failure(cx, cid, Cause::AdapterReset);
            self.release(cx, cid, proof);
        }
    }

    /// An event of an older generation, or for nothing that exists: dropped and counted.
    pub(super) fn stale(&mut self, cx: &mut Cx<'_>, what: u8, cid: u16) {
        self.counters.stale_events += 1;
        cx.event(EventKind::Dropped, u64::from(what), u64::from(cid));
    }
}
