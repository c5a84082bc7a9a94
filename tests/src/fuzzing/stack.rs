//! The whole stack in a world, with one party that lies: a card towards its driver, memory towards the card,
//! a guest that writes any register beside the driver, a target towards card and driver.
//!
//! A lie is a change to what an honest party says, so it gets as far as an honest word. Whatever the lies
//! were: nothing panics or loops, every request has an end, the card stays within its tables and never uses a
//! revoked grant. When the lies end and the card is replaced, a new session reads, and the shutdown gives
//! everything back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bus::inproc::{InProcess, Violation};
use bus::pci::{
    Bar, DevCx, DmaFault, Epoch, FunctionLayout, Grant, HostPort, PciFunction, Platform, ResetKind,
    ResetReport, Vector, Width, Word,
};
use bus::wake::WakeSet;
use bus::{Budget, Progress};
use driver::adapter::{AdapterState, OperatorRequest};
use driver::user::Op;
use hsi::bcm5709::{ctx, doorbell, regs};
use hw_model::bcm5709::regs::{REGISTERS, Space};
use hw_model::config::ChipConfig;
use hw_model::tcp::memory::{MemoryPeer, PeerEvent, PeerReceived, StreamId};

use iscsi::framing::{Event, Framer};
use iscsi::pdu::{Bhs, MAX_DATA_SEGMENT_LEN, padding};
use iscsi::target::{ConnId, TargetServer};
use lab::world::{Interposer, PORTAL};

use super::Cursor;
use crate::rig::{BLOCK, Rig, RigConfig};

/// Lies of an input at most.
const LIES: usize = 24;
/// Acts of a guest at most.
const ACTS: usize = 64;
/// Longest login, with the retries of the one before it.
const PATIENCE: Duration = Duration::from_secs(300);

/// A change to what is said, `gap` words after the last one.
#[derive(Clone, Debug)]
struct Lie {
    gap: u16,
    how: u8,
    offset: u8,
    bytes: [u8; 4],
}

fn lies(c: &mut Cursor<'_>) -> VecDeque<Lie> {
    let mut out = VecDeque::new();
    while !c.is_empty() && out.len() < LIES {
        let gap = match c.byte() {
            n @ 0..0xc0 => n.into(),
            n => u16::from(n & 0x3f) << 6,
        };
        out.push_back(Lie { gap, how: c.byte(), offset: c.byte(), bytes: c.array() });
    }
    out
}

/// Where lies are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seam {
    /// What the card writes to memory, and what its registers read as.
    Card,
    /// What the card reads in memory.
    Memory,
}

struct Liar {
    seam: Seam,
    lies: RefCell<VecDeque<Lie>>,
    /// Words since the last lie.
    passed: Cell<u16>,
    told: Cell<u32>,
}

impl Liar {
    fn due(&self, seam: Seam) -> Option<Lie> {
        let mut lies = self.lies.borrow_mut();
        let next = lies.front().filter(|_| seam == self.seam)?;
        if self.passed.get() < next.gap {
            self.passed.set(self.passed.get() + 1);
            return None;
        }
        self.passed.set(0);
        self.told.set(self.told.get() + 1);
        lies.pop_front()
    }
}

impl Lie {
    fn spoil(&self, data: &mut [u8]) {
        let at = usize::from(self.offset) % data.len().max(1);
        for (b, lie) in data.iter_mut().skip(at).zip(self.bytes) {
            *b = if self.how & 1 == 0 { *b ^ lie } else { lie };
        }
    }

    fn number(&self, value: u32) -> u32 {
        match self.how & 3 {
            0 => value.wrapping_add(self.bytes[0].into()),
            1 => value.wrapping_sub(self.bytes[0].into()),
            2 => value ^ u32::from_le_bytes(self.bytes),
            _ => u32::from_le_bytes(self.bytes),
        }
    }
}

/// The host, as a card that lies sees it.
struct LyingHost<'a> {
    host: &'a mut dyn HostPort,
    liar: &'a Liar,
}

impl HostPort for LyingHost<'_> {
    fn grant(&self) -> Grant {
        self.host.grant()
    }

    fn revoke(&mut self) -> Epoch {
        self.host.revoke()
    }

    fn dma_read(&mut self, addr: u64, out: &mut [u8], grant: Grant) -> Result<(), DmaFault> {
        self.host.dma_read(addr, out, grant)?;
        if let Some(lie) = self.liar.due(Seam::Memory) {
            lie.spoil(out);
        }
        Ok(())
    }

    fn dma_write(&mut self, addr: u64, data: &[u8], grant: Grant) -> Result<(), DmaFault> {
        match self.liar.due(Seam::Card) {
            None => self.host.dma_write(addr, data, grant),
            // Not written at all.
            Some(lie) if lie.how & 0x0e == 0x0e => Ok(()),
            Some(lie) => {
                let mut data = data.to_vec();
                lie.spoil(&mut data);
                self.host.dma_write(addr, &data, grant)
            }
        }
    }

    fn publish(&mut self, addr: u64, word: Word, grant: Grant) -> Result<(), DmaFault> {
        let word = match (self.liar.due(Seam::Card), word) {
            (None, word) => word,
            (Some(lie), Word::U16(v)) => Word::U16(lie.number(v.into()) as u16),
            (Some(lie), Word::U32(v)) => Word::U32(lie.number(v)),
        };
        self.host.publish(addr, word, grant)
    }

    fn msi(&mut self, vector: Vector, grant: Grant) {
        self.host.msi(vector, grant);
    }

    fn intx(&mut self, asserted: bool) {
        self.host.intx(asserted);
    }
}

/// A card in front of which somebody lies.
struct LyingCard {
    layout: FunctionLayout,
    card: Box<dyn PciFunction>,
    liar: Rc<Liar>,
}

impl LyingCard {
    fn with<R>(
        &mut self,
        cx: &mut DevCx<'_>,
        f: impl FnOnce(&mut dyn PciFunction, &mut DevCx<'_>) -> R,
    ) -> R {
        let mut host = LyingHost { host: &mut *cx.host, liar: &self.liar };
        let mut cx =
            DevCx { now: cx.now, actor: cx.actor, rng: &mut *cx.rng, trace: &mut *cx.trace, host: &mut host };
        f(&mut *self.card, &mut cx)
    }
}

impl PciFunction for LyingCard {
    fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn read(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width) -> u64 {
        let value = self.with(cx, |card, cx| card.read(cx, bar, at, width));
        self.liar.due(Seam::Card).map_or(value, |lie| lie.number(value as u32).into())
    }

    fn write(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width, value: u64) {
        self.with(cx, |card, cx| card.write(cx, bar, at, width, value));
    }

    fn config_read(&mut self, cx: &mut DevCx<'_>, at: u16) -> u32 {
        self.with(cx, |card, cx| card.config_read(cx, at))
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, at: u16, value: u32, mask: u32) {
        self.with(cx, |card, cx| card.config_write(cx, at, value, mask));
    }

    fn step(&mut self, cx: &mut DevCx<'_>, budget: Budget) -> Progress {
        self.with(cx, |card, cx| card.step(cx, budget))
    }

    fn reset(&mut self, cx: &mut DevCx<'_>, kind: ResetKind) -> ResetReport {
        self.with(cx, |card, cx| card.reset(cx, kind))
    }
}

fn config() -> RigConfig {
    let mut config = RigConfig::new(1);
    config.chip = ChipConfig { contexts: 4, path_groups: 4, ..ChipConfig::default() };
    config.region = 32;
    // Enough to have something of every kind on the way; more costs executions.
    config.load.max_bytes = 4096;
    config.load.think = Duration::from_millis(10);
    config.record.settings.replacement_timeout = 5;
    config
}

/// The lies are over: a new card, a new session, and nothing left.
fn end(mut rig: Rig) {
    rig.load.borrow_mut().stop();
    let load = rig.load.clone();
    rig.world.pull_card();
    rig.run_ms(2000);
    rig.world.insert_card();
    rig.undo_faults();
    let revoked = Violation::Dma(DmaFault::Revoked);
    assert!(!rig.world.slot().borrow().violations().contains(&revoked), "a revoked grant was used");
    let host = rig.world.host().clone();
    let up = rig.world.run(PATIENCE, |_| host.borrow().adapter.state() == AdapterState::Up);
    assert!(up, "with a new card the adapter is {:?}", rig.state());
    let record = rig.config().record.clone();
    let entries = rig.world.login(&record, 1).expect("a new session logs in");
    assert!(!host.borrow().adapter.disks(entries[0].session).is_empty(), "it has a disk");
    rig.entries = entries;
    let ended = rig.world.run(PATIENCE, |_| load.borrow().outstanding() == 0);
    assert!(ended, "S1: {} requests never end", load.borrow().outstanding());
    rig.world.act(|_, host| {
        host.user = None;
        assert_eq!(load.borrow_mut().release(&mut host.adapter), 0, "R8: buffers are kept");
    });
    let buf = rig.alloc(BLOCK as usize);
    rig.submit(0, Op::Read, 0, &[buf.whole()]).expect("it is ready");
    let (done, _) = rig.completion(PATIENCE).expect("S1: the read ends");
    assert!(done.result.is_ok(), "{done:?}");
    rig.free(buf);
    let left = rig.world.shutdown().expect("the shutdown ends");
    assert_eq!(left.leaked(), 0, "R8: {left:?}");
}

fn lie(seam: Seam, input: &[u8]) {
    let mut c = Cursor::new(input);
    let what = c.byte();
    let liar = Rc::new(Liar { seam, lies: RefCell::default(), passed: Cell::new(0), told: Cell::new(0) });
    let mut config = config();
    let between = liar.clone();
    config.interposer = Some(Interposer(Rc::new(move |card| {
        Box::new(LyingCard { layout: card.layout().clone(), card, liar: between.clone() })
    })));
    let mut rig = Rig::start(config);
    liar.lies.replace(lies(&mut c));
    if what & 1 != 0 {
        // Lies in the recovery.
        rig.world.operate(OperatorRequest::Reset).expect("it is up");
    }
    rig.run_ms(if what & 2 != 0 { 6000 } else { 100 });
    if what & 4 != 0 {
        rig.world.operate(OperatorRequest::InterfaceDown).expect("not shut down");
        rig.world.operate(OperatorRequest::InterfaceUp).expect("not shut down");
        rig.run_ms(3000);
    }
    liar.lies.take();
    end(rig);
}

/// A card whose completions, indexes, data and registers lie to the driver.
pub(super) fn completions(input: &[u8]) {
    lie(Seam::Card, input);
}

/// Memory that lies to the card: work requests, BD lists, page tables, data, each time that they are read.
pub(super) fn memory(input: &[u8]) {
    lie(Seam::Memory, input);
}

/// A guest that writes registers, doorbells and config space beside its own driver.
pub(super) fn registers(input: &[u8]) {
    let mut c = Cursor::new(input);
    let what = c.byte();
    let mut rig = Rig::start(config());
    let mut bus = InProcess(rig.world.slot().clone());
    let bar = Bar(0);
    for _ in 0..ACTS {
        if c.is_empty() {
            break;
        }
        let how = c.byte();
        let value = match how >> 5 {
            0 => 0,
            1 => 1,
            2 => u32::from(c.byte()),
            3 => u32::from(c.u16()),
            // Something that is there: a context's address, a KWQ's CID.
            4 => (0x200 + u32::from(c.byte() & 7)) << 7,
            _ => c.u32(),
        };
        rig.world.act(|cx, _| match how & 0x0f {
            0..=4 => {
                let r = &REGISTERS[usize::from(c.u16()) % REGISTERS.len()];
                match r.space {
                    Space::PciCfg => bus.write32(cx, bar, r.at.into(), value),
                    Space::Grc | Space::Shmem => {
                        bus.write32(cx, bar, regs::PCICFG_REG_WINDOW_ADDRESS.into(), r.at);
                        bus.write32(cx, bar, regs::PCICFG_REG_WINDOW.into(), value);
                    }
                }
            }
            5 => {
                let at = (u64::from(c.u32()) % regs::config_space::BAR0_BYTES) & !3;
                bus.write32(cx, bar, at, value);
            }
            6 => {
                let at = (u64::from(c.u32()) % regs::config_space::BAR0_BYTES) & !1;
                bus.write16(cx, bar, at, value as u16);
            }
            7 | 8 => {
                let cid = c.pick(&[ctx::KWQ_CID, ctx::KCQ_CID, 0x200, 0x202, 0x204, 0x3fff, 16, 2, 20]);
                let offset = c.pick(&[0, 4, 8, 0x40, 0x10]);
                bus.write16(cx, bar, u64::from(doorbell::mailbox(cid) + offset), value as u16);
            }
            9 | 10 => {
                let cid = c.pick(&[ctx::KWQ_CID, ctx::KCQ_CID, 16, 2, 20, 0x200]);
                bus.write32(cx, bar, regs::CTX_CTX_DATA.into(), value);
                let at = ctx::address(cid) + 4 * u32::from(c.byte() % 64);
                bus.write32(cx, bar, regs::CTX_CTX_CTRL.into(), regs::CTX_CTX_CTRL_WRITE_REQ | at);
            }
            11 => {
                let at = (u64::from(c.u32()) % regs::config_space::BAR0_BYTES) & !3;
                assert!(bus.read32(cx, bar, at).is_ok(), "a card in its slot answers");
            }
            12 => {
                let at = u16::from(c.byte()) & 0xfc;
                bus.config_write(cx, at, value);
            }
            _ => {}
        });
        if how & 0x0f > 12 {
            rig.run_ms(u64::from(c.byte()));
        }
    }
    if what & 1 != 0 {
        rig.run_ms(6000);
    }
    end(rig);
}

/// Our own target, with changes to what it says.
struct LyingTarget {
    server: TargetServer,
    host: MemoryPeer,
    conns: Vec<(StreamId, ConnId, Framer, Vec<u8>)>,
    lies: VecDeque<Lie>,
    passed: u16,
}

impl LyingTarget {
    fn step(&mut self, now_ns: u64) {
        let mut events = Vec::new();
        self.host.drain(&mut events);
        for e in events {
            if e == PeerEvent::Incoming {
                while let Some((stream, local, _)) = self.host.accept() {
                    match self.server.connect(&local.to_string(), now_ns) {
                        Ok(id) => {
                            self.conns.push((stream, id, Framer::new(MAX_DATA_SEGMENT_LEN), Vec::new()))
                        }
                        Err(_) => self.host.abort(stream),
                    }
                }
            }
        }
        let mut conns = std::mem::take(&mut self.conns);
        conns.retain_mut(|(stream, id, framer, unsent)| {
            let server = &mut self.server;
            let entropy = &mut |out: &mut [u8]| out.fill(0x5a);
            let got = self.host.recv_with(*stream, |bytes| server.input(*id, now_ns, bytes, entropy));
            if matches!(got, PeerReceived::Fin | PeerReceived::Reset) {
                self.server.closed(*id);
                self.host.close(*stream);
                return false;
            }
            while self.server.work(now_ns).is_some() {}
            let said = self.server.output(*id).to_vec();
            self.server.consume_output(*id, said.len());
            self.speak(framer, &said, unsent);
            let sent = self.host.send(*stream, unsent);
            unsent.drain(..sent);
            if self.server.should_close(*id) && unsent.is_empty() {
                self.server.closed(*id);
                self.host.shutdown(*stream);
                self.host.close(*stream);
                return false;
            }
            true
        });
        self.conns = conns;
        self.server.tick(now_ns);
        while self.server.next_event().is_some() {}
    }

    /// Cuts what was said into PDUs, and changes some.
    fn speak(&mut self, framer: &mut Framer, said: &[u8], out: &mut Vec<u8>) {
        let (mut rest, mut data) = (said, Vec::new());
        while let Some(event) = framer.next(&mut rest).expect("our own target's stream is sound") {
            match event {
                Event::Header => data.clear(),
                Event::Data { bytes, .. } => data.extend_from_slice(bytes),
                Event::End { .. } => {
                    let bhs = *framer.bhs();
                    let lie = self.lies.front().filter(|l| l.gap <= self.passed).cloned();
                    self.passed = if lie.is_some() { 0 } else { self.passed + 1 };
                    match lie {
                        None => put(out, &bhs, &data),
                        Some(lie) => {
                            self.lies.pop_front();
                            change(&lie, bhs, std::mem::take(&mut data), out);
                        }
                    }
                }
            }
        }
    }
}

fn put(out: &mut Vec<u8>, bhs: &Bhs, data: &[u8]) {
    out.extend_from_slice(bhs.wire());
    out.extend_from_slice(data);
    out.resize(out.len() + padding(data.len()), 0);
}

fn change(lie: &Lie, bhs: Bhs, mut data: Vec<u8>, out: &mut Vec<u8>) {
    let mut wire = *bhs.wire();
    match lie.how % 8 {
        // A header with other bytes, and the lengths that it had.
        0..=2 => {
            let at = [1, 2, 3, 8, 16, 17, 20, 24, 28, 32, 36, 37, 40, 44][usize::from(lie.offset) % 14];
            for (b, v) in wire[at..].iter_mut().zip(lie.bytes) {
                *b ^= v;
            }
            put(out, Bhs::from_bytes(&wire), &data);
        }
        // Another opcode, or lengths that do not hold.
        3 => {
            wire[usize::from(lie.offset) % 8] ^= lie.bytes[0];
            put(out, Bhs::from_bytes(&wire), &data);
        }
        4 => {
            lie.spoil(&mut data);
            put(out, &bhs, &data);
        }
        // Said twice, or not at all.
        5 => {
            put(out, &bhs, &data);
            put(out, &bhs, &data);
        }
        6 => {}
        // A PDU that was never asked for.
        _ => {
            let opcode =
                [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f][usize::from(lie.offset) % 10];
            let mut other = wire;
            other[0] = opcode;
            other[1] = lie.bytes[0];
            other[2] = lie.bytes[1];
            other[4..8].fill(0);
            other[36] = lie.bytes[2];
            put(out, Bhs::from_bytes(&other), &[]);
            put(out, &bhs, &data);
        }
    }
}

/// A target that lies to card and driver: in login, bring-up and full feature phase.
pub(super) fn initiator(input: &[u8]) {
    let mut c = Cursor::new(input);
    let what = c.byte();
    let mut rig = Rig::start(config());
    let honest = rig.world.target().expect("embedded").clone();
    honest.borrow_mut().kill();
    let wakes = WakeSet::default();
    let host = rig.world.net().expect("in memory").peer(wakes.register());
    host.listen(PORTAL).expect("nobody else listens");
    let server = rig.config().target();
    let mut target = LyingTarget { server, host, conns: Vec::new(), lies: lies(&mut c), passed: 0 };
    // Two re-logins, in steps of a round trip.
    let steps = if what & 1 == 0 { 400 } else { 1200 };
    for n in 0..steps {
        // Nothing happens in the wait for the next login.
        let idle = target.conns.is_empty() && n > 0;
        rig.world.run_for(if idle { Duration::from_millis(50) } else { Duration::from_micros(500) });
        target.step(rig.world.now().as_nanos());
    }
    target.host.kill();
    drop(target);
    end(rig);
}
