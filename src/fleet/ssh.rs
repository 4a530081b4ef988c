//! This machine's ssh client with the settings of the inventory.

use super::error::Result;
use super::open::Fleet;
use crate::ssh::{AgentChoice, Endpoint};

impl Fleet {
    /// Returns the arguments of `ssh` for a host of the inventory. A key with a secret passphrase is asked
    /// for by ssh itself: secrets never reach a command line.
    pub fn ssh_arguments(&self, host: &str) -> Result<Vec<String>> {
        self.host(host)?;
        let mut words = vec!["-o".to_owned(), "StrictHostKeyChecking=yes".to_owned()];
        words.extend(["-o".to_owned(), format!("ConnectTimeout={}", self.ssh.login_deadline.as_secs())]);
        let given = &self.ssh.credentials.identities;
        for at in self.endpoints.iter().filter(|e| e.name == host) {
            words.extend(["-o".to_owned(), format!("UserKnownHostsFile={}", self.known_hosts(at).join(" "))]);
            words.extend(["-p".to_owned(), at.port.to_string()]);
            for key in given.iter().chain(&at.identities) {
                words.extend(["-i".to_owned(), key.display().to_string()]);
            }
            for certificate in &at.certificates {
                words.extend(["-o".to_owned(), format!("CertificateFile={}", certificate.display())]);
            }
            if at.identities_only || !given.is_empty() && !self.ssh.credentials.agent {
                words.extend(["-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
            }
            match &at.agent {
                AgentChoice::Environment => {}
                AgentChoice::Off => words.extend(["-o".to_owned(), "IdentityAgent=none".to_owned()]),
                AgentChoice::Socket(socket) => {
                    words.extend(["-o".to_owned(), format!("IdentityAgent={}", socket.display())]);
                }
            }
            if let Some(command) = &at.proxy_command {
                // Its tokens are expanded already.
                words.extend(["-o".to_owned(), format!("ProxyCommand={}", command.replace('%', "%%"))]);
            }
            if !at.bastions.is_empty() {
                words.extend(["-J".to_owned(), at.bastions.join(",")]);
            }
            if let Some(alias) = &at.host_key_alias {
                words.extend(["-o".to_owned(), format!("HostKeyAlias={alias}")]);
            }
            if let Some(sockets) = &self.ssh.sockets {
                let program = self.source.program()?;
                words.extend(["-o".to_owned(), super::lab::proxy_command(&program, &sockets.join(host))]);
            }
            // Nothing behind this is read as an option, whatever it is called.
            words.extend(["--".to_owned(), format!("{}@{}", at.user, at.address)]);
        }
        Ok(words)
    }

    fn known_hosts(&self, at: &Endpoint) -> Vec<String> {
        self.ssh
            .known_hosts
            .iter()
            .chain(&at.known_hosts)
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string())
            .map(|path| if path.contains(' ') { format!("\"{path}\"") } else { path })
            .collect()
    }
}
