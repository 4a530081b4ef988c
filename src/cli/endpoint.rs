//! `endpoint`: where and how clients reach the models of a tenant.

use super::args::{At, Global, Output, Where};
use super::exit;
use super::session::load;
use crate::fleet::{TenantEndpoint, endpoints};
use crate::report::{LAB, count};
use crate::template::quote;
use clap::Args;

/// Show where and how clients reach a tenant's models
///
/// Every worker opens the tenant's node port. Clients that speak OpenAI's chat completions use the base URL as it is. No API key is
/// checked: anyone who can reach the port can use the models, so restrict it with a firewall. Contacts no host.
#[derive(Args)]
#[command(after_help = "Examples:
  provision endpoint -i site.yaml                    all tenants
  provision endpoint -i site.yaml search             one, with examples for curl and Python
  provision endpoint -i site.yaml search --env       lines for a shell's eval

On a machine without a route to the workers: provision tunnel -i site.yaml --tenant search")]
pub(super) struct EndpointCommand {
    /// The tenant
    tenant: Option<String>,
    #[command(flatten)]
    at: At,
    /// Print export lines for OPENAI_BASE_URL and OPENAI_API_KEY
    #[arg(long, requires = "tenant", conflicts_with = "output")]
    env: bool,
}

/// What clients send that insist on a key, where none is checked.
pub(super) const KEY: &str = "none";

/// Returns the export lines for OpenAI clients. Where a key is needed, the shell's own is left as it is.
pub(super) fn exports(base_url: &str, needs_key: bool) -> String {
    let key = if needs_key { String::new() } else { format!("export OPENAI_API_KEY={KEY}\n") };
    format!("export OPENAI_BASE_URL={}\n{key}", quote(base_url))
}

impl EndpointCommand {
    /// Prints them.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        let place = Where { at: self.at, limit: None, lab: false };
        let loaded = load(&place.inventory(), global)?;
        let found = endpoints(&loaded.inventory, self.tenant.as_deref())?;
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&found)?);
            return Ok(exit::DONE);
        }
        if loaded.is_lab() && !global.quiet {
            eprintln!(
                "{LAB}\nThese addresses exist only inside the lab's network; use `provision tunnel --tenant NAME`"
            );
        }
        for (n, endpoint) in found.iter().enumerate() {
            let Some(base_url) = endpoint.base_urls.first() else { continue };
            if self.env {
                print!("{}", exports(base_url, endpoint.needs_key));
                if endpoint.needs_key && !global.quiet {
                    eprintln!("Set OPENAI_API_KEY to a key: {}", create(endpoint, &place));
                }
                continue;
            }
            if n > 0 {
                println!();
            }
            let others = endpoint.base_urls.len() - 1;
            let others = match others {
                0 => String::new(),
                n => format!("\n            or the same port of {}", count(n, "other worker")),
            };
            println!("{}", endpoint.tenant);
            println!("  base URL  {base_url}{others}");
            println!("  models    {}", endpoint.models.join(", "));
            match endpoint.needs_key {
                true => {
                    println!("  API key   required; make one with\n            {}", create(endpoint, &place))
                }
                false => println!("  API key   not checked; any value works"),
            }
            if self.tenant.is_some() {
                print!("{}", examples(endpoint, base_url));
            }
        }
        Ok(exit::DONE)
    }
}

/// Returns the command that makes a key.
fn create(endpoint: &TenantEndpoint, place: &Where) -> String {
    let inventory = quote(&place.inventory().display().to_string());
    format!("provision key create -i {inventory} {} --name NAME", endpoint.tenant)
}

/// Returns a request for curl and one for Python.
fn examples(endpoint: &TenantEndpoint, base_url: &str) -> String {
    let model = endpoint.models.first().map_or("MODEL", String::as_str);
    let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    let (header, key) = match endpoint.needs_key {
        true => (" -H \"Authorization: Bearer $OPENAI_API_KEY\"", String::new()),
        false => ("", format!(", api_key={KEY:?}")),
    };
    format!(
        "\ncurl:\n  curl {} -H 'Content-Type: application/json'{header} \\\n    -d {}\n\
         \nPython (pip install openai):\n  from openai import OpenAI\n  \
         client = OpenAI(base_url={base_url:?}{key})\n  \
         answer = client.chat.completions.create(model={model:?}, messages=[{{\"role\": \"user\", \"content\": \"Hello\"}}])\n  \
         print(answer.choices[0].message.content)\n\
         \nOther clients: OPENAI_BASE_URL and OPENAI_API_KEY (`--env`)\n\
         Not Codex: Kthena 1.0.0 does not route /v1/responses.\n",
        quote(&format!("{base_url}/chat/completions")),
        quote(&body.to_string()),
    )
}
