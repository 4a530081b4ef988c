//! The formats that can be imported, and how a file's own is told from its text.

use super::ansible_ini;
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

/// Returns whether a text begins as a mapping of YAML does, and as no line of another format: `all:`.
pub(super) fn begins_as_yaml(text: &str) -> bool {
    let first = text.lines().map(str::trim_end).find(|line| !line.is_empty() && !line.starts_with('#'));
    let is_key = |line: &str| {
        let (key, rest) = line.split_once(':').unwrap_or(("", ""));
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        !key.is_empty() && key.chars().all(plain) && (rest.is_empty() || rest.starts_with([' ', '\t']))
    };
    first.is_some_and(|line| line == "---" || is_key(line))
}

/// Returns the format of a text.
pub(super) fn detect(name: &str, text: &str) -> Result<Format, ImportError> {
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
    let section = |line: &str| ansible_ini::section_of(line).is_some_and(is_group);
    if !begins_as_yaml(text) && lines().any(section) {
        return Ok(Format::Ansible);
    }
    match yaml(name, text.to_owned()) {
        Ok(node) => {
            if let Some(format) = of_document(&node) {
                return Ok(format);
            }
        }
        Err(error) if begins_as_yaml(text) => return Err(ImportError::Yaml(error)),
        Err(_) => {}
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
