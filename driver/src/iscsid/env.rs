//! What surrounds the state machine of a session: what a step may use, what it leads to, and the PDUs and
//! parameters that it hands to the adapter.

use core::net::SocketAddr;

use bus::Instant;
use bus::streams::Streams;
use iscsi::login::{LoginDone, LoginPdu};
use iscsi::pdu::{Bhs, Header, LoginRequest, LogoutReason, LogoutRequest, TextRequest, flags};
use iscsi::sendtargets::TargetRecord;

use crate::control::{ConnParams, EpHandle, ToAdapter};
use crate::error::Cause;

/// The ITT that our requests carry towards the adapter; only one is outstanding.
const ITT: u32 = 1;

/// Where a session is, as a user sees it (ISCSID 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStage {
    /// The adapter is asked for a session.
    Creating,
    /// The old connection is being released.
    Cleanup,
    /// Waits before the next attempt.
    Waiting,
    /// Connects.
    Connecting,
    /// Logs in.
    LoggingIn,
    /// Full feature phase.
    LoggedIn,
    /// Logs out.
    LoggingOut,
    /// The session is being released for good.
    Destroying,
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Logged out; or why the target did not confirm it.
    LoggedOut(Result<(), Cause>),
    /// Given up.
    GaveUp(Cause),
    /// Discovery's answer.
    Discovered(Vec<TargetRecord>),
}

/// What the owner of the session has to know.
#[derive(Debug)]
pub(super) enum Effect {
    /// Logged in.
    Up { recovered: bool },
    /// The connection is lost; recovery begins.
    Lost,
    /// The target moved for good: remember the portal.
    Moved(SocketAddr),
    /// The session is gone.
    Ended(Ending),
}

/// What a step of the machine may use.
pub(super) struct Env<'a> {
    pub(super) now: Instant,
    pub(super) rng: &'a mut dyn Streams,
    pub(super) initiator_name: &'a str,
    pub(super) next_tag: &'a mut u64,
    pub(super) out: &'a mut Vec<ToAdapter>,
    pub(super) effects: &'a mut Vec<Effect>,
}

impl Env<'_> {
    fn send_pdu(&mut self, ep: EpHandle, header: &Bhs, data: Vec<u8>) {
        self.out.push(ToAdapter::SendPdu { ep, bhs: *header.wire(), data });
    }
}

pub(super) fn send_login(ep: EpHandle, mut request: LoginPdu<LoginRequest>, env: &mut Env<'_>) {
    request.header.itt.set(ITT);
    env.send_pdu(ep, &request.header, request.data);
}

pub(super) fn send_text(ep: EpHandle, ttt: u32, data: Vec<u8>, env: &mut Env<'_>) {
    let mut pdu = TextRequest::new();
    pdu.flags |= flags::FINAL;
    pdu.itt.set(ITT);
    pdu.ttt.set(ttt);
    pdu.data_segment_length.set(data.len() as u32);
    env.send_pdu(ep, &pdu, data);
}

pub(super) fn conn_params(done: &LoginDone) -> ConnParams {
    let p = &done.params;
    ConnParams {
        header_digest: p.header_digest,
        data_digest: p.data_digest,
        initial_r2t: p.initial_r2t,
        immediate_data: p.immediate_data,
        max_outstanding_r2t: u8::try_from(p.max_outstanding_r2t).unwrap_or(u8::MAX),
        max_xmit_data_segment: p.max_send_data_segment_length,
        max_recv_data_segment: p.max_recv_data_segment_length,
        first_burst: p.first_burst_length,
        max_burst: p.max_burst_length,
        exp_stat_sn: done.exp_stat_sn.0,
    }
}

pub(super) fn send_logout(ep: EpHandle, env: &mut Env<'_>) {
    let mut pdu = LogoutRequest::new();
    pdu.set_reason(LogoutReason::CloseSession);
    pdu.itt.set(ITT);
    env.send_pdu(ep, &pdu, Vec::new());
}
