//! Ansible's INI format, as its plugin `ini` documents it: sections of hosts, `:children` and `:vars`.

use super::ansible_groups::{Groups, Var, expand};
use super::found::{Found, Place};
use super::words::words;
use std::sync::Arc;

/// What the lines of a section are.
#[derive(Clone, Copy)]
enum Section {
    Hosts,
    Children,
    Vars,
    /// Of a kind that is not known.
    Skipped,
}

/// Reads the groups of a file; lines that cannot be read are noted.
pub(super) fn read(file: &Arc<str>, text: &str, groups: &mut Groups, found: &mut Found) {
    let (mut group, mut section) = ("ungrouped".to_owned(), Section::Hosts);
    for (n, line) in text.lines().enumerate() {
        if groups.is_full() {
            return;
        }
        let (line, place) = (line.trim(), Place::of(file, n + 1));
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = section_of(line) {
            let (name, kind) = name.rsplit_once(':').unwrap_or((name, "hosts"));
            section = match kind {
                "hosts" => Section::Hosts,
                "children" => Section::Children,
                "vars" => Section::Vars,
                _ => {
                    found.left_out(&place, name, "its section is neither of hosts nor :children nor :vars");
                    Section::Skipped
                }
            };
            group = name.to_owned();
            groups.group(&group, &place);
            continue;
        }
        match section {
            Section::Skipped => {
                let first = line.split_whitespace().next().unwrap_or_default();
                found.left_out(&place, first, "its section is of no kind that is known");
            }
            Section::Vars => {
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                let value = value.trim();
                // The whole value may be in quotes, as a literal of Python.
                let inner = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
                let value = inner.unwrap_or(value).replace("\\\"", "\"");
                groups
                    .group(&group, &place)
                    .vars
                    .insert(key.trim().to_owned(), Var::of(Some(&value), place.clone(), false));
            }
            Section::Children => {
                let child = line.split_whitespace().next().unwrap_or_default().to_owned();
                groups.group(&child, &place);
                groups.group(&group, &place).children.push(child);
            }
            Section::Hosts => host_line(&group, line, &place, groups, found),
        }
    }
}

/// Returns what is in the brackets of a line that heads a section; an IPv6 address with a port, `[2001:db8::1]:22`, is a host.
pub(super) fn section_of(line: &str) -> Option<&str> {
    let (name, rest) = line.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_start();
    (rest.is_empty() || rest.starts_with(['#', ';'])).then_some(name)
}

fn host_line(group: &str, line: &str, place: &Place, groups: &mut Groups, found: &mut Found) {
    let Some(words) = words(line) else {
        return found.left_out(place, "a line", "a quote is not closed");
    };
    let Some((pattern, rest)) = words.split_first() else { return };
    let mut vars = Vec::new();
    for word in rest {
        match word.split_once('=') {
            Some((key, value)) => vars.push((key.to_owned(), Var::of(Some(value), place.clone(), false))),
            None => found.left_out(place, "part of a line", "it is not of the form name=value"),
        }
    }
    match expand(pattern) {
        Ok((names, port)) => {
            let port =
                port.map(|port| ("ansible_port".to_owned(), Var::of(Some(&port), place.clone(), false)));
            for name in names {
                groups.add(group, name, port.iter().chain(&vars).cloned(), place);
            }
        }
        Err(why) => found.left_out(place, pattern.as_str(), why),
    }
}
