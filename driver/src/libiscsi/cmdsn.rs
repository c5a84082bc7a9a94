//! CmdSN assignment and the command window (RFC 7143 4.2.2.1; BNX2I-CNIC 5.1).

use iscsi::serial::Sn;

/// The initiator's side of the command window of one session.
#[derive(Clone, Debug)]
pub struct CmdSnWindow {
    next: Sn,
    exp: Sn,
    max: Sn,
}

impl CmdSnWindow {
    /// A window for a session whose login used `cmd_sn`. Until the target says otherwise exactly one command
    /// fits, as after a bind in libiscsi.
    #[must_use]
    pub fn new(cmd_sn: Sn) -> Self {
        Self { next: cmd_sn, exp: cmd_sn, max: cmd_sn }
    }

    /// Starts over after a new login with `cmd_sn`, whose final response carried `exp` and `max`.
    pub fn restart(&mut self, cmd_sn: Sn, exp: Sn, max: Sn) {
        *self = Self::new(cmd_sn);
        self.update(exp, max);
    }

    /// The number that an immediate PDU carries: it does not advance.
    #[must_use]
    pub fn immediate(&self) -> Sn {
        self.next
    }

    /// Spends a number on a non-immediate command; `None` when the window is closed.
    pub fn take(&mut self) -> Option<Sn> {
        if !self.next.le(self.max) {
            return None;
        }
        Some(self.next.take())
    }

    /// Takes ExpCmdSN and MaxCmdSN of any PDU from the target. Each only moves forward, and both are ignored
    /// when MaxCmdSN lies before ExpCmdSN - 1. Tells whether a closed window has opened.
    pub fn update(&mut self, exp: Sn, max: Sn) -> bool {
        if iscsi::serial::window(exp, max).is_none() {
            return false;
        }
        let was_closed = !self.is_open();
        // A target cannot have received what was never sent; such an ExpCmdSN would only poison the window.
        if exp.le(self.next) {
            self.exp.raise(exp);
        }
        self.max.raise(max);
        was_closed && self.is_open()
    }

    /// Whether a command fits now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.next.le(self.max)
    }

    /// How many more commands fit now.
    #[must_use]
    pub fn room(&self) -> u32 {
        if self.is_open() { self.max.next().since(self.next) } else { 0 }
    }

    /// Whether the target has received the command of `sn` (ExpCmdSN acknowledges all below it).
    #[must_use]
    pub fn is_received(&self, sn: Sn) -> bool {
        sn.lt(self.exp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(next: u32, exp: u32, max: u32) -> CmdSnWindow {
        let mut w = CmdSnWindow::new(Sn(next));
        w.restart(Sn(next), Sn(exp), Sn(max));
        w
    }

    #[test]
    fn one_command_fits_before_the_target_speaks() {
        let mut w = CmdSnWindow::new(Sn(7));
        assert_eq!((w.take(), w.take()), (Some(Sn(7)), None));
        assert_eq!(w.immediate(), Sn(8));
        assert!(w.update(Sn(8), Sn(9)), "opened");
        assert_eq!(w.room(), 2);
    }

    #[test]
    fn the_window_wraps() {
        let mut w = window(u32::MAX - 1, u32::MAX - 1, 1);
        assert_eq!((w.is_open(), w.room()), (true, 4));
        let taken: Vec<u32> = core::iter::from_fn(|| w.take()).map(|s| s.0).collect();
        assert_eq!(taken, [u32::MAX - 1, u32::MAX, 0, 1]);
        assert!(!w.update(Sn(u32::MAX), Sn(1)), "still closed");
        assert!(w.is_received(Sn(u32::MAX - 1)) && !w.is_received(Sn(u32::MAX)));
        assert!(w.update(Sn(1), Sn(3)));
        assert_eq!(w.room(), 2);
    }

    #[test]
    fn old_and_impossible_updates_are_ignored() {
        let mut w = window(10, 10, 20);
        assert!(!w.update(Sn(9), Sn(15)), "older values");
        assert_eq!(w.room(), 11);
        w.update(Sn(10), Sn(8));
        assert_eq!(w.room(), 11, "max < exp - 1");
        w.update(Sn(30), Sn(40));
        assert!(!w.is_received(Sn(10)));
    }
}
