//! The formats that can be imported, and how a file's own is told from its text.

use super::error::ImportError;
use super::table;
use crate::inventory::{Node, Value, yaml};

/// A format of another tool's inventory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// An Ansible inventory, INI or YAML.
    Ansible,
    /// A `k0sctl.yaml`.
    K0sctl,
    /// A configuration of the OpenSSH client.
    SshConfig,
    /// SSH node pools of SkyPilot.
    SkyPilot,
    /// A table with a line of column names.
    Csv,
}

/// All formats, by the name of each on a command line.
pub const FORMATS: [(&str, Format); 5] = [
    ("ansible", Format::Ansible),
    ("k0sctl", Format::K0sctl),
    ("ssh-config", Format::SshConfig),
    ("skypilot", Format::SkyPilot),
    ("csv", Format::Csv),
];

impl Format {
    /// Returns its name on a command line.
    pub fn name(self) -> &'static str {
        FORMATS.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// Returns what such a file is, with its article.
    pub fn said(self) -> &'static str {
        match self {
            Self::Ansible => "an Ansible inventory",
            Self::K0sctl => "a k0sctl configuration",
            Self::SshConfig => "an ssh configuration",
            Self::SkyPilot => "a file of SkyPilot SSH node pools",
            Self::Csv => "a CSV table",
        }
    }
}

/// Returns the format of a text.
pub(super) fn detect(text: &str) -> Result<Format, ImportError> {
    let text = text.trim_start_matches('\u{feff}');
    if text.starts_with("#!") {
        return Err(ImportError::Program);
    }
    let comment = |line: &&str| !line.is_empty() && !line.starts_with(['#', ';']);
    let lines = || text.lines().map(str::trim).filter(comment);
    let keyword = |line: &str| line.split(['=', ' ', '\t']).next().unwrap_or_default().to_ascii_lowercase();
    if lines()
        .any(|line| matches!(keyword(line).as_str(), "host" | "match") && !line.contains([',', ';', ':']))
    {
        return Ok(Format::SshConfig);
    }
    let section = |line: &str| {
        line.starts_with('[') && line.split_once(']').is_some_and(|(name, _)| is_group(&name[1..]))
    };
    if lines().any(section) {
        return Ok(Format::Ansible);
    }
    if let Ok(node) = yaml("", text.to_owned())
        && let Some(format) = of_document(&node)
    {
        return Ok(format);
    }
    if table::is_table(text) {
        return Ok(Format::Csv);
    }
    if lines().any(|line| line.contains(" ansible_")) {
        return Ok(Format::Ansible);
    }
    Err(ImportError::Format("its format is not known"))
}

/// Returns whether a text can be what stands in the brackets of a section: `web`, `web:children`.
fn is_group(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'))
}

fn of_document(node: &Node) -> Option<Format> {
    if node.get("apiVersion").and_then(Node::text).is_some_and(|v| v.starts_with("k0sctl.k0sproject.io/")) {
        return Some(Format::K0sctl);
    }
    let groups = node.entries();
    let has = |key: &str| groups.iter().any(|group| group.node.get(key).is_some());
    let listed = |group: &Node| group.get("hosts").is_some_and(|hosts| matches!(hosts.value, Value::List(_)));
    if groups.iter().any(|group| listed(&group.node)) {
        return Some(Format::SkyPilot);
    }
    (has("hosts") || has("children")).then_some(Format::Ansible)
}
