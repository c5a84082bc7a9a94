//! docs/invariants.md and the tests agree: every id that the table says is tested is, by that name, and every
//! scenario of BNX2I-CNIC 13 is in the table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all test functions of the workspace, with the names that `macro_rules` give.
fn functions(dir: &Path, out: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("the workspace can be read") {
        let path = entry.expect("and listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                functions(&path, out);
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("sources are text");
            for line in text.lines().map(str::trim_start) {
                let named = line.strip_prefix("fn ").and_then(|l| l.split(['(', '<']).next());
                let swept =
                    line.split_once(": ").filter(|(_, call)| call.ends_with(';')).map(|(name, _)| name);
                out.extend(named.or(swept).map(str::to_owned));
            }
        }
    }
}

/// Rows of the tables: id, and the names in backticks of the last column.
fn rows(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|l| l.strip_prefix("| "))
        .filter_map(|l| {
            let mut cells = l.trim_end_matches(" |").split(" | ");
            let id = cells.next()?.trim().to_owned();
            Some((id, cells.last()?.trim().to_owned()))
        })
        .filter(|(id, _)| id.len() <= 3 && id.starts_with(|c: char| "SRLHTDN".contains(c)) && id.len() > 1)
        .collect()
}

fn names(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_id_is_tested_where_the_table_says() {
    let text = fs::read_to_string(root().join("docs/invariants.md")).expect("docs/invariants.md");
    let mut known = BTreeSet::new();
    functions(&root(), &mut known);
    assert!(known.len() > 500, "{} functions", known.len());
    let (invariants, scenarios) = text.split_once("## Scenarios").expect("three tables");
    let (scenarios, network) = scenarios.split_once("## The network's side").expect("three tables");
    for (id, cell) in rows(&text) {
        let names = names(&cell);
        assert!(
            !names.is_empty() || cell.starts_with("no: "),
            "{id} is neither tested nor explained: {cell}"
        );
        for name in names {
            assert!(known.contains(&name), "{id}: no test is called {name}");
        }
    }
    let ids = |text| rows(text).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    let all = |letter: char, n: usize| (1..=n).map(move |i| format!("{letter}{i}"));
    let want: Vec<String> = all('S', 12).chain(all('R', 8)).chain(all('L', 4)).collect();
    assert_eq!(ids(invariants), want, "the invariants of ARCHITECTURE 7 and 8");
    let want: Vec<String> =
        all('H', 9).chain(all('T', 7)).chain(all('R', 18)).chain(all('L', 10)).chain(all('D', 10)).collect();
    assert_eq!(want.len(), 54);
    assert_eq!(ids(scenarios), want, "the scenarios of BNX2I-CNIC 13");
    assert_eq!(ids(network), all('N', 21).collect::<Vec<_>>(), "those of the network's side");
}
