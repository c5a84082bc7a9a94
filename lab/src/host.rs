//! The host: an adapter and whoever uses its block API, stepped as one actor.
//!
//! Users call the adapter directly (submit, reap), so they run where it runs: the fast path crosses no port.

use std::cell::RefCell;
use std::rc::Rc;

use bus::pci::Platform;
use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};
use driver::adapter::Adapter;
use driver::user::Ticket;

use crate::ages::Ages;

/// A user of the block API: takes completions and submits requests.
pub trait User<P: Platform> {
    /// Does what can be done now. Never blocks.
    fn drive(&mut self, cx: &mut Cx<'_>, adapter: &mut Adapter<P>) -> Progress;
}

/// Which of a user's slots waits for which ticket. It is found by its ticket without a walk over the slots,
/// and nothing is allocated once it was as full as it gets.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// Ascending by ticket, which is the order in which they are given out.
    tickets: Vec<(Ticket, usize)>,
}

impl Waiting {
    /// Nobody waits; there is room for `slots`.
    #[must_use]
    pub fn with_capacity(slots: usize) -> Self {
        Self { tickets: Vec::with_capacity(slots) }
    }

    /// `slot` waits for `ticket`.
    pub fn insert(&mut self, ticket: Ticket, slot: usize) {
        let at = self.tickets.partition_point(|(t, _)| *t < ticket);
        self.tickets.insert(at, (ticket, slot));
    }

    /// `ticket` completed: the slot that waited for it, if one did.
    pub fn take(&mut self, ticket: Ticket) -> Option<usize> {
        let at = self.tickets.binary_search_by_key(&ticket, |(t, _)| *t).ok()?;
        Some(self.tickets.remove(at).1)
    }

    /// Slots that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }
}

/// An adapter with at most one user. See the module.
pub struct Host<P: Platform> {
    /// The adapter.
    pub adapter: Adapter<P>,
    /// Its user.
    pub user: Option<Rc<RefCell<dyn User<P>>>>,
    /// How long requests and sessions have waited.
    pub ages: Ages,
}

impl<P: Platform> Actor for Host<P> {
    fn name(&self) -> ActorId {
        self.adapter.name()
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        let mut p = self.adapter.step(cx, budget);
        if self.ages.is_due(cx.now) {
            self.ages.look(cx.now, self.adapter.sessions());
        }
        let Some(user) = &self.user else { return p };
        let u = user.borrow_mut().drive(cx, &mut self.adapter);
        if u.done > 0 {
            // What was submitted may have armed a timer or fit into a queue that the adapter has looked at
            // already.
            let again = self.adapter.step(cx, budget);
            p = Progress { done: p.done + again.done, next: again.next };
        }
        Progress { done: p.done + u.done, next: Instant::earliest(p.next, u.next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ticket_is_taken_once_whatever_the_order() {
        let mut waiting = Waiting::with_capacity(4);
        for (ticket, slot) in [(10, 3), (12, 0), (11, 7)] {
            waiting.insert(Ticket(ticket), slot);
        }
        let taken = [11, 10, 10, 13, 12].map(|t| waiting.take(Ticket(t)));
        assert_eq!(taken, [Some(7), Some(3), None, None, Some(0)]);
        assert!(waiting.is_empty());
    }
}
