//! Questions on a terminal.

use super::errors::usage;
use std::io::{IsTerminal, Write};

/// Asks for confirmation on a terminal. Without one it is an error whose hint names the flag that confirms.
pub(super) fn confirm(question: &str, hint: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(usage("no terminal to prompt on", hint));
    }
    eprint!("\n{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
