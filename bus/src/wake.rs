//! Wake-ups: how a message, a doorbell or an interrupt makes an actor ready.
//!
//! A runner owns a [`WakeSet`]; each actor has an index in it, and whoever feeds the actor holds a [`Wake`].
//! The set keeps a FIFO of ready indexes with each index at most once, so its cost is proportional to ready
//! work.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

#[derive(Default)]
struct Ready {
    fifo: VecDeque<u32>,
    queued: Vec<bool>,
}

/// The ready queue of a runner.
#[derive(Clone, Default)]
pub struct WakeSet(Rc<RefCell<Ready>>);

impl WakeSet {
    /// Registers one more actor and returns the handle that wakes it. The new actor starts out ready.
    #[must_use]
    pub fn register(&self) -> Wake {
        let mut r = self.0.borrow_mut();
        let index = u32::try_from(r.queued.len()).expect("fewer than 2^32 actors");
        r.queued.push(true);
        r.fifo.push_back(index);
        Wake { set: self.clone(), index }
    }

    /// Takes the actor that has been ready for longest.
    pub fn pop(&self) -> Option<u32> {
        let mut r = self.0.borrow_mut();
        let index = r.fifo.pop_front()?;
        r.queued[index as usize] = false;
        Some(index)
    }

    /// Whether nobody is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().fifo.is_empty()
    }
}

/// Wakes one actor. Waking a ready actor again changes nothing.
#[derive(Clone)]
pub struct Wake {
    set: WakeSet,
    index: u32,
}

impl Wake {
    /// Makes the actor ready.
    #[inline]
    pub fn wake(&self) {
        let mut r = self.set.0.borrow_mut();
        let i = self.index as usize;
        if !r.queued[i] {
            r.queued[i] = true;
            r.fifo.push_back(self.index);
        }
    }

    /// The actor's index in the runner's set.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifo_and_at_most_once() {
        let set = WakeSet::default();
        let (a, b) = (set.register(), set.register());
        assert_eq!((set.pop(), set.pop(), set.pop()), (Some(0), Some(1), None));
        b.wake();
        a.wake();
        b.wake();
        assert_eq!((set.pop(), set.pop(), set.pop()), (Some(1), Some(0), None));
        assert!(set.is_empty());
    }
}
