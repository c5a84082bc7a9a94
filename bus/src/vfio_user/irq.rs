//! Where interrupts go: the client's eventfds, by interrupt type.
//!
//! The client owns the MSI and MSI-X capabilities as its driver sees them, table and masks included; here a
//! vector has an eventfd or none. A vector that is signalled without one stays pending, and is signalled when
//! its eventfd arrives: QEMU sends them one by one, takes all away when their number grows, and sends them
//! again. INTx is a level: signalling masks it, and an unmask signals again while the level stands.

use os::event::Signal;
use std::os::fd::OwnedFd;

use crate::pci::Vector;

use super::errno::Errno;
use super::message::{
    IRQ_AUTOMASKED, IRQ_EVENTFD, IRQ_INTX, IRQ_MASKABLE, IRQ_MSI, IRQ_MSIX, IRQ_TYPES, SET_BOOL, SET_EVENTFD,
    SET_MASK, SET_NONE, SET_TRIGGER, SET_UNMASK, SetIrqs,
};

#[derive(Default)]
struct Line {
    fd: Option<Signal>,
    pending: bool,
}

impl Line {
    fn signal(&mut self) {
        match &self.fd {
            Some(fd) => fd.signal(),
            None => self.pending = true,
        }
    }

    fn assign(&mut self, fd: Option<Signal>) {
        self.fd = fd;
        if self.fd.is_some() && std::mem::take(&mut self.pending) {
            self.signal();
        }
    }
}

/// The interrupt lines of a function.
pub(super) struct IrqTable {
    intx: Option<Signal>,
    masked: bool,
    /// The level that the host sees: asserted, and not switched off in config space.
    level: bool,
    msi: [Line; 1],
    msix: Vec<Line>,
    /// Signalled while no eventfd was there.
    pub(super) pended: u64,
}

enum Action {
    Mask,
    Unmask,
    Trigger,
}

impl IrqTable {
    pub(super) fn new(vectors: u16) -> Self {
        Self {
            intx: None,
            masked: false,
            level: false,
            msi: Default::default(),
            msix: (0..vectors).map(|_| Line::default()).collect(),
            pended: 0,
        }
    }

    /// Flags and number of an interrupt type.
    pub(super) fn info(&self, index: u32) -> Option<(u32, u32)> {
        match index {
            IRQ_INTX => Some((IRQ_EVENTFD | IRQ_MASKABLE | IRQ_AUTOMASKED, 1)),
            IRQ_MSI => Some((IRQ_EVENTFD, 1)),
            IRQ_MSIX => Some((IRQ_EVENTFD, self.msix.len() as u32)),
            _ if index < IRQ_TYPES => Some((0, 0)),
            _ => None,
        }
    }

    /// Serves a SET_IRQS. Nothing changes when it is refused.
    pub(super) fn set(&mut self, set: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let (_, available) = self.info(set.index).ok_or(Errno::EINVAL)?;
        let action = match set.flags & !(SET_NONE | SET_BOOL | SET_EVENTFD) {
            SET_MASK => Action::Mask,
            SET_UNMASK => Action::Unmask,
            SET_TRIGGER => Action::Trigger,
            _ => return Err(Errno::EINVAL),
        };
        let data = set.flags & (SET_NONE | SET_BOOL | SET_EVENTFD);
        if data.count_ones() != 1 || data != SET_EVENTFD && !fds.is_empty() {
            return Err(Errno::EINVAL);
        }
        if set.count == 0 {
            let everything = set.start == 0 && data == SET_NONE && matches!(action, Action::Trigger);
            return if everything { self.disable(set.index) } else { Err(Errno::EINVAL) };
        }
        if set.start.checked_add(set.count).is_none_or(|end| end > available) {
            return Err(Errno::EINVAL);
        }
        let range = set.start as usize..(set.start + set.count) as usize;
        if data == SET_EVENTFD {
            if !matches!(action, Action::Trigger) {
                // An eventfd that masks or unmasks: nobody listens to it here; QEMU then does without.
                return Err(Errno::EOPNOTSUPP);
            }
            if !fds.is_empty() && fds.len() != range.len() {
                return Err(Errno::EINVAL);
            }
            let fds = fds.into_iter().map(Signal::adopt).collect::<Result<Vec<_>, _>>()?;
            let mut fds = fds.into_iter();
            range.for_each(|i| self.assign(set.index, i, fds.next()));
            return Ok(());
        }
        if set.index != IRQ_INTX && !matches!(action, Action::Trigger) {
            return Err(Errno::EOPNOTSUPP);
        }
        for (n, i) in range.enumerate() {
            if data == SET_BOOL && set.data.get(n).is_none_or(|b| *b == 0) {
                continue;
            }
            match action {
                Action::Mask => self.masked = true,
                Action::Unmask => {
                    self.masked = false;
                    self.raise_level();
                }
                Action::Trigger => self.test(set.index, i),
            }
        }
        Ok(())
    }

    fn lines(&mut self, index: u32) -> &mut [Line] {
        if index == IRQ_MSI { &mut self.msi } else { &mut self.msix }
    }

    fn disable(&mut self, index: u32) -> Result<(), Errno> {
        if index == IRQ_INTX {
            (self.intx, self.masked) = (None, false);
        } else if index == IRQ_MSI || index == IRQ_MSIX {
            self.lines(index).iter_mut().for_each(|l| l.assign(None));
        }
        Ok(())
    }

    fn assign(&mut self, index: u32, i: usize, fd: Option<Signal>) {
        if index == IRQ_INTX {
            (self.intx, self.masked) = (fd, false);
            self.raise_level();
        } else {
            self.lines(index)[i].assign(fd);
        }
    }

    /// The client signals by itself, as if the card had done it.
    fn test(&mut self, index: u32, i: usize) {
        if index != IRQ_INTX {
            self.lines(index)[i].signal();
        } else if let Some(fd) = &self.intx {
            fd.signal();
        }
    }

    fn raise_level(&mut self) {
        if self.level
            && !self.masked
            && let Some(fd) = &self.intx
        {
            fd.signal();
            self.masked = true;
        }
    }

    /// The INTx level that the host sees.
    pub(super) fn set_level(&mut self, level: bool) {
        self.level = level;
        self.raise_level();
    }

    /// A message-signalled interrupt. `msi` and `msix` say what config space has enabled; a client that only
    /// installs eventfds means the same.
    pub(super) fn message(&mut self, v: Vector, msi: bool, msix: bool) {
        let line = if msix || self.msix.iter().any(|l| l.fd.is_some()) {
            self.msix.get_mut(usize::from(v.0))
        } else if msi || self.msi[0].fd.is_some() {
            self.msi.first_mut()
        } else {
            None
        };
        if let Some(line) = line {
            self.pended += u64::from(line.fd.is_none());
            line.signal();
        }
    }

    /// The function was reset: nothing is pending, no level stands. Eventfds stay.
    pub(super) fn clear(&mut self) {
        (self.level, self.masked) = (false, false);
        self.msi.iter_mut().chain(&mut self.msix).for_each(|l| l.pending = false);
    }

    /// The client is gone.
    pub(super) fn release(&mut self) {
        self.clear();
        self.intx = None;
        self.msi.iter_mut().chain(&mut self.msix).for_each(|l| l.fd = None);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use os::event::Event;

    use super::*;

    fn fd(e: &Event) -> OwnedFd {
        e.as_fd().try_clone_to_owned().unwrap()
    }

    fn events(n: usize) -> Vec<Event> {
        (0..n).map(|_| Event::new().unwrap()).collect()
    }

    fn set(
        t: &mut IrqTable,
        flags: u32,
        index: u32,
        start: u32,
        count: u32,
        fds: &[&Event],
    ) -> Result<(), Errno> {
        let fds = fds.iter().map(|e| fd(e)).collect();
        t.set(&SetIrqs { flags, index, start, count, data: &[] }, fds)
    }

    const INSTALL: u32 = SET_EVENTFD | SET_TRIGGER;

    #[test]
    fn the_sequence_of_qemu_loses_no_vector() {
        let (mut t, e) = (IrqTable::new(9), events(3));
        set(&mut t, INSTALL, IRQ_MSIX, 0, 1, &[]).unwrap();
        t.message(Vector(0), false, true);
        t.message(Vector(2), false, true);
        set(&mut t, INSTALL, IRQ_MSIX, 0, 1, &[&e[0]]).unwrap();
        assert!(e[0].take(), "pending since before its eventfd arrived");
        set(&mut t, SET_NONE | SET_TRIGGER, IRQ_MSIX, 0, 0, &[]).unwrap();
        t.message(Vector(0), false, true);
        assert!(!e[0].take());
        set(&mut t, INSTALL, IRQ_MSIX, 0, 2, &[&e[0], &e[1]]).unwrap();
        assert!(e[0].take() && !e[1].take());
        set(&mut t, INSTALL, IRQ_MSIX, 2, 1, &[&e[2]]).unwrap();
        assert!(e[2].take());
        t.message(Vector(1), false, true);
        assert!(e[1].take() && !e[0].take() && !e[2].take());
        assert_eq!(t.pended, 3);
        t.message(Vector(9), false, true);
        t.message(Vector(63), false, true);
    }

    #[test]
    fn with_msi_every_vector_is_the_one() {
        let (mut t, e) = (IrqTable::new(9), events(1));
        t.message(Vector(0), false, false);
        set(&mut t, INSTALL, IRQ_MSI, 0, 1, &[&e[0]]).unwrap();
        assert!(!e[0].take(), "nothing was enabled");
        t.message(Vector(5), false, false);
        assert!(e[0].take());
    }

    #[test]
    fn a_level_is_signalled_again_after_each_unmask_while_it_stands() {
        let (mut t, e) = (IrqTable::new(1), events(1));
        set(&mut t, INSTALL, IRQ_INTX, 0, 1, &[&e[0]]).unwrap();
        t.set_level(true);
        assert!(e[0].take());
        t.set_level(true);
        assert!(!e[0].take(), "it has masked itself");
        set(&mut t, SET_NONE | SET_UNMASK, IRQ_INTX, 0, 1, &[]).unwrap();
        assert!(e[0].take(), "the level still stands");
        t.set_level(false);
        set(&mut t, SET_NONE | SET_UNMASK, IRQ_INTX, 0, 1, &[]).unwrap();
        assert!(!e[0].take());
        set(&mut t, SET_NONE | SET_MASK, IRQ_INTX, 0, 1, &[]).unwrap();
        t.set_level(true);
        assert!(!e[0].take());
        let unmask =
            SetIrqs { flags: SET_BOOL | SET_UNMASK, index: IRQ_INTX, start: 0, count: 1, data: &[0] };
        t.set(&unmask, Vec::new()).unwrap();
        assert!(!e[0].take(), "not meant");
        t.set(&SetIrqs { data: &[1], ..unmask }, Vec::new()).unwrap();
        assert!(e[0].take());
    }

    #[test]
    fn a_level_that_stands_is_signalled_when_the_eventfd_arrives() {
        let (mut t, e) = (IrqTable::new(1), events(1));
        t.set_level(true);
        set(&mut t, INSTALL, IRQ_INTX, 0, 1, &[&e[0]]).unwrap();
        assert!(e[0].take());
    }

    #[test]
    fn the_client_can_signal_by_itself() {
        let (mut t, e) = (IrqTable::new(2), events(2));
        set(&mut t, INSTALL, IRQ_MSIX, 0, 2, &[&e[0], &e[1]]).unwrap();
        let one =
            SetIrqs { flags: SET_BOOL | SET_TRIGGER, index: IRQ_MSIX, start: 0, count: 2, data: &[0, 1] };
        t.set(&one, Vec::new()).unwrap();
        assert!(!e[0].take() && e[1].take());
    }

    #[test]
    fn a_reset_forgets_what_is_pending_and_keeps_the_eventfds() {
        let (mut t, e) = (IrqTable::new(2), events(2));
        set(&mut t, INSTALL, IRQ_MSIX, 0, 1, &[&e[0]]).unwrap();
        t.message(Vector(1), false, true);
        t.clear();
        set(&mut t, INSTALL, IRQ_MSIX, 1, 1, &[&e[1]]).unwrap();
        assert!(!e[1].take());
        t.message(Vector(0), false, true);
        assert!(e[0].take());
        t.release();
        t.message(Vector(0), false, false);
        assert!(!e[0].take());
    }

    #[test]
    fn malformed_requests_change_nothing() {
        let (mut t, e) = (IrqTable::new(2), events(2));
        set(&mut t, INSTALL, IRQ_MSIX, 0, 2, &[&e[0], &e[1]]).unwrap();
        for (flags, index, start, count, fds) in [
            (INSTALL, IRQ_TYPES, 0, 1, 1),
            (INSTALL, 3, 0, 1, 1),
            (INSTALL, IRQ_MSIX, 0, 3, 0),
            (INSTALL, IRQ_MSIX, 2, 1, 0),
            (INSTALL, IRQ_MSIX, u32::MAX, 2, 0),
            (INSTALL, IRQ_MSIX, 0, 2, 1),
            (INSTALL, IRQ_MSIX, 0, 1, 2),
            (INSTALL, IRQ_MSIX, 0, 0, 0),
            (SET_NONE | SET_TRIGGER, IRQ_MSIX, 1, 0, 0),
            (SET_NONE | SET_MASK, IRQ_INTX, 0, 0, 0),
            (SET_NONE | SET_TRIGGER, IRQ_MSIX, 0, 1, 1),
            (SET_TRIGGER, IRQ_MSIX, 0, 1, 0),
            (SET_EVENTFD, IRQ_MSIX, 0, 1, 0),
            (SET_NONE | SET_BOOL | SET_TRIGGER, IRQ_MSIX, 0, 1, 0),
            (SET_NONE | SET_MASK | SET_UNMASK, IRQ_INTX, 0, 1, 0),
            (SET_NONE | SET_TRIGGER | 1 << 6, IRQ_MSIX, 0, 1, 0),
        ] {
            let fds: Vec<_> = e.iter().take(fds).collect();
            let r = set(&mut t, flags, index, start, count, &fds);
            assert_eq!(r, Err(Errno::EINVAL), "{flags:#x} {index} {start}+{count} with {}", fds.len());
        }
        for (flags, index) in [(SET_EVENTFD | SET_UNMASK, IRQ_INTX), (SET_NONE | SET_MASK, IRQ_MSIX)] {
            assert_eq!(set(&mut t, flags, index, 0, 1, &[]), Err(Errno::EOPNOTSUPP));
        }
        let null = std::fs::File::open("/dev/null").unwrap();
        let request = SetIrqs { flags: INSTALL, index: IRQ_MSIX, start: 0, count: 2, data: &[] };
        assert_eq!(t.set(&request, vec![fd(&e[1]), null.into()]), Err(Errno::EINVAL), "not an eventfd");
        t.message(Vector(0), false, true);
        assert!(e[0].take() && !e[1].take(), "as installed");
    }
}
