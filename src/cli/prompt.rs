//! Questions on a terminal.

use super::errors::usage;
use std::io::{IsTerminal, Write};

/// Returns a line typed after a question on a terminal. Without one it is an error with this hint.
fn ask(question: &str, hint: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return Err(usage("no terminal to prompt on", hint));
    }
    eprint!("\n{question} ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Asks for a word to be typed on a terminal, and returns whether it was. Without a terminal it is an error whose hint names the
/// flag that confirms.
pub(super) fn confirm_typed(question: &str, word: &str, hint: &str) -> anyhow::Result<bool> {
    Ok(ask(&format!("{question}:"), hint)? == word)
}

/// Asks for confirmation on a terminal. Without one it is an error whose hint names the flag that confirms.
pub(super) fn confirm(question: &str, hint: &str) -> anyhow::Result<bool> {
    let answer = ask(&format!("{question} [y/N]"), hint)?;
    Ok(matches!(answer.as_str(), "y" | "Y" | "yes"))
}
