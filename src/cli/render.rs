//! `render`: show the origin of a value, or the programs that run on a host.

use super::args::{Global, Where};
use super::errors::usage;
use super::exit;
use super::session::{Session, source};
use crate::fleet::Purpose;
use clap::Args;

/// Show where a value comes from, or the programs that run on a host
#[derive(Args)]
#[command(after_help = "Examples:
  provision render -i site --explain pools.h100.disruption
  provision render -i site --host h-001              the observe program, and what apply would run")]
pub(super) struct Render {
    #[command(flatten)]
    place: Where,
    /// Show the origin of the values below this path
    #[arg(long, value_name = "PATH", conflicts_with = "host")]
    explain: Option<String>,
    /// Show the programs that run on this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl Render {
    /// Prints one or the other.
    pub(super) async fn run(mut self, global: &Global) -> anyhow::Result<u8> {
        if let Some(path) = &self.explain {
            print!("{}", source(&self.place.inventory(), global).explain(path)?);
            return Ok(exit::DONE);
        }
        let Some(host) = self.host.take() else {
            return Err(usage("specify what to show", "Add --explain PATH or --host HOST"));
        };
        self.place.limit = Some(host.clone());
        let session = Session::open(&self.place, global, Purpose::Change, false).await?;
        let programs = session.fleet.programs(&host).await?;
        println!(
            "# observes {host}: sent to the standard input of one `sudo -n /bin/sh -s`, the second part after the facts\n"
        );
        println!("{}", programs.observe);
        match programs.change {
            None => println!("# {host} is in sync: apply would run nothing"),
            Some((program, launch)) => {
                println!("# changes {host}: the program of its steps, shown as one batch\n\n{program}");
                println!("# starts it, detached, and follows it\n\n{launch}");
            }
        }
        session.end().await?;
        Ok(exit::DONE)
    }
}
