//! A trace file for people: every event of a run on a time line, for ui.perfetto.dev or chrome://tracing.
//!
//! A sink of [`bus::trace`] that writes the trace event format. Each actor is a process; its lanes are
//! registers, doorbells, DMA, control queues, events, and one lane per connection and session. What lasts is
//! drawn as a bar: the state of adapter and sessions, a block request from submit to completion, and a task
//! from its WQE to its CQE, on either side of the slot. Resets, what an operator does, and a card that is
//! pulled cut across all lanes. Steps of actors are left out.
//!
//! Events go to the file in batches, and after each batch the file is whole: it is valid JSON whatever ends
//! the process, even SIGKILL. A batch is at most [`FLUSH_AFTER`] of the run's time old when the next event
//! comes. A full disk ends the file, whole as well, and not the run. Memory does not grow with the length of
//! the run.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bus::trace::{Event, EventKind, Sink};
use bus::{ActorId, Instant};
use hsi::iscsi::cq::CqOpcode;
use hsi::iscsi::sq::SqOpcode;
use hsi::kernel::kcq::IscsiKcqeOpcode;
use hsi::kernel::kwq::{IscsiKwqeOpcode, L2KwqeOpcode, Layer};
use hsi::kernel::l4::{L4KcqeOpcode, L4KwqeOpcode};
use hw_model::bcm5709::regs::{REGISTERS, Space};
use hw_model::fault::FaultPoint;
use iscsi::pdu::Opcode;
use serde::Serialize;

/// How old a batch gets.
pub const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// Bytes of a file at most; then it ends as if the disk were full.
pub const FILE_LIMIT: u64 = 4 << 30;
/// Bytes of a batch.
const BATCH: usize = 64 * 1024;
/// Bars that are open at once, and lanes, at most: far more than a card has tasks and connections. Beyond, an
/// event is drawn as a moment, in the actor's lane of events.
const OPEN: usize = 64 * 1024;
const LANES: usize = 4096;

const HEAD: &[u8] = b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
const TAIL: &[u8] = b"\n]}\n";

const REGISTER: u32 = 1;
const DOORBELL: u32 = 2;
const DMA: u32 = 3;
const CONTROL: u32 = 4;
const EVENTS: u32 = 5;
const STATE: u32 = 6;
const SESSION: u32 = 100;
const CONNECTION: u32 = 10_000;

/// A handle on a trace file. See the module.
#[derive(Clone)]
pub struct Perfetto(Rc<RefCell<Writer>>);

struct Writer {
    file: File,
    /// Where the tail stands.
    end: u64,
    batch: Vec<u8>,
    due: Option<Instant>,
    events: u64,
    failure: Option<io::Error>,
    empty: bool,
    /// Processes: the actors that were seen.
    actors: BTreeMap<ActorId, u32>,
    lanes: BTreeSet<(u32, u32)>,
    /// Lanes with a state that lasts.
    states: BTreeSet<(u32, u32)>,
    /// Requests and tasks under way.
    open: BTreeSet<Bar>,
    registers: BTreeMap<u64, &'static str>,
}

/// Something that lasts and overlaps with others of its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bar {
    pid: u32,
    kind: &'static str,
    id: u64,
}

/// One event of the file.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    ph: &'static str,
    pid: u32,
    tid: u32,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    args: BTreeMap<&'static str, Value>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Text(String),
}

fn hex(v: u64) -> Value {
    Value::Text(format!("{v:#x}"))
}

impl Perfetto {
    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be written, or not at any place (a pipe).
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = os::file::create_private(path)?;
        file.write_all_at(&[HEAD, TAIL].concat(), 0)?;
        let named = REGISTERS.iter().filter(|r| r.space != Space::Shmem);
        Ok(Self(Rc::new(RefCell::new(Writer {
            file,
            end: HEAD.len() as u64,
            batch: Vec::with_capacity(BATCH + 4096),
            due: None,
            events: 0,
            failure: None,
            empty: true,
            actors: BTreeMap::new(),
            lanes: BTreeSet::new(),
            states: BTreeSet::new(),
            open: BTreeSet::new(),
            registers: named.map(|r| (u64::from(r.at), r.name)).collect(),
        }))))
    }

    /// The sink that fills it.
    #[must_use]
    pub fn sink(&self) -> Sink {
        let writer = self.0.clone();
        Box::new(move |event| writer.borrow_mut().take(event))
    }

    /// Writes what is still on its way, and says how many events the file has.
    ///
    /// # Errors
    /// The file ends before the run did.
    pub fn finish(&self) -> io::Result<u64> {
        let mut writer = self.0.borrow_mut();
        writer.flush();
        match writer.failure.take() {
            Some(e) => Err(e),
            None => Ok(writer.events),
        }
    }
}

impl Writer {
    fn take(&mut self, e: &Event) {
        if self.failure.is_some() || e.kind == EventKind::Step {
            return;
        }
        if self.due.is_some_and(|at| at <= e.time) || self.batch.len() >= BATCH {
            self.flush();
        }
        self.due.get_or_insert(e.time + FLUSH_AFTER);
        self.events += 1;
        let pid = self.process(e.actor);
        match e.kind {
            EventKind::Step => {}
            EventKind::RegisterRead | EventKind::RegisterWrite => {
                let verb = if e.kind == EventKind::RegisterRead { "read" } else { "write" };
                let name = match self.registers.get(&e.a) {
                    Some(name) => format!("{verb} {name}"),
                    None => format!("{verb} {:#x}", e.a),
                };
                self.moment(e, pid, REGISTER, &name, [("offset", hex(e.a)), ("value", hex(e.b))]);
            }
            EventKind::Doorbell => {
                let name = format!("doorbell {:#x}", e.a);
                self.moment(e, pid, DOORBELL, &name, [("offset", hex(e.a)), ("value", hex(e.b))]);
            }
            EventKind::DmaRead | EventKind::DmaWrite => {
                let name = if e.kind == EventKind::DmaRead { "DMA read" } else { "DMA write" };
                self.moment(e, pid, DMA, name, [("address", hex(e.a)), ("bytes", Value::Number(e.b))]);
            }
            EventKind::Publish => {
                self.moment(e, pid, DMA, "publish", [("address", hex(e.a)), ("value", hex(e.b))]);
            }
            EventKind::DmaRefused => {
                let causes = ["?", "revoked", "unmapped", "not lent", "no bus master", "removed"];
                let cause = causes.get(e.b as usize).copied().unwrap_or("?").to_owned();
                self.moment(
                    e,
                    pid,
                    DMA,
                    "DMA refused",
                    [("address", hex(e.a)), ("cause", Value::Text(cause))],
                );
            }
            EventKind::Interrupt => {
                self.moment(e, pid, EVENTS, "interrupt", [("vector", Value::Number(e.a))])
            }
            EventKind::Reset => {
                let how = ["device", "function level", "client gone", "register write"];
                let how = how.get(e.a as usize).copied().unwrap_or("?");
                self.cut(e, pid, &format!("reset: {how}"), [("epoch", Value::Number(e.b))]);
                self.close_tasks(e);
            }
            EventKind::Removal => {
                self.cut(e, pid, if e.a == 1 { "card removed" } else { "card inserted" }, []);
            }
            EventKind::Operator => self.cut(e, pid, "operator", numbers(e)),
            EventKind::Kwqe | EventKind::Kcqe => {
                let name = control_name(e.kind, (e.a >> 8) as u8, e.a as u8);
                self.moment(e, pid, CONTROL, &name, [("cid", hex(e.b))]);
            }
            EventKind::Wqe => self.task(e, pid, "WQE", format!("{:?}", SqOpcode(e.a as u8))),
            EventKind::Cqe => self.task(e, pid, "CQE", format!("{:?}", CqOpcode(e.a as u8))),
            EventKind::PduOut | EventKind::PduIn => {
                let way = if e.kind == EventKind::PduOut { "out" } else { "in" };
                let opcode = e.a as u8 & 0x3f;
                let name = match Opcode::from_code(opcode) {
                    Some(opcode) => format!("PDU {way} {opcode:?}"),
                    None => format!("PDU {way} {opcode:#x}"),
                };
                let itt = hex(e.b & 0xffff_ffff);
                self.moment(e, pid, CONNECTION + (e.b >> 32) as u32, &name, [("itt", itt)]);
            }
            EventKind::Submit => {
                self.begin(e, pid, "request", e.a, "request", [("bytes", Value::Number(e.b))])
            }
            EventKind::Complete => {
                self.end(e, pid, "request", e.a, "request", [("error", Value::Number(e.b))])
            }
            EventKind::Session => {
                let lane = SESSION + (e.a as u32).min(CONNECTION - SESSION - 1);
                // What the adapter says of a session, and the daemon's stages, which are its own business.
                let state = match (e.actor.kind, e.b) {
                    ("adapter", 0 | 4) => "not connected",
                    ("adapter", 1) => "gone",
                    ("adapter", 2) => "bringing up",
                    ("adapter", 3) => "connection lost",
                    ("adapter", 6) => "offline",
                    ("adapter", 8) => "ready",
                    (_, n) => return self.state(e, pid, lane, &format!("stage {n}")),
                };
                self.state(e, pid, lane, state);
            }
            EventKind::Adapter => {
                let states = ["down", "starting", "up", "going down", "resetting", "failed", "gone"];
                self.state(e, pid, STATE, states.get(e.a as usize).copied().unwrap_or("?"));
            }
            EventKind::Fault => {
                let point = FaultPoint::ALL.iter().find(|p| **p as u64 == e.a);
                let name = format!("fault {}", point.map_or("?", |p| p.name()));
                self.cut(e, pid, &name, [("hit", Value::Number(e.b))]);
            }
            EventKind::Revoke => self.moment(e, pid, EVENTS, "revoke", [("epoch", Value::Number(e.a))]),
            EventKind::Timeout => self.moment(e, pid, EVENTS, "timeout", numbers(e)),
            EventKind::Dropped => self.moment(e, pid, EVENTS, "dropped", numbers(e)),
        }
    }

    /// The process of an actor.
    fn process(&mut self, actor: ActorId) -> u32 {
        if let Some(&pid) = self.actors.get(&actor) {
            return pid;
        }
        let pid = self.actors.len() as u32 + 1;
        self.actors.insert(actor, pid);
        self.meta(pid, 0, "process_name", actor.to_string());
        pid
    }

    /// The lane, named when it is new.
    fn lane(&mut self, pid: u32, lane: u32) -> u32 {
        if self.lanes.contains(&(pid, lane)) {
            return lane;
        }
        if self.lanes.len() >= LANES {
            return EVENTS;
        }
        self.lanes.insert((pid, lane));
        let name = match lane {
            REGISTER => "registers".to_owned(),
            DOORBELL => "doorbells".to_owned(),
            DMA => "DMA".to_owned(),
            CONTROL => "KWQ and KCQ".to_owned(),
            EVENTS => "events".to_owned(),
            STATE => "state".to_owned(),
            CONNECTION.. => format!("connection {}", lane - CONNECTION),
            _ => format!("session {}", lane - SESSION),
        };
        self.meta(pid, lane, "thread_name", name);
        lane
    }

    fn meta(&mut self, pid: u32, tid: u32, name: &str, value: String) {
        let args = BTreeMap::from([("name", Value::Text(value))]);
        self.write(&Line { name, ph: "M", pid, tid, ts: 0.0, s: None, cat: None, id: None, args });
    }

    fn moment<const N: usize>(
        &mut self,
        e: &Event,
        pid: u32,
        lane: u32,
        name: &str,
        args: [(&'static str, Value); N],
    ) {
        let tid = self.lane(pid, lane);
        self.line(e, "i", pid, tid, name, Some("t"), None, args);
    }

    /// A moment that concerns everybody.
    fn cut<const N: usize>(&mut self, e: &Event, pid: u32, name: &str, args: [(&'static str, Value); N]) {
        let tid = self.lane(pid, EVENTS);
        self.line(e, "i", pid, tid, name, Some("g"), None, args);
    }

    /// A state that lasts until the next one of its lane.
    fn state(&mut self, e: &Event, pid: u32, lane: u32, name: &str) {
        let tid = self.lane(pid, lane);
        if !self.states.insert((pid, tid)) {
            self.line(e, "E", pid, tid, "", None, None, []);
        }
        self.line(e, "B", pid, tid, name, None, None, []);
    }

    /// A WQE begins a task, the CQE of the same tag ends it.
    fn task(&mut self, e: &Event, pid: u32, what: &str, opcode: String) {
        let (connection, itt) = ((e.b >> 16) as u32, e.b & 0xffff);
        self.moment(e, pid, CONNECTION + connection, &format!("{what} {opcode}"), [("itt", hex(itt))]);
        // The tag of a task is its index; the two bits above say what kind it is.
        let id = e.b & !0xc000;
        if e.kind == EventKind::Wqe {
            self.begin(e, pid, "task", id, &opcode, [("itt", hex(itt))]);
        } else {
            self.end(e, pid, "task", id, &opcode, []);
        }
    }

    fn begin<const N: usize>(
        &mut self,
        e: &Event,
        pid: u32,
        kind: &'static str,
        id: u64,
        name: &str,
        args: [(&'static str, Value); N],
    ) {
        let bar = Bar { pid, kind, id };
        if self.open.len() < OPEN && self.open.insert(bar) {
            self.line(e, "b", pid, EVENTS, name, None, Some(bar), args);
        }
    }

    fn end<const N: usize>(
        &mut self,
        e: &Event,
        pid: u32,
        kind: &'static str,
        id: u64,
        name: &str,
        args: [(&'static str, Value); N],
    ) {
        let bar = Bar { pid, kind, id };
        if self.open.remove(&bar) {
            self.line(e, "e", pid, EVENTS, name, None, Some(bar), args);
        }
    }

    /// A reset ends every task, and no CQE will say so.
    fn close_tasks(&mut self, e: &Event) {
        let tasks: Vec<Bar> = self.open.iter().filter(|b| b.kind == "task").copied().collect();
        for bar in tasks {
            self.open.remove(&bar);
            let args = [("ended by", Value::Text("reset".to_owned()))];
            self.line(e, "e", bar.pid, EVENTS, "", None, Some(bar), args);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a line, in one place")]
    fn line<const N: usize>(
        &mut self,
        e: &Event,
        ph: &'static str,
        pid: u32,
        tid: u32,
        name: &str,
        s: Option<&'static str>,
        bar: Option<Bar>,
        args: [(&'static str, Value); N],
    ) {
        let ts = e.time.as_nanos() as f64 / 1e3;
        let id = bar.map(|b| format!("{}.{:x}", b.pid, b.id));
        let args = BTreeMap::from(args);
        self.write(&Line { name, ph, pid, tid, ts, s, cat: bar.map(|b| b.kind), id, args });
    }

    fn write(&mut self, line: &Line<'_>) {
        if !std::mem::take(&mut self.empty) {
            self.batch.extend(b",\n");
        }
        // It fails for maps whose keys are no text.
        let _ = serde_json::to_writer(&mut self.batch, line);
    }

    fn flush(&mut self) {
        self.due = None;
        let bytes = self.batch.len() as u64;
        self.batch.extend(TAIL);
        let written = if self.end + bytes > FILE_LIMIT {
            Err(io::Error::other("a trace has 4 GiB at most"))
        } else {
            self.file.write_all_at(&self.batch, self.end)
        };
        match written {
            Ok(()) => self.end += bytes,
            Err(e) => {
                self.failure = Some(e);
                // The tail stood here before, so there is room for it.
                let _ = self.file.set_len(self.end).and_then(|()| self.file.write_all_at(TAIL, self.end));
            }
        }
        self.batch.clear();
    }
}

fn numbers(e: &Event) -> [(&'static str, Value); 2] {
    [("what", Value::Number(e.a)), ("id", Value::Number(e.b))]
}

fn control_name(kind: EventKind, layer: u8, opcode: u8) -> String {
    match (kind, Layer(layer)) {
        (EventKind::Kwqe, Layer::ISCSI) => format!("KWQE {:?}", IscsiKwqeOpcode(opcode)),
        (EventKind::Kwqe, Layer::L4) => format!("KWQE {:?}", L4KwqeOpcode(opcode)),
        (EventKind::Kwqe, Layer::L2) => format!("KWQE {:?}", L2KwqeOpcode(opcode)),
        (EventKind::Kcqe, Layer::ISCSI) => format!("KCQE {:?}", IscsiKcqeOpcode(opcode)),
        (EventKind::Kcqe, Layer::L4) => format!("KCQE {:?}", L4KcqeOpcode(opcode)),
        (_, layer) => format!("{kind:?} {layer:?} {opcode:#x}"),
    }
}
