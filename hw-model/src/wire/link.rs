//! The virtual link: a cable between two ends in this process, as good or as bad as one wants.
//!
//! Each direction has a rate, a delay, and probabilities of harm; everything can be changed while it runs,
//! through [`LinkControl`]. A link is a pure function of what is sent, of time, and of the world's named
//! random streams: an effect that is switched off draws nothing. An end is the card's [`Wire`], and also a
//! host's. By default a link is perfect and takes no time.
//!
//! Frames arrive in the order in which they were sent, also with jitter, unless they are reordered: then a
//! frame is held back, and others pass it. A corrupted frame is damaged in one bit. [`Direction::fcs`] says
//! whether its MAC notices that: if so, the frame is dropped like a lost one. Not modelled: half duplex,
//! pause frames, autonegotiation.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bus::Instant;
use bus::pci::DevCx;
use bus::streams::{StreamName, Streams};
use bus::wake::Wake;
use serde::{Deserialize, Serialize};

use super::{LARGEST_FRAME, Wire};
use crate::ether;

/// Bytes on the wire around a frame: preamble, FCS, gap.
const AROUND: u64 = 24;

/// A probability of 1, in the unit of [`Direction`].
pub const CERTAIN: u32 = 1_000_000;

/// What one direction does to frames. Probabilities are in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direction {
    /// Bits per second; 0 for no limit.
    pub rate: u64,
    /// Nanoseconds that every frame takes.
    pub delay_ns: u64,
    /// Nanoseconds that a frame takes longer, at most; the order stays.
    pub jitter_ns: u64,
    /// Frames that vanish.
    pub loss: u32,
    /// Frames that arrive twice.
    pub duplicate: u32,
    /// Frames that are damaged.
    pub corrupt: u32,
    /// Damaged frames are noticed by the receiving MAC, which drops them.
    pub fcs: bool,
    /// Frames that others pass.
    pub reorder: u32,
    /// Nanoseconds that such a frame is held back.
    pub reorder_ns: u64,
    /// Longest datagram, in bytes; longer ones vanish.
    pub mtu: u32,
    /// Frames on their way at most; more are dropped.
    pub queue: u32,
}

impl Default for Direction {
    fn default() -> Self {
        Self {
            rate: 0,
            delay_ns: 0,
            jitter_ns: 0,
            loss: 0,
            duplicate: 0,
            corrupt: 0,
            fcs: false,
            reorder: 0,
            reorder_ns: 50_000,
            mtu: (LARGEST_FRAME - ether::HEADER - ether::VLAN_TAG) as u32,
            queue: 16384,
        }
    }
}

/// What a link is made with: what the card sends, and what it receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// From the card.
    pub up: Direction,
    /// To the card.
    pub down: Direction,
}

impl LinkConfig {
    /// The same in both directions.
    #[must_use]
    pub fn both(direction: Direction) -> Self {
        Self { up: direction, down: direction }
    }
}

/// What one direction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames sent into it.
    pub sent: u64,
    /// Frames that came out.
    pub delivered: u64,
    /// Frames that vanished.
    pub lost: u64,
    /// Frames that were doubled.
    pub duplicated: u64,
    /// Frames that were damaged.
    pub corrupted: u64,
    /// Frames that were held back.
    pub reordered: u64,
    /// Frames longer than the MTU.
    pub oversize: u64,
    /// Frames that found the queue full.
    pub overflow: u64,
    /// Frames that were sent, or on their way, while the link was down.
    pub down: u64,
}

/// Names of the random streams of a direction.
struct Names {
    loss: StreamName,
    duplicate: StreamName,
    corrupt: StreamName,
    reorder: StreamName,
    jitter: StreamName,
}

const NAMES: [Names; 2] = [
    Names {
        loss: "link.up.loss",
        duplicate: "link.up.duplicate",
        corrupt: "link.up.corrupt",
        reorder: "link.up.reorder",
        jitter: "link.up.jitter",
    },
    Names {
        loss: "link.down.loss",
        duplicate: "link.down.duplicate",
        corrupt: "link.down.corrupt",
        reorder: "link.down.reorder",
        jitter: "link.down.jitter",
    },
];

struct Lane {
    config: Direction,
    counters: LinkCounters,
    /// On their way, in order of arrival.
    frames: VecDeque<(Instant, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    /// When the last bit of the last frame is on the wire.
    free_at: Instant,
    /// When the last frame that was not held back arrives.
    last: Instant,
    /// The receiver.
    wake: Option<Wake>,
}

struct Link {
    up: bool,
    /// From end 0, and from end 1.
    lanes: [Lane; 2],
}

/// One end. Dropping it leaves a carrier with nobody behind it.
pub struct LinkEnd {
    link: Rc<RefCell<Link>>,
    /// The lane it sends into.
    side: usize,
}

/// Makes a link: the card's end, the far end, and the control.
#[must_use]
pub fn link(config: LinkConfig) -> (LinkEnd, LinkEnd, LinkControl) {
    let lane = |config| Lane {
        config,
        counters: LinkCounters::default(),
        frames: VecDeque::new(),
        spare: Vec::new(),
        free_at: Instant::ZERO,
        last: Instant::ZERO,
        wake: None,
    };
    let link = Rc::new(RefCell::new(Link { up: true, lanes: [lane(config.up), lane(config.down)] }));
    let end = |side| LinkEnd { link: link.clone(), side };
    (end(0), end(1), LinkControl(link.clone()))
}

impl LinkEnd {
    /// The actor that steps when a frame is on its way to this end, or when the carrier changes.
    pub fn wake_with(&self, wake: Wake) {
        self.link.borrow_mut().lanes[1 - self.side].wake = Some(wake);
    }

    /// Sends a frame.
    pub fn send_at(&self, now: Instant, rng: &mut dyn Streams, frame: &[u8]) {
        let link = &mut *self.link.borrow_mut();
        let lane = &mut link.lanes[self.side];
        lane.counters.sent += 1;
        if link.up {
            lane.send(now, rng, frame, &NAMES[self.side]);
        } else {
            lane.counters.down += 1;
        }
    }

    /// Takes the next frame that has arrived by now. `frame` is replaced by it, and left empty when there is
    /// none.
    pub fn recv_at(&self, now: Instant, frame: &mut Vec<u8>) -> bool {
        self.link.borrow_mut().lanes[1 - self.side].recv(now, frame)
    }

    /// When the next frame arrives that is on its way to this end.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        self.link.borrow().lanes[1 - self.side].frames.front().map(|&(at, _)| at)
    }

    /// Whether there is a carrier.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.borrow().up
    }
}

impl Wire for LinkEnd {
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        self.send_at(cx.now, cx.rng, frame);
    }

    fn recv(&mut self, cx: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        self.recv_at(cx.now, frame)
    }

    fn link(&self) -> bool {
        self.is_up()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.next_arrival()
    }
}

impl Lane {
    fn send(&mut self, now: Instant, rng: &mut dyn Streams, frame: &[u8], names: &Names) {
        let c = self.config;
        let payload = ether::payload(frame).map_or(ether::HEADER, |(_, at)| at);
        if frame.len() > payload + c.mtu as usize {
            self.counters.oversize += 1;
            return;
        }
        if self.frames.len() >= c.queue as usize {
            self.counters.overflow += 1;
            return;
        }
        let mut at = now;
        let bits = (frame.len() as u64 + AROUND) * 8;
        if let Some(ns) = bits.saturating_mul(1_000_000_000).checked_div(c.rate) {
            at = self.free_at.max(now) + Duration::from_nanos(ns);
            self.free_at = at;
        }
        if happens(rng, names.loss, c.loss) {
            self.counters.lost += 1;
            return;
        }
        let mut bit = None;
        if happens(rng, names.corrupt, c.corrupt) {
            self.counters.corrupted += 1;
            if c.fcs {
                return;
            }
            bit = Some(rng.below(names.corrupt, 8 * frame.len() as u64) as usize);
        }
        at += Duration::from_nanos(c.delay_ns);
        if c.jitter_ns != 0 {
            at += Duration::from_nanos(rng.below(names.jitter, c.jitter_ns + 1));
        }
        if happens(rng, names.reorder, c.reorder) {
            self.counters.reordered += 1;
            at += Duration::from_nanos(c.reorder_ns);
        } else {
            at = at.max(self.last);
            self.last = at;
        }
        let twice = happens(rng, names.duplicate, c.duplicate);
        self.counters.duplicated += u64::from(twice);
        for _ in 0..=u8::from(twice) {
            self.put(at, frame, bit);
        }
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    fn put(&mut self, at: Instant, frame: &[u8], bit: Option<usize>) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        if let Some(bit) = bit
            && let Some(byte) = buffer.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        let behind = self.frames.iter().rev().take_while(|&&(other, _)| other > at).count();
        match behind {
            0 => self.frames.push_back((at, buffer)),
            _ => self.frames.insert(self.frames.len() - behind, (at, buffer)),
        }
    }

    fn recv(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        out.clear();
        if self.frames.front().is_none_or(|&(at, _)| at > now) {
            return false;
        }
        let Some((_, mut frame)) = self.frames.pop_front() else { return false };
        std::mem::swap(out, &mut frame);
        self.spare.push(frame);
        self.counters.delivered += 1;
        true
    }
}

fn happens(rng: &mut dyn Streams, name: StreamName, probability: u32) -> bool {
    probability != 0 && rng.below(name, CERTAIN.into()) < probability.into()
}

/// The handle by which the laboratory changes a link while it runs. Clones are the same link.
#[derive(Clone)]
pub struct LinkControl(Rc<RefCell<Link>>);

impl LinkControl {
    /// The card's end once more: for the card that replaces another one.
    #[must_use]
    pub fn card_end(&self) -> LinkEnd {
        LinkEnd { link: self.0.clone(), side: 0 }
    }

    /// What the link is made of now.
    #[must_use]
    pub fn config(&self) -> LinkConfig {
        let link = self.0.borrow();
        LinkConfig { up: link.lanes[0].config, down: link.lanes[1].config }
    }

    /// Changes the link. What is on its way stays as it is.
    pub fn set(&self, config: LinkConfig) {
        let link = &mut *self.0.borrow_mut();
        (link.lanes[0].config, link.lanes[1].config) = (config.up, config.down);
    }

    /// Changes both directions.
    pub fn adjust(&self, mut change: impl FnMut(&mut Direction)) {
        self.0.borrow_mut().lanes.iter_mut().for_each(|lane| change(&mut lane.config));
    }

    /// Plugs or pulls the cable. What is on its way when it is pulled is lost. Both ends are woken.
    pub fn set_up(&self, up: bool) {
        let link = &mut *self.0.borrow_mut();
        link.up = up;
        for lane in &mut link.lanes {
            if !up {
                lane.counters.down += lane.frames.len() as u64;
                lane.spare.extend(lane.frames.drain(..).map(|(_, frame)| frame));
            }
            if let Some(wake) = &lane.wake {
                wake.wake();
            }
        }
    }

    /// Whether the cable is plugged.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.borrow().up
    }

    /// What happened to the frames of the card, and to those for it.
    #[must_use]
    pub fn counters(&self) -> (LinkCounters, LinkCounters) {
        let link = self.0.borrow();
        (link.lanes[0].counters, link.lanes[1].counters)
    }

    /// Frames on their way, in both directions.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.0.borrow().lanes.iter().map(|lane| lane.frames.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use bus::streams::Seeded;

    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    fn frame(n: u8, len: usize) -> Vec<u8> {
        let mut f = vec![n; len];
        f[12..14].copy_from_slice(&[8, 0]);
        f
    }

    fn arrived(end: &LinkEnd, now: Instant) -> Vec<u8> {
        let mut f = Vec::new();
        let mut seen = Vec::new();
        while end.recv_at(now, &mut f) {
            seen.push(f[0]);
        }
        seen
    }

    fn made(direction: Direction) -> (LinkEnd, LinkEnd, LinkControl, Seeded) {
        let (a, b, control) = link(LinkConfig::both(direction));
        (a, b, control, Seeded::new(1))
    }

    #[test]
    fn perfect_by_default() {
        let (a, b, control, mut rng) = made(Direction::default());
        for n in 0..3 {
            a.send_at(at(0), &mut rng, &frame(n, 60));
        }
        assert_eq!((b.next_arrival(), a.next_arrival()), (Some(at(0)), None));
        assert_eq!((arrived(&b, at(0)), arrived(&a, at(0))), (vec![0, 1, 2], vec![]));
        assert_eq!(
            rng.next_u64("link.up.loss"),
            Seeded::new(1).next_u64("link.up.loss"),
            "nothing was drawn"
        );
        let (up, down) = control.counters();
        assert_eq!((up.sent, up.delivered, down), (3, 3, LinkCounters::default()));
    }

    #[test]
    fn rate_and_delay_add_up() {
        // 976 bytes and 24 around them are 8 us at 1 Gbit/s.
        let (a, b, _, mut rng) =
            made(Direction { rate: 1_000_000_000, delay_ns: 100_000, ..Direction::default() });
        a.send_at(at(0), &mut rng, &frame(1, 976));
        a.send_at(at(0), &mut rng, &frame(2, 976));
        a.send_at(at(50), &mut rng, &frame(3, 976));
        assert_eq!(b.next_arrival(), Some(at(108)));
        assert!(arrived(&b, at(107)).is_empty());
        assert_eq!(arrived(&b, at(116)), [1, 2]);
        assert_eq!(b.next_arrival(), Some(at(158)));
    }

    #[test]
    fn each_effect_happens_as_often_as_asked_and_is_counted() {
        const N: u64 = 10_000;
        let d = Direction {
            loss: 100_000,
            duplicate: 50_000,
            corrupt: 20_000,
            reorder: 10_000,
            jitter_ns: 1000,
            ..Direction::default()
        };
        let (a, b, control, mut rng) = made(d);
        for n in 0..N {
            a.send_at(at(n), &mut rng, &frame(0, 60));
        }
        let seen = arrived(&b, at(2 * N)).len() as u64;
        let c = control.counters().0;
        let near = |n: u64, want: u64| n.abs_diff(want) * 5 < want;
        assert!(near(c.lost, N / 10) && near(c.duplicated, N / 22), "{c:?}");
        assert!(near(c.corrupted, N / 55) && near(c.reordered, N / 111), "{c:?}");
        assert_eq!(seen, N - c.lost + c.duplicated);
        assert_eq!(c.delivered, seen);
    }

    #[test]
    fn a_reordered_frame_is_passed_and_jitter_keeps_the_order() {
        let (a, b, control, mut rng) = made(Direction { jitter_ns: 900_000, ..Direction::default() });
        for n in 0..100 {
            a.send_at(at(n), &mut rng, &frame(n as u8, 60));
        }
        assert_eq!(arrived(&b, at(10_000)), (0..100).collect::<Vec<_>>());
        control.adjust(|d| *d = Direction { reorder: CERTAIN, ..Direction::default() });
        a.send_at(at(20_000), &mut rng, &frame(1, 60));
        control.adjust(|d| d.reorder = 0);
        a.send_at(at(20_001), &mut rng, &frame(2, 60));
        assert_eq!(arrived(&b, at(30_000)), [2, 1]);
    }

    #[test]
    fn damage_is_one_bit_or_noticed() {
        let (a, b, control, mut rng) = made(Direction { corrupt: CERTAIN, ..Direction::default() });
        let whole = frame(0, 60);
        a.send_at(at(0), &mut rng, &whole);
        let mut f = Vec::new();
        assert!(b.recv_at(at(0), &mut f));
        let bits: u32 = f.iter().zip(&whole).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((f.len(), bits), (60, 1));
        control.adjust(|d| d.fcs = true);
        a.send_at(at(0), &mut rng, &whole);
        assert!(!b.recv_at(at(0), &mut f));
        assert_eq!(control.counters().0.corrupted, 2);
    }

    #[test]
    fn limits_drop_and_count() {
        let (a, b, control, mut rng) = made(Direction { mtu: 1500, queue: 2, ..Direction::default() });
        a.send_at(at(0), &mut rng, &frame(1, 1514));
        let mut tagged = frame(2, 1518);
        tagged[12..14].copy_from_slice(&[0x81, 0]);
        a.send_at(at(0), &mut rng, &tagged);
        a.send_at(at(0), &mut rng, &frame(3, 1515));
        a.send_at(at(0), &mut rng, &frame(4, 60));
        assert_eq!(arrived(&b, at(0)), [1, 2]);
        let c = control.counters().0;
        assert_eq!((c.oversize, c.overflow), (1, 1));
    }

    #[test]
    fn a_flap_loses_what_is_under_way_and_wakes_both_ends() {
        let (a, b, control, mut rng) = made(Direction { delay_ns: 1000, ..Direction::default() });
        let set = bus::wake::WakeSet::default();
        a.wake_with(set.register());
        b.wake_with(set.register());
        while set.pop().is_some() {}
        a.send_at(at(0), &mut rng, &frame(1, 60));
        assert_eq!((set.pop(), set.pop()), (Some(1), None), "the receiver");
        control.set_up(false);
        assert!(set.pop().is_some() && set.pop().is_some());
        assert!(!a.is_up() && !b.is_up());
        b.send_at(at(1), &mut rng, &frame(2, 60));
        control.set_up(true);
        assert_eq!((arrived(&b, at(9)), arrived(&a, at(9))), (vec![], vec![]));
        let (up, down) = control.counters();
        assert_eq!((up.down, down.down, control.under_way()), (1, 1, 0));
    }
}
