//! The host: an adapter and whoever uses its block API, stepped as one actor.
//!
//! Users call the adapter directly (submit, reap), so they run where it runs: the fast path crosses no port.

use std::cell::RefCell;
use std::rc::Rc;

use bus::pci::Platform;
use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};
use driver::adapter::Adapter;

/// A user of the block API: takes completions and submits requests.
pub trait User<P: Platform> {
    /// Does what can be done now. Never blocks.
    fn drive(&mut self, cx: &mut Cx<'_>, adapter: &mut Adapter<P>) -> Progress;
}

/// An adapter with at most one user. See the module.
pub struct Host<P: Platform> {
    /// The adapter.
    pub adapter: Adapter<P>,
    /// Its user.
    pub user: Option<Rc<RefCell<dyn User<P>>>>,
}

impl<P: Platform> Actor for Host<P> {
    fn name(&self) -> ActorId {
        self.adapter.name()
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        let mut p = self.adapter.step(cx, budget);
        let Some(user) = &self.user else { return p };
        let u = user.borrow_mut().drive(cx, &mut self.adapter);
        if u.done > 0 {
            // What was submitted may have armed a timer or fit into a queue that the adapter has looked at already.
            let again = self.adapter.step(cx, budget);
            p = Progress { done: p.done + again.done, next: again.next };
        }
        Progress { done: p.done + u.done, next: Instant::earliest(p.next, u.next) }
    }
}
