//! House rules that a compiler does not know: width of comments, documentation that says something, length of
//! files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// As in rustfmt.toml, which wraps code and leaves comments alone.
const WIDTH: usize = 110;
/// Lines of a file; a longer one has a reason here.
const LINES: usize = 700;
const LONG: &[(&str, &str)] =
    &[("bus/src/vfio_user/server/tests.rs", "one test for each message and each malformed field")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Rust sources of the repository, by their path in it; also new ones.
fn sources() -> Vec<(String, String)> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"];
    let out = Command::new("git").args(args).current_dir(root()).output().expect("git runs");
    assert!(out.status.success(), "this test reads a git checkout: {}", String::from_utf8_lossy(&out.stderr));
    let names = String::from_utf8(out.stdout).expect("names are text");
    let read = |name: &str| Some((name.to_owned(), std::fs::read_to_string(root().join(name)).ok()?));
    names.lines().filter_map(read).collect()
}

/// What is wrong with a file.
fn offences(name: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let lines = text.lines().count();
    if lines > LINES && !LONG.iter().any(|(long, _)| *long == name) {
        out.push(format!("{name}: {lines} lines; more than {LINES} need a reason"));
    }
    for (n, line) in text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
        let words = comment.trim_start_matches(['/', '!']).trim();
        // Rows of a table cannot be wrapped.
        if line.chars().count() > WIDTH && !words.starts_with('|') {
            out.push(format!("{name}:{}: a comment wider than {WIDTH}", n + 1));
        }
        let empty = ["Which.", "What.", "Why.", "Where.", "Who.", "How many.", "From the request."];
        if comment.starts_with('/') && empty.contains(&words) {
            out.push(format!("{name}:{}: `{words}` says nothing: name the thing", n + 1));
        }
    }
    out
}

#[test]
fn comments_are_wrapped_and_say_something_and_files_are_short() {
    let sources = sources();
    assert!(sources.len() > 300, "{} sources", sources.len());
    let wrong: Vec<String> = sources.iter().flat_map(|(name, text)| offences(name, text)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, _) in LONG {
        let long = sources.iter().any(|(n, text)| n == name && text.lines().count() > LINES);
        assert!(long, "{name} is not long any more: take it off the list");
    }
}

#[test]
fn each_offence_is_found() {
    let wide = format!("/// {}\n", "word ".repeat(30));
    let table = format!("/// | {} |\n", "word ".repeat(30));
    let text = format!(
        "{wide}{table}/// Which.\n// Which.\n/// Which of them.\nlet x = \"// {}\";\n",
        "y".repeat(200)
    );
    assert_eq!(offences("x.rs", &text).len(), 2, "{:?}", offences("x.rs", &text));
    assert_eq!(offences("x.rs", &"\n".repeat(LINES + 1)).len(), 1);
    assert_eq!(offences(LONG[0].0, &"\n".repeat(LINES + 1)).len(), 0);
}
