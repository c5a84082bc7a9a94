//! Local TCP ports of offloaded connections: 60000 to 61023, rotating from a random start (BNX2I-CNIC 3.4).

use hsi::bcm5709::limits::{CNIC_LOCAL_PORT_MIN, CNIC_LOCAL_PORT_RANGE};

/// A port that is taken. It goes back with [`Ports::put`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a port goes back to its table"]
pub(crate) struct PortGuard(u16);

impl PortGuard {
    pub(crate) fn number(&self) -> u16 {
        self.0
    }
}

/// The table of one function.
pub(crate) struct Ports {
    taken: [u64; CNIC_LOCAL_PORT_RANGE as usize / 64],
    next: u16,
    used: u16,
}

impl Ports {
    pub(crate) fn new() -> Self {
        Self { taken: [0; CNIC_LOCAL_PORT_RANGE as usize / 64], next: 0, used: 0 }
    }

    /// Where the search for a free port goes on, from any number.
    pub(crate) fn start_at(&mut self, random: u64) {
        self.next = (random % u64::from(CNIC_LOCAL_PORT_RANGE)) as u16;
    }

    /// The next free port; `None` when all 1024 are taken.
    pub(crate) fn take(&mut self) -> Option<PortGuard> {
        if self.used == CNIC_LOCAL_PORT_RANGE {
            return None;
        }
        loop {
            let i = usize::from(self.next);
            self.next = (self.next + 1) % CNIC_LOCAL_PORT_RANGE;
            if self.taken[i / 64] >> (i % 64) & 1 == 0 {
                self.taken[i / 64] |= 1 << (i % 64);
                self.used += 1;
                return Some(PortGuard(CNIC_LOCAL_PORT_MIN + i as u16));
            }
        }
    }

    pub(crate) fn put(&mut self, port: PortGuard) {
        let i = usize::from(port.0 - CNIC_LOCAL_PORT_MIN);
        debug_assert!(self.taken[i / 64] >> (i % 64) & 1 == 1);
        self.taken[i / 64] &= !(1 << (i % 64));
        self.used -= 1;
    }

    pub(crate) fn used(&self) -> u16 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_once_then_none_then_the_returned_one() {
        let mut ports = Ports::new();
        ports.start_at(1023 + 1024 * 7);
        let mut all: Vec<_> = core::iter::from_fn(|| ports.take()).collect();
        assert_eq!((all[0].number(), all[1].number(), all.len()), (61023, 60000, 1024));
        assert_eq!(ports.used(), 1024);
        ports.put(all.swap_remove(500));
        assert!(ports.take().is_some() && ports.take().is_none());
    }
}
