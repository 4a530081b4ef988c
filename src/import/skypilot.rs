//! SSH node pools of SkyPilot, `~/.sky/ssh_node_pools.yaml`: pools of hosts with defaults of their own. The format is that of
//! SkyPilot's documentation, "Deploy SkyPilot on existing machines".

use super::error::ImportError;
use super::found::{Found, FoundHost, Note, NoteKind, Place};
use super::words::{SUDO_PASSWORD, TAGGED, TEMPLATE, UNUSED, is_secret, is_template};
use crate::inventory::{Node, NodeRole, Value, yaml};
use std::sync::Arc;

/// What a pool or a host says of its login.
#[derive(Clone, Default)]
struct Login {
    user: Option<String>,
    identities: Vec<String>,
}

/// Reads a file of pools.
pub(super) fn read(name: &str, text: String) -> Result<Found, ImportError> {
    let document = yaml(name, text).map_err(ImportError::Yaml)?;
    let (file, mut found) = (Arc::from(name), Found::default());
    for pool in document.entries() {
        let login = login(&file, &pool.node, Login::default(), &mut found);
        let Some(Value::List(hosts)) = pool.node.get("hosts").map(|hosts| &hosts.value) else {
            found.left_out(&Place::of(&file, pool.span.line), pool.key.as_str(), "it has no list of hosts");
            continue;
        };
        if !found.has_room(hosts.len()) {
            return Err(ImportError::TooMany);
        }
        for node in hosts {
            let host = host(&file, node, &pool.key, &login, &mut found);
            found.hosts.extend(host);
        }
    }
    if document.entries().len() > 1 {
        let why = "each is a cluster of its own in SkyPilot; here they are pools of one cluster";
        found.notes.push(Note::of(NoteKind::Assumed, None, "pools", why));
    }
    if let Some(first) = found.hosts.first_mut() {
        let why = "it is the head of its pool, so it is a controller and a worker";
        found.notes.push(Note::of(NoteKind::Assumed, Some(first.place.clone()), shown(first), why));
        first.role = Some(NodeRole::ControllerWorker);
    }
    found.hosts.iter_mut().skip(1).for_each(|host| host.role = Some(NodeRole::Worker));
    Ok(found)
}

fn shown(host: &FoundHost) -> String {
    host.address.clone().unwrap_or_else(|| host.name.clone())
}

/// Reads user and key of a pool or a host; what else they say is noted.
fn login(file: &Arc<str>, node: &Node, mut login: Login, found: &mut Found) -> Login {
    for entry in node.entries() {
        let place = Place::of(file, entry.span.line);
        let text = entry.node.text().filter(|text| !text.is_empty());
        match (entry.key.as_str(), text) {
            ("hosts" | "ip", _) | ("user" | "identity_file", None) => {}
            ("user" | "identity_file", Some(text)) if is_template(&text) => {
                found.left_out(&place, entry.key.as_str(), TEMPLATE);
            }
            ("user" | "identity_file", _) if entry.node.is_tagged(&entry.span) => {
                found.left_out(&place, entry.key.as_str(), TAGGED);
            }
            ("user", Some(user)) => login.user = Some(user),
            ("identity_file", Some(file)) => login.identities = vec![file],
            ("password", None) => {}
            (key, _) => found.left_out(&place, key, if is_secret(key) { SUDO_PASSWORD } else { UNUSED }),
        }
    }
    login
}

fn host(file: &Arc<str>, node: &Node, pool: &str, of_pool: &Login, found: &mut Found) -> Option<FoundHost> {
    let place = Place::of(file, node.span.line);
    let login = login(file, node, of_pool.clone(), found);
    let Some(address) = node.text().or_else(|| node.get("ip").and_then(Node::text)) else {
        found.left_out(&place, "a host", "it has no `ip`");
        return None;
    };
    if is_template(&address) {
        found.left_out(&place, "a host", TEMPLATE);
        return None;
    }
    let mut host = FoundHost::of(address.as_str(), place);
    (host.address, host.user, host.identities) = (Some(address), login.user, login.identities);
    host.pool = Some(pool.to_owned());
    Some(host)
}
