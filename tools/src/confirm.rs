//! Leave to overwrite data: `--force`, or a yes at the terminal.

use std::io::{BufRead, IsTerminal, Write};

use crate::failure::Failure;
use crate::size;

/// Returns if `bytes` of `what` may be overwritten.
pub(crate) fn overwrite(force: bool, bytes: u64, what: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    ask(force, terminal, &mut stdin.lock(), &mut std::io::stderr(), bytes, what)
}

fn ask(
    force: bool,
    terminal: bool,
    input: &mut impl BufRead,
    output: &mut impl Write,
    bytes: u64,
    what: &str,
) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    let size = size::show(bytes);
    if !terminal {
        return Err(Failure::usage(format!(
            "this would overwrite {size} of {what}, and nobody can be asked: add --force"
        )));
    }
    let unanswered = |e| Failure::other(format!("cannot ask before overwriting ({e}): add --force"));
    write!(output, "This overwrites {size} of {what}. Type yes to go on: ").map_err(unanswered)?;
    output.flush().map_err(unanswered)?;
    let mut answer = String::new();
    input.read_line(&mut answer).map_err(unanswered)?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::usage("nothing was written: the answer was not yes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(force: bool, terminal: bool, text: &str) -> (Result<(), String>, String) {
        let mut prompt = Vec::new();
        let result = ask(force, terminal, &mut text.as_bytes(), &mut prompt, 1 << 20, "iqn.x LUN 0");
        (result.map_err(|e| e.to_string()), String::from_utf8(prompt).unwrap())
    }

    #[test]
    fn only_force_or_a_typed_yes_lets_through() {
        assert_eq!(answer(true, false, ""), (Ok(()), String::new()));
        let (result, prompt) = answer(false, true, "yes\n");
        assert_eq!(
            (result, prompt.as_str()),
            (Ok(()), "This overwrites 1 MiB of iqn.x LUN 0. Type yes to go on: ")
        );
        for no in ["", "\n", "y\n", "no\n", "YES\n"] {
            assert_eq!(answer(false, true, no).0.unwrap_err(), "nothing was written: the answer was not yes");
        }
        let (result, prompt) = answer(false, false, "yes\n");
        assert!(result.unwrap_err().ends_with("add --force") && prompt.is_empty());
    }
}
