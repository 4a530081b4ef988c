//! The command line: one file per command, each with its arguments, its calls and its exit code. No logic lives here.
//! stdout is data; everything else goes to stderr.

mod apply;
mod catalog;
mod diff;
mod docs;
mod errors;
mod exec;
mod facts;
mod health;
mod history;
mod init;
mod lab;
mod lock;
mod plan;
mod preflight;
mod reach;
mod render;
mod schema;
mod site;
mod ssh;
mod status;
mod support;
mod trust;
mod tunnel;
mod validate;
mod verify;

use errors::{Silent, coded, print_error, usage};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit codes, one meaning each (`docs/reference/exit-codes.md`).
pub mod exit {
    /// In sync, or done.
    pub const DONE: u8 = 0;
    /// Failed, hosts unobserved, or wrong input or usage.
    pub const FAILED: u8 = 1;
    /// Changes pending (`plan`, `diff`).
    pub const PENDING: u8 = 2;
    /// Refused by policy: a stale plan, a hazard beyond the approved ones.
    pub const REFUSED: u8 = 3;
}

/// Takes racked GPU and Trainium hosts with nothing but an OS and SSH to a model answering requests.
///
/// One inventory describes hosts, cluster, router, models and tenants. `plan` shows what would change, `apply` changes
/// exactly that, and both observe the hosts afresh: nothing on this machine is the truth.
#[derive(Parser)]
#[command(name = "provision", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  provision lab run inventories/lab            the whole story on simulated hosts, on this machine
  provision init > site.yaml                   a commented inventory to start from
  provision validate -i site.yaml              every mistake at once, no host contacted
  provision trust -i site.yaml                 scan and record host keys
  provision plan -i site.yaml                  what would change (exit 2 if anything)
  provision apply -i site.yaml                 the same, then asks, then does it

Exit codes: 0 in sync or done, 1 failed or wrong input, 2 changes pending, 3 refused, 4 no host could be locked,
130 interrupted.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Returns the reference of all commands, as Markdown: what `--help` says of each.
pub fn reference() -> String {
    docs::reference(Cli::command())
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// How results are printed on stdout
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Say nothing but results and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show every step
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum Output {
    /// For people.
    Text,
    /// JSON; for `apply`, one line per event.
    Json,
    /// Markdown, for a pull request (`diff` only).
    Markdown,
}

/// Which inventory, and which part of it.
#[derive(Args, Clone, Debug)]
pub struct Where {
    /// The inventory: a file, or a folder whose files merge
    #[arg(long, short, env = "PROVISION_INVENTORY", hide_env_values = true, default_value = ".")]
    pub inventory: PathBuf,
    /// Only these hosts: names, pools, patterns (`h-*`), ranges (`h-[001-010]`), and `!` to leave out; comma-separated
    #[arg(long, value_name = "HOSTS")]
    pub limit: Option<String>,
    /// Use a simulated twin of the inventory on this machine instead of its hosts
    #[arg(long)]
    pub lab: bool,
}

impl Where {
    /// Returns these flags as they are said on a command line.
    pub fn said(&self) -> String {
        let mut text = format!("-i {}", self.inventory.display());
        if let Some(limit) = &self.limit {
            text += &format!(" --limit '{limit}'");
        }
        if self.lab {
            text += " --lab";
        }
        text
    }
}

#[derive(Subcommand)]
enum Command {
    /// Write a commented inventory to start from
    Init(init::Init),
    /// Check an inventory; no host is contacted
    Validate(validate::Validate),
    /// Print the JSON Schema of inventories
    Schema(schema::Schema),
    /// Show where a value comes from, or the exact program that a host would run
    Render(render::Render),
    /// Resolve versions into provision.lock: exact version, URL, sha256
    Lock(lock::Lock),
    /// Scan host keys, show fingerprints, and write the known_hosts file beside the inventory
    Trust(trust::Trust),
    /// Show everything that speaks against hosts, with nothing changed
    Preflight(preflight::Preflight),
    /// Show what would change; exit 2 if anything would
    Plan(plan::PlanCommand),
    /// Carry out what plan shows, after asking
    Apply(apply::Apply),
    /// Follow what an earlier run left running on the hosts until it ends
    Attach(apply::Attach),
    /// Show the cluster as it is: controllers, nodes, accelerators, certificates, and what each tenant serves
    Status(status::Status),
    /// Open a shell on a host, or run a command there, through this machine's ssh
    Ssh(ssh::Ssh),
    /// Run a command on the hosts of a pool, a line a host
    Exec(exec::Exec),
    /// Lend kubectl a local port to the Kubernetes API, through SSH, until Ctrl-C
    Tunnel(tunnel::Tunnel),
    /// Collect what a host says into one archive, without secrets
    Support(support::Support),
    /// Show what hosts say of themselves
    Facts(facts::Facts),
    /// Look at the health of accelerators: quick, standard or burn-in
    Verify(verify::Verify),
    /// Compare two inventories, with no host touched; exit 2 if they differ
    Diff(diff::Diff),
    /// List earlier runs, or show one
    History(history::History),
    /// The lab: a twin of the fleet on this machine, for trying things out and for CI
    Lab(lab::Lab),
    /// Show the catalog: accelerators, driver branches, SDK releases, k0s lines, engine images
    Catalog(catalog::CatalogCommand),
    /// Print shell completions
    Completions(docs::Completions),
    /// Write man pages into a folder, or the reference of all commands to stdout
    Man(docs::Man),
}

/// Runs the command line and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::FAILED } else { exit::DONE };
            let _ = error.print();
            return code.into();
        }
    };
    // The ring provider, once, before any TLS: aws-lc-rs is not in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("PROVISION_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the asynchronous runtime: {error}");
            return exit::FAILED.into();
        }
    };
    let result = runtime.block_on(run(cli));
    // Reader threads on stdin must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            print_error(&error);
            exit::FAILED.into()
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<u8> {
    let global = &cli.global;
    if global.output == Output::Markdown && !matches!(cli.command, Command::Diff(_)) {
        return Err(usage("--output markdown is for diff alone", "--output text or --output json"));
    }
    match cli.command {
        Command::Init(command) => command.run(global),
        Command::Validate(command) => command.run(global),
        Command::Schema(command) => command.run(),
        Command::Render(command) => command.run(global).await,
        Command::Lock(command) => command.run(global).await,
        Command::Trust(command) => command.run(global).await,
        Command::Preflight(command) => command.run(global).await,
        Command::Plan(command) => command.run(global).await,
        Command::Apply(command) => command.run(global).await,
        Command::Attach(command) => command.run(global).await,
        Command::Status(command) => command.run(global).await,
        Command::Ssh(command) => command.run(global).await,
        Command::Exec(command) => command.run(global).await,
        Command::Tunnel(command) => command.run(global).await,
        Command::Support(command) => command.run(global).await,
        Command::Facts(command) => command.run(global).await,
        Command::Verify(command) => command.run(global).await,
        Command::Diff(command) => command.run(global),
        Command::History(command) => command.run(global),
        Command::Lab(command) => command.run(global).await,
        Command::Catalog(command) => command.run(global),
        Command::Completions(command) => command.run(&mut Cli::command()),
        Command::Man(command) => command.run(Cli::command()),
    }
}

/// What shows events while a command runs.
pub struct Showing {
    task: tokio::task::JoinSet<crate::report::Shown>,
    stop: tokio::sync::watch::Sender<()>,
}

impl Showing {
    /// Waits until everything emitted so far is shown and recorded, and returns what that was.
    pub async fn end(mut self) -> crate::report::Shown {
        // Targets may keep a sender: what they emit from here on has nobody to show it to.
        let _ = self.stop.send(());
        self.task.join_next().await.and_then(Result::ok).unwrap_or_default()
    }
}

/// Returns a sink of events and what shows them; a command that is not a run shows only what cannot wait. A run is
/// recorded too, once it starts.
pub fn watch(global: &Global, run: bool) -> (crate::event::Events, Showing) {
    use crate::report::{Mode, show};
    let (events, receiver) = crate::event::Events::channel();
    let mode = match site::mode(global) {
        _ if !run && !global.verbose => Mode::Quiet,
        mode => mode,
    };
    let mut recorder = run.then(|| crate::run::Recorder::new(site::runs_dir()));
    let tap = move |event: &crate::event::Event| {
        if let Some(recorder) = &mut recorder {
            recorder.take(event);
        }
    };
    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut task = tokio::task::JoinSet::new();
    task.spawn(show(receiver, stopped, mode, tap));
    (events, Showing { task, stop })
}
