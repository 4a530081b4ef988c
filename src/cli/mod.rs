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
mod context_file;
mod contexts;
mod diff;
mod docs;
mod drift;
mod endpoint;
mod errors;
mod exec;
mod exit;
mod facts;
mod hints;
mod history;
mod import;
mod init;
mod junit;
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
use std::path::PathBuf;
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
    Init(init::Init),
    Import(import::ImportCommand),
    Validate(validate::Validate),
    Schema(schema::Schema),
    Render(render::Render),
    Lock(lock::Lock),
    Bundle(bundle::Bundle),
    Trust(trust::Trust),
    Preflight(preflight::Preflight),
    Plan(plan::PlanCommand),
    Drift(drift::DriftCommand),
    Watch(drift::Watch),
    Show(show::Show),
    Apply(apply::Apply),
    Reset(reset::ResetCommand),
    Destroy(reset::Destroy),
    Backup(backup::BackupCommand),
    Restore(restore::RestoreCommand),
    Approve(approve::Approve),
    Attach(apply::Attach),
    Status(status::Status),
    Ssh(ssh::Ssh),
    Exec(exec::Exec),
    Tunnel(tunnel::Tunnel),
    Kubeconfig(kubeconfig::Kubeconfig),
    Ask(ask::Ask),
    Endpoint(endpoint::EndpointCommand),
    Key(key::Key),
    Support(support::Support),
    Facts(facts::Facts),
    Verify(verify::Verify),
    Diff(diff::Diff),
    Policy(policy::PolicyCommand),
    History(history::History),
    Lab(lab::Lab),
    Catalog(catalog::CatalogCommand),
    Contexts(contexts::Contexts),
    Completions(docs::Completions),
    Man(docs::Man),
}

/// Runs the command line and returns its exit code.
pub fn main() -> ExitCode {
    let command = Cli::command();
    hints::know(&command);
    let parsed = command.try_get_matches();
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (mut cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = if error.use_stderr() { exit::FAILED } else { exit::DONE };
            let printed = error.print().is_ok();
            return if printed { code } else { exit::FAILED }.into();
        }
    };
    hints::remember(&matches);
    terminal::report_panics();
    terminal::is_json(cli.global.output == Output::Json);
    if cli.global.output == Output::Github {
        terminal::begin_annotations();
    }
    crate::ssh::raise_file_limit();
    // The ring provider, once, before any TLS: aws-lc-rs is not in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let environment = std::env::var_os("PROVISION_LOG_FILE").filter(|path| !path.is_empty());
    let log_file = cli.global.log_file.clone().or_else(|| environment.map(PathBuf::from));
    if let Err(error) = logging::start(cli.global.verbose, log_file.as_deref(), &command_of(&matches)) {
        let path = log_file.unwrap_or_default();
        let path = path.display();
        print_error(&usage(
            format!("cannot write the log file {path}: {error}"),
            "Name another with --log-file",
        ));
        return terminal::end(exit::FAILED).into();
    }
    match context::choose(cli.global.context.as_deref(), &matches) {
        Ok(context) => cli.global.fill_in(context),
        Err(error) => {
            let error = error.into();
            print_error(&error);
            return terminal::end(errors::exit_code(&error)).into();
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the asynchronous runtime: {error}");
            return terminal::end(exit::FAILED).into();
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
    let code = terminal::end(code);
    logging::note(&format!("ended with exit code {code}"));
    code.into()
}

/// Returns the command that a command line names, such as `key create`.
fn command_of(matches: &clap::ArgMatches) -> String {
    let mut names = Vec::new();
    let mut level = matches.subcommand();
    while let Some((name, inner)) = level {
        names.push(name);
        level = inner.subcommand();
    }
    names.join(" ")
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
