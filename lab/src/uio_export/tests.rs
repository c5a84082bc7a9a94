use std::cell::RefCell;
use std::rc::Rc;

use bus::inproc::{CardActor, InProcess, Slot, SlotConfig};
use bus::port::port;
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::uio::socket::UioClient;
use bus::uio::{BUFFER_BYTES, OpenRefused, RX_BUFFERS, UioMaps, Value};
use bus::wake::WakeSet;
use driver::adapter::{Adapter, AdapterPorts, AdapterState, OperatorRequest};
use driver::config::DriverConfig;
use hw_model::bcm5709::{Bcm5709, Card};
use hw_model::config::ChipConfig;
use hw_model::fault::Faults;
use hw_model::tcp::host::HostTcp;
use hw_model::wire::Responder;
use os::reactor::Reactor;

use super::*;

/// Adapter, card and export in one thread, in a time of their own; the helper is the test.
struct Rig {
    adapter: Adapter<InProcess>,
    card: CardActor,
    export: UioExport,
    slot: Rc<RefCell<Slot>>,
    reactor: Reactor,
    now: Instant,
    rng: Seeded,
    path: std::path::PathBuf,
    _iscsid: (PortTx<driver::control::ToAdapter>, PortRx<driver::control::FromAdapter>),
}

/// A helper: its end of the socket and what it was told.
struct Helper {
    channel: Channel,
    client: UioClient,
    heard: Vec<ToHelper>,
}

impl Rig {
    fn new(name: &str, shareable: bool) -> Self {
        let path = std::env::temp_dir().join(format!("cnic-uio-{name}-{}", std::process::id()));
        let reactor = Reactor::new().unwrap();
        let wakes = WakeSet::default();
        let chip =
            Bcm5709::new(ChipConfig::default(), Faults::default(), HostTcp::new(reactor.owner().unwrap()));
        let card = Card::new(chip.with_wire(Responder::default()));
        let config = SlotConfig { strict: true, shareable, ..SlotConfig::default() };
        let slot =
            Slot::new(config, ActorId::new("card", 0), Box::new(card), wakes.register(), wakes.register());
        let (iscsid, control_in) = port("control-in", 64, wakes.register());
        let (control_out, said) = port("control-out", 64, wakes.register());
        let (to_adapter, path_in) = port("path-in", 4, wakes.register());
        let helper_wake = wakes.register();
        let (path_out, from_adapter) = port("path-out", 64, helper_wake.clone());
        let ports = AdapterPorts { control_in, control_out, path_in, path_out, helper_wake };
        let name = ActorId::new("adapter", 0);
        let adapter = Adapter::new(name, InProcess(slot.clone()), DriverConfig::default(), ports).unwrap();
        let listener = ChannelListener::bind(&path).unwrap();
        let export = UioExport::new(listener, reactor.owner().unwrap(), from_adapter, to_adapter).unwrap();
        let mut rig = Self {
            adapter,
            card: CardActor(slot.clone()),
            export,
            slot,
            reactor,
            now: Instant::ZERO,
            rng: Seeded::new(1),
            path,
            _iscsid: (iscsid, said),
        };
        rig.request(OperatorRequest::InterfaceUp);
        rig.run(300);
        assert_eq!(rig.adapter.state(), AdapterState::Up);
        rig
    }

    fn request(&mut self, request: OperatorRequest) {
        let mut trace = Trace::off();
        let actor = ActorId::new("test", 0);
        let mut cx = Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut trace };
        self.adapter.request(&mut cx, request).unwrap();
    }

    /// So many milliseconds of the world's time.
    fn run(&mut self, ms: u32) {
        let mut trace = Trace::off();
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.reactor.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
            let actor = ActorId::new("test", 0);
            let mut cx = Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut trace };
            for _ in 0..4 {
                self.export.step(&mut cx, Budget(64));
                self.adapter.step(&mut cx, Budget(64));
                self.card.step(&mut cx, Budget(64));
            }
        }
    }

    /// One step of the export alone, after what the kernel has to say.
    fn step_export(&mut self) -> Progress {
        self.reactor.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        let mut trace = Trace::off();
        let actor = ActorId::new("test", 0);
        let mut cx = Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut trace };
        self.export.step(&mut cx, Budget(64))
    }

    fn helper(&mut self) -> Helper {
        let channel = Channel::connect(&self.path).unwrap();
        let mut helper = Helper { channel, client: UioClient::default(), heard: Vec::new() };
        helper.say(self, FromHelper::Hello);
        helper
    }
}

impl Helper {
    fn say(&mut self, rig: &mut Rig, message: FromHelper) {
        self.client.say(&message).unwrap();
        self.client.outbox.flush(&self.channel).unwrap();
        rig.run(20);
        self.listen();
    }

    fn listen(&mut self) {
        loop {
            let (mut bytes, mut fds) = ([0; 256], Vec::new());
            match self.channel.recv(&mut bytes, &mut fds).unwrap() {
                Received::Bytes(n) => self.client.received(&bytes[..n], fds, &mut self.heard).unwrap(),
                _ => return,
            }
        }
    }

    fn open(&mut self, rig: &mut Rig) -> UioMaps {
        self.say(rig, FromHelper::Open);
        match self.heard.pop() {
            Some(ToHelper::Opened(maps)) => maps,
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, rig: &mut Rig, maps: &UioMaps, at: u32, value: Value) {
        self.say(rig, FromHelper::Write { generation: maps.generation, at, value });
    }
}

/// An ARP request of the offload MAC, sent and answered through memory that two mappings share.
#[test]
fn a_helper_behind_the_socket_exchanges_frames_with_the_card() {
    let mut rig = Rig::new("frames", true);
    let mut helper = rig.helper();
    let Some(ToHelper::IfUp { mac, mtu: 1500 }) = helper.heard.pop() else { panic!("{:?}", helper.heard) };
    let maps = helper.open(&mut rig);
    let (tx, rx) = (0x11400, 0x10200);
    helper.write(&mut rig, &maps, rx + 4, Value::U16(RX_BUFFERS as u16));
    helper.write(&mut rig, &maps, rx + 8, Value::U32(0xc00));
    helper.write(&mut rig, &maps, 0x1828, Value::U32(1 << 31 | 1 << 16 | 1 << 17 | 4));
    let mut arp = [[0xff; 6].as_slice(), &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac].concat();
    arp.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    arp.resize(60, 0);
    maps.buffers.write(0, &arp);
    maps.ring.write(8, &60_u32.to_le_bytes());
    maps.ring.write(12, &0xc0_u32.to_le_bytes());
    helper.write(&mut rig, &maps, tx + 0x88, Value::U16(1));
    assert!(!helper.client.take_events());
    helper.write(&mut rig, &maps, tx + 0x90, Value::U32(60));
    assert!(helper.client.take_events() && maps.events.get() == 1);
    assert_eq!((maps.status.load16(14), maps.status.load16(22)), (1, 1));
    let mut frame = [0; 42];
    maps.buffers.read(BUFFER_BYTES + 18, &mut frame);
    assert_eq!((&frame[..6], &frame[6..12], frame[21]), (&mac[..], &Responder::mac_of([10, 0, 0, 2])[..], 2));
    assert_eq!(rig.slot.borrow().violations(), []);

    // Going down waits for the close, which comes through the socket.
    rig.request(OperatorRequest::Reset);
    rig.run(100);
    helper.listen();
    assert!(matches!(helper.heard[..], [ToHelper::IfDown]), "{:?}", helper.heard);
    assert_eq!(rig.adapter.state(), AdapterState::GoingDown);
    helper.say(&mut rig, FromHelper::Close { generation: maps.generation });
    assert_ne!(rig.adapter.state(), AdapterState::GoingDown);
    rig.run(300);
    helper.listen();
    assert!(matches!(helper.heard[1..], [ToHelper::IfUp { .. }]), "{:?}", helper.heard);
    assert_eq!(rig.adapter.counters().helper_not_closed, 0);
}

#[test]
fn a_helper_that_dies_has_closed_and_the_next_one_finds_everything() {
    let mut rig = Rig::new("dies", true);
    let mut first = rig.helper();
    first.open(&mut rig);
    let mut second = rig.helper();
    assert!(second.heard.is_empty(), "one at a time");
    drop(first);
    rig.run(20);
    second.listen();
    assert!(matches!(second.heard[..], [ToHelper::IfUp { .. }]));
    let maps = second.open(&mut rig);
    assert_eq!((maps.generation, rig.export.counters().helpers), (2, 2));
    drop(second);
    rig.run(20);
    rig.request(OperatorRequest::Reset);
    rig.run(50);
    assert_eq!(rig.adapter.counters().resets, 2, "nobody has to be waited for");
}

#[test]
fn who_waited_in_the_queue_is_accepted_without_another_event() {
    let mut rig = Rig::new("queue", true);
    let first = rig.helper();
    let _second = Channel::connect(&rig.path).unwrap();
    rig.run(5);
    assert_eq!(rig.export.counters().helpers, 1);
    drop(first);
    let mut p = rig.step_export();
    assert!(!rig.export.attached());
    // As a runner does: again when the actor has asked for it, and not otherwise.
    for _ in 0..4 {
        if p.next.is_some_and(|at| at <= rig.now) {
            p = rig.step_export();
        }
    }
    assert_eq!((rig.export.attached(), rig.export.counters().helpers), (true, 2));
    assert!(p.next.is_none_or(|at| at > rig.now), "and then it rests");
}

#[test]
fn a_helper_that_makes_no_sense_or_takes_nothing_is_dropped() {
    let mut rig = Rig::new("nonsense", true);
    let helper = rig.helper();
    helper.channel.send(&[0xff; 64], &[]).unwrap();
    rig.run(20);
    assert_eq!((rig.export.attached(), rig.export.counters().malformed), (false, 1));
    // It opens again and again, and reads nothing.
    let mut deaf = rig.helper();
    for _ in 0..200_000 {
        if rig.export.counters().slow == 1 {
            break;
        }
        deaf.client.say(&FromHelper::Hello).unwrap();
        if deaf.client.outbox.flush(&deaf.channel).is_err() {
            break;
        }
        rig.run(1);
    }
    assert_eq!((rig.export.counters().slow, rig.export.attached()), (1, false));
    assert!(!rig.helper().heard.is_empty(), "the next one is served");
}

#[test]
fn memory_that_cannot_be_shared_refuses_the_open_and_leaves_nothing_open() {
    let mut rig = Rig::new("heap", false);
    let mut helper = rig.helper();
    helper.say(&mut rig, FromHelper::Open);
    assert!(matches!(helper.heard.last(), Some(ToHelper::OpenRefused(OpenRefused::NoMemory))));
    rig.request(OperatorRequest::Reset);
    rig.run(50);
    assert_eq!(rig.adapter.counters().resets, 2);
}
