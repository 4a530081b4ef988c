//! The walls around what runs on simulated hosts, by name, and what the processes that put them up are told.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;

/// The first argument by which the executable knows that it is to set up the sandbox.
pub(super) const INIT: &str = "lab-init";
/// Where programs are found.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The lab's own executable in its folder, which hosts have as `/opt/lab/tool`.
pub(super) const TOOL: &str = "tool";

/// What separates a program on a simulated host from the machine.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// Root on a host is an unprivileged user of the machine, also when the lab runs as root.
    Id,
    /// A network of the lab's own.
    Network,
    /// Programs reach their own processes only, and all of them end with the first.
    Processes,
    /// A `/proc` of their own processes.
    Proc,
    /// The machine's root is let go.
    Root,
    /// What is the machine's is mounted read-only, in a first user namespace; the program is in a second one, and cannot
    /// change what the first one has mounted.
    Mounts,
    /// No capability but those over the host's own files and processes.
    Capabilities,
    /// System calls that a program does not need do not exist.
    Syscalls,
    /// No file but standard input, output and error is inherited.
    Descriptors,
    /// The terminal of whoever started the lab is not the programs'.
    Terminal,
    /// Programs, memory, files and time are bounded.
    Limits,
    /// No link of a host's is followed by the lab.
    Paths,
}

impl Wall {
    /// All walls, with what is given up without each.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Id, "root on a simulated host is root on this machine"),
        (Self::Network, "simulated hosts use this machine's network"),
        (Self::Processes, "simulated hosts can signal your processes, and leave some behind"),
        (Self::Proc, "simulated hosts see this machine's processes"),
        (Self::Root, "simulated hosts see this machine's files"),
        (Self::Mounts, "simulated hosts can change what is mounted of this machine"),
        (Self::Capabilities, "simulated hosts keep all capabilities in their namespaces"),
        (Self::Syscalls, "simulated hosts can make any system call"),
        (Self::Descriptors, "simulated hosts inherit open files"),
        (Self::Terminal, "simulated hosts can use your terminal"),
        (Self::Limits, "simulated hosts can use all memory, processes and disk space"),
        (Self::Paths, "links on simulated hosts are followed"),
    ];

    /// Returns what is given up without it.
    pub fn given_up(self) -> &'static str {
        Self::ALL.iter().find(|(wall, _)| *wall == self).map_or("", |(_, what)| what)
    }
}

impl std::fmt::Display for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl FromStr for Wall {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(wall, _)| wall.to_string() == name);
        found.map(|(wall, _)| *wall).ok_or_else(|| format!("there is no wall {name}"))
    }
}

/// What the processes around a program are told.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Setup {
    /// The process that must be the parent.
    pub parent: u32,
    /// The host's folder; empty once that is the working directory.
    pub dir: PathBuf,
    /// The user and group of the machine that simulated root is, if not the lab's own.
    pub outer: Option<u32>,
    /// The process that holds the lab's network.
    pub network: Option<u32>,
    /// Walls that are not put up.
    pub without: Vec<Wall>,
    /// The kind of the terminal that is standard input, if it is one.
    pub terminal: Option<String>,
}

impl Setup {
    /// Returns whether a wall is to be put up.
    #[cfg(target_os = "linux")]
    pub(super) fn has(&self, wall: Wall) -> bool {
        !self.without.contains(&wall)
    }
}

/// Returns the parent of a process.
#[cfg(target_os = "linux")]
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
