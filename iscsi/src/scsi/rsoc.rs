//! REPORT SUPPORTED OPERATION CODES (SPC-4 6.34): the initiator asks it before it uses WRITE SAME, UNMAP and
//! their like.

use super::{Sense, be16};

/// One supported command: what the target's table holds and the report prints.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// CDB usage data: operation code, then one bit for each CDB bit that is evaluated. Its length is the CDB
    /// length.
    pub usage: &'static [u8],
    /// Service action, where the operation code has them.
    pub action: Option<u16>,
}

impl Command {
    /// The operation code.
    pub fn opcode(&self) -> u8 {
        self.usage[0]
    }
}

/// The 12-byte command timeouts descriptor: no timeout indicated.
const TIMEOUTS: [u8; 12] = [0, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Appends the all-commands form (option 0).
pub fn report_all(commands: &[Command], timeouts: bool, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    for command in commands {
        let [high, low] = command.action.unwrap_or(0).to_be_bytes();
        let flags = u8::from(command.action.is_some()) | if timeouts { 2 } else { 0 };
        out.extend_from_slice(&[command.opcode(), 0, high, low, 0, flags, 0, command.usage.len() as u8]);
        if timeouts {
            out.extend_from_slice(&TIMEOUTS);
        }
    }
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends the one-command form (options 1 to 3). Option 1 for a code with service actions and option 2 for
/// one without are refused.
pub fn report_one(
    commands: &[Command],
    options: u8,
    opcode: u8,
    action: u16,
    timeouts: bool,
    out: &mut Vec<u8>,
) -> Result<(), Sense> {
    let has_actions = commands.iter().any(|c| c.opcode() == opcode && c.action.is_some());
    let plain = commands.iter().any(|c| c.opcode() == opcode && c.action.is_none());
    match options {
        1 if has_actions => return Err(Sense::invalid_cdb_byte(2)),
        2 if plain => return Err(Sense::invalid_cdb_byte(2)),
        1..=3 => {}
        _ => return Err(Sense::invalid_cdb_byte(2)),
    }
    let found = commands.iter().find(|c| c.opcode() == opcode && c.action.is_none_or(|a| a == action));
    let (support, usage) = match found {
        Some(command) => (Support::Standard, command.usage),
        None => (Support::No, &[][..]),
    };
    let timeouts = timeouts && found.is_some();
    out.extend_from_slice(&[0, support as u8 | if timeouts { 0x80 } else { 0 }, 0, usage.len() as u8]);
    out.extend_from_slice(usage);
    if timeouts {
        out.extend_from_slice(&TIMEOUTS);
    }
    Ok(())
}

/// The SUPPORT field of the one-command form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Not known at this time.
    Unavailable = 0,
    /// Not supported.
    No = 1,
    /// Supported as the standard says.
    Standard = 3,
    /// Supported in a vendor's way.
    Vendor = 5,
}

impl Support {
    /// Reads the one-command form: support and the CDB usage data that arrived.
    pub fn parse(data: &[u8]) -> Option<(Support, &[u8])> {
        let support = match data.get(1)? & 7 {
            1 => Support::No,
            3 => Support::Standard,
            5 => Support::Vendor,
            _ => Support::Unavailable,
        };
        let len = usize::from(be16(data, 2)?);
        let usage = &data[4..];
        Some((support, &usage[..usage.len().min(len)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Command] = &[
        Command { usage: &[0x00, 0, 0, 0, 0, 4], action: None },
        Command {
            usage: &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 4],
            action: Some(0x10),
        },
    ];

    #[test]
    fn all_commands_with_and_without_timeouts() {
        let mut out = Vec::new();
        report_all(TABLE, false, &mut out);
        assert_eq!(out[..12], [0, 0, 0, 16, 0x00, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(out[12..], [0x9E, 0, 0, 0x10, 0, 1, 0, 16]);
        out.clear();
        report_all(TABLE, true, &mut out);
        assert_eq!(out.len(), 4 + 2 * 20);
        assert_eq!(out[9], 2);
    }

    #[test]
    fn one_command() {
        let mut out = Vec::new();
        report_one(TABLE, 2, 0x9E, 0x10, false, &mut out).unwrap();
        let (support, usage) = Support::parse(&out).unwrap();
        assert_eq!((support, usage), (Support::Standard, TABLE[1].usage));
        out.clear();
        report_one(TABLE, 1, 0x42, 0, true, &mut out).unwrap();
        assert_eq!(Support::parse(&out), Some((Support::No, &[][..])));
        out.clear();
        report_one(TABLE, 3, 0x9E, 0x11, false, &mut out).unwrap();
        assert_eq!(Support::parse(&out).unwrap().0, Support::No, "another service action");
        assert!(report_one(TABLE, 1, 0x9E, 0, false, &mut out).is_err(), "has service actions");
        assert!(report_one(TABLE, 2, 0x00, 0, false, &mut out).is_err(), "has none");
        assert!(report_one(TABLE, 4, 0x00, 0, false, &mut out).is_err(), "no such option");
        assert!(Support::parse(&[0, 3]).is_none());
    }
}
