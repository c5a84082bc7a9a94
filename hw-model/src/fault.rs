//! Named fault points: the one way in which the card misbehaves on purpose.
//!
//! The real counterpart is broken silicon, broken firmware and bit flips. The laboratory keeps a [`Faults`]
//! handle and arms points on it; front end and engine ask it where the defect would sit. There is no second,
//! faulty card: the code that misbehaves is the code that works, with one branch in it. A disarmed point
//! costs that branch and nothing else; an armed one counts how often it was passed and how often it really
//! fired, so that a run whose fault never happened can be told from a run that survived it. Faults of the
//! wire, the bus and the host are not here.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use bus::pci::DevCx;
use bus::trace::EventKind;
use serde::{Deserialize, Serialize};
use thiserror::Error;

macro_rules! fault_points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// Where the card can misbehave. The name in plans and on the command line is the kebab-case form.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum FaultPoint { $($(#[$doc])* $point,)* }

        impl FaultPoint {
            /// All points, in order.
            pub const ALL: &[FaultPoint] = &[$(FaultPoint::$point,)*];

            /// The kebab-case name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

fault_points! {
    /// The payload of a Data-In goes to a wrong offset inside the buffer of its task. A hit is a payload that
    /// is placed.
    MisplacedData = "misplaced-data",
    /// One byte of a Data-In payload is inverted before it is placed. A hit is a payload that is placed.
    CorruptData = "corrupt-data",
    /// A CQE is posted twice, with two sequence numbers. A hit is a CQE.
    DuplicateCqe = "duplicate-cqe",
    /// A CQE is never posted, and its sequence number is not used. A hit is a CQE.
    DropCqe = "drop-cqe",
    /// A KCQE is never posted. The operand is layer << 8 | opcode; a hit is such a KCQE.
    SwallowKcqe = "swallow-kcqe",
    /// A KCQE, and all that follow it, are posted late by [`crate::config::ChipConfig::delayed_kcqe_ns`]. The
    /// operand is layer << 8 | opcode; a hit is such a KCQE.
    DelayKcqe = "delay-kcqe",
    /// A KWQE is fetched and forgotten. The operand is layer << 8 | opcode; a hit is such a KWQE.
    SwallowKwqe = "swallow-kwqe",
    /// The chip goes mute: it fetches, sends, completes and interrupts nothing, until it is reset. Register
    /// accesses are still answered. A hit is a step of the chip.
    Mute = "mute",
    /// After a reset, the chip writes once more to its old completion queue, with the grant of the old epoch.
    /// A hit is a reset with a completion queue set up. A sound bus refuses the write.
    LateDmaAfterReset = "late-dma-after-reset",
}

/// A name that is not a fault point.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("no fault point is called `{0}`; there are: {names}", names = names())]
pub struct UnknownFaultPoint(pub String);

fn names() -> String {
    FaultPoint::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for FaultPoint {
    type Err = UnknownFaultPoint;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|p| p.name() == s).ok_or_else(|| UnknownFaultPoint(s.to_owned()))
    }
}

impl fmt::Display for FaultPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When an armed point fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Hits that pass unharmed first.
    pub after: u64,
    /// How many hits then fire; `u64::MAX` for all of them.
    pub count: u64,
    /// Only hits with this operand count; see [`FaultPoint`] for what it is.
    pub operand: Option<u32>,
}

impl Trigger {
    /// The next hit, once.
    pub const ONCE: Self = Self { after: 0, count: 1, operand: None };

    /// Every hit.
    pub const ALWAYS: Self = Self { after: 0, count: u64::MAX, operand: None };
}

#[derive(Clone, Copy, Default)]
struct Slot {
    trigger: Option<Trigger>,
    hits: u64,
    fired: u64,
}

const POINTS: usize = FaultPoint::ALL.len();

#[derive(Default)]
struct Points {
    /// Bit `p` is set while point `p` is armed: what a disarmed point costs.
    armed: Cell<u32>,
    slots: [Cell<Slot>; POINTS],
}

/// The handle on a card's fault points. Clones are the same points: the laboratory keeps one, the card has
/// others.
#[derive(Clone, Default)]
pub struct Faults(Rc<Points>);

impl Faults {
    /// All points disarmed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Arms a point, and counts its hits from zero again. What it fired before stays counted.
    pub fn arm(&self, point: FaultPoint, trigger: Trigger) {
        let slot = &self.0.slots[point as usize];
        slot.set(Slot { trigger: Some(trigger), hits: 0, ..slot.get() });
        self.0.armed.set(self.0.armed.get() | 1 << point as u32);
    }

    /// Disarms a point. Its counters stay.
    pub fn disarm(&self, point: FaultPoint) {
        let slot = &self.0.slots[point as usize];
        slot.set(Slot { trigger: None, ..slot.get() });
        self.0.armed.set(self.0.armed.get() & !(1 << point as u32));
    }

    /// Hits since the point was armed.
    #[must_use]
    pub fn hits(&self, point: FaultPoint) -> u64 {
        self.0.slots[point as usize].get().hits
    }

    /// How often the point really fired.
    #[must_use]
    pub fn fired(&self, point: FaultPoint) -> u64 {
        self.0.slots[point as usize].get().fired
    }

    /// Whether the point is armed, without a hit. A point that fired its last time is not.
    #[must_use]
    #[inline]
    pub fn armed(&self, point: FaultPoint) -> bool {
        self.0.armed.get() >> point as u32 & 1 == 1
    }

    /// The card passes a point without an operand: whether it misbehaves now.
    #[inline]
    pub fn fires(&self, cx: &mut DevCx<'_>, point: FaultPoint) -> bool {
        self.armed(point) && self.hit(cx, point, None)
    }

    /// The card passes a point with an operand: whether it misbehaves now.
    #[inline]
    pub fn fires_for(&self, cx: &mut DevCx<'_>, point: FaultPoint, operand: u32) -> bool {
        self.armed(point) && self.hit(cx, point, Some(operand))
    }

    #[cold]
    fn hit(&self, cx: &mut DevCx<'_>, point: FaultPoint, operand: Option<u32>) -> bool {
        let fired = self.count_hit(point, operand);
        if let Some(hit) = fired {
            cx.event(EventKind::Fault, point as u64, hit);
        }
        fired.is_some()
    }

    /// Counts a hit; the number of the hit when it fires.
    fn count_hit(&self, point: FaultPoint, operand: Option<u32>) -> Option<u64> {
        let cell = &self.0.slots[point as usize];
        let mut slot = cell.get();
        let trigger = slot.trigger?;
        if trigger.operand.is_some() && trigger.operand != operand {
            return None;
        }
        let nth = slot.hits;
        slot.hits += 1;
        let fires = nth >= trigger.after && nth - trigger.after < trigger.count;
        slot.fired += u64::from(fires);
        cell.set(slot);
        if slot.hits >= trigger.after.saturating_add(trigger.count) {
            self.disarm(point);
        }
        fires.then_some(nth)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for &p in FaultPoint::ALL.iter().filter(|&&p| self.armed(p) || self.fired(p) > 0) {
            map.entry(&p.name(), &(self.0.slots[p as usize].get().trigger, self.hits(p), self.fired(p)));
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_a_wrong_one_lists_the_right_ones() {
        for &p in FaultPoint::ALL {
            assert_eq!(p.name().parse(), Ok(p));
            assert_eq!(serde_name(p), p.name(), "plans and the command line use one name");
        }
        let error = "misplaced".parse::<FaultPoint>().expect_err("not a name").to_string();
        assert!(error.contains("`misplaced`") && error.contains("misplaced-data, corrupt-data"), "{error}");
    }

    fn serde_name(p: FaultPoint) -> String {
        use serde::de::IntoDeserializer;
        use serde::de::value::{Error, StrDeserializer};
        let d: StrDeserializer<'_, Error> = p.name().into_deserializer();
        FaultPoint::deserialize(d).map_or_else(|e| e.to_string(), |p| p.name().to_owned())
    }

    #[test]
    fn a_trigger_skips_fires_and_disarms_itself() {
        let card = Faults::new();
        let lab = card.clone();
        assert!(!card.armed(FaultPoint::DropCqe));
        lab.arm(FaultPoint::DropCqe, Trigger { after: 2, count: 2, operand: None });
        let fired: Vec<_> = (0..6).map(|_| card.count_hit(FaultPoint::DropCqe, None)).collect();
        assert_eq!(fired, [None, None, Some(2), Some(3), None, None]);
        assert!(!lab.armed(FaultPoint::DropCqe), "it fired its last time");
        assert_eq!((lab.hits(FaultPoint::DropCqe), lab.fired(FaultPoint::DropCqe)), (4, 2));

        lab.arm(FaultPoint::DropCqe, Trigger::ALWAYS);
        assert_eq!(lab.hits(FaultPoint::DropCqe), 0);
        assert_eq!(card.count_hit(FaultPoint::DropCqe, None), Some(0));
        lab.disarm(FaultPoint::DropCqe);
        assert_eq!(card.count_hit(FaultPoint::DropCqe, None), None);
        assert_eq!(lab.fired(FaultPoint::DropCqe), 3, "what fired stays counted");
    }

    #[test]
    fn an_operand_selects_what_counts() {
        let f = Faults::new();
        f.arm(FaultPoint::SwallowKcqe, Trigger { after: 1, count: 1, operand: Some(0x614) });
        assert_eq!(f.count_hit(FaultPoint::SwallowKcqe, Some(0x610)), None);
        assert_eq!(f.count_hit(FaultPoint::SwallowKcqe, Some(0x614)), None);
        assert_eq!(f.count_hit(FaultPoint::SwallowKcqe, Some(0x614)), Some(1));
        assert_eq!(f.hits(FaultPoint::SwallowKcqe), 2);
    }
}
