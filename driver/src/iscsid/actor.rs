//! The daemon itself: its ports, and the sessions by their names.

use std::collections::{BTreeMap, VecDeque};

use core::net::SocketAddr;
use core::time::Duration;

use bus::actor::{Actor, ActorId, Budget, Cx, Progress};
use bus::port::{PortRx, PortTx};
use bus::time::Instant;
use bus::trace::EventKind;
use iscsi::names::{normalize, same};

use super::env::{Effect, Ending, Env};
use super::messages::{IscsidReply, IscsidRequest, MAX_SESSIONS, MgmtError, SessionEntry, SessionView};
use super::policy;
use super::record::{DiscoveryRecord, NodeRecord, RecordError, Settings, check_portal};
use super::session::Session;
use super::store::{Records, Stored, isid};
use crate::control::{ConnFailure, FromAdapter, SessionId, ToAdapter};

/// Messages that wait for room in the port to the adapter, and replies that wait for room in the port to the
/// user. A full outbox stops the intake; nothing is lost.
pub const OUTBOX_LIMIT: usize = 1024;
/// How often a full port is tried again.
const PORT_RETRY: Duration = Duration::from_millis(1);

/// The ends of the ports that iscsid talks through. The world makes them.
pub struct IscsidPorts {
    /// To the adapter.
    pub control_out: PortTx<ToAdapter>,
    /// From the adapter.
    pub control_in: PortRx<FromAdapter>,
    /// From users.
    pub requests: PortRx<IscsidRequest>,
    /// To users.
    pub replies: PortTx<IscsidReply>,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IscsidCounters {
    /// First logins.
    pub logins: u64,
    /// Logins after a failure.
    pub recoveries: u64,
    /// Connections lost after login.
    pub lost: u64,
    /// Sessions given up.
    pub given_up: u64,
    /// Messages about sessions, endpoints or attempts that do not exist any more.
    pub stale: u64,
    /// Sessions of the adapter without a record, destroyed.
    pub orphans: u64,
    /// SCSI asynchronous events, which would start a LUN rescan.
    pub scsi_events: u64,
    /// Deadlines that fired.
    pub timeouts: u64,
}

/// The daemon. Drop it to kill it, or take its ports back with [`Iscsid::into_ports`]; make another with the
/// same [`Records`] to restart it.
pub struct Iscsid {
    name: ActorId,
    initiator_name: String,
    ports: IscsidPorts,
    records: Records,
    sessions: BTreeMap<u64, Session>,
    by_id: BTreeMap<SessionId, u64>,
    /// The last tag of an EpConnect. The first is drawn, so that an answer to the attempt of an earlier
    /// iscsid is recognised as such.
    last_connect: Option<u64>,
    /// The last Hello. The first number is drawn, for the same reason.
    hello: Option<u64>,
    /// Sessions not named by the adapter since the last Hello.
    unconfirmed: Vec<u64>,
    /// When to say Hello again if the answer is not complete by then.
    sync_until: Option<Instant>,
    outbox: VecDeque<ToAdapter>,
    replies: VecDeque<IscsidReply>,
    counters: IscsidCounters,
}

impl Iscsid {
    /// A daemon that knows nothing but its records; its first step says Hello.
    ///
    /// # Errors
    /// [`RecordError::Name`] when `initiator_name` is no iSCSI name.
    pub fn new(
        name: ActorId,
        initiator_name: &str,
        ports: IscsidPorts,
        records: Records,
    ) -> Result<Self, RecordError> {
        normalize(initiator_name).map_err(|why| RecordError::Name {
            which: "initiator name",
            name: initiator_name.to_owned(),
            why: why.to_string(),
        })?;
        Ok(Self {
            name,
            initiator_name: initiator_name.to_owned(),
            ports,
            records,
            sessions: BTreeMap::new(),
            by_id: BTreeMap::new(),
            last_connect: None,
            hello: None,
            unconfirmed: Vec::new(),
            sync_until: None,
            outbox: VecDeque::new(),
            replies: VecDeque::new(),
            counters: IscsidCounters::default(),
        })
    }

    /// Kills the daemon and gives its ports back, for the next one. What is in its inboxes stays there until
    /// [`PortRx::kill`].
    #[must_use]
    pub fn into_ports(self) -> IscsidPorts {
        self.ports
    }

    /// Whether the adapter may still be naming sessions in answer to Hello.
    #[must_use]
    pub fn sync_pending(&self) -> bool {
        self.sync_until.is_some()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &IscsidCounters {
        &self.counters
    }

    /// The sessions, discoveries included.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView> + '_ {
        self.sessions.values().map(|s| SessionView {
            tag: s.tag,
            session: s.id,
            target: s.target.clone().unwrap_or_default(),
            portal: s.portal,
            stage: s.stage(),
            attempts: s.attempts(),
            last_failure: s.last_failure,
        })
    }

    /// Runs `f` on a session and deals with what follows from it.
    fn with(&mut self, cx: &mut Cx<'_>, tag: u64, f: impl FnOnce(&mut Session, &mut Env<'_>)) {
        let Some(mut session) = self.sessions.remove(&tag) else {
            self.counters.stale += 1;
            return;
        };
        let before = (session.id, session.stage());
        let effects = self.env(cx, |env| f(&mut session, env)).1;
        if session.stage() != before.1 {
            cx.event(EventKind::Session, tag, session.stage() as u64);
        }
        self.keep(session, effects);
    }

    fn env<R>(&mut self, cx: &mut Cx<'_>, f: impl FnOnce(&mut Env<'_>) -> R) -> (R, Vec<Effect>) {
        let (mut out, mut effects) = (Vec::new(), Vec::new());
        let first = self.last_connect.unwrap_or_else(|| cx.rng.next_u64("iscsid.tag") >> 1);
        let mut next_tag = first;
        let mut env = Env {
            now: cx.now,
            rng: &mut *cx.rng,
            initiator_name: &self.initiator_name,
            next_tag: &mut next_tag,
            out: &mut out,
            effects: &mut effects,
        };
        let result = f(&mut env);
        self.last_connect = Some(next_tag);
        self.outbox.extend(out);
        (result, effects)
    }

    fn keep(&mut self, mut session: Session, effects: Vec<Effect>) {
        let tag = session.tag;
        let mut ended = false;
        for effect in effects {
            match effect {
                Effect::Up { recovered: true } => self.counters.recoveries += 1,
                Effect::Up { recovered: false } => self.came_up(&mut session),
                Effect::Lost => self.counters.lost += 1,
                Effect::Moved(portal) => self.records.change(tag, |s| s.record.portal = portal),
                Effect::Ended(ending) => {
                    ended = true;
                    self.ended(&session, ending);
                }
            }
        }
        if let Some(id) = session.id {
            if ended {
                self.by_id.remove(&id)
            } else {
                self.by_id.insert(id, tag)
            };
        }
        if !ended {
            self.sessions.insert(tag, session);
        }
    }

    fn came_up(&mut self, session: &mut Session) {
        self.counters.logins += 1;
        if session.target.is_none() {
            return;
        }
        self.records.change(session.tag, |s| s.established = true);
        if let (Some(id), Some(adapter)) = (session.waiter.take(), session.id) {
            let entry = SessionEntry { tag: session.tag, session: adapter };
            self.replies.push_back(IscsidReply::LoggedIn { id, result: Ok(entry) });
        }
    }

    fn ended(&mut self, session: &Session, ending: Ending) {
        self.records.remove(session.tag);
        let (error, logout) = match &ending {
            Ending::LoggedOut(result) => (MgmtError::LoggedOut, result.map_err(MgmtError::Failed)),
            Ending::GaveUp(cause) => (MgmtError::Failed(*cause), Ok(())),
            Ending::Discovered(_) => (MgmtError::LoggedOut, Ok(())),
        };
        self.counters.given_up += u64::from(matches!(ending, Ending::GaveUp(_)));
        if let Some(id) = session.waiter {
            self.replies.push_back(match ending {
                Ending::Discovered(targets) => IscsidReply::Discovered { id, result: Ok(targets) },
                _ if session.target.is_none() => IscsidReply::Discovered { id, result: Err(error) },
                _ => IscsidReply::LoggedIn { id, result: Err(error) },
            });
        }
        if let Some(id) = session.leaver {
            self.replies.push_back(IscsidReply::LoggedOut { id, result: logout });
        }
    }

    fn request(&mut self, cx: &mut Cx<'_>, request: IscsidRequest) {
        match request {
            IscsidRequest::Login { id, record, multiple } => {
                if let Err(error) = self.login(cx, id, *record, multiple) {
                    self.replies.push_back(IscsidReply::LoggedIn { id, result: Err(error) });
                }
            }
            IscsidRequest::Discover { id, record } => {
                if let Err(error) = self.discover(cx, id, *record) {
                    self.replies.push_back(IscsidReply::Discovered { id, result: Err(error) });
                }
            }
            IscsidRequest::Logout { id, tag } => match self.sessions.get_mut(&tag) {
                Some(session) if session.target.is_some() && session.leaver.is_none() => {
                    session.leaver = Some(id);
                    self.with(cx, tag, Session::logout);
                }
                _ => {
                    let result = Err(MgmtError::NotFound);
                    self.replies.push_back(IscsidReply::LoggedOut { id, result });
                }
            },
        }
    }

    fn login(
        &mut self,
        cx: &mut Cx<'_>,
        id: u64,
        record: NodeRecord,
        multiple: bool,
    ) -> Result<(), MgmtError> {
        let (record, _) = record.check()?;
        let runs = |s: &Session| s.target.as_deref().is_some_and(|name| same(name, &record.target));
        let exists = self.sessions.values().any(|s| runs(s) && s.portal == record.portal);
        if exists && !multiple {
            return Err(MgmtError::Exists);
        }
        let (tag, isid) =
            self.open(cx, id, Some(record.target.clone()), record.portal, record.settings.clone())?;
        self.records.put(tag, Stored { record, isid, established: false });
        Ok(())
    }

    fn discover(&mut self, cx: &mut Cx<'_>, id: u64, record: DiscoveryRecord) -> Result<(), MgmtError> {
        check_portal(record.portal)?;
        let mut settings = record.settings;
        settings.chap.config(None)?;
        settings.clamp();
        self.open(cx, id, None, record.portal, settings).map(|_| ())
    }

    fn open(
        &mut self,
        cx: &mut Cx<'_>,
        id: u64,
        target: Option<String>,
        portal: SocketAddr,
        settings: Settings,
    ) -> Result<(u64, [u8; 6]), MgmtError> {
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(MgmtError::TooMany);
        }
        let tag = self.records.next_tag();
        let isid = isid(tag, cx.rng);
        let (mut session, effects) =
            self.env(cx, |env| Session::start(tag, target, portal, settings, isid, env));
        session.waiter = Some(id);
        self.keep(session, effects);
        Ok((tag, isid))
    }

    fn message(&mut self, cx: &mut Cx<'_>, message: FromAdapter) {
        match message {
            FromAdapter::AdapterUp { .. } => {
                let tags: Vec<u64> = self.sessions.keys().copied().collect();
                tags.into_iter().for_each(|tag| self.with(cx, tag, Session::adapter_up));
            }
            // Each session gets its own ConnError; connects fail by themselves.
            FromAdapter::AdapterDown { .. } => {}
            FromAdapter::Resync => self.hello(cx),
            FromAdapter::Session { session, tag, logged_in } => {
                self.learned(cx, session, tag, logged_in);
            }
            FromAdapter::Synced { serial } => self.synced(cx, serial),
            FromAdapter::SessionCreated { tag, result } => match (self.sessions.contains_key(&tag), result) {
                (true, result) => self.with(cx, tag, |s, env| s.created(result, env)),
                (false, Ok(session)) => self.orphan(session),
                (false, Err(_)) => self.counters.stale += 1,
            },
            FromAdapter::SessionDestroyed { session } => self.of(cx, session, Session::destroyed),
            FromAdapter::EpConnected { tag, result } => {
                let waiting = self.sessions.values().find(|s| s.connecting() == Some(tag)).map(|s| s.tag);
                match (waiting, result) {
                    (Some(session), result) => self.with(cx, session, |s, env| s.connected(result, env)),
                    (None, Ok(ep)) => {
                        self.counters.stale += 1;
                        self.outbox.push_back(ToAdapter::EpDisconnect { ep });
                    }
                    (None, Err(_)) => self.counters.stale += 1,
                }
            }
            FromAdapter::Bound { session, ep, result } => {
                self.of(cx, session, |s, env| s.bound(ep, result, env));
            }
            FromAdapter::RecvPdu { ep, bhs, data } => {
                self.counters.scsi_events += u64::from(bhs[0] & 0x3F == 0x32 && bhs[36] == 0);
                let owner = self.sessions.values().find(|s| s.ep() == Some(ep)).map(|s| s.tag);
                match owner {
                    Some(tag) => self.with(cx, tag, |s, env| s.received(&bhs, &data, env)),
                    None => self.counters.stale += 1,
                }
            }
            FromAdapter::Started { session, result } => {
                self.of(cx, session, |s, env| s.started(result, env));
            }
            FromAdapter::ConnError { session, ep, cause } => {
                let owner = self.sessions.values().find(|s| s.ep() == Some(ep)).map(|s| s.tag);
                let removed = cause.verdict().conn == ConnFailure::InvalidHost;
                let owner =
                    owner.or_else(|| session.filter(|_| removed).and_then(|s| self.by_id.get(&s).copied()));
                match owner {
                    Some(tag) => self.with(cx, tag, |s, env| s.conn_error(cause, env)),
                    None => self.counters.stale += 1,
                }
            }
            FromAdapter::Stopped { session } => self.of(cx, session, Session::stopped),
        }
    }

    fn of(&mut self, cx: &mut Cx<'_>, session: SessionId, f: impl FnOnce(&mut Session, &mut Env<'_>)) {
        match self.by_id.get(&session) {
            Some(&tag) => self.with(cx, tag, f),
            None => self.counters.stale += 1,
        }
    }

    /// Asks what there is. The adapter drops every connection that is not in the full feature phase, so
    /// attempts begin again.
    fn hello(&mut self, cx: &mut Cx<'_>) {
        let serial = match self.hello {
            Some(last) => last + 1,
            None => cx.rng.next_u64("iscsid.hello") >> 1,
        };
        self.hello = Some(serial);
        self.outbox.push_back(ToAdapter::Hello { serial });
        self.unconfirmed = self.sessions.values().filter(|s| s.id.is_some()).map(|s| s.tag).collect();
        self.sync_until = Some(cx.now + policy::SYNC_TIMEOUT);
        let tags: Vec<u64> = self.sessions.keys().copied().collect();
        tags.into_iter().for_each(|tag| self.with(cx, tag, Session::out_of_step));
    }

    /// The answer to the last Hello is complete: what it did not name has ended.
    fn synced(&mut self, cx: &mut Cx<'_>, serial: u64) {
        if self.hello != Some(serial) {
            self.counters.stale += 1;
            return;
        }
        self.sync_until = None;
        for tag in core::mem::take(&mut self.unconfirmed) {
            self.with(cx, tag, Session::destroyed);
        }
    }

    /// The adapter names a session in answer to Hello.
    fn learned(&mut self, cx: &mut Cx<'_>, session: SessionId, tag: u64, logged_in: bool) {
        self.unconfirmed.retain(|&t| t != tag);
        if let Some(known) = self.sessions.get(&tag) {
            match known.id {
                None => self.with(cx, tag, |s, env| s.created(Ok(session), env)),
                Some(id) if id != session => self.orphan(session),
                Some(_) => self.with(cx, tag, |s, env| s.confirmed(logged_in, env)),
            }
            return;
        }
        match self.records.get(tag).filter(|s| s.established) {
            Some(Stored { record, isid, .. }) => {
                let NodeRecord { target, portal, settings } = record;
                let (adopted, effects) =
                    self.env(cx, |env| Session::adopt(tag, session, target, portal, settings, isid, env));
                self.keep(adopted, effects);
            }
            None => self.orphan(session),
        }
    }

    /// A session that nobody has a record of, or whose login was not finished when iscsid was killed.
    fn orphan(&mut self, session: SessionId) {
        self.counters.orphans += 1;
        self.outbox.push_back(ToAdapter::DestroySession { session });
    }

    fn expire(&mut self, cx: &mut Cx<'_>) {
        let due = |s: &&Session| s.deadline().is_some_and(|at| at <= cx.now);
        let tags: Vec<u64> = self.sessions.values().filter(due).map(|s| s.tag).collect();
        for tag in tags {
            self.counters.timeouts += 1;
            cx.event(EventKind::Timeout, 0, tag);
            self.with(cx, tag, Session::expired);
        }
        // Neither silence nor a lost answer ends a session: the adapter is asked again.
        if self.sync_until.is_some_and(|at| at <= cx.now) {
            self.counters.timeouts += 1;
            self.hello(cx);
        }
    }

    /// Moves what waits into the ports. Tells whether everything went.
    fn flush(&mut self) -> bool {
        while self.ports.control_out.room() > 0
            && let Some(message) = self.outbox.pop_front()
        {
            if let Err(full) = self.ports.control_out.send(message) {
                self.outbox.push_front(full.message);
                break;
            }
        }
        while self.ports.replies.room() > 0
            && let Some(reply) = self.replies.pop_front()
        {
            if let Err(full) = self.ports.replies.send(reply) {
                self.replies.push_front(full.message);
                break;
            }
        }
        self.outbox.is_empty() && self.replies.is_empty()
    }

    fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_LIMIT && self.replies.len() < OUTBOX_LIMIT
    }
}

impl Actor for Iscsid {
    fn name(&self) -> ActorId {
        self.name
    }

    /// A work item is a message, a request or a deadline.
    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        let mut done = 0;
        if self.hello.is_none() {
            self.hello(cx);
            done += 1;
        }
        self.flush();
        while done < budget.0 && self.has_room() {
            if let Some(message) = self.ports.control_in.recv() {
                self.message(cx, message);
            } else if let Some(request) = self.ports.requests.recv() {
                self.request(cx, request);
            } else {
                break;
            }
            done += 1;
        }
        // A deadline is judged by what was heard in time: a daemon that was stopped reads its inbox first.
        if self.has_room() && self.ports.control_in.is_empty() {
            let before = self.counters.timeouts;
            self.expire(cx);
            done = done.saturating_add((self.counters.timeouts - before) as u32);
        }
        let idle = self.flush();
        let deadlines = self.sessions.values().filter_map(Session::deadline);
        let next = Instant::earliest(deadlines.min(), self.sync_until);
        let retry = Some(cx.now + PORT_RETRY);
        let next = match (idle, self.has_room()) {
            (true, _) => next,
            (false, true) => Instant::earliest(next, retry),
            // Deadlines wait for room: they would only be looked at again and again.
            (false, false) => retry,
        };
        Progress { done, next }
    }
}
