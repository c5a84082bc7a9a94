//! Compares everything that the crate declares with tables that a compiler took from the vendor's headers
//! (`tables/README.md`), in both directions: a field, mask or number that only one side has is an error like
//! a wrong one.
//!
//! Driver and chip model share this crate, so a wrong offset would be wrong on both sides and no other test
//! would see it.

use std::collections::BTreeMap;
use std::io::Write;

use hsi::book::{FACTS, LAYOUTS};
use hsi::facts::{Fact, Field, Kind, Layout, Shape, Space};

/// Facts that the tables held when this was last changed. It may only grow: a table that is dropped must be
/// noticed.
const KNOWN_FACTS: usize = 3154;

/// The tables as text.
#[derive(Clone)]
struct Tables {
    structs: String,
    registers: String,
    masks: String,
    field_values: String,
    constants: String,
}

impl Tables {
    fn kept() -> Self {
        Self {
            structs: include_str!("../tables/structs.csv").into(),
            registers: include_str!("../tables/registers.csv").into(),
            masks: include_str!("../tables/masks.csv").into(),
            field_values: include_str!("../tables/field_values.csv").into(),
            constants: include_str!("../tables/constants.csv").into(),
        }
    }
}

/// Properties of the thing with this name: `offset`, `size`, `array_len`, `value`, `shift`.
type Facts = BTreeMap<String, BTreeMap<&'static str, u64>>;

/// Outcome of a comparison.
#[derive(Debug, Default)]
struct Report {
    checked: usize,
    errors: Vec<String>,
}

impl Report {
    fn declare(
        &mut self,
        side: &str,
        facts: &mut Facts,
        name: String,
        properties: &[(&'static str, Option<u64>)],
    ) {
        let properties =
            properties.iter().filter_map(|&(property, value)| Some((property, value?))).collect();
        if facts.insert(name.clone(), properties).is_some() {
            self.errors.push(format!("{name}: twice in {side}"));
        }
    }

    fn compare(&mut self, rust: &Facts, table: &Facts) {
        for (name, expected) in table {
            let Some(found) = rust.get(name) else {
                self.errors.push(format!("{name}: in the tables, not in Rust"));
                continue;
            };
            for (property, value) in expected {
                self.checked += 1;
                match found.get(property) {
                    Some(other) if other == value => {}
                    Some(other) => {
                        self.errors.push(format!("{name}: {property} is {other:#x}, must be {value:#x}"))
                    }
                    None => self.errors.push(format!("{name}: has no {property}, must have {value:#x}")),
                }
            }
            for property in found.keys().filter(|property| !expected.contains_key(*property)) {
                self.errors.push(format!("{name}: must have no {property}"));
            }
        }
        for name in rust.keys().filter(|name| !table.contains_key(*name)) {
            self.errors.push(format!("{name}: in Rust, not in the tables"));
        }
    }
}

/// Declares a structure's fields, nested ones under dotted names, as the tables spell them.
fn flatten(report: &mut Report, facts: &mut Facts, path: &str, offset: usize, shape: Shape) {
    let array_len = shape.array_len.map(|len| len as u64);
    let properties =
        [("offset", Some(offset as u64)), ("size", Some(shape.size as u64)), ("array_len", array_len)];
    report.declare("Rust", facts, path.into(), &properties);
    let element = if shape.array_len.is_some() { "[0]" } else { "" };
    for field in shape.fields {
        flatten(
            report,
            facts,
            &format!("{path}{element}.{}", field.name),
            offset + field.offset,
            field.shape,
        );
    }
}

fn space(space: Space) -> &'static str {
    match space {
        Space::Grc => "grc",
        Space::PciCfg => "pcicfg",
        Space::Ctx => "ctx",
        Space::Shmem => "shmem",
        Space::HcSb => "hc_sb_rel",
    }
}

fn rust_facts(report: &mut Report, layouts: &[&[Layout]], facts: &[&[Fact]]) -> Facts {
    let mut all = Facts::new();
    for layout in layouts.iter().copied().flatten() {
        flatten(report, &mut all, &format!("struct {}", layout.name), 0, layout.shape);
    }
    for fact in facts.iter().copied().flatten() {
        let mut shift = None;
        let name = match fact.kind {
            Kind::Register(at) => format!("register {} {}", space(at), fact.name),
            Kind::Bits(owner, field) => {
                shift = Some(u64::from(fact.value.trailing_zeros()));
                format!("mask {owner}.{field} {}", fact.name)
            }
            Kind::Value(owner, field) => format!("value {owner}.{field} {}", fact.name),
            Kind::Constant() => format!("constant {}", fact.name),
            Kind::External() => continue,
        };
        report.declare("Rust", &mut all, name, &[("value", Some(fact.value)), ("shift", shift)]);
    }
    all
}

fn rows<const N: usize>(table: &str) -> impl Iterator<Item = [&str; N]> {
    table.lines().skip(1).map(|line| {
        let columns: Vec<&str> = line.split(',').collect();
        columns.try_into().unwrap_or_else(|columns| panic!("expected {N} columns: {columns:?}"))
    })
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn table_facts(report: &mut Report, tables: &Tables) -> Facts {
    let mut all = Facts::new();
    for [name, field, offset, size, array_len, _type] in rows(&tables.structs) {
        let path = if field.is_empty() { format!("struct {name}") } else { format!("struct {name}.{field}") };
        let array_len = (!array_len.is_empty()).then(|| number(array_len));
        let properties =
            [("offset", Some(number(offset))), ("size", Some(number(size))), ("array_len", array_len)];
        report.declare("the tables", &mut all, path, &properties);
    }
    for [name, offset, space] in rows(&tables.registers) {
        let properties = [("value", Some(number(offset)))];
        report.declare("the tables", &mut all, format!("register {space} {name}"), &properties);
    }
    for [owner, field, name, mask, shift] in rows(&tables.masks) {
        let properties = [("value", Some(number(mask))), ("shift", Some(number(shift)))];
        report.declare("the tables", &mut all, format!("mask {owner}.{field} {name}"), &properties);
    }
    for [owner, field, name, value] in rows(&tables.field_values) {
        let properties = [("value", Some(number(value)))];
        report.declare("the tables", &mut all, format!("value {owner}.{field} {name}"), &properties);
    }
    for [name, value] in rows(&tables.constants) {
        report.declare("the tables", &mut all, format!("constant {name}"), &[("value", Some(number(value)))]);
    }
    all
}

fn conformance(layouts: &[&[Layout]], facts: &[&[Fact]], tables: &Tables) -> Report {
    let mut report = Report::default();
    let rust = rust_facts(&mut report, layouts, facts);
    let table = table_facts(&mut report, tables);
    report.compare(&rust, &table);
    report
}

#[test]
fn everything_agrees_with_the_tables() {
    let report = conformance(LAYOUTS, FACTS, &Tables::kept());
    // A result that people read: libtest shows what a passing test writes past its capture, and nothing else.
    writeln!(std::io::stderr(), "{} HSI facts checked", report.checked).expect("stderr takes a line");
    assert!(report.errors.is_empty(), "{} disagreements:\n{}", report.errors.len(), report.errors.join("\n"));
    assert!(report.checked >= KNOWN_FACTS, "only {} of {KNOWN_FACTS} known facts checked", report.checked);
}

/// Errors of a comparison with doctored tables: what `change` did must be reported, and nothing else.
fn errors_with(change: impl FnOnce(&mut Tables)) -> Vec<String> {
    let mut tables = Tables::kept();
    change(&mut tables);
    conformance(LAYOUTS, FACTS, &tables).errors
}

fn replace(text: &mut String, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    *text = text.replace(from, to);
}

#[test]
fn a_wrong_offset_is_reported() {
    const WRONG: Layout = Layout {
        name: "iscsi_pte",
        shape: Shape {
            size: 8,
            array_len: None,
            fields: &[
                Field { name: "hi", offset: 4, shape: Shape { size: 4, array_len: None, fields: &[] } },
                Field { name: "lo", offset: 4, shape: Shape { size: 4, array_len: None, fields: &[] } },
            ],
        },
    };
    let others: Vec<Layout> =
        LAYOUTS.iter().copied().flatten().filter(|layout| layout.name != WRONG.name).copied().collect();
    let report = conformance(&[&others, &[WRONG]], FACTS, &Tables::kept());
    assert_eq!(report.errors, ["struct iscsi_pte.hi: offset is 0x4, must be 0x0"]);
}

#[test]
fn wrong_sizes_array_lengths_masks_and_numbers_are_reported() {
    assert_eq!(
        errors_with(|t| replace(
            &mut t.structs,
            "iscsi_kwqe_init1,rq_buffer_size,30,2,,u16",
            "iscsi_kwqe_init1,rq_buffer_size,30,4,,u32"
        )),
        ["struct iscsi_kwqe_init1.rq_buffer_size: size is 0x2, must be 0x4"]
    );
    assert_eq!(
        errors_with(|t| replace(
            &mut t.structs,
            "bnx2i_cmd_request,cdb,32,16,4,u32",
            "bnx2i_cmd_request,cdb,32,16,16,u8"
        )),
        ["struct bnx2i_cmd_request.cdb: array_len is 0x4, must be 0x10"]
    );
    assert_eq!(
        errors_with(|t| replace(
            &mut t.masks,
            "ISCSI_CMD_REQUEST_WRITE,0x20,5",
            "ISCSI_CMD_REQUEST_WRITE,0x40,6"
        )),
        [
            "mask bnx2i_cmd_request.op_attr ISCSI_CMD_REQUEST_WRITE: shift is 0x5, must be 0x6",
            "mask bnx2i_cmd_request.op_attr ISCSI_CMD_REQUEST_WRITE: value is 0x20, must be 0x40",
        ]
    );
    assert_eq!(
        errors_with(|t| replace(
            &mut t.registers,
            "BNX2_MQ_CONFIG2,0x00003d00,grc",
            "BNX2_MQ_CONFIG2,0x00003d04,grc"
        )),
        ["register grc BNX2_MQ_CONFIG2: value is 0x3d00, must be 0x3d04"]
    );
    assert_eq!(
        errors_with(|t| replace(
            &mut t.constants,
            "ISCSI_KCQE_OPCODE_INIT,0x14",
            "ISCSI_KCQE_OPCODE_INIT,0x15"
        )),
        ["constant ISCSI_KCQE_OPCODE_INIT: value is 0x14, must be 0x15"]
    );
}

#[test]
fn what_only_one_side_has_is_reported() {
    assert_eq!(
        errors_with(|t| replace(&mut t.structs, "l4_kcq,status,18,2,,u16\n", "")),
        ["struct l4_kcq.status: in Rust, not in the tables"]
    );
    assert_eq!(
        errors_with(|t| t.field_values.push_str("kwqe,kwqe_op_flag,KWQE_FLAGS_NEW,0x1\n")),
        ["value kwqe.kwqe_op_flag KWQE_FLAGS_NEW: in the tables, not in Rust"]
    );
    assert_eq!(
        errors_with(|t| t.constants.push_str("KWQ_CID,0x18\n")),
        ["constant KWQ_CID: twice in the tables"]
    );
}
