//! The life of one connection: bytes to PDUs, login, the start of its session, and its end.

use super::attention::Attentions;
use super::config::{CloseReason, Event};
use super::guard::Admission;
use super::policy::Policy;
use super::reservation::Nexus;
use super::server::{LOST_LIMIT, TargetServer};
use super::session::{Link, Session, State, TextExchange};
use super::task::Tasks;
use super::window::Window;
use crate::chap::Challenge;
use crate::framing::{Event as Part, Framer, FramingError};
use crate::login::{LoginPdu, TargetConfig, TargetDone, TargetLogin, TargetStep};
use crate::pdu::{Bhs, LoginResponse, LoginStatus};
use crate::scsi::Sense;
use crate::sendtargets::TargetAddress;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Bytes of a CHAP challenge.
const CHALLENGE_LEN: usize = 16;

/// What a connection is doing.
pub(super) enum Phase {
    /// `None` before the first PDU.
    Login(Option<Box<TargetLogin>>),
    Full(Box<Session>),
    Ended,
}

pub(super) struct Connection {
    pub(super) link: Link,
    pub(super) framer: Framer,
    /// The data segment of a PDU that came in pieces.
    pub(super) data: Vec<u8>,
    pub(super) phase: Phase,
    pub(super) login_deadline_ns: u64,
    pub(super) heard_ns: u64,
    /// Where the connection comes from, if the caller knows.
    pub(super) peer: Option<IpAddr>,
    /// A CHAP proof that waits for its turn, and whether one has been admitted after a wait.
    pub(super) proof: Option<Box<Proof>>,
    pub(super) waited: bool,
}

/// A login request that is looked at later.
pub(super) struct Proof {
    pub(super) due_ns: u64,
    header: [u8; 48],
    data: Vec<u8>,
}

impl TargetServer {
    pub(super) fn receive(
        &mut self,
        conn: &mut Connection,
        now_ns: u64,
        bytes: &[u8],
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> usize {
        let mut rest = bytes;
        // The data segment when all of it lies in `bytes`: no copy then.
        let mut whole: &[u8] = &[];
        loop {
            if matches!(conn.phase, Phase::Ended) {
                return bytes.len();
            }
            let full = conn.link.output.len() >= self.output_limit();
            if conn.framer.is_between_pdus() && (full || conn.proof.is_some()) {
                break;
            }
            match conn.framer.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Part::Header)) => conn.data.clear(),
                Ok(Some(Part::Data { offset: 0, bytes })) if bytes.len() == conn.framer.bhs().data_len() => {
                    whole = bytes;
                }
                Ok(Some(Part::Data { bytes, .. })) => conn.data.extend_from_slice(bytes),
                Ok(Some(Part::End { data_digest_ok })) => {
                    self.journal.counters.pdus_in += 1;
                    let header = *conn.framer.bhs().wire();
                    let pieces = std::mem::take(&mut conn.data);
                    let data = if whole.is_empty() { &pieces[..] } else { whole };
                    self.pdu(conn, &header, data, data_digest_ok, now_ns, entropy);
                    conn.data = pieces;
                    whole = &[];
                }
                Err(error) => {
                    if error == FramingError::HeaderDigest {
                        self.journal.counters.header_digest_errors += 1;
                    }
                    self.end(conn, CloseReason::Framing(error));
                }
            }
        }
        conn.data.extend_from_slice(whole);
        bytes.len() - rest.len()
    }

    fn pdu(
        &mut self,
        conn: &mut Connection,
        header: &[u8; 48],
        data: &[u8],
        digest_ok: bool,
        now_ns: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) {
        match &mut conn.phase {
            Phase::Ended => {}
            Phase::Login(_) => self.login(conn, Bhs::from_bytes(header), data, now_ns, entropy),
            Phase::Full(session) => {
                self.request(&mut conn.link, session, header, data, digest_ok, now_ns);
                match session.state {
                    State::Running => self.pump(&mut conn.link, session),
                    State::Ended(reason) => self.end(conn, reason),
                }
            }
        }
    }

    fn login(
        &mut self,
        conn: &mut Connection,
        bhs: &Bhs,
        data: &[u8],
        now_ns: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) {
        let Phase::Login(login) = &mut conn.phase else { return };
        login.get_or_insert_with(|| {
            let mut random = [0; 1 + CHALLENGE_LEN];
            entropy(&mut random);
            let challenge = Challenge::new(random[0], &random[1..])
                .expect("16 bytes are within the limits of a challenge");
            Box::new(TargetLogin::new(TargetConfig {
                params: self.config.login.clone(),
                portal_group_tag: self.config.portal_group,
                first_stat_sn: conn.link.stat_sn,
                command_window: self.config.window,
                challenge,
            }))
        });
        if !login.as_ref().is_some_and(|login| login.expects_proof()) {
            return self.login_request(conn, bhs, data, now_ns);
        }
        match self.guard.admit(conn.peer, now_ns) {
            Admission::Now => self.login_request(conn, bhs, data, now_ns),
            Admission::At(due_ns) => {
                self.journal.counters.slowed_logins += 1;
                let proof = Proof { due_ns, header: *bhs.wire(), data: data.to_vec() };
                (conn.proof, conn.waited) = (Some(Box::new(proof)), true);
                self.wake_at(due_ns);
            }
            Admission::Never => {
                self.journal.counters.slowed_logins += 1;
                let Phase::Login(Some(login)) = &mut conn.phase else { return };
                let pdu = login.refuse(bhs, LoginStatus::OutOfResources);
                self.refuse_login(conn, pdu);
            }
        }
    }

    /// Looks at the proof that has waited, if its time has come.
    pub(super) fn take_proof(&mut self, conn: &mut Connection, now_ns: u64) {
        if let Some(proof) = conn.proof.take_if(|proof| proof.due_ns <= now_ns) {
            self.login_request(conn, Bhs::from_bytes(&proof.header), &proof.data, now_ns);
        }
    }

    fn login_request(&mut self, conn: &mut Connection, bhs: &Bhs, data: &[u8], now_ns: u64) {
        let Phase::Login(Some(login)) = &mut conn.phase else { return };
        let mut policy = Policy {
            discovery: &self.config.discovery,
            targets: &self.targets,
            slots: &self.slots,
            next_tsih: &mut self.next_tsih,
        };
        let proving = login.expects_proof();
        match login.receive(&mut policy, bhs, data) {
            TargetStep::Send(pdu) => {
                // Proven, unless the request goes on in another PDU.
                if proving && !login.expects_proof() && std::mem::take(&mut conn.waited) {
                    self.guard.refund(conn.peer, now_ns);
                }
                send_login(&mut conn.link, pdu);
            }
            TargetStep::Done(pdu, done) => {
                if proving && std::mem::take(&mut conn.waited) {
                    self.guard.refund(conn.peer, now_ns);
                }
                send_login(&mut conn.link, pdu);
                self.begin_session(conn, *done, now_ns);
            }
            TargetStep::Refused(pdu, _) => {
                if proving && !conn.waited {
                    self.guard.charge(conn.peer, now_ns);
                }
                self.refuse_login(conn, pdu);
            }
        }
    }

    fn refuse_login(&mut self, conn: &mut Connection, pdu: LoginPdu<LoginResponse>) {
        let status = pdu.header.status();
        send_login(&mut conn.link, pdu);
        self.journal.counters.failed_logins += 1;
        self.end(conn, CloseReason::LoginFailed(status));
    }

    fn begin_session(&mut self, conn: &mut Connection, done: TargetDone, now_ns: u64) {
        let target =
            done.who.target_name.as_ref().and_then(|name| self.targets.iter().position(|t| t.key == *name));
        let nexus = Nexus { initiator: done.who.initiator_name, isid: done.who.isid };
        let reinstated = self.reinstate(target, &nexus, conn.link.local.as_ref());
        let mut attentions = Vec::new();
        if let Some(target) = target {
            let target = &mut self.targets[target];
            let known = target.lost.iter().position(|lost| *lost == nexus);
            if let Some(at) = known {
                target.lost.remove(at);
            }
            let sense = if reinstated || known.is_some() { Sense::NEXUS_LOSS } else { Sense::POWER_ON };
            target.units.iter_mut().for_each(|unit| unit.disk.reservations.joined(&nexus));
            attentions.resize_with(target.units.len(), Attentions::default);
            attentions.iter_mut().for_each(|attention| attention.establish(sense));
        }
        conn.link.stat_sn = done.stat_sn;
        conn.link.output.header_digest = done.params.header_digest;
        conn.link.output.data_digest = done.params.data_digest;
        let configured = conn.framer.configure(
            done.params.header_digest,
            done.params.data_digest,
            done.params.max_recv_data_segment_length,
        );
        debug_assert!(configured.is_ok(), "the login request was complete");
        self.journal.counters.logins += 1;
        self.journal.emit(Event::LoggedIn {
            conn: conn.link.id,
            initiator: nexus.initiator.clone(),
            target: target.map(|at| self.targets[at].name.clone()),
            tsih: done.tsih,
        });
        if let Some(interval) = self.config.ping_interval_ns {
            self.wake_at(now_ns.saturating_add(interval));
        }
        let slots = self.config.window as usize + self.config.immediate_limit as usize;
        conn.phase = Phase::Full(Box::new(Session {
            target,
            nexus,
            tsih: done.tsih,
            cid: done.who.cid,
            params: done.params,
            window: Window::new(done.exp_cmd_sn, self.config.window),
            tasks: Tasks::new(slots),
            immediate_tasks: 0,
            sending: VecDeque::new(),
            working: VecDeque::new(),
            waiting: Vec::new(),
            in_line: false,
            attentions,
            text: TextExchange::default(),
            executed: 0,
            state: State::Running,
        }));
    }

    /// Session reinstatement (RFC 7143 6.3.5): an older session of the same nexus ends, with an implicit
    /// logout. Discovery sessions at different portals leave one another alone.
    fn reinstate(&mut self, target: Option<usize>, nexus: &Nexus, local: Option<&TargetAddress>) -> bool {
        let mut found = false;
        for at in 0..self.slots.len() {
            let same =
                self.slots[at].session().is_some_and(|old| old.target == target && old.nexus == *nexus)
                    && (target.is_some()
                        || self.slots[at].conn.as_ref().is_some_and(|c| c.link.local.as_ref() == local));
            if same && let Some(mut old) = self.slots[at].conn.take() {
                self.end(&mut old, CloseReason::Reinstated);
                old.link.output.discard();
                self.slots[at].conn = Some(old);
                self.journal.counters.reinstatements += 1;
                found = true;
            }
        }
        found
    }

    /// Ends a connection and its session: tasks are dropped without a response, RESERVE(6) is released.
    pub(super) fn end(&mut self, conn: &mut Connection, reason: CloseReason) {
        match std::mem::replace(&mut conn.phase, Phase::Ended) {
            Phase::Ended => return,
            Phase::Login(_) => {}
            Phase::Full(mut session) => {
                self.journal.counters.aborted_tasks += u64::from(session.abort_tasks(|_| true));
                if let Some(target) = session.target {
                    let target = &mut self.targets[target];
                    for unit in &mut target.units {
                        unit.disk.nexus_lost(&session.nexus);
                    }
                    if !matches!(reason, CloseReason::Logout | CloseReason::Reinstated) {
                        if target.lost.len() >= LOST_LIMIT {
                            target.lost.pop_front();
                        }
                        target.lost.push_back(session.nexus);
                    }
                }
            }
        }
        conn.data = Vec::new();
        conn.proof = None;
        self.journal.emit(Event::Closed { conn: conn.link.id, reason });
    }

    /// Ends the connections whose sessions another connection's request has ended.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        for at in 0..self.slots.len() {
            let ended = self.slots[at].session().map(|session| session.state);
            if let Some(State::Ended(reason)) = ended
                && let Some(mut conn) = self.slots[at].conn.take()
            {
                self.end(&mut conn, reason);
                self.slots[at].conn = Some(conn);
            }
        }
    }
}

/// Appends a Login Response; its numbers and lengths are filled in already.
fn send_login(link: &mut Link, pdu: LoginPdu<LoginResponse>) {
    let LoginPdu { mut header, data } = pdu;
    link.output.pdu(&mut header, &data);
}
