//! Bounded message queues between actors: the control path.
//!
//! A port is made by the world that owns both ends. It is bounded: a full port refuses the message and hands
//! it back, so the sender decides. A killed receiver loses its inbox, and what is sent to it before the world
//! revives it is lost too: the sender is not told, as with a dead process behind a netlink socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use thiserror::Error;

use crate::wake::Wake;

/// The port was full; the message comes back and nothing was sent.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("port `{name}` is full ({capacity} messages)")]
pub struct PortFull<T> {
    /// The port's name.
    pub name: &'static str,
    /// Its capacity in messages.
    pub capacity: usize,
    /// The message that was not sent.
    pub message: T,
}

/// What happened at a port so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Messages accepted.
    pub sent: u64,
    /// Messages refused because the port was full.
    pub refused: u64,
    /// Messages lost with a killed receiver, or sent to it while it was dead.
    pub lost: u64,
}

struct Inner<T> {
    name: &'static str,
    capacity: usize,
    queue: VecDeque<T>,
    dead: bool,
    counters: PortCounters,
    wake: Wake,
}

/// Makes a port of `capacity` messages whose receiver is woken by `wake`.
#[must_use]
pub fn port<T>(name: &'static str, capacity: usize, wake: Wake) -> (PortTx<T>, PortRx<T>) {
    let inner = Rc::new(RefCell::new(Inner {
        name,
        capacity,
        queue: VecDeque::with_capacity(capacity.min(64)),
        dead: false,
        counters: PortCounters::default(),
        wake,
    }));
    (PortTx(inner.clone()), PortRx(inner))
}

/// The sending end.
pub struct PortTx<T>(Rc<RefCell<Inner<T>>>);

impl<T> Clone for PortTx<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PortTx<T> {
    /// Sends `message` and wakes the receiver. For a dead receiver it is lost.
    ///
    /// # Errors
    /// [`PortFull`] hands the message back when the port already holds its capacity.
    pub fn send(&self, message: T) -> Result<(), PortFull<T>> {
        let mut p = self.0.borrow_mut();
        if p.dead {
            p.counters.sent += 1;
            p.counters.lost += 1;
            return Ok(());
        }
        if p.queue.len() >= p.capacity {
            p.counters.refused += 1;
            return Err(PortFull { name: p.name, capacity: p.capacity, message });
        }
        p.queue.push_back(message);
        p.counters.sent += 1;
        p.wake.wake();
        Ok(())
    }

    /// How many more messages the port takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        let p = self.0.borrow();
        p.capacity - p.queue.len()
    }

    /// What happened here so far.
    #[must_use]
    pub fn counters(&self) -> PortCounters {
        self.0.borrow().counters
    }
}

/// The receiving end. A world keeps a clone of it, to give to a receiver that it restarts.
pub struct PortRx<T>(Rc<RefCell<Inner<T>>>);

impl<T> Clone for PortRx<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PortRx<T> {
    /// Takes the oldest message.
    pub fn recv(&self) -> Option<T> {
        self.0.borrow_mut().queue.pop_front()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().queue.is_empty()
    }

    /// The receiver was killed: its inbox is lost, and so is what comes until it is revived.
    pub fn kill(&self) {
        let mut p = self.0.borrow_mut();
        p.counters.lost += p.queue.len() as u64;
        p.queue.clear();
        p.dead = true;
    }

    /// There is a receiver again.
    pub fn revive(&self) {
        self.0.borrow_mut().dead = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::WakeSet;

    #[test]
    fn full_port_hands_the_message_back() {
        let set = WakeSet::default();
        let (tx, rx) = port("test", 2, set.register());
        set.pop();
        tx.send(1).unwrap();
        tx.send(2).unwrap();
        assert_eq!(tx.send(3), Err(PortFull { name: "test", capacity: 2, message: 3 }));
        assert_eq!(set.pop(), Some(0), "a message wakes the receiver");
        assert_eq!((rx.recv(), rx.recv(), rx.recv()), (Some(1), Some(2), None));
        assert_eq!(tx.counters(), PortCounters { sent: 2, refused: 1, lost: 0 });
    }

    #[test]
    fn a_killed_receiver_loses_its_inbox() {
        let (tx, rx) = port("test", 2, WakeSet::default().register());
        tx.send(1).unwrap();
        rx.kill();
        assert_eq!(rx.recv(), None);
        assert_eq!((tx.counters().lost, tx.room()), (1, 2));
    }
    #[test]
    fn what_is_sent_to_a_dead_receiver_is_never_delivered() {
        let set = WakeSet::default();
        let (tx, rx) = port("test", 2, set.register());
        set.pop();
        rx.kill();
        for n in 0..5 {
            tx.send(n).expect("nobody is there to refuse it");
        }
        assert_eq!(set.pop(), None, "nobody is woken");
        rx.revive();
        assert_eq!(rx.recv(), None);
        tx.send(7).unwrap();
        assert_eq!((rx.recv(), tx.counters()), (Some(7), PortCounters { sent: 6, refused: 0, lost: 5 }));
    }
}
