//! `ssh` from one simulated host to another: a real SSH client over the lab's own network, with the options that are used.

use super::common::{Ended, Failed, fail};
use russh::ChannelMsg;
use russh::client::{self, Handler};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// What a command line says.
#[derive(Default, Debug, PartialEq, Eq)]
struct Call {
    identity: String,
    user: String,
    host: String,
    port: String,
    options: BTreeMap<String, String>,
    command: String,
}

impl Call {
    fn parse(arguments: &[&str]) -> Option<Self> {
        let mut call = Self { port: "22".to_owned(), ..Self::default() };
        let mut words = arguments.iter();
        let host = loop {
            match *words.next()? {
                "--" => break *words.next()?,
                "-T" => {}
                "-F" => drop(words.next()?),
                "-i" => call.identity = (*words.next()?).to_owned(),
                "-l" => call.user = (*words.next()?).to_owned(),
                "-p" => call.port = (*words.next()?).to_owned(),
                "-o" => {
                    let (name, value) = words.next()?.split_once('=')?;
                    call.options.insert(name.to_owned(), value.to_owned());
                }
                option if option.starts_with('-') => return None,
                host => break host,
            }
        };
        call.host = host.to_owned();
        call.command = words.copied().collect::<Vec<_>>().join(" ");
        Some(call)
    }

    fn option(&self, name: &str) -> &str {
        self.options.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// Takes the server only by its known key.
struct Known {
    lines: String,
    name: String,
}

impl Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let key = presented.public_key().to_openssh().unwrap_or_default();
        let key: Vec<&str> = key.split(' ').take(2).collect();
        let wanted = format!("{} {}", self.name, key.join(" "));
        Ok(self.lines.lines().any(|line| line.trim() == wanted))
    }
}

/// `ssh`.
pub(super) fn ssh(arguments: &[&str]) -> Ended {
    let Some(call) = Call::parse(arguments) else {
        return fail(255, "LAB: ssh: this option is not simulated");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed(255, e.to_string()))?;
    match runtime.block_on(run(&call)) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Failed(status, String::new())),
        Err(why) => fail(255, why),
    }
}

async fn run(call: &Call) -> Result<u8, String> {
    let Call { host, port, user, identity, command, .. } = call;
    let refused = |e: std::io::Error| format!("ssh: connect to host {host} port {port}: {e}");
    let mut stream = UnixStream::connect(crate::lab::net::SSH).await.map_err(refused)?;
    stream.write_all(format!("{host} {port}\n").as_bytes()).await.map_err(refused)?;
    let lines = std::fs::read_to_string(call.option("UserKnownHostsFile")).unwrap_or_default();
    let alias = call.option("HostKeyAlias");
    let name = if alias.is_empty() { host } else { alias }.to_owned();
    let config = Arc::new(client::Config::default());
    let mut handle = match client::connect_stream(config, stream, Known { lines, name }).await {
        Ok(handle) => handle,
        Err(russh::Error::UnknownKey) => return Err("Host key verification failed.".to_owned()),
        Err(error) => return Err(format!("ssh: connect to host {host} port {port}: {error}")),
    };
    let key = std::fs::read_to_string(identity).map_err(|e| format!("Identity file {identity}: {e}"))?;
    let key = PrivateKey::from_openssh(key).map_err(|e| format!("Load key \"{identity}\": {e}"))?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    let lost = |e: russh::Error| format!("Connection to {host} closed: {e}");
    if !handle.authenticate_publickey(user, key).await.map_err(lost)?.success() {
        return Err(format!("{user}@{host}: Permission denied (publickey)."));
    }
    let mut channel = handle.channel_open_session().await.map_err(lost)?;
    channel.exec(true, command.as_str()).await.map_err(lost)?;
    let mut status = 255;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => std::io::stdout().write_all(&data).map_err(|e| e.to_string())?,
            ChannelMsg::ExtendedData { data, .. } => {
                std::io::stderr().write_all(&data).map_err(|e| e.to_string())?;
            }
            ChannelMsg::ExitStatus { exit_status } => status = u8::try_from(exit_status).unwrap_or(255),
            _ => {}
        }
    }
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::Call;

    #[test]
    fn the_options_that_are_used_are_read() {
        let words = [
            "-F",
            "none",
            "-T",
            "-i",
            "/k",
            "-o",
            "HostKeyAlias=source",
            "-p",
            "2222",
            "-l",
            "u",
            "--",
            "h",
            "a 1",
        ];
        let call = Call::parse(&words).expect("read");
        assert_eq!((call.host.as_str(), call.port.as_str(), call.command.as_str()), ("h", "2222", "a 1"));
        assert_eq!(
            (call.user.as_str(), call.identity.as_str(), call.option("HostKeyAlias")),
            ("u", "/k", "source")
        );
        assert_eq!(Call::parse(&["-A", "h"]), None);
    }
}
