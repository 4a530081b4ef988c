//! SSH endpoints of hosts: from the inventory, completed with settings from `ssh -G`.

use crate::event::{Event, Events};
use crate::inventory::{Host, Inventory};
use crate::ssh::{self, Asked, Credentials, Endpoint, PoolOptions};
use crate::state::SecretText;

/// Returns a host's endpoint, with settings of the user's own SSH configuration that the inventory does not have. In a lab that
/// configuration does not count: it is about other hosts.
pub(super) async fn endpoint(inventory: &Inventory, host: &Host, lab: bool, events: &Events) -> Endpoint {
    let (ssh, pool) = (&inventory.ssh, inventory.pool_of(host).ssh.as_ref());
    let user = host.user.clone().or_else(|| pool?.user.clone()).or_else(|| ssh.user.clone());
    let port = host.port.or_else(|| pool?.port).or(ssh.port);
    let bastions = pool.and_then(|p| p.bastions.as_ref()).unwrap_or(&ssh.bastions);
    let of_pool = pool.map(|p| p.identities.clone()).unwrap_or_default();
    let asked = Asked {
        host: host.address.clone(),
        user,
        port,
        identities: of_pool.iter().chain(&ssh.identities).cloned().collect(),
    };
    let mut config = if lab { ssh::without_config(&asked) } else { ssh::user_config(&asked).await };
    let local = || std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let mut endpoint = Endpoint {
        name: host.name.to_string(),
        address: config.hostname.take().unwrap_or(asked.host),
        port: asked.port.or(config.port).unwrap_or(22),
        user: asked.user.or(config.user.take()).unwrap_or_else(local),
        bastions: bastions.clone(),
        ..Endpoint::default()
    };
    if let Some(message) = config.problem.clone() {
        events.emit(Event::Warning { target: Some(endpoint.name.clone()), message });
    }
    endpoint.complete(config);
    // Whether an unknown key is accepted matters for one alone, and is told with its error.
    for option in endpoint.unsupported.iter().filter(|option| !option.starts_with("stricthostkeychecking")) {
        let message = format!("ssh_config sets `{option}`, which provision does not support");
        events.emit(Event::Warning { target: Some(endpoint.name.clone()), message });
    }
    endpoint
}

/// Returns how connections to the inventory's hosts are made.
pub(super) fn pool_options(
    inventory: &Inventory,
    lab: bool,
    passphrase: Option<SecretText>,
    password: Option<SecretText>,
) -> PoolOptions {
    let ssh = &inventory.ssh;
    PoolOptions {
        known_hosts: vec![ssh.known_hosts.clone()],
        credentials: Credentials {
            identities: ssh.identities.clone(),
            passphrase,
            password,
            agent: ssh.agent,
            ..Credentials::default()
        },
        use_ssh_config: !lab,
        sockets: ssh.sockets.clone(),
        ..PoolOptions::default()
    }
}
