//! What preflight found on a host, as text.

use crate::role::Finding;
use crate::state::Failure;

/// Returns what was found on a host: `ok`, or each finding with what to do; without warnings if `quiet`.
pub fn preflight_lines(host: &str, failures: &[Failure], warnings: &[Finding], quiet: bool) -> String {
    let warnings = if quiet { &[] } else { warnings };
    if failures.is_empty() && warnings.is_empty() {
        return if quiet { String::new() } else { format!("{host}: ok\n") };
    }
    let mut text = format!("{host}:\n");
    for failure in failures {
        text += &format!("  error[{}]: {}\n", failure.code, failure.message);
        text += &failure.tail.iter().map(|line| format!("    | {line}\n")).collect::<String>();
        text += &failure.hint.iter().map(|hint| format!("    = next: {hint}\n")).collect::<String>();
    }
    for warning in warnings {
        text += &format!("  warning[{}]: {}\n    = next: {}\n", warning.code, warning.message, warning.hint);
    }
    text
}
