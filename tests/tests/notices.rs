//! THIRD-PARTY-NOTICES names every crate that is in what we ship, with its licence and the text that its
//! licence wants to be passed on. `UPDATE_NOTICES=1 cargo test -p tests --test notices` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What people get.
const SHIPPED: [&str; 2] = ["tools", "iscsiuio"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v[key].as_array().map_or(&[], Vec::as_slice)
}

/// Packages by id that a shipped one links, itself left out if it is ours.
fn linked(metadata: &Value) -> Vec<&Value> {
    let packages: BTreeMap<&str, &Value> =
        list(metadata, "packages").iter().map(|p| (text(p, "id"), p)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").iter().map(|n| (text(n, "id"), n)).collect();
    let ours: BTreeSet<&str> = list(metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    let mut todo: Vec<&str> =
        ours.iter().copied().filter(|id| SHIPPED.contains(&text(packages[id], "name"))).collect();
    assert_eq!(todo.len(), SHIPPED.len());
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dep in list(nodes[id], "deps") {
            // Neither tests nor build scripts end up in a program.
            if list(dep, "dep_kinds").iter().any(|k| k["kind"].is_null()) {
                todo.push(text(dep, "pkg"));
            }
        }
    }
    let mut out: Vec<&Value> = seen.difference(&ours).map(|id| packages[id]).collect();
    out.sort_by_key(|p| (text(p, "name"), text(p, "version")));
    out
}

/// The licence file of a package: that of MIT, if it offers a choice with it.
fn licence_text(package: &Value) -> Option<String> {
    let dir = Path::new(text(package, "manifest_path")).parent()?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.filter_map(|f| Some(f.ok()?.path())).collect();
    files.retain(|f| {
        let name = f.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_ascii_uppercase();
        f.is_file()
            && ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "UNLICENSE"].iter().any(|l| name.starts_with(l))
    });
    files.sort();
    let mit = files.iter().position(|f| f.to_string_lossy().to_ascii_uppercase().contains("MIT"));
    let file = files.get(mit.unwrap_or(0))?;
    let text = String::from_utf8_lossy(&std::fs::read(file).ok()?).replace('\r', "");
    Some(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned())
}

fn notices() -> String {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let packages = linked(&metadata);
    assert!(packages.len() > 10, "the graph was read");
    let mut all = String::from(
        "Crates of others in cnic and iscsiuio, each with its licence, and the texts of these licences.\n\
         Written by `UPDATE_NOTICES=1 cargo test -p tests --test notices`.\n\n",
    );
    let mut texts = BTreeMap::<String, Vec<String>>::new();
    for p in packages {
        let name = format!("{} {}", text(p, "name"), text(p, "version"));
        let licence = text(p, "license");
        assert!(!licence.is_empty(), "{name} names no licence");
        let _ = writeln!(all, "{name:32} {licence:36} {}", text(p, "repository"));
        if let Some(text) = licence_text(p) {
            texts.entry(text).or_default().push(name);
        }
    }
    for (text, names) in texts {
        let _ = write!(all, "\n{}\n{}\n\n{text}\n", "-".repeat(80), names.join(", "));
    }
    // Names keep their place, lines end where they end.
    all.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn the_notices_are_those_of_what_is_linked() {
    let file = root().join("THIRD-PARTY-NOTICES");
    let now = notices();
    if std::env::var_os("UPDATE_NOTICES").is_some() {
        std::fs::write(&file, &now).expect("writable");
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    let missing: Vec<&str> = now.lines().filter(|line| !written.contains(line)).take(5).collect();
    assert!(
        written == now,
        "THIRD-PARTY-NOTICES is out of date ({missing:?}): UPDATE_NOTICES=1 cargo test -p tests --test notices"
    );
}
