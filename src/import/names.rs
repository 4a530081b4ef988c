//! Names of hosts and pools: made DNS-1123 labels, and told apart.

use crate::inventory::is_dns_label;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The longest label.
const MOST: usize = 63;
/// Room for `-` and a number that tells names apart.
const ROOM: usize = 8;

/// Returns the label nearest to a text; `None` if nothing of it is left.
pub(super) fn label(text: &str) -> Option<String> {
    let mut name = String::new();
    for c in text.chars().take(4 * MOST) {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => name.push(c),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    name.truncate(MOST);
    let name = name.trim_end_matches('-');
    is_dns_label(name).then(|| name.to_owned())
}

/// Returns whether a text names no host, but is its address.
pub(super) fn is_address(text: &str) -> bool {
    text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Names that were given already, and the last number of each that was numbered.
#[derive(Default)]
pub(super) struct Taken {
    names: BTreeSet<String>,
    numbers: BTreeMap<String, usize>,
}

impl Taken {
    /// Returns the first of these names that is free, or else the last one with a number.
    pub(super) fn first_free(&mut self, names: impl IntoIterator<Item = String>) -> String {
        let mut last = String::new();
        for name in names {
            if self.names.insert(name.clone()) {
                return name;
            }
            last = name;
        }
        last.truncate(MOST - ROOM);
        let last = last.trim_end_matches('-').to_owned();
        self.numbers.entry(last.clone()).or_insert(1);
        self.numbered(&last)
    }

    /// Returns the next free name of the form `PREFIX-1`.
    pub(super) fn numbered(&mut self, prefix: &str) -> String {
        let number = self.numbers.entry(prefix.to_owned()).or_default();
        loop {
            *number += 1;
            let name = format!("{prefix}-{number}");
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_become_labels() {
        for (name, expected) in [
            ("GPU_01", Some("gpu-01")),
            ("__a..b__", Some("a-b")),
            ("Süd 1", Some("s-d-1")),
            ("h-1", Some("h-1")),
            ("---", None),
        ] {
            assert_eq!(label(name).as_deref(), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_a_label_and_no_name_is_given_twice(names in prop::collection::vec(".{0,80}", 0..20)) {
            let (mut taken, mut given) = (Taken::default(), BTreeSet::new());
            for label in names.iter().filter_map(|name| label(name)) {
                let name = taken.first_free([label.clone()]);
                prop_assert!(is_dns_label(&label) && is_dns_label(&name), "{label} {name}");
                prop_assert!(given.insert(name));
            }
        }
    }
}
