//! Sessions of a world: the daemon, logins and logouts, the load on them, and the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bus::ActorId;
use driver::adapter::{AdapterState, OperatorRequest, SessionPhase};
use driver::iscsid::{
    DiscoveryRecord, Iscsid, IscsidPorts, IscsidReply, IscsidRequest, NodeRecord, SessionEntry,
};
use iscsi::sendtargets::TargetRecord;

use crate::load::{Load, LoadConfig};
use crate::runner::Ended;

use super::{
    ADAPTER_LIMIT, CardSide, DAEMON_LIMIT, INITIATOR, Leftovers, Seat, Unfinished, World, WorldError,
};

impl<P: Seat + 'static> World<P> {
    /// Logs in `count` sessions of one record, and waits until their logical units are ready.
    ///
    /// # Errors
    /// The first login that failed; the others go on.
    pub fn login(&mut self, record: &NodeRecord, count: usize) -> Result<Vec<SessionEntry>, WorldError> {
        let ids = (0..count).map(|_| self.begin_login(record)).collect::<Result<Vec<u64>, _>>()?;
        let mut entries = Vec::with_capacity(count);
        let mut refused = None;
        for reply in self.answers(&ids, DAEMON_LIMIT)? {
            match reply {
                IscsidReply::LoggedIn { result: Ok(entry), .. } => entries.push(entry),
                IscsidReply::LoggedIn { result: Err(e), .. } => refused = refused.or(Some(e)),
                IscsidReply::LoggedOut { .. } | IscsidReply::Discovered { .. } => {}
            }
        }
        if let Some(e) = refused {
            return Err(e.into());
        }
        let limit = self.exec.now() + DAEMON_LIMIT;
        let (host, side) = (&self.host, &self.side);
        let ready = self.exec.run(limit, |_| {
            let host = host.borrow();
            let ready = host.adapter.sessions().filter(|s| s.phase == SessionPhase::Ready).count();
            ready >= host.adapter.sessions().count() || side.is_lost()
        });
        if side.is_lost() {
            return Err(WorldError::CardLost);
        }
        if ready == Ended::Done { Ok(entries) } else { Err(WorldError::Timeout("LUN bring-up")) }
    }

    /// Asks a portal for its targets.
    ///
    /// # Errors
    /// Why it did not answer.
    pub fn discover(&mut self, record: DiscoveryRecord) -> Result<Vec<TargetRecord>, WorldError> {
        let id = self.id();
        self.ask(IscsidRequest::Discover { id, record: Box::new(record) })?;
        match self.answers(&[id], DAEMON_LIMIT)?.pop() {
            Some(IscsidReply::Discovered { result, .. }) => Ok(result?),
            _ => Err(WorldError::Timeout("discovery")),
        }
    }

    /// Logs a session out.
    ///
    /// # Errors
    /// What went wrong; the session is gone in any case.
    pub fn logout(&mut self, tag: u64) -> Result<(), WorldError> {
        let id = self.begin_logout(tag)?;
        match self.answers(&[id], DAEMON_LIMIT)?.pop() {
            Some(IscsidReply::LoggedOut { result, .. }) => Ok(result?),
            _ => Err(WorldError::Timeout("logout")),
        }
    }

    /// Asks for a login without waiting: [`World::take_reply`] has the answer, with the id returned here,
    /// when there is one.
    ///
    /// # Errors
    /// A record that cannot be used, or a daemon that does not empty its inbox.
    pub fn begin_login(&mut self, record: &NodeRecord) -> Result<u64, WorldError> {
        let (record, _) = record.clone().check()?;
        let id = self.id();
        self.ask(IscsidRequest::Login { id, record: Box::new(record), multiple: true })?;
        Ok(id)
    }

    /// Asks for a logout without waiting.
    ///
    /// # Errors
    /// A daemon that does not empty its inbox.
    pub fn begin_logout(&mut self, tag: u64) -> Result<u64, WorldError> {
        let id = self.id();
        self.ask(IscsidRequest::Logout { id, tag })?;
        Ok(id)
    }

    /// The daemon's next answer, if there is one.
    pub fn take_reply(&mut self) -> Option<IscsidReply> {
        self.replies.recv()
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn ask(&mut self, request: IscsidRequest) -> Result<(), WorldError> {
        self.requests.send(request).map_err(|_| WorldError::Timeout("a place in the daemon's inbox"))
    }

    /// Waits for the answers to all of `ids`, together at most `limit`. Late answers to earlier requests are
    /// dropped.
    fn answers(&mut self, ids: &[u64], limit: Duration) -> Result<Vec<IscsidReply>, WorldError> {
        let until = self.exec.now() + limit;
        let (replies, side) = (&self.replies, &self.side);
        let mut found = Vec::with_capacity(ids.len());
        self.exec.run(until, |_| {
            while let Some(reply) = replies.recv() {
                let (IscsidReply::LoggedIn { id, .. }
                | IscsidReply::LoggedOut { id, .. }
                | IscsidReply::Discovered { id, .. }) = &reply;
                if ids.contains(id) {
                    found.push(reply);
                }
            }
            found.len() == ids.len() || side.is_lost()
        });
        match found.len() == ids.len() {
            true => Ok(found),
            false if side.is_lost() => Err(WorldError::CardLost),
            false => Err(WorldError::Timeout("the daemon's answer")),
        }
    }

    /// Loads each session with verified I/O on a region of `blocks` blocks of its own: the i-th session has
    /// the i-th region of its first disk.
    ///
    /// # Errors
    /// [`WorldError::Load`] when a session has no disk, a disk is too small, or memory for the buffers is
    /// short.
    pub fn start_load(
        &mut self,
        sessions: &[SessionEntry],
        config: LoadConfig,
        blocks: usize,
    ) -> Result<Rc<RefCell<Load>>, WorldError> {
        let load = Rc::new(RefCell::new(Load::new(config)));
        self.act(|_, host| {
            for (i, entry) in sessions.iter().enumerate() {
                let disk = host.adapter.disks(entry.session).first().cloned();
                let disk = disk.ok_or(WorldError::Load("a session has no disk"))?;
                let first = (i * blocks) as u64;
                if first + blocks as u64 > disk.blocks {
                    return Err(WorldError::Load("the disk is too small for all regions"));
                }
                load.borrow_mut()
                    .attach(&mut host.adapter, entry.session, disk, first, blocks)
                    .map_err(|_| WorldError::Load("no memory for the buffers"))?;
            }
            host.user = Some(load.clone());
            Ok(())
        })?;
        Ok(load)
    }

    /// Ends a load: nothing more is issued, what is outstanding gets `limit` to complete, and the buffers are
    /// freed.
    pub fn finish_load(&mut self, load: &Rc<RefCell<Load>>, limit: Duration) -> Unfinished {
        load.borrow_mut().stop();
        let draining = load.clone();
        self.run(limit, |_| draining.borrow().outstanding() == 0);
        let lost = load.borrow().outstanding() as u64;
        let kept = self.act(|_, host| {
            host.user = None;
            load.borrow_mut().release(&mut host.adapter) as u64
        });
        Unfinished { lost, kept }
    }

    /// Starts the daemon, if it does not run.
    ///
    /// # Errors
    /// Never: the initiator name is a constant.
    pub fn start_iscsid(&mut self) -> Result<(), WorldError> {
        if self.iscsid.is_some() {
            return Ok(());
        }
        let d = &self.daemon;
        let ports = IscsidPorts {
            control_out: d.control_out.clone(),
            control_in: d.control_in.clone(),
            requests: d.requests.clone(),
            replies: d.replies.clone(),
        };
        let iscsid = Iscsid::new(ActorId::new("iscsid", 0), INITIATOR, ports, self.records.clone())?;
        let iscsid = Rc::new(RefCell::new(iscsid));
        d.control_in.revive();
        d.requests.revive();
        self.exec.install(&self.places.iscsid, iscsid.clone());
        self.iscsid = Some(iscsid);
        Ok(())
    }

    /// Kills the daemon. Its inbox is lost, and so is what it is sent until it is started again.
    pub fn kill_iscsid(&mut self) {
        self.iscsid = None;
        self.exec.kill(&self.places.iscsid);
        self.daemon.control_in.kill();
        self.daemon.requests.kill();
    }

    /// Stops the daemon as SIGSTOP does, or lets it go on.
    pub fn stop_iscsid(&mut self, stopped: bool) {
        self.exec.stop(&self.places.iscsid, stopped);
    }

    /// Logs everything out, shuts the adapter down, and says what is left.
    ///
    /// # Errors
    /// [`WorldError::Timeout`] if the shutdown does not end.
    pub fn shutdown(&mut self) -> Result<Leftovers, WorldError> {
        let tags: Vec<u64> = self.host.borrow().adapter.sessions().map(|s| s.tag).collect();
        let mut on_card = 0;
        if self.iscsid.is_some() && self.host.borrow().adapter.state() == AdapterState::Up {
            let ids = tags.into_iter().map(|tag| self.begin_logout(tag)).collect::<Result<Vec<u64>, _>>()?;
            // A session that is not logged in at this moment cannot say goodbye; it is gone all the same.
            let all_out = self.answers(&ids, DAEMON_LIMIT).is_ok();
            let until = self.exec.now() + ADAPTER_LIMIT;
            let (host, side) = (&self.host, &self.side);
            let released =
                self.exec.run(until, |_| host.borrow().adapter.holdings().cids == 0 || side.is_lost());
            let released = released == Ended::Done;
            if all_out && released && self.host.borrow().adapter.state() == AdapterState::Up {
                // The reset of the shutdown would wipe what was forgotten on the card: look before it.
                on_card = self.side.in_use();
            }
        }
        self.operate(OperatorRequest::Shutdown)?;
        self.settle("shutdown", |s| s == AdapterState::Gone)?;
        // The target learns of the last FIN or RST.
        let limit = self.exec.now() + Duration::from_secs(2);
        let side = &self.side;
        self.exec.run(limit, |_| side.target_connections() == 0);
        let mut left = self.leftovers();
        left.on_card += on_card;
        Ok(left)
    }

    /// What is held right now.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        Leftovers {
            audit: self.side.audit(),
            holdings: self.host.borrow().adapter.holdings(),
            on_card: self.side.in_use(),
            streams: self.side.streams(),
        }
    }
}
