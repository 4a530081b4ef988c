//! The health of accelerators as text.

use crate::role::health::{Health, Verdict};

/// Returns a host's health: a line with its numbers, and one for each unhealthy or unknown finding; `verbose`
/// adds healthy findings.
pub fn health_lines(host: &str, health: &Health, verbose: bool) -> String {
    let word = match health.verdict {
        Verdict::Healthy => "healthy",
        Verdict::Unknown => "unknown",
        Verdict::Unhealthy => "unhealthy",
    };
    let measures: Vec<String> =
        health.measures.iter().map(|m| format!("{} {} {}", m.test, m.value, m.unit)).collect();
    let mut text = format!("{host:<12} {word:<10} {}", measures.join(", ")).trim_end().to_owned() + "\n";
    for finding in &health.findings {
        text += &match finding.verdict {
            Verdict::Healthy if !verbose => continue,
            Verdict::Healthy => format!("  ok: {}\n", finding.detail),
            Verdict::Unknown => format!("  [{}] unknown: {}\n", finding.code, finding.detail),
            Verdict::Unhealthy => format!("  [{}] {}\n", finding.code, finding.detail),
        };
    }
    text
}
