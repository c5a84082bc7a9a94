//! An adapter with the fake card on a strict bus, and the test in the place of iscsid, helper and operator.

use core::net::SocketAddr;
use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use bus::inproc::{CardActor, InProcess, Slot, SlotConfig};
use bus::port::{PortRx, PortTx, port};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::uio::{FromHelper, PathHandle, PathUpdate, ToHelper};
use bus::wake::WakeSet;
use bus::{Actor, ActorId, Budget, Cx, Instant};
use iscsi::scsi::Lun;

use super::fake::{Card, Fake};
use crate::adapter::helper::path_handle;
use crate::adapter::{Adapter, AdapterPorts, AdapterState, Holdings, OperatorRequest};
use crate::bnx2i::Phase;
use crate::config::DriverConfig;
use crate::control::{ConnParams, EpError, EpHandle, FromAdapter, SessionId, SessionParams, ToAdapter};
use crate::user::{Op, Request, Ticket, UserBuf};

pub(super) const PARAMS: ConnParams = ConnParams {
    header_digest: false,
    data_digest: false,
    initial_r2t: true,
    immediate_data: true,
    max_outstanding_r2t: 1,
    max_xmit_data_segment: 8192,
    max_recv_data_segment: 8192,
    first_burst: 65536,
    max_burst: 262_144,
    exp_stat_sn: 2,
};

pub(super) fn no_keepalive() -> SessionParams {
    SessionParams { noop_interval: Duration::ZERO, noop_timeout: Duration::ZERO, ..SessionParams::default() }
}

pub(super) fn portal() -> SocketAddr {
    "10.0.0.2:3260".parse().unwrap()
}

pub(super) struct Rig {
    pub(super) adapter: Adapter<InProcess>,
    pub(super) slot: Rc<RefCell<Slot>>,
    pub(super) card: Rc<RefCell<Card>>,
    card_actor: CardActor,
    rng: Seeded,
    trace: Trace,
    pub(super) now: Instant,
    pub(super) iscsid: PortTx<ToAdapter>,
    pub(super) said: PortRx<FromAdapter>,
    pub(super) helper: PortTx<FromHelper>,
    pub(super) asked: PortRx<ToHelper>,
    /// The helper answers path requests by itself.
    pub(super) resolve: bool,
    /// Everything that the adapter told iscsid and the test has not looked at.
    pub(super) heard: Vec<FromAdapter>,
    pub(super) requests: Vec<ToHelper>,
    /// A helper that takes nothing from its port.
    pub(super) deaf: bool,
    pub(super) wakes: WakeSet,
    /// By which `wakes` names the helper.
    pub(super) helper_index: u32,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(DriverConfig::default())
    }

    pub(super) fn with(config: DriverConfig) -> Self {
        Self::on(SlotConfig { strict: true, ..SlotConfig::default() }, config)
    }

    pub(super) fn on(slot: SlotConfig, config: DriverConfig) -> Self {
        let (fake, card) = Fake::new();
        let wakes = WakeSet::default();
        let slot =
            Slot::new(slot, ActorId::new("fake", 0), Box::new(fake), wakes.register(), wakes.register());
        let (iscsid, control_in) = port("control-in", 1024, wakes.register());
        let (control_out, said) = port("control-out", 1024, wakes.register());
        let (helper, path_in) = port("path-in", 256, wakes.register());
        let helper_wake = wakes.register();
        let helper_index = helper_wake.index();
        let (path_out, asked) = port("path-out", 256, helper_wake.clone());
        let ports = AdapterPorts { control_in, control_out, path_in, path_out, helper_wake };
        let adapter =
            Adapter::new(ActorId::new("adapter", 0), InProcess(slot.clone()), config, ports).unwrap();
        Self {
            adapter,
            card_actor: CardActor(slot.clone()),
            slot,
            card,
            rng: Seeded::new(1),
            trace: Trace::off(),
            now: Instant::ZERO,
            iscsid,
            said,
            helper,
            asked,
            resolve: true,
            heard: Vec::new(),
            requests: Vec::new(),
            deaf: false,
            wakes,
            helper_index,
        }
    }

    /// Calls the adapter with a context of this moment.
    pub(super) fn call<R>(&mut self, f: impl FnOnce(&mut Adapter<InProcess>, &mut Cx<'_>) -> R) -> R {
        let mut cx = Cx {
            now: self.now,
            actor: ActorId::new("adapter", 0),
            rng: &mut self.rng,
            trace: &mut self.trace,
        };
        f(&mut self.adapter, &mut cx)
    }

    pub(super) fn request(&mut self, request: OperatorRequest) {
        self.call(|a, cx| a.request(cx, request)).unwrap();
    }

    /// Steps both sides until nothing happens at this moment; returns the next deadline.
    pub(super) fn settle(&mut self) -> Option<Instant> {
        for _ in 0..10_000 {
            let mut cx = Cx {
                now: self.now,
                actor: ActorId::new("rig", 0),
                rng: &mut self.rng,
                trace: &mut self.trace,
            };
            let mut done = self.card_actor.step(&mut cx, Budget(256)).done;
            let p = self.adapter.step(&mut cx, Budget(256));
            done += p.done;
            while let Some(m) = self.said.recv() {
                self.heard.push(m);
                done += 1;
            }
            while let Some(m) = if self.deaf { None } else { self.asked.recv() } {
                if let (ToHelper::PathReq(r), true) = (&m, self.resolve) {
                    self.answer_path(r.handle);
                }
                self.requests.push(m);
                done += 1;
            }
            if done == 0 && p.next.is_none_or(|at| at > self.now) {
                return p.next;
            }
        }
        panic!("the adapter never comes to rest");
    }

    pub(super) fn answer_path(&mut self, handle: PathHandle) {
        self.update_path(handle, [2, 0, 0, 0, 0, 2]);
    }

    pub(super) fn tell_path(&mut self, ep: EpHandle, mac: [u8; 6]) {
        self.update_path(path_handle(ep), mac);
    }

    fn update_path(&mut self, handle: PathHandle, mac: [u8; 6]) {
        let (src, failure) =
            ("10.0.0.1".parse().unwrap(), (mac == [0; 6]).then_some(bus::uio::PathFailure::NoAnswer));
        let update = PathUpdate { handle, mac, src, vlan: 0, pmtu: 1500, failure };
        self.helper.send(FromHelper::PathUpdate(update)).unwrap();
    }

    /// Runs for a time.
    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `stop` holds, at most for `time`; returns the time that passed.
    pub(super) fn run_until(&mut self, time: Duration, stop: impl Fn(&Self) -> bool) -> Duration {
        let (start, end) = (self.now, self.now + time);
        loop {
            let next = self.settle();
            if stop(self) {
                return self.now - start;
            }
            match next {
                Some(at) if at <= end => self.now = at,
                _ => {
                    self.now = end;
                    self.settle();
                    return time;
                }
            }
        }
    }

    pub(super) fn up(&mut self) {
        self.request(OperatorRequest::InterfaceUp);
        self.run_until(Duration::from_secs(10), |r| r.adapter.state() == AdapterState::Up);
        assert_eq!(self.adapter.state(), AdapterState::Up);
        self.heard.clear();
    }

    pub(super) fn say(&mut self, message: ToAdapter) {
        self.iscsid.send(message).unwrap();
        self.settle();
    }

    /// Takes the first message that `pick` wants.
    pub(super) fn take<R>(&mut self, pick: impl Fn(&FromAdapter) -> Option<R>) -> Option<R> {
        let at = self.heard.iter().position(|m| pick(m).is_some())?;
        pick(&self.heard.remove(at))
    }

    pub(super) fn connect(&mut self, tag: u64) {
        self.say(ToAdapter::EpConnect { tag, portal: portal() });
    }

    pub(super) fn connected(&mut self, tag: u64) -> Option<Result<EpHandle, EpError>> {
        self.take(|m| match m {
            FromAdapter::EpConnected { tag: t, result } if *t == tag => Some(*result),
            _ => None,
        })
    }

    pub(super) fn new_session(&mut self, tag: u64) -> SessionId {
        self.new_session_with(tag, no_keepalive())
    }

    pub(super) fn new_session_with(&mut self, tag: u64, params: SessionParams) -> SessionId {
        self.say(ToAdapter::CreateSession { tag, params: Box::new(params) });
        self.take(|m| match m {
            FromAdapter::SessionCreated { tag: t, result: Ok(id) } if *t == tag => Some(*id),
            _ => None,
        })
        .expect("a session")
    }

    /// A session on a connection in the full feature phase. No PDU is exchanged: the card does not know
    /// iSCSI.
    pub(super) fn login(&mut self, tag: u64) -> (SessionId, EpHandle) {
        let session = self.new_session(tag);
        (session, self.relogin(session, tag))
    }

    pub(super) fn relogin(&mut self, session: SessionId, tag: u64) -> EpHandle {
        self.connect(tag);
        let ep = self.connected(tag).expect("an answer").expect("an endpoint");
        self.say(ToAdapter::Bind { session, ep });
        self.say(ToAdapter::StartConn { session, params: PARAMS });
        ep
    }

    pub(super) fn ep_phase(&self, ep: EpHandle) -> Option<Phase> {
        self.adapter.endpoints().find(|e| e.handle() == ep).map(|e| e.phase)
    }

    /// Submits one raw command over `buf`.
    pub(super) fn raw(&mut self, session: SessionId, buf: UserBuf, write: bool) -> Ticket {
        let request = Request {
            lun: Lun::default(),
            op: Op::Scsi { cdb: [0x28; 16], write },
            lba: 0,
            data: &[buf.whole()],
        };
        self.call(|a, cx| a.submit(cx, session, &request)).expect("accepted")
    }

    /// Nothing is held but what sessions and users own, and the bus saw no violation.
    pub(super) fn assert_released(&self) {
        let h = self.adapter.holdings();
        let want = Holdings {
            sessions: h.sessions,
            user_buffers: h.user_buffers,
            // The helper's memory stays until the adapter is gone.
            dma_buffers: h.sessions
                + self.adapter.helper.shared.as_ref().map_or(0, |_| crate::cnic::uio::Shared::BUFFERS),
            timers: h.timers,
            requests: h.requests,
            ..Holdings::default()
        };
        assert_eq!(h, want);
        let audit = self.slot.borrow().audit();
        assert_eq!((audit.loans, audit.violations), (0, 0), "{:?}", self.slot.borrow().violations());
    }
}
