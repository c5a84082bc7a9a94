//! A tee on a wire: every frame that passes goes into a recording.

use bus::Instant;
use bus::pci::DevCx;

use super::Wire;
use super::pcapng::{Direction, Interface, Recording};

/// A wire whose frames are recorded.
pub struct Tee<W> {
    wire: W,
    recording: Recording,
}

impl<W: Wire> Tee<W> {
    /// Records what passes `wire`.
    pub fn new(wire: W, recording: Recording) -> Self {
        Self { wire, recording }
    }
}

impl<W: Wire> Wire for Tee<W> {
    fn send(&mut self, cx: &mut DevCx<'_>, frame: &[u8]) {
        self.recording.record(cx.now, Interface::Ethernet, Direction::Out, frame);
        self.wire.send(cx, frame);
    }

    fn recv(&mut self, cx: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        self.recording.turn(cx.now);
        let arrived = self.wire.recv(cx, frame);
        if arrived {
            self.recording.record(cx.now, Interface::Ethernet, Direction::In, frame);
        }
        arrived
    }

    fn link(&self) -> bool {
        self.wire.link()
    }

    fn next_deadline(&self) -> Option<Instant> {
        Instant::earliest(self.wire.next_deadline(), self.recording.next_deadline())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pcapng::testing::File;
    use super::super::responder::tests::arp_request;
    use super::*;
    use crate::testing::Bench;
    use crate::wire::Responder;

    #[test]
    fn both_directions_are_recorded_whatever_becomes_of_the_file() {
        let question = arp_request([2; 6], 1, 2);
        for limit in [usize::MAX, 500] {
            let file = File::new(limit);
            let recording = Recording::new(file.clone(), 0).expect("a header");
            let mut t = Tee::new(Responder::default(), recording.clone());
            let mut answer = Vec::new();
            Bench::new().with(|cx| {
                for _ in 0..4 {
                    t.send(cx, &question);
                    recording.flush();
                    assert!(t.recv(cx, &mut answer) && !t.recv(cx, &mut Vec::new()));
                    recording.flush();
                }
            });
            assert_eq!(answer.len(), 42, "the wire goes on");
            assert_eq!(recording.failure().is_some(), limit == 500);
            if limit == usize::MAX {
                let seen = file.frames();
                assert_eq!(seen.len(), 8);
                assert_eq!(seen[0], (0, Direction::Out as u32, 0, question.clone()));
                assert_eq!(seen[1], (0, Direction::In as u32, 0, answer));
            }
        }
    }
}
