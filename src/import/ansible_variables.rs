//! Variables of Ansible and Kubespray that matter for an inventory, and why each of the others is left out.

use super::ansible_groups::{ENCRYPTED, Var};
use super::bastions::options;
use super::found::Found;
use super::words::{
    LOGIN_PASSWORD, PASSPHRASE, SECRET, SUDO_PASSWORD, TAGGED, TEMPLATE, UNUSED, VAULT, is_secret,
    is_template,
};
use crate::inventory::is_user;
use std::net::IpAddr;

/// What variables say of a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Settings {
    /// `ansible_host`.
    pub address: Option<String>,
    /// `ansible_port`.
    pub port: Option<u16>,
    /// `ansible_user`.
    pub user: Option<String>,
    /// `ansible_ssh_private_key_file`, and keys among the arguments of ssh.
    pub identities: Vec<String>,
    /// Bastions among the arguments of ssh.
    pub bastions: Option<Vec<String>>,
    /// Kubespray's `ip`: what services of the cluster listen on.
    pub ip: Option<String>,
    /// Kubespray's `access_ip`: what other hosts use, `ip` unless given.
    pub access_ip: Option<String>,
    /// How Ansible reaches the host.
    pub connection: Option<Connection>,
}

/// How Ansible reaches a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Connection {
    /// Over SSH.
    Ssh,
    /// It is the machine on which Ansible runs.
    Local,
    /// In another way, such as WinRM.
    Other,
}

impl Settings {
    /// Returns these with those of `over` in their place.
    pub(super) fn under(self, over: &Settings) -> Settings {
        let over = over.clone();
        Settings {
            address: over.address.or(self.address),
            port: over.port.or(self.port),
            user: over.user.or(self.user),
            identities: if over.identities.is_empty() { self.identities } else { over.identities },
            bastions: over.bastions.or(self.bastions),
            ip: over.ip.or(self.ip),
            access_ip: over.access_ip.or(self.access_ip),
            connection: over.connection.or(self.connection),
        }
    }
}

/// What a variable means for the import: a setting, nothing, or something to leave out, with the reason.
fn read(name: &str, var: &Var, set: &mut Settings) -> Result<(), &'static str> {
    const NO_TEXT: &str = "its value is not one short text";
    let text = var.text.as_deref().map(str::trim);
    if text == Some(ENCRYPTED) {
        return Err(VAULT);
    }
    match name {
        "ansible_password" | "ansible_ssh_pass" | "ansible_ssh_password" => return Err(LOGIN_PASSWORD),
        "ansible_become_password" | "ansible_become_pass" | "ansible_sudo_pass" => return Err(SUDO_PASSWORD),
        "ansible_ssh_private_key_passphrase" | "ansible_private_key_passphrase" => return Err(PASSPHRASE),
        name if is_secret(name) => return Err(SECRET),
        _ if var.tagged => return Err(TAGGED),
        _ => {}
    }
    let is_known = Settings::NAMES.contains(&name);
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return if is_known { Err(NO_TEXT) } else { Err(UNUSED) };
    };
    if is_template(text) {
        return Err(if is_known { TEMPLATE } else { UNUSED });
    }
    let address =
        |text: &str| text.parse::<IpAddr>().map(|_| text.to_owned()).map_err(|_| "it is not an IP address");
    match name {
        "ansible_host" | "ansible_ssh_host" => set.address = Some(text.to_owned()),
        "ansible_port" | "ansible_ssh_port" => {
            let port = text.parse().ok().filter(|port| *port > 0);
            set.port = Some(port.ok_or("it is not a port")?).filter(|port| *port != 22);
        }
        "ansible_user" | "ansible_ssh_user" | "ansible_remote_user" => {
            set.user = Some(text.to_owned()).filter(|user| is_user(user));
            set.user.as_ref().ok_or("it is not a login name")?;
        }
        "ansible_ssh_private_key_file" | "ansible_private_key_file" => set.identities.push(text.to_owned()),
        "ansible_ssh_common_args" | "ansible_ssh_extra_args" | "ansible_ssh_args" => {
            let (route, _) = options(text);
            set.identities.extend(route.identities);
            set.bastions = Some(route.bastions).filter(|hops| !hops.is_empty()).or(set.bastions.take());
        }
        "ip" => set.ip = Some(address(text)?),
        "access_ip" => set.access_ip = Some(address(text)?),
        "ansible_connection" => {
            set.connection = Some(match text {
                "ssh" | "smart" | "paramiko" | "paramiko_ssh" => Connection::Ssh,
                "local" => Connection::Local,
                _ => Connection::Other,
            });
        }
        // What provision does in any case.
        "ansible_become" if matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "1") => {}
        "ansible_become_user" if text == "root" => {}
        "ansible_become_method" if text == "sudo" => {}
        "ansible_become" | "ansible_become_user" | "ansible_become_method" => {
            return Err("provision always becomes root, with sudo");
        }
        "ansible_python_interpreter" => return Err("provision needs no Python on hosts"),
        _ => return Err(UNUSED),
    }
    Ok(())
}

impl Settings {
    /// Variables whose values are used.
    const NAMES: [&str; 14] = [
        "ansible_host",
        "ansible_ssh_host",
        "ansible_port",
        "ansible_ssh_port",
        "ansible_user",
        "ansible_ssh_user",
        "ansible_remote_user",
        "ansible_ssh_private_key_file",
        "ansible_private_key_file",
        "ansible_ssh_common_args",
        "ansible_ssh_extra_args",
        "ansible_connection",
        "ip",
        "access_ip",
    ];
}

/// Returns what variables say; those that are left out say nothing.
pub(super) fn settings<'a>(vars: impl Iterator<Item = (&'a String, &'a Var)>) -> Settings {
    let mut set = Settings::default();
    for (name, var) in vars {
        let _ = read(name, var, &mut set);
    }
    set
}

/// Notes why a variable is left out, if it is.
pub(super) fn note(name: &str, var: &Var, found: &mut Found) {
    if let Err(why) = read(name, var, &mut Settings::default()) {
        return found.left_out(&var.place, name, why);
    }
    if matches!(name, "ansible_ssh_common_args" | "ansible_ssh_extra_args" | "ansible_ssh_args") {
        let (_, left_out) = options(var.text.as_deref().unwrap_or_default());
        for (option, why) in left_out {
            found.left_out(&var.place, format!("{name}: {option}"), why);
        }
    }
}
