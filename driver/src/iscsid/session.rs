//! One session of iscsid: connect, log in, stay, come back, leave.
//!
//! A state machine without I/O. Every state that waits for somebody has a deadline; connect and login of one
//! attempt share the login timeout. Whatever goes wrong in an attempt leads to one place,
//! [`Session::attempt_failed`], which releases the connection, then waits, and tries again or gives up as
//! [`policy`] says. A second failure on the way changes nothing: releasing is idempotent.

use core::net::SocketAddr;
use core::time::Duration;

use bus::Instant;
use iscsi::chap::Challenge;
use iscsi::login::{InitiatorConfig, InitiatorLogin, InitiatorStep, LoginFailure};
use iscsi::pdu::{
    AsyncEvent, AsyncMessage, BHS_LEN, Bhs, LoginOutcome, LoginResponse, LogoutResponse, Pdu, RESERVED_TAG,
    TextResponse, flags,
};
use iscsi::sendtargets::{self, TargetAddress};
use iscsi::serial::Sn;
use iscsi::text::{Excerpt, TextCollector, TextWriter};

use super::env::{Effect, Ending, Env, SessionStage, conn_params, send_login, send_logout, send_text};
use super::policy;
use super::record::Settings;
use crate::control::{ConnFailure, EpError, EpHandle, Refused, SessionId, StopFlag, ToAdapter};
use crate::error::Cause;

/// Most text exchanges of one discovery: an answer of 64 KiB in pieces of 512 bytes.
const MAX_TEXT_ROUNDS: u32 = 128;
/// Bytes of our own CHAP challenge.
const CHALLENGE_LEN: usize = 16;

enum State {
    /// CreateSession is out.
    Creating,
    /// StopConn is out.
    Stopping,
    /// Connects when the deadline comes.
    Waiting,
    /// EpConnect with this tag is out.
    Connecting(u64),
    /// Bind is out.
    Binding(EpHandle),
    /// A Login Request is out.
    LoggingIn(EpHandle, Box<InitiatorLogin>),
    /// StartConn is out.
    Starting(EpHandle),
    /// Full feature phase.
    LoggedIn(EpHandle),
    /// SendTargets is out.
    Asking(EpHandle, Box<TextCollector>, u32),
    /// A Logout Request is out. `relogin`: the target asked for it, and wants us back.
    LoggingOut {
        ep: EpHandle,
        relogin: bool,
    },
    /// DestroySession is out.
    Destroying,
    Ended,
}

/// What the attempts are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The user waits for the result.
    Initial { since: Instant },
    /// It was logged in before: for ever, or `reopen_max` times.
    Recovery,
}

/// One session.
pub(super) struct Session {
    /// Names it towards the adapter and in the records.
    pub(super) tag: u64,
    /// Target name; `None` for a discovery session.
    pub(super) target: Option<String>,
    /// The portal of the record.
    pub(super) portal: SocketAddr,
    pub(super) settings: Settings,
    pub(super) isid: [u8; 6],
    /// The adapter's name for it.
    pub(super) id: Option<SessionId>,
    /// The request that waits for the initial login or the discovery.
    pub(super) waiter: Option<u64>,
    /// The request that waits for the logout.
    pub(super) leaver: Option<u64>,
    state: State,
    deadline: Option<Instant>,
    mode: Mode,
    /// Attempts since the last success.
    attempts: u32,
    /// Redirected to, for the coming attempt only.
    detour: Option<SocketAddr>,
    redirects: u8,
    /// Not to connect before this time.
    resume_at: Instant,
    /// As negotiated.
    time2wait: Duration,
    /// The target has said that nobody may connect before this time. No other event cuts it short.
    stated_until: Instant,
    /// The target has asked for a logout before the session was started here; it goes out then.
    leave_at_start: bool,
    /// What went wrong last.
    pub(super) last_failure: Option<Cause>,
    /// How it will end.
    ending: Option<Ending>,
}

impl Session {
    /// A session that is to be logged in, or a discovery when there is no target.
    pub(super) fn start(
        tag: u64,
        target: Option<String>,
        portal: SocketAddr,
        settings: Settings,
        isid: [u8; 6],
        env: &mut Env<'_>,
    ) -> Self {
        let mut s = Self::bare(tag, target, portal, settings, isid, Mode::Initial { since: env.now });
        s.create(env);
        s
    }

    fn create(&mut self, env: &mut Env<'_>) {
        let target = self.target.clone().unwrap_or_default();
        let params = self.settings.session_params(target, self.is_discovery());
        env.out.push(ToAdapter::CreateSession { tag: self.tag, params: Box::new(params) });
        self.set(State::Creating, Some(env.now + self.settings.login_timeout()));
    }

    /// A session that a restarted iscsid learned from the adapter: treated as in recovery.
    pub(super) fn adopt(
        tag: u64,
        id: SessionId,
        target: String,
        portal: SocketAddr,
        settings: Settings,
        isid: [u8; 6],
        env: &mut Env<'_>,
    ) -> Self {
        let mut s = Self::bare(tag, Some(target), portal, settings, isid, Mode::Recovery);
        s.id = Some(id);
        s.release(env.now, env);
        s
    }

    fn bare(
        tag: u64,
        target: Option<String>,
        portal: SocketAddr,
        settings: Settings,
        isid: [u8; 6],
        mode: Mode,
    ) -> Self {
        Self {
            tag,
            target,
            portal,
            time2wait: Duration::from_secs(settings.default_time2wait.into()),
            settings,
            isid,
            id: None,
            waiter: None,
            leaver: None,
            state: State::Waiting,
            deadline: None,
            mode,
            attempts: 0,
            detour: None,
            redirects: 0,
            resume_at: Instant::ZERO,
            stated_until: Instant::ZERO,
            leave_at_start: false,
            last_failure: None,
            ending: None,
        }
    }

    pub(super) fn stage(&self) -> SessionStage {
        match self.state {
            State::Creating => SessionStage::Creating,
            State::Stopping => SessionStage::Cleanup,
            State::Waiting => SessionStage::Waiting,
            State::Connecting(_) | State::Binding(_) => SessionStage::Connecting,
            State::LoggingIn(..) | State::Starting(_) => SessionStage::LoggingIn,
            State::LoggedIn(_) | State::Asking(..) => SessionStage::LoggedIn,
            State::LoggingOut { .. } => SessionStage::LoggingOut,
            State::Destroying | State::Ended => SessionStage::Destroying,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn ep(&self) -> Option<EpHandle> {
        match self.state {
            State::Binding(ep)
            | State::LoggingIn(ep, _)
            | State::Starting(ep)
            | State::LoggedIn(ep)
            | State::Asking(ep, ..)
            | State::LoggingOut { ep, .. } => Some(ep),
            _ => None,
        }
    }

    /// The tag of the EpConnect that it waits for.
    pub(super) fn connecting(&self) -> Option<u64> {
        match self.state {
            State::Connecting(tag) => Some(tag),
            _ => None,
        }
    }

    fn is_discovery(&self) -> bool {
        self.target.is_none()
    }

    fn set(&mut self, state: State, deadline: Option<Instant>) {
        self.state = state;
        self.deadline = deadline;
    }

    // Events, in the order of a session's life.

    /// Answer to CreateSession.
    pub(super) fn created(&mut self, result: Result<SessionId, Refused>, env: &mut Env<'_>) {
        if !matches!(self.state, State::Creating) {
            return;
        }
        match result {
            Ok(id) => {
                self.id = Some(id);
                if self.ending.is_some() { self.destroy(env) } else { self.connect(env) }
            }
            // It is going down or not up yet: an attempt that failed like any other, with nothing to release.
            Err(Refused::NotReady) if self.ending.is_none() => {
                self.attempts += 1;
                self.attempt_failed(Cause::Connect(Refused::NotReady.into()), env);
            }
            // Nothing exists at the adapter: a later try is a new session.
            Err(why) => self.give_up(Cause::Connect(EpError::Refused(why)), env),
        }
    }

    fn connect(&mut self, env: &mut Env<'_>) {
        if self.id.is_none() {
            return self.create(env);
        }
        *env.next_tag += 1;
        let tag = *env.next_tag;
        self.attempts += 1;
        let portal = self.detour.take().unwrap_or(self.portal);
        env.out.push(ToAdapter::EpConnect { tag, portal });
        self.set(State::Connecting(tag), Some(env.now + self.settings.login_timeout()));
    }

    /// Answer to the EpConnect that [`connecting`](Self::connecting) names.
    pub(super) fn connected(&mut self, result: Result<EpHandle, EpError>, env: &mut Env<'_>) {
        match (result, self.id) {
            (Ok(ep), Some(session)) => {
                env.out.push(ToAdapter::Bind { session, ep });
                self.set(State::Binding(ep), self.deadline);
            }
            (Ok(ep), None) => env.out.push(ToAdapter::EpDisconnect { ep }),
            (Err(why), _) => self.attempt_failed(Cause::Connect(why), env),
        }
    }

    /// Answer to Bind.
    pub(super) fn bound(&mut self, ep: EpHandle, result: Result<(), Refused>, env: &mut Env<'_>) {
        if !matches!(self.state, State::Binding(mine) if mine == ep) {
            return;
        }
        if let Err(why) = result {
            return self.attempt_failed(Cause::Connect(EpError::Refused(why)), env);
        }
        // Challenge and identifier are drawn for every attempt; a challenge used twice could be answered by
        // replay.
        let challenge = self.settings.chap.is_mutual().then(|| {
            let mut bytes = [0; CHALLENGE_LEN + 1];
            env.rng.fill("iscsid.chap", &mut bytes);
            Challenge::new(bytes[0], &bytes[1..])
        });
        let Ok(chap) = self.settings.chap.config(challenge.flatten()) else {
            return self.give_up(Cause::AuthFailed(LoginFailure::AuthMethod), env);
        };
        let config = InitiatorConfig {
            initiator_name: env.initiator_name.to_owned(),
            initiator_alias: None,
            target_name: self.target.clone(),
            isid: self.isid,
            cid: 0,
            cmd_sn: Sn(self.settings.initial_cmdsn),
            chap,
            params: self.settings.login_params(),
        };
        match InitiatorLogin::start(config) {
            Ok((login, request)) => {
                self.set(State::LoggingIn(ep, Box::new(login)), self.deadline);
                send_login(ep, request, env);
            }
            Err(why) => self.login_failed(why, env),
        }
    }

    /// A PDU for the endpoint of this session.
    pub(super) fn received(&mut self, bhs: &[u8; BHS_LEN], data: &[u8], env: &mut Env<'_>) {
        let bhs = Bhs::from_bytes(bhs);
        match bhs.pdu() {
            Ok(Pdu::LoginResponse(response)) => self.login_response(response, data, env),
            Ok(Pdu::TextResponse(response)) => self.text_response(response, data, env),
            Ok(Pdu::LogoutResponse(response)) => self.logout_response(response, env),
            Ok(Pdu::AsyncMessage(message)) => self.async_message(message, env),
            // The only thing of ours that a target may reject here is what we wait for.
            Ok(Pdu::Reject(_)) if matches!(self.state, State::LoggedIn(_)) => {}
            Ok(Pdu::Reject(reject)) => self.broken(Cause::Rejected(reject.reason), env),
            _ => self.broken(Cause::Protocol, env),
        }
    }

    fn login_response(&mut self, response: &LoginResponse, data: &[u8], env: &mut Env<'_>) {
        let State::LoggingIn(ep, login) = &mut self.state else { return self.broken(Cause::Protocol, env) };
        let ep = *ep;
        match login.receive(response, data) {
            InitiatorStep::Send(request) => send_login(ep, request, env),
            InitiatorStep::Done(done) => {
                self.time2wait = Duration::from_secs(done.params.time2wait.into());
                if let Some(session) = self.id {
                    env.out.push(ToAdapter::StartConn { session, params: conn_params(&done) });
                }
                self.set(State::Starting(ep), self.deadline);
            }
            InitiatorStep::Redirect { address, permanent } => self.redirected(&address, permanent, env),
            InitiatorStep::Failed(why) => self.login_failed(why, env),
        }
    }

    fn redirected(&mut self, address: &TargetAddress, permanent: bool, env: &mut Env<'_>) {
        let host = &address.portal.host;
        let Ok(ip) = host.parse() else {
            return self.attempt_failed(Cause::RedirectToName(Excerpt::new(host)), env);
        };
        let portal = SocketAddr::new(ip, address.portal.port);
        if self.redirects == policy::MAX_REDIRECTS {
            return self.attempt_failed(Cause::RedirectLoop, env);
        }
        self.redirects += 1;
        self.attempts -= 1;
        self.detour = Some(portal);
        if permanent {
            self.portal = portal;
            env.effects.push(Effect::Moved(portal));
        }
        // At once: no pause, and it counts for nothing (ISCSID 4).
        self.release(env.now, env);
    }

    fn login_failed(&mut self, why: LoginFailure, env: &mut Env<'_>) {
        let cause = match (why, why.outcome()) {
            (LoginFailure::Refused(status), _) => {
                let (class, detail) = status.codes();
                Cause::LoginStatus { class, detail }
            }
            (why, LoginOutcome::AuthenticationFailed) => Cause::AuthFailed(why),
            (why, _) => Cause::LoginProtocol(why),
        };
        self.attempt_failed(cause, env);
    }

    /// Answer to StartConn.
    pub(super) fn started(&mut self, result: Result<(), ConnFailure>, env: &mut Env<'_>) {
        let State::Starting(ep) = self.state else { return };
        if let Err(why) = result {
            return self.attempt_failed(Cause::Lost(why), env);
        }
        let recovered = self.mode == Mode::Recovery;
        env.effects.push(Effect::Up { recovered });
        self.redirects = 0;
        if self.is_discovery() {
            let mut out = TextWriter::new();
            if out.push("SendTargets", "All").is_err() {
                return self.give_up(Cause::Protocol, env);
            }
            self.set(State::Asking(ep, Box::default(), 0), Some(env.now + policy::DISCOVERY_ACTIVE_TIMEOUT));
            send_text(ep, RESERVED_TAG, out.into_bytes(), env);
        } else {
            self.attempts = 0;
            self.mode = Mode::Recovery;
            self.set(State::LoggedIn(ep), None);
            if std::mem::take(&mut self.leave_at_start) {
                self.send_logout(ep, true, env);
            }
        }
    }

    fn text_response(&mut self, response: &TextResponse, data: &[u8], env: &mut Env<'_>) {
        let State::Asking(ep, text, rounds) = &mut self.state else {
            return self.broken(Cause::Protocol, env);
        };
        *rounds += 1;
        let ep = *ep;
        match text.push(data, response.flags & flags::FINAL == 0) {
            Ok(Some(answer)) => match sendtargets::parse(&answer) {
                Ok(mut targets) => {
                    let here = TargetAddress::parse(&self.portal.to_string());
                    for t in targets.iter_mut().filter(|t| t.addresses.is_empty()) {
                        t.addresses.extend(here.clone());
                    }
                    self.ending = Some(Ending::Discovered(targets));
                    self.send_logout(ep, false, env);
                }
                Err(why) => self.give_up(Cause::BadTargetList(why), env),
            },
            Ok(None) if *rounds < MAX_TEXT_ROUNDS => send_text(ep, response.ttt.get(), Vec::new(), env),
            _ => self.give_up(Cause::Protocol, env),
        }
    }

    fn async_message(&mut self, message: &AsyncMessage, env: &mut Env<'_>) {
        let cause = Cause::AsyncEvent(message.event);
        match (message.kind(), &self.state) {
            (Some(AsyncEvent::LogoutRequested), State::LoggedIn(ep)) => self.send_logout(*ep, true, env),
            // The target has logged us in already; the answer to StartConn comes first.
            (Some(AsyncEvent::LogoutRequested), State::Starting(_)) => self.leave_at_start = true,
            (Some(AsyncEvent::LogoutRequested), State::Asking(..)) => self.broken(cause, env),
            (Some(AsyncEvent::ConnectionDropped | AsyncEvent::SessionDropped), _) => {
                self.stated_until = env.now + policy::time2wait(message.parameter2.get());
                match self.state {
                    State::LoggedIn(_) => self.lost_until(self.stated_until, cause, env),
                    _ => self.broken(cause, env),
                }
            }
            (Some(AsyncEvent::NegotiationRequested), _) => self.broken(cause, env),
            _ => {}
        }
    }

    fn send_logout(&mut self, ep: EpHandle, relogin: bool, env: &mut Env<'_>) {
        send_logout(ep, env);
        self.set(State::LoggingOut { ep, relogin }, Some(env.now + self.settings.logout_timeout()));
    }

    fn logout_response(&mut self, response: &LogoutResponse, env: &mut Env<'_>) {
        match self.state {
            State::LoggingOut { relogin: true, .. } => {
                // D8: both values are 16 bits wide and in seconds.
                self.stated_until = env.now + policy::time2wait(response.time2wait.get());
                self.lost(Cause::AsyncEvent(AsyncEvent::LogoutRequested.code()), env);
            }
            State::LoggingOut { relogin: false, .. } => self.left(Ok(()), env),
            _ => self.broken(Cause::Protocol, env),
        }
    }

    /// The logout is over; whatever its result, the session goes.
    fn left(&mut self, result: Result<(), Cause>, env: &mut Env<'_>) {
        // A discovery has its answer already.
        self.ending.get_or_insert(Ending::LoggedOut(result));
        self.destroy(env);
    }

    /// The user wants to log out.
    pub(super) fn logout(&mut self, env: &mut Env<'_>) {
        match self.state {
            State::LoggedIn(ep) => self.send_logout(ep, false, env),
            // Already under way: only what follows changes.
            State::LoggingOut { ep, .. } => self.state = State::LoggingOut { ep, relogin: false },
            State::Destroying | State::Ended => {}
            State::Creating => self.ending = Some(Ending::LoggedOut(Ok(()))),
            _ => self.left(Ok(()), env),
        }
    }

    /// The connection failed: the adapter says so.
    pub(super) fn conn_error(&mut self, cause: Cause, env: &mut Env<'_>) {
        if cause.verdict().conn == ConnFailure::InvalidHost {
            return self.give_up(Cause::HostRemoved, env);
        }
        self.broken(cause, env);
    }

    /// The connection is of no use any more, whatever state it is in.
    fn broken(&mut self, cause: Cause, env: &mut Env<'_>) {
        match self.state {
            State::LoggedIn(_) | State::LoggingOut { relogin: true, .. } => self.lost(cause, env),
            // The target closed the connection instead of answering, or together with the answer.
            State::LoggingOut { relogin: false, .. } => self.left(Ok(()), env),
            State::Binding(_) | State::LoggingIn(..) | State::Starting(_) | State::Asking(..) => {
                self.attempt_failed(cause, env);
            }
            State::Creating
            | State::Stopping
            | State::Waiting
            | State::Connecting(_)
            | State::Destroying
            | State::Ended => {}
        }
    }

    /// An established session lost its connection: release it, wait Time2Wait once, come back.
    fn lost(&mut self, cause: Cause, env: &mut Env<'_>) {
        self.lost_until((env.now + self.time2wait).max(self.stated_until), cause, env);
    }

    fn lost_until(&mut self, resume_at: Instant, cause: Cause, env: &mut Env<'_>) {
        env.effects.push(Effect::Lost);
        self.last_failure = Some(cause);
        self.mode = Mode::Recovery;
        self.attempts = 0;
        self.release(resume_at, env);
    }

    /// An attempt failed: release its connection, and try again or give up.
    fn attempt_failed(&mut self, cause: Cause, env: &mut Env<'_>) {
        self.last_failure = Some(cause);
        let settings = &self.settings;
        let (again, pause) = match self.mode {
            Mode::Recovery => {
                let over = policy::gives_up_reopening(self.attempts, settings.reopen_max);
                (!over, policy::RETRY_PAUSE)
            }
            Mode::Initial { .. } if self.is_discovery() => {
                let again = cause.verdict().login_retry && self.attempts <= settings.reopen_max;
                (again, policy::discovery_pause(self.attempts))
            }
            Mode::Initial { since } => {
                let max = settings.initial_login_retry_max;
                let again = cause.verdict().login_retry
                    && policy::initial_retry(since, env.now, max, settings.login_timeout());
                (again, policy::RETRY_PAUSE)
            }
        };
        if !again {
            return self.give_up(cause, env);
        }
        self.redirects = 0;
        self.detour = None;
        self.release((env.now + pause).max(self.stated_until), env);
    }

    /// Releases the connection, if there may be one, and connects again at `resume_at`.
    fn release(&mut self, resume_at: Instant, env: &mut Env<'_>) {
        self.resume_at = resume_at;
        self.leave_at_start = false;
        if matches!(self.state, State::Connecting(_) | State::Creating) {
            // The answer to EpConnect will find nobody, and its endpoint is disconnected then. A session that
            // could not be created has nothing to release.
            return self.set(State::Waiting, Some(resume_at));
        }
        if let State::Binding(ep) = self.state {
            env.out.push(ToAdapter::EpDisconnect { ep });
        }
        if let Some(session) = self.id {
            env.out.push(ToAdapter::StopConn { session, flag: StopFlag::Recover });
        }
        self.set(State::Stopping, Some(env.now + policy::RELEASE_TIMEOUT));
    }

    /// Answer to StopConn.
    pub(super) fn stopped(&mut self, env: &mut Env<'_>) {
        if !matches!(self.state, State::Stopping) {
            return;
        }
        if self.resume_at <= env.now {
            self.connect(env);
        } else {
            self.set(State::Waiting, Some(self.resume_at));
        }
    }

    /// The adapter is up: there is no point in waiting out a pause that began because it was not. Time2Wait
    /// is the target's and stays.
    pub(super) fn adapter_up(&mut self, env: &mut Env<'_>) {
        if matches!(self.state, State::Waiting) && self.attempts > 0 {
            if self.stated_until <= env.now {
                self.connect(env);
            } else {
                self.set(State::Waiting, Some(self.stated_until));
            }
        }
    }

    /// iscsid says Hello: connections that are not in the full feature phase die with it, and so does the
    /// attempt.
    pub(super) fn out_of_step(&mut self, env: &mut Env<'_>) {
        if matches!(self.state, State::Connecting(_) | State::Binding(_) | State::LoggingIn(..)) {
            self.last_failure = Some(Cause::OutOfStep);
            // At once: neither the target nor the network has failed.
            self.release(env.now, env);
        }
    }

    /// The adapter names the session in answer to Hello: what was said about it before may have been dropped.
    pub(super) fn confirmed(&mut self, logged_in: bool, env: &mut Env<'_>) {
        match (&self.state, self.id) {
            (State::Starting(_), _) if logged_in => self.started(Ok(()), env),
            // Both are idempotent, and answered again.
            (State::Stopping, Some(session)) => {
                env.out.push(ToAdapter::StopConn { session, flag: StopFlag::Recover });
            }
            (State::Destroying, Some(session)) => env.out.push(ToAdapter::DestroySession { session }),
            _ if !logged_in => self.broken(Cause::OutOfStep, env),
            _ => {}
        }
    }

    fn give_up(&mut self, cause: Cause, env: &mut Env<'_>) {
        if !matches!(self.state, State::Destroying | State::Ended) {
            // A discovery that has its answer does not lose it with the connection.
            self.ending.get_or_insert(Ending::GaveUp(cause));
            self.destroy(env);
        }
    }

    fn destroy(&mut self, env: &mut Env<'_>) {
        if let State::Binding(ep) = self.state {
            env.out.push(ToAdapter::EpDisconnect { ep });
        }
        let Some(session) = self.id else { return self.end(env) };
        env.out.push(ToAdapter::DestroySession { session });
        self.set(State::Destroying, Some(env.now + policy::RELEASE_TIMEOUT));
    }

    /// Answer to DestroySession; or the adapter ended the session by itself.
    pub(super) fn destroyed(&mut self, env: &mut Env<'_>) {
        self.ending.get_or_insert(Ending::GaveUp(Cause::HostRemoved));
        self.end(env);
    }

    fn end(&mut self, env: &mut Env<'_>) {
        self.set(State::Ended, None);
        if let Some(ending) = self.ending.take() {
            env.effects.push(Effect::Ended(ending));
        }
    }

    /// The deadline has come.
    pub(super) fn expired(&mut self, env: &mut Env<'_>) {
        match self.state {
            State::Waiting => self.connect(env),
            State::Creating => self.give_up(Cause::Connect(EpError::Timeout), env),
            // The adapter owes us an answer. Going on is safe: it refuses what does not fit.
            State::Stopping => {
                self.resume_at = env.now;
                self.stopped(env);
            }
            State::Connecting(_) => self.attempt_failed(Cause::Connect(EpError::Timeout), env),
            State::Binding(_) | State::LoggingIn(..) | State::Starting(_) | State::Asking(..) => {
                self.attempt_failed(Cause::LoginTimedOut, env);
            }
            State::LoggingOut { relogin: true, .. } => self.lost(Cause::LogoutTimedOut, env),
            State::LoggingOut { relogin: false, .. } => self.left(Err(Cause::LogoutTimedOut), env),
            State::Destroying => self.destroyed(env),
            State::LoggedIn(_) | State::Ended => self.deadline = None,
        }
    }
}
