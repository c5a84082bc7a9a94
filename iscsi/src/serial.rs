//! 32-bit serial numbers: CmdSN, StatSN, DataSN and R2TSN wrap, and "less than" means "at most half a turn
//! behind" (RFC 7143 4.2.2.1, RFC 1982). Both ends keep their counters and windows as [`Sn`].
//!
//! `Sn` has deliberately no `Ord`: serial order is not transitive, so sorting by it would be a bug.

use zerocopy::byteorder::big_endian::U32;

/// A serial number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Sn(pub u32);

impl Sn {
    /// The number `n` steps later.
    #[must_use]
    pub const fn add(self, n: u32) -> Sn {
        Sn(self.0.wrapping_add(n))
    }

    /// The number `n` steps earlier.
    #[must_use]
    pub const fn sub(self, n: u32) -> Sn {
        Sn(self.0.wrapping_sub(n))
    }

    /// The next number.
    #[must_use]
    pub const fn next(self) -> Sn {
        self.add(1)
    }

    /// Returns this number and advances to the next one: how a counter is spent on a PDU.
    pub const fn take(&mut self) -> Sn {
        let now = *self;
        *self = now.next();
        now
    }

    /// Steps from `earlier` up to this number, modulo 2^32.
    pub const fn since(self, earlier: Sn) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Serially less than `other`. Numbers exactly half a turn apart are not comparable: both directions are
    /// false.
    pub const fn lt(self, other: Sn) -> bool {
        let ahead = other.since(self);
        ahead != 0 && ahead < 1 << 31
    }

    /// Serially less than or equal to `other`.
    pub const fn le(self, other: Sn) -> bool {
        self.0 == other.0 || self.lt(other)
    }

    /// Serially greater than `other`.
    pub const fn gt(self, other: Sn) -> bool {
        other.lt(self)
    }

    /// Serially greater than or equal to `other`.
    pub const fn ge(self, other: Sn) -> bool {
        other.le(self)
    }

    /// Whether this number lies in the window `first ..= last`; the window is closed when `last` is `first -
    /// 1`.
    pub const fn within(self, first: Sn, last: Sn) -> bool {
        self.ge(first) && self.le(last)
    }

    /// Raises this counter to `newer` if that is serially later; tells whether it moved. Older values are
    /// ignored, as MaxCmdSN, ExpCmdSN and ExpStatSN updates require (RFC 7143 4.2.2.1).
    pub const fn raise(&mut self, newer: Sn) -> bool {
        let moves = newer.gt(*self);
        if moves {
            *self = newer;
        }
        moves
    }
}

/// Numbers in a command window: MaxCmdSN - ExpCmdSN + 1, or `None` when `max` lies before `exp - 1`, which a
/// receiver has to ignore (RFC 7143 4.2.2.1).
pub const fn window(exp: Sn, max: Sn) -> Option<u32> {
    if max.ge(exp.sub(1)) { Some(max.next().since(exp)) } else { None }
}

impl From<U32> for Sn {
    fn from(value: U32) -> Sn {
        Sn(value.get())
    }
}

impl From<Sn> for U32 {
    fn from(value: Sn) -> U32 {
        U32::new(value.0)
    }
}

impl core::fmt::Display for Sn {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_wraps() {
        assert!(Sn(u32::MAX).lt(Sn(0)) && Sn(0).gt(Sn(u32::MAX)));
        assert!(Sn(5).lt(Sn(0x8000_0004)) && !Sn(5).lt(Sn(0x8000_0005)) && !Sn(0x8000_0005).lt(Sn(5)));
        assert!(Sn(7).le(Sn(7)) && !Sn(7).lt(Sn(7)));
    }

    #[test]
    fn window_opens_closes_and_wraps() {
        assert_eq!(window(Sn(10), Sn(9)), Some(0));
        assert_eq!(window(Sn(0xffff_fff0), Sn(0xf)), Some(32));
        assert_eq!(window(Sn(10), Sn(8)), None);
        assert!(Sn(0).within(Sn(0xffff_fff0), Sn(0xf)));
        assert!(
            !Sn(0x10).within(Sn(0xffff_fff0), Sn(0xf)) && !Sn(0xffff_ffef).within(Sn(0xffff_fff0), Sn(0xf))
        );
        assert!(!Sn(10).within(Sn(10), Sn(9)), "a closed window holds nothing");
    }

    #[test]
    fn counters_only_rise() {
        let mut sn = Sn(0xffff_ffff);
        assert!(sn.raise(Sn(2)) && !sn.raise(Sn(1)) && !sn.raise(Sn(2)));
        assert_eq!(sn.take(), Sn(2));
        assert_eq!(sn, Sn(3));
    }

    proptest! {
        #[test]
        fn order_is_relative_to_distance(a: u32, d in 1u32..1 << 31) {
            let (a, b) = (Sn(a), Sn(a).add(d));
            prop_assert!(a.lt(b) && b.gt(a) && !b.le(a) && b.sub(d) == a && b.since(a) == d);
        }
    }
}
