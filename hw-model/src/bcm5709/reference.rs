//! The register reference: the table of [`super::regs`] for people and machines.
//!
//! [`rows`] serializes to JSON as it is; [`markdown`] is what `docs/registers.md` holds, which a test keeps
//! up to date.

use std::fmt::Write as _;

use hsi::bcm5709::regs::config_space::MIRROR_BYTES;
use hsi::book::FACTS;
use hsi::facts::Kind;
use serde::Serialize;

use super::regs::{Access, Effect, MEMORIES, REGISTERS, Register, Space};

/// One register, or one range that is memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Name, without the vendor's prefix.
    pub name: &'static str,
    /// `config`, `grc` or `shmem`; `memory` for a range.
    pub space: &'static str,
    /// Address of the first byte.
    pub address: u32,
    /// How a host reaches it.
    pub reach: &'static str,
    /// Bytes.
    pub bytes: u32,
    /// `RO`, `RW`, `WO`, `W1C` or `SC` (self-clearing).
    pub access: &'static str,
    /// The bits that are cleared by a write of one, or that clear themselves.
    pub bits: Option<u32>,
    /// Value after a reset. Identity, licence and link of a card replace some of them.
    pub reset: u32,
    /// What it holds.
    pub about: &'static str,
    /// What a write does besides being stored, or what a read shows.
    pub effect: &'static str,
}

/// What the data book says about a register; the registers of a vector are those of the plain block.
fn about(r: &Register) -> &'static str {
    let plain = r.name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    let facts = || FACTS.iter().copied().flatten().filter(|f| matches!(f.kind, Kind::Register(_)));
    let named =
        |name: &str| facts().find(|f| f.name.trim_start_matches("BNX2_") == name).map(|f| f.doc.trim());
    named(r.name).or_else(|| named(plain)).unwrap_or_default()
}

fn reach(address: u32) -> &'static str {
    match address {
        0..MIRROR_BYTES => "config space, BAR 0",
        MIRROR_BYTES..0x1_0000 => "BAR 0, window",
        _ => "window",
    }
}

fn row(r: &Register) -> Row {
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
    let effect = if r.effect == Effect::None { "" } else { r.effect.text() };
    let (name, address, reset) = (r.name, r.at, r.reset);
    Row {
        name,
        space,
        address,
        reach: reach(address),
        bytes: Register::WIDTH,
        access,
        bits,
        reset,
        about: about(r),
        effect,
    }
}

/// All registers and memories, in the order of their addresses.
#[must_use]
pub fn rows() -> Vec<Row> {
    let memories = MEMORIES.iter().map(|&(name, address, bytes)| Row {
        name,
        space: "memory",
        address,
        reach: reach(address),
        bytes,
        access: "RW",
        bits: None,
        reset: 0,
        about: "",
        effect: "",
    });
    let mut rows: Vec<Row> = REGISTERS.iter().map(row).chain(memories).collect();
    rows.sort_by_key(|r| (r.address, r.bytes));
    rows
}

/// The reference as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Registers of the 5709 model\n\n\
         Generated from the register table (`hw-model/src/bcm5709/regs.rs`); a test compares. Addresses below 0x100 are\n\
         private registers of configuration space, mirrored at the start of BAR 0; below 0x10000 BAR 0 shows register\n\
         space directly; everything is reachable through the window (address to 0x78, data at 0x80). All registers have\n\
         32 bits. A register that is not listed answers like memory and is counted.\n\n\
         Access: RO read-only, RW read-write, WO write-only (reads zero), W1C these bits are cleared by writing one, SC\n\
         these bits clear themselves. Reset values are those of a card with default configuration and no identity.\n\n\
         | address | name | access | reset | holds | effect |\n|---|---|---|---|---|---|\n",
    );
    for r in rows().iter().filter(|r| r.space != "memory") {
        let bits = r.bits.map(|b| format!(" {b:#x}")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {:#08x} | {} | {}{} | {:#x} | {} | {} |",
            r.address, r.name, r.access, bits, r.reset, r.about, r.effect
        );
    }
    out.push_str("\n## Memory\n\n| address | bytes | name |\n|---|---|---|\n");
    for r in rows().iter().filter(|r| r.space == "memory") {
        let _ = writeln!(out, "| {:#08x} | {:#x} | {} |", r.address, r.bytes, r.name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/registers.md");

    /// `UPDATE_DOCS=1` writes the file instead.
    #[test]
    fn the_reference_in_docs_is_up_to_date() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(FILE, markdown()).expect("docs/registers.md can be written");
        }
        let kept = std::fs::read_to_string(FILE).unwrap_or_default();
        assert!(kept == markdown(), "docs/registers.md is old: run this test with UPDATE_DOCS=1");
    }

    #[test]
    fn every_register_is_in_it_once() {
        let rows = rows();
        assert_eq!(rows.len(), REGISTERS.len() + MEMORIES.len());
        let mut names: Vec<_> = rows.iter().map(|r| r.name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "names are unique");
        let text = markdown();
        assert!(
            text.contains("| 0x001404 | EMAC_STATUS | W1C 0xc01000 | 0x0 | Link and MDIO events. |  |"),
            "{text}"
        );
        assert!(text.contains("| 0x006a24 | HC_SB_CONFIG_2 | RW | 0x0 | Configuration of vector 2. |"));
    }
}
