//! `key`: a tenant's API keys.

use super::args::{At, Global, Output, duration};
use super::exit;
use super::session::source;
use crate::fleet::{KeyState, TenantKeys};
use crate::report::{Columns, Last, columns};
use crate::state::plain_line;
use clap::{Args, Subcommand};
use std::io::{IsTerminal, Read};
use std::time::Duration;

/// Longer input is no key, in bytes.
const MOST_KEY: u64 = 64 << 10;

/// Make, list and revoke API keys of a tenant
///
/// A key is a token, signed on this machine by the private key that `tenants.TENANT.keys.signing` names. It is shown once and stored
/// nowhere. The file keys/TENANT.yaml beside the inventory lists the keys without their text; commit it. The next
/// `provision apply` brings its public key and the ids of revoked keys to the cluster. Once the public key is there, new keys work at once.
#[derive(Args)]
#[command(after_help = "Examples:
  openssl genpkey -algorithm ed25519 -out ads.pem                     the private key; keep it where your secrets are
  provision key create -i site.yaml ads --name ci --expires 30d       prints the key
  provision key list -i site.yaml ads
  provision key revoke -i site.yaml ads 3fa85f6457174562
  provision apply -i site.yaml")]
pub(super) struct Key {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a key and print it; it cannot be shown again
    #[command(after_help = "Examples:
  provision key create -i site.yaml ads --name ci
  provision key create -i site.yaml ads --name ci --expires 30d --output json")]
    Create {
        #[command(flatten)]
        of: Of,
        /// Who uses it; shown in lists
        #[arg(long)]
        name: String,
        /// How long it works, up to 3650d
        #[arg(long, value_name = "TIME", default_value = "90d", value_parser = duration)]
        expires: Duration,
    },
    /// List the keys of a tenant
    #[command(after_help = "Example:
  provision key list -i site.yaml ads")]
    List {
        #[command(flatten)]
        of: Of,
    },
    /// Mark a key as revoked; the next apply makes it invalid
    #[command(after_help = "Examples:
  provision key revoke -i site.yaml ads 3fa85f6457174562
  cat leaked-key | provision key revoke -i site.yaml ads -
  provision apply -i site.yaml")]
    Revoke {
        #[command(flatten)]
        of: Of,
        /// The key's id as listed; `-` reads the key itself from standard input
        id: String,
    },
}

/// Which tenant.
#[derive(Args)]
struct Of {
    #[command(flatten)]
    at: At,
    /// The tenant
    tenant: String,
}

impl Of {
    fn open(&self, global: &Global) -> anyhow::Result<TenantKeys> {
        Ok(TenantKeys::open(&source(&self.at.path(), global), &self.tenant)?)
    }

    /// Returns the command that brings a change into the cluster.
    fn apply(&self) -> String {
        ["provision apply", &self.at.said()].join(" ")
    }
}

impl Key {
    /// Carries it out.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let json = global.output == Output::Json;
        match self.what {
            What::Create { of, name, expires } => {
                let mut keys = of.open(global)?;
                let made = keys.create(&name, expires).await?;
                if json {
                    let result = serde_json::json!({"tenant": of.tenant, "id": made.id, "name": made.issued.name,
                        "expires": made.issued.expires, "key": made.key.expose(), "file": made.path});
                    println!("{result}");
                    return Ok(exit::DONE);
                }
                println!("{}", made.key.expose());
                if !global.quiet {
                    if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
                        eprintln!("");
                    }
                    let (issued, path) = (&made.issued, made.path.display());
                    let name = plain_line(&issued.name);
                    eprintln!(
                        "Key {} of tenant {} ({name}), valid until {}",
                        made.id, of.tenant, issued.expires
                    );
                    eprintln!("Store it now; it cannot be shown again. Its id is in {path}; commit the file");
                    if made.is_first {
                        eprintln!(
                            "A new list was started. Keys that the same private key signed before are not in it and cannot be revoked: \
                             use a new private key if there are any"
                        );
                        eprintln!("Gateways accept keys of this list after the next apply");
                        eprintln!("next: {}", of.apply());
                    }
                }
            }
            What::List { of } => {
                let all = of.open(global)?.list(jiff::Timestamp::now());
                if json {
                    println!("{}", serde_json::json!({"tenant": of.tenant, "keys": all}));
                } else if all.is_empty() {
                    screen!("Tenant {} has no keys\n", of.tenant);
                } else {
                    print!("{}", table(&all));
                }
            }
            What::Revoke { of, id } => {
                let what = if id == "-" { from_input()? } else { id };
                let mut keys = of.open(global)?;
                let (id, revoked) = keys.revoke(&what)?;
                let path = keys.path().display();
                if json {
                    let result = serde_json::json!({"tenant": of.tenant, "id": id, "changed": revoked.is_some(),
                        "file": keys.path()});
                    println!("{result}");
                    return Ok(exit::DONE);
                }
                match revoked {
                    None => screen!("Key {id} of tenant {} is already revoked in {path}\n", of.tenant),
                    Some(active) => {
                        screen!("Key {id} of tenant {} is now revoked in {path}\n", of.tenant);
                        if active {
                            eprintln!("It stays valid until the next apply");
                        }
                    }
                }
                if !global.quiet {
                    eprintln!("next: {}", of.apply());
                }
            }
        }
        Ok(exit::DONE)
    }
}

/// Reads a key from standard input: as an argument, others on this machine could see it.
fn from_input() -> anyhow::Result<String> {
    let mut key = String::new();
    std::io::stdin().take(MOST_KEY).read_to_string(&mut key)?;
    Ok(key.trim().to_owned())
}

fn table(keys: &[KeyState]) -> String {
    let header = ["KEY", "NAME", "STATE", "CREATED", "EXPIRES"].map(str::to_owned).to_vec();
    let row = |key: &KeyState| {
        let issued = &key.issued;
        // The day is enough to read; JSON has the second.
        let [created, expires] = [&issued.created, &issued.expires].map(|t| t.split('T').next().unwrap_or(t));
        [&key.id, &issued.name, key.state, created, expires]
            .map(|cell| plain_line(cell).into_owned())
            .to_vec()
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(keys.iter().map(row)).collect();
    Columns { indent: 0, most: &[16, 40, 7, 10], below: 3, last: Last::Wrap }
        .rows(&rows, columns(std::io::stdout()))
        .concat()
}
