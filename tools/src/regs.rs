//! `cnic regs`: the register table of the modelled card.

use hw_model::bcm5709::regs::{Access, Effect, REGISTERS, Register, Space};
use serde::Serialize;

use crate::failure::Failure;
use crate::say;

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    space: &'static str,
    address: u32,
    width: u32,
    access: &'static str,
    /// The bits that clear themselves (SC), or that writing a one clears (W1C).
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<u32>,
    reset: u32,
    /// What a write does besides being stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<String>,
}

impl From<&Register> for Row {
    fn from(r: &Register) -> Self {
        let (access, bits) = match r.access {
            Access::ReadOnly => ("RO", None),
            Access::ReadWrite => ("RW", None),
            Access::WriteOnly => ("WO", None),
            Access::WriteOneClear(bits) => ("W1C", Some(bits)),
            Access::SelfClearing(bits) => ("SC", Some(bits)),
        };
        let space = match r.space {
            Space::PciCfg => "config",
            Space::Grc => "grc",
            Space::Shmem => "shmem",
        };
        let effect = (r.effect != Effect::None).then(|| words(&format!("{:?}", r.effect)));
        Self {
            name: r.name,
            space,
            address: r.at,
            width: 8 * Register::WIDTH,
            access,
            bits,
            reset: r.reset,
            effect,
        }
    }
}

/// `CoalesceNow` as people write it.
fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Prints the table.
pub(crate) fn run(json: bool) -> Result<(), Failure> {
    let rows: Vec<Row> = REGISTERS.iter().map(Row::from).collect();
    say::report(json, &rows, |rows| {
        let mut text = format!(
            "{:32} {:6} {:>8} {:6} {:>10} effect of a write\n",
            "name", "space", "address", "access", "reset"
        );
        for r in rows {
            let effect = r.effect.as_deref().unwrap_or("");
            let line = format!(
                "{:32} {:6} {:#08x} {:6} {:#010x} {effect}",
                r.name, r.space, r.address, r.access, r.reset
            );
            text += line.trim_end();
            text.push('\n');
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_words() {
        assert_eq!(words("CoalesceNow"), "coalesce now");
        assert_eq!(words("Reset"), "reset");
    }
}
