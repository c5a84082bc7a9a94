//! The echo card on another core: what a doorbell and a ring entry cost when the slot is a vfio-user socket
//! with mapped pages, and what the machine itself needs for less.
//!
//! The card's thread never parks and looks at the socket once in many turns, as a chip under load does.
// Whoever measures starts threads and reads clocks.
#![allow(clippy::disallowed_methods, reason = "a measurement needs two cores and a clock")]

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use bus::mem::DmaBuf;
use bus::pci::{Doorbell, Platform};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::vfio_user::client::{Client, ClientConfig};
use bus::vfio_user::doorbell::DoorbellLayout;
use bus::vfio_user::link::SocketLink;
use bus::vfio_user::server::{Counters, Server};
use bus::vfio_user::version::Capabilities;
use bus::{ActorId, Budget, Cx, Instant};
use os::unix::Channel;

use bus::config::{COMMAND_BUS_MASTER, COMMAND_MEMORY};

use crate::echo::{BAR, COMMAND, DOORBELL, ENTRIES, ENTRY, Echo, HOST, LAST, RINGS_AT};

/// Turns of the card between two looks at the socket.
const TURNS: u32 = 1024;

/// A word on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU32);

/// Host and card of the echo, on two threads.
pub struct FarPair {
    client: Client<SocketLink>,
    rings: DmaBuf,
    doorbell: Doorbell,
    producer: u16,
    consumer: u16,
    rng: Seeded,
    trace: Trace,
    stop: Arc<AtomicBool>,
    card: Option<JoinHandle<Counters>>,
}

impl Default for FarPair {
    fn default() -> Self {
        Self::new()
    }
}

impl FarPair {
    /// A card that is awake, and rings.
    ///
    /// # Panics
    /// When the machine has no descriptors or memory left.
    #[must_use]
    pub fn new() -> Self {
        let (near, far) = Channel::pair().expect("sockets");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let card = std::thread::spawn(move || serve(SocketLink::new(far), &stopped));
        let (mut rng, mut trace) = (Seeded::new(1), Trace::off());
        let now = Instant::from_nanos(os::clock::now_ns());
        let mut cx = Cx { now, actor: HOST, rng: &mut rng, trace: &mut trace };
        let config = ClientConfig { dma_limit: 1 << 20, ..ClientConfig::default() };
        let mut client = Client::attach(&mut cx, SocketLink::new(near), config).expect("the card answers");
        client.config_write(&mut cx, COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER);
        let rings = client.dma_alloc(2 * usize::from(ENTRIES) * ENTRY, "echo rings").expect("memory");
        client.write32(&mut cx, BAR, RINGS_AT, (rings.addr() >> 12) as u32);
        let doorbell = client.map_doorbell(BAR, DOORBELL);
        let mut pair =
            Self { client, rings, doorbell, producer: 0, consumer: 0, rng, trace, stop, card: Some(card) };
        // The first ring of a word is a message, and an idle page is looked at now and then only.
        (0..8).for_each(|_| pair.round(1));
        pair
    }

    /// Stores the same index in the doorbell page, `times` over: what a doorbell costs the host.
    pub fn ring(&mut self, times: u64) {
        let mut cx = Cx { now: Instant::ZERO, actor: HOST, rng: &mut self.rng, trace: &mut self.trace };
        for _ in 0..times {
            self.client.doorbell(&mut cx, self.doorbell, 0, black_box(self.producer));
        }
    }

    /// Posts `batch` entries, rings once, and reaps the answers as the card on the other core gives them.
    ///
    /// # Panics
    /// When an answer is not the entry that was posted.
    pub fn round(&mut self, batch: u16) {
        for _ in 0..batch {
            let mut entry = [0x5a; ENTRY];
            entry[..2].copy_from_slice(&self.producer.to_le_bytes());
            self.rings.write(usize::from(self.producer % ENTRIES) * ENTRY, &entry);
            self.producer = self.producer.wrapping_add(1);
        }
        self.ring(1);
        for _ in 0..batch {
            let at = usize::from(ENTRIES + self.consumer % ENTRIES) * ENTRY;
            let next = self.consumer.wrapping_add(1);
            while self.rings.load32(at + LAST) != u32::from(next) {
                spin_loop();
            }
            let mut entry = [0; ENTRY];
            self.rings.read(at, &mut entry);
            assert_eq!(entry[..2], self.consumer.to_le_bytes(), "it is the entry that was posted");
            self.consumer = next;
        }
    }

    /// Ends the card, and says what it counted.
    ///
    /// # Panics
    /// When its thread did.
    pub fn end(mut self) -> Counters {
        self.stop.store(true, Ordering::Release);
        self.card.take().expect("it ends once").join().expect("the card ends")
    }
}

impl Drop for FarPair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn serve(mut link: SocketLink, stop: &AtomicBool) -> Counters {
    let layout = DoorbellLayout { bar: BAR, at: DOORBELL, pages: 1, words: vec![0] };
    let name = ActorId::new("echo", 0);
    let server = Server::new(name, Box::new(Echo::new()), Capabilities::default(), Some(layout));
    let mut server = server.expect("descriptors");
    let (mut rng, mut trace) = (Seeded::new(2), Trace::off());
    let mut cx = Cx { now: Instant::ZERO, actor: name, rng: &mut rng, trace: &mut trace };
    server.attach(&mut cx);
    loop {
        let (out, into) = server.queues();
        let gone = link.exchange(out, into).is_none();
        server.pump(&mut cx);
        if gone || stop.load(Ordering::Acquire) {
            return server.counters();
        }
        for _ in 0..TURNS {
            server.step(&mut cx, Budget(64), Some(&mut link));
            spin_loop();
        }
    }
}

/// How long `times` plain stores take.
#[must_use]
pub fn plain_stores(times: u64) -> Duration {
    let word = AtomicU64::new(0);
    let start = Clock::now();
    for i in 0..times {
        black_box(&word).store(black_box(i), Ordering::Release);
    }
    start.elapsed()
}

/// How long a cache line takes to another core and back, `rounds` times.
///
/// # Panics
/// When there is no thread.
#[must_use]
pub fn ping_pong(rounds: u32) -> Duration {
    let lines = Arc::new([Line::default(), Line::default()]);
    let far = lines.clone();
    let echo = std::thread::spawn(move || answer(&far, rounds));
    let start = Clock::now();
    (1..=rounds).for_each(|i| pass(&lines, i));
    let elapsed = start.elapsed();
    echo.join().expect("the echo ends by itself");
    elapsed
}

/// The same in bursts of `rounds`: on a busy machine some of them are not disturbed.
///
/// # Panics
/// When there is no thread.
#[must_use]
pub fn ping_pong_bursts(bursts: u32, rounds: u32) -> Vec<Duration> {
    let lines = Arc::new([Line::default(), Line::default()]);
    let far = lines.clone();
    let echo = std::thread::spawn(move || answer(&far, bursts * rounds));
    let burst = |b| {
        let start = Clock::now();
        (1..=rounds).for_each(|i| pass(&lines, b * rounds + i));
        start.elapsed()
    };
    let all = (0..bursts).map(burst).collect();
    echo.join().expect("the echo ends by itself");
    all
}

fn pass(lines: &[Line; 2], i: u32) {
    lines[0].0.store(i, Ordering::Release);
    while lines[1].0.load(Ordering::Acquire) != i {
        spin_loop();
    }
}

fn answer(lines: &[Line; 2], rounds: u32) {
    for i in 1..=rounds {
        while lines[0].0.load(Ordering::Acquire) != i {
            spin_loop();
        }
        lines[1].0.store(i, Ordering::Release);
    }
}
