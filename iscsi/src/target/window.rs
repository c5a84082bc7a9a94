//! The command window of a session (RFC 7143 4.2.2.1): which CmdSN may run now, which has to wait for an
//! earlier one, and which is ignored. MaxCmdSN moves on when a command ends, never back, so an initiator can
//! never have more commands under way than the window is deep.

use crate::serial::Sn;
use std::collections::VecDeque;

/// A non-immediate request that came before an earlier one.
#[derive(Debug)]
pub(super) struct Held {
    cmd_sn: Sn,
    /// `None` for a number that ABORT TASK declared as received.
    request: Option<([u8; 48], Vec<u8>)>,
}

/// What to do with a non-immediate request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is the next: run it.
    Now,
    /// An earlier one is missing.
    Later,
    /// Outside the window or a duplicate: as if it had never come.
    Never,
}

/// The window.
#[derive(Debug)]
pub(super) struct Window {
    exp: Sn,
    max: Sn,
    held: VecDeque<Held>,
    held_bytes: usize,
}

impl Window {
    /// Most bytes of data segments that wait with their requests; beyond it a request is rejected (0x0A) and
    /// may be sent again.
    pub(super) const HELD_BYTES: usize = 1 << 20;

    /// A window that starts at the CmdSN of the login and is `depth` deep.
    pub(super) fn new(first: Sn, depth: u32) -> Window {
        Window { exp: first, max: first.add(depth).sub(1), held: VecDeque::new(), held_bytes: 0 }
    }

    pub(super) fn exp(&self) -> Sn {
        self.exp
    }

    pub(super) fn max(&self) -> Sn {
        self.max
    }

    /// Judges a CmdSN. [`Turn::Now`] has been counted as received.
    pub(super) fn judge(&mut self, cmd_sn: Sn) -> Turn {
        if !self.is_open_for(cmd_sn) {
            return Turn::Never;
        }
        if cmd_sn == self.exp {
            self.exp = self.exp.next();
            return Turn::Now;
        }
        Turn::Later
    }

    /// Whether the CmdSN is in the window and has not been received.
    pub(super) fn is_open_for(&self, cmd_sn: Sn) -> bool {
        cmd_sn.within(self.exp, self.max) && !self.held.iter().any(|held| held.cmd_sn == cmd_sn)
    }

    /// Keeps a request whose turn is later. False when there is no room for its data, of which `share` bytes
    /// may be held here.
    pub(super) fn hold(&mut self, cmd_sn: Sn, header: &[u8; 48], data: &[u8], share: usize) -> bool {
        if self.held_bytes + data.len() > Self::HELD_BYTES.min(share) {
            return false;
        }
        self.held_bytes += data.len();
        self.held.push_back(Held { cmd_sn, request: Some((*header, data.to_vec())) });
        true
    }

    /// Counts a CmdSN as received without a request (ABORT TASK of a task that never came).
    pub(super) fn plug(&mut self, cmd_sn: Sn) {
        if self.is_open_for(cmd_sn) {
            self.held.push_back(Held { cmd_sn, request: None });
        }
    }

    /// Forgets a held request by tag: it was aborted. Its number stays received.
    pub(super) fn abort_held(&mut self, mut matches: impl FnMut(&[u8; 48]) -> bool) -> u32 {
        let mut aborted = 0;
        for held in &mut self.held {
            if held.request.as_ref().is_some_and(|(header, _)| matches(header)) {
                let (_, data) = held.request.take().expect("just looked at");
                self.held_bytes -= data.len();
                aborted += 1;
            }
        }
        aborted
    }

    /// The next held request whose turn has come. Plugged numbers are skipped, each like a command that has
    /// ended.
    pub(super) fn next_held(&mut self) -> Option<([u8; 48], Vec<u8>)> {
        loop {
            let at = self.held.iter().position(|held| held.cmd_sn == self.exp)?;
            self.exp = self.exp.next();
            match self.held.remove(at).and_then(|held| held.request) {
                Some((header, data)) => {
                    self.held_bytes -= data.len();
                    return Some((header, data));
                }
                None => self.release(),
            }
        }
    }

    /// A non-immediate command has ended: room for one more.
    pub(super) fn release(&mut self) {
        self.max = self.max.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 48] = [0; 48];

    #[test]
    fn in_order_out_of_order_and_outside() {
        let mut window = Window::new(Sn(u32::MAX), 4);
        assert_eq!(window.judge(Sn(3)), Turn::Never, "too high");
        assert_eq!(window.judge(Sn(u32::MAX - 1)), Turn::Never, "too low");
        assert_eq!(window.judge(Sn(1)), Turn::Later);
        assert!(window.hold(Sn(1), &HEADER, &[1], usize::MAX));
        assert_eq!(window.judge(Sn(1)), Turn::Never, "a duplicate of a held one");
        assert_eq!(window.judge(Sn(u32::MAX)), Turn::Now);
        assert!(window.next_held().is_none());
        assert_eq!(window.judge(Sn(0)), Turn::Now);
        assert_eq!(window.next_held().map(|(_, data)| data), Some(vec![1]));
        assert_eq!(window.exp(), Sn(2));
        assert_eq!(window.judge(Sn(2)), Turn::Now);
        assert_eq!(window.judge(Sn(3)), Turn::Never, "closed: four are under way");
        window.release();
        assert_eq!(window.judge(Sn(3)), Turn::Now);
    }

    #[test]
    fn a_plugged_number_lets_the_next_run() {
        let mut window = Window::new(Sn(10), 4);
        assert!(window.hold(Sn(11), &HEADER, &[], usize::MAX));
        window.plug(Sn(10));
        assert!(window.next_held().is_some());
        assert_eq!((window.exp(), window.max()), (Sn(12), Sn(14)));
    }

    #[test]
    fn held_data_is_limited_and_counted_back() {
        let mut window = Window::new(Sn(0), 64);
        let big = vec![0; Window::HELD_BYTES];
        assert!(window.hold(Sn(1), &HEADER, &big, usize::MAX));
        assert!(!window.hold(Sn(2), &HEADER, &[0], usize::MAX));
        assert_eq!(window.abort_held(|_| true), 1);
        assert!(window.hold(Sn(2), &HEADER, &big, usize::MAX));
        assert_eq!(window.judge(Sn(0)), Turn::Now);
        assert!(window.next_held().is_some());
        assert_eq!(window.held_bytes, 0);
    }
}
