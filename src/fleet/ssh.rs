//! This machine's ssh client with the settings of the inventory.

use super::error::Result;
use super::open::Fleet;

impl Fleet {
    /// Returns the arguments of `ssh` for a host of the inventory. A key with a secret passphrase is asked
    /// for by ssh itself: secrets never reach a command line.
    pub fn ssh_arguments(&self, host: &str) -> Result<Vec<String>> {
        self.host(host)?;
        let mut words = vec![
            "-o".to_owned(),
            format!("UserKnownHostsFile={}", self.known_hosts().join(" ")),
            "-o".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
        ];
        let given = &self.ssh.credentials.identities;
        for at in self.endpoints.iter().filter(|e| e.name == host) {
            words.extend(["-p".to_owned(), at.port.to_string()]);
            for key in given.iter().chain(&at.identities) {
                words.extend(["-i".to_owned(), key.display().to_string()]);
            }
            if !given.is_empty() && !self.ssh.credentials.agent {
                words.extend(["-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
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

    fn known_hosts(&self) -> Vec<String> {
        self.ssh
            .known_hosts
            .iter()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string())
            .map(|path| if path.contains(' ') { format!("\"{path}\"") } else { path })
            .collect()
    }
}
