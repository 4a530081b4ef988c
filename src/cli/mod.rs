//! The command line: one file per command, each with its arguments, its calls and its exit code. No logic lives here.
//! stdout is data; everything else goes to stderr.

#[macro_use]
mod terminal;

mod apply;
mod approve;
mod args;
mod ask;
mod backup;
mod bundle;
mod catalog;
mod context;
mod contexts;
mod diff;
mod docs;
mod drift;
mod endpoint;
mod errors;
mod exec;
mod exit;
mod facts;
mod history;
mod import;
mod init;
mod key;
mod kubeconfig;
mod lab;
mod lock;
mod logging;
mod plan;
mod policy;
mod preflight;
mod prompt;
mod render;
mod reset;
mod restore;
mod schema;
mod session;
mod show;
mod ssh;
mod status;
mod support;
mod trust;
mod tunnel;
mod validate;
mod verify;

use args::{Global, Output};
use errors::{Silent, print_error, usage};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

/// Turns racked GPU and Trainium hosts with an OS and SSH into a served model.
///
/// One inventory describes hosts, cluster, router, models and tenants. `plan` shows what would change; `apply` makes
/// exactly those changes. Both observe the hosts each time and rely on no local state.
#[derive(Parser)]
#[command(name = "provision", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  provision lab run inventories/lab            the full workflow on simulated hosts
  provision init > site.yaml                   a commented starter inventory
  provision validate -i site.yaml              all errors at once, without contacting hosts
  provision trust -i site.yaml                 scan and record host keys
  provision plan -i site.yaml                  what would change (exit 2 if anything would)
  provision apply -i site.yaml                 the same, then asks and applies it

Exit codes: 0 in sync or done, 1 failed or wrong input, 2 changes pending, 3 refused,
4 another run is in progress, 130 interrupted.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Returns the command reference as Markdown: the `--help` text of every command.
pub fn reference() -> String {
    docs::reference(Cli::command())
}

/// Parses a command line without running it; the error is what a user would see.
pub fn parses<'a>(line: impl Iterator<Item = &'a str>) -> Result<(), String> {
    match Cli::try_parse_from(line) {
        // `--help` and `--version` end parsing early, with what they print.
        Err(error) if error.use_stderr() => Err(error.to_string()),
        _ => Ok(()),
    }
}

#[derive(Subcommand)]
enum Command {
    /// Write a commented starter inventory
    Init(init::Init),
    /// Convert another tool's inventory to one to start from
    Import(import::ImportCommand),
    /// Check an inventory without contacting hosts
    Validate(validate::Validate),
    /// Print the JSON Schema of the inventory
    Schema(schema::Schema),
    /// Show where a value comes from, or the programs that run on a host
    Render(render::Render),
    /// Pin versions, URLs and sha256 sums in provision.lock
    Lock(lock::Lock),
    /// Collect all downloads in one folder, for sites without internet access
    Bundle(bundle::Bundle),
    /// Scan host keys and record them in known_hosts next to the inventory
    Trust(trust::Trust),
    /// Run read-only preflight checks
    Preflight(preflight::Preflight),
    /// Show pending changes; exit 2 if there are any
    Plan(plan::PlanCommand),
    /// Compare the fleet with its inventory, for machines; exit 2 if anything differs
    Drift(drift::DriftCommand),
    /// Look for drift again and again, and tell of it
    Watch(drift::Watch),
    /// Show a saved plan without contacting hosts
    Show(show::Show),
    /// Carry out the plan after confirmation
    Apply(apply::Apply),
    /// Take hosts out of the cluster and remove everything that provision made on them
    Reset(reset::ResetCommand),
    /// Reset all hosts of the inventory and destroy the cluster
    Destroy(reset::Destroy),
    /// Back up the control plane to a file on this machine
    Backup(backup::BackupCommand),
    /// Restore the cluster from a backup
    Restore(restore::RestoreCommand),
    /// Approve a saved plan with your SSH key
    Approve(approve::Approve),
    /// Follow batches that an earlier run left running on the hosts
    Attach(apply::Attach),
    /// Show the state of controllers, nodes, accelerators, certificates and models
    Status(status::Status),
    /// Open a shell or run a command on a host with this machine's ssh client
    Ssh(ssh::Ssh),
    /// Run a command on hosts, one line of output per host
    Exec(exec::Exec),
    /// Forward a local port to the Kubernetes API or a tenant's gateway over SSH
    Tunnel(tunnel::Tunnel),
    /// Print a kubeconfig, or merge it into a file
    Kubeconfig(kubeconfig::Kubeconfig),
    /// Ask a model, through its tenant's gateway
    Ask(ask::Ask),
    /// Show where and how clients reach a tenant's models
    Endpoint(endpoint::EndpointCommand),
    /// Make, list and revoke API keys of a tenant
    Key(key::Key),
    /// Collect logs and diagnostics of a host in an archive, with secrets redacted
    Support(support::Support),
    /// Show host facts
    Facts(facts::Facts),
    /// Test accelerator health: quick, standard or burn-in
    Verify(verify::Verify),
    /// Compare two inventories without contacting hosts; exit 2 if they differ
    Diff(diff::Diff),
    /// Check and test policies
    Policy(policy::PolicyCommand),
    /// List past runs, show one, or verify their records
    History(history::History),
    /// Simulate the inventory's hosts and cluster on this machine
    Lab(lab::Lab),
    /// Show the catalog: accelerators, driver branches, SDK releases, k0s versions, engine images
    Catalog(catalog::CatalogCommand),
    /// List the contexts that `-c` may name
    Contexts(contexts::Contexts),
    /// Print shell completions
    Completions(docs::Completions),
    /// Write man pages to a folder, or print the command reference
    Man(docs::Man),
}

/// Runs the command line and returns its exit code.
pub fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches();
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (mut cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = if error.use_stderr() { exit::FAILED } else { exit::DONE };
            let printed = error.print().is_ok();
            return if printed { code } else { exit::FAILED }.into();
        }
    };
    terminal::report_panics();
    terminal::is_json(cli.global.output == Output::Json);
    crate::ssh::raise_file_limit();
    // The ring provider, once, before any TLS: aws-lc-rs is not in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let log_file = cli.global.log_file.as_deref();
    if let Err(error) = logging::start(cli.global.verbose, log_file) {
        let path = log_file.unwrap_or(Path::new("")).display();
        print_error(&usage(
            format!("cannot write the log file {path}: {error}"),
            "Name another with --log-file",
        ));
        return exit::FAILED.into();
    }
    match context::choose(cli.global.context.as_deref(), &matches) {
        Ok(context) => cli.global.fill_in(context),
        Err(error) => {
            print_error(&error);
            return errors::exit_code(&error).into();
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the asynchronous runtime: {error}");
            return exit::FAILED.into();
        }
    };
    // A panic has been reported; other tasks ended with it.
    let ran = std::panic::AssertUnwindSafe(|| runtime.block_on(run(cli)));
    let result = std::panic::catch_unwind(ran).unwrap_or_else(|_| Err(Silent.into()));
    // Reader threads on stdin must not hold up the end.
    runtime.shutdown_background();
    let code = result.unwrap_or_else(|error| {
        print_error(&error);
        errors::exit_code(&error)
    });
    terminal::end(code).into()
}

async fn run(cli: Cli) -> anyhow::Result<u8> {
    let global = &cli.global;
    if global.output == Output::Markdown && !matches!(cli.command, Command::Diff(_)) {
        return Err(usage(
            "--output markdown is supported by diff only",
            "Use --output text or --output json",
        ));
    }
    match cli.command {
        Command::Init(command) => command.run(global),
        Command::Import(command) => command.run(global),
        Command::Validate(command) => command.run(global),
        Command::Schema(command) => command.run(),
        Command::Render(command) => command.run(global).await,
        Command::Lock(command) => command.run(global).await,
        Command::Bundle(command) => command.run(global).await,
        Command::Trust(command) => command.run(global).await,
        Command::Preflight(command) => command.run(global).await,
        Command::Plan(command) => command.run(global).await,
        Command::Drift(command) => command.run(global).await,
        Command::Watch(command) => command.run(global).await,
        Command::Show(command) => command.run(global),
        Command::Apply(command) => command.run(global).await,
        Command::Key(command) => command.run(global).await,
        Command::Approve(command) => command.run(global),
        Command::Reset(command) => command.run(global).await,
        Command::Destroy(command) => command.run(global).await,
        Command::Backup(command) => command.run(global).await,
        Command::Restore(command) => command.run(global).await,
        Command::Attach(command) => command.run(global).await,
        Command::Status(command) => command.run(global).await,
        Command::Ssh(command) => command.run(global).await,
        Command::Exec(command) => command.run(global).await,
        Command::Tunnel(command) => command.run(global).await,
        Command::Ask(command) => command.run(global).await,
        Command::Endpoint(command) => command.run(global),
        Command::Kubeconfig(command) => command.run(global).await,
        Command::Support(command) => command.run(global).await,
        Command::Facts(command) => command.run(global).await,
        Command::Verify(command) => command.run(global).await,
        Command::Diff(command) => command.run(global),
        Command::Policy(command) => command.run(global),
        Command::History(command) => command.run(global).await,
        Command::Lab(command) => command.run(global).await,
        Command::Catalog(command) => command.run(global),
        Command::Contexts(command) => command.run(global),
        Command::Completions(command) => command.run(&mut Cli::command()),
        Command::Man(command) => command.run(Cli::command()),
    }
}
