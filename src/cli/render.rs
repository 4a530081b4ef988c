//! `render`: where a value comes from, and the exact programs that a host would run.

use super::site::Site;
use super::{Global, Where, exit, usage, watch};
use crate::executor::{enact_program, launch_program, observe_program};
use crate::inventory::explain;
use crate::plan::steps_of;
use crate::state::{HostName, Target};
use clap::Args;

/// Show where a value comes from, or the exact program that a host would run
#[derive(Args)]
#[command(after_help = "Examples:
  provision render -i site --explain pools.h100.disruption
  provision render -i site --host h-001              what observes it, and what apply would run there")]
pub struct Render {
    #[command(flatten)]
    place: Where,
    /// Show where the values below this path come from
    #[arg(long, value_name = "PATH", conflicts_with = "host")]
    explain: Option<String>,
    /// Show this host's programs
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl Render {
    /// Prints one or the other.
    pub async fn run(mut self, global: &Global) -> anyhow::Result<u8> {
        if let Some(path) = &self.explain {
            match explain(&self.place.inventory, path) {
                Ok(text) => print!("{text}"),
                Err(found) => {
                    eprint!("{found}");
                    return Ok(exit::FAILED);
                }
            }
            return Ok(exit::DONE);
        }
        let Some(host) = self.host.take() else {
            return Err(usage("say what is to be shown", "--explain PATH, or --host HOST"));
        };
        self.place.limit = Some(host.clone());
        let (events, shown) = watch(global, false);
        let site = Site::open(&self.place, &events).await?;
        drop(events);
        let target = site.hosts.get(&HostName::new(host.clone())).ok_or_else(|| {
            usage(format!("{host} takes no part"), "name one active host; provision facts lists them")
        })?;
        let observed = target.observe().await?;
        let (steps, _) = steps_of(&observed);
        println!(
            "# observes {host}: sent over standard input of one `sudo -n /bin/sh -s`, the second part after the facts\n"
        );
        println!("{}", observe_program(&observed.desired));
        if steps.is_empty() {
            println!("# {host} is in sync: apply would run nothing");
        } else {
            let program = enact_program(&steps, &observed.desired, &observed.facts);
            println!("# changes {host}: the program of its steps, were they one batch\n\n{program}");
            println!("# starts it, detached, and follows it\n\n{}", launch_program(&program));
        }
        drop(site.hosts);
        shown.end().await;
        super::lab::release(site.lab).await;
        Ok(exit::DONE)
    }
}
