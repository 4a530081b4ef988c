//! What libraries log, on stderr, for whoever looks for a mistake in them: `PROVISION_LOG=debug`, `PROVISION_LOG=russh=trace`.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Starts logging as PROVISION_LOG asks: errors alone without it.
pub(super) fn start() {
    let asked = std::env::var("PROVISION_LOG").unwrap_or_default();
    let errors = Targets::new().with_default(LevelFilter::ERROR);
    let wanted = if asked.is_empty() { errors } else { targets(&asked).unwrap_or(errors) };
    tracing_subscriber::registry()
        .with(wanted)
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .init();
}

/// Returns what a list of `LEVEL` and `MODULE=LEVEL` asks for; a list that cannot be read is named on stderr.
fn targets(asked: &str) -> Option<Targets> {
    asked.parse().inspect_err(|error| eprintln!("warning: PROVISION_LOG is ignored: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::targets;
    use tracing_subscriber::filter::LevelFilter;

    #[test]
    fn levels_are_read_per_module() {
        let read = targets("warn,russh=trace").expect("a list");
        assert_eq!(read.default_level(), Some(LevelFilter::WARN));
        assert_eq!(read.to_string(), "russh=trace,warn");
        assert!(targets("russh=loud").is_none());
    }
}
