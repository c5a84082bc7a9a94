//! Doorbells that a client rings without a message, and the slot's state page.
//!
//! A card may name pages of a BAR that hold nothing but 16-bit producer indexes, where a later write covers
//! an earlier one. A client of ours maps them (an anonymous file, sparse to the offset in the BAR), and the
//! server compares the words with what it saw last: words of busy pages each turn, of a few idle ones in
//! rotation, and all of them before any access is served and before it parks. The *state page* tells the
//! client the epoch, and whether the server is parked; only then does the client's store need a kick through
//! the eventfd.
//!
//! Every epoch has a file of its own: a store that comes late reaches a file at which nobody looks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::{io, mem};

use os::event::Event;
use os::shm::{Mapping, memfd};

use crate::mem::{PAGE_SIZE, SharedMem};
use crate::pci::{Bar, Epoch};
use crate::sync::{Ordering, fence};

use super::errno::Errno;

/// Offset of the epoch in the state page, 32 bits.
pub const STATE_EPOCH: usize = 0;
/// Offset of the word that is not zero while the server is parked, 32 bits.
pub const STATE_PARKED: usize = 4;
/// Turns without a change after which a page counts as idle.
const IDLE_AFTER: u16 = 1024;
/// Idle pages looked at in each turn.
const IDLE_PER_TURN: usize = 4;

/// The pages of a card that may be mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorbellLayout {
    /// BAR that they belong to.
    pub bar: Bar,
    /// Offset of the first page in the BAR, a multiple of the page size.
    pub at: u64,
    /// How many there are.
    pub pages: u32,
    /// Offsets of the indexes in each page, even, below 128. A store elsewhere in a page is not seen.
    pub words: Vec<u16>,
}

impl DoorbellLayout {
    /// For a card that has none.
    pub(super) const NONE: Self = Self { bar: Bar(0), at: 0, pages: 0, words: Vec::new() };

    /// Bytes that may be mapped.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE as u64
    }
}

/// Pages that the client has mapped, in this epoch.
struct Mapped {
    file: Rc<OwnedFd>,
    memory: Rc<SharedMem>,
    seen: Vec<u16>,
    /// Turns since the last change; [`IDLE_AFTER`] and more is idle.
    quiet: Vec<u16>,
    busy: Vec<u32>,
    cursor: usize,
}

pub(super) struct Doorbells {
    pub(super) layout: DoorbellLayout,
    mapped: Option<Mapped>,
    state_file: Rc<OwnedFd>,
    state: Rc<SharedMem>,
    kick: Rc<OwnedFd>,
    event: Event,
    parked: bool,
}

impl Doorbells {
    pub(super) fn new(layout: DoorbellLayout, epoch: Epoch) -> io::Result<Self> {
        let file = memfd("slot-state", PAGE_SIZE as u64)?;
        let mapping = Rc::new(Mapping::new(file.as_fd(), 0, PAGE_SIZE as u64, true)?);
        let event = Event::new()?;
        let kick = Rc::new(event.as_fd().try_clone_to_owned()?);
        let state = SharedMem::window(&mapping, 0, PAGE_SIZE);
        state.store32(STATE_EPOCH, epoch.0);
        Ok(Self { layout, mapped: None, state_file: Rc::new(file), state, kick, event, parked: false })
    }

    /// The file with this epoch's pages, made when it is first asked for.
    pub(super) fn file(&mut self) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(m) = &self.mapped {
            return Ok(m.file.clone());
        }
        let (at, bytes) = (self.layout.at, self.layout.bytes());
        let file = memfd("doorbells", at + bytes)?;
        let mapping = Rc::new(Mapping::new(file.as_fd(), at, bytes, true)?);
        let pages = self.layout.pages as usize;
        let file = Rc::new(file);
        self.mapped = Some(Mapped {
            file: file.clone(),
            memory: SharedMem::window(&mapping, 0, mapping.len()),
            seen: vec![0; pages * self.layout.words.len()],
            quiet: vec![IDLE_AFTER; pages],
            busy: Vec::with_capacity(pages),
            cursor: 0,
        });
        Ok(file)
    }

    pub(super) fn state_file(&self) -> Rc<OwnedFd> {
        self.state_file.clone()
    }

    pub(super) fn kick(&self) -> Rc<OwnedFd> {
        self.kick.clone()
    }

    pub(super) fn kicked(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// A new epoch: stores to the old pages are not looked at any more.
    pub(super) fn renew(&mut self, epoch: Epoch) {
        self.mapped = None;
        self.state.store32(STATE_EPOCH, epoch.0);
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.mapped.is_some()
    }

    /// Reports the indexes that changed, as offsets in the BAR and values: those of busy pages and a few idle
    /// ones, or all.
    pub(super) fn poll(&mut self, all: bool, out: &mut Vec<(u64, u16)>) {
        let Some(m) = &mut self.mapped else { return };
        if all {
            (0..self.layout.pages as usize).for_each(|p| m.look(&self.layout, p, out));
        } else {
            let mut busy = mem::take(&mut m.busy);
            busy.retain(|p| {
                let p = *p as usize;
                m.look(&self.layout, p, out);
                m.quiet[p] = m.quiet[p].saturating_add(1);
                m.quiet[p] < IDLE_AFTER
            });
            // Pages that became busy meanwhile were not in the list.
            busy.append(&mut m.busy);
            m.busy = busy;
            for _ in 0..IDLE_PER_TURN.min(self.layout.pages as usize) {
                m.cursor = (m.cursor + 1) % self.layout.pages as usize;
                m.look(&self.layout, m.cursor, out);
            }
        }
    }

    /// Tells the client that from now on it has to kick. Whatever it stored before it can know that must be
    /// looked for once more, after this.
    pub(super) fn park(&mut self) {
        self.parked = true;
        self.state.store32(STATE_PARKED, 1);
        // The flag must be visible before the words are read: the client stores a word, then reads the flag.
        fence(Ordering::SeqCst);
    }

    pub(super) fn unpark(&mut self) {
        if mem::take(&mut self.parked) {
            self.state.store32(STATE_PARKED, 0);
            self.event.take();
        }
    }
}

impl Mapped {
    fn look(&mut self, layout: &DoorbellLayout, page: usize, out: &mut Vec<(u64, u16)>) {
        let n = layout.words.len();
        for (word, offset) in layout.words.iter().enumerate() {
            let at = page * PAGE_SIZE + usize::from(*offset);
            let value = self.memory.load16(at);
            let seen = &mut self.seen[page * n + word];
            if *seen != value {
                *seen = value;
                out.push((layout.at + at as u64, value));
                if self.quiet[page] >= IDLE_AFTER {
                    self.busy.push(page as u32);
                }
                self.quiet[page] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u32 = 64;

    fn doorbells() -> Doorbells {
        let layout = DoorbellLayout { bar: Bar(0), at: 0x10000, pages: PAGES, words: vec![4, 8] };
        Doorbells::new(layout, Epoch(1)).unwrap()
    }

    fn client(d: &mut Doorbells) -> Rc<SharedMem> {
        let file = d.file().unwrap();
        let mapping = Rc::new(Mapping::new(file.as_fd(), 0x10000, d.layout.bytes(), true).unwrap());
        SharedMem::window(&mapping, 0, mapping.len())
    }

    fn polled(d: &mut Doorbells, all: bool) -> Vec<(u64, u16)> {
        let mut out = Vec::new();
        d.poll(all, &mut out);
        out
    }

    #[test]
    fn a_later_store_covers_an_earlier_one_and_is_seen_once() {
        let mut d = doorbells();
        let c = client(&mut d);
        c.store16(3 * PAGE_SIZE + 4, 7);
        c.store16(3 * PAGE_SIZE + 4, 8);
        c.store16(5 * PAGE_SIZE + 8, 1);
        c.store16(5 * PAGE_SIZE + 6, 1);
        assert_eq!(polled(&mut d, true), [(0x13004, 8), (0x15008, 1)]);
        assert_eq!(polled(&mut d, true), []);
    }

    #[test]
    fn a_turn_sees_busy_pages_at_once_and_idle_ones_in_rotation() {
        let mut d = doorbells();
        let c = client(&mut d);
        c.store16(40 * PAGE_SIZE + 4, 1);
        let turns = (1..).find(|_| !polled(&mut d, false).is_empty()).unwrap();
        assert!(turns <= PAGES as usize / IDLE_PER_TURN, "{turns}");
        for i in 2..10 {
            c.store16(40 * PAGE_SIZE + 4, i);
            assert_eq!(polled(&mut d, false), [(0x38004, i)]);
        }
        for _ in 0..2 * IDLE_AFTER {
            assert_eq!(polled(&mut d, false), []);
        }
        assert!(d.mapped.as_ref().unwrap().busy.is_empty(), "it is idle again");
    }

    #[test]
    fn a_store_to_the_pages_of_an_earlier_epoch_vanishes() {
        let mut d = doorbells();
        let old = client(&mut d);
        d.renew(Epoch(2));
        assert!(!d.is_mapped());
        let new = client(&mut d);
        old.store16(4, 9);
        assert_eq!(polled(&mut d, true), []);
        assert_eq!(new.load16(4), 0);
        assert_eq!(d.state.load32(STATE_EPOCH), 2);
    }
}
