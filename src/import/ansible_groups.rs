//! Hosts, groups and variables of an Ansible inventory, as they are written, and the names that its patterns stand for.

use super::error::ImportError;
use super::found::Place;
use crate::inventory::MOST_HOSTS;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Groups inside one another.
pub(super) const MOST_DEPTH: usize = 32;
/// Groups of an inventory.
const MOST_GROUPS: usize = 5_000;
/// Groups that a group may be in, those of its groups included.
const MOST_ABOVE: usize = 256;
/// Hosts in all sections, each with its variables there: a line may stand for 100,000 of them.
const MOST_MENTIONS: usize = 10 * MOST_HOSTS;
/// The longest value that is kept, in bytes: none that matters is longer.
const MOST_VALUE: usize = 4096;
/// How an encrypted value begins.
pub(super) const ENCRYPTED: &str = "$ANSIBLE_VAULT";

/// The value of a variable.
#[derive(Clone)]
pub(super) struct Var {
    /// It, if it is one text of a usual length; of an encrypted one, that it is one.
    pub text: Option<Arc<str>>,
    /// Where it stands.
    pub place: Place,
    /// It has a tag, such as `!vault`.
    pub tagged: bool,
}

impl Var {
    /// Returns a value.
    pub(super) fn of(text: Option<&str>, place: Place, tagged: bool) -> Self {
        let text = text.map(|text| if text.trim_start().starts_with(ENCRYPTED) { ENCRYPTED } else { text });
        Self { text: text.filter(|text| text.len() <= MOST_VALUE).map(Arc::from), place, tagged }
    }
}

/// Variables by name.
pub(super) type Vars = BTreeMap<String, Var>;

/// A group.
pub(super) struct Group {
    /// Where it first appears.
    pub place: Place,
    /// It has hosts of its own.
    pub has_hosts: bool,
    /// Groups inside it.
    pub children: Vec<String>,
    /// Its variables.
    pub vars: Vars,
}

/// A host.
pub(super) struct Host {
    /// Its name.
    pub name: String,
    /// Where it first appears.
    pub place: Place,
    /// Its variables.
    pub vars: Vars,
    /// Groups that it stands in itself.
    pub groups: Vec<usize>,
}

/// The groups of an inventory, in the order in which they first appear.
#[derive(Default)]
pub(super) struct Groups {
    /// Names of groups.
    pub names: Vec<String>,
    /// Groups by name.
    pub known: HashMap<String, usize>,
    /// The groups.
    pub groups: Vec<Group>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Hosts by name.
    pub known_hosts: HashMap<String, usize>,
    mentions: usize,
}

impl Groups {
    /// Returns a group, which is made if it is new.
    pub(super) fn group(&mut self, name: &str, place: &Place) -> &mut Group {
        let at = self.index(name, place);
        &mut self.groups[at]
    }

    fn index(&mut self, name: &str, place: &Place) -> usize {
        if let Some(at) = self.known.get(name) {
            return *at;
        }
        self.known.insert(name.to_owned(), self.groups.len());
        self.names.push(name.to_owned());
        let group = Group { place: place.clone(), has_hosts: false, children: Vec::new(), vars: Vars::new() };
        self.groups.push(group);
        self.groups.len() - 1
    }

    /// Adds a host to a group, with more variables of its own.
    pub(super) fn add(
        &mut self,
        group: &str,
        name: String,
        vars: impl Iterator<Item = (String, Var)>,
        place: &Place,
    ) {
        if self.is_full() {
            return;
        }
        let group = self.index(group, place);
        let at = *self.known_hosts.entry(name.clone()).or_insert(self.hosts.len());
        if at == self.hosts.len() {
            self.hosts.push(Host { name, place: place.clone(), vars: Vars::new(), groups: Vec::new() });
        }
        let host = &mut self.hosts[at];
        let before = self.mentions;
        host.vars.extend(vars.inspect(|_| self.mentions += 1));
        self.mentions = self.mentions.max(before + 1);
        if !host.groups.contains(&group) {
            host.groups.push(group);
            self.groups[group].has_hosts = true;
        }
    }

    /// Returns whether nothing more is taken, which [`Groups::within_limits`] refuses.
    pub(super) fn is_full(&self) -> bool {
        self.mentions >= MOST_MENTIONS
    }

    /// Refuses more than an inventory can have.
    pub(super) fn within_limits(&self) -> Result<(), ImportError> {
        match () {
            () if self.hosts.len() > MOST_HOSTS => Err(ImportError::TooMany),
            () if self.groups.len() > MOST_GROUPS || self.is_full() => Err(ImportError::TooComplex),
            () => Ok(()),
        }
    }

    /// Returns the groups above each group, itself included; those that are nested the least come first.
    pub(super) fn above(&self) -> Result<Vec<Vec<usize>>, ImportError> {
        let mut parents = vec![Vec::new(); self.groups.len()];
        for (at, group) in self.groups.iter().enumerate() {
            for child in group.children.iter().filter_map(|child| self.known.get(child)) {
                parents[*child].push(at);
            }
        }
        let above = |start: usize| {
            let (mut order, mut seen) = (vec![start], BTreeSet::from([start]));
            let mut next = 0;
            while let Some(at) = order.get(next).copied() {
                order.extend(parents[at].iter().filter(|parent| seen.insert(**parent)));
                next += 1;
                if order.len() > MOST_ABOVE {
                    return Err(ImportError::TooComplex);
                }
            }
            order.reverse();
            Ok(order)
        };
        (0..self.groups.len()).map(above).collect()
    }
}

/// Returns the names that a pattern of hosts stands for, and the port behind it. Ranges are `[01:50]`, `[1:9:2]`, `[a:f]`.
pub(super) fn expand(pattern: &str) -> Result<(Vec<String>, Option<String>), &'static str> {
    // A port is behind the only colon outside brackets; an IPv6 address has more of them.
    let outside =
        |text: &str| text.split(']').all(|part| !part.split('[').next().unwrap_or_default().contains(':'));
    let (pattern, port) = match pattern.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && outside(name) =>
        {
            (name, Some(port.to_owned()))
        }
        _ => (pattern, None),
    };
    let address = pattern.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = address.filter(|text| text.parse::<std::net::Ipv6Addr>().is_ok()) {
        return Ok((vec![address.to_owned()], port));
    }
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, inside, after)) = range(rest) {
        let choices = choices(inside)?;
        if choices.len().saturating_mul(names.len()) > MOST_HOSTS {
            return Err("it stands for too many hosts");
        }
        names =
            names.iter().flat_map(|name| choices.iter().map(move |c| format!("{name}{before}{c}"))).collect();
        rest = after;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    match names.iter().any(String::is_empty) {
        true => Err("it has no name"),
        false => Ok((names, port)),
    }
}

/// Returns what stands before, in and behind the first brackets that have a range in them.
fn range(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('[')?;
    let (inside, after) = rest.split_once(']')?;
    // In brackets without a range is an IPv6 address.
    inside
        .split(':')
        .count()
        .eq(&2)
        .then_some(())
        .or_else(|| inside.split(':').count().eq(&3).then_some(()))?;
    Some((before, inside, after))
}

fn choices(range: &str) -> Result<Vec<String>, &'static str> {
    const WRONG: &str = "its range is not of the form [1:9], [01:99], [1:9:2] or [a:f]";
    let mut parts = range.split(':');
    let (from, to) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let step: usize = parts.next().unwrap_or("1").parse().ok().filter(|step| *step > 0).ok_or(WRONG)?;
    if let ([from], [to]) = (from.as_bytes(), to.as_bytes())
        && from.is_ascii_alphabetic()
        && to.is_ascii_alphabetic()
    {
        return Ok((*from..=*to).step_by(step).map(|letter| char::from(letter).to_string()).collect());
    }
    let (first, last): (u32, u32) = (from.parse().map_err(|_| WRONG)?, to.parse().map_err(|_| WRONG)?);
    if first > last || from.starts_with('+') || from.len() > 9 {
        return Err(WRONG);
    }
    if (last - first) as usize / step >= MOST_HOSTS {
        return Err("it stands for too many hosts");
    }
    let width = if from.starts_with('0') { from.len() } else { 0 };
    Ok((first..=last).step_by(step).map(|n| format!("{n:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(pattern: &str) -> Result<String, &'static str> {
        expand(pattern).map(|(names, port)| names.into_iter().chain(port).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn ranges_are_ansibles() {
        for (pattern, expected) in [
            ("web[08:10]", "web08 web09 web10"),
            ("web[8:10].x", "web8.x web9.x web10.x"),
            ("db-[a:c]", "db-a db-b db-c"),
            ("n[1:9:4]", "n1 n5 n9"),
            ("r[1:2]n[1:2]", "r1n1 r1n2 r2n1 r2n2"),
            ("h1:2222", "h1 2222"),
            ("h[1:2].x:22", "h1.x h2.x 22"),
            ("[fd00::1:2:3]:22", "fd00::1:2:3 22"),
            ("[fd00::1:2:3]", "fd00::1:2:3"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(names(pattern).as_deref(), Ok(expected), "{pattern}");
        }
        for wrong in ["h[3:1]", "h[x:3]", "h[1:9:0]", "h[1:999999999]", "h[0:999][0:999]", "h[:]"] {
            assert!(names(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[\\[\\]0-9a-c:]{0,24}") {
            let _ = expand(&pattern);
        }
    }
}
