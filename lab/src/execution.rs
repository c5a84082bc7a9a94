//! The execution oracle: no CmdSN of a session is executed twice (invariant S5 of ARCHITECTURE 8).
//!
//! It is fed the events of the embedded target, which names every SCSI command that it delivers to a logical
//! unit. The target delivers in CmdSN order, so within one session the numbers of non-immediate commands only
//! rise. What it cannot see: a command that an earlier session of the same initiator executed and a later one
//! repeats; that is what the data oracle is for.

use std::collections::BTreeMap;

use iscsi::serial::Sn;
use iscsi::target::Event;

/// What was executed so far.
#[derive(Clone, Debug, Default)]
pub struct Executions {
    /// The last CmdSN of each session, by its handle.
    last: BTreeMap<u16, Sn>,
    commands: u64,
    repeated: u64,
}

impl Executions {
    /// Takes note of an event.
    pub fn observe(&mut self, event: &Event) {
        match *event {
            Event::LoggedIn { tsih, .. } => {
                // Handles are used again by later sessions.
                self.last.remove(&tsih);
            }
            Event::Executed { tsih, cmd_sn, immediate: false, .. } => {
                self.commands += 1;
                let cmd_sn = Sn(cmd_sn);
                match self.last.get(&tsih) {
                    Some(last) if !last.lt(cmd_sn) => self.repeated += 1,
                    _ => {
                        self.last.insert(tsih, cmd_sn);
                    }
                }
            }
            _ => {}
        }
    }

    /// Non-immediate commands executed.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// Commands that carried a CmdSN which was executed before.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use iscsi::target::{ServerConfig, TargetServer};

    use super::*;

    #[test]
    fn a_repeated_number_is_noticed_and_a_new_session_starts_anew() {
        let conn =
            TargetServer::new(ServerConfig::default()).connect("192.0.2.1:3260", 0).expect("there is room");
        let executed =
            |cmd_sn, immediate| Event::Executed { conn, tsih: 1, cmd_sn, immediate, itt: 0, opcode: 0x28 };
        let login = Event::LoggedIn { conn, initiator: String::new(), target: None, tsih: 1 };
        let mut x = Executions::default();
        for cmd_sn in [u32::MAX, 0, 1] {
            x.observe(&executed(cmd_sn, false));
        }
        x.observe(&executed(1, true));
        assert_eq!((x.commands(), x.repeated()), (3, 0));
        x.observe(&executed(1, false));
        x.observe(&executed(0, false));
        assert_eq!(x.repeated(), 2);
        x.observe(&login);
        x.observe(&executed(0, false));
        assert_eq!(x.repeated(), 2);
    }
}
