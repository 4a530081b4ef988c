//! SSH endpoints of hosts: from the inventory, completed with settings from `ssh -G`.

use crate::event::{Event, Events};
use crate::inventory::{Host, Inventory};
use crate::ssh::{self, Credentials, Endpoint, PoolOptions};
use crate::state::SecretText;
use std::net::IpAddr;

/// Returns a host's endpoint, with settings of the user's own SSH configuration that the inventory does not have.
pub(super) async fn endpoint(inventory: &Inventory, host: &Host, events: &Events) -> Endpoint {
    let ssh = &inventory.ssh;
    let user = host.user.clone().or_else(|| ssh.user.clone());
    let mut endpoint = Endpoint {
        name: host.name.to_string(),
        address: host.address.clone(),
        port: host.port.or(ssh.port).unwrap_or(22),
        user: user.clone().unwrap_or_default(),
        bastions: ssh.bastions.clone(),
        ..Endpoint::default()
    };
    if ssh.identities.is_empty() || user.is_none() {
        let config = ssh::user_config(&host.address).await;
        if user.is_none() {
            endpoint.user =
                config.user.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "root".to_owned());
        }
        if host.port.or(ssh.port).is_none() {
            endpoint.port = config.port.unwrap_or(22);
        }
        if endpoint.bastions.is_empty() {
            endpoint.bastions = config.jumps;
        }
        if ssh.identities.is_empty() {
            endpoint.identities = config.identities;
        }
        // An alias may lead elsewhere; an address of the inventory is kept, above all the lab's.
        if host.address.parse::<IpAddr>().is_err() {
            endpoint.address = config.hostname.unwrap_or(endpoint.address);
        }
        endpoint.host_key_alias = config.host_key_alias;
        if let Some(message) = config.problem {
            events.emit(Event::Warning { target: Some(endpoint.name.clone()), message });
        }
    }
    endpoint
}

/// Returns how connections to the inventory's hosts are made.
pub(super) fn pool_options(
    inventory: &Inventory,
    passphrase: Option<SecretText>,
    password: Option<SecretText>,
) -> PoolOptions {
    let ssh = &inventory.ssh;
    // Without a home folder the user has no such file; one in the current folder is somebody else's.
    let home = std::env::home_dir().filter(|h| h.is_absolute()).map(|h| h.join(".ssh/known_hosts"));
    PoolOptions {
        known_hosts: std::iter::once(ssh.known_hosts.clone())
            .chain(home)
            .chain(std::iter::once("/etc/ssh/ssh_known_hosts".into()))
            .collect(),
        credentials: Credentials {
            identities: ssh.identities.clone(),
            passphrase,
            password,
            agent: ssh.agent,
            ..Credentials::default()
        },
        sockets: ssh.sockets.clone(),
        ..PoolOptions::default()
    }
}
