//! The engine over kernel sockets: what readiness, budgets, stalls and FIN make of each other.

use std::time::Duration;

use bus::Budget;
use hsi::iscsi::cq::{CqOpcode, NopInMsg};
use iscsi::pdu::{self, Header};
use os::net::{Received, TcpListener, TcpStream};
use os::reactor::Reactor;

use super::super::*;
use super::rig::{DATA, ID, INIT, PARAMS, Rig, pattern};
use crate::tcp::host::HostTcp;
use crate::testing::connect_request;

struct World {
    /// Host memory and rings; its own engine is idle.
    rig: Rig,
    engine: Engine<HostTcp>,
    reactor: Reactor,
    peer: TcpStream,
    budget: u32,
    events: EngineEvents,
}

impl World {
    fn connected(budget: u32) -> Self {
        let mut rig = Rig::new();
        let reactor = Reactor::new().unwrap();
        let tcp = HostTcp::new(reactor.owner().unwrap());
        let mut engine = Engine::new(&ChipConfig::default(), Faults::new(), tcp);
        engine.init(INIT).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (tables, request) = (rig.ring_tables(), connect_request(listener.local_addr().unwrap()));
        rig.bench.with(|cx| {
            engine.offload_conn(cx, ID, tables).unwrap();
            engine.connect(cx, ID, &request);
        });
        let peer = loop {
            if let Some((peer, _)) = listener.accept().unwrap() {
                break peer;
            }
        };
        let mut w = Self { rig, engine, reactor, peer, budget, events: EngineEvents::new() };
        w.until(EngineEvent::ConnectComplete(ID, 0));
        w.rig.bench.with(|cx| w.engine.update_conn(cx, ID, &PARAMS));
        w.until(EngineEvent::UpdateComplete(ID, 0));
        w.rig.stat_sn = PARAMS.exp_stat_sn;
        w
    }

    /// Steps as a runner does: again at once while there is work, else after what the reactor brings.
    fn step(&mut self) {
        loop {
            let (engine, events) = (&mut self.engine, &mut self.events);
            let p = self.rig.bench.with(|cx| engine.step(cx, Budget(self.budget), events));
            if p.done < self.budget {
                break;
            }
        }
        self.reactor.wait(Some(Duration::from_millis(5)), &mut Vec::new()).unwrap();
    }

    fn until(&mut self, event: EngineEvent) {
        for _ in 0..1000 {
            if self.events.contains(&event) {
                self.events.clear();
                return;
            }
            self.step();
        }
        panic!("{event:?} does not come: {:?}", self.events);
    }
}

#[test]
fn stalls_and_small_budgets_lose_nothing_and_fin_comes_last() {
    for budget in [1, 3, 1000] {
        let mut w = World::connected(budget);
        let mut bytes = Vec::new();
        for i in 0..40u32 {
            let mut n = pdu::NopIn::new();
            n.ttt = i.into();
            n.stat_sn = 100.into();
            let data = pattern(if i % 4 == 0 { 0 } else { i as usize * 6 }, i);
            bytes.extend(w.rig.encode(&n, &data));
        }
        assert_eq!(w.peer.send(&bytes).unwrap(), bytes.len());
        w.peer.shutdown_write().unwrap();
        let mut seen = 0;
        for _ in 0..1000 {
            w.step();
            let mut reaped = 0;
            while let Some(cqe) = w.rig.reap() {
                let n = cqe.view::<NopInMsg>();
                assert_eq!((cqe.opcode(), n.ttt.get()), (CqOpcode::NOP_IN, seen));
                let len = n.data_length.get() as usize;
                assert_eq!(w.rig.rq_buffer(len), pattern(len, seen));
                (seen, reaped) = (seen + 1, reaped + 1);
            }
            if seen == 40 {
                break;
            }
            // Seven at a time, so that it stalls on PDUs with and without payload.
            for _ in 0..reaped.min(7) {
                let index = w.rig.advance_rq(1);
                w.engine.ring_rq(ID, index);
            }
            if reaped > 7 {
                let index = w.rig.advance_rq(reaped - 7);
                w.engine.ring_rq(ID, index);
            }
        }
        assert_eq!(seen, 40);
        w.until(EngineEvent::CloseReceived(ID));
        w.rig.bench.with(|cx| w.engine.close(cx, ID));
        w.until(EngineEvent::CloseComplete(ID));
        assert_eq!(w.peer.recv(&mut [0; 9]).unwrap(), Received::Fin);
        let c = w.engine.counters();
        assert!(c.rq_stalls > 0 && c.errors == 0);
    }
}

#[test]
fn a_peer_that_reads_slowly_gets_every_byte() {
    let mut w = World::connected(1000);
    let data = pattern(60_000, 3);
    let mut expected = 0;
    for index in 0..60 {
        w.rig.scatter(DATA, &[60_000], &data);
        w.rig.params.max_send_pdu = 8192;
        let wqe = w.rig.command(index, true, DATA, &[60_000]);
        w.rig.place(wqe);
        expected += 48 + 8192;
    }
    w.engine.ring_sq(ID, w.rig.producer());
    let (mut received, mut buf) = (0, [0; 1000]);
    for _ in 0..100_000 {
        match w.peer.recv(&mut buf).unwrap() {
            Received::Bytes(n) => received += n,
            Received::Nothing => w.step(),
            Received::Fin => panic!("nobody closed"),
        }
        if received == expected {
            break;
        }
    }
    assert_eq!(received, expected);
}
