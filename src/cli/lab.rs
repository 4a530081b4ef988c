//! `lab`: the simulated cluster in one command, or by its parts.

use super::args::{At, Global, Where};
use super::errors::coded;
use super::session::{Session, load, load_from, source};
use super::{apply, context, exit, plan};
use crate::fleet::{ControlPlanePrograms, Fleet, Purpose, Source, Wall, dial, serve_lab};
use crate::template::quote;
use clap::{Args, Subcommand};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A simulated model answers at once; nothing is waited for longer where none came up.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Simulate the inventory's hosts and cluster on this machine
#[derive(Args)]
#[command(after_help = "Examples:
  provision lab run inventories/lab
  provision lab up inventories/lab")]
pub(super) struct Lab {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Subcommand)]
enum LabCommand {
    /// Start the simulated cluster, plan, apply, query the models, stop
    Run(LabRun),
    /// Start the simulated cluster
    Up(LabUp),
    /// Stop the simulated cluster
    #[command(after_help = "Example:
  provision lab down inventories/lab")]
    Down(LabPlace),
    /// Show the simulated hosts and their SSH connection counts
    #[command(after_help = "Example:
  provision lab status inventories/lab")]
    Status(LabPlace),
    /// Open a shell on a simulated host with this machine's ssh client
    Ssh(LabSsh),
    /// Inject a fault into a running simulated cluster
    Fault(LabFault),
    /// The lab's own process: its specification comes on standard input; its standard output is the lock of its folder
    #[command(hide = true)]
    Serve,
    /// What ssh reaches a simulated host through
    #[command(hide = true)]
    Dial {
        /// The socket of the host
        socket: PathBuf,
    },
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab run inventories/lab
  provision -c prod lab run
  provision lab run inventories/h100-rack --fault h-003=fail-package:chrony --keep
  provision lab run inventories/lab --control-plane programs/     see docs/how-to/real-control-plane.md")]
struct LabRun {
    #[command(flatten)]
    at: LabAt,
    /// Inject a fault, HOST=KIND[:ARGUMENT][@STEP]; kinds are listed in docs/reference/faults.md
    #[arg(long)]
    fault: Vec<String>,
    /// Keep the simulated cluster running afterwards
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    real: RealPrograms,
    /// Run even where this machine does not allow all walls around simulated hosts; only for inventories that you trust
    #[arg(long)]
    without_walls: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab up inventories/lab     then: provision plan -i inventories/lab
  provision lab up inventories/h100-rack     then: provision plan -i inventories/h100-rack --lab")]
struct LabUp {
    #[command(flatten)]
    at: LabAt,
    /// Inject a fault, HOST=KIND[:ARGUMENT][@STEP]; kinds are listed in docs/reference/faults.md
    #[arg(long)]
    fault: Vec<String>,
    #[command(flatten)]
    real: RealPrograms,
    /// Run even where this machine does not allow all walls around simulated hosts; only for inventories that you trust
    #[arg(long)]
    without_walls: bool,
}

#[derive(Args)]
struct RealPrograms {
    /// Run the real etcd and kube-apiserver of this folder in place of the API stand-in; also its kube-controller-manager
    /// and kube-scheduler if it has both, and then kthena-router and envoy if it has both
    #[arg(long, value_name = "FOLDER")]
    control_plane: Option<PathBuf>,
}

impl RealPrograms {
    fn of(&self) -> anyhow::Result<Option<ControlPlanePrograms>> {
        Ok(self.control_plane.as_deref().map(ControlPlanePrograms::of).transpose()?)
    }
}

/// Shows which programs are real.
fn shown_real(real: Option<&ControlPlanePrograms>) {
    if let Some(real) = real {
        eprintln!("  real: {}", real.names.join(", "));
    }
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab fault inventories/lab cp-1=lost
  provision lab fault inventories/lab b-1=hung-tool:nvidia-smi")]
struct LabFault {
    /// The inventory; -c is not accepted here
    inventory: PathBuf,
    /// The fault: HOST=KIND[:ARGUMENT]
    fault: String,
}

/// Which inventory is simulated.
#[derive(Args)]
struct LabAt {
    /// The inventory [default: the context's, PROVISION_INVENTORY, or the current folder]
    inventory: Option<PathBuf>,
}

impl LabAt {
    fn at(&self) -> At {
        At { inventory: self.inventory.clone() }
    }

    /// Returns this argument as on a command line of the lab, or the context's.
    fn said(&self) -> String {
        match (&self.inventory, context::name()) {
            (None, Some(name)) => format!("-c {name}"),
            _ => quote(&self.at().path().display().to_string()),
        }
    }
}

#[derive(Args)]
struct LabPlace {
    #[command(flatten)]
    at: LabAt,
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab ssh inventories/lab h-1
  provision lab ssh inventories/lab h-1 nvidia-smi")]
struct LabSsh {
    /// The inventory; -c is not accepted here
    inventory: PathBuf,
    /// The host
    host: String,
    /// A command to run instead of a shell
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

impl Lab {
    /// Runs one of its parts.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self.command {
            LabCommand::Serve => {
                serve_lab().await?;
                Ok(exit::DONE)
            }
            LabCommand::Dial { socket } => {
                dial(&socket).await?;
                Ok(exit::DONE)
            }
            LabCommand::Up(command) => {
                let loaded = load(&command.at.at().path(), global)?;
                let real = command.real.of()?;
                let lab = loaded.lab_up(&command.fault, real.as_ref(), !command.without_walls).await?;
                let hosts = lab.hosts();
                given_up(lab.without());
                lab.leave()?;
                let flag = if loaded.is_lab() { "" } else { " --lab" };
                if global.quiet {
                    return Ok(exit::DONE);
                }
                eprintln!("LAB: {hosts} simulated hosts are up");
                shown_real(real.as_ref());
                for verb in ["plan", "apply"] {
                    eprintln!("  provision {verb} {}{flag}", command.at.at().said());
                }
                eprintln!("  provision lab down {}", command.at.said());
                Ok(exit::DONE)
            }
            LabCommand::Down(command) => {
                let was = load(&command.at.at().path(), global)?.lab_down()?;
                eprintln!("LAB: {}", if was { "stopped" } else { "not running" });
                Ok(exit::DONE)
            }
            LabCommand::Status(command) => {
                let Some(lab) = load(&command.at.at().path(), global)?.lab_status()? else {
                    eprintln!("LAB: not running");
                    return Ok(exit::FAILED);
                };
                println!("LAB {} (pid {})", lab.status.name, lab.pid);
                given_up(&lab.status.without);
                if !lab.status.real.is_empty() {
                    screen!("real: {}\n", lab.status.real.join(", "));
                }
                for (name, host) in &lab.status.hosts {
                    let c = host.counters;
                    screen!(
                        "{name:<12} {}:{:<6} {} connections, {} channels, {} execs\n",
                        host.address,
                        host.port,
                        c.connections,
                        c.channels,
                        c.execs
                    );
                }
                Ok(exit::DONE)
            }
            LabCommand::Ssh(command) => {
                let words = load(&command.inventory, global)?.lab_ssh(&command.host)?;
                let terminal = command.command.is_empty() && std::io::stdin().is_terminal();
                let status = std::process::Command::new("ssh")
                    .arg(if terminal { "-t" } else { "-T" })
                    .args(words)
                    .args(command.command)
                    .status()
                    .map_err(|error| {
                        let message = format!("cannot run ssh: {error}");
                        coded(
                            "E-NO-SSH",
                            message,
                            "Install the OpenSSH client, or use `provision exec --limit HOST -- COMMAND`",
                        )
                    })?;
                Ok(status.code().unwrap_or(1) as u8)
            }
            LabCommand::Fault(command) => {
                load(&command.inventory, global)?.lab_fault(&command.fault)?;
                eprintln!("LAB: fault injected: {}", command.fault);
                Ok(exit::DONE)
            }
            LabCommand::Run(command) => command.run(global).await,
        }
    }
}

/// Shows which walls are not there.
fn given_up(without: &[Wall]) {
    for wall in without {
        eprintln!("LAB: without the wall `{wall}`: {}", wall.given_up());
    }
}

impl LabRun {
    async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let source = source(&self.at.at().path(), global);
        // One that stays is the inventory's, so that other commands find it.
        let source = if self.keep { source } else { source.with_own_lab() };
        let loaded = load_from(&source)?;
        eprintln!(
            "LAB: {} simulated hosts on this machine; hardware, packages, k0s and engines are simulated",
            loaded.inventory.active().count()
        );
        let real = self.real.of()?;
        let lab = loaded.lab_up(&self.fault, real.as_ref(), !self.without_walls).await?;
        given_up(lab.without());
        shown_real(real.as_ref());
        let real = real.map(|real| real.names).unwrap_or_default();
        if !self.keep {
            let result = self.run_in_lab(&source, global, &real).await;
            lab.end()?;
            return result;
        }
        lab.leave()?;
        let result = self.run_in_lab(&source, global, &real).await;
        eprintln!(
            "the simulated cluster is still running; stop it with: provision lab down {}",
            self.at.said()
        );
        result
    }

    /// Plans, applies, and queries the models.
    async fn run_in_lab(&self, source: &Source, global: &Global, real: &[&str]) -> anyhow::Result<u8> {
        let place = Where { at: self.at.at(), limit: None, lab: true };
        let session = Session::of(source, &place.selection(&[]), global, Purpose::Change, true).await?;
        let observation = session.fleet.observe(&session.events).await;
        let took = observation.took;
        let plan = session.fleet.plan(observation);
        plan::print(&plan, global, false, Some(took), String::new());
        let report = apply::carry_out(&session.fleet, &plan, session.events.clone(), None).await?;
        let (fleet, shown) = session.settle().await;
        apply::print_end(&fleet, &report, &shown, (&place, false), !self.keep, global);
        // The run has taken over what a signal does; from here on it ends the command again.
        let mut term = signal(SignalKind::terminate())?;
        let code = tokio::select! {
            code = question(&fleet, report.exit_code()) => code,
            ended = tokio::signal::ctrl_c() => ended.map(|()| exit::INTERRUPTED)?,
            _ = term.recv() => exit::INTERRUPTED,
        };
        if code == exit::INTERRUPTED {
            return Ok(code);
        }
        let is_real = |name: &str| real.contains(&name);
        let mut simulated =
            vec!["hardware", "package manager", "systemd", "sudo", "reboot", "k0s", "engines"];
        simulated.extend(Some("Kubernetes API").filter(|_| !is_real("kube-apiserver")));
        simulated.extend(Some("router and its proxy").filter(|_| !is_real("kthena-router")));
        let real: Vec<_> =
            ["SSH", "host keys", "shell programs", "files"].iter().chain(real).copied().collect();
        eprintln!("\nsimulated: {}\nreal: {}", simulated.join(", "), real.join(", "));
        let (at, verb) = (self.at.said(), "plan");
        let host = fleet.inventory.active().last().map_or("HOST", |h| h.name.as_str());
        eprintln!("Next steps:\n  provision lab up {at}");
        eprintln!("  provision {verb} {} --lab", self.at.at().said());
        eprintln!("  provision lab run {at} --fault {host}=fail-package:chrony");
        Ok(code)
    }
}

/// Queries every model through the gateway of each of its tenants. Returns the exit code, given the run's.
async fn question(fleet: &Fleet, mut code: u8) -> u8 {
    if code == exit::INTERRUPTED {
        return code;
    }
    let question = "Who are you?";
    for result in fleet.ask_models(question, ANSWER_DEADLINE).await {
        let chat = &result.chat;
        match result.answer {
            Ok(answer) => screen!("{} asks {}: {question}\n  {answer}\n", chat.tenant, chat.model),
            Err(failure) => {
                screen!("{} asks {}: no result: {}\n", chat.tenant, chat.model, failure.message);
                code = code.max(exit::FAILED);
            }
        }
    }
    code
}
