//! Where and how a host is reached, and what of it comes from the user's own ssh configuration.

use super::config::{AgentChoice, Asked, LocalEnd, UserConfig};
use std::path::PathBuf;

/// Where and how a host is reached.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// The name used in messages.
    pub name: String,
    /// Address or DNS name.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// `[user@]host[:port]`, from here outwards.
    pub bastions: Vec<String>,
    /// It is a bastion itself.
    pub is_bastion: bool,
    /// The bastions are those of a ProxyJump: their users are what their own configuration says, not this login's.
    pub by_proxy_jump: bool,
    /// A shell command whose input and output are the connection (ProxyCommand).
    pub proxy_command: Option<String>,
    /// Private keys of the configuration, besides those of the pool.
    pub identities: Vec<PathBuf>,
    /// Certificates for keys, besides those next to them.
    pub certificates: Vec<PathBuf>,
    /// The agent; none if the pool's credentials have none.
    pub agent: AgentChoice,
    /// Of the agent's keys only those that `identities` name.
    pub identities_only: bool,
    /// No key is tried.
    pub no_keys: bool,
    /// The name under which known_hosts has it, if not by its address and port.
    pub host_key_alias: Option<String>,
    /// known_hosts files of the configuration, after those of the pool.
    pub known_hosts: Vec<PathBuf>,
    /// How TCP connections are made from here.
    pub local: LocalEnd,
    /// Options of the configuration that are not supported, as `NAME VALUE`.
    pub unsupported: Vec<String>,
    /// Why the configuration could not be read.
    pub problem: Option<String>,
}

impl Endpoint {
    /// Completes an endpoint with the configuration: what it says of the way there and of keys.
    pub fn complete(&mut self, config: UserConfig) {
        if self.bastions.is_empty() {
            self.by_proxy_jump = !config.jumps.is_empty();
            self.bastions = config.jumps;
            self.proxy_command = config.proxy_command;
        }
        self.identities = config.identities;
        self.certificates = config.certificates;
        self.agent = config.agent;
        self.identities_only = config.identities_only;
        self.no_keys = config.no_keys;
        self.host_key_alias = config.host_key_alias;
        self.known_hosts = config.known_hosts;
        self.local = config.local;
        self.problem = config.problem;
        self.unsupported = config.unsupported;
        let strict = config.accepts_unknown_keys.map(|value| format!("stricthostkeychecking {value}"));
        self.unsupported.extend(strict);
    }
}

/// A bastion as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
}

impl Hop {
    /// Reads `[user@]host[:port]` or `ssh://…`; an IPv6 address with a port is in brackets. `None` if it is neither.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("ssh://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, text),
        };
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':').or((!after.is_empty()).then_some("?")))
        } else {
            match rest.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (rest, None),
            }
        };
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|p| *p != 0)?),
            None => None,
        };
        if host.is_empty() || host.starts_with('-') || user.as_deref() == Some("") {
            return None;
        }
        Some(Self { user, host: host.to_owned(), port })
    }

    /// Returns what ssh is asked about it.
    pub(super) fn asked(&self) -> Asked {
        Asked { host: self.host.clone(), user: self.user.clone(), port: self.port, identities: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bastions_are_read_as_openssh_reads_them() {
        let hop = |user: Option<&str>, host: &str, port| {
            Some(Hop { user: user.map(str::to_owned), host: host.to_owned(), port })
        };
        assert_eq!(Hop::parse("jump"), hop(None, "jump", None));
        assert_eq!(Hop::parse("a@b.c:2222"), hop(Some("a"), "b.c", Some(2222)));
        assert_eq!(Hop::parse("a@dom@b"), hop(Some("a@dom"), "b", None));
        assert_eq!(Hop::parse("fd00::1"), hop(None, "fd00::1", None));
        assert_eq!(Hop::parse("[fd00::1]:22"), hop(None, "fd00::1", Some(22)));
        assert_eq!(Hop::parse("ssh://a@b:2222/"), hop(Some("a"), "b", Some(2222)));
        for wrong in ["", "a@", "@b", "b:ssh", "b:0", "b:70000", "[::1", "[::1]22", "-oProxyCommand=x"] {
            assert_eq!(Hop::parse(wrong), None, "{wrong}");
        }
    }
}
