//! A bounded queue of frames that reuses its buffers.

use std::collections::VecDeque;

/// Frames on their way, oldest first. Nothing is allocated once the buffers have grown to the frames they
/// carry.
#[derive(Debug)]
pub struct FrameQueue {
    frames: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    limit: usize,
    dropped: u64,
}

impl FrameQueue {
    /// A queue of at most `limit` frames.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { frames: VecDeque::with_capacity(limit), spare: Vec::with_capacity(limit), limit, dropped: 0 }
    }

    /// Appends a copy of `frame`, to be changed in place. `None`: the queue is full; the frame is dropped and
    /// counted.
    pub fn push(&mut self, frame: &[u8]) -> Option<&mut Vec<u8>> {
        if self.frames.len() >= self.limit {
            self.dropped += 1;
            return None;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.frames.push_back(buffer);
        self.frames.back_mut()
    }

    /// Takes the oldest frame into `out`. Without one, `out` is empty and the answer false.
    pub fn pop(&mut self, out: &mut Vec<u8>) -> bool {
        out.clear();
        let Some(mut frame) = self.frames.pop_front() else { return false };
        std::mem::swap(out, &mut frame);
        self.spare.push(frame);
        true
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.spare.extend(self.frames.drain(..));
    }

    /// Frames that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames that found the queue full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out_up_to_the_limit() {
        let mut q = FrameQueue::new(2);
        q.push(b"one").expect("room").push(b'!');
        assert!(q.push(b"two").is_some());
        assert!(q.push(b"three").is_none());
        assert_eq!((q.len(), q.dropped()), (2, 1));
        let mut out = b"old".to_vec();
        assert!(q.pop(&mut out));
        assert_eq!(out, b"one!");
        assert!(q.pop(&mut out) && out == b"two" && q.is_empty());
        assert!(!q.pop(&mut out) && out.is_empty());
    }
}
