//! An Ansible inventory: its hosts, groups and the variables beside it, and what they come to for each host. Follows Ansible's
//! precedence: variables of parents, of groups, of `group_vars/`, of the host, of `host_vars/`.

use super::ansible_groups::{Groups, Host, Var, Vars};
use super::ansible_variables::{Connection, Settings, note, settings};
use super::ansible_yaml::vars;
use super::error::ImportError;
use super::format::begins_as_yaml;
use super::found::{Found, FoundHost, Note, NoteKind, Place};
use super::words::VAULT;
use super::{ansible_ini, ansible_yaml};
use crate::inventory::{Files, NodeRole, yaml};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Groups whose hosts run the control plane and those that are its workers: Kubespray and what is named after it, k3s and RKE2,
/// then Slurm, whose controller is the host that is not computing. The first row that a host is in decides for all.
const ROLES: [(&[&str], &[&str]); 2] = [
    (
        &[
            "kube_control_plane",
            "kube_controlplane",
            "kube_master",
            "k8s_master",
            "k8s_masters",
            "master",
            "masters",
            "control_plane",
            "controlplane",
            "controller",
            "controllers",
            "server",
            "servers",
            "rke2_servers",
        ],
        &[
            "kube_node",
            "kube_nodes",
            "k8s_node",
            "k8s_nodes",
            "k8s_worker",
            "k8s_workers",
            "node",
            "nodes",
            "worker",
            "workers",
            "agent",
            "agents",
            "rke2_agents",
        ],
    ),
    (
        &["slurm_master", "slurm_control", "slurmctld", "control"],
        &["slurm_node", "slurm_nodes", "compute", "slurmd"],
    ),
];
/// Groups that only gather others.
const GATHERING: [&str; 6] = ["all", "ungrouped", "k8s_cluster", "k3s_cluster", "slurm_cluster", "calico_rr"];
const ETCD: &str = "etcd";
const BASTIONS: [&str; 2] = ["bastion", "bastions"];
/// What the name of a group of hosts with accelerators has in it.
const ACCELERATED: [&str; 12] =
    ["gpu", "dgx", "hgx", "accel", "a100", "h100", "h200", "b200", "b300", "gb200", "l40", "trn"];

/// Reads an inventory, and the variables beside it.
pub(super) fn read(name: &str, text: String, path: &Path, beside: &dyn Files) -> Result<Found, ImportError> {
    let (file, mut groups, mut found) = (Arc::from(name), Groups::default(), Found::default());
    let named = path.extension().is_some_and(|end| matches!(end.to_str(), Some("yml" | "yaml" | "json")));
    let is_yaml = named || begins_as_yaml(&text);
    // An INI file may be YAML by chance: a list, or one text. Groups of YAML are a mapping.
    let ini = !is_yaml && text.lines().any(|line| line.trim_start().starts_with('['));
    let document = if ini { None } else { Some(yaml(name, text.clone())) };
    match document {
        Some(Ok(document)) if is_yaml || !document.entries().is_empty() => {
            ansible_yaml::read(&file, &document, &mut groups, &mut found)?;
        }
        Some(Err(error)) if is_yaml => return Err(ImportError::Yaml(error)),
        _ => ansible_ini::read(&file, &text, &mut groups, &mut found),
    }
    groups.within_limits()?;
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
    hosts(&groups, &of_groups, &of_hosts, &mut found)?;
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
        let is_yaml =
            path.extension().is_none_or(|e| ["yml", "yaml", "json"].iter().any(|known| e == *known));
        let owner = if below.iter().count() == 1 && path.extension().is_some() {
            first.file_stem()
        } else {
            Some(first.as_os_str())
        };
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

/// What the groups of a host say of it.
struct Membership {
    set: Settings,
    is_bastion: bool,
    is_etcd: bool,
    /// Controller, worker, for each row of [`ROLES`].
    roles: [(bool, bool); ROLES.len()],
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
) -> Result<(), ImportError> {
    let plain_names: Vec<String> = groups.names.iter().map(|name| plain(name)).collect();
    let above = groups.above()?;
    let of_group: Vec<Settings> = groups.groups.iter().map(|group| settings(group.vars.iter())).collect();
    let beside = |name: &str| settings(of_groups.get(name).into_iter().flatten());
    let of_group_beside: Vec<Settings> = groups.names.iter().map(|name| beside(name)).collect();
    let all_beside = beside("all");
    let own_all = groups.known.get("all").copied();
    let membership = |of: &[usize]| {
        // Groups that are nested the least first, for those inside them say more.
        let mut order: Vec<usize> = own_all.into_iter().collect();
        order.extend(of.iter().flat_map(|g| &above[*g]).copied().filter(|group| Some(*group) != own_all));
        let among = |names: &[&str]| order.iter().any(|g| names.contains(&plain_names[*g].as_str()));
        // In the file, then beside it.
        let set =
            order.iter().fold(Settings::default(), |set, g| set.under(&of_group[*g])).under(&all_beside);
        Membership {
            set: order.iter().fold(set, |set, g| set.under(&of_group_beside[*g])),
            is_bastion: among(&BASTIONS),
            is_etcd: among(&[ETCD]),
            roles: ROLES.map(|(control, worker)| (among(control), among(worker))),
        }
    };
    // Hosts of a range are in the same groups.
    let mut kinds: HashMap<&[usize], Membership> = HashMap::new();
    for host in &groups.hosts {
        kinds.entry(&host.groups).or_insert_with(|| membership(&host.groups));
    }
    let row = (0..ROLES.len()).find(|row| kinds.values().any(|kind| kind.roles[*row].0));
    let set_of = |host: &Host, kind: &Membership| {
        let set = kind.set.clone().under(&settings(host.vars.iter()));
        set.under(&settings(of_hosts.get(&host.name).into_iter().flatten()))
    };
    let mut bastion: Option<String> = None;
    let members = || groups.hosts.iter().filter_map(|host| Some((host, kinds.get(host.groups.as_slice())?)));
    for (host, kind) in members().filter(|(_, kind)| kind.is_bastion) {
        // Kubespray uses the first one.
        let why = match bastion {
            None => "it is the bastion of the others, in ssh.bastions",
            Some(_) => "another host is the bastion",
        };
        found.left_out(&host.place, host.name.as_str(), why);
        let set = set_of(host, kind);
        let user = set.user.map(|user| format!("{user}@")).unwrap_or_default();
        let port = set.port.map(|port| format!(":{port}")).unwrap_or_default();
        let address = set.address.as_ref().unwrap_or(&host.name);
        bastion.get_or_insert_with(|| format!("{user}{address}{port}"));
    }
    let mut used: BTreeSet<usize> = BTreeSet::new();
    for (host, kind) in members().filter(|(_, kind)| !kind.is_bastion) {
        let set = set_of(host, kind);
        let (control, worker) = row.map_or((false, false), |row| kind.roles[row]);
        if kind.is_etcd && !control && !worker && row.is_some() {
            let why = "k0s runs etcd on its controllers, not on hosts of its own";
            found.left_out(&host.place, host.name.as_str(), why);
            continue;
        }
        let why = match (set.connection, &set.address) {
            (Some(Connection::Local), None) => Some("it is the machine on which Ansible runs"),
            (Some(Connection::Other), _) => Some("provision connects over SSH only"),
            _ => None,
        };
        if let Some(why) = why {
            found.left_out(&host.place, host.name.as_str(), why);
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
        new.bastions = set.bastions.unwrap_or_else(|| bastion.iter().cloned().collect());
        new.identities = set.identities;
        new.cluster_address = set.ip.or(set.access_ip);
        found.hosts.push(new);
    }
    if row == Some(1) {
        let why = "there are no groups of Kubernetes, so Slurm's tell controllers from workers";
        found.notes.push(Note::of(NoteKind::Assumed, None, "roles", why));
    }
    for (at, group) in groups.groups.iter().enumerate() {
        let name = plain_names[at].as_str();
        let of_role = ROLES.iter().any(|(c, w)| c.contains(&name) || w.contains(&name));
        let other = name == ETCD || GATHERING.contains(&name) || BASTIONS.contains(&name);
        if group.has_hosts && !of_role && !other && !used.contains(&at) {
            found.left_out(
                &group.place,
                groups.names[at].as_str(),
                "groups that are neither roles nor pools are not copied; use labels of a pool",
            );
        }
    }
    Ok(())
}
