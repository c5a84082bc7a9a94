//! Deadlines by slot: a binary heap in which an entry can be moved, so that each slot has one at most.

use bus::Instant;

const NONE: u32 = u32::MAX;

/// The deadlines of all slots.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: Vec<(Instant, u16)>,
    /// Where a slot stands in the heap.
    place: Vec<u32>,
}

impl Deadlines {
    /// Sets, moves or (`None`) removes the deadline of a slot.
    pub(super) fn set(&mut self, slot: u16, deadline: Option<Instant>) {
        let index = usize::from(slot);
        if self.place.len() <= index {
            self.place.resize(index + 1, NONE);
        }
        match (self.place[index], deadline) {
            (NONE, None) => {}
            (NONE, Some(at)) => {
                self.heap.push((at, slot));
                self.place[index] = self.heap.len() as u32 - 1;
                self.up(self.heap.len() - 1);
            }
            (at, None) => self.remove(at as usize),
            (at, Some(deadline)) => {
                self.heap[at as usize].0 = deadline;
                self.up(at as usize);
                self.down(self.place[index] as usize);
            }
        }
    }

    /// The earliest.
    pub(super) fn first(&self) -> Option<Instant> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Takes a slot whose deadline has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<u16> {
        let &(at, slot) = self.heap.first()?;
        (at <= now).then(|| {
            self.remove(0);
            slot
        })
    }

    fn remove(&mut self, at: usize) {
        let (_, slot) = self.heap.swap_remove(at);
        self.place[usize::from(slot)] = NONE;
        if let Some(&(_, moved)) = self.heap.get(at) {
            self.place[usize::from(moved)] = at as u32;
            self.up(at);
            self.down(self.place[usize::from(moved)] as usize);
        }
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 && self.heap[at] < self.heap[(at - 1) / 2] {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn down(&mut self, mut at: usize) {
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.heap.len());
            let Some(least) = children.min_by_key(|&c| self.heap[c]) else { return };
            if self.heap[at] <= self.heap[least] {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.place[usize::from(self.heap[a].1)] = a as u32;
        self.place[usize::from(self.heap[b].1)] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_map(calls in prop::collection::vec((0..20_u16, prop::option::of(0..50_u64)), 0..200)) {
            let mut heap = Deadlines::default();
            let mut map = BTreeMap::new();
            for (slot, at) in calls {
                let at = at.map(Instant::from_nanos);
                heap.set(slot, at);
                match at {
                    Some(at) => drop(map.insert(slot, at)),
                    None => drop(map.remove(&slot)),
                }
                prop_assert_eq!(heap.first(), map.values().min().copied());
            }
            let mut order = Vec::new();
            while let Some(at) = heap.first() {
                prop_assert!(at == Instant::ZERO || heap.due(Instant::from_nanos(at.as_nanos() - 1)).is_none());
                let slot = heap.due(at);
                prop_assert_eq!(slot.and_then(|s| map.remove(&s)), Some(at));
                order.push(at);
            }
            prop_assert!(map.is_empty() && order.is_sorted());
        }
    }
}
