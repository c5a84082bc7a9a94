//! Every citation of a specification resolves: `NAME 4.7` in a comment or a document is section 4.7 of a file
//! in `docs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What may be cited: the name in comments, and the file.
const TEXTS: &[(&str, &str)] = &[
    ("ARCHITECTURE", "docs/architecture.md"),
    ("BNX2I-CNIC", "docs/spec/BNX2I-CNIC.md"),
    ("CHIP-REGISTERS", "docs/spec/CHIP-REGISTERS.md"),
    ("ISCSID", "docs/spec/ISCSID.md"),
    ("ISCSIUIO", "docs/spec/ISCSIUIO.md"),
    ("RFC7143", "docs/spec/RFC7143.md"),
    // With its ending: the bare word is everywhere.
    ("SCSI.md", "docs/spec/SCSI.md"),
];

/// Names of texts that are not in the repository: nobody could follow them.
const ELSEWHERE: &[&str] =
    &["EVENTS", "BOOT", "BOOT-CONFIG", "BCM57810", "UML", "CHIPS", "REVIEW", "EXAMPLES"];

/// Folders with sources and documents, and the files beside them.
const FOLDERS: &[&str] = &[
    "benches", "bus", "docs", "driver", "fuzz", "hsi", "hw-model", "iscsi", "iscsiuio", "lab", "os", "tests",
    "tools",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files with text that cites: sources, manifests, documents, scripts without an extension are left out.
fn files(at: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(at).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && name != "corpus" && name != "artifacts" {
                files(&path, out);
            }
        } else if [".rs", ".md", ".toml"].iter().any(|e| name.ends_with(e)) && name != "citations.rs" {
            out.push(path);
        }
    }
}

/// Section numbers of a text: `## 4. Title`, `### 4.7 Title`, `## Appendix B. Title`, and table rows `| 5.2.1
/// | …`.
fn sections(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|l| l.starts_with('#') || l.starts_with("| "))
        .filter_map(|l| {
            if let Some(row) = l.strip_prefix("| ") {
                let number = row.split_whitespace().next()?;
                return (number.contains('.') && number.split('.').all(is_part)).then(|| number.to_owned());
            }
            let title = l.trim_start_matches('#').trim_start();
            let word = title.strip_prefix("Appendix ").unwrap_or(title).split_whitespace().next()?;
            let number = word.trim_end_matches('.');
            number.split('.').all(is_part).then(|| number.to_owned())
        })
        .collect()
}

/// A part of a section number: digits, or one of the appendices' letters.
fn is_part(part: &str) -> bool {
    !part.is_empty() && (part.bytes().all(|b| b.is_ascii_digit()) || matches!(part, "A" | "B" | "C"))
}

/// The section numbers that follow a name: `4.7`, `0.3, 2.4 and 5.9`, `5.5 to 5.7`.
fn cited(rest: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = rest.strip_prefix(".md").unwrap_or(rest);
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        for word in ["section ", "sections ", "and ", "to "] {
            rest = rest.strip_prefix(word).unwrap_or(rest);
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
        let number = rest[..end].trim_end_matches('.');
        if !number.split('.').all(is_part) {
            return out;
        }
        out.push(number.to_owned());
        let after = &rest[number.len()..];
        // A sentence ends, or the list goes on.
        if !(after.starts_with(", ") || after.starts_with(" and ") || after.starts_with(" to ")) {
            return out;
        }
        rest = after;
    }
}

/// Every citation in `text`: name and section.
fn citations<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, String)> {
    let mut out = Vec::new();
    for name in names {
        for (at, _) in text.match_indices(name) {
            let before = text[..at].chars().next_back();
            let rest = &text[at + name.len()..];
            let whole = !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if whole && (rest.starts_with(' ') || rest.starts_with(".md") || rest.starts_with(", ")) {
                out.extend(cited(rest).into_iter().map(|n| (name, n)));
            }
        }
    }
    out
}

/// Comment markers and line breaks must not hide the rest of a citation.
fn joined(text: &str) -> String {
    text.lines()
        .map(|l| l.trim_start().trim_start_matches(['/', '!', '#']).trim())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn every_citation_resolves() {
    let root = root();
    let known: BTreeMap<&str, BTreeSet<String>> = TEXTS
        .iter()
        .map(|(name, file)| {
            (*name, sections(&fs::read_to_string(root.join(file)).expect("a text that is cited")))
        })
        .collect();
    let mut paths = vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("Cargo.toml")];
    for folder in FOLDERS {
        files(&root.join(folder), &mut paths);
    }
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in paths {
        let text = joined(&fs::read_to_string(&path).expect("a file with text"));
        for (name, number) in citations(&text, TEXTS.iter().map(|t| t.0)) {
            seen += 1;
            if !known[name].contains(&number) {
                wrong.push(format!("{}: {name} has no section {number}", path.display()));
            }
        }
        for (name, number) in citations(&text, ELSEWHERE.iter().copied()) {
            wrong.push(format!("{}: {name} {number} is not in the repository", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 150, "only {seen} citations were found: the search is broken");
}

#[test]
fn a_citation_that_leads_nowhere_is_found() {
    let known = sections(
        "# Title\n## 4. Four\n### 4.7 Seven\n## Appendix B. Constants\n### B.2 Timeouts\n| 5.2.1 | a row |\ntext 9.9\n",
    );
    assert_eq!(known.iter().map(String::as_str).collect::<Vec<_>>(), ["4", "4.7", "5.2.1", "B", "B.2"]);
    let found = |text: &str| citations(&joined(text), ["BNX2I-CNIC", "SCSI.md"].into_iter());
    let want = |list: &[&str]| list.iter().map(|n| ("BNX2I-CNIC", (*n).to_owned())).collect::<Vec<_>>();
    assert_eq!(found("/// Rings (BNX2I-CNIC 4.2 to 4.5, 5.5 and B.2)."), want(&["4.2", "4.5", "5.5", "B.2"]));
    assert_eq!(found("//! as in BNX2I-CNIC\n//! 0.4, 11.3; RFC 7143 11.7."), want(&["0.4", "11.3"]));
    assert_eq!(found("// BNX2I-CNIC 5.7, 13.3 R9 to R11"), want(&["5.7", "13.3"]));
    assert_eq!(found("LINUX-SCSI.md 4, LIBISCSI 5"), []);
}
