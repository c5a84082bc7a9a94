//! The dependency rule of the house: who may see whom. `hw-model` and `driver` share `hsi`, `bus` and `iscsi`
//! only.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each crate may depend on (normal dependencies; tests may use more, except across card and host).
const ALLOWED: &[(&str, &[&str])] = &[
    ("hsi", &[]),
    ("iscsi", &[]),
    ("os", &[]),
    ("bus", &["hsi", "os"]),
    ("hw-model", &["hsi", "bus", "os", "iscsi"]),
    ("driver", &["hsi", "bus", "iscsi"]),
    // Its library is sans-IO like an actor crate; `os` is for the binary.
    ("iscsiuio", &["hsi", "bus", "os"]),
    ("lab", &["hsi", "bus", "os", "iscsi", "hw-model", "driver", "iscsiuio"]),
    ("tools", &["hsi", "bus", "os", "iscsi", "hw-model", "driver", "iscsiuio", "lab"]),
    ("benches", &["hsi", "bus", "os", "iscsi", "hw-model", "driver", "iscsiuio", "lab"]),
    ("tests", &["hsi", "bus", "os", "iscsi", "hw-model", "driver", "iscsiuio", "lab"]),
];

/// Crates of card and host must not meet even in their tests.
const NEVER: &[(&str, &str)] =
    &[("hw-model", "driver"), ("driver", "hw-model"), ("hsi", "bus"), ("iscsi", "bus")];

/// Workspace dependencies by crate: all of them, and the normal ones.
type Dependencies = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

fn workspace() -> Dependencies {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut map = Dependencies::new();
    for p in packages {
        let entry = map.entry(p["name"].as_str().expect("name").to_owned()).or_default();
        for d in p["dependencies"].as_array().expect("dependencies") {
            let name = d["name"].as_str().expect("name");
            if names.contains(name) {
                entry.0.insert(name.to_owned());
                if d["kind"].is_null() {
                    entry.1.insert(name.to_owned());
                }
            }
        }
    }
    map
}

/// Says what breaks the rule.
fn offences(map: &Dependencies) -> Vec<String> {
    let mut out = Vec::new();
    for (name, (all, normal)) in map {
        let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| n == name) else {
            out.push(format!("{name} has no entry in the dependency rule"));
            continue;
        };
        out.extend(
            normal
                .iter()
                .filter(|d| !allowed.contains(&d.as_str()))
                .map(|d| format!("{name} may not use {d}")),
        );
        out.extend(
            NEVER
                .iter()
                .filter(|(a, b)| a == name && all.contains(*b))
                .map(|(a, b)| format!("{a} may not use {b}, not even in tests")),
        );
    }
    out
}

#[test]
fn crates_see_only_what_the_house_allows() {
    let map = workspace();
    assert_eq!(map.len(), ALLOWED.len(), "every crate of the house is there");
    assert_eq!(offences(&map), Vec::<String>::new());
}

#[test]
fn the_check_finds_an_offence() {
    let mut map = workspace();
    let driver = map.get_mut("driver").expect("driver");
    driver.0.insert("hw-model".into());
    driver.1.insert("os".into());
    assert_eq!(offences(&map), ["driver may not use os", "driver may not use hw-model, not even in tests"]);
}
