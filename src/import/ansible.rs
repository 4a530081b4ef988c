//! An Ansible inventory: its hosts, groups and the variables beside it, and what they come to for each host. Follows Ansible's
//! precedence: variables of parents, of groups, of `group_vars/`, of the host, of `host_vars/`.

use super::ansible_variables::{Settings, note, settings};
use super::ansible_yaml::vars;
use super::format::ImportError;
use super::found::{Found, FoundHost, Note, NoteKind, Place};
use super::words::VAULT;
use super::{ansible_ini, ansible_yaml};
use crate::inventory::{Files, MOST_HOSTS, NodeRole, yaml};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Groups inside one another.
pub(super) const MOST_DEPTH: usize = 32;
/// Groups of an inventory.
const MOST_GROUPS: usize = 5_000;
/// Host patterns of all sections that ranges may stand for; a host stands in several.
const MOST_MENTIONS: usize = 4 * MOST_HOSTS;

/// Groups whose hosts run the control plane and those that are its workers: Kubespray and what is named after it, k3s and RKE2,
/// then Slurm, whose controller is the host that is not computing. The first row that a host is in decides for all.
const ROLES: [(&[&str], &[&str]); 2] = [
    (
        &[
            "kube_control_plane", "kube_controlplane", "kube_master", "k8s_master", "k8s_masters", "master", "masters",
            "control_plane", "controlplane", "controller", "controllers", "server", "servers", "rke2_servers",
        ],
        &[
            "kube_node", "kube_nodes", "k8s_node", "k8s_nodes", "k8s_worker", "k8s_workers", "node", "nodes", "worker",
            "workers", "agent", "agents", "rke2_agents",
        ],
    ),
    (&["slurm_master", "slurm_control", "slurmctld", "control"], &["slurm_node", "slurm_nodes", "compute", "slurmd"]),
];
/// Groups that only gather others.
const GATHERING: [&str; 6] = ["all", "ungrouped", "k8s_cluster", "k3s_cluster", "slurm_cluster", "calico_rr"];
const ETCD: &str = "etcd";
const BASTIONS: [&str; 2] = ["bastion", "bastions"];
/// What the name of a group of hosts with accelerators has in it.
const ACCELERATED: [&str; 12] =
    ["gpu", "dgx", "hgx", "accel", "a100", "h100", "h200", "b200", "b300", "gb200", "l40", "trn"];

/// The value of a variable.
#[derive(Clone)]
pub(super) struct Var {
    /// It, if it is one text.
    pub text: Option<String>,
    /// Where it stands.
    pub place: Place,
    /// It has a tag, such as `!vault`.
    pub encrypted: bool,
}

impl Var {
    /// Returns a value without a tag.
    pub(super) fn text(text: String, place: Place) -> Self {
        Self { text: Some(text), place, encrypted: false }
    }
}

/// Variables by name.
pub(super) type Vars = BTreeMap<String, Var>;

/// A group.
pub(super) struct Group {
    place: Place,
    hosts: Vec<usize>,
    /// Groups inside it.
    pub children: Vec<String>,
    /// Its variables.
    pub vars: Vars,
}

struct Host {
    name: String,
    place: Place,
    vars: Vars,
    /// Groups that it stands in itself.
    groups: Vec<usize>,
}

/// The groups of an inventory, in the order in which they first appear.
#[derive(Default)]
pub(super) struct Groups {
    names: Vec<String>,
    known: HashMap<String, usize>,
    groups: Vec<Group>,
    hosts: Vec<Host>,
    known_hosts: HashMap<String, usize>,
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
        let group = Group { place: place.clone(), hosts: Vec::new(), children: Vec::new(), vars: Vars::new() };
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
        self.mentions += 1;
        if self.mentions > MOST_MENTIONS {
            return;
        }
        let group = self.index(group, place);
        let at = *self.known_hosts.entry(name.clone()).or_insert(self.hosts.len());
        if at == self.hosts.len() {
            self.hosts.push(Host { name, place: place.clone(), vars: Vars::new(), groups: Vec::new() });
        }
        let host = &mut self.hosts[at];
        host.vars.extend(vars);
        if !host.groups.contains(&group) {
            host.groups.push(group);
            self.groups[group].hosts.push(at);
        }
    }

    /// Returns the groups above each group, itself included; those that are nested the least come first.
    fn above(&self) -> Vec<Vec<usize>> {
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
            }
            order.reverse();
            order
        };
        (0..self.groups.len()).map(above).collect()
    }
}

/// Returns the names that a pattern of hosts stands for, and the port behind it. Ranges are `[01:50]`, `[1:9:2]`, `[a:f]`.
pub(super) fn expand(pattern: &str) -> Result<(Vec<String>, Option<String>), &'static str> {
    let (pattern, port) = match pattern.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') => {
            (name, Some(port.to_owned()))
        }
        _ => (pattern, None),
    };
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, inside, after)) = range(rest) {
        let choices = choices(inside)?;
        if choices.len().saturating_mul(names.len()) > MOST_HOSTS {
            return Err("it stands for too many hosts");
        }
        names = names.iter().flat_map(|name| choices.iter().map(move |c| format!("{name}{before}{c}"))).collect();
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
    inside.split(':').count().eq(&2).then_some(()).or_else(|| inside.split(':').count().eq(&3).then_some(()))?;
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

/// Reads an inventory, and the variables beside it.
pub(super) fn read(name: &str, text: String, path: &Path, beside: &dyn Files) -> Result<Found, ImportError> {
    let (file, mut groups, mut found) = (Arc::from(name), Groups::default(), Found::default());
    let section = |line: &str| line.trim_start().starts_with('[');
    // An INI file may be YAML by chance: a list, or one text. Groups of YAML are a mapping.
    let document = if text.lines().any(section) { None } else { Some(yaml(name, text.clone())) };
    match document {
        Some(Ok(document)) if !document.entries().is_empty() => {
            ansible_yaml::read(&file, &document, &mut groups, &mut found)?;
        }
        Some(Err(error)) if text.trim_start().starts_with("---") => return Err(ImportError::Yaml(error)),
        _ => ansible_ini::read(&file, &text, &mut groups, &mut found),
    }
    if groups.hosts.len() > MOST_HOSTS || groups.mentions > MOST_MENTIONS {
        return Err(ImportError::TooMany);
    }
    if groups.groups.len() > MOST_GROUPS {
        return Err(ImportError::Groups);
    }
    for group in &groups.groups {
        group.vars.iter().for_each(|(name, var)| note(name, var, &mut found));
    }
    let mut told = BTreeSet::new();
    for host in &groups.hosts {
        // The hosts of a range share their variables.
        let new = |(name, var): &(&String, &Var)| told.insert(((*name).clone(), var.place.clone()));
        host.vars.iter().filter(new).for_each(|(name, var)| note(name, var, &mut found));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let of_groups = files(&folder.join("group_vars"), beside, &groups.known, &mut found);
    let of_hosts = files(&folder.join("host_vars"), beside, &groups.known_hosts, &mut found);
    hosts(&groups, &of_groups, &of_hosts, &mut found);
    Ok(found)
}

/// Reads the files of variables in a folder that belong to a group or host: `NAME`, `NAME.yml`, or files in `NAME/`.
fn files(
    folder: &Path,
    beside: &dyn Files,
    known: &HashMap<String, usize>,
    found: &mut Found,
) -> HashMap<String, Vars> {
    let mut all: HashMap<String, Vars> = HashMap::new();
    if !beside.is_folder(folder) {
        return all;
    }
    let unread = |path: &Path, error: std::io::Error, found: &mut Found| {
        let place = Place { file: path.display().to_string().into(), line: 1 };
        found.left_out(&place, "the file", format!("it cannot be read: {error}"));
    };
    let paths = match beside.list(folder) {
        Ok(paths) => paths,
        Err(error) => {
            unread(folder, error, found);
            return all;
        }
    };
    for path in paths {
        let below = path.strip_prefix(folder).unwrap_or(&path);
        let Some(first) = below.iter().next().map(Path::new) else { continue };
        let is_yaml = path.extension().is_none_or(|e| ["yml", "yaml", "json"].iter().any(|known| e == *known));
        let owner = if below.iter().count() == 1 && path.extension().is_some() { first.file_stem() } else { Some(first.as_os_str()) };
        let owner = owner.map(|owner| owner.to_string_lossy().into_owned()).unwrap_or_default();
        if !is_yaml || (owner != "all" && !known.contains_key(&owner)) {
            continue;
        }
        let name = path.display().to_string();
        let file: Arc<str> = Arc::from(name.as_str());
        let text = match beside.read(&path) {
            Ok(text) => text,
            Err(error) => {
                unread(&path, error, found);
                continue;
            }
        };
        let place = Place::of(&file, 1);
        if text.starts_with("$ANSIBLE_VAULT") {
            found.left_out(&place, "the file", VAULT);
            continue;
        }
        match yaml(&name, text) {
            Ok(document) => {
                for (name, var) in vars(&file, &document) {
                    note(&name, &var, found);
                    all.entry(owner.clone()).or_default().insert(name, var);
                }
            }
            Err(_) => found.left_out(&place, "the file", "it is not valid YAML"),
        }
    }
    all
}

/// Returns a group's name as the tables here have it.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// Makes hosts of what the groups, and the files beside them, say.
fn hosts(
    groups: &Groups,
    of_groups: &HashMap<String, Vars>,
    of_hosts: &HashMap<String, Vars>,
    found: &mut Found,
) {
    let plain_names: Vec<String> = groups.names.iter().map(|name| plain(name)).collect();
    let above = groups.above();
    let of_group: Vec<Settings> = groups.groups.iter().map(|group| settings(group.vars.iter())).collect();
    let beside = |name: &str| settings(of_groups.get(name).into_iter().flatten());
    let of_group_beside: Vec<Settings> = groups.names.iter().map(|name| beside(name)).collect();
    let all_beside = beside("all");
    let own_all = groups.known.get("all").copied();
    let inside: Vec<BTreeSet<usize>> =
        groups.hosts.iter().map(|host| host.groups.iter().flat_map(|g| above[*g].iter().copied()).collect()).collect();
    let among = |groups: &BTreeSet<usize>, names: &[&str]| groups.iter().any(|g| names.contains(&plain_names[*g].as_str()));
    let row = ROLES.iter().find(|(control, _)| inside.iter().any(|groups| among(groups, control)));
    // In the file, then beside it; groups that are nested the least first, for those inside them say more.
    let set_of = |host: &Host| {
        let mut order: Vec<usize> = own_all.into_iter().collect();
        let more: Vec<usize> = host.groups.iter().flat_map(|g| above[*g].iter().copied()).collect();
        order.extend(more.into_iter().filter(|group| Some(*group) != own_all));
        let set = order.iter().fold(Settings::default(), |set, g| set.under(&of_group[*g])).under(&all_beside);
        let set = order.iter().fold(set, |set, g| set.under(&of_group_beside[*g]));
        set.under(&settings(host.vars.iter())).under(&settings(of_hosts.get(&host.name).into_iter().flatten()))
    };
    let mut bastions = Vec::new();
    for (host, _) in groups.hosts.iter().zip(&inside).filter(|(_, inside)| among(inside, &BASTIONS)) {
        let set = set_of(host);
        let user = set.user.map(|user| format!("{user}@")).unwrap_or_default();
        let port = set.port.map(|port| format!(":{port}")).unwrap_or_default();
        bastions.push(format!("{user}{}{port}", set.address.as_ref().unwrap_or(&host.name)));
        found.left_out(&host.place, host.name.as_str(), "it is the bastion of the others, in ssh.bastions");
    }
    let mut used: BTreeSet<usize> = BTreeSet::new();
    for (host, inside) in groups.hosts.iter().zip(&inside) {
        if among(inside, &BASTIONS) {
            continue;
        }
        let set = set_of(host);
        let (control, worker) = row.map_or((false, false), |(c, w)| (among(inside, c), among(inside, w)));
        if inside.iter().any(|g| plain_names[*g] == ETCD) && !control && !worker && row.is_some() {
            found.left_out(&host.place, host.name.as_str(), "k0s runs etcd on its controllers, not on hosts of its own");
            continue;
        }
        if set.is_local && set.address.is_none() {
            found.left_out(&host.place, host.name.as_str(), "it is the machine on which Ansible runs");
            continue;
        }
        let hint = host.groups.iter().copied().find(|group| {
            let name = plain_names[*group].as_str();
            let of_role = ROLES.iter().any(|(c, w)| c.contains(&name) || w.contains(&name));
            let accelerated = ACCELERATED.iter().any(|word| name.contains(word));
            !of_role && name != ETCD && !GATHERING.contains(&name) && (row.is_none() || accelerated)
        });
        used.extend(hint);
        let mut new = FoundHost::of(host.name.as_str(), host.place.clone());
        new.role = match (control, worker) {
            (true, true) => Some(NodeRole::ControllerWorker),
            (true, false) => Some(NodeRole::Controller),
            (false, true) => Some(NodeRole::Worker),
            (false, false) => None,
        };
        new.pool = hint.map(|group| groups.names[group].clone());
        new.address = Some(set.address.unwrap_or_else(|| host.name.clone()));
        (new.port, new.user) = (set.port, set.user);
        new.bastions = set.bastions.unwrap_or_else(|| bastions.clone());
        new.identities = set.identities;
        new.cluster_address = set.ip.or(set.access_ip);
        found.hosts.push(new);
    }
    if row.is_some_and(|row| *row == ROLES[1]) {
        let why = "there are no groups of Kubernetes, so Slurm's tell controllers from workers";
        found.notes.push(Note::of(NoteKind::Assumed, None, "roles", why));
    }
    for (at, group) in groups.groups.iter().enumerate() {
        let name = plain_names[at].as_str();
        let of_role = ROLES.iter().any(|(c, w)| c.contains(&name) || w.contains(&name));
        let other = name == ETCD || GATHERING.contains(&name) || BASTIONS.contains(&name);
        if !group.hosts.is_empty() && !of_role && !other && !used.contains(&at) {
            found.left_out(&group.place, groups.names[at].as_str(), "groups that are neither roles nor pools are not copied; use labels of a pool");
        }
    }
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
            ("[fd00::1:2:3]", "[fd00::1:2:3]"),
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
