//! Connection ids: a FIFO free list with a typed guard, so that a cid can neither be freed twice nor be mixed
//! up with another (BNX2I-CNIC 13.4, L1), and a generation per cid, so that late events find nothing.

use std::collections::VecDeque;

use crate::config::MAX_CONNECTIONS;

/// A cid that is taken. It goes back with [`CidPool::put`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a cid goes back to its pool"]
pub(crate) struct CidGuard {
    cid: u16,
    generation: u32,
}

impl CidGuard {
    pub(crate) fn cid(&self) -> u16 {
        self.cid
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }
}

/// The cids of one adapter. A freed one goes to the tail, so that it rests for as long as possible.
pub(crate) struct CidPool {
    free: VecDeque<u16>,
    generations: Vec<u32>,
}

impl CidPool {
    pub(crate) fn new() -> Self {
        Self { free: (0..MAX_CONNECTIONS).collect(), generations: vec![1; usize::from(MAX_CONNECTIONS)] }
    }

    pub(crate) fn take(&mut self) -> Option<CidGuard> {
        let cid = self.free.pop_front()?;
        Some(CidGuard { cid, generation: self.generations[usize::from(cid)] })
    }

    pub(crate) fn put(&mut self, guard: CidGuard) {
        let generation = &mut self.generations[usize::from(guard.cid)];
        *generation = generation.wrapping_add(1);
        self.free.push_back(guard.cid);
    }

    pub(crate) fn taken(&self) -> u32 {
        u32::from(MAX_CONNECTIONS) - self.free.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifo_and_generation() {
        let mut pool = CidPool::new();
        let a = pool.take().unwrap();
        assert_eq!((a.cid(), a.generation()), (0, 1));
        pool.put(a);
        let rest: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!((rest.len(), rest[0].cid(), rest[127].cid()), (128, 1, 0), "a freed cid rests longest");
        assert_eq!((rest[127].generation(), pool.taken()), (2, 128));
        assert!(pool.take().is_none());
        rest.into_iter().for_each(|g| pool.put(g));
        assert_eq!(pool.taken(), 0);
    }
}
