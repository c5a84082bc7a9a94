//! The transmit buffer of a connection: PDUs on the card, whole, between host memory and the transport.
//!
//! Payload is copied out of host memory once, into this buffer, so that a task can be cleaned up at any time:
//! what was begun goes out from here. It is linear, empties most of the time with one send, and grows to its
//! limit.

/// Bytes that a connection keeps at most.
pub(super) const LIMIT: usize = 256 * 1024;

/// First allocation.
const FIRST: usize = 8 * 1024;

/// Bytes `head..tail` wait to be sent.
#[derive(Default)]
pub(super) struct TxBuf {
    bytes: Vec<u8>,
    head: usize,
    tail: usize,
}

impl TxBuf {
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.head..self.tail]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Whether [`TxBuf::reserve`] would find room.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.tail - self.head + len <= LIMIT
    }

    /// Room for `len` bytes at the end; `None` when the limit is reached. [`TxBuf::commit`] makes them
    /// pending.
    pub(super) fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if !self.has_room(len) {
            return None;
        }
        let used = self.tail - self.head;
        if self.tail + len > self.bytes.len() {
            self.bytes.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, used);
            if used + len > self.bytes.len() {
                self.bytes.resize((used + len).next_power_of_two().max(FIRST), 0);
            }
        }
        Some(&mut self.bytes[self.tail..self.tail + len])
    }

    /// The first `len` reserved bytes are complete.
    pub(super) fn commit(&mut self, len: usize) {
        self.tail += len;
        debug_assert!(self.tail <= self.bytes.len(), "no more than reserved");
    }

    /// `n` bytes were sent.
    pub(super) fn sent(&mut self, n: usize) {
        self.head += n;
        debug_assert!(self.head <= self.tail, "the transport took no more than it was given");
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order_through_partial_sends_and_growth() {
        let (mut tx, mut out) = (TxBuf::default(), Vec::new());
        let mut next = 0u8;
        for round in 0..400 {
            let len = 1 + round * 7 % 3000;
            tx.reserve(len).unwrap().iter_mut().for_each(|b| {
                *b = next;
                next = next.wrapping_add(1);
            });
            tx.commit(len);
            let n = tx.pending().len().min(1 + round * 13 % 2500);
            out.extend_from_slice(&tx.pending()[..n]);
            tx.sent(n);
        }
        out.extend_from_slice(tx.pending());
        assert!(out.iter().enumerate().all(|(i, &b)| b == i as u8) && out.len() > 100_000);
    }

    #[test]
    fn the_limit_is_reached_and_left_again() {
        let mut tx = TxBuf::default();
        assert_eq!(tx.reserve(LIMIT).unwrap().len(), LIMIT);
        tx.commit(LIMIT);
        assert!(tx.reserve(1).is_none());
        tx.sent(1);
        assert_eq!(tx.reserve(1).unwrap().len(), 1);
        assert_eq!(tx.bytes.len(), LIMIT);
    }
}
